/* The engine alone, called in-process: speed against bare copies and LZ4, memory per page,
 * cleaning. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <lz4.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bench/fake_donors.h"

#define PAGE	   4096u
#define SET_PAGES  16384u /* 64 MiB: more than the caches hold */
#define ROUNDS	   9u
#define MAX_ROUNDS 64u

static struct engine_quota quota = {0, UINT64_MAX};

static void die(const char *what, int err)
{
	fprintf(stderr, "bench_engine: %s: %s\n", what, strerror(-err));
	exit(1);
}

static struct engine *open_engine(const struct engine_config *cfg, struct fake_donors *d)
{
	struct engine_account a = {.name = "bench", .weight = 1, .quota = &quota};
	struct engine *e;
	char err[256];
	int rc = engine_open(NULL, cfg, &env_system, &fake_donors_ops, d, &e, err, sizeof(err));

	if (rc) {
		fprintf(stderr, "bench_engine: %s\n", err);
		exit(1);
	}
	d->engine = e;
	rc = engine_account_set(e, 0, &a);
	if (rc)
		die("account", rc);
	for (unsigned i = 0; i < FAKE_DONORS; i++)
		engine_donor_state(e, i, true, false);
	return e;
}

static void add_pool(struct engine *e, uint32_t id, uint8_t codec, uint8_t copies)
{
	struct engine_pool_desc p = {
		.id = id, .flags = ENGINE_POOL_PERSISTENT, .codec = codec, .copies = copies};
	int rc = engine_pool_add(e, &p);

	if (rc)
		die("pool", rc);
}

/* ---- page contents ---- */

static uint8_t *text_pages;
static unsigned text_count;

/* Pages of the machine's programs and libraries that LZ4 makes smaller. */
static int collect(const char *path, const struct stat *st, int type, struct FTW *f)
{
	char out[LZ4_COMPRESSBOUND(PAGE)];
	int fd;

	(void)f;
	if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size < (off_t)PAGE)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	for (unsigned n = 0; n < 1024 && text_count < SET_PAGES; n++) {
		uint8_t *p = text_pages + (size_t)text_count * PAGE;

		if (read(fd, p, PAGE) != (ssize_t)PAGE)
			break;
		int len = LZ4_compress_default((char *)p, out, PAGE, sizeof(out));

		if (len > 64 && len < 3500)
			text_count++;
	}
	close(fd);
	return text_count == SET_PAGES;
}

static uint8_t *random_pages(void)
{
	uint8_t *p = aligned_alloc(PAGE, (size_t)SET_PAGES * PAGE);

	for (size_t i = 0; p && i < (size_t)SET_PAGES * PAGE; i += 8) {
		uint64_t v = env_random(&env_system);

		memcpy(p + i, &v, 8);
	}
	return p;
}

/* ---- timing ---- */

struct series {
	double ns[MAX_ROUNDS];
	unsigned n;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(const struct series *s)
{
	struct series c = *s;

	qsort(c.ns, c.n, sizeof(c.ns[0]), by_value);
	return c.ns[c.n / 2];
}

static uint64_t now(void)
{
	return env_now_ns(&env_system);
}

static void record(struct series *s, uint64_t start)
{
	s->ns[s->n++] = (double)(now() - start) / SET_PAGES;
}

static volatile uint64_t sink;

static int failures;

static void row(const char *name, const char *a, double ours, const char *b, double bare,
	double target, bool at_most)
{
	double ratio = ours / bare;
	bool ok = at_most ? ratio <= target : ratio >= target;

	printf("{\"bench\":\"%s\",\"%s\":%.1f,\"%s\":%.1f,\"ratio\":%.3f,\"target\":\"%s "
	       "%.2f\",\"met\":%s}\n",
		name, a, ours, b, bare, ratio, at_most ? "<=" : ">=", target,
		ok ? "true" : "false");
	failures += !ok;
}

/* ---- puts and gets ---- */

static void put_all(struct engine *e, uint32_t pool, const uint8_t *pages)
{
	for (unsigned i = 0; i < SET_PAGES; i++) {
		struct engine_key k = {.oid = {7}, .pool = pool, .index = i};
		int rc = engine_put(e, &k, pages + (size_t)i * PAGE, NULL);

		if (rc)
			die("put", rc);
	}
}

static void bench_put_raw(struct engine *e, const uint8_t *pages)
{
	uint8_t *copy = aligned_alloc(PAGE, (size_t)SET_PAGES * PAGE);
	struct series bare = {.n = 0}, ours = {.n = 0};

	memset(copy, 1, (size_t)SET_PAGES * PAGE);
	put_all(e, 1, pages);
	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t start = now();

		for (size_t i = 0; i < SET_PAGES; i++) {
			memcpy(copy + i * PAGE, pages + i * PAGE, PAGE);
			sink += XXH3_64bits(copy + i * PAGE, PAGE);
		}
		record(&bare, start);
		start = now();
		put_all(e, 1, pages);
		record(&ours, start);
	}
	row("put incompressible / (memcpy + XXH3)", "put_ns", median(&ours), "bare_ns",
		median(&bare), 2.0, true);
	free(copy);
}

