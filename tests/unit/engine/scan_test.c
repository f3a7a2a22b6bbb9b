/* What ephemeral pages stay when there are too many: beside a plain FIFO of the same size. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/engine/world.h"

#define POOL  1u
#define KEYS  32768u
#define SLOTS 96u

static struct world *w;

#define STAT(name) stat_get(&engine_stats(w->e)->name)

static void with_slots(struct engine_config *cfg)
{
	cfg->local_segments = SLOTS;
	cfg->max_pages = 65536;
	cfg->max_segments = 2048;
}

static int setup(void **state)
{
	(void)state;
	w = world_new_with(with_slots);
	w->give_regions = false;
	world_pool(w, POOL, 0, 0, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

/* The cache that an access asks: 1 when it had the page; else the page is put there. */
static unsigned engine_access(uint32_t key)
{
	int rc = world_get(w, POOL, key, key);

	assert_true(rc == 0 || rc == -ENOENT);
	if (rc == 0)
		return 1;
	assert_int_equal(world_put(w, POOL, key, key), 0);
	if (key % 16 == 0)
		engine_tick(w->e);
	return 0;
}

/* The plain FIFO: the last `size` keys that were put. */
struct fifo {
	uint32_t ring[KEYS];
	uint8_t there[KEYS];
	uint32_t size, at, n;
};

static struct fifo fifo;

static void fifo_init(uint32_t size)
{
	memset(&fifo, 0, sizeof(fifo));
	fifo.size = size;
}

static unsigned fifo_access(uint32_t key)
{
	if (fifo.there[key])
		return 1;
	if (fifo.n == fifo.size)
		fifo.there[fifo.ring[fifo.at]] = 0;
	else
		fifo.n++;
	fifo.ring[fifo.at] = key;
	fifo.at = (fifo.at + 1) % fifo.size;
	fifo.there[key] = 1;
	return 0;
}

/* As many pages as the engine has room for, which a FIFO could use to the last one. */
static uint32_t engine_pages(void)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < KEYS / 2; i++) {
		assert_int_equal(world_put(w, POOL, KEYS - 1 - i, KEYS - 1 - i), 0);
		if (STAT(pages) > most)
			most = (uint32_t)STAT(pages);
	}
	for (uint32_t i = 0; i < KEYS / 2; i++)
		engine_flush_page(
			w->e, &(struct engine_key){
				      .oid = {1, 2, 3}, .pool = POOL, .index = KEYS - 1 - i});
	assert_int_equal(STAT(pages), 0);
	return most;
}

struct result {
	unsigned engine, fifo, of;
};

static void count(struct result *r, uint32_t key)
{
	r->engine += engine_access(key);
	r->fifo += fifo_access(key);
	r->of++;
}

static double share(unsigned hits, const struct result *r)
{
	return (double)hits / r->of;
}

static void print(const char *what, const struct result *r)
{
	print_message("%s: %.3f of the reads hit, a FIFO of as many pages %.3f\n", what,
		share(r->engine, r), share(r->fifo, r));
}

/* A hot set of a third of what fits, read all the time, while a scan of five times what fits passes
 * by. */
static void a_scan_leaves_the_hot_set(void **state)
{
	uint32_t size = engine_pages(), hot = size / 3, scan = hot;
	struct result r = {0}, ignored = {0};

	(void)state;
	fifo_init(size);
	for (uint32_t i = 0; i < 4 * hot; i++)
		count(&ignored, i % hot);
	for (uint32_t i = 0; scan < hot + 5 * size && scan < KEYS; i++) {
		count(&r, i % hot);
		for (unsigned n = 0; n < 4; n++)
			count(&ignored, scan++);
	}
	print("hot set under a scan", &r);
	assert_true(share(r.engine, &r) > 0.95);
	assert_true(share(r.fifo, &r) < 0.8);
}

/* The scan comes when the hot set is at rest: it is read before and after. */
static void a_scan_passes_a_hot_set_at_rest(void **state)
{
	uint32_t size = engine_pages(), hot = size / 3;
	struct result r = {0}, ignored = {0};

	(void)state;
	fifo_init(size);
	for (uint32_t i = 0; i < 3 * hot; i++)
		count(&ignored, i % hot);
	/* More new pages than are on probation, so that the hot ones are in main. */
	for (uint32_t i = 0; i < size; i++) {
		count(&ignored, hot + i);
		count(&ignored, i % hot);
	}
	for (uint32_t i = hot + size; i < hot + 6 * size && i < KEYS; i++)
		count(&ignored, i);
	for (uint32_t i = 0; i < hot; i++)
		count(&r, i);
	print("hot set after a scan", &r);
	assert_true(share(r.engine, &r) > 0.9);
	assert_true(share(r.fifo, &r) < 0.1);
}

