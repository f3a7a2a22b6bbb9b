/* Pages of a cached disk in one lane: from the pool, from the image, and back into the pool. */
#include <errno.h>
#include <string.h>

#include "client-backend/frontend/disk_cached_impl.h"

static struct cache_slot **bucket_of(struct cache_lane *cl, uint32_t page)
{
	uint64_t h = page * 0x9e3779b97f4a7c15ull;

	return &cl->hash[h >> 32 & (CACHE_HASH - 1)];
}

/* Who has this page; NULL: nobody. */
static struct cache_slot *page_busy(struct cache_lane *cl, uint32_t page)
{
	struct cache_slot *s = *bucket_of(cl, page);

	while (s && s->page != page)
		s = s->next;
	for (struct cache_slot *w = cl->wide; !s && w; w = w->next)
		if (page >= w->page && page - w->page < w->pages)
			s = w;
	return s;
}

static void slot_list(struct cache_lane *cl, struct cache_slot *s)
{
	struct cache_slot **at = s->pages > 1 ? &cl->wide : bucket_of(cl, s->page);

	s->next = *at;
	*at = s;
}

static void slot_unlist(struct cache_lane *cl, struct cache_slot *s)
{
	struct cache_slot **at = s->pages > 1 ? &cl->wide : bucket_of(cl, s->page);

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
}

static struct disk_cached *cached_of(const struct disk_part *p)
{
	return (struct disk_cached *)(void *)p->store;
}

static struct disk_cached_stats *stats_of(struct cache_lane *cl, const struct disk_part *p)
{
	return &cached_of(p)->stats[cl->lane->lane];
}

static void slot_free(struct cache_lane *cl, struct cache_slot *s)
{
	s->next = cl->unused;
	cl->unused = s;
	cl->unused_count++;
	disk_lane_resume(cl->lane, &cl->full[DISK_READS]);
	if (cl->unused_count > CACHE_READ_SLOTS)
		disk_lane_resume(cl->lane, &cl->full[DISK_OTHERS]);
}

/* The request's part of this slot has ended. */
static void part_end(struct cache_lane *cl, struct cache_slot *s, int status)
{
	struct disk_part *p = s->part;

	s->part = NULL;
	if (status && !p->status)
		p->status = status;
	disk_part_release(cl->lane, p);
}

static uint32_t page_from(const struct cache_slot *s)
{
	return (uint32_t)(s->offset % ENGINE_PAGE_BYTES);
}

static struct engine_key key_of(const struct cache_lane *cl, uint32_t page)
{
	return disk_page_key(cl->cache->cfg.pool, page);
}

/* ---- the image ---- */

static void on_image_done(struct image_io *io, int status);

/* How much of this page the image has. */
static uint32_t page_bytes(const struct cache_lane *cl, uint32_t page)
{
	uint64_t left = cl->cache->cfg.image->size_bytes - (uint64_t)page * ENGINE_PAGE_BYTES;

	return left < ENGINE_PAGE_BYTES ? (uint32_t)left : ENGINE_PAGE_BYTES;
}

static void run_count(struct disk_cached_stats *st, const struct image_io *io)
{
	switch ((enum image_op)io->op) {
	case IMAGE_READ:
		stat_add(&st->image_reads, 1);
		stat_add(&st->image_bytes_read, io->bytes);
		break;
	case IMAGE_WRITE:
		stat_add(&st->image_writes, 1);
		stat_add(&st->image_bytes_written, io->bytes);
		break;
	case IMAGE_SYNC:
		stat_add(&st->image_flushes, 1);
		break;
	case IMAGE_ZERO:
		stat_add(&st->image_zeroes, 1);
		break;
	}
}

static void io_submit(struct cache_lane *cl, struct cache_slot *s)
{
	struct image *i = cl->cache->cfg.image;

	s->io.done = on_image_done;
	s->start_ns = env_now_ns(cached_of(s->part)->env);
	run_count(stats_of(cl, s->part), &s->io);
	i->ops->submit(i, cl->lane->images, &s->io);
	disk_lane_gather(cl->lane, &cl->gather);
}

static void run_close(struct cache_lane *cl)
{
	struct cache_slot *s = cl->run_first;

	cl->run_first = cl->run_last = NULL;
	if (s)
		io_submit(cl, s);
}

