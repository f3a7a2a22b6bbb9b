/* Both ends of the verbs transport against a card of plain memory: states, batches, every error
 * path. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/transport/server.h"
#include "lib/transport/tcp_wire.h"
#include "lib/transport/transport.h"
#include "lib/transport/verbs_client.h"
#include "lib/transport/verbs_device.h"
#include "tests/unit/transport/fake_verbs.h"

#define DEPTH 8u
#define AREA  65536u

static uint8_t area[AREA] __attribute__((aligned(4096)));

struct end {
	struct transport_op op;
	bool ended;
	int status;
};

static void op_done(struct transport_op *op, int status)
{
	struct end *e = (struct end *)op;
	assert_false(e->ended);
	e->ended = true;
	e->status = status;
}

static void end_init(struct end *e, enum transport_op_kind kind, unsigned i)
{
	*e = (struct end){.op = {.kind = kind,
				  .buf = area + i * 512,
				  .len = 512,
				  .rkey = 7,
				  .raddr = 0x10000 + i * 512,
				  .done = op_done}};
}

static const struct transport_peer peer = {
	.host = "127.0.0.1", .port = 4711, .token = {5, 6}, .timeout_ms = 60000};

static struct transport *up(void)
{
	struct transport *t;
	fake_reset();
	assert_int_equal(transport_verbs.open(NULL, DEPTH, &t), 0);
	assert_int_equal(transport_verbs.mem_register(t, area, AREA), 0);
	return t;
}

static void down(struct transport *t)
{
	transport_verbs.close(t);
	assert_int_equal(fake.live, 0);
}

static int step(struct transport_conn *c, enum rdma_cm_event_type type, int status,
	const void *data, uint8_t len)
{
	fake_event(fake.last_id, type, status, data, len);
	return transport_verbs.conn_progress(c);
}

static struct transport_conn *start(struct transport *t)
{
	struct transport_conn *c;
	assert_int_equal(transport_verbs.connect(t, &peer, &c), 0);
	assert_int_equal(transport_verbs.conn_progress(c), -EINPROGRESS);
	return c;
}

static struct transport_conn *establish(struct transport *t)
{
	struct transport_conn *c = start(t);
	assert_int_equal(step(c, RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0), -EINPROGRESS);
	assert_int_equal(step(c, RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0), -EINPROGRESS);
	assert_int_equal(step(c, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0), 0);
	assert_int_equal(transport_verbs.attach(c), 0);
	return c;
}

static void drop(struct transport_conn *c)
{
	transport_verbs.disconnect(c);
	transport_verbs.destroy(c);
}

static void test_open_failures_leave_nothing(void **state)
{
	static const char *const fn[] = {
		"ibv_query_device", "ibv_alloc_pd", "ibv_create_comp_channel", "ibv_create_cq"};
	struct transport *t;
	fake_reset();
	fake.devices = 0;
	assert_int_equal(transport_verbs.open(NULL, DEPTH, &t), -ENODEV);
	fake.devices = 1;
	assert_int_equal(transport_verbs.open("other0", DEPTH, &t), -ENODEV);
	assert_int_equal(transport_verbs.open("fake0", 0, &t), -EINVAL);
	for (unsigned i = 0; i < sizeof fn / sizeof fn[0]; i++) {
		fake.fail = fn[i];
		assert_int_equal(transport_verbs.open("fake0", DEPTH, &t), -EIO);
		assert_int_equal(fake.live, 0);
	}
	t = up();
	fake.fail = "ibv_reg_mr";
	assert_int_equal(transport_verbs.mem_register(t, area, AREA), -EIO);
	assert_int_equal(transport_verbs.mem_register(t, area + 1, AREA), -EINVAL);
	down(t);
}

static void test_establish(void **state)
{
	struct transport *t = up();
	struct transport_hello h;
	struct transport_conn *c = establish(t);
	assert_int_equal(fake.hello_bytes, VERBS_HELLO_BYTES);
	assert_true(tcp_hello_decode(fake.hello, &h));
	assert_int_equal(h.token[0], 5);
	assert_int_equal(h.token[1], 6);
	/* a peer that is gone is noticed: some devices take 7 retries for no limit */
	assert_in_range(fake.retries, 1, 6);
	assert_int_equal(fake.ack_timeout, VERBS_ACK_TIMEOUT);
	assert_int_equal(transport_verbs.conn_progress(c), 0);
	assert_int_equal(step(c, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0), -ECONNRESET);
	assert_int_equal(transport_verbs.conn_progress(c), -ECONNRESET);
	drop(c);
	assert_int_equal(fake.disconnected, 1);
	down(t);
}

