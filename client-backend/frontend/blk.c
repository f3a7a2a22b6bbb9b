/* A disk over any store of bytes: ranges of it are read, written, zeroed and flushed for a front
 * end. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/frontend/blk_impl.h"
#include "client-backend/frontend/vhost_mapping.h"

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

const struct blk_config *blk_config(const struct blk *b)
{
	return &b->cfg;
}

/* ---- the data of a range ---- */

/* Moves over `len` bytes; copy is called for each piece. */
static void walk(const struct blk_range *g, struct blk_cursor *c, uint32_t len, void *own,
	void (*copy)(uint8_t *guest, uint8_t *own, uint32_t n))
{
	uint8_t *p = own;

	while (len) {
		const struct vhost_buffer *b = &g->data[c->buffer];
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

void blk_cursor_start(const struct blk_range *g, struct blk_cursor *c)
{
	*c = (struct blk_cursor){.offset = g->skip};
}

void blk_cursor_seek(const struct blk_range *g, struct blk_cursor *c, uint32_t at)
{
	walk(g, c, at - c->at, NULL, NULL);
}

void blk_data_get(const struct blk_range *g, struct blk_cursor *c, void *to, uint32_t len)
{
	walk(g, c, len, to, copy_get);
}

void blk_data_put(const struct blk_range *g, struct blk_cursor *c, const void *from, uint32_t len)
{
	walk(g, c, len, (void *)from, copy_put);
}

/* The range's data is at least len bytes longer, so there is a next buffer as long as it is asked
 * for. */
void *blk_data_direct(const struct blk_range *g, const struct blk_cursor *c, uint32_t len,
	const struct transport_memory **memory)
{
	const struct vhost_buffer *b = &g->data[c->buffer];
	uint8_t *start = b->base + c->offset;

	if (!b->row)
		return NULL;
	for (uint32_t have = b->len - c->offset; have < len; have += b->len) {
		const struct vhost_buffer *next = b + 1;

		if (next->row != b->row || next->base != b->base + b->len)
			return NULL;
		b = next;
	}
	*memory = vhost_mapping_memory(b->row);
	return start;
}

/* ---- ranges ---- */

void blk_kind_count(struct blk *b, unsigned lane, enum blk_kind kind)
{
	struct blk_stats *s = &b->stats[lane];
	stat_t *const of[] = {[BLK_KIND_READ] = &s->reads,
		[BLK_KIND_WRITE] = &s->writes,
		[BLK_KIND_FLUSH] = &s->flushes,
		[BLK_KIND_DISCARD] = &s->discards,
		[BLK_KIND_ZERO] = &s->write_zeroes};

	stat_add(of[kind], 1);
}

void blk_refusal_count(struct blk *b, unsigned lane, enum blk_refusal why)
{
	stat_add(&b->stats[lane].refused[why], 1);
}

bool blk_range_fits(const struct blk *b, uint64_t offset, uint64_t bytes)
{
	return offset <= b->cfg.size_bytes && bytes <= b->cfg.size_bytes - offset;
}

static struct blk_stats *stats_of(struct blk_range *g)
{
	return &g->blk->stats[g->lane];
}

static void range_end(struct blk_range *g, int status, enum blk_tier tier)
{
	struct blk_stats *s = stats_of(g);
	uint64_t ns = env_now_ns(g->blk->env) - g->start_ns;

	stat_sub(&s->in_flight, 1);
	if (status)
		stat_add(&s->errors, 1);
	switch ((enum blk_kind)g->kind) {
	case BLK_KIND_READ:
		hist_record(&s->read_ns[tier], ns);
		stat_add(&s->bytes_read, status ? 0 : g->bytes);
		break;
	case BLK_KIND_WRITE:
		hist_record(&s->write_ns, ns);
		stat_add(&s->bytes_written, status ? 0 : g->bytes);
		break;
	case BLK_KIND_FLUSH:
		hist_record(&s->flush_ns, ns);
		break;
	case BLK_KIND_DISCARD:
	case BLK_KIND_ZERO:
		hist_record(&s->zero_ns, ns);
		break;
	}
	g->front->done(g, status);
}

static void range_start(struct blk_range *g)
{
	g->blk->ops->submit(g->blk->store, g->lane, g);
}

void blk_range_done(struct blk_range *g, int status, enum blk_tier tier)
{
	if (!status && g->op == BLK_ZERO) {
		stat_add(&stats_of(g)->bytes_zeroed, g->bytes);
		int more = g->front->more(g);
		if (more > 0) {
			range_start(g);
			return;
		}
		if (more < 0) {
			stat_sub(&stats_of(g)->in_flight, 1);
			return;
		}
	}
	if (!status && g->sync && g->op != BLK_FLUSH && g->op != BLK_READ) {
		g->op = BLK_FLUSH;
		range_start(g);
		return;
	}
	range_end(g, status, tier);
}

void blk_range_submit(struct blk *b, unsigned lane, struct blk_range *g)
{
	static const uint8_t op_of[] = {[BLK_KIND_READ] = BLK_READ,
		[BLK_KIND_WRITE] = BLK_WRITE,
		[BLK_KIND_FLUSH] = BLK_FLUSH,
		[BLK_KIND_DISCARD] = BLK_ZERO,
		[BLK_KIND_ZERO] = BLK_ZERO};
	bool flushes = b->cfg.volatile_cache && !b->cfg.readonly;

	g->blk = b;
	g->lane = (uint8_t)lane;
	g->op = op_of[g->kind];
	g->sync &= flushes;
	if (g->op == BLK_FLUSH && !flushes) {
		g->front->done(g, 0);
		return;
	}
	g->start_ns = env_now_ns(b->env);
	stat_add(&b->stats[lane].in_flight, 1);
	range_start(g);
}

void blk_kick(struct blk *b, unsigned lane)
{
	b->ops->kick(b->store, lane);
}
