/* What most tests of a device start with: one on a disk in memory, and a front end for it. */
#ifndef FALLOW_TEST_VHOST_WORLD_H
#define FALLOW_TEST_VHOST_WORLD_H

#include "tests/unit/vhost/backend.h"
#include "tests/unit/vhost/client.h"

struct world {
	char file[64]; /* of the device's socket, for one that is started later */
	char path[32]; /* where front ends connect to it */
	int socket_fd;
	struct ramdisk disk;
	struct backend backend;
	struct client client; /* not connected yet */
};

/* The socket's file goes at once, so that a test that is killed leaves none. drain_timeout_ms 0:
 * long. */
struct world *world_new(unsigned rings, uint32_t drain_timeout_ms);
void world_delete(struct world *w);

#endif
