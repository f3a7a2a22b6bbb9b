/* A swap disk: what each kind of trouble in the store looks like to the guest. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/disks/rig.h"

#define PAGES 2048u

static void pattern(uint8_t *data, uint32_t len, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (uint32_t i = 0; i < len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(data + i, &x, 8);
	}
}

static unsigned write_page(struct rig *g, struct call *c, uint32_t page, uint64_t seed)
{
	pattern(c->data, 4096, seed);
	return call_run(g, 0, c, VIRTIO_BLK_T_OUT, (uint64_t)page * 8, 4096, false);
}

/* The status; 100 other bytes. seed 0: zeros. */
static unsigned read_check(struct call *c, uint64_t seed)
{
	uint8_t want[4096] = {0};

	if (seed)
		pattern(want, 4096, seed);
	return c->status ? c->status : memcmp(c->data, want, 4096) ? 100 : 0;
}

static unsigned read_page(struct rig *g, struct call *c, uint32_t page, uint64_t seed)
{
	memset(c->data, 0x77, 4096);
	call_run(g, 0, c, VIRTIO_BLK_T_IN, (uint64_t)page * 8, 4096, true);
	return read_check(c, seed);
}

/* The same, but it must not need anybody's answer. */
static unsigned read_now(struct rig *g, struct call *c, uint32_t page, uint64_t seed)
{
	call_make(c, VIRTIO_BLK_T_IN, (uint64_t)page * 8, 4096, true, NULL);
	call_submit(g, 0, c);
	blk_device_ops.kick(g->blk, 0);
	assert_true(c->done);
	return read_check(c, seed);
}

static unsigned discard(struct rig *g, struct call *c, uint64_t sector, uint32_t sectors)
{
	struct virtio_blk_discard_write_zeroes z = {.sector = sector, .num_sectors = sectors};

	memcpy(c->data, &z, sizeof(z));
	return call_run(g, 0, c, VIRTIO_BLK_T_DISCARD, 0, sizeof(z), false);
}

static uint64_t sum(struct rig *g, size_t offset)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->lanes; i++)
		n += stat_get((const stat_t *)((const char *)disk_swap_stats(g->swap, i) + offset));
	return n;
}
#define SUM(g, member) sum(g, offsetof(struct disk_swap_stats, member))

static void test_unwritten(void **state)
{
	struct rig *g = rig_new(3, PAGES, NULL);
	struct call *c = call_new();

	memset(c->data, 0x77, CALL_MAX_DATA);
	assert_int_equal(
		call_run(g, 1, c, VIRTIO_BLK_T_IN, 100, CALL_MAX_DATA, true), VIRTIO_BLK_S_OK);
	for (uint32_t i = 0; i < CALL_MAX_DATA; i++)
		assert_int_equal(c->data[i], 0);
	/* 257 pages, for it begins in the middle of one. */
	assert_int_equal(SUM(g, hits[BLK_TIER_NONE]), 257);
	assert_int_equal(stat_get(&blk_stats(g->blk, 1)->read_ns[BLK_TIER_NONE].count), 1);
	call_free(c);
	rig_delete(g);
}

/* Pages that went to the donors come back, and discarding takes them away. */
static void test_tiers(void **state)
{
	struct rig *g = rig_new(2, PAGES, NULL);
	struct call *c = call_new();

	for (unsigned i = 0; i < 2; i++)
		g->world[i]->give_regions = true;
	for (uint32_t p = 0; p < PAGES; p++)
		assert_int_equal(write_page(g, c, p, p + 1), VIRTIO_BLK_S_OK);
	for (uint32_t p = 0; p < PAGES; p++)
		assert_int_equal(read_page(g, c, p, p + 1), VIRTIO_BLK_S_OK);
	assert_true(SUM(g, hits[BLK_TIER_REMOTE]) > 100);
	assert_true(SUM(g, hits[BLK_TIER_LOCAL]) > 100);
	assert_int_equal(SUM(g, hits[BLK_TIER_REMOTE]) + SUM(g, hits[BLK_TIER_LOCAL]), PAGES);
	assert_int_equal(stat_get(&blk_stats(g->blk, 0)->read_ns[BLK_TIER_REMOTE].count),
		SUM(g, hits[BLK_TIER_REMOTE]));
	assert_int_equal(discard(g, c, 0, PAGES * 8), VIRTIO_BLK_S_OK);
	assert_int_equal(engine_pool_pages(g->world[0]->e, RIG_POOL) +
				 engine_pool_pages(g->world[1]->e, RIG_POOL),
		0);
	for (uint32_t p = 0; p < PAGES; p += 97)
		assert_int_equal(read_page(g, c, p, 0), VIRTIO_BLK_S_OK);
	call_free(c);
	rig_delete(g);
}

