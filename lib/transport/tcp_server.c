/* The memory server's tcp listener and data threads. */
#include "lib/transport/tcp_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/transport/server_stats.h"
#include "lib/transport/tcp_server_conn.h"

#define TCP_SERVER_EVENTS   64
#define TCP_ACCEPT_PAUSE_NS 100000000ull /* after accept() found no descriptor or memory */
#define TCP_KEEPALIVE_S	    15

struct tcp_thread {
	struct server_io io;
	struct transport_server_stats stats;
	struct tcp_server *server;
	struct tcp_server_ctx ctx;
	pthread_t thread;
	bool started;
	int epoll_fd, wake_fd;
	struct tcp_server_conn *conns;
	unsigned more, busy; /* connections with that set */
	pthread_mutex_t lock;
	struct tcp_server_conn *incoming; /* lock; linked by next */
	/* the first thread only */
	uint64_t accept_again_ns; /* 0: accepting */
} __attribute__((aligned(64)));

struct tcp_server {
	struct server_table *table;
	struct tcp_thread *thread;
	unsigned threads;
	int listen_fd;
	uint16_t port;
	uint32_t max_conns;
	uint64_t handshake_ns, stall_ns;
	_Atomic uint32_t open;
	atomic_bool stop;
	unsigned next_thread; /* the first thread's */
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void thread_wake(struct tcp_thread *t)
{
	uint64_t one = 1;
	while (write(t->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

void tcp_server_wake(struct tcp_server *s)
{
	for (unsigned i = 0; i < s->threads; i++)
		thread_wake(&s->thread[i]);
}

static void conn_close(struct tcp_thread *t, struct tcp_server_conn *c)
{
	t->more -= c->more;
	t->busy -= c->busy;
	if (c->prev)
		c->prev->next = c->next;
	else
		t->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	tcp_server_conn_fini(c, &t->ctx);
	free(c);
	stat_sub(&t->stats.connections, 1);
	atomic_fetch_sub(&t->server->open, 1);
}

static void conn_turn(struct tcp_thread *t, struct tcp_server_conn *c, uint64_t now)
{
	t->more -= c->more;
	t->busy -= c->busy;
	bool ok = tcp_server_conn_run(c, &t->ctx, now);
	t->more += c->more;
	t->busy += c->busy;
	if (!ok) {
		conn_close(t, c);
		return;
	}
	uint32_t events = c->want_out ? EPOLLOUT : EPOLLIN;
	if (events != c->events) {
		struct epoll_event ev = {.events = events, .data.ptr = c};
		c->events = events;
		epoll_ctl(t->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
	}
}

/* Takes over what the first thread accepted for this one. */
static void incoming_take(struct tcp_thread *t)
{
	pthread_mutex_lock(&t->lock);
	struct tcp_server_conn *list = t->incoming;
	t->incoming = NULL;
	pthread_mutex_unlock(&t->lock);
	while (list) {
		struct tcp_server_conn *c = list;
		list = c->next;
		c->prev = NULL;
		c->next = t->conns;
		if (t->conns)
			t->conns->prev = c;
		t->conns = c;
		t->busy += c->busy;
		stat_add(&t->stats.connections, 1);
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
		c->events = EPOLLIN;
		if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev)) {
			stat_add(&t->stats.closed_error, 1);
			conn_close(t, c);
		}
	}
}

static void socket_tune(int fd, uint64_t stall_ns)
{
	int on = 1, idle_s = TCP_KEEPALIVE_S, every_s = TCP_KEEPALIVE_S / 3, times = 3;
	unsigned stall_ms = (unsigned)(stall_ns / 1000000u);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
}

static void listener_pause(struct tcp_thread *t, uint64_t now)
{
	epoll_ctl(t->epoll_fd, EPOLL_CTL_DEL, t->server->listen_fd, NULL);
	t->accept_again_ns = now + TCP_ACCEPT_PAUSE_NS;
}

static int listener_watch(struct tcp_thread *t)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = t->server};
	t->accept_again_ns = 0;
	return epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->server->listen_fd, &ev) ? -errno : 0;
}

