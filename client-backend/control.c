/* The control thread: bringing the daemon up step by step, serving, and taking it down in reverse.
 */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <event2/thread.h>

#include "client-backend/daemon.h"
#include "client-backend/donors.h"
#include "client-backend/predecessor.h"
#include "lib/core/log.h"

#define STOP_LIMIT_S	     20
#define PREDECESSOR_LIMIT_MS 60000 /* a killed process gives tens of GiB back meanwhile */

/* ---- waiting for something on the event loop, for a bounded time ---- */

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	*(bool *)arg = true;
}

/* 0, or -ETIMEDOUT when it did not come about in STOP_LIMIT_S. */
static int loop_until(struct daemon *d, bool (*reached)(const struct daemon *d))
{
	bool over = false;
	struct event *limit = event_new(d->base, -1, 0, on_limit, &over);

	if (!limit)
		return -ENOMEM;
	event_add(limit, &(struct timeval){.tv_sec = STOP_LIMIT_S});
	while (!reached(d) && !over)
		event_base_loop(d->base, EVLOOP_ONCE);
	event_free(limit);
	return reached(d) ? 0 : -ETIMEDOUT;
}

/* ---- the steps ---- */

static int limits_start(struct daemon *d)
{
	struct rlimit files, core;

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	/* A core file would hold clients' pages. */
	if (!getrlimit(RLIMIT_CORE, &core)) {
		core.rlim_cur = 0;
		setrlimit(RLIMIT_CORE, &core);
	}
	if (d->cfg.store.lock_memory && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0) {
		int r = -errno;
		log_error("main",
			"store.lock_memory is on, but memory cannot be locked: %s (needs "
			"CAP_IPC_LOCK or "
			"a larger RLIMIT_MEMLOCK)",
			strerror(-r));
		return r;
	}
	return 0;
}

static int base_start(struct daemon *d)
{
	d->start_ns = env_now_ns(&env_system);
	d->base = event_base_new();
	if (!d->base || event_base_priority_init(d->base, 1) < 0)
		return -ENOMEM;
	return 0;
}

static void base_stop(struct daemon *d)
{
	event_base_free(d->base);
}

static int identity_start(struct daemon *d)
{
	char err[512];

	if (!d->cfg.name[0] && gethostname(d->cfg.name, sizeof(d->cfg.name) - 1) < 0)
		snprintf(d->cfg.name, sizeof(d->cfg.name), "fallowd");
	int r = identity_load(d->cfg.state_dir, &d->identity, err, sizeof(err));
	if (r < 0)
		log_error("main", "%s", err);
	return r;
}

static int predecessor_start(struct daemon *d)
{
	char err[512];
	int r = predecessor_wait(d->cfg.state_dir, PREDECESSOR_LIMIT_MS, err, sizeof(err));

	if (r < 0)
		log_error("main", "%s", err);
	return r;
}

static void account_announce(void *ctx, unsigned account, const struct engine_account *a)
{
	struct daemon *d = ctx;
	struct lane_msg m = {.type = LANE_ACCOUNT_SET, .account = {.index = account, .value = *a}};

	if (d->lanes_started) {
		lanes_post(d, &m);
		return;
	}
	for (unsigned i = 0; i < d->lanes; i++)
		engine_account_set(lane_engine(d->lane[i]), account, a);
}

static int accounts_start(struct daemon *d)
{
	int r = accounts_new(&d->cfg, account_announce, d, &d->accounts);

	if (r < 0)
		return r;
	for (unsigned lane = 0; !r && lane < d->lanes; lane++)
		for (unsigned i = 0; !r && i < ENGINE_MAX_ACCOUNTS; i++) {
			const struct engine_account *a =
				engine_account(lane_engine(d->lane[lane]), i);
			if (a)
				r = accounts_adopt(d->accounts, i, a->name);
		}
	if (r < 0)
		log_error("store", "the lanes' arenas do not belong together: start once with "
				   "--discard-arenas to throw away every stored page");
	if (!r)
		r = accounts_apply(d->accounts, &d->cfg);
	if (r == -ENOSPC)
		log_error("main",
			"clients: more than the %u accounts that the arenas have room for",
			ENGINE_MAX_ACCOUNTS);
	return r;
}

static void accounts_stop(struct daemon *d)
{
	accounts_delete(d->accounts);
	d->accounts = NULL;
}

