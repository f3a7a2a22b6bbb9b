/* A lane's thread: messages, clients' requests, transfers, the engine's time; then sleep. */
#include "client-backend/lane_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "lib/core/log.h"

#define MESSAGES_PER_LOOP  32u
#define REQUESTS_PER_LOOP  64u
#define TRANSFERS_PER_LOOP 64u
#define WORK_EVERY_NS	   1000000ull /* background work of a busy lane */
#define PUBLISH_EVERY_NS   250000000ull
#define SLEEP_MAX_MS	   3600000
#define EVENTS		   32
#define EDGE_ROUNDS	   32u /* a thousand who rang; level-triggered ones show each time */
#define STOP_WAIT_NS	   10000000000ull
#define REPLY_WAIT_TRIES   100000u /* of 100 us */
#define NEVER		   UINT64_MAX

/*
 * The ring holds more than all lanes send in a normal second. If it is full the control thread has
 * been stuck for long; a reply that would be missed waits, what is repeated anyway does not.
 */
void lane_reply(struct lane *l, struct lane_reply *r)
{
	bool repeated = r->type == LANE_REPLY_WANT_REGIONS || r->type == LANE_REPLY_BAD_DATA;

	r->lane = l->cfg.lane;
	for (unsigned i = 0; ring_push(l->replies, r) < 0; i++) {
		if (repeated || i == REPLY_WAIT_TRIES) {
			stat_add(&l->stats.replies_lost, 1);
			return;
		}
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	}
}

/* ---- what the engine asks for ---- */

static int op_io(struct lane *l, struct engine_io *io,
	int (*disk_io)(struct tier_disk *, struct engine_io *),
	int (*remote_io)(struct tier_remote *, struct engine_io *))
{
	int r = io->region ? remote_io(l->remote, io) : l->disk ? disk_io(l->disk, io) : -ENOTCONN;

	if (!r)
		l->io_started = true;
	else if (r == -ENOTCONN)
		stat_add(&l->stats.io_refused_down, 1);
	return r;
}

static int op_io_read(void *ctx, struct engine_io *io)
{
	return op_io(ctx, io, tier_disk_read, tier_remote_read);
}

static int op_io_write(void *ctx, struct engine_io *io)
{
	return op_io(ctx, io, tier_disk_write, tier_remote_write);
}

static void op_io_abandon(void *ctx, struct engine_io *io)
{
	tier_remote_abandon(((struct lane *)ctx)->remote, io);
}

static void op_io_kick(void *ctx)
{
	struct lane *l = ctx;

	if (!l->io_started)
		return;
	l->io_started = false;
	tier_remote_kick(l->remote);
	if (l->disk)
		tier_disk_kick(l->disk);
}

static void op_want_regions(void *ctx, unsigned count, bool ephemeral)
{
	struct lane_reply r = {
		.type = LANE_REPLY_WANT_REGIONS, .want = {.count = count, .ephemeral = ephemeral}};

	lane_reply(ctx, &r);
}

static void op_region_spare(void *ctx, const struct engine_region_desc *region, bool spare)
{
	struct lane_reply r = {
		.type = LANE_REPLY_REGION_SPARE, .spare = {.region = *region, .value = spare}};

	lane_reply(ctx, &r);
}

static void op_region_released(void *ctx, const struct engine_region_desc *region)
{
	struct lane_reply r = {.type = LANE_REPLY_REGION_RELEASED, .region = *region};

	lane_reply(ctx, &r);
}

static void op_donor_bad_data(void *ctx, unsigned donor)
{
	struct lane_reply r = {.type = LANE_REPLY_BAD_DATA, .donor = donor};

	lane_reply(ctx, &r);
}

const struct engine_ops lane_engine_ops = {
	.io_read = op_io_read,
	.io_write = op_io_write,
	.io_abandon = op_io_abandon,
	.io_kick = op_io_kick,
	.want_regions = op_want_regions,
	.region_spare = op_region_spare,
	.region_released = op_region_released,
	.donor_bad_data = op_donor_bad_data,
};

void lane_link_broken(
	void *ctx, unsigned donor, enum tier_remote_channel channel, struct transport_conn *conn)
{
	struct lane *l = ctx;
	struct lane_reply r = {.type = LANE_REPLY_LINK_BROKEN,
		.link = {.donor = donor, .channel = channel, .conn = conn}};

	l->donors_dirty = true;
	lane_reply(l, &r);
}

