/* What libfallow's way through the socket front end costs over calling the engine: one lane, one
 * client. */
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client-backend/frontend/socket_server.h"
#include "fallow/fallow.h"
#include "lib/core/log.h"

#define PAGE   4096u
#define PAGES  8192u /* 32 MiB */
#define ROUNDS 7u
#define BATCH  32u

static struct engine_quota quota = {0, UINT64_MAX};
static struct engine *engine;
static struct socket_lane *lane;
static int epoll_fd;
static struct event_base *base;
static struct pools *pools;
static struct socket_server *server;
static struct backend_call stopped;
static uint8_t *set;
static _Atomic bool lane_end, lane_sleeps, stop_asked;

/* One thing at a time that the control thread has the lane do. */
struct job {
	void (*run)(struct job *j);
	struct socket_attachment *attachment;
	const struct engine_pool_desc *desc;
	uint32_t id;
	int status;
	uint64_t value;
};
static struct job *_Atomic job;

static void die(const char *what, int err)
{
	fprintf(stderr, "bench_socket: %s: %s\n", what, strerror(-err));
	exit(1);
}

static int no_io(void *ctx, struct engine_io *io)
{
	return -ENOTCONN;
}

static void no_kick(void *ctx)
{
}

static void no_regions(void *ctx, unsigned count, bool ephemeral)
{
}

static void no_region(void *ctx, const struct engine_region_desc *region)
{
}

static void no_donor(void *ctx, unsigned donor)
{
}

static const struct engine_ops engine_ops = {.io_read = no_io,
	.io_write = no_io,
	.io_kick = no_kick,
	.want_regions = no_regions,
	.region_released = no_region,
	.donor_bad_data = no_donor};

static void *lane_main(void *arg)
{
	struct epoll_event ev;
	while (!atomic_load(&lane_end)) {
		struct job *j = atomic_load_explicit(&job, memory_order_acquire);
		if (j) {
			j->run(j);
			atomic_store(&job, NULL);
		}
		if (!socket_lane_poll(lane, 64) && atomic_load(&lane_sleeps) &&
			socket_lane_prepare_sleep(lane)) {
			epoll_wait(epoll_fd, &ev, 1, 1);
			socket_lane_wake(lane);
		}
	}
	return NULL;
}

static void lane_do(struct job *j, struct backend_call *call)
{
	atomic_store(&job, j);
	while (atomic_load(&job))
		usleep(50);
	call->done(call, j->status, j->value);
}

static void run_attach(struct job *j)
{
	j->status = socket_lane_attach(lane, j->attachment);
}

static void run_detach(struct job *j)
{
	socket_lane_detach(lane, j->attachment);
}

static void run_add(struct job *j)
{
	j->status = engine_pool_add(engine, j->desc);
}

static void run_destroy(struct job *j)
{
	j->status = engine_pool_destroy(engine, j->id);
}

static void lane_attach(
	void *ctx, unsigned n, struct socket_attachment *a, struct backend_call *call)
{
	lane_do(&(struct job){.run = run_attach, .attachment = a}, call);
}

static void lane_detach(
	void *ctx, unsigned n, struct socket_attachment *a, struct backend_call *call)
{
	lane_do(&(struct job){.run = run_detach, .attachment = a}, call);
}

static void lanes_add(void *ctx, const struct engine_pool_desc *d, struct backend_call *call)
{
	lane_do(&(struct job){.run = run_add, .desc = d}, call);
}

static void lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	lane_do(&(struct job){.run = run_destroy, .id = id}, call);
}

static void lanes_pages(void *ctx, uint32_t id, struct backend_call *call)
{
	call->done(call, -EOPNOTSUPP, 0);
}

static int reserve_ids(void *ctx, uint32_t next_id)
{
	return 0;
}

static int client_identity(
	void *ctx, const struct ucred *peer, char identity[ENGINE_NAME_BYTES], unsigned *account)
{
	strcpy(identity, "bench");
	*account = 0;
	return 0;
}

static void account_usage(void *ctx, unsigned account, uint64_t *used, uint64_t *limit)
{
	*used = *limit = 0;
}

static const struct pools_ops pools_ops = {.lanes_add = lanes_add,
	.lanes_destroy = lanes_destroy,
	.lanes_pages = lanes_pages,
	.reserve_ids = reserve_ids};
static const struct socket_server_ops server_ops = {.client_identity = client_identity,
	.lane_attach = lane_attach,
	.lane_detach = lane_detach,
	.account_usage = account_usage};

