/* Formats log lines and hands them to stderr without ever waiting for it. */
#include "lib/core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/core/env.h"

_Static_assert(LOG_LINE_BYTES <= PIPE_BUF, "a line must reach a pipe whole");

_Atomic int log_threshold = LOG_LEVEL_INFO;
_Atomic unsigned log_debug_mask = LOG_DEBUG_CONTROL;

static _Atomic uint64_t dropped_lines, suppressed_lines;
static _Atomic uint64_t dropped_told; /* part of dropped_lines that a line has reported */

/* How to reach stderr without blocking; set by log_init() before other threads start. */
static enum { SINK_POLL, SINK_NONBLOCK, SINK_SOCKET } sink = SINK_POLL;
static int sink_fd = STDERR_FILENO;
static bool journald;

static const char *const level_name[] = {"error", "warn", "info", "debug"};
static const int level_priority[] = {3, 4, 6, 7}; /* syslog's */

struct line {
	char text[LOG_LINE_BYTES];
	size_t len;
};

/* journald's promise: JOURNAL_STREAM is "device:inode" of the stream that it gave us. */
static bool stderr_is_journal(const struct stat *st)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char *end;

	if (!stream || strtoull(stream, &end, 10) != st->st_dev || *end != ':')
		return false;
	return strtoull(end + 1, &end, 10) == st->st_ino && !*end;
}

void log_init(void)
{
	struct stat st;

	if (sink_fd != STDERR_FILENO)
		close(sink_fd);
	sink_fd = STDERR_FILENO;
	sink = SINK_POLL;
	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	journald = stderr_is_journal(&st);
	if (S_ISSOCK(st.st_mode)) {
		sink = SINK_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
		/* A second open file, so that O_NONBLOCK is ours alone and not the shell's too. */
		int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		if (fd >= 0) {
			sink_fd = fd;
			sink = SINK_NONBLOCK;
		}
	}
}

void log_set_level(enum log_level level, unsigned debug_mask)
{
	atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
	atomic_store_explicit(&log_debug_mask, debug_mask, memory_order_relaxed);
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&dropped_lines, memory_order_relaxed);
}

uint64_t log_suppressed(void)
{
	return atomic_load_explicit(&suppressed_lines, memory_order_relaxed);
}

/* One byte stays free for the newline. */
__attribute__((format(printf, 2, 0))) static void line_vadd(
	struct line *l, const char *format, va_list args)
{
	size_t room = sizeof(l->text) - 1 - l->len;
	int n = vsnprintf(l->text + l->len, room, format, args);

	if (n > 0)
		l->len += (size_t)n < room ? (size_t)n : room - 1;
}

__attribute__((format(printf, 2, 3))) static void line_add(struct line *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	line_vadd(l, format, args);
	va_end(args);
}

/* UTC in ISO 8601; the date by H. Hinnant's days-to-civil, for gmtime_r() may read files. */
static void line_add_time(struct line *l)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t days = ts.tv_sec / 86400, seconds = ts.tv_sec % 86400;
	int64_t z = days + 719468, era = z / 146097, doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	int64_t day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
	int64_t year = yoe + era * 400 + (month <= 2);

	line_add(l, "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03dZ ", (int)year, (int)month, (int)day,
		(int)(seconds / 3600), (int)(seconds / 60 % 60), (int)(seconds % 60),
		(int)(ts.tv_nsec / 1000000));
}

static void line_clean(struct line *l, size_t from, bool quotes)
{
	for (size_t i = from; i < l->len; i++) {
		unsigned char c = (unsigned char)l->text[i];
		if (c < 0x20 || c == 0x7f)
			l->text[i] = '?';
		else if (c == '"' && quotes)
			l->text[i] = '\'';
	}
}

