/* What the files of the lease book share; for nobody else. */
#ifndef FALLOW_MEMSERVER_LEASE_INTERNAL_H
#define FALLOW_MEMSERVER_LEASE_INTERNAL_H

#include <limits.h>

#include "memserver/lease.h"

struct lease_session {
	bool used;
	void *peer;
	int client; /* row; -1 before HELLO */
	uint64_t opened_ns;
};

struct lease_client {
	bool used;
	bool has_token; /* its data connections may be open */
	uint8_t identity[16], secret[16];
	char name[CONTROL_NAME_BYTES];
	uint64_t token[2];
	struct lease_session *session; /* NULL: not connected */
	uint64_t seen_ns;	       /* last valid message */
	uint64_t expires_ns;	       /* its leases end */
	unsigned regions, revoking;    /* held; revoking is part of regions */
	unsigned spare;		       /* of those that are not being revoked */
};

struct lease_region {
	enum lease_region_state state;
	bool memory; /* FREE: kept, and wiped */
	unsigned client;
	uint64_t epoch;
	uint64_t deadline_ns; /* REVOKING */
	uint64_t spare_ns; /* LEASED: since when its holder can spare it; 0: it does not say so */
	uint64_t spare_round;	/* value of book.spare_round when it was last named so */
	bool reclaimed;		/* REVOKING: for a client that needs the room */
	unsigned reclaimed_for; /* that client */
	struct lease_keys keys;
};

struct lease_book {
	struct lease_config cfg;
	const struct env *env;
	const struct lease_ops *ops;
	void *ctx;
	uint64_t boot_id;
	uint64_t epoch; /* of the newest lease */
	uint64_t target_bytes;
	bool draining;
	uint64_t drain_ns; /* everything is taken then */
	unsigned nregions, leased, revoking, kept, wiping;
	unsigned spare, reclaiming;    /* regions */
	bool spare_changed;	       /* since the last STATS */
	uint64_t spare_round;	       /* LEASE_RENEWs looked at */
	uint64_t reclaim_hold_ns;      /* lease_spare_is_held() until then */
	uint64_t revoke_next_ns;       /* no deadline is earlier; UINT64_MAX: none */
	uint64_t stats_sent_ns;	       /* last STATS to everybody */
	struct control_msg stats_sent; /* its content */
	struct lease_stats stats;
	struct control_msg msg; /* being made; too large for the stack of a deep call */
	struct lease_session *sessions;
	struct lease_client *clients;
	struct lease_region *regions;
};

/* lease_region.c */
/* Leases one more region to a client; 0 or -ENOSPC, -EDQUOT, -ESHUTDOWN. Unless it is for
 * ephemeral copies, what others can spare is asked back when there is none. */
int lease_region_grant(struct lease_book *b, unsigned client, bool ephemeral, unsigned *region);
/* Asks for a region back, or shortens the time of a revocation under way. */
void lease_region_revoke(
	struct lease_book *b, unsigned region, uint64_t now_ns, uint64_t deadline_ns);
/* Ends a lease. */
void lease_region_end(struct lease_book *b, unsigned region);
/* Ends every lease of a client. */
void lease_client_end(struct lease_book *b, unsigned client);
/* The lease that a client names; -1: it is over, or somebody else's. */
int lease_region_find(
	const struct lease_book *b, unsigned client, uint64_t region_id, uint64_t epoch);
/* Fills in what a message says about a lease. */
void lease_region_tell(
	const struct lease_book *b, unsigned region, uint64_t now_ns, struct control_lease *out);
/* Revokes until what stays leased fits the target; gives kept memory back that no longer does. */
void lease_target_apply(struct lease_book *b);
/* Revocations that are over, and one wipe. */
void lease_regions_tick(struct lease_book *b, uint64_t now_ns);
uint64_t lease_free_bytes(const struct lease_book *b);

/* lease_spare.c */
#define LEASE_NOBODY UINT_MAX
/* Since when the holder of a lease can spare it; 0: it cannot. */
void lease_spare_mark(struct lease_book *b, unsigned region, uint64_t since_ns);
/* A client can spare these regions, and no others of its own. What is not its own is counted. */
void lease_spare_tell(
	struct lease_book *b, unsigned client, const uint64_t *region, uint32_t count);
/* A client that has no session says nothing. */
void lease_spare_forget(struct lease_book *b, unsigned client);
/* What all others can spare. */
uint64_t lease_spare_bytes(const struct lease_book *b, unsigned client);
/* Of the other client that can spare most, what it could spare for longest; -1: there is none.
 * client may be LEASE_NOBODY. */
int lease_spare_choose(const struct lease_book *b, unsigned client);
/* There is no region left for this client: one that another can spare is asked back, unless one is
 * already being asked back for it. */
void lease_spare_reclaim(struct lease_book *b, unsigned client);
/* The lease on the region ends. */
void lease_spare_ended(struct lease_book *b, unsigned region);
/* What is free, or will be, was asked back for somebody. */
bool lease_spare_is_held(const struct lease_book *b);

/* lease.c */
void lease_client_send(struct lease_book *b, unsigned client, const struct control_msg *m);
/* Ends the data connections of a client that were opened with its token. */
void lease_token_remove(struct lease_book *b, unsigned client);
void lease_refuse(struct lease_book *b, enum lease_refusal why);

static inline uint64_t lease_ms_ns(uint64_t ms)
{
	return ms * 1000000ull;
}

/* Milliseconds left until a time, rounded down; 0 when it is over. */
static inline uint32_t lease_ms_left(uint64_t until_ns, uint64_t now_ns)
{
	uint64_t ms = until_ns > now_ns ? (until_ns - now_ns) / 1000000 : 0;
	return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

#endif
