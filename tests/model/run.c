/* A run of the model test: what the seed decides, and one random operation after the other. */
#include "tests/model/run.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define US 1000ull
#define MS 1000000ull

static uint64_t run_now(void *ctx)
{
	return ((struct run *)ctx)->now_ns;
}

static uint64_t run_random(void *ctx)
{
	struct rng g = {((struct run *)ctx)->rng_engine};
	uint64_t v = rng_next(&g);

	((struct run *)ctx)->rng_engine = g.state;
	return v;
}

static void on_flip(void *ctx)
{
	ref_loss(&((struct run *)ctx)->ref);
}

static void choose_geometry(struct run *r, struct fake_config *f, struct ref_config *m)
{
	struct rng *g = &r->rng;
	bool tight = rng_below(g, 2);

	r->grants = rng_below(g, 2);
	r->hammer = r->grants && rng_below(g, 3);
	tight |= r->hammer;
	r->cache = !rng_below(g, 3);
	*m = (struct ref_config){.pools = RUN_POOLS,
		.objects = (unsigned)rng_range(g, 3, 8),
		.indices = (unsigned)rng_range(g, 24, 64)};
	*f = (struct fake_config){.donors = (unsigned)rng_range(g, 3, 5),
		.regions = tight ? 4 : 12,
		.segment_bytes = 65536,
		.region_segments = tight ? 2 : 6,
		.disk_segments = rng_below(g, 2) ? (unsigned)rng_range(g, 8, 64) : 0,
		.delay_ns = rng_range(g, 10, 400) * US};
	if (r->hammer) {
		m->objects = 8;
		m->indices = 64;
	}
	if (r->cache) {
		m->objects = 8;
		m->indices = 64;
	}
	f->max_regions = rng_below(g, 4) ? f->donors * f->regions : f->donors * 2;
	r->faults = rng_below(g, 3) > 0;
	r->wild = r->faults && !rng_below(g, 3);
	if (r->faults) {
		f->slow_ns = rng_range(g, 1, 40) * MS;
		f->slow_ppm = (uint32_t)rng_range(g, 0, 20000);
		f->fail_ppm = (uint32_t)rng_range(g, 0, 10000);
		f->refuse_ppm = (uint32_t)rng_range(g, 0, 50000);
	}
	if (r->wild)
		f->flip_ppm = 300;
	f->refuse_direct_ppm = (uint32_t)rng_range(g, 0, 100000);
	f->scribble_ppm = (uint32_t)rng_range(g, 0, 50000);
}

static void choose_engine(struct run *r, const struct fake_config *f, const struct ref_config *m)
{
	struct rng *g = &r->rng;
	uint64_t keys = (uint64_t)m->pools * m->objects * m->indices;
	struct engine_config *c = &r->cfg;

	engine_config_default(c, 16 * 65536, 2 * keys);
	c->segment_bytes = f->segment_bytes;
	/* Ephemeral pages are copied by whole segments, so there must be room for some to fill. */
	c->local_segments = (uint32_t)(r->cache ? rng_range(g, 20, 40) : rng_range(g, 8, 16));
	c->max_pages = rng_below(g, 4) ? 2 * keys : keys * 3 / 4;
	c->max_objects =
		rng_below(g, 4) ? 4 * m->pools * m->objects : m->pools * m->objects * 3 / 4;
	c->max_segments =
		c->local_segments + f->disk_segments +
		f->donors * f->regions * f->region_segments / (uint32_t)rng_range(g, 1, 2) + 16;
	c->max_regions = f->max_regions;
	c->disk_segments = f->disk_segments;
	c->sums = (uint32_t)(c->max_pages / (rng_below(g, 2) ? 1 : 16));
	c->fetches = (uint32_t)rng_range(g, 4, 32);
	c->moves = (uint32_t)rng_range(g, 2, 8);
	c->lane = 0;
	c->lanes = 1;
	c->huge_pages = c->lock_memory = false;
	c->hedge_ns = rng_below(g, 2) ? rng_range(g, 50, 2000) * US : 0;
	c->get_timeout_ns = rng_range(g, 20, 100) * MS;
	c->direct_timeout_ns = rng_range(g, 100, 10000) * US;
	c->put_wait_ns = rng_below(g, 3) ? rng_range(g, 1, 20) * MS : 0;
	c->cache_timeout_ns = rng_range(g, 1, 40) * MS;
	c->retry_ns = rng_range(g, 1, 10) * MS;
	c->spill_percent = (uint32_t)rng_range(g, 10, 50);
	c->live_percent = (uint32_t)rng_range(g, 50, 85);
	c->probation_percent = (uint32_t)rng_range(g, 5, 60);
	c->zstd_level = 1;
	/* A promise is one where a put may wait for what is slow. */
	if (r->grants)
		c->put_wait_ns = 1000 * MS;
	/* Some runs outpace the donors and are refused a lot; most leave them time. */
	r->pace_ns = rng_below(g, 4) ? 4 * f->delay_ns : f->delay_ns / 4;
}