/* Neighbouring pages of one request are read from a donor in few transfers. */
static void test_merged_reads(void **state)
{
	struct rig *g = rig_new(1, PAGES, NULL);
	struct call *c = call_new();
	struct world *w = g->world[0];

	w->give_regions = true;
	for (uint32_t p = 0; p < 1024; p++)
		assert_int_equal(write_page(g, c, p, p + 1), VIRTIO_BLK_S_OK);
	world_run(w, 2000);
	uint64_t before = w->asked[0];
	assert_int_equal(call_run(g, 0, c, VIRTIO_BLK_T_IN, 0, 32 * 4096, true), VIRTIO_BLK_S_OK);
	uint64_t remote = SUM(g, hits[BLK_TIER_REMOTE]);
	assert_true(remote >= 24);
	/* A transfer holds 16 KiB, of one segment: that is 3 pages that do not compress. */
	assert_true(w->asked[0] - before <= remote / 3 + 5);
	assert_int_equal(
		stat_get(&engine_stats(w->e)->reads_merged), remote - (w->asked[0] - before));
	call_free(c);
	rig_delete(g);
}

static void no_wait(struct engine_config *cfg)
{
	cfg->put_wait_ns = 0;
}

/* A write without room is an error, and what it should have replaced does not read as zeros: not
 * afterwards, not after a restart. */
