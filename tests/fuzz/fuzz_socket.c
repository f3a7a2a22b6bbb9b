/* Fuzzes a client's side of the local socket: the bytes it sends and what it writes into shared
 * memory. */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client-backend/frontend/socket_session.h"
#include "lib/core/log.h"
#include "tests/fuzz/input.h"
#include "tests/must.h"
#include "tests/unit/frontend/fake_engine.h"

#define LANES 2u
#define SLOTS 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct event_base *base;
static struct engine *engine[LANES];
static struct socket_lane *lane[LANES];
static struct pools *pools;
static struct socket_server *server;

static int client_identity(
	void *ctx, const struct ucred *peer, char identity[ENGINE_NAME_BYTES], unsigned *account)
{
	strcpy(identity, "uid:1");
	*account = 0;
	return 0;
}

static void lane_attach(
	void *ctx, unsigned n, struct socket_attachment *a, struct backend_call *call)
{
	call->done(call, socket_lane_attach(lane[n], a), 0);
}

static void lane_detach(
	void *ctx, unsigned n, struct socket_attachment *a, struct backend_call *call)
{
	socket_lane_detach(lane[n], a);
	call->done(call, 0, 0);
}

static void account_usage(void *ctx, unsigned account, uint64_t *used, uint64_t *limit)
{
	*used = *limit = 1;
}

static void lanes_add(void *ctx, const struct engine_pool_desc *d, struct backend_call *call)
{
	int status = 0;
	for (unsigned i = 0; i < LANES && !status; i++)
		status = engine_pool_add(engine[i], d);
	call->done(call, status, 0);
}

static void lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	for (unsigned i = 0; i < LANES; i++)
		engine_pool_destroy(engine[i], id);
	call->done(call, 0, 0);
}

static void lanes_pages(void *ctx, uint32_t id, struct backend_call *call)
{
	call->done(call, 0, engine_pool_pages(engine[0], id));
}

static int reserve_ids(void *ctx, uint32_t next_id)
{
	return 0;
}

static const struct pools_ops pools_ops = {.lanes_add = lanes_add,
	.lanes_destroy = lanes_destroy,
	.lanes_pages = lanes_pages,
	.reserve_ids = reserve_ids};
static const struct socket_server_ops server_ops = {.client_identity = client_identity,
	.lane_attach = lane_attach,
	.lane_detach = lane_detach,
	.account_usage = account_usage};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char path[64];
	char err[200];
	struct pools_config pc = {
		.lanes = LANES, .max_pools_per_owner = 64, .copies = 1, .next_id = 1};
	struct socket_server_config sc = {.path = path,
		.mode = 0600,
		.lanes = LANES,
		.slots = SLOTS,
		.max_sessions = 4,
		.max_sessions_per_client = 4,
		.hello_timeout_ms = 60000,
		.grace_ms = 0,
		.request_timeout_ms = 1000};
	snprintf(path, sizeof(path), "/tmp/fallow-fuzz-socket-%d", (int)getpid());
	log_set_level(LOG_LEVEL_ERROR, 0);
	base = event_base_new();
	for (unsigned i = 0; i < LANES; i++) {
		engine[i] = fake_engine_new(i + 1, 3, 64);
		MUST(socket_lane_new(i, LANES, 4, engine[i], &env_system,
			     epoll_create1(EPOLL_CLOEXEC), &lane[i]) == 0);
	}
	MUST(pools_new(&pc, &pools_ops, NULL, &pools) == 0);
	MUST(socket_server_new(&sc, base, &env_system, pools, &server_ops, NULL, &server, err,
		     sizeof(err)) == 0);
	unlink(path); /* sessions come by socketpair() */
	return 0;
}

static void deliver(int fd, const void *buf, size_t len)
{
	char sink[4096];
	ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	event_base_loop(base, EVLOOP_NONBLOCK);
	do
		n = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
	while (n > 0);
	event_base_loop(base, EVLOOP_NONBLOCK);
}

static void send_hello(int fd, struct input *in)
{
	struct socket_hello q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_HELLO},
		.magic = SOCKET_MAGIC,
		.version_min = 1,
		.version_max = 1};
	q.token[0] = (uint8_t)take(in, 1);
	deliver(fd, &q, sizeof(q));
}

