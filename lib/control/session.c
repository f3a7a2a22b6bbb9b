/* Control connections over libevent: connecting, listening, framing, limits. */
#include "lib/control/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/dns.h>
#include <event2/listener.h>

#include "lib/control/codec.h"

#define MESSAGES_PER_TURN 8  /* of one session, before others get their turn */
#define LINGERING_MAX	  64 /* closing sessions that still hand over their last message */
#define PEER_TEXT_BYTES	  64
#define ACCEPT_PAUSE_MS	  200

enum session_state {
	SESSION_CONNECTING, /* looking up or connecting */
	SESSION_OPEN,	    /* messages go both ways */
	SESSION_FAILED,	    /* closed() is due, from the loop */
	SESSION_LINGERING,  /* the owner is done with it; the last message goes out */
	SESSION_DEAD,	    /* to be freed once no callback is on the stack */
};

struct control_session {
	struct control_loop *loop;
	struct bufferevent *bev;
	struct event *timer; /* connect limit, linger limit */
	struct event *turn;  /* more messages to read, or a failure to report */
	const struct control_session_cbs *cbs;
	void *ctx;
	enum session_state state;
	unsigned callbacks; /* on the stack */
	int status;
	const char *why;
	char peer[PEER_TEXT_BYTES];
	TAILQ_ENTRY(control_session) link;
};

struct control_loop {
	struct event_base *base;
	struct evdns_base *dns; /* made with the first name to look up */
	struct control_loop_config cfg;
	struct control_stats stats;
	unsigned lingering;
	TAILQ_HEAD(, control_session) sessions;
	struct control_msg msg; /* the message being delivered */
};

struct control_listener {
	struct evconnlistener *listener;
	struct event *pause;
	void (*accepted)(void *ctx, evutil_socket_t fd, const char *peer);
	void *ctx;
	uint16_t port;
};

static const char *const reason_names[CONTROL_CLOSE_REASONS] = {
	[CONTROL_CLOSE_LOCAL] = "local",
	[CONTROL_CLOSE_EOF] = "eof",
	[CONTROL_CLOSE_SOCKET] = "socket",
	[CONTROL_CLOSE_RESOLVE] = "resolve",
	[CONTROL_CLOSE_CONNECT] = "connect",
	[CONTROL_CLOSE_IDLE] = "idle",
	[CONTROL_CLOSE_OUTPUT] = "output",
	[CONTROL_CLOSE_FRAME_LENGTH] = "frame_length",
	[CONTROL_CLOSE_FRAME_VERSION] = "frame_version",
	[CONTROL_CLOSE_FRAME_TYPE] = "frame_type",
	[CONTROL_CLOSE_FRAME_BODY] = "frame_body",
};

const char *control_close_reason_name(enum control_close_reason r)
{
	return (unsigned)r < CONTROL_CLOSE_REASONS ? reason_names[r] : "?";
}

static struct timeval ms_timeval(uint32_t ms)
{
	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
}

void control_loop_config_default(struct control_loop_config *cfg)
{
	*cfg = (struct control_loop_config){
		.connect_timeout_ms = 5000,
		.idle_timeout_ms = 60000,
		.linger_ms = 1000,
		.out_max_bytes = 4u << 20,
	};
}

int control_loop_new(
	struct event_base *base, const struct control_loop_config *cfg, struct control_loop **out)
{
	struct control_loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->base = base;
	l->cfg = *cfg;
	TAILQ_INIT(&l->sessions);
	*out = l;
	return 0;
}

static void session_free(struct control_session *s)
{
	TAILQ_REMOVE(&s->loop->sessions, s, link);
	if (s->state == SESSION_LINGERING)
		s->loop->lingering--;
	if (s->bev)
		bufferevent_free(s->bev);
	if (s->timer)
		event_free(s->timer);
	if (s->turn)
		event_free(s->turn);
	free(s);
}

void control_loop_delete(struct control_loop *l)
{
	struct control_session *s;

	if (!l)
		return;
	while ((s = TAILQ_FIRST(&l->sessions)))
		session_free(s);
	if (l->dns)
		evdns_base_free(l->dns, 0);
	free(l);
}

const struct control_stats *control_loop_stats(const struct control_loop *l)
{
	return &l->stats;
}

