/* A memory server and lanes' transports in one process over loopback, for the transport tests. */
#include "tests/unit/transport/rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

uint64_t rig_now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void *rig_map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED);
	return p;
}

struct transport_server *rig_server(void (*change)(struct transport_server_config *cfg))
{
	struct transport_server_config cfg;
	struct transport_server *s = NULL;
	char err[200] = "";
	transport_server_config_default(&cfg, "127.0.0.1");
	cfg.verbs = false;
	if (change)
		change(&cfg);
	int ret = transport_server_start(&cfg, &s, err, sizeof err);
	if (ret)
		fprintf(stderr, "%s\n", err);
	assert_int_equal(ret, 0);
	return s;
}

void rig_export(struct transport_server *s, uint64_t client, size_t len, struct rig_region *r)
{
	r->base = rig_map(len);
	r->len = len;
	assert_int_equal(transport_server_export(s, client, r->base, len, &r->export), 0);
}

int rig_establish(
	struct transport *t, uint16_t port, const uint64_t token[2], struct transport_conn **c)
{
	struct transport_peer peer = {.host = "127.0.0.1",
		.port = port,
		.token = {token[0], token[1]},
		.timeout_ms = RIG_LIMIT_MS};
	*c = NULL;
	int err = transport_tcp.connect(t, &peer, c);
	if (err)
		return err;
	while ((err = transport_tcp.conn_progress(*c)) == -EINPROGRESS) {
		struct pollfd p = {.fd = transport_tcp.conn_fd(*c), .events = POLLIN};
		poll(&p, 1, RIG_LIMIT_MS);
	}
	return err;
}

struct transport *rig_transport(uint32_t depth, void **area, size_t len)
{
	struct transport *t;
	assert_int_equal(transport_tcp.open(NULL, depth, &t), 0);
	*area = rig_map(len);
	assert_int_equal(transport_tcp.mem_register(t, *area, len), 0);
	return t;
}

struct transport_conn *rig_connect(struct transport *t, uint16_t port, const uint64_t token[2])
{
	struct transport_conn *c;
	assert_int_equal(rig_establish(t, port, token, &c), 0);
	assert_int_equal(transport_tcp.attach(c), 0);
	return c;
}

void rig_drop(struct transport_conn *c)
{
	transport_tcp.disconnect(c);
	transport_tcp.destroy(c);
}

static void op_done(struct transport_op *op, int status)
{
	struct rig_op *o = (struct rig_op *)op;
	assert_false(o->ended);
	o->ended = true;
	o->status = status;
}

void rig_op_init(struct rig_op *o, enum transport_op_kind kind, void *buf, uint32_t len,
	uint64_t rkey, uint64_t raddr)
{
	*o = (struct rig_op){.op = {.kind = kind,
				     .buf = buf,
				     .len = len,
				     .rkey = rkey,
				     .raddr = raddr,
				     .done = op_done}};
}

int rig_wait(struct transport *t, struct rig_op *o)
{
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (!o->ended) {
		assert_true(rig_now_ms() < limit);
		if (transport_tcp.poll(t, 64) > 0 || transport_tcp.arm(t))
			continue;
		struct pollfd p = {.fd = transport_tcp.event_fd(t), .events = POLLIN};
		poll(&p, 1, 1000);
	}
	return o->status;
}

int rig_do(struct transport *t, struct transport_conn *c, enum transport_op_kind kind, void *buf,
	uint32_t len, uint64_t rkey, uint64_t raddr)
{
	struct rig_op o;
	rig_op_init(&o, kind, buf, len, rkey, raddr);
	int err = transport_tcp.post(c, &o.op);
	if (err)
		return err;
	transport_tcp.doorbell(c);
	return rig_wait(t, &o);
}

uint64_t rig_stat(struct transport_server *s, size_t offset)
{
	struct transport_server_stats st;
	transport_server_stats(s, &st);
	return stat_get((stat_t *)((char *)&st + offset));
}

void rig_wait_stat(struct transport_server *s, size_t offset, uint64_t n)
{
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (rig_stat(s, offset) < n) {
		assert_true(rig_now_ms() < limit);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

int rig_socket(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	struct timeval limit = {.tv_sec = RIG_LIMIT_MS / 1000};
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}
