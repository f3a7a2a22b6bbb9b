/* The world as pure code sees it: a clock and a source of random numbers, handed in by the caller.
 */
#ifndef FALLOW_CORE_ENV_H
#define FALLOW_CORE_ENV_H

#include <stdint.h>

/*
 * The engine, the cluster logic and the memory server's lease logic read no clock and draw no
 * random number of their own. A daemon hands in the system's (env_system), a test a virtual clock
 * and a seed. Both calls must be safe in the thread that owns the object the env was given to, and
 * never block.
 */
struct env {
	uint64_t (*now_ns)(void *ctx); /* monotonic time in nanoseconds; never goes back */
	uint64_t (*random)(void *ctx); /* 64 uniformly distributed bits */
	void *ctx;
};

static inline uint64_t env_now_ns(const struct env *env)
{
	return env->now_ns(env->ctx);
}

static inline uint64_t env_random(const struct env *env)
{
	return env->random(env->ctx);
}

/* CLOCK_MONOTONIC and a per-thread generator seeded from getrandom(2). Any thread. */
extern const struct env env_system;

#endif
