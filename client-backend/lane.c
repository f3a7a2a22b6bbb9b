/* The life of a lane: opening its engine, tiers and transports, its thread, and the end. */
#include "client-backend/lane_impl.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/core/log.h"

#define INBOX_MESSAGES 1024u

static int transport_open(struct lane *l, struct lane_transport *t, const struct transport_ops *ops,
	const char *device)
{
	void *base;
	size_t len;

	int r = ops->open(device, l->cfg.depth, &t->t);
	if (r < 0) {
		t->t = NULL;
		return r;
	}
	t->ops = ops;
	engine_memory(l->engine, &base, &len);
	r = ops->mem_register(t->t, base, len);
	if (!r)
		r = tier_remote_add_transport(l->remote, ops, t->t);
	if (r < 0) {
		ops->close(t->t);
		t->t = NULL;
	}
	return r;
}

static int transports_open(struct lane *l, char *err, size_t err_bytes)
{
	int r = transport_open(l, &l->transport[0], &transport_tcp, NULL);

	if (r < 0) {
		snprintf(err, err_bytes, "cannot open the tcp transport: %s", strerror(-r));
		return r;
	}
	if (!l->cfg.verbs)
		return 0;
	r = transport_open(l, &l->transport[1], &transport_verbs,
		l->cfg.verbs_device[0] ? l->cfg.verbs_device : NULL);
	if (r < 0 && l->cfg.verbs_needed) {
		snprintf(err, err_bytes,
			"remote.verbs is on, but RDMA device %s cannot be used: %s",
			l->cfg.verbs_device[0] ? l->cfg.verbs_device : "(any)", strerror(-r));
		return r;
	}
	return 0;
}

static int epoll_add(struct lane *l, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* The front ends and the disks enter theirs by themselves. */
static int events_open(struct lane *l, char *err, size_t err_bytes)
{
	int r = ring_init(&l->inbox, INBOX_MESSAGES, sizeof(struct lane_msg));

	if (!r)
		r = epoll_add(l, ring_fd(&l->inbox));
	if (!r)
		r = epoll_add(l, nbd_lane_event_fd(l->nbd));
	for (unsigned i = 0; !r && i < LANE_TRANSPORTS; i++)
		if (l->transport[i].t)
			r = epoll_add(l, l->transport[i].ops->event_fd(l->transport[i].t));
	if (!r && l->disk)
		r = epoll_add(l, tier_disk_event_fd(l->disk));
	if (r < 0)
		snprintf(err, err_bytes, "cannot set up the events of a lane: %s", strerror(-r));
	return r;
}

static int lane_disk_open(struct lane *l, char *err, size_t err_bytes)
{
	if (!l->cfg.disk_path)
		return 0;
	struct tier_disk_config dc = {.path = l->cfg.disk_path,
		.lane = l->cfg.lane,
		.lanes = l->cfg.lanes,
		.segments = l->cfg.engine.disk_segments,
		.segment_bytes = l->cfg.engine.segment_bytes,
		.depth = l->cfg.disk_depth,
		.direct = l->cfg.disk_direct,
		.timeout_ns = l->cfg.disk_timeout_ns};
	return tier_disk_open(&dc, &env_system, &l->disk, err, err_bytes);
}

int lane_open(const struct lane_config *cfg, struct ring *replies, struct lane **out, char *err,
	size_t err_bytes)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l) {
		snprintf(err, err_bytes, "not enough memory for a lane");
		return -ENOMEM;
	}
	l->cfg = *cfg;
	l->env = env_system;
	l->replies = replies;
	l->epoll_fd = l->inbox.event_fd = -1;
	l->backlog_end = &l->backlog;
	l->publish_ns = 0;
	int r = engine_open(cfg->arena_path, &cfg->engine, &l->env, &lane_engine_ops, l, &l->engine,
		err, err_bytes);
	if (r < 0)
		goto err_out;
	struct tier_remote_config rc = {
		.io_timeout_ns = cfg->io_timeout_ns, .broken = lane_link_broken, .ctx = l};
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r = l->epoll_fd < 0 ? -errno : tier_remote_new(&rc, &l->env, &l->remote);
	if (!r)
		r = socket_lane_new(cfg->lane, cfg->lanes, cfg->max_sessions, l->engine, &l->env,
			l->epoll_fd, &l->sockets);
	if (!r)
		r = vhost_lane_new(cfg->lane, &lane_vhost_ops, l, l->epoll_fd, &l->guests);
	if (!r)
		r = nbd_lane_new(cfg->lane, &lane_nbd_ops, l, &l->nbd);
	if (!r)
		r = disk_lane_new(cfg->lane, cfg->lanes, l->engine, &l->env, cfg->bounce_path,
			l->epoll_fd, &l->disks);
	if (r < 0) {
		snprintf(err, err_bytes, "cannot make a lane: %s", strerror(-r));
		goto err_out;
	}
	r = transports_open(l, err, err_bytes);
	if (!r)
		r = lane_disk_open(l, err, err_bytes);
	if (!r)
		r = events_open(l, err, err_bytes);
	if (r < 0)
		goto err_out;
	*out = l;
	return 0;
