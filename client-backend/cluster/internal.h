/* What the files of the cluster logic share: donors, the leases held of them, and the steps
 * between. */
#ifndef FALLOW_CLUSTER_INTERNAL_H
#define FALLOW_CLUSTER_INTERNAL_H

#include "client-backend/cluster/cluster.h"

#define CLUSTER_NEVER	   UINT64_MAX
#define CLUSTER_MS	   1000000ull
#define CLUSTER_BUCKETS	   4096u	/* of the lease hash; a power of two */
#define CLUSTER_MAX_LISTED 65536u	/* leases of one donor at a time; more is a lie */
#define CLUSTER_MAX_REGION (1ull << 40) /* bytes of one region; more is a lie */

/* A refused lease request: the donor is not asked again for this long, doubled each time. */
#define CLUSTER_REFUSED_MIN_NS (250 * CLUSTER_MS)
#define CLUSTER_REFUSED_MAX_NS (10000 * CLUSTER_MS)

/* A donor is told at most this often which leases became spare, or are no longer. */
#define CLUSTER_SPARE_NS (1000 * CLUSTER_MS)

/*
 * Bad data: every record or segment that fails verification adds one point, every minute takes one
 * away. A donor that reaches BAD_POINTS gets no new placements until it is back at zero.
 */
#define CLUSTER_BAD_POINTS   8u
#define CLUSTER_BAD_DECAY_NS (60000 * CLUSTER_MS)

enum lease_state {
	LEASE_HELD,	/* in use by its lane */
	LEASE_REVOKING, /* the lane was told to move away; ends at the deadline at the latest */
	LEASE_ENDED,	/* the lane does not use it; kept until the donor's list shows it gone */
};

/* A lease as this side knows it. In its donor's list and in the hash. */
struct lease {
	struct engine_region_desc desc;
	unsigned donor, lane;
	enum lease_state state;
	bool listed;	     /* seen in the list being received */
	bool keys_changed;   /* the list being received has other keys than the lane knows */
	bool spare;	     /* another backend may have it: the lane said so */
	bool revoke_asked;   /* the list being received says it is being revoked */
	uint64_t revoke_ns;  /* LEASE_REVOKING or revoke_asked: the deadline */
	uint64_t expires_ns; /* by our clock, counted from when the last renewal was sent */
	uint64_t ended_seq;  /* LEASE_ENDED: value of donor.send_seq when the end was told */
	bool end_told; /* LEASE_ENDED: LEASE_RELEASE or REVOKE_DONE was sent in this session */
	struct lease *next, **pprev;	       /* of its donor */
	struct lease *hash_next, **hash_pprev; /* of its bucket */
};

struct refusal {
	uint64_t until_ns, backoff_ns;
};

struct donor {
	struct cluster_donor_config cfg;
	enum cluster_donor_phase phase; /* written by donor_phase_change() only */
	bool dead; /* dead_ns went by without a session; its leases were given up */
	bool told_up, told_suspect, told_any; /* last donor_state() */
	bool data_open;
	uint64_t alive_ns;     /* last proof of life, or the start */
	uint64_t phase_ns;     /* when the phase was entered */
	uint64_t reconnect_ns; /* DOWN, DEAD: when to connect */
	uint64_t backoff_ns;   /* before jitter */
	const char *reason;    /* why the last session ended */

	/* the session */
	bool acked;	 /* HELLO_ACK came */
	bool reconciled; /* the first list is complete */
	uint64_t hello_sent_ns;
	uint64_t send_seq; /* messages sent, over all sessions */
	uint64_t token[2];
	uint64_t boot_id; /* 0: never heard */
	uint64_t ttl_ns;
	uint64_t region_bytes;
	uint16_t data_port;
	enum cluster_transport transport;
	uint32_t domain;
	bool draining;
	uint64_t stats_free, stats_total, stats_spare;
	bool stats_known;

	/* heartbeat: one at a time */
	uint64_t hb_sequence, hb_sent_ns, hb_next_ns; /* hb_sent_ns 0: none unanswered */

	/* list being received: the first one of a session, or the answer to a renewal */
	bool list_open; /* a part came, more will follow */
	unsigned listed;
	bool renewing; /* a renewal is unanswered */
	uint64_t renew_sent_ns, renew_seq, renew_next_ns;
	bool spare_changed; /* since the last renewal was sent */

