/* The engine: opening and closing, puts, and what happens with time. */
#include "client-backend/engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client-backend/engine/impl.h"

#define PUTS_PER_TICK 64u
#define REAP_BUCKETS  512u
#define SIFT_PER_PUT  4u
#define SIFT_PER_WORK 64u
#define SETTLE_NS     10000000ull /* regions are looked over this often */

/* ---- configuration ---- */

void engine_config_default(struct engine_config *c, uint64_t local_bytes, uint64_t max_pages)
{
	*c = (struct engine_config){
		.segment_bytes = 1u << 20,
		.max_pages = max_pages,
		.fetches = 64,
		.moves = 4,
		.lanes = 1,
		.max_regions = 1024,
		.hedge_ns = 5000000,
		.get_timeout_ns = 10000000000,
		.cache_timeout_ns = 250000000,
		.direct_timeout_ns = 200000000,
		.put_wait_ns = 1000000000,
		.retry_ns = 100000000,
		.spill_percent = 30,
		.live_percent = 85,
		.probation_percent = 10,
		.zstd_level = 1,
	};
	uint64_t slots = local_bytes / c->segment_bytes;

	c->local_segments = slots < 8 ? 8 : (uint32_t)slots;
	c->sums = max_pages / 16 < UINT32_MAX ? (uint32_t)(max_pages / 16) : UINT32_MAX;
	c->max_objects = max_pages / 4 < 1024 ? 1024 : (uint32_t)(max_pages / 4);
	/* All pages uncompressed and two thirds alive, beside the local tier. */
	c->max_segments = c->local_segments +
			  (uint32_t)(max_pages * ENGINE_PAGE_BYTES / c->segment_bytes * 3 / 2) + 64;
}

#define CHECK(ok, ...)                                                                             \
	do {                                                                                       \
		if (!(ok)) {                                                                       \
			snprintf(err, err_bytes, __VA_ARGS__);                                     \
			return -EINVAL;                                                            \
		}                                                                                  \
	} while (0)

int engine_config_check(const struct engine_config *c, char *err, size_t err_bytes)
{
	CHECK(c->segment_bytes >= 65536 && c->segment_bytes <= (4u << 20) &&
			!(c->segment_bytes & (c->segment_bytes - 1)),
		"segment_bytes %" PRIu32 ": must be a power of two from 64 KiB to 4 MiB",
		c->segment_bytes);
	CHECK(c->local_segments >= 8, "local_segments %" PRIu32 ": must be at least 8",
		c->local_segments);
	CHECK(c->max_pages >= 64 && c->max_pages < 1ull << 33,
		"max_pages %" PRIu64 ": must be from 64 to 2^33", c->max_pages);
	CHECK(c->max_objects >= 1 && c->max_objects < 1u << 30,
		"max_objects %" PRIu32 ": must be from 1 to 2^30", c->max_objects);
	CHECK(c->max_segments > c->local_segments && c->max_segments < 1u << LOC_ROW_BITS,
		"max_segments %" PRIu32 ": must be above local_segments and below 2^26",
		c->max_segments);
	CHECK(c->max_regions >= 1 && c->max_regions < 1u << 24,
		"max_regions %" PRIu32 ": must be from 1 to 2^24", c->max_regions);
	CHECK(c->fetches >= 2 && c->fetches <= 4096, "fetches %" PRIu32 ": must be from 2 to 4096",
		c->fetches);
	CHECK(c->moves >= 2 && c->moves <= 64, "moves %" PRIu32 ": must be from 2 to 64", c->moves);
	CHECK(c->lanes >= 1 && c->lane < c->lanes, "lane %" PRIu32 ": must be below lanes %" PRIu32,
		c->lane, c->lanes);
	CHECK(c->spill_percent >= 1 && c->spill_percent <= 90,
		"spill_percent %" PRIu32 ": must be from 1 to 90", c->spill_percent);
	CHECK(c->live_percent >= 50 && c->live_percent <= 95,
		"live_percent %" PRIu32 ": must be from 50 to 95", c->live_percent);
	CHECK(c->probation_percent >= 1 && c->probation_percent <= 90,
		"probation_percent %" PRIu32 ": must be from 1 to 90", c->probation_percent);
	CHECK(c->zstd_level >= 1 && c->zstd_level <= 19,
		"zstd_level %" PRIu32 ": must be from 1 to 19", c->zstd_level);
	return 0;
}

/* ---- opening and closing ---- */

