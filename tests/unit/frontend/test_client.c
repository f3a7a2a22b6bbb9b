/* libfallow against a backend in this process: every call, pools of every kind, ends and returns.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "fallow/fallow.h"
#include "tests/unit/frontend/fake_engine.h"
#include "tests/unit/frontend/harness.h"

static uint64_t seed = 1;

static const struct harness_options plain = {
	.lanes = 3, .slots = 8, .max_sessions = 16, .late_one_in = 4};

static struct harness *start(const struct harness_options *o)
{
	struct harness_options with_seed = *o;
	with_seed.seed = seed;
	struct harness *h = harness_new(&with_seed);
	assert_int_equal(harness_start(h), 0);
	return h;
}

static void end(struct harness *h)
{
	harness_stop(h);
	harness_delete(h);
}

static struct fallow *client(struct harness *h)
{
	struct fallow *f = NULL;
	assert_int_equal(fallow_connect(harness_path(h), &f), 0);
	return f;
}

static struct fallow_pool *pool_named(struct fallow *f, const char *name, uint32_t flags)
{
	struct fallow_pool_opts o = {.size = sizeof(o), .flags = flags, .name = name};
	struct fallow_pool *p = NULL;
	assert_int_equal(fallow_pool_open(f, &o, &p), 0);
	return p;
}

static void fill(uint8_t *page, uint64_t oid, uint32_t index, uint32_t version)
{
	uint64_t x = oid * 0x9e3779b97f4a7c15ull + index * 0xc2b2ae3d27d4eb4full + version + 1;
	for (unsigned i = 0; i < FALLOW_PAGE_BYTES; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(page + i, &x, 8);
	}
}

static void pause_ms(long ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	nanosleep(&ts, NULL);
}

/* Waits until the server's gauge at this offset has the value. */
static void wait_gauge(struct harness *h, size_t offset, uint64_t value)
{
	struct socket_server_stats s;
	struct pools_stats p;
	for (unsigned i = 0; i < 4000; i++) {
		harness_stats(h, &s, &p);
		if (stat_get((stat_t *)((char *)&s + offset)) == value)
			return;
		pause_ms(5);
	}
	fail_msg("the gauge at offset %zu never became %lu", offset, (unsigned long)value);
}

static void wait_pools(struct harness *h, uint64_t value)
{
	struct socket_server_stats s;
	struct pools_stats p;
	for (unsigned i = 0; i < 4000; i++) {
		harness_stats(h, &s, &p);
		if (stat_get(&p.pools) == value)
			return;
		pause_ms(5);
	}
	fail_msg("there are %lu pools, not %lu", (unsigned long)stat_get(&p.pools),
		(unsigned long)value);
}

static void test_pages(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, FALLOW_POOL_PERSISTENT);
	struct fallow_oid oid = {{1, 2, 3}}, other = {{1, 2, 4}};
	uint8_t a[FALLOW_PAGE_BYTES], b[FALLOW_PAGE_BYTES];

	assert_int_equal(fallow_get(p, &oid, 0, a), -ENOENT);
	for (uint32_t i = 0; i < 4000; i += 100) {
		fill(a, 1, i, 0);
		assert_int_equal(fallow_put(p, &oid, i, a), 0);
	}
	fill(a, 2, 0, 0);
	assert_int_equal(fallow_put(p, &other, 0, a), 0);
	for (uint32_t i = 0; i < 4000; i += 100) {
		fill(a, 1, i, 0);
		assert_int_equal(fallow_get(p, &oid, i, b), 0);
		assert_memory_equal(a, b, sizeof(a));
	}
	fill(a, 1, 100, 1);
	assert_int_equal(fallow_put(p, &oid, 100, a), 0);
	assert_int_equal(fallow_get(p, &oid, 100, b), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(fallow_flush_page(p, &oid, 100), 0);
	assert_int_equal(fallow_flush_page(p, &oid, 100), -ENOENT);
	assert_int_equal(fallow_get(p, &oid, 100, b), -ENOENT);

	struct fallow_pool_stats st = {.size = sizeof(st)};
	assert_int_equal(fallow_pool_stats(p, &st), 0);
	assert_int_equal(st.pages, 40);
	assert_int_equal(st.lanes, 3);
	assert_int_equal(st.client_used_pages, 7);
	assert_int_equal(fallow_flush_object(p, &oid), 0);
	assert_int_equal(fallow_flush_object(p, &oid), -ENOENT);
	assert_int_equal(fallow_get(p, &oid, 200, b), -ENOENT);
	assert_int_equal(fallow_get(p, &other, 0, b), 0);
	assert_int_equal(fallow_put(p, NULL, 0, a), -EINVAL);
	assert_int_equal(fallow_pool_destroy(p), 0);
	fallow_disconnect(f);
	wait_pools(h, 0);
	end(h);
}

