/* A back end of threads for tests: a control thread with its server, and lanes, as in the daemon.
 */
#ifndef FALLOW_TEST_VHOST_BACKEND_H
#define FALLOW_TEST_VHOST_BACKEND_H

#include <pthread.h>

#include "client-backend/frontend/vhost_server.h"
#include "lib/core/ring.h"
#include "tests/unit/vhost/ramdisk.h"

struct event;

struct backend_lane {
	struct backend *backend;
	unsigned index;
	pthread_t thread;
	struct ring inbox;
	struct vhost_lane *lane;
	int epoll_fd;
	bool stop;
};

struct backend {
	struct ramdisk *disk;
	unsigned lanes;
	struct event_base *base;
	struct event *replies_event, *stop_event;
	struct ring replies;
	pthread_t control;
	struct vhost_server *server;
	struct backend_call stopped;
	struct backend_lane lane[RAMDISK_LANES];
};

/* Of every backend that is started. */
extern struct vhost_pinner backend_pinner;
/* drain_timeout_ms 0: long. */
void backend_start(
	struct backend *b, const char *path, struct ramdisk *disk, uint32_t drain_timeout_ms);
/* Everything ends in order, or the test hangs. */
void backend_stop(struct backend *b);
/* After ramdisk.hold was changed. */
void backend_wake(struct backend *b);
uint64_t backend_lane_stat(const struct backend *b, size_t offset);
#define BACKEND_LANE_STAT(b, field) backend_lane_stat(b, offsetof(struct vhost_lane_stats, field))

#endif
