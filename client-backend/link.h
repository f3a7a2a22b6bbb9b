/* One data connection of a lane to a donor: establishing it, handing it over, making it anew. */
#ifndef FALLOW_BACKEND_LINK_H
#define FALLOW_BACKEND_LINK_H

#include "client-backend/daemon.h"

enum link_state {
	LINK_IDLE,	 /* not wanted */
	LINK_WAITING,	 /* backing off */
	LINK_CONNECTING, /* the control thread drives it */
	LINK_LANE,	 /* the lane has it */
	LINK_LEAVING,	 /* asked back from the lane */
};

struct link {
	struct daemon *d;
	struct donors_stats *stats;
	unsigned lane, donor;
	enum tier_remote_channel channel;
	enum link_state state; /* changed by link.c only */
	bool wanted;
	enum cluster_transport kind;
	struct transport_peer peer;
	const struct transport_ops *ops;
	struct transport_conn *conn;
	struct event *event, *timer;
	int event_fd;
	uint64_t backoff_ns, deadline_ns;
};

/* Control thread, all of it; none blocks. */
int link_init(struct link *l, struct daemon *d, struct donors_stats *stats, unsigned lane,
	unsigned donor, enum tier_remote_channel channel);
void link_fini(struct link *l); /* LINK_IDLE, or a link that was never opened */
/* Wanted from now on: connects, and again whenever it breaks, with back-off. */
void link_open(struct link *l, enum cluster_transport kind, const struct transport_peer *peer);
/* No longer wanted; LINK_IDLE once the lane gave it back. */
void link_close(struct link *l);
void link_broken(struct link *l, struct transport_conn *conn);	 /* the lane said so */
void link_detached(struct link *l, struct transport_conn *conn); /* the lane answered */

#endif
