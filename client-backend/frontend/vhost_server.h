/* A vhost-user device on a unix socket: the control thread's end, its listener and its figures. */
#ifndef FALLOW_VHOST_SERVER_H
#define FALLOW_VHOST_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client-backend/call.h"
#include "client-backend/frontend/vhost_device.h"
#include "client-backend/frontend/vhost_lane.h"
#include "lib/core/env.h"

struct event_base;
struct vhost_server;

/*
 * One per device. One front end (a QEMU) at a time is served. A second one may connect and tell all
 * about its guest, as the QEMU does that a guest migrates to; its rings may start when the first
 * has stopped all of its own (if the guest comes back, the other way round), or has gone. Who
 * starts rings while another's run is closed, and so is a third one at once; both are counted. A
 * message that is wrong ends the front end's session, counted with its reason; the device listens
 * on. A ring that is wrong is not served any further until the guest resets its device; the session
 * and the other rings go on.
 */
struct vhost_server_config {
	const char *name; /* of the device, for the log; copied */
	const char *path; /* of the listening socket; copied; at most 107 bytes */
	mode_t mode;	  /* of the socket file, e.g. 0660 */
	unsigned queues;  /* offered, 1..VHOST_MAX_QUEUES */
	unsigned lanes;
	unsigned first_lane; /* ring n runs on lane (first_lane + n) % lanes */
	/* How long what a ring has in flight may take when it is stopped; after that its session is
	 * ended. More than the engine's get_timeout and put_wait together. */
	uint32_t drain_timeout_ms;
	/* Guests' memory is registered there; its name is filled in. ops NULL: it is not. */
	struct vhost_pinner pinner;
};

/*
 * vhost_lane_attach(q), _update(q), _detach(q) on the lane's thread; then call->done(status), for
 * detach when the queue was given back, which must not fail. A lane gets them in the order given.
 * Control thread.
 */
struct vhost_server_ops {
	void (*lane_attach)(
		void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call);
	void (*lane_update)(
		void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call);
	void (*lane_detach)(
		void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call);
};

/* Why a session was ended. Part of the metrics' labels, see vhost_violation_name(). */
enum vhost_violation {
	VHOST_VIOLATION_NONE,
	VHOST_VIOLATION_TYPE,	   /* no such message, or a feature that was not agreed on */
	VHOST_VIOLATION_FLAGS,	   /* another version, or an answer where there was no question */
	VHOST_VIOLATION_LENGTH,	   /* the payload is too short or too long */
	VHOST_VIOLATION_FDS,	   /* the wrong number of descriptors, or of the wrong kind */
	VHOST_VIOLATION_FEATURES,  /* bits that were not offered */
	VHOST_VIOLATION_RING,	   /* a ring's number, length or addresses */
	VHOST_VIOLATION_MEMORY,	   /* a memory region that cannot be */
	VHOST_VIOLATION_LOG,	   /* a dirty log that cannot be */
	VHOST_VIOLATION_INFLIGHT,  /* an in-flight region that cannot be */
	VHOST_VIOLATION_RESOURCE,  /* we are out of something */
	VHOST_VIOLATION_STALLED,   /* does not take its answers */
	VHOST_VIOLATION_LATE,	   /* ours: what was in flight took too long */
	VHOST_VIOLATION_TRUNCATED, /* the guest's memory was cut short under us */
	VHOST_VIOLATION_BUSY,	   /* starts rings while another front end's run */
	VHOST_VIOLATIONS
};
const char *vhost_violation_name(enum vhost_violation v);

/* Written by the control thread, read by anyone. */
struct vhost_server_stats {
	stat_t accepted, refused_busy, accept_errors;
	stat_t messages, ended; /* ended: sessions, for whatever reason */
	stat_t config_refused;
	stat_t violations[VHOST_VIOLATIONS];
	stat_t faults[VRING_FAULTS]; /* of this device's rings */
	stat_t connected;	     /* gauge: front ends */
};

/*
 * Binds and listens; the errors are those of listener_unix_start(), -EINVAL, -ENOMEM. err gets one
 * sentence on failure. ops, dev_ops and dev outlive it.
 */
int vhost_server_new(const struct vhost_server_config *cfg, struct event_base *base,
	const struct env *env, const struct vhost_device_ops *dev_ops, void *dev,
	const struct vhost_server_ops *ops, void *ctx, struct vhost_server **out, char *err,
	size_t err_bytes);
/*
 * Stops listening, removes the socket file, finishes what is in flight and closes the session; the
 * front end may come back to whoever listens there next. done() when the lanes have let go.
 */
void vhost_server_stop(struct vhost_server *s, struct backend_call *call);
/* After stop's done(). */
void vhost_server_delete(struct vhost_server *s);
const struct vhost_server_stats *vhost_server_stats(const struct vhost_server *s);

/* For status: the front end whose rings run, else any. */
struct vhost_server_info {
	bool connected;
	pid_t pid;
	uint64_t since_ns;
	uint64_t features;     /* agreed on */
	unsigned rings;	       /* running */
	uint64_t requests;     /* of this session */
	uint64_t memory_bytes; /* the guest's, mapped */
	uint64_t pinned_bytes; /* of those, registered for RDMA */
};
void vhost_server_info(const struct vhost_server *s, struct vhost_server_info *out);

#endif
