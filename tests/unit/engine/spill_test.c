/* Ephemeral segments on donors: a cache that makes way at once and never answers wrongly. */
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
#define SPILL	   ENGINE_POOL_SPILL
#define CACHE	   1u
#define KEEP	   2u
#define SLOTS	   16u /* of a region of the test world */

static struct world *w;
static _Atomic uint64_t lane_wants[2];

#define STAT(name) stat_get(&engine_stats(w->e)->name)

static void with_slots(struct engine_config *cfg)
{
	cfg->local_segments = 40;
	cfg->max_pages = 32768;
	cfg->max_segments = 2048;
	cfg->lanes = 2;
	cfg->want_since_ns = lane_wants;
}

static int setup(void **state)
{
	(void)state;
	w = world_new_with(with_slots);
	w->give_regions = false;
	world_pool(w, CACHE, SPILL, 0, 0, 0);
	return 0;
}

static void with_few_entries(struct engine_config *cfg)
{
	with_slots(cfg);
	cfg->max_pages = 2048;
}

static void with_few_regions(struct engine_config *cfg)
{
	with_slots(cfg);
	cfg->max_regions = 4;
}

static int setup_few_regions(void **state)
{
	(void)state;
	w = world_new_with(with_few_regions);
	w->give_regions = false;
	world_pool(w, CACHE, SPILL, 0, 0, 0);
	return 0;
}