static void bench_lz4(struct engine *e)
{
	char *packed = malloc((size_t)SET_PAGES * PAGE);
	int *len = calloc(SET_PAGES, sizeof(*len));
	struct series lz = {.n = 0}, put = {.n = 0}, unlz = {.n = 0}, get = {.n = 0};
	char page[PAGE];

	put_all(e, 2, text_pages);
	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t start = now();
		char *at = packed;

		for (size_t i = 0; i < SET_PAGES; i++) {
			len[i] =
				LZ4_compress_default((char *)text_pages + i * PAGE, at, PAGE, PAGE);
			at += len[i];
		}
		record(&lz, start);
		start = now();
		put_all(e, 2, text_pages);
		record(&put, start);
		start = now();
		at = packed;
		for (size_t i = 0; i < SET_PAGES; i++) {
			sink += (uint64_t)LZ4_decompress_safe(at, page, len[i], PAGE);
			at += len[i];
		}
		record(&unlz, start);
		start = now();
		for (unsigned i = 0; i < SET_PAGES; i++) {
			struct engine_key k = {.oid = {7}, .pool = 2, .index = i};
			struct engine_req req;

			if (engine_get(e, &k, page, &req))
				die("get", -EIO);
		}
		record(&get, start);
	}
	row("put compressible / LZ4", "put_ns", median(&put), "lz4_ns", median(&lz), 1.2, true);
	row("get local / LZ4 decompression", "get_ns", median(&get), "lz4_ns", median(&unlz), 1.3,
		true);
	free(packed);
	free(len);
}

static struct engine_config big_local(void)
{
	struct engine_config c;

	engine_config_default(&c, 512ull << 20, 1u << 18);
	c.spill_percent = 1;
	return c;
}

struct worker {
	pthread_t thread;
	pthread_barrier_t *barrier;
	const uint8_t *pages;
	unsigned cpu;
	double puts_per_s;
};

/* As a lane does where asked; a scheduler may leave two threads on one processor for seconds. */
static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct engine_config c = big_local();

	pin(w->cpu);
	struct fake_donors d = {.region_bytes = 16 << 20};
	struct engine *e = open_engine(&c, &d);

	add_pool(e, 1, ENGINE_CODEC_LZ4, 1);
	put_all(e, 1, w->pages);
	pthread_barrier_wait(w->barrier);
	uint64_t start = now();

	for (unsigned r = 0; r < ROUNDS * 2; r++)
		put_all(e, 1, w->pages);
	w->puts_per_s = (double)SET_PAGES * ROUNDS * 2 * 1e9 / (double)(now() - start);
	pthread_barrier_wait(w->barrier);
	engine_close(e);
	return NULL;
}

