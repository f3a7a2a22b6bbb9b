/* The store of one lane: a log of segments, the index over it, and where each segment lives. */
#ifndef FALLOW_ENGINE_H
#define FALLOW_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * One engine belongs to one lane (a thread) and shares nothing with another: a key's lane is a
 * function of the key (engine_key_lane). All functions are for the lane's thread, never block and,
 * after engine_open(), never allocate. Everything that must outlive the process lies in one arena
 * file.
 */
#define ENGINE_PAGE_BYTES	4096u
#define ENGINE_MAX_COPIES	3u /* R, the holders of a segment on donors */
#define ENGINE_MAX_POOLS	4096u
#define ENGINE_MAX_ACCOUNTS	256u
#define ENGINE_MAX_DONORS	256u
#define ENGINE_NAME_BYTES	64u
#define ENGINE_REGION_MAX_SLOTS 4096u /* segments used of one region, however long the lease */

struct engine;

struct engine_key {
	uint64_t oid[3];
	uint32_t pool;
	uint32_t index;
};

/* The lane of a key, 0 <= lane < lanes. 256 neighbouring indices share a lane, so that swap
 * clusters and readahead stay together. Part of the socket protocol (libfallow routes by it). */
static inline unsigned engine_key_lane(const struct engine_key *k, unsigned lanes)
{
	uint64_t h = k->oid[0] * 0x9e3779b97f4a7c15ull ^ k->oid[1] * 0xc2b2ae3d27d4eb4full ^
		     k->oid[2] * 0x165667b19e3779f9ull ^
		     ((uint64_t)k->pool << 32 | k->index >> 8) * 0xd6e8feb86659fd93ull;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ull;
	h ^= h >> 32;
	return (unsigned)(((h & 0xffffffffu) * lanes) >> 32);
}

enum engine_pool_flag {
	ENGINE_POOL_PERSISTENT = 1u << 0,
	ENGINE_POOL_SHARED = 1u << 1,
	/* Ephemeral pools only: what is coldest goes to one donor while there is room to spare. */
	ENGINE_POOL_SPILL = 1u << 2,
};
enum engine_codec { ENGINE_CODEC_NONE = 0, ENGINE_CODEC_LZ4 = 1, ENGINE_CODEC_ZSTD = 2 };

enum engine_disk_policy {
	ENGINE_DISK_NEVER = 0,	  /* no copy on disk */
	ENGINE_DISK_OVERFLOW = 1, /* a copy on disk when the donors have no room for R copies */
	ENGINE_DISK_MIRROR = 2,	  /* always a copy on disk beside the R copies (R=1's safety net) */
};

/* A pool as it is kept in the arena. id, flags, account and the rest never change once added. */
struct engine_pool_desc {
	uint32_t id; /* never 0, never reused in the life of the arena; id % ENGINE_MAX_POOLS is its
			row */
	uint32_t flags;	  /* enum engine_pool_flag */
	uint16_t account; /* who pays */
	uint8_t codec;	  /* enum engine_codec */
	uint8_t copies;	  /* R: 1..ENGINE_MAX_COPIES; ignored for ephemeral pools, as disk is */
	uint8_t disk;	  /* enum engine_disk_policy */
	uint8_t reserved[3];
	uint8_t uuid[16];    /* shared pools */
	uint8_t secret[16];  /* shared pools: what a client must show to join */
	uint8_t session[16]; /* unnamed private pools: the client session that they end with; else
				zero */
	char name[ENGINE_NAME_BYTES];  /* NUL-terminated; "" for none */
	char owner[ENGINE_NAME_BYTES]; /* the client identity that opened it, NUL-terminated */
};

/* A quota shared by the lanes of one backend. Pages of client data, whatever they compress to. */
struct engine_quota {
	_Atomic uint64_t used_pages;
	_Atomic uint64_t limit_pages; /* UINT64_MAX: none */
};

struct engine_account {
	char name[ENGINE_NAME_BYTES]; /* "" : unused */
	uint32_t weight;	      /* share of the local tier, relative to the others; 1.. */
	struct engine_quota *quota;   /* outlives the engine; never NULL once set */
};

