/* One front end's connection to a device, from accept to the moment the lanes have let go of it. */
#include "client-backend/frontend/vhost_session.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/core/log.h"

static void message_begin(struct vhost_session *ss);
static void message_apply(struct vhost_session *ss);
static void message_finish(struct vhost_session *ss);
static void end_continue(struct vhost_session *ss);

static void fd_drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void log_delete(struct vhost_log *log)
{
	if (!log)
		return;
	vhost_mapping_put(log->mapping);
	free(log);
}

static void message_fds_close(struct vhost_session *ss)
{
	for (unsigned i = 0; i < ss->in_fds; i++)
		fd_drop(&ss->in_fd[i]);
	ss->in_fds = 0;
}

/* What no lane uses any more. */
static void old_drop(struct vhost_session *ss)
{
	vhost_memory_delete(ss->old_memory);
	ss->old_memory = NULL;
	log_delete(ss->old_log);
	ss->old_log = NULL;
	fd_drop(&ss->old_fd);
}

static void session_free(struct vhost_session *ss)
{
	struct vhost_server *s = ss->server;

	message_fds_close(ss);
	fd_drop(&ss->out_fd);
	for (unsigned i = 0; i < VHOST_MAX_QUEUES; i++) {
		assert(!ss->ring[i].queue);
		fd_drop(&ss->ring[i].kick_fd);
		fd_drop(&ss->ring[i].call_fd);
		fd_drop(&ss->ring[i].err_fd);
	}
	old_drop(ss);
	vhost_memory_delete(ss->memory);
	log_delete(ss->log);
	vhost_mapping_put(ss->inflight);
	event_free(ss->read_event);
	event_free(ss->late_event);
	close(ss->fd);
	log_info_kv("vhost", "front end gone", "device=%s pid=%d", s->name, (int)ss->pid);
	vhost_server_session_ended(s, ss);
	free(ss);
}

/* ---- rings ---- */

static void ring_fault_note(struct vhost_session *ss, struct vhost_session_ring *r)
{
	enum vring_fault f = r->queue ? vhost_queue_fault(r->queue) : VRING_FAULT_NONE;
	uint64_t one = 1;

	if (!f || r->fault_seen)
		return;
	r->fault_seen = true;
	stat_add(&ss->server->stats.faults[f], 1);
	log_warn_limited_kv("vhost", "a ring is wrong; it is not served until the guest resets it",
		"device=%s ring=%u reason=%s pid=%d", ss->server->name, r->index,
		vring_fault_name(f), (int)ss->pid);
	if (r->err_fd >= 0) {
		ssize_t n = write(r->err_fd, &one, sizeof(one));
		(void)n;
	}
}

void vhost_session_faults(struct vhost_session *ss)
{
	for (unsigned i = 0; i < ss->server->cfg.queues; i++)
		ring_fault_note(ss, &ss->ring[i]);
	if (ss->memory && vhost_memory_broken(ss->memory))
		vhost_session_violation(ss, VHOST_VIOLATION_TRUNCATED);
}

static unsigned ring_lane(const struct vhost_session_ring *r)
{
	const struct vhost_server_config *c = &r->session->server->cfg;

	return (c->first_lane + r->index) % c->lanes;
}

static void phase_done(struct vhost_session *ss)
{
	enum vhost_phase phase = ss->phase;

	event_del(ss->late_event);
	if (phase == VHOST_PHASE_ENDING) {
		session_free(ss);
		return;
	}
	ss->phase = VHOST_PHASE_READING;
	/* Of a session that ends, rings that were not told yet may still use the old ones. */
	if (phase == VHOST_PHASE_STARTING && !ss->ending)
		old_drop(ss);
	if (ss->ending)
		end_continue(ss);
	else if (phase == VHOST_PHASE_STOPPING)
		message_apply(ss);
	else
		message_finish(ss);
}

/* One answer more; the phase begins with one of its own, so that it cannot end within its loop. */
static void phase_answer(struct vhost_session *ss)
{
	if (--ss->pending == 0)
		phase_done(ss);
}

static void phase_begin(struct vhost_session *ss, enum vhost_phase phase)
{
	assert(ss->phase == VHOST_PHASE_READING && !ss->pending);
	ss->phase = phase;
	ss->pending = 1;
}

