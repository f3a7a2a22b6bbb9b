/* Single values of a configuration: from text into the struct, back, and what a setting takes. */
#include "lib/core/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *word;
	uint64_t factor;
};

static const struct unit size_units[] = {
	{"TiB", CONFIG_TIB},
	{"GiB", CONFIG_GIB},
	{"MiB", CONFIG_MIB},
	{"KiB", CONFIG_KIB},
	{"B", 1},
};

static const struct unit duration_units[] = {
	{"h", 3600 * CONFIG_S},
	{"min", 60 * CONFIG_S},
	{"s", CONFIG_S},
	{"ms", CONFIG_MS},
	{"us", 1000},
	{"ns", 1},
};

static const struct unit count_units[] = {
	{"Ti", CONFIG_TIB},
	{"Gi", CONFIG_GIB},
	{"Mi", CONFIG_MIB},
	{"Ki", CONFIG_KIB},
};

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* Digits, at most 9 of them after a point, then a unit after optional blanks. bare: factor of a
 * number without one; 0: only 0 may stand without. */
static int parse_with_unit(
	const char *text, const struct unit *units, size_t unit_count, uint64_t bare, uint64_t *out)
{
	uint64_t whole = 0, fraction = 0, scale = 1;
	const char *p = text;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
			__builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return -ERANGE;
	}
	if (*p == '.') {
		if (!isdigit((unsigned char)*++p))
			return -EINVAL;
		for (; isdigit((unsigned char)*p); p++) {
			if (scale == 1000000000)
				return -EINVAL;
			fraction = fraction * 10 + (uint64_t)(*p - '0');
			scale *= 10;
		}
	}
	while (*p == ' ')
		p++;
	uint64_t factor = 0;
	if (!*p)
		factor = bare ? bare : !whole && !fraction;
	for (size_t i = 0; i < unit_count && !factor; i++) {
		if (!strcmp(p, units[i].word))
			factor = units[i].factor;
	}
	if (!factor || (scale > 1 && factor == 1))
		return -EINVAL;
	uint64_t part = (uint64_t)((unsigned __int128)fraction * factor / scale);
	if (__builtin_mul_overflow(whole, factor, out) || __builtin_add_overflow(*out, part, out))
		return -ERANGE;
	return 0;
}

/* The largest unit that divides the value. */
static void print_with_unit(
	uint64_t value, const struct unit *units, size_t unit_count, char *text, size_t text_bytes)
{
	if (!value) {
		snprintf(text, text_bytes, "0");
		return;
	}
	for (size_t i = 0; i < unit_count; i++) {
		if (value % units[i].factor)
			continue;
		snprintf(text, text_bytes, "%llu%s", (unsigned long long)(value / units[i].factor),
			units[i].word);
		return;
	}
	snprintf(text, text_bytes, "%llu", (unsigned long long)value);
}

int config_size_parse(const char *text, uint64_t *bytes)
{
	return parse_with_unit(text, size_units, COUNT_OF(size_units), 1, bytes);
}

int config_duration_parse(const char *text, uint64_t *ns)
{
	return parse_with_unit(text, duration_units, COUNT_OF(duration_units), 0, ns);
}

void config_size_print(uint64_t bytes, char *text, size_t text_bytes)
{
	print_with_unit(bytes, size_units, COUNT_OF(size_units), text, text_bytes);
}

void config_duration_print(uint64_t ns, char *text, size_t text_bytes)
{
	print_with_unit(ns, duration_units, COUNT_OF(duration_units), text, text_bytes);
}

uint64_t config_amount_bytes(const struct config_amount *a, uint64_t total_bytes)
{
	if (!a->percent)
		return a->bytes;
	return (uint64_t)((unsigned __int128)total_bytes * a->percent / 100);
}

static int parse_percent(const char *text, bool sign_needed, uint64_t *percent)
{
	char digits[8];
	size_t len = strlen(text);
	char *end;

	if (len && text[len - 1] == '%')
		len--;
	else if (sign_needed)
		return -EINVAL;
	if (!len || len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, len);
	digits[len] = '\0';
	if (!isdigit((unsigned char)digits[0]))
		return -EINVAL;
	*percent = strtoul(digits, &end, 10);
	return *end ? -EINVAL : 0;
}

