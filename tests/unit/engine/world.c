/* An engine with a hand-turned clock and donors of plain memory. */
#include "tests/unit/engine/world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REGION_BYTES (16ull * WORLD_SEGMENT)

static uint64_t world_now(void *ctx)
{
	return ((struct world *)ctx)->now_ns;
}

static uint64_t world_random(void *ctx)
{
	struct world *w = ctx;

	w->rnd ^= w->rnd << 13;
	w->rnd ^= w->rnd >> 7;
	w->rnd ^= w->rnd << 17;
	return w->rnd;
}

static int start(struct world *w, struct engine_io *io, bool write)
{
	if (w->queued == sizeof(w->queue) / sizeof(w->queue[0]))
		return -EAGAIN;
	if (!write && io->memory && w->refuse_direct)
		return -EOPNOTSUPP;
	w->asked[write]++;
	if (io->region && w->mood[io->region->donor] == DONOR_UNREACHABLE)
		return -ENOTCONN;
	w->write[w->queued] = write;
	w->queue[w->queued++] = io;
	return 0;
}

/* Where it goes is settled now: the region may be another one's when it ends. */
static int io_start(struct world *w, struct engine_io *io, bool write)
{
	io->priv[0] = (uintptr_t)(io->region ? w->memory[io->region->region_id] + io->offset
					     : w->disk + io->offset);
	io->priv[1] = io->region ? io->region->donor : WORLD_DONORS;
	return start(w, io, write);
}

static int io_read(void *ctx, struct engine_io *io)
{
	return io_start(ctx, io, false);
}

static int io_write(void *ctx, struct engine_io *io)
{
	return io_start(ctx, io, true);
}

static void io_abandon(void *ctx, struct engine_io *io)
{
	struct world *w = ctx;

	w->abandoned[w->abandons++ % 8] = io;
}

static void io_kick(void *ctx)
{
	(void)ctx;
}

static void want_regions(void *ctx, unsigned count, bool ephemeral)
{
	struct world *w = ctx;

	w->wanted = count;
	w->wanted_ephemeral = count > 0 && ephemeral;
}

static void region_spare(void *ctx, const struct engine_region_desc *r, bool spare)
{
	((struct world *)ctx)->spare[r->region_id] = spare;
}

static void region_released(void *ctx, const struct engine_region_desc *r)
{
	struct world *w = ctx;

	memset(w->memory[r->region_id], 0xee, REGION_BYTES);
	w->spare[r->region_id] = false;
	w->released++;
}

static void donor_bad_data(void *ctx, unsigned donor)
{
	(void)donor;
	((struct world *)ctx)->bad_data++;
}

static const struct engine_ops ops = {
	.io_read = io_read,
	.io_write = io_write,
	.io_abandon = io_abandon,
	.io_kick = io_kick,
	.want_regions = want_regions,
	.region_spare = region_spare,
	.region_released = region_released,
	.donor_bad_data = donor_bad_data,
};

static void world_open(struct world *w)
{
	struct env env = {world_now, world_random, w};
	char err[256];

	if (engine_open(w->path, &w->cfg, &env, &ops, w, &w->e, err, sizeof(err)) != 0) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	for (unsigned a = 0; a < 4; a++) {
		struct engine_account acc = {.weight = 1, .quota = &w->quota[a]};

		snprintf(acc.name, sizeof(acc.name), "client%u", a);
		if (engine_account_set(w->e, a, &acc) != 0)
			abort();
	}
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		engine_donor_state(w->e, d, true, false);
}

struct world *world_new_with(void (*change)(struct engine_config *cfg))
{
	struct world *w = calloc(1, sizeof(*w));

	w->rnd = 88172645463325252ull;
	w->now_ns = 1000000000;
	w->give_regions = true;
	for (unsigned a = 0; a < 4; a++)
		atomic_store(&w->quota[a].limit_pages, UINT64_MAX);
	engine_config_default(&w->cfg, 0, 4096);
	w->cfg.segment_bytes = WORLD_SEGMENT;
	w->cfg.local_segments = 16;
	w->cfg.max_segments = 512;
	w->cfg.max_regions = WORLD_REGIONS;
	if (change)
		change(&w->cfg);
	w->disk = calloc(w->cfg.disk_segments + 1, WORLD_SEGMENT);
	snprintf(w->path, sizeof(w->path), "/dev/shm/fallow-engine-test-%d-%u", (int)getpid(),
		w->cfg.lane);
	unlink(w->path);
	world_open(w);
	return w;
}

struct world *world_new(void)
{
	return world_new_with(NULL);
}

void world_delete(struct world *w)
{
	w->queued = 0;
	engine_close(w->e);
	unlink(w->path);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		free(w->memory[r]);
	free(w->disk);
	free(w);
}

void world_crash(struct world *w)
{
	w->queued = 0;
	engine_abandon(w->e);
	for (unsigned a = 0; a < 4; a++)
		atomic_store(&w->quota[a].used_pages, 0);
	world_open(w);
}

unsigned world_grant(struct world *w, unsigned donor)
{
	struct engine_region_desc r = {
		.region_id = w->regions,
		.epoch = 1,
		.len_bytes = REGION_BYTES,
		.donor = (uint16_t)donor,
		.domain = donor + 1,
	};
	int at;

	snprintf(r.donor_name, sizeof(r.donor_name), "donor%u", donor);
	if (w->regions == WORLD_REGIONS)
		abort();
	w->memory[w->regions++] = calloc(1, REGION_BYTES);
	at = engine_region_add(w->e, &r);
	if (at < 0)
		abort();
	return (unsigned)at;
}

