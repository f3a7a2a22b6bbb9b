/* Pools and the synchronous operations on their pages. */
#include <stdlib.h>
#include <string.h>

#include "lib/fallow/client.h"

#define OPTS_FIRST_BYTES (offsetof(struct fallow_pool_opts, uuid) + 16)
#define BATCH_WINDOW	 64u /* requests of one batch under way at a time */

/* Pools */

/* The caller's options in this library's version; -EINVAL, -E2BIG. */
static int opts_read(const struct fallow_pool_opts *from, struct fallow_pool_opts *to)
{
	const uint8_t *bytes = (const uint8_t *)from;
	uint32_t size = from->size;
	memset(to, 0, sizeof(*to));
	if (size < OPTS_FIRST_BYTES)
		return -EINVAL;
	if (size > 4096)
		return -E2BIG;
	for (uint32_t i = sizeof(*to); i < size; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(to, from, size < sizeof(*to) ? size : sizeof(*to));
	for (unsigned i = 0; i < sizeof(to->reserved); i++)
		if (to->reserved[i])
			return -EINVAL;
	return 0;
}

static int opts_frame(const struct fallow_pool_opts *o, struct socket_pool_open *q)
{
	const char *name = o->name ? o->name : "";
	if (strlen(name) >= SOCKET_NAME_BYTES)
		return -EINVAL;
	for (const char *c = name; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return -EINVAL;
	memset(q, 0, sizeof(*q));
	q->h.len_bytes = sizeof(*q);
	q->h.type = SOCKET_POOL_OPEN;
	q->flags = o->flags;
	q->codec = o->codec;
	q->copies = o->copies;
	q->disk = o->disk;
	memcpy(q->uuid, o->uuid, sizeof(q->uuid));
	memcpy(q->secret, o->secret, sizeof(q->secret));
	strcpy(q->name, name);
	return 0;
}

/* A question on the control socket; a session that does not answer is over. control_lock held. */
static int pool_ask(struct fallow *f, void *question, struct socket_answer *a)
{
	uint32_t state = client_state(f);
	if (!client_alive(f, state))
		return -ESHUTDOWN;
	int err = client_ask(f, f->fd, question, a);
	if (err == -ESHUTDOWN)
		client_kill(f, state);
	return err;
}

int fallow_pool_open(
	struct fallow *f, const struct fallow_pool_opts *opts, struct fallow_pool **out)
{
	struct fallow_pool_opts o;
	struct socket_answer a;
	if (!f || !opts || !out)
		return -EINVAL;
	int err = opts_read(opts, &o);
	if (err)
		return err;
	struct fallow_pool *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->f = f;
	err = opts_frame(&o, &p->open);
	if (err) {
		free(p);
		return err;
	}
	struct socket_pool_open question = p->open;
	pthread_mutex_lock(&f->control_lock);
	err = pool_ask(f, &question, &a);
	if (!err) {
		atomic_store(&p->id, (uint32_t)a.value);
		p->next = f->pools;
		f->pools = p;
		*out = p;
	}
	pthread_mutex_unlock(&f->control_lock);
	if (err)
		free(p);
	return err;
}

static void pool_unlink(struct fallow_pool *p)
{
	struct fallow_pool **at = &p->f->pools;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
}

static bool pool_has_twin(const struct fallow_pool *p)
{
	for (const struct fallow_pool *o = p->f->pools; o; o = o->next)
		if (o != p && o->id == p->id)
			return true;
	return false;
}

static int pool_ask_ref(struct fallow_pool *p, unsigned type, struct socket_answer *a)
{
	struct socket_pool_ref q = {
		.h = {.len_bytes = sizeof(q), .type = (uint16_t)type}, .id = p->id};
	return p->id ? pool_ask(p->f, &q, a) : -ENOENT;
}

int fallow_pool_destroy(struct fallow_pool *p)
{
	struct socket_answer a;
	if (!p)
		return -EINVAL;
	struct fallow *f = p->f;
	pthread_mutex_lock(&f->control_lock);
	int err = pool_ask_ref(p, SOCKET_POOL_DESTROY, &a);
	bool gone = err == 0 || err == -ENOENT || err == -ESHUTDOWN;
	if (gone)
		pool_unlink(p);
	pthread_mutex_unlock(&f->control_lock);
	if (gone)
		free(p);
	return err;
}

int fallow_pool_close(struct fallow_pool *p)
{
	struct socket_answer a;
	if (!p)
		return -EINVAL;
	struct fallow *f = p->f;
	pthread_mutex_lock(&f->control_lock);
	/* Another handle of this connection may have the same pool open. */
	int err = pool_has_twin(p) ? 0 : pool_ask_ref(p, SOCKET_POOL_CLOSE, &a);
	pool_unlink(p);
	pthread_mutex_unlock(&f->control_lock);
	free(p);
	return err;
}

int fallow_pool_stats(struct fallow_pool *p, struct fallow_pool_stats *out)
{
	struct socket_answer pool, limits;
	struct socket_plain q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_LIMITS}};
	if (!p || !out || out->size < sizeof(*out))
		return -EINVAL;
	struct fallow *f = p->f;
	pthread_mutex_lock(&f->control_lock);
	int err = pool_ask_ref(p, SOCKET_POOL_STATS, &pool);
	if (!err)
		err = pool_ask(f, &q, &limits);
	if (!err) {
		out->lanes = f->lanes;
		out->pages = pool.value;
		out->client_used_pages = limits.value;
		out->client_limit_pages = limits.limit_pages;
	}
	pthread_mutex_unlock(&f->control_lock);
	return err;
}

