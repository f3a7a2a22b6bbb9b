/* Ephemeral pages: which of them stay in the local tier, which wait on donors, which are forgotten.
 */
#include "client-backend/engine/impl.h"

#define SETTLE_NS     10000000ull
#define REVOKED_NS    10000000000ull /* none is asked for: others needed the room */
#define REPLACE_NS    1000000000ull  /* a region may come first, before older copies make way */
#define LOOKS	      64u	     /* segments looked at for one that fits */
#define CROWDED_SHARE 8u	     /* of rows and entries: left to others */
#define SAME_SHARE    16u	     /* of the entries: what same-filled pages may keep of them */
#define ANY_DONOR     ENGINE_MAX_DONORS
/* Names remembered: of pages forgotten, one for so many entries of the index; of pages read from
 * donors, one for so many pages that the local tier holds uncompressed. */
#define FORGOTTEN_SHARE 16u
#define FETCHED_SHARE	2u

/*
 * After S3-FIFO (Yang et al., SOSP 2023), on a log of segments. New pages are written to segments
 * of their own, on probation; those that were read before they would have gone are written once
 * more, to main; so are new ones that were forgotten a short while ago (ghost.c). Probation makes
 * way while it has more than its share, so pages that are read once pass through it and touch
 * nothing else. Main goes in the order it was written, and what was read meanwhile is written
 * again.
 */

int ephemeral_init(struct engine *e)
{
	uint64_t local = (uint64_t)e->cfg.local_segments * e->cfg.segment_bytes / ENGINE_PAGE_BYTES;

	e->sift.row = NONE;
	return ghost_init(&e->forgotten, e->cfg.max_pages / FORGOTTEN_SHARE) ||
			       ghost_init(&e->fetched, local / FETCHED_SHARE)
		       ? -1
		       : 0;
}

void ephemeral_fini(struct engine *e)
{
	ghost_fini(&e->forgotten);
	ghost_fini(&e->fetched);
}

uint64_t ephemeral_bytes(const struct engine *e)
{
	return ghost_bytes(&e->forgotten) + ghost_bytes(&e->fetched);
}

/* ---- which segment is next ---- */

static bool may_go(const struct engine *e, uint32_t row)
{
	return !(e->sift.busy && row == e->sift.row);
}

/* The oldest of a list; one that is being copied only when there is no other. */
static uint32_t list_oldest(const struct engine *e, const struct list *l, bool moving)
{
	uint32_t row = l->head, first = NONE;

	for (unsigned n = 0; row != NONE && n < LOOKS; n++, row = e->sv[row].by_queue.next) {
		if (!may_go(e, row))
			continue;
		if (!e->sv[row].moving)
			return row;
		if (first == NONE)
			first = row;
	}
	return moving ? first : NONE;
}

static bool over_share(const struct engine *e, const uint32_t *n)
{
	return (uint64_t)n[EPHEMERAL_NEW] * 100 >=
	       (uint64_t)e->cfg.probation_percent * (n[EPHEMERAL_NEW] + n[EPHEMERAL_MAIN]);
}

/* Probation or main, whichever is to make way; the other when that is empty. */
static unsigned list_next(const struct engine *e, const uint32_t *n)
{
	bool fresh = n[EPHEMERAL_NEW] > 0 && (n[EPHEMERAL_MAIN] == 0 || over_share(e, n));

	return fresh ? EPHEMERAL_NEW : EPHEMERAL_MAIN;
}

/* When there is no time to look at pages: what costs nothing first, then what was never read. */
static uint32_t pick_now(const struct engine *e, const struct account_vol *a)
{
	static const enum ephemeral_list order[] = {
		EPHEMERAL_COPIED, EPHEMERAL_NEW, EPHEMERAL_MAIN};
	uint32_t row = NONE;

	for (unsigned i = 0; i < EPHEMERAL_LISTS && row == NONE; i++)
		row = list_oldest(e, &a->ephemeral[order[i]], true);
	return row;
}

static uint32_t pick_to_sift(const struct engine *e, const struct account_vol *a)
{
	uint32_t row = list_oldest(e, &a->ephemeral[EPHEMERAL_COPIED], false);

	return row != NONE ? row
			   : list_oldest(e, &a->ephemeral[list_next(e, a->ephemerals)], false);
}

/* A copy is worth a slot when half of it is alive. */
static uint32_t pick_to_copy(const struct engine *e, const struct account_vol *a)
{
	uint32_t row = a->ephemeral[list_next(e, a->ephemerals)].head;

	for (unsigned n = 0; row != NONE && n < LOOKS; n++, row = e->sv[row].by_queue.next)
		if (e->seg[row].copies > 0 && !e->sv[row].moving && row != e->sift.row &&
			e->sv[row].live >= e->cfg.segment_bytes / 2)
			return row;
	return NONE;
}

