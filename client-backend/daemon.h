/* fallowd's control thread: everything it owns, and the steps that its files share. */
#ifndef FALLOW_BACKEND_DAEMON_H
#define FALLOW_BACKEND_DAEMON_H

#include <event2/event.h>

#include "client-backend/accounts.h"
#include "client-backend/cluster/cluster.h"
#include "client-backend/config.h"
#include "client-backend/disks.h"
#include "client-backend/frontend/socket_server.h"
#include "client-backend/identity.h"
#include "client-backend/lane.h"
#include "client-backend/pools.h"
#include "client-backend/reserves.h"
#include "lib/control/session.h"
#include "lib/http/http.h"

struct donors;
struct disk_share;

struct daemon {
	struct fallowd_config cfg;
	const char *config_file; /* NULL: none was given */
	bool discard_arenas;

	struct event_base *base;
	struct identity identity;
	struct engine_config engine; /* of each lane */
	uint64_t max_lease_bytes;
	uint64_t start_ns;

	struct ring replies;
	struct event *replies_event, *flush_event;
	struct lane *lane[FALLOWD_MAX_LANES];
	_Atomic uint64_t
		want_since_ns[FALLOWD_MAX_LANES]; /* written by the lanes, for each other */
	unsigned lanes;				  /* opened */
	unsigned lanes_started, lanes_stopped;

	struct accounts *accounts;
	struct pools *pools;
	struct reserves *reserves; /* hard grants */
	struct donors *donors;
	struct socket_server *sockets;
	bool sockets_stopped;
	struct backend_call sockets_stop_call;
	struct disks *disks;
	struct disk_share *disk_shares; /* of cached disks that are served */
	struct event *disks_event;
	bool disks_stopped;
	struct backend_call disks_stop_call;
	struct http_server *http;
	uint16_t http_port;

	struct event *signal_event[4];
	struct event *watchdog_event;
	struct backend_call ping_call;
	bool pinging; /* unanswered */
	bool stuck;   /* a lane does not answer: the process must end without it */
	uint64_t reloads, reloads_failed;
	bool stopping;
};

/* control.c. Starts everything, serves until SIGTERM, ends everything. 0 or a negative errno; the
 * log says why. */
int daemon_run(struct daemon *d);

/* calls.c: to the lanes */
void lanes_post(struct daemon *d, const struct lane_msg *m); /* to all */
void lane_send(struct daemon *d, unsigned lane, const struct lane_msg *m);
/* The same message to all; call->done(first error but `harmless`, sum of values) when all have
 * answered. */
void lanes_call(
	struct daemon *d, const struct lane_msg *m, int harmless, struct backend_call *call);
int replies_start(struct daemon *d);
void replies_stop(struct daemon *d);
/* Handles what the lanes have sent so far. */
void replies_drain(struct daemon *d);

/* store.c: arenas, lanes and what is found in them */
int store_open(struct daemon *d);
void store_close(struct daemon *d);
void store_engine_config(const struct daemon *d, struct engine_config *e);

/* frontend_ops.c */
extern const struct pools_ops daemon_pools_ops;
extern const struct reserves_ops daemon_reserves_ops;
/* pools_config.rights: what the list of clients says. */
int daemon_pools_rights(void *ctx, unsigned account, uint32_t flags, unsigned *max_pools);
extern const struct socket_server_ops daemon_socket_ops;

/* control.c: gives a socket file to the configured group. 0, or a negative errno after a log line.
 */
int daemon_socket_group_set(const struct fallowd_config *c, const char *path);

/* disk_ops.c; the end is control.c's */
int daemon_disks_start(struct daemon *d);

/* status.c, metrics.c, disk_http.c: HTTP; d is ctx */
extern const struct http_route daemon_routes[];
void metrics_handle(void *ctx, struct http_request *r);
void disks_handle(void *ctx, struct http_request *r);	  /* /v1/disks */
void disks_one_handle(void *ctx, struct http_request *r); /* /v1/disks/NAME */
struct metrics;
void disks_metrics(struct daemon *d, struct metrics *m);

/* reload.c */
void daemon_reload(struct daemon *d);

#endif
