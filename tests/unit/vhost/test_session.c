/* Tests of a vhost-user device and a front end that does what it should: rings in any order,
 * changes while they run, stops, resets, the dirty log. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/core/log.h"
#include "tests/unit/vhost/world.h"

#define RINGS 4u

static uint64_t seed;

static int setup(void **state)
{
	*state = world_new(RINGS, 0);
	return 0;
}

static int teardown(void **state)
{
	world_delete(*state);
	return 0;
}

#define STAT(w, field) stat_get(&vhost_server_stats((w)->backend.server)->field)

static void handshake(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_config cfg = {.offset = 0, .size_bytes = 60};
	uint64_t capacity, status;

	client_connect(c, w->path);
	client_negotiate(c);
	assert_int_equal(client_get_u64(c, VHOST_GET_QUEUE_NUM), RINGS);
	assert_int_equal(client_get_u64(c, VHOST_GET_MAX_MEM_SLOTS), VHOST_MAX_REGIONS);
	assert_true(client_send(c, VHOST_GET_CONFIG, 0, &cfg, 72, NULL, 0));
	assert_int_equal(client_recv(c, VHOST_GET_CONFIG, &cfg, sizeof(cfg), NULL), 72);
	memcpy(&capacity, cfg.data, 8);
	assert_int_equal(capacity, RAMDISK_SECTORS);
	/* What may not be written is refused, and that is all. */
	assert_true(client_send(c, VHOST_SET_CONFIG, VHOST_FLAG_NEED_REPLY, &cfg, 72, NULL, 0));
	assert_int_equal(client_recv(c, VHOST_SET_CONFIG, &status, 8, NULL), 8);
	assert_int_not_equal(status, 0);
	assert_int_equal(STAT(w, config_refused), 1);
	assert_true(client_alive(c));
	/* A whole table instead of regions one by one. */
	client_memory(c);
	client_memory(c);
	assert_true(client_alive(c));
}

static void one_by_one(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	static const unsigned order[] = {3, 0, 2, 1};

	client_connect(c, w->path);
	client_negotiate(c);
	for (unsigned i = 0; i < RINGS; i++)
		client_ring_new(c, i);
	for (unsigned i = 0; i < RINGS; i++) {
		/* What is available before the ring starts is found. */
		memset(client_data(c, order[i], 0), (int)(0x10 + i), 4096);
		client_submit(c, order[i], 0, RAMDISK_OUT, i * 8, 4096);
		client_ring_start(c, order[i], 0);
		uint8_t status;
		assert_int_equal(client_reap(c, order[i], &status), 0);
		assert_int_equal(status, RAMDISK_OK);
		for (unsigned j = 0; j <= i; j++) {
			assert_int_equal(client_io(c, order[j], RAMDISK_IN, i * 8, 4096), 0);
			assert_int_equal(client_data(c, order[j], 0)[4095], 0x10 + i);
		}
	}
	assert_int_equal(client_ring_stop(c, 0), 1 + 3);
	assert_int_equal(client_ring_stop(c, 0), 4); /* again, says the same */
	assert_int_equal(client_io(c, 1, RAMDISK_IN, 0, 512), 0);
	client_ring_start(c, 0, 4);
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), 0);
	/* Disabled and enabled again. */
	client_ring_state(c, VHOST_SET_VRING_ENABLE, 1, 0);
	assert_true(client_alive(c));
	client_submit(c, 1, 0, RAMDISK_IN, 0, 512);
	assert_true(client_alive(c));
	assert_int_equal(c->ring[1].used->idx, c->ring[1].last_used);
	client_ring_state(c, VHOST_SET_VRING_ENABLE, 1, 1);
	uint8_t status;
	assert_int_equal(client_reap(c, 1, &status), 0);
}

/* QEMU whose back end was started anew before the device had begun: it agrees on nothing again. */
static void not_agreed_again(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_inflight f = {.queues = RINGS, .queue_len = CLIENT_NUM};

	client_connect(c, w->path);
	client_set_u64(c, VHOST_SET_FEATURES, c->features);
	assert_true(client_send(c, VHOST_GET_INFLIGHT_FD, 0, &f, sizeof(f), NULL, 0));
	assert_int_equal(
		client_recv(c, VHOST_GET_INFLIGHT_FD, &f, sizeof(f), &c->inflight_fd), sizeof(f));
	assert_true(client_send(c, VHOST_SET_INFLIGHT_FD, 0, &f, sizeof(f), &c->inflight_fd, 1));
	client_region(c, VHOST_ADD_MEM_REG, 0); /* acknowledged */
	client_region(c, VHOST_ADD_MEM_REG, 1);
	for (unsigned r = 0; r < RINGS; r++) {
		client_ring_new(c, r);
		client_ring_start(c, r, 0);
		assert_int_equal(client_io(c, r, RAMDISK_IN, 0, 512), RAMDISK_OK);
	}
}

