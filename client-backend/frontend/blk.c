/* virtio-blk over any store of bytes: what the guest asks for, checked, and how it is answered. */
#include "client-backend/frontend/blk.h"
#include "client-backend/frontend/vhost_mapping.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct blk {
	struct blk_config cfg;
	const struct blk_store_ops *ops;
	void *store;
	const struct env *env;
	_Atomic uint8_t own_writeback;
	_Atomic uint8_t *writeback; /* what the driver wrote last */
	_Atomic bool flush_unknown; /* the driver knows no flush: every write is flushed */
	struct blk_stats stats[];   /* by lane */
};

static_assert(sizeof(struct blk_range) <= sizeof(((struct vhost_request *)0)->dev_priv),
	"a range lives in the request's private words");

const char *blk_tier_name(enum blk_tier tier)
{
	static const char *const names[] = {"none", "local", "remote", "disk"};

	return names[tier];
}

const char *blk_refusal_name(enum blk_refusal r)
{
	static const char *const names[] = {"short", "length", "range", "flags", "type"};

	return names[r];
}

int blk_new(const struct blk_config *cfg, const struct blk_store_ops *ops, void *store,
	const struct env *env, struct blk **out)
{
	if (!cfg->size_bytes || cfg->block_bytes < BLK_SECTOR_BYTES ||
		cfg->block_bytes > BLK_PHYSICAL_BYTES ||
		cfg->block_bytes & (cfg->block_bytes - 1) || cfg->size_bytes % cfg->block_bytes ||
		cfg->lanes < 1 || cfg->lanes > BLK_MAX_LANES || cfg->queues < 1 ||
		cfg->queues > VHOST_MAX_QUEUES)
		return -EINVAL;
	struct blk *b = calloc(1, sizeof(*b) + cfg->lanes * sizeof(struct blk_stats));
	if (!b)
		return -ENOMEM;
	b->cfg = *cfg;
	b->ops = ops;
	b->store = store;
	b->env = env;
	b->own_writeback = cfg->volatile_cache;
	b->writeback = cfg->writeback ? cfg->writeback : &b->own_writeback;
	*out = b;
	return 0;
}

void blk_delete(struct blk *b)
{
	free(b);
}

const struct blk_stats *blk_stats(const struct blk *b, unsigned lane)
{
	return &b->stats[lane];
}

/* ---- configuration space and features ---- */

