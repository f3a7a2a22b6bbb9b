/* What is moved next: which segments are cleaned, repaired and spilled, and when. */
#include "client-backend/engine/impl.h"

#define CLEAN_SAMPLE   8u  /* rows looked at per bucket */
#define SPARSE_PERCENT 50u /* a local segment with less alive is compacted instead of spilled */
#define PAIR_LOOKS     512u
#define CLEAN_MIN_SEGS 8u /* held on donors before their live share matters */
#define SETTLE_NS      10000000ull
#define REPAIR_LOOKS   65536u /* rows looked at with one tick */
#define REPAIR_VAIN    256u   /* of them short of copies, but not to be helped now */
#define SPILL_VAIN     256u   /* spills of one tick that had nowhere to go */
#define SPILL_FAILURES 16u    /* that failed at once */

/* Those that will free a local slot. */
static unsigned moves_freeing(const struct engine *e)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < e->cfg.moves; i++) {
		const struct move *m = &e->move[i];

		n += m->state != MOVE_IDLE && m->kind == MOVE_COPY && e->seg[m->row].local &&
		     e->seg[m->row].persistent;
	}
	return n;
}

static unsigned moves_of(const struct engine *e, enum move_kind kind)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < e->cfg.moves; i++)
		n += e->move[i].state != MOVE_IDLE && e->move[i].kind == kind;
	return n;
}

/* ---- cleaning ---- */

/* Cost-benefit (Rosenblum and Ousterhout 1992): (1 - u) * age / (1 + u), age in segments written
 * since. */
static double clean_benefit(const struct engine *e, uint32_t row)
{
	double u = (double)e->sv[row].live / e->cfg.segment_bytes;
	double age = (double)(e->header->next_seq - e->seg[row].seq);

	return (1.0 - u) * age / (1.0 + u);
}

/* What the cleaner wrote and sealed early is as dense as it gets by itself. */
static bool clean_is_dense(const struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];

	return s->cold &&
	       (uint64_t)e->sv[row].live * 100 >= (uint64_t)s->used * e->cfg.live_percent;
}

/* Its live records fit into what the cleaner is writing: one segment less, whatever the share
 * alive. */
static bool clean_fits_open(const struct engine *e, uint32_t row)
{
	struct stream cold = move_cold_stream(&e->seg[row]);
	uint32_t open = log_open_row(e, &cold);

	return open != NONE &&
	       e->seg[open].used + e->sv[row].live + RECORD_MAX_BYTES <= e->cfg.segment_bytes;
}

static bool clean_same_stream(const struct engine *e, uint32_t a, uint32_t b)
{
	const struct seg_row *x = &e->seg[a], *y = &e->seg[b];

	return x->account == y->account && x->persistent == y->persistent &&
	       x->copies == y->copies && x->disk == y->disk;
}

/*
 * One of two dense segments of the same stream that are less than half full: together they make
 * one. Each such pair leaves a segment less, so this comes to an end.
 */
static uint32_t clean_pair(const struct engine *e)
{
	uint32_t seen[MAX_STREAMS], n = 0, looks = 0;

	for (unsigned b = 0; b < CLEAN_BUCKETS / 2; b++)
		for (uint32_t row = e->by_live[b].head; row != NONE && looks < PAIR_LOOKS;
			row = e->sv[row].by_live.next, looks++) {
			for (uint32_t i = 0; i < n; i++)
				if (clean_same_stream(e, row, seen[i]))
					return row;
			if (n < MAX_STREAMS)
				seen[n++] = row;
		}
	return NONE;
}

static uint32_t clean_victim(const struct engine *e)
{
	uint32_t best = NONE;
	double best_benefit = 0;
	unsigned top = CLEAN_BUCKETS * e->cfg.live_percent / 100 + 1;

	for (unsigned b = 0; b < CLEAN_BUCKETS && b <= top; b++) {
		uint32_t row = e->by_live[b].head;

		for (unsigned n = 0; row != NONE && n < CLEAN_SAMPLE; n++) {
			bool vain = clean_is_dense(e, row) && !clean_fits_open(e, row);
			double benefit = vain ? 0 : clean_benefit(e, row);

			if (benefit > best_benefit) {
				best_benefit = benefit;
				best = row;
			}
			row = e->sv[row].by_live.next;
		}
	}
	return best != NONE ? best : clean_pair(e);
}

/*
 * A dirty segment that is not alive enough: where promised room is short, what cannot be spilled is
 * compacted, too. What the cleaner sealed early is left alone unless it fits into what is open, or
 * it would go round for ever.
 */
