/* Pages of a swap disk in one lane: get, put, flush and the merging of parts, one after the other.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "client-backend/frontend/disk_impl.h"

#define LEFT_RETRY_NS 1000000000ull

static struct disk_slot **bucket_of(struct disk_lane *l, uint32_t pool, uint32_t page)
{
	uint64_t h = ((uint64_t)pool << 32 | page) * 0x9e3779b97f4a7c15ull;

	return &l->hash[h >> 32 & (DISK_HASH - 1)];
}

static struct disk_slot *page_busy(struct disk_lane *l, uint32_t pool, uint32_t page)
{
	struct disk_slot *s = *bucket_of(l, pool, page);

	while (s && (s->page != page || s->pool != pool))
		s = s->next;
	return s;
}

static void hash_put(struct disk_lane *l, struct disk_slot *s)
{
	struct disk_slot **b = bucket_of(l, s->pool, s->page);

	s->next = *b;
	*b = s;
}

static void hash_take(struct disk_lane *l, struct disk_slot *s)
{
	struct disk_slot **at = bucket_of(l, s->pool, s->page);

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
}

static struct disk_swap *swap_of(const struct disk_part *p)
{
	return (struct disk_swap *)(void *)p->store;
}

static struct disk_swap_stats *stats_of(struct disk_lane *l, const struct disk_part *p)
{
	return disk_swap_lane_stats(swap_of(p), l->lane);
}

/* ---- pages that a kill left in bounce pages ---- */

static struct disk_slot **left_find(struct disk_lane *l, uint32_t pool, uint32_t page)
{
	struct disk_slot **at = &l->left;

	while (*at && ((*at)->pool != pool || (*at)->page != page))
		at = &(*at)->next;
	return at;
}

static void slot_free(struct disk_lane *l, struct disk_slot *s)
{
	s->note->page = 0;
	s->next = l->slot_unused;
	l->slot_unused = s;
	l->slots_unused++;
	disk_lane_resume(l, &l->full[DISK_READS]);
	if (l->slots_unused > DISK_READ_PAGES)
		disk_lane_resume(l, &l->full[DISK_OTHERS]);
}

/* The page was put or flushed: what was left of it is of the past. */
static void left_drop(struct disk_lane *l, uint32_t pool, uint32_t page)
{
	struct disk_slot **at = left_find(l, pool, page), *s = *at;

	if (!s)
		return;
	*at = s->next;
	slot_free(l, s);
}

/* ---- one page, step by step; a status of -EINPROGRESS means that done() will call ---- */

static int page_flush(struct disk_lane *l, const struct disk_part *p, uint32_t page)
{
	struct engine_key k = disk_page_key(p->store->pool, page);
	int r = engine_flush_page(l->engine, &k);

	stat_add(&stats_of(l, p)->flushes, 1);
	disk_swap_lost_set(swap_of(p), l->lane, page, false);
	left_drop(l, k.pool, page);
	return r == -ENOENT ? 0 : r;
}

/* The put of the bounce page. While it waits the engine has neither the old page nor the new one.
 */
static int page_put(struct disk_lane *l, struct disk_slot *s)
{
	struct engine_key k = disk_page_key(s->pool, s->page);

	/* The page first, then the note that it is there, then what may take the old one away: a
	 * kill comes between two instructions, and keeps what was stored before it. */
	atomic_signal_fence(memory_order_seq_cst);
	s->note->page = (uint64_t)s->pool << 32 | s->page;
	atomic_signal_fence(memory_order_seq_cst);
	s->step = DISK_STEP_PUT;
	return engine_put(l->engine, &k, s->bounce, &s->req);
}

static int page_get(struct disk_lane *l, struct disk_slot *s)
{
	struct engine_key k = disk_page_key(s->pool, s->page);

	struct engine_direct direct = {0};

	s->req.tier = ENGINE_TIER_LOCAL;
	s->req.in_place = false;
	if (s->part->g->op == BLK_READ && s->len == ENGINE_PAGE_BYTES)
		direct.page =
			blk_data_direct(s->part->g, &s->cursor, ENGINE_PAGE_BYTES, &direct.memory);
	return engine_get_direct(l->engine, &k, s->bounce, &direct, &s->req);
}

