/* The lease book's regions: granting, revoking, ending, wiping, and staying within the target. */
#include "memserver/lease_internal.h"

#include <errno.h>
#include <string.h>

static uint64_t target_regions(const struct lease_book *b)
{
	return b->target_bytes / b->cfg.region_bytes;
}

uint64_t lease_free_bytes(const struct lease_book *b)
{
	uint64_t target = target_regions(b);

	return b->draining || b->leased >= target ? 0 : (target - b->leased) * b->cfg.region_bytes;
}

/* Makes a region ready for its next holder: zeros, from the kept ones or from the system. */
static int region_prepare(struct lease_book *b, unsigned *out)
{
	int fresh = -1, dirty = -1;

	for (unsigned i = 0; i < b->nregions; i++) {
		struct lease_region *r = &b->regions[i];
		if (r->state == LEASE_REGION_FREE && r->memory) {
			b->kept--;
			*out = i;
			return 0;
		}
		if (r->state == LEASE_REGION_WIPING && dirty < 0)
			dirty = (int)i;
		if (r->state == LEASE_REGION_FREE && fresh < 0)
			fresh = (int)i;
	}
	if (dirty >= 0) {
		b->ops->region_wipe(b->ctx, (unsigned)dirty);
		stat_add(&b->stats.wipes, 1);
		b->regions[dirty].state = LEASE_REGION_FREE;
		b->wiping--;
		*out = (unsigned)dirty;
		return 0;
	}
	if (fresh < 0)
		return -ENOSPC;
	int rc = b->ops->region_alloc(b->ctx, (unsigned)fresh);
	if (rc)
		return rc;
	b->regions[fresh].memory = true;
	*out = (unsigned)fresh;
	return 0;
}

/* No lease is on the region, and what it holds must not be seen by anybody. */
static void region_retire(struct lease_book *b, unsigned region)
{
	struct lease_region *r = &b->regions[region];
	uint64_t held = (uint64_t)b->leased + b->kept + b->wiping;

	if (!b->draining && b->kept + b->wiping < b->cfg.keep_regions && held < target_regions(b)) {
		r->state = LEASE_REGION_WIPING;
		b->wiping++;
		return;
	}
	b->ops->region_free(b->ctx, region);
	r->memory = false;
	r->state = LEASE_REGION_FREE;
}

int lease_region_grant(struct lease_book *b, unsigned client, bool ephemeral, unsigned *out)
{
	struct lease_client *c = &b->clients[client];
	unsigned region;

	if (b->draining) {
		lease_refuse(b, LEASE_REFUSED_DRAINING);
		return -ESHUTDOWN;
	}
	if (b->cfg.client_max_bytes &&
		(c->regions + 1ull) * b->cfg.region_bytes > b->cfg.client_max_bytes) {
		lease_refuse(b, LEASE_REFUSED_QUOTA);
		return -EDQUOT;
	}
	if (b->leased >= target_regions(b)) {
		if (!ephemeral)
			lease_spare_reclaim(b, client);
		lease_refuse(b, LEASE_REFUSED_SPACE);
		return -ENOSPC;
	}
	if (ephemeral && lease_spare_is_held(b)) {
		lease_refuse(b, LEASE_REFUSED_WANTED);
		return -ENOSPC;
	}
	if (region_prepare(b, &region)) {
		lease_refuse(b, LEASE_REFUSED_MEMORY);
		return -ENOSPC;
	}
	struct lease_region *r = &b->regions[region];
	if (b->ops->region_export(b->ctx, region, client, &r->keys)) {
		region_retire(b, region);
		lease_refuse(b, LEASE_REFUSED_MEMORY);
		return -ENOSPC;
	}
	r->state = LEASE_REGION_LEASED;
	r->client = client;
	r->epoch = ++b->epoch;
	b->leased++;
	c->regions++;
	stat_add(&b->stats.grants, 1);
	*out = region;
	return 0;
}

void lease_region_end(struct lease_book *b, unsigned region)
{
	struct lease_region *r = &b->regions[region];
	struct lease_client *c = &b->clients[r->client];

	b->ops->region_unexport(b->ctx, region, r->client);
	lease_spare_ended(b, region);
	if (r->state == LEASE_REGION_REVOKING) {
		b->revoking--;
		c->revoking--;
	}
	b->leased--;
	c->regions--;
	memset(&r->keys, 0, sizeof(r->keys));
	region_retire(b, region);
	if (!c->regions && !c->session)
		lease_token_remove(b, (unsigned)(c - b->clients));
}

void lease_client_end(struct lease_book *b, unsigned client)
{
	for (unsigned i = 0; i < b->nregions && b->clients[client].regions; i++) {
		struct lease_region *r = &b->regions[i];
		if ((r->state == LEASE_REGION_LEASED || r->state == LEASE_REGION_REVOKING) &&
			r->client == client)
			lease_region_end(b, i);
	}
}

int lease_region_find(
	const struct lease_book *b, unsigned client, uint64_t region_id, uint64_t epoch)
{
	if (region_id >= b->nregions)
		return -1;
	const struct lease_region *r = &b->regions[region_id];
	if (r->state != LEASE_REGION_LEASED && r->state != LEASE_REGION_REVOKING)
		return -1;
	return r->client == client && r->epoch == epoch ? (int)region_id : -1;
}

