/* Checksums of incompressible records, kept in DRAM so that a get need not read their headers. */
#include <stdlib.h>

#include "client-backend/engine/impl.h"

/*
 * A page that does not compress has a record of 4152 bytes. At RDMA's largest path MTU, 4096, its
 * READ is answered in two packets; that of the payload alone in one. All of a header but the
 * checksum is known from the index, so with the checksum at hand the header is made here and the
 * payload held against it, as strictly as if both had come from the donor.
 *
 * A place is found by a hash; whoever comes later takes it. A record's name is exact and never used
 * twice: segment sequence numbers are not, and a segment is written once.
 */
struct sum {
	uint64_t record; /* 0: none */
	uint64_t checksum;
};

#define OFF_BITS 19u /* of 8-byte units in a segment of at most 4 MiB */

static uint64_t record_name(uint64_t seq, uint32_t off)
{
	return seq << OFF_BITS | off >> 3;
}

static struct sum *place_of(const struct engine *e, uint64_t name)
{
	uint64_t h = name * 0x9e3779b97f4a7c15ull;

	return &e->sum[(h >> 32) * e->cfg.sums >> 32];
}

int sums_init(struct engine *e)
{
	e->sum = e->cfg.sums ? calloc(e->cfg.sums, sizeof(*e->sum)) : NULL;
	return e->cfg.sums && !e->sum ? -1 : 0;
}

void sums_fini(struct engine *e)
{
	free(e->sum);
}

uint64_t sums_bytes(const struct engine *e)
{
	return (uint64_t)e->cfg.sums * sizeof(*e->sum);
}

void sums_put(struct engine *e, uint32_t off, const struct record_header *h)
{
	if (!e->sum || h->len != ENGINE_PAGE_BYTES)
		return;
	uint64_t name = record_name(h->seq, off);

	*place_of(e, name) = (struct sum){.record = name, .checksum = h->checksum};
}

bool sums_find(const struct engine *e, uint64_t seq, uint32_t off, uint64_t *checksum)
{
	uint64_t name = record_name(seq, off);

	if (!e->sum)
		return false;
	const struct sum *s = place_of(e, name);

	*checksum = s->checksum;
	return s->record == name;
}
