/* What the parts of libfallow share: the connection, its lanes, and a request under way. */
#ifndef FALLOW_LIB_CLIENT_H
#define FALLOW_LIB_CLIENT_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "client-backend/engine/engine.h"
#include "fallow/fallow.h"
#include "proto/socket_proto.h"

#define CLIENT_CONNECT_TIMEOUT_MS 10000u
#define CLIENT_CHECK_MS		  20u /* a waiter looks this often whether the backend is alive */

/* Everything but the atomics changes only while the connection is dead and every lane is closed. */
struct client_lane {
	_Alignas(64) _Atomic uint64_t free; /* bit per slot: not claimed by any thread */
	_Atomic uint32_t tail;		    /* the next ring position to be written */
	_Atomic uint32_t released;	    /* futex word of those who wait for a slot */
	_Atomic uint32_t claim_waiters;
	_Atomic uint32_t queued; /* slots that queues hold */
	struct socket_lane_memory *memory;
	int doorbell_fd;
};

struct fallow_pool {
	struct fallow *f;
	struct fallow_pool *next;     /* control_lock */
	_Atomic uint32_t id;	      /* 0: could not be opened again */
	struct socket_pool_open open; /* how to open it again */
};

/*
 * state: generation of the session << 1 | alive. A request remembers it from before its claim; once
 * it has changed, the request's session is gone.
 */
struct fallow {
	_Atomic uint32_t state;
	_Atomic uint32_t lanes, slots;
	unsigned spin;		  /* looks at an answer before the first sleep */
	_Atomic uint32_t poll_us; /* and for this long after them */
	struct client_lane lane[SOCKET_MAX_LANES];

	pthread_mutex_t control_lock; /* the socket's frames, pools, queues, reconnecting */
	int fd; /* one number for life: a new session's socket is dup3()ed onto it */
	uint32_t sequence;
	bool closed;	 /* every lane's slots are taken out of use for a reconnect */
	bool pages_lost; /* a pool came back anew, and the caller was not told yet */
	uint32_t request_timeout_ms;
	uint8_t token[SOCKET_TOKEN_BYTES];
	void *base;
	size_t len_bytes;
	struct fallow_pool *pools;
	struct fallow_queue *queues;
	char path[108];
};

/* A claimed slot. */
struct client_request {
	struct client_lane *lane;
	uint32_t slot;
	uint32_t state; /* of the connection when it was claimed */
};

/* How long somebody has looked for an answer; zeros to begin with. */
struct client_poll {
	unsigned rounds;
	uint64_t until_ns;
};

/* request.c */
/* True: look again. False: sleep. */
bool client_poll_again(const struct fallow *f, struct client_poll *p);

/* session.c */
bool client_alive(const struct fallow *f, uint32_t state);
/* Ends the session with this state, if it is still the one; others notice by the state. */
void client_kill(struct fallow *f, uint32_t state);
/* Asks the kernel whether the backend's end is still open; kills the session if not. */
bool client_check(struct fallow *f, uint32_t state);
/* Sends a question and waits for its answer; control_lock held. *answer is defined when it returns
 * a status that the backend sent; -ESHUTDOWN the session is gone. */
int client_ask(struct fallow *f, int fd, void *question, struct socket_answer *answer);
uint64_t client_now_ms(void);

/* request.c */
/* Claims a slot of a lane. state: as client_state() told it. wait false: -EAGAIN when none is free;
 * else -EBUSY when none came free in time. -ESHUTDOWN. */
int client_claim(
	struct fallow *f, uint32_t state, unsigned lane, bool wait, struct client_request *r);
void client_release(struct client_request *r);
/* Fills the slot and hands it to the lane. page: 4096 bytes of a put, else NULL. */
void client_submit(
	struct client_request *r, enum socket_op op, const struct engine_key *k, const void *page);
bool client_done(const struct client_request *r);
/* Waits for the answer, bounded; then takes it: returns the status and releases the slot. page:
 * where a get's page goes, or NULL. result: may be NULL. */
int client_wait(struct fallow *f, struct client_request *r, void *page, uint64_t *result);
/* The same for one that is done. */
int client_take(struct client_request *r, void *page, uint64_t *result);

static inline uint32_t client_state(const struct fallow *f)
{
	return atomic_load((_Atomic uint32_t *)&f->state);
}

/* The key and lane of a page as of now; -ESHUTDOWN, or -ENOENT when the pool is not open. */
static inline int client_key(const struct fallow_pool *p, const struct fallow_oid *oid,
	uint32_t index, struct engine_key *k, unsigned *lane, uint32_t *state)
{
	*state = client_state(p->f);
	if (!(*state & 1))
		return -ESHUTDOWN;
	*k = (struct engine_key){.oid = {oid->w[0], oid->w[1], oid->w[2]},
		.pool = atomic_load((_Atomic uint32_t *)&p->id),
		.index = index};
	if (!k->pool)
		return -ENOENT;
	*lane = engine_key_lane(k, atomic_load((_Atomic uint32_t *)&p->f->lanes));
	return 0;
}

/* queue.c */
/* control_lock held, or no other thread uses f. */
bool client_queues_busy(const struct fallow *f);

#endif
