/* One run of the model test: an engine, its fake donors and the reference model, driven by a seed.
 */
#ifndef FALLOW_TEST_RUN_H
#define FALLOW_TEST_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"
#include "tests/model/fakeio.h"
#include "tests/model/reference.h"
#include "tests/model/rng.h"

#define RUN_REQS     24u
#define RUN_ACCOUNTS 3u
#define RUN_POOLS    6u

/* What the child of the crash test tells its parent before and after each call. */
struct run_log;

struct run_req {
	struct engine_req req;
	struct run *run;
	bool active, put;
	uint32_t k, version;
	uint32_t pool;
	unsigned handle; /* of the get */
	uint64_t start_ns;
	uint32_t log; /* entry of the crash log */
	uint8_t page[ENGINE_PAGE_BYTES], guest[ENGINE_PAGE_BYTES];
};

/* A hard grant of the pool in a slot. */
struct run_grant {
	uint32_t id; /* the pool's; 0: none */
	uint64_t pages;
	uint64_t asked; /* what the engine was told, and counts */
	bool kept;	/* else it is asked for */
};

struct run_options {
	uint64_t seed, ops;
	const char *dir; /* for the arena; tmpfs is fastest */
};

struct run {
	struct run_options opt;
	struct rng rng; /* decides what happens */
	uint64_t now_ns;
	uint64_t rng_engine; /* the engine's own random numbers */
	struct env env;
	struct engine_config cfg;
	struct engine *e;
	struct fake fake;
	struct ref ref;
	struct engine_quota quota[RUN_ACCOUNTS];
	struct run_req req[RUN_REQS];
	unsigned reqs;
	uint64_t next_tick;
	uint32_t next_pool_id;
	char arena[256];
	uint64_t pace_ns;      /* most that usually passes between two steps */
	bool faults;	       /* this run injects losses and transfer errors */
	bool wild;	       /* more losses than copies may happen */
	bool quiet;	       /* the end of a run: no faults, nothing slow */
	uint64_t disrupted_ns; /* gets may time out until then */
	bool hammer;	       /* far more is put than there is room for */
	bool grants;	       /* some pools are promised room */
	bool cache;	       /* many ephemeral pools */
	struct run_grant grant[RUN_POOLS];
	bool taken;	     /* room was taken away and is not made up for yet */
	uint64_t short_ns;   /* when promised room was last short */
	struct run_log *log; /* NULL outside of the crash test's child */
	uint64_t puts, puts_refused, gets, misses, lost, timeouts, flushes, pools, reopens, crashes,
		losses, revokes, leases, checks;
	uint64_t grants_kept, grants_waited, puts_granted, granted_short;
	uint64_t gets_direct, direct_unlike, direct_abandoned;
	uint64_t gets_remote, gets_disk, spilled, repaired, cleaned, to_disk, evicted;
	uint64_t kept_read, known, ephemeral_spilled, ephemeral_dropped;
	char error[768]; /* the first thing that went wrong */
};

/* Everything follows from opt->seed. 0, or negative with run->error set. */
int run_init(struct run *r, const struct run_options *opt);
void run_fini(struct run *r);
int run_open(struct run *r);
/* One random operation, and the time that passes after it. */
int run_step(struct run *r);
/* Only client calls (for the crash test's child). */
int run_client_step(struct run *r);
/* Lets time pass: completions, ticks, background work. */
void run_advance(struct run *r, uint64_t ns);
/* Crash between calls, then reopen. */
int run_crash(struct run *r);
/* No fault any more: everything is read back, flushed, and must leave nothing behind. */
int run_finish(struct run *r);
int run_check(struct run *r);
int run_fail(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Background and failures (world.c). */
int run_world_step(struct run *r);
int run_reopen(struct run *r);
/* Adds up the engine's counters before it ends. */
void run_count(struct run *r);
bool run_timeouts_allowed(const struct run *r);

/* Promises (client.c): asks for what is not kept yet. */
int run_grants_ask(struct run *r);
/* What an account pays for beyond its pages. */
uint64_t run_grants_unused(const struct run *r, unsigned account);
/* After the engine was opened again: what was kept is there, the rest is not. */
int run_grants_check(struct run *r);

/* Client calls (client.c). */
int run_put(struct run *r, uint32_t k);
int run_get(struct run *r, uint32_t k);
int run_flush_page(struct run *r, uint32_t k);
int run_flush_object(struct run *r, unsigned slot, unsigned object);
int run_pool_make(struct run *r, unsigned slot);
int run_pool_destroy(struct run *r, unsigned slot);
/* After a crash: what was under way either happened or not. */
void run_forget_requests(struct run *r);

/* The crash log (crash.c); all are no-ops when r->log is NULL. */
enum run_event { RUN_PUT, RUN_FLUSH_PAGE, RUN_FLUSH_OBJECT };
uint32_t run_log_begin(struct run *r, enum run_event kind, uint32_t k, uint32_t version);
void run_log_pending(struct run *r, uint32_t entry);
void run_log_end(struct run *r, uint32_t entry, int status, uint64_t pages);

#endif
