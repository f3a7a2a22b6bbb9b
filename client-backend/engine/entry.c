/* Index entries together with every count that hangs on them: objects, pools, accounts, segments.
 */
#include <errno.h>

#include "client-backend/engine/impl.h"

struct pool_row *pool_find(const struct engine *e, uint32_t id)
{
	struct pool_row *p = &e->pool_row[id % ENGINE_MAX_POOLS];

	return id && p->state == POOL_LIVE && p->desc.id == id ? p : NULL;
}

void pool_free_if_empty(struct engine *e, struct pool_row *p)
{
	if (p->state == POOL_DEAD && pool_vol(e, p->desc.id)->entries == 0)
		__atomic_store_n(&p->state, POOL_FREE, __ATOMIC_RELEASE);
}

bool quota_take(struct engine *e, unsigned account)
{
	struct engine_quota *q = e->account[account].desc.quota;

	if (!q)
		return true;
	uint64_t before = atomic_fetch_add_explicit(&q->used_pages, 1, memory_order_relaxed);

	if (before < atomic_load_explicit(&q->limit_pages, memory_order_relaxed))
		return true;
	atomic_fetch_sub_explicit(&q->used_pages, 1, memory_order_relaxed);
	return false;
}

void quota_return(struct engine *e, unsigned account, uint64_t pages)
{
	struct engine_quota *q = e->account[account].desc.quota;

	if (q)
		atomic_fetch_sub_explicit(&q->used_pages, pages, memory_order_relaxed);
}

uint64_t *entry_find(struct engine *e, const struct engine_key *k, uint32_t *object)
{
	*object = object_find(e, k->pool, k->oid);
	return *object == NONE ? NULL : index_find(&e->index, entry_key(*object, k->index));
}

void entry_prefetch(struct engine *e, const struct engine_key *k)
{
	uint32_t object = object_find(e, k->pool, k->oid);

	if (object != NONE)
		index_prefetch(&e->index, entry_key(object, k->index));
}

/* Dead pools, too: their rows stay while there are entries. */
static bool pool_is_ephemeral(const struct engine *e, uint32_t id)
{
	return !(e->pool_row[id % ENGINE_MAX_POOLS].desc.flags & ENGINE_POOL_PERSISTENT);
}

void entry_hold(struct engine *e, uint32_t pool, uint64_t loc)
{
	if (loc_is_same(loc)) {
		stat_add(&e->stats.pages_same_filled, 1);
		e->ephemeral_same += pool_is_ephemeral(e, pool);
		return;
	}
	pool_vol(e, pool)->live_bytes += loc_len(loc);
	seg_live_add(e, loc_row(loc), loc_len(loc));
}

static void entry_let_go(struct engine *e, uint32_t pool, uint64_t loc)
{
	if (loc_is_same(loc)) {
		stat_sub(&e->stats.pages_same_filled, 1);
		e->ephemeral_same -= pool_is_ephemeral(e, pool);
		return;
	}
	pool_vol(e, pool)->live_bytes -= loc_len(loc);
	seg_live_sub(e, loc_row(loc), loc_len(loc));
}

int entry_insert(
	struct engine *e, const struct pool_row *p, uint32_t object, uint32_t index, uint64_t loc)
{
	struct object_row *o = &e->object[object];
	int err;

	if (index > o->max_index)
		o->max_index = index;
	err = index_insert(&e->index, entry_key(object, index), loc);
	if (err)
		return err;
	o->pages++;
	pool_pages_add(e, p->desc.id, p->desc.account, 1);
	pool_vol(e, p->desc.id)->entries++;
	entry_hold(e, p->desc.id, loc);
	return 0;
}

void entry_change(struct engine *e, uint64_t *slot, uint32_t object, uint64_t loc)
{
	uint64_t before = *slot;
	uint32_t pool = object_pool(&e->object[object]);

	__atomic_store_n(slot, loc, __ATOMIC_RELEASE);
	entry_hold(e, pool, loc);
	entry_let_go(e, pool, before);
}

/* True when the object's pages still count for its pool: neither it nor the pool is dead. */
static bool object_counts(const struct engine *e, const struct object_row *o)
{
	return object_state(o) == OBJECT_LIVE && pool_find(e, object_pool(o));
}

void entry_remove(struct engine *e, uint64_t *slot, uint32_t object)
{
	struct object_row *o = &e->object[object];
	uint32_t id = object_pool(o);
	uint64_t loc = *slot;

	index_remove(&e->index, slot);
	if (object_counts(e, o)) {
		unsigned account = pool_find(e, id)->desc.account;

		quota_return(e, account, (uint64_t)-pool_pages_add(e, id, account, -1));
	} else {
		e->dead_entries--;
	}
	o->pages--;
	pool_vol(e, id)->entries--;
	entry_let_go(e, id, loc);
	object_release(e, object);
	pool_free_if_empty(e, &e->pool_row[id % ENGINE_MAX_POOLS]);
}

static void pages_forget(struct engine *e, uint32_t pool, unsigned account, uint64_t pages)
{
	quota_return(e, account, (uint64_t)-pool_pages_add(e, pool, account, -(int64_t)pages));
	e->dead_entries += pages;
}

/* Small objects with low indices are flushed entry by entry; for others one store and the reaper.
 */
#define FLUSH_DIRECT 1024u

static void object_flush_direct(struct engine *e, uint32_t id)
{
	uint32_t left = e->object[id].pages, top = e->object[id].max_index;

	for (uint32_t i = 0; i <= top && left > 0; i++) {
		uint64_t *slot = index_find(&e->index, entry_key(id, i));

		if (!slot)
			continue;
		left--;
		entry_remove(e, slot, id);
	}
}

