/* A backend in this process: control thread, lanes and fake engines behind a real socket. */
#include "tests/unit/frontend/harness.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tests/must.h"
#include "tests/unit/frontend/fake_engine.h"

enum work_kind { WORK_ATTACH, WORK_DETACH, WORK_POOL_ADD, WORK_POOL_DESTROY, WORK_POOL_PAGES };

/* Something asked of one lane or, as `all`, of every lane. */
struct work {
	struct work *next;
	enum work_kind kind;
	struct broadcast *all;
	struct backend_call *call;
	struct socket_attachment *attachment;
	struct engine_pool_desc desc;
	uint32_t id;
	int status;
	uint64_t value;
};

struct broadcast {
	struct backend_call *call;
	unsigned pending;
	int status;
	uint64_t value;
};

struct mailbox {
	pthread_mutex_t lock;
	struct work *head, **tail;
	int event_fd;
};

struct lane {
	struct harness *h;
	unsigned number;
	pthread_t thread;
	struct engine *engine;
	struct socket_lane *lane;
	int epoll_fd;
	struct mailbox in;
	_Atomic bool frozen; /* it has seen that it is to do nothing */
};

struct harness {
	struct harness_options o;
	char dir[64], path[100];
	pthread_t control;
	struct event_base *base;
	struct event *answers_event, *ask_event;
	struct mailbox answers;
	struct lane lane[HARNESS_MAX_LANES];
	struct pools *pools;
	struct socket_server *server;
	struct backend_call stopped;
	uint32_t next_id;
	_Atomic bool lanes_end, frozen;
	_Atomic unsigned uid_offset;
	_Atomic uint32_t start_state; /* 1 running, 2 failed */
	int start_status;
	/* asks of other threads, one at a time */
	pthread_mutex_t ask_lock;
	int ask_fd;
	_Atomic uint32_t ask; /* 1 stats, 2 stop; 0 done */
	struct socket_server_stats *server_stats;
	struct pools_stats *pools_stats;
};

static void pause_ms(long ms)
{
	struct timespec ts = {.tv_nsec = ms * 1000000};
	nanosleep(&ts, NULL);
}

