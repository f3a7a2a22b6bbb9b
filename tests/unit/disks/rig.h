/* A swap disk or a cached disk over real engines, and requests as a guest would write them. */
#ifndef FALLOW_TESTS_DISKS_RIG_H
#define FALLOW_TESTS_DISKS_RIG_H

#include <linux/virtio_blk.h>

#include "client-backend/frontend/disk_cached.h"
#include "client-backend/frontend/disk_swap.h"
#include "tests/unit/engine/world.h"

#define RIG_MAX_LANES 4u
#define RIG_POOL      7u
#define RIG_BASE_POOL 9u

struct fake_image;

struct rig {
	unsigned lanes;
	uint64_t pages;
	struct world *world[RIG_MAX_LANES];
	struct disk_lane *lane[RIG_MAX_LANES];
	int epoll_fd[RIG_MAX_LANES];
	struct disk_swap *swap;
	struct fake_image *fake;      /* NULL: a swap disk */
	struct fake_image *base_fake; /* of a clone; else NULL */
	struct disk_cache *cache, *base_cache;
	struct disk_cached *cached;
	struct blk *blk;
	char lost_path[80];
};

/* change: of every lane's engine configuration; NULL for none. */
struct rig *rig_new(unsigned lanes, uint64_t pages, void (*change)(struct engine_config *cfg));
/* A cached disk of a fake image. */
struct rig *rig_new_cached(unsigned lanes, uint64_t bytes);
/* The same with a base of fewer bytes, of which it is a clone. */
struct rig *rig_new_clone(unsigned lanes, uint64_t bytes, uint64_t base_bytes);
void rig_delete(struct rig *g);
/* Ends everything as SIGKILL would and starts again on what was kept. */
void rig_crash(struct rig *g);
/* One round of every lane. */
void rig_step(struct rig *g);
/* One round of one lane. */
void rig_lane_step(struct rig *g, unsigned lane);

#define CALL_MAX_DATA (1u << 20)

/* One request: header, data and status cut into buffers. */
struct call {
	struct vhost_request r;
	struct virtio_blk_outhdr header;
	uint8_t *data; /* CALL_MAX_DATA */
	uint32_t len;
	uint8_t status;
	bool done;
	uint32_t written;
};

struct call *call_new(void);
void call_free(struct call *c);
/* Fills in the header and the buffers. in: the data is written by us. *rnd decides where the data
 * is cut; NULL: nowhere. */
void call_make(
	struct call *c, uint32_t type, uint64_t sector, uint32_t len, bool in, uint64_t *rnd);
void call_submit(struct rig *g, unsigned lane, struct call *c);
/* Runs the rig until it is done; returns the status. */
unsigned call_wait(struct rig *g, struct call *c);
/* All of it: make, submit, kick, wait. */
unsigned call_run(struct rig *g, unsigned lane, struct call *c, uint32_t type, uint64_t sector,
	uint32_t len, bool in);
uint64_t rig_random(uint64_t *rnd);

#endif
