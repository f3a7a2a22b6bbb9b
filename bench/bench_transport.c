/* Measures transport_tcp against bare sockets over loopback, interleaved in one run. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/transport/server.h"
#include "lib/transport/transport.h"

#define REQUEST_BYTES 32u
#define PAGE_BYTES    4096u
#define STREAM_BYTES  (1u << 20)
#define REGION_BYTES  (64u << 20)
#define DEPTH	      4u
#define MAX_SAMPLES   (1u << 20)

static const uint64_t TOKEN[2] = {0x62656e63682d746full, 0x6b656e2d6f6e6c79ull};

struct ports {
	uint16_t bare_read, bare_stream, transport;
	uint64_t key;
};

struct samples {
	uint32_t *ns;
	size_t count;
};

struct lane {
	struct transport *t;
	struct transport_conn *c;
	uint64_t key;
	uint8_t *area;
};

struct pending {
	struct transport_op op;
	bool ended;
	int status;
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void *map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static int all(ssize_t (*io)(int, void *, size_t, int), int fd, void *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = io(fd, (uint8_t *)buf + at, len - at, 0);
		if (n <= 0)
			return -1;
		at += (size_t)n;
	}
	return 0;
}

static ssize_t send_some(int fd, void *buf, size_t len, int flags)
{
	return send(fd, buf, len, flags | MSG_NOSIGNAL);
}

static int listener(uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4) ||
		getsockname(fd, (struct sockaddr *)&a, &len))
		return -1;
	*port = ntohs(a.sin_port);
	return fd;
}

static int dial(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static int accept_one(int listen_fd)
{
	int on = 1, fd = accept(listen_fd, NULL, NULL);
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

/* The servers, each in a process of its own, as a daemon would be. */
static int serve_bare_read(int listen_fd)
{
	uint8_t q[REQUEST_BYTES], *region = map(REGION_BYTES);
	int fd = accept_one(listen_fd);
	for (size_t at = 0; region && !all(recv, fd, q, sizeof q); at += PAGE_BYTES)
		if (all(send_some, fd, region + at % REGION_BYTES, PAGE_BYTES))
			break;
	return 0;
}

static int serve_bare_stream(int listen_fd)
{
	uint8_t a[REQUEST_BYTES] = {0}, *region = map(REGION_BYTES);
	int fd = accept_one(listen_fd);
	for (size_t at = 0; region; at += STREAM_BYTES)
		if (all(recv, fd, region + at % REGION_BYTES, STREAM_BYTES) ||
			all(send_some, fd, a, sizeof a))
			break;
	return 0;
}

static int serve_transport(int out)
{
	struct transport_server_config cfg;
	struct transport_server *s;
	struct transport_export e;
	struct ports p = {0};
	char err[200];
	uint8_t *region = map(REGION_BYTES);
	transport_server_config_default(&cfg, "127.0.0.1");
	cfg.verbs = false;
	if (!region || transport_server_start(&cfg, &s, err, sizeof err))
		return 1;
	if (transport_server_client_add(s, 1) || transport_server_session_add(s, 1, TOKEN) ||
		transport_server_export(s, 1, region, REGION_BYTES, &e))
		return 1;
	p.transport = transport_server_tcp_port(s);
	p.key = e.tcp_key;
	if (write(out, &p, sizeof p) != (ssize_t)sizeof p)
		return 1;
	for (;;)
		pause();
}

static pid_t spawn(int (*serve)(int), int fd)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(serve(fd));
	}
	return pid;
}

static void op_done(struct transport_op *op, int status)
{
	struct pending *p = (struct pending *)op;
	p->ended = true;
	p->status = status;
}

static int lane_up(struct lane *l, const struct ports *p)
{
	struct transport_peer peer = {.host = "127.0.0.1",
		.port = p->transport,
		.token = {TOKEN[0], TOKEN[1]},
		.timeout_ms = 5000};
	l->area = map(REGION_BYTES);
	l->key = p->key;
	int err = l->area ? transport_tcp.open(NULL, 64, &l->t) : -ENOMEM;
	if (!err)
		err = transport_tcp.mem_register(l->t, l->area, REGION_BYTES);
	if (!err)
		err = transport_tcp.connect(l->t, &peer, &l->c);
	while (!err && (err = transport_tcp.conn_progress(l->c)) == -EINPROGRESS) {
		struct pollfd pfd = {.fd = transport_tcp.conn_fd(l->c), .events = POLLIN};
		poll(&pfd, 1, 1000);
		err = 0;
	}
	return err ? err : transport_tcp.attach(l->c);
}