/* From the account that holds most of the local tier for its weight. */
static uint32_t segment_next(
	const struct engine *e, uint32_t (*pick)(const struct engine *, const struct account_vol *))
{
	const struct account_vol *worst = NULL;
	uint32_t best = NONE;

	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		const struct account_vol *a = &e->account[i];
		uint32_t row;

		if (!a->ephemerals[EPHEMERAL_NEW] && !a->ephemerals[EPHEMERAL_MAIN] &&
			!a->ephemerals[EPHEMERAL_COPIED])
			continue;
		if (worst && (uint64_t)a->local_slots * worst->desc.weight <=
				     (uint64_t)worst->local_slots * a->desc.weight)
			continue;
		row = pick(e, a);
		if (row == NONE)
			continue;
		worst = a;
		best = row;
	}
	return best;
}

/* ---- forgetting pages ---- */

static void entry_forget(
	struct engine *e, const struct engine_key *k, uint64_t *slot, uint32_t object, bool is_main)
{
	if (!is_main)
		ghost_add(&e->forgotten, k);
	entry_remove(e, slot, object);
	stat_add(&e->stats.ephemeral_forgotten, 1);
}

void ephemeral_reaped(struct engine *e, const struct engine_key *k, uint32_t row)
{
	if (!e->seg[row].main)
		ghost_add(&e->forgotten, k);
	stat_add(&e->stats.ephemeral_forgotten, 1);
}

/* The entry that names the record at this offset of a local segment; NULL: none does. */
static uint64_t *record_entry(
	struct engine *e, uint32_t row, uint32_t off, struct engine_key *k, uint32_t *object)
{
	const struct record_header *h = (const void *)(seg_data(e, row) + off);
	uint64_t *slot;

	k->pool = h->pool;
	k->index = h->index;
	memcpy(k->oid, h->oid, sizeof(k->oid));
	slot = entry_find(e, k, object);
	return slot && loc_equal(*slot, loc_make(row, off, record_bytes(h->len))) ? slot : NULL;
}

/* Removes every entry that still names a record of this local segment. */
static void segment_forget(struct engine *e, uint32_t row)
{
	uint32_t used = e->seg[row].used, off = 0;

	seg_pin(e, row);
	while (off < used && e->sv[row].live > 0) {
		const struct record_header *h = (const void *)(seg_data(e, row) + off);
		struct engine_key k;
		uint32_t object;
		uint64_t *slot = record_entry(e, row, off, &k, &object);

		off += record_bytes(h->len);
		if (slot)
			entry_forget(e, &k, slot, object, e->seg[row].main);
	}
	/* Entries of dead objects may still name it: they are reaped; the room is needed now. */
	seg_local_drop(e, row);
	seg_unpin(e, row);
}

bool ephemeral_evict(struct engine *e)
{
	uint32_t row = segment_next(e, pick_now);

	if (row == NONE)
		return false;
	stat_add(&e->stats.segments_evicted_ephemeral, 1);
	if (seg_has_holder(e, row))
		seg_local_drop(e, row);
	else
		segment_forget(e, row);
	return true;
}

/* ---- pages that were read ---- */

static bool page_keep(struct engine *e, uint16_t account, uint8_t copies,
	const struct record_header *h, uint64_t *slot, uint32_t object)
{
	struct stream to = {.account = account, .copies = copies, .main = 1};

	if (e->reserved_pools > 0 && log_needs_segment(e, &to) && !reserve_allows(e, &to))
		return false;
	if (!log_relocate(e, &to, h, slot, object))
		return false;
	stat_add(&e->stats.ephemeral_reinserted, 1);
	return true;
}

static void sift_record(struct engine *e, uint32_t row, uint32_t off)
{
	const struct seg_row *s = &e->seg[row];
	const struct record_header *h = (const void *)(seg_data(e, row) + off);
	struct engine_key k;
	uint32_t object;
	uint64_t *slot = record_entry(e, row, off, &k, &object);

	if (!slot)
		return;
	if ((*slot & LOC_READ) && record_intact(h, s->seq, s->used - off, e->header->secret) &&
		page_keep(e, s->account, s->copies, h, slot, object))
		return;
	if (!seg_has_holder(e, row))
		entry_forget(e, &k, slot, object, s->main);
}