static int parse_bool(const char *text, bool *out)
{
	static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {
									"false", "no", "off"};

	for (size_t i = 0; i < COUNT_OF(yes); i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*out = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_integer(const char *text, int64_t *out)
{
	char *end;

	if (!isdigit((unsigned char)text[text[0] == '-']))
		return -EINVAL;
	errno = 0;
	*out = strtoll(text, &end, 10);
	if (*end)
		return -EINVAL;
	return errno ? -ERANGE : 0;
}

static bool in_bounds(const struct config_field *f, uint64_t value)
{
	if (f->type == CONFIG_NUMBER && value > UINT32_MAX)
		return false;
	if (!f->min && !f->max)
		return f->type != CONFIG_PORT || value <= UINT16_MAX;
	if (f->type == CONFIG_INTEGER)
		return (int64_t)value >= (int64_t)f->min && (int64_t)value <= (int64_t)f->max;
	return value >= f->min && value <= f->max;
}

/* How a bound is written. */
static void print_number(
	const struct config_field *f, uint64_t value, char *text, size_t text_bytes)
{
	switch (f->type) {
	case CONFIG_SIZE:
		config_size_print(value, text, text_bytes);
		break;
	case CONFIG_DURATION:
		config_duration_print(value, text, text_bytes);
		break;
	case CONFIG_PERCENT:
		snprintf(text, text_bytes, "%llu%%", (unsigned long long)value);
		break;
	case CONFIG_MODE:
		snprintf(text, text_bytes, "%04llo", (unsigned long long)value);
		break;
	case CONFIG_INTEGER:
		snprintf(text, text_bytes, "%lld", (long long)value);
		break;
	default:
		snprintf(text, text_bytes, "%llu", (unsigned long long)value);
	}
}

static const char *kind_of(const struct config_field *f)
{
	switch (f->type) {
	case CONFIG_BOOL:
		return "true or false";
	case CONFIG_NUMBER:
	case CONFIG_PORT:
	case CONFIG_INTEGER:
		return "a whole number";
	case CONFIG_COUNT:
		return "a count (like 1048576 or 1Mi)";
	case CONFIG_SIZE:
		return "a size (B, KiB, MiB, GiB or TiB)";
	case CONFIG_AMOUNT:
		return "a size (B, KiB, MiB, GiB or TiB) or a percentage of RAM";
	case CONFIG_DURATION:
		return "a duration (ns, us, ms, s, min or h)";
	case CONFIG_PERCENT:
		return "a whole percentage";
	case CONFIG_MODE:
		return "octal permission bits";
	case CONFIG_CHOICE:
		return "one word";
	case CONFIG_STRING:
		return "text";
	case CONFIG_NAME:
		return "a name of letters, digits, '.', '_' and '-'";
	case CONFIG_PATH:
		return "an absolute path";
	case CONFIG_SECTION:
		return "a mapping";
	case CONFIG_LIST:
		return "a list";
	}
	return "";
}

static void list_choices(const struct config_choice *choices, char *text, size_t text_bytes)
{
	size_t len = 0;

	text[0] = '\0';
	for (const struct config_choice *c = choices; c->word && len < text_bytes; c++)
		len += (size_t)snprintf(text + len, text_bytes - len, "%s%s",
			c == choices	? ""
			: (c + 1)->word ? ", "
					: " or ",
			c->word);
}

void config_value_describe(const struct config_field *f, char *text, size_t text_bytes)
{
	char low[48], high[48];

	if (f->type == CONFIG_CHOICE) {
		list_choices(f->choices, text, text_bytes);
		return;
	}
	bool text_kind =
		f->type == CONFIG_STRING || f->type == CONFIG_NAME || f->type == CONFIG_PATH;
	if (text_kind) {
		snprintf(text, text_bytes, "%s, at most %zu bytes%s", kind_of(f), f->size - 1,
			f->max ? ", or empty" : "");
	} else if (f->type == CONFIG_LIST) {
		snprintf(text, text_bytes, "a list, at most %llu entries",
			(unsigned long long)f->max);
	} else if (f->min || f->max) {
		print_number(f, f->min, low, sizeof(low));
		print_number(f, f->max, high, sizeof(high));
		snprintf(text, text_bytes, "%s, %s to %s", kind_of(f), low, high);
	} else {
		snprintf(text, text_bytes, "%s", kind_of(f));
	}
}

static int parse_number(const struct config_field *f, const char *text, uint64_t *value)
{
	int64_t integer = 0;
	int error;

	switch (f->type) {
	case CONFIG_SIZE:
		return config_size_parse(text, value);
	case CONFIG_DURATION:
		return config_duration_parse(text, value);
	case CONFIG_COUNT:
		return parse_with_unit(text, count_units, COUNT_OF(count_units), 1, value);
	case CONFIG_PERCENT:
		return parse_percent(text, false, value);
	case CONFIG_MODE:
		if (!text[0] || strlen(text) > 6 || strspn(text, "01234567") != strlen(text))
			return -EINVAL;
		*value = strtoul(text, NULL, 8);
		return 0;
	case CONFIG_INTEGER:
		error = parse_integer(text, &integer);
		*value = (uint64_t)integer;
		return error;
	default: /* CONFIG_NUMBER, CONFIG_PORT */
		error = parse_integer(text, &integer);
		*value = (uint64_t)integer;
		return error ? error : integer < 0 ? -ERANGE : 0;
	}
}

static void store_number(const struct config_field *f, uint64_t value, void *at)
{
	uint32_t u32 = (uint32_t)value;
	uint16_t u16 = (uint16_t)value;
	int32_t i32 = (int32_t)(int64_t)value;

	if (f->type == CONFIG_PORT)
		memcpy(at, &u16, sizeof(u16));
	else if (f->type == CONFIG_INTEGER)
		memcpy(at, &i32, sizeof(i32));
	else if (f->type == CONFIG_NUMBER || f->type == CONFIG_PERCENT || f->type == CONFIG_MODE)
		memcpy(at, &u32, sizeof(u32));
	else
		memcpy(at, &value, sizeof(value));
}

static uint64_t load_number(const struct config_field *f, const void *at)
{
	uint64_t u64;
	uint32_t u32;
	uint16_t u16;
	int32_t i32;

	if (f->type == CONFIG_PORT)
		return memcpy(&u16, at, sizeof(u16)), u16;
	if (f->type == CONFIG_INTEGER)
		return memcpy(&i32, at, sizeof(i32)), (uint64_t)(int64_t)i32;
	if (f->type == CONFIG_NUMBER || f->type == CONFIG_PERCENT || f->type == CONFIG_MODE)
		return memcpy(&u32, at, sizeof(u32)), u32;
	return memcpy(&u64, at, sizeof(u64)), u64;
}

static int parse_choice(const struct config_field *f, const char *text, void *at)
{
	for (const struct config_choice *c = f->choices; c->word; c++) {
		if (!strcmp(c->word, text)) {
			memcpy(at, &c->value, sizeof(c->value));
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_amount(const char *text, void *at)
{
	struct config_amount a;
	uint64_t percent;
	int error = 0;

	memset(&a, 0, sizeof(a)); /* with the padding: settings are compared as bytes */
	if (!parse_percent(text, true, &percent)) {
		if (percent < 1 || percent > 100)
			return -ERANGE;
		a.percent = (uint32_t)percent;
	} else {
		error = config_size_parse(text, &a.bytes);
	}
	memcpy(at, &a, sizeof(a));
	return error;
}

static int parse_text(const struct config_field *f, const char *text, char *at)
{
	size_t len = strlen(text);

	if (len >= f->size)
		return -ERANGE;
	if (!len && !f->max)
		return -EINVAL;
	if (f->type == CONFIG_PATH && len && text[0] != '/')
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c < 0x20 || c == 0x7f)
			return -EINVAL;
		if (f->type == CONFIG_NAME && !(c < 0x80 && isalnum(c)) && !strchr("._-", c))
			return -EINVAL;
	}
	memset(at, 0, f->size);
	memcpy(at, text, len);
	return 0;
}

int config_value_parse(
	const struct config_field *f, const char *text, void *cfg, char *err, size_t err_bytes)
{
	char *at = (char *)cfg + f->offset;
	char takes[256];
	uint64_t value;
	bool flag = false;
	int error;

	switch (f->type) {
	case CONFIG_SECTION:
	case CONFIG_LIST:
		error = -EINVAL;
		break;
	case CONFIG_BOOL:
		error = parse_bool(text, &flag);
		if (!error)
			memcpy(at, &flag, sizeof(flag));
		break;
	case CONFIG_CHOICE:
		error = parse_choice(f, text, at);
		break;
	case CONFIG_AMOUNT:
		error = parse_amount(text, at);
		break;
	case CONFIG_STRING:
	case CONFIG_NAME:
	case CONFIG_PATH:
		error = parse_text(f, text, at);
		break;
	default:
		error = parse_number(f, text, &value);
		if (!error && !in_bounds(f, value))
			error = -ERANGE;
		if (!error)
			store_number(f, value, at);
	}
	if (!error)
		return 0;
	config_value_describe(f, takes, sizeof(takes));
	if (!text[0])
		snprintf(err, err_bytes, "no value; it takes %s", takes);
	else
		snprintf(err, err_bytes, "%s \"%.64s\"; it takes %s",
			error == -ERANGE ? "out of bounds:" : "cannot be", text, takes);
	return -EINVAL;
}

void config_value_print(
	const struct config_field *f, const void *cfg, char *text, size_t text_bytes)
{
	const char *at = (const char *)cfg + f->offset;
	struct config_amount amount;
	int value;
	bool flag;

	text[0] = '\0';
	switch (f->type) {
	case CONFIG_SECTION:
	case CONFIG_LIST:
		break;
	case CONFIG_BOOL:
		memcpy(&flag, at, sizeof(flag));
		snprintf(text, text_bytes, "%s", flag ? "true" : "false");
		break;
	case CONFIG_CHOICE:
		memcpy(&value, at, sizeof(value));
		for (const struct config_choice *c = f->choices; c->word; c++) {
			if (c->value == value)
				snprintf(text, text_bytes, "%s", c->word);
		}
		break;
	case CONFIG_AMOUNT:
		memcpy(&amount, at, sizeof(amount));
		if (amount.percent)
			snprintf(text, text_bytes, "%u%%", amount.percent);
		else
			config_size_print(amount.bytes, text, text_bytes);
		break;
	case CONFIG_STRING:
	case CONFIG_NAME:
	case CONFIG_PATH:
		snprintf(text, text_bytes, "%s", at);
		break;
	default:
		print_number(f, load_number(f, at), text, text_bytes);
	}
}