static void test_establish_failures(void **state)
{
	static const struct {
		const char *fail;
		enum rdma_cm_event_type last; /* the event of the failing step */
		uint8_t reason;
		int err;
	} cases[] = {{NULL, RDMA_CM_EVENT_ADDR_ERROR, 0, -ETIMEDOUT},
		{"rdma_resolve_route", RDMA_CM_EVENT_ADDR_RESOLVED, 0, -EIO},
		{NULL, RDMA_CM_EVENT_ROUTE_ERROR, 0, -ETIMEDOUT},
		{"rdma_create_qp", RDMA_CM_EVENT_ROUTE_RESOLVED, 0, -EIO},
		{"rdma_connect", RDMA_CM_EVENT_ROUTE_RESOLVED, 0, -EIO},
		{NULL, RDMA_CM_EVENT_UNREACHABLE, 0, -ETIMEDOUT},
		{NULL, RDMA_CM_EVENT_REJECTED, VERBS_REFUSED_TOKEN, -EACCES},
		{NULL, RDMA_CM_EVENT_REJECTED, VERBS_REFUSED_LIMIT, -EUSERS},
		{NULL, RDMA_CM_EVENT_REJECTED, 0, -ECONNREFUSED},
		{NULL, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, -ENODEV}};
	struct transport *t = up();
	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct transport_conn *c = start(t);
		bool route = cases[i].last != RDMA_CM_EVENT_ADDR_ERROR &&
			     cases[i].last != RDMA_CM_EVENT_ADDR_RESOLVED;
		bool connect = route && cases[i].last != RDMA_CM_EVENT_ROUTE_ERROR &&
			       cases[i].last != RDMA_CM_EVENT_ROUTE_RESOLVED;
		if (route)
			assert_int_equal(
				step(c, RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0), -EINPROGRESS);
		if (connect)
			assert_int_equal(
				step(c, RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0), -EINPROGRESS);
		fake.fail = cases[i].fail;
		assert_int_equal(step(c, cases[i].last, cases[i].err, &cases[i].reason,
					 cases[i].reason ? 1 : 0),
			cases[i].err);
		assert_int_equal(transport_verbs.conn_progress(c), cases[i].err);
		assert_null(fake.qps);
		transport_verbs.destroy(c);
	}
	struct transport_conn *c;
	static const char *const fn[] = {"rdma_create_event_channel"};
	fake.fail = fn[0];
	assert_int_equal(transport_verbs.connect(t, &peer, &c), -EIO);
	down(t);
}

static void test_completion_queue_never_overflows(void **state)
{
	/* the card's queue has 20 entries, a connection may need 9 */
	struct transport *t = up();
	struct transport_conn *a = establish(t), *b = establish(t), *c;
	assert_int_equal(transport_verbs.connect(t, &peer, &c), -ENOSPC);
	drop(a);
	a = establish(t);
	drop(a);
	drop(b);
	down(t);
}

