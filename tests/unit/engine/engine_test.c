/* The engine's promises, one test each: what a get returns, what survives, and what goes first. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/engine/world.h"

#define PERSISTENT ENGINE_POOL_PERSISTENT

static struct world *w;

static int setup(void **state)
{
	(void)state;
	w = world_new();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

static uint64_t stat(const stat_t *s)
{
	return stat_get(s);
}

#define STAT(name) stat(&engine_stats(w->e)->name)

static void put_many(uint32_t pool, uint32_t n, uint64_t seed)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_put(w, pool, i, seed + i), 0);
}

static void get_many(uint32_t pool, uint32_t n, uint64_t seed)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_get(w, pool, i, seed + i), 0);
}

static void ignore_done(struct engine_req *req, int status)
{
	(void)req;
	(void)status;
}

static void the_last_put_is_what_a_get_returns(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 100, 0);
	put_many(1, 50, 1000);
	get_many(1, 50, 1000);
	for (uint32_t i = 50; i < 100; i++)
		assert_int_equal(world_get(w, 1, i, i), 0);
	assert_int_equal(world_get(w, 1, 100, 0), -ENOENT);
	assert_int_equal(world_get(w, 2, 0, 0), -ENOENT);
	assert_int_equal(world_put(w, 2, 0, 0), -ENOENT);
}

static void flushes_make_misses(void **state)
{
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = 3};
	uint64_t pages;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 20, 0);
	assert_int_equal(engine_flush_page(w->e, &k), 0);
	assert_int_equal(engine_flush_page(w->e, &k), -ENOENT);
	assert_int_equal(world_get(w, 1, 3, 3), -ENOENT);
	assert_int_equal(engine_flush_object(w->e, 1, k.oid, &pages), 0);
	assert_int_equal(pages, 19);
	assert_int_equal(engine_flush_object(w->e, 1, k.oid, &pages), -ENOENT);
	assert_int_equal(world_get(w, 1, 4, 4), -ENOENT);
	assert_int_equal(STAT(pages), 0);
}

/* Too large to be flushed entry by entry: one store, and the reaper does the rest. */
static void a_sparse_object_is_flushed_at_once(void **state)
{
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1};
	uint64_t pages;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(world_put(w, 1, i * 100000, i), 0);
	assert_int_equal(engine_flush_object(w->e, 1, k.oid, &pages), 0);
	assert_int_equal(pages, 300);
	assert_int_equal(STAT(pages), 0);
	assert_int_equal(world_get(w, 1, 100000, 1), -ENOENT);
	assert_int_equal(world_put(w, 1, 100000, 77), 0);
	world_run(w, 50);
	assert_int_equal(world_get(w, 1, 100000, 77), 0);
	assert_int_equal(world_get(w, 1, 200000, 2), -ENOENT);
}

static void a_destroyed_pool_is_gone_and_its_memory_comes_back(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 200, 0);
	assert_int_equal(engine_pool_destroy(w->e, 1), 0);
	assert_int_equal(world_get(w, 1, 0, 0), -ENOENT);
	world_run(w, 100);
	assert_int_equal(STAT(live_bytes), 0);
	world_pool(w, 1 + ENGINE_MAX_POOLS, PERSISTENT, 0, 1, 0);
	assert_int_equal(world_get(w, 1 + ENGINE_MAX_POOLS, 0, 0), -ENOENT);
}

static void spilled_pages_come_back(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1500, 0);
	assert_true(STAT(segments_spilled) > 10);
	get_many(1, 1500, 0);
	assert_true(STAT(gets_remote) > 500);
	assert_int_equal(STAT(records_corrupt), 0);
}

static void everything_acknowledged_survives_a_crash(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1000, 0);
	put_many(1, 300, 5000);
	world_crash(w);
	assert_true(world_sane(w));
	get_many(1, 300, 5000);
	for (uint32_t i = 300; i < 1000; i++)
		assert_int_equal(world_get(w, 1, i, i), 0);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 1000);
}

