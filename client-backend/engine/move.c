/* A move: copying a segment to its holders or writing its live records on, from start to end. */
#include "client-backend/engine/impl.h"

#define SALVAGE_READS 3u /* of the only copy, before the damage in it is taken for lasting */

void move_init(struct engine *e, uint8_t *staging)
{
	for (uint32_t i = 0; i < e->cfg.moves; i++) {
		struct move *m = &e->move[i];

		m->state = MOVE_IDLE;
		m->staging = staging + (size_t)i * e->cfg.segment_bytes;
		for (unsigned k = 0; k < HOLDERS; k++) {
			m->io[k].engine = e;
			m->io[k].move = m;
			m->io[k].io.background = true;
		}
	}
}

static struct move *move_idle(struct engine *e)
{
	for (uint32_t i = 0; i < e->cfg.moves; i++)
		if (e->move[i].state == MOVE_IDLE)
			return &e->move[i];
	return NULL;
}

/* ---- the end of a move ---- */

/* Copies in revoked regions and an overflow copy on disk go once they are not needed any more. */
static void copy_tidy(struct engine *e, uint32_t row)
{
	struct seg_row *s = &e->seg[row];

	for (unsigned i = 0; i < DISK_HOLDER; i++)
		if ((s->holder[i] & HOLDER_VALID) && e->rv[holder_region(s->holder[i])].revoking)
			seg_holder_clear(e, row, i);
	if (s->disk == ENGINE_DISK_OVERFLOW && (s->holder[DISK_HOLDER] & HOLDER_VALID) &&
		seg_complete(e, row))
		seg_holder_clear(e, row, DISK_HOLDER);
}

static void copy_settle(struct engine *e, struct move *m)
{
	uint32_t row = m->row;
	uint64_t again = now_ns(e) + e->cfg.retry_ns;

	if (!m->failed && (seg_complete(e, row) || seg_safe(e, row) || e->seg[row].local))
		copy_tidy(e, row);
	if (seg_complete(e, row)) {
		stat_add(e->sv[row].short_of ? &e->stats.segments_repaired
					     : &e->stats.segments_spilled,
			1);
		seg_short_set(e, row, false);
		return;
	}
	if (m->failed)
		stat_add(&e->stats.move_failures, 1);
	/* A first spill that made one copy of two is still a spill; without a local copy it is a
	 * repair. */
	if (seg_has_holder(e, row) && (e->sv[row].short_of || !e->seg[row].local)) {
		seg_short_set(e, row, true);
		e->repair_at_ns = again;
	} else {
		seg_short_set(e, row, false);
		e->spill_at_ns = again;
	}
}

static void ephemeral_settle(struct engine *e, const struct move *m)
{
	e->ephemeral_moves--;
	if (m->failed) {
		stat_add(&e->stats.move_failures, 1);
		e->ephemeral_at_ns = now_ns(e) + e->cfg.retry_ns;
	} else {
		stat_add(&e->stats.ephemeral_spilled, 1);
	}
}

static void move_end(struct engine *e, struct move *m)
{
	uint32_t row = m->row;

	m->state = MOVE_IDLE;
	e->moves_active--;
	e->sv[row].moving = false;
	if (!e->seg[row].persistent) {
		ephemeral_settle(e, m);
	} else if (m->kind == MOVE_COPY) {
		copy_settle(e, m);
	} else {
		/* What a whole pass left behind are pages of dead objects, the reaper's. */
		e->sv[row].noclean = !m->failed;
		if (!m->failed && !m->bad_record)
			stat_add(&e->stats.segments_cleaned, 1);
	}
	seg_classify(e, row);
	seg_unpin(e, row);
}

/* ---- writing copies ---- */

static void write_done(struct engine_io *io, int status)
{
	struct move_io *w = container_of(io, struct move_io, io);
	struct engine *e = w->engine;
	struct move *m = w->move;
	uint32_t region = holder_region(w->holder);
	bool disk = w->which == DISK_HOLDER;
	bool there = disk || (region_used(e, region) && e->rv[region].generation == w->generation);

	if (!disk)
		e->donor[w->donor].writes--;
	if (status == 0 && there && (disk || !e->rv[region].revoking)) {
		stat_add(disk ? &e->stats.bytes_written_disk : &e->stats.bytes_written_remote,
			io->len);
		if (disk)
			stat_add(&e->stats.segments_to_disk, 1);
		if (e->seg[m->row].holder[w->which] & HOLDER_VALID)
			seg_holder_replace(e, m->row, w->which, w->holder);
		else
			seg_holder_set(e, m->row, w->which, w->holder);
	} else {
		m->failed = true;
		if (disk)
			disk_slot_return(e, holder_slot(w->holder));
		else if (there)
			region_slot_return(e, region, holder_slot(w->holder));
	}
	if (--m->pending == 0)
		move_end(e, m);
}

static bool write_start(
	struct engine *e, struct move *m, unsigned n, uint64_t holder, unsigned which)
{
	struct move_io *w = &m->io[n];

