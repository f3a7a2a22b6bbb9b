/* The lease book: clients, sessions and the answers to their messages. */
#include "memserver/lease_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const refusal_names[LEASE_REFUSALS] = {
	[LEASE_REFUSED_SESSIONS] = "sessions",
	[LEASE_REFUSED_HELLO_TIMEOUT] = "hello_timeout",
	[LEASE_REFUSED_VERSION] = "version",
	[LEASE_REFUSED_SECRET] = "secret",
	[LEASE_REFUSED_IDENTITY] = "identity",
	[LEASE_REFUSED_CLIENTS] = "clients",
	[LEASE_REFUSED_ORDER] = "order",
	[LEASE_REFUSED_SUPERSEDED] = "superseded",
	[LEASE_REFUSED_INTERNAL] = "internal",
	[LEASE_REFUSED_SPACE] = "space",
	[LEASE_REFUSED_MEMORY] = "memory",
	[LEASE_REFUSED_QUOTA] = "quota",
	[LEASE_REFUSED_DRAINING] = "draining",
	[LEASE_REFUSED_WANTED] = "wanted",
	[LEASE_REFUSED_STALE] = "stale",
};

const char *lease_refusal_name(enum lease_refusal r)
{
	return (unsigned)r < LEASE_REFUSALS ? refusal_names[r] : "?";
}

void lease_refuse(struct lease_book *b, enum lease_refusal why)
{
	stat_add(&b->stats.refused[why], 1);
}

void lease_client_send(struct lease_book *b, unsigned client, const struct control_msg *m)
{
	if (b->clients[client].session)
		b->ops->send(b->ctx, b->clients[client].session->peer, m);
}

int lease_config_check(const struct lease_config *cfg, char *err, size_t err_bytes)
{
	const char *why = NULL;

	if (!cfg->region_bytes || cfg->region_bytes % 4096 || cfg->region_bytes > 1ull << 40)
		why = "region_bytes must be a multiple of 4096, at most 2^40";
	else if (cfg->max_bytes < cfg->region_bytes)
		why = "max_bytes must hold at least one region";
	else if (cfg->max_bytes / cfg->region_bytes > 1u << 22)
		why = "max_bytes is more than 4194304 regions";
	else if (cfg->min_bytes > cfg->max_bytes)
		why = "min_bytes must not be more than max_bytes";
	else if (!cfg->max_clients || cfg->max_clients > 1u << 16)
		why = "max_clients must be within 1..65536";
	else if (!cfg->max_sessions || cfg->max_sessions > 1u << 16)
		why = "max_sessions must be within 1..65536";
	else if (!cfg->ttl_ms)
		why = "ttl_ms must not be 0";
	else if (!cfg->hello_timeout_ms)
		why = "hello_timeout_ms must not be 0";
	else if (!memchr(cfg->name, 0, sizeof(cfg->name)) ||
		 !memchr(cfg->failure_domain, 0, sizeof(cfg->failure_domain)))
		why = "name or failure_domain is too long";
	if (!why)
		return 0;
	snprintf(err, err_bytes, "%s", why);
	return -EINVAL;
}

int lease_book_new(const struct lease_config *cfg, uint64_t boot_id, const struct env *env,
	const struct lease_ops *ops, void *ctx, struct lease_book **out)
{
	char err[128];

	if (lease_config_check(cfg, err, sizeof(err)) || !boot_id)
		return -EINVAL;
	struct lease_book *b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->nregions = (unsigned)(cfg->max_bytes / cfg->region_bytes);
	b->sessions = calloc(cfg->max_sessions, sizeof(*b->sessions));
	b->clients = calloc(cfg->max_clients, sizeof(*b->clients));
	b->regions = calloc(b->nregions, sizeof(*b->regions));
	if (!b->sessions || !b->clients || !b->regions) {
		lease_book_abandon(b);
		return -ENOMEM;
	}
	b->cfg = *cfg;
	b->env = env;
	b->ops = ops;
	b->ctx = ctx;
	b->boot_id = boot_id;
	/* Epochs of different starts must not meet; 2^16 leases a second last for ever. */
	b->epoch = env_random(env) >> 8;
	b->target_bytes = cfg->min_bytes;
	b->revoke_next_ns = UINT64_MAX;
	*out = b;
	return 0;
}

void lease_book_abandon(struct lease_book *b)
{
	free(b->sessions);
	free(b->clients);
	free(b->regions);
	free(b);
}

void lease_token_remove(struct lease_book *b, unsigned client)
{
	struct lease_client *c = &b->clients[client];

	if (!c->has_token)
		return;
	c->has_token = false;
	b->ops->token_remove(b->ctx, client, c->token);
}

