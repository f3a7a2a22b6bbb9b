/* Guests' disks over HTTP: what there are and how they do, adding and removing; and their metrics.
 */
#include <errno.h>
#include <string.h>

#include "client-backend/daemon.h"
#include "client-backend/disk_service.h"
#include "client-backend/disk_settings.h"
#include "lib/http/metrics.h"

#define ONE_PATH "/v1/disks/"

/* Counters summed over the lanes. */
#define BLK_SUM(d, b, member)                                                                      \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (d)->lanes; i_++)                                       \
			sum_ += stat_get(&blk_stats(b, i_)->member);                               \
		sum_;                                                                              \
	})
#define CACHED_SUM(d, c, member)                                                                   \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (d)->lanes; i_++)                                       \
			sum_ += stat_get(&disk_cached_stats(c, i_)->member);                       \
		sum_;                                                                              \
	})
#define SWAP_SUM(d, s, member)                                                                     \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (d)->lanes; i_++)                                       \
			sum_ += stat_get(&disk_swap_stats(s, i_)->member);                         \
		sum_;                                                                              \
	})

static void put(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static void put_text(json_t *o, const char *key, const char *text)
{
	json_t *s = json_string(text);

	json_object_set_new(o, key, s ? s : json_string("(not UTF-8)"));
}

static void hist_sum(
	struct daemon *d, const struct blk *b, size_t offset, struct hist *out /* zeroed here */)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < d->lanes; i++)
		hist_merge(out, (const struct hist *)(const void *)((const char *)blk_stats(b, i) +
								    offset));
}

static json_t *latency_json(const struct hist *h)
{
	json_t *o = json_object();

	put(o, "count", stat_get(&h->count));
	put(o, "p50_ns", hist_quantile_ns(h, 0.5));
	put(o, "p99_ns", hist_quantile_ns(h, 0.99));
	put(o, "max_ns", stat_get(&h->max_ns));
	return o;
}

static void latencies_put(struct daemon *d, const struct blk *b, json_t *o)
{
	static struct hist h; /* control thread; large */
	json_t *all = json_object();
	char key[32];

	for (unsigned t = 0; t < BLK_TIERS; t++) {
		hist_sum(d, b, offsetof(struct blk_stats, read_ns) + t * sizeof(struct hist), &h);
		snprintf(key, sizeof(key), "read_%s", blk_tier_name((enum blk_tier)t));
		json_object_set_new(all, key, latency_json(&h));
	}
	hist_sum(d, b, offsetof(struct blk_stats, write_ns), &h);
	json_object_set_new(all, "write", latency_json(&h));
	hist_sum(d, b, offsetof(struct blk_stats, zero_ns), &h);
	json_object_set_new(all, "discard", latency_json(&h));
	hist_sum(d, b, offsetof(struct blk_stats, flush_ns), &h);
	json_object_set_new(all, "flush", latency_json(&h));
	json_object_set_new(o, "latency", all);
}

static void requests_put(struct daemon *d, const struct blk *b, json_t *o)
{
	json_t *io = json_object(), *refused = json_object();

	put(io, "reads", BLK_SUM(d, b, reads));
	put(io, "writes", BLK_SUM(d, b, writes));
	put(io, "flushes", BLK_SUM(d, b, flushes));
	put(io, "discards", BLK_SUM(d, b, discards));
	put(io, "write_zeroes", BLK_SUM(d, b, write_zeroes));
	put(io, "read_bytes", BLK_SUM(d, b, bytes_read));
	put(io, "written_bytes", BLK_SUM(d, b, bytes_written));
	put(io, "discarded_bytes", BLK_SUM(d, b, bytes_zeroed));
	put(io, "errors", BLK_SUM(d, b, errors));
	put(io, "in_flight", BLK_SUM(d, b, in_flight));
	for (unsigned r = 0; r < BLK_REFUSALS; r++)
		put(refused, blk_refusal_name((enum blk_refusal)r), BLK_SUM(d, b, refused[r]));
	json_object_set_new(io, "refused", refused);
	json_object_set_new(o, "requests", io);
}

