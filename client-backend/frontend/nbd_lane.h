/* The lane's end of the NBD front end: takes clients' commands from their connections to a disk. */
#ifndef FALLOW_NBD_LANE_H
#define FALLOW_NBD_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/frontend/blk.h"
#include "client-backend/frontend/nbd_hello.h"
#include "lib/core/stats.h"

/*
 * One nbd_lane per lane thread; one nbd_conn per connection that has negotiated, made by the
 *control thread (nbd_server does it), handed to the lane with nbd_lane_attach() and given back,
 *with nothing in flight, some time after nbd_lane_detach(). A connection that ends by itself says
 *so and waits to be detached.
 *
 * Everything from the client is checked before it is used. Commands are answered in the order in
 * which they end. A connection has NBD_CONN_REQUESTS of them under way and NBD_CONN_DATA_BYTES for
 * their data; what finds neither stays in the socket, which is not read meanwhile. A client that
 * does not take its answers keeps these, and nothing of anybody else's.
 *
 * The lane's loop, as for vhost_lane:
 *	n = nbd_lane_poll(l, budget);            -- as long as something is there
 *	... whatever completes requests ...
 *	nbd_lane_flush(l);                       -- at the end of each round: sends answers
 *	if (nbd_lane_prepare_sleep(l))           -- false: something is there already
 *		epoll_wait(... nbd_lane_event_fd(l) ...);
 */
#define NBD_CONN_REQUESTS   128u
#define NBD_CONN_DATA_BYTES (2u << 20)
#define NBD_MAX_BYTES	    (1u << 20) /* of a read or write */
#define NBD_LANE_MAX_CONNS  1024u

struct nbd_lane;
struct nbd_conn;

/* Written by the lane, read by anyone. */
struct nbd_lane_stats {
	stat_t requests, replies;  /* taken; sent */
	stat_t receives, sends;	   /* system calls that moved something */
	stat_t stalls;		   /* a command found no room: the client waits for its answers */
	stat_t conns, in_progress; /* gauges */
};

struct nbd_lane_ops {
	/* lane. The connection of nbd_lane_detach(): nothing touches it any more. token: what was
	 * given there. */
	void (*detached)(void *ctx, struct nbd_conn *c, void *token);
};

/* control. -ENOMEM, or errno of epoll_create1. */
int nbd_lane_new(unsigned lane, const struct nbd_lane_ops *ops, void *ctx, struct nbd_lane **out);
/* Every connection was given back before. */
void nbd_lane_delete(struct nbd_lane *l);
const struct nbd_lane_stats *nbd_lane_stats(const struct nbd_lane *l);

/* lane. 0; -ENOSPC too many; or errno of epoll_ctl. No allocation in user space. */
int nbd_lane_attach(struct nbd_lane *l, struct nbd_conn *c);
/*
 * lane. Takes no more commands, but finishes those that were taken, and sends what the client takes
 * without waiting; then ops->detached(), from a later nbd_lane_flush(). That takes no longer than
 * the disk may take for a request.
 */
void nbd_lane_detach(struct nbd_lane *l, struct nbd_conn *c, void *token);
/* lane. Takes at most about budget commands, all connections in turn, and kicks their disks. How
 * much it did. */
unsigned nbd_lane_poll(struct nbd_lane *l, unsigned budget);
/* lane. */
void nbd_lane_flush(struct nbd_lane *l);
/* lane. Flushes. False: there is work already. */
bool nbd_lane_prepare_sleep(struct nbd_lane *l);
/* Readable while a client has sent something, or takes what it did not before; the same for the
 * life of l. */
int nbd_lane_event_fd(const struct nbd_lane *l);

/* control. fd: of the connection, nonblocking; over_fd: an eventfd of the control thread,
 * nonblocking, rung when the connection has ended by itself; both stay the caller's, open as long
 * as c. Allocates all that the lane will need. -ENOMEM. */
int nbd_conn_new(struct blk *blk, int fd, int over_fd, struct nbd_conn **out);
/* control, after it was given back (or when it was never attached). */
void nbd_conn_delete(struct nbd_conn *c);
/* Any thread. True: it has ended by itself, *why says whether it did wrong. */
bool nbd_conn_over(const struct nbd_conn *c, enum nbd_violation *why);
uint64_t nbd_conn_requests(const struct nbd_conn *c);

#endif
