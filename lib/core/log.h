/* Structured log lines to stderr that never block the thread that writes them. */
#ifndef FALLOW_CORE_LOG_H
#define FALLOW_CORE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A line is: ts=2025-01-31T12:00:00.123Z level=warn area=lease msg="lease lost" donor=d1 region=7
 * Under journald (JOURNAL_STREAM names stderr) the time is left out and the line starts with "<4>".
 * Control characters in the text become '?'; a '"' in msg becomes '\''.
 *
 * Any thread, no lock, no allocation. A line that stderr cannot take at once is dropped and
 * counted; the next line that gets through carries dropped=N.
 */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Which debug lines are wanted once the level is debug; those of the data path cost speed. */
enum log_debug { LOG_DEBUG_CONTROL = 1u << 0, LOG_DEBUG_DATAPATH = 1u << 1 };

#define LOG_LINE_BYTES 1024 /* longer lines are cut */

/* Lines that one call site may write in LOG_LIMIT_NS; the rest are counted as suppressed. */
#define LOG_LIMIT_LINES 5u
#define LOG_LIMIT_NS	10000000000ull

struct log_site {
	_Atomic uint64_t window_ns; /* start of the window; 0: never used */
	_Atomic uint32_t lines;	    /* asked for in this window */
};

extern _Atomic int log_threshold;	/* enum log_level; use log_set_level() */
extern _Atomic unsigned log_debug_mask; /* enum log_debug bits */

/* Once, before other threads start. Looks at stderr; without it lines are still written. */
void log_init(void);
/* Any time, any thread. */
void log_set_level(enum log_level level, unsigned debug_mask);
/* Lines lost because stderr was full, and lines held back by a limit, since start. */
uint64_t log_dropped(void);
uint64_t log_suppressed(void);

static inline bool log_wanted(enum log_level level, unsigned debug)
{
	return (int)level <= atomic_load_explicit(&log_threshold, memory_order_relaxed) &&
	       (level != LOG_LEVEL_DEBUG ||
		       (atomic_load_explicit(&log_debug_mask, memory_order_relaxed) & debug));
}

/* fields: NULL, or a format for key=value pairs, whose arguments follow those of msg. */
void log_write(struct log_site *site, enum log_level level, const char *area, const char *msg, ...)
	__attribute__((format(printf, 4, 5)));
void log_write_kv(struct log_site *site, enum log_level level, const char *area, const char *msg,
	const char *fields, ...) __attribute__((format(printf, 5, 6)));

/* log_error("lease", "cannot map %s", path) */
#define log_error(area, ...) log_at_(NULL, LOG_LEVEL_ERROR, 0, area, __VA_ARGS__)
#define log_warn(area, ...)  log_at_(NULL, LOG_LEVEL_WARN, 0, area, __VA_ARGS__)
#define log_info(area, ...)  log_at_(NULL, LOG_LEVEL_INFO, 0, area, __VA_ARGS__)
#define log_debug(area, ...) log_at_(NULL, LOG_LEVEL_DEBUG, LOG_DEBUG_CONTROL, area, __VA_ARGS__)
#define log_datapath_debug(area, ...)                                                              \
	log_at_(NULL, LOG_LEVEL_DEBUG, LOG_DEBUG_DATAPATH, area, __VA_ARGS__)

/* log_info_kv("lease", "granted", "donor=%s region=%u", name, region): msg is plain text here. */
#define log_error_kv(area, msg, ...) log_kv_(NULL, LOG_LEVEL_ERROR, 0, area, msg, __VA_ARGS__)
#define log_warn_kv(area, msg, ...)  log_kv_(NULL, LOG_LEVEL_WARN, 0, area, msg, __VA_ARGS__)
#define log_info_kv(area, msg, ...)  log_kv_(NULL, LOG_LEVEL_INFO, 0, area, msg, __VA_ARGS__)
#define log_debug_kv(area, msg, ...)                                                               \
	log_kv_(NULL, LOG_LEVEL_DEBUG, LOG_DEBUG_CONTROL, area, msg, __VA_ARGS__)

/* For whatever a peer, a guest or a client can provoke: limited for each call site. */
#define log_error_limited(area, ...) log_limited_(LOG_LEVEL_ERROR, area, __VA_ARGS__)
#define log_warn_limited(area, ...)  log_limited_(LOG_LEVEL_WARN, area, __VA_ARGS__)
#define log_info_limited(area, ...)  log_limited_(LOG_LEVEL_INFO, area, __VA_ARGS__)
#define log_warn_limited_kv(area, msg, ...)                                                        \
	do {                                                                                       \
		static struct log_site log_site_;                                                  \
		log_kv_(&log_site_, LOG_LEVEL_WARN, 0, area, msg, __VA_ARGS__);                    \
	} while (0)

#define log_at_(site, level, debug, area, ...)                                                     \
	do {                                                                                       \
		if (log_wanted(level, debug))                                                      \
			log_write(site, level, area, __VA_ARGS__);                                 \
	} while (0)
#define log_kv_(site, level, debug, area, msg, ...)                                                \
	do {                                                                                       \
		if (log_wanted(level, debug))                                                      \
			log_write_kv(site, level, area, msg, __VA_ARGS__);                         \
	} while (0)
#define log_limited_(level, area, ...)                                                             \
	do {                                                                                       \
		static struct log_site log_site_;                                                  \
		log_at_(&log_site_, level, 0, area, __VA_ARGS__);                                  \
	} while (0)

#endif
