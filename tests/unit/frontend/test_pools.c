/* The pool registry: owners, secrets, ids, adoption after a restart, lanes that answer late or
 * fail. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "client-backend/pools.h"

/* What the lanes were asked; answered by the test, or at once. */
struct lanes {
	struct backend_call *add, *destroy;
	uint32_t destroyed_id, next_id;
	struct engine_pool_desc desc;
	bool at_once;
	int add_status, reserve_status;
	unsigned destroys;
};

static void lanes_add(void *ctx, const struct engine_pool_desc *d, struct backend_call *call)
{
	struct lanes *l = ctx;
	l->desc = *d;
	l->add = call;
	if (l->at_once)
		call->done(call, l->add_status, 0);
}

static void lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	struct lanes *l = ctx;
	l->destroyed_id = id;
	l->destroy = call;
	l->destroys++;
	if (l->at_once)
		call->done(call, 0, 0);
}

static void lanes_pages(void *ctx, uint32_t id, struct backend_call *call)
{
	call->done(call, 0, 42);
}

static int reserve_ids(void *ctx, uint32_t next_id)
{
	struct lanes *l = ctx;
	if (l->reserve_status)
		return l->reserve_status;
	assert_true(next_id > l->next_id);
	l->next_id = next_id;
	return 0;
}

static const struct pools_ops ops = {.lanes_add = lanes_add,
	.lanes_destroy = lanes_destroy,
	.lanes_pages = lanes_pages,
	.reserve_ids = reserve_ids};

struct answer {
	struct backend_call call;
	unsigned times;
	int status;
	uint64_t value;
};

static void answered(struct backend_call *call, int status, uint64_t value)
{
	struct answer *a = (struct answer *)call;
	a->times++;
	a->status = status;
	a->value = value;
}

#define ANSWER                                                                                     \
	{                                                                                          \
		.call.done = answered                                                              \
	}

static const uint8_t none[16], session1[16] = {1}, session2[16] = {2};

static struct pools *registry(struct lanes *l, uint32_t next_id)
{
	struct pools_config cfg = {.lanes = 2,
		.max_pools_per_owner = 300,
		.codec = ENGINE_CODEC_LZ4,
		.copies = 2,
		.disk = ENGINE_DISK_OVERFLOW,
		.have_disk = true,
		.next_id = next_id};
	struct pools *p;
	memset(l, 0, sizeof(*l));
	l->at_once = true;
	assert_int_equal(pools_new(&cfg, &ops, l, &p), 0);
	return p;
}

static struct pools_request request(const char *owner, const char *name)
{
	return (struct pools_request){
		.owner = owner, .session = session1, .name = name, .uuid = none, .secret = none};
}

static int open_now(struct pools *p, struct pools_request r, uint32_t *id)
{
	struct answer a = ANSWER;
	pools_open(p, &r, &a.call);
	assert_int_equal(a.times, 1);
	*id = (uint32_t)a.value;
	return a.status;
}

static void test_defaults_and_conflicts(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	uint32_t id, again;
	assert_int_equal(open_now(p, request("uid:1", "a"), &id), 0);
	assert_int_equal(l.desc.codec, ENGINE_CODEC_LZ4);
	assert_int_equal(l.desc.copies, 2);
	assert_int_equal(l.desc.disk, ENGINE_DISK_OVERFLOW);
	assert_string_equal(l.desc.owner, "uid:1");
	assert_memory_equal(l.desc.session, none, 16);
	struct pools_request r = request("uid:1", "a");
	r.codec = POOLS_CODEC_LZ4;
	r.copies = 2;
	assert_int_equal(open_now(p, r, &again), 0);
	assert_int_equal(again, id);
	r.codec = POOLS_CODEC_ZSTD;
	assert_int_equal(open_now(p, r, &again), -EEXIST);
	r = request("uid:1", "b");
	r.codec = POOLS_CODEC_NONE;
	r.disk = POOLS_DISK_MIRROR;
	r.copies = 3;
	assert_int_equal(open_now(p, r, &again), 0);
	assert_int_equal(l.desc.codec, ENGINE_CODEC_NONE);
	assert_int_equal(l.desc.disk, ENGINE_DISK_MIRROR);
	assert_int_equal(l.desc.copies, 3);
	assert_int_equal(stat_get(&((struct pools_stats *)pools_stats(p))->pools), 2);
	pools_delete(p);
}

