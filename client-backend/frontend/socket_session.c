/* One client's connection and session, from accept to the moment the lanes have let go of it. */
#include "client-backend/frontend/socket_session.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/core/log.h"

static void session_input(struct session *ss);

static bool token_zero(const uint8_t token[SOCKET_TOKEN_BYTES])
{
	static const uint8_t zero[SOCKET_TOKEN_BYTES];
	return memcmp(token, zero, sizeof(zero)) == 0;
}

/* The end */

static void session_free(struct session *ss)
{
	struct socket_server *s = ss->server;
	event_free(ss->read_event);
	event_free(ss->write_event);
	event_free(ss->hello_event);
	close(ss->fd);
	if (ss->have_memory)
		socket_memory_fini(&ss->memory);
	*ss->pprev = ss->next;
	if (ss->next)
		ss->next->pprev = ss->pprev;
	ss->state = SESSION_ENDED;
	server_session_ended(s, ss);
	free(ss);
}

static void lane_detached(struct backend_call *call, int status, uint64_t value)
{
	struct session_lane_call *lc = (struct session_lane_call *)call;
	struct session *ss = lc->session;
	if (--ss->lanes_pending == 0)
		session_free(ss);
}

/* Goes as far towards the end as what is under way allows; ss may be gone afterwards. */
static void session_end_continue(struct session *ss)
{
	struct socket_server *s = ss->server;
	if (ss->busy || ss->state == SESSION_ATTACHING || ss->state == SESSION_DETACHING)
		return;
	ss->state = SESSION_DETACHING;
	ss->lanes_pending = 1; /* ours, so that it cannot end within the loop */
	for (unsigned i = 0; i < s->cfg.lanes; i++) {
		if (!(ss->attached >> i & 1))
			continue;
		ss->lanes_pending++;
		ss->lane_call[i].call.done = lane_detached;
		s->ops->lane_detach(s->ctx, i, ss->memory.attachment[i], &ss->lane_call[i].call);
	}
	if (--ss->lanes_pending == 0)
		session_free(ss);
}

void session_end(struct session *ss)
{
	if (ss->ending)
		return;
	ss->ending = true;
	event_del(ss->read_event);
	event_del(ss->write_event);
	event_del(ss->hello_event);
	shutdown(ss->fd, SHUT_RDWR); /* the client learns it now, the lanes in a moment */
	if (ss->out_len || ss->state == SESSION_WAITING) {
		ss->out_len = 0; /* the answer that it did not take, or will not get */
		ss->busy = false;
	}
	session_end_continue(ss);
}

void session_violation(struct session *ss, enum socket_violation why)
{
	if (ss->ending)
		return;
	stat_add(&ss->server->stats.violations[why], 1);
	log_warn_limited_kv("socket", "client broke the protocol; its session is closed",
		"reason=%s client=%s pid=%d session=%llu", socket_violation_name(why), ss->identity,
		(int)ss->peer.pid, (unsigned long long)ss->id);
	session_end(ss);
}

/* Answers */

/* Sends what is left of the answer; 0 all of it, -EAGAIN later, other: the connection is broken. */
static int output_send(struct session *ss)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * (1 + SOCKET_MAX_LANES))];
	} control;
	struct iovec iov = {
		.iov_base = ss->out.bytes + ss->out_sent, .iov_len = ss->out_len - ss->out_sent};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (ss->out_fds) {
		unsigned lanes = ss->memory.lanes;
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * (1 + lanes));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (1 + lanes));
		memcpy(CMSG_DATA(c), &ss->memory.memfd, sizeof(int));
		memcpy(CMSG_DATA(c) + sizeof(int), ss->memory.doorbell, sizeof(int) * lanes);
	}
	ssize_t n = sendmsg(ss->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
	ss->out_fds = false;
	ss->out_sent += (size_t)n;
	return ss->out_sent == ss->out_len ? 0 : -EAGAIN;
}

static void output_continue(struct session *ss)
{
	int err = output_send(ss);
	if (err == -EAGAIN) {
		struct timeval limit = {.tv_sec = ss->server->cfg.hello_timeout_ms / 1000,
			.tv_usec = ss->server->cfg.hello_timeout_ms % 1000 * 1000};
		event_add(ss->write_event, &limit);
		return;
	}
	ss->out_len = 0;
	ss->busy = false;
	if (err || ss->close_after_answer) {
		session_end(ss);
		return;
	}
	event_add(ss->read_event, NULL);
	session_input(ss);
}

static void write_ready(evutil_socket_t fd, short what, void *arg)
{
	struct session *ss = arg;
	if (what & EV_TIMEOUT)
		session_violation(ss, SOCKET_VIOLATION_STALLED);
	else
		output_continue(ss);
}

