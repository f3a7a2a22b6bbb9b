/* What a program sees whose memory does not fit: random accesses to pages, some of them swapped
 * out. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "bench/samples.h"

#define PAGE 4096u

struct walk {
	uint8_t *area;
	uint32_t *version; /* of each page: how often it was written */
	uint64_t pages, seed, random, wrong;
};

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* The first half is random, the second one word: it compresses 2:1. */
static uint64_t word_of(const struct walk *w, uint64_t page, unsigned i)
{
	uint64_t x = mix(w->seed ^ mix(page * 65536 + w->version[page]));

	return i < PAGE / 16 ? mix(x + i) : x;
}

static void page_write(struct walk *w, uint64_t page)
{
	uint64_t *to = (uint64_t *)(w->area + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i++)
		to[i] = word_of(w, page, i);
}

static void page_check(struct walk *w, uint64_t page)
{
	const uint64_t *at = (const uint64_t *)(w->area + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i++)
		if (at[i] != word_of(w, page, i)) {
			w->wrong++;
			return;
		}
}

static long major_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_majflt;
}

/* Only the access itself is timed: the check and the write find the page there. */
static void access_one(struct walk *w, unsigned write_percent, struct samples *faults)
{
	w->random = mix(w->random);
	uint64_t page = w->random % w->pages;
	volatile const uint64_t *at = (volatile const uint64_t *)(w->area + page * PAGE);
	long before = major_faults();
	uint64_t start = samples_now_ns();

	(void)*at;
	uint64_t took = samples_now_ns() - start;
	if (major_faults() != before)
		samples_add(faults, took);
	page_check(w, page);
	if ((w->random >> 40) % 100 < write_percent) {
		w->version[page]++;
		page_write(w, page);
	}
}

static int walk_run(struct walk *w, uint64_t accesses, unsigned write_percent)
{
	struct samples faults;
	uint64_t start;

	if (samples_init(&faults, accesses))
		return 1;
	start = samples_now_ns();
	for (uint64_t i = 0; i < w->pages; i++)
		page_write(w, i);
	double fill_s = (double)(samples_now_ns() - start) / 1e9;
	start = samples_now_ns();
	for (uint64_t i = 0; i < accesses; i++)
		access_one(w, write_percent, &faults);
	double seconds = (double)(samples_now_ns() - start) / 1e9;
	printf("{\"pages\":%" PRIu64 ",\"accesses\":%" PRIu64
	       ",\"write_percent\":%u,\"seed\":%" PRIu64 ",\"wrong\":%" PRIu64
	       ",\"fill_s\":%.2f,\"seconds\":%.2f,\"accesses_per_s\":%.1f,"
	       "\"faults\":%zu,\"faults_per_s\":%.1f,",
		w->pages, accesses, write_percent, w->seed, w->wrong, fill_s, seconds,
		(double)accesses / seconds, faults.count, (double)faults.count / seconds);
	samples_print(&faults);
	puts("}");
	free(faults.ns);
	return w->wrong ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fputs("usage: bench_swap MIB ACCESSES WRITE_PERCENT SEED\n"
		      "Run it where less memory is allowed. Prints one JSON line.\n",
			stderr);
		return 2;
	}
	uint64_t mib = strtoull(argv[1], NULL, 0), accesses = strtoull(argv[2], NULL, 0);
	struct walk w = {.pages = mib << 8, .seed = strtoull(argv[4], NULL, 0)};

	if (!mib || mib > 1 << 20 || !accesses)
		return 2;
	w.random = mix(w.seed);
	w.version = calloc(w.pages, sizeof(*w.version));
	/* The program itself stays in memory: the faults counted are the walk's. */
	if (!w.version || mlockall(MCL_CURRENT)) {
		fprintf(stderr, "bench_swap: cannot lock memory: %s\n", strerror(errno));
		return 1;
	}
	w.area = mmap(NULL, w.pages * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w.area == MAP_FAILED) {
		fprintf(stderr, "bench_swap: no memory: %s\n", strerror(errno));
		return 1;
	}
	madvise(w.area, w.pages * PAGE, MADV_NOHUGEPAGE);
	return walk_run(&w, accesses, (unsigned)atoi(argv[3]));
}
