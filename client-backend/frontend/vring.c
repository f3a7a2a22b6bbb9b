/* One split virtqueue in a guest's memory: taking chains from it, giving them back, and the record
 * of what is in flight. */
#include "client-backend/frontend/vring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOAD16(p)     __atomic_load_n((const uint16_t *)(p), __ATOMIC_ACQUIRE)
#define STORE16(p, x) __atomic_store_n((uint16_t *)(p), (uint16_t)(x), __ATOMIC_RELEASE)
/* A load after a store is not done before it. */
#define LOAD16_FULL(p)	   __atomic_load_n((const uint16_t *)(p), __ATOMIC_SEQ_CST)
#define STORE16_FULL(p, x) __atomic_exchange_n((uint16_t *)(p), (uint16_t)(x), __ATOMIC_SEQ_CST)

const char *vring_fault_name(enum vring_fault f)
{
	static const char *const name[VRING_FAULTS] = {
		[VRING_FAULT_NONE] = "none",
		[VRING_FAULT_AVAIL] = "avail_index",
		[VRING_FAULT_HEAD] = "head_range",
		[VRING_FAULT_BUSY] = "head_busy",
		[VRING_FAULT_NEXT] = "next_range",
		[VRING_FAULT_LOOP] = "loop",
		[VRING_FAULT_BUFFERS] = "buffers",
		[VRING_FAULT_ORDER] = "order",
		[VRING_FAULT_ADDRESS] = "address",
		[VRING_FAULT_LENGTH] = "length",
		[VRING_FAULT_INDIRECT] = "indirect",
		[VRING_FAULT_MEMORY] = "memory_lost",
	};
	return (unsigned)f < VRING_FAULTS ? name[f] : "unknown";
}

/* ---- dirty log ---- */

