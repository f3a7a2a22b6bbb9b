/* Establishing a tcp data connection from the control thread: name, connect, handshake, time limit.
 */
#include "lib/transport/tcp_client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int watch(struct tcp_conn *c, int op, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.fd = fd};
	return epoll_ctl(c->watch_fd, op, fd, &ev) ? -errno : 0;
}

static void conn_free(struct tcp_conn *c)
{
	hello_ticket_drop(&c->transport->book, &c->ticket);
	resolve_end(c->resolve);
	if (c->fd >= 0)
		close(c->fd);
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	if (c->watch_fd >= 0)
		close(c->watch_fd);
	free(c->queue);
	free(c->free_slot);
	free(c->slot);
	free(c);
}

void tcp_client_destroy(struct transport_conn *conn)
{
	conn_free((struct tcp_conn *)conn);
}

static int conn_new(struct tcp_transport *t, struct tcp_conn **out)
{
	struct tcp_conn *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->transport = t;
	c->fd = c->timer_fd = c->watch_fd = -1;
	c->cur = c->oldest = c->newest = TCP_NO_SLOT;
	c->slot = calloc(t->depth, sizeof *c->slot);
	c->free_slot = calloc(t->depth, sizeof *c->free_slot);
	c->queue = calloc(t->depth, sizeof *c->queue);
	if (!c->slot || !c->free_slot || !c->queue) {
		conn_free(c);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < t->depth; i++)
		c->free_slot[c->free_slots++] = t->depth - 1 - i;
	*out = c;
	return 0;
}

static int timer_start(struct tcp_conn *c, uint32_t timeout_ms)
{
	if (!timeout_ms)
		timeout_ms = 1;
	struct itimerspec when = {.it_value = {.tv_sec = timeout_ms / 1000,
					  .tv_nsec = (long)(timeout_ms % 1000) * 1000000}};
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer_fd < 0 || timerfd_settime(c->timer_fd, 0, &when, NULL))
		return -errno;
	return watch(c, EPOLL_CTL_ADD, c->timer_fd, EPOLLIN);
}

int tcp_client_connect(
	struct transport *transport, const struct transport_peer *peer, struct transport_conn **out)
{
	struct tcp_conn *c = NULL;
	int err = conn_new((struct tcp_transport *)transport, &c);
	if (err)
		return err;
	err = hello_ticket_take(&c->transport->book, &c->ticket, peer->token);
	if (err)
		goto err_free;
	c->watch_fd = epoll_create1(EPOLL_CLOEXEC);
	if (c->watch_fd < 0) {
		err = -errno;
		goto err_free;
	}
	err = timer_start(c, peer->timeout_ms);
	if (!err)
		err = resolve_start(peer->host, peer->port, &c->resolve);
	if (!err)
		err = watch(c, EPOLL_CTL_ADD, resolve_fd(c->resolve), EPOLLIN);
	if (err)
		goto err_free;
	c->state = TCP_CONN_RESOLVE;
	*out = (struct transport_conn *)c;
	return 0;
err_free:
	conn_free(c);
	return err;
}

int tcp_client_conn_fd(struct transport_conn *conn)
{
	return ((struct tcp_conn *)conn)->watch_fd;
}

static int fail(struct tcp_conn *c, int err)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->state = TCP_CONN_FAILED;
	c->error = err;
	return err;
}

