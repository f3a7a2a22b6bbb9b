/* Reads into memory that somebody else may write to: who may see what, when, and who is to blame.
 */
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
#define MEMORY	   ((const struct transport_memory *)(uintptr_t)0x1234)

static struct world *w;

struct probe {
	struct engine_req req;
	uint8_t buffer[ENGINE_PAGE_BYTES], guest[ENGINE_PAGE_BYTES];
	uint32_t index;
	int status;
};

static struct probe probes[4];

/* From now on nothing may write to the guest's page. */
static void probe_done(struct engine_req *req, int status)
{
	struct probe *p = (struct probe *)req;

	for (unsigned i = 0; i < w->queued; i++)
		assert_ptr_not_equal(w->queue[i]->buf, p->guest);
	p->status = status;
}

static struct probe *get(unsigned n, uint32_t index)
{
	struct probe *p = &probes[n];
	struct engine_key k = {.oid = {1, 2, 3}, .pool = 1, .index = index};
	struct engine_direct direct = {.page = p->guest, .memory = MEMORY};

	memset(p, 0, sizeof(*p));
	p->req.done = probe_done;
	p->index = index;
	p->status = engine_get_direct(w->e, &k, p->buffer, &direct, &p->req);
	assert_int_equal(p->status, -EINPROGRESS);
	return p;
}

static void assert_right(const struct probe *p, bool in_place)
{
	uint8_t want[ENGINE_PAGE_BYTES];

	assert_int_equal(p->status, 0);
	assert_int_equal(p->req.in_place, in_place);
	world_page(want, p->index);
	assert_memory_equal(in_place ? p->guest : p->buffer, want, sizeof(want));
}

/* The donor that the guest's memory is read to from; the read is under way. */
static unsigned direct_donor(const struct probe *p)
{
	for (unsigned i = 0; i < w->queued; i++)
		if (w->queue[i]->buf == p->guest) {
			assert_ptr_equal(w->queue[i]->memory, MEMORY);
			assert_int_equal(w->queue[i]->len, ENGINE_PAGE_BYTES);
			return w->queue[i]->region->donor;
		}
	fail();
	return 0;
}

static bool is_read_to(const struct probe *p)
{
	for (unsigned i = 0; i < w->queued; i++)
		if (w->queue[i]->buf == p->guest)
			return true;
	return false;
}