static void ring_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct vhost_session_ring *r =
		(struct vhost_session_ring *)((char *)call -
					      offsetof(struct vhost_session_ring, call));

	assert(status == 0); /* otherwise the ring would still be the lane's */
	ring_fault_note(r->session, r);
	r->base = vhost_queue_base(r->queue);
	r->session->requests += vhost_queue_requests(r->queue);
	vhost_queue_delete(r->queue);
	r->queue = NULL;
	phase_answer(r->session);
}

static void rings_stop(struct vhost_session *ss, enum vhost_phase phase, uint32_t mask)
{
	struct vhost_server *s = ss->server;
	struct timeval limit = {.tv_sec = s->cfg.drain_timeout_ms / 1000,
		.tv_usec = s->cfg.drain_timeout_ms % 1000 * 1000};

	phase_begin(ss, phase);
	event_add(ss->late_event, &limit);
	for (unsigned i = 0; i < s->cfg.queues; i++) {
		struct vhost_session_ring *r = &ss->ring[i];

		if (!(mask >> i & 1) || !r->queue)
			continue;
		ss->pending++;
		r->call.done = ring_stopped;
		s->ops->lane_detach(s->ctx, ring_lane(r), r->queue, &r->call);
	}
	phase_answer(ss);
}

static void ring_started(struct backend_call *call, int status, uint64_t value)
{
	struct vhost_session_ring *r =
		(struct vhost_session_ring *)((char *)call -
					      offsetof(struct vhost_session_ring, call));

	if (status) {
		vhost_queue_delete(r->queue);
		r->queue = NULL;
		vhost_session_violation(r->session, VHOST_VIOLATION_RESOURCE);
	}
	phase_answer(r->session);
}

static void ring_updated(struct backend_call *call, int status, uint64_t value)
{
	struct vhost_session_ring *r =
		(struct vhost_session_ring *)((char *)call -
					      offsetof(struct vhost_session_ring, call));

	if (status)
		vhost_session_violation(r->session, VHOST_VIOLATION_RESOURCE);
	phase_answer(r->session);
}

static enum vhost_violation ring_setup(
	struct vhost_session *ss, struct vhost_session_ring *r, struct vhost_queue_setup *out)
{
	memset(out, 0, sizeof(*out));
	out->kick_fd = r->kick_fd;
	out->call_fd = r->call_fd;
	return vhost_ring_place(ss, r, &out->place) ? VHOST_VIOLATION_NONE : VHOST_VIOLATION_RING;
}

static enum vhost_violation ring_start(struct vhost_session *ss, struct vhost_session_ring *r)
{
	struct vhost_server *s = ss->server;
	struct vhost_queue_config qc = {.ops = s->dev_ops,
		.dev = s->dev,
		.fault_fd = s->fault_fd,
		.ring = {.num = r->num,
			.base = r->base,
			.event_idx = ss->features & VHOST_F_EVENT_IDX,
			.indirect = ss->features & VHOST_F_INDIRECT_DESC}};
	enum vhost_violation why = ring_setup(ss, r, &qc.setup);

	if (why)
		return why;
	if (ss->inflight) {
		if (r->index >= ss->inflight_queues)
			return VHOST_VIOLATION_INFLIGHT;
		qc.ring.inflight =
			(struct vhost_inflight_ring *)(ss->inflight->base +
						       r->index * vhost_inflight_ring_bytes(
									  ss->inflight_len));
		qc.ring.inflight_len = ss->inflight_len;
	}
	int err = vhost_queue_new(&qc, &r->queue);
	if (err)
		return err == -EINVAL ? VHOST_VIOLATION_INFLIGHT : VHOST_VIOLATION_RESOURCE;
	r->changed = r->fault_seen = false;
	ss->pending++;
	r->call.done = ring_started;
	s->ops->lane_attach(s->ctx, ring_lane(r), r->queue, &r->call);
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation ring_update(struct vhost_session *ss, struct vhost_session_ring *r)
{
	struct vhost_server *s = ss->server;
	struct vhost_queue_setup setup;
	enum vhost_violation why = ring_setup(ss, r, &setup);

	if (why)
		return why;
	r->changed = false;
	vhost_queue_set_next(r->queue, &setup);
	ss->pending++;
	r->call.done = ring_updated;
	s->ops->lane_update(s->ctx, ring_lane(r), r->queue, &r->call);
	return VHOST_VIOLATION_NONE;
}

static bool rings_to_start(const struct vhost_session *ss)
{
	for (unsigned i = 0; i < ss->server->cfg.queues; i++)
		if (!ss->ring[i].queue && vhost_ring_ready(ss, &ss->ring[i]))
			return true;
	return false;
}

unsigned vhost_session_rings(const struct vhost_session *ss)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ss->server->cfg.queues; i++)
		n += ss->ring[i].queue != NULL;
	return n;
}

