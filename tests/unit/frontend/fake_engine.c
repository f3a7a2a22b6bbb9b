/* A plain table behind the functions of engine.h that the front end calls, with late completions.
 */
#include "tests/unit/frontend/fake_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096u

struct page {
	struct page *next;
	struct engine_key key;
	uint8_t data[ENGINE_PAGE_BYTES];
};

struct engine {
	uint64_t rng, max_pages, pages;
	unsigned late_one_in;
	_Atomic bool hold;
	_Atomic unsigned pending;
	struct engine_req *late, **late_tail;
	struct engine_pool_desc pool[ENGINE_MAX_POOLS];
	struct page *bucket[BUCKETS];
};

enum { LATE_PUT = 1, LATE_GET };

struct engine *fake_engine_new(uint64_t seed, unsigned late_one_in, uint64_t max_pages)
{
	struct engine *e = calloc(1, sizeof(*e));
	e->rng = seed * 2 + 1;
	e->late_one_in = late_one_in;
	e->max_pages = max_pages;
	e->late_tail = &e->late;
	return e;
}

static uint64_t next_random(struct engine *e)
{
	e->rng ^= e->rng << 13;
	e->rng ^= e->rng >> 7;
	e->rng ^= e->rng << 17;
	return e->rng;
}

static struct page **find(struct engine *e, const struct engine_key *k)
{
	uint64_t h = k->oid[0] * 31 + k->oid[1] * 17 + k->oid[2] * 13 + k->pool * 7 + k->index;
	struct page **p = &e->bucket[h * 0x9e3779b97f4a7c15ull >> 52];
	while (*p && memcmp(&(*p)->key, k, sizeof(*k)) != 0)
		p = &(*p)->next;
	return p;
}

static void drop(struct engine *e, struct page **at)
{
	struct page *p = *at;
	*at = p->next;
	free(p);
	e->pages--;
}

void fake_engine_delete(struct engine *e)
{
	if (e->late)
		abort();
	for (unsigned i = 0; i < BUCKETS; i++)
		while (e->bucket[i])
			drop(e, &e->bucket[i]);
	free(e);
}

void fake_engine_hold(struct engine *e, bool hold)
{
	atomic_store(&e->hold, hold);
}

unsigned fake_engine_pending(struct engine *e)
{
	return atomic_load(&e->pending);
}

static int store(struct engine *e, const struct engine_key *k, const void *page)
{
	struct page **at = find(e, k);
	if (!*at && e->pages >= e->max_pages)
		return -ENOSPC;
	if (!*at) {
		*at = calloc(1, sizeof(struct page));
		(*at)->key = *k;
		e->pages++;
	}
	memcpy((*at)->data, page, ENGINE_PAGE_BYTES);
	return 0;
}

static int load(struct engine *e, const struct engine_key *k, void *page)
{
	struct page **at = find(e, k);
	if (!*at)
		return -ENOENT;
	memcpy(page, (*at)->data, ENGINE_PAGE_BYTES);
	return 0;
}

static bool make_late(struct engine *e, struct engine_req *req, const struct engine_key *k,
	void *page, uint32_t kind)
{
	if (!e->late_one_in || next_random(e) % e->late_one_in)
		return false;
	req->key = *k;
	req->page = page;
	req->kind = kind;
	req->next = NULL;
	req->pprev = e->late_tail;
	*e->late_tail = req;
	e->late_tail = &req->next;
	atomic_fetch_add(&e->pending, 1);
	return true;
}

static void late_remove(struct engine *e, struct engine_req *req)
{
	*req->pprev = req->next;
	if (req->next)
		req->next->pprev = req->pprev;
	else
		e->late_tail = req->pprev;
	atomic_fetch_sub(&e->pending, 1);
}

int engine_put(
	struct engine *e, const struct engine_key *k, const void *page, struct engine_req *req)
{
	if (!engine_pool(e, k->pool))
		return -ENOENT;
	return make_late(e, req, k, (void *)page, LATE_PUT) ? -EINPROGRESS : store(e, k, page);
}

int engine_get(struct engine *e, const struct engine_key *k, void *page, struct engine_req *req)
{
	if (!engine_pool(e, k->pool))
		return -ENOENT;
	return make_late(e, req, k, page, LATE_GET) ? -EINPROGRESS : load(e, k, page);
}

void engine_kick(struct engine *e)
{
}

void engine_cancel(struct engine *e, struct engine_req *req)
{
	late_remove(e, req);
}

uint64_t engine_tick(struct engine *e)
{
	while (e->late && !atomic_load(&e->hold)) {
		struct engine_req *req = e->late;
		late_remove(e, req);
		req->done(req, req->kind == LATE_PUT ? store(e, &req->key, req->page)
						     : load(e, &req->key, req->page));
	}
	return e->late ? 0 : UINT64_MAX;
}

int engine_flush_page(struct engine *e, const struct engine_key *k)
{
	struct page **at = find(e, k);
	if (!*at)
		return -ENOENT;
	drop(e, at);
	return 0;
}

static uint64_t drop_matching(struct engine *e, uint32_t pool, const uint64_t *oid)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < BUCKETS; i++) {
		struct page **at = &e->bucket[i];
		while (*at) {
			if ((*at)->key.pool == pool &&
				(!oid || memcmp((*at)->key.oid, oid, 24) == 0)) {
				drop(e, at);
				n++;
			} else {
				at = &(*at)->next;
			}
		}
	}
	return n;
}

int engine_flush_object(struct engine *e, uint32_t pool, const uint64_t oid[3], uint64_t *pages)
{
	*pages = drop_matching(e, pool, oid);
	return *pages ? 0 : -ENOENT;
}

int engine_pool_add(struct engine *e, const struct engine_pool_desc *d)
{
	struct engine_pool_desc *row = &e->pool[d->id % ENGINE_MAX_POOLS];
	if (row->id && row->id != d->id)
		return -EEXIST;
	*row = *d;
	return 0;
}

const struct engine_pool_desc *engine_pool(const struct engine *e, uint32_t id)
{
	const struct engine_pool_desc *row = &e->pool[id % ENGINE_MAX_POOLS];
	return id && row->id == id ? row : NULL;
}

const struct engine_pool_desc *engine_pool_row(const struct engine *e, unsigned row)
{
	return e->pool[row].id ? &e->pool[row] : NULL;
}

uint64_t engine_pool_pages(const struct engine *e, uint32_t id)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (const struct page *p = e->bucket[i]; p; p = p->next)
			n += p->key.pool == id;
	return n;
}

int engine_pool_destroy(struct engine *e, uint32_t id)
{
	if (!engine_pool(e, id))
		return -ENOENT;
	drop_matching(e, id, NULL);
	memset(&e->pool[id % ENGINE_MAX_POOLS], 0, sizeof(e->pool[0]));
	return 0;
}
