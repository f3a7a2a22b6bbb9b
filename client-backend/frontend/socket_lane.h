/* The lane's end of the socket front end: takes clients' requests from shared memory to the engine.
 */
#ifndef FALLOW_SOCKET_LANE_H
#define FALLOW_SOCKET_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"
#include "proto/socket_proto.h"

/*
 * One socket_lane per lane thread; one socket_attachment per (session, lane), made by the control
 *thread (socket_server does it), handed to the lane with socket_lane_attach() and back by
 *socket_lane_detach().
 *
 * The lane's loop:
 *	n = socket_lane_poll(l, budget);          -- as long as something is there
 *	idle for the idle time:
 *	if (socket_lane_prepare_sleep(l)) {       -- false: something came, poll again
 *		epoll_wait(epoll_fd ...);                -- the doorbells are in it
 *		socket_lane_wake(l);
 *	}
 * Requests in progress in the engine do not keep the lane awake: their completion comes through the
 *engine.
 */
struct socket_lane;
struct socket_attachment;

/* Why a session is closed. Part of the metrics' labels, see socket_violation_name(). */
enum socket_violation {
	SOCKET_VIOLATION_NONE,
	SOCKET_VIOLATION_SLOT_RANGE, /* a slot number past the end */
	SOCKET_VIOLATION_SLOT_BUSY,  /* a slot submitted again before it was done */
	SOCKET_VIOLATION_OP,	     /* no such operation */
	SOCKET_VIOLATION_RESERVED,   /* a reserved byte is not zero */
	SOCKET_VIOLATION_FRAME_LENGTH,
	SOCKET_VIOLATION_FRAME_TYPE,
	SOCKET_VIOLATION_FRAME_FIELD,
	SOCKET_VIOLATION_FRAME_ORDER, /* anything before hello, or a second one */
	SOCKET_VIOLATION_STALLED,     /* does not say hello or take its answers in time */
	SOCKET_VIOLATIONS
};
const char *socket_violation_name(enum socket_violation v);

/* Written by the lane, read by anyone. */
struct socket_lane_stats {
	stat_t puts, gets, flush_pages, flush_objects, nops;
	stat_t failed; /* answered with a status other than 0 and -ENOENT */
	stat_t refused_wrong_lane, refused_no_pool;
	stat_t violations[SOCKET_VIOLATIONS];
	stat_t cancelled; /* in progress when their session ended */
	stat_t futex_wakes, sleeps;
	stat_t sessions, in_progress; /* gauges */
	struct hist put_ns, get_ns;   /* taken from the ring to done */
	struct hist get_local_ns;     /* those gets that memory answered */
};

/* control. engine and epoll_fd, the lane's, which gets the doorbells, outlive it; max_sessions
 * attachments at a time. -ENOMEM. */
int socket_lane_new(unsigned lane, unsigned lanes, unsigned max_sessions, struct engine *engine,
	const struct env *env, int epoll_fd, struct socket_lane **out);
/* Every attachment was detached before. */
void socket_lane_delete(struct socket_lane *l);
const struct socket_lane_stats *socket_lane_stats(const struct socket_lane *l);

/* lane. 0; -ENOSPC too many; or errno of epoll_ctl. No allocation in user space. */
int socket_lane_attach(struct socket_lane *l, struct socket_attachment *a);
/* lane. Takes back the engine's requests of this session; from its return on nothing touches a. */
void socket_lane_detach(struct socket_lane *l, struct socket_attachment *a);
/* lane. Takes at most budget requests, all sessions in turn, and kicks the engine. Returns how
 * many. */
unsigned socket_lane_poll(struct socket_lane *l, unsigned budget);
/* lane. Tells clients to ring. False: a request is there already and the clients were told nothing.
 */
bool socket_lane_prepare_sleep(struct socket_lane *l);
/* lane. After prepare_sleep() said true and the sleep ended, for whatever reason. */
void socket_lane_wake(struct socket_lane *l);

/* The pools that a session may use; written by the control thread, read by the lanes. */
struct socket_grants {
	_Atomic uint32_t id[ENGINE_MAX_POOLS]; /* by row (id % ENGINE_MAX_POOLS); 0: none */
};

struct socket_attachment_config {
	struct socket_lane_memory
		*memory; /* the lane's block, mapped; stays mapped until after detach */
	unsigned slots;
	int doorbell_fd;  /* eventfd shared with the client; owned by the caller, open until after
			     detach */
	int violation_fd; /* eventfd of the control thread, nonblocking: rung after a violation */
	const struct socket_grants *grants;
};

/* control. Allocates all that the lane will need. */
int socket_attachment_new(
	const struct socket_attachment_config *cfg, struct socket_attachment **out);
/* control, after detach (or when it was never attached). */
void socket_attachment_delete(struct socket_attachment *a);
/* Any thread. */
enum socket_violation socket_attachment_violation(const struct socket_attachment *a);
uint64_t socket_attachment_requests(const struct socket_attachment *a);

#endif