static void mailbox_init(struct mailbox *m)
{
	pthread_mutex_init(&m->lock, NULL);
	m->head = NULL;
	m->tail = &m->head;
	m->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void mailbox_fini(struct mailbox *m)
{
	close(m->event_fd);
	pthread_mutex_destroy(&m->lock);
}

static void mailbox_post(struct mailbox *m, struct work *w)
{
	uint64_t one = 1;
	pthread_mutex_lock(&m->lock);
	w->next = NULL;
	*m->tail = w;
	m->tail = &w->next;
	pthread_mutex_unlock(&m->lock);
	MUST(write(m->event_fd, &one, sizeof(one)) == sizeof(one));
}

static struct work *mailbox_take(struct mailbox *m)
{
	uint64_t n;
	ssize_t got = read(m->event_fd, &n, sizeof(n));
	(void)got;
	pthread_mutex_lock(&m->lock);
	struct work *w = m->head;
	m->head = NULL;
	m->tail = &m->head;
	pthread_mutex_unlock(&m->lock);
	return w;
}

/* Lanes */

static void work_do(struct lane *l, struct work *w)
{
	switch (w->kind) {
	case WORK_ATTACH:
		w->status = socket_lane_attach(l->lane, w->attachment);
		break;
	case WORK_DETACH:
		socket_lane_detach(l->lane, w->attachment);
		break;
	case WORK_POOL_ADD:
		w->status = engine_pool_add(l->engine, &w->desc);
		break;
	case WORK_POOL_DESTROY:
		w->status = engine_pool_destroy(l->engine, w->id);
		break;
	case WORK_POOL_PAGES:
		w->value = engine_pool_pages(l->engine, w->id);
		break;
	}
}

static void lane_sleep(struct lane *l, bool pending)
{
	struct epoll_event ev;
	if (!socket_lane_prepare_sleep(l->lane))
		return;
	epoll_wait(l->epoll_fd, &ev, 1, pending ? 1 : 1000);
	socket_lane_wake(l->lane);
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	struct harness *h = l->h;
	while (!atomic_load(&h->lanes_end)) {
		struct work *w = mailbox_take(&l->in);
		while (w) {
			struct work *next = w->next;
			work_do(l, w);
			mailbox_post(&h->answers, w);
			w = next;
		}
		atomic_store(&l->frozen, atomic_load(&h->frozen));
		if (atomic_load(&l->frozen)) {
			pause_ms(1);
			continue;
		}
		unsigned n = socket_lane_poll(l->lane, 64);
		engine_tick(l->engine);
		if (!n && !h->o.always_poll)
			lane_sleep(l, fake_engine_pending(l->engine));
	}
	return NULL;
}

/* The daemon's part */

static void answers_ready(evutil_socket_t fd, short what, void *arg)
{
	struct harness *h = arg;
	struct work *w = mailbox_take(&h->answers);
	while (w) {
		struct work *next = w->next;
		struct broadcast *all = w->all;
		if (!all) {
			w->call->done(w->call, w->status, w->value);
		} else {
			if (w->status && w->status != -ENOENT && !all->status)
				all->status = w->status;
			all->value += w->value;
			if (--all->pending == 0) {
				all->call->done(all->call, all->status, all->value);
				free(all);
			}
		}
		free(w);
		w = next;
	}
}

static struct work *work_new(enum work_kind kind, struct backend_call *call)
{
	struct work *w = calloc(1, sizeof(*w));
	w->kind = kind;
	w->call = call;
	return w;
}

static void lane_attach(
	void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call)
{
	struct harness *h = ctx;
	struct work *w = work_new(WORK_ATTACH, call);
	w->attachment = a;
	mailbox_post(&h->lane[lane].in, w);
}

static void lane_detach(
	void *ctx, unsigned lane, struct socket_attachment *a, struct backend_call *call)
{
	struct harness *h = ctx;
	struct work *w = work_new(WORK_DETACH, call);
	w->attachment = a;
	mailbox_post(&h->lane[lane].in, w);
}

static void broadcast(struct harness *h, enum work_kind kind, uint32_t id,
	const struct engine_pool_desc *d, struct backend_call *call)
{
	struct broadcast *all = calloc(1, sizeof(*all));
	all->call = call;
	all->pending = h->o.lanes;
	for (unsigned i = 0; i < h->o.lanes; i++) {
		struct work *w = work_new(kind, NULL);
		w->all = all;
		w->id = id;
		if (d)
			w->desc = *d;
		mailbox_post(&h->lane[i].in, w);
	}
}

static void lanes_add(void *ctx, const struct engine_pool_desc *d, struct backend_call *call)
{
	broadcast(ctx, WORK_POOL_ADD, d->id, d, call);
}

static void lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	broadcast(ctx, WORK_POOL_DESTROY, id, NULL, call);
}

static void lanes_pages(void *ctx, uint32_t id, struct backend_call *call)
{
	broadcast(ctx, WORK_POOL_PAGES, id, NULL, call);
}

static int reserve_ids(void *ctx, uint32_t next_id)
{
	struct harness *h = ctx;
	h->next_id = next_id;
	return 0;
}

static int client_identity(
	void *ctx, const struct ucred *peer, char identity[ENGINE_NAME_BYTES], unsigned *account)
{
	struct harness *h = ctx;
	unsigned offset = atomic_load(&h->uid_offset);
	*account = 0;
	if (offset == 666)
		return -EACCES;
	snprintf(identity, ENGINE_NAME_BYTES, "uid:%u", (unsigned)peer->uid + offset);
	return 0;
}

static void account_usage(void *ctx, unsigned account, uint64_t *used, uint64_t *limit)
{
	*used = 7;
	*limit = UINT64_MAX;
}

static const struct pools_ops pools_ops = {.lanes_add = lanes_add,
	.lanes_destroy = lanes_destroy,
	.lanes_pages = lanes_pages,
	.reserve_ids = reserve_ids};
