/* Tests of the message ring, alone and with several producers and a sleeping consumer. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/core/ring.h"

struct message {
	uint32_t producer;
	uint32_t sequence;
	uint64_t check;
};

static bool fd_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

static void bad_sizes_are_refused(void **state)
{
	struct ring r;

	assert_int_equal(ring_init(&r, 0, 8), -EINVAL);
	assert_int_equal(ring_init(&r, 8, 0), -EINVAL);
	assert_int_equal(ring_init(&r, 1u << 30, 8), -EINVAL);
	assert_int_equal(ring_init(&r, 8, 1u << 20), -EINVAL);
}

static void messages_come_in_order_and_a_full_ring_refuses(void **state)
{
	struct ring r;
	uint64_t m;

	assert_int_equal(ring_init(&r, 5, sizeof(m)), 0);
	for (uint64_t round = 0; round < 10; round++) {
		for (uint64_t i = 0; i < 8; i++) {
			m = round * 8 + i;
			assert_int_equal(ring_push(&r, &m), 0);
		}
		assert_int_equal(ring_push(&r, &m), -ENOSPC);
		assert_int_equal(r.refused, round + 1);
		for (uint64_t i = 0; i < 8; i++) {
			assert_true(ring_pop(&r, &m));
			assert_int_equal(m, round * 8 + i);
		}
		assert_false(ring_pop(&r, &m));
	}
	ring_fini(&r);
}

static void messages_of_odd_length_stay_whole(void **state)
{
	struct ring r;
	char m[13] = "hello, world", got[13];

	assert_int_equal(ring_init(&r, 4, sizeof(m)), 0);
	assert_int_equal(ring_push(&r, m), 0);
	assert_true(ring_pop(&r, got));
	assert_string_equal(got, m);
	ring_fini(&r);
}

static void only_a_sleeper_is_signalled(void **state)
{
	struct ring r;
	uint64_t m = 7;

	assert_int_equal(ring_init(&r, 4, sizeof(m)), 0);
	assert_int_equal(ring_push(&r, &m), 0);
	assert_false(fd_readable(ring_fd(&r)));
	assert_false(ring_sleep(&r)); /* a message is there */
	assert_true(ring_pop(&r, &m));
	assert_true(ring_sleep(&r));
	assert_false(fd_readable(ring_fd(&r)));
	assert_int_equal(ring_push(&r, &m), 0);
	assert_true(fd_readable(ring_fd(&r)));
	ring_awake(&r);
	assert_false(fd_readable(ring_fd(&r)));
	assert_true(ring_pop(&r, &m));

	assert_true(ring_sleep(&r));
	ring_wake(&r); /* without a message */
	assert_true(fd_readable(ring_fd(&r)));
	ring_awake(&r);
	ring_wake(&r); /* awake: no signal */
	assert_false(fd_readable(ring_fd(&r)));
	ring_fini(&r);
}

enum { PRODUCERS = 3, MESSAGES = 20000 };

struct producer {
	struct ring *ring;
	uint32_t number;
};

static void *produce(void *arg)
{
	const struct producer *p = arg;

	for (uint32_t i = 0; i < MESSAGES; i++) {
		struct message m = {p->number, i, (uint64_t)p->number * 1000003 ^ i};
		while (ring_push(p->ring, &m))
			usleep(50);
		if (i % 1024 == 0)
			usleep(200); /* lets the consumer fall asleep */
	}
	return NULL;
}

static void producers_and_a_sleeping_consumer(void **state)
{
	struct ring r;
	struct producer producer[PRODUCERS];
	pthread_t thread[PRODUCERS];
	uint32_t next[PRODUCERS] = {0}, total = 0;
	struct message m;

	assert_int_equal(ring_init(&r, 64, sizeof(m)), 0);
	for (uint32_t i = 0; i < PRODUCERS; i++) {
		producer[i] = (struct producer){&r, i};
		assert_int_equal(pthread_create(&thread[i], NULL, produce, &producer[i]), 0);
	}
	while (total < PRODUCERS * MESSAGES) {
		while (ring_pop(&r, &m)) {
			assert_true(m.producer < PRODUCERS);
			assert_int_equal(m.sequence, next[m.producer]);
			assert_int_equal(m.check, (uint64_t)m.producer * 1000003 ^ m.sequence);
			next[m.producer]++;
			total++;
		}
		if (total < PRODUCERS * MESSAGES && ring_sleep(&r)) {
			struct pollfd p = {.fd = ring_fd(&r), .events = POLLIN};
			/* A lost wake-up ends here. */
			assert_int_equal(poll(&p, 1, 30000), 1);
			ring_awake(&r);
		}
	}
	for (uint32_t i = 0; i < PRODUCERS; i++)
		pthread_join(thread[i], NULL);
	assert_false(ring_pop(&r, &m));
	ring_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(messages_come_in_order_and_a_full_ring_refuses),
		cmocka_unit_test(messages_of_odd_length_stay_whole),
		cmocka_unit_test(only_a_sleeper_is_signalled),
		cmocka_unit_test(producers_and_a_sleeping_consumer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
