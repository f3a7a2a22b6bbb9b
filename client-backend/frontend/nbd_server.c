/* A disk served by NBD: the control thread's end, its listeners, the negotiations and its figures.
 */
#include "client-backend/frontend/nbd_server.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client-backend/frontend/listener.h"
#include "lib/core/log.h"

#define TURN	      64u    /* options of one connection before the others' turn */
#define TCP_SILENT_MS 30000u /* a peer that acknowledges nothing for so long is gone */
#define TCP_PROBE_S   10

enum session_phase { SESSION_HELLO, SESSION_ATTACHING, SESSION_SERVED, SESSION_ENDING };

struct session {
	struct nbd_server *server;
	int fd;
	enum session_phase phase;
	bool end; /* as soon as the lane has it */
	unsigned lane;
	pid_t pid;
	uint64_t since_ns;
	struct event *event, *late_event;
	uint32_t out_sent;
	struct nbd_conn *conn; /* from SESSION_ATTACHING on */
	struct backend_call call;
	struct nbd_hello hello;
};

struct nbd_server {
	struct nbd_server_config cfg;
	char name[64];
	struct event_base *base;
	const struct env *env;
	struct blk *blk;
	const struct nbd_server_ops *ops;
	void *ctx;
	struct nbd_export export;
	struct listener listener[2]; /* unix, TCP */
	int over_fd;
	struct event *over_event, *stopped_event;
	struct backend_call *stop_call;
	bool stopping;
	struct nbd_server_stats stats;
	struct session *session[NBD_MAX_CONNS];
};

/* ---- a connection's end ---- */

static void session_free(struct session *ss)
{
	struct nbd_server *s = ss->server;

	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		if (s->session[i] == ss)
			s->session[i] = NULL;
	if (ss->event)
		event_free(ss->event);
	if (ss->late_event)
		event_free(ss->late_event);
	nbd_conn_delete(ss->conn);
	close(ss->fd);
	free(ss);
	/* What follows happens later: others' code is still running. */
	if (s->stopping)
		event_active(s->stopped_event, EV_TIMEOUT, 1);
}

static void violation(struct session *ss, enum nbd_violation why)
{
	if (why == NBD_VIOLATION_NONE)
		return;
	stat_add(&ss->server->stats.violations[why], 1);
	log_warn_limited_kv("nbd", "a client's connection is closed", "disk=%s pid=%d reason=%s",
		ss->server->name, (int)ss->pid, nbd_violation_name(why));
}

static void on_detached(struct backend_call *call, int status, uint64_t value)
{
	struct session *ss = (struct session *)((char *)call - offsetof(struct session, call));

	stat_sub(&ss->server->stats.connected, 1);
	session_free(ss);
}

/* Whatever it does now, it ends. */
static void session_end(struct session *ss)
{
	struct nbd_server *s = ss->server;

	switch (ss->phase) {
	case SESSION_HELLO:
		session_free(ss);
		break;
	case SESSION_ATTACHING:
		ss->end = true;
		break;
	case SESSION_SERVED:
		ss->phase = SESSION_ENDING;
		ss->call.done = on_detached;
		s->ops->lane_detach(s->ctx, ss->lane, ss->conn, &ss->call);
		break;
	case SESSION_ENDING:
		break;
	}
}

static void on_over(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_server *s = arg;
	enum nbd_violation why;
	uint64_t n;
	ssize_t got = read(fd, &n, sizeof(n));

	(void)got;
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		struct session *ss = s->session[i];

		if (ss && ss->phase == SESSION_SERVED && nbd_conn_over(ss->conn, &why)) {
			violation(ss, why);
			session_end(ss);
		}
	}
}

/* ---- from the negotiation to the lane ---- */

static void on_attached(struct backend_call *call, int status, uint64_t value)
{
	struct session *ss = (struct session *)((char *)call - offsetof(struct session, call));
	enum nbd_violation why;

	if (status) {
		violation(ss, NBD_VIOLATION_RESOURCE);
		session_free(ss);
		return;
	}
	ss->phase = SESSION_SERVED;
	stat_add(&ss->server->stats.connected, 1);
	/* It may be over already, and have said so while nobody looked. */
	if (ss->end || nbd_conn_over(ss->conn, &why)) {
		if (!ss->end)
			violation(ss, why);
		session_end(ss);
	}
}

/* The lane with the fewest connections of this disk. */
static unsigned lane_choose(const struct nbd_server *s)
{
	unsigned best = s->cfg.first_lane, least = UINT32_MAX;

	for (unsigned n = 0; n < s->cfg.lanes; n++) {
		unsigned lane = (s->cfg.first_lane + n) % s->cfg.lanes, count = 0;

		for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
			count += s->session[i] && s->session[i]->phase != SESSION_HELLO &&
				 s->session[i]->lane == lane;
		if (count < least) {
			best = lane;
			least = count;
		}
	}
	return best;
}

