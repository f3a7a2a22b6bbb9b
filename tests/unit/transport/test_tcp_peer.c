/* The tcp client against donors that answer out of order, in pieces, or lie; and the golden frames.
 */
#include "tests/unit/transport/rig.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/transport/tcp_wire.h"

#define AREA (1u << 20)

static const uint64_t TOKEN[2] = {0x0123456789abcdefull, 0xfedcba9876543210ull};
static uint64_t seed;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* A donor played by the test itself: nothing happens behind its back. */
struct donor {
	int listen_fd, fd;
	struct transport *t;
	struct transport_conn *c;
	uint8_t *area;
};

static void put(int fd, const void *data, size_t n)
{
	assert_int_equal(send(fd, data, n, MSG_NOSIGNAL), n);
}

static void donor_up(struct donor *d, uint32_t depth)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	uint8_t q[TCP_REQUEST_BYTES], p[TCP_RESPONSE_BYTES];
	d->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(d->listen_fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(d->listen_fd, 1), 0);
	assert_int_equal(getsockname(d->listen_fd, (struct sockaddr *)&a, &len), 0);
	d->t = rig_transport(depth, (void **)&d->area, AREA);
	struct transport_peer peer = {.host = "127.0.0.1",
		.port = ntohs(a.sin_port),
		.token = {TOKEN[0], TOKEN[1]},
		.timeout_ms = RIG_LIMIT_MS};
	assert_int_equal(transport_tcp.connect(d->t, &peer, &d->c), 0);
	assert_int_equal(transport_tcp.conn_progress(d->c), -EINPROGRESS);
	d->fd = accept(d->listen_fd, NULL, NULL);
	assert_true(d->fd >= 0);
	int err;
	struct pollfd pfd = {.fd = d->fd, .events = POLLIN};
	do
		err = transport_tcp.conn_progress(d->c);
	while (err == -EINPROGRESS && poll(&pfd, 1, 10) == 0);
	assert_int_equal(recv(d->fd, q, sizeof q, MSG_WAITALL), sizeof q);
	struct transport_hello h;
	assert_true(tcp_hello_decode(q, &h));
	assert_true(h.token[0] == TOKEN[0] && h.token[1] == TOKEN[1]);
	tcp_response_encode(
		p, &(struct tcp_response){.opcode = TCP_HELLO, .cookie = tcp_get64(q + 8)});
	put(d->fd, p, sizeof p);
	while ((err = transport_tcp.conn_progress(d->c)) == -EINPROGRESS) {
		pfd = (struct pollfd){.fd = transport_tcp.conn_fd(d->c), .events = POLLIN};
		poll(&pfd, 1, 1000);
	}
	assert_int_equal(err, 0);
	assert_int_equal(transport_tcp.attach(d->c), 0);
}

static void donor_down(struct donor *d)
{
	rig_drop(d->c);
	transport_tcp.close(d->t);
	munmap(d->area, AREA);
	close(d->fd);
	close(d->listen_fd);
}

#define OPS 32

/* Answers in a random order, cut into random pieces, some refused. */
static void test_any_order_any_pieces(void **state)
{
	struct donor d;
	static uint8_t out[AREA];
	donor_up(&d, OPS);
	for (unsigned round = 0; round < 300; round++) {
		struct rig_op op[OPS];
		struct tcp_request q[OPS];
		unsigned n = 1 + (unsigned)(draw() % OPS);
		for (unsigned i = 0; i < n; i++) {
			uint32_t len = draw() % 4 ? (uint32_t)(1 + draw() % 200)
						  : (uint32_t)(1 + draw() % 9000);
			rig_op_init(&op[i], draw() % 3 ? TRANSPORT_READ : TRANSPORT_WRITE,
				d.area + i * 16384, len, i, draw());
			memset(op[i].op.buf, 0xee, 16384);
			assert_int_equal(transport_tcp.post(d.c, &op[i].op), 0);
		}
		transport_tcp.doorbell(d.c);
		for (unsigned i = 0; i < n; i++) {
			uint8_t head[TCP_REQUEST_BYTES];
			assert_int_equal(recv(d.fd, head, sizeof head, MSG_WAITALL), sizeof head);
			assert_true(tcp_request_decode(head, &q[i]));
			assert_true(q[i].key == i && q[i].offset == op[i].op.raddr);
			if (q[i].opcode == TCP_WRITE)
				assert_int_equal(recv(d.fd, out, q[i].len, MSG_WAITALL), q[i].len);
		}
		size_t bytes = 0;
		bool refused[OPS];
		for (unsigned left = n; left; left--) {
			unsigned k = (unsigned)(draw() % 3 ? 0 : draw() % left);
			struct tcp_request r = q[k];
			memmove(&q[k], &q[k + 1], (left - k - 1) * sizeof q[0]);
			refused[r.key] = draw() % 5 == 0;
			bool payload = r.opcode == TCP_READ && !refused[r.key];
			tcp_response_encode(out + bytes,
				&(struct tcp_response){.opcode = r.opcode,
					.len = payload ? r.len : 0,
					.cookie = r.cookie,
					.status = refused[r.key] ? TCP_STATUS_NO_REGION : 0});
			bytes += TCP_RESPONSE_BYTES;
			if (payload) {
				memset(out + bytes, (int)r.key, r.len);
				bytes += r.len;
			}
		}
		for (size_t at = 0; at < bytes;) {
			size_t piece = draw() % 2 ? 1 + draw() % 64 : 1 + draw() % 20000;
			if (piece > bytes - at)
				piece = bytes - at;
			put(d.fd, out + at, piece);
			at += piece;
			transport_tcp.poll(d.t, 1 + (unsigned)(draw() % 4));
		}
		for (unsigned i = 0; i < n; i++) {
			assert_int_equal(rig_wait(d.t, &op[i]), refused[i] ? -EREMOTEIO : 0);
			const uint8_t *b = op[i].op.buf;
			if (op[i].op.kind == TRANSPORT_READ && !refused[i])
				for (uint32_t k = 0; k < op[i].op.len; k++)
					assert_int_equal(b[k], i);
			for (uint32_t k = op[i].op.len; k < 16384; k++)
				assert_int_equal(b[k], 0xee);
		}
	}
	donor_down(&d);
}

