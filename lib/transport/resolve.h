/* Turning a host name into addresses without blocking the caller. */
#ifndef FALLOW_TRANSPORT_RESOLVE_H
#define FALLOW_TRANSPORT_RESOLVE_H

#include <stdint.h>
#include <sys/socket.h>

#define RESOLVE_MAX 4

struct resolve_result {
	int count;
	struct sockaddr_storage addr[RESOLVE_MAX];
	socklen_t len[RESOLVE_MAX];
};

struct resolve;

/* A numeric address is done at once; a name is looked up by a thread of its own. -EINVAL, -ENOMEM,
 * -EAGAIN. */
int resolve_start(const char *host, uint16_t port, struct resolve **out);
/* Becomes readable when there is a result. */
int resolve_fd(const struct resolve *r);
/* -EINPROGRESS; 0; -EHOSTUNREACH no such name. */
int resolve_progress(struct resolve *r, struct resolve_result *out);
/* Ends it, also in the middle: a look-up that is under way finishes by itself. NULL is allowed. */
void resolve_end(struct resolve *r);

#endif
