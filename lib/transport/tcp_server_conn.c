/* One data connection of the memory server over tcp: requests in, answers out, never waiting. */
#include "lib/transport/tcp_server_conn.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void tcp_server_conn_init(struct tcp_server_conn *c, int fd, uint64_t now_ns)
{
	memset(c, 0, sizeof *c);
	c->fd = fd;
	c->busy = true; /* until it has shown a token */
	c->progress_ns = now_ns;
}

static void write_end(struct tcp_server_conn *c)
{
	if (c->write.region)
		server_region_put(c->write.region);
	c->write.region = NULL;
	c->write.active = false;
}

static void answer_pop(struct tcp_server_conn *c)
{
	struct tcp_answer *a = &c->answer[c->first];
	if (a->region)
		server_region_put(a->region);
	a->region = NULL;
	c->first = (c->first + 1) % TCP_CONN_ANSWERS;
	c->answers--;
	c->sent = 0;
}

void tcp_server_conn_fini(struct tcp_server_conn *c, struct tcp_server_ctx *ctx)
{
	write_end(c);
	while (c->answers)
		answer_pop(c);
	server_conn_logout(ctx->table, &c->base);
	close(c->fd);
	c->fd = -1;
}

/* The caller made sure that there is room. */
static struct tcp_answer *answer_push(
	struct tcp_server_conn *c, uint8_t opcode, uint64_t cookie, enum tcp_status status)
{
	struct tcp_answer *a = &c->answer[(c->first + c->answers++) % TCP_CONN_ANSWERS];
	struct tcp_response r = {.opcode = opcode, .cookie = cookie, .status = status};
	a->region = NULL;
	a->data = NULL;
	a->len = 0;
	tcp_response_encode(a->head, &r);
	return a;
}

static bool garbage(struct tcp_server_ctx *ctx)
{
	stat_add(&ctx->stats->closed_garbage, 1);
	return false;
}

static bool handle_hello(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, const uint8_t *p)
{
	struct transport_hello h;
	struct server_client *client;
	if (!tcp_hello_decode(p, &h))
		return garbage(ctx);
	int err = server_conn_login(ctx->table, &c->base, SERVER_CONN_TCP, &h, &client);
	enum tcp_status status = TCP_STATUS_OK;
	if (err == -EACCES) {
		stat_add(&ctx->stats->refused_token, 1);
		status = TCP_STATUS_TOKEN;
	} else if (err < 0) {
		stat_add(&ctx->stats->refused_limit, 1);
		status = TCP_STATUS_LIMIT;
	}
	if (err > 0)
		ctx->killed(ctx->arg);
	answer_push(c, TCP_HELLO, tcp_get64(p + 8), status);
	c->authenticated = err >= 0;
	c->closing = err < 0;
	return true;
}

/* Finds the memory of a request: the region with a reference, or NULL with the status to answer. */
static struct transport_region *request_region(struct tcp_server_conn *c,
	struct tcp_server_ctx *ctx, const struct tcp_request *q, enum tcp_status *status)
{
	bool other;
	if (q->len == 0) {
		stat_add(&ctx->stats->refused_length, 1);
		*status = TCP_STATUS_LENGTH;
		return NULL;
	}
	struct transport_region *r =
		server_region_get(ctx->table, q->key, c->base.client_id, &other);
	if (!r) {
		stat_add(other ? &ctx->stats->refused_client : &ctx->stats->refused_key, 1);
		*status = TCP_STATUS_NO_REGION;
		return NULL;
	}
	if (q->offset > r->len || q->len > r->len - q->offset) {
		server_region_put(r);
		stat_add(&ctx->stats->refused_bounds, 1);
		*status = TCP_STATUS_BOUNDS;
		return NULL;
	}
	*status = TCP_STATUS_OK;
	return r;
}

static bool handle_request(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, const uint8_t *p)
{
	struct tcp_request q;
	enum tcp_status status;
	if (!tcp_request_decode(p, &q))
		return garbage(ctx);
	struct transport_region *r = request_region(c, ctx, &q, &status);
	if (q.opcode == TCP_READ) {
		struct tcp_answer *a = answer_push(c, TCP_READ, q.cookie, status);
		if (r) {
			a->region = r;
			a->data = r->base + q.offset;
			a->len = q.len;
			tcp_put32(a->head + 4, q.len);
		}
		return true;
	}
	if (!r && q.len > TCP_DRAIN_LIMIT_BYTES) {
		if (status != TCP_STATUS_LENGTH)
			stat_add(&ctx->stats->refused_length, 1);
		return false;
	}
	c->write.active = true;
	c->write.region = r;
	c->write.data = r ? r->base + q.offset : NULL;
	c->write.cookie = q.cookie;
	c->write.len = q.len;
	c->write.got = 0;
	c->write.status = status;
	return true;
}

