/* The sim transport: one-sided reads and writes over links with delay, cuts, resets and flipped
 * bits. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define RETRY_NS (10 * MS)

struct transport {
	struct sim *sim;
	unsigned b, lane;
	uint32_t depth;
	struct xfer *done_head, *done_tail; /* completed, not yet polled */
};

enum conn_state { CONN_CONNECTING, CONN_UP, CONN_BROKEN, CONN_FAILED };

struct transport_conn {
	struct sim *sim;
	struct transport *t; /* NULL once destroyed */
	unsigned b, lane, donor;
	enum tier_remote_channel channel;
	uint64_t donor_life;
	uint64_t token[2];
	int client; /* at the donor */
	enum conn_state state;
	uint64_t connect_by_ns, stuck_since_ns, give_up_ns, last_arrival_ns;
	unsigned outstanding;
	bool destroyed; /* freed when no event names it any more */
	unsigned events;
	struct xfer *first, *last; /* posted, in order; not yet completed */
	struct transport_conn *next, **pprev;
};

/* One transfer on its way. */
struct xfer {
	struct transport_conn *c;
	struct transport_op *op; /* NULL: cancelled */
	enum transport_op_kind kind;
	uint32_t len;
	uint64_t rkey, raddr;
	uint8_t *data; /* what a read found, or what a late write carries */
	bool sent, completed;
	unsigned refs; /* the op, and each event */
	int status;
	struct xfer *next_done;		/* in the transport's list */
	struct xfer *next_op, *prev_op; /* in the connection's */
	struct xfer *next, **pprev;	/* of all */
};

static struct sim *context_sim;
static unsigned context_b, context_lane;
static enum tier_remote_channel context_channel;

static event_fn arrive_event, answer_event, connect_event, late_event;

void wire_context(struct sim *sim, unsigned b, unsigned lane)
{
	context_sim = sim;
	context_b = b;
	context_lane = lane;
}

void wire_channel(enum tier_remote_channel channel)
{
	context_channel = channel;
}

static struct sdonor *donor_of(const struct transport_conn *c)
{
	return &c->sim->donor[c->donor];
}

static void conn_unref(struct transport_conn *c)
{
	if (!c->destroyed || c->events)
		return;
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	free(c);
}

static void xfer_put(struct xfer *x)
{
	if (--x->refs)
		return;
	*x->pprev = x->next;
	if (x->next)
		x->next->pprev = x->pprev;
	free(x->data);
	free(x);
}

static void xfer_plan(struct xfer *x, uint64_t at, event_fn *fn)
{
	x->refs++;
	x->c->events++;
	sim_at(x->c->sim, at, fn, x, 0);
}

/* At the end of an event: x and its connection may be gone then. */
static void xfer_event_end(struct xfer *x)
{
	struct transport_conn *c = x->c;

	c->events--;
	xfer_put(x);
	conn_unref(c);
}

static void xfer_unlink_op(struct xfer *x)
{
	struct transport_conn *c = x->c;

	*(x->prev_op ? &x->prev_op->next_op : &c->first) = x->next_op;
	*(x->next_op ? &x->next_op->prev_op : &c->last) = x->prev_op;
	x->next_op = x->prev_op = NULL;
}

/* The op is over; poll() will say so. */
static void xfer_complete(struct xfer *x, int status)
{
	struct transport *t = x->c->t;

	x->status = status;
	x->completed = true;
	x->next_done = NULL;
	xfer_unlink_op(x);
	if (t->done_tail)
		t->done_tail->next_done = x;
	else
		t->done_head = x;
	t->done_tail = x;
	lane_wake(&t->sim->backend[t->b].lane[t->lane], t->sim->now_ns);
}

static int wire_open(const char *device, uint32_t depth, struct transport **out)
{
	struct transport *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*t = (struct transport){
		.sim = context_sim, .b = context_b, .lane = context_lane, .depth = depth};
	*out = t;
	return 0;
}

static void wire_close(struct transport *t)
{
	free(t);
}