static void client_forget(struct lease_book *b, unsigned client)
{
	lease_token_remove(b, client);
	if (b->ops->client_remove)
		b->ops->client_remove(b->ctx, client);
	memset(&b->clients[client], 0, sizeof(b->clients[client]));
}

void lease_book_delete(struct lease_book *b)
{
	if (!b)
		return;
	b->draining = true; /* nothing is kept */
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (b->clients[i].used) {
			lease_client_end(b, i);
			client_forget(b, i);
		}
	}
	lease_target_apply(b);
	lease_book_abandon(b);
}

static void msg_stats(const struct lease_book *b, struct control_msg *m)
{
	m->type = CONTROL_STATS;
	m->stats.total_bytes = b->target_bytes;
	m->stats.leased_bytes = b->leased * b->cfg.region_bytes;
	m->stats.free_bytes = lease_free_bytes(b);
	m->stats.spare_bytes = 0;
}

/* STATS as this client sees it. */
static void send_stats(struct lease_book *b, unsigned client)
{
	msg_stats(b, &b->msg);
	b->msg.stats.spare_bytes = lease_spare_bytes(b, client);
	lease_client_send(b, client, &b->msg);
}

static bool stats_changed(const struct lease_book *b, struct control_msg *m)
{
	msg_stats(b, m);
	return b->spare_changed || m->stats.total_bytes != b->stats_sent.stats.total_bytes ||
	       m->stats.leased_bytes != b->stats_sent.stats.leased_bytes ||
	       m->stats.free_bytes != b->stats_sent.stats.free_bytes;
}

/* Ends every call that may have changed something: the gauges, and STATS to all when due. */
static void book_settle(struct lease_book *b)
{
	uint64_t now = env_now_ns(b->env);

	stat_set(&b->stats.regions_leased, b->leased);
	stat_set(&b->stats.regions_revoking, b->revoking);
	stat_set(&b->stats.regions_kept, b->kept + b->wiping);
	stat_set(&b->stats.regions_spare, b->spare);
	stat_set(&b->stats.target_bytes, b->target_bytes);
	stat_set(&b->stats.leased_bytes, b->leased * b->cfg.region_bytes);
	if (b->stats_sent_ns && now - b->stats_sent_ns < lease_ms_ns(b->cfg.stats_interval_ms))
		return;
	if (!stats_changed(b, &b->msg))
		return;
	b->stats_sent.stats = b->msg.stats;
	b->stats_sent_ns = now;
	b->spare_changed = false;
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (b->clients[i].used)
			send_stats(b, i);
	}
}

static void session_forget(struct lease_book *b, struct lease_session *s)
{
	if (s->client >= 0) {
		struct lease_client *c = &b->clients[s->client];
		c->session = NULL;
		lease_spare_forget(b, (unsigned)s->client);
		/* With leases its data connections may go on: it may be only this session that
		 * broke. */
		if (!c->regions)
			lease_token_remove(b, (unsigned)s->client);
	}
	memset(s, 0, sizeof(*s));
	stat_sub(&b->stats.sessions, 1);
}

static int session_end(struct lease_book *b, struct lease_session *s, int status, const char *text)
{
	void *peer = s->peer;

	session_forget(b, s);
	b->ops->close(b->ctx, peer, status, text);
	return status ? status : -ECONNABORTED;
}

static int session_refuse(struct lease_book *b, struct lease_session *s, enum lease_refusal why,
	int status, const char *text)
{
	lease_refuse(b, why);
	return session_end(b, s, status, text);
}

int lease_session_open(struct lease_book *b, void *peer, struct lease_session **out)
{
	for (unsigned i = 0; i < b->cfg.max_sessions; i++) {
		struct lease_session *s = &b->sessions[i];
		if (s->used)
			continue;
		*s = (struct lease_session){.used = true, .peer = peer, .client = -1};
		s->opened_ns = env_now_ns(b->env);
		stat_add(&b->stats.sessions, 1);
		stat_add(&b->stats.sessions_total, 1);
		*out = s;
		return 0;
	}
	lease_refuse(b, LEASE_REFUSED_SESSIONS);
	return -EBUSY;
}

void lease_session_closed(struct lease_book *b, struct lease_session *s)
{
	session_forget(b, s);
	book_settle(b);
}

static bool secret_equal(const uint8_t a[16], const uint8_t b[16])
{
	unsigned diff = 0;

	for (unsigned i = 0; i < 16; i++)
		diff |= a[i] ^ b[i];
	return !diff;
}

