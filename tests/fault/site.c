/* Memory servers and a backend on this machine, with the settings of a fault test. */
#include "tests/fault/site.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fault/harness.h"

#define MEMINFO_PLENTY_KIB 8000000u
#define MEMINFO_TOTAL_KIB  16000000u
#define FLOOR_MIB	   1024u

struct site_config site_config_default(void)
{
	return (struct site_config){.donors = 3,
		.copies = 2,
		.donor_mib = 64,
		.store_mib = 4,
		.ttl_ms = 20000,
		.grace_ms = 5000,
		.suspect_ms = 600,
		.dead_ms = 2000,
		.hedge_ms = 20,
		.put_wait_ms = 5000,
		.session_grace_ms = 1000};
}

/* Below the range from which the kernel takes ports of its own, so that nobody connects to himself
 * while a donor is down. */
static unsigned port_pick(void)
{
	for (unsigned tries = 0; tries < 1000; tries++) {
		unsigned port =
			15000 +
			(unsigned)(now_ns() / 97 + tries * 7919 + (unsigned)getpid()) % 16000;
		struct sockaddr_in sa = {.sin_family = AF_INET,
			.sin_port = htons((uint16_t)port),
			.sin_addr = {htonl(INADDR_LOOPBACK)}};
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		int err = bind(fd, (struct sockaddr *)&sa, sizeof(sa));

		close(fd);
		if (!err)
			return port;
	}
	fail("no free port");
}

static FILE *config_open(const char *name)
{
	FILE *f = fopen(harness_path("%s", name), "we");

	if (!f)
		fail("cannot write %s: %s", name, strerror(errno));
	return f;
}

static void config_close(FILE *f)
{
	if (fclose(f))
		fail("cannot write a file: %s", strerror(errno));
}

static const char *donor_http(unsigned i)
{
	return harness_path("d%u.http", i);
}

static void donor_config_write(const struct site *s, unsigned i)
{
	const struct site_config *c = &s->cfg;
	char name[32];

	snprintf(name, sizeof(name), "d%u.yaml", i);
	FILE *f = config_open(name);
	fprintf(f, "name: d%u\n", i);
	fprintf(f, "listen: {port: %u}\n", s->donor[i].port);
	fprintf(f, "tcp: {port: %u, threads: 1}\n", s->donor[i].tcp_port);
	fprintf(f, "region: {size: %uKiB}\n", SITE_REGION_BYTES / 1024);
	fprintf(f,
		"memory: {min: %uMiB, max: %uMiB, floor: %uMiB, interval: 50ms, psi_some: 0, "
		"psi_full: 0, meminfo: %s, psi: %s}\n",
		c->donor_min_mib, c->donor_mib, FLOOR_MIB, harness_path("d%u.meminfo", i),
		harness_path("d%u.psi", i));
	fprintf(f, "lease: {ttl: %ums, revoke_grace: %ums}\n", c->ttl_ms, c->grace_ms);
	fprintf(f, "http: {port: 0, socket: %s}\n", donor_http(i));
	config_close(f);
}

static void backend_config_write(const struct site *s)
{
	const struct site_config *c = &s->cfg;
	FILE *f = config_open("fallowd.yaml");

	fprintf(f, "name: host\n");
	fprintf(f, "runtime_dir: %s\n", harness_path("run"));
	fprintf(f, "state_dir: %s\n", harness_path("state"));
	fprintf(f, "socket: {path: %s, session_grace: %ums}\n", s->socket, c->session_grace_ms);
	fprintf(f, "http: {port: 0, socket: %s}\n", s->backend_http);
	fprintf(f, "lanes: {count: 2}\n");
	fprintf(f, "store: {size: %uMiB, segment: 64KiB, max_pages: 65536}\n", c->store_mib);
	fprintf(f, "pools: {copies: %u, disk: never}\n", c->copies);
	fprintf(f,
		"timing: {hedge: %ums, get_timeout: 20s, put_wait: %ums, retry: 100ms, io_timeout: "
		"3s}\n",
		c->hedge_ms, c->put_wait_ms);
	fprintf(f,
		"remote: {max_lease: 1GiB, heartbeat: 100ms, suspect: %ums, dead: %ums, "
		"connect_timeout: 1s, reconnect_min: 20ms, reconnect_max: 200ms}\n",
		c->suspect_ms, c->dead_ms);
	fprintf(f, "donors:\n");
	for (unsigned i = 0; i < c->donors; i++)
		fprintf(f, "  - {name: d%u, host: 127.0.0.1, port: %u}\n", i, s->donor[i].port);
	config_close(f);
}

