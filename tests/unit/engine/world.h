/* An engine with a hand-turned clock and donors of plain memory, for tests that decide what each
 * transfer does. */
#ifndef FALLOW_TESTS_ENGINE_WORLD_H
#define FALLOW_TESTS_ENGINE_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"

#define WORLD_DONORS  4u
#define WORLD_REGIONS 32u
#define WORLD_SEGMENT 65536u

enum donor_mood { DONOR_FINE, DONOR_REFUSES, DONOR_SILENT, DONOR_FLIPS_BITS, DONOR_UNREACHABLE };

struct world {
	struct engine *e;
	struct engine_config cfg;
	struct engine_quota quota[4];
	uint64_t now_ns, rnd;
	char path[64];
	uint8_t *memory[WORLD_REGIONS]; /* by region id */
	uint8_t *disk;
	enum donor_mood mood[WORLD_DONORS];
	struct engine_io *queue[1024];
	bool write[1024];
	unsigned queued;
	uint64_t asked[2]; /* transfers that the engine asked for: reads, writes */
	unsigned wanted, released, bad_data;
	bool wanted_ephemeral;
	bool spare[WORLD_REGIONS]; /* what the engine said last */
	unsigned regions;
	unsigned per_step;		   /* transfers that end in a step, oldest first; 0: all */
	bool give_regions;		   /* grant what the engine asks for */
	bool refuse_direct, silent_direct; /* of reads into callers' own memory */
	void (*on_direct)(struct engine_io *io); /* such a read has written, and not ended yet */
	struct engine_io *abandoned[8];
	unsigned abandons;
};

struct world *world_new(void);
/* As world_new(), but the configuration can be changed first. */
struct world *world_new_with(void (*change)(struct engine_config *cfg));
void world_delete(struct world *w);
/* Ends the engine like SIGKILL and opens its arena again. */
void world_crash(struct world *w);
/* Lets time pass and transfers end until nothing more happens, at most `ms` of virtual time. */
void world_run(struct world *w, unsigned ms);
/* A region of 16 segments from a donor. Returns its index. */
unsigned world_grant(struct world *w, unsigned donor);
void world_pool(struct world *w, uint32_t id, uint32_t flags, unsigned account, uint8_t copies,
	uint8_t disk);

/* Each runs the world until the request is done. seed decides the contents. */
int world_put(struct world *w, uint32_t pool, uint32_t index, uint64_t seed);
/* 1: other bytes than put with this seed. */
int world_get(struct world *w, uint32_t pool, uint32_t index, uint64_t seed);
/* engine_check(), with the reason printed. */
bool world_sane(struct world *w);
void world_page(uint8_t *page, uint64_t seed);

#endif