static void test_batch_and_signalling(void **state)
{
	struct transport *t = up();
	struct transport_conn *c = establish(t);
	struct end e[DEPTH + 1];
	for (unsigned i = 0; i <= DEPTH; i++) {
		end_init(&e[i], i == 2 ? TRANSPORT_READ : TRANSPORT_WRITE, i);
		assert_int_equal(transport_verbs.post(c, &e[i].op), i == DEPTH ? -EAGAIN : 0);
	}
	assert_int_equal(fake.post_calls, 0);
	transport_verbs.doorbell(c);
	transport_verbs.doorbell(c);
	assert_int_equal(fake.post_calls, 1);
	assert_int_equal(fake.qps->wrs, DEPTH);
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct ibv_send_wr *wr = &fake.qps->wr[i];
		assert_int_equal(wr->opcode, i == 2 ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE);
		assert_int_equal(wr->wr.rdma.remote_addr, 0x10000 + i * 512);
		assert_int_equal(wr->wr.rdma.rkey, 7);
		assert_int_equal(!!(wr->send_flags & IBV_SEND_SIGNALED), i == 2 || i == DEPTH - 1);
	}
	fake_run(fake.qps, 2);
	assert_int_equal(transport_verbs.poll(t, 100), 0);
	fake_run(fake.qps, 2);
	assert_int_equal(transport_verbs.poll(t, 2), 2); /* 0 1 2, within the budget */
	assert_int_equal(transport_verbs.poll(t, 100), 1);
	assert_true(e[2].ended && !e[3].ended);
	fake_run(fake.qps, DEPTH);
	assert_int_equal(transport_verbs.poll(t, 100), DEPTH - 3);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(e[i].status, 0);
	/* round and round the ring */
	for (unsigned i = 0; i < 50; i++) {
		end_init(&e[0], i & 1 ? TRANSPORT_READ : TRANSPORT_WRITE, 0);
		end_init(&e[1], TRANSPORT_WRITE, 1);
		assert_int_equal(transport_verbs.post(c, &e[0].op), 0);
		assert_int_equal(transport_verbs.post(c, &e[1].op), 0);
		transport_verbs.doorbell(c);
		fake_run(fake.qps, 2);
		assert_int_equal(transport_verbs.poll(t, 100), 2);
	}
	drop(c);
	down(t);
}

static void test_errors_are_told_apart(void **state)
{
	static const struct {
		enum ibv_wc_status status;
		int err;
	} cases[] = {{IBV_WC_REM_ACCESS_ERR, -EREMOTEIO}, {IBV_WC_REM_INV_REQ_ERR, -EREMOTEIO},
		{IBV_WC_RETRY_EXC_ERR, -ECONNRESET}, {IBV_WC_WR_FLUSH_ERR, -ECONNRESET},
		{IBV_WC_LOC_PROT_ERR, -ECONNRESET}};
	struct transport *t = up();
	for (unsigned k = 0; k < sizeof cases / sizeof cases[0]; k++) {
		struct transport_conn *c = establish(t);
		struct end e[4];
		for (unsigned i = 0; i < 4; i++) {
			end_init(&e[i], TRANSPORT_WRITE, i);
			assert_int_equal(transport_verbs.post(c, &e[i].op), 0);
			if (i == 2)
				transport_verbs.doorbell(c);
		}
		fake_run(fake.qps, 1);
		fake_break(fake.qps, cases[k].status);
		unsigned n = 0;
		while (n < 4) {
			int got = transport_verbs.poll(t, 100);
			assert_true(got > 0);
			n += (unsigned)got;
		}
		assert_true(transport_verbs.conn_broken(c));
		if (cases[k].status != IBV_WC_WR_FLUSH_ERR)
			assert_int_equal(e[0].status, 0);
		assert_int_equal(e[1].status, cases[k].err);
		assert_int_equal(e[2].status, -ECONNRESET);
		assert_int_equal(e[3].status, -ECONNRESET); /* never rung */
		assert_int_equal(transport_verbs.post(c, &e[0].op), -ENOTCONN);
		assert_int_equal(transport_verbs.conn_progress(c), -ECONNRESET);
		drop(c);
	}
	down(t);
}