static void test_two_openers_one_pool(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	struct pools_request r = request("uid:1", "a");
	struct answer a = ANSWER, b = ANSWER;
	l.at_once = false;
	pools_open(p, &r, &a.call);
	struct backend_call *first = l.add;
	pools_open(p, &r, &b.call);
	assert_ptr_equal(first, l.add);
	assert_false(pools_idle(p));
	first->done(first, 0, 0);
	assert_int_equal(a.times + b.times, 2);
	assert_int_equal(a.value, b.value);
	assert_true(pools_idle(p));
	pools_delete(p);
}

static void test_lane_refuses(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	uint32_t id;
	l.add_status = -ENOSPC;
	assert_int_equal(open_now(p, request("uid:1", "a"), &id), -ENOSPC);
	assert_int_equal(l.destroyed_id, l.desc.id);
	l.add_status = 0;
	assert_int_equal(open_now(p, request("uid:1", "a"), &id), 0);
	pools_delete(p);
}

static void test_session_end(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	uint32_t unnamed, named, other, again;
	struct pools_request r = request("uid:1", "");
	assert_int_equal(open_now(p, r, &unnamed), 0);
	assert_memory_equal(l.desc.session, session1, 16);
	assert_int_equal(open_now(p, request("uid:1", "n"), &named), 0);
	r.session = session2;
	assert_int_equal(open_now(p, r, &other), 0);
	/* Only the session that has it finds an unnamed pool by its id. */
	r.id = unnamed;
	assert_int_equal(open_now(p, r, &again), 0);
	assert_int_not_equal(again, unnamed);
	r.session = session1;
	assert_int_equal(open_now(p, r, &again), 0);
	assert_int_equal(again, unnamed);
	struct answer a = ANSWER;
	pools_destroy(p, "uid:1", session2, unnamed, &a.call);
	assert_int_equal(a.status, -EPERM);
	pools_destroy(p, "uid:2", session1, named, &a.call);
	assert_int_equal(a.status, -EPERM);
	pools_session_end(p, session1);
	assert_null(pools_find(p, unnamed));
	assert_non_null(pools_find(p, named));
	assert_non_null(pools_find(p, other));
	/* A pool that is still being added when its session ends goes too. */
	r = request("uid:1", "");
	l.at_once = false;
	struct answer b = ANSWER;
	pools_open(p, &r, &b.call);
	pools_session_end(p, session1);
	l.at_once = true;
	l.add->done(l.add, 0, 0);
	assert_int_equal(b.status, -ENOENT);
	assert_int_equal(l.destroyed_id, l.desc.id);
	assert_true(pools_idle(p));
	pools_delete(p);
}

static void test_ids_never_again(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	uint32_t last = 0, id;
	for (unsigned i = 0; i < 3 * ENGINE_MAX_POOLS; i++) {
		struct answer a = ANSWER;
		assert_int_equal(open_now(p, request("uid:1", "x"), &id), 0);
		assert_true(id > last);
		assert_true(id < l.next_id);
		last = id;
		pools_destroy(p, "uid:1", session1, id, &a.call);
		assert_int_equal(a.status, 0);
	}
	uint32_t next = l.next_id;
	pools_delete(p);
	p = registry(&l, next);
	assert_int_equal(open_now(p, request("uid:1", "x"), &id), 0);
	assert_true(id > last);
	l.reserve_status = -EIO;
	int err = 0;
	for (unsigned i = 0; i < 300 && !err; i++) {
		char name[16];
		snprintf(name, sizeof(name), "%u", i);
		err = open_now(p, request("uid:2", name), &id);
	}
	assert_int_equal(err, -EIO);
	pools_delete(p);
	p = registry(&l, UINT32_MAX - 10);
	assert_int_equal(open_now(p, request("uid:1", "x"), &id), -ENOSPC);
	pools_delete(p);
}

