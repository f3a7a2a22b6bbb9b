/* What the memory server tells over HTTP: metrics, status, and the order to drain. */
#include "memserver/server_internal.h"

#include <stdio.h>

#include "lib/core/log.h"
#include "lib/http/metrics.h"

#define NS_PER_MS 1000000ull

static void metrics_regions(struct memserver *s, struct metrics *m)
{
	const struct lease_stats *st = lease_book_stats(s->book);
	uint64_t region = s->cfg.region.size_bytes;

	metrics_gauge(m, "fallow_memserver_target_bytes", (double)stat_get(&st->target_bytes),
		"Memory that may be leased now.");
	metrics_gauge(m, "fallow_memserver_leased_bytes", (double)stat_get(&st->leased_bytes),
		"Memory leased to clients.");
	metrics_gauge(m, "fallow_memserver_revoking_bytes",
		(double)(stat_get(&st->regions_revoking) * region),
		"Leased memory that was asked back.");
	metrics_gauge(m, "fallow_memserver_spare_bytes",
		(double)(stat_get(&st->regions_spare) * region),
		"Leased memory that its holders use for ephemeral copies only.");
	metrics_gauge(m, "fallow_memserver_kept_bytes",
		(double)(stat_get(&st->regions_kept) * region), "Memory kept for the next lease.");
	metrics_gauge(m, "fallow_memserver_held_bytes",
		(double)(memory_regions(s->memory) * region),
		"Memory of regions taken from the system.");
	metrics_gauge(m, "fallow_memserver_small_page_regions", memory_regions_small(s->memory),
		"Regions that could not have the huge pages asked for.");
	metrics_gauge(
		m, "fallow_memserver_clients", (double)stat_get(&st->clients), "Clients known.");
	metrics_gauge(m, "fallow_memserver_sessions", (double)stat_get(&st->sessions),
		"Control sessions open.");
	metrics_counter(m, "fallow_memserver_sessions_total", stat_get(&st->sessions_total),
		"Control sessions accepted.");
	metrics_gauge(m, "fallow_memserver_draining", lease_book_draining(s->book),
		"1 while the server leases no more.");
	metrics_counter(m, "fallow_memserver_leases_granted_total", stat_get(&st->grants),
		"Leases granted.");
	metrics_family(
		m, "fallow_memserver_leases_ended_total", "counter", "Leases ended, by how.");
	static const char *const how[] = {"released", "revoked", "forced", "expired"};
	const stat_t *const n[] = {&st->releases, &st->revoke_dones, &st->forced, &st->expiries};
	for (unsigned i = 0; i < 4; i++) {
		metrics_label(m, "how", how[i]);
		metrics_sample_u64(m, stat_get(n[i]));
	}
	metrics_counter(m, "fallow_memserver_revocations_total", stat_get(&st->revocations),
		"Regions asked back.");
	metrics_counter(m, "fallow_memserver_reclaims_total", stat_get(&st->reclaims),
		"Of these, regions with ephemeral copies only, for a client that needs the room.");
	metrics_counter(m, "fallow_memserver_wipes_total", stat_get(&st->wipes),
		"Regions wiped for the next lease.");
	metrics_family(m, "fallow_memserver_refused_total", "counter",
		"Messages, sessions and requests refused, by reason.");
	for (unsigned i = 0; i < LEASE_REFUSALS; i++) {
		metrics_label(m, "reason", lease_refusal_name(i));
		metrics_sample_u64(m, stat_get(&st->refused[i]));
	}
}

static void metrics_control(struct memserver *s, struct metrics *m)
{
	const struct control_stats *st = control_loop_stats(s->control);

	metrics_family(m, "fallow_control_sessions_closed_total", "counter",
		"Control sessions that ended, by reason.");
	for (unsigned i = 0; i < CONTROL_CLOSE_REASONS; i++) {
		metrics_label(m, "reason", control_close_reason_name(i));
		metrics_sample_u64(m, stat_get(&st->closed[i]));
	}
	metrics_family(m, "fallow_control_messages_total", "counter", "Control messages.");
	metrics_label(m, "direction", "in");
	metrics_sample_u64(m, stat_get(&st->messages_in));
	metrics_label(m, "direction", "out");
	metrics_sample_u64(m, stat_get(&st->messages_out));
}

