/* Control sessions: frames through the real codec over links that cut, lose and double. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/control/codec.h"
#include "tests/sim/sim.h"

#define RETRY_NS (20 * MS)

static event_fn pump_event, arrive_event, accepted_event, backend_end_event, donor_end_event;

static bool is_cut(const struct sim *sim, const struct session *s)
{
	return sim->link[s->b][s->d].cut;
}

static void queue_drop(struct session *s, unsigned dir)
{
	while (s->head[dir]) {
		struct message *m = s->head[dir];

		s->head[dir] = m->next;
		free(m);
	}
	s->tail[dir] = NULL;
}

/* Backend's side learns that the session is over. */
static void backend_end_event(struct sim *sim, void *object, uint64_t a)
{
	struct session *s = object;
	struct backend *b = &sim->backend[s->b];

	queue_drop(s, 1);
	if (!s->backend_open)
		return;
	s->backend_open = false;
	if (b->session[s->d] == s) {
		b->session[s->d] = NULL;
		backend_connected(b, s->d, false);
	}
}

static void donor_end_event(struct sim *sim, void *object, uint64_t a)
{
	struct session *s = object;
	struct sdonor *d = &sim->donor[s->d];

	queue_drop(s, 0);
	if (!s->donor_open)
		return;
	s->donor_open = false;
	if (s->lease && d->up && d->life == s->donor_life) {
		lease_session_closed(d->book, s->lease);
		donor_arm(d);
	}
	s->lease = NULL;
}

static void both_end(struct sim *sim, struct session *s)
{
	sim_after(sim, sim_delay(sim, s->d), backend_end_event, s, 0);
	sim_after(sim, sim_delay(sim, s->d), donor_end_event, s, 0);
}

struct session *session_connect(struct sim *sim, unsigned b, unsigned d)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->b = b;
	s->d = d;
	s->backend_open = true;
	s->connect_by_ns = sim->now_ns + rng_range(&sim->rng, 500 * MS, 4 * S);
	s->give_up_ns = rng_range(&sim->rng, 200 * MS, 6 * S);
	s->next = sim->sessions;
	sim->sessions = s;
	sim_after(sim, sim_delay(sim, d), arrive_event, s, 0);
	return s;
}

/* The connection request is at the donor. */
static void arrive_event(struct sim *sim, void *object, uint64_t a)
{
	struct session *s = object;
	struct sdonor *d = &sim->donor[s->d];

	if (!s->backend_open)
		return;
	if (is_cut(sim, s) || (!d->up && d->silent)) {
		sim_at(sim, sim->now_ns + RETRY_NS,
			sim->now_ns > s->connect_by_ns ? backend_end_event : arrive_event, s, 0);
		return;
	}
	if (!d->up || lease_session_open(d->book, s, &s->lease)) {
		sim_after(sim, sim_delay(sim, s->d), backend_end_event, s, 0);
		return;
	}
	s->donor_life = d->life;
	s->donor_open = true;
	donor_arm(d);
	sim_after(sim, sim_delay(sim, s->d), accepted_event, s, 0);
}

static void accepted_event(struct sim *sim, void *object, uint64_t a)
{
	struct session *s = object;
	struct backend *b = &sim->backend[s->b];

	if (s->backend_open && b->session[s->d] == s)
		backend_connected(b, s->d, true);
}

static void push(struct sim *sim, struct session *s, unsigned dir, const void *frame, size_t len)
{
	struct message *m = malloc(sizeof(*m) + len);

	if (!m)
		abort();
	*m = (struct message){.due_ns = sim->now_ns + sim_delay(sim, s->d), .len = len};
	memcpy(m->frame, frame, len);
	if (s->tail[dir])
		s->tail[dir]->next = m;
	else
		s->head[dir] = m;
	s->tail[dir] = m;
	if (!s->pumping[dir]) {
		s->pumping[dir] = true;
		sim_at(sim, m->due_ns, pump_event, s, dir);
	}
}

void session_send(struct sim *sim, struct session *s, unsigned dir, const struct control_msg *m)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	ssize_t len = control_encode(m, frame, sizeof(frame));

	if (len < 0) {
		sim_fail(sim, "a %s could not be encoded: %s", control_msg_name(m->type),
			strerror((int)-len));
		return;
	}
	sim_note(sim, "b%u %s d%u %s", s->b, dir ? "<-" : "->", s->d, control_msg_name(m->type));
	if (sim_chance(sim, FAULT_MESSAGE_LOST)) {
		sim_trouble(sim, (int)s->b, s->d);
		return;
	}
	push(sim, s, dir, frame, (size_t)len);
	if (sim_chance(sim, FAULT_MESSAGE_TWICE)) {
		sim_trouble(sim, (int)s->b, s->d);
		push(sim, s, dir, frame, (size_t)len);
	}
}

