/* Clients under way: threads that put, get and flush over libfallow and know what every get must
 * return. */
#include "tests/fault/load.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <fallow/fallow.h>

#include "tests/fault/harness.h"
#include "tests/fault/page.h"
#include "tests/model/rng.h"

#define BATCH	     16u
#define OBJECT_PAGES 64u /* pages of one object */
#define HOT_PART     8u
#define COLD_ONE_IN  200u
#define PAUSE_US     2000u
#define CANDIDATES   4u
#define RECONNECT_MS 60000u
#define ABSENT	     0u		/* a version: the key holds nothing */
#define LOST	     UINT32_MAX /* a version: what it held is lost */

/* The versions that a key may hold now: one, but for keys whose last operations ended unknown. */
struct key_state {
	uint32_t candidate[CANDIDATES];
	uint32_t count;
	uint32_t last; /* version put last */
};

struct worker {
	struct load *load;
	unsigned number;
	pthread_t thread;
	struct rng rng;
	struct key_state *key;
	stat_t puts, gets, flushes, refused, lost, broken, late, longest_break_ms;
	unsigned window;
	struct hist get_ns, put_ns;
};

struct load {
	struct load_config cfg;
	struct fallow *f;
	struct fallow_pool *pool;
	struct worker *worker;
	atomic_bool stopping;
	bool running;
	atomic_uint window;
	_Atomic uint64_t kill_told_ns;
};

/* One call: up to BATCH neighbouring keys of a worker. */
struct call {
	unsigned first, count;
	struct fallow_key key[BATCH];
	void *page[BATCH];
	int status[BATCH];
	uint32_t version[BATCH]; /* puts */
};

static __thread uint8_t call_pages[BATCH][FALLOW_PAGE_BYTES] __attribute__((aligned(64)));

static uint64_t key_number(const struct worker *w, unsigned k)
{
	return (uint64_t)w->number << 32 | k;
}

static void call_prepare(const struct worker *w, struct call *c, unsigned first, unsigned count)
{
	c->first = first;
	c->count = count;
	for (unsigned i = 0; i < count; i++) {
		unsigned k = first + i;

		c->key[i] = (struct fallow_key){
			.oid = {{w->number, k / OBJECT_PAGES, 77}}, .index = k % OBJECT_PAGES};
		c->page[i] = call_pages[i];
		c->status[i] = 0;
	}
}

static void state_one(struct key_state *s, uint32_t version)
{
	s->candidate[0] = version;
	s->count = 1;
}

static void state_also(struct key_state *s, uint32_t version)
{
	for (unsigned i = 0; i < s->count; i++) {
		if (s->candidate[i] == version)
			return;
	}
	s->candidate[s->count++] = version;
}

static bool state_may(const struct key_state *s, uint32_t version)
{
	for (unsigned i = 0; i < s->count; i++) {
		if (s->candidate[i] == version)
			return true;
	}
	return false;
}

/* No room for one more unknown end: it must be read first. */
static bool state_full(const struct key_state *s)
{
	return s->count + 2 > CANDIDATES;
}

static void reconnect(struct worker *w)
{
	uint64_t until = now_ms() + RECONNECT_MS;
	int r;

	while ((r = fallow_reconnect(w->load->f))) {
		if (r == -ENODATA)
			fail("reconnected, but the pool had to be made anew");
		if (now_ms() > until)
			fail("cannot reconnect: %s", fallow_strerror(r));
		pause_ms(5);
	}
}

/* An end that leaves open whether it was done. */
static void broke(struct worker *w, uint64_t begin_ns)
{
	uint64_t told = atomic_load(&w->load->kill_told_ns), now = now_ns();

	if (!w->load->cfg.may_break)
		fail("thread %u: the backend is gone", w->number);
	stat_add(&w->broken, 1);
	if (told && now > told) {
		uint64_t ms = (now - (begin_ns > told ? begin_ns : told)) / 1000000;

		if (ms > stat_get(&w->longest_break_ms))
			stat_set(&w->longest_break_ms, ms);
	}
}

static void wrong(const struct worker *w, unsigned k, const char *what)
{
	const struct key_state *s = &w->key[k];

	fail("thread %u, key %u (object %u, index %u): %s; it may hold %u version(s): %u %u %u, "
	     "last "
	     "put %u",
		w->number, k, k / OBJECT_PAGES, k % OBJECT_PAGES, what, s->count, s->candidate[0],
		s->count > 1 ? s->candidate[1] : 0, s->count > 2 ? s->candidate[2] : 0, s->last);
}

