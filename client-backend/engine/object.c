/* The object table: (pool, oid) to a number that index entries carry. */
#include "client-backend/engine/impl.h"

static uint32_t object_hash(const struct engine *e, uint32_t pool, const uint64_t oid[3])
{
	uint64_t h = XXH3_64bits_withSeed(oid, 3 * sizeof(*oid), e->header->seed ^ pool);

	return (uint32_t)(h ^ h >> 32) & e->object_mask;
}

/* Object 0 is never used, so that a zeroed index entry names no object. */
void object_table_clear(struct engine *e)
{
	for (uint32_t i = 0; i <= e->object_mask; i++)
		e->object_head[i] = NONE;
	e->object_free = NONE;
	e->object_count = e->objects_free = 0;
	e->object_last = NONE;
}

void object_link(struct engine *e, uint32_t id)
{
	struct object_row *o = &e->object[id];
	uint32_t *head = &e->object_head[object_hash(e, object_pool(o), o->oid)];

	o->next = *head;
	*head = id;
}

static void object_unlink(struct engine *e, uint32_t id)
{
	struct object_row *o = &e->object[id];
	uint32_t *at = &e->object_head[object_hash(e, object_pool(o), o->oid)];

	while (*at != id)
		at = &e->object[*at].next;
	*at = o->next;
}

void object_give_back(struct engine *e, uint32_t id)
{
	__atomic_store_n(&e->object[id].pool_state, 0, __ATOMIC_RELEASE);
	e->object[id].next = e->object_free;
	e->object_free = id;
	e->objects_free++;
}

uint32_t object_find(struct engine *e, uint32_t pool, const uint64_t oid[3])
{
	uint32_t want = (uint32_t)OBJECT_LIVE << OBJECT_STATE_SHIFT | pool;
	uint32_t id = e->object_last;

	if (id != NONE && e->object[id].pool_state == want &&
		memcmp(e->object[id].oid, oid, sizeof(e->object[id].oid)) == 0)
		return id;
	for (id = e->object_head[object_hash(e, pool, oid)]; id != NONE; id = e->object[id].next) {
		struct object_row *o = &e->object[id];

		if (o->pool_state == want && memcmp(o->oid, oid, sizeof(o->oid)) == 0) {
			e->object_last = id;
			return id;
		}
	}
	return NONE;
}

uint32_t object_create(struct engine *e, uint32_t pool, const uint64_t oid[3])
{
	uint32_t id = e->object_free;

	if (id == NONE)
		return NONE;
	struct object_row *o = &e->object[id];

	e->object_free = o->next;
	e->objects_free--;
	memcpy(o->oid, oid, sizeof(o->oid));
	o->pages = 0;
	o->max_index = 0;
	__atomic_store_n(&o->pool_state, (uint32_t)OBJECT_LIVE << OBJECT_STATE_SHIFT | pool,
		__ATOMIC_RELEASE);
	object_link(e, id);
	pool_objects_add(e, pool, 1);
	stat_set(&e->stats.objects, ++e->object_count);
	e->object_last = id;
	return id;
}

/* From here on nobody finds it; its entries are reaped in the background. */
void object_kill(struct engine *e, uint32_t id)
{
	struct object_row *o = &e->object[id];

	object_unlink(e, id);
	if (e->object_last == id)
		e->object_last = NONE;
	__atomic_store_n(&o->pool_state,
		(uint32_t)OBJECT_DEAD << OBJECT_STATE_SHIFT | object_pool(o), __ATOMIC_RELEASE);
	pool_objects_add(e, object_pool(o), -1);
	stat_set(&e->stats.objects, --e->object_count);
}

void object_release(struct engine *e, uint32_t id)
{
	struct object_row *o = &e->object[id];

	if (o->pages > 0)
		return;
	if (object_state(o) == OBJECT_LIVE)
		object_kill(e, id);
	object_give_back(e, id);
}