static int pools_start(struct daemon *d)
{
	char err[512];
	struct pools_config pc = {.lanes = d->lanes,
		.max_pools_per_owner = d->cfg.others.max_pools,
		.codec = (uint8_t)d->cfg.pools.codec,
		.copies = (uint8_t)d->cfg.pools.copies,
		.disk = (uint8_t)d->cfg.pools.disk,
		.have_disk = d->cfg.disk.path[0] != 0,
		.rights = daemon_pools_rights};

	for (uint32_t i = 0; i < d->cfg.client_count; i++)
		if (d->cfg.clients[i].max_pools > pc.max_pools_per_owner)
			pc.max_pools_per_owner = d->cfg.clients[i].max_pools;
	int r = identity_pool_ids_load(d->cfg.state_dir, &pc.next_id, err, sizeof(err));
	if (r < 0) {
		log_error("main", "%s", err);
		return r;
	}
	/* Should state_dir be older than the arenas: their ids are used, too. */
	for (unsigned lane = 0; lane < d->lanes; lane++)
		for (unsigned row = 0; row < ENGINE_MAX_POOLS; row++) {
			const struct engine_pool_desc *p =
				engine_pool_row(lane_engine(d->lane[lane]), row);
			if (p && p->id >= pc.next_id)
				pc.next_id = p->id + 1;
		}
	r = pools_new(&pc, &daemon_pools_ops, d, &d->pools);
	for (unsigned lane = 0; !r && lane < d->lanes; lane++)
		for (unsigned row = 0; !r && row < ENGINE_MAX_POOLS; row++) {
			const struct engine_pool_desc *p =
				engine_pool_row(lane_engine(d->lane[lane]), row);
			if (p)
				r = pools_adopt(d->pools, lane, p);
		}
	if (!r)
		pools_adopted(d->pools);
	return r;
}

static bool pools_settled(const struct daemon *d)
{
	return pools_idle(d->pools) && reserves_idle(d->reserves);
}

static int reserves_make(struct daemon *d)
{
	int r = reserves_new(d->base, &env_system, d->lanes, &daemon_reserves_ops, d, &d->reserves);
	const struct engine_pool_desc *p;

	for (uint32_t cursor = 0; !r && (p = pools_next(d->pools, &cursor));)
		for (unsigned lane = 0; !r && lane < d->lanes; lane++) {
			struct engine_reservation kept =
				engine_pool_reserved(lane_engine(d->lane[lane]), p->id);
			r = reserves_adopt(d->reserves, lane, p->id, &kept);
		}
	return r;
}

static void reserves_drop(struct daemon *d)
{
	reserves_delete(d->reserves);
	d->reserves = NULL;
}

static void pools_stop(struct daemon *d)
{
	pools_delete(d->pools);
	d->pools = NULL;
}

static int donors_make(struct daemon *d)
{
	int r = donors_new(d, &d->donors);

	for (unsigned lane = 0; !r && lane < d->lanes; lane++)
		for (unsigned i = 0; i < d->engine.max_regions; i++) {
			const struct engine_region_desc *region =
				engine_region(lane_engine(d->lane[lane]), i);
			if (region)
				donors_adopt(d->donors, lane, region);
		}
	return r;
}

static void donors_drop(struct daemon *d)
{
	donors_delete(d->donors);
	d->donors = NULL;
}

static bool lanes_are_stopped(const struct daemon *d)
{
	return d->lanes_stopped == d->lanes_started;
}

static void lanes_stop(struct daemon *d)
{
	struct lane_msg m = {.type = LANE_STOP};

	reserves_stop(d->reserves);
	if (d->pools && loop_until(d, pools_settled) < 0)
		log_error("main", "pools or grants were still being changed");
	for (unsigned i = 0; i < d->lanes_started; i++)
		lane_send(d, i, &m);
	if (loop_until(d, lanes_are_stopped) < 0) {
		log_error("main", "a lane does not stop");
		d->stuck = true;
		return;
	}
	for (unsigned i = 0; i < d->lanes_started; i++)
		lane_join(d->lane[i]);
	d->lanes_started = 0;
}

static int lanes_start(struct daemon *d)
{
	for (unsigned i = 0; i < d->lanes; i++) {
		int r = lane_start(d->lane[i]);

		if (r < 0) {
			log_error("main", "cannot start lane %u: %s", i, strerror(-r));
			lanes_stop(d);
			return r;
		}
		d->lanes_started++;
	}
	return 0;
}

static int cluster_step_start(struct daemon *d)
{
	donors_start(d->donors);
	return 0;
}

