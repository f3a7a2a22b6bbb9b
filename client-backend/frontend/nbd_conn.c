/* NBD's commands: checked, given room, done by the disk, and made into answers. */
#include "client-backend/frontend/nbd_conn.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct blk_front_ops front_ops;

/* ---- life ---- */

int nbd_conn_new(struct blk *blk, int fd, int over_fd, struct nbd_conn **out)
{
	struct nbd_conn *c = malloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	/* Touched here, so that the lane causes no page fault. */
	memset(c, 0, sizeof(*c));
	c->data = mmap(NULL, NBD_CONN_DATA_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (c->data == MAP_FAILED) {
		free(c);
		return -ENOMEM;
	}
	c->blk = blk;
	c->fd = fd;
	c->over_fd = over_fd;
	memset(c->room, 0xff, sizeof(c->room));
	for (unsigned i = 0; i < NBD_CONN_REQUESTS; i++) {
		c->request[i].conn = c;
		c->request[i].next = c->unused;
		c->unused = &c->request[i];
	}
	*out = c;
	return 0;
}

void nbd_conn_delete(struct nbd_conn *c)
{
	if (!c)
		return;
	assert(!c->lane && !c->in_flight);
	munmap(c->data, NBD_CONN_DATA_BYTES);
	free(c);
}

bool nbd_conn_over(const struct nbd_conn *c, enum nbd_violation *why)
{
	if (!atomic_load_explicit((_Atomic bool *)&c->over, memory_order_acquire))
		return false;
	*why = c->why;
	return true;
}

uint64_t nbd_conn_requests(const struct nbd_conn *c)
{
	return stat_get(&c->requests);
}

/* ---- room for data: neighbouring pages, first fit ---- */

static bool page_free(const struct nbd_conn *c, unsigned page)
{
	return c->room[page / 64] >> page % 64 & 1;
}

static void pages_set(struct nbd_conn *c, unsigned page, unsigned pages, bool unused)
{
	for (unsigned i = page; i < page + pages; i++) {
		if (unused)
			c->room[i / 64] |= 1ull << i % 64;
		else
			c->room[i / 64] &= ~(1ull << i % 64);
	}
}

static bool pages_take(struct nbd_conn *c, unsigned pages, uint16_t *page)
{
	unsigned run = 0;

	for (unsigned i = 0; i < NBD_ROOM_PAGES; i++) {
		if (!run && !c->room[i / 64]) {
			i |= 63; /* none of these */
			continue;
		}
		run = page_free(c, i) ? run + 1 : 0;
		if (run == pages) {
			*page = (uint16_t)(i + 1 - pages);
			pages_set(c, *page, pages, false);
			return true;
		}
	}
	return false;
}

/* ---- commands ---- */

/* False: there is no such command. */
static bool kind_of(unsigned type, uint8_t *kind)
{
	switch (type) {
	case NBD_CMD_READ:
		*kind = BLK_KIND_READ;
		return true;
	case NBD_CMD_WRITE:
		*kind = BLK_KIND_WRITE;
		return true;
	case NBD_CMD_FLUSH:
		*kind = BLK_KIND_FLUSH;
		return true;
	case NBD_CMD_TRIM:
		*kind = BLK_KIND_DISCARD;
		return true;
	case NBD_CMD_WRITE_ZEROES:
		*kind = BLK_KIND_ZERO;
		return true;
	default:
		return false;
	}
}

static bool length_right(const struct nbd_command_in *in)
{
	if (in->type == NBD_CMD_FLUSH)
		return !in->offset && !in->bytes;
	if ((in->type == NBD_CMD_READ || in->type == NBD_CMD_WRITE) && in->bytes > NBD_MAX_BYTES)
		return false;
	return in->bytes && in->bytes % BLK_SECTOR_BYTES == 0 && in->offset % BLK_SECTOR_BYTES == 0;
}

/* 0, or NBD's error for what is wrong with it, which is counted. */
static uint32_t check(struct nbd_conn *c, const struct nbd_command_in *in, bool known)
{
	bool reads = in->type == NBD_CMD_READ, flushes = in->type == NBD_CMD_FLUSH;
	unsigned flags =
		NBD_CMD_FLAG_FUA | (in->type == NBD_CMD_WRITE_ZEROES ? NBD_CMD_FLAG_NO_HOLE : 0);
	enum blk_refusal why;
	uint32_t error = NBD_EINVAL;

	if (!known) {
		why = BLK_REFUSED_TYPE;
	} else if (!reads && !flushes && blk_config(c->blk)->readonly) {
		why = BLK_REFUSED_TYPE;
		error = NBD_EPERM;
	} else if (in->flags & ~flags) {
		why = BLK_REFUSED_FLAGS;
	} else if (!length_right(in)) {
		why = BLK_REFUSED_LENGTH;
	} else if (!blk_range_fits(c->blk, in->offset, in->bytes)) {
		why = BLK_REFUSED_RANGE;
		error = reads ? NBD_EINVAL : NBD_ENOSPC;
	} else {
		return 0;
	}
	blk_refusal_count(c->blk, nbd_lane_number(c->lane), why);
	return error;
}

struct nbd_request *nbd_request_take(struct nbd_conn *c, const struct nbd_command_in *in)
{
	struct nbd_request *r = c->unused;
	uint8_t kind = BLK_KIND_READ;

	if (!r)
		return NULL;
	bool known = kind_of(in->type, &kind);
	bool transfer = in->type == NBD_CMD_READ || in->type == NBD_CMD_WRITE;
	/* Room is looked for before anything is counted, for it may take several times. */
	unsigned pages = transfer && in->bytes <= NBD_MAX_BYTES
				 ? (in->bytes + NBD_ROOM_PAGE_BYTES - 1) / NBD_ROOM_PAGE_BYTES
				 : 0;
	if (pages && !pages_take(c, pages, &r->page))
		return NULL;
	c->unused = r->next;
	r->next = NULL;
	r->pages = (uint16_t)pages;
	r->missing = in->type == NBD_CMD_WRITE ? in->bytes : 0;
	r->answer_bytes = 0;
	r->zero_left = 0;
	r->error = check(c, in, known);
	r->data = (struct vhost_buffer){0};
	r->reply = (struct nbd_wire_reply){.magic = htobe32(NBD_REPLY_MAGIC), .cookie = in->cookie};
	stat_add(&c->requests, 1);
	if (known)
		blk_kind_count(c->blk, nbd_lane_number(c->lane), (enum blk_kind)kind);
	if (r->error)
		return r;
	if (pages)
		r->data = (struct vhost_buffer){
			.base = c->data + (size_t)r->page * NBD_ROOM_PAGE_BYTES, .len = in->bytes};
	r->range = (struct blk_range){.front = &front_ops,
		.data = &r->data,
		.bytes = in->bytes,
		.offset = in->offset,
		.kind = kind,
		.hole = !(in->flags & NBD_CMD_FLAG_NO_HOLE),
		.sync = in->flags & NBD_CMD_FLAG_FUA};
	if (!transfer && in->bytes > BLK_MAX_DISCARD_BYTES) {
		r->range.bytes = BLK_MAX_DISCARD_BYTES;
		r->zero_left = in->bytes - BLK_MAX_DISCARD_BYTES;
	}
	return r;
}

static void answer(struct nbd_request *r, uint32_t error)
{
	struct nbd_conn *c = r->conn;

	if (c->dead) {
		nbd_request_free(r);
		return;
	}
	r->reply.error = htobe32(error);
	r->next = NULL;
	if (c->out_first)
		c->out_last->next = r;
	else
		c->out_first = r;
	c->out_last = r;
}

void nbd_request_run(struct nbd_request *r)
{
	struct nbd_conn *c = r->conn;

	if (r->error) {
		answer(r, r->error);
		return;
	}
	c->in_flight++;
	c->submitted = true;
	nbd_lane_progress(c->lane, 1);
	blk_range_submit(c->blk, nbd_lane_number(c->lane), &r->range);
}

void nbd_request_free(struct nbd_request *r)
{
	struct nbd_conn *c = r->conn;

	pages_set(c, r->page, r->pages, true);
	r->next = c->unused;
	c->unused = r;
	/* Who found no room looks again. */
	c->more |= c->full;
	c->full = false;
}

/* ---- what the disk says ---- */

static struct nbd_request *request_of(struct blk_range *g)
{
	return (struct nbd_request *)((char *)g - offsetof(struct nbd_request, range));
}

static int range_more(struct blk_range *g)
{
	struct nbd_request *r = request_of(g);

	if (!r->zero_left)
		return 0;
	g->offset += g->bytes;
	g->bytes = r->zero_left < BLK_MAX_DISCARD_BYTES ? r->zero_left : BLK_MAX_DISCARD_BYTES;
	r->zero_left -= g->bytes;
	return 1;
}

static void range_done(struct blk_range *g, int status)
{
	struct nbd_request *r = request_of(g);
	struct nbd_conn *c = r->conn;

	c->in_flight--;
	nbd_lane_progress(c->lane, -1);
	if (!status && g->kind == BLK_KIND_READ)
		r->answer_bytes = g->bytes;
	answer(r, !status ? 0 : status == -ENOSPC ? NBD_ENOSPC : NBD_EIO);
}

static const struct blk_front_ops front_ops = {.more = range_more, .done = range_done};
