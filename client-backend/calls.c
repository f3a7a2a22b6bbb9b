/* The control thread's talk with the lanes: messages to all, their answers, and what lanes report.
 */
#include <errno.h>
#include <stdlib.h>

#include "client-backend/daemon.h"
#include "client-backend/donors.h"
#include "lib/core/log.h"

#define REPLIES	 4096u
#define FLUSH_MS 1

void lane_send(struct daemon *d, unsigned lane, const struct lane_msg *m)
{
	/* A ring that could not be taken back is still the lane's: nobody may believe otherwise. */
	if (lane_post(d->lane[lane], m) < 0 && m->call && m->type != LANE_QUEUE_DETACH &&
		m->type != LANE_NBD_DETACH)
		m->call->done(m->call, -ENOMEM, 0);
	if (lane_flush(d->lane[lane]) && !event_pending(d->flush_event, EV_TIMEOUT, NULL))
		event_add(d->flush_event, &(struct timeval){.tv_usec = FLUSH_MS * 1000});
}

void lanes_post(struct daemon *d, const struct lane_msg *m)
{
	for (unsigned i = 0; i < d->lanes; i++)
		lane_send(d, i, m);
}

struct fan {
	struct backend_call part; /* what each lane answers */
	struct backend_call *whole;
	unsigned missing;
	int status, harmless;
	uint64_t value;
};

static void fan_part_done(struct backend_call *part, int status, uint64_t value)
{
	struct fan *f = (struct fan *)part;

	if (status < 0 && status != f->harmless && !f->status)
		f->status = status;
	f->value += value;
	if (--f->missing)
		return;
	f->whole->done(f->whole, f->status, f->value);
	free(f);
}

void lanes_call(struct daemon *d, const struct lane_msg *m, int harmless, struct backend_call *call)
{
	struct fan *f = malloc(sizeof(*f));
	struct lane_msg to = *m;

	if (!f) {
		call->done(call, -ENOMEM, 0);
		return;
	}
	*f = (struct fan){.part.done = fan_part_done,
		.whole = call,
		.missing = d->lanes,
		.harmless = harmless};
	to.call = &f->part;
	lanes_post(d, &to);
}

static void reply_handle(struct daemon *d, const struct lane_reply *r)
{
	switch (r->type) {
	case LANE_REPLY_CALL:
		r->call.call->done(r->call.call, r->call.status, r->call.value);
		break;
	case LANE_REPLY_LINK_BROKEN:
		donors_link_broken(d->donors, r->lane, &r->link);
		break;
	case LANE_REPLY_LINK_DETACHED:
		donors_link_detached(d->donors, r->lane, &r->link);
		break;
	case LANE_REPLY_WANT_REGIONS:
		donors_want_regions(d->donors, r->lane, r->want.count, r->want.ephemeral);
		break;
	case LANE_REPLY_REGION_SPARE:
		donors_region_spare(d->donors, r->lane, &r->spare.region, r->spare.value);
		break;
	case LANE_REPLY_REGION_RELEASED:
		donors_region_released(d->donors, r->lane, &r->region);
		break;
	case LANE_REPLY_BAD_DATA:
		donors_bad_data(d->donors, r->donor);
		break;
	case LANE_REPLY_STOPPED:
		d->lanes_stopped++;
		break;
	}
}

void replies_drain(struct daemon *d)
{
	struct lane_reply r;

	while (ring_pop(&d->replies, &r))
		reply_handle(d, &r);
}

static void on_replies(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;

	ring_awake(&d->replies);
	do
		replies_drain(d);
	while (!ring_sleep(&d->replies));
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;
	bool more = false;

	for (unsigned i = 0; i < d->lanes; i++)
		more |= lane_flush(d->lane[i]);
	if (more)
		event_add(d->flush_event, &(struct timeval){.tv_usec = FLUSH_MS * 1000});
}

int replies_start(struct daemon *d)
{
	int r = ring_init(&d->replies, REPLIES, sizeof(struct lane_reply));

	if (r < 0)
		return r;
	d->replies_event =
		event_new(d->base, ring_fd(&d->replies), EV_READ | EV_PERSIST, on_replies, d);
	d->flush_event = event_new(d->base, -1, 0, on_flush, d);
	if (!d->replies_event || !d->flush_event || event_add(d->replies_event, NULL) < 0) {
		replies_stop(d);
		return -ENOMEM;
	}
	/* Nothing was pushed yet, so this arms the descriptor. */
	ring_sleep(&d->replies);
	return 0;
}

void replies_stop(struct daemon *d)
{
	if (d->replies_event)
		event_free(d->replies_event);
	if (d->flush_event)
		event_free(d->flush_event);
	d->replies_event = d->flush_event = NULL;
	ring_fini(&d->replies);
}
