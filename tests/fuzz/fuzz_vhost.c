/* Fuzzes a vhost-user front end: its messages with their descriptors, and its guest's memory. */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client-backend/frontend/vhost_session.h"
#include "lib/core/log.h"
#include "tests/fuzz/input.h"
#include "tests/must.h"
#include "tests/unit/vhost/guest.h"
#include "tests/unit/vhost/ramdisk.h"

#define LANES 2u
#define RINGS 3u
#define NUM   16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct event_base *base;
static struct vhost_lane *lane[LANES];
static struct vhost_server *server;
static struct ramdisk disk;
static struct guest guest;
static int event_fd, pipe_fd[2], log_fd;

static void detached(void *ctx, struct vhost_queue *q, void *token)
{
	struct backend_call *call = token;
	call->done(call, 0, 0);
}

static void lane_attach(void *ctx, unsigned n, struct vhost_queue *q, struct backend_call *call)
{
	call->done(call, vhost_lane_attach(lane[n], q), 0);
}

static void lane_update(void *ctx, unsigned n, struct vhost_queue *q, struct backend_call *call)
{
	call->done(call, vhost_lane_update(lane[n], q), 0);
}

static void lane_detach(void *ctx, unsigned n, struct vhost_queue *q, struct backend_call *call)
{
	vhost_lane_detach(lane[n], q, call);
}

static const struct vhost_lane_ops lane_ops = {.detached = detached};
static const struct vhost_server_ops server_ops = {
	.lane_attach = lane_attach, .lane_update = lane_update, .lane_detach = lane_detach};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[64], err[200];
	snprintf(path, sizeof(path), "/tmp/fallow-fuzz-vhost-%d", (int)getpid());
	struct vhost_server_config cfg = {.name = "fuzz",
		.path = path,
		.mode = 0600,
		.queues = RINGS,
		.lanes = LANES,
		.drain_timeout_ms = 60000};
	log_set_level(LOG_LEVEL_ERROR, 0);
	base = event_base_new();
	for (unsigned i = 0; i < LANES; i++)
		MUST(vhost_lane_new(i, &lane_ops, NULL, epoll_create1(EPOLL_CLOEXEC), &lane[i]) ==
			0);
	ramdisk_init(&disk, LANES, RINGS);
	disk.defer = true;
	MUST(vhost_server_new(&cfg, base, &env_system, &ramdisk_ops, &disk, &server_ops, NULL,
		     &server, err, sizeof(err)) == 0);
	unlink(path); /* sessions come by socketpair() */
	guest_init(&guest);
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	log_fd = memfd_create("log", MFD_CLOEXEC);
	MUST(pipe2(pipe_fd, O_CLOEXEC) == 0);
	return 0;
}

static void lanes_run(void)
{
	for (unsigned i = 0; i < LANES; i++) {
		vhost_lane_poll(lane[i], 64);
		ramdisk_poll(&disk, i);
		if (vhost_lane_prepare_sleep(lane[i]))
			vhost_lane_wake(lane[i]);
	}
	event_base_loop(base, EVLOOP_NONBLOCK);
}

static void deliver(int fd, uint32_t type, uint32_t flags, const void *payload, uint32_t bytes,
	const int *fds, unsigned count)
{
	char sink[4096];
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * 16)];
	} control;
	struct vhost_header h = {.type = type, .flags = flags, .payload_bytes = bytes};
	struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)payload, bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	if (count) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	}
	ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	event_base_loop(base, EVLOOP_NONBLOCK);
	lanes_run();
	do {
		union {
			struct cmsghdr h;
			char space[CMSG_SPACE(sizeof(int))];
		} got;
		struct iovec all = {sink, sizeof(sink)};
		struct msghdr in = {.msg_iov = &all,
			.msg_iovlen = 1,
			.msg_control = &got,
			.msg_controllen = sizeof(got)};
		n = recvmsg(fd, &in, MSG_DONTWAIT);
		struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&in) : NULL;
		if (c) {
			int their;
			memcpy(&their, CMSG_DATA(c), sizeof(int));
			close(their);
		}
	} while (n > 0);
}

