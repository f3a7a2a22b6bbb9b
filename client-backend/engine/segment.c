/* The segment table: where each segment is, how much of it lives, and which local slot goes next.
 */
#include "client-backend/engine/impl.h"

#define SPARSE_SHARE 4u /* an ephemeral copy with less than this part alive is dropped */

/* ---- lists over rows ---- */

void list_init(struct list *l)
{
	l->head = l->tail = NONE;
}

static void list_push(struct seg_vol *sv, struct list *l, uint32_t row, size_t link)
{
#define LINK(r) ((struct link *)((char *)&sv[r] + link))
	LINK(row)->next = NONE;
	LINK(row)->prev = l->tail;
	if (l->tail != NONE)
		LINK(l->tail)->next = row;
	else
		l->head = row;
	l->tail = row;
}

static void list_remove(struct seg_vol *sv, struct list *l, uint32_t row, size_t link)
{
	struct link *k = LINK(row);

	if (k->prev != NONE)
		LINK(k->prev)->next = k->next;
	else
		l->head = k->next;
	if (k->next != NONE)
		LINK(k->next)->prev = k->prev;
	else
		l->tail = k->prev;
#undef LINK
}

#define BY_LIVE	 offsetof(struct seg_vol, by_live)
#define BY_QUEUE offsetof(struct seg_vol, by_queue)

/* ---- local slots ---- */

uint32_t slot_take(struct engine *e, bool cleaner)
{
	if (e->free_slots <= (cleaner ? 0 : RESERVE_SLOTS))
		return NONE;
	stat_set(&e->stats.local_slots_free, e->free_slots - 1);
	return e->free_slot[--e->free_slots];
}

void slot_return(struct engine *e, uint32_t slot)
{
	e->slot_row[slot] = NONE;
	e->free_slot[e->free_slots++] = slot;
	stat_set(&e->stats.local_slots_free, e->free_slots);
}

/* ---- what kind of segment a row is ---- */

unsigned seg_good_copies(const struct engine *e, uint32_t row)
{
	unsigned good = 0;

	for (unsigned i = 0; i < DISK_HOLDER; i++) {
		uint64_t h = e->seg[row].holder[i];

		if ((h & HOLDER_VALID) && !e->rv[holder_region(h)].revoking)
			good++;
	}
	return good;
}

bool seg_complete(const struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];

	return seg_good_copies(e, row) >= s->copies &&
	       (s->disk != ENGINE_DISK_MIRROR || (s->holder[DISK_HOLDER] & HOLDER_VALID));
}

/* A copy on disk outlives every donor, so it makes up for missing ones. */
bool seg_safe(const struct engine *e, uint32_t row)
{
	return (e->seg[row].holder[DISK_HOLDER] & HOLDER_VALID) || seg_complete(e, row);
}

bool seg_has_holder(const struct engine *e, uint32_t row)
{
	for (unsigned i = 0; i < HOLDERS; i++)
		if (e->seg[row].holder[i] & HOLDER_VALID)
			return true;
	return false;
}

static enum seg_kind seg_kind_of(const struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];

	if (!s->seq)
		return SEG_FREE;
	if (!s->sealed)
		return SEG_OPEN;
	if (!s->local)
		return seg_has_holder(e, row) ? SEG_AWAY : SEG_LOST;
	if (!s->persistent)
		return SEG_EPHEMERAL;
	return seg_safe(e, row) ? SEG_CLEAN : SEG_DIRTY;
}

static unsigned live_bucket(const struct engine *e, uint32_t row)
{
	unsigned b = (unsigned)((uint64_t)e->sv[row].live * CLEAN_BUCKETS / e->cfg.segment_bytes);

	return b < CLEAN_BUCKETS ? b : CLEAN_BUCKETS - 1;
}

/* The cleaner's list that a row belongs to. What is dirty is looked at when it is spilled, too, and
 * by the list only where that is not enough. */
