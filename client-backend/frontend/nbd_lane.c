/* The lane's end of the NBD front end: reads commands from the connections and sends the answers.
 */
#include "client-backend/frontend/nbd_lane.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client-backend/frontend/nbd_conn.h"

#define QUANTUM	      32u /* commands of one connection before it is the next one's turn */
#define SEND_ANSWERS  64u /* with one system call */
#define SENDS_PER_RUN 4u  /* of one connection */
#define EVENTS	      32

struct nbd_lane {
	unsigned lane;
	const struct nbd_lane_ops *ops;
	void *ctx;
	int epoll_fd; /* its own: asked once per round, while the lane is awake, too */
	unsigned count;
	struct nbd_lane_stats stats;
	struct nbd_conn *conn[NBD_LANE_MAX_CONNS];
};

/* ---- life ---- */

int nbd_lane_new(unsigned lane, const struct nbd_lane_ops *ops, void *ctx, struct nbd_lane **out)
{
	struct nbd_lane *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0) {
		int err = -errno;

		free(l);
		return err;
	}
	l->lane = lane;
	l->ops = ops;
	l->ctx = ctx;
	*out = l;
	return 0;
}

void nbd_lane_delete(struct nbd_lane *l)
{
	if (!l)
		return;
	assert(!l->count);
	close(l->epoll_fd);
	free(l);
}

const struct nbd_lane_stats *nbd_lane_stats(const struct nbd_lane *l)
{
	return &l->stats;
}

int nbd_lane_event_fd(const struct nbd_lane *l)
{
	return l->epoll_fd;
}

unsigned nbd_lane_number(const struct nbd_lane *l)
{
	return l->lane;
}

void nbd_lane_progress(struct nbd_lane *l, int change)
{
	if (change > 0)
		stat_add(&l->stats.in_progress, 1);
	else
		stat_sub(&l->stats.in_progress, 1);
}

/* ---- when epoll is to tell ---- */

static void interest_set(struct nbd_conn *c, uint32_t want)
{
	struct epoll_event ev = {.events = want, .data.ptr = c};

	if (c->interest == want)
		return;
	/* What fails here would fail at attach, too: of a descriptor that is in the set. */
	if (!epoll_ctl(c->lane->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev))
		c->interest = want;
}

/* Of what it cannot use now, nothing is to be told again and again. */
static void interest_update(struct nbd_conn *c)
{
	uint32_t want = 0;

	if (!c->closed && !c->full)
		want |= EPOLLIN;
	if (c->unwritable)
		want |= EPOLLOUT;
	interest_set(c, want);
}

int nbd_lane_attach(struct nbd_lane *l, struct nbd_conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

	if (l->count == NBD_LANE_MAX_CONNS)
		return -ENOSPC;
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		return -errno;
	c->lane = l;
	c->interest = EPOLLIN;
	l->conn[l->count++] = c;
	stat_set(&l->stats.conns, l->count);
	return 0;
}

/* ---- the end of a connection ---- */

