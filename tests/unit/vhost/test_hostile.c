/* Tests of what no kernel and no QEMU would send: each ends with an error for its sender, counted,
 * and everything else goes on. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/core/log.h"
#include "tests/unit/vhost/world.h"

#define RINGS 4u

static int setup(void **state)
{
	*state = world_new(RINGS, 0);
	return 0;
}

static int setup_impatient(void **state)
{
	*state = world_new(RINGS, 50);
	return 0;
}

static int teardown(void **state)
{
	world_delete(*state);
	return 0;
}

#define STAT(w, field) stat_get(&vhost_server_stats((w)->backend.server)->field)

/* Whatever was done to it: the device still serves. */
static void still_serves(struct world *w)
{
	struct client *c = &w->client;

	client_close(c);
	if (c->inflight_fd >= 0)
		close(c->inflight_fd);
	c->inflight_fd = -1;
	client_up(c, w->path);
	for (unsigned r = 0; r < RINGS; r++)
		assert_int_equal(client_io(c, r, RAMDISK_IN, 0, 512), RAMDISK_OK);
}

/* ---- messages ---- */

/* One message that must end the session for that reason. */
static void refused(struct world *w, enum vhost_violation why, uint32_t type, uint32_t flags,
	const void *payload, uint32_t bytes, const int *fds, unsigned count)
{
	struct client *c = &w->client;
	uint64_t before;

	if (c->fd < 0) {
		client_connect(c, w->path);
		client_negotiate(c);
	}
	before = STAT(w, violations[why]);
	client_send(c, type, flags, payload, bytes, fds, count);
	client_wait_closed(c);
	CLIENT_WAIT(STAT(w, violations[why]) == before + 1);
}

static void headers(void **state)
{
	struct world *w = *state;
	static uint8_t zero[4096];
	static const uint32_t unknown[] = {
		0, 19, 20, 21, 22, 23, 26, 33, 35, 39, 40, 41, 1000, UINT32_MAX};

	for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		refused(w, VHOST_VIOLATION_TYPE, unknown[i], 0, zero, 8, NULL, 0);
	refused(w, VHOST_VIOLATION_FLAGS, VHOST_GET_FEATURES, VHOST_FLAG_REPLY, NULL, 0, NULL, 0);
	refused(w, VHOST_VIOLATION_FLAGS, VHOST_GET_FEATURES, 2, NULL, 0, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_GET_FEATURES, 0, zero, 8, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_FEATURES, 0, zero, 7, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_FEATURES, 0, zero, 16, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_VRING_ADDR, 0, zero, 39, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_GET_INFLIGHT_FD, 0, zero, 19, NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_MEM_TABLE, 0, zero, 4096, NULL, 0);
	still_serves(w);
}

/* A message that is cut short, byte by byte, with its descriptors; and one in small parts. */
static void cut_short(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_one_region one = {.region = guest_region(0)};
	struct vhost_header h = {VHOST_ADD_MEM_REG, VHOST_FLAG_VERSION, sizeof(one)};
	uint8_t all[sizeof(h) + sizeof(one)];

	memcpy(all, &h, sizeof(h));
	memcpy(all + sizeof(h), &one, sizeof(one));
	for (unsigned n = 0; n < sizeof(all); n++) {
		client_connect(c, w->path);
		assert_int_equal(send(c->fd, all, n, MSG_NOSIGNAL), n);
		client_close(c);
	}
	client_connect(c, w->path);
	h = (struct vhost_header){VHOST_GET_FEATURES, VHOST_FLAG_VERSION, 0};
	for (unsigned i = 0; i < sizeof(h); i++) {
		assert_int_equal(send(c->fd, (char *)&h + i, 1, MSG_NOSIGNAL), 1);
		usleep(1000);
	}
	uint64_t value;
	assert_int_equal(client_recv(c, VHOST_GET_FEATURES, &value, 8, NULL), 8);
	/* Two in one go. */
	struct vhost_header two[2] = {h, h};
	assert_int_equal(send(c->fd, two, sizeof(two), MSG_NOSIGNAL), sizeof(two));
	assert_int_equal(client_recv(c, VHOST_GET_FEATURES, &value, 8, NULL), 8);
	assert_int_equal(client_recv(c, VHOST_GET_FEATURES, &value, 8, NULL), 8);
	still_serves(w);
}

