/* A network card of plain memory: stands in for libibverbs and librdmacm at link time. */
#ifndef FALLOW_TEST_FAKE_VERBS_H
#define FALLOW_TEST_FAKE_VERBS_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

#define FAKE_WRS 128

struct fake_qp {
	struct ibv_qp qp;
	enum ibv_qp_state now;
	struct ibv_send_wr wr[FAKE_WRS]; /* posted, not executed */
	unsigned wrs;
	struct fake_qp *next;
};

struct fake {
	int devices;
	int live;	  /* objects that exist */
	const char *fail; /* the function that fails next time, with EIO or its own convention */
	unsigned post_calls,
		fail_post_at; /* ibv_post_send refuses this many requests into a call; 0: none */
	bool hold;	      /* a stopped queue pair gives nothing back */
	unsigned acked, notified;
	void (*before_poll)(void); /* called once before the next poll */
	int rejected;		   /* reason of the last rdma_reject; 0: none */
	unsigned accepted, disconnected;
	uint8_t hello[64];
	unsigned hello_bytes;
	uint8_t ack_timeout, retries; /* of the last rdma_connect */
	struct fake_qp *qps;
	struct rdma_cm_id *last_id, *listener;
	struct ibv_pd *mr_pd; /* of the last registration */
	struct ibv_context device;
};

extern struct fake fake;

void fake_reset(void);
/* The card carries out n requests with success. */
void fake_run(struct fake_qp *q, unsigned n);
/* The oldest request fails, which stops the queue pair; the rest is flushed. */
void fake_break(struct fake_qp *q, enum ibv_wc_status status);
void fake_flush(struct fake_qp *q);
/* A connection event for the id's channel. */
void fake_event(struct rdma_cm_id *id, enum rdma_cm_event_type type, int status, const void *data,
	uint8_t len);
/* A peer asks to connect; returns its new id. */
struct rdma_cm_id *fake_request(const void *data, uint8_t len);

#endif
