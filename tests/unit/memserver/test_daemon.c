/* The memory server as a process: leases, data, pressure, bad input, metrics, signals.
 *
 * test_daemon PATH_OF_FALLOW_MEMSERVER */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/control/codec.h"
#include "lib/transport/transport.h"

#define REGION_BYTES (1u << 20)
#define WAIT_MS	     30000 /* only ends a test that has failed */

static const char *program;
static char dir[64], http_path[96], config_path[96], meminfo_path[96];
static pid_t daemon_pid;
static uint16_t control_port;

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void __attribute__((format(printf, 2, 3)))
file_write(const char *path, const char *format, ...)
{
	char temp[128];
	va_list ap;

	snprintf(temp, sizeof(temp), "%s.new", path);
	FILE *f = fopen(temp, "w");
	assert_non_null(f);
	va_start(ap, format);
	vfprintf(f, format, ap);
	va_end(ap);
	fclose(f);
	assert_int_equal(rename(temp, path), 0);
}

static void meminfo_write(unsigned available_mib)
{
	file_write(meminfo_path, "MemTotal: %u kB\nMemAvailable: %u kB\n", 1024 * 1024,
		available_mib * 1024);
}

/* The whole answer to a request on the unix socket; "" when nobody listens there. */
static void http(const char *method, const char *path, char *out, size_t cap)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char request[256];
	size_t len = 0;

	out[0] = '\0';
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", http_path);
	if (!connect(fd, (struct sockaddr *)&un, sizeof(un))) {
		snprintf(request, sizeof(request),
			"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
			"0\r\n\r\n",
			method, path);
		assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
		ssize_t n;
		while (len < cap - 1 && (n = recv(fd, out + len, cap - 1 - len, 0)) > 0)
			len += (size_t)n;
		out[len] = '\0';
	}
	close(fd);
}

/* A number after a piece of text in an answer; -1: not there. */
static long long number_after(const char *method, const char *path, const char *text)
{
	static char answer[65536];

	http(method, path, answer, sizeof(answer));
	char *p = strstr(answer, text);
	return p ? strtoll(p + strlen(text), NULL, 10) : -1;
}

static long long metric(const char *name)
{
	char text[128];

	snprintf(text, sizeof(text), "\n%s ", name);
	return number_after("GET", "/metrics", text);
}

static void wait_metric(const char *name, long long value)
{
	for (unsigned i = 0; i < WAIT_MS / 20 && metric(name) != value; i++)
		pause_ms(20);
	assert_int_equal(metric(name), value);
}

static void config_write(unsigned max_mib, const char *more)
{
	file_write(config_path,
		"name: donor-t\nfailure_domain: rack-t\n"
		"listen:\n  port: 0\n  max_sessions: 4\n  hello_timeout: 500ms\n"
		"region:\n  size: 1MiB\n"
		"memory:\n  max: %uMiB\n  floor: 64MiB\n  interval: 50ms\n  meminfo: %s\n"
		"  psi: %s/no-psi\n"
		"lease:\n  ttl: 60s\n  revoke_grace: 300ms\n  drain_limit: 600ms\n"
		"http:\n  socket: %s\n%s",
		max_mib, meminfo_path, dir, http_path, more);
}

