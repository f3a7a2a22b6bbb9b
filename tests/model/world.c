/* What happens around the engine in the model test: time, donors, faults, crashes, and the checks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/model/run.h"

#define MS 1000000ull

int run_fail(struct run *r, const char *fmt, ...)
{
	va_list ap;

	if (!r->error[0]) {
		va_start(ap, fmt);
		vsnprintf(r->error, sizeof(r->error), fmt, ap);
		va_end(ap);
	}
	return -EBADMSG;
}

bool run_timeouts_allowed(const struct run *r)
{
	return (r->faults && !r->quiet) || r->now_ns < r->disrupted_ns;
}

/* A slow or dead donor may make the gets of the next moments time out. */
static void disrupt(struct run *r)
{
	r->disrupted_ns = r->now_ns + 2 * r->cfg.get_timeout_ns;
}

/* Promises become short when donors take or lose something, never by what others put. */
static void watch_promises(struct run *r)
{
	const struct engine_stats *s = engine_stats(r->e);
	uint64_t lacking = stat_get(&s->reserved_short_pages);
	bool whole = !stat_get(&s->segments_underreplicated) && !stat_get(&s->regions_revoking);

	for (unsigned d = 0; d < r->fake.cfg.donors; d++)
		whole &= r->fake.up[d];
	if (!whole)
		r->taken = true;
	if (lacking) {
		r->short_ns = r->now_ns;
		/* A few segments come and go with those that are half full. */
		if (!r->taken && lacking > (1 + r->cfg.moves / 2) * 15)
			run_fail(r, "no room for %" PRIu64 " promised pages, and nothing was taken",
				lacking);
	} else if (whole) {
		r->taken = false;
	}
}

void run_advance(struct run *r, uint64_t ns)
{
	uint64_t until = r->now_ns + ns;

	do {
		uint64_t step = ns / 4 + 1;

		r->now_ns = r->now_ns + step < until ? r->now_ns + step : until;
		fake_poll(&r->fake);
		if (r->now_ns >= r->next_tick || !rng_below(&r->rng, 4))
			r->next_tick = engine_tick(r->e);
		if (!rng_below(&r->rng, 3))
			engine_work(r->e);
		engine_kick(r->e);
		watch_promises(r);
	} while (r->now_ns < until);
	if (stat_get(&engine_stats(r->e)->segments_underreplicated) == 0)
		ref_healed(&r->ref);
	if (r->fake.error[0])
		run_fail(r, "%s", r->fake.error);
}

static int check_accounts(struct run *r)
{
	for (unsigned a = 0; a < RUN_ACCOUNTS; a++) {
		uint64_t local, pages, least, most, used;

		engine_account_usage(r->e, a, &local, &pages);
		ref_pages(&r->ref, (int)a, &least, &most);
		if (pages < least || pages > most)
			return run_fail(r,
				"account %u has %" PRIu64 " pages, not %" PRIu64 " to %" PRIu64, a,
				pages, least, most);
		used = atomic_load(&r->quota[a].used_pages);
		if (used != pages + run_grants_unused(r, a))
			return run_fail(r,
				"the quota of account %u counts %" PRIu64
				" pages, the account %" PRIu64 " and %" PRIu64 " promised",
				a, used, pages, run_grants_unused(r, a));
	}
	return 0;
}

int run_check(struct run *r)
{
	const struct engine_stats *s = engine_stats(r->e);
	uint64_t least, most, pages = stat_get(&s->pages);
	char err[256] = "";

	r->checks++;
	if (engine_check(r->e, err, sizeof(err)))
		return run_fail(r, "engine_check: %s", err);
	ref_pages(&r->ref, -1, &least, &most);
	if (pages < least || pages > most)
		return run_fail(r, "%" PRIu64 " pages are stored, not %" PRIu64 " to %" PRIu64,
			pages, least, most);
	for (unsigned i = 0; i < r->ref.cfg.pools; i++)
		if (r->ref.pool[i].id && !engine_pool(r->e, r->ref.pool[i].id))
			return run_fail(r, "pool %u is not known", r->ref.pool[i].id);
	return check_accounts(r);
}

int run_open(struct run *r)
{
	char err[256] = "";
	int status = engine_open(
		r->arena, &r->cfg, &r->env, &fake_ops, &r->fake, &r->e, err, sizeof(err));

	if (status)
		return run_fail(r, "engine_open: %s (%s)", strerror(-status), err);
	r->next_tick = r->now_ns;
	fake_bind(&r->fake, r->e);
	for (unsigned a = 0; a < RUN_ACCOUNTS; a++) {
		struct engine_account account = {.weight = a + 1, .quota = &r->quota[a]};

		snprintf(account.name, sizeof(account.name), "account%u", a);
		atomic_store(&r->quota[a].used_pages, 0);
		status = engine_account_set(r->e, a, &account);
		if (status)
			return run_fail(r, "engine_account_set: %s", strerror(-status));
	}
	return run_grants_check(r) ? -EBADMSG : run_check(r);
}

