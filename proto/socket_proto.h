/* The local socket protocol between fallowd and libfallow: control frames and shared memory layout.
 */
#ifndef FALLOW_SOCKET_PROTO_H
#define FALLOW_SOCKET_PROTO_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Both ends are on one machine, so every number is in the host's byte order. Frames are fixed
 * structs without padding; every reserved byte is zero and checked. Described in proto/PROTOCOL.md.
 */
#define SOCKET_MAGIC	       0x31776f6c6c6146ull /* "Fallow1" */
#define SOCKET_VERSION	       1u
#define SOCKET_FRAME_MAX_BYTES 512u
#define SOCKET_TOKEN_BYTES     16u
#define SOCKET_NAME_BYTES      64u
#define SOCKET_MAX_LANES       64u
#define SOCKET_MAX_SLOTS       64u /* request slots per lane and session */
#define SOCKET_PAGE_BYTES      4096u
#define SOCKET_DEFAULT_PATH    "/run/fallow/fallowd.sock"

enum socket_frame_type {
	SOCKET_HELLO = 1,    /* C */
	SOCKET_HELLO_ACK,    /* S, with the memory's descriptor and one eventfd per lane */
	SOCKET_POOL_OPEN,    /* C */
	SOCKET_POOL_CLOSE,   /* C */
	SOCKET_POOL_DESTROY, /* C */
	SOCKET_POOL_STATS,   /* C */
	SOCKET_LIMITS,	     /* C */
	SOCKET_BYE,	     /* C: a clean end; unnamed private pools end with it */
	SOCKET_ANSWER,	     /* S: to all but HELLO; its body depends on the question */
	SOCKET_FRAME_TYPES
};

struct socket_frame_header {
	uint32_t len_bytes; /* of the whole frame */
	uint16_t type;	    /* enum socket_frame_type */
	uint16_t reserved;
	uint32_t sequence; /* chosen by the client; an answer repeats it */
	int32_t status;	   /* answers: 0 or a negative errno; questions: 0 */
};

struct socket_hello {
	struct socket_frame_header h;
	uint64_t magic;
	uint32_t version_min, version_max;
	uint8_t token[SOCKET_TOKEN_BYTES]; /* of the session to take up again; zero: a new one */
	char name[SOCKET_NAME_BYTES];	   /* of the program, for people; NUL-terminated */
};

/* A status other than 0: only the header counts, and the server closes the connection after it. */
struct socket_hello_ack {
	struct socket_frame_header h;
	uint64_t magic;
	uint32_t version;
	uint32_t lanes;	  /* 1..SOCKET_MAX_LANES */
	uint32_t slots;	  /* per lane, 1..SOCKET_MAX_SLOTS */
	uint32_t resumed; /* 1: the session that the token named goes on */
	uint8_t token[SOCKET_TOKEN_BYTES];
	uint64_t lane_bytes;	     /* distance of the lanes' blocks in the memory */
	uint32_t request_timeout_ms; /* a request without an answer for this long: the backend is
					gone */
	uint32_t reserved;
};

/* For each choice 0 asks for the backend's default. */
enum socket_codec { SOCKET_CODEC_DEFAULT, SOCKET_CODEC_NONE, SOCKET_CODEC_LZ4, SOCKET_CODEC_ZSTD };
enum socket_disk {
	SOCKET_DISK_DEFAULT,
	SOCKET_DISK_NEVER,
	SOCKET_DISK_OVERFLOW,
	SOCKET_DISK_MIRROR
};
enum socket_pool_flag { SOCKET_POOL_PERSISTENT = 1u << 0, SOCKET_POOL_SHARED = 1u << 1 };

struct socket_pool_open {
	struct socket_frame_header h;
	uint32_t flags;
	uint32_t id; /* of the pool when the session opens it again after a resume; else 0 */
	uint8_t codec, copies, disk, reserved[5];
	uint8_t uuid[16];
	uint8_t secret[16];
	char name[SOCKET_NAME_BYTES]; /* NUL-terminated; empty: unnamed */
};

/* POOL_CLOSE, POOL_DESTROY, POOL_STATS */
struct socket_pool_ref {
	struct socket_frame_header h;
	uint32_t id;
	uint32_t reserved;
};

/* LIMITS, BYE */
struct socket_plain {
	struct socket_frame_header h;
};

/* ANSWER. value: POOL_OPEN the pool's id; POOL_STATS its pages; LIMITS the client's used pages. */
struct socket_answer {
	struct socket_frame_header h;
	uint64_t value;
	uint64_t limit_pages; /* LIMITS: UINT64_MAX none */
	uint32_t max_pools;   /* LIMITS: pools that this client may own */
	uint32_t reserved;
};

_Static_assert(sizeof(struct socket_frame_header) == 16, "frame header");
_Static_assert(sizeof(struct socket_hello) == 112, "hello");
_Static_assert(sizeof(struct socket_hello_ack) == 72, "hello ack");
_Static_assert(sizeof(struct socket_pool_open) == 128, "pool open");
_Static_assert(sizeof(struct socket_pool_ref) == 24, "pool ref");
_Static_assert(sizeof(struct socket_answer) == 40, "answer");

/* Shared memory */

enum socket_op {
	SOCKET_OP_NOP = 1,
	SOCKET_OP_PUT,
	SOCKET_OP_GET,
	SOCKET_OP_FLUSH_PAGE,
	SOCKET_OP_FLUSH_OBJECT, /* of the pages in this lane; the client asks every lane */
	SOCKET_OPS
};

/* The futex word of a slot. The client writes BUSY and BUSY_WAITED, the lane DONE. */
enum socket_slot_state {
	SOCKET_SLOT_FREE,
	SOCKET_SLOT_BUSY,
	SOCKET_SLOT_BUSY_WAITED, /* the lane wakes the futex when it is done */
	SOCKET_SLOT_DONE,
};

struct socket_slot {
	_Atomic uint32_t state;
	int32_t status;	 /* lane: 0 or negative errno, valid once DONE */
	uint64_t result; /* lane: pages that FLUSH_OBJECT removed */
	uint64_t oid[3];
	uint32_t pool, index;
	uint8_t op; /* enum socket_op */
	uint8_t reserved[15];
};

/*
 * One lane's block. A ring entry at position p (counted from 0, modulo 2^32) is valid when its
 * upper half is p + 1; its lower half is a slot number. No index is shared, so none can be wrong.
 * As a slot is in the ring at most once, the ring cannot overrun.
 */
struct socket_lane_memory {
	_Atomic uint32_t sleeping; /* set by the lane before it sleeps; whoever clears it rings the
				      eventfd */
	uint8_t reserved[60];
	_Atomic uint64_t ring[SOCKET_MAX_SLOTS];
	struct socket_slot slot[SOCKET_MAX_SLOTS];
	uint8_t pad[8192 - 64 - 8 * SOCKET_MAX_SLOTS - 64 * SOCKET_MAX_SLOTS];
	uint8_t page[][SOCKET_PAGE_BYTES]; /* one per slot */
};

_Static_assert(sizeof(struct socket_slot) == 64, "slot");
_Static_assert(sizeof(struct socket_lane_memory) == 8192, "lane block");

static inline uint64_t socket_lane_bytes(uint32_t slots)
{
	return sizeof(struct socket_lane_memory) + (uint64_t)slots * SOCKET_PAGE_BYTES;
}

#endif
