/* A vhost-user device on a unix socket: the control thread's end, its listener and its figures. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client-backend/frontend/vhost_session.h"
#include "lib/core/log.h"

const char *vhost_violation_name(enum vhost_violation v)
{
	static const char *const name[VHOST_VIOLATIONS] = {
		[VHOST_VIOLATION_NONE] = "none",
		[VHOST_VIOLATION_TYPE] = "type",
		[VHOST_VIOLATION_FLAGS] = "flags",
		[VHOST_VIOLATION_LENGTH] = "length",
		[VHOST_VIOLATION_FDS] = "descriptors",
		[VHOST_VIOLATION_FEATURES] = "features",
		[VHOST_VIOLATION_RING] = "ring",
		[VHOST_VIOLATION_MEMORY] = "memory",
		[VHOST_VIOLATION_LOG] = "log",
		[VHOST_VIOLATION_INFLIGHT] = "inflight",
		[VHOST_VIOLATION_RESOURCE] = "resource",
		[VHOST_VIOLATION_STALLED] = "stalled",
		[VHOST_VIOLATION_LATE] = "late",
		[VHOST_VIOLATION_TRUNCATED] = "truncated",
		[VHOST_VIOLATION_BUSY] = "busy",
	};
	return (unsigned)v < VHOST_VIOLATIONS ? name[v] : "unknown";
}

static bool any_session(const struct vhost_server *s)
{
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i])
			return true;
	return false;
}

static bool any_ending(const struct vhost_server *s)
{
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i] && s->session[i]->ending)
			return true;
	return false;
}

struct vhost_session *vhost_server_rival(struct vhost_server *s, const struct vhost_session *ss)
{
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i] && s->session[i] != ss && vhost_session_rings(s->session[i]))
			return s->session[i];
	return NULL;
}

void vhost_server_session_ended(struct vhost_server *s, const struct vhost_session *ss)
{
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i] == ss)
			s->session[i] = NULL;
	stat_sub(&s->stats.connected, 1);
	stat_add(&s->stats.ended, 1);
	/* What follows happens later: the session's own code is still running. */
	event_active(s->ended_event, EV_TIMEOUT, 1);
}

static void session_ended_follow(evutil_socket_t fd, short what, void *arg)
{
	struct vhost_server *s = arg;

	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i])
			vhost_session_go_on(s->session[i]);
	if (!s->stopping) {
		if (!any_ending(s))
			listener_resume(&s->listener);
	} else if (s->stop_call && !any_session(s)) {
		struct backend_call *call = s->stop_call;
		s->stop_call = NULL;
		call->done(call, 0, 0);
	}
}

static void faults_found(evutil_socket_t fd, short what, void *arg)
{
	struct vhost_server *s = arg;
	uint64_t n;
	ssize_t got = read(fd, &n, sizeof(n));

	(void)got;
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i])
			vhost_session_faults(s->session[i]);
}

/* ---- accepting ---- */

/* A connection that was accepted. */
static void front_end_take(struct listener *l, int fd)
{
	struct vhost_server *s = l->ctx;
	struct vhost_session **free_slot = NULL;

	stat_add(&s->stats.accepted, 1);
	for (unsigned i = 0; i < VHOST_FRONT_ENDS && !free_slot; i++)
		if (!s->session[i])
			free_slot = &s->session[i];
	if (!free_slot) {
		stat_add(&s->stats.refused_busy, 1);
		log_warn_limited_kv("vhost", "a third front end is refused",
			"device=%s pid=%d and=%d", s->name, (int)s->session[0]->pid,
			(int)s->session[1]->pid);
		close(fd);
		return;
	}
	if (vhost_session_new(s, fd, free_slot) == 0)
		stat_add(&s->stats.connected, 1);
	else
		stat_add(&s->stats.accept_errors, 1);
}

static bool may_accept(struct listener *l)
{
	struct vhost_server *s = l->ctx;

	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i] && vhost_session_hungup(s->session[i]))
			vhost_session_end(s->session[i]);
	/* Whoever connects now waits until the lanes have let go of the last one. */
	return !any_ending(s);
}

/* ---- life ---- */

