/* A lane's engine I/O: to the remote tier, or to a disk in memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static event_fn disk_event;

/* A copy of each io stands between the engine and the tiers. A crashed engine's transfers end here:
 * the engine is not there to hear of it. */
struct sim_io {
	struct engine_io io;
	struct engine_io *orig;
	struct lane *lane;
	bool write;
	struct sim_io *next, **pprev;
};

static void sim_io_done(struct engine_io *io, int status)
{
	struct sim_io *s = (struct sim_io *)io;
	struct engine_io *orig = s->orig;

	*s->pprev = s->next;
	if (s->next)
		s->next->pprev = s->pprev;
	free(s);
	if (orig)
		orig->done(orig, status);
}

static struct sim_io *sim_io_new(struct lane *l, struct engine_io *io, bool write)
{
	struct sim_io *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->io = (struct engine_io){.region = io->region,
		.offset = io->offset,
		.len = io->len,
		.background = io->background,
		.buf = io->buf,
		.done = sim_io_done};
	s->orig = io;
	s->lane = l;
	s->write = write;
	s->next = l->ios;
	s->pprev = &l->ios;
	if (s->next)
		s->next->pprev = &s->next;
	l->ios = s;
	return s;
}

static void disk_event(struct sim *sim, void *object, uint64_t life)
{
	struct sim_io *s = object;
	struct lane *l = s->lane;
	uint8_t *at = l->disk + s->io.offset;
	int status = 0;

	if (s->orig && sim_chance(sim, FAULT_DISK))
		status = -EIO;
	else if (s->orig && s->write)
		memcpy(at, s->io.buf, s->io.len);
	else if (s->orig)
		memcpy(s->io.buf, at, s->io.len);
	if (s->orig)
		lane_wake(l, sim->now_ns);
	sim_io_done(&s->io, status);
}

static int io_start(struct lane *l, struct engine_io *io, bool write)
{
	struct sim_io *s = sim_io_new(l, io, write);
	int status = 0;

	if (io->region)
		status = write ? tier_remote_write(l->tier, &s->io)
			       : tier_remote_read(l->tier, &s->io);
	else if ((io->offset | io->len | (uintptr_t)io->buf) % 4096 ||
		 io->offset + io->len > (uint64_t)l->b->cfg.disk_segments * SEGMENT_BYTES)
		return sim_fail(l->sim, "a disk transfer that is malformed");
	else
		sim_after(l->sim, 200 * US + rng_below(&l->sim->rng, 2 * MS), disk_event, s, 0);
	if (status) {
		s->orig = NULL;
		sim_io_done(&s->io, 0);
	}
	return status;
}

int lane_io_read(void *ctx, struct engine_io *io)
{
	return io_start(ctx, io, false);
}

int lane_io_write(void *ctx, struct engine_io *io)
{
	return io_start(ctx, io, true);
}

void lane_io_kick(void *ctx)
{
	tier_remote_kick(((struct lane *)ctx)->tier);
}

void lane_io_forget(struct lane *l)
{
	for (struct sim_io *s = l->ios; s; s = s->next)
		s->orig = NULL;
}

/* Transfers that a crash left behind, so that the next engine's list does not hold them. */
void lane_io_orphan(struct lane *l)
{
	struct sim_io *s;

	while ((s = l->ios)) {
		l->ios = s->next;
		if (l->ios)
			l->ios->pprev = &l->ios;
		s->next = l->orphans;
		s->pprev = &l->orphans;
		if (s->next)
			s->next->pprev = &s->next;
		l->orphans = s;
	}
}

void lane_io_free(struct lane *l)
{
	while (l->orphans)
		sim_io_done(&l->orphans->io, 0);
}
