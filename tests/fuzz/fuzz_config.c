/* Fuzz target: any bytes as the configuration of either daemon; what loads must survive a dump. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/config.h"
#include "memserver/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static union settings {
	struct fallowd_config fallowd;
	struct memserver_config memserver;
} first, again;

static void try(const struct config_schema *schema, const char *text, size_t bytes)
{
	char err[256], *dump;
	size_t dump_bytes;

	if (config_load_text(schema, "fuzz", text, bytes, &first, err, sizeof(err))) {
		if (strncmp(err, "fuzz", 4) != 0)
			abort(); /* no sentence */
		return;
	}
	FILE *out = open_memstream(&dump, &dump_bytes);
	config_dump(schema, &first, out);
	fclose(out);
	if (config_load_text(schema, "dump", dump, dump_bytes, &again, err, sizeof(err)) ||
		memcmp(&first, &again, schema->size) != 0)
		abort();
	free(dump);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes < 1)
		return 0;
	/* The first byte chooses: 'm' the memory server, 'f' the backend. */
	try(data[0] & 1 ? &memserver_config_schema : &fallowd_config_schema, (const char *)data + 1,
		bytes - 1);
	return 0;
}
