/* The NBD protocol as it is on the wire: numbers of the newstyle negotiation and of the
 * transmission phase. */
#ifndef FALLOW_NBD_PROTO_H
#define FALLOW_NBD_PROTO_H

#include <stdint.h>

/* Source: doc/proto.md of the NetworkBlockDevice project. Everything is big-endian. */
#define NBD_MAGIC	  0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC  0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_REP_MAGIC	  0x0003e889045565a9ull
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_REPLY_MAGIC	  0x67446698u

/* Both sides' handshake flags. */
#define NBD_FLAG_FIXED_NEWSTYLE 1u
#define NBD_FLAG_NO_ZEROES	2u

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
};

#define NBD_REP_ACK	    1u
#define NBD_REP_SERVER	    2u
#define NBD_REP_INFO	    3u
#define NBD_REP_ERR_UNSUP   0x80000001u
#define NBD_REP_ERR_INVALID 0x80000003u
#define NBD_REP_ERR_UNKNOWN 0x80000006u
#define NBD_REP_ERR_TOO_BIG 0x80000009u

#define NBD_INFO_EXPORT	    0u
#define NBD_INFO_BLOCK_SIZE 3u

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS	   (1u << 0)
#define NBD_FLAG_READ_ONLY	   (1u << 1)
#define NBD_FLAG_SEND_FLUSH	   (1u << 2)
#define NBD_FLAG_SEND_FUA	   (1u << 3)
#define NBD_FLAG_SEND_TRIM	   (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_CAN_MULTI_CONN	   (1u << 8)

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
};

#define NBD_CMD_FLAG_FUA     (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)

/* Errors of replies, the same on every system. */
#define NBD_EPERM  1u
#define NBD_EIO	   5u
#define NBD_EINVAL 22u
#define NBD_ENOSPC 28u

struct nbd_wire_option {
	uint64_t magic;
	uint32_t option, bytes;
} __attribute__((packed));

struct nbd_wire_option_reply {
	uint64_t magic;
	uint32_t option, type, bytes;
} __attribute__((packed));

struct nbd_wire_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t bytes;
} __attribute__((packed));

struct nbd_wire_reply {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

#endif