static int tables_new(struct engine *e)
{
	const struct engine_config *c = &e->cfg;
	uint32_t heads = 1024;

	while (heads < c->max_objects)
		heads *= 2;
	e->object_mask = heads - 1;
	e->object_head = calloc(heads, sizeof(*e->object_head));
	e->pool = calloc(ENGINE_MAX_POOLS, sizeof(*e->pool));
	e->sv = calloc(c->max_segments, sizeof(*e->sv));
	e->copy_link = calloc(c->max_segments, ENGINE_MAX_COPIES * sizeof(*e->copy_link));
	e->free_row = calloc(c->max_segments, sizeof(*e->free_row));
	e->free_slot = calloc(c->local_segments, sizeof(*e->free_slot));
	e->slot_row = calloc(c->local_segments, sizeof(*e->slot_row));
	e->rv = calloc(c->max_regions, sizeof(*e->rv));
	e->disk_bitmap = calloc(c->disk_segments / 64 + 1, sizeof(uint64_t));
	e->fetch = calloc(c->fetches, sizeof(*e->fetch));
	e->move = calloc(c->moves, sizeof(*e->move));
	if (!e->object_head || !e->pool || !e->sv || !e->copy_link || !e->free_row ||
		!e->free_slot || !e->slot_row || !e->rv || !e->disk_bitmap || !e->fetch ||
		!e->move || sums_init(e) || ephemeral_init(e))
		return -ENOMEM;
	uint64_t *bitmaps = calloc(c->max_regions, ENGINE_REGION_MAX_SLOTS / 8);

	if (!bitmaps)
		return -ENOMEM;
	for (uint32_t r = 0; r < c->max_regions; r++)
		e->rv[r].bitmap = bitmaps + (size_t)r * (ENGINE_REGION_MAX_SLOTS / 64);
	for (uint32_t i = 0; i < c->local_segments; i++)
		e->slot_row[i] = NONE;
	for (unsigned b = 0; b < NO_BUCKET; b++)
		list_init(&e->by_live[b]);
	list_init(&e->clean);
	list_init(&e->spill);
	for (unsigned i = 0; i < MAX_STREAMS; i++)
		e->stream[i].row = NONE;
	e->max_streams = c->local_segments / 4 < MAX_STREAMS ? c->local_segments / 4 : MAX_STREAMS;
	if (e->max_streams < 3)
		e->max_streams = 3;
	e->kinds[SEG_FREE] = c->max_segments;
	return 0;
}

/* DRAM of the tables that calloc() gave, for the books. */
static uint64_t tables_bytes(const struct engine *e)
{
	const struct engine_config *c = &e->cfg;

	return sizeof(*e) + ((uint64_t)e->object_mask + 1) * sizeof(*e->object_head) +
	       ENGINE_MAX_POOLS * sizeof(*e->pool) +
	       c->max_segments * (uint64_t)(sizeof(*e->sv) + sizeof(*e->free_row) +
					    ENGINE_MAX_COPIES * sizeof(*e->copy_link)) +
	       c->local_segments * (uint64_t)(sizeof(*e->free_slot) + sizeof(*e->slot_row)) +
	       c->max_regions * (uint64_t)(sizeof(*e->rv) + ENGINE_REGION_MAX_SLOTS / 8) +
	       c->disk_segments / 8 + c->fetches * sizeof(*e->fetch) + c->moves * sizeof(*e->move) +
	       sums_bytes(e) + ephemeral_bytes(e);
}

static void engine_delete(struct engine *e)
{
	if (e->cfg.want_since_ns)
		atomic_store(&e->cfg.want_since_ns[e->cfg.lane], 0);
	arena_close(e);
	codec_delete(e->codec);
	free(e->object_head);
	free(e->pool);
	free(e->sv);
	free(e->copy_link);
	free(e->free_row);
	free(e->free_slot);
	free(e->slot_row);
	if (e->rv)
		free(e->rv[0].bitmap);
	free(e->rv);
	free(e->disk_bitmap);
	free(e->fetch);
	free(e->move);
	sums_fini(e);
	ephemeral_fini(e);
	free(e);
}

int engine_open(const char *path, const struct engine_config *cfg, const struct env *env,
	const struct engine_ops *ops, void *ops_ctx, struct engine **out, char *err,
	size_t err_bytes)
{
	struct engine *e;
	bool fresh;
	int rc = engine_config_check(cfg, err, err_bytes);

	if (rc)
		return rc;
	e = aligned_alloc(64, (sizeof(*e) + 63) / 64 * 64);
	if (!e) {
		snprintf(err, err_bytes, "no memory for the engine");
		return -ENOMEM;
	}
	memset(e, 0, sizeof(*e));
	e->cfg = *cfg;
	e->env = *env;
	e->ops = *ops;
	e->ops_ctx = ops_ctx;
	e->fd = -1;
	rc = tables_new(e);
	if (!rc)
		rc = codec_new(cfg->zstd_level, &e->codec);
	if (rc)
		snprintf(err, err_bytes, "no memory for the engine's tables");
	if (!rc)
		rc = arena_open(e, path, &fresh, err, err_bytes);
	if (!rc)
		rc = engine_recover(e, err, err_bytes);
	if (rc) {
		engine_delete(e);
		return rc;
	}
	stat_add(&e->stats.table_bytes, tables_bytes(e));
	stat_set(&e->stats.local_slots, cfg->local_segments);
	stat_set(&e->stats.disk_slots, cfg->disk_segments);
	*out = e;
	return 0;
}

