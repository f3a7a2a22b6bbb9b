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
	struct refusal *r = &d->refusal[d->asking_ephemeral];
	uint64_t b = r->backoff_ns ? r->backoff_ns : CLUSTER_REFUSED_MIN_NS;

	d->refused_leases++;
	r->until_ns = env_now_ns(c->env) + b / 2 + env_random(c->env) % (b / 2 + 1);
	r->backoff_ns = b > CLUSTER_REFUSED_MAX_NS / 2 ? CLUSTER_REFUSED_MAX_NS : b * 2;
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
	d->refusal[d->asking_ephemeral].backoff_ns = 0;
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

/* What others can spare is taken back for what is more than an ephemeral copy. */
static bool may_lease(
	const struct cluster *c, const struct donor *d, const struct lane_want *w, uint64_t now)
{
	return d->phase == DONOR_UP && !d->distrusted && !d->draining &&
	       now >= d->refusal[w->ephemeral].until_ns &&
	       (free_bytes(d) >= d->region_bytes ||
		       (!w->ephemeral && d->stats_spare >= d->region_bytes)) &&
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

/* What the lane has of a donor, or is about to get. */
static uint64_t lane_bytes(const struct donor *d, unsigned lane)
{
	uint64_t n = d->asking && d->asking_lane == lane ? d->region_bytes : 0;

	for (const struct lease *l = d->leases; l; l = l->next)
		if (l->lane == lane && l->state == LEASE_HELD)
			n += l->desc.len_bytes;
	return n;
}

/* The least that the lane has of any donor with more to give, be it busy with another request; but
 * not with one that it leaves unanswered. */
static uint64_t lane_level(const struct cluster *c, unsigned lane, uint64_t now)
{
	uint64_t level = UINT64_MAX;

	for (unsigned i = 0; i < c->ndonors; i++) {
		const struct donor *d = &c->donors[i];
		uint64_t n = lane_bytes(d, lane);

		if (d->asking && now >= d->request_sent_ns + c->cfg.suspect_ns)
			continue;
		if (may_lease(c, d, &c->lanes[lane], now) && n < level)
			level = n;
	}
	return level;
}

/*
 * Copies of a segment lie on different donors, so what a lane has of one donor beyond what it has
 * of the others is of little use: only those at the lane's level are asked, by less than a region,
 * and it waits for such a one that is busy. Of them, power of two choices: of two candidates drawn
 * at random the one with more free bytes, where free bytes are divided by (1 + the lane's regions
 * in the donor's failure domain).
 */
static struct donor *donor_choose(struct cluster *c, unsigned lane, uint64_t now)
{
	uint64_t level = lane_level(c, lane, now);
	unsigned candidates = 0, at[2];
	struct donor *fit[ENGINE_MAX_DONORS], *pick[2];

	for (unsigned i = 0; i < c->ndonors; i++) {
		struct donor *d = &c->donors[i];

		if (may_lease(c, d, &c->lanes[lane], now) && !d->asking &&
			lane_bytes(d, lane) < level + d->region_bytes)
			fit[candidates++] = d;
	}
	if (!candidates)
		return NULL;
	at[0] = (unsigned)(env_random(c->env) % candidates);
	at[1] = at[0];
	if (candidates > 1)
		at[1] = (at[0] + 1 + (unsigned)(env_random(c->env) % (candidates - 1))) %
			candidates;
	pick[0] = fit[at[0]];
	pick[1] = fit[at[1]];
	uint64_t a = free_bytes(pick[0]) / (1 + domain_regions(c, lane, pick[0]->domain));
	uint64_t b = free_bytes(pick[1]) / (1 + domain_regions(c, lane, pick[1]->domain));
	return a >= b ? pick[0] : pick[1];
}

static void request_send(struct cluster *c, struct donor *d, unsigned lane, uint64_t now)
{
	struct control_msg m = {.type = CONTROL_LEASE_REQUEST,
		.lease_request = {
			.request_id = ++c->next_request_id, .ephemeral = c->lanes[lane].ephemeral}};

	d->asking = true;
	d->asking_ephemeral = c->lanes[lane].ephemeral;
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
		if (!d) {
			idle++; /* another lane may take what is of no use to this one */
			continue;
		}
		request_send(c, d, lane, now);
		idle = 0;
	}
}

/* The end of the earliest back-off, while a lane waits for a region. */
uint64_t placement_next_ns(const struct cluster *c)
{
	uint64_t next = CLUSTER_NEVER, now = env_now_ns(c->env);
	bool waiting[2] = {false, false};

	for (unsigned i = 0; i < c->cfg.lanes; i++)
		waiting[c->lanes[i].ephemeral] |= c->lanes[i].wanted > c->lanes[i].asked;
	for (unsigned i = 0; i < 2 * c->ndonors; i++) {
		const struct donor *d = &c->donors[i / 2];
		uint64_t until = d->refusal[i % 2].until_ns;

		if (waiting[i % 2] && d->phase == DONOR_UP && !d->asking && until > now &&
			until < next)
			next = until;
	}
	return next;
}