/* However long a call looks for its answer before it sleeps, the answer is the same. */
static void test_polling(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, FALLOW_POOL_PERSISTENT);
	struct fallow_oid oid = {{1, 2, 3}};
	uint8_t a[FALLOW_PAGE_BYTES], b[FALLOW_PAGE_BYTES];

	assert_int_equal(fallow_poll_set(NULL, 0), -EINVAL);
	assert_int_equal(fallow_poll_set(f, 1000001), -EINVAL);
	for (uint32_t poll_us = 0; poll_us <= 1000000; poll_us += 500000) {
		assert_int_equal(fallow_poll_set(f, poll_us), 0);
		fill(a, 1, poll_us, 0);
		assert_int_equal(fallow_put(p, &oid, poll_us, a), 0);
		assert_int_equal(fallow_get(p, &oid, poll_us, b), 0);
		assert_memory_equal(a, b, sizeof(a));
	}
	fallow_disconnect(f);
	end(h);
}

static void test_refused_put(void **state)
{
	struct harness_options o = plain;
	o.lanes = 1;
	o.max_pages = 2;
	struct harness *h = start(&o);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, 0);
	struct fallow_oid oid = {{9, 9, 9}};
	uint8_t a[FALLOW_PAGE_BYTES] = {1};
	assert_int_equal(fallow_put(p, &oid, 0, a), 0);
	assert_int_equal(fallow_put(p, &oid, 1, a), 0);
	assert_int_equal(fallow_put(p, &oid, 2, a), -ENOSPC);
	assert_int_equal(fallow_get(p, &oid, 2, a), -ENOENT);
	fallow_disconnect(f);
	end(h);
}

static void test_pool_options(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p;
	/* A program built against the first version of the header. */
	struct {
		uint32_t size, flags;
		const char *name;
		uint8_t uuid[16];
	} first = {.size = 32, .name = "first"};
	assert_int_equal(sizeof(first), 32);
	assert_int_equal(fallow_pool_open(f, (struct fallow_pool_opts *)&first, &p), 0);
	assert_int_equal(fallow_pool_close(p), 0);
	/* One built against a later version. */
	struct {
		struct fallow_pool_opts o;
		uint8_t more[8];
	} later = {.o = {.size = sizeof(later), .name = "later"}};
	assert_int_equal(fallow_pool_open(f, &later.o, &p), 0);
	assert_int_equal(fallow_pool_destroy(p), 0);
	later.more[3] = 1;
	assert_int_equal(fallow_pool_open(f, &later.o, &p), -E2BIG);

	struct fallow_pool_opts o = {.size = 8};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o), .flags = 4};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o), .copies = 4};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o), .codec = 9};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o), .disk = FALLOW_DISK_MIRROR};
	assert_int_equal(fallow_pool_open(f, &o, &p), -ENODEV);
	o = (struct fallow_pool_opts){.size = sizeof(o), .flags = FALLOW_POOL_SHARED};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o),
		.name = "a name that is longer than the "
			"63 bytes that a pool's name "
			"may have"};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	o = (struct fallow_pool_opts){.size = sizeof(o), .reserved = {1}};
	assert_int_equal(fallow_pool_open(f, &o, &p), -EINVAL);
	fallow_disconnect(f);
	end(h);
}

