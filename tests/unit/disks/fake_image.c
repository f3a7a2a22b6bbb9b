/* An image in memory that ends its ios when the test wants, in any order, well or not. */
#include "tests/unit/disks/fake_image.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disks/rig.h"

static void apply(struct fake_image *f, struct image_io *io)
{
	uint8_t *at = f->bytes + io->offset;

	if (io->op == IMAGE_ZERO)
		memset(at, 0, io->bytes);
	for (unsigned i = 0; i < io->iovs; at += io->iov[i++].iov_len)
		if (io->op == IMAGE_READ)
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		else
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
}

static unsigned fake_poll(struct image_source *s)
{
	struct fake_lane *fl = (struct fake_lane *)s;
	struct fake_image *f = fl->image;
	struct image_io **at = &fl->queue;
	unsigned n = 0;

	if (f->hold || !fl->queue)
		return 0;
	if (f->rnd && rig_random(f->rnd) % 4)
		return 0;
	while (f->rnd && (*at)->next && rig_random(f->rnd) % 2)
		at = &(*at)->next;
	struct image_io *io = *at;
	if (f->hold_sync && io->op == IMAGE_SYNC)
		return 0;
	*at = io->next;
	int status = f->status[io->op];
	if (!status)
		apply(f, io);
	io->done(io, status);
	return n + 1;
}

static void fake_submit(struct image *i, struct image_lane *l, struct image_io *io)
{
	struct fake_image *f = (struct fake_image *)i;
	struct fake_lane *fl = &f->lane[image_lane_number(l)];
	uint64_t sum = 0;

	if (fl->lane != l) {
		*fl = (struct fake_lane){.source.poll = fake_poll, .image = f, .lane = l};
		image_lane_source_add(l, &fl->source);
	}
	assert(io->offset + io->bytes <= i->size_bytes);
	for (unsigned n = 0; n < io->iovs; n++)
		sum += io->iov[n].iov_len;
	assert(io->op == IMAGE_SYNC || io->op == IMAGE_ZERO || sum == io->bytes);
	f->started[io->op]++;
	io->next = fl->queue;
	fl->queue = io;
}

static int fake_identify(const struct image *i, struct image_identity *out)
{
	*out = (struct image_identity){.size_bytes = i->size_bytes};
	return 0;
}

static void fake_close(struct image *i)
{
}

static void fake_detach(struct image *i, struct image_lane *l)
{
	struct fake_lane *fl = &((struct fake_image *)i)->lane[image_lane_number(l)];

	if (fl->lane)
		image_lane_source_remove(l, &fl->source);
	fl->lane = NULL;
}

static const struct image_ops fake_ops = {.submit = fake_submit,
	.identify = fake_identify,
	.detach = fake_detach,
	.close = fake_close};

struct fake_image *fake_image_new(uint64_t bytes)
{
	struct fake_image *f = calloc(1, sizeof(*f));

	f->head =
		(struct image){.ops = &fake_ops, .size_bytes = bytes, .one_lane = -1, .notes = ""};
	f->bytes = malloc(bytes);
	for (uint64_t i = 0; i < bytes / 512; i++)
		memset(f->bytes + i * 512, (int)(i % 251 + 1), 512);
	return f;
}

void fake_image_delete(struct fake_image *f)
{
	free(f->bytes);
	free(f);
}

void fake_image_kill(struct fake_image *f, uint64_t *rnd)
{
	for (unsigned i = 0; i < FAKE_MAX_LANES; i++) {
		for (struct image_io *io = f->lane[i].queue; io; io = io->next)
			if (rnd && io->op != IMAGE_READ && rig_random(rnd) % 2)
				apply(f, io);
		f->lane[i].queue = NULL;
	}
}

unsigned fake_image_waiting(const struct fake_image *f)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FAKE_MAX_LANES; i++)
		for (struct image_io *io = f->lane[i].queue; io; io = io->next)
			n++;
	return n;
}
