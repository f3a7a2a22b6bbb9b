/* A fallowd: lanes with real engines and remote tiers, the real cluster logic, and what joins them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define MESSAGE_NS (5 * US) /* between the control thread and a lane */

static event_fn lane_event, tick_event, lane_message_event, control_message_event, progress_event,
	reconnect_event;

/* ---- messages between control and lanes ---- */

enum message_kind {
	TO_ADD,
	TO_BIND,
	TO_REVOKE,
	TO_LOST,
	TO_STATE,
	FROM_WANT,
	FROM_SPARE,
	FROM_RELEASED,
	FROM_BAD
};

struct lane_message {
	enum message_kind kind;
	struct lane *lane;
	uint64_t life;
	struct engine_region_desc desc;
	unsigned donor, count;
	bool up, suspect;
	bool ephemeral; /* FROM_WANT */
	bool spare;	/* FROM_SPARE */
};

static void post(struct lane *l, const struct lane_message *m)
{
	struct lane_message *copy = malloc(sizeof(*copy));

	if (!copy)
		abort();
	*copy = *m;
	copy->lane = l;
	copy->life = l->b->life;
	sim_after(l->sim, MESSAGE_NS,
		m->kind < FROM_WANT ? lane_message_event : control_message_event, copy, 0);
}

static void cluster_arm(struct backend *b, uint64_t next)
{
	if (next == UINT64_MAX || (b->tick_at_ns > b->sim->now_ns && b->tick_at_ns <= next))
		return;
	b->tick_at_ns = next > b->sim->now_ns ? next : b->sim->now_ns + 1;
	sim_at(b->sim, b->tick_at_ns, tick_event, b, b->life);
}

static void tick_event(struct sim *sim, void *object, uint64_t life)
{
	struct backend *b = object;

	if (!b->up || b->life != life || sim->now_ns < b->tick_at_ns)
		return;
	b->tick_at_ns = 0;
	cluster_arm(b, cluster_tick(b->cluster));
}

/*
 * What the cluster logic gives up counts as destroyed, but it needs a reason: the donor has taken
 * it, or was out of reach, or the session suffered, lately. A lease that the donor has ended was
 * counted then.
 */
static void region_given_up(struct lane *l, unsigned row, const struct engine_region_desc *desc)
{
	struct sim *sim = l->sim;
	unsigned d = (unsigned)(desc->donor_name[5] - '0');

	if (donor_has_lease(&sim->donor[d], desc->region_id, desc->epoch, l->b->index)) {
		if (sim->now_ns > sim->link[l->b->index][d].trouble_ns + 15 * S)
			sim_fail(sim, "backend %u gives up a region of donor %u for no reason",
				l->b->index, d);
		ref_loss(&l->b->ref);
	}
	engine_region_lost(l->e, row);
}

static void donor_told(struct lane *l, unsigned donor, bool up, bool suspect)
{
	l->donor_down[donor] = !up || suspect;
	engine_donor_state(l->e, donor, up, suspect);
}

static void lane_message_event(struct sim *sim, void *object, uint64_t a)
{
	struct lane_message *m = object;
	struct lane *l = m->lane;
	int row;

	if (!l->b->up || l->b->life != m->life)
		goto out;
	row = m->kind == TO_ADD || m->kind == TO_STATE
		      ? -1
		      : engine_region_find(
				l->e, m->desc.donor_name, m->desc.region_id, m->desc.epoch);
	l->taken |= m->kind == TO_REVOKE || m->kind == TO_LOST;
	if (m->kind == TO_STATE)
		donor_told(l, m->donor, m->up, m->suspect);
	else if (m->kind == TO_ADD && engine_region_add(l->e, &m->desc) < 0)
		post(l, &(struct lane_message){.kind = FROM_RELEASED, .desc = m->desc});
	else if (m->kind == TO_BIND && row >= 0)
		engine_region_bind(l->e, (unsigned)row, m->desc.donor, m->desc.domain, m->desc.rkey,
			m->desc.raddr);
	else if (m->kind == TO_REVOKE && row >= 0)
		engine_region_revoke(l->e, (unsigned)row);
	else if (m->kind == TO_LOST && row >= 0)
		region_given_up(l, (unsigned)row, &m->desc);
	lane_wake(l, sim->now_ns);
out:
	free(m);
}