static void accept_some(struct tcp_thread *t, uint64_t now)
{
	struct tcp_server *s = t->server;
	for (unsigned i = 0; i < TCP_SERVER_EVENTS; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
				errno == ENOMEM)
				listener_pause(t, now);
			return;
		}
		stat_add(&t->stats.accepted, 1);
		struct tcp_server_conn *c = NULL;
		if (atomic_load(&s->open) < s->max_conns)
			c = malloc(sizeof *c);
		if (!c) {
			stat_add(&t->stats.refused_limit, 1);
			close(fd);
			continue;
		}
		atomic_fetch_add(&s->open, 1);
		socket_tune(fd, s->stall_ns);
		tcp_server_conn_init(c, fd, now);
		struct tcp_thread *to = &s->thread[s->next_thread++ % s->threads];
		pthread_mutex_lock(&to->lock);
		c->next = to->incoming;
		to->incoming = c;
		pthread_mutex_unlock(&to->lock);
		if (to == t)
			incoming_take(t);
		else
			thread_wake(to);
	}
}

/* Ends what is too slow or was ended elsewhere. */
static void conns_check(struct tcp_thread *t, uint64_t now)
{
	for (struct tcp_server_conn *c = t->conns, *next; c; c = next) {
		next = c->next;
		if (!tcp_server_conn_check(
			    c, &t->ctx, now, t->server->handshake_ns, t->server->stall_ns))
			conn_close(t, c);
	}
}

static void turns_more(struct tcp_thread *t, uint64_t now)
{
	for (struct tcp_server_conn *c = t->conns, *next; c && t->more; c = next) {
		next = c->next;
		if (c->more)
			conn_turn(t, c, now);
	}
}

static uint64_t check_period_ns(const struct tcp_server *s)
{
	uint64_t ns = (s->handshake_ns < s->stall_ns ? s->handshake_ns : s->stall_ns) / 4;
	return ns < 5000000u ? 5000000u : ns;
}

/* One round of events; true when the connections must be looked through. */
static bool events_handle(struct tcp_thread *t, struct epoll_event *ev, int n, uint64_t now)
{
	bool check = false;
	for (int i = 0; i < n; i++) {
		if (ev[i].data.ptr == t->server) {
			accept_some(t, now);
		} else if (ev[i].data.ptr == t) {
			uint64_t count;
			if (read(t->wake_fd, &count, sizeof count) > 0)
				incoming_take(t);
			check = true;
		} else {
			conn_turn(t, ev[i].data.ptr, now);
		}
	}
	return check;
}

static void *thread_main(void *arg)
{
	struct tcp_thread *t = arg;
	struct tcp_server *s = t->server;
	struct epoll_event ev[TCP_SERVER_EVENTS];
	uint64_t period_ns = check_period_ns(s), next_check_ns = 0;
	while (!atomic_load(&s->stop)) {
		int timeout_ms = -1;
		if (t->more)
			timeout_ms = 0;
		else if (t->busy || t->accept_again_ns)
			timeout_ms = (int)(period_ns / 1000000u);
		if (timeout_ms > 100 && t->accept_again_ns)
			timeout_ms = 100;
		int n = epoll_wait(t->epoll_fd, ev, TCP_SERVER_EVENTS, timeout_ms);
		uint64_t now = now_ns();
		bool check = events_handle(t, ev, n, now);
		turns_more(t, now);
		if (check || now >= next_check_ns) {
			conns_check(t, now);
			next_check_ns = now + period_ns;
		}
		if (t->accept_again_ns && now >= t->accept_again_ns && listener_watch(t))
			t->accept_again_ns = now + TCP_ACCEPT_PAUSE_NS;
	}
	incoming_take(t);
	while (t->conns)
		conn_close(t, t->conns);
	return NULL;
}

static void ctx_killed(void *arg)
{
	tcp_server_wake(arg);
}

static int thread_start(struct tcp_server *s, struct tcp_thread *t)
{
	sigset_t all, old;
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = t};
	t->ctx.drain = malloc(TCP_CONN_TURN);
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!t->ctx.drain || t->epoll_fd < 0 || t->wake_fd < 0)
		return -ENOMEM;
	if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->wake_fd, &ev))
		return -errno;
	if (t == s->thread && listener_watch(t))
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int err = pthread_create(&t->thread, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return -err;
	t->started = true;
	pthread_setname_np(t->thread, "fallow-data");
	return 0;
}

