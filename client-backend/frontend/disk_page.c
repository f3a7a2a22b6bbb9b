/* Pages of a swap disk in one lane: get, put, flush and the merging of parts, one after the other.
 */
#include <errno.h>
#include <string.h>

#include "client-backend/frontend/disk_impl.h"

static struct disk_slot **bucket_of(
	struct disk_lane *l, const struct disk_swap *disk, uint32_t page)
{
	uint64_t h = ((uint64_t)disk_swap_pool(disk) << 32 | page) * 0x9e3779b97f4a7c15ull;

	return &l->hash[h >> 32 & (DISK_HASH - 1)];
}

static struct disk_slot *page_busy(struct disk_lane *l, const struct disk_swap *disk, uint32_t page)
{
	struct disk_slot *s = *bucket_of(l, disk, page);

	while (s && (s->page != page || s->part->disk != disk))
		s = s->next;
	return s;
}

static void hash_put(struct disk_lane *l, struct disk_slot *s)
{
	struct disk_slot **b = bucket_of(l, s->part->disk, s->page);

	s->next = *b;
	*b = s;
}

static void hash_take(struct disk_lane *l, struct disk_slot *s)
{
	struct disk_slot **at = bucket_of(l, s->part->disk, s->page);

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
}

static struct disk_swap_stats *stats_of(struct disk_lane *l, const struct disk_part *p)
{
	return disk_swap_lane_stats(p->disk, l->lane);
}

/* ---- one page, step by step; a status of -EINPROGRESS means that done() will call ---- */

static int page_flush(struct disk_lane *l, struct disk_swap *disk, uint32_t page)
{
	struct engine_key k = disk_swap_key(disk_swap_pool(disk), page);
	int r = engine_flush_page(l->engine, &k);

	stat_add(&disk_swap_lane_stats(disk, l->lane)->flushes, 1);
	disk_swap_lost_set(disk, l->lane, page, false);
	return r == -ENOENT ? 0 : r;
}

/* The put of the bounce page. What it held is gone when it fails, and while it waits: so until it
 * has ended well the page counts as lost, also for whoever comes after a kill. */
static int page_put(struct disk_lane *l, struct disk_slot *s)
{
	struct disk_swap *disk = s->part->disk;
	struct engine_key k = disk_swap_key(disk_swap_pool(disk), s->page);

	/* The rest of a merged page cannot be sent again by the guest. */
	if (s->step == DISK_STEP_MERGE)
		disk_swap_lost_set(disk, l->lane, s->page, true);
	s->step = DISK_STEP_PUT;
	stat_add(&stats_of(l, s->part)->puts, 1);
	int r = engine_put(l->engine, &k, s->bounce, &s->req);
	if (r)
		disk_swap_lost_set(disk, l->lane, s->page, true);
	return r;
}

static int page_get(struct disk_lane *l, struct disk_slot *s)
{
	struct engine_key k = disk_swap_key(disk_swap_pool(s->part->disk), s->page);

	s->req.tier = ENGINE_TIER_LOCAL;
	return engine_get(l->engine, &k, s->bounce, &s->req);
}

/* The get has ended with `status`: a miss reads as zeros, unless the page was lost. */
static int page_got(struct disk_lane *l, struct disk_slot *s, int status)
{
	static const enum blk_tier tiers[] = {BLK_TIER_LOCAL, BLK_TIER_REMOTE, BLK_TIER_DISK};
	enum blk_tier tier = status ? BLK_TIER_NONE : tiers[s->req.tier];

	if (status == -ENOENT && disk_swap_is_lost(s->part->disk, s->page))
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
		blk_data_put(s->part->g, &s->cursor, s->bounce + s->from, s->len);
		return 0;
	}
	stat_add(&stats_of(l, s->part)->merged, 1);
	s->step = DISK_STEP_MERGE;
	if (s->part->g->op == BLK_WRITE)
		blk_data_get(s->part->g, &s->cursor, s->bounce + s->from, s->len);
	else if (tier == BLK_TIER_NONE)
		return 0; /* it is zero already */
	else
		memset(s->bounce + s->from, 0, s->len);
	return page_put(l, s);
}

static int page_start(struct disk_lane *l, struct disk_slot *s)
{
	struct blk_range *g = s->part->g;
	bool whole = s->len == ENGINE_PAGE_BYTES;

	if (g->op == BLK_ZERO && whole)
		return page_flush(l, s->part->disk, s->page);
	if (g->op == BLK_WRITE && whole) {
		blk_data_get(g, &s->cursor, s->bounce, ENGINE_PAGE_BYTES);
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

/* Ends a page and gives its place to the next one that waits for it; NULL: nobody does. */
static struct disk_slot *page_end(struct disk_lane *l, struct disk_slot *s, int status)
{
	struct disk_part *p = s->part;
	struct disk_slot *next = s->waiting;

	if (status)
		failure_count(stats_of(l, p), status);
	else if (s->step == DISK_STEP_PUT)
		disk_swap_lost_set(p->disk, l->lane, s->page, false);
	if (status && !p->status)
		p->status = status;
	hash_take(l, s);
	if (next) {
		struct disk_slot *rest = next->next;

		hash_put(l, next);
		next->waiting = rest;
	}
	s->next = l->slot_unused;
	l->slot_unused = s;
	stat_sub(&l->stats.pages_busy, 1);
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

/* ---- the pages of a part ---- */

/* The next page of this part that this lane owns; p->end: none. */
static void page_find(struct disk_lane *l, struct disk_part *p)
{
	uint32_t pool = disk_swap_pool(p->disk);

	while (p->page < p->end) {
		struct engine_key k = disk_swap_key(pool, (uint32_t)p->page);

		if (engine_key_lane(&k, l->lanes) == l->lane)
			return;
		p->page = (p->page / DISK_CHUNK_PAGES + 1) * DISK_CHUNK_PAGES;
	}
	p->page = p->end;
}

static void page_submit(struct disk_lane *l, struct disk_part *p, struct disk_slot *busy,
	uint64_t start, uint64_t end)
{
	struct disk_slot *s = l->slot_unused;
	struct blk_range *g = p->g;
	uint64_t base = p->page * ENGINE_PAGE_BYTES;

	l->slot_unused = s->next;
	stat_add(&l->stats.pages_busy, 1);
	s->req.done = on_done;
	s->part = p;
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

unsigned disk_part_run(struct disk_lane *l, struct disk_part *p, unsigned budget, bool *room)
{
	struct blk_range *g = p->g;
	uint64_t stop = g->offset + g->bytes;
	unsigned done = 0;

	for (page_find(l, p); p->page < p->end && done < budget; page_find(l, p), done++) {
		uint64_t start = p->page * ENGINE_PAGE_BYTES, end = start + ENGINE_PAGE_BYTES;
		struct disk_slot *busy = page_busy(l, p->disk, (uint32_t)p->page);

		start = start < g->offset ? g->offset : start;
		end = end > stop ? stop : end;
		if (g->op == BLK_ZERO && !busy && end - start == ENGINE_PAGE_BYTES) {
			int r = page_flush(l, p->disk, (uint32_t)p->page);

			if (r) {
				failure_count(stats_of(l, p), r);
				p->status = p->status ? p->status : r;
			}
			p->page++;
			continue;
		}
		if (!l->slot_unused) {
			*room = false;
			break;
		}
		page_submit(l, p, busy, start, end);
	}
	return done;
}
