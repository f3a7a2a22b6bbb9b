/* What tells after a restart whether the cached pages of an image are still those of the image. */
#ifndef FALLOW_BACKEND_DISK_STAMP_H
#define FALLOW_BACKEND_DISK_STAMP_H

#include <stdatomic.h>

#include "client-backend/image/image.h"

/*
 * Control thread. A stamp is a small file beside the arenas, mapped, so that a kill at any time
 * leaves it as it was. While a disk is served it holds the time, about once a second; when the disk
 * is let go, the image's own times. Somebody who changed the image in between has changed those.
 */
struct disk_stamp;

/* Makes it when missing: *fresh says so. May block. -EINVAL: it is no stamp; errno of the file. */
int disk_stamp_open(const char *path, struct disk_stamp **out, bool *fresh);
/* is: the image as it is now. Are pages that were cached before to be believed? keep: images
 * without times are believed, too. *why says why not. */
bool disk_stamp_valid(const struct disk_stamp *s, const struct image_identity *is, int one_lane,
	bool keep, const char **why);
/* The disk is being served from now on. */
void disk_stamp_begin(
	struct disk_stamp *s, const struct image_identity *is, int one_lane, uint64_t now_ns);
/* It still is. */
void disk_stamp_beat(struct disk_stamp *s, uint64_t now_ns);
/* Nothing of ours is under way any more. */
void disk_stamp_end(struct disk_stamp *s, const struct image_identity *is);
/* The guest's choice of a write cache, which outlives a restart: blk_config.writeback. */
_Atomic uint8_t *disk_stamp_writeback(struct disk_stamp *s);
/* The file stays. */
void disk_stamp_close(struct disk_stamp *s);
/* CLOCK_REALTIME, as files' times are. */
uint64_t disk_stamp_now_ns(void);

#endif