static void test_pool_kinds(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_oid oid = {{5, 0, 0}};
	uint8_t a[FALLOW_PAGE_BYTES], b[FALLOW_PAGE_BYTES];
	struct fallow_pool *other;
	fill(a, 5, 0, 0);

	/* Named: found again by the same user, with another connection; not by another user. */
	assert_int_equal(fallow_put(pool_named(f, "keep", FALLOW_POOL_PERSISTENT), &oid, 0, a), 0);
	fallow_disconnect(f);
	f = client(h);
	struct fallow_pool *p = pool_named(f, "keep", FALLOW_POOL_PERSISTENT);
	assert_int_equal(fallow_get(p, &oid, 0, b), 0);
	assert_memory_equal(a, b, sizeof(a));
	struct fallow_pool_opts o = {.size = sizeof(o), .name = "keep"};
	assert_int_equal(fallow_pool_open(f, &o, &other), -EEXIST);
	/* Closing one of two handles leaves the other. */
	other = pool_named(f, "keep", FALLOW_POOL_PERSISTENT);
	assert_int_equal(fallow_pool_close(other), 0);
	assert_int_equal(fallow_get(p, &oid, 0, b), 0);

	harness_set_uid_offset(h, 1);
	struct fallow *g = client(h);
	struct fallow_pool *theirs = pool_named(g, "keep", FALLOW_POOL_PERSISTENT);
	assert_int_equal(fallow_get(theirs, &oid, 0, b), -ENOENT);

	/* Shared: with the secret. */
	o = (struct fallow_pool_opts){.size = sizeof(o),
		.flags = FALLOW_POOL_SHARED | FALLOW_POOL_PERSISTENT,
		.uuid = {1, 2},
		.secret = {7}};
	struct fallow_pool *s1, *s2;
	assert_int_equal(fallow_pool_open(f, &o, &s1), 0);
	assert_int_equal(fallow_put(s1, &oid, 3, a), 0);
	assert_int_equal(fallow_pool_open(g, &o, &s2), 0);
	assert_int_equal(fallow_get(s2, &oid, 3, b), 0);
	assert_memory_equal(a, b, sizeof(a));
	o.secret[15] = 1;
	assert_int_equal(fallow_pool_open(g, &o, &other), -EACCES);
	assert_int_equal(fallow_pool_destroy(s2), -EPERM);
	assert_int_equal(fallow_pool_destroy(s1), 0);
	assert_int_equal(fallow_get(s2, &oid, 3, b), -ENOENT);
	assert_int_equal(fallow_put(s2, &oid, 3, a), -ENOENT);
	assert_int_equal(fallow_pool_destroy(s2), -ENOENT);

	/* Unnamed: ends with its connection. */
	pool_named(g, NULL, 0);
	wait_pools(h, 3);
	fallow_disconnect(g);
	wait_pools(h, 2);
	fallow_disconnect(f);
	end(h);
}

static void test_restart(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *named = pool_named(f, "db", FALLOW_POOL_PERSISTENT);
	struct fallow_pool *unnamed = pool_named(f, NULL, FALLOW_POOL_PERSISTENT);
	struct fallow_oid oid = {{1, 1, 1}};
	uint8_t a[FALLOW_PAGE_BYTES], b[FALLOW_PAGE_BYTES];
	for (uint32_t i = 0; i < 20000; i += 500) {
		fill(a, 1, i, 1);
		assert_int_equal(fallow_put(named, &oid, i, a), 0);
		fill(a, 1, i, 2);
		assert_int_equal(fallow_put(unnamed, &oid, i, a), 0);
	}
	assert_int_equal(fallow_reconnect(f), 0); /* nothing is wrong */
	for (unsigned round = 0; round < 3; round++) {
		harness_stop(h);
		assert_int_equal(fallow_get(named, &oid, 0, b), -ESHUTDOWN);
		assert_int_equal(fallow_reconnect(f), -ENOENT);
		assert_int_equal(fallow_put(named, &oid, 0, a), -ESHUTDOWN);
		assert_int_equal(harness_start(h), 0);
		assert_int_equal(fallow_get(named, &oid, 0, b), -ESHUTDOWN);
		assert_int_equal(fallow_reconnect(f), 0);
		for (uint32_t i = 0; i < 20000; i += 500) {
			fill(a, 1, i, 1);
			assert_int_equal(fallow_get(named, &oid, i, b), 0);
			assert_memory_equal(a, b, sizeof(a));
			fill(a, 1, i, 2);
			assert_int_equal(fallow_get(unnamed, &oid, i, b), 0);
			assert_memory_equal(a, b, sizeof(a));
		}
	}
	/* A pool that one lane has lost is no pool: the client is told that it came back empty. */
	harness_stop(h);
	const struct engine_pool_desc *d = NULL;
	for (unsigned row = 0; row < ENGINE_MAX_POOLS && (!d || strcmp(d->name, "db")); row++)
		d = engine_pool_row(harness_engine(h, 1), row);
	assert_int_equal(engine_pool_destroy(harness_engine(h, 1), d->id), 0);
	assert_int_equal(harness_start(h), 0);
	assert_int_equal(fallow_reconnect(f), -ENODATA);
	assert_int_equal(fallow_get(named, &oid, 0, b), -ENOENT);
	assert_int_equal(fallow_get(unnamed, &oid, 0, b), 0);
	fallow_disconnect(f);
	wait_pools(h, 1);
	end(h);
}

