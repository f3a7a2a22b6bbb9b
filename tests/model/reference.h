/* The plain reference model: for each key the set of outcomes that a get may have. */
#ifndef FALLOW_TEST_REFERENCE_H
#define FALLOW_TEST_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"

/*
 * Keys come from a fixed grid: pool slots x objects x indices. A pool slot holds one pool id at a
 * time. A key's state is the set of versions that a get may see, and whether it may see a miss.
 * With no operation under way on the key the set has one member, but for puts that a crash cut
 * short (either way), and ephemeral pages, which may be gone at any time, but once seen gone stay
 * gone.
 *
 * Losses: an injected fault that destroys a copy calls ref_loss(); ref_healed() says that every
 * segment has all its copies again. A page put with R copies may be lost (-EIO) only if since its
 * put at least R copies were destroyed with no healing in between, and stays lost until overwritten
 * or flushed.
 */
#define REF_VERSIONS 6u

struct ref_config {
	unsigned pools, objects, indices;
	uint64_t salt; /* in every object id: two models never write the same page */
};

struct ref_key {
	uint32_t version[REF_VERSIONS];
	uint8_t versions;
	bool absent;	    /* a miss is possible */
	bool many;	    /* more versions than there is room for: any up to next_version - 1 */
	bool busy;	    /* something else happened while a put was pending */
	uint8_t puts, gets; /* pending */
	uint32_t next_version;
	uint64_t since; /* when the last put of a possible version began */
};

struct ref_pool {
	uint32_t id; /* 0: the slot has no pool */
	bool persistent;
	uint8_t copies; /* R */
	bool disk_safe; /* a copy on disk survives any loss of donors */
	uint16_t account;
};

/* A get under way: all that the key could be while it was. */
struct ref_get {
	bool active;
	struct ref_key seen;
	uint32_t pool;
	struct engine_key key;
	uint32_t slot;
	uint64_t started;
	bool lost; /* the key could have been lost at some moment */
};

struct ref {
	struct ref_config cfg;
	struct ref_pool *pool;
	struct ref_key *key;
	struct ref_get *get;
	unsigned gets;
	uint64_t clock;				 /* counts events */
	unsigned holes;				 /* copies destroyed since the last healing */
	uint64_t lost_at[ENGINE_MAX_COPIES + 2]; /* when holes last reached r */
	char error[640];
};

int ref_init(struct ref *m, const struct ref_config *cfg, unsigned gets);
void ref_fini(struct ref *m);

void ref_pool_made(struct ref *m, unsigned slot, const struct ref_pool *p);
void ref_pool_gone(struct ref *m, unsigned slot);
/* The grid's key; valid while the slot has a pool. */
struct engine_key ref_engine_key(const struct ref *m, uint32_t k);
unsigned ref_key_pool(const struct ref *m, uint32_t k);
uint32_t ref_keys(const struct ref *m);

/* Puts: begin gives the version to write; then end, or pending and later end. ended: 0 or -ENOSPC.
 */
uint32_t ref_put_begin(struct ref *m, uint32_t k);
void ref_put_pending(struct ref *m, uint32_t k, uint32_t version);
int ref_put_end(struct ref *m, uint32_t k, uint32_t version, bool was_pending, int status);
void ref_put_cancelled(struct ref *m, uint32_t k, uint32_t version);
/* A crash between begin and end. */
void ref_put_unknown(struct ref *m, uint32_t k, uint32_t version, bool was_pending);

/* Gets: begin, then end with what came back; cancelled ones end with -ECANCELED. -EBADMSG: wrong,
 * see error. */
unsigned ref_get_begin(struct ref *m, uint32_t k);
int ref_get_end(struct ref *m, uint32_t k, unsigned handle, int status, const void *page,
	bool timeouts_allowed);

int ref_flush_page(struct ref *m, uint32_t k, int status);
/* pages: what flush_object counted; status as the engine's. */
int ref_flush_object(struct ref *m, unsigned slot, unsigned object, int status, uint64_t pages);
/* A flush that a crash cut short: either way. */
void ref_flush_unknown(struct ref *m, uint32_t k);

void ref_loss(struct ref *m);
void ref_healed(struct ref *m);
bool ref_may_be_lost(const struct ref *m, uint32_t k);
/* How many pages must, and may at most, be stored: all, or one account's. */
void ref_pages(const struct ref *m, int account, uint64_t *least, uint64_t *most);

#endif
