/* The daemon's state as JSON, under /v1. */
#include <string.h>
#include <unistd.h>

#include "client-backend/daemon.h"
#include "client-backend/donors.h"

/* A counter or gauge of the engines, summed over the lanes. */
#define ENGINE_SUM(d, member)                                                                      \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (d)->lanes; i_++)                                       \
			sum_ += stat_get(&lane_engine_stats((d)->lane[i_])->member);               \
		sum_;                                                                              \
	})
#define USAGE_SUM(d, member)                                                                       \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (d)->lanes; i_++)                                       \
			sum_ += stat_get(&lane_usage((d)->lane[i_])->member);                      \
		sum_;                                                                              \
	})

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static void put(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, number(n));
}

static void put_text(json_t *o, const char *key, const char *text)
{
	json_t *s = json_string(text);

	/* Names from outside may not be UTF-8. */
	json_object_set_new(o, key, s ? s : json_string("(not UTF-8)"));
}

static json_t *lane_json(struct daemon *d, unsigned i)
{
	const struct engine_stats *e = lane_engine_stats(d->lane[i]);
	const struct socket_lane_stats *s = lane_socket_stats(d->lane[i]);
	const struct lane_stats *l = lane_stats(d->lane[i]);
	json_t *o = json_object();

	put(o, "lane", i);
	put(o, "pages", stat_get(&e->pages));
	put(o, "puts", stat_get(&e->puts));
	put(o, "puts_refused", stat_get(&e->puts_refused));
	put(o, "gets_local", stat_get(&e->gets_local));
	put(o, "gets_remote", stat_get(&e->gets_remote));
	put(o, "gets_disk", stat_get(&e->gets_disk));
	put(o, "gets_same_filled", stat_get(&e->gets_same_filled));
	put(o, "gets_miss", stat_get(&e->gets_miss));
	put(o, "gets_lost", stat_get(&e->gets_lost));
	put(o, "gets_timeout", stat_get(&e->gets_timeout));
	put(o, "records_corrupt", stat_get(&e->records_corrupt));
	put(o, "segments_spilled", stat_get(&e->segments_spilled));
	put(o, "segments_repaired", stat_get(&e->segments_repaired));
	put(o, "segments_cleaned", stat_get(&e->segments_cleaned));
	put(o, "segments_lost", stat_get(&e->segments_lost));
	put(o, "ephemeral_admitted", stat_get(&e->ephemeral_admitted));
	put(o, "ephemeral_ghost_hits", stat_get(&e->ephemeral_ghosts));
	put(o, "ephemeral_reinserted", stat_get(&e->ephemeral_reinserted));
	put(o, "ephemeral_forgotten", stat_get(&e->ephemeral_forgotten));
	put(o, "ephemeral_spilled", stat_get(&e->ephemeral_spilled));
	put(o, "ephemeral_dropped", stat_get(&e->ephemeral_dropped));
	put(o, "remote_slots_ephemeral", stat_get(&e->remote_slots_ephemeral));
	put(o, "bytes_read_remote", stat_get(&e->bytes_read_remote));
	put(o, "bytes_written_remote", stat_get(&e->bytes_written_remote));
	put(o, "regions", stat_get(&e->regions));
	put(o, "promised_pages", stat_get(&e->promised_pages));
	put(o, "reserved_short_pages", stat_get(&e->reserved_short_pages));
	put(o, "regions_revoking", stat_get(&e->regions_revoking));
	put(o, "sessions", stat_get(&s->sessions));
	put(o, "in_progress", stat_get(&s->in_progress));
	put(o, "sleeps", stat_get(&l->sleeps));
	put(o, "get_remote_p50_ns", hist_quantile_ns(&e->get_remote_ns, 0.5));
	put(o, "get_remote_p99_ns", hist_quantile_ns(&e->get_remote_ns, 0.99));
	return o;
}

static json_t *latency_json(const struct hist *h)
{
	json_t *o = json_object();

	put(o, "count", stat_get(&h->count));
	put(o, "p50_ns", hist_quantile_ns(h, 0.5));
	put(o, "p90_ns", hist_quantile_ns(h, 0.9));
	put(o, "p99_ns", hist_quantile_ns(h, 0.99));
	put(o, "p999_ns", hist_quantile_ns(h, 0.999));
	put(o, "max_ns", stat_get(&h->max_ns));
	return o;
}