static enum donor_mood mood_of(const struct world *w, const struct engine_io *io)
{
	return io->priv[1] < WORLD_DONORS ? w->mood[io->priv[1]] : DONOR_FINE;
}

static void transfer(struct world *w, struct engine_io *io, bool write)
{
	uint8_t *at = (uint8_t *)(uintptr_t)io->priv[0];
	enum donor_mood mood = mood_of(w, io);

	if (mood == DONOR_REFUSES) {
		io->done(io, -EREMOTEIO);
		return;
	}
	if (write)
		memcpy(at, io->buf, io->len);
	else
		memcpy(io->buf, at, io->len);
	if (!write && mood == DONOR_FLIPS_BITS)
		for (uint32_t i = 100; i < io->len; i += 1000)
			((uint8_t *)io->buf)[i] ^= 0x10;
	if (!write && io->memory && w->on_direct)
		w->on_direct(io);
	io->done(io, 0);
}

static bool abandoned(struct world *w, const struct engine_io *io)
{
	for (unsigned i = 0; i < 8; i++)
		if (w->abandoned[i] == io) {
			w->abandoned[i] = NULL;
			return true;
		}
	return false;
}

/* Ends every transfer but those of silent donors. */
static void transfers_end(struct world *w)
{
	unsigned n = w->queued, kept = 0;
	struct engine_io *queue[1024];
	bool write[1024];

	memcpy(queue, w->queue, n * sizeof(queue[0]));
	memcpy(write, w->write, n * sizeof(write[0]));
	w->queued = 0;
	for (unsigned i = 0; i < n; i++) {
		if (abandoned(w, queue[i])) {
			queue[i]->done(queue[i], -ECANCELED);
			continue;
		}
		if ((w->per_step && i - kept >= w->per_step) ||
			mood_of(w, queue[i]) == DONOR_SILENT ||
			(w->silent_direct && queue[i]->memory)) {
			queue[kept] = queue[i];
			write[kept++] = write[i];
		} else {
			transfer(w, queue[i], write[i]);
		}
	}
	for (unsigned i = 0; i < kept; i++)
		start(w, queue[i], write[i]);
}

static void step(struct world *w)
{
	w->now_ns += 500000;
	engine_tick(w->e);
	engine_work(w->e);
	transfers_end(w);
	if (w->give_regions)
		for (; w->wanted > 0; w->wanted--)
			world_grant(w, w->regions % WORLD_DONORS);
}

void world_run(struct world *w, unsigned ms)
{
	for (unsigned i = 0; i < ms * 2; i++)
		step(w);
}

void world_pool(struct world *w, uint32_t id, uint32_t flags, unsigned account, uint8_t copies,
	uint8_t disk)
{
	struct engine_pool_desc d = {.id = id,
		.flags = flags,
		.account = (uint16_t)account,
		.codec = ENGINE_CODEC_LZ4,
		.copies = copies,
		.disk = disk};

	if (engine_pool_add(w->e, &d) != 0)
		abort();
}

/* Half of it random, half repeated: LZ4 makes about half of it. */
void world_page(uint8_t *page, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i += 8) {
		if (i < ENGINE_PAGE_BYTES / 2) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		memcpy(page + i, &x, 8);
	}
}

struct wait {
	struct engine_req req;
	int status;
};

static void wait_done(struct engine_req *req, int status)
{
	((struct wait *)req)->status = status;
}

static int wait_end(struct world *w, struct wait *wait, int status)
{
	if (status != -EINPROGRESS)
		return status;
	engine_kick(w->e);
	for (unsigned i = 0; i < 100000 && wait->status == -EINPROGRESS; i++)
		step(w);
	if (wait->status == -EINPROGRESS)
		abort(); /* no request may hang */
	return wait->status;
}

int world_put(struct world *w, uint32_t pool, uint32_t index, uint64_t seed)
{
	struct wait wait = {.req.done = wait_done, .status = -EINPROGRESS};
	struct engine_key k = {.oid = {1, 2, 3}, .pool = pool, .index = index};
	uint8_t page[ENGINE_PAGE_BYTES];

	world_page(page, seed);
	return wait_end(w, &wait, engine_put(w->e, &k, page, &wait.req));
}

int world_get(struct world *w, uint32_t pool, uint32_t index, uint64_t seed)
{
	struct wait wait = {.req.done = wait_done, .status = -EINPROGRESS};
	struct engine_key k = {.oid = {1, 2, 3}, .pool = pool, .index = index};
	uint8_t page[ENGINE_PAGE_BYTES], want[ENGINE_PAGE_BYTES];
	int rc = wait_end(w, &wait, engine_get(w->e, &k, page, &wait.req));

	world_page(want, seed);
	return rc ? rc : memcmp(page, want, sizeof(page)) != 0;
}

bool world_sane(struct world *w)
{
	char err[256];

	if (engine_check(w->e, err, sizeof(err)) == 0)
		return true;
	fprintf(stderr, "engine_check: %s\n", err);
	return false;
}
