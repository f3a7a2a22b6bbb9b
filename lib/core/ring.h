/* A bounded queue of fixed-size messages from any thread to one, with an eventfd for a sleeping
 * reader. */
#ifndef FALLOW_CORE_RING_H
#define FALLOW_CORE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Any number of producers, one consumer, no lock, no allocation after ring_init(). Messages of one
 * producer arrive in order. No system call is made while the consumer is awake:
 *
 *	for (;;) {
 *		while (ring_pop(r, &msg))
 *			handle(&msg);
 *		if (ring_sleep(r)) {          // nothing there: from now on a push signals the fd
 *			poll(ring_fd(r), ...);
 *			ring_awake(r);
 *		}
 *	}
 *
 * A consumer on an event loop calls ring_sleep() at the end of its callback (again from the top
 *when it returns false) and ring_awake() at its start.
 */
struct ring {
	/* fixed at init */
	uint32_t mask;
	uint32_t message_bytes;
	uint32_t cell_bytes;
	int event_fd;
	unsigned char *cells;
	char pad0[64];	       /* padding, not alignas: a ring may lie in memory from malloc */
	_Atomic uint64_t tail; /* next cell to claim; producers */
	char pad1[64];
	uint64_t head; /* next cell to read; consumer only */
	char pad2[64];
	_Atomic uint32_t sleeping; /* 1: the consumer waits for the fd */
	_Atomic uint64_t refused;  /* pushes that found the ring full */
};

/* capacity: messages, rounded up to a power of two. May allocate. 0, -EINVAL, -ENOMEM, -EMFILE...
 */
int ring_init(struct ring *r, uint32_t capacity, uint32_t message_bytes);
/* No other thread uses the ring any more. Messages still in it are forgotten. */
void ring_fini(struct ring *r);

/* Any thread; never blocks. Copies the message in. 0; -ENOSPC when full (counted in refused). */
int ring_push(struct ring *r, const void *message);
/* Consumer; copies the oldest message out. false: nothing there. */
bool ring_pop(struct ring *r, void *message);

/* Consumer: asks for the fd to be signalled by the next push. false: a message is there, do not
 * sleep. */
bool ring_sleep(struct ring *r);
/* Consumer: back from sleep, for whatever reason; empties the fd. */
void ring_awake(struct ring *r);
/* Any thread: wakes a sleeping consumer without a message. */
void ring_wake(struct ring *r);
/* The descriptor to wait on for reading; the ring's own. */
static inline int ring_fd(const struct ring *r)
{
	return r->event_fd;
}

#endif