static int daemon_start(void **state)
{
	char *argv[] = {(char *)program, "--config", config_path, NULL};

	snprintf(dir, sizeof(dir), "/tmp/fallow-memserver-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(http_path, sizeof(http_path), "%s/http", dir);
	snprintf(config_path, sizeof(config_path), "%s/config.yaml", dir);
	snprintf(meminfo_path, sizeof(meminfo_path), "%s/meminfo", dir);
	meminfo_write(900);
	config_write(16, "");
	daemon_pid = fork();
	if (!daemon_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the test, however that ends */
		execv(program, argv);
		_exit(127);
	}
	for (unsigned i = 0; i < WAIT_MS / 20; i++) {
		long long port = number_after("GET", "/v1/status", "\"control_port\":");
		if (port > 0) {
			control_port = (uint16_t)port;
			return 0;
		}
		pause_ms(20);
	}
	return -1;
}

/* Waits for its end; -1: it had to be killed. */
static int daemon_wait(void)
{
	int status;

	for (unsigned i = 0; i < WAIT_MS / 20; i++) {
		if (waitpid(daemon_pid, &status, WNOHANG) == daemon_pid) {
			daemon_pid = 0;
			return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		}
		pause_ms(20);
	}
	kill(daemon_pid, SIGKILL);
	waitpid(daemon_pid, &status, 0);
	daemon_pid = 0;
	return -1;
}

static int daemon_end(void **state)
{
	int rc = 0;

	if (daemon_pid) {
		kill(daemon_pid, SIGTERM);
		kill(daemon_pid, SIGTERM);
		rc = daemon_wait();
	}
	unlink(config_path);
	unlink(meminfo_path);
	rc |= rmdir(dir); /* it left nothing behind */
	return rc;
}

static int control_open(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
		.sin_port = htons(control_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = WAIT_MS / 1000};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static void control_send(int fd, const struct control_msg *m)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	ssize_t len = control_encode(m, frame, sizeof(frame));

	assert_true(len > 0);
	assert_int_equal(send(fd, frame, (size_t)len, MSG_NOSIGNAL), len);
}

static bool control_recv(int fd, struct control_msg *m)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];

	if (recv(fd, frame, 4, MSG_WAITALL) != 4)
		return false;
	ssize_t len = control_frame_length(frame, 4);
	assert_true(len >= 8);
	assert_int_equal(recv(fd, frame + 4, (size_t)len - 4, MSG_WAITALL), len - 4);
	assert_int_equal(control_decode(frame, (size_t)len, m, NULL), 0);
	return true;
}

/* The next message of a type; others are passed over. */
static void control_expect(int fd, enum control_msg_type type, struct control_msg *m)
{
	do {
		if (!control_recv(fd, m))
			fail_msg("no %s came", control_msg_name(type));
	} while (m->type != type);
}

static void control_hello(int fd, uint8_t identity, uint8_t secret)
{
	struct control_msg m = {.type = CONTROL_HELLO};

	m.hello.version_min = m.hello.version_max = 1;
	memset(m.hello.identity, identity, 16);
	memset(m.hello.secret, secret, 16);
	control_send(fd, &m);
}

/* Asks for a region; the status. */
static int control_lease(int fd, struct control_lease *l)
{
	struct control_msg m = {.type = CONTROL_LEASE_REQUEST};

	m.lease_request.request_id = 1;
	control_send(fd, &m);
	control_expect(fd, CONTROL_LEASE_GRANT, &m);
	*l = m.lease_grant.lease;
	return m.lease_grant.status;
}

static void expect_error(int fd, int32_t status)
{
	struct control_msg m;

	control_expect(fd, CONTROL_ERROR, &m);
	assert_int_equal(m.error.status, status);
	assert_true(m.error.text[0] != '\0');
	assert_false(control_recv(fd, &m));
	close(fd);
}

static void test_status_and_http(void **state)
{
	static char answer[65536];

	http("GET", "/v1/status", answer, sizeof(answer));
	assert_non_null(strstr(answer, "200 OK"));
	assert_non_null(strstr(answer, "\"name\":\"donor-t\""));
	assert_non_null(strstr(answer, "\"failure_domain\":\"rack-t\""));
	http("GET", "/metrics", answer, sizeof(answer));
	assert_non_null(strstr(answer, "# TYPE fallow_memserver_target_bytes gauge"));
	http("GET", "/nothing", answer, sizeof(answer));
	assert_non_null(strstr(answer, "404 Not Found"));
	assert_non_null(strstr(answer, "{\"error\":\"no such path: /nothing\"}"));
	http("POST", "/metrics", answer, sizeof(answer));
	assert_non_null(strstr(answer, "405 "));
	assert_int_equal(metric("fallow_memserver_target_bytes"), 16 << 20);
	assert_int_equal(metric("fallow_http_refused_total"), 2);
}

struct io_wait {
	bool done;
	int status;
};

static void io_done(struct transport_op *op, int status)
{
	struct io_wait *w = (struct io_wait *)op->buf - 1;

	w->status = status;
	w->done = true;
}

/* One transfer; its status. The byte area is behind a struct io_wait. */
static int transfer(struct transport *t, struct transport_conn *c, enum transport_op_kind kind,
	uint64_t key, void *buf, uint32_t len)
{
	struct transport_op op = {
		.kind = kind, .len = len, .buf = buf, .rkey = key, .done = io_done};
	struct io_wait *w = (struct io_wait *)buf - 1;

	w->done = false;
	int rc = transport_tcp.post(c, &op);
	if (rc)
		return rc;
	transport_tcp.doorbell(c);
	while (!w->done)
		transport_tcp.poll(t, 16);
	return w->status;
}

