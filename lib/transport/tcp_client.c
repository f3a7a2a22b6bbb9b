/* The data half of the tcp transport: requests out of, and answers into, leased memory of a lane.
 */
#include "lib/transport/tcp_client.h"
#include "lib/transport/done_list.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define TCP_CLIENT_IOV	  64
#define TCP_CLIENT_EVENTS 32
#define TCP_DIRECT_CONNS  4  /* with more busy connections than this epoll tells which to read */
#define TCP_LOOK_EVERY	  64 /* polls; finds connections that broke while they had nothing to do */

static int tcp_open(const char *device, uint32_t depth, struct transport **out)
{
	(void)device;
	if (!depth || depth > TCP_CLIENT_DEPTH)
		return -EINVAL;
	struct tcp_transport *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	t->depth = depth;
	t->done_last = &t->done_first;
	int err = hello_book_init(&t->book);
	if (err) {
		free(t);
		return err;
	}
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll_fd < 0) {
		err = -errno;
		hello_book_fini(&t->book);
		free(t);
		return err;
	}
	*out = (struct transport *)t;
	return 0;
}

static void tcp_close(struct transport *transport)
{
	struct tcp_transport *t = (struct tcp_transport *)transport;
	close(t->epoll_fd);
	hello_book_fini(&t->book);
	free(t);
}

static int tcp_mem_register(struct transport *transport, void *base, size_t len)
{
	struct tcp_transport *t = (struct tcp_transport *)transport;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	if (!len || len % page || (uintptr_t)base % page)
		return -EINVAL;
	if (t->areas == TCP_CLIENT_AREAS)
		return -ENOSPC;
	t->area[t->areas].base = base;
	t->area[t->areas++].len = len;
	return 0;
}

static bool area_holds(const struct tcp_transport *t, const void *buf, uint32_t len)
{
	for (unsigned i = 0; i < t->areas; i++) {
		size_t at = (size_t)((uintptr_t)buf - (uintptr_t)t->area[i].base);
		if (at < t->area[i].len && len <= t->area[i].len - at)
			return true;
	}
	return false;
}

/* Puts the slot's op among the completed ones and frees the slot. */
static void slot_complete(struct tcp_conn *c, uint32_t i, int status)
{
	struct tcp_transport *t = c->transport;
	struct tcp_slot *s = &c->slot[i];
	if (s->sent) {
		if (s->older != TCP_NO_SLOT)
			c->slot[s->older].newer = s->newer;
		else
			c->oldest = s->newer;
		if (s->newer != TCP_NO_SLOT)
			c->slot[s->newer].older = s->older;
		else
			c->newest = s->older;
	}
	s->op->priv[0] = (uintptr_t)c;
	s->op->priv[1] = (uint64_t)(int64_t)status;
	s->op->next = NULL;
	*t->done_last = s->op;
	t->done_last = &s->op->next;
	s->op = NULL;
	s->sent = false;
	c->free_slot[c->free_slots++] = i;
	if (--c->outstanding == 0)
		t->active--;
}

