/* Counters and latency histograms with one writer thread and any number of readers. */
#ifndef FALLOW_CORE_STATS_H
#define FALLOW_CORE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t stat_t; /* the one typedef: a counter that other threads may read */

/* Only the owner thread writes, so a relaxed load and store is enough and costs no locked cycle. */
static inline void stat_add(stat_t *s, uint64_t n)
{
	atomic_store_explicit(
		s, atomic_load_explicit(s, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline void stat_sub(stat_t *s, uint64_t n)
{
	atomic_store_explicit(
		s, atomic_load_explicit(s, memory_order_relaxed) - n, memory_order_relaxed);
}

static inline void stat_set(stat_t *s, uint64_t n)
{
	atomic_store_explicit(s, n, memory_order_relaxed);
}

static inline uint64_t stat_get(const stat_t *s)
{
	return atomic_load_explicit((stat_t *)s, memory_order_relaxed);
}

/*
 * Log-linear histogram of nanoseconds: 8 buckets for each power of two (12.5 % resolution), values
 * from 0 to 2^40 ns; larger ones fall into the last bucket.
 */
#define HIST_SUB_BITS 3
#define HIST_BUCKETS  ((40 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	stat_t count;
	stat_t sum_ns;
	stat_t max_ns;
	stat_t bucket[HIST_BUCKETS];
};

static inline unsigned hist_bucket(uint64_t ns)
{
	if (ns < (1u << HIST_SUB_BITS))
		return (unsigned)ns;
	unsigned msb = 63u - (unsigned)__builtin_clzll(ns);
	unsigned b = ((msb - HIST_SUB_BITS + 1) << HIST_SUB_BITS) +
		     (unsigned)((ns >> (msb - HIST_SUB_BITS)) & ((1u << HIST_SUB_BITS) - 1));
	return b < HIST_BUCKETS ? b : HIST_BUCKETS - 1;
}

/* Upper bound of a bucket in nanoseconds (exclusive). */
static inline uint64_t hist_bound_ns(unsigned bucket)
{
	if (bucket < (1u << HIST_SUB_BITS))
		return bucket + 1;
	unsigned shift = (bucket >> HIST_SUB_BITS) - 1;
	uint64_t sub = bucket & ((1u << HIST_SUB_BITS) - 1);
	return ((1ull << HIST_SUB_BITS) + sub + 1) << shift;
}

static inline void hist_record(struct hist *h, uint64_t ns)
{
	stat_add(&h->count, 1);
	stat_add(&h->sum_ns, ns);
	if (ns > stat_get(&h->max_ns))
		stat_set(&h->max_ns, ns);
	stat_add(&h->bucket[hist_bucket(ns)], 1);
}

/* The value in nanoseconds that a fraction q (0..1) of the records do not exceed; 0 when empty. */
uint64_t hist_quantile_ns(const struct hist *h, double q);
/* Adds src to dst; dst has no other writer. */
void hist_merge(struct hist *dst, const struct hist *src);

#endif
