/* What vhost-user and split virtqueues look like on the socket and in shared memory, as far as we
 * speak them. */
#ifndef FALLOW_VHOST_PROTO_H
#define FALLOW_VHOST_PROTO_H

#include <stdint.h>

/*
 * Sources: QEMU's docs/interop/vhost-user.rst (messages, in-flight region, dirty log); the virtio
 * specification 1.1, section 2.6 (split virtqueues; layouts in <linux/virtio_ring.h>). Everything
 * is in the machine's byte order on the socket and little-endian in the rings of virtio 1.
 */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the rings are little-endian");

enum vhost_message {
	VHOST_GET_FEATURES = 1,
	VHOST_SET_FEATURES = 2,
	VHOST_SET_OWNER = 3,
	VHOST_RESET_OWNER = 4,
	VHOST_SET_MEM_TABLE = 5,
	VHOST_SET_LOG_BASE = 6,
	VHOST_SET_LOG_FD = 7,
	VHOST_SET_VRING_NUM = 8,
	VHOST_SET_VRING_ADDR = 9,
	VHOST_SET_VRING_BASE = 10,
	VHOST_GET_VRING_BASE = 11,
	VHOST_SET_VRING_KICK = 12,
	VHOST_SET_VRING_CALL = 13,
	VHOST_SET_VRING_ERR = 14,
	VHOST_GET_PROTOCOL_FEATURES = 15,
	VHOST_SET_PROTOCOL_FEATURES = 16,
	VHOST_GET_QUEUE_NUM = 17,
	VHOST_SET_VRING_ENABLE = 18,
	VHOST_GET_CONFIG = 24,
	VHOST_SET_CONFIG = 25,
	VHOST_GET_INFLIGHT_FD = 31,
	VHOST_SET_INFLIGHT_FD = 32,
	VHOST_RESET_DEVICE = 34,
	VHOST_GET_MAX_MEM_SLOTS = 36,
	VHOST_ADD_MEM_REG = 37,
	VHOST_REM_MEM_REG = 38,
	VHOST_MESSAGES
};

/* Feature bits of the transport; those of the device are 0..23. */
#define VHOST_DEVICE_FEATURES 0xffffffull
#define VHOST_F_LOG_ALL_BIT   (1ull << 26)
#define VHOST_F_ANY_LAYOUT    (1ull << 27)
#define VHOST_F_INDIRECT_DESC (1ull << 28)
#define VHOST_F_EVENT_IDX     (1ull << 29)
#define VHOST_F_PROTOCOL      (1ull << 30)
#define VHOST_F_VERSION_1     (1ull << 32)
#define VHOST_TRANSPORT_FEATURES                                                                   \
	(VHOST_F_LOG_ALL_BIT | VHOST_F_ANY_LAYOUT | VHOST_F_INDIRECT_DESC | VHOST_F_EVENT_IDX |    \
		VHOST_F_PROTOCOL | VHOST_F_VERSION_1)

/* Protocol feature bits. */
#define VHOST_PF_MQ		     (1ull << 0)
#define VHOST_PF_LOG_SHMFD	     (1ull << 1)
#define VHOST_PF_REPLY_ACK	     (1ull << 3)
#define VHOST_PF_CONFIG		     (1ull << 9)
#define VHOST_PF_INFLIGHT_SHMFD	     (1ull << 12)
#define VHOST_PF_RESET_DEVICE	     (1ull << 13)
#define VHOST_PF_CONFIGURE_MEM_SLOTS (1ull << 15)
#define VHOST_PROTOCOL_FEATURES                                                                    \
	(VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_CONFIG |                 \
		VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE | VHOST_PF_CONFIGURE_MEM_SLOTS)

#define VHOST_FLAG_VERSION	1u
#define VHOST_FLAG_VERSION_MASK 3u
#define VHOST_FLAG_REPLY	4u
#define VHOST_FLAG_NEED_REPLY	8u

#define VHOST_TABLE_REGIONS 8u	  /* of one SET_MEM_TABLE */
#define VHOST_MAX_REGIONS   64u	  /* of one device, with ADD_MEM_REG */
#define VHOST_MESSAGE_FDS   8u	  /* descriptors with one message */
#define VHOST_LOG_PAGE	    4096u /* bytes for one bit of the dirty log */

/* Of the u64 of SET_VRING_KICK, CALL and ERR. */
#define VHOST_RING_INDEX_MASK 0xffull
#define VHOST_RING_NO_FD      (1ull << 8)

#define VHOST_RING_LOG 1u /* vhost_wire_ring_addr.flags: mark what is written to the used ring */

#define VHOST_CONFIG_MIGRATION 1u /* vhost_wire_config.flags */

struct vhost_header {
	uint32_t type, flags, payload_bytes;
};
_Static_assert(sizeof(struct vhost_header) == 12, "on the wire");

