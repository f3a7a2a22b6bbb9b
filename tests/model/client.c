/* The client calls of the model test, each checked against the reference. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/model/page.h"
#include "tests/model/run.h"

static struct run_req *req_new(struct run *r, uint32_t k, bool put)
{
	for (unsigned i = 0; i < RUN_REQS; i++) {
		struct run_req *q = &r->req[i];

		if (q->active)
			continue;
		q->run = r;
		q->active = true;
		q->put = put;
		q->k = k;
		q->pool = r->ref.pool[ref_key_pool(&r->ref, k)].id;
		r->reqs++;
		return q;
	}
	return NULL;
}

static void req_free(struct run_req *q)
{
	q->active = false;
	q->run->reqs--;
	/* The engine must not look at it any more. */
	memset(&q->req, 0xa5, sizeof(q->req));
}

static void count_get(struct run *r, int status)
{
	r->misses += status == -ENOENT;
	r->lost += status == -EIO;
	r->timeouts += status == -ETIMEDOUT;
}

/*
 * Within a grant a put is refused only where the room is short: the page that was refused is not
 * there, so the pool has fewer pages than it was promised.
 */
static void put_refused(struct run *r, const struct run_req *q)
{
	const struct run_grant *g = &r->grant[ref_key_pool(&r->ref, q->k)];

	r->puts_refused++;
	if (!g->kept || g->id != q->pool || engine_pool_pages(r->e, g->id) >= g->pages)
		return;
	if (stat_get(&engine_stats(r->e)->reserved_short_pages) || r->short_ns >= q->start_ns) {
		r->granted_short++;
		return;
	}
	run_fail(r,
		"a put to pool %u was refused after %llu ns: it has %llu pages of %llu promised, "
		"and the "
		"room is not short",
		g->id, (unsigned long long)(r->now_ns - q->start_ns),
		(unsigned long long)engine_pool_pages(r->e, g->id), (unsigned long long)g->pages);
}

static void put_ended(struct run *r, struct run_req *q, bool was_pending, int status)
{
	if (q->pool != r->ref.pool[ref_key_pool(&r->ref, q->k)].id)
		return; /* the pool was destroyed meanwhile: any answer will do */
	run_log_end(r, q->log, status, 0);
	if (status == -ENOSPC)
		put_refused(r, q);
	else
		r->puts_granted += r->grant[ref_key_pool(&r->ref, q->k)].kept;
	if (ref_put_end(&r->ref, q->k, q->version, was_pending, status))
		run_fail(r, "%s", r->ref.error);
}

static void get_ended(struct run *r, struct run_req *q, int status)
{
	const uint8_t *page = q->req.in_place ? q->guest : q->page;

	count_get(r, status);
	if (fake_writes_to(&r->fake, q->guest))
		run_fail(r, "a get ended while its page was being read into");
	if (ref_get_end(&r->ref, q->k, q->handle, status, page, run_timeouts_allowed(r)))
		run_fail(r, "%s", r->ref.error);
}

static void req_done(struct engine_req *req, int status)
{
	struct run_req *q = (struct run_req *)((char *)req - offsetof(struct run_req, req));
	struct run *r = q->run;

	if (!q->active) {
		run_fail(r, "a request was done twice");
		return;
	}
	if (status == -EINPROGRESS)
		run_fail(r, "a request was done with EINPROGRESS");
	if (q->put)
		put_ended(r, q, true, status);
	else
		get_ended(r, q, status);
	req_free(q);
}

int run_put(struct run *r, uint32_t k)
{
	struct run_req *q = req_new(r, k, true);
	struct engine_key key = ref_engine_key(&r->ref, k);
	int status;

	if (!q)
		return 0;
	r->puts++;
	q->version = ref_put_begin(&r->ref, k);
	page_fill(q->page, &key, q->version);
	q->start_ns = r->now_ns;
	q->req.done = req_done;
	q->log = run_log_begin(r, RUN_PUT, k, q->version);
	status = engine_put(r->e, &key, q->page, &q->req);
	if (status == -EINPROGRESS) {
		run_log_pending(r, q->log);
		ref_put_pending(&r->ref, k, q->version);
		return 0;
	}
	put_ended(r, q, false, status);
	req_free(q);
	return r->error[0] ? -EBADMSG : 0;
}

