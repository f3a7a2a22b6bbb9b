/* Quantiles and merging of latency histograms. */
#include "lib/core/stats.h"

uint64_t hist_quantile_ns(const struct hist *h, double q)
{
	uint64_t total = 0;

	/* The writer may be at work: the buckets, not count, say how many there are. */
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		total += stat_get(&h->bucket[b]);
	if (!total)
		return 0;
	if (!(q > 0))
		q = 0;
	if (q > 1)
		q = 1;
	uint64_t rank = (uint64_t)(q * (double)total);
	if ((double)rank < q * (double)total)
		rank++;
	if (!rank)
		rank = 1;
	uint64_t max_ns = stat_get(&h->max_ns), seen = 0;
	for (unsigned b = 0; b < HIST_BUCKETS; b++) {
		seen += stat_get(&h->bucket[b]);
		if (seen < rank)
			continue;
		uint64_t bound = hist_bound_ns(b) - 1;
		return b == HIST_BUCKETS - 1 || bound > max_ns ? max_ns : bound;
	}
	return max_ns;
}

void hist_merge(struct hist *dst, const struct hist *src)
{
	stat_add(&dst->count, stat_get(&src->count));
	stat_add(&dst->sum_ns, stat_get(&src->sum_ns));
	if (stat_get(&src->max_ns) > stat_get(&dst->max_ns))
		stat_set(&dst->max_ns, stat_get(&src->max_ns));
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		stat_add(&dst->bucket[b], stat_get(&src->bucket[b]));
}