static int client_find(const struct lease_book *b, const uint8_t identity[16])
{
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (b->clients[i].used && !memcmp(b->clients[i].identity, identity, 16))
			return (int)i;
	}
	return -1;
}

/* A row for a new client: a free one, or that of the one gone for longest; -EUSERS. */
static int client_place(struct lease_book *b)
{
	int oldest = -1;

	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		const struct lease_client *c = &b->clients[i];
		if (!c->used)
			return (int)i;
		if (!c->session && !c->regions &&
			(oldest < 0 || c->seen_ns < b->clients[oldest].seen_ns))
			oldest = (int)i;
	}
	if (oldest < 0)
		return -EUSERS;
	client_forget(b, (unsigned)oldest);
	stat_sub(&b->stats.clients, 1);
	return oldest;
}

static int client_new(struct lease_book *b, const struct control_msg *m)
{
	int row = client_place(b);

	if (row < 0)
		return row;
	if (b->ops->client_add) {
		int rc = b->ops->client_add(b->ctx, (unsigned)row, m->hello.identity);
		if (rc)
			return rc;
	}
	struct lease_client *c = &b->clients[row];
	c->used = true;
	memcpy(c->identity, m->hello.identity, sizeof(c->identity));
	memcpy(c->secret, m->hello.secret, sizeof(c->secret));
	stat_add(&b->stats.clients, 1);
	return row;
}

/* A valid message came from a client: its leases live on from now. */
static void client_seen(struct lease_book *b, unsigned client)
{
	struct lease_client *c = &b->clients[client];
	uint64_t now = env_now_ns(b->env);
	uint64_t expires = now + lease_ms_ns(b->cfg.ttl_ms);

	c->seen_ns = now;
	if (expires > c->expires_ns)
		c->expires_ns = expires;
}

/* Ends the leases of a client whose time is over. */
static void client_expire(struct lease_book *b, unsigned client, uint64_t now_ns)
{
	struct lease_client *c = &b->clients[client];

	if (!c->regions || now_ns < c->expires_ns)
		return;
	stat_add(&b->stats.expiries, c->regions);
	lease_client_end(b, client);
}

static void send_ack(struct lease_book *b, unsigned client, uint32_t version)
{
	struct control_msg *m = &b->msg;

	memset(&m->hello_ack, 0, sizeof(m->hello_ack));
	m->type = CONTROL_HELLO_ACK;
	m->hello_ack.version = version;
	memcpy(m->hello_ack.token, b->clients[client].token, sizeof(m->hello_ack.token));
	m->hello_ack.boot_id = b->boot_id;
	m->hello_ack.tcp_port = b->cfg.tcp_port;
	m->hello_ack.verbs_port = b->cfg.verbs_port;
	m->hello_ack.lease_ttl_ms = b->cfg.ttl_ms;
	m->hello_ack.region_bytes = b->cfg.region_bytes;
	memcpy(m->hello_ack.name, b->cfg.name, sizeof(m->hello_ack.name));
	memcpy(m->hello_ack.failure_domain, b->cfg.failure_domain,
		sizeof(m->hello_ack.failure_domain));
	lease_client_send(b, client, m);
}

static void send_leases(struct lease_book *b, unsigned client)
{
	unsigned left = b->clients[client].regions;
	uint64_t now = env_now_ns(b->env);
	struct control_msg *m = &b->msg;

	m->type = CONTROL_LEASES;
	m->leases.count = 0;
	for (unsigned i = 0; left && i < b->nregions; i++) {
		const struct lease_region *r = &b->regions[i];
		if ((r->state != LEASE_REGION_LEASED && r->state != LEASE_REGION_REVOKING) ||
			r->client != client)
			continue;
		lease_region_tell(b, i, now, &m->leases.lease[m->leases.count++]);
		left--;
		if (left && m->leases.count == CONTROL_LEASES_PER_MSG) {
			m->leases.more = true;
			lease_client_send(b, client, m);
			m->leases.count = 0;
		}
	}
	m->leases.more = false;
	lease_client_send(b, client, m);
}

static void send_drain(struct lease_book *b, unsigned client)
{
	b->msg.type = CONTROL_DRAIN;
	b->msg.drain.deadline_ms = lease_ms_left(b->drain_ns, env_now_ns(b->env));
	lease_client_send(b, client, &b->msg);
}

