/* One data connection of a lane to a donor: establishing it, handing it over, making it anew. */
#include "client-backend/link.h"

#include <errno.h>
#include <string.h>

#include "client-backend/donors.h"
#include "lib/core/log.h"

#define POLL_NS 20000000ull /* conn_progress() at least this often while connecting */

static void on_event(evutil_socket_t fd, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);

static void timer_set(struct link *l, uint64_t ns)
{
	struct timeval tv = {.tv_sec = (time_t)(ns / 1000000000u),
		.tv_usec = (suseconds_t)(ns / 1000 % 1000000)};

	event_add(l->timer, &tv);
}

static void event_drop(struct link *l)
{
	if (l->event)
		event_free(l->event);
	l->event = NULL;
	l->event_fd = -1;
}

/* Edge-triggered while connecting, since a socket stays writable while the donor's answer is
 * awaited. */
static void event_watch(struct link *l, short what)
{
	int fd = l->ops->conn_fd(l->conn);

	if (fd == l->event_fd)
		return;
	event_drop(l);
	if (fd < 0)
		return;
	l->event = event_new(l->d->base, fd, what | EV_PERSIST, on_event, l);
	if (l->event && !event_add(l->event, NULL))
		l->event_fd = fd;
}

static void conn_destroy(struct link *l)
{
	event_drop(l);
	if (l->conn)
		l->ops->destroy(l->conn);
	l->conn = NULL;
}

/* Half the back-off for certain, the other half at random. */
static void link_wait(struct link *l)
{
	uint64_t half = l->backoff_ns / 2;

	l->state = LINK_WAITING;
	timer_set(l, half + env_random(&env_system) % (half + 1));
	l->backoff_ns *= 2;
	if (l->backoff_ns > l->d->cfg.remote.reconnect_max_ns)
		l->backoff_ns = l->d->cfg.remote.reconnect_max_ns;
}

static void link_failed(struct link *l, int status)
{
	stat_add(&l->stats->links_failed, 1);
	log_warn_limited_kv("link", "cannot connect to a donor's memory",
		"donor=%s lane=%u transport=%s error=\"%s\"", l->d->cfg.donors[l->donor].name,
		l->lane, l->ops ? l->ops->name : "none", strerror(-status));
	conn_destroy(l);
	link_wait(l);
}

static void link_hand_over(struct link *l)
{
	struct lane_msg m = {.type = LANE_LINK_ATTACH,
		.link = {.donor = l->donor, .channel = l->channel, .ops = l->ops, .conn = l->conn}};

	event_del(l->timer);
	event_drop(l);
	l->backoff_ns = l->d->cfg.remote.reconnect_min_ns;
	l->state = LINK_LANE;
	/* tcp: the lane alone sees to its socket. verbs: disconnection is an event of rdma_cm. */
	if (l->ops == &transport_verbs)
		event_watch(l, EV_READ);
	lane_send(l->d, l->lane, &m);
}

static void link_progress(struct link *l)
{
	int r = l->ops->conn_progress(l->conn);

	if (!r) {
		link_hand_over(l);
	} else if (r != -EINPROGRESS) {
		link_failed(l, r);
	} else if (env_now_ns(&env_system) >= l->deadline_ns) {
		link_failed(l, -ETIMEDOUT);
	} else {
		event_watch(l, EV_READ | EV_WRITE | EV_ET);
		timer_set(l, POLL_NS);
	}
}

static void link_connect(struct link *l)
{
	struct transport *t = lane_transport(l->d->lane[l->lane], l->kind, &l->ops);
	int r = t ? l->ops->connect(t, &l->peer, &l->conn) : -ENODEV;

	if (r < 0) {
		l->conn = NULL;
		link_failed(l, r);
		return;
	}
	l->state = LINK_CONNECTING;
	l->deadline_ns = env_now_ns(&env_system) + l->peer.timeout_ms * 1000000ull;
	link_progress(l);
}

static void link_take_back(struct link *l)
{
	struct lane_msg m = {
		.type = LANE_LINK_DETACH, .link = {.donor = l->donor, .channel = l->channel}};

	event_drop(l);
	l->state = LINK_LEAVING;
	lane_send(l->d, l->lane, &m);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct link *l = arg;

	if (l->state == LINK_CONNECTING)
		link_progress(l);
	else if (l->state == LINK_LANE && l->ops->conn_progress(l->conn) < 0) {
		stat_add(&l->stats->links_broken, 1);
		link_take_back(l);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct link *l = arg;

	if (l->state == LINK_CONNECTING)
		link_progress(l);
	else if (l->state == LINK_WAITING)
		link_connect(l);
}

void link_open(struct link *l, enum cluster_transport kind, const struct transport_peer *peer)
{
	l->wanted = true;
	l->kind = kind;
	l->peer = *peer;
	l->backoff_ns = l->d->cfg.remote.reconnect_min_ns;
	if (l->state == LINK_IDLE)
		link_connect(l);
}

void link_close(struct link *l)
{
	l->wanted = false;
	if (l->state == LINK_CONNECTING || l->state == LINK_WAITING) {
		event_del(l->timer);
		conn_destroy(l);
		l->state = LINK_IDLE;
	} else if (l->state == LINK_LANE) {
		link_take_back(l);
	}
}

void link_broken(struct link *l, struct transport_conn *conn)
{
	if (conn != l->conn || !conn)
		return;
	stat_add(&l->stats->links_broken, 1);
	log_info_kv("link", "connection to a donor's memory broke", "donor=%s lane=%u channel=%d",
		l->d->cfg.donors[l->donor].name, l->lane, (int)l->channel);
	conn_destroy(l);
	if (l->state == LINK_LANE)
		link_wait(l); /* LINK_LEAVING: its answer is on the way */
}

void link_detached(struct link *l, struct transport_conn *conn)
{
	if (l->state != LINK_LEAVING)
		return;
	conn_destroy(l);
	l->state = LINK_IDLE;
	if (l->wanted)
		link_connect(l);
}

int link_init(struct link *l, struct daemon *d, struct donors_stats *stats, unsigned lane,
	unsigned donor, enum tier_remote_channel channel)
{
	*l = (struct link){.d = d,
		.stats = stats,
		.lane = lane,
		.donor = donor,
		.channel = channel,
		.event_fd = -1};
	l->timer = event_new(d->base, -1, 0, on_timer, l);
	return l->timer ? 0 : -ENOMEM;
}

void link_fini(struct link *l)
{
	conn_destroy(l);
	if (l->timer)
		event_free(l->timer);
	l->timer = NULL;
}
