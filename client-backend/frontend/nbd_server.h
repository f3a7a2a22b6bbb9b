/* A disk served by NBD: the control thread's end, its listeners, the negotiations and its figures.
 */
#ifndef FALLOW_NBD_SERVER_H
#define FALLOW_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client-backend/call.h"
#include "client-backend/frontend/nbd_lane.h"
#include "lib/core/env.h"

struct event_base;
struct nbd_server;

/*
 * One per disk, on a unix socket and, where it is told so, on a TCP address. A connection
 * negotiates here, within NBD_HELLO_MS, and is then served by one lane: that of this disk's with
 * the fewest. Several connections of one client, or of several, see the same disk; who uses it
 * together must agree among themselves, as with any disk.
 */
#define NBD_MAX_CONNS 64u    /* of one disk */
#define NBD_HELLO_MS  10000u /* for a negotiation */

struct nbd_server_config {
	const char *name;   /* of the export; copied; at most 63 bytes */
	const char *path;   /* of the listening unix socket; copied; at most 107 bytes */
	mode_t mode;	    /* of the socket file, e.g. 0660 */
	const char *listen; /* numeric address and port to listen on, too; "": none */
	unsigned max_conns; /* at a time, 1..NBD_MAX_CONNS; others are closed at once */
	unsigned lanes;
	unsigned first_lane; /* where the first connection goes */
};

/* nbd_lane_attach(c), _detach(c) on the lane's thread; then call->done(status), for detach when the
 * connection was given back, which must not fail. A lane gets them in the order given. Control
 * thread. */
struct nbd_server_ops {
	void (*lane_attach)(
		void *ctx, unsigned lane, struct nbd_conn *c, struct backend_call *call);
	void (*lane_detach)(
		void *ctx, unsigned lane, struct nbd_conn *c, struct backend_call *call);
};

/* Written by the control thread, read by anyone. */
struct nbd_server_stats {
	stat_t accepted, refused_busy, accept_errors;
	stat_t violations[NBD_VIOLATIONS];
	stat_t connected; /* gauge: connections that have negotiated */
};

/* Binds and listens; the errors are those of listener_unix_start() and listener_tcp_start(),
 * -EINVAL, -ENOMEM. err gets one sentence on failure. ops and blk outlive it. */
int nbd_server_new(const struct nbd_server_config *cfg, struct event_base *base,
	const struct env *env, struct blk *blk, const struct nbd_server_ops *ops, void *ctx,
	struct nbd_server **out, char *err, size_t err_bytes);
/* Stops listening, removes the socket file, finishes what is in flight and closes the connections;
 * done() when the lanes have let go. */
void nbd_server_stop(struct nbd_server *s, struct backend_call *call);
/* After stop's done(), or before the loop of its base ran. */
void nbd_server_delete(struct nbd_server *s);
const struct nbd_server_stats *nbd_server_stats(const struct nbd_server *s);

/* For status; *cursor starts at 0. False: no more. */
struct nbd_server_client {
	pid_t pid; /* 0: over TCP */
	unsigned lane;
	uint64_t since_ns;
	uint64_t requests;
};
bool nbd_server_next(const struct nbd_server *s, unsigned *cursor, struct nbd_server_client *out);
/* The TCP port; 0: none. */
uint16_t nbd_server_port(const struct nbd_server *s);

#endif