/* The row of the client that says hello, or the refusal that ended the session. */
static int hello_client(struct lease_book *b, struct lease_session *s, const struct control_msg *m)
{
	int client = client_find(b, m->hello.identity);

	if (m->hello.version_min > CONTROL_VERSION)
		return session_refuse(b, s, LEASE_REFUSED_VERSION, -EPROTONOSUPPORT,
			"no protocol version in common; this server speaks version 1");
	if (client >= 0 && !secret_equal(b->clients[client].secret, m->hello.secret))
		return session_refuse(
			b, s, LEASE_REFUSED_SECRET, -EACCES, "wrong secret for this identity");
	if (client >= 0)
		return client;
	client = client_new(b, m);
	if (client == -EUSERS)
		return session_refuse(b, s, LEASE_REFUSED_CLIENTS, -EUSERS,
			"too many clients are known to this server");
	if (client == -EPERM)
		return session_refuse(
			b, s, LEASE_REFUSED_IDENTITY, -EPERM, "this identity may not lease here");
	if (client < 0)
		return session_refuse(b, s, LEASE_REFUSED_INTERNAL, client,
			"the server could not add this client");
	return client;
}

static int message_hello(struct lease_book *b, struct lease_session *s, const struct control_msg *m)
{
	int client = hello_client(b, s, m);

	if (client < 0)
		return client;
	struct lease_client *c = &b->clients[client];
	client_expire(b, (unsigned)client, env_now_ns(b->env));
	/* The old session's data connections end before the new one learns of its leases: a late
	 * write of an earlier process cannot follow. */
	lease_token_remove(b, (unsigned)client);
	if (c->session)
		session_refuse(b, c->session, LEASE_REFUSED_SUPERSEDED, -ECONNABORTED,
			"superseded by a newer session of the same client");
	int rc = b->ops->token_add(b->ctx, (unsigned)client, c->token);
	if (rc)
		return session_refuse(b, s, LEASE_REFUSED_INTERNAL, rc,
			"the server could not make a session token");
	c->has_token = true;
	c->session = s;
	s->client = client;
	memcpy(c->name, m->hello.name, sizeof(c->name));
	c->name[sizeof(c->name) - 1] = '\0';
	client_seen(b, (unsigned)client);
	send_ack(b, (unsigned)client,
		m->hello.version_max < CONTROL_VERSION ? m->hello.version_max : CONTROL_VERSION);
	send_leases(b, (unsigned)client);
	send_stats(b, (unsigned)client);
	if (b->draining)
		send_drain(b, (unsigned)client);
	return 0;
}

static void message_request(struct lease_book *b, unsigned client, const struct control_msg *asked)
{
	struct control_msg *m = &b->msg;
	unsigned region;
	int rc = lease_region_grant(b, client, asked->lease_request.ephemeral, &region);

	memset(&m->lease_grant, 0, sizeof(m->lease_grant));
	m->type = CONTROL_LEASE_GRANT;
	m->lease_grant.request_id = asked->lease_request.request_id;
	m->lease_grant.status = rc;
	if (!rc)
		lease_region_tell(b, region, env_now_ns(b->env), &m->lease_grant.lease);
	lease_client_send(b, client, m);
}

static void message_end(
	struct lease_book *b, unsigned client, uint64_t region_id, uint64_t epoch, stat_t *count)
{
	int region = lease_region_find(b, client, region_id, epoch);

	if (region < 0) {
		/* It expired or was taken while the message was on its way. */
		lease_refuse(b, LEASE_REFUSED_STALE);
		return;
	}
	stat_add(count, 1);
	lease_region_end(b, (unsigned)region);
}

static int message_any(struct lease_book *b, struct lease_session *s, const struct control_msg *m)
{
	if (m->type == CONTROL_ERROR)
		return session_end(b, s, 0, NULL);
	if (m->type == CONTROL_HELLO && s->client < 0)
		return message_hello(b, s, m);
	if (m->type == CONTROL_HELLO)
		return session_refuse(b, s, LEASE_REFUSED_ORDER, -EPROTO, "a second HELLO");
	if (s->client < 0)
		return session_refuse(
			b, s, LEASE_REFUSED_ORDER, -EPROTO, "the first message must be HELLO");
	unsigned client = (unsigned)s->client;
	client_expire(b, client, env_now_ns(b->env));
	switch (m->type) {
	case CONTROL_LEASE_REQUEST:
		client_seen(b, client);
		message_request(b, client, m);
		return 0;
	case CONTROL_LEASE_RENEW:
		client_seen(b, client);
		lease_spare_tell(b, client, m->lease_renew.spare, m->lease_renew.count);
		send_leases(b, client);
		return 0;
	case CONTROL_LEASE_RELEASE:
		client_seen(b, client);
		message_end(b, client, m->lease_release.region_id, m->lease_release.epoch,
			&b->stats.releases);
		return 0;
	case CONTROL_REVOKE_DONE:
		client_seen(b, client);
		message_end(b, client, m->revoke_done.region_id, m->revoke_done.epoch,
			&b->stats.revoke_dones);
		return 0;
	case CONTROL_HEARTBEAT:
		client_seen(b, client);
		b->msg.type = CONTROL_HEARTBEAT;
		b->msg.heartbeat.sequence = m->heartbeat.sequence;
		lease_client_send(b, client, &b->msg);
		return 0;
	default:
		return session_refuse(b, s, LEASE_REFUSED_ORDER, -EPROTO,
			"a message that only a memory server sends");
	}
}