static uint32_t squeeze_victim(const struct engine *e)
{
	for (unsigned b = 0; b < CLEAN_BUCKETS; b++) {
		uint32_t row = e->by_live[CLEAN_BUCKETS + b].head;

		for (unsigned n = 0; row != NONE && n < CLEAN_SAMPLE; n++) {
			uint64_t live = e->sv[row].live, whole = e->cfg.segment_bytes;
			bool early = e->seg[row].cold && live * 2 >= e->seg[row].used &&
				     e->seg[row].used < whole / 8 * 7;

			if (live * 100 >= whole * e->cfg.live_percent)
				return NONE;
			if (!early || clean_fits_open(e, row))
				return row;
			row = e->sv[row].by_live.next;
		}
	}
	return NONE;
}

static bool clean_due(const struct engine *e)
{
	if (reserve_is_tight(e))
		return true;
	return e->away_held_bytes > (uint64_t)CLEAN_MIN_SEGS * e->cfg.segment_bytes &&
	       e->away_live_bytes * 100 < e->away_held_bytes * e->cfg.live_percent;
}

static void clean_start(struct engine *e, uint64_t now)
{
	bool squeeze = reserve_is_tight(e);
	bool room = e->free_slots > 0 || e->kinds[SEG_CLEAN] > 0 || e->kinds[SEG_EPHEMERAL] > 0;

	while (room && clean_due(e) && now >= e->clean_at_ns && e->moves_active < e->cfg.moves &&
		moves_of(e, MOVE_CLEAN) < (e->cfg.moves + 1) / 2) {
		uint32_t row = squeeze ? squeeze_victim(e) : NONE;

		if (row == NONE)
			row = clean_victim(e);
		if (row == NONE || !move_start(e, MOVE_CLEAN, row)) {
			e->clean_at_ns = now + SETTLE_NS;
			return;
		}
	}
}

/* Spilling leaves one move to a cleaner that has work, or else a steady stream of puts would keep
 * it out. */
static bool spill_may_start(const struct engine *e)
{
	return e->moves_active + (clean_due(e) && moves_of(e, MOVE_CLEAN) == 0) < e->cfg.moves;
}

/* ---- repair and spill ---- */

uint32_t move_ready_target(const struct engine *e)
{
	uint32_t target = (uint32_t)((uint64_t)e->cfg.local_segments * e->cfg.spill_percent / 100);

	return target > RESERVE_SLOTS ? target : RESERVE_SLOTS + 1;
}

static unsigned spill_wanted(const struct engine *e)
{
	uint32_t target = move_ready_target(e);
	uint32_t ready =
		e->free_slots + e->kinds[SEG_CLEAN] + e->kinds[SEG_EPHEMERAL] + moves_freeing(e);

	if (ready < target)
		return target - ready;
	return e->put_wait.head || e->grant_wait.head
		       ? 1
		       : 0; /* moves to a donor that does not answer free nothing */
}

static bool disk_has_room(const struct engine *e)
{
	return e->disk_used < e->cfg.disk_segments;
}

/* True when a copy of a segment that is short of them could change anything now: what cannot be
 * read or has nowhere to go must not be tried, least of all be loaded to find that out. */
static bool repair_may_help(struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];
	bool on_disk = s->holder[DISK_HOLDER] & HOLDER_VALID, readable = s->local, doomed = false;
	unsigned good = seg_good_copies(e, row);

	for (unsigned i = 0; i < HOLDERS; i++) {
		readable |= holder_reachable(e, s->holder[i], i);
		doomed |= i != DISK_HOLDER && (s->holder[i] & HOLDER_VALID) &&
			  e->rv[holder_region(s->holder[i])].revoking;
	}
	if (!readable)
		return false;
	if (good < s->copies && region_can_place(e, row))
		return true;
	e->unplaced |= good < s->copies;
	if (seg_safe(e, row)) /* copies that are not needed any more can go */
		return doomed || good >= s->copies;
	if (s->disk != ENGINE_DISK_NEVER && disk_has_room(e))
		return true;
	/* Back into the local tier. */
	return !s->local && good == 0 && !on_disk &&
	       (e->free_slots > RESERVE_SLOTS || e->clean.head != NONE ||
		       e->kinds[SEG_EPHEMERAL] > 0);
}

/* A long repair leaves half of the moves to puts that need room, and one to those that may soon. */
static bool repair_may_start(const struct engine *e)
{
	unsigned spare = 1, freeing = moves_freeing(e);

	if (e->spill.head != NONE && spill_wanted(e) > 0)
		spare = (e->cfg.moves + 1) / 2;
	spare = spare > freeing ? spare - freeing : 0;
	return e->moves_active + spare < e->cfg.moves;
}