static unsigned wanted_bucket(const struct engine *e, uint32_t row)
{
	const struct seg_vol *v = &e->sv[row];

	if (v->moving || v->noclean)
		return NO_BUCKET;
	switch ((enum seg_kind)v->kind) {
	case SEG_CLEAN:
	case SEG_AWAY:
		return e->seg[row].persistent ? live_bucket(e, row) : NO_BUCKET;
	case SEG_DIRTY:
		return CLEAN_BUCKETS + live_bucket(e, row);
	default:
		return NO_BUCKET;
	}
}

static void seg_rebucket(struct engine *e, uint32_t row)
{
	struct seg_vol *v = &e->sv[row];
	unsigned b = wanted_bucket(e, row);

	if (b == v->bucket)
		return;
	if (v->bucket < NO_BUCKET)
		list_remove(e->sv, &e->by_live[v->bucket], row, BY_LIVE);
	v->bucket = (uint8_t)b;
	if (b < NO_BUCKET)
		list_push(e->sv, &e->by_live[b], row, BY_LIVE);
}

/* Waits for copies: what region_want() must find donors for. */
static bool kind_pends(enum seg_kind kind)
{
	return kind == SEG_OPEN || kind == SEG_DIRTY;
}

static struct pending *pending_of(struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];

	return &e->pending[s->disk][s->persistent ? s->copies : 0];
}

void seg_kind_set(struct engine *e, uint32_t row, enum seg_kind kind)
{
	enum seg_kind was = (enum seg_kind)e->sv[row].kind;
	struct pending *pending = pending_of(e, row);
	int change = kind_pends(kind) - kind_pends(was);

	e->kinds[was]--;
	e->kinds[kind]++;
	pending->segments += (uint32_t)change;
	pending->live += (uint64_t)change * e->sv[row].live;
	if (!e->seg[row].persistent)
		e->lost_live +=
			(uint64_t)((kind == SEG_LOST) - (was == SEG_LOST)) * e->sv[row].live;
	e->sv[row].kind = (uint8_t)kind;
}

static struct list *seg_queue_list(struct engine *e, uint32_t row, enum seg_queue queue)
{
	if (queue >= QUEUE_EPHEMERAL)
		return &e->account[e->seg[row].account].ephemeral[queue - QUEUE_EPHEMERAL];
	return queue == QUEUE_CLEAN ? &e->clean : &e->spill;
}

static enum ephemeral_list ephemeral_list_of(const struct engine *e, uint32_t row)
{
	if (seg_has_holder(e, row))
		return EPHEMERAL_COPIED;
	return e->seg[row].main ? EPHEMERAL_MAIN : EPHEMERAL_NEW;
}

static void queue_count(struct engine *e, uint32_t row, enum seg_queue queue, int change)
{
	if (queue < QUEUE_EPHEMERAL)
		return;
	e->account[e->seg[row].account].ephemerals[queue - QUEUE_EPHEMERAL] += (uint32_t)change;
	if (queue - QUEUE_EPHEMERAL == EPHEMERAL_COPIED)
		e->ephemeral_copied += (uint32_t)change;
}

static enum seg_queue wanted_queue(const struct engine *e, uint32_t row)
{
	const struct seg_vol *v = &e->sv[row];

	switch ((enum seg_kind)v->kind) {
	case SEG_EPHEMERAL:
		return QUEUE_EPHEMERAL + ephemeral_list_of(e, row);
	case SEG_CLEAN:
		return v->moving ? QUEUE_NONE : QUEUE_CLEAN;
	case SEG_DIRTY:
		return v->moving || v->short_of ? QUEUE_NONE : QUEUE_SPILL;
	default:
		return QUEUE_NONE;
	}
}

static void seg_requeue(struct engine *e, uint32_t row)
{
	struct seg_vol *v = &e->sv[row];
	enum seg_queue queue = wanted_queue(e, row), was = (enum seg_queue)v->queue;

	if (queue == was)
		return;
	if (was != QUEUE_NONE)
		list_remove(e->sv, seg_queue_list(e, row, was), row, BY_QUEUE);
	queue_count(e, row, was, -1);
	queue_count(e, row, queue, 1);
	v->queue = (uint8_t)queue;
	if (queue != QUEUE_NONE)
		list_push(e->sv, seg_queue_list(e, row, queue), row, BY_QUEUE);
}

