/* Appending: one open segment per stream, sealed when it is full. */
#include "client-backend/engine/impl.h"

struct stream stream_for_pool(const struct engine_pool_desc *d, bool granted)
{
	bool persistent = d->flags & ENGINE_POOL_PERSISTENT;

	return (struct stream){
		.account = d->account,
		.persistent = persistent,
		.copies = persistent ? d->copies : (d->flags & ENGINE_POOL_SPILL) != 0,
		.disk = persistent ? d->disk : ENGINE_DISK_NEVER,
		.granted = granted,
	};
}

static bool stream_same(const struct stream *a, const struct stream *b)
{
	return a->account == b->account && a->persistent == b->persistent &&
	       a->copies == b->copies && a->disk == b->disk && a->cold == b->cold &&
	       a->granted == b->granted && a->main == b->main;
}

static void stream_seal(struct engine *e, struct stream *s)
{
	uint32_t row = s->row;

	s->row = NONE;
	seg_seal(e, row);
}

/* The open stream that was idle longest, one for grants last; its segment is sealed. */
bool log_seal_coldest(struct engine *e, bool ephemeral_only)
{
	struct stream *cold = NULL;

	for (uint32_t i = 0; i < e->max_streams; i++) {
		struct stream *s = &e->stream[i];

		if (s->row == NONE || (ephemeral_only && s->persistent))
			continue;
		if (!cold || s->granted < cold->granted ||
			(s->granted == cold->granted && s->last_use < cold->last_use))
			cold = s;
	}
	if (!cold)
		return false;
	stream_seal(e, cold);
	return true;
}

uint32_t log_open_row(const struct engine *e, const struct stream *want)
{
	for (uint32_t i = 0; i < e->max_streams; i++)
		if (e->stream[i].row != NONE && stream_same(&e->stream[i], want))
			return e->stream[i].row;
	return NONE;
}

bool log_needs_segment(const struct engine *e, const struct stream *want)
{
	uint32_t row = log_open_row(e, want);

	return row == NONE ||
	       e->seg[row].used + ((RECORD_MAX_BYTES + 7u) & ~7u) > e->cfg.segment_bytes;
}

static struct stream *stream_find(struct engine *e, const struct stream *want)
{
	struct stream *unused = NULL;

	for (uint32_t i = 0; i < e->max_streams; i++) {
		struct stream *s = &e->stream[i];

		if (s->row == NONE)
			unused = s;
		else if (stream_same(s, want))
			return s;
	}
	if (!unused) {
		log_seal_coldest(e, false);
		return stream_find(e, want);
	}
	*unused = *want;
	unused->row = NONE;
	return unused;
}

struct record_header *log_reserve(
	struct engine *e, const struct stream *want, uint32_t *row, uint32_t *off)
{
	struct stream *s = stream_find(e, want);

	if (s->row != NONE &&
		e->seg[s->row].used + ((RECORD_MAX_BYTES + 7u) & ~7u) > e->cfg.segment_bytes)
		stream_seal(e, s);
	if (s->row == NONE) {
		uint32_t fresh = seg_new(e, want, want->cold);

		while (fresh == NONE && e->free_rows > 0 && local_make_room(e))
			fresh = seg_new(e, want, want->cold);
		if (fresh == NONE)
			return NULL;
		s->row = fresh;
	}
	s->last_use = ++e->uses;
	*row = s->row;
	*off = e->seg[s->row].used;
	return (struct record_header *)(seg_data(e, s->row) + *off);
}

/* `used` covers the record before any entry can name it. */
void log_commit(struct engine *e, uint32_t row, uint32_t bytes)
{
	__atomic_store_n(&e->seg[row].used, e->seg[row].used + bytes, __ATOMIC_RELEASE);
}

bool log_relocate(struct engine *e, const struct stream *to, const struct record_header *h,
	uint64_t *slot, uint32_t object)
{
	uint32_t bytes = record_bytes(h->len), row, off;
	struct record_header *copy = log_reserve(e, to, &row, &off);

	if (!copy)
		return false;
	memcpy(copy, h, RECORD_HEADER_BYTES + h->len);
	copy->seq = e->seg[row].seq;
	copy->checksum = record_checksum(copy, e->header->secret);
	log_commit(e, row, bytes);
	sums_put(e, off, copy);
	entry_change(e, slot, object, loc_make(row, off, bytes));
	stat_add(&e->stats.bytes_relocated, bytes);
	return true;
}

void log_seal_all(struct engine *e)
{
	for (uint32_t i = 0; i < e->max_streams; i++)
		if (e->stream[i].row != NONE)
			stream_seal(e, &e->stream[i]);
}