/* Pages */

/* Claims a slot and submits. wait: as for client_claim(). */
static int page_start(struct fallow_pool *p, enum socket_op op, const struct fallow_oid *oid,
	uint32_t index, const void *page, bool wait, struct client_request *r)
{
	struct engine_key k;
	unsigned lane;
	uint32_t state;
	int err = client_key(p, oid, index, &k, &lane, &state);
	if (!err)
		err = client_claim(p->f, state, lane, wait, r);
	if (!err)
		client_submit(r, op, &k, page);
	return err;
}

int fallow_put(
	struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index, const void *page)
{
	struct client_request r;
	if (!p || !oid || !page)
		return -EINVAL;
	int err = page_start(p, SOCKET_OP_PUT, oid, index, page, true, &r);
	return err ? err : client_wait(p->f, &r, NULL, NULL);
}

int fallow_get(struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index, void *page)
{
	struct client_request r;
	if (!p || !oid || !page)
		return -EINVAL;
	int err = page_start(p, SOCKET_OP_GET, oid, index, NULL, true, &r);
	return err ? err : client_wait(p->f, &r, page, NULL);
}

int fallow_flush_page(struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index)
{
	struct client_request r;
	if (!p || !oid)
		return -EINVAL;
	int err = page_start(p, SOCKET_OP_FLUSH_PAGE, oid, index, NULL, true, &r);
	return err ? err : client_wait(p->f, &r, NULL, NULL);
}

int fallow_flush_object(struct fallow_pool *p, const struct fallow_oid *oid)
{
	struct client_request r[SOCKET_MAX_LANES];
	struct engine_key k;
	unsigned lane, started = 0;
	uint32_t state;
	bool found = false;
	if (!p || !oid)
		return -EINVAL;
	int err = client_key(p, oid, 0, &k, &lane, &state);
	unsigned lanes = atomic_load(&p->f->lanes);
	while (!err && started < lanes) {
		err = client_claim(p->f, state, started, true, &r[started]);
		if (!err)
			client_submit(&r[started++], SOCKET_OP_FLUSH_OBJECT, &k, NULL);
	}
	for (unsigned i = 0; i < started; i++) {
		int status = client_wait(p->f, &r[i], NULL, NULL);
		found |= status == 0;
		if (status && status != -ENOENT && !err)
			err = status;
	}
	return err || found ? err : -ENOENT;
}

/* Batches */

struct batch {
	enum socket_op op;
	size_t count;
	const struct fallow_key *keys;
	const void *const *puts;
	void *const *gets;
	int *status;
	int result;
};

static void batch_result(struct batch *b, size_t i, int status)
{
	if (b->status)
		b->status[i] = status;
	if (status && !b->result)
		b->result = status;
}

static int batch_run(struct fallow_pool *p, struct batch *b)
{
	struct client_request window[BATCH_WINDOW];
	size_t next = 0, done = 0; /* what is under way is done..next, in the window by number */
	size_t of[BATCH_WINDOW];
	size_t head = 0, tail = 0;
	while (done < b->count) {
		if (next < b->count && tail - head < BATCH_WINDOW) {
			const struct fallow_key *k = &b->keys[next];
			int err = k->reserved ? -EINVAL
					      : page_start(p, b->op, &k->oid, k->index,
							b->puts ? b->puts[next] : NULL,
							head == tail, &window[tail % BATCH_WINDOW]);
			if (!err)
				of[tail++ % BATCH_WINDOW] = next++;
			else if (err != -EAGAIN) {
				batch_result(b, next++, err);
				done++;
			}
			if (err != -EAGAIN)
				continue;
		}
		size_t i = of[head % BATCH_WINDOW];
		int status = client_wait(
			p->f, &window[head % BATCH_WINDOW], b->gets ? b->gets[i] : NULL, NULL);
		batch_result(b, i, status);
		head++;
		done++;
	}
	return b->result;
}

int fallow_put_batch(struct fallow_pool *p, size_t count, const struct fallow_key *keys,
	const void *const *pages, int *status)
{
	struct batch b = {
		.op = SOCKET_OP_PUT, .count = count, .keys = keys, .puts = pages, .status = status};
	if (!p || (count && (!keys || !pages)))
		return -EINVAL;
	for (size_t i = 0; i < count; i++)
		if (!pages[i])
			return -EINVAL;
	return batch_run(p, &b);
}

int fallow_get_batch(struct fallow_pool *p, size_t count, const struct fallow_key *keys,
	void *const *pages, int *status)
{
	struct batch b = {
		.op = SOCKET_OP_GET, .count = count, .keys = keys, .gets = pages, .status = status};
	if (!p || (count && (!keys || !pages)))
		return -EINVAL;
	for (size_t i = 0; i < count; i++)
		if (!pages[i])
			return -EINVAL;
	return batch_run(p, &b);
}

int fallow_flush_batch(
	struct fallow_pool *p, size_t count, const struct fallow_key *keys, int *status)
{
	struct batch b = {
		.op = SOCKET_OP_FLUSH_PAGE, .count = count, .keys = keys, .status = status};
	if (!p || (count && !keys))
		return -EINVAL;
	return batch_run(p, &b);
}
