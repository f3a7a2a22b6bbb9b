/* The benchmark's settings, and its workers' counters while they run. */
#ifndef FALLOW_CLI_BENCH_H
#define FALLOW_CLI_BENCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <fallow/fallow.h>

#include "lib/core/stats.h"

#define BENCH_MAX_THREADS 64u
#define BENCH_MAX_DEPTH	  128u

enum bench_phase { BENCH_PUT, BENCH_GET, BENCH_FLUSH, BENCH_PHASES };

struct bench_config {
	uint64_t pages, gets;
	unsigned threads, depth;
	unsigned compressible; /* percent of each page */
	uint64_t seed;
	bool verify;
	uint32_t poll_us; /* fallow_poll_set() */
};

/* One thread and its share of the pages. Counters are written by the thread, read by the reporter.
 */
struct bench_worker {
	const struct bench_config *cfg;
	struct fallow_pool *pool;
	struct fallow_queue *queue;
	unsigned number;
	uint64_t first, count;		    /* its pages */
	uint8_t *stored;		    /* a bit for each: the put was acknowledged */
	uint8_t (*page)[FALLOW_PAGE_BYTES]; /* depth of them */
	uint64_t *start_ns, *which;	    /* of the request in each place */
	unsigned *unused, unused_count;	    /* places without a request */
	uint64_t random;
	enum bench_phase phase;
	pthread_t thread;
	bool running;

	struct hist latency[BENCH_PHASES];
	stat_t done[BENCH_PHASES];
	stat_t refused, missed, lost, wrong, failed;
	stat_t gone;	 /* 1: the backend is gone */
	stat_t finished; /* 1: this phase is over for it */
};

int bench_worker_init(struct bench_worker *w, const struct bench_config *cfg, struct fallow *f,
	struct fallow_pool *pool, unsigned number);
void bench_worker_fini(struct bench_worker *w);
int bench_worker_start(struct bench_worker *w, enum bench_phase phase);
void bench_worker_join(struct bench_worker *w);

#endif