static void op_queue_detached(void *ctx, struct vhost_queue *q, void *token)
{
	struct lane_reply r = {.type = LANE_REPLY_CALL, .call = {.call = token}};

	lane_reply(ctx, &r);
}

const struct vhost_lane_ops lane_vhost_ops = {.detached = op_queue_detached};

static void op_nbd_detached(void *ctx, struct nbd_conn *c, void *token)
{
	struct lane_reply r = {.type = LANE_REPLY_CALL, .call = {.call = token}};

	lane_reply(ctx, &r);
}

const struct nbd_lane_ops lane_nbd_ops = {.detached = op_nbd_detached};

/* A donor is up for the engine when the control thread says so and a connection is there. Without
 * the one for moves it can be read, but nothing may be placed there: it counts as suspect. */
void lane_donors_tell(struct lane *l)
{
	l->donors_dirty = false;
	for (unsigned i = 0; i < l->cfg.donors; i++) {
		bool connected = tier_remote_connected(l->remote, i);
		bool up = l->donor[i].up && connected;
		bool suspect = l->donor[i].suspect || !tier_remote_writable(l->remote, i);

		stat_set(&l->usage.donor[i].connected, connected);
		if (l->donor[i].told && l->donor[i].told_up == up &&
			l->donor[i].told_suspect == suspect)
			continue;
		l->donor[i].told = true;
		l->donor[i].told_up = up;
		l->donor[i].told_suspect = suspect;
		engine_donor_state(l->engine, i, up, suspect);
	}
}

/* ---- what the control thread asks for ---- */

static void region_message(struct lane *l, const struct lane_msg *m)
{
	const struct engine_region_desc *d = &m->region;
	int i = engine_region_find(l->engine, d->donor_name, d->region_id, d->epoch);

	if (m->type == LANE_REGION_ADD) {
		int r = i < 0 ? engine_region_add(l->engine, d) : -EEXIST;
		if (r < 0) {
			log_warn_limited("lane", "lane %u gives a region of %s back: %s",
				l->cfg.lane, d->donor_name, strerror(-r));
			op_region_released(l, d);
		}
		return;
	}
	if (i < 0)
		return; /* released in the meantime */
	if (m->type == LANE_REGION_BIND)
		engine_region_bind(l->engine, (unsigned)i, d->donor, d->domain, d->rkey, d->raddr);
	else if (m->type == LANE_REGION_REVOKE)
		engine_region_revoke(l->engine, (unsigned)i);
	else
		engine_region_lost(l->engine, (unsigned)i);
}

static void link_message(struct lane *l, const struct lane_msg *m)
{
	struct lane_reply r = {.type = LANE_REPLY_LINK_DETACHED, .link = m->link};

	l->donors_dirty = true;
	if (m->type == LANE_LINK_ATTACH) {
		int e = tier_remote_attach(
			l->remote, m->link.donor, m->link.channel, m->link.ops, m->link.conn);
		if (!e)
			return;
		r.type = LANE_REPLY_LINK_BROKEN;
	} else {
		r.link.conn = tier_remote_detach(l->remote, m->link.donor, m->link.channel);
	}
	lane_reply(l, &r);
}

static void call_answer(struct lane *l, const struct lane_msg *m, int status, uint64_t value)
{
	struct lane_reply r = {.type = LANE_REPLY_CALL,
		.call = {.call = m->call, .status = status, .value = value}};

	if (m->call)
		lane_reply(l, &r);
}

static void reserve_message(struct lane *l, const struct lane_msg *m)
{
	uint64_t possible;
	int status = engine_pool_reserve(
		l->engine, m->reserve.pool, &m->reserve.value, m->reserve.keep_asking, &possible);

	call_answer(l, m, status, possible);
}

