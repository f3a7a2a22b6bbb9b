/* What every fault test stands on: a directory, processes that never outlive the test, bounded
 * waits, and one way to fail. */
#ifndef FALLOW_FAULT_HARNESS_H
#define FALLOW_FAULT_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* No wait for a condition is longer; only a broken program needs it. */
#define HARNESS_LIMIT_MS 60000u

/*
 * bin: the directory of the programs; scenario and seed are named in every failure. Makes the
 * directory and installs the handlers that clean up whatever ends this process. Main thread.
 */
void harness_start(const char *bin, const char *scenario, uint64_t seed);
/* Ends the processes that are left, checks their logs for reports of sanitizers, removes the
 * directory. */
void harness_end(void);
const char *harness_dir(void);
const char *harness_bin(void);
/* The path of a file in the directory; static buffers in turn, eight of them. Main thread. */
const char *harness_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Says what is wrong, with scenario and seed, shows the last log lines and ends everything. Any
 * thread. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A line of the test's own output. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Processes. Their output goes to NAME.log in the directory, after what is there. They get SIGKILL
 * when this process ends, however it does. env: "NAME=value" strings to add, NULL at the end, or
 * NULL. Main thread only: the kernel ties a child to the thread that made it.
 */
pid_t process_start(const char *name, const char *const argv[], const char *const env[]);
/* Sends SIGCONT, then the signal, and waits until it is gone. Its status, as wait() gives it. */
int process_end(pid_t pid, int signal);
void process_signal(pid_t pid, int signal);
/* Fails when one of them ended by itself. */
void processes_check(void);
/* Whether it goes on; takes the exit status, as wait() gives it, when not. */
bool process_running(pid_t pid, int *status);

uint64_t now_ms(void);
uint64_t now_ns(void);
void pause_ms(unsigned ms);

/* Waits until expr is true; checks meanwhile that no process has died; fails after limit_ms. */
#define WAIT_FOR(limit_ms, expr, ...)                                                              \
	do {                                                                                       \
		uint64_t until_ = now_ms() + (limit_ms);                                           \
		while (!(expr)) {                                                                  \
			processes_check();                                                         \
			if (now_ms() > until_)                                                     \
				fail("waited " #limit_ms " ms in vain for " __VA_ARGS__);          \
			pause_ms(10);                                                              \
		}                                                                                  \
	} while (0)

#endif
