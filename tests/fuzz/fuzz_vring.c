/* Fuzzes one virtqueue: whatever a guest writes into its rings and descriptors, and a front end
 * into the in-flight region. */
#include <stdlib.h>
#include <string.h>

#include "client-backend/frontend/vring.h"
#include "tests/fuzz/input.h"
#include "tests/must.h"
#include "tests/unit/vhost/guest.h"

#define NUM 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct guest guest;
static struct vhost_memory *memory;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	guest_init(&guest);
	memory = guest_memory(&guest);
	return 0;
}

struct world {
	struct vring ring;
	struct vring_config cfg;
	struct vring_place place;
	struct guest_ring driver;
	struct vhost_log log;
	uint8_t bits[4096];
	bool busy[NUM];
	struct vhost_request request[NUM];
	union {
		struct vhost_inflight_ring inflight;
		uint8_t bytes[16 + NUM * 16];
	};
};

/* Numbers that are likely to mean something. */
static uint64_t take_address(struct input *in)
{
	uint64_t v = take(in, 3);
	switch (take(in, 1) % 6) {
	case 0:
		return guest_gpa(v % GUEST_BYTES);
	case 1:
		return guest_gpa(GUEST_SPLIT) - v % 64;
	case 2:
		return guest_gpa(GUEST_BYTES) - v % 64;
	case 3:
		return guest_gpa(v % 4096 / 16 * 16);
	case 4:
		return UINT64_MAX - v % 64;
	default:
		return take(in, 8);
	}
}

static void write_desc(struct world *w, struct input *in)
{
	unsigned i = (unsigned)take(in, 1);
	/* Those past the ring serve as indirect tables. */
	volatile struct virtq_desc *d = &w->driver.desc[i];
	d->addr = take_address(in);
	d->len = (uint32_t)(i & 1 ? take(in, 1) * 16 : take(in, 4));
	d->flags = (uint16_t)take(in, 1);
	d->next = (uint16_t)take(in, 1) % (NUM + 2);
}

static void check_request(const struct vhost_request *r)
{
	uint64_t out = 0, inb = 0;
	unsigned n = r->out_count + r->in_count;
	MUST(n > 0 && n <= VHOST_MAX_BUFFERS);
	for (unsigned i = 0; i < n; i++) {
		const struct vhost_buffer *b = &r->buffer[i];
		uint64_t gpa, len = b->len;
		MUST(len && vhost_memory_guest_addr(memory, b->base, &gpa));
		MUST(vhost_memory_guest(memory, gpa, &len) == b->base && len == b->len);
		*(i < r->out_count ? &out : &inb) += b->len;
	}
	MUST(out == r->out_bytes && inb == r->in_bytes);
}

/* What a lane does. */
static void serve(struct world *w)
{
	uint16_t head;
	for (unsigned i = 0; i < 2 * NUM; i++) {
		if (vring_peek(&w->ring, true, &head) != 1)
			return;
		MUST(head < NUM);
		if (w->busy[head] || vring_chain(&w->ring, head, &w->request[head]))
			return;
		check_request(&w->request[head]);
		vring_take(&w->ring, head);
		w->busy[head] = true;
	}
}

static void give(struct world *w, unsigned i)
{
	if (!w->busy[i])
		return;
	vring_give(&w->ring, (uint16_t)i, &w->request[i], 0);
	w->busy[i] = false;
}

static void step(struct world *w, struct input *in)
{
	unsigned which = (unsigned)take(in, 1), i;
	switch (which % 9) {
	case 0:
	case 1:
		write_desc(w, in);
		return;
	case 2:
		guest_publish(&w->driver, (uint16_t)take(in, 1) % (NUM + 1));
		return;
	case 3:
		guest.base[take(in, 2)] = (uint8_t)take(in, 1);
		return;
	case 4:
		serve(w);
		return;
	case 5:
		give(w, which / 9 % NUM);
		return;
	case 6:
		vring_notify_needed(&w->ring);
		if (which / 9 % 2)
			vring_kick_ask(&w->ring);
		else
			vring_kick_unask(&w->ring);
		return;
	case 7:
		i = (unsigned)take(in, 2) % sizeof(w->bytes);
		w->bytes[i] = (uint8_t)take(in, 1);
		return;
	default: /* whoever served it died */
		if (vring_init(&w->ring, &w->cfg, &w->place) == 0) {
			MUST(vring_redo_left(&w->ring) <= NUM);
			memset(w->busy, 0, sizeof(w->busy));
		}
		return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;
	struct input in = {.at = data, .left = size};
	uint8_t how = (uint8_t)take(&in, 1);

	memset(&w, 0, sizeof(w));
	memset(guest.base, 0, 2 * GUEST_RING_STRIDE);
	guest_ring_init(&w.driver, &guest, 0, NUM, how & 1);
	w.log = (struct vhost_log){.bits = w.bits, .len_bytes = sizeof(w.bits)};
	w.cfg = (struct vring_config){.num = NUM,
		.base = how & 2 ? 65530 : 0,
		.event_idx = how & 1,
		.indirect = how & 4,
		.inflight = how & 8 ? &w.inflight : NULL,
		.inflight_len = NUM};
	w.place = (struct vring_place){.memory = memory,
		.desc = vhost_memory_user(memory, guest_uva(0), 1),
		.avail = vhost_memory_user(memory, guest_uva(0x4000), 1),
		.used = vhost_memory_user(memory, guest_uva(0x8000), 1),
		.log = how & 16 ? &w.log : NULL,
		.log_data = true,
		.log_used = true,
		.log_used_addr = how & 32 ? UINT64_MAX - 9 : 0};
	w.driver.avail_idx = w.driver.avail->idx = w.driver.used->idx = w.cfg.base;
	MUST(vring_init(&w.ring, &w.cfg, &w.place) == 0);
	while (in.left)
		step(&w, &in);
	return 0;
}