int run_get(struct run *r, uint32_t k)
{
	struct run_req *q = req_new(r, k, false);
	struct engine_key key = ref_engine_key(&r->ref, k);
	int status;

	if (!q)
		return 0;
	r->gets++;
	q->handle = ref_get_begin(&r->ref, k);
	memset(q->page, 0xcc, sizeof(q->page));
	memset(q->guest, 0xdd, sizeof(q->guest));
	q->req.done = req_done;
	q->req.in_place = false;
	if (rng_below(&r->rng, 2)) {
		struct engine_direct direct = {.page = q->guest, .memory = FAKE_GUEST};

		status = engine_get_direct(r->e, &key, q->page, &direct, &q->req);
	} else {
		status = engine_get(r->e, &key, q->page, &q->req);
	}
	if (status == -EINPROGRESS)
		return 0;
	get_ended(r, q, status);
	req_free(q);
	return r->error[0] ? -EBADMSG : 0;
}

int run_flush_page(struct run *r, uint32_t k)
{
	struct engine_key key = ref_engine_key(&r->ref, k);
	uint32_t entry = run_log_begin(r, RUN_FLUSH_PAGE, k, 0);
	int status = engine_flush_page(r->e, &key);

	run_log_end(r, entry, status, 0);
	r->flushes++;
	if (ref_flush_page(&r->ref, k, status))
		return run_fail(r, "%s", r->ref.error);
	return 0;
}

int run_flush_object(struct run *r, unsigned slot, unsigned object)
{
	uint32_t k = (slot * r->ref.cfg.objects + object) * r->ref.cfg.indices;
	struct engine_key key = ref_engine_key(&r->ref, k);
	uint32_t entry = run_log_begin(r, RUN_FLUSH_OBJECT, k, 0);
	uint64_t pages = 0;
	int status = engine_flush_object(r->e, key.pool, key.oid, &pages);

	run_log_end(r, entry, status, pages);
	r->flushes++;
	if (ref_flush_object(&r->ref, slot, object, status, pages))
		return run_fail(r, "%s", r->ref.error);
	return 0;
}

int run_grants_ask(struct run *r)
{
	for (unsigned i = 0; i < RUN_POOLS; i++) {
		struct run_grant *g = &r->grant[i];
		struct engine_reservation want = {.pages = g->pages, .objects = r->ref.cfg.objects};
		uint64_t possible;
		int status;

		if (!g->id || g->kept)
			continue;
		status = engine_pool_reserve(r->e, g->id, &want, true, &possible);
		g->asked = g->pages;
		if (status == -EDQUOT) {
			g->id = 0;
		} else if (status == -ENOSPC) {
			r->grants_waited++;
			if (possible > g->pages)
				return run_fail(r, "more is possible than was asked for");
			/* Take what there is rather than nothing for ever. */
			if (possible && !rng_below(&r->rng, 4))
				g->pages = possible;
		} else if (status) {
			return run_fail(r, "engine_pool_reserve: %s", strerror(-status));
		} else {
			g->kept = true;
			r->grants_kept++;
		}
	}
	return 0;
}

uint64_t run_grants_unused(const struct run *r, unsigned account)
{
	uint64_t unused = 0;

	for (unsigned i = 0; i < RUN_POOLS; i++) {
		const struct run_grant *g = &r->grant[i];
		uint64_t pages = g->id ? engine_pool_pages(r->e, g->id) : 0;

		if (g->id && r->ref.pool[i].account == account && g->asked > pages)
			unused += g->asked - pages;
	}
	return unused;
}

int run_grants_check(struct run *r)
{
	for (unsigned i = 0; i < RUN_POOLS; i++) {
		struct run_grant *g = &r->grant[i];
		uint64_t pages = g->id ? engine_pool_reserved(r->e, g->id).pages : 0;

		if (!g->id)
			continue;
		if (pages != (g->kept ? g->pages : 0))
			return run_fail(r, "pool %u was promised %llu pages, %llu are kept", g->id,
				(unsigned long long)g->pages, (unsigned long long)pages);
		if (!g->kept)
			g->asked = 0;
	}
	return 0;
}

