/* A swap disk or a cached disk over real engines, and requests as a guest would write them. */
#include "tests/unit/disks/rig.h"

#include "tests/unit/disks/fake_image.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static unsigned lane_now, lanes_now;
static void (*change_now)(struct engine_config *cfg);

uint64_t rig_random(uint64_t *rnd)
{
	*rnd ^= *rnd << 13;
	*rnd ^= *rnd >> 7;
	*rnd ^= *rnd << 17;
	return *rnd;
}

/* The end of a request, in place of the rings. */
void vhost_request_done(struct vhost_request *r, uint32_t written)
{
	struct call *c = (struct call *)r;

	assert(!c->done);
	c->written = written;
	c->done = true;
}

static void lane_config(struct engine_config *cfg)
{
	cfg->lane = lane_now;
	cfg->lanes = lanes_now;
	cfg->max_pages = 16384;
	if (change_now)
		change_now(cfg);
}

static void bounce_path(unsigned lane, char path[96])
{
	snprintf(path, 96, "/dev/shm/fallow-disk-test-%d-%u", (int)getpid(), lane);
}

/* What a server would say: where they differ, and beyond the base. */
static uint64_t *own_make(const struct rig *g)
{
	uint64_t bytes = g->fake->head.size_bytes, base = g->base_fake->head.size_bytes;
	uint64_t *own = calloc(bytes / 4096 / 64 + 1, sizeof(uint64_t));

	for (uint64_t p = 0; p <= bytes / 4096; p++)
		if ((p + 1) * 4096 > base ||
			memcmp(g->fake->bytes + p * 4096, g->base_fake->bytes + p * 4096, 4096))
			own[p / 64] |= 1ull << p % 64;
	return own;
}

static void cached_open(struct rig *g)
{
	struct disk_cache_config cc = {.pool = RIG_POOL,
		.lanes = g->lanes,
		.lane = g->lane,
		.image = &g->fake->head,
		.cache_writes = true};
	struct blk_config bc = {.size_bytes = g->fake->head.size_bytes,
		.block_bytes = BLK_SECTOR_BYTES,
		.lanes = g->lanes,
		.queues = 2,
		.volatile_cache = true};

	struct disk_cache_config base = cc;
	uint64_t *own = NULL;

	g->base_cache = NULL;
	if (g->base_fake) {
		base.pool = RIG_BASE_POOL;
		base.image = &g->base_fake->head;
		if (disk_cache_new(&base, &g->base_cache) < 0)
			abort();
		own = own_make(g);
	}
	if (disk_cache_new(&cc, &g->cache) < 0 ||
		disk_cached_new(g->cache, g->base_cache, own, &env_system, &g->cached) < 0 ||
		blk_new(&bc, &disk_cached_ops, g->cached, &env_system, &g->blk) < 0)
		abort();
}

static void disk_open(struct rig *g)
{
	static const struct env *env = &env_system;

	for (unsigned i = 0; i < g->lanes; i++) {
		char path[96];

		bounce_path(i, path);
		g->epoll_fd[i] = epoll_create1(EPOLL_CLOEXEC);
		if (disk_lane_new(i, g->lanes, g->world[i]->e, env, path, g->epoll_fd[i],
			    &g->lane[i]) < 0)
			abort();
	}
	for (unsigned i = 0; i < g->lanes; i++)
		disk_lane_peers_set(g->lane[i], g->lane);
	if (g->fake) {
		cached_open(g);
		return;
	}
	struct disk_swap_config sc = {.pool = RIG_POOL,
		.pages = g->pages,
		.lanes = g->lanes,
		.lane = g->lane,
		.lost_path = g->lost_path};
	struct blk_config bc = {.size_bytes = g->pages * ENGINE_PAGE_BYTES,
		.block_bytes = ENGINE_PAGE_BYTES,
		.lanes = g->lanes,
		.queues = 2,
		.serial = "serial of the disk"};
	if (disk_swap_new(&sc, &g->swap) < 0 ||
		blk_new(&bc, &disk_swap_ops, g->swap, env, &g->blk) < 0)
		abort();
}

static void disk_close(struct rig *g)
{
	blk_delete(g->blk);
	disk_swap_delete(g->swap);
	for (unsigned i = 0; g->cache && i < g->lanes; i++)
		disk_cache_detach(g->cache, g->lane[i]);
	for (unsigned i = 0; g->base_cache && i < g->lanes; i++)
		disk_cache_detach(g->base_cache, g->lane[i]);
	disk_cached_delete(g->cached);
	disk_cache_delete(g->base_cache);
	disk_cache_delete(g->cache);
	for (unsigned i = 0; i < g->lanes; i++) {
		disk_lane_delete(g->lane[i]);
		close(g->epoll_fd[i]);
	}
}

static void bounces_remove(const struct rig *g)
{
	char path[96];

	for (unsigned i = 0; i < g->lanes; i++) {
		bounce_path(i, path);
		unlink(path);
	}
}