/* A ring's last server may have died before it notified: the guest is told when a ring starts. */
static void start_notifies(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;

	client_up(c, w->path);
	for (unsigned r = 0; r < RINGS; r++) {
		struct pollfd p = {.fd = c->call[r], .events = POLLIN};
		assert_int_equal(poll(&p, 1, CLIENT_WAIT_MS), 1);
	}
}

/* All rings, random requests, against a plain array; lanes fall asleep in between. */
static void traffic(struct world *w, unsigned requests)
{
	struct client *c = &w->client;
	unsigned rng = (unsigned)seed, in_flight[RINGS] = {0}, sent = 0, done = 0;
	static uint8_t expected[RINGS][CLIENT_SLOTS][CLIENT_BYTES];
	struct {
		uint32_t type, bytes;
		bool busy;
	} slot[RINGS][CLIENT_SLOTS];

	memset(expected, 0, sizeof(expected));
	memset(slot, 0, sizeof(slot));
	while (done < requests) {
		unsigned r = (unsigned)rand_r(&rng) % RINGS,
			 s = (unsigned)rand_r(&rng) % CLIENT_SLOTS;
		if (sent < requests && !slot[r][s].busy) {
			/* Each slot has its own sectors, so that the order does not matter. */
			uint64_t sector = (r * CLIENT_SLOTS + s) * (CLIENT_BYTES / RAMDISK_SECTOR);
			slot[r][s].type = rand_r(&rng) % 2 ? RAMDISK_OUT : RAMDISK_IN;
			slot[r][s].bytes = (1 + (unsigned)rand_r(&rng) % 16) * RAMDISK_SECTOR;
			slot[r][s].busy = true;
			if (slot[r][s].type == RAMDISK_OUT) {
				for (unsigned i = 0; i < slot[r][s].bytes; i += 64)
					client_data(c, r, s)[i] = (uint8_t)rand_r(&rng);
				memcpy(expected[r][s], client_data(c, r, s), slot[r][s].bytes);
			}
			client_submit(c, r, s, slot[r][s].type, sector, slot[r][s].bytes);
			in_flight[r]++;
			sent++;
		}
		if (in_flight[r] && (rand_r(&rng) % 3 == 0 || sent == requests)) {
			uint8_t status;
			s = client_reap(c, r, &status);
			assert_true(slot[r][s].busy);
			assert_int_equal(status, RAMDISK_OK);
			if (slot[r][s].type == RAMDISK_IN)
				assert_memory_equal(
					client_data(c, r, s), expected[r][s], slot[r][s].bytes);
			slot[r][s].busy = false;
			in_flight[r]--;
			done++;
		}
	}
}

static void traffic_event_idx(void **state)
{
	struct world *w = *state;

	w->client.indirect = true;
	client_up(&w->client, w->path);
	traffic(w, 20000);
}

static void traffic_flags(void **state)
{
	struct world *w = *state;

	w->client.features = VHOST_F_VERSION_1 | VHOST_F_PROTOCOL;
	w->client.protocol = VHOST_PF_MQ;
	client_up(&w->client, w->path);
	traffic(w, 20000);
}

/* A front end that knows nothing of protocol features: rings are enabled from the start. */
static void traffic_plain(void **state)
{
	struct world *w = *state;

	w->client.features = VHOST_F_VERSION_1;
	w->client.protocol = 0;
	client_up(&w->client, w->path);
	traffic(w, 5000);
}

static void traffic_deferred(void **state)
{
	struct world *w = *state;

	w->disk.defer = true;
	client_up(&w->client, w->path);
	traffic(w, 20000);
}

static void hold(struct world *w, bool on)
{
	atomic_store(&w->disk.hold, on);
	backend_wake(&w->backend);
}

