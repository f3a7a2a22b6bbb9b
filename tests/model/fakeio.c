/* Donors and a disk as byte arrays, with I/O that is delayed, reordered and made to fail by a seed.
 */
#include "tests/model/fakeio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t region_bytes(const struct fake *f)
{
	return (uint64_t)f->cfg.segment_bytes * f->cfg.region_segments;
}

static uint8_t *region_data(struct fake *f, unsigned donor, unsigned region)
{
	return f->shared->data + (donor * f->cfg.regions + region) * region_bytes(f);
}

static uint64_t region_id(unsigned donor, unsigned region)
{
	return 1000 + donor * FAKE_REGIONS + region;
}

int fake_init(struct fake *f, const struct fake_config *cfg, struct rng *rng, uint64_t *now_ns)
{
	size_t data;

	memset(f, 0, sizeof(*f));
	f->cfg = *cfg;
	f->rng = rng;
	f->now_ns = now_ns;
	data = cfg->donors * cfg->regions * region_bytes(f);
	f->shared_bytes =
		sizeof(*f->shared) + data + (size_t)cfg->disk_segments * cfg->segment_bytes;
	f->shared = mmap(
		NULL, f->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->shared == MAP_FAILED)
		return -errno;
	f->disk = f->shared->data + data;
	for (unsigned d = 0; d < cfg->donors; d++)
		f->up[d] = true;
	return 0;
}

void fake_fini(struct fake *f)
{
	munmap(f->shared, f->shared_bytes);
}

static void broken(struct fake *f, const char *what)
{
	if (!f->error[0])
		snprintf(f->error, sizeof(f->error), "the engine broke its I/O contract: %s", what);
}

static void check_io(
	struct fake *f, const struct engine_io *io, const struct fake_transfer *t, bool write)
{
	const uint8_t *buf = io->buf, *base = f->base;
	uint64_t limit =
		t->disk ? (uint64_t)f->cfg.disk_segments * f->cfg.segment_bytes : region_bytes(f);

	if (!io->len || io->len > limit || t->offset > limit - io->len)
		broken(f, "a transfer out of bounds");
	if (io->memory) {
		base = f->guest;
		if (io->memory != FAKE_GUEST || write || t->disk || buf < base ||
			buf + io->len > base + f->guest_bytes)
			broken(f, "a transfer to a guest's memory that cannot be one");
	} else if (buf < base || buf + io->len > base + f->base_bytes) {
		broken(f, "a buffer outside engine_memory()");
	}
	if (!io->memory && (uintptr_t)buf % (t->disk ? 4096 : 64))
		broken(f, "a buffer that is not aligned");
	if (t->disk && (t->offset % 4096 || io->len % 4096))
		broken(f, "a disk transfer that is not aligned");
	if (write && (t->offset % f->cfg.segment_bytes || io->len > f->cfg.segment_bytes))
		broken(f, "a write that does not lie in one slot");
	if (t->disk)
		return;
	const struct fake_region *r = &f->shared->region[t->donor][t->region];
	if (!r->leased || r->epoch != t->epoch)
		broken(f, "a transfer to a region that is not leased");
	else if (write && r->revoking)
		broken(f, "a write to a region that is being revoked");
}

static int start(struct fake *f, struct engine_io *io, bool write)
{
	struct fake_transfer t = {.io = io, .write = write, .offset = io->offset};

	if (io->region) {
		uint64_t n = io->region->region_id - 1000;

		t.donor = (unsigned)(n / FAKE_REGIONS);
		t.region = (unsigned)(n % FAKE_REGIONS);
		t.epoch = io->region->epoch;
		if (n >= FAKE_DONORS * FAKE_REGIONS || t.donor != io->region->donor) {
			broken(f, "a region that does not exist");
			return -EINVAL;
		}
	} else {
		t.disk = true;
	}
	check_io(f, io, &t, write);
	if (!t.disk && !f->up[t.donor])
		return -ENOTCONN;
	if (f->queued == FAKE_QUEUE || rng_ppm(f->rng, f->cfg.refuse_ppm)) {
		f->refusals++;
		return -EAGAIN;
	}
	if (io->memory && rng_ppm(f->rng, f->cfg.refuse_direct_ppm))
		return -EOPNOTSUPP;
	bool slow = rng_ppm(f->rng, io->memory ? 10 * f->cfg.slow_ppm : f->cfg.slow_ppm);

	t.due_ns = *f->now_ns + rng_below(f->rng, slow ? f->cfg.slow_ns : f->cfg.delay_ns);
	f->queue[f->queued++] = t;
	return 0;
}

static int fake_read(void *ctx, struct engine_io *io)
{
	return start(ctx, io, false);
}