void run_count(struct run *r)
{
	const struct engine_stats *s = engine_stats(r->e);

	r->gets_remote += stat_get(&s->gets_remote);
	r->gets_direct += stat_get(&s->gets_direct);
	r->direct_unlike += stat_get(&s->direct_unlike);
	r->direct_abandoned += stat_get(&s->direct_abandoned);
	r->gets_disk += stat_get(&s->gets_disk);
	r->spilled += stat_get(&s->segments_spilled);
	r->repaired += stat_get(&s->segments_repaired);
	r->cleaned += stat_get(&s->segments_cleaned);
	r->to_disk += stat_get(&s->segments_to_disk);
	r->kept_read += stat_get(&s->ephemeral_reinserted);
	r->known += stat_get(&s->ephemeral_ghosts);
	r->ephemeral_spilled += stat_get(&s->ephemeral_spilled);
	r->ephemeral_dropped += stat_get(&s->ephemeral_dropped);
	r->evicted +=
		stat_get(&s->segments_evicted_clean) + stat_get(&s->segments_evicted_ephemeral);
}

int run_crash(struct run *r)
{
	r->crashes++;
	run_count(r);
	fake_crash(&r->fake);
	engine_abandon(r->e);
	run_forget_requests(r);
	disrupt(r);
	return run_open(r);
}

/* Takes requests back; those that are being read straight to a guest are waited for. */
static void requests_cancel(struct run *r)
{
	for (unsigned i = 0; i < RUN_REQS; i++) {
		struct run_req *q = &r->req[i];

		if (!q->active || fake_writes_to(&r->fake, q->guest))
			continue;
		engine_cancel(r->e, &q->req);
		if (!q->put)
			ref_get_end(&r->ref, q->k, q->handle, -ECANCELED, NULL, true);
		else if (q->pool == r->ref.pool[ref_key_pool(&r->ref, q->k)].id)
			ref_put_cancelled(&r->ref, q->k, q->version);
		q->active = false;
		r->reqs--;
	}
}

/* Ends the engine in good order: requests are taken back, transfers end. */
int run_reopen(struct run *r)
{
	r->reopens++;
	requests_cancel(r);
	for (unsigned i = 0; r->fake.queued; i++) {
		if (i == 1000)
			return run_fail(r, "transfers go on for ever with no tick");
		r->now_ns += MS;
		fake_poll(&r->fake);
	}
	requests_cancel(r);
	if (run_check(r))
		return -EBADMSG;
	run_count(r);
	engine_close(r->e);
	disrupt(r);
	return run_open(r);
}

static void donor_fault(struct run *r)
{
	unsigned donor = (unsigned)rng_below(&r->rng, r->fake.cfg.donors);

	r->taken = true;
	switch (rng_below(&r->rng, 3)) {
	case 0:
		/* Losing more than R copies at a time loses pages; a tame run waits for the repair.
		 */
		if (r->ref.holes && !r->wild)
			return;
		ref_loss(&r->ref);
		r->losses++;
		fake_donor_lose(&r->fake, r->e, donor);
		break;
	case 1:
		fake_donor_set(&r->fake, r->e, donor, false);
		break;
	default:
		break;
	}
	disrupt(r);
}

int run_world_step(struct run *r)
{
	if (r->fake.wanted && !rng_below(&r->rng, 4))
		r->leases += fake_region_lease(&r->fake, r->e);
	if (!rng_below(&r->rng, 1500))
		if (fake_region_revoke(&r->fake, r->e)) {
			r->revokes++;
			r->taken = true;
		}
	for (unsigned d = 0; d < r->fake.cfg.donors; d++)
		if (!r->fake.up[d]) {
			disrupt(r);
			if (!rng_below(&r->rng, 50))
				fake_donor_set(&r->fake, r->e, d, true);
		}
	if (r->grants && !rng_below(&r->rng, 100) && run_grants_ask(r))
		return -EBADMSG;
	if (r->faults && !rng_below(&r->rng, 1000))
		donor_fault(r);
	if (!rng_below(&r->rng, 3000) && run_crash(r))
		return -EBADMSG;
	if (!rng_below(&r->rng, 6000) && run_reopen(r))
		return -EBADMSG;
	if (!rng_below(&r->rng, 400) && run_check(r))
		return -EBADMSG;
	return r->error[0] ? -EBADMSG : 0;
}

