/* Donors and leases of one backend: the entry points of the cluster logic. */
#include "client-backend/cluster/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int cluster_new(const struct cluster_config *cfg, const struct cluster_donor_config *donors,
	unsigned ndonors, const struct env *env, const struct cluster_ops *ops, void *ctx,
	struct cluster **out)
{
	if (ndonors > ENGINE_MAX_DONORS || !cfg->lanes || !cfg->heartbeat_ns ||
		cfg->suspect_ns < cfg->heartbeat_ns || cfg->dead_ns < cfg->suspect_ns ||
		!cfg->connect_timeout_ns || !cfg->reconnect_min_ns ||
		cfg->reconnect_max_ns < cfg->reconnect_min_ns)
		return -EINVAL;
	for (unsigned i = 0; i < ndonors; i++)
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(donors[i].name, donors[j].name))
				return -EINVAL;

	struct cluster *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->donors = calloc(ndonors ? ndonors : 1, sizeof(*c->donors));
	c->lanes = calloc(cfg->lanes, sizeof(*c->lanes));
	if (!c->donors || !c->lanes) {
		cluster_delete(c);
		return -ENOMEM;
	}
	c->cfg = *cfg;
	c->env = env;
	c->ops = ops;
	c->ctx = ctx;
	c->ndonors = ndonors;
	/* Not from 1: an answer to a request of an earlier life must not match. */
	c->next_request_id = env_random(env);
	for (unsigned i = 0; i < ndonors; i++) {
		struct donor *d = &c->donors[i];

		d->cfg = donors[i];
		d->rtt_ns = -1;
		d->reason = "not connected yet";
		d->alive_ns = env_now_ns(env);
		d->domain = lease_domain_hash(
			d->cfg.failure_domain[0] ? d->cfg.failure_domain : d->cfg.name);
	}
	*out = c;
	return 0;
}

void cluster_delete(struct cluster *c)
{
	if (!c)
		return;
	for (unsigned i = 0; c->donors && i < c->ndonors; i++)
		while (c->donors[i].leases)
			lease_free(c, c->donors[i].leases);
	free(c->donors);
	free(c->lanes);
	free(c);
}

void cluster_adopt(struct cluster *c, unsigned lane, const struct engine_region_desc *desc)
{
	for (unsigned i = 0; lane < c->cfg.lanes && i < c->ndonors; i++) {
		struct donor *d = &c->donors[i];

		if (strcmp(d->cfg.name, desc->donor_name))
			continue;
		struct lease *l = NULL;
		if (!lease_find(c, d, desc->region_id, desc->epoch))
			l = lease_new(c, d, desc->region_id, desc->epoch);
		if (!l)
			break; /* held twice, or no memory to keep it: given up */
		l->desc = *desc;
		l->desc.donor = (uint16_t)i;
		l->desc.domain = d->domain;
		l->lane = lane;
		lease_hold(c, l);
		return;
	}
	c->ops->region_lost(c->ctx, lane, desc);
}

void cluster_start(struct cluster *c)
{
	uint64_t now = env_now_ns(c->env);

	c->started = true;
	c->due_ns = now;
	for (unsigned i = 0; i < c->ndonors; i++) {
		struct donor *d = &c->donors[i];

		d->alive_ns = now;
		d->reconnect_ns = now;
		donor_state_tell(c, d);
	}
	cluster_tick(c);
}

void cluster_connected(struct cluster *c, unsigned donor)
{
	if (donor >= c->ndonors || c->donors[donor].phase != DONOR_CONNECTING)
		return;
	struct donor *d = &c->donors[donor];
	struct control_msg m = {.type = CONTROL_HELLO,
		.hello = {.version_min = CONTROL_VERSION, .version_max = CONTROL_VERSION}};
	memcpy(m.hello.identity, c->cfg.identity, sizeof(m.hello.identity));
	memcpy(m.hello.secret, c->cfg.secret, sizeof(m.hello.secret));
	memcpy(m.hello.name, c->cfg.name, sizeof(m.hello.name));
	donor_phase_change(c, d, DONOR_HELLO);
	d->hello_sent_ns = env_now_ns(c->env);
	donor_send(c, d, &m);
}

void cluster_disconnected(struct cluster *c, unsigned donor)
{
	if (donor < c->ndonors && donor_has_session(&c->donors[donor]))
		donor_session_end(c, &c->donors[donor],
			c->donors[donor].phase == DONOR_CONNECTING ? "cannot connect"
								   : "connection lost");
}

static int donor_stats(struct donor *d, const struct control_msg *m)
{
	/* A donor whose target went below what it leased may say leased > total, but never free >
	 * total. */
	if (m->stats.free_bytes > m->stats.total_bytes)
		return -EPROTO;
	if (m->stats.free_bytes > d->stats_free)
		d->refusal[false].until_ns = d->refusal[true].until_ns = 0;
	if (m->stats.spare_bytes > d->stats_spare)
		d->refusal[false].until_ns = 0;
	d->stats_free = m->stats.free_bytes;
	d->stats_spare = m->stats.spare_bytes;
	d->stats_total = m->stats.total_bytes;
	d->stats_known = true;
	return 0;
}

static int donor_dispatch(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	if (m->type == CONTROL_HELLO_ACK)
		return d->acked ? -EPROTO : donor_hello_ack(c, d, m);
	if (!d->acked)
		return -EPROTO;
	if (m->type == CONTROL_LEASES)
		return lease_list(c, d, m);
	if (m->type == CONTROL_STATS)
		return donor_stats(d, m);
	if (!d->reconciled)
		return -EPROTO;
	switch (m->type) {
	case CONTROL_LEASE_GRANT:
		return placement_grant(c, d, m);
	case CONTROL_REVOKE:
		return lease_revoke(c, d, m);
	case CONTROL_HEARTBEAT:
		return donor_heartbeat(c, d, m);
	case CONTROL_DRAIN:
		d->draining = true;
		donor_state_tell(c, d);
		return 0;
	default:
		return -EPROTO;
	}
}