/* A deaf backend gets everything but the word that a region is wanted back. */
static bool deafen(struct control_msg *m)
{
	if (m->type == CONTROL_LEASES)
		for (uint32_t i = 0; i < m->leases.count; i++)
			m->leases.lease[i].revoking = false;
	return m->type == CONTROL_REVOKE;
}

static void deliver(struct sim *sim, struct session *s, unsigned dir, const struct message *m)
{
	struct control_msg msg;
	const char *why = "";
	int status;

	if (control_frame_length(m->frame, m->len) != (ssize_t)m->len ||
		control_decode(m->frame, m->len, &msg, &why)) {
		sim_fail(sim, "a frame could not be decoded: %s", why);
		return;
	}
	if (dir == 0) {
		struct sdonor *d = &sim->donor[s->d];

		if (!s->donor_open || !s->lease || !d->up || d->life != s->donor_life)
			return;
		status = lease_session_message(d->book, s->lease, &msg);
		donor_arm(d);
		if (status && s->lease)
			sim_fail(sim, "the lease book ended a session without ops->close()");
		return;
	}
	if (!s->backend_open || sim->backend[s->b].session[s->d] != s)
		return;
	if (sim->now_ns < sim->backend[s->b].deaf_until_ns && deafen(&msg))
		return;
	backend_message(&sim->backend[s->b], s->d, &msg);
}

/* Delivers what is due of one stream. */
static void pump_event(struct sim *sim, void *object, uint64_t dir)
{
	struct session *s = object;
	struct sdonor *d = &sim->donor[s->d];
	bool dead = dir == 0 && (!d->up || d->life != s->donor_life);

	if (!s->backend_open && !s->donor_open)
		queue_drop(s, (unsigned)dir);
	if (!s->head[dir]) {
		s->pumping[dir] = false;
		return;
	}
	if (is_cut(sim, s) || (dead && d->silent && !d->up)) {
		if (!s->stuck_since_ns)
			s->stuck_since_ns = sim->now_ns;
		if (sim->now_ns - s->stuck_since_ns > s->give_up_ns)
			sim_after(sim, 0, dir == 0 ? backend_end_event : donor_end_event, s, 0);
		sim_after(sim, RETRY_NS, pump_event, s, dir);
		return;
	}
	s->stuck_since_ns = 0;
	if (dead || (dir == 1 && !s->backend_open)) {
		/* A reset comes back. */
		queue_drop(s, (unsigned)dir);
		both_end(sim, s);
	}
	while (s->head[dir] && s->head[dir]->due_ns <= sim->now_ns) {
		struct message *m = s->head[dir];

		s->head[dir] = m->next;
		if (!m->next)
			s->tail[dir] = NULL;
		deliver(sim, s, (unsigned)dir, m);
		free(m);
	}
	if (s->head[dir])
		sim_at(sim, s->head[dir]->due_ns, pump_event, s, dir);
	else
		s->pumping[dir] = false;
}

void session_close(struct sim *sim, struct session *s, bool by_backend)
{
	/* What was sent before is delivered before, so the other end closes behind its queue; on a
	 * cut link it notices by itself. */
	uint64_t after = is_cut(sim, s) ? s->give_up_ns : 2 * sim_delay(sim, s->d);
	const struct message *last = s->tail[by_backend ? 0 : 1];
	uint64_t at = sim->now_ns + after;

	if (last && last->due_ns >= at)
		at = last->due_ns + 1;
	if (by_backend) {
		s->backend_open = false;
		if (sim->backend[s->b].session[s->d] == s)
			sim->backend[s->b].session[s->d] = NULL;
		sim_at(sim, at, donor_end_event, s, 0);
	} else {
		s->donor_open = false;
		s->lease = NULL;
		sim_at(sim, at, backend_end_event, s, 0);
	}
}

void sessions_of_backend_end(struct sim *sim, unsigned b)
{
	for (struct session *s = sim->sessions; s; s = s->next)
		if (s->b == b && s->backend_open)
			session_close(sim, s, true);
}

void sessions_of_donor_end(struct sim *sim, unsigned d)
{
	for (struct session *s = sim->sessions; s; s = s->next) {
		if (s->d != d || !s->donor_open)
			continue;
		s->donor_open = false;
		s->lease = NULL;
		if (!sim->donor[d].silent && !is_cut(sim, s))
			sim_after(sim, sim_delay(sim, d), backend_end_event, s, 0);
	}
}

void sessions_free(struct sim *sim)
{
	while (sim->sessions) {
		struct session *s = sim->sessions;

		sim->sessions = s->next;
		queue_drop(s, 0);
		queue_drop(s, 1);
		free(s);
	}
}
