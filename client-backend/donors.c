/* The daemon's end of the cluster logic: control sessions and data connections on the event loop.
 */
#include "client-backend/donors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/link.h"
#include "lib/core/log.h"

struct donor_session {
	struct donors *s;
	unsigned donor;
	struct control_session *session; /* NULL: none */
	struct event *failed;		 /* connecting failed at once: told from the loop */
	enum cluster_donor_phase logged; /* what the log said last */
};

struct donors {
	struct daemon *d;
	struct cluster *cluster;
	struct control_loop *loop;
	struct event *tick;
	unsigned ndonors;
	bool stopping;
	struct donor_session *session;
	struct link *link; /* [donor][lane][channel] */
	struct donors_stats stats;
};

static struct link *link_of(struct donors *s, unsigned donor, unsigned lane, unsigned channel)
{
	return &s->link[(donor * s->d->lanes + lane) * TIER_REMOTE_CHANNELS + channel];
}

static const char *donor_name(const struct donors *s, unsigned donor)
{
	return s->d->cfg.donors[donor].name;
}

static const char *const phase_words[] = {
	[DONOR_DOWN] = "down",
	[DONOR_CONNECTING] = "connecting",
	[DONOR_HELLO] = "hello",
	[DONOR_UP] = "up",
	[DONOR_SUSPECT] = "suspect",
	[DONOR_DEAD] = "dead",
};

const char *donors_phase_name(enum cluster_donor_phase phase)
{
	return phase_words[phase];
}

/* One line for each change that a person would act on. */
static void phases_log(struct donors *s)
{
	for (unsigned i = 0; i < s->ndonors; i++) {
		struct cluster_donor_info info;

		cluster_donor_info(s->cluster, i, &info);
		if (info.phase == DONOR_CONNECTING || info.phase == DONOR_HELLO ||
			info.phase == s->session[i].logged)
			continue;
		s->session[i].logged = info.phase;
		if (info.phase == DONOR_UP)
			log_info_kv("donor", "up", "donor=%s", donor_name(s, i));
		else
			log_warn_kv("donor", "not in full service", "donor=%s phase=%s why=\"%s\"",
				donor_name(s, i), phase_words[info.phase],
				cluster_donor_reason(s->cluster, i));
	}
}

/* After everything that went into the cluster logic. */
static void tick_run(struct donors *s)
{
	uint64_t next = cluster_tick(s->cluster), now = env_now_ns(&env_system);

	phases_log(s);
	if (next == UINT64_MAX) {
		event_del(s->tick);
		return;
	}
	uint64_t wait = next > now ? next - now : 0;
	struct timeval tv = {.tv_sec = (time_t)(wait / 1000000000u),
		.tv_usec = (suseconds_t)(wait / 1000 % 1000000)};
	event_add(s->tick, &tv);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	tick_run(arg);
}

/* ---- control sessions ---- */

static void on_connected(void *ctx, struct control_session *session)
{
	struct donor_session *ds = ctx;

	cluster_connected(ds->s->cluster, ds->donor);
	tick_run(ds->s);
}

static void on_message(void *ctx, struct control_session *session, const struct control_msg *m)
{
	struct donor_session *ds = ctx;

	if (m->type == CONTROL_ERROR)
		log_warn_limited_kv("donor", "the donor ended the session",
			"donor=%s status=%d text=\"%.*s\"", donor_name(ds->s, ds->donor),
			(int)m->error.status, (int)sizeof(m->error.text), m->error.text);
	if (cluster_message(ds->s->cluster, ds->donor, m) < 0) {
		stat_add(&ds->s->stats.protocol_errors, 1);
		log_warn_limited_kv("donor", "a message out of order or senseless",
			"donor=%s type=%d", donor_name(ds->s, ds->donor), (int)m->type);
		ds->session = NULL;
		control_session_close(session, -EPROTO, "message out of order or senseless");
		cluster_disconnected(ds->s->cluster, ds->donor);
	}
	tick_run(ds->s);
}

static void on_closed(void *ctx, struct control_session *session, int status, const char *why)
{
	struct donor_session *ds = ctx;

	log_debug_kv(
		"donor", "session ended", "donor=%s why=\"%s\"", donor_name(ds->s, ds->donor), why);
	ds->session = NULL;
	stat_add(&ds->s->stats.sessions_failed, 1);
	cluster_disconnected(ds->s->cluster, ds->donor);
	tick_run(ds->s);
}

static const struct control_session_cbs session_cbs = {
	.connected = on_connected, .message = on_message, .closed = on_closed};

static void on_connect_failed(evutil_socket_t fd, short what, void *arg)
{
	struct donor_session *ds = arg;

	cluster_disconnected(ds->s->cluster, ds->donor);
	tick_run(ds->s);
}

