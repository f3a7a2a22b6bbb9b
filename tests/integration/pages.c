/* Puts and checks pages whose content follows from a seed, over libfallow, for the integration
 * tests. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <fallow/fallow.h>

#define BATCH	   32u
#define LOAD_BATCH 8u

/*
 * pages put SOCKET POOL FIRST COUNT SEED [COPIES]   stores pages FIRST..FIRST+COUNT-1
 * pages check SOCKET POOL FIRST COUNT SEED          reads them and compares
 * pages flush SOCKET POOL FIRST COUNT
 * pages watch SOCKET POOL FIRST COUNT SEED          reads them over and over until SIGTERM
 * pages churn SOCKET POOL FIRST COUNT SEED [COPIES] puts and reads them over and over until SIGTERM
 * Prints "ok=N refused=N miss=N lost=N wrong=N failed=N"; exits 0 when it could talk to the
 * backend. watch and churn say "started" once they run, print a line every second, and at the end
 * the milliseconds of the longest batch of gets.
 */
struct tally {
	uint64_t ok, refused, miss, lost, wrong, failed;
};

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Every fourth page does not compress, every sixteenth is one word repeated, the others compress by
 * half. */
static void page_fill(uint8_t *page, uint64_t seed, uint64_t n)
{
	uint64_t *w = (uint64_t *)page, x = mix(seed ^ mix(n));
	unsigned words = FALLOW_PAGE_BYTES / 8;

	for (unsigned i = 0; i < words; i++) {
		if (n % 16 == 7)
			w[i] = (x & 0xff) * 0x0101010101010101ull;
		else if (n % 4 == 1 || i % 2)
			w[i] = mix(x + i);
		else
			w[i] = x;
	}
}

static void key_fill(struct fallow_key *k, uint64_t n)
{
	*k = (struct fallow_key){.oid = {{n / 4096, 7, 9}}, .index = (uint32_t)(n % 4096)};
}

static void count_status(struct tally *t, int status, int equal)
{
	if (status == 0 && equal)
		t->ok++;
	else if (status == 0)
		t->wrong++;
	else if (status == -ENOSPC)
		t->refused++;
	else if (status == -ENOENT)
		t->miss++;
	else if (status == -EIO)
		t->lost++;
	else
		t->failed++;
}

static int batch_run(struct fallow_pool *p, const char *what, uint64_t first, unsigned count,
	uint64_t seed, struct tally *t)
{
	static uint8_t page[BATCH][FALLOW_PAGE_BYTES] __attribute__((aligned(64)));
	uint8_t want[FALLOW_PAGE_BYTES] __attribute__((aligned(64)));
	struct fallow_key key[BATCH];
	const void *in[BATCH];
	void *out[BATCH];
	int status[BATCH] = {0}, r;

	for (unsigned i = 0; i < count; i++) {
		key_fill(&key[i], first + i);
		in[i] = out[i] = page[i];
		if (!strcmp(what, "put"))
			page_fill(page[i], seed, first + i);
	}
	if (!strcmp(what, "put"))
		r = fallow_put_batch(p, count, key, in, status);
	else if (!strcmp(what, "flush"))
		r = fallow_flush_batch(p, count, key, status);
	else
		r = fallow_get_batch(p, count, key, out, status);
	for (unsigned i = 0; i < count; i++) {
		int equal = 1;

		if (!strcmp(what, "check") && !status[i]) {
			page_fill(want, seed, first + i);
			equal = !memcmp(want, page[i], FALLOW_PAGE_BYTES);
		}
		count_status(t, status[i], equal);
	}
	return r == -ESHUTDOWN ? r : 0;
}

static volatile sig_atomic_t stopped;

static void on_term(int sig)
{
	stopped = 1;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

/* The pages of a load. seed: what was put last under each key, 0 for nothing. */
struct load {
	struct fallow_pool *pool;
	struct tally tally;
	uint64_t first, count, *seed;
	uint64_t longest_ms;
};

static int load_put(struct load *l, uint64_t at, uint64_t seed)
{
	static uint8_t page[LOAD_BATCH][FALLOW_PAGE_BYTES] __attribute__((aligned(64)));
	struct fallow_key key[LOAD_BATCH];
	const void *in[LOAD_BATCH];
	int status[LOAD_BATCH] = {0};

	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		key_fill(&key[i], l->first + at + i);
		page_fill(page[i], seed, l->first + at + i);
		in[i] = page[i];
	}
	int r = fallow_put_batch(l->pool, LOAD_BATCH, key, in, status);
	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		/* A refused put leaves nothing behind. */
		l->seed[at + i] = status[i] ? 0 : seed;
		if (status[i])
			count_status(&l->tally, status[i], 1);
	}
	return r == -ESHUTDOWN ? r : 0;
}

