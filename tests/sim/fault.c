/* What goes wrong, when, and for how long: all from the seed. */
#include <stdio.h>

#include "tests/sim/sim.h"

#define STEP_NS (10 * MS)

const char *const sim_fault_names[FAULTS] = {
	[FAULT_BACKEND_CRASH] = "backend crashes",
	[FAULT_DONOR_CRASH] = "donor crashes",
	[FAULT_DONOR_SILENT] = "donor hosts gone",
	[FAULT_PARTITION] = "partitions",
	[FAULT_FLIP_WIRE] = "bits flipped in reads",
	[FAULT_FLIP_REST] = "bits flipped at rest",
	[FAULT_MESSAGE_LOST] = "messages lost",
	[FAULT_MESSAGE_TWICE] = "messages doubled",
	[FAULT_CONN_BROKEN] = "connections reset",
	[FAULT_SLOW_DONOR] = "donors slow",
	[FAULT_PRESSURE] = "donors under pressure",
	[FAULT_DEAF_BACKEND] = "backends deaf to revocations",
	[FAULT_DRAIN] = "donors drained",
	[FAULT_DISK] = "disk errors",
	[FAULT_LATE_WRITE] = "late writes",
};

static event_fn step_event, donor_back_event, backend_back_event, heal_event;

static void donor_back_event(struct sim *sim, void *object, uint64_t a)
{
	struct sdonor *d = object;

	sim_trouble(sim, -1, d->index);
	if (!d->up)
		donor_start(d);
}

static void backend_back_event(struct sim *sim, void *object, uint64_t a)
{
	struct backend *b = object;

	for (unsigned d = 0; d < sim->cfg.donors; d++)
		sim_trouble(sim, (int)b->index, d);
	if (!b->up)
		backend_start(b);
}

static void heal_event(struct sim *sim, void *object, uint64_t a)
{
	struct link *l = object;

	if (sim->now_ns >= l->cut_until_ns)
		l->cut = false;
	l->trouble_ns = sim->now_ns;
}

/* In a tame run a donor is destroyed only when no copy is missing anywhere. */
static bool may_destroy(const struct sim *sim)
{
	for (unsigned b = 0; sim->tame && b < sim->cfg.backends; b++)
		if (sim->backend[b].ref.holes)
			return false;
	return true;
}

static void donor_down(struct sim *sim, struct sdonor *d, bool silent)
{
	if (!d->up || !may_destroy(sim))
		return;
	sim_fault_count(sim, silent ? FAULT_DONOR_SILENT : FAULT_DONOR_CRASH);
	sim_trouble(sim, -1, d->index);
	donor_crash(d, silent);
	sim_after(sim, rng_range(&sim->rng, 50 * MS, 5 * S), donor_back_event, d, 0);
}

static void partition(struct sim *sim, struct sdonor *d)
{
	unsigned b = (unsigned)rng_below(&sim->rng, sim->cfg.backends);
	struct link *l = &sim->link[b][d->index];

	/* Past its time to live a partition destroys what the donor holds. */
	uint64_t ns = rng_range(&sim->rng, 20 * MS,
		rng_below(&sim->rng, 4) || !may_destroy(sim) ? sim->cfg.ttl_ms * MS / 3 : 6 * S);

	sim_fault_count(sim, FAULT_PARTITION);
	sim_note(sim, "b%u and d%u are parted", b, d->index);
	l->cut = true;
	l->trouble_ns = sim->now_ns;
	l->cut_until_ns = sim->now_ns + ns;
	sim_at(sim, l->cut_until_ns, heal_event, l, 0);
}

static void flip_at_rest(struct sim *sim, struct sdonor *d)
{
	unsigned region = (unsigned)rng_below(&sim->rng, SIM_REGIONS);
	uint64_t bit = rng_below(&sim->rng, REGION_BYTES * 8ull);
	int owner;

	if (!d->up || !d->export[region].active)
		return;
	owner = d->client_backend[d->export[region].client];
	d->memory[region][bit / 8] ^= (uint8_t)(1u << (bit % 8));
	sim_fault_count(sim, FAULT_FLIP_REST);
	if (owner >= 0) {
		ref_loss(&sim->backend[owner].ref);
		sim->backend[owner].latent = true;
	}
}

static void pressure(struct sim *sim, struct sdonor *d)
{
	if (!d->up || d->draining)
		return;
	sim_fault_count(sim, FAULT_PRESSURE);
	lease_book_target_set(d->book, rng_below(&sim->rng, 2)
					       ? d->cfg.max_bytes
					       : rng_below(&sim->rng, d->cfg.max_bytes + 1));
	donor_arm(d);
}

static void drain(struct sim *sim, struct sdonor *d)
{
	if (!d->up || d->draining)
		return;
	sim_fault_count(sim, FAULT_DRAIN);
	sim_note(sim, "d%u drains", d->index);
	d->draining = true;
	lease_book_drain(d->book, sim->cfg.grace_ms);
	donor_arm(d);
}

