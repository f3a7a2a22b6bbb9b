/* A get of an incompressible page reads no more than the page, and believes it no sooner. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "client-backend/engine/record.h"
#include "tests/unit/engine/world.h"

#define PAGES	   1500u
#define STAT(name) stat_get(&engine_stats(w->e)->name)

static struct world *w;

static int teardown(void **state)
{
	(void)state;
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

struct probe {
	struct engine_req req;
	uint8_t page[ENGINE_PAGE_BYTES];
	int status;
};

static void probe_done(struct engine_req *req, int status)
{
	((struct probe *)req)->status = status;
}

/* Bytes that a get reads from a donor; 0: it needed none. The page is compared in the end. */
static uint32_t bytes_read(uint32_t index)
{
	static struct probe p;
	uint8_t want[ENGINE_PAGE_BYTES];
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = index};
	uint32_t bytes = 0;

	p = (struct probe){.req.done = probe_done};
	p.status = engine_get(w->e, &k, p.page, &p.req);
	engine_kick(w->e);
	for (unsigned i = 0; i < w->queued; i++)
		if (!w->write[i] && !w->queue[i]->background)
			bytes += w->queue[i]->len;
	world_run(w, 5000);
	assert_int_equal(p.status, 0);
	world_page(want, index);
	assert_memory_equal(p.page, want, sizeof(want));
	return bytes;
}

/* The first pages are on donors alone, as they are or compressed. */
static void start(uint8_t codec, uint32_t sums)
{
	struct engine_pool_desc d = {
		.id = 1, .flags = ENGINE_POOL_PERSISTENT, .codec = codec, .copies = 2};

	w = world_new();
	world_pool(w, 2, ENGINE_POOL_PERSISTENT, 0, 2, 0);
	w->cfg.sums = sums;
	world_crash(w);
	assert_int_equal(engine_pool_add(w->e, &d), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		assert_int_equal(world_put(w, 1, i, i), 0);
	world_run(w, 5000);
}

static void the_payload_alone_is_read(void **state)
{
	(void)state;
	start(ENGINE_CODEC_NONE, 1u << 16);
	for (uint32_t i = 0; i < 16; i++)
		assert_int_equal(bytes_read(i), ENGINE_PAGE_BYTES);
	assert_int_equal(STAT(reads_bare), 16);
	assert_int_equal(STAT(records_corrupt), 0);
}

static void a_restart_reads_headers_once(void **state)
{
	(void)state;
	start(ENGINE_CODEC_NONE, 1u << 16);
	world_crash(w);
	world_run(w, 1000);
	assert_int_equal(bytes_read(3), RECORD_MAX_BYTES);
	assert_int_equal(bytes_read(3), ENGINE_PAGE_BYTES);
}

static void without_room_headers_are_read(void **state)
{
	(void)state;
	start(ENGINE_CODEC_NONE, 0);
	assert_int_equal(bytes_read(3), RECORD_MAX_BYTES);
	assert_int_equal(bytes_read(3), RECORD_MAX_BYTES);
}

static void compressed_pages_are_read_with_their_headers(void **state)
{
	(void)state;
	start(ENGINE_CODEC_LZ4, 1u << 16);
	uint32_t bytes = bytes_read(3);

	assert_true(bytes > RECORD_HEADER_BYTES && bytes < ENGINE_PAGE_BYTES);
	assert_int_equal(STAT(reads_bare), 0);
}

/* bytes_read() compares: what a lying donor sends is not delivered, the other holder's is. */
static void a_changed_payload_is_found(void **state)
{
	(void)state;
	start(ENGINE_CODEC_NONE, 1u << 16);
	for (unsigned d = 0; d < WORLD_DONORS; d++) {
		w->mood[d] = DONOR_FLIPS_BITS;
		for (uint32_t i = 0; i < 8; i++)
			bytes_read(d * 8 + i);
		w->mood[d] = DONOR_FINE;
	}
	assert_true(STAT(reads_bare) >= 32);
	assert_true(STAT(records_corrupt) > 0);
	assert_true(w->bad_data > 0);
	assert_int_equal(STAT(gets_lost), 0);
}

/* A page that was put again, or whose segment was cleaned, is another record. */
static void pages_change_under_it(void **state)
{
	(void)state;
	start(ENGINE_CODEC_NONE, 1024);
	for (unsigned round = 0; round < 3; round++) {
		for (uint32_t i = round; i < PAGES; i += 2)
			assert_int_equal(world_put(w, 1, i, i), 0);
		world_run(w, 5000);
		for (uint32_t i = 0; i < PAGES; i += 7)
			bytes_read(i);
	}
	assert_true(STAT(reads_bare) > 0);
	assert_int_equal(STAT(records_corrupt), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(the_payload_alone_is_read, teardown),
		cmocka_unit_test_teardown(a_restart_reads_headers_once, teardown),
		cmocka_unit_test_teardown(without_room_headers_are_read, teardown),
		cmocka_unit_test_teardown(compressed_pages_are_read_with_their_headers, teardown),
		cmocka_unit_test_teardown(a_changed_payload_is_found, teardown),
		cmocka_unit_test_teardown(pages_change_under_it, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
