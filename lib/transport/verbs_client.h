/* The verbs transport of a lane: what its connecting half and its data half share. */
#ifndef FALLOW_TRANSPORT_VERBS_CLIENT_H
#define FALLOW_TRANSPORT_VERBS_CLIENT_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#include "lib/transport/hello.h"
#include "lib/transport/resolve.h"
#include "lib/transport/transport.h"
#include "lib/transport/verbs_device.h"

#define VERBS_AREAS	 8
#define VERBS_CONNS	 512u /* of one lane at a time */
#define VERBS_DEPTH	 4096u
#define VERBS_CQ_CONNS	 256u /* the completion queue has room for so many full connections */
#define VERBS_DRAIN_MARK 0xffffffffu /* low half of the drain's wr_id */
#define VERBS_DRAIN_MS	 2000	     /* the longest that disconnect() waits for the card */
#define VERBS_MAX_READS	 16	     /* READs in flight that we ask the donor to serve at a time */
/* A packet that is not acknowledged is sent again after 4.096 us * 2^15 = 134 ms (cards may take up
 * to four times that), and so often; then the queue pair is broken. Soft-RoCE takes 7 for no limit.
 */
#define VERBS_ACK_TIMEOUT 15
#define VERBS_RETRIES	  6

enum verbs_conn_state {
	VERBS_CONN_RESOLVE,
	VERBS_CONN_ADDR,
	VERBS_CONN_ROUTE,
	VERBS_CONN_CONNECT,
	VERBS_CONN_READY,
	VERBS_CONN_FAILED
};

struct verbs_conn;

struct verbs_transport {
	struct hello_book book;
	struct ibv_context *device;
	struct verbs_domain *domain;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	uint32_t depth, mask; /* the rings are a power of two: mask + 1 entries */
	uint8_t max_reads;
	uint32_t cq_room;	    /* entries */
	_Atomic uint32_t cq_in_use; /* entries that queue pairs may need at worst */
	/* lane */
	struct {
		uint8_t *base;
		size_t len;
		struct ibv_mr *mr;
	} area[VERBS_AREAS];
	unsigned areas;
	struct verbs_conn *conn[VERBS_CONNS]; /* attached */
	uint32_t next_generation;
	bool armed;
	unsigned events; /* got from the channel, not yet acknowledged */
	struct transport_op *done_first, **done_last;
};

struct verbs_conn {
	struct verbs_transport *transport;
	struct hello_ticket ticket;
	struct ibv_qp *qp; /* control until established, then the lane's */
	atomic_bool broken;
	/* control */
	enum verbs_conn_state state;
	int watch_fd, timer_fd, error;
	bool established; /* once, whatever came later */
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct resolve *resolve;
	struct resolve_result addr;
	int next_addr;
	int step_ms; /* limit for one step of address and route resolution */
	bool reserved;
	/* lane */
	bool attached, draining, drained, cancelling;
	uint32_t row;		    /* in transport->conn */
	uint32_t tag;		    /* high half of wr_id: row and a generation */
	struct transport_op **ring; /* by sequence number, as wr and sge */
	struct ibv_send_wr *wr;
	struct ibv_sge *sge;
	uint32_t head, sent, tail; /* sequence numbers: oldest outstanding, first unsent, next */
};

int verbs_client_connect(
	struct transport *t, const struct transport_peer *peer, struct transport_conn **out);
int verbs_client_conn_fd(struct transport_conn *c);
int verbs_client_conn_progress(struct transport_conn *c);
void verbs_client_destroy(struct transport_conn *c);

/* verbs_memory.c */
int verbs_memory_new(struct transport *t, void *base, size_t len, struct transport_memory **out);
int verbs_memory_register(struct transport_memory *m);
void verbs_memory_delete(struct transport_memory *m);
/* Lane. False: not all of it is registered, or not as one piece. */
bool verbs_memory_key(
	const struct transport_memory *m, const void *buf, uint32_t len, uint32_t *lkey);

#endif