void lease_region_tell(
	const struct lease_book *b, unsigned region, uint64_t now_ns, struct control_lease *out)
{
	const struct lease_region *r = &b->regions[region];

	*out = (struct control_lease){
		.region_id = region,
		.epoch = r->epoch,
		.len_bytes = b->cfg.region_bytes,
		.ttl_ms = lease_ms_left(b->clients[r->client].expires_ns, now_ns),
		.tcp_key = r->keys.tcp_key,
		.verbs_rkey = r->keys.verbs_rkey,
		.verbs_raddr = r->keys.verbs_raddr,
		.revoking = r->state == LEASE_REGION_REVOKING,
	};
	if (out->revoking)
		out->revoke_ms = lease_ms_left(r->deadline_ns, now_ns);
}

void lease_region_revoke(
	struct lease_book *b, unsigned region, uint64_t now_ns, uint64_t deadline_ns)
{
	struct lease_region *r = &b->regions[region];
	struct control_msg *m = &b->msg;

	if (r->state == LEASE_REGION_LEASED) {
		lease_spare_mark(b, region, 0);
		r->state = LEASE_REGION_REVOKING;
		b->revoking++;
		b->clients[r->client].revoking++;
		stat_add(&b->stats.revocations, 1);
	} else if (r->deadline_ns <= deadline_ns) {
		return;
	}
	r->deadline_ns = deadline_ns;
	if (deadline_ns < b->revoke_next_ns)
		b->revoke_next_ns = deadline_ns;
	m->type = CONTROL_REVOKE;
	m->revoke.region_id = region;
	m->revoke.epoch = r->epoch;
	m->revoke.deadline_ms = lease_ms_left(deadline_ns, now_ns);
	lease_client_send(b, r->client, m);
}

/* What can be spared; else the newest lease of the client that holds the most regions not yet asked
 * for; -1: nobody does. */
static int revoke_choose(const struct lease_book *b)
{
	unsigned most = 0, client = 0;
	int newest = -1, spare = lease_spare_choose(b, LEASE_NOBODY);

	if (spare >= 0)
		return spare;
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		const struct lease_client *c = &b->clients[i];
		if (c->used && c->regions - c->revoking > most) {
			most = c->regions - c->revoking;
			client = i;
		}
	}
	if (!most)
		return -1;
	for (unsigned i = 0; i < b->nregions; i++) {
		const struct lease_region *r = &b->regions[i];
		if (r->state == LEASE_REGION_LEASED && r->client == client &&
			(newest < 0 || r->epoch > b->regions[newest].epoch))
			newest = (int)i;
	}
	return newest;
}

/* Gives back memory that waits for a next lease, while more is held than may be. */
static void kept_trim(struct lease_book *b)
{
	for (unsigned i = 0; i < b->nregions && b->kept + b->wiping; i++) {
		struct lease_region *r = &b->regions[i];
		uint64_t held = (uint64_t)b->leased + b->kept + b->wiping;

		if (!b->draining && held <= target_regions(b) &&
			b->kept + b->wiping <= b->cfg.keep_regions)
			return;
		if (r->state == LEASE_REGION_WIPING)
			b->wiping--;
		else if (r->state == LEASE_REGION_FREE && r->memory)
			b->kept--;
		else
			continue;
		b->ops->region_free(b->ctx, i);
		r->memory = false;
		r->state = LEASE_REGION_FREE;
	}
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void lease_target_apply(struct lease_book *b)
{
	uint64_t now = env_now_ns(b->env);
	uint64_t deadline = now + lease_ms_ns(b->cfg.grace_ms);

	kept_trim(b);
	if (b->draining) {
		for (unsigned i = 0; i < b->nregions; i++) {
			enum lease_region_state s = b->regions[i].state;
			if (s == LEASE_REGION_LEASED || s == LEASE_REGION_REVOKING)
				lease_region_revoke(b, i, now, b->drain_ns);
		}
		return;
	}
	while (b->leased - b->revoking > target_regions(b)) {
		int region = revoke_choose(b);
		if (region < 0)
			return;
		lease_region_revoke(b, (unsigned)region, now, deadline);
	}
}

/* Takes the regions whose grace is over, and finds the next deadline. */
static void revocations_tick(struct lease_book *b, uint64_t now_ns)
{
	if (b->revoke_next_ns > now_ns)
		return;
	b->revoke_next_ns = UINT64_MAX;
	for (unsigned i = 0; i < b->nregions; i++) {
		struct lease_region *r = &b->regions[i];
		if (r->state != LEASE_REGION_REVOKING)
			continue;
		if (r->deadline_ns <= now_ns) {
			stat_add(&b->stats.forced, 1);
			lease_region_end(b, i);
		} else {
			b->revoke_next_ns = min_u64(b->revoke_next_ns, r->deadline_ns);
		}
	}
}

void lease_regions_tick(struct lease_book *b, uint64_t now_ns)
{
	revocations_tick(b, now_ns);
	for (unsigned i = 0; i < b->nregions && b->wiping; i++) {
		struct lease_region *r = &b->regions[i];
		if (r->state != LEASE_REGION_WIPING)
			continue;
		b->ops->region_wipe(b->ctx, i);
		stat_add(&b->stats.wipes, 1);
		r->state = LEASE_REGION_FREE;
		b->wiping--;
		b->kept++;
		break;
	}
}