/* Of all lanes together: in the daemon, from a client's request taken to its answer; get_remote: in
 * the engine, those that needed a donor. */
static void latencies(struct daemon *d, json_t *o)
{
	static struct hist puts, local, remote; /* control thread; large */
	json_t *all = json_object();

	memset(&puts, 0, sizeof(puts));
	memset(&local, 0, sizeof(local));
	memset(&remote, 0, sizeof(remote));
	for (unsigned i = 0; i < d->lanes; i++) {
		hist_merge(&puts, &lane_socket_stats(d->lane[i])->put_ns);
		hist_merge(&local, &lane_socket_stats(d->lane[i])->get_local_ns);
		hist_merge(&remote, &lane_engine_stats(d->lane[i])->get_remote_ns);
	}
	json_object_set_new(all, "put", latency_json(&puts));
	json_object_set_new(all, "get_local", latency_json(&local));
	json_object_set_new(all, "get_remote", latency_json(&remote));
	json_object_set_new(o, "latency", all);
}

static void traffic(struct daemon *d, json_t *o)
{
	json_t *t = json_object();
	uint64_t put_bytes = ENGINE_SUM(d, bytes_put), stored = ENGINE_SUM(d, bytes_stored);

	put(t, "put_bytes", put_bytes);
	put(t, "stored_bytes", stored);
	json_object_set_new(t, "compression_ratio",
		json_real(stored ? (double)put_bytes / (double)stored : 1.0));
	put(t, "relocated_bytes", ENGINE_SUM(d, bytes_relocated));
	put(t, "wire_written_bytes", ENGINE_SUM(d, bytes_written_remote));
	put(t, "wire_read_bytes", ENGINE_SUM(d, bytes_read_remote));
	put(t, "disk_written_bytes", ENGINE_SUM(d, bytes_written_disk));
	put(t, "disk_read_bytes", ENGINE_SUM(d, bytes_read_disk));
	json_object_set_new(o, "traffic", t);
}

static void donors_count(struct daemon *d, json_t *o)
{
	const struct cluster *c = donors_cluster(d->donors);
	unsigned up = 0;

	for (unsigned i = 0; i < cluster_donors(c); i++) {
		struct cluster_donor_info info;

		cluster_donor_info(c, i, &info);
		up += info.phase == DONOR_UP;
	}
	put(o, "donors", cluster_donors(c));
	put(o, "donors_up", up);
}

static void status_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	const struct socket_server_stats *s = socket_server_stats(d->sockets);
	json_t *o = json_object(), *lanes = json_array();

	put_text(o, "name", d->cfg.name);
	put_text(o, "version", FALLOW_VERSION);
	put(o, "pid", (uint64_t)getpid());
	json_object_set_new(
		o, "uptime_s", json_real((double)(env_now_ns(&env_system) - d->start_ns) / 1e9));
	put_text(o, "socket", d->cfg.socket.path);
	put_text(o, "http_socket", d->cfg.http.socket);
	put(o, "sessions", stat_get(&s->sessions));
	put(o, "pools", stat_get(&pools_stats(d->pools)->pools));
	put(o, "pages", ENGINE_SUM(d, pages));
	put(o, "objects", ENGINE_SUM(d, objects));
	put(o, "puts", ENGINE_SUM(d, puts));
	put(o, "puts_refused", ENGINE_SUM(d, puts_refused));
	put(o, "gets",
		ENGINE_SUM(d, gets_local) + ENGINE_SUM(d, gets_remote) + ENGINE_SUM(d, gets_disk) +
			ENGINE_SUM(d, gets_same_filled) + ENGINE_SUM(d, gets_miss) +
			ENGINE_SUM(d, gets_lost) + ENGINE_SUM(d, gets_timeout));
	put(o, "gets_lost", ENGINE_SUM(d, gets_lost));
	put(o, "promised_pages", ENGINE_SUM(d, promised_pages));
	put(o, "reserved_short_pages", ENGINE_SUM(d, reserved_short_pages));
	put(o, "segments_underreplicated", ENGINE_SUM(d, segments_underreplicated));
	donors_count(d, o);
	traffic(d, o);
	latencies(d, o);
	for (unsigned i = 0; i < d->lanes; i++)
		json_array_append_new(lanes, lane_json(d, i));
	json_object_set_new(o, "lanes", lanes);
	http_reply_json(r, 200, o);
}