void site_donor_pressure(struct site *s, unsigned i, bool pressed)
{
	char name[32], to[32];

	snprintf(name, sizeof(name), "d%u.meminfo.new", i);
	snprintf(to, sizeof(to), "d%u.meminfo", i);
	FILE *f = config_open(name);
	fprintf(f, "MemTotal: %u kB\nMemAvailable: %u kB\n", MEMINFO_TOTAL_KIB,
		pressed ? 1024 : MEMINFO_PLENTY_KIB);
	config_close(f);
	if (rename(harness_path("%s", name), harness_path("%s", to)))
		fail("rename: %s", strerror(errno));
}

static bool donor_serves(unsigned i)
{
	json_t *o = http_json(donor_http(i), "/v1/status");
	bool ok = o != NULL;

	json_decref(o);
	return ok;
}

void site_donor_start(struct site *s, unsigned i)
{
	char program[4200], name[32], flip[64], preload[4300], asan[512];
	const char *old = getenv("ASAN_OPTIONS");
	const char *argv[] = {program, "--config", harness_path("d%u.yaml", i), NULL};
	const char *env[] = {flip, preload, asan, NULL};
	bool lies = i == 0 && s->cfg.flip_ppm;

	snprintf(program, sizeof(program), "%s/fallow-memserver", harness_bin());
	snprintf(name, sizeof(name), "d%u", i);
	snprintf(flip, sizeof(flip), "FALLOW_FAULT_FLIP_PPM=%u", s->cfg.flip_ppm);
	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s/../lib/libfault_flip.so", harness_bin());
	/* The sanitizer would have its library be the first. */
	snprintf(asan, sizeof(asan), "ASAN_OPTIONS=verify_asan_link_order=0%s%s", old ? ":" : "",
		old ? old : "");
	s->donor[i].pid = process_start(name, argv, lies ? env : NULL);
	s->donor[i].stopped = false;
	WAIT_FOR(HARNESS_LIMIT_MS, donor_serves(i), "donor d%u to serve", i);
}

void site_donor_kill(struct site *s, unsigned i)
{
	process_end(s->donor[i].pid, SIGKILL);
	s->donor[i].pid = 0;
}

void site_donor_stop(struct site *s, unsigned i)
{
	process_signal(s->donor[i].pid, SIGSTOP);
	s->donor[i].stopped = true;
}

void site_donor_continue(struct site *s, unsigned i)
{
	process_signal(s->donor[i].pid, SIGCONT);
	s->donor[i].stopped = false;
}

void site_backend_start(struct site *s)
{
	char program[4200];
	const char *argv[] = {program, "--config", harness_path("fallowd.yaml"), NULL};

	snprintf(program, sizeof(program), "%s/fallowd", harness_bin());
	s->backend = process_start("fallowd", argv, NULL);
	WAIT_FOR(HARNESS_LIMIT_MS, site_status(s, "pid") == s->backend, "fallowd to serve");
}

void site_backend_kill(struct site *s)
{
	process_end(s->backend, SIGKILL);
	s->backend = 0;
}