static void test_refused_doorbell(void **state)
{
	struct transport *t = up();
	struct transport_conn *c = establish(t);
	struct end e[4];
	for (unsigned i = 0; i < 4; i++) {
		end_init(&e[i], TRANSPORT_WRITE, i);
		assert_int_equal(transport_verbs.post(c, &e[i].op), 0);
	}
	fake.fail_post_at = 3;
	transport_verbs.doorbell(c);
	assert_true(transport_verbs.conn_broken(c));
	assert_int_equal(transport_verbs.poll(t, 100), 4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(e[i].status, -ECONNRESET);
	drop(c);
	down(t);
}

static void complete_all(void)
{
	fake_run(fake.qps, 100);
}

static void test_arm(void **state)
{
	struct transport *t = up();
	struct transport_conn *c = establish(t);
	struct end e;
	uint64_t one = 1;
	assert_int_equal(transport_verbs.arm(t), 0);
	assert_int_equal(fake.notified, 1);
	assert_int_equal(transport_verbs.arm(t), 0);
	assert_int_equal(fake.notified, 1); /* once is enough */
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(transport_verbs.arm(t), 0);
		assert_true(write(transport_verbs.event_fd(t), &one, sizeof one) == sizeof one);
		assert_int_equal(transport_verbs.poll(t, 1), 0);
	}
	assert_int_equal(fake.notified, 40);
	assert_int_equal(fake.acked, 32); /* in batches */
	/* the completion that comes just before the request */
	end_init(&e, TRANSPORT_READ, 0);
	assert_int_equal(transport_verbs.post(c, &e.op), 0);
	transport_verbs.doorbell(c);
	fake.before_poll = complete_all;
	assert_int_equal(transport_verbs.arm(t), -EAGAIN);
	assert_false(e.ended);
	assert_int_equal(transport_verbs.arm(t), -EAGAIN);
	assert_int_equal(transport_verbs.poll(t, 1), 1);
	assert_true(e.ended);
	fake.fail = "ibv_poll_cq";
	assert_int_equal(transport_verbs.poll(t, 1), -EIO);
	drop(c);
	down(t);
	assert_int_equal(fake.acked, 40);
}

static void test_disconnect_with_ops_outstanding(void **state)
{
	/* 0: all goes well; 1: the card gives nothing back; 2: it cannot be stopped */
	for (unsigned how = 0; how < 3; how++) {
		struct transport *t = up();
		struct transport_conn *c = establish(t);
		struct end e[4];
		for (unsigned i = 0; i < 4; i++) {
			end_init(&e[i], i & 1 ? TRANSPORT_READ : TRANSPORT_WRITE, i);
			assert_int_equal(transport_verbs.post(c, &e[i].op), 0);
			if (i == 2)
				transport_verbs.doorbell(c);
		}
		fake.hold = how == 1;
		fake.fail = how == 2 ? "ibv_modify_qp" : NULL;
		transport_verbs.disconnect(c);
		assert_null(fake.qps);
		for (unsigned i = 0; i < 4; i++) {
			assert_true(e[i].ended);
			assert_int_equal(e[i].status, -ECANCELED);
		}
		transport_verbs.disconnect(c);
		assert_int_equal(transport_verbs.post(c, &e[0].op), -ENOTCONN);
		transport_verbs.destroy(c);
		down(t);
	}
}

static void test_late_completion_of_a_gone_queue_pair(void **state)
{
	struct transport *t = up();
	struct transport_conn *c = establish(t);
	struct end e[2];
	end_init(&e[0], TRANSPORT_READ, 0);
	assert_int_equal(transport_verbs.post(c, &e[0].op), 0);
	transport_verbs.doorbell(c);
	struct fake_qp old = *fake.qps;
	drop(c);
	c = establish(t);
	end_init(&e[1], TRANSPORT_READ, 1);
	assert_int_equal(transport_verbs.post(c, &e[1].op), 0);
	transport_verbs.doorbell(c);
	fake_run(&old, 1); /* some cards keep completions of a destroyed queue pair */
	assert_int_equal(transport_verbs.poll(t, 10), 0);
	assert_false(e[1].ended);
	fake_run(fake.qps, 1);
	assert_int_equal(transport_verbs.poll(t, 10), 1);
	drop(c);
	down(t);
}

