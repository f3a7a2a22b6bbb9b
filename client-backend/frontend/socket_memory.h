/* What a session shares with its client: the sealed memory, the doorbells, and the lanes' ends of
 * them. */
#ifndef FALLOW_SOCKET_MEMORY_H
#define FALLOW_SOCKET_MEMORY_H

#include <stddef.h>

#include "client-backend/frontend/socket_lane.h"

struct socket_memory {
	int memfd;
	void *base;
	size_t len_bytes;
	unsigned lanes, slots;
	struct socket_grants *grants;
	int doorbell[SOCKET_MAX_LANES];
	struct socket_attachment *attachment[SOCKET_MAX_LANES];
};

/*
 * control. Makes all of it; the memory is allocated and mapped at once, and sealed against growing
 * and shrinking, so that a client cannot make the lane fault past its end. 0, or -ENOMEM, -EMFILE
 * and the like with nothing left behind.
 */
int socket_memory_init(struct socket_memory *m, unsigned lanes, unsigned slots, int violation_fd);
/* control. No lane is attached. Harmless after a failed init or a second time. */
void socket_memory_fini(struct socket_memory *m);

#endif