static bool links_are_gone(const struct daemon *d)
{
	return donors_idle(d->donors);
}

static void cluster_step_stop(struct daemon *d)
{
	donors_stop(d->donors);
	if (loop_until(d, links_are_gone) < 0) {
		log_error("main", "a lane does not give its connections back");
		d->stuck = true;
	}
}

int daemon_socket_group_set(const struct fallowd_config *c, const char *path)
{
	struct group *g;

	if (!c->socket.group[0])
		return 0;
	errno = 0;
	g = getgrnam(c->socket.group);
	if (!g) {
		log_error("main", "socket.group: there is no group \"%s\"", c->socket.group);
		return -EINVAL;
	}
	if (chown(path, (uid_t)-1, g->gr_gid) < 0) {
		int r = -errno;
		log_error("main", "cannot give %s to group %s: %s", path, c->socket.group,
			strerror(-r));
		return r;
	}
	return 0;
}

static void on_sockets_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct daemon *d =
		(struct daemon *)((char *)call - offsetof(struct daemon, sockets_stop_call));

	d->sockets_stopped = true;
}

static bool sockets_are_stopped(const struct daemon *d)
{
	return d->sockets_stopped;
}

static void sockets_stop(struct daemon *d)
{
	d->sockets_stop_call.done = on_sockets_stopped;
	socket_server_stop(d->sockets, &d->sockets_stop_call);
	if (loop_until(d, sockets_are_stopped) < 0) {
		log_error("main", "the lanes do not let go of their clients");
		d->stuck = true;
		return;
	}
	socket_server_delete(d->sockets);
	d->sockets = NULL;
}

static int sockets_start(struct daemon *d)
{
	char err[512];
	const struct fallowd_config *c = &d->cfg;
	struct socket_server_config sc = {.path = c->socket.path,
		.mode = (mode_t)c->socket.mode,
		.lanes = d->lanes,
		.slots = c->socket.slots,
		.max_sessions = c->socket.max_sessions,
		.max_sessions_per_client = c->socket.max_sessions,
		.hello_timeout_ms = 5000,
		.grace_ms = (uint32_t)(c->socket.session_grace_ns / 1000000),
		.request_timeout_ms =
			(uint32_t)((c->timing.get_timeout_ns + c->timing.put_wait_ns) / 1000000) +
			5000};

	int r = socket_server_new(&sc, d->base, &env_system, d->pools, &daemon_socket_ops, d,
		&d->sockets, err, sizeof(err));
	if (r < 0) {
		log_error("main", "%s", err);
		return r;
	}
	r = daemon_socket_group_set(c, c->socket.path);
	if (r < 0)
		sockets_stop(d);
	return r;
}

static void on_disks_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct daemon *d =
		(struct daemon *)((char *)call - offsetof(struct daemon, disks_stop_call));

	d->disks_stopped = true;
}

static bool disks_are_stopped(const struct daemon *d)
{
	return d->disks_stopped;
}

static void disks_step_stop(struct daemon *d)
{
	event_free(d->disks_event);
	d->disks_event = NULL;
	/* Grants that are being asked for would take their time. */
	reserves_stop(d->reserves);
	d->disks_stop_call.done = on_disks_stopped;
	disks_stop(d->disks, &d->disks_stop_call);
	if (loop_until(d, disks_are_stopped) < 0) {
		log_error("main", "the lanes do not let go of guests' disks");
		d->stuck = true;
		return;
	}
	disks_delete(d->disks);
	d->disks = NULL;
}

static void http_stop(struct daemon *d)
{
	http_server_delete(d->http);
	d->http = NULL;
}

static int http_start(struct daemon *d)
{
	char err[256], address[96];
	const struct program_http *c = &d->cfg.http;

	int r = http_server_new(d->base, daemon_routes, d, &d->http);
	if (r < 0)
		return r;
	if (c->port) {
		snprintf(address, sizeof(address), strchr(c->address, ':') ? "[%s]:%u" : "%s:%u",
			c->address, c->port);
		r = http_server_listen(d->http, address, &d->http_port, err, sizeof(err));
	}
	if (!r && c->socket[0])
		r = http_server_listen_unix(d->http, c->socket, 0660, err, sizeof(err));
	if (r < 0) {
		log_error("http", "%s", err);
		http_stop(d);
	}
	return r;
}

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
	struct daemon *d = arg;

	if (signo == SIGHUP) {
		daemon_reload(d);
		return;
	}
	log_info("main", "%s: stopping", strsignal((int)signo));
	d->stopping = true;
	event_base_loopbreak(d->base);
}