static void not_agreed(void **state)
{
	struct world *w = *state;
	static uint8_t zero[64];
	uint64_t u = ~0ull;

	refused(w, VHOST_VIOLATION_FEATURES, VHOST_SET_FEATURES, 0, &u, 8, NULL, 0);
	refused(w, VHOST_VIOLATION_FEATURES, VHOST_SET_PROTOCOL_FEATURES, 0, &u, 8, NULL, 0);
	w->client.protocol = 0;
	w->client.features = VHOST_F_VERSION_1;
	static const struct {
		uint32_t type, bytes, fds;
	} gated[] = {{VHOST_GET_QUEUE_NUM, 0, 0}, {VHOST_GET_CONFIG, 12, 0},
		{VHOST_GET_INFLIGHT_FD, 24, 0}, {VHOST_SET_INFLIGHT_FD, 24, 1},
		{VHOST_RESET_DEVICE, 0, 0}, {VHOST_GET_MAX_MEM_SLOTS, 0, 0},
		{VHOST_ADD_MEM_REG, 40, 1}, {VHOST_REM_MEM_REG, 40, 0},
		{VHOST_SET_LOG_BASE, 16, 1}};
	for (unsigned i = 0; i < sizeof(gated) / sizeof(gated[0]); i++)
		refused(w, VHOST_VIOLATION_TYPE, gated[i].type, 0, zero, gated[i].bytes,
			&w->client.guest.fd, gated[i].fds);
	still_serves(w);
}

static void wrong_fds(void **state)
{
	struct world *w = *state;
	struct vhost_wire_table t = {.count = 2, .region = {guest_region(0), guest_region(1)}};
	struct vhost_wire_one_region one = {.region = guest_region(0)};
	int many[32], p[2], zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	uint64_t u = 0;

	assert_int_equal(pipe(p), 0);
	for (unsigned i = 0; i < 32; i++)
		many[i] = w->client.guest.fd;
	for (unsigned n = 0; n < 32; n += n < 10 ? 1 : 20)
		if (n != 2)
			refused(w, VHOST_VIOLATION_FDS, VHOST_SET_MEM_TABLE, 0, &t,
				sizeof(t.region[0]) * 2 + 8, many, n);
	refused(w, VHOST_VIOLATION_FDS, VHOST_ADD_MEM_REG, 0, &one, sizeof(one), many, 0);
	refused(w, VHOST_VIOLATION_FDS, VHOST_ADD_MEM_REG, 0, &one, sizeof(one), many, 2);
	refused(w, VHOST_VIOLATION_FDS, VHOST_GET_FEATURES, 0, NULL, 0, many, 1);
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_KICK, 0, &u, 8, many, 0);
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_KICK, 0, &u, 8, many, 2);
	/* What could make a lane wait is no event descriptor. */
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_KICK, 0, &u, 8, many, 1);
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_CALL, 0, &u, 8, p, 1);
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_CALL, 0, &u, 8, &zero, 1);
	u = VHOST_RING_NO_FD; /* polling for ever is not offered */
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_KICK, 0, &u, 8, NULL, 0);
	refused(w, VHOST_VIOLATION_FDS, VHOST_SET_VRING_CALL, 0, &u, 8, &w->client.call[0], 1);
	refused(w, VHOST_VIOLATION_MEMORY, VHOST_SET_MEM_TABLE, 0, &t, sizeof(t.region[0]) * 2 + 8,
		(int[]){zero, zero}, 2);
	close(p[0]);
	close(p[1]);
	close(zero);
	still_serves(w);
}