const char *control_session_peer(const struct control_session *s)
{
	return s->peer;
}

/* Ends a callback: frees the session when it was closed meanwhile. False: it is gone. */
static bool callback_leave(struct control_session *s)
{
	s->callbacks--;
	if (s->state != SESSION_DEAD || s->callbacks)
		return s->state == SESSION_OPEN;
	session_free(s);
	return false;
}

static void session_kill(struct control_session *s)
{
	if (s->state == SESSION_LINGERING)
		s->loop->lingering--;
	s->state = SESSION_DEAD;
	if (!s->callbacks)
		session_free(s);
}

/* What the kernel takes at once need not wait until libevent has asked whether it would. An error
 * shows again when the rest is written. */
static size_t frame_send(struct control_session *s, const uint8_t *frame, size_t len)
{
	if (evbuffer_get_length(bufferevent_get_output(s->bev)) > 0)
		return 0;
	ssize_t n = send(bufferevent_getfd(s->bev), frame, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	return n > 0 ? (size_t)n : 0;
}

/* Sends one frame, or queues it; the caller looked at the state. Of a session's last frame the end
 * is waited for, so it is always queued. */
static int session_queue(struct control_session *s, const struct control_msg *m, bool last)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	ssize_t len = control_encode(m, frame, sizeof(frame));

	if (len < 0)
		return (int)len;
	size_t sent = last ? 0 : frame_send(s, frame, (size_t)len);

	if (sent < (size_t)len && bufferevent_write(s->bev, frame + sent, (size_t)len - sent))
		return -ENOMEM;
	stat_add(&s->loop->stats.messages_out, 1);
	stat_add(&s->loop->stats.bytes_out, (uint64_t)len);
	return 0;
}

static void queue_error(struct control_session *s, int status, const char *text)
{
	struct control_msg m = {.type = CONTROL_ERROR};

	m.error.status = status;
	snprintf(m.error.text, sizeof(m.error.text), "%s", text);
	session_queue(s, &m, true);
}

/* The last bytes are with the kernel: say so to the peer, and wait for it to close. */
static void linger_flushed(struct control_session *s)
{
	if (evbuffer_get_length(bufferevent_get_output(s->bev)) == 0)
		shutdown(bufferevent_getfd(s->bev), SHUT_WR);
}

/* The owner is done; what is queued still goes out, within a limit. */
static void session_linger(struct control_session *s)
{
	struct control_loop *l = s->loop;
	struct timeval limit = ms_timeval(l->cfg.linger_ms);

	if (l->lingering >= LINGERING_MAX || evtimer_add(s->timer, &limit)) {
		session_kill(s);
		return;
	}
	s->state = SESSION_LINGERING;
	l->lingering++;
	event_del(s->turn);
	linger_flushed(s);
	struct evbuffer *in = bufferevent_get_input(s->bev);
	evbuffer_drain(in, evbuffer_get_length(in));
}

/* The session failed: report it from the loop, never from within a call of the owner. */
static void session_fail(
	struct control_session *s, enum control_close_reason reason, int status, const char *why)
{
	if (s->state != SESSION_CONNECTING && s->state != SESSION_OPEN)
		return;
	bool tell = reason >= CONTROL_CLOSE_FRAME_LENGTH;
	if (tell)
		queue_error(s, status, why);
	stat_add(&s->loop->stats.closed[reason], 1);
	s->state = SESSION_FAILED;
	s->status = status;
	s->why = why;
	if (!tell)
		bufferevent_disable(s->bev, EV_READ | EV_WRITE);
	evtimer_del(s->timer);
	event_active(s->turn, EV_TIMEOUT, 0);
}

static void session_report(struct control_session *s)
{
	s->callbacks++;
	s->cbs->closed(s->ctx, s, s->status, s->why);
	s->callbacks--;
	if (s->state == SESSION_FAILED && evbuffer_get_length(bufferevent_get_output(s->bev)) > 0 &&
		bufferevent_get_enabled(s->bev) & EV_WRITE)
		session_linger(s);
	else
		session_kill(s);
}

