/* virtio-blk over a disk: what the guest asks for, checked, and how it is answered. */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "client-backend/frontend/blk_impl.h"

static_assert(sizeof(struct blk_range) <= sizeof(((struct vhost_request *)0)->dev_priv),
	"a range lives in the request's private words");

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

/* A copy of what the guest wrote `at` bytes into its request; it is there. */
static void out_get(const struct vhost_request *r, uint32_t at, void *to, uint32_t len)
{
	const struct blk_range all = {.data = r->buffer};
	struct blk_cursor c;

	blk_cursor_start(&all, &c);
	blk_cursor_seek(&all, &c, at);
	blk_data_get(&all, &c, to, len);
}

/* The buffers after the header, or those to be written. */
static void data_set(struct blk_range *g, const struct vhost_request *r)
{
	const struct blk_range all = {.data = r->buffer};
	struct blk_cursor c;

	blk_cursor_start(&all, &c);
	if (g->kind == BLK_KIND_READ)
		c.buffer = r->out_count;
	else
		blk_cursor_seek(&all, &c, sizeof(struct virtio_blk_outhdr));
	g->data = &r->buffer[c.buffer];
	g->skip = c.offset;
}

/* ---- answers ---- */

/* The status is the last byte that we may write. */
static void answer(struct vhost_request *r, uint8_t status)
{
	const struct vhost_buffer *last = &r->buffer[r->out_count + r->in_count - 1];

	last->base[last->len - 1] = status;
	vhost_request_done(r, r->in_bytes);
}

static void refuse(struct blk *b, unsigned lane, struct vhost_request *r, enum blk_refusal why)
{
	blk_refusal_count(b, lane, why);
	answer(r, why == BLK_REFUSED_TYPE || why == BLK_REFUSED_FLAGS ? VIRTIO_BLK_S_UNSUPP
								      : VIRTIO_BLK_S_IOERR);
}