/* No more commands; dead: no more answers. The control thread is told once. */
static void conn_close(struct nbd_conn *c, bool dead, enum nbd_violation why)
{
	uint64_t one = 1;

	if (c->receiving) {
		nbd_request_free(c->receiving);
		c->receiving = NULL;
	}
	c->in_at = c->in_end = 0;
	c->more = c->full = c->readable = false;
	if (dead && !c->dead) {
		c->dead = true;
		c->unwritable = false;
		/* A socket that hung up is readable for ever. */
		epoll_ctl(c->lane->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
		while (c->out_first) {
			struct nbd_request *r = c->out_first;

			c->out_first = r->next;
			nbd_request_free(r);
		}
	}
	if (c->closed)
		return;
	c->closed = true;
	if (c->stopping)
		return;
	c->why = why;
	atomic_store_explicit(&c->over, true, memory_order_release);
	/* Nonblocking; full means that the control thread was told already. */
	ssize_t n = write(c->over_fd, &one, sizeof(one));
	(void)n;
}

void nbd_lane_detach(struct nbd_lane *l, struct nbd_conn *c, void *token)
{
	assert(c->lane == l && !c->stopping);
	c->stopping = true;
	c->token = token;
	conn_close(c, false, NBD_VIOLATION_NONE);
}

static bool conn_drained(const struct nbd_conn *c)
{
	return c->stopping && !c->in_flight && (!c->out_first || c->unwritable);
}

static void conn_end(struct nbd_lane *l, unsigned i)
{
	struct nbd_conn *c = l->conn[i];

	conn_close(c, true, NBD_VIOLATION_NONE);
	l->conn[i] = l->conn[--l->count];
	stat_set(&l->stats.conns, l->count);
	c->lane = NULL;
	l->ops->detached(l->ctx, c, c->token);
}

/* ---- commands ---- */

static uint32_t min32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* So many bytes of the write's data are there. */
static void received(struct nbd_conn *c, uint32_t bytes)
{
	struct nbd_request *r = c->receiving;

	r->missing -= bytes;
	if (r->missing)
		return;
	c->receiving = NULL;
	nbd_request_run(r);
}

/* Where the next byte of the write's data goes; NULL: nowhere. */
static uint8_t *receive_at(const struct nbd_request *r)
{
	return r->data.base ? r->data.base + (r->data.len - r->missing) : NULL;
}

static void data_take(struct nbd_conn *c)
{
	uint32_t n = min32(c->in_end - c->in_at, c->receiving->missing);
	uint8_t *to = receive_at(c->receiving);

	if (to)
		memcpy(to, c->in + c->in_at, n);
	c->in_at += n;
	received(c, n);
}

/* A whole header is there. False: no more can be taken now. */
static bool command_take(struct nbd_conn *c)
{
	struct nbd_wire_request w;

	memcpy(&w, c->in + c->in_at, sizeof(w));
	struct nbd_command_in in = {.flags = be16toh(w.flags),
		.type = be16toh(w.type),
		.bytes = be32toh(w.bytes),
		.cookie = w.cookie,
		.offset = be64toh(w.offset)};
	if (be32toh(w.magic) != NBD_REQUEST_MAGIC || in.type == NBD_CMD_DISC) {
		/* What is under way is finished and answered after a DISC. */
		bool wrong = be32toh(w.magic) != NBD_REQUEST_MAGIC;

		conn_close(c, wrong, wrong ? NBD_VIOLATION_MAGIC : NBD_VIOLATION_NONE);
		return false;
	}
	struct nbd_request *r = nbd_request_take(c, &in);
	if (!r) {
		stat_add(&c->lane->stats.stalls, 1);
		c->full = true;
		return false;
	}
	c->in_at += (uint32_t)sizeof(w);
	stat_add(&c->lane->stats.requests, 1);
	if (r->missing)
		c->receiving = r;
	else
		nbd_request_run(r);
	return true;
}

/* Takes what `in` holds. How many commands. */
static unsigned commands_take(struct nbd_conn *c, unsigned budget)
{
	unsigned n = 0;

	c->more = false;
	while (!c->closed && c->in_at < c->in_end) {
		if (c->receiving) {
			data_take(c);
			continue;
		}
		if (c->in_end - c->in_at < sizeof(struct nbd_wire_request))
			break;
		if (n == budget) {
			c->more = true;
			break;
		}
		if (!command_take(c))
			break;
		n++;
	}
	if (c->in_at == c->in_end)
		c->in_at = c->in_end = 0;
	return n;
}

/* Once. The data of a write goes to its place, what follows it to `in`. True: something came. */
static bool receive(struct nbd_conn *c)
{
	struct iovec iov[2];
	int count = 0;
	uint32_t direct = 0;

	if (c->in_at) {
		memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
		c->in_end -= c->in_at;
		c->in_at = 0;
	}
	if (c->receiving && receive_at(c->receiving)) {
		direct = c->receiving->missing;
		iov[count++] =
			(struct iovec){.iov_base = receive_at(c->receiving), .iov_len = direct};
	}
	iov[count++] =
		(struct iovec){.iov_base = c->in + c->in_end, .iov_len = sizeof(c->in) - c->in_end};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	c->readable = false;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		conn_close(c, true, NBD_VIOLATION_NONE);
		return true;
	}
	stat_add(&c->lane->stats.receives, 1);
	uint32_t got = (uint32_t)n, to_data = min32(got, direct);
	c->in_end += got - to_data;
	if (to_data)
		received(c, to_data);
	return true;
}

static unsigned conn_poll(struct nbd_conn *c, unsigned budget)
{
	unsigned n = 0;

	if (c->more)
		n = commands_take(c, budget);
	if (!c->closed && !c->full && !(c->interest & EPOLLIN))
		interest_update(c);
	if (c->readable && !c->closed && !c->more && !c->full && receive(c)) {
		n++;
		n += commands_take(c, budget);
	}
	return n;
}

