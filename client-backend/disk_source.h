/* What a cached disk is a cache of: its image, opened, and the pool that goes with it. */
#ifndef FALLOW_BACKEND_DISK_SOURCE_H
#define FALLOW_BACKEND_DISK_SOURCE_H

#include "client-backend/config.h"
#include "client-backend/image/image.h"

/* Pools of images that are only read, by any number of disks; they outlive the last of these. */
#define DISK_SOURCE_SHARED_PREFIX "image:"

struct disk_source {
	struct image *image; /* NULL once a service has it */
	struct image_identity identity;
	bool shared;
	/* Shared: "image:" and a hash of the identity, with the image's times: who changed the
	 * image finds another pool. */
	char pool_owner[ENGINE_NAME_BYTES];
	/* Of a clone: its base, shared, with its pool once that is there; and which pages are not
	 * the base's, NULL once a service has it. */
	struct disk_source *base;
	uint32_t base_pool;
	uint64_t *own;
};

/* Any thread; blocks for up to 20 s. down_timeout_ns: as in image_options. err gets one sentence on
 * failure; the errors are those of image_open(). */
int disk_source_open(const struct fallowd_disk_config *c, unsigned lanes, uint64_t down_timeout_ns,
	struct disk_source **out, char *err, size_t err_bytes);
void disk_source_close(struct disk_source *s);

/* The stamp of a pool, beside the arenas. */
void disk_source_stamp_path(const char *runtime_dir, uint32_t pool, char path[320]);
/* False: what the pool holds is not the image's any more; *why says so. */
bool disk_source_valid(const struct disk_source *s, const char *runtime_dir, uint32_t pool,
	bool keep, const char **why);

#endif
