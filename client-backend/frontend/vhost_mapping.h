/* Memory of another process mapped here: shared files that their owner may cut short under us. */
#ifndef FALLOW_VHOST_MAPPING_H
#define FALLOW_VHOST_MAPPING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client-backend/frontend/vhost_pin.h"

/*
 * The file must be on tmpfs or hugetlbfs (memfd): a page fault on any other may wait for a disk, a
 * network or a hostile file system, and with it the lane. Its owner can truncate it at any time; an
 * access past the new end raises SIGBUS. For mappings made here the signal is caught: the whole
 * mapping is replaced by anonymous memory, private to this process, and `broken` is set; whoever
 * uses the mapping looks at it from time to time and gives the owner up. Any other SIGBUS goes
 * where it went before.
 */
struct vhost_mapping {
	uint8_t *base; /* of the byte at the offset asked for */
	uint64_t len_bytes;
	_Atomic bool broken;
	uint32_t row; /* what it is called in a vhost_buffer; 0: it is not pinned */

	void *map_base;
	uint64_t map_bytes;
	unsigned users;	       /* control thread */
	struct vhost_pin *pin; /* NULL: none; set before a lane has the mapping */
	struct vhost_mapping_guard *guard;
};

#define VHOST_MAX_MAPPINGS 1024u /* of the process */

/*
 * Control thread. fd stays the caller's. -EINVAL: length 0 or overflow, or the file is shorter;
 * -EMEDIUMTYPE: not a regular file on tmpfs or hugetlbfs; -ENOSPC: VHOST_MAX_MAPPINGS;
 * -ENOMEM, or errno of mmap. One user.
 */
int vhost_mapping_new(int fd, uint64_t offset, uint64_t len_bytes, struct vhost_mapping **out);
/* Control thread. */
struct vhost_mapping *vhost_mapping_get(struct vhost_mapping *m);
/* Control thread, before a lane has it; once is enough. Pages can be read straight into it, as far
 * as it could be registered. The errors of vhost_pin_new(). */
int vhost_mapping_pin(struct vhost_mapping *m, const struct vhost_pinner *who);
/* Any thread that has the mapping in use: what the transport knows a pinned one by. */
const struct transport_memory *vhost_mapping_memory(uint32_t row);
/* Control thread, when no other thread touches the memory on this user's account, and no card.
 * NULL is fine. */
void vhost_mapping_put(struct vhost_mapping *m);

static inline bool vhost_mapping_broken(const struct vhost_mapping *m)
{
	return atomic_load_explicit((_Atomic bool *)&m->broken, memory_order_relaxed);
}

#endif
