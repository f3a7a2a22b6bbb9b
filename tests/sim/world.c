/* One simulated world from its seed: made, run with faults, brought to rest, and taken down. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static uint64_t sim_now(void *ctx)
{
	return ((struct sim *)ctx)->now_ns;
}

static uint64_t sim_random(void *ctx)
{
	return rng_next(&((struct sim *)ctx)->rng_code);
}

static void choose(struct sim *sim)
{
	struct rng *g = &sim->rng;
	unsigned regions = rng_below(g, 5) ? SIM_REGIONS : 4;

	sim->hammer = !rng_below(g, 3);
	sim->cache = !rng_below(g, 3);
	if (sim->hammer)
		regions = 4;
	sim->cfg.backends = SIM_BACKENDS;
	sim->cfg.lanes = (unsigned)rng_range(g, 1, SIM_LANES);
	sim->cfg.donors = (unsigned)rng_range(g, 3, SIM_DONORS);
	sim->cfg.duration_ns = rng_range(g, 6, 12) * S;
	sim->cfg.op_gap_ns = rng_range(g, 800, sim->hammer ? 1000 : 4000) * US;
	sim->cfg.delay_ns = rng_range(g, 20, 300) * US;
	sim->cfg.ttl_ms = (uint32_t)rng_range(g, 2000, 5000);
	sim->cfg.grace_ms = (uint32_t)rng_range(g, 200, 1500);
	sim->tame = rng_below(g, 2);
	sim->ample = regions == SIM_REGIONS && sim->cfg.donors >= 4;
	for (unsigned i = 0; i < sim->cfg.donors; i++) {
		struct sdonor *d = &sim->donor[i];

		d->sim = sim;
		d->index = i;
		d->cfg = (struct lease_config){.tcp_port = 1,
			.region_bytes = REGION_BYTES,
			.max_bytes = (uint64_t)regions * REGION_BYTES,
			.keep_regions = (uint32_t)rng_below(g, 4),
			.max_clients = SIM_CLIENTS,
			.max_sessions = 16,
			.ttl_ms = sim->cfg.ttl_ms,
			.grace_ms = sim->cfg.grace_ms,
			.hello_timeout_ms = 2000,
			.stats_interval_ms = 200};
		snprintf(d->cfg.name, sizeof(d->cfg.name), "donor%u", i);
		snprintf(d->cfg.failure_domain, sizeof(d->cfg.failure_domain), "rack%u",
			(unsigned)(rng_below(g, 4) ? i : i / 2));
	}
}

static int run(struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.donors; i++)
		donor_start(&sim->donor[i]);
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (backend_init(sim, i))
			return -EBADMSG;
	if (sim_run(sim, sim->now_ns + 500 * MS))
		return -EBADMSG;
	faults_start(sim);
	if (sim_run(sim, sim->now_ns + sim->cfg.duration_ns))
		return -EBADMSG;
	sim_note(sim, "faults end");
	faults_stop(sim);
	return sim->error[0] ? -EBADMSG : sim_converge(sim);
}

int sim_seed(struct sim *sim, uint64_t seed, const char *dir, bool trace)
{
	memset(sim, 0, sizeof(*sim));
	sim->seed = seed;
	sim->rng.state = rng_mix(seed + 0x51a7);
	sim->rng_code.state = rng_mix(seed + 0xc0de);
	sim->env = (struct env){sim_now, sim_random, sim};
	sim->now_ns = S;
	/* At the start nothing is leased yet. */
	sim->trouble_ns = sim->now_ns + 10 * S;
	sim->cfg.trace = trace;
	snprintf(sim->cfg.dir, sizeof(sim->cfg.dir), "%s", dir);
	choose(sim);
	return run(sim);
}

void sim_fini(struct sim *sim)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (sim->backend[i].sim)
			backend_fini(&sim->backend[i]);
	for (unsigned i = 0; i < sim->cfg.donors; i++)
		donor_stop(&sim->donor[i]);
	/* What is left in the queue holds nothing of its own but lane messages. */
	backend_messages_free(sim);
	wire_free(sim);
	sessions_free(sim);
	free(sim->heap);
}
