/* The arguments and settings of either daemon, without the daemon: settings_tool PROGRAM
 * [OPTION...]. */
#include <stdio.h>
#include <string.h>

#include "client-backend/config.h"
#include "memserver/config.h"

int main(int argc, char **argv)
{
	static union {
		struct fallowd_config fallowd;
		struct memserver_config memserver;
	} cfg;
	struct program p = {.name = "settings_tool", .summary = "Checks settings."};

	if (argc > 1 && !strcmp(argv[1], "fallowd"))
		p.schema = &fallowd_config_schema;
	else if (argc > 1 && !strcmp(argv[1], "memserver"))
		p.schema = &memserver_config_schema;
	if (!p.schema) {
		fprintf(stderr, "Usage: settings_tool fallowd|memserver [OPTION...]\n");
		return PROGRAM_USAGE;
	}
	int code = program_start(&p, argc - 1, argv + 1, &cfg);
	return code == PROGRAM_RUN ? PROGRAM_OK : code;
}
