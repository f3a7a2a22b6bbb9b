/* What could starve, spin or be wasted in the store: one test each, with donors that misbehave. */
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
#define MS	   1000000ull

static struct world *w;

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

#define STAT(name) stat_get(&engine_stats(w->e)->name)

static void put_many(uint32_t pool, uint32_t n, uint64_t seed)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_put(w, pool, i, seed + i), 0);
}

struct probe {
	struct engine_req req;
	uint8_t page[ENGINE_PAGE_BYTES];
	int status;
	uint64_t done_ns;
};

static void probe_done(struct engine_req *req, int status)
{
	struct probe *p = (struct probe *)req;

	p->status = status;
	p->done_ns = w->now_ns;
}

static void probe_get(struct probe *p, uint32_t pool, uint32_t index)
{
	struct engine_key k = {.oid = {1, 2, 3}, .pool = pool, .index = index};

	*p = (struct probe){.req.done = probe_done};
	p->status = engine_get(w->e, &k, p->page, &p->req);
	engine_kick(w->e);
}

/* Every new get that finds its donor away must not put off the time limit of those before it. */
static void a_get_times_out_though_others_keep_failing(void **state)
{
	static struct probe probe[400];
	uint32_t first = 0;

	(void)state;
	w = world_new();
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	w->give_regions = false;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		engine_donor_state(w->e, d, false, false);
	w->cfg.get_timeout_ns = 200 * MS;
	engine_tune(w->e, &w->cfg);
	while (probe_get(&probe[0], 1, first), probe[0].status == 0)
		first++;
	for (unsigned i = 1; i < 400; i++) {
		probe_get(&probe[i], 1, first);
		world_run(w, 1);
	}
	assert_int_equal(probe[0].status, -ETIMEDOUT);
	assert_true(probe[0].done_ns - probe[0].req.start_ns < 250 * MS);
	world_run(w, 300);
	for (unsigned i = 0; i < 400; i++)
		assert_int_equal(probe[i].status, -ETIMEDOUT);
}

static void two_fetches(struct engine_config *cfg)
{
	cfg->fetches = 2;
}

static void the_fewest_fetches_still_read_from_donors(void **state)
{
	(void)state;
	w = world_new_with(two_fetches);
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 1500, 0);
	for (uint32_t i = 0; i < 1500; i++)
		assert_int_equal(world_get(w, 1, i, i), 0);
}

static void large_tier(struct engine_config *cfg)
{
	cfg->max_pages = 16384;
	cfg->local_segments = 256;
	cfg->max_segments = 1024;
	cfg->spill_percent = 90;
}

/* One tick gives up after a few writes that were refused at once, however much there is to spill.
 */
static void a_tick_does_not_try_every_segment_in_vain(void **state)
{
	uint64_t before;

	(void)state;
	w = world_new_with(large_tier);
	w->give_regions = false;
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		world_grant(w, d);
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_UNREACHABLE;
	put_many(1, 4000, 0);
	w->now_ns += 1000 * MS;
	before = w->asked[1];
	engine_tick(w->e);
	assert_true(w->asked[1] > before);
	assert_true(w->asked[1] <= before + 32);
}

/* R=2 with one donor: every segment finds a place for one copy and none for the other. */
static void half_copied_segments_are_not_all_tried_in_one_tick(void **state)
{
	uint64_t before;

	(void)state;
	w = world_new_with(large_tier);
	w->give_regions = false;
	for (unsigned i = 0; i < 20; i++)
		world_grant(w, 0);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 4000, 0);
	world_run(w, 3000);
	w->now_ns += 1000 * MS;
	before = STAT(move_failures);
	engine_tick(w->e);
	assert_true(STAT(move_failures) <= before + 32);
}

/* A pool whose segments can be placed is not kept waiting by another's that cannot. */
static void segments_with_a_place_pass_those_without(void **state)
{
	(void)state;
	w = world_new_with(large_tier);
	w->give_regions = false;
	for (unsigned i = 0; i < 20; i++)
		world_grant(w, 0);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	world_pool(w, 2, PERSISTENT, 0, 1, 0);
	put_many(1, 3000, 0);
	world_run(w, 500);
	for (uint32_t i = 0; i < 4000; i++)
		assert_int_equal(world_put(w, 2, i, i), 0);
}

