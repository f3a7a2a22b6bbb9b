/* The backend's side of the control protocol: donors, their leases, and which lane uses which region. */
#ifndef FALLOW_CLUSTER_H
#define FALLOW_CLUSTER_H

#include "client-backend/engine/engine.h"
#include "lib/control/msg.h"
#include "lib/core/env.h"

/*
 * Pure logic for the control thread: no sockets, no threads, no clock. The daemon (or the simulator) feeds it
 * connections, messages, lane requests and ticks; it answers through cluster_ops. All calls are on one
 * thread; no function blocks. ops may be called from within any cluster_* function, but must not call back.
 */
struct cluster;

enum cluster_transport { CLUSTER_TRANSPORT_AUTO, CLUSTER_TRANSPORT_TCP, CLUSTER_TRANSPORT_VERBS };

struct cluster_donor_config {
	char name[CONTROL_NAME_BYTES];   /* unique; arena regions are bound to it */
	char host[256];
	uint16_t port;                   /* control port */
	char failure_domain[CONTROL_NAME_BYTES]; /* "" : what the donor says, or else its name */
	enum cluster_transport transport;
};

struct cluster_config {
	uint8_t identity[16], secret[16];
	char name[CONTROL_NAME_BYTES];
	unsigned lanes;
	bool have_verbs;               /* this machine has an RDMA device */
	uint64_t max_lease_bytes;      /* over all donors */
	uint64_t heartbeat_ns;         /* asked this often */
	uint64_t suspect_ns;           /* no answer for this long: suspect */
	uint64_t dead_ns;              /* no session for this long: its regions are lost, repair begins */
	uint64_t connect_timeout_ns;
	uint64_t reconnect_min_ns, reconnect_max_ns; /* exponential back-off with jitter */
};

/* What the cluster logic asks of its surroundings. lane messages are delivered in order. */
struct cluster_ops {
	/* control sessions: start connecting; answer with cluster_connected() or cluster_disconnected(). */
	void (*connect)(void *ctx, unsigned donor);
	void (*disconnect)(void *ctx, unsigned donor);
	void (*send)(void *ctx, unsigned donor, const struct control_msg *m);
	/* data connections of every lane to a donor: open them with this transport, or close them. The surroundings
	 * reconnect broken ones by themselves until data_close. */
	void (*data_open)(void *ctx, unsigned donor, enum cluster_transport t, uint16_t port,
		const uint64_t token[2]);
	void (*data_close)(void *ctx, unsigned donor);
	/* to lanes: engine_region_add / bind / revoke / lost / engine_donor_state */
	void (*region_add)(void *ctx, unsigned lane, const struct engine_region_desc *d);
	void (*region_bind)(void *ctx, unsigned lane, const struct engine_region_desc *d);
	void (*region_revoke)(void *ctx, unsigned lane, const struct engine_region_desc *d);
	void (*region_lost)(void *ctx, unsigned lane, const struct engine_region_desc *d);
	void (*donor_state)(void *ctx, unsigned donor, bool up, bool suspect);
};

int cluster_new(const struct cluster_config *cfg, const struct cluster_donor_config *donors,
	unsigned ndonors, const struct env *env, const struct cluster_ops *ops, void *ctx,
	struct cluster **out);
void cluster_delete(struct cluster *c);
/* Before cluster_start(), after a restart: a region that a lane's arena holds. */
void cluster_adopt(struct cluster *c, unsigned lane, const struct engine_region_desc *d);
void cluster_start(struct cluster *c);

void cluster_connected(struct cluster *c, unsigned donor);
void cluster_disconnected(struct cluster *c, unsigned donor);
/* A message from the donor's session. Returns -EPROTO when out of order or senseless; the caller then
 * disconnects and counts it. */
int cluster_message(struct cluster *c, unsigned donor, const struct control_msg *m);
/* Overdue work; returns when to call again, monotonic ns. */
uint64_t cluster_tick(struct cluster *c);

/* From lanes. */
/* ephemeral: for copies of ephemeral segments only, so they take nothing from other backends. */
void cluster_want_regions(struct cluster *c, unsigned lane, unsigned count, bool ephemeral);
/* The lane's region holds nothing but such copies and could go to another backend, or no longer so. */
void cluster_region_spare(
	struct cluster *c, unsigned lane, const struct engine_region_desc *d, bool spare);
void cluster_region_released(struct cluster *c, unsigned lane, const struct engine_region_desc *d);
void cluster_bad_data(struct cluster *c, unsigned donor);

/* For status. */
enum cluster_donor_phase { DONOR_DOWN, DONOR_CONNECTING, DONOR_HELLO, DONOR_UP, DONOR_SUSPECT, DONOR_DEAD };
struct cluster_donor_info {
	const struct cluster_donor_config *config;
	enum cluster_donor_phase phase;
	enum cluster_transport transport;
	bool draining;
	uint64_t leased_bytes, revoking_bytes, donor_free_bytes, donor_total_bytes;
	uint64_t spare_bytes;	    /* of leased_bytes: ephemeral copies only, others may have it */
	uint64_t donor_spare_bytes; /* the same of other backends, as the donor says */
	uint64_t sessions, bad_data, lost_regions, refused_leases;
	int64_t rtt_ns; /* last heartbeat; -1 unknown */
};
unsigned cluster_donors(const struct cluster *c);
void cluster_donor_info(const struct cluster *c, unsigned donor, struct cluster_donor_info *out);
/* Why the donor has no session, or "" while it has one; a constant. */
const char *cluster_donor_reason(const struct cluster *c, unsigned donor);

#endif
