/* Page contents that follow from a key and a version, so that a test knows what every get must
 * return. */
#ifndef FALLOW_TEST_PAGE_H
#define FALLOW_TEST_PAGE_H

#include <stdint.h>

#include "client-backend/engine/engine.h"

/* Fills page (ENGINE_PAGE_BYTES): same-filled, compressible, half and half, or incompressible;
 * which one follows from key and version too. */
void page_fill(void *page, const struct engine_key *key, uint32_t version);
/* 0 when page is what page_fill() makes. */
int page_compare(const void *page, const struct engine_key *key, uint32_t version);

#endif