static void test_limits(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	uint32_t id;
	char name[16];
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(open_now(p, request("uid:1", name), &id), 0);
	}
	assert_int_equal(open_now(p, request("uid:1", "more"), &id), -EDQUOT);
	assert_int_equal(open_now(p, request("uid:2", "more"), &id), 0);
	for (unsigned owner = 3; owner < 20; owner++) {
		char who[16];
		snprintf(who, sizeof(who), "uid:%u", owner);
		int err = 0;
		for (unsigned i = 0; i < 300 && !err; i++) {
			snprintf(name, sizeof(name), "%u", i);
			err = open_now(p, request(who, name), &id);
		}
		if (err) {
			assert_int_equal(err, -ENOSPC); /* every row is taken */
			pools_delete(p);
			return;
		}
	}
	fail();
}

static void adopt(struct pools *p, unsigned lane, uint32_t id, const char *name)
{
	struct engine_pool_desc d = {.id = id, .owner = "uid:1"};
	strcpy(d.name, name);
	assert_int_equal(pools_adopt(p, lane, &d), 0);
}

static void test_adoption(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 5);
	uint32_t id, cursor = 0;
	adopt(p, 0, 3, "both");
	adopt(p, 0, 7, "one lane");
	adopt(p, 0, 9, "differs");
	adopt(p, 0, 11, "row");
	adopt(p, 1, 3, "both");
	adopt(p, 1, 9, "differed");
	adopt(p, 1, 11 + ENGINE_MAX_POOLS, "row");
	adopt(p, 1, 600, "other lane");
	struct engine_pool_desc bad = {.id = 0};
	assert_int_equal(pools_adopt(p, 0, &bad), -EINVAL);
	pools_adopted(p);
	assert_int_equal(pools_next(p, &cursor)->id, 3);
	assert_null(pools_next(p, &cursor));
	assert_int_equal(l.destroys, 5);
	assert_true(pools_idle(p));
	/* The note of the ids was older than what the lanes hold. */
	assert_int_equal(open_now(p, request("uid:1", "new"), &id), 0);
	assert_true(id > 11 + ENGINE_MAX_POOLS);
	assert_int_equal(open_now(p, request("uid:1", "both"), &id), 0);
	assert_int_equal(id, 3);
	pools_delete(p);
}

/* Asked for from inside only: no flag that a client sends means it. */
static void test_spill(void **state)
{
	struct lanes l;
	struct pools *p = registry(&l, 1);
	struct pools_request r = request("disk:a", "a");
	uint32_t id, again;
	r.spill = true;
	assert_int_equal(open_now(p, r, &id), 0);
	assert_int_equal(l.desc.flags, ENGINE_POOL_SPILL);
	assert_int_equal(open_now(p, r, &again), 0);
	assert_int_equal(again, id);
	r.spill = false;
	assert_int_equal(open_now(p, r, &again), -EEXIST);
	r.flags = ENGINE_POOL_SPILL;
	assert_int_equal(open_now(p, r, &again), -EINVAL);
	r.flags = ENGINE_POOL_PERSISTENT;
	r.spill = true;
	assert_int_equal(open_now(p, r, &again), -EINVAL);
	pools_delete(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults_and_conflicts),
		cmocka_unit_test(test_two_openers_one_pool),
		cmocka_unit_test(test_lane_refuses),
		cmocka_unit_test(test_session_end),
		cmocka_unit_test(test_ids_never_again),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_adoption),
		cmocka_unit_test(test_spill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
