/* What a backend keeps on disk across restarts and reboots: who it is to donors, and used pool ids.
 */
#include "client-backend/identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "client-backend/state_file.h"

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
	return state_file_replace(dir, "identity", text);
}

int identity_load(const char *dir, struct identity *out, char *err, size_t err_bytes)
{
	char text[80];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		int r = -errno;
		snprintf(err, err_bytes, "cannot make state_dir %s: %s", dir, strerror(-r));
		return r;
	}
	ssize_t n = state_file_read(dir, "identity", text, sizeof(text));
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
	ssize_t n = state_file_read(dir, "pool-ids", text, sizeof(text));
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
	return state_file_replace(dir, "pool-ids", text);
}