static void op_connect(void *ctx, unsigned donor)
{
	struct donors *s = ctx;
	struct donor_session *ds = &s->session[donor];
	const struct cluster_donor_config *cfg = &s->d->cfg.donors[donor];

	if (control_session_connect(s->loop, cfg->host, cfg->port, &session_cbs, ds, &ds->session) <
		0) {
		ds->session = NULL;
		event_active(ds->failed, EV_TIMEOUT, 0);
	}
}

static void op_disconnect(void *ctx, unsigned donor)
{
	struct donor_session *ds = &((struct donors *)ctx)->session[donor];
	struct control_session *session = ds->session;

	ds->session = NULL;
	if (session)
		control_session_close(session, 0, NULL);
}

static void op_send(void *ctx, unsigned donor, const struct control_msg *m)
{
	struct donors *s = ctx;

	if (s->session[donor].session)
		control_session_send(s->session[donor].session, m);
}

/* ---- data connections and regions ---- */

static void op_data_open(
	void *ctx, unsigned donor, enum cluster_transport t, uint16_t port, const uint64_t token[2])
{
	struct donors *s = ctx;
	struct transport_peer peer = {.port = port,
		.token = {token[0], token[1]},
		.timeout_ms = (uint32_t)(s->d->cfg.remote.connect_timeout_ns / 1000000)};

	memcpy(peer.host, s->d->cfg.donors[donor].host, sizeof(peer.host));
	for (unsigned lane = 0; lane < s->d->lanes; lane++)
		for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++)
			link_open(link_of(s, donor, lane, c), t, &peer);
}

static void op_data_close(void *ctx, unsigned donor)
{
	struct donors *s = ctx;

	for (unsigned lane = 0; lane < s->d->lanes; lane++)
		for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++)
			link_close(link_of(s, donor, lane, c));
}

static void region_send(struct donors *s, unsigned lane, enum lane_msg_type type,
	const struct engine_region_desc *r)
{
	struct lane_msg m = {.type = type, .region = *r};

	lane_send(s->d, lane, &m);
}

static void op_region_add(void *ctx, unsigned lane, const struct engine_region_desc *r)
{
	region_send(ctx, lane, LANE_REGION_ADD, r);
}

static void op_region_bind(void *ctx, unsigned lane, const struct engine_region_desc *r)
{
	region_send(ctx, lane, LANE_REGION_BIND, r);
}

static void op_region_revoke(void *ctx, unsigned lane, const struct engine_region_desc *r)
{
	region_send(ctx, lane, LANE_REGION_REVOKE, r);
}

static void op_region_lost(void *ctx, unsigned lane, const struct engine_region_desc *r)
{
	log_warn_limited_kv("donor", "a region was lost", "donor=%s lane=%u region=%llu",
		r->donor_name, lane, (unsigned long long)r->region_id);
	region_send(ctx, lane, LANE_REGION_LOST, r);
}

static void op_donor_state(void *ctx, unsigned donor, bool up, bool suspect)
{
	struct donors *s = ctx;
	struct lane_msg m = {
		.type = LANE_DONOR_STATE, .donor = {.index = donor, .up = up, .suspect = suspect}};

	lanes_post(s->d, &m);
}

static const struct cluster_ops ops = {
	.connect = op_connect,
	.disconnect = op_disconnect,
	.send = op_send,
	.data_open = op_data_open,
	.data_close = op_data_close,
	.region_add = op_region_add,
	.region_bind = op_region_bind,
	.region_revoke = op_region_revoke,
	.region_lost = op_region_lost,
	.donor_state = op_donor_state,
};

/* ---- from lanes ---- */

void donors_link_broken(struct donors *s, unsigned lane, const struct lane_link *link)
{
	link_broken(link_of(s, link->donor, lane, link->channel), link->conn);
}

void donors_link_detached(struct donors *s, unsigned lane, const struct lane_link *link)
{
	link_detached(link_of(s, link->donor, lane, link->channel), link->conn);
}

void donors_want_regions(struct donors *s, unsigned lane, unsigned count, bool ephemeral)
{
	if (s->stopping)
		return;
	cluster_want_regions(s->cluster, lane, count, ephemeral);
	tick_run(s);
}

void donors_region_spare(
	struct donors *s, unsigned lane, const struct engine_region_desc *r, bool spare)
{
	if (s->stopping)
		return;
	cluster_region_spare(s->cluster, lane, r, spare);
	tick_run(s);
}

void donors_region_released(struct donors *s, unsigned lane, const struct engine_region_desc *r)
{
	if (s->stopping)
		return; /* the next start's reconciliation releases it */
	cluster_region_released(s->cluster, lane, r);
	tick_run(s);
}