void seg_queue_last(struct engine *e, uint32_t row)
{
	struct list *queue = seg_queue_list(e, row, (enum seg_queue)e->sv[row].queue);

	list_remove(e->sv, queue, row, BY_QUEUE);
	list_push(e->sv, queue, row, BY_QUEUE);
}

void seg_classify(struct engine *e, uint32_t row)
{
	struct seg_vol *v = &e->sv[row];
	enum seg_kind kind = seg_kind_of(e, row), was = (enum seg_kind)v->kind;

	if (kind != was) {
		seg_kind_set(e, row, kind);
		if (kind == SEG_LOST && e->seg[row].persistent)
			stat_add(&e->stats.segments_lost, 1);
		stat_set(&e->stats.local_slots_clean, e->kinds[SEG_CLEAN]);
	}
	seg_requeue(e, row);
	seg_rebucket(e, row);
}

/* ---- live bytes ---- */

/* Counts bytes that came alive (or died: negative, modulo 2^64) where they are, or wait to go. */
static void place_live_add(struct engine *e, uint32_t row, uint64_t bytes)
{
	if (kind_pends((enum seg_kind)e->sv[row].kind))
		pending_of(e, row)->live += bytes;
	if (e->seg[row].holder[DISK_HOLDER] & HOLDER_VALID)
		e->disk_live_bytes += bytes;
	for (unsigned i = 0; i < DISK_HOLDER; i++) {
		uint64_t h = e->seg[row].holder[i];

		if (!(h & HOLDER_VALID))
			continue;
		e->away_live_bytes += e->seg[row].persistent ? bytes : 0;
		e->rv[holder_region(h)].live_bytes += bytes;
	}
}

void seg_live_add(struct engine *e, uint32_t row, uint32_t bytes)
{
	e->sv[row].live += bytes;
	e->live_bytes += bytes;
	stat_set(&e->stats.live_bytes, e->live_bytes);
	place_live_add(e, row, bytes);
	if (e->seg[row].sealed)
		seg_rebucket(e, row);
}

/* The copy of an ephemeral segment that is mostly dead goes: its slot is worth more to others. */
static void seg_drop_sparse(struct engine *e, uint32_t row)
{
	if (!(e->seg[row].holder[0] & HOLDER_VALID) ||
		e->sv[row].live >= e->cfg.segment_bytes / SPARSE_SHARE)
		return;
	stat_add(&e->stats.ephemeral_dropped, 1);
	seg_holder_clear(e, row, 0);
}

void seg_live_sub(struct engine *e, uint32_t row, uint32_t bytes)
{
	e->sv[row].live -= bytes;
	e->live_bytes -= bytes;
	stat_set(&e->stats.live_bytes, e->live_bytes);
	place_live_add(e, row, -(uint64_t)bytes);
	if (e->sv[row].kind == SEG_LOST && !e->seg[row].persistent)
		e->lost_live -= bytes;
	if (!e->seg[row].sealed)
		return;
	if (e->sv[row].live == 0)
		seg_free_if_dead(e, row);
	else if (!e->seg[row].persistent)
		seg_drop_sparse(e, row);
	else
		seg_rebucket(e, row);
}

/* ---- changing a row ---- */

uint32_t seg_new(struct engine *e, const struct stream *s, bool cleaner)
{
	uint32_t slot, row;
	uint64_t seq = e->header->next_seq;

	if (e->free_rows == 0)
		return NONE;
	slot = slot_take(e, cleaner);
	if (slot == NONE)
		return NONE;
	row = e->free_row[--e->free_rows];

	struct seg_row *r = &e->seg[row];

	memset((char *)r + sizeof(r->seq), 0, sizeof(*r) - sizeof(r->seq));
	r->local = slot + 1;
	r->account = s->account;
	r->persistent = s->persistent;
	r->copies = s->copies;
	r->disk = s->disk;
	r->cold = s->cold;
	r->main = s->main;
	e->slot_row[slot] = row;
	e->account[r->account].local_slots++;
	e->sv[row] = (struct seg_vol){.bucket = NO_BUCKET, .kind = SEG_FREE};
	__atomic_store_n(&e->header->next_seq, seq + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&r->seq, seq, __ATOMIC_RELEASE);
	seg_classify(e, row);
	stat_add(&e->stats.segments, 1);
	return row;
}

