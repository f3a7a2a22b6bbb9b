/* Finding the RDMA device to use, and the private data of a connection request. */
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

#endif