void donors_bad_data(struct donors *s, unsigned donor)
{
	if (s->stopping || donor >= s->ndonors)
		return;
	log_warn_limited_kv("donor", "data failed verification", "donor=%s", donor_name(s, donor));
	cluster_bad_data(s->cluster, donor);
	tick_run(s);
}

/* ---- beginning and end ---- */

static int cluster_make(struct donors *s)
{
	struct daemon *d = s->d;
	const struct transport_ops *t;
	struct cluster_config cc = {.lanes = d->lanes,
		.have_verbs = true,
		.max_lease_bytes = d->max_lease_bytes,
		.heartbeat_ns = d->cfg.remote.heartbeat_ns,
		.suspect_ns = d->cfg.remote.suspect_ns,
		.dead_ns = d->cfg.remote.dead_ns,
		.connect_timeout_ns = d->cfg.remote.connect_timeout_ns,
		.reconnect_min_ns = d->cfg.remote.reconnect_min_ns,
		.reconnect_max_ns = d->cfg.remote.reconnect_max_ns};

	memcpy(cc.identity, d->identity.id, sizeof(cc.identity));
	memcpy(cc.secret, d->identity.secret, sizeof(cc.secret));
	memcpy(cc.name, d->cfg.name, sizeof(cc.name));
	for (unsigned i = 0; i < d->lanes; i++)
		cc.have_verbs &= lane_transport(d->lane[i], CLUSTER_TRANSPORT_VERBS, &t) != NULL;
	return cluster_new(&cc, d->cfg.donors, s->ndonors, &env_system, &ops, s, &s->cluster);
}

int donors_new(struct daemon *d, struct donors **out)
{
	struct control_loop_config lc;
	struct donors *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->d = d;
	s->ndonors = d->cfg.donor_count;
	s->session = calloc(s->ndonors ? s->ndonors : 1, sizeof(*s->session));
	s->link = calloc(
		s->ndonors ? s->ndonors * d->lanes * TIER_REMOTE_CHANNELS : 1, sizeof(*s->link));
	s->tick = event_new(d->base, -1, 0, on_tick, s);
	int r = s->session && s->link && s->tick ? 0 : -ENOMEM;
	control_loop_config_default(&lc);
	lc.connect_timeout_ms = (uint32_t)(d->cfg.remote.connect_timeout_ns / 1000000);
	if (!r)
		r = control_loop_new(d->base, &lc, &s->loop);
	for (unsigned i = 0; !r && i < s->ndonors; i++) {
		s->session[i] = (struct donor_session){.s = s, .donor = i};
		s->session[i].failed = event_new(d->base, -1, 0, on_connect_failed, &s->session[i]);
		r = s->session[i].failed ? 0 : -ENOMEM;
		for (unsigned lane = 0; !r && lane < d->lanes; lane++)
			for (unsigned c = 0; !r && c < TIER_REMOTE_CHANNELS; c++)
				r = link_init(link_of(s, i, lane, c), d, &s->stats, lane, i, c);
	}
	if (!r)
		r = cluster_make(s);
	if (r < 0) {
		donors_delete(s);
		return r;
	}
	*out = s;
	return 0;
}

void donors_adopt(struct donors *s, unsigned lane, const struct engine_region_desc *r)
{
	cluster_adopt(s->cluster, lane, r);
}

void donors_start(struct donors *s)
{
	cluster_start(s->cluster);
	tick_run(s);
}

void donors_stop(struct donors *s)
{
	s->stopping = true;
	event_del(s->tick);
	for (unsigned i = 0; i < s->ndonors; i++) {
		event_del(s->session[i].failed);
		op_disconnect(s, i);
		op_data_close(s, i);
	}
}

bool donors_idle(const struct donors *s)
{
	for (unsigned i = 0; i < s->ndonors * s->d->lanes * TIER_REMOTE_CHANNELS; i++)
		if (s->link[i].state != LINK_IDLE)
			return false;
	return true;
}

void donors_delete(struct donors *s)
{
	if (!s)
		return;
	for (unsigned i = 0; s->link && i < s->ndonors * s->d->lanes * TIER_REMOTE_CHANNELS; i++)
		link_fini(&s->link[i]);
	for (unsigned i = 0; s->session && i < s->ndonors; i++)
		if (s->session[i].failed)
			event_free(s->session[i].failed);
	cluster_delete(s->cluster);
	control_loop_delete(s->loop);
	if (s->tick)
		event_free(s->tick);
	free(s->session);
	free(s->link);
	free(s);
}

const struct cluster *donors_cluster(const struct donors *s)
{
	return s->cluster;
}

const struct donors_stats *donors_stats(const struct donors *s)
{
	return &s->stats;
}

const struct control_stats *donors_control_stats(const struct donors *s)
{
	return control_loop_stats(s->loop);
}
