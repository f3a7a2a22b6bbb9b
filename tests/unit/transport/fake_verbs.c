/* A network card of plain memory: stands in for libibverbs and librdmacm at link time. */
#include "tests/unit/transport/fake_verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#undef ibv_reg_mr

struct fake fake;

struct event {
	struct rdma_cm_event ev;
	uint8_t data[64];
	struct event *next;
};

static struct event *events;
static struct ibv_wc completions[1024];
static unsigned completion_count;
static struct ibv_device device;
static struct ibv_cq *channel_cq;

static bool fails(const char *fn)
{
	if (!fake.fail || strcmp(fake.fail, fn) != 0)
		return false;
	fake.fail = NULL;
	errno = EIO;
	return true;
}

static void *make(const char *fn, size_t bytes)
{
	if (fails(fn))
		return NULL;
	void *p = calloc(1, bytes);
	if (!p)
		abort();
	fake.live++;
	return p;
}

static void unmake(void *p)
{
	fake.live--;
	free(p);
}

static void complete(struct fake_qp *q, const struct ibv_send_wr *wr, enum ibv_wc_status status)
{
	if (status == IBV_WC_SUCCESS && !(wr->send_flags & IBV_SEND_SIGNALED))
		return;
	completions[completion_count++] =
		(struct ibv_wc){.wr_id = wr->wr_id, .status = status, .qp_num = q->qp.qp_num};
}

static void pop(struct fake_qp *q)
{
	memmove(q->wr, q->wr + 1, --q->wrs * sizeof q->wr[0]);
}

void fake_run(struct fake_qp *q, unsigned n)
{
	for (; n && q->wrs; n--) {
		complete(q, &q->wr[0], IBV_WC_SUCCESS);
		pop(q);
	}
}

void fake_flush(struct fake_qp *q)
{
	for (; q->wrs && !fake.hold; pop(q))
		complete(q, &q->wr[0], IBV_WC_WR_FLUSH_ERR);
}

void fake_break(struct fake_qp *q, enum ibv_wc_status status)
{
	complete(q, &q->wr[0], status);
	pop(q);
	q->now = IBV_QPS_ERR;
	fake_flush(q);
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct fake_qp *q = (struct fake_qp *)qp;
	unsigned at = 0;
	fake.post_calls++;
	for (; wr; wr = wr->next) {
		if (++at == fake.fail_post_at) {
			fake.fail_post_at = 0;
			*bad = wr;
			return ENOMEM;
		}
		q->wr[q->wrs++] = *wr;
	}
	if (q->now == IBV_QPS_ERR)
		fake_flush(q);
	return 0;
}

static int poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
	if (fake.before_poll) {
		void (*call)(void) = fake.before_poll;
		fake.before_poll = NULL;
		call();
	}
	if (fails("ibv_poll_cq"))
		return -1;
	unsigned got = completion_count < (unsigned)n ? completion_count : (unsigned)n;
	memcpy(wc, completions, got * sizeof *wc);
	memmove(completions, completions + got, (completion_count - got) * sizeof *wc);
	completion_count -= got;
	return (int)got;
}

static int req_notify_cq(struct ibv_cq *cq, int solicited)
{
	fake.notified++;
	return fails("ibv_req_notify_cq") ? EIO : 0;
}

void fake_reset(void)
{
	while (events) {
		struct event *e = events;
		events = e->next;
		free(e);
	}
	completion_count = 0;
	memset(&fake, 0, sizeof fake);
	fake.devices = 1;
	fake.device.device = &device;
	fake.device.ops.post_send = post_send;
	fake.device.ops.poll_cq = poll_cq;
	fake.device.ops.req_notify_cq = req_notify_cq;
	strcpy(device.name, "fake0");
}

void fake_event(struct rdma_cm_id *id, enum rdma_cm_event_type type, int status, const void *data,
	uint8_t len)
{
	struct event *e = calloc(1, sizeof *e), **p = &events;
	uint64_t one = 1;
	if (!e)
		abort();
	e->ev.id = id;
	e->ev.event = type;
	e->ev.status = status;
	if (len) {
		memcpy(e->data, data, len);
		e->ev.param.conn.private_data = e->data;
		e->ev.param.conn.private_data_len = len;
	}
	e->ev.param.conn.responder_resources = 8;
	while (*p)
		p = &(*p)->next;
	*p = e;
	if (write(id->channel->fd, &one, sizeof one) < 0)
		abort();
}

struct rdma_cm_id *fake_request(const void *data, uint8_t len)
{
	struct rdma_cm_id *id = make("", sizeof *id);
	id->channel = fake.listener->channel;
	id->verbs = &fake.device;
	fake_event(id, RDMA_CM_EVENT_CONNECT_REQUEST, 0, data, len);
	return id;
}

struct ibv_context **rdma_get_devices(int *count)
{
	static struct ibv_context *list[2];
	list[0] = &fake.device;
	*count = fake.devices;
	return fake.devices ? list : NULL;
}

void rdma_free_devices(struct ibv_context **list)
{
}

const char *ibv_get_device_name(struct ibv_device *d)
{
	return d->name;
}