static void pages_put(struct daemon *d, const struct disk_swap *s, json_t *o)
{
	json_t *p = json_object(), *hits = json_object(), *failed = json_object();

	for (unsigned t = 0; t < BLK_TIERS; t++)
		put(hits, blk_tier_name((enum blk_tier)t), SWAP_SUM(d, s, hits[t]));
	put(p, "puts", SWAP_SUM(d, s, puts));
	put(p, "flushes", SWAP_SUM(d, s, flushes));
	put(p, "merged", SWAP_SUM(d, s, merged));
	put(failed, "lost", SWAP_SUM(d, s, failed_lost));
	put(failed, "late", SWAP_SUM(d, s, failed_late));
	put(failed, "room", SWAP_SUM(d, s, failed_room));
	put(failed, "other", SWAP_SUM(d, s, failed_other));
	put(p, "lost", disk_swap_lost(s));
	json_object_set_new(p, "hits", hits);
	json_object_set_new(p, "failed", failed);
	json_object_set_new(o, "pages", p);
}

/* The names of pages.hits are those of a swap disk; "disk" is the image. */
static void cache_put(
	struct daemon *d, const struct disks_info *i, const struct disk_cached *c, json_t *o)
{
	const struct image *image = disk_cache_image(disk_cached_cache(c));
	json_t *p = json_object(), *hits = json_object(), *m = json_object();

	/* What a clone reads of its base is among them. */
	for (unsigned t = 0; t < BLK_TIERS; t++)
		put(hits, blk_tier_name((enum blk_tier)t),
			CACHED_SUM(d, c, hits[t]) +
				(disk_cached_base(c) ? CACHED_SUM(d, disk_cached_base(c), hits[t])
						     : 0));
	json_object_set_new(p, "hits", hits);
	put(p, "joined", CACHED_SUM(d, c, joined));
	put(p, "late", CACHED_SUM(d, c, late));
	put(p, "lost", CACHED_SUM(d, c, lost));
	put(p, "fills", CACHED_SUM(d, c, fills));
	put(p, "fills_refused", CACHED_SUM(d, c, refused));
	put(p, "dropped", CACHED_SUM(d, c, dropped));
	put(p, "stale_drops", i->stale_drops);
	put(p, "sharers", disk_service_sharers(i->service));
	json_object_set_new(o, "pages", p);
	json_object_set_new(m, "direct", json_boolean(image->direct));
	put(m, "reads", CACHED_SUM(d, c, image_reads));
	put(m, "writes", CACHED_SUM(d, c, image_writes));
	put(m, "flushes", CACHED_SUM(d, c, image_flushes));
	put(m, "zeroes", CACHED_SUM(d, c, image_zeroes));
	put(m, "read_bytes", CACHED_SUM(d, c, image_bytes_read));
	put(m, "written_bytes", CACHED_SUM(d, c, image_bytes_written));
	put(m, "errors", CACHED_SUM(d, c, image_errors));
	json_object_set_new(o, "image_io", m);
}

static void cached_put(struct daemon *d, const struct disks_info *i, json_t *o)
{
	const struct disk_cached *c = disk_service_cached(i->service);

	cache_put(d, i, c, o);
	if (disk_cached_base(c)) {
		json_t *b = json_object();

		cache_put(d, i, disk_cached_base(c), b);
		json_object_set_new(o, "base_cache", b);
	}
}

