/* A disk of fallowd's for this machine's own kernel: requests of /dev/nbdN go to it by vhost-user.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/vhost/client.h"

/*
 * Usage: test-vhost-nbd SOCKET /dev/nbdN MIB
 * What QEMU and a guest's virtio_blk do for a guest, done for the kernel that this runs on. Prints
 * "ready" when the device is there, ends when it is disconnected. Survives the death of fallowd as
 * QEMU does: it connects again, and what was in flight is done again.
 */
#define BLOCK_BYTES   4096u
#define DISCARD_BYTES (64u << 20)

struct job {
	bool busy;
	uint32_t kind, bytes;
	char handle[8];
};

static struct client c;
static struct job jobs[CLIENT_SLOTS];
static const char *path;
static int sock, device;

static void die(const char *what)
{
	fprintf(stderr, "test-vhost-nbd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void sock_read(void *to, size_t bytes)
{
	for (size_t have = 0; have < bytes;) {
		ssize_t n = read(sock, (char *)to + have, bytes - have);

		if (n == 0)
			exit(0); /* disconnected */
		if (n < 0 && errno != EINTR)
			die("cannot read a request");
		have += n > 0 ? (size_t)n : 0;
	}
}

static void sock_write(const void *from, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = write(sock, (const char *)from + done, bytes - done);

		if (n < 0 && errno != EINTR)
			die("cannot answer");
		done += n > 0 ? (size_t)n : 0;
	}
}

static unsigned slot_free(void)
{
	unsigned slot = 0;

	while (slot < CLIENT_SLOTS && jobs[slot].busy)
		slot++;
	return slot;
}

/* ---- to fallowd ---- */

static void ring_submit(unsigned slot, uint32_t type, uint64_t sector, uint32_t bytes)
{
	uint8_t *base = client_data(&c, 0, slot) - 0x1000;
	uint64_t gpa = client_data_gpa(0, slot) - 0x1000, one = 1;
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	struct guest_buffer b[3] = {{gpa, sizeof(h), false},
		{gpa + 0x1000, bytes, type == VIRTIO_BLK_T_IN}, {gpa + 0x100, 1, true}};

	memcpy(base, &h, sizeof(h));
	base[0x100] = 0xff;
	if (!bytes)
		b[1] = b[2];
	guest_chain(&c.ring[0], slot * 3, b, bytes ? 3 : 2);
	if (guest_publish(&c.ring[0], (uint16_t)(slot * 3)) &&
		write(c.kick[0], &one, sizeof(one)) != sizeof(one))
		die("cannot kick");
}

/* One request of the kernel's, when a slot is free for it. */
static void request_take(void)
{
	struct nbd_request r;
	unsigned slot = slot_free();
	uint8_t *data = client_data(&c, 0, slot);
	struct job *j = &jobs[slot];

	sock_read(&r, sizeof(r));
	j->kind = be32toh(r.type) & 0xffff;
	j->bytes = be32toh(r.len);
	memcpy(j->handle, r.handle, sizeof(j->handle));
	j->busy = true;
	errno = EPROTO;
	if (be32toh(r.magic) != NBD_REQUEST_MAGIC ||
		(j->kind <= NBD_CMD_WRITE && j->bytes > CLIENT_BYTES))
		die("a request");
	uint64_t sector = be64toh(r.from) / 512;

	switch (j->kind) {
	case NBD_CMD_READ:
		ring_submit(slot, VIRTIO_BLK_T_IN, sector, j->bytes);
		break;
	case NBD_CMD_WRITE:
		sock_read(data, j->bytes);
		ring_submit(slot, VIRTIO_BLK_T_OUT, sector, j->bytes);
		break;
	case NBD_CMD_TRIM:
		*(struct virtio_blk_discard_write_zeroes *)data =
			(struct virtio_blk_discard_write_zeroes){
				.sector = sector, .num_sectors = j->bytes / 512};
		ring_submit(slot, VIRTIO_BLK_T_DISCARD, 0,
			sizeof(struct virtio_blk_discard_write_zeroes));
		break;
	case NBD_CMD_FLUSH:
		ring_submit(slot, VIRTIO_BLK_T_FLUSH, 0, 0);
		break;
	default:
		exit(0); /* NBD_CMD_DISC */
	}
}

/* ---- and back ---- */

static bool reap(void)
{
	struct virtq_used_elem e;
	bool any = false;

	for (; guest_used(&c.ring[0], &e); any = true) {
		unsigned slot = e.id / 3;
		struct job *j = &jobs[slot];
		uint8_t *data = client_data(&c, 0, slot), status = data[-0x1000 + 0x100];
		struct nbd_reply reply = {
			.magic = htobe32(NBD_REPLY_MAGIC), .error = htobe32(status ? EIO : 0)};

		errno = EPROTO;
		if (!j->busy)
			die("an answer without a request");
		memcpy(reply.handle, j->handle, sizeof(reply.handle));
		sock_write(&reply, sizeof(reply));
		if (j->kind == NBD_CMD_READ && !status)
			sock_write(data, j->bytes);
		j->busy = false;
	}
	return any;
}

static void wait_for_it(void)
{
	struct guest_ring *r = &c.ring[0];
	bool room = slot_free() < CLIENT_SLOTS;
	struct pollfd p[3] = {{.fd = c.call[0], .events = POLLIN}, {.fd = c.fd, .events = POLLIN},
		{.fd = sock, .events = room ? POLLIN : 0}};
	uint64_t n;

	if (r->event_idx)
		__atomic_exchange_n(&r->avail->ring[r->num], r->last_used, __ATOMIC_SEQ_CST);
	if (reap())
		return;
	if (poll(p, 3, -1) <= 0)
		die("poll");
	if (p[0].revents && read(c.call[0], &n, sizeof(n)) < 0)
		die("cannot read the interrupt");
	if (p[1].revents)
		client_again(&c, path);
	reap();
	if (p[2].revents && slot_free() < CLIENT_SLOTS)
		request_take();
}

/* ---- the device ---- */

static void *device_run(void *arg)
{
	ioctl(device, NBD_DO_IT); /* until it is disconnected */
	ioctl(device, NBD_CLEAR_SOCK);
	exit(0);
	return arg;
}

static bool limit_set(const char *name, const char *file, unsigned value)
{
	char line[128];

	snprintf(line, sizeof(line), "/sys/block/%s/queue/%s", name, file);
	FILE *f = fopen(line, "w");
	bool ok = f && fprintf(f, "%u", value) > 0;

	return f && !fclose(f) && ok;
}

static void device_start(const char *name, unsigned long mib)
{
	pthread_t thread;
	int pair[2];

	device = open(name, O_RDWR | O_CLOEXEC);
	if (device < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		die(name);
	sock = pair[0];
	ioctl(device, NBD_CLEAR_SOCK);
	if (ioctl(device, NBD_SET_BLKSIZE, (unsigned long)BLOCK_BYTES) ||
		ioctl(device, NBD_SET_SIZE_BLOCKS, mib * ((1u << 20) / BLOCK_BYTES)) ||
		ioctl(device, NBD_SET_FLAGS,
			(unsigned long)(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
					NBD_FLAG_SEND_TRIM)) ||
		ioctl(device, NBD_SET_SOCK, pair[1]))
		die(name);
	/* It reads the partition table as soon as it runs; of discards it knows only then. */
	const char *base = strrchr(name, '/') + 1;
	if (!limit_set(base, "max_sectors_kb", CLIENT_BYTES / 1024) ||
		!limit_set(base, "rotational", 0) ||
		pthread_create(&thread, NULL, device_run, NULL))
		die("cannot set the device up");
	for (unsigned ms = 0; !limit_set(base, "discard_max_bytes", DISCARD_BYTES); ms++) {
		if (ms == CLIENT_WAIT_MS)
			die("it does not start");
		usleep(1000);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fputs("usage: test-vhost-nbd SOCKET /dev/nbdN MIB\n", stderr);
		return 2;
	}
	path = argv[1];
	/* It is on the way of pages that make room. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		die("PR_SET_IO_FLUSHER");
	client_init(&c, 1);
	client_up(&c, path);
	device_start(argv[2], strtoul(argv[3], NULL, 0));
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	puts("ready");
	fflush(stdout);
	for (;;)
		wait_for_it();
}