static void range_done(struct blk_range *g, int status)
{
	answer(request_of(g), status ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* ---- requests ---- */

static bool sectors_fit(const struct blk *b, uint64_t sector, uint64_t bytes)
{
	return sector <= b->cfg.size_bytes / BLK_SECTOR_BYTES &&
	       blk_range_fits(b, sector * BLK_SECTOR_BYTES, bytes);
}

/* Takes the next range of a discard or write-zeroes that has any length. True: there was one.
 * Negative: what is wrong with it, as -1 - enum blk_refusal. */
static int zero_next(struct blk *b, struct blk_range *g)
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
		if (flags & ~(g->kind == BLK_KIND_ZERO ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
			return -1 - BLK_REFUSED_FLAGS;
		if (bytes > BLK_MAX_DISCARD_BYTES || !sectors_fit(b, le64toh(z.sector), bytes))
			return -1 - BLK_REFUSED_RANGE;
		if (!bytes)
			continue;
		g->offset = le64toh(z.sector) * BLK_SECTOR_BYTES;
		g->bytes = (uint32_t)bytes;
		g->hole = g->kind == BLK_KIND_DISCARD || flags;
		return true;
	}
	return false;
}

static int range_more(struct blk_range *g)
{
	int more = zero_next(g->blk, g);

	if (more < 0)
		refuse(g->blk, g->lane, request_of(g), (enum blk_refusal)(-1 - more));
	return more;
}

static const struct blk_front_ops front_ops = {.more = range_more, .done = range_done};

static void transfer(struct blk *b, unsigned lane, struct blk_range *g, uint64_t sector)
{
	struct vhost_request *r = request_of(g);
	bool read = g->kind == BLK_KIND_READ;
	uint32_t header = sizeof(struct virtio_blk_outhdr);

	g->bytes = read ? r->in_bytes - 1 : r->out_bytes - header;
	if (g->bytes % BLK_SECTOR_BYTES || (read ? r->out_bytes > header : r->in_bytes > 1)) {
		refuse(b, lane, r, BLK_REFUSED_LENGTH);
	} else if (!sectors_fit(b, sector, g->bytes)) {
		refuse(b, lane, r, BLK_REFUSED_RANGE);
	} else if (!g->bytes) {
		answer(r, VIRTIO_BLK_S_OK);
	} else {
		g->offset = sector * BLK_SECTOR_BYTES;
		g->sync = !read && writes_through(b);
		data_set(g, r);
		blk_range_submit(b, lane, g);
	}
}

static void zero(struct blk *b, unsigned lane, struct blk_range *g)
{
	struct vhost_request *r = request_of(g);
	uint64_t list = r->out_bytes - sizeof(struct virtio_blk_outhdr);
	uint64_t each = sizeof(struct virtio_blk_discard_write_zeroes);

	if (!list || list % each || list / each > BLK_MAX_DISCARD_RANGES) {
		refuse(b, lane, r, BLK_REFUSED_LENGTH);
		return;
	}
	/* A discard is a hint: there is nothing in it to be kept. */
	g->sync = g->kind == BLK_KIND_ZERO && writes_through(b);
	int more = zero_next(b, g);
	if (more > 0)
		blk_range_submit(b, lane, g);
	else if (!more)
		answer(r, VIRTIO_BLK_S_OK);
	else
		refuse(b, lane, r, (enum blk_refusal)(-1 - more));
}

static void id_get(struct blk *b, unsigned lane, struct vhost_request *r)
{
	const struct blk_range in = {.data = &r->buffer[r->out_count]};
	struct blk_cursor c;

	stat_add(&b->stats[lane].ids, 1);
	if (r->in_bytes < BLK_SERIAL_BYTES + 1) {
		refuse(b, lane, r, BLK_REFUSED_LENGTH);
		return;
	}
	blk_cursor_start(&in, &c);
	blk_data_put(&in, &c, b->cfg.serial, BLK_SERIAL_BYTES);
	answer(r, VIRTIO_BLK_S_OK);
}

static bool changes(uint32_t type)
{
	return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD ||
	       type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* False: there is no such type. */
static bool kind_of(uint32_t type, uint8_t *kind)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		*kind = BLK_KIND_READ;
		return true;
	case VIRTIO_BLK_T_OUT:
		*kind = BLK_KIND_WRITE;
		return true;
	case VIRTIO_BLK_T_FLUSH:
		*kind = BLK_KIND_FLUSH;
		return true;
	case VIRTIO_BLK_T_DISCARD:
		*kind = BLK_KIND_DISCARD;
		return true;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		*kind = BLK_KIND_ZERO;
		return true;
	default:
		return false;
	}
}

static void virtio_submit(void *dev, unsigned lane, struct vhost_request *r)
{
	struct blk *b = dev;
	struct blk_range *g = range_of(r);
	struct virtio_blk_outhdr h;

	if (!r->in_bytes) {
		/* Not even a byte for the answer. */
		blk_refusal_count(b, lane, BLK_REFUSED_SHORT);
		vhost_request_done(r, 0);
		return;
	}
	if (r->out_bytes < sizeof(h)) {
		refuse(b, lane, r, BLK_REFUSED_SHORT);
		return;
	}
	out_get(r, 0, &h, sizeof(h));
	uint32_t type = le32toh(h.type);
	if (type == VIRTIO_BLK_T_GET_ID) {
		id_get(b, lane, r);
		return;
	}
	*g = (struct blk_range){.front = &front_ops};
	if ((b->cfg.readonly && changes(type)) || !kind_of(type, &g->kind)) {
		refuse(b, lane, r, BLK_REFUSED_TYPE);
		return;
	}
	blk_kind_count(b, lane, (enum blk_kind)g->kind);
	if (g->kind == BLK_KIND_FLUSH)
		blk_range_submit(b, lane, g);
	else if (g->kind == BLK_KIND_READ || g->kind == BLK_KIND_WRITE)
		transfer(b, lane, g, le64toh(h.sector));
	else
		zero(b, lane, g);
}

static void virtio_kick(void *dev, unsigned lane)
{
	blk_kick(dev, lane);
}

const struct vhost_device_ops blk_device_ops = {
	.features = blk_features,
	.config = blk_config_read,
	.config_set = blk_config_write,
	.features_set = blk_features_set,
	.submit = virtio_submit,
	.kick = virtio_kick,
};
