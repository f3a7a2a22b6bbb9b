/* The daemon's counters as Prometheus text, under /metrics. */
#include <stddef.h>
#include <stdio.h>

#include "client-backend/daemon.h"
#include "client-backend/donors.h"
#include "lib/core/log.h"
#include "lib/http/metrics.h"

/* One family, or one labelled sample of the family above it, of a struct of stat_t. */
struct line {
	const char *name; /* NULL: a sample of the family before, told apart by the label */
	const char *label, *value; /* NULL: none but the lane's */
	const char *type, *help;
	size_t offset;
};

#define COUNTER(s, m, n, h)                                                                        \
	{                                                                                          \
		"fallow_" n "_total", NULL, NULL, "counter", h, offsetof(struct s, m)              \
	}
#define GAUGE(s, m, n, h)                                                                          \
	{                                                                                          \
		"fallow_" n, NULL, NULL, "gauge", h, offsetof(struct s, m)                         \
	}
#define FIRST(s, m, n, l, v, h)                                                                    \
	{                                                                                          \
		"fallow_" n "_total", l, v, "counter", h, offsetof(struct s, m)                    \
	}
#define NEXT(s, m, l, v)                                                                           \
	{                                                                                          \
		NULL, l, v, NULL, NULL, offsetof(struct s, m)                                      \
	}

