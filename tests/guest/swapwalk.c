/* Fills a working set with a pattern from a seed, walks it at random, checks every page and times
 * the major faults. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES    4096u
#define PAGE_WORDS    (PAGE_BYTES / 8)
#define REPEAT_WORDS  8u /* the second half of a page repeats this many words: it compresses */
#define MAX_FAULTS    (1u << 18)
#define MAX_MIB	      (1u << 16)
#define CHECK_STEPS   64u /* between two looks at --until */
#define WRITE_ONE_IN  4u
#define MAX_COMPLAINS 10u

struct walk {
	uint64_t seed;
	uint64_t random;
	uint32_t pages;
	uint8_t *base;
	uint16_t *version; /* of each page; a page may not come back older */
	uint32_t *fault_us;
	uint32_t faults; /* timed; those past MAX_FAULTS are only counted */
	uint64_t major;
	uint64_t wrong;
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint64_t walk_random(struct walk *w)
{
	return mix(w->random++);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double seconds_since(uint64_t begin_ns)
{
	return (double)(now_ns() - begin_ns) / 1e9;
}

static long major_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_majflt;
}

static void page_write(struct walk *w, uint32_t page, uint16_t version)
{
	uint64_t *word = (uint64_t *)(w->base + (size_t)page * PAGE_BYTES);
	uint64_t x = mix(w->seed ^ ((uint64_t)page << 16 | version));

	for (unsigned i = 0; i < PAGE_WORDS / 2; i++)
		word[i] = x = mix(x);
	for (unsigned i = PAGE_WORDS / 2; i < PAGE_WORDS; i++)
		word[i] = word[i % REPEAT_WORDS];
	w->version[page] = version;
}

/* Says of a wrong page what it holds: an older version, another page, zeros, or nothing known. */
static void page_complain(const struct walk *w, uint32_t page, unsigned at)
{
	const uint64_t *word = (const uint64_t *)(w->base + (size_t)page * PAGE_BYTES);

	for (uint32_t old = 0; old < w->version[page]; old++) {
		if (word[0] == mix(mix(w->seed ^ ((uint64_t)page << 16 | old)))) {
			fprintf(stderr, "page %u is version %u, not %u\n", page, old,
				w->version[page]);
			return;
		}
	}
	for (uint32_t other = 0; other < w->pages; other++) {
		uint64_t key = (uint64_t)other << 16 | w->version[other];

		if (other != page && word[0] == mix(mix(w->seed ^ key))) {
			fprintf(stderr, "page %u holds page %u\n", page, other);
			return;
		}
	}
	fprintf(stderr, "page %u version %u is wrong at byte %u: %016llx\n", page, w->version[page],
		at * 8, (unsigned long long)word[at]);
}

static void page_check(struct walk *w, uint32_t page)
{
	const uint64_t *word = (const uint64_t *)(w->base + (size_t)page * PAGE_BYTES);
	uint64_t x = mix(w->seed ^ ((uint64_t)page << 16 | w->version[page]));
	unsigned at = 0;

	while (at < PAGE_WORDS / 2 && word[at] == (x = mix(x)))
		at++;
	if (at == PAGE_WORDS / 2) {
		while (at < PAGE_WORDS && word[at] == word[at % REPEAT_WORDS])
			at++;
		if (at == PAGE_WORDS)
			return;
	}
	if (w->wrong++ < MAX_COMPLAINS)
		page_complain(w, page, at);
}

/* One access at random, timed when it was a major fault. */
static void walk_step(struct walk *w)
{
	uint64_t r = walk_random(w);
	uint32_t page = (uint32_t)((r >> 32) % w->pages);
	long before = major_faults();
	uint64_t begin = now_ns();

	(void)*(volatile uint8_t *)(w->base + (size_t)page * PAGE_BYTES);
	uint64_t took_us = (now_ns() - begin) / 1000;
	if (major_faults() != before) {
		w->major++;
		if (w->faults < MAX_FAULTS)
			w->fault_us[w->faults++] =
				took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX;
	}
	page_check(w, page);
	if (r % WRITE_ONE_IN == 0 && w->version[page] < UINT16_MAX)
		page_write(w, page, w->version[page] + 1);
}

static uint64_t walk_run(struct walk *w, uint64_t steps, const char *until)
{
	uint64_t n = 0;

	while (w->wrong == 0) {
		if (n >= steps &&
			(until == NULL || (n % CHECK_STEPS == 0 && access(until, F_OK) == 0)))
			break;
		walk_step(w);
		n++;
	}
	return n;
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint32_t percentile_us(const struct walk *w, double share)
{
	return w->faults == 0 ? 0 : w->fault_us[(uint32_t)(share * (w->faults - 1))];
}

/* Bookkeeping stays in memory: only the working set shall be paged. */
static void *book_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED || mlock(p, bytes) != 0) {
		fprintf(stderr, "swapwalk: no %zu bytes that stay in memory: %s\n", bytes,
			strerror(errno));
		exit(1);
	}
	return p;
}