static int wire_mem_register(struct transport *t, void *base, size_t len)
{
	return 0;
}

static int wire_connect(
	struct transport *t, const struct transport_peer *peer, struct transport_conn **out)
{
	struct sim *sim = t->sim;
	struct transport_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->sim = sim;
	c->t = t;
	c->b = t->b;
	c->lane = t->lane;
	c->donor = (unsigned)(peer->host[0] - '0');
	c->channel = context_channel;
	memcpy(c->token, peer->token, sizeof(c->token));
	c->connect_by_ns = sim->now_ns + peer->timeout_ms * MS;
	c->give_up_ns = rng_range(&sim->rng, 100 * MS, 8 * S);
	c->next = sim->conns;
	c->pprev = &sim->conns;
	if (c->next)
		c->next->pprev = &c->next;
	sim->conns = c;
	c->events = 1;
	sim_after(sim, 2 * sim_delay(sim, c->donor), connect_event, c, 0);
	*out = c;
	return 0;
}

static bool unreachable(const struct transport_conn *c)
{
	const struct sdonor *d = donor_of(c);

	return c->sim->link[c->b][c->donor].cut || (!d->up && d->silent);
}

/* What was on its way on an older connection of this lane and channel never lands from now on. */
static void fence(struct transport_conn *c)
{
	struct sim *sim = c->sim;

	for (struct transport_conn *o = sim->conns; o; o = o->next)
		if (o != c && o->donor == c->donor && o->channel == c->channel && o->b == c->b &&
			o->lane == c->lane)
			o->client = -1;
}

static void connect_event(struct sim *sim, void *object, uint64_t a)
{
	struct transport_conn *c = object;
	struct sdonor *d = donor_of(c);

	c->events--;
	if (c->destroyed) {
		conn_unref(c);
		return;
	}
	if (unreachable(c)) {
		if (sim->now_ns >= c->connect_by_ns)
			c->state = CONN_FAILED;
		else
			c->events++, sim_after(sim, RETRY_NS, connect_event, c, 0);
		return;
	}
	c->client = d->up ? donor_token_client(d, c->token) : -1;
	c->donor_life = d->life;
	c->state = c->client < 0 ? CONN_FAILED : CONN_UP;
	if (c->state == CONN_UP)
		fence(c);
}

static int wire_conn_fd(struct transport_conn *c)
{
	return -1;
}

static int wire_conn_progress(struct transport_conn *c)
{
	switch (c->state) {
	case CONN_CONNECTING:
		return -EINPROGRESS;
	case CONN_UP:
		return 0;
	case CONN_FAILED:
		return -ECONNREFUSED;
	default:
		return -ECONNRESET;
	}
}

static int wire_attach(struct transport_conn *c)
{
	return 0;
}

static int wire_post(struct transport_conn *c, struct transport_op *op)
{
	struct xfer *x;

	if (c->state != CONN_UP)
		return -ENOTCONN;
	if (c->outstanding >= c->t->depth)
		return -EAGAIN;
	x = calloc(1, sizeof(*x));
	if (!x)
		abort();
	*x = (struct xfer){.c = c,
		.op = op,
		.refs = 1,
		.kind = op->kind,
		.len = op->len,
		.rkey = op->rkey,
		.raddr = op->raddr,
		.prev_op = c->last,
		.next = c->sim->xfers,
		.pprev = &c->sim->xfers};
	if (x->next)
		x->next->pprev = &x->next;
	c->sim->xfers = x;
	*(c->last ? &c->last->next_op : &c->first) = x;
	c->last = x;
	c->outstanding++;
	return 0;
}

static void wire_doorbell(struct transport_conn *c)
{
	for (struct xfer *x = c->first; x; x = x->next_op) {
		uint64_t at;

		if (x->sent)
			continue;
		x->sent = true;
		/* In order on one connection. */
		at = c->sim->now_ns + sim_delay(c->sim, c->donor) + x->len / 10;
		if (at <= c->last_arrival_ns)
			at = c->last_arrival_ns + 1;
		c->last_arrival_ns = at;
		xfer_plan(x, at, arrive_event);
	}
}

