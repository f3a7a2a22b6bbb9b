/* Grants over several lanes: all of them or none, asked for again until the time is up. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "client-backend/reserves.h"

#define LANES 3u
#define POOL  7u
#define MS    1000000ull

/* A lane with room for so many pages. */
struct fake_lane {
	uint64_t room;
	struct engine_reservation kept;
	bool asking;
	int status; /* answered instead */
	unsigned calls;
	struct backend_call *held;
};

struct answer {
	struct reserves_call call;
	int status;
	unsigned times;
};

static struct event_base *base;
static struct reserves *s;
static struct fake_lane lane[LANES];
static uint64_t grow_after; /* calls after which each lane has room */
static bool hold;

static const uint64_t oid[3] = {11, 0, 0};

static void lane_answer(struct fake_lane *l, const struct engine_reservation *r, bool keep_asking,
	struct backend_call *call)
{
	int status = l->status;

	l->calls++;
	if (grow_after && l->calls > grow_after)
		l->room = UINT64_MAX;
	if (!status && r->pages > l->room && r->pages > l->kept.pages)
		status = -ENOSPC;
	l->asking = status == -ENOSPC && keep_asking;
	if (!status)
		l->kept = *r;
	call->done(call, status, status ? l->room : r->pages);
}

static void fake_reserve(void *ctx, unsigned i, uint32_t pool, const struct engine_reservation *r,
	bool keep_asking, struct backend_call *call)
{
	(void)ctx;
	assert_int_equal(pool, POOL);
	if (hold) {
		lane[i].held = call;
		return;
	}
	lane_answer(&lane[i], r, keep_asking, call);
}

static const struct reserves_ops ops = {.lane_reserve = fake_reserve};

static int setup(void **state)
{
	(void)state;
	memset(lane, 0, sizeof(lane));
	grow_after = 0;
	hold = false;
	base = event_base_new();
	return reserves_new(base, &env_system, LANES, &ops, NULL, &s);
}

static int teardown(void **state)
{
	(void)state;
	assert_true(reserves_idle(s));
	reserves_delete(s);
	event_base_free(base);
	return 0;
}

static void on_done(struct reserves_call *c, int status)
{
	struct answer *a = (struct answer *)c;

	a->status = status;
	a->times++;
}

static struct answer ask(uint64_t pages, uint64_t limit_ns)
{
	struct answer a = {.call.done = on_done};

	reserves_set(s, POOL, oid, pages, limit_ns, &a.call);
	while (!a.times)
		event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(a.times, 1);
	return a;
}

static void room_everywhere(uint64_t pages)
{
	for (unsigned i = 0; i < LANES; i++)
		lane[i].room = pages;
}

static void each_lane_gets_exactly_its_pages(void **state)
{
	const uint64_t pages = 256 * 40 + 17;
	uint64_t own[LANES] = {0};

	(void)state;
	room_everywhere(UINT64_MAX);
	for (uint64_t i = 0; i < pages; i++) {
		struct engine_key k = {.oid = {11, 0, 0}, .pool = POOL, .index = (uint32_t)i};

		own[engine_key_lane(&k, LANES)]++;
	}
	assert_int_equal(ask(pages, 0).status, 0);
	for (unsigned i = 0; i < LANES; i++) {
		assert_int_equal(lane[i].kept.pages, own[i]);
		assert_int_equal(lane[i].kept.objects, own[i] > 0);
	}
	assert_int_equal(reserves_pages(s, POOL), pages);
	assert_int_equal(ask(pages, 0).status, 0);
	assert_int_equal(ask(0, 0).status, 0);
	assert_int_equal(reserves_pages(s, POOL), 0);
	assert_int_equal(lane[0].kept.pages, 0);
}

