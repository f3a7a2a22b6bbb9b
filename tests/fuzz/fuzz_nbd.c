/* Feeds bytes to NBD's negotiation and to a connection's commands, over a socket pair, with a disk
 * of memory behind. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client-backend/frontend/nbd_lane.h"
#include "client-backend/frontend/nbd_proto.h"
#include "tests/fuzz/input.h"

#define DISK_BYTES 65536u
#define HELD	   8u /* ranges that wait for the next kick */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t disk[DISK_BYTES];
static struct blk_range *held[HELD];
static unsigned held_count;
static bool given_back;

static void range_do(struct blk_range *g)
{
	struct blk_cursor c;

	if (g->op != BLK_FLUSH &&
		(!g->bytes || g->offset > DISK_BYTES || g->bytes > DISK_BYTES - g->offset))
		abort();
	blk_cursor_start(g, &c);
	if (g->op == BLK_READ)
		blk_data_put(g, &c, disk + g->offset, g->bytes);
	else if (g->op == BLK_WRITE)
		blk_data_get(g, &c, disk + g->offset, g->bytes);
	else if (g->op == BLK_ZERO)
		memset(disk + g->offset, 0, g->bytes);
	blk_range_done(g, g->offset == 512 ? -EIO : 0, BLK_TIER_LOCAL);
}

static void store_kick(void *store, unsigned lane)
{
	while (held_count)
		range_do(held[--held_count]);
}

/* Some end at once, others later and in another order. */
static void store_submit(void *store, unsigned lane, struct blk_range *g)
{
	if (g->offset & 1024 && held_count < HELD)
		held[held_count++] = g;
	else
		range_do(g);
}

static void detached(void *ctx, struct nbd_conn *c, void *token)
{
	given_back = true;
}

static void hello(struct input *in)
{
	static const struct nbd_export e = {
		.name = "disk", .size_bytes = DISK_BYTES, .min_bytes = 512, .max_bytes = 4096};
	static struct nbd_hello h;

	nbd_hello_start(&h, &e);
	while (h.state == NBD_HELLO_TALK && in->left) {
		uint8_t *at;
		uint32_t room = nbd_hello_room(&h, &at), n = 1 + (uint32_t)take(in, 1);

		if (!room)
			abort();
		n = n < room ? n : room;
		take_bytes(in, at, n);
		nbd_hello_take(&h, n);
		if (h.out_bytes > sizeof(h.out))
			abort();
	}
}

/* What a socket pair takes at once, so that neither end waits. */
static void round_run(struct nbd_lane *l, int fd)
{
	static uint8_t drain[65536];

	for (unsigned i = 0; i < 4; i++) {
		nbd_lane_poll(l, 64);
		store_kick(NULL, 0);
		nbd_lane_flush(l);
		while (recv(fd, drain, sizeof(drain), MSG_DONTWAIT) > 0)
			;
	}
	nbd_lane_prepare_sleep(l);
}

static void commands(struct input *in, struct blk *b)
{
	static const struct nbd_lane_ops ops = {.detached = detached};
	struct nbd_lane *l;
	struct nbd_conn *c;
	enum nbd_violation why;
	int fd[2], over = eventfd(0, EFD_NONBLOCK);

	if (over < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) ||
		nbd_lane_new(0, &ops, NULL, &l) || nbd_conn_new(b, fd[0], over, &c) ||
		nbd_lane_attach(l, c))
		abort();
	given_back = false;
	for (bool gone = false; in->left && !gone; gone = nbd_conn_over(c, &why)) {
		uint8_t out[512];
		unsigned what = (unsigned)take(in, 1);
		size_t bytes = what & 0x3f;

		if (what & 0x40) {
			struct nbd_wire_request r = {.magic = htobe32(NBD_REQUEST_MAGIC),
				.type = htobe16((uint16_t)take(in, 1)),
				.flags = htobe16((uint16_t)take(in, 1)),
				.offset = htobe64(take(in, 2) << 4),
				.bytes = htobe32((uint32_t)take(in, 3))};
			memcpy(out, &r, bytes = sizeof(r));
		} else {
			take_bytes(in, out, bytes);
		}
		if (bytes && send(fd[1], out, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		if (what & 0x80)
			round_run(l, fd[1]);
	}
	round_run(l, fd[1]);
	nbd_lane_detach(l, c, NULL);
	for (unsigned i = 0; i < 100 && !given_back; i++)
		round_run(l, fd[1]);
	if (!given_back)
		abort();
	nbd_conn_delete(c);
	nbd_lane_delete(l);
	close(fd[0]);
	close(fd[1]);
	close(over);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct blk_store_ops ops = {.submit = store_submit, .kick = store_kick};
	static struct blk *b;
	struct blk_config bc = {.size_bytes = DISK_BYTES,
		.block_bytes = 512,
		.lanes = 1,
		.queues = 1,
		.volatile_cache = true};
	struct input in = {.at = data, .left = size};

	if (!b && blk_new(&bc, &ops, NULL, &env_system, &b))
		abort();
	if (take(&in, 1) & 1)
		hello(&in);
	else
		commands(&in, b);
	return 0;
}