void disk_cached_gather_close(struct disk_gather *g)
{
	struct cache_lane *cl =
		(struct cache_lane *)((char *)g - offsetof(struct cache_lane, gather));

	run_close(cl);
}

/* Adds `bytes` of a slot's bounce page, from `from` on, to the io that is being gathered. */
static void run_add(struct cache_lane *cl, struct cache_slot *s, enum image_op op, uint32_t from,
	uint32_t bytes)
{
	uint64_t at = (uint64_t)s->page * ENGINE_PAGE_BYTES + from;
	struct cache_slot *f = cl->run_first;

	if (f && (f->io.op != op || f->io.iovs == IMAGE_IO_PAGES ||
			 f->io.offset + f->io.bytes != at)) {
		run_close(cl);
		f = NULL;
	}
	s->run = NULL;
	if (!f) {
		f = cl->run_first = s;
		f->io.op = (uint8_t)op;
		f->io.offset = at;
		f->io.bytes = f->io.iovs = 0;
	} else {
		cl->run_last->run = s;
	}
	cl->run_last = s;
	f->io.iov[f->io.iovs++] = (struct iovec){.iov_base = s->bounce + from, .iov_len = bytes};
	f->io.bytes += bytes;
	disk_lane_gather(cl->lane, &cl->gather);
}

/* ---- one page; -EINPROGRESS: something will go on with it ---- */

static void page_give(
	struct cache_lane *cl, struct cache_slot *s, const uint8_t *page, enum blk_tier tier)
{
	struct disk_part *p = s->part;

	if (tier > p->tier)
		p->tier = tier;
	stat_add(&stats_of(cl, p)->hits[tier], 1);
	blk_data_put(p->g, &s->cursor, page + page_from(s), s->bytes);
}

static int page_miss(struct cache_lane *cl, struct cache_slot *s)
{
	run_add(cl, s, IMAGE_READ, 0, page_bytes(cl, s->page));
	return -EINPROGRESS;
}

static int page_got(struct cache_lane *cl, struct cache_slot *s, int status)
{
	static const enum blk_tier tiers[] = {BLK_TIER_LOCAL, BLK_TIER_REMOTE, BLK_TIER_REMOTE};

	if (status) {
		if (status != -ENOENT)
			stat_add(status == -ETIMEDOUT ? &stats_of(cl, s->part)->late
						      : &stats_of(cl, s->part)->lost,
				1);
		return page_miss(cl, s);
	}
	page_give(cl, s, s->bounce, tiers[s->req.tier]);
	part_end(cl, s, 0);
	return 0;
}

static void pages_drop(struct cache_lane *cl, struct cache_slot *s)
{
	for (uint32_t i = 0; i < s->pages; i++) {
		struct engine_key k = key_of(cl, s->page + i);

		if (!engine_flush_page(cl->lane->engine, &k))
			stat_add(&stats_of(cl, s->part)->dropped, 1);
	}
}

/* Whether a page of a clone is still the base's. */
static bool page_of_base(const struct disk_cached *d, uint64_t page)
{
	return d->base && !(d->own[page / 64] >> page % 64 & 1);
}

static void on_base_done(struct disk_sub *sub, int status, enum blk_tier tier);

static int base_read(struct cache_lane *cl, struct cache_slot *s)
{
	s->sub = (struct disk_sub){.store = &cached_of(s->part)->base->head,
		.g = s->part->g,
		.page = s->page,
		.pages = s->pages,
		.done = on_base_done};
	disk_lane_sub(cl->lane, &s->sub);
	return -EINPROGRESS;
}

static int page_start(struct cache_lane *cl, struct cache_slot *s)
{
	struct blk_range *g = s->part->g;
	struct disk_cached *d = cached_of(s->part);
	struct engine_key k = key_of(cl, s->page);

	if (g->op == BLK_READ && page_of_base(d, s->page))
		return base_read(cl, s);
	for (uint32_t i = 0; g->op != BLK_READ && d->base && i < s->pages; i++)
		d->own[(s->page + i) / 64] |= 1ull << (s->page + i) % 64;
	if (g->op == BLK_READ) {
		s->req.tier = ENGINE_TIER_LOCAL;
		int r = engine_get(cl->lane->engine, &k, s->bounce, &s->req);
		return r == -EINPROGRESS ? r : page_got(cl, s, r);
	}
	/* First: if a kill comes before the image was written the pool has nothing, not an old
	 * page.
	 */
	pages_drop(cl, s);
	if (g->op == BLK_WRITE) {
		blk_data_get(g, &s->cursor, s->bounce + page_from(s), s->bytes);
		run_add(cl, s, IMAGE_WRITE, page_from(s), s->bytes);
		return -EINPROGRESS;
	}
	s->io.op = IMAGE_ZERO;
	s->io.offset = s->offset;
	s->io.bytes = s->bytes;
	s->io.iovs = 0;
	s->io.hint = g->kind == BLK_KIND_DISCARD;
	s->io.hole = g->hole;
	s->run = NULL;
	io_submit(cl, s);
	return -EINPROGRESS;
}