static void got_page(struct worker *w, unsigned k, const void *page)
{
	struct key_state *s = &w->key[k];
	char text[160], is[128];

	for (unsigned i = 0; i < s->count; i++) {
		uint32_t v = s->candidate[i];

		if (v != ABSENT && v != LOST &&
			!fault_page_compare(page, w->load->cfg.seed, key_number(w, k), v)) {
			state_one(s, v);
			return;
		}
	}
	fault_page_describe(page, is, sizeof(is));
	snprintf(text, sizeof(text), "WRONG PAGE: %s", is);
	wrong(w, k, text);
}

static void got(struct worker *w, unsigned k, int status, const void *page)
{
	struct key_state *s = &w->key[k];
	bool holds = s->count > 1 || s->candidate[0] != ABSENT;

	switch (status) {
	case 0:
		got_page(w, k, page);
		break;
	case -ENOENT:
		if (!state_may(s, ABSENT))
			wrong(w, k, "a miss");
		state_one(s, ABSENT);
		break;
	case -EIO:
		if (!w->load->cfg.may_lose || !holds)
			wrong(w, k, "lost");
		if (!(s->count == 1 && s->candidate[0] == LOST))
			stat_add(&w->lost, 1);
		state_one(s, LOST);
		break;
	case -ETIMEDOUT:
		if (!w->load->cfg.may_late)
			wrong(w, k, "a get timed out");
		stat_add(&w->late, 1);
		break;
	default:
		wrong(w, k, fallow_strerror(status));
	}
}

static void hist_window(struct worker *w)
{
	unsigned window = atomic_load(&w->load->window);

	if (w->window != window) {
		memset(&w->get_ns, 0, sizeof(w->get_ns));
		memset(&w->put_ns, 0, sizeof(w->put_ns));
		w->window = window;
	}
}

static void do_get(struct worker *w, unsigned first, unsigned count)
{
	struct call c;
	uint64_t begin = now_ns();
	bool broken = false;

	call_prepare(w, &c, first, count);
	if (count == 1)
		c.status[0] = fallow_get(w->load->pool, &c.key[0].oid, c.key[0].index, c.page[0]);
	else
		fallow_get_batch(w->load->pool, count, c.key, c.page, c.status);
	for (unsigned i = 0; i < count; i++) {
		if (c.status[i] == -ESHUTDOWN)
			broken = true;
		else
			got(w, first + i, c.status[i], c.page[i]);
	}
	stat_add(&w->gets, count);
	if (broken) {
		broke(w, begin);
		reconnect(w);
		return;
	}
	hist_window(w);
	hist_record(&w->get_ns, now_ns() - begin);
}

static void put_done(struct worker *w, unsigned k, int status, uint32_t version)
{
	struct key_state *s = &w->key[k];

	switch (status) {
	case 0:
		state_one(s, version);
		break;
	case -ENOSPC:
		if (!w->load->cfg.may_refuse)
			wrong(w, k, "a put was refused");
		stat_add(&w->refused, 1);
		state_one(s, ABSENT);
		break;
	case -ESHUTDOWN:
		/* Done, not begun, or refused, which takes away what was there. */
		state_also(s, version);
		state_also(s, ABSENT);
		break;
	default:
		wrong(w, k, fallow_strerror(status));
	}
}

static bool call_ready(struct worker *w, unsigned first, unsigned count)
{
	for (unsigned k = first; k < first + count; k++) {
		if (state_full(&w->key[k])) {
			do_get(w, first, count);
			return false;
		}
	}
	return true;
}

/* Returns whether all were taken. */
static bool do_put(struct worker *w, unsigned first, unsigned count)
{
	struct call c;
	uint64_t begin = now_ns();
	bool broken = false, taken = true;

	if (!call_ready(w, first, count))
		return false;
	call_prepare(w, &c, first, count);
	for (unsigned i = 0; i < count; i++) {
		c.version[i] = ++w->key[first + i].last;
		fault_page_fill(
			c.page[i], w->load->cfg.seed, key_number(w, first + i), c.version[i]);
	}
	if (count == 1)
		c.status[0] = fallow_put(w->load->pool, &c.key[0].oid, c.key[0].index, c.page[0]);
	else
		fallow_put_batch(
			w->load->pool, count, c.key, (const void *const *)c.page, c.status);
	for (unsigned i = 0; i < count; i++) {
		broken |= c.status[i] == -ESHUTDOWN;
		taken &= !c.status[i];
		put_done(w, first + i, c.status[i], c.version[i]);
	}
	stat_add(&w->puts, count);
	hist_window(w);
	hist_record(&w->put_ns, now_ns() - begin);
	if (broken) {
		broke(w, begin);
		reconnect(w);
	}
	return taken;
}

