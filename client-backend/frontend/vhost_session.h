/* One front end's connection to a device, from accept to the moment the lanes have let go of it. */
#ifndef FALLOW_VHOST_SESSION_H
#define FALLOW_VHOST_SESSION_H

#include <event2/event.h>
#include <sys/socket.h>

#include "client-backend/frontend/listener.h"
#include "client-backend/frontend/vhost_memory.h"
#include "client-backend/frontend/vhost_proto.h"
#include "client-backend/frontend/vhost_server.h"

/* For vhost_server.c, vhost_session.c and vhost_message.c only; all of it belongs to the control
 * thread. */

/*
 * A message goes through these in turn: the rings that it touches are stopped and drained; it is
 * applied; rings that can run now are started, those whose setup changed are told so; it is
 * answered. No other message is read meanwhile.
 */
enum vhost_phase {
	VHOST_PHASE_READING,
	VHOST_PHASE_STOPPING,
	VHOST_PHASE_STARTING,
	VHOST_PHASE_ENDING, /* rings are stopped for good */
};

struct vhost_session_ring {
	struct backend_call call; /* to its lane */
	struct vhost_session *session;
	unsigned index;
	uint16_t num, base;
	bool enabled;
	bool have_addr;
	struct vhost_wire_ring_addr addr;
	int kick_fd, call_fd, err_fd; /* -1: none */
	struct vhost_queue *queue;    /* while it runs */
	bool changed;		      /* the lane must be told */
	bool fault_seen;
};

struct vhost_session {
	struct vhost_server *server;
	int fd;
	struct event *read_event, *late_event;
	enum vhost_phase phase;
	bool ending;
	bool waiting;	  /* to start rings, for the other front end's to end */
	unsigned pending; /* answers of lanes */
	pid_t pid;
	uint64_t since_ns, requests; /* requests: of rings that ran before */

	struct vhost_header h;
	union vhost_wire_payload in;
	size_t got_bytes; /* of header and payload */
	int in_fd[VHOST_MESSAGE_FDS];
	unsigned in_fds;

	union vhost_wire_payload out;
	uint32_t out_bytes;
	int out_fd;   /* goes with the answer; -1: none */
	bool refused; /* REPLY_ACK says no, and the session goes on */

	uint64_t features, protocol;
	bool protocol_told;		/* by SET_PROTOCOL_FEATURES of this session */
	struct vhost_memory *memory;	/* NULL: none yet */
	struct vhost_log *log;		/* NULL: none */
	struct vhost_mapping *inflight; /* NULL: none */
	uint16_t inflight_queues, inflight_len;
	struct vhost_session_ring ring[VHOST_MAX_QUEUES];

	/* In use by lanes until they have answered. */
	struct vhost_memory *old_memory;
	struct vhost_log *old_log;
	int old_fd;
};

/* The guest's, and while it migrates to another QEMU on this host that one's, too. */
#define VHOST_FRONT_ENDS 2u

struct vhost_server {
	struct vhost_server_config cfg;
	char name[64];
	struct event_base *base;
	const struct env *env;
	const struct vhost_device_ops *dev_ops;
	void *dev;
	const struct vhost_server_ops *ops;
	void *ctx;
	struct listener listener;
	int fault_fd;
	struct event *fault_event, *ended_event;
	struct vhost_session *session[VHOST_FRONT_ENDS]; /* NULL: none */
	struct backend_call *stop_call;
	bool stopping;
	struct vhost_server_stats stats;
};

/* Takes over fd, which is nonblocking. -ENOMEM: fd is closed. */
int vhost_session_new(struct vhost_server *s, int fd, struct vhost_session **out);
/* Ends the session; it goes away when nothing of it is under way. May be called again. */
void vhost_session_end(struct vhost_session *ss);
/* The same, because of a violation that is counted and logged here. */
void vhost_session_violation(struct vhost_session *ss, enum vhost_violation why);
/* Its front end has gone, whether that was read from its socket yet or not. */
bool vhost_session_hungup(const struct vhost_session *ss);
/* Rings that run, or that a lane still has. */
unsigned vhost_session_rings(const struct vhost_session *ss);
/* After another session has gone: starts the rings that waited for that. */
void vhost_session_go_on(struct vhost_session *ss);
/* Looks for rings that a lane found broken. */
void vhost_session_faults(struct vhost_session *ss);

/* In vhost_message.c. */
/* What is wrong with the header alone. */
enum vhost_violation vhost_message_check_header(const struct vhost_session *ss);
/* What is wrong with a whole message, before anything is done for it. */
enum vhost_violation vhost_message_check(const struct vhost_session *ss);
/* The rings (bit per index) that must not run while the message is applied. */
uint32_t vhost_message_stops(const struct vhost_session *ss);
/* Does what a message says, with those rings stopped; prepares the answer. */
enum vhost_violation vhost_message_apply(struct vhost_session *ss);
/* The setup of a ring as it is now; false: its addresses are not in the guest's memory. */
bool vhost_ring_place(const struct vhost_session *ss, const struct vhost_session_ring *r,
	struct vring_place *out);
/* May this ring run? */
bool vhost_ring_ready(const struct vhost_session *ss, const struct vhost_session_ring *r);

/* In vhost_server.c: called as the session goes away. */
void vhost_server_session_ended(struct vhost_server *s, const struct vhost_session *ss);
/* Another session than ss that has rings; NULL: none. */
struct vhost_session *vhost_server_rival(struct vhost_server *s, const struct vhost_session *ss);

#endif
