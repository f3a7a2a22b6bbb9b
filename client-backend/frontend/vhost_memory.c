/* A guest's memory as its front end describes it: tables of mapped regions, and look-ups in them.
 */
#include "client-backend/frontend/vhost_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/core/log.h"

#define ALIGN_BYTES 4096u

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b ? b - a < a_bytes : a - b < b_bytes;
}

static int region_check(const struct vhost_memory *old, const struct vhost_wire_region *r)
{
	if (!r->size_bytes || r->size_bytes > UINT64_MAX - r->guest_addr ||
		r->size_bytes > UINT64_MAX - r->user_addr)
		return -EINVAL;
	if ((r->guest_addr | r->size_bytes | r->user_addr | r->mmap_offset) % ALIGN_BYTES)
		return -EINVAL;
	for (unsigned i = 0; old && i < old->count; i++) {
		const struct vhost_region *o = &old->region[i];

		if (overlap(o->guest_addr, o->size_bytes, r->guest_addr, r->size_bytes) ||
			overlap(o->user_addr, o->size_bytes, r->user_addr, r->size_bytes))
			return -EINVAL;
	}
	return old && old->count == VHOST_MAX_REGIONS ? -ENOSPC : 0;
}

/* A copy of old with room for one region at `at`. */
static struct vhost_memory *table_copy(const struct vhost_memory *old, unsigned skip)
{
	struct vhost_memory *m = calloc(1, sizeof(*m));

	for (unsigned i = 0; m && old && i < old->count; i++) {
		if (i == skip)
			continue;
		m->region[m->count] = old->region[i];
		vhost_mapping_get(m->region[m->count++].mapping);
	}
	return m;
}

int vhost_memory_add(const struct vhost_memory *old, const struct vhost_wire_region *r, int fd,
	struct vhost_memory **out)
{
	struct vhost_mapping *mapping;
	unsigned at;
	int err = region_check(old, r);

	if (!err)
		err = vhost_mapping_new(fd, r->mmap_offset, r->size_bytes, &mapping);
	if (err)
		return err;
	struct vhost_memory *m = table_copy(old, UINT32_MAX);
	if (!m) {
		vhost_mapping_put(mapping);
		return -ENOMEM;
	}
	for (at = m->count; at > 0 && m->region[at - 1].guest_addr > r->guest_addr; at--)
		m->region[at] = m->region[at - 1];
	m->region[at] = (struct vhost_region){.guest_addr = r->guest_addr,
		.size_bytes = r->size_bytes,
		.user_addr = r->user_addr,
		.base = mapping->base,
		.mapping = mapping};
	m->count++;
	*out = m;
	return 0;
}

int vhost_memory_remove(const struct vhost_memory *old, const struct vhost_wire_region *r,
	struct vhost_memory **out)
{
	for (unsigned i = 0; old && i < old->count; i++) {
		const struct vhost_region *o = &old->region[i];

		if (o->guest_addr != r->guest_addr || o->user_addr != r->user_addr ||
			o->size_bytes != r->size_bytes)
			continue;
		*out = table_copy(old, i);
		return *out ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

void vhost_memory_pin(const struct vhost_memory *m, const struct vhost_pinner *who)
{
	for (unsigned i = 0; i < m->count; i++) {
		int r = vhost_mapping_pin(m->region[i].mapping, who);

		if (r < 0)
			log_warn("vhost",
				"device %s: a region of guest memory cannot be registered for RDMA "
				"and is read through buffers: %s",
				who->name, strerror(-r));
	}
}

uint64_t vhost_memory_pinned(const struct vhost_memory *m)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < m->count; i++)
		if (m->region[i].mapping->pin)
			bytes += vhost_pin_bytes(m->region[i].mapping->pin);
	return bytes;
}

void vhost_memory_delete(struct vhost_memory *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->count; i++)
		vhost_mapping_put(m->region[i].mapping);
	free(m);
}

uint8_t *vhost_memory_guest_row(
	const struct vhost_memory *m, uint64_t guest_addr, uint64_t *len_bytes, uint32_t *row)
{
	unsigned low = 0, high = m->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		const struct vhost_region *r = &m->region[mid];

		if (guest_addr < r->guest_addr) {
			high = mid;
		} else if (guest_addr - r->guest_addr >= r->size_bytes) {
			low = mid + 1;
		} else {
			uint64_t at = guest_addr - r->guest_addr;
			if (*len_bytes > r->size_bytes - at)
				*len_bytes = r->size_bytes - at;
			*row = r->mapping->row;
			return r->base + at;
		}
	}
	return NULL;
}

uint8_t *vhost_memory_guest(const struct vhost_memory *m, uint64_t guest_addr, uint64_t *len_bytes)
{
	uint32_t row;

	return vhost_memory_guest_row(m, guest_addr, len_bytes, &row);
}

void *vhost_memory_user(const struct vhost_memory *m, uint64_t user_addr, uint64_t len_bytes)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct vhost_region *r = &m->region[i];
		uint64_t at = user_addr - r->user_addr;

		if (user_addr >= r->user_addr && at < r->size_bytes)
			return len_bytes <= r->size_bytes - at ? r->base + at : NULL;
	}
	return NULL;
}

bool vhost_memory_guest_addr(const struct vhost_memory *m, const uint8_t *at, uint64_t *guest_addr)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct vhost_region *r = &m->region[i];

		if (at < r->base || (uint64_t)(at - r->base) >= r->size_bytes)
			continue;
		*guest_addr = r->guest_addr + (uint64_t)(at - r->base);
		return true;
	}
	return false;
}

bool vhost_memory_broken(const struct vhost_memory *m)
{
	for (unsigned i = 0; i < m->count; i++)
		if (vhost_mapping_broken(m->region[i].mapping))
			return true;
	return false;
}
