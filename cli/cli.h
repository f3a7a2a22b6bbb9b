/* What the files of the command line share. */
#ifndef FALLOW_CLI_CLI_H
#define FALLOW_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

#define CLI_HTTP_DEFAULT   "http://127.0.0.1:7480"
#define CLI_SOCKET_DEFAULT "/run/fallow/fallowd.sock"

struct cli_options {
	const char *http;   /* path of a unix socket, or URL */
	const char *socket; /* of libfallow */
	bool json;
};

/* http_ask.c: GET of `path` from the daemon as JSON. NULL: one sentence was printed. Waits at most
 * 10 s. */
json_t *http_get_json(const char *where, const char *path);
/* The same with any method and body. *code: what HTTP said; 0: nothing. */
json_t *http_ask_json(
	const char *where, const char *method, const char *path, const char *body, int *code);

/* json.c: members of what the daemon said; 0, "-" and false for those that are not there. */
uint64_t number(const json_t *o, const char *key);
const char *text(const json_t *o, const char *key);
double real(const json_t *o, const char *key);
bool yes(const json_t *o, const char *key);
/* Who uses a disk, of its "guest": "pid 123", "4 conns", "-". Returns out. */
const char *guest_text(const json_t *guest, char out[32]);
/* "1d 02:03:04". Returns out. */
const char *duration(double s, char out[32]);

/* show.c: the commands that print what the daemon says. The exit code. */
int show_status(const struct cli_options *o);
int show_capacity(const struct cli_options *o);
int show_pools(const struct cli_options *o);
int show_clients(const struct cli_options *o);
int show_donors(const struct cli_options *o);

/* disk.c, top.c: argv[0] is "disk", "top". The exit code. */
int disk_main(struct cli_options *o, int argc, char **argv);
int top_main(struct cli_options *o, int argc, char **argv);
/* main.c: an option of all commands at argv[*i]: took it. Exits when its value is missing. */
bool cli_option_take(struct cli_options *o, int argc, char **argv, int *i);
/* main.c: the value of "--name VALUE" or "--name=VALUE" at argv[*i]; NULL: another option. */
const char *cli_option_value(int argc, char **argv, int *i, const char *name);

/* bench.c: argv[0] is "bench". The exit code. */
int bench_main(struct cli_options *o, int argc, char **argv);

#endif
