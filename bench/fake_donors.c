/* Donors that are plain memory in this process. */
#include "bench/fake_donors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int start(struct fake_donors *d, struct engine_io *io, bool write)
{
	if (d->queued == sizeof(d->queue) / sizeof(d->queue[0]))
		return -EAGAIN;
	d->write[d->queued] = write;
	d->queue[d->queued++] = io;
	return 0;
}

static int io_read(void *ctx, struct engine_io *io)
{
	return start(ctx, io, false);
}

static int io_write(void *ctx, struct engine_io *io)
{
	return start(ctx, io, true);
}

static void io_kick(void *ctx)
{
	(void)ctx;
}

static void want_regions(void *ctx, unsigned count, bool ephemeral)
{
	((struct fake_donors *)ctx)->wanted = count;
}

static void region_released(void *ctx, const struct engine_region_desc *r)
{
	struct fake_donors *d = ctx;

	free(d->region[r->region_id]);
	d->region[r->region_id] = NULL;
	d->released++;
}

static void donor_bad_data(void *ctx, unsigned donor)
{
	(void)ctx;
	fprintf(stderr, "donor %u: bad data\n", donor);
	abort();
}

const struct engine_ops fake_donors_ops = {
	.io_read = io_read,
	.io_write = io_write,
	.io_kick = io_kick,
	.want_regions = want_regions,
	.region_released = region_released,
	.donor_bad_data = donor_bad_data,
};

static void grant(struct fake_donors *d)
{
	unsigned held = 0, id = 0;

	for (unsigned i = 0; i < d->max_regions; i++)
		held += d->region[i] != NULL;
	for (; d->wanted > 0 && held < d->max_regions; d->wanted--, held++) {
		while (d->region[id])
			id++;
		struct engine_region_desc r = {
			.region_id = id,
			.epoch = ++d->regions,
			.len_bytes = d->region_bytes,
			.donor = (uint16_t)(d->regions % FAKE_DONORS),
			.domain = d->regions % FAKE_DONORS + 1,
		};

		snprintf(r.donor_name, sizeof(r.donor_name), "donor%u", r.donor);
		d->region[id] = malloc(d->region_bytes);
		if (!d->region[id] || engine_region_add(d->engine, &r) < 0)
			abort();
	}
	d->wanted = 0;
}

void fake_donors_run(struct fake_donors *d)
{
	while (d->queued > 0) {
		struct engine_io *io = d->queue[--d->queued];
		uint8_t *at = d->region[io->region->region_id] + io->offset;

		if (d->write[d->queued])
			memcpy(at, io->buf, io->len);
		else
			memcpy(io->buf, at, io->len);
		io->done(io, 0);
	}
	if (d->wanted)
		grant(d);
}

void fake_donors_free(struct fake_donors *d)
{
	for (unsigned i = 0; i < sizeof(d->region) / sizeof(d->region[0]); i++)
		free(d->region[i]);
}
