/* What a cached disk is a cache of: its image, opened, and the pool that goes with it. */
#include "client-backend/disk_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "client-backend/disk_stamp.h"

static void pool_owner_set(struct disk_source *s)
{
	const struct image_identity *i = &s->identity;
	uint64_t words[] = {i->dev, i->ino, i->size_bytes, i->mtime_ns, i->ctime_ns,
		(uint64_t)(int64_t)s->image->one_lane};
	XXH128_hash_t h = XXH3_128bits(words, sizeof(words));

	snprintf(s->pool_owner, sizeof(s->pool_owner), DISK_SOURCE_SHARED_PREFIX "%016llx%016llx",
		(unsigned long long)h.high64, (unsigned long long)h.low64);
}

static int source_open(const struct fallowd_disk_config *c, unsigned lanes,
	uint64_t down_timeout_ns, struct disk_source **out, char *err, size_t err_bytes)
{
	struct image_options o = {.where = c->image,
		.readonly = c->readonly,
		.direct = c->direct,
		.lanes = lanes,
		.down_timeout_ns = down_timeout_ns};
	struct disk_source *s = calloc(1, sizeof(*s));

	if (!s) {
		snprintf(err, err_bytes, "not enough memory");
		return -ENOMEM;
	}
	int r = image_open(&o, &s->image, err, err_bytes);
	if (!r) {
		r = s->image->ops->identify(s->image, &s->identity);
		if (r < 0)
			snprintf(err, err_bytes, "cannot look at %.180s: %s", c->image,
				strerror(-r));
	}
	if (r < 0) {
		disk_source_close(s);
		return r;
	}
	s->shared = c->readonly;
	if (s->shared)
		pool_owner_set(s);
	*out = s;
	return 0;
}

static int base_open(struct disk_source *s, const struct fallowd_disk_config *c, unsigned lanes,
	char *err, size_t err_bytes)
{
	struct fallowd_disk_config b = *c;

	snprintf(b.image, sizeof(b.image), "%s", c->base);
	b.readonly = true;
	/* A file: no server that could be gone. */
	int r = source_open(&b, lanes, 0, &s->base, err, err_bytes);
	if (!r && !s->base->identity.trusted) {
		snprintf(err, err_bytes, "the base %.180s is no file", c->base);
		r = -EINVAL;
	}
	return r ? r
		 : image_depth_read(c->image, s->identity.size_bytes, c->base,
			   s->base->identity.size_bytes, &s->own, err, err_bytes);
}

int disk_source_open(const struct fallowd_disk_config *c, unsigned lanes, uint64_t down_timeout_ns,
	struct disk_source **out, char *err, size_t err_bytes)
{
	int r = source_open(c, lanes, down_timeout_ns, out, err, err_bytes);

	if (!r && c->base[0]) {
		r = base_open(*out, c, lanes, err, err_bytes);
		if (r < 0) {
			disk_source_close(*out);
			*out = NULL;
		}
	}
	return r;
}

void disk_source_close(struct disk_source *s)
{
	if (!s)
		return;
	disk_source_close(s->base);
	free(s->own);
	image_close(s->image);
	free(s);
}

void disk_source_stamp_path(const char *runtime_dir, uint32_t pool, char path[320])
{
	snprintf(path, 320, "%.255s/disk-%u.image", runtime_dir, pool);
}

bool disk_source_valid(const struct disk_source *s, const char *runtime_dir, uint32_t pool,
	bool keep, const char **why)
{
	struct disk_stamp *stamp;
	char path[320];
	bool fresh;

	/* The pool's name says it all. */
	if (s->shared && s->identity.trusted)
		return true;
	disk_source_stamp_path(runtime_dir, pool, path);
	if (disk_stamp_open(path, &stamp, &fresh) < 0) {
		*why = "its stamp cannot be read";
		return false;
	}
	/* Nobody was served from a pool without one. */
	bool valid = fresh || disk_stamp_valid(stamp, &s->identity, s->image->one_lane, keep, why);
	disk_stamp_close(stamp);
	return valid;
}
