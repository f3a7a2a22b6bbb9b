/* A lane's part in the images' I/O: one io_uring for all files, and whatever else is to be polled.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "client-backend/image/image.h"

#define ENTRIES 256u
/* All that the disks of a lane may have under way; more is kept by the kernel. */
#define COMPLETIONS 8192u

struct image_lane {
	unsigned lane;
	int epoll_fd;
	int status; /* of the ring */
	struct io_uring ring;
	unsigned under_way;
	bool queued; /* something was not submitted yet */
	struct image_io *waiting, **waiting_end;
	struct image_source *sources;
};

int image_lane_new(unsigned lane, int epoll_fd, struct image_lane **out)
{
	struct image_lane *l = calloc(1, sizeof(*l));
	struct io_uring_params p = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, .cq_entries = COMPLETIONS};
	struct epoll_event ev = {.events = EPOLLIN};

	if (!l)
		return -ENOMEM;
	l->lane = lane;
	l->epoll_fd = epoll_fd;
	l->waiting_end = &l->waiting;
	l->status = io_uring_queue_init_params(ENTRIES, &l->ring, &p);
	if (!l->status && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->ring.ring_fd, &ev) < 0) {
		int r = -errno;

		io_uring_queue_exit(&l->ring);
		free(l);
		return r;
	}
	*out = l;
	return 0;
}

void image_lane_delete(struct image_lane *l)
{
	if (!l)
		return;
	if (!l->status)
		io_uring_queue_exit(&l->ring);
	free(l);
}

int image_lane_status(const struct image_lane *l)
{
	return l->status;
}

unsigned image_lane_number(const struct image_lane *l)
{
	return l->lane;
}

int image_lane_epoll_fd(const struct image_lane *l)
{
	return l->epoll_fd;
}

static void ring_kick(struct image_lane *l)
{
	/* What the kernel does not take now stays queued; the next poll tries again. */
	if (l->queued && io_uring_submit(&l->ring) >= 0)
		l->queued = io_uring_sq_ready(&l->ring) > 0;
}

static struct io_uring_sqe *sqe_get(struct image_lane *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

	if (sqe)
		return sqe;
	ring_kick(l);
	return io_uring_get_sqe(&l->ring);
}

static bool file_start(struct image_lane *l, struct image_io *io)
{
	struct io_uring_sqe *sqe = sqe_get(l);

	if (!sqe)
		return false;
	image_file_prepare(io, sqe);
	io_uring_sqe_set_data(sqe, io);
	l->under_way++;
	l->queued = true;
	return true;
}

void image_lane_file_start(struct image_lane *l, struct image_io *io)
{
	if (!l->waiting && file_start(l, io))
		return;
	io->next = NULL;
	*l->waiting_end = io;
	l->waiting_end = &io->next;
}

static unsigned files_poll(struct image_lane *l)
{
	struct io_uring_cqe *cqe;
	unsigned done = 0;

	while (l->waiting) {
		struct image_io *io = l->waiting, *next = io->next;

		if (!file_start(l, io))
			break;
		l->waiting = next;
		if (!next)
			l->waiting_end = &l->waiting;
	}
	ring_kick(l);
	while (l->under_way && io_uring_peek_cqe(&l->ring, &cqe) == 0) {
		struct image_io *io = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&l->ring, cqe);
		l->under_way--;
		done++;
		if (image_file_ended(io, result))
			io->done(io, io->result);
		else
			image_lane_file_start(l, io);
	}
	ring_kick(l);
	return done;
}

static unsigned sources_poll(struct image_lane *l)
{
	unsigned done = 0;

	for (struct image_source *s = l->sources; s; s = s->next)
		done += s->poll(s);
	return done;
}

unsigned image_lane_poll(struct image_lane *l)
{
	unsigned done = l->under_way || l->waiting ? files_poll(l) : 0;

	return done + sources_poll(l);
}

void image_lane_kick(struct image_lane *l)
{
	ring_kick(l);
	sources_poll(l);
}

void image_lane_source_add(struct image_lane *l, struct image_source *s)
{
	s->next = l->sources;
	l->sources = s;
}

void image_lane_source_remove(struct image_lane *l, struct image_source *s)
{
	struct image_source **at = &l->sources;

	while (*at && *at != s)
		at = &(*at)->next;
	if (*at)
		*at = s->next;
}