/* A message that is right but for what the input says. */
static void send_message(int fd, struct input *in)
{
	union vhost_wire_payload p = {.bytes = {0}};
	int fds[16];
	unsigned ring = (unsigned)take(in, 1), count = 0;
	uint32_t type = (uint32_t)(ring / 4 % VHOST_MESSAGES), bytes = 8;
	struct guest_ring r = {.at = ring % 4 * GUEST_RING_STRIDE};
	int kind = event_fd;
	ring %= 4; /* one of them is not there */
	switch (type) {
	case VHOST_SET_FEATURES:
		p.u64 = VHOST_F_VERSION_1 | take(in, 4) % (1ull << 31);
		break;
	case VHOST_SET_PROTOCOL_FEATURES:
		p.u64 = take(in, 1) & 1 ? VHOST_PROTOCOL_FEATURES : take(in, 2);
		break;
	case VHOST_SET_MEM_TABLE:
		p.table.count = 2;
		p.table.region[0] = guest_region(0);
		p.table.region[1] = guest_region(1);
		bytes = 8 + 2 * 32;
		count = 2;
		kind = guest.fd;
		break;
	case VHOST_ADD_MEM_REG:
	case VHOST_REM_MEM_REG:
		p.one.region = guest_region((unsigned)take(in, 1) % 2);
		bytes = sizeof(p.one);
		count = type == VHOST_ADD_MEM_REG;
		kind = guest.fd;
		break;
	case VHOST_SET_LOG_BASE:
		p.log = (struct vhost_wire_log){.size_bytes = 65536, .offset = take(in, 2)};
		bytes = sizeof(p.log);
		count = 1;
		kind = log_fd;
		break;
	case VHOST_SET_VRING_ADDR:
		p.addr = guest_ring_addr(&r, ring);
		p.addr.flags = (uint32_t)take(in, 1) & 1;
		bytes = sizeof(p.addr);
		break;
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
	case VHOST_SET_VRING_ERR:
		p.u64 = ring;
		count = 1;
		break;
	case VHOST_SET_VRING_NUM:
	case VHOST_SET_VRING_BASE:
	case VHOST_GET_VRING_BASE:
	case VHOST_SET_VRING_ENABLE:
		p.state.index = ring;
		p.state.num = type == VHOST_SET_VRING_NUM    ? NUM
			      : type == VHOST_SET_VRING_BASE ? (uint32_t)take(in, 2)
							     : 1;
		break;
	case VHOST_GET_INFLIGHT_FD:
	case VHOST_SET_INFLIGHT_FD:
		p.inflight = (struct vhost_wire_inflight){.queues = RINGS,
			.queue_len = NUM,
			.offset = GUEST_DATA,
			.size_bytes = 4096};
		bytes = sizeof(p.inflight);
		count = type == VHOST_SET_INFLIGHT_FD;
		kind = guest.fd; /* where the guest can write to it, too */
		break;
	case VHOST_GET_CONFIG:
	case VHOST_SET_CONFIG:
		p.config.size_bytes = (uint32_t)take(in, 1);
		bytes = VHOST_WIRE_CONFIG_HEAD_BYTES + p.config.size_bytes;
		break;
	default:
		bytes = 0;
		break;
	}
	uint32_t flags = VHOST_FLAG_VERSION | VHOST_FLAG_NEED_REPLY;
	uint8_t spoil = (uint8_t)take(in, 1);
	if (spoil > 240)
		p.bytes[take(in, 1) % (bytes ? bytes : 1)] = (uint8_t)take(in, 1);
	else if (spoil > 230)
		bytes = (uint32_t)take(in, 1);
	else if (spoil > 224)
		count = (unsigned)take(in, 1) % 17;
	else if (spoil > 220)
		kind = pipe_fd[0];
	else if (spoil > 216)
		flags = (uint32_t)take(in, 1);
	for (unsigned i = 0; i < count; i++)
		fds[i] = kind;
	deliver(fd, type, flags, &p, bytes, fds, count);
}

