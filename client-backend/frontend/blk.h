/* A disk over any store of bytes: ranges of it are read, written, zeroed and flushed for a front
 * end. */
#ifndef FALLOW_BLK_H
#define FALLOW_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/frontend/vhost_device.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * A blk stands between front ends and a store. A front end takes requests apart, checks every
 * field, and submits a range of the disk for each; the blk counts, times and flushes, the store
 * does the work. There are two: virtio-blk (blk_virtio.c; a blk is the `dev` of blk_device_ops) and
 * NBD (nbd_lane.h). Everything in a request was written by somebody else and is copied before it is
 * checked; what is wrong in one is answered and counted, and harms nobody else.
 */
#define BLK_PHYSICAL_BYTES     4096u /* physical block */
#define BLK_SECTOR_BYTES       512u  /* what virtio counts in */
#define BLK_SERIAL_BYTES       20u
#define BLK_MAX_SEGMENTS       126u	    /* of data in a request: fits a queue of 128 */
#define BLK_MAX_SEGMENT_BYTES  (128u << 10) /* of one buffer */
#define BLK_MAX_DISCARD_BYTES  (128u << 20) /* of one range of discard or write-zeroes */
#define BLK_MAX_DISCARD_RANGES 16u	    /* of one request */
#define BLK_MAX_LANES	       64u

/* BLK_FLUSH: what was written and answered before must be on stable storage; of no range. */
enum blk_op { BLK_READ, BLK_WRITE, BLK_ZERO, BLK_FLUSH };

/* The slowest tier that a read needed; where nothing was ever written is a tier of its own. */
enum blk_tier { BLK_TIER_NONE, BLK_TIER_LOCAL, BLK_TIER_REMOTE, BLK_TIER_DISK, BLK_TIERS };
const char *blk_tier_name(enum blk_tier tier);

/* Why a request was not even tried. */
enum blk_refusal {
	BLK_REFUSED_SHORT,  /* no room for the header or the status */
	BLK_REFUSED_LENGTH, /* data that is no multiple of a sector, or of the wrong direction */
	BLK_REFUSED_RANGE,  /* beyond the end of the disk, or more than a range may be */
	BLK_REFUSED_FLAGS,  /* of a discard or write-zeroes */
	BLK_REFUSED_TYPE,   /* no such operation, or one that a read-only disk has not */
	BLK_REFUSALS
};
const char *blk_refusal_name(enum blk_refusal r);

/* What a front end's request is; a discard is a BLK_ZERO whose contents nobody relies on. */
enum blk_kind { BLK_KIND_READ, BLK_KIND_WRITE, BLK_KIND_FLUSH, BLK_KIND_DISCARD, BLK_KIND_ZERO };

struct blk_range;

/* lane. */
struct blk_front_ops {
	/* A BLK_ZERO has ended well. 1: there is more of the same request, offset, bytes and hole
	 * are filled in; 0: there is not; negative: what follows is wrong, and was answered. */
	int (*more)(struct blk_range *g);
	/* The request has ended: 0 or a negative errno. The range is the front end's again. */
	void (*done)(struct blk_range *g, int status);
};

/*
 * A range of the disk that a store works on; lives in the front end's request. The front end fills
 * in the first part and calls blk_range_submit(); the store calls blk_range_done() exactly once, on
 * the lane that submitted it.
 */
struct blk_range {
	const struct blk_front_ops *front;
	const struct vhost_buffer *data; /* of a read or write: the buffers ... */
	uint32_t skip;			 /* ... after so many bytes of the first */
	uint32_t bytes;			 /* never 0, but for BLK_FLUSH */
	uint64_t offset;		 /* bytes on the disk */
	uint8_t kind;			 /* enum blk_kind */
	uint8_t next;			 /* the front end's own */
	bool hole;			 /* of zeroes and discards: the room may be given back */
	bool sync;			 /* on stable storage before it is answered */

	uint8_t op;   /* enum blk_op: what is being done now */
	uint8_t lane; /* that submitted it */
	struct blk *blk;
	uint64_t start_ns;
	uint64_t store[4]; /* the store's own */
};

