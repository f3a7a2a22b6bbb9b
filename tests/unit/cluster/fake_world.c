/* Donors, a network and lanes under virtual time, for the tests of the cluster logic. */
#include "tests/unit/cluster/fake_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(cond, ...)                                                                         \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "at %llu ms: ", (unsigned long long)(w->now_ns / MS));     \
			fprintf(stderr, __VA_ARGS__);                                              \
			fprintf(stderr, "\n");                                                     \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

uint64_t world_random(struct world *w)
{
	uint64_t z = (w->seed += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t env_now(void *ctx)
{
	return ((struct world *)ctx)->now_ns;
}

static uint64_t env_rand(void *ctx)
{
	return world_random(ctx);
}

static void queue_put(struct world *w, struct world_queue *q, const struct control_msg *m)
{
	REQUIRE(q->count < WORLD_QUEUE, "a queue of messages is full");
	struct world_msg *slot = &q->msg[(q->head + q->count) % WORLD_QUEUE];
	uint64_t at = w->now_ns + (w->delay_max_ns ? world_random(w) % w->delay_max_ns : 0);

	if (q->count) {
		uint64_t before = q->msg[(q->head + q->count - 1) % WORLD_QUEUE].at_ns;
		at = at < before ? before : at;
	}
	slot->at_ns = at;
	slot->m = *m;
	q->count++;
}

/* ---- what the cluster asks for ---- */

static void op_connect(void *ctx, unsigned donor)
{
	struct world *w = ctx;

	REQUIRE(!w->connecting[donor] && !w->donor[donor].session, "connect twice");
	w->connects++;
	w->connecting[donor] = true;
	w->connect_at_ns[donor] = w->now_ns + 1 * MS;
}

static void session_drop(struct world *w, unsigned donor)
{
	w->connecting[donor] = false;
	w->donor[donor].session = w->donor[donor].helloed = false;
	w->to[donor].count = w->from[donor].count = 0;
}

static void op_disconnect(void *ctx, unsigned donor)
{
	struct world *w = ctx;

	w->disconnects++;
	session_drop(w, donor);
}

static void op_send(void *ctx, unsigned donor, const struct control_msg *m)
{
	struct world *w = ctx;

	REQUIRE(w->donor[donor].session || w->connecting[donor], "sent without a session");
	w->sent[donor][m->type]++;
	queue_put(w, &w->to[donor], m);
}

static void op_data_open(
	void *ctx, unsigned donor, enum cluster_transport t, uint16_t port, const uint64_t token[2])
{
	struct world *w = ctx;

	REQUIRE(!w->data_open[donor], "data_open twice");
	w->data_open[donor] = true;
	w->transport[donor] = t;
}

static void op_data_close(void *ctx, unsigned donor)
{
	struct world *w = ctx;

	REQUIRE(w->data_open[donor], "data_close of what is not open");
	w->data_open[donor] = false;
}

static struct lane_region *region_of(struct world *w, const struct engine_region_desc *d)
{
	for (unsigned i = 0; i < WORLD_LEASES; i++) {
		struct lane_region *r = &w->region[d->donor][i];
		if (r->used && r->id == d->region_id && r->epoch == d->epoch)
			return r;
	}
	return NULL;
}

static void op_region_add(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	struct world *w = ctx;

	REQUIRE(!region_of(w, d), "a region was given twice");
	REQUIRE(!strcmp(d->donor_name, w->donor_cfg[d->donor].name), "wrong donor name");
	w->adds++;
	for (unsigned i = 0; i < WORLD_LEASES; i++) {
		struct lane_region *r = &w->region[d->donor][i];
		if (r->used)
			continue;
		*r = (struct lane_region){.used = true,
			.bound = true,
			.lane = lane,
			.id = d->region_id,
			.epoch = d->epoch,
			.rkey = d->rkey};
		return;
	}
	REQUIRE(false, "the lanes hold too many regions");
}

static void op_region_bind(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	struct world *w = ctx;
	struct lane_region *r = region_of(w, d);

	REQUIRE(r && r->lane == lane, "bind of a region that the lane does not hold");
	w->binds++;
	r->bound = true;
	r->rkey = d->rkey;
}

static void op_region_revoke(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	struct world *w = ctx;
	struct lane_region *r = region_of(w, d);

	REQUIRE(r && r->lane == lane, "revoke of a region that the lane does not hold");
	w->revokes++;
	r->revoking = true;
	r->spare = false;
}

static void op_region_lost(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	struct world *w = ctx;
	struct lane_region *r = region_of(w, d);

	REQUIRE(r && r->lane == lane, "loss of a region that the lane does not hold");
	w->losts++;
	r->used = false;
}

static void op_donor_state(void *ctx, unsigned donor, bool up, bool suspect)
{
	struct world *w = ctx;

	w->up[donor] = up;
	w->suspect[donor] = suspect;
}

static const struct cluster_ops world_ops = {
	.connect = op_connect,
	.disconnect = op_disconnect,
	.send = op_send,
	.data_open = op_data_open,
	.data_close = op_data_close,
	.region_add = op_region_add,
	.region_bind = op_region_bind,
	.region_revoke = op_region_revoke,
	.region_lost = op_region_lost,
	.donor_state = op_donor_state,
};

/* ---- donors ---- */

void world_donor_send(struct world *w, unsigned donor, const struct control_msg *m)
{
	if (w->donor[donor].session)
		queue_put(w, &w->from[donor], m);
}

static struct control_lease lease_wire(
	const struct world *w, const struct fake_donor *d, const struct fake_lease *l)
{
	return (struct control_lease){.region_id = l->id,
		.epoch = l->epoch,
		.len_bytes = REGION,
		.ttl_ms = (uint32_t)d->ttl_ms,
		.tcp_key = l->key,
		.revoking = l->revoking,
		.revoke_ms = l->revoking ? (uint32_t)((l->revoke_ns - w->now_ns) / MS) : 0};
}

static void donor_list(struct world *w, unsigned donor)
{
	struct fake_donor *d = &w->donor[donor];
	static struct control_msg m;

	memset(&m, 0, sizeof(m));
	m.type = CONTROL_LEASES;
	/* In parts, so that `more` is exercised. */
	for (unsigned i = 0; i < WORLD_LEASES; i++) {
		if (!d->lease[i].used)
			continue;
		if (m.leases.count == 5) {
			m.leases.more = true;
			world_donor_send(w, donor, &m);
			m.leases.count = 0;
			m.leases.more = false;
		}
		d->lease[i].expires_ns = w->now_ns + d->ttl_ms * MS;
		m.leases.lease[m.leases.count++] = lease_wire(w, d, &d->lease[i]);
	}
	world_donor_send(w, donor, &m);
}

static void donor_stats(struct world *w, unsigned donor)
{
	struct fake_donor *d = &w->donor[donor];
	uint64_t leased = world_donor_leases(w, donor);
	struct control_msg m = {.type = CONTROL_STATS,
		.stats = {.total_bytes = d->capacity * REGION,
			.leased_bytes = leased * REGION,
			.free_bytes = leased < d->capacity ? (d->capacity - leased) * REGION : 0,
			.spare_bytes = d->others * REGION}};

	world_donor_send(w, donor, &m);
}

static void donor_hello(struct world *w, unsigned donor)
{
	struct fake_donor *d = &w->donor[donor];
	struct control_msg m = {.type = CONTROL_HELLO_ACK,
		.hello_ack = {.version = CONTROL_VERSION,
			.token = {1, 2},
			.boot_id = d->boot_id,
			.tcp_port = 7001,
			.lease_ttl_ms = (uint32_t)d->ttl_ms,
			.region_bytes = REGION}};

	d->helloed = true;
	/* A donor that knows a client again may register its regions anew: other keys. */
	for (unsigned i = 0; i < WORLD_LEASES; i++)
		d->lease[i].key++;
	world_donor_send(w, donor, &m);
	donor_list(w, donor);
	donor_stats(w, donor);
}

static void donor_grant(struct world *w, unsigned donor, uint64_t request_id, bool ephemeral)
{
	struct fake_donor *d = &w->donor[donor];
	struct control_msg m = {
		.type = CONTROL_LEASE_GRANT, .lease_grant = {.request_id = request_id}};

	if (d->draining) {
		m.lease_grant.status = -ESHUTDOWN;
	} else if (world_donor_leases(w, donor) >= d->capacity) {
		m.lease_grant.status = -ENOSPC;
		if (!ephemeral && d->others > 0) {
			d->others--;
			d->capacity++;
		}
	} else {
		for (unsigned i = 0; i < WORLD_LEASES; i++) {
			struct fake_lease *l = &d->lease[i];
			if (l->used)
				continue;
			*l = (struct fake_lease){.used = true,
				.id = i,
				.epoch = ++d->epoch,
				.key = world_random(w) | 1,
				.expires_ns = w->now_ns + d->ttl_ms * MS};
			m.lease_grant.lease = lease_wire(w, d, l);
			break;
		}
	}
	world_donor_send(w, donor, &m);
	donor_stats(w, donor);
}

static void donor_renewed(struct world *w, struct fake_donor *d, const struct control_msg *m)
{
	memset(d->spare_id, 0, sizeof(d->spare_id));
	d->spare = m->lease_renew.count;
	for (unsigned i = 0; i < d->spare; i++) {
		uint64_t id = m->lease_renew.spare[i];

		REQUIRE(id < WORLD_LEASES && !d->spare_id[id], "a spare region is named twice");
		d->spare_id[id] = true;
	}
}

static void donor_message(struct world *w, unsigned donor, const struct control_msg *m)
{
	struct fake_donor *d = &w->donor[donor];

	REQUIRE(d->helloed == (m->type != CONTROL_HELLO), "the backend broke the order");
	switch (m->type) {
	case CONTROL_HELLO:
		donor_hello(w, donor);
		return;
	case CONTROL_HEARTBEAT:
		world_donor_send(w, donor, m);
		return;
	case CONTROL_LEASE_REQUEST:
		if (d->mute)
			return;
		d->asked_ephemeral += m->lease_request.ephemeral;
		donor_grant(w, donor, m->lease_request.request_id, m->lease_request.ephemeral);
		return;
	case CONTROL_LEASE_RENEW:
		donor_renewed(w, d, m);
		donor_list(w, donor);
		return;
	case CONTROL_LEASE_RELEASE:
	case CONTROL_REVOKE_DONE:
		for (unsigned i = 0; i < WORLD_LEASES; i++)
			if (d->lease[i].used && d->lease[i].id == m->lease_release.region_id &&
				d->lease[i].epoch == m->lease_release.epoch)
				d->lease[i].used = false;
		donor_stats(w, donor);
		return;
	default:
		REQUIRE(false, "the backend sent message type %d", (int)m->type);
	}
}

void world_donor_revoke(struct world *w, unsigned donor, unsigned lease, uint32_t deadline_ms)
{
	struct fake_lease *l = &w->donor[donor].lease[lease];
	struct control_msg m = {.type = CONTROL_REVOKE,
		.revoke = {.region_id = l->id, .epoch = l->epoch, .deadline_ms = deadline_ms}};

	if (!l->used || l->revoking)
		return;
	l->revoking = true;
	l->revoke_ns = w->now_ns + deadline_ms * MS;
	if (w->donor[donor].helloed)
		world_donor_send(w, donor, &m);
}

void world_session_cut(struct world *w, unsigned donor)
{
	bool had = w->donor[donor].session || w->connecting[donor];

	session_drop(w, donor);
	if (had)
		cluster_disconnected(w->c, donor);
}

void world_donor_crash(struct world *w, unsigned donor)
{
	w->donor[donor].running = false;
	memset(w->donor[donor].lease, 0, sizeof(w->donor[donor].lease));
	world_session_cut(w, donor);
}

void world_donor_start(struct world *w, unsigned donor)
{
	w->donor[donor].running = true;
	w->donor[donor].hung = false;
	w->donor[donor].draining = false;
	w->donor[donor].boot_id = world_random(w) | 1;
	w->donor[donor].epoch = world_random(w) | 1;
}

/* Leases whose time is over, or whose grace is. */
static void donor_expire(struct world *w, unsigned donor)
{
	struct fake_donor *d = &w->donor[donor];

	for (unsigned i = 0; i < WORLD_LEASES; i++) {
		struct fake_lease *l = &d->lease[i];
		if (l->used &&
			(w->now_ns >= l->expires_ns || (l->revoking && w->now_ns >= l->revoke_ns)))
			l->used = false;
	}
}

/* ---- time ---- */

static void connections_run(struct world *w, unsigned i)
{
	if (!w->connecting[i] || w->now_ns < w->connect_at_ns[i])
		return;
	w->connecting[i] = false;
	w->donor[i].session = w->donor[i].running;
	if (w->donor[i].running)
		cluster_connected(w->c, i);
	else
		cluster_disconnected(w->c, i);
}

static bool deliver_one(struct world *w, unsigned i)
{
	struct world_queue *q = &w->from[i];
	static struct control_msg m;

	if (q->count && q->msg[q->head].at_ns <= w->now_ns && w->donor[i].session) {
		m = q->msg[q->head].m;
		q->head = (q->head + 1) % WORLD_QUEUE;
		q->count--;
		if (cluster_message(w->c, i, &m) < 0) {
			w->protos++;
			session_drop(w, i);
			cluster_disconnected(w->c, i);
		}
		return true;
	}
	q = &w->to[i];
	if (w->automatic && w->donor[i].session && !w->donor[i].hung && q->count &&
		q->msg[q->head].at_ns <= w->now_ns) {
		m = q->msg[q->head].m;
		q->head = (q->head + 1) % WORLD_QUEUE;
		q->count--;
		donor_message(w, i, &m);
		return true;
	}
	return false;
}

void world_tick(struct world *w)
{
	w->tick_ns = cluster_tick(w->c);
}

void world_run(struct world *w, uint64_t duration_ns)
{
	uint64_t end = w->now_ns + duration_ns;

	for (;;) {
		bool busy = false;

		for (unsigned i = 0; i < w->ndonors; i++) {
			donor_expire(w, i);
			connections_run(w, i);
			busy |= deliver_one(w, i);
		}
		world_tick(w);
		if (busy)
			continue;
		if (w->now_ns >= end)
			return;
		uint64_t step = 5 * MS;
		if (w->tick_ns > w->now_ns && w->tick_ns - w->now_ns < step)
			step = w->tick_ns - w->now_ns;
		w->now_ns += step;
	}
}

/* ---- lanes ---- */

static struct engine_region_desc lane_desc(
	const struct world *w, unsigned donor, const struct lane_region *r)
{
	struct engine_region_desc d = {.region_id = r->id,
		.epoch = r->epoch,
		.donor = (uint16_t)donor,
		.len_bytes = REGION};

	memcpy(d.donor_name, w->donor_cfg[donor].name, sizeof(d.donor_name));
	return d;
}

void world_lane_spare(struct world *w, unsigned donor, struct lane_region *r, bool spare)
{
	struct engine_region_desc d = lane_desc(w, donor, r);

	r->spare = spare && !r->revoking;
	cluster_region_spare(w->c, r->lane, &d, spare);
}

void world_lane_release(struct world *w, unsigned donor, struct lane_region *r)
{
	struct engine_region_desc d = lane_desc(w, donor, r);

	r->used = r->spare = false;
	cluster_region_released(w->c, r->lane, &d);
}

unsigned world_lane_regions(const struct world *w, unsigned donor)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_LEASES; i++)
		n += w->region[donor][i].used;
	return n;
}

