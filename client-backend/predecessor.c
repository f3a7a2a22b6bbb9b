/* Waits until the process that served a state_dir before is gone, with all that it held. */
#include "client-backend/predecessor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client-backend/state_file.h"

#define STATE_NAME "process"

/* A process's number may be another's by now: its start tells. */
struct process {
	int pid;
	unsigned long long start_ticks; /* since boot: field 22 of /proc/PID/stat (proc(5)) */
};

/* 0, or -ESRCH: there is none. */
static int start_ticks_of(int pid, unsigned long long *ticks)
{
	char path[64], text[1024], *after_name;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return -ESRCH;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	after_name =
		strrchr(text, ')'); /* the name may hold anything, the fields after it do not */
	if (!after_name ||
		sscanf(after_name,
			") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
			"%*d %llu",
			ticks) != 1)
		return -ESRCH;
	return 0;
}

/* 0 with the process, -ESRCH when nothing names one. */
static int process_load(const char *dir, struct process *p)
{
	char text[64], end;
	ssize_t n = state_file_read(dir, STATE_NAME, text, sizeof(text));

	if (n == -ENOENT)
		return -ESRCH;
	if (n < 0)
		return (int)n;
	if (sscanf(text, "%d %llu%c", &p->pid, &p->start_ticks, &end) != 3 || end != '\n' ||
		p->pid < 1)
		return -ESRCH;
	return 0;
}

/* A descriptor that becomes readable when p ends; -ESRCH: it has. */
static int process_watch(const struct process *p)
{
	unsigned long long ticks;
	int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);

	if (fd < 0)
		return -errno;
	if (start_ticks_of(p->pid, &ticks) < 0 || ticks != p->start_ticks) {
		close(fd);
		return -ESRCH;
	}
	return fd;
}

static int process_wait(const struct process *p, unsigned limit_ms)
{
	int n, fd = process_watch(p);

	if (fd < 0)
		return fd == -ESRCH ? 0 : fd;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	do
		n = poll(&pfd, 1, (int)limit_ms);
	while (n < 0 && errno == EINTR);
	int r = n > 0 ? 0 : n < 0 ? -errno : -EBUSY;
	close(fd);
	return r;
}

int predecessor_wait(const char *dir, unsigned limit_ms, char *err, size_t err_bytes)
{
	struct process before, self = {.pid = getpid()};
	char text[64];
	int r = process_load(dir, &before);

	if (r < 0 && r != -ESRCH) {
		snprintf(err, err_bytes, "cannot read %s/%s: %s", dir, STATE_NAME, strerror(-r));
		return r;
	}
	if (!r && before.pid != self.pid)
		r = process_wait(&before, limit_ms);
	if (r < 0 && r != -ESRCH) {
		snprintf(err, err_bytes,
			"process %d, which served %s before, has not ended: %s; its connections "
			"may still reach guests' memory",
			before.pid, dir, strerror(-r));
		return r;
	}
	r = start_ticks_of(self.pid, &self.start_ticks);
	if (!r) {
		snprintf(text, sizeof(text), "%d %llu\n", self.pid, self.start_ticks);
		r = state_file_replace(dir, STATE_NAME, text);
	}
	if (r < 0)
		snprintf(err, err_bytes, "cannot write %s/%s: %s", dir, STATE_NAME, strerror(-r));
	return r;
}
