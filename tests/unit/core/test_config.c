/* Tests of the configuration framework with a small schema of every kind of value. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/core/config.h"

struct item {
	char name[16];
	uint16_t port;
};

struct sample {
	bool flag;
	uint32_t number;
	int32_t integer;
	uint64_t count;
	uint64_t size_bytes;
	struct config_amount amount;
	uint64_t time_ns;
	uint32_t percent;
	uint32_t mode;
	int choice;
	char text[16];
	struct {
		char path[32];
	} inner;
	uint32_t item_count;
	struct item items[3];
	uint32_t cpu_count;
	uint32_t cpus[4];
};

static const struct config_choice words[] = {{"red", 1}, {"green", 2}, {NULL, 0}};

static const struct config_field item_fields[] = {
	CONFIG_TEXT(item, "name", name, CONFIG_NAME, NULL, CONFIG_NOT_EMPTY, "Name."),
	CONFIG_VALUE(item, "port", port, CONFIG_PORT, "80", 1, 65535, "Port."),
	CONFIG_END,
};

static const struct config_field cpu_fields[] = {
	{.name = "", .type = CONFIG_NUMBER, .size = 4, .max = 99, .help = "CPU."},
	CONFIG_END,
};

static const struct config_field inner_fields[] = {
	CONFIG_TEXT(sample, "path", inner.path, CONFIG_PATH, "", CONFIG_MAY_BE_EMPTY, "Path."),
	CONFIG_END,
};

static const struct config_field fields[] = {
	CONFIG_VALUE(sample, "flag", flag, CONFIG_BOOL, "true", 0, 0, "Flag."),
	CONFIG_VALUE(sample, "number", number, CONFIG_NUMBER, "5", 1, 10, "Number."),
	CONFIG_VALUE(sample, "integer", integer, CONFIG_INTEGER, "-1", -5, 5, "Integer."),
	CONFIG_VALUE(sample, "count", count, CONFIG_COUNT, "0", 0, 0, "Count."),
	CONFIG_VALUE(sample, "size", size_bytes, CONFIG_SIZE, "64MiB", 4096, CONFIG_GIB, "Size."),
	CONFIG_VALUE(sample, "amount", amount, CONFIG_AMOUNT, "50%", 0, 0, "Amount."),
	CONFIG_VALUE(sample, "time", time_ns, CONFIG_DURATION, "250ms", 0, 10 * CONFIG_S, "Time."),
	CONFIG_VALUE(sample, "percent", percent, CONFIG_PERCENT, "20%", 0, 100, "Percent."),
	CONFIG_VALUE(sample, "mode", mode, CONFIG_MODE, "0660", 0, 0777, "Mode."),
	CONFIG_WORD(sample, "choice", choice, words, "green", "Choice."),
	CONFIG_TEXT(sample, "text", text, CONFIG_STRING, "x", CONFIG_NOT_EMPTY, "Text."),
	CONFIG_PART("inner", inner_fields, "Inner."),
	CONFIG_ARRAY(sample, "items", items, item_count, item_fields, "Items."),
	CONFIG_ARRAY(sample, "cpus", cpus, cpu_count, cpu_fields, "CPUs."),
	CONFIG_END,
};

static int check(const void *cfg, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	const struct sample *s = cfg;

	if (s->item_count == 2 && !strcmp(s->items[0].name, s->items[1].name)) {
		snprintf(path, path_bytes, "items[1].name");
		snprintf(err, err_bytes, "twice the same");
		return -EINVAL;
	}
	return 0;
}

static const struct config_schema schema = {"sample", fields, sizeof(struct sample), check};
static struct sample s;
static char err[512];

static int load(const char *text)
{
	err[0] = '\0';
	return config_load_text(&schema, "f", text, strlen(text), &s, err, sizeof(err));
}

static void defaults_hold_without_a_file(void **state)
{
	assert_int_equal(load("# nothing\n"), 0);
	assert_true(s.flag);
	assert_int_equal(s.number, 5);
	assert_int_equal(s.integer, -1);
	assert_int_equal(s.size_bytes, 64 << 20);
	assert_int_equal(s.amount.percent, 50);
	assert_int_equal(s.time_ns, 250000000);
	assert_int_equal(s.percent, 20);
	assert_int_equal(s.mode, 0660);
	assert_int_equal(s.choice, 2);
	assert_string_equal(s.text, "x");
	assert_string_equal(s.inner.path, "");
	assert_int_equal(s.item_count, 0);
	assert_int_equal(load(""), 0);
}

static void values_of_every_kind(void **state)
{
	assert_int_equal(load("flag: off\nnumber: 7\ninteger: -3\ncount: 16Mi\nsize: 1.5 MiB\n"
			      "amount: 2GiB\ntime: 2s\npercent: 33\nmode: 0600\nchoice: red\n"
			      "text: 'a \"b\"'\ninner:\n  path: /tmp\n"
			      "items:\n  - name: a\n  - {name: b, port: 443}\ncpus: [1, 3]\n"),
		0);
	assert_false(s.flag);
	assert_int_equal(s.number, 7);
	assert_int_equal(s.integer, -3);
	assert_int_equal(s.count, 16 << 20);
	assert_int_equal(s.size_bytes, 3 << 19);
	assert_int_equal(s.amount.percent, 0);
	assert_int_equal(s.amount.bytes, 2ull << 30);
	assert_int_equal(s.time_ns, 2000000000);
	assert_int_equal(s.percent, 33);
	assert_int_equal(s.mode, 0600);
	assert_int_equal(s.choice, 1);
	assert_string_equal(s.text, "a \"b\"");
	assert_string_equal(s.inner.path, "/tmp");
	assert_int_equal(s.item_count, 2);
	assert_int_equal(s.items[0].port, 80);
	assert_string_equal(s.items[1].name, "b");
	assert_int_equal(s.items[1].port, 443);
	assert_int_equal(s.cpu_count, 2);
	assert_int_equal(s.cpus[1], 3);
}

static void wrong_files_are_refused_with_their_line(void **state)
{
	static const struct {
		const char *text, *says;
	} wrong[] = {
		{"flag: true\nflug: 1\n", "f:2: unknown key \"flug\"; known here: flag, number"},
		{"inner:\n  path: /x\n  pth: /y\n", "f:3: inner: unknown key \"pth\""},
		{"number: 5\nnumber: 5\n", "f:2: number: given twice"},
		{"\nnumber: 11\n",
			"f:2: number: out of bounds: \"11\"; it takes a whole number, 1 to 10"},
		{"number: -1\n", "f:1: number: out of bounds"},
		{"number: 99999999999999999999\n", "f:1: number: out of bounds"},
		{"number: five\n", "f:1: number: cannot be \"five\""},
		{"number: 5x\n", "f:1: number: cannot be"},
		{"integer: -6\n",
			"f:1: integer: out of bounds: \"-6\"; it takes a whole number, -5 to 5"},
		{"size: 64MB\n", "f:1: size: cannot be \"64MB\"; it takes a size"},
		{"size: 2GiB\n", "4KiB to 1GiB"},
		{"size: 1\n", "f:1: size: out of bounds"},
		{"size: 99999999999TiB\n", "f:1: size: out of bounds"},
		{"size: -1MiB\n", "f:1: size: cannot be"},
		{"size: 1.MiB\n", "f:1: size: cannot be"},
		{"size: 0.5\n", "f:1: size: cannot be"},
		{"amount: 101%\n", "f:1: amount: out of bounds"},
		{"amount: 0%\n", "f:1: amount: out of bounds"},
		{"amount: half\n", "f:1: amount: cannot be"},
		{"time: 5\n", "f:1: time: cannot be \"5\"; it takes a duration"},
		{"time: 11s\n", "f:1: time: out of bounds"},
		{"percent: 101%\n", "f:1: percent: out of bounds"},
		{"percent: 2%%\n", "f:1: percent: cannot be"},
		{"mode: 0888\n", "f:1: mode: cannot be"},
		{"mode: 01777\n", "f:1: mode: out of bounds"},
		{"choice: blue\n", "f:1: choice: cannot be \"blue\"; it takes red or green"},
		{"flag: maybe\n", "f:1: flag: cannot be"},
		{"text: 0123456789abcdef\n", "f:1: text: out of bounds"},
		{"text: \"\"\n", "f:1: text: no value"},
		{"text: \"a\\nb\"\n", "f:1: text: cannot be \"a?b\""},
		{"text: \"a\\0b\"\n", "f:1: text: not a plain value"},
		{"text: [a]\n", "f:1: text: not a plain value"},
		{"number:\n", "f:1: number: no value"},
		{"inner: 5\n", "f:1: inner: needs a mapping"},
		{"inner:\n  path: tmp\n", "f:2: inner.path: cannot be \"tmp\""},
		{"items: a\n", "f:1: items: needs a list"},
		{"items:\n- name: a\n- port: 5\n", "f:3: items[1].name: missing"},
		{"items:\n- name: a\n- name: b\n  port: 0\n", "f:4: items[1].port: out of bounds"},
		{"items:\n- name: a b\n", "f:2: items[0].name: cannot be"},
		{"items:\n- name: a\n- name: b\n- name: c\n- name: d\n", "f:5: items: more than 3"},
		{"items:\n- name: a\n\n- name: a\n", "f:4: items[1].name: twice the same"},
		{"cpus: [1, 100]\n", "f:1: cpus[1]: out of bounds"},
		{"[1]: 2\n", "f:1: a key must be a word"},
		{"- a\n", "f:1: needs a mapping"},
		{"flag: true\n  b: : c\n", "f:2: not YAML"},
		{"flag: true\n\tb: 1\n", "f:2: not YAML"},
		{"flag: true\n---\nflag: false\n", "f:3: a second document"},
		{"flag: \xff\xfe\n", "f: not UTF-8 text"},
		{"text: *a\n", "f:1: not YAML"},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		if (load(wrong[i].text) != -EINVAL || !strstr(err, wrong[i].says))
			fail_msg(
				"text:\n%s\nsays: %s\nnot:  %s", wrong[i].text, err, wrong[i].says);
	}
}

static void anchors_work_and_cycles_do_no_harm(void **state)
{
	assert_int_equal(load("number: &n 7\npercent: *n\n"), 0);
	assert_int_equal(s.percent, 7);
	assert_int_not_equal(load("inner: &i\n  path: *i\n"), 0);
	assert_int_not_equal(load("items: &i\n- *i\n"), 0);
}

static void too_long_a_text_is_refused(void **state)
{
	size_t bytes = CONFIG_FILE_BYTES_MAX + 1;
	char *text = malloc(bytes);

	memset(text, '#', bytes);
	assert_int_equal(config_load_text(&schema, "f", text, bytes, &s, err, sizeof(err)), -EFBIG);
	free(text);
}

static void files_are_read(void **state)
{
	char path[] = "/tmp/fallow-config-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "number: 9\n", 10), 10);
	close(fd);
	assert_int_equal(config_load_file(&schema, path, &s, err, sizeof(err)), 0);
	assert_int_equal(s.number, 9);
	unlink(path);
	assert_int_equal(config_load_file(&schema, path, &s, err, sizeof(err)), -ENOENT);
	assert_non_null(strstr(err, path));
	assert_int_equal(config_load_file(&schema, "/tmp", &s, err, sizeof(err)), -EISDIR);
}

static void what_is_dumped_loads_again(void **state)
{
	static struct sample first;
	char *text;
	size_t bytes;

	assert_int_equal(load("size: 4097B\ntime: 1001us\ntext: 'q\"\\ # :'\nmode: 0007\n"
			      "amount: 7%\ninteger: -4\nitems: [{name: a}, {name: b, port: 1}]\n"
			      "cpus: [2]\ninner: {path: '/a b'}\n"),
		0);
	first = s;
	FILE *out = open_memstream(&text, &bytes);
	config_dump(&schema, &s, out);
	fclose(out);
	assert_int_equal(load(text), 0);
	assert_memory_equal(&first, &s, sizeof(s));
	free(text);
}

static void help_names_every_setting(void **state)
{
	char *text;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	config_help(&schema, out);
	fclose(out);
	assert_non_null(strstr(text, "inner.path\n"));
	assert_non_null(strstr(text, "items[].port\n"));
	assert_non_null(strstr(text, "cpus[]\n"));
	assert_non_null(strstr(text, "4KiB to 1GiB; default 64MiB"));
	free(text);
	out = open_memstream(&text, &bytes);
	config_man(&schema, out);
	fclose(out);
	assert_non_null(strstr(text, ".B inner.path\n"));
	free(text);
}

static void sizes_and_durations_print_exactly(void **state)
{
	static const char *const sizes[] = {"0", "1B", "1023B", "1KiB", "1025B", "3GiB", "5TiB"};
	static const char *const durations[] = {"0", "7ns", "20us", "250ms", "90s", "5min", "2h"};
	char text[32];
	uint64_t v;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(config_size_parse(sizes[i], &v), 0);
		config_size_print(v, text, sizeof(text));
		assert_string_equal(text, sizes[i]);
		assert_int_equal(config_duration_parse(durations[i], &v), 0);
		config_duration_print(v, text, sizeof(text));
		assert_string_equal(text, durations[i]);
	}
	struct config_amount half = {0, 50}, fixed = {4096, 0};
	assert_int_equal(config_amount_bytes(&half, 1000), 500);
	assert_int_equal(config_amount_bytes(&fixed, 1000), 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_hold_without_a_file),
		cmocka_unit_test(values_of_every_kind),
		cmocka_unit_test(wrong_files_are_refused_with_their_line),
		cmocka_unit_test(anchors_work_and_cycles_do_no_harm),
		cmocka_unit_test(too_long_a_text_is_refused),
		cmocka_unit_test(files_are_read),
		cmocka_unit_test(what_is_dumped_loads_again),
		cmocka_unit_test(help_names_every_setting),
		cmocka_unit_test(sizes_and_durations_print_exactly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