/* Each run with promises has some for a pool or two: a part or all of what its keys can fill. */
static void grant_choose(struct run *r, unsigned slot, uint32_t id)
{
	uint64_t keys = (uint64_t)r->ref.cfg.objects * r->ref.cfg.indices;
	unsigned others = 0;

	r->grant[slot] = (struct run_grant){0};
	for (unsigned i = 0; i < RUN_POOLS; i++)
		others += r->grant[i].id != 0;
	if (r->grants && others < 2 && rng_below(&r->rng, 2))
		r->grant[slot] = (struct run_grant){
			.id = id, .pages = rng_range(&r->rng, keys / 8 + 1, keys)};
}

int run_pool_make(struct run *r, unsigned slot)
{
	bool disk = r->cfg.disk_segments > 0;
	struct engine_pool_desc d = {
		.id = r->next_pool_id++,
		.flags = (rng_below(&r->rng, 3) && !r->cache ? ENGINE_POOL_PERSISTENT : 0) |
			 (rng_below(&r->rng, 2) ? ENGINE_POOL_SHARED : 0),
		.account = (uint16_t)rng_below(&r->rng, RUN_ACCOUNTS),
		.codec = (uint8_t)(r->hammer ? ENGINE_CODEC_NONE : rng_below(&r->rng, 3)),
		.copies = (uint8_t)rng_range(&r->rng, 1, ENGINE_MAX_COPIES),
		.disk = (uint8_t)(disk ? rng_below(&r->rng, 3) : 0),
	};
	struct ref_pool p = {.id = d.id,
		.persistent = d.flags & ENGINE_POOL_PERSISTENT,
		.copies = d.copies,
		.disk_safe = d.disk == ENGINE_DISK_MIRROR,
		.account = d.account};
	int status;

	/* At the beginning there is one persistent pool for each R. */
	if (r->pools < ENGINE_MAX_COPIES) {
		d.flags |= ENGINE_POOL_PERSISTENT;
		p.persistent = true;
		p.copies = d.copies = (uint8_t)(r->pools + 1);
	}
	if (!p.persistent && rng_below(&r->rng, 3))
		d.flags |= ENGINE_POOL_SPILL;
	/* Each account has segments of its own: few of them fill more. */
	if (r->cache && rng_below(&r->rng, 4))
		d.account = p.account = 0;
	snprintf(d.owner, sizeof(d.owner), "model");
	if (d.flags & ENGINE_POOL_SHARED)
		memset(d.uuid, (int)d.id, sizeof(d.uuid));
	status = engine_pool_add(r->e, &d);
	if (status)
		return run_fail(r, "engine_pool_add: %s", strerror(-status));
	r->pools++;
	ref_pool_made(&r->ref, slot, &p);
	r->grant[slot].id = 0;
	if (p.persistent)
		grant_choose(r, slot, d.id);
	return 0;
}

int run_pool_destroy(struct run *r, unsigned slot)
{
	uint32_t id = r->ref.pool[slot].id;
	struct engine_key key =
		ref_engine_key(&r->ref, slot * r->ref.cfg.objects * r->ref.cfg.indices);
	uint8_t page[ENGINE_PAGE_BYTES];
	struct engine_req req = {.done = req_done};
	int status = engine_pool_destroy(r->e, id);

	if (status)
		return run_fail(r, "engine_pool_destroy: %s", strerror(-status));
	ref_pool_gone(&r->ref, slot);
	r->grant[slot].id = 0;
	r->grant[slot].kept = false;
	status = engine_get(r->e, &key, page, &req);
	if (status != -ENOENT)
		return run_fail(r, "a get from a destroyed pool ended with %d", status);
	status = engine_put(r->e, &key, page, &req);
	if (status != -ENOENT)
		return run_fail(r, "a put to a destroyed pool ended with %d", status);
	if (engine_pool(r->e, id))
		return run_fail(r, "a destroyed pool is still known");
	return 0;
}

void run_forget_requests(struct run *r)
{
	for (unsigned i = 0; i < RUN_REQS; i++) {
		struct run_req *q = &r->req[i];

		if (!q->active)
			continue;
		if (!q->put)
			ref_get_end(&r->ref, q->k, q->handle, -ECANCELED, NULL, true);
		else if (q->pool == r->ref.pool[ref_key_pool(&r->ref, q->k)].id)
			ref_put_unknown(&r->ref, q->k, q->version, true);
		req_free(q);
	}
}
