/* Control sessions over real loopback connections: both ends, and every way to end. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/control/codec.h"
#include "lib/control/session.h"
#include "tests/unit/control/samples.h"

/* One end of a session, and what happened to it. */
struct end {
	struct control_session *s;
	bool connected, closed, close_in_message, echo;
	int status;
	unsigned messages;
	struct control_msg last;
};

struct world {
	struct event_base *base;
	struct control_loop *loop;
	struct control_listener *listener;
	struct end server, client;
	evutil_socket_t raw; /* a peer of ours that is no session; -1: none */
};

static void on_connected(void *ctx, struct control_session *s)
{
	((struct end *)ctx)->connected = true;
}

static void on_message(void *ctx, struct control_session *s, const struct control_msg *m)
{
	struct end *e = ctx;

	e->messages++;
	e->last = *m;
	if (e->echo)
		control_session_send(s, m);
	if (e->close_in_message) {
		control_session_close(s, -EPROTO, "not today");
		e->s = NULL;
	}
}

static void on_closed(void *ctx, struct control_session *s, int status, const char *why)
{
	struct end *e = ctx;

	assert_false(e->closed);
	assert_non_null(why);
	e->closed = true;
	e->status = status;
	e->s = NULL;
}

static const struct control_session_cbs cbs = {on_connected, on_message, on_closed};

static void on_accepted(void *ctx, evutil_socket_t fd, const char *peer)
{
	struct world *w = ctx;

	assert_non_null(strstr(peer, "127.0.0.1:"));
	assert_int_equal(control_session_accept(w->loop, fd, &cbs, &w->server, &w->server.s), 0);
}

static void world_open(struct world *w, uint32_t idle_ms, uint32_t out_max)
{
	struct control_loop_config cfg;

	memset(w, 0, sizeof(*w));
	w->raw = -1;
	control_loop_config_default(&cfg);
	cfg.idle_timeout_ms = idle_ms;
	cfg.out_max_bytes = out_max;
	w->base = event_base_new();
	assert_int_equal(control_loop_new(w->base, &cfg, &w->loop), 0);
	assert_int_equal(
		control_listener_new(w->base, "127.0.0.1", 0, on_accepted, w, &w->listener), 0);
	assert_true(control_listener_port(w->listener) != 0);
}

static void world_close(struct world *w)
{
	control_listener_delete(w->listener);
	control_loop_delete(w->loop);
	event_base_free(w->base);
	if (w->raw >= 0)
		close(w->raw);
}

/* Runs the loop until *flag; the limit only ends a test that has failed. */
static void wait_for(struct world *w, const bool *flag)
{
	struct timeval step = {.tv_usec = 10000};

	for (unsigned i = 0; i < 3000 && !*flag; i++) {
		event_base_loopexit(w->base, &step);
		event_base_dispatch(w->base);
	}
	assert_true(*flag);
}

static void wait_messages(struct world *w, const struct end *e, unsigned n)
{
	struct timeval step = {.tv_usec = 10000};

	for (unsigned i = 0; i < 3000 && e->messages < n; i++) {
		event_base_loopexit(w->base, &step);
		event_base_dispatch(w->base);
	}
	assert_int_equal(e->messages, n);
}

static void world_connect(struct world *w, const char *host)
{
	assert_int_equal(control_session_connect(w->loop, host, control_listener_port(w->listener),
				 &cbs, &w->client, &w->client.s),
		0);
	wait_for(w, &w->client.connected);
}

static void world_connect_raw(struct world *w)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
		.sin_port = htons(control_listener_port(w->listener)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	w->raw = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(w->raw, (struct sockaddr *)&sin, sizeof(sin)), 0);
}

