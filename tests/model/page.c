/* Page contents that follow from a key and a version, so that a test knows what every get must
 * return. */
#include "tests/model/page.h"

#include <string.h>

#include "tests/model/rng.h"

#define WORDS (ENGINE_PAGE_BYTES / 8)

static void fill_random(uint64_t *w, unsigned n, struct rng *r)
{
	for (unsigned i = 0; i < n; i++)
		w[i] = rng_next(r);
}

/* Runs of a few words, about 4 to 1 for LZ4. */
static void fill_runs(uint64_t *w, unsigned n, struct rng *r)
{
	for (unsigned i = 0; i < n;) {
		uint64_t v = rng_next(r);
		unsigned run = 4 + (unsigned)(v >> 58) % 12;

		for (; run && i < n; run--)
			w[i++] = v;
	}
}

void page_fill(void *page, const struct engine_key *key, uint32_t version)
{
	struct rng r = {rng_mix(key->oid[0] + 3 * key->oid[1] + 7 * key->oid[2]) ^
			rng_mix((uint64_t)key->pool << 32 | key->index) ^
			rng_mix(0x5851f42d4c957f2dull + version)};
	uint64_t w[WORDS];

	switch (rng_below(&r, 10)) {
	case 0: {
		uint32_t pattern = (uint32_t)rng_next(&r);
		uint64_t both = (uint64_t)pattern << 32 | pattern;

		for (unsigned i = 0; i < WORDS; i++)
			w[i] = both;
		break;
	}
	case 1:
	case 2:
		fill_random(w, WORDS, &r);
		break;
	case 3:
	case 4:
		fill_random(w, WORDS / 2, &r);
		fill_runs(w + WORDS / 2, WORDS / 2, &r);
		break;
	case 5:
		/* All alike but for one word. */
		memset(w, 0, sizeof(w));
		w[rng_below(&r, WORDS)] = rng_next(&r);
		break;
	default:
		fill_runs(w, WORDS, &r);
	}
	memcpy(page, w, sizeof(w));
}

int page_compare(const void *page, const struct engine_key *key, uint32_t version)
{
	uint64_t w[WORDS];

	page_fill(w, key, version);
	return memcmp(page, w, sizeof(w));
}