static uint32_t low_water(const struct engine *e)
{
	uint32_t more = e->cfg.local_segments / 128;

	return RESERVE_SLOTS + 2 + (more < 14 ? more : 14);
}

static bool sift_begin(struct engine *e)
{
	struct sift *s = &e->sift;

	if (s->row != NONE && e->seg[s->row].seq == s->seq && e->sv[s->row].kind == SEG_EPHEMERAL)
		return true;
	s->row = segment_next(e, pick_to_sift);
	if (s->row == NONE)
		return false;
	s->seq = e->seg[s->row].seq;
	s->cursor = 0;
	return true;
}

bool ephemeral_sift(struct engine *e, unsigned records)
{
	struct sift *s = &e->sift;

	if (e->free_slots >= low_water(e) || e->kinds[SEG_EPHEMERAL] == 0 || s->busy ||
		!sift_begin(e))
		return false;
	uint32_t row = s->row, used = e->seg[row].used;

	seg_pin(e, row);
	s->busy = true;
	for (; records > 0 && s->cursor < used && e->sv[row].live > 0; records--) {
		uint32_t off = s->cursor;

		s->cursor += record_bytes(((struct record_header *)(seg_data(e, row) + off))->len);
		sift_record(e, row, off);
	}
	s->busy = false;
	if (s->cursor >= used || e->sv[row].live == 0) {
		s->row = NONE;
		stat_add(&e->stats.segments_evicted_ephemeral, 1);
		seg_local_drop(e, row);
	}
	seg_unpin(e, row);
	return true;
}

bool ephemeral_is_known(struct engine *e, const struct engine_key *k)
{
	uint32_t object;
	const uint64_t *slot = entry_find(e, k, &object);

	if (slot && !loc_is_same(*slot) && ((*slot & LOC_READ) || e->seg[loc_row(*slot)].main))
		return true;
	return ghost_has(&e->forgotten, k);
}

/*
 * Twice with few reads of others between: it belongs into the local tier, and there is room. A loop
 * over more than that holds is left where it is.
 */
void ephemeral_was_read(struct engine *e, const struct engine_req *r, const struct record_header *h)
{
	const struct seg_row *s = &e->seg[loc_row(r->loc)];
	uint32_t object;
	uint64_t *slot;

	if (!ghost_has(&e->fetched, &r->key)) {
		ghost_add(&e->fetched, &r->key);
		return;
	}
	slot = entry_find(e, &r->key, &object);
	if (slot && loc_equal(*slot, r->loc) && !s->local && e->free_slots > RESERVE_SLOTS)
		page_keep(e, s->account, s->copies, h, slot, object);
}

void ephemeral_miss(struct engine *e, const struct engine_req *r)
{
	uint32_t object;
	uint64_t *slot = entry_find(e, &r->key, &object);

	if (slot)
		entry_remove(e, slot, object);
}

/* ---- copies on donors ---- */

/* The oldest copy of these on a donor, or on any that can be written to. */
static uint32_t copy_oldest(const struct engine *e, unsigned donor, unsigned of)
{
	uint32_t best = NONE;

	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		const struct region_vol *v = &e->rv[r];
		uint32_t row;

		if (!e->region[r].used || v->revoking || v->ephemeral_copies == 0)
			continue;
		if (donor == ANY_DONOR ? donor_room(e, e->region[r].desc.donor) == 0
				       : e->region[r].desc.donor != donor)
			continue;
		row = v->ephemeral[of].head;
		if (row != NONE && (best == NONE || e->seg[row].seq < e->seg[best].seq))
			best = row;
	}
	return best;
}

static bool copy_drop(struct engine *e, unsigned donor, const uint32_t *n)
{
	unsigned of = list_next(e, n);
	uint32_t row = copy_oldest(e, donor, of);

	if (row == NONE)
		row = copy_oldest(e, donor, !of);
	if (row == NONE)
		return false;
	stat_add(&e->stats.ephemeral_dropped, 1);
	seg_holder_clear(e, row, 0);
	return true;
}

bool ephemeral_drop_on(struct engine *e, unsigned donor)
{
	return copy_drop(e, donor, e->donor[donor].ephemeral_slots);
}

bool ephemeral_wants_region(const struct engine *e, uint64_t now)
{
	return e->unplaced_ns && now < e->unplaced_last_ns + 5 * SETTLE_NS &&
	       !(e->revoked_ns && now < e->revoked_ns + REVOKED_NS) && !move_spill_waits(e) &&
	       e->reserve_need.short_segments == 0 && !reserve_is_asking(e) &&
	       !reserve_is_refusing(e) && !region_others_want(e, now);
}