static void a_full_cluster_refuses_and_loses_nothing(void **state)
{
	uint32_t n = 0;

	(void)state;
	w->give_regions = false;
	world_grant(w, 0);
	world_grant(w, 1);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	while (world_put(w, 1, n, n) == 0)
		n++;
	assert_true(n > 500);
	get_many(1, n, 0);
	/* tmem's rule: after a refused put the old bytes must not come back. */
	assert_int_equal(world_put(w, 1, 5, 999), -ENOSPC);
	assert_int_equal(world_get(w, 1, 5, 5), -ENOENT);
	assert_true(STAT(puts_refused) >= 2);
	/* Room comes back when pages are flushed. */
	for (uint32_t i = 0; i < n; i++) {
		struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = i};

		engine_flush_page(w->e, &k);
	}
	world_run(w, 2000);
	put_many(1, 200, 7);
}

/* The moves that failed are tried again well within the time that a put may wait. */
static void a_put_waits_for_a_move_to_be_tried_again(void **state)
{
	uint64_t failures;
	uint32_t n = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_REFUSES;
	while (world_put(w, 1, n, n) == 0)
		n++;
	failures = STAT(move_failures);
	for (unsigned i = 0; i < 1000 && STAT(move_failures) == failures; i++)
		world_run(w, 1);
	assert_true(STAT(move_failures) > failures);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_FINE;
	assert_int_equal(world_put(w, 1, n, n), 0);
	get_many(1, n + 1, 0);
}

/* Two copies cannot be made on one donor: waiting would only make the guest slow. */
static void a_put_that_nothing_can_help_is_refused_at_once(void **state)
{
	uint32_t n = 0;
	uint64_t start;

	(void)state;
	w->give_regions = false;
	world_grant(w, 0);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	while (world_put(w, 1, n, n) == 0)
		n++;
	world_run(w, 5000);
	start = w->now_ns;
	assert_int_equal(world_put(w, 1, n, n), -ENOSPC);
	assert_true(w->now_ns - start < w->cfg.put_wait_ns / 10);
	get_many(1, n, 0);
}

static void with_two_regions(struct engine_config *cfg)
{
	cfg->max_regions = 2;
}

static int setup_two_regions(void **state)
{
	(void)state;
	w = world_new_with(with_two_regions);
	return 0;
}

/* No more regions are asked for than can be kept, and no put waits for one. */
static void a_full_region_table_asks_for_no_more(void **state)
{
	uint32_t n = 0;

	(void)state;
	w->give_regions = true;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	while (world_put(w, 1, n, n) == 0)
		n++;
	assert_int_equal(STAT(regions), 2);
	assert_int_equal(w->regions, 2);
	assert_int_equal(w->wanted, 0);
	world_run(w, 5000);
	uint64_t start = w->now_ns;
	assert_int_equal(world_put(w, 1, n, n), -ENOSPC);
	assert_true(w->now_ns - start < w->cfg.put_wait_ns / 10);
	get_many(1, n, 0);
}

static void a_quota_refuses_new_pages_only(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	atomic_store(&w->quota[0].limit_pages, 10);
	put_many(1, 10, 0);
	assert_int_equal(world_put(w, 1, 10, 10), -ENOSPC);
	assert_int_equal(world_put(w, 1, 9, 500), 0);
	assert_int_equal(world_get(w, 1, 9, 500), 0);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 10);
}

static void a_lost_donor_at_two_copies_loses_nothing_and_is_repaired(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1500, 0);
	for (unsigned r = 0; r < WORLD_REGIONS; r++) {
		const struct engine_region_desc *d = engine_region(w->e, r);

		if (d && d->donor == 1)
			engine_region_lost(w->e, r);
	}
	engine_donor_state(w->e, 1, false, true);
	assert_true(STAT(segments_underreplicated) > 0);
	w->give_regions = false;
	for (unsigned i = 0; i < 3; i++) {
		world_grant(w, 0);
		world_grant(w, 2);
	}
	world_run(w, 3000);
	assert_int_equal(STAT(segments_underreplicated), 0);
	assert_true(STAT(segments_repaired) > 0);
	get_many(1, 1500, 0);
}

