/* Recovery: one walk over the arena derives every count again and drops what a crash left half
 * done. */
#include <errno.h>
#include <stdio.h>

#include "client-backend/engine/impl.h"

static int damaged(char *err, size_t n, const char *what, uint64_t where)
{
	snprintf(err, n, "arena is damaged: %s (%llu); discard it to start empty", what,
		(unsigned long long)where);
	return -EBADMSG;
}

static void recover_accounts(struct engine *e)
{
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		struct account_vol *a = &e->account[i];

		for (unsigned k = 0; k < EPHEMERAL_LISTS; k++)
			list_init(&a->ephemeral[k]);
		memcpy(a->desc.name, e->account_row[i].name, sizeof(a->desc.name));
		a->desc.name[sizeof(a->desc.name) - 1] = 0;
		a->desc.weight = e->account_row[i].weight ? e->account_row[i].weight : 1;
	}
}

static int recover_regions(struct engine *e, char *err, size_t n)
{
	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		const struct engine_region_desc *d = &e->region[r].desc;

		if (!e->region[r].used)
			continue;
		if (d->donor >= ENGINE_MAX_DONORS || d->len_bytes < e->cfg.segment_bytes)
			return damaged(err, n, "region out of range", r);
	}
	region_recount(e);
	return 0;
}

/* One holder of a row: is it possible at all, and does nobody else have that slot? */
static int recover_holder(struct engine *e, uint32_t row, unsigned which, char *err, size_t n)
{
	uint64_t h = e->seg[row].holder[which];
	uint32_t slot = holder_slot(h), region = holder_region(h);
	uint64_t *map = which == DISK_HOLDER ? e->disk_bitmap : NULL;
	uint32_t slots = e->cfg.disk_segments;

	if (which != DISK_HOLDER) {
		if (!region_used(e, region))
			return damaged(err, n, "holder in an unused region, row", row);
		map = e->rv[region].bitmap;
		slots = e->rv[region].slots;
	}
	if (slot >= slots || (map[slot / 64] >> (slot % 64) & 1))
		return damaged(err, n, "slot used twice or out of range, row", row);
	if (which == DISK_HOLDER) {
		map[slot / 64] |= 1ull << (slot % 64);
		stat_set(&e->stats.disk_slots_used, ++e->disk_used);
	} else {
		region_slot_mark(e, region, slot);
		seg_copy_link(e, row, which);
		e->away_held_bytes += e->seg[row].persistent ? e->cfg.segment_bytes : 0;
	}
	return 0;
}

static int recover_segments(struct engine *e, char *err, size_t n)
{
	for (uint32_t row = 0; row < e->cfg.max_segments; row++) {
		struct seg_row *s = &e->seg[row];

		e->sv[row] = (struct seg_vol){.bucket = NO_BUCKET, .kind = SEG_FREE};
		if (!s->seq)
			continue;
		if (s->used > e->cfg.segment_bytes || s->account >= ENGINE_MAX_ACCOUNTS ||
			s->copies > ENGINE_MAX_COPIES || s->main > 1 ||
			s->disk > ENGINE_DISK_MIRROR || s->local > e->cfg.local_segments ||
			s->seq >= e->header->next_seq)
			return damaged(err, n, "segment row out of range", row);
		if (s->local) {
			if (e->slot_row[s->local - 1] != NONE)
				return damaged(err, n, "local slot used twice, row", row);
			e->slot_row[s->local - 1] = row;
			e->account[s->account].local_slots++;
		}
		for (unsigned i = 0; i < HOLDERS; i++)
			if (s->holder[i] & HOLDER_VALID) {
				int rc = recover_holder(e, row, i, err, n);

				if (rc)
					return rc;
			}
		seg_kind_set(e, row, SEG_OPEN);
		stat_add(&e->stats.segments, 1);
	}
	for (uint32_t i = e->cfg.local_segments; i-- > 0;)
		if (e->slot_row[i] == NONE)
			slot_return(e, i);
	return 0;
}

