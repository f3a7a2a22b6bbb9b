/* Puts and checks pages whose content follows from a seed, over libfallow, for the integration
 * tests. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fallow/fallow.h>

#define BATCH 32u

/*
 * pages put SOCKET POOL FIRST COUNT SEED [COPIES]   stores pages FIRST..FIRST+COUNT-1
 * pages check SOCKET POOL FIRST COUNT SEED          reads them and compares
 * pages flush SOCKET POOL FIRST COUNT
 * Prints "ok=N refused=N miss=N lost=N wrong=N failed=N"; exits 0 when it could talk to the
 * backend.
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

int main(int argc, char **argv)
{
	struct fallow *f;
	struct fallow_pool *p;
	struct tally t = {0};

	if (argc < 6) {
		fprintf(stderr,
			"usage: pages put|check|flush SOCKET POOL FIRST COUNT [SEED [COPIES]]\n");
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
	for (uint64_t n = 0; !r && n < count; n += BATCH)
		r = batch_run(p, argv[1], first + n,
			count - n < BATCH ? (unsigned)(count - n) : BATCH, seed, &t);
	printf("ok=%llu refused=%llu miss=%llu lost=%llu wrong=%llu failed=%llu\n",
		(unsigned long long)t.ok, (unsigned long long)t.refused, (unsigned long long)t.miss,
		(unsigned long long)t.lost, (unsigned long long)t.wrong,
		(unsigned long long)t.failed);
	fallow_pool_close(p);
	fallow_disconnect(f);
	return r < 0 ? 1 : 0;
}