static void set_want_out(struct tcp_conn *c, bool want)
{
	struct epoll_event ev = {.events = EPOLLIN | (want ? EPOLLOUT : 0), .data.ptr = c};
	if (c->want_out == want)
		return;
	c->want_out = want;
	c->transport->blocked += want ? 1u : -1u;
	epoll_ctl(c->transport->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

/* Completes everything outstanding; the socket stays open, shut, until disconnect(). */
static void conn_end(struct tcp_conn *c, int status)
{
	if (!atomic_load(&c->broken)) {
		set_want_out(c, false);
		atomic_store(&c->broken, true);
		epoll_ctl(c->transport->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
		shutdown(c->fd, SHUT_RDWR);
	}
	c->stray_len = c->in_len = c->queued = 0;
	c->cur = TCP_NO_SLOT;
	while (c->oldest != TCP_NO_SLOT)
		slot_complete(c, c->oldest, status);
	for (uint32_t i = 0; c->outstanding && i < c->transport->depth; i++)
		if (c->slot[i].op)
			slot_complete(c, i, status);
}

static unsigned tx_iov(struct tcp_conn *c, struct iovec *iov)
{
	unsigned n = 0;
	size_t skip = c->head_sent;
	for (uint32_t q = 0; q < c->queued && n + 2 <= TCP_CLIENT_IOV; q++) {
		struct tcp_slot *s = &c->slot[c->queue[(c->queue_first + q) % c->transport->depth]];
		size_t in_head = skip < TCP_REQUEST_BYTES ? skip : TCP_REQUEST_BYTES;
		size_t in_data = skip - in_head;
		if (in_head < TCP_REQUEST_BYTES)
			iov[n++] = (struct iovec){s->head + in_head, TCP_REQUEST_BYTES - in_head};
		if (s->op->kind == TRANSPORT_WRITE && in_data < s->op->len)
			iov[n++] = (struct iovec){
				(uint8_t *)s->op->buf + in_data, s->op->len - in_data};
		skip = 0;
	}
	return n;
}

static void tx_sent(struct tcp_conn *c, size_t n)
{
	while (n) {
		uint32_t i = c->queue[c->queue_first];
		struct tcp_slot *s = &c->slot[i];
		size_t left = TCP_REQUEST_BYTES;
		if (s->op->kind == TRANSPORT_WRITE)
			left += s->op->len;
		left -= c->head_sent;
		if (n < left) {
			c->head_sent += n;
			return;
		}
		n -= left;
		c->head_sent = 0;
		c->queue_first = (c->queue_first + 1) % c->transport->depth;
		c->queued--;
		s->sent = true;
		s->older = c->newest;
		s->newer = TCP_NO_SLOT;
		if (c->newest != TCP_NO_SLOT)
			c->slot[c->newest].newer = i;
		else
			c->oldest = i;
		c->newest = i;
	}
}

static void tx_flush(struct tcp_conn *c)
{
	struct iovec iov[TCP_CLIENT_IOV];
	while (c->queued) {
		struct msghdr msg = {.msg_iov = iov};
		msg.msg_iovlen = tx_iov(c, iov);
		ssize_t n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
			conn_end(c, -ECONNRESET);
			return;
		}
		if (n < 0) {
			set_want_out(c, true);
			return;
		}
		tx_sent(c, (size_t)n);
	}
	set_want_out(c, false);
}

/* Copies up to n received bytes that are not in their place yet; returns how many there were. */
static uint32_t rx_take(struct tcp_conn *c, uint8_t *to, uint32_t n)
{
	uint32_t a = n < c->stray_len ? n : c->stray_len;
	if (a) {
		memmove(to, c->stray, a);
		c->stray += a;
		c->stray_len -= a;
	}
	uint32_t b = n - a < c->in_len ? n - a : c->in_len;
	memcpy(to + a, c->in + c->in_pos, b);
	c->in_pos += b;
	c->in_len -= b;
	return a + b;
}

/* An answer's header: completes the op, or makes it the one whose payload arrives. False: it lies.
 */
static bool rx_header(struct tcp_conn *c, const uint8_t *p)
{
	struct tcp_response r;
	if (!tcp_response_decode(p, &r))
		return false;
	uint32_t i = (uint32_t)r.cookie;
	if (i >= c->transport->depth)
		return false;
	struct tcp_slot *s = &c->slot[i];
	if (!s->op || !s->sent || s->generation != (uint32_t)(r.cookie >> 32))
		return false;
	bool read = s->op->kind == TRANSPORT_READ;
	if (r.opcode != (read ? TCP_READ : TCP_WRITE) || r.status > TCP_STATUS_LENGTH)
		return false;
	bool payload = read && r.status == TCP_STATUS_OK;
	if (r.len != (payload ? s->op->len : 0))
		return false;
	if (payload) {
		c->cur = i;
		c->cur_got = 0;
	} else {
		slot_complete(c, i, r.status == TCP_STATUS_OK ? 0 : -EREMOTEIO);
	}
	return true;
}

static void rx_payload(struct tcp_conn *c, uint32_t n)
{
	c->cur_got += n;
	if (c->cur_got < c->slot[c->cur].op->len)
		return;
	uint32_t i = c->cur;
	c->cur = TCP_NO_SLOT;
	slot_complete(c, i, 0);
}

/* Uses up what was received and is not in its place. */
static bool rx_parse(struct tcp_conn *c)
{
	uint8_t head[TCP_RESPONSE_BYTES];
	for (;;) {
		if (c->cur != TCP_NO_SLOT) {
			struct transport_op *op = c->slot[c->cur].op;
			uint32_t n =
				rx_take(c, (uint8_t *)op->buf + c->cur_got, op->len - c->cur_got);
			rx_payload(c, n);
			if (c->cur != TCP_NO_SLOT)
				return true;
			continue;
		}
		if (c->stray_len + c->in_len < TCP_RESPONSE_BYTES) {
			/* the rest of a header that began in a buffer not ours to keep */
			uint32_t n = rx_take(c, head, TCP_RESPONSE_BYTES);
			memcpy(c->in, head, n);
			c->in_pos = 0;
			c->in_len = n;
			return true;
		}
		rx_take(c, head, TCP_RESPONSE_BYTES);
		if (!rx_header(c, head))
			return false;
	}
}

/* The next answer is guessed to be the oldest op's: header and payload in one call. */
static bool rx_guess(struct tcp_conn *c, struct transport_op *guess, const uint8_t *head, size_t n)
{
	size_t in_head = n < TCP_RESPONSE_BYTES ? n : TCP_RESPONSE_BYTES;
	n -= in_head;
	uint32_t in_buf = n < guess->len ? (uint32_t)n : guess->len;
	c->in_pos = 0;
	c->in_len = (uint32_t)(n - in_buf);
	if (in_head < TCP_RESPONSE_BYTES) {
		memcpy(c->in, head, in_head);
		c->in_len = (uint32_t)in_head;
		return true;
	}
	uint32_t oldest = c->oldest;
	if (!rx_header(c, head))
		return false;
	if (c->cur == oldest) {
		rx_payload(c, in_buf);
	} else {
		c->stray = guess->buf;
		c->stray_len = in_buf;
	}
	return rx_parse(c);
}

static bool rx_bytes(struct tcp_conn *c, struct transport_op *guess, const uint8_t *head, size_t n)
{
	if (guess)
		return rx_guess(c, guess, head, n);
	if (c->cur == TCP_NO_SLOT) {
		c->in_len += (uint32_t)n;
		return rx_parse(c);
	}
	size_t left = c->slot[c->cur].op->len - c->cur_got;
	size_t placed = n < left ? n : left;
	c->in_pos = 0;
	c->in_len = (uint32_t)(n - placed);
	rx_payload(c, (uint32_t)placed);
	return rx_parse(c);
}

/* Receives until the socket is dry. in_pos is 0 unless in_len is. */
static void rx(struct tcp_conn *c)
{
	for (;;) {
		uint8_t head[TCP_RESPONSE_BYTES];
		struct iovec iov[3];
		struct msghdr msg = {.msg_iov = iov};
		struct transport_op *guess = NULL;
		size_t asked = 0;
		if (c->in_len && c->in_pos)
			memmove(c->in, c->in + c->in_pos, c->in_len);
		c->in_pos = 0;
		if (c->cur != TCP_NO_SLOT) {
			struct transport_op *op = c->slot[c->cur].op;
			iov[msg.msg_iovlen++] = (struct iovec){
				(uint8_t *)op->buf + c->cur_got, op->len - c->cur_got};
		} else if (!c->in_len && c->oldest != TCP_NO_SLOT &&
			   c->slot[c->oldest].op->kind == TRANSPORT_READ) {
			guess = c->slot[c->oldest].op;
			iov[msg.msg_iovlen++] = (struct iovec){head, sizeof head};
			iov[msg.msg_iovlen++] = (struct iovec){guess->buf, guess->len};
		}
		iov[msg.msg_iovlen++] =
			(struct iovec){c->in + c->in_len, TCP_CLIENT_IN_BYTES - c->in_len};
		for (size_t i = 0; i < msg.msg_iovlen; i++)
			asked += iov[i].iov_len;
		ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
			return;
		if (n <= 0 || !rx_bytes(c, guess, head, (size_t)n)) {
			conn_end(c, -ECONNRESET);
			return;
		}
		if ((size_t)n < asked)
			return;
	}
}

static int tcp_attach(struct transport_conn *conn)
{
	struct tcp_conn *c = (struct tcp_conn *)conn;
	struct tcp_transport *t = c->transport;
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
	if (c->attached || c->fd < 0)
		return -EINVAL;
	if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev))
		return -errno;
	c->attached = true;
	c->prev = NULL;
	c->next = t->conns;
	if (t->conns)
		t->conns->prev = c;
	t->conns = c;
	return 0;
}