static void capacity_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	uint64_t segment = d->engine.segment_bytes, pages = ENGINE_SUM(d, pages);
	uint64_t slots = ENGINE_SUM(d, local_slots), free_slots = ENGINE_SUM(d, local_slots_free);
	uint64_t same = ENGINE_SUM(d, pages_same_filled), live = ENGINE_SUM(d, live_bytes);
	json_t *o = json_object(), *local = json_object(), *remote = json_object();
	json_t *disk = json_object(), *memory = json_object();

	put(o, "pages", pages);
	put(o, "max_pages", d->engine.max_pages * d->lanes);
	put(o, "page_bytes", pages * ENGINE_PAGE_BYTES);
	put(o, "live_bytes", live);
	put(o, "pages_same_filled", same);
	json_object_set_new(o, "compression_ratio",
		json_real(live ? (double)(pages - same) * ENGINE_PAGE_BYTES / (double)live : 1.0));
	put(local, "total_bytes", slots * segment);
	put(local, "used_bytes", (slots - free_slots) * segment);
	put(local, "clean_bytes", ENGINE_SUM(d, local_slots_clean) * segment);
	put(remote, "leased_bytes", ENGINE_SUM(d, remote_slots) * segment);
	put(remote, "used_bytes", ENGINE_SUM(d, remote_slots_used) * segment);
	put(remote, "ephemeral_bytes", ENGINE_SUM(d, remote_slots_ephemeral) * segment);
	put(remote, "max_bytes", d->max_lease_bytes);
	put(disk, "total_bytes", ENGINE_SUM(d, disk_slots) * segment);
	put(disk, "used_bytes", ENGINE_SUM(d, disk_slots_used) * segment);
	put(memory, "index_bytes", ENGINE_SUM(d, index_bytes));
	put(memory, "table_bytes", ENGINE_SUM(d, table_bytes));
	json_object_set_new(o, "local", local);
	json_object_set_new(o, "remote", remote);
	json_object_set_new(o, "disk", disk);
	json_object_set_new(o, "memory", memory);
	http_reply_json(r, 200, o);
}

static void pools_handle(void *ctx, struct http_request *r)
{
	static const char *const codecs[] = {"none", "lz4", "zstd"};
	static const char *const disks[] = {"never", "overflow", "mirror"};
	struct daemon *d = ctx;
	json_t *list = json_array();
	const struct engine_pool_desc *p;

	for (uint32_t cursor = 0; (p = pools_next(d->pools, &cursor));) {
		const struct engine_account *a = accounts_get(d->accounts, p->account);
		json_t *o = json_object();

		put(o, "id", p->id);
		put_text(o, "name", p->name);
		put_text(o, "owner", p->owner);
		put_text(o, "account", a ? a->name : "");
		json_object_set_new(
			o, "persistent", json_boolean(p->flags & ENGINE_POOL_PERSISTENT));
		json_object_set_new(o, "shared", json_boolean(p->flags & ENGINE_POOL_SHARED));
		json_object_set_new(o, "spill", json_boolean(p->flags & ENGINE_POOL_SPILL));
		put_text(o, "codec", p->codec < 3 ? codecs[p->codec] : "?");
		put_text(o, "disk", p->disk < 3 ? disks[p->disk] : "?");
		put(o, "copies", p->copies);
		put(o, "reserved_pages", reserves_pages(d->reserves, p->id));
		put(o, "pages", USAGE_SUM(d, pool_pages[p->id % ENGINE_MAX_POOLS]));
		json_array_append_new(list, o);
	}
	json_t *o = json_object();
	json_object_set_new(o, "pools", list);
	http_reply_json(r, 200, o);
}

struct sessions_arg {
	struct daemon *d;
	json_t *list;
};

static void session_add(void *arg, const struct socket_session_info *info)
{
	struct sessions_arg *s = arg;
	const struct engine_account *a = accounts_get(s->d->accounts, info->account);
	json_t *o = json_object();

	put(o, "id", info->id);
	put_text(o, "identity", info->identity);
	put_text(o, "program", info->program);
	put_text(o, "account", a ? a->name : "");
	put(o, "pid", (uint64_t)info->pid);
	put(o, "requests", info->requests);
	put(o, "pools", info->pools);
	put(o, "memory_bytes", info->memory_bytes);
	json_object_set_new(
		o, "since_s", json_real((double)(env_now_ns(&env_system) - info->since_ns) / 1e9));
	json_array_append_new(s->list, o);
}