/* A copy that cannot go anywhere is not read again and again to find that out. */
static void a_segment_without_a_place_is_not_loaded(void **state)
{
	uint64_t before;
	unsigned lost = 0;

	(void)state;
	w = world_new();
	w->give_regions = false;
	for (unsigned i = 0; i < 14; i++)
		world_grant(w, i % 2);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 1500, 0);
	world_run(w, 200);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == 1) {
			engine_region_lost(w->e, r);
			lost++;
		}
	assert_true(lost > 0 && STAT(segments_underreplicated) > 10);
	before = w->asked[0];
	world_run(w, 2000);
	assert_true(w->asked[0] - before <= 4);
	for (unsigned i = 0; i < 7; i++)
		world_grant(w, 2);
	world_run(w, 2000);
	assert_int_equal(STAT(segments_underreplicated), 0);
}

/* Segments that can be repaired do not wait for those whose only holder is away. */
static void repair_passes_segments_that_cannot_be_read(void **state)
{
	uint64_t short_rows;

	(void)state;
	w = world_new();
	w->give_regions = false;
	for (unsigned i = 0; i < 24; i++)
		world_grant(w, i % 4);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 2500, 0);
	world_run(w, 200);
	engine_donor_state(w->e, 1, false, false);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == 0)
			engine_region_lost(w->e, r);
	short_rows = STAT(segments_underreplicated);
	assert_true(short_rows > 10);
	world_run(w, 150);
	assert_true(STAT(segments_repaired) > short_rows / 2);
}

/* The moves of a long repair leave one for the puts that need room. */
static void spilling_goes_on_during_a_repair(void **state)
{
	(void)state;
	w = world_new();
	w->give_regions = false;
	for (unsigned i = 0; i < 30; i++)
		world_grant(w, i % 3);
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	put_many(1, 3000, 0);
	world_run(w, 200);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == 0)
			engine_region_lost(w->e, r);
	assert_true(STAT(segments_underreplicated) > 20);
	w->per_step = 1;
	for (uint32_t i = 0; i < 600; i++)
		assert_int_equal(world_put(w, 1, 10000 + i, i), 0);
	assert_true(STAT(segments_underreplicated) > 0);
	w->per_step = 0;
	world_grant(w, 1);
	world_grant(w, 2);
	world_run(w, 2000);
	assert_int_equal(STAT(segments_underreplicated), 0);
}

static void tiny_tier(struct engine_config *cfg)
{
	cfg->local_segments = 8;
	cfg->spill_percent = 90;
}

/* What the cleaner wrote together is not taken apart again while nothing changes. */
static void an_idle_store_does_not_move_its_pages_around(void **state)
{
	uint64_t before;

	(void)state;
	w = world_new_with(tiny_tier);
	w->give_regions = *(bool *)*state;
	for (unsigned p = 1; p <= 4; p++) {
		world_pool(w, p, PERSISTENT, p - 1, 1, 0);
		put_many(p, 6, p * 100);
	}
	world_run(w, 500);
	before = STAT(bytes_relocated);
	world_run(w, 2000);
	assert_int_equal(STAT(bytes_relocated), before);
}

/* More kinds of segments than the local tier has slots, each with a few pages: all sparse for good.
 */
static void a_sparse_store_comes_to_rest(void **state)
{
	uint64_t before;

	(void)state;
	w = world_new_with(tiny_tier);
	for (unsigned p = 1; p <= 12; p++) {
		world_pool(w, p, PERSISTENT, p % 4, (uint8_t)(1 + p / 5), 0);
		put_many(p, 6, p * 100);
	}
	world_run(w, 2000);
	before = STAT(bytes_relocated) + STAT(segments_spilled);
	world_run(w, 2000);
	assert_int_equal(STAT(bytes_relocated) + STAT(segments_spilled), before);
}

/* Two copies, four donors, one of them stopped: its moves hang, but the others take what puts need.
 */
static void a_silent_donor_does_not_hold_up_puts(void **state)
{
	(void)state;
	w = world_new();
	world_pool(w, 1, PERSISTENT, 0, 2, 0);
	for (unsigned i = 0; i < 24; i++)
		world_grant(w, i % WORLD_DONORS);
	w->mood[1] = DONOR_SILENT;
	put_many(1, 1500, 0);
	w->mood[1] = DONOR_FINE;
	world_run(w, 500);
	for (uint32_t i = 0; i < 1500; i++)
		assert_int_equal(world_get(w, 1, i, i), 0);
}