/* A leased region as the lane knows it; kept in the arena, so that a restart finds it. */
struct engine_region_desc {
	uint64_t region_id, epoch; /* the lease */
	uint64_t rkey, raddr;	   /* for the transport in use */
	uint64_t len_bytes;
	uint16_t donor; /* index in the caller's table, bound anew after a restart */
	uint16_t reserved;
	uint32_t domain; /* failure domain, a hash of its label; donors with the same one fail
			    together */
	char donor_name[ENGINE_NAME_BYTES];
};

/* Memory of somebody else's, as the I/O layer knows it. */
struct transport_memory;

/* A transfer between local memory and one holder of a segment; the engine owns it. */
struct engine_io {
	const struct engine_region_desc *region; /* NULL: the disk tier */
	uint64_t offset; /* bytes in the region, or in the disk tier's file */
	uint32_t len;	 /* bytes; a segment as far as it is used for writes, any range for reads */
	bool background; /* a move, not a client's get: may be delayed behind those */
	void *buf; /* in the memory that engine_memory() tells, 64-byte aligned; for the disk tier
		    * offset, len and buf are multiples of 4096 */
	const struct transport_memory *memory; /* reads from donors: that buf lies in instead */
	void (*done)(struct engine_io *io, int status);
	uint64_t priv[16]; /* the I/O layer's own from start until done() */
};

/* What the engine calls. All on the lane's thread; none may call back into the engine before it
 * returns. */
struct engine_ops {
	/* Starts a transfer. 0: done() will be called exactly once, later, within a bounded time.
	 * Negative errno: done() will not be; -EAGAIN queue full, -ENOTCONN donor unreachable now,
	 * -EOPNOTSUPP this donor cannot be read into io->memory. */
	int (*io_read)(void *ctx, struct engine_io *io);
	int (*io_write)(void *ctx, struct engine_io *io);
	/* Ends a read with io->memory soon, though it cost the donor's connection; done() is called
	 * as ever, and from then on nothing writes into buf. NULL where no such read is started. */
	void (*io_abandon)(void *ctx, struct engine_io *io);
	/* Posts what was started since the last kick. */
	void (*io_kick)(void *ctx);
	/* The lane would like `count` more regions (0: no more needed); repeated while it lasts.
	 * ephemeral: for copies of ephemeral segments only. */
	void (*want_regions)(void *ctx, unsigned count, bool ephemeral);
	/* The region holds nothing but copies of ephemeral segments and is not needed for more, or
	 * no longer so; not, until this is called. Ends with the region. Optional. */
	void (*region_spare)(void *ctx, const struct engine_region_desc *region, bool spare);
	/* Nothing of ours is in the region any more and engine_region_drop() was done: release the
	 * lease. */
	void (*region_released)(void *ctx, const struct engine_region_desc *region);
	/* A record or a whole segment from this donor failed verification. */
	void (*donor_bad_data)(void *ctx, unsigned donor);
};

