/* Hard grants: a promised page is never refused, nobody else gets its room, and a restart keeps it.
 */
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
#define GRANTED	   1u
#define OTHER	   2u
#define EPHEMERAL  3u

static struct world *w;

static int setup(void **state)
{
	(void)state;
	w = world_new();
	return 0;
}

static void with_disk(struct engine_config *cfg)
{
	cfg->disk_segments = 64;
}

static void with_few_entries(struct engine_config *cfg)
{
	cfg->max_pages = 600;
	cfg->max_objects = 4;
	cfg->local_segments = 64;
}

static int setup_disk(void **state)
{
	(void)state;
	w = world_new_with(with_disk);
	return 0;
}

static int setup_few_entries(void **state)
{
	(void)state;
	w = world_new_with(with_few_entries);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

#define STAT(name) stat_get(&engine_stats(w->e)->name)

/* Raw pages: nothing to be gained by compressing. */
static void raw_pool(uint32_t id, uint32_t flags, unsigned account, uint8_t copies, uint8_t disk)
{
	struct engine_pool_desc d = {.id = id,
		.flags = flags,
		.account = (uint16_t)account,
		.codec = ENGINE_CODEC_NONE,
		.copies = copies,
		.disk = disk};

	assert_int_equal(engine_pool_add(w->e, &d), 0);
}

static int reserve(uint32_t pool, uint64_t pages, bool keep_asking, uint64_t *possible)
{
	struct engine_reservation r = {.pages = pages, .objects = pages > 0};

	return engine_pool_reserve(w->e, pool, &r, keep_asking, possible);
}

/* The most that can be promised; promised. */
static uint64_t reserve_all(uint32_t pool)
{
	uint64_t possible, again;

	assert_int_equal(reserve(pool, 100000, false, &possible), -ENOSPC);
	assert_true(possible > 0);
	assert_int_equal(reserve(pool, possible + 1, false, &again), -ENOSPC);
	assert_int_equal(again, possible);
	assert_int_equal(reserve(pool, possible, false, &again), 0);
	return possible;
}

/* Writes at random within the grant while others put whatever they can. */
static void storm(uint64_t pages, unsigned rounds)
{
	uint64_t *seed = calloc(pages, sizeof(*seed)), x = 7;
	uint32_t others = 0;

	assert_non_null(seed);
	for (uint64_t n = 0; n < pages * rounds; n++) {
		uint64_t i = n;

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		if (n >= pages)
			i = (x >> 33) % pages;
		seed[i] = n + 1;
		assert_int_equal(world_put(w, GRANTED, (uint32_t)i, seed[i]), 0);
		if (engine_pool(w->e, OTHER))
			world_put(w, OTHER, others++ % 3000, n);
		if (engine_pool(w->e, EPHEMERAL))
			world_put(w, EPHEMERAL, (uint32_t)(x >> 40) % 3000, n);
	}
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(world_get(w, GRANTED, (uint32_t)i, seed[i]), 0);
	free(seed);
	assert_int_equal(STAT(puts_refused_granted), 0);
}

static void a_grant_holds_in_the_local_tier_alone(void **state)
{
	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	raw_pool(OTHER, PERSISTENT, 1, 1, 0);
	raw_pool(EPHEMERAL, 0, 2, 1, 0);
	storm(reserve_all(GRANTED), 20);
	assert_true(STAT(puts_refused_promised) > 0);
	assert_int_equal(STAT(reserved_short_pages), 0);
}

static void a_grant_holds_against_those_who_were_there_before(void **state)
{
	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(OTHER, PERSISTENT, 0, 1, 0);
	raw_pool(EPHEMERAL, 0, 0, 1, 0);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(world_put(w, OTHER, 5000 + i, i), 0);
	for (uint32_t i = 0; i < 1000; i++)
		world_put(w, EPHEMERAL, i, i);
	storm(reserve_all(GRANTED), 20);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(world_get(w, OTHER, 5000 + i, i), 0);
}

static void a_grant_gets_regions_before_it_needs_them(void **state)
{
	uint64_t possible;

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	raw_pool(OTHER, PERSISTENT, 1, 3, 0);
	raw_pool(EPHEMERAL, 0, 2, 1, 0);
	assert_int_equal(reserve(GRANTED, 1500, true, &possible), -ENOSPC);
	assert_true(possible < 1500);
	world_run(w, 100);
	assert_int_equal(reserve(GRANTED, 1500, true, &possible), 0);
	w->give_regions = false;
	storm(1500, 4);
}

static void a_grant_counts_the_disk(void **state)
{
	uint64_t pages;

	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 1, ENGINE_DISK_OVERFLOW);
	raw_pool(OTHER, PERSISTENT, 1, 1, ENGINE_DISK_OVERFLOW);
	raw_pool(EPHEMERAL, 0, 2, 1, 0);
	pages = reserve_all(GRANTED);
	assert_true(pages > 64 * 15 * 80 / 100);
	storm(pages, 6);
}