/* A stop is answered when what is in flight is done, and not before. */
static void stop_drains(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_ring_state s = {.index = 2};
	uint8_t status;

	client_up(c, w->path);
	hold(w, true);
	for (unsigned i = 0; i < 5; i++)
		client_submit(c, 2, i, RAMDISK_OUT, i, 512);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 5);
	assert_true(client_send(c, VHOST_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
	/* It has arrived: rings of the other lane are served as before, no answer is there. */
	usleep(20000);
	assert_int_equal(recv(c->fd, &s, 1, MSG_DONTWAIT | MSG_PEEK), -1);
	client_submit(c, 2, 5, RAMDISK_OUT, 5, 512); /* too late for this life of the ring */
	hold(w, false);
	assert_int_equal(client_recv(c, VHOST_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
	assert_true(s.num == 5 || s.num == 6);
	assert_int_equal(c->ring[2].used->idx, s.num);
	client_ring_start(c, 2, (uint16_t)s.num);
	for (unsigned i = 0; i < 6; i++) {
		client_reap(c, 2, &status);
		assert_int_equal(status, RAMDISK_OK);
	}
}

/* The guest resets its device in mid-request and begins anew. */
static void reset(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;

	client_up(c, w->path);
	w->disk.defer = true;
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned r = 0; r < RINGS; r++)
			for (unsigned i = 0; i < 10; i++)
				client_submit(c, r, i, RAMDISK_OUT, i, 4096);
		if (round % 2) {
			assert_true(client_send(c, VHOST_RESET_DEVICE, 0, NULL, 0, NULL, 0));
			client_set_u64(c, VHOST_SET_FEATURES, c->features);
			assert_true(client_alive(c));
		} else {
			for (unsigned r = 0; r < RINGS; r++)
				client_ring_stop(c, r);
		}
		assert_int_equal(BACKEND_LANE_STAT(&w->backend, in_progress), 0);
		assert_int_equal(BACKEND_LANE_STAT(&w->backend, queues), 0);
		/* A new in-flight region, as QEMU gets it when a machine is reset. */
		close(c->inflight_fd);
		c->inflight_fd = -1;
		struct vhost_wire_inflight f = {.queues = RINGS, .queue_len = CLIENT_NUM};
		assert_true(client_send(c, VHOST_GET_INFLIGHT_FD, 0, &f, sizeof(f), NULL, 0));
		assert_int_equal(
			client_recv(c, VHOST_GET_INFLIGHT_FD, &f, sizeof(f), &c->inflight_fd),
			sizeof(f));
		assert_true(client_send(
			c, VHOST_SET_INFLIGHT_FD, 0, &f, sizeof(f), &c->inflight_fd, 1));
		for (unsigned r = 0; r < RINGS; r++) {
			client_ring_new(c, r);
			client_ring_start(c, r, 0);
		}
		for (unsigned r = 0; r < RINGS; r++)
			assert_int_equal(client_io(c, r, RAMDISK_IN, 0, 512), RAMDISK_OK);
	}
}

/* A second front end may tell all about its guest, as QEMU does where a guest migrates to; but two
 * guests on one disk there are never. */
static void second_refused(void **state)
{
	struct world *w = *state;
	struct client other, third;

	client_up(&w->client, w->path);
	client_init(&other, 1);
	client_init(&third, 1);
	assert_int_equal(client_io(&w->client, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	for (unsigned i = 0; i < 3; i++) {
		client_connect(&other, w->path);
		client_negotiate(&other);
		assert_true(client_alive(&other));
		client_connect(&third, w->path);
		client_wait_closed(&third);
		assert_int_equal(STAT(w, connected), 2);
		client_ring_new(&other, 0);
		client_ring_start(&other, 0, 0);
		client_wait_closed(&other);
		assert_int_equal(client_io(&w->client, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	}
	assert_int_equal(STAT(w, refused_busy), 3);
	assert_int_equal(STAT(w, violations[VHOST_VIOLATION_BUSY]), 3);
	client_fini(&third);
	client_fini(&other);
}

/* The first goes with its requests still in flight: its place is free, but nothing of another guest
 * runs before they are done. */
static void second_waits(void **state)
{
	struct world *w = *state;
	struct client other, third;
	uint8_t status;

	client_up(&w->client, w->path);
	client_init(&other, 1);
	client_init(&third, 1);
	client_connect(&other, w->path);
	client_negotiate(&other);
	assert_true(client_alive(&other));
	hold(w, true);
	for (unsigned i = 1; i < 10; i++)
		client_submit(&w->client, 0, i, RAMDISK_OUT, 0, 512);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 9);
	client_close(&w->client);
	client_ring_new(&other, 0);
	client_ring_start(&other, 0, 0);
	client_submit(&other, 0, 0, RAMDISK_IN, 0, 512);
	client_connect(&third, w->path);
	usleep(20000);
	assert_int_equal(other.ring[0].used->idx, 0);
	assert_int_equal(BACKEND_LANE_STAT(&w->backend, in_progress), 9);
	hold(w, false);
	assert_int_equal(client_reap(&other, 0, &status), 0);
	assert_int_equal(status, RAMDISK_OK);
	assert_true(client_alive(&other));
	assert_true(client_alive(&third)); /* has the place of the first */
	assert_int_equal(STAT(w, violations[VHOST_VIOLATION_BUSY]), 0);
	/* One that waits may go, too. */
	hold(w, true);
	client_submit(&other, 0, 1, RAMDISK_IN, 0, 512);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 1);
	client_close(&other);
	client_ring_new(&third, 0);
	client_ring_start(&third, 0, 0);
	client_close(&third);
	usleep(20000);
	hold(w, false);
	CLIENT_WAIT(STAT(w, connected) == 0);
	client_fini(&third);
	client_fini(&other);
}

/* The guest as it is now goes on at another front end, which has connected before. */
static void migrate(struct client *from, struct client *to)
{
	uint16_t base[RINGS];

	for (unsigned r = 0; r < RINGS; r++)
		base[r] = client_ring_stop(from, r);
	memcpy(to->guest.base, from->guest.base, GUEST_BYTES);
	for (unsigned r = 0; r < RINGS; r++) {
		struct guest_ring was = from->ring[r];
		uint8_t at[GUEST_RING_STRIDE];

		/* What the ring's making clears comes back. */
		memcpy(at, to->guest.base + was.at, sizeof(at));
		client_ring_new(to, r);
		memcpy(to->guest.base + was.at, at, sizeof(at));
		to->ring[r].avail_idx = was.avail_idx;
		to->ring[r].last_used = was.last_used;
	}
	for (unsigned r = 0; r < RINGS; r++)
		client_ring_start(to, r, base[r]);
}

/* To and fro with requests on their way: each is done once, wherever it is answered. */
static void migrates(void **state)
{
	struct world *w = *state;
	struct client other, *here = &w->client, *there = &other;
	unsigned rounds = 20, sent = 0;
	uint8_t status;

	w->disk.defer = true;
	client_init(&other, RINGS);
	client_up(here, w->path);
	client_connect(there, w->path);
	client_negotiate(there);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned r = 0; r < RINGS; r++)
			for (unsigned i = 0; i < 8; i++, sent++) {
				memset(client_data(here, r, i), (int)(round + r + i), 4096);
				client_submit(here, r, i, RAMDISK_OUT, (r * 8 + i) * 8, 4096);
			}
		/* Every third one does not succeed, and the guest stays. */
		for (unsigned n = 0; n <= (round % 3 == 2); n++) {
			migrate(here, there);
			struct client *was = here;
			here = there;
			there = was;
		}
		for (unsigned r = 0; r < RINGS; r++) {
			for (unsigned i = 0; i < 8; i++) {
				client_reap(here, r, &status);
				assert_int_equal(status, RAMDISK_OK);
			}
			assert_int_equal(client_io(here, r, RAMDISK_IN, (r * 8 + 3) * 8, 4096), 0);
			assert_int_equal(client_data(here, r, 0)[4095], (uint8_t)(round + r + 3));
			sent++;
		}
	}
	assert_int_equal(atomic_load(&w->disk.executed), sent);
	/* It has gone for good. */
	client_close(there);
	assert_int_equal(client_io(here, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_int_equal(STAT(w, violations[VHOST_VIOLATION_BUSY]), 0);
	client_fini(&other);
}

/* Descriptors, memory and the log change while requests are on their way. */
static void changes(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	uint8_t status;

	w->disk.defer = true;
	client_up(c, w->path);
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned r = 0; r < RINGS; r++)
			for (unsigned i = 0; i < 6; i++)
				client_submit(c, r, i, RAMDISK_OUT, i, 4096);
		unsigned r = round % RINGS;
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		switch (round % 5) {
		case 0:
			client_ring_fd(c, VHOST_SET_VRING_CALL, r, fd);
			close(c->call[r]);
			c->call[r] = fd;
			break;
		case 1:
			client_ring_fd(c, VHOST_SET_VRING_KICK, r, fd);
			assert_true(client_alive(c));
			close(c->kick[r]);
			c->kick[r] = fd;
			break;
		case 2: /* masked for a while */
			client_ring_fd(c, VHOST_SET_VRING_CALL, r, -1);
			assert_true(client_alive(c));
			client_ring_fd(c, VHOST_SET_VRING_CALL, r, c->call[r]);
			close(fd);
			break;
		case 3:
			client_region(c, VHOST_REM_MEM_REG, 1);
			client_region(c, VHOST_ADD_MEM_REG, 1);
			close(fd);
			break;
		default:
			client_memory(c);
			close(fd);
			break;
		}
		for (r = 0; r < RINGS; r++)
			for (unsigned i = 0; i < 6; i++) {
				client_reap(c, r, &status);
				assert_int_equal(status, RAMDISK_OK);
			}
	}
}

static bool dirty(const uint8_t *bits, uint64_t gpa)
{
	return bits[gpa / VHOST_LOG_PAGE / 8] >> gpa / VHOST_LOG_PAGE % 8 & 1;
}

static void logged(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	uint64_t bytes = (GUEST_GPA + GUEST_BYTES) / VHOST_LOG_PAGE / 8 + 4096, answer;
	struct vhost_wire_log log = {.size_bytes = bytes};
	int fd = memfd_create("log", MFD_CLOEXEC);
	struct vhost_wire_ring_addr a;

	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	uint8_t *bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	client_up(c, w->path);
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_true(client_send(c, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1));
	assert_int_equal(client_recv(c, VHOST_SET_LOG_BASE, &answer, 8, NULL), 8);
	assert_true(client_send(c, VHOST_SET_LOG_FD, 0, NULL, 0, &c->err[0], 1));
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_false(dirty(bits, client_data_gpa(0, 0))); /* not asked for yet */
	client_set_u64(c, VHOST_SET_FEATURES, c->features | VHOST_F_LOG_ALL_BIT);
	assert_true(client_alive(c));
	assert_int_equal(client_io(c, 0, RAMDISK_OUT, 0, 512), RAMDISK_OK);
	assert_false(dirty(bits, client_data_gpa(0, 0)));
	assert_true(dirty(bits, client_data_gpa(0, 0) - 0x1000)); /* the status */
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 4608), RAMDISK_OK);
	assert_true(dirty(bits, client_data_gpa(0, 0)));
	assert_true(dirty(bits, client_data_gpa(0, 0) + 4096));
	assert_false(dirty(bits, guest_gpa(0x8000)));
	a = guest_ring_addr(&c->ring[0], 0);
	a.flags = VHOST_RING_LOG;
	assert_true(client_send(c, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0));
	assert_true(client_alive(c));
	memset(bits, 0, bytes);
	assert_int_equal(client_io(c, 0, RAMDISK_OUT, 0, 512), RAMDISK_OK);
	assert_true(dirty(bits, guest_gpa(0x8000)));
	/* Another log, in the same file; then none. */
	log = (struct vhost_wire_log){.size_bytes = bytes - 4096, .offset = 4096};
	assert_true(client_send(c, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1));
	assert_int_equal(client_recv(c, VHOST_SET_LOG_BASE, &answer, 8, NULL), 8);
	memset(bits, 0, bytes);
	assert_int_equal(client_io(c, 0, RAMDISK_OUT, 0, 512), RAMDISK_OK);
	assert_true(dirty(bits + 4096, guest_gpa(0x8000)));
	client_set_u64(c, VHOST_SET_FEATURES, c->features);
	assert_true(client_alive(c));
	memset(bits, 0, bytes);
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_false(dirty(bits + 4096, client_data_gpa(0, 0)));
	munmap(bits, bytes);
	close(fd);
}

