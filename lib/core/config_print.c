/* Writes a configuration or its schema for people: --dump-config, --help-config, the manual page.
 */
#include "lib/core/config.h"

#include <string.h>

#define VALUE_BYTES 512
#define WRAP_COLUMN 96

static void indent(FILE *out, unsigned depth)
{
	fprintf(out, "%*s", (int)(2 * depth), "");
}

/* Words of text on lines of at most WRAP_COLUMN, each after depth steps and the prefix. */
static void wrap(FILE *out, const char *text, unsigned depth, const char *prefix)
{
	size_t start = 2 * depth + strlen(prefix), column = 0;

	for (const char *p = text; *p;) {
		size_t len = strcspn(p, " ");
		if (!column || column + 1 + len > WRAP_COLUMN) {
			if (column)
				fputc('\n', out);
			indent(out, depth);
			fprintf(out, "%s", prefix);
			column = start;
		} else {
			fputc(' ', out);
			column++;
		}
		fprintf(out, "%.*s", (int)len, p);
		column += len;
		p += len + strspn(p + len, " ");
	}
	fputc('\n', out);
}

static bool is_text(const struct config_field *f)
{
	return f->type == CONFIG_STRING || f->type == CONFIG_NAME || f->type == CONFIG_PATH ||
	       f->type == CONFIG_MODE;
}

static void dump_value(const struct config_field *f, const void *base, FILE *out)
{
	char text[VALUE_BYTES];

	config_value_print(f, base, text, sizeof(text));
	if (!is_text(f)) {
		fprintf(out, "%s", text);
		return;
	}
	fputc('"', out);
	for (const char *p = text; *p; p++) {
		if (*p == '"' || *p == '\\')
			fputc('\\', out);
		fputc(*p, out);
	}
	fputc('"', out);
}

static void dump_list(const struct config_field *f, const void *base, FILE *out, unsigned depth)
{
	uint32_t count;

	memcpy(&count, (const char *)base + f->count_offset, sizeof(count));
	if (!count) {
		fprintf(out, " []\n");
		return;
	}
	fputc('\n', out);
	for (uint32_t i = 0; i < count; i++) {
		const char *element = (const char *)base + f->offset + (size_t)i * f->size;

		indent(out, depth + 1);
		fprintf(out, "- ");
		if (!f->fields[0].name[0]) {
			dump_value(&f->fields[0], element, out);
			fputc('\n', out);
			continue;
		}
		for (const struct config_field *m = f->fields; m->name; m++) {
			if (m != f->fields)
				indent(out, depth + 2);
			fprintf(out, "%s: ", m->name);
			dump_value(m, element, out);
			fputc('\n', out);
		}
	}
}

static void dump_fields(
	const struct config_field *fields, const void *base, FILE *out, unsigned depth)
{
	for (const struct config_field *f = fields; f->name; f++) {
		if (!depth)
			fputc('\n', out);
		wrap(out, f->help, depth, "# ");
		indent(out, depth);
		fprintf(out, "%s:", f->name);
		if (f->type == CONFIG_SECTION) {
			fputc('\n', out);
			dump_fields(f->fields, (const char *)base + f->offset, out, depth + 1);
		} else if (f->type == CONFIG_LIST) {
			dump_list(f, base, out, depth);
		} else {
			fputc(' ', out);
			dump_value(f, base, out);
			fputc('\n', out);
		}
	}
}

void config_dump(const struct config_schema *schema, const void *cfg, FILE *out)
{
	fprintf(out, "# Configuration of %s.\n", schema->name);
	dump_fields(schema->fields, cfg, out, 0);
}

static void default_of(const struct config_field *f, char *text, size_t text_bytes)
{
	if (!f->standard)
		snprintf(text, text_bytes, "must be given");
	else if (!f->standard[0])
		snprintf(text, text_bytes, "default empty");
	else
		snprintf(text, text_bytes, "default %s", f->standard);
}

static bool is_plain_list(const struct config_field *f)
{
	return f->type == CONFIG_LIST && !f->fields[0].name[0];
}

/* Calls one of the two printers for every setting, with its full path. */
static void walk(const struct config_field *fields, const char *parent, FILE *out,
	void (*print)(const struct config_field *f, const char *path, const char *what, FILE *out))
{
	char path[160], what[640], takes[384], standard[128];

	for (const struct config_field *f = fields; f->name; f++) {
		snprintf(path, sizeof(path), "%s%s%s%s", parent, parent[0] ? "." : "", f->name,
			f->type == CONFIG_LIST ? "[]" : "");
		if (f->type == CONFIG_SECTION || (f->type == CONFIG_LIST && !is_plain_list(f))) {
			snprintf(what, sizeof(what), "%s",
				f->type == CONFIG_LIST ? "a list of sections" : "a section");
			print(f, path, what, out);
			walk(f->fields, path, out, print);
			continue;
		}
		config_value_describe(is_plain_list(f) ? &f->fields[0] : f, takes, sizeof(takes));
		default_of(f, standard, sizeof(standard));
		snprintf(what, sizeof(what), "%s; %s", takes,
			f->type == CONFIG_LIST ? "default empty" : standard);
		print(f, path, what, out);
	}
}

static void print_help(const struct config_field *f, const char *path, const char *what, FILE *out)
{
	fprintf(out, "%s\n", path);
	wrap(out, f->help, 2, "");
	wrap(out, what, 2, "");
}

void config_help(const struct config_schema *schema, FILE *out)
{
	walk(schema->fields, "", out, print_help);
}

/* A line for man(7): '\', '-' and a leading '.' mean something there. */
static void man_text(const char *text, FILE *out)
{
	if (*text == '.' || *text == '\'')
		fprintf(out, "\\&");
	for (; *text; text++) {
		if (*text == '\\')
			fprintf(out, "\\e");
		else if (*text == '-')
			fprintf(out, "\\-");
		else
			fputc(*text, out);
	}
	fputc('\n', out);
}

static void print_man(const struct config_field *f, const char *path, const char *what, FILE *out)
{
	fprintf(out, ".TP\n.B ");
	man_text(path, out);
	man_text(f->help, out);
	fprintf(out, ".br\n");
	man_text(what, out);
}

void config_man(const struct config_schema *schema, FILE *out)
{
	walk(schema->fields, "", out, print_man);
}
