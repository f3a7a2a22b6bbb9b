/* A cached disk: the life of a cache, of the disks that have it, and the way of their requests. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client-backend/frontend/disk_cached_impl.h"

static int lane_new(struct disk_cache *c, unsigned i)
{
	struct cache_lane *cl = calloc(1, sizeof(*cl));
	size_t bytes = (size_t)DISK_CACHE_PAGES * ENGINE_PAGE_BYTES;

	if (!cl)
		return -ENOMEM;
	cl->bounce = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (cl->bounce == MAP_FAILED) {
		free(cl);
		return -ENOMEM;
	}
	cl->gather.close = disk_cached_gather_close;
	cl->cache = c;
	cl->lane = c->cfg.lane[i];
	for (unsigned n = 0; n < DISK_CACHE_PAGES; n++) {
		struct cache_slot *s = &cl->slot[n];

		s->lane = cl;
		s->bounce = cl->bounce + (size_t)n * ENGINE_PAGE_BYTES;
		s->next = cl->unused;
		cl->unused = s;
		cl->unused_count++;
	}
	c->lane[i] = cl;
	return 0;
}

int disk_cache_new(const struct disk_cache_config *cfg, struct disk_cache **out)
{
	uint64_t pages = (cfg->image->size_bytes + ENGINE_PAGE_BYTES - 1) / ENGINE_PAGE_BYTES;

	if (pages > (uint64_t)1 << 32)
		return -EFBIG;
	if (!pages || cfg->image->size_bytes % IMAGE_SECTOR_BYTES || !cfg->pool || cfg->lanes < 1 ||
		cfg->lanes > BLK_MAX_LANES)
		return -EINVAL;
	struct disk_cache *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->cfg = *cfg;
	for (unsigned i = 0; i < cfg->lanes; i++) {
		int r = lane_new(c, i);

		if (r < 0) {
			c->cfg.image = NULL; /* still the caller's */
			disk_cache_delete(c);
			return r;
		}
	}
	c->cfg.lane = NULL;
	*out = c;
	return 0;
}

void disk_cache_delete(struct disk_cache *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < c->cfg.lanes; i++) {
		if (!c->lane[i])
			continue;
		munmap(c->lane[i]->bounce, (size_t)DISK_CACHE_PAGES * ENGINE_PAGE_BYTES);
		free(c->lane[i]);
	}
	image_close(c->cfg.image);
	free(c);
}

struct image *disk_cache_image(const struct disk_cache *c)
{
	return c->cfg.image;
}

uint32_t disk_cache_pool(const struct disk_cache *c)
{
	return c->cfg.pool;
}

void disk_cache_detach(struct disk_cache *c, struct disk_lane *l)
{
	struct image *i = c->cfg.image;

	if (i->ops->detach)
		i->ops->detach(i, l->images);
}

static struct disk_cached *view_new(struct disk_cache *c, const struct env *env)
{
	struct disk_cached *d =
		calloc(1, sizeof(*d) + c->cfg.lanes * sizeof(struct disk_cached_stats));

	if (!d)
		return NULL;
	d->head = (struct disk_store){
		.run = disk_cached_run, .pool = c->cfg.pool, .one_lane = c->cfg.image->one_lane};
	d->cache = c;
	d->env = env;
	return d;
}

int disk_cached_new(struct disk_cache *c, struct disk_cache *base, uint64_t *own,
	const struct env *env, struct disk_cached **out)
{
	struct disk_cached *d = view_new(c, env);

	if (d && base)
		d->base = view_new(base, env);
	if (!d || (base && !d->base)) {
		free(d);
		return -ENOMEM;
	}
	d->own = own;
	*out = d;
	return 0;
}

const struct disk_cached *disk_cached_base(const struct disk_cached *d)
{
	return d->base;
}

void disk_cached_delete(struct disk_cached *d)
{
	if (!d)
		return;
	free(d->base);
	free(d->own);
	free(d);
}

struct disk_cache *disk_cached_cache(const struct disk_cached *d)
{
	return d->cache;
}

const struct disk_cached_stats *disk_cached_stats(const struct disk_cached *d, unsigned lane)
{
	return &d->stats[lane];
}

static void cached_submit(void *store, unsigned lane, struct blk_range *g)
{
	struct disk_cached *d = store;

	disk_lane_submit(d->cache->lane[lane]->lane, &d->head, g);
}

static void cached_kick(void *store, unsigned lane)
{
	struct disk_cached *d = store;

	disk_lane_kick(d->cache->lane[lane]->lane);
}

const struct blk_store_ops disk_cached_ops = {.submit = cached_submit, .kick = cached_kick};