static void guest_put(const struct vhost_server *s, json_t *o)
{
	const struct vhost_server_stats *st = vhost_server_stats(s);
	json_t *g = json_object(), *v = json_object(), *f = json_object();
	struct vhost_server_info i;

	vhost_server_info(s, &i);
	json_object_set_new(g, "connected", json_boolean(i.connected));
	if (i.connected) {
		put(g, "pid", (uint64_t)i.pid);
		put(g, "rings", i.rings);
		put(g, "memory_bytes", i.memory_bytes);
		put(g, "pinned_bytes", i.pinned_bytes);
		json_object_set_new(g, "since_s",
			json_real((double)(env_now_ns(&env_system) - i.since_ns) / 1e9));
	}
	put(g, "front_ends", stat_get(&st->connected));
	put(g, "sessions", stat_get(&st->accepted));
	put(g, "refused_busy", stat_get(&st->refused_busy));
	for (unsigned n = VHOST_VIOLATION_NONE + 1; n < VHOST_VIOLATIONS; n++)
		put(v, vhost_violation_name((enum vhost_violation)n), stat_get(&st->violations[n]));
	for (unsigned n = VRING_FAULT_NONE + 1; n < VRING_FAULTS; n++)
		put(f, vring_fault_name((enum vring_fault)n), stat_get(&st->faults[n]));
	json_object_set_new(g, "violations", v);
	json_object_set_new(g, "ring_faults", f);
	json_object_set_new(o, "guest", g);
}

/* The same by NBD: `pid` is that of the first connection. */
static void nbd_put(const struct nbd_server *s, json_t *o)
{
	const struct nbd_server_stats *st = nbd_server_stats(s);
	json_t *g = json_object(), *v = json_object(), *list = json_array();
	struct nbd_server_client c;

	json_object_set_new(g, "connected", json_boolean(stat_get(&st->connected)));
	for (unsigned cursor = 0; nbd_server_next(s, &cursor, &c);) {
		json_t *j = json_object();

		put(j, "pid", (uint64_t)c.pid);
		put(j, "lane", c.lane);
		put(j, "requests", c.requests);
		json_object_set_new(j, "since_s",
			json_real((double)(env_now_ns(&env_system) - c.since_ns) / 1e9));
		if (!json_array_size(list))
			put(g, "pid", (uint64_t)c.pid);
		json_array_append_new(list, j);
	}
	json_object_set_new(g, "connections", list);
	put(g, "port", nbd_server_port(s));
	put(g, "sessions", stat_get(&st->accepted));
	put(g, "refused_busy", stat_get(&st->refused_busy));
	for (unsigned n = NBD_VIOLATION_NONE + 1; n < NBD_VIOLATIONS; n++)
		put(v, nbd_violation_name((enum nbd_violation)n), stat_get(&st->violations[n]));
	json_object_set_new(g, "violations", v);
	json_object_set_new(o, "guest", g);
}

static uint64_t pool_pages(struct daemon *d, uint32_t pool)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < d->lanes; i++)
		n += stat_get(&lane_usage(d->lane[i])->pool_pages[pool % ENGINE_MAX_POOLS]);
	return n;
}

static json_t *disk_json(struct daemon *d, const struct disks_info *i)
{
	json_t *o = disk_settings_write(i->config);
	const struct engine_pool_desc *p = i->pool ? pools_find(d->pools, i->pool) : NULL;
	const struct engine_account *a = p ? accounts_get(d->accounts, p->account) : NULL;

	put(o, "size_bytes", i->config->size_bytes);
	put_text(o, "state", disks_state_name(i->state));
	put_text(o, "why", i->why);
	json_object_set_new(o, "configured", json_boolean(i->configured));
	put(o, "pool", i->pool);
	put_text(o, "account", a ? a->name : i->config->account);
	put(o, "reserved_pages", i->pool ? reserves_pages(d->reserves, i->pool) : 0);
	put(o, "used_pages", p ? pool_pages(d, i->pool) : 0);
	if (!i->service)
		return o;
	requests_put(d, disk_service_blk(i->service), o);
	latencies_put(d, disk_service_blk(i->service), o);
	if (disk_service_cached(i->service))
		cached_put(d, i, o);
	else
		pages_put(d, disk_service_swap(i->service), o);
	if (disk_service_nbd(i->service))
		nbd_put(disk_service_nbd(i->service), o);
	else
		guest_put(disk_service_vhost(i->service), o);
	return o;
}

static void list_reply(struct daemon *d, struct http_request *r)
{
	json_t *o = json_object(), *list = json_array();
	struct disks_info i;

	for (unsigned cursor = 0; disks_next(d->disks, &cursor, &i);)
		json_array_append_new(list, disk_json(d, &i));
	json_object_set_new(o, "disks", list);
	http_reply_json(r, 200, o);
}

