/* The plain reference model: for each key the set of outcomes that a get may have. */
#include "tests/model/reference.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model/page.h"
#include "tests/model/rng.h"

int ref_init(struct ref *m, const struct ref_config *cfg, unsigned gets)
{
	memset(m, 0, sizeof(*m));
	m->cfg = *cfg;
	m->gets = gets;
	m->pool = calloc(cfg->pools, sizeof(*m->pool));
	m->key = calloc(ref_keys(m), sizeof(*m->key));
	m->get = calloc(gets, sizeof(*m->get));
	if (!m->pool || !m->key || !m->get) {
		ref_fini(m);
		return -ENOMEM;
	}
	for (uint32_t k = 0; k < ref_keys(m); k++)
		m->key[k] = (struct ref_key){.absent = true, .next_version = 1};
	return 0;
}

void ref_fini(struct ref *m)
{
	free(m->pool);
	free(m->key);
	free(m->get);
}

uint32_t ref_keys(const struct ref *m)
{
	return m->cfg.pools * m->cfg.objects * m->cfg.indices;
}

unsigned ref_key_pool(const struct ref *m, uint32_t k)
{
	return k / (m->cfg.objects * m->cfg.indices);
}

struct engine_key ref_engine_key(const struct ref *m, uint32_t k)
{
	uint32_t object = k / m->cfg.indices % m->cfg.objects;

	return (struct engine_key){
		.oid = {object & 3, object >> 2, rng_mix(object + 1) + m->cfg.salt},
		.pool = m->pool[ref_key_pool(m, k)].id,
		.index = k % m->cfg.indices};
}

