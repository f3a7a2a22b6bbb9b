/* Consistency: everything that is stored or counted twice must agree. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "client-backend/engine/impl.h"

struct tally {
	uint64_t *seg_live, *pool_pages, *pool_entries, *pool_live;
	uint32_t *object_pages;
	uint64_t account_pages[ENGINE_MAX_ACCOUNTS];
	uint64_t entries, dead, same, same_ephemeral, live;
	char *err;
	size_t err_bytes;
	int rc;
};

__attribute__((format(printf, 2, 3))) static void wrong(struct tally *t, const char *fmt, ...)
{
	va_list ap;

	if (t->rc)
		return;
	va_start(ap, fmt);
	vsnprintf(t->err, t->err_bytes, fmt, ap);
	va_end(ap);
	t->rc = -EBADMSG;
}

static void tally_entry(struct engine *e, struct tally *t, uint64_t b, unsigned w)
{
	const struct index_entry *en = &e->index.bucket[b].way[w];
	uint32_t id = (uint32_t)(en->key >> 32), row = loc_row(en->loc);
	const struct object_row *o = &e->object[id];
	uint32_t pool = object_pool(o);
	const struct pool_row *p = pool_find(e, pool);

	t->entries++;
	if (!index_is_home(&e->index, b, w) || index_is_duplicate(&e->index, b, w))
		wrong(t, "entry in bucket %llu is misplaced or there twice", (unsigned long long)b);
	if (id == 0 || id > e->cfg.max_objects || object_state(o) == OBJECT_FREE) {
		wrong(t, "entry names object %u, which is free", id);
		return;
	}
	t->object_pages[id]++;
	t->pool_entries[pool % ENGINE_MAX_POOLS]++;
	if (p && object_state(o) == OBJECT_LIVE) {
		t->pool_pages[pool % ENGINE_MAX_POOLS]++;
		t->account_pages[p->desc.account]++;
	} else {
		t->dead++;
	}
	if (loc_is_same(en->loc)) {
		t->same++;
		t->same_ephemeral +=
			!(e->pool_row[pool % ENGINE_MAX_POOLS].desc.flags & ENGINE_POOL_PERSISTENT);
		return;
	}
	if (row >= e->cfg.max_segments || !e->seg[row].seq ||
		loc_off(en->loc) + loc_len(en->loc) > e->seg[row].used) {
		wrong(t, "entry names row %u, which is free or shorter", row);
		return;
	}
	t->seg_live[row] += loc_len(en->loc);
	t->live += loc_len(en->loc);
	t->pool_live[pool % ENGINE_MAX_POOLS] += loc_len(en->loc);
	if (!e->seg[row].local)
		return;
	const struct record_header *h = (const void *)(seg_data(e, row) + loc_off(en->loc));

	if (!record_intact(h, e->seg[row].seq, loc_len(en->loc), e->header->secret) ||
		h->pool != pool || h->index != (uint32_t)en->key ||
		memcmp(h->oid, o->oid, sizeof(h->oid)) != 0)
		wrong(t, "record at row %u offset %u is not what its entry says", row,
			loc_off(en->loc));
}

static void check_segments(struct engine *e, struct tally *t)
{
	uint32_t kinds[SEG_LOST + 1] = {0}, local = 0, shorts = 0, copies = 0;
	uint64_t held = 0, away_live = 0, remote = 0, on_disk = 0;

	for (uint32_t row = 0; row < e->cfg.max_segments; row++) {
		const struct seg_row *s = &e->seg[row];
		const struct seg_vol *v = &e->sv[row];

		kinds[v->kind]++;
		shorts += v->short_of;
		copies += v->short_of ? s->copies : 0;
		if (!s->seq) {
			if (v->kind != SEG_FREE)
				wrong(t, "row %u is free but classed %u", row, v->kind);
			continue;
		}
		if (v->live != t->seg_live[row])
			wrong(t, "row %u: live %u counted, %llu named", row, v->live,
				(unsigned long long)t->seg_live[row]);
		if (s->sealed && v->live == 0 && v->pins == 0)
			wrong(t, "row %u is dead but not freed", row);
		if (s->local) {
			local++;
			if (e->slot_row[s->local - 1] != row)
				wrong(t, "row %u does not own its local slot", row);
		}
		on_disk += s->holder[DISK_HOLDER] & HOLDER_VALID ? v->live : 0;
		for (unsigned i = 0; i < DISK_HOLDER; i++) {
			uint64_t h = s->holder[i];

			if (!(h & HOLDER_VALID))
				continue;
			remote++;
			held += s->persistent ? e->cfg.segment_bytes : 0;
			away_live += s->persistent ? v->live : 0;
			if (!region_used(e, holder_region(h)) ||
				!(e->rv[holder_region(h)].bitmap[holder_slot(h) / 64] >>
						(holder_slot(h) % 64) &
					1))
				wrong(t, "row %u holder %u is in no used slot", row, i);
		}
	}
	if (local + e->free_slots != e->cfg.local_segments)
		wrong(t, "%u local slots used and %u free of %u", local, e->free_slots,
			e->cfg.local_segments);
	for (unsigned k = 0; k <= SEG_LOST; k++)
		if (kinds[k] != e->kinds[k])
			wrong(t, "%u segments of kind %u, %u counted", kinds[k], k, e->kinds[k]);
	if (shorts != e->short_rows || copies != e->short_copies)
		wrong(t, "%u segments short of copies, %u counted", shorts, e->short_rows);
	if (on_disk != e->disk_live_bytes)
		wrong(t, "%llu live bytes on disk, %llu counted", (unsigned long long)on_disk,
			(unsigned long long)e->disk_live_bytes);
	if (held != e->away_held_bytes || away_live != e->away_live_bytes)
		wrong(t, "bytes on donors: held %llu live %llu, counted %llu and %llu",
			(unsigned long long)held, (unsigned long long)away_live,
			(unsigned long long)e->away_held_bytes,
			(unsigned long long)e->away_live_bytes);
	/* A slot that is owed may have gone with its region since. */
	if (e->moves_active == 0 && e->direct_owed == 0 &&
		remote != stat_get(&e->stats.remote_slots_used))
		wrong(t, "%llu copies on donors, %llu slots used", (unsigned long long)remote,
			(unsigned long long)stat_get(&e->stats.remote_slots_used));
}