/* ---- the order of requests of the same page ---- */

static void slots_drive(struct cache_lane *cl, struct cache_slot *s);

static void slot_wait(struct cache_slot *busy, struct cache_slot *s)
{
	struct cache_slot **at = &busy->waiting;

	while (*at)
		at = &(*at)->next;
	s->next = NULL;
	*at = s;
}

/* Frees a slot and gives its page to the next one that waits for it; NULL: nobody does. */
static struct cache_slot *slot_end(struct cache_lane *cl, struct cache_slot *s)
{
	struct cache_slot *next = s->waiting, *rest;

	slot_unlist(cl, s);
	if (s->pages > 1) {
		/* Of many pages: each finds its own way. */
		for (; next; next = rest) {
			struct cache_slot *busy = page_busy(cl, next->page);

			rest = next->next;
			if (busy) {
				slot_wait(busy, next);
			} else {
				slot_list(cl, next);
				slots_drive(cl, next);
			}
		}
	} else if (next) {
		rest = next->next;
		slot_list(cl, next);
		next->waiting = rest;
	}
	slot_free(cl, s);
	return next;
}

/* Starts a page whose turn it is, and those after it, as long as they end at once. */
static void slots_drive(struct cache_lane *cl, struct cache_slot *s)
{
	while (s && page_start(cl, s) != -EINPROGRESS)
		s = slot_end(cl, s);
}

static void on_get_done(struct engine_req *req, int status)
{
	struct cache_slot *s =
		(struct cache_slot *)((char *)req - offsetof(struct cache_slot, req));

	if (page_got(s->lane, s, status) != -EINPROGRESS)
		slots_drive(s->lane, slot_end(s->lane, s));
}

/* The base has given the pages to the guest. */
static void on_base_done(struct disk_sub *sub, int status, enum blk_tier tier)
{
	struct cache_slot *s =
		(struct cache_slot *)((char *)sub - offsetof(struct cache_slot, sub));
	struct cache_lane *cl = s->lane;

	if (tier > s->part->tier)
		s->part->tier = tier;
	part_end(cl, s, status);
	slots_drive(cl, slot_end(cl, s));
}

/* Those who wait to read the page that is in this slot have it now. */
static void waiting_serve(struct cache_lane *cl, struct cache_slot *s)
{
	while (s->waiting && s->waiting->part->g->op == BLK_READ) {
		struct cache_slot *w = s->waiting;

		s->waiting = w->next;
		stat_add(&stats_of(cl, w->part)->joined, 1);
		page_give(cl, w, s->bounce, BLK_TIER_DISK);
		part_end(cl, w, 0);
		slot_free(cl, w);
	}
}

/* A whole page that the image has, too. No put waits: it is only a cache. */
static void page_fill(struct cache_lane *cl, struct cache_slot *s, struct disk_cached_stats *st)
{
	struct engine_key k = key_of(cl, s->page);
	uint32_t bytes = page_bytes(cl, s->page);

	memset(s->bounce + bytes, 0, ENGINE_PAGE_BYTES - bytes);
	int r = engine_put(cl->lane->engine, &k, s->bounce, NULL);

	stat_add(r ? &st->refused : &st->fills, 1);
}

