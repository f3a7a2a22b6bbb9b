/* Donors that are killed, that stop, and that lie. */
#include "tests/fault/harness.h"
#include "tests/fault/scenario.h"

#define MS_OF(ns) ((double)(ns) / 1e6)

/* kill -9 of one of three donors at two copies, and of another one once the copies are repaired. */
void scenario_donor_killed(struct rng *r)
{
	struct site_config cfg = site_config_default();
	unsigned first = (unsigned)rng_below(r, 3),
		 second = (first + 1 + (unsigned)rng_below(r, 2)) % 3;
	struct load_counts c;
	struct load_tally t;
	struct site s;

	site_start(&s, &cfg);
	struct load *l = scenario_load(&s, (struct load_config){.may_refuse = true}, r);
	scenario_run(r, 100, 1200);
	int64_t held = site_donor_memory(&s, first, "leased_bytes") >> 20;
	load_window(l);
	uint64_t begin = now_ms();
	site_donor_kill(&s, first);
	WAIT_FOR(HARNESS_LIMIT_MS, site_donor_phase_is(&s, first, "dead"), "the donor to be dead");
	uint64_t dead = now_ms();
	WAIT_FOR(HARNESS_LIMIT_MS, site_repaired(&s), "the copies to be repaired");
	uint64_t repaired = now_ms();
	load_counts(l, &c);
	say("killed d%u with %lld MiB: dead after %llu ms, repaired %llu ms later; %llu gets, "
	    "longest %.1f ms, p99 %.1f ms; %llu puts, %llu refused",
		first, (long long)held, (unsigned long long)(dead - begin),
		(unsigned long long)(repaired - dead), (unsigned long long)c.gets,
		MS_OF(c.get_ns.max_ns), MS_OF(hist_quantile_ns(&c.get_ns, 0.99)),
		(unsigned long long)c.puts, (unsigned long long)c.refused);
	/* The copies are where the status says: nothing is lost with another donor. */
	load_stop(l);
	load_verify(l);
	WAIT_FOR(HARNESS_LIMIT_MS, site_repaired(&s), "the last copies to be made");
	site_donor_kill(&s, second);
	t = load_verify(l);
	say("killed d%u too: all %llu pages are there", second, (unsigned long long)t.pages);
	site_donor_start(&s, first);
	site_donor_start(&s, second);
	load_start(l);
	site_settle(&s);
	scenario_end(l, &s, NULL);
}

/* kill -9 of a donor at one copy, without a disk. */
void scenario_donor_lost(struct rng *r)
{
	struct site_config cfg = site_config_default();
	unsigned victim = (unsigned)rng_below(r, 3);
	struct load_tally before, again, end;
	struct load_counts c;
	struct site s;

	cfg.copies = 1;
	site_start(&s, &cfg);
	struct load *l =
		scenario_load(&s, (struct load_config){.may_refuse = true, .may_lose = true}, r);
	scenario_run(r, 100, 1000);
	load_counts(l, &c);
	if (c.lost)
		fail("%llu pages were lost before anything happened", (unsigned long long)c.lost);
	int64_t held = site_donor_memory(&s, victim, "leased_bytes") >> 20;
	site_donor_kill(&s, victim);
	WAIT_FOR(HARNESS_LIMIT_MS, site_donor_phase_is(&s, victim, "dead"), "the donor to be dead");
	scenario_run(r, 0, 500);
	load_stop(l);
	before = load_verify(l);
	again = load_verify(l);
	if (before.lost != again.lost || before.pages != again.pages)
		fail("%llu pages are lost, and %llu when read again",
			(unsigned long long)before.lost, (unsigned long long)again.lost);
	if (held > 0 && !before.lost)
		fail("a donor with %lld MiB is gone and no page is lost", (long long)held);
	int64_t told = site_status(&s, "gets_lost");
	if (told < (int64_t)before.lost)
		fail("the backend counts %lld lost gets", (long long)told);
	/* Whatever is put anew is there to stay. */
	load_start(l);
	scenario_run(r, 300, 800);
	load_stop(l);
	load_counts(l, &c);
	uint64_t refused = c.refused;
	load_fill(l);
	load_counts(l, &c);
	end = load_verify(l);
	if (end.lost || end.pages + (c.refused - refused) < SCENARIO_THREADS * load_config(l)->keys)
		fail("after new puts %llu pages are there, %llu lost",
			(unsigned long long)end.pages, (unsigned long long)end.lost);
	say("killed d%u with %lld MiB: %llu of %llu pages lost; all %llu put again are there",
		victim, (long long)held, (unsigned long long)before.lost,
		(unsigned long long)(before.lost + before.pages), (unsigned long long)end.pages);
	site_donor_start(&s, victim);
	site_settle(&s);
	load_start(l);
	scenario_end(l, &s, NULL);
}

