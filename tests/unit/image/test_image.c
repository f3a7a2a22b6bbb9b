/* Images in real files: ios of every kind, what their errors look like, and who may open them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "client-backend/image/image.h"

#define BYTES (1u << 20)

static char dir[] = "./fallow-image-test.XXXXXX"; /* on a disk, not on tmpfs */
static char path[64], err[256];
static struct image_lane *lane;
static int epoll_fd;
static uint8_t *data;

static int setup(void **state)
{
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	epoll_fd = epoll_create1(0);
	assert_int_equal(image_lane_new(0, epoll_fd, &lane), 0);
	data = aligned_alloc(4096, BYTES);
	return image_lane_status(lane);
}

static int teardown(void **state)
{
	image_lane_delete(lane);
	close(epoll_fd);
	unlink(path);
	rmdir(dir);
	free(data);
	return 0;
}

static void file_make(off_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (uint32_t i = 0; i < BYTES; i++)
		data[i] = (uint8_t)(i / 512 + i % 7 + 1);
	for (off_t at = 0; at < bytes; at += BYTES)
		assert_true(pwrite(fd, data, BYTES, at) == BYTES);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static struct image *image(bool readonly)
{
	struct image_options o = {.where = path, .readonly = readonly, .direct = true, .lanes = 1};
	struct image *i;

	assert_int_equal(image_open(&o, &i, err, sizeof(err)), 0);
	return i;
}

static int open_status(const char *where, bool readonly)
{
	struct image_options o = {.where = where, .readonly = readonly, .direct = true, .lanes = 1};
	struct image *i;
	int r = image_open(&o, &i, err, sizeof(err));

	if (!r)
		image_close(i);
	return r;
}

static bool ended;
static int status;

static void on_done(struct image_io *io, int s)
{
	assert_false(ended);
	ended = true;
	status = s;
}

static int run(struct image *i, struct image_io *io)
{
	struct epoll_event ev;

	io->done = on_done;
	ended = false;
	i->ops->submit(i, lane, io);
	assert_false(ended);
	image_lane_kick(lane);
	while (!ended) {
		epoll_wait(epoll_fd, &ev, 1, 10000);
		image_lane_poll(lane);
	}
	return status;
}

static int transfer(struct image *i, enum image_op op, uint64_t offset, uint32_t bytes, void *at)
{
	static struct image_io io;

	io = (struct image_io){.op = (uint8_t)op, .offset = offset, .bytes = bytes};
	/* In pieces, as pages of a cache are. */
	for (uint32_t n = 0; n < bytes && op != IMAGE_ZERO; n += 4096)
		io.iov[io.iovs++] = (struct iovec){.iov_base = (uint8_t *)at + n,
			.iov_len = bytes - n < 4096 ? bytes - n : 4096};
	return run(i, &io);
}

static void test_ios(void **state)
{
	uint8_t *got = aligned_alloc(4096, 262144);
	file_make(BYTES);
	struct image *i = image(false);

	assert_int_equal(i->size_bytes, BYTES);
	assert_int_equal(transfer(i, IMAGE_READ, 8192, 262144, got), 0);
	assert_memory_equal(got, data + 8192, 262144);
	memset(got, 0xab, 262144);
	assert_int_equal(transfer(i, IMAGE_WRITE, 4096, 8192, got), 0);
	/* A sector alone, neighbours untouched. */
	assert_int_equal(transfer(i, IMAGE_WRITE, 512 * 101, 512, got + 512), 0);
	assert_int_equal(transfer(i, IMAGE_SYNC, 0, 0, NULL), 0);
	memset(data + 4096, 0xab, 8192);
	memset(data + 512 * 101, 0xab, 512);
	/* Zeros of any length, in every way. */
	for (unsigned way = 0; way < 3; way++) {
		struct image_io z = {.op = IMAGE_ZERO,
			.offset = 65536 * (way + 2) + 512 * way,
			.bytes = 20480 + 512 * way,
			.hole = way == 1,
			.hint = way == 2};
		assert_int_equal(run(i, &z), 0);
		assert_int_equal(transfer(i, IMAGE_READ, z.offset, z.bytes, got), 0);
		if (got[0] == 0 || way < 2)
			memset(data + z.offset, 0, z.bytes);
	}
	for (uint32_t at = 0; at < BYTES; at += 262144) {
		assert_int_equal(transfer(i, IMAGE_READ, at, 262144, got), 0);
		assert_memory_equal(got, data + at, 262144);
	}
	image_close(i);
	free(got);
}

static void test_last_page(void **state)
{
	uint8_t *got = aligned_alloc(4096, 8192);

	file_make(BYTES - 4096 + 1536);
	struct image *i = image(false);
	assert_int_equal(i->size_bytes, BYTES - 4096 + 1536);
	assert_int_equal(transfer(i, IMAGE_READ, BYTES - 8192, 4096 + 1536, got), 0);
	assert_memory_equal(got, data + BYTES - 8192, 4096 + 1536);
	assert_int_equal(transfer(i, IMAGE_WRITE, BYTES - 4096 + 1024, 512, got), 0);
	/* Cut by somebody: an error, not zeros. */
	assert_int_equal(truncate(path, BYTES - 8192), 0);
	assert_int_equal(transfer(i, IMAGE_READ, BYTES - 8192, 4096, got), -EIO);
	image_close(i);
	free(got);
}

static void test_errors(void **state)
{
	file_make(BYTES);
	/* A write to what was opened for reading, as a file system that is full or broken fails. */
	struct image *i = image(true);
	assert_true(transfer(i, IMAGE_WRITE, 0, 4096, data) < 0);
	assert_true(transfer(i, IMAGE_ZERO, 0, 4096, NULL) < 0);
	assert_int_equal(transfer(i, IMAGE_READ, 0, 4096, data), 0);
	image_close(i);
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(open_status(path, false), -EINVAL);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(open_status(path, false), -EINVAL);
	assert_int_equal(open_status("/dev/null", false), -EINVAL);
	assert_int_equal(open_status(dir, true), -EINVAL);
	assert_int_equal(open_status("./none", false), -ENOENT);
}

/* What another process finds: 0 or an errno. */
static int elsewhere(bool readonly)
{
	int s;
	pid_t p = fork();

	if (!p)
		_exit(-open_status(path, readonly));
	waitpid(p, &s, 0);
	return WEXITSTATUS(s);
}

static void test_lock(void **state)
{
	struct flock qemu = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};

	file_make(BYTES);
	struct image *i = image(false);
	assert_int_equal(elsewhere(false), EBUSY);
	assert_int_equal(elsewhere(true), EBUSY);
	assert_int_equal(open_status(path, true), -EBUSY);
	assert_non_null(strstr(err, "in use by"));
	image_close(i);
	i = image(true);
	assert_int_equal(elsewhere(true), 0);
	assert_int_equal(elsewhere(false), EBUSY);
	image_close(i);
	assert_int_equal(elsewhere(false), 0);
	/* QEMU writes to it: it holds byte 101. */
	int fd = open(path, O_RDWR);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &qemu), 0);
	assert_int_equal(open_status(path, false), -EBUSY);
	assert_int_equal(open_status(path, true), -EBUSY);
	/* QEMU reads it. */
	qemu.l_type = F_UNLCK;
	fcntl(fd, F_OFD_SETLK, &qemu);
	qemu.l_type = F_RDLCK;
	qemu.l_start = 100;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &qemu), 0);
	assert_int_equal(open_status(path, false), -EBUSY);
	assert_int_equal(open_status(path, true), 0);
	close(fd);
}

