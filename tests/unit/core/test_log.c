/* Tests of log lines: their form, levels, limits, and that a full stderr never blocks anyone. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/core/log.h"

static int saved_stderr = -1;
static int reader = -1;
static char got[1 << 16];

static void redirect(int read_end, int write_end)
{
	saved_stderr = dup(STDERR_FILENO);
	dup2(write_end, STDERR_FILENO);
	close(write_end);
	reader = read_end;
	fcntl(reader, F_SETFL, O_NONBLOCK);
}

static int to_pipe(void **state)
{
	int fd[2];

	if (pipe(fd))
		return -1;
	redirect(fd[0], fd[1]);
	log_init();
	log_set_level(LOG_LEVEL_INFO, LOG_DEBUG_CONTROL);
	return 0;
}

static int back(void **state)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(reader);
	unsetenv("JOURNAL_STREAM");
	log_init();
	return 0;
}

static const char *lines(void)
{
	ssize_t n = read(reader, got, sizeof(got) - 1);

	got[n > 0 ? n : 0] = '\0';
	return got;
}

static void a_line_has_its_fields(void **state)
{
	log_info("lease", "region %d is \"mine\"\nnow", 7);
	const char *text = lines();
	assert_non_null(strstr(text, " level=info area=lease msg=\"region 7 is 'mine'?now\"\n"));
	assert_int_equal(strncmp(text, "ts=20", 5), 0);
	assert_int_equal(text[strlen("ts=2025-01-31T12:00:00.123")], 'Z');
	log_warn_kv("lease", "revoked", "donor=%s region=%u", "d1", 9u);
	assert_non_null(
		strstr(lines(), "level=warn area=lease msg=\"revoked\" donor=d1 region=9\n"));
}

static void levels_and_areas_hide_lines(void **state)
{
	log_debug("a", "control");
	assert_string_equal(lines(), "");
	log_set_level(LOG_LEVEL_DEBUG, LOG_DEBUG_CONTROL);
	log_debug("a", "control");
	assert_non_null(strstr(lines(), "control"));
	log_datapath_debug("a", "page");
	assert_string_equal(lines(), "");
	log_set_level(LOG_LEVEL_DEBUG, LOG_DEBUG_CONTROL | LOG_DEBUG_DATAPATH);
	log_datapath_debug("a", "page");
	assert_non_null(strstr(lines(), "page"));
	log_set_level(LOG_LEVEL_ERROR, 0);
	log_warn("a", "not wanted");
	assert_string_equal(lines(), "");
}

static void long_lines_are_cut(void **state)
{
	char text[3 * LOG_LINE_BYTES];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	log_error("a", "%s", text);
	lines();
	assert_in_range(strlen(got), LOG_LINE_BYTES - 100, LOG_LINE_BYTES);
	assert_string_equal(got + strlen(got) - 2, "\"\n");
}

static void a_site_is_limited(void **state)
{
	uint64_t before = log_suppressed();
	unsigned count = 0;

	for (int i = 0; i < 100; i++)
		log_warn_limited("peer", "bad frame");
	for (const char *p = lines(); (p = strstr(p, "bad frame")); p++)
		count++;
	assert_int_equal(count, LOG_LIMIT_LINES);
	assert_int_equal(log_suppressed() - before, 100 - LOG_LIMIT_LINES);
}

static void a_new_window_tells_what_was_suppressed(void **state)
{
	struct log_site site = {0, 0};

	for (unsigned i = 0; i < LOG_LIMIT_LINES + 3; i++)
		log_write(&site, LOG_LEVEL_WARN, "a", "again");
	lines();
	site.window_ns = 1; /* long ago */
	log_write(&site, LOG_LEVEL_WARN, "a", "again");
	assert_non_null(strstr(lines(), "msg=\"again\" suppressed=3\n"));
}

static void *fill(void *arg)
{
	for (int i = 0; i < 500; i++)
		log_info("a", "a line of some length that fills the pipe sooner or later %d", i);
	return NULL;
}

/* Would hang if a write ever waited for the reader, who reads only afterwards. */
static void drops_when_full(void)
{
	pthread_t thread[3];
	uint64_t before = log_dropped();

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fill, NULL), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	while (log_dropped() == before)
		fill(NULL);
	while (*lines()) {
	}
	log_info("a", "room again");
	assert_non_null(strstr(lines(), "msg=\"room again\" dropped="));
	log_info("a", "and again");
	assert_null(strstr(lines(), "dropped="));
}

static void a_full_pipe_drops_lines(void **state)
{
	drops_when_full();
	/* Our O_NONBLOCK must not be that of the file that others share. */
	assert_false(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK);
}

static void a_full_socket_drops_lines(void **state)
{
	int fd[2];

	back(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	redirect(fd[0], fd[1]);
	log_init();
	drops_when_full();
}

static void journald_gets_priorities(void **state)
{
	struct stat st;
	char stream[64];

	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_init();
	log_error("a", "bad");
	assert_string_equal(lines(), "<3>level=error area=a msg=\"bad\"\n");
	setenv("JOURNAL_STREAM", "1:1", 1); /* inherited, but stderr is another file */
	log_init();
	log_error("a", "bad");
	assert_int_equal(strncmp(lines(), "ts=", 3), 0);
}

static void errno_is_kept(void **state)
{
	errno = ENOTTY;
	log_info("a", "x");
	assert_int_equal(errno, ENOTTY);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, to_pipe, back)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_line_has_its_fields),
		TEST(levels_and_areas_hide_lines),
		TEST(long_lines_are_cut),
		TEST(a_site_is_limited),
		TEST(a_new_window_tells_what_was_suppressed),
		TEST(a_full_pipe_drops_lines),
		TEST(a_full_socket_drops_lines),
		TEST(journald_gets_priorities),
		TEST(errno_is_kept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