static struct transport_conn *data_connect(struct transport *t, const struct control_msg *ack)
{
	struct transport_peer peer = {
		.host = "127.0.0.1", .port = ack->hello_ack.tcp_port, .timeout_ms = WAIT_MS};
	struct transport_conn *c;
	int rc;

	memcpy(peer.token, ack->hello_ack.token, sizeof(peer.token));
	assert_int_equal(transport_tcp.connect(t, &peer, &c), 0);
	while ((rc = transport_tcp.conn_progress(c)) == -EINPROGRESS) {
		struct pollfd p = {.fd = transport_tcp.conn_fd(c), .events = POLLIN | POLLOUT};
		poll(&p, 1, 10);
	}
	assert_int_equal(rc, 0);
	assert_int_equal(transport_tcp.attach(c), 0);
	return c;
}

static void test_lease_moves_data(void **state)
{
	struct control_msg ack, m;
	struct control_lease l;
	struct transport *t;
	int fd = control_open();

	control_hello(fd, 1, 1);
	control_expect(fd, CONTROL_HELLO_ACK, &ack);
	assert_int_equal(ack.hello_ack.region_bytes, REGION_BYTES);
	assert_string_equal(ack.hello_ack.name, "donor-t");
	assert_int_equal(control_lease(fd, &l), 0);
	uint8_t *area =
		mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(area, MAP_FAILED);
	assert_int_equal(transport_tcp.open(NULL, 8, &t), 0);
	assert_int_equal(transport_tcp.mem_register(t, area, 65536), 0);
	struct transport_conn *c = data_connect(t, &ack);
	uint8_t *buf = area + 4096;
	assert_int_equal(transfer(t, c, TRANSPORT_READ, l.tcp_key, buf, 4096), 0);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(buf[i], 0);
	memset(buf, 0x5a, 4096);
	assert_int_equal(transfer(t, c, TRANSPORT_WRITE, l.tcp_key, buf, 4096), 0);
	memset(buf, 0, 4096);
	assert_int_equal(transfer(t, c, TRANSPORT_READ, l.tcp_key, buf, 4096), 0);
	assert_int_equal(buf[4095], 0x5a);
	/* Once the lease is over the key is worth nothing. */
	m.type = CONTROL_LEASE_RELEASE;
	m.lease_release.region_id = l.region_id;
	m.lease_release.epoch = l.epoch;
	control_send(fd, &m);
	wait_metric("fallow_memserver_leased_bytes", 0);
	assert_int_equal(transfer(t, c, TRANSPORT_READ, l.tcp_key, buf, 4096), -EREMOTEIO);
	assert_int_equal(metric("fallow_memserver_held_bytes"), 0);
	transport_tcp.disconnect(c);
	transport_tcp.destroy(c);
	transport_tcp.close(t);
	munmap(area, 65536);
	close(fd);
}

