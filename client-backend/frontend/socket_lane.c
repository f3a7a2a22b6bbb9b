/* The lane's end of the socket front end: takes clients' requests from shared memory to the engine.
 */
#include "client-backend/frontend/socket_lane.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUANTUM 16u /* requests of one session before it is the next one's turn */

/* What the lane keeps about a slot, out of the client's reach. */
struct request {
	struct engine_req req;
	struct socket_attachment *attachment;
	uint64_t start_ns;
	uint8_t op;
	bool busy; /* in the engine */
};

struct socket_attachment {
	struct socket_lane_memory *memory;
	unsigned slots;
	int doorbell_fd, violation_fd;
	const struct socket_grants *grants;
	struct socket_lane *lane;	    /* lane: while attached */
	uint32_t head;			    /* lane: ring position to be read next */
	unsigned in_progress;		    /* lane */
	_Atomic uint32_t violation;	    /* lane writes, any reads */
	stat_t requests;		    /* lane writes, any reads */
	struct request *request;	    /* lane: one per slot */
	uint8_t (*page)[SOCKET_PAGE_BYTES]; /* lane: one per slot */
};

struct socket_lane {
	unsigned lane, lanes, max_sessions;
	struct engine *engine;
	const struct env *env;
	int epoll_fd;
	unsigned count, turn;
	bool asleep;
	uint64_t now_ns; /* as of the last request: one clock read for each */
	struct socket_lane_stats stats;
	struct socket_attachment *attachment[];
};

int socket_lane_new(unsigned lane, unsigned lanes, unsigned max_sessions, struct engine *engine,
	const struct env *env, int epoll_fd, struct socket_lane **out)
{
	struct socket_lane *l =
		calloc(1, sizeof(*l) + max_sessions * sizeof(struct socket_attachment *));
	if (!l)
		return -ENOMEM;
	l->lane = lane;
	l->lanes = lanes;
	l->max_sessions = max_sessions;
	l->engine = engine;
	l->env = env;
	l->epoll_fd = epoll_fd;
	*out = l;
	return 0;
}

void socket_lane_delete(struct socket_lane *l)
{
	if (!l)
		return;
	assert(l->count == 0);
	free(l);
}

const struct socket_lane_stats *socket_lane_stats(const struct socket_lane *l)
{
	return &l->stats;
}

int socket_attachment_new(
	const struct socket_attachment_config *cfg, struct socket_attachment **out)
{
	struct socket_attachment *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->request = calloc(cfg->slots, sizeof(*a->request));
	a->page = aligned_alloc(SOCKET_PAGE_BYTES, (size_t)cfg->slots * SOCKET_PAGE_BYTES);
	if (!a->request || !a->page) {
		socket_attachment_delete(a);
		return -ENOMEM;
	}
	/* Touched here, so that the lane causes no page fault. */
	memset(a->page, 0, (size_t)cfg->slots * SOCKET_PAGE_BYTES);
	a->memory = cfg->memory;
	a->slots = cfg->slots;
	a->doorbell_fd = cfg->doorbell_fd;
	a->violation_fd = cfg->violation_fd;
	a->grants = cfg->grants;
	*out = a;
	return 0;
}

void socket_attachment_delete(struct socket_attachment *a)
{
	if (!a)
		return;
	assert(!a->lane);
	free(a->request);
	free(a->page);
	free(a);
}

enum socket_violation socket_attachment_violation(const struct socket_attachment *a)
{
	return atomic_load_explicit((_Atomic uint32_t *)&a->violation, memory_order_acquire);
}

uint64_t socket_attachment_requests(const struct socket_attachment *a)
{
	return stat_get(&a->requests);
}

int socket_lane_attach(struct socket_lane *l, struct socket_attachment *a)
{
	if (l->count == l->max_sessions)
		return -ENOSPC;
	/* Edge-triggered and never read: the client shares the descriptor's flags and could make a
	 * read of ours block. */
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, a->doorbell_fd, &ev) < 0)
		return -errno;
	a->lane = l;
	l->attachment[l->count++] = a;
	stat_set(&l->stats.sessions, l->count);
	if (l->asleep)
		atomic_store(&a->memory->sleeping, 1);
	return 0;
}

static void request_end(struct socket_lane *l, struct request *r)
{
	r->busy = false;
	r->attachment->in_progress--;
	stat_sub(&l->stats.in_progress, 1);
}

