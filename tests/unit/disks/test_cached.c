/* A cached disk: what it asks of the image and when, what is in the pool after a kill at each step.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/unit/disks/fake_image.h"
#include "tests/unit/disks/rig.h"

#define PAGES 2048u

static uint64_t seed;

static uint64_t sum(struct rig *g, size_t offset)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->lanes; i++)
		n += stat_get(
			(const stat_t *)((const char *)disk_cached_stats(g->cached, i) + offset));
	return n;
}
#define SUM(g, member) sum(g, offsetof(struct disk_cached_stats, member))

static unsigned io(struct rig *g, struct call *c, uint32_t type, uint64_t sector, uint32_t len)
{
	return call_run(g, 0, c, type, sector, len, type == VIRTIO_BLK_T_IN);
}

static void read_check(struct rig *g, struct call *c, uint64_t sector, uint32_t len)
{
	memset(c->data, 0x77, len);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_IN, sector, len), VIRTIO_BLK_S_OK);
	assert_memory_equal(c->data, g->fake->bytes + sector * 512, len);
}

static unsigned zero(struct rig *g, struct call *c, uint32_t type, uint64_t sector, uint32_t n)
{
	struct virtio_blk_discard_write_zeroes z = {.sector = sector, .num_sectors = n};

	memcpy(c->data, &z, sizeof(z));
	return call_run(g, 0, c, type, 0, sizeof(z), false);
}

/* Submits without waiting. */
static void start(struct rig *g, struct call *c, uint32_t type, uint64_t sector, uint32_t len)
{
	call_make(c, type, sector, len, type == VIRTIO_BLK_T_IN, NULL);
	call_submit(g, 0, c);
	blk_device_ops.kick(g->blk, 0);
}

static bool cached(struct rig *g, uint32_t page)
{
	struct engine_key k = {.oid = {DISK_OID0}, .pool = RIG_POOL, .index = page};
	static uint8_t data[4096];
	struct engine_req req = {0};

	return !engine_get(g->world[engine_key_lane(&k, g->lanes)]->e, &k, data, &req);
}

/* Neighbours are read from the image at once, and the second time not at all. */
static void test_fill(void **state)
{
	struct rig *g = rig_new_cached(1, (uint64_t)PAGES * 4096);
	struct call *c = call_new();

	read_check(g, c, 0, 64 * 4096);
	assert_int_equal(g->fake->started[IMAGE_READ], 1);
	assert_int_equal(SUM(g, fills), 64);
	assert_int_equal(SUM(g, hits[BLK_TIER_DISK]), 64);
	read_check(g, c, 0, 64 * 4096);
	read_check(g, c, 3, 512);
	assert_int_equal(g->fake->started[IMAGE_READ], 1);
	assert_int_equal(SUM(g, hits[BLK_TIER_LOCAL]), 65);
	/* After a kill, too. */
	rig_crash(g);
	read_check(g, c, 0, 64 * 4096);
	assert_int_equal(g->fake->started[IMAGE_READ], 1);
	/* Holes in what is cached are read, and nothing else. */
	uint64_t bytes = SUM(g, image_bytes_read);
	zero(g, c, VIRTIO_BLK_T_WRITE_ZEROES, 80, 16);
	read_check(g, c, 0, 64 * 4096);
	assert_int_equal(SUM(g, image_bytes_read) - bytes, 2 * 4096);
	call_free(c);
	rig_delete(g);
}

/* The same page is missing for several: one io. */
static void test_joined(void **state)
{
	struct rig *g = rig_new_cached(1, (uint64_t)PAGES * 4096);
	struct call *c[3];

	g->fake->hold = true;
	for (unsigned i = 0; i < 3; i++) {
		c[i] = call_new();
		start(g, c[i], VIRTIO_BLK_T_IN, 8 * i, 4 * 4096);
	}
	rig_step(g);
	assert_int_equal(fake_image_waiting(g->fake), 3); /* 4 pages, then one more each */
	g->fake->hold = false;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
		assert_memory_equal(c[i]->data, g->fake->bytes + i * 4096, 4 * 4096);
		call_free(c[i]);
	}
	assert_int_equal(SUM(g, image_bytes_read), 6 * 4096);
	assert_int_equal(SUM(g, joined), 6);
	rig_delete(g);
}

