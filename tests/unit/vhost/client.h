/* A vhost-user front end of the tests' own, with a guest: does what QEMU does, and what it never
 * would. */
#ifndef FALLOW_TEST_VHOST_CLIENT_H
#define FALLOW_TEST_VHOST_CLIENT_H

#include <stddef.h>

#include "tests/unit/vhost/guest.h"
#include "tests/unit/vhost/ramdisk.h"

#define CLIENT_WAIT_MS 60000 /* far longer than anything takes */
#define CLIENT_NUM     64u   /* descriptors of a ring */
#define CLIENT_SLOTS   20u   /* requests of a ring, three descriptors each */
#define CLIENT_BYTES   8192u /* most data of one request */

struct client {
	int fd;
	struct guest guest; /* outlives a connection */
	struct guest_ring ring[GUEST_RINGS];
	int kick[GUEST_RINGS], call[GUEST_RINGS], err[GUEST_RINGS];
	unsigned rings;
	uint64_t features, protocol; /* wanted */
	bool indirect;		     /* use them */
	int inflight_fd;	     /* -1: none */
	struct vhost_wire_inflight inflight;
};

void client_init(struct client *c, unsigned rings);
void client_fini(struct client *c);
/* Tries until somebody listens. */
void client_connect(struct client *c, const char *path);
void client_close(struct client *c);

bool client_send(struct client *c, uint32_t type, uint32_t flags, const void *payload,
	uint32_t bytes, const int *fds, unsigned count);
/* Bytes of the answer's payload; -1: the connection was closed. */
int client_recv(struct client *c, uint32_t type, void *payload, uint32_t max_bytes, int *fd);
uint64_t client_get_u64(struct client *c, uint32_t type);
void client_set_u64(struct client *c, uint32_t type, uint64_t value);
void client_ring_state(struct client *c, uint32_t type, uint32_t index, uint32_t num);
void client_ring_fd(struct client *c, uint32_t type, uint32_t index, int fd);
/* Everything before was handled, and the session is there still. */
bool client_alive(struct client *c);
/* Waits until the other side has closed. */
void client_wait_closed(struct client *c);

/* Features, protocol features, memory, in-flight region; no ring. */
void client_negotiate(struct client *c);
void client_memory(struct client *c); /* the whole table */
void client_region(struct client *c, uint32_t type, unsigned which);
/* A ring as new; base 0. */
void client_ring_new(struct client *c, unsigned ring);
/* Tells of a ring and enables it. */
void client_ring_start(struct client *c, unsigned ring, uint16_t base);
/* Stops it; its base. */
uint16_t client_ring_stop(struct client *c, unsigned ring);
/* All of it, with rings as new. */
void client_up(struct client *c, const char *path);
/* After the other side went away: the same rings again, as QEMU does it. */
void client_again(struct client *c, const char *path);

uint8_t *client_data(struct client *c, unsigned ring, unsigned slot);
uint64_t client_data_gpa(unsigned ring, unsigned slot);
/* Writes the request's descriptors; publish and kick are the test's. Returns its head. */
uint16_t client_prepare(struct client *c, unsigned ring, unsigned slot, uint32_t type,
	uint64_t sector, uint32_t bytes);
void client_submit(struct client *c, unsigned ring, unsigned slot, uint32_t type, uint64_t sector,
	uint32_t bytes);
/* Waits for a request; its slot. */
unsigned client_reap(struct client *c, unsigned ring, uint8_t *status);
/* One request from beginning to end; its status. */
uint8_t client_io(struct client *c, unsigned ring, uint32_t type, uint64_t sector, uint32_t bytes);

/* Waits for a condition. */
#define CLIENT_WAIT(cond)                                                                          \
	do {                                                                                       \
		unsigned ms_ = 0;                                                                  \
		for (; !(cond) && ms_ < CLIENT_WAIT_MS; ms_++)                                     \
			usleep(1000);                                                              \
		assert_true(cond);                                                                 \
	} while (0)

#endif
