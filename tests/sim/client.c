/* The guests' calls of a backend, at random moments, each held against the reference model. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/model/page.h"
#include "tests/sim/sim.h"

static event_fn call_event;

static struct sreq *req_new(struct backend *b, uint32_t k, bool put)
{
	for (unsigned i = 0; i < SIM_REQS; i++) {
		struct sreq *q = &b->req[i];

		if (q->active)
			continue;
		q->b = b;
		q->active = true;
		q->put = put;
		q->k = k;
		q->pool = b->ref.pool[ref_key_pool(&b->ref, k)].id;
		q->start_ns = b->sim->now_ns;
		b->reqs++;
		return q;
	}
	return NULL;
}

static void req_free(struct sreq *q)
{
	q->active = false;
	q->b->reqs--;
	memset(&q->req, 0xa5, sizeof(q->req));
}

/* Within a grant a put is refused only where promised room is short. The refused page is not there.
 */
static void put_refused(struct sreq *q)
{
	struct backend *b = q->b;
	const struct lane *l = &b->lane[q->lane];
	const struct sgrant *g = &b->grant;
	uint64_t pages = engine_pool_pages(l->e, q->pool);

	b->sim->refused++;
	if (g->id != q->pool || !g->lane[q->lane].kept || pages >= g->lane[q->lane].pages)
		return;
	if (stat_get(&engine_stats(l->e)->reserved_short_pages) || l->short_ns >= q->start_ns)
		b->sim->granted_short++;
	else
		sim_fail(b->sim,
			"backend %u lane %u: a put was refused after %llu ms, with %llu of %llu "
			"promised pages used and no room short",
			b->index, q->lane,
			(unsigned long long)((b->sim->now_ns - q->start_ns) / MS),
			(unsigned long long)pages, (unsigned long long)g->lane[q->lane].pages);
}

static void ended(struct sreq *q, bool was_pending, int status)
{
	struct backend *b = q->b;
	struct sim *sim = b->sim;
	int wrong = 0;

	sim->hash = rng_mix(sim->hash ^ (uint64_t)(unsigned)status ^ (uint64_t)q->k << 32);
	if (!q->put) {
		sim->misses += status == -ENOENT;
		sim->lost += status == -EIO;
		sim->timeouts += status == -ETIMEDOUT;
		wrong = ref_get_end(
			&b->ref, q->k, q->handle, status, q->page, sim->now_ns < sim->trouble_ns);
	} else if (q->pool == b->ref.pool[ref_key_pool(&b->ref, q->k)].id) {
		if (status == -ENOSPC)
			put_refused(q);
		else
			sim->granted_puts += b->grant.id == q->pool;
		wrong = ref_put_end(&b->ref, q->k, q->version, was_pending, status);
	}
	if (wrong)
		sim_fail(sim, "backend %u: %s", b->index, b->ref.error);
}

static void req_done(struct engine_req *req, int status)
{
	struct sreq *q = (struct sreq *)((char *)req - offsetof(struct sreq, req));

	if (!q->active) {
		sim_fail(q->b->sim, "a request was done twice");
		return;
	}
	ended(q, true, status);
	req_free(q);
}

static struct lane *lane_of(struct backend *b, const struct engine_key *key)
{
	return &b->lane[engine_key_lane(key, b->lanes)];
}

static int client_put(struct backend *b, uint32_t k)
{
	struct sreq *q = req_new(b, k, true);
	struct engine_key key = ref_engine_key(&b->ref, k);
	struct lane *l = lane_of(b, &key);
	int status;

	if (!q)
		return 0;
	b->sim->puts++;
	q->version = ref_put_begin(&b->ref, k);
	q->lane = l->index;
	page_fill(q->page, &key, q->version);
	q->req.done = req_done;
	status = engine_put(l->e, &key, q->page, &q->req);
	lane_wake(l, b->sim->now_ns);
	if (status == -EINPROGRESS) {
		ref_put_pending(&b->ref, k, q->version);
		return 0;
	}
	ended(q, false, status);
	req_free(q);
	return b->sim->error[0] ? -EBADMSG : 0;
}

int client_get(struct backend *b, uint32_t k)
{
	struct sreq *q = req_new(b, k, false);
	struct engine_key key = ref_engine_key(&b->ref, k);
	struct lane *l = lane_of(b, &key);
	int status;

	if (!q)
		return 0;
	b->sim->gets++;
	q->handle = ref_get_begin(&b->ref, k);
	q->lane = l->index;
	memset(q->page, 0xcc, sizeof(q->page));
	q->req.done = req_done;
	status = engine_get(l->e, &key, q->page, &q->req);
	lane_wake(l, b->sim->now_ns);
	if (status == -EINPROGRESS)
		return 0;
	ended(q, false, status);
	req_free(q);
	return b->sim->error[0] ? -EBADMSG : 0;
}