/* Whatever a kill cuts off, the pool never holds what the image does not. */
static void test_write_order(void **state)
{
	struct rig *g = rig_new_cached(2, (uint64_t)PAGES * 4096);
	struct call *c = call_new();

	for (unsigned round = 0; round < 2; round++) {
		read_check(g, c, 0, 8 * 4096);
		assert_true(cached(g, 3));
		g->fake->hold = true;
		memset(c->data, 0xa5, 4096);
		start(g, c, VIRTIO_BLK_T_OUT, 24, 4096);
		for (unsigned i = 0; i < 10; i++)
			rig_step(g);
		assert_false(c->done);
		assert_int_equal(fake_image_waiting(g->fake), 1);
		assert_false(cached(g, 3));
		/* It was on its way: it comes to pass, or not. */
		fake_image_kill(g->fake, NULL);
		if (round)
			memset(g->fake->bytes + 3 * 4096, 0xa5, 4096);
		g->fake->hold = false;
		rig_crash(g);
		read_check(g, c, 0, 8 * 4096);
	}
	/* Written and answered: cached as written. */
	memset(c->data, 0x5a, 4096);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 24, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->bytes[3 * 4096], 0x5a);
	assert_true(cached(g, 3));
	rig_crash(g);
	read_check(g, c, 0, 8 * 4096);
	/* A part of a page is written as it is, and not cached. */
	unsigned reads = g->fake->started[IMAGE_READ];
	memset(c->data, 0x33, 512);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 25, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_READ], reads);
	assert_false(cached(g, 3));
	read_check(g, c, 16, 4 * 4096);
	call_free(c);
	rig_delete(g);
}

static void test_errors(void **state)
{
	struct rig *g = rig_new_cached(1, (uint64_t)PAGES * 4096);
	struct call *c = call_new();

	g->fake->status[IMAGE_READ] = -EIO;
	assert_int_equal(io(g, c, VIRTIO_BLK_T_IN, 0, 8192), VIRTIO_BLK_S_IOERR);
	g->fake->status[IMAGE_READ] = 0;
	read_check(g, c, 0, 8192);
	/* The image may hold the old data, the new, or both: it is asked. */
	g->fake->status[IMAGE_WRITE] = -ENOSPC;
	memset(c->data, 0xee, 8192);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 0, 8192), VIRTIO_BLK_S_IOERR);
	assert_false(cached(g, 0));
	assert_false(cached(g, 1));
	read_check(g, c, 0, 8192);
	g->fake->status[IMAGE_SYNC] = -EIO;
	assert_int_equal(io(g, c, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(SUM(g, image_errors), 3);
	/* Reads that waited for one that failed are tried by themselves. */
	struct call *d = call_new();
	g->fake->hold = true;
	start(g, c, VIRTIO_BLK_T_IN, 800, 4096);
	start(g, d, VIRTIO_BLK_T_IN, 800, 4096);
	g->fake->status[IMAGE_READ] = -EIO;
	g->fake->hold = false;
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_wait(g, d), VIRTIO_BLK_S_IOERR);
	call_free(c);
	call_free(d);
	rig_delete(g);
}

/* An image whose last page is cut. */
static void test_last_page(void **state)
{
	uint64_t bytes = 100 * 4096 + 1536;
	struct rig *g = rig_new_cached(2, bytes);
	struct call *c = call_new();

	for (unsigned i = 0; i < 3; i++)
		read_check(g, c, 98 * 8, 2 * 4096 + 1536);
	assert_int_equal(g->fake->started[IMAGE_READ], 1);
	memset(c->data, 0x44, 1536);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 800, 1536), VIRTIO_BLK_S_OK);
	assert_true(cached(g, 100));
	read_check(g, c, 801, 1024);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_IN, 800, 2048), VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero(g, c, VIRTIO_BLK_T_DISCARD, 792, 11), VIRTIO_BLK_S_OK);
	read_check(g, c, 792, 11 * 512);
	assert_int_equal(c->data[600], 0);
	call_free(c);
	rig_delete(g);
}

