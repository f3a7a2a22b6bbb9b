/* Page contents that follow from a key and a version, and say so when one is found at the wrong
 * place. */
#ifndef FALLOW_FAULT_PAGE_H
#define FALLOW_FAULT_PAGE_H

#include <stddef.h>
#include <stdint.h>

/* Fills a page of 4096 bytes: some are one word repeated, some do not compress, the others do. */
void fault_page_fill(void *page, uint64_t salt, uint64_t key, uint32_t version);
/* 0: that is it. */
int fault_page_compare(const void *page, uint64_t salt, uint64_t key, uint32_t version);
/* Says what the page seems to be. */
void fault_page_describe(const void *page, char *text, size_t text_bytes);

#endif
