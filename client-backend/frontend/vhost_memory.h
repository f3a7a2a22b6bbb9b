/* A guest's memory as its front end describes it: tables of mapped regions, and look-ups in them.
 */
#ifndef FALLOW_VHOST_MEMORY_H
#define FALLOW_VHOST_MEMORY_H

#include <stddef.h>

#include "client-backend/frontend/vhost_mapping.h"
#include "client-backend/frontend/vhost_proto.h"

struct vhost_region {
	uint64_t guest_addr, size_bytes, user_addr;
	uint8_t *base;
	struct vhost_mapping *mapping;
};

/*
 * Never changes once made, so a lane may read it without a lock. A change makes a new table;
 * regions in both share one mapping, so that memory stays where it is. The old one is freed when no
 * lane uses it any more.
 */
struct vhost_memory {
	unsigned count;
	struct vhost_region region[VHOST_MAX_REGIONS]; /* by guest address, without overlap */
};

/*
 * Control thread. old (NULL: empty) and one more region, mapped from fd, which stays the caller's.
 * -EINVAL: an address, a size or the offset is not a multiple of 4096, the size is 0, something
 * overflows, the region overlaps another one, or the file is shorter; -ENOSPC: VHOST_MAX_REGIONS;
 * the errors of vhost_mapping_new().
 */
int vhost_memory_add(const struct vhost_memory *old, const struct vhost_wire_region *r, int fd,
	struct vhost_memory **out);
/* Control thread. old without the region of the same addresses and size. -ENOENT, -ENOMEM. */
int vhost_memory_remove(const struct vhost_memory *old, const struct vhost_wire_region *r,
	struct vhost_memory **out);
/* Control thread, before a lane has it: pins what is not pinned yet. What cannot be is said in the
 * log and read through buffers. */
void vhost_memory_pin(const struct vhost_memory *m, const struct vhost_pinner *who);
uint64_t vhost_memory_pinned(const struct vhost_memory *m); /* bytes, so far */
/* Control thread, no lane uses it. NULL is fine. */
void vhost_memory_delete(struct vhost_memory *m);

/*
 * Any thread. The byte at a guest address, and into *len (which says how many are wanted) how many
 * of them follow in the same region. NULL: not in guest memory.
 */
uint8_t *vhost_memory_guest(const struct vhost_memory *m, uint64_t guest_addr, uint64_t *len_bytes);
/* The same, and what its mapping is called (vhost_mapping.row). */
uint8_t *vhost_memory_guest_row(
	const struct vhost_memory *m, uint64_t guest_addr, uint64_t *len_bytes, uint32_t *row);
/* Any thread. Bytes that all lie in one region, at an address of the front end. NULL: they do not.
 */
void *vhost_memory_user(const struct vhost_memory *m, uint64_t user_addr, uint64_t len_bytes);
/* Any thread. The guest address of a byte in this memory; false: it is not in it. */
bool vhost_memory_guest_addr(const struct vhost_memory *m, const uint8_t *at, uint64_t *guest_addr);
/* Any thread. A region's file was cut short; its contents are lost to us. */
bool vhost_memory_broken(const struct vhost_memory *m);

#endif