int engine_flush_object(struct engine *e, uint32_t pool, const uint64_t oid[3], uint64_t *pages)
{
	struct pool_row *p = pool_find(e, pool);
	uint32_t id;

	*pages = 0;
	stat_add(&e->stats.flush_objects, 1);
	if (!p)
		return -ENOENT;
	id = object_find(e, pool, oid);
	if (id == NONE)
		return -ENOENT;
	*pages = e->object[id].pages;
	if (e->object[id].max_index < FLUSH_DIRECT) {
		object_flush_direct(e, id);
		return 0;
	}
	pages_forget(e, pool, p->desc.account, *pages);
	object_kill(e, id);
	return 0;
}

int engine_flush_page(struct engine *e, const struct engine_key *k)
{
	uint32_t object;
	uint64_t *slot;

	stat_add(&e->stats.flush_pages, 1);
	if (!pool_find(e, k->pool))
		return -ENOENT;
	slot = entry_find(e, k, &object);
	if (!slot)
		return -ENOENT;
	entry_remove(e, slot, object);
	return 0;
}

int engine_pool_add(struct engine *e, const struct engine_pool_desc *d)
{
	struct pool_row *p = &e->pool_row[d->id % ENGINE_MAX_POOLS];
	bool persistent = d->flags & ENGINE_POOL_PERSISTENT;

	if (!d->id || d->id > OBJECT_POOL_MASK || d->account >= ENGINE_MAX_ACCOUNTS ||
		!e->account[d->account].desc.name[0] || d->codec > ENGINE_CODEC_ZSTD ||
		d->disk > ENGINE_DISK_MIRROR ||
		(persistent && (d->copies < 1 || d->copies > ENGINE_MAX_COPIES)) ||
		(persistent && (d->flags & ENGINE_POOL_SPILL)))
		return -EINVAL;
	if (p->state == POOL_LIVE && p->desc.id == d->id)
		return memcmp(&p->desc, d, sizeof(*d)) == 0 ? 0 : -EEXIST;
	if (p->state != POOL_FREE)
		return -EEXIST;
	p->desc = *d;
	p->reserved = 0;
	*pool_vol(e, d->id) = (struct pool_vol){0};
	__atomic_store_n(&p->state, POOL_LIVE, __ATOMIC_RELEASE);
	return 0;
}

int engine_pool_destroy(struct engine *e, uint32_t id)
{
	struct pool_row *p = pool_find(e, id);

	if (!p)
		return -ENOENT;
	reserve_end(e, p);
	pages_forget(e, id, p->desc.account, pool_vol(e, id)->pages);
	__atomic_store_n(&p->state, POOL_DEAD, __ATOMIC_RELEASE);
	pool_free_if_empty(e, p);
	return 0;
}

const struct engine_pool_desc *engine_pool(const struct engine *e, uint32_t id)
{
	struct pool_row *p = pool_find(e, id);

	return p ? &p->desc : NULL;
}

const struct engine_pool_desc *engine_pool_row(const struct engine *e, unsigned row)
{
	return row < ENGINE_MAX_POOLS && e->pool_row[row].state == POOL_LIVE
		       ? &e->pool_row[row].desc
		       : NULL;
}

uint64_t engine_pool_pages(const struct engine *e, uint32_t id)
{
	return pool_find(e, id) ? e->pool[id % ENGINE_MAX_POOLS].pages : 0;
}

/* The page is nowhere any more; a persistent one is kept as lost. A same-filled one is nowhere but
 * in its entry, so that is what goes when it is needed. */
static bool entry_is_adrift(const struct engine *e, uint32_t pool, uint64_t loc)
{
	if (loc_is_same(loc))
		return e->same_sweep > 0 && pool_is_ephemeral(e, pool) && ephemeral_crowds_index(e);
	return e->sv[loc_row(loc)].kind == SEG_LOST && !e->seg[loc_row(loc)].persistent;
}

static void entry_reap(struct engine *e, struct index_entry *en)
{
	uint32_t object = (uint32_t)(en->key >> 32);
	const struct object_row *o = &e->object[object];

	if (object_counts(e, o)) {
		struct engine_key k = {.pool = object_pool(o), .index = (uint32_t)en->key};

		if (!entry_is_adrift(e, k.pool, en->loc))
			return;
		memcpy(k.oid, o->oid, sizeof(k.oid));
		if (!loc_is_same(en->loc))
			ephemeral_reaped(e, &k, loc_row(en->loc));
	}
	entry_remove(e, &en->loc, object);
}

/* Removes the entries that are to be reaped in the next few buckets; false when none is left
 * anywhere. */
bool reap_step(struct engine *e, unsigned buckets)
{
	while (reap_due(e) && buckets-- > 0) {
		struct index_bucket *b = &e->index.bucket[e->reap_bucket];

		for (unsigned w = 0; w < INDEX_WAYS; w++)
			if (b->way[w].loc)
				entry_reap(e, &b->way[w]);
		/* It goes on from here another time: were the same buckets emptied again and again,
		 * what is left in the others could not move there and they would stay full. */
		if (e->same_sweep > 0)
			e->same_sweep = ephemeral_crowds_index(e) ? e->same_sweep - 1 : 0;
		if (++e->reap_bucket == e->index.nbuckets)
			e->reap_bucket = 0;
	}
	return reap_due(e);
}
