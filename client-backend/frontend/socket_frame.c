/* Whether the bytes that a client sent are a control frame, judged without any state. */
#include "client-backend/frontend/socket_frame.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char *const violation_names[SOCKET_VIOLATIONS] = {
	[SOCKET_VIOLATION_NONE] = "none",
	[SOCKET_VIOLATION_SLOT_RANGE] = "slot_range",
	[SOCKET_VIOLATION_SLOT_BUSY] = "slot_busy",
	[SOCKET_VIOLATION_OP] = "operation",
	[SOCKET_VIOLATION_RESERVED] = "reserved_bytes",
	[SOCKET_VIOLATION_FRAME_LENGTH] = "frame_length",
	[SOCKET_VIOLATION_FRAME_TYPE] = "frame_type",
	[SOCKET_VIOLATION_FRAME_FIELD] = "frame_field",
	[SOCKET_VIOLATION_FRAME_ORDER] = "frame_order",
	[SOCKET_VIOLATION_STALLED] = "stalled",
};

const char *socket_violation_name(enum socket_violation v)
{
	return v < SOCKET_VIOLATIONS ? violation_names[v] : "unknown";
}

static size_t question_bytes(unsigned type)
{
	switch (type) {
	case SOCKET_HELLO:
		return sizeof(struct socket_hello);
	case SOCKET_POOL_OPEN:
		return sizeof(struct socket_pool_open);
	case SOCKET_POOL_CLOSE:
	case SOCKET_POOL_DESTROY:
	case SOCKET_POOL_STATS:
		return sizeof(struct socket_pool_ref);
	case SOCKET_LIMITS:
	case SOCKET_BYE:
		return sizeof(struct socket_plain);
	default:
		return 0;
	}
}

/* NUL-terminated, and nothing but zeros after the end. */
static bool name_ok(const char name[SOCKET_NAME_BYTES])
{
	size_t n = strnlen(name, SOCKET_NAME_BYTES);
	if (n == SOCKET_NAME_BYTES)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return false;
	for (; n < SOCKET_NAME_BYTES; n++)
		if (name[n])
			return false;
	return true;
}

static bool fields_ok(const union socket_question *q)
{
	if (q->h.reserved || q->h.status)
		return false;
	switch (q->h.type) {
	case SOCKET_HELLO:
		return q->hello.magic == SOCKET_MAGIC && q->hello.version_min >= 1 &&
		       q->hello.version_min <= q->hello.version_max && name_ok(q->hello.name);
	case SOCKET_POOL_OPEN:
		for (size_t i = 0; i < sizeof(q->pool_open.reserved); i++)
			if (q->pool_open.reserved[i])
				return false;
		return name_ok(q->pool_open.name);
	case SOCKET_POOL_CLOSE:
	case SOCKET_POOL_DESTROY:
	case SOCKET_POOL_STATS:
		return q->pool_ref.reserved == 0;
	default:
		return true;
	}
}

int socket_frame_parse(
	const void *buf, size_t len, union socket_question *out, enum socket_violation *why)
{
	struct socket_frame_header h;
	if (len < sizeof(h))
		return 0;
	memcpy(&h, buf, sizeof(h));
	size_t want = question_bytes(h.type);
	*why = SOCKET_VIOLATION_FRAME_TYPE;
	if (!want)
		return -EPROTO;
	*why = SOCKET_VIOLATION_FRAME_LENGTH;
	if (h.len_bytes != want)
		return -EPROTO;
	if (len < want)
		return 0;
	memcpy(out, buf, want);
	*why = SOCKET_VIOLATION_FRAME_FIELD;
	if (!fields_ok(out))
		return -EPROTO;
	*why = SOCKET_VIOLATION_NONE;
	return (int)want;
}