/* The get has ended with `status`: a miss reads as zeros, unless the page was lost. */
static int page_got(struct disk_lane *l, struct disk_slot *s, int status)
{
	static const enum blk_tier tiers[] = {BLK_TIER_LOCAL, BLK_TIER_REMOTE, BLK_TIER_DISK};
	enum blk_tier tier = status ? BLK_TIER_NONE : tiers[s->req.tier];

	if (status == -ENOENT && *left_find(l, s->pool, s->page)) {
		memcpy(s->bounce, (*left_find(l, s->pool, s->page))->bounce, ENGINE_PAGE_BYTES);
		tier = BLK_TIER_LOCAL;
		status = 0;
	}
	if (status == -ENOENT && disk_swap_is_lost(swap_of(s->part), s->page))
		status = -EIO;
	if (status == -ENOENT) {
		memset(s->bounce, 0, ENGINE_PAGE_BYTES);
		status = 0;
	}
	if (status)
		return status;
	if (s->part->g->op == BLK_READ) {
		if (tier > s->part->tier)
			s->part->tier = tier;
		stat_add(&stats_of(l, s->part)->hits[tier], 1);
		if (!s->req.in_place)
			blk_data_put(s->part->g, &s->cursor, s->bounce + s->from, s->len);
		return 0;
	}
	stat_add(&stats_of(l, s->part)->merged, 1);
	if (s->part->g->op == BLK_WRITE)
		blk_data_get(s->part->g, &s->cursor, s->bounce + s->from, s->len);
	else if (tier == BLK_TIER_NONE)
		return 0; /* it is zero already */
	else
		memset(s->bounce + s->from, 0, s->len);
	stat_add(&stats_of(l, s->part)->puts, 1);
	return page_put(l, s);
}

static int page_start(struct disk_lane *l, struct disk_slot *s)
{
	struct blk_range *g = s->part->g;
	bool whole = s->len == ENGINE_PAGE_BYTES;

	if (g->op == BLK_ZERO && whole)
		return page_flush(l, s->part, s->page);
	if (g->op == BLK_WRITE && whole) {
		blk_data_get(g, &s->cursor, s->bounce, ENGINE_PAGE_BYTES);
		stat_add(&stats_of(l, s->part)->puts, 1);
		return page_put(l, s);
	}
	s->step = DISK_STEP_GET;
	int r = page_get(l, s);
	return r == -EINPROGRESS ? r : page_got(l, s, r);
}

static void failure_count(struct disk_swap_stats *st, int status)
{
	stat_add(status == -EIO		? &st->failed_lost
		 : status == -ETIMEDOUT ? &st->failed_late
		 : status == -ENOSPC	? &st->failed_room
					: &st->failed_other,
		1);
}

/* What a page's end means for the pages that are lost, and for those that a kill left. */
static void page_account(struct disk_lane *l, struct disk_slot *s, int status)
{
	struct disk_part *p = s->part;

	if (status)
		failure_count(stats_of(l, p), status);
	if (s->step == DISK_STEP_PUT) {
		/* A refused put has taken away what was there before. */
		disk_swap_lost_set(swap_of(p), l->lane, s->page, status != 0);
		left_drop(l, s->pool, s->page);
	}
	if (status && !p->status)
		p->status = status;
}

/* Ends a page and gives its place to the next one that waits for it; NULL: nobody does. */
static struct disk_slot *page_end(struct disk_lane *l, struct disk_slot *s, int status)
{
	struct disk_part *p = s->part;
	struct disk_slot *next = s->waiting;

	if (p)
		page_account(l, s, status);
	else
		stat_add(&l->stats.pages_left, !status);
	hash_take(l, s);
	if (next) {
		struct disk_slot *rest = next->next;

		hash_put(l, next);
		next->waiting = rest;
	}
	/* -ENOENT: its pool is gone. */
	if (p || !status || status == -ENOENT) {
		slot_free(l, s);
	} else {
		s->next = l->left;
		l->left = s;
	}
	stat_sub(&l->stats.pages_busy, 1);
	if (p)
		disk_part_release(l, p);
	return next;
}

/* Starts a page whose turn it is, and all those after it, as long as they end at once. */
static void page_drive(struct disk_lane *l, struct disk_slot *s)
{
	while (s) {
		int r = page_start(l, s);

		if (r == -EINPROGRESS)
			return;
		s = page_end(l, s, r);
	}
}

