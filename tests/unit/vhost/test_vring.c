/* Tests of one split virtqueue: chains, hostile ones, notifications, dirty log, what is in flight.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client-backend/frontend/vring.h"
#include "tests/unit/vhost/guest.h"

#define NUM 16u

static uint64_t seed;

struct world {
	struct guest guest;
	struct vhost_memory *memory;
	struct guest_ring driver;
	struct vring_config cfg;
	struct vring_place place;
	struct vring ring;
	struct vhost_request r;
	struct vhost_inflight_ring *inflight;
};

static void ring_begin(struct world *w)
{
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), 0);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	guest_init(&w->guest);
	w->memory = guest_memory(&w->guest);
	guest_ring_init(&w->driver, &w->guest, 0, NUM, false);
	w->cfg = (struct vring_config){.num = NUM, .indirect = true};
	struct vhost_wire_ring_addr a = guest_ring_addr(&w->driver, 0);
	w->place = (struct vring_place){.memory = w->memory,
		.desc = vhost_memory_user(w->memory, a.desc, 1),
		.avail = vhost_memory_user(w->memory, a.avail, 1),
		.used = vhost_memory_user(w->memory, a.used, 1)};
	w->inflight = calloc(1, vhost_inflight_ring_bytes(NUM));
	ring_begin(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	vhost_memory_delete(w->memory);
	guest_fini(&w->guest);
	free(w->inflight);
	free(w);
	return 0;
}

/* The next chain, read and taken. */
static uint16_t take(struct world *w)
{
	uint16_t head;

	assert_int_equal(vring_peek(&w->ring, true, &head), 1);
	assert_int_equal(vring_chain(&w->ring, head, &w->r), VRING_FAULT_NONE);
	vring_take(&w->ring, head);
	return head;
}

static enum vring_fault fault_of(struct world *w, uint16_t head)
{
	guest_publish(&w->driver, head);
	ring_begin(w);
	w->ring.last_avail = (uint16_t)(w->driver.avail_idx - 1);
	assert_int_equal(vring_peek(&w->ring, true, &head), 1);
	return vring_chain(&w->ring, head, &w->r);
}

static void chains(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[] = {{guest_gpa(GUEST_DATA), 16, false},
		{guest_gpa(GUEST_DATA + 4096), 4096, true}, {guest_gpa(GUEST_DATA + 100), 1, true}};
	struct virtq_used_elem e;
	uint16_t head;

	assert_int_equal(vring_peek(&w->ring, true, &head), 0);
	guest_chain(&w->driver, 3, b, 3);
	guest_publish(&w->driver, 3);
	assert_int_equal(vring_peek(&w->ring, false, &head), 0);
	assert_int_equal(take(w), 3);
	assert_int_equal(vring_peek(&w->ring, true, &head), 0);
	assert_int_equal(w->r.out_bytes, 16);
	assert_int_equal(w->r.in_bytes, 4097);
	assert_int_equal(w->r.out_count, 1);
	assert_int_equal(w->r.in_count, 2);
	w->r.buffer[1].base[7] = 0x77;
	assert_int_equal(w->guest.base[GUEST_DATA + 4096 + 7], 0x77);
	assert_false(guest_used(&w->driver, &e));
	vring_give(&w->ring, 3, &w->r, 4097);
	assert_true(guest_used(&w->driver, &e));
	assert_int_equal(e.id, 3);
	assert_int_equal(e.len, 4097);
}

static void cut_at_border(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[] = {{guest_gpa(GUEST_SPLIT - 100), 300, false}};

	guest_chain(&w->driver, 0, b, 1);
	guest_publish(&w->driver, 0);
	take(w);
	assert_int_equal(w->r.out_bytes, 300);
	assert_int_equal(w->r.out_count, 2);
	assert_int_equal(w->r.buffer[0].len, 100);
	assert_int_equal(w->r.buffer[1].len, 200);
}