static void frame_fail(struct control_session *s, int status, const char *why)
{
	enum control_close_reason reason = status == -EMSGSIZE ? CONTROL_CLOSE_FRAME_LENGTH
					   : status == -EPROTONOSUPPORT
						   ? CONTROL_CLOSE_FRAME_VERSION
					   : status == -EOPNOTSUPP ? CONTROL_CLOSE_FRAME_TYPE
								   : CONTROL_CLOSE_FRAME_BODY;
	session_fail(s, reason, status, why);
}

/* Delivers one message from the input. False: none is complete, or the session is over. */
static bool session_deliver(struct control_session *s)
{
	struct evbuffer *in = bufferevent_get_input(s->bev);
	struct control_msg *m = &s->loop->msg;
	uint8_t head[4];
	const char *why;

	ssize_t have = evbuffer_copyout(in, head, sizeof(head));
	ssize_t len = control_frame_length(head, have > 0 ? (size_t)have : 0);
	if (len < 0) {
		frame_fail(s, (int)len, "frame length is wrong");
		return false;
	}
	if (!len || evbuffer_get_length(in) < (size_t)len)
		return false;
	const uint8_t *frame = evbuffer_pullup(in, len);
	if (!frame) {
		session_fail(s, CONTROL_CLOSE_SOCKET, -ENOMEM, "out of memory");
		return false;
	}
	int rc = control_decode(frame, (size_t)len, m, &why);
	evbuffer_drain(in, (size_t)len);
	if (rc) {
		frame_fail(s, rc, why);
		return false;
	}
	stat_add(&s->loop->stats.messages_in, 1);
	stat_add(&s->loop->stats.bytes_in, (uint64_t)len);
	s->callbacks++;
	s->cbs->message(s->ctx, s, m);
	return callback_leave(s);
}

static void session_read(struct bufferevent *bev, void *arg)
{
	struct control_session *s = arg;

	if (s->state == SESSION_LINGERING || s->state == SESSION_FAILED) {
		struct evbuffer *in = bufferevent_get_input(bev);
		evbuffer_drain(in, evbuffer_get_length(in));
		return;
	}
	for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
		if (s->state != SESSION_OPEN || !session_deliver(s))
			return;
	}
	event_active(s->turn, EV_TIMEOUT, 0);
}

/* The peer closed: what it sent before that still counts. False: the session is over already. */
static bool session_deliver_rest(struct control_session *s)
{
	s->callbacks++;
	while (s->state == SESSION_OPEN && session_deliver(s))
		;
	return callback_leave(s);
}

static void session_turn(evutil_socket_t fd, short what, void *arg)
{
	struct control_session *s = arg;

	if (s->state == SESSION_FAILED)
		session_report(s);
	else if (s->state == SESSION_OPEN)
		session_read(s->bev, s);
}

static void session_written(struct bufferevent *bev, void *arg)
{
	struct control_session *s = arg;

	if (s->state == SESSION_LINGERING)
		linger_flushed(s);
}

static void peer_text(const struct sockaddr *sa, char *out, size_t cap)
{
	char host[INET6_ADDRSTRLEN] = "?";
	uint16_t port = 0;

	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)sa;
		evutil_inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		port = ntohs(in->sin_port);
	} else if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)sa;
		evutil_inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		port = ntohs(in6->sin6_port);
	}
	snprintf(out, cap, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
}

static void session_opened(struct control_session *s)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	evutil_socket_t fd = bufferevent_getfd(s->bev);
	struct timeval idle = ms_timeval(s->loop->cfg.idle_timeout_ms);
	int one = 1;

	evtimer_del(s->timer);
	s->state = SESSION_OPEN;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!getpeername(fd, (struct sockaddr *)&ss, &len))
		peer_text((struct sockaddr *)&ss, s->peer, sizeof(s->peer));
	bufferevent_set_timeouts(s->bev, &idle, &idle);
	bufferevent_setwatermark(s->bev, EV_READ, 0, 2 * CONTROL_FRAME_MAX_BYTES);
	bufferevent_enable(s->bev, EV_READ | EV_WRITE);
}

