/* The control thread's end of the socket front end: listener, sessions, control frames. */
#ifndef FALLOW_SOCKET_SERVER_H
#define FALLOW_SOCKET_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "client-backend/call.h"
#include "client-backend/frontend/socket_lane.h"
#include "client-backend/pools.h"
#include "lib/core/env.h"

struct event_base;
struct socket_server;

struct socket_server_config {
	const char *path;      /* of the listening socket; copied; at most 107 bytes */
	mode_t mode;	       /* of the socket file, e.g. 0660 */
	unsigned lanes;	       /* 1..SOCKET_MAX_LANES */
	unsigned slots;	       /* request slots per lane and session, 1..SOCKET_MAX_SLOTS */
	unsigned max_sessions; /* also what socket_lane_new() was given, or less */
	unsigned max_sessions_per_client; /* of one identity */
	uint32_t hello_timeout_ms;	  /* hello must come, and answers be taken, within this */
	uint32_t
		grace_ms; /* how long unnamed pools wait for their session after its socket broke */
	uint32_t request_timeout_ms; /* told to clients: longer without an answer means we are gone.
				      * More than the engine's get_timeout and put_wait together */
};

/* What the daemon does for the server. All on the control thread. */
struct socket_server_ops {
	/* Who is the peer, and who pays: fills identity ("uid:N") and *account. A negative errno
	 * refuses the client with it (-EACCES). */
	int (*client_identity)(void *ctx, const struct ucred *peer,
		char identity[ENGINE_NAME_BYTES], unsigned *account);
	/* socket_lane_attach(a), socket_lane_detach(a) on the lane's thread; then
	 * call->done(status). A lane gets them in the order given. lane_detach must not fail. */
	void (*lane_attach)(
		void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call);
	void (*lane_detach)(
		void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call);
	/* The quota of an account. */
	void (*account_usage)(
		void *ctx, unsigned account, uint64_t *used_pages, uint64_t *limit_pages);
};

struct socket_server_stats {
	stat_t accepted, hellos, resumed, byes, lost; /* lost: ended without goodbye */
	stat_t refused_full, refused_identity, refused_version, refused_memory, accept_errors;
	stat_t pool_opens, pool_destroys;
	stat_t violations[SOCKET_VIOLATIONS]; /* of frames and (counted once more here) of the
						 shared memory */
	stat_t grace_ended;
	stat_t sessions, connections, waiting; /* gauges; waiting: sessions in their grace */
};

/*
 * Binds and listens. A socket file that nobody answers on is replaced; one that somebody does:
 * -EADDRINUSE; a file that is no socket: -EEXIST. Sessions whose unnamed pools `pools` holds (after
 * a restart) get their grace from now on, so call it after pools_adopted(). err gets one sentence
 * on failure.
 */
int socket_server_new(const struct socket_server_config *cfg, struct event_base *base,
	const struct env *env, struct pools *pools, const struct socket_server_ops *ops, void *ctx,
	struct socket_server **out, char *err, size_t err_bytes);
/*
 * Stops listening, removes the socket file and closes every session (clients see -ESHUTDOWN; their
 * unnamed pools stay, for a restart). done() is called when the lanes have let go of all of them.
 */
void socket_server_stop(struct socket_server *s, struct backend_call *call);
/* After stop's done(). */
void socket_server_delete(struct socket_server *s);
const struct socket_server_stats *socket_server_stats(const struct socket_server *s);

/* For status. The pointers are valid until the next event. */
struct socket_session_info {
	uint64_t id;
	const char *identity, *program;
	unsigned account;
	pid_t pid;
	uint64_t since_ns, requests;
	unsigned pools;	     /* opened in this session */
	size_t memory_bytes; /* shared and private memory of the daemon for it */
};
/* Calls each() for every session that is up. */
void socket_server_sessions(const struct socket_server *s,
	void (*each)(void *arg, const struct socket_session_info *info), void *arg);

#endif
