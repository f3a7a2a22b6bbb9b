/* A guest's memory and the driver's side of its virtqueues, for tests that play the guest. */
#ifndef FALLOW_TEST_VHOST_GUEST_H
#define FALLOW_TEST_VHOST_GUEST_H

#include "client-backend/frontend/vhost_memory.h"

/*
 * One memfd in two regions that are neighbours for the guest and strangers for us. An offset into
 * it names a place: guest_gpa(offset), guest_uva(offset).
 */
#define GUEST_BYTES	  (4u << 20)
#define GUEST_SPLIT	  (2u << 20) /* where the second region begins */
#define GUEST_GPA	  0x40000000ull
#define GUEST_UVA	  0x7e0000000000ull
#define GUEST_RING_STRIDE 0x10000u
#define GUEST_RINGS	  8u
#define GUEST_DATA	  (GUEST_RINGS * GUEST_RING_STRIDE) /* free for the test from here on */

struct guest {
	int fd;
	uint8_t *base;
};

static inline uint64_t guest_gpa(uint64_t offset)
{
	return GUEST_GPA + offset;
}

static inline uint64_t guest_uva(uint64_t offset)
{
	return GUEST_UVA + offset;
}

/* A thread fence that every sanitizer understands. */
static inline void full_barrier(void)
{
	uint32_t word = 0;

	__atomic_exchange_n(&word, 1, __ATOMIC_SEQ_CST);
}

void guest_init(struct guest *g);
void guest_fini(struct guest *g);
struct vhost_wire_region guest_region(unsigned which);	  /* 0, 1 */
struct vhost_memory *guest_memory(const struct guest *g); /* both */

struct guest_buffer {
	uint64_t gpa;
	uint32_t len;
	bool in; /* written by the device */
};

/* The driver's side of ring `index`. */
struct guest_ring {
	struct guest *g;
	unsigned num;
	uint64_t at; /* offset of its tables */
	volatile struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	bool event_idx;
	uint16_t avail_idx, last_used;
};

void guest_ring_init(
	struct guest_ring *r, struct guest *g, unsigned index, unsigned num, bool event_idx);
struct vhost_wire_ring_addr guest_ring_addr(const struct guest_ring *r, unsigned index);
/* Writes a chain into descriptors first, first+1, ... */
void guest_chain(struct guest_ring *r, unsigned first, const struct guest_buffer *b, unsigned n);
/* The same into an indirect table at an offset, which descriptor first then points to. */
void guest_chain_indirect(struct guest_ring *r, unsigned first, uint64_t table,
	const struct guest_buffer *b, unsigned n);
/* Makes it available; true: the device wants a kick. */
bool guest_publish(struct guest_ring *r, uint16_t head);
/* Takes one that was given back; false: none. */
bool guest_used(struct guest_ring *r, struct virtq_used_elem *out);

#endif
