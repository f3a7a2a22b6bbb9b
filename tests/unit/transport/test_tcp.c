/* The tcp transport against the memory server's end: what must work, and every refusal. */
#include "tests/unit/transport/rig.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/transport/tcp_wire.h"

static const uint64_t TOKEN_A[2] = {0x1111, 0xaaaa}, TOKEN_B[2] = {0x2222, 0xbbbb};

#define AREA (8u << 20)

struct world {
	struct transport_server *s;
	uint16_t port;
	struct rig_region a, b;
	struct transport *t;
	uint8_t *area;
	struct transport_conn *c;
};

static void world_up(
	struct world *w, uint32_t depth, void (*change)(struct transport_server_config *))
{
	memset(w, 0, sizeof *w);
	w->s = rig_server(change);
	w->port = transport_server_tcp_port(w->s);
	assert_int_equal(transport_server_client_add(w->s, 1), 0);
	assert_int_equal(transport_server_client_add(w->s, 2), 0);
	assert_int_equal(transport_server_session_add(w->s, 1, TOKEN_A), 0);
	assert_int_equal(transport_server_session_add(w->s, 2, TOKEN_B), 0);
	rig_export(w->s, 1, 4u << 20, &w->a);
	rig_export(w->s, 2, 1u << 20, &w->b);
	w->t = rig_transport(depth, (void **)&w->area, AREA);
	w->c = rig_connect(w->t, w->port, TOKEN_A);
}

static void world_down(struct world *w)
{
	if (w->c)
		rig_drop(w->c);
	transport_tcp.close(w->t);
	transport_server_stop(w->s);
	munmap(w->area, AREA);
	munmap(w->a.base, w->a.len);
	munmap(w->b.base, w->b.len);
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		p[i] = (uint8_t)(seed >> 56);
	}
}

static void test_write_and_read_back(void **state)
{
	static const uint32_t sizes[] = {
		1, 24, 32, 100, 768, 1023, 1024, 1025, 4096, 65536, 1u << 20};
	struct world w;
	world_up(&w, 8, NULL);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		uint32_t n = sizes[i];
		fill(w.area, n, i + 1);
		assert_int_equal(
			rig_do(w.t, w.c, TRANSPORT_WRITE, w.area, n, w.a.export.tcp_key, 77), 0);
		assert_memory_equal(w.a.base + 77, w.area, n);
		assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area + (4u << 20), n,
					 w.a.export.tcp_key, 77),
			0);
		assert_memory_equal(w.area + (4u << 20), w.area, n);
	}
	RIG_WAIT_STAT(w.s, reads, sizeof sizes / sizeof sizes[0]); /* counted after the send */
	RIG_WAIT_STAT(w.s, writes, sizeof sizes / sizeof sizes[0]);
	world_down(&w);
}

static void test_depth_and_pipeline(void **state)
{
	struct world w;
	struct rig_op op[33];
	world_up(&w, 32, NULL);
	fill(w.a.base, w.a.len, 7);
	for (unsigned i = 0; i < 33; i++) {
		uint32_t n = i % 3 ? 4096 : 700;
		rig_op_init(&op[i], i % 5 == 4 ? TRANSPORT_WRITE : TRANSPORT_READ,
			w.area + i * 8192, n, w.a.export.tcp_key, i * 8192);
		if (op[i].op.kind == TRANSPORT_WRITE)
			fill(op[i].op.buf, n, i);
		int err = transport_tcp.post(w.c, &op[i].op);
		assert_int_equal(err, i == 32 ? -EAGAIN : 0);
	}
	transport_tcp.doorbell(w.c);
	for (unsigned i = 0; i < 32; i++) {
		assert_int_equal(rig_wait(w.t, &op[i]), 0);
		assert_memory_equal(op[i].op.buf, w.a.base + i * 8192, op[i].op.len);
	}
	assert_int_equal(transport_tcp.post(w.c, &op[32].op), 0);
	transport_tcp.doorbell(w.c);
	assert_int_equal(rig_wait(w.t, &op[32]), 0);
	world_down(&w);
}