static int client_flush_page(struct backend *b, uint32_t k)
{
	struct engine_key key = ref_engine_key(&b->ref, k);
	struct lane *l = lane_of(b, &key);

	b->sim->flushes++;
	if (ref_flush_page(&b->ref, k, engine_flush_page(l->e, &key)))
		return sim_fail(b->sim, "backend %u: %s", b->index, b->ref.error);
	lane_wake(l, b->sim->now_ns);
	return 0;
}

static int client_flush_object(struct backend *b, unsigned slot, unsigned object)
{
	uint32_t k = (slot * b->ref.cfg.objects + object) * b->ref.cfg.indices;
	struct engine_key key = ref_engine_key(&b->ref, k);
	uint64_t pages = 0;
	int status = -ENOENT;

	b->sim->flushes++;
	for (unsigned i = 0; i < b->lanes; i++) {
		uint64_t n = 0;

		if (!engine_flush_object(b->lane[i].e, key.pool, key.oid, &n))
			status = 0;
		pages += n;
		lane_wake(&b->lane[i], b->sim->now_ns);
	}
	if (ref_flush_object(&b->ref, slot, object, status, pages))
		return sim_fail(b->sim, "backend %u: %s", b->index, b->ref.error);
	return 0;
}

/* A new pool's grant: all its keys. */
static void grant_choose(struct backend *b, unsigned slot)
{
	uint32_t per_pool = b->ref.cfg.objects * b->ref.cfg.indices;
	struct sgrant *g = &b->grant;

	memset(g, 0, sizeof(*g));
	g->id = b->pool[slot].id;
	for (uint32_t k = slot * per_pool; k < (slot + 1) * per_pool; k++) {
		struct engine_key key = ref_engine_key(&b->ref, k);

		g->lane[lane_of(b, &key)->index].pages++;
	}
}

/* Asks the lanes that have not promised it yet. */
static int grant_ask(struct backend *b)
{
	struct sgrant *g = &b->grant;

	for (unsigned i = 0; g->id && i < b->lanes; i++) {
		struct engine_reservation r = {
			.pages = g->lane[i].pages, .objects = b->ref.cfg.objects};
		uint64_t possible;
		int status;

		if (g->lane[i].kept)
			continue;
		status = engine_pool_reserve(b->lane[i].e, g->id, &r, true, &possible);
		if (status && status != -ENOSPC)
			return sim_fail(b->sim, "engine_pool_reserve: %s", strerror(-status));
		g->lane[i].asked = r.pages;
		g->lane[i].kept = status == 0;
		b->sim->grants_kept += status == 0;
		lane_wake(&b->lane[i], b->sim->now_ns);
	}
	return 0;
}

uint64_t client_grant_unused(const struct backend *b, unsigned account)
{
	const struct sgrant *g = &b->grant;
	uint64_t unused = 0;

	for (unsigned i = 0; g->id && i < b->lanes; i++) {
		uint64_t pages = engine_pool_pages(b->lane[i].e, g->id);

		if (engine_pool(b->lane[i].e, g->id)->account == account &&
			g->lane[i].asked > pages)
			unused += g->lane[i].asked - pages;
	}
	return unused;
}

/* A restart keeps what was promised, and nothing that was only asked for. */
static int grant_restart(struct backend *b)
{
	struct sgrant *g = &b->grant;

	for (unsigned i = 0; g->id && i < b->lanes; i++) {
		uint64_t kept = engine_pool_reserved(b->lane[i].e, g->id).pages;

		if (kept != (g->lane[i].kept ? g->lane[i].pages : 0))
			return sim_fail(
				b->sim, "backend %u lane %u: a grant was not kept", b->index, i);
		g->lane[i].asked = kept;
	}
	return 0;
}

int client_pool_make(struct backend *b, unsigned slot)
{
	struct rng *g = &b->sim->rng;
	struct engine_pool_desc d = {.id = b->next_pool_id++,
		.flags = (slot < 3 || (rng_below(g, 3) && !b->sim->cache) ? ENGINE_POOL_PERSISTENT
									  : 0) |
			 (rng_below(g, 2) ? ENGINE_POOL_SHARED : 0),
		.account = (uint16_t)rng_below(g, SIM_ACCOUNTS),
		.codec = (uint8_t)(b->sim->hammer ? ENGINE_CODEC_NONE : rng_below(g, 3)),
		.copies = (uint8_t)(slot < 3 ? slot + 1 : rng_range(g, 1, 3)),
		.disk = (uint8_t)(b->cfg.disk_segments ? rng_below(g, 3) : 0)};
	struct ref_pool p = {.id = d.id,
		.persistent = d.flags & ENGINE_POOL_PERSISTENT,
		.copies = d.copies,
		.disk_safe = d.disk == ENGINE_DISK_MIRROR,
		.account = d.account};

	if (!p.persistent && rng_below(g, 4))
		d.flags |= ENGINE_POOL_SPILL;
	if (b->sim->cache && !p.persistent)
		d.account = p.account = 0;
	snprintf(d.owner, sizeof(d.owner), "guest%u", b->index);
	for (unsigned i = 0; i < b->lanes; i++)
		if (engine_pool_add(b->lane[i].e, &d))
			return sim_fail(b->sim, "engine_pool_add");
	b->pool[slot] = d;
	ref_pool_made(&b->ref, slot, &p);
	if (b->grants && !b->grant.id && p.persistent && rng_below(g, 2))
		grant_choose(b, slot);
	return 0;
}

