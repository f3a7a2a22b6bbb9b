/* Configuration from one schema: the YAML parser, the checks, --dump-config, --help and the man
 * text. */
#ifndef FALLOW_CORE_CONFIG_H
#define FALLOW_CORE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * A program describes its settings once, as a table of struct config_field over a plain struct that
 * needs no freeing: strings are arrays, lists are arrays with a count. The table yields all else.
 * Everything here is for the start of a program: it may block and allocate.
 */
enum config_type {
	CONFIG_BOOL,	 /* bool; true, false, yes, no, on, off */
	CONFIG_NUMBER,	 /* uint32_t; min..max */
	CONFIG_PORT,	 /* uint16_t; min..max */
	CONFIG_INTEGER,	 /* int32_t; min..max, read as int64_t */
	CONFIG_COUNT,	 /* uint64_t; min..max; 16M is not understood, 16777216 and 16Mi are */
	CONFIG_SIZE,	 /* uint64_t bytes; "4096", "64MiB", "1.5GiB" */
	CONFIG_AMOUNT,	 /* struct config_amount; a size, or a percentage of a machine's memory */
	CONFIG_DURATION, /* uint64_t nanoseconds; "20us", "250ms", "10s", "5min", "1h"; a bare 0 */
	CONFIG_PERCENT,	 /* uint32_t whole percent; "20%" or "20" */
	CONFIG_MODE,	 /* uint32_t; octal permission bits, "0660" */
	CONFIG_CHOICE,	 /* int (or an enum); one word of .choices */
	CONFIG_STRING,	 /* char[]; .size bytes with the NUL; printable */
	CONFIG_NAME,	 /* char[]; letters, digits, '.', '_', '-' */
	CONFIG_PATH,	 /* char[]; absolute */
	CONFIG_SECTION,	 /* .fields at .offset */
	CONFIG_LIST, /* an array of .size byte elements at .offset, at most .max, their number in
		      * the uint32_t at .count_offset; an element is a section of .fields, or, when
		      * .fields[0].name is "", one value */
};

struct config_amount {
	uint64_t bytes;	  /* when percent is 0 */
	uint32_t percent; /* 1..100 of all memory */
};

struct config_choice {
	const char *word; /* NULL ends the list */
	int value;
};

struct config_field {
	const char *name; /* NULL ends a table */
	enum config_type type;
	size_t offset;	      /* in the struct that the table describes */
	size_t size;	      /* strings: bytes; lists: bytes of an element */
	const char *standard; /* the default as it would be written; NULL in a list's element: must
				 be given */
	uint64_t min, max;    /* both 0: any; strings: max 1 allows "" */
	const struct config_choice *choices;
	const struct config_field *fields;
	size_t count_offset;
	const char *help; /* one or two sentences, without a final newline */
};

#define CONFIG_MS  1000000ull
#define CONFIG_S   1000000000ull
#define CONFIG_KIB ((uint64_t)1 << 10)
#define CONFIG_MIB ((uint64_t)1 << 20)
#define CONFIG_GIB ((uint64_t)1 << 30)
#define CONFIG_TIB ((uint64_t)1 << 40)

enum { CONFIG_NOT_EMPTY = 0, CONFIG_MAY_BE_EMPTY = 1 }; /* for CONFIG_TEXT */

/* Lines of a table. s: the struct's name; m: its member, which also is the key. */
#define CONFIG_FIELD_(s, key, m, t, std)                                                           \
	.name = key, .type = t, .offset = offsetof(struct s, m),                                   \
	.size = sizeof(((struct s *)0)->m), .standard = std
#define CONFIG_VALUE(s, key, m, t, std, lo, hi, text)                                              \
	{                                                                                          \
		CONFIG_FIELD_(s, key, m, t, std), .min = (uint64_t)(lo), .max = (uint64_t)(hi),    \
						  .help = text                                     \
	}
