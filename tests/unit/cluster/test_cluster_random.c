/* Random faults and wishes against the cluster logic; invariants after each step, agreement at the
 * end. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/cluster/fake_world.h"

static void fault(struct world *w)
{
	unsigned i = (unsigned)(world_random(w) % w->ndonors);
	struct fake_donor *d = &w->donor[i];
	struct control_msg m;

	switch (world_random(w) % 14) {
	case 0:
		world_session_cut(w, i);
		break;
	case 1:
		if (world_random(w) % 3 == 0)
			world_donor_crash(w, i);
		break;
	case 2:
		if (!d->running)
			world_donor_start(w, i);
		break;
	case 3:
		d->hung = !d->hung;
		break;
	case 4:
	case 5:
		world_donor_revoke(w, i, (unsigned)(world_random(w) % WORLD_LEASES),
			(uint32_t)(world_random(w) % 3000));
		break;
	case 6:
		d->capacity = (unsigned)(world_random(w) % 12);
		break;
	case 7:
		if (world_random(w) % 4 == 0)
			world_cluster_restart(w);
		break;
	case 8:
		d->draining = world_random(w) % 3 == 0;
		break;
	case 9: /* partition */
		if (d->running && world_random(w) % 2) {
			d->running = false;
			world_session_cut(w, i);
		}
		break;
	case 10: /* a senseless message */
		m = (struct control_msg){
			.type = (enum control_msg_type)(world_random(w) % (CONTROL_MSG_TYPES + 1))};
		if (m.type != CONTROL_ERROR)
			world_donor_send(w, i, &m);
		break;
	case 11: /* the newest message twice */
		if (w->from[i].count && w->from[i].count < WORLD_QUEUE / 2)
			world_donor_send(w, i,
				&w->from[i]
					 .msg[(w->from[i].head + w->from[i].count - 1) %
						 WORLD_QUEUE]
					 .m);
		break;
	case 12: /* a message lost */
		if (w->from[i].count)
			w->from[i].count--;
		break;
	default:
		cluster_bad_data(w->c, i);
		break;
	}
}

static void lanes_act(struct world *w)
{
	unsigned i = (unsigned)(world_random(w) % w->ndonors);
	struct lane_region *r = &w->region[i][world_random(w) % WORLD_LEASES];

	if (world_random(w) % 2)
		cluster_want_regions(w->c, (unsigned)(world_random(w) % WORLD_LANES),
			(unsigned)(world_random(w) % 6), world_random(w) % 4 == 0);
	if (r->used && world_random(w) % 4 == 0)
		world_lane_spare(w, i, r, world_random(w) % 2);
	if (r->used && (r->revoking || world_random(w) % 4 == 0))
		world_lane_release(w, i, r);
}

static void heal(struct world *w)
{
	for (unsigned i = 0; i < w->ndonors; i++) {
		w->donor[i].hung = w->donor[i].draining = false;
		if (!w->donor[i].running)
			world_donor_start(w, i);
	}
	for (unsigned i = 0; i < WORLD_LANES; i++)
		cluster_want_regions(w->c, i, 0, false);
}

static bool agreed(const struct world *w)
{
	for (unsigned i = 0; i < w->ndonors; i++)
		if (world_lane_regions(w, i) != world_donor_leases(w, i) || !w->up[i] ||
			!w->donor[i].session)
			return false;
	return true;
}

static int one(uint64_t seed)
{
	static struct world w;

	world_init(&w, seed, 1 + (unsigned)(seed % WORLD_DONORS));
	w.delay_max_ns = 30 * MS;
	w.cfg.max_lease_bytes = 20 * REGION;
	world_cluster_new(&w);
	for (unsigned step = 0; step < 400; step++) {
		if (world_random(&w) % 3 == 0)
			fault(&w);
		lanes_act(&w);
		world_run(&w, (world_random(&w) % 200) * MS);
		world_check(&w);
	}
	heal(&w);
	world_run(&w, 40000 * MS);
	world_check(&w);
	bool ok = agreed(&w);
	if (!ok)
		for (unsigned i = 0; i < w.ndonors; i++)
			fprintf(stderr, "donor %u: lanes hold %u, it leases %u, up %d, %s\n", i,
				world_lane_regions(&w, i), world_donor_leases(&w, i), w.up[i],
				cluster_donor_reason(w.c, i));
	world_fini(&w);
	return ok ? 0 : -1;
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;

	for (uint64_t i = 0; i < count; i++) {
		/* Before, so that an abort leaves it on the screen. */
		printf("\rseed %llu", (unsigned long long)(seed + i));
		fflush(stdout);
		if (one(seed + i) < 0) {
			printf("\nFAILED; repeat with: test-cluster-random %llu\n",
				(unsigned long long)(seed + i));
			return 1;
		}
	}
	printf("\nok: %llu seeds from %llu\n", (unsigned long long)count, (unsigned long long)seed);
	return 0;
}