/* What was answered before a flush is on the disk after it; who has no flush needs none. */
static void test_durability(void **state)
{
	struct rig *g = rig_new_cached(2, (uint64_t)PAGES * 4096);
	struct call *c = call_new();
	uint8_t config[VHOST_CONFIG_BYTES], off = 0;

	blk_device_ops.features_set(g->blk, 1ull << VIRTIO_BLK_F_FLUSH);
	blk_device_ops.config(g->blk, config);
	assert_int_equal(config[offsetof(struct virtio_blk_config, wce)], 1);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 0);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 1);
	/* A guest that knows no flush. */
	blk_device_ops.features_set(g->blk, 0);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 2);
	/* One that turned the cache off; a discard is only a hint. */
	blk_device_ops.features_set(g->blk, 1ull << VIRTIO_BLK_F_CONFIG_WCE);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 2);
	assert_int_equal(
		blk_device_ops.config_set(g->blk, offsetof(struct virtio_blk_config, wce), &off, 1),
		0);
	assert_int_equal(io(g, c, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(zero(g, c, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8), VIRTIO_BLK_S_OK);
	assert_int_equal(zero(g, c, VIRTIO_BLK_T_DISCARD, 0, 8), VIRTIO_BLK_S_OK);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 4);
	/* The answer waits for it. */
	g->fake->hold = true;
	start(g, c, VIRTIO_BLK_T_OUT, 0, 4096);
	for (unsigned i = 0; i < 10; i++)
		rig_step(g);
	assert_int_equal(fake_image_waiting(g->fake), 1);
	g->fake->hold_sync = true;
	g->fake->hold = false;
	for (unsigned i = 0; i < 10; i++)
		rig_step(g);
	assert_int_equal(fake_image_waiting(g->fake), 1);
	assert_int_equal(g->fake->started[IMAGE_SYNC], 5);
	assert_false(c->done);
	g->fake->status[IMAGE_SYNC] = -EIO;
	g->fake->hold_sync = false;
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_IOERR);
	call_free(c);
	rig_delete(g);
}

/* While a range of many pages is being zeroed its pages wait, each for itself. */
static void test_zero(void **state)
{
	struct rig *g = rig_new_cached(1, (uint64_t)PAGES * 4096);
	struct call *c = call_new(), *z = call_new(), *w = call_new();
	struct virtio_blk_discard_write_zeroes range = {.sector = 4, .num_sectors = 256 * 8};

	read_check(g, c, 0, 300 * 4096 > CALL_MAX_DATA ? CALL_MAX_DATA : 300 * 4096);
	g->fake->hold = true;
	memcpy(z->data, &range, sizeof(range));
	start(g, z, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range));
	start(g, c, VIRTIO_BLK_T_IN, 0, 16 * 4096);
	memset(w->data, 0x99, 4096);
	start(g, w, VIRTIO_BLK_T_OUT, 40, 4096);
	rig_step(g);
	assert_false(c->done);
	assert_false(w->done);
	assert_true(fake_image_waiting(g->fake) <= 2);
	g->fake->hold = false;
	assert_int_equal(call_wait(g, z), VIRTIO_BLK_S_OK);
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_OK);
	assert_int_equal(call_wait(g, w), VIRTIO_BLK_S_OK);
	assert_int_equal(c->data[4 * 512], 0);
	assert_int_equal(c->data[4 * 512 - 1], 4);
	assert_int_equal(g->fake->bytes[40 * 512], 0x99);
	read_check(g, c, 0, CALL_MAX_DATA);
	call_free(c);
	call_free(z);
	call_free(w);
	rig_delete(g);
}

/* More at a time than there are slots, with an image that hangs for a while. */
/* Writes that the image does not take, more than there are slots, hold up no read of what is
 * cached.
 */
static void test_read_beside_stalled(void **state)
{
	enum { CALLS = 200 };
	struct rig *g = rig_new_cached(1, (uint64_t)PAGES * 4096);
	struct call *c[CALLS], *d = call_new();

	read_check(g, d, 0, 4096);
	g->fake->hold = true;
	for (unsigned i = 0; i < CALLS; i++) {
		c[i] = call_new();
		memset(c[i]->data, (int)i, 4096);
		start(g, c[i], VIRTIO_BLK_T_OUT, (100 + 2 * i) * 8, 4096);
	}
	for (unsigned i = 0; i < 50; i++)
		rig_step(g);
	assert_true(stat_get(&disk_lane_stats(g->lane[0])->parts_waited) > 0);
	assert_true(cached(g, 0));
	start(g, d, VIRTIO_BLK_T_IN, 0, 4096);
	assert_true(d->done);
	assert_int_equal(d->status, VIRTIO_BLK_S_OK);
	assert_memory_equal(d->data, g->fake->bytes, 4096);
	g->fake->hold = false;
	for (unsigned i = 0; i < CALLS; i++) {
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
		assert_int_equal(g->fake->bytes[(100 + 2 * i) * 4096], i);
		call_free(c[i]);
	}
	call_free(d);
	rig_delete(g);
}