static void events_take(struct nbd_lane *l)
{
	struct epoll_event ev[EVENTS];
	int n = epoll_wait(l->epoll_fd, ev, EVENTS, 0);

	for (int i = 0; i < n; i++) {
		struct nbd_conn *c = ev[i].data.ptr;

		if (ev[i].events & (EPOLLERR | EPOLLHUP)) {
			/* Nobody takes answers; what the client sent before is of no use then. */
			conn_close(c, true, NBD_VIOLATION_NONE);
			continue;
		}
		c->readable |= !c->closed && ev[i].events & EPOLLIN;
		if (ev[i].events & EPOLLOUT) {
			c->unwritable = false;
			interest_update(c);
		}
	}
}

unsigned nbd_lane_poll(struct nbd_lane *l, unsigned budget)
{
	unsigned total = 0;

	if (!l->count)
		return 0;
	events_take(l);
	for (unsigned i = 0; i < l->count && total < budget; i++)
		total += conn_poll(l->conn[i], QUANTUM);
	/* Whoever was first is last next time. */
	if (total >= budget && l->count > 1) {
		struct nbd_conn *first = l->conn[0];

		memmove(l->conn, l->conn + 1, (l->count - 1) * sizeof(l->conn[0]));
		l->conn[l->count - 1] = first;
	}
	for (unsigned i = 0; total && i < l->count; i++) {
		struct nbd_conn *c = l->conn[i];

		if (c->submitted)
			blk_kick(c->blk, l->lane);
		c->submitted = false;
	}
	return total;
}

/* ---- answers ---- */

static uint32_t answer_bytes(const struct nbd_request *r)
{
	return (uint32_t)sizeof(r->reply) + r->answer_bytes;
}

static size_t answers_gather(struct nbd_conn *c, struct iovec iov[2 * SEND_ANSWERS])
{
	size_t n = 0;
	uint32_t skip = c->out_sent;

	for (struct nbd_request *r = c->out_first; r && n + 2 <= (size_t)2 * SEND_ANSWERS;
		r = r->next) {
		if (skip < sizeof(r->reply)) {
			iov[n++] = (struct iovec){.iov_base = (uint8_t *)&r->reply + skip,
				.iov_len = sizeof(r->reply) - skip};
			skip = 0;
		} else {
			skip -= (uint32_t)sizeof(r->reply);
		}
		if (r->answer_bytes)
			iov[n++] = (struct iovec){
				.iov_base = r->data.base + skip, .iov_len = r->answer_bytes - skip};
		skip = 0;
	}
	return n;
}

static void answers_sent(struct nbd_conn *c, size_t bytes)
{
	c->out_sent += (uint32_t)bytes;
	while (c->out_first && c->out_sent >= answer_bytes(c->out_first)) {
		struct nbd_request *r = c->out_first;

		c->out_sent -= answer_bytes(r);
		c->out_first = r->next;
		stat_add(&c->lane->stats.replies, 1);
		nbd_request_free(r);
	}
}

static void answers_send(struct nbd_conn *c)
{
	struct iovec iov[2 * SEND_ANSWERS];

	for (unsigned i = 0; i < SENDS_PER_RUN && c->out_first; i++) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = answers_gather(c, iov)};
		ssize_t n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			c->unwritable = true;
			interest_update(c);
			return;
		}
		if (n < 0 && errno != EINTR) {
			conn_close(c, true, NBD_VIOLATION_NONE);
			return;
		}
		if (n > 0) {
			stat_add(&c->lane->stats.sends, 1);
			answers_sent(c, (size_t)n);
		}
	}
}

void nbd_lane_flush(struct nbd_lane *l)
{
	for (unsigned i = 0; i < l->count;) {
		struct nbd_conn *c = l->conn[i];

		if (c->out_first && !c->unwritable)
			answers_send(c);
		if (conn_drained(c))
			conn_end(l, i);
		else
			i++;
	}
}

bool nbd_lane_prepare_sleep(struct nbd_lane *l)
{
	bool work = false;

	nbd_lane_flush(l);
	for (unsigned i = 0; i < l->count; i++) {
		struct nbd_conn *c = l->conn[i];

		work |= c->more || c->readable || (c->out_first && !c->unwritable);
		if (!c->dead)
			interest_update(c);
	}
	return !work;
}
