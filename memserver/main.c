/* fallow-memserver: leases this machine's fallow memory to backends on other machines. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "lib/core/log.h"
#include "lib/core/program.h"
#include "memserver/config.h"
#include "memserver/server.h"

struct daemon {
	struct event_base *base;
	struct memserver *server;
	bool leaving;
};

static const struct program program = {
	.name = "fallow-memserver",
	.summary = "Leases this machine's fallow memory to backends on other machines.",
	.schema = &memserver_config_schema,
};

/* The first signal asks for every region back and waits for that, within a limit; the second ends
 * at once. */
static void signal_end(evutil_socket_t sig, short what, void *arg)
{
	struct daemon *d = arg;

	program_notify_stopping();
	if (d->leaving) {
		log_warn("server", "a second signal: ending at once");
		event_base_loopbreak(d->base);
		return;
	}
	d->leaving = true;
	memserver_leave(d->server);
}

static void signal_reload(evutil_socket_t sig, short what, void *arg)
{
	static struct memserver_config cfg;
	struct daemon *d = arg;
	const char *file = program_config_file();
	char err[1024];

	if (!file) {
		log_warn("config", "there is no configuration file to read again");
		return;
	}
	if (config_load_file(&memserver_config_schema, file, &cfg, err, sizeof(err)) ||
		memserver_reload(d->server, &cfg, err, sizeof(err))) {
		log_error("config", "nothing was changed: %s", err);
		return;
	}
	program_log_start(&cfg.log);
	log_info_kv("config", "read again", "file=%s", file);
}

static int run(const struct memserver_config *cfg, struct daemon *d)
{
	static const struct {
		int sig;
		event_callback_fn cb;
	} signals[] = {{SIGTERM, signal_end}, {SIGINT, signal_end}, {SIGHUP, signal_reload}};
	struct event *events[3] = {NULL};
	char err[512] = "out of memory";
	int rc = PROGRAM_FAILED;
	sigset_t blocked;

	d->base = event_base_new();
	if (!d->base || memserver_new(cfg, d->base, &d->server, err, sizeof(err))) {
		log_error("server", "cannot start: %s", err);
		goto out;
	}
	for (unsigned i = 0; i < 3; i++) {
		events[i] = evsignal_new(d->base, signals[i].sig, signals[i].cb, d);
		if (!events[i] || event_add(events[i], NULL)) {
			log_error("server", "cannot start: out of memory for signals");
			goto out;
		}
	}
	program_notify_ready();
	if (event_base_dispatch(d->base) >= 0)
		rc = PROGRAM_OK;
	log_info("server", "ended");
out:
	memserver_delete(d->server);
	/* One more signal must not turn a clean end into a death by it. */
	sigemptyset(&blocked);
	for (unsigned i = 0; i < 3; i++)
		sigaddset(&blocked, signals[i].sig);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	for (unsigned i = 0; i < 3; i++) {
		if (events[i])
			event_free(events[i]);
	}
	if (d->base)
		event_base_free(d->base);
	return rc;
}

int main(int argc, char **argv)
{
	static struct memserver_config cfg;
	static struct daemon d;

	int rc = program_start(&program, argc, argv, &cfg);
	if (rc != PROGRAM_RUN)
		return rc;
	program_log_start(&cfg.log);
	signal(SIGPIPE, SIG_IGN);
	rc = run(&cfg, &d);
	libevent_global_shutdown();
	return rc;
}
