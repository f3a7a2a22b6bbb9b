/* Caches in use, each with the disks that have it together. */
#ifndef FALLOW_BACKEND_DISK_SHARE_H
#define FALLOW_BACKEND_DISK_SHARE_H

#include <event2/event.h>

#include "client-backend/disk_service.h"
#include "client-backend/disk_stamp.h"

/* Control thread. A cache with its image's stamp, in the list of all. */
struct disk_share {
	struct disk_share *next, **list;
	struct disk_cache *cache;
	struct disk_stamp *stamp;
	struct event *beat;
	unsigned disks; /* that have it */
};

/* The one of this pool, made if there is none yet: it takes source->image then. 0, or a negative
 * errno with one sentence in err. */
int disk_share_take(const struct disk_service_config *cfg, uint32_t pool,
	struct disk_source *source, struct disk_share **out, char *err, size_t err_bytes);
/* True: it was the last; nothing of it is under way in any lane, so that it may be ended. */
bool disk_share_leave(struct disk_share *s);
/* After the last one left: stamps the image and closes it. */
void disk_share_delete(struct disk_share *s);

#endif
