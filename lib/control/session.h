/* Control connections over libevent: connecting, listening, framing, limits. */
#ifndef FALLOW_CONTROL_SESSION_H
#define FALLOW_CONTROL_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include <event2/event.h>

#include "lib/control/msg.h"
#include "lib/core/stats.h"

/*
 * All functions are for the thread that runs the event base, and never block: host names are looked
 * up by evdns, numeric addresses need no lookup. Callbacks come from the loop, never from within a
 * call.
 */
struct control_loop;	/* what the sessions of one event base share */
struct control_session; /* one connection, either side */
struct control_listener;

struct control_loop_config {
	uint32_t connect_timeout_ms; /* looking up and connecting together */
	uint32_t idle_timeout_ms; /* nothing received, or nothing sent off, for so long: closed */
	uint32_t linger_ms; /* a closing session may spend this on handing its last message over */
	uint32_t out_max_bytes; /* more than this waits for the peer to read: closed */
};

/* Why sessions ended; `status` of closed() beside it. */
enum control_close_reason {
	CONTROL_CLOSE_LOCAL,	     /* control_session_close() */
	CONTROL_CLOSE_EOF,	     /* the peer closed: -ECONNRESET */
	CONTROL_CLOSE_SOCKET,	     /* the socket failed: its errno */
	CONTROL_CLOSE_RESOLVE,	     /* the name was not found: -EHOSTUNREACH */
	CONTROL_CLOSE_CONNECT,	     /* not connected in time: -ETIMEDOUT, or the socket's errno */
	CONTROL_CLOSE_IDLE,	     /* idle_timeout_ms: -ETIMEDOUT */
	CONTROL_CLOSE_OUTPUT,	     /* out_max_bytes: -ENOBUFS */
	CONTROL_CLOSE_FRAME_LENGTH,  /* -EMSGSIZE */
	CONTROL_CLOSE_FRAME_VERSION, /* -EPROTONOSUPPORT */
	CONTROL_CLOSE_FRAME_TYPE,    /* -EOPNOTSUPP */
	CONTROL_CLOSE_FRAME_BODY,    /* -EBADMSG */
	CONTROL_CLOSE_REASONS
};
const char *control_close_reason_name(enum control_close_reason r); /* "eof", "frame_body", ... */

struct control_stats {
	stat_t messages_in, messages_out, bytes_in, bytes_out;
	stat_t closed[CONTROL_CLOSE_REASONS];
};

struct control_session_cbs {
	/* An outgoing session is established. Optional for accepted ones. */
	void (*connected)(void *ctx, struct control_session *s);
	/* m is valid during the call. The session may be closed in it. */
	void (*message)(void *ctx, struct control_session *s, const struct control_msg *m);
	/* It is over, for another reason than control_session_close(): exactly once, nothing after
	 * it; s is freed on return. why is one sentence. A peer whose frame was wrong was told so
	 * by an ERROR. */
	void (*closed)(void *ctx, struct control_session *s, int status, const char *why);
};

/* 5 s, 60 s, 1 s, 4 MiB. */
void control_loop_config_default(struct control_loop_config *cfg);
/* base must outlive the loop. -ENOMEM. */
int control_loop_new(
	struct event_base *base, const struct control_loop_config *cfg, struct control_loop **out);
/* Frees all its sessions at once, without callbacks; listeners must be gone. NULL is allowed. */
void control_loop_delete(struct control_loop *l);
const struct control_stats *control_loop_stats(const struct control_loop *l);

/*
 * Starts connecting; host is a name or a numeric address. The outcome is connected() or closed(),
 * within connect_timeout_ms. -EINVAL, -ENOMEM: nothing was started. cbs must outlive the session.
 */
int control_session_connect(struct control_loop *l, const char *host, uint16_t port,
	const struct control_session_cbs *cbs, void *ctx, struct control_session **out);
/* Takes over a connected, non-blocking socket; fd stays the caller's on failure. -ENOMEM. */
int control_session_accept(struct control_loop *l, evutil_socket_t fd,
	const struct control_session_cbs *cbs, void *ctx, struct control_session **out);
/* Queues a message. -EINVAL: a field is out of range; -ENOTCONN: not established; -ENOBUFS: the
 * peer does not read, closed() follows from the loop. */
int control_session_send(struct control_session *s, const struct control_msg *m);
/* Ends the session: no callback after this. text (may be NULL) goes to the peer in an ERROR with
 * status, which is a negative errno. s may no longer be used. */
void control_session_close(struct control_session *s, int status, const char *text);
/* "address:port" of the other end; for logs. */
const char *control_session_peer(const struct control_session *s);

/*
 * Listens on a numeric address ("::" for any, both families). accepted() gets a non-blocking
 * socket, which is its own from then on, and the peer's "address:port". Port 0: any free one, see
 * control_listener_port(). -EINVAL not numeric; -EADDRINUSE and others from the socket calls. When
 * descriptors run out accepting pauses.
 */
int control_listener_new(struct event_base *base, const char *host, uint16_t port,
	void (*accepted)(void *ctx, evutil_socket_t fd, const char *peer), void *ctx,
	struct control_listener **out);
void control_listener_delete(struct control_listener *l); /* NULL is allowed */
uint16_t control_listener_port(const struct control_listener *l);

#endif