static void test_refused_write(void **state)
{
	struct rig *g = rig_new(1, PAGES, no_wait);
	struct call *c = call_new();
	uint32_t p, refused = 0;

	g->world[0]->give_regions = false;
	for (p = 0; p < PAGES && refused < 8; p++)
		refused += write_page(g, c, p, p + 1) == VIRTIO_BLK_S_IOERR;
	assert_int_equal(refused, 8);
	assert_int_equal(disk_swap_lost(g->swap), 8);
	assert_int_equal(SUM(g, failed_room), 8);
	assert_int_equal(stat_get(&blk_stats(g->blk, 0)->errors), 8);
	uint32_t last = p - 1;
	assert_int_equal(read_page(g, c, last, 0), VIRTIO_BLK_S_IOERR);
	/* A page that was there before. */
	assert_int_equal(read_page(g, c, 0, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(write_page(g, c, 0, 5), VIRTIO_BLK_S_IOERR);
	assert_int_equal(read_page(g, c, 0, 0), VIRTIO_BLK_S_IOERR);
	/* A part of it cannot be written, for the rest is not known. */
	assert_int_equal(call_run(g, 0, c, VIRTIO_BLK_T_OUT, 1, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(discard(g, c, 1, 1), VIRTIO_BLK_S_IOERR);
	rig_crash(g);
	assert_int_equal(disk_swap_lost(g->swap), 9);
	assert_int_equal(read_page(g, c, 0, 0), VIRTIO_BLK_S_IOERR);
	/* Room again, and a discard: it is known what is there. */
	assert_int_equal(discard(g, c, 8, (last - 1) * 8), VIRTIO_BLK_S_OK);
	world_run(g->world[0], 500);
	assert_int_equal(write_page(g, c, 0, 6), VIRTIO_BLK_S_OK);
	assert_int_equal(read_page(g, c, 0, 6), VIRTIO_BLK_S_OK);
	assert_int_equal(read_page(g, c, last, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(discard(g, c, last * 8, 8), VIRTIO_BLK_S_OK);
	assert_int_equal(read_page(g, c, last, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(disk_swap_lost(g->swap), 0);
	call_free(c);
	rig_delete(g);
}

/* While a put waits the engine holds nothing: a read of the page waits for it, and if the daemon is
 * killed then, the page is still in its bounce page. */
static void test_waiting_write(void **state)
{
	struct rig *g = rig_new(1, PAGES, NULL);
	struct call *c = call_new(), *d = call_new();
	struct world *w = g->world[0];
	uint32_t p = 0;

	/* Donors that take nothing, but look as if: the local tier fills up, and puts wait. */
	for (unsigned i = 0; i < WORLD_DONORS; i++) {
		w->mood[i] = DONOR_SILENT;
		world_grant(w, i);
	}
	do {
		pattern(c->data, 4096, ++p);
		call_make(c, VIRTIO_BLK_T_OUT, p * 8, 4096, false, NULL);
		call_submit(g, 0, c);
		blk_device_ops.kick(g->blk, 0);
	} while (c->done && p < PAGES);
	assert_false(c->done);
	call_make(d, VIRTIO_BLK_T_IN, p * 8, 4096, true, NULL);
	call_submit(g, 0, d);
	blk_device_ops.kick(g->blk, 0);
	assert_false(d->done);
	assert_int_equal(stat_get(&disk_lane_stats(g->lane[0])->pages_waited), 1);
	/* The donors wake up. */
	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_FINE;
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_OK);
	assert_int_equal(call_wait(g, d), VIRTIO_BLK_S_OK);
	assert_memory_equal(c->data, d->data, 4096);
	assert_int_equal(disk_swap_lost(g->swap), 0);

	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_SILENT;
	do {
		pattern(c->data, 4096, ++p);
		call_make(c, VIRTIO_BLK_T_OUT, p * 8, 4096, false, NULL);
		call_submit(g, 0, c);
		blk_device_ops.kick(g->blk, 0);
	} while (c->done && p < PAGES);
	assert_false(c->done);
	/* A part of a page that was there before, too. */
	uint32_t sector = (p - 1) * 8 + 3;
	uint8_t want[4096];
	pattern(want, 4096, p - 1);
	pattern(want + 3 * 512, 512, 99);
	pattern(d->data, 512, 99);
	call_make(d, VIRTIO_BLK_T_OUT, sector, 512, false, NULL);
	call_submit(g, 0, d);
	blk_device_ops.kick(g->blk, 0);
	assert_false(d->done);
	/* The next life has no room for them either, and does not wait: they are read nevertheless.
	 */
	w->cfg.put_wait_ns = 0;
	rig_crash(g);
	disk_lane_poll(g->lane[0]);
	assert_int_equal(disk_swap_lost(g->swap), 0);
	assert_int_equal(read_now(g, c, p, p), VIRTIO_BLK_S_OK);
	assert_int_equal(read_now(g, c, p - 1, 0), 100);
	assert_memory_equal(c->data, want, 4096);
	/* And a life later, when there is room, they are put. */
	rig_crash(g);
	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_FINE;
	world_run(w, 3000);
	disk_lane_poll(g->lane[0]);
	assert_int_equal(stat_get(&disk_lane_stats(g->lane[0])->pages_left), 2);
	assert_int_equal(stat_get(&disk_lane_stats(g->lane[0])->pages_busy), 0);
	pattern(d->data, 512, 99);
	assert_int_equal(call_run(g, 0, d, VIRTIO_BLK_T_OUT, sector, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(read_page(g, c, p - 1, 0), 100);
	assert_memory_equal(c->data, want, 4096);
	assert_int_equal(read_page(g, c, p, p), VIRTIO_BLK_S_OK);
	call_free(c);
	call_free(d);
	rig_delete(g);
}

static void soon(struct engine_config *cfg)
{
	cfg->get_timeout_ns = 50000000;
	cfg->hedge_ns = 5000000;
}

/* Donors that do not answer: an error in time, and the page is there when they do. */
static void test_late_read(void **state)
{
	struct rig *g = rig_new(1, PAGES, soon);
	struct call *c = call_new();
	struct world *w = g->world[0];
	unsigned errors = 0;

	w->give_regions = true;
	for (uint32_t p = 0; p < 1024; p++)
		assert_int_equal(write_page(g, c, p, p + 1), VIRTIO_BLK_S_OK);
	world_run(w, 2000);
	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_SILENT;
	for (uint32_t p = 0; p < 8; p++)
		errors += read_page(g, c, p, p + 1) == VIRTIO_BLK_S_IOERR;
	assert_true(errors > 0);
	assert_int_equal(SUM(g, failed_late), errors);
	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_FINE;
	for (uint32_t p = 0; p < 8; p++)
		assert_int_equal(read_page(g, c, p, p + 1), VIRTIO_BLK_S_OK);
	/* Lost for good: an error as well. */
	for (unsigned i = 0; i < w->cfg.max_regions; i++)
		if (engine_region(w->e, i))
			engine_region_lost(w->e, i);
	w->give_regions = false;
	errors = 0;
	for (uint32_t p = 0; p < 1024; p++) {
		unsigned s = read_page(g, c, p, p + 1);

		assert_true(s == VIRTIO_BLK_S_OK || s == VIRTIO_BLK_S_IOERR);
		errors += s;
	}
	assert_true(errors > 100);
	assert_int_equal(SUM(g, failed_lost), errors);
	call_free(c);
	rig_delete(g);
}

/* More requests at a time than there are credits and bounce pages, all to few pages. */
static void test_crowd(void **state)
{
	enum { CALLS = 300 };
	struct rig *g = rig_new(3, PAGES, NULL);
	struct call *c[CALLS];

	for (unsigned i = 0; i < CALLS; i++) {
		c[i] = call_new();
		memset(c[i]->data, (int)(i & 0xff), CALL_MAX_DATA);
		call_make(c[i], VIRTIO_BLK_T_OUT, 1000 + i % 64, 512 * (1 + i % 700), false, NULL);
		call_submit(g, 2, c[i]);
	}
	blk_device_ops.kick(g->blk, 2);
	for (unsigned i = 0; i < CALLS; i++)
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
	assert_true(stat_get(&disk_lane_stats(g->lane[2])->parts_waited) > 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(stat_get(&disk_lane_stats(g->lane[i])->pages_busy), 0);
		assert_true(disk_lane_prepare_sleep(g->lane[i]));
		disk_lane_wake(g->lane[i]);
	}
	/* Each sector is what one of those who wrote it wrote. */
	call_make(c[0], VIRTIO_BLK_T_IN, 1000, 512 * 512, true, NULL);
	call_submit(g, 0, c[0]);
	blk_device_ops.kick(g->blk, 0);
	assert_int_equal(call_wait(g, c[0]), VIRTIO_BLK_S_OK);
	for (unsigned s = 0; s < 512; s++)
		for (unsigned i = 1; i < 512; i++)
			assert_int_equal(c[0]->data[s * 512 + i], c[0]->data[s * 512]);
	for (unsigned i = 0; i < CALLS; i++)
		call_free(c[i]);
	rig_delete(g);
}

/* A read is done before the writes that were asked for before it. */
static void test_reads_first(void **state)
{
	enum { CALLS = 48 }; /* as many as a lane takes parts of */
	struct rig *g = rig_new(1, PAGES, NULL);
	struct call *c[CALLS], *d = call_new();
	unsigned left = 0;

	assert_int_equal(write_page(g, d, 7, 70), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < CALLS; i++) {
		c[i] = call_new();
		pattern(c[i]->data, 4096, i);
		call_make(c[i], VIRTIO_BLK_T_OUT, (100 + i) * 8, 4096, false, NULL);
		call_submit(g, 0, c[i]);
	}
	assert_int_equal(read_now(g, d, 7, 70), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < CALLS; i++)
		left += !c[i]->done;
	assert_true(left > CALLS / 2);
	assert_false(disk_lane_prepare_sleep(g->lane[0]));
	for (unsigned i = 0; i < CALLS; i++) {
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
		call_free(c[i]);
	}
	call_free(d);
	rig_delete(g);
}

/* Writes that wait for room, more than there are bounce pages and credits, hold up no read. */
static void test_read_beside_stalled(void **state)
{
	enum { CALLS = 400 };
	struct rig *g = rig_new(1, PAGES, NULL);
	struct call *c[CALLS], *d = call_new();
	struct world *w = g->world[0];
	unsigned left = 0;

	assert_int_equal(write_page(g, d, 1, 10), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < WORLD_DONORS; i++) {
		w->mood[i] = DONOR_SILENT;
		world_grant(w, i);
	}
	for (unsigned i = 0; i < CALLS; i++) {
		c[i] = call_new();
		pattern(c[i]->data, 4 * 4096, i);
		call_make(c[i], VIRTIO_BLK_T_OUT, (100 + i * 4) * 8, 4 * 4096, false, NULL);
		call_submit(g, 0, c[i]);
		blk_device_ops.kick(g->blk, 0);
	}
	for (unsigned i = 0; i < 200; i++)
		disk_lane_poll(g->lane[0]);
	for (unsigned i = 0; i < CALLS; i++)
		left += !c[i]->done;
	assert_true(left > DISK_LANE_CREDITS);
	assert_true(stat_get(&disk_lane_stats(g->lane[0])->parts_waited) > 0);
	assert_int_equal(read_now(g, d, 1, 10), VIRTIO_BLK_S_OK);
	assert_int_equal(read_now(g, d, 1999, 0), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < WORLD_DONORS; i++)
		w->mood[i] = DONOR_FINE;
	for (unsigned i = 0; i < CALLS; i++) {
		assert_int_equal(call_wait(g, c[i]), VIRTIO_BLK_S_OK);
		call_free(c[i]);
	}
	call_free(d);
	rig_delete(g);
}

static void test_sizes(void **state)
{
	struct rig *g = rig_new(1, 8, NULL);
	struct disk_swap *d;
	struct disk_swap_config cfg = {
		.pool = 1, .pages = ((uint64_t)1 << 32) + 1, .lanes = 1, .lane = g->lane};

	assert_int_equal(disk_swap_new(&cfg, &d), -EFBIG);
	cfg.pages = 0;
	assert_int_equal(disk_swap_new(&cfg, &d), -EINVAL);
	/* The map of a disk of another size. */
	cfg.pages = 100u << 20;
	cfg.lost_path = g->lost_path;
	assert_int_equal(disk_swap_new(&cfg, &d), -EINVAL);
	rig_delete(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unwritten),
		cmocka_unit_test(test_tiers),
		cmocka_unit_test(test_merged_reads),
		cmocka_unit_test(test_refused_write),
		cmocka_unit_test(test_waiting_write),
		cmocka_unit_test(test_late_read),
		cmocka_unit_test(test_crowd),
		cmocka_unit_test(test_reads_first),
		cmocka_unit_test(test_read_beside_stalled),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