static void rings_start(struct vhost_session *ss)
{
	struct vhost_server *s = ss->server;
	enum vhost_violation why = VHOST_VIOLATION_NONE;

	phase_begin(ss, VHOST_PHASE_STARTING);
	if (!vhost_session_rings(ss) && rings_to_start(ss) && s->dev_ops->features_set)
		s->dev_ops->features_set(s->dev, ss->features & VHOST_DEVICE_FEATURES);
	for (unsigned i = 0; i < s->cfg.queues && !why && !ss->ending; i++) {
		struct vhost_session_ring *r = &ss->ring[i];

		if (r->queue && r->changed)
			why = ring_update(ss, r);
		else if (!r->queue && vhost_ring_ready(ss, r))
			why = ring_start(ss, r);
	}
	if (why)
		vhost_session_violation(ss, why);
	phase_answer(ss);
}

/*
 * One front end's rings run at a time. Where a guest comes from they have stopped before they start
 * where it goes; rings of a front end that has gone are waited for; anything else is two guests on
 * one disk.
 */
static void rings_start_alone(struct vhost_session *ss)
{
	struct vhost_session *rival = vhost_server_rival(ss->server, ss);

	if (!rival || !rings_to_start(ss)) {
		rings_start(ss);
		return;
	}
	if (vhost_session_hungup(rival))
		vhost_session_end(rival);
	ss->waiting = rival->ending; /* it has rings, so it goes away later than this */
	if (!ss->waiting)
		vhost_session_violation(ss, VHOST_VIOLATION_BUSY);
}

void vhost_session_go_on(struct vhost_session *ss)
{
	if (!ss->waiting || ss->ending)
		return;
	ss->waiting = false;
	rings_start_alone(ss);
}

/* ---- the end ---- */

bool vhost_session_hungup(const struct vhost_session *ss)
{
	struct pollfd p = {.fd = ss->fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Goes as far towards the end as what is under way allows; ss may be gone afterwards. */
static void end_continue(struct vhost_session *ss)
{
	if (ss->phase == VHOST_PHASE_READING)
		rings_stop(ss, VHOST_PHASE_ENDING, UINT32_MAX);
}

void vhost_session_end(struct vhost_session *ss)
{
	if (ss->ending)
		return;
	ss->ending = true;
	event_del(ss->read_event);
	shutdown(ss->fd, SHUT_RDWR);
	end_continue(ss);
}

void vhost_session_violation(struct vhost_session *ss, enum vhost_violation why)
{
	if (ss->ending)
		return;
	stat_add(&ss->server->stats.violations[why], 1);
	log_warn_limited_kv("vhost", "the front end's session is ended",
		"device=%s reason=%s message=%u pid=%d", ss->server->name,
		vhost_violation_name(why), ss->h.type, (int)ss->pid);
	vhost_session_end(ss);
}

/* The lanes will still answer; until then the guest's memory stays. */
static void drain_late(evutil_socket_t fd, short what, void *arg)
{
	struct vhost_session *ss = arg;

	if (ss->ending)
		log_warn_limited_kv("vhost", "requests in flight take longer than they may",
			"device=%s pid=%d", ss->server->name, (int)ss->pid);
	vhost_session_violation(ss, VHOST_VIOLATION_LATE);
}

/* ---- messages ---- */

static void message_begin(struct vhost_session *ss)
{
	enum vhost_violation why = vhost_message_check(ss);

	stat_add(&ss->server->stats.messages, 1);
	ss->out_bytes = 0;
	ss->refused = false;
	if (why) {
		vhost_session_violation(ss, why);
		return;
	}
	event_del(ss->read_event);
	rings_stop(ss, VHOST_PHASE_STOPPING, vhost_message_stops(ss));
}

static void message_apply(struct vhost_session *ss)
{
	enum vhost_violation why = vhost_message_apply(ss);

	if (why)
		vhost_session_violation(ss, why);
	else
		rings_start_alone(ss);
}

/* One write, or the session ends: whoever asks waits for the answer, so there is room for it. */
static bool answer_send(struct vhost_session *ss)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct vhost_header h = {.type = ss->h.type,
		.flags = VHOST_FLAG_VERSION | VHOST_FLAG_REPLY,
		.payload_bytes = ss->out_bytes};
	struct iovec iov[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
		{.iov_base = &ss->out, .iov_len = ss->out_bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (ss->out_fd >= 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &ss->out_fd, sizeof(int));
	}
	ssize_t n = sendmsg(ss->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	fd_drop(&ss->out_fd);
	return n == (ssize_t)(sizeof(h) + ss->out_bytes);
}

static void message_finish(struct vhost_session *ss)
{
	message_fds_close(ss);
	ss->got_bytes = 0;
	if (!ss->out_bytes && (ss->h.flags & VHOST_FLAG_NEED_REPLY) &&
		(ss->protocol & VHOST_PF_REPLY_ACK)) {
		ss->out.u64 = ss->refused;
		ss->out_bytes = sizeof(ss->out.u64);
	}
	if (ss->out_bytes && !answer_send(ss)) {
		vhost_session_violation(ss, VHOST_VIOLATION_STALLED);
		return;
	}
	event_add(ss->read_event, NULL);
}

/* ---- reading ---- */

/* Takes the descriptors that came with a part of a message. False: they were too many. */
static bool fds_take(struct vhost_session *ss, struct msghdr *msg)
{
	bool fit = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (ss->in_fds < VHOST_MESSAGE_FDS) {
				ss->in_fd[ss->in_fds++] = fd;
			} else {
				close(fd);
				fit = false;
			}
		}
	}
	return fit;
}

/* Reads up to what is wanted of this message; 0 nothing more now, -errno the connection is over. */
static ssize_t part_read(struct vhost_session *ss, void *to, size_t bytes, bool *fds_fit)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * VHOST_MESSAGE_FDS)];
	} control;
	struct iovec iov = {.iov_base = to, .iov_len = bytes};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(ss->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	*fds_fit = fds_take(ss, &msg);
	ss->got_bytes += (size_t)n;
	return n;
}