static void indirect(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[40];

	for (unsigned i = 0; i < 40; i++)
		b[i] = (struct guest_buffer){guest_gpa(GUEST_DATA + 4096 * i), 4096, i >= 20};
	/* More entries than the ring has; at an odd address, too. */
	guest_chain_indirect(&w->driver, 1, GUEST_SPLIT + 8, b, 40);
	guest_publish(&w->driver, 1);
	take(w);
	assert_int_equal(w->r.out_count, 20);
	assert_int_equal(w->r.in_count, 20);
	assert_int_equal(w->r.in_bytes, 20 * 4096);
	/* A plain one first. */
	guest_chain_indirect(&w->driver, 3, GUEST_SPLIT, b + 1, 30);
	struct virtq_desc second = {.addr = w->driver.desc[3].addr, .len = w->driver.desc[3].len};
	guest_chain(&w->driver, 2, b, 2);
	w->driver.desc[3].addr = second.addr;
	w->driver.desc[3].len = second.len;
	w->driver.desc[3].flags = VIRTQ_DESC_F_INDIRECT;
	guest_publish(&w->driver, 2);
	take(w);
	assert_int_equal(w->r.out_count, 20);
	assert_int_equal(w->r.in_count, 11);
}

static void indirect_wrong(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[] = {
		{guest_gpa(GUEST_DATA), 16, false}, {guest_gpa(GUEST_DATA), 16, false}};
	volatile struct virtq_desc *d = &w->driver.desc[0];
	volatile struct virtq_desc *in = (void *)(w->guest.base + GUEST_SPLIT);

#define WRONG(fault, ...)                                                                          \
	do {                                                                                       \
		guest_chain_indirect(&w->driver, 0, GUEST_SPLIT, b, 2);                            \
		__VA_ARGS__;                                                                       \
		assert_int_equal(fault_of(w, 0), fault);                                           \
	} while (0)
	WRONG(VRING_FAULT_NONE, );
	WRONG(VRING_FAULT_INDIRECT, d->len = 0);
	WRONG(VRING_FAULT_INDIRECT, d->len = 31);
	WRONG(VRING_FAULT_INDIRECT, d->flags |= VIRTQ_DESC_F_NEXT);
	WRONG(VRING_FAULT_INDIRECT, in[1].flags = VIRTQ_DESC_F_INDIRECT);
	WRONG(VRING_FAULT_ADDRESS, d->addr = guest_gpa(GUEST_BYTES));
	/* A table whose second half is outside. */
	WRONG(VRING_FAULT_ADDRESS, d->addr = guest_gpa(GUEST_BYTES - 16);
		memcpy(w->guest.base + GUEST_BYTES - 16, (void *)in, 16));
	WRONG(VRING_FAULT_ADDRESS, d->addr = UINT64_MAX - 15);
	WRONG(VRING_FAULT_ADDRESS, d->addr = UINT64_MAX - 31);
	/* A table at the border would have to be put together. */
	WRONG(VRING_FAULT_ADDRESS, d->addr = guest_gpa(GUEST_SPLIT - 8));
	WRONG(VRING_FAULT_NEXT, in[0].next = 2);
	WRONG(VRING_FAULT_LOOP, in[1].flags = VIRTQ_DESC_F_NEXT; in[1].next = 0);
	WRONG(VRING_FAULT_BUFFERS, d->len = 0xfffffff0; in[1].flags = VIRTQ_DESC_F_NEXT;
		in[1].next = 0);
	w->cfg.indirect = false;
	WRONG(VRING_FAULT_INDIRECT, );
}

