/* A vhost-user front end of the tests' own, with a guest: does what QEMU does, and what it never
 * would. */
#include "tests/unit/vhost/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/must.h"

#define SLOT_BYTES 0x3000u

void client_init(struct client *c, unsigned rings)
{
	memset(c, 0, sizeof(*c));
	guest_init(&c->guest);
	c->rings = rings;
	c->fd = c->inflight_fd = -1;
	c->features =
		VHOST_F_VERSION_1 | VHOST_F_PROTOCOL | VHOST_F_EVENT_IDX | VHOST_F_INDIRECT_DESC;
	c->protocol = VHOST_PROTOCOL_FEATURES;
	for (unsigned i = 0; i < rings; i++) {
		c->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		c->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		c->err[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		MUST(c->kick[i] >= 0 && c->call[i] >= 0 && c->err[i] >= 0);
	}
}

void client_fini(struct client *c)
{
	client_close(c);
	for (unsigned i = 0; i < c->rings; i++) {
		close(c->kick[i]);
		close(c->call[i]);
		close(c->err[i]);
	}
	if (c->inflight_fd >= 0)
		close(c->inflight_fd);
	guest_fini(&c->guest);
}

void client_connect(struct client *c, const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	for (unsigned ms = 0; ms < CLIENT_WAIT_MS; ms++) {
		c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		MUST(c->fd >= 0);
		if (connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			return;
		close(c->fd);
		usleep(1000);
	}
	MUST(!"nobody listens");
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

bool client_send(struct client *c, uint32_t type, uint32_t flags, const void *payload,
	uint32_t bytes, const int *fds, unsigned count)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * 64)];
	} control;
	struct vhost_header h = {
		.type = type, .flags = VHOST_FLAG_VERSION | flags, .payload_bytes = bytes};
	struct iovec iov[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
		{.iov_base = (void *)payload, .iov_len = bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (count) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		struct cmsghdr *cm = CMSG_FIRSTHDR(&msg);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(cm), fds, sizeof(int) * count);
	}
	return sendmsg(c->fd, &msg, MSG_NOSIGNAL) == (ssize_t)(sizeof(h) + bytes);
}

/* Reads just that much, with a descriptor if one comes. */
static bool read_all(int fd, void *to, size_t bytes, int *got_fd)
{
	char control[CMSG_SPACE(sizeof(int))];

	for (size_t have = 0; have < bytes;) {
		struct iovec iov = {.iov_base = (char *)to + have, .iov_len = bytes - have};
		struct msghdr msg = {.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control,
			.msg_controllen = sizeof(control)};
		struct pollfd p = {.fd = fd, .events = POLLIN};
		MUST(poll(&p, 1, CLIENT_WAIT_MS) > 0);
		ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
		if (n <= 0)
			return false;
		have += (size_t)n;
		struct cmsghdr *cm = CMSG_FIRSTHDR(&msg);
		if (cm && got_fd)
			memcpy(got_fd, CMSG_DATA(cm), sizeof(int));
	}
	return true;
}

int client_recv(struct client *c, uint32_t type, void *payload, uint32_t max_bytes, int *fd)
{
	struct vhost_header h;

	if (!read_all(c->fd, &h, sizeof(h), fd))
		return -1;
	MUST(h.type == type && h.flags == (VHOST_FLAG_VERSION | VHOST_FLAG_REPLY));
	MUST(h.payload_bytes <= max_bytes);
	return read_all(c->fd, payload, h.payload_bytes, fd) ? (int)h.payload_bytes : -1;
}

uint64_t client_get_u64(struct client *c, uint32_t type)
{
	uint64_t value;

	MUST(client_send(c, type, 0, NULL, 0, NULL, 0));
	MUST(client_recv(c, type, &value, 8, NULL) == 8);
	return value;
}

/* What needs no answer of its own is acknowledged. */
static void acknowledged(struct client *c, uint32_t type, const void *payload, uint32_t bytes,
	const int *fds, unsigned count)
{
	bool ack = c->protocol & VHOST_PF_REPLY_ACK;
	uint64_t status = 0;

	MUST(client_send(c, type, ack ? VHOST_FLAG_NEED_REPLY : 0, payload, bytes, fds, count));
	if (ack)
		MUST(client_recv(c, type, &status, 8, NULL) == 8);
	MUST(status == 0);
}

void client_set_u64(struct client *c, uint32_t type, uint64_t value)
{
	MUST(client_send(c, type, 0, &value, sizeof(value), NULL, 0));
}

