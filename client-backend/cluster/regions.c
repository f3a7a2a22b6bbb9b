/* The leases held of donors: the books, reconciliation with a donor's list, renewal, expiry,
 * revocation. */
#include "client-backend/cluster/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, 32 bits. */
uint32_t lease_domain_hash(const char *label)
{
	uint32_t h = 2166136261u;

	for (; *label; label++)
		h = (h ^ (uint8_t)*label) * 16777619u;
	return h;
}

static struct lease **bucket_of(struct cluster *c, unsigned donor, uint64_t id, uint64_t epoch)
{
	uint64_t h = (id * 0x9e3779b97f4a7c15ull) ^ (epoch * 0xc2b2ae3d27d4eb4full) ^
		     ((uint64_t)donor * 0x165667b19e3779f9ull);

	return &c->bucket[(h >> 40) & (CLUSTER_BUCKETS - 1)];
}

struct lease *lease_find(struct cluster *c, const struct donor *d, uint64_t id, uint64_t epoch)
{
	unsigned donor = donor_index(c, d);

	for (struct lease *l = *bucket_of(c, donor, id, epoch); l; l = l->hash_next)
		if (l->donor == donor && l->desc.region_id == id && l->desc.epoch == epoch)
			return l;
	return NULL;
}

struct lease *lease_new(struct cluster *c, struct donor *d, uint64_t id, uint64_t epoch)
{
	struct lease *l = d->nleases < CLUSTER_MAX_LISTED ? calloc(1, sizeof(*l)) : NULL;
	struct lease **b = bucket_of(c, donor_index(c, d), id, epoch);

	if (!l)
		return NULL;
	l->donor = donor_index(c, d);
	l->desc.region_id = id;
	l->desc.epoch = epoch;
	l->desc.donor = (uint16_t)l->donor;
	memcpy(l->desc.donor_name, d->cfg.name, sizeof(l->desc.donor_name));
	l->state = LEASE_ENDED;
	l->expires_ns = CLUSTER_NEVER;
	l->next = d->leases;
	l->pprev = &d->leases;
	if (l->next)
		l->next->pprev = &l->next;
	d->leases = l;
	l->hash_next = *b;
	l->hash_pprev = b;
	if (l->hash_next)
		l->hash_next->hash_pprev = &l->hash_next;
	*b = l;
	d->nleases++;
	return l;
}

void lease_spare_set(struct cluster *c, struct lease *l, bool spare)
{
	struct donor *d = &c->donors[l->donor];

	if (l->spare == spare)
		return;
	l->spare = spare;
	d->spare_bytes += spare ? l->desc.len_bytes : -l->desc.len_bytes;
	d->spare_changed = true;
}

static void bytes_out(struct cluster *c, struct lease *l)
{
	struct donor *d = &c->donors[l->donor];

	if (l->state == LEASE_ENDED)
		return;
	lease_spare_set(c, l, false);
	d->held_bytes -= l->desc.len_bytes;
	c->held_bytes -= l->desc.len_bytes;
	if (l->state == LEASE_REVOKING)
		d->revoking_bytes -= l->desc.len_bytes;
	l->state = LEASE_ENDED;
}

void lease_free(struct cluster *c, struct lease *l)
{
	bytes_out(c, l);
	c->donors[l->donor].nleases--;
	*l->pprev = l->next;
	if (l->next)
		l->next->pprev = l->pprev;
	*l->hash_pprev = l->hash_next;
	if (l->hash_next)
		l->hash_next->hash_pprev = l->hash_pprev;
	free(l);
}

void lease_hold(struct cluster *c, struct lease *l)
{
	l->state = LEASE_HELD;
	c->donors[l->donor].held_bytes += l->desc.len_bytes;
	c->held_bytes += l->desc.len_bytes;
}

void lease_keys_set(struct donor *d, struct lease *l, const struct control_lease *m)
{
	bool verbs = d->transport == CLUSTER_TRANSPORT_VERBS;
	uint64_t rkey = verbs ? m->verbs_rkey : m->tcp_key;
	uint64_t raddr = verbs ? m->verbs_raddr : 0;

	if (l->desc.rkey != rkey || l->desc.raddr != raddr || l->desc.domain != d->domain)
		l->keys_changed = true;
	l->desc.rkey = rkey;
	l->desc.raddr = raddr;
	l->desc.domain = d->domain;
}

