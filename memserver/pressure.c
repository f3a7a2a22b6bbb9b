/* How much memory the machine can spare: a pure policy over MemAvailable and PSI. */
#include "memserver/pressure.h"

#include <string.h>

#define SECOND_NS 1000000000ull

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

void pressure_config_default(struct pressure_config *cfg, uint64_t min_bytes, uint64_t max_bytes,
	uint64_t floor_bytes, uint64_t region_bytes)
{
	*cfg = (struct pressure_config){
		.min_bytes = min_bytes,
		.max_bytes = max_bytes,
		.floor_bytes = floor_bytes,
		.hysteresis_bytes = max_u64(region_bytes, max_bytes / 64),
		.grow_bytes_per_s = max_u64(region_bytes, max_bytes / 64),
		.shrink_bytes = max_u64(region_bytes, max_bytes / 32),
		.shrink_interval_ns = 2 * SECOND_NS,
		.calm_ns = 10 * SECOND_NS,
		.psi_some_percent = 20,
		.psi_full_percent = 5,
	};
}

void pressure_init(struct pressure *p, const struct pressure_config *cfg)
{
	memset(p, 0, sizeof(*p));
	p->cfg = *cfg;
	p->target_bytes = cfg->min_bytes;
}

void pressure_tune(struct pressure *p, const struct pressure_config *cfg)
{
	p->cfg = *cfg;
}

static bool psi_pressed(const struct pressure_config *cfg, const struct pressure_sample *s)
{
	if (!s->has_psi)
		return false;
	return (cfg->psi_some_percent && s->some_avg10 > cfg->psi_some_percent) ||
	       (cfg->psi_full_percent && s->full_avg10 > cfg->psi_full_percent);
}

/* What could be given so that the floor stays available. */
static uint64_t ideal_bytes(const struct pressure_config *cfg, const struct pressure_sample *s)
{
	uint64_t all = s->held_bytes + s->available_bytes;
	uint64_t spare = all > cfg->floor_bytes ? all - cfg->floor_bytes : 0;

	return max_u64(cfg->min_bytes, min_u64(spare, cfg->max_bytes));
}

/* The target after some time of growing towards the ideal. */
static uint64_t grown_bytes(
	const struct pressure *p, const struct pressure_sample *s, uint64_t ideal)
{
	const struct pressure_config *cfg = &p->cfg;
	uint64_t past_ms = (s->now_ns - p->last_ns) / 1000000;
	bool calm = !p->pressed_ns || s->now_ns - p->pressed_ns >= cfg->calm_ns;

	/* The last bit up to the maximum is not worth waiting for more. */
	if (!calm || (ideal - p->target_bytes < cfg->hysteresis_bytes && ideal != cfg->max_bytes))
		return p->target_bytes;
	return min_u64(
		ideal, p->target_bytes + cfg->grow_bytes_per_s / 1000 * min_u64(past_ms, 60000));
}

/* The target under PSI pressure: below what is held, one step at a time. */
static uint64_t pressed_bytes(struct pressure *p, const struct pressure_sample *s)
{
	const struct pressure_config *cfg = &p->cfg;
	uint64_t from = min_u64(p->target_bytes, max_u64(s->held_bytes, cfg->min_bytes));

	if (p->shrunk_ns && s->now_ns - p->shrunk_ns < cfg->shrink_interval_ns)
		return p->target_bytes;
	p->shrunk_ns = s->now_ns;
	return from > cfg->min_bytes + cfg->shrink_bytes ? from - cfg->shrink_bytes
							 : cfg->min_bytes;
}

uint64_t pressure_update(struct pressure *p, const struct pressure_sample *s)
{
	uint64_t ideal = ideal_bytes(&p->cfg, s);
	bool first = !p->last_ns;

	p->pressed = psi_pressed(&p->cfg, s);
	if (p->pressed)
		p->pressed_ns = s->now_ns;
	if (p->pressed && !first)
		p->target_bytes = min_u64(ideal, pressed_bytes(p, s));
	else if (first || ideal < p->target_bytes)
		p->target_bytes = ideal;
	else
		p->target_bytes = grown_bytes(p, s, ideal);
	p->last_ns = s->now_ns;
	return p->target_bytes;
}