static const struct socket_server_ops server_ops = {.client_identity = client_identity,
	.lane_attach = lane_attach,
	.lane_detach = lane_detach,
	.account_usage = account_usage};

/* The control thread */

static void server_stopped(struct backend_call *call, int status, uint64_t value)
{
	struct harness *h = (struct harness *)((char *)call - offsetof(struct harness, stopped));
	event_base_loopbreak(h->base);
}

static void ask_ready(evutil_socket_t fd, short what, void *arg)
{
	struct harness *h = arg;
	uint64_t n;
	ssize_t got = read(fd, &n, sizeof(n));
	(void)got;
	if (atomic_load(&h->ask) == 1) {
		memcpy(h->server_stats, socket_server_stats(h->server), sizeof(*h->server_stats));
		memcpy(h->pools_stats, pools_stats(h->pools), sizeof(*h->pools_stats));
		atomic_store(&h->ask, 0);
	} else if (atomic_load(&h->ask) == 2) {
		h->stopped.done = server_stopped;
		socket_server_stop(h->server, &h->stopped);
	}
}

static int control_open(struct harness *h)
{
	char err[200];
	struct pools_config pc = {.lanes = h->o.lanes,
		.max_pools_per_owner = h->o.max_pools ? h->o.max_pools : ENGINE_MAX_POOLS,
		.codec = ENGINE_CODEC_LZ4,
		.copies = 2,
		.next_id = h->next_id};
	struct socket_server_config sc = {.path = h->path,
		.mode = 0600,
		.lanes = h->o.lanes,
		.slots = h->o.slots,
		.max_sessions = h->o.max_sessions,
		.max_sessions_per_client = h->o.max_sessions_per_client
						   ? h->o.max_sessions_per_client
						   : h->o.max_sessions,
		.hello_timeout_ms = h->o.hello_timeout_ms ? h->o.hello_timeout_ms : 10000,
		.grace_ms = h->o.grace_ms ? h->o.grace_ms : 60000,
		.request_timeout_ms = h->o.request_timeout_ms ? h->o.request_timeout_ms : 30000};
	MUST(pools_new(&pc, &pools_ops, h, &h->pools) == 0);
	for (unsigned i = 0; i < h->o.lanes; i++)
		for (unsigned row = 0; row < ENGINE_MAX_POOLS; row++) {
			const struct engine_pool_desc *d = engine_pool_row(h->lane[i].engine, row);
			if (d)
				pools_adopt(h->pools, i, d);
		}
	pools_adopted(h->pools);
	int status = socket_server_new(
		&sc, h->base, &env_system, h->pools, &server_ops, h, &h->server, err, sizeof(err));
	if (status)
		pools_delete(h->pools);
	return status;
}

static void *control_main(void *arg)
{
	struct harness *h = arg;
	h->base = event_base_new();
	h->answers_event =
		event_new(h->base, h->answers.event_fd, EV_READ | EV_PERSIST, answers_ready, h);
	h->ask_event = event_new(h->base, h->ask_fd, EV_READ | EV_PERSIST, ask_ready, h);
	event_add(h->answers_event, NULL);
	event_add(h->ask_event, NULL);
	h->start_status = control_open(h);
	atomic_store(&h->start_state, h->start_status ? 2 : 1);
	if (!h->start_status) {
		event_base_dispatch(h->base);
		while (!pools_idle(h->pools))
			event_base_loop(h->base, EVLOOP_ONCE);
		socket_server_delete(h->server);
		pools_delete(h->pools);
	}
	event_free(h->answers_event);
	event_free(h->ask_event);
	event_base_free(h->base);
	return NULL;
}

struct harness *harness_new(const struct harness_options *o)
{
	struct harness *h = calloc(1, sizeof(*h));
	h->o = *o;
	h->next_id = 1;
	pthread_mutex_init(&h->ask_lock, NULL);
	strcpy(h->dir, "/tmp/fallow-test-XXXXXX");
	MUST(mkdtemp(h->dir));
	snprintf(h->path, sizeof(h->path), "%s/sock", h->dir);
	for (unsigned i = 0; i < o->lanes; i++)
		h->lane[i].engine = fake_engine_new(o->seed * 97 + i + 1, o->late_one_in,
			o->max_pages ? o->max_pages : UINT64_MAX);
	return h;
}