static uint64_t blk_features(void *dev)
{
	const struct blk *b = dev;
	uint64_t f = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
		     1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
		     1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_CONFIG_WCE |
		     1ull << VIRTIO_BLK_F_MQ;

	if (b->cfg.readonly)
		return f | 1ull << VIRTIO_BLK_F_RO;
	return f | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

static uint32_t blk_config_read(void *dev, uint8_t out[VHOST_CONFIG_BYTES])
{
	const struct blk *b = dev;
	uint32_t limit = htole32(BLK_MAX_DISCARD_BYTES / BLK_SECTOR_BYTES);
	struct virtio_blk_config c = {
		.capacity = htole64(b->cfg.size_bytes / BLK_SECTOR_BYTES),
		.size_max = htole32(BLK_MAX_SEGMENT_BYTES),
		.seg_max = htole32(BLK_MAX_SEGMENTS),
		.blk_size = htole32(b->cfg.block_bytes),
		.physical_block_exp =
			(uint8_t)__builtin_ctz(BLK_PHYSICAL_BYTES / b->cfg.block_bytes),
		.min_io_size = htole16(1),
		.wce = atomic_load_explicit(b->writeback, memory_order_relaxed),
		.num_queues = htole16((uint16_t)b->cfg.queues),
		.max_discard_sectors = limit,
		.max_discard_seg = htole32(BLK_MAX_DISCARD_RANGES),
		.discard_sector_alignment = htole32(BLK_PHYSICAL_BYTES / BLK_SECTOR_BYTES),
		.max_write_zeroes_sectors = limit,
		.max_write_zeroes_seg = htole32(BLK_MAX_DISCARD_RANGES),
		.write_zeroes_may_unmap = 1,
	};

	memset(out, 0, VHOST_CONFIG_BYTES);
	memcpy(out, &c, sizeof(c));
	return sizeof(c);
}

/* Where the store has no volatile cache both modes are the same; the driver may choose. */
static int blk_config_write(void *dev, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct blk *b = dev;

	if (offset != offsetof(struct virtio_blk_config, wce) || len != 1 || data[0] > 1)
		return -EINVAL;
	atomic_store_explicit(b->writeback, data[0], memory_order_relaxed);
	return 0;
}

static void blk_features_set(void *dev, uint64_t features)
{
	struct blk *b = dev;
	uint64_t flushes = 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;

	atomic_store_explicit(&b->flush_unknown, !(features & flushes), memory_order_relaxed);
}

/* Every write is to be on stable storage before it is answered. */
static bool writes_through(struct blk *b)
{
	return b->cfg.volatile_cache &&
	       (!atomic_load_explicit(b->writeback, memory_order_relaxed) ||
		       atomic_load_explicit(&b->flush_unknown, memory_order_relaxed));
}

/* ---- the guest's buffers ---- */

static struct vhost_request *request_of(const struct blk_range *g)
{
	return (struct vhost_request *)((char *)g - offsetof(struct vhost_request, dev_priv));
}

static struct blk_range *range_of(struct vhost_request *r)
{
	return (struct blk_range *)(void *)r->dev_priv;
}

/* Moves over `len` bytes; copy is called for each piece. */
static void walk(const struct vhost_request *r, struct blk_cursor *c, uint32_t len, void *own,
	void (*copy)(uint8_t *guest, uint8_t *own, uint32_t n))
{
	uint8_t *p = own;

	while (len) {
		const struct vhost_buffer *b = &r->buffer[c->buffer];
		uint32_t n = b->len - c->offset;

		if (n > len)
			n = len;
		if (copy) {
			copy(b->base + c->offset, p, n);
			p += n;
		}
		len -= n;
		c->at += n;
		c->offset += n;
		if (c->offset == b->len) {
			c->offset = 0;
			c->buffer++;
		}
	}
}

static void copy_get(uint8_t *guest, uint8_t *own, uint32_t n)
{
	memcpy(own, guest, n);
	/* What follows looks at the copy, whatever the guest writes meanwhile. */
	__asm__ volatile("" ::: "memory");
}

static void copy_put(uint8_t *guest, uint8_t *own, uint32_t n)
{
	memcpy(guest, own, n);
}

static void out_get(const struct vhost_request *r, uint32_t at, void *to, uint32_t len)
{
	struct blk_cursor c = {0};

	walk(r, &c, at, NULL, NULL);
	walk(r, &c, len, to, copy_get);
}

void blk_cursor_start(const struct blk_range *g, struct blk_cursor *c)
{
	const struct vhost_request *r = request_of(g);

	*c = (struct blk_cursor){.buffer = g->op == BLK_READ ? r->out_count : 0};
	if (g->op != BLK_READ)
		walk(r, c, sizeof(struct virtio_blk_outhdr), NULL, NULL);
	c->at = 0;
}

void blk_cursor_seek(const struct blk_range *g, struct blk_cursor *c, uint32_t at)
{
	walk(request_of(g), c, at - c->at, NULL, NULL);
}

void blk_data_get(const struct blk_range *g, struct blk_cursor *c, void *to, uint32_t len)
{
	walk(request_of(g), c, len, to, copy_get);
}

void blk_data_put(const struct blk_range *g, struct blk_cursor *c, const void *from, uint32_t len)
{
	walk(request_of(g), c, len, (void *)from, copy_put);
}

void *blk_data_direct(const struct blk_range *g, const struct blk_cursor *c, uint32_t len,
	const struct transport_memory **memory)
{
	const struct vhost_request *r = request_of(g);
	const struct vhost_buffer *b = &r->buffer[c->buffer];
	const struct vhost_buffer *end = &r->buffer[r->out_count + r->in_count];
	uint8_t *start = b->base + c->offset;

	if (!b->row)
		return NULL;
	for (uint32_t have = b->len - c->offset; have < len; have += b->len) {
		const struct vhost_buffer *next = b + 1;

		if (next == end || next->row != b->row || next->base != b->base + b->len)
			return NULL;
		b = next;
	}
	*memory = vhost_mapping_memory(b->row);
	return start;
}

/* ---- answers ---- */

/* The status is the last byte that we may write. */
static void answer(struct vhost_request *r, uint8_t status)
{
	const struct vhost_buffer *last = &r->buffer[r->out_count + r->in_count - 1];

	last->base[last->len - 1] = status;
	vhost_request_done(r, r->in_bytes);
}

static struct blk_stats *stats_of(struct blk_range *g)
{
	return &g->blk->stats[g->lane];
}

static void refuse(struct vhost_request *r, struct blk_stats *s, enum blk_refusal why)
{
	stat_add(&s->refused[why], 1);
	answer(r, why == BLK_REFUSED_TYPE || why == BLK_REFUSED_FLAGS ? VIRTIO_BLK_S_UNSUPP
								      : VIRTIO_BLK_S_IOERR);
}

static void range_end(struct blk_range *g, int status, enum blk_tier tier)
{
	struct blk_stats *s = stats_of(g);
	uint64_t ns = env_now_ns(g->blk->env) - g->start_ns;

	stat_sub(&s->in_flight, 1);
	if (status)
		stat_add(&s->errors, 1);
	if (g->type == VIRTIO_BLK_T_IN) {
		hist_record(&s->read_ns[tier], ns);
		stat_add(&s->bytes_read, status ? 0 : g->bytes);
	} else if (g->type == VIRTIO_BLK_T_OUT) {
		hist_record(&s->write_ns, ns);
		stat_add(&s->bytes_written, status ? 0 : g->bytes);
	} else if (g->type == VIRTIO_BLK_T_FLUSH) {
		hist_record(&s->flush_ns, ns);
	} else {
		hist_record(&s->zero_ns, ns);
	}
	answer(request_of(g), status ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* ---- requests ---- */

static bool range_fits(const struct blk *b, uint64_t sector, uint64_t bytes)
{
	uint64_t sectors = b->cfg.size_bytes / BLK_SECTOR_BYTES;

	return sector <= sectors && bytes / BLK_SECTOR_BYTES <= sectors - sector;
}

/* Starts the next range of a discard or write-zeroes that has any length. True: there was one.
 * Negative: what is wrong with it, as -1 - enum blk_refusal. */
static int zero_next(struct blk_range *g)
{
	struct vhost_request *r = request_of(g);
	unsigned count = (unsigned)((r->out_bytes - sizeof(struct virtio_blk_outhdr)) /
				    sizeof(struct virtio_blk_discard_write_zeroes));

	while (g->next < count) {
		struct virtio_blk_discard_write_zeroes z;

		out_get(r, (uint32_t)(sizeof(struct virtio_blk_outhdr) + g->next * sizeof(z)), &z,
			sizeof(z));
		g->next++;
		uint32_t flags = le32toh(z.flags);
		uint64_t bytes = (uint64_t)le32toh(z.num_sectors) * BLK_SECTOR_BYTES;

		/* Unmapping is an option of write-zeroes alone; other bits are reserved. */
		if (flags &
			~(g->type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
							       : 0u))
			return -1 - BLK_REFUSED_FLAGS;
		if (bytes > BLK_MAX_DISCARD_BYTES || !range_fits(g->blk, le64toh(z.sector), bytes))
			return -1 - BLK_REFUSED_RANGE;
		if (!bytes)
			continue;
		g->offset = le64toh(z.sector) * BLK_SECTOR_BYTES;
		g->bytes = (uint32_t)bytes;
		g->hole = g->type == VIRTIO_BLK_T_DISCARD || flags;
		return true;
	}
	return false;
}

void blk_range_done(struct blk_range *g, int status, enum blk_tier tier)
{
	if (!status && g->op == BLK_ZERO) {
		stat_add(&stats_of(g)->bytes_zeroed, g->bytes);
		int more = zero_next(g);
		if (more > 0) {
			g->blk->ops->submit(g->blk->store, g->lane, g);
			return;
		}
		if (more < 0) {
			stat_sub(&stats_of(g)->in_flight, 1);
			refuse(request_of(g), stats_of(g), (enum blk_refusal)(-1 - more));
			return;
		}
	}
	/* A discard is a hint: there is nothing in it to be kept. */
	if (!status && (g->op == BLK_WRITE || g->op == BLK_ZERO) &&
		g->type != VIRTIO_BLK_T_DISCARD && writes_through(g->blk)) {
		g->op = BLK_FLUSH;
		g->blk->ops->submit(g->blk->store, g->lane, g);
		return;
	}
	range_end(g, status, tier);
}

static void range_submit(struct blk_range *g)
{
	g->start_ns = env_now_ns(g->blk->env);
	stat_add(&stats_of(g)->in_flight, 1);
	g->blk->ops->submit(g->blk->store, g->lane, g);
}

static void transfer(struct blk_range *g, uint64_t sector)
{
	struct vhost_request *r = request_of(g);
	struct blk_stats *s = stats_of(g);
	bool read = g->op == BLK_READ;
	uint32_t header = sizeof(struct virtio_blk_outhdr);

	g->bytes = read ? r->in_bytes - 1 : r->out_bytes - header;
	stat_add(read ? &s->reads : &s->writes, 1);
	if (g->bytes % BLK_SECTOR_BYTES || (read ? r->out_bytes > header : r->in_bytes > 1)) {
		refuse(r, s, BLK_REFUSED_LENGTH);
	} else if (!range_fits(g->blk, sector, g->bytes)) {
		refuse(r, s, BLK_REFUSED_RANGE);
	} else if (!g->bytes) {
		answer(r, VIRTIO_BLK_S_OK);
	} else {
		g->offset = sector * BLK_SECTOR_BYTES;
		range_submit(g);
	}
}

static void zero(struct blk_range *g)
{
	struct vhost_request *r = request_of(g);
	struct blk_stats *s = stats_of(g);
	uint64_t list = r->out_bytes - sizeof(struct virtio_blk_outhdr);
	uint64_t each = sizeof(struct virtio_blk_discard_write_zeroes);

	stat_add(g->type == VIRTIO_BLK_T_DISCARD ? &s->discards : &s->write_zeroes, 1);
	if (!list || list % each || list / each > BLK_MAX_DISCARD_RANGES) {
		refuse(r, s, BLK_REFUSED_LENGTH);
		return;
	}
	int more = zero_next(g);
	if (more > 0)
		range_submit(g);
	else if (!more)
		answer(r, VIRTIO_BLK_S_OK);
	else
		refuse(r, s, (enum blk_refusal)(-1 - more));
}

static void id_get(struct blk_range *g)
{
	struct vhost_request *r = request_of(g);
	struct blk_cursor c = {.buffer = r->out_count};
	char id[BLK_SERIAL_BYTES] = "";

	stat_add(&stats_of(g)->ids, 1);
	if (r->in_bytes < BLK_SERIAL_BYTES + 1) {
		refuse(r, stats_of(g), BLK_REFUSED_LENGTH);
		return;
	}
	memcpy(id, g->blk->cfg.serial, sizeof(id));
	walk(r, &c, sizeof(id), id, copy_put);
	answer(r, VIRTIO_BLK_S_OK);
}

static bool changes(uint32_t type)
{
	return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD ||
	       type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static void blk_submit(void *dev, unsigned lane, struct vhost_request *r)
{
	struct blk *b = dev;
	struct blk_range *g = range_of(r);
	struct virtio_blk_outhdr h;

	if (!r->in_bytes) {
		/* Not even a byte for the answer. */
		stat_add(&b->stats[lane].refused[BLK_REFUSED_SHORT], 1);
		vhost_request_done(r, 0);
		return;
	}
	if (r->out_bytes < sizeof(h)) {
		refuse(r, &b->stats[lane], BLK_REFUSED_SHORT);
		return;
	}
	out_get(r, 0, &h, sizeof(h));
	uint32_t type = le32toh(h.type);
	if (b->cfg.readonly && changes(type)) {
		refuse(r, &b->stats[lane], BLK_REFUSED_TYPE);
		return;
	}
	*g = (struct blk_range){.blk = b, .lane = (uint8_t)lane, .type = (uint8_t)type};
	switch (type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		g->op = type == VIRTIO_BLK_T_IN ? BLK_READ : BLK_WRITE;
		transfer(g, le64toh(h.sector));
		break;
	case VIRTIO_BLK_T_FLUSH:
		stat_add(&b->stats[lane].flushes, 1);
		g->op = BLK_FLUSH;
		if (b->cfg.volatile_cache && !b->cfg.readonly)
			range_submit(g);
		else
			answer(r, VIRTIO_BLK_S_OK);
		break;
	case VIRTIO_BLK_T_GET_ID:
		id_get(g);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		g->op = BLK_ZERO;
		zero(g);
		break;
	default:
		refuse(r, &b->stats[lane], BLK_REFUSED_TYPE);
		break;
	}
}

static void blk_kick(void *dev, unsigned lane)
{
	struct blk *b = dev;

	b->ops->kick(b->store, lane);
}

const struct vhost_device_ops blk_device_ops = {
	.features = blk_features,
	.config = blk_config_read,
	.config_set = blk_config_write,
	.features_set = blk_features_set,
	.submit = blk_submit,
	.kick = blk_kick,
};
