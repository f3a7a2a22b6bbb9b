/* fallow top: guests with their hits and latencies by tier, and accounts with their shares. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/table.h"

static const char usage_text[] =
	"Usage: fallow top [--interval SECONDS] [--count N]\n\n"
	"Shows the guests' disks, where their reads were answered from and how fast, and which\n"
	"accounts hold more of the local tier than their weight gives them; again every SECONDS "
	"(2),\n"
	"N times (until interrupted). Rates and shares of hits are those since the last time, the\n"
	"first ones and latencies those since the start.\n";

struct sample {
	json_t *status, *disks, *clients, *capacity;
	double at_s;
};

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sample_free(struct sample *s)
{
	json_decref(s->status);
	json_decref(s->disks);
	json_decref(s->clients);
	json_decref(s->capacity);
	memset(s, 0, sizeof(*s));
}

static bool sample_take(const struct cli_options *o, struct sample *s)
{
	s->status = http_get_json(o->http, "/v1/status");
	s->disks = s->status ? http_get_json(o->http, "/v1/disks") : NULL;
	s->clients = s->disks ? http_get_json(o->http, "/v1/clients") : NULL;
	s->capacity = s->clients ? http_get_json(o->http, "/v1/capacity") : NULL;
	s->at_s = now_s();
	return s->capacity;
}

/* The same disk a sample ago; NULL: there was none, or fallowd was started in between. */
static const json_t *disk_before(
	const struct sample *was, const struct sample *is, const json_t *disk)
{
	const json_t *p;
	size_t i;

	if (!was->disks || number(was->status, "pid") != number(is->status, "pid"))
		return NULL;
	json_array_foreach(json_object_get(was->disks, "disks"), i,
		p) if (!strcmp(text(p, "name"), text(disk, "name")) &&
		       number(p, "pool") == number(disk, "pool")) return p;
	return NULL;
}

static const json_t *part(const json_t *disk, const char *a, const char *b)
{
	const json_t *o = json_object_get(disk, a);

	return b ? json_object_get(o, b) : o;
}

static uint64_t grown(
	const json_t *disk, const json_t *before, const char *a, const char *b, const char *key)
{
	uint64_t is = number(part(disk, a, b), key), was = number(part(before, a, b), key);

	return is > was ? is - was : 0;
}

static void head_show(const struct sample *s)
{
	const json_t *local = json_object_get(s->capacity, "local");
	const json_t *remote = json_object_get(s->capacity, "remote");
	const json_t *disk = json_object_get(s->capacity, "disk");
	char a[24], b[24], c[24], d[24], e[24], f[24], up[32];

	printf("%s  up %s  donors %" PRIu64 " of %" PRIu64 "  local %s of %s  remote %s of %s  "
	       "disk %s of %s\n\n",
		text(s->status, "name"), duration(real(s->status, "uptime_s"), up),
		number(s->status, "donors_up"), number(s->status, "donors"),
		size_text(number(local, "used_bytes"), a),
		size_text(number(local, "total_bytes"), b),
		size_text(number(remote, "used_bytes"), c),
		size_text(number(remote, "leased_bytes"), d),
		size_text(number(disk, "used_bytes"), e),
		size_text(number(disk, "total_bytes"), f));
}

static void guests_show(const struct sample *was, const struct sample *is)
{
	static const char *const headings[] = {"guest's disk", "guest", ">used", ">of", ">read/s",
		">write/s", ">MiB/s", ">busy", ">errors", ">local", ">remote", ">disk",
		">unwritten", NULL};
	static const char *const tiers[] = {"local", "remote", "disk", "none"};
	struct table *t = table_new(headings);
	char a[24], b[24], who[32];
	const json_t *p;
	size_t i;

	json_array_foreach(json_object_get(is->disks, "disks"), i, p)
	{
		const json_t *before = disk_before(was, is, p);
		const json_t *guest = json_object_get(p, "guest");
		double s = before ? is->at_s - was->at_s : real(is->status, "uptime_s");
		uint64_t hits[4], all = 0;

		s = s > 0 ? s : 1;
		table_cell(t, "%s", text(p, "name"));
		if (yes(guest, "connected"))
			table_cell(t, "%s", guest_text(guest, who));
		else
			table_cell(t, "%s",
				strcmp(text(p, "state"), "serving") ? text(p, "state") : "-");
		table_cell(t, "%s", size_text(number(p, "used_pages") * 4096, a));
		table_cell(t, "%s", size_text(number(p, "size_bytes"), b));
		table_cell(t, "%.0f", (double)grown(p, before, "requests", NULL, "reads") / s);
		table_cell(t, "%.0f", (double)grown(p, before, "requests", NULL, "writes") / s);
		table_cell(t, "%.1f",
			(double)(grown(p, before, "requests", NULL, "read_bytes") +
				 grown(p, before, "requests", NULL, "written_bytes")) /
				s / 1048576);
		table_cell(t, "%" PRIu64, number(part(p, "requests", NULL), "in_flight"));
		table_cell(t, "%" PRIu64, number(part(p, "requests", NULL), "errors"));
		for (unsigned n = 0; n < 4; n++)
			all += hits[n] = grown(p, before, "pages", "hits", tiers[n]);
		for (unsigned n = 0; n < 4; n++)
			if (all)
				table_cell(t, "%.1f%%", 100.0 * (double)hits[n] / (double)all);
			else
				table_cell(t, "-");
	}
	table_print(t);
	printf("\n");
}

