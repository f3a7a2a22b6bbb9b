/* Reads a YAML file along a schema, and says for whatever is wrong where it stands. */
#include "lib/core/config.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#define PATH_BYTES 192

/* libyaml's document keeps the place of every node, which libcyaml does not tell for keys. */
struct reader {
	yaml_document_t document;
	const char *file;
	char *err;
	size_t err_bytes;
};

static int read_section(struct reader *r, const struct config_field *fields, yaml_node_t *node,
	const char *path, void *base);

/* "file:line: path: ..."; without the parts that are unknown (line 0, path ""). */
__attribute__((format(printf, 4, 5))) static int fail(
	struct reader *r, size_t line, const char *path, const char *format, ...)
{
	char what[512], place[24] = "";
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (line)
		snprintf(place, sizeof(place), ":%zu", line);
	snprintf(r->err, r->err_bytes, "%s%s: %s%s%s", r->file, place, path, path[0] ? ": " : "",
		what);
	for (char *p = r->err; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	}
	return -EINVAL;
}

static size_t line_of(const yaml_node_t *node)
{
	return node->start_mark.line + 1;
}

static void path_add(char *path, size_t path_bytes, const char *parent, const char *key)
{
	snprintf(path, path_bytes, "%s%s%.64s", parent, parent[0] ? "." : "", key);
}

/* The text of a scalar, or NULL when it is none or holds a NUL. */
static const char *scalar_text(const yaml_node_t *node)
{
	if (node->type != YAML_SCALAR_NODE)
		return NULL;
	const char *text = (const char *)node->data.scalar.value;
	return strlen(text) == node->data.scalar.length ? text : NULL;
}

static void set_defaults(const struct config_field *fields, void *base)
{
	char err[256];

	for (const struct config_field *f = fields; f->name; f++) {
		if (f->type == CONFIG_SECTION) {
			set_defaults(f->fields, (char *)base + f->offset);
		} else if (f->type != CONFIG_LIST && f->standard) {
			int error = config_value_parse(f, f->standard, base, err, sizeof(err));
			assert(!error);
			(void)error;
		}
	}
}

void config_defaults(const struct config_schema *schema, void *cfg)
{
	memset(cfg, 0, schema->size);
	set_defaults(schema->fields, cfg);
}

static int read_value(struct reader *r, const struct config_field *f, yaml_node_t *node,
	const char *path, void *base)
{
	char what[400];
	const char *text = scalar_text(node);

	if (!text || (!text[0] && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)) {
		config_value_describe(f, what, sizeof(what));
		return fail(r, line_of(node), path, "%s; it takes %s",
			text ? "no value" : "not a plain value", what);
	}
	if (config_value_parse(f, text, base, what, sizeof(what)))
		return fail(r, line_of(node), path, "%s", what);
	return 0;
}

static int read_element(struct reader *r, const struct config_field *list, yaml_node_t *node,
	const char *path, void *element)
{
	if (!list->fields[0].name[0])
		return read_value(r, &list->fields[0], node, path, element);
	set_defaults(list->fields, element);
	return read_section(r, list->fields, node, path, element);
}

static int read_list(struct reader *r, const struct config_field *f, yaml_node_t *node,
	const char *path, void *base)
{
	char element_path[PATH_BYTES];
	uint32_t count = 0;

	if (node->type != YAML_SEQUENCE_NODE)
		return fail(r, line_of(node), path, "needs a list (lines that start with \"- \")");
	for (yaml_node_item_t *item = node->data.sequence.items.start;
		item < node->data.sequence.items.top; item++) {
		yaml_node_t *entry = yaml_document_get_node(&r->document, *item);

		if (count == f->max)
			return fail(r, line_of(entry), path, "more than %llu entries",
				(unsigned long long)f->max);
		snprintf(element_path, sizeof(element_path), "%.160s[%u]", path, count);
		int error = read_element(r, f, entry, element_path,
			(char *)base + f->offset + (size_t)count * f->size);
		if (error)
			return error;
		count++;
	}
	memcpy((char *)base + f->count_offset, &count, sizeof(count));
	return 0;
}

