/* Unit tests of the disk tier: transfers, limits, errors, and an io that the kernel does not
 * return. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#include "client-backend/tier/disk.h"

#define SEG	 65536u
#define SEGMENTS 8u
#define DEPTH	 4u

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

static bool frozen;
static uint64_t clock_ns;

int __wrap_io_uring_submit(struct io_uring *ring)
{
	return frozen ? -EBUSY : __real_io_uring_submit(ring);
}

static uint64_t test_now(void *ctx)
{
	return clock_ns;
}

static uint64_t test_random(void *ctx)
{
	return 0;
}

static const struct env env = {test_now, test_random, NULL};

struct world {
	char dir[64], file[96];
	struct tier_disk *d;
	uint8_t *buf; /* DEPTH + 1 segments */
};

struct test_io {
	struct engine_io io;
	int done;
	int status;
};

static void io_done(struct engine_io *io, int status)
{
	struct test_io *t = (struct test_io *)io;

	t->done++;
	t->status = status;
}

static struct test_io io_make(struct world *w, unsigned buf, uint64_t offset, uint32_t len)
{
	return (struct test_io){
		.io = {.offset = offset, .len = len, .buf = w->buf + buf * SEG, .done = io_done}};
}

static struct tier_disk_config config(const struct world *w)
{
	return (struct tier_disk_config){.path = w->dir,
		.lanes = 1,
		.segments = SEGMENTS,
		.segment_bytes = SEG,
		.depth = DEPTH,
		.direct = true,
		.timeout_ns = 1000000};
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct tier_disk_config cfg;
	char err[256];

	frozen = false;
	clock_ns = 1;
	strcpy(w->dir, "/tmp/fallow-disk-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->file, sizeof(w->file), "%s/lane-0.segments", w->dir);
	w->buf = aligned_alloc(4096, (DEPTH + 1) * SEG);
	assert_non_null(w->buf);
	memset(w->buf, 0, (DEPTH + 1) * SEG);
	cfg = config(w);
	if (tier_disk_open(&cfg, &env, &w->d, err, sizeof(err)))
		fail_msg("%s", err);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	frozen = false;
	if (w->d)
		tier_disk_close(w->d);
	unlink(w->file);
	rmdir(w->dir);
	free(w->buf);
	free(w);
	return 0;
}

static void wait_done(struct world *w, const struct test_io *t)
{
	tier_disk_kick(w->d);
	for (int i = 0; i < 1000 && !t->done; i++) {
		struct pollfd p = {.fd = tier_disk_event_fd(w->d), .events = POLLIN};

		poll(&p, 1, 20);
		tier_disk_poll(w->d);
	}
	assert_int_equal(t->done, 1);
}

static void test_write_then_read(void **state)
{
	struct world *w = *state;
	struct test_io wr = io_make(w, 0, 3 * SEG, SEG), rd = io_make(w, 1, 3 * SEG + 4096, 8192);

	for (unsigned i = 0; i < SEG; i++)
		w->buf[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(tier_disk_write(w->d, &wr.io), 0);
	/* The caller's buffer was copied. */
	uint8_t first = w->buf[4096];
	w->buf[4096] ^= 1;
	wait_done(w, &wr);
	assert_int_equal(wr.status, 0);
	assert_int_equal(tier_disk_read(w->d, &rd.io), 0);
	wait_done(w, &rd);
	assert_int_equal(rd.status, 0);
	assert_int_equal(w->buf[SEG], first);
	assert_memory_equal(w->buf + SEG + 1, w->buf + 4097, 8191);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->bytes_read), 8192);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->bytes_written), SEG);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->in_flight), 0);
}

static void test_preallocated_and_kept(void **state)
{
	struct world *w = *state;
	struct test_io wr = io_make(w, 0, 0, SEG), rd = io_make(w, 1, 0, SEG);
	struct tier_disk_config cfg = config(w);
	struct tier_disk *second;
	struct stat st;
	char err[256];

	assert_int_equal(stat(w->file, &st), 0);
	assert_int_equal(st.st_size, SEGMENTS * SEG);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(tier_disk_open(&cfg, &env, &second, err, sizeof(err)), -EBUSY);
	memset(w->buf, 0x5a, SEG);
	assert_int_equal(tier_disk_write(w->d, &wr.io), 0);
	wait_done(w, &wr);
	tier_disk_close(w->d);
	w->d = NULL;
	assert_int_equal(tier_disk_open(&cfg, &env, &w->d, err, sizeof(err)), 0);
	assert_int_equal(tier_disk_read(w->d, &rd.io), 0);
	wait_done(w, &rd);
	assert_memory_equal(w->buf, w->buf + SEG, SEG);
}

static void test_queue_is_bounded(void **state)
{
	struct world *w = *state;
	struct test_io t[DEPTH + 1];

	for (unsigned i = 0; i <= DEPTH; i++)
		t[i] = io_make(w, i, i * SEG, SEG);
	frozen = true;
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(tier_disk_write(w->d, &t[i].io), 0);
	assert_int_equal(tier_disk_write(w->d, &t[DEPTH].io), -EAGAIN);
	frozen = false;
	for (unsigned i = 0; i < DEPTH; i++) {
		wait_done(w, &t[i]);
		assert_int_equal(t[i].status, 0);
	}
	assert_int_equal(tier_disk_write(w->d, &t[DEPTH].io), 0);
	wait_done(w, &t[DEPTH]);
}