int cluster_message(struct cluster *c, unsigned donor, const struct control_msg *m)
{
	if (donor >= c->ndonors)
		return -EPROTO;
	struct donor *d = &c->donors[donor];
	if (d->phase != DONOR_HELLO && d->phase != DONOR_UP && d->phase != DONOR_SUSPECT)
		return -EPROTO;
	if (m->type == CONTROL_ERROR) {
		donor_session_close(c, d, "the donor ended the session");
		return 0;
	}
	int r = donor_dispatch(c, d, m);
	if (r < 0) {
		if (donor_has_session(d))
			donor_session_end(c, d, "the donor broke the protocol");
		return -EPROTO;
	}
	placement_run(c);
	return 0;
}

/* Nobody called us for long after the time we asked for (a stopped process): the donors are not to
 * blame. */
static void pause_forgive(struct cluster *c, uint64_t now)
{
	if (now - c->due_ns < c->cfg.suspect_ns || now < c->due_ns)
		return;
	uint64_t pause_ns = now - c->due_ns;
	for (unsigned i = 0; i < c->ndonors; i++) {
		struct donor *d = &c->donors[i];

		d->alive_ns = d->alive_ns + pause_ns < now ? d->alive_ns + pause_ns : now;
		if (d->hb_sent_ns)
			d->hb_sent_ns =
				d->hb_sent_ns + pause_ns < now ? d->hb_sent_ns + pause_ns : now;
	}
}

uint64_t cluster_tick(struct cluster *c)
{
	uint64_t now = env_now_ns(c->env), next = CLUSTER_NEVER;

	if (!c->started)
		return CLUSTER_NEVER;
	pause_forgive(c, now);
	for (unsigned i = 0; i < c->ndonors; i++) {
		lease_tick(c, &c->donors[i], now);
		donor_tick(c, &c->donors[i], now);
	}
	placement_run(c);
	for (unsigned i = 0; i < c->ndonors; i++) {
		uint64_t t = donor_next_ns(c, &c->donors[i]);
		uint64_t u = lease_next_ns(c, &c->donors[i]);

		next = t < next ? t : next;
		next = u < next ? u : next;
	}
	uint64_t t = placement_next_ns(c);
	c->due_ns = t < next ? t : next;
	return c->due_ns;
}

void cluster_want_regions(struct cluster *c, unsigned lane, unsigned count, bool ephemeral)
{
	if (lane >= c->cfg.lanes)
		return;
	c->lanes[lane].wanted = count;
	c->lanes[lane].ephemeral = ephemeral;
	placement_run(c);
}

/* The lease that a lane speaks of; NULL: its word crossed our own that the lease is lost. */
static struct lease *lane_lease(
	struct cluster *c, unsigned lane, const struct engine_region_desc *desc)
{
	for (unsigned i = 0; i < c->ndonors; i++) {
		struct donor *d = &c->donors[i];

		if (strcmp(d->cfg.name, desc->donor_name))
			continue;
		struct lease *l = lease_find(c, d, desc->region_id, desc->epoch);
		return l && l->state != LEASE_ENDED && l->lane == lane ? l : NULL;
	}
	return NULL;
}

void cluster_region_spare(
	struct cluster *c, unsigned lane, const struct engine_region_desc *desc, bool spare)
{
	struct lease *l = lane_lease(c, lane, desc);

	if (l && l->state == LEASE_HELD)
		lease_spare_set(c, l, spare);
}

void cluster_region_released(
	struct cluster *c, unsigned lane, const struct engine_region_desc *desc)
{
	struct lease *l = lane_lease(c, lane, desc);

	if (l) {
		lease_end_tell(c, l);
		placement_run(c);
	}
}

void cluster_bad_data(struct cluster *c, unsigned donor)
{
	if (donor >= c->ndonors)
		return;
	struct donor *d = &c->donors[donor];
	d->bad_data++;
	if (!d->bad_points)
		d->bad_decay_ns = env_now_ns(c->env) + CLUSTER_BAD_DECAY_NS;
	if (d->bad_points < CLUSTER_BAD_POINTS)
		d->bad_points++;
	if (d->bad_points >= CLUSTER_BAD_POINTS && !d->distrusted) {
		d->distrusted = true;
		donor_state_tell(c, d);
	}
}

unsigned cluster_donors(const struct cluster *c)
{
	return c->ndonors;
}

void cluster_donor_info(const struct cluster *c, unsigned donor, struct cluster_donor_info *out)
{
	const struct donor *d = &c->donors[donor];

	*out = (struct cluster_donor_info){
		.config = &d->cfg,
		.phase = d->phase == DONOR_UP && d->distrusted ? DONOR_SUSPECT : d->phase,
		.transport = d->transport,
		.draining = d->draining,
		.leased_bytes = d->held_bytes,
		.revoking_bytes = d->revoking_bytes,
		.donor_free_bytes = d->stats_free,
		.donor_total_bytes = d->stats_total,
		.spare_bytes = d->spare_bytes,
		.donor_spare_bytes = d->stats_spare,
		.sessions = d->sessions,
		.bad_data = d->bad_data,
		.lost_regions = d->lost_regions,
		.refused_leases = d->refused_leases,
		.rtt_ns = d->rtt_ns,
	};
}

const char *cluster_donor_reason(const struct cluster *c, unsigned donor)
{
	return c->donors[donor].reason;
}
