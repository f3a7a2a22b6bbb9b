/* Which regions a lane says that it can spare, and that it can. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/engine/world.h"

#define CACHE 1u
#define KEEP  2u
#define SLOTS 16u /* of a region of the test world */
#define LOOK  600 /* ms: longer than it takes to tell */

static struct world *w;

#define STAT(name) stat_get(&engine_stats(w->e)->name)

static void with_slots(struct engine_config *cfg)
{
	cfg->local_segments = 40;
	cfg->max_pages = 32768;
	cfg->max_segments = 2048;
}

static int setup(void **state)
{
	w = world_new_with(with_slots);
	w->give_regions = false;
	world_pool(w, CACHE, ENGINE_POOL_SPILL, 0, 0, 0);
	world_pool(w, KEEP, ENGINE_POOL_PERSISTENT, 1, 1, 0);
	return 0;
}

static int teardown(void **state)
{
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

/* Puts with time between them, so that donors keep up. */
static void put_many(uint32_t pool, uint32_t first, uint32_t n)
{
	for (uint32_t i = first; i < first + n; i++) {
		assert_int_equal(world_put(w, pool, i, i), 0);
		if (i % 4 == 0)
			world_run(w, 1);
	}
}

static void all_kept(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(world_get(w, KEEP, i, i), 0);
}

static void fill_donors(unsigned regions)
{
	for (unsigned i = 0; i < regions; i++)
		world_grant(w, i % WORLD_DONORS);
	put_many(CACHE, 0, regions * SLOTS * 40 + 2000);
	world_run(w, LOOK);
	assert_true(STAT(remote_slots_ephemeral) > 0);
}

static unsigned spare(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_REGIONS; i++)
		n += w->spare[i];
	return n;
}

/* As another backend's need would: all that is told, at once. */
static void revoke_spare(void)
{
	for (unsigned i = 0; i < w->regions; i++) {
		if (w->spare[i])
			engine_region_revoke(w->e, i);
	}
}

static void copies_alone_can_be_spared(void **state)
{
	fill_donors(4);
	assert_int_equal(spare(), 4);
	/* A restart derives it again. */
	memset(w->spare, 0, sizeof(w->spare));
	world_crash(w);
	world_run(w, LOOK);
	assert_int_equal(spare(), 4);
	/* They come back at once, with nothing moved. */
	uint64_t written = w->asked[1];

	revoke_spare();
	world_run(w, 20);
	assert_int_equal(w->released, 4);
	assert_int_equal(w->asked[1], written);
	for (uint32_t i = 0; i < 4000; i++) {
		int rc = world_get(w, CACHE, i, i);

		assert_true(rc == 0 || rc == -ENOENT);
	}
}

static void what_is_persistent_is_not_spared(void **state)
{
	fill_donors(6);
	put_many(KEEP, 0, 1500);
	world_run(w, LOOK);
	while (w->wanted > 0) {
		world_grant(w, w->regions % WORLD_DONORS);
		world_run(w, LOOK);
	}
	assert_true(STAT(segments_spilled) > 0);
	assert_in_range(spare(), 1, 4);
	/* Whatever is told can go, and none is missed at once: two backends would take from each
	 * other for ever. */
	for (unsigned round = 0; round < 5; round++) {
		uint64_t repaired = STAT(segments_repaired);
		unsigned released = w->released + spare();

		assert_true(w->wanted == 0 || spare() == 0);
		revoke_spare();
		world_run(w, 12);
		assert_int_equal(w->released, released);
		assert_int_equal(STAT(segments_repaired), repaired);
		assert_int_equal(STAT(segments_underreplicated), 0);
		assert_true(STAT(remote_slots) + STAT(remote_slots_ephemeral) >=
			    STAT(remote_slots_used) + 4 * w->cfg.moves);
		all_kept(1500);
		world_run(w, LOOK);
	}
	assert_true(w->released < w->regions);
}

static void what_is_wanted_is_not_spared(void **state)
{
	fill_donors(2);
	assert_int_equal(spare(), 2);
	put_many(KEEP, 0, 1300);
	world_run(w, LOOK);
	assert_true(w->wanted > 0 && !w->wanted_ephemeral);
	assert_int_equal(spare(), 0);
	/* What was asked for is not given away because it is not used yet. */
	world_grant(w, 1);
	world_grant(w, 2);
	world_run(w, LOOK);
	assert_false(w->spare[2] || w->spare[3]);
	all_kept(1300);
}

static void what_is_promised_is_not_spared(void **state)
{
	struct engine_reservation r = {.pages = 400, .objects = 1};
	uint64_t possible;

	fill_donors(6);
	assert_int_equal(spare(), 6);
	while (engine_pool_reserve(w->e, KEEP, &r, false, &possible) == 0)
		r.pages += 100;
	r.pages -= 100;
	world_run(w, LOOK);
	assert_int_equal(spare(), 0);
	revoke_spare();
	world_run(w, LOOK);
	assert_int_equal(STAT(reserved_short_pages), 0);
	r.pages = 0;
	r.objects = 0;
	assert_int_equal(engine_pool_reserve(w->e, KEEP, &r, false, &possible), 0);
	world_run(w, LOOK);
	assert_int_equal(spare(), 6);
}

static void none_is_asked_for_after_one_was_taken(void **state)
{
	uint32_t next = 100000;
	uint64_t taken;

	fill_donors(4);
	put_many(CACHE, next, 200);
	assert_true(w->wanted > 0 && w->wanted_ephemeral);
	taken = w->now_ns;
	engine_region_revoke(w->e, 0);
	while (w->now_ns < taken + 9500000000ull) {
		put_many(CACHE, next += 200, 200);
		assert_int_equal(w->wanted, 0);
		world_run(w, 300);
	}
	world_run(w, 1000);
	put_many(CACHE, next += 200, 200);
	assert_true(w->wanted > 0 && w->wanted_ephemeral);
	/* For persistent segments there is no such wait. */
	engine_region_revoke(w->e, 1);
	put_many(KEEP, 0, 1800);
	assert_true(w->wanted > 0 && !w->wanted_ephemeral);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(copies_alone_can_be_spared),
		TEST(what_is_persistent_is_not_spared),
		TEST(what_is_wanted_is_not_spared),
		TEST(what_is_promised_is_not_spared),
		TEST(none_is_asked_for_after_one_was_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