static void metrics_data(struct memserver *s, struct metrics *m)
{
	struct transport_server_stats st;

	transport_server_stats(s->data, &st);
	metrics_family(m, "fallow_data_connections", "gauge", "Data connections open.");
	metrics_label(m, "transport", "tcp");
	metrics_sample_u64(m, stat_get(&st.connections));
	metrics_label(m, "transport", "verbs");
	metrics_sample_u64(m, stat_get(&st.verbs_connections));
	metrics_counter(m, "fallow_data_accepted_total", stat_get(&st.accepted),
		"Data connections that came in.");
	metrics_family(m, "fallow_data_requests_total", "counter", "Requests over tcp.");
	metrics_label(m, "kind", "read");
	metrics_sample_u64(m, stat_get(&st.reads));
	metrics_label(m, "kind", "write");
	metrics_sample_u64(m, stat_get(&st.writes));
	metrics_family(m, "fallow_data_bytes_total", "counter", "Payload over tcp.");
	metrics_label(m, "kind", "read");
	metrics_sample_u64(m, stat_get(&st.bytes_read));
	metrics_label(m, "kind", "write");
	metrics_sample_u64(m, stat_get(&st.bytes_written));
	const struct {
		const char *reason;
		const stat_t *n;
	} refused[] = {
		{"key", &st.refused_key},
		{"client", &st.refused_client},
		{"bounds", &st.refused_bounds},
		{"length", &st.refused_length},
		{"token", &st.refused_token},
		{"limit", &st.refused_limit},
		{"garbage", &st.closed_garbage},
		{"handshake", &st.closed_handshake},
		{"stalled", &st.closed_stalled},
		{"revoked", &st.closed_revoked},
		{"session", &st.closed_session},
		{"error", &st.closed_error},
		{"verbs_setup", &st.verbs_setup_failed},
	};
	metrics_family(m, "fallow_data_refused_total", "counter",
		"Data requests and connections refused or ended, by reason.");
	for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		metrics_label(m, "reason", refused[i].reason);
		metrics_sample_u64(m, stat_get(refused[i].n));
	}
}

static void metrics_machine(struct memserver *s, struct metrics *m)
{
	metrics_gauge(m, "fallow_memserver_uptime_seconds",
		(double)(env_now_ns(&env_system) - s->start_ns) / 1e9, "Time since the start.");
	metrics_gauge(m, "fallow_memserver_available_bytes", (double)s->sample.available_bytes,
		"MemAvailable when it was last looked at.");
	metrics_gauge(m, "fallow_memserver_pressure_readable", !s->sample_failed,
		"0 when MemAvailable could not be read.");
	if (s->sample.has_psi) {
		metrics_family(m, "fallow_memserver_psi_percent", "gauge",
			"Memory pressure (PSI, avg10) when it was last looked at.");
		metrics_label(m, "kind", "some");
		metrics_sample(m, s->sample.some_avg10);
		metrics_label(m, "kind", "full");
		metrics_sample(m, s->sample.full_avg10);
	}
	metrics_counter(m, "fallow_http_requests_total",
		stat_get(&http_server_stats(s->http)->requests), "HTTP requests.");
	metrics_counter(m, "fallow_http_refused_total",
		stat_get(&http_server_stats(s->http)->refused), "HTTP requests refused.");
	metrics_counter(m, "fallow_log_dropped_total", log_dropped(), "Log lines lost.");
}

static void handle_metrics(void *ctx, struct http_request *r)
{
	struct memserver *s = ctx;
	struct metrics *m = metrics_new();

	metrics_regions(s, m);
	metrics_control(s, m);
	metrics_data(s, m);
	metrics_machine(s, m);
	metrics_reply(m, r);
}