static int choose_quotas(struct run *r)
{
	for (unsigned a = 0; a < RUN_ACCOUNTS; a++)
		atomic_store(&r->quota[a].limit_pages,
			rng_below(&r->rng, 6) ? UINT64_MAX : ref_keys(&r->ref) / 8);
	return 0;
}

int run_init(struct run *r, const struct run_options *opt)
{
	struct fake_config f;
	struct ref_config m;
	struct run_options copy = *opt; /* opt may lie in r */
	char err[256] = "";

	memset(r, 0, sizeof(*r));
	r->opt = copy;
	opt = &r->opt;
	r->rng.state = rng_mix(opt->seed + 0x1234567);
	r->rng_engine = rng_mix(opt->seed + 0x7654321);
	r->now_ns = 1000 * MS;
	r->env = (struct env){run_now, run_random, r};
	r->next_pool_id = 1;
	choose_geometry(r, &f, &m);
	choose_engine(r, &f, &m);
	if (engine_config_check(&r->cfg, err, sizeof(err)))
		return run_fail(r, "engine_config_check: %s", err);
	if (ref_init(&r->ref, &m, RUN_REQS) || fake_init(&r->fake, &f, &r->rng, &r->now_ns))
		return run_fail(r, "no memory");
	r->fake.guest = r->req;
	r->fake.guest_bytes = sizeof(r->req);
	r->fake.on_flip = on_flip;
	r->fake.ctx = r;
	choose_quotas(r);
	snprintf(r->arena, sizeof(r->arena), "%s/model-%llu-%d.arena", opt->dir,
		(unsigned long long)opt->seed, (int)getpid());
	unlink(r->arena);
	if (run_open(r))
		return -EBADMSG;
	for (unsigned p = 0; p < r->ref.cfg.pools; p++)
		if (run_pool_make(r, p))
			return -EBADMSG;
	return 0;
}

void run_fini(struct run *r)
{
	if (r->e) {
		fake_crash(&r->fake);
		engine_abandon(r->e);
	}
	if (r->fake.shared)
		fake_fini(&r->fake);
	ref_fini(&r->ref);
	unlink(r->arena);
}

static uint32_t choose_key(struct run *r)
{
	uint32_t keys = ref_keys(&r->ref), first = keys / RUN_POOLS * ENGINE_MAX_COPIES;

	/* The first pools are persistent. */
	if (r->cache && rng_below(&r->rng, 16))
		return first + (uint32_t)rng_below(&r->rng, keys - first);
	/* A third of the calls goes to a tenth of the keys. */
	return (uint32_t)(rng_below(&r->rng, 3) ? rng_below(&r->rng, keys)
						: rng_below(&r->rng, keys / 10) * 10);
}

static int neighbours(struct run *r, uint32_t k)
{
	unsigned n = (unsigned)rng_range(&r->rng, 2, 12);
	bool put = !rng_below(&r->rng, 3);

	for (; n && k < ref_keys(&r->ref); n--, k++) {
		if (!r->ref.pool[ref_key_pool(&r->ref, k)].id)
			continue;
		if (put ? run_put(r, k) : run_get(r, k))
			return -EBADMSG;
	}
	return 0;
}

int run_client_step(struct run *r)
{
	uint32_t k = choose_key(r);
	unsigned slot = ref_key_pool(&r->ref, k), dice = (unsigned)rng_below(&r->rng, 10000);
	int status;

	/* Few flushes: the store stays full. */
	if (r->hammer && dice >= 7000 && dice < 9970 && rng_below(&r->rng, 8))
		dice = 0;
	/* A child that will be killed makes and destroys no pools: its log knows pages only. */
	if (!r->ref.pool[slot].id)
		status = r->log ? 0 : run_pool_make(r, slot);
	else if (dice < 4500)
		status = run_put(r, k);
	else if (dice < 8500)
		status = run_get(r, k);
	else if (dice < 9000)
		status = neighbours(r, k);
	else if (dice < 9970)
		status = run_flush_page(r, k);
	else if (dice < 9998 || r->log)
		status = run_flush_object(r, slot, k / r->ref.cfg.indices % r->ref.cfg.objects);
	else
		status = run_pool_destroy(r, slot);
	engine_kick(r->e);
	return status;
}

int run_step(struct run *r)
{
	unsigned dice;

	if (run_client_step(r) || run_world_step(r))
		return -EBADMSG;
	dice = (unsigned)rng_below(&r->rng, 1000);
	if (dice < 950)
		run_advance(r, rng_below(&r->rng, r->pace_ns));
	else if (dice < 998)
		run_advance(r, rng_below(&r->rng, MS));
	else
		run_advance(r, rng_below(&r->rng, 30 * MS));
	return r->error[0] ? -EBADMSG : 0;
}