static struct rig *rig_make(unsigned lanes, uint64_t pages,
	void (*change)(struct engine_config *cfg), struct fake_image *fake, struct fake_image *base)
{
	struct rig *g = calloc(1, sizeof(*g));

	g->base_fake = base;
	g->fake = fake;

	g->lanes = lanes;
	g->pages = pages;
	snprintf(g->lost_path, sizeof(g->lost_path), "/dev/shm/fallow-disk-test-%d", (int)getpid());
	unlink(g->lost_path);
	bounces_remove(g);
	change_now = change;
	lanes_now = lanes;
	for (lane_now = 0; lane_now < lanes; lane_now++) {
		g->world[lane_now] = world_new_with(lane_config);
		world_pool(g->world[lane_now], RIG_POOL, fake ? 0 : ENGINE_POOL_PERSISTENT, 0, 1,
			ENGINE_DISK_NEVER);
		if (fake)
			world_pool(g->world[lane_now], RIG_BASE_POOL, 0, 0, 1, ENGINE_DISK_NEVER);
	}
	disk_open(g);
	return g;
}

struct rig *rig_new(unsigned lanes, uint64_t pages, void (*change)(struct engine_config *cfg))
{
	return rig_make(lanes, pages, change, NULL, NULL);
}

struct rig *rig_new_cached(unsigned lanes, uint64_t bytes)
{
	return rig_make(lanes, bytes / ENGINE_PAGE_BYTES, NULL, fake_image_new(bytes), NULL);
}

struct rig *rig_new_clone(unsigned lanes, uint64_t bytes, uint64_t base_bytes)
{
	return rig_make(lanes, bytes / ENGINE_PAGE_BYTES, NULL, fake_image_new(bytes),
		fake_image_new(base_bytes));
}

void rig_delete(struct rig *g)
{
	disk_close(g);
	for (unsigned i = 0; i < g->lanes; i++)
		world_delete(g->world[i]);
	bounces_remove(g);
	unlink(g->lost_path);
	if (g->fake)
		fake_image_delete(g->fake);
	if (g->base_fake)
		fake_image_delete(g->base_fake);
	free(g);
}

void rig_crash(struct rig *g)
{
	disk_close(g);
	for (unsigned i = 0; i < g->lanes; i++)
		world_crash(g->world[i]);
	disk_open(g);
}

void rig_lane_step(struct rig *g, unsigned lane)
{
	disk_lane_poll(g->lane[lane]);
	world_run(g->world[lane], 1);
}

void rig_step(struct rig *g)
{
	for (unsigned i = 0; i < g->lanes; i++)
		rig_lane_step(g, i);
}

struct call *call_new(void)
{
	struct call *c = calloc(1, sizeof(*c));

	c->data = malloc(CALL_MAX_DATA);
	return c;
}

void call_free(struct call *c)
{
	free(c->data);
	free(c);
}

static void buffer_add(struct vhost_request *r, void *base, uint32_t len, uint64_t *rnd,
	uint16_t *count, uint32_t *bytes)
{
	uint8_t *p = base;

	while (len) {
		uint32_t n = len;

		/* A dozen pieces at most, of any length. */
		if (rnd && *count < 12 && len > 1)
			n = 1 + (uint32_t)(rig_random(rnd) % len);
		r->buffer[r->out_count + r->in_count] = (struct vhost_buffer){.base = p, .len = n};
		(*count)++;
		*bytes += n;
		p += n;
		len -= n;
	}
}

void call_make(struct call *c, uint32_t type, uint64_t sector, uint32_t len, bool in, uint64_t *rnd)
{
	struct vhost_request *r = &c->r;

	assert(len <= CALL_MAX_DATA);
	memset(r, 0, sizeof(*r));
	c->header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	c->len = len;
	c->status = 0xff;
	c->done = false;
	buffer_add(r, &c->header, sizeof(c->header), rnd, &r->out_count, &r->out_bytes);
	if (!in)
		buffer_add(r, c->data, len, rnd, &r->out_count, &r->out_bytes);
	else
		buffer_add(r, c->data, len, rnd, &r->in_count, &r->in_bytes);
	buffer_add(r, &c->status, 1, rnd, &r->in_count, &r->in_bytes);
}

void call_submit(struct rig *g, unsigned lane, struct call *c)
{
	blk_device_ops.submit(g->blk, lane, &c->r);
}

unsigned call_wait(struct rig *g, struct call *c)
{
	for (unsigned i = 0; i < 100000 && !c->done; i++)
		rig_step(g);
	if (!c->done)
		abort(); /* no request may hang */
	return c->status;
}

unsigned call_run(struct rig *g, unsigned lane, struct call *c, uint32_t type, uint64_t sector,
	uint32_t len, bool in)
{
	call_make(c, type, sector, len, in, NULL);
	call_submit(g, lane, c);
	blk_device_ops.kick(g->blk, lane);
	return call_wait(g, c);
}