static int setup_few_entries(void **state)
{
	(void)state;
	w = world_new_with(with_few_entries);
	w->give_regions = false;
	world_pool(w, CACHE, SPILL, 0, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

/* Puts with time between them, so that donors keep up. */
static void put_many(uint32_t pool, uint32_t first, uint32_t n, uint64_t seed)
{
	for (uint32_t i = first; i < first + n; i++) {
		assert_int_equal(world_put(w, pool, i, seed + i), 0);
		if (i % 4 == 0)
			world_run(w, 1);
	}
}

static unsigned get_many(uint32_t pool, uint32_t first, uint32_t n, uint64_t seed)
{
	unsigned hits = 0;

	for (uint32_t i = first; i < first + n; i++) {
		int rc = world_get(w, pool, i, seed + i);

		assert_true(rc == 0 || rc == -ENOENT);
		hits += rc == 0;
	}
	return hits;
}

/* Everything on donors that is to spare is in use. */
static void fill_donors(unsigned regions)
{
	for (unsigned i = 0; i < regions; i++)
		world_grant(w, i % WORLD_DONORS);
	put_many(CACHE, 0, regions * SLOTS * 40 + 2000, 0);
	world_run(w, 1100);
	assert_true(STAT(remote_slots_ephemeral) > 0);
}

static void what_is_cold_waits_on_a_donor(void **state)
{
	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	put_many(CACHE, 0, 2000, 0);
	assert_true(STAT(ephemeral_spilled) > 20);
	assert_int_equal(STAT(segments_spilled), 0);
	assert_int_equal(STAT(segments_underreplicated), 0);
	assert_true(get_many(CACHE, 0, 2000, 0) > 1900);
	assert_true(STAT(gets_remote) > 700);
	world_crash(w);
	assert_true(get_many(CACHE, 0, 2000, 0) > 1900);
}

static void without_the_flag_nothing_is_copied(void **state)
{
	(void)state;
	world_grant(w, 0);
	world_pool(w, 3, 0, 0, 0, 0);
	put_many(3, 0, 3000, 0);
	assert_int_equal(STAT(ephemeral_spilled), 0);
	assert_int_equal(w->asked[1], 0);
	assert_int_equal(w->wanted, 0);
	struct engine_pool_desc d = {.id = 9, .flags = PERSISTENT | SPILL, .copies = 1};

	assert_int_equal(engine_pool_add(w->e, &d), -EINVAL);
}

/* It asks for regions while it can use them, one at a time, and not when others do. */
static void it_asks_for_regions(void **state)
{
	(void)state;
	w->give_regions = true;
	put_many(CACHE, 0, 4000, 0);
	assert_true(w->regions >= 6);
	assert_true(get_many(CACHE, 0, 4000, 0) > 3900);
}

static void a_page_read_twice_comes_back(void **state)
{
	uint32_t i = 0;

	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	put_many(CACHE, 0, 2000, 0);
	world_run(w, 50);
	for (; i < 2000; i++) {
		uint64_t remote = STAT(gets_remote);

		assert_true(world_get(w, CACHE, i, i) <= 0);
		if (STAT(gets_remote) > remote)
			break;
	}
	assert_true(i < 2000);
	uint64_t local = STAT(gets_local), remote = STAT(gets_remote);

	assert_int_equal(world_get(w, CACHE, i, i), 0);
	assert_int_equal(STAT(gets_remote), remote + 1);
	assert_int_equal(world_get(w, CACHE, i, i), 0);
	assert_int_equal(STAT(gets_local), local + 1);
}

static unsigned read_or_put(uint32_t key)
{
	int rc = world_get(w, CACHE, key, key);

	assert_true(rc == 0 || rc == -ENOENT);
	if (rc)
		assert_int_equal(world_put(w, CACHE, key, key), 0);
	if (key % 4 == 0)
		world_run(w, 1);
	return rc == 0;
}

/* A loop over more than the local tier holds is served from where its pages are: copying them to
 * and fro would cost as much as it serves. */
static void a_loop_is_left_where_it_is(void **state)
{
	unsigned hits = 0, reads = 0;
	uint64_t written;

	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	for (uint32_t i = 0; i < 1900; i++)
		read_or_put(i);
	written = STAT(ephemeral_spilled);
	for (unsigned pass = 0; pass < 4; pass++)
		for (uint32_t i = 0; i < 1900; i++, reads++)
			hits += read_or_put(i);
	print_message("%u of %u reads hit; copies %lu, then %lu more\n", hits, reads,
		(unsigned long)written, (unsigned long)(STAT(ephemeral_spilled) - written));
	assert_true(hits > reads * 95 / 100);
	assert_true(STAT(ephemeral_spilled) - written < 2 * written);
}

/* A hot set that fits the local tier is read there, and stays, while a scan of thrice all there is
 * passes by. */
static void a_scan_over_donors_leaves_the_hot_set(void **state)
{
	unsigned hits = 0, reads = 0;
	uint64_t local;

	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	for (uint32_t i = 0; i < 3000; i++)
		read_or_put(i % 300);
	local = STAT(gets_local);
	for (uint32_t scan = 1000; scan < 9000; scan += 4, reads++) {
		hits += read_or_put(reads % 300);
		for (unsigned k = 0; k < 4; k++)
			read_or_put(scan + k);
	}
	print_message("%u of %u reads of the hot set hit, %lu locally\n", hits, reads,
		(unsigned long)(STAT(gets_local) - local));
	assert_true(hits > reads * 95 / 100);
	assert_true(STAT(gets_local) - local > reads * 90 / 100);
}

/* Donors full of ephemeral copies take as many persistent pages as empty ones. */
static void persistent_pages_have_all_the_room(void **state)
{
	uint32_t with, without;
	struct world *cache = w;

	(void)state;
	fill_donors(4);
	world_pool(w, KEEP, PERSISTENT, 1, 2, 0);
	for (with = 0; world_put(w, KEEP, with, with) == 0; with++)
		;
	assert_int_equal(STAT(remote_slots_ephemeral), 0);
	for (uint32_t i = 0; i < with; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
	get_many(CACHE, 0, 200, 0);
	assert_true(world_sane(w));

	w = world_new_with(with_slots);
	w->give_regions = false;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	world_pool(w, KEEP, PERSISTENT, 1, 2, 0);
	for (without = 0; world_put(w, KEEP, without, without) == 0; without++)
		;
	world_delete(w);
	w = cache;
	print_message("%u pages with, %u without\n", with, without);
	assert_true(with * 100 >= without * 98);
}

/* While a copy is under way to a donor that does not answer, its local slot can be had. */
static void no_put_waits_for_a_copy(void **state)
{
	(void)state;
	world_grant(w, 0);
	w->mood[0] = DONOR_SILENT;
	put_many(CACHE, 0, 1200, 0);
	world_run(w, 50);
	assert_true(w->queued > 0);
	world_pool(w, KEEP, PERSISTENT, 1, 1, 0);
	uint64_t waited = STAT(puts_waited);
	uint32_t n = 0;

	/* All slots but those of the cleaner's reserve. */
	for (; STAT(puts_waited) == waited && n < 38 * 28; n++)
		assert_int_equal(world_put(w, KEEP, n, n), 0);
	assert_int_equal(STAT(puts_waited), waited);
	/* Late writes harm nobody. */
	w->mood[0] = DONOR_FINE;
	world_run(w, 100);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
	get_many(CACHE, 0, 1200, 0);
}

/* A slot that is being written to is nobody else's before that has ended. */
static void a_late_copy_hits_its_own_slot(void **state)
{
	(void)state;
	fill_donors(2);
	w->mood[0] = w->mood[1] = DONOR_SILENT;
	put_many(CACHE, 10000, 600, 0);
	assert_true(w->queued > 0);
	w->mood[1] = DONOR_FINE;
	world_pool(w, KEEP, PERSISTENT, 1, 1, 0);
	uint32_t n = 0;

	for (; n < 1500; n++)
		if (world_put(w, KEEP, n, n) != 0)
			break;
	assert_true(n > 1000);
	w->mood[0] = DONOR_FINE;
	world_run(w, 200);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
	get_many(CACHE, 0, 2000, 0);
}

static void a_revoked_region_is_given_back_at_once(void **state)
{
	(void)state;
	fill_donors(2);
	w->mood[0] = DONOR_SILENT;
	engine_region_revoke(w->e, 0);
	world_run(w, 30);
	assert_int_equal(w->released, 1);
	assert_true(world_sane(w));
	/* Its pages are misses, and their entries go by themselves. */
	get_many(CACHE, 0, 500, 0);
	world_run(w, 200);
	uint64_t held = STAT(pages);

	assert_true(held < 16 * 40 + 40 * 40);
	assert_true(world_sane(w));
}

static void a_lost_donor_makes_misses(void **state)
{
	unsigned before, after;

	(void)state;
	fill_donors(2);
	before = get_many(CACHE, 0, 4000, 0);
	engine_region_lost(w->e, 0);
	world_run(w, 200);
	after = get_many(CACHE, 0, 4000, 0);
	assert_true(after < before);
	assert_int_equal(STAT(gets_lost), 0);
	assert_int_equal(STAT(segments_lost), 0);
	assert_int_equal(STAT(segments_underreplicated), 0);
	assert_true(STAT(pages) < 16 * 40 + 40 * 40);
}

/* Known to be down: a miss at once. Silent: a miss after the limit for caches. */
static void nobody_waits_long(void **state)
{
	uint64_t before;

	(void)state;
	fill_donors(1);
	engine_donor_state(w->e, 0, false, false);
	before = w->now_ns;
	get_many(CACHE, 0, 100, 0);
	assert_true(w->now_ns - before < 100 * 20000000ull);
	engine_donor_state(w->e, 0, true, false);
	w->mood[0] = DONOR_SILENT;
	for (uint32_t i = 100; i < 1000; i++) {
		before = w->now_ns;
		int rc = world_get(w, CACHE, i, i);

		assert_true(rc == 0 || rc == -ENOENT);
		assert_true(w->now_ns - before <= w->cfg.cache_timeout_ns + 20000000);
	}
	w->mood[0] = DONOR_FINE;
	world_run(w, 20);
	get_many(CACHE, 100, 900, 0);
}

static void a_lying_donor_makes_misses(void **state)
{
	unsigned hits, remote;

	(void)state;
	fill_donors(1);
	remote = (unsigned)STAT(gets_remote);
	w->mood[0] = DONOR_FLIPS_BITS;
	hits = get_many(CACHE, 0, 3000, 0);
	assert_int_equal(STAT(gets_remote), remote);
	assert_int_equal(STAT(gets_lost), 0);
	assert_true(w->bad_data > 0);
	/* Once gone, they stay gone. */
	w->mood[0] = DONOR_FINE;
	assert_true(get_many(CACHE, 0, 3000, 0) <= hits);
	assert_int_equal(STAT(gets_remote), remote);
}

/* Overwritten and flushed pages never come back, whatever their copies on donors hold. */
static void older_bytes_stay_away(void **state)
{
	(void)state;
	fill_donors(4);
	put_many(CACHE, 0, 3000, 100000);
	for (uint32_t i = 3000; i < 4000; i++)
		engine_flush_page(
			w->e, &(struct engine_key){.oid = {1, 2, 3}, .pool = CACHE, .index = i});
	get_many(CACHE, 0, 3000, 100000);
	world_crash(w);
	get_many(CACHE, 0, 3000, 100000);
	for (uint32_t i = 3000; i < 4000; i++)
		assert_int_equal(world_get(w, CACHE, i, i), -ENOENT);
}

static void a_mostly_dead_copy_goes(void **state)
{
	(void)state;
	for (unsigned d = 0; d < 2; d++)
		world_grant(w, d);
	put_many(CACHE, 0, 1800, 0);
	uint64_t used = STAT(remote_slots_ephemeral), dropped = STAT(ephemeral_dropped);

	assert_true(used > 10);
	for (uint32_t i = 0; i < 1800; i++)
		if (i % 6)
			engine_flush_page(w->e,
				&(struct engine_key){.oid = {1, 2, 3}, .pool = CACHE, .index = i});
	world_run(w, 50);
	assert_int_equal(STAT(remote_slots_ephemeral), 0);
	assert_true(STAT(ephemeral_dropped) > dropped);
	assert_true(world_sane(w));
}

static void a_grant_takes_the_room_of_copies(void **state)
{
	struct engine_reservation r = {.pages = 0, .objects = 1};
	uint64_t possible;
	int rc;

	(void)state;
	fill_donors(4);
	world_pool(w, KEEP, PERSISTENT, 1, 2, 0);
	/* What 4 x 16 slots hold in two copies, nearly. */
	r.pages = 24 * 14;
	rc = engine_pool_reserve(w->e, KEEP, &r, true, &possible);
	assert_int_equal(rc, 0);
	assert_int_equal(STAT(reserved_short_pages), 0);
	put_many(CACHE, 20000, 2000, 0);
	for (uint32_t i = 0; i < r.pages; i++)
		assert_int_equal(world_put(w, KEEP, i, i), 0);
	assert_int_equal(STAT(puts_refused_granted), 0);
	for (uint32_t i = 0; i < r.pages; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
}

/* Copies do not fill the index: others' puts find entries, and so does a grant. */
static void entries_are_left_to_others(void **state)
{
	struct engine_reservation r = {.pages = 800, .objects = 1};
	uint64_t possible;
	int rc = -ENOSPC;

	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	world_pool(w, KEEP, PERSISTENT, 1, 1, 0);
	put_many(CACHE, 0, 4000, 0);
	world_run(w, 100);
	assert_true(STAT(pages) < 2048);
	put_many(KEEP, 0, 200, 0);
	for (unsigned i = 0; i < 100 && rc == -ENOSPC; i++) {
		rc = engine_pool_reserve(w->e, KEEP, &r, true, &possible);
		world_run(w, 20);
	}
	assert_int_equal(rc, 0);
	put_many(KEEP, 0, 800, 0);
	for (uint32_t i = 0; i < 800; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
}

/* Same-filled pages are in no segment that could go, but they do not fill the index for good. */
static void same_filled_pages_make_way(void **state)
{
	static uint8_t zeros[ENGINE_PAGE_BYTES];
	struct engine_key k = {.oid = {7, 7, 7}, .pool = CACHE};
	unsigned hits = 0;

	(void)state;
	for (k.index = 0; k.index < 4000; k.index++) {
		int rc = engine_put(w->e, &k, zeros, NULL);

		assert_true(rc == 0 || rc == -ENOSPC);
		if (k.index % 8 == 0)
			world_run(w, 1);
	}
	world_pool(w, KEEP, PERSISTENT, 1, 1, 0);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	put_many(KEEP, 0, 1700, 0);
	for (uint32_t i = 0; i < 1700; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
	for (k.index = 0; k.index < 4000; k.index++) {
		uint8_t page[ENGINE_PAGE_BYTES];
		struct engine_req req;
		int rc = engine_get(w->e, &k, page, &req);

		assert_true(rc == 0 || rc == -ENOENT);
		if (rc == 0)
			assert_memory_equal(page, zeros, sizeof(page));
		hits += rc == 0;
	}
	assert_true(hits < 2048);
}

static void a_cache_at_its_quota_makes_room_itself(void **state)
{
	unsigned hits;

	(void)state;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	atomic_store(&w->quota[0].limit_pages, 1500);
	for (uint32_t i = 0; i < 3000; i++) {
		int rc = world_put(w, CACHE, i, i);

		assert_true(rc == 0 || rc == -ENOSPC);
		world_run(w, 1);
	}
	assert_true(atomic_load(&w->quota[0].used_pages) <= 1500);
	hits = get_many(CACHE, 1500, 1500, 0);
	print_message("%u of the last 1500 pages\n", hits);
	assert_true(hits > 1000);
}

/* Another lane wants regions for persistent segments: what is ephemeral here makes way, one region
 * after the other, and no more are asked for. */
static void lanes_make_way_for_each_other(void **state)
{
	(void)state;
	fill_donors(6);
	world_run(w, 12000);
	assert_int_equal(w->released, 0);
	lane_wants[1] = w->now_ns;
	world_run(w, 40);
	assert_int_equal(w->released, 0);
	world_run(w, 40);
	assert_int_equal(w->released, 1);
	put_many(CACHE, 50000, 400, 0);
	assert_int_equal(w->wanted, 0);
	world_run(w, 1000);
	assert_true(w->released >= 3);
	/* Not before it is for long: lane 0 itself wants nothing. */
	assert_int_equal(lane_wants[0], 0);
	lane_wants[1] = 0;
	get_many(CACHE, 0, 1000, 0);
}

/* Every row for a region is taken, all of one donor, by ephemeral copies: one makes way for another
 * donor's. */
static void other_donors_are_made_room_for(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		world_grant(w, 0);
	put_many(CACHE, 0, 4 * SLOTS * 40, 0);
	world_run(w, 1100);
	assert_int_equal(w->released, 0);
	world_pool(w, KEEP, PERSISTENT, 1, 2, 0);
	put_many(KEEP, 0, 800, 0);
	world_run(w, 2500);
	assert_true(w->released > 0);
	assert_true(w->wanted > 0);
	world_grant(w, 1);
	world_run(w, 500);
	assert_true(STAT(segments_spilled) > 0);
	for (uint32_t i = 0; i < 800; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
}

/* A slot that is being written to cannot make way, so some stay free. */
static void each_donor_keeps_some_slots_free(void **state)
{
	(void)state;
	fill_donors(3);
	w->mood[0] = w->mood[1] = w->mood[2] = DONOR_SILENT;
	put_many(CACHE, 20000, 800, 0);
	assert_true(STAT(remote_slots) - STAT(remote_slots_used) >= 3 * (w->cfg.moves - 1));
}

/* Reads from a slot that others get meanwhile. */
static void a_read_of_a_dropped_copy_is_a_miss(void **state)
{
	(void)state;
	fill_donors(2);
	world_pool(w, KEEP, PERSISTENT, 1, 1, 0);
	w->per_step = 2;
	for (uint32_t i = 0; i < 1000; i++) {
		int rc = world_put(w, KEEP, i, i);

		assert_true(rc == 0 || rc == -ENOSPC);
		rc = world_get(w, CACHE, i * 3, i * 3);
		assert_true(rc == 0 || rc == -ENOENT);
	}
}

static void kills_leave_what_is_right(void **state)
{
	(void)state;
	w->give_regions = true;
	for (uint32_t i = 0; i < 6000; i++) {
		uint32_t key = (i * 37u) % 3000;
		int rc = world_get(w, CACHE, key, key);

		assert_true(rc == 0 || rc == -ENOENT);
		if (rc)
			assert_int_equal(world_put(w, CACHE, key, key), 0);
		if (i % 997 == 996) {
			world_crash(w);
			assert_true(world_sane(w));
		}
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_cold_waits_on_a_donor),
		TEST(without_the_flag_nothing_is_copied),
		TEST(it_asks_for_regions),
		TEST(a_page_read_twice_comes_back),
		TEST(a_loop_is_left_where_it_is),
		TEST(a_scan_over_donors_leaves_the_hot_set),
		TEST(persistent_pages_have_all_the_room),
		TEST(no_put_waits_for_a_copy),
		TEST(a_late_copy_hits_its_own_slot),
		TEST(a_revoked_region_is_given_back_at_once),
		TEST(a_lost_donor_makes_misses),
		TEST(nobody_waits_long),
		TEST(a_lying_donor_makes_misses),
		TEST(older_bytes_stay_away),
		TEST(a_mostly_dead_copy_goes),
		TEST(a_grant_takes_the_room_of_copies),
		cmocka_unit_test_setup_teardown(
			entries_are_left_to_others, setup_few_entries, teardown),
		cmocka_unit_test_setup_teardown(
			same_filled_pages_make_way, setup_few_entries, teardown),
		TEST(a_cache_at_its_quota_makes_room_itself),
		TEST(lanes_make_way_for_each_other),
		TEST(each_donor_keeps_some_slots_free),
		cmocka_unit_test_setup_teardown(
			other_donors_are_made_room_for, setup_few_regions, teardown),
		TEST(a_read_of_a_dropped_copy_is_a_miss),
		TEST(kills_leave_what_is_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
