/* Looks at the machine's memory, at intervals and when the kernel tells of stalls, and sets the
 * target. */
#include "memserver/server_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/core/log.h"
#include "memserver/pressure_linux.h"

#define PSI_STALL_US  150000
#define PSI_WINDOW_US 2000000 /* a multiple of 2 s: what the kernel allows without privileges */

uint64_t memserver_amount_bytes(const struct memserver *s, const struct config_amount *a)
{
	uint64_t bytes = config_amount_bytes(a, s->total_bytes);

	return bytes - bytes % s->cfg.region.size_bytes;
}

void memserver_pressure_limits(
	const struct memserver *s, const struct memserver_config *cfg, struct pressure_config *out)
{
	pressure_config_default(out, memserver_amount_bytes(s, &cfg->memory.min),
		memserver_amount_bytes(s, &cfg->memory.max),
		config_amount_bytes(&cfg->memory.floor, s->total_bytes), cfg->region.size_bytes);
	out->psi_some_percent = cfg->memory.psi_some_percent;
	out->psi_full_percent = cfg->memory.psi_full_percent;
}

void memserver_pressure_look(struct memserver *s)
{
	struct pressure_sample *p = &s->sample;
	uint64_t total;

	p->now_ns = env_now_ns(&env_system);
	p->held_bytes = memory_regions(s->memory) * s->cfg.region.size_bytes;
	int rc = pressure_meminfo_read(s->cfg.memory.meminfo, &total, &p->available_bytes);
	s->sample_failed = rc != 0;
	if (rc) {
		log_error_limited("pressure", "cannot read MemAvailable from %s: %s",
			s->cfg.memory.meminfo, strerror(-rc));
		return;
	}
	rc = pressure_psi_read(s->cfg.memory.psi, p);
	if (rc)
		log_warn_limited("pressure", "cannot read memory pressure from %s: %s",
			s->cfg.memory.psi, strerror(-rc));
	uint64_t before = stat_get(&lease_book_stats(s->book)->regions_revoking);
	lease_book_target_set(s->book, pressure_update(&s->pressure, p));
	uint64_t after = stat_get(&lease_book_stats(s->book)->regions_revoking);
	if (after > before)
		log_info_kv("pressure", "asking for regions back",
			"regions=%llu target_bytes=%llu available_bytes=%llu psi_some=%.1f",
			(unsigned long long)(after - before),
			(unsigned long long)s->pressure.target_bytes,
			(unsigned long long)p->available_bytes, p->some_avg10);
	memserver_book_settle(s);
}

/* The next look comes by itself only when no message has led to one by then. */
static void look_later(struct memserver *s)
{
	uint64_t us = s->cfg.memory.interval_ns / 1000 * 5 / 4;
	struct timeval in = {
		.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};

	evtimer_add(s->pressure_timer, &in);
}

static void pressure_interval(evutil_socket_t fd, short what, void *arg)
{
	memserver_pressure_look(arg);
	look_later(arg);
}

void memserver_pressure_awake(struct memserver *s)
{
	uint64_t past_ns = env_now_ns(&env_system) - s->sample.now_ns;

	if (past_ns < s->cfg.memory.interval_ns / 4 * 3)
		return;
	memserver_pressure_look(s);
	look_later(s);
}

/* libevent knows no POLLPRI: an epoll descriptor in between makes the event readable. */
static void psi_stalled(evutil_socket_t fd, short what, void *arg)
{
	struct memserver *s = arg;
	struct epoll_event e;

	if (epoll_wait(fd, &e, 1, 0) == 1 && e.events & EPOLLERR) {
		log_warn("pressure", "the kernel ended the watch on %s", s->cfg.memory.psi);
		event_del(s->psi_event);
		return;
	}
	memserver_pressure_look(s);
}

static void psi_watch(struct memserver *s)
{
	struct epoll_event e = {.events = EPOLLPRI};

	s->psi_fd = pressure_psi_watch(s->cfg.memory.psi, PSI_STALL_US, PSI_WINDOW_US);
	if (s->psi_fd < 0) {
		log_debug("pressure", "no watch on %s (%s): looking at it at intervals",
			s->cfg.memory.psi, strerror(-s->psi_fd));
		s->psi_fd = -1;
		return;
	}
	s->psi_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->psi_epoll_fd < 0 || epoll_ctl(s->psi_epoll_fd, EPOLL_CTL_ADD, s->psi_fd, &e))
		return;
	s->psi_event = event_new(s->base, s->psi_epoll_fd, EV_READ | EV_PERSIST, psi_stalled, s);
	if (s->psi_event)
		event_add(s->psi_event, NULL);
}

int memserver_pressure_start(struct memserver *s, char *err, size_t err_bytes)
{
	s->pressure_timer = evtimer_new(s->base, pressure_interval, s);
	if (!s->pressure_timer) {
		snprintf(err, err_bytes, "out of memory");
		return -ENOMEM;
	}
	psi_watch(s);
	memserver_pressure_look(s);
	look_later(s);
	return 0;
}

void memserver_pressure_stop(struct memserver *s)
{
	if (s->pressure_timer)
		event_free(s->pressure_timer);
	if (s->psi_event)
		event_free(s->psi_event);
	if (s->psi_epoll_fd >= 0)
		close(s->psi_epoll_fd);
	if (s->psi_fd >= 0)
		close(s->psi_fd);
}