static void session_answer(struct session *ss, int status, const struct socket_answer *body)
{
	if (ss->ending) {
		ss->busy = false;
		session_end_continue(ss);
		return;
	}
	ss->out.answer = *body;
	ss->out.answer.h = (struct socket_frame_header){.len_bytes = sizeof(*body),
		.type = SOCKET_ANSWER,
		.sequence = ss->question.h.sequence,
		.status = status};
	ss->out_len = sizeof(*body);
	ss->out_sent = 0;
	output_continue(ss);
}

static void session_hello_answer(struct session *ss, int status)
{
	struct socket_server *s = ss->server;
	if (ss->ending) {
		ss->busy = false;
		session_end_continue(ss);
		return;
	}
	memset(&ss->out, 0, sizeof(ss->out));
	ss->out.ack.h = (struct socket_frame_header){.len_bytes = sizeof(ss->out.ack),
		.type = SOCKET_HELLO_ACK,
		.sequence = ss->question.h.sequence,
		.status = status};
	ss->out.ack.magic = SOCKET_MAGIC;
	ss->out.ack.version = SOCKET_VERSION;
	if (status == 0) {
		ss->out.ack.lanes = s->cfg.lanes;
		ss->out.ack.slots = s->cfg.slots;
		ss->out.ack.resumed = ss->resumed;
		memcpy(ss->out.ack.token, ss->token, SOCKET_TOKEN_BYTES);
		ss->out.ack.lane_bytes = socket_lane_bytes(s->cfg.slots);
		ss->out.ack.request_timeout_ms = s->cfg.request_timeout_ms;
		ss->out_fds = true;
	}
	ss->close_after_answer = status != 0;
	ss->out_len = sizeof(ss->out.ack);
	ss->out_sent = 0;
	output_continue(ss);
}

void session_refuse(int fd, int status)
{
	struct socket_hello_ack ack = {
		.h = {.len_bytes = sizeof(ack), .type = SOCKET_HELLO_ACK, .status = status},
		.magic = SOCKET_MAGIC,
		.version = SOCKET_VERSION,
	};
	ssize_t n = send(fd, &ack, sizeof(ack), MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)n;
	close(fd);
}

/* Hello */

static void attach_finish(struct session *ss)
{
	ss->state = SESSION_READY;
	if (ss->attach_status)
		stat_add(&ss->server->stats.refused_memory, 1);
	else
		stat_add(&ss->server->stats.hellos, 1);
	if (ss->attach_status == 0 && ss->resumed)
		stat_add(&ss->server->stats.resumed, 1);
	session_hello_answer(ss, ss->attach_status);
}

static void lane_attached(struct backend_call *call, int status, uint64_t value)
{
	struct session_lane_call *lc = (struct session_lane_call *)call;
	struct session *ss = lc->session;
	if (status == 0)
		ss->attached |= 1ull << lc->lane;
	else
		ss->attach_status = status;
	if (--ss->lanes_pending == 0)
		attach_finish(ss);
}

static void session_attach(struct session *ss)
{
	struct socket_server *s = ss->server;
	const uint8_t *token = ss->question.hello.token;
	int err = socket_memory_init(&ss->memory, s->cfg.lanes, s->cfg.slots, s->violation_fd);
	ss->have_memory = err == 0;
	if (!err && !token_zero(token) && server_ghost_take(s, token, ss->identity)) {
		memcpy(ss->token, token, SOCKET_TOKEN_BYTES);
		ss->resumed = true;
	} else if (!err && getrandom(ss->token, SOCKET_TOKEN_BYTES, 0) != SOCKET_TOKEN_BYTES) {
		err = -EIO;
	}
	if (err) {
		stat_add(&s->stats.refused_memory, 1);
		session_hello_answer(ss, err);
		return;
	}
	ss->state = SESSION_ATTACHING;
	ss->lanes_pending = 1;
	for (unsigned i = 0; i < s->cfg.lanes; i++) {
		ss->lanes_pending++;
		ss->lane_call[i] = (struct session_lane_call){
			.call.done = lane_attached, .session = ss, .lane = i};
		s->ops->lane_attach(s->ctx, i, ss->memory.attachment[i], &ss->lane_call[i].call);
	}
	if (--ss->lanes_pending == 0)
		attach_finish(ss);
}