static const struct line engine_lines[] = {
	COUNTER(engine_stats, puts, "puts", "Puts, refused ones included."),
	COUNTER(engine_stats, puts_refused, "puts_refused", "Puts that found no room."),
	COUNTER(engine_stats, puts_refused_promised, "puts_refused_promised",
		"Of those, because the room that is left was promised to other pools."),
	COUNTER(engine_stats, puts_refused_granted, "puts_refused_granted",
		"Of those, within a grant: there was no room at all."),
	COUNTER(engine_stats, puts_same_filled, "puts_same_filled",
		"Puts kept in the index alone."),
	COUNTER(engine_stats, puts_raw, "puts_raw", "Puts stored uncompressed."),
	COUNTER(engine_stats, puts_waited, "puts_waited", "Puts that waited for room."),
	FIRST(engine_stats, gets_local, "gets", "from", "local", "Gets, by where the page was."),
	NEXT(engine_stats, gets_remote, "from", "remote"),
	NEXT(engine_stats, gets_disk, "from", "disk"),
	NEXT(engine_stats, gets_same_filled, "from", "index"),
	NEXT(engine_stats, gets_miss, "from", "miss"),
	NEXT(engine_stats, gets_lost, "from", "lost"),
	NEXT(engine_stats, gets_timeout, "from", "timeout"),
	COUNTER(engine_stats, flush_pages, "flush_pages", "Pages flushed one by one."),
	COUNTER(engine_stats, flush_objects, "flush_objects", "Objects flushed."),
	COUNTER(engine_stats, reads_posted, "reads_posted", "Reads from donors and disk."),
	COUNTER(engine_stats, reads_bare, "reads_bare",
		"Reads of an incompressible page alone, its checksum being known."),
	COUNTER(engine_stats, gets_direct, "gets_direct",
		"Gets that were read straight into a guest's memory."),
	FIRST(engine_stats, direct_refused, "direct_fallbacks", "why", "refused",
		"Gets that were meant so and passed through a buffer: the donor is late or not "
		"read that way, or the memory is not registered; other bytes were found there; "
		"the read took too long."),
	NEXT(engine_stats, direct_unlike, "why", "unlike"),
	NEXT(engine_stats, direct_abandoned, "why", "late"),
	COUNTER(engine_stats, reads_merged, "reads_merged", "Gets answered by another's read."),
	COUNTER(engine_stats, reads_hedged, "reads_hedged", "Reads sent to a second holder."),
	COUNTER(engine_stats, reads_failed, "reads_failed", "Reads that failed."),
	COUNTER(engine_stats, records_corrupt, "records_corrupt",
		"Records that failed verification."),
	FIRST(engine_stats, segments_spilled, "segments", "event", "spilled",
		"What happened to segments."),
	NEXT(engine_stats, segments_repaired, "event", "repaired"),
	NEXT(engine_stats, segments_cleaned, "event", "cleaned"),
	NEXT(engine_stats, segments_freed, "event", "freed"),
	NEXT(engine_stats, segments_lost, "event", "lost"),
	NEXT(engine_stats, segments_evicted_clean, "event", "evicted_clean"),
	NEXT(engine_stats, segments_evicted_ephemeral, "event", "evicted_ephemeral"),
	NEXT(engine_stats, segments_to_disk, "event", "to_disk"),
	FIRST(engine_stats, ephemeral_admitted, "ephemeral_pages", "event", "admitted",
		"Pages of ephemeral pools: put on probation; put to main, being known from before; "
		"kept because they were read; forgotten."),
	NEXT(engine_stats, ephemeral_ghosts, "event", "ghost_hit"),
	NEXT(engine_stats, ephemeral_reinserted, "event", "reinserted"),
	NEXT(engine_stats, ephemeral_forgotten, "event", "forgotten"),
	FIRST(engine_stats, ephemeral_spilled, "ephemeral_copies", "event", "spilled",
		"Segments of ephemeral pools copied to donors, and dropped there."),
	NEXT(engine_stats, ephemeral_dropped, "event", "dropped"),
	COUNTER(engine_stats, move_failures, "move_failures", "Moves of segments that failed."),
	COUNTER(engine_stats, bytes_put, "put_bytes", "Bytes of clients' pages."),
	COUNTER(engine_stats, bytes_stored, "stored_bytes", "Bytes of records appended by puts."),
	COUNTER(engine_stats, bytes_relocated, "relocated_bytes",
		"Bytes of records moved by the cleaner."),
	FIRST(engine_stats, bytes_read_remote, "tier_bytes", "transfer", "remote_read",
		"Bytes moved to and from tiers."),
	NEXT(engine_stats, bytes_written_remote, "transfer", "remote_write"),
	NEXT(engine_stats, bytes_read_disk, "transfer", "disk_read"),
	NEXT(engine_stats, bytes_written_disk, "transfer", "disk_write"),
	GAUGE(engine_stats, pages, "pages", "Pages stored."),
	GAUGE(engine_stats, pages_same_filled, "pages_same_filled",
		"Pages kept in the index alone."),
	GAUGE(engine_stats, objects, "objects", "Objects with pages."),
	GAUGE(engine_stats, live_bytes, "live_bytes", "Bytes of records that are alive."),
	GAUGE(engine_stats, local_slots, "local_slots", "Segment slots of the local tier."),
	GAUGE(engine_stats, local_slots_free, "local_slots_free", "Free ones."),
	GAUGE(engine_stats, local_slots_clean, "local_slots_clean", "Ones with copies elsewhere."),
	GAUGE(engine_stats, remote_slots, "remote_slots", "Segment slots leased from donors."),
	GAUGE(engine_stats, remote_slots_used, "remote_slots_used", "Used ones."),
	GAUGE(engine_stats, remote_slots_ephemeral, "remote_slots_ephemeral",
		"Of those, ones of ephemeral pools: free as soon as others need them."),
	GAUGE(engine_stats, disk_slots, "disk_slots", "Segment slots of the disk tier."),
	GAUGE(engine_stats, disk_slots_used, "disk_slots_used", "Used ones."),
	GAUGE(engine_stats, segments, "segments", "Segments that exist."),
	GAUGE(engine_stats, segments_underreplicated, "segments_underreplicated",
		"Segments with fewer copies than their pools ask for."),
	GAUGE(engine_stats, promised_pages, "promised_pages",
		"Pages of grants that are not used yet."),
	GAUGE(engine_stats, reserved_short_pages, "reserved_short_pages",
		"Promised pages that there is no room for now."),
	GAUGE(engine_stats, regions, "regions", "Leased regions."),
	GAUGE(engine_stats, regions_revoking, "regions_revoking", "Regions being given back."),
	GAUGE(engine_stats, index_bytes, "index_bytes", "Memory of the index."),
	GAUGE(engine_stats, table_bytes, "table_bytes", "Memory of the other tables."),
};

