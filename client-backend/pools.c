/* The registry of pools: who may open what, ids that are never used twice, what a restart finds. */
#include "client-backend/pools.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_BLOCK 256u /* ids reserved at a time */

enum pool_state { POOL_FREE, POOL_ADOPTING, POOL_ADDING, POOL_LIVE, POOL_DESTROYING };

struct pool_entry {
	enum pool_state state;
	struct engine_pool_desc desc;
	struct backend_call lanes; /* what the lanes answer */
	struct pools *pools;
	unsigned lanes_seen;	     /* adopting: how many lanes have it */
	unsigned last_lane;	     /* adopting */
	bool mismatch;		     /* adopting: lanes disagree */
	uint32_t other_id;	     /* adopting: what another lane has in this row */
	bool doomed;		     /* adding: destroy it once it is added */
	int status;		     /* destroying: what the opener is told in the end */
	struct pool_waiter *waiters; /* calls to answer when the lanes have */
};

/* A call that waits for a pool's lanes. */
struct pool_waiter {
	struct backend_call *call;
	struct pool_waiter *next;
};

struct pools {
	struct pools_config cfg;
	const struct pools_ops *ops;
	void *ctx;
	uint32_t next_id, reserved_to;
	unsigned under_way;
	struct pools_stats stats;
	struct pool_entry row[ENGINE_MAX_POOLS];
};

int pools_new(
	const struct pools_config *cfg, const struct pools_ops *ops, void *ctx, struct pools **out)
{
	if (cfg->lanes < 1 || cfg->next_id < 1 || cfg->copies < 1 ||
		cfg->copies > ENGINE_MAX_COPIES || cfg->max_pools_per_owner < 1 ||
		cfg->max_pools_per_owner > ENGINE_MAX_POOLS)
		return -EINVAL;
	struct pools *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->cfg = *cfg;
	p->ops = ops;
	p->ctx = ctx;
	p->next_id = p->reserved_to = cfg->next_id;
	*out = p;
	return 0;
}

void pools_delete(struct pools *p)
{
	if (!p)
		return;
	assert(p->under_way == 0);
	free(p);
}

bool pools_idle(const struct pools *p)
{
	return p->under_way == 0;
}

const struct pools_stats *pools_stats(const struct pools *p)
{
	return &p->stats;
}

unsigned pools_max_per_owner(const struct pools *p)
{
	return p->cfg.max_pools_per_owner;
}

static bool bytes_zero(const uint8_t *b, size_t n)
{
	uint8_t any = 0;
	for (size_t i = 0; i < n; i++)
		any |= b[i];
	return any == 0;
}

/* Takes the same time wherever the first difference is. */
static bool secret_equal(const uint8_t a[16], const uint8_t b[16])
{
	const volatile uint8_t *va = a, *vb = b;
	uint8_t diff = 0;
	for (unsigned i = 0; i < 16; i++)
		diff |= va[i] ^ vb[i];
	return diff == 0;
}

static bool is_anonymous(const struct engine_pool_desc *d)
{
	return !(d->flags & ENGINE_POOL_SHARED) && !d->name[0];
}

static struct pool_entry *entry_find(struct pools *p, uint32_t id)
{
	struct pool_entry *e = &p->row[id % ENGINE_MAX_POOLS];
	return id && e->state == POOL_LIVE && e->desc.id == id ? e : NULL;
}

const struct engine_pool_desc *pools_find(const struct pools *p, uint32_t id)
{
	struct pool_entry *e = entry_find((struct pools *)p, id);
	return e ? &e->desc : NULL;
}

const struct engine_pool_desc *pools_next(const struct pools *p, uint32_t *cursor)
{
	while (*cursor < ENGINE_MAX_POOLS) {
		const struct pool_entry *e = &p->row[(*cursor)++];
		if (e->state == POOL_LIVE)
			return &e->desc;
	}
	return NULL;
}

static void gauge_update(struct pools *p)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++)
		n += p->row[i].state == POOL_LIVE;
	stat_set(&p->stats.pools, n);
}

static int waiter_add(struct pool_entry *e, struct backend_call *call)
{
	struct pool_waiter *w = malloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->call = call;
	w->next = e->waiters;
	e->waiters = w;
	return 0;
}