static void test_lies(void **state)
{
	enum lie {
		MAGIC,
		VERSION,
		OPCODE,
		LONG,
		SHORT,
		SLOT,
		GENERATION,
		STATUS,
		TWICE,
		RESERVED,
		EOF_,
		LIES
	};
	for (enum lie lie = 0; lie < LIES; lie++) {
		struct donor d;
		struct rig_op op[2];
		uint8_t head[TCP_REQUEST_BYTES], p[TCP_RESPONSE_BYTES + 64] = {0};
		struct tcp_request q;
		donor_up(&d, 4);
		for (unsigned i = 0; i < 2; i++) {
			rig_op_init(&op[i], TRANSPORT_READ, d.area + i * 4096, 64, 1, 2);
			assert_int_equal(transport_tcp.post(d.c, &op[i].op), 0);
		}
		transport_tcp.doorbell(d.c);
		assert_int_equal(recv(d.fd, head, sizeof head, MSG_WAITALL), sizeof head);
		assert_true(tcp_request_decode(head, &q));
		struct tcp_response r = {.opcode = TCP_READ, .len = 64, .cookie = q.cookie};
		r.opcode = lie == OPCODE ? TCP_WRITE : TCP_READ;
		r.len = lie == LONG ? 65 : lie == SHORT ? 63 : 64;
		r.cookie += lie == SLOT ? 100 : lie == GENERATION ? 1ull << 32 : 0;
		r.status = lie == STATUS ? TCP_STATUS_TOKEN : 0;
		tcp_response_encode(p, &r);
		p[0] ^= lie == MAGIC;
		p[2] ^= lie == VERSION;
		p[23] ^= lie == RESERVED;
		if (lie == EOF_)
			shutdown(d.fd, SHUT_WR);
		else
			put(d.fd, p, sizeof p);
		if (lie == TWICE)
			put(d.fd, p, sizeof p);
		int first = rig_wait(d.t, &op[0]), second = rig_wait(d.t, &op[1]);
		assert_int_equal(first, lie == TWICE ? 0 : -ECONNRESET);
		assert_int_equal(second, -ECONNRESET);
		assert_true(transport_tcp.conn_broken(d.c));
		assert_int_equal(transport_tcp.conn_progress(d.c), -ECONNRESET);
		donor_down(&d);
	}
}

static void test_unasked_answer(void **state)
{
	struct donor d;
	uint8_t p[TCP_RESPONSE_BYTES];
	donor_up(&d, 4);
	tcp_response_encode(p, &(struct tcp_response){.opcode = TCP_WRITE});
	put(d.fd, p, sizeof p);
	uint64_t limit = rig_now_ms() + RIG_LIMIT_MS;
	while (!transport_tcp.conn_broken(d.c)) {
		transport_tcp.poll(d.t, 8);
		assert_true(rig_now_ms() < limit);
	}
	donor_down(&d);
}

static void golden(const char *name, const uint8_t *frame, size_t bytes)
{
	char path[512];
	uint8_t want[128];
	size_t n = 0;
	int c;
	snprintf(path, sizeof path, "%s/tcp-%s.hex", GOLDEN_DIR, name);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while ((c = fgetc(f)) != EOF) {
		if (c == '#')
			while (c != '\n' && c != EOF)
				c = fgetc(f);
		if (!isxdigit(c))
			continue;
		char pair[3] = {(char)c, (char)fgetc(f), 0};
		assert_true(n < sizeof want);
		want[n++] = (uint8_t)strtoul(pair, NULL, 16);
	}
	fclose(f);
	assert_int_equal(n, bytes);
	assert_memory_equal(frame, want, bytes);
}

static void test_golden_frames(void **state)
{
	uint8_t q[TCP_REQUEST_BYTES], p[TCP_RESPONSE_BYTES];
	tcp_hello_encode(q, &(struct transport_hello){.token = {TOKEN[0], TOKEN[1]},
				    .instance = 0xa1b2c3d4,
				    .sequence = 7,
				    .slot = 1,
				    .live_mask = 3});
	golden("hello", q, sizeof q);
	struct tcp_request r = {.opcode = TCP_READ,
		.len = 4096,
		.cookie = 0x0000000200000001ull,
		.key = 0x1122334455667788ull,
		.offset = 0x100000};
	tcp_request_encode(q, &r);
	golden("read", q, sizeof q);
	r.opcode = TCP_WRITE;
	r.len = 1u << 20;
	tcp_request_encode(q, &r);
	golden("write", q, sizeof q);
	struct tcp_response a = {.opcode = TCP_READ, .len = 4096, .cookie = r.cookie};
	tcp_response_encode(p, &a);
	golden("read-answer", p, sizeof p);
	a.opcode = TCP_WRITE;
	a.len = 0;
	a.status = TCP_STATUS_BOUNDS;
	tcp_response_encode(p, &a);
	golden("refusal", p, sizeof p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_order_any_pieces),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_unasked_answer),
		cmocka_unit_test(test_golden_frames),
	};
	seed = argc > 1 ? strtoull(argv[1], NULL, 0)
			: (uint64_t)getpid() * 2654435761u + rig_now_ms();
	seed = seed ? seed : 1;
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