#define CONFIG_TEXT(s, key, m, t, std, empty, text)                                                \
	{                                                                                          \
		CONFIG_FIELD_(s, key, m, t, std), .max = (empty), .help = text                     \
	}
#define CONFIG_WORD(s, key, m, words, std, text)                                                   \
	{                                                                                          \
		CONFIG_FIELD_(s, key, m, CONFIG_CHOICE, std), .choices = words, .help = text       \
	}
#define CONFIG_GROUP(s, key, m, table, text)                                                       \
	{                                                                                          \
		CONFIG_FIELD_(s, key, m, CONFIG_SECTION, NULL), .fields = table, .help = text      \
	}
/* A section whose members lie in the struct of the table above it, under their own offsets. */
#define CONFIG_PART(key, table, text)                                                              \
	{                                                                                          \
		.name = key, .type = CONFIG_SECTION, .fields = table, .help = text                 \
	}
#define CONFIG_ARRAY(s, key, m, count, table, text)                                                \
	{                                                                                          \
		.name = key, .type = CONFIG_LIST, .offset = offsetof(struct s, m),                 \
		.size = sizeof(((struct s *)0)->m[0]),                                             \
		.max = sizeof(((struct s *)0)->m) / sizeof(((struct s *)0)->m[0]),                 \
		.count_offset = offsetof(struct s, count), .fields = table, .help = text           \
	}
#define CONFIG_END                                                                                 \
	{                                                                                          \
		.name = NULL                                                                       \
	}

struct config_schema {
	const char *name; /* of the program */
	const struct config_field *fields;
	size_t size; /* of the struct */
	/*
	 * Rules between settings; NULL for none. 0, or -EINVAL with the key's path in path (for
	 * example "donors[2].name") and a sentence in err.
	 */
	int (*check)(const void *cfg, char *path, size_t path_bytes, char *err, size_t err_bytes);
};

#define CONFIG_FILE_BYTES_MAX (1u << 20)

/* cfg: schema->size bytes, overwritten with the defaults. Asserts that the defaults are valid. */
void config_defaults(const struct config_schema *schema, void *cfg);
/*
 * Defaults, then what the YAML file sets. On failure err holds "FILE:LINE: PATH: what is wrong" and
 * cfg is undefined. -EINVAL bad content; -EFBIG; or the errno of reading the file.
 */
int config_load_file(const struct config_schema *schema, const char *file, void *cfg, char *err,
	size_t err_bytes);
/* The same for text in memory; file is the name for messages. */
int config_load_text(const struct config_schema *schema, const char *file, const char *text,
	size_t text_bytes, void *cfg, char *err, size_t err_bytes);

/* Everything that is set, as YAML that loads to the same values. */
void config_dump(const struct config_schema *schema, const void *cfg, FILE *out);
/* Every setting with its kind, bounds, default and help; for --help-config. */
void config_help(const struct config_schema *schema, FILE *out);
/* The same as the body of a manual page's section (man(7) macros). */
void config_man(const struct config_schema *schema, FILE *out);

/* Bytes that an amount stands for on a machine with total_bytes of memory. */
uint64_t config_amount_bytes(const struct config_amount *a, uint64_t total_bytes);

/*
 * One value from text into the struct, and back. -EINVAL with a sentence in err. Used by the
 * parser; also for values on a command line.
 */
int config_value_parse(
	const struct config_field *f, const char *text, void *cfg, char *err, size_t err_bytes);
void config_value_print(
	const struct config_field *f, const void *cfg, char *text, size_t text_bytes);
/* "size, 4KiB to 1TiB": what a setting takes. */
void config_value_describe(const struct config_field *f, char *text, size_t text_bytes);
/* "64MiB" for 67108864; "67108865B" when no unit divides it. */
void config_size_print(uint64_t bytes, char *text, size_t text_bytes);
int config_size_parse(const char *text, uint64_t *bytes);
/* "250ms" for 250000000. */
void config_duration_print(uint64_t ns, char *text, size_t text_bytes);
int config_duration_parse(const char *text, uint64_t *ns);

#endif
