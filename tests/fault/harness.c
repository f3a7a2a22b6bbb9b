/* What every fault test stands on: a directory, processes that never outlive the test, bounded
 * waits, and one way to fail. */
#include "tests/fault/harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES_MAX 32
#define TAIL_BYTES    6000

extern char **environ;

/* Slots are claimed and emptied by the main thread; signal handlers and fail() only read. */
static volatile pid_t pids[PROCESSES_MAX];
static char names[PROCESSES_MAX][32];
static char dir[PATH_MAX], bin_dir[PATH_MAX];
static const char *scenario = "?";
static uint64_t seed;
static pthread_mutex_t fail_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_ms(void)
{
	return now_ns() / 1000000;
}

void pause_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

/* Safe in a signal handler. */
static void all_kill(void)
{
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		pid_t pid = pids[i];

		if (pid > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
	}
}

/* Safe in a signal handler. */
static void dir_remove(void)
{
	pid_t pid = dir[0] ? fork() : -1;

	if (pid == 0) {
		execl("/bin/rm", "rm", "-rf", dir, (char *)NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	dir[0] = '\0';
}

static void on_signal(int signal)
{
	all_kill();
	dir_remove();
	_exit(128 + signal);
}

static void on_exit_clean(void)
{
	all_kill();
	dir_remove();
}

const char *harness_dir(void)
{
	return dir;
}

const char *harness_bin(void)
{
	return bin_dir;
}

const char *harness_path(const char *format, ...)
{
	static char path[8][PATH_MAX];
	static unsigned turn;
	char *p = path[turn++ % 8];
	int n = snprintf(p, PATH_MAX, "%s/", dir);
	va_list args;

	va_start(args, format);
	vsnprintf(p + n, PATH_MAX - (size_t)n, format, args);
	va_end(args);
	return p;
}

static void log_tail(const char *name)
{
	static char buf[TAIL_BYTES + 1];
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	off_t len = lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, buf, TAIL_BYTES, len > TAIL_BYTES ? len - TAIL_BYTES : 0);
	close(fd);
	if (n <= 0)
		return;
	buf[n] = '\0';
	fprintf(stderr, "-- end of %s:\n%s", name, buf);
}

/* Calls fn with the name of every log; true when one of the calls was. */
static bool logs_each(bool (*fn)(const char *name))
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	bool any = false;

	while (d && (e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n > 4 && !strcmp(e->d_name + n - 4, ".log") && fn(e->d_name))
			any = true;
	}
	if (d)
		closedir(d);
	return any;
}

static bool log_show(const char *name)
{
	log_tail(name);
	return true;
}

static bool log_reports(const char *name)
{
	char line[4096], path[PATH_MAX + 64];
	bool found = false;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "Sanitizer") || strstr(line, "runtime error:");
	if (f)
		fclose(f);
	return found;
}

void fail(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&fail_lock); /* the first one speaks */
	fprintf(stderr, "FAILED %s, seed %llu: ", scenario, (unsigned long long)seed);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		if (pids[i] > 0)
			kill(pids[i], SIGKILL);
	}
	logs_each(log_show);
	fprintf(stderr, "again: fault_test %s --seed %llu --repeat 1\n", scenario,
		(unsigned long long)seed);
	fflush(NULL);
	if (getenv("FALLOW_FAULT_KEEP")) {
		fprintf(stderr, "kept: %s\n", dir);
		dir[0] = '\0';
	}
	on_exit_clean();
	_exit(1);
}

void say(const char *format, ...)
{
	va_list args;

	printf("%s: ", scenario);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

void harness_start(const char *bin, const char *name, uint64_t with_seed)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGABRT, SIGALRM};
	static bool installed;
	struct sigaction sa = {.sa_handler = on_signal};
	const char *tmp = getenv("TMPDIR");

	scenario = name;
	seed = with_seed;
	snprintf(bin_dir, sizeof(bin_dir), "%s", bin);
	if (!installed) {
		installed = true;
		setvbuf(stdout, NULL, _IOLBF, 0);
		signal(SIGPIPE, SIG_IGN);
		for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
			sigaction(signals[i], &sa, NULL);
		atexit(on_exit_clean);
	}
	snprintf(dir, sizeof(dir), "%s/fallow-fault.XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
	if (!mkdtemp(dir)) {
		dir[0] = '\0';
		fail("cannot make a directory: %s", strerror(errno));
	}
}

void harness_end(void)
{
	processes_check();
	all_kill();
	for (unsigned i = 0; i < PROCESSES_MAX; i++)
		pids[i] = 0;
	if (logs_each(log_reports))
		fail("a sanitizer has something to say");
	dir_remove();
}

static void child_exec(const char *log, const char *const argv[], const char *const env[])
{
	int null_fd = open("/dev/null", O_RDONLY);
	int log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || null_fd < 0 || log_fd < 0)
		_exit(126);
	dup2(null_fd, 0);
	dup2(log_fd, 1);
	dup2(log_fd, 2);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	for (unsigned i = 0; env && env[i]; i++)
		putenv((char *)env[i]);
	execv(argv[0], (char *const *)argv);
	_exit(127);
}

pid_t process_start(const char *name, const char *const argv[], const char *const env[])
{
	char log[PATH_MAX + 64];
	unsigned slot = 0;

	while (slot < PROCESSES_MAX && pids[slot] > 0)
		slot++;
	if (slot == PROCESSES_MAX)
		fail("too many processes");
	snprintf(log, sizeof(log), "%s/%s.log", dir, name);
	pid_t parent = getpid(), pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid == 0) {
		if (getppid() != parent)
			_exit(126);
		child_exec(log, argv, env);
	}
	snprintf(names[slot], sizeof(names[slot]), "%s", name);
	pids[slot] = pid;
	return pid;
}

static unsigned slot_of(pid_t pid)
{
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		if (pid > 0 && pids[i] == pid)
			return i;
	}
	fail("no process %d", (int)pid);
}

void process_signal(pid_t pid, int signal)
{
	unsigned slot = slot_of(pid);

	if (kill(pid, signal))
		fail("cannot signal %s: %s", names[slot], strerror(errno));
}

int process_end(pid_t pid, int signal)
{
	unsigned slot = slot_of(pid);
	uint64_t until = now_ms() + HARNESS_LIMIT_MS;
	int status;

	if (signal != SIGKILL)
		kill(pid, SIGCONT);
	kill(pid, signal);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > until)
			fail("%s does not end", names[slot]);
		pause_ms(1);
	}
	pids[slot] = 0;
	return status;
}

bool process_running(pid_t pid, int *status)
{
	unsigned slot = slot_of(pid);

	if (waitpid(pid, status, WNOHANG) != pid)
		return true;
	pids[slot] = 0;
	return false;
}

void processes_check(void)
{
	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		int status;

		if (pids[i] <= 0 || waitpid(pids[i], &status, WNOHANG) != pids[i])
			continue;
		pids[i] = 0;
		if (WIFSIGNALED(status))
			fail("%s was ended by signal %d", names[i], WTERMSIG(status));
		fail("%s ended by itself with status %d", names[i], WEXITSTATUS(status));
	}
}