void lane_message(struct lane *l, const struct lane_msg *m)
{
	switch (m->type) {
	case LANE_REGION_ADD:
	case LANE_REGION_BIND:
	case LANE_REGION_REVOKE:
	case LANE_REGION_LOST:
		region_message(l, m);
		break;
	case LANE_DONOR_STATE:
		l->donor[m->donor.index].up = m->donor.up;
		l->donor[m->donor.index].suspect = m->donor.suspect;
		l->donors_dirty = true;
		break;
	case LANE_LINK_ATTACH:
	case LANE_LINK_DETACH:
		link_message(l, m);
		break;
	case LANE_SESSION_ATTACH:
		call_answer(l, m, socket_lane_attach(l->sockets, m->session), 0);
		break;
	case LANE_SESSION_DETACH:
		socket_lane_detach(l->sockets, m->session);
		call_answer(l, m, 0, 0);
		break;
	case LANE_QUEUE_ATTACH:
		call_answer(l, m, vhost_lane_attach(l->guests, m->queue), 0);
		break;
	case LANE_QUEUE_UPDATE:
		call_answer(l, m, vhost_lane_update(l->guests, m->queue), 0);
		break;
	case LANE_QUEUE_DETACH:
		vhost_lane_detach(l->guests, m->queue, m->call);
		break;
	case LANE_NBD_ATTACH:
		call_answer(l, m, nbd_lane_attach(l->nbd, m->nbd), 0);
		break;
	case LANE_NBD_DETACH:
		nbd_lane_detach(l->nbd, m->nbd, m->call);
		break;
	case LANE_POOL_ADD:
		call_answer(l, m, engine_pool_add(l->engine, &m->pool), 0);
		break;
	case LANE_POOL_DESTROY:
		call_answer(l, m, engine_pool_destroy(l->engine, m->pool_id), 0);
		break;
	case LANE_POOL_PAGES:
		call_answer(l, m, 0, engine_pool_pages(l->engine, m->pool_id));
		break;
	case LANE_POOL_RESERVE:
		reserve_message(l, m);
		break;
	case LANE_CACHE_DETACH:
		if (m->cache)
			disk_cache_detach(m->cache, l->disks);
		call_answer(l, m, 0, 0);
		break;
	case LANE_ACCOUNT_SET:
		if (engine_account_set(l->engine, m->account.index, &m->account.value) < 0)
			log_error("lane", "account %s was refused by lane %u",
				m->account.value.name, l->cfg.lane);
		break;
	case LANE_TUNE:
		engine_tune(l->engine, &m->tune.engine);
		l->cfg.idle_poll_ns = m->tune.idle_poll_ns;
		l->cfg.get_poll_ns = m->tune.get_poll_ns;
		break;
	case LANE_PING:
		call_answer(l, m, 0, 0);
		break;
	case LANE_STOP:
		l->stopping = true;
		break;
	}
}

/* ---- the loop ---- */

static void usage_publish(struct lane *l)
{
	struct lane_usage *u = &l->usage;
	uint64_t a, b;

	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		if (!engine_account(l->engine, i))
			continue;
		engine_account_usage(l->engine, i, &a, &b);
		stat_set(&u->account[i].local_bytes, a);
		stat_set(&u->account[i].pages, b);
	}
	for (unsigned i = 0; i < l->cfg.donors; i++) {
		engine_donor_usage(l->engine, i, &a, &b);
		stat_set(&u->donor[i].segments, a);
		stat_set(&u->donor[i].live_bytes, b);
	}
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		const struct engine_pool_desc *d = engine_pool_row(l->engine, i);
		stat_set(&u->pool_pages[i], d ? engine_pool_pages(l->engine, d->id) : 0);
	}
}

/* Donors take regions back whenever they want to: a promise may become one that cannot be kept. */
static void short_tell(struct lane *l)
{
	uint64_t pages = stat_get(&engine_stats(l->engine)->reserved_short_pages);

	if ((pages > 0) == l->short_told)
		return;
	l->short_told = pages > 0;
	if (pages)
		log_warn_limited("lane",
			"lane %u: there is no room for %" PRIu64
			" promised pages (%.2f GiB) until donors lease more",
			l->cfg.lane, pages, (double)pages * ENGINE_PAGE_BYTES / (1 << 30));
	else
		log_info("lane", "lane %u: there is room for every promised page again",
			l->cfg.lane);
}

/* One round of everything that may have happened; false: nothing had. */
static bool lane_round(struct lane *l)
{
	struct lane_msg m;
	unsigned done = 0;

	for (unsigned i = 0; i < MESSAGES_PER_LOOP && ring_pop(&l->inbox, &m); i++, done++)
		lane_message(l, &m);
	stat_add(&l->stats.messages, done);
	done += socket_lane_poll(l->sockets, REQUESTS_PER_LOOP);
	done += vhost_lane_poll(l->guests, REQUESTS_PER_LOOP);
	done += nbd_lane_poll(l->nbd, REQUESTS_PER_LOOP);
	done += disk_lane_poll(l->disks);
	done += tier_remote_poll(l->remote, TRANSFERS_PER_LOOP);
	if (l->disk) {
		int n = tier_disk_poll(l->disk);
		done += n > 0 ? (unsigned)n : 0;
	}
	if (l->donors_dirty)
		lane_donors_tell(l);
	vhost_lane_flush(l->guests);
	nbd_lane_flush(l->nbd);
	return done > 0;
}

