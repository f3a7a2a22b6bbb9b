/* Donors that are plain memory in this process, and a local engine over them: for benches of the
 * engine alone. */
#ifndef FALLOW_BENCH_FAKE_DONORS_H
#define FALLOW_BENCH_FAKE_DONORS_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"

#define FAKE_DONORS 4u

struct fake_donors {
	struct engine *engine;
	uint8_t *region[1024];
	unsigned regions, max_regions;
	uint64_t region_bytes;
	struct engine_io *queue[4096];
	bool write[4096];
	unsigned queued;
	unsigned wanted;
	uint64_t released;
};

/* ops_ctx is the struct fake_donors. */
extern const struct engine_ops fake_donors_ops;

/* Copies what was started, then ends it; grants the regions that were asked for. */
void fake_donors_run(struct fake_donors *d);
void fake_donors_free(struct fake_donors *d);

#endif
