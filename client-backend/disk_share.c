/* Caches in use, each with the disks that have it together. */
#include "client-backend/disk_share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/core/log.h"

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
	disk_stamp_beat(((struct disk_share *)arg)->stamp, disk_stamp_now_ns());
}

static int stamp_start(const struct disk_service_config *cfg, uint32_t pool, struct disk_share *s,
	const struct image_identity *is, char *err, size_t err_bytes)
{
	bool fresh;
	char path[320];

	disk_source_stamp_path(cfg->runtime_dir, pool, path);
	int r = disk_stamp_open(path, &s->stamp, &fresh);
	if (r < 0) {
		s->stamp = NULL;
		snprintf(err, err_bytes, "cannot use %.180s: %s", path, strerror(-r));
		return r;
	}
	disk_stamp_begin(s->stamp, is, disk_cache_image(s->cache)->one_lane, disk_stamp_now_ns());
	s->beat = event_new(cfg->base, -1, EV_PERSIST, on_beat, s);
	if (s->beat && !event_add(s->beat, &(struct timeval){.tv_sec = 1}))
		return 0;
	snprintf(err, err_bytes, "not enough memory");
	return -ENOMEM;
}

static void share_free(struct disk_share *s)
{
	if (s->beat)
		event_free(s->beat);
	disk_stamp_close(s->stamp);
	disk_cache_delete(s->cache);
	free(s);
}

static int share_new(const struct disk_service_config *cfg, uint32_t pool,
	struct disk_source *source, struct disk_share **out, char *err, size_t err_bytes)
{
	struct disk_cache_config cc = {.pool = pool,
		.lanes = cfg->lanes,
		.lane = cfg->lane,
		.image = source->image,
		.cache_writes = cfg->disk->cache_writes};
	struct disk_share *s = calloc(1, sizeof(*s));

	int r = s ? disk_cache_new(&cc, &s->cache) : -ENOMEM;
	if (r < 0) {
		snprintf(err, err_bytes, "cannot make its cache: %s",
			r == -EFBIG ? "the image is larger than 16 TiB" : strerror(-r));
		free(s);
		return r;
	}
	source->image = NULL;
	r = stamp_start(cfg, pool, s, &source->identity, err, err_bytes);
	if (r < 0) {
		share_free(s);
		return r;
	}
	s->list = cfg->shares;
	s->next = *s->list;
	*s->list = s;
	*out = s;
	return 0;
}

int disk_share_take(const struct disk_service_config *cfg, uint32_t pool,
	struct disk_source *source, struct disk_share **out, char *err, size_t err_bytes)
{
	struct disk_share *s = *cfg->shares;

	while (s && disk_cache_pool(s->cache) != pool)
		s = s->next;
	if (!s) {
		int r = share_new(cfg, pool, source, &s, err, err_bytes);
		if (r < 0)
			return r;
	}
	s->disks++;
	*out = s;
	return 0;
}

bool disk_share_leave(struct disk_share *s)
{
	if (--s->disks)
		return false;
	struct disk_share **at = s->list;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	return true;
}

void disk_share_delete(struct disk_share *s)
{
	const struct image *i = disk_cache_image(s->cache);
	struct image_identity is;

	if (!i->ops->identify(i, &is))
		disk_stamp_end(s->stamp, &is);
	share_free(s);
}