static int code_of(int status)
{
	switch (status) {
	case -EINVAL:
		return 400;
	case -EPERM:
		return 403;
	case -ENOENT:
		return 404;
	default:
		return 409;
	}
}

static void one_reply(struct daemon *d, struct http_request *r, int code, const char *name)
{
	struct disks_info i;

	if (disks_find(d->disks, name, &i))
		http_reply_json(r, code, disk_json(d, &i));
	else
		http_reply_error(r, 404, "there is no disk %.48s", name);
}

static void add(struct daemon *d, struct http_request *r)
{
	static const char *const none[] = {NULL};
	struct fallowd_disk_config c;
	char err[256];

	json_t *body = http_request_json(r, err, sizeof(err));
	int status = body ? disk_settings_read(body, none, &c, err, sizeof(err)) : -EINVAL;
	json_decref(body);
	if (!status)
		status = disks_add(d->disks, &c, err, sizeof(err));
	if (status)
		http_reply_error(r, code_of(status), "%s", err);
	else
		one_reply(d, r, 202, c.name);
}

void disks_handle(void *ctx, struct http_request *r)
{
	if (http_request_method(r) == HTTP_POST)
		add(ctx, r);
	else
		list_reply(ctx, r);
}

void disks_one_handle(void *ctx, struct http_request *r)
{
	struct daemon *d = ctx;
	const char *name = http_request_path(r) + strlen(ONE_PATH);
	const char *force = http_request_query(r, "force");
	char err[256];

	if (http_request_method(r) == HTTP_GET) {
		one_reply(d, r, 200, name);
		return;
	}
	int status = disks_remove(d->disks, name, force && !strcmp(force, "1"), err, sizeof(err));
	if (status)
		http_reply_error(r, code_of(status), "%s", err);
	else
		http_reply_json(r, 202, json_pack("{s:s, s:s}", "name", name, "state", "removing"));
}

/* ---- metrics ---- */

/* One family with a sample for each disk that is served. */
static void disk_family(struct daemon *d, struct metrics *m, const char *name, const char *type,
	const char *help, uint64_t (*value)(struct daemon *d, const struct disks_info *i))
{
	struct disks_info i;

	metrics_family(m, name, type, help);
	for (unsigned cursor = 0; disks_next(d->disks, &cursor, &i);) {
		if (!i.service)
			continue;
		metrics_label(m, "disk", i.config->name);
		metrics_sample_u64(m, value(d, &i));
	}
}

/* The same with a second label, for counters of the lanes: source 0 is virtio-blk's, 1 the
 * pages' of a swap disk, 2 those of a cached one. */
struct disk_line {
	const char *name, *label, *value, *help; /* name NULL: of the family before */
	unsigned source;
	size_t offset;
};

#define BLK_LINE(family, l, v, member, text)                                                       \
	{                                                                                          \
		family, l, v, text, 0, offsetof(struct blk_stats, member)                          \
	}
#define PAGE_LINE(family, l, v, member, text)                                                      \
	{                                                                                          \
		family, l, v, text, 1, offsetof(struct disk_swap_stats, member)                    \
	}

#define CACHE_LINE(family, l, v, member, text)                                                     \
	{                                                                                          \
		family, l, v, text, 2, offsetof(struct disk_cached_stats, member)                  \
	}