/* Far more than the sockets hold, so that sends end in the middle of headers and payloads. */
static void test_sends_that_stop_half_way(void **state)
{
	struct world w;
	struct rig_op op[8];
	world_up(&w, 8, NULL);
	fill(w.area, AREA, 3);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 8; i++) {
			uint32_t at = i * 500000 + round * 13;
			rig_op_init(&op[i], TRANSPORT_WRITE, w.area + at, 4u << 20,
				w.a.export.tcp_key, 0);
			if (i == 7)
				op[i].op.len = 1000003 + round;
			assert_int_equal(transport_tcp.post(w.c, &op[i].op), 0);
		}
		transport_tcp.doorbell(w.c);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(rig_wait(w.t, &op[i]), 0);
		assert_memory_equal(w.a.base, op[7].op.buf, op[7].op.len);
		assert_memory_equal(w.a.base + op[7].op.len, (uint8_t *)op[6].op.buf + op[7].op.len,
			(4u << 20) - op[7].op.len);
	}
	world_down(&w);
}

static void test_poll_budget(void **state)
{
	struct world w;
	struct rig_op op[16];
	unsigned ended = 0;
	world_up(&w, 16, NULL);
	for (unsigned i = 0; i < 16; i++) {
		rig_op_init(&op[i], TRANSPORT_READ, w.area + i * 4096, 64, w.a.export.tcp_key, 0);
		assert_int_equal(transport_tcp.post(w.c, &op[i].op), 0);
	}
	transport_tcp.doorbell(w.c);
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (ended < 16) {
		int n = transport_tcp.poll(w.t, 3);
		assert_in_range(n, 0, 3);
		ended += (unsigned)n;
		assert_true(rig_now_ms() < limit);
	}
	world_down(&w);
}

static void test_refusals(void **state)
{
	struct world w;
	world_up(&w, 8, NULL);
	uint64_t key = w.a.export.tcp_key;
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, key + 1, 0), -EREMOTEIO);
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_WRITE, w.area, 4096, key + 1, 0), -EREMOTEIO);
	assert_int_equal(RIG_STAT(w.s, refused_key), 2);
	assert_int_equal(
		rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, w.b.export.tcp_key, 0), -EREMOTEIO);
	assert_int_equal(
		rig_do(w.t, w.c, TRANSPORT_WRITE, w.area, 64, w.b.export.tcp_key, 0), -EREMOTEIO);
	assert_int_equal(RIG_STAT(w.s, refused_client), 2);
	assert_int_equal(w.b.base[0], 0);
	assert_int_equal(
		rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, key, w.a.len - 63), -EREMOTEIO);
	assert_int_equal(
		rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, key, UINT64_MAX - 10), -EREMOTEIO);
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_WRITE, w.area, 64, key, w.a.len), -EREMOTEIO);
	assert_int_equal(RIG_STAT(w.s, refused_bounds), 3);
	/* still alive */
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, key, w.a.len - 64), 0);
	/* too long to be drained: the connection goes */
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_WRITE, w.area, AREA, key, 0), -ECONNRESET);
	assert_true(transport_tcp.conn_broken(w.c));
	assert_int_equal(RIG_STAT(w.s, refused_length), 1);
	world_down(&w);
}

static void test_bad_ops(void **state)
{
	struct world w;
	struct rig_op o;
	uint8_t elsewhere[64];
	world_up(&w, 8, NULL);
	rig_op_init(&o, TRANSPORT_READ, elsewhere, 64, w.a.export.tcp_key, 0);
	assert_int_equal(transport_tcp.post(w.c, &o.op), -EINVAL);
	rig_op_init(&o, TRANSPORT_READ, w.area, 0, w.a.export.tcp_key, 0);
	assert_int_equal(transport_tcp.post(w.c, &o.op), -EINVAL);
	rig_op_init(&o, TRANSPORT_READ, w.area + AREA - 10, 11, w.a.export.tcp_key, 0);
	assert_int_equal(transport_tcp.post(w.c, &o.op), -EINVAL);
	world_down(&w);
}

static void test_handshake_refused(void **state)
{
	static const uint64_t wrong[2] = {0x1111, 0xaaab};
	struct world w;
	struct transport_conn *c;
	world_up(&w, 8, NULL);
	assert_int_equal(rig_establish(w.t, w.port, wrong, &c), -EACCES);
	transport_tcp.destroy(c);
	assert_int_equal(RIG_STAT(w.s, refused_token), 1);
	world_down(&w);
}

static void one_conn(struct transport_server_config *cfg)
{
	cfg->max_conns_per_client = 1;
}