static double run_workers(unsigned n, const uint8_t *pages)
{
	struct worker w[2];
	pthread_barrier_t barrier;
	double sum = 0;

	pthread_barrier_init(&barrier, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		w[i] = (struct worker){.barrier = &barrier, .pages = pages, .cpu = i};
		pthread_create(&w[i].thread, NULL, worker_main, &w[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(w[i].thread, NULL);
		sum += w[i].puts_per_s;
	}
	pthread_barrier_destroy(&barrier);
	return sum;
}

static void bench_two_threads(const uint8_t *pages)
{
	struct series one = {.n = 0}, two = {.n = 0};

	for (unsigned r = 0; r < 5; r++) {
		one.ns[one.n++] = run_workers(1, pages);
		two.ns[two.n++] = run_workers(2, pages);
	}
	row("puts from 2 threads / from one", "two_per_s", median(&two), "one_per_s", median(&one),
		1.8, false);
}

static void bench_speed(void)
{
	struct engine_config c = big_local();
	struct fake_donors d = {.region_bytes = 16 << 20};
	struct engine *e = open_engine(&c, &d);
	uint8_t *raw = random_pages();

	text_pages = aligned_alloc(PAGE, (size_t)SET_PAGES * PAGE);
	nftw("/usr/lib", collect, 16, FTW_PHYS);
	if (text_count < SET_PAGES)
		nftw("/usr", collect, 16, FTW_PHYS);
	if (text_count < SET_PAGES)
		die("too few compressible pages under /usr", -ENOENT);
	add_pool(e, 1, ENGINE_CODEC_LZ4, 1);
	add_pool(e, 2, ENGINE_CODEC_LZ4, 1);
	bench_put_raw(e, raw);
	bench_lz4(e);
	engine_close(e);
	bench_two_threads(text_pages);
	free(raw);
	free(text_pages);
}

/* ---- memory per page ---- */

static void bench_memory(uint32_t pages_per_object)
{
	const uint64_t pages = 16u << 20;
	struct engine_config c;
	struct fake_donors d = {.region_bytes = 64 << 20};
	struct engine *e;
	uint32_t word = 0;
	uint8_t page[PAGE];

	engine_config_default(&c, 64ull << 20, pages);
	e = open_engine(&c, &d);
	add_pool(e, 1, ENGINE_CODEC_LZ4, 1);
	for (uint64_t i = 0; i < pages; i++) {
		struct engine_key k = {.oid = {i / pages_per_object, 1, 2},
			.pool = 1,
			.index = (uint32_t)(i % pages_per_object)};

		word++;
		for (unsigned b = 0; b < PAGE; b += 4)
			memcpy(page + b, &word, 4);
		int rc = engine_put(e, &k, page, NULL);

		if (rc)
			die("put", rc);
	}
	const struct engine_stats *s = engine_stats(e);
	double per =
		(double)(stat_get(&s->index_bytes) + stat_get(&s->table_bytes)) / (double)pages;

	printf("{\"bench\":\"DRAM per page, %u pages an object\",\"pages\":%" PRIu64
	       ",\"index_bytes\":%" PRIu64 ",\"table_bytes\":%" PRIu64
	       ",\"bytes_per_page\":%.2f,\"target\":\"<= 32\",\"met\":%s}\n",
		pages_per_object, stat_get(&s->pages), stat_get(&s->index_bytes),
		stat_get(&s->table_bytes), per, per <= 32 ? "true" : "false");
	failures += per > 32;
	engine_close(e);
}

/* ---- cleaning ---- */

static void ignore_done(struct engine_req *r, int status)
{
	*(int *)r->fetch[1] = status;
}

static void settle(struct engine *e, struct fake_donors *d)
{
	engine_tick(e);
	engine_work(e);
	fake_donors_run(d);
}

static void put_wait(struct engine *e, struct fake_donors *d, const struct engine_key *k,
	const uint8_t *page, uint64_t *refused)
{
	static struct engine_req req = {.done = ignore_done};
	int status = -EINPROGRESS;

	req.fetch[1] = &status;
	int rc = engine_put(e, k, page, &req);

	if (rc == -EINPROGRESS)
		while (status == -EINPROGRESS)
			settle(e, d);
	else
		status = rc;
	*refused += status != 0;
}

/* Random overwrites and flushes of a set eight times the local tier; every put ticks, as a lane's
 * loop does. */
static void bench_clean(uint64_t ops)
{
	const uint32_t set = 1u << 17;
	struct engine_config c;
	struct fake_donors d = {.region_bytes = 16 << 20, .max_regions = 128};
	struct engine *e;
	uint8_t *raw = random_pages();
	uint64_t refused = 0, worst_held = 0, worst_live = 1, samples = 0;
	double sum = 0;

	engine_config_default(&c, 64ull << 20, 1u << 18);
	e = open_engine(&c, &d);
	add_pool(e, 1, ENGINE_CODEC_LZ4, 1);
	for (uint32_t i = 0; i < set; i++) {
		struct engine_key k = {.oid = {1}, .pool = 1, .index = i};

		put_wait(e, &d, &k, raw + (size_t)(i % SET_PAGES) * PAGE, &refused);
		settle(e, &d);
	}
	const struct engine_stats *s = engine_stats(e);
	uint64_t put0 = stat_get(&s->bytes_stored), moved0 = stat_get(&s->bytes_relocated);

	for (uint64_t n = 0; n < ops; n++) {
		uint64_t r = env_random(&env_system);
		struct engine_key k = {.oid = {1}, .pool = 1, .index = (uint32_t)(r % set)};

		if (r >> 60 == 0)
			engine_flush_page(e, &k);
		else
			put_wait(e, &d, &k, raw + (size_t)(r >> 32) % SET_PAGES * PAGE, &refused);
		settle(e, &d);
		if (n % 4096 == 0 && n > ops / 4) {
			uint64_t held = 0, live = 0;

			for (unsigned donor = 0; donor < FAKE_DONORS; donor++) {
				uint64_t segs, bytes;

				engine_donor_usage(e, donor, &segs, &bytes);
				held += segs * c.segment_bytes;
				live += bytes;
			}
			sum += (double)live / (double)held;
			samples++;
			if (live * worst_held < worst_live * held || worst_held == 0) {
				worst_live = live;
				worst_held = held;
			}
		}
	}
	double stored = (double)(stat_get(&s->bytes_stored) - put0);
	double moved = (double)(stat_get(&s->bytes_relocated) - moved0);
	double mean = sum / (double)samples, low = (double)worst_live / (double)worst_held;

	printf("{\"bench\":\"live share of remote bytes\",\"operations\":%" PRIu64
	       ",\"refused\":%" PRIu64 ",\"live_mean\":%.3f,\"live_lowest\":%.3f,"
	       "\"write_amplification\":%.2f,\"cleaned\":%" PRIu64
	       ",\"target\":\">= 0.80\",\"met\":%s}\n",
		ops, refused, mean, low, (stored + moved) / stored, stat_get(&s->segments_cleaned),
		low >= 0.8 ? "true" : "false");
	failures += low < 0.8;
	engine_close(e);
	fake_donors_free(&d);
	free(raw);
}

static int usage(FILE *to)
{
	fprintf(to, "usage: bench_engine [speed | memory | clean [OPERATIONS]]...\n"
		    "Each figure is one line of JSON; without arguments all three run.\n"
		    "Exit status 1 when a target was missed.\n");
	return to == stderr ? 2 : 0;
}

int main(int argc, char **argv)
{
	uint64_t ops = 2000000;

	if (argc == 1) {
		bench_speed();
		bench_memory(1u << 20);
		bench_memory(16);
		bench_clean(ops);
	}
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0)
			return usage(stdout);
		if (strcmp(argv[i], "speed") == 0) {
			bench_speed();
		} else if (strcmp(argv[i], "memory") == 0) {
			bench_memory(1u << 20);
			bench_memory(16);
		} else if (strcmp(argv[i], "clean") == 0) {
			if (i + 1 < argc && strtoull(argv[i + 1], NULL, 10) > 0)
				ops = strtoull(argv[++i], NULL, 10);
			bench_clean(ops);
		} else {
			return usage(stderr);
		}
	}
	return failures > 0;
}