static void repair_start(struct engine *e, uint64_t now)
{
	uint32_t vain = 0, left = e->cfg.max_segments;

	if (left > REPAIR_LOOKS)
		left = REPAIR_LOOKS;
	if (now < e->repair_at_ns || !repair_may_start(e))
		return;
	for (; e->short_rows > 0 && left > 0 && vain < REPAIR_VAIN; left--) {
		uint32_t row = e->repair_cursor;

		if (++e->repair_cursor == e->cfg.max_segments)
			e->repair_cursor = 0;
		if (!e->sv[row].short_of || e->sv[row].moving || !e->seg[row].sealed)
			continue;
		if (!repair_may_help(e, row)) {
			vain++;
			continue;
		}
		if (!move_start(e, MOVE_COPY, row) || now < e->repair_at_ns || !repair_may_start(e))
			return;
	}
	if (e->short_rows > 0)
		e->repair_at_ns = now + SETTLE_NS;
}

/* What the cleaner wrote is compacted again only once half of it is dead: a segment that was sealed
 * early would go round for ever. */
static bool spill_sparse(const struct engine *e, uint32_t row)
{
	if (e->seg[row].cold && e->sv[row].live > e->seg[row].used / 2)
		return false;
	return e->free_slots > 0 && !e->sv[row].noclean &&
	       e->sv[row].live < e->cfg.segment_bytes * SPARSE_PERCENT / 100 &&
	       moves_of(e, MOVE_CLEAN) < (e->cfg.moves + 1) / 2;
}

/* A spill that could end well: a donor for each copy, or the disk. */
static bool spill_can_finish(const struct engine *e, unsigned copies)
{
	uint32_t free_slots;

	return donors_with_room(e, &free_slots) >= copies || disk_has_room(e);
}

/* False: nowhere to go for another copy now. */
static bool spill_may_help(struct engine *e, uint32_t row)
{
	const struct seg_row *s = &e->seg[row];

	if (seg_good_copies(e, row) >= s->copies || region_can_place(e, row))
		return true;
	e->unplaced = true;
	return s->disk != ENGINE_DISK_NEVER && disk_has_room(e);
}

static void spill_start(struct engine *e, uint64_t now)
{
	unsigned wanted = spill_wanted(e), vain = 0;

	if (wanted == 0 || now < e->spill_at_ns || !spill_may_start(e))
		return;
	/* Segments that only idle streams still hold open are no use to anybody. */
	if (e->kinds[SEG_DIRTY] == 0 && !log_seal_coldest(e, false))
		return;
	bool target = spill_can_finish(e, 1);

	for (; wanted > 0 && vain < SPILL_VAIN; wanted--) {
		uint32_t row = seg_queue_victim(e, &e->spill), active = e->moves_active;
		bool sparse = row != NONE && spill_sparse(e, row);

		if (row == NONE || !(sparse || target))
			break;
		if (!sparse && !spill_may_help(e, row)) {
			seg_queue_last(e, row);
			vain++;
			continue;
		}
		if (!spill_may_start(e) || !move_start(e, sparse ? MOVE_CLEAN : MOVE_COPY, row))
			return;
		if (e->moves_active == active)
			vain += SPILL_VAIN / SPILL_FAILURES;
	}
	if (wanted > 0)
		e->spill_at_ns = now + SETTLE_NS;
}

bool move_spill_waits(const struct engine *e)
{
	return e->short_rows > 0 || (e->kinds[SEG_DIRTY] > 0 && spill_wanted(e) > 0);
}

bool move_may_free(struct engine *e, uint64_t now, unsigned copies)
{
	if (moves_freeing(e) > 0 || e->free_slots > RESERVE_SLOTS)
		return true;
	if (e->want_since_ns && now < e->want_since_ns + e->cfg.put_wait_ns)
		return true;
	/* A move that failed is tried again soon enough for this put, or it is not. */
	return e->kinds[SEG_DIRTY] > 0 && now + e->cfg.put_wait_ns > e->spill_at_ns &&
	       spill_can_finish(e, copies);
}

void move_tick(struct engine *e, uint64_t now, uint64_t *wake)
{
	move_work(e, 16);
	if (e->short_rows > 0)
		repair_start(e, now);
	spill_start(e, now);
	clean_start(e, now);
	for (uint32_t i = 0; i < e->cfg.moves && e->moves_active; i++)
		if (e->move[i].state == MOVE_RELOCATE && !e->move[i].stalled)
			*wake = now;
	if (e->short_rows > 0 && e->repair_at_ns < *wake)
		*wake = e->repair_at_ns > now ? e->repair_at_ns : now + SETTLE_NS;
	if (spill_wanted(e) > 0 && e->kinds[SEG_DIRTY] > 0 && now + SETTLE_NS < *wake)
		*wake = now + SETTLE_NS;
	if (clean_due(e) && now + SETTLE_NS < *wake)
		*wake = now + SETTLE_NS;
}