int ibv_query_device(struct ibv_context *ctx, struct ibv_device_attr *attr)
{
	if (fails("ibv_query_device"))
		return EIO;
	*attr = (struct ibv_device_attr){
		.max_qp_wr = 64, .max_cqe = 20, .max_qp_rd_atom = 4, .max_qp_init_rd_atom = 4};
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *ctx)
{
	struct ibv_pd *pd = make("ibv_alloc_pd", sizeof *pd);
	if (pd)
		pd->context = ctx;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	unmake(pd);
	return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *ctx)
{
	struct ibv_comp_channel *c = make("ibv_create_comp_channel", sizeof *c);
	if (c)
		c->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return c;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *c)
{
	close(c->fd);
	unmake(c);
	return 0;
}

struct ibv_cq *ibv_create_cq(
	struct ibv_context *ctx, int cqe, void *arg, struct ibv_comp_channel *channel, int vector)
{
	struct ibv_cq *cq = make("ibv_create_cq", sizeof *cq);
	if (cq) {
		cq->context = ctx;
		cq->channel = channel;
		channel_cq = cq;
	}
	return cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	unmake(cq);
	return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **ctx)
{
	uint64_t v;
	if (read(channel->fd, &v, sizeof v) < 0)
		return -1;
	*cq = channel_cq;
	*ctx = NULL;
	return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned n)
{
	fake.acked += n;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
	static uint32_t key = 100;
	struct ibv_mr *mr = make("ibv_reg_mr", sizeof *mr);
	if (mr) {
		mr->pd = pd;
		mr->lkey = key++;
		mr->rkey = key++;
		fake.mr_pd = pd;
	}
	return mr;
}

struct ibv_mr *ibv_reg_mr_iova2(
	struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, unsigned access)
{
	return ibv_reg_mr(pd, addr, len, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	if (fails("ibv_dereg_mr"))
		return EBUSY;
	unmake(mr);
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	struct fake_qp *q = (struct fake_qp *)qp;
	if (fails("ibv_modify_qp"))
		return EIO;
	q->now = attr->qp_state;
	if (q->now == IBV_QPS_ERR)
		fake_flush(q);
	return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	struct fake_qp **p = &fake.qps;
	while (*p != (struct fake_qp *)qp)
		p = &(*p)->next;
	*p = (*p)->next;
	unmake(qp);
	return 0;
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct rdma_event_channel *c = make("rdma_create_event_channel", sizeof *c);
	if (c)
		c->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return c;
}

void rdma_destroy_event_channel(struct rdma_event_channel *c)
{
	close(c->fd);
	unmake(c);
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id, void *ctx,
	enum rdma_port_space ps)
{
	*id = make("rdma_create_id", sizeof **id);
	if (!*id)
		return -1;
	(*id)->channel = channel;
	(*id)->context = ctx;
	fake.last_id = *id;
	return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	for (struct event **p = &events; *p;) {
		struct event *e = *p;
		if (e->ev.id != id) {
			p = &e->next;
			continue;
		}
		*p = e->next;
		free(e);
	}
	if (id->qp)
		abort(); /* the queue pair goes first */
	unmake(id);
	return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *a)
{
	return fails("rdma_bind_addr") ? -1 : 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	fake.listener = id;
	return fails("rdma_listen") ? -1 : 0;
}

__be16 rdma_get_src_port(struct rdma_cm_id *id)
{
	return htobe16(4711);
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *src, struct sockaddr *dst, int ms)
{
	id->verbs = &fake.device;
	return fails("rdma_resolve_addr") ? -1 : 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int ms)
{
	return fails("rdma_resolve_route") ? -1 : 0;
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	static uint32_t number = 1;
	struct fake_qp *q = make("rdma_create_qp", sizeof *q);
	if (!q)
		return -1;
	q->qp.context = &fake.device;
	q->qp.pd = pd;
	q->qp.qp_num = number++;
	q->now = IBV_QPS_RTS;
	q->next = fake.qps;
	fake.qps = q;
	id->qp = &q->qp;
	return 0;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	ibv_destroy_qp(id->qp);
	id->qp = NULL;
}

int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t len)
{
	if (fails("rdma_set_option"))
		return -1;
	if (level == RDMA_OPTION_ID && name == RDMA_OPTION_ID_ACK_TIMEOUT && len == 1)
		fake.ack_timeout = *(const uint8_t *)value;
	return 0;
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	fake.retries = param->retry_count;
	memcpy(fake.hello, param->private_data, param->private_data_len);
	fake.hello_bytes = param->private_data_len;
	return fails("rdma_connect") ? -1 : 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	if (fails("rdma_accept"))
		return -1;
	fake.accepted++;
	return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	fake.rejected = *(const uint8_t *)data;
	return 0;
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	fake.disconnected++;
	return 0;
}

int rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **ev)
{
	uint64_t v;
	for (struct event **p = &events; *p; p = &(*p)->next) {
		if ((*p)->ev.id->channel != channel)
			continue;
		struct event *e = *p;
		*p = e->next;
		*ev = &e->ev;
		return read(channel->fd, &v, sizeof v) < 0 ? -1 : 0;
	}
	errno = EAGAIN;
	return -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *ev)
{
	free(ev); /* the event's first member */
	return 0;
}