static const struct line lane_lines[] = {
	COUNTER(lane_stats, loops, "lane_loops", "Rounds of a lane's loop."),
	COUNTER(lane_stats, sleeps, "lane_sleeps", "Times that a lane went to sleep."),
	COUNTER(lane_stats, wakes, "lane_wakes", "Times that an event woke it."),
	COUNTER(lane_stats, messages, "lane_messages", "Messages from the control thread."),
	COUNTER(lane_stats, replies_lost, "lane_replies_lost",
		"Answers that the control thread did not take."),
	COUNTER(lane_stats, io_refused_down, "lane_io_refused_down",
		"Transfers that found no connection."),
};

static const struct line socket_lines[] = {
	FIRST(socket_lane_stats, puts, "socket_requests", "op", "put",
		"Requests of socket clients."),
	NEXT(socket_lane_stats, gets, "op", "get"),
	NEXT(socket_lane_stats, flush_pages, "op", "flush_page"),
	NEXT(socket_lane_stats, flush_objects, "op", "flush_object"),
	NEXT(socket_lane_stats, nops, "op", "nop"),
	COUNTER(socket_lane_stats, failed, "socket_failed", "Requests answered with an error."),
	FIRST(socket_lane_stats, refused_wrong_lane, "socket_refused", "reason", "wrong_lane",
		"Requests refused."),
	NEXT(socket_lane_stats, refused_no_pool, "reason", "no_pool"),
	COUNTER(socket_lane_stats, cancelled, "socket_cancelled",
		"Requests in progress when their session ended."),
	GAUGE(socket_lane_stats, sessions, "socket_lane_sessions", "Sessions attached to a lane."),
	GAUGE(socket_lane_stats, in_progress, "socket_in_progress", "Requests in progress."),
};

static const struct line disk_lines[] = {
	FIRST(tier_disk_stats, reads, "disk_transfers", "op", "read",
		"Transfers of the disk tier that ended well."),
	NEXT(tier_disk_stats, writes, "op", "write"),
	FIRST(tier_disk_stats, errors, "disk_failed", "reason", "error",
		"Transfers of the disk tier that did not."),
	NEXT(tier_disk_stats, refused, "reason", "refused"),
	NEXT(tier_disk_stats, timeouts, "reason", "timeout"),
	GAUGE(tier_disk_stats, in_flight, "disk_in_flight",
		"Transfers of the disk tier under way."),
	GAUGE(tier_disk_stats, stalled, "disk_stalled",
		"Buffers that the kernel has not given back."),
};

static const struct line donor_lines[] = {
	FIRST(tier_remote_donor_stats, reads, "donor_transfers", "op", "read",
		"Transfers with a donor."),
	NEXT(tier_remote_donor_stats, writes, "op", "write"),
	FIRST(tier_remote_donor_stats, bytes_read, "donor_bytes", "op", "read", "Bytes moved."),
	NEXT(tier_remote_donor_stats, bytes_written, "op", "write"),
	FIRST(tier_remote_donor_stats, errors, "donor_failed", "reason", "error",
		"Transfers with a donor that failed."),
	NEXT(tier_remote_donor_stats, timeouts, "reason", "timeout"),
	NEXT(tier_remote_donor_stats, refused, "reason", "refused"),
};

static const struct line pools_lines[] = {
	FIRST(pools_stats, opened, "pool_events", "event", "opened", "What happened to pools."),
	NEXT(pools_stats, reopened, "event", "reopened"),
	NEXT(pools_stats, joined, "event", "joined"),
	NEXT(pools_stats, destroyed, "event", "destroyed"),
	NEXT(pools_stats, incomplete, "event", "incomplete"),
	FIRST(pools_stats, refused_secret, "pool_refused", "reason", "secret",
		"Pools not opened or destroyed."),
	NEXT(pools_stats, refused_conflict, "reason", "conflict"),
	NEXT(pools_stats, refused_limit, "reason", "limit"),
	NEXT(pools_stats, refused_invalid, "reason", "invalid"),
	NEXT(pools_stats, refused_owner, "reason", "owner"),
	NEXT(pools_stats, refused_rights, "reason", "rights"),
	GAUGE(pools_stats, pools, "pools", "Pools."),
};