static void all_lanes_or_none(void **state)
{
	struct answer a;

	(void)state;
	room_everywhere(UINT64_MAX);
	assert_int_equal(ask(3000, 0).status, 0);
	uint64_t before = lane[0].kept.pages;
	lane[1].room = lane[1].kept.pages;
	a = ask(100000, 120 * MS);
	assert_int_equal(a.status, -ENOSPC);
	assert_true(a.call.possible_pages > 1000 && a.call.possible_pages < 20000);
	assert_non_null(strstr(a.call.why, "0.38 GiB cannot be promised"));
	assert_non_null(strstr(a.call.why, "1 of 3 lanes"));
	assert_true(lane[1].calls > 3); /* it was asked again and again */
	assert_int_equal(lane[0].kept.pages, before);
	assert_false(lane[1].asking);
	assert_int_equal(reserves_pages(s, POOL), 3000);
}

static void a_lane_that_gets_room_in_time_is_enough(void **state)
{
	(void)state;
	grow_after = 3;
	assert_int_equal(ask(5000, 60000 * MS).status, 0);
	assert_int_equal(reserves_pages(s, POOL), 5000);
}

static void other_errors_end_it_at_once(void **state)
{
	struct answer a;

	(void)state;
	room_everywhere(UINT64_MAX);
	lane[2].status = -EDQUOT;
	a = ask(5000, 60000 * MS);
	assert_int_equal(a.status, -EDQUOT);
	assert_non_null(strstr(a.call.why, "quota"));
	assert_int_equal(lane[0].kept.pages, 0);
	lane[2].status = 0;
	assert_int_equal(ask((1ull << 32) + 1, 0).status, -EINVAL);
}

static void one_at_a_time_and_an_end(void **state)
{
	struct answer first = {.call.done = on_done}, second = first;

	(void)state;
	reserves_set(s, POOL, oid, 1000, 60000 * MS, &first.call); /* no room: it waits */
	assert_int_equal(first.times, 0);
	reserves_set(s, POOL, oid, 1000, 0, &second.call);
	assert_int_equal(second.status, -EBUSY);
	assert_false(reserves_idle(s));
	reserves_stop(s);
	assert_int_equal(first.status, -ECANCELED);
	assert_false(lane[0].asking);
	assert_true(reserves_idle(s));
	second.times = 0;
	reserves_set(s, POOL, oid, 1000, 0, &second.call);
	assert_int_equal(second.status, -ECANCELED);
}

static void a_pool_that_ends_takes_its_grant_along(void **state)
{
	struct answer a = {.call.done = on_done};
	struct backend_call *held[LANES];

	(void)state;
	room_everywhere(UINT64_MAX);
	assert_int_equal(ask(1000, 0).status, 0);
	reserves_pool_ended(s, POOL);
	assert_int_equal(reserves_pages(s, POOL), 0);
	hold = true;
	reserves_set(s, POOL, oid, 1000, 0, &a.call);
	reserves_pool_ended(s, POOL);
	hold = false;
	for (unsigned i = 0; i < LANES; i++) {
		held[i] = lane[i].held;
		lane[i].status = -ENOENT;
	}
	for (unsigned i = 0; i < LANES; i++)
		held[i]->done(held[i], -ENOENT, 0);
	assert_int_equal(a.times, 1);
	assert_int_equal(a.status, -ENOENT);
}

static void what_the_arenas_hold_is_known_again(void **state)
{
	(void)state;
	for (unsigned i = 0; i < LANES; i++)
		assert_int_equal(
			reserves_adopt(s, i, POOL, &(struct engine_reservation){100 + i, 1}), 0);
	assert_int_equal(reserves_adopt(s, 0, POOL + 1, &(struct engine_reservation){0}), 0);
	assert_int_equal(reserves_pages(s, POOL), 303);
	assert_int_equal(reserves_pages(s, POOL + 1), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(each_lane_gets_exactly_its_pages),
		TEST(all_lanes_or_none),
		TEST(a_lane_that_gets_room_in_time_is_enough),
		TEST(other_errors_end_it_at_once),
		TEST(one_at_a_time_and_an_end),
		TEST(a_pool_that_ends_takes_its_grant_along),
		TEST(what_the_arenas_hold_is_known_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
