/* The settings of one disk as JSON, by the schema of the configuration. */
#include "client-backend/disk_settings.h"

#include <errno.h>
#include <string.h>

static const struct config_field *field_of(const char *key)
{
	for (const struct config_field *f = fallowd_disk_schema.fields; f->name; f++)
		if (!strcmp(f->name, key))
			return f;
	return NULL;
}

static bool is_other(const char *const other[], const char *key)
{
	for (; *other; other++)
		if (!strcmp(*other, key))
			return true;
	return false;
}

static int value_read(const struct config_field *f, const json_t *value,
	struct fallowd_disk_config *out, char *err, size_t err_bytes)
{
	char text[32], what[256];

	if (json_is_integer(value))
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
	else if (json_is_boolean(value))
		snprintf(text, sizeof(text), json_is_true(value) ? "true" : "false");
	else if (!json_is_string(value)) {
		snprintf(err, err_bytes, "%s: not a string, number or boolean", f->name);
		return -EINVAL;
	}
	if (!config_value_parse(f, json_is_string(value) ? json_string_value(value) : text, out,
		    what, sizeof(what)))
		return 0;
	snprintf(err, err_bytes, "%s: %s", f->name, what);
	return -EINVAL;
}

int disk_settings_read(const json_t *from, const char *const other[],
	struct fallowd_disk_config *out, char *err, size_t err_bytes)
{
	char path[64], what[256];
	const char *key;
	json_t *value;

	config_defaults(&fallowd_disk_schema, out);
	if (!json_is_object(from)) {
		snprintf(err, err_bytes, "a disk's settings must be an object");
		return -EINVAL;
	}
	json_object_foreach((json_t *)from, key, value)
	{
		const struct config_field *f = field_of(key);

		if (!f && is_other(other, key))
			continue;
		if (!f) {
			snprintf(err, err_bytes, "there is no setting \"%.40s\"", key);
			return -EINVAL;
		}
		int r = value_read(f, value, out, err, err_bytes);
		if (r < 0)
			return r;
	}
	if (fallowd_disk_schema.check(out, path, sizeof(path), what, sizeof(what)) < 0) {
		snprintf(err, err_bytes, "%s: %s", path, what);
		return -EINVAL;
	}
	return 0;
}

json_t *disk_settings_write(const struct fallowd_disk_config *c)
{
	json_t *o = json_object();
	char text[512];

	for (const struct config_field *f = fallowd_disk_schema.fields; f->name; f++) {
		config_value_print(f, c, text, sizeof(text));
		json_object_set_new(o, f->name, json_string(text));
	}
	return o;
}