static void check_queue(struct engine *e, struct tally *t, const struct list *l,
	enum seg_queue queue, uint32_t expected)
{
	uint32_t n = 0;

	for (uint32_t row = l->head; row != NONE && n <= expected; row = e->sv[row].by_queue.next) {
		if (e->sv[row].queue != queue)
			wrong(t, "row %u stands in queue %u, not its own", row, queue);
		n++;
	}
	if (n != expected)
		wrong(t, "queue %u has %u segments, not %u", queue, n, expected);
}

static void check_queues(struct engine *e, struct tally *t)
{
	uint32_t clean = 0, spill = 0, copied = 0;
	uint32_t ephemeral[ENGINE_MAX_ACCOUNTS][EPHEMERAL_LISTS] = {0};

	for (uint32_t row = 0; row < e->cfg.max_segments; row++) {
		const struct seg_vol *v = &e->sv[row];

		clean += v->kind == SEG_CLEAN && !v->moving;
		spill += v->kind == SEG_DIRTY && !v->moving && !v->short_of;
		if (v->kind != SEG_EPHEMERAL)
			continue;
		unsigned list = e->seg[row].main ? EPHEMERAL_MAIN : EPHEMERAL_NEW;

		list = seg_has_holder(e, row) ? EPHEMERAL_COPIED : list;
		copied += list == EPHEMERAL_COPIED;
		ephemeral[e->seg[row].account][list]++;
	}
	check_queue(e, t, &e->clean, QUEUE_CLEAN, clean);
	check_queue(e, t, &e->spill, QUEUE_SPILL, spill);
	for (unsigned a = 0; a < ENGINE_MAX_ACCOUNTS; a++)
		for (unsigned k = 0; k < EPHEMERAL_LISTS; k++) {
			check_queue(e, t, &e->account[a].ephemeral[k], QUEUE_EPHEMERAL + k,
				ephemeral[a][k]);
			if (ephemeral[a][k] != e->account[a].ephemerals[k])
				wrong(t, "account %u: %u ephemeral segments, %u counted", a,
					ephemeral[a][k], e->account[a].ephemerals[k]);
		}
	if (copied != e->ephemeral_copied)
		wrong(t, "%u ephemeral segments with copies, %u counted", copied,
			e->ephemeral_copied);
}