static void a_mirrored_grant_needs_both_places(void **state)
{
	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 1, ENGINE_DISK_MIRROR);
	raw_pool(OTHER, PERSISTENT, 1, 2, ENGINE_DISK_OVERFLOW);
	storm(reserve_all(GRANTED), 4);
}

static void a_restart_keeps_a_grant(void **state)
{
	uint64_t pages, possible;

	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(OTHER, PERSISTENT, 1, 1, 0);
	pages = reserve_all(GRANTED);
	assert_int_equal(world_put(w, GRANTED, 3, 3), 0);
	world_crash(w);
	assert_int_equal(engine_pool_reserved(w->e, GRANTED).pages, pages);
	assert_int_equal(engine_pool_reserved(w->e, GRANTED).objects, 1);
	assert_int_equal(STAT(pages), 1);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), pages);
	storm(pages, 3);
	/* What was only asked for ends with the process. */
	assert_int_equal(reserve(OTHER, 50, true, &possible), -ENOSPC);
	world_crash(w);
	assert_int_equal(engine_pool_reserved(w->e, OTHER).pages, 0);
	assert_int_equal(atomic_load(&w->quota[1].used_pages), engine_pool_pages(w->e, OTHER));
	/* The same again is no question of room. */
	assert_int_equal(reserve(GRANTED, pages, false, &possible), 0);
	assert_int_equal(reserve(GRANTED, 0, false, &possible), 0);
	world_crash(w);
	assert_int_equal(engine_pool_reserved(w->e, GRANTED).pages, 0);
	assert_int_equal(world_get(w, GRANTED, 3, 3) == -ENOENT, 0);
}

static void a_grant_is_paid_for_at_once(void **state)
{
	uint64_t possible, pages;

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(OTHER, PERSISTENT, 0, 1, 0);
	atomic_store(&w->quota[0].limit_pages, 60);
	assert_int_equal(reserve(GRANTED, 61, false, &possible), -EDQUOT);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 0);
	assert_int_equal(reserve(GRANTED, 50, false, &possible), 0);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 50);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(world_put(w, OTHER, i, i), 0);
	assert_int_equal(world_put(w, OTHER, 10, 10), -ENOSPC);
	for (uint32_t i = 0; i < 50; i++)
		assert_int_equal(world_put(w, GRANTED, i, i), 0);
	assert_int_equal(world_put(w, GRANTED, 50, 50), -ENOSPC);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 60);
	struct engine_key k = {.oid = {1, 2, 3}, .pool = GRANTED, .index = 7};
	assert_int_equal(engine_flush_page(w->e, &k), 0);
	assert_int_equal(engine_flush_object(w->e, GRANTED, k.oid, &pages), 0);
	assert_int_equal(pages, 49);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 60);
	assert_int_equal(engine_pool_destroy(w->e, GRANTED), 0);
	assert_int_equal(atomic_load(&w->quota[0].used_pages), 10);
	assert_int_equal(STAT(promised_pages), 0);
}

static int put_object(uint32_t pool, uint64_t oid)
{
	struct engine_key k = {.oid = {oid}, .pool = pool};
	uint8_t page[ENGINE_PAGE_BYTES];

	world_page(page, oid);
	return engine_put(w->e, &k, page, NULL);
}

static void entries_and_objects_are_promised_too(void **state)
{
	uint64_t possible;

	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(EPHEMERAL, 0, 2, 1, 0);
	for (uint32_t i = 0; i < 650; i++)
		world_put(w, EPHEMERAL, i, i);
	/* Ephemeral pages go when their entries are to be promised. */
	for (unsigned i = 0; i < 3; i++)
		if (reserve(GRANTED, 400, true, &possible) == 0)
			break;
	assert_int_equal(engine_pool_reserved(w->e, GRANTED).pages, 400);
	for (uint32_t i = 0; i < 600; i++)
		world_put(w, EPHEMERAL, i, i);
	assert_true(STAT(pages) <= 200);
	for (uint32_t i = 0; i < 650; i++) {
		struct engine_key k = {.oid = {1, 2, 3}, .pool = EPHEMERAL, .index = i};

		engine_flush_page(w->e, &k);
	}
	assert_int_equal(put_object(EPHEMERAL, 1), 0);
	assert_int_equal(put_object(EPHEMERAL, 2), 0);
	assert_int_equal(put_object(EPHEMERAL, 3), 0);
	assert_int_equal(put_object(EPHEMERAL, 4), -ENOSPC);
	storm(400, 3);
}