void seg_seal(struct engine *e, uint32_t row)
{
	__atomic_store_n(&e->seg[row].sealed, 1, __ATOMIC_RELEASE);
	seg_classify(e, row);
	seg_free_if_dead(e, row);
}

static void ephemeral_copies_add(struct engine *e, uint32_t row, uint32_t region, int change)
{
	unsigned of = e->seg[row].main;

	e->spare_look = true;
	e->rv[region].ephemeral_copies += (uint32_t)change;
	e->ephemeral_away[of] += (uint32_t)change;
	if (!e->rv[region].revoking)
		region_donor(e, region)->ephemeral_slots[of] += (uint32_t)change;
	stat_set(&e->stats.remote_slots_ephemeral, e->ephemeral_away[0] + e->ephemeral_away[1]);
}

void seg_copy_link(struct engine *e, uint32_t row, unsigned which)
{
	struct region_vol *v = &e->rv[holder_region(e->seg[row].holder[which])];
	uint32_t at = row * ENGINE_MAX_COPIES + which;

	v->copies++;
	v->live_bytes += e->sv[row].live;
	e->copy_link[at] = (struct link){.next = v->copy_head, .prev = NONE};
	if (v->copy_head != NONE)
		e->copy_link[v->copy_head].prev = at;
	v->copy_head = at;
	if (e->seg[row].persistent)
		return;
	list_push(e->sv, &v->ephemeral[e->seg[row].main], row, BY_LIVE);
	ephemeral_copies_add(e, row, holder_region(e->seg[row].holder[which]), 1);
}

static void seg_copy_unlink(struct engine *e, uint32_t row, unsigned which, uint64_t holder)
{
	struct region_vol *v = &e->rv[holder_region(holder)];
	const struct link *k = &e->copy_link[row * ENGINE_MAX_COPIES + which];

	v->copies--;
	v->live_bytes -= e->sv[row].live;
	if (k->prev != NONE)
		e->copy_link[k->prev].next = k->next;
	else
		v->copy_head = k->next;
	if (k->next != NONE)
		e->copy_link[k->next].prev = k->prev;
	if (e->seg[row].persistent)
		return;
	list_remove(e->sv, &v->ephemeral[e->seg[row].main], row, BY_LIVE);
	ephemeral_copies_add(e, row, holder_region(holder), -1);
}

/* Counts a copy on a donor that came or went: what the cleaner looks at. */
static void away_count(struct engine *e, uint32_t row, int change)
{
	if (!e->seg[row].persistent)
		return;
	e->away_live_bytes += (uint64_t)change * e->sv[row].live;
	e->away_held_bytes += (uint64_t)change * e->cfg.segment_bytes;
}

void seg_holder_set(struct engine *e, uint32_t row, unsigned which, uint64_t holder)
{
	__atomic_store_n(&e->seg[row].holder[which], holder, __ATOMIC_RELEASE);
	if (which != DISK_HOLDER) {
		seg_copy_link(e, row, which);
		away_count(e, row, 1);
	} else {
		e->disk_live_bytes += e->sv[row].live;
	}
	seg_classify(e, row);
}

/* A new copy takes the place of one in a revoked region, in one store. */
void seg_holder_replace(struct engine *e, uint32_t row, unsigned which, uint64_t holder)
{
	uint64_t old = e->seg[row].holder[which];

	seg_copy_unlink(e, row, which, old);
	__atomic_store_n(&e->seg[row].holder[which], holder, __ATOMIC_RELEASE);
	seg_copy_link(e, row, which);
	region_slot_return(e, holder_region(old), holder_slot(old));
	seg_classify(e, row);
}