/* The first pages are on two donors each, as they are, and their checksums are known. */
static void start_with(uint8_t codec, uint8_t copies)
{
	struct engine_pool_desc d = {
		.id = 1, .flags = ENGINE_POOL_PERSISTENT, .codec = codec, .copies = copies};

	w = world_new();
	w->cfg.sums = 1u << 16;
	world_crash(w);
	assert_int_equal(engine_pool_add(w->e, &d), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		assert_int_equal(world_put(w, 1, i, i), 0);
	world_run(w, 5000);
}

static int setup(void **state)
{
	start_with(ENGINE_CODEC_NONE, 2);
	return 0;
}

static int teardown(void **state)
{
	world_run(w, 1000);
	assert_true(world_sane(w));
	world_delete(w);
	return 0;
}

static void a_page_goes_where_it_is_wanted(void **state)
{
	struct probe *p[3];

	for (unsigned i = 0; i < 3; i++)
		p[i] = get(i, 10 + i); /* neighbours, that would be merged */
	engine_kick(w->e);
	for (unsigned i = 0; i < 3; i++)
		direct_donor(p[i]);
	world_run(w, 10);
	for (unsigned i = 0; i < 3; i++) {
		assert_right(p[i], true);
		assert_int_equal(p[i]->buffer[0], 0);
	}
	assert_int_equal(STAT(gets_direct), 3);
	assert_int_equal(STAT(reads_merged), 0);
}

static void what_is_not_read_so_goes_to_the_buffer(void **state)
{
	struct probe *p;

	w->refuse_direct = true;
	p = get(0, 3);
	engine_kick(w->e);
	world_run(w, 10);
	assert_right(p, false);
	assert_int_equal(STAT(direct_refused), 1);
	world_delete(w);
	start_with(ENGINE_CODEC_LZ4, 2);
	p = get(0, 3);
	engine_kick(w->e);
	assert_false(is_read_to(p));
	world_run(w, 10);
	assert_right(p, false);
	assert_int_equal(STAT(gets_direct) + STAT(direct_refused), 0);
}

static void scribble(struct engine_io *io)
{
	((uint8_t *)io->buf)[77] ^= 1;
}

/* The guest's doing: no donor is blamed for it, and the guest gets its page all the same. */
static void a_guest_that_writes_there_blames_nobody(void **state)
{
	w->on_direct = scribble;
	for (uint32_t i = 0; i < 20; i++) {
		struct probe *p = get(0, i);

		engine_kick(w->e);
		world_run(w, 10);
		assert_right(p, false);
	}
	assert_int_equal(STAT(direct_unlike), 20);
	assert_int_equal(STAT(records_corrupt), 0);
	assert_int_equal(w->bad_data, 0);
	assert_int_equal(STAT(segments_repaired), 0);
}

/* The donor's doing: counted once, when it was read into a buffer; the other holder's is given. */
static void a_damaged_record_is_counted_once(void **state)
{
	struct probe *p = get(0, 5);

	engine_kick(w->e);
	unsigned donor = direct_donor(p);

	w->mood[donor] = DONOR_FLIPS_BITS;
	for (unsigned i = 0; i < 20 && p->status == -EINPROGRESS; i++) {
		world_run(w, 1);
		/* What is asked again is the same donor. */
		if (STAT(direct_unlike) == 1 && !STAT(records_corrupt) && w->queued)
			for (unsigned n = 0; n < w->queued; n++)
				assert_ptr_not_equal(w->queue[n]->buf, p->guest);
	}
	assert_right(p, false);
	assert_int_equal(STAT(direct_unlike), 1);
	assert_int_equal(STAT(records_corrupt), 1);
	assert_int_equal(w->bad_data, 1);
	w->mood[donor] = DONOR_FINE;
}

/* Another holder has answered, but the page is not the guest's before the read is over. */
static void a_late_read_is_waited_for(void **state)
{
	struct probe *p = get(0, 5);

	w->cfg.direct_timeout_ns = 1000000000ull;
	engine_tune(w->e, &w->cfg);
	engine_kick(w->e);
	unsigned donor = direct_donor(p);

	w->mood[donor] = DONOR_SILENT;
	world_run(w, 500);
	assert_int_equal(STAT(reads_hedged), 1);
	assert_int_equal(p->status, -EINPROGRESS);
	assert_true(is_read_to(p));
	/* It comes after all, and is right. */
	w->mood[donor] = DONOR_FINE;
	world_run(w, 1);
	assert_right(p, true);
	assert_int_equal(STAT(direct_abandoned), 0);

	/* And once more, wrong: what was held is given. */
	p = get(0, 6);
	engine_kick(w->e);
	donor = direct_donor(p);
	w->mood[donor] = DONOR_SILENT;
	world_run(w, 500);
	assert_int_equal(p->status, -EINPROGRESS);
	w->mood[donor] = DONOR_FLIPS_BITS;
	world_run(w, 1);
	w->mood[donor] = DONOR_FINE;
	assert_right(p, false);
	assert_int_equal(STAT(records_corrupt), 0);
}

static void a_read_that_takes_too_long_is_abandoned(void **state)
{
	struct probe *p = get(0, 5), *next;

	engine_kick(w->e);
	unsigned donor = direct_donor(p);

	w->mood[donor] = DONOR_SILENT;
	world_run(w, 150);
	assert_int_equal(p->status, -EINPROGRESS);
	assert_int_equal(w->abandons, 0);
	/* While it is late it is not read from so. */
	for (uint32_t i = 20; i < 22; i++) {
		next = get(1, i);
		engine_kick(w->e);
		assert_true(!is_read_to(next) || direct_donor(next) != donor);
		world_run(w, 20);
		assert_int_equal(next->status, 0);
	}
	world_run(w, 100);
	assert_int_equal(w->abandons, 1);
	assert_right(p, false);
	assert_int_equal(STAT(direct_abandoned), 1);
	w->mood[donor] = DONOR_FINE;
}

/* Nobody answers: neither the get's limit nor anything else ends it before the read has ended. */
static void a_silent_read_outlives_the_get(void **state)
{
	struct probe *p = get(0, 5);

	engine_kick(w->e);
	direct_donor(p);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_SILENT;
	world_run(w, (unsigned)(w->cfg.get_timeout_ns / 1000000) + 1000);
	assert_int_equal(p->status, -EINPROGRESS);
	assert_int_equal(w->abandons, 0); /* it would be no use */
	/* As a broken connection does. */
	for (unsigned i = 0; i < w->queued; i++)
		if (w->queue[i]->buf == p->guest)
			w->abandoned[0] = w->queue[i];
	world_run(w, 100);
	assert_int_equal(p->status, -ETIMEDOUT);
	for (unsigned d = 0; d < WORLD_DONORS; d++)
		w->mood[d] = DONOR_FINE;
}

/* What is read is this record until the end, though its copy is not used any more. */
static void the_slot_is_not_used_again_meanwhile(void **state)
{
	struct probe *p = get(0, 5);
	unsigned donor;

	engine_kick(w->e);
	donor = direct_donor(p);
	w->silent_direct = true;
	w->cfg.direct_timeout_ns = 3600000000000ull;
	engine_tune(w->e, &w->cfg);
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == donor)
			engine_region_revoke(w->e, r);
	world_run(w, 20000);
	/* Its copies are elsewhere, yet one region is not given back. */
	assert_int_equal(STAT(regions_revoking), 1);
	assert_int_equal(p->status, -EINPROGRESS);
	w->silent_direct = false;
	world_run(w, 10);
	assert_right(p, true);
	world_run(w, 5000);
	assert_int_equal(STAT(regions_revoking), 0);
}

/* The region is lost, and another one has its row, before the read ends. */
static void a_lost_region_owes_nothing(void **state)
{
	struct probe *p = get(0, 5);
	unsigned donor;

	engine_kick(w->e);
	donor = direct_donor(p);
	w->mood[donor] = DONOR_SILENT;
	for (unsigned r = 0; r < WORLD_REGIONS; r++)
		if (engine_region(w->e, r) && engine_region(w->e, r)->donor == donor)
			engine_region_lost(w->e, r);
	world_run(w, 100);
	assert_int_equal(p->status, -EINPROGRESS);
	world_grant(w, (donor + 1) % WORLD_DONORS);
	world_run(w, 2000);
	assert_true(world_sane(w));
	assert_right(p, false);
	w->mood[donor] = DONOR_FINE;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(a_page_goes_where_it_is_wanted),
		T(what_is_not_read_so_goes_to_the_buffer),
		T(a_guest_that_writes_there_blames_nobody),
		T(a_damaged_record_is_counted_once),
		T(a_late_read_is_waited_for),
		T(a_read_that_takes_too_long_is_abandoned),
		T(a_silent_read_outlives_the_get),
		T(the_slot_is_not_used_again_meanwhile),
		T(a_lost_region_owes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