static void chains_wrong(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[] = {{guest_gpa(GUEST_DATA), 16, false},
		{guest_gpa(GUEST_DATA), 16, true}, {guest_gpa(GUEST_DATA), 16, true}};
	volatile struct virtq_desc *d = w->driver.desc;

#undef WRONG
#define WRONG(fault, ...)                                                                          \
	do {                                                                                       \
		guest_chain(&w->driver, 0, b, 3);                                                  \
		__VA_ARGS__;                                                                       \
		assert_int_equal(fault_of(w, 0), fault);                                           \
	} while (0)
	WRONG(VRING_FAULT_NONE, );
	WRONG(VRING_FAULT_NEXT, d[1].next = NUM);
	WRONG(VRING_FAULT_NEXT, d[1].next = UINT16_MAX);
	WRONG(VRING_FAULT_LOOP, d[2].flags |= VIRTQ_DESC_F_NEXT; d[2].next = 1);
	WRONG(VRING_FAULT_LOOP, d[1].next = 1);
	WRONG(VRING_FAULT_ORDER, d[2].flags &= (uint16_t)~VIRTQ_DESC_F_WRITE);
	WRONG(VRING_FAULT_BUFFERS, d[0].len = 0);
	WRONG(VRING_FAULT_BUFFERS, d[2].len = 0);
	WRONG(VRING_FAULT_ADDRESS, d[0].addr = 0);
	WRONG(VRING_FAULT_ADDRESS, d[0].addr = GUEST_GPA - 1);
	WRONG(VRING_FAULT_ADDRESS, d[1].addr = guest_gpa(GUEST_BYTES - 15));
	WRONG(VRING_FAULT_ADDRESS, d[1].addr = UINT64_MAX);
	WRONG(VRING_FAULT_ADDRESS, d[1].addr = UINT64_MAX - 15);
	WRONG(VRING_FAULT_ADDRESS, d[1].addr = guest_gpa(0); d[1].len = GUEST_BYTES + 1);
	WRONG(VRING_FAULT_LENGTH, d[2].len = UINT32_MAX - 15);
	WRONG(VRING_FAULT_LENGTH, d[2].len = UINT32_MAX);
	WRONG(VRING_FAULT_ADDRESS, d[2].len = UINT32_MAX - 16);
}

static void too_many_buffers(void **state)
{
	struct world *w = *state;
	struct guest_buffer b[VHOST_MAX_BUFFERS + 1];

	for (unsigned i = 0; i <= VHOST_MAX_BUFFERS; i++)
		b[i] = (struct guest_buffer){guest_gpa(GUEST_DATA), 16, false};
	guest_chain_indirect(&w->driver, 0, GUEST_SPLIT, b, VHOST_MAX_BUFFERS);
	assert_int_equal(fault_of(w, 0), VRING_FAULT_NONE);
	assert_int_equal(w->r.out_count, VHOST_MAX_BUFFERS);
	guest_chain_indirect(&w->driver, 0, GUEST_SPLIT, b, VHOST_MAX_BUFFERS + 1);
	assert_int_equal(fault_of(w, 0), VRING_FAULT_BUFFERS);
	/* One more by being cut. */
	b[4].gpa = guest_gpa(GUEST_SPLIT - 8);
	guest_chain_indirect(&w->driver, 0, GUEST_SPLIT, b, VHOST_MAX_BUFFERS);
	assert_int_equal(fault_of(w, 0), VRING_FAULT_BUFFERS);
}

static void avail_wrong(void **state)
{
	struct world *w = *state;
	uint16_t head;

	w->driver.avail->idx = NUM + 1;
	assert_int_equal(vring_peek(&w->ring, true, &head), -VRING_FAULT_AVAIL);
	w->driver.avail->idx = UINT16_MAX; /* backwards */
	assert_int_equal(vring_peek(&w->ring, true, &head), -VRING_FAULT_AVAIL);
	w->driver.avail->idx = NUM;
	w->driver.avail->ring[0] = NUM;
	assert_int_equal(vring_peek(&w->ring, true, &head), -VRING_FAULT_HEAD);
	w->driver.avail->ring[0] = UINT16_MAX;
	assert_int_equal(vring_peek(&w->ring, true, &head), -VRING_FAULT_HEAD);
	w->driver.avail->ring[0] = NUM - 1;
	assert_int_equal(vring_peek(&w->ring, true, &head), 1);
	assert_int_equal(head, NUM - 1);
}

static void wrong_sizes(void **state)
{
	struct world *w = *state;
	static const uint16_t wrong[] = {0, 3, 24, 2048, UINT16_MAX};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		w->cfg.num = wrong[i];
		assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), -EINVAL);
	}
}

