/* The remote tier of one lane: connections to donors, and engine I/O on them with a time limit. */
#ifndef FALLOW_TIER_REMOTE_H
#define FALLOW_TIER_REMOTE_H

#include "client-backend/engine/engine.h"
#include "lib/transport/transport.h"

/*
 * Two connections per donor, so that a client's get never queues behind a segment being moved.
 * Everything here is for the lane's thread, never blocks, and allocates only in tier_remote_new().
 */
enum tier_remote_channel { TIER_REMOTE_DEMAND, TIER_REMOTE_BACKGROUND, TIER_REMOTE_CHANNELS };

struct tier_remote;

struct tier_remote_config {
	uint64_t io_timeout_ns; /* a transfer that takes longer breaks its connection */
	/* A connection failed or a transfer timed out on it: the tier has already ended every
	 * transfer on it; the caller destroys conn on the control thread and connects anew. Must
	 * not call back. */
	void (*broken)(void *ctx, unsigned donor, enum tier_remote_channel channel,
		struct transport_conn *conn);
	void *ctx;
};

struct tier_remote_donor_stats {
	stat_t reads, writes, bytes_read, bytes_written, errors, timeouts, refused;
	struct hist read_ns; /* demand reads, post to completion */
};

int tier_remote_new(
	const struct tier_remote_config *cfg, const struct env *env, struct tier_remote **out);
/* Every connection was detached before. The transports stay the caller's. */
void tier_remote_delete(struct tier_remote *r);
/* A transport whose poll() this tier drives; at most 4. */
int tier_remote_add_transport(
	struct tier_remote *r, const struct transport_ops *ops, struct transport *t);
/* Takes an established connection. -EEXIST: the channel has one already. */
int tier_remote_attach(struct tier_remote *r, unsigned donor, enum tier_remote_channel channel,
	const struct transport_ops *ops, struct transport_conn *conn);
/* Ends the channel's transfers (-ECANCELED) and gives the connection back for destroy(); NULL: had
 * none. */
struct transport_conn *tier_remote_detach(
	struct tier_remote *r, unsigned donor, enum tier_remote_channel channel);
bool tier_remote_connected(const struct tier_remote *r, unsigned donor);
/* Connected for background transfers, too: segments can be moved there. */
bool tier_remote_writable(const struct tier_remote *r, unsigned donor);

/* engine_ops.io_read and io_write for io->region != NULL, io_abandon (at the next poll, as if it
 * were overdue) and io_kick. */
int tier_remote_read(struct tier_remote *r, struct engine_io *io);
int tier_remote_write(struct tier_remote *r, struct engine_io *io);
void tier_remote_abandon(struct tier_remote *r, struct engine_io *io);
void tier_remote_kick(struct tier_remote *r);
/* Completes transfers (at most budget per transport) and ends what is overdue; returns how many
 * completed. */
unsigned tier_remote_poll(struct tier_remote *r, unsigned budget);
/* When the earliest transfer becomes overdue; UINT64_MAX: none is under way. */
uint64_t tier_remote_deadline_ns(const struct tier_remote *r);
/* NULL for a donor never used. */
const struct tier_remote_donor_stats *tier_remote_stats(
	const struct tier_remote *r, unsigned donor);

#endif
