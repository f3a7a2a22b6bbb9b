/* What guests' disks ask of the daemon: accounts, grants, lanes, files; their start and their end.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client-backend/daemon.h"
#include "client-backend/disk_opening.h"
#include "client-backend/disk_service.h"
#include "lib/core/log.h"

#define RETRY_S	       5
#define GRANT_LIMIT_NS (5 * CONFIG_S) /* for donors to lease what a grant needs */

static int op_account(void *ctx, const struct fallowd_disk_config *c, unsigned *account)
{
	return accounts_of_disk(((struct daemon *)ctx)->accounts, c->account, c->name,
		c->quota_bytes, c->weight, account);
}

static void op_reserve(void *ctx, uint32_t pool, uint64_t pages, struct reserves_call *call)
{
	static const uint64_t oid[3] = {DISK_OID0};

	reserves_set(((struct daemon *)ctx)->reserves, pool, oid, pages, GRANT_LIMIT_NS, call);
}

static void queue_send(void *ctx, unsigned lane, enum lane_msg_type type, struct vhost_queue *q,
	struct backend_call *call)
{
	struct lane_msg m = {.type = type, .call = call, .queue = q};

	lane_send(ctx, lane, &m);
}

static void queue_attach(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	queue_send(ctx, lane, LANE_QUEUE_ATTACH, q, call);
}

static void queue_update(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	queue_send(ctx, lane, LANE_QUEUE_UPDATE, q, call);
}

static void queue_detach(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	queue_send(ctx, lane, LANE_QUEUE_DETACH, q, call);
}

static void nbd_send(void *ctx, unsigned lane, enum lane_msg_type type, struct nbd_conn *c,
	struct backend_call *call)
{
	struct lane_msg m = {.type = type, .call = call, .nbd = c};

	lane_send(ctx, lane, &m);
}

static void nbd_attach(void *ctx, unsigned lane, struct nbd_conn *c, struct backend_call *call)
{
	nbd_send(ctx, lane, LANE_NBD_ATTACH, c, call);
}

static void nbd_detach(void *ctx, unsigned lane, struct nbd_conn *c, struct backend_call *call)
{
	nbd_send(ctx, lane, LANE_NBD_DETACH, c, call);
}

static const struct nbd_server_ops nbd_ops = {.lane_attach = nbd_attach, .lane_detach = nbd_detach};

static const struct vhost_server_ops queue_ops = {
	.lane_attach = queue_attach, .lane_update = queue_update, .lane_detach = queue_detach};

static void lanes_detach(void *ctx, struct disk_cache *cache, struct backend_call *call)
{
	struct lane_msg m = {.type = LANE_CACHE_DETACH, .cache = cache};

	lanes_call(ctx, &m, 0, call);
}

static void op_source_open(void *ctx, const struct fallowd_disk_config *c, struct disks_opening *o)
{
	struct daemon *d = ctx;

	disk_opening_start(d->base, c, d->lanes, d->cfg.image_down_timeout_ns, o);
}

static void op_source_close(void *ctx, struct disk_source *s)
{
	disk_source_close(s);
}

static bool op_source_valid(void *ctx, const struct fallowd_disk_config *c,
	const struct disk_source *s, uint32_t pool, const char **why)
{
	return disk_source_valid(s, ((struct daemon *)ctx)->cfg.runtime_dir, pool,
		c->keep == FALLOWD_KEEP_ALWAYS, why);
}

