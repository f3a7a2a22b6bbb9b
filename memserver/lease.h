/* The memory server's books: clients, sessions, regions and leases, as pure logic. */
#ifndef FALLOW_MEMSERVER_LEASE_H
#define FALLOW_MEMSERVER_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/control/msg.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * No sockets, no threads, no clock: the daemon (or the simulator) feeds it sessions, messages,
 * targets and ticks, and it answers through lease_ops. All calls are on one thread and never block,
 * but for what the ops do. After every call (but the info ones) ask lease_book_next_ns() when to
 * call lease_book_tick().
 *
 * Rules:
 * - A client is an identity and a secret; the first HELLO with an identity sets its secret. Another
 * secret is refused for as long as the client is known. A client with neither session nor lease is
 * forgotten only when its place in the table is needed, the one not seen for longest first.
 * - A new session of a client supersedes its old one, which is closed.
 * - Every valid message of a client renews all its leases: they end ttl_ms after the last one,
 * whether its session is still there or not.
 * - A region goes FREE -> LEASED -> (REVOKING ->) FREE. At the end of a lease its keys are
 * withdrawn first; then its memory goes back to the system, or is wiped (WIPING, one region per
 * tick) when it is kept. Nobody is ever given memory that was not wiped or fresh from the system.
 * - When more is leased than the target, regions are revoked one by one: first those that their
 * clients can spare (below), then each time from the client that holds the most (not yet revoked)
 * regions, the newest lease first: it had the least time to be filled. A revocation is never taken
 * back. When the grace is over the region is taken, answer or not.
 * - A client says with LEASE_RENEW which of its leases it can spare: those that hold nothing but
 * ephemeral copies. When there is no region for a request that is not for ephemeral copies, one of
 * these is revoked, with the same grace: of the client that can spare most, the one it could spare
 * for longest; one at a time for each client that asks. The request is refused; the client asks
 * again when STATS tell of room, which until then, and for a second, goes to no request for
 * ephemeral copies. A client without a session spares nothing.
 */
struct lease_book;
struct lease_session;

struct lease_config {
	char name[CONTROL_NAME_BYTES];		 /* told in HELLO_ACK */
	char failure_domain[CONTROL_NAME_BYTES]; /* told in HELLO_ACK */
	uint16_t tcp_port, verbs_port;		 /* data ports; 0: not offered */
	uint64_t region_bytes;			 /* length of every region; a multiple of 4096 */
	uint64_t min_bytes, max_bytes; /* bounds of the target; at the start it is min_bytes */
	uint64_t client_max_bytes;     /* leased to one client at a time; 0: no limit but max */
	uint32_t keep_regions;	       /* wiped regions kept for the next lease, at most */
	uint32_t max_clients;	       /* known at a time */
	uint32_t max_sessions;	       /* open at a time, with or without a HELLO */
	uint32_t ttl_ms;	       /* a lease's time to live */
	uint32_t grace_ms;	       /* from REVOKE to the forced taking */
	uint32_t hello_timeout_ms;     /* a session without a HELLO is closed after this */
	uint32_t stats_interval_ms;    /* STATS are sent at most this often */
};

/* What a client needs to reach a region (struct control_lease). */
struct lease_keys {
	uint64_t tcp_key;
	uint32_t verbs_rkey;
	uint64_t verbs_raddr;
};

/* What the book calls; ops must not call back into the book. region: 0 .. max_bytes / region_bytes
 * - 1. client: 0 .. max_clients - 1. All return 0 or a negative errno. */
struct lease_ops {
	/* Memory of region_bytes, reading as zeros. -ENOMEM. */
	int (*region_alloc)(void *ctx, unsigned region);
	/* Gives the memory back to the system. It is not exported. */
	void (*region_free)(void *ctx, unsigned region);
	/* Makes all of the region read as zeros. It is not exported. */
	void (*region_wipe)(void *ctx, unsigned region);
	/* Makes the region readable and writable for this client alone; the keys are new, never
	 * used before. */
	int (*region_export)(void *ctx, unsigned region, unsigned client, struct lease_keys *keys);
	/* From its return on nobody can read or write the region, whatever was on its way. */
	void (*region_unexport)(void *ctx, unsigned region, unsigned client);
	/* A client became known, or was forgotten (no token, no region exported to it). Optional.
	 * -EPERM: this identity may not lease here. */
	int (*client_add)(void *ctx, unsigned client, const uint8_t identity[16]);
	void (*client_remove)(void *ctx, unsigned client);
	/* Makes up an unguessable token that opens the data ports to this client until it is
	 * removed. */
	int (*token_add)(void *ctx, unsigned client, uint64_t token[2]);
	/* Closes the client's data connections that were opened with it, too. */
	void (*token_remove)(void *ctx, unsigned client, const uint64_t token[2]);
	/* peer: as given to lease_session_open(). A send that fails ends in lease_session_closed(),
	 * later. */
	void (*send)(void *ctx, void *peer, const struct control_msg *m);
	/* The book ends this session and has forgotten it: tell the peer (CONTROL_ERROR) and close.
	 */
	void (*close)(void *ctx, void *peer, int status, const char *text);
};

