/* The pressure policy, and reading what it looks at. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memserver/pressure.h"
#include "memserver/pressure_linux.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define S   1000000000ull

static struct pressure pressure;
static struct pressure_sample sample;

static void start(void)
{
	struct pressure_config cfg;

	pressure_config_default(&cfg, 1 * GIB, 64 * GIB, 8 * GIB, 64 * MIB);
	pressure_init(&pressure, &cfg);
	sample = (struct pressure_sample){.now_ns = 100 * S, .available_bytes = 40 * GIB};
}

static uint64_t after(uint64_t s)
{
	sample.now_ns += s * S;
	return pressure_update(&pressure, &sample);
}

static void test_first_sample_sets_the_target(void **state)
{
	start();
	assert_true(after(0) == 32 * GIB);
	/* What is held is not available: the target does not move when memory is leased. */
	sample.held_bytes = 20 * GIB;
	sample.available_bytes = 20 * GIB;
	assert_true(after(1) == 32 * GIB);
}

static void test_bounds(void **state)
{
	start();
	sample.available_bytes = 4 * GIB;
	assert_true(after(0) == 1 * GIB);
	start();
	sample.available_bytes = 500 * GIB;
	assert_true(after(0) == 64 * GIB);
}

static void test_shrinks_at_once_grows_slowly(void **state)
{
	start();
	after(0);
	sample.available_bytes = 12 * GIB;
	assert_true(after(1) == 4 * GIB);
	sample.available_bytes = 40 * GIB;
	uint64_t grown = after(1);
	assert_true(grown > 4 * GIB && grown <= 4 * GIB + GIB);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t next = after(1);
		assert_true(next >= grown && next - grown <= GIB);
		grown = next;
	}
	/* It stops within the hysteresis of what could be given. */
	assert_true(grown <= 32 * GIB && grown >= 31 * GIB);
	/* Small changes do not move it. */
	sample.available_bytes += 100 * MIB;
	assert_true(after(1) == grown);
}

static void test_psi(void **state)
{
	start();
	after(0);
	sample.held_bytes = 20 * GIB;
	sample.available_bytes = 20 * GIB;
	sample.has_psi = true;
	sample.some_avg10 = 19;
	assert_true(after(1) == 32 * GIB);
	/* Pressure takes back some of what is held, step by step, down to the minimum. */
	sample.some_avg10 = 50;
	uint64_t target = after(1);
	assert_true(target < 20 * GIB);
	assert_true(pressure.pressed);
	assert_true(after(1) == target);
	for (unsigned i = 0; i < 100; i++) {
		uint64_t next = after(2);
		assert_true(next <= target);
		target = next;
		sample.held_bytes = next;
	}
	assert_true(target == 1 * GIB);
	/* Calm must last before it grows again. */
	sample.some_avg10 = 0;
	assert_true(after(5) == 1 * GIB);
	assert_true(after(4) == 1 * GIB);
	assert_true(after(1) > 1 * GIB);
	/* full counts, too; 0 means that it is not looked at. */
	sample.full_avg10 = 6;
	after(1);
	assert_true(pressure.pressed);
	pressure.cfg.psi_full_percent = 0;
	after(1);
	assert_false(pressure.pressed);
}

/* Whatever the samples are, the target stays within its bounds and never leaves less than the
 * floor. */
static void test_random(void **state)
{
	uint64_t x = 88172645463325252ull;

	start();
	for (unsigned i = 0; i < 100000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		sample.available_bytes = x % (128 * GIB);
		sample.held_bytes = (x >> 20) % (64 * GIB);
		sample.has_psi = x & 1;
		sample.some_avg10 = (double)(x % 101);
		uint64_t t = after(x % 3);
		assert_true(t >= 1 * GIB && t <= 64 * GIB);
		uint64_t all = sample.available_bytes + sample.held_bytes;
		assert_true(t == 1 * GIB || t + 8 * GIB <= all);
	}
}

static void file_write(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void test_files(void **state)
{
	char dir[] = "/tmp/fallow-pressure-XXXXXX", path[64];
	struct pressure_sample s;
	uint64_t total, available;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
	assert_int_equal(pressure_meminfo_read(path, &total, &available), -ENOENT);
	assert_int_equal(pressure_psi_read(path, &s), 0);
	assert_false(s.has_psi);
	file_write(path, "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n");
	assert_int_equal(pressure_meminfo_read(path, &total, &available), 0);
	assert_int_equal(total, 1000 * 1024);
	assert_int_equal(available, 500 * 1024);
	assert_int_equal(pressure_psi_read(path, &s), -EBADMSG);
	assert_int_equal(pressure_psi_watch(path, 100000, 2000000), -EOPNOTSUPP);
	file_write(path, "MemTotal:  1000 kB\n");
	assert_int_equal(pressure_meminfo_read(path, &total, &available), -EBADMSG);
	file_write(path, "some avg10=12.50 avg60=0.00 avg300=0.00 total=5\n"
			 "full avg10=1.25 avg60=0.00 avg300=0.00 total=5\n");
	assert_int_equal(pressure_psi_read(path, &s), 0);
	assert_true(s.has_psi && s.some_avg10 == 12.5 && s.full_avg10 == 1.25);
	file_write(path, "some avg10=nan\nfull avg10=1\n");
	assert_int_equal(pressure_psi_read(path, &s), -EBADMSG);
	assert_false(s.has_psi);
	unlink(path);
	rmdir(dir);
	assert_int_equal(pressure_meminfo_read("/proc/meminfo", &total, &available), 0);
	assert_true(available <= total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_sample_sets_the_target),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_shrinks_at_once_grows_slowly),
		cmocka_unit_test(test_psi),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