static int fake_write(void *ctx, struct engine_io *io)
{
	return start(ctx, io, true);
}

static void fake_abandon(void *ctx, struct engine_io *io)
{
	struct fake *f = ctx;
	unsigned i = 0;

	while (i < f->queued && f->queue[i].io != io)
		i++;
	if (i == f->queued || !io->memory)
		broken(f,
			"a transfer is abandoned that is not under way, or that nobody waits for");
	else
		f->queue[i].due_ns = *f->now_ns;
	if (i < f->queued)
		f->queue[i].abandoned = true;
	f->abandons++;
}

bool fake_writes_to(const struct fake *f, const void *page)
{
	for (unsigned i = 0; i < f->queued; i++)
		if (f->queue[i].io->buf == page)
			return true;
	return false;
}

static void fake_kick(void *ctx)
{
}

static void fake_want(void *ctx, unsigned count, bool ephemeral)
{
	((struct fake *)ctx)->wanted = count;
}

static void fake_released(void *ctx, const struct engine_region_desc *desc)
{
	struct fake *f = ctx;
	uint64_t n = desc->region_id - 1000;
	unsigned donor = (unsigned)(n / FAKE_REGIONS), region = (unsigned)(n % FAKE_REGIONS);
	struct fake_region *r;

	if (n >= FAKE_DONORS * FAKE_REGIONS) {
		broken(f, "released a region that does not exist");
		return;
	}
	r = &f->shared->region[donor][region];
	if (!r->leased || r->epoch != desc->epoch)
		broken(f, "released a region that is not leased");
	r->leased = false;
	/* Whoever reads it from now on gets another's bytes. */
	memset(region_data(f, donor, region), 0xdb, region_bytes(f));
}

static void fake_bad(void *ctx, unsigned donor)
{
	((struct fake *)ctx)->bad_data++;
}

const struct engine_ops fake_ops = {
	.io_read = fake_read,
	.io_write = fake_write,
	.io_abandon = fake_abandon,
	.io_kick = fake_kick,
	.want_regions = fake_want,
	.region_released = fake_released,
	.donor_bad_data = fake_bad,
};

/* Moves len bytes; a transfer to a lease that is over gets the error that a donor gives. */
static int move(struct fake *f, const struct fake_transfer *t, uint32_t len)
{
	uint8_t *at = t->disk ? f->disk : region_data(f, t->donor, t->region);

	if (!t->disk) {
		const struct fake_region *r = &f->shared->region[t->donor][t->region];

		if (!f->up[t->donor])
			return -ECONNRESET;
		if (!r->leased || r->epoch != t->epoch)
			return -EREMOTEIO;
	}
	if (t->write)
		memcpy(at + t->offset, t->io->buf, len);
	else
		memcpy(t->io->buf, at + t->offset, len);
	return 0;
}