static void control_message_event(struct sim *sim, void *object, uint64_t a)
{
	struct lane_message *m = object;
	struct backend *b = m->lane->b;

	if (b->up && b->life == m->life) {
		if (m->kind == FROM_WANT)
			cluster_want_regions(b->cluster, m->lane->index, m->count, m->ephemeral);
		else if (m->kind == FROM_SPARE)
			cluster_region_spare(b->cluster, m->lane->index, &m->desc, m->spare);
		else if (m->kind == FROM_RELEASED)
			cluster_region_released(b->cluster, m->lane->index, &m->desc);
		else
			cluster_bad_data(b->cluster, m->donor);
		cluster_arm(b, sim->now_ns);
	}
	free(m);
}

static void op_want(void *ctx, unsigned count, bool ephemeral)
{
	post(ctx,
		&(struct lane_message){.kind = FROM_WANT, .count = count, .ephemeral = ephemeral});
}

static void op_spare(void *ctx, const struct engine_region_desc *region, bool spare)
{
	post(ctx, &(struct lane_message){.kind = FROM_SPARE, .desc = *region, .spare = spare});
}

static void op_released(void *ctx, const struct engine_region_desc *region)
{
	post(ctx, &(struct lane_message){.kind = FROM_RELEASED, .desc = *region});
}

static void op_bad(void *ctx, unsigned donor)
{
	post(ctx, &(struct lane_message){.kind = FROM_BAD, .donor = donor});
}

static const struct engine_ops engine_ops = {
	.io_read = lane_io_read,
	.io_write = lane_io_write,
	.io_kick = lane_io_kick,
	.want_regions = op_want,
	.region_spare = op_spare,
	.region_released = op_released,
	.donor_bad_data = op_bad,
};

/* ---- what the cluster logic calls ---- */

static void op_connect(void *ctx, unsigned donor)
{
	struct backend *b = ctx;

	if (b->session[donor])
		sim_fail(b->sim, "backend %u connects to donor %u twice", b->index, donor);
	b->session[donor] = session_connect(b->sim, b->index, donor);
}

static void op_disconnect(void *ctx, unsigned donor)
{
	struct backend *b = ctx;

	if (b->session[donor])
		session_close(b->sim, b->session[donor], true);
}

static void op_send(void *ctx, unsigned donor, const struct control_msg *m)
{
	struct backend *b = ctx;

	if (!b->session[donor])
		sim_fail(b->sim, "backend %u sends to donor %u with no session", b->index, donor);
	else
		session_send(b->sim, b->session[donor], 0, m);
}

static void conn_open(struct lane *l, unsigned donor, unsigned channel)
{
	struct data_path *p = &l->b->data[donor];
	struct transport_peer peer = {
		.port = p->port, .token = {p->token[0], p->token[1]}, .timeout_ms = 2000};

	peer.host[0] = (char)('0' + donor);
	wire_channel((enum tier_remote_channel)channel);
	if (transport_sim.connect(l->transport, &peer, &l->conn[donor][channel]))
		abort();
	sim_after(l->sim, MS, progress_event, l, donor * TIER_REMOTE_CHANNELS + channel);
}

static void conn_close(struct lane *l, unsigned donor, unsigned channel)
{
	struct transport_conn *c = l->conn[donor][channel];

	if (!c)
		return;
	if (l->attached[donor][channel])
		tier_remote_detach(l->tier, donor, (enum tier_remote_channel)channel);
	transport_sim.destroy(c);
	l->conn[donor][channel] = NULL;
	l->attached[donor][channel] = false;
}