void client_ring_state(struct client *c, uint32_t type, uint32_t index, uint32_t num)
{
	struct vhost_wire_ring_state s = {.index = index, .num = num};

	MUST(client_send(c, type, 0, &s, sizeof(s), NULL, 0));
}

void client_ring_fd(struct client *c, uint32_t type, uint32_t index, int fd)
{
	uint64_t u = index | (fd < 0 ? VHOST_RING_NO_FD : 0);

	MUST(client_send(c, type, 0, &u, sizeof(u), &fd, fd >= 0));
}

bool client_alive(struct client *c)
{
	uint64_t value;

	return client_send(c, VHOST_GET_FEATURES, 0, NULL, 0, NULL, 0) &&
	       client_recv(c, VHOST_GET_FEATURES, &value, 8, NULL) == 8;
}

void client_wait_closed(struct client *c)
{
	char sink[512];
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	do
		MUST(poll(&p, 1, CLIENT_WAIT_MS) > 0);
	while (recv(c->fd, sink, sizeof(sink), 0) > 0);
	client_close(c);
}

void client_memory(struct client *c)
{
	struct vhost_wire_table t = {.count = 2, .region = {guest_region(0), guest_region(1)}};
	int fds[] = {c->guest.fd, c->guest.fd};

	acknowledged(
		c, VHOST_SET_MEM_TABLE, &t, offsetof(struct vhost_wire_table, region[2]), fds, 2);
}

void client_region(struct client *c, uint32_t type, unsigned which)
{
	struct vhost_wire_one_region one = {.region = guest_region(which)};

	acknowledged(c, type, &one, sizeof(one), &c->guest.fd, type == VHOST_ADD_MEM_REG);
}

static void inflight_exchange(struct client *c)
{
	struct vhost_wire_inflight w = {.queues = (uint16_t)c->rings, .queue_len = CLIENT_NUM};

	if (c->inflight_fd < 0) {
		MUST(client_send(c, VHOST_GET_INFLIGHT_FD, 0, &w, sizeof(w), NULL, 0));
		MUST(client_recv(c, VHOST_GET_INFLIGHT_FD, &c->inflight, sizeof(w),
			     &c->inflight_fd) == sizeof(w));
		MUST(c->inflight_fd >= 0);
	}
	acknowledged(c, VHOST_SET_INFLIGHT_FD, &c->inflight, sizeof(w), &c->inflight_fd, 1);
}

void client_negotiate(struct client *c)
{
	uint64_t offered = client_get_u64(c, VHOST_GET_FEATURES);

	MUST((offered & c->features) == c->features);
	if (c->features & VHOST_F_PROTOCOL) {
		offered = client_get_u64(c, VHOST_GET_PROTOCOL_FEATURES);
		MUST((offered & c->protocol) == c->protocol);
		client_set_u64(c, VHOST_SET_PROTOCOL_FEATURES, c->protocol);
	}
	MUST(client_send(c, VHOST_SET_OWNER, 0, NULL, 0, NULL, 0));
	if (c->protocol & VHOST_PF_INFLIGHT_SHMFD)
		inflight_exchange(c);
	client_set_u64(c, VHOST_SET_FEATURES, c->features);
	if (!(c->protocol & VHOST_PF_CONFIGURE_MEM_SLOTS)) {
		client_memory(c);
		return;
	}
	client_region(c, VHOST_ADD_MEM_REG, 1);
	client_region(c, VHOST_ADD_MEM_REG, 0);
}

void client_ring_new(struct client *c, unsigned ring)
{
	guest_ring_init(
		&c->ring[ring], &c->guest, ring, CLIENT_NUM, c->features & VHOST_F_EVENT_IDX);
}

void client_ring_start(struct client *c, unsigned ring, uint16_t base)
{
	struct vhost_wire_ring_addr a = guest_ring_addr(&c->ring[ring], ring);

	client_ring_state(c, VHOST_SET_VRING_NUM, ring, CLIENT_NUM);
	client_ring_state(c, VHOST_SET_VRING_BASE, ring, base);
	MUST(client_send(c, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0));
	client_ring_fd(c, VHOST_SET_VRING_KICK, ring, c->kick[ring]);
	client_ring_fd(c, VHOST_SET_VRING_CALL, ring, c->call[ring]);
	client_ring_fd(c, VHOST_SET_VRING_ERR, ring, c->err[ring]);
	if (c->features & VHOST_F_PROTOCOL)
		client_ring_state(c, VHOST_SET_VRING_ENABLE, ring, 1);
}