int harness_start(struct harness *h)
{
	atomic_store(&h->lanes_end, false);
	atomic_store(&h->start_state, 0);
	mailbox_init(&h->answers);
	h->ask_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned i = 0; i < h->o.lanes; i++) {
		struct lane *l = &h->lane[i];
		l->h = h;
		l->number = i;
		mailbox_init(&l->in);
		struct epoll_event ev = {.events = EPOLLIN};
		l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		MUST(epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->in.event_fd, &ev) == 0);
		MUST(socket_lane_new(i, h->o.lanes, h->o.max_sessions, l->engine, &env_system,
			     l->epoll_fd, &l->lane) == 0);
	}
	/* The engines are read by the control thread first, as the daemon does. */
	MUST(pthread_create(&h->control, NULL, control_main, h) == 0);
	while (!atomic_load(&h->start_state))
		pause_ms(1);
	for (unsigned i = 0; i < h->o.lanes && !h->start_status; i++)
		MUST(pthread_create(&h->lane[i].thread, NULL, lane_main, &h->lane[i]) == 0);
	return h->start_status;
}

static void ask(struct harness *h, uint32_t what)
{
	uint64_t one = 1;
	atomic_store(&h->ask, what);
	MUST(write(h->ask_fd, &one, sizeof(one)) == sizeof(one));
}

void harness_stop(struct harness *h)
{
	uint64_t one = 1;
	if (!h->start_status)
		ask(h, 2);
	pthread_join(h->control, NULL);
	atomic_store(&h->lanes_end, true);
	for (unsigned i = 0; i < h->o.lanes; i++) {
		MUST(write(h->lane[i].in.event_fd, &one, sizeof(one)) == sizeof(one));
		if (!h->start_status)
			pthread_join(h->lane[i].thread, NULL);
		socket_lane_delete(h->lane[i].lane);
		close(h->lane[i].epoll_fd);
		mailbox_fini(&h->lane[i].in);
	}
	mailbox_fini(&h->answers);
	close(h->ask_fd);
	atomic_store(&h->frozen, false);
}

void harness_delete(struct harness *h)
{
	for (unsigned i = 0; i < h->o.lanes; i++)
		fake_engine_delete(h->lane[i].engine);
	unlink(h->path);
	rmdir(h->dir);
	pthread_mutex_destroy(&h->ask_lock);
	free(h);
}

const char *harness_path(const struct harness *h)
{
	return h->path;
}

struct engine *harness_engine(struct harness *h, unsigned lane)
{
	return h->lane[lane].engine;
}

void harness_stats(struct harness *h, struct socket_server_stats *server, struct pools_stats *pools)
{
	pthread_mutex_lock(&h->ask_lock);
	h->server_stats = server;
	h->pools_stats = pools;
	ask(h, 1);
	while (atomic_load(&h->ask))
		pause_ms(1);
	pthread_mutex_unlock(&h->ask_lock);
}

uint64_t harness_lane_sum(struct harness *h, size_t offset)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < h->o.lanes; i++)
		n += stat_get((
			const stat_t *)((const char *)socket_lane_stats(h->lane[i].lane) + offset));
	return n;
}

void harness_set_uid_offset(struct harness *h, unsigned offset)
{
	atomic_store(&h->uid_offset, offset);
}

void harness_freeze(struct harness *h, bool frozen)
{
	uint64_t one = 1;
	atomic_store(&h->frozen, frozen);
	for (unsigned i = 0; i < h->o.lanes; i++) {
		MUST(write(h->lane[i].in.event_fd, &one, sizeof(one)) == sizeof(one));
		while (atomic_load(&h->lane[i].frozen) != frozen)
			pause_ms(1);
	}
}
