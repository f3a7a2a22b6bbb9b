/* The control protocol's messages as plain structs; codec.h turns them into frames and back. */
#ifndef FALLOW_CONTROL_MSG_H
#define FALLOW_CONTROL_MSG_H

#include <stdbool.h>
#include <stdint.h>

#define CONTROL_VERSION        1
#define CONTROL_NAME_BYTES     64  /* with the final NUL */
#define CONTROL_LEASES_PER_MSG 256 /* longer lists are sent as several messages, `more` set */
#define CONTROL_SPARE_PER_MSG  1024 /* what is more is not told, and not taken */

/*
 * Who sends: C the backend (client), S the memory server.
 * Order of a session: C HELLO, S HELLO_ACK, then S LEASES (one or more, the leases that this identity
 * still holds), then anything below. Either side closes the session on a message out of order.
 */
enum control_msg_type {
	CONTROL_HELLO = 1,     /* C */
	CONTROL_HELLO_ACK,     /* S */
	CONTROL_LEASES,        /* S: held leases after HELLO_ACK; also the answer to LEASE_RENEW */
	CONTROL_LEASE_REQUEST, /* C */
	CONTROL_LEASE_GRANT,   /* S: answer to LEASE_REQUEST; status 0 or why not */
	CONTROL_LEASE_RENEW,   /* C: renews every lease of this identity */
	CONTROL_LEASE_RELEASE, /* C */
	CONTROL_REVOKE,        /* S: give the region back before the deadline */
	CONTROL_REVOKE_DONE,   /* C: nothing of ours is in it any more; ends the lease like a release */
	CONTROL_HEARTBEAT,     /* C asks, S answers with the same sequence */
	CONTROL_STATS,         /* S: what the donor has, after HELLO_ACK and whenever it changes */
	CONTROL_DRAIN,         /* S: the donor is leaving: every region will be revoked, lease no more */
	CONTROL_ERROR,         /* either: why the sender closes the session */
	CONTROL_MSG_TYPES
};

/* One leased region. A lease is named by (id, epoch); an id is never reused with the same epoch. */
struct control_lease {
	uint64_t region_id;
	uint64_t epoch;
	uint64_t len_bytes;
	uint32_t ttl_ms;      /* time to live from the moment the message was sent */
	uint64_t tcp_key;     /* for the tcp transport: unguessable; addresses start at 0 */
	uint32_t verbs_rkey;  /* for verbs; 0 when the donor has no RDMA device */
	uint64_t verbs_raddr;
	bool revoking;
	uint32_t revoke_ms;   /* time left until the deadline, when revoking */
};

struct control_msg {
	enum control_msg_type type;
	union {
		struct {
			uint32_t version_min, version_max;
			uint8_t identity[16]; /* the backend's, kept across its restarts */
			uint8_t secret[16];   /* chosen with the identity; the donor remembers the first */
			char name[CONTROL_NAME_BYTES]; /* for people: host name */
		} hello;
		struct {
			uint32_t version;
			uint64_t token[2];    /* proves the session to the data ports */
			uint64_t boot_id;     /* new at each start of the memory server */
			uint16_t tcp_port;    /* 0: not offered */
			uint16_t verbs_port;  /* 0: not offered */
			uint32_t lease_ttl_ms;
			uint64_t region_bytes;
			char name[CONTROL_NAME_BYTES];
			char failure_domain[CONTROL_NAME_BYTES];
		} hello_ack;
		struct {
			uint32_t count;
			bool more; /* another LEASES message of the same list follows */
			struct control_lease lease[CONTROL_LEASES_PER_MSG];
		} leases;
		struct {
			uint64_t request_id;
			bool ephemeral; /* for copies of ephemeral segments only: takes nothing from anybody */
		} lease_request; /* one region */
		struct {
			uint32_t count;
			uint64_t spare[CONTROL_SPARE_PER_MSG]; /* ids of regions that hold nothing but such copies */
		} lease_renew;
		struct {
			uint64_t request_id;
			int32_t status; /* 0, -ENOSPC no memory to give, -EDQUOT over the client's limit, -ESHUTDOWN draining */
			struct control_lease lease;
		} lease_grant;
		struct {
			uint64_t region_id, epoch;
		} lease_release, revoke_done;
		struct {
			uint64_t region_id, epoch;
			uint32_t deadline_ms; /* from the moment of sending */
		} revoke;
		struct {
			uint64_t sequence;
		} heartbeat;
		struct {
			uint64_t total_bytes;  /* the most this donor may give now */
			uint64_t leased_bytes; /* to all clients */
			uint64_t free_bytes;   /* it would grant this much now */
			uint64_t spare_bytes;  /* leased to others, for ephemeral copies only, as they say */
		} stats;
		struct {
			uint32_t deadline_ms;
		} drain;
		struct {
			int32_t status;
			char text[160];
		} error;
	};
};

#endif