void socket_lane_detach(struct socket_lane *l, struct socket_attachment *a)
{
	assert(a->lane == l);
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, a->doorbell_fd, NULL);
	for (unsigned i = 0; i < a->slots && a->in_progress > 0; i++) {
		if (!a->request[i].busy)
			continue;
		engine_cancel(l->engine, &a->request[i].req);
		request_end(l, &a->request[i]);
		stat_add(&l->stats.cancelled, 1);
	}
	for (unsigned i = 0; i < l->count; i++) {
		if (l->attachment[i] == a) {
			l->attachment[i] = l->attachment[--l->count];
			break;
		}
	}
	stat_set(&l->stats.sessions, l->count);
	a->lane = NULL;
}

static void violate(struct socket_lane *l, struct socket_attachment *a, enum socket_violation why)
{
	stat_add(&l->stats.violations[why], 1);
	atomic_store_explicit(&a->violation, why, memory_order_release);
	uint64_t one = 1;
	/* Nonblocking; full means that the control thread was told already. */
	ssize_t n = write(a->violation_fd, &one, sizeof(one));
	(void)n;
}

/* Hands the result to the client. From here on the slot is the client's again. */
static void answer(struct socket_lane *l, struct socket_attachment *a, unsigned slot, int status,
	uint64_t result)
{
	struct socket_slot *s = &a->memory->slot[slot];
	if (status != 0 && status != -ENOENT)
		stat_add(&l->stats.failed, 1);
	s->status = status;
	s->result = result;
	uint32_t old = atomic_exchange_explicit(&s->state, SOCKET_SLOT_DONE, memory_order_acq_rel);
	if (old == SOCKET_SLOT_BUSY_WAITED) {
		stat_add(&l->stats.futex_wakes, 1);
		syscall(SYS_futex, &s->state, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	}
}

static void request_finish(struct socket_lane *l, struct request *r, int status, uint64_t now_ns)
{
	struct socket_attachment *a = r->attachment;
	unsigned slot = (unsigned)(r - a->request);
	uint64_t ns = now_ns - r->start_ns;
	if (r->op == SOCKET_OP_GET) {
		if (status == 0)
			memcpy(a->memory->page[slot], a->page[slot], SOCKET_PAGE_BYTES);
		hist_record(&l->stats.get_ns, ns);
	} else {
		hist_record(&l->stats.put_ns, ns);
	}
	answer(l, a, slot, status, 0);
}

static void request_done(struct engine_req *req, int status)
{
	struct request *r = (struct request *)((char *)req - offsetof(struct request, req));
	struct socket_lane *l = r->attachment->lane;
	request_end(l, r);
	request_finish(l, r, status, env_now_ns(l->env));
}

/* One read of each word: what is validated is what is used, whatever the client writes meanwhile.
 */
static void slot_copy(struct socket_slot *to, const struct socket_slot *from)
{
	const volatile uint64_t *src = (const volatile uint64_t *)from;
	uint64_t word[sizeof(*to) / 8];
	for (unsigned i = 0; i < sizeof(*to) / 8; i++)
		word[i] = src[i];
	memcpy(to, word, sizeof(*to));
}

static enum socket_violation slot_check(const struct socket_slot *d)
{
	if (d->op < SOCKET_OP_NOP || d->op >= SOCKET_OPS)
		return SOCKET_VIOLATION_OP;
	for (unsigned i = 0; i < sizeof(d->reserved); i++)
		if (d->reserved[i])
			return SOCKET_VIOLATION_RESERVED;
	return SOCKET_VIOLATION_NONE;
}

static int key_check(struct socket_lane *l, struct socket_attachment *a,
	const struct socket_slot *d, const struct engine_key *k)
{
	if (!d->pool ||
		atomic_load_explicit((_Atomic uint32_t *)&a->grants->id[d->pool % ENGINE_MAX_POOLS],
			memory_order_acquire) != d->pool) {
		stat_add(&l->stats.refused_no_pool, 1);
		return -ENOENT;
	}
	if (d->op != SOCKET_OP_FLUSH_OBJECT && engine_key_lane(k, l->lanes) != l->lane) {
		stat_add(&l->stats.refused_wrong_lane, 1);
		return -EXDEV;
	}
	return 0;
}

/* put and get: through the private page, so that nothing changes under the engine's feet. */
static void page_request(struct socket_lane *l, struct socket_attachment *a, unsigned slot,
	const struct engine_key *k, uint8_t op)
{
	struct request *r = &a->request[slot];
	int status;
	r->op = op;
	if (op == SOCKET_OP_PUT) {
		stat_add(&l->stats.puts, 1);
		memcpy(a->page[slot], a->memory->page[slot], SOCKET_PAGE_BYTES);
		__asm__ volatile("" ::: "memory");
		status = engine_put(l->engine, k, a->page[slot], &r->req);
	} else {
		stat_add(&l->stats.gets, 1);
		status = engine_get(l->engine, k, a->page[slot], &r->req);
	}
	if (status != -EINPROGRESS) {
		l->now_ns = env_now_ns(l->env);
		if (op == SOCKET_OP_GET && status == 0)
			hist_record(&l->stats.get_local_ns, l->now_ns - r->start_ns);
		request_finish(l, r, status, l->now_ns);
		return;
	}
	r->busy = true;
	a->in_progress++;
	stat_add(&l->stats.in_progress, 1);
}

static enum socket_violation execute(
	struct socket_lane *l, struct socket_attachment *a, uint32_t slot)
{
	if (slot >= a->slots)
		return SOCKET_VIOLATION_SLOT_RANGE;
	if (a->request[slot].busy)
		return SOCKET_VIOLATION_SLOT_BUSY;
	struct socket_slot d;
	slot_copy(&d, &a->memory->slot[slot]);
	enum socket_violation why = slot_check(&d);
	if (why)
		return why;

	struct request *r = &a->request[slot];
	r->attachment = a;
	r->req.done = request_done;
	r->start_ns = l->now_ns;
	if (d.op == SOCKET_OP_NOP) {
		stat_add(&l->stats.nops, 1);
		answer(l, a, slot, 0, 0);
		return SOCKET_VIOLATION_NONE;
	}
	struct engine_key k = {
		.oid = {d.oid[0], d.oid[1], d.oid[2]}, .pool = d.pool, .index = d.index};
	int status = key_check(l, a, &d, &k);
	uint64_t pages = 0;
	if (status == 0) {
		switch (d.op) {
		case SOCKET_OP_PUT:
		case SOCKET_OP_GET:
			page_request(l, a, slot, &k, d.op);
			return SOCKET_VIOLATION_NONE;
		case SOCKET_OP_FLUSH_PAGE:
			stat_add(&l->stats.flush_pages, 1);
			status = engine_flush_page(l->engine, &k);
			break;
		default:
			stat_add(&l->stats.flush_objects, 1);
			status = engine_flush_object(l->engine, k.pool, k.oid, &pages);
			break;
		}
	}
	answer(l, a, slot, status, status ? 0 : pages);
	return SOCKET_VIOLATION_NONE;
}

static bool ring_peek(struct socket_attachment *a, uint32_t *slot)
{
	uint64_t entry = atomic_load(&a->memory->ring[a->head % SOCKET_MAX_SLOTS]);
	*slot = (uint32_t)entry;
	return (uint32_t)(entry >> 32) == a->head + 1;
}

static unsigned attachment_poll(struct socket_lane *l, struct socket_attachment *a, unsigned budget)
{
	uint32_t slot;
	unsigned n = 0;
	if (a->violation)
		return 0;
	while (n < budget && ring_peek(a, &slot)) {
		if (n++ == 0)
			l->now_ns = env_now_ns(l->env);
		a->head++;
		enum socket_violation why = execute(l, a, slot);
		if (why) {
			violate(l, a, why);
			break;
		}
	}
	if (n)
		stat_add(&a->requests, n);
	return n;
}

unsigned socket_lane_poll(struct socket_lane *l, unsigned budget)
{
	unsigned total = 0, idle = 0;
	while (total < budget && idle < l->count) {
		l->turn = l->turn + 1 < l->count ? l->turn + 1 : 0;
		unsigned left = budget - total;
		unsigned n =
			attachment_poll(l, l->attachment[l->turn], left < QUANTUM ? left : QUANTUM);
		total += n;
		idle = n ? 0 : idle + 1;
	}
	if (total)
		engine_kick(l->engine);
	return total;
}

static void sleeping_set(struct socket_lane *l, uint32_t value)
{
	for (unsigned i = 0; i < l->count; i++)
		atomic_store(&l->attachment[i]->memory->sleeping, value);
	l->asleep = value;
}

bool socket_lane_prepare_sleep(struct socket_lane *l)
{
	uint32_t slot;
	/*
	 * The client writes its ring entry, then reads `sleeping`; we write `sleeping`, then read
	 * the ring. All four are sequentially consistent, so one of the two sees the other.
	 */
	sleeping_set(l, 1);
	for (unsigned i = 0; i < l->count; i++) {
		if (!l->attachment[i]->violation && ring_peek(l->attachment[i], &slot)) {
			sleeping_set(l, 0);
			return false;
		}
	}
	stat_add(&l->stats.sleeps, 1);
	return true;
}

void socket_lane_wake(struct socket_lane *l)
{
	sleeping_set(l, 0);
}