int lease_session_message(
	struct lease_book *b, struct lease_session *s, const struct control_msg *m)
{
	int rc = message_any(b, s, m);

	book_settle(b);
	return rc;
}

void lease_book_close_all(struct lease_book *b, int status, const char *text)
{
	for (unsigned i = 0; i < b->cfg.max_sessions; i++) {
		if (b->sessions[i].used)
			session_end(b, &b->sessions[i], status, text);
	}
}

void lease_book_target_set(struct lease_book *b, uint64_t target_bytes)
{
	if (target_bytes < b->cfg.min_bytes)
		target_bytes = b->cfg.min_bytes;
	if (target_bytes > b->cfg.max_bytes)
		target_bytes = b->cfg.max_bytes;
	b->target_bytes = target_bytes;
	lease_target_apply(b);
	book_settle(b);
}

int lease_book_tune(
	struct lease_book *b, const struct lease_config *cfg, char *err, size_t err_bytes)
{
	struct lease_config n = b->cfg;

	n.client_max_bytes = cfg->client_max_bytes;
	n.keep_regions = cfg->keep_regions;
	n.ttl_ms = cfg->ttl_ms;
	n.grace_ms = cfg->grace_ms;
	n.hello_timeout_ms = cfg->hello_timeout_ms;
	n.stats_interval_ms = cfg->stats_interval_ms;
	n.min_bytes = cfg->min_bytes;
	n.max_bytes = cfg->max_bytes;
	int rc = lease_config_check(&n, err, err_bytes);
	if (rc)
		return rc;
	if (n.max_bytes / n.region_bytes > b->nregions) {
		snprintf(err, err_bytes, "max_bytes cannot grow beyond what it was at the start");
		return -EINVAL;
	}
	b->cfg = n;
	lease_book_target_set(b, b->target_bytes);
	return 0;
}

void lease_book_drain(struct lease_book *b, uint32_t limit_ms)
{
	uint64_t until = env_now_ns(b->env) + lease_ms_ns(limit_ms);

	if (b->draining && until >= b->drain_ns)
		return;
	b->draining = true;
	b->drain_ns = until;
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (b->clients[i].used)
			send_drain(b, i);
	}
	lease_target_apply(b);
	book_settle(b);
}

bool lease_book_draining(const struct lease_book *b)
{
	return b->draining;
}

bool lease_book_idle(const struct lease_book *b)
{
	return !b->leased;
}

uint64_t lease_book_tick(struct lease_book *b)
{
	uint64_t now = env_now_ns(b->env);

	for (unsigned i = 0; i < b->cfg.max_sessions; i++) {
		struct lease_session *s = &b->sessions[i];
		if (s->used && s->client < 0 &&
			now - s->opened_ns >= lease_ms_ns(b->cfg.hello_timeout_ms))
			session_refuse(
				b, s, LEASE_REFUSED_HELLO_TIMEOUT, -ETIMEDOUT, "no HELLO in time");
	}
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		if (b->clients[i].used)
			client_expire(b, i, now);
	}
	lease_regions_tick(b, now);
	book_settle(b);
	return lease_book_next_ns(b);
}

uint64_t lease_book_next_ns(const struct lease_book *b)
{
	uint64_t next = b->wiping ? env_now_ns(b->env) : b->revoke_next_ns;
	struct control_msg now;

	for (unsigned i = 0; i < b->cfg.max_sessions; i++) {
		const struct lease_session *s = &b->sessions[i];
		uint64_t until = s->opened_ns + lease_ms_ns(b->cfg.hello_timeout_ms);
		if (s->used && s->client < 0 && until < next)
			next = until;
	}
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		const struct lease_client *c = &b->clients[i];
		if (c->used && c->regions && c->expires_ns < next)
			next = c->expires_ns;
	}
	if (stats_changed(b, &now)) {
		uint64_t due = b->stats_sent_ns + lease_ms_ns(b->cfg.stats_interval_ms);
		if (due < next)
			next = due;
	}
	return next;
}
