/* The socket front end's listener, its limits, and the grace of sessions that may come back. */
#include "client-backend/frontend/socket_server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client-backend/frontend/socket_session.h"
#include "lib/core/log.h"

static struct timeval timeval_of_ns(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / 1000000000u),
		.tv_usec = (suseconds_t)(ns % 1000000000u / 1000u)};
}

/* Grace */

static bool session_has_pools(const struct socket_server *s, const uint8_t *token)
{
	uint32_t cursor = 0;
	const struct engine_pool_desc *d;
	while ((d = pools_next(s->pools, &cursor)))
		if (!(d->flags & ENGINE_POOL_SHARED) && !d->name[0] &&
			memcmp(d->session, token, SOCKET_TOKEN_BYTES) == 0)
			return true;
	return false;
}

static struct ghost **ghost_find(struct socket_server *s, const uint8_t *token)
{
	struct ghost **g = &s->ghosts;
	while (*g && memcmp((*g)->token, token, SOCKET_TOKEN_BYTES) != 0)
		g = &(*g)->next;
	return g;
}

static void grace_arm(struct socket_server *s)
{
	uint64_t first = UINT64_MAX, now = env_now_ns(s->env), waiting = 0;
	for (struct ghost *g = s->ghosts; g; g = g->next, waiting++)
		if (g->deadline_ns < first)
			first = g->deadline_ns;
	stat_set(&s->stats.waiting, waiting);
	if (!waiting) {
		event_del(s->grace_event);
		return;
	}
	/* A millisecond more, so that it does not come early and again. */
	struct timeval in = timeval_of_ns((first > now ? first - now : 0) + 1000000u);
	event_add(s->grace_event, &in);
}

static void ghost_remove(struct socket_server *s, struct ghost **at)
{
	struct ghost *g = *at;
	*at = g->next;
	free(g);
}

static int ghost_add(struct socket_server *s, const uint8_t *token, const char *identity)
{
	if (*ghost_find(s, token))
		return 0;
	struct ghost *g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	memcpy(g->token, token, SOCKET_TOKEN_BYTES);
	snprintf(g->identity, sizeof(g->identity), "%s", identity);
	g->deadline_ns = env_now_ns(s->env) + s->cfg.grace_ms * 1000000ull;
	g->next = s->ghosts;
	s->ghosts = g;
	grace_arm(s);
	return 0;
}

bool server_ghost_take(
	struct socket_server *s, const uint8_t token[SOCKET_TOKEN_BYTES], const char *identity)
{
	struct ghost **g = ghost_find(s, token);
	if (!*g || strcmp((*g)->identity, identity) != 0)
		return false;
	ghost_remove(s, g);
	grace_arm(s);
	return true;
}

static void grace_over(evutil_socket_t fd, short what, void *arg)
{
	struct socket_server *s = arg;
	uint64_t now = env_now_ns(s->env);
	struct ghost **g = &s->ghosts;
	while (*g) {
		if ((*g)->deadline_ns > now) {
			g = &(*g)->next;
			continue;
		}
		stat_add(&s->stats.grace_ended, 1);
		pools_session_end(s->pools, (*g)->token);
		ghost_remove(s, g);
	}
	grace_arm(s);
}

/* Sessions */

void server_session_ended(struct socket_server *s, const struct session *ss)
{
	stat_sub(&s->stats.connections, 1);
	if (ss->have_memory) {
		stat_add(ss->bye ? &s->stats.byes : &s->stats.lost, 1);
		if (ss->bye)
			pools_session_end(s->pools, ss->token);
		else if (!s->stopping && session_has_pools(s, ss->token) &&
			 ghost_add(s, ss->token, ss->identity) < 0)
			pools_session_end(s->pools, ss->token); /* no memory to wait for it */
	}
	event_active(s->ended_event, EV_TIMEOUT, 1);
}

