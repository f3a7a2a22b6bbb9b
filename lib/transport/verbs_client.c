/* The data half of the verbs transport: work requests out, completions in, in the order posted. */
#include "lib/transport/verbs_client.h"
#include "lib/transport/done_list.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define VERBS_POLL_BATCH 32
#define VERBS_ACK_EVENTS 16 /* acknowledging takes a lock, so it is done for several at once */

static void transport_free(struct verbs_transport *t)
{
	for (unsigned i = 0; i < t->areas; i++)
		ibv_dereg_mr(t->area[i].mr);
	if (t->cq) {
		if (t->events)
			ibv_ack_cq_events(t->cq, t->events);
		ibv_destroy_cq(t->cq);
	}
	if (t->channel)
		ibv_destroy_comp_channel(t->channel);
	verbs_domain_put(t->domain);
	hello_book_fini(&t->book);
	free(t);
}

static int device_limits(struct verbs_transport *t, uint32_t depth)
{
	struct ibv_device_attr attr;
	int err = ibv_query_device(t->device, &attr);
	if (err)
		return err > 0 ? -err : err;
	if (attr.max_qp_wr < 2 || attr.max_cqe < 2)
		return -ENODEV;
	t->depth = depth < (uint32_t)attr.max_qp_wr ? depth : (uint32_t)attr.max_qp_wr - 1;
	uint32_t want = (t->depth + 1) * VERBS_CQ_CONNS;
	t->cq_room = want < (uint32_t)attr.max_cqe ? want : (uint32_t)attr.max_cqe;
	int reads = attr.max_qp_init_rd_atom;
	t->max_reads = (uint8_t)(reads > VERBS_MAX_READS ? VERBS_MAX_READS : reads);
	t->mask = t->depth > 1 ? UINT32_MAX >> __builtin_clz(t->depth - 1) : 0;
	return t->max_reads ? 0 : -ENODEV;
}

static int verbs_open(const char *device, uint32_t depth, struct transport **out)
{
	if (!depth || depth > VERBS_DEPTH)
		return -EINVAL;
	struct verbs_transport *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	t->done_last = &t->done_first;
	int err = hello_book_init(&t->book);
	if (err) {
		free(t);
		return err;
	}
	err = verbs_device_find(device, &t->device);
	if (!err)
		err = device_limits(t, depth);
	if (!err)
		err = verbs_domain_get(t->device, &t->domain);
	if (err)
		goto err;
	errno = ENOMEM;
	err = -1;
	if (!(t->channel = ibv_create_comp_channel(t->device)))
		goto err;
	if (fcntl(t->channel->fd, F_SETFL, fcntl(t->channel->fd, F_GETFL) | O_NONBLOCK))
		goto err;
	t->cq = ibv_create_cq(t->device, (int)t->cq_room, NULL, t->channel, 0);
	if (!t->cq)
		goto err;
	*out = (struct transport *)t;
	return 0;
err:
	if (err == -1)
		err = -errno;
	transport_free(t);
	return err;
}

static void verbs_close(struct transport *transport)
{
	transport_free((struct verbs_transport *)transport);
}

static int verbs_mem_register(struct transport *transport, void *base, size_t len)
{
	struct verbs_transport *t = (struct verbs_transport *)transport;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	if (!len || len % page || (uintptr_t)base % page)
		return -EINVAL;
	if (t->areas == VERBS_AREAS)
		return -ENOSPC;
	errno = ENOMEM;
	struct ibv_mr *mr = ibv_reg_mr(t->domain->pd, base, len, IBV_ACCESS_LOCAL_WRITE);
	if (!mr)
		return -errno;
	t->area[t->areas].base = base;
	t->area[t->areas].len = len;
	t->area[t->areas++].mr = mr;
	return 0;
}

static bool area_key(const struct verbs_transport *t, const void *buf, uint32_t len, uint32_t *lkey)
{
	for (unsigned i = 0; i < t->areas; i++) {
		size_t at = (size_t)((uintptr_t)buf - (uintptr_t)t->area[i].base);
		if (at >= t->area[i].len || len > t->area[i].len - at)
			continue;
		*lkey = t->area[i].mr->lkey;
		return true;
	}
	return false;
}

static int verbs_attach(struct transport_conn *conn)
{
	struct verbs_conn *c = (struct verbs_conn *)conn;
	struct verbs_transport *t = c->transport;
	if (c->attached || !c->qp)
		return -EINVAL;
	for (uint32_t row = 0; row < VERBS_CONNS; row++) {
		if (t->conn[row])
			continue;
		t->conn[row] = c;
		c->row = row;
		c->tag = t->next_generation++ * VERBS_CONNS + row;
		c->attached = true;
		return 0;
	}
	return -ENOSPC;
}

