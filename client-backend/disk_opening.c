/* Opening an image in a thread of its own, for that may take seconds. */
#include "client-backend/disk_opening.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client-backend/disk_source.h"
#include "lib/core/log.h"

struct opening {
	struct disks_opening *call;
	struct event *event;
	int fd; /* readable: the thread is done */
	pthread_t thread;
	struct fallowd_disk_config c;
	unsigned lanes;
	uint64_t down_timeout_ns;
	/* the thread's, until then */
	struct disk_source *source;
	int status;
	char err[sizeof(((struct disks_opening *)0)->err)];
};

static void *opening_main(void *arg)
{
	struct opening *o = arg;
	uint64_t one = 1;

	o->status = disk_source_open(
		&o->c, o->lanes, o->down_timeout_ns, &o->source, o->err, sizeof(o->err));
	if (write(o->fd, &one, sizeof(one)) != sizeof(one))
		log_error("disks", "cannot tell that an image was opened");
	return NULL;
}

static void opening_free(struct opening *o)
{
	if (o->event)
		event_free(o->event);
	if (o->fd >= 0)
		close(o->fd);
	free(o);
}

static void on_opened(evutil_socket_t fd, short what, void *arg)
{
	struct opening *o = arg;
	struct disks_opening *call = o->call;

	pthread_join(o->thread, NULL);
	struct disk_source *source = o->source;
	int status = o->status;
	snprintf(call->err, sizeof(call->err), "%s", o->err);
	opening_free(o);
	call->done(call, status, source);
}

void disk_opening_start(struct event_base *base, const struct fallowd_disk_config *c,
	unsigned lanes, uint64_t down_timeout_ns, struct disks_opening *call)
{
	struct opening *o = calloc(1, sizeof(*o));

	snprintf(call->err, sizeof(call->err), "not enough memory or descriptors");
	if (!o) {
		call->done(call, -ENOMEM, NULL);
		return;
	}
	o->call = call;
	o->c = *c;
	o->lanes = lanes;
	o->down_timeout_ns = down_timeout_ns;
	o->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (o->fd >= 0)
		o->event = event_new(base, o->fd, EV_READ, on_opened, o);
	if (!o->event || event_add(o->event, NULL) < 0 ||
		pthread_create(&o->thread, NULL, opening_main, o)) {
		opening_free(o);
		call->done(call, -ENOMEM, NULL);
	}
}
