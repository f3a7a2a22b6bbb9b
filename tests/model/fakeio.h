/* Donors and a disk as byte arrays, with I/O that is delayed, reordered and made to fail by a seed.
 */
#ifndef FALLOW_TEST_FAKEIO_H
#define FALLOW_TEST_FAKEIO_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"
#include "tests/model/rng.h"

#define FAKE_DONORS  8u
#define FAKE_REGIONS 16u /* of each donor */
#define FAKE_QUEUE   64u
#define FAKE_GUEST   ((const struct transport_memory *)(uintptr_t)0x6e75) /* of any guest */

struct fake_config {
	unsigned donors, regions; /* regions: of each donor */
	unsigned max_regions;	  /* rows of the engine's region table */
	uint32_t segment_bytes, region_segments, disk_segments;
	uint64_t delay_ns; /* most transfers take up to this */
	uint64_t slow_ns;  /* some up to this */
	uint32_t slow_ppm;
	uint32_t fail_ppm;			  /* a transfer ends with an error, half done */
	uint32_t refuse_ppm;			  /* a transfer is not started */
	uint32_t refuse_direct_ppm, scribble_ppm; /* reads into a guest's memory: are not started
						   * so; find that the guest wrote there */
	uint32_t flip_ppm; /* a bit of what a read returns is flipped (data at rest stays good) */
};

/* What outlives a killed process: in shared memory. */
struct fake_region {
	uint64_t epoch; /* of the current or last lease */
	bool leased;
	bool revoking;
};

struct fake_shared {
	struct fake_region region[FAKE_DONORS][FAKE_REGIONS];
	uint64_t next_epoch;
	uint8_t data[];
};

struct fake_transfer {
	struct engine_io *io;
	uint64_t due_ns;
	bool write;
	bool disk;
	bool abandoned;
	unsigned donor, region;
	uint64_t epoch, offset;
};

struct fake {
	struct fake_config cfg;
	struct rng *rng;
	uint64_t *now_ns;
	struct fake_shared *shared;
	uint8_t *disk;
	size_t shared_bytes;
	bool up[FAKE_DONORS];
	struct fake_transfer queue[FAKE_QUEUE];
	unsigned queued;
	unsigned wanted; /* regions the engine wants */
	void *base;	 /* the engine's memory */
	size_t base_bytes;
	void *guest; /* memory that is FAKE_GUEST's */
	size_t guest_bytes;
	uint64_t scribbles, abandons;
	uint64_t flips, failures, refusals, bad_data;
	/* Called when a read is about to be spoilt, and when a donor's data were found bad. */
	void (*on_flip)(void *ctx);
	void *ctx;
	char error[256]; /* the engine broke its contract; "" when not */
};

extern const struct engine_ops fake_ops; /* ctx: struct fake */

int fake_init(struct fake *f, const struct fake_config *cfg, struct rng *rng, uint64_t *now_ns);
void fake_fini(struct fake *f);
/* A new engine over the same donors: its regions in the arena decide what is leased. */
void fake_bind(struct fake *f, struct engine *e);
/* Completes what is due; returns how many. */
unsigned fake_poll(struct fake *f);
/* A transfer that writes to this page is under way. */
bool fake_writes_to(const struct fake *f, const void *page);
/* The process is gone: transfers are cut off, some having taken effect in part. */
void fake_crash(struct fake *f);
/* Leases a region to the engine; false when there is none, or the engine has no room. */
bool fake_region_lease(struct fake *f, struct engine *e);
/* Asks a random region back; false when there is none to ask for. */
bool fake_region_revoke(struct fake *f, struct engine *e);
/* Destroys everything that a donor holds, then tells the engine. */
void fake_donor_lose(struct fake *f, struct engine *e, unsigned donor);
void fake_donor_set(struct fake *f, struct engine *e, unsigned donor, bool up);
/* How many regions are leased now. */
unsigned fake_leased(const struct fake *f);

#endif
