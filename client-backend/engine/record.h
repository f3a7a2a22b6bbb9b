/* The record: one stored page with a header that proves what it is. */
#ifndef FALLOW_ENGINE_RECORD_H
#define FALLOW_ENGINE_RECORD_H

#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "client-backend/engine/engine.h"

/*
 * Layout, little-endian, 8-byte aligned in its segment; the payload follows the header at once, and
 * the record is padded to a multiple of 8 bytes. The checksum is XXH3-64 over everything after
 * itself up to the end of the payload, seeded with the arena's secret. seq is the sequence number
 * of the segment, never used twice in the life of an arena: bytes of an older segment in the same
 * slot never pass for newer ones.
 */
struct record_header {
	uint64_t checksum;
	uint64_t seq;
	uint64_t oid[3];
	uint32_t pool;
	uint32_t index;
	uint16_t len;  /* payload bytes, 1..4096 */
	uint8_t codec; /* enum engine_codec */
	uint8_t zero[5];
};

#define RECORD_HEADER_BYTES ((uint32_t)sizeof(struct record_header))
#define RECORD_MAX_BYTES    (RECORD_HEADER_BYTES + ENGINE_PAGE_BYTES)

_Static_assert(sizeof(struct record_header) == 56, "record header is a stored layout");

static inline uint32_t record_bytes(uint32_t payload_bytes)
{
	return (RECORD_HEADER_BYTES + payload_bytes + 7u) & ~7u;
}

static inline uint64_t record_checksum(const struct record_header *h, uint64_t secret)
{
	return XXH3_64bits_withSeed(
		&h->seq, RECORD_HEADER_BYTES - sizeof(h->checksum) + h->len, secret);
}

/* The same where the payload is not behind its header. */
static inline uint64_t record_checksum_apart(
	const struct record_header *h, const void *payload, uint64_t secret)
{
	XXH3_state_t s;

	XXH3_INITSTATE(&s);
	XXH3_64bits_reset_withSeed(&s, secret);
	XXH3_64bits_update(&s, &h->seq, RECORD_HEADER_BYTES - sizeof(h->checksum));
	XXH3_64bits_update(&s, payload, h->len);
	return XXH3_64bits_digest(&s);
}

/* Fills in the header in front of a payload that is in place already. */
static inline void record_seal(struct record_header *h, const struct engine_key *k, uint64_t seq,
	uint32_t len, uint8_t codec, uint64_t secret)
{
	h->seq = seq;
	memcpy(h->oid, k->oid, sizeof(h->oid));
	h->pool = k->pool;
	h->index = k->index;
	h->len = (uint16_t)len;
	h->codec = codec;
	memset(h->zero, 0, sizeof(h->zero));
	h->checksum = record_checksum(h, secret);
}

/* The header that a page stored as it is has, but for its checksum. */
static inline struct record_header record_raw_header(
	const struct engine_key *k, uint64_t seq, uint64_t checksum)
{
	struct record_header h = {.checksum = checksum,
		.seq = seq,
		.pool = k->pool,
		.index = k->index,
		.len = ENGINE_PAGE_BYTES,
		.codec = ENGINE_CODEC_NONE};

	memcpy(h.oid, k->oid, sizeof(h.oid));
	return h;
}

/* True when the record of `bytes` bytes at h is whole and belongs to segment seq. bytes comes from
 * the index or is the room left in the segment; h->len is not believed before it was held against
 * it. */
static inline bool record_intact(
	const struct record_header *h, uint64_t seq, uint32_t bytes, uint64_t secret)
{
	return bytes >= RECORD_HEADER_BYTES && h->seq == seq && h->len > 0 &&
	       h->len <= ENGINE_PAGE_BYTES && record_bytes(h->len) <= bytes &&
	       h->checksum == record_checksum(h, secret);
}

static inline bool record_is_key(const struct record_header *h, const struct engine_key *k)
{
	return h->pool == k->pool && h->index == k->index &&
	       memcmp(h->oid, k->oid, sizeof(h->oid)) == 0;
}

#endif