static int wrong(struct ref *m, uint32_t k, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int wrong(struct ref *m, uint32_t k, const char *fmt, ...)
{
	const struct ref_key *s = &m->key[k];
	const struct ref_pool *p = &m->pool[ref_key_pool(m, k)];
	struct engine_key ek = ref_engine_key(m, k);
	char set[128] = "", what[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	for (unsigned i = 0; i < s->versions; i++)
		snprintf(set + strlen(set), sizeof(set) - strlen(set), " %u", s->version[i]);
	snprintf(m->error, sizeof(m->error),
		"key %u (pool %u%s, R %u%s, object %u index %u): %s; possible now: versions%s%s%s, "
		"next %u, %u puts pending; %u copies destroyed since all were there",
		k, ek.pool, p->persistent ? "" : " ephemeral", p->copies,
		p->disk_safe ? " and disk" : "", k / m->cfg.indices % m->cfg.objects, ek.index,
		what, set, s->many ? " any" : "", s->absent ? " absent" : "", s->next_version,
		s->puts, m->holes);
	return -EBADMSG;
}

static bool state_has(const struct ref_key *s, uint32_t version)
{
	if (s->many)
		return version && version < s->next_version;
	for (unsigned i = 0; i < s->versions; i++)
		if (s->version[i] == version)
			return true;
	return false;
}

static void state_add(struct ref_key *s, uint32_t version)
{
	if (state_has(s, version))
		return;
	if (s->versions == REF_VERSIONS)
		s->many = true;
	else
		s->version[s->versions++] = version;
}

static void state_remove(struct ref_key *s, uint32_t version)
{
	for (unsigned i = 0; i < s->versions; i++)
		if (s->version[i] == version)
			s->version[i--] = s->version[--s->versions];
}

static void state_set(struct ref_key *s, uint32_t version) /* 0: absent */
{
	s->versions = 0;
	s->many = false;
	s->absent = !version;
	if (version)
		s->version[s->versions++] = version;
}

static void state_merge(struct ref_key *dst, const struct ref_key *src)
{
	dst->absent |= src->absent;
	dst->many |= src->many;
	dst->next_version = src->next_version;
	for (unsigned i = 0; i < src->versions; i++)
		state_add(dst, src->version[i]);
}

bool ref_may_be_lost(const struct ref *m, uint32_t k)
{
	const struct ref_pool *p = &m->pool[ref_key_pool(m, k)];

	return p->persistent && !p->disk_safe && m->lost_at[p->copies] > m->key[k].since;
}

/* The key's state changed: a get under way may see the new one. */
static void note(struct ref *m, uint32_t k)
{
	for (unsigned i = 0; m->key[k].gets && i < m->gets; i++)
		if (m->get[i].active && m->get[i].slot == k) {
			state_merge(&m->get[i].seen, &m->key[k]);
			m->get[i].lost |= ref_may_be_lost(m, k);
		}
}

static void key_reset(struct ref *m, uint32_t k)
{
	state_set(&m->key[k], 0);
	note(m, k);
}

void ref_pool_made(struct ref *m, unsigned slot, const struct ref_pool *p)
{
	m->pool[slot] = *p;
}

void ref_pool_gone(struct ref *m, unsigned slot)
{
	uint32_t n = m->cfg.objects * m->cfg.indices;

	for (uint32_t k = slot * n; k < (slot + 1) * n; k++) {
		key_reset(m, k);
		m->key[k].busy = false;
		m->key[k].puts = 0;
	}
	m->pool[slot].id = 0;
}

uint32_t ref_put_begin(struct ref *m, uint32_t k)
{
	m->clock++;
	return m->key[k].next_version++;
}

void ref_put_pending(struct ref *m, uint32_t k, uint32_t version)
{
	struct ref_key *s = &m->key[k];

	/* What the key held is gone; a put that was pending already may still come out on top. */
	if (s->puts)
		s->busy = true;
	else
		state_set(s, 0);
	s->absent = true;
	state_add(s, version);
	s->since = m->clock;
	s->puts++;
	note(m, k);
}

int ref_put_end(struct ref *m, uint32_t k, uint32_t version, bool was_pending, int status)
{
	struct ref_key *s = &m->key[k];

	m->clock++;
	if (status != 0 && status != -ENOSPC)
		return wrong(m, k, "put of version %u ended with %s", version, strerror(-status));
	if (was_pending)
		s->puts--;
	if (s->puts || (was_pending && s->busy)) {
		/* Others were under way at the same time: any order is allowed. */
		s->busy = true;
		if (status)
			state_remove(s, version), s->absent = true;
		else
			state_add(s, version);
	} else {
		state_set(s, status ? 0 : version);
	}
	if (!s->puts)
		s->busy = false;
	if (!status)
		s->since = m->clock;
	note(m, k);
	return 0;
}

void ref_put_cancelled(struct ref *m, uint32_t k, uint32_t version)
{
	ref_put_end(m, k, version, true, -ENOSPC);
}

void ref_put_unknown(struct ref *m, uint32_t k, uint32_t version, bool was_pending)
{
	struct ref_key *s = &m->key[k];

	state_add(s, version);
	s->absent = true;
	if (was_pending)
		s->puts--;
	if (!s->puts)
		s->busy = false;
	note(m, k);
}

unsigned ref_get_begin(struct ref *m, uint32_t k)
{
	unsigned h = 0;

	while (m->get[h].active)
		h++;
	m->get[h] = (struct ref_get){.active = true,
		.seen = m->key[k],
		.slot = k,
		.key = ref_engine_key(m, k),
		.pool = m->pool[ref_key_pool(m, k)].id,
		.started = m->clock,
		.lost = ref_may_be_lost(m, k)};
	m->key[k].gets++;
	return h;
}

/* Which version the bytes are, among those that are possible or, for the message, any. */
static uint32_t version_of(
	const struct engine_key *key, const struct ref_key *seen, const void *page, bool any)
{
	if (!any && !seen->many) {
		for (unsigned i = 0; i < seen->versions; i++)
			if (!page_compare(page, key, seen->version[i]))
				return seen->version[i];
		return 0;
	}
	for (uint32_t v = seen->next_version; v-- > 1;)
		if (!page_compare(page, key, v))
			return v;
	return 0;
}

/* Nothing else was under way: what the get saw is what is there. */
static void collapse(struct ref *m, uint32_t k, const struct ref_get *g, uint32_t version)
{
	struct ref_key *s = &m->key[k];

	if (s->puts || m->clock != g->started || m->pool[ref_key_pool(m, k)].id != g->pool)
		return;
	state_set(s, version);
	note(m, k);
}

int ref_get_end(struct ref *m, uint32_t k, unsigned handle, int status, const void *page,
	bool timeouts_allowed)
{
	struct ref_get *g = &m->get[handle];
	const struct ref_pool *p = &m->pool[ref_key_pool(m, k)];
	bool same_pool = g->pool == p->id;
	uint32_t v;

	g->active = false;
	m->key[k].gets--;
	switch (status) {
	case -ECANCELED:
		return 0;
	case 0:
		v = version_of(&g->key, &g->seen, page, false);
		if (!v) {
			v = version_of(&g->key, &g->seen, page, true);
			return v ? wrong(m, k, "get returned version %u", v)
				 : wrong(m, k, "get returned bytes that were never put there");
		}
		collapse(m, k, g, v);
		return 0;
	case -ENOENT:
		if (same_pool && p->persistent && !g->seen.absent)
			return wrong(m, k, "get missed");
		collapse(m, k, g, 0);
		return 0;
	case -EIO:
		if (!same_pool || (p->persistent && (g->lost || ref_may_be_lost(m, k))))
			return 0;
		return wrong(m, k, "get returned EIO, but not every copy was destroyed");
	case -ETIMEDOUT:
		if (timeouts_allowed)
			return 0;
		return wrong(m, k, "get timed out with nothing slow");
	default:
		return wrong(m, k, "get ended with %s", strerror(-status));
	}
}

int ref_flush_page(struct ref *m, uint32_t k, int status)
{
	struct ref_key *s = &m->key[k];
	const struct ref_pool *p = &m->pool[ref_key_pool(m, k)];

	m->clock++;
	if (status && status != -ENOENT)
		return wrong(m, k, "flush page ended with %s", strerror(-status));
	if (status == 0 && !s->versions && !s->many)
		return wrong(m, k, "flush page found a page that is not there");
	if (status && p->persistent && !s->absent)
		return wrong(m, k, "flush page did not find the page");
	if (s->puts) {
		s->busy = true;
		s->absent = true;
		note(m, k);
	} else {
		key_reset(m, k);
	}
	return 0;
}

static bool is_sure(const struct ref *m, uint32_t k)
{
	return m->pool[ref_key_pool(m, k)].persistent && !m->key[k].absent;
}

static bool is_possible(const struct ref *m, uint32_t k)
{
	return m->key[k].versions || m->key[k].many;
}

int ref_flush_object(struct ref *m, unsigned slot, unsigned object, int status, uint64_t pages)
{
	uint32_t first = (slot * m->cfg.objects + object) * m->cfg.indices;
	uint64_t least = 0, most = 0;

	m->clock++;
	for (uint32_t k = first; k < first + m->cfg.indices; k++) {
		least += is_sure(m, k);
		most += is_possible(m, k);
	}
	if (status && status != -ENOENT)
		return wrong(m, first, "flush object ended with %s", strerror(-status));
	if (status == -ENOENT && least)
		return wrong(m, first, "flush object found none of %" PRIu64 " pages", least);
	if (!status && (pages < least || pages > most))
		return wrong(m, first,
			"flush object removed %" PRIu64 " pages, not %" PRIu64 " to %" PRIu64,
			pages, least, most);
	for (uint32_t k = first; k < first + m->cfg.indices; k++) {
		if (!m->key[k].puts) {
			key_reset(m, k);
			continue;
		}
		m->key[k].busy = true;
		m->key[k].absent = true;
		note(m, k);
	}
	return 0;
}

void ref_flush_unknown(struct ref *m, uint32_t k)
{
	m->clock++;
	m->key[k].absent = true;
	note(m, k);
}

void ref_loss(struct ref *m)
{
	m->clock++;
	m->holes++;
	for (unsigned r = 1; r <= ENGINE_MAX_COPIES + 1 && r <= m->holes; r++)
		m->lost_at[r] = m->clock;
	for (unsigned i = 0; i < m->gets; i++)
		if (m->get[i].active)
			m->get[i].lost |= ref_may_be_lost(m, m->get[i].slot);
}

void ref_healed(struct ref *m)
{
	m->holes = 0;
}

void ref_pages(const struct ref *m, int account, uint64_t *least, uint64_t *most)
{
	*least = *most = 0;
	for (uint32_t k = 0; k < ref_keys(m); k++) {
		const struct ref_pool *p = &m->pool[ref_key_pool(m, k)];

		if (!p->id || (account >= 0 && p->account != account))
			continue;
		*least += is_sure(m, k);
		*most += is_possible(m, k);
	}
}
