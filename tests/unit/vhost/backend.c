/* A back end of threads for tests: a control thread with its server, and lanes, as in the daemon.
 */
#include "tests/unit/vhost/backend.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/must.h"

#define IDLE_ROUNDS 64u

enum message_type { ATTACH, UPDATE, DETACH, STOP };

struct message {
	enum message_type type;
	struct vhost_queue *queue;
	struct backend_call *call;
};

struct reply {
	struct backend_call *call;
	int status;
};

/* ---- lanes ---- */

static void reply(struct backend *b, struct backend_call *call, int status)
{
	struct reply r = {.call = call, .status = status};

	while (ring_push(&b->replies, &r) < 0)
		usleep(100);
}

static void detached(void *ctx, struct vhost_queue *q, void *token)
{
	reply(((struct backend_lane *)ctx)->backend, token, 0);
}

static const struct vhost_lane_ops lane_ops = {.detached = detached};

static void message_handle(struct backend_lane *l, const struct message *m)
{
	switch (m->type) {
	case ATTACH:
		reply(l->backend, m->call, vhost_lane_attach(l->lane, m->queue));
		break;
	case UPDATE:
		reply(l->backend, m->call, vhost_lane_update(l->lane, m->queue));
		break;
	case DETACH:
		vhost_lane_detach(l->lane, m->queue, m->call);
		break;
	case STOP:
		l->stop = true;
		break;
	}
}

static bool lane_round(struct backend_lane *l)
{
	struct message m;
	unsigned done = 0;

	for (; ring_pop(&l->inbox, &m); done++)
		message_handle(l, &m);
	done += vhost_lane_poll(l->lane, 64);
	done += ramdisk_poll(l->backend->disk, l->index);
	vhost_lane_flush(l->lane);
	return done;
}

static void *lane_main(void *arg)
{
	struct backend_lane *l = arg;
	struct epoll_event ev[4];
	unsigned idle = 0;

	while (!l->stop) {
		idle = lane_round(l) ? 0 : idle + 1;
		if (idle < IDLE_ROUNDS || !ring_sleep(&l->inbox))
			continue;
		if (vhost_lane_prepare_sleep(l->lane)) {
			epoll_wait(l->epoll_fd, ev, 4, -1);
			vhost_lane_wake(l->lane);
		}
		ring_awake(&l->inbox);
		idle = 0;
	}
	return NULL;
}

static void lane_open(struct backend *b, unsigned i)
{
	struct backend_lane *l = &b->lane[i];
	struct epoll_event ev = {.events = EPOLLIN};

	l->backend = b;
	l->index = i;
	MUST(ring_init(&l->inbox, 256, sizeof(struct message)) == 0);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	MUST(vhost_lane_new(i, &lane_ops, l, l->epoll_fd, &l->lane) == 0);
	MUST(epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, ring_fd(&l->inbox), &ev) == 0);
	MUST(pthread_create(&l->thread, NULL, lane_main, l) == 0);
}

static void lane_close(struct backend_lane *l)
{
	struct message m = {.type = STOP};

	MUST(ring_push(&l->inbox, &m) == 0);
	pthread_join(l->thread, NULL);
	vhost_lane_delete(l->lane);
	close(l->epoll_fd);
	ring_fini(&l->inbox);
}

/* ---- control ---- */

static void send_lane(struct backend *b, unsigned lane, enum message_type type,
	struct vhost_queue *q, struct backend_call *call)
{
	struct message m = {.type = type, .queue = q, .call = call};

	MUST(ring_push(&b->lane[lane].inbox, &m) == 0);
}

static void op_attach(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	send_lane(ctx, lane, ATTACH, q, call);
}

static void op_update(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	send_lane(ctx, lane, UPDATE, q, call);
}

static void op_detach(void *ctx, unsigned lane, struct vhost_queue *q, struct backend_call *call)
{
	send_lane(ctx, lane, DETACH, q, call);
}

static const struct vhost_server_ops server_ops = {
	.lane_attach = op_attach, .lane_update = op_update, .lane_detach = op_detach};

static void on_replies(evutil_socket_t fd, short what, void *arg)
{
	struct backend *b = arg;
	struct reply r;

	ring_awake(&b->replies);
	do
		while (ring_pop(&b->replies, &r))
			r.call->done(r.call, r.status, 0);
	while (!ring_sleep(&b->replies));
}

static void on_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct backend *b = (struct backend *)((char *)call - offsetof(struct backend, stopped));

	event_base_loopbreak(b->base);
}

static void on_stop(evutil_socket_t fd, short what, void *arg)
{
	struct backend *b = arg;

	b->stopped.done = on_stopped;
	vhost_server_stop(b->server, &b->stopped);
}

static void *control_main(void *arg)
{
	struct backend *b = arg;

	MUST(event_base_dispatch(b->base) >= 0);
	return NULL;
}

struct vhost_pinner backend_pinner;

void backend_start(
	struct backend *b, const char *path, struct ramdisk *disk, uint32_t drain_timeout_ms)
{
	char err[256];
	struct vhost_server_config cfg = {.name = "ramdisk",
		.path = path,
		.mode = 0600,
		.queues = disk->queues,
		.pinner = backend_pinner,
		.lanes = disk->lanes,
		.drain_timeout_ms = drain_timeout_ms ? drain_timeout_ms : 120000};

	memset(b, 0, sizeof(*b));
	b->disk = disk;
	b->lanes = disk->lanes;
	evthread_use_pthreads();
	MUST(ring_init(&b->replies, 256, sizeof(struct reply)) == 0);
	MUST((b->base = event_base_new()));
	b->replies_event =
		event_new(b->base, ring_fd(&b->replies), EV_READ | EV_PERSIST, on_replies, b);
	b->stop_event = event_new(b->base, -1, 0, on_stop, b);
	event_add(b->replies_event, NULL);
	MUST(ring_sleep(&b->replies));
	for (unsigned i = 0; i < b->lanes; i++)
		lane_open(b, i);
	if (vhost_server_new(&cfg, b->base, &env_system, &ramdisk_ops, disk, &server_ops, b,
		    &b->server, err, sizeof(err)) < 0) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	MUST(pthread_create(&b->control, NULL, control_main, b) == 0);
}

void backend_stop(struct backend *b)
{
	event_active(b->stop_event, EV_TIMEOUT, 1);
	pthread_join(b->control, NULL);
	vhost_server_delete(b->server);
	for (unsigned i = 0; i < b->lanes; i++)
		lane_close(&b->lane[i]);
	event_free(b->replies_event);
	event_free(b->stop_event);
	event_base_free(b->base);
	ring_fini(&b->replies);
}

void backend_wake(struct backend *b)
{
	for (unsigned i = 0; i < b->lanes; i++)
		ring_wake(&b->lane[i].inbox);
}

uint64_t backend_lane_stat(const struct backend *b, size_t offset)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < b->lanes; i++)
		sum += stat_get(
			(const stat_t *)((const char *)vhost_lane_stats(b->lane[i].lane) + offset));
	return sum;
}