static void sample(struct samples *s, uint64_t ns)
{
	if (s->count < MAX_SAMPLES)
		s->ns[s->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static int bare_read(int fd, uint8_t *page, unsigned n, struct samples *s)
{
	uint8_t q[REQUEST_BYTES] = {0};
	for (unsigned i = 0; i < n; i++) {
		uint64_t start = now_ns();
		if (all(send_some, fd, q, sizeof q) || all(recv, fd, page, PAGE_BYTES))
			return -1;
		sample(s, now_ns() - start);
	}
	return 0;
}

/* sleeps: arms and waits for the descriptor after each poll that found nothing, as an idle lane
 * does. */
static int transport_read(struct lane *l, unsigned n, bool sleeps, struct samples *s)
{
	for (unsigned i = 0; i < n; i++) {
		struct pending p = {.op = {.kind = TRANSPORT_READ,
					    .buf = l->area,
					    .len = PAGE_BYTES,
					    .rkey = l->key,
					    .raddr = (uint64_t)i * PAGE_BYTES % REGION_BYTES,
					    .done = op_done}};
		uint64_t start = now_ns();
		if (transport_tcp.post(l->c, &p.op))
			return -1;
		transport_tcp.doorbell(l->c);
		while (!p.ended) {
			if (transport_tcp.poll(l->t, 16) || !sleeps || transport_tcp.arm(l->t))
				continue;
			struct pollfd pfd = {.fd = transport_tcp.event_fd(l->t), .events = POLLIN};
			poll(&pfd, 1, 1000);
		}
		if (p.status)
			return -1;
		sample(s, now_ns() - start);
	}
	return 0;
}

static int bare_stream(int fd, uint8_t *area, unsigned n, uint64_t *ns)
{
	uint8_t a[REQUEST_BYTES];
	unsigned acked = 0;
	uint64_t start = now_ns();
	for (unsigned i = 0; i < n; i++) {
		if (i >= DEPTH && (acked++, all(recv, fd, a, sizeof a)))
			return -1;
		if (all(send_some, fd, area + (uint64_t)i * STREAM_BYTES % REGION_BYTES,
			    STREAM_BYTES))
			return -1;
	}
	for (; acked < n; acked++)
		if (all(recv, fd, a, sizeof a))
			return -1;
	*ns += now_ns() - start;
	return 0;
}

static int transport_stream(struct lane *l, unsigned n, uint64_t *ns)
{
	struct pending p[DEPTH];
	unsigned posted = 0, ended = 0;
	uint64_t start = now_ns();
	memset(p, 0, sizeof p);
	while (ended < n) {
		bool rang = false;
		while (posted < n && posted - ended < DEPTH) {
			struct pending *o = &p[posted % DEPTH];
			uint64_t at = (uint64_t)posted * STREAM_BYTES % REGION_BYTES;
			*o = (struct pending){.op = {.kind = TRANSPORT_WRITE,
						      .buf = l->area + at,
						      .len = STREAM_BYTES,
						      .rkey = l->key,
						      .raddr = at,
						      .done = op_done}};
			if (transport_tcp.post(l->c, &o->op))
				return -1;
			posted++;
			rang = true;
		}
		if (rang)
			transport_tcp.doorbell(l->c);
		if (transport_tcp.poll(l->t, 16) == 0 && !transport_tcp.arm(l->t)) {
			struct pollfd pfd = {.fd = transport_tcp.event_fd(l->t), .events = POLLIN};
			poll(&pfd, 1, 1000);
		}
		for (; ended < posted && p[ended % DEPTH].ended; ended++)
			if (p[ended % DEPTH].status)
				return -1;
	}
	*ns += now_ns() - start;
	return 0;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static double quantile_us(const struct samples *s, double q)
{
	return s->count ? s->ns[(size_t)((double)(s->count - 1) * q)] / 1000.0 : 0;
}

struct figures {
	struct samples bare, spin, sleep;
	uint64_t bare_ns, transport_ns;
	unsigned streamed;
};

static void report(struct figures *f, bool json)
{
	struct samples *all_of[] = {&f->bare, &f->spin, &f->sleep};
	double p50[3], p99[3];
	for (unsigned i = 0; i < 3; i++) {
		qsort(all_of[i]->ns, all_of[i]->count, sizeof(uint32_t), by_value);
		p50[i] = quantile_us(all_of[i], 0.5);
		p99[i] = quantile_us(all_of[i], 0.99);
	}
	double bytes = (double)f->streamed * STREAM_BYTES;
	double bare = bytes * 1000.0 / (double)f->bare_ns;
	double ours = bytes * 1000.0 / (double)f->transport_ns;
	if (json) {
		printf("{\"read_4k\":{\"bare_p50_us\":%.2f,\"bare_p99_us\":%.2f,\"tcp_p50_us\":%."
		       "2f,"
		       "\"tcp_p99_us\":%.2f,\"ratio_p50\":%.3f,\"tcp_sleeping_p50_us\":%.2f,"
		       "\"tcp_sleeping_p99_us\":%.2f,\"ratio_sleeping_p50\":%.3f,\"samples\":%zu},"
		       "\"write_1m\":{\"bare_mb_s\":%.0f,\"tcp_mb_s\":%.0f,\"ratio\":%.3f,"
		       "\"writes\":%u}}\n",
			p50[0], p99[0], p50[1], p99[1], p50[1] / p50[0], p50[2], p99[2],
			p50[2] / p50[0], f->bare.count, bare, ours, ours / bare, f->streamed);
		return;
	}
	printf("4 KiB read, one at a time    p50 us   p99 us   p50 against bare\n");
	printf("  bare sockets, blocking    %7.2f  %7.2f\n", p50[0], p99[0]);
	printf("  transport_tcp, polling    %7.2f  %7.2f   %.2f (at most 1.3)\n", p50[1], p99[1],
		p50[1] / p50[0]);
	printf("  transport_tcp, sleeping   %7.2f  %7.2f   %.2f\n", p50[2], p99[2],
		p50[2] / p50[0]);
	printf("1 MiB writes, %u at a time\n", DEPTH);
	printf("  bare sockets              %7.0f MB/s\n", bare);
	printf("  transport_tcp             %7.0f MB/s   %.2f (at least 0.9)\n", ours, ours / bare);
}

static int run(unsigned rounds, bool json)
{
	struct ports p = {0}, t = {0};
	struct figures f = {0};
	struct lane l = {0};
	int tell[2], ret = -1;
	pid_t child[3] = {-1, -1, -1};
	int read_fd = listener(&p.bare_read), stream_fd = listener(&p.bare_stream);
	if (read_fd < 0 || stream_fd < 0 || pipe(tell))
		return -1;
	child[0] = spawn(serve_bare_read, read_fd);
	child[1] = spawn(serve_bare_stream, stream_fd);
	child[2] = spawn(serve_transport, tell[1]);
	f.bare.ns = map(MAX_SAMPLES * sizeof(uint32_t));
	f.spin.ns = map(MAX_SAMPLES * sizeof(uint32_t));
	f.sleep.ns = map(MAX_SAMPLES * sizeof(uint32_t));
	int fd = dial(p.bare_read), sfd = dial(p.bare_stream);
	if (!f.bare.ns || !f.spin.ns || !f.sleep.ns || fd < 0 || sfd < 0 ||
		read(tell[0], &t, sizeof t) != (ssize_t)sizeof t || lane_up(&l, &t))
		goto out;
	for (unsigned i = 0; i < rounds + 1; i++) {
		ret = bare_read(fd, l.area, 500, &f.bare) ||
		      transport_read(&l, 500, false, &f.spin) ||
		      transport_read(&l, 500, true, &f.sleep) ||
		      bare_stream(sfd, l.area, 64, &f.bare_ns) ||
		      transport_stream(&l, 64, &f.transport_ns);
		if (ret)
			goto out;
		if (i == 0) { /* warm-up */
			f.bare.count = f.spin.count = f.sleep.count = 0;
			f.bare_ns = f.transport_ns = 0;
		}
	}
	f.streamed = rounds * 64;
	report(&f, json);
	transport_tcp.disconnect(l.c);
	transport_tcp.destroy(l.c);
	transport_tcp.close(l.t);
out:
	for (unsigned i = 0; i < 3; i++)
		if (child[i] > 0) {
			kill(child[i], SIGKILL);
			waitpid(child[i], NULL, 0);
		}
	return ret;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
		{"rounds", required_argument, NULL, 'r'}, {"help", no_argument, NULL, 'h'}, {0}};
	bool json = false;
	unsigned long rounds = 20;
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'j') {
			json = true;
		} else if (c == 'r' && (rounds = strtoul(optarg, NULL, 10)) >= 1 &&
			   rounds <= 1000) {
			continue;
		} else {
			fprintf(c == 'h' ? stdout : stderr,
				"usage: bench_transport [--json] [--rounds 1..1000]\n");
			return c == 'h' ? 0 : 2;
		}
	}
	if (run((unsigned)rounds, json)) {
		fprintf(stderr, "bench_transport: a connection failed\n");
		return 1;
	}
	return 0;
}
