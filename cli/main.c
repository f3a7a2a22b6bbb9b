/* fallow: the command line. Picks the command. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const char usage_text[] =
	"Usage: fallow [--http WHERE] [--json] COMMAND\n"
	"       fallow bench [OPTION...]    (fallow bench --help)\n\n"
	"Commands:\n"
	"  status     the backend and its lanes\n"
	"  capacity   how much is stored where, and what is left\n"
	"  pools      the pools and what is in them\n"
	"  clients    who is connected, and what each account stores\n"
	"  donors     the memory servers, and what they hold for us\n"
	"  disk       guests' disks: disk ls, add, rm (fallow disk --help)\n"
	"  top        guests, tiers and accounts, again and again (fallow top --help)\n"
	"  bench      puts, gets and flushes pages, and says how fast that was\n\n"
	"Options:\n"
	"  --http WHERE   fallowd's HTTP: path of its unix socket, or URL (" CLI_HTTP_DEFAULT ")\n"
	"  --socket PATH  fallowd's client socket, for bench (" CLI_SOCKET_DEFAULT ")\n"
	"  --json         what fallowd said, as JSON\n"
	"  --help, --version\n"
	"Exit codes: 0 done, 1 failed, 2 wrong arguments.\n";

static const struct command {
	const char *name;
	int (*show)(const struct cli_options *o);
} commands[] = {
	{"status", show_status},
	{"capacity", show_capacity},
	{"pools", show_pools},
	{"clients", show_clients},
	{"donors", show_donors},
};

/* The value of "--name VALUE" or "--name=VALUE" at argv[*i]; NULL: another option. */
const char *cli_option_value(int argc, char **argv, int *i, const char *name)
{
	size_t n = strlen(name);

	if (strncmp(argv[*i], name, n))
		return NULL;
	if (argv[*i][n] == '=')
		return argv[*i] + n + 1;
	if (argv[*i][n])
		return NULL;
	if (*i + 1 >= argc) {
		fprintf(stderr, "fallow: %s needs a value\n", name);
		exit(CLI_USAGE);
	}
	return argv[++*i];
}

bool cli_option_take(struct cli_options *o, int argc, char **argv, int *i)
{
	const char *value;

	if (!strcmp(argv[*i], "--json"))
		o->json = true;
	else if ((value = cli_option_value(argc, argv, i, "--http")))
		o->http = value;
	else if ((value = cli_option_value(argc, argv, i, "--socket")))
		o->socket = value;
	else
		return false;
	return true;
}

static int command_run(struct cli_options *o, const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return commands[i].show(o);
	fprintf(stderr, "fallow: there is no command '%s'. Try 'fallow --help'.\n", name);
	return CLI_USAGE;
}

int main(int argc, char **argv)
{
	struct cli_options o = {.http = CLI_HTTP_DEFAULT, .socket = CLI_SOCKET_DEFAULT};
	const char *command = NULL;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "bench") && !command)
			return bench_main(&o, argc - i, argv + i);
		if (!strcmp(argv[i], "disk") && !command)
			return disk_main(&o, argc - i, argv + i);
		if (!strcmp(argv[i], "top") && !command)
			return top_main(&o, argc - i, argv + i);
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(usage_text, stdout);
			return CLI_OK;
		}
		if (!strcmp(argv[i], "--version")) {
			printf("fallow " FALLOW_VERSION "\n");
			return CLI_OK;
		}
		if (cli_option_take(&o, argc, argv, &i))
			continue;
		if (argv[i][0] == '-' || command) {
			fprintf(stderr, "fallow: unexpected argument '%s'. Try 'fallow --help'.\n",
				argv[i]);
			return CLI_USAGE;
		} else {
			command = argv[i];
		}
	}
	if (!command) {
		fputs(usage_text, stderr);
		return CLI_USAGE;
	}
	return command_run(&o, command);
}
