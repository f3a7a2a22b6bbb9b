/* A request's way through shared memory: claim a slot, hand it to the lane, wait for the answer. */
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/fallow/client.h"

#define CLOCK_ROUNDS 32u /* looks between two at the clock */

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * Whoever asked for polling has a processor for it, and does not PAUSE: in a virtual machine that
 * leaves the guest (pause-loop exiting; under emulation each one takes a lock that the devices
 * need), and the answer that is waited for came later by a tenth.
 */
bool client_poll_again(const struct fallow *f, struct client_poll *p)
{
	uint32_t poll_us = atomic_load_explicit(&f->poll_us, memory_order_relaxed);
	if (!poll_us) {
		cpu_pause();
		return p->rounds++ < f->spin;
	}
	if (p->rounds++ % CLOCK_ROUNDS)
		return true;
	uint64_t now = now_ns();
	if (!p->until_ns)
		p->until_ns = now + poll_us * 1000ull;
	return now < p->until_ns;
}

static void futex_wait_ms(_Atomic uint32_t *word, uint32_t value, unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
	syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
}

static bool slot_claim(struct client_lane *l, uint32_t *slot)
{
	uint64_t bits = atomic_load_explicit(&l->free, memory_order_relaxed);
	while (bits) {
		/* The lowest first, so that one thread keeps to pages that are in the cache. */
		if (atomic_compare_exchange_weak(&l->free, &bits, bits & (bits - 1))) {
			*slot = (uint32_t)__builtin_ctzll(bits);
			return true;
		}
	}
	return false;
}

static int slot_claim_wait(struct fallow *f, uint32_t state, struct client_lane *l, uint32_t *slot)
{
	uint64_t until_ms = client_now_ms() + f->request_timeout_ms;
	int err = 0;
	atomic_fetch_add(&l->claim_waiters, 1);
	for (;;) {
		uint32_t seen = atomic_load(&l->released);
		if (slot_claim(l, slot))
			break;
		if (!client_check(f, state)) {
			err = -ESHUTDOWN;
			break;
		}
		if (client_now_ms() >= until_ms) {
			err = -EBUSY;
			break;
		}
		futex_wait_ms(&l->released, seen, CLIENT_CHECK_MS);
	}
	atomic_fetch_sub(&l->claim_waiters, 1);
	return err;
}

int client_claim(
	struct fallow *f, uint32_t state, unsigned lane, bool wait, struct client_request *r)
{
	r->lane = &f->lane[lane];
	r->state = state;
	if (!slot_claim(r->lane, &r->slot)) {
		if (!client_alive(f, state))
			return -ESHUTDOWN;
		int err = wait ? slot_claim_wait(f, state, r->lane, &r->slot) : -EAGAIN;
		if (err)
			return err;
	}
	/* A reconnect closes the lanes only while no slot is claimed; so from here on it cannot
	 * happen. */
	if (client_alive(f, state))
		return 0;
	client_release(r);
	return -ESHUTDOWN;
}

void client_release(struct client_request *r)
{
	struct client_lane *l = r->lane;
	atomic_fetch_or(&l->free, 1ull << r->slot);
	if (atomic_load(&l->claim_waiters)) {
		atomic_fetch_add(&l->released, 1);
		syscall(SYS_futex, &l->released, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
}

void client_submit(
	struct client_request *r, enum socket_op op, const struct engine_key *k, const void *page)
{
	struct client_lane *l = r->lane;
	struct socket_lane_memory *m = l->memory;
	struct socket_slot *s = &m->slot[r->slot];
	s->oid[0] = k->oid[0];
	s->oid[1] = k->oid[1];
	s->oid[2] = k->oid[2];
	s->pool = k->pool;
	s->index = k->index;
	s->op = (uint8_t)op;
	if (page)
		memcpy(m->page[r->slot], page, SOCKET_PAGE_BYTES);
	atomic_store_explicit(&s->state, SOCKET_SLOT_BUSY, memory_order_relaxed);
	uint32_t at = atomic_fetch_add_explicit(&l->tail, 1, memory_order_relaxed);
	/* Sequentially consistent, as the lane's side is: see socket_lane_prepare_sleep(). */
	atomic_store(&m->ring[at % SOCKET_MAX_SLOTS], (uint64_t)(at + 1) << 32 | r->slot);
	if (atomic_load(&m->sleeping) && atomic_exchange(&m->sleeping, 0)) {
		uint64_t one = 1;
		ssize_t n = write(l->doorbell_fd, &one, sizeof(one));
		(void)n; /* it is nonblocking; full means rung */
	}
}

bool client_done(const struct client_request *r)
{
	return atomic_load_explicit(&r->lane->memory->slot[r->slot].state, memory_order_acquire) ==
	       SOCKET_SLOT_DONE;
}

int client_take(struct client_request *r, void *page, uint64_t *result)
{
	const struct socket_lane_memory *m = r->lane->memory;
	int status = m->slot[r->slot].status;
	if (status == 0 && page)
		memcpy(page, m->page[r->slot], SOCKET_PAGE_BYTES);
	if (result)
		*result = m->slot[r->slot].result;
	client_release(r);
	return status;
}

/* Sleeps until the slot is done; -ESHUTDOWN when the session ended or time ran out. */
static int done_sleep(struct fallow *f, struct client_request *r)
{
	_Atomic uint32_t *state = &r->lane->memory->slot[r->slot].state;
	uint64_t until_ms = client_now_ms() + f->request_timeout_ms;
	/* One that is behind another of the same batch need not find out by itself. */
	if (!client_alive(f, r->state))
		return client_done(r) ? 0 : -ESHUTDOWN;
	for (;;) {
		uint32_t busy = SOCKET_SLOT_BUSY;
		atomic_compare_exchange_strong(state, &busy, SOCKET_SLOT_BUSY_WAITED);
		futex_wait_ms(state, SOCKET_SLOT_BUSY_WAITED, CLIENT_CHECK_MS);
		if (client_done(r))
			return 0;
		if (!client_check(f, r->state))
			return client_done(r) ? 0 : -ESHUTDOWN;
		if (client_now_ms() >= until_ms)
			client_kill(f, r->state);
	}
}

int client_wait(struct fallow *f, struct client_request *r, void *page, uint64_t *result)
{
	struct client_poll poll = {0};
	bool done;
	while (!(done = client_done(r)) && client_poll_again(f, &poll))
		;
	int err = done ? 0 : done_sleep(f, r);
	if (err) {
		client_release(r);
		return err;
	}
	return client_take(r, page, result);
}
