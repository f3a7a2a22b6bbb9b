/* The lane's end of the vhost-user front end: takes guests' requests from their rings to the
 * devices.
 */
#include "client-backend/frontend/vhost_lane.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define QUANTUM 16u /* requests of one queue before it is the next one's turn */

/* One per descriptor: a chain is known by its first one. */
struct slot {
	struct vhost_queue *queue;
	bool busy; /* with the device */
	struct vhost_request request;
};

struct vhost_queue {
	struct vring ring;
	const struct vhost_device_ops *ops;
	void *dev;
	int kick_fd, call_fd, fault_fd;
	struct vhost_queue_setup next; /* control writes, lane takes over */
	struct vhost_lane *lane;       /* lane: while attached */
	unsigned in_flight;	       /* lane */
	bool stopping;		       /* lane */
	bool submitted;		       /* lane: since the device was last kicked */
	bool used;		       /* lane: since the guest was last notified */
	bool notify;		       /* lane: whatever the guest says */
	void *token;		       /* lane: of the detach */
	_Atomic uint32_t fault;	       /* lane writes, any reads */
	stat_t requests;	       /* lane writes, any reads */
	struct slot slot[];
};

struct vhost_lane {
	unsigned lane;
	const struct vhost_lane_ops *ops;
	void *ctx;
	int epoll_fd;
	unsigned count, turn;
	struct vhost_lane_stats stats;
	struct vhost_queue *queue[VHOST_LANE_MAX_QUEUES];
};

int vhost_lane_new(unsigned lane, const struct vhost_lane_ops *ops, void *ctx, int epoll_fd,
	struct vhost_lane **out)
{
	struct vhost_lane *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->lane = lane;
	l->ops = ops;
	l->ctx = ctx;
	l->epoll_fd = epoll_fd;
	*out = l;
	return 0;
}

void vhost_lane_delete(struct vhost_lane *l)
{
	if (!l)
		return;
	assert(l->count == 0);
	free(l);
}

const struct vhost_lane_stats *vhost_lane_stats(const struct vhost_lane *l)
{
	return &l->stats;
}

int vhost_queue_new(const struct vhost_queue_config *cfg, struct vhost_queue **out)
{
	size_t bytes = sizeof(struct vhost_queue) + cfg->ring.num * sizeof(struct slot);
	struct vhost_queue *q = malloc(bytes);
	if (!q)
		return -ENOMEM;
	/* Touched here, so that the lane causes no page fault. */
	memset(q, 0, bytes);
	int r = vring_init(&q->ring, &cfg->ring, &cfg->setup.place);
	if (r < 0) {
		free(q);
		return r;
	}
	q->ops = cfg->ops;
	q->dev = cfg->dev;
	q->kick_fd = cfg->setup.kick_fd;
	q->call_fd = cfg->setup.call_fd;
	q->fault_fd = cfg->fault_fd;
	for (unsigned i = 0; i < cfg->ring.num; i++)
		q->slot[i].queue = q;
	*out = q;
	return 0;
}

void vhost_queue_delete(struct vhost_queue *q)
{
	if (!q)
		return;
	assert(!q->lane && !q->in_flight);
	free(q);
}

void vhost_queue_set_next(struct vhost_queue *q, const struct vhost_queue_setup *setup)
{
	q->next = *setup;
}

uint16_t vhost_queue_base(const struct vhost_queue *q)
{
	return q->ring.last_avail;
}

enum vring_fault vhost_queue_fault(const struct vhost_queue *q)
{
	return atomic_load_explicit((_Atomic uint32_t *)&q->fault, memory_order_acquire);
}

uint64_t vhost_queue_requests(const struct vhost_queue *q)
{
	return stat_get(&q->requests);
}

/* Edge-triggered and never read: the front end shares the descriptor's flags and could make a read
 * of ours block. */