/* Ephemeral copies: never more than one, on a donor; counted for their region and its donor. */
static void check_ephemeral(struct engine *e, struct tally *t)
{
	uint32_t away[2] = {0}, moves = 0, donor[ENGINE_MAX_DONORS][2] = {0};
	uint64_t lost = 0;

	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		uint32_t n = 0;

		for (unsigned of = 0; e->region[r].used && of < 2; of++)
			for (uint32_t row = e->rv[r].ephemeral[of].head;
				row != NONE && n <= e->rv[r].copies;
				row = e->sv[row].by_live.next, n++) {
				uint64_t h = e->seg[row].holder[0];

				if (e->seg[row].persistent || e->seg[row].main != of ||
					!(h & HOLDER_VALID) || holder_region(h) != r)
					wrong(t, "region %u lists ephemeral row %u wrongly", r,
						row);
				away[of]++;
				if (!e->rv[r].revoking)
					donor[e->region[r].desc.donor][of]++;
			}
		if (e->region[r].used && n != e->rv[r].ephemeral_copies)
			wrong(t, "region %u: %u ephemeral copies, not as counted", r, n);
	}
	for (uint32_t row = 0; row < e->cfg.max_segments; row++) {
		const struct seg_row *s = &e->seg[row];

		if (!s->seq || s->persistent)
			continue;
		lost += e->sv[row].kind == SEG_LOST ? e->sv[row].live : 0;
		moves += e->sv[row].moving;
		for (unsigned i = 0; i < HOLDERS; i++)
			if (s->holder[i] & HOLDER_VALID) {
				away[s->main] -= i == 0;
				if (i > 0 || s->copies == 0)
					wrong(t, "ephemeral row %u has holder %u", row, i);
			}
		if (e->sv[row].short_of || e->sv[row].bucket != NO_BUCKET)
			wrong(t, "ephemeral row %u is to be repaired or cleaned", row);
	}
	if (away[0] || away[1] || lost != e->lost_live || moves != e->ephemeral_moves)
		wrong(t, "ephemeral segments: %u and %u copies too many are listed, %u moves",
			away[0], away[1], moves);
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		for (unsigned of = 0; of < 2; of++)
			if (donor[d][of] != e->donor[d].ephemeral_slots[of])
				wrong(t, "donor %u: %u ephemeral slots, %u counted", d,
					donor[d][of], e->donor[d].ephemeral_slots[of]);
}

/* The cleaner's lists: a segment stands in the one of its kind and live share, or in none. */
static void check_buckets(struct engine *e, struct tally *t)
{
	uint32_t listed = 0, expected = 0;

	for (unsigned b = 0; b < NO_BUCKET; b++)
		for (uint32_t row = e->by_live[b].head;
			row != NONE && listed <= e->cfg.max_segments;
			row = e->sv[row].by_live.next, listed++)
			if (e->sv[row].bucket != b ||
				(b >= CLEAN_BUCKETS) != (e->sv[row].kind == SEG_DIRTY))
				wrong(t, "row %u stands in bucket %u, not its own", row, b);
	for (uint32_t row = 0; row < e->cfg.max_segments; row++)
		expected += e->seg[row].seq && e->sv[row].bucket < NO_BUCKET;
	if (listed != expected)
		wrong(t, "%u segments in the cleaner's lists, not %u", listed, expected);
}