static void session_attach(struct session *ss)
{
	struct nbd_server *s = ss->server;

	event_free(ss->event);
	event_free(ss->late_event);
	ss->event = ss->late_event = NULL;
	if (nbd_conn_new(s->blk, ss->fd, s->over_fd, &ss->conn) < 0) {
		violation(ss, NBD_VIOLATION_RESOURCE);
		session_free(ss);
		return;
	}
	ss->lane = lane_choose(s);
	ss->phase = SESSION_ATTACHING;
	ss->call.done = on_attached;
	s->ops->lane_attach(s->ctx, ss->lane, ss->conn, &ss->call);
}

/* Waits for the socket; it is not waited for otherwise. */
static void session_wait(struct session *ss, short what)
{
	struct nbd_server *s = ss->server;
	event_callback_fn fn = event_get_callback(ss->event);

	event_del(ss->event);
	if (event_assign(ss->event, s->base, ss->fd, what, fn, ss) < 0 ||
		event_add(ss->event, NULL) < 0) {
		violation(ss, NBD_VIOLATION_RESOURCE);
		session_free(ss);
	}
}

/* 1: all of it was sent; 0: not yet; negative: the client has gone. */
static int session_send(struct session *ss)
{
	struct nbd_hello *h = &ss->hello;

	while (ss->out_sent < h->out_bytes) {
		ssize_t n = send(ss->fd, h->out + ss->out_sent, h->out_bytes - ss->out_sent,
			MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		ss->out_sent += (uint32_t)n;
	}
	ss->out_sent = 0;
	return 1;
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct session *ss = arg;
	struct nbd_hello *h = &ss->hello;

	for (unsigned i = 0; i < TURN; i++) {
		uint8_t *at;
		int sent = session_send(ss);

		if (sent < 0) {
			session_free(ss);
			return;
		}
		if (!sent) {
			session_wait(ss, EV_WRITE);
			return;
		}
		if (h->state == NBD_HELLO_READY) {
			session_attach(ss);
			return;
		}
		if (h->state != NBD_HELLO_TALK) {
			violation(ss, h->why);
			session_free(ss);
			return;
		}
		uint32_t room = nbd_hello_room(h, &at);
		ssize_t n = recv(fd, at, room, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			session_free(ss);
			return;
		}
		nbd_hello_take(h, (uint32_t)n);
	}
	session_wait(ss, EV_READ);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
	violation(arg, NBD_VIOLATION_LATE);
	session_free(arg);
}

/* ---- accepting ---- */

static pid_t peer_pid(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? 0 : peer.pid;
}

static void tcp_options_set(int fd)
{
	int one = 1, probe_s = TCP_PROBE_S;
	unsigned silent_ms = TCP_SILENT_MS;

	/* Each of them is a matter of time only. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe_s, sizeof(probe_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent_ms, sizeof(silent_ms));
}

static int session_new(struct nbd_server *s, int fd, bool tcp, struct session **slot)
{
	struct session *ss = calloc(1, sizeof(*ss));

	if (!ss)
		return -ENOMEM;
	ss->server = s;
	ss->fd = fd;
	ss->since_ns = env_now_ns(s->env);
	if (tcp)
		tcp_options_set(fd);
	else
		ss->pid = peer_pid(fd);
	ss->event = event_new(s->base, fd, EV_WRITE, on_ready, ss);
	ss->late_event = evtimer_new(s->base, on_late, ss);
	if (!ss->event || !ss->late_event || event_add(ss->event, NULL) < 0 ||
		event_add(ss->late_event, &(struct timeval){.tv_sec = NBD_HELLO_MS / 1000}) < 0) {
		if (ss->event)
			event_free(ss->event);
		if (ss->late_event)
			event_free(ss->late_event);
		free(ss);
		return -ENOMEM;
	}
	nbd_hello_start(&ss->hello, &s->export);
	*slot = ss;
	return 0;
}

/* A connection that was accepted. */
static void client_take(struct listener *l, int fd)
{
	struct nbd_server *s = l->ctx;
	struct session **slot = NULL;
	unsigned count = 0;

	stat_add(&s->stats.accepted, 1);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		count += s->session[i] != NULL;
		if (!s->session[i] && !slot)
			slot = &s->session[i];
	}
	if (count >= s->cfg.max_conns) {
		stat_add(&s->stats.refused_busy, 1);
		log_warn_limited_kv("nbd", "a connection too many is refused", "disk=%s limit=%u",
			s->name, s->cfg.max_conns);
		close(fd);
	} else if (session_new(s, fd, l == &s->listener[1], slot) < 0) {
		stat_add(&s->stats.accept_errors, 1);
		close(fd);
	}
}

/* ---- life ---- */

static void on_stopped(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_server *s = arg;
	struct backend_call *call = s->stop_call;

	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		if (s->session[i])
			return;
	if (!call)
		return;
	s->stop_call = NULL;
	call->done(call, 0, 0);
}

static int events_start(struct nbd_server *s)
{
	s->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->over_fd < 0)
		return -errno;
	s->over_event = event_new(s->base, s->over_fd, EV_READ | EV_PERSIST, on_over, s);
	s->stopped_event = event_new(s->base, -1, EV_TIMEOUT, on_stopped, s);
	if (!s->over_event || !s->stopped_event || event_add(s->over_event, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static int server_start(struct nbd_server *s, char *err, size_t err_bytes)
{
	int r = events_start(s);

	if (r < 0) {
		snprintf(err, err_bytes, "cannot serve by NBD: %s", strerror(-r));
		return r;
	}
	r = listener_unix_start(&s->listener[0], s->cfg.path, s->cfg.mode);
	if (r < 0) {
		snprintf(err, err_bytes, "cannot listen on %s: %s", s->cfg.path, listener_error(r));
		return r;
	}
	if (!s->cfg.listen[0])
		return 0;
	r = listener_tcp_start(&s->listener[1], s->cfg.listen);
	if (r < 0)
		snprintf(err, err_bytes, "cannot listen on %.80s: %s", s->cfg.listen,
			r == -EINVAL ? "it is no numeric address and port" : strerror(-r));
	return r;
}

void nbd_server_delete(struct nbd_server *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		assert(!s->session[i]);
	for (unsigned i = 0; i < 2; i++)
		listener_close(&s->listener[i]);
	if (s->over_event)
		event_free(s->over_event);
	if (s->stopped_event)
		event_free(s->stopped_event);
	if (s->over_fd >= 0)
		close(s->over_fd);
	free(s);
}

int nbd_server_new(const struct nbd_server_config *cfg, struct event_base *base,
	const struct env *env, struct blk *blk, const struct nbd_server_ops *ops, void *ctx,
	struct nbd_server **out, char *err, size_t err_bytes)
{
	if (!cfg->lanes || !cfg->max_conns || cfg->max_conns > NBD_MAX_CONNS ||
		strlen(cfg->name) >= sizeof(((struct nbd_server *)0)->name)) {
		snprintf(err, err_bytes, "a value of the NBD server is out of range");
		return -EINVAL;
	}
	struct nbd_server *s = calloc(1, sizeof(*s));
	if (!s) {
		snprintf(err, err_bytes, "no memory for an NBD server");
		return -ENOMEM;
	}
	s->cfg = *cfg;
	snprintf(s->name, sizeof(s->name), "%s", cfg->name);
	for (unsigned i = 0; i < 2; i++)
		s->listener[i] = (struct listener){.base = base,
			.area = "nbd",
			.accepted = client_take,
			.ctx = s,
			.errors = &s->stats.accept_errors};
	s->over_fd = -1;
	s->base = base;
	s->env = env;
	s->blk = blk;
	s->ops = ops;
	s->ctx = ctx;
	s->export = (struct nbd_export){.name = s->name,
		.size_bytes = blk_config(blk)->size_bytes,
		.min_bytes = BLK_SECTOR_BYTES,
		.preferred_bytes = BLK_PHYSICAL_BYTES,
		.max_bytes = NBD_MAX_BYTES,
		.readonly = blk_config(blk)->readonly};
	int r = server_start(s, err, err_bytes);
	if (r < 0) {
		nbd_server_delete(s);
		return r;
	}
	s->cfg.name = s->name;
	s->cfg.path = s->listener[0].path;
	s->cfg.listen = "";
	*out = s;
	return 0;
}

void nbd_server_stop(struct nbd_server *s, struct backend_call *call)
{
	assert(!s->stopping);
	s->stopping = true;
	s->stop_call = call;
	for (unsigned i = 0; i < 2; i++)
		listener_close(&s->listener[i]);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		if (s->session[i])
			session_end(s->session[i]);
	event_active(s->stopped_event, EV_TIMEOUT, 1);
}

/* ---- for status ---- */

const struct nbd_server_stats *nbd_server_stats(const struct nbd_server *s)
{
	return &s->stats;
}

bool nbd_server_next(const struct nbd_server *s, unsigned *cursor, struct nbd_server_client *out)
{
	while (*cursor < NBD_MAX_CONNS) {
		const struct session *ss = s->session[(*cursor)++];

		if (!ss || ss->phase != SESSION_SERVED)
			continue;
		*out = (struct nbd_server_client){.pid = ss->pid,
			.lane = ss->lane,
			.since_ns = ss->since_ns,
			.requests = nbd_conn_requests(ss->conn)};
		return true;
	}
	return false;
}

uint16_t nbd_server_port(const struct nbd_server *s)
{
	return listener_port(&s->listener[1]);
}