static void test_messages_both_ways(void **state)
{
	struct control_msg m;
	struct world w;

	world_open(&w, 60000, 1 << 20);
	w.server.echo = true;
	world_connect(&w, "127.0.0.1");
	for (int t = CONTROL_HELLO; t < CONTROL_MSG_TYPES; t++) {
		sample_msg(t, &m);
		assert_int_equal(control_session_send(w.client.s, &m), 0);
		wait_messages(&w, &w.client, (unsigned)t);
		assert_int_equal(w.client.last.type, t);
	}
	/* Many at once keep their order and all arrive. */
	unsigned base = w.client.messages;
	sample_msg(CONTROL_HEARTBEAT, &m);
	for (unsigned i = 0; i < 1000; i++) {
		m.heartbeat.sequence = i;
		assert_int_equal(control_session_send(w.client.s, &m), 0);
	}
	wait_messages(&w, &w.client, base + 1000);
	assert_int_equal(w.client.last.heartbeat.sequence, 999);
	m.type = CONTROL_MSG_TYPES;
	assert_int_equal(control_session_send(w.client.s, &m), -EINVAL);
	world_close(&w);
}

static void test_connect_by_name(void **state)
{
	struct world w;

	world_open(&w, 60000, 1 << 20);
	world_connect(&w, "localhost");
	world_close(&w);
}

static void test_connect_refused(void **state)
{
	struct world w;

	world_open(&w, 60000, 1 << 20);
	uint16_t port = control_listener_port(w.listener);
	control_listener_delete(w.listener);
	w.listener = NULL;
	assert_int_equal(
		control_session_connect(w.loop, "127.0.0.1", port, &cbs, &w.client, &w.client.s),
		0);
	assert_false(w.client.closed); /* never from within the call */
	wait_for(&w, &w.client.closed);
	assert_int_equal(w.client.status, -ECONNREFUSED);
	assert_int_equal(stat_get(&control_loop_stats(w.loop)->closed[CONTROL_CLOSE_CONNECT]), 1);
	world_close(&w);
}

static void test_close_tells_the_peer(void **state)
{
	struct control_msg m;
	struct world w;

	world_open(&w, 60000, 1 << 20);
	w.server.close_in_message = true;
	world_connect(&w, "127.0.0.1");
	sample_msg(CONTROL_HEARTBEAT, &m);
	for (unsigned i = 0; i < 100; i++)
		control_session_send(w.client.s, &m);
	wait_for(&w, &w.client.closed);
	assert_int_equal(w.server.messages, 1);
	assert_false(w.server.closed);
	assert_int_equal(w.client.last.type, CONTROL_ERROR);
	assert_string_equal(w.client.last.error.text, "not today");
	assert_int_equal(w.client.status, -ECONNRESET);
	world_close(&w);
}

static void test_closed_by_the_peer(void **state)
{
	struct world w;

	world_open(&w, 60000, 1 << 20);
	world_connect(&w, "127.0.0.1");
	control_session_close(w.client.s, 0, NULL);
	wait_for(&w, &w.server.closed);
	assert_int_equal(w.server.status, -ECONNRESET);
	assert_false(w.client.closed);
	world_close(&w);
}

static void check_bad_frame(
	const void *bytes, size_t len, int status, enum control_close_reason reason)
{
	uint8_t answer[1024];
	struct control_msg m;
	struct world w;

	world_open(&w, 60000, 1 << 20);
	world_connect_raw(&w);
	assert_int_equal(write(w.raw, bytes, len), (ssize_t)len);
	wait_for(&w, &w.server.closed);
	assert_int_equal(w.server.status, status);
	assert_int_equal(w.server.messages, 0);
	assert_int_equal(stat_get(&control_loop_stats(w.loop)->closed[reason]), 1);
	struct timeval step = {.tv_usec = 50000};
	event_base_loopexit(w.base, &step);
	event_base_dispatch(w.base);
	ssize_t n = recv(w.raw, answer, sizeof(answer), 0);
	assert_true(n > 0);
	assert_int_equal(control_decode(answer, (size_t)n, &m, NULL), 0);
	assert_int_equal(m.type, CONTROL_ERROR);
	assert_int_equal(m.error.status, status);
	assert_int_equal(recv(w.raw, answer, sizeof(answer), 0), 0);
	world_close(&w);
}

