/* virtio-blk: what the configuration says, and requests that make no sense. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/disks/rig.h"

#define PAGES 1024u
#define END   (PAGES * 8) /* sectors */

static int setup(void **state)
{
	*state = rig_new(2, PAGES, NULL);
	return 0;
}

static int teardown(void **state)
{
	rig_delete(*state);
	return 0;
}

static const struct blk_stats *stats(struct rig *g)
{
	return blk_stats(g->blk, 1);
}

static void test_config(void **state)
{
	struct rig *g = *state;
	uint8_t space[VHOST_CONFIG_BYTES];
	struct virtio_blk_config c;
	uint8_t on = 1;

	assert_int_equal(blk_device_ops.config(g->blk, space), sizeof(c));
	memcpy(&c, space, sizeof(c));
	assert_int_equal(c.capacity, END);
	assert_int_equal(c.blk_size, 4096);
	assert_int_equal(c.seg_max, 126);
	assert_int_equal(c.num_queues, 2);
	assert_int_equal(c.wce, 0);
	uint64_t f = blk_device_ops.features(g->blk);
	assert_true(f & 1u << VIRTIO_BLK_F_DISCARD && f & 1u << VIRTIO_BLK_F_WRITE_ZEROES);
	assert_false(f >> 24);
	uint32_t wce = offsetof(struct virtio_blk_config, wce);
	assert_int_equal(blk_device_ops.config_set(g->blk, wce, &on, 1), 0);
	blk_device_ops.config(g->blk, space);
	assert_int_equal(space[wce], 1);
	on = 2;
	assert_int_equal(blk_device_ops.config_set(g->blk, wce, &on, 1), -EINVAL);
	assert_int_equal(blk_device_ops.config_set(g->blk, 0, &on, 1), -EINVAL);
	assert_int_equal(blk_device_ops.config_set(g->blk, wce, &on, 2), -EINVAL);
}

static void test_small_ones(void **state)
{
	struct rig *g = *state;
	struct call *c = call_new();

	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	assert_int_equal(c->written, 1);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK);
	assert_string_equal(c->data, "serial of the disk");
	assert_int_equal(c->written, 21);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_GET_ID, 0, 19, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_IN, END, 0, true), VIRTIO_BLK_S_OK);
	assert_int_equal(call_run(g, 1, c, 99, 0, 0, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(call_run(g, 1, c, 1u << 31, 0, 512, true), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(stat_get(&stats(g)->refused[BLK_REFUSED_TYPE]), 2);
	assert_int_equal(stat_get(&stats(g)->flushes), 1);
	call_free(c);
}

static void test_no_header(void **state)
{
	struct rig *g = *state;
	struct call *c = call_new();

	call_make(c, VIRTIO_BLK_T_IN, 0, 512, true, NULL);
	c->r.buffer[0].len = c->r.out_bytes = 15;
	call_submit(g, 1, c);
	assert_true(c->done);
	assert_int_equal(c->status, VIRTIO_BLK_S_IOERR);
	/* No byte for the status. */
	call_make(c, VIRTIO_BLK_T_OUT, 0, 512, false, NULL);
	c->r.in_count = 0;
	c->r.in_bytes = 0;
	call_submit(g, 1, c);
	assert_true(c->done);
	assert_int_equal(c->written, 0);
	/* Nothing at all. */
	call_make(c, VIRTIO_BLK_T_OUT, 0, 0, false, NULL);
	c->r.out_count = c->r.in_count = 0;
	c->r.out_bytes = c->r.in_bytes = 0;
	call_submit(g, 1, c);
	assert_true(c->done);
	assert_int_equal(stat_get(&stats(g)->refused[BLK_REFUSED_SHORT]), 3);
	call_free(c);
}

static void test_bad_ranges(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} bad[] = {{END, 512}, {END - 1, 1024}, {END + 1, 512}, {UINT64_MAX, 512},
		{UINT64_MAX - 7, 4096}, {1ull << 55, 4096}, {(1ull << 55) - 1, 512}};
	struct rig *g = *state;
	struct call *c = call_new();

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		for (unsigned in = 0; in < 2; in++)
			assert_int_equal(call_run(g, 1, c, in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
						 bad[i].sector, bad[i].len, in),
				VIRTIO_BLK_S_IOERR);
	assert_int_equal(stat_get(&stats(g)->refused[BLK_REFUSED_RANGE]), 14);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_OUT, 0, 511, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_IN, 0, 513, true), VIRTIO_BLK_S_IOERR);
	/* Data in the wrong direction. */
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_OUT, 0, 512, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(stat_get(&stats(g)->refused[BLK_REFUSED_LENGTH]), 4);
	assert_int_equal(stat_get(&stats(g)->in_flight), 0);
	call_free(c);
}

static unsigned zero_run(struct rig *g, struct call *c, uint32_t type, uint64_t sector,
	uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes z = {
		.sector = sector, .num_sectors = sectors, .flags = flags};

	memcpy(c->data, &z, sizeof(z));
	return call_run(g, 1, c, type, 0, sizeof(z), false);
}

static void test_bad_zeroes(void **state)
{
	struct rig *g = *state;
	struct call *c = call_new();
	uint32_t discard = VIRTIO_BLK_T_DISCARD, zeroes = VIRTIO_BLK_T_WRITE_ZEROES;
	uint32_t most = BLK_MAX_DISCARD_BYTES / 512;

	assert_int_equal(zero_run(g, c, discard, 0, END, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(zero_run(g, c, zeroes, 0, END, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(zero_run(g, c, discard, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(zero_run(g, c, discard, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(zero_run(g, c, zeroes, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(zero_run(g, c, zeroes, 0, 8, 1u << 31), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(zero_run(g, c, discard, 0, END + 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero_run(g, c, discard, 8, END - 7, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero_run(g, c, discard, UINT64_MAX, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero_run(g, c, discard, 0, most + 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero_run(g, c, discard, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, discard, 0, 0, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, discard, 0, 15, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(call_run(g, 1, c, discard, 0, 17 * 16, false), VIRTIO_BLK_S_IOERR);
	/* A good range, then a bad one: the good one may be done, the answer is an error. */
	memset(c->data, 0, 32);
	c->data[8] = 8;
	c->data[16 + 12] = 4;
	assert_int_equal(call_run(g, 1, c, discard, 0, 32, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(stat_get(&stats(g)->in_flight), 0);
	call_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_small_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_header, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_zeroes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