/* SIGSTOP of a donor at two copies: the other holder answers. */
void scenario_donor_stopped(struct rng *r)
{
	struct site_config cfg = site_config_default();
	unsigned victim = (unsigned)rng_below(r, 3);
	struct load_counts before, c;
	struct site s;

	site_start(&s, &cfg);
	struct load *l = scenario_load(&s,
		(struct load_config){.may_refuse = true, .threads = 4, .keys = 1920, .readers = 2},
		r);
	scenario_run(r, 200, 800);
	load_counts(l, &before);
	load_window(l);
	uint64_t begin = now_ms();
	site_donor_stop(&s, victim);
	scenario_run(r, 200, 3000);
	load_counts(l, &c);
	uint64_t stopped = now_ms() - begin;
	site_donor_continue(&s, victim);
	say("stopped d%u for %llu ms: %llu gets, p99 %.1f ms, longest %.1f ms (before: p99 %.1f "
	    "ms, "
	    "longest %.1f ms); hedge %u ms",
		victim, (unsigned long long)stopped, (unsigned long long)(c.gets - before.gets),
		MS_OF(hist_quantile_ns(&c.get_ns, 0.99)), MS_OF(c.get_ns.max_ns),
		MS_OF(hist_quantile_ns(&before.get_ns, 0.99)), MS_OF(before.get_ns.max_ns),
		cfg.hedge_ms);
	if (c.gets - before.gets < 50)
		fail("only %llu gets were answered", (unsigned long long)(c.gets - before.gets));
	/* Far below what a get may take that waits for the donor itself. */
	if (c.get_ns.max_ns > (cfg.hedge_ms + 1500) * 1000000ull)
		fail("a get took %.1f ms", MS_OF(c.get_ns.max_ns));
	if (hist_quantile_ns(&c.get_ns, 0.99) > (cfg.hedge_ms + 400) * 1000000ull)
		fail("one get of a hundred took %.1f ms", MS_OF(hist_quantile_ns(&c.get_ns, 0.99)));
	scenario_run(r, 100, 500);
	site_settle(&s);
	load_counts(l, &c);
	say("longest put %.1f ms, %llu of %llu refused", MS_OF(c.put_ns.max_ns),
		(unsigned long long)c.refused, (unsigned long long)c.puts);
	scenario_end(l, &s, NULL);
}

/* A donor whose answers have flipped bits, at two copies. */
void scenario_donor_lies(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_counts c;
	struct load_tally t;
	struct site s;

	cfg.flip_ppm = 1000u << rng_below(r, 9);
	site_start(&s, &cfg);
	struct load *l = scenario_load(&s, (struct load_config){.may_refuse = true}, r);
	scenario_run(r, 1500, 3000);
	load_stop(l);
	t = load_verify(l);
	load_counts(l, &c);
	WAIT_FOR(HARNESS_LIMIT_MS, site_lanes(&s, "records_corrupt") > 0,
		"the flipped bits to be found");
	say("%.1f %% of d0's answers had a flipped bit: %lld records found corrupt, %lld bad "
	    "answers "
	    "told of d0; %llu gets and all %llu pages right",
		cfg.flip_ppm / 1e4, (long long)site_lanes(&s, "records_corrupt"),
		(long long)site_donor_row(&s, 0, "bad_data"), (unsigned long long)c.gets,
		(unsigned long long)t.pages);
	for (unsigned i = 1; i < cfg.donors; i++) {
		if (site_donor_row(&s, i, "bad_data"))
			fail("d%u tells the truth and has a bad name", i);
	}
	load_start(l);
	scenario_end(l, &s, NULL);
}
