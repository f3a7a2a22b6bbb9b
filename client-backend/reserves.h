/* Hard grants: pages promised to a pool, spread over the lanes, all of them or none. */
#ifndef FALLOW_BACKEND_RESERVES_H
#define FALLOW_BACKEND_RESERVES_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "client-backend/call.h"
#include "client-backend/engine/engine.h"
#include "lib/core/env.h"

/*
 * Control thread. A grant promises room for `pages` pages of one object of a pool, indices 0 to
 * pages - 1, whatever they compress to: index entries, the object's rows, segments and bytes. Each
 * lane keeps its part in its arena (engine_pool_reserve()), so a restart finds it. The account pays
 * for all the pages at once.
 */
struct reserves;

struct reserves_ops {
	/* engine_pool_reserve() in one lane; value: *possible_pages. */
	void (*lane_reserve)(void *ctx, unsigned lane, uint32_t pool,
		const struct engine_reservation *r, bool keep_asking, struct backend_call *call);
};

/* Owned by whoever asks, embedded in its own struct, untouched until done() was called. */
struct reserves_call {
	/*
	 * Called once, on the control thread, from within reserves_set() or later, at most
	 * limit_ns (and a lane's answer) after it. status: 0; -ENOSPC there is no room; -EDQUOT the
	 * account's quota does not allow it; -ENOENT no such pool; -EBUSY another reserves_set() of
	 * this pool is under way; -ECANCELED reserves_stop(); -ENOMEM; -EINVAL more than 2^32
	 * pages. Unless it is 0 everything is as it was before.
	 */
	void (*done)(struct reserves_call *c, int status);
	uint64_t pages;		 /* what was asked for */
	uint64_t possible_pages; /* -ENOSPC: about how many could be had, if all lanes' parts are to
				    fit */
	char why[192];		 /* not 0: one sentence with figures, for a person */
};

int reserves_new(struct event_base *base, const struct env *env, unsigned lanes,
	const struct reserves_ops *ops, void *ctx, struct reserves **out);
/* At start, for every pool of every lane: what its arena holds (engine_pool_reserved()). */
int reserves_adopt(
	struct reserves *s, unsigned lane, uint32_t pool, const struct engine_reservation *r);
/*
 * Sets the grant of a pool (0: gives it back). pool: as of pools_open(); persistent. Idempotent:
 * what a lane has already, it has. While a lane lacks room, it asks donors for regions, until
 * limit_ns have passed: a few seconds are right where donors are. May allocate.
 */
void reserves_set(struct reserves *s, uint32_t pool, const uint64_t oid[3], uint64_t pages,
	uint64_t limit_ns, struct reserves_call *c);
/* The pages granted to a pool over all lanes; 0: none. A pool's grant ends with the pool: tell it.
 */
uint64_t reserves_pages(const struct reserves *s, uint32_t pool);
void reserves_pool_ended(struct reserves *s, uint32_t pool);
/* Ends what is under way with -ECANCELED; reserves_idle(): the lanes have answered everything. */
void reserves_stop(struct reserves *s);
bool reserves_idle(const struct reserves *s);
void reserves_delete(struct reserves *s);

#endif
