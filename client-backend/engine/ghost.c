/* A bounded memory of page names: which were here a short while ago. */
#include <stdlib.h>

#include "client-backend/engine/impl.h"

/*
 * Sets of eight fingerprints, each with the newest first: a new one pushes the oldest of its set
 * out. It lives as long as the process. A wrong hit treats a page better than it deserves, nothing
 * else.
 */
#define GHOST_WAYS 8u
#define GHOST_SETS 64u /* at least */

int ghost_init(struct ghost *g, uint64_t pages)
{
	for (g->sets = GHOST_SETS; g->sets * GHOST_WAYS < pages;)
		g->sets *= 2;
	g->print = calloc(g->sets, GHOST_WAYS * sizeof(*g->print));
	return g->print ? 0 : -1;
}

void ghost_fini(struct ghost *g)
{
	free(g->print);
}

uint64_t ghost_bytes(const struct ghost *g)
{
	return g->sets * GHOST_WAYS * sizeof(*g->print);
}

static uint32_t *ghost_set(const struct ghost *g, const struct engine_key *k, uint32_t *print)
{
	uint64_t h = XXH3_64bits(k, sizeof(*k));

	*print = (uint32_t)(h >> 32) | 1u; /* 0 is nobody's */
	return &g->print[(h & (g->sets - 1)) * GHOST_WAYS];
}

void ghost_add(struct ghost *g, const struct engine_key *k)
{
	uint32_t print, *set = ghost_set(g, k, &print);

	memmove(set + 1, set, (GHOST_WAYS - 1) * sizeof(*set));
	set[0] = print;
}

bool ghost_has(const struct ghost *g, const struct engine_key *k)
{
	uint32_t print, *set = ghost_set(g, k, &print);

	for (unsigned i = 0; i < GHOST_WAYS; i++)
		if (set[i] == print)
			return true;
	return false;
}