static void test_pressure_takes_regions(void **state)
{
	struct control_lease l;
	struct control_msg m;
	int fd = control_open();

	control_hello(fd, 1, 1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(control_lease(fd, &l), 0);
	assert_int_equal(control_lease(fd, &l), -ENOSPC);
	/* 16 held and 60 available are 12 above the floor of 64. */
	meminfo_write(60);
	for (unsigned i = 0; i < 4; i++) {
		control_expect(fd, CONTROL_REVOKE, &m);
		assert_true(m.revoke.deadline_ms <= 300);
	}
	/* The file does not know that memory came back, so more is asked for: it all goes, answer
	 * or not. */
	wait_metric("fallow_memserver_leased_bytes", 0);
	assert_true(metric("fallow_memserver_leases_ended_total{how=\"forced\"}") == 16);
	assert_int_equal(metric("fallow_memserver_held_bytes"), 0);
	close(fd);
}

static void test_bad_input_harms_nobody(void **state)
{
	struct control_msg m = {.type = CONTROL_HEARTBEAT};
	struct control_lease l;
	int good = control_open();

	control_hello(good, 1, 1);
	assert_int_equal(control_lease(good, &l), 0);
	int fd = control_open();
	assert_int_equal(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	expect_error(fd, -EMSGSIZE);
	fd = control_open();
	assert_int_equal(send(fd, "\x04\0\0\0\x01\0\x63\0", 8, MSG_NOSIGNAL), 8);
	expect_error(fd, -EOPNOTSUPP);
	fd = control_open();
	control_send(fd, &m);
	expect_error(fd, -EPROTO);
	fd = control_open();
	control_hello(fd, 1, 2);
	expect_error(fd, -EACCES);
	fd = control_open(); /* says nothing */
	expect_error(fd, -ETIMEDOUT);
	int silent[3];
	for (unsigned i = 0; i < 3; i++)
		silent[i] = control_open();
	wait_metric("fallow_memserver_sessions", 4);
	fd = control_open();
	expect_error(fd, -EBUSY);
	for (unsigned i = 0; i < 3; i++)
		close(silent[i]);
	assert_int_equal(
		metric("fallow_control_sessions_closed_total{reason=\"frame_length\"}"), 1);
	assert_int_equal(metric("fallow_control_sessions_closed_total{reason=\"frame_type\"}"), 1);
	assert_int_equal(metric("fallow_memserver_refused_total{reason=\"order\"}"), 1);
	assert_int_equal(metric("fallow_memserver_refused_total{reason=\"secret\"}"), 1);
	assert_true(metric("fallow_memserver_refused_total{reason=\"hello_timeout\"}") >= 1);
	assert_true(metric("fallow_memserver_refused_total{reason=\"sessions\"}") >= 1);
	control_send(good, &m);
	control_expect(good, CONTROL_HEARTBEAT, &m);
	assert_int_equal(metric("fallow_memserver_leased_bytes"), REGION_BYTES);
	close(good);
}

static void test_reload(void **state)
{
	config_write(8, "");
	assert_int_equal(kill(daemon_pid, SIGHUP), 0);
	wait_metric("fallow_memserver_target_bytes", 8 << 20);
	/* A wrong file changes nothing and ends nothing. */
	config_write(4, "nonsense: 1\n");
	assert_int_equal(kill(daemon_pid, SIGHUP), 0);
	pause_ms(100);
	assert_int_equal(metric("fallow_memserver_target_bytes"), 8 << 20);
}

static void test_drain_and_end(void **state)
{
	struct control_lease granted, l;
	struct control_msg m;
	int fd = control_open();

	control_hello(fd, 1, 1);
	assert_int_equal(control_lease(fd, &granted), 0);
	assert_int_equal(number_after("POST", "/v1/drain", "\"limit_ms\":"), 600);
	control_expect(fd, CONTROL_DRAIN, &m);
	control_expect(fd, CONTROL_REVOKE, &m);
	assert_int_equal(control_lease(fd, &l), -ESHUTDOWN);
	m.type = CONTROL_REVOKE_DONE;
	m.revoke_done.region_id = granted.region_id;
	m.revoke_done.epoch = granted.epoch;
	control_send(fd, &m);
	wait_metric("fallow_memserver_leases_ended_total{how=\"revoked\"}", 1);
	assert_int_equal(metric("fallow_memserver_leased_bytes"), 0);
	/* Drained it goes on answering; told to end it has nothing to wait for. */
	assert_int_equal(kill(daemon_pid, SIGTERM), 0);
	assert_int_equal(daemon_wait(), 0);
	close(fd);
}

static void test_end_at_once(void **state)
{
	struct control_lease l;
	struct control_msg m;
	int fd = control_open();

	control_hello(fd, 1, 1);
	assert_int_equal(control_lease(fd, &l), 0);
	assert_int_equal(kill(daemon_pid, SIGTERM), 0);
	control_expect(fd, CONTROL_REVOKE, &m);
	assert_int_equal(kill(daemon_pid, SIGTERM), 0);
	assert_int_equal(daemon_wait(), 0);
	close(fd);
}

int main(int argc, char **argv)
{
#define DAEMON_TEST(f) cmocka_unit_test_setup_teardown(f, daemon_start, daemon_end)
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(test_status_and_http),
		DAEMON_TEST(test_lease_moves_data),
		DAEMON_TEST(test_pressure_takes_regions),
		DAEMON_TEST(test_bad_input_harms_nobody),
		DAEMON_TEST(test_reload),
		DAEMON_TEST(test_drain_and_end),
		DAEMON_TEST(test_end_at_once),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: %s PATH_OF_FALLOW_MEMSERVER\n", argv[0]);
		return 2;
	}
	program = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