unsigned world_donor_leases(const struct world *w, unsigned donor)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_LEASES; i++)
		n += w->donor[donor].lease[i].used;
	return n;
}

struct cluster_donor_info world_info(const struct world *w, unsigned donor)
{
	struct cluster_donor_info info;

	cluster_donor_info(w->c, donor, &info);
	return info;
}

void world_check(struct world *w)
{
	uint64_t held = 0;

	for (unsigned i = 0; i < w->ndonors; i++) {
		struct cluster_donor_info info = world_info(w, i);
		unsigned n = world_lane_regions(w, i), revoking = 0, spare = 0;

		REQUIRE(info.leased_bytes == n * REGION, "donor %u: books say %llu, lanes hold %u",
			i, (unsigned long long)(info.leased_bytes / REGION), n);
		for (unsigned k = 0; k < WORLD_LEASES; k++) {
			const struct lane_region *r = &w->region[i][k];
			revoking += r->used && r->revoking;
			spare += r->used && r->spare;
		}
		REQUIRE(info.spare_bytes == spare * REGION, "donor %u: spare differs", i);
		REQUIRE(info.revoking_bytes == revoking * REGION, "donor %u: revoking differs", i);
		held += info.leased_bytes;
		/* No region outlives its lease by our clock: the donor's clock started later. A
		 * donor that broke its word (crash, forced taking) is told apart by the epoch being
		 * gone. */
		for (unsigned k = 0; k < WORLD_LEASES; k++)
			for (unsigned j = 0;
				w->region[i][k].used && w->region[i][k].bound && j < WORLD_LEASES;
				j++) {
				const struct fake_lease *l = &w->donor[i].lease[j];
				REQUIRE(!l->used || l->id != w->region[i][k].id ||
						l->epoch != w->region[i][k].epoch ||
						l->expires_ns > w->now_ns,
					"donor %u: a lane uses an expired lease", i);
			}
		REQUIRE(w->up[i] || !world_info(w, i).leased_bytes || !w->data_open[i],
			"donor %u: data open but told down", i);
	}
	REQUIRE(held <= w->cfg.max_lease_bytes, "more is leased than allowed");
}