struct vhost_wire_ring_state {
	uint32_t index, num;
};

struct vhost_wire_ring_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail; /* the front end's own addresses */
	uint64_t log;		    /* guest address under which the used ring is logged */
};
_Static_assert(sizeof(struct vhost_wire_ring_addr) == 40, "on the wire");

struct vhost_wire_region {
	uint64_t guest_addr, size_bytes;
	uint64_t user_addr; /* the front end's own address */
	uint64_t mmap_offset;
};

struct vhost_wire_table {
	uint32_t count, padding;
	struct vhost_wire_region region[VHOST_TABLE_REGIONS];
};
_Static_assert(sizeof(struct vhost_wire_table) == 8 + 8 * 32, "on the wire");

struct vhost_wire_one_region {
	uint64_t padding;
	struct vhost_wire_region region;
};
_Static_assert(sizeof(struct vhost_wire_one_region) == 40, "on the wire");

struct vhost_wire_log {
	uint64_t size_bytes, offset;
};

#define VHOST_WIRE_CONFIG_HEAD_BYTES 12u
struct vhost_wire_config {
	uint32_t offset, size_bytes, flags;
	uint8_t data[256];
};
_Static_assert(sizeof(struct vhost_wire_config) == 12 + 256, "on the wire");

/* QEMU sends and expects the padding; others leave it out (20 bytes). */
struct vhost_wire_inflight {
	uint64_t size_bytes, offset;
	uint16_t queues, queue_len;
	uint32_t padding;
};
_Static_assert(sizeof(struct vhost_wire_inflight) == 24, "on the wire");
#define VHOST_WIRE_INFLIGHT_MIN_BYTES 20u

union vhost_wire_payload {
	uint64_t u64;
	struct vhost_wire_ring_state state;
	struct vhost_wire_ring_addr addr;
	struct vhost_wire_table table;
	struct vhost_wire_one_region one;
	struct vhost_wire_log log;
	struct vhost_wire_config config;
	struct vhost_wire_inflight inflight;
	uint8_t bytes[sizeof(struct vhost_wire_config) + 4];
};

#define VIRTQ_DESC_F_NEXT	   1u
#define VIRTQ_DESC_F_WRITE	   2u /* by the device */
#define VIRTQ_DESC_F_INDIRECT	   4u
#define VIRTQ_AVAIL_F_NO_INTERRUPT 1u
#define VIRTQ_USED_F_NO_NOTIFY	   1u

struct virtq_desc {
	uint64_t addr; /* guest address */
	uint32_t len;
	uint16_t flags, next;
};
_Static_assert(sizeof(struct virtq_desc) == 16, "in guest memory");

struct virtq_avail {
	uint16_t flags, idx;
	uint16_t ring[]; /* and one more with EVENT_IDX: used_event */
};

struct virtq_used_elem {
	uint32_t id, len;
};

struct virtq_used {
	uint16_t flags, idx;
	struct virtq_used_elem ring[]; /* and a uint16_t with EVENT_IDX: avail_event */
};
_Static_assert(
	sizeof(struct virtq_avail) == 4 && sizeof(struct virtq_used) == 4, "in guest memory");

/*
 * The in-flight region of one split ring: it outlives us at the front end and says after a crash
 * which requests were taken and not given back. Queue n's begins at n times the size of one,
 * rounded up to VHOST_INFLIGHT_ALIGN.
 */
#define VHOST_INFLIGHT_ALIGN   64u
#define VHOST_INFLIGHT_VERSION 1u

struct vhost_inflight_desc {
	uint8_t inflight; /* of a chain's first descriptor */
	uint8_t padding[5];
	uint16_t next;	  /* list of those given back last */
	uint64_t counter; /* order in which they were taken */
};

struct vhost_inflight_ring {
	uint64_t features;	  /* 0 */
	uint16_t version;	  /* 0: never used */
	uint16_t desc_num;	  /* entries of desc */
	uint16_t last_batch_head; /* begins the list of those given back last */
	uint16_t used_idx;	  /* the used ring's idx as of the last one given back */
	struct vhost_inflight_desc desc[];
};
_Static_assert(sizeof(struct vhost_inflight_ring) == 16, "shared with other back ends");
_Static_assert(sizeof(struct vhost_inflight_desc) == 16, "shared with other back ends");

static inline uint64_t vhost_inflight_ring_bytes(uint16_t queue_len)
{
	uint64_t n =
		sizeof(struct vhost_inflight_ring) + queue_len * sizeof(struct vhost_inflight_desc);
	return (n + VHOST_INFLIGHT_ALIGN - 1) / VHOST_INFLIGHT_ALIGN * VHOST_INFLIGHT_ALIGN;
}

#endif
