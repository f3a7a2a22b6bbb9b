/* A backend that is killed or does not answer, and clients that are killed. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/harness.h"
#include "tests/fault/scenario.h"

#define KILLS 3u

static uint64_t leases_taken(const struct site *s)
{
	double n = 0;

	for (unsigned i = 0; i < s->cfg.donors; i++) {
		n += site_donor_metric(s, i, "fallow_memserver_leases_ended_total{how=\"forced\"}");
		n += site_donor_metric(
			s, i, "fallow_memserver_leases_ended_total{how=\"expired\"}");
	}
	return (uint64_t)n;
}

static void clients_check(const struct site *s)
{
	for (unsigned i = 0; i < s->cfg.donors; i++) {
		if (site_donor_metric(s, i, "fallow_memserver_clients ") != 1)
			fail("d%u knows another client than the one backend", i);
	}
}

/* kill -9 of the backend at any instant, several times. */
void scenario_backend_killed(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_counts c;
	struct load_tally t;
	uint64_t longest_ms = 0;
	struct site s;

	cfg.copies = 1 + (unsigned)rng_below(r, 2);
	site_start(&s, &cfg);
	struct load *l =
		scenario_load(&s, (struct load_config){.may_refuse = true, .may_break = true}, r);
	for (unsigned i = 0; i < KILLS; i++) {
		scenario_run(r, 20, 800);
		site_backend_kill(&s);
		load_kill_told(l);
		pause_ms((unsigned)rng_below(r, 300));
		uint64_t begin = now_ms();
		site_backend_start(&s);
		if (now_ms() - begin > longest_ms)
			longest_ms = now_ms() - begin;
	}
	scenario_run(r, 100, 500);
	site_settle(&s);
	if (leases_taken(&s))
		fail("donors took %llu leases back", (unsigned long long)leases_taken(&s));
	clients_check(&s);
	int64_t remote = site_lanes(&s, "gets_remote");
	load_stop(l);
	t = load_verify(l);
	load_counts(l, &c);
	if (site_lanes(&s, "gets_remote") <= remote)
		fail("nothing was read from a donor");
	if (c.longest_break_ms > 5000)
		fail("a client learned of the end after %llu ms only",
			(unsigned long long)c.longest_break_ms);
	say("%u kills at %u copies: all %llu pages are there, no lease ended; back after %llu ms "
	    "at "
	    "most, -ESHUTDOWN (%llu times) after %llu ms at most; %llu puts, %llu refused",
		KILLS, cfg.copies, (unsigned long long)t.pages, (unsigned long long)longest_ms,
		(unsigned long long)c.broken, (unsigned long long)c.longest_break_ms,
		(unsigned long long)c.puts, (unsigned long long)c.refused);
	load_start(l);
	scenario_end(l, &s, NULL);
}

void scenario_client_run(const char *socket, uint64_t seed)
{
	struct load *l = load_new(&(struct load_config){
		.socket = socket, .threads = 2, .keys = 1500, .seed = seed, .may_refuse = true});

	load_fill(l);
	load_start(l);
	for (;;)
		pause_ms(1000);
}

static pid_t client_start(const struct site *s, uint64_t seed)
{
	char number[32];
	const char *argv[] = {"/proc/self/exe", "client", s->socket, number, NULL};

	snprintf(number, sizeof(number), "%llu", (unsigned long long)seed);
	return process_start("client", argv, NULL);
}

/* kill -9 of a client in mid-operation: its unnamed pool goes, others are not harmed. */
void scenario_client_killed(struct rng *r)
{
	struct site_config cfg = site_config_default();
	struct load_tally t;
	struct site s;

	site_start(&s, &cfg);
	struct load *l =
		scenario_load(&s, (struct load_config){.may_refuse = true, .keys = 1200}, r);
	for (unsigned i = 0; i < KILLS; i++) {
		pid_t pid = client_start(&s, rng_next(r));

		WAIT_FOR(HARNESS_LIMIT_MS, site_status(&s, "pools") == 2, "the client's pool");
		scenario_run(r, 0, 1000);
		process_end(pid, SIGKILL);
		WAIT_FOR(HARNESS_LIMIT_MS, site_status(&s, "pools") == 1,
			"the dead client's pool to go");
	}
	WAIT_FOR(HARNESS_LIMIT_MS, site_status(&s, "sessions") == 1, "the session to go");
	load_stop(l);
	t = load_verify(l);
	WAIT_FOR(HARNESS_LIMIT_MS, site_status(&s, "pages") == (int64_t)t.pages,
		"the dead clients' pages to go");
	say("%u clients killed: their pools are gone, the other's %llu pages are there", KILLS,
		(unsigned long long)t.pages);
	load_start(l);
	scenario_end(l, &s, NULL);
}

/* A revocation that the backend does not answer: the donor takes its memory when the grace is over.
 */
void scenario_backend_silent(struct rng *r)
{
	struct site_config cfg = site_config_default();
	unsigned victim = (unsigned)rng_below(r, 3);
	struct load_tally t;
	struct site s;

	cfg.copies = 1 + (unsigned)rng_below(r, 2);
	cfg.grace_ms = (unsigned)rng_range(r, 300, 1500);
	cfg.donor_min_mib = (unsigned)rng_below(r, 3);
	bool may_lose = cfg.copies == 1;
	site_start(&s, &cfg);
	struct load *l = scenario_load(&s,
		(struct load_config){.may_refuse = true, .may_break = true, .may_lose = may_lose},
		r);
	scenario_run(r, 200, 800);
	int64_t leased = site_donor_memory(&s, victim, "leased_bytes");
	int64_t min = (int64_t)cfg.donor_min_mib << 20;
	process_signal(s.backend, SIGSTOP);
	uint64_t begin = now_ms();
	site_donor_pressure(&s, victim, true);
	WAIT_FOR(10000, site_donor_memory(&s, victim, "leased_bytes") <= min,
		"the donor's memory to be back");
	uint64_t took = now_ms() - begin;
	pause_ms((unsigned)rng_below(r, 500));
	process_signal(s.backend, SIGCONT);
	WAIT_FOR(HARNESS_LIMIT_MS, site_donors_up(&s, 3), "all donors to be up again");
	WAIT_FOR(HARNESS_LIMIT_MS, site_repaired(&s), "the copies to be repaired");
	scenario_run(r, 100, 500);
	load_stop(l);
	t = load_verify(l);
	say("%lld MiB of d%u taken back %llu ms after the pressure began (grace %u ms); at %u "
	    "copies "
	    "%llu pages are there, %llu lost",
		(long long)(leased - min) >> 20, victim, (unsigned long long)took, cfg.grace_ms,
		cfg.copies, (unsigned long long)t.pages, (unsigned long long)t.lost);
	if (took > cfg.grace_ms + 3000)
		fail("the memory came back too late");
	load_start(l);
	scenario_end(l, &s, NULL);
}