void engine_abandon(struct engine *e)
{
	engine_delete(e);
}

void engine_close(struct engine *e)
{
	log_seal_all(e);
	engine_delete(e);
}

void engine_tune(struct engine *e, const struct engine_config *c)
{
	e->cfg.hedge_ns = c->hedge_ns;
	e->cfg.get_timeout_ns = c->get_timeout_ns;
	e->cfg.cache_timeout_ns = c->cache_timeout_ns;
	e->cfg.direct_timeout_ns = c->direct_timeout_ns;
	e->cfg.put_wait_ns = c->put_wait_ns;
	e->cfg.retry_ns = c->retry_ns;
	e->cfg.spill_percent = c->spill_percent;
	e->cfg.live_percent = c->live_percent;
	e->cfg.probation_percent = c->probation_percent;
	e->cfg.zstd_level = c->zstd_level;
	codec_set_level(e->codec, c->zstd_level);
}

void engine_memory(const struct engine *e, void **base, size_t *len)
{
	*base = e->base;
	*len = e->len;
}

const struct engine_stats *engine_stats(const struct engine *e)
{
	return &e->stats;
}

/* ---- accounts ---- */

int engine_account_set(struct engine *e, unsigned account, const struct engine_account *a)
{
	if (account >= ENGINE_MAX_ACCOUNTS || !a->name[0] || a->weight == 0 || !a->quota ||
		!memchr(a->name, 0, sizeof(a->name)))
		return -EINVAL;
	struct account_vol *v = &e->account[account];

	if (v->desc.quota != a->quota) {
		quota_return(e, account, v->pages + v->promised);
		atomic_fetch_add_explicit(
			&a->quota->used_pages, v->pages + v->promised, memory_order_relaxed);
	}
	v->desc = *a;
	memcpy(e->account_row[account].name, a->name, sizeof(a->name));
	e->account_row[account].weight = a->weight;
	return 0;
}

const struct engine_account *engine_account(const struct engine *e, unsigned account)
{
	return account < ENGINE_MAX_ACCOUNTS && e->account[account].desc.name[0]
		       ? &e->account[account].desc
		       : NULL;
}

void engine_account_usage(
	const struct engine *e, unsigned account, uint64_t *local_bytes, uint64_t *pages)
{
	*local_bytes = (uint64_t)e->account[account].local_slots * e->cfg.segment_bytes;
	*pages = e->account[account].pages;
}

/* ---- put ---- */

/* Writes the page to the log; its location in *loc. -EAGAIN: no slot is free now; -EBUSY: what
 * there is was promised to others. */
static int put_append(struct engine *e, const struct engine_pool_desc *d,
	const struct engine_key *k, const void *page, bool promised, uint64_t *loc)
{
	struct stream want = stream_for_pool(d, promised);
	uint32_t row, off, len;
	uint8_t codec = d->codec;
	struct record_header *h;

	if (!want.persistent) {
		ephemeral_sift(e, SIFT_PER_PUT);
		want.main = ephemeral_is_known(e, k);
	}

	if (e->reserved_pools > 0 && !promised && log_needs_segment(e, &want) &&
		!reserve_allows(e, &want))
		return -EBUSY;
	h = log_reserve(e, &want, &row, &off);
	if (!h)
		return -EAGAIN;
	len = codec_encode(e->codec, page, h + 1, &codec);
	record_seal(h, k, e->seg[row].seq, len, codec, e->header->secret);
	log_commit(e, row, record_bytes(len));
	sums_put(e, off, h);
	*loc = loc_make(row, off, record_bytes(len));
	stat_add(&e->stats.bytes_stored, record_bytes(len));
	if (codec == ENGINE_CODEC_NONE)
		stat_add(&e->stats.puts_raw, 1);
	if (!want.persistent)
		stat_add(want.main ? &e->stats.ephemeral_ghosts : &e->stats.ephemeral_admitted, 1);
	return 0;
}

