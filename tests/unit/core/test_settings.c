/* Tests of both daemons' schemas and of the command line that they share. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "client-backend/config.h"
#include "lib/core/log.h"
#include "memserver/config.h"

static struct fallowd_config backend, backend_again;
static struct memserver_config server, server_again;
static char err[1024];

static int load_backend(const char *text)
{
	return config_load_text(
		&fallowd_config_schema, "f", text, strlen(text), &backend, err, sizeof(err));
}

static int load_server(const char *text)
{
	return config_load_text(
		&memserver_config_schema, "m", text, strlen(text), &server, err, sizeof(err));
}

static void round_trip(const struct config_schema *schema, void *first, void *again)
{
	char *text;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	config_dump(schema, first, out);
	fclose(out);
	if (config_load_text(schema, "dump", text, bytes, again, err, sizeof(err)))
		fail_msg("%s", err);
	assert_memory_equal(first, again, schema->size);
	free(text);
}

static void backend_disks(void **state)
{
	assert_int_equal(load_backend("disks:\n  - {name: a, size: 2GiB, queues: 4, disk: mirror}\n"
				      "  - {name: b, size: 4KiB, socket: /run/b.sock}\n"),
		0);
	assert_int_equal(backend.disk_count, 2);
	assert_int_equal(backend.disks[0].size_bytes, 2ull << 30);
	assert_int_equal(backend.disks[0].disk, POOLS_DISK_MIRROR);
	assert_int_equal(backend.disks[1].queues, 16);
	assert_string_equal(backend.disks[1].socket, "/run/b.sock");
	round_trip(&fallowd_config_schema, &backend, &backend_again);
	assert_int_equal(load_backend("disks:\n  - {name: a, size: 5000B}\n"), -EINVAL);
	assert_non_null(strstr(err, "disks[0].size"));
	assert_int_equal(load_backend("disks:\n  - {name: a, size: 4KiB}\n"
				      "  - {name: a, size: 8KiB}\n"),
		-EINVAL);
	assert_non_null(strstr(err, "disks[1].name"));
	assert_int_equal(load_backend("disks:\n  - {name: a}\n"), -EINVAL);
}

static void backend_defaults(void **state)
{
	assert_int_equal(load_backend(""), 0);
	assert_int_equal(backend.lanes.count, 1);
	assert_int_equal(backend.store.size.bytes, 256 << 20);
	assert_int_equal(backend.pools.codec, ENGINE_CODEC_LZ4);
	assert_int_equal(backend.http.port, 7480);
	assert_true(backend.others_allowed && backend.others.persistent);
	assert_int_equal(backend.others.weight, 100);
	round_trip(&fallowd_config_schema, &backend, &backend_again);
}

static void backend_full(void **state)
{
	assert_int_equal(
		load_backend("lanes: {count: 2, cpus: [0, 1]}\n"
			     "donors:\n- {name: d1, host: 10.0.0.1}\n"
			     "- {name: d2, host: h.example, port: 7500, failure_domain: r2, "
			     "transport: verbs}\n"
			     "clients:\n- {name: vm1, uid: 107, quota: 4GiB, shared: no}\n"
			     "disk: {path: /var/tmp, size: 1GiB}\npools: {disk: mirror}\n"),
		0);
	assert_int_equal(backend.donor_count, 2);
	assert_int_equal(backend.donors[0].port, 7400);
	assert_int_equal(backend.donors[1].transport, CLUSTER_TRANSPORT_VERBS);
	assert_string_equal(backend.donors[1].failure_domain, "r2");
	assert_int_equal(backend.clients[0].uid, 107);
	assert_false(backend.clients[0].shared);
	round_trip(&fallowd_config_schema, &backend, &backend_again);
}

static void server_full(void **state)
{
	assert_int_equal(load_server(""), 0);
	assert_int_equal(server.listen.port, 7400);
	assert_int_equal(server.lease.ttl_ns, 60000000000);
	assert_int_equal(server.region.size_bytes, 64 << 20);
	round_trip(&memserver_config_schema, &server, &server_again);
	assert_int_equal(load_server("name: d1\nmemory: {min: 1GiB, max: 8GiB, psi: /tmp/psi}\n"
				     "clients: [{identity: 0123456789abcdef0123456789abcdef}]\n"),
		0);
	assert_int_equal(server.client_count, 1);
	round_trip(&memserver_config_schema, &server, &server_again);
}

static void rules_between_settings(void **state)
{
	static const struct {
		const char *text, *says;
	} b[] =
		{
			{"\nstore: {segment: 96KiB}\n",
				"f:2: store.segment: must be a power of two"},
			{"store:\n  size: 4MiB\n", "f:2: store.size: must be at least 8 segments"},
			{"timing: {hedge: 11s}\n", "timing.hedge: must be shorter"},
			{"remote: {suspect: 10ms}\n", "remote.suspect: must not"},
			{"remote: {dead: 1s}\n", "remote.dead: must not"},
			{"remote: {reconnect_max: 1ms}\n", "remote.reconnect_max"},
			{"disk: {path: /x}\n", "f:1: disk.size"},
			{"disk: {size: 1GiB}\n", "f:1: disk.path"},
			{"pools: {disk: mirror}\n", "f:1: pools.disk: mirror needs"},
			{"donors:\n- {name: a, host: x}\n- {name: a, host: y}\n",
				"f:3: donors[1].name"},
			{"remote: {verbs: off}\ndonors:\n- {name: a, host: x, transport: verbs}\n",
				"f:3: donors[0].transport"},
			{"clients:\n- {name: a, uid: 1}\n- {name: a, uid: 2}\n",
				"f:3: clients[1].name"},
			{"clients:\n- {name: a}\n", "f:2: clients[0].uid: missing"},
		},
	  m[] = {
		  {"region: {size: 3MiB}\n", "m:1: region.size"},
		  {"tcp: {enabled: no}\nverbs: {mode: off}\n", "m:1: tcp.enabled"},
		  {"memory:\n  max: 1MiB\n", "m:2: memory.max"},
		  {"memory:\n  max: 1GiB\n  min: 2GiB\n", "m:3: memory.min"},
		  {"memory:\n  max: 10%\n  min: 20%\n", "m:3: memory.min"},
		  {"clients:\n- identity: xyz\n", "m:2: clients[0].identity"},
		  {"clients:\n- &a {identity: 0123456789abcdef0123456789abcdef}\n- *a\n",
			  "clients[1].identity"},
	  };

	for (size_t i = 0; i < sizeof(b) / sizeof(b[0]); i++) {
		if (load_backend(b[i].text) != -EINVAL || !strstr(err, b[i].says))
			fail_msg("text:\n%s\nsays: %s\nnot:  %s", b[i].text, err, b[i].says);
	}
	for (size_t i = 0; i < sizeof(m) / sizeof(m[0]); i++) {
		if (load_server(m[i].text) != -EINVAL || !strstr(err, m[i].says))
			fail_msg("text:\n%s\nsays: %s\nnot:  %s", m[i].text, err, m[i].says);
	}
}

static int start(char *arg1, char *arg2, char *arg3)
{
	static const struct program p = {"fallowd", "Tests.", &fallowd_config_schema};
	char *argv[] = {"fallowd", arg1, arg2, arg3, NULL};
	int argc = 1 + !!arg1 + !!arg2 + !!arg3;
	int out = dup(STDOUT_FILENO), error = dup(STDERR_FILENO);
	int null = open("/dev/null", O_WRONLY);

	fflush(stdout);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	int code = program_start(&p, argc, argv, &backend);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	dup2(error, STDERR_FILENO);
	close(out);
	close(error);
	close(null);
	return code;
}

static void arguments(void **state)
{
	assert_int_equal(start(NULL, NULL, NULL), PROGRAM_RUN);
	assert_int_equal(backend.lanes.count, 1);
	assert_int_equal(start("--check", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--dump-config", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--help", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--help-config", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--man", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--version", NULL, NULL), PROGRAM_OK);
	assert_int_equal(start("--nonsense", NULL, NULL), PROGRAM_USAGE);
	assert_int_equal(start("file.yaml", NULL, NULL), PROGRAM_USAGE);
	assert_int_equal(start("--config", NULL, NULL), PROGRAM_USAGE);
	assert_int_equal(start("--config", "/nonexistent.yaml", NULL), PROGRAM_CONFIG);
	assert_int_equal(start("-v", "-v", NULL), PROGRAM_RUN);
	assert_int_equal(program_verbose(), 2);
}

static void levels_from_arguments_and_settings(void **state)
{
	struct program_log log = {.level = LOG_LEVEL_WARN};

	start(NULL, NULL, NULL);
	program_log_start(&log);
	assert_false(log_wanted(LOG_LEVEL_INFO, 0));
	start("-v", NULL, NULL);
	program_log_start(&log);
	assert_true(log_wanted(LOG_LEVEL_DEBUG, LOG_DEBUG_CONTROL));
	assert_false(log_wanted(LOG_LEVEL_DEBUG, LOG_DEBUG_DATAPATH));
	start("-v", "-v", NULL);
	program_log_start(&log);
	assert_true(log_wanted(LOG_LEVEL_DEBUG, LOG_DEBUG_DATAPATH));
	log_set_level(LOG_LEVEL_INFO, LOG_DEBUG_CONTROL);
}

static void systemd_is_told(void **state)
{
	char dir[] = "/tmp/fallow-notify-XXXXXX", got[256];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 20};

	assert_non_null(mkdtemp(dir));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", dir);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setenv("NOTIFY_SOCKET", address.sun_path, 1);

	program_notify_ready();
	ssize_t n = recv(fd, got, sizeof(got), 0);
	assert_int_equal(n, strlen("READY=1"));
	program_notify_status("%d donors\nup", 3);
	n = recv(fd, got, sizeof(got) - 1, 0);
	assert_true(n > 0);
	got[n] = '\0';
	assert_string_equal(got, "STATUS=3 donors up");

	assert_int_equal(program_watchdog_interval_ns(), 0);
	setenv("WATCHDOG_USEC", "3000000", 1);
	assert_int_equal(program_watchdog_interval_ns(), 1500000000);
	unsetenv("WATCHDOG_USEC");
	unsetenv("NOTIFY_SOCKET");
	close(fd);
	unlink(address.sun_path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(backend_defaults),
		cmocka_unit_test(backend_disks),
		cmocka_unit_test(backend_full),
		cmocka_unit_test(server_full),
		cmocka_unit_test(rules_between_settings),
		cmocka_unit_test(arguments),
		cmocka_unit_test(levels_from_arguments_and_settings),
		cmocka_unit_test(systemd_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
