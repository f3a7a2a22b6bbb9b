/* What a backend keeps on disk across restarts and reboots: who it is to donors, and used pool ids.
 */
#include "client-backend/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 512

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

/* The old content or the new one, never a part of either. */
static int file_replace(const char *dir, const char *name, const char *text)
{
	char path[PATH_BYTES], tmp[PATH_BYTES];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path) ||
		(size_t)snprintf(tmp, sizeof(tmp), "%s/%s.new", dir, name) >= sizeof(tmp))
		return -ENAMETOOLONG;
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	int r = write_all(fd, text, strlen(text));
	close(fd);
	if (!r && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return r;
	}
	int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return -errno;
	r = fsync(dir_fd) < 0 ? -errno : 0;
	close(dir_fd);
	return r;
}

/* The length read, or a negative errno. text is NUL-terminated. */
static ssize_t file_read(const char *dir, const char *name, char *text, size_t bytes)
{
	char path[PATH_BYTES];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return -ENAMETOOLONG;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, text, bytes - 1);
	int e = errno;
	close(fd);
	if (n < 0)
		return -e;
	text[n] = 0;
	return n;
}

static int hex_parse(const char *text, uint8_t *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		unsigned v;
		char pair[3] = {text[2 * i], text[2 * i + 1], 0};

		if (strspn(pair, "0123456789abcdef") != 2 || sscanf(pair, "%2x", &v) != 1)
			return -EBADMSG;
		out[i] = (uint8_t)v;
	}
	return 0;
}

static void hex_print(const uint8_t *in, size_t bytes, char *text)
{
	for (size_t i = 0; i < bytes; i++)
		sprintf(text + 2 * i, "%02x", in[i]);
}

static int identity_make(const char *dir, struct identity *out)
{
	char id[33], secret[33], text[80];

	if (getrandom(out, sizeof(*out), 0) != sizeof(*out))
		return -EIO;
	hex_print(out->id, sizeof(out->id), id);
	hex_print(out->secret, sizeof(out->secret), secret);
	snprintf(text, sizeof(text), "%s %s\n", id, secret);
	return file_replace(dir, "identity", text);
}

int identity_load(const char *dir, struct identity *out, char *err, size_t err_bytes)
{
	char text[80];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		int r = -errno;
		snprintf(err, err_bytes, "cannot make state_dir %s: %s", dir, strerror(-r));
		return r;
	}
	ssize_t n = file_read(dir, "identity", text, sizeof(text));
	if (n == -ENOENT) {
		int r = identity_make(dir, out);
		if (r < 0)
			snprintf(err, err_bytes, "cannot write %s/identity: %s", dir, strerror(-r));
		return r;
	}
	if (n < 0) {
		snprintf(err, err_bytes, "cannot read %s/identity: %s", dir, strerror((int)-n));
		return (int)n;
	}
	if (n != 66 || text[32] != ' ' || text[65] != '\n' ||
		hex_parse(text, out->id, sizeof(out->id)) < 0 ||
		hex_parse(text + 33, out->secret, sizeof(out->secret)) < 0) {
		snprintf(err, err_bytes,
			"%s/identity is damaged: restore it, or remove it to become a new client "
			"of "
			"the donors",
			dir);
		return -EBADMSG;
	}
	return 0;
}

int identity_pool_ids_load(const char *dir, uint32_t *next_id, char *err, size_t err_bytes)
{
	char text[32], *end;

	*next_id = 1;
	ssize_t n = file_read(dir, "pool-ids", text, sizeof(text));
	if (n == -ENOENT)
		return 0;
	if (n < 0) {
		snprintf(err, err_bytes, "cannot read %s/pool-ids: %s", dir, strerror((int)-n));
		return (int)n;
	}
	unsigned long v = strtoul(text, &end, 10);
	if (end == text || *end != '\n' || !v || v > UINT32_MAX) {
		snprintf(err, err_bytes, "%s/pool-ids is damaged: it must hold one number", dir);
		return -EBADMSG;
	}
	*next_id = (uint32_t)v;
	return 0;
}

int identity_pool_ids_store(const char *dir, uint32_t next_id)
{
	char text[32];

	snprintf(text, sizeof(text), "%u\n", next_id);
	return file_replace(dir, "pool-ids", text);
}
