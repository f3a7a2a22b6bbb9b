/* Aligned columns, and numbers as people read them. */
#ifndef FALLOW_CLI_TABLE_H
#define FALLOW_CLI_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table;

/* Headings end with NULL; one that starts with '>' aligns its column to the right. NULL: no memory.
 */
struct table *table_new(const char *const headings[]);
/* Cells in order, row after row; printf-like, copied. */
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints to stdout and frees. */
void table_print(struct table *t);

/* "1.5 GiB"; "0" for 0. Returns text. */
const char *size_text(uint64_t bytes, char text[24]);
/* "12.3 us". */
const char *time_text(uint64_t ns, char text[24]);

#endif