static void test_connection_limit(void **state)
{
	struct world w;
	struct transport_conn *c;
	world_up(&w, 8, one_conn);
	assert_int_equal(rig_establish(w.t, w.port, TOKEN_A, &c), -EUSERS);
	transport_tcp.destroy(c);
	assert_int_equal(RIG_STAT(w.s, refused_limit), 1);
	rig_drop(w.c);
	w.c = rig_connect(w.t, w.port, TOKEN_A);
	world_down(&w);
}

static void test_two_connections_live_side_by_side(void **state)
{
	struct world w;
	world_up(&w, 8, NULL);
	struct transport_conn *other = rig_connect(w.t, w.port, TOKEN_A);
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, w.a.export.tcp_key, 0), 0);
	assert_int_equal(rig_do(w.t, other, TRANSPORT_READ, w.area, 64, w.a.export.tcp_key, 0), 0);
	rig_drop(other);
	world_down(&w);
}

/* Sends a HELLO by hand and reads the verdict. */
static uint32_t raw_hello(int fd, const struct transport_hello *h)
{
	uint8_t q[TCP_REQUEST_BYTES], a[TCP_RESPONSE_BYTES];
	struct tcp_response r;
	tcp_hello_encode(q, h);
	assert_int_equal(send(fd, q, sizeof q, MSG_NOSIGNAL), sizeof q);
	assert_int_equal(recv(fd, a, sizeof a, MSG_WAITALL), sizeof a);
	assert_true(tcp_response_decode(a, &r));
	assert_int_equal(r.opcode, TCP_HELLO);
	return r.status;
}

static void test_newer_connection_replaces_lost_one(void **state)
{
	struct world w;
	uint8_t byte;
	world_up(&w, 8, NULL);
	struct transport_hello h = {.token = {TOKEN_A[0], TOKEN_A[1]},
		.instance = 9,
		.sequence = 1,
		.slot = 0,
		.live_mask = 1};
	int lost = rig_socket(w.port), kept = rig_socket(w.port), newer = rig_socket(w.port);
	assert_int_equal(raw_hello(lost, &h), TCP_STATUS_OK);
	h.sequence = 2;
	h.slot = 1;
	h.live_mask = 3;
	assert_int_equal(raw_hello(kept, &h), TCP_STATUS_OK);
	h.sequence = 3;
	h.slot = 0;
	assert_int_equal(raw_hello(newer, &h), TCP_STATUS_OK);
	assert_int_equal(recv(lost, &byte, 1, 0), 0);
	RIG_WAIT_STAT(w.s, closed_session, 1);
	struct pollfd p = {.fd = kept, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 0), 0);
	close(lost);
	close(kept);
	close(newer);
	world_down(&w);
}

static void test_session_removed(void **state)
{
	struct world w;
	world_up(&w, 8, NULL);
	transport_server_session_remove(w.s, TOKEN_A);
	assert_int_equal(
		rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, w.a.export.tcp_key, 0), -ECONNRESET);
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (transport_tcp.conn_progress(w.c) != -ECONNRESET)
		assert_true(rig_now_ms() < limit);
	RIG_WAIT_STAT(w.s, closed_session, 1);
	world_down(&w);
}

/* Looks at memory that a data thread is writing; nothing else tells how far a request has come. */
__attribute__((no_sanitize("thread"))) static bool arrived(const uint8_t *p, uint8_t want)
{
	return *(const volatile uint8_t *)p == want;
}

static void test_unexport_half_received_write(void **state)
{
	struct world w;
	struct tcp_response r;
	uint8_t q[TCP_REQUEST_BYTES], a[TCP_RESPONSE_BYTES], part[3000];
	world_up(&w, 8, NULL);
	struct transport_hello h = {
		.token = {TOKEN_A[0], TOKEN_A[1]}, .instance = 3, .sequence = 1, .live_mask = 1};
	int fd = rig_socket(w.port);
	assert_int_equal(raw_hello(fd, &h), TCP_STATUS_OK);
	tcp_request_encode(q,
		&(struct tcp_request){
			.opcode = TCP_WRITE, .len = 6000, .cookie = 5, .key = w.a.export.tcp_key});
	memset(part, 0x5a, sizeof part);
	assert_int_equal(send(fd, q, sizeof q, 0), sizeof q);
	assert_int_equal(send(fd, part, sizeof part, 0), sizeof part);
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (!arrived(&w.a.base[2999], 0x5a))
		assert_true(rig_now_ms() < limit);
	transport_server_unexport(w.s, w.a.export.region);
	memset(w.a.base, 0, 6000);
	assert_int_equal(send(fd, part, sizeof part, 0), sizeof part);
	assert_int_equal(recv(fd, a, sizeof a, MSG_WAITALL), sizeof a);
	assert_true(tcp_response_decode(a, &r));
	assert_int_equal(r.status, TCP_STATUS_NO_REGION);
	assert_int_equal(r.cookie, 5);
	for (unsigned i = 0; i < 6000; i++)
		assert_int_equal(w.a.base[i], 0);
	close(fd);
	world_down(&w);
}

