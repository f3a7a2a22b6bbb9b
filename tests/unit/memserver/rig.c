/* A lease book in a world of its own: virtual time, real bytes in its regions, peers that keep what
 * they get. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/memserver/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rig_now(void *ctx)
{
	return ((struct rig *)ctx)->now_ns;
}

static uint64_t rig_random(void *ctx)
{
	struct rig *r = ctx;

	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return r->random;
}

static int op_alloc(void *ctx, unsigned region)
{
	struct rig *r = ctx;

	assert_true(region < RIG_REGIONS);
	assert_null(r->memory[region]);
	if (r->fail_alloc)
		return -ENOMEM;
	r->memory[region] = calloc(1, RIG_REGION_BYTES);
	r->allocs++;
	return 0;
}

static void op_free(void *ctx, unsigned region)
{
	struct rig *r = ctx;

	assert_non_null(r->memory[region]);
	assert_int_equal(r->exported[region], -1);
	free(r->memory[region]);
	r->memory[region] = NULL;
	r->frees++;
}

static void op_wipe(void *ctx, unsigned region)
{
	struct rig *r = ctx;

	assert_non_null(r->memory[region]);
	assert_int_equal(r->exported[region], -1);
	memset(r->memory[region], 0, RIG_REGION_BYTES);
	r->wipes++;
}

static int op_export(void *ctx, unsigned region, unsigned client, struct lease_keys *keys)
{
	struct rig *r = ctx;

	/* The rule: nobody is ever given memory that holds anything. */
	assert_non_null(r->memory[region]);
	assert_int_equal(r->exported[region], -1);
	assert_true(r->known[client]);
	for (unsigned i = 0; i < RIG_REGION_BYTES; i++)
		assert_int_equal(r->memory[region][i], 0);
	if (r->fail_export)
		return -ENOMEM;
	r->exported[region] = (int)client;
	/* What the client would write, at once. */
	memset(r->memory[region], 0x80 | (int)client, RIG_REGION_BYTES);
	*keys = (struct lease_keys){.tcp_key = ++r->next_key};
	return 0;
}

static void op_unexport(void *ctx, unsigned region, unsigned client)
{
	struct rig *r = ctx;

	assert_int_equal(r->exported[region], (int)client);
	r->exported[region] = -1;
}

static int op_client_add(void *ctx, unsigned client, const uint8_t identity[16])
{
	struct rig *r = ctx;

	assert_false(r->known[client]);
	if (r->forbid)
		return -EPERM;
	r->known[client] = true;
	return 0;
}

static void op_client_remove(void *ctx, unsigned client)
{
	struct rig *r = ctx;

	assert_true(r->known[client]);
	assert_int_equal(r->tokens[client], 0);
	r->known[client] = false;
}

static int op_token_add(void *ctx, unsigned client, uint64_t token[2])
{
	struct rig *r = ctx;

	assert_true(r->known[client]);
	assert_int_equal(r->tokens[client], 0);
	if (r->fail_token)
		return -ENOMEM;
	token[0] = token[1] = r->tokens[client] = ++r->next_token;
	return 0;
}

static void op_token_remove(void *ctx, unsigned client, const uint64_t token[2])
{
	struct rig *r = ctx;

	assert_true(token[0] && r->tokens[client] == token[0]);
	r->tokens[client] = 0;
}

static void got_leases(struct rig_peer *p, const struct control_msg *m)
{
	assert_true(p->leases_partial + m->leases.count <= RIG_REGIONS);
	for (unsigned i = 0; i < m->leases.count; i++)
		p->lease[p->leases_partial++] = m->leases.lease[i];
	if (m->leases.more)
		return;
	p->leases = p->leases_partial;
	p->leases_partial = 0;
}

static void got_fill(struct rig_msg *g, const struct control_msg *m)
{
	switch (m->type) {
	case CONTROL_LEASE_GRANT:
		g->number = m->lease_grant.request_id;
		g->status = m->lease_grant.status;
		g->lease = m->lease_grant.lease;
		break;
	case CONTROL_REVOKE:
		g->region_id = m->revoke.region_id;
		g->epoch = m->revoke.epoch;
		g->number = m->revoke.deadline_ms;
		break;
	case CONTROL_HEARTBEAT:
		g->number = m->heartbeat.sequence;
		break;
	case CONTROL_STATS:
		g->number = m->stats.total_bytes;
		g->leased_bytes = m->stats.leased_bytes;
		g->free_bytes = m->stats.free_bytes;
		g->spare_bytes = m->stats.spare_bytes;
		break;
	case CONTROL_DRAIN:
		g->number = m->drain.deadline_ms;
		break;
	default:
		break;
	}
}