bool lease_sane(const struct donor *d, const struct control_lease *l)
{
	return l->len_bytes == d->region_bytes && l->ttl_ms > 0 && l->epoch &&
	       (d->transport == CLUSTER_TRANSPORT_VERBS ? l->verbs_rkey != 0 : l->tcp_key != 0);
}

void lease_lost(struct cluster *c, struct lease *l)
{
	struct donor *d = &c->donors[l->donor];

	bytes_out(c, l);
	l->end_told = false;
	l->ended_seq = d->send_seq;
	d->lost_regions++;
	c->ops->region_lost(c->ctx, l->lane, &l->desc);
}

void lease_all_lost(struct cluster *c, struct donor *d)
{
	while (d->leases) {
		if (d->leases->state != LEASE_ENDED)
			lease_lost(c, d->leases);
		lease_free(c, d->leases);
	}
}

static void end_send(
	struct cluster *c, struct donor *d, struct lease *l, enum control_msg_type type)
{
	struct control_msg m = {.type = type};

	if (type == CONTROL_REVOKE_DONE) {
		m.revoke_done.region_id = l->desc.region_id;
		m.revoke_done.epoch = l->desc.epoch;
	} else {
		m.lease_release.region_id = l->desc.region_id;
		m.lease_release.epoch = l->desc.epoch;
	}
	donor_send(c, d, &m);
	l->end_told = true;
	l->ended_seq = d->send_seq;
}

/* The lane is through with it. Without a session the donor learns of it at the next reconciliation.
 */
void lease_end_tell(struct cluster *c, struct lease *l)
{
	struct donor *d = &c->donors[l->donor];
	enum control_msg_type type =
		l->state == LEASE_REVOKING ? CONTROL_REVOKE_DONE : CONTROL_LEASE_RELEASE;

	bytes_out(c, l);
	l->end_told = false;
	l->ended_seq = d->send_seq;
	if (d->reconciled)
		end_send(c, d, l, type);
}

static void revoke_begin(struct cluster *c, struct lease *l)
{
	struct donor *d = &c->donors[l->donor];

	lease_spare_set(c, l, false);
	l->state = LEASE_REVOKING;
	d->revoking_bytes += l->desc.len_bytes;
	c->ops->region_revoke(c->ctx, l->lane, &l->desc);
}

/* One lease of a list. What follows from it is done when the list is complete. */
static int list_entry(
	struct cluster *c, struct donor *d, const struct control_lease *m, uint64_t sent_ns)
{
	struct lease *l = lease_find(c, d, m->region_id, m->epoch);

	if (!lease_sane(d, m) || (l && l->listed) || ++d->listed > CLUSTER_MAX_LISTED)
		return -EPROTO;
	if (l && l->state != LEASE_ENDED && l->desc.len_bytes != m->len_bytes)
		return -EPROTO;
	if (!l) {
		/* Nobody here uses it: it will be released. A renewal's list may not name such a
		 * lease. */
		if (d->reconciled)
			return -EPROTO;
		l = lease_new(c, d, m->region_id, m->epoch);
		if (!l)
			return -EPROTO;
	}
	l->listed = true;
	if (l->state == LEASE_ENDED)
		return 0;
	lease_keys_set(d, l, m);
	l->expires_ns = sent_ns + m->ttl_ms * CLUSTER_MS;
	if (m->revoking) {
		uint64_t at = env_now_ns(c->env) + m->revoke_ms * CLUSTER_MS;

		if (l->state == LEASE_HELD || at < l->revoke_ns)
			l->revoke_ns = at;
		l->revoke_asked = l->state == LEASE_HELD;
	}
	return 0;
}

