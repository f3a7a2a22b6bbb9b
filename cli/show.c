/* The commands that print what the daemon says: status, capacity, pools, clients, donors. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

/* The answer, or NULL when there is nothing left to print; *code is the exit code then. */
static json_t *ask(const struct cli_options *o, const char *path, int *code)
{
	json_t *json = http_get_json(o->http, path);

	*code = json ? CLI_OK : CLI_FAILED;
	if (json && o->json) {
		json_dumpf(json, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(json);
		return NULL;
	}
	return json;
}

static void show_traffic(const json_t *status)
{
	const json_t *t = json_object_get(status, "traffic");
	char put[24], stored[24], written[24], got[24];

	printf("put %s  stored %s  ratio %.2f  written to donors %s  read from donors %s\n\n",
		size_text(number(t, "put_bytes"), put),
		size_text(number(t, "stored_bytes"), stored), real(t, "compression_ratio"),
		size_text(number(t, "wire_written_bytes"), written),
		size_text(number(t, "wire_read_bytes"), got));
}

static void show_latency(const json_t *status)
{
	static const char *const headings[] = {
		"latency", ">count", ">p50", ">p90", ">p99", ">p99.9", ">max", NULL};
	static const struct {
		const char *key, *label;
	} rows[] = {{"put", "put"}, {"get_local", "local get"}, {"get_remote", "remote get"}};
	static const char *const columns[] = {"p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"};
	struct table *t = table_new(headings);
	char ns[24];

	for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		const json_t *h = json_object_get(json_object_get(status, "latency"), rows[r].key);

		table_cell(t, "%s", rows[r].label);
		table_cell(t, "%" PRIu64, number(h, "count"));
		for (size_t c = 0; c < sizeof(columns) / sizeof(columns[0]); c++)
			table_cell(t, "%s", time_text(number(h, columns[c]), ns));
	}
	table_print(t);
	printf("\n");
}

int show_status(const struct cli_options *o)
{
	static const char *const headings[] = {"lane", ">pages", ">puts", ">refused", ">local gets",
		">remote gets", ">misses", ">lost", ">spilled", ">remote p50", ">p99", NULL};
	char a[32], b[24], c[24];
	const json_t *lane;
	size_t i;
	int code;
	json_t *s = ask(o, "/v1/status", &code);

	if (!s)
		return code;
	printf("%s  fallowd %s  pid %" PRIu64 "  up %s\n", text(s, "name"), text(s, "version"),
		number(s, "pid"), duration(real(s, "uptime_s"), a));
	printf("socket %s  sessions %" PRIu64 "  pools %" PRIu64 "\n", text(s, "socket"),
		number(s, "sessions"), number(s, "pools"));
	printf("donors %" PRIu64 " of %" PRIu64 " up  segments with missing copies %" PRIu64 "\n\n",
		number(s, "donors_up"), number(s, "donors"), number(s, "segments_underreplicated"));
	show_traffic(s);
	show_latency(s);
	struct table *t = table_new(headings);
	json_array_foreach(json_object_get(s, "lanes"), i, lane)
	{
		table_cell(t, "%" PRIu64, number(lane, "lane"));
		table_cell(t, "%" PRIu64, number(lane, "pages"));
		table_cell(t, "%" PRIu64, number(lane, "puts"));
		table_cell(t, "%" PRIu64, number(lane, "puts_refused"));
		table_cell(t, "%" PRIu64, number(lane, "gets_local"));
		table_cell(t, "%" PRIu64, number(lane, "gets_remote"));
		table_cell(t, "%" PRIu64, number(lane, "gets_miss"));
		table_cell(t, "%" PRIu64, number(lane, "gets_lost"));
		table_cell(t, "%" PRIu64, number(lane, "segments_spilled"));
		table_cell(t, "%s", time_text(number(lane, "get_remote_p50_ns"), b));
		table_cell(t, "%s", time_text(number(lane, "get_remote_p99_ns"), c));
	}
	table_print(t);
	json_decref(s);
	return CLI_OK;
}

static void tier_row(
	struct table *t, const char *name, uint64_t total, uint64_t used, uint64_t limit)
{
	char a[24], b[24], c[24];

	table_cell(t, "%s", name);
	table_cell(t, "%s", size_text(total, a));
	table_cell(t, "%s", size_text(used, b));
	table_cell(t, "%.0f%%", total ? 100.0 * (double)used / (double)total : 0.0);
	table_cell(t, "%s", limit ? size_text(limit, c) : "-");
}

int show_capacity(const struct cli_options *o)
{
	static const char *const headings[] = {"tier", ">size", ">used", ">share", ">limit", NULL};
	char a[24], b[24];
	int code;
	json_t *s = ask(o, "/v1/capacity", &code);

	if (!s)
		return code;
	const json_t *local = json_object_get(s, "local"), *remote = json_object_get(s, "remote");
	const json_t *disk = json_object_get(s, "disk"), *memory = json_object_get(s, "memory");
	uint64_t pages = number(s, "pages");
	struct table *t = table_new(headings);
	tier_row(t, "local", number(local, "total_bytes"), number(local, "used_bytes"), 0);
	tier_row(t, "remote", number(remote, "leased_bytes"), number(remote, "used_bytes"),
		number(remote, "max_bytes"));
	tier_row(t, "disk", number(disk, "total_bytes"), number(disk, "used_bytes"), 0);
	table_print(t);
	printf("\npages        %" PRIu64 " of %" PRIu64 " (%s of clients' data, %" PRIu64
	       " of them same-filled)\n",
		pages, number(s, "max_pages"), size_text(number(s, "page_bytes"), a),
		number(s, "pages_same_filled"));
	printf("stored       %s alive, compressed %.2f to 1\n",
		size_text(number(s, "live_bytes"), a), real(s, "compression_ratio"));
	printf("ephemeral    %s on donors, free as soon as others need it\n",
		size_text(number(remote, "ephemeral_bytes"), a));
	printf("own memory   %s index, %s tables\n", size_text(number(memory, "index_bytes"), a),
		size_text(number(memory, "table_bytes"), b));
	json_decref(s);
	return CLI_OK;
}

