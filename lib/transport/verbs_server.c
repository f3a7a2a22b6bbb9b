/* The memory server's verbs listener: accepts queue pairs; the network card does the rest. */
#include "lib/transport/verbs_server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/transport/server_stats.h"
#include "lib/transport/verbs_device.h"

#define VERBS_BACKLOG	   128
#define VERBS_EVENTS_A_RUN 256 /* so that a flood of requests cannot hold the control thread */

struct verbs_server_conn {
	struct server_conn base;
	struct rdma_cm_id *id; /* owns the queue pair */
	struct verbs_server_conn *next;
};

struct verbs_server {
	struct server_table *table;
	struct ibv_context *device;
	struct ibv_cq *cq; /* the queue pairs need one; no work is ever posted */
	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener;
	uint16_t port;
	uint8_t max_reads; /* that the device serves at a time for one queue pair */
	struct verbs_server_conn *conns;
	struct transport_server_stats stats;
};

static int listen_on(struct verbs_server *s, const char *host, uint16_t port)
{
	char service[8];
	struct addrinfo *ai, hints = {.ai_socktype = SOCK_STREAM,
				     .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
	if (rdma_create_id(s->channel, &s->listener, NULL, RDMA_PS_TCP))
		return -errno;
	snprintf(service, sizeof service, "%u", port);
	if (getaddrinfo(host, service, &hints, &ai))
		return -EINVAL;
	int err = rdma_bind_addr(s->listener, ai->ai_addr) ? -errno : 0;
	freeaddrinfo(ai);
	if (!err && rdma_listen(s->listener, VERBS_BACKLOG))
		err = -errno;
	if (!err)
		s->port = be16toh(rdma_get_src_port(s->listener));
	return err;
}

int verbs_server_start(const struct transport_server_config *cfg, struct server_table *table,
	struct verbs_server **out)
{
	struct ibv_context *device;
	struct ibv_device_attr attr;
	int err = verbs_device_find(cfg->verbs_device, &device);
	if (err)
		return err;
	err = ibv_query_device(device, &attr);
	if (err)
		return err > 0 ? -err : err;
	struct verbs_server *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->table = table;
	s->device = device;
	s->max_reads = (uint8_t)(attr.max_qp_rd_atom > 255 ? 255 : attr.max_qp_rd_atom);
	s->cq = ibv_create_cq(device, 1, NULL, NULL, 0);
	s->channel = s->cq ? rdma_create_event_channel() : NULL;
	if (!s->channel)
		err = errno ? -errno : -ENOMEM;
	else if (fcntl(s->channel->fd, F_SETFL, fcntl(s->channel->fd, F_GETFL) | O_NONBLOCK))
		err = -errno;
	else
		err = listen_on(s, cfg->host, cfg->verbs_port);
	if (err) {
		verbs_server_stop(s);
		return err;
	}
	*out = s;
	return 0;
}

/* Takes the connection off the list. Destroying the queue pair ends every access through it. */
static void conn_delete(struct verbs_server *s, struct verbs_server_conn *c)
{
	struct verbs_server_conn **p = &s->conns;
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	server_conn_logout(s->table, &c->base);
	rdma_destroy_qp(c->id);
	rdma_destroy_id(c->id);
	free(c);
	stat_sub(&s->stats.verbs_connections, 1);
}

void verbs_server_stop(struct verbs_server *s)
{
	if (!s)
		return;
	while (s->conns)
		conn_delete(s, s->conns);
	if (s->listener)
		rdma_destroy_id(s->listener);
	if (s->channel)
		rdma_destroy_event_channel(s->channel);
	if (s->cq)
		ibv_destroy_cq(s->cq);
	free(s);
}

uint16_t verbs_server_port(const struct verbs_server *s)
{
	return s->port;
}

int verbs_server_event_fd(const struct verbs_server *s)
{
	return s->channel->fd;
}

void verbs_server_reap(struct verbs_server *s)
{
	for (struct verbs_server_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (!atomic_load(&c->base.dead))
			continue;
		stat_add(&s->stats.closed_session, 1);
		rdma_disconnect(c->id); /* tells the peer; the queue pair ends below in any case */
		conn_delete(s, c);
	}
}

static void refuse(
	struct verbs_server *s, struct rdma_cm_id *id, stat_t *counter, enum verbs_refusal why)
{
	uint8_t reason = (uint8_t)why;
	stat_add(counter, 1);
	rdma_reject(id, &reason, sizeof reason);
	rdma_destroy_id(id);
}

static int conn_accept(struct verbs_server *s, struct verbs_server_conn *c,
	struct server_client *client, uint8_t reads_wanted)
{
	struct ibv_qp_init_attr attr = {.send_cq = s->cq,
		.recv_cq = s->cq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1}};
	struct rdma_conn_param param = {
		.responder_resources = reads_wanted < s->max_reads ? reads_wanted : s->max_reads,
		.rnr_retry_count = 7};
	if (rdma_create_qp(c->id, client->pd, &attr))
		return -errno;
	if (rdma_accept(c->id, &param)) {
		int err = -errno;
		rdma_destroy_qp(c->id);
		return err;
	}
	return 0;
}