static void clients_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	json_t *o = json_object(), *accounts = json_array();
	struct sessions_arg s = {.d = d, .list = json_array()};

	socket_server_sessions(d->sockets, session_add, &s);
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		const struct engine_account *a = accounts_get(d->accounts, i);

		if (!a)
			continue;
		uint64_t limit = atomic_load(&a->quota->limit_pages);
		json_t *ao = json_object();
		put_text(ao, "name", a->name);
		put(ao, "weight", a->weight);
		put(ao, "pages", atomic_load(&a->quota->used_pages));
		put(ao, "local_bytes", USAGE_SUM(d, account[i].local_bytes));
		json_object_set_new(
			ao, "quota_pages", limit == UINT64_MAX ? json_null() : number(limit));
		json_array_append_new(accounts, ao);
	}
	json_object_set_new(o, "sessions", s.list);
	json_object_set_new(o, "accounts", accounts);
	http_reply_json(r, 200, o);
}

static json_t *donor_json(struct daemon *d, unsigned i)
{
	const struct cluster *c = donors_cluster(d->donors);
	struct cluster_donor_info info;
	json_t *o = json_object();
	uint64_t links = 0;

	cluster_donor_info(c, i, &info);
	for (unsigned lane = 0; lane < d->lanes; lane++)
		links += stat_get(&lane_usage(d->lane[lane])->donor[i].connected);
	put_text(o, "name", info.config->name);
	put_text(o, "host", info.config->host);
	put(o, "port", info.config->port);
	put_text(o, "phase", donors_phase_name(info.phase));
	put_text(o, "why", cluster_donor_reason(c, i));
	put_text(o, "transport",
		!info.sessions				    ? ""
		: info.transport == CLUSTER_TRANSPORT_VERBS ? "verbs"
							    : "tcp");
	json_object_set_new(o, "draining", json_boolean(info.draining));
	put(o, "lanes_connected", links);
	put(o, "leased_bytes", info.leased_bytes);
	put(o, "revoking_bytes", info.revoking_bytes);
	put(o, "spare_bytes", info.spare_bytes);
	put(o, "donor_free_bytes", info.donor_free_bytes);
	put(o, "donor_spare_bytes", info.donor_spare_bytes);
	put(o, "donor_total_bytes", info.donor_total_bytes);
	put(o, "segments", USAGE_SUM(d, donor[i].segments));
	put(o, "live_bytes", USAGE_SUM(d, donor[i].live_bytes));
	put(o, "sessions", info.sessions);
	put(o, "bad_data", info.bad_data);
	put(o, "lost_regions", info.lost_regions);
	put(o, "refused_leases", info.refused_leases);
	json_object_set_new(o, "rtt_ns", info.rtt_ns < 0 ? json_null() : json_integer(info.rtt_ns));
	return o;
}

static void donors_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	json_t *o = json_object(), *list = json_array();

	for (unsigned i = 0; i < cluster_donors(donors_cluster(d->donors)); i++)
		json_array_append_new(list, donor_json(d, i));
	json_object_set_new(o, "donors", list);
	http_reply_json(r, 200, o);
}

const struct http_route daemon_routes[] = {
	{.path = "/metrics", .methods = HTTP_GET, .handle = metrics_handle},
	{.path = "/v1/status", .methods = HTTP_GET, .handle = status_handle},
	{.path = "/v1/capacity", .methods = HTTP_GET, .handle = capacity_handle},
	{.path = "/v1/pools", .methods = HTTP_GET, .handle = pools_handle},
	{.path = "/v1/clients", .methods = HTTP_GET, .handle = clients_handle},
	{.path = "/v1/donors", .methods = HTTP_GET, .handle = donors_handle},
	{.path = "/v1/disks",
		.methods = HTTP_GET | HTTP_POST,
		.unix_only = HTTP_POST,
		.handle = disks_handle},
	{.path = "/v1/disks/*",
		.methods = HTTP_GET | HTTP_DELETE,
		.unix_only = HTTP_DELETE,
		.handle = disks_one_handle},
	{.path = NULL},
};
