/* One thread of the benchmark: puts, gets or flushes its share of the pages through a queue. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "lib/core/env.h"

#define WAIT_MS	      1000
#define WAITS_AT_MOST 60

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* The first part of a page is random, the rest one word: what a codec can take away. */
static void page_fill(const struct bench_config *cfg, uint64_t n, uint8_t *page)
{
	uint64_t *w = (uint64_t *)page, x = mix(cfg->seed ^ mix(n)), fill = mix(x);
	unsigned words = FALLOW_PAGE_BYTES / 8, noise = words * (100 - cfg->compressible) / 100;

	for (unsigned i = 0; i < words; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w[i] = i < noise ? x : fill;
	}
	w[0] = n; /* no page is same-filled, whatever the share */
}

static void result_take(struct bench_worker *w, const struct fallow_result *r)
{
	unsigned place = (unsigned)r->tag;
	uint64_t n = w->which[place], i = n - w->first;
	static _Thread_local uint8_t want[FALLOW_PAGE_BYTES] __attribute__((aligned(64)));

	hist_record(&w->latency[w->phase], env_now_ns(&env_system) - w->start_ns[place]);
	stat_add(&w->done[w->phase], 1);
	w->unused[w->unused_count++] = place;
	if (r->status == -ESHUTDOWN) {
		stat_set(&w->gone, 1);
	} else if (r->status == -ENOSPC) {
		stat_add(&w->refused, 1);
	} else if (r->status == -ENOENT) {
		/* A page whose put was refused is not there, and should not be. */
		if (w->phase == BENCH_GET && w->stored[i / 8] & 1u << i % 8)
			stat_add(&w->missed, 1);
	} else if (r->status == -EIO) {
		stat_add(&w->lost, 1);
	} else if (r->status) {
		stat_add(&w->failed, 1);
	} else if (w->phase == BENCH_PUT) {
		w->stored[i / 8] |= (uint8_t)(1u << i % 8);
	} else if (w->phase == BENCH_GET && w->cfg->verify) {
		page_fill(w->cfg, n, want);
		if (memcmp(want, w->page[place], FALLOW_PAGE_BYTES))
			stat_add(&w->wrong, 1);
	}
}

/* Waits for at least one result; false: none came in a minute, or the backend is gone. */
static bool results_wait(struct bench_worker *w)
{
	struct fallow_result r[BENCH_MAX_DEPTH];

	for (unsigned waits = 0; waits < WAITS_AT_MOST; waits++) {
		int n = fallow_queue_wait(w->queue, r, w->cfg->depth, WAIT_MS);

		if (n < 0)
			break;
		for (int i = 0; i < n; i++)
			result_take(w, &r[i]);
		if (n > 0)
			return !stat_get(&w->gone);
	}
	stat_set(&w->gone, 1);
	return false;
}

static bool submit(struct bench_worker *w, uint64_t n)
{
	static const int ops[] = {FALLOW_OP_PUT, FALLOW_OP_GET, FALLOW_OP_FLUSH_PAGE};
	struct fallow_oid oid = {{n >> 20, w->cfg->seed, 0xbe4c}};
	unsigned place = w->unused[w->unused_count - 1];

	if (w->phase == BENCH_PUT)
		page_fill(w->cfg, n, w->page[place]);
	for (;;) {
		w->start_ns[place] = env_now_ns(&env_system);
		w->which[place] = n;
		int r = fallow_queue_submit(w->queue, w->pool, ops[w->phase], &oid,
			(uint32_t)(n & ((1u << 20) - 1)), w->page[place], place);
		if (!r) {
			/* Results taken below may have added places above it. */
			for (unsigned i = 0; i < w->unused_count; i++)
				if (w->unused[i] == place)
					w->unused[i] = w->unused[w->unused_count - 1];
			w->unused_count--;
			return true;
		}
		if (r != -EAGAIN) {
			if (r == -ESHUTDOWN)
				stat_set(&w->gone, 1);
			else
				stat_add(&w->failed, 1);
			return r != -ESHUTDOWN;
		}
		if (w->unused_count == w->cfg->depth) {
			/* Others hold all slots of the connection; nothing of ours to wait for. */
			struct timespec ts = {.tv_nsec = 20000};
			nanosleep(&ts, NULL);
		} else if (!results_wait(w)) {
			return false;
		}
	}
}

static void worker_run(struct bench_worker *w)
{
	struct fallow_result r[BENCH_MAX_DEPTH];
	uint64_t total = w->phase == BENCH_GET ? w->cfg->gets * w->count / w->cfg->pages : w->count;

	for (uint64_t i = 0; i < total; i++) {
		uint64_t n = w->first + i;

		if (w->phase == BENCH_GET)
			n = w->first + (w->random = mix(w->random)) % w->count;
		int got = fallow_queue_poll(w->queue, r, w->cfg->depth);
		for (int k = 0; k < got; k++)
			result_take(w, &r[k]);
		if (!w->unused_count && !results_wait(w))
			return;
		if (stat_get(&w->gone) || !submit(w, n))
			return;
	}
	while (w->unused_count < w->cfg->depth)
		if (!results_wait(w))
			break;
}

static void *worker_main(void *arg)
{
	struct bench_worker *w = arg;

	worker_run(w);
	stat_set(&w->finished, 1);
	return NULL;
}

int bench_worker_init(struct bench_worker *w, const struct bench_config *cfg, struct fallow *f,
	struct fallow_pool *pool, unsigned number)
{
	uint64_t share = cfg->pages / cfg->threads;

	w->cfg = cfg;
	w->pool = pool;
	w->number = number;
	w->first = share * number;
	w->count = number + 1 == cfg->threads ? cfg->pages - w->first : share;
	w->random = mix(cfg->seed + number);
	w->stored = calloc(w->count / 8 + 1, 1);
	w->page = aligned_alloc(64, (size_t)cfg->depth * FALLOW_PAGE_BYTES);
	w->start_ns = calloc(cfg->depth, sizeof(*w->start_ns));
	w->which = calloc(cfg->depth, sizeof(*w->which));
	w->unused = calloc(cfg->depth, sizeof(*w->unused));
	if (!w->stored || !w->page || !w->start_ns || !w->which || !w->unused)
		return -ENOMEM;
	for (; w->unused_count < cfg->depth; w->unused_count++)
		w->unused[w->unused_count] = w->unused_count;
	return fallow_queue_new(f, cfg->depth, &w->queue);
}

void bench_worker_fini(struct bench_worker *w)
{
	fallow_queue_delete(w->queue);
	free(w->stored);
	free(w->page);
	free(w->start_ns);
	free(w->which);
	free(w->unused);
}

int bench_worker_start(struct bench_worker *w, enum bench_phase phase)
{
	w->phase = phase;
	stat_set(&w->finished, 0);
	int r = pthread_create(&w->thread, NULL, worker_main, w);
	w->running = !r;
	return -r;
}

void bench_worker_join(struct bench_worker *w)
{
	if (w->running)
		pthread_join(w->thread, NULL);
	w->running = false;
}