void site_start(struct site *s, const struct site_config *cfg)
{
	memset(s, 0, sizeof(*s));
	s->cfg = *cfg;
	snprintf(s->socket, sizeof(s->socket), "%s", harness_path("f.sock"));
	snprintf(s->backend_http, sizeof(s->backend_http), "%s", harness_path("f.http"));
	for (unsigned i = 0; i < cfg->donors; i++) {
		s->donor[i].port = port_pick();
		s->donor[i].tcp_port = port_pick();
		donor_config_write(s, i);
		site_donor_pressure(s, i, false);
		site_donor_start(s, i);
	}
	backend_config_write(s);
	site_backend_start(s);
	WAIT_FOR(HARNESS_LIMIT_MS, site_donors_up(s, cfg->donors), "all donors to be up");
}

void site_end(struct site *s)
{
	if (s->backend) {
		int status = process_end(s->backend, SIGTERM);

		if (status)
			fail("fallowd ended with status %#x", (unsigned)status);
	}
	for (unsigned i = 0; i < s->cfg.donors; i++) {
		if (s->donor[i].pid)
			process_end(s->donor[i].pid, SIGKILL);
	}
}

static int64_t number_take(json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);
	int64_t n = json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;

	if (o && n < 0)
		fail("the status has no number '%s'", key);
	return n;
}

int64_t site_status(const struct site *s, const char *key)
{
	json_t *o = http_json(s->backend_http, "/v1/status");
	int64_t n = number_take(o, key);

	json_decref(o);
	return n;
}

int64_t site_lanes(const struct site *s, const char *key)
{
	json_t *o = http_json(s->backend_http, "/v1/status"), *lane;
	int64_t sum = o ? 0 : -1;
	size_t i;

	json_array_foreach(json_object_get(o, "lanes"), i, lane) sum += number_take(lane, key);
	json_decref(o);
	return sum;
}

int64_t site_donor_row(const struct site *s, unsigned i, const char *key)
{
	json_t *o = http_json(s->backend_http, "/v1/donors");
	int64_t n = number_take(json_array_get(json_object_get(o, "donors"), i), key);

	json_decref(o);
	return n;
}

bool site_donor_phase_is(const struct site *s, unsigned i, const char *phase)
{
	json_t *o = http_json(s->backend_http, "/v1/donors");
	json_t *row = json_array_get(json_object_get(o, "donors"), i);
	const char *is = json_string_value(json_object_get(row, "phase"));
	bool same = is && !strcmp(is, phase);

	json_decref(o);
	return same;
}

int64_t site_donor_memory(const struct site *s, unsigned i, const char *key)
{
	json_t *o = http_json(donor_http(i), "/v1/status");
	int64_t n = number_take(json_object_get(o, "memory"), key);

	json_decref(o);
	return n;
}

double site_donor_metric(const struct site *s, unsigned i, const char *sample)
{
	return http_metric(donor_http(i), sample);
}

bool site_donors_up(const struct site *s, unsigned count)
{
	json_t *o = http_json(s->backend_http, "/v1/donors"), *row;
	unsigned up = 0;
	size_t i;

	json_array_foreach(json_object_get(o, "donors"), i, row)
	{
		const char *phase = json_string_value(json_object_get(row, "phase"));

		up += phase && !strcmp(phase, "up") && number_take(row, "lanes_connected") == 2;
	}
	json_decref(o);
	return up == count;
}

bool site_repaired(const struct site *s)
{
	int64_t leased = 0;

	for (unsigned i = 0; i < s->cfg.donors; i++)
		leased += site_donor_row(s, i, "leased_bytes");
	/* Each lane has heard what the control thread knows. */
	return leased == site_lanes(s, "regions") * SITE_REGION_BYTES &&
	       site_status(s, "segments_underreplicated") == 0;
}

void site_settle(const struct site *s)
{
	WAIT_FOR(HARNESS_LIMIT_MS, site_donors_up(s, s->cfg.donors), "all donors to be up again");
	WAIT_FOR(HARNESS_LIMIT_MS, site_repaired(s), "every segment to have its copies");
}
