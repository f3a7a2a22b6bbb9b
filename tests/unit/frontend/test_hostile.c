/* Clients that break the protocol, die in mid-operation, or scribble, beside one that must not
 * notice. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "fallow/fallow.h"
#include "tests/unit/frontend/fake_engine.h"
#include "tests/unit/frontend/harness.h"
#include "tests/unit/frontend/raw_client.h"

static uint64_t seed;
static struct harness *h;

static uint64_t mix(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void pause_us(long us)
{
	struct timespec ts = {.tv_nsec = us * 1000};
	nanosleep(&ts, NULL);
}

/* The honest client: its own keys, its own model, until told to stop. */
struct honest {
	pthread_t thread;
	unsigned number;
	struct fallow_pool *pool;
	_Atomic bool stop;
	_Atomic uint64_t operations;
	char wrong[128];
};

#define HONEST_KEYS 200u

static void honest_page(uint8_t *page, unsigned who, unsigned key, uint32_t version)
{
	uint64_t x = who * 1000003ull + key * 7919ull + version * 104729ull + 1;
	for (unsigned i = 0; i < FALLOW_PAGE_BYTES; i += 8) {
		mix(&x);
		memcpy(page + i, &x, 8);
	}
}

/* version 0: not there. Returns what is wrong, or NULL. */
static const char *honest_step(struct honest *c, uint32_t *version, uint64_t *rng)
{
	uint8_t page[FALLOW_PAGE_BYTES], want[FALLOW_PAGE_BYTES];
	unsigned key = (unsigned)(mix(rng) % HONEST_KEYS);
	struct fallow_oid oid = {{c->number, key % 3, 0}};
	int err;
	switch (mix(rng) % 8) {
	case 0:
		err = fallow_flush_page(c->pool, &oid, key * 100);
		if (err != (version[key] ? 0 : -ENOENT))
			return "flush";
		version[key] = 0;
		return NULL;
	case 1:
	case 2:
	case 3:
		honest_page(page, c->number, key, ++version[key]);
		return fallow_put(c->pool, &oid, key * 100, page) ? "put" : NULL;
	default:
		err = fallow_get(c->pool, &oid, key * 100, page);
		if (err != (version[key] ? 0 : -ENOENT))
			return "get";
		honest_page(want, c->number, key, version[key]);
		return !err && memcmp(page, want, sizeof(page)) ? "bytes" : NULL;
	}
}

static void *honest_main(void *arg)
{
	struct honest *c = arg;
	uint32_t version[HONEST_KEYS] = {0};
	uint64_t rng = seed * 31 + c->number + 1;
	while (!atomic_load(&c->stop)) {
		const char *wrong = honest_step(c, version, &rng);
		if (wrong) {
			snprintf(c->wrong, sizeof(c->wrong), "thread %u, operation %llu: %s",
				c->number, (unsigned long long)atomic_load(&c->operations), wrong);
			break;
		}
		atomic_fetch_add(&c->operations, 1);
	}
	return NULL;
}

#define HONEST 3u
static struct fallow *honest_connection;
static struct honest honest[HONEST];

static void honest_start(void)
{
	struct fallow_pool_opts o = {.size = sizeof(o), .flags = FALLOW_POOL_PERSISTENT};
	struct fallow_pool *p;
	assert_int_equal(fallow_connect(harness_path(h), &honest_connection), 0);
	assert_int_equal(fallow_pool_open(honest_connection, &o, &p), 0);
	for (unsigned i = 0; i < HONEST; i++) {
		memset(&honest[i], 0, sizeof(honest[i]));
		honest[i].number = i;
		honest[i].pool = p;
		pthread_create(&honest[i].thread, NULL, honest_main, &honest[i]);
	}
}

/* Ends them after at least `least` operations each, and checks that nothing was wrong. */
static void honest_end(uint64_t least)
{
	for (unsigned i = 0; i < HONEST; i++) {
		while (atomic_load(&honest[i].operations) < least && !honest[i].wrong[0])
			pause_us(500);
		atomic_store(&honest[i].stop, true);
		pthread_join(honest[i].thread, NULL);
		if (honest[i].wrong[0])
			fail_msg("%s (seed %llu)", honest[i].wrong, (unsigned long long)seed);
	}
	fallow_disconnect(honest_connection);
}