	w->holder = holder;
	w->which = (uint8_t)which;
	w->generation = which == DISK_HOLDER ? 0 : e->rv[holder_region(holder)].generation;
	holder_io(e, &w->io, holder, which, 0, e->seg[m->row].used);
	w->io.buf = (void *)m->data;
	w->io.done = write_done;
	if (e->ops.io_write(e->ops_ctx, &w->io) == 0) {
		m->pending++;
		if (which != DISK_HOLDER) {
			w->donor = w->io.region->donor;
			e->donor[w->donor].writes++;
		}
		return true;
	}
	m->failed = true;
	if (which == DISK_HOLDER)
		disk_slot_return(e, holder_slot(holder));
	else
		region_slot_return(e, holder_region(holder), holder_slot(holder));
	return false;
}

/* A free place in the row for a new holder, or else one whose region is revoked; bit mask `taken`
 * excluded. */
static unsigned holder_vacancy(const struct engine *e, uint32_t row, uint8_t taken)
{
	unsigned doomed = HOLDERS;

	for (unsigned i = 0; i < DISK_HOLDER; i++) {
		uint64_t h = e->seg[row].holder[i];

		if (taken >> i & 1)
			continue;
		if (!(h & HOLDER_VALID))
			return i;
		if (e->rv[holder_region(h)].revoking)
			doomed = i;
	}
	return doomed;
}

/* Nowhere else to go and its region is revoked: back into the local tier, if that has room. */
static void copy_pull_back(struct engine *e, struct move *m)
{
	uint32_t slot;

	if (e->seg[m->row].local || seg_good_copies(e, m->row) > 0 ||
		(e->seg[m->row].holder[DISK_HOLDER] & HOLDER_VALID))
		return;
	slot = slot_take(e, false);
	if (slot == NONE && local_make_room(e))
		slot = slot_take(e, false);
	if (slot == NONE)
		return;
	memcpy(slot_data(e, slot), m->data, e->seg[m->row].used);
	seg_local_set(e, m->row, slot);
}

static void move_write(struct engine *e, struct move *m)
{
	uint64_t also[HOLDERS];
	unsigned n = 0, good = seg_good_copies(e, m->row), ios = 0;
	unsigned need = e->seg[m->row].copies > good ? e->seg[m->row].copies - good : 0;
	const struct seg_row *s = &e->seg[m->row];
	uint8_t taken = 0;
	bool on_disk = s->holder[DISK_HOLDER] & HOLDER_VALID;

	m->state = MOVE_WRITE;
	m->pending =
		1; /* ours, so that none of the writes ends the move while others are started */
	for (; n < need; n++) {
		unsigned which = holder_vacancy(e, m->row, taken);

		also[n] = which < HOLDERS ? region_place(e, m->row, also, n) : 0;
		if (!also[n]) {
			e->unplaced = true;
			break;
		}
		taken |= (uint8_t)(1u << which);
		ios += write_start(e, m, n, also[n], which);
	}
	if (!on_disk &&
		(s->disk == ENGINE_DISK_MIRROR || (s->disk == ENGINE_DISK_OVERFLOW && n < need))) {
		uint32_t slot = disk_slot_take(e);

		if (slot != NONE)
			ios += write_start(e, m, HOLDERS - 1, holder_make(0, slot), DISK_HOLDER);
	}
	if (n < need && ios == 0 && !on_disk) {
		m->failed = true;
		copy_pull_back(e, m);
		if (e->seg[m->row].local)
			m->failed = false;
	}
	e->ops.io_kick(e->ops_ctx);
	if (--m->pending == 0)
		move_end(e, m);
}

/* ---- loading a segment that is not local ---- */

static bool segment_intact(const struct engine *e, const uint8_t *data, uint32_t used, uint64_t seq)
{
	uint32_t off = 0;

	while (off < used) {
		const struct record_header *h = (const void *)(data + off);

		if (!record_intact(h, seq, used - off, e->header->secret))
			return false;
		off += record_bytes(h->len);
	}
	return true;
}

static void move_load(struct engine *e, struct move *m);

static void move_loaded(struct engine *e, struct move *m)
{
	if (m->kind == MOVE_COPY) {
		move_write(e, m);
	} else {
		m->state = MOVE_RELOCATE;
		m->cursor = 0;
	}
}

/* The first intact record from off on; used: there is none. */
static uint32_t record_next_intact(
	const struct engine *e, const uint8_t *data, uint32_t used, uint64_t seq, uint32_t off)
{
	for (; off + RECORD_HEADER_BYTES <= used; off += 8)
		if (record_intact((const void *)(data + off), seq, used - off, e->header->secret))
			return off;
	return used;
}

/*
 * The only copy there is has a damaged record, again and again: the others are worth saving. A copy
 * of it serves every get that the original would have served.
 */
static bool load_salvage(struct engine *e, struct move *m)
{
	const struct seg_row *s = &e->seg[m->row];
	unsigned copies = s->local ? 1 : 0;

	for (unsigned i = 0; i < HOLDERS; i++)
		copies += (unsigned)(s->holder[i] >> 63);
	return copies == 1 && ++m->damaged >= SALVAGE_READS &&
	       record_next_intact(e, m->staging, s->used, s->seq, 0) < s->used;
}