static void a_lost_donor_at_one_copy_gives_eio_and_nothing_wrong(void **state)
{
	unsigned lost = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	for (unsigned r = 0; r < WORLD_REGIONS; r++) {
		const struct engine_region_desc *d = engine_region(w->e, r);

		if (d && d->donor == 1)
			engine_region_lost(w->e, r);
	}
	for (uint32_t i = 0; i < 1500; i++) {
		int rc = world_get(w, 1, i, i);

		assert_true(rc == 0 || rc == -EIO);
		lost += rc != 0;
	}
	assert_true(lost > 0);
	/* A lost key can be put again. */
	put_many(1, 1500, 9000);
	get_many(1, 1500, 9000);
}

static void flipped_bits_are_never_delivered(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1500, 0);
	w->mood[2] = DONOR_FLIPS_BITS;
	get_many(1, 1500, 0);
	assert_true(STAT(records_corrupt) > 0);
	assert_true(w->bad_data > 0);
}

/* One damaged record must not take its whole segment with it. */
static void the_rest_of_a_damaged_last_copy_is_saved(void **state)
{
	unsigned lost = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	world_run(w, 500);
	for (unsigned r = 0; r < WORLD_REGIONS; r++) {
		const struct engine_region_desc *d = engine_region(w->e, r);

		if (!d)
			continue;
		for (uint32_t slot = 0; slot < 16; slot++)
			w->memory[d->region_id][slot * WORLD_SEGMENT + 10000] ^= 4;
		if (d->donor == 0)
			engine_region_revoke(w->e, r);
	}
	engine_donor_state(w->e, 0, true, true);
	world_run(w, 5000);
	assert_int_equal(STAT(regions_revoking), 0);
	for (uint32_t i = 0; i < 1500; i++) {
		int rc = world_get(w, 1, i, i);

		assert_true(rc == 0 || rc == -EIO);
		lost += rc != 0;
	}
	assert_true(lost > 0 && lost <= STAT(segments));
}

static void a_region_longer_than_can_be_used_is_used_in_part(void **state)
{
	struct engine_region_desc r = {.region_id = 31,
		.epoch = 1,
		.len_bytes = (ENGINE_REGION_MAX_SLOTS + 10ull) * WORLD_SEGMENT,
		.donor_name = "big"};
	int at;

	(void)state;
	at = engine_region_add(w->e, &r);
	assert_true(at >= 0);
	assert_int_equal(STAT(remote_slots), ENGINE_REGION_MAX_SLOTS);
	world_crash(w);
	assert_int_equal(STAT(remote_slots), ENGINE_REGION_MAX_SLOTS);
	engine_region_lost(w->e, (unsigned)at);
	assert_int_equal(STAT(remote_slots), 0);
}

static void a_silent_donor_costs_the_hedge_time(void **state)
{
	uint64_t start;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1500, 0);
	world_run(w, 200);
	w->mood[0] = DONOR_SILENT;
	for (uint32_t i = 0; i < 100; i++) {
		start = w->now_ns;
		assert_int_equal(world_get(w, 1, i, i), 0);
		assert_true(w->now_ns - start < w->cfg.hedge_ns * 3);
	}
	w->mood[0] = DONOR_FINE;
	world_run(w, 10);
}

/* One copy each, many readers: those who wait for the silent donor must not hold up the others. */
static void a_silent_donor_does_not_take_every_read(void **state)
{
	struct engine_req req[200];
	uint8_t page[ENGINE_PAGE_BYTES];
	unsigned right = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	world_run(w, 200);
	w->mood[0] = DONOR_SILENT;
	for (uint32_t i = 0; i < 200; i++) {
		struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = i};

		req[i].done = ignore_done;
		req[i].kind = 0;
		engine_get(w->e, &k, page, &req[i]);
		world_run(w, 10);
	}
	for (uint32_t i = 0; i < 1500; i++) {
		struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = i};

		right += engine_get(w->e, &k, page, &req[0]) == 0;
		if (req[0].kind) {
			world_run(w, 20);
			right += req[0].kind == 0;
			engine_cancel(w->e, &req[0]);
			req[0].kind = 0;
		}
	}
	assert_true(right > 800); /* a quarter of the pages is with the silent donor */
	for (uint32_t i = 1; i < 200; i++)
		engine_cancel(w->e, &req[i]);
	w->mood[0] = DONOR_FINE;
	world_run(w, 10);
}