static int load_get(struct load *l, uint64_t at)
{
	static uint8_t page[LOAD_BATCH][FALLOW_PAGE_BYTES] __attribute__((aligned(64)));
	uint8_t want[FALLOW_PAGE_BYTES] __attribute__((aligned(64)));
	struct fallow_key key[LOAD_BATCH];
	void *out[LOAD_BATCH];
	int status[LOAD_BATCH] = {0};
	uint64_t begin_ms = now_ms();

	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		key_fill(&key[i], l->first + at + i);
		out[i] = page[i];
	}
	int r = fallow_get_batch(l->pool, LOAD_BATCH, key, out, status);
	if (now_ms() - begin_ms > l->longest_ms)
		l->longest_ms = now_ms() - begin_ms;
	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		uint64_t seed = l->seed[at + i];

		page_fill(want, seed, l->first + at + i);
		if (!seed && status[i] == -ENOENT)
			l->tally.ok++;
		else
			count_status(&l->tally, status[i],
				seed && !memcmp(want, page[i], FALLOW_PAGE_BYTES));
	}
	return r == -ESHUTDOWN ? r : 0;
}

static int load_run(struct load *l, int churn, uint64_t seed)
{
	uint64_t said_ms = 0, x = mix(seed), batches = l->count / LOAD_BATCH;
	int r = 0;

	for (uint64_t n = 0; churn && !r && n < batches; n++)
		r = load_put(l, n * LOAD_BATCH, seed);
	for (uint64_t step = 1; !r && !stopped; step++) {
		uint64_t at = mix(x + step) % batches * LOAD_BATCH;

		r = churn && step % 2 ? load_put(l, at, seed + step) : load_get(l, at);
		if (now_ms() - said_ms < 1000)
			continue;
		said_ms = now_ms();
		puts(step == 1 ? "started" : "goes on");
		fflush(stdout);
	}
	return r;
}

static int load(struct fallow_pool *p, char **argv, struct tally *t, uint64_t *longest_ms)
{
	struct load l = {.pool = p,
		.first = strtoull(argv[4], NULL, 0),
		.count = strtoull(argv[5], NULL, 0)};
	uint64_t seed = argv[6] ? strtoull(argv[6], NULL, 0) : 1;
	int r = -EINVAL;

	l.seed = calloc(l.count + 1, sizeof(*l.seed));
	if (!l.seed || l.count < LOAD_BATCH || !seed)
		goto out;
	for (uint64_t i = 0; i < l.count; i++)
		l.seed[i] = seed;
	signal(SIGTERM, on_term);
	r = load_run(&l, !strcmp(argv[1], "churn"), seed);
	*t = l.tally;
	*longest_ms = l.longest_ms;
out:
	free(l.seed);
	return r;
}

int main(int argc, char **argv)
{
	struct fallow *f;
	struct fallow_pool *p;
	struct tally t = {0};
	uint64_t longest_ms = 0;

	if (argc < 6) {
		fprintf(stderr, "usage: pages put|check|flush|watch|churn SOCKET POOL FIRST COUNT "
				"[SEED [COPIES]]\n");
		return 2;
	}
	uint64_t first = strtoull(argv[4], NULL, 0), count = strtoull(argv[5], NULL, 0);
	uint64_t seed = argc > 6 ? strtoull(argv[6], NULL, 0) : 0;
	struct fallow_pool_opts opts = {.size = sizeof(opts),
		.flags = FALLOW_POOL_PERSISTENT,
		.name = argv[3],
		.copies = argc > 7 ? (uint8_t)atoi(argv[7]) : 0};
	int r = fallow_connect(argv[2], &f);

	if (r < 0) {
		fprintf(stderr, "pages: cannot connect to %s: %s\n", argv[2], fallow_strerror(r));
		return 1;
	}
	r = fallow_pool_open(f, &opts, &p);
	if (r < 0) {
		fprintf(stderr, "pages: cannot open pool %s: %s\n", argv[3], fallow_strerror(r));
		fallow_disconnect(f);
		return 1;
	}
	int loads = !strcmp(argv[1], "watch") || !strcmp(argv[1], "churn");

	if (loads) {
		r = load(p, argv, &t, &longest_ms);
		count = 0;
	}
	for (uint64_t n = 0; !r && n < count; n += BATCH)
		r = batch_run(p, argv[1], first + n,
			count - n < BATCH ? (unsigned)(count - n) : BATCH, seed, &t);
	printf("ok=%llu refused=%llu miss=%llu lost=%llu wrong=%llu failed=%llu\n",
		(unsigned long long)t.ok, (unsigned long long)t.refused, (unsigned long long)t.miss,
		(unsigned long long)t.lost, (unsigned long long)t.wrong,
		(unsigned long long)t.failed);
	if (loads)
		printf("longest_ms=%llu\n", (unsigned long long)longest_ms);
	fallow_pool_close(p);
	fallow_disconnect(f);
	return r < 0 ? 1 : 0;
}