static int op_serve(void *ctx, const struct fallowd_disk_config *c, uint32_t pool,
	struct disk_source *source, struct disk_service **out, char *err, size_t err_bytes)
{
	struct daemon *d = ctx;
	struct disk_lane *lane[FALLOWD_MAX_LANES];
	struct disk_service_config sc = {.disk = c,
		.pool = pool,
		.source = source,
		.shares = &d->disk_shares,
		.lanes = d->lanes,
		.lane = lane,
		.runtime_dir = d->cfg.runtime_dir,
		/* Twice, for a part of a page is read and then written; and the same again for one
		 * that waits for another. A read into guest memory is waited for to its end. */
		.drain_timeout_ms =
			(uint32_t)(4 *
				   (d->cfg.timing.get_timeout_ns + d->cfg.timing.io_timeout_ns +
					   d->cfg.timing.put_wait_ns) /
				   1000000) +
			5000,
		.base = d->base,
		.env = &env_system,
		.vhost_ops = &queue_ops,
		.nbd_ops = &nbd_ops,
		.lanes_detach = lanes_detach,
		.ops_ctx = d};

	for (unsigned i = 0; i < d->lanes; i++)
		lane[i] = lane_disks(d->lane[i]);
	/* What is registered with one lane's transport serves the others', of the same device. */
	sc.pinner.t = lane_transport(d->lane[0], CLUSTER_TRANSPORT_VERBS, &sc.pinner.ops);
	if (!sc.pinner.t)
		sc.pinner.ops = NULL;
	int r = disk_service_new(&sc, out, err, err_bytes);
	if (!r && daemon_socket_group_set(&d->cfg, c->socket) < 0)
		log_warn("disks", "disk %s: guests may not be able to open its socket", c->name);
	return r;
}

static void op_unserve(void *ctx, struct disk_service *s, struct backend_call *call)
{
	disk_service_end(s, call);
}

static bool op_connected(void *ctx, const struct disk_service *s)
{
	return disk_service_connected(s);
}

static void op_forget(void *ctx, uint32_t pool)
{
	char path[320];

	disk_service_lost_path(((struct daemon *)ctx)->cfg.runtime_dir, pool, path);
	unlink(path);
	disk_source_stamp_path(((struct daemon *)ctx)->cfg.runtime_dir, pool, path);
	unlink(path);
}

static const struct disks_ops ops = {.account = op_account,
	.reserve = op_reserve,
	.source_open = op_source_open,
	.source_close = op_source_close,
	.source_valid = op_source_valid,
	.serve = op_serve,
	.unserve = op_unserve,
	.connected = op_connected,
	.forget = op_forget};

/* Maps and stamps of pools that went away with their arenas. */
static void maps_clean(struct daemon *d)
{
	DIR *list = opendir(d->cfg.runtime_dir);
	unsigned pool;

	for (struct dirent *e; list && (e = readdir(list));) {
		int lost = 0, image = 0;

		if (sscanf(e->d_name, "disk-%u.%nlost%n", &pool, &image, &lost) == 1 && image &&
			((lost && !e->d_name[lost]) || !strcmp(e->d_name + image, "image")) &&
			!pools_find(d->pools, pool))
			unlinkat(dirfd(list), e->d_name, 0);
	}
	if (list)
		closedir(list);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	disks_retry(((struct daemon *)arg)->disks);
}

int daemon_disks_start(struct daemon *d)
{
	char err[512];
	struct disks_config dc = {.state_dir = d->cfg.state_dir,
		.socket_path = d->cfg.socket.path,
		.linger_retries = (unsigned)(d->cfg.image_linger_ns / CONFIG_S / RETRY_S) + 1};
	int r = disks_new(&dc, d->pools, &ops, d, &d->disks);

	if (r < 0)
		return r;
	r = disks_load(d->disks, err, sizeof(err));
	if (r < 0)
		log_error("disks", "%s", err);
	if (!r) {
		d->disks_event = event_new(d->base, -1, EV_PERSIST, on_retry, d);
		if (!d->disks_event ||
			event_add(d->disks_event, &(struct timeval){.tv_sec = RETRY_S}) < 0)
			r = -ENOMEM;
	}
	if (r < 0) {
		if (d->disks_event)
			event_free(d->disks_event);
		disks_delete(d->disks);
		d->disks = NULL;
		return r;
	}
	maps_clean(d);
	disks_configure(d->disks, d->cfg.disks, d->cfg.disk_count);
	disks_start(d->disks);
	return 0;
}
