/* What every daemon's main() shares: arguments, exit codes, and telling systemd how we are. */
#ifndef FALLOW_CORE_PROGRAM_H
#define FALLOW_CORE_PROGRAM_H

#include <stdint.h>

#include "lib/core/config.h"

enum program_exit {
	PROGRAM_OK = 0,
	PROGRAM_FAILED = 1,  /* something at run time; the log says what */
	PROGRAM_USAGE = 2,   /* wrong arguments */
	PROGRAM_CONFIG = 78, /* wrong configuration (EX_CONFIG) */
	PROGRAM_RUN = -1,    /* not an exit code: go on and run */
};

/* The sections "http" and "log", the same in every daemon. */
struct program_http {
	char address[64]; /* numeric */
	uint32_t port;	  /* 0: no TCP listener */
	char socket[108]; /* "": no unix socket */
};

struct program_log {
	int level; /* enum log_level */
	bool datapath;
};

extern const struct config_choice program_log_levels[];
extern const struct config_field program_log_fields[];

/* Defines a static table for CONFIG_GROUP; port: the default, as a string. */
#define PROGRAM_HTTP_TABLE(table, standard_port)                                                   \
	static const struct config_field table[] = {                                               \
		CONFIG_TEXT(program_http, "address", address, CONFIG_STRING, "127.0.0.1",          \
			CONFIG_NOT_EMPTY,                                                          \
			"Numeric address to serve metrics and status on. There is no access "      \
			"control: keep it on loopback."),                                          \
		CONFIG_VALUE(program_http, "port", port, CONFIG_NUMBER, standard_port, 0, 65535,   \
			"TCP port for metrics and status; 0 for none."),                           \
		CONFIG_TEXT(program_http, "socket", socket, CONFIG_PATH, "", CONFIG_MAY_BE_EMPTY,  \
			"Unix socket that serves the same; empty for none."),                      \
		CONFIG_END}

struct program {
	const char *name;
	const char *summary; /* one sentence for --help */
	const struct config_schema *schema;
};

/*
 * --config FILE, --check, --dump-config, --help, --help-config, --version, -v (--verbose: debug
 * lines whatever the configuration says; twice: those of the data path too), --man (the manual
 * page's text). Without --config every setting has its default. Fills in cfg (schema->size bytes).
 * Call it first in main(). PROGRAM_RUN, or the code to exit with after what was asked for was
 * printed.
 */
int program_start(const struct program *p, int argc, char **argv, void *cfg);
/* The file of --config, to be read again on SIGHUP; NULL: none was given. */
const char *program_config_file(void);
/* How often -v was given. */
unsigned program_verbose(void);
/* log_init() and the level of the configuration, raised by -v. */
void program_log_start(const struct program_log *log);

/* sd_notify(3); all do nothing outside systemd, never block for long, control thread. */
void program_notify_ready(void);
void program_notify_stopping(void);
void program_notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void program_notify_watchdog(void);
/* How often program_notify_watchdog() wants to be called, ns (half of WatchdogSec); 0: not at all.
 */
uint64_t program_watchdog_interval_ns(void);

#endif