/* Makes the key name loc. The record of a refused key stays behind as dead bytes. */
static int put_enter(
	struct engine *e, const struct pool_row *p, const struct engine_key *k, uint64_t loc)
{
	bool paid = pool_promised(pool_vol(e, p->desc.id)) > 0;
	uint32_t object;
	uint64_t *slot = entry_find(e, k, &object);
	int err;

	if (slot) {
		entry_change(e, slot, object, loc);
		return 0;
	}
	if (!paid && !quota_take(e, p->desc.account))
		return -ENOSPC;
	if (object == NONE)
		object = object_create(e, k->pool, k->oid);
	err = object == NONE ? -ENOSPC : entry_insert(e, p, object, k->index, loc);
	if (err) {
		if (!paid)
			quota_return(e, p->desc.account, 1);
		if (object != NONE)
			object_release(e, object);
	}
	return err;
}

static bool quota_full(
	struct engine *e, const struct engine_pool_desc *d, const struct engine_key *k)
{
	struct engine_quota *q = e->account[d->account].desc.quota;
	uint32_t object;

	if (!q || pool_promised(pool_vol(e, d->id)) > 0 ||
		atomic_load_explicit(&q->used_pages, memory_order_relaxed) <
			atomic_load_explicit(&q->limit_pages, memory_order_relaxed))
		return false;
	return !entry_find(e, k, &object);
}

/* 0, -ENOSPC, -ENOENT, or -EAGAIN: no local slot now; -EBUSY: none that is not promised. */
static int put_now(struct engine *e, const struct engine_key *k, const void *page)
{
	const struct pool_row *p = pool_find(e, k->pool);
	bool promised = false;
	uint32_t word;
	uint64_t loc;
	int err;

	if (!p)
		return -ENOENT;
	err = e->reserved_pools > 0 ? reserve_admit(e, p, k, &promised) : 0;
	if (err)
		return err;
	if (quota_full(e, &p->desc, k) &&
		(p->desc.flags & ENGINE_POOL_PERSISTENT || e->lost_live > 0 ||
			!ephemeral_forget(e, p->desc.account) || quota_full(e, &p->desc, k)))
		return -ENOSPC;
	entry_prefetch(e, k);
	if (codec_same_filled(page, &word)) {
		err = put_enter(e, p, k, loc_make_same(word));
		if (!err)
			stat_add(&e->stats.puts_same_filled, 1);
		return err;
	}
	err = put_append(e, &p->desc, k, page, promised, &loc);
	return err ? err : put_enter(e, p, k, loc);
}

/* The copies a segment of this pool needs before it may leave the local tier; one for an ephemeral
 * pool, which waits for somebody else's. */
static unsigned put_copies(const struct engine *e, uint32_t pool)
{
	const struct pool_row *p = pool_find(e, pool);

	return p && p->desc.copies > 1 ? p->desc.copies : 1;
}

/* A new page of it would be within the grant: the key that a waiting put is for holds nothing. */
static bool put_is_promised(const struct engine *e, uint32_t pool)
{
	const struct pool_vol *v = &e->pool[pool % ENGINE_MAX_POOLS];

	return v->kept.pages > v->pages;
}

static bool pool_has_grant(const struct engine *e, uint32_t pool)
{
	return e->pool[pool % ENGINE_MAX_POOLS].kept.pages > 0;
}

/* Will a slot become free soon? What the last tick saw may be outdated: a burst filled the local
 * tier, or a region came that is not enough. */
static bool put_may_wait(struct engine *e, uint64_t now, uint32_t pool, int err)
{
	unsigned copies = put_copies(e, pool);

	/* Beyond its grant a pool does not wait: those within it would wait behind it. */
	if (pool_has_grant(e, pool))
		return err == -EAGAIN && put_is_promised(e, pool);
	if (err != -EAGAIN && err != -EBUSY)
		return false;
	if (err == -EAGAIN && move_may_free(e, now, copies))
		return true;
	region_want(e, now);
	if (e->want_since_ns && now < e->want_since_ns + e->cfg.put_wait_ns)
		return true;
	return err == -EAGAIN && move_may_free(e, now, copies);
}

static int put_refuse(struct engine *e, uint32_t pool, int err)
{
	stat_add(&e->stats.puts_refused, 1);
	if (err == -EBUSY)
		stat_add(&e->stats.puts_refused_promised, 1);
	else if (put_is_promised(e, pool))
		stat_add(&e->stats.puts_refused_granted, 1);
	return -ENOSPC;
}

/* Puts of a pool keep their order; a grant does not wait behind others. */
static bool put_must_queue(const struct engine *e, uint32_t pool)
{
	return e->grant_wait.head || (e->put_wait.head && !pool_has_grant(e, pool));
}

