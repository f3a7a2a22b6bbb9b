/* Which donor is asked for the next region, and for which lane. */
#include "client-backend/cluster/internal.h"

#include <errno.h>

void placement_request_forget(struct cluster *c, struct donor *d)
{
	if (!d->asking)
		return;
	d->asking = false;
	c->asked_bytes -= d->region_bytes;
	c->lanes[d->asking_lane].asked--;
}

static void request_refused(struct cluster *c, struct donor *d)
{
	uint64_t b = d->refused_backoff_ns ? d->refused_backoff_ns : CLUSTER_REFUSED_MIN_NS;

	d->refused_leases++;
	d->refused_until_ns = env_now_ns(c->env) + b / 2 + env_random(c->env) % (b / 2 + 1);
	d->refused_backoff_ns = b > CLUSTER_REFUSED_MAX_NS / 2 ? CLUSTER_REFUSED_MAX_NS : b * 2;
}

int placement_grant(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	int32_t status = m->lease_grant.status;

	if (!d->asking || m->lease_grant.request_id != d->request_id)
		return -EPROTO;
	if (status && status != -ENOSPC && status != -EDQUOT && status != -ESHUTDOWN)
		return -EPROTO;
	if (status) {
		placement_request_forget(c, d);
		request_refused(c, d);
		return 0;
	}
	const struct control_lease *g = &m->lease_grant.lease;
	if (!lease_sane(d, g) || lease_find(c, d, g->region_id, g->epoch))
		return -EPROTO;
	struct lease *l = lease_new(c, d, g->region_id, g->epoch);
	if (!l)
		return -EPROTO; /* no memory for the books: the next session's list gives it back */
	unsigned lane = d->asking_lane;
	l->lane = lane;
	l->desc.len_bytes = g->len_bytes;
	l->expires_ns = d->request_sent_ns + g->ttl_ms * CLUSTER_MS;
	l->listed = d->list_open; /* newer than the list being received */
	lease_keys_set(d, l, g);
	l->keys_changed = false;
	placement_request_forget(c, d);
	lease_hold(c, l);
	d->refused_backoff_ns = 0;
	d->stats_free -= d->stats_free < g->len_bytes ? d->stats_free : g->len_bytes;
	if (c->lanes[lane].wanted)
		c->lanes[lane].wanted--;
	c->ops->region_add(c->ctx, lane, &l->desc);
	if (g->revoking) {
		struct control_msg r = {.type = CONTROL_REVOKE,
			.revoke = {.region_id = g->region_id,
				.epoch = g->epoch,
				.deadline_ms = g->revoke_ms}};
		return lease_revoke(c, d, &r);
	}
	return 0;
}

/* Without STATS yet, a donor is worth asking for one region. */
static uint64_t free_bytes(const struct donor *d)
{
	return d->stats_known ? d->stats_free : d->region_bytes;
}

static bool may_ask(const struct cluster *c, const struct donor *d, uint64_t now)
{
	return d->phase == DONOR_UP && !d->distrusted && !d->draining && !d->asking &&
	       now >= d->refused_until_ns && free_bytes(d) >= d->region_bytes &&
	       c->held_bytes + c->asked_bytes + d->region_bytes <= c->cfg.max_lease_bytes;
}

/* Regions of this lane in a failure domain, and under way to it. */
static uint64_t domain_regions(const struct cluster *c, unsigned lane, uint32_t domain)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < c->ndonors; i++) {
		const struct donor *d = &c->donors[i];

		if (d->domain != domain)
			continue;
		if (d->asking && d->asking_lane == lane)
			n++;
		for (const struct lease *l = d->leases; l; l = l->next)
			n += l->lane == lane && l->state == LEASE_HELD;
	}
	return n;
}

/* A lane can keep the copies of a segment apart only on donors that it has a region of. */
static bool lane_has_region(const struct donor *d, unsigned lane)
{
	if (d->asking && d->asking_lane == lane)
		return true;
	for (const struct lease *l = d->leases; l; l = l->next)
		if (l->lane == lane && l->state == LEASE_HELD)
			return true;
	return false;
}

/*
 * First the donors that the lane has nothing of. Power of two choices: of two candidates drawn at
 * random the one with more free bytes, where free bytes are divided by (1 + the lane's regions in
 * the donor's failure domain). So the domains of a lane fill evenly while there is room in each, as
 * copies in different domains need, and a donor with much room still carries more.
 */
static struct donor *donor_choose(struct cluster *c, unsigned lane, uint64_t now)
{
	unsigned candidates = 0, fresh = 0, at[2];
	struct donor *pick[2] = {NULL, NULL};

	for (unsigned i = 0; i < c->ndonors; i++)
		if (may_ask(c, &c->donors[i], now)) {
			candidates++;
			fresh += !lane_has_region(&c->donors[i], lane);
		}
	if (!candidates)
		return NULL;
	if (fresh)
		candidates = fresh;
	at[0] = (unsigned)(env_random(c->env) % candidates);
	at[1] = at[0];
	if (candidates > 1)
		at[1] = (at[0] + 1 + (unsigned)(env_random(c->env) % (candidates - 1))) %
			candidates;
	for (unsigned i = 0, n = 0; i < c->ndonors; i++) {
		if (!may_ask(c, &c->donors[i], now) ||
			(fresh && lane_has_region(&c->donors[i], lane)))
			continue;
		if (n == at[0])
			pick[0] = &c->donors[i];
		if (n == at[1])
			pick[1] = &c->donors[i];
		n++;
	}
	if (pick[0] == pick[1])
		return pick[0];
	uint64_t a = free_bytes(pick[0]) / (1 + domain_regions(c, lane, pick[0]->domain));
	uint64_t b = free_bytes(pick[1]) / (1 + domain_regions(c, lane, pick[1]->domain));
	return a >= b ? pick[0] : pick[1];
}

static void request_send(struct cluster *c, struct donor *d, unsigned lane, uint64_t now)
{
	struct control_msg m = {.type = CONTROL_LEASE_REQUEST,
		.lease_request = {.request_id = ++c->next_request_id}};

	d->asking = true;
	d->asking_lane = lane;
	d->request_id = c->next_request_id;
	d->request_sent_ns = now;
	c->asked_bytes += d->region_bytes;
	c->lanes[lane].asked++;
	donor_send(c, d, &m);
}

void placement_run(struct cluster *c)
{
	uint64_t now = env_now_ns(c->env);

	for (unsigned idle = 0; c->started && idle < c->cfg.lanes;) {
		unsigned lane = c->next_lane;

		c->next_lane = (lane + 1) % c->cfg.lanes;
		if (c->lanes[lane].wanted <= c->lanes[lane].asked) {
			idle++;
			continue;
		}
		struct donor *d = donor_choose(c, lane, now);
		if (!d)
			return;
		request_send(c, d, lane, now);
		idle = 0;
	}
}

/* The end of the earliest back-off, while a lane waits for a region. */
uint64_t placement_next_ns(const struct cluster *c)
{
	uint64_t next = CLUSTER_NEVER, now = env_now_ns(c->env);
	bool waiting = false;

	for (unsigned i = 0; i < c->cfg.lanes; i++)
		waiting |= c->lanes[i].wanted > c->lanes[i].asked;
	for (unsigned i = 0; waiting && i < c->ndonors; i++) {
		const struct donor *d = &c->donors[i];

		if (d->phase == DONOR_UP && !d->asking && d->refused_until_ns > now &&
			d->refused_until_ns < next)
			next = d->refused_until_ns;
	}
	return next;
}