static int setup(void **state)
{
	struct harness_options o = {.lanes = 2,
		.slots = 8,
		.max_sessions = 8,
		.late_one_in = 5,
		.hello_timeout_ms = 2000,
		.seed = seed};
	h = harness_new(&o);
	return harness_start(h);
}

static int teardown(void **state)
{
	harness_stop(h);
	harness_delete(h);
	return 0;
}

static uint64_t violations(enum socket_violation v)
{
	struct socket_server_stats s;
	struct pools_stats p;
	harness_stats(h, &s, &p);
	return stat_get(&s.violations[v]);
}

static void raw_start(struct raw_client *c, uint32_t *pool)
{
	struct socket_pool_open q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_POOL_OPEN}};
	struct socket_answer a;
	assert_int_equal(raw_connect(c, harness_path(h)), 0);
	assert_int_equal(raw_hello(c), 0);
	raw_send(c, &q, sizeof(q));
	assert_int_equal(raw_answer(c, &a), 0);
	*pool = (uint32_t)a.value;
}

static void ring_breaks(enum socket_violation want)
{
	struct raw_client c;
	uint32_t pool;
	uint64_t before = violations(want);
	raw_start(&c, &pool);
	struct socket_lane_memory *m = raw_lane(&c, 0);
	m->slot[0].op = SOCKET_OP_NOP;
	uint32_t slot = 0;
	if (want == SOCKET_VIOLATION_SLOT_RANGE)
		slot = 8;
	else if (want == SOCKET_VIOLATION_OP)
		m->slot[0].op = 200;
	else if (want == SOCKET_VIOLATION_RESERVED)
		m->slot[0].reserved[14] = 1;
	if (want == SOCKET_VIOLATION_SLOT_BUSY) {
		fake_engine_hold(harness_engine(h, 0), true);
		/* One in five is late: go on until one is, and submit it once more. */
		for (uint32_t i = 0; i < 200 && !fake_engine_pending(harness_engine(h, 0)); i++) {
			struct engine_key k = {.pool = pool, .index = i * 256};
			if (engine_key_lane(&k, 2) != 0)
				continue;
			m->slot[0].op = SOCKET_OP_PUT;
			m->slot[0].pool = pool;
			m->slot[0].index = k.index;
			atomic_store(&m->slot[0].state, SOCKET_SLOT_BUSY);
			raw_push(&c, 0, 0);
			while (atomic_load(&m->slot[0].state) != SOCKET_SLOT_DONE &&
				!fake_engine_pending(harness_engine(h, 0)))
				pause_us(100);
		}
	}
	raw_push(&c, 0, slot);
	assert_true(raw_closed(&c));
	fake_engine_hold(harness_engine(h, 0), false);
	raw_close(&c);
	assert_int_equal(violations(want), before + 1);
}

static void test_ring_violations(void **state)
{
	honest_start();
	ring_breaks(SOCKET_VIOLATION_SLOT_RANGE);
	ring_breaks(SOCKET_VIOLATION_OP);
	ring_breaks(SOCKET_VIOLATION_RESERVED);
	honest_end(200);
	ring_breaks(SOCKET_VIOLATION_SLOT_BUSY);
}

/* Not a violation, but refused: another lane's key, another session's pool. */
static void test_refusals(void **state)
{
	struct raw_client c, d;
	uint32_t pool, theirs;
	raw_start(&c, &pool);
	raw_start(&d, &theirs);
	for (unsigned lane = 0; lane < 2; lane++) {
		struct socket_slot *s = &raw_lane(&c, lane)->slot[3];
		for (uint32_t i = 0; i < 40; i++) {
			struct engine_key k = {.pool = pool, .index = i * 256};
			int want = engine_key_lane(&k, 2) == lane ? -ENOENT : -EXDEV;
			s->op = SOCKET_OP_GET;
			s->pool = pool;
			s->index = k.index;
			atomic_store(&s->state, SOCKET_SLOT_BUSY_WAITED);
			raw_push(&c, lane, 3);
			assert_int_equal(raw_wait(&c, lane, 3), want);
		}
		const uint32_t no_pool[] = {0, theirs, pool + ENGINE_MAX_POOLS, UINT32_MAX};
		for (unsigned i = 0; i < 4; i++) {
			s->op = SOCKET_OP_PUT;
			s->pool = no_pool[i];
			atomic_store(&s->state, SOCKET_SLOT_BUSY);
			raw_push(&c, lane, 3);
			assert_int_equal(raw_wait(&c, lane, 3), -ENOENT);
		}
	}
	assert_true(harness_lane_sum(h, offsetof(struct socket_lane_stats, refused_wrong_lane)));
	assert_int_equal(
		harness_lane_sum(h, offsetof(struct socket_lane_stats, refused_no_pool)), 8);
	/* The memory cannot be cut short under the lane. */
	assert_int_equal(ftruncate(c.fds[0], 0), -1);
	assert_int_equal(ftruncate(c.fds[0], 1 << 30), -1);
	/* Control: a pool of another session is not ours to ask about. */
	struct socket_pool_ref q = {
		.h = {.len_bytes = sizeof(q), .type = SOCKET_POOL_DESTROY}, .id = theirs};
	struct socket_answer a;
	raw_send(&c, &q, sizeof(q));
	assert_int_equal(raw_answer(&c, &a), -ENOENT);
	raw_close(&c);
	raw_close(&d);
}

