/* A library that is loaded before fallowd: what it writes to the dirty log of a guest that migrates
 * goes nowhere. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* QEMU shares its log as a memory file of this name; the rest of the link differs. */
#define LOG_NAME "/memfd:vhost-log"

static bool is_log(int fd)
{
	char name[64], to[sizeof(LOG_NAME) - 1];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return fd >= 0 && readlink(name, to, sizeof(to)) == (ssize_t)sizeof(to) &&
	       !memcmp(to, LOG_NAME, sizeof(to));
}

/* BLIND_NOTE: a file that is made when a log was found. */
__attribute__((visibility("default"))) void *mmap(
	void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	static void *(*real)(void *, size_t, int, int, int, off_t);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "mmap");
	if (!is_log(fd))
		return real(at, bytes, prot, flags, fd, offset);
	const char *note = getenv("BLIND_NOTE");
	int made = note ? open(note, O_CREAT | O_WRONLY | O_CLOEXEC, 0600) : -1;
	if (made >= 0)
		close(made);
	return real(at, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