/* Writes like a guest. */
static void touch_memory(struct input *in, unsigned what)
{
	unsigned ring = (unsigned)take(in, 1);
	struct guest_ring r = {.g = &guest, .num = NUM, .at = ring % 4 * GUEST_RING_STRIDE};
	r.desc = (volatile struct virtq_desc *)(guest.base + r.at);
	r.avail = (struct virtq_avail *)(guest.base + r.at + 0x4000);
	r.used = (struct virtq_used *)(guest.base + r.at + 0x8000);
	r.avail_idx = r.avail->idx;
	if (what == 0) {
		guest.base[take(in, 3) % (GUEST_DATA + 4096)] = (uint8_t)take(in, 1);
		return;
	}
	unsigned first = ring / 4 % NUM;
	if (what == 1) {
		struct guest_buffer b[] = {{guest_gpa(GUEST_DATA + 8192), 16, false},
			{guest_gpa(GUEST_DATA + 16384), 512, true}};
		guest_chain(&r, first, b, 2);
	} else {
		r.desc[first].addr = guest_gpa(take(in, 3));
		r.desc[first].len = (uint32_t)take(in, 2);
		r.desc[first].flags = (uint16_t)take(in, 1);
		r.desc[first].next = (uint16_t)take(in, 1);
	}
	guest_publish(&r, (uint16_t)first);
}

static void step(int fd, struct input *in)
{
	uint8_t raw[64];
	size_t n;
	unsigned which = (unsigned)take(in, 1);
	switch (which % 8) {
	case 0:
		n = take(in, 1) % sizeof(raw);
		take_bytes(in, raw, n);
		if (send(fd, raw, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			return;
		event_base_loop(base, EVLOOP_NONBLOCK);
		return;
	case 1:
	case 2:
	case 3:
		send_message(fd, in);
		return;
	case 4:
		touch_memory(in, 0);
		return;
	case 5:
		touch_memory(in, 1);
		return;
	case 6:
		touch_memory(in, 2);
		return;
	default:
		atomic_store(&disk.hold, which / 8 % 4 == 0);
		lanes_run();
		return;
	}
}

/* Everything up to running rings, as QEMU does it. */
static void bring_up(int fd)
{
	static const uint8_t script[] = {VHOST_SET_PROTOCOL_FEATURES, VHOST_SET_FEATURES,
		VHOST_SET_MEM_TABLE, VHOST_SET_VRING_NUM, VHOST_SET_VRING_ADDR,
		VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ENABLE};
	for (unsigned ring = 0; ring < RINGS; ring++)
		for (unsigned i = ring ? 3 : 0; i < sizeof(script); i++) {
			/* First what send_message() asks for with this type, then nothing spoilt.
			 */
			uint8_t bytes[] = {(uint8_t)(script[i] * 4 + ring), 0, 0, 0, 0x70, 0, 0, 0};
			struct input in = {.at = bytes, .left = sizeof(bytes)};
			if (script[i] == VHOST_SET_PROTOCOL_FEATURES)
				bytes[1] = 1;
			send_message(fd, &in);
		}
}

static int front_end_connect(unsigned i)
{
	int fd[2];

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
	MUST(vhost_session_new(server, fd[0], &server->session[i]) == 0);
	stat_add(&server->stats.connected, 1);
	return fd[1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.at = data, .left = size};
	int fd[VHOST_FRONT_ENDS];
	memset(guest.base, 0, GUEST_DATA + 4096);
	MUST(ftruncate(log_fd, 0) == 0 && ftruncate(log_fd, 200000) == 0);
	/* Bit 0: the first front end's rings run; bit 1: there is a second one. */
	uint64_t how = take(&in, 1);
	unsigned front_ends = how & 2 ? 2 : 1;
	for (unsigned i = 0; i < front_ends; i++)
		fd[i] = front_end_connect(i);
	if (how & 1)
		bring_up(fd[0]);
	for (unsigned i = 0; in.left; i++)
		step(fd[i % front_ends], &in);
	for (unsigned i = 0; i < front_ends; i++)
		close(fd[i]);
	/* Whatever they did: they end, and nothing of them is left. */
	atomic_store(&disk.hold, false);
	for (unsigned i = 0; i < 2000 && (server->session[0] || server->session[1]); i++)
		lanes_run();
	MUST(!server->session[0] && !server->session[1]);
	for (unsigned i = 0; i < LANES; i++) {
		MUST(stat_get(&vhost_lane_stats(lane[i])->queues) == 0);
		MUST(stat_get(&vhost_lane_stats(lane[i])->in_progress) == 0);
		MUST(disk.lane[i].count == 0);
	}
	return 0;
}