static void test_bad_frames(void **state)
{
	check_bad_frame("GET / HTTP/1.1\r\n\r\n", 18, -EMSGSIZE, CONTROL_CLOSE_FRAME_LENGTH);
	check_bad_frame("\x04\0\0\0\x09\0\x01\0", 8, -EPROTONOSUPPORT, CONTROL_CLOSE_FRAME_VERSION);
	check_bad_frame("\x04\0\0\0\x01\0\x63\0", 8, -EOPNOTSUPP, CONTROL_CLOSE_FRAME_TYPE);
	check_bad_frame("\x04\0\0\0\x01\0\x01\0", 8, -EBADMSG, CONTROL_CLOSE_FRAME_BODY);
}

static void test_idle(void **state)
{
	struct world w;

	world_open(&w, 100, 1 << 20);
	world_connect_raw(&w);
	assert_int_equal(write(w.raw, "\x04\0", 2), 2);
	wait_for(&w, &w.server.closed);
	assert_int_equal(w.server.status, -ETIMEDOUT);
	assert_int_equal(stat_get(&control_loop_stats(w.loop)->closed[CONTROL_CLOSE_IDLE]), 1);
	world_close(&w);
}

static void test_peer_that_does_not_read(void **state)
{
	struct control_msg m;
	struct world w;
	int rc = 0;

	world_open(&w, 60000, 65536);
	world_connect_raw(&w);
	struct timeval step = {.tv_usec = 10000};
	for (unsigned i = 0; i < 3000 && !w.server.s; i++) {
		event_base_loopexit(w.base, &step);
		event_base_dispatch(w.base);
	}
	sample_msg(CONTROL_ERROR, &m);
	memset(m.error.text, 'x', sizeof(m.error.text) - 1);
	for (unsigned i = 0; i < 200000 && !rc; i++) {
		rc = control_session_send(w.server.s, &m);
		if (i % 100 == 0)
			event_base_loop(w.base, EVLOOP_NONBLOCK);
	}
	assert_int_equal(rc, -ENOBUFS);
	assert_false(w.server.closed);
	wait_for(&w, &w.server.closed);
	assert_int_equal(w.server.status, -ENOBUFS);
	world_close(&w);
}

static void test_frames_in_pieces(void **state)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	struct control_msg m;
	struct world w;

	world_open(&w, 60000, 1 << 20);
	world_connect_raw(&w);
	sample_msg(CONTROL_HELLO_ACK, &m);
	ssize_t len = control_encode(&m, frame, sizeof(frame));
	for (ssize_t i = 0; i < len; i++) {
		assert_int_equal(write(w.raw, frame + i, 1), 1);
		event_base_loop(w.base, EVLOOP_NONBLOCK);
	}
	wait_messages(&w, &w.server, 1);
	/* A message and the end at once: the message still counts. */
	assert_int_equal(write(w.raw, frame, (size_t)len), len);
	close(w.raw);
	w.raw = -1;
	wait_for(&w, &w.server.closed);
	assert_int_equal(w.server.messages, 2);
	world_close(&w);
}

static void test_arguments(void **state)
{
	struct control_listener *l;
	struct world w;

	world_open(&w, 60000, 1 << 20);
	assert_int_equal(control_session_connect(w.loop, "", 1, &cbs, NULL, &w.client.s), -EINVAL);
	assert_int_equal(
		control_session_connect(w.loop, "::1", 0, &cbs, NULL, &w.client.s), -EINVAL);
	assert_int_equal(
		control_listener_new(w.base, "localhost", 0, on_accepted, &w, &l), -EINVAL);
	assert_int_equal(control_listener_new(w.base, "127.0.0.1",
				 control_listener_port(w.listener), on_accepted, &w, &l),
		-EADDRINUSE);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages_both_ways),
		cmocka_unit_test(test_connect_by_name),
		cmocka_unit_test(test_connect_refused),
		cmocka_unit_test(test_close_tells_the_peer),
		cmocka_unit_test(test_closed_by_the_peer),
		cmocka_unit_test(test_bad_frames),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_peer_that_does_not_read),
		cmocka_unit_test(test_frames_in_pieces),
		cmocka_unit_test(test_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