/* Each region's list must have all its copies, once, and their live bytes. */
static void check_copies(struct engine *e, struct tally *t)
{
	uint64_t listed = 0, valid = 0;

	for (uint32_t row = 0; row < e->cfg.max_segments; row++)
		for (unsigned i = 0; i < DISK_HOLDER && e->seg[row].seq; i++)
			valid += e->seg[row].holder[i] >> 63;
	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		uint64_t live = 0;
		uint32_t n = 0, at = e->region[r].used ? e->rv[r].copy_head : NONE;

		for (; at != NONE && n <= e->rv[r].copies; at = e->copy_link[at].next, n++) {
			uint32_t row = at / ENGINE_MAX_COPIES;
			uint64_t h = e->seg[row].holder[at % ENGINE_MAX_COPIES];

			if (!(h & HOLDER_VALID) || holder_region(h) != r)
				wrong(t, "region %u lists row %u, which is not there", r, row);
			live += e->sv[row].live;
		}
		if (e->region[r].used && (n != e->rv[r].copies || live != e->rv[r].live_bytes))
			wrong(t, "region %u: %u copies listed, %u counted, or other live bytes", r,
				n, e->rv[r].copies);
		listed += n;
	}
	if (listed != valid)
		wrong(t, "%llu copies listed, %llu named", (unsigned long long)listed,
			(unsigned long long)valid);
}

static void check_donors(struct engine *e, struct tally *t)
{
	uint32_t free_slots[ENGINE_MAX_DONORS] = {0};

	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		uint32_t used = 0;

		if (!e->region[r].used)
			continue;
		for (uint32_t i = 0; i < e->rv[r].slots; i++)
			used += e->rv[r].bitmap[i / 64] >> (i % 64) & 1;
		if (used != e->rv[r].used)
			wrong(t, "region %u: %u slots used, %u counted", r, used, e->rv[r].used);
		if (!e->rv[r].revoking)
			free_slots[e->region[r].desc.donor] += e->rv[r].slots - used;
	}
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		if (free_slots[d] != e->donor[d].free_slots)
			wrong(t, "donor %u: %u slots free, %u counted", d, free_slots[d],
				e->donor[d].free_slots);
}

static void check_counts(struct engine *e, struct tally *t)
{
	for (uint32_t id = 1; id <= e->cfg.max_objects; id++)
		if (object_state(&e->object[id]) != OBJECT_FREE &&
			e->object[id].pages != t->object_pages[id])
			wrong(t, "object %u: %u pages counted, %u found", id, e->object[id].pages,
				t->object_pages[id]);
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++)
		if (e->pool[i].pages != t->pool_pages[i] ||
			e->pool[i].entries != t->pool_entries[i])
			wrong(t, "pool row %u: %llu pages counted, %llu found", i,
				(unsigned long long)e->pool[i].pages,
				(unsigned long long)t->pool_pages[i]);
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++)
		if (e->account[i].pages != t->account_pages[i])
			wrong(t, "account %u: %llu pages counted, %llu found", i,
				(unsigned long long)e->account[i].pages,
				(unsigned long long)t->account_pages[i]);
	if (t->same_ephemeral != e->ephemeral_same)
		wrong(t, "%llu same-filled ephemeral pages, %llu counted",
			(unsigned long long)t->same_ephemeral,
			(unsigned long long)e->ephemeral_same);
	if (t->entries != e->index.entries || t->dead != e->dead_entries ||
		t->same != stat_get(&e->stats.pages_same_filled) || t->live != e->live_bytes ||
		t->entries - t->dead != stat_get(&e->stats.pages))
		wrong(t, "index: %llu entries, %llu dead, %llu same-filled, %llu live bytes found",
			(unsigned long long)t->entries, (unsigned long long)t->dead,
			(unsigned long long)t->same, (unsigned long long)t->live);
}

