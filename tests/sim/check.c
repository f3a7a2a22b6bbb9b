/* The rules that never bend, checked while a simulation runs, and what must hold when it ends. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define GRACE_SLACK_NS (50 * MS)

static uint64_t lanes_sum(const struct backend *b, size_t stat)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < b->lanes; i++)
		n += stat_get((const stat_t *)((const char *)engine_stats(b->lane[i].e) + stat));
	return n;
}
#define LANES_SUM(b, member) lanes_sum(b, offsetof(struct engine_stats, member))

/* A region that is wanted back is back when the grace is over; what is exported is leased. */
static int check_donor(struct sim *sim, struct sdonor *d)
{
	for (unsigned i = 0; d->up && i < lease_book_regions(d->book); i++) {
		struct lease_region_info info;
		bool leased;

		lease_book_region_info(d->book, i, &info);
		leased = info.state == LEASE_REGION_LEASED || info.state == LEASE_REGION_REVOKING;
		if (leased != d->export[i].active)
			return sim_fail(sim, "donor %u: region %u is %s", d->index, i,
				leased ? "leased but not exported" : "exported but not leased");
		if (info.state == LEASE_REGION_REVOKING &&
			sim->now_ns > info.deadline_ns + GRACE_SLACK_NS)
			return sim_fail(sim, "donor %u: region %u is not back after the grace",
				d->index, i);
	}
	return 0;
}

/* Every segment has its copies, and every region that a lane counts on is there. */
static bool is_whole(const struct sim *sim, const struct backend *b)
{
	if (!b->up || LANES_SUM(b, segments_underreplicated))
		return false;
	for (unsigned i = 0; i < b->lanes; i++)
		for (unsigned r = 0; r < b->cfg.max_regions; r++) {
			const struct engine_region_desc *d = engine_region(b->lane[i].e, r);

			if (d && !donor_has_lease(&sim->donor[d->donor_name[5] - '0'], d->region_id,
					 d->epoch, b->index))
				return false;
		}
	return true;
}

int check_step(struct sim *sim)
{
	if (sim->now_ns < sim->next_check_ns)
		return 0;
	sim->next_check_ns = sim->now_ns + MS;
	sim->checks++;
	for (unsigned i = 0; i < sim->cfg.donors; i++)
		if (check_donor(sim, &sim->donor[i]))
			return -EBADMSG;
	for (unsigned i = 0; i < sim->cfg.backends; i++) {
		struct backend *b = &sim->backend[i];

		if (client_overdue(b))
			return -EBADMSG;
		if (sim->now_ns >= sim->next_heal_ns && b->ref.holes && !b->latent &&
			is_whole(sim, b))
			ref_healed(&b->ref);
	}
	if (sim->now_ns >= sim->next_heal_ns)
		sim->next_heal_ns = sim->now_ns + 20 * MS;
	if (sim->now_ns < sim->next_deep_ns)
		return 0;
	sim->next_deep_ns = sim->now_ns + 2 * S;
	return check_deep(sim);
}

static int check_backend(struct sim *sim, struct backend *b)
{
	char err[256] = "";
	uint64_t least, most, pages;

	for (unsigned i = 0; i < b->lanes; i++)
		if (engine_check(b->lane[i].e, err, sizeof(err)))
			return sim_fail(
				sim, "backend %u lane %u: engine_check: %s", b->index, i, err);
	ref_pages(&b->ref, -1, &least, &most);
	pages = LANES_SUM(b, pages);
	if (pages < least || pages > most)
		return sim_fail(sim,
			"backend %u stores %" PRIu64 " pages, not %" PRIu64 " to %" PRIu64,
			b->index, pages, least, most);
	for (unsigned a = 0; a < SIM_ACCOUNTS; a++) {
		uint64_t used = 0, local, n;

		for (unsigned i = 0; i < b->lanes; i++) {
			engine_account_usage(b->lane[i].e, a, &local, &n);
			used += n;
		}
		used += client_grant_unused(b, a);
		if (used != atomic_load(&b->quota[a].used_pages))
			return sim_fail(
				sim, "backend %u: the quota of account %u is off", b->index, a);
	}
	for (unsigned s = 0; s < b->ref.cfg.pools; s++)
		for (unsigned i = 0; b->ref.pool[s].id && i < b->lanes; i++)
			if (!engine_pool(b->lane[i].e, b->ref.pool[s].id))
				return sim_fail(sim, "backend %u: a pool is gone", b->index);
	return 0;
}

