/* What serves one disk: its pages, virtio-blk over them, and the socket that the guest's QEMU uses.
 */
#include "client-backend/disk_service.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct disk_service {
	struct disk_swap *swap;
	struct blk *blk;
	struct vhost_server *server;
	struct backend_call stop, *whole;
};

void disk_service_lost_path(const char *runtime_dir, uint32_t pool, char path[320])
{
	snprintf(path, 320, "%.255s/disk-%u.lost", runtime_dir, pool);
}

static void service_free(struct disk_service *s)
{
	if (s->server)
		vhost_server_delete(s->server);
	blk_delete(s->blk);
	disk_swap_delete(s->swap);
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

int disk_service_new(const struct disk_service_config *cfg, struct disk_service **out, char *err,
	size_t err_bytes)
{
	const struct fallowd_disk_config *c = cfg->disk;
	struct disk_service *s = calloc(1, sizeof(*s));

	if (!s) {
		snprintf(err, err_bytes, "not enough memory");
		return -ENOMEM;
	}
	struct blk_config bc = {
		.size_bytes = c->size_bytes,
		.block_bytes = ENGINE_PAGE_BYTES,
		.lanes = cfg->lanes,
		.queues = c->queues};
	snprintf(bc.serial, sizeof(bc.serial), "%s", c->serial);
	int r = swap_open(cfg, s, err, err_bytes);
	if (!r) {
		r = blk_new(&bc, &disk_swap_ops, s->swap, cfg->env, &s->blk);
		if (r < 0)
			snprintf(err, err_bytes, "cannot make the device: %s", strerror(-r));
	}
	if (!r) {
		struct vhost_server_config vc = {.name = c->name,
			.path = c->socket,
			.mode = (mode_t)c->mode,
			.queues = c->queues,
			.lanes = cfg->lanes,
			/* Many disks with one queue each use all lanes, too. */
			.first_lane = cfg->pool % cfg->lanes,
			.drain_timeout_ms = cfg->drain_timeout_ms};
		r = vhost_server_new(&vc, cfg->base, cfg->env, &blk_device_ops, s->blk, cfg->ops,
			cfg->ops_ctx, &s->server, err, err_bytes);
	}
	if (r < 0) {
		s->server = NULL;
		service_free(s);
		return r;
	}
	*out = s;
	return 0;
}

static void on_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct disk_service *s =
		(struct disk_service *)((char *)call - offsetof(struct disk_service, stop));
	struct backend_call *whole = s->whole;

	service_free(s);
	whole->done(whole, 0, 0);
}

void disk_service_end(struct disk_service *s, struct backend_call *call)
{
	s->whole = call;
	s->stop.done = on_stopped;
	vhost_server_stop(s->server, &s->stop);
}

const struct blk *disk_service_blk(const struct disk_service *s)
{
	return s->blk;
}

const struct disk_swap *disk_service_swap(const struct disk_service *s)
{
	return s->swap;
}

const struct vhost_server *disk_service_server(const struct disk_service *s)
{
	return s->server;
}
