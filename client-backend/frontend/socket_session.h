/* One client's connection and session, from accept to the moment the lanes have let go of it. */
#ifndef FALLOW_SOCKET_SESSION_H
#define FALLOW_SOCKET_SESSION_H

#include <event2/event.h>

#include "client-backend/frontend/listener.h"
#include "client-backend/frontend/socket_frame.h"
#include "client-backend/frontend/socket_memory.h"
#include "client-backend/frontend/socket_server.h"

/* For socket_server.c and socket_session.c only; all of it belongs to the control thread. */
enum session_state {
	SESSION_HELLO,	   /* the socket is open, hello has not come */
	SESSION_WAITING,   /* hello came; older sessions of the same client must end first */
	SESSION_ATTACHING, /* the lanes are asked to attach */
	SESSION_READY,
	SESSION_DETACHING, /* the lanes are asked to detach */
	SESSION_ENDED,
};

struct session_lane_call {
	struct backend_call call;
	struct session *session;
	unsigned lane;
};

struct session {
	struct socket_server *server;
	struct session *next, **pprev;
	enum session_state state;
	bool ending; /* to be detached as soon as nothing is under way */
	bool bye;    /* the client said goodbye */
	bool busy;   /* a question is being answered; no other is read */
	bool close_after_answer;
	bool have_memory, resumed;

	uint64_t id, since_ns;
	char identity[ENGINE_NAME_BYTES];
	char program[SOCKET_NAME_BYTES];
	unsigned account;
	struct ucred peer;
	uint8_t token[SOCKET_TOKEN_BYTES];

	int fd;
	struct event *read_event, *write_event, *hello_event;
	union {
		uint8_t in[SOCKET_FRAME_MAX_BYTES];
		uint64_t align;
	};
	size_t in_len;
	union {
		struct socket_hello_ack ack;
		struct socket_answer answer;
		uint8_t bytes[sizeof(struct socket_hello_ack)];
	} out;
	size_t out_len, out_sent;
	bool out_fds; /* the memory and the doorbells go with the first byte */

	union socket_question question; /* the one being answered */
	struct backend_call call;	/* its answer */

	struct socket_memory memory;
	unsigned lanes_pending;
	int attach_status;
	uint64_t attached; /* bit per lane */
	struct session_lane_call lane_call[SOCKET_MAX_LANES];
	unsigned pools; /* granted */
};

/* A session whose client went away without goodbye; its unnamed pools wait for it. */
struct ghost {
	struct ghost *next;
	uint64_t deadline_ns;
	uint8_t token[SOCKET_TOKEN_BYTES];
	char identity[ENGINE_NAME_BYTES];
};

struct socket_server {
	struct socket_server_config cfg;
	struct event_base *base;
	const struct env *env;
	struct pools *pools;
	const struct socket_server_ops *ops;
	void *ctx;
	struct listener listener;
	int violation_fd;
	struct event *violation_event, *grace_event, *ended_event;
	struct session *sessions;
	struct ghost *ghosts;
	uint64_t next_session_id;
	struct backend_call *stop_call;
	bool stopping;
	struct socket_server_stats stats;
};

/* Takes over fd, which is nonblocking. -ENOMEM: fd is closed. */
int session_new(struct socket_server *s, int fd, const struct ucred *peer, const char *identity,
	unsigned account);
/* Answers a connection that gets no session with status and closes it. */
void session_refuse(int fd, int status);
/* Ends the session; it goes away when nothing of it is under way. May be called again. */
void session_end(struct session *ss);
/* The same, because of a violation that is counted and logged here. */
void session_violation(struct session *ss, enum socket_violation why);
/* Ends those of identity whose client has hung up, though its event was not handled yet. */
void session_end_hungup(
	struct socket_server *s, const char *identity, const struct session *except);
/* A hello that waited may go on now. */
void session_hello_retry(struct session *ss);

/* In socket_server.c. */
/* Called as ss goes away; what follows from it for other sessions happens later. */
void server_session_ended(struct socket_server *s, const struct session *ss);
bool server_ghost_take(
	struct socket_server *s, const uint8_t token[SOCKET_TOKEN_BYTES], const char *identity);

#endif
