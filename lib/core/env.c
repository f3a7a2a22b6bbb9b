/* The system's clock and random numbers behind struct env. */
#include "lib/core/env.h"

#include <stdbool.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static uint64_t system_now_ns(void *ctx)
{
	struct timespec ts;

	(void)ctx;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* Should getrandom(2) fail (an old sandbox), time and stack address still tell threads apart. */
static void seed_thread(uint64_t state[2])
{
	if (getrandom(state, 2 * sizeof(state[0]), GRND_NONBLOCK) != 2 * sizeof(state[0])) {
		state[0] = system_now_ns(NULL);
		state[1] = (uint64_t)(uintptr_t)state ^ (uint64_t)getpid() << 32;
	}
	if (!state[0] && !state[1])
		state[0] = 1;
}

/* xoroshiro128++ (Blackman and Vigna): fast, not for secrets. */
static uint64_t system_random(void *ctx)
{
	static _Thread_local uint64_t s[2];
	static _Thread_local bool seeded;

	(void)ctx;
	if (!seeded) {
		seed_thread(s);
		seeded = true;
	}
	uint64_t a = s[0], b = s[1], sum = a + b;
	uint64_t result = ((sum << 17) | (sum >> 47)) + a;
	b ^= a;
	s[0] = ((a << 49) | (a >> 15)) ^ b ^ (b << 21);
	s[1] = (b << 28) | (b >> 36);
	return result;
}

const struct env env_system = {.now_ns = system_now_ns, .random = system_random, .ctx = NULL};