/* Grants: what is promised and not used, over pools and accounts. */
static void check_grants(struct engine *e, struct tally *t)
{
	uint64_t pages = 0, objects = 0, account[ENGINE_MAX_ACCOUNTS] = {0};
	uint32_t pools = 0, free_objects = 0, *alive = calloc(ENGINE_MAX_POOLS, sizeof(*alive));

	if (!alive) {
		wrong(t, "no memory for the check");
		return;
	}
	for (uint32_t id = 1; id <= e->cfg.max_objects; id++) {
		free_objects += object_state(&e->object[id]) == OBJECT_FREE;
		if (object_state(&e->object[id]) == OBJECT_LIVE)
			alive[object_pool(&e->object[id]) % ENGINE_MAX_POOLS]++;
	}
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		const struct pool_vol *v = &e->pool[i];
		uint64_t objects_left =
			v->reserved.objects > v->objects ? v->reserved.objects - v->objects : 0;

		if (v->objects != alive[i])
			wrong(t, "pool row %u: %u objects counted, %u found", i, v->objects,
				alive[i]);
		if (v->live_bytes != t->pool_live[i])
			wrong(t, "pool row %u: %llu live bytes counted, %llu found", i,
				(unsigned long long)v->live_bytes,
				(unsigned long long)t->pool_live[i]);
		pools += v->reserved.pages || v->reserved.objects;
		pages += pool_promised(v);
		objects += objects_left;
		account[e->pool_row[i].desc.account] += pool_promised(v);
	}
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++)
		if (account[i] != e->account[i].promised)
			wrong(t, "account %u: %llu pages promised, %llu counted", i,
				(unsigned long long)account[i],
				(unsigned long long)e->account[i].promised);
	if (pools != e->reserved_pools || pages != e->promised_pages ||
		objects != e->promised_objects || free_objects != e->objects_free)
		wrong(t, "grants: %u pools, %llu pages, %llu objects, %u objects free found", pools,
			(unsigned long long)pages, (unsigned long long)objects, free_objects);
	free(alive);
}

int engine_check(struct engine *e, char *err, size_t err_bytes)
{
	struct tally t = {.err = err, .err_bytes = err_bytes};

	t.seg_live = calloc(e->cfg.max_segments, sizeof(*t.seg_live));
	t.pool_pages = calloc(ENGINE_MAX_POOLS, sizeof(*t.pool_pages));
	t.pool_live = calloc(ENGINE_MAX_POOLS, sizeof(*t.pool_live));
	t.pool_entries = calloc(ENGINE_MAX_POOLS, sizeof(*t.pool_entries));
	t.object_pages = calloc((size_t)e->cfg.max_objects + 1, sizeof(*t.object_pages));
	if (!t.seg_live || !t.pool_pages || !t.pool_entries || !t.pool_live || !t.object_pages) {
		wrong(&t, "no memory for the check");
	} else {
		for (uint64_t b = 0; b < e->index.nbuckets; b++)
			for (unsigned w = 0; w < INDEX_WAYS; w++)
				if (e->index.bucket[b].way[w].loc)
					tally_entry(e, &t, b, w);
		check_segments(e, &t);
		check_queues(e, &t);
		check_ephemeral(e, &t);
		check_buckets(e, &t);
		check_copies(e, &t);
		check_donors(e, &t);
		check_counts(e, &t);
		check_grants(e, &t);
	}
	free(t.seg_live);
	free(t.pool_pages);
	free(t.pool_entries);
	free(t.pool_live);
	free(t.object_pages);
	return t.rc;
}
