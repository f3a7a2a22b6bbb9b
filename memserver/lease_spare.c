/* Leases that their holders can spare: which these are, and taking one for who needs the room. */
#include "memserver/lease_internal.h"

/* Room that was taken back is kept from those that could do without for so long: who asked learns
 * of it with the next STATS, and asks again. */
#define RECLAIM_HOLD_MS 1000u

static bool is_leased_to(const struct lease_book *b, uint64_t region, unsigned client)
{
	if (region >= b->nregions || b->regions[region].client != client)
		return false;
	return b->regions[region].state == LEASE_REGION_LEASED ||
	       b->regions[region].state == LEASE_REGION_REVOKING;
}

void lease_spare_mark(struct lease_book *b, unsigned region, uint64_t since_ns)
{
	struct lease_region *r = &b->regions[region];
	int change = (since_ns != 0) - (r->spare_ns != 0);

	r->spare_ns = since_ns;
	if (!change)
		return;
	b->spare += (unsigned)change;
	b->clients[r->client].spare += (unsigned)change;
	b->spare_changed = true;
}

void lease_spare_tell(struct lease_book *b, unsigned client, const uint64_t *region, uint32_t count)
{
	unsigned left = b->clients[client].regions;
	uint64_t now = env_now_ns(b->env);

	if (!count && !b->clients[client].spare)
		return;
	b->spare_round++;
	for (uint32_t i = 0; i < count; i++) {
		if (is_leased_to(b, region[i], client))
			b->regions[region[i]].spare_round = b->spare_round;
		else
			lease_refuse(b, LEASE_REFUSED_STALE);
	}
	for (unsigned i = 0; left && i < b->nregions; i++) {
		struct lease_region *r = &b->regions[i];

		if (!is_leased_to(b, i, client))
			continue;
		left--;
		if (r->state == LEASE_REGION_REVOKING || r->spare_round != b->spare_round)
			lease_spare_mark(b, i, 0);
		else if (!r->spare_ns)
			lease_spare_mark(b, i, now);
	}
}

void lease_spare_forget(struct lease_book *b, unsigned client)
{
	for (unsigned i = 0; b->clients[client].spare && i < b->nregions; i++) {
		if (b->regions[i].spare_ns && b->regions[i].client == client)
			lease_spare_mark(b, i, 0);
	}
}

uint64_t lease_spare_bytes(const struct lease_book *b, unsigned client)
{
	return (b->spare - b->clients[client].spare) * b->cfg.region_bytes;
}

int lease_spare_choose(const struct lease_book *b, unsigned client)
{
	unsigned most = 0, holder = 0;
	int longest = -1;

	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (i != client && b->clients[i].spare > most) {
			most = b->clients[i].spare;
			holder = i;
		}
	}
	for (unsigned i = 0; most && i < b->nregions; i++) {
		const struct lease_region *r = &b->regions[i];

		if (r->spare_ns && r->client == holder &&
			(longest < 0 || r->spare_ns < b->regions[longest].spare_ns))
			longest = (int)i;
	}
	return longest;
}

static bool reclaim_is_under_way(const struct lease_book *b, unsigned client)
{
	for (unsigned i = 0; b->reclaiming && i < b->nregions; i++) {
		if (b->regions[i].reclaimed && b->regions[i].reclaimed_for == client)
			return true;
	}
	return false;
}

void lease_spare_reclaim(struct lease_book *b, unsigned client)
{
	uint64_t now = env_now_ns(b->env);
	int region = reclaim_is_under_way(b, client) ? -1 : lease_spare_choose(b, client);

	if (region < 0)
		return;
	b->regions[region].reclaimed = true;
	b->regions[region].reclaimed_for = client;
	b->reclaiming++;
	stat_add(&b->stats.reclaims, 1);
	lease_region_revoke(b, (unsigned)region, now, now + lease_ms_ns(b->cfg.grace_ms));
}

void lease_spare_ended(struct lease_book *b, unsigned region)
{
	uint32_t hold_ms = b->cfg.stats_interval_ms + RECLAIM_HOLD_MS;

	lease_spare_mark(b, region, 0);
	if (!b->regions[region].reclaimed)
		return;
	b->regions[region].reclaimed = false;
	b->reclaiming--;
	b->reclaim_hold_ns = env_now_ns(b->env) + lease_ms_ns(hold_ms);
}

bool lease_spare_is_held(const struct lease_book *b)
{
	return b->reclaiming || env_now_ns(b->env) < b->reclaim_hold_ns;
}
