/* The bounded queue of ring.h: each cell carries the turn in which it may be written or read. */
#include "lib/core/ring.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * After D. Vyukov's bounded queue. turn == position: free for the producer that claims the
 * position; turn == position + 1: written, the consumer may read it. The read sets it to position +
 * capacity.
 */
struct cell {
	_Atomic uint64_t turn;
	unsigned char message[];
};

static struct cell *cell_at(const struct ring *r, uint64_t position)
{
	return (struct cell *)(void *)(r->cells + (size_t)(position & r->mask) * r->cell_bytes);
}

int ring_init(struct ring *r, uint32_t capacity, uint32_t message_bytes)
{
	memset(r, 0, sizeof(*r));
	r->event_fd = -1;
	if (capacity < 1 || capacity > 1u << 24 || message_bytes < 1 || message_bytes > 1u << 16)
		return -EINVAL;
	uint32_t cells = 2;
	while (cells < capacity)
		cells <<= 1;
	r->mask = cells - 1;
	r->message_bytes = message_bytes;
	r->cell_bytes = (uint32_t)((sizeof(struct cell) + message_bytes + 7) & ~7u);
	r->cells = calloc(cells, r->cell_bytes);
	if (!r->cells)
		return -ENOMEM;
	r->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->event_fd < 0) {
		int error = -errno;
		free(r->cells);
		r->cells = NULL;
		return error;
	}
	for (uint32_t i = 0; i < cells; i++)
		atomic_init(&cell_at(r, i)->turn, i);
	return 0;
}

void ring_fini(struct ring *r)
{
	if (r->event_fd >= 0)
		close(r->event_fd);
	free(r->cells);
	r->event_fd = -1;
	r->cells = NULL;
}

void ring_wake(struct ring *r)
{
	/* Sequentially consistent, as in ring_sleep(): of "message written" and "going to sleep"
	 * at least one side sees the other's. */
	if (!atomic_load(&r->sleeping) || !atomic_exchange(&r->sleeping, 0))
		return;
	uint64_t one = 1;
	/* Fails only with EAGAIN, when the counter is full: then the fd is readable anyhow. */
	ssize_t n = write(r->event_fd, &one, sizeof(one));
	(void)n;
}

int ring_push(struct ring *r, const void *message)
{
	uint64_t position = atomic_load_explicit(&r->tail, memory_order_relaxed);
	struct cell *c;

	for (;;) {
		c = cell_at(r, position);
		uint64_t turn = atomic_load_explicit(&c->turn, memory_order_acquire);
		if (turn == position) {
			if (atomic_compare_exchange_weak_explicit(&r->tail, &position, position + 1,
				    memory_order_relaxed, memory_order_relaxed))
				break;
		} else if (turn < position) {
			atomic_fetch_add_explicit(&r->refused, 1, memory_order_relaxed);
			return -ENOSPC;
		} else {
			position = atomic_load_explicit(&r->tail, memory_order_relaxed);
		}
	}
	memcpy(c->message, message, r->message_bytes);
	atomic_store(&c->turn, position + 1);
	ring_wake(r);
	return 0;
}

bool ring_pop(struct ring *r, void *message)
{
	struct cell *c = cell_at(r, r->head);

	if (atomic_load_explicit(&c->turn, memory_order_acquire) != r->head + 1)
		return false;
	memcpy(message, c->message, r->message_bytes);
	atomic_store_explicit(&c->turn, r->head + r->mask + 1, memory_order_release);
	r->head++;
	return true;
}

bool ring_sleep(struct ring *r)
{
	atomic_store(&r->sleeping, 1);
	if (atomic_load(&cell_at(r, r->head)->turn) != r->head + 1)
		return true;
	atomic_store(&r->sleeping, 0);
	return false;
}

void ring_awake(struct ring *r)
{
	uint64_t count;

	atomic_store(&r->sleeping, 0);
	/* Always, for a producer may have signalled after an earlier ring_awake(). EAGAIN: nothing.
	 */
	ssize_t n = read(r->event_fd, &count, sizeof(count));
	(void)n;
}
