/* A lane: the thread that owns one engine and everything a page passes through. */
#ifndef FALLOW_BACKEND_LANE_H
#define FALLOW_BACKEND_LANE_H

#include "client-backend/cluster/cluster.h"
#include "client-backend/frontend/disk_lane.h"
#include "client-backend/lane_msg.h"
#include "client-backend/tier/disk.h"
#include "lib/core/ring.h"

struct lane;

struct lane_config {
	unsigned lane, lanes;
	int cpu; /* -1: not pinned */
	uint64_t idle_poll_ns, get_poll_ns;
	const char *arena_path;
	const char *bounce_path; /* of disk_lane_new() */
	struct engine_config engine;
	const char *disk_path; /* NULL: no disk tier */
	bool disk_direct;
	uint32_t disk_depth;
	uint64_t disk_timeout_ns;
	uint64_t io_timeout_ns;
	uint32_t depth;		  /* transfers in flight on one connection */
	unsigned donors;	  /* of the configuration */
	bool verbs, verbs_needed; /* try RDMA; its absence is an error */
	const char *verbs_device; /* "": any */
	unsigned max_sessions;
};

/* Written by the lane, read by anyone. */
struct lane_stats {
	stat_t loops, sleeps, wakes, messages;
	stat_t replies_lost;	/* the control thread did not read for REPLY_WAIT */
	stat_t io_refused_down; /* transfers that found no connection */
};

/* What the engine tells on its own thread only, copied out by the lane: at most 4 times a second.
 */
struct lane_usage {
	struct {
		stat_t local_bytes, pages;
	} account[ENGINE_MAX_ACCOUNTS];
	struct {
		stat_t segments, live_bytes, connected;
	} donor[ENGINE_MAX_DONORS];
	stat_t pool_pages[ENGINE_MAX_POOLS]; /* by row */
};

/*
 * Control thread, before the lane's thread exists: opens and recovers the arena, the tiers and the
 * transports. replies: struct lane_reply, read by the control thread. May block and allocates. err
 * gets one sentence; the errors are those of engine_open() and tier_disk_open(), -ENODEV no RDMA
 * device.
 */
int lane_open(const struct lane_config *cfg, struct ring *replies, struct lane **out, char *err,
	size_t err_bytes);
/* After lane_stopped(), or when it was never started; its connections were destroyed before. */
void lane_close(struct lane *l);

/* Control thread. What disks need of this lane; the lanes' must be made known to each other
 * (disk_lane_peers_set()) before lane_start(). */
struct disk_lane *lane_disks(struct lane *l);
/* Control thread. The engine is the control thread's until lane_start(). */
struct engine *lane_engine(struct lane *l);
int lane_start(struct lane *l);
/* After LANE_REPLY_STOPPED: joins the thread. */
void lane_join(struct lane *l);
/* Never blocks: what does not fit the ring waits in a queue that lane_flush() empties, in order. */
int lane_post(struct lane *l, const struct lane_msg *m);
/* True: more is waiting, call again soon. */
bool lane_flush(struct lane *l);

/* For connect(); NULL: no such transport here. Control thread. */
struct transport *lane_transport(
	struct lane *l, enum cluster_transport t, const struct transport_ops **ops);

/* Any thread. */
const struct lane_stats *lane_stats(const struct lane *l);
const struct lane_usage *lane_usage(const struct lane *l);
const struct engine_stats *lane_engine_stats(const struct lane *l);
const struct socket_lane_stats *lane_socket_stats(const struct lane *l);
const struct vhost_lane_stats *lane_guest_stats(const struct lane *l);
const struct nbd_lane_stats *lane_nbd_stats(const struct lane *l);
const struct tier_disk_stats *lane_disk_stats(const struct lane *l); /* NULL: no disk tier */
const struct tier_remote_donor_stats *lane_donor_stats(const struct lane *l, unsigned donor);
bool lane_disk_direct(const struct lane *l);

#endif
