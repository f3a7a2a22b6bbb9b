/* The inside of a disk, shared by its ranges (blk.c) and its virtio front end (blk_virtio.c). */
#ifndef FALLOW_BLK_IMPL_H
#define FALLOW_BLK_IMPL_H

#include "client-backend/frontend/blk.h"

struct blk {
	struct blk_config cfg;
	const struct blk_store_ops *ops;
	void *store;
	const struct env *env;
	_Atomic uint8_t own_writeback;
	_Atomic uint8_t *writeback; /* what the virtio driver wrote last */
	_Atomic bool flush_unknown; /* the virtio driver knows no flush: every write is flushed */
	struct blk_stats stats[];   /* by lane */
};

#endif