/* Forgets a copy and returns its slot. */
void seg_holder_clear(struct engine *e, uint32_t row, unsigned which)
{
	uint64_t h = e->seg[row].holder[which];

	__atomic_store_n(&e->seg[row].holder[which], 0, __ATOMIC_RELEASE);
	if (which == DISK_HOLDER) {
		disk_slot_return(e, holder_slot(h));
		e->disk_live_bytes -= e->sv[row].live;
	} else {
		seg_copy_unlink(e, row, which, h);
		away_count(e, row, -1);
		region_slot_return(e, holder_region(h), holder_slot(h));
	}
	seg_classify(e, row);
}

void seg_local_set(struct engine *e, uint32_t row, uint32_t slot)
{
	e->slot_row[slot] = row;
	e->account[e->seg[row].account].local_slots++;
	__atomic_store_n(&e->seg[row].local, slot + 1, __ATOMIC_RELEASE);
	seg_classify(e, row);
}

void seg_local_drop(struct engine *e, uint32_t row)
{
	uint32_t slot = e->seg[row].local - 1;

	__atomic_store_n(&e->seg[row].local, 0, __ATOMIC_RELEASE);
	e->account[e->seg[row].account].local_slots--;
	slot_return(e, slot);
	seg_classify(e, row);
}

void seg_short_set(struct engine *e, uint32_t row, bool is_short)
{
	struct seg_vol *v = &e->sv[row];

	if (v->short_of == is_short)
		return;
	v->short_of = is_short;
	e->short_rows += is_short ? 1 : -1u;
	e->short_copies += is_short ? e->seg[row].copies : -(uint64_t)e->seg[row].copies;
	stat_set(&e->stats.segments_underreplicated, e->short_rows);
	seg_requeue(e, row);
}

void seg_pin(struct engine *e, uint32_t row)
{
	e->sv[row].pins++;
}

void seg_unpin(struct engine *e, uint32_t row)
{
	e->sv[row].pins--;
	seg_free_if_dead(e, row);
}

/* A sealed segment that nothing names and nobody reads goes at no cost. */
void seg_free_if_dead(struct engine *e, uint32_t row)
{
	struct seg_row *r = &e->seg[row];
	struct seg_vol *v = &e->sv[row];

	if (!r->seq || !r->sealed || v->live > 0 || v->pins > 0)
		return;
	seg_short_set(e, row, false);
	__atomic_store_n(&r->seq, 0, __ATOMIC_RELEASE);
	seg_classify(e, row);
	for (unsigned i = 0; i < HOLDERS; i++)
		if (r->holder[i] & HOLDER_VALID)
			seg_holder_clear(e, row, i);
	if (r->local)
		seg_local_drop(e, row);
	e->free_row[e->free_rows++] = row;
	stat_sub(&e->stats.segments, 1);
	stat_add(&e->stats.segments_freed, 1);
}

/* ---- making room in the local tier ---- */

uint32_t seg_queue_victim(struct engine *e, struct list *queue)
{
	uint32_t row = queue->head, first = NONE;

	for (unsigned tries = 0; row != NONE && tries < 64; tries++) {
		uint32_t next = e->sv[row].by_queue.next;

		if (!e->sv[row].recent)
			return row;
		if (first == NONE)
			first = row;
		e->sv[row].recent = false;
		seg_queue_last(e, row);
		row = next;
	}
	return first;
}

static bool evict_clean(struct engine *e)
{
	uint32_t row = seg_queue_victim(e, &e->clean);

	if (row == NONE)
		return false;
	stat_add(&e->stats.segments_evicted_clean, 1);
	seg_local_drop(e, row);
	return true;
}

bool local_make_room(struct engine *e)
{
	uint32_t before = e->free_slots;

	if (ephemeral_evict(e) || evict_clean(e))
		return true;
	/* Sealing one that nothing names any more frees it already. */
	return log_seal_coldest(e, true) && (e->free_slots > before || ephemeral_evict(e));
}