static void log_mark(const struct vhost_log *log, uint64_t guest_addr, uint64_t len)
{
	uint64_t page = guest_addr / VHOST_LOG_PAGE;
	uint64_t last = (guest_addr + len - 1) / VHOST_LOG_PAGE;

	for (; len && page <= last && page / 8 < log->len_bytes; page++)
		__atomic_fetch_or(
			&log->bits[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_SEQ_CST);
}

/* The device may have written to any of them, whatever length it reports. */
static void log_buffers(const struct vring *v, const struct vhost_request *r)
{
	uint64_t guest_addr;

	if (!v->place.log || !v->place.log_data)
		return;
	for (unsigned i = 0; i < r->in_count; i++) {
		const struct vhost_buffer *b = &r->buffer[r->out_count + i];

		if (vhost_memory_guest_addr(v->place.memory, b->base, &guest_addr))
			log_mark(v->place.log, guest_addr, b->len);
	}
}

static void log_used(const struct vring *v, const void *at, uint64_t len)
{
	uint64_t offset = (uint64_t)((const uint8_t *)at - (const uint8_t *)v->place.used);

	if (v->place.log && v->place.log_used &&
		v->place.log_used_addr <= UINT64_MAX - offset - len)
		log_mark(v->place.log, v->place.log_used_addr + offset, len);
}

/* ---- what is in flight ---- */

/*
 * Process death is the crash this is for: what a thread stored, in the order of its instructions,
 * is in the shared memory, whoever dies. So the compiler alone must be kept from reordering.
 */
static void in_order(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void inflight_take(struct vring *v, uint16_t head)
{
	volatile struct vhost_inflight_desc *d;

	if (!v->cfg.inflight)
		return;
	d = &v->cfg.inflight->desc[head];
	d->counter = v->counter++;
	in_order();
	d->inflight = 1;
}

struct redo {
	uint64_t counter;
	uint16_t head;
};

static int redo_order(const void *a, const void *b)
{
	const struct redo *x = a, *y = b;

	return x->counter < y->counter ? -1 : x->counter > y->counter;
}

static void redo_list(struct vring *v)
{
	struct redo redo[VHOST_MAX_QUEUE_LEN];
	volatile struct vhost_inflight_desc *d = v->cfg.inflight->desc;

	for (uint16_t i = 0; i < v->cfg.num; i++) {
		if (d[i].inflight)
			redo[v->redo_count++] = (struct redo){.counter = d[i].counter, .head = i};
	}
	qsort(redo, v->redo_count, sizeof(redo[0]), redo_order);
	for (uint16_t i = 0; i < v->redo_count; i++)
		v->redo[i] = redo[i].head;
	if (v->redo_count)
		v->counter = redo[v->redo_count - 1].counter + 1;
}

/* The last user may have died between the used ring's idx and the region: that batch is done. */
static void inflight_finish(struct vring *v)
{
	volatile struct vhost_inflight_ring *f = v->cfg.inflight;
	uint16_t done = v->used_idx - f->used_idx;
	uint16_t at = f->last_batch_head;

	for (unsigned i = 0; i < done && i < v->cfg.num && at < v->cfg.num; i++) {
		f->desc[at].inflight = 0;
		at = f->desc[at].next;
	}
	in_order();
	f->used_idx = v->used_idx;
}

static int inflight_init(struct vring *v)
{
	struct vhost_inflight_ring *f = v->cfg.inflight;
	uint16_t version = LOAD16(&f->version);

	if (version == 0) {
		memset(f, 0, sizeof(*f) + v->cfg.inflight_len * sizeof(f->desc[0]));
		f->desc_num = v->cfg.inflight_len;
		f->used_idx = v->used_idx;
		STORE16(&f->version, VHOST_INFLIGHT_VERSION);
		return 0;
	}
	if (version != VHOST_INFLIGHT_VERSION || f->features || f->desc_num < v->cfg.num)
		return -EINVAL;
	inflight_finish(v);
	redo_list(v);
	v->last_avail = v->used_idx + v->redo_count;
	return 0;
}

void vring_move(struct vring *v, const struct vring_place *place)
{
	v->place = *place;
	log_used(v, &place->used->idx, sizeof(place->used->idx));
}

int vring_init(struct vring *v, const struct vring_config *cfg, const struct vring_place *place)
{
	uint16_t num = cfg->num;

	memset(v, 0, sizeof(*v));
	if (!num || (num & (num - 1)) || num > VHOST_MAX_QUEUE_LEN ||
		(cfg->inflight && cfg->inflight_len < num))
		return -EINVAL;
	v->cfg = *cfg;
	v->last_avail = cfg->base;
	v->used_idx = LOAD16(&place->used->idx);
	vring_move(v, place);
	return cfg->inflight ? inflight_init(v) : 0;
}

/* ---- chains ---- */

/* One descriptor table: the ring's own, or an indirect one in guest memory. */
struct table {
	const struct virtq_desc *direct; /* NULL: indirect */
	uint64_t guest_addr;
	uint32_t entries;
};

/* Each word is read once: what is checked is what is used. */
static enum vring_fault desc_read(
	const struct vring *v, const struct table *t, uint32_t i, struct virtq_desc *out)
{
	const void *at;
	uint64_t word[2], len = sizeof(*out);

	if (t->direct)
		at = &t->direct[i];
	else
		at = vhost_memory_guest(v->place.memory, t->guest_addr + i * len, &len);
	if (!at || len < sizeof(*out))
		return VRING_FAULT_ADDRESS;
	memcpy(word, at, sizeof(word)); /* an indirect table need not be aligned */
	__asm__ volatile("" : "+m"(word)::"memory");
	memcpy(out, word, sizeof(*out));
	return VRING_FAULT_NONE;
}

static enum vring_fault buffers_add(
	const struct vring *v, const struct virtq_desc *d, struct vhost_request *r)
{
	bool in = d->flags & VIRTQ_DESC_F_WRITE;
	uint32_t *bytes = in ? &r->in_bytes : &r->out_bytes;
	uint64_t guest_addr = d->addr, left = d->len;

	if (!left)
		return VRING_FAULT_BUFFERS;
	if (!in && r->in_count)
		return VRING_FAULT_ORDER;
	if (left > UINT32_MAX - *bytes)
		return VRING_FAULT_LENGTH;
	*bytes += d->len;
	if (left - 1 > UINT64_MAX - guest_addr)
		return VRING_FAULT_ADDRESS;
	while (left) {
		uint64_t len = left;
		unsigned n = r->out_count + r->in_count;

		if (n == VHOST_MAX_BUFFERS)
			return VRING_FAULT_BUFFERS;
		r->buffer[n].base = vhost_memory_guest_row(
			v->place.memory, guest_addr, &len, &r->buffer[n].row);
		if (!r->buffer[n].base)
			return VRING_FAULT_ADDRESS;
		r->buffer[n].len = (uint32_t)len;
		*(in ? &r->in_count : &r->out_count) += 1;
		guest_addr += len;
		left -= len;
	}
	return VRING_FAULT_NONE;
}

static enum vring_fault table_enter(
	const struct vring *v, const struct virtq_desc *d, struct table *t)
{
	if (!v->cfg.indirect || !t->direct || (d->flags & VIRTQ_DESC_F_NEXT) || !d->len ||
		d->len % sizeof(struct virtq_desc))
		return VRING_FAULT_INDIRECT;
	if (d->len - 1 > UINT64_MAX - d->addr)
		return VRING_FAULT_ADDRESS;
	*t = (struct table){.guest_addr = d->addr, .entries = d->len / sizeof(struct virtq_desc)};
	return VRING_FAULT_NONE;
}

/* Ends: each descriptor adds a buffer, of which there is a limit, or enters the one indirect table.
 */
static enum vring_fault chain_read(const struct vring *v, uint16_t head, struct vhost_request *r)
{
	struct table t = {.direct = v->place.desc, .entries = v->cfg.num};
	struct virtq_desc d;
	enum vring_fault f;
	uint32_t i = head, steps = 0;

	r->out_bytes = r->in_bytes = 0;
	r->out_count = r->in_count = 0;
	for (;;) {
		if (i >= t.entries)
			return VRING_FAULT_NEXT;
		if (steps++ >= t.entries)
			return VRING_FAULT_LOOP;
		f = desc_read(v, &t, i, &d);
		if (!f && (d.flags & VIRTQ_DESC_F_INDIRECT)) {
			f = table_enter(v, &d, &t);
			if (f)
				return f;
			i = steps = 0;
			continue;
		}
		if (!f)
			f = buffers_add(v, &d, r);
		if (f)
			return f;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return VRING_FAULT_NONE;
		i = d.next;
	}
}

enum vring_fault vring_chain(const struct vring *v, uint16_t head, struct vhost_request *r)
{
	enum vring_fault f = chain_read(v, head, r);

	/* What is there instead of lost memory is not the guest's, and must not be stored. */
	return vhost_memory_broken(v->place.memory) ? VRING_FAULT_MEMORY : f;
}

int vring_peek(const struct vring *v, bool fresh, uint16_t *head)
{
	if (v->redo_at < v->redo_count) {
		*head = v->redo[v->redo_at];
	} else {
		uint16_t n = fresh ? LOAD16(&v->place.avail->idx) - v->last_avail : 0;

		if (!n)
			return 0;
		if (n > v->cfg.num)
			return -VRING_FAULT_AVAIL;
		*head = LOAD16(&v->place.avail->ring[v->last_avail % v->cfg.num]);
	}
	return *head < v->cfg.num ? 1 : -VRING_FAULT_HEAD;
}

void vring_take(struct vring *v, uint16_t head)
{
	if (v->redo_at < v->redo_count) {
		v->redo_at++; /* in flight, and counted, already */
		return;
	}
	inflight_take(v, head);
	v->last_avail++;
}

void vring_give(struct vring *v, uint16_t head, const struct vhost_request *r, uint32_t written)
{
	volatile struct vhost_inflight_ring *f = v->cfg.inflight;
	struct virtq_used *u = v->place.used;
	struct virtq_used_elem *e = &u->ring[v->used_idx % v->cfg.num];

	log_buffers(v, r);
	e->id = head;
	e->len = written;
	log_used(v, e, sizeof(*e));
	if (f) {
		f->desc[head].next = f->last_batch_head;
		f->last_batch_head = head;
		in_order();
	}
	STORE16(&u->idx, ++v->used_idx);
	log_used(v, &u->idx, sizeof(u->idx));
	if (f) {
		in_order();
		f->desc[head].inflight = 0;
		in_order();
		f->used_idx = v->used_idx;
	}
}

/* ---- notifications ---- */

bool vring_notify_needed(struct vring *v)
{
	uint16_t old = v->signalled;
	bool valid = v->signalled_valid;

	/* Our idx, once more with a full barrier, must be seen before we look at what the guest
	 * wants. */
	STORE16_FULL(&v->place.used->idx, v->used_idx);
	if (!v->cfg.event_idx)
		return !(LOAD16_FULL(&v->place.avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
	v->signalled = v->used_idx;
	v->signalled_valid = true;
	uint16_t event = LOAD16_FULL(&v->place.avail->ring[v->cfg.num]);
	return !valid || (uint16_t)(v->used_idx - event - 1) < (uint16_t)(v->used_idx - old);
}

bool vring_kick_ask(struct vring *v)
{
	struct virtq_used *u = v->place.used;

	if (v->cfg.event_idx) {
		uint16_t *event = (uint16_t *)&u->ring[v->cfg.num];
		STORE16_FULL(event, v->last_avail);
		log_used(v, event, sizeof(*event));
	} else {
		STORE16_FULL(&u->flags, 0);
		log_used(v, &u->flags, sizeof(u->flags));
	}
	/* The guest saw it before we look at what it made available. */
	return vring_redo_left(v) || LOAD16_FULL(&v->place.avail->idx) != v->last_avail;
}

void vring_kick_unask(struct vring *v)
{
	struct virtq_used *u = v->place.used;

	if (v->cfg.event_idx)
		return; /* the event lies behind us already */
	STORE16(&u->flags, VIRTQ_USED_F_NO_NOTIFY);
	log_used(v, &u->flags, sizeof(u->flags));
}