static void latencies_show(const struct sample *is)
{
	static const char *const headings[] = {"latency p50/p99", ">local read", ">remote read",
		">disk read", ">unwritten", ">write", ">discard", NULL};
	static const char *const keys[] = {
		"read_local", "read_remote", "read_disk", "read_none", "write", "discard"};
	struct table *t = table_new(headings);
	char a[24], b[24];
	const json_t *p;
	size_t i;

	json_array_foreach(json_object_get(is->disks, "disks"), i, p)
	{
		table_cell(t, "%s", text(p, "name"));
		for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
			const json_t *h = part(p, "latency", keys[k]);

			if (number(h, "count"))
				table_cell(t, "%s / %s", time_text(number(h, "p50_ns"), a),
					time_text(number(h, "p99_ns"), b));
			else
				table_cell(t, "-");
		}
	}
	table_print(t);
	printf("\n");
}

/* Shares are of the accounts that have any pages: the others' fall to them. */
static void accounts_show(const struct sample *is)
{
	static const char *const headings[] = {"account", ">weight", ">share", ">local tier",
		">of share", ">pages", ">quota", "", NULL};
	const json_t *list = json_object_get(is->clients, "accounts"), *p;
	double total = (double)number(json_object_get(is->capacity, "local"), "total_bytes");
	struct table *t = table_new(headings);
	uint64_t weights = 0;
	char a[24], b[24];
	size_t i;

	json_array_foreach(list, i, p) weights += number(p, "pages") ? number(p, "weight") : 0;
	json_array_foreach(list, i, p)
	{
		uint64_t quota = number(p, "quota_pages"), pages = number(p, "pages");
		double share = pages && weights ? (double)number(p, "weight") / (double)weights : 0;
		double local = (double)number(p, "local_bytes"), of = share * total;

		if (!pages)
			continue;
		table_cell(t, "%s", text(p, "name"));
		table_cell(t, "%" PRIu64, number(p, "weight"));
		table_cell(t, "%s", size_text((uint64_t)of, a));
		table_cell(t, "%s", size_text(number(p, "local_bytes"), b));
		table_cell(t, "%.0f%%", of > 0 ? 100 * local / of : 0.0);
		table_cell(t, "%" PRIu64, pages);
		if (quota)
			table_cell(t, "%.0f%%", 100.0 * (double)pages / (double)quota);
		else
			table_cell(t, "-");
		table_cell(t, "%s", local > of ? "over its share" : "");
	}
	table_print(t);
}

static int value_take(int argc, char **argv, int *i, const char *name, double *out)
{
	const char *value = cli_option_value(argc, argv, i, name);
	char *end;

	if (!value)
		return 0;
	*out = strtod(value, &end);
	if (end == value || *end || *out <= 0 || *out > 1e6) {
		fprintf(stderr, "fallow: %s %s is not a number above 0\n", name, value);
		return -1;
	}
	return 1;
}

int top_main(struct cli_options *o, int argc, char **argv)
{
	struct sample was = {0}, is = {0};
	double interval_s = 2, count = 0;

	for (int i = 1; i < argc; i++) {
		int r;

		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(usage_text, stdout);
			return CLI_OK;
		}
		if (cli_option_take(o, argc, argv, &i))
			continue;
		r = value_take(argc, argv, &i, "--interval", &interval_s);
		r = r ? r : value_take(argc, argv, &i, "--count", &count);
		if (r < 0)
			return CLI_USAGE;
		if (!r) {
			fprintf(stderr,
				"fallow: unexpected argument '%s'. Try 'fallow top --help'.\n",
				argv[i]);
			return CLI_USAGE;
		}
	}
	for (double n = 0; !count || n < count; n++) {
		if (n > 0)
			nanosleep(&(struct timespec){.tv_sec = (time_t)interval_s,
					  .tv_nsec =
						  (long)((interval_s - (double)(time_t)interval_s) *
							  1e9)},
				NULL);
		if (!sample_take(o, &is)) {
			sample_free(&is);
			sample_free(&was);
			return CLI_FAILED;
		}
		if (o->json) {
			json_dumpf(is.disks, stdout, JSON_COMPACT);
			printf("\n");
		} else {
			if (isatty(STDOUT_FILENO))
				printf("\033[H\033[J");
			head_show(&is);
			guests_show(&was, &is);
			latencies_show(&is);
			accounts_show(&is);
		}
		fflush(stdout);
		sample_free(&was);
		was = is;
		memset(&is, 0, sizeof(is));
	}
	sample_free(&was);
	return CLI_OK;
}