/* A session has ended: hellos that waited for it go on, and so does a stop. */
static void session_ended_follow(evutil_socket_t fd, short what, void *arg)
{
	struct socket_server *s = arg;
	struct session *next;
	for (struct session *ss = s->sessions; ss; ss = next) {
		next = ss->next;
		session_hello_retry(ss);
	}
	if (s->stopping && !s->sessions && s->stop_call) {
		struct backend_call *call = s->stop_call;
		s->stop_call = NULL;
		call->done(call, 0, 0);
	}
}

static void violations_found(evutil_socket_t fd, short what, void *arg)
{
	struct socket_server *s = arg;
	uint64_t n;
	ssize_t got = read(fd, &n, sizeof(n));
	(void)got;
	struct session *next;
	for (struct session *ss = s->sessions; ss; ss = next) {
		enum socket_violation why = SOCKET_VIOLATION_NONE;
		next = ss->next;
		for (unsigned i = 0; ss->have_memory && i < s->cfg.lanes && !why; i++)
			why = socket_attachment_violation(ss->memory.attachment[i]);
		if (why)
			session_violation(ss, why);
	}
}

/* Accepting */

/* What stands against one more connection of this client: 0 nothing. */
static int limits_check(struct socket_server *s, const char *identity)
{
	unsigned all = 0, own = 0;
	for (struct session *ss = s->sessions; ss; ss = ss->next) {
		all++;
		own += !ss->ending && strcmp(ss->identity, identity) == 0;
	}
	return all >= s->cfg.max_sessions || own >= s->cfg.max_sessions_per_client ? -EUSERS : 0;
}

static void connection_start(struct listener *l, int fd)
{
	struct socket_server *s = l->ctx;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char identity[ENGINE_NAME_BYTES] = "";
	unsigned account = 0;
	int err = 0;
	stat_add(&s->stats.accepted, 1);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		err = -errno;
	if (!err)
		err = s->ops->client_identity(s->ctx, &peer, identity, &account);
	if (err) {
		stat_add(&s->stats.refused_identity, 1);
		log_warn_limited_kv("socket", "client refused", "uid=%d pid=%d error=%d",
			(int)peer.uid, (int)peer.pid, -err);
		session_refuse(fd, err);
		return;
	}
	session_end_hungup(s, identity, NULL);
	err = limits_check(s, identity);
	if (err) {
		stat_add(&s->stats.refused_full, 1);
		log_warn_limited_kv("socket", "too many sessions; client refused",
			"client=%s pid=%d", identity, (int)peer.pid);
		session_refuse(fd, err);
		return;
	}
	if (session_new(s, fd, &peer, identity, account) < 0) {
		stat_add(&s->stats.refused_memory, 1);
		return;
	}
	stat_add(&s->stats.connections, 1);
}

/* Listening */

static int config_check(const struct socket_server_config *cfg)
{
	if (!cfg->path || cfg->lanes < 1 || cfg->lanes > SOCKET_MAX_LANES || cfg->slots < 1 ||
		cfg->slots > SOCKET_MAX_SLOTS || cfg->max_sessions < 1 ||
		cfg->max_sessions_per_client < 1 || cfg->hello_timeout_ms < 1 ||
		cfg->request_timeout_ms < 1)
		return -EINVAL;
	return 0;
}

static void server_free(struct socket_server *s)
{
	struct event *ev[] = {s->violation_event, s->grace_event, s->ended_event};
	for (unsigned i = 0; i < sizeof(ev) / sizeof(ev[0]); i++)
		if (ev[i])
			event_free(ev[i]);
	listener_close(&s->listener);
	if (s->violation_fd >= 0)
		close(s->violation_fd);
	while (s->ghosts)
		ghost_remove(s, &s->ghosts);
	free(s);
}

