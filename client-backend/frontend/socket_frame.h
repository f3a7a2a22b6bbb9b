/* Whether the bytes that a client sent are a control frame, judged without any state. */
#ifndef FALLOW_SOCKET_FRAME_H
#define FALLOW_SOCKET_FRAME_H

#include <stddef.h>

#include "client-backend/frontend/socket_lane.h"
#include "proto/socket_proto.h"

/* Any frame of a client, aligned. */
union socket_question {
	struct socket_frame_header h;
	struct socket_hello hello;
	struct socket_pool_open pool_open;
	struct socket_pool_ref pool_ref;
	struct socket_plain plain;
};

/*
 * Looks at the first len bytes of a stream. Any thread. Returns the frame's length in bytes when it
 * is complete and well-formed (then it is copied to *out: every length, reserved byte and string
 * was checked); 0 when more bytes are needed; -EPROTO when no continuation can make it right, *why
 * says what is wrong.
 */
int socket_frame_parse(
	const void *buf, size_t len, union socket_question *out, enum socket_violation *why);

#endif