static void test_identity(void **state)
{
	struct image_identity a, b;

	file_make(BYTES);
	struct image *i = image(false);
	assert_int_equal(i->ops->identify(i, &a), 0);
	assert_true(a.trusted);
	assert_int_equal(transfer(i, IMAGE_READ, 0, 4096, data), 0);
	assert_int_equal(i->ops->identify(i, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	usleep(20000); /* files' times are of the kernel's tick */
	assert_int_equal(transfer(i, IMAGE_WRITE, 0, 4096, data), 0);
	assert_int_equal(i->ops->identify(i, &b), 0);
	assert_true(b.mtime_ns > a.mtime_ns);
	image_close(i);
}

/* More at a time than the ring takes. */
static unsigned many_ended;

static void on_many_done(struct image_io *io, int s)
{
	assert_int_equal(s, 0);
	many_ended++;
}

static void test_many(void **state)
{
	enum { MANY = 700 };
	struct image_io *ios = calloc(MANY, sizeof(*ios));
	uint8_t *got = aligned_alloc(4096, MANY * 512 * 8);

	file_make(BYTES);
	struct image *i = image(true);
	for (unsigned n = 0; n < MANY; n++) {
		ios[n] = (struct image_io){.op = IMAGE_READ,
			.offset = n * 512,
			.bytes = 512,
			.iovs = 1,
			.iov[0] = {.iov_base = got + n * 512, .iov_len = 512},
			.done = on_many_done};
		i->ops->submit(i, lane, &ios[n]);
	}
	while (many_ended < MANY)
		image_lane_poll(lane);
	assert_memory_equal(got, data, MANY * 512);
	image_close(i);
	free(ios);
	free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ios),
		cmocka_unit_test(test_last_page),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_lock),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