/* A slot for a copy; when all that is to spare is used, that of an older copy, but not before a
 * region had time to come. */
static uint64_t copy_place(struct engine *e, uint64_t now)
{
	uint64_t holder = region_place_spare(e);

	if (holder)
		return holder;
	if (!e->unplaced_ns)
		e->unplaced_ns = now;
	e->unplaced_last_ns = now;
	if (now < e->unplaced_ns + REPLACE_NS && ephemeral_wants_region(e, now))
		return 0;
	return copy_drop(e, ANY_DONOR, e->ephemeral_away) ? region_place_spare(e) : 0;
}

bool ephemeral_crowds_index(const struct engine *e)
{
	return e->index.entries > e->cfg.max_pages - e->cfg.max_pages / CROWDED_SHARE;
}

/* Rows or entries are. */
static bool is_crowded(const struct engine *e)
{
	return e->free_rows < e->cfg.max_segments / CROWDED_SHARE ||
	       e->index.entries > e->cfg.max_pages - e->cfg.max_pages / CROWDED_SHARE;
}

/* Copies what will lose its local slot soon. What persistent segments wait for goes first. */
static void copies_start(struct engine *e, uint64_t now, uint64_t *wake)
{
	uint32_t ready = e->free_slots + e->kinds[SEG_CLEAN] + e->ephemeral_copied;
	uint32_t target = move_ready_target(e), most = (e->cfg.moves + 2) / 4;

	if (e->kinds[SEG_EPHEMERAL] == e->ephemeral_copied || is_crowded(e) || move_spill_waits(e))
		return;
	while (ready + e->ephemeral_moves < target && e->ephemeral_moves < most &&
		e->moves_active + 1 < e->cfg.moves && now >= e->ephemeral_at_ns) {
		uint32_t row = segment_next(e, pick_to_copy);
		uint64_t holder = row == NONE ? 0 : copy_place(e, now);

		if (holder) {
			move_ephemeral(e, row, holder);
			continue;
		}
		e->ephemeral_at_ns = now + SETTLE_NS;
		if (row == NONE)
			return;
	}
	if (ready + e->ephemeral_moves < target && now + SETTLE_NS < *wake)
		*wake = now + SETTLE_NS;
}

/* ---- making room for others' entries and rows ---- */

static uint32_t account_local(const struct engine *e, uint32_t account)
{
	return account == NONE ? segment_next(e, pick_now) : pick_now(e, &e->account[account]);
}

static bool is_away(const struct engine *e, uint32_t row, uint32_t account)
{
	return !e->seg[row].local && (account == NONE || e->seg[row].account == account);
}

/* The oldest segment on a donor alone, of an account or of any. */
static uint32_t away_oldest(const struct engine *e, uint32_t account)
{
	uint32_t best = NONE;

	for (uint32_t r = 0; r < e->cfg.max_regions; r++)
		for (unsigned of = 0; e->region[r].used && of < 2; of++) {
			uint32_t row = e->rv[r].ephemeral[of].head;

			for (unsigned n = 0; row != NONE && !is_away(e, row, account);
				row = e->sv[row].by_live.next)
				if (++n == LOOKS)
					break;
			if (row != NONE && is_away(e, row, account) &&
				(best == NONE || e->seg[row].seq < e->seg[best].seq))
				best = row;
		}
	return best;
}

bool ephemeral_forget(struct engine *e, uint32_t account)
{
	uint32_t row = away_oldest(e, account);

	if (row != NONE) {
		stat_add(&e->stats.ephemeral_dropped, 1);
		seg_holder_clear(e, row, 0);
		return true;
	}
	row = account_local(e, account);
	if (row == NONE)
		return false;
	stat_add(&e->stats.segments_evicted_ephemeral, 1);
	segment_forget(e, row);
	return true;
}

/* Same-filled pages first, when there are many. */
static void make_way(struct engine *e)
{
	bool index = ephemeral_crowds_index(e) && e->ephemeral_same > 0;

	if (index && e->ephemeral_same > e->cfg.max_pages / SAME_SHARE)
		e->same_sweep = e->index.nbuckets;
	else if (!ephemeral_forget(e, NONE) && index)
		e->same_sweep = e->index.nbuckets;
}

void ephemeral_tick(struct engine *e, uint64_t now, uint64_t *wake)
{
	/* What was dropped before must be reaped first. */
	if (is_crowded(e) && e->lost_live == 0 && e->same_sweep == 0)
		make_way(e);
	if (e->kinds[SEG_EPHEMERAL] == 0)
		return;
	ephemeral_sift(e, 32);
	copies_start(e, now, wake);
}
