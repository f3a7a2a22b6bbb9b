/* The one-sided transport between a lane and the memory servers: read and write leased memory. */
#ifndef FALLOW_TRANSPORT_H
#define FALLOW_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct transport;      /* one per lane: its completion queue or epoll set */
struct transport_conn; /* one per lane and donor: its queue pair or socket */
struct transport_memory; /* memory of somebody else's that READs may go to: a guest's */

/* memory_register() does so much at a time. */
#define TRANSPORT_MEMORY_PIECE_BYTES (256ull << 20)

/* Where a donor's data port is and what proves who we are (from the control session's HelloAck). */
struct transport_peer {
	char host[256];     /* name or numeric address */
	uint16_t port;      /* of this transport's listener on the donor */
	uint64_t token[2];  /* the control session's token; the donor refuses others */
	uint32_t timeout_ms; /* establishing must end, one way or the other, within this */
};

enum transport_op_kind { TRANSPORT_READ, TRANSPORT_WRITE };

/*
 * One transfer. The caller owns it and its buffer; both must stay until done() is called. The buffer
 * lies in memory given to mem_register(), or in `memory`. done() is called exactly once for each op
 * that post() accepted, from poll() or disconnect(), on the lane's thread. Nothing writes into the
 * buffer from then on, whatever the status. It is 0 or a negative errno:
 *   -EREMOTEIO  the donor refused the access (wrong or expired rkey, out of bounds, revoked region)
 *   -ECONNRESET the connection broke; the op may or may not have taken effect
 *   -ECANCELED  disconnect() was called
 */
struct transport_op {
	enum transport_op_kind kind;
	uint32_t len;     /* bytes */
	void *buf;        /* local memory */
	const struct transport_memory *memory; /* READs: that buf lies in; NULL: mem_register()'s */
	uint64_t rkey;    /* from the lease */
	uint64_t raddr;   /* from the lease, plus the offset in the region in bytes */
	void (*done)(struct transport_op *op, int status);
	struct transport_op *next; /* the transport's own until done() */
	uint64_t priv[2];          /* the transport's own until done() */
};

/*
 * All functions return 0 or a negative errno unless stated. "lane" and "control" name the only thread
 * that may call a function; the two never touch the same field of a connection at the same time: the
 * control thread owns a connection until conn_progress() returned 0 and it handed it to the lane with
 * attach(); afterwards the control thread only watches conn_fd() and calls conn_progress().
 */
struct transport_ops {
	const char *name; /* "tcp", "verbs", "sim" */

	/* lane (or before the lane starts). device: an RDMA device name or NULL for any. depth: the most
	 * ops outstanding on one connection. *out is owned by the caller; -ENODEV: no such device here. */
	int (*open)(const char *device, uint32_t depth, struct transport **out);
	/* lane; every connection was destroyed before. */
	void (*close)(struct transport *t);
	/* lane, at start; at most 8 areas. base and len are multiples of the page size. */
	int (*mem_register)(struct transport *t, void *base, size_t len);

	/*
	 * Where the three are NULL every op's buffer lies in memory given to mem_register().
	 * control; memory that READs of every transport of the same device may go to. base is a
	 * multiple of the page size; nothing is registered yet. -ENOMEM, -EINVAL.
	 */
	int (*memory_new)(
		struct transport *t, void *base, size_t len, struct transport_memory **out);
	/* Any thread, one at a time; blocks while the kernel pins the next piece of it, which ops
	 * may name from then on. 1: there is more; 0: that was all; or the errno of pinning. */
	int (*memory_register)(struct transport_memory *m);
	/* control; no op that names it is outstanding. Blocks while the kernel lets go of it. */
	void (*memory_delete)(struct transport_memory *m);

	/* control; never blocks: starts establishing. *out is then driven by conn_progress(). */
	int (*connect)(struct transport *t, const struct transport_peer *peer,
		struct transport_conn **out);
	/* control; the descriptor to watch (readable or writable, edge does not matter) and then call
	 * conn_progress(); may change until established. -1: none, call it from a timer. */
	int (*conn_fd)(struct transport_conn *c);
	/* control; -EINPROGRESS not yet, 0 established, other: the connection failed or, after
	 * establishment, broke (the lane must disconnect()). Never blocks. */
	int (*conn_progress)(struct transport_conn *c);

	/* lane; takes an established connection over. */
	int (*attach)(struct transport_conn *c);
	/* lane; queues op. -EAGAIN: depth ops are outstanding; -ENOTCONN: broken or disconnected;
	 * -EOPNOTSUPP: op->memory is not registered there, or buf lies across two pieces. */
	int (*post)(struct transport_conn *c, struct transport_op *op);
	/* lane; sends what post() queued (one doorbell for the batch). */
	void (*doorbell)(struct transport_conn *c);
	/* lane; completes at most budget ops; returns how many were completed, or negative. Sets
	 * conn_broken() on connections that failed; their ops complete with -ECONNRESET. */
	int (*poll)(struct transport *t, unsigned budget);
	/* lane; true after the connection failed. */
	bool (*conn_broken)(const struct transport_conn *c);
	/* lane; asks for event_fd() to become readable at the next completion. -EAGAIN: something is
	 * there already, poll instead of sleeping. */
	int (*arm)(struct transport *t);
	int (*event_fd)(struct transport *t);
	/* lane; ends the connection: every outstanding op is done(-ECANCELED) before it returns, and
	 * the peer's hardware no longer writes into our buffers. */
	void (*disconnect)(struct transport_conn *c);
	/* control; frees a connection that was never attached, or was disconnected by the lane. */
	void (*destroy)(struct transport_conn *c);
};

extern const struct transport_ops transport_tcp;
extern const struct transport_ops transport_verbs;

#endif
