/* The memory server around its lease book: bringing it up, its control sessions and timers. */
#include "memserver/server_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/core/log.h"
#include "memserver/pressure_linux.h"

#define NS_PER_MS	  1000000ull
#define STATS_INTERVAL_MS 200

static struct timeval ns_timeval(uint64_t ns)
{
	uint64_t us = (ns + 999) / 1000;

	return (struct timeval){
		.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
}

void memserver_book_settle(struct memserver *s)
{
	uint64_t next = lease_book_next_ns(s->book);
	uint64_t now = env_now_ns(&env_system);

	if (s->leaving && lease_book_idle(s->book)) {
		event_base_loopbreak(s->base);
		return;
	}
	if (next == UINT64_MAX) {
		evtimer_del(s->book_timer);
		return;
	}
	struct timeval in = ns_timeval(next > now ? next - now : 0);
	evtimer_add(s->book_timer, &in);
}

static void book_tick(evutil_socket_t fd, short what, void *arg)
{
	struct memserver *s = arg;

	lease_book_tick(s->book);
	memserver_book_settle(s);
}

static void data_progress(evutil_socket_t fd, short what, void *arg)
{
	struct memserver *s = arg;

	transport_server_progress(s->data);
}

static void watchdog_tick(evutil_socket_t fd, short what, void *arg)
{
	program_notify_watchdog();
}

static void peer_message(void *ctx, struct control_session *c, const struct control_msg *m)
{
	struct peer *p = ctx;
	struct memserver *s = p->server;

	if (m->type == CONTROL_ERROR)
		log_warn_limited_kv("control", "the client ends the session", "peer=%s why=\"%s\"",
			control_session_peer(c), m->error.text);
	/* p is gone when this ends the session. */
	lease_session_message(s->book, p->lease, m);
	memserver_book_settle(s);
	memserver_pressure_awake(s);
}

static void peer_closed(void *ctx, struct control_session *c, int status, const char *why)
{
	struct peer *p = ctx;
	struct memserver *s = p->server;

	if (status == -ECONNRESET)
		log_debug_kv("control", "session ended", "peer=%s", control_session_peer(c));
	else
		log_warn_limited_kv("control", "session ended", "peer=%s why=\"%s\"",
			control_session_peer(c), why);
	lease_session_closed(s->book, p->lease);
	free(p);
	memserver_book_settle(s);
}

static const struct control_session_cbs peer_cbs = {
	.message = peer_message,
	.closed = peer_closed,
};

static void peer_accepted(void *ctx, evutil_socket_t fd, const char *from)
{
	struct memserver *s = ctx;
	struct peer *p = calloc(1, sizeof(*p));

	if (!p || control_session_accept(s->control, fd, &peer_cbs, p, &p->control)) {
		log_error_limited("control", "out of memory for a session");
		close(fd);
		free(p);
		return;
	}
	p->server = s;
	if (lease_session_open(s->book, p, &p->lease)) {
		log_warn_limited("control", "too many sessions: %s is refused", from);
		control_session_close(p->control, -EBUSY, "too many sessions");
		free(p);
		return;
	}
	memserver_book_settle(s);
}

/* ---- bringing it up ---- */

static void lease_config_fill(
	const struct memserver *s, const struct memserver_config *cfg, struct lease_config *out)
{
	*out = (struct lease_config){
		.region_bytes = cfg->region.size_bytes,
		.min_bytes = memserver_amount_bytes(s, &cfg->memory.min),
		.max_bytes = memserver_amount_bytes(s, &cfg->memory.max),
		.client_max_bytes = config_amount_bytes(&cfg->memory.per_client, s->total_bytes),
		.keep_regions = cfg->region.keep,
		.max_clients = cfg->listen.max_clients,
		.max_sessions = cfg->listen.max_sessions,
		.ttl_ms = (uint32_t)(cfg->lease.ttl_ns / NS_PER_MS),
		.grace_ms = (uint32_t)(cfg->lease.grace_ns / NS_PER_MS),
		.hello_timeout_ms = (uint32_t)(cfg->listen.hello_timeout_ns / NS_PER_MS),
		.stats_interval_ms = STATS_INTERVAL_MS,
	};
	memcpy(out->name, s->name, sizeof(out->name));
	snprintf(out->failure_domain, sizeof(out->failure_domain), "%s",
		cfg->failure_domain[0] ? cfg->failure_domain : s->name);
}

static int start_identity(struct memserver *s, char *err, size_t err_bytes)
{
	uint64_t available;
	int rc = pressure_meminfo_read(s->cfg.memory.meminfo, &s->total_bytes, &available);

	if (rc) {
		snprintf(err, err_bytes,
			"memory.meminfo: cannot read MemTotal and MemAvailable from %s: %s",
			s->cfg.memory.meminfo, strerror(-rc));
		return rc;
	}
	snprintf(s->name, sizeof(s->name), "%s", s->cfg.name);
	if (!s->name[0] && gethostname(s->name, sizeof(s->name) - 1))
		snprintf(s->name, sizeof(s->name), "donor");
	while (!s->boot_id) {
		if (getrandom(&s->boot_id, sizeof(s->boot_id), 0) != sizeof(s->boot_id)) {
			snprintf(err, err_bytes, "getrandom failed: %s", strerror(errno));
			return -EIO;
		}
	}
	return 0;
}

static int start_memory(struct memserver *s, char *err, size_t err_bytes)
{
	struct memory_config mc = {
		.region_bytes = s->cfg.region.size_bytes,
		.regions = (unsigned)(memserver_amount_bytes(s, &s->cfg.memory.max) /
				      s->cfg.region.size_bytes),
		.huge_pages = s->cfg.region.huge_pages,
		.numa_node = s->cfg.region.numa_node,
	};

	if (!mc.regions) {
		snprintf(err, err_bytes,
			"memory.max: less than one region of this machine's memory");
		return -EINVAL;
	}
	s->exports = calloc(mc.regions, sizeof(s->exports[0]));
	int rc = s->exports ? memory_new(&mc, &s->memory) : -ENOMEM;
	if (rc)
		snprintf(err, err_bytes, "out of memory for %u regions", mc.regions);
	return rc;
}

static int start_data(struct memserver *s, char *err, size_t err_bytes)
{
	const struct memserver_config *cfg = &s->cfg;
	struct transport_server_config tc;

	transport_server_config_default(&tc, cfg->listen.address);
	tc.tcp = cfg->tcp.enabled;
	tc.tcp_port = (uint16_t)cfg->tcp.port;
	tc.tcp_threads = cfg->tcp.threads;
	tc.verbs = cfg->verbs.mode != MEMSERVER_VERBS_OFF;
	tc.verbs_port = (uint16_t)cfg->verbs.port;
	tc.verbs_device = cfg->verbs.device[0] ? cfg->verbs.device : NULL;
	tc.max_conns = cfg->tcp.max_connections;
	tc.max_conns_per_client = cfg->tcp.max_connections_per_client;
	tc.handshake_ms = (uint32_t)(cfg->listen.hello_timeout_ns / NS_PER_MS);
	tc.stall_ms = (uint32_t)(cfg->tcp.stall_ns / NS_PER_MS);
	int rc = transport_server_start(&tc, &s->data, err, err_bytes);
	if (rc)
		return rc;
	rc = transport_server_verbs_status(s->data);
	if (rc && cfg->verbs.mode == MEMSERVER_VERBS_ON) {
		snprintf(err, err_bytes, "verbs.mode is on, but RDMA is not available: %s",
			strerror(-rc));
		return rc;
	}
	if (rc && rc != -EOPNOTSUPP)
		log_info("data", "no RDMA here (%s): tcp only", strerror(-rc));
	int fd = transport_server_event_fd(s->data);
	if (fd < 0)
		return 0;
	s->data_event = event_new(s->base, fd, EV_READ | EV_PERSIST, data_progress, s);
	if (!s->data_event || event_add(s->data_event, NULL)) {
		snprintf(err, err_bytes, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

static int start_book(struct memserver *s, char *err, size_t err_bytes)
{
	struct pressure_config pc;
	struct lease_config lc;

	lease_config_fill(s, &s->cfg, &lc);
	lc.tcp_port = transport_server_tcp_port(s->data);
	lc.verbs_port = transport_server_verbs_port(s->data);
	int rc = lease_config_check(&lc, err, err_bytes);
	if (rc)
		return rc;
	rc = lease_book_new(&lc, s->boot_id, &env_system, &memserver_lease_ops, s, &s->book);
	s->book_timer = rc ? NULL : evtimer_new(s->base, book_tick, s);
	if (!s->book_timer) {
		snprintf(err, err_bytes, "out of memory");
		return -ENOMEM;
	}
	memserver_pressure_limits(s, &s->cfg, &pc);
	pressure_init(&s->pressure, &pc);
	return 0;
}

static int start_control(struct memserver *s, char *err, size_t err_bytes)
{
	struct control_loop_config cc;
	uint64_t silent_ms = 3 * s->cfg.lease.ttl_ns / NS_PER_MS;

	control_loop_config_default(&cc);
	cc.idle_timeout_ms = silent_ms < 10000	  ? 10000
			     : silent_ms > 600000 ? 600000
						  : (uint32_t)silent_ms;
	int rc = control_loop_new(s->base, &cc, &s->control);
	if (!rc)
		rc = control_listener_new(s->base, s->cfg.listen.address,
			(uint16_t)s->cfg.listen.port, peer_accepted, s, &s->listener);
	if (rc)
		snprintf(err, err_bytes, "cannot listen on %s port %u: %s", s->cfg.listen.address,
			s->cfg.listen.port, strerror(-rc));
	return rc;
}

static int start_http(struct memserver *s, char *err, size_t err_bytes)
{
	const struct program_http *h = &s->cfg.http;
	char address[80];
	int rc = 0;

	if (http_server_new(s->base, memserver_routes, s, &s->http)) {
		snprintf(err, err_bytes, "out of memory");
		return -ENOMEM;
	}
	if (h->port) {
		snprintf(address, sizeof(address), strchr(h->address, ':') ? "[%s]:%u" : "%s:%u",
			h->address, h->port);
		rc = http_server_listen(s->http, address, &s->http_port, err, err_bytes);
	}
	if (!rc && h->socket[0])
		rc = http_server_listen_unix(s->http, h->socket, 0660, err, err_bytes);
	return rc;
}

static int start_watchdog(struct memserver *s, char *err, size_t err_bytes)
{
	struct timeval every = ns_timeval(program_watchdog_interval_ns());

	if (!every.tv_sec && !every.tv_usec)
		return 0;
	s->watchdog = event_new(s->base, -1, EV_PERSIST, watchdog_tick, s);
	if (s->watchdog && !event_add(s->watchdog, &every))
		return 0;
	snprintf(err, err_bytes, "out of memory");
	return -ENOMEM;
}

int memserver_new(const struct memserver_config *cfg, struct event_base *base,
	struct memserver **out, char *err, size_t err_bytes)
{
	/* In this order; memserver_delete() ends what was started, in reverse. */
	static int (*const steps[])(struct memserver * s, char *err, size_t err_bytes) = {
		start_identity,
		start_memory,
		start_data,
		start_book,
		memserver_pressure_start,
		start_http,
		start_control,
		start_watchdog,
	};
	struct memserver *s = calloc(1, sizeof(*s));

	if (!s) {
		snprintf(err, err_bytes, "out of memory");
		return -ENOMEM;
	}
	s->cfg = *cfg;
	s->base = base;
	s->psi_fd = s->psi_epoll_fd = -1;
	s->start_ns = env_now_ns(&env_system);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		int rc = steps[i](s, err, err_bytes);
		if (rc) {
			memserver_delete(s);
			return rc;
		}
	}
	log_info_kv("server", "ready",
		"name=%s control=%s:%u tcp_port=%u verbs_port=%u http_port=%u max_bytes=%llu",
		s->name, cfg->listen.address, control_listener_port(s->listener),
		transport_server_tcp_port(s->data), transport_server_verbs_port(s->data),
		s->http_port, (unsigned long long)memserver_amount_bytes(s, &cfg->memory.max));
	*out = s;
	return 0;
}

void memserver_delete(struct memserver *s)
{
	if (!s)
		return;
	control_listener_delete(s->listener);
	if (s->watchdog)
		event_free(s->watchdog);
	memserver_pressure_stop(s);
	http_server_delete(s->http);
	if (s->book && s->control)
		lease_book_close_all(s->book, -ESHUTDOWN, "the memory server stops");
	if (s->book_timer)
		event_free(s->book_timer);
	lease_book_delete(s->book);
	control_loop_delete(s->control);
	if (s->data_event)
		event_free(s->data_event);
	transport_server_stop(s->data);
	memory_delete(s->memory);
	free(s->exports);
	free(s);
}

void memserver_leave(struct memserver *s)
{
	uint64_t limit_ms = s->cfg.lease.drain_ns / NS_PER_MS;

	s->leaving = true;
	log_info_kv("server", "leaving: asking for every region back",
		"leased_bytes=%llu limit_ms=%llu",
		(unsigned long long)stat_get(&lease_book_stats(s->book)->leased_bytes),
		(unsigned long long)limit_ms);
	lease_book_drain(s->book, (uint32_t)limit_ms);
	memserver_book_settle(s);
}

/* What the running server keeps until it is started again. */
static void reload_warn(const struct memserver_config *old, const struct memserver_config *new)
{
	if (memcmp(&old->listen, &new->listen, sizeof(old->listen)) ||
		memcmp(&old->tcp, &new->tcp, sizeof(old->tcp)) ||
		memcmp(&old->verbs, &new->verbs, sizeof(old->verbs)) ||
		memcmp(&old->http, &new->http, sizeof(old->http)) || strcmp(old->name, new->name) ||
		strcmp(old->failure_domain, new->failure_domain) ||
		old->region.size_bytes != new->region.size_bytes ||
		old->region.huge_pages != new->region.huge_pages ||
		old->region.numa_node != new->region.numa_node ||
		old->memory.interval_ns != new->memory.interval_ns ||
		strcmp(old->memory.meminfo, new->memory.meminfo) ||
		strcmp(old->memory.psi, new->memory.psi))
		log_warn("config", "changes of name, failure_domain, listen, tcp, verbs, http, "
				   "region (but keep) and memory's interval, meminfo and psi take "
				   "effect at the next start");
}

int memserver_reload(
	struct memserver *s, const struct memserver_config *cfg, char *err, size_t err_bytes)
{
	struct pressure_config pc;
	struct lease_config lc;

	/* The size of a region stays: amounts must be rounded to it. */
	lease_config_fill(s, cfg, &lc);
	int rc = lease_book_tune(s->book, &lc, err, err_bytes);
	if (rc)
		return rc;
	memserver_pressure_limits(s, cfg, &pc);
	pressure_tune(&s->pressure, &pc);
	reload_warn(&s->cfg, cfg);
	s->cfg.lease = cfg->lease;
	s->cfg.region.keep = cfg->region.keep;
	s->cfg.memory.min = cfg->memory.min;
	s->cfg.memory.max = cfg->memory.max;
	s->cfg.memory.per_client = cfg->memory.per_client;
	s->cfg.memory.floor = cfg->memory.floor;
	s->cfg.memory.psi_some_percent = cfg->memory.psi_some_percent;
	s->cfg.memory.psi_full_percent = cfg->memory.psi_full_percent;
	memcpy(s->cfg.clients, cfg->clients, sizeof(s->cfg.clients));
	s->cfg.client_count = cfg->client_count;
	memserver_pressure_look(s);
	return 0;
}