static void test_grace(void **state)
{
	struct harness_options o = plain;
	o.grace_ms = 50;
	struct harness *h = start(&o);
	struct fallow *f = client(h);
	pool_named(f, "stays", 0);
	pool_named(f, NULL, 0);
	pool_named(f, NULL, 0);
	harness_stop(h);
	assert_int_equal(harness_start(h), 0);
	wait_pools(h, 1);
	wait_gauge(h, offsetof(struct socket_server_stats, grace_ended), 1);
	assert_int_equal(fallow_reconnect(f), -ENODATA);
	fallow_disconnect(f);
	end(h);
}

static void test_batches(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, 0);
	enum { N = 300 };
	static uint8_t page[N][FALLOW_PAGE_BYTES], back[N][FALLOW_PAGE_BYTES];
	struct fallow_key keys[N];
	const void *puts[N];
	void *gets[N];
	int status[N];
	memset(keys, 0, sizeof(keys));
	for (unsigned i = 0; i < N; i++) {
		keys[i].oid.w[0] = i % 7;
		keys[i].index = i * 50;
		fill(page[i], i, i, 0);
		puts[i] = page[i];
		gets[i] = back[i];
	}
	assert_int_equal(fallow_put_batch(p, N, keys, puts, NULL), 0);
	assert_int_equal(fallow_get_batch(p, N, keys, gets, status), 0);
	assert_memory_equal(page, back, sizeof(page));
	assert_int_equal(fallow_flush_batch(p, 1, &keys[17], status), 0);
	assert_int_equal(fallow_get_batch(p, N, keys, gets, status), -ENOENT);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(status[i], i == 17 ? -ENOENT : 0);
	keys[3].reserved = 1;
	assert_int_equal(fallow_put_batch(p, 4, keys, puts, status), -EINVAL);
	assert_int_equal(status[2], 0);
	assert_int_equal(fallow_put_batch(p, 0, NULL, NULL, NULL), 0);
	fallow_disconnect(f);
	end(h);
}

static void test_queue(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, 0);
	struct fallow_oid oid = {{3, 0, 0}};
	struct fallow_queue *q;
	enum { N = 500 };
	static uint8_t page[N][FALLOW_PAGE_BYTES];
	uint8_t a[FALLOW_PAGE_BYTES];
	assert_int_equal(fallow_queue_new(f, 129, &q), -EINVAL);
	assert_int_equal(fallow_queue_new(f, 10, &q), 0);
	for (int op = FALLOW_OP_PUT; op <= FALLOW_OP_GET; op++) {
		unsigned sent = 0, done = 0;
		bool seen[N] = {false};
		while (done < N) {
			struct fallow_result r[4];
			if (op == FALLOW_OP_PUT && sent < N)
				fill(page[sent], 3, sent, 0);
			int err = sent < N ? fallow_queue_submit(
						     q, p, op, &oid, sent * 99, page[sent], sent)
					   : -EAGAIN;
			sent += err == 0;
			assert_true(err == 0 || err == -EAGAIN);
			int n = err == 0 ? fallow_queue_poll(q, r, 4)
					 : fallow_queue_wait(q, r, 4, 10000);
			assert_true(n >= (err ? 1 : 0));
			for (int i = 0; i < n; i++) {
				assert_int_equal(r[i].status, 0);
				assert_false(seen[r[i].tag]);
				seen[r[i].tag] = true;
				done++;
			}
		}
		if (op == FALLOW_OP_PUT)
			memset(page, 0, sizeof(page));
	}
	for (unsigned i = 0; i < N; i++) {
		fill(a, 3, i, 0);
		assert_memory_equal(a, page[i], sizeof(a));
	}
	struct fallow_result r;
	assert_int_equal(fallow_queue_wait(q, &r, 1, 10), 0);
	/* What is under way when the backend ends comes back as such. */
	harness_freeze(h, true);
	assert_int_equal(fallow_queue_submit(q, p, FALLOW_OP_GET, &oid, 0, a, 77), 0);
	assert_int_equal(fallow_queue_poll(q, &r, 1), 0);
	harness_stop(h);
	assert_int_equal(fallow_reconnect(f), -EBUSY);
	assert_int_equal(fallow_queue_wait(q, &r, 1, 10000), 1);
	assert_int_equal(r.tag, 77);
	assert_int_equal(r.status, -ESHUTDOWN);
	assert_int_equal(fallow_queue_submit(q, p, FALLOW_OP_GET, &oid, 0, a, 78), -ESHUTDOWN);
	fallow_queue_delete(q);
	fallow_disconnect(f);
	harness_delete(h);
}

