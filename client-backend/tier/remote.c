/* The remote tier of one lane: engine I/O onto donors' connections, each transfer with a time
 * limit. */
#include "client-backend/tier/remote.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_TRANSPORTS 4u

struct channel;

/* One transfer; lives in the engine_io's priv area. */
struct remote_io {
	struct transport_op op;
	struct engine_io *io;
	struct channel *channel;
	uint64_t posted_ns;
	struct remote_io *next, **pprev; /* of its channel, oldest first */
};
_Static_assert(sizeof(struct remote_io) <= sizeof(((struct engine_io *)0)->priv),
	"a remote transfer must fit into engine_io");

struct channel {
	struct tier_remote *tier;
	const struct transport_ops *ops;
	struct transport_conn *conn; /* NULL: not connected */
	struct remote_io *head, **tail;
	uint16_t donor;
	uint8_t which;	    /* enum tier_remote_channel */
	bool doorbell;	    /* something was posted since the last kick */
	bool given_up;	    /* to be broken at the next poll */
	uint32_t connected; /* place in tier->connected */
};

struct tier_remote {
	struct tier_remote_config cfg;
	struct env env;
	struct {
		const struct transport_ops *ops;
		struct transport *t;
	} transport[MAX_TRANSPORTS];
	unsigned transports;
	struct channel channel[ENGINE_MAX_DONORS][TIER_REMOTE_CHANNELS];
	struct channel *connected[ENGINE_MAX_DONORS * TIER_REMOTE_CHANNELS];
	unsigned connections;
	bool used[ENGINE_MAX_DONORS];
	struct tier_remote_donor_stats stats[ENGINE_MAX_DONORS];
};

int tier_remote_new(
	const struct tier_remote_config *cfg, const struct env *env, struct tier_remote **out)
{
	struct tier_remote *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->cfg = *cfg;
	r->env = *env;
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		for (unsigned c = 0; c < TIER_REMOTE_CHANNELS; c++) {
			struct channel *ch = &r->channel[d][c];

			ch->tier = r;
			ch->tail = &ch->head;
			ch->donor = (uint16_t)d;
			ch->which = (uint8_t)c;
		}
	*out = r;
	return 0;
}

void tier_remote_delete(struct tier_remote *r)
{
	free(r);
}

int tier_remote_add_transport(
	struct tier_remote *r, const struct transport_ops *ops, struct transport *t)
{
	if (r->transports == MAX_TRANSPORTS)
		return -ENOSPC;
	r->transport[r->transports].ops = ops;
	r->transport[r->transports++].t = t;
	return 0;
}

int tier_remote_attach(struct tier_remote *r, unsigned donor, enum tier_remote_channel channel,
	const struct transport_ops *ops, struct transport_conn *conn)
{
	struct channel *ch = &r->channel[donor][channel];
	int err;

	if (ch->conn)
		return -EEXIST;
	err = ops->attach(conn);
	if (err)
		return err;
	ch->ops = ops;
	ch->conn = conn;
	ch->doorbell = ch->given_up = false;
	ch->connected = r->connections;
	r->connected[r->connections++] = ch;
	r->used[donor] = true;
	return 0;
}

/* The channel is closed to new transfers before the old ones end: their owners may start others at
 * once. */
struct transport_conn *tier_remote_detach(
	struct tier_remote *r, unsigned donor, enum tier_remote_channel channel)
{
	struct channel *ch = &r->channel[donor][channel];
	struct transport_conn *conn = ch->conn;

	if (!conn)
		return NULL;
	ch->conn = NULL;
	struct channel *last = r->connected[--r->connections];

	r->connected[ch->connected] = last;
	last->connected = ch->connected;
	ch->ops->disconnect(conn);
	return conn;
}

bool tier_remote_connected(const struct tier_remote *r, unsigned donor)
{
	return r->channel[donor][TIER_REMOTE_DEMAND].conn != NULL;
}

bool tier_remote_writable(const struct tier_remote *r, unsigned donor)
{
	return r->channel[donor][TIER_REMOTE_BACKGROUND].conn != NULL;
}

