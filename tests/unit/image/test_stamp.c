/* Stamps: whose cached pages are believed after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "client-backend/disk_stamp.h"

#define S 1000000000ull

static char path[] = "/tmp/fallow-stamp-test.XXXXXX";
static const char *why;

static struct disk_stamp *again(struct disk_stamp *s, bool want_fresh)
{
	bool fresh;

	disk_stamp_close(s);
	assert_int_equal(disk_stamp_open(path, &s, &fresh), 0);
	assert_int_equal(fresh, want_fresh);
	return s;
}

static void test_file(void **state)
{
	struct image_identity is = {.dev = 1,
		.ino = 2,
		.size_bytes = 4096,
		.mtime_ns = 100 * S,
		.ctime_ns = 101 * S,
		.trusted = true};
	struct disk_stamp *s = again(NULL, true);

	assert_int_equal(*disk_stamp_writeback(s), 1);
	*disk_stamp_writeback(s) = 0;
	disk_stamp_begin(s, &is, -1, 200 * S);
	/* Killed while it was served: only what came after the last beat is somebody else's. */
	s = again(s, false);
	assert_int_equal(*disk_stamp_writeback(s), 0);
	assert_true(disk_stamp_valid(s, &is, -1, false, &why));
	disk_stamp_beat(s, 300 * S);
	is.mtime_ns = is.ctime_ns = 301 * S;
	assert_true(disk_stamp_valid(s, &is, -1, false, &why));
	is.ctime_ns = 305 * S; /* the time of the last write can be set back, this cannot */
	assert_false(disk_stamp_valid(s, &is, -1, false, &why));
	/* Let go: the very same times. */
	disk_stamp_end(s, &is);
	s = again(s, false);
	assert_true(disk_stamp_valid(s, &is, -1, false, &why));
	is.mtime_ns--;
	assert_false(disk_stamp_valid(s, &is, -1, true, &why));
	is.mtime_ns++;
	is.ino++;
	assert_false(disk_stamp_valid(s, &is, -1, false, &why));
	is.ino--;
	is.size_bytes += 512;
	assert_false(disk_stamp_valid(s, &is, -1, false, &why));
	is.size_bytes -= 512;
	assert_false(disk_stamp_valid(s, &is, 0, false, &why));
	disk_stamp_close(s);
	unlink(path);
}

static void test_no_times(void **state)
{
	struct image_identity is = {.dev = 1, .size_bytes = 4096};
	struct disk_stamp *s = again(NULL, true);

	disk_stamp_begin(s, &is, 0, 200 * S);
	disk_stamp_end(s, &is);
	assert_false(disk_stamp_valid(s, &is, 0, false, &why));
	assert_true(disk_stamp_valid(s, &is, 0, true, &why));
	disk_stamp_close(s);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file), cmocka_unit_test(test_no_times)};

	close(mkstemp(path));
	unlink(path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
