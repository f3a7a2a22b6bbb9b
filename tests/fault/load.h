/* Clients under way: threads that put, get and flush over libfallow, know what every get must
 * return, and stop the test at the first wrong page. */
#ifndef FALLOW_FAULT_LOAD_H
#define FALLOW_FAULT_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/core/stats.h"

struct load_config {
	const char *socket;
	const char *pool; /* NULL: unnamed */
	unsigned copies;  /* 0: the backend's setting */
	unsigned threads;
	unsigned readers; /* of them, the last ones: these only get */
	unsigned keys;	  /* of each thread */
	uint64_t seed;
	bool may_lose;	 /* -EIO is a result, and stays until the key is put again */
	bool may_refuse; /* -ENOSPC is a result */
	bool may_break;	 /* -ESHUTDOWN is a result; the load connects again */
	bool may_late;	 /* -ETIMEDOUT of a get is a result */
};

struct load_counts {
	uint64_t puts, gets, flushes;
	uint64_t refused, lost, broken, late, unsure;
	uint64_t longest_break_ms;  /* from the kill that was told to -ESHUTDOWN */
	struct hist get_ns, put_ns; /* of one call; since the last load_window() */
};

struct load_tally {
	uint64_t pages, absent, lost;
};

/* All functions are for the main thread. */
struct load;
/* Connects and opens the pool. */
struct load *load_new(const struct load_config *cfg);
/* Puts every key once, in the caller's thread. */
void load_fill(struct load *l);
/* Starts the threads; they work until load_stop(). */
void load_start(struct load *l);
void load_stop(struct load *l);
/* The figures of get_ns and put_ns begin anew. */
void load_window(struct load *l);
/* The backend was killed just now: what ends with -ESHUTDOWN from now on is timed. */
void load_kill_told(struct load *l);
/* Reads every key and compares. The threads must be stopped. */
struct load_tally load_verify(struct load *l);
/* Flushes the first share (in percent) of each thread's keys. The threads must be stopped. */
void load_flush(struct load *l, unsigned percent);
/* Puts until count puts in a row were taken; fails after limit_ms. The threads must be stopped. */
void load_put_streak(struct load *l, unsigned count, unsigned limit_ms);
/* Sums of all threads; the threads may be running. */
void load_counts(struct load *l, struct load_counts *out);
/* How many pages the reference holds. The threads must be stopped. */
uint64_t load_pages(const struct load *l);
/* May be called to change what is allowed between phases. */
struct load_config *load_config(struct load *l);
void load_delete(struct load *l); /* disconnects; NULL is allowed */

#endif