#define HELD (64u << 20) /* bytes; far more than reader_socket() and its peer's buffer hold */

/* A session whose client reads nothing unless the test does. */
static int reader_socket(struct world *w)
{
	int fd = rig_socket(w->port), bytes = 1 << 16;
	struct transport_hello h = {
		.token = {TOKEN_A[0], TOKEN_A[1]}, .instance = 3, .sequence = 1, .live_mask = 1};
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes), 0);
	assert_int_equal(raw_hello(fd, &h), TCP_STATUS_OK);
	return fd;
}

static void raw_read(int fd, uint64_t cookie, const struct rig_region *r)
{
	uint8_t q[TCP_REQUEST_BYTES];
	tcp_request_encode(q, &(struct tcp_request){.opcode = TCP_READ,
				      .len = (uint32_t)r->len,
				      .cookie = cookie,
				      .key = r->export.tcp_key});
	assert_int_equal(send(fd, q, sizeof q, 0), sizeof q);
}

static void raw_answer(int fd, uint64_t cookie, enum tcp_status status, uint32_t len)
{
	uint8_t a[TCP_RESPONSE_BYTES];
	struct tcp_response r;
	assert_int_equal(recv(fd, a, sizeof a, MSG_WAITALL), sizeof a);
	assert_true(tcp_response_decode(a, &r));
	assert_int_equal(r.cookie, cookie);
	assert_int_equal(r.status, status);
	assert_int_equal(r.len, len);
}

static void test_unexport_half_sent_read(void **state)
{
	struct world w;
	struct rig_region big;
	uint8_t buf[65536];
	size_t got = 0;
	ssize_t n;
	world_up(&w, 8, NULL);
	rig_export(w.s, 1, HELD, &big);
	int fd = reader_socket(&w);
	raw_read(fd, 5, &big);
	assert_int_equal(recv(fd, buf, 1, MSG_WAITALL), 1);
	transport_server_unexport(w.s, big.export.region);
	memset(big.base, 0xff, big.len);
	while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {
		assert_null(memchr(buf, 0xff, (size_t)n));
		got += (size_t)n;
	}
	assert_true(n == 0 || errno == ECONNRESET);
	assert_true(got < HELD);
	RIG_WAIT_STAT(w.s, closed_revoked, 1);
	close(fd);
	munmap(big.base, big.len);
	world_down(&w);
}

/* What has not begun to go out is refused, and the connection lives. */
static void test_unexport_before_answer(void **state)
{
	struct world w;
	struct rig_region big;
	uint8_t buf[65536];
	world_up(&w, 8, NULL);
	rig_export(w.s, 1, HELD, &big);
	int fd = reader_socket(&w);
	raw_read(fd, 5, &big);
	for (uint64_t i = 6; i < 10; i++)
		raw_read(fd, i, &w.a);
	raw_answer(fd, 5, TCP_STATUS_OK, HELD);
	transport_server_unexport(w.s, w.a.export.region);
	for (size_t got = 0; got < HELD; got += sizeof buf)
		assert_int_equal(recv(fd, buf, sizeof buf, MSG_WAITALL), sizeof buf);
	for (uint64_t i = 6; i < 10; i++)
		raw_answer(fd, i, TCP_STATUS_NO_REGION, 0);
	raw_read(fd, 10, &big);
	raw_answer(fd, 10, TCP_STATUS_OK, HELD);
	assert_int_equal(RIG_STAT(w.s, closed_revoked), 0);
	close(fd);
	munmap(big.base, big.len);
	world_down(&w);
}

static void short_limits(struct transport_server_config *cfg)
{
	cfg->handshake_ms = 50;
	cfg->stall_ms = 50;
}

