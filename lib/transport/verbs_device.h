/* Finding the RDMA device to use, the protection domain that its transports share, and the private
 * data of a connection request. */
#ifndef FALLOW_TRANSPORT_VERBS_DEVICE_H
#define FALLOW_TRANSPORT_VERBS_DEVICE_H

#include <infiniband/verbs.h>

#include "lib/transport/tcp_wire.h"

/* The private data of a connection request is the 32 bytes of a HELLO frame; the network may pad
 * it. */
#define VERBS_HELLO_BYTES TCP_REQUEST_BYTES

/* A refusal carries one byte of private data. */
enum verbs_refusal {
	VERBS_REFUSED_TOKEN = 1,
	VERBS_REFUSED_LIMIT = 2,
	VERBS_REFUSED_HELLO = 3,
	VERBS_REFUSED_DEVICE = 4
};

/* The context of the named device, or of the first one (NULL), as librdmacm has it open for the
 * life of the process. -ENODEV: there is none. */
int verbs_device_find(const char *name, struct ibv_context **out);

/* One for all transports of a device in this process, so that a guest's memory is registered, and
 * pinned, once and not once for each lane. */
struct verbs_domain {
	struct ibv_pd *pd;
	unsigned users;
	struct verbs_domain *next;
};
/* Any thread; blocks for a system call. Its errno. */
int verbs_domain_get(struct ibv_context *device, struct verbs_domain **out);
void verbs_domain_put(struct verbs_domain *d);

#endif