static void wrong_fields(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_ring_state s = {.index = RINGS};
	struct vhost_wire_ring_addr a = {.index = RINGS};
	struct vhost_wire_one_region one = {.region = guest_region(0)};
	struct vhost_wire_table t = {.count = 9};
	struct vhost_wire_config cfg = {.offset = 250, .size_bytes = 8};
	struct vhost_wire_log log = {.size_bytes = GUEST_BYTES + 1};
	static const uint32_t indexed[] = {VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE,
		VHOST_GET_VRING_BASE, VHOST_SET_VRING_ENABLE};
	static const uint32_t nums[] = {0, 3, 100, 2048, 65536, UINT32_MAX};
	uint64_t u;

	for (unsigned i = 0; i < 4; i++) {
		for (s.index = RINGS; s.index; s.index <<= 4)
			refused(w, VHOST_VIOLATION_RING, indexed[i], 0, &s, sizeof(s), NULL, 0);
	}
	for (unsigned i = 0; i < sizeof(nums) / sizeof(nums[0]); i++) {
		s = (struct vhost_wire_ring_state){.num = nums[i]};
		refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_NUM, 0, &s, sizeof(s), NULL, 0);
	}
	s.num = 65536;
	refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
	refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_ENABLE, 0, &s, sizeof(s), NULL, 0);
	refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
	for (unsigned i = 0; i < 2; i++) {
		u = i ? 1u << 9 : RINGS;
		refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_KICK, 0, &u, 8, &c->kick[0], 1);
		refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_CALL, 0, &u, 8, &c->kick[0], 1);
		refused(w, VHOST_VIOLATION_RING, VHOST_SET_VRING_ERR, 0, &u, 8, &c->kick[0], 1);
	}
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_MEM_TABLE, 0, &t, sizeof(t), NULL, 0);
	t.count = 4;
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_MEM_TABLE, 0, &t, 8 + 3 * 32, NULL, 0);
	refused(w, VHOST_VIOLATION_MEMORY, VHOST_ADD_MEM_REG, 0, &one, sizeof(one), &c->guest.fd,
		1);
	one.region.size_bytes = 4096;
	refused(w, VHOST_VIOLATION_MEMORY, VHOST_REM_MEM_REG, 0, &one, sizeof(one), NULL, 0);
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_GET_CONFIG, 0, &cfg, 20, NULL, 0);
	cfg.offset = 0;
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_GET_CONFIG, 0, &cfg, 21, NULL, 0);
	cfg.size_bytes = UINT32_MAX;
	refused(w, VHOST_VIOLATION_LENGTH, VHOST_SET_CONFIG, 0, &cfg, 20, NULL, 0);
	refused(w, VHOST_VIOLATION_LOG, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &c->guest.fd, 1);
	log.size_bytes = 0;
	refused(w, VHOST_VIOLATION_LOG, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &c->guest.fd, 1);
	still_serves(w);
}

static void wrong_inflight(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_inflight f = {.queues = 1, .queue_len = 64, .size_bytes = 2048};

#define REFUSED(...)                                                                               \
	do {                                                                                       \
		struct vhost_wire_inflight x = f;                                                  \
		__VA_ARGS__;                                                                       \
		refused(w, VHOST_VIOLATION_INFLIGHT, VHOST_SET_INFLIGHT_FD, 0, &x, sizeof(x),      \
			&c->guest.fd, 1);                                                          \
	} while (0)
	REFUSED(x.size_bytes = 64);
	REFUSED(x.queues = 0);
	REFUSED(x.queues = 17);
	REFUSED(x.queue_len = 0);
	REFUSED(x.queue_len = 1025);
	REFUSED(x.queues = UINT16_MAX; x.queue_len = UINT16_MAX);
	REFUSED(x.offset = 8);
	REFUSED(x.offset = GUEST_BYTES);
	REFUSED(x.offset = UINT64_MAX - 63);
	f.queues = 0;
	refused(w, VHOST_VIOLATION_INFLIGHT, VHOST_GET_INFLIGHT_FD, 0, &f, sizeof(f), NULL, 0);

	/* A region for fewer rings, then for shorter ones. */
	for (unsigned i = 0; i < 2; i++) {
		client_connect(c, w->path);
		client_negotiate(c);
		struct vhost_wire_inflight g = {.queues = i ? RINGS : 1,
			.queue_len = i ? CLIENT_NUM / 2 : CLIENT_NUM,
			.size_bytes = 65536};
		assert_true(
			client_send(c, VHOST_SET_INFLIGHT_FD, 0, &g, sizeof(g), &c->guest.fd, 1));
		client_ring_new(c, 1);
		client_ring_start(c, 1, 0);
		client_wait_closed(c);
		CLIENT_WAIT(STAT(w, violations[VHOST_VIOLATION_INFLIGHT]) == 11 + i);
	}
	still_serves(w);
}