static void test_time_limits(void **state)
{
	struct world w;
	uint8_t q[TCP_REQUEST_BYTES], byte;
	world_up(&w, 8, short_limits);
	int silent = rig_socket(w.port), stalled = rig_socket(w.port);
	struct transport_hello h = {
		.token = {TOKEN_A[0], TOKEN_A[1]}, .instance = 3, .sequence = 1, .live_mask = 1};
	assert_int_equal(raw_hello(stalled, &h), TCP_STATUS_OK);
	tcp_request_encode(q,
		&(struct tcp_request){.opcode = TCP_WRITE, .len = 100, .key = w.a.export.tcp_key});
	assert_int_equal(send(stalled, q, sizeof q, 0), sizeof q);
	assert_int_equal(recv(silent, &byte, 1, 0), 0);
	assert_int_equal(recv(stalled, &byte, 1, 0), 0);
	assert_int_equal(RIG_STAT(w.s, closed_handshake), 1);
	assert_int_equal(RIG_STAT(w.s, closed_stalled), 1);
	/* one that has nothing to say is left alone */
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, w.a.export.tcp_key, 0), 0);
	close(silent);
	close(stalled);
	world_down(&w);
}

static void test_slow_reader_harms_nobody(void **state)
{
	struct world w;
	uint8_t q[TCP_REQUEST_BYTES];
	world_up(&w, 8, NULL);
	struct transport_hello h = {
		.token = {TOKEN_A[0], TOKEN_A[1]}, .instance = 3, .sequence = 1, .live_mask = 1};
	int fd[4];
	for (unsigned k = 0; k < 4; k++) {
		fd[k] = rig_socket(w.port);
		h.instance++;
		assert_int_equal(raw_hello(fd[k], &h), TCP_STATUS_OK);
		tcp_request_encode(
			q, &(struct tcp_request){
				   .opcode = TCP_READ, .len = 4u << 20, .key = w.a.export.tcp_key});
		for (unsigned i = 0; i < 64; i++)
			assert_int_equal(send(fd[k], q, sizeof q, 0), sizeof q);
	}
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(
			rig_do(w.t, w.c, TRANSPORT_READ, w.area, 4096, w.a.export.tcp_key, 0), 0);
	for (unsigned k = 0; k < 4; k++)
		close(fd[k]);
	world_down(&w);
}

static void test_garbage(void **state)
{
	struct world w;
	uint8_t q[TCP_REQUEST_BYTES], byte;
	world_up(&w, 8, NULL);
	struct transport_hello h = {
		.token = {TOKEN_A[0], TOKEN_A[1]}, .instance = 3, .sequence = 1, .live_mask = 1};
	int before = rig_socket(w.port), after = rig_socket(w.port);
	memset(q, 'x', sizeof q);
	assert_int_equal(send(before, q, sizeof q, 0), sizeof q);
	assert_true(recv(before, &byte, 1, 0) <= 0);
	assert_int_equal(raw_hello(after, &h), TCP_STATUS_OK);
	assert_int_equal(send(after, q, sizeof q, 0), sizeof q);
	assert_true(recv(after, &byte, 1, 0) <= 0);
	RIG_WAIT_STAT(w.s, closed_garbage, 2);
	close(before);
	close(after);
	assert_int_equal(rig_do(w.t, w.c, TRANSPORT_READ, w.area, 64, w.a.export.tcp_key, 0), 0);
	world_down(&w);
}

static void test_server_stops_under_load(void **state)
{
	struct world w;
	struct rig_op op[8];
	world_up(&w, 8, NULL);
	for (unsigned i = 0; i < 8; i++) {
		rig_op_init(&op[i], TRANSPORT_WRITE, w.area, 1u << 20, w.a.export.tcp_key, 0);
		assert_int_equal(transport_tcp.post(w.c, &op[i].op), 0);
	}
	transport_tcp.doorbell(w.c);
	transport_server_stop(w.s);
	for (unsigned i = 0; i < 8; i++)
		assert_true(rig_wait(w.t, &op[i]) == -ECONNRESET || op[i].status == 0);
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (!transport_tcp.conn_broken(w.c)) {
		transport_tcp.poll(w.t, 8);
		assert_true(rig_now_ms() < limit);
	}
	rig_op_init(&op[0], TRANSPORT_WRITE, w.area, 64, w.a.export.tcp_key, 0);
	assert_int_equal(transport_tcp.post(w.c, &op[0].op), -ENOTCONN);
	w.s = NULL;
	world_down(&w);
}