static void server_stopped(struct backend_call *call, int status, uint64_t value)
{
	event_base_loopbreak(base);
}

static void stop_check(evutil_socket_t fd, short what, void *arg)
{
	if (atomic_exchange(&stop_asked, false)) {
		stopped.done = server_stopped;
		socket_server_stop(server, &stopped);
	}
}

static void *control_main(void *arg)
{
	struct timeval period = {.tv_usec = 10000};
	struct event *check = event_new(base, -1, EV_PERSIST, stop_check, NULL);
	event_add(check, &period);
	event_base_dispatch(base);
	event_free(check);
	return NULL;
}

static void backend_open(const char *path)
{
	struct engine_config cfg;
	struct engine_account account = {.name = "bench", .weight = 1, .quota = &quota};
	struct pools_config pc = {.lanes = 1,
		.max_pools_per_owner = 16,
		.codec = ENGINE_CODEC_NONE,
		.copies = 1,
		.next_id = 100};
	struct socket_server_config sc = {.path = path,
		.mode = 0600,
		.lanes = 1,
		.slots = 64,
		.max_sessions = 4,
		.max_sessions_per_client = 4,
		.hello_timeout_ms = 5000,
		.grace_ms = 1000,
		.request_timeout_ms = 10000};
	char err[256];
	engine_config_default(&cfg, 512u << 20, 1u << 17);
	cfg.put_wait_ns = 0;
	int rc = engine_open(NULL, &cfg, &env_system, &engine_ops, NULL, &engine, err, sizeof(err));
	if (rc)
		die(err, rc);
	rc = engine_account_set(engine, 0, &account);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (!rc)
		rc = socket_lane_new(0, 1, 4, engine, &env_system, epoll_fd, &lane);
	base = event_base_new();
	if (!rc)
		rc = pools_new(&pc, &pools_ops, NULL, &pools);
	if (!rc)
		rc = socket_server_new(&sc, base, &env_system, pools, &server_ops, NULL, &server,
			err, sizeof(err));
	if (rc)
		die("backend", rc);
}

/* The best round of a way to handle every page once, in ns per page. */
static double best(int (*round)(void *arg), void *arg)
{
	double least = 1e18;
	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t start = env_now_ns(&env_system);
		int rc = round(arg);
		double ns = (double)(env_now_ns(&env_system) - start) / PAGES;
		if (rc)
			die("a request failed", rc);
		if (ns < least)
			least = ns;
	}
	return least;
}

static struct engine_key key(uint32_t pool, uint32_t i)
{
	return (struct engine_key){.oid = {i >> 10}, .pool = pool, .index = i & 1023};
}

static int engine_put_round(void *arg)
{
	struct engine_req req;
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i++) {
		struct engine_key k = key(1, i);
		rc = engine_put(engine, &k, set + (size_t)i * PAGE, &req);
	}
	return rc;
}

static int engine_get_round(void *arg)
{
	struct engine_req req;
	uint8_t page[PAGE];
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i++) {
		struct engine_key k = key(1, i);
		rc = engine_get(engine, &k, page, &req);
	}
	return rc;
}

static int put_round(void *arg)
{
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i++) {
		struct fallow_oid oid = {{i >> 10}};
		rc = fallow_put(arg, &oid, i & 1023, set + (size_t)i * PAGE);
	}
	return rc;
}

static int get_round(void *arg)
{
	uint8_t page[PAGE];
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i++) {
		struct fallow_oid oid = {{i >> 10}};
		rc = fallow_get(arg, &oid, i & 1023, page);
	}
	return rc;
}

static int miss_round(void *arg)
{
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i++) {
		struct fallow_oid oid = {{1u << 20}};
		rc = fallow_flush_page(arg, &oid, i) == -ENOENT ? 0 : -EPROTO;
	}
	return rc;
}

static int batch_round(void *arg, bool put)
{
	static uint8_t back[BATCH][PAGE];
	int rc = 0;
	for (uint32_t i = 0; i < PAGES && !rc; i += BATCH) {
		struct fallow_key keys[BATCH];
		const void *puts[BATCH];
		void *gets[BATCH];
		for (uint32_t j = 0; j < BATCH; j++) {
			keys[j] = (struct fallow_key){
				.oid = {{(i + j) >> 10}}, .index = (i + j) & 1023};
			puts[j] = set + (size_t)(i + j) * PAGE;
			gets[j] = back[j];
		}
		rc = put ? fallow_put_batch(arg, BATCH, keys, puts, NULL)
			 : fallow_get_batch(arg, BATCH, keys, gets, NULL);
	}
	return rc;
}