static void remote_done(struct transport_op *op, int status)
{
	struct remote_io *t = (struct remote_io *)op; /* op is its first member */
	struct channel *ch = t->channel;
	struct tier_remote_donor_stats *s = &ch->tier->stats[ch->donor];
	struct engine_io *io = t->io;

	*t->pprev = t->next;
	if (t->next)
		t->next->pprev = t->pprev;
	else
		ch->tail = t->pprev;
	if (status == 0) {
		bool read = op->kind == TRANSPORT_READ;

		stat_add(read ? &s->reads : &s->writes, 1);
		stat_add(read ? &s->bytes_read : &s->bytes_written, op->len);
		if (read && !io->background)
			hist_record(&s->read_ns, env_now_ns(&ch->tier->env) - t->posted_ns);
	} else {
		stat_add(status == -EREMOTEIO ? &s->refused : &s->errors, 1);
	}
	io->done(io, status);
}

static int remote_start(struct tier_remote *r, struct engine_io *io, enum transport_op_kind kind)
{
	unsigned donor = io->region->donor;
	struct channel *ch =
		&r->channel[donor][io->background ? TIER_REMOTE_BACKGROUND : TIER_REMOTE_DEMAND];
	struct remote_io *t = (struct remote_io *)io->priv;
	int err;

	if (!ch->conn)
		return -ENOTCONN;
	if (io->memory && !ch->ops->memory_new)
		return -EOPNOTSUPP;
	t->op = (struct transport_op){
		.kind = kind,
		.len = io->len,
		.buf = io->buf,
		.memory = io->memory,
		.rkey = io->region->rkey,
		.raddr = io->region->raddr + io->offset,
		.done = remote_done,
	};
	t->io = io;
	t->channel = ch;
	t->posted_ns = env_now_ns(&r->env);
	err = ch->ops->post(ch->conn, &t->op);
	if (err)
		return err;
	t->next = NULL;
	t->pprev = ch->tail;
	*ch->tail = t;
	ch->tail = &t->next;
	ch->doorbell = true;
	return 0;
}

int tier_remote_read(struct tier_remote *r, struct engine_io *io)
{
	return remote_start(r, io, TRANSPORT_READ);
}

int tier_remote_write(struct tier_remote *r, struct engine_io *io)
{
	return remote_start(r, io, TRANSPORT_WRITE);
}

void tier_remote_abandon(struct tier_remote *r, struct engine_io *io)
{
	struct remote_io *t = (struct remote_io *)io->priv;

	/* A channel that was detached has ended its transfers, this one too. */
	t->channel->given_up = t->channel->conn != NULL;
}

void tier_remote_kick(struct tier_remote *r)
{
	for (unsigned i = 0; i < r->connections; i++) {
		struct channel *ch = r->connected[i];

		if (!ch->doorbell)
			continue;
		ch->doorbell = false;
		ch->ops->doorbell(ch->conn);
	}
}

static uint64_t channel_deadline_ns(const struct channel *ch)
{
	if (ch->given_up)
		return 0;
	return ch->head ? ch->head->posted_ns + ch->tier->cfg.io_timeout_ns : UINT64_MAX;
}

static void channel_break(struct channel *ch)
{
	struct tier_remote *r = ch->tier;
	struct transport_conn *conn =
		tier_remote_detach(r, ch->donor, (enum tier_remote_channel)ch->which);

	r->cfg.broken(r->cfg.ctx, ch->donor, (enum tier_remote_channel)ch->which, conn);
}

unsigned tier_remote_poll(struct tier_remote *r, unsigned budget)
{
	uint64_t now = env_now_ns(&r->env);
	unsigned completed = 0;

	for (unsigned i = 0; i < r->transports; i++) {
		int n = r->transport[i].ops->poll(r->transport[i].t, budget);

		completed += n > 0 ? (unsigned)n : 0;
	}
	/* Breaking a channel moves the last one into its place, so that place is looked at again.
	 */
	for (unsigned i = 0; i < r->connections;) {
		struct channel *ch = r->connected[i];
		bool late = now >= channel_deadline_ns(ch);

		if (late)
			stat_add(&r->stats[ch->donor].timeouts, 1);
		if (late || ch->ops->conn_broken(ch->conn))
			channel_break(ch);
		else
			i++;
	}
	return completed;
}

uint64_t tier_remote_deadline_ns(const struct tier_remote *r)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < r->connections; i++) {
		uint64_t d = channel_deadline_ns(r->connected[i]);

		first = d < first ? d : first;
	}
	return first;
}

const struct tier_remote_donor_stats *tier_remote_stats(const struct tier_remote *r, unsigned donor)
{
	return r->used[donor] ? &r->stats[donor] : NULL;
}