/* The reaper must come first, and a granted put waits for it. */
static void dead_entries_are_no_reason_to_refuse(void **state)
{
	uint64_t possible, pages;
	struct engine_key k = {.oid = {1, 2, 3}, .pool = GRANTED};

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	assert_int_equal(reserve(GRANTED, 600, true, &possible), 0);
	for (uint32_t i = 0; i < 600; i++)
		assert_int_equal(world_put(w, GRANTED, i * 100, i), 0);
	assert_int_equal(engine_flush_object(w->e, GRANTED, k.oid, &pages), 0);
	assert_int_equal(pages, 600);
	for (uint32_t i = 0; i < 600; i++)
		assert_int_equal(world_put(w, GRANTED, i * 100, i + 1), 0);
}

static void donors_who_take_back_make_it_short(void **state)
{
	uint64_t possible;

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	raw_pool(OTHER, PERSISTENT, 1, 2, 0);
	reserve(GRANTED, 1000, true, &possible);
	world_run(w, 100);
	assert_int_equal(reserve(GRANTED, 1000, true, &possible), 0);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(world_put(w, GRANTED, i, i), 0);
	assert_int_equal(STAT(reserved_short_pages), 0);
	w->give_regions = false;
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		engine_region_revoke(w->e, r);
	world_run(w, 50);
	assert_true(STAT(reserved_short_pages) > 0);
	assert_true(w->wanted > 0);
	/* Within the grant a put goes on as long as there is a place. */
	for (uint32_t i = 100; i < 120; i++)
		assert_int_equal(world_put(w, GRANTED, i, i), 0);
	assert_int_equal(world_put(w, OTHER, 0, 0), -ENOSPC);
	w->give_regions = true;
	world_run(w, 200);
	assert_int_equal(STAT(reserved_short_pages), 0);
	for (uint32_t i = 120; i < 1000; i++)
		assert_int_equal(world_put(w, GRANTED, i, i), 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(world_get(w, GRANTED, i, i), 0);
}

/* One donor gave what all should have; what is left comes from another. */
static void uneven_leases(unsigned first, unsigned run_ms)
{
	uint64_t possible;

	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	for (unsigned i = 0; i < first; i++)
		world_grant(w, 0);
	assert_int_equal(reserve(GRANTED, 1000, true, &possible), -ENOSPC);
	for (unsigned ms = 0; ms < run_ms && reserve(GRANTED, 1000, true, &possible); ms += 10) {
		world_run(w, 10);
		for (; w->wanted > 0 && w->regions < WORLD_REGIONS; w->wanted--)
			world_grant(w, 1);
	}
	assert_int_equal(possible, 1000);
	storm(1000, 2);
}

static void uneven_leases_are_made_up_for(void **state)
{
	(void)state;
	uneven_leases(22, 5000);
}

static void with_few_regions(struct engine_config *cfg)
{
	cfg->max_regions = 20;
}

static int setup_few_regions(void **state)
{
	(void)state;
	w = world_new_with(with_few_regions);
	return 0;
}

static void a_full_table_makes_room_for_other_donors(void **state)
{
	(void)state;
	uneven_leases(20, 60000);
	assert_true(w->released > 0);
}

struct waiting_put {
	struct engine_req req;
	uint8_t page[ENGINE_PAGE_BYTES];
	int status;
};

static void put_ended(struct engine_req *req, int status)
{
	((struct waiting_put *)req)->status = status;
}

/* Many at once, while donors take some time over each region, and one gave too much before. */
static void others_wait_for_regions(void **state)
{
	enum { PUTS = 600 };
	struct waiting_put *put = calloc(PUTS, sizeof(*put));
	uint64_t possible;
	unsigned done = 0;

	(void)state;
	assert_non_null(put);
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	raw_pool(OTHER, PERSISTENT, 1, 2, 0);
	for (unsigned i = 0; i < 100 && reserve(GRANTED, 800, true, &possible); i++)
		world_run(w, 10);
	assert_int_equal(possible, 800);
	w->give_regions = false;
	for (unsigned i = 0; i < 9; i++)
		world_grant(w, 0);
	for (uint32_t i = 0; i < PUTS; i++) {
		struct engine_key k = {.oid = {1, 2, 3}, .pool = OTHER, .index = i};

		put[i].req.done = put_ended;
		world_page(put[i].page, i);
		put[i].status = engine_put(w->e, &k, put[i].page, &put[i].req);
		if (i % 50 == 49)
			world_run(w, 1);
	}
	for (unsigned ms = 0; ms < 4000; ms += 10) {
		world_run(w, 10);
		if (ms % 100 == 0 && w->wanted > 0 && w->regions < WORLD_REGIONS)
			world_grant(w, 1 + w->regions % (WORLD_DONORS - 1));
	}
	for (unsigned i = 0; i < PUTS; i++)
		done += put[i].status == 0;
	assert_int_equal(done, PUTS);
	assert_int_equal(STAT(puts_refused), 0);
	free(put);
	storm(800, 2);
}

static void a_grant_that_is_tried_takes_nothing(void **state)
{
	uint64_t possible;

	(void)state;
	w->give_regions = false;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(OTHER, PERSISTENT, 1, 1, 0);
	assert_int_equal(reserve(GRANTED, 100000, true, &possible), -ENOSPC);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(world_put(w, OTHER, i, i), 0);
	assert_int_equal(reserve(GRANTED, 100000, true, &possible), -ENOSPC);
	assert_true(possible > 0);
	assert_int_equal(reserve(GRANTED, possible, true, &possible), 0);
	storm(possible, 2);
}

static void a_refused_grant_gives_its_regions_back(void **state)
{
	uint64_t possible;

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 2, 0);
	raw_pool(OTHER, PERSISTENT, 1, 2, 0);
	assert_int_equal(reserve(OTHER, 300, true, &possible), -ENOSPC);
	world_run(w, 200);
	assert_int_equal(reserve(OTHER, 300, true, &possible), 0);
	assert_int_equal(reserve(GRANTED, 100000, true, &possible), -ENOSPC);
	world_run(w, 1000);
	assert_true(STAT(regions) > 20);
	assert_int_equal(reserve(GRANTED, 100000, false, &possible), -ENOSPC);
	world_run(w, 3000);
	assert_true(STAT(regions) <= 5);
	assert_int_equal(STAT(reserved_short_pages), 0);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(world_put(w, OTHER, i, i), 0);
}