static void test_malformed(void **state)
{
	struct world *w = *state;
	struct test_io t;

	t = io_make(w, 0, 100, 4096);
	assert_int_equal(tier_disk_read(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, 0, 100);
	assert_int_equal(tier_disk_read(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, 0, 0);
	assert_int_equal(tier_disk_read(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, 0, 2 * SEG);
	assert_int_equal(tier_disk_write(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, SEGMENTS * SEG, 4096);
	assert_int_equal(tier_disk_write(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, UINT64_MAX - 4095, 8192);
	assert_int_equal(tier_disk_write(w->d, &t.io), -EINVAL);
	t = io_make(w, 0, 0, 4096);
	t.io.buf = w->buf + 64;
	assert_int_equal(tier_disk_write(w->d, &t.io), -EINVAL);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->refused), 7);
}

static void test_short_read_is_an_error(void **state)
{
	struct world *w = *state;
	struct test_io t = io_make(w, 0, 0, 8192);

	assert_int_equal(truncate(w->file, 4096), 0);
	assert_int_equal(tier_disk_read(w->d, &t.io), 0);
	wait_done(w, &t);
	assert_int_equal(t.status, -EIO);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->errors), 1);
}

static void test_io_that_does_not_return(void **state)
{
	struct world *w = *state;
	struct test_io old = io_make(w, 0, SEG, SEG), same = io_make(w, 1, SEG, SEG),
		       other = io_make(w, 2, 2 * SEG, SEG), part = io_make(w, 3, SEG, 4096);

	memset(w->buf, 1, SEG);
	memset(w->buf + SEG, 2, SEG);
	frozen = true;
	assert_int_equal(tier_disk_write(w->d, &old.io), 0);
	assert_int_equal(tier_disk_deadline_ns(w->d), 1000001);
	clock_ns = 1000000;
	assert_int_equal(tier_disk_poll(w->d), 0);
	clock_ns = 1000001;
	assert_int_equal(tier_disk_poll(w->d), 1);
	assert_int_equal(old.done, 1);
	assert_int_equal(old.status, -EIO);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->stalled), 1);
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->in_flight), 0);
	assert_int_equal(tier_disk_deadline_ns(w->d), UINT64_MAX);

	/* Its range is closed until the kernel gives the buffer back; others go on. */
	assert_int_equal(tier_disk_write(w->d, &same.io), -EAGAIN);
	assert_int_equal(tier_disk_read(w->d, &part.io), -EAGAIN);
	assert_int_equal(tier_disk_write(w->d, &other.io), 0);
	frozen = false;
	wait_done(w, &other);
	assert_int_equal(other.status, 0);
	for (int i = 0; i < 1000 && stat_get(&tier_disk_stats(w->d)->stalled); i++) {
		struct pollfd p = {.fd = tier_disk_event_fd(w->d), .events = POLLIN};

		poll(&p, 1, 20);
		tier_disk_poll(w->d);
	}
	assert_int_equal(stat_get(&tier_disk_stats(w->d)->stalled), 0);
	assert_int_equal(old.done, 1);
	assert_int_equal(tier_disk_write(w->d, &same.io), 0);
	wait_done(w, &same);
	assert_int_equal(tier_disk_read(w->d, &part.io), 0);
	wait_done(w, &part);
	assert_int_equal(w->buf[3 * SEG], 2);
}

static void test_close_ends_what_is_in_flight(void **state)
{
	struct world *w = *state;
	struct test_io t = io_make(w, 0, 0, SEG);

	frozen = true;
	assert_int_equal(tier_disk_write(w->d, &t.io), 0);
	tier_disk_close(w->d);
	w->d = NULL;
	assert_int_equal(t.done, 1);
	assert_int_equal(t.status, -ECANCELED);
}

static void test_bad_config(void **state)
{
	struct world *w = *state;
	struct tier_disk_config cfg;
	struct tier_disk *d;
	char err[256];

#define EXPECT_BAD(field, value, status, words)                                                    \
	do {                                                                                       \
		cfg = config(w);                                                                   \
		cfg.field = value;                                                                 \
		err[0] = '\0';                                                                     \
		assert_int_equal(tier_disk_open(&cfg, &env, &d, err, sizeof(err)), status);        \
		assert_non_null(strstr(err, words));                                               \
	} while (0)

	EXPECT_BAD(path, "", -EINVAL, "path");
	EXPECT_BAD(path, "/nonexistent/fallow", -ENOENT, "/nonexistent/fallow");
	EXPECT_BAD(path, w->file, -ENOTDIR, w->file);
	EXPECT_BAD(segments, 0, -EINVAL, "segments");
	EXPECT_BAD(segment_bytes, 5000, -EINVAL, "segment_bytes");
	EXPECT_BAD(depth, 0, -EINVAL, "depth");
	EXPECT_BAD(depth, 257, -EINVAL, "depth");
	EXPECT_BAD(lane, 1, -EINVAL, "lane");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_write_then_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_preallocated_and_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queue_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_short_read_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_io_that_does_not_return, setup, teardown),
		cmocka_unit_test_setup_teardown(test_close_ends_what_is_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_config, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