static void flush_done(struct worker *w, unsigned k, int status)
{
	struct key_state *s = &w->key[k];

	if (status == -ESHUTDOWN) {
		state_also(s, ABSENT);
		return;
	}
	if (status != 0 && status != -ENOENT)
		wrong(w, k, fallow_strerror(status));
	if (status == -ENOENT && !state_may(s, ABSENT))
		wrong(w, k, "a flush found nothing");
	if (status == 0 && s->count == 1 && s->candidate[0] == ABSENT)
		wrong(w, k, "a flush found something where nothing was");
	state_one(s, ABSENT);
}

static void do_flush(struct worker *w, unsigned first, unsigned count)
{
	struct call c;
	uint64_t begin = now_ns();
	bool broken = false;

	if (!call_ready(w, first, count))
		return;
	call_prepare(w, &c, first, count);
	if (count == 1)
		c.status[0] = fallow_flush_page(w->load->pool, &c.key[0].oid, c.key[0].index);
	else
		fallow_flush_batch(w->load->pool, count, c.key, c.status);
	for (unsigned i = 0; i < count; i++) {
		broken |= c.status[i] == -ESHUTDOWN;
		flush_done(w, first + i, c.status[i]);
	}
	stat_add(&w->flushes, count);
	if (broken) {
		broke(w, begin);
		reconnect(w);
	}
}

static void do_flush_object(struct worker *w, unsigned k)
{
	unsigned first = k - k % OBJECT_PAGES, count = OBJECT_PAGES;
	struct fallow_oid oid = {{w->number, k / OBJECT_PAGES, 77}};
	uint64_t begin = now_ns();
	bool empty = true;

	if (count > w->load->cfg.keys - first)
		count = w->load->cfg.keys - first;
	for (unsigned i = first; i < first + count; i++) {
		if (state_full(&w->key[i]))
			return;
		empty &= state_may(&w->key[i], ABSENT);
	}
	int status = fallow_flush_object(w->load->pool, &oid);

	if (status == -ENOENT && !empty)
		wrong(w, k, "a flush of the object found nothing");
	if (status != 0 && status != -ENOENT && status != -ESHUTDOWN)
		wrong(w, k, fallow_strerror(status));
	for (unsigned i = first; i < first + count; i++) {
		if (status == -ESHUTDOWN)
			state_also(&w->key[i], ABSENT);
		else
			state_one(&w->key[i], ABSENT);
	}
	stat_add(&w->flushes, 1);
	if (status == -ESHUTDOWN) {
		broke(w, begin);
		reconnect(w);
	}
}

static void step(struct worker *w)
{
	unsigned keys = w->load->cfg.keys;
	unsigned count = rng_below(&w->rng, 2) ? 1 : 1 + (unsigned)rng_below(&w->rng, BATCH);
	unsigned what = (unsigned)rng_below(&w->rng, 1000);

	if (w->number + w->load->cfg.readers >= w->load->cfg.threads)
		what = 0;

	/* Most pages are read only, so that they stay where they were put. */
	if (what >= 550 && rng_below(&w->rng, COLD_ONE_IN))
		keys = keys / HOT_PART;
	unsigned k = (unsigned)rng_below(&w->rng, keys - count + 1);
	if (what < 550)
		do_get(w, k, count);
	else if (what < 930)
		do_put(w, k, count);
	else if (what < 998)
		do_flush(w, k, count);
	else
		do_flush_object(w, k);
	if (rng_below(&w->rng, 4) == 0)
		usleep((useconds_t)rng_below(&w->rng, PAUSE_US));
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&w->load->stopping))
		step(w);
	return NULL;
}

struct load *load_new(const struct load_config *cfg)
{
	struct load *l = calloc(1, sizeof(*l));
	struct fallow_pool_opts opts = {.size = sizeof(opts),
		.flags = FALLOW_POOL_PERSISTENT,
		.name = cfg->pool,
		.copies = (uint8_t)cfg->copies};

