/* A guest without a machine: random requests over vhost-user, compared with what was written,
 * through as many deaths of the daemon as there are. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/virtio_blk.h>

#include "tests/unit/vhost/client.h"

/*
 * Usage: test-guest-disk SOCKET PAGES SEED STOP_FILE [IMAGE [nodiscard]]
 * Until STOP_FILE is there; then reads all of the disk, and prints
 * "requests=N errors=N wrong=N reconnects=N". IMAGE: what is on the disk at first; what it must
 * hold at the end is written to IMAGE.want. nodiscard: what is discarded there does not read as
 * zeros.
 */
#define RINGS	4u
#define WAIT_MS 120000

struct job {
	bool busy, in;
	uint64_t first;
	uint32_t count;
};

static struct client c;
static struct job jobs[RINGS][CLIENT_SLOTS];
static uint8_t (*disk)[512];
static uint8_t *taken; /* sectors with a request under way */
static uint64_t sectors, rnd, requests, errors, wrong, reconnects;
static const char *path;
static bool discards = true;

static uint64_t below(uint64_t n)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	rnd ^= rnd << 17;
	return rnd % n;
}

static void die(const char *what)
{
	fprintf(stderr, "test-guest-disk: %s\n", what);
	exit(1);
}

static void submit(
	unsigned ring, unsigned slot, uint32_t type, uint64_t sector, uint32_t len, bool in)
{
	uint8_t *data = client_data(&c, ring, slot), *base = data - 0x1000;
	uint64_t gpa = client_data_gpa(ring, slot) - 0x1000, one = 1;
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	struct guest_buffer b[3] = {
		{gpa, sizeof(h), false}, {gpa + 0x1000, len, in}, {gpa + 0x100, 1, true}};

	memcpy(base, &h, sizeof(h));
	base[0x100] = 0xff;
	if (slot % 2)
		guest_chain_indirect(
			&c.ring[ring], slot * 3, (uint64_t)(base - c.guest.base) + 0x200, b, 3);
	else
		guest_chain(&c.ring[ring], slot * 3, b, 3);
	if (guest_publish(&c.ring[ring], (uint16_t)(slot * 3)) &&
		write(c.kick[ring], &one, sizeof(one)) != sizeof(one))
		die("cannot kick");
	requests++;
}

static void job_start(unsigned ring, unsigned slot)
{
	struct job *j = &jobs[ring][slot];
	uint64_t kind = below(10);
	uint8_t *data = client_data(&c, ring, slot);

	j->count = (uint32_t)(kind == 9 ? 1 + below(512) : 1 + below(CLIENT_BYTES / 512));
	j->first = below(sectors);
	if (below(2)) {
		j->first &= ~7ull;
		j->count = (j->count + 7) & ~7u;
	}
	if (kind < 9 && j->count > CLIENT_BYTES / 512)
		j->count = CLIENT_BYTES / 512;
	if (j->count > sectors - j->first)
		j->count = (uint32_t)(sectors - j->first);
	for (uint64_t s = j->first; s < j->first + j->count; s++)
		if (taken[s])
			return;
	memset(taken + j->first, 1, j->count);
	j->busy = true;
	j->in = kind < 4;
	if (kind == 9) {
		struct virtio_blk_discard_write_zeroes z = {
			.sector = j->first, .num_sectors = j->count};
		memcpy(data, &z, sizeof(z));
		memset(disk[j->first], 0, (size_t)j->count * 512);
		submit(ring, slot,
			below(2) && discards ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, 0,
			sizeof(z), false);
		return;
	}
	if (!j->in) {
		bool dense = below(2);
		for (uint32_t i = 0; i < j->count * 512; i += 8) {
			uint64_t x = dense || i % 64 == 0 ? below(UINT64_MAX) : 0;
			memcpy(data + i, &x, 8);
		}
		memcpy(disk[j->first], data, (size_t)j->count * 512);
	}
	submit(ring, slot, j->in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, j->first, j->count * 512,
		j->in);
}

static void job_end(unsigned ring, unsigned slot)
{
	struct job *j = &jobs[ring][slot];
	uint8_t *data = client_data(&c, ring, slot);

	if (!j->busy)
		die("an answer without a request");
	j->busy = false;
	memset(taken + j->first, 0, j->count);
	if (data[-0x1000 + 0x100]) {
		errors++;
		fprintf(stderr, "status %u: %s of %u at sector %" PRIu64 "\n",
			data[-0x1000 + 0x100], j->in ? "read" : "write", j->count, j->first);
	} else if (j->in && memcmp(data, disk[j->first], (size_t)j->count * 512)) {
		wrong++;
		fprintf(stderr, "wrong data at sector %" PRIu64 "\n", j->first);
	}
}