/* Answers every request of an io first, then fills the pool. */
static void on_image_done(struct image_io *io, int status)
{
	struct cache_slot *first =
		(struct cache_slot *)((char *)io - offsetof(struct cache_slot, io));
	struct cache_lane *cl = first->lane;
	struct disk_cached_stats *st = stats_of(cl, first->part);
	const struct env *env = cached_of(first->part)->env;
	bool read = io->op == IMAGE_READ;
	struct cache_slot *s, *next;

	if (status)
		stat_add(&st->image_errors, 1);
	else if (read)
		hist_record(&st->image_read_ns, env_now_ns(env) - first->start_ns);
	if (io->op == IMAGE_SYNC) {
		part_end(cl, first, status);
		slot_free(cl, first);
		return;
	}
	for (s = first; s; s = s->run) {
		if (read && !status)
			page_give(cl, s, s->bounce, BLK_TIER_DISK);
		part_end(cl, s, status);
	}
	bool fill = !status && (read || (io->op == IMAGE_WRITE && cl->cache->cfg.cache_writes));
	for (s = first; s; s = next) {
		next = s->run;
		if (read && !status)
			waiting_serve(cl, s);
		if (fill && (read || s->bytes == page_bytes(cl, s->page)))
			page_fill(cl, s, st);
		slots_drive(cl, slot_end(cl, s));
	}
}

/* ---- the pages of a part ---- */

static struct cache_slot *slot_take(struct cache_lane *cl, struct disk_part *p)
{
	struct cache_slot *s = cl->unused;

	cl->unused = s->next;
	cl->unused_count--;
	s->req.done = on_get_done;
	s->part = p;
	s->waiting = s->run = NULL;
	p->under_way++;
	return s;
}

static void flush_start(struct cache_lane *cl, struct disk_part *p)
{
	struct cache_slot *s = slot_take(cl, p);

	p->page = p->end;
	s->io.op = IMAGE_SYNC;
	s->io.offset = s->io.bytes = s->io.iovs = 0;
	io_submit(cl, s);
}

/* How many pages from here on go together: to be zeroed, or read from the base. Nobody has them,
 * and they are this lane's. */
static uint32_t pages_together(struct cache_lane *cl, const struct disk_part *p)
{
	const struct disk_cached *d = cached_of(p);
	uint64_t end = (p->page / DISK_CHUNK_PAGES + 1) * DISK_CHUNK_PAGES;
	bool zero = p->g->op == BLK_ZERO;
	uint32_t n = 1;

	end = p->end < end ? p->end : end;
	if (!zero && !(p->g->op == BLK_READ && page_of_base(d, p->page)))
		return 1;
	while (p->page + n < end && !page_busy(cl, (uint32_t)p->page + n) &&
		(zero || page_of_base(d, p->page + n)))
		n++;
	return n;
}

static void pages_submit(struct cache_lane *cl, struct disk_part *p)
{
	struct blk_range *g = p->g;
	struct cache_slot *busy = page_busy(cl, (uint32_t)p->page), *s = slot_take(cl, p);
	uint64_t stop = g->offset + g->bytes;

	s->page = (uint32_t)p->page;
	s->pages = busy ? 1 : pages_together(cl, p);
	s->offset = p->page * ENGINE_PAGE_BYTES;
	uint64_t end = s->offset + (uint64_t)s->pages * ENGINE_PAGE_BYTES;
	s->offset = s->offset < g->offset ? g->offset : s->offset;
	s->bytes = (uint32_t)((end < stop ? end : stop) - s->offset);
	p->page += s->pages;
	if (g->op != BLK_ZERO) {
		blk_cursor_seek(g, &p->cursor, (uint32_t)(s->offset - g->offset));
		s->cursor = p->cursor;
	}
	if (busy) {
		stat_add(&cl->lane->stats.pages_waited, 1);
		slot_wait(busy, s);
		return;
	}
	slot_list(cl, s);
	slots_drive(cl, s);
}

unsigned disk_cached_run(
	struct disk_lane *l, struct disk_part *p, unsigned budget, struct disk_queue **full)
{
	struct cache_lane *cl = cached_of(p)->cache->lane[l->lane];
	enum disk_urgency urgency = disk_urgency(p->g);
	unsigned done = 0, kept = urgency == DISK_READS ? 0 : CACHE_READ_SLOTS;

	if (p->g->op == BLK_FLUSH) {
		if (cl->unused_count > kept)
			flush_start(cl, p);
		else
			*full = &cl->full[urgency];
		return 1;
	}
	for (disk_part_find(l, p); p->page < p->end && done < budget;
		disk_part_find(l, p), done++) {
		if (cl->unused_count <= kept) {
			*full = &cl->full[urgency];
			break;
		}
		pages_submit(cl, p);
	}
	return done;
}