/* A write that was on its way when its op ended: with luck some or all of it lands, later. */
static void make_late(struct xfer *x)
{
	struct transport_conn *c = x->c;

	if (x->kind != TRANSPORT_WRITE || !x->sent || x->data || c->sim->quiet ||
		rng_below(&c->sim->rng, 2))
		return;
	x->data = malloc(x->len);
	if (!x->data)
		abort();
	memcpy(x->data, x->op->buf, x->len);
	if (rng_below(&c->sim->rng, 2))
		x->len = (uint32_t)rng_below(&c->sim->rng, x->len) + 1;
	sim_fault_count(c->sim, FAULT_LATE_WRITE);
	xfer_plan(x, c->sim->now_ns + rng_below(&c->sim->rng, 30 * MS), late_event);
}

static void late_event(struct sim *sim, void *object, uint64_t a)
{
	struct xfer *x = object;
	struct transport_conn *c = x->c;
	struct sdonor *d = donor_of(c);
	uint8_t *at = NULL;

	if (!unreachable(c) && d->up && d->life == c->donor_life && c->client >= 0 &&
		donor_token_client(d, c->token) == c->client)
		at = donor_reach(d, (unsigned)c->client, x->rkey, x->raddr, x->len);
	if (at)
		memcpy(at, x->data, x->len);
	xfer_event_end(x);
}

/* The connection is gone: every op on it ends. */
static void conn_break(struct transport_conn *c)
{
	if (c->state == CONN_CONNECTING || c->state == CONN_UP)
		c->state = c->state == CONN_UP ? CONN_BROKEN : CONN_FAILED;
	while (c->first) {
		struct xfer *x = c->first;

		make_late(x);
		xfer_complete(x, -ECONNRESET);
	}
	if (c->t)
		lane_wake(&c->sim->backend[c->t->b].lane[c->t->lane], c->sim->now_ns);
}

