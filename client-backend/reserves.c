/* Hard grants: pages promised to a pool, spread over the lanes, all of them or none. */
#include "client-backend/reserves.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/config.h"
#include "lib/core/log.h"

#define AGAIN_MS   50 /* lanes that lack room are asked again this often */
#define CHUNK_BITS 8  /* engine_key_lane() keeps so many neighbours together */

enum phase { PHASE_IDLE, PHASE_ASK, PHASE_WAIT, PHASE_UNDO };

struct grant;

struct part {
	struct backend_call call;
	struct grant *grant;
	struct engine_reservation kept, want;
	uint64_t possible;
	int status;
};

struct grant {
	struct reserves *s;
	struct grant *next;
	uint32_t pool;
	bool ended; /* the pool is: forget it */
	enum phase phase;
	unsigned unanswered;
	int status; /* what the caller is told */
	uint64_t deadline_ns;
	struct event *timer;
	struct reserves_call *call;
	struct part part[FALLOWD_MAX_LANES];
};

struct reserves {
	struct event_base *base;
	struct env env;
	unsigned lanes;
	const struct reserves_ops *ops;
	void *ctx;
	struct grant *grants;
	bool stopping;
};

int reserves_new(struct event_base *base, const struct env *env, unsigned lanes,
	const struct reserves_ops *ops, void *ctx, struct reserves **out)
{
	struct reserves *s;

	if (lanes < 1 || lanes > FALLOWD_MAX_LANES)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct reserves){.base = base, .env = *env, .lanes = lanes, .ops = ops, .ctx = ctx};
	*out = s;
	return 0;
}

static void grant_delete(struct grant *g)
{
	struct grant **at = &g->s->grants;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	event_free(g->timer);
	free(g);
}

void reserves_delete(struct reserves *s)
{
	if (!s)
		return;
	while (s->grants)
		grant_delete(s->grants);
	free(s);
}

static struct grant *grant_find(const struct reserves *s, uint32_t pool)
{
	struct grant *g = s->grants;

	while (g && (g->pool != pool || g->ended))
		g = g->next;
	return g;
}

static void on_again(evutil_socket_t fd, short what, void *arg);

static struct grant *grant_get(struct reserves *s, uint32_t pool)
{
	struct grant *g = grant_find(s, pool);

	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->s = s;
	g->pool = pool;
	g->timer = event_new(s->base, -1, 0, on_again, g);
	if (!g->timer) {
		free(g);
		return NULL;
	}
	g->next = s->grants;
	s->grants = g;
	return g;
}

int reserves_adopt(
	struct reserves *s, unsigned lane, uint32_t pool, const struct engine_reservation *r)
{
	struct grant *g;

	if (lane >= s->lanes)
		return -EINVAL;
	if (!r->pages && !r->objects)
		return 0;
	g = grant_get(s, pool);
	if (!g)
		return -ENOMEM;
	g->part[lane].kept = *r;
	return 0;
}

uint64_t reserves_pages(const struct reserves *s, uint32_t pool)
{
	const struct grant *g = grant_find(s, pool);
	uint64_t pages = 0;

	for (unsigned i = 0; g && i < s->lanes; i++)
		pages += g->part[i].kept.pages;
	return pages;
}

/* ---- the answer ---- */

static double gib(uint64_t pages)
{
	return (double)pages * ENGINE_PAGE_BYTES / (1 << 30);
}

/* As many as every lane's part allows. */
static uint64_t grant_possible(const struct grant *g, unsigned *lacking)
{
	double share = 1;

	*lacking = 0;
	for (unsigned i = 0; i < g->s->lanes; i++) {
		const struct part *p = &g->part[i];
		double here = p->want.pages ? (double)p->possible / (double)p->want.pages : 1;

		*lacking += p->status == -ENOSPC;
		share = here < share ? here : share;
	}
	return (uint64_t)((double)g->call->pages * share);
}

static void call_explain(struct grant *g, int status)
{
	struct reserves_call *c = g->call;
	unsigned lacking;

	if (status == -ENOSPC) {
		c->possible_pages = grant_possible(g, &lacking);
		snprintf(c->why, sizeof(c->why),
			"%.2f GiB cannot be promised, about %.2f GiB could: in %u of %u lanes the "
			"local tier, the leased regions and the disk have no more room",
			gib(c->pages), gib(c->possible_pages), lacking, g->s->lanes);
	} else if (status == -EDQUOT) {
		snprintf(c->why, sizeof(c->why),
			"the account's quota does not allow %" PRIu64 " pages (%.2f GiB) more",
			c->pages - reserves_pages(g->s, g->pool),
			gib(c->pages - reserves_pages(g->s, g->pool)));
	} else if (status) {
		snprintf(c->why, sizeof(c->why), "%" PRIu64 " pages of pool %" PRIu32 ": %s",
			c->pages, g->pool, strerror(-status));
	}
}

static void grant_done(struct grant *g, int status)
{
	struct reserves_call *c = g->call;

	g->phase = PHASE_IDLE;
	g->call = NULL;
	if (g->ended || !reserves_pages(g->s, g->pool))
		grant_delete(g);
	c->done(c, status);
}

