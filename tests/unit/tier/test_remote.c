/* The remote tier over a transport that does what the test says: channels, time limits, broken
 * connections. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client-backend/tier/remote.h"

struct transport {
	int unused;
};

struct transport_conn {
	struct transport_op *op[8];
	unsigned ops, doorbells, full;
	bool attached, disconnected, broken;
};

static struct transport transport;
static struct transport_conn *polled; /* the connection whose ops the next poll ends */
static int poll_status;
static uint64_t now;
static struct tier_remote *tier;
static unsigned broken, dones;
static int last_status;
static struct transport_conn *broken_conn;

static int fake_attach(struct transport_conn *c)
{
	c->attached = true;
	return 0;
}

static int fake_post(struct transport_conn *c, struct transport_op *op)
{
	if (c->broken)
		return -ENOTCONN;
	if (c->full)
		return -EAGAIN;
	c->op[c->ops++] = op;
	return 0;
}

static void fake_doorbell(struct transport_conn *c)
{
	c->doorbells++;
}

static int end_all(struct transport_conn *c, int status)
{
	int n = 0;

	while (c->ops > 0) {
		c->ops--;
		n++;
		c->op[c->ops]->done(c->op[c->ops], status);
	}
	return n;
}

static int fake_poll(struct transport *t, unsigned budget)
{
	(void)t;
	(void)budget;
	return polled ? end_all(polled, poll_status) : 0;
}

static bool fake_broken(const struct transport_conn *c)
{
	return c->broken;
}

static void fake_disconnect(struct transport_conn *c)
{
	c->disconnected = true;
	end_all(c, -ECANCELED);
}

static const struct transport_ops fake = {
	.name = "fake",
	.attach = fake_attach,
	.post = fake_post,
	.doorbell = fake_doorbell,
	.poll = fake_poll,
	.conn_broken = fake_broken,
	.disconnect = fake_disconnect,
};

static uint64_t fake_now(void *ctx)
{
	(void)ctx;
	return now;
}

static void on_broken(
	void *ctx, unsigned donor, enum tier_remote_channel channel, struct transport_conn *conn)
{
	(void)ctx;
	assert_int_equal(donor, 7);
	assert_int_equal(channel, TIER_REMOTE_DEMAND);
	broken++;
	broken_conn = conn;
}

static void on_done(struct engine_io *io, int status)
{
	(void)io;
	dones++;
	last_status = status;
}

static int setup(void **state)
{
	static const struct env env = {.now_ns = fake_now};
	struct tier_remote_config cfg = {.io_timeout_ns = 1000, .broken = on_broken};

	(void)state;
	polled = NULL;
	poll_status = 0;
	now = 5000;
	broken = dones = 0;
	broken_conn = NULL;
	if (tier_remote_new(&cfg, &env, &tier))
		return -1;
	return tier_remote_add_transport(tier, &fake, &transport);
}

static int teardown(void **state)
{
	(void)state;
	tier_remote_delete(tier);
	return 0;
}

static const struct engine_region_desc region = {.donor = 7, .rkey = 99, .raddr = 4096};

static struct engine_io io_for(bool background)
{
	return (struct engine_io){.region = &region,
		.offset = 64,
		.len = 100,
		.background = background,
		.done = on_done};
}

static void reads_and_moves_go_different_ways(void **state)
{
	struct transport_conn demand = {0}, background = {0};
	struct engine_io get = io_for(false), move = io_for(true);

	(void)state;
	assert_int_equal(tier_remote_read(tier, &get), -ENOTCONN);
	assert_int_equal(tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &demand), 0);
	assert_int_equal(tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &demand), -EEXIST);
	assert_true(tier_remote_connected(tier, 7));
	assert_false(tier_remote_writable(tier, 7));
	assert_int_equal(
		tier_remote_attach(tier, 7, TIER_REMOTE_BACKGROUND, &fake, &background), 0);
	assert_true(demand.attached && background.attached);
	assert_true(tier_remote_writable(tier, 7));
	assert_int_equal(tier_remote_read(tier, &get), 0);
	assert_int_equal(tier_remote_write(tier, &move), 0);
	assert_int_equal(demand.ops, 1);
	assert_int_equal(background.ops, 1);
	assert_int_equal(demand.op[0]->kind, TRANSPORT_READ);
	assert_int_equal(demand.op[0]->rkey, 99);
	assert_int_equal(demand.op[0]->raddr, 4096 + 64);
	assert_int_equal(background.op[0]->kind, TRANSPORT_WRITE);
	tier_remote_kick(tier);
	tier_remote_kick(tier);
	assert_int_equal(demand.doorbells, 1);
	assert_int_equal(background.doorbells, 1);
	polled = &demand;
	assert_int_equal(tier_remote_poll(tier, 64), 1);
	polled = &background;
	assert_int_equal(tier_remote_poll(tier, 64), 1);
	assert_int_equal(dones, 2);
	assert_int_equal(stat_get(&tier_remote_stats(tier, 7)->reads), 1);
	assert_int_equal(stat_get(&tier_remote_stats(tier, 7)->bytes_written), 100);
	assert_null(tier_remote_stats(tier, 6));
	assert_ptr_equal(tier_remote_detach(tier, 7, TIER_REMOTE_DEMAND), &demand);
	assert_ptr_equal(tier_remote_detach(tier, 7, TIER_REMOTE_BACKGROUND), &background);
	assert_null(tier_remote_detach(tier, 7, TIER_REMOTE_DEMAND));
}

