/* A guest's memory and the driver's side of its virtqueues, for tests that play the guest. */
#include "tests/unit/vhost/guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/must.h"

void guest_init(struct guest *g)
{
	g->fd = memfd_create("guest", MFD_CLOEXEC);
	MUST(g->fd >= 0 && ftruncate(g->fd, GUEST_BYTES) == 0);
	g->base = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
	MUST(g->base != MAP_FAILED);
}

void guest_fini(struct guest *g)
{
	munmap(g->base, GUEST_BYTES);
	close(g->fd);
}

struct vhost_wire_region guest_region(unsigned which)
{
	uint64_t at = which ? GUEST_SPLIT : 0;

	return (struct vhost_wire_region){.guest_addr = guest_gpa(at),
		.size_bytes = which ? GUEST_BYTES - GUEST_SPLIT : GUEST_SPLIT,
		.user_addr = guest_uva(at),
		.mmap_offset = at};
}

struct vhost_memory *guest_memory(const struct guest *g)
{
	struct vhost_wire_region a = guest_region(0), b = guest_region(1);
	struct vhost_memory *first, *both;

	MUST(vhost_memory_add(NULL, &b, g->fd, &first) == 0);
	MUST(vhost_memory_add(first, &a, g->fd, &both) == 0);
	vhost_memory_delete(first);
	return both;
}

void guest_ring_init(
	struct guest_ring *r, struct guest *g, unsigned index, unsigned num, bool event_idx)
{
	memset(r, 0, sizeof(*r));
	r->g = g;
	r->num = num;
	r->event_idx = event_idx;
	r->at = (uint64_t)index * GUEST_RING_STRIDE;
	memset(g->base + r->at, 0, GUEST_RING_STRIDE);
	r->desc = (volatile struct virtq_desc *)(g->base + r->at);
	r->avail = (struct virtq_avail *)(g->base + r->at + 0x4000);
	r->used = (struct virtq_used *)(g->base + r->at + 0x8000);
}

struct vhost_wire_ring_addr guest_ring_addr(const struct guest_ring *r, unsigned index)
{
	return (struct vhost_wire_ring_addr){.index = index,
		.desc = guest_uva(r->at),
		.avail = guest_uva(r->at + 0x4000),
		.used = guest_uva(r->at + 0x8000),
		.log = guest_gpa(r->at + 0x8000)};
}

static void chain_write(
	volatile struct virtq_desc *d, unsigned first, const struct guest_buffer *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		d[first + i].addr = b[i].gpa;
		d[first + i].len = b[i].len;
		d[first + i].flags = (uint16_t)((b[i].in ? VIRTQ_DESC_F_WRITE : 0) |
						(i + 1 < n ? VIRTQ_DESC_F_NEXT : 0));
		d[first + i].next = (uint16_t)(first + i + 1);
	}
}

void guest_chain(struct guest_ring *r, unsigned first, const struct guest_buffer *b, unsigned n)
{
	chain_write(r->desc, first, b, n);
}

void guest_chain_indirect(struct guest_ring *r, unsigned first, uint64_t table,
	const struct guest_buffer *b, unsigned n)
{
	chain_write((volatile struct virtq_desc *)(r->g->base + table), 0, b, n);
	r->desc[first].addr = guest_gpa(table);
	r->desc[first].len = n * (uint32_t)sizeof(struct virtq_desc);
	r->desc[first].flags = VIRTQ_DESC_F_INDIRECT;
	r->desc[first].next = 0;
}

bool guest_publish(struct guest_ring *r, uint16_t head)
{
	uint16_t old = r->avail_idx;

	r->avail->ring[old % r->num] = head;
	__atomic_store_n(&r->avail->idx, ++r->avail_idx, __ATOMIC_RELEASE);
	full_barrier();
	if (!r->event_idx)
		return !(__atomic_load_n(&r->used->flags, __ATOMIC_ACQUIRE) &
			 VIRTQ_USED_F_NO_NOTIFY);
	uint16_t event = __atomic_load_n((uint16_t *)&r->used->ring[r->num], __ATOMIC_ACQUIRE);
	return (uint16_t)(r->avail_idx - event - 1) < (uint16_t)(r->avail_idx - old);
}

bool guest_used(struct guest_ring *r, struct virtq_used_elem *out)
{
	if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) == r->last_used)
		return false;
	*out = r->used->ring[r->last_used % r->num];
	r->last_used++;
	return true;
}