int check_deep(struct sim *sim)
{
	char err[256] = "";

	for (unsigned i = 0; i < sim->cfg.donors; i++)
		if (sim->donor[i].up && lease_book_check(sim->donor[i].book, err, sizeof(err)))
			return sim_fail(sim, "donor %u: lease_book_check: %s", i, err);
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (sim->backend[i].up && check_backend(sim, &sim->backend[i]))
			return -EBADMSG;
	return 0;
}

/* ---- the end of a run ---- */

static bool settled(const struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		/* A last copy with a bit flipped at rest cannot be copied any more, so its segment
		 * stays short of copies. */
		if (sim->backend[i].reqs ||
			(!sim->backend[i].latent && !is_whole(sim, &sim->backend[i])))
			return false;
	return true;
}

static bool no_requests(const struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (sim->backend[i].reqs)
			return false;
	return true;
}

static bool is_empty(const struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++) {
		const struct backend *b = &sim->backend[i];

		if (LANES_SUM(b, pages) || LANES_SUM(b, objects) || LANES_SUM(b, live_bytes) ||
			LANES_SUM(b, remote_slots_used) || LANES_SUM(b, disk_slots_used))
			return false;
	}
	return true;
}

/* Every lease is known on both sides, and no region is leased to somebody who does not know of it.
 */
static bool leases_agree(const struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (!is_whole(sim, &sim->backend[i]))
			return false;
	for (unsigned i = 0; i < sim->cfg.donors; i++) {
		const struct sdonor *d = &sim->donor[i];
		char name[ENGINE_NAME_BYTES];

		snprintf(name, sizeof(name), "donor%u", i);
		for (unsigned r = 0; r < lease_book_regions(d->book); r++) {
			struct lease_region_info info;
			const struct backend *b;
			bool known = false;

			if (!d->export[r].active)
				continue;
			lease_book_region_info(d->book, r, &info);
			b = &sim->backend[d->client_backend[d->export[r].client]];
			for (unsigned l = 0; l < b->lanes; l++)
				known |= engine_region_find(b->lane[l].e, name, info.region_id,
						 info.epoch) >= 0;
			if (!known)
				return false;
		}
	}
	return true;
}

static bool wait_for(struct sim *sim, bool (*cond)(const struct sim *), uint64_t limit_ns)
{
	uint64_t end = sim->now_ns + limit_ns;

	while (!cond(sim)) {
		if (sim->now_ns >= end || sim_run(sim, sim->now_ns + 10 * MS))
			return false;
	}
	return true;
}

static int read_all(struct sim *sim, struct backend *b)
{
	for (uint32_t k = 0; k < ref_keys(&b->ref); k++) {
		if (!b->ref.pool[ref_key_pool(&b->ref, k)].id)
			continue;
		if (client_get(b, k))
			return -EBADMSG;
		if (b->reqs == SIM_REQS && !wait_for(sim, no_requests, 20 * S))
			return sim_fail(sim, "requests do not end");
	}
	return wait_for(sim, no_requests, 20 * S) ? 0 : sim_fail(sim, "requests do not end");
}

int sim_converge(struct sim *sim)
{
	sim->trouble_ns = sim->now_ns + 20 * S;
	if (!wait_for(sim, no_requests, 20 * S))
		return sim_fail(sim, "requests do not end");
	/* A donor that was distrusted for bad data is used again after minutes. */
	if (!wait_for(sim, settled, sim->ample ? 900 * S : 30 * S) && sim->ample)
		return sim_fail(sim,
			"not all copies are back: %" PRIu64 " segments of backend 0 and %" PRIu64
			" of backend 1 lack some",
			LANES_SUM(&sim->backend[0], segments_underreplicated),
			sim->cfg.backends > 1
				? LANES_SUM(&sim->backend[1], segments_underreplicated)
				: 0);
	if (sim_run(sim, sim->now_ns + 5 * S) || check_deep(sim))
		return -EBADMSG;
	sim->trouble_ns = 0;
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (read_all(sim, &sim->backend[i]) || client_flush_all(&sim->backend[i]))
			return -EBADMSG;
	if (!wait_for(sim, is_empty, 60 * S))
		return sim_fail(sim, "all was flushed, but something is left");
	if (!wait_for(sim, leases_agree, 60 * S))
		return sim_fail(sim, "the donors' leases are not those that the backends know of");
	return check_deep(sim);
}