/* Memory of a guest's, registered piece by piece; addresses alone matter to this card. */
static void test_memory_of_others(void **state)
{
	struct transport *t = up(), *t2, *lanes[2];
	struct transport_memory *m;
	size_t piece = TRANSPORT_MEMORY_PIECE_BYTES, len = piece + 8192;
	uint8_t *base =
		mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct end e;

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_int_equal(transport_verbs.open(NULL, DEPTH, &t2), 0);
	lanes[0] = t;
	lanes[1] = t2;
	assert_int_equal(transport_verbs.memory_new(t, base + 1, len, &m), -EINVAL);
	assert_int_equal(transport_verbs.memory_new(t, base, 0, &m), -EINVAL);
	assert_int_equal(transport_verbs.memory_new(t, base, len, &m), 0);
	fake.fail = "ibv_reg_mr";
	assert_int_equal(transport_verbs.memory_register(m), -EIO);
	assert_int_equal(transport_verbs.memory_register(m), 1);
	for (unsigned i = 0; i < 2; i++) {
		struct transport_conn *c = establish(lanes[i]);

		/* one domain, so that one registration serves every lane */
		assert_ptr_equal(fake.qps->qp.pd, fake.mr_pd);
		end_init(&e, TRANSPORT_READ, 0);
		e.op.memory = m;
		assert_int_equal(transport_verbs.post(c, &e.op), -EOPNOTSUPP); /* not there */
		e.op.buf = base + 511; /* any address will do */
		assert_int_equal(transport_verbs.post(c, &e.op), 0);
		transport_verbs.doorbell(c);
		fake_run(fake.qps, 1);
		assert_int_equal(transport_verbs.poll(lanes[i], 10), 1);
		assert_int_equal(e.status, 0);
		e.ended = false;
		e.op.kind = TRANSPORT_WRITE; /* nobody's bytes go out */
		assert_int_equal(transport_verbs.post(c, &e.op), -EINVAL);
		e.op.kind = TRANSPORT_READ;
		e.op.buf = base + piece;
		assert_int_equal(transport_verbs.post(c, &e.op), i ? 0 : -EOPNOTSUPP);
		transport_verbs.doorbell(c);
		fake_run(fake.qps, 1);
		assert_int_equal(transport_verbs.poll(lanes[i], 10), i);
		assert_int_equal(transport_verbs.memory_register(m), 0);
		e.op.buf = base + piece - 256;
		assert_int_equal(transport_verbs.post(c, &e.op), -EOPNOTSUPP); /* two pieces */
		e.op.buf = base + len - 511;
		assert_int_equal(transport_verbs.post(c, &e.op), -EOPNOTSUPP); /* too long */
		drop(c);
	}
	transport_verbs.close(t2);
	transport_verbs.memory_delete(m);
	down(t);
	munmap(base, len);
}

/* The memory server's end. */

static const uint64_t TOKEN_A[2] = {1, 2}, TOKEN_B[2] = {3, 4};

static struct transport_server *server_up(void)
{
	struct transport_server_config cfg;
	struct transport_server *s;
	char err[200];
	fake_reset();
	transport_server_config_default(&cfg, "127.0.0.1");
	cfg.tcp = false;
	cfg.max_conns_per_client = 2;
	assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), 0);
	assert_int_equal(transport_server_verbs_status(s), 0);
	assert_int_equal(transport_server_verbs_port(s), 4711);
	assert_true(transport_server_event_fd(s) >= 0);
	assert_int_equal(transport_server_client_add(s, 1), 0);
	assert_int_equal(transport_server_client_add(s, 2), 0);
	assert_int_equal(transport_server_session_add(s, 1, TOKEN_A), 0);
	assert_int_equal(transport_server_session_add(s, 2, TOKEN_B), 0);
	return s;
}

static struct rdma_cm_id *request(struct transport_server *s, const uint64_t token[2],
	uint32_t sequence, uint8_t slot, uint32_t live)
{
	uint8_t hello[56] = {0}; /* padded, as the network does */
	struct transport_hello h = {.token = {token[0], token[1]},
		.instance = 1,
		.sequence = sequence,
		.slot = slot,
		.live_mask = live};
	tcp_hello_encode(hello, &h);
	fake.rejected = 0;
	struct rdma_cm_id *id = fake_request(hello, sizeof hello);
	transport_server_progress(s);
	return id;
}