static bool line_send(const struct line *l)
{
	struct pollfd p = {.fd = sink_fd, .events = POLLOUT};

	if (sink == SINK_SOCKET)
		return send(sink_fd, l->text, l->len, MSG_DONTWAIT | MSG_NOSIGNAL) ==
		       (ssize_t)l->len;
	/* A pipe with POLLOUT takes PIPE_BUF bytes; another writer may be faster, which is why
	 * log_init() prefers a descriptor of its own. */
	if (sink == SINK_POLL && poll(&p, 1, 0) != 1)
		return false;
	return write(sink_fd, l->text, l->len) == (ssize_t)l->len;
}

/* true: go ahead; *suppressed lines of this site were held back since the last one. */
static bool site_admits(struct log_site *site, uint32_t *suppressed)
{
	uint64_t now = env_now_ns(&env_system);
	uint64_t start = atomic_load_explicit(&site->window_ns, memory_order_relaxed);

	if ((!start || now - start >= LOG_LIMIT_NS) &&
		atomic_compare_exchange_strong_explicit(&site->window_ns, &start, now,
			memory_order_relaxed, memory_order_relaxed)) {
		uint32_t lines = atomic_exchange_explicit(&site->lines, 1, memory_order_relaxed);
		*suppressed = lines > LOG_LIMIT_LINES ? lines - LOG_LIMIT_LINES : 0;
		return true;
	}
	if (atomic_fetch_add_explicit(&site->lines, 1, memory_order_relaxed) < LOG_LIMIT_LINES)
		return true;
	atomic_fetch_add_explicit(&suppressed_lines, 1, memory_order_relaxed);
	return false;
}

static bool line_open(struct line *l, struct log_site *site, enum log_level level, const char *area,
	uint32_t *suppressed)
{
	*suppressed = 0;
	if (site && !site_admits(site, suppressed))
		return false;
	l->len = 0;
	if (journald)
		line_add(l, "<%d>", level_priority[level]);
	else
		line_add_time(l);
	line_add(l, "level=%s area=%s ", level_name[level], area);
	return true;
}

static void line_close(struct line *l, uint32_t suppressed)
{
	uint64_t dropped = atomic_load_explicit(&dropped_lines, memory_order_relaxed);
	uint64_t told = atomic_load_explicit(&dropped_told, memory_order_relaxed);
	int saved_errno = errno;

	if (suppressed)
		line_add(l, " suppressed=%u", suppressed);
	if (dropped > told)
		line_add(l, " dropped=%llu", (unsigned long long)(dropped - told));
	l->text[l->len++] = '\n';
	if (!line_send(l))
		atomic_fetch_add_explicit(&dropped_lines, 1, memory_order_relaxed);
	else if (dropped > told)
		atomic_compare_exchange_strong_explicit(
			&dropped_told, &told, dropped, memory_order_relaxed, memory_order_relaxed);
	errno = saved_errno;
}

/* Leaves room for the closing quote and the two counters. */
#define LINE_RESERVE 64

__attribute__((format(printf, 2, 0))) static void line_vadd_text(
	struct line *l, const char *format, va_list args, bool quotes)
{
	size_t from = l->len;

	line_vadd(l, format, args);
	if (l->len > sizeof(l->text) - LINE_RESERVE)
		l->len = sizeof(l->text) - LINE_RESERVE;
	line_clean(l, from, quotes);
}

void log_write(struct log_site *site, enum log_level level, const char *area, const char *msg, ...)
{
	struct line l;
	uint32_t suppressed;
	va_list args;

	if (!line_open(&l, site, level, area, &suppressed))
		return;
	line_add(&l, "msg=\"");
	va_start(args, msg);
	line_vadd_text(&l, msg, args, true);
	va_end(args);
	line_add(&l, "\"");
	line_close(&l, suppressed);
}

void log_write_kv(struct log_site *site, enum log_level level, const char *area, const char *msg,
	const char *fields, ...)
{
	struct line l;
	uint32_t suppressed;
	va_list args;

	if (!line_open(&l, site, level, area, &suppressed))
		return;
	line_add(&l, "msg=\"%s\"", msg);
	if (fields) {
		line_add(&l, " ");
		va_start(args, fields);
		line_vadd_text(&l, fields, args, false);
		va_end(args);
	}
	line_close(&l, suppressed);
}