/* Indices run over 65535. */
static void wraps(void **state)
{
	struct world *w = *state;
	struct guest_buffer b = {guest_gpa(GUEST_DATA), 512, true};
	struct virtq_used_elem e;

	w->driver.avail_idx = w->driver.last_used = w->driver.used->idx = 65530;
	w->driver.avail->idx = 65530;
	w->cfg.base = 65530;
	ring_begin(w);
	for (unsigned i = 0; i < 40; i++) {
		uint16_t head = (uint16_t)(i * 5 % NUM);
		guest_chain(&w->driver, head, &b, 1);
		guest_publish(&w->driver, head);
		assert_int_equal(take(w), head);
		vring_give(&w->ring, head, &w->r, i);
		assert_true(guest_used(&w->driver, &e));
		assert_int_equal(e.id, head);
		assert_int_equal(e.len, i);
	}
	assert_int_equal(w->ring.last_avail, (uint16_t)(65530 + 40));
}

static void give_one(struct world *w)
{
	struct guest_buffer b = {guest_gpa(GUEST_DATA), 512, true};

	guest_chain(&w->driver, 0, &b, 1);
	guest_publish(&w->driver, 0);
	vring_give(&w->ring, take(w), &w->r, 0);
}

static void notify_flags(void **state)
{
	struct world *w = *state;

	give_one(w);
	assert_true(vring_notify_needed(&w->ring));
	w->driver.avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
	give_one(w);
	assert_false(vring_notify_needed(&w->ring));

	vring_kick_unask(&w->ring);
	assert_false(guest_publish(&w->driver, 0));
	assert_true(vring_kick_ask(&w->ring)); /* there is something already */
	take(w);
	assert_false(vring_kick_ask(&w->ring));
	assert_true(guest_publish(&w->driver, 0));
}

static void notify_event_idx(void **state)
{
	struct world *w = *state;
	uint16_t *used_event = &w->driver.avail->ring[NUM];

	w->cfg.event_idx = w->driver.event_idx = true;
	ring_begin(w);
	*used_event = 2; /* tell me when the third is done */
	give_one(w);
	assert_true(vring_notify_needed(&w->ring)); /* the first time always */
	give_one(w);
	assert_false(vring_notify_needed(&w->ring));
	give_one(w);
	assert_true(vring_notify_needed(&w->ring));
	give_one(w);
	assert_false(vring_notify_needed(&w->ring));
	*used_event = 5;
	give_one(w);
	give_one(w);
	give_one(w); /* past it in one go */
	assert_true(vring_notify_needed(&w->ring));

	assert_false(vring_kick_ask(&w->ring));
	assert_true(guest_publish(&w->driver, 0));
	vring_kick_unask(&w->ring);
	assert_false(guest_publish(&w->driver, 0)); /* once is enough */
	assert_true(vring_kick_ask(&w->ring));
}

static void dirty_log(void **state)
{
	struct world *w = *state;
	uint8_t bits[(GUEST_GPA + GUEST_BYTES) / VHOST_LOG_PAGE / 8 + 1];
	struct vhost_log log = {.bits = bits, .len_bytes = sizeof(bits)};
	struct guest_buffer b[] = {{guest_gpa(GUEST_DATA), 4096, false},
		{guest_gpa(GUEST_SPLIT - 10), 20, true}, {guest_gpa(GUEST_BYTES - 1), 1, true}};
#define DIRTY(offset)                                                                              \
	(bits[guest_gpa(offset) / VHOST_LOG_PAGE / 8] >> guest_gpa(offset) / VHOST_LOG_PAGE % 8 & 1)
	memset(bits, 0, sizeof(bits));
	w->place.log = &log;
	w->place.log_data = true;
	ring_begin(w);
	guest_chain(&w->driver, 0, b, 3);
	guest_publish(&w->driver, 0);
	vring_give(&w->ring, take(w), &w->r, 1);
	assert_false(DIRTY(GUEST_DATA)); /* we only read it */
	assert_true(DIRTY(GUEST_SPLIT - 1));
	assert_true(DIRTY(GUEST_SPLIT));
	assert_false(DIRTY(GUEST_SPLIT + 4096));
	assert_true(DIRTY(GUEST_BYTES - 1));
	assert_false(DIRTY(0x8000)); /* the used ring, which is not asked for */

	w->place.log_data = false;
	w->place.log_used = true;
	w->place.log_used_addr = guest_gpa(0x8000);
	memset(bits, 0, sizeof(bits));
	w->cfg.base = 1;
	ring_begin(w);
	assert_true(DIRTY(0x8000)); /* idx may be newer than its mark */
	memset(bits, 0, sizeof(bits));
	vring_move(&w->ring, &w->place);
	assert_true(DIRTY(0x8000));
	memset(bits, 0, sizeof(bits));
	guest_publish(&w->driver, 0);
	vring_give(&w->ring, take(w), &w->r, 1);
	assert_true(DIRTY(0x8000));
	assert_false(DIRTY(GUEST_SPLIT));
	memset(bits, 0, sizeof(bits));
	vring_kick_ask(&w->ring);
	assert_true(DIRTY(0x8000));

	/* A log that is too short, and one that is elsewhere. */
	log.len_bytes = 1;
	guest_publish(&w->driver, 0);
	vring_give(&w->ring, take(w), &w->r, 1);
	w->place.log_used_addr = UINT64_MAX - 3;
	ring_begin(w);
	w->ring.last_avail = (uint16_t)(w->driver.avail_idx - 1);
	vring_give(&w->ring, take(w), &w->r, 1);
}