static unsigned reap(void)
{
	struct virtq_used_elem e;
	unsigned n = 0;

	for (unsigned ring = 0; ring < RINGS; ring++)
		for (; guest_used(&c.ring[ring], &e); n++)
			job_end(ring, e.id / 3);
	return n;
}

/* Until something was answered, or the daemon is gone and back. */
static void wait_for_it(void)
{
	struct pollfd p[RINGS + 1];
	uint64_t n;

	for (unsigned i = 0; i < RINGS; i++) {
		struct guest_ring *r = &c.ring[i];

		if (r->event_idx)
			/* With a full barrier: the used ring is looked at after it. */
			__atomic_exchange_n(
				&r->avail->ring[r->num], r->last_used, __ATOMIC_SEQ_CST);
		p[i] = (struct pollfd){.fd = c.call[i], .events = POLLIN};
	}
	p[RINGS] = (struct pollfd){.fd = c.fd, .events = POLLIN};
	if (reap())
		return;
	if (poll(p, RINGS + 1, WAIT_MS) <= 0)
		die("no answer");
	for (unsigned i = 0; i < RINGS; i++)
		if (p[i].revents && read(c.call[i], &n, sizeof(n)) < 0)
			die("cannot read the interrupt");
	if (p[RINGS].revents) {
		reconnects++;
		client_again(&c, path);
		/* What the daemon finished in its last moment it may not have told. */
		reap();
	}
}

static bool any_busy(void)
{
	for (unsigned ring = 0; ring < RINGS; ring++)
		for (unsigned slot = 0; slot < CLIENT_SLOTS; slot++)
			if (jobs[ring][slot].busy)
				return true;
	return false;
}

static void read_all(void)
{
	for (uint64_t s = 0; s < sectors; s += CLIENT_BYTES / 512) {
		struct job *j = &jobs[0][0];

		*j = (struct job){
			.busy = true, .in = true, .first = s, .count = CLIENT_BYTES / 512};
		submit(0, 0, VIRTIO_BLK_T_IN, s, CLIENT_BYTES, true);
		while (j->busy)
			if (!reap())
				wait_for_it();
	}
}

static void image_read(const char *image)
{
	FILE *f = fopen(image, "re");

	if (!f || fread(disk, 512, sectors, f) != sectors)
		die("cannot read the image");
	fclose(f);
}

static void image_want_write(const char *image)
{
	char want[512];

	snprintf(want, sizeof(want), "%s.want", image);
	FILE *f = fopen(want, "we");
	if (!f || fwrite(disk, 512, sectors, f) != sectors || fclose(f))
		die("cannot write what the image should hold");
}

int main(int argc, char **argv)
{
	if (argc < 5 || argc > 7)
		die("usage: SOCKET PAGES SEED STOP_FILE [IMAGE [nodiscard]]");
	path = argv[1];
	discards = argc != 7;
	sectors = strtoull(argv[2], NULL, 0) * 8;
	rnd = strtoull(argv[3], NULL, 0) * 2 + 1;
	disk = calloc(sectors, 512);
	taken = calloc(sectors, 1);
	if (argc >= 6)
		image_read(argv[5]);
	client_init(&c, RINGS);
	client_up(&c, path);
	printf("connected\n");
	fflush(stdout);
	for (uint64_t n = 0;; n++) {
		if (n % 64 == 0 && !access(argv[4], F_OK))
			break;
		unsigned ring = (unsigned)below(RINGS), slot = (unsigned)below(CLIENT_SLOTS);
		if (!jobs[ring][slot].busy)
			job_start(ring, slot);
		else if (!reap())
			wait_for_it();
	}
	while (any_busy())
		if (!reap())
			wait_for_it();
	read_all();
	printf("requests=%" PRIu64 " errors=%" PRIu64 " wrong=%" PRIu64 " reconnects=%" PRIu64 "\n",
		requests, errors, wrong, reconnects);
	client_fini(&c);
	if (argc >= 6)
		image_want_write(argv[5]);
	free(disk);
	free(taken);
	return 0;
}