static void test_crowd(void **state)
{
	enum { CALLS = 300 };
	struct rig *g = rig_new_cached(3, (uint64_t)PAGES * 4096);
	struct call *c[CALLS];

	g->fake->hold = true;
	for (unsigned i = 0; i < CALLS; i++) {
		c[i] = call_new();
		memset(c[i]->data, (int)(i & 0xff), 40960);
		start(g, c[i], i % 10 == 9 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_OUT, 1000 + i % 64,
			i % 10 == 9 ? 0 : 512 * (1 + i % 80));
	}
	for (unsigned i = 0; i < 100; i++)
		rig_step(g);
	g->fake->hold = false;
	for (unsigned i = 0; i < CALLS; i++)
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 3; i++) {
		rig_step(g);
		assert_true(disk_lane_prepare_sleep(g->lane[i]));
		disk_lane_wake(g->lane[i]);
	}
	read_check(g, c[0], 1000, 200 * 512);
	for (unsigned i = 0; i < CALLS; i++)
		call_free(c[i]);
	rig_delete(g);
}

#define RANDOM_PAGES 700u
#define RANDOM_CALLS 24u

struct job {
	struct call *c;
	bool busy;
	uint32_t type, n; /* sectors */
	uint64_t first;
};

/* What a job writes is wanted from now on: nobody else uses its sectors. */
static void job_fill(struct job *j, uint8_t *want, uint64_t *rnd)
{
	if (j->type == VIRTIO_BLK_T_WRITE_ZEROES) {
		struct virtio_blk_discard_write_zeroes z = {
			.sector = j->first, .num_sectors = j->n, .flags = rig_random(rnd) % 2};

		memcpy(j->c->data, &z, sizeof(z));
		memset(want + j->first * 512, 0, j->n * 512);
		call_make(j->c, j->type, 0, sizeof(z), false, rnd);
		return;
	}
	for (uint32_t i = 0; j->type == VIRTIO_BLK_T_OUT && i < j->n * 512; i += 8) {
		uint64_t x = rig_random(rnd);

		memcpy(j->c->data + i, &x, 8);
	}
	if (j->type == VIRTIO_BLK_T_OUT)
		memcpy(want + j->first * 512, j->c->data, j->n * 512);
	call_make(j->c, j->type, j->first, j->n * 512, j->type == VIRTIO_BLK_T_IN, rnd);
}

static void job_start(struct rig *g, struct job *j, uint8_t *want, uint8_t *taken, uint64_t *rnd)
{
	uint64_t sectors = g->fake->head.size_bytes / 512, kind = rig_random(rnd) % 10;
	unsigned lane = (unsigned)(rig_random(rnd) % 3);

	j->type = kind < 5   ? VIRTIO_BLK_T_IN
		  : kind < 9 ? VIRTIO_BLK_T_OUT
			     : VIRTIO_BLK_T_WRITE_ZEROES;
	j->first = rig_random(rnd) % sectors;
	j->n = 1 + (uint32_t)(rig_random(rnd) % (kind == 9 ? 3000 : 300));
	if (rig_random(rnd) % 2)
		j->first &= ~7ull;
	if (j->n > sectors - j->first)
		j->n = (uint32_t)(sectors - j->first);
	if (memchr(taken + j->first, 1, j->n))
		return;
	memset(taken + j->first, 1, j->n);
	j->busy = true;
	job_fill(j, want, rnd);
	call_submit(g, lane, j->c);
	blk_device_ops.kick(g->blk, lane);
}

static void job_end(struct job *j, const uint8_t *want, uint8_t *taken)
{
	j->busy = false;
	memset(taken + j->first, 0, j->n);
	assert_int_equal(j->c->status, VIRTIO_BLK_S_OK);
	if (j->type == VIRTIO_BLK_T_IN)
		assert_memory_equal(j->c->data, want + j->first * 512, j->n * 512);
}

/* What was not answered is submitted again, as a guest's rings do it. */
static void kill_all(struct rig *g, struct job *job, uint64_t *rnd)
{
	fake_image_kill(g->fake, rnd);
	if (g->base_fake)
		fake_image_kill(g->base_fake, NULL);
	rig_crash(g);
	for (unsigned i = 0; i < RANDOM_CALLS; i++)
		if (job[i].busy && !job[i].c->done)
			call_submit(g, 1, job[i].c);
	blk_device_ops.kick(g->blk, 1);
}