/* Starts connecting to the next address; its last error when there is none left. */
static int connect_next(struct tcp_conn *c, int last_err)
{
	int on = 1, idle_s = 15, every_s = 5, times = 3;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	while (c->next_addr < c->addr.count) {
		const struct sockaddr_storage *a = &c->addr.addr[c->next_addr];
		socklen_t len = c->addr.len[c->next_addr++];
		c->fd = socket(
			a->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
		if (c->fd < 0) {
			last_err = -errno;
			continue;
		}
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
		int err = connect(c->fd, (const struct sockaddr *)a, len) ? -errno : 0;
		if (!err || err == -EINPROGRESS)
			err = watch(c, EPOLL_CTL_ADD, c->fd, EPOLLOUT);
		if (!err) {
			c->state = TCP_CONN_CONNECT;
			return 0;
		}
		last_err = err;
		close(c->fd);
		c->fd = -1;
	}
	return fail(c, last_err);
}

/* 0: connected; -EINPROGRESS: not yet, or on to the next address. */
static int progress_connect(struct tcp_conn *c)
{
	int err = 0;
	socklen_t len = sizeof err;
	struct sockaddr_storage ss;
	socklen_t ss_len = sizeof ss;
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (!err && getpeername(c->fd, (struct sockaddr *)&ss, &ss_len))
		return errno == ENOTCONN ? -EINPROGRESS : fail(c, -errno);
	if (err) {
		int next = connect_next(c, -err);
		return next ? next : -EINPROGRESS;
	}
	struct transport_hello h;
	hello_ticket_fill(&c->transport->book, &c->ticket, &h);
	tcp_hello_encode(c->hello, &h);
	c->state = TCP_CONN_HELLO;
	return 0;
}

static int hello_verdict(struct tcp_conn *c)
{
	struct tcp_response r;
	if (!tcp_response_decode(c->answer, &r) || r.opcode != TCP_HELLO || r.len ||
		r.cookie != tcp_get64(c->hello + 8))
		return fail(c, -EPROTO);
	if (r.status == TCP_STATUS_OK)
		return 0;
	return fail(c, r.status == TCP_STATUS_LIMIT ? -EUSERS : -EACCES);
}

static int progress_hello(struct tcp_conn *c)
{
	while (c->hello_sent < TCP_REQUEST_BYTES) {
		ssize_t n = send(c->fd, c->hello + c->hello_sent, TCP_REQUEST_BYTES - c->hello_sent,
			MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? -EINPROGRESS : fail(c, -errno);
		c->hello_sent += (uint32_t)n;
		if (c->hello_sent == TCP_REQUEST_BYTES) {
			int err = watch(c, EPOLL_CTL_MOD, c->fd, EPOLLIN);
			if (err)
				return fail(c, err);
		}
	}
	while (c->answer_got < TCP_RESPONSE_BYTES) {
		ssize_t n = recv(c->fd, c->answer + c->answer_got,
			TCP_RESPONSE_BYTES - c->answer_got, MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? -EINPROGRESS : fail(c, -errno);
		if (n == 0)
			return fail(c, -ECONNRESET);
		c->answer_got += (uint32_t)n;
	}
	int err = hello_verdict(c);
	if (!err && watch(c, EPOLL_CTL_MOD, c->fd, EPOLLRDHUP))
		err = fail(c, -errno);
	if (err)
		return err;
	close(c->timer_fd); /* leaves the watched set by itself */
	c->timer_fd = -1;
	c->state = TCP_CONN_READY;
	return 0;
}

int tcp_client_conn_progress(struct transport_conn *conn)
{
	struct tcp_conn *c = (struct tcp_conn *)conn;
	struct epoll_event ev;
	int err = 0;
	uint64_t ticks;
	if (c->state == TCP_CONN_FAILED)
		return c->error;
	if (c->state == TCP_CONN_READY)
		return atomic_load(&c->broken) || epoll_wait(c->watch_fd, &ev, 1, 0) > 0
			       ? -ECONNRESET
			       : 0;
	if (c->state == TCP_CONN_RESOLVE) {
		err = resolve_progress(c->resolve, &c->addr);
		if (err && err != -EINPROGRESS)
			return fail(c, err);
		if (!err) {
			epoll_ctl(c->watch_fd, EPOLL_CTL_DEL, resolve_fd(c->resolve), NULL);
			resolve_end(c->resolve);
			c->resolve = NULL;
			err = connect_next(c, -EHOSTUNREACH);
		}
	}
	if (!err && c->state == TCP_CONN_CONNECT)
		err = progress_connect(c);
	if (!err && c->state == TCP_CONN_HELLO)
		err = progress_hello(c);
	if (err == -EINPROGRESS && read(c->timer_fd, &ticks, sizeof ticks) > 0)
		return fail(c, -ETIMEDOUT);
	return err;
}
