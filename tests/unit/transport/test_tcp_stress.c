/* Lanes in threads under load while regions come and go: no byte of a revoked region may move. */
#include "tests/unit/transport/rig.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LANES  3u
#define DEPTH  16u
#define STRIPE (256u << 10) /* each lane has its own part of the region */
#define REGION (LANES * STRIPE)
#define AREA   (DEPTH * 65536u)

/* The region the lanes use now; the control thread (the test) changes it. */
static _Atomic uint64_t current_key;
static atomic_bool stop;
static _Atomic uint64_t done_ok, done_refused, reconnects;
static uint16_t port;

struct lane {
	pthread_t thread;
	unsigned id;
	uint64_t token[2], seed;
	struct transport *t;
	struct transport_conn *c;
	uint8_t *area;
	struct rig_op op[DEPTH];
	bool wrong;
};

static uint64_t draw(struct lane *l)
{
	l->seed ^= l->seed << 13;
	l->seed ^= l->seed >> 7;
	l->seed ^= l->seed << 17;
	return l->seed;
}

/* Every byte of a live region is a lane's mark or zero; a revoked one is filled with 0xff. A lane's
 * parts are its own, so that the thread sanitizer sees every access that nothing orders. */
static void lane_check(struct lane *l, struct rig_op *o)
{
	if (o->status == 0)
		atomic_fetch_add(&done_ok, 1);
	else if (o->status == -EREMOTEIO)
		atomic_fetch_add(&done_refused, 1);
	else if (o->status != -ECONNRESET && o->status != -ECANCELED)
		l->wrong = true, fprintf(stderr, "lane %u: status %d\n", l->id, o->status);
	if (o->status == 0 && o->op.kind == TRANSPORT_READ)
		for (uint32_t i = 0; i < o->op.len; i++)
			if (((uint8_t *)o->op.buf)[i] > LANES) {
				fprintf(stderr, "lane %u: byte %u of %u is %u\n", l->id, i,
					o->op.len, ((uint8_t *)o->op.buf)[i]);
				l->wrong = true;
				return;
			}
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	memset(l->op, 0, sizeof l->op);
	for (unsigned i = 0; i < DEPTH; i++)
		l->op[i].ended = true;
	while (!atomic_load(&stop)) {
		for (unsigned i = 0; i < DEPTH; i++) {
			struct rig_op *o = &l->op[i];
			if (!o->ended)
				continue;
			if (o->op.done)
				lane_check(l, o);
			uint32_t len = draw(l) % 8 ? 4096 : 65536;
			enum transport_op_kind kind =
				draw(l) & 1 ? TRANSPORT_READ : TRANSPORT_WRITE;
			rig_op_init(o, kind, l->area + i * 65536, len, atomic_load(&current_key),
				l->id * STRIPE + draw(l) % (STRIPE - len));
			if (kind == TRANSPORT_WRITE)
				memset(o->op.buf, (int)l->id + 1, len);
			if (transport_tcp.post(l->c, &o->op)) {
				o->ended = true;
				o->op.done = NULL;
			}
		}
		transport_tcp.doorbell(l->c);
		transport_tcp.poll(l->t, DEPTH);
		if (transport_tcp.conn_broken(l->c) || draw(l) % 5000 == 0) {
			rig_drop(l->c);
			int err = rig_establish(l->t, port, l->token, &l->c);
			if (err || transport_tcp.attach(l->c)) {
				fprintf(stderr, "lane %u: cannot connect again: %d\n", l->id, err);
				l->wrong = true;
				return NULL;
			}
			atomic_fetch_add(&reconnects, 1);
		}
	}
	return NULL;
}

static void test_regions_come_and_go(void **state)
{
	struct lane lane[LANES];
	const uint64_t token[2] = {1, 2};
	uint8_t *memory = rig_map(REGION);
	struct transport_export e;
	struct transport_server *s = rig_server(NULL);
	port = transport_server_tcp_port(s);
	assert_int_equal(transport_server_client_add(s, 1), 0);
	assert_int_equal(transport_server_session_add(s, 1, token), 0);
	assert_int_equal(transport_server_export(s, 1, memory, REGION, &e), 0);
	atomic_store(&current_key, e.tcp_key);
	for (unsigned i = 0; i < LANES; i++) {
		struct lane *l = &lane[i];
		*l = (struct lane){.id = i, .token = {1, 2}, .seed = *(uint64_t *)*state + i * 77};
		l->t = rig_transport(DEPTH, (void **)&l->area, AREA);
		l->c = rig_connect(l->t, port, token);
		assert_int_equal(pthread_create(&l->thread, NULL, lane_main, l), 0);
	}
	unsigned dirty = 0;
	for (unsigned round = 0; round < 150; round++) {
		uint64_t before = atomic_load(&done_ok), limit = rig_now_ms() + RIG_LIMIT_MS;
		while (atomic_load(&done_ok) < before + 20)
			if (rig_now_ms() > limit)
				fail_msg("no progress in round %u", round);
		transport_server_unexport(s, e.region);
		/* nobody may write this now, and nobody may see it */
		memset(memory, 0xff, REGION);
		for (unsigned k = 0; k < 20; k++)
			sched_yield();
		for (unsigned k = 0; k < REGION; k++)
			dirty += memory[k] != 0xff;
		memset(memory, 0, REGION);
		assert_int_equal(transport_server_export(s, 1, memory, REGION, &e), 0);
		atomic_store(&current_key, e.tcp_key);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < LANES; i++) {
		pthread_join(lane[i].thread, NULL);
		assert_false(lane[i].wrong);
		rig_drop(lane[i].c);
		transport_tcp.close(lane[i].t);
		munmap(lane[i].area, AREA);
	}
	assert_int_equal(dirty, 0);
	printf("%llu transfers, %llu refused, %llu reconnects\n", (unsigned long long)done_ok,
		(unsigned long long)done_refused, (unsigned long long)reconnects);
	transport_server_stop(s);
	munmap(memory, REGION);
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)getpid() * 2654435761u;
	seed = seed ? seed : 1;
	printf("seed %llu\n", (unsigned long long)seed);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_regions_come_and_go, &seed)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