static void load_done(struct engine_io *io, int status)
{
	struct move_io *r = container_of(io, struct move_io, io);
	struct engine *e = r->engine;
	struct move *m = r->move;
	uint32_t row = m->row;

	if (status == 0 && segment_intact(e, m->staging, e->seg[row].used, e->seg[row].seq)) {
		move_loaded(e, m);
		return;
	}
	if (status == 0) {
		holder_bad(e, row, r->which, r->holder);
		if (load_salvage(e, m)) {
			move_loaded(e, m);
			return;
		}
		if (m->damaged && m->damaged < SALVAGE_READS)
			m->tried = 0; /* perhaps only this read was wrong */
	}
	move_load(e, m);
}

static void move_load(struct engine *e, struct move *m)
{
	struct move_io *r = &m->io[0];

	for (unsigned i = 0; i < HOLDERS; i++) {
		uint64_t h = e->seg[m->row].holder[i];

		if ((m->tried >> i & 1) || !holder_reachable(e, h, i))
			continue;
		m->tried |= (uint8_t)(1u << i);
		r->holder = h;
		r->which = (uint8_t)i;
		holder_io(e, &r->io, h, i, 0, e->seg[m->row].used);
		r->io.buf = m->staging;
		r->io.done = load_done;
		if (e->ops.io_read(e->ops_ctx, &r->io) == 0) {
			stat_add(i == DISK_HOLDER ? &e->stats.bytes_read_disk
						  : &e->stats.bytes_read_remote,
				r->io.len);
			e->ops.io_kick(e->ops_ctx);
			return;
		}
	}
	m->failed = true;
	e->clean_at_ns = now_ns(e) + e->cfg.retry_ns;
	move_end(e, m);
}

static struct move *move_take(struct engine *e, enum move_kind kind, uint32_t row)
{
	struct move *m = move_idle(e);

	if (!m)
		return NULL;
	seg_pin(e, row);
	m->kind = kind;
	m->row = row;
	m->tried = 0;
	m->failed = m->bad_record = false;
	m->damaged = 0;
	m->pending = 0;
	e->moves_active++;
	e->sv[row].moving = true;
	seg_classify(e, row);
	m->state = MOVE_LOAD;
	return m;
}

/* From staging, so that the local slot can be had by others at once. */
bool move_ephemeral(struct engine *e, uint32_t row, uint64_t holder)
{
	struct move *m = move_take(e, MOVE_COPY, row);

	if (!m)
		return false;
	e->ephemeral_moves++;
	m->data = m->staging;
	memcpy(m->staging, seg_data(e, row), e->seg[row].used);
	m->state = MOVE_WRITE;
	if (!write_start(e, m, 0, holder, 0))
		move_end(e, m);
	else
		e->ops.io_kick(e->ops_ctx);
	return true;
}

bool move_start(struct engine *e, enum move_kind kind, uint32_t row)
{
	struct move *m = move_take(e, kind, row);

	if (!m)
		return false;
	if (e->seg[row].local) {
		m->data = seg_data(e, row);
		move_loaded(e, m);
	} else {
		m->data = m->staging;
		move_load(e, m);
	}
	return true;
}

/* ---- writing live records on ---- */

struct stream move_cold_stream(const struct seg_row *s)
{
	return (struct stream){
		.account = s->account,
		.persistent = s->persistent,
		.copies = s->copies,
		.disk = s->disk,
		.cold = 1,
	};
}

/* Moves up to `records` records on; true: it is done with the segment. */
static bool clean_step(struct engine *e, struct move *m, unsigned records)
{
	const struct seg_row *s = &e->seg[m->row];
	struct stream cold = move_cold_stream(s);

	m->stalled = false;
	while (m->cursor < s->used && e->sv[m->row].live > 0) {
		const struct record_header *h = (const void *)(m->data + m->cursor);
		struct engine_key k;
		uint32_t object;
		uint64_t *slot;

		if (records-- == 0)
			return false;
		if (!record_intact(h, s->seq, s->used - m->cursor, e->header->secret)) {
			stat_add(&e->stats.records_corrupt, 1);
			m->bad_record = true;
			m->cursor = record_next_intact(e, m->data, s->used, s->seq, m->cursor + 8);
			continue;
		}
		k.pool = h->pool;
		k.index = h->index;
		memcpy(k.oid, h->oid, sizeof(k.oid));
		slot = entry_find(e, &k, &object);
		if (slot && *slot == loc_make(m->row, m->cursor, record_bytes(h->len)) &&
			!log_relocate(e, &cold, h, slot, object)) {
			m->stalled = true;
			return false;
		}
		m->cursor += record_bytes(h->len);
	}
	return true;
}

bool move_work(struct engine *e, unsigned records)
{
	bool more = false;

	for (uint32_t i = 0; i < e->cfg.moves; i++) {
		struct move *m = &e->move[i];

		if (m->state != MOVE_RELOCATE)
			continue;
		if (clean_step(e, m, records))
			move_end(e, m);
		else
			more |= !m->stalled;
	}
	return more;
}