static int server_start(struct vhost_server *s)
{
	s->fault_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->fault_fd < 0)
		return -errno;
	int r = listener_unix_start(&s->listener, s->cfg.path, s->cfg.mode);
	if (r < 0)
		return r;
	s->fault_event = event_new(s->base, s->fault_fd, EV_READ | EV_PERSIST, faults_found, s);
	s->ended_event = event_new(s->base, -1, EV_TIMEOUT, session_ended_follow, s);
	if (!s->fault_event || !s->ended_event)
		return -ENOMEM;
	event_add(s->fault_event, NULL);
	return 0;
}

static void server_free(struct vhost_server *s)
{
	listener_close(&s->listener);
	if (s->fault_event)
		event_free(s->fault_event);
	if (s->ended_event)
		event_free(s->ended_event);
	if (s->fault_fd >= 0)
		close(s->fault_fd);
	free(s);
}

int vhost_server_new(const struct vhost_server_config *cfg, struct event_base *base,
	const struct env *env, const struct vhost_device_ops *dev_ops, void *dev,
	const struct vhost_server_ops *ops, void *ctx, struct vhost_server **out, char *err,
	size_t err_bytes)
{
	if (!cfg->path || !cfg->lanes || !cfg->queues || cfg->queues > VHOST_MAX_QUEUES ||
		!cfg->drain_timeout_ms) {
		snprintf(err, err_bytes, "a value of the vhost-user device is out of range");
		return -EINVAL;
	}
	struct vhost_server *s = calloc(1, sizeof(*s));
	if (!s) {
		snprintf(err, err_bytes, "no memory for a vhost-user device");
		return -ENOMEM;
	}
	s->cfg = *cfg;
	snprintf(s->name, sizeof(s->name), "%s", cfg->name);
	s->listener = (struct listener){.base = base,
		.area = "vhost",
		.accepted = front_end_take,
		.may_accept = may_accept,
		.ctx = s,
		.errors = &s->stats.accept_errors};
	s->fault_fd = -1;
	s->base = base;
	s->env = env;
	s->dev_ops = dev_ops;
	s->dev = dev;
	s->ops = ops;
	s->ctx = ctx;
	int status = server_start(s);
	if (status) {
		snprintf(err, err_bytes, "cannot listen on %s: %s", cfg->path,
			listener_error(status));
		server_free(s);
		return status;
	}
	s->cfg.name = s->cfg.pinner.name = s->name;
	s->cfg.path = s->listener.path;
	*out = s;
	return 0;
}

void vhost_server_stop(struct vhost_server *s, struct backend_call *call)
{
	assert(!s->stopping);
	s->stopping = true;
	s->stop_call = call;
	listener_close(&s->listener);
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++)
		if (s->session[i])
			vhost_session_end(s->session[i]);
	event_active(s->ended_event, EV_TIMEOUT, 1);
}

void vhost_server_delete(struct vhost_server *s)
{
	if (!s)
		return;
	assert(!any_session(s));
	server_free(s);
}

const struct vhost_server_stats *vhost_server_stats(const struct vhost_server *s)
{
	return &s->stats;
}

void vhost_server_info(const struct vhost_server *s, struct vhost_server_info *out)
{
	const struct vhost_session *ss = NULL;

	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < VHOST_FRONT_ENDS; i++) {
		const struct vhost_session *t = s->session[i];

		if (t && !t->ending && (!ss || vhost_session_rings(t)))
			ss = t;
	}
	if (!ss)
		return;
	out->connected = true;
	out->pid = ss->pid;
	out->since_ns = ss->since_ns;
	out->features = ss->features;
	out->requests = ss->requests;
	for (unsigned i = 0; i < s->cfg.queues; i++) {
		if (!ss->ring[i].queue)
			continue;
		out->rings++;
		out->requests += vhost_queue_requests(ss->ring[i].queue);
	}
	for (unsigned i = 0; ss->memory && i < ss->memory->count; i++)
		out->memory_bytes += ss->memory->region[i].size_bytes;
	if (ss->memory)
		out->pinned_bytes = vhost_memory_pinned(ss->memory);
}
