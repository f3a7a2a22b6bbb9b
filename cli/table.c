/* Aligned columns, and numbers as people read them. */
#include "cli/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 16u

struct table {
	unsigned columns;
	const char *heading[COLUMNS_MAX];
	int width[COLUMNS_MAX];
	char **cell;
	size_t cells, room;
};

struct table *table_new(const char *const headings[])
{
	struct table *t = calloc(1, sizeof(*t));

	for (; t && headings[t->columns] && t->columns < COLUMNS_MAX; t->columns++) {
		t->heading[t->columns] = headings[t->columns];
		t->width[t->columns] =
			(int)strlen(headings[t->columns]) - (headings[t->columns][0] == '>');
	}
	return t;
}

void table_cell(struct table *t, const char *format, ...)
{
	va_list args;
	char *text = NULL;

	if (!t)
		return;
	va_start(args, format);
	int n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0)
		return;
	if (t->cells == t->room) {
		char **grown = realloc(t->cell, (t->room * 2 + 64) * sizeof(*grown));

		if (!grown) {
			free(text);
			return;
		}
		t->cell = grown;
		t->room = t->room * 2 + 64;
	}
	unsigned column = t->cells % t->columns;
	if (n > t->width[column])
		t->width[column] = n;
	t->cell[t->cells++] = text;
}

static void cell_print(const struct table *t, unsigned column, const char *text)
{
	int last = column + 1 == t->columns;

	if (t->heading[column][0] == '>')
		printf("%*s%s", t->width[column], text, last ? "\n" : "  ");
	else if (last)
		printf("%s\n", text);
	else
		printf("%-*s  ", t->width[column], text);
}

void table_print(struct table *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->columns; i++)
		cell_print(t, i, t->heading[i] + (t->heading[i][0] == '>'));
	for (size_t i = 0; i < t->cells; i++) {
		cell_print(t, (unsigned)(i % t->columns), t->cell[i]);
		free(t->cell[i]);
	}
	free(t->cell);
	free(t);
}

const char *size_text(uint64_t bytes, char text[24])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double v = (double)bytes;
	unsigned u = 0;

	for (; v >= 1024 && u < 5; u++)
		v /= 1024;
	if (!bytes)
		snprintf(text, 24, "0");
	else
		snprintf(text, 24, u ? "%.1f %s" : "%.0f %s", v, units[u]);
	return text;
}

const char *time_text(uint64_t ns, char text[24])
{
	if (ns < 1000)
		snprintf(text, 24, "%u ns", (unsigned)ns);
	else if (ns < 1000000)
		snprintf(text, 24, "%.1f us", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(text, 24, "%.1f ms", (double)ns / 1e6);
	else
		snprintf(text, 24, "%.2f s", (double)ns / 1e9);
	return text;
}
