/* The life of one donor's control session: connecting, hello, heartbeats, suspicion and death. */
#include "client-backend/cluster/internal.h"

#include <errno.h>
#include <string.h>

unsigned donor_index(const struct cluster *c, const struct donor *d)
{
	return (unsigned)(d - c->donors);
}

bool donor_has_session(const struct donor *d)
{
	return d->phase != DONOR_DOWN && d->phase != DONOR_DEAD;
}

/* The one place where a phase changes. */
void donor_phase_change(struct cluster *c, struct donor *d, enum cluster_donor_phase to)
{
	if (d->phase == to)
		return;
	d->phase = to;
	d->phase_ns = env_now_ns(c->env);
	donor_state_tell(c, d);
}

/*
 * What lanes are told. Up from the first reconciliation until the donor is dead: while only the
 * control session is gone the data connections may still serve reads, so such a donor is suspect,
 * not down.
 */
void donor_state_tell(struct cluster *c, struct donor *d)
{
	bool up = d->data_open && !d->dead;
	bool suspect = d->phase != DONOR_UP || d->distrusted || d->draining;

	if (d->told_any && d->told_up == up && d->told_suspect == suspect)
		return;
	d->told_any = true;
	d->told_up = up;
	d->told_suspect = suspect;
	c->ops->donor_state(c->ctx, donor_index(c, d), up, suspect);
}

void donor_send(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	d->send_seq++;
	c->ops->send(c->ctx, donor_index(c, d), m);
}

/* Half of the back-off for certain, the other half at random, so that backends do not come in step.
 */
static void reconnect_plan(struct cluster *c, struct donor *d)
{
	uint64_t half = d->backoff_ns / 2;

	if (!d->backoff_ns)
		half = (d->backoff_ns = c->cfg.reconnect_min_ns) / 2;
	d->reconnect_ns = env_now_ns(c->env) + d->backoff_ns - half +
			  (half ? env_random(c->env) % (half + 1) : 0);
	d->backoff_ns = d->backoff_ns > c->cfg.reconnect_max_ns / 2 ? c->cfg.reconnect_max_ns
								    : d->backoff_ns * 2;
}

void donor_session_end(struct cluster *c, struct donor *d, const char *why)
{
	d->reason = why;
	d->acked = d->reconciled = d->list_open = d->renewing = false;
	d->hb_sent_ns = 0;
	d->stats_known = false;
	d->stats_free = d->stats_spare = 0;
	placement_request_forget(c, d);
	for (struct lease *l = d->leases; l; l = l->next)
		l->end_told = l->listed = false;
	reconnect_plan(c, d);
	donor_phase_change(c, d, d->dead ? DONOR_DEAD : DONOR_DOWN);
}

void donor_session_close(struct cluster *c, struct donor *d, const char *why)
{
	donor_session_end(c, d, why);
	c->ops->disconnect(c->ctx, donor_index(c, d));
}

static void donor_die(struct cluster *c, struct donor *d)
{
	d->dead = true;
	if (d->phase == DONOR_SUSPECT || d->phase == DONOR_UP)
		donor_session_close(c, d, "no answer");
	if (d->data_open) {
		d->data_open = false;
		c->ops->data_close(c->ctx, donor_index(c, d));
	}
	lease_all_lost(c, d);
	if (d->phase == DONOR_DOWN)
		donor_phase_change(c, d, DONOR_DEAD);
	donor_state_tell(c, d);
}

/* The transport for data, or -EPROTO when what is configured is not offered on both sides. */
static int transport_choose(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	bool verbs = c->cfg.have_verbs && m->hello_ack.verbs_port;
	enum cluster_transport t = d->cfg.transport;

	if (t == CLUSTER_TRANSPORT_AUTO)
		t = verbs ? CLUSTER_TRANSPORT_VERBS : CLUSTER_TRANSPORT_TCP;
	if (t == CLUSTER_TRANSPORT_VERBS ? !verbs : !m->hello_ack.tcp_port)
		return -EPROTO;
	d->transport = t;
	d->data_port =
		t == CLUSTER_TRANSPORT_VERBS ? m->hello_ack.verbs_port : m->hello_ack.tcp_port;
	return 0;
}

static bool label_ok(const char label[CONTROL_NAME_BYTES])
{
	return memchr(label, 0, CONTROL_NAME_BYTES) != NULL;
}

int donor_hello_ack(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	if (m->hello_ack.version != CONTROL_VERSION || !m->hello_ack.boot_id ||
		m->hello_ack.lease_ttl_ms < 3 || !m->hello_ack.region_bytes ||
		m->hello_ack.region_bytes % ENGINE_PAGE_BYTES ||
		m->hello_ack.region_bytes > CLUSTER_MAX_REGION || !label_ok(m->hello_ack.name) ||
		!label_ok(m->hello_ack.failure_domain))
		return -EPROTO;
	int r = transport_choose(c, d, m);
	if (r < 0)
		return r;
	if (d->boot_id && d->boot_id != m->hello_ack.boot_id)
		lease_all_lost(c, d);
	d->boot_id = m->hello_ack.boot_id;
	d->ttl_ns = m->hello_ack.lease_ttl_ms * CLUSTER_MS;
	d->region_bytes = m->hello_ack.region_bytes;
	memcpy(d->token, m->hello_ack.token, sizeof(d->token));
	const char *domain = d->cfg.failure_domain[0]	      ? d->cfg.failure_domain
			     : m->hello_ack.failure_domain[0] ? m->hello_ack.failure_domain
							      : d->cfg.name;
	d->domain = lease_domain_hash(domain);
	d->acked = true;
	d->draining = false;
	d->listed = 0;
	return 0;
}