static void crash_backend(struct sim *sim, struct backend *b)
{
	if (!b->up)
		return;
	sim_fault_count(sim, FAULT_BACKEND_CRASH);
	backend_crash(b);
	/* Mostly back before its leases end. */
	sim_after(sim,
		rng_range(&sim->rng, 5 * MS,
			rng_below(&sim->rng, 8) ? sim->cfg.ttl_ms * MS / 2 : 8 * S),
		backend_back_event, b, 0);
}

static void do_fault(struct sim *sim, enum sim_fault f)
{
	struct sdonor *d = &sim->donor[rng_below(&sim->rng, sim->cfg.donors)];
	struct backend *b = &sim->backend[rng_below(&sim->rng, sim->cfg.backends)];

	switch (f) {
	case FAULT_BACKEND_CRASH:
		crash_backend(sim, b);
		break;
	case FAULT_DONOR_CRASH:
	case FAULT_DONOR_SILENT:
		donor_down(sim, d, f == FAULT_DONOR_SILENT);
		break;
	case FAULT_PARTITION:
		partition(sim, d);
		break;
	case FAULT_FLIP_REST:
		flip_at_rest(sim, d);
		break;
	case FAULT_CONN_BROKEN:
		if (wire_break_random(sim))
			sim_fault_count(sim, f);
		break;
	case FAULT_SLOW_DONOR:
		sim_fault_count(sim, f);
		d->slow_until_ns = sim->now_ns + rng_range(&sim->rng, 100 * MS, 2 * S);
		break;
	case FAULT_PRESSURE:
		pressure(sim, d);
		break;
	case FAULT_DEAF_BACKEND:
		sim_fault_count(sim, f);
		b->deaf_until_ns = sim->now_ns + rng_range(&sim->rng, 500 * MS, 4 * S);
		break;
	case FAULT_DRAIN:
		drain(sim, d);
		break;
	default:
		break;
	}
}

static void step_event(struct sim *sim, void *object, uint64_t a)
{
	if (sim->quiet)
		return;
	for (unsigned f = 0; f < FAULTS; f++)
		if (f != FAULT_FLIP_WIRE && f != FAULT_MESSAGE_LOST && f != FAULT_MESSAGE_TWICE &&
			f != FAULT_DISK && sim->cfg.rate[f] &&
			rng_ppm(&sim->rng, sim->cfg.rate[f] * (uint32_t)(STEP_NS / MS)))
			do_fault(sim, (enum sim_fault)f);
	for (unsigned i = 0; i < sim->cfg.donors; i++)
		/* Drained to the end, a donor leaves, and comes back. */
		if (sim->donor[i].up && sim->donor[i].draining &&
			lease_book_idle(sim->donor[i].book)) {
			donor_crash(&sim->donor[i], false);
			sim_after(sim, 500 * MS, donor_back_event, &sim->donor[i], 0);
		}
	sim_after(sim, STEP_NS, step_event, NULL, 0);
}

void faults_start(struct sim *sim)
{
	static const uint32_t usual[FAULTS] = {
		[FAULT_BACKEND_CRASH] = 200,
		[FAULT_DONOR_CRASH] = 200,
		[FAULT_DONOR_SILENT] = 100,
		[FAULT_PARTITION] = 400,
		[FAULT_FLIP_WIRE] = 2000,
		[FAULT_FLIP_REST] = 3000,
		[FAULT_MESSAGE_LOST] = 4000,
		[FAULT_MESSAGE_TWICE] = 4000,
		[FAULT_CONN_BROKEN] = 500,
		[FAULT_SLOW_DONOR] = 300,
		[FAULT_PRESSURE] = 400,
		[FAULT_DEAF_BACKEND] = 150,
		[FAULT_DRAIN] = 50,
		[FAULT_DISK] = 5000,
	};

	for (unsigned f = 0; f < FAULTS; f++)
		if (rng_below(&sim->rng, f == FAULT_FLIP_REST ? 6 : 2) == 0)
			sim->cfg.rate[f] = (uint32_t)rng_range(&sim->rng, 1, 2 * usual[f] + 1);
	sim_after(sim, STEP_NS, step_event, NULL, 0);
}

void faults_stop(struct sim *sim)
{
	sim->quiet = true;
	for (unsigned i = 0; i < sim->cfg.donors; i++) {
		struct sdonor *d = &sim->donor[i];

		sim_trouble(sim, -1, i);
		if (d->up && d->draining)
			donor_crash(d, false);
		if (!d->up)
			donor_start(d);
		d->slow_until_ns = 0;
		lease_book_target_set(d->book, d->cfg.max_bytes);
		donor_arm(d);
	}
	for (unsigned b = 0; b < sim->cfg.backends; b++) {
		for (unsigned i = 0; i < sim->cfg.donors; i++)
			sim->link[b][i].cut = false;
		sim->backend[b].deaf_until_ns = 0;
		if (!sim->backend[b].up)
			backend_start(&sim->backend[b]);
	}
}
