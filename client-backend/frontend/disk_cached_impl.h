/* The inside of a cached disk, shared by its life (disk_cached.c) and its pages
 * (disk_cached_page.c).
 */
#ifndef FALLOW_DISK_CACHED_IMPL_H
#define FALLOW_DISK_CACHED_IMPL_H

#include "client-backend/frontend/disk_cached.h"
#include "client-backend/frontend/disk_impl.h"

#define CACHE_HASH	 256u			/* power of two, more than DISK_CACHE_PAGES */
#define CACHE_READ_SLOTS (DISK_CACHE_PAGES / 4) /* that only reads take */

/* A page under way with its bounce page; or a range that is being zeroed, or a flush, without. */
struct cache_slot {
	struct engine_req req;
	struct disk_sub sub; /* of pages that are the base's */
	struct image_io io;  /* of the first slot of a run */
	struct cache_lane *lane;
	struct disk_part *part; /* NULL: its request was answered */
	uint64_t offset;	/* on the image */
	uint32_t bytes;		/* meant by the request */
	uint32_t page, pages;
	struct blk_cursor cursor; /* the page's place in the request's data */
	struct cache_slot
		*next; /* of the unused, of its hash bucket, or waiting for the same page */
	struct cache_slot *waiting; /* first of those who wait for this one */
	struct cache_slot *run;	    /* next of the same io */
	uint64_t start_ns;
	uint8_t *bounce; /* ENGINE_PAGE_BYTES */
};

/* One lane's part in a cache. */
struct cache_lane {
	struct disk_gather gather;
	struct disk_cache *cache;
	struct disk_lane *lane;
	struct cache_slot *unused;
	unsigned unused_count;
	struct cache_slot *hash[CACHE_HASH];
	struct cache_slot *wide;		 /* ranges of several pages that are being zeroed */
	struct cache_slot *run_first, *run_last; /* an io that is being gathered */
	unsigned run_count;
	struct disk_queue full[DISK_URGENCIES]; /* parts that wait for a slot */
	uint8_t *bounce;
	struct cache_slot slot[DISK_CACHE_PAGES];
};

struct disk_cache {
	struct disk_cache_config cfg;
	struct cache_lane *lane[BLK_MAX_LANES];
};

struct disk_cached {
	struct disk_store head; /* first */
	struct disk_cache *cache;
	const struct env *env;
	struct disk_cached *base;	  /* the base, as this disk sees it; NULL: none */
	uint64_t *own;			  /* of each page: not the base's; its lane writes it */
	struct disk_cached_stats stats[]; /* by lane */
};

/* disk_cached_page.c */
unsigned disk_cached_run(
	struct disk_lane *l, struct disk_part *p, unsigned budget, struct disk_queue **full);
void disk_cached_gather_close(struct disk_gather *g);

#endif