static void progress_event(struct sim *sim, void *object, uint64_t which)
{
	struct lane *l = object;
	unsigned donor = (unsigned)which / TIER_REMOTE_CHANNELS,
		 channel = (unsigned)which % TIER_REMOTE_CHANNELS;
	struct transport_conn *c = l->conn[donor][channel];
	int status;

	if (!l->b->up || !c || l->attached[donor][channel])
		return;
	status = transport_sim.conn_progress(c);
	if (status == -EINPROGRESS) {
		sim_after(sim, MS, progress_event, l, which);
		return;
	}
	if (!status)
		status = tier_remote_attach(
			l->tier, donor, (enum tier_remote_channel)channel, &transport_sim, c);
	if (!status) {
		l->attached[donor][channel] = true;
		lane_wake(l, sim->now_ns);
		return;
	}
	transport_sim.destroy(c);
	l->conn[donor][channel] = NULL;
	sim_after(sim, rng_range(&sim->rng, 20 * MS, 200 * MS), reconnect_event, l, which);
}

static void reconnect_event(struct sim *sim, void *object, uint64_t which)
{
	struct lane *l = object;
	unsigned donor = (unsigned)which / TIER_REMOTE_CHANNELS,
		 channel = (unsigned)which % TIER_REMOTE_CHANNELS;

	if (l->b->up && l->b->data[donor].open && !l->conn[donor][channel])
		conn_open(l, donor, channel);
}

/* The remote tier has ended what was on it; the control thread destroys it and connects anew. */
static void tier_broken(
	void *ctx, unsigned donor, enum tier_remote_channel channel, struct transport_conn *conn)
{
	struct lane *l = ctx;

	if (conn != l->conn[donor][channel])
		sim_fail(l->sim, "the remote tier gave back a connection that it did not have");
	l->conn[donor][channel] = NULL;
	l->attached[donor][channel] = false;
	transport_sim.destroy(conn);
	sim_after(l->sim, 5 * MS, reconnect_event, l, donor * TIER_REMOTE_CHANNELS + channel);
}

static void op_data_open(
	void *ctx, unsigned donor, enum cluster_transport t, uint16_t port, const uint64_t token[2])
{
	struct backend *b = ctx;

	b->data[donor] =
		(struct data_path){.open = true, .port = port, .token = {token[0], token[1]}};
	for (unsigned i = 0; i < b->lanes; i++)
		for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++)
			if (!b->lane[i].conn[donor][c])
				conn_open(&b->lane[i], donor, c);
}

static void op_data_close(void *ctx, unsigned donor)
{
	struct backend *b = ctx;

	b->data[donor].open = false;
	for (unsigned i = 0; i < b->lanes; i++)
		for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++)
			conn_close(&b->lane[i], donor, c);
}

static void to_lane(
	void *ctx, unsigned lane, enum message_kind kind, const struct engine_region_desc *d)
{
	post(&((struct backend *)ctx)->lane[lane],
		&(struct lane_message){.kind = kind, .desc = *d});
}

static void op_region_add(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	to_lane(ctx, lane, TO_ADD, d);
}

static void op_region_bind(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	to_lane(ctx, lane, TO_BIND, d);
}

static void op_region_revoke(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	to_lane(ctx, lane, TO_REVOKE, d);
}

static void op_region_lost(void *ctx, unsigned lane, const struct engine_region_desc *d)
{
	struct backend *b = ctx;

	sim_note(b->sim, "b%u gives up region %llu/%llu of %s", b->index,
		(unsigned long long)d->region_id, (unsigned long long)d->epoch, d->donor_name);
	to_lane(ctx, lane, TO_LOST, d);
}

static void op_donor_state(void *ctx, unsigned donor, bool up, bool suspect)
{
	struct backend *b = ctx;

	for (unsigned i = 0; i < b->lanes; i++)
		post(&b->lane[i],
			&(struct lane_message){
				.kind = TO_STATE, .donor = donor, .up = up, .suspect = suspect});
}