static void session_event(struct bufferevent *bev, short what, void *arg)
{
	struct control_session *s = arg;
	int err = EVUTIL_SOCKET_ERROR();

	if (s->state == SESSION_LINGERING) {
		session_kill(s);
		return;
	}
	if (what & BEV_EVENT_CONNECTED) {
		session_opened(s);
		s->callbacks++;
		if (s->cbs->connected)
			s->cbs->connected(s->ctx, s);
		callback_leave(s);
		return;
	}
	if (what & BEV_EVENT_EOF && s->state == SESSION_OPEN && !session_deliver_rest(s))
		return;
	if (what & BEV_EVENT_TIMEOUT)
		session_fail(s, CONTROL_CLOSE_IDLE, -ETIMEDOUT,
			what & BEV_EVENT_READING ? "nothing was received for too long"
						 : "the peer took nothing for too long");
	else if (what & BEV_EVENT_EOF)
		session_fail(s, CONTROL_CLOSE_EOF, -ECONNRESET, "the peer closed the connection");
	else if (bufferevent_socket_get_dns_error(bev))
		session_fail(s, CONTROL_CLOSE_RESOLVE, -EHOSTUNREACH,
			"the host name could not be resolved");
	else if (s->state == SESSION_CONNECTING)
		session_fail(
			s, CONTROL_CLOSE_CONNECT, err ? -err : -ECONNREFUSED, "connecting failed");
	else
		session_fail(
			s, CONTROL_CLOSE_SOCKET, err ? -err : -ECONNRESET, "the connection broke");
}

static void session_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct control_session *s = arg;

	if (s->state == SESSION_LINGERING)
		session_kill(s);
	else
		session_fail(s, CONTROL_CLOSE_CONNECT, -ETIMEDOUT, "connecting took too long");
}

/* fd -1: to be connected. */
static struct control_session *session_new(struct control_loop *l, evutil_socket_t fd,
	const struct control_session_cbs *cbs, void *ctx)
{
	struct control_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->loop = l;
	s->cbs = cbs;
	s->ctx = ctx;
	snprintf(s->peer, sizeof(s->peer), "?");
	TAILQ_INSERT_TAIL(&l->sessions, s, link);
	s->timer = evtimer_new(l->base, session_timeout, s);
	s->turn = event_new(l->base, -1, 0, session_turn, s);
	/* Last: from here on the descriptor goes with the session. */
	s->bev = s->timer && s->turn ? bufferevent_socket_new(l->base, fd, BEV_OPT_CLOSE_ON_FREE)
				     : NULL;
	if (!s->bev) {
		session_free(s);
		return NULL;
	}
	bufferevent_setcb(s->bev, session_read, session_written, session_event, s);
	return s;
}

int control_session_accept(struct control_loop *l, evutil_socket_t fd,
	const struct control_session_cbs *cbs, void *ctx, struct control_session **out)
{
	struct control_session *s = session_new(l, fd, cbs, ctx);

	if (!s)
		return -ENOMEM;
	session_opened(s);
	*out = s;
	return 0;
}

static bool host_numeric(const char *host, uint16_t port, struct sockaddr_storage *ss, int *len)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	memset(ss, 0, sizeof(*ss));
	if (evutil_inet_pton(AF_INET, host, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		*len = sizeof(*in);
		return true;
	}
	if (evutil_inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		*len = sizeof(*in6);
		return true;
	}
	return false;
}