static void send_pool_open(int fd, struct input *in)
{
	struct socket_pool_open q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_POOL_OPEN}};
	q.flags = (uint32_t)take(in, 1) & 7;
	q.codec = (uint8_t)take(in, 1);
	q.uuid[0] = (uint8_t)take(in, 1);
	q.name[0] = (char)take(in, 1);
	q.id = (uint32_t)take(in, 1);
	deliver(fd, &q, sizeof(q));
}

static void send_ref(int fd, struct input *in)
{
	struct socket_pool_ref q = {.h = {.len_bytes = sizeof(q)}};
	q.h.type = (uint16_t)(SOCKET_POOL_CLOSE + take(in, 1) % 3);
	q.id = (uint32_t)take(in, 1);
	deliver(fd, &q, sizeof(q));
}

static struct session *up(void)
{
	struct session *ss = server->sessions;
	return ss && ss->have_memory && !ss->ending ? ss : NULL;
}

/* Writes like a client; `tail` counts the ring positions of each lane. */
static void touch_memory(struct input *in, unsigned what, uint32_t *tail)
{
	struct session *ss = up();
	unsigned n = (unsigned)take(in, 1) % LANES;
	if (!ss)
		return;
	struct socket_lane_memory *m = (struct socket_lane_memory *)((char *)ss->memory.base +
								     n * socket_lane_bytes(SLOTS));
	unsigned s = (unsigned)take(in, 1);
	if (what == 0) {
		size_t at = take(in, 3) % socket_lane_bytes(SLOTS) / 8;
		((uint64_t *)m)[at] = take(in, 8);
		return;
	}
	struct socket_slot *slot = &m->slot[s % SLOTS];
	if (what == 1) {
		take_bytes(in, (char *)slot + 4, 44);
	} else {
		slot->op = (uint8_t)(1 + take(in, 1) % 5);
		slot->pool = (uint32_t)take(in, 1);
		slot->index = (uint32_t)take(in, 1) << 8;
	}
	uint32_t at = tail[n]++;
	m->ring[at % SOCKET_MAX_SLOTS] = (uint64_t)(at + 1) << 32 | (what == 1 ? s : s % SLOTS);
}

static void step(int fd, struct input *in, uint32_t *tail)
{
	uint8_t raw[64];
	size_t n;
	unsigned which = (unsigned)take(in, 1);
	switch (which % 10) {
	case 0:
		n = take(in, 1) % sizeof(raw);
		take_bytes(in, raw, n);
		deliver(fd, raw, n);
		return;
	case 1:
		send_hello(fd, in);
		return;
	case 2:
		send_pool_open(fd, in);
		return;
	case 3:
		send_ref(fd, in);
		return;
	case 4:
		touch_memory(in, 0, tail);
		return;
	case 5:
		touch_memory(in, 1, tail);
		return;
	case 6:
	case 7:
		touch_memory(in, 2, tail);
		return;
	case 8:
		engine_tick(engine[which / 10 % LANES]);
		return;
	default:
		socket_lane_poll(lane[which / 10 % LANES], 64);
		if (socket_lane_prepare_sleep(lane[which / 10 % LANES]))
			socket_lane_wake(lane[which / 10 % LANES]);
		event_base_loop(base, EVLOOP_NONBLOCK);
		return;
	}
}

static void pool_gone(struct backend_call *call, int status, uint64_t value)
{
	MUST(status == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.at = data, .left = size};
	uint32_t tail[LANES] = {0};
	int fd[2];
	struct ucred peer = {.uid = 1};
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
	MUST(session_new(server, fd[0], &peer, "uid:1", 0) == 0);
	stat_add(&server->stats.connections, 1);
	if (take(&in, 1) & 1)
		send_hello(fd[1], &in);
	while (in.left)
		step(fd[1], &in, tail);
	close(fd[1]);
	for (unsigned i = 0; i < 8 && server->sessions; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	MUST(!server->sessions);
	/* Whatever it did: nothing of it is left, but its named and shared pools. */
	uint32_t cursor = 0;
	const struct engine_pool_desc *d;
	for (unsigned i = 0; i < LANES; i++) {
		MUST(stat_get(&((struct socket_lane_stats *)socket_lane_stats(lane[i]))
				       ->in_progress) == 0);
		MUST(fake_engine_pending(engine[i]) == 0);
	}
	while ((d = pools_next(pools, &cursor))) {
		struct backend_call call = {.done = pool_gone};
		pools_destroy(pools, "uid:1", d->session, d->id, &call);
	}
	return 0;
}