/* ---- beginning and end ---- */

void world_cluster_new(struct world *w)
{
	int r = cluster_new(&w->cfg, w->donor_cfg, w->ndonors, &w->env, &world_ops, w, &w->c);

	REQUIRE(r == 0, "cluster_new: %d", r);
	for (unsigned i = 0; i < w->ndonors; i++) {
		for (unsigned k = 0; k < WORLD_LEASES; k++) {
			struct lane_region *lr = &w->region[i][k];
			if (!lr->used)
				continue;
			struct engine_region_desc d = {.region_id = lr->id,
				.epoch = lr->epoch,
				.len_bytes = REGION,
				.rkey = lr->rkey,
				.donor = 77};
			memcpy(d.donor_name, w->donor_cfg[i].name, sizeof(d.donor_name));
			lr->bound = lr->revoking = false;
			cluster_adopt(w->c, lr->lane, &d);
		}
	}
	cluster_start(w->c);
	world_tick(w);
}

void world_cluster_restart(struct world *w)
{
	cluster_delete(w->c);
	for (unsigned i = 0; i < w->ndonors; i++) {
		session_drop(w, i);
		w->data_open[i] = w->up[i] = false;
		for (unsigned k = 0; k < WORLD_LEASES; k++)
			w->region[i][k].spare = false;
	}
	world_cluster_new(w);
}