/* Every page in which two copies of the guest's memory differ is in the log. */
static void differences_logged(const uint8_t *before, const uint8_t *after, const uint8_t *bits)
{
	for (uint64_t at = 0; at < GUEST_BYTES; at += VHOST_LOG_PAGE)
		if (memcmp(before + at, after + at, VHOST_LOG_PAGE))
			assert_true(dirty(bits, guest_gpa(at)));
}

/*
 * As a migration ends: the log is cleared, the memory is copied, the rings are stopped with
 * requests on their way. What was written after the copy is in the log, and nothing is written
 * after the last answer.
 */
static void logged_until_stopped(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	uint64_t bytes = (GUEST_GPA + GUEST_BYTES) / VHOST_LOG_PAGE / 8, answer;
	struct vhost_wire_log log = {.size_bytes = bytes};
	int fd = memfd_create("log", MFD_CLOEXEC);
	uint8_t *copy = malloc(2 * GUEST_BYTES), *stopped = copy + GUEST_BYTES, status;
	uint16_t base[RINGS];

	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	uint8_t *bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	w->disk.defer = true;
	client_up(c, w->path);
	assert_true(client_send(c, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1));
	assert_int_equal(client_recv(c, VHOST_SET_LOG_BASE, &answer, 8, NULL), 8);
	client_set_u64(c, VHOST_SET_FEATURES, c->features | VHOST_F_LOG_ALL_BIT);
	for (unsigned round = 1; round <= 50; round++) {
		for (unsigned r = 0; r < RINGS; r++) {
			struct vhost_wire_ring_addr a = guest_ring_addr(&c->ring[r], r);
			a.flags = VHOST_RING_LOG;
			assert_true(
				client_send(c, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0));
		}
		assert_true(client_alive(c));
		memset(w->disk.data, (int)round, RINGS * 8 * 4096);
		hold(w, true);
		for (unsigned r = 0; r < RINGS; r++)
			for (unsigned i = 0; i < 8; i++)
				client_submit(c, r, i, RAMDISK_IN, (r * 8 + i) * 8, 4096);
		CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == RINGS * 8);
		memset(bits, 0, bytes);
		memcpy(copy, c->guest.base, GUEST_BYTES);
		hold(w, false);
		for (unsigned r = 0; r < RINGS; r++)
			base[r] = client_ring_stop(c, r);
		memcpy(stopped, c->guest.base, GUEST_BYTES);
		differences_logged(copy, stopped, bits);
		usleep(2000);
		assert_memory_equal(c->guest.base, stopped, GUEST_BYTES);
		for (unsigned r = 0; r < RINGS; r++) {
			client_ring_start(c, r, base[r]);
			for (unsigned i = 0; i < 8; i++) {
				client_reap(c, r, &status);
				assert_int_equal(status, RAMDISK_OK);
				assert_int_equal(client_data(c, r, i)[4095], round);
			}
		}
	}
	munmap(bits, bytes);
	close(fd);
	free(copy);
}

