/* Tests of the histograms and of the system's clock and random numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/core/env.h"
#include "lib/core/stats.h"

static void buckets_cover_every_value(void **state)
{
	unsigned last = 0;

	for (uint64_t ns = 0; ns < 1 << 16; ns++) {
		unsigned b = hist_bucket(ns);
		assert_true(b == last || b == last + 1);
		assert_true(ns < hist_bound_ns(b));
		assert_true(!b || ns >= hist_bound_ns(b - 1));
		last = b;
	}
	assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
	assert_int_equal(hist_bucket((1ull << 40) - 1), HIST_BUCKETS - 1);
}

static void quantiles_of_nothing_and_of_one(void **state)
{
	static struct hist h;

	memset(&h, 0, sizeof(h));
	assert_int_equal(hist_quantile_ns(&h, 0.5), 0);
	hist_record(&h, 1000);
	assert_int_equal(hist_quantile_ns(&h, 0), 1000);
	assert_int_equal(hist_quantile_ns(&h, 0.5), 1000);
	assert_int_equal(hist_quantile_ns(&h, 1), 1000);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Never below the exact quantile, and at most one bucket's width above. */
static void quantiles_are_close(void **state)
{
	enum { N = 10000 };
	static struct hist h;
	static uint64_t values[N];
	uint64_t x = 88172645463325252ull;

	memset(&h, 0, sizeof(h));
	for (unsigned i = 0; i < N; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		values[i] = x >> (24 + x % 30);
		hist_record(&h, values[i]);
	}
	qsort(values, N, sizeof(values[0]), compare);
	for (unsigned percent = 1; percent <= 100; percent++) {
		uint64_t exact = values[N * percent / 100 - 1];
		uint64_t got = hist_quantile_ns(&h, percent / 100.0);
		assert_true(got >= exact);
		assert_true(got <= exact + exact / 8 + 1);
	}
	assert_int_equal(hist_quantile_ns(&h, 1), values[N - 1]);
}

static void values_past_the_end(void **state)
{
	static struct hist h;

	memset(&h, 0, sizeof(h));
	hist_record(&h, UINT64_MAX / 2);
	assert_int_equal(hist_quantile_ns(&h, 0.99), UINT64_MAX / 2);
}

static void merging_adds(void **state)
{
	static struct hist a, b;

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	hist_record(&a, 10);
	hist_record(&b, 20);
	hist_record(&b, 5000);
	hist_merge(&a, &b);
	assert_int_equal(stat_get(&a.count), 3);
	assert_int_equal(stat_get(&a.sum_ns), 5030);
	assert_int_equal(stat_get(&a.max_ns), 5000);
	assert_int_equal(hist_quantile_ns(&a, 1), 5000);
	assert_in_range(hist_quantile_ns(&a, 0.3), 10, 11);
}

static void clock_and_random(void **state)
{
	uint64_t last = env_now_ns(&env_system), bits = 0, all = UINT64_MAX;

	for (unsigned i = 0; i < 1000; i++) {
		uint64_t now = env_now_ns(&env_system), r = env_random(&env_system);
		assert_true(now >= last);
		last = now;
		bits |= r;
		all &= r;
	}
	assert_true(bits == UINT64_MAX && all == 0);
	assert_int_not_equal(env_random(&env_system), env_random(&env_system));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_cover_every_value),
		cmocka_unit_test(quantiles_of_nothing_and_of_one),
		cmocka_unit_test(quantiles_are_close),
		cmocka_unit_test(values_past_the_end),
		cmocka_unit_test(merging_adds),
		cmocka_unit_test(clock_and_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