uint16_t client_ring_stop(struct client *c, unsigned ring)
{
	struct vhost_wire_ring_state s = {.index = ring};

	MUST(client_send(c, VHOST_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
	MUST(client_recv(c, VHOST_GET_VRING_BASE, &s, sizeof(s), NULL) == sizeof(s));
	MUST(s.index == ring && s.num <= UINT16_MAX);
	return (uint16_t)s.num;
}

void client_up(struct client *c, const char *path)
{
	client_connect(c, path);
	client_negotiate(c);
	for (unsigned i = 0; i < c->rings; i++) {
		client_ring_new(c, i);
		client_ring_start(c, i, 0);
	}
}

void client_again(struct client *c, const char *path)
{
	uint64_t features;
	bool up = false;

	while (!up) {
		client_close(c);
		client_connect(c, path);
		/* A daemon that is being killed may still have taken the connection. */
		up = client_send(c, VHOST_GET_FEATURES, 0, NULL, 0, NULL, 0) &&
		     client_recv(c, VHOST_GET_FEATURES, &features, sizeof(features), NULL) ==
			     sizeof(features);
	}
	client_negotiate(c);
	/* The base that QEMU makes up after it could not ask for it. */
	for (unsigned i = 0; i < c->rings; i++)
		client_ring_start(c, i, __atomic_load_n(&c->ring[i].used->idx, __ATOMIC_ACQUIRE));
}

static uint64_t slot_at(unsigned ring, unsigned slot)
{
	return GUEST_DATA + (ring * CLIENT_SLOTS + slot) * SLOT_BYTES;
}

uint8_t *client_data(struct client *c, unsigned ring, unsigned slot)
{
	return c->guest.base + slot_at(ring, slot) + 0x1000;
}

uint64_t client_data_gpa(unsigned ring, unsigned slot)
{
	return guest_gpa(slot_at(ring, slot) + 0x1000);
}

uint16_t client_prepare(struct client *c, unsigned ring, unsigned slot, uint32_t type,
	uint64_t sector, uint32_t bytes)
{
	uint64_t at = slot_at(ring, slot);
	struct ramdisk_header h = {.type = type, .sector = sector};
	struct guest_buffer b[3] = {{guest_gpa(at), sizeof(h), false},
		{guest_gpa(at + 0x1000), bytes, type != RAMDISK_OUT},
		{guest_gpa(at + 0x100), 1, true}};
	unsigned n = 3;

	memcpy(c->guest.base + at, &h, sizeof(h));
	c->guest.base[at + 0x100] = 0xff;
	if (!bytes) {
		b[1] = b[2];
		n = 2;
	}
	if (c->indirect)
		guest_chain_indirect(&c->ring[ring], slot * 3, at + 0x200, b, n);
	else
		guest_chain(&c->ring[ring], slot * 3, b, n);
	return (uint16_t)(slot * 3);
}

void client_submit(struct client *c, unsigned ring, unsigned slot, uint32_t type, uint64_t sector,
	uint32_t bytes)
{
	uint16_t head = client_prepare(c, ring, slot, type, sector, bytes);
	uint64_t one = 1;

	if (guest_publish(&c->ring[ring], head))
		MUST(write(c->kick[ring], &one, sizeof(one)) == sizeof(one));
}

/* Like a driver: asks to be interrupted, looks once more, waits for the interrupt and nothing else.
 */
static void interrupt_wait(struct client *c, unsigned ring)
{
	struct guest_ring *r = &c->ring[ring];
	struct pollfd p = {.fd = c->call[ring], .events = POLLIN};
	uint64_t n;

	if (r->event_idx)
		__atomic_store_n(&r->avail->ring[r->num], r->last_used, __ATOMIC_RELEASE);
	full_barrier();
	if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) != r->last_used)
		return;
	MUST(poll(&p, 1, CLIENT_WAIT_MS) > 0);
	MUST(read(c->call[ring], &n, sizeof(n)) == sizeof(n));
}

unsigned client_reap(struct client *c, unsigned ring, uint8_t *status)
{
	struct virtq_used_elem e;

	while (!guest_used(&c->ring[ring], &e))
		interrupt_wait(c, ring);
	MUST(e.id < CLIENT_SLOTS * 3 && e.id % 3 == 0);
	*status = c->guest.base[slot_at(ring, e.id / 3) + 0x100];
	return e.id / 3;
}

uint8_t client_io(struct client *c, unsigned ring, uint32_t type, uint64_t sector, uint32_t bytes)
{
	uint8_t status;

	client_submit(c, ring, 0, type, sector, bytes);
	MUST(client_reap(c, ring, &status) == 0);
	return status;
}