static const struct cluster_ops cluster_ops = {
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

void backend_connected(struct backend *b, unsigned donor, bool ok)
{
	if (!b->up)
		return;
	if (ok)
		cluster_connected(b->cluster, donor);
	else
		cluster_disconnected(b->cluster, donor);
	cluster_arm(b, b->sim->now_ns);
}

void backend_message(struct backend *b, unsigned donor, const struct control_msg *m)
{
	if (!b->up)
		return;
	if (cluster_message(b->cluster, donor, m) < 0 && b->session[donor])
		session_close(b->sim, b->session[donor], true);
	cluster_arm(b, b->sim->now_ns);
}

/* ---- lanes ---- */

void lane_wake(struct lane *l, uint64_t at_ns)
{
	if (at_ns < l->sim->now_ns + US)
		at_ns = l->sim->now_ns + US;
	if (l->run_at_ns <= at_ns)
		return;
	l->run_at_ns = at_ns;
	sim_at(l->sim, at_ns, lane_event, l, l->b->life);
}

/* Promises become short when donors take or lose something, never by what others put. */
static void watch_promises(struct lane *l)
{
	const struct engine_stats *s = engine_stats(l->e);
	uint64_t lacking = stat_get(&s->reserved_short_pages);
	bool whole = !stat_get(&s->segments_underreplicated) && !stat_get(&s->regions_revoking);

	for (unsigned d = 0; d < l->sim->cfg.donors; d++)
		whole &= !l->donor_down[d];
	if (!whole)
		l->taken = true;
	if (lacking) {
		l->short_ns = l->sim->now_ns;
		/* A few segments come and go with those half full or being cleaned. */
		if (!l->taken && lacking > (2 + l->b->cfg.moves) * 15)
			sim_fail(l->sim,
				"backend %u lane %u: no room for %llu promised pages, and nothing "
				"was taken",
				l->b->index, l->index, (unsigned long long)lacking);
	} else if (whole) {
		l->taken = false;
	}
}

static void lane_event(struct sim *sim, void *object, uint64_t life)
{
	struct lane *l = object;
	uint64_t next;
	bool more;

	if (!l->b->up || l->b->life != life || sim->now_ns < l->run_at_ns)
		return;
	l->run_at_ns = UINT64_MAX;
	tier_remote_poll(l->tier, 64);
	next = engine_tick(l->e);
	watch_promises(l);
	more = engine_work(l->e);
	engine_kick(l->e);
	tier_remote_kick(l->tier);
	if (more && next > sim->now_ns + 100 * US)
		next = sim->now_ns + 100 * US;
	if (tier_remote_deadline_ns(l->tier) < next)
		next = tier_remote_deadline_ns(l->tier);
	if (next != UINT64_MAX)
		lane_wake(l, next);
}

static int lane_start(struct lane *l)
{
	struct tier_remote_config tc = {.io_timeout_ns = 300 * MS, .broken = tier_broken, .ctx = l};
	struct backend *b = l->b;
	struct engine_config cfg = b->cfg;
	char err[256] = "";

	memset(l->conn, 0, sizeof(l->conn));
	memset(l->attached, 0, sizeof(l->attached));
	l->ios = NULL;
	l->run_at_ns = UINT64_MAX;
	l->taken = true; /* no donor is up yet */
	memset(l->donor_down, true, sizeof(l->donor_down));
	cfg.lane = l->index;
	if (engine_open(l->arena, &cfg, &b->sim->env, &engine_ops, l, &l->e, err, sizeof(err)))
		return sim_fail(b->sim, "engine_open: %s", err);
	for (unsigned a = 0; a < SIM_ACCOUNTS; a++) {
		struct engine_account account = {.weight = a + 1, .quota = &b->quota[a]};

		snprintf(account.name, sizeof(account.name), "account%u", a);
		if (engine_account_set(l->e, a, &account))
			return sim_fail(b->sim, "engine_account_set");
	}
	wire_context(b->sim, b->index, l->index);
	if (transport_sim.open(NULL, 64, &l->transport) ||
		tier_remote_new(&tc, &b->sim->env, &l->tier) ||
		tier_remote_add_transport(l->tier, &transport_sim, l->transport))
		return sim_fail(b->sim, "no memory");
	return 0;
}

/* ---- its life ---- */

int backend_init(struct sim *sim, unsigned index)
{
	struct backend *b = &sim->backend[index];
	struct ref_config m = {.pools = 4,
		.objects = (unsigned)rng_range(&sim->rng, 3, 6),
		.indices = (unsigned)rng_range(&sim->rng, 24, 40),
		.salt = index + 1};
	struct engine_config *c = &b->cfg;

	if (sim->cache)
		m.indices = 160;
	if (sim->hammer)
		m.indices = 96;
	b->sim = sim;
	b->index = index;
	b->lanes = sim->cfg.lanes;
	b->next_pool_id = 1;
	if (ref_init(&b->ref, &m, SIM_REQS))
		return sim_fail(sim, "no memory");
	engine_config_default(c, 16 * SEGMENT_BYTES, 2 * ref_keys(&b->ref));
	c->segment_bytes = SEGMENT_BYTES;
	c->local_segments =
		(uint32_t)(sim->cache ? rng_range(&sim->rng, 16, 24) : rng_range(&sim->rng, 8, 12));
	c->max_pages = 2 * ref_keys(&b->ref);
	c->max_objects = 8 * m.pools * m.objects;
	c->max_segments = 512;
	c->max_regions = 48;
	/* With a full disk, mirrored segments wait for it: not when all copies must come back. */
	c->disk_segments = rng_below(&sim->rng, 2)
				   ? sim->ample ? 128 : (uint32_t)rng_range(&sim->rng, 8, 48)
				   : 0;
	c->fetches = 8;
	c->moves = 4;
	c->lanes = b->lanes;
	c->want_since_ns = b->want_since_ns;
	c->huge_pages = c->lock_memory = false;
	c->hedge_ns = rng_below(&sim->rng, 3) ? 2 * MS : 0;
	c->get_timeout_ns = rng_range(&sim->rng, 500 * MS, 3 * S);
	c->put_wait_ns = rng_below(&sim->rng, 3) ? 20 * MS : 0;
	c->retry_ns = 50 * MS;
	c->cache_timeout_ns = rng_range(&sim->rng, 5 * MS, 500 * MS);
	b->grants = sim->hammer || rng_below(&sim->rng, 2);
	if (b->grants)
		c->put_wait_ns = 5 * S;
	for (unsigned a = 0; a < SIM_ACCOUNTS; a++)
		atomic_store(&b->quota[a].limit_pages, UINT64_MAX);
	for (unsigned i = 0; i < b->lanes; i++) {
		struct lane *l = &b->lane[i];

		l->sim = sim;
		l->b = b;
		l->index = i;
		l->disk = calloc(c->disk_segments ? c->disk_segments : 1, SEGMENT_BYTES);
		snprintf(l->arena, sizeof(l->arena), "%s/b%u-l%u", sim->cfg.dir, index, i);
	}
	return backend_start(b);
}

int backend_start(struct backend *b)
{
	struct sim *sim = b->sim;
	struct cluster_donor_config donors[SIM_DONORS];
	struct cluster_config cfg = {.lanes = b->lanes,
		.max_lease_bytes = 1ull << 30,
		.heartbeat_ns = 200 * MS,
		.suspect_ns = 500 * MS,
		.dead_ns = 1500 * MS,
		.connect_timeout_ns = 1 * S,
		.reconnect_min_ns = 50 * MS,
		.reconnect_max_ns = 1 * S};

	memset(donors, 0, sizeof(donors));
	memset(b->session, 0, sizeof(b->session));
	memset(b->data, 0, sizeof(b->data));
	b->life++;
	sim_note(sim, "b%u starts", b->index);
	for (unsigned d = 0; d < sim->cfg.donors; d++) {
		snprintf(donors[d].name, sizeof(donors[d].name), "donor%u", d);
		donors[d].host[0] = (char)('0' + d);
		donors[d].transport = CLUSTER_TRANSPORT_TCP;
	}
	cfg.identity[0] = (uint8_t)(b->index + 1);
	cfg.secret[0] = (uint8_t)(b->index + 100);
	snprintf(cfg.name, sizeof(cfg.name), "backend%u", b->index);
	for (unsigned a = 0; a < SIM_ACCOUNTS; a++)
		atomic_store(&b->quota[a].used_pages, 0);
	for (unsigned i = 0; i < b->lanes; i++)
		if (lane_start(&b->lane[i]))
			return -EBADMSG;
	if (cluster_new(&cfg, donors, sim->cfg.donors, &sim->env, &cluster_ops, b, &b->cluster))
		return sim_fail(sim, "cluster_new");
	b->up = true;
	b->tick_at_ns = 0;
	for (unsigned i = 0; i < b->lanes; i++)
		for (unsigned r = 0; r < b->cfg.max_regions; r++) {
			const struct engine_region_desc *d = engine_region(b->lane[i].e, r);

			if (d)
				cluster_adopt(b->cluster, i, d);
		}
	free(b->held);
	b->held = NULL;
	b->nheld = 0;
	cluster_start(b->cluster);
	cluster_arm(b, sim->now_ns);
	for (unsigned i = 0; i < b->lanes; i++)
		lane_wake(&b->lane[i], sim->now_ns);
	return client_start(b);
}

static void note_held(struct backend *b)
{
	b->held = calloc((size_t)b->lanes * b->cfg.max_regions, sizeof(*b->held));
	if (!b->held)
		abort();
	for (unsigned i = 0; i < b->lanes; i++)
		for (unsigned r = 0; r < b->cfg.max_regions; r++) {
			const struct engine_region_desc *d = engine_region(b->lane[i].e, r);

			if (d)
				b->held[b->nheld++] = (struct held){
					(unsigned)(d->donor_name[5] - '0'), d->region_id, d->epoch};
		}
}

/* SIGKILL: nothing is told to anybody, sockets close by themselves. */
void backend_crash(struct backend *b)
{
	sim_note(b->sim, "b%u crashes", b->index);
	note_held(b);
	b->up = false;
	for (unsigned i = 0; i < b->lanes; i++) {
		struct lane *l = &b->lane[i];

		lane_io_forget(l);
		for (unsigned d = 0; d < b->sim->cfg.donors; d++)
			for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++)
				conn_close(l, d, c);
		lane_io_orphan(l);
		tier_remote_delete(l->tier);
		transport_sim.close(l->transport);
		b->sim->ephemeral_spilled += stat_get(&engine_stats(l->e)->ephemeral_spilled);
		b->sim->ephemeral_dropped += stat_get(&engine_stats(l->e)->ephemeral_dropped);
		b->sim->ephemeral_kept += stat_get(&engine_stats(l->e)->ephemeral_reinserted);
		engine_abandon(l->e);
		l->e = NULL;
	}
	cluster_delete(b->cluster);
	client_forget(b);
	sessions_of_backend_end(b->sim, b->index);
}

void backend_fini(struct backend *b)
{
	if (b->up)
		backend_crash(b);
	free(b->held);
	for (unsigned i = 0; i < b->lanes; i++) {
		lane_io_free(&b->lane[i]);
		unlink(b->lane[i].arena);
		free(b->lane[i].disk);
	}
	ref_fini(&b->ref);
}

void backend_region_gone(struct backend *b, unsigned donor, uint64_t region_id, uint64_t epoch)
{
	char name[ENGINE_NAME_BYTES];

	snprintf(name, sizeof(name), "donor%u", donor);
	for (unsigned i = 0; b->up && i < b->lanes; i++)
		if (engine_region_find(b->lane[i].e, name, region_id, epoch) >= 0)
			ref_loss(&b->ref);
	for (unsigned i = 0; i < b->nheld; i++)
		if (b->held[i].donor == donor && b->held[i].region_id == region_id &&
			b->held[i].epoch == epoch)
			ref_loss(&b->ref);
}

void backend_messages_free(struct sim *sim)
{
	for (unsigned i = 0; i < sim->heap_len; i++)
		if (sim->heap[i].fn == lane_message_event ||
			sim->heap[i].fn == control_message_event)
			free(sim->heap[i].object);
}
