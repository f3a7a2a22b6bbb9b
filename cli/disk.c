/* Guests' disks: fallow disk ls, add, rm. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/table.h"

#define WAIT_TRIES 600u /* of 100 ms */

static const char usage_text[] =
	"Usage: fallow disk ls\n"
	"       fallow disk add NAME SIZE [--SETTING VALUE...]\n"
	"       fallow disk add NAME --image IMAGE [--SETTING VALUE...]\n"
	"       fallow disk rm NAME [--force]\n\n"
	"  ls    the disks, what is reserved and used, and who is connected\n"
	"  add   makes a disk and waits until it is served: one of SIZE for swap, with room for "
	"all\n"
	"        of it reserved; or one cached in memory, whose blocks are those of IMAGE, which "
	"is\n"
	"        the path of a raw file or a block device, or an NBD URI\n"
	"  rm    removes a disk and every page of it; --force: although a guest is connected\n\n"
	"Settings are those of a disk in fallowd's configuration (fallowd --help-config):\n"
	"  --kind --frontend --socket --mode --queues --copies --codec --disk --account --quota "
	"--weight "
	"--serial\n"
	"  of swap disks: --guest_memory\n"
	"  of cached disks: --base --readonly --direct --cache_writes --keep\n"
	"  of disks served by NBD: --listen --connections; --nbd is short for --frontend nbd\n"
	"Options: --http WHERE, --json, as for all commands. Changes go over fallowd's "
	"http.socket.\n";

static int usage(FILE *to)
{
	fputs(usage_text, to);
	return to == stdout ? CLI_OK : CLI_USAGE;
}

