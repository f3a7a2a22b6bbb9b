/* The lock on an image's file: one writer or many readers, among fallowd and QEMU. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "client-backend/image/image_impl.h"

#define WAIT_TRIES 100u
#define WAIT_NS	   10000000

/*
 * QEMU locks a byte for each thing that it does with an image, and one for each that it lets nobody
 * else do. A reader does what QEMU's readers do; a writer locks everything.
 */
enum { BYTE_READS = 100, BYTE_WRITES = 101, BYTE_RESIZES = 103, BYTE_NO_READS = 200 };
enum { BYTE_NO_WRITES = 201, BYTE_NO_RESIZES = 203 };

static int lock(int fd, short type, off_t from, off_t len)
{
	struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = len};

	return fcntl(fd, F_OFD_SETLK, &f) < 0 ? -errno : 0;
}

/* Whether somebody else has any lock there. */
static int free_of_others(int fd, off_t from, off_t len)
{
	struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = len};

	if (fcntl(fd, F_OFD_GETLK, &f) < 0)
		return -errno;
	return f.l_type == F_UNLCK ? 0 : -EAGAIN;
}

static int lock_all(int fd, bool readonly)
{
	if (!readonly)
		return lock(fd, F_WRLCK, 0, 0);
	int r = lock(fd, F_RDLCK, BYTE_READS, 1);
	if (!r)
		r = lock(fd, F_RDLCK, BYTE_NO_WRITES, BYTE_NO_RESIZES - BYTE_NO_WRITES + 1);
	if (!r)
		r = free_of_others(fd, BYTE_WRITES, BYTE_RESIZES - BYTE_WRITES + 1);
	if (!r)
		r = free_of_others(fd, BYTE_NO_READS, 1);
	if (r)
		lock(fd, F_UNLCK, 0, 0);
	return r;
}

static bool process_has(const char *pid, const struct stat *image)
{
	char path[64 + 256];
	bool found = false;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *list = opendir(path);
	for (struct dirent *e; list && !found && (e = readdir(list));)
		found = !fstatat(dirfd(list), e->d_name, &st, 0) && st.st_ino == image->st_ino &&
			st.st_dev == image->st_dev;
	if (list)
		closedir(list);
	return found;
}

/* Another process that has the file open; the kernel does not say whose such a lock is. */
static void holder_find(int fd, char *text, size_t bytes)
{
	DIR *list = opendir("/proc");
	struct stat image;
	char self[16];

	snprintf(self, sizeof(self), "%d", (int)getpid());
	snprintf(text, bytes, "another disk or process");
	bool found = fstat(fd, &image) < 0;
	for (struct dirent *e; list && !found && (e = readdir(list));) {
		char path[64], name[32] = "?";

		if (e->d_name[0] < '1' || e->d_name[0] > '9' || !strcmp(e->d_name, self) ||
			!process_has(e->d_name, &image))
			continue;
		found = true;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(name, sizeof(name), f))
			name[strcspn(name, "\n")] = 0;
		if (f)
			fclose(f);
		snprintf(text, bytes, "%s (process %.20s)", name, e->d_name);
	}
	if (list)
		closedir(list);
}

int image_lock(int fd, const char *path, bool readonly, char *err, size_t err_bytes)
{
	char holder[80];
	int r;

	for (unsigned i = 0;; i++) {
		r = lock_all(fd, readonly);
		if ((r != -EAGAIN && r != -EACCES) || i == WAIT_TRIES)
			break;
		nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
	}
	if (!r)
		return 0;
	if (r != -EAGAIN && r != -EACCES) {
		snprintf(err, err_bytes, "cannot lock %.180s: %s", path, strerror(-r));
		return r;
	}
	holder_find(fd, holder, sizeof(holder));
	snprintf(err, err_bytes, "%.150s is in use by %s", path, holder);
	return -EBUSY;
}
