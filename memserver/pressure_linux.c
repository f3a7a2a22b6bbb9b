/* Reads what the pressure policy looks at: /proc/meminfo and /proc/pressure/memory. */
#include "memserver/pressure_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX 16384

/* The file's text, NUL-terminated. */
static int text_read(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return -errno;
	/* The kernel makes such a file's text in one go: one read has all of it. */
	do
		n = read(fd, buf, cap - 1);
	while (n < 0 && errno == EINTR);
	int rc = n < 0 ? -errno : 0;

	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return rc;
}

/* The start of the line that begins with name; NULL: none does. */
static const char *line_find(const char *text, const char *name)
{
	size_t len = strlen(name);

	while (text && *text) {
		if (!strncmp(text, name, len))
			return text + len;
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return NULL;
}

static int meminfo_value(const char *text, const char *name, uint64_t *bytes)
{
	const char *p = line_find(text, name);
	unsigned long long kib;

	if (!p || sscanf(p, " %llu kB", &kib) != 1 || kib > UINT64_MAX / 1024)
		return -EBADMSG;
	*bytes = kib * 1024;
	return 0;
}

int pressure_meminfo_read(const char *path, uint64_t *total_bytes, uint64_t *available_bytes)
{
	char text[FILE_BYTES_MAX];
	int rc = text_read(path, text, sizeof(text));

	if (rc)
		return rc;
	rc = meminfo_value(text, "MemTotal:", total_bytes);
	return rc ? rc : meminfo_value(text, "MemAvailable:", available_bytes);
}

static int psi_value(const char *text, const char *name, double *percent)
{
	const char *p = line_find(text, name);
	double v;

	if (!p || sscanf(p, " avg10=%lf", &v) != 1 || !(v >= 0 && v <= 100))
		return -EBADMSG;
	*percent = v;
	return 0;
}

int pressure_psi_read(const char *path, struct pressure_sample *out)
{
	char text[FILE_BYTES_MAX];

	out->has_psi = false;
	out->some_avg10 = out->full_avg10 = 0;
	int rc = text_read(path, text, sizeof(text));
	if (rc == -ENOENT || rc == -EOPNOTSUPP)
		return 0;
	if (rc)
		return rc;
	rc = psi_value(text, "some", &out->some_avg10);
	if (!rc)
		rc = psi_value(text, "full", &out->full_avg10);
	out->has_psi = !rc;
	return rc;
}

int pressure_psi_watch(const char *path, uint32_t stall_us, uint32_t window_us)
{
	char trigger[64];
	struct stat st;
	int len = snprintf(trigger, sizeof(trigger), "some %u %u", stall_us, window_us);

	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	/* A test's plain file must not be written to. */
	if (fstat(fd, &st) || st.st_size > 0) {
		close(fd);
		return -EOPNOTSUPP;
	}
	if (write(fd, trigger, (size_t)len + 1) < 0) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}