/* Many streams, so that each segment is sealed early: what lives must still come together. */
static void sparse_segments_of_many_streams_are_merged(void **state)
{
	(void)state;
	w = world_new_with(tiny_tier);
	for (unsigned round = 0; round < 15; round++, world_run(w, 100))
		for (unsigned p = 1; p <= 12; p++) {
			if (round == 0)
				world_pool(w, p, PERSISTENT, p % 4, (uint8_t)(1 + p / 5), 0);
			for (uint32_t i = 0; i < 4; i++)
				assert_int_equal(world_put(w, p, round * 4 + i, p + round), 0);
			for (uint32_t i = 0; i < 3; i++) {
				struct engine_key k = {
					.oid = {1, 2, 3}, .pool = p, .index = round * 4 + i};

				assert_int_equal(engine_flush_page(w->e, &k), 0);
			}
		}
	world_run(w, 20000);
	/* 12 pools of 15 pages: a segment or two each, not fifteen. */
	assert_true(STAT(segments) <= 36);
	for (unsigned round = 0; round < 15; round++)
		for (unsigned p = 1; p <= 12; p++)
			assert_int_equal(world_get(w, p, round * 4 + 3, p + round), 0);
}

static void large_index(struct engine_config *cfg)
{
	cfg->max_pages = 4u << 20;
}

/* Segments that only dead pages keep are the reaper's: the cleaner takes each once at most. */
static void the_cleaner_does_not_repeat_itself_while_the_reaper_works(void **state)
{
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1};
	uint64_t before, pages;

	(void)state;
	w = world_new_with(large_index);
	w->give_regions = false;
	for (unsigned i = 0; i < 20; i++)
		world_grant(w, i % 2);
	world_pool(w, 1, PERSISTENT, 0, 1, 0);
	put_many(1, 2000, 0);
	for (uint32_t i = 0; i < 2000; i++)
		if (i % 32)
			assert_int_equal(engine_flush_page(w->e,
						 &(struct engine_key){
							 .oid = {1, 2, 3}, .pool = 1, .index = i}),
				0);
	before = w->asked[0];
	assert_int_equal(engine_flush_object(w->e, 1, k.oid, &pages), 0);
	world_run(w, 500);
	assert_true(w->asked[0] - before <= 120);
}

/* Sealing an open segment that nothing names frees its slot: that is room. */
static void a_dead_open_segment_makes_room(void **state)
{
	(void)state;
	w = world_new_with(tiny_tier);
	w->give_regions = false;
	world_pool(w, 1, 0, 0, 0, 0);
	world_pool(w, 2, PERSISTENT, 0, 1, 0);
	assert_int_equal(world_put(w, 1, 0, 0), 0);
	assert_int_equal(engine_flush_page(w->e,
				 &(struct engine_key){.oid = {1, 2, 3}, .pool = 1, .index = 0}),
		0);
	/* Six slots without the cleaner's two, one of them open and dead. */
	unsigned stored = 0;

	while (stored < 1000 && world_put(w, 2, stored, stored) == 0)
		stored++;
	/* 65536 bytes hold at least 22 records of 2.1 to 2.9 KiB. */
	assert_true(stored >= 6 * 22);
}

int main(void)
{
	static bool no = false, yes = true;
	const struct CMUnitTest tests[] = {
#define TEST(fn) cmocka_unit_test_teardown(fn, teardown)
		TEST(a_get_times_out_though_others_keep_failing),
		TEST(the_fewest_fetches_still_read_from_donors),
		TEST(a_tick_does_not_try_every_segment_in_vain),
		TEST(half_copied_segments_are_not_all_tried_in_one_tick),
		TEST(segments_with_a_place_pass_those_without),
		TEST(a_segment_without_a_place_is_not_loaded),
		TEST(repair_passes_segments_that_cannot_be_read),
		TEST(spilling_goes_on_during_a_repair),
		cmocka_unit_test_prestate_setup_teardown(
			an_idle_store_does_not_move_its_pages_around, NULL, teardown, &no),
		cmocka_unit_test_prestate_setup_teardown(
			an_idle_store_does_not_move_its_pages_around, NULL, teardown, &yes),
		TEST(a_sparse_store_comes_to_rest),
		TEST(a_silent_donor_does_not_hold_up_puts),
		TEST(sparse_segments_of_many_streams_are_merged),
		TEST(the_cleaner_does_not_repeat_itself_while_the_reaper_works),
		TEST(a_dead_open_segment_makes_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
