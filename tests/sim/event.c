/* Virtual time: the queue of events, and how a run records what happens and what goes wrong. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static bool earlier(const struct event *x, const struct event *y)
{
	return x->time_ns != y->time_ns ? x->time_ns < y->time_ns : x->sequence < y->sequence;
}

void sim_at(struct sim *sim, uint64_t time_ns, event_fn *fn, void *object, uint64_t a)
{
	struct event ev = {
		time_ns < sim->now_ns ? sim->now_ns : time_ns, sim->sequence++, fn, object, a};
	unsigned i;

	if (sim->heap_len == sim->heap_cap) {
		sim->heap_cap = sim->heap_cap ? 2 * sim->heap_cap : 1024;
		sim->heap = realloc(sim->heap, sim->heap_cap * sizeof(*sim->heap));
		if (!sim->heap)
			abort();
	}
	for (i = sim->heap_len++; i && earlier(&ev, &sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
		sim->heap[i] = sim->heap[(i - 1) / 2];
	sim->heap[i] = ev;
}

static struct event pop(struct sim *sim)
{
	struct event first = sim->heap[0], last = sim->heap[--sim->heap_len];
	unsigned i = 0;

	for (;;) {
		unsigned child = 2 * i + 1;

		if (child >= sim->heap_len)
			break;
		if (child + 1 < sim->heap_len && earlier(&sim->heap[child + 1], &sim->heap[child]))
			child++;
		if (!earlier(&sim->heap[child], &last))
			break;
		sim->heap[i] = sim->heap[child];
		i = child;
	}
	sim->heap[i] = last;
	return first;
}

int sim_run(struct sim *sim, uint64_t time_ns)
{
	while (!sim->error[0] && sim->heap_len && sim->heap[0].time_ns <= time_ns) {
		struct event ev = pop(sim);

		sim->now_ns = ev.time_ns;
		sim->events++;
		sim->hash = rng_mix(sim->hash ^ ev.time_ns) + ev.sequence;
		ev.fn(sim, ev.object, ev.a);
		if (!sim->error[0])
			check_step(sim);
	}
	if (sim->now_ns < time_ns)
		sim->now_ns = time_ns;
	return sim->error[0] ? -EBADMSG : 0;
}

int sim_fail(struct sim *sim, const char *fmt, ...)
{
	va_list ap;

	if (!sim->error[0]) {
		va_start(ap, fmt);
		vsnprintf(sim->error, sizeof(sim->error), fmt, ap);
		va_end(ap);
	}
	return -EBADMSG;
}

void sim_note(struct sim *sim, const char *fmt, ...)
{
	va_list ap;

	if (!sim->cfg.trace)
		return;
	printf("%12.6f ", (double)sim->now_ns / 1e9);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void sim_fault_count(struct sim *sim, enum sim_fault f)
{
	sim->faults[f]++;
	sim->hash = rng_mix(sim->hash + f + 1);
	/* Whatever it was, gets may be slow for a while. */
	if (sim->trouble_ns < sim->now_ns + 15 * S)
		sim->trouble_ns = sim->now_ns + 15 * S;
}

bool sim_chance(struct sim *sim, enum sim_fault f)
{
	if (sim->quiet || !sim->cfg.rate[f] || !rng_ppm(&sim->rng, sim->cfg.rate[f]))
		return false;
	sim_fault_count(sim, f);
	return true;
}

uint64_t sim_delay(struct sim *sim, unsigned donor)
{
	uint64_t ns = sim->cfg.delay_ns / 2 + rng_below(&sim->rng, sim->cfg.delay_ns);

	if (!rng_below(&sim->rng, 50))
		ns *= 10;
	if (sim->now_ns < sim->donor[donor].slow_until_ns)
		ns += rng_below(&sim->rng, 40 * MS);
	return ns;
}

void sim_trouble(struct sim *sim, int b, unsigned d)
{
	for (unsigned i = 0; i < sim->cfg.backends; i++)
		if (b < 0 || (unsigned)b == i)
			sim->link[i][d].trouble_ns = sim->now_ns;
}
