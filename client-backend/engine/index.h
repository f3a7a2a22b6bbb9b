/* The index of one lane: a bucketed cuckoo hash from (object, page index) to a location. */
#ifndef FALLOW_ENGINE_INDEX_H
#define FALLOW_ENGINE_INDEX_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Location, never 0: bit 63 set; bit 62: same-filled page, bits 0-31 are its repeated 32-bit word;
 * otherwise segment row (26 bits), offset in the segment and length of the record in 8-byte units
 * (19 and 10 bits), and in bit 0 whether an ephemeral page was read since it was put or moved.
 */
#define LOC_VALID     (1ull << 63)
#define LOC_SAME      (1ull << 62)
#define LOC_ROW_BITS  26
#define LOC_ROW_SHIFT 36
#define LOC_OFF_SHIFT 17
#define LOC_LEN_SHIFT 7
#define LOC_READ      1ull

static inline uint64_t loc_make(uint32_t row, uint32_t off_bytes, uint32_t len_bytes)
{
	return LOC_VALID | (uint64_t)row << LOC_ROW_SHIFT |
	       (uint64_t)(off_bytes >> 3) << LOC_OFF_SHIFT |
	       (uint64_t)(len_bytes >> 3) << LOC_LEN_SHIFT;
}

static inline uint64_t loc_make_same(uint32_t word)
{
	return LOC_VALID | LOC_SAME | word;
}

static inline bool loc_is_same(uint64_t loc)
{
	return loc & LOC_SAME;
}

static inline uint32_t loc_row(uint64_t loc)
{
	return (uint32_t)(loc >> LOC_ROW_SHIFT) & ((1u << LOC_ROW_BITS) - 1);
}

static inline uint32_t loc_off(uint64_t loc)
{
	return ((uint32_t)(loc >> LOC_OFF_SHIFT) & 0x7ffffu) << 3;
}

static inline uint32_t loc_len(uint64_t loc)
{
	return ((uint32_t)(loc >> LOC_LEN_SHIFT) & 0x3ffu) << 3;
}

/* The same record, read or not. */
static inline bool loc_equal(uint64_t a, uint64_t b)
{
	return ((a ^ b) & ~LOC_READ) == 0;
}

/* An entry is free when loc is 0. Storing loc is what makes an entry appear, change and go. */
struct index_entry {
	uint64_t key; /* object << 32 | page index */
	uint64_t loc;
};

#define INDEX_WAYS 4u

struct index_bucket {
	struct index_entry way[INDEX_WAYS];
};

#define INDEX_SEARCH 512u /* buckets looked at to make room for one entry */

struct index {
	struct index_bucket *bucket; /* in the arena, 64-byte aligned */
	uint64_t nbuckets;
	uint64_t entries;
	uint64_t seed;
	/* Breadth-first search for a free way: the bucket, who led here and from which of its ways.
	 */
	struct {
		uint32_t bucket;
		int16_t parent;
		uint8_t way;
	} search[INDEX_SEARCH];
};

/* Buckets that hold max_pages entries at 90 % load. */
uint64_t index_buckets(uint64_t max_pages);
void index_init(struct index *ix, struct index_bucket *bucket, uint64_t nbuckets, uint64_t seed);
void index_prefetch(const struct index *ix, uint64_t key);
/* The entry's location, to read, or to change in one store; NULL: no such key. Valid until the next
 * insert. */
uint64_t *index_find(struct index *ix, uint64_t key);
/* The key must not be there. -ENOSPC: no room found within INDEX_SEARCH buckets. */
int index_insert(struct index *ix, uint64_t key, uint64_t loc);
void index_remove(struct index *ix, uint64_t *loc);
/* After a crash: an entry that was being moved may stand in both its buckets; true when bucket b,
 * way w is the second of two. */
bool index_is_duplicate(const struct index *ix, uint64_t b, unsigned w);
/* True when the entry at bucket b, way w can be found there. */
bool index_is_home(const struct index *ix, uint64_t b, unsigned w);

#endif
