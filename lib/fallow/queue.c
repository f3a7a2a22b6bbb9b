/* Asynchronous requests: a queue of one thread, polled or waited for. */
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/fallow/client.h"

#define QUEUE_MAX_DEPTH	  128u /* as many words as futex_waitv(2) takes */
#define CHECK_EMPTY_POLLS 256u /* polls without a result before the backend is looked at */

struct queued {
	struct client_request request;
	uint64_t tag, start_ms;
	void *page; /* get */
};

/* Used by one thread at a time; next under the connection's control_lock. */
struct fallow_queue {
	struct fallow *f;
	struct fallow_queue *next;
	_Atomic uint32_t count; /* written by the owner, read by a reconnect */
	unsigned depth, empty_polls;
	struct queued entry[QUEUE_MAX_DEPTH]; /* the oldest first */
};

bool client_queues_busy(const struct fallow *f)
{
	for (const struct fallow_queue *q = f->queues; q; q = q->next)
		if (q->count)
			return true;
	return false;
}

int fallow_queue_new(struct fallow *f, unsigned depth, struct fallow_queue **out)
{
	if (!f || !out || depth < 1 || depth > QUEUE_MAX_DEPTH)
		return -EINVAL;
	struct fallow_queue *q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->f = f;
	q->depth = depth;
	pthread_mutex_lock(&f->control_lock);
	q->next = f->queues;
	f->queues = q;
	pthread_mutex_unlock(&f->control_lock);
	*out = q;
	return 0;
}

void fallow_queue_delete(struct fallow_queue *q)
{
	struct fallow_result dropped[16];
	if (!q)
		return;
	/* Ends: a request that is not answered in time ends its session. */
	while (q->count)
		fallow_queue_wait(q, dropped, 16, 1000);
	struct fallow *f = q->f;
	pthread_mutex_lock(&f->control_lock);
	struct fallow_queue **at = &f->queues;
	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	pthread_mutex_unlock(&f->control_lock);
	free(q);
}

/* Half of a lane's slots are kept for the synchronous calls. */
static int lane_reserve(struct fallow *f, struct client_lane *l)
{
	uint32_t most = (f->slots + 1) / 2;
	if (atomic_fetch_add(&l->queued, 1) < most)
		return 0;
	atomic_fetch_sub(&l->queued, 1);
	return -EAGAIN;
}

int fallow_queue_submit(struct fallow_queue *q, struct fallow_pool *p, int op,
	const struct fallow_oid *oid, uint32_t index, void *page, uint64_t tag)
{
	static const enum socket_op ops[] = {[FALLOW_OP_PUT] = SOCKET_OP_PUT,
		[FALLOW_OP_GET] = SOCKET_OP_GET,
		[FALLOW_OP_FLUSH_PAGE] = SOCKET_OP_FLUSH_PAGE};
	struct engine_key k;
	unsigned lane;
	uint32_t state;
	if (!q || !p || p->f != q->f || !oid || op < FALLOW_OP_PUT || op > FALLOW_OP_FLUSH_PAGE ||
		(op != FALLOW_OP_FLUSH_PAGE && !page))
		return -EINVAL;
	if (q->count == q->depth)
		return -EAGAIN;
	struct queued *e = &q->entry[q->count];
	int err = client_key(p, oid, index, &k, &lane, &state);
	if (err)
		return err;
	err = lane_reserve(q->f, &q->f->lane[lane]);
	if (err)
		return err;
	err = client_claim(q->f, state, lane, false, &e->request);
	if (err) {
		atomic_fetch_sub(&q->f->lane[lane].queued, 1);
		return err;
	}
	e->tag = tag;
	e->page = op == FALLOW_OP_GET ? page : NULL;
	e->start_ms = client_now_ms();
	q->count++;
	client_submit(&e->request, ops[op], &k, op == FALLOW_OP_PUT ? page : NULL);
	return 0;
}