/* The engine's own time; true: it has more to do at once. */
static bool lane_background(struct lane *l, bool busy, uint64_t now)
{
	bool more = false;

	if (busy || now >= l->tick_ns)
		l->tick_ns = engine_tick(l->engine);
	if (!busy || now - l->work_ns >= WORK_EVERY_NS) {
		more = engine_work(l->engine);
		l->work_ns = now;
	}
	short_tell(l);
	engine_kick(l->engine);
	op_io_kick(l);
	if (l->publish_ns == NEVER && (busy || more))
		l->publish_ns = now + PUBLISH_EVERY_NS;
	if (now >= l->publish_ns) {
		usage_publish(l);
		l->publish_ns = NEVER;
	}
	return more;
}

static int sleep_ms(const struct lane *l, uint64_t now)
{
	uint64_t until = l->tick_ns, t = tier_remote_deadline_ns(l->remote);

	until = t < until ? t : until;
	t = l->disk ? tier_disk_deadline_ns(l->disk) : NEVER;
	until = t < until ? t : until;
	until = l->publish_ns < until ? l->publish_ns : until;
	if (until == NEVER)
		return -1;
	if (until <= now)
		return 0;
	uint64_t ms = (until - now + 999999) / 1000000;
	return ms > SLEEP_MAX_MS ? SLEEP_MAX_MS : (int)ms;
}

static bool transports_arm(struct lane *l)
{
	for (unsigned i = 0; i < LANE_TRANSPORTS; i++)
		if (l->transport[i].t && l->transport[i].ops->arm(l->transport[i].t) < 0)
			return false;
	return true;
}

/* Everyone who has work for us is asked to ring first; whoever has some already keeps us awake. */
static void lane_sleep(struct lane *l)
{
	struct epoll_event ev[EVENTS];

	if (!ring_sleep(&l->inbox))
		return;
	if (!socket_lane_prepare_sleep(l->sockets))
		goto awake;
	if (!vhost_lane_prepare_sleep(l->guests))
		goto sockets_awake;
	if (!nbd_lane_prepare_sleep(l->nbd) || !disk_lane_prepare_sleep(l->disks))
		goto guests_awake;
	if (transports_arm(l)) {
		int timeout_ms = sleep_ms(l, env_now_ns(&l->env));

		stat_add(&l->stats.sleeps, 1);
		if (timeout_ms && epoll_wait(l->epoll_fd, ev, EVENTS, timeout_ms) > 0)
			stat_add(&l->stats.wakes, 1);
	}
	disk_lane_wake(l->disks);
guests_awake:
	vhost_lane_wake(l->guests);
sockets_awake:
	socket_lane_wake(l->sockets);
	/* Takes the edges of those who rang before they were told not to; one that stays costs a
	 * wake-up. */
	for (unsigned i = 0; i < EDGE_ROUNDS; i++)
		if (epoll_wait(l->epoll_fd, ev, EVENTS, 0) < EVENTS)
			break;
awake:
	ring_awake(&l->inbox);
}

/* No transfer may outlive the thread: links and sessions are gone, what the disk holds is waited
 * for. */
static void lane_end(struct lane *l)
{
	uint64_t limit = env_now_ns(&l->env) + STOP_WAIT_NS;
	struct lane_reply r = {.type = LANE_REPLY_STOPPED};

	while (l->disk && stat_get(&tier_disk_stats(l->disk)->in_flight) &&
		env_now_ns(&l->env) < limit) {
		tier_disk_kick(l->disk);
		tier_disk_poll(l->disk);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	usage_publish(l);
	lane_reply(l, &r);
}

static uint64_t poll_ns(const struct lane *l)
{
	bool waited_for = engine_gets_in_flight(l->engine) > 0;

	return waited_for && l->cfg.get_poll_ns > l->cfg.idle_poll_ns ? l->cfg.get_poll_ns
								      : l->cfg.idle_poll_ns;
}

void *lane_main(void *arg)
{
	struct lane *l = arg;
	uint64_t idle_since = 0;

	while (!l->stopping) {
		bool busy = lane_round(l);
		uint64_t now = env_now_ns(&l->env);

		busy |= lane_background(l, busy, now);
		stat_add(&l->stats.loops, 1);
		if (busy) {
			idle_since = now;
			continue;
		}
		if (now - idle_since >= poll_ns(l))
			lane_sleep(l);
	}
	lane_end(l);
	return NULL;
}