static void handle_request(
	struct verbs_server *s, struct rdma_cm_id *id, const uint8_t *hello, uint8_t reads_wanted)
{
	struct transport_hello h;
	struct server_client *client;
	stat_add(&s->stats.accepted, 1);
	if (!hello || !tcp_hello_decode(hello, &h)) {
		refuse(s, id, &s->stats.closed_garbage, VERBS_REFUSED_HELLO);
		return;
	}
	struct verbs_server_conn *c = id->verbs == s->device ? calloc(1, sizeof *c) : NULL;
	if (!c) {
		refuse(s, id, &s->stats.verbs_setup_failed, VERBS_REFUSED_DEVICE);
		return;
	}
	c->id = id;
	int err = server_conn_login(s->table, &c->base, SERVER_CONN_VERBS, &h, &client);
	if (err < 0) {
		free(c);
		if (err == -EACCES)
			refuse(s, id, &s->stats.refused_token, VERBS_REFUSED_TOKEN);
		else
			refuse(s, id, &s->stats.refused_limit, VERBS_REFUSED_LIMIT);
		return;
	}
	if (err > 0)
		verbs_server_reap(s); /* before the new one may write */
	if (conn_accept(s, c, client, reads_wanted)) {
		server_conn_logout(s->table, &c->base);
		free(c);
		refuse(s, id, &s->stats.verbs_setup_failed, VERBS_REFUSED_DEVICE);
		return;
	}
	id->context = c;
	c->next = s->conns;
	s->conns = c;
	stat_add(&s->stats.verbs_connections, 1);
}

static void handle_event(
	struct verbs_server *s, enum rdma_cm_event_type type, struct rdma_cm_id *id)
{
	struct verbs_server_conn *c = id->context;
	switch (type) {
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		stat_add(&s->stats.verbs_setup_failed, 1);
		if (c)
			conn_delete(s, c);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		if (c) {
			rdma_disconnect(id);
			conn_delete(s, c);
		}
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		stat_add(&s->stats.closed_error, 1);
		if (c)
			conn_delete(s, c);
		break;
	default: /* ESTABLISHED, TIMEWAIT_EXIT, ADDR_CHANGE: nothing to do */
		break;
	}
}

void verbs_server_progress(struct verbs_server *s)
{
	struct rdma_cm_event *ev;
	for (unsigned i = 0; i < VERBS_EVENTS_A_RUN && !rdma_get_cm_event(s->channel, &ev); i++) {
		enum rdma_cm_event_type type = ev->event;
		struct rdma_cm_id *id = ev->id;
		uint8_t hello[VERBS_HELLO_BYTES];
		bool has_hello = ev->param.conn.private_data &&
				 ev->param.conn.private_data_len >= VERBS_HELLO_BYTES;
		uint8_t reads = ev->param.conn.responder_resources;
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST && has_hello)
			memcpy(hello, ev->param.conn.private_data, sizeof hello);
		rdma_ack_cm_event(ev); /* an id cannot be destroyed while an event of it is held */
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
			handle_request(s, id, has_hello ? hello : NULL, reads);
		else
			handle_event(s, type, id);
	}
}

int verbs_server_pd_new(struct verbs_server *s, struct ibv_pd **out)
{
	errno = 0;
	*out = ibv_alloc_pd(s->device);
	return *out ? 0 : errno ? -errno : -ENOMEM;
}

void verbs_server_pd_delete(struct ibv_pd *pd)
{
	ibv_dealloc_pd(pd);
}

int verbs_server_mr_new(
	struct ibv_pd *pd, void *base, size_t len, struct ibv_mr **out, uint32_t *rkey)
{
	errno = 0;
	*out = ibv_reg_mr(pd, base, len,
		IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
	if (!*out)
		return errno ? -errno : -ENOMEM;
	*rkey = (*out)->rkey;
	return 0;
}

void verbs_server_mr_delete(struct verbs_server *s, uint64_t client, struct ibv_mr *mr)
{
	if (!ibv_dereg_mr(mr))
		return;
	/* The device would not let go. Without queue pairs on its protection domain nobody reaches
	 * it. */
	stat_add(&s->stats.closed_error, 1);
	for (struct verbs_server_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (c->base.client_id == client)
			conn_delete(s, c);
	}
	ibv_dereg_mr(mr);
}

void verbs_server_stats_add(const struct verbs_server *s, struct transport_server_stats *out)
{
	server_stats_merge(out, &s->stats);
}