struct engine_config {
	uint32_t segment_bytes;	 /* power of two, 64 KiB .. 4 MiB */
	uint32_t local_segments; /* slots of the local tier; at least 8 */
	uint64_t max_pages;	 /* capacity of the index */
	uint32_t max_objects;	 /* (pool, oid) pairs at a time */
	uint32_t max_segments;	 /* rows of the segment table: all tiers together */
	uint32_t max_regions;	 /* leased at a time by this lane */
	uint32_t disk_segments;	 /* slots of the disk tier; 0: none */
	uint32_t fetches;	 /* reads in flight at a time */
	uint32_t sums;		 /* checksums of incompressible pages kept in DRAM; 16 bytes each */
	uint32_t moves;	      /* segments on the move (spill, repair, migrate, clean) at a time */
	uint32_t lane, lanes; /* which lane this is */
	/* One for each lane, shared by them and outliving them: since when it has wanted regions
	 * for persistent segments, monotonic ns; 0: it does not. Lanes that hold ephemeral copies
	 * make way. NULL: there is no other lane. */
	_Atomic uint64_t *want_since_ns;
	bool huge_pages;  /* MADV_HUGEPAGE on the arena */
	bool lock_memory; /* mlock the arena */
	/* These may be changed at run time with engine_tune(). */
	uint64_t hedge_ns;	    /* a get asks the next holder after this; 0: never */
	uint64_t get_timeout_ns;    /* a get gives up after this with -ETIMEDOUT */
	uint64_t cache_timeout_ns;  /* a get of an ephemeral page is a miss after this */
	uint64_t direct_timeout_ns; /* a read into a caller's own memory that takes longer is
				     * abandoned once another holder has answered */
	uint64_t put_wait_ns;	    /* a put waits this long for a slot that is being freed, then is
				       refused */
	uint64_t retry_ns;	    /* a failed move is tried again after this */
	uint32_t
		spill_percent; /* spill when fewer than this percentage of slots is free or clean */
	uint32_t live_percent; /* clean until live bytes are this share of the bytes held */
	uint32_t probation_percent; /* share of the ephemeral segments for pages not read yet */
	uint32_t zstd_level;	    /* 1..19 */
};

/* Fills in the defaults for a lane with the given local tier and page capacity. */
void engine_config_default(struct engine_config *cfg, uint64_t local_bytes, uint64_t max_pages);
/* 0, or -EINVAL with a sentence in err that names the value. */
int engine_config_check(const struct engine_config *cfg, char *err, size_t err_bytes);

/* Counters; written by the lane, read by anyone. */
struct engine_stats {
	stat_t puts, puts_refused, puts_refused_promised, puts_refused_granted, puts_same_filled,
		puts_raw, puts_waited;
	stat_t gets_local, gets_remote, gets_disk, gets_same_filled, gets_miss, gets_lost,
		gets_timeout;
	stat_t flush_pages, flush_objects;
	stat_t reads_posted, reads_bare, reads_merged, reads_hedged, reads_failed, records_corrupt;
	/* gets answered by a read into the caller's own memory; such reads not tried, for the donor
	 * is late or not read that way; what they brought was not the record, and the caller or the
	 * donor may be why; abandoned */
	stat_t gets_direct, direct_refused, direct_unlike, direct_abandoned;
	stat_t segments_spilled, segments_repaired, segments_cleaned, segments_freed, segments_lost,
		segments_evicted_clean, segments_evicted_ephemeral, segments_to_disk;
	/* ephemeral pages: put on probation; put to main, being known from before; kept because
	 * they were read; forgotten. Segments copied to donors; copies dropped there. */
	stat_t ephemeral_admitted, ephemeral_ghosts, ephemeral_reinserted, ephemeral_forgotten,
		ephemeral_spilled, ephemeral_dropped;
	stat_t move_failures;
	stat_t bytes_put, bytes_stored,
		bytes_relocated; /* client bytes; record bytes appended by puts; by the cleaner */
	stat_t bytes_read_remote, bytes_written_remote, bytes_read_disk, bytes_written_disk;
	/* gauges */
	stat_t pages, pages_same_filled, objects, live_bytes;
	stat_t local_slots, local_slots_free, local_slots_clean;
	stat_t remote_slots, remote_slots_used, remote_slots_ephemeral, disk_slots, disk_slots_used;
	stat_t segments, segments_underreplicated, regions, regions_revoking;
	stat_t promised_pages;		 /* of grants, not used yet */
	stat_t reserved_short_pages;	 /* promised, but there is no room for them now */
	stat_t index_bytes, table_bytes; /* DRAM beside the slots: index; everything else */
	struct hist get_remote_ns;	 /* submit to done, gets that needed a donor */
};

enum engine_tier { ENGINE_TIER_LOCAL, ENGINE_TIER_REMOTE, ENGINE_TIER_DISK };

/* Where a get may be read to without passing through a buffer; see engine_get_direct(). */
struct engine_direct {
	void *page;			       /* ENGINE_PAGE_BYTES */
	const struct transport_memory *memory; /* that page lies in; NULL: nowhere */
};

