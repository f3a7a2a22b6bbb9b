/* What serves one disk: its pages, a disk over them, and the socket that its user connects to. */
#include "client-backend/disk_service.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/disk_share.h"
#include "lib/core/log.h"

struct disk_service {
	struct disk_swap *swap;
	struct disk_share *share, *base; /* base: of a clone */
	struct disk_cached *cached;
	struct blk *blk;
	struct vhost_server *vhost;
	struct nbd_server *nbd;
	void (*lanes_detach)(void *ctx, struct disk_cache *cache, struct backend_call *call);
	void *ops_ctx;
	bool last, base_last; /* nobody else has the cache */
	bool base_left;
	struct backend_call stop, *whole;
};

void disk_service_lost_path(const char *runtime_dir, uint32_t pool, char path[320])
{
	snprintf(path, 320, "%.255s/disk-%u.lost", runtime_dir, pool);
}

static void service_free(struct disk_service *s)
{
	vhost_server_delete(s->vhost);
	nbd_server_delete(s->nbd);
	blk_delete(s->blk);
	disk_swap_delete(s->swap);
	disk_cached_delete(s->cached);
	if (s->share && s->last)
		disk_share_delete(s->share);
	if (s->base && s->base_last)
		disk_share_delete(s->base);
	free(s);
}

static int swap_open(
	const struct disk_service_config *cfg, struct disk_service *s, char *err, size_t err_bytes)
{
	char path[320];
	struct disk_swap_config sc = {.pool = cfg->pool,
		.pages = cfg->disk->size_bytes / ENGINE_PAGE_BYTES,
		.lanes = cfg->lanes,
		.lane = cfg->lane,
		.lost_path = path};

	disk_service_lost_path(cfg->runtime_dir, cfg->pool, path);
	int r = disk_swap_new(&sc, &s->swap);
	if (r < 0)
		snprintf(err, err_bytes, "cannot use %.180s: %s", path,
			r == -EINVAL ? "it is of a disk of another size" : strerror(-r));
	return r;
}

static int cached_open(
	const struct disk_service_config *cfg, struct disk_service *s, char *err, size_t err_bytes)
{
	for (unsigned i = 0; i < cfg->lanes; i++) {
		int r = image_lane_status(disk_lane_images(cfg->lane[i]));

		if (r < 0) {
			snprintf(err, err_bytes, "there is no io_uring here: %s", strerror(-r));
			return r;
		}
	}
	struct disk_source *source = cfg->source;
	int r = disk_share_take(cfg, cfg->pool, source, &s->share, err, err_bytes);
	if (!r && source->base)
		r = disk_share_take(cfg, source->base_pool, source->base, &s->base, err, err_bytes);
	if (r < 0)
		return r;
	r = disk_cached_new(s->share->cache, s->base ? s->base->cache : NULL, source->own, cfg->env,
		&s->cached);
	if (r < 0)
		snprintf(err, err_bytes, "not enough memory");
	else
		source->own = NULL;
	return r;
}

static int device_make(
	const struct disk_service_config *cfg, struct disk_service *s, char *err, size_t err_bytes)
{
	const struct fallowd_disk_config *c = cfg->disk;
	struct blk_config bc = {.size_bytes = c->size_bytes,
		.block_bytes = s->cached ? BLK_SECTOR_BYTES : ENGINE_PAGE_BYTES,
		.lanes = cfg->lanes,
		.queues = c->queues,
		.readonly = s->cached && c->readonly,
		.volatile_cache = s->cached};

	/* Those who only read have no choice to make. */
	if (s->cached && !c->readonly)
		bc.writeback = disk_stamp_writeback(s->share->stamp);
	snprintf(bc.serial, sizeof(bc.serial), "%s", c->serial);
	int r = blk_new(&bc, s->cached ? &disk_cached_ops : &disk_swap_ops,
		s->cached ? (void *)s->cached : (void *)s->swap, cfg->env, &s->blk);
	if (r < 0) {
		snprintf(err, err_bytes, "cannot make the device: %s", strerror(-r));
		return r;
	}
	return 0;
}

static int vhost_start(
	const struct disk_service_config *cfg, struct disk_service *s, char *err, size_t err_bytes)
{
	const struct fallowd_disk_config *c = cfg->disk;
	struct vhost_server_config vc = {.name = c->name,
		.path = c->socket,
		.mode = (mode_t)c->mode,
		.queues = c->queues,
		.lanes = cfg->lanes,
		/* Many disks with one queue each use all lanes, too. */
		.first_lane = cfg->pool % cfg->lanes,
		.drain_timeout_ms = cfg->drain_timeout_ms};
	if (c->guest_memory == FALLOWD_GUEST_PINNED && cfg->pinner.ops)
		vc.pinner = cfg->pinner;
	else if (c->guest_memory == FALLOWD_GUEST_PINNED)
		log_warn("disks",
			"disk %s: guest_memory is pinned, but there is no RDMA device here (or "
			"remote.verbs is off): pages pass through buffers",
			c->name);
	return vhost_server_new(&vc, cfg->base, cfg->env, &blk_device_ops, s->blk, cfg->vhost_ops,
		cfg->ops_ctx, &s->vhost, err, err_bytes);
}