static void wrong_ring_addresses(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_ring_addr good, a;

	client_connect(c, w->path);
	client_negotiate(c);
	client_ring_new(c, 0);
	good = guest_ring_addr(&c->ring[0], 0);
	for (unsigned i = 0; i < 9; i++) {
		a = good;
		uint64_t *field = i % 3 == 0 ? &a.desc : i % 3 == 1 ? &a.avail : &a.used;
		*field = i < 3 ? *field + 1 : i < 6 ? guest_uva(GUEST_BYTES - 8) : UINT64_MAX;
		if (c->fd < 0) {
			client_connect(c, w->path);
			client_negotiate(c);
		}
		client_ring_state(c, VHOST_SET_VRING_NUM, 0, CLIENT_NUM);
		assert_true(client_send(c, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0));
		client_ring_fd(c, VHOST_SET_VRING_KICK, 0, c->kick[0]);
		client_ring_state(c, VHOST_SET_VRING_ENABLE, 0, 1);
		client_wait_closed(c);
		CLIENT_WAIT(STAT(w, violations[VHOST_VIOLATION_RING]) == i + 1);
	}
	/* Memory that goes away under a ring. */
	client_up(c, w->path);
	struct vhost_wire_one_region one = {.region = guest_region(0)};
	refused(w, VHOST_VIOLATION_RING, VHOST_REM_MEM_REG, 0, &one, sizeof(one), NULL, 0);
	still_serves(w);
}

/* ---- rings ---- */

static void ring_fault(struct world *w, unsigned round, enum vring_fault f)
{
	struct client *c = &w->client;
	struct pollfd p = {.fd = c->err[1], .events = POLLIN};
	uint64_t n, one = 1;

	assert_int_equal(write(c->kick[1], &one, sizeof(one)), sizeof(one));
	CLIENT_WAIT(STAT(w, faults[f]) == round);
	assert_int_equal(poll(&p, 1, CLIENT_WAIT_MS), 1);
	assert_int_equal(read(c->err[1], &n, sizeof(n)), sizeof(n));
	/* The other rings and the session go on; this one does not. */
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_int_equal(client_io(c, 3, RAMDISK_IN, 0, 512), RAMDISK_OK);
	client_ring_stop(c, 1);
	client_ring_new(c, 1);
	client_ring_start(c, 1, 0);
	assert_int_equal(client_io(c, 1, RAMDISK_IN, 0, 512), RAMDISK_OK);
	client_ring_stop(c, 1);
	client_ring_new(c, 1);
}

/* The ring is made wrong before it starts and after, when its lane sleeps. */
static void hostile_rings(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	volatile struct virtq_desc *d;
	struct guest_ring *r = &c->ring[1];

	w->client.protocol &= ~VHOST_PF_INFLIGHT_SHMFD;
	client_up(c, w->path);
	d = r->desc;
#define WRONG(f, ...)                                                                              \
	for (unsigned late = 0; late < 2; late++) {                                                \
		if (late)                                                                          \
			client_ring_start(c, 1, 0);                                                \
		uint16_t head = client_prepare(c, 1, 0, RAMDISK_IN, 0, 512);                       \
		__VA_ARGS__;                                                                       \
		guest_publish(r, head);                                                            \
		if (!late)                                                                         \
			client_ring_start(c, 1, 0);                                                \
		ring_fault(w, rounds[f] += 1, f);                                                  \
	}
	unsigned rounds[VRING_FAULTS] = {0};
	client_ring_stop(c, 1);
	WRONG(VRING_FAULT_HEAD, head = CLIENT_NUM);
	WRONG(VRING_FAULT_AVAIL, r->avail_idx = 1000);
	WRONG(VRING_FAULT_NEXT, d[1].next = CLIENT_NUM);
	WRONG(VRING_FAULT_LOOP, d[2].flags |= VIRTQ_DESC_F_NEXT; d[2].next = 1);
	WRONG(VRING_FAULT_BUFFERS, d[1].len = 0);
	WRONG(VRING_FAULT_ORDER, d[2].flags = 0);
	WRONG(VRING_FAULT_ADDRESS, d[1].addr = guest_gpa(GUEST_BYTES));
	WRONG(VRING_FAULT_ADDRESS, d[1].len = 0xffff0000);
	WRONG(VRING_FAULT_LENGTH, d[2].len = UINT32_MAX);
	WRONG(VRING_FAULT_INDIRECT, d[1].flags = VIRTQ_DESC_F_INDIRECT; d[1].len = 5);
	assert_int_equal(BACKEND_LANE_STAT(&w->backend, in_progress), 0);
}

