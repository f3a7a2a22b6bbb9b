/* What serves one disk: its pages, a disk over them, and the socket that its user connects to. */
#ifndef FALLOW_BACKEND_DISK_SERVICE_H
#define FALLOW_BACKEND_DISK_SERVICE_H

#include <sys/types.h>

#include "client-backend/config.h"
#include "client-backend/disk_source.h"
#include "client-backend/frontend/blk.h"
#include "client-backend/frontend/disk_cached.h"
#include "client-backend/frontend/disk_swap.h"
#include "client-backend/frontend/nbd_server.h"
#include "client-backend/frontend/vhost_server.h"

struct disk_service;
struct disk_share; /* a cache that services have together */

/* Beside the arenas, and as long as they: which pages of a pool are lost (disk_swap.h). */
void disk_service_lost_path(const char *runtime_dir, uint32_t pool, char path[320]);

struct disk_service_config {
	const struct fallowd_disk_config *disk; /* socket, serial and size are filled in */
	uint32_t pool;
	struct disk_source *source; /* of a cached disk; the service's from now on, if it is made */
	struct disk_share **shares; /* the list of all services' caches */
	unsigned lanes;
	struct disk_lane *const *lane;
	const char *runtime_dir;
	uint32_t drain_timeout_ms;
	struct event_base *base;
	const struct env *env;
	struct vhost_pinner pinner; /* ops NULL: there is no RDMA device */
	const struct vhost_server_ops *vhost_ops;
	const struct nbd_server_ops *nbd_ops;
	/* Every lane has gone through its loop, and let go of the cache (disk_cache_detach()) where
	 * it is not NULL; then call->done(). */
	void (*lanes_detach)(void *ctx, struct disk_cache *cache, struct backend_call *call);
	void *ops_ctx;
};

/* Control thread; may block for a moment. err gets one sentence on failure. */
int disk_service_new(const struct disk_service_config *cfg, struct disk_service **out, char *err,
	size_t err_bytes);
/* Finishes what is in flight, then frees it; then call->done(0). */
void disk_service_end(struct disk_service *s, struct backend_call *call);

/* For status; control thread. */
const struct blk *disk_service_blk(const struct disk_service *s);
const struct disk_swap *disk_service_swap(const struct disk_service *s); /* NULL: a cached disk */
const struct disk_cached *disk_service_cached(const struct disk_service *s); /* NULL: a swap disk */
/* One of these two is NULL. */
const struct vhost_server *disk_service_vhost(const struct disk_service *s);
const struct nbd_server *disk_service_nbd(const struct disk_service *s);
/* Front ends, or connections. */
uint64_t disk_service_connected(const struct disk_service *s);
/* Disks that have its cache, itself included; 0: a swap disk. */
unsigned disk_service_sharers(const struct disk_service *s);

#endif
