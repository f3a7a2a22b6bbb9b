/* One split virtqueue in a guest's memory: taking chains from it, giving them back, and the record
 * of what is in flight. */
#ifndef FALLOW_VRING_H
#define FALLOW_VRING_H

#include "client-backend/frontend/vhost_device.h"
#include "client-backend/frontend/vhost_memory.h"

/*
 * Pure: no descriptor, no clock, no allocation. One thread at a time. Everything in guest memory
 * and in the in-flight region may change at any time and hold anything: it is read once, checked,
 * and what was checked is used.
 */

/* Why a ring cannot be served any further. Part of the metrics' labels, see vring_fault_name(). */
enum vring_fault {
	VRING_FAULT_NONE,
	VRING_FAULT_AVAIL,    /* more available than the ring holds */
	VRING_FAULT_HEAD,     /* a chain that begins past the descriptor table */
	VRING_FAULT_BUSY,     /* a chain made available again before it was given back */
	VRING_FAULT_NEXT,     /* a chain that goes on past its table */
	VRING_FAULT_LOOP,     /* a chain longer than its table */
	VRING_FAULT_BUFFERS,  /* more buffers than VHOST_MAX_BUFFERS, none, or an empty one */
	VRING_FAULT_ORDER,    /* a buffer to be read after one to be written */
	VRING_FAULT_ADDRESS,  /* a buffer or a table outside the guest's memory */
	VRING_FAULT_LENGTH,   /* 2^32 bytes or more in one direction */
	VRING_FAULT_INDIRECT, /* an indirect table that was not agreed on, nested, or of a wrong
				 size */
	VRING_FAULT_MEMORY,   /* the guest's memory was cut short under us */
	VRING_FAULTS
};
const char *vring_fault_name(enum vring_fault f);

/* A dirty log: bit n stands for guest page n. */
struct vhost_log {
	struct vhost_mapping *mapping; /* the control thread's */
	uint8_t *bits;
	uint64_t len_bytes;
};

/* What may change while the ring runs; the pointers belong to whoever gives it. */
struct vring_place {
	const struct vhost_memory *memory;
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	const struct vhost_log *log; /* NULL: nothing is logged */
	bool log_data;		     /* mark what is written to buffers */
	bool log_used;		     /* mark what is written to the used ring ... */
	uint64_t log_used_addr;	     /* ... which begins at this address in the log */
};

struct vring_config {
	uint16_t num;  /* a power of two, at most VHOST_MAX_QUEUE_LEN */
	uint16_t base; /* of the available ring; ignored when the in-flight region knows better */
	bool event_idx, indirect;
	/* NULL: none. Room for inflight_len descriptors, at least num. Stays mapped as long as the
	 * ring lives. */
	struct vhost_inflight_ring *inflight;
	uint16_t inflight_len;
};

struct vring {
	struct vring_config cfg;
	struct vring_place place;
	uint16_t last_avail; /* taken up to here */
	uint16_t used_idx;   /* given back up to here */
	uint16_t signalled;  /* used_idx when the guest was last notified */
	bool signalled_valid;
	uint64_t counter; /* of the next chain to be taken */
	uint16_t redo_count, redo_at;
	uint16_t redo[VHOST_MAX_QUEUE_LEN]; /* in flight at the crash of whoever served it before */
};

/*
 * Begins to serve a ring. With an in-flight region that was used before: finishes what its last
 * user left half done and lists what is to be submitted again, in the order in which it was taken.
 * -EINVAL: num or the region make no sense.
 */
int vring_init(struct vring *v, const struct vring_config *cfg, const struct vring_place *place);

/*
 * From now on the ring is there; what it holds is the same. Marks idx in the log: whoever served
 * the ring before may have died after writing it and before marking it.
 */
void vring_move(struct vring *v, const struct vring_place *place);

/*
 * Looks at the next chain without taking it; those to be submitted again come first. fresh: also
 * what the guest made available since. 1: *head is its first descriptor, within the table; 0:
 * nothing there; -(enum vring_fault): the ring is broken.
 */
int vring_peek(const struct vring *v, bool fresh, uint16_t *head);
/* Reads a chain into r (counts, bytes, buffers), which nobody else uses. Nothing is taken. */
enum vring_fault vring_chain(const struct vring *v, uint16_t head, struct vhost_request *r);
/* Takes the chain that vring_peek() showed. */
void vring_take(struct vring *v, uint16_t head);
/* Gives a taken chain back. Marks what it may have written in the dirty log first. */
void vring_give(struct vring *v, uint16_t head, const struct vhost_request *r, uint32_t written);
/* Is the guest to be notified of what was given back since this was last asked? */
bool vring_notify_needed(struct vring *v);

/* Asks the guest to kick, or not to, when it makes something available. After asking, true: there
 * is something already. */
bool vring_kick_ask(struct vring *v);
void vring_kick_unask(struct vring *v);

/* Requests of an earlier life that were not submitted again yet. */
static inline unsigned vring_redo_left(const struct vring *v)
{
	return v->redo_count - v->redo_at;
}

#endif