	if (!l || !(l->worker = calloc(cfg->threads, sizeof(*l->worker))))
		fail("out of memory");
	l->cfg = *cfg;
	for (unsigned i = 0; i < cfg->threads; i++) {
		struct worker *w = &l->worker[i];

		w->load = l;
		w->number = i;
		w->rng = (struct rng){rng_mix(cfg->seed + i)};
		w->key = calloc(cfg->keys, sizeof(*w->key));
		if (!w->key)
			fail("out of memory");
		for (unsigned k = 0; k < cfg->keys; k++)
			w->key[k].count = 1;
	}
	int r = fallow_connect(cfg->socket, &l->f);
	if (r)
		fail("cannot connect: %s", fallow_strerror(r));
	r = fallow_pool_open(l->f, &opts, &l->pool);
	if (r)
		fail("cannot open the pool: %s", fallow_strerror(r));
	return l;
}

void load_fill(struct load *l)
{
	for (unsigned k = 0; k < l->cfg.keys; k += BATCH) {
		unsigned count = l->cfg.keys - k < BATCH ? l->cfg.keys - k : BATCH;

		for (unsigned i = 0; i < l->cfg.threads; i++)
			do_put(&l->worker[i], k, count);
	}
}

void load_start(struct load *l)
{
	atomic_store(&l->stopping, false);
	for (unsigned i = 0; i < l->cfg.threads; i++) {
		if (pthread_create(&l->worker[i].thread, NULL, work, &l->worker[i]))
			fail("cannot start a thread");
	}
	l->running = true;
}

void load_stop(struct load *l)
{
	atomic_store(&l->stopping, true);
	for (unsigned i = 0; i < l->cfg.threads; i++)
		pthread_join(l->worker[i].thread, NULL);
	l->running = false;
}

void load_window(struct load *l)
{
	atomic_fetch_add(&l->window, 1);
}

void load_kill_told(struct load *l)
{
	atomic_store(&l->kill_told_ns, now_ns());
}

struct load_tally load_verify(struct load *l)
{
	struct load_tally t = {0};

	for (unsigned i = 0; i < l->cfg.threads; i++) {
		struct worker *w = &l->worker[i];

		for (unsigned k = 0; k < l->cfg.keys; k += BATCH)
			do_get(w, k, l->cfg.keys - k < BATCH ? l->cfg.keys - k : BATCH);
		for (unsigned k = 0; k < l->cfg.keys; k++) {
			uint32_t v = w->key[k].candidate[0];

			if (w->key[k].count != 1)
				wrong(w, k, "could not be read");
			t.lost += v == LOST;
			t.absent += v == ABSENT;
			t.pages += v != LOST && v != ABSENT;
		}
	}
	return t;
}

void load_flush(struct load *l, unsigned percent)
{
	unsigned keys = l->cfg.keys * percent / 100;

	for (unsigned i = 0; i < l->cfg.threads; i++) {
		for (unsigned k = 0; k < keys; k += BATCH)
			do_flush(&l->worker[i], k, keys - k < BATCH ? keys - k : BATCH);
	}
}

void load_put_streak(struct load *l, unsigned count, unsigned limit_ms)
{
	uint64_t until = now_ms() + limit_ms;

	for (unsigned streak = 0, k = 0; streak < count; k = (k + 1) % l->cfg.keys) {
		if (now_ms() > until)
			fail("in %u ms no %u puts in a row were taken", limit_ms, count);
		streak = do_put(&l->worker[0], k, 1) ? streak + 1 : 0;
	}
}

void load_counts(struct load *l, struct load_counts *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < l->cfg.threads; i++) {
		const struct worker *w = &l->worker[i];

		out->puts += stat_get(&w->puts);
		out->gets += stat_get(&w->gets);
		out->flushes += stat_get(&w->flushes);
		out->refused += stat_get(&w->refused);
		out->lost += stat_get(&w->lost);
		out->broken += stat_get(&w->broken);
		out->late += stat_get(&w->late);
		if (stat_get(&w->longest_break_ms) > out->longest_break_ms)
			out->longest_break_ms = stat_get(&w->longest_break_ms);
		hist_merge(&out->get_ns, &w->get_ns);
		hist_merge(&out->put_ns, &w->put_ns);
	}
}

uint64_t load_pages(const struct load *l)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < l->cfg.threads; i++) {
		for (unsigned k = 0; k < l->cfg.keys; k++) {
			const struct key_state *s = &l->worker[i].key[k];

			n += !(s->count == 1 && s->candidate[0] == ABSENT);
		}
	}
	return n;
}

struct load_config *load_config(struct load *l)
{
	return &l->cfg;
}

void load_delete(struct load *l)
{
	if (!l)
		return;
	if (l->running)
		load_stop(l);
	fallow_disconnect(l->f);
	for (unsigned i = 0; i < l->cfg.threads; i++)
		free(l->worker[i].key);
	free(l->worker);
	free(l);
}