/* Inside an I/O call: a write into a region that has ended is thrown away from here on. */
static void write_recheck(struct tcp_server_conn *c, struct tcp_server_ctx *ctx)
{
	if (!c->write.region || !atomic_load(&c->write.region->dead))
		return;
	server_region_put(c->write.region);
	c->write.region = NULL;
	c->write.status = TCP_STATUS_NO_REGION;
	stat_add(&ctx->stats->refused_key, 1);
}

static void write_progress(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, uint32_t n)
{
	c->write.got += n;
	if (c->write.got < c->write.len)
		return;
	if (c->write.status == TCP_STATUS_OK) {
		stat_add(&ctx->stats->writes, 1);
		stat_add(&ctx->stats->bytes_written, c->write.len);
	}
	answer_push(c, TCP_WRITE, c->write.cookie, c->write.status);
	write_end(c);
}

/* The part of a write's payload that was read ahead with the requests. False: the connection is
 * dead. */
static bool write_from_in(struct tcp_server_conn *c, struct tcp_server_ctx *ctx)
{
	uint32_t n = c->write.len - c->write.got;
	if (n > c->in_len)
		n = c->in_len;
	server_io_begin(ctx->io);
	bool alive = !atomic_load(&c->base.dead);
	if (alive) {
		write_recheck(c, ctx);
		if (c->write.region)
			memcpy(c->write.data + c->write.got, c->in + c->in_pos, n);
	}
	server_io_end(ctx->io);
	c->in_pos += n;
	c->in_len -= n;
	if (alive)
		write_progress(c, ctx, n);
	return alive;
}

/* Carries out what was read ahead, until it is used up or the answers are full. */
static bool consume(struct tcp_server_conn *c, struct tcp_server_ctx *ctx)
{
	while (c->answers < TCP_CONN_ANSWERS && !c->closing) {
		if (c->write.active) {
			if (c->in_len && !write_from_in(c, ctx))
				return false;
			if (c->write.active)
				return true;
			continue;
		}
		if (c->in_len < TCP_REQUEST_BYTES)
			return true;
		const uint8_t *p = c->in + c->in_pos;
		c->in_pos += TCP_REQUEST_BYTES;
		c->in_len -= TCP_REQUEST_BYTES;
		if (!(c->authenticated ? handle_request(c, ctx, p) : handle_hello(c, ctx, p)))
			return false;
	}
	return true;
}

/* Inside an I/O call: answers from regions that have ended become refusals; false when one is half
 * sent. */
static bool answers_recheck(struct tcp_server_conn *c, struct tcp_server_ctx *ctx)
{
	for (uint32_t i = 0; i < c->answers; i++) {
		struct tcp_answer *a = &c->answer[(c->first + i) % TCP_CONN_ANSWERS];
		if (!a->region || !atomic_load(&a->region->dead))
			continue;
		if (i == 0 && c->sent) {
			stat_add(&ctx->stats->closed_revoked, 1);
			return false;
		}
		server_region_put(a->region);
		a->region = NULL;
		a->len = 0;
		tcp_put32(a->head + 4, 0);
		tcp_put32(a->head + 16, TCP_STATUS_NO_REGION);
		stat_add(&ctx->stats->refused_key, 1);
	}
	return true;
}

static unsigned answers_iov(struct tcp_server_conn *c, struct iovec *iov)
{
	unsigned n = 0;
	size_t skip = c->sent;
	for (uint32_t i = 0; i < c->answers; i++) {
		struct tcp_answer *a = &c->answer[(c->first + i) % TCP_CONN_ANSWERS];
		size_t in_head = skip < TCP_RESPONSE_BYTES ? skip : TCP_RESPONSE_BYTES;
		size_t in_data = skip - in_head;
		if (in_head < TCP_RESPONSE_BYTES)
			iov[n++] = (struct iovec){a->head + in_head, TCP_RESPONSE_BYTES - in_head};
		if (in_data < a->len)
			iov[n++] = (struct iovec){a->data + in_data, a->len - in_data};
		skip = 0;
	}
	return n;
}

static void answers_sent(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, size_t n)
{
	while (n) {
		struct tcp_answer *a = &c->answer[c->first];
		size_t left = (size_t)TCP_RESPONSE_BYTES + a->len - c->sent;
		if (n < left) {
			c->sent += n;
			return;
		}
		n -= left;
		if (a->region) {
			stat_add(&ctx->stats->reads, 1);
			stat_add(&ctx->stats->bytes_read, a->len);
		}
		answer_pop(c);
	}
}

