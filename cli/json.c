/* Members of the daemon's answers, and times as people read them. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"

uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s && s[0] ? s : "-";
}

double real(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

bool yes(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

const char *duration(double s, char out[32])
{
	unsigned long t = (unsigned long)s;

	if (t >= 86400)
		snprintf(out, 32, "%lud %02lu:%02lu", t / 86400, t / 3600 % 24, t / 60 % 60);
	else
		snprintf(out, 32, "%02lu:%02lu:%02lu", t / 3600, t / 60 % 60, t % 60);
	return out;
}

const char *guest_text(const json_t *guest, char out[32])
{
	const json_t *connections = json_object_get(guest, "connections");

	if (!yes(guest, "connected"))
		snprintf(out, 32, "-");
	else if (connections)
		snprintf(out, 32, "%zu conn%s", json_array_size(connections),
			json_array_size(connections) == 1 ? "" : "s");
	else
		snprintf(out, 32, "pid %" PRIu64 "%s", number(guest, "pid"),
			number(guest, "pinned_bytes") ? " pinned" : "");
	return out;
}