static int client_pool_destroy(struct backend *b, unsigned slot)
{
	if (b->grant.id == b->ref.pool[slot].id)
		b->grant.id = 0;
	for (unsigned i = 0; i < b->lanes; i++) {
		if (engine_pool_destroy(b->lane[i].e, b->ref.pool[slot].id))
			return sim_fail(b->sim, "engine_pool_destroy");
		lane_wake(&b->lane[i], b->sim->now_ns);
	}
	ref_pool_gone(&b->ref, slot);
	return 0;
}

static int one_call(struct backend *b)
{
	struct rng *g = &b->sim->rng;
	uint32_t k = (uint32_t)rng_below(g, ref_keys(&b->ref));
	unsigned slot, dice = (unsigned)rng_below(g, 10000);

	/* The last pool is the ephemeral one. */
	if (b->sim->cache && rng_below(g, 4)) {
		k = ref_keys(&b->ref) - 1 - k % (b->ref.cfg.objects * b->ref.cfg.indices);
		if (dice >= 9300 && rng_below(g, 8))
			dice = 0;
	}
	slot = ref_key_pool(&b->ref, k);
	if (b->sim->hammer && dice >= 6500 && dice < 9970 && rng_below(g, 8))
		dice = 0;
	if (b->grants && !rng_below(g, 20) && grant_ask(b))
		return -EBADMSG;
	if (!b->ref.pool[slot].id)
		return client_pool_make(b, slot);
	if (dice < 4300)
		return client_put(b, k);
	if (dice < 9300) {
		/* Neighbours, too: they merge. */
		unsigned n = rng_below(g, 4) ? 1 : (unsigned)rng_range(g, 2, 6);

		for (; n-- && k < ref_keys(&b->ref) && ref_key_pool(&b->ref, k) == slot; k++)
			if (client_get(b, k))
				return -EBADMSG;
		return 0;
	}
	if (dice < 9970)
		return client_flush_page(b, k);
	if (dice < 9997)
		return client_flush_object(b, slot, k / b->ref.cfg.indices % b->ref.cfg.objects);
	return client_pool_destroy(b, slot);
}

static void call_event(struct sim *sim, void *object, uint64_t life)
{
	struct backend *b = object;

	if (!b->up || b->life != life || sim->quiet)
		return;
	if (one_call(b) == 0)
		sim_after(sim, rng_below(&sim->rng, 2 * sim->cfg.op_gap_ns), call_event, b, life);
}

int client_start(struct backend *b)
{
	if (grant_restart(b))
		return -EBADMSG;
	for (unsigned s = 0; s < b->ref.cfg.pools; s++)
		if (b->life == 1 && client_pool_make(b, s))
			return -EBADMSG;
	sim_after(b->sim, b->sim->cfg.op_gap_ns, call_event, b, b->life);
	return 0;
}

void client_forget(struct backend *b)
{
	for (unsigned i = 0; i < SIM_REQS; i++) {
		struct sreq *q = &b->req[i];

		if (!q->active)
			continue;
		if (!q->put)
			ref_get_end(&b->ref, q->k, q->handle, -ECANCELED, NULL, true);
		else if (q->pool == b->ref.pool[ref_key_pool(&b->ref, q->k)].id)
			ref_put_unknown(&b->ref, q->k, q->version, true);
		req_free(q);
	}
}

int client_overdue(struct backend *b)
{
	uint64_t now = b->sim->now_ns, slack = 20 * MS;

	for (unsigned i = 0; i < SIM_REQS; i++) {
		struct sreq *q = &b->req[i];
		uint64_t bound = q->put ? b->cfg.put_wait_ns : b->cfg.get_timeout_ns;

		if (q->active && now > q->start_ns + bound + slack)
			return sim_fail(b->sim, "backend %u: a %s is under way for %llu ms",
				b->index, q->put ? "put" : "get",
				(unsigned long long)((now - q->start_ns) / MS));
	}
	return 0;
}

int client_flush_all(struct backend *b)
{
	uint32_t per_pool = b->ref.cfg.objects * b->ref.cfg.indices;

	for (unsigned p = 0; p < b->ref.cfg.pools; p++) {
		unsigned how = (unsigned)rng_below(&b->sim->rng, 3);

		if (!b->ref.pool[p].id)
			continue;
		for (uint32_t k = p * per_pool; how == 0 && k < (p + 1) * per_pool; k++)
			if (client_flush_page(b, k))
				return -EBADMSG;
		for (unsigned o = 0; how == 1 && o < b->ref.cfg.objects; o++)
			if (client_flush_object(b, p, o))
				return -EBADMSG;
		if (how == 2 && client_pool_destroy(b, p))
			return -EBADMSG;
	}
	return 0;
}