static bool fd_hungup(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void session_end_hungup(struct socket_server *s, const char *identity, const struct session *except)
{
	struct session *next;
	for (struct session *o = s->sessions; o; o = next) {
		next = o->next;
		if (o != except && !o->ending && strcmp(o->identity, identity) == 0 &&
			fd_hungup(o->fd))
			session_end(o);
	}
}

/*
 * A request of an ended session may still be in a lane; were a new session of the same client let
 * in now, that old put could land over a newer one. So a hello waits until those sessions are
 * detached.
 */
static bool hello_blocked(struct session *ss)
{
	struct socket_server *s = ss->server;
	const uint8_t *token = ss->question.hello.token;
	bool again = !token_zero(token);
	session_end_hungup(s, ss->identity, ss);
	for (struct session *o = s->sessions; again && o; o = o->next) {
		if (o == ss || o->ending || strcmp(o->identity, ss->identity) != 0 ||
			memcmp(o->token, token, SOCKET_TOKEN_BYTES) != 0)
			continue;
		session_end(o); /* the client gave that one up */
		break;
	}
	for (struct session *o = s->sessions; o; o = o->next)
		if (o != ss && o->ending && strcmp(o->identity, ss->identity) == 0)
			return true;
	return false;
}

void session_hello_retry(struct session *ss)
{
	if (ss->state != SESSION_WAITING || ss->ending || hello_blocked(ss))
		return;
	ss->state = SESSION_HELLO;
	session_attach(ss);
}

static void session_hello(struct session *ss)
{
	const struct socket_hello *h = &ss->question.hello;
	event_del(ss->hello_event);
	if (h->version_min > SOCKET_VERSION || h->version_max < SOCKET_VERSION) {
		stat_add(&ss->server->stats.refused_version, 1);
		session_hello_answer(ss, -EPROTONOSUPPORT);
		return;
	}
	memcpy(ss->program, h->name, SOCKET_NAME_BYTES);
	ss->state = SESSION_WAITING;
	session_hello_retry(ss);
}

/* Pools */

static _Atomic uint32_t *grant_row(struct session *ss, uint32_t id)
{
	return &ss->memory.grants->id[id % ENGINE_MAX_POOLS];
}

static bool granted(struct session *ss, uint32_t id)
{
	return id && atomic_load(grant_row(ss, id)) == id;
}

static void grant_withdraw(struct session *ss, uint32_t id)
{
	if (!granted(ss, id))
		return;
	atomic_store(grant_row(ss, id), 0);
	ss->pools--;
}

static struct session *session_of_call(struct backend_call *call)
{
	return (struct session *)((char *)call - offsetof(struct session, call));
}

static void pool_opened(struct backend_call *call, int status, uint64_t value)
{
	struct session *ss = session_of_call(call);
	uint32_t id = (uint32_t)value;
	if (status == 0 && !granted(ss, id)) {
		ss->pools += atomic_load(grant_row(ss, id)) == 0;
		atomic_store(grant_row(ss, id), id);
	}
	session_answer(ss, status, &(struct socket_answer){.value = status ? 0 : value});
}

static void pool_destroyed(struct backend_call *call, int status, uint64_t value)
{
	struct session *ss = session_of_call(call);
	if (status == 0)
		grant_withdraw(ss, ss->question.pool_ref.id);
	session_answer(ss, status, &(struct socket_answer){0});
}

static void pool_counted(struct backend_call *call, int status, uint64_t value)
{
	session_answer(session_of_call(call), status,
		&(struct socket_answer){.value = status ? 0 : value});
}

static void session_pool_open(struct session *ss)
{
	struct socket_server *s = ss->server;
	const struct socket_pool_open *q = &ss->question.pool_open;
	struct pools_request r = {
		.owner = ss->identity,
		.account = ss->account,
		.session = ss->token,
		.flags = q->flags,
		.id = q->id,
		.name = q->name,
		.uuid = q->uuid,
		.secret = q->secret,
		.codec = q->codec,
		.copies = q->copies,
		.disk = q->disk,
	};
	stat_add(&s->stats.pool_opens, 1);
	ss->call.done = pool_opened;
	pools_open(s->pools, &r, &ss->call);
}

static void session_pool_destroy(struct session *ss)
{
	struct socket_server *s = ss->server;
	stat_add(&s->stats.pool_destroys, 1);
	ss->call.done = pool_destroyed;
	pools_destroy(s->pools, ss->identity, ss->token, ss->question.pool_ref.id, &ss->call);
}

/* An unnamed pool has no other way back to it, so closing it is destroying it. */
static void session_pool_close(struct session *ss)
{
	uint32_t id = ss->question.pool_ref.id;
	const struct engine_pool_desc *d = pools_find(ss->server->pools, id);
	if (d && !(d->flags & ENGINE_POOL_SHARED) && !d->name[0]) {
		session_pool_destroy(ss);
		return;
	}
	grant_withdraw(ss, id);
	session_answer(ss, 0, &(struct socket_answer){0});
}

static void session_limits(struct session *ss)
{
	struct socket_server *s = ss->server;
	struct socket_answer a = {
		.limit_pages = UINT64_MAX, .max_pools = pools_max_per_owner(s->pools)};
	s->ops->account_usage(s->ctx, ss->account, &a.value, &a.limit_pages);
	session_answer(ss, 0, &a);
}

/* Input */

static void session_question(struct session *ss)
{
	unsigned type = ss->question.h.type;
	event_del(ss->read_event);
	ss->busy = true;
	if ((type == SOCKET_POOL_CLOSE || type == SOCKET_POOL_DESTROY ||
		    type == SOCKET_POOL_STATS) &&
		!granted(ss, ss->question.pool_ref.id)) {
		session_answer(ss, -ENOENT, &(struct socket_answer){0});
		return;
	}
	switch (type) {
	case SOCKET_HELLO:
		session_hello(ss);
		return;
	case SOCKET_POOL_OPEN:
		session_pool_open(ss);
		return;
	case SOCKET_POOL_CLOSE:
		session_pool_close(ss);
		return;
	case SOCKET_POOL_DESTROY:
		session_pool_destroy(ss);
		return;
	case SOCKET_POOL_STATS:
		ss->call.done = pool_counted;
		pools_pages(ss->server->pools, ss->question.pool_ref.id, &ss->call);
		return;
	case SOCKET_LIMITS:
		session_limits(ss);
		return;
	default: /* SOCKET_BYE */
		ss->bye = true;
		ss->close_after_answer = true;
		session_answer(ss, 0, &(struct socket_answer){0});
		return;
	}
}

/* Acts on one whole frame if there is one; the next follows when it was answered. */
static void session_input(struct session *ss)
{
	enum socket_violation why;
	if (ss->ending || ss->busy)
		return;
	int n = socket_frame_parse(ss->in, ss->in_len, &ss->question, &why);
	if (n < 0) {
		session_violation(ss, why);
		return;
	}
	if (n == 0)
		return;
	if ((ss->state == SESSION_HELLO) != (ss->question.h.type == SOCKET_HELLO)) {
		session_violation(ss, SOCKET_VIOLATION_FRAME_ORDER);
		return;
	}
	ss->in_len -= (size_t)n;
	memmove(ss->in, ss->in + n, ss->in_len);
	session_question(ss);
}

static void hello_late(evutil_socket_t fd, short what, void *arg)
{
	session_violation(arg, SOCKET_VIOLATION_STALLED);
}

static void read_ready(evutil_socket_t fd, short what, void *arg)
{
	struct session *ss = arg;
	/* No control buffer: descriptors that a client sends are closed by the kernel. */
	ssize_t n = recv(fd, ss->in + ss->in_len, sizeof(ss->in) - ss->in_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		session_end(ss);
		return;
	}
	ss->in_len += (size_t)n;
	session_input(ss);
}

int session_new(struct socket_server *s, int fd, const struct ucred *peer, const char *identity,
	unsigned account)
{
	struct session *ss = calloc(1, sizeof(*ss));
	if (!ss) {
		close(fd);
		return -ENOMEM;
	}
	ss->server = s;
	ss->fd = fd;
	ss->peer = *peer;
	ss->account = account;
	ss->id = s->next_session_id++;
	ss->since_ns = env_now_ns(s->env);
	snprintf(ss->identity, sizeof(ss->identity), "%s", identity);
	ss->read_event = event_new(s->base, fd, EV_READ | EV_PERSIST, read_ready, ss);
	ss->write_event = event_new(s->base, fd, EV_WRITE, write_ready, ss);
	ss->hello_event = evtimer_new(s->base, hello_late, ss);
	if (!ss->read_event || !ss->write_event || !ss->hello_event) {
		struct event *ev[] = {ss->read_event, ss->write_event, ss->hello_event};
		for (unsigned i = 0; i < 3; i++)
			if (ev[i])
				event_free(ev[i]);
		free(ss);
		close(fd);
		return -ENOMEM;
	}
	ss->next = s->sessions;
	ss->pprev = &s->sessions;
	if (ss->next)
		ss->next->pprev = &ss->next;
	s->sessions = ss;
	struct timeval limit = {.tv_sec = s->cfg.hello_timeout_ms / 1000,
		.tv_usec = s->cfg.hello_timeout_ms % 1000 * 1000};
	event_add(ss->hello_event, &limit);
	event_add(ss->read_event, NULL);
	return 0;
}