struct getter {
	pthread_t thread;
	struct fallow_pool *p;
	int status;
};

static void *getter_main(void *arg)
{
	struct getter *g = arg;
	struct fallow_oid oid = {{1, 0, 0}};
	uint8_t a[FALLOW_PAGE_BYTES];
	g->status = fallow_get(g->p, &oid, 0, a);
	return NULL;
}

/* More threads wait than there are slots; all of them end when the backend does. */
static void test_waiters_end(void **state)
{
	struct harness *h = start(&plain);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, NULL, 0);
	struct getter g[20];
	harness_freeze(h, true);
	for (unsigned i = 0; i < 20; i++) {
		g[i].p = p;
		pthread_create(&g[i].thread, NULL, getter_main, &g[i]);
	}
	pause_ms(30);
	harness_stop(h);
	for (unsigned i = 0; i < 20; i++) {
		pthread_join(g[i].thread, NULL);
		assert_int_equal(g[i].status, -ESHUTDOWN);
	}
	fallow_disconnect(f);
	harness_delete(h);
}

/* A backend that is there but does nothing is as good as gone. */
static void test_stuck_backend(void **state)
{
	struct harness_options o = plain;
	o.request_timeout_ms = 100;
	o.late_one_in = 0;
	struct harness *h = start(&o);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, "p", 0);
	struct fallow_oid oid = {{1, 0, 0}};
	uint8_t a[FALLOW_PAGE_BYTES] = {0}, b[FALLOW_PAGE_BYTES];
	harness_freeze(h, true);
	assert_int_equal(fallow_put(p, &oid, 0, a), -ESHUTDOWN);
	harness_freeze(h, false);
	assert_int_equal(fallow_reconnect(f), 0);
	/* The old session has left the lanes: its put cannot land over this one. */
	a[0] = 1;
	assert_int_equal(fallow_put(p, &oid, 0, a), 0);
	assert_int_equal(fallow_get(p, &oid, 0, b), 0);
	assert_int_equal(b[0], 1);
	fallow_disconnect(f);
	end(h);
}

#define STUCK_BATCH 60u

/* The requests of a batch learn of the backend's end together, not one after the other. */
static void test_stuck_batch(void **state)
{
	struct harness_options o = plain;
	o.slots = 64;
	o.request_timeout_ms = 100;
	o.late_one_in = 0;
	struct harness *h = start(&o);
	struct fallow *f = client(h);
	struct fallow_pool *p = pool_named(f, "p", 0);
	static uint8_t page[STUCK_BATCH][FALLOW_PAGE_BYTES];
	struct fallow_key key[STUCK_BATCH];
	void *to[STUCK_BATCH];
	int status[STUCK_BATCH];
	struct timespec begin, end_at;
	memset(key, 0, sizeof(key));
	for (unsigned i = 0; i < STUCK_BATCH; i++) {
		key[i].index = i;
		to[i] = page[i];
	}
	harness_freeze(h, true);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	assert_int_equal(fallow_get_batch(p, STUCK_BATCH, key, to, status), -ESHUTDOWN);
	clock_gettime(CLOCK_MONOTONIC, &end_at);
	for (unsigned i = 0; i < STUCK_BATCH; i++)
		assert_int_equal(status[i], -ESHUTDOWN);
	long ms =
		(end_at.tv_sec - begin.tv_sec) * 1000 + (end_at.tv_nsec - begin.tv_nsec) / 1000000;
	/* 100 ms and a bit; twenty for each would be 1200. */
	assert_in_range(ms, 99, 900);
	harness_freeze(h, false);
	fallow_disconnect(f);
	end(h);
}

