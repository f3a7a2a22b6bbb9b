/* What the scenarios share. */
#include "tests/fault/scenario.h"

#include "tests/fault/harness.h"

#define KEYS_EACH 2560u /* of three threads: 30 MiB of pages */

struct load *scenario_load(const struct site *s, struct load_config cfg, struct rng *r)
{
	cfg.socket = s->socket;
	if (!cfg.pool)
		cfg.pool = "fault";
	if (!cfg.threads)
		cfg.threads = SCENARIO_THREADS;
	if (!cfg.keys)
		cfg.keys = KEYS_EACH;
	cfg.seed = rng_next(r);
	struct load *l = load_new(&cfg);

	load_fill(l);
	load_start(l);
	return l;
}

void scenario_run(struct rng *r, unsigned lo_ms, unsigned hi_ms)
{
	pause_ms((unsigned)rng_range(r, lo_ms, hi_ms));
	processes_check();
}

void scenario_end(struct load *l, struct site *s, struct load_tally *tally)
{
	struct load_tally t;

	load_stop(l);
	t = load_verify(l);
	load_delete(l);
	site_end(s);
	if (tally)
		*tally = t;
}