static const struct line server_lines[] = {
	FIRST(socket_server_stats, accepted, "session_events", "event", "accepted",
		"What happened to socket sessions."),
	NEXT(socket_server_stats, hellos, "event", "hello"),
	NEXT(socket_server_stats, resumed, "event", "resumed"),
	NEXT(socket_server_stats, byes, "event", "bye"),
	NEXT(socket_server_stats, lost, "event", "lost"),
	NEXT(socket_server_stats, grace_ended, "event", "grace_ended"),
	FIRST(socket_server_stats, refused_full, "session_refused", "reason", "full",
		"Socket clients refused."),
	NEXT(socket_server_stats, refused_identity, "reason", "identity"),
	NEXT(socket_server_stats, refused_version, "reason", "version"),
	NEXT(socket_server_stats, refused_memory, "reason", "memory"),
	NEXT(socket_server_stats, accept_errors, "reason", "accept"),
	GAUGE(socket_server_stats, sessions, "sessions", "Socket sessions."),
	GAUGE(socket_server_stats, connections, "session_connections", "Socket connections."),
	GAUGE(socket_server_stats, waiting, "sessions_waiting", "Lost sessions in their grace."),
};

static const struct line nbd_lines[] = {
	COUNTER(nbd_lane_stats, requests, "nbd_requests", "Commands of NBD clients."),
	COUNTER(nbd_lane_stats, replies, "nbd_replies", "Answers that NBD clients took."),
	COUNTER(nbd_lane_stats, receives, "nbd_receives",
		"System calls that read from NBD clients."),
	COUNTER(nbd_lane_stats, sends, "nbd_sends", "System calls that answered NBD clients."),
	COUNTER(nbd_lane_stats, stalls, "nbd_stalls",
		"Times that a command had to wait in its socket for answers to be taken."),
	GAUGE(nbd_lane_stats, conns, "nbd_connections", "NBD connections."),
	GAUGE(nbd_lane_stats, in_progress, "nbd_in_progress", "Commands at their disks."),
};

static const struct line donors_lines[] = {
	COUNTER(donors_stats, sessions_failed, "control_sessions_failed",
		"Control sessions that ended."),
	COUNTER(donors_stats, protocol_errors, "control_protocol_errors",
		"Messages of donors that made no sense."),
	COUNTER(donors_stats, links_failed, "links_failed",
		"Data connections that could not be made."),
	COUNTER(donors_stats, links_broken, "links_broken", "Data connections that broke."),
};

#define LINES(table) table, sizeof(table) / sizeof(table[0])

/* Where the structs with the lines' counters are; NULL: this lane (or donor of it) has none. */
typedef const void *(*line_source)(struct daemon *d, unsigned lane, unsigned donor);

static const void *engine_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_engine_stats(d->lane[lane]);
}

static const void *lane_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_stats(d->lane[lane]);
}

static const void *socket_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_socket_stats(d->lane[lane]);
}

static const void *nbd_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_nbd_stats(d->lane[lane]);
}

static const void *disk_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_disk_stats(d->lane[lane]);
}

static const void *donor_of(struct daemon *d, unsigned lane, unsigned donor)
{
	return lane_donor_stats(d->lane[lane], donor);
}

static void sample(struct metrics *m, const struct line *l, const void *stats)
{
	if (l->label)
		metrics_label(m, l->label, l->value);
	metrics_sample_u64(m, stat_get((const stat_t *)((const char *)stats + l->offset)));
}

static void lane_label(struct metrics *m, unsigned lane)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", lane);
	metrics_label(m, "lane", text);
}