	/* lease request: one at a time */
	bool asking;
	unsigned asking_lane;
	bool asking_ephemeral;
	uint64_t request_id, request_sent_ns;
	struct refusal refusal[2]; /* of requests; of those for ephemeral copies only */

	unsigned bad_points;
	uint64_t bad_decay_ns; /* when the next point goes */
	bool distrusted;

	struct lease *leases;
	unsigned nleases;
	uint64_t held_bytes, revoking_bytes; /* held includes revoking */
	uint64_t spare_bytes;		     /* of held that are not revoking */
	uint64_t sessions, bad_data, lost_regions, refused_leases;
	int64_t rtt_ns;
};

struct lane_want {
	unsigned wanted; /* regions, as the lane said last, less those given since */
	unsigned asked;	 /* requests under way for it */
	bool ephemeral;	 /* what is wanted is for copies of ephemeral segments only */
};

struct cluster {
	struct cluster_config cfg;
	const struct env *env;
	const struct cluster_ops *ops;
	void *ctx;
	bool started;
	uint64_t due_ns; /* what cluster_tick() returned last */
	unsigned ndonors;
	struct donor *donors;
	struct lane_want *lanes;
	unsigned next_lane;   /* whose turn it is to be given a region */
	uint64_t held_bytes;  /* over all donors */
	uint64_t asked_bytes; /* requests under way */
	uint64_t next_request_id;
	struct lease *bucket[CLUSTER_BUCKETS];
};

/* session.c: phases, hello, heartbeats */
unsigned donor_index(const struct cluster *c, const struct donor *d);
void donor_phase_change(struct cluster *c, struct donor *d, enum cluster_donor_phase to);
void donor_state_tell(struct cluster *c, struct donor *d);
void donor_send(struct cluster *c, struct donor *d, const struct control_msg *m);
/* The session is over (already closed, or about to be by the caller): forget it, plan the next one.
 */
void donor_session_end(struct cluster *c, struct donor *d, const char *why);
/* The same, and asks the surroundings to close it. */
void donor_session_close(struct cluster *c, struct donor *d, const char *why);
void donor_up(struct cluster *c, struct donor *d);
int donor_hello_ack(struct cluster *c, struct donor *d, const struct control_msg *m);
int donor_heartbeat(struct cluster *c, struct donor *d, const struct control_msg *m);
void donor_tick(struct cluster *c, struct donor *d, uint64_t now);
uint64_t donor_next_ns(const struct cluster *c, const struct donor *d);
bool donor_has_session(const struct donor *d);

/* regions.c: the leases */
uint32_t lease_domain_hash(const char *label);
struct lease *lease_find(struct cluster *c, const struct donor *d, uint64_t id, uint64_t epoch);
struct lease *lease_new(struct cluster *c, struct donor *d, uint64_t id, uint64_t epoch);
void lease_free(struct cluster *c, struct lease *l);
void lease_hold(struct cluster *c, struct lease *l); /* a new one becomes LEASE_HELD */
void lease_lost(
	struct cluster *c, struct lease *l); /* tells the lane; the entry is LEASE_ENDED then */
/* Another backend may have it, or not. */
void lease_spare_set(struct cluster *c, struct lease *l, bool spare);
void lease_end_tell(struct cluster *c, struct lease *l);
void lease_all_lost(struct cluster *c, struct donor *d); /* tells the lanes and frees the entries */
int lease_list(struct cluster *c, struct donor *d, const struct control_msg *m);
int lease_revoke(struct cluster *c, struct donor *d, const struct control_msg *m);
void lease_tick(struct cluster *c, struct donor *d, uint64_t now);
uint64_t lease_next_ns(const struct cluster *c, const struct donor *d);
bool lease_sane(const struct donor *d, const struct control_lease *l);
void lease_keys_set(struct donor *d, struct lease *l, const struct control_lease *m);

/* placement.c: which donor is asked for a region */
int placement_grant(struct cluster *c, struct donor *d, const struct control_msg *m);
void placement_request_forget(struct cluster *c, struct donor *d);
void placement_run(struct cluster *c);
uint64_t placement_next_ns(const struct cluster *c);

#endif