static void signals_stop(struct daemon *d)
{
	for (unsigned i = 0; i < sizeof(d->signal_event) / sizeof(d->signal_event[0]); i++)
		if (d->signal_event[i])
			event_free(d->signal_event[i]);
	memset(d->signal_event, 0, sizeof(d->signal_event));
}

static int signals_start(struct daemon *d)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		d->signal_event[i] = evsignal_new(d->base, signals[i], on_signal, d);
		if (!d->signal_event[i] || event_add(d->signal_event[i], NULL) < 0) {
			signals_stop(d);
			return -ENOMEM;
		}
	}
	return 0;
}

/* The watchdog hears from us only while every lane answers. */
static void on_ping_done(struct backend_call *call, int status, uint64_t value)
{
	struct daemon *d = (struct daemon *)((char *)call - offsetof(struct daemon, ping_call));

	d->pinging = false;
	program_notify_watchdog();
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;
	struct lane_msg m = {.type = LANE_PING};

	if (d->pinging)
		return;
	d->pinging = true;
	d->ping_call.done = on_ping_done;
	lanes_call(d, &m, 0, &d->ping_call);
}

static int watchdog_start(struct daemon *d)
{
	uint64_t ns = program_watchdog_interval_ns();
	struct timeval tv = {.tv_sec = (time_t)(ns / 1000000000u),
		.tv_usec = (suseconds_t)(ns / 1000 % 1000000)};

	if (!ns)
		return 0;
	d->watchdog_event = event_new(d->base, -1, EV_PERSIST, on_watchdog, d);
	return d->watchdog_event && !event_add(d->watchdog_event, &tv) ? 0 : -ENOMEM;
}

static bool pings_are_answered(const struct daemon *d)
{
	return !d->pinging;
}

static void watchdog_stop(struct daemon *d)
{
	if (d->watchdog_event)
		event_free(d->watchdog_event);
	d->watchdog_event = NULL;
	if (loop_until(d, pings_are_answered) < 0)
		d->stuck = true;
}

static int replies_step_start(struct daemon *d)
{
	return replies_start(d);
}

/* In order of start; each stop undoes its start and runs only after it succeeded. */
static const struct step {
	const char *name;
	int (*start)(struct daemon *d); /* 0 or a negative errno */
	void (*stop)(struct daemon *d); /* NULL: nothing to undo */
} steps[] = {
	{"limits", limits_start, NULL},
	{"events", base_start, base_stop},
	{"identity", identity_start, NULL},
	{"replies", replies_step_start, replies_stop},
	/* The accounts' quotas outlive the engines: their step is undone by accounts_stop after the
	   run. */
	{"store", store_open, store_close},
	{"predecessor", predecessor_start, NULL},
	{"accounts", accounts_start, NULL},
	{"pools", pools_start, pools_stop},
	{"reserves", reserves_make, reserves_drop},
	{"donors", donors_make, donors_drop},
	{"lanes", lanes_start, lanes_stop},
	{"cluster", cluster_step_start, cluster_step_stop},
	{"socket", sockets_start, sockets_stop},
	{"disks", daemon_disks_start, disks_step_stop},
	{"http", http_start, http_stop},
	{"signals", signals_start, signals_stop},
	{"watchdog", watchdog_start, watchdog_stop},
};

int daemon_run(struct daemon *d)
{
	unsigned count = sizeof(steps) / sizeof(steps[0]), up;
	int r = 0;

	for (up = 0; up < count; up++) {
		log_debug("main", "starting: %s", steps[up].name);
		r = steps[up].start(d);
		if (r < 0) {
			log_error("main", "cannot start (%s): %s", steps[up].name, strerror(-r));
			break;
		}
	}
	if (!r) {
		log_info_kv("main", "ready", "socket=%s http_port=%u lanes=%u donors=%u",
			d->cfg.socket.path, d->http_port, d->lanes, d->cfg.donor_count);
		program_notify_ready();
		if (event_base_dispatch(d->base) < 0)
			r = -EIO;
		program_notify_stopping();
	}
	while (up-- && !d->stuck) {
		log_debug("main", "stopping: %s", steps[up].name);
		if (steps[up].stop)
			steps[up].stop(d);
	}
	if (d->stuck)
		return -ETIMEDOUT;
	accounts_stop(d);
	if (!r)
		log_info("main", "stopped");
	return r;
}