/* Answers everyone who waits for the pool; they may ask for more, also about this row. */
static void waiters_answer(struct pool_entry *e, int status, uint64_t value)
{
	struct pool_waiter *w = e->waiters;
	e->waiters = NULL;
	while (w) {
		struct pool_waiter *next = w->next;
		struct backend_call *call = w->call;
		free(w);
		call->done(call, status, value);
		w = next;
	}
}

static struct pool_entry *entry_of_call(struct backend_call *call)
{
	return (struct pool_entry *)((char *)call - offsetof(struct pool_entry, lanes));
}

static void entry_destroy(struct pools *p, struct pool_entry *e, int status);

static void entry_destroyed(struct backend_call *call, int status, uint64_t value)
{
	struct pool_entry *e = entry_of_call(call);
	struct pools *p = e->pools;
	/* A lane that cannot destroy a pool keeps it; the row stays taken, so that its id is not
	 * used. */
	if (status == 0 || status == -ENOENT) {
		e->state = POOL_FREE;
		status = 0;
	}
	p->under_way--;
	if (e->other_id) {
		e->desc.id = e->other_id;
		e->other_id = 0;
		entry_destroy(p, e, 0);
		return;
	}
	waiters_answer(e, e->status ? e->status : status, 0);
}

/* status: what those who wait are told instead of 0. */
static void entry_destroy(struct pools *p, struct pool_entry *e, int status)
{
	e->state = POOL_DESTROYING;
	e->status = status;
	e->pools = p;
	e->lanes.done = entry_destroyed;
	p->under_way++;
	gauge_update(p);
	p->ops->lanes_destroy(p->ctx, e->desc.id, &e->lanes);
}

static void entry_added(struct backend_call *call, int status, uint64_t value)
{
	struct pool_entry *e = entry_of_call(call);
	struct pools *p = e->pools;
	p->under_way--;
	if (status == 0 && !e->doomed) {
		e->state = POOL_LIVE;
		gauge_update(p);
		stat_add(&p->stats.opened, 1);
		waiters_answer(e, 0, e->desc.id);
		return;
	}
	entry_destroy(p, e, status ? status : -ENOENT);
}

/* Adoption */

int pools_adopt(struct pools *p, unsigned lane, const struct engine_pool_desc *d)
{
	struct pool_entry *e = &p->row[d->id % ENGINE_MAX_POOLS];
	if (!d->id || lane >= p->cfg.lanes)
		return -EINVAL;
	/* Ids handed out by an earlier run whose note of next_id was lost. */
	if (d->id >= p->next_id)
		p->next_id = p->reserved_to = d->id + 1;
	if (e->state == POOL_FREE) {
		e->state = POOL_ADOPTING;
		e->desc = *d;
		e->lanes_seen = 1;
		e->last_lane = lane;
		return 0;
	}
	if (memcmp(&e->desc, d, sizeof(*d)) != 0) {
		e->mismatch = true;
		if (d->id != e->desc.id)
			e->other_id = d->id;
		return 0;
	}
	if (e->last_lane != lane)
		e->lanes_seen++;
	e->last_lane = lane;
	return 0;
}

void pools_adopted(struct pools *p)
{
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		struct pool_entry *e = &p->row[i];
		if (e->state != POOL_ADOPTING)
			continue;
		if (e->lanes_seen == p->cfg.lanes && !e->mismatch) {
			e->state = POOL_LIVE;
			continue;
		}
		stat_add(&p->stats.incomplete, 1);
		entry_destroy(p, e, 0);
	}
	gauge_update(p);
}

/* Opening */

static int id_next(struct pools *p, uint32_t *id)
{
	for (unsigned tries = 0; tries < ENGINE_MAX_POOLS; tries++) {
		if (p->next_id > UINT32_MAX - ID_BLOCK)
			return -ENOSPC;
		if (p->next_id >= p->reserved_to) {
			int err = p->ops->reserve_ids(p->ctx, p->next_id + ID_BLOCK);
			if (err)
				return err;
			p->reserved_to = p->next_id + ID_BLOCK;
		}
		*id = p->next_id++;
		if (p->row[*id % ENGINE_MAX_POOLS].state == POOL_FREE)
			return 0;
	}
	return -ENOSPC;
}