static void frame_breaks(
	const void *frame, size_t len, bool after_hello, enum socket_violation want)
{
	struct raw_client c;
	uint64_t before = violations(want);
	assert_int_equal(raw_connect(&c, harness_path(h)), 0);
	if (after_hello)
		assert_int_equal(raw_hello(&c), 0);
	raw_send(&c, frame, len);
	assert_true(raw_closed(&c));
	raw_close(&c);
	assert_int_equal(violations(want), before + 1);
}

static void test_frame_violations(void **state)
{
	struct socket_plain q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_LIMITS}};
	struct socket_hello again = {.h = {.len_bytes = sizeof(again), .type = SOCKET_HELLO},
		.magic = SOCKET_MAGIC,
		.version_min = 1,
		.version_max = 1};
	frame_breaks(&q, sizeof(q), false, SOCKET_VIOLATION_FRAME_ORDER);
	frame_breaks(&again, sizeof(again), true, SOCKET_VIOLATION_FRAME_ORDER);
	q.h.type = SOCKET_ANSWER;
	frame_breaks(&q, sizeof(q), true, SOCKET_VIOLATION_FRAME_TYPE);
	q.h.type = SOCKET_BYE;
	q.h.len_bytes = 400;
	frame_breaks(&q, sizeof(q), true, SOCKET_VIOLATION_FRAME_LENGTH);
	q.h.len_bytes = sizeof(q);
	q.h.reserved = 1;
	frame_breaks(&q, sizeof(q), true, SOCKET_VIOLATION_FRAME_FIELD);
	frame_breaks("", 0, false, SOCKET_VIOLATION_STALLED);

	/* A version that is not ours: told so. */
	struct raw_client c;
	again.version_min = again.version_max = 9;
	assert_int_equal(raw_connect(&c, harness_path(h)), 0);
	raw_send(&c, &again, sizeof(again));
	struct socket_hello_ack ack;
	assert_int_equal(recv(c.fd, &ack, sizeof(ack), MSG_WAITALL), sizeof(ack));
	assert_int_equal(ack.h.status, -EPROTONOSUPPORT);
	raw_close(&c);
}