/* Why something was refused or ended. */
enum lease_refusal {
	LEASE_REFUSED_SESSIONS,	     /* max_sessions are open */
	LEASE_REFUSED_HELLO_TIMEOUT, /* no HELLO in time */
	LEASE_REFUSED_VERSION,	     /* no version in common */
	LEASE_REFUSED_SECRET,	     /* wrong secret for this identity */
	LEASE_REFUSED_IDENTITY,	     /* not one of those that may lease here */
	LEASE_REFUSED_CLIENTS,	     /* max_clients are known and busy */
	LEASE_REFUSED_ORDER,	     /* a message out of order or not for a server */
	LEASE_REFUSED_SUPERSEDED,    /* closed by a newer session of the same client */
	LEASE_REFUSED_INTERNAL,	     /* a token or client could not be made */
	LEASE_REFUSED_SPACE,	     /* LEASE_REQUEST: -ENOSPC */
	LEASE_REFUSED_MEMORY,	/* LEASE_REQUEST: -ENOSPC, the system or the transport gave none */
	LEASE_REFUSED_QUOTA,	/* LEASE_REQUEST: -EDQUOT */
	LEASE_REFUSED_DRAINING, /* LEASE_REQUEST: -ESHUTDOWN */
	LEASE_REFUSED_WANTED, /* LEASE_REQUEST: -ENOSPC, ephemeral, others wait for what there is */
	LEASE_REFUSED_STALE,  /* LEASE_RELEASE, REVOKE_DONE or LEASE_RENEW name a lease that is over
			       */
	LEASE_REFUSALS
};
/* "sessions", "hello_timeout", ...: the metric's label. */
const char *lease_refusal_name(enum lease_refusal r);

struct lease_stats {
	stat_t sessions, sessions_total, clients; /* gauge, counter, gauge */
	stat_t regions_leased, regions_revoking,
		regions_kept,		   /* gauges; leased includes revoking */
		regions_spare;		   /* gauge: those leased that their holders can spare */
	stat_t target_bytes, leased_bytes; /* gauges */
	stat_t grants, releases, expiries, revocations, revoke_dones, forced, wipes; /* counters */
	stat_t reclaims; /* counter: of the revocations, those of regions that could be spared */
	stat_t refused[LEASE_REFUSALS];
};

enum lease_region_state {
	LEASE_REGION_FREE,
	LEASE_REGION_LEASED,
	LEASE_REGION_REVOKING,
	LEASE_REGION_WIPING
};

struct lease_region_info {
	enum lease_region_state state;
	bool has_memory;
	unsigned client; /* LEASED, REVOKING */
	uint64_t region_id, epoch;
	uint64_t deadline_ns; /* REVOKING */
	bool spare;	      /* LEASED: its holder can spare it */
};

struct lease_client_info {
	uint8_t identity[16];
	char name[CONTROL_NAME_BYTES];
	bool connected;
	unsigned regions, revoking; /* regions includes revoking */
	unsigned spare;		    /* of the others */
	uint64_t expires_ns;	    /* of its leases */
};

/* 0, or -EINVAL with a sentence in err that names the value. */
int lease_config_check(const struct lease_config *cfg, char *err, size_t err_bytes);
/* Allocates all it will ever need. boot_id: never 0, new at each start. cfg is copied; ops and env
 * must outlive it. */
int lease_book_new(const struct lease_config *cfg, uint64_t boot_id, const struct env *env,
	const struct lease_ops *ops, void *ctx, struct lease_book **out);
/* Withdraws and frees every region, removes every token and client; sends and closes nothing. */
void lease_book_delete(struct lease_book *b);
/* Ends it as SIGKILL would: calls no op. Simulator. */
void lease_book_abandon(struct lease_book *b);

/* A peer connected. -EBUSY: too many sessions (counted; the caller tells the peer and closes it).
 */
int lease_session_open(struct lease_book *b, void *peer, struct lease_session **out);
/* 0, or a negative errno: ops->close() was called, the session is no more. */
int lease_session_message(
	struct lease_book *b, struct lease_session *s, const struct control_msg *m);
/* The peer is gone; not to be called after ops->close(). */
void lease_session_closed(struct lease_book *b, struct lease_session *s);

/* Ends every session through ops->close(); leases stay. */
void lease_book_close_all(struct lease_book *b, int status, const char *text);

/* What the machine can spare; kept within min_bytes and max_bytes; starts revocations. */
void lease_book_target_set(struct lease_book *b, uint64_t target_bytes);
/* Changes what may change at run time: client_max_bytes, keep_regions, ttl_ms, grace_ms,
 * hello_timeout_ms, stats_interval_ms, min_bytes, max_bytes (not above the one given at
 * lease_book_new()). */
int lease_book_tune(
	struct lease_book *b, const struct lease_config *cfg, char *err, size_t err_bytes);
/* Leases no more and revokes everything, to be taken after limit_ms at the latest. Repeated: a
 * shorter limit. */
void lease_book_drain(struct lease_book *b, uint32_t limit_ms);
bool lease_book_draining(const struct lease_book *b);
/* No region is leased. */
bool lease_book_idle(const struct lease_book *b);

/* Overdue work; returns lease_book_next_ns(). */
uint64_t lease_book_tick(struct lease_book *b);
/* When lease_book_tick() wants to be called, monotonic ns; UINT64_MAX: never, until something
 * happens. */
uint64_t lease_book_next_ns(const struct lease_book *b);

const struct lease_stats *lease_book_stats(const struct lease_book *b);
unsigned lease_book_regions(const struct lease_book *b); /* rows, in use or not */
void lease_book_region_info(
	const struct lease_book *b, unsigned region, struct lease_region_info *out);
unsigned lease_book_clients(const struct lease_book *b); /* rows, in use or not */
/* false: an unused row */
bool lease_book_client_info(
	const struct lease_book *b, unsigned client, struct lease_client_info *out);
/* Compares all that is stored twice; 0, or -EBADMSG with what is wrong. Tests. */
int lease_book_check(const struct lease_book *b, char *err, size_t err_bytes);

#endif
