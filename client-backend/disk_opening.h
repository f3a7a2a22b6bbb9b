/* Opening an image in a thread of its own, for that may take seconds. */
#ifndef FALLOW_BACKEND_DISK_OPENING_H
#define FALLOW_BACKEND_DISK_OPENING_H

#include <event2/event.h>

#include "client-backend/disks.h"

/* Control thread. disk_source_open(); then call->done() from the loop of `base`, always. */
void disk_opening_start(struct event_base *base, const struct fallowd_disk_config *c,
	unsigned lanes, uint64_t down_timeout_ns, struct disks_opening *call);

#endif
