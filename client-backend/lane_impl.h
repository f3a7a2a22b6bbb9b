/* The inside of a lane, shared by its life (lane.c) and its loop (lane_loop.c). */
#ifndef FALLOW_BACKEND_LANE_IMPL_H
#define FALLOW_BACKEND_LANE_IMPL_H

#include <pthread.h>

#include "client-backend/frontend/nbd_lane.h"
#include "client-backend/frontend/vhost_lane.h"
#include "client-backend/lane.h"
#include "lib/core/env.h"

#define LANE_TRANSPORTS 2u /* tcp, verbs */

struct lane_transport {
	const struct transport_ops *ops;
	struct transport *t; /* NULL: not here */
};

/* A message that found the ring full. */
struct lane_backlog {
	struct lane_msg m;
	struct lane_backlog *next;
};

struct lane {
	struct lane_config cfg;
	struct env env;
	struct engine *engine;
	struct tier_remote *remote;
	struct tier_disk *disk;
	struct socket_lane *sockets;
	struct vhost_lane *guests;
	struct nbd_lane *nbd;
	struct disk_lane *disks;
	struct lane_transport transport[LANE_TRANSPORTS];
	struct ring inbox;
	struct ring *replies;
	int epoll_fd;
	pthread_t thread;
	bool started;

	/* control thread only */
	struct lane_backlog *backlog, **backlog_end;

	/* lane thread only */
	bool stopping;
	bool io_started;   /* transfers wait for a kick */
	bool short_told;   /* that promised room is short */
	bool donors_dirty; /* what the engine was told of donors may be wrong */
	struct {
		bool up, suspect; /* as the control thread says */
		bool told_up, told_suspect, told;
	} donor[ENGINE_MAX_DONORS];
	uint64_t tick_ns; /* when the engine wants its tick */
	uint64_t work_ns; /* when engine_work() was last called */
	uint64_t
		publish_ns; /* when usage is to be copied out; UINT64_MAX: nothing happened since */

	/* any thread reads */
	struct lane_stats stats;
	struct lane_usage usage;
};

extern const struct engine_ops lane_engine_ops;	   /* ctx: the lane */
extern const struct vhost_lane_ops lane_vhost_ops; /* ctx: the lane */
extern const struct nbd_lane_ops lane_nbd_ops;	   /* ctx: the lane */
void lane_link_broken(
	void *ctx, unsigned donor, enum tier_remote_channel channel, struct transport_conn *conn);
void *lane_main(void *arg);
void lane_message(struct lane *l, const struct lane_msg *m);
void lane_reply(struct lane *l, struct lane_reply *r);
void lane_donors_tell(struct lane *l);

#endif