static void read_ready(evutil_socket_t fd, short what, void *arg)
{
	struct vhost_session *ss = arg;
	const size_t head = sizeof(ss->h);
	enum vhost_violation why = VHOST_VIOLATION_NONE;

	while (!why) {
		bool fds_fit = true;
		ssize_t n;
		if (ss->got_bytes < head)
			n = part_read(
				ss, (char *)&ss->h + ss->got_bytes, head - ss->got_bytes, &fds_fit);
		else
			n = part_read(ss, ss->in.bytes + (ss->got_bytes - head),
				ss->h.payload_bytes - (ss->got_bytes - head), &fds_fit);
		if (n == 0)
			return;
		if (n < 0) {
			vhost_session_end(ss);
			return;
		}
		if (!fds_fit)
			why = VHOST_VIOLATION_FDS;
		else if (ss->got_bytes == head)
			why = vhost_message_check_header(ss);
		if (!why && ss->got_bytes >= head && ss->got_bytes == head + ss->h.payload_bytes) {
			message_begin(ss);
			return;
		}
	}
	vhost_session_violation(ss, why);
}

int vhost_session_new(struct vhost_server *s, int fd, struct vhost_session **out)
{
	struct vhost_session *ss = calloc(1, sizeof(*ss));
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (!ss) {
		close(fd);
		return -ENOMEM;
	}
	ss->server = s;
	ss->fd = fd;
	ss->since_ns = env_now_ns(s->env);
	ss->out_fd = ss->old_fd = -1;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		ss->pid = peer.pid;
	for (unsigned i = 0; i < VHOST_MAX_QUEUES; i++) {
		struct vhost_session_ring *r = &ss->ring[i];
		*r = (struct vhost_session_ring){
			.session = ss, .index = i, .kick_fd = -1, .call_fd = -1, .err_fd = -1};
	}
	ss->read_event = event_new(s->base, fd, EV_READ | EV_PERSIST, read_ready, ss);
	ss->late_event = evtimer_new(s->base, drain_late, ss);
	if (!ss->read_event || !ss->late_event) {
		if (ss->read_event)
			event_free(ss->read_event);
		if (ss->late_event)
			event_free(ss->late_event);
		free(ss);
		close(fd);
		return -ENOMEM;
	}
	event_add(ss->read_event, NULL);
	log_info_kv("vhost", "front end connected", "device=%s pid=%d", s->name, (int)ss->pid);
	*out = ss;
	return 0;
}