err_out:
	lane_close(l);
	return r;
}

void lane_close(struct lane *l)
{
	if (!l)
		return;
	ring_fini(&l->inbox);
	while (l->backlog) {
		struct lane_backlog *b = l->backlog;
		l->backlog = b->next;
		free(b);
	}
	if (l->disk)
		tier_disk_close(l->disk);
	if (l->sockets)
		socket_lane_delete(l->sockets);
	if (l->guests)
		vhost_lane_delete(l->guests);
	nbd_lane_delete(l->nbd);
	disk_lane_delete(l->disks);
	if (l->remote)
		tier_remote_delete(l->remote);
	for (unsigned i = 0; i < LANE_TRANSPORTS; i++)
		if (l->transport[i].t)
			l->transport[i].ops->close(l->transport[i].t);
	if (l->engine)
		engine_close(l->engine);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	free(l);
}

int lane_start(struct lane *l)
{
	pthread_attr_t attr;
	char name[16];

	int r = pthread_attr_init(&attr);
	if (r)
		return -r;
	if (l->cfg.cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET((unsigned)l->cfg.cpu, &set);
		r = pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	if (!r)
		r = pthread_create(&l->thread, &attr, lane_main, l);
	pthread_attr_destroy(&attr);
	if (r)
		return -r;
	snprintf(name, sizeof(name), "lane-%u", l->cfg.lane);
	pthread_setname_np(l->thread, name);
	l->started = true;
	return 0;
}

void lane_join(struct lane *l)
{
	if (l->started)
		pthread_join(l->thread, NULL);
	l->started = false;
}

bool lane_flush(struct lane *l)
{
	while (l->backlog && !ring_push(&l->inbox, &l->backlog->m)) {
		struct lane_backlog *b = l->backlog;

		l->backlog = b->next;
		if (!l->backlog)
			l->backlog_end = &l->backlog;
		free(b);
	}
	return l->backlog != NULL;
}

int lane_post(struct lane *l, const struct lane_msg *m)
{
	if (!lane_flush(l) && !ring_push(&l->inbox, m))
		return 0;
	struct lane_backlog *b = malloc(sizeof(*b));
	if (!b) {
		log_error("lane", "no memory for a message to lane %u", l->cfg.lane);
		return -ENOMEM;
	}
	b->m = *m;
	b->next = NULL;
	*l->backlog_end = b;
	l->backlog_end = &b->next;
	return 0;
}

struct engine *lane_engine(struct lane *l)
{
	return l->engine;
}

struct disk_lane *lane_disks(struct lane *l)
{
	return l->disks;
}

struct transport *lane_transport(
	struct lane *l, enum cluster_transport t, const struct transport_ops **ops)
{
	struct lane_transport *lt = &l->transport[t == CLUSTER_TRANSPORT_VERBS];

	*ops = lt->ops;
	return lt->t;
}

const struct lane_stats *lane_stats(const struct lane *l)
{
	return &l->stats;
}

const struct lane_usage *lane_usage(const struct lane *l)
{
	return &l->usage;
}

const struct engine_stats *lane_engine_stats(const struct lane *l)
{
	return engine_stats(l->engine);
}

const struct socket_lane_stats *lane_socket_stats(const struct lane *l)
{
	return socket_lane_stats(l->sockets);
}

const struct vhost_lane_stats *lane_guest_stats(const struct lane *l)
{
	return vhost_lane_stats(l->guests);
}

const struct nbd_lane_stats *lane_nbd_stats(const struct lane *l)
{
	return nbd_lane_stats(l->nbd);
}

const struct tier_disk_stats *lane_disk_stats(const struct lane *l)
{
	return l->disk ? tier_disk_stats(l->disk) : NULL;
}

const struct tier_remote_donor_stats *lane_donor_stats(const struct lane *l, unsigned donor)
{
	return tier_remote_stats(l->remote, donor);
}

bool lane_disk_direct(const struct lane *l)
{
	return l->disk && tier_disk_direct(l->disk);
}