static int server_start(struct socket_server *s)
{
	s->violation_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->violation_fd < 0)
		return -errno;
	int err = listener_unix_start(&s->listener, s->cfg.path, s->cfg.mode);
	if (err)
		return err;
	s->violation_event =
		event_new(s->base, s->violation_fd, EV_READ | EV_PERSIST, violations_found, s);
	s->grace_event = evtimer_new(s->base, grace_over, s);
	s->ended_event = event_new(s->base, -1, EV_TIMEOUT, session_ended_follow, s);
	if (!s->violation_event || !s->grace_event || !s->ended_event)
		return -ENOMEM;
	uint32_t cursor = 0;
	const struct engine_pool_desc *d;
	while ((d = pools_next(s->pools, &cursor))) {
		if ((d->flags & ENGINE_POOL_SHARED) || d->name[0])
			continue;
		err = ghost_add(s, d->session, d->owner);
		if (err)
			return err;
	}
	event_add(s->violation_event, NULL);
	return 0;
}

int socket_server_new(const struct socket_server_config *cfg, struct event_base *base,
	const struct env *env, struct pools *pools, const struct socket_server_ops *ops, void *ctx,
	struct socket_server **out, char *err, size_t err_bytes)
{
	int status = config_check(cfg);
	if (status) {
		snprintf(err, err_bytes, "a value of the socket front end is out of range");
		return status;
	}
	struct socket_server *s = calloc(1, sizeof(*s));
	if (!s) {
		snprintf(err, err_bytes, "no memory for the socket front end");
		return -ENOMEM;
	}
	s->cfg = *cfg;
	s->base = base;
	s->env = env;
	s->pools = pools;
	s->ops = ops;
	s->ctx = ctx;
	s->listener = (struct listener){.base = base,
		.area = "socket",
		.accepted = connection_start,
		.ctx = s,
		.errors = &s->stats.accept_errors};
	s->violation_fd = -1;
	s->next_session_id = 1;
	status = server_start(s);
	if (status) {
		snprintf(err, err_bytes, "cannot listen on %s: %s", cfg->path,
			listener_error(status));
		server_free(s);
		return status;
	}
	s->cfg.path = s->listener.path;
	*out = s;
	return 0;
}

void socket_server_stop(struct socket_server *s, struct backend_call *call)
{
	assert(!s->stopping);
	s->stopping = true;
	s->stop_call = call;
	listener_close(&s->listener);
	event_del(s->grace_event);
	struct session *next;
	for (struct session *ss = s->sessions; ss; ss = next) {
		next = ss->next;
		session_end(ss);
	}
	event_active(s->ended_event, EV_TIMEOUT, 1);
}

void socket_server_delete(struct socket_server *s)
{
	if (!s)
		return;
	assert(!s->sessions);
	server_free(s);
}

const struct socket_server_stats *socket_server_stats(const struct socket_server *s)
{
	uint64_t n = 0;
	for (const struct session *ss = s->sessions; ss; ss = ss->next)
		n += ss->state == SESSION_READY && !ss->ending;
	stat_set((stat_t *)&s->stats.sessions, n);
	return &s->stats;
}

void socket_server_sessions(const struct socket_server *s,
	void (*each)(void *arg, const struct socket_session_info *info), void *arg)
{
	for (const struct session *ss = s->sessions; ss; ss = ss->next) {
		if (ss->state != SESSION_READY || ss->ending)
			continue;
		struct socket_session_info info = {
			.id = ss->id,
			.identity = ss->identity,
			.program = ss->program,
			.account = ss->account,
			.pid = ss->peer.pid,
			.since_ns = ss->since_ns,
			.pools = ss->pools,
			.memory_bytes = sizeof(*ss) + sizeof(struct socket_grants) +
					ss->memory.len_bytes +
					(size_t)s->cfg.lanes * s->cfg.slots * SOCKET_PAGE_BYTES,
		};
		for (unsigned i = 0; i < s->cfg.lanes; i++)
			info.requests += socket_attachment_requests(ss->memory.attachment[i]);
		each(arg, &info);
	}
}