/* A request that may complete later; the caller's, untouched until done() when -EINPROGRESS was
 * returned. */
struct engine_req {
	/* On the lane's thread, from engine_tick(), engine_kick() or an io's done(); may start new
	 * requests. */
	void (*done)(struct engine_req *req, int status);
	uint32_t tier; /* enum engine_tier that a get was answered from; valid in done() */
	bool in_place; /* of engine_get_direct(): where the page is; valid in done() */
	/* private */
	struct engine_key key;
	void *page;
	struct engine_direct direct;
	uint64_t start_ns, deadline_ns;
	struct engine_req *next, **pprev;
	uint64_t loc;
	uint32_t kind, tried;
	void *fetch[2];
};

/*
 * Opens the arena at path (made when missing), recovers what it holds, and seals what was open.
 * path NULL: anonymous memory, nothing outlives. err gets one sentence on failure.
 * -EINVAL bad configuration or an arena of another geometry; -EBADMSG not an arena or damaged
 * beyond use; -EBUSY another process has it open; -ENOMEM, -ENOSPC.
 */
int engine_open(const char *path, const struct engine_config *cfg, const struct env *env,
	const struct engine_ops *ops, void *ops_ctx, struct engine **out, char *err,
	size_t err_bytes);
/* Ends the engine; no io may be in flight and no request pending. The arena stays for the next
 * open. */
void engine_close(struct engine *e);
/* Ends it as SIGKILL would: nothing is written back or sealed; pending requests are never done.
 * Tests. */
void engine_abandon(struct engine *e);
void engine_tune(struct engine *e, const struct engine_config *cfg);
/* The memory that io buffers lie in, for transport mem_register(). */
void engine_memory(const struct engine *e, void **base, size_t *len);
const struct engine_stats *engine_stats(const struct engine *e);

/* Accounts and pools. Any number of times with the same values. */
int engine_account_set(struct engine *e, unsigned account, const struct engine_account *a);
const struct engine_account *engine_account(
	const struct engine *e, unsigned account); /* NULL: unused */
/* Stored bytes this account holds in the local tier, and its pages, in this lane. */
void engine_account_usage(
	const struct engine *e, unsigned account, uint64_t *local_bytes, uint64_t *pages);
/* -EEXIST another pool in that row; -EINVAL. */
int engine_pool_add(struct engine *e, const struct engine_pool_desc *d);
const struct engine_pool_desc *engine_pool(
	const struct engine *e, uint32_t id); /* NULL: no such pool */
const struct engine_pool_desc *engine_pool_row(
	const struct engine *e, unsigned row); /* NULL: unused */
uint64_t engine_pool_pages(const struct engine *e, uint32_t id);
/* From its return on no key of the pool is found; memory is reclaimed in the background. -ENOENT.
 */
int engine_pool_destroy(struct engine *e, uint32_t id);

/*
 * A hard grant: room for so many pages and objects of a persistent pool in this lane, whatever the
 * pages compress to. A put within it (its page exists or the pool has fewer pages than are
 * reserved) is not refused while any tier that the pool may use has room or can be given some
 * within put_wait_ns; other puts do not get what is promised and not used yet. Kept in the arena;
 * ends with the pool.
 */
struct engine_reservation {
	uint64_t pages, objects;
};
/*
 * Sets a pool's grant; zeros: none. 0: it is kept; -ENOSPC: no room now, *possible_pages could be
 * granted; with keep_asking the pages are held and regions asked for all the same, until the next
 * call or a restart, so that asking again may succeed; -EDQUOT the account's quota does not allow
 * it; -ENOENT; -EINVAL not a persistent pool, or more than fits the configuration's numbers. Unless
 * it is 0 the grant kept before stays. What a pool has already is never refused.
 */
int engine_pool_reserve(struct engine *e, uint32_t id, const struct engine_reservation *r,
	bool keep_asking, uint64_t *possible_pages);
/* What is kept; zeros: nothing, or no such pool. */
struct engine_reservation engine_pool_reserved(const struct engine *e, uint32_t id);