static int read_field(struct reader *r, const struct config_field *f, yaml_node_t *node,
	const char *path, void *base)
{
	switch (f->type) {
	case CONFIG_SECTION:
		return read_section(r, f->fields, node, path, (char *)base + f->offset);
	case CONFIG_LIST:
		return read_list(r, f, node, path, base);
	default:
		return read_value(r, f, node, path, base);
	}
}

/* What the key is called that a wrong one may have meant: all keys of the section. */
static void list_keys(const struct config_field *fields, char *text, size_t text_bytes)
{
	size_t len = 0;

	text[0] = '\0';
	for (const struct config_field *f = fields; f->name && len < text_bytes; f++)
		len += (size_t)snprintf(
			text + len, text_bytes - len, "%s%s", f == fields ? "" : ", ", f->name);
}

static int unknown_key(struct reader *r, const struct config_field *fields, const yaml_node_t *key,
	const char *path)
{
	const char *name = scalar_text(key);
	char known[384];

	list_keys(fields, known, sizeof(known));
	if (!name)
		return fail(r, line_of(key), path, "a key must be a word, one of: %s", known);
	return fail(r, line_of(key), path, "unknown key \"%.64s\"; known here: %s", name, known);
}

static int read_section(struct reader *r, const struct config_field *fields, yaml_node_t *node,
	const char *path, void *base)
{
	uint64_t seen = 0; /* bit i: fields[i] */
	char field_path[PATH_BYTES];

	if (node->type != YAML_MAPPING_NODE)
		return fail(r, line_of(node), path, "needs a mapping (lines of \"key: value\")");
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
		pair < node->data.mapping.pairs.top; pair++) {
		yaml_node_t *key = yaml_document_get_node(&r->document, pair->key);
		const char *name = scalar_text(key);
		unsigned i = 0;

		while (name && fields[i].name && strcmp(fields[i].name, name) != 0)
			i++;
		if (!name || !fields[i].name)
			return unknown_key(r, fields, key, path);
		assert(i < 64);
		path_add(field_path, sizeof(field_path), path, name);
		if (seen & (uint64_t)1 << i)
			return fail(r, line_of(key), field_path, "given twice");
		seen |= (uint64_t)1 << i;
		int error = read_field(r, &fields[i],
			yaml_document_get_node(&r->document, pair->value), field_path, base);
		if (error)
			return error;
	}
	for (unsigned i = 0; fields[i].name; i++) {
		const struct config_field *f = &fields[i];
		bool needed = f->type != CONFIG_SECTION && f->type != CONFIG_LIST && !f->standard;

		if (needed && !(seen & (uint64_t)1 << i)) {
			path_add(field_path, sizeof(field_path), path, f->name);
			return fail(r, line_of(node), field_path, "missing; it must be given");
		}
	}
	return 0;
}

static yaml_node_t *mapping_find(
	struct reader *r, const yaml_node_t *node, const char *name, size_t name_len, size_t *line)
{
	if (node->type != YAML_MAPPING_NODE)
		return NULL;
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
		pair < node->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(&r->document, pair->key);
		const char *text = scalar_text(key);

		if (text && strlen(text) == name_len && !memcmp(text, name, name_len)) {
			*line = line_of(key);
			return yaml_document_get_node(&r->document, pair->value);
		}
	}
	return NULL;
}

/* The line of a path like "donors[2].name", or of the nearest section around it that the file has.
 */
static size_t line_of_path(struct reader *r, yaml_node_t *node, const char *path)
{
	size_t line = 0;

	while (node && *path) {
		if (*path == '[') {
			char *end;
			unsigned long i = strtoul(path + 1, &end, 10);
			if (node->type != YAML_SEQUENCE_NODE ||
				i >= (size_t)(node->data.sequence.items.top -
					      node->data.sequence.items.start))
				break;
			node = yaml_document_get_node(
				&r->document, node->data.sequence.items.start[i]);
			line = line_of(node);
			path = *end ? end + 1 : end;
		} else {
			size_t len = strcspn(path, ".[");
			node = mapping_find(r, node, path, len, &line);
			path += len;
		}
		if (*path == '.')
			path++;
	}
	return line;
}