static int verbs_post(struct transport_conn *conn, struct transport_op *op)
{
	struct verbs_conn *c = (struct verbs_conn *)conn;
	struct verbs_transport *t = c->transport;
	uint32_t lkey, i = c->tail & t->mask;
	if (!c->attached || c->draining || atomic_load_explicit(&c->broken, memory_order_relaxed))
		return -ENOTCONN;
	if (!op->len || (op->memory && op->kind != TRANSPORT_READ))
		return -EINVAL;
	if (op->memory ? !verbs_memory_key(op->memory, op->buf, op->len, &lkey)
		       : !area_key(t, op->buf, op->len, &lkey))
		return op->memory ? -EOPNOTSUPP : -EINVAL;
	if (c->tail - c->head == t->depth)
		return -EAGAIN;
	c->ring[i] = op;
	c->sge[i] = (struct ibv_sge){.addr = (uintptr_t)op->buf, .length = op->len, .lkey = lkey};
	bool read = op->kind == TRANSPORT_READ;
	c->wr[i] = (struct ibv_send_wr){.wr_id = (uint64_t)c->tag << 32 | i,
		.sg_list = &c->sge[i],
		.num_sge = 1,
		.opcode = read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
		/* a read tells when its data is there; a write is told of by what follows it */
		.send_flags = read ? IBV_SEND_SIGNALED : 0};
	c->wr[i].wr.rdma.remote_addr = op->raddr;
	c->wr[i].wr.rdma.rkey = (uint32_t)op->rkey;
	c->tail++;
	return 0;
}

/* Ends the oldest op. */
static void op_complete(struct verbs_conn *c, int status)
{
	struct verbs_transport *t = c->transport;
	struct transport_op *op = c->ring[c->head++ & t->mask];
	if (status == -ECONNRESET && c->cancelling)
		status = -ECANCELED;
	op->priv[0] = (uintptr_t)c;
	op->priv[1] = (uint64_t)(int64_t)status;
	op->next = NULL;
	*t->done_last = op;
	t->done_last = &op->next;
}

/*
 * Stops the queue pair and posts a last work request: requests complete in order and those after
 * the stop complete as flushed, so its completion says that the card is done with all of them.
 * Without it a write that had succeeded unsignalled would never be told of. False: the card does
 * not take it, and only disconnect() ends what is outstanding.
 */
static bool drain_start(struct verbs_conn *c)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	struct ibv_send_wr *bad, mark = {.wr_id = (uint64_t)c->tag << 32 | VERBS_DRAIN_MARK,
					 .opcode = IBV_WR_RDMA_WRITE,
					 .send_flags = IBV_SEND_SIGNALED};
	atomic_store(&c->broken, true);
	if (c->draining)
		return true;
	if (ibv_modify_qp(c->qp, &attr, IBV_QP_STATE) || ibv_post_send(c->qp, &mark, &bad))
		return false;
	c->draining = true;
	return true;
}

static void verbs_doorbell(struct transport_conn *conn)
{
	struct verbs_conn *c = (struct verbs_conn *)conn;
	struct verbs_transport *t = c->transport;
	struct ibv_send_wr *bad = NULL;
	if (c->sent == c->tail || c->draining ||
		atomic_load_explicit(&c->broken, memory_order_relaxed))
		return;
	for (uint32_t s = c->sent; s != c->tail; s++) {
		struct ibv_send_wr *wr = &c->wr[s & t->mask];
		bool last = s + 1 == c->tail;
		wr->next = last ? NULL : &c->wr[(s + 1) & t->mask];
		if (last)
			wr->send_flags |= IBV_SEND_SIGNALED;
	}
	if (!ibv_post_send(c->qp, &c->wr[c->sent & t->mask], &bad)) {
		c->sent = c->tail;
		return;
	}
	while (c->sent != c->tail && &c->wr[c->sent & t->mask] != bad)
		c->sent++;
	drain_start(c);
}

static int wc_error(enum ibv_wc_status status)
{
	return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ? -EREMOTEIO
										   : -ECONNRESET;
}

/* Everything up to the sequence number that a completion stands for; the ones before it succeeded.
 */
static void retire(struct verbs_conn *c, uint32_t index, enum ibv_wc_status status)
{
	uint32_t mask = c->transport->mask, ahead = (index - c->head) & mask;
	if (index > mask || ahead >= c->sent - c->head)
		return; /* not one of ours: nothing a card should ever do */
	for (; ahead; ahead--)
		op_complete(c, status == IBV_WC_WR_FLUSH_ERR ? -ECONNRESET : 0);
	op_complete(c, status == IBV_WC_SUCCESS ? 0 : wc_error(status));
}

static void wc_handle(struct verbs_transport *t, const struct ibv_wc *wc)
{
	uint32_t tag = (uint32_t)(wc->wr_id >> 32), index = (uint32_t)wc->wr_id;
	struct verbs_conn *c = t->conn[tag % VERBS_CONNS];
	if (!c || c->tag != tag)
		return; /* of a queue pair that is gone */
	if (index == VERBS_DRAIN_MARK) {
		while (c->head != c->tail)
			op_complete(c, -ECONNRESET);
		c->sent = c->tail;
		c->drained = true;
		return;
	}
	retire(c, index, wc->status);
	if (wc->status != IBV_WC_SUCCESS)
		drain_start(c);
}