static void recover_objects(struct engine *e)
{
	object_table_clear(e);
	for (uint32_t id = e->cfg.max_objects; id >= 1; id--) {
		struct object_row *o = &e->object[id];

		o->pages = 0;
		o->max_index = 0;
		if (object_state(o) == OBJECT_FREE)
			object_give_back(e, id);
	}
}

/* True when the entry may stay; the rest was never acknowledged, or is the second of a pair. */
static bool entry_valid(const struct engine *e, uint64_t b, unsigned w)
{
	const struct index_entry *en = &e->index.bucket[b].way[w];
	uint32_t object = (uint32_t)(en->key >> 32), row = loc_row(en->loc);
	const struct object_row *o = &e->object[object];

	if (!(en->loc & LOC_VALID) || object == 0 || object > e->cfg.max_objects ||
		object_state(o) == OBJECT_FREE || !index_is_home(&e->index, b, w))
		return false;
	if (e->pool_row[object_pool(o) % ENGINE_MAX_POOLS].desc.id != object_pool(o))
		return false;
	return loc_is_same(en->loc) ||
	       (row < e->cfg.max_segments && e->seg[row].seq &&
		       loc_off(en->loc) + loc_len(en->loc) <= e->seg[row].used);
}

static void recover_entry(struct engine *e, const struct index_entry *en)
{
	struct object_row *o = &e->object[en->key >> 32];
	uint32_t pool = object_pool(o), index = (uint32_t)en->key;
	const struct pool_row *p = pool_find(e, pool);

	e->index.entries++;
	o->pages++;
	if (index > o->max_index)
		o->max_index = index;
	e->pool[pool % ENGINE_MAX_POOLS].entries++;
	if (p && object_state(o) == OBJECT_LIVE) {
		pool_pages_add(e, pool, p->desc.account, 1);
	} else {
		e->dead_entries++;
	}
	entry_hold(e, pool, en->loc);
}

static void recover_index(struct engine *e)
{
	for (uint64_t b = 0; b < e->index.nbuckets; b++)
		for (unsigned w = 0; w < INDEX_WAYS; w++) {
			struct index_entry *en = &e->index.bucket[b].way[w];

			if (!en->loc)
				continue;
			if (entry_valid(e, b, w) && !index_is_duplicate(&e->index, b, w))
				recover_entry(e, en);
			else
				en->loc = 0;
		}
}

static void recover_finish(struct engine *e)
{
	for (uint32_t id = e->cfg.max_objects; id >= 1; id--) {
		struct object_row *o = &e->object[id];

		if (object_state(o) == OBJECT_FREE)
			continue;
		if (o->pages == 0) {
			object_give_back(e, id);
		} else if (object_state(o) == OBJECT_LIVE) {
			object_link(e, id);
			pool_objects_add(e, object_pool(o), 1);
			stat_set(&e->stats.objects, ++e->object_count);
		}
	}
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++)
		pool_free_if_empty(e, &e->pool_row[i]);
	for (uint32_t row = e->cfg.max_segments; row-- > 0;) {
		if (!e->seg[row].seq) {
			e->free_row[e->free_rows++] = row;
			continue;
		}
		e->seg[row].sealed = 1;
		seg_classify(e, row);
		if (e->seg[row].persistent && seg_has_holder(e, row) && !seg_complete(e, row))
			seg_short_set(e, row, true);
		seg_free_if_dead(e, row);
	}
	stat_set(&e->stats.segments_lost, e->kinds[SEG_LOST]);
	stat_set(&e->stats.segments_freed, 0);
}

int engine_recover(struct engine *e, char *err, size_t err_bytes)
{
	int rc;

	recover_accounts(e);
	rc = recover_regions(e, err, err_bytes);
	if (rc)
		return rc;
	rc = recover_segments(e, err, err_bytes);
	if (rc)
		return rc;
	recover_objects(e);
	reserve_recover(e);
	recover_index(e);
	recover_finish(e);
	return 0;
}
