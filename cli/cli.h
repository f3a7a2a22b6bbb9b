/* What the files of the command line share. */
#ifndef FALLOW_CLI_CLI_H
#define FALLOW_CLI_CLI_H

#include <stdbool.h>

#include <jansson.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

#define CLI_HTTP_DEFAULT   "http://127.0.0.1:7480"
#define CLI_SOCKET_DEFAULT "/run/fallow/fallowd.sock"

struct cli_options {
	const char *http;   /* path of a unix socket, or URL */
	const char *socket; /* of libfallow */
	bool json;
};

/* http_get.c: GET of `path` from the daemon as JSON. NULL: one sentence was printed. Waits at most
 * 10 s. */
json_t *http_get_json(const char *where, const char *path);

/* show.c: the commands that print what the daemon says. The exit code. */
int show_status(const struct cli_options *o);
int show_capacity(const struct cli_options *o);
int show_pools(const struct cli_options *o);
int show_clients(const struct cli_options *o);
int show_donors(const struct cli_options *o);

/* bench.c: argv[0] is "bench". The exit code. */
int bench_main(struct cli_options *o, int argc, char **argv);

#endif
