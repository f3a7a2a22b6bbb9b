/* The lane's end of the vhost-user front end: takes guests' requests from their rings to the
 * devices.
 */
#ifndef FALLOW_VHOST_LANE_H
#define FALLOW_VHOST_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/frontend/vhost_device.h"
#include "client-backend/frontend/vring.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * One vhost_lane per lane thread; one vhost_queue per ring that runs, made by the control thread
 * (vhost_session does it), handed to the lane with vhost_lane_attach() and given back, drained,
 *some time after vhost_lane_detach().
 *
 * The lane's loop:
 *	n = vhost_lane_poll(l, budget);          -- as long as something is there
 *	... whatever completes requests ...
 *	vhost_lane_flush(l);                     -- at the end of each round: notifies the guests
 *	idle for the idle time:
 *	if (vhost_lane_prepare_sleep(l)) {       -- false: something came, go on
 *		epoll_wait(epoll_fd ...);                -- the kicks are in it
 *		vhost_lane_wake(l);
 *	}
 * Requests in progress do not keep the lane awake: their completion comes through the device.
 */
struct vhost_lane;
struct vhost_queue;

/* Written by the lane, read by anyone. */
struct vhost_lane_stats {
	stat_t requests, done;
	stat_t redone; /* submitted again after a crash; part of requests */
	stat_t faults[VRING_FAULTS];
	stat_t notifications, sleeps;
	stat_t queues, in_progress; /* gauges */
};

#define VHOST_LANE_MAX_QUEUES 1024u

struct vhost_lane_ops {
	/* lane. The drained queue of vhost_lane_detach(): nothing touches it any more. token: what
	 * was given there. */
	void (*detached)(void *ctx, struct vhost_queue *q, void *token);
};

/* control. epoll_fd: the lane's, gets the kicks; outlives it. -ENOMEM. */
int vhost_lane_new(unsigned lane, const struct vhost_lane_ops *ops, void *ctx, int epoll_fd,
	struct vhost_lane **out);
/* Every queue was given back before. */
void vhost_lane_delete(struct vhost_lane *l);
const struct vhost_lane_stats *vhost_lane_stats(const struct vhost_lane *l);

/* lane. 0; -ENOSPC too many; or errno of epoll_ctl. No allocation in user space. */
int vhost_lane_attach(struct vhost_lane *l, struct vhost_queue *q);
/* lane. Takes over what vhost_queue_set_next() prepared. 0, or errno of epoll_ctl: the kicks of
 * this queue are lost. */
int vhost_lane_update(struct vhost_lane *l, struct vhost_queue *q);
/*
 * lane. Takes no more requests from the ring, but finishes those that were taken, in this life and
 * the one before; then ops->detached(), from a later vhost_lane_flush() or prepare_sleep(). That
 * takes no longer than the device may take for a request.
 */
void vhost_lane_detach(struct vhost_lane *l, struct vhost_queue *q, void *token);
/* lane. Takes at most budget requests, all queues in turn, and kicks their devices. How many. */
unsigned vhost_lane_poll(struct vhost_lane *l, unsigned budget);
/* lane. */
void vhost_lane_flush(struct vhost_lane *l);
/* lane. Flushes, and asks guests to kick. False: a request is there already, nobody need kick. */
bool vhost_lane_prepare_sleep(struct vhost_lane *l);
/* lane. After prepare_sleep() said true and the sleep ended, for whatever reason. */
void vhost_lane_wake(struct vhost_lane *l);

/* What may change while a queue runs. The descriptors are eventfds of the front end, owned by the
 * caller, open until the queue was given back or an update took others. */
struct vhost_queue_setup {
	struct vring_place place;
	int kick_fd;
	int call_fd; /* nonblocking; -1: nobody to notify */
};

struct vhost_queue_config {
	const struct vhost_device_ops *ops;
	void *dev;
	struct vring_config ring;
	struct vhost_queue_setup setup;
	int fault_fd; /* eventfd of the control thread, nonblocking: rung after a fault */
};

/* control. Allocates all that the lane will need. -ENOMEM, and the errors of vring_init(). */
int vhost_queue_new(const struct vhost_queue_config *cfg, struct vhost_queue **out);
/* control, after it was given back (or when it was never attached). */
void vhost_queue_delete(struct vhost_queue *q);
/* control. For the next vhost_lane_update(); not again before that has answered. */
void vhost_queue_set_next(struct vhost_queue *q, const struct vhost_queue_setup *setup);
/* control, before attach or after it was given back: up to where the available ring was taken. */
uint16_t vhost_queue_base(const struct vhost_queue *q);
/* Any thread. A queue with a fault takes no more requests. */
enum vring_fault vhost_queue_fault(const struct vhost_queue *q);
uint64_t vhost_queue_requests(const struct vhost_queue *q);

#endif