static int nbd_start(
	const struct disk_service_config *cfg, struct disk_service *s, char *err, size_t err_bytes)
{
	const struct fallowd_disk_config *c = cfg->disk;
	struct nbd_server_config nc = {.name = c->name,
		.path = c->socket,
		.mode = (mode_t)c->mode,
		.listen = c->listen,
		.max_conns = c->connections,
		.lanes = cfg->lanes,
		.first_lane = cfg->pool % cfg->lanes};

	return nbd_server_new(&nc, cfg->base, cfg->env, s->blk, cfg->nbd_ops, cfg->ops_ctx, &s->nbd,
		err, err_bytes);
}

int disk_service_new(const struct disk_service_config *cfg, struct disk_service **out, char *err,
	size_t err_bytes)
{
	struct disk_service *s = calloc(1, sizeof(*s));

	if (!s) {
		snprintf(err, err_bytes, "not enough memory");
		return -ENOMEM;
	}
	s->lanes_detach = cfg->lanes_detach;
	s->ops_ctx = cfg->ops_ctx;
	int r = cfg->source ? cached_open(cfg, s, err, err_bytes)
			    : swap_open(cfg, s, err, err_bytes);
	if (!r)
		r = device_make(cfg, s, err, err_bytes);
	if (!r)
		r = cfg->disk->frontend == FALLOWD_FRONTEND_NBD
			    ? nbd_start(cfg, s, err, err_bytes)
			    : vhost_start(cfg, s, err, err_bytes);
	if (r < 0) {
		if (s->share)
			s->last = disk_share_leave(s->share);
		if (s->base)
			s->base_last = disk_share_leave(s->base);
		service_free(s);
		return r;
	}
	if (cfg->source)
		disk_source_close(cfg->source);
	*out = s;
	return 0;
}

static void on_detached(struct backend_call *call, int status, uint64_t value)
{
	struct disk_service *s =
		(struct disk_service *)((char *)call - offsetof(struct disk_service, stop));
	struct backend_call *whole = s->whole;

	if (!status && s->base && !s->base_left) {
		s->base_left = true;
		s->base_last = disk_share_leave(s->base);
		s->lanes_detach(s->ops_ctx, s->base_last ? s->base->cache : NULL, &s->stop);
		return;
	}

	/* A lane that could not be asked may still have a pointer to it. */
	if (status < 0)
		log_error("disks", "a disk could not be freed: %s", strerror(-status));
	else
		service_free(s);
	whole->done(whole, 0, 0);
}

static void on_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct disk_service *s =
		(struct disk_service *)((char *)call - offsetof(struct disk_service, stop));

	if (!s->cached) {
		on_detached(call, 0, 0);
		return;
	}
	/* A lane fills the cache after it has answered: it must be through with that. */
	s->last = disk_share_leave(s->share);
	s->stop.done = on_detached;
	s->lanes_detach(s->ops_ctx, s->last ? s->share->cache : NULL, &s->stop);
}

void disk_service_end(struct disk_service *s, struct backend_call *call)
{
	s->whole = call;
	s->stop.done = on_stopped;
	if (s->nbd)
		nbd_server_stop(s->nbd, &s->stop);
	else
		vhost_server_stop(s->vhost, &s->stop);
}

const struct blk *disk_service_blk(const struct disk_service *s)
{
	return s->blk;
}

const struct disk_swap *disk_service_swap(const struct disk_service *s)
{
	return s->swap;
}

const struct disk_cached *disk_service_cached(const struct disk_service *s)
{
	return s->cached;
}

unsigned disk_service_sharers(const struct disk_service *s)
{
	return s->share ? s->share->disks : 0;
}

const struct vhost_server *disk_service_vhost(const struct disk_service *s)
{
	return s->vhost;
}

const struct nbd_server *disk_service_nbd(const struct disk_service *s)
{
	return s->nbd;
}

uint64_t disk_service_connected(const struct disk_service *s)
{
	return stat_get(s->nbd ? &nbd_server_stats(s->nbd)->connected
			       : &vhost_server_stats(s->vhost)->connected);
}