static void lane_family(struct metrics *m, struct daemon *d, const struct line *lines, size_t count,
	line_source source, bool each_donor)
{
	unsigned donors = each_donor ? d->cfg.donor_count : 1;

	for (size_t i = 0; i < count; i++) {
		if (lines[i].name)
			metrics_family(m, lines[i].name, lines[i].type, lines[i].help);
		for (unsigned lane = 0; lane < d->lanes; lane++)
			for (unsigned donor = 0; donor < donors; donor++) {
				const void *stats = source(d, lane, donor);

				if (!stats)
					continue;
				lane_label(m, lane);
				if (each_donor)
					metrics_label(m, "donor", d->cfg.donors[donor].name);
				sample(m, &lines[i], stats);
			}
	}
}

static void plain_family(
	struct metrics *m, const struct line *lines, size_t count, const void *stats)
{
	for (size_t i = 0; i < count; i++) {
		if (lines[i].name)
			metrics_family(m, lines[i].name, lines[i].type, lines[i].help);
		sample(m, &lines[i], stats);
	}
}

static void latencies(struct metrics *m, struct daemon *d)
{
	metrics_family(m, "fallow_get_remote_seconds", "histogram", "Gets that needed a donor.");
	for (unsigned i = 0; i < d->lanes; i++) {
		lane_label(m, i);
		metrics_sample_hist(m, &lane_engine_stats(d->lane[i])->get_remote_ns);
	}
	metrics_family(m, "fallow_socket_put_seconds", "histogram", "Puts of socket clients.");
	for (unsigned i = 0; i < d->lanes; i++) {
		lane_label(m, i);
		metrics_sample_hist(m, &lane_socket_stats(d->lane[i])->put_ns);
	}
	metrics_family(m, "fallow_socket_get_seconds", "histogram", "Gets of socket clients.");
	for (unsigned i = 0; i < d->lanes; i++) {
		lane_label(m, i);
		metrics_sample_hist(m, &lane_socket_stats(d->lane[i])->get_ns);
	}
	metrics_family(m, "fallow_donor_read_seconds", "histogram", "Reads from a donor.");
	for (unsigned i = 0; i < d->lanes; i++)
		for (unsigned donor = 0; donor < d->cfg.donor_count; donor++) {
			const struct tier_remote_donor_stats *s =
				lane_donor_stats(d->lane[i], donor);

			if (!s)
				continue;
			lane_label(m, i);
			metrics_label(m, "donor", d->cfg.donors[donor].name);
			metrics_sample_hist(m, &s->read_ns);
		}
}

/* Gauges and counters of the cluster logic, one for each donor. */
static void cluster_family(struct metrics *m, struct daemon *d, const char *name, const char *type,
	const char *help, uint64_t (*value)(const struct cluster_donor_info *info))
{
	const struct cluster *c = donors_cluster(d->donors);

	metrics_family(m, name, type, help);
	for (unsigned i = 0; i < cluster_donors(c); i++) {
		struct cluster_donor_info info;

		cluster_donor_info(c, i, &info);
		metrics_label(m, "donor", info.config->name);
		metrics_sample_u64(m, value(&info));
	}
}

#define INFO_VALUE(field)                                                                          \
	static uint64_t info_##field(const struct cluster_donor_info *info)                        \
	{                                                                                          \
		return (uint64_t)info->field;                                                      \
	}
INFO_VALUE(leased_bytes)
INFO_VALUE(revoking_bytes)
INFO_VALUE(spare_bytes)
INFO_VALUE(donor_free_bytes)
INFO_VALUE(donor_spare_bytes)
INFO_VALUE(sessions)
INFO_VALUE(bad_data)
INFO_VALUE(lost_regions)
INFO_VALUE(refused_leases)
INFO_VALUE(draining)

static uint64_t info_up(const struct cluster_donor_info *info)
{
	return info->phase == DONOR_UP;
}