static void op_send(void *ctx, void *peer, const struct control_msg *m)
{
	struct rig_peer *p = peer;
	struct rig *r = ctx;

	assert_true(p->open);
	if (m->type == CONTROL_HELLO_ACK)
		p->ack = *m;
	if (m->type == CONTROL_LEASES)
		got_leases(p, m);
	if (p->count == RIG_KEPT)
		p->count = 0;
	struct rig_msg *g = &p->got[p->count++];
	memset(g, 0, sizeof(*g));
	g->type = m->type;
	if (m->type == CONTROL_LEASE_GRANT && !m->lease_grant.status) {
		const struct control_lease *l = &m->lease_grant.lease;
		/* A lease's name is never used again. */
		assert_true(l->region_id < RIG_REGIONS && l->epoch > r->epochs[l->region_id]);
		r->epochs[l->region_id] = l->epoch;
	}
	got_fill(g, m);
}

static void op_close(void *ctx, void *peer, int status, const char *text)
{
	struct rig_peer *p = peer;

	assert_true(p->open);
	p->open = false;
	p->closed_by_book = true;
	p->status = status;
	p->session = NULL;
	snprintf(p->text, sizeof(p->text), "%s", text ? text : "");
}

static const struct lease_ops ops = {
	.region_alloc = op_alloc,
	.region_free = op_free,
	.region_wipe = op_wipe,
	.region_export = op_export,
	.region_unexport = op_unexport,
	.client_add = op_client_add,
	.client_remove = op_client_remove,
	.token_add = op_token_add,
	.token_remove = op_token_remove,
	.send = op_send,
	.close = op_close,
};

struct lease_config rig_config(void)
{
	return (struct lease_config){
		.name = "donor",
		.failure_domain = "rack",
		.tcp_port = 1,
		.region_bytes = RIG_REGION_BYTES,
		.min_bytes = 0,
		.max_bytes = RIG_REGIONS * RIG_REGION_BYTES,
		.max_clients = RIG_CLIENTS,
		.max_sessions = RIG_SESSIONS,
		.ttl_ms = 1000,
		.grace_ms = 300,
		.hello_timeout_ms = 200,
		.stats_interval_ms = 0,
	};
}

void rig_open(struct rig *r, const struct lease_config *cfg, uint64_t seed)
{
	memset(r, 0, sizeof(*r));
	r->now_ns = 1000000000ull;
	r->random = seed * 0x9e3779b97f4a7c15ull | 1;
	r->env = (struct env){rig_now, rig_random, r};
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		r->exported[i] = -1;
	assert_int_equal(lease_book_new(cfg, 77, &r->env, &ops, r, &r->book), 0);
	lease_book_target_set(r->book, cfg->max_bytes);
}

void rig_close(struct rig *r)
{
	rig_check(r);
	lease_book_delete(r->book);
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		assert_null(r->memory[i]);
	for (unsigned i = 0; i < RIG_CLIENTS; i++)
		assert_true(!r->known[i] && !r->tokens[i]);
}

void rig_sleep(struct rig *r, uint64_t ms)
{
	uint64_t until = r->now_ns + ms * 1000000;
	uint64_t next = lease_book_next_ns(r->book);

	for (unsigned i = 0; next <= until; i++) {
		assert_true(i < 100000); /* it must not ask for ticks for ever */
		if (next > r->now_ns)
			r->now_ns = next;
		next = lease_book_tick(r->book);
	}
	r->now_ns = until;
}

int rig_connect(struct rig *r, unsigned peer)
{
	struct rig_peer *p = &r->peers[peer];

	assert_false(p->open);
	memset(p, 0, sizeof(*p));
	int rc = lease_session_open(r->book, p, &p->session);
	p->open = !rc;
	return rc;
}

void rig_disconnect(struct rig *r, unsigned peer)
{
	struct rig_peer *p = &r->peers[peer];

	assert_true(p->open);
	p->open = false;
	lease_session_closed(r->book, p->session);
	p->session = NULL;
}

