/* Exact percentiles of measured times, for benches that take few enough samples to keep them all.
 */
#ifndef FALLOW_BENCH_SAMPLES_H
#define FALLOW_BENCH_SAMPLES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct samples {
	uint64_t *ns;
	size_t count, room;
};

static inline uint64_t samples_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Room for this many; the memory is touched now, not while times are taken. -1: none left. */
static inline int samples_init(struct samples *s, size_t room)
{
	s->ns = malloc(room * sizeof(*s->ns));
	s->count = 0;
	s->room = room;
	for (size_t i = 0; s->ns && i < room; i++)
		s->ns[i] = 1;
	return s->ns ? 0 : -1;
}

static inline void samples_add(struct samples *s, uint64_t ns)
{
	if (s->count < s->room)
		s->ns[s->count++] = ns;
}

static inline int samples_order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* "p50_us":..,"p99_us":..,"p999_us":..,"max_us":..,"mean_us":..,"samples":.. */
static inline void samples_print(struct samples *s)
{
	static const struct {
		const char *name;
		unsigned permille;
	} at[] = {{"p50_us", 500}, {"p99_us", 990}, {"p999_us", 999}, {"max_us", 1000}};
	double sum = 0;

	qsort(s->ns, s->count, sizeof(*s->ns), samples_order);
	for (size_t i = 0; i < s->count; i++)
		sum += (double)s->ns[i];
	for (unsigned i = 0; s->count && i < sizeof(at) / sizeof(at[0]); i++) {
		size_t n = s->count * at[i].permille / 1000;

		printf("\"%s\":%.2f,", at[i].name,
			(double)s->ns[n < s->count ? n : s->count - 1] / 1e3);
	}
	if (s->count)
		printf("\"mean_us\":%.2f,", sum / (double)s->count / 1e3);
	printf("\"samples\":%zu", s->count);
}

#endif