static void complete(struct fake *f, const struct fake_transfer *t)
{
	struct engine_io *io = t->io;
	int status;

	if (t->abandoned) {
		move(f, t, (uint32_t)rng_below(f->rng, io->len));
		io->done(io, -ECANCELED);
		return;
	}
	if (rng_ppm(f->rng, f->cfg.fail_ppm)) {
		f->failures++;
		move(f, t, (uint32_t)rng_below(f->rng, io->len));
		io->done(io, t->disk ? -EIO : -ECONNRESET);
		return;
	}
	status = move(f, t, io->len);
	if (!status && !t->write && rng_ppm(f->rng, f->cfg.flip_ppm)) {
		uint64_t bit = rng_below(f->rng, (uint64_t)io->len * 8);

		f->flips++;
		f->on_flip(f->ctx);
		((uint8_t *)io->buf)[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	/* The guest writes there, too: that is nobody's fault. */
	if (!status && io->memory && rng_ppm(f->rng, f->cfg.scribble_ppm)) {
		f->scribbles++;
		((uint8_t *)io->buf)[rng_below(f->rng, io->len)] ^= 0x55;
	}
	io->done(io, status);
}

unsigned fake_poll(struct fake *f)
{
	unsigned done = 0;

	for (;;) {
		unsigned first = f->queued;

		for (unsigned i = 0; i < f->queued; i++)
			if (f->queue[i].due_ns <= *f->now_ns &&
				(first == f->queued || f->queue[i].due_ns < f->queue[first].due_ns))
				first = i;
		if (first == f->queued)
			return done;
		struct fake_transfer t = f->queue[first];

		f->queue[first] = f->queue[--f->queued];
		complete(f, &t);
		done++;
	}
}

void fake_crash(struct fake *f)
{
	for (unsigned i = 0; i < f->queued; i++) {
		const struct fake_transfer *t = &f->queue[i];

		if (t->write && rng_below(f->rng, 3))
			move(f, t, (uint32_t)rng_below(f->rng, t->io->len + 1));
	}
	f->queued = 0;
	f->wanted = 0;
}

void fake_bind(struct fake *f, struct engine *e)
{
	bool held[FAKE_DONORS][FAKE_REGIONS] = {{false}};
	const struct engine_region_desc *d;

	engine_memory(e, &f->base, &f->base_bytes);
	for (unsigned i = 0; i < f->cfg.max_regions; i++) {
		uint64_t n;
		unsigned donor, region;
		struct fake_region *r;

		d = engine_region(e, i);
		if (!d)
			continue;
		n = d->region_id - 1000;
		donor = (unsigned)(n / FAKE_REGIONS);
		region = (unsigned)(n % FAKE_REGIONS);
		r = &f->shared->region[donor][region];
		if (r->leased && r->epoch == d->epoch) {
			held[donor][region] = true;
			engine_region_bind(e, i, donor, donor + 100, d->rkey, 0);
			if (r->revoking)
				engine_region_revoke(e, i);
		} else {
			engine_region_lost(e, i);
		}
	}
	for (unsigned i = 0; i < f->cfg.donors; i++) {
		for (unsigned k = 0; k < f->cfg.regions; k++)
			f->shared->region[i][k].leased &= held[i][k];
		engine_donor_state(e, i, f->up[i], false);
	}
}

bool fake_region_lease(struct fake *f, struct engine *e)
{
	unsigned n = f->cfg.donors * f->cfg.regions;
	unsigned at = (unsigned)rng_below(f->rng, n);

	for (unsigned i = 0; i < n; i++, at = (at + 1) % n) {
		unsigned donor = at / f->cfg.regions, region = at % f->cfg.regions;
		struct fake_region *r = &f->shared->region[donor][region];
		struct engine_region_desc d = {.region_id = region_id(donor, region),
			.epoch = ++f->shared->next_epoch,
			.rkey = at,
			.len_bytes = region_bytes(f),
			.donor = (uint16_t)donor,
			.domain = donor + 100};

		if (r->leased || !f->up[donor])
			continue;
		snprintf(d.donor_name, sizeof(d.donor_name), "donor%u", donor);
		/* What was there stays: stale records of ours must not be taken for new ones. */
		r->epoch = d.epoch;
		r->revoking = false;
		r->leased = true;
		if (engine_region_add(e, &d) >= 0)
			return true;
		r->leased = false;
		return false;
	}
	return false;
}

static int region_index(struct fake *f, struct engine *e, unsigned donor, unsigned region)
{
	char name[ENGINE_NAME_BYTES];

	snprintf(name, sizeof(name), "donor%u", donor);
	return engine_region_find(
		e, name, region_id(donor, region), f->shared->region[donor][region].epoch);
}

bool fake_region_revoke(struct fake *f, struct engine *e)
{
	unsigned n = f->cfg.donors * f->cfg.regions;
	unsigned at = (unsigned)rng_below(f->rng, n);

	for (unsigned i = 0; i < n; i++, at = (at + 1) % n) {
		unsigned donor = at / f->cfg.regions, region = at % f->cfg.regions;
		struct fake_region *r = &f->shared->region[donor][region];
		int row;

		if (!r->leased || r->revoking)
			continue;
		row = region_index(f, e, donor, region);
		if (row < 0) {
			broken(f, "does not know a region that it was given");
			return false;
		}
		r->revoking = true;
		engine_region_revoke(e, (unsigned)row);
		return true;
	}
	return false;
}

void fake_donor_lose(struct fake *f, struct engine *e, unsigned donor)
{
	for (unsigned region = 0; region < f->cfg.regions; region++) {
		struct fake_region *r = &f->shared->region[donor][region];
		int row;

		if (!r->leased)
			continue;
		row = region_index(f, e, donor, region);
		r->leased = false;
		memset(region_data(f, donor, region), 0xee, region_bytes(f));
		if (row < 0)
			broken(f, "does not know a region that it was given");
		else
			engine_region_lost(e, (unsigned)row);
	}
}

void fake_donor_set(struct fake *f, struct engine *e, unsigned donor, bool up)
{
	f->up[donor] = up;
	engine_donor_state(e, donor, up, false);
}

unsigned fake_leased(const struct fake *f)
{
	unsigned n = 0;

	for (unsigned i = 0; i < f->cfg.donors; i++)
		for (unsigned k = 0; k < f->cfg.regions; k++)
			n += f->shared->region[i][k].leased;
	return n;
}
