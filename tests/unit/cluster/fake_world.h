/* Donors, a network and lanes under virtual time, for the tests of the cluster logic. */
#ifndef FALLOW_TEST_CLUSTER_WORLD_H
#define FALLOW_TEST_CLUSTER_WORLD_H

#include "client-backend/cluster/cluster.h"

#define WORLD_DONORS 4
#define WORLD_LANES  2
#define WORLD_LEASES 64	 /* of one donor, or held by the lanes of one donor */
#define WORLD_QUEUE  512 /* messages under way in one direction */
#define MS	     1000000ull
#define REGION	     (64ull << 20)

struct fake_lease {
	bool used, revoking;
	uint64_t id, epoch, key;
	uint64_t expires_ns, revoke_ns;
};

/* A donor: answers on its own, leases while it has room. */
struct fake_donor {
	bool running, hung; /* hung: reads nothing */
	bool mute;	    /* does not answer when asked for a lease */
	bool session;	    /* the cluster's connection reached it */
	bool helloed;
	uint64_t boot_id, epoch;
	unsigned capacity; /* regions */
	unsigned others; /* regions of others, which they can spare; one makes way for a request */
	unsigned asked_ephemeral; /* requests for ephemeral copies */
	unsigned spare;		  /* leases that the last renewal named as spare */
	bool spare_id[WORLD_LEASES];
	bool draining;
	uint64_t ttl_ms;
	struct fake_lease lease[WORLD_LEASES];
};

struct world_msg {
	uint64_t at_ns;
	struct control_msg m;
};

struct world_queue {
	unsigned head, count;
	struct world_msg *msg; /* WORLD_QUEUE */
};

/* What a lane holds, as its engine would. */
struct lane_region {
	bool used, bound, revoking, spare;
	unsigned lane;
	uint64_t id, epoch, rkey;
};

struct world {
	uint64_t now_ns, seed;
	struct env env;
	struct cluster_config cfg;
	struct cluster_donor_config donor_cfg[WORLD_DONORS];
	struct cluster *c;
	uint64_t tick_ns; /* when the cluster wants its tick */
	unsigned ndonors;
	struct fake_donor donor[WORLD_DONORS];
	struct world_queue to[WORLD_DONORS], from[WORLD_DONORS];
	bool connecting[WORLD_DONORS];
	uint64_t connect_at_ns[WORLD_DONORS];
	struct lane_region region[WORLD_DONORS][WORLD_LEASES];
	bool up[WORLD_DONORS], suspect[WORLD_DONORS], data_open[WORLD_DONORS];
	enum cluster_transport transport[WORLD_DONORS];
	unsigned sent[WORLD_DONORS][CONTROL_MSG_TYPES];
	unsigned binds, revokes, losts, adds, connects, disconnects, protos;
	uint64_t delay_max_ns; /* of a message */
	bool automatic;	       /* fake donors answer; else only the test does */
};

void world_init(struct world *w, uint64_t seed, unsigned ndonors);
void world_fini(struct world *w);
void world_cluster_new(struct world *w);
/* Ends the backend as SIGKILL would and starts it anew; the lanes' arenas stay. */
void world_cluster_restart(struct world *w);
uint64_t world_random(struct world *w);

/* Lets time go by, delivering and ticking; never past until. */
void world_run(struct world *w, uint64_t duration_ns);
void world_tick(struct world *w);
/* Puts a message under way from a donor to the cluster. */
void world_donor_send(struct world *w, unsigned donor, const struct control_msg *m);
void world_donor_crash(struct world *w, unsigned donor);
void world_donor_start(struct world *w, unsigned donor);
void world_session_cut(struct world *w, unsigned donor);
void world_donor_revoke(struct world *w, unsigned donor, unsigned lease, uint32_t deadline_ms);
/* The lane holds only ephemeral copies there, or more. */
void world_lane_spare(struct world *w, unsigned donor, struct lane_region *r, bool spare);
/* The lane is through with the region. */
void world_lane_release(struct world *w, unsigned donor, struct lane_region *r);
unsigned world_lane_regions(const struct world *w, unsigned donor); /* held by all lanes */
unsigned world_donor_leases(const struct world *w, unsigned donor);
struct cluster_donor_info world_info(const struct world *w, unsigned donor);
/* The rules that hold at any time; aborts with a message otherwise. */
void world_check(struct world *w);

#endif