int engine_put(
	struct engine *e, const struct engine_key *k, const void *page, struct engine_req *req)
{
	uint32_t object;
	uint64_t *slot, now;
	int err = put_must_queue(e, k->pool) ? -EAGAIN : put_now(e, k, page);

	if (err == 0) {
		stat_add(&e->stats.puts, 1);
		stat_add(&e->stats.bytes_put, ENGINE_PAGE_BYTES);
		return 0;
	}
	if (!pool_find(e, k->pool))
		return -ENOENT;
	/* tmem's rule: the client keeps this page elsewhere now, so what was here must never come
	 * back. */
	slot = entry_find(e, k, &object);
	if (slot)
		entry_remove(e, slot, object);
	now = now_ns(e);
	if (!req || !e->cfg.put_wait_ns || !put_may_wait(e, now, k->pool, err))
		return put_refuse(e, k->pool, err);
	req->key = *k;
	req->page = (void *)page;
	req->start_ns = now;
	req->deadline_ns = now + e->cfg.put_wait_ns;
	if (pool_has_grant(e, k->pool))
		req_list_push(&e->grant_wait, req, REQ_GRANT_WAIT);
	else
		req_list_push(&e->put_wait, req, REQ_PUT_WAIT);
	stat_add(&e->stats.puts_waited, 1);
	return -EINPROGRESS;
}

/* Waiting puts go in the order they came, a few with each tick; the first that still finds no room
 * ends the round. */
static void put_wait_run(struct engine *e, struct req_list *list, uint64_t now, uint64_t *wake)
{
	struct engine_req *r;
	unsigned n = 0;

	while ((r = list->head)) {
		if (n++ == PUTS_PER_TICK) {
			*wake = now;
			return;
		}
		int err = put_now(e, &r->key, r->page);

		if ((err == -EAGAIN || err == -EBUSY) && now < r->deadline_ns &&
			put_may_wait(e, now, r->key.pool, err))
			break;
		req_unlink(list, r);
		if (err == 0) {
			stat_add(&e->stats.puts, 1);
			stat_add(&e->stats.bytes_put, ENGINE_PAGE_BYTES);
		} else if (err != -ENOENT) {
			err = put_refuse(e, r->key.pool, err);
		}
		r->done(r, err);
	}
	if (r && r->deadline_ns < *wake)
		*wake = r->deadline_ns;
}

void engine_cancel(struct engine *e, struct engine_req *req)
{
	switch ((enum req_kind)req->kind) {
	case REQ_PUT_WAIT:
		req_unlink(&e->put_wait, req);
		break;
	case REQ_GRANT_WAIT:
		req_unlink(&e->grant_wait, req);
		break;
	case REQ_PLUG:
		req_unlink(&e->plug, req);
		break;
	case REQ_GET_WAIT:
		req_unlink(&e->get_wait, req);
		break;
	case REQ_FETCH:
		assert(!((struct fetch *)req->fetch[0])->direct);
		req_unlink(&((struct fetch *)req->fetch[0])->reqs, req);
		break;
	}
}

/* ---- time ---- */

/* What is within a grant goes first. */
static void puts_run(struct engine *e, uint64_t now, uint64_t *wake)
{
	if (e->grant_wait.head) {
		if (reap_due(e))
			reap_step(e, REAP_BUCKETS);
		put_wait_run(e, &e->grant_wait, now, wake);
	}
	if (e->put_wait.head && !e->grant_wait.head)
		put_wait_run(e, &e->put_wait, now, wake);
	if ((e->grant_wait.head || e->put_wait.head) && now + SETTLE_NS < *wake)
		*wake = now + SETTLE_NS;
}

uint64_t engine_tick(struct engine *e)
{
	uint64_t now = now_ns(e), wake = UINT64_MAX;

	if (now >= e->settle_at_ns) {
		e->settle_at_ns = now + SETTLE_NS;
		reserve_look(e);
		region_want(e, now);
		region_release_drained(e);
	}
	move_tick(e, now, &wake);
	ephemeral_tick(e, now, &wake);
	spare_tick(e, now, &wake);
	puts_run(e, now, &wake);
	fetch_tick(e, now, &wake);
	if ((e->wanted || e->regions_revoking) && e->settle_at_ns < wake)
		wake = e->settle_at_ns;
	return wake;
}

bool engine_work(struct engine *e)
{
	bool more = reap_due(e) && reap_step(e, REAP_BUCKETS);

	more |= ephemeral_sift(e, SIFT_PER_WORK);
	return move_work(e, 64) || more;
}