static void a_late_transfer_breaks_its_connection(void **state)
{
	struct transport_conn conn = {0};
	struct engine_io io = io_for(false);

	(void)state;
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &conn);
	assert_int_equal(tier_remote_deadline_ns(tier), UINT64_MAX);
	assert_int_equal(tier_remote_read(tier, &io), 0);
	assert_int_equal(tier_remote_deadline_ns(tier), 6000);
	now = 5999;
	tier_remote_poll(tier, 64);
	assert_int_equal(broken, 0);
	now = 6000;
	tier_remote_poll(tier, 64);
	assert_int_equal(broken, 1);
	assert_ptr_equal(broken_conn, &conn);
	assert_int_equal(last_status, -ECANCELED);
	assert_true(conn.disconnected);
	assert_false(tier_remote_connected(tier, 7));
	assert_int_equal(stat_get(&tier_remote_stats(tier, 7)->timeouts), 1);
	assert_int_equal(tier_remote_read(tier, &io), -ENOTCONN);
}

static void a_broken_connection_is_handed_back(void **state)
{
	struct transport_conn conn = {0};
	struct engine_io io = io_for(false);

	(void)state;
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &conn);
	assert_int_equal(tier_remote_read(tier, &io), 0);
	conn.broken = true;
	tier_remote_poll(tier, 64);
	assert_int_equal(broken, 1);
	assert_int_equal(dones, 1);
}

static void a_full_queue_and_a_refusal_are_told(void **state)
{
	struct transport_conn conn = {.full = 1};
	struct engine_io io = io_for(false);

	(void)state;
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &conn);
	assert_int_equal(tier_remote_read(tier, &io), -EAGAIN);
	conn.full = 0;
	assert_int_equal(tier_remote_read(tier, &io), 0);
	polled = &conn;
	poll_status = -EREMOTEIO;
	tier_remote_poll(tier, 64);
	assert_int_equal(last_status, -EREMOTEIO);
	assert_int_equal(stat_get(&tier_remote_stats(tier, 7)->refused), 1);
	tier_remote_detach(tier, 7, TIER_REMOTE_DEMAND);
}

static int fake_memory_new(
	struct transport *t, void *base, size_t len, struct transport_memory **out)
{
	return -ENOMEM;
}

/* A transport that can gets the memory's name; another one is not asked. */
static void memory_of_others(void **state)
{
	struct transport_ops direct = fake;
	struct transport_conn conn = {0}, other = {0};
	struct engine_io io = io_for(false);
	int memory;

	io.memory = (struct transport_memory *)&memory;
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &conn);
	assert_int_equal(tier_remote_read(tier, &io), -EOPNOTSUPP);
	assert_int_equal(conn.ops, 0);
	tier_remote_detach(tier, 7, TIER_REMOTE_DEMAND);
	direct.memory_new = fake_memory_new;
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &direct, &other);
	assert_int_equal(tier_remote_read(tier, &io), 0);
	assert_ptr_equal(other.op[0]->memory, io.memory);
	/* Abandoned: it ends with its connection, at the next poll. */
	tier_remote_abandon(tier, &io);
	assert_int_equal(dones, 0);
	assert_int_equal(tier_remote_deadline_ns(tier), 0);
	tier_remote_poll(tier, 64);
	assert_true(other.disconnected);
	assert_int_equal(broken, 1);
	assert_int_equal(last_status, -ECANCELED);
	/* The next connection is not. */
	tier_remote_attach(tier, 7, TIER_REMOTE_DEMAND, &fake, &conn);
	tier_remote_poll(tier, 64);
	assert_int_equal(broken, 1);
	assert_true(tier_remote_connected(tier, 7));
	tier_remote_detach(tier, 7, TIER_REMOTE_DEMAND);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_and_moves_go_different_ways),
		TEST(a_late_transfer_breaks_its_connection),
		TEST(a_broken_connection_is_handed_back),
		TEST(a_full_queue_and_a_refusal_are_told),
		TEST(memory_of_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
