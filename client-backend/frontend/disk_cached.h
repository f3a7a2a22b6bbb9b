/* A cached disk: a disk whose blocks are those of an image, with a pool as a cache of its pages. */
#ifndef FALLOW_DISK_CACHED_H
#define FALLOW_DISK_CACHED_H

#include "client-backend/frontend/disk_lane.h"
#include "client-backend/image/image.h"

/*
 * A read takes pages from the pool; neighbours that are not there are read from the image at once
 * and then put into the pool. A write drops its pages from the pool, writes the image, and then
 * puts the pages again: whatever is killed in between, the pool never holds an older page than the
 * image. Losing the pool loses nothing, and no put waits or is tried again.
 *
 * A disk_cache is an image with its pool; several disks that only read may have it together
 * (disk_cached): a page that two of them miss is read once. Requests of the same page go one after
 * the other, of whatever disk.
 *
 * A clone is a disk whose image holds only what differs from a base, as a qcow2 with a backing file
 * does. Pages that are the base's are read through the base's cache, which all its clones share; a
 * page that is written becomes the disk's own, for good. What is put into the base's cache was read
 * from the base itself.
 *
 * Each lane has DISK_CACHE_PAGES bounce pages for each cache, so that an image that hangs stops
 * nobody else.
 */
#define DISK_CACHE_PAGES 128u

struct disk_cache;
struct disk_cached;

struct disk_cache_config {
	uint32_t pool;
	unsigned lanes;
	struct disk_lane *const *lane; /* lanes of them; copied */
	struct image *image;	       /* the cache's from now on, if it is made */
	bool cache_writes;	       /* a page that was written is put, too */
};

/* Control thread. The pool is there in every lane. -EINVAL; -EFBIG more than 2^32 pages; -ENOMEM.
 */
int disk_cache_new(const struct disk_cache_config *cfg, struct disk_cache **out);
/* Nothing is under way, no disk has it, every lane has detached. Closes the image. */
void disk_cache_delete(struct disk_cache *c);
struct image *disk_cache_image(const struct disk_cache *c);
uint32_t disk_cache_pool(const struct disk_cache *c);
/* lane. After the last request. */
void disk_cache_detach(struct disk_cache *c, struct disk_lane *l);

/* Of the pages that one lane owns, for one disk; written by it, read by anyone. */
struct disk_cached_stats {
	stat_t hits[BLK_TIERS]; /* pages read, by where they were; BLK_TIER_DISK: the image */
	stat_t joined;		/* of these, with what another request was reading */
	stat_t late, lost; /* pages that were cached and could not be had: the image was asked */
	stat_t fills, refused; /* pages put; not put, for want of room */
	stat_t dropped;	       /* pages taken from the cache, for they were written or discarded */
	stat_t image_reads, image_writes, image_flushes, image_zeroes; /* ios of the image */
	stat_t image_bytes_read, image_bytes_written;
	stat_t image_errors;
	struct hist image_read_ns;
};

/*
 * Control thread. The caches outlive it. base: NULL for none; own: a bit for each page of the disk,
 * set where it is not the base's; the disk's from now on, freed with free(). Beyond the end of the
 * base all must be set. -ENOMEM.
 */
int disk_cached_new(struct disk_cache *c, struct disk_cache *base, uint64_t *own,
	const struct env *env, struct disk_cached **out);
/* Nothing of it is under way. */
void disk_cached_delete(struct disk_cached *d);
struct disk_cache *disk_cached_cache(const struct disk_cached *d);
const struct disk_cached_stats *disk_cached_stats(const struct disk_cached *d, unsigned lane);
/* What it reads of its base; NULL: it has none. */
const struct disk_cached *disk_cached_base(const struct disk_cached *d);
/* store: a struct disk_cached */
extern const struct blk_store_ops disk_cached_ops;

#endif