/* The first list is complete and acted upon. */
void donor_up(struct cluster *c, struct donor *d)
{
	uint64_t now = env_now_ns(c->env);
	unsigned i = donor_index(c, d);

	d->reconciled = true;
	d->dead = false;
	d->sessions++;
	d->reason = "";
	d->alive_ns = now;
	d->backoff_ns = c->cfg.reconnect_min_ns;
	d->refusal[false] = d->refusal[true] = (struct refusal){0};
	d->spare_changed = d->spare_bytes > 0; /* the donor knows of none */
	d->renew_next_ns = d->hello_sent_ns + d->ttl_ns / 3;
	d->hb_next_ns = now;
	/* The old token ended with the old session, and its connections with it. */
	if (d->data_open)
		c->ops->data_close(c->ctx, i);
	d->data_open = true;
	c->ops->data_open(c->ctx, i, d->transport, d->data_port, d->token);
	donor_phase_change(c, d, DONOR_UP);
}

int donor_heartbeat(struct cluster *c, struct donor *d, const struct control_msg *m)
{
	if (!d->hb_sent_ns || m->heartbeat.sequence != d->hb_sequence)
		return -EPROTO;
	uint64_t now = env_now_ns(c->env);
	d->rtt_ns = (int64_t)(now - d->hb_sent_ns);
	d->hb_sent_ns = 0;
	d->alive_ns = now;
	donor_phase_change(c, d, DONOR_UP);
	return 0;
}

static void heartbeat_tick(struct cluster *c, struct donor *d, uint64_t now)
{
	if (d->hb_sent_ns && now - d->hb_sent_ns >= c->cfg.suspect_ns)
		donor_phase_change(c, d, DONOR_SUSPECT);
	if (d->hb_sent_ns || now < d->hb_next_ns)
		return;
	struct control_msg m = {
		.type = CONTROL_HEARTBEAT, .heartbeat = {.sequence = ++d->hb_sequence}};
	d->hb_sent_ns = now;
	d->hb_next_ns = now + c->cfg.heartbeat_ns;
	donor_send(c, d, &m);
}

static void distrust_tick(struct cluster *c, struct donor *d, uint64_t now)
{
	while (d->bad_points && now >= d->bad_decay_ns) {
		d->bad_points--;
		d->bad_decay_ns += CLUSTER_BAD_DECAY_NS;
	}
	if (d->distrusted && !d->bad_points) {
		d->distrusted = false;
		donor_state_tell(c, d);
	}
}

void donor_tick(struct cluster *c, struct donor *d, uint64_t now)
{
	unsigned i = donor_index(c, d);

	distrust_tick(c, d, now);
	if (d->reconciled) {
		heartbeat_tick(c, d, now);
		/* It answers heartbeats but not the rest: the session is of no use. */
		if ((d->asking && now - d->request_sent_ns >= c->cfg.dead_ns) ||
			(d->renewing && now - d->renew_sent_ns >= c->cfg.dead_ns))
			donor_session_close(c, d, "a request was not answered");
	} else if (donor_has_session(d) && now - d->phase_ns >= c->cfg.connect_timeout_ns) {
		donor_session_close(c, d,
			d->phase == DONOR_CONNECTING ? "connecting took too long"
						     : "no hello in time");
	}
	if (!d->dead && now - d->alive_ns >= c->cfg.dead_ns && d->phase != DONOR_UP)
		donor_die(c, d);
	if (!donor_has_session(d) && now >= d->reconnect_ns) {
		donor_phase_change(c, d, DONOR_CONNECTING);
		c->ops->connect(c->ctx, i);
	}
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t donor_next_ns(const struct cluster *c, const struct donor *d)
{
	uint64_t next = d->bad_points ? d->bad_decay_ns : CLUSTER_NEVER;

	if (d->reconciled) {
		next = earlier(next, !d->hb_sent_ns	    ? d->hb_next_ns
				     : d->phase == DONOR_UP ? d->hb_sent_ns + c->cfg.suspect_ns
							    : d->alive_ns + c->cfg.dead_ns);
		if (d->asking)
			next = earlier(next, d->request_sent_ns + c->cfg.dead_ns);
		if (d->renewing)
			next = earlier(next, d->renew_sent_ns + c->cfg.dead_ns);
		return next;
	}
	next = earlier(next,
		donor_has_session(d) ? d->phase_ns + c->cfg.connect_timeout_ns : d->reconnect_ns);
	return d->dead ? next : earlier(next, d->alive_ns + c->cfg.dead_ns);
}