static bool socket_failed(struct tcp_server_ctx *ctx)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return false;
	stat_add(&ctx->stats->closed_error, 1);
	return true;
}

/* Sends what is answered; want_out tells whether some is left. Adds to *moved. */
static bool flush(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, size_t *moved)
{
	struct iovec iov[2 * TCP_CONN_ANSWERS];
	while (c->answers) {
		struct msghdr msg = {.msg_iov = iov};
		ssize_t n = -1;
		server_io_begin(ctx->io);
		bool ok = !atomic_load(&c->base.dead) && answers_recheck(c, ctx);
		if (ok) {
			msg.msg_iovlen = answers_iov(c, iov);
			n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		}
		server_io_end(ctx->io);
		if (!ok)
			return false;
		if (n < 0) {
			c->want_out = true;
			return !socket_failed(ctx);
		}
		*moved += (size_t)n;
		answers_sent(c, ctx, (size_t)n);
	}
	c->want_out = false;
	return !c->closing;
}

/* Reads: the rest of a write's payload straight to its place, then requests. -1 close, 0 dry, 1 got
 * some. */
static int receive(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, size_t *moved)
{
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov};
	size_t payload = 0, asked = 0;
	ssize_t n = -1;
	if (c->in_len)
		memmove(c->in, c->in + c->in_pos, c->in_len);
	c->in_pos = 0;
	server_io_begin(ctx->io);
	bool alive = !atomic_load(&c->base.dead);
	if (alive) {
		if (c->write.active) {
			write_recheck(c, ctx);
			payload = c->write.len - c->write.got;
			if (payload > TCP_CONN_TURN)
				payload = TCP_CONN_TURN;
			iov[msg.msg_iovlen++] = (struct iovec){
				c->write.region ? c->write.data + c->write.got : ctx->drain,
				payload};
		}
		asked = payload;
		if (!c->write.active || c->write.got + payload == c->write.len) {
			size_t room = TCP_CONN_IN_BYTES - c->in_len;
			iov[msg.msg_iovlen++] = (struct iovec){c->in + c->in_len, room};
			asked += room;
		}
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	}
	server_io_end(ctx->io);
	if (!alive)
		return -1;
	if (n < 0)
		return socket_failed(ctx) ? -1 : 0;
	if (n == 0)
		return -1; /* the peer has closed it */
	*moved += (size_t)n;
	size_t to_write = (size_t)n < payload ? (size_t)n : payload;
	c->in_len += (uint32_t)((size_t)n - to_write);
	if (to_write)
		write_progress(c, ctx, (uint32_t)to_write);
	return (size_t)n < asked ? 0 : 1;
}

bool tcp_server_conn_run(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, uint64_t now_ns)
{
	size_t moved = 0;
	bool dry = false, ok = true;
	c->more = false;
	c->want_out = false;
	for (;;) {
		ok = consume(c, ctx) && flush(c, ctx, &moved);
		if (!ok || c->want_out)
			break;
		if (c->in_len >= TCP_REQUEST_BYTES && !c->write.active) {
			c->more = moved >= TCP_CONN_TURN;
			if (c->more)
				break;
			continue;
		}
		if (dry || moved >= TCP_CONN_TURN)
			break; /* epoll tells when the socket has more */
		int got = receive(c, ctx, &moved);
		if (got < 0) {
			ok = false;
			break;
		}
		dry = got == 0;
	}
	if (!ok && atomic_load(&c->base.dead))
		stat_add(&ctx->stats->closed_session, 1);
	if (moved && c->authenticated)
		c->progress_ns = now_ns;
	c->busy = !c->authenticated || c->want_out || c->write.active || c->in_len;
	return ok;
}

bool tcp_server_conn_check(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, uint64_t now_ns,
	uint64_t handshake_ns, uint64_t stall_ns)
{
	if (atomic_load(&c->base.dead)) {
		stat_add(&ctx->stats->closed_session, 1);
		return false;
	}
	if (!c->busy || c->more)
		return true;
	/* the thread that accepted it may have looked at the clock later than this one */
	uint64_t idle_ns = now_ns > c->progress_ns ? now_ns - c->progress_ns : 0;
	if (!c->authenticated && idle_ns > handshake_ns) {
		stat_add(&ctx->stats->closed_handshake, 1);
		return false;
	}
	if (idle_ns > stall_ns) {
		stat_add(&ctx->stats->closed_stalled, 1);
		return false;
	}
	return true;
}