static void a_silent_donor_alone_ends_in_a_timeout(void **state)
{
	unsigned timeouts = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	world_run(w, 200);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_SILENT;
	for (uint32_t i = 0; i < 3; i++)
		timeouts += world_get(w, 1, i, i) == -ETIMEDOUT;
	assert_int_equal(timeouts, 3);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_FINE;
	world_run(w, 10);
	get_many(1, 1500, 0);
}

static void a_revoked_region_is_emptied_and_given_back(void **state)
{
	unsigned revoked = 0;

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == 0) {
			engine_region_revoke(w->e, r);
			revoked++;
		}
	engine_donor_state(w->e, 0, true, true);
	assert_true(revoked > 0);
	world_run(w, 3000);
	assert_true(w->released >= revoked);
	assert_int_equal(STAT(regions_revoking), 0);
	get_many(1, 1500, 0);
}

/* The only donor wants its memory back: what fits the local tier is pulled back into it. */
static void with_no_other_donor_data_comes_home(void **state)
{
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1};
	unsigned region;

	(void)state;
	w->give_regions = false;
	region = world_grant(w, 0);
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 700, 0);
	assert_true(STAT(segments_spilled) > 4);
	for (k.index = 0; k.index < 600; k.index++)
		engine_flush_page(w->e, &k);
	engine_region_revoke(w->e, region);
	world_run(w, 3000);
	assert_int_equal(w->released, 1);
	for (uint32_t i = 600; i < 700; i++)
		assert_int_equal(world_get(w, 1, i, i), 0);
}

static void ephemeral_goes_first_from_who_is_furthest_over(void **state)
{
	uint64_t modest, greedy, pages;

	(void)state;
	w->give_regions = false;
	world_pool(w, 1, 0, 0, 0, 0);
	world_pool(w, 2, 0, 1, 0, 0);
	world_pool(w, 3, PERSISTENT, 2, 1, 0);
	put_many(1, 60, 0);
	put_many(2, 240, 0);
	put_many(3, 150, 0);
	engine_account_usage(w->e, 0, &modest, &pages);
	assert_int_equal(pages, 60);
	engine_account_usage(w->e, 1, &greedy, &pages);
	assert_true(pages < 240);
	/* Persistent pages press on until no ephemeral one is left; none of them is lost. */
	uint32_t n = 150;

	while (world_put(w, 3, n, n) == 0)
		n++;
	engine_account_usage(w->e, 0, &modest, &pages);
	assert_int_equal(pages, 0);
	get_many(3, n, 0);
	assert_int_equal(world_get(w, 1, 0, 0), -ENOENT);
}

static void an_ephemeral_get_is_right_or_a_miss(void **state)
{
	unsigned hits = 0;

	(void)state;
	world_pool(w, 1, 0, 0, 0, 0);
	for (uint32_t i = 0; i < 3000; i++)
		assert_int_equal(world_put(w, 1, i, i), 0);
	for (uint32_t i = 0; i < 3000; i++) {
		int rc = world_get(w, 1, i, i);

		assert_true(rc == 0 || rc == -ENOENT);
		hits += rc == 0;
	}
	assert_true(hits > 100);
	assert_int_equal(STAT(segments_spilled), 0);
}

static void with_disk(struct engine_config *cfg)
{
	cfg->disk_segments = 64;
}

static int setup_disk(void **state)
{
	(void)state;
	w = world_new_with(with_disk);
	return 0;
}

static void the_disk_takes_what_donors_cannot(void **state)
{
	(void)state;
	w->give_regions = false;
	world_pool(w, 1, PERSISTENT, 0, 1, ENGINE_DISK_OVERFLOW);
	put_many(1, 1200, 0);
	assert_true(STAT(segments_to_disk) > 10);
	get_many(1, 1200, 0);
	assert_true(STAT(gets_disk) > 100);
	world_crash(w);
	get_many(1, 1200, 0);
	/* Donors appear: copies move there, and the disk is empty again. */
	w->give_regions = true;
	world_run(w, 5000);
	assert_int_equal(STAT(disk_slots_used), 0);
	get_many(1, 1200, 0);
}

static void a_mirror_on_disk_outlives_every_donor(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, ENGINE_DISK_MIRROR);
	put_many(1, 1200, 0);
	world_run(w, 500);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r))
			engine_region_lost(w->e, r);
	get_many(1, 1200, 0);
}