/* Lets time pass until cond is true; false when it is not after `limit_ns`. */
static bool wait_until(struct run *r, bool (*cond)(struct run *r), uint64_t limit_ns)
{
	uint64_t end = r->now_ns + limit_ns;

	while (!cond(r) && r->now_ns < end && !r->error[0]) {
		if (r->fake.wanted)
			r->leases += fake_region_lease(&r->fake, r->e);
		run_advance(r, MS / 2);
	}
	return cond(r);
}

/* A get takes no longer: its limit, and a read into a guest's memory that is waited for. */
static uint64_t requests_ns(const struct run *r)
{
	return 2 * r->cfg.get_timeout_ns + r->fake.cfg.slow_ns + MS;
}

static bool no_requests(struct run *r)
{
	return !r->reqs;
}

static bool is_empty(struct run *r)
{
	const struct engine_stats *s = engine_stats(r->e);

	return !stat_get(&s->pages) && !stat_get(&s->objects) && !stat_get(&s->remote_slots_used) &&
	       !stat_get(&s->disk_slots_used) && !stat_get(&s->live_bytes);
}

static int read_all(struct run *r)
{
	for (uint32_t k = 0; k < ref_keys(&r->ref); k++) {
		if (!r->ref.pool[ref_key_pool(&r->ref, k)].id)
			continue;
		if (run_get(r, k))
			return -EBADMSG;
		if (r->reqs == RUN_REQS || !rng_below(&r->rng, 4)) {
			engine_kick(r->e);
			if (!wait_until(r, no_requests, requests_ns(r)))
				return run_fail(r, "%u requests were never done", r->reqs);
		}
	}
	engine_kick(r->e);
	if (!wait_until(r, no_requests, requests_ns(r)))
		return run_fail(r, "%u requests were never done", r->reqs);
	return r->error[0] ? -EBADMSG : 0;
}

static int flush_all(struct run *r)
{
	uint32_t per_pool = r->ref.cfg.objects * r->ref.cfg.indices;

	for (unsigned p = 0; p < r->ref.cfg.pools; p++) {
		if (!r->ref.pool[p].id)
			continue;
		unsigned how = (unsigned)rng_below(&r->rng, 3);

		for (uint32_t k = p * per_pool; how == 0 && k < (p + 1) * per_pool; k++)
			if (run_flush_page(r, k))
				return -EBADMSG;
		for (unsigned o = 0; how == 1 && o < r->ref.cfg.objects; o++)
			if (run_flush_object(r, p, o))
				return -EBADMSG;
		if (how == 2 && run_pool_destroy(r, p))
			return -EBADMSG;
		run_advance(r, MS);
	}
	return 0;
}

int run_finish(struct run *r)
{
	const struct engine_stats *s;

	r->quiet = true;
	r->fake.cfg.fail_ppm = r->fake.cfg.flip_ppm = r->fake.cfg.slow_ppm = 0;
	r->fake.cfg.refuse_ppm = 0;
	for (unsigned d = 0; d < r->fake.cfg.donors; d++)
		fake_donor_set(&r->fake, r->e, d, true);
	if (!wait_until(r, no_requests, 10 * requests_ns(r) + r->cfg.put_wait_ns))
		return run_fail(r, "%u requests were never done", r->reqs);
	run_advance(r, 500 * MS);
	r->disrupted_ns = 0;
	if (run_check(r) || read_all(r) || run_crash(r))
		return -EBADMSG;
	r->disrupted_ns = 0;
	if (read_all(r) || flush_all(r))
		return -EBADMSG;
	s = engine_stats(r->e);
	if (!wait_until(r, is_empty, 20000 * MS))
		return run_fail(r,
			"all was flushed, but %" PRIu64 " pages, %" PRIu64 " objects, %" PRIu64
			" live bytes, %" PRIu64 " remote and %" PRIu64 " disk slots are left",
			stat_get(&s->pages), stat_get(&s->objects), stat_get(&s->live_bytes),
			stat_get(&s->remote_slots_used), stat_get(&s->disk_slots_used));
	if (run_reopen(r))
		return -EBADMSG;
	run_advance(r, 100 * MS);
	s = engine_stats(r->e);
	if (stat_get(&s->local_slots_free) != stat_get(&s->local_slots))
		return run_fail(r,
			"all was flushed, but only %" PRIu64 " of %" PRIu64 " slots are free",
			stat_get(&s->local_slots_free), stat_get(&s->local_slots));
	return run_check(r);
}
