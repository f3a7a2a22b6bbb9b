/* Gets that are read from a donor straight into memory that a guest shares with us. */
#include <errno.h>

#include "client-backend/engine/impl.h"

/*
 * The memory is written to by the card until the read has ended, and by its owner whenever it
 * likes.
 *
 * So the request is with the fetch until the read's completion was seen, or its queue pair is gone:
 * it does not expire, it cannot be cancelled, and an answer that comes from another holder
 * meanwhile is held back. When that has waited for direct_timeout_ns the read is abandoned. A
 * request is read so once; whatever comes after goes into a buffer.
 *
 * And what is found there says nothing about the donor: a record that does not verify is read from
 * the same holder again, into a buffer, and only that counts.
 *
 * Its owner may see what comes before it was verified. Therefore the slot that is read holds this
 * record until the end of the read: it is not used for another segment, which may be another's.
 */

bool direct_is_meant(const struct engine *e, const struct engine_req *r, uint64_t *checksum)
{
	uint32_t row = loc_row(r->loc);

	return r->direct.memory && loc_len(r->loc) == RECORD_MAX_BYTES && e->seg[row].persistent &&
	       sums_find(e, e->seg[row].seq, loc_off(r->loc), checksum);
}

int direct_read(struct engine *e, struct fetch *f, struct attempt *a)
{
	struct engine_req *r = f->reqs.head;
	uint32_t region = holder_region(a->holder);
	const struct donor_vol *d = region_donor(e, region);

	if (!a->bare || !r->direct.memory || !e->seg[f->row].persistent || f->attempt[0].active ||
		f->attempt[1].active)
		return -EOPNOTSUPP;
	int err = -EOPNOTSUPP;
	/* One that does not answer in time is not given a guest's memory to keep. */
	if (!d->late && !d->suspect) {
		a->io.buf = r->direct.page;
		a->io.memory = r->direct.memory;
		err = e->ops.io_read(e->ops_ctx, &a->io);
	}
	if (err == -EOPNOTSUPP) {
		r->direct.memory = NULL;
		stat_add(&e->stats.direct_refused, 1);
	}
	if (err)
		return err;
	f->direct = a;
	f->generation = e->rv[region].generation;
	f->owes = f->held = f->abandoned = false;
	e->direct_active++;
	return 0;
}

bool direct_keeps_slot(struct engine *e, uint32_t region, uint32_t slot)
{
	for (struct fetch *f = e->direct_active ? e->fetch_active : NULL; f; f = f->next) {
		if (!f->direct || f->owes || holder_region(f->direct->holder) != region ||
			holder_slot(f->direct->holder) != slot ||
			f->generation != e->rv[region].generation)
			continue;
		f->owes = true;
		e->direct_owed++;
		return true;
	}
	return false;
}

static void slot_settle(struct engine *e, struct fetch *f, const struct attempt *a)
{
	uint32_t region = holder_region(a->holder);

	f->direct = NULL;
	e->direct_active--;
	if (!f->owes)
		return;
	f->owes = false;
	e->direct_owed--;
	if (region_used(e, region) && e->rv[region].generation == f->generation)
		region_slot_return(e, region, holder_slot(a->holder));
}

void direct_hold(struct fetch *f, struct engine_req *r, const struct attempt *a)
{
	f->held = true;
	f->held_tier = a->which == DISK_HOLDER ? ENGINE_TIER_DISK : ENGINE_TIER_REMOTE;
	req_list_push(&f->reqs, r, REQ_FETCH);
}

void direct_end(struct engine *e, struct fetch *f, int status)
{
	struct attempt *a = f->direct;
	struct engine_req *r = req_list_pop(&f->reqs);
	struct record_header h = record_raw_header(&r->key, e->seg[f->row].seq, f->checksum);

	slot_settle(e, f, a);
	r->in_place = status == 0 &&
		      record_checksum_apart(&h, r->direct.page, e->header->secret) == f->checksum;
	r->direct.memory = NULL;
	if (status == 0 && !r->in_place) {
		stat_add(&e->stats.direct_unlike, 1);
		f->tried &= (uint8_t) ~(1u << a->which);
	}
	if (!r->in_place && !f->held) {
		req_list_push(&f->reqs, r, REQ_FETCH);
		return;
	}
	r->tier = r->in_place ? ENGINE_TIER_REMOTE : f->held_tier;
	stat_add(&e->stats.gets_direct, r->in_place);
	stat_add(r->tier == ENGINE_TIER_DISK ? &e->stats.gets_disk : &e->stats.gets_remote, 1);
	fetch_req_done(e, r, 0);
}

void direct_tick(struct engine *e, struct fetch *f, uint64_t now, uint64_t *wake)
{
	uint64_t limit = f->posted_ns + e->cfg.direct_timeout_ns;

	if (!f->direct || !f->held || f->abandoned || !e->ops.io_abandon)
		return;
	if (now < limit) {
		*wake = limit < *wake ? limit : *wake;
		return;
	}
	f->abandoned = true;
	stat_add(&e->stats.direct_abandoned, 1);
	e->ops.io_abandon(e->ops_ctx, &f->direct->io);
}
