/* The registry of pools: who may open what, ids that are never used twice, what a restart finds. */
#ifndef FALLOW_POOLS_H
#define FALLOW_POOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/call.h"
#include "client-backend/engine/engine.h"
#include "lib/core/stats.h"

/*
 * Pure logic for the control thread: no socket, no clock. Lanes are asked through pools_ops.
 *  - A private pool with a name belongs to its owner (a client identity) and lives until it is
 * destroyed.
 *  - A private pool without a name belongs to a session and ends with pools_session_end().
 *  - A shared pool is found by its uuid by whoever shows the secret; it belongs to who made it, and
 * only the owner may destroy it.
 */
struct pools;

enum pools_codec { POOLS_CODEC_DEFAULT, POOLS_CODEC_NONE, POOLS_CODEC_LZ4, POOLS_CODEC_ZSTD };
enum pools_disk { POOLS_DISK_DEFAULT, POOLS_DISK_NEVER, POOLS_DISK_OVERFLOW, POOLS_DISK_MIRROR };

struct pools_config {
	unsigned lanes;
	unsigned max_pools_per_owner; /* 1..ENGINE_MAX_POOLS */
	uint8_t codec;		      /* enum engine_codec, for those who ask for the default */
	uint8_t copies;		      /* 1..ENGINE_MAX_COPIES */
	uint8_t disk;		      /* enum engine_disk_policy */
	bool have_disk; /* false: a pool that asks for overflow or mirror is refused with -ENODEV */
	uint32_t next_id; /* the last value given to reserve_ids(), or 1 on the first start ever */
	/* Optional; ctx: as of pools_new(). 0, or -EPERM when the account may not have pools with
	 * these flags (enum engine_pool_flag). *max_pools is max_pools_per_owner, and may be
	 * lowered for this account. */
	int (*rights)(void *ctx, unsigned account, uint32_t flags, unsigned *max_pools);
};

struct pools_ops {
	/* Asks every lane for engine_pool_add(d); answers when all have, with the first error. d is
	 * valid only during the call. */
	void (*lanes_add)(void *ctx, const struct engine_pool_desc *d, struct backend_call *call);
	/* engine_pool_destroy(id) in every lane; -ENOENT of a lane is no error. */
	void (*lanes_destroy)(void *ctx, uint32_t id, struct backend_call *call);
	/* value: the sum of engine_pool_pages(id) over the lanes. */
	void (*lanes_pages)(void *ctx, uint32_t id, struct backend_call *call);
	/* Keeps next_id where the next start finds it (pools_config.next_id), before any id below
	 * it is used; called once in 256 ids. A negative errno: no pool is made. */
	int (*reserve_ids)(void *ctx, uint32_t next_id);
};

/* What a client asks for. */
struct pools_request {
	const char *owner; /* identity */
	unsigned account;
	const uint8_t *session;	      /* 16 bytes, the session's token */
	uint32_t flags;		      /* enum engine_pool_flag, without ENGINE_POOL_SPILL */
	bool spill;		      /* an ephemeral pool with it; clients cannot ask for that */
	uint32_t id;		      /* the pool that the session had, after a resume; else 0 */
	const char *name;	      /* "" for none */
	const uint8_t *uuid, *secret; /* 16 bytes each; shared pools */
	uint8_t codec;		      /* enum pools_codec */
	uint8_t copies;		      /* 0: the default */
	uint8_t disk;		      /* enum pools_disk */
};

struct pools_stats {
	stat_t opened, reopened, joined, destroyed;
	stat_t refused_secret, refused_conflict, refused_limit, refused_invalid, refused_owner,
		refused_rights;
	stat_t incomplete; /* found at a restart in some lanes only, and destroyed */
	stat_t pools;	   /* gauge */
};

int pools_new(
	const struct pools_config *cfg, const struct pools_ops *ops, void *ctx, struct pools **out);
/* No call may be under way. */
void pools_delete(struct pools *p);

/*
 * At start: every row of every lane (engine_pool_row), then pools_adopted(), which keeps the pools
 * that every lane has and asks the lanes to destroy the others. Before that, pools_open() must not
 * be called.
 */
int pools_adopt(struct pools *p, unsigned lane, const struct engine_pool_desc *d);
void pools_adopted(struct pools *p);

/*
 * call->done(value = the pool's id); status: -EINVAL flags, name, uuid or a choice makes no sense;
 * -EACCES wrong secret; -EPERM the account may not have such pools; -EEXIST there is such a pool
 * with other properties; -EDQUOT the owner has too many; -ENOSPC no row or id left; -ENODEV no disk
 * tier; or a lane's error. Strings are copied. May allocate.
 */
void pools_open(struct pools *p, const struct pools_request *r, struct backend_call *call);
/* -ENOENT; -EPERM not the owner (for an unnamed pool: another session). From done() on, no key is
 * found. */
void pools_destroy(struct pools *p, const char *owner, const uint8_t session[16], uint32_t id,
	struct backend_call *call);
/* value: pages. -ENOENT. */
void pools_pages(struct pools *p, uint32_t id, struct backend_call *call);
/* Destroys the unnamed pools of a session in the background. */
void pools_session_end(struct pools *p, const uint8_t session[16]);
/* True when nothing asked of the lanes is unanswered. */
bool pools_idle(const struct pools *p);

/* For status and resumption: live pools in order of id; *cursor starts at 0. NULL: no more. */
const struct engine_pool_desc *pools_next(const struct pools *p, uint32_t *cursor);
const struct engine_pool_desc *pools_find(const struct pools *p, uint32_t id); /* NULL: none */
const struct pools_stats *pools_stats(const struct pools *p);
unsigned pools_max_per_owner(const struct pools *p);

#endif