static int kick_add(struct vhost_lane *l, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static void kick_remove(struct vhost_lane *l, int fd)
{
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

int vhost_lane_attach(struct vhost_lane *l, struct vhost_queue *q)
{
	if (l->count == VHOST_LANE_MAX_QUEUES)
		return -ENOSPC;
	int r = kick_add(l, q->kick_fd);
	if (r < 0)
		return r;
	q->lane = l;
	l->queue[l->count++] = q;
	stat_set(&l->stats.queues, l->count);
	vring_kick_unask(&q->ring);
	/* Whoever served it before may have died between giving back and notifying. */
	q->notify = true;
	return 0;
}

int vhost_lane_update(struct vhost_lane *l, struct vhost_queue *q)
{
	int r = 0;

	assert(q->lane == l);
	vring_move(&q->ring, &q->next.place);
	if (q->next.kick_fd != q->kick_fd) {
		kick_remove(l, q->kick_fd);
		q->kick_fd = q->next.kick_fd;
		r = kick_add(l, q->kick_fd);
	}
	if (q->next.call_fd != q->call_fd) {
		q->call_fd = q->next.call_fd;
		q->notify = true; /* what was told to the old one may have gone unheard */
	}
	return r;
}

void vhost_lane_detach(struct vhost_lane *l, struct vhost_queue *q, void *token)
{
	assert(q->lane == l && !q->stopping);
	q->stopping = true;
	q->token = token;
}

static void fault(struct vhost_lane *l, struct vhost_queue *q, enum vring_fault why)
{
	uint64_t one = 1;

	stat_add(&l->stats.faults[why], 1);
	atomic_store_explicit(&q->fault, why, memory_order_release);
	/* Nonblocking; full means that the control thread was told already. */
	ssize_t n = write(q->fault_fd, &one, sizeof(one));
	(void)n;
}

void vhost_request_done(struct vhost_request *r, uint32_t written)
{
	struct slot *s = (struct slot *)((char *)r - offsetof(struct slot, request));
	struct vhost_queue *q = s->queue;
	struct vhost_lane *l = q->lane;

	assert(s->busy && written <= r->in_bytes);
	s->busy = false;
	q->in_flight--;
	q->used = true;
	stat_sub(&l->stats.in_progress, 1);
	stat_add(&l->stats.done, 1);
	vring_give(&q->ring, (uint16_t)(s - q->slot), r, written);
}

static unsigned queue_poll(struct vhost_lane *l, struct vhost_queue *q, unsigned budget)
{
	unsigned n = 0;

	while (n < budget && !q->fault) {
		uint16_t head;
		int r = vring_peek(&q->ring, !q->stopping, &head);
		if (!r)
			break;
		if (r > 0 && q->slot[head].busy)
			r = -VRING_FAULT_BUSY;
		if (r > 0)
			r = -(int)vring_chain(&q->ring, head, &q->slot[head].request);
		if (r < 0) {
			fault(l, q, (enum vring_fault) - r);
			break;
		}
		if (vring_redo_left(&q->ring))
			stat_add(&l->stats.redone, 1);
		vring_take(&q->ring, head);
		q->slot[head].busy = true;
		q->in_flight++;
		stat_add(&l->stats.in_progress, 1);
		n++;
		q->ops->submit(q->dev, l->lane, &q->slot[head].request);
	}
	if (n) {
		q->submitted = true;
		stat_add(&q->requests, n);
		stat_add(&l->stats.requests, n);
	}
	return n;
}

unsigned vhost_lane_poll(struct vhost_lane *l, unsigned budget)
{
	unsigned total = 0, idle = 0;

	while (total < budget && idle < l->count) {
		l->turn = l->turn + 1 < l->count ? l->turn + 1 : 0;
		unsigned left = budget - total;
		unsigned n = queue_poll(l, l->queue[l->turn], left < QUANTUM ? left : QUANTUM);
		total += n;
		idle = n ? 0 : idle + 1;
	}
	for (unsigned i = 0; total && i < l->count; i++) {
		struct vhost_queue *q = l->queue[i];

		if (q->submitted && q->ops->kick)
			q->ops->kick(q->dev, l->lane);
		q->submitted = false;
	}
	return total;
}

static void queue_notify(struct vhost_lane *l, struct vhost_queue *q)
{
	uint64_t one = 1;
	bool needed = q->used && vring_notify_needed(&q->ring);

	q->used = false;
	needed |= q->notify;
	if (!needed || q->call_fd < 0) {
		q->notify = needed; /* until there is somebody to tell */
		return;
	}
	q->notify = false;
	stat_add(&l->stats.notifications, 1);
	/* Nonblocking; full means that the guest was told already. */
	ssize_t n = write(q->call_fd, &one, sizeof(one));
	(void)n;
}

static bool queue_drained(const struct vhost_queue *q)
{
	return q->stopping && !q->in_flight && (q->fault || !vring_redo_left(&q->ring));
}

static void queue_end(struct vhost_lane *l, unsigned i)
{
	struct vhost_queue *q = l->queue[i];

	kick_remove(l, q->kick_fd);
	l->queue[i] = l->queue[--l->count];
	stat_set(&l->stats.queues, l->count);
	q->lane = NULL;
	l->ops->detached(l->ctx, q, q->token);
}

void vhost_lane_flush(struct vhost_lane *l)
{
	for (unsigned i = 0; i < l->count;) {
		struct vhost_queue *q = l->queue[i];

		if (q->used || (q->notify && q->call_fd >= 0))
			queue_notify(l, q);
		if (queue_drained(q))
			queue_end(l, i);
		else
			i++;
	}
}

static bool work_left(struct vhost_lane *l)
{
	bool found = false;

	for (unsigned i = 0; i < l->count; i++) {
		struct vhost_queue *q = l->queue[i];

		if (q->fault)
			continue;
		if (q->stopping)
			found |= vring_redo_left(&q->ring) > 0;
		else
			found |= vring_kick_ask(&q->ring);
	}
	return found;
}

static void kicks_unask(struct vhost_lane *l)
{
	for (unsigned i = 0; i < l->count; i++)
		if (!l->queue[i]->fault && !l->queue[i]->stopping)
			vring_kick_unask(&l->queue[i]->ring);
}

bool vhost_lane_prepare_sleep(struct vhost_lane *l)
{
	vhost_lane_flush(l);
	/*
	 * The guest writes its ring, then reads whether we want a kick; we write that we want one,
	 * then read the ring, with a full barrier between: one of the two sees the other.
	 */
	if (work_left(l)) {
		kicks_unask(l);
		return false;
	}
	stat_add(&l->stats.sleeps, 1);
	return true;
}

void vhost_lane_wake(struct vhost_lane *l)
{
	kicks_unask(l);
}