static void on_done(struct engine_req *req, int status)
{
	struct disk_slot *s = (struct disk_slot *)((char *)req - offsetof(struct disk_slot, req));
	struct disk_lane *l = s->lane;

	if (s->step == DISK_STEP_GET)
		status = page_got(l, s, status);
	if (status != -EINPROGRESS)
		page_drive(l, page_end(l, s, status));
}

/* True: the engine has the page, the old one or the new one; either may follow from a write that
 * nobody was told of. */
static bool page_stored(struct disk_lane *l, struct disk_slot *s)
{
	struct engine_key k = disk_page_key(s->pool, s->page);
	int r = engine_get(l->engine, &k, l->scratch, &s->req);

	if (r == -EINPROGRESS)
		engine_cancel(l->engine, &s->req);
	return r != -ENOENT;
}

void disk_left_run(struct disk_lane *l)
{
	uint64_t now = env_now_ns(l->env);
	struct disk_slot *s = l->left, *next;

	if (now < l->left_retry_ns)
		return;
	l->left_retry_ns = now + LEFT_RETRY_NS;
	l->left = NULL;
	for (; s; s = next) {
		next = s->next;
		if (page_stored(l, s)) {
			slot_free(l, s);
			continue;
		}
		if (page_busy(l, s->pool, s->page)) {
			s->next = l->left;
			l->left = s;
			continue;
		}
		s->part = NULL;
		s->waiting = NULL;
		s->req.done = on_done;
		stat_add(&l->stats.pages_busy, 1);
		hash_put(l, s);
		int r = page_put(l, s);
		if (r != -EINPROGRESS)
			page_drive(l, page_end(l, s, r));
	}
}

/* ---- the pages of a part ---- */

static void page_submit(struct disk_lane *l, struct disk_part *p, struct disk_slot *busy,
	uint64_t start, uint64_t end)
{
	struct disk_slot *s = l->slot_unused;
	struct blk_range *g = p->g;
	uint64_t base = p->page * ENGINE_PAGE_BYTES;

	l->slot_unused = s->next;
	l->slots_unused--;
	stat_add(&l->stats.pages_busy, 1);
	s->req.done = on_done;
	s->part = p;
	s->pool = p->store->pool;
	s->page = (uint32_t)p->page;
	s->from = (uint16_t)(start - base);
	s->len = (uint16_t)(end - start);
	s->step = DISK_STEP_START;
	s->next = s->waiting = NULL;
	if (g->op != BLK_ZERO) {
		blk_cursor_seek(g, &p->cursor, (uint32_t)(start - g->offset));
		s->cursor = p->cursor;
	}
	p->under_way++;
	p->page++;
	if (!busy) {
		hash_put(l, s);
		page_drive(l, s);
		return;
	}
	stat_add(&l->stats.pages_waited, 1);
	struct disk_slot **at = &busy->waiting;
	while (*at)
		at = &(*at)->next;
	*at = s;
}

unsigned disk_swap_run(
	struct disk_lane *l, struct disk_part *p, unsigned budget, struct disk_queue **full)
{
	struct blk_range *g = p->g;
	uint64_t stop = g->offset + g->bytes;
	uint32_t pool = p->store->pool;
	enum disk_urgency urgency = disk_urgency(g);
	unsigned done = 0, kept = urgency == DISK_READS ? 0 : DISK_READ_PAGES;

	for (disk_part_find(l, p); p->page < p->end && done < budget;
		disk_part_find(l, p), done++) {
		uint64_t start = p->page * ENGINE_PAGE_BYTES, end = start + ENGINE_PAGE_BYTES;
		struct disk_slot *busy = page_busy(l, pool, (uint32_t)p->page);

		start = start < g->offset ? g->offset : start;
		end = end > stop ? stop : end;
		if (g->op == BLK_ZERO && !busy && end - start == ENGINE_PAGE_BYTES) {
			int r = page_flush(l, p, (uint32_t)p->page);

			if (r) {
				failure_count(stats_of(l, p), r);
				p->status = p->status ? p->status : r;
			}
			p->page++;
			continue;
		}
		if (l->slots_unused <= kept) {
			*full = &l->full[urgency];
			break;
		}
		page_submit(l, p, busy, start, end);
	}
	return done;
}