void world_init(struct world *w, uint64_t seed, unsigned ndonors)
{
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->now_ns = 1000000 * MS;
	w->env = (struct env){.now_ns = env_now, .random = env_rand, .ctx = w};
	w->ndonors = ndonors;
	w->automatic = true;
	w->cfg = (struct cluster_config){.name = "host",
		.identity = {1},
		.secret = {2},
		.lanes = WORLD_LANES,
		.max_lease_bytes = 1000 * REGION,
		.heartbeat_ns = 200 * MS,
		.suspect_ns = 600 * MS,
		.dead_ns = 5000 * MS,
		.connect_timeout_ns = 1000 * MS,
		.reconnect_min_ns = 50 * MS,
		.reconnect_max_ns = 1000 * MS};
	for (unsigned i = 0; i < ndonors; i++) {
		struct cluster_donor_config *dc = &w->donor_cfg[i];
		snprintf(dc->name, sizeof(dc->name), "donor-%u", i);
		snprintf(dc->host, sizeof(dc->host), "127.0.0.1");
		dc->port = (uint16_t)(7000 + i);
		w->donor[i].capacity = 8;
		w->donor[i].ttl_ms = 9000;
		world_donor_start(w, i);
		w->to[i].msg = calloc(WORLD_QUEUE, sizeof(struct world_msg));
		w->from[i].msg = calloc(WORLD_QUEUE, sizeof(struct world_msg));
	}
}

void world_fini(struct world *w)
{
	cluster_delete(w->c);
	for (unsigned i = 0; i < w->ndonors; i++) {
		free(w->to[i].msg);
		free(w->from[i].msg);
	}
}