static void cluster_lines(struct metrics *m, struct daemon *d)
{
	cluster_family(m, d, "fallow_donor_up", "gauge", "1: in full service.", info_up);
	cluster_family(m, d, "fallow_donor_draining", "gauge", "1: leaving.", info_draining);
	cluster_family(
		m, d, "fallow_donor_leased_bytes", "gauge", "Leased by us.", info_leased_bytes);
	cluster_family(m, d, "fallow_donor_revoking_bytes", "gauge", "Being given back.",
		info_revoking_bytes);
	cluster_family(m, d, "fallow_donor_spare_bytes", "gauge",
		"Leased by us for ephemeral copies only: other backends may have it.",
		info_spare_bytes);
	cluster_family(m, d, "fallow_donor_free_bytes", "gauge", "The donor would lease.",
		info_donor_free_bytes);
	cluster_family(m, d, "fallow_donor_others_spare_bytes", "gauge",
		"The same of other backends, as the donor says: taken for persistent pages.",
		info_donor_spare_bytes);
	cluster_family(
		m, d, "fallow_donor_sessions_total", "counter", "Control sessions.", info_sessions);
	cluster_family(m, d, "fallow_donor_bad_data_total", "counter",
		"Records and segments that failed verification.", info_bad_data);
	cluster_family(m, d, "fallow_donor_lost_regions_total", "counter", "Regions lost.",
		info_lost_regions);
	cluster_family(m, d, "fallow_donor_refused_leases_total", "counter",
		"Lease requests refused.", info_refused_leases);
}

static void violations(struct metrics *m, struct daemon *d)
{
	const struct socket_server_stats *s = socket_server_stats(d->sockets);
	const struct control_stats *c = donors_control_stats(d->donors);

	metrics_family(m, "fallow_session_violations_total", "counter",
		"Socket sessions closed for what they sent.");
	for (unsigned i = SOCKET_VIOLATION_NONE + 1; i < SOCKET_VIOLATIONS; i++) {
		metrics_label(m, "reason", socket_violation_name((enum socket_violation)i));
		metrics_sample_u64(m, stat_get(&s->violations[i]));
	}
	metrics_family(
		m, "fallow_control_closed_total", "counter", "Control sessions closed, by reason.");
	for (unsigned i = 0; i < CONTROL_CLOSE_REASONS; i++) {
		metrics_label(m, "reason", control_close_reason_name((enum control_close_reason)i));
		metrics_sample_u64(m, stat_get(&c->closed[i]));
	}
}

static void account_lines(struct metrics *m, struct daemon *d)
{
	metrics_family(m, "fallow_account_pages", "gauge", "Pages of a client.");
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		const struct engine_account *a = accounts_get(d->accounts, i);

		if (!a)
			continue;
		metrics_label(m, "account", a->name);
		metrics_sample_u64(m, atomic_load(&a->quota->used_pages));
	}
}

void metrics_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	struct metrics *m = metrics_new();

	lane_family(m, d, LINES(engine_lines), engine_of, false);
	lane_family(m, d, LINES(lane_lines), lane_of, false);
	lane_family(m, d, LINES(socket_lines), socket_of, false);
	lane_family(m, d, LINES(nbd_lines), nbd_of, false);
	lane_family(m, d, LINES(disk_lines), disk_of, false);
	lane_family(m, d, LINES(donor_lines), donor_of, true);
	latencies(m, d);
	plain_family(m, LINES(pools_lines), pools_stats(d->pools));
	plain_family(m, LINES(server_lines), socket_server_stats(d->sockets));
	plain_family(m, LINES(donors_lines), donors_stats(d->donors));
	cluster_lines(m, d);
	violations(m, d);
	account_lines(m, d);
	disks_metrics(d, m);
	metrics_counter(m, "fallow_reloads_total", d->reloads, "Configuration read again.");
	metrics_counter(m, "fallow_reloads_failed_total", d->reloads_failed, "And found wrong.");
	metrics_counter(m, "fallow_log_dropped_total", log_dropped(), "Log lines not written.");
	metrics_counter(m, "fallow_log_suppressed_total", log_suppressed(), "Log lines held back.");
	metrics_gauge(m, "fallow_uptime_seconds",
		(double)(env_now_ns(&env_system) - d->start_ns) / 1e9, "Since the start.");
	metrics_reply(m, r);
}
