/* A client that speaks the socket protocol by hand, so that it can break it. */
#ifndef FALLOW_TEST_RAW_CLIENT_H
#define FALLOW_TEST_RAW_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/socket_proto.h"

struct raw_client {
	int fd;
	int fds[1 + SOCKET_MAX_LANES]; /* memory, doorbells */
	unsigned nfds;
	void *base;
	struct socket_hello_ack ack;
	uint32_t tail[SOCKET_MAX_LANES];
};

/* 0 or negative errno; fd only, no hello. */
int raw_connect(struct raw_client *c, const char *path);
/* 0, the backend's status, or -ECONNRESET. */
int raw_hello(struct raw_client *c);
/* Sends any bytes. */
void raw_send(struct raw_client *c, const void *buf, size_t len);
/* Receives an answer: its status, or -ECONNRESET. */
int raw_answer(struct raw_client *c, struct socket_answer *a);
/* Waits until the backend has closed the connection; false: it did not in 20 s. */
bool raw_closed(struct raw_client *c);
struct socket_lane_memory *raw_lane(struct raw_client *c, unsigned lane);
void raw_push(struct raw_client *c, unsigned lane, uint32_t slot);
void raw_ring(struct raw_client *c, unsigned lane);
/* Waits for a slot; its status, or -ETIMEDOUT after 20 s. */
int raw_wait(struct raw_client *c, unsigned lane, uint32_t slot);
void raw_close(struct raw_client *c);

#endif