/* A loop over less than fits is not disturbed; one over more than fits defeats a FIFO. */
static void loops_are_no_worse(void **state)
{
	uint32_t size = engine_pages();

	(void)state;
	for (unsigned tenths = 6; tenths <= 14; tenths += 4) {
		uint32_t n = size / 10 * tenths;
		struct result r = {0}, ignored = {0};

		fifo_init(size);
		for (uint32_t i = 0; i < 2 * n; i++)
			count(&ignored, i % n);
		for (uint32_t i = 0; i < 4 * n; i++)
			count(&r, i % n);
		print_message("%u0 %% of what fits: ", tenths);
		print("loop", &r);
		if (tenths != 10)
			assert_true(r.engine + r.of / 100 >= r.fifo);
	}
}

static void zipf_is_no_worse(void **state)
{
	uint32_t size = engine_pages(), keys = 4 * size < KEYS ? 4 * size : KEYS;
	double *sum = calloc(keys + 1, sizeof(*sum));
	struct result r = {0}, ignored = {0};
	uint64_t x = 88172645463325252ull;

	(void)state;
	fifo_init(size);
	for (uint32_t i = 0; i < keys; i++)
		sum[i + 1] = sum[i] + 1.0 / (i + 1);
	for (uint32_t i = 0; i < 60000; i++) {
		uint32_t low = 0, high = keys - 1;
		double at;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		at = (double)(x >> 11) / (double)(1ull << 53) * sum[keys];
		while (low < high) {
			uint32_t mid = (low + high) / 2;

			if (sum[mid + 1] > at)
				high = mid;
			else
				low = mid + 1;
		}
		count(i < 20000 ? &ignored : &r, low * 7919u % keys);
	}
	free(sum);
	print("zipf", &r);
	assert_true(r.engine >= r.fifo);
}

/* A page that was forgotten unread and comes again goes to main at once. */
static void what_comes_again_is_known(void **state)
{
	uint32_t size = engine_pages();

	(void)state;
	for (uint32_t i = 0; i < 2 * size; i++)
		engine_access(i);
	uint64_t known = STAT(ephemeral_ghosts);

	for (uint32_t i = 0; i < size / 2; i++)
		engine_access(i);
	print_message("%lu of %u pages known\n", (unsigned long)(STAT(ephemeral_ghosts) - known),
		size / 2);
	assert_true(STAT(ephemeral_ghosts) - known > size / 4);
	/* Being known, they stay when others pass by. */
	for (uint32_t i = 0; i < 2 * size; i++)
		engine_access(3 * size + i);
	unsigned hits = 0;

	for (uint32_t i = 0; i < size / 2; i++)
		hits += world_get(w, POOL, i, i) == 0;
	assert_true(hits > size / 4);
}

/* Many accounts, one of which floods: the others keep what their weight allows. */
static void a_flood_takes_from_its_own(void **state)
{
	uint32_t size = engine_pages(), kept = 0;

	(void)state;
	world_pool(w, 2, 0, 1, 0, 0);
	for (uint32_t i = 0; i < size / 4; i++)
		assert_int_equal(world_put(w, 2, i, i), 0);
	for (uint32_t i = 0; i < 4 * size; i++)
		engine_access(i);
	for (uint32_t i = 0; i < size / 4; i++)
		kept += world_get(w, 2, i, i) == 0;
	assert_true(kept > size / 4 * 95 / 100);
}

/* A kill at any moment of it: what is there is right, and all counts agree. */
static void it_survives_kills(void **state)
{
	uint32_t size = engine_pages();
	uint64_t kept = 0;

	(void)state;
	for (uint32_t i = 0; i < 8 * size; i++) {
		uint32_t hot = i % (size / 4);

		engine_access(i % 3 ? hot : (i * 31u) % KEYS);
		if (i % 2000 == 1999) {
			kept += STAT(ephemeral_reinserted);
			world_crash(w);
			assert_true(world_sane(w));
		}
	}
	assert_true(kept > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_scan_leaves_the_hot_set),
		TEST(a_scan_passes_a_hot_set_at_rest),
		TEST(loops_are_no_worse),
		TEST(zipf_is_no_worse),
		TEST(what_comes_again_is_known),
		TEST(a_flood_takes_from_its_own),
		TEST(it_survives_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