static uint64_t counter(struct transport_server *s, size_t offset)
{
	struct transport_server_stats st;
	transport_server_stats(s, &st);
	return stat_get((stat_t *)((char *)&st + offset));
}
#define COUNTER(s, name) counter(s, offsetof(struct transport_server_stats, name))

static void test_server_without_device(void **state)
{
	struct transport_server_config cfg;
	struct transport_server *s;
	char err[200];
	fake_reset();
	fake.devices = 0;
	transport_server_config_default(&cfg, "127.0.0.1");
	assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), 0);
	assert_int_equal(transport_server_verbs_status(s), -ENODEV);
	assert_int_equal(transport_server_verbs_port(s), 0);
	assert_int_equal(transport_server_event_fd(s), -1);
	transport_server_progress(s);
	transport_server_stop(s);
	static const char *const fn[] = {"ibv_query_device", "ibv_create_cq",
		"rdma_create_event_channel", "rdma_create_id", "rdma_bind_addr", "rdma_listen"};
	for (unsigned i = 0; i < sizeof fn / sizeof fn[0]; i++) {
		fake_reset();
		fake.fail = fn[i];
		assert_int_equal(transport_server_start(&cfg, &s, err, sizeof err), 0);
		assert_int_equal(transport_server_verbs_status(s), -EIO);
		transport_server_stop(s);
		assert_int_equal(fake.live, 0);
	}
}

static void test_server_keeps_clients_apart(void **state)
{
	struct transport_server *s = server_up();
	struct transport_export a, b;
	assert_int_equal(transport_server_export(s, 1, area, 4096, &a), 0);
	struct ibv_pd *pd_a = fake.mr_pd;
	assert_int_equal(transport_server_export(s, 2, area + 4096, 4096, &b), 0);
	struct ibv_pd *pd_b = fake.mr_pd;
	assert_ptr_not_equal(pd_a, pd_b);
	assert_int_equal(a.tcp_key, 0);
	assert_true(a.verbs_rkey && a.verbs_raddr == (uintptr_t)area);
	struct rdma_cm_id *id = request(s, TOKEN_A, 1, 0, 1);
	assert_ptr_equal(id->qp->pd, pd_a);
	struct rdma_cm_id *other = request(s, TOKEN_B, 1, 0, 1);
	assert_ptr_equal(other->qp->pd, pd_b);
	assert_int_equal(COUNTER(s, verbs_connections), 2);
	/* the session ends: its queue pairs are gone, the domain and the regions stay */
	transport_server_session_remove(s, TOKEN_A);
	assert_int_equal(COUNTER(s, verbs_connections), 1);
	assert_int_equal(COUNTER(s, closed_session), 1);
	static const uint64_t again[2] = {8, 9};
	assert_int_equal(transport_server_session_add(s, 1, again), 0);
	id = request(s, again, 2, 0, 1);
	assert_ptr_equal(id->qp->pd, pd_a);
	int live = fake.live;
	transport_server_unexport(s, a.region);
	assert_int_equal(fake.live, live - 1);
	transport_server_stop(s);
	assert_int_equal(fake.live, 0);
}