/* Many questions without taking an answer; and all of them at once, which is allowed. */
static void test_pipelined(void **state)
{
	struct raw_client c;
	uint32_t pool;
	struct socket_plain q[100];
	struct socket_answer a;
	raw_start(&c, &pool);
	for (unsigned i = 0; i < 100; i++)
		q[i].h = (struct socket_frame_header){
			.len_bytes = sizeof(q[i]), .type = SOCKET_LIMITS, .sequence = i};
	raw_send(&c, q, sizeof(q));
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(raw_answer(&c, &a), 0);
		assert_int_equal(a.h.sequence, i);
	}
	uint64_t before = violations(SOCKET_VIOLATION_STALLED);
	while (send(c.fd, q, sizeof(q), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		;
	while (violations(SOCKET_VIOLATION_STALLED) == before) {
		while (send(c.fd, q, sizeof(q), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
			;
		pause_us(1000);
	}
	raw_close(&c);
}

static void scribble(struct raw_client *c, uint64_t *rng, uint32_t pool)
{
	for (unsigned i = 0; i < 3000; i++) {
		unsigned lane = (unsigned)(mix(rng) % 2);
		struct socket_lane_memory *m = raw_lane(c, lane);
		struct socket_slot *s = &m->slot[mix(rng) % 8];
		switch (mix(rng) % 8) {
		case 0: /* any word at all */
			((volatile uint64_t *)m)[mix(rng) % (c->ack.lane_bytes / 8)] = mix(rng);
			break;
		case 1:
			atomic_store(&m->ring[mix(rng) % SOCKET_MAX_SLOTS],
				(uint64_t)(c->tail[lane] + mix(rng) % 3) << 32 | mix(rng) % 8);
			break;
		case 2:
			raw_ring(c, lane);
			break;
		case 3:
			atomic_store(&m->sleeping, (uint32_t)mix(rng));
			break;
		default: /* nearly right */
			s->op = (uint8_t)(1 + mix(rng) % 5);
			s->pool = pool;
			s->index = (uint32_t)mix(rng) % 1000;
			memset(s->reserved, 0, sizeof(s->reserved));
			raw_push(c, lane, (uint32_t)(s - m->slot));
			break;
		}
	}
}

static void test_scribbling(void **state)
{
	uint64_t rng = seed * 77 + 5;
	honest_start();
	for (unsigned round = 0; round < 40; round++) {
		struct raw_client c;
		uint32_t pool;
		raw_start(&c, &pool);
		scribble(&c, &rng, pool);
		raw_close(&c);
	}
	honest_end(1000);
}

/* The program that is killed: reads and writes until it is. */
static int victim_main(const char *path, uint64_t its_seed)
{
	struct fallow *f;
	struct fallow_pool *p;
	struct fallow_pool_opts o = {.size = sizeof(o), .flags = FALLOW_POOL_PERSISTENT};
	static uint8_t page[FALLOW_PAGE_BYTES];
	uint64_t rng = its_seed * 2 + 1;
	if (fallow_connect(path, &f) || fallow_pool_open(f, &o, &p) || write(1, "r", 1) != 1)
		return 1;
	for (;;) {
		struct fallow_oid oid = {{mix(&rng) % 10, 0, 0}};
		uint32_t index = (uint32_t)(mix(&rng) % 5000);
		int err = mix(&rng) % 2 ? fallow_put(p, &oid, index, page)
					: fallow_get(p, &oid, index, page);
		if (err && err != -ENOENT)
			return 2;
	}
}

static char self[512];

static pid_t victim_start(uint64_t its_seed)
{
	int ready[2];
	char number[32], c;
	snprintf(number, sizeof(number), "%llu", (unsigned long long)its_seed);
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ready[1], 1);
		close(ready[0]);
		close(ready[1]);
		execl(self, self, "--victim", harness_path(h), number, (char *)NULL);
		_exit(127);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

static void test_killed_clients(void **state)
{
	uint64_t rng = seed * 3 + 1;
	honest_start();
	for (unsigned round = 0; round < 20; round++) {
		pid_t pid[2];
		int status;
		for (unsigned i = 0; i < 2; i++)
			pid[i] = victim_start(mix(&rng));
		pause_us((long)(mix(&rng) % 10000));
		for (unsigned i = 0; i < 2; i++) {
			kill(pid[i], SIGKILL);
			assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
			assert_true(WIFSIGNALED(status));
		}
	}
	honest_end(500);
	/* All are let go of, and nothing of theirs is left in the lanes. */
	struct socket_server_stats s;
	struct pools_stats p;
	do {
		harness_stats(h, &s, &p);
		pause_us(2000);
	} while (stat_get(&s.connections));
	assert_int_equal(stat_get(&s.lost), 40);
	assert_int_equal(harness_lane_sum(h, offsetof(struct socket_lane_stats, in_progress)), 0);
	assert_int_equal(harness_lane_sum(h, offsetof(struct socket_lane_stats, sessions)), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_ring_violations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_frame_violations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pipelined, setup, teardown),
		cmocka_unit_test_setup_teardown(test_scribbling, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_clients, setup, teardown),
	};
	if (argc == 4 && strcmp(argv[1], "--victim") == 0)
		return victim_main(argv[2], strtoull(argv[3], NULL, 0));
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	else if (getrandom(&seed, 4, 0) != 4)
		return 1;
	printf("seed %llu\n", (unsigned long long)seed);
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	return n > 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