static const struct disk_line lines[] = {
	BLK_LINE("fallow_guest_disk_requests_total", "op", "read", reads, "Requests of guests."),
	BLK_LINE(NULL, "op", "write", writes, ""),
	BLK_LINE(NULL, "op", "flush", flushes, ""),
	BLK_LINE(NULL, "op", "discard", discards, ""),
	BLK_LINE(NULL, "op", "write_zeroes", write_zeroes, ""),
	BLK_LINE("fallow_guest_disk_bytes_total", "op", "read", bytes_read,
		"Bytes of guests' requests that ended well."),
	BLK_LINE(NULL, "op", "write", bytes_written, ""),
	BLK_LINE(NULL, "op", "discard", bytes_zeroed, ""),
	BLK_LINE("fallow_guest_disk_errors_total", "reason", "store", errors,
		"Requests answered with an error, by reason."),
	BLK_LINE(NULL, "reason", "short", refused[BLK_REFUSED_SHORT], ""),
	BLK_LINE(NULL, "reason", "length", refused[BLK_REFUSED_LENGTH], ""),
	BLK_LINE(NULL, "reason", "range", refused[BLK_REFUSED_RANGE], ""),
	BLK_LINE(NULL, "reason", "flags", refused[BLK_REFUSED_FLAGS], ""),
	BLK_LINE(NULL, "reason", "type", refused[BLK_REFUSED_TYPE], ""),
	PAGE_LINE("fallow_guest_disk_pages_read_total", "tier", "none", hits[BLK_TIER_NONE],
		"Pages read by guests, by where they were; none: never written; disk: of a cached "
		"disk, the image."),
	PAGE_LINE(NULL, "tier", "local", hits[BLK_TIER_LOCAL], ""),
	PAGE_LINE(NULL, "tier", "remote", hits[BLK_TIER_REMOTE], ""),
	PAGE_LINE(NULL, "tier", "disk", hits[BLK_TIER_DISK], ""),
	PAGE_LINE("fallow_guest_disk_pages_failed_total", "reason", "lost", failed_lost,
		"Pages that could not be read or written."),
	PAGE_LINE(NULL, "reason", "late", failed_late, ""),
	PAGE_LINE(NULL, "reason", "room", failed_room, ""),
	PAGE_LINE(NULL, "reason", "other", failed_other, ""),
	CACHE_LINE("fallow_guest_disk_cache_pages_total", "event", "fill", fills,
		"Pages of cached disks put into their cache, refused, taken out, late or lost "
		"there, "
		"or read together with another request."),
	CACHE_LINE(NULL, "event", "refused", refused, ""),
	CACHE_LINE(NULL, "event", "dropped", dropped, ""),
	CACHE_LINE(NULL, "event", "late", late, ""),
	CACHE_LINE(NULL, "event", "lost", lost, ""),
	CACHE_LINE(NULL, "event", "joined", joined, ""),
	CACHE_LINE("fallow_guest_disk_image_requests_total", "op", "read", image_reads,
		"Requests to the images of cached disks."),
	CACHE_LINE(NULL, "op", "write", image_writes, ""),
	CACHE_LINE(NULL, "op", "flush", image_flushes, ""),
	CACHE_LINE(NULL, "op", "zero", image_zeroes, ""),
	CACHE_LINE("fallow_guest_disk_image_bytes_total", "op", "read", image_bytes_read,
		"Bytes read from and written to the images of cached disks."),
	CACHE_LINE(NULL, "op", "write", image_bytes_written, ""),
	CACHE_LINE("fallow_guest_disk_image_errors_total", "reason", "io", image_errors,
		"Requests that an image failed."),
};

static uint64_t line_value(
	struct daemon *d, const struct disk_line *l, const struct disk_service *s)
{
	uint64_t n = 0;

	size_t offset = l->offset;

	/* Hits are counted for both kinds; what the other kind has not is 0. */
	if (l->source == 1 && disk_service_cached(s)) {
		if (offset >= sizeof(((struct disk_swap_stats *)0)->hits))
			return 0;
		offset += offsetof(struct disk_cached_stats, hits);
	} else if (l->source == 2 && !disk_service_cached(s)) {
		return 0;
	}
	for (unsigned i = 0; i < d->lanes; i++) {
		const struct disk_cached *c = disk_service_cached(s);
		const char *base = l->source == 0 ? (const char *)blk_stats(disk_service_blk(s), i)
				   : c		  ? (const char *)disk_cached_stats(c, i)
				       : (const char *)disk_swap_stats(disk_service_swap(s), i);
		n += stat_get((const stat_t *)(const void *)(base + offset));
		/* What a clone reads of its base is the clone's, too. */
		if (l->source && c && disk_cached_base(c))
			n += stat_get(
				(const stat_t *)(const void *)((const char *)disk_cached_stats(
								       disk_cached_base(c), i) +
							       offset));
	}
	return n;
}