static int read_document(struct reader *r, const struct config_schema *schema, void *cfg)
{
	yaml_node_t *root = yaml_document_get_root_node(&r->document);
	char path[PATH_BYTES] = "", err[400] = "";
	int error = 0;

	if (root) /* an empty file sets nothing */
		error = read_section(r, schema->fields, root, "", cfg);
	if (!error && schema->check && schema->check(cfg, path, sizeof(path), err, sizeof(err)))
		error = fail(r, root ? line_of_path(r, root, path) : 0, path, "%s", err);
	return error;
}

static int parser_fail(struct reader *r, const yaml_parser_t *parser)
{
	if (parser->error == YAML_MEMORY_ERROR) {
		fail(r, 0, "", "out of memory");
		return -ENOMEM;
	}
	if (parser->error == YAML_READER_ERROR)
		return fail(r, 0, "", "not UTF-8 text: %s at byte %zu", parser->problem,
			parser->problem_offset);
	return fail(r, parser->problem_mark.line + 1, "", "not YAML: %s",
		parser->problem ? parser->problem : "unknown error");
}

int config_load_text(const struct config_schema *schema, const char *file, const char *text,
	size_t text_bytes, void *cfg, char *err, size_t err_bytes)
{
	struct reader r = {.file = file, .err = err, .err_bytes = err_bytes};
	yaml_document_t second;
	yaml_parser_t parser;
	int error;

	config_defaults(schema, cfg);
	if (text_bytes > CONFIG_FILE_BYTES_MAX) {
		fail(&r, 0, "", "longer than %u bytes", CONFIG_FILE_BYTES_MAX);
		return -EFBIG;
	}
	if (!yaml_parser_initialize(&parser)) {
		fail(&r, 0, "", "out of memory");
		return -ENOMEM;
	}
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, text_bytes);
	if (!yaml_parser_load(&parser, &r.document)) {
		error = parser_fail(&r, &parser);
		goto out_parser;
	}
	error = read_document(&r, schema, cfg);
	if (!error && yaml_document_get_root_node(&r.document)) {
		if (!yaml_parser_load(&parser, &second)) {
			error = parser_fail(&r, &parser);
		} else {
			yaml_node_t *root = yaml_document_get_root_node(&second);
			if (root)
				error = fail(&r, line_of(root), "", "a second document");
			yaml_document_delete(&second);
		}
	}
	yaml_document_delete(&r.document);
out_parser:
	yaml_parser_delete(&parser);
	return error;
}

/* Reads a whole file; *out is the caller's to free. */
static int read_file(struct reader *r, char **out, size_t *out_bytes)
{
	FILE *f = fopen(r->file, "re");
	struct stat st;
	int error = 0;

	if (!f) {
		error = -errno;
		fail(r, 0, "", "cannot be opened: %s", strerror(-error));
		return error;
	}
	if (!fstat(fileno(f), &st) && S_ISDIR(st.st_mode)) {
		fail(r, 0, "", "is a directory");
		fclose(f);
		return -EISDIR;
	}
	*out = malloc(CONFIG_FILE_BYTES_MAX + 1);
	if (*out) {
		*out_bytes = fread(*out, 1, CONFIG_FILE_BYTES_MAX + 1, f);
		if (ferror(f)) {
			error = -EIO;
			fail(r, 0, "", "cannot be read");
			free(*out);
		}
	} else {
		error = -ENOMEM;
		fail(r, 0, "", "out of memory");
	}
	fclose(f);
	return error;
}

int config_load_file(const struct config_schema *schema, const char *file, void *cfg, char *err,
	size_t err_bytes)
{
	struct reader r = {.file = file, .err = err, .err_bytes = err_bytes};
	char *text = NULL;
	size_t text_bytes = 0;
	int error = read_file(&r, &text, &text_bytes);

	if (error)
		return error;
	error = config_load_text(schema, file, text, text_bytes, cfg, err, err_bytes);
	free(text);
	return error;
}