static void test_server_refuses(void **state)
{
	static const uint64_t wrong[2] = {1, 3};
	struct transport_server *s = server_up();
	request(s, wrong, 1, 0, 1);
	assert_int_equal(fake.rejected, VERBS_REFUSED_TOKEN);
	assert_int_equal(COUNTER(s, refused_token), 1);
	uint8_t junk[56] = {1, 2, 3};
	fake_request(junk, sizeof junk);
	fake_request(NULL, 0);
	transport_server_progress(s);
	assert_int_equal(fake.rejected, VERBS_REFUSED_HELLO);
	assert_int_equal(COUNTER(s, closed_garbage), 2);
	request(s, TOKEN_A, 1, 0, 1);
	request(s, TOKEN_A, 2, 1, 3);
	request(s, TOKEN_A, 3, 2, 7);
	assert_int_equal(fake.rejected, VERBS_REFUSED_LIMIT);
	assert_int_equal(COUNTER(s, refused_limit), 1);
	fake.fail = "rdma_create_qp";
	request(s, TOKEN_B, 1, 0, 1);
	assert_int_equal(fake.rejected, VERBS_REFUSED_DEVICE);
	fake.fail = "rdma_accept";
	request(s, TOKEN_B, 1, 0, 1);
	assert_int_equal(fake.rejected, VERBS_REFUSED_DEVICE);
	assert_int_equal(COUNTER(s, verbs_setup_failed), 2);
	assert_int_equal(COUNTER(s, verbs_connections), 2);
	transport_server_stop(s);
	assert_int_equal(fake.live, 0);
}

static void test_server_connection_ends(void **state)
{
	struct transport_server *s = server_up();
	struct rdma_cm_id *id = request(s, TOKEN_A, 1, 0, 1);
	fake_event(id, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
	fake_event(id, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
	transport_server_progress(s);
	assert_int_equal(COUNTER(s, verbs_connections), 0);
	id = request(s, TOKEN_A, 2, 0, 1);
	fake_event(id, RDMA_CM_EVENT_CONNECT_ERROR, 0, NULL, 0);
	transport_server_progress(s);
	assert_int_equal(COUNTER(s, verbs_connections), 0);
	/* a lane comes back over the same slot: the queue pair it lost goes before the new one is
	 * accepted */
	id = request(s, TOKEN_A, 3, 0, 1);
	struct ibv_qp *lost = id->qp;
	request(s, TOKEN_A, 4, 0, 1);
	assert_int_equal(COUNTER(s, verbs_connections), 1);
	assert_ptr_not_equal(&fake.qps->qp, lost);
	assert_null(fake.qps->next);
	transport_server_stop(s);
	assert_int_equal(fake.live, 0);
}

static void test_server_export_failures(void **state)
{
	struct transport_server *s = server_up();
	struct transport_export e;
	fake.fail = "ibv_reg_mr";
	assert_int_equal(transport_server_export(s, 1, area, 4096, &e), -EIO);
	assert_int_equal(transport_server_export(s, 9, area, 4096, &e), -ENOENT);
	assert_int_equal(transport_server_export(s, 1, area + 1, 4096, &e), -EINVAL);
	assert_int_equal(transport_server_export(s, 1, area, 0, &e), -EINVAL);
	assert_int_equal(transport_server_export(s, 1, area, 4096, &e), 0);
	request(s, TOKEN_A, 1, 0, 1);
	request(s, TOKEN_B, 1, 0, 1);
	/* the card does not let go: the client's queue pairs go first, another's stay */
	fake.fail = "ibv_dereg_mr";
	transport_server_unexport(s, e.region);
	assert_int_equal(COUNTER(s, verbs_connections), 1);
	fake.fail = "ibv_alloc_pd";
	assert_int_equal(transport_server_client_add(s, 3), -EIO);
	transport_server_stop(s);
	assert_int_equal(fake.live, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_failures_leave_nothing),
		cmocka_unit_test(test_establish),
		cmocka_unit_test(test_establish_failures),
		cmocka_unit_test(test_completion_queue_never_overflows),
		cmocka_unit_test(test_batch_and_signalling),
		cmocka_unit_test(test_errors_are_told_apart),
		cmocka_unit_test(test_refused_doorbell),
		cmocka_unit_test(test_arm),
		cmocka_unit_test(test_disconnect_with_ops_outstanding),
		cmocka_unit_test(test_late_completion_of_a_gone_queue_pair),
		cmocka_unit_test(test_memory_of_others),
		cmocka_unit_test(test_server_without_device),
		cmocka_unit_test(test_server_keeps_clients_apart),
		cmocka_unit_test(test_server_refuses),
		cmocka_unit_test(test_server_connection_ends),
		cmocka_unit_test(test_server_export_failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