/* The choices of a request in the engine's words; -EINVAL out of range. */
static int request_choices(
	const struct pools *p, const struct pools_request *r, struct engine_pool_desc *d)
{
	static const uint8_t codec[] = {0, ENGINE_CODEC_NONE, ENGINE_CODEC_LZ4, ENGINE_CODEC_ZSTD};
	static const uint8_t disk[] = {
		0, ENGINE_DISK_NEVER, ENGINE_DISK_OVERFLOW, ENGINE_DISK_MIRROR};
	if (r->codec > POOLS_CODEC_ZSTD || r->copies > ENGINE_MAX_COPIES ||
		r->disk > POOLS_DISK_MIRROR)
		return -EINVAL;
	d->codec = r->codec ? codec[r->codec] : p->cfg.codec;
	d->copies = r->copies ? r->copies : p->cfg.copies;
	d->disk = r->disk ? disk[r->disk] : p->cfg.disk;
	if (d->disk != ENGINE_DISK_NEVER && !p->cfg.have_disk) {
		if (r->disk)
			return -ENODEV;
		d->disk = ENGINE_DISK_NEVER;
	}
	return 0;
}

static int request_check(const struct pools_request *r)
{
	bool shared = r->flags & ENGINE_POOL_SHARED;
	if (r->flags & ~(uint32_t)(ENGINE_POOL_PERSISTENT | ENGINE_POOL_SHARED))
		return -EINVAL;
	if (r->spill && (r->flags & ENGINE_POOL_PERSISTENT))
		return -EINVAL;
	if (strnlen(r->name, ENGINE_NAME_BYTES) == ENGINE_NAME_BYTES ||
		strnlen(r->owner, ENGINE_NAME_BYTES) == ENGINE_NAME_BYTES || !r->owner[0])
		return -EINVAL;
	if (shared == bytes_zero(r->uuid, 16))
		return -EINVAL; /* a shared pool has a uuid, a private one has none */
	return 0;
}

static uint32_t request_flags(const struct pools_request *r)
{
	return r->flags | (r->spill ? ENGINE_POOL_SPILL : 0);
}

static bool entry_matches(const struct pool_entry *e, const struct pools_request *r)
{
	const struct engine_pool_desc *d = &e->desc;
	if (e->state != POOL_LIVE && e->state != POOL_ADDING)
		return false;
	if (r->flags & ENGINE_POOL_SHARED)
		return (d->flags & ENGINE_POOL_SHARED) && memcmp(d->uuid, r->uuid, 16) == 0;
	if ((d->flags & ENGINE_POOL_SHARED) || strcmp(d->owner, r->owner) != 0)
		return false;
	if (r->name[0])
		return strcmp(d->name, r->name) == 0;
	return r->id && d->id == r->id && is_anonymous(d) &&
	       memcmp(d->session, r->session, 16) == 0;
}

static struct pool_entry *entry_lookup(struct pools *p, const struct pools_request *r)
{
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++)
		if (entry_matches(&p->row[i], r))
			return &p->row[i];
	return NULL;
}

static unsigned owner_pools(const struct pools *p, const char *owner)
{
	unsigned n = 0;
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		const struct pool_entry *e = &p->row[i];
		n += e->state != POOL_FREE && strcmp(e->desc.owner, owner) == 0;
	}
	return n;
}

/* What the surroundings allow this account. */
static int account_rights(const struct pools *p, const struct pools_request *r, unsigned *max_pools)
{
	*max_pools = p->cfg.max_pools_per_owner;
	return p->cfg.rights ? p->cfg.rights(p->ctx, r->account, r->flags, max_pools) : 0;
}

