/* The index of one lane: lookup, insertion by displacement, removal. */
#include "client-backend/engine/index.h"

#include <errno.h>
#include <stddef.h>

static uint64_t key_mix(uint64_t key, uint64_t seed)
{
	uint64_t h = key ^ seed;

	h ^= h >> 32;
	h *= 0xe9846af9b1a615dull;
	h ^= h >> 32;
	h *= 0xe9846af9b1a615dull;
	h ^= h >> 28;
	return h;
}

/* The two buckets a key may live in. */
static void key_buckets(const struct index *ix, uint64_t key, uint64_t b[2])
{
	uint64_t h = key_mix(key, ix->seed);

	b[0] = ((h & 0xffffffffu) * ix->nbuckets) >> 32;
	b[1] = ((h >> 32) * ix->nbuckets) >> 32;
	if (b[1] == b[0])
		b[1] = b[0] + 1 < ix->nbuckets ? b[0] + 1 : 0;
}

uint64_t index_buckets(uint64_t max_pages)
{
	uint64_t n = (max_pages * 10 + 35) / 36;

	return n < 2 ? 2 : n;
}

void index_init(struct index *ix, struct index_bucket *bucket, uint64_t nbuckets, uint64_t seed)
{
	ix->bucket = bucket;
	ix->nbuckets = nbuckets;
	ix->entries = 0;
	ix->seed = seed;
}

void index_prefetch(const struct index *ix, uint64_t key)
{
	uint64_t b[2];

	key_buckets(ix, key, b);
	__builtin_prefetch(&ix->bucket[b[0]]);
	__builtin_prefetch(&ix->bucket[b[1]]);
}

uint64_t *index_find(struct index *ix, uint64_t key)
{
	uint64_t b[2];

	key_buckets(ix, key, b);
	__builtin_prefetch(&ix->bucket[b[1]]);
	for (unsigned i = 0; i < 2; i++) {
		struct index_entry *way = ix->bucket[b[i]].way;

		for (unsigned w = 0; w < INDEX_WAYS; w++)
			if (way[w].key == key && way[w].loc)
				return &way[w].loc;
	}
	return NULL;
}

static struct index_entry *bucket_free_way(struct index_bucket *b)
{
	for (unsigned w = 0; w < INDEX_WAYS; w++)
		if (!b->way[w].loc)
			return &b->way[w];
	return NULL;
}

/* The location is stored last: at no instant does an entry with a wrong key exist. */
static void entry_set(struct index_entry *e, uint64_t key, uint64_t loc)
{
	__atomic_store_n(&e->key, key, __ATOMIC_RELAXED);
	__atomic_store_n(&e->loc, loc, __ATOMIC_RELEASE);
}

static void entry_move(struct index_entry *to, struct index_entry *from)
{
	entry_set(to, from->key, from->loc);
	__atomic_store_n(&from->loc, 0, __ATOMIC_RELEASE);
}

/* Moves entries along the path that ends at search node n, which has a free way, and returns the
 * way that becomes free at the path's root. */
static struct index_entry *search_unwind(struct index *ix, int n)
{
	struct index_entry *hole = bucket_free_way(&ix->bucket[ix->search[n].bucket]);

	while (ix->search[n].parent >= 0) {
		int p = ix->search[n].parent;
		struct index_entry *from = &ix->bucket[ix->search[p].bucket].way[ix->search[n].way];

		entry_move(hole, from);
		hole = from;
		n = p;
	}
	return hole;
}

/* A path that visits one bucket twice would move an entry that is no longer where the search saw
 * it. */
static bool search_on_path(const struct index *ix, int n, uint32_t bucket)
{
	for (; n >= 0; n = ix->search[n].parent)
		if (ix->search[n].bucket == bucket)
			return true;
	return false;
}

static struct index_entry *index_make_room(struct index *ix, const uint64_t b[2])
{
	unsigned head = 0, tail = 0;

	for (unsigned i = 0; i < 2; i++) {
		ix->search[tail].bucket = (uint32_t)b[i];
		ix->search[tail].parent = -1;
		ix->search[tail++].way = 0;
	}
	for (; head < tail; head++) {
		struct index_bucket *bk = &ix->bucket[ix->search[head].bucket];

		if (bucket_free_way(bk))
			return search_unwind(ix, (int)head);
		for (unsigned w = 0; w < INDEX_WAYS && tail < INDEX_SEARCH; w++) {
			uint64_t o[2];

			key_buckets(ix, bk->way[w].key, o);
			uint32_t other = (uint32_t)(o[0] == ix->search[head].bucket ? o[1] : o[0]);

			if (search_on_path(ix, (int)head, other))
				continue;
			ix->search[tail].bucket = other;
			ix->search[tail].parent = (int16_t)head;
			ix->search[tail++].way = (uint8_t)w;
		}
	}
	return NULL;
}

int index_insert(struct index *ix, uint64_t key, uint64_t loc)
{
	uint64_t b[2];
	struct index_entry *e;

	key_buckets(ix, key, b);
	e = bucket_free_way(&ix->bucket[b[0]]);
	if (!e)
		e = bucket_free_way(&ix->bucket[b[1]]);
	if (!e)
		e = index_make_room(ix, b);
	if (!e)
		return -ENOSPC;
	entry_set(e, key, loc);
	ix->entries++;
	return 0;
}

void index_remove(struct index *ix, uint64_t *loc)
{
	__atomic_store_n(loc, 0, __ATOMIC_RELEASE);
	ix->entries--;
}

bool index_is_duplicate(const struct index *ix, uint64_t b, unsigned w)
{
	const struct index_entry *e = &ix->bucket[b].way[w];
	uint64_t o[2];

	key_buckets(ix, e->key, o);
	for (unsigned i = 0; i < 2; i++)
		for (unsigned v = 0; v < INDEX_WAYS; v++) {
			const struct index_entry *f = &ix->bucket[o[i]].way[v];

			if (f != e && f->loc && f->key == e->key)
				return true;
		}
	return false;
}

bool index_is_home(const struct index *ix, uint64_t b, unsigned w)
{
	uint64_t o[2];

	key_buckets(ix, ix->bucket[b].way[w].key, o);
	return o[0] == b || o[1] == b;
}
