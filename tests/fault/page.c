/* Page contents that follow from a key and a version. */
#include "tests/fault/page.h"

#include <stdio.h>
#include <string.h>

#include "tests/model/rng.h"

#define WORDS 512u
#define MAGIC 0x4641554c54504147ull

void fault_page_fill(void *page, uint64_t salt, uint64_t key, uint32_t version)
{
	struct rng r = {rng_mix(salt ^ rng_mix(key)) ^ rng_mix(version)};
	uint64_t *w = page, kind = rng_below(&r, 10);
	unsigned random = kind < 4 ? WORDS : kind < 8 ? WORDS / 2 : 16;

	if (kind == 9) { /* one word, repeated */
		uint32_t pattern = (uint32_t)rng_next(&r);

		for (unsigned i = 0; i < WORDS; i++)
			w[i] = (uint64_t)pattern << 32 | pattern;
		return;
	}
	w[0] = MAGIC;
	w[1] = key;
	w[2] = version;
	w[3] = salt;
	for (unsigned i = 4; i < WORDS; i++)
		w[i] = i < random ? rng_next(&r) : r.state;
}

int fault_page_compare(const void *page, uint64_t salt, uint64_t key, uint32_t version)
{
	uint64_t want[WORDS];

	fault_page_fill(want, salt, key, version);
	return memcmp(page, want, sizeof(want));
}

void fault_page_describe(const void *page, char *text, size_t text_bytes)
{
	uint64_t w[WORDS];

	memcpy(w, page, sizeof(w));
	if (w[0] != MAGIC) {
		snprintf(text, text_bytes, "no page of ours, or one word repeated: %016llx %016llx",
			(unsigned long long)w[0], (unsigned long long)w[1]);
		return;
	}
	int whole = !fault_page_compare(page, w[3], w[1], (uint32_t)w[2]);
	snprintf(text, text_bytes, "%s page: salt %llx, key %llu, version %llu",
		whole ? "a whole" : "a damaged", (unsigned long long)w[3], (unsigned long long)w[1],
		(unsigned long long)w[2]);
}