/* A pool that exists: may this client have it, and is it what was asked for? */
static void pool_join(struct pools *p, struct pool_entry *e, const struct pools_request *r,
	const struct engine_pool_desc *want, struct backend_call *call)
{
	const struct engine_pool_desc *d = &e->desc;
	bool shared = r->flags & ENGINE_POOL_SHARED;
	if (shared && !secret_equal(d->secret, r->secret)) {
		stat_add(&p->stats.refused_secret, 1);
		call->done(call, -EACCES, 0);
		return;
	}
	if (d->flags != request_flags(r) || (r->codec && d->codec != want->codec) ||
		(r->copies && d->copies != want->copies) || (r->disk && d->disk != want->disk)) {
		stat_add(&p->stats.refused_conflict, 1);
		call->done(call, -EEXIST, 0);
		return;
	}
	stat_add(shared ? &p->stats.joined : &p->stats.reopened, 1);
	if (e->state == POOL_LIVE) {
		call->done(call, 0, d->id);
		return;
	}
	int err = waiter_add(e, call);
	if (err)
		call->done(call, err, 0);
}

static void pool_create(struct pools *p, const struct pools_request *r, struct engine_pool_desc *d,
	struct backend_call *call)
{
	unsigned max_pools;
	int err = account_rights(p, r, &max_pools);
	if (!err)
		err = owner_pools(p, r->owner) < max_pools ? id_next(p, &d->id) : -EDQUOT;
	if (err) {
		stat_add(&p->stats.refused_limit, 1);
		call->done(call, err, 0);
		return;
	}
	d->flags = request_flags(r);
	d->account = (uint16_t)r->account;
	if (r->flags & ENGINE_POOL_SHARED) {
		memcpy(d->uuid, r->uuid, 16);
		memcpy(d->secret, r->secret, 16);
	}
	strcpy(d->name, r->name);
	strcpy(d->owner, r->owner);
	if (is_anonymous(d))
		memcpy(d->session, r->session, 16);

	struct pool_entry *e = &p->row[d->id % ENGINE_MAX_POOLS];
	memset(e, 0, sizeof(*e));
	e->desc = *d;
	e->pools = p;
	e->lanes.done = entry_added;
	err = waiter_add(e, call);
	if (err) {
		call->done(call, err, 0);
		return;
	}
	e->state = POOL_ADDING;
	p->under_way++;
	p->ops->lanes_add(p->ctx, &e->desc, &e->lanes);
}

void pools_open(struct pools *p, const struct pools_request *r, struct backend_call *call)
{
	struct engine_pool_desc d;
	unsigned max_pools;
	memset(&d, 0, sizeof(d)); /* padding too: it is compared and kept */
	int err = account_rights(p, r, &max_pools);
	if (err) {
		stat_add(&p->stats.refused_rights, 1);
		call->done(call, err, 0);
		return;
	}
	err = request_check(r);
	if (!err)
		err = request_choices(p, r, &d);
	if (err) {
		stat_add(&p->stats.refused_invalid, 1);
		call->done(call, err, 0);
		return;
	}
	struct pool_entry *e = entry_lookup(p, r);
	if (e)
		pool_join(p, e, r, &d, call);
	else
		pool_create(p, r, &d, call);
}

/* Ending */

void pools_destroy(struct pools *p, const char *owner, const uint8_t session[16], uint32_t id,
	struct backend_call *call)
{
	struct pool_entry *e = entry_find(p, id);
	int err = 0;
	if (!e)
		err = -ENOENT;
	else if (strcmp(e->desc.owner, owner) != 0 ||
		 (is_anonymous(&e->desc) && memcmp(e->desc.session, session, 16) != 0))
		err = -EPERM;
	if (err == -EPERM)
		stat_add(&p->stats.refused_owner, 1);
	if (!err)
		err = waiter_add(e, call);
	if (err) {
		call->done(call, err, 0);
		return;
	}
	stat_add(&p->stats.destroyed, 1);
	entry_destroy(p, e, 0);
}

void pools_pages(struct pools *p, uint32_t id, struct backend_call *call)
{
	if (!entry_find(p, id)) {
		call->done(call, -ENOENT, 0);
		return;
	}
	p->ops->lanes_pages(p->ctx, id, call);
}

void pools_session_end(struct pools *p, const uint8_t session[16])
{
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		struct pool_entry *e = &p->row[i];
		if (e->state == POOL_FREE || !is_anonymous(&e->desc) ||
			memcmp(e->desc.session, session, 16) != 0)
			continue;
		if (e->state == POOL_ADDING)
			e->doomed = true;
		if (e->state != POOL_LIVE)
			continue;
		stat_add(&p->stats.destroyed, 1);
		entry_destroy(p, e, 0);
	}
}