void tcp_server_stop(struct tcp_server *s)
{
	if (!s)
		return;
	atomic_store(&s->stop, true);
	for (unsigned i = 0; i < s->threads; i++)
		if (s->thread[i].started)
			thread_wake(&s->thread[i]);
	for (unsigned i = 0; i < s->threads; i++)
		if (s->thread[i].started)
			pthread_join(s->thread[i].thread, NULL);
	/* accepted for a thread that had ended already */
	for (unsigned i = 0; i < s->threads; i++) {
		struct tcp_thread *t = &s->thread[i];
		while (t->incoming) {
			struct tcp_server_conn *c = t->incoming;
			t->incoming = c->next;
			tcp_server_conn_fini(c, &t->ctx);
			free(c);
		}
		if (t->epoll_fd >= 0)
			close(t->epoll_fd);
		if (t->wake_fd >= 0)
			close(t->wake_fd);
		free(t->ctx.drain);
		pthread_mutex_destroy(&t->lock);
	}
	s->table->ios = 0;
	free(s->table->io);
	s->table->io = NULL;
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	free(s->thread);
	free(s);
}

static int listen_on(struct tcp_server *s, const char *host, uint16_t port)
{
	char service[8];
	struct addrinfo *ai, hints = {.ai_socktype = SOCK_STREAM,
				     .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
	struct sockaddr_storage ss;
	socklen_t ss_len = sizeof ss;
	int on = 1;
	snprintf(service, sizeof service, "%u", port);
	if (getaddrinfo(host, service, &hints, &ai))
		return -EINVAL;
	s->listen_fd =
		socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	int err = s->listen_fd < 0 ? -errno : 0;
	if (!err)
		setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (!err &&
		(bind(s->listen_fd, ai->ai_addr, ai->ai_addrlen) || listen(s->listen_fd, 1024) ||
			getsockname(s->listen_fd, (struct sockaddr *)&ss, &ss_len)))
		err = -errno;
	freeaddrinfo(ai);
	if (!err)
		s->port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
							 : ((struct sockaddr_in *)&ss)->sin_port);
	return err;
}

static void thread_init(struct tcp_server *s, struct tcp_thread *t)
{
	t->server = s;
	t->epoll_fd = t->wake_fd = -1;
	pthread_mutex_init(&t->lock, NULL);
	t->ctx = (struct tcp_server_ctx){.table = s->table,
		.io = &t->io,
		.stats = &t->stats,
		.killed = ctx_killed,
		.arg = s};
}

int tcp_server_start(const struct transport_server_config *cfg, struct server_table *table,
	struct tcp_server **out, char *err, size_t err_bytes)
{
	struct tcp_server *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->table = table;
	s->listen_fd = -1;
	s->max_conns = cfg->max_conns;
	s->handshake_ns = cfg->handshake_ms * 1000000ull;
	s->stall_ns = cfg->stall_ms * 1000000ull;
	int ret = -ENOMEM;
	size_t bytes = cfg->tcp_threads * sizeof *s->thread;
	s->thread = aligned_alloc(64, bytes);
	table->io = calloc(cfg->tcp_threads, sizeof(struct server_io *));
	if (!s->thread || !table->io)
		goto err;
	memset(s->thread, 0, bytes);
	s->threads = cfg->tcp_threads;
	for (unsigned i = 0; i < s->threads; i++) {
		thread_init(s, &s->thread[i]);
		table->io[i] = &s->thread[i].io;
	}
	table->ios = s->threads;
	ret = listen_on(s, cfg->host, cfg->tcp_port);
	for (unsigned i = 0; !ret && i < s->threads; i++)
		ret = thread_start(s, &s->thread[i]);
	if (ret)
		goto err;
	*out = s;
	return 0;
err:
	snprintf(err, err_bytes, "tcp data port: cannot listen on %s port %u: %s", cfg->host,
		cfg->tcp_port, strerror(-ret));
	tcp_server_stop(s);
	return ret;
}

uint16_t tcp_server_port(const struct tcp_server *s)
{
	return s->port;
}

void tcp_server_stats_add(const struct tcp_server *s, struct transport_server_stats *out)
{
	for (unsigned i = 0; i < s->threads; i++)
		server_stats_merge(out, &s->thread[i].stats);
}