/* ---- what is in flight ---- */

static void publish_all(struct world *w, unsigned n)
{
	struct guest_buffer b = {guest_gpa(GUEST_DATA), 512, true};

	for (uint16_t i = 0; i < n; i++) {
		guest_chain(&w->driver, i, &b, 1);
		guest_publish(&w->driver, i);
	}
}

static void tracking(struct world *w)
{
	w->cfg.inflight = w->inflight;
	w->cfg.inflight_len = NUM;
	ring_begin(w);
}

static void inflight_order(void **state)
{
	struct world *w = *state;
	uint16_t head;

	tracking(w);
	publish_all(w, 6);
	for (unsigned i = 0; i < 5; i++)
		take(w);
	vring_give(&w->ring, 3, &w->r, 0);
	vring_give(&w->ring, 0, &w->r, 0);
	/* The process dies; another one takes over. The base it is told is wrong. */
	w->cfg.base = 77;
	ring_begin(w);
	assert_int_equal(vring_redo_left(&w->ring), 3);
	static const uint16_t expected[] = {1, 2, 4, 5};
	assert_int_equal(take(w), 1);
	assert_int_equal(take(w), 2);
	ring_begin(w); /* dies once more, in the middle of it */
	assert_int_equal(vring_redo_left(&w->ring), 3);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(take(w), expected[i]);
		vring_give(&w->ring, expected[i], &w->r, 0);
	}
	assert_int_equal(vring_peek(&w->ring, true, &head), 0);
	ring_begin(w);
	assert_int_equal(vring_redo_left(&w->ring), 0);
	assert_int_equal(w->ring.last_avail, 6);
}

/* Death between the used ring's idx and the region's own marks. */
static void inflight_half_given(void **state)
{
	struct world *w = *state;
	uint16_t head;

	tracking(w);
	publish_all(w, 3);
	for (unsigned i = 0; i < 3; i++)
		take(w);
	vring_give(&w->ring, 1, &w->r, 0);
	w->inflight->desc[1].inflight = 1;
	w->inflight->used_idx = 0;
	ring_begin(w);
	assert_int_equal(vring_redo_left(&w->ring), 2);
	assert_int_equal(vring_peek(&w->ring, true, &head), 1);
	assert_int_equal(head, 0);
	assert_int_equal(w->ring.last_avail, 3);

	/* Death before the used ring's idx: that one is done again. */
	w->inflight->desc[2].next = w->inflight->last_batch_head;
	w->inflight->last_batch_head = 2;
	ring_begin(w);
	assert_int_equal(vring_redo_left(&w->ring), 2);
}

/* A region left by a back end that gives back several at once. */
static void inflight_batch(void **state)
{
	struct world *w = *state;
	uint16_t head;

	tracking(w);
	publish_all(w, 4);
	for (unsigned i = 0; i < 4; i++)
		take(w);
	w->inflight->desc[2].next = 0;
	w->inflight->desc[3].next = 2;
	w->inflight->last_batch_head = 3;
	w->driver.used->idx = 2;
	ring_begin(w);
	assert_int_equal(vring_redo_left(&w->ring), 2);
	assert_int_equal(vring_peek(&w->ring, true, &head), 1);
	assert_int_equal(head, 0);
	assert_int_equal(w->inflight->used_idx, 2);
}