static void list_lease_settle(struct cluster *c, struct donor *d, struct lease *l, bool first)
{
	bool listed = l->listed;

	l->listed = false;
	if (l->state == LEASE_ENDED) {
		/* The donor may have written the list before it read the end of the lease. */
		bool covered = first || l->ended_seq < d->renew_seq;

		if (covered && !listed)
			lease_free(c, l);
		else if (listed && (covered || !l->end_told))
			end_send(c, d, l, CONTROL_LEASE_RELEASE);
		return;
	}
	if (!listed) {
		lease_lost(c, l);
		lease_free(c, l);
		return;
	}
	if (first || l->keys_changed)
		c->ops->region_bind(c->ctx, l->lane, &l->desc);
	l->keys_changed = false;
	if (l->revoke_asked)
		revoke_begin(c, l);
	else if (first && l->state == LEASE_REVOKING)
		c->ops->region_revoke(c->ctx, l->lane, &l->desc);
	l->revoke_asked = false;
}

int lease_list(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	bool first = !d->reconciled;

	if (m->leases.count > CONTROL_LEASES_PER_MSG || (!first && !d->renewing) ||
		(m->leases.more && !m->leases.count))
		return -EPROTO;
	if (!d->list_open)
		d->listed = 0;
	uint64_t sent_ns = first ? d->hello_sent_ns : d->renew_sent_ns;
	for (uint32_t i = 0; i < m->leases.count; i++) {
		int r = list_entry(c, d, &m->leases.lease[i], sent_ns);
		if (r < 0)
			return r;
	}
	d->list_open = m->leases.more;
	if (m->leases.more)
		return 0;
	for (struct lease *l = d->leases, *next; l; l = next) {
		next = l->next;
		list_lease_settle(c, d, l, first);
	}
	d->renewing = false;
	if (first)
		donor_up(c, d);
	return 0;
}

int lease_revoke(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	struct lease *l = lease_find(c, d, m->revoke.region_id, m->revoke.epoch);
	uint64_t at = env_now_ns(c->env) + m->revoke.deadline_ms * CLUSTER_MS;

	if (!l)
		return -EPROTO;
	if (l->state == LEASE_ENDED)
		return 0; /* it crossed the end of the lease on the way */
	if (l->state == LEASE_HELD || at < l->revoke_ns)
		l->revoke_ns = at;
	if (l->state == LEASE_HELD)
		revoke_begin(c, l);
	return 0;
}

/* Sooner than the leases need it when the donor has something to learn. */
static uint64_t renew_due_ns(const struct donor *d)
{
	uint64_t soon = d->renew_sent_ns + CLUSTER_SPARE_NS;

	return d->spare_changed && soon < d->renew_next_ns ? soon : d->renew_next_ns;
}

static void renew_send(struct cluster *c, struct donor *d, uint64_t now)
{
	struct control_msg m = {.type = CONTROL_LEASE_RENEW};

	for (const struct lease *l = d->leases; l && m.lease_renew.count < CONTROL_SPARE_PER_MSG;
		l = l->next)
		if (l->spare)
			m.lease_renew.spare[m.lease_renew.count++] = l->desc.region_id;
	d->spare_changed = false;
	d->renewing = true;
	d->renew_sent_ns = now;
	d->renew_next_ns = now + d->ttl_ns / 3;
	donor_send(c, d, &m);
	d->renew_seq = d->send_seq;
}

void lease_tick(struct cluster *c, struct donor *d, uint64_t now)
{
	for (struct lease *l = d->leases, *next; l; l = next) {
		next = l->next;
		if (l->state == LEASE_ENDED)
			continue;
		bool expired = now >= l->expires_ns;
		bool overdue = l->state == LEASE_REVOKING && now >= l->revoke_ns;
		if (!expired && !overdue)
			continue;
		lease_lost(c, l);
		/* Overdue: the donor takes it by itself. Expired by our clock alone: it may still
		 * hold it. */
		if (expired && d->reconciled)
			end_send(c, d, l, CONTROL_LEASE_RELEASE);
	}
	if (d->reconciled && !d->renewing && d->leases && now >= renew_due_ns(d))
		renew_send(c, d, now);
}

uint64_t lease_next_ns(const struct cluster *c, const struct donor *d)
{
	uint64_t next = CLUSTER_NEVER;

	if (d->reconciled && !d->renewing && d->leases)
		next = renew_due_ns(d);
	for (const struct lease *l = d->leases; l; l = l->next) {
		if (l->state == LEASE_ENDED)
			continue;
		if (l->expires_ns < next)
			next = l->expires_ns;
		if (l->state == LEASE_REVOKING && l->revoke_ns < next)
			next = l->revoke_ns;
	}
	return next;
}