static int batch_put_round(void *arg)
{
	return batch_round(arg, true);
}

static int batch_get_round(void *arg)
{
	return batch_round(arg, false);
}

/* What no design with two threads can avoid: a page copied in on one core and out on the other. */
static uint8_t handed[PAGE] __attribute__((aligned(4096)));
static _Atomic uint32_t handed_turn;

static void *handover_main(void *arg)
{
	uint8_t page[PAGE];
	for (;;) {
		uint32_t turn = atomic_load_explicit(&handed_turn, memory_order_acquire);
		if (turn == 2)
			return NULL;
		if (turn != 1)
			continue;
		memcpy(page, handed, PAGE);
		__asm__ volatile("" : : "r"(page) : "memory");
		atomic_store_explicit(&handed_turn, 0, memory_order_release);
	}
}

static int handover_round(void *arg)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		memcpy(handed, set + (size_t)i * PAGE, PAGE);
		atomic_store_explicit(&handed_turn, 1, memory_order_release);
		while (atomic_load_explicit(&handed_turn, memory_order_acquire))
			;
	}
	return 0;
}

static double handover_measure(void)
{
	pthread_t other;
	pthread_create(&other, NULL, handover_main, NULL);
	double ns = best(handover_round, NULL);
	atomic_store(&handed_turn, 2);
	pthread_join(other, NULL);
	return ns;
}

static void show(const char *what, double ns, double engine_ns)
{
	printf("%-36s %8.0f ns/page", what, ns);
	if (engine_ns > 0)
		printf("  %+7.0f ns over the engine", ns - engine_ns);
	printf("\n");
}

int main(void)
{
	char dir[] = "/tmp/fallow-bench-XXXXXX", path[64];
	pthread_t control, worker;
	struct fallow *f;
	struct fallow_pool *p = NULL;
	struct fallow_pool_opts o = {.size = sizeof(o), .flags = FALLOW_POOL_PERSISTENT};
	struct engine_pool_desc direct = {.id = 1, .flags = ENGINE_POOL_PERSISTENT, .copies = 1};
	log_set_level(LOG_LEVEL_ERROR, 0);
	if (!mkdtemp(dir))
		die(dir, -errno);
	snprintf(path, sizeof(path), "%s/sock", dir);
	set = malloc((size_t)PAGES * PAGE);
	if (!set)
		die("memory", -ENOMEM);
	for (size_t i = 0; i < (size_t)PAGES * PAGE; i += 8) {
		uint64_t r = env_random(&env_system);
		memcpy(set + i, &r, 8);
	}
	backend_open(path);
	int rc = engine_pool_add(engine, &direct);
	if (rc)
		die("pool", rc);
	printf("%u incompressible pages, best of %u rounds\n", PAGES, ROUNDS);
	double put_ns = best(engine_put_round, NULL), get_ns = best(engine_get_round, NULL);
	show("engine put, called directly", put_ns, 0);
	show("engine get, called directly", get_ns, 0);
	show("bare handover of a page to a thread", handover_measure(), 0);

	pthread_create(&worker, NULL, lane_main, NULL);
	pthread_create(&control, NULL, control_main, NULL);
	rc = fallow_connect(path, &f);
	if (!rc)
		rc = fallow_pool_open(f, &o, &p);
	if (rc)
		die("connect", rc);
	show("libfallow, empty request", best(miss_round, p), 0);
	show("libfallow put", best(put_round, p), put_ns);
	show("libfallow get", best(get_round, p), get_ns);
	show("libfallow put, batches of 32", best(batch_put_round, p), put_ns);
	show("libfallow get, batches of 32", best(batch_get_round, p), get_ns);
	atomic_store(&lane_sleeps, true);
	show("libfallow put, lane sleeps at once", best(put_round, p), put_ns);
	atomic_store(&lane_sleeps, false);

	fallow_disconnect(f);
	atomic_store(&stop_asked, true);
	pthread_join(control, NULL);
	atomic_store(&lane_end, true);
	pthread_join(worker, NULL);
	socket_server_delete(server);
	socket_lane_delete(lane);
	event_base_free(base);
	engine_close(engine);
	rmdir(dir);
	free(set);
	return 0;
}
