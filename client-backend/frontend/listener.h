/* A listening socket of a front end, unix or TCP: opened, accepted from, closed. */
#ifndef FALLOW_LISTENER_H
#define FALLOW_LISTENER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/core/stats.h"

struct event;
struct event_base;

/* Control thread. All zeros but for what the owner sets: it does not listen, and may be closed. */
struct listener {
	/* The owner's, before it listens. */
	struct event_base *base;
	const char *area; /* of the log */
	/* A connection, nonblocking, which is the owner's now. */
	void (*accepted)(struct listener *l, int fd);
	/* May be NULL. False: none is accepted until listener_resume(). */
	bool (*may_accept)(struct listener *l);
	void *ctx;
	stat_t *errors; /* of accept(); where descriptors are short it is tried again in a while */

	/* The listener's. */
	bool listening;
	int fd;
	char path[108]; /* "": TCP */
	struct event *event, *again_event;
};

/*
 * Listens on a unix socket. A socket file that nobody answers on is replaced; one that somebody
 * does: -EADDRINUSE; a file that is no socket: -EEXIST; a path longer than 107 bytes:
 * -ENAMETOOLONG; -ENOMEM; or errno of socket, bind, chmod, listen. path: copied; mode: of the file,
 * e.g. 0660.
 */
int listener_unix_start(struct listener *l, const char *path, mode_t mode);
/* Listens on a numeric address and port, "192.0.2.1:10809", "[2001:db8::1]:10809"; port 0: any.
 * -EINVAL: it is none; -ENOMEM; or errno of socket, setsockopt, bind, listen. */
int listener_tcp_start(struct listener *l, const char *address);
/* What went wrong, in words. */
const char *listener_error(int status);
void listener_resume(struct listener *l);
/* Closes it and removes the socket file. May be called again. */
void listener_close(struct listener *l);
/* The TCP port; 0: it does not listen on any. */
uint16_t listener_port(const struct listener *l);

#endif