static void entry_finish(struct fallow_queue *q, struct queued *e, struct fallow_result *out)
{
	struct client_lane *l = e->request.lane;
	out->tag = e->tag;
	out->status = -ESHUTDOWN;
	/* Before the slot is given back: after that a reconnect may go on. */
	atomic_fetch_sub(&l->queued, 1);
	if (client_done(&e->request))
		out->status = client_take(&e->request, e->page, NULL);
	else
		client_release(&e->request);
}

/* Moves what is done, or lost with its session, into results and closes the gaps. */
static unsigned results_take(struct fallow_queue *q, struct fallow_result *results, unsigned max)
{
	unsigned taken = 0, kept = 0, count = q->count;
	for (unsigned i = 0; i < count; i++) {
		struct queued *e = &q->entry[i];
		if (taken < max &&
			(client_done(&e->request) || !client_alive(q->f, e->request.state)))
			entry_finish(q, e, &results[taken++]);
		else if (kept++ != i)
			q->entry[kept - 1] = *e;
	}
	q->count = kept;
	return taken;
}

/* The backend is gone, or does not answer the oldest request in time: then all are lost. */
static void session_check(struct fallow_queue *q)
{
	struct queued *oldest = &q->entry[0];
	if (client_check(q->f, oldest->request.state) &&
		client_now_ms() - oldest->start_ms > q->f->request_timeout_ms)
		client_kill(q->f, oldest->request.state);
}

int fallow_queue_poll(struct fallow_queue *q, struct fallow_result *results, unsigned max)
{
	if (!q || (max && !results))
		return -EINVAL;
	unsigned n = results_take(q, results, max);
	if (n) {
		q->empty_polls = 0;
	} else if (q->count && ++q->empty_polls >= CHECK_EMPTY_POLLS) {
		q->empty_polls = 0;
		session_check(q);
		n = results_take(q, results, max);
	}
	return (int)n;
}

/* Sleeps until one of the requests is done, at most ms. */
static void any_sleep(struct fallow_queue *q, unsigned ms)
{
	struct futex_waitv wait[QUEUE_MAX_DEPTH];
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ms * 1000000l;
	until.tv_sec += until.tv_nsec / 1000000000l;
	until.tv_nsec %= 1000000000l;
	for (unsigned i = 0; i < q->count; i++) {
		struct client_request *r = &q->entry[i].request;
		_Atomic uint32_t *state = &r->lane->memory->slot[r->slot].state;
		uint32_t busy = SOCKET_SLOT_BUSY;
		atomic_compare_exchange_strong(state, &busy, SOCKET_SLOT_BUSY_WAITED);
		wait[i] = (struct futex_waitv){.val = SOCKET_SLOT_BUSY_WAITED,
			.uaddr = (uintptr_t)state,
			.flags = FUTEX_32};
	}
	if (syscall(SYS_futex_waitv, wait, q->count, 0, &until, CLOCK_MONOTONIC) < 0 &&
		errno == ENOSYS) {
		/* An old kernel waits for one; the others are looked at again soon. */
		struct timespec pause = {.tv_nsec = 500000};
		syscall(SYS_futex, (void *)(uintptr_t)wait[0].uaddr, FUTEX_WAIT,
			SOCKET_SLOT_BUSY_WAITED, &pause, NULL, 0);
	}
}

int fallow_queue_wait(
	struct fallow_queue *q, struct fallow_result *results, unsigned max, unsigned timeout_ms)
{
	if (!q || !results || !max)
		return -EINVAL;
	struct client_poll poll = {0};
	do {
		unsigned n = results_take(q, results, max);
		if (n || !q->count)
			return (int)n;
	} while (client_poll_again(q->f, &poll));
	uint64_t until_ms = client_now_ms() + timeout_ms;
	for (;;) {
		uint64_t now_ms = client_now_ms();
		uint64_t left_ms = now_ms < until_ms ? until_ms - now_ms : 0;
		if (!left_ms)
			return 0;
		any_sleep(q, left_ms < CLIENT_CHECK_MS ? (unsigned)left_ms : CLIENT_CHECK_MS);
		unsigned n = results_take(q, results, max);
		if (n)
			return (int)n;
		session_check(q);
		n = results_take(q, results, max);
		if (n)
			return (int)n;
	}
}