static int loop_resolver_new(struct control_loop *l)
{
	l->dns = evdns_base_new(
		l->base, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	if (l->dns)
		return 0;
	/* No resolv.conf: the hosts file still tells names. */
	l->dns = evdns_base_new(l->base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	if (!l->dns)
		return -ENOMEM;
	evdns_base_load_hosts(l->dns, "/etc/hosts");
	return 0;
}

static int session_start(struct control_session *s, const char *host, uint16_t port)
{
	struct control_loop *l = s->loop;
	struct sockaddr_storage ss;
	struct timeval limit = ms_timeval(l->cfg.connect_timeout_ms);
	int len;

	evtimer_add(s->timer, &limit);
	if (host_numeric(host, port, &ss, &len)) {
		/* A failure is reported through session_event(). */
		bufferevent_socket_connect(s->bev, (struct sockaddr *)&ss, len);
		return 0;
	}
	if (!l->dns && loop_resolver_new(l))
		return -ENOMEM;
	bufferevent_socket_connect_hostname(s->bev, l->dns, AF_UNSPEC, host, port);
	return 0;
}

int control_session_connect(struct control_loop *l, const char *host, uint16_t port,
	const struct control_session_cbs *cbs, void *ctx, struct control_session **out)
{
	if (!host[0] || !port || !cbs->connected)
		return -EINVAL;
	struct control_session *s = session_new(l, -1, cbs, ctx);
	if (!s)
		return -ENOMEM;
	snprintf(s->peer, sizeof(s->peer), "%.40s:%u", host, port);
	*out = s;
	int rc = session_start(s, host, port);
	if (rc)
		session_free(s);
	return rc;
}

int control_session_send(struct control_session *s, const struct control_msg *m)
{
	if (s->state != SESSION_OPEN)
		return -ENOTCONN;
	int rc = session_queue(s, m, false);
	if (rc == -EINVAL)
		return rc;
	if (!rc &&
		evbuffer_get_length(bufferevent_get_output(s->bev)) <= s->loop->cfg.out_max_bytes)
		return 0;
	session_fail(s, CONTROL_CLOSE_OUTPUT, -ENOBUFS, "the peer does not read");
	return -ENOBUFS;
}

void control_session_close(struct control_session *s, int status, const char *text)
{
	if (s->state != SESSION_CONNECTING && s->state != SESSION_OPEN) {
		/* It failed, and closed() has not been called yet. */
		session_kill(s);
		return;
	}
	stat_add(&s->loop->stats.closed[CONTROL_CLOSE_LOCAL], 1);
	if (s->state == SESSION_OPEN && text)
		queue_error(s, status, text);
	if (s->state == SESSION_OPEN && evbuffer_get_length(bufferevent_get_output(s->bev)))
		session_linger(s);
	else
		session_kill(s);
}

static void listener_accepted(
	struct evconnlistener *ev, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	struct control_listener *l = arg;
	char peer[PEER_TEXT_BYTES];

	peer_text(sa, peer, sizeof(peer));
	l->accepted(l->ctx, fd, peer);
}

/* Out of descriptors or memory: the next try comes later, instead of at once and for ever. */
static void listener_failed(struct evconnlistener *ev, void *arg)
{
	struct control_listener *l = arg;
	struct timeval pause = ms_timeval(ACCEPT_PAUSE_MS);

	evconnlistener_disable(ev);
	evtimer_add(l->pause, &pause);
}

static void listener_resume(evutil_socket_t fd, short what, void *arg)
{
	struct control_listener *l = arg;

	evconnlistener_enable(l->listener);
}

static int listener_bound_port(evutil_socket_t fd, uint16_t *port)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return -errno;
	*port = ss.ss_family == AF_INET ? ntohs(((struct sockaddr_in *)&ss)->sin_port)
					: ntohs(((struct sockaddr_in6 *)&ss)->sin6_port);
	return 0;
}

int control_listener_new(struct event_base *base, const char *host, uint16_t port,
	void (*accepted)(void *ctx, evutil_socket_t fd, const char *peer), void *ctx,
	struct control_listener **out)
{
	struct sockaddr_storage ss;
	int len, rc = -ENOMEM;

	if (!host_numeric(host, port, &ss, &len))
		return -EINVAL;
	struct control_listener *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->accepted = accepted;
	l->ctx = ctx;
	l->pause = evtimer_new(base, listener_resume, l);
	if (!l->pause)
		goto err_free;
	errno = 0;
	l->listener = evconnlistener_new_bind(base, listener_accepted, l,
		LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE, 128,
		(struct sockaddr *)&ss, len);
	if (!l->listener) {
		rc = errno ? -errno : -ENOMEM;
		goto err_pause;
	}
	rc = listener_bound_port(evconnlistener_get_fd(l->listener), &l->port);
	if (rc)
		goto err_listener;
	evconnlistener_set_error_cb(l->listener, listener_failed);
	*out = l;
	return 0;
err_listener:
	evconnlistener_free(l->listener);
err_pause:
	event_free(l->pause);
err_free:
	free(l);
	return rc;
}

void control_listener_delete(struct control_listener *l)
{
	if (!l)
		return;
	evconnlistener_free(l->listener);
	event_free(l->pause);
	free(l);
}

uint16_t control_listener_port(const struct control_listener *l)
{
	return l->port;
}
