/* A swap disk: a disk whose blocks are the pages of a private persistent pool. */
#ifndef FALLOW_DISK_SWAP_H
#define FALLOW_DISK_SWAP_H

#include "client-backend/frontend/disk_lane.h"

/*
 * Write is put, read is get, discard and write-zeroes are flush; what was never written reads as
 * zeros. Every request of a page waits for those before it of the same page, so that a part of a
 * page can be written by reading the whole, and nobody sees a page whose put has not ended.
 *
 * A put that is refused has taken away what was there before: such pages are marked as lost in a
 * map beside the arenas and fail their reads until they are written again, for they must not read
 * as zeros. One that a kill cuts off is still in its bounce page (disk_lane_new()).
 */
struct disk_swap;

struct disk_swap_config {
	uint32_t pool;
	uint64_t pages; /* 1..2^32 */
	unsigned lanes;
	struct disk_lane *const *lane; /* lanes of them; copied */
	const char *lost_path; /* of the map; made when missing; NULL: in anonymous memory */
};

/* Of the pages that one lane owns; written by it, read by anyone. */
struct disk_swap_stats {
	stat_t hits[BLK_TIERS]; /* pages read, by where they were */
	stat_t puts, flushes;
	stat_t merged;	    /* pages read to write a part of them */
	stat_t failed_lost; /* pages not read: lost */
	stat_t failed_late; /* not read within get_timeout */
	stat_t failed_room; /* not written: no room */
	stat_t failed_other;
	stat_t lost; /* pages marked as lost here since the start, less those written again */
};

/* Control thread; may block. The pool is there in every lane. -EINVAL, -EFBIG more than 2^32 pages;
 * or the errno of the map's file, -EINVAL too when it is of another size. */
int disk_swap_new(const struct disk_swap_config *cfg, struct disk_swap **out);
/* Nothing is under way. The map's file stays. */
void disk_swap_delete(struct disk_swap *d);
const struct disk_swap_stats *disk_swap_stats(const struct disk_swap *d, unsigned lane);
/* Pages whose contents are lost. */
uint64_t disk_swap_lost(const struct disk_swap *d);
/* store: a struct disk_swap */
extern const struct blk_store_ops disk_swap_ops;

/* ---- for disk_page.c ---- */

struct disk_swap_stats *disk_swap_lane_stats(struct disk_swap *d, unsigned lane);
/* lane: the page's owner. */
void disk_swap_lost_set(struct disk_swap *d, unsigned lane, uint32_t page, bool lost);
bool disk_swap_is_lost(const struct disk_swap *d, uint32_t page);

#endif