static json_t *status_clients(struct memserver *s)
{
	uint64_t now = env_now_ns(&env_system);
	json_t *list = json_array();

	for (unsigned i = 0; i < lease_book_clients(s->book); i++) {
		struct lease_client_info c;
		char identity[33];

		if (!lease_book_client_info(s->book, i, &c))
			continue;
		for (unsigned k = 0; k < 16; k++)
			snprintf(identity + 2 * k, 3, "%02x", c.identity[k]);
		uint64_t left_ms = c.expires_ns > now ? (c.expires_ns - now) / NS_PER_MS : 0;
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I}", "identity",
				      identity, "name", c.name, "connected", c.connected, "regions",
				      (json_int_t)c.regions, "revoking", (json_int_t)c.revoking,
				      "spare", (json_int_t)c.spare, "leased_bytes",
				      (json_int_t)(c.regions * s->cfg.region.size_bytes),
				      "expires_in_ms", (json_int_t)(c.regions ? left_ms : 0)));
	}
	return list;
}

static json_t *status_memory(struct memserver *s)
{
	const struct lease_stats *st = lease_book_stats(s->book);
	uint64_t region = s->cfg.region.size_bytes;
	uint64_t target = stat_get(&st->target_bytes), leased = stat_get(&st->leased_bytes);
	uint64_t left = lease_book_draining(s->book) || leased > target ? 0 : target - leased;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "total_bytes",
		(json_int_t)s->total_bytes, "available_bytes",
		(json_int_t)s->sample.available_bytes, "min_bytes",
		(json_int_t)memserver_amount_bytes(s, &s->cfg.memory.min), "max_bytes",
		(json_int_t)memserver_amount_bytes(s, &s->cfg.memory.max), "target_bytes",
		(json_int_t)target, "leased_bytes", (json_int_t)leased, "revoking_bytes",
		(json_int_t)(stat_get(&st->regions_revoking) * region), "spare_bytes",
		(json_int_t)(stat_get(&st->regions_spare) * region), "kept_bytes",
		(json_int_t)(stat_get(&st->regions_kept) * region), "held_bytes",
		(json_int_t)(memory_regions(s->memory) * region), "free_bytes",
		(json_int_t)(left - left % region));
}

static void handle_status(void *ctx, struct http_request *r)
{
	struct memserver *s = ctx;
	const struct lease_stats *st = lease_book_stats(s->book);
	const struct memserver_config *cfg = &s->cfg;
	char boot[17];

	snprintf(boot, sizeof(boot), "%016llx", (unsigned long long)s->boot_id);
	http_reply_json(r, 200,
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:i, s:i, s:i, s:i, s:I, s:I, s:o, s:o}",
			"name", s->name, "failure_domain",
			cfg->failure_domain[0] ? cfg->failure_domain : s->name, "version",
			FALLOW_VERSION, "boot_id", boot, "state",
			lease_book_draining(s->book) ? "draining" : "serving", "uptime_s",
			(double)(env_now_ns(&env_system) - s->start_ns) / 1e9, "control_port",
			control_listener_port(s->listener), "tcp_port",
			transport_server_tcp_port(s->data), "verbs_port",
			transport_server_verbs_port(s->data), "http_port", s->http_port,
			"region_bytes", (json_int_t)cfg->region.size_bytes, "sessions",
			(json_int_t)stat_get(&st->sessions), "memory", status_memory(s), "clients",
			status_clients(s)));
}

/* Leases no more and asks for everything back; the daemon stays until it is told to end. */
static void handle_drain(void *ctx, struct http_request *r)
{
	struct memserver *s = ctx;
	uint64_t limit_ms = s->cfg.lease.drain_ns / NS_PER_MS;

	log_info("server", "told to drain over HTTP");
	lease_book_drain(s->book, (uint32_t)limit_ms);
	memserver_book_settle(s);
	http_reply_json(r, 202,
		json_pack("{s:s, s:I}", "state", "draining", "limit_ms", (json_int_t)limit_ms));
}

const struct http_route memserver_routes[] = {
	{.path = "/metrics", .methods = HTTP_GET, .handle = handle_metrics},
	{.path = "/v1/status", .methods = HTTP_GET, .handle = handle_status},
	{.path = "/v1/drain", .methods = HTTP_POST, .unix_only = HTTP_POST, .handle = handle_drain},
	{.path = NULL},
};
