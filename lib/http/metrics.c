/* Prometheus text exposition: families with HELP and TYPE, samples with labels. */
#include "lib/http/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABELS_BYTES	 1024
#define HIST_BOUND_FIRST 10 /* 2^10 ns */
#define HIST_BOUND_LAST	 34 /* 2^34 ns */

struct metrics {
	struct evbuffer *buf;
	const char *name;
	size_t labels_len;
	bool failed;
	char labels[LABELS_BYTES];
};

struct metrics *metrics_new(void)
{
	struct metrics *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->buf = evbuffer_new();
	if (!m->buf) {
		free(m);
		return NULL;
	}
	return m;
}

void metrics_family(struct metrics *m, const char *name, const char *type, const char *help)
{
	if (!m)
		return;
	m->name = name;
	if (evbuffer_add_printf(m->buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type) < 0)
		m->failed = true;
}

static void label_put(struct metrics *m, char c)
{
	if (m->labels_len + 1 < sizeof(m->labels))
		m->labels[m->labels_len++] = c;
	else
		m->failed = true;
}

void metrics_label(struct metrics *m, const char *name, const char *value)
{
	if (!m)
		return;
	if (m->labels_len)
		label_put(m, ',');
	for (; *name; name++)
		label_put(m, *name);
	label_put(m, '=');
	label_put(m, '"');
	for (; *value; value++) {
		if (*value == '\\' || *value == '"' || *value == '\n')
			label_put(m, '\\');
		label_put(m, *value == '\n' ? 'n' : *value);
	}
	label_put(m, '"');
}

/* Writes "name_suffix{labels,extra} " and leaves the labels as they are. */
static void sample_head(struct metrics *m, const char *suffix, const char *extra)
{
	bool labels = m->labels_len || extra[0];

	m->labels[m->labels_len] = '\0';
	if (evbuffer_add_printf(m->buf, "%s%s%s%s%s%s%s ", m->name, suffix, labels ? "{" : "",
		    m->labels, m->labels_len && extra[0] ? "," : "", extra, labels ? "}" : "") < 0)
		m->failed = true;
}

void metrics_sample_u64(struct metrics *m, uint64_t value)
{
	if (!m)
		return;
	sample_head(m, "", "");
	if (evbuffer_add_printf(m->buf, "%llu\n", (unsigned long long)value) < 0)
		m->failed = true;
	m->labels_len = 0;
}

void metrics_sample(struct metrics *m, double value)
{
	if (!m)
		return;
	sample_head(m, "", "");
	if (evbuffer_add_printf(m->buf, "%.15g\n", value) < 0)
		m->failed = true;
	m->labels_len = 0;
}

void metrics_sample_hist(struct metrics *m, const struct hist *h)
{
	uint64_t below = 0;
	unsigned b = 0;
	char le[48];

	if (!m)
		return;
	for (unsigned shift = HIST_BOUND_FIRST; shift <= HIST_BOUND_LAST; shift++) {
		for (; b < HIST_BUCKETS && hist_bound_ns(b) <= 1ull << shift; b++)
			below += stat_get(&h->bucket[b]);
		snprintf(le, sizeof(le), "le=\"%.9g\"", (double)(1ull << shift) / 1e9);
		sample_head(m, "_bucket", le);
		evbuffer_add_printf(m->buf, "%llu\n", (unsigned long long)below);
	}
	for (; b < HIST_BUCKETS; b++)
		below += stat_get(&h->bucket[b]);
	sample_head(m, "_bucket", "le=\"+Inf\"");
	evbuffer_add_printf(m->buf, "%llu\n", (unsigned long long)below);
	sample_head(m, "_sum", "");
	evbuffer_add_printf(m->buf, "%.9f\n", (double)stat_get(&h->sum_ns) / 1e9);
	sample_head(m, "_count", "");
	if (evbuffer_add_printf(m->buf, "%llu\n", (unsigned long long)below) < 0)
		m->failed = true;
	m->labels_len = 0;
}

void metrics_counter(struct metrics *m, const char *name, uint64_t value, const char *help)
{
	metrics_family(m, name, "counter", help);
	metrics_sample_u64(m, value);
}

void metrics_gauge(struct metrics *m, const char *name, double value, const char *help)
{
	metrics_family(m, name, "gauge", help);
	metrics_sample(m, value);
}

void metrics_reply(struct metrics *m, struct http_request *r)
{
	if (!m || m->failed)
		http_reply_error(r, 500, "out of memory");
	else
		http_reply_buffer(r, 200, "text/plain; version=0.0.4; charset=utf-8", m->buf);
	if (!m)
		return;
	evbuffer_free(m->buf);
	free(m);
}