/*
 * The data path. page: ENGINE_PAGE_BYTES, any alignment, must not change during the call.
 * -EINPROGRESS: req->done() will be called (within put_wait_ns or get_timeout_ns); key is copied,
 * page and req must stay until then. Other results are final and req is untouched. put: 0; -ENOSPC
 * refused, and what the key held before is gone; -ENOENT no such pool. While a put waits, what the
 * key held is gone already. get: 0; -ENOENT a miss; -EIO a persistent page is lost; -ETIMEDOUT its
 * holders do not answer. An ephemeral page that cannot be had is a miss, and gone. After a batch of
 * calls, engine_kick() starts the reads they need, neighbours merged.
 */
int engine_put(
	struct engine *e, const struct engine_key *k, const void *page, struct engine_req *req);
int engine_get(struct engine *e, const struct engine_key *k, void *page, struct engine_req *req);
/*
 * A get of a page that a donor has as it is, of a persistent pool, may be read straight to
 * direct->page, which somebody else (a guest) may write to at any time; a page that is anywhere
 * else, or that is not right when it is there, goes to `page`. In done() req->in_place tells where
 * it is. Until then direct->page may change at any time, whatever becomes of the get; from then on
 * it does not. So done() may come later than get_timeout_ns, by the time that a transfer may take
 * at most; and such a request cannot be cancelled.
 */
int engine_get_direct(struct engine *e, const struct engine_key *k, void *page,
	const struct engine_direct *direct, struct engine_req *req);
/* Reads for gets that donors or the disk have not answered yet. */
unsigned engine_gets_in_flight(const struct engine *e);
void engine_kick(struct engine *e);
/* Takes back a request in progress: done() will not be called. Not from a done(), and not of
 * engine_get_direct(). */
void engine_cancel(struct engine *e, struct engine_req *req);
/* 0; -ENOENT nothing there (or no such pool). flush_object counts the pages it removed in *pages.
 */
int engine_flush_page(struct engine *e, const struct engine_key *k);
int engine_flush_object(struct engine *e, uint32_t pool, const uint64_t oid[3], uint64_t *pages);

/*
 * Time and background work. engine_tick() ends what is overdue and starts moves; it returns the
 * monotonic time in ns at which it wants to be called again (UINT64_MAX: when something happens).
 * engine_work() does a bounded piece (~100 us) of cleaning, reaping or evicting; true: there is
 * more, call again when idle.
 */
uint64_t engine_tick(struct engine *e);
bool engine_work(struct engine *e);

/*
 * Regions and donors. engine_region_add gives a lease to the lane: returns its index (>= 0),
 * -ENOSPC table full. revoke: stop using it for new segments, move away what it holds, then
 * ops->region_released(). lost: the lease is gone or the donor is: its copies are forgotten at once
 * and repaired from others; region_released is not called. iterate with engine_region(): NULL for
 * an unused row, up to cfg.max_regions.
 */
int engine_region_add(struct engine *e, const struct engine_region_desc *d);
const struct engine_region_desc *engine_region(const struct engine *e, unsigned region);
int engine_region_find(
	const struct engine *e, const char *donor_name, uint64_t region_id, uint64_t epoch);
/* After a restart: same lease, new donor index or keys. */
void engine_region_bind(struct engine *e, unsigned region, unsigned donor, uint32_t domain,
	uint64_t rkey, uint64_t raddr);
void engine_region_revoke(struct engine *e, unsigned region);
void engine_region_lost(struct engine *e, unsigned region);
/* up: reachable; suspect: do not place new segments there and prefer others for reads. */
void engine_donor_state(struct engine *e, unsigned donor, bool up, bool suspect);
/* Segments that a donor holds for this lane, and their live bytes. */
void engine_donor_usage(
	const struct engine *e, unsigned donor, uint64_t *segments, uint64_t *live_bytes);

/* Walks every structure and compares all that is stored twice; 0, or -EBADMSG with what is wrong.
 * Slow; tests. */
int engine_check(struct engine *e, char *err, size_t err_bytes);

#endif
