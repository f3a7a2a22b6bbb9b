/* What the socket front end and the registry of pools ask of the daemon: lanes, accounts, files. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client-backend/daemon.h"
#include "lib/core/log.h"

static void pools_lanes_add(
	void *ctx, const struct engine_pool_desc *desc, struct backend_call *call)
{
	struct lane_msg m = {.type = LANE_POOL_ADD, .pool = *desc};

	lanes_call(ctx, &m, 0, call);
}

static void pools_lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	struct lane_msg m = {.type = LANE_POOL_DESTROY, .pool_id = id};
	struct daemon *d = ctx;

	if (d->reserves)
		reserves_pool_ended(d->reserves, id);
	lanes_call(ctx, &m, -ENOENT, call);
}

static void pools_lanes_pages(void *ctx, uint32_t id, struct backend_call *call)
{
	struct lane_msg m = {.type = LANE_POOL_PAGES, .pool_id = id};

	lanes_call(ctx, &m, 0, call);
}

static int pools_reserve_ids(void *ctx, uint32_t next_id)
{
	struct daemon *d = ctx;
	int r = identity_pool_ids_store(d->cfg.state_dir, next_id);

	if (r < 0)
		log_error_limited(
			"pools", "cannot write %s/pool-ids: %s", d->cfg.state_dir, strerror(-r));
	return r;
}

int daemon_pools_rights(void *ctx, unsigned account, uint32_t flags, unsigned *max_pools)
{
	const struct fallowd_client_config *c =
		accounts_rights(((struct daemon *)ctx)->accounts, account);
	bool kind = flags & ENGINE_POOL_PERSISTENT ? c->persistent : c->ephemeral;

	*max_pools = c->max_pools;
	return kind && (c->shared || !(flags & ENGINE_POOL_SHARED)) ? 0 : -EPERM;
}

const struct pools_ops daemon_pools_ops = {
	.lanes_add = pools_lanes_add,
	.lanes_destroy = pools_lanes_destroy,
	.lanes_pages = pools_lanes_pages,
	.reserve_ids = pools_reserve_ids,
};

static void reserves_lane(void *ctx, unsigned lane, uint32_t pool,
	const struct engine_reservation *r, bool keep_asking, struct backend_call *call)
{
	struct lane_msg m = {.type = LANE_POOL_RESERVE,
		.call = call,
		.reserve = {.pool = pool, .keep_asking = keep_asking, .value = *r}};

	lane_send(ctx, lane, &m);
}

const struct reserves_ops daemon_reserves_ops = {.lane_reserve = reserves_lane};

static int socket_client_identity(
	void *ctx, const struct ucred *peer, char identity[ENGINE_NAME_BYTES], unsigned *account)
{
	struct daemon *d = ctx;

	snprintf(identity, ENGINE_NAME_BYTES, "uid:%u", peer->uid);
	return accounts_of_uid(d->accounts, peer->uid, account);
}

static void session_send(void *ctx, unsigned lane, enum lane_msg_type type,
	struct socket_attachment *a, struct backend_call *call)
{
	struct lane_msg m = {.type = type, .call = call, .session = a};

	lane_send(ctx, lane, &m);
}

static void socket_lane_attach_op(
	void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call)
{
	session_send(ctx, lane, LANE_SESSION_ATTACH, a, call);
}

static void socket_lane_detach_op(
	void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call)
{
	session_send(ctx, lane, LANE_SESSION_DETACH, a, call);
}

static void socket_account_usage(
	void *ctx, unsigned account, uint64_t *used_pages, uint64_t *limit_pages)
{
	const struct engine_account *a = accounts_get(((struct daemon *)ctx)->accounts, account);

	*used_pages = a ? atomic_load(&a->quota->used_pages) : 0;
	*limit_pages = a ? atomic_load(&a->quota->limit_pages) : 0;
}

const struct socket_server_ops daemon_socket_ops = {
	.client_identity = socket_client_identity,
	.lane_attach = socket_lane_attach_op,
	.lane_detach = socket_lane_detach_op,
	.account_usage = socket_account_usage,
};