/* ---- asking the lanes ---- */

static void parts_answered(struct grant *g);

static void part_count(struct grant *g)
{
	if (--g->unanswered == 0)
		parts_answered(g);
}

static void on_part(struct backend_call *call, int status, uint64_t value)
{
	struct part *p = (struct part *)call;

	p->status = status;
	if (p->grant->phase == PHASE_ASK)
		p->possible = value;
	part_count(p->grant);
}

/* To all lanes, or to those whose last answer was not 0. */
static void parts_send(struct grant *g, bool all, bool keep_asking)
{
	struct reserves *s = g->s;

	g->unanswered = 1; /* ours: answers may come at once */
	for (unsigned i = 0; i < s->lanes; i++) {
		struct part *p = &g->part[i];

		if (!all && !p->status)
			continue;
		g->unanswered++;
		p->grant = g;
		p->call.done = on_part;
		s->ops->lane_reserve(s->ctx, i, g->pool,
			g->phase == PHASE_UNDO ? &p->kept : &p->want, keep_asking, &p->call);
	}
	part_count(g);
}

static void grant_undo(struct grant *g, int status)
{
	call_explain(g, status);
	g->status = status;
	g->phase = PHASE_UNDO;
	parts_send(g, true, false);
}

static int parts_status(const struct grant *g)
{
	int status = 0;

	for (unsigned i = 0; i < g->s->lanes; i++)
		if (g->part[i].status && (!status || status == -ENOSPC))
			status = g->part[i].status;
	return status;
}

static void parts_answered(struct grant *g)
{
	struct reserves *s = g->s;
	int status = parts_status(g);

	if (g->phase == PHASE_UNDO) {
		if (status && status != -ENOENT)
			log_error("reserves",
				"pool %" PRIu32 ": a lane does not take its grant back: %s",
				g->pool, strerror(-status));
		grant_done(g, g->status);
		return;
	}
	if (!status) {
		for (unsigned i = 0; i < s->lanes; i++)
			g->part[i].kept = g->part[i].want;
		grant_done(g, 0);
	} else if (s->stopping) {
		grant_undo(g, -ECANCELED);
	} else if (status != -ENOSPC || env_now_ns(&s->env) >= g->deadline_ns) {
		grant_undo(g, status);
	} else {
		g->phase = PHASE_WAIT;
		event_add(g->timer, &(struct timeval){.tv_usec = AGAIN_MS * 1000});
	}
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
	struct grant *g = arg;

	(void)fd;
	(void)what;
	g->phase = PHASE_ASK;
	parts_send(g, false, true);
}

/* How many of the object's pages each lane owns: whole chunks by the hash of their first. */
static void parts_of(struct grant *g, const uint64_t oid[3], uint64_t pages)
{
	for (unsigned i = 0; i < g->s->lanes; i++)
		g->part[i].want = (struct engine_reservation){0};
	for (uint64_t at = 0; at < pages; at += 1u << CHUNK_BITS) {
		struct engine_key k = {
			.oid = {oid[0], oid[1], oid[2]}, .pool = g->pool, .index = (uint32_t)at};
		struct part *p = &g->part[engine_key_lane(&k, g->s->lanes)];

		p->want.pages += pages - at < 1u << CHUNK_BITS ? pages - at : 1u << CHUNK_BITS;
		p->want.objects = 1;
	}
}

static void call_refuse(struct reserves_call *c, int status)
{
	snprintf(c->why, sizeof(c->why), "%" PRIu64 " pages: %s", c->pages, strerror(-status));
	c->done(c, status);
}

void reserves_set(struct reserves *s, uint32_t pool, const uint64_t oid[3], uint64_t pages,
	uint64_t limit_ns, struct reserves_call *c)
{
	struct grant *g;

	c->pages = pages;
	c->possible_pages = 0;
	c->why[0] = 0;
	if (s->stopping || pages > 1ull << 32) {
		call_refuse(c, s->stopping ? -ECANCELED : -EINVAL);
		return;
	}
	g = grant_get(s, pool);
	if (!g || g->phase != PHASE_IDLE) {
		call_refuse(c, g ? -EBUSY : -ENOMEM);
		return;
	}
	parts_of(g, oid, pages);
	g->call = c;
	g->deadline_ns = env_now_ns(&s->env) + limit_ns;
	g->phase = PHASE_ASK;
	parts_send(g, true, true);
}

void reserves_pool_ended(struct reserves *s, uint32_t pool)
{
	struct grant *g = grant_find(s, pool);

	if (!g)
		return;
	/* What is under way ends with the lanes' -ENOENT. */
	g->ended = true;
	if (g->phase == PHASE_IDLE)
		grant_delete(g);
}

void reserves_stop(struct reserves *s)
{
	struct grant *next;

	s->stopping = true;
	for (struct grant *g = s->grants; g; g = next) {
		next = g->next;
		if (g->phase != PHASE_WAIT)
			continue;
		event_del(g->timer);
		grant_undo(g, -ECANCELED);
	}
}

bool reserves_idle(const struct reserves *s)
{
	for (const struct grant *g = s->grants; g; g = g->next)
		if (g->phase != PHASE_IDLE)
			return false;
	return true;
}
