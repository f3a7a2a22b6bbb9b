/* Clients, sessions and regions of the memory server, shared by its control thread and data
 * threads. */
#include "lib/transport/server_table.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

int server_table_init(struct server_table *t, uint32_t max_conns_per_client)
{
	pthread_rwlockattr_t attr;
	memset(t, 0, sizeof *t);
	t->max_conns_per_client = max_conns_per_client;
	int err = pthread_rwlockattr_init(&attr);
	if (err)
		return -err;
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	err = pthread_rwlock_init(&t->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return -err;
}

void server_table_fini(struct server_table *t)
{
	pthread_rwlock_destroy(&t->lock);
}

void server_table_wait_io(struct server_table *t)
{
	for (unsigned i = 0; i < t->ios; i++) {
		uint64_t seen = atomic_load(&t->io[i]->sequence);
		if (!(seen & 1))
			continue;
		for (unsigned spins = 0; atomic_load(&t->io[i]->sequence) == seen; spins++) {
			if (spins < 64)
				sched_yield();
			else
				nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
		}
	}
}

struct server_client *server_client_find(struct server_table *t, uint64_t id)
{
	for (struct server_client *c = t->clients; c; c = c->next)
		if (c->id == id)
			return c;
	return NULL;
}

int server_client_add(struct server_table *t, uint64_t id, struct server_client **out)
{
	if (server_client_find(t, id))
		return -EEXIST;
	struct server_client *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->id = id;
	pthread_rwlock_wrlock(&t->lock);
	c->next = t->clients;
	t->clients = c;
	pthread_rwlock_unlock(&t->lock);
	*out = c;
	return 0;
}

void server_client_delete(struct server_table *t, struct server_client *c)
{
	pthread_rwlock_wrlock(&t->lock);
	struct server_client **p = &t->clients;
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	pthread_rwlock_unlock(&t->lock);
	free(c);
}

/* Table lock. Looks at every session in full, so that timing tells nothing of a token's bytes. */
static struct server_session *session_find(struct server_table *t, const uint64_t token[2])
{
	struct server_session *found = NULL;
	for (struct server_client *c = t->clients; c; c = c->next)
		for (struct server_session *s = c->sessions; s; s = s->next)
			if (((s->token[0] ^ token[0]) | (s->token[1] ^ token[1])) == 0)
				found = s;
	return found;
}

int server_session_add(struct server_table *t, struct server_client *c, const uint64_t token[2])
{
	if (!token[0] && !token[1])
		return -EINVAL;
	struct server_session *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->token[0] = token[0];
	s->token[1] = token[1];
	s->client = c;
	pthread_rwlock_wrlock(&t->lock);
	bool taken = session_find(t, token);
	if (!taken) {
		s->next = c->sessions;
		c->sessions = s;
	}
	pthread_rwlock_unlock(&t->lock);
	if (taken) {
		free(s);
		return -EEXIST;
	}
	return 0;
}

static void conn_kill(struct server_conn *c)
{
	atomic_store(&c->why, SERVER_END_SESSION);
	atomic_store(&c->dead, true);
}

bool server_session_remove(struct server_table *t, const uint64_t token[2])
{
	pthread_rwlock_wrlock(&t->lock);
	struct server_session *s = session_find(t, token);
	if (!s) {
		pthread_rwlock_unlock(&t->lock);
		return false;
	}
	struct server_session **p = &s->client->sessions;
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	while (s->conns) {
		struct server_conn *c = s->conns;
		s->conns = c->session_next;
		s->client->conns[c->kind]--;
		c->session = NULL;
		conn_kill(c);
	}
	pthread_rwlock_unlock(&t->lock);
	server_table_wait_io(t);
	free(s);
	return true;
}

static struct transport_region **bucket_of(struct server_table *t, uint64_t key)
{
	return &t->bucket[key % SERVER_REGION_BUCKETS];
}

int server_region_add(struct server_table *t, struct server_client *c, void *base, size_t len,
	struct ibv_mr *mr, struct transport_region **out)
{
	struct transport_region *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	while (r->key == 0)
		if (getrandom(&r->key, sizeof r->key, 0) != (ssize_t)sizeof r->key)
			r->key = 0;
	r->client = c;
	r->client_id = c->id;
	r->base = base;
	r->len = len;
	r->mr = mr;
	atomic_init(&r->refs, 1);
	r->client_next = c->regions;
	c->regions = r;
	pthread_rwlock_wrlock(&t->lock);
	r->hash_next = *bucket_of(t, r->key);
	*bucket_of(t, r->key) = r;
	pthread_rwlock_unlock(&t->lock);
	*out = r;
	return 0;
}

void server_region_revoke(struct server_table *t, struct transport_region *r)
{
	pthread_rwlock_wrlock(&t->lock);
	struct transport_region **p = bucket_of(t, r->key);
	while (*p != r)
		p = &(*p)->hash_next;
	*p = r->hash_next;
	atomic_store(&r->dead, true);
	pthread_rwlock_unlock(&t->lock);
	p = &r->client->regions;
	while (*p != r)
		p = &(*p)->client_next;
	*p = r->client_next;
	server_table_wait_io(t);
}

struct transport_region *server_region_get(
	struct server_table *t, uint64_t key, uint64_t client_id, bool *other)
{
	*other = false;
	pthread_rwlock_rdlock(&t->lock);
	struct transport_region *r = *bucket_of(t, key);
	while (r && r->key != key)
		r = r->hash_next;
	if (r && r->client_id != client_id) {
		*other = true;
		r = NULL;
	}
	if (r)
		atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	pthread_rwlock_unlock(&t->lock);
	return r;
}

void server_region_put(struct transport_region *r)
{
	if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
		free(r);
}

/* Table lock held for writing. Whether a newer connection says that this one is gone. */
static bool conn_replaced(
	const struct server_conn *old, enum server_conn_kind kind, const struct transport_hello *h)
{
	return old->kind == kind && old->instance == h->instance &&
	       (int32_t)(h->sequence - old->sequence) > 0 &&
	       (old->slot == h->slot || !(h->live_mask >> old->slot & 1));
}

int server_conn_login(struct server_table *t, struct server_conn *c, enum server_conn_kind kind,
	const struct transport_hello *h, struct server_client **client)
{
	bool killed = false;
	int err = 0;
	pthread_rwlock_wrlock(&t->lock);
	struct server_session *s = session_find(t, h->token);
	if (!s) {
		err = -EACCES;
		goto out;
	}
	for (struct server_conn **p = &s->conns; *p;) {
		struct server_conn *old = *p;
		if (!conn_replaced(old, kind, h)) {
			p = &old->session_next;
			continue;
		}
		*p = old->session_next;
		old->session = NULL;
		s->client->conns[kind]--;
		conn_kill(old);
		killed = true;
	}
	if (s->client->conns[kind] >= t->max_conns_per_client) {
		err = -EUSERS;
		goto out;
	}
	c->kind = (uint8_t)kind;
	c->instance = h->instance;
	c->sequence = h->sequence;
	c->slot = h->slot;
	c->client_id = s->client->id;
	c->session = s;
	c->session_next = s->conns;
	s->conns = c;
	s->client->conns[kind]++;
	*client = s->client;
out:
	pthread_rwlock_unlock(&t->lock);
	if (killed)
		server_table_wait_io(t);
	return err ? err : killed;
}

void server_conn_logout(struct server_table *t, struct server_conn *c)
{
	pthread_rwlock_wrlock(&t->lock);
	if (c->session) {
		struct server_conn **p = &c->session->conns;
		while (*p != c)
			p = &(*p)->session_next;
		*p = c->session_next;
		c->session->client->conns[c->kind]--;
		c->session = NULL;
	}
	pthread_rwlock_unlock(&t->lock);
}
