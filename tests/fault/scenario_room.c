/* Room that is short: full donors, donors that need their memory, and everything at once. */
#include "tests/fault/harness.h"
#include "tests/fault/scenario.h"

/* Full donors: puts are refused, nothing is lost, gets go on. */
void scenario_cluster_full(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_counts full, c;
	struct load_tally t;
	struct site s;

	cfg.donors = 2;
	cfg.copies = 1 + (unsigned)rng_below(r, 2);
	cfg.donor_mib = 4 * cfg.copies;
	cfg.put_wait_ms = 200;
	site_start(&s, &cfg);
	struct load *l =
		scenario_load(&s, (struct load_config){.may_refuse = true, .keys = 3000}, r);
	WAIT_FOR(HARNESS_LIMIT_MS, (load_counts(l, &full), full.refused > 0), "a refused put");
	load_window(l);
	scenario_run(r, 1000, 2500);
	load_counts(l, &full);
	load_stop(l);
	t = load_verify(l);
	load_counts(l, &c);
	say("full at %u copies: %llu of %llu puts refused, all %llu pages are there, longest get "
	    "%.1f ms",
		cfg.copies, (unsigned long long)c.refused, (unsigned long long)c.puts,
		(unsigned long long)t.pages, (double)full.get_ns.max_ns / 1e6);
	uint64_t begin = now_ms();
	load_flush(l, 70);
	load_put_streak(l, 200, HARNESS_LIMIT_MS);
	say("%llu ms after the flush of 70 %% puts are taken again",
		(unsigned long long)(now_ms() - begin));
	load_verify(l);
	load_start(l);
	scenario_end(l, &s, NULL);
}

/* A donor under pressure and a backend that moves its data away in time, at one copy. */
void scenario_donor_pressed(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_tally t;
	struct site s;

	cfg.copies = 1;
	cfg.grace_ms = 20000; /* time never decides: the backend is to need far less */
	cfg.donor_min_mib = (unsigned)rng_below(r, 3);
	site_start(&s, &cfg);
	struct load *l = scenario_load(&s, (struct load_config){.may_refuse = true}, r);
	unsigned first = (unsigned)rng_below(r, 3);
	int64_t min = (int64_t)cfg.donor_min_mib << 20;

	for (unsigned i = 0; i < 2; i++) {
		unsigned victim = (first + i) % 3;

		scenario_run(r, 100, 800);
		int64_t leased = site_donor_memory(&s, victim, "leased_bytes");
		uint64_t begin = now_ms();
		site_donor_pressure(&s, victim, true);
		WAIT_FOR(HARNESS_LIMIT_MS, site_donor_memory(&s, victim, "leased_bytes") <= min,
			"the donor's memory to be back");
		double forced = site_donor_metric(
			&s, victim, "fallow_memserver_leases_ended_total{how=\"forced\"}");
		say("%lld MiB of d%u given back in %llu ms, %.0f regions by force",
			(long long)(leased - min) >> 20, victim,
			(unsigned long long)(now_ms() - begin), forced);
		if (forced > 0)
			fail("regions had to be taken by force");
		site_donor_pressure(&s, victim, false);
		/* It gives little by little; the next one needs a place for its data. */
	}
	scenario_run(r, 100, 500);
	load_stop(l);
	t = load_verify(l);
	say("all %llu pages are there", (unsigned long long)t.pages);
	load_start(l);
	scenario_end(l, &s, NULL);
}

static void donor_fault(struct site *s, struct rng *r, unsigned victim)
{
	switch (rng_below(r, 3)) {
	case 0:
		site_donor_kill(s, victim);
		scenario_run(r, 0, 2500);
		site_donor_start(s, victim);
		break;
	case 1:
		site_donor_stop(s, victim);
		scenario_run(r, 50, 2500);
		site_donor_continue(s, victim);
		break;
	default:
		site_donor_pressure(s, victim, true);
		scenario_run(r, 100, 1500);
		site_donor_pressure(s, victim, false);
	}
}

static void backend_fault(struct site *s, struct load *l, struct rng *r)
{
	site_backend_kill(s);
	load_kill_told(l);
	pause_ms((unsigned)rng_below(r, 300));
	site_backend_start(s);
}

/* Everything at once at two copies of four donors: one donor in trouble at a time, and the backend
 * killed in between, also while the copies are being repaired. */
void scenario_mixed(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_counts c;
	struct load_tally t;
	struct site s;

	cfg.donors = 4;
	cfg.donor_min_mib = rng_below(r, 2) ? 16 : 0; /* enough for all; or puts are refused */
	site_start(&s, &cfg);
	struct load *l =
		scenario_load(&s, (struct load_config){.may_refuse = true, .may_break = true}, r);
	for (unsigned i = 0; i < 4; i++) {
		scenario_run(r, 50, 500);
		if (rng_below(r, 3) == 0)
			backend_fault(&s, l, r);
		donor_fault(&s, r, (unsigned)rng_below(r, 4));
		if (rng_below(r, 3) == 0)
			backend_fault(&s, l, r);
		site_settle(&s);
	}
	load_stop(l);
	t = load_verify(l);
	load_counts(l, &c);
	say("all %llu pages are there after %llu puts (%llu refused), %llu gets and %llu ends of "
	    "the "
	    "backend seen",
		(unsigned long long)t.pages, (unsigned long long)c.puts,
		(unsigned long long)c.refused, (unsigned long long)c.gets,
		(unsigned long long)c.broken);
	load_start(l);
	scenario_end(l, &s, NULL);
}