int rig_send(struct rig *r, unsigned peer, const struct control_msg *m)
{
	struct rig_peer *p = &r->peers[peer];

	assert_true(p->open);
	int rc = lease_session_message(r->book, p->session, m);
	assert_int_equal(rc == 0, p->open);
	return rc;
}

int rig_hello(struct rig *r, unsigned peer, uint8_t identity, uint8_t secret)
{
	struct control_msg m = {.type = CONTROL_HELLO};

	int rc = rig_connect(r, peer);
	if (rc)
		return rc;
	m.hello.version_min = m.hello.version_max = CONTROL_VERSION;
	memset(m.hello.identity, identity, 16);
	memset(m.hello.secret, secret, 16);
	snprintf(m.hello.name, sizeof(m.hello.name), "client-%u", identity);
	return rig_send(r, peer, &m);
}

static int lease_ask(struct rig *r, unsigned peer, bool ephemeral, struct control_lease *lease)
{
	static uint64_t request;
	struct control_msg m = {.type = CONTROL_LEASE_REQUEST};

	m.lease_request.request_id = ++request;
	m.lease_request.ephemeral = ephemeral;
	assert_int_equal(rig_send(r, peer, &m), 0);
	const struct rig_msg *g = rig_last(r, peer, CONTROL_LEASE_GRANT);
	assert_true(g->number == request);
	if (lease)
		*lease = g->lease;
	return g->status;
}

int rig_lease(struct rig *r, unsigned peer, struct control_lease *lease)
{
	return lease_ask(r, peer, false, lease);
}

int rig_lease_ephemeral(struct rig *r, unsigned peer, struct control_lease *lease)
{
	return lease_ask(r, peer, true, lease);
}

int rig_end(struct rig *r, unsigned peer, enum control_msg_type type, uint64_t region_id,
	uint64_t epoch)
{
	struct control_msg m = {.type = type};

	m.lease_release.region_id = m.revoke_done.region_id = region_id;
	m.lease_release.epoch = m.revoke_done.epoch = epoch;
	return rig_send(r, peer, &m);
}

int rig_beat(struct rig *r, unsigned peer)
{
	struct control_msg m = {.type = CONTROL_HEARTBEAT};

	return rig_send(r, peer, &m);
}

void rig_renew(struct rig *r, unsigned peer)
{
	rig_renew_spare(r, peer, NULL, 0);
}

void rig_renew_spare(struct rig *r, unsigned peer, const uint64_t *region, unsigned count)
{
	struct control_msg m = {.type = CONTROL_LEASE_RENEW, .lease_renew = {.count = count}};

	for (unsigned i = 0; i < count; i++)
		m.lease_renew.spare[i] = region[i];
	assert_int_equal(rig_send(r, peer, &m), 0);
}

unsigned rig_count(const struct rig *r, unsigned peer, enum control_msg_type type, unsigned from)
{
	unsigned n = 0;

	for (unsigned i = from; i < r->peers[peer].count; i++)
		n += r->peers[peer].got[i].type == type;
	return n;
}

const struct rig_msg *rig_last(const struct rig *r, unsigned peer, enum control_msg_type type)
{
	for (unsigned i = r->peers[peer].count; i-- > 0;) {
		if (r->peers[peer].got[i].type == type)
			return &r->peers[peer].got[i];
	}
	fail_msg("peer %u got no message of type %d", peer, type);
	return NULL;
}

void rig_check(const struct rig *r)
{
	unsigned leased = 0;
	char err[128];

	if (lease_book_check(r->book, err, sizeof(err)))
		fail_msg("%s", err);
	for (unsigned i = 0; i < RIG_REGIONS; i++) {
		struct lease_region_info info;
		lease_book_region_info(r->book, i, &info);
		bool used =
			info.state == LEASE_REGION_LEASED || info.state == LEASE_REGION_REVOKING;
		assert_int_equal(used, r->exported[i] >= 0);
		assert_int_equal(info.has_memory, r->memory[i] != NULL);
		if (used)
			assert_int_equal(info.client, r->exported[i]);
		leased += used;
	}
	assert_int_equal(
		stat_get(&lease_book_stats(r->book)->leased_bytes), leased * RIG_REGION_BYTES);
}
