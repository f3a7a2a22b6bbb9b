/* Establishing a verbs connection from the control thread: name, address, route, queue pair,
 * handshake. */
#include "lib/transport/verbs_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/transport/verbs_device.h"

static int watch(struct verbs_conn *c, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
	return epoll_ctl(c->watch_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void id_end(struct verbs_conn *c)
{
	if (!c->id)
		return;
	if (c->qp)
		rdma_destroy_qp(c->id);
	else
		c->id->qp = NULL; /* the lane destroyed it */
	c->qp = NULL;
	if (c->established)
		rdma_disconnect(c->id);
	rdma_destroy_id(c->id);
	c->id = NULL;
}

static void conn_free(struct verbs_conn *c)
{
	struct verbs_transport *t = c->transport;
	id_end(c);
	if (c->channel)
		rdma_destroy_event_channel(c->channel);
	hello_ticket_drop(&t->book, &c->ticket);
	resolve_end(c->resolve);
	if (c->reserved)
		atomic_fetch_sub(&t->cq_in_use, t->depth + 1);
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	if (c->watch_fd >= 0)
		close(c->watch_fd);
	free(c->ring);
	free(c->wr);
	free(c->sge);
	free(c);
}

void verbs_client_destroy(struct transport_conn *conn)
{
	conn_free((struct verbs_conn *)conn);
}

static int conn_new(struct verbs_transport *t, struct verbs_conn **out)
{
	struct verbs_conn *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->transport = t;
	c->watch_fd = c->timer_fd = -1;
	c->ring = calloc(t->mask + 1u, sizeof *c->ring);
	c->wr = calloc(t->mask + 1u, sizeof *c->wr);
	c->sge = calloc(t->mask + 1u, sizeof *c->sge);
	if (!c->ring || !c->wr || !c->sge) {
		conn_free(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}

/* The completion queue must never overflow: each queue pair may fill it with all it can have in
 * flight. */
static int cq_reserve(struct verbs_conn *c)
{
	struct verbs_transport *t = c->transport;
	if (atomic_fetch_add(&t->cq_in_use, t->depth + 1) + t->depth + 1 > t->cq_room) {
		atomic_fetch_sub(&t->cq_in_use, t->depth + 1);
		return -ENOSPC;
	}
	c->reserved = true;
	return 0;
}

static int timer_start(struct verbs_conn *c, uint32_t timeout_ms)
{
	if (!timeout_ms)
		timeout_ms = 1;
	struct itimerspec when = {.it_value = {.tv_sec = timeout_ms / 1000,
					  .tv_nsec = (long)(timeout_ms % 1000) * 1000000}};
	c->step_ms = timeout_ms > 60000 ? 60000 : (int)timeout_ms;
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer_fd < 0 || timerfd_settime(c->timer_fd, 0, &when, NULL))
		return -errno;
	return watch(c, c->timer_fd);
}

static int channel_open(struct verbs_conn *c)
{
	errno = ENODEV;
	c->channel = rdma_create_event_channel();
	if (!c->channel)
		return -errno;
	if (fcntl(c->channel->fd, F_SETFL, fcntl(c->channel->fd, F_GETFL) | O_NONBLOCK))
		return -errno;
	return watch(c, c->channel->fd);
}

int verbs_client_connect(
	struct transport *transport, const struct transport_peer *peer, struct transport_conn **out)
{
	struct verbs_conn *c = NULL;
	int err = conn_new((struct verbs_transport *)transport, &c);
	if (err)
		return err;
	err = hello_ticket_take(&c->transport->book, &c->ticket, peer->token);
	if (!err)
		err = cq_reserve(c);
	if (!err && (c->watch_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		err = -errno;
	if (!err)
		err = timer_start(c, peer->timeout_ms);
	if (!err)
		err = channel_open(c);
	if (!err)
		err = resolve_start(peer->host, peer->port, &c->resolve);
	if (!err)
		err = watch(c, resolve_fd(c->resolve));
	if (err) {
		conn_free(c);
		return err;
	}
	c->state = VERBS_CONN_RESOLVE;
	*out = (struct transport_conn *)c;
	return 0;
}

int verbs_client_conn_fd(struct transport_conn *conn)
{
	return ((struct verbs_conn *)conn)->watch_fd;
}

/* Before establishment only: nothing was posted on the queue pair. */
static int fail(struct verbs_conn *c, int err)
{
	id_end(c);
	c->state = VERBS_CONN_FAILED;
	c->error = err;
	return err;
}

/* Tries the next address; its last error when there is none left. */
static int address_next(struct verbs_conn *c, int last_err)
{
	id_end(c);
	while (c->next_addr < c->addr.count) {
		struct sockaddr *a = (struct sockaddr *)&c->addr.addr[c->next_addr++];
		if (rdma_create_id(c->channel, &c->id, c, RDMA_PS_TCP)) {
			c->id = NULL;
			last_err = -errno;
			continue;
		}
		if (!rdma_resolve_addr(c->id, NULL, a, c->step_ms)) {
			c->state = VERBS_CONN_ADDR;
			return -EINPROGRESS;
		}
		last_err = -errno;
		id_end(c);
	}
	return fail(c, last_err);
}

static int on_addr(struct verbs_conn *c)
{
	if (c->id->verbs != c->transport->device)
		return address_next(c, -ENODEV); /* reached through another card than the lane's */
	if (rdma_resolve_route(c->id, c->step_ms))
		return address_next(c, -errno);
	c->state = VERBS_CONN_ROUTE;
	return -EINPROGRESS;
}

static int on_route(struct verbs_conn *c)
{
	struct verbs_transport *t = c->transport;
	uint8_t ack_timeout = VERBS_ACK_TIMEOUT;
	struct transport_hello h;
	uint8_t hello[VERBS_HELLO_BYTES];
	struct ibv_qp_init_attr attr = {.send_cq = t->cq,
		.recv_cq = t->cq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = t->depth + 1,
			.max_recv_wr = 1,
			.max_send_sge = 1,
			.max_recv_sge = 1}};
	/* The kernel's own value makes one lost packet cost seconds; a kernel that is too old to be
	 * told otherwise keeps it. */
	rdma_set_option(c->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout,
		sizeof ack_timeout);
	if (rdma_create_qp(c->id, t->domain->pd, &attr))
		return address_next(c, -errno);
	c->qp = c->id->qp;
	hello_ticket_fill(&t->book, &c->ticket, &h);
	tcp_hello_encode(hello, &h);
	struct rdma_conn_param param = {.private_data = hello,
		.private_data_len = sizeof hello,
		.initiator_depth = t->max_reads,
		.retry_count = VERBS_RETRIES,
		.rnr_retry_count = 7};
	if (rdma_connect(c->id, &param))
		return address_next(c, -errno);
	c->state = VERBS_CONN_CONNECT;
	return -EINPROGRESS;
}

static int on_established(struct verbs_conn *c)
{
	close(c->timer_fd); /* leaves the watched set by itself */
	c->timer_fd = -1;
	c->established = true;
	c->state = VERBS_CONN_READY;
	return 0;
}

static int refusal(uint8_t reason)
{
	switch (reason) {
	case VERBS_REFUSED_TOKEN:
		return -EACCES;
	case VERBS_REFUSED_LIMIT:
		return -EUSERS;
	case VERBS_REFUSED_HELLO:
		return -EPROTO;
	default:
		return -ECONNREFUSED;
	}
}

static int handle_event(
	struct verbs_conn *c, enum rdma_cm_event_type type, int status, uint8_t reason)
{
	if (c->state == VERBS_CONN_READY) {
		bool end =
			type == RDMA_CM_EVENT_DISCONNECTED || type == RDMA_CM_EVENT_DEVICE_REMOVAL;
		if (end)
			c->error = -ECONNRESET;
		return c->error;
	}
	int err = status < 0 ? status : -EHOSTUNREACH;
	switch (type) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		return c->state == VERBS_CONN_ADDR ? on_addr(c) : fail(c, -EPROTO);
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		return c->state == VERBS_CONN_ROUTE ? on_route(c) : fail(c, -EPROTO);
	case RDMA_CM_EVENT_ESTABLISHED:
		return c->state == VERBS_CONN_CONNECT ? on_established(c) : fail(c, -EPROTO);
	case RDMA_CM_EVENT_REJECTED:
		return fail(c, refusal(reason));
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
		return address_next(c, err);
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		return fail(c, -ENODEV);
	case RDMA_CM_EVENT_DISCONNECTED:
		return fail(c, -ECONNRESET);
	default:
		return -EINPROGRESS;
	}
}

static int events_handle(struct verbs_conn *c)
{
	struct rdma_cm_event *ev;
	int ret = c->state == VERBS_CONN_READY ? c->error : -EINPROGRESS;
	while (c->state != VERBS_CONN_FAILED && !rdma_get_cm_event(c->channel, &ev)) {
		enum rdma_cm_event_type type = ev->event;
		int status = ev->status;
		bool ours = ev->id == c->id;
		uint8_t reason = 0;
		if (type == RDMA_CM_EVENT_REJECTED && ev->param.conn.private_data &&
			ev->param.conn.private_data_len)
			reason = *(const uint8_t *)ev->param.conn.private_data;
		rdma_ack_cm_event(ev);
		if (ours)
			ret = handle_event(c, type, status, reason);
	}
	return ret;
}

int verbs_client_conn_progress(struct transport_conn *conn)
{
	struct verbs_conn *c = (struct verbs_conn *)conn;
	uint64_t ticks;
	int err = -EINPROGRESS;
	if (c->state == VERBS_CONN_FAILED)
		return c->error;
	if (c->state == VERBS_CONN_RESOLVE) {
		err = resolve_progress(c->resolve, &c->addr);
		if (err && err != -EINPROGRESS)
			return fail(c, err);
		if (!err) {
			epoll_ctl(c->watch_fd, EPOLL_CTL_DEL, resolve_fd(c->resolve), NULL);
			resolve_end(c->resolve);
			c->resolve = NULL;
			err = address_next(c, -EHOSTUNREACH);
		}
	} else {
		err = events_handle(c);
	}
	if (!err && c->state == VERBS_CONN_READY && atomic_load(&c->broken))
		return -ECONNRESET;
	if (err == -EINPROGRESS && read(c->timer_fd, &ticks, sizeof ticks) > 0)
		return fail(c, -ETIMEDOUT);
	return err;
}