static int tcp_post(struct transport_conn *conn, struct transport_op *op)
{
	struct tcp_conn *c = (struct tcp_conn *)conn;
	struct tcp_transport *t = c->transport;
	if (!c->attached || atomic_load_explicit(&c->broken, memory_order_relaxed))
		return -ENOTCONN;
	if (!op->len || !area_holds(t, op->buf, op->len))
		return -EINVAL;
	if (!c->free_slots)
		return -EAGAIN;
	uint32_t i = c->free_slot[--c->free_slots];
	struct tcp_slot *s = &c->slot[i];
	struct tcp_request q = {.opcode = op->kind == TRANSPORT_READ ? TCP_READ : TCP_WRITE,
		.len = op->len,
		.cookie = (uint64_t)++s->generation << 32 | i,
		.key = op->rkey,
		.offset = op->raddr};
	tcp_request_encode(s->head, &q);
	s->op = op;
	c->queue[(c->queue_first + c->queued++) % t->depth] = i;
	if (c->outstanding++ == 0)
		t->active++;
	return 0;
}

static void tcp_doorbell(struct transport_conn *conn)
{
	struct tcp_conn *c = (struct tcp_conn *)conn;
	if (c->queued && !c->want_out)
		tx_flush(c);
}

/* Calls done() for at most budget completed ops; callbacks may post, disconnect and so on. */
static unsigned deliver(struct tcp_transport *t, unsigned budget)
{
	unsigned n = 0;
	while (t->done_first && n < budget) {
		struct transport_op *op = t->done_first;
		t->done_first = op->next;
		if (!t->done_first)
			t->done_last = &t->done_first;
		op->next = NULL;
		n++;
		op->done(op, (int)(int64_t)op->priv[1]);
	}
	return n;
}