/* Takes completions off the queue; how many there were, or a negative errno. */
static int cq_reap(struct verbs_transport *t)
{
	struct ibv_wc wc[VERBS_POLL_BATCH];
	int n = ibv_poll_cq(t->cq, VERBS_POLL_BATCH, wc);
	for (int i = 0; i < n; i++)
		wc_handle(t, &wc[i]);
	return n < 0 ? -EIO : n;
}

static unsigned deliver(struct verbs_transport *t, unsigned budget)
{
	unsigned n = 0;
	while (t->done_first && n < budget) {
		struct transport_op *op = t->done_first;
		t->done_first = op->next;
		if (!t->done_first)
			t->done_last = &t->done_first;
		op->next = NULL;
		n++;
		op->done(op, (int)(int64_t)op->priv[1]);
	}
	return n;
}

/* Empties the completion channel, so that event_fd() becomes readable for the next event only. */
static void events_take(struct verbs_transport *t)
{
	struct ibv_cq *cq;
	void *ctx;
	while (!ibv_get_cq_event(t->channel, &cq, &ctx)) {
		t->events++;
		t->armed = false;
	}
	if (t->events >= VERBS_ACK_EVENTS) {
		ibv_ack_cq_events(t->cq, t->events);
		t->events = 0;
	}
}

static int verbs_poll(struct transport *transport, unsigned budget)
{
	struct verbs_transport *t = (struct verbs_transport *)transport;
	unsigned n = deliver(t, budget);
	if (t->armed)
		events_take(t);
	while (n < budget) {
		int got = cq_reap(t);
		if (got < 0)
			return n ? (int)n : got;
		n += deliver(t, budget - n);
		if (got < VERBS_POLL_BATCH)
			break;
	}
	return (int)n;
}

static bool verbs_conn_broken(const struct transport_conn *conn)
{
	return atomic_load_explicit(
		&((const struct verbs_conn *)conn)->broken, memory_order_relaxed);
}

static int verbs_arm(struct transport *transport)
{
	struct verbs_transport *t = (struct verbs_transport *)transport;
	if (t->done_first)
		return -EAGAIN;
	if (!t->armed) {
		int err = ibv_req_notify_cq(t->cq, 0);
		if (err)
			return err > 0 ? -err : err;
		t->armed = true;
	}
	/* what completed before the request raises no event */
	int n = cq_reap(t);
	if (n < 0)
		return n;
	return n > 0 || t->done_first ? -EAGAIN : 0;
}

static int verbs_event_fd(struct transport *transport)
{
	return ((struct verbs_transport *)transport)->channel->fd;
}

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void drain_wait(struct verbs_conn *c)
{
	uint64_t limit_ms = now_ms() + VERBS_DRAIN_MS;
	for (unsigned spins = 0; !c->drained; spins++) {
		int n = cq_reap(c->transport);
		if (n < 0)
			return;
		if (n == 0 && now_ms() >= limit_ms)
			return;
		if (n == 0 && spins > 1000)
			nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
	}
}

static void verbs_disconnect(struct transport_conn *conn)
{
	struct verbs_conn *c = (struct verbs_conn *)conn;
	struct verbs_transport *t = c->transport;
	if (!c->attached)
		return;
	c->cancelling = !atomic_load(&c->broken);
	if (drain_start(c))
		drain_wait(c);
	/* With the queue pair gone the card writes no more, also when the drain did not finish. */
	ibv_destroy_qp(c->qp);
	c->qp = NULL;
	while (c->head != c->tail)
		op_complete(c, -ECANCELED);
	t->conn[c->row] = NULL;
	c->attached = false;
	hello_ticket_drop(&t->book, &c->ticket);
	struct transport_op *op = transport_ops_extract(&t->done_first, &t->done_last, c);
	while (op) {
		struct transport_op *next = op->next;
		op->done(op, (int)(int64_t)op->priv[1]);
		op = next;
	}
}

const struct transport_ops transport_verbs = {
	.name = "verbs",
	.open = verbs_open,
	.close = verbs_close,
	.mem_register = verbs_mem_register,
	.memory_new = verbs_memory_new,
	.memory_register = verbs_memory_register,
	.memory_delete = verbs_memory_delete,
	.connect = verbs_client_connect,
	.conn_fd = verbs_client_conn_fd,
	.conn_progress = verbs_client_conn_progress,
	.attach = verbs_attach,
	.post = verbs_post,
	.doorbell = verbs_doorbell,
	.poll = verbs_poll,
	.conn_broken = verbs_conn_broken,
	.arm = verbs_arm,
	.event_fd = verbs_event_fd,
	.disconnect = verbs_disconnect,
	.destroy = verbs_client_destroy,
};
