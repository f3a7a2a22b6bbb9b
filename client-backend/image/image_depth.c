/* Which pages of a clone are still its base's: asked of QEMU's NBD server. */
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client-backend/image/image_impl.h"
#include "lib/core/env.h"

#define CONTEXT	   "qemu:allocation-depth"
#define LIMIT_NS   10000000000ull
#define STEP_MS	   100
#define ASK_BYTES  (1ull << 30) /* at a time */
#define PAGE_BYTES 4096u
#define COMPARED   16u /* pages of the base that are looked at in the clone */

struct asking {
	struct nbd_handle *h;
	uint64_t limit_ns;
	uint64_t base_bytes;
	uint64_t *own;
	uint64_t at; /* answered so far */
	uint64_t pages_of_base;
};

static int fail(char *err, size_t err_bytes, int status, const char *where, const char *why)
{
	snprintf(err, err_bytes, "%.120s: %.120s", where, why ? why : strerror(-status));
	return status;
}

static int connect_to(struct asking *a, const char *uri)
{
	bool ok = a->h && !nbd_add_meta_context(a->h, CONTEXT) &&
		  !nbd_set_uri_allow_local_file(a->h, false) && !nbd_aio_connect_uri(a->h, uri);

	while (ok && nbd_aio_is_connecting(a->h) > 0) {
		if (env_now_ns(&env_system) >= a->limit_ns)
			return -ETIMEDOUT;
		ok = nbd_poll(a->h, STEP_MS) >= 0;
	}
	return ok && nbd_aio_is_ready(a->h) > 0 ? 0 : -ECONNREFUSED;
}

static int command_wait(struct asking *a, int64_t cookie)
{
	int r = cookie < 0 ? -1 : 0;

	while (!r) {
		r = nbd_aio_command_completed(a->h, (uint64_t)cookie);
		if (r || env_now_ns(&env_system) >= a->limit_ns || nbd_poll(a->h, STEP_MS) < 0)
			break;
	}
	return r > 0 ? 0 : r < 0 ? -EIO : -ETIMEDOUT;
}

/* Depth 1 is the clone itself; more is what it has of its base. */
static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
	size_t count, int *error)
{
	struct asking *a = arg;

	if (strcmp(context, CONTEXT))
		return 0;
	for (size_t i = 0; i + 1 < count; i += 2) {
		uint64_t end = offset + entries[i];
		uint64_t last = end < a->base_bytes ? end : a->base_bytes;

		if (entries[i + 1] >= 2) {
			uint64_t first = (offset + PAGE_BYTES - 1) / PAGE_BYTES;

			for (uint64_t p = first; (p + 1) * PAGE_BYTES <= last; p++) {
				a->own[p / 64] &= ~(1ull << p % 64);
				a->pages_of_base++;
			}
		}
		offset = end;
	}
	a->at = offset;
	return 0;
}

static int extents_read(struct asking *a, uint64_t bytes)
{
	while (a->at < bytes) {
		uint64_t from = a->at, n = bytes - from < ASK_BYTES ? bytes - from : ASK_BYTES;
		nbd_extent_callback extents = {.callback = on_extents, .user_data = a};

		int r = command_wait(
			a, nbd_aio_block_status(a->h, n, from, extents, NBD_NULL_COMPLETION, 0));
		if (r < 0)
			return r;
		if (a->at <= from)
			return -EPROTO;
	}
	return 0;
}

/* The next page of the base from `page` on, in a circle. */
static uint64_t page_of_base(const struct asking *a, uint64_t page, uint64_t pages)
{
	for (uint64_t n = 0; n < pages; n++, page++)
		if (!(a->own[page % pages / 64] >> page % pages % 64 & 1))
			break;
	return page % pages;
}

/* Some pages anywhere: a wrong base shows, not every one. */
static int base_compare(struct asking *a, int fd, uint64_t bytes)
{
	uint64_t pages = bytes / PAGE_BYTES, rnd = env_now_ns(&env_system) | 1;
	uint8_t clone[PAGE_BYTES], base[PAGE_BYTES];

	for (unsigned i = 0; i < COMPARED && a->pages_of_base; i++) {
		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		uint64_t at = page_of_base(a, rnd % pages, pages) * PAGE_BYTES;
		int r = command_wait(
			a, nbd_aio_pread(a->h, clone, PAGE_BYTES, at, NBD_NULL_COMPLETION, 0));
		if (r < 0)
			return r;
		if (pread(fd, base, PAGE_BYTES, (off_t)at) != (ssize_t)PAGE_BYTES)
			return -EIO;
		if (memcmp(clone, base, PAGE_BYTES))
			return -EBADMSG;
	}
	return 0;
}

int image_depth_read(const char *uri, uint64_t bytes, const char *base, uint64_t base_bytes,
	uint64_t **own, char *err, size_t err_bytes)
{
	size_t map_bytes = (bytes / PAGE_BYTES / 64 + 1) * sizeof(uint64_t);
	struct asking a = {.h = nbd_create(),
		.limit_ns = env_now_ns(&env_system) + LIMIT_NS,
		.base_bytes = base_bytes,
		.own = malloc(map_bytes)};
	int fd = open(base, O_RDONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		r = fail(err, err_bytes, -errno, base, NULL);
	else if (!a.h || !a.own)
		r = fail(err, err_bytes, -ENOMEM, uri, NULL);
	else if (connect_to(&a, uri) < 0)
		r = fail(err, err_bytes, -ECONNREFUSED, uri, "cannot connect");
	else if (nbd_can_meta_context(a.h, CONTEXT) <= 0)
		r = fail(err, err_bytes, -EINVAL, uri,
			"the server does not tell what is the base's (qemu-nbd "
			"--allocation-depth)");
	if (!r) {
		memset(a.own, 0xff, map_bytes);
		r = extents_read(&a, bytes);
		if (r < 0)
			fail(err, err_bytes, r, uri, "it did not say in time what is the base's");
	}
	if (!r) {
		r = base_compare(&a, fd, bytes);
		if (r < 0)
			fail(err, err_bytes, r, base,
				r == -EBADMSG ? "this is not the base of the image"
					      : "cannot be compared with the image");
	}
	if (fd >= 0)
		close(fd);
	if (a.h)
		nbd_close(a.h);
	if (r < 0)
		free(a.own);
	else
		*own = a.own;
	return r == -EBADMSG ? -EINVAL : r;
}