static void walk_alloc(struct walk *w)
{
	size_t bytes = (size_t)w->pages * PAGE_BYTES;

	w->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->base == MAP_FAILED) {
		fprintf(stderr, "swapwalk: no %zu bytes: %s\n", bytes, strerror(errno));
		exit(1);
	}
	/* A fault brings in one page, and pages leave one by one. */
	madvise(w->base, bytes, MADV_NOHUGEPAGE);
	w->version = book_alloc(w->pages * sizeof(*w->version));
	w->fault_us = book_alloc(MAX_FAULTS * sizeof(*w->fault_us));
}

static uint64_t number(const char *text, uint64_t min, uint64_t max)
{
	char *end;

	errno = 0;
	uint64_t n = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0' || n < min || n > max) {
		fprintf(stderr, "swapwalk: '%s' is no number from %llu to %llu\n", text,
			(unsigned long long)min, (unsigned long long)max);
		exit(2);
	}
	return n;
}

static void run(struct walk *w, uint64_t steps, const char *until)
{
	uint64_t begin = now_ns();

	for (uint32_t page = 0; page < w->pages; page++)
		page_write(w, page, 0);
	double fill_s = seconds_since(begin);
	printf("filled\n");
	fflush(stdout);

	begin = now_ns();
	uint64_t taken = walk_run(w, steps, until);
	double walk_s = seconds_since(begin);

	begin = now_ns();
	for (uint32_t page = 0; page < w->pages; page++)
		page_check(w, page);
	double check_s = seconds_since(begin);

	qsort(w->fault_us, w->faults, sizeof(*w->fault_us), compare_u32);
	printf("{\"mib\":%u,\"seed\":%llu,\"steps\":%llu,\"major_faults\":%llu,\"p50_us\":%u,\"p99_"
	       "us\":%u,"
	       "\"p999_us\":%u,\"max_us\":%u,\"fill_s\":%.3f,\"walk_s\":%.3f,\"check_s\":%.3f,"
	       "\"checked\":%u,"
	       "\"wrong\":%llu}\n",
		w->pages / 256, (unsigned long long)w->seed, (unsigned long long)taken,
		(unsigned long long)w->major, percentile_us(w, 0.5), percentile_us(w, 0.99),
		percentile_us(w, 0.999), percentile_us(w, 1), fill_s, walk_s, check_s, w->pages,
		(unsigned long long)w->wrong);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mib", required_argument, NULL, 'm'},
		{"seed", required_argument, NULL, 's'},
		{"steps", required_argument, NULL, 'n'},
		{"until", required_argument, NULL, 'u'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct walk w = {.seed = 1, .pages = 64 * 256};
	uint64_t steps = 10000;
	const char *until = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'm':
			w.pages = (uint32_t)number(optarg, 1, MAX_MIB) * 256;
			break;
		case 's':
			w.seed = number(optarg, 0, UINT64_MAX);
			break;
		case 'n':
			steps = number(optarg, 0, UINT64_MAX);
			break;
		case 'u':
			until = optarg;
			break;
		default:
			printf("Usage: swapwalk [--mib N] [--seed S] [--steps N] [--until FILE]\n"
			       "--until goes on after the steps until FILE exists. Exit code 1: a "
			       "page was wrong.\n");
			return c == 'h' ? 0 : 2;
		}
	}
	w.random = mix(w.seed ^ 0x77616c6b);
	walk_alloc(&w);
	run(&w, steps, until);
	return w.wrong != 0;
}