static void nonsense_is_refused(void **state)
{
	uint64_t possible;

	(void)state;
	raw_pool(GRANTED, PERSISTENT, 0, 1, 0);
	raw_pool(EPHEMERAL, 0, 0, 1, 0);
	assert_int_equal(reserve(99, 1, false, &possible), -ENOENT);
	assert_int_equal(reserve(EPHEMERAL, 1, false, &possible), -EINVAL);
	assert_int_equal(reserve(GRANTED, 1ull << 40, false, &possible), -EINVAL);
}

int main(void)
{
#define LOCAL(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		LOCAL(a_grant_holds_in_the_local_tier_alone),
		LOCAL(a_grant_holds_against_those_who_were_there_before),
		LOCAL(a_grant_gets_regions_before_it_needs_them),
		cmocka_unit_test_setup_teardown(a_grant_counts_the_disk, setup_disk, teardown),
		cmocka_unit_test_setup_teardown(
			a_mirrored_grant_needs_both_places, setup_disk, teardown),
		LOCAL(a_restart_keeps_a_grant),
		LOCAL(a_grant_is_paid_for_at_once),
		cmocka_unit_test_setup_teardown(
			entries_and_objects_are_promised_too, setup_few_entries, teardown),
		cmocka_unit_test_setup_teardown(
			dead_entries_are_no_reason_to_refuse, setup_few_entries, teardown),
		LOCAL(donors_who_take_back_make_it_short),
		LOCAL(uneven_leases_are_made_up_for),
		cmocka_unit_test_setup_teardown(
			a_full_table_makes_room_for_other_donors, setup_few_regions, teardown),
		LOCAL(others_wait_for_regions),
		LOCAL(a_grant_that_is_tried_takes_nothing),
		LOCAL(a_refused_grant_gives_its_regions_back),
		LOCAL(nonsense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
