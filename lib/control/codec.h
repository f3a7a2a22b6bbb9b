/* Frames of the control protocol: struct control_msg to bytes and back. */
#ifndef FALLOW_CONTROL_CODEC_H
#define FALLOW_CONTROL_CODEC_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/control/msg.h"

/*
 * A frame: u32 length of all that follows it, u16 version, u16 type, the body
 * (proto/control.proto). All little-endian; proto/PROTOCOL.md has the details. Any thread; no
 * function blocks or uses the heap; decoding uses about 160 KiB of stack.
 */
#define CONTROL_FRAME_HEADER_BYTES 8u
#define CONTROL_FRAME_MAX_BYTES	   32768u /* header included; every message fits */

/*
 * Writes the frame of msg to buf (cap bytes) and returns its length. -ENOBUFS: it does not fit
 * (never with CONTROL_FRAME_MAX_BYTES); -EINVAL: a field is out of its range, the peer would refuse
 * it.
 */
ssize_t control_encode(const struct control_msg *msg, void *buf, size_t cap);

/*
 * Length in bytes of the frame that starts at buf, of which len bytes are there: 0 when that cannot
 * be told yet. -EMSGSIZE: too long, or too short for a header; the stream cannot be followed any
 * further.
 */
ssize_t control_frame_length(const void *buf, size_t len);

/*
 * Reads exactly one frame of len bytes. Every field is checked, fields not known are skipped. On
 * failure *why (may be NULL) is a constant sentence naming what is wrong, and *msg is undefined.
 * -EMSGSIZE wrong length; -EPROTONOSUPPORT frame version; -EOPNOTSUPP type not known; -EBADMSG the
 * body.
 */
int control_decode(const void *buf, size_t len, struct control_msg *msg, const char **why);

/* "HELLO", "LEASE_GRANT", ...; "?" for no type. For logs. */
const char *control_msg_name(enum control_msg_type type);

#endif