static uint64_t value_in_flight(struct daemon *d, const struct disks_info *i)
{
	return BLK_SUM(d, disk_service_blk(i->service), in_flight);
}

static uint64_t value_connected(struct daemon *d, const struct disks_info *i)
{
	return disk_service_connected(i->service);
}

static uint64_t value_reserved(struct daemon *d, const struct disks_info *i)
{
	return reserves_pages(d->reserves, i->pool);
}

static uint64_t value_used(struct daemon *d, const struct disks_info *i)
{
	return pool_pages(d, i->pool);
}

static uint64_t value_lost(struct daemon *d, const struct disks_info *i)
{
	const struct disk_swap *s = disk_service_swap(i->service);

	return s ? disk_swap_lost(s) : 0;
}

static uint64_t value_violations(struct daemon *d, const struct disks_info *i)
{
	const struct nbd_server *nbd = disk_service_nbd(i->service);
	uint64_t n = 0;

	for (unsigned v = 0; nbd && v < NBD_VIOLATIONS; v++)
		n += stat_get(&nbd_server_stats(nbd)->violations[v]);
	if (nbd)
		return n;
	const struct vhost_server_stats *s = vhost_server_stats(disk_service_vhost(i->service));
	for (unsigned v = 0; v < VHOST_VIOLATIONS; v++)
		n += stat_get(&s->violations[v]);
	for (unsigned f = 0; f < VRING_FAULTS; f++)
		n += stat_get(&s->faults[f]);
	return n;
}

static void latency_family(struct daemon *d, struct metrics *m)
{
	static struct hist h; /* control thread; large */
	struct disks_info i;

	metrics_family(m, "fallow_guest_disk_seconds", "histogram",
		"Requests of guests, from the ring to done; reads by the slowest tier they "
		"needed.");
	for (unsigned cursor = 0; disks_next(d->disks, &cursor, &i);) {
		if (!i.service)
			continue;
		for (unsigned t = 0; t < BLK_TIERS + 1; t++) {
			hist_sum(d, disk_service_blk(i.service),
				t < BLK_TIERS ? offsetof(struct blk_stats, read_ns) +
							t * sizeof(struct hist)
					      : offsetof(struct blk_stats, write_ns),
				&h);
			metrics_label(m, "disk", i.config->name);
			metrics_label(m, "op", t < BLK_TIERS ? "read" : "write");
			metrics_label(
				m, "tier", t < BLK_TIERS ? blk_tier_name((enum blk_tier)t) : "");
			metrics_sample_hist(m, &h);
		}
	}
}

void disks_metrics(struct daemon *d, struct metrics *m)
{
	struct disks_info i;

	for (size_t n = 0; n < sizeof(lines) / sizeof(lines[0]); n++) {
		if (lines[n].name)
			metrics_family(m, lines[n].name, "counter", lines[n].help);
		for (unsigned cursor = 0; disks_next(d->disks, &cursor, &i);) {
			if (!i.service)
				continue;
			metrics_label(m, "disk", i.config->name);
			metrics_label(m, lines[n].label, lines[n].value);
			metrics_sample_u64(m, line_value(d, &lines[n], i.service));
		}
	}
	disk_family(d, m, "fallow_guest_disk_in_flight", "gauge", "Requests under way.",
		value_in_flight);
	disk_family(d, m, "fallow_guest_disk_connected", "gauge",
		"QEMUs connected, two while a guest migrates between them; or NBD connections.",
		value_connected);
	disk_family(d, m, "fallow_guest_disk_reserved_pages", "gauge", "Pages promised to it.",
		value_reserved);
	disk_family(
		d, m, "fallow_guest_disk_used_pages", "gauge", "Pages stored for it.", value_used);
	disk_family(d, m, "fallow_guest_disk_lost_pages", "gauge",
		"Pages whose contents are lost until they are written again.", value_lost);
	disk_family(d, m, "fallow_guest_disk_violations_total", "counter",
		"Messages and rings of guests, or NBD connections, that made no sense.",
		value_violations);
	latency_family(d, m);
}