static void flip(struct sim *sim, uint8_t *data, uint32_t len)
{
	uint64_t bit = rng_below(&sim->rng, (uint64_t)len * 8);

	data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

/* False: the link is cut; the step is tried again later, or the connection has broken. */
static bool gets_through(struct xfer *x, event_fn *again)
{
	struct transport_conn *c = x->c;
	struct sim *sim = c->sim;

	if (!unreachable(c)) {
		c->stuck_since_ns = 0;
		return true;
	}
	if (!c->stuck_since_ns)
		c->stuck_since_ns = sim->now_ns;
	if (sim->now_ns - c->stuck_since_ns > c->give_up_ns)
		conn_break(c);
	else
		xfer_plan(x, sim->now_ns + RETRY_NS, again);
	return false;
}

static void execute(struct xfer *x)
{
	struct transport_conn *c = x->c;
	uint8_t *at = donor_reach(donor_of(c), (unsigned)c->client, x->rkey, x->raddr, x->len);

	if (!at) {
		x->status = -EREMOTEIO;
	} else if (x->kind == TRANSPORT_WRITE) {
		memcpy(at, x->op->buf, x->len);
	} else {
		x->data = malloc(x->len);
		if (!x->data)
			abort();
		memcpy(x->data, at, x->len);
	}
	xfer_plan(x, c->sim->now_ns + sim_delay(c->sim, c->donor) + x->len / 10, answer_event);
}

/* The request is at the donor. */
static void arrive_event(struct sim *sim, void *object, uint64_t a)
{
	struct xfer *x = object;
	struct transport_conn *c = x->c;
	struct sdonor *d = donor_of(c);

	if (x->op && !x->completed && gets_through(x, arrive_event)) {
		if (!d->up || d->life != c->donor_life ||
			donor_token_client(d, c->token) != c->client)
			conn_break(c);
		else
			execute(x);
	}
	xfer_event_end(x);
}

static void answer_event(struct sim *sim, void *object, uint64_t a)
{
	struct xfer *x = object;

	if (x->op && !x->completed && gets_through(x, answer_event)) {
		if (x->kind == TRANSPORT_READ && !x->status)
			memcpy(x->op->buf, x->data, x->len);
		xfer_complete(x, x->status);
	}
	xfer_event_end(x);
}

static int wire_poll(struct transport *t, unsigned budget)
{
	unsigned n = 0;

	while (t->done_head && n < budget) {
		struct xfer *x = t->done_head;
		struct transport_conn *c = x->c;
		struct transport_op *op = x->op;
		int status = x->status;

		t->done_head = x->next_done;
		if (!t->done_head)
			t->done_tail = NULL;
		c->outstanding--;
		if (x->kind == TRANSPORT_READ && !status && sim_chance(t->sim, FAULT_FLIP_WIRE)) {
			flip(t->sim, op->buf, op->len);
			ref_loss(&t->sim->backend[t->b].ref);
		}
		x->op = NULL;
		xfer_put(x);
		op->done(op, status);
		n++;
	}
	return (int)n;
}

static bool wire_conn_broken(const struct transport_conn *c)
{
	return c->state == CONN_BROKEN;
}

static int wire_arm(struct transport *t)
{
	return t->done_head ? -EAGAIN : 0;
}

static int wire_event_fd(struct transport *t)
{
	return -1;
}

static void wire_disconnect(struct transport_conn *c)
{
	struct transport *t = c->t;

	/* Those that wait for poll(), then those on their way. */
	for (struct xfer **p = &t->done_head; *p;) {
		struct xfer *x = *p;
		struct transport_op *op = x->op;

		if (x->c != c) {
			p = &x->next_done;
			continue;
		}
		*p = x->next_done;
		x->op = NULL;
		c->outstanding--;
		xfer_put(x);
		op->done(op, -ECANCELED);
	}
	t->done_tail = NULL;
	for (struct xfer *x = t->done_head; x; x = x->next_done)
		t->done_tail = x;
	c->state = CONN_BROKEN;
	while (c->first) {
		struct xfer *x = c->first;
		struct transport_op *op = x->op;

		make_late(x);
		xfer_unlink_op(x);
		x->op = NULL;
		c->outstanding--;
		xfer_put(x);
		op->done(op, -ECANCELED);
	}
}

static void wire_destroy(struct transport_conn *c)
{
	c->destroyed = true;
	c->t = NULL;
	conn_unref(c);
}

const struct transport_ops transport_sim = {
	.name = "sim",
	.open = wire_open,
	.close = wire_close,
	.mem_register = wire_mem_register,
	.connect = wire_connect,
	.conn_fd = wire_conn_fd,
	.conn_progress = wire_conn_progress,
	.attach = wire_attach,
	.post = wire_post,
	.doorbell = wire_doorbell,
	.poll = wire_poll,
	.conn_broken = wire_conn_broken,
	.arm = wire_arm,
	.event_fd = wire_event_fd,
	.disconnect = wire_disconnect,
	.destroy = wire_destroy,
};

void wire_break(struct sim *sim, unsigned donor, const uint64_t token[2])
{
	for (struct transport_conn *c = sim->conns; c; c = c->next)
		if (c->donor == donor && c->t && c->state == CONN_UP && !unreachable(c) &&
			(!token || !memcmp(c->token, token, sizeof(c->token))))
			conn_break(c);
}

bool wire_break_random(struct sim *sim)
{
	unsigned n = 0, pick;

	for (struct transport_conn *c = sim->conns; c; c = c->next)
		n += c->t && c->state == CONN_UP;
	if (!n)
		return false;
	pick = (unsigned)rng_below(&sim->rng, n);
	for (struct transport_conn *c = sim->conns; c; c = c->next)
		if (c->t && c->state == CONN_UP && !pick--) {
			conn_break(c);
			return true;
		}
	return false;
}

void wire_free(struct sim *sim)
{
	while (sim->xfers) {
		sim->xfers->refs = 1;
		xfer_put(sim->xfers);
	}
	while (sim->conns) {
		struct transport_conn *c = sim->conns;

		sim->conns = c->next;
		free(c);
	}
}