struct transport_memory;

struct blk_store_ops {
	/* lane. May end the range before it returns. */
	void (*submit)(void *store, unsigned lane, struct blk_range *g);
	/* lane. After a batch of submits. */
	void (*kick)(void *store, unsigned lane);
};

struct blk_config {
	uint64_t size_bytes;  /* a multiple of block_bytes, not 0 */
	uint32_t block_bytes; /* logical block: BLK_SECTOR_BYTES..BLK_PHYSICAL_BYTES */
	unsigned lanes;	      /* 1..BLK_MAX_LANES */
	unsigned queues;      /* 1..VHOST_MAX_QUEUES */
	bool readonly;	      /* no request that would change it reaches the store */
	/* What the store was given may be lost with the host until BLK_FLUSH: the guest may choose
	 * to have every write flushed before it is answered. */
	bool volatile_cache;
	/* That choice, 1: it flushes by itself; outlives the blk; NULL: it does not outlive it. A
	 * front end that comes back after a restart does not say it again. */
	_Atomic uint8_t *writeback;
	char serial[BLK_SERIAL_BYTES + 1];
};

/* Of one lane's queues of this disk; written by the lane, read by anyone. */
struct blk_stats {
	stat_t reads, writes, flushes, discards, write_zeroes, ids; /* taken from the guest */
	stat_t bytes_read, bytes_written, bytes_zeroed;		    /* ended well */
	stat_t errors;	  /* answered with IOERR because the store failed */
	stat_t in_flight; /* gauge */
	stat_t refused[BLK_REFUSALS];
	struct hist read_ns[BLK_TIERS]; /* from the ring to done, by the slowest tier */
	struct hist write_ns, zero_ns, flush_ns;
};

struct blk;

/* Control thread. The store outlives it. -EINVAL, -ENOMEM. */
int blk_new(const struct blk_config *cfg, const struct blk_store_ops *ops, void *store,
	const struct env *env, struct blk **out);
/* No request is in flight. */
void blk_delete(struct blk *b);
const struct blk_stats *blk_stats(const struct blk *b, unsigned lane);
extern const struct vhost_device_ops blk_device_ops;

/* For front ends: */
const struct blk_config *blk_config(const struct blk *b);
/* lane. A request was taken, whatever becomes of it. */
void blk_kind_count(struct blk *b, unsigned lane, enum blk_kind kind);
/* lane. One was refused. */
void blk_refusal_count(struct blk *b, unsigned lane, enum blk_refusal why);
/* Whether the disk has them. */
bool blk_range_fits(const struct blk *b, uint64_t offset, uint64_t bytes);
/* lane. A checked range; may end before it returns. A flush of a disk that has nothing to flush
 * ends at once. blk_kick() after a batch. */
void blk_range_submit(struct blk *b, unsigned lane, struct blk_range *g);
void blk_kick(struct blk *b, unsigned lane);

/* For stores: lane. status: 0 or a negative errno; tier: of a read. */
void blk_range_done(struct blk_range *g, int status, enum blk_tier tier);

/* A place in a request's data, from its beginning. Any lane, while the range is under way. */
struct blk_cursor {
	uint32_t at; /* bytes of data before it */
	uint32_t offset;
	uint16_t buffer;
};

void blk_cursor_start(const struct blk_range *g, struct blk_cursor *c);
/* Moves forward; at: not less than c->at, not past the end of the data. */
void blk_cursor_seek(const struct blk_range *g, struct blk_cursor *c, uint32_t at);
/* Where the next len bytes are, when they are one piece of pinned memory, and what the transport
 * knows that by; NULL: they are not. The cursor stays. */
void *blk_data_direct(const struct blk_range *g, const struct blk_cursor *c, uint32_t len,
	const struct transport_memory **memory);
/* Copy between the guest's buffers and ours; the cursor moves on. */
void blk_data_get(const struct blk_range *g, struct blk_cursor *c, void *to, uint32_t len);
void blk_data_put(const struct blk_range *g, struct blk_cursor *c, const void *from, uint32_t len);

#endif
