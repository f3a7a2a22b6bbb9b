/* Adding up the memory server's counters. */
#ifndef FALLOW_TRANSPORT_SERVER_STATS_H
#define FALLOW_TRANSPORT_SERVER_STATS_H

#include "lib/transport/server.h"

/* The struct is nothing but stat_t. */
static inline void server_stats_merge(
	struct transport_server_stats *dst, const struct transport_server_stats *src)
{
	stat_t *d = (stat_t *)dst;
	const stat_t *s = (const stat_t *)src;
	for (size_t i = 0; i < sizeof *dst / sizeof(stat_t); i++)
		stat_add(&d[i], stat_get(&s[i]));
}

#endif