/* Our own stop with requests in flight: they are done first. */
static void server_stops(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	uint8_t status;

	w->disk.defer = true;
	client_up(c, w->path);
	for (unsigned r = 0; r < RINGS; r++)
		for (unsigned i = 0; i < 10; i++)
			client_submit(c, r, i, RAMDISK_OUT, i, 4096);
	backend_stop(&w->backend);
	backend_start(&w->backend, w->file, &w->disk, 0);
	client_again(c, w->file);
	for (unsigned r = 0; r < RINGS; r++)
		for (unsigned i = 0; i < 10; i++) {
			client_reap(c, r, &status);
			assert_int_equal(status, RAMDISK_OK);
		}
	assert_int_equal(atomic_load(&w->disk.executed), RINGS * 10);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(handshake, setup, teardown),
		cmocka_unit_test_setup_teardown(one_by_one, setup, teardown),
		cmocka_unit_test_setup_teardown(not_agreed_again, setup, teardown),
		cmocka_unit_test_setup_teardown(start_notifies, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_event_idx, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_plain, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_deferred, setup, teardown),
		cmocka_unit_test_setup_teardown(stop_drains, setup, teardown),
		cmocka_unit_test_setup_teardown(reset, setup, teardown),
		cmocka_unit_test_setup_teardown(second_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(second_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(migrates, setup, teardown),
		cmocka_unit_test_setup_teardown(changes, setup, teardown),
		cmocka_unit_test_setup_teardown(logged, setup, teardown),
		cmocka_unit_test_setup_teardown(logged_until_stopped, setup, teardown),
		cmocka_unit_test_setup_teardown(server_stops, setup, teardown),
	};
	log_set_level(LOG_LEVEL_ERROR, 0);
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