static void test_limits(void **state)
{
	struct harness_options o = plain;
	o.max_sessions = 3;
	o.max_sessions_per_client = 2;
	o.max_pools = 2;
	struct harness *h = start(&o);
	struct fallow *f = client(h), *g = client(h), *x;
	assert_int_equal(fallow_connect(harness_path(h), &x), -EUSERS);
	struct fallow_pool *p;
	pool_named(f, "1", 0);
	pool_named(g, "2", 0);
	struct fallow_pool_opts po = {.size = sizeof(po), .name = "3"};
	assert_int_equal(fallow_pool_open(f, &po, &p), -EDQUOT);
	fallow_disconnect(g);
	g = client(h);
	harness_set_uid_offset(h, 1);
	x = client(h);
	harness_set_uid_offset(h, 2);
	struct fallow *y;
	assert_int_equal(fallow_connect(harness_path(h), &y), -EUSERS);
	harness_set_uid_offset(h, 666);
	fallow_disconnect(x);
	wait_gauge(h, offsetof(struct socket_server_stats, connections), 2);
	assert_int_equal(fallow_connect(harness_path(h), &y), -EACCES);
	fallow_disconnect(g);
	fallow_disconnect(f);
	assert_int_equal(fallow_connect("/nonexistent/socket", &y), -ENOENT);
	assert_int_equal(fallow_connect("", &y), -EINVAL);
	end(h);
}

static void test_socket_file(void **state)
{
	struct harness *h = start(&plain);
	struct stat st;
	assert_int_equal(stat(harness_path(h), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Somebody answers there. */
	struct socket_server_config sc = {.path = harness_path(h),
		.mode = 0600,
		.lanes = 1,
		.slots = 1,
		.max_sessions = 1,
		.max_sessions_per_client = 1,
		.hello_timeout_ms = 1,
		.request_timeout_ms = 1};
	struct pools *pools;
	struct pools_config pc = {.lanes = 1, .max_pools_per_owner = 1, .copies = 1, .next_id = 1};
	char err[200];
	struct socket_server *s;
	assert_int_equal(pools_new(&pc, NULL, NULL, &pools), 0);
	assert_int_equal(
		socket_server_new(&sc, NULL, &env_system, pools, NULL, NULL, &s, err, sizeof(err)),
		-EADDRINUSE);
	assert_non_null(strstr(err, "another process"));
	harness_stop(h);
	assert_int_equal(stat(harness_path(h), &st), -1);
	/* A file that is no socket is left alone. */
	FILE *file = fopen(harness_path(h), "w");
	fclose(file);
	assert_int_equal(
		socket_server_new(&sc, NULL, &env_system, pools, NULL, NULL, &s, err, sizeof(err)),
		-EEXIST);
	unlink(harness_path(h));
	pools_delete(pools);
	harness_delete(h);
}

static void test_words(void **state)
{
	assert_string_equal(fallow_strerror(-ESHUTDOWN), "the backend is gone");
	assert_string_equal(fallow_strerror(0), "success");
	assert_string_equal(fallow_strerror(-123456), "unexpected error");
	assert_non_null(fallow_version());
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_polling),
		cmocka_unit_test(test_refused_put),
		cmocka_unit_test(test_pool_options),
		cmocka_unit_test(test_pool_kinds),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_grace),
		cmocka_unit_test(test_batches),
		cmocka_unit_test(test_queue),
		cmocka_unit_test(test_waiters_end),
		cmocka_unit_test(test_stuck_backend),
		cmocka_unit_test(test_stuck_batch),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_socket_file),
		cmocka_unit_test(test_words),
	};
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