static void inflight_hostile(void **state)
{
	struct world *w = *state;

	tracking(w);
	w->inflight->version = 7;
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), -EINVAL);
	w->inflight->version = 1;
	w->inflight->desc_num = NUM - 1;
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), -EINVAL);
	w->inflight->desc_num = UINT16_MAX; /* ours is what was mapped */
	memset(w->inflight->desc, 0xff, NUM * sizeof(w->inflight->desc[0]));
	w->inflight->last_batch_head = UINT16_MAX;
	w->inflight->used_idx = 5;
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), 0);
	assert_int_equal(vring_redo_left(&w->ring), NUM);
	for (unsigned i = 0; i < NUM; i++)
		w->inflight->desc[i].next = (uint16_t)(i % 2);
	w->inflight->last_batch_head = 0;
	w->inflight->used_idx = 5;
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), 0);
	w->cfg.inflight_len = NUM / 2;
	assert_int_equal(vring_init(&w->ring, &w->cfg, &w->place), -EINVAL);
}

/* Chains are taken and given back at random, with deaths in between: what is in flight is submitted
 * again in the order in which it was taken, nothing else is, nothing is lost. */
static void inflight_random(void **state)
{
	struct world *w = *state;
	struct guest_buffer b = {guest_gpa(GUEST_DATA), 512, true};
	bool with_driver[NUM] = {0};	 /* published, not seen as used */
	uint16_t out[NUM], outs = 0;	 /* taken by the device, in order */
	uint16_t queue[NUM], queued = 0; /* published, not taken */
	struct virtq_used_elem e;
	unsigned rng = (unsigned)seed;

	tracking(w);
	for (unsigned step = 0; step < 200000; step++) {
		unsigned what = (unsigned)rand_r(&rng) % 100;
		uint16_t i = (uint16_t)((unsigned)rand_r(&rng) % NUM);
		if (what < 35 && !with_driver[i]) {
			guest_chain(&w->driver, i, &b, 1);
			guest_publish(&w->driver, i);
			with_driver[i] = true;
			queue[queued++] = i;
		} else if (what < 65 && queued) {
			assert_int_equal(take(w), queue[0]);
			out[outs++] = queue[0];
			memmove(queue, queue + 1, --queued * sizeof(queue[0]));
		} else if (what < 95 && outs) {
			i %= outs;
			vring_give(&w->ring, out[i], &w->r, 7);
			assert_true(guest_used(&w->driver, &e));
			assert_int_equal(e.id, out[i]);
			with_driver[out[i]] = false;
			memmove(out + i, out + i + 1, (--outs - i) * sizeof(out[0]));
		} else if (what == 99) {
			w->cfg.base = (uint16_t)rand_r(&rng);
			ring_begin(w);
			assert_int_equal(vring_redo_left(&w->ring), outs);
			unsigned again = outs ? (unsigned)rand_r(&rng) % (outs + 1u) : 0;
			for (unsigned j = 0; j < again; j++)
				assert_int_equal(take(w), out[j]);
			if (again == outs)
				continue;
			ring_begin(w);
			for (unsigned j = 0; j < outs; j++)
				assert_int_equal(take(w), out[j]);
		}
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(chains, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_at_border, setup, teardown),
		cmocka_unit_test_setup_teardown(indirect, setup, teardown),
		cmocka_unit_test_setup_teardown(indirect_wrong, setup, teardown),
		cmocka_unit_test_setup_teardown(chains_wrong, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(avail_wrong, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(wraps, setup, teardown),
		cmocka_unit_test_setup_teardown(notify_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(notify_event_idx, setup, teardown),
		cmocka_unit_test_setup_teardown(dirty_log, setup, teardown),
		cmocka_unit_test_setup_teardown(inflight_order, setup, teardown),
		cmocka_unit_test_setup_teardown(inflight_half_given, setup, teardown),
		cmocka_unit_test_setup_teardown(inflight_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(inflight_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(inflight_random, setup, teardown),
	};
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