static void cleaning_keeps_the_live_share(void **state)
{
	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	for (uint32_t n = 0; n < 8000; n++) {
		uint32_t i = n * 7919u % 1500;

		assert_int_equal(world_put(w, 1, i, 100000 + i), 0);
	}
	world_run(w, 2000);
	assert_true(STAT(segments_cleaned) > 0);
	for (uint32_t i = 0; i < 1500; i++)
		assert_int_equal(world_get(w, 1, i, 100000 + i), 0);
}

static void same_filled_pages_take_no_room(void **state)
{
	struct engine_key k = {.oid = {9}, .pool = 1};
	uint8_t page[ENGINE_PAGE_BYTES], back[ENGINE_PAGE_BYTES];

	(void)state;
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	for (k.index = 0; k.index < 1000; k.index++) {
		memset(page, (int)k.index & 0xff, sizeof(page));
		assert_int_equal(engine_put(w->e, &k, page, NULL), 0);
	}
	assert_int_equal(STAT(live_bytes), 0);
	world_crash(w);
	for (k.index = 0; k.index < 1000; k.index++) {
		memset(page, (int)k.index & 0xff, sizeof(page));
		assert_int_equal(engine_get(w->e, &k, back, NULL), 0);
		assert_memory_equal(page, back, sizeof(page));
	}
}

static void another_geometry_is_refused_with_a_reason(void **state)
{
	struct engine_config cfg = w->cfg;
	struct engine *other;
	char err[256] = "";

	(void)state;
	cfg.max_pages *= 2;
	engine_close(w->e);
	assert_int_equal(engine_open(w->path, &cfg, &env_system, &(struct engine_ops){0}, NULL,
				 &other, err, sizeof(err)),
		-EINVAL);
	assert_non_null(strstr(err, "max_pages"));
	cfg.segment_bytes = 12345;
	assert_int_equal(engine_open(w->path, &cfg, &env_system, &(struct engine_ops){0}, NULL,
				 &other, err, sizeof(err)),
		-EINVAL);
	assert_non_null(strstr(err, "segment_bytes"));
	free(w->disk);
	free(w);
	w = world_new();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_last_put_is_what_a_get_returns),
		TEST(flushes_make_misses),
		TEST(a_sparse_object_is_flushed_at_once),
		TEST(a_destroyed_pool_is_gone_and_its_memory_comes_back),
		TEST(spilled_pages_come_back),
		TEST(everything_acknowledged_survives_a_crash),
		TEST(a_full_cluster_refuses_and_loses_nothing),
		TEST(a_put_waits_for_a_move_to_be_tried_again),
		TEST(a_put_that_nothing_can_help_is_refused_at_once),
		cmocka_unit_test_setup_teardown(
			a_full_region_table_asks_for_no_more, setup_two_regions, teardown),
		TEST(a_quota_refuses_new_pages_only),
		TEST(a_lost_donor_at_two_copies_loses_nothing_and_is_repaired),
		TEST(a_lost_donor_at_one_copy_gives_eio_and_nothing_wrong),
		TEST(flipped_bits_are_never_delivered),
		TEST(the_rest_of_a_damaged_last_copy_is_saved),
		TEST(a_region_longer_than_can_be_used_is_used_in_part),
		TEST(a_silent_donor_costs_the_hedge_time),
		TEST(a_silent_donor_does_not_take_every_read),
		TEST(a_silent_donor_alone_ends_in_a_timeout),
		TEST(a_revoked_region_is_emptied_and_given_back),
		TEST(with_no_other_donor_data_comes_home),
		TEST(ephemeral_goes_first_from_who_is_furthest_over),
		TEST(an_ephemeral_get_is_right_or_a_miss),
		cmocka_unit_test_setup_teardown(
			the_disk_takes_what_donors_cannot, setup_disk, teardown),
		cmocka_unit_test_setup_teardown(
			a_mirror_on_disk_outlives_every_donor, setup_disk, teardown),
		TEST(cleaning_keeps_the_live_share),
		TEST(same_filled_pages_take_no_room),
		TEST(another_geometry_is_refused_with_a_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