static void test_disconnect_cancels(void **state)
{
	struct world w;
	struct rig_op op[8];
	world_up(&w, 8, NULL);
	for (unsigned i = 0; i < 8; i++) {
		rig_op_init(&op[i], i & 1 ? TRANSPORT_READ : TRANSPORT_WRITE, w.area, 1u << 20,
			w.a.export.tcp_key, 0);
		assert_int_equal(transport_tcp.post(w.c, &op[i].op), 0);
		if (i == 5)
			transport_tcp.doorbell(w.c);
	}
	transport_tcp.disconnect(w.c);
	for (unsigned i = 0; i < 8; i++) {
		assert_true(op[i].ended);
		assert_int_equal(op[i].status, -ECANCELED);
	}
	assert_int_equal(transport_tcp.post(w.c, &op[0].op), -ENOTCONN);
	assert_int_equal(transport_tcp.poll(w.t, 8), 0);
	transport_tcp.destroy(w.c);
	w.c = NULL;
	world_down(&w);
}

static void test_connect_failures(void **state)
{
	struct world w;
	struct transport_conn *c;
	world_up(&w, 8, NULL);
	transport_server_stop(w.s);
	w.s = NULL;
	assert_int_equal(rig_establish(w.t, w.port, TOKEN_A, &c), -ECONNREFUSED);
	transport_tcp.destroy(c);
	struct transport_peer peer = {
		.host = "no such host", .port = 1, .timeout_ms = RIG_LIMIT_MS};
	int err;
	assert_int_equal(transport_tcp.connect(w.t, &peer, &c), 0);
	while ((err = transport_tcp.conn_progress(c)) == -EINPROGRESS) {
		struct pollfd p = {.fd = transport_tcp.conn_fd(c), .events = POLLIN};
		poll(&p, 1, 1000);
	}
	assert_true(err == -EHOSTUNREACH || err == -ETIMEDOUT);
	transport_tcp.destroy(c);
	peer.host[0] = 0;
	assert_int_equal(transport_tcp.connect(w.t, &peer, &c), -EINVAL);
	world_down(&w);
}

static void test_server_config_errors(void **state)
{
	struct transport_server_config cfg;
	struct transport_server *s, *other;
	char err[200];
	transport_server_config_default(&cfg, "127.0.0.1");
	cfg.tcp_threads = 0;
	assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), -EINVAL);
	transport_server_config_default(&cfg, "not an address");
	cfg.verbs = false;
	assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), -EINVAL);
	transport_server_config_default(&cfg, "127.0.0.1");
	assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), 0);
	assert_int_equal(transport_server_verbs_port(s), 0);
	cfg.tcp_port = transport_server_tcp_port(s);
	assert_int_equal(transport_server_start(&cfg, &other, err, sizeof err), -EADDRINUSE);
	assert_non_null(strstr(err, "127.0.0.1"));
	assert_int_equal(transport_server_session_add(s, 7, TOKEN_A), -ENOENT);
	assert_int_equal(transport_server_client_add(s, 7), 0);
	assert_int_equal(transport_server_client_add(s, 7), -EEXIST);
	assert_int_equal(transport_server_session_add(s, 7, TOKEN_A), 0);
	assert_int_equal(transport_server_session_add(s, 7, TOKEN_A), -EEXIST);
	assert_int_equal(transport_server_session_add(s, 7, (uint64_t[2]){0, 0}), -EINVAL);
	transport_server_client_remove(s, 7);
	transport_server_client_remove(s, 7);
	transport_server_stop(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_and_read_back),
		cmocka_unit_test(test_depth_and_pipeline),
		cmocka_unit_test(test_sends_that_stop_half_way),
		cmocka_unit_test(test_poll_budget),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_bad_ops),
		cmocka_unit_test(test_handshake_refused),
		cmocka_unit_test(test_connection_limit),
		cmocka_unit_test(test_two_connections_live_side_by_side),
		cmocka_unit_test(test_newer_connection_replaces_lost_one),
		cmocka_unit_test(test_session_removed),
		cmocka_unit_test(test_unexport_half_received_write),
		cmocka_unit_test(test_unexport_half_sent_read),
		cmocka_unit_test(test_unexport_before_answer),
		cmocka_unit_test(test_time_limits),
		cmocka_unit_test(test_slow_reader_harms_nobody),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_server_stops_under_load),
		cmocka_unit_test(test_disconnect_cancels),
		cmocka_unit_test(test_connect_failures),
		cmocka_unit_test(test_server_config_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