/* Requests of any kind and size, and kills; the image and what is read must be what was written. */
static void random_run(struct rig *g)
{
	uint64_t rnd = seed * 2 + 1, sectors = g->fake->head.size_bytes / 512;
	uint8_t *want = malloc(sectors * 512), *taken = calloc(1, sectors);
	struct job job[RANDOM_CALLS];

	g->fake->rnd = &rnd;
	if (g->base_fake)
		g->base_fake->rnd = &rnd;
	memcpy(want, g->fake->bytes, sectors * 512);
	for (unsigned i = 0; i < RANDOM_CALLS; i++)
		job[i] = (struct job){.c = call_new()};
	for (unsigned n = 0; n < 6000; n++) {
		struct job *j = &job[rig_random(&rnd) % RANDOM_CALLS];

		rig_step(g);
		if (j->busy && j->c->done)
			job_end(j, want, taken);
		else if (j->busy)
			continue;
		else if (rig_random(&rnd) % 400 == 0)
			kill_all(g, job, &rnd);
		else
			job_start(g, j, want, taken, &rnd);
	}
	g->fake->rnd = NULL;
	if (g->base_fake)
		g->base_fake->rnd = NULL;
	for (unsigned i = 0; i < RANDOM_CALLS; i++)
		if (job[i].busy)
			assert_int_equal(call_wait(g, job[i].c), VIRTIO_BLK_S_OK);
	assert_memory_equal(g->fake->bytes, want, sectors * 512);
	for (uint64_t s = 0; s < sectors; s += 2000)
		read_check(
			g, job[0].c, s, (uint32_t)(sectors - s < 2000 ? sectors - s : 2000) * 512);
	assert_true(SUM(g, hits[BLK_TIER_LOCAL]) > 0);
	for (unsigned i = 0; i < RANDOM_CALLS; i++)
		call_free(job[i].c);
	free(want);
	free(taken);
	rig_delete(g);
}

static void test_random(void **state)
{
	random_run(rig_new_cached(3, (RANDOM_PAGES * 8 + 5) * 512));
}

/* The base ends within the disk, in the middle of a page. */
static void test_clone_random(void **state)
{
	random_run(rig_new_clone(3, (RANDOM_PAGES * 8 + 5) * 512, 500 * 4096 + 512));
}

/* Clones read what they did not write through the base's cache, and nothing of theirs gets there.
 */
static void test_clone(void **state)
{
	struct rig *g = rig_new_clone(3, (uint64_t)PAGES * 4096, (uint64_t)PAGES * 4096);
	struct call *c = call_new();

	read_check(g, c, 0, CALL_MAX_DATA);
	assert_int_equal(g->fake->started[IMAGE_READ], 0);
	assert_true(g->base_fake->started[IMAGE_READ] > 0);
	unsigned base_reads = g->base_fake->started[IMAGE_READ];
	read_check(g, c, 0, CALL_MAX_DATA);
	assert_int_equal(g->base_fake->started[IMAGE_READ], base_reads);
	/* A page that is being read from the base is written only then. */
	struct call *w = call_new();
	g->base_fake->hold = true;
	start(g, c, VIRTIO_BLK_T_IN, 8000, 16 * 4096);
	memset(w->data, 0xbb, 4096);
	start(g, w, VIRTIO_BLK_T_OUT, 8008, 4096);
	for (unsigned i = 0; i < 10; i++)
		rig_step(g);
	assert_false(w->done);
	g->base_fake->hold = false;
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_OK);
	assert_memory_equal(c->data, g->base_fake->bytes + 8000 * 512, 16 * 4096);
	assert_int_equal(call_wait(g, w), VIRTIO_BLK_S_OK);
	read_check(g, c, 8000, 16 * 4096);
	assert_int_equal(c->data[4096], 0xbb);
	/* The rest of a page of which a part was written is the image's, which has it from the
	 * base. */
	memset(w->data, 0xcc, 512);
	assert_int_equal(io(g, w, VIRTIO_BLK_T_OUT, 8021, 512), VIRTIO_BLK_S_OK);
	read_check(g, c, 8000, 16 * 4096);
	base_reads = g->base_fake->started[IMAGE_READ];
	rig_crash(g);
	read_check(g, c, 8000, 16 * 4096);
	assert_int_equal(g->base_fake->started[IMAGE_READ], base_reads);
	for (uint32_t i = 0; i < 512; i++)
		assert_int_not_equal(g->base_fake->bytes[8008 * 512 + i], 0xbb);
	call_free(c);
	call_free(w);
	rig_delete(g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fill),
		cmocka_unit_test(test_joined),
		cmocka_unit_test(test_write_order),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_last_page),
		cmocka_unit_test(test_durability),
		cmocka_unit_test(test_zero),
		cmocka_unit_test(test_read_beside_stalled),
		cmocka_unit_test(test_crowd),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_clone),
		cmocka_unit_test(test_clone_random),
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 0)
			: (uint64_t)time(NULL) << 16 ^ (uint64_t)clock();
	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