static int list(const struct cli_options *o)
{
	static const char *const headings[] = {"disk", "kind", ">size", "state", "guest",
		">reserved", ">used", ">reads", ">writes", ">errors", "account", "socket", NULL};
	char a[24], b[24], c[24];
	const json_t *p;
	size_t i;
	json_t *s = http_get_json(o->http, "/v1/disks");

	if (!s)
		return CLI_FAILED;
	if (o->json) {
		json_dumpf(s, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(s);
		return CLI_OK;
	}
	struct table *t = table_new(headings);
	json_array_foreach(json_object_get(s, "disks"), i, p)
	{
		const json_t *io = json_object_get(p, "requests");
		char who[32];

		table_cell(t, "%s", text(p, "name"));
		table_cell(t, "%s", text(p, "kind"));
		table_cell(t, "%s", size_text(number(p, "size_bytes"), a));
		table_cell(t, "%s", text(p, "state"));
		table_cell(t, "%s", guest_text(json_object_get(p, "guest"), who));
		table_cell(t, "%s", size_text(number(p, "reserved_pages") * 4096, b));
		table_cell(t, "%s", size_text(number(p, "used_pages") * 4096, c));
		table_cell(t, "%" PRIu64, number(io, "reads"));
		table_cell(t, "%" PRIu64, number(io, "writes"));
		table_cell(t, "%" PRIu64, number(io, "errors"));
		table_cell(t, "%s", text(p, "account"));
		table_cell(t, "%s", text(p, "socket"));
	}
	table_print(t);
	json_array_foreach(json_object_get(s, "disks"), i,
		p) if (json_string_length(json_object_get(p, "why")))
		printf("%s: %s\n", text(p, "name"), text(p, "why"));
	json_decref(s);
	return CLI_OK;
}

/* Changes are taken on the unix socket alone; the address knows where that is. NULL: printed. */
static char *change_where(const struct cli_options *o)
{
	if (strncmp(o->http, "http://", 7))
		return strdup(o->http);
	json_t *s = http_get_json(o->http, "/v1/status");
	if (!s)
		return NULL;
	const char *path = json_string_value(json_object_get(s, "http_socket"));
	char *where = path && path[0] ? strdup(path) : NULL;
	json_decref(s);
	if (!where)
		fprintf(stderr, "fallow: changes are taken on a unix socket only, and fallowd has "
				"none: set "
				"http.socket in its configuration\n");
	return where;
}

/* A new reference to the disk as it is now; NULL: there is none, or (*failed) nobody answers. */
static json_t *disk_get(const char *where, const char *name, bool *failed)
{
	const json_t *p;
	json_t *found = NULL, *s = http_get_json(where, "/v1/disks");
	size_t i;

	*failed = !s;
	json_array_foreach(json_object_get(s, "disks"), i, p) if (!strcmp(text(p, "name"), name))
		found = json_incref((json_t *)p);
	json_decref(s);
	return found;
}

static int added(const struct cli_options *o, const char *name, json_t *disk, bool failed)
{
	const char *state = text(disk, "state"), *why = text(disk, "why");
	char a[24], b[24];
	int code = CLI_FAILED;

	if (failed)
		return CLI_FAILED;
	if (!disk) {
		fprintf(stderr, "fallow: disk %s was removed by somebody else\n", name);
	} else if (strcmp(state, "serving")) {
		fprintf(stderr, "fallow: disk %s: %s\n", name,
			strcmp(why, "-") ? why : "it is still being made: see fallow disk ls");
	} else if (o->json) {
		json_dumpf(disk, stdout, JSON_INDENT(2));
		printf("\n");
		code = CLI_OK;
	} else {
		if (strcmp(text(disk, "kind"), "cached"))
			printf("disk %s: %s, of which %s reserved, on %s\n", name,
				size_text(number(disk, "size_bytes"), a),
				size_text(number(disk, "reserved_pages") * 4096, b),
				text(disk, "socket"));
		else
			printf("disk %s: %s of %s, on %s\n", name,
				size_text(number(disk, "size_bytes"), a), text(disk, "image"),
				text(disk, "socket"));
		code = CLI_OK;
	}
	json_decref(disk);
	return code;
}

/* Waits until it is served or refused. */
static int add_wait(const struct cli_options *o, const char *where, const char *name)
{
	for (unsigned i = 0;; i++) {
		bool failed;
		json_t *disk = disk_get(where, name, &failed);
		const char *state = text(disk, "state");

		if (!disk || i == WAIT_TRIES ||
			(strcmp(state, "opening") && strcmp(state, "reserving")))
			return added(o, name, disk, failed);
		json_decref(disk);
		nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	}
}

static int add(const struct cli_options *o, json_t *settings)
{
	const char *name = text(settings, "name");
	char *where = change_where(o), *body = json_dumps(settings, JSON_COMPACT);
	int code, r = CLI_FAILED;

	json_t *s = where && body ? http_ask_json(where, "POST", "/v1/disks", body, &code) : NULL;
	if (s)
		r = add_wait(o, where, name);
	json_decref(s);
	free(where);
	free(body);
	return r;
}

static int rm(const struct cli_options *o, const char *name, bool force)
{
	char path[256], *where = change_where(o);
	int code, r = CLI_FAILED;

	snprintf(path, sizeof(path), "/v1/disks/%.100s%s", name, force ? "?force=1" : "");
	json_t *s = where ? http_ask_json(where, "DELETE", path, "", &code) : NULL;
	for (unsigned i = 0; s && i < WAIT_TRIES; i++) {
		bool failed;
		json_t *disk = disk_get(where, name, &failed);

		json_decref(disk);
		if (!disk) {
			r = failed ? CLI_FAILED : CLI_OK;
			break;
		}
		nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	}
	json_decref(s);
	free(where);
	return r;
}

/* "--key VALUE" or "--key=VALUE" of any setting; the daemon knows which there are. */
static bool setting_take(json_t *settings, int argc, char **argv, int *i)
{
	char key[64];
	const char *equals = strchr(argv[*i], '=');
	size_t n = equals ? (size_t)(equals - argv[*i]) : strlen(argv[*i]);

	if (strncmp(argv[*i], "--", 2) || n < 3 || n - 2 >= sizeof(key))
		return false;
	snprintf(key, sizeof(key), "%.*s", (int)(n - 2), argv[*i] + 2);
	if (!equals && *i + 1 >= argc) {
		fprintf(stderr, "fallow: --%s needs a value\n", key);
		exit(CLI_USAGE);
	}
	json_object_set_new(settings, key, json_string(equals ? equals + 1 : argv[++*i]));
	return true;
}

static int unexpected(const char *argument)
{
	fprintf(stderr, "fallow: unexpected argument '%s'. Try 'fallow disk --help'.\n", argument);
	return CLI_USAGE;
}

static bool option_take(struct cli_options *o, int argc, char **argv, int *i)
{
	/* --socket is the disk's here. */
	return strncmp(argv[*i], "--socket", 8) && cli_option_take(o, argc, argv, i);
}

static int add_main(struct cli_options *o, int argc, char **argv)
{
	json_t *settings = json_object();
	const char *word[2];
	int words = 0, r = CLI_OK;

	for (int i = 1; i < argc && !r; i++) {
		if (!strcmp(argv[i], "--nbd")) {
			json_object_set_new(settings, "frontend", json_string("nbd"));
			continue;
		}
		if (option_take(o, argc, argv, &i) || setting_take(settings, argc, argv, &i))
			continue;
		if (words == 2)
			r = unexpected(argv[i]);
		else
			word[words++] = argv[i];
	}
	bool image = json_object_get(settings, "image");
	if (!r && words != 2 - image)
		r = usage(stderr);
	if (!r) {
		json_object_set_new(settings, "name", json_string(word[0]));
		if (!image)
			json_object_set_new(settings, "size", json_string(word[1]));
		else if (!json_object_get(settings, "kind"))
			json_object_set_new(settings, "kind", json_string("cached"));
		r = add(o, settings);
	}
	json_decref(settings);
	return r;
}

static int rm_main(struct cli_options *o, int argc, char **argv)
{
	const char *name = NULL;
	bool force = false;

	for (int i = 1; i < argc; i++) {
		if (option_take(o, argc, argv, &i))
			continue;
		if (!strcmp(argv[i], "--force"))
			force = true;
		else if (name || argv[i][0] == '-' || strpbrk(argv[i], "/?# "))
			return unexpected(argv[i]);
		else
			name = argv[i];
	}
	return name ? rm(o, name, force) : usage(stderr);
}

int disk_main(struct cli_options *o, int argc, char **argv)
{
	int i = 1;

	while (i < argc && option_take(o, argc, argv, &i))
		i++;
	if (i >= argc)
		return usage(stderr);
	if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
		return usage(stdout);
	for (int k = i + 1; k < argc; k++)
		if (!strcmp(argv[k], "--help"))
			return usage(stdout);
	if (!strcmp(argv[i], "add"))
		return add_main(o, argc - i, argv + i);
	if (!strcmp(argv[i], "rm"))
		return rm_main(o, argc - i, argv + i);
	if (strcmp(argv[i], "ls"))
		return unexpected(argv[i]);
	for (int k = i + 1; k < argc; k++)
		if (!option_take(o, argc, argv, &k))
			return unexpected(argv[k]);
	return list(o);
}
