/* Prometheus text exposition: families with HELP and TYPE, samples with labels. */
#ifndef FALLOW_HTTP_METRICS_H
#define FALLOW_HTTP_METRICS_H

#include <stdint.h>

#include "lib/core/stats.h"
#include "lib/http/http.h"

/*
 * Between metrics_new() and metrics_reply(): metrics_family(), then its samples. Running out of
 *memory is remembered and makes the reply a 500. Control thread.
 *
 *	struct metrics *m = metrics_new();
 *	metrics_family(m, "fallow_gets_total", "counter", "Gets, by where the page was.");
 *	metrics_label(m, "tier", "local");
 *	metrics_sample_u64(m, n);
 *	metrics_reply(m, r);
 */
struct metrics;

struct metrics *metrics_new(void); /* NULL: no memory; all functions allow it */
/* type: "counter", "gauge" or "histogram". help: one line. name and help must stay until the reply.
 */
void metrics_family(struct metrics *m, const char *name, const char *type, const char *help);
/* A label of the next sample only; at most 8. The value is escaped. */
void metrics_label(struct metrics *m, const char *name, const char *value);
void metrics_sample_u64(struct metrics *m, uint64_t value);
void metrics_sample(struct metrics *m, double value);
/* One histogram in seconds with bounds at powers of two from about 1 us to 17 s, in place of a
 * sample. */
void metrics_sample_hist(struct metrics *m, const struct hist *h);
/* A family with one sample and no labels. */
void metrics_counter(struct metrics *m, const char *name, uint64_t value, const char *help);
void metrics_gauge(struct metrics *m, const char *name, double value, const char *help);
/* Replies and frees m. */
void metrics_reply(struct metrics *m, struct http_request *r);

#endif