static void look(struct tcp_transport *t)
{
	struct epoll_event ev[TCP_CLIENT_EVENTS];
	t->polls = 0;
	t->look = false;
	int n = epoll_wait(t->epoll_fd, ev, TCP_CLIENT_EVENTS, 0);
	for (int i = 0; i < n; i++) {
		struct tcp_conn *c = ev[i].data.ptr;
		if (ev[i].events & ~(uint32_t)EPOLLOUT)
			rx(c);
		if ((ev[i].events & EPOLLOUT) && c->want_out)
			tx_flush(c);
	}
}

static int tcp_poll(struct transport *transport, unsigned budget)
{
	struct tcp_transport *t = (struct tcp_transport *)transport;
	unsigned n = deliver(t, budget);
	if (n == budget)
		return (int)n;
	if (t->look || t->blocked || t->active > TCP_DIRECT_CONNS || ++t->polls >= TCP_LOOK_EVERY)
		look(t);
	else if (t->active)
		for (struct tcp_conn *c = t->conns; c; c = c->next)
			if (c->outstanding)
				rx(c);
	return (int)(n + deliver(t, budget - n));
}

static bool tcp_conn_broken(const struct transport_conn *conn)
{
	return atomic_load_explicit(&((const struct tcp_conn *)conn)->broken, memory_order_relaxed);
}

/* The epoll descriptor is level-triggered: it is readable as long as there is something to do. */
static int tcp_arm(struct transport *transport)
{
	struct tcp_transport *t = (struct tcp_transport *)transport;
	if (t->done_first)
		return -EAGAIN;
	t->look = true;
	return 0;
}

static int tcp_event_fd(struct transport *transport)
{
	return ((struct tcp_transport *)transport)->epoll_fd;
}

static void tcp_disconnect(struct transport_conn *conn)
{
	struct tcp_conn *c = (struct tcp_conn *)conn;
	struct tcp_transport *t = c->transport;
	if (!c->attached)
		return;
	c->attached = false;
	conn_end(c, -ECANCELED);
	if (c->prev)
		c->prev->next = c->next;
	else
		t->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	close(c->fd);
	c->fd = -1;
	hello_ticket_drop(&t->book, &c->ticket);
	struct transport_op *op = transport_ops_extract(&t->done_first, &t->done_last, c);
	while (op) {
		struct transport_op *next = op->next;
		op->done(op, (int)(int64_t)op->priv[1]);
		op = next;
	}
}

const struct transport_ops transport_tcp = {
	.name = "tcp",
	.open = tcp_open,
	.close = tcp_close,
	.mem_register = tcp_mem_register,
	.connect = tcp_client_connect,
	.conn_fd = tcp_client_conn_fd,
	.conn_progress = tcp_client_conn_progress,
	.attach = tcp_attach,
	.post = tcp_post,
	.doorbell = tcp_doorbell,
	.poll = tcp_poll,
	.conn_broken = tcp_conn_broken,
	.arm = tcp_arm,
	.event_fd = tcp_event_fd,
	.disconnect = tcp_disconnect,
	.destroy = tcp_client_destroy,
};