/* The same chain made available twice while the first is still in flight. */
static void busy_head(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;

	client_up(c, w->path);
	atomic_store(&w->disk.hold, true);
	client_submit(c, 1, 0, RAMDISK_IN, 0, 512);
	client_submit(c, 1, 0, RAMDISK_IN, 0, 512);
	CLIENT_WAIT(STAT(w, faults[VRING_FAULT_BUSY]) == 1);
	atomic_store(&w->disk.hold, false);
	backend_wake(&w->backend);
	client_ring_stop(c, 1);
	still_serves(w);
}

/* Requests that a device cannot make sense of are its own matter. */
static void odd_requests(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct guest_buffer b[] = {
		{client_data_gpa(0, 0), 5, false}, {client_data_gpa(0, 0), 1, true}};
	uint8_t status;

	client_up(c, w->path);
	assert_int_equal(client_io(c, 0, 77, 0, 512), RAMDISK_UNSUPP);
	assert_int_equal(client_io(c, 0, RAMDISK_IN, UINT64_MAX, 512), RAMDISK_IOERR);
	assert_int_equal(client_io(c, 0, RAMDISK_OUT, RAMDISK_SECTORS, 512), RAMDISK_IOERR);
	for (unsigned n = 1; n <= 2; n++)
		for (unsigned first = 0; first + n <= 2; first++) {
			uint64_t one = 1;
			guest_chain(&c->ring[0], 0, b + first, n);
			guest_publish(&c->ring[0], 0);
			assert_int_equal(write(c->kick[0], &one, 8), 8);
			assert_int_equal(client_reap(c, 0, &status), 0);
		}
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
}

/* The guest's memory is cut short while its rings run. */
static void memory_cut(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;

	client_up(c, w->path);
	assert_int_equal(client_io(c, 0, RAMDISK_IN, 0, 512), RAMDISK_OK);
	assert_int_equal(ftruncate(c->guest.fd, 0), 0);
	uint64_t one = 1;
	for (unsigned r = 0; r < RINGS; r++)
		assert_int_equal(write(c->kick[r], &one, 8), 8);
	/* A lane that looks at its ring finds that nothing is there any more: no request, or a
	 * fault, but never a crash. */
	usleep(20000);
	assert_int_equal(ftruncate(c->guest.fd, GUEST_BYTES), 0);
	still_serves(w);
	/* A ring that is there, with buffers that are not. */
	uint64_t before = STAT(w, violations[VHOST_VIOLATION_TRUNCATED]);
	client_prepare(c, 1, 0, RAMDISK_IN, 0, 512);
	c->ring[1].desc[1].addr = guest_gpa(GUEST_BYTES - 512);
	assert_int_equal(ftruncate(c->guest.fd, GUEST_SPLIT), 0);
	guest_publish(&c->ring[1], 0);
	assert_int_equal(write(c->kick[1], &one, 8), 8);
	uint8_t status;
	client_reap(c, 1, &status); /* this one went into the void */
	guest_publish(&c->ring[1], 0);
	assert_int_equal(write(c->kick[1], &one, 8), 8);
	client_wait_closed(c);
	CLIENT_WAIT(STAT(w, violations[VHOST_VIOLATION_TRUNCATED]) == before + 1);
	assert_true(STAT(w, faults[VRING_FAULT_MEMORY]) >= 1);
	assert_int_equal(ftruncate(c->guest.fd, GUEST_BYTES), 0);
	still_serves(w);
}

/* What is in flight takes too long: the front end is let go, its memory is not. */
static void drain_late(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_ring_state s = {.index = 0};

	client_up(c, w->path);
	atomic_store(&w->disk.hold, true);
	for (unsigned i = 0; i < 5; i++)
		client_submit(c, 0, i, RAMDISK_IN, 0, 4096);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 5);
	assert_true(client_send(c, VHOST_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
	client_wait_closed(c);
	CLIENT_WAIT(STAT(w, violations[VHOST_VIOLATION_LATE]) == 1);
	usleep(100000);
	atomic_store(&w->disk.hold, false);
	backend_wake(&w->backend);
	CLIENT_WAIT(STAT(w, connected) == 0);
	assert_int_equal(c->ring[0].used->idx, 5);
	still_serves(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(headers, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_short, setup, teardown),
		cmocka_unit_test_setup_teardown(not_agreed, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_fds, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_fields, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_inflight, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_ring_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_rings, setup, teardown),
		cmocka_unit_test_setup_teardown(busy_head, setup, teardown),
		cmocka_unit_test_setup_teardown(odd_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(drain_late, setup_impatient, teardown),
	};
	log_set_level(LOG_LEVEL_ERROR, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
