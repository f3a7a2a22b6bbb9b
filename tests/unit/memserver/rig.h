/* A lease book in a world of its own: virtual time, real bytes in its regions, peers that keep what
 * they get. */
#ifndef FALLOW_TESTS_MEMSERVER_RIG_H
#define FALLOW_TESTS_MEMSERVER_RIG_H

#include "memserver/lease.h"

#define RIG_REGIONS	 8
#define RIG_REGION_BYTES 4096u
#define RIG_CLIENTS	 4
#define RIG_SESSIONS	 6
#define RIG_PEERS	 16
#define RIG_KEPT	 512 /* messages that a peer remembers the start of */

/* What a peer got, short. */
struct rig_msg {
	enum control_msg_type type;
	int32_t status;
	uint64_t region_id, epoch,
		number; /* number: sequence, request, deadline, target, or count */
	uint64_t leased_bytes, free_bytes, spare_bytes;
	struct control_lease lease;
};

struct rig_peer {
	bool open, closed_by_book;
	struct lease_session *session;
	int status; /* of the close */
	char text[160];
	unsigned count; /* of got */
	struct rig_msg got[RIG_KEPT];
	struct control_msg ack; /* the last HELLO_ACK */
	unsigned leases;	/* of the last list that is complete */
	struct control_lease lease[RIG_REGIONS];
	unsigned leases_partial;
};

struct rig {
	uint64_t now_ns, random;
	struct env env;
	struct lease_book *book;
	struct rig_peer peers[RIG_PEERS];
	uint8_t *memory[RIG_REGIONS]; /* NULL: not allocated */
	int exported[RIG_REGIONS];    /* client; -1 */
	uint64_t tokens[RIG_CLIENTS]; /* 0: none */
	bool known[RIG_CLIENTS];
	unsigned next_token;
	bool fail_alloc, fail_export, fail_token, forbid;
	unsigned allocs, frees, wipes;
	uint64_t next_key;
	uint64_t epochs[RIG_REGIONS]; /* of the newest lease of each region */
};

/* Defaults: 8 regions of 4 KiB, all may be given, TTL 1000 ms, grace 300 ms, hello 200 ms, stats at
 * once. */
struct lease_config rig_config(void);
void rig_open(struct rig *r, const struct lease_config *cfg, uint64_t seed);
void rig_close(struct rig *r);
/* Virtual time goes on, with every tick in between that the book asked for. */
void rig_sleep(struct rig *r, uint64_t ms);

/* Peers are numbers. Returns lease_session_open()'s result. */
int rig_connect(struct rig *r, unsigned peer);
void rig_disconnect(struct rig *r, unsigned peer);
int rig_send(struct rig *r, unsigned peer, const struct control_msg *m);
/* Connects and says hello as a client with an identity and secret made of these numbers. */
int rig_hello(struct rig *r, unsigned peer, uint8_t identity, uint8_t secret);
/* One region: 0 and *lease, or the status. */
int rig_lease(struct rig *r, unsigned peer, struct control_lease *lease);
/* The same, for ephemeral copies only. */
int rig_lease_ephemeral(struct rig *r, unsigned peer, struct control_lease *lease);
int rig_end(struct rig *r, unsigned peer, enum control_msg_type type, uint64_t region_id,
	uint64_t epoch);
int rig_beat(struct rig *r, unsigned peer);
/* Asks for the leases; they are in peers[peer].lease then. */
void rig_renew(struct rig *r, unsigned peer);
/* The same, naming these regions as spare. */
void rig_renew_spare(struct rig *r, unsigned peer, const uint64_t *region, unsigned count);
/* Messages of a type that the peer got from index `from` on. */
unsigned rig_count(const struct rig *r, unsigned peer, enum control_msg_type type, unsigned from);
/* The last message of a type; fails the test when there is none. */
const struct rig_msg *rig_last(const struct rig *r, unsigned peer, enum control_msg_type type);
/* The book and the world agree. */
void rig_check(const struct rig *r);

#endif
