/* Reads of a swap disk straight into a guest's pinned memory: which they are, and that they are
 * right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "client-backend/frontend/vhost_mapping.h"
#include "tests/unit/disks/rig.h"

#define PAGES 2048u /* more than the local tier has room for */
#define BYTES (1u << 20)

struct transport_memory {
	int unused;
};

static struct transport_memory memory;
static unsigned deleted;

static int card_new(struct transport *t, void *base, size_t len, struct transport_memory **out)
{
	*out = &memory;
	return 0;
}

static int card_register(struct transport_memory *m)
{
	return 0;
}

static void card_delete(struct transport_memory *m)
{
	deleted++;
}

static const struct transport_ops card = {.name = "card",
	.memory_new = card_new,
	.memory_register = card_register,
	.memory_delete = card_delete};

static struct vhost_mapping *guest;

static void config(struct engine_config *cfg)
{
	cfg->sums = 1u << 16;
}

/* Nothing that could be compressed. */
static void pattern(uint8_t *to, uint64_t page)
{
	uint64_t x = (page + 1) * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(to + i, &x, 8);
	}
}

static struct rig *start(void)
{
	static const struct vhost_pinner who = {.ops = &card, .name = "disk"};
	int fd = memfd_create("guest", 0);
	struct rig *g = rig_new(2, PAGES, config);
	struct call *c = call_new();

	deleted = 0;
	assert_int_equal(ftruncate(fd, BYTES), 0);
	assert_int_equal(vhost_mapping_new(fd, 0, BYTES, &guest), 0);
	assert_int_equal(guest->row, 0);
	assert_int_equal(vhost_mapping_pin(guest, &who), 0);
	assert_ptr_equal(vhost_mapping_memory(guest->row), &memory);
	close(fd);
	for (uint64_t p = 0; p < PAGES; p++) {
		pattern(c->data, p);
		assert_int_equal(
			call_run(g, 0, c, VIRTIO_BLK_T_OUT, p * 8, 4096, false), VIRTIO_BLK_S_OK);
	}
	for (unsigned i = 0; i < g->lanes; i++)
		world_run(g->world[i], 3000);
	call_free(c);
	return g;
}

static void end(struct rig *g)
{
	for (unsigned i = 0; i < g->lanes; i++)
		assert_true(world_sane(g->world[i]));
	rig_delete(g);
	vhost_mapping_put(guest);
	assert_int_equal(deleted, 1);
}

static uint64_t sum(const struct rig *g, size_t offset)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->lanes; i++)
		n += stat_get(
			(const stat_t *)((const char *)engine_stats(g->world[i]->e) + offset));
	return n;
}
#define SUM(g, name) sum(g, offsetof(struct engine_stats, name))

/* A read into the guest's memory at `at`, cut as *rnd says; the bytes are compared. */
static void read_at(struct rig *g, uint32_t at, uint64_t sector, uint32_t len, uint64_t *rnd)
{
	static uint8_t want[BYTES];
	struct call *c = call_new();
	uint8_t *own = c->data;

	c->data = guest->base + at;
	call_make(c, VIRTIO_BLK_T_IN, sector, len, true, rnd);
	for (unsigned i = 0; i < VHOST_MAX_BUFFERS; i++) {
		struct vhost_buffer *b = &c->r.buffer[i];

		if (b->base >= guest->base && b->base < guest->base + BYTES)
			b->row = guest->row;
	}
	call_submit(g, 0, c);
	blk_device_ops.kick(g->blk, 0);
	assert_int_equal(call_wait(g, c), VIRTIO_BLK_S_OK);
	for (uint64_t p = sector / 8; p * 8 < sector + (len + 511) / 512; p++)
		pattern(want + (p - sector / 8) * 4096, p);
	assert_memory_equal(c->data, want + sector % 8 * 512, len);
	c->data = own;
	call_free(c);
}

static void whole_pages(void **state)
{
	struct rig *g = start();
	uint64_t rnd = 1;

	read_at(g, 0, 0, 64 * 4096, NULL);
	assert_int_equal(SUM(g, gets_direct), SUM(g, gets_remote));
	assert_true(SUM(g, gets_direct) >= 48);
	/* Cut anywhere, at any address: it is one piece of memory all the same. */
	uint64_t before = SUM(g, gets_direct);
	for (unsigned i = 0; i < 20; i++)
		read_at(g, 4096 + i * 512 + 5, (100 + i * 16) * 8, 16 * 4096, &rnd);
	assert_true(SUM(g, gets_direct) > before + 100);
	assert_int_equal(SUM(g, gets_direct), SUM(g, gets_remote));
	assert_int_equal(SUM(g, direct_unlike) + SUM(g, records_corrupt), 0);
	end(g);
}

static void parts_of_pages(void **state)
{
	struct rig *g = start();

	for (unsigned i = 0; i < 7; i++)
		read_at(g, 0, i * 8 + 1, 3 * 512, NULL);
	assert_int_equal(SUM(g, gets_direct), 0);
	assert_true(SUM(g, gets_remote) > 0);
	/* The whole ones in between are read so. */
	read_at(g, 0, 64 * 8 + 1, 10 * 4096, NULL);
	assert_true(SUM(g, gets_direct) > 0 && SUM(g, gets_direct) <= 9);
	end(g);
}

static void scribble(struct engine_io *io)
{
	((uint8_t *)io->buf)[3000] ^= 0x40;
}

/* A guest that writes to its buffers meanwhile gets what it asked for, and blames nobody. */
static void written_meanwhile(void **state)
{
	struct rig *g = start();

	for (unsigned i = 0; i < g->lanes; i++)
		g->world[i]->on_direct = scribble;
	read_at(g, 0, 0, 64 * 4096, NULL);
	assert_int_equal(SUM(g, gets_direct), 0);
	assert_true(SUM(g, direct_unlike) > 0);
	assert_int_equal(SUM(g, records_corrupt), 0);
	for (unsigned i = 0; i < g->lanes; i++)
		assert_int_equal(g->world[i]->bad_data, 0);
	end(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_pages),
		cmocka_unit_test(parts_of_pages),
		cmocka_unit_test(written_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