int show_pools(const struct cli_options *o)
{
	static const char *const headings[] = {">id", "name", "owner", "account", "kind", "sharing",
		"codec", ">copies", "disk", ">pages", ">data", NULL};
	char a[24];
	const json_t *p;
	size_t i;
	int code;
	json_t *s = ask(o, "/v1/pools", &code);

	if (!s)
		return code;
	struct table *t = table_new(headings);
	json_array_foreach(json_object_get(s, "pools"), i, p)
	{
		bool persistent = yes(p, "persistent");

		table_cell(t, "%" PRIu64, number(p, "id"));
		table_cell(t, "%s", text(p, "name"));
		table_cell(t, "%s", text(p, "owner"));
		table_cell(t, "%s", text(p, "account"));
		table_cell(t, "%s", persistent ? "persistent" : "ephemeral");
		table_cell(t, "%s", yes(p, "shared") ? "shared" : "private");
		table_cell(t, "%s", text(p, "codec"));
		if (persistent)
			table_cell(t, "%" PRIu64, number(p, "copies"));
		else
			table_cell(t, "%s", yes(p, "spill") ? "spills" : "-");
		table_cell(t, "%s", text(p, "disk"));
		table_cell(t, "%" PRIu64, number(p, "pages"));
		table_cell(t, "%s", size_text(number(p, "pages") * 4096, a));
	}
	table_print(t);
	json_decref(s);
	return CLI_OK;
}

int show_clients(const struct cli_options *o)
{
	static const char *const sessions[] = {">session", "identity", "account", "program", ">pid",
		">pools", ">requests", ">memory", ">up", NULL};
	static const char *const accounts[] = {
		"account", ">weight", ">pages", ">data", ">local tier", ">quota", NULL};
	char a[24], b[24], c[32];
	const json_t *p;
	size_t i;
	int code;
	json_t *s = ask(o, "/v1/clients", &code);

	if (!s)
		return code;
	struct table *t = table_new(sessions);
	json_array_foreach(json_object_get(s, "sessions"), i, p)
	{
		table_cell(t, "%" PRIu64, number(p, "id"));
		table_cell(t, "%s", text(p, "identity"));
		table_cell(t, "%s", text(p, "account"));
		table_cell(t, "%s", text(p, "program"));
		table_cell(t, "%" PRIu64, number(p, "pid"));
		table_cell(t, "%" PRIu64, number(p, "pools"));
		table_cell(t, "%" PRIu64, number(p, "requests"));
		table_cell(t, "%s", size_text(number(p, "memory_bytes"), a));
		table_cell(t, "%s", duration(real(p, "since_s"), c));
	}
	table_print(t);
	printf("\n");
	t = table_new(accounts);
	json_array_foreach(json_object_get(s, "accounts"), i, p)
	{
		const json_t *quota = json_object_get(p, "quota_pages");

		table_cell(t, "%s", text(p, "name"));
		table_cell(t, "%" PRIu64, number(p, "weight"));
		table_cell(t, "%" PRIu64, number(p, "pages"));
		table_cell(t, "%s", size_text(number(p, "pages") * 4096, a));
		table_cell(t, "%s", size_text(number(p, "local_bytes"), b));
		if (json_is_integer(quota))
			table_cell(t, "%s", size_text(number(p, "quota_pages") * 4096, a));
		else
			table_cell(t, "-");
	}
	table_print(t);
	json_decref(s);
	return CLI_OK;
}

int show_donors(const struct cli_options *o)
{
	static const char *const headings[] = {"donor", "address", "state", "transport", ">leased",
		">live", ">donor free", ">segments", ">rtt", ">bad data", ">lost regions", "why",
		NULL};
	char a[24], b[24], c[24];
	const json_t *p;
	size_t i;
	int code;
	json_t *s = ask(o, "/v1/donors", &code);

	if (!s)
		return code;
	struct table *t = table_new(headings);
	json_array_foreach(json_object_get(s, "donors"), i, p)
	{
		const json_t *rtt = json_object_get(p, "rtt_ns");

		table_cell(t, "%s", text(p, "name"));
		table_cell(t, "%s:%" PRIu64, text(p, "host"), number(p, "port"));
		table_cell(t, "%s%s", text(p, "phase"), yes(p, "draining") ? ", draining" : "");
		table_cell(t, "%s", text(p, "transport"));
		table_cell(t, "%s", size_text(number(p, "leased_bytes"), a));
		table_cell(t, "%s", size_text(number(p, "live_bytes"), b));
		table_cell(t, "%s", size_text(number(p, "donor_free_bytes"), c));
		table_cell(t, "%" PRIu64, number(p, "segments"));
		table_cell(t, "%s", json_is_integer(rtt) ? time_text(number(p, "rtt_ns"), a) : "-");
		table_cell(t, "%" PRIu64, number(p, "bad_data"));
		table_cell(t, "%" PRIu64, number(p, "lost_regions"));
		table_cell(t, "%s", text(p, "why"));
	}
	table_print(t);
	json_decref(s);
	return CLI_OK;
}
