/* An image behind an NBD server: one connection for each lane, made again when it breaks. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client-backend/image/image_impl.h"
#include "lib/core/env.h"
#include "lib/core/log.h"

#define DEPTH	      16u /* requests of one connection */
#define BUFFER_BYTES  (IMAGE_IO_PAGES * 4096u)
#define OPEN_LIMIT_NS 5000000000ull
#define RETRY_MS      500
#define STEP_MS	      100 /* of a connection that is being made */
#define ROUNDS	      64u

/* A request at the server, with its data in one piece. */
struct nbd_slot {
	struct nbd_link *link;
	struct image_io *io;
	uint8_t *data; /* BUFFER_BYTES */
	bool sent;
	int error;
	struct nbd_slot *next; /* of the unused, or of those that the server answered */
};

/* A lane's connection. */
struct nbd_link {
	struct image_source source; /* first */
	struct image_nbd *nbd;
	struct image_lane *lane; /* NULL: not used yet */
	struct nbd_handle *h;	 /* NULL: none now */
	bool dropped;		 /* it broke: its requests are sent again */
	int wake_fd;		 /* the connector has something to tell */
	uint32_t events;	 /* of the connection in the lane's epoll */
	uint64_t down_ns;	 /* since when there is none */
	struct image_io *waiting, **waiting_end;
	struct nbd_slot *unused, *answered;
	unsigned under_way;
	_Atomic bool told;		  /* wake_fd was written */
	_Atomic bool wanted;		  /* a connection, of the connector */
	struct nbd_handle *_Atomic fresh; /* one that it made */
	struct nbd_slot slot[DEPTH];
};

struct image_nbd {
	struct image head; /* first */
	char uri[256];
	bool can_flush, can_trim, can_zero;
	uint64_t down_timeout_ns; /* without a connection; requests fail then */
	uint8_t *buffers;
	unsigned lanes;
	int want_fd; /* the connector is asked for something */
	_Atomic bool stopping;
	_Atomic unsigned refs; /* the image, and the connector's thread */
	struct nbd_link link[];
};

static struct image_nbd *nbd_of(const struct image *i)
{
	return (struct image_nbd *)(void *)i;
}

static size_t buffers_bytes(const struct image_nbd *n)
{
	return (size_t)n->lanes * DEPTH * BUFFER_BYTES;
}

static void wake(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error_limited("image", "cannot wake a thread: %s", strerror(errno));
}

/* ---- connecting: the control thread once, then a thread of its own ---- */

/* A new connection. NULL: none until limit_ns, or *stop; why says so. */
static struct nbd_handle *link_up(
	const char *uri, uint64_t limit_ns, const _Atomic bool *stop, char *why, size_t why_bytes)
{
	struct nbd_handle *h = nbd_create();
	bool ok = h && !nbd_set_pread_initialize(h, false) &&
		  !nbd_set_uri_allow_local_file(h, false) && !nbd_aio_connect_uri(h, uri);

	while (ok && nbd_aio_is_connecting(h) > 0) {
		if (env_now_ns(&env_system) >= limit_ns || (stop && atomic_load(stop))) {
			snprintf(why, why_bytes, "it does not answer");
			nbd_close(h);
			return NULL;
		}
		ok = nbd_poll(h, STEP_MS) >= 0;
	}
	if (ok && nbd_aio_is_ready(h) > 0)
		return h;
	snprintf(why, why_bytes, "%.200s", nbd_get_error() ? nbd_get_error() : "not connected");
	if (h)
		nbd_close(h);
	return NULL;
}

static void nbd_unref(struct image_nbd *n)
{
	if (atomic_fetch_sub(&n->refs, 1) != 1)
		return;
	for (unsigned i = 0; i < n->lanes; i++) {
		struct nbd_handle *h = atomic_load(&n->link[i].fresh);

		if (h)
			nbd_close(h);
		close(n->link[i].wake_fd);
	}
	close(n->want_fd);
	free(n);
}

static void *connector_main(void *arg)
{
	struct image_nbd *n = arg;
	char why[256];
	uint64_t count;

	while (!atomic_load(&n->stopping)) {
		bool failed = false;

		for (unsigned i = 0; i < n->lanes && !atomic_load(&n->stopping); i++) {
			struct nbd_link *k = &n->link[i];

			if (!atomic_load(&k->wanted))
				continue;
			struct nbd_handle *h =
				link_up(n->uri, env_now_ns(&env_system) + OPEN_LIMIT_NS,
					&n->stopping, why, sizeof(why));
			/* Another image, or one that was cut, is not what the guest has. */
			if (h && nbd_get_size(h) != (int64_t)n->head.size_bytes) {
				snprintf(why, sizeof(why), "its size has changed");
				nbd_close(h);
				h = NULL;
			}
			if (h) {
				atomic_store(&k->wanted, false);
				atomic_store(&k->fresh, h);
			} else {
				failed = true;
				log_warn_limited("image", "%s: %s", n->uri, why);
			}
			wake(k->wake_fd);
			atomic_store(&k->told, true);
		}
		struct pollfd p = {.fd = n->want_fd, .events = POLLIN};
		/* After a failure the lanes are told now and then, for they watch the time. */
		if (poll(&p, 1, failed ? RETRY_MS : -1) > 0 &&
			read(n->want_fd, &count, sizeof(count)) < 0)
			break;
	}
	nbd_unref(n);
	return NULL;
}

/* ---- a lane's requests ---- */

static void link_want(struct nbd_link *k)
{
	atomic_store(&k->wanted, true);
	wake(k->nbd->want_fd);
}

static void waiting_put(struct nbd_link *k, struct image_io *io)
{
	io->next = NULL;
	*k->waiting_end = io;
	k->waiting_end = &io->next;
}

static struct image_io *waiting_take(struct nbd_link *k)
{
	struct image_io *io = k->waiting;

	k->waiting = io->next;
	if (!k->waiting)
		k->waiting_end = &k->waiting;
	return io;
}

static void answered(struct nbd_slot *s, int error)
{
	s->sent = false;
	s->error = error;
	s->next = s->link->answered;
	s->link->answered = s;
}

static int on_answer(void *arg, int *error)
{
	struct nbd_slot *s = arg;

	/* No call of the library from here: its end is worked on later. */
	answered(s, *error);
	return 1;
}

static void data_gather(struct nbd_slot *s)
{
	uint8_t *to = s->data;

	for (unsigned i = 0; i < s->io->iovs; to += s->io->iov[i++].iov_len)
		memcpy(to, s->io->iov[i].iov_base, s->io->iov[i].iov_len);
}

static void data_scatter(struct nbd_slot *s)
{
	const uint8_t *from = s->data;

	for (unsigned i = 0; i < s->io->iovs; from += s->io->iov[i++].iov_len)
		memcpy(s->io->iov[i].iov_base, from, s->io->iov[i].iov_len);
}

static int64_t zero_send(struct nbd_link *k, struct nbd_slot *s, nbd_completion_callback done)
{
	struct image_io *io = s->io;
	uint64_t left = io->bytes - io->moved;

	if (io->hint && k->nbd->can_trim)
		return nbd_aio_trim(k->h, io->bytes, io->offset, done, 0);
	if (k->nbd->can_zero)
		return nbd_aio_zero(
			k->h, io->bytes, io->offset, done, io->hole ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
	left = left < BUFFER_BYTES ? left : BUFFER_BYTES;
	memset(s->data, 0, left);
	return nbd_aio_pwrite(k->h, s->data, left, io->offset + io->moved, done, 0);
}

/* False: the connection does not take it. */
static bool request_send(struct nbd_link *k, struct nbd_slot *s)
{
	nbd_completion_callback done = {.callback = on_answer, .user_data = s};
	struct image_io *io = s->io;
	int64_t r = -1;

	switch ((enum image_op)io->op) {
	case IMAGE_READ:
		r = nbd_aio_pread(k->h, s->data, io->bytes, io->offset, done, 0);
		break;
	case IMAGE_WRITE:
		data_gather(s);
		r = nbd_aio_pwrite(k->h, s->data, io->bytes, io->offset, done, 0);
		break;
	case IMAGE_SYNC:
		r = nbd_aio_flush(k->h, done, 0);
		break;
	case IMAGE_ZERO:
		r = zero_send(k, s, done);
		break;
	}
	return r >= 0;
}

/* Ends an io without the server. */
static bool needs_nobody(const struct image_nbd *n, const struct image_io *io)
{
	return (io->op == IMAGE_SYNC && !n->can_flush) ||
	       (io->op == IMAGE_ZERO && io->hint && !n->can_trim);
}

static unsigned requests_start(struct nbd_link *k)
{
	unsigned done = 0;

	while (k->h && k->waiting && k->unused) {
		struct nbd_slot *s = k->unused;

		s->io = waiting_take(k);
		done++;
		if (needs_nobody(k->nbd, s->io)) {
			s->io->done(s->io, 0);
			continue;
		}
		k->unused = s->next;
		k->under_way++;
		s->sent = true;
		/* Refused at once: the connection is broken, or the library says no. */
		if (!request_send(k, s) && s->sent)
			answered(s, nbd_get_errno() ? nbd_get_errno() : EIO);
	}
	return done;
}

/* What the server answered, or never will. */
static unsigned answers_end(struct nbd_link *k)
{
	unsigned done = 0;

	while (k->answered) {
		struct nbd_slot *s = k->answered;
		struct image_io *io = s->io;

		k->answered = s->next;
		k->under_way--;
		done++;
		if (!s->error && io->op == IMAGE_READ)
			data_scatter(s);
		s->next = k->unused;
		k->unused = s;
		if (!s->error && io->op == IMAGE_ZERO && !io->hint && !k->nbd->can_zero) {
			io->moved += BUFFER_BYTES;
			if (io->moved < io->bytes) {
				waiting_put(k, io);
				continue;
			}
		}
		/* Of a connection that broke: once more by the next one. */
		if (s->error && k->dropped)
			waiting_put(k, io);
		else
			io->done(io, s->error ? -s->error : 0);
	}
	return done;
}

static void epoll_set(struct nbd_link *k)
{
	unsigned dir = nbd_aio_get_direction(k->h);
	uint32_t want = (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) |
			(dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0);
	struct epoll_event ev = {.events = want};

	if (want == k->events)
		return;
	if (!epoll_ctl(image_lane_epoll_fd(k->lane), k->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD,
		    nbd_aio_get_fd(k->h), &ev))
		k->events = want;
}

static void link_drop(struct nbd_link *k)
{
	log_warn_limited("image", "%s: the connection broke", k->nbd->uri);
	/* Closing it takes its descriptor out of the epoll, and ends its requests. */
	k->dropped = true;
	nbd_close(k->h);
	k->h = NULL;
	for (unsigned i = 0; i < DEPTH; i++)
		if (k->slot[i].sent)
			answered(&k->slot[i], ENOTCONN);
	answers_end(k);
	k->dropped = false;
	k->events = 0;
	k->down_ns = env_now_ns(&env_system);
	link_want(k);
}

static unsigned link_check(struct nbd_link *k)
{
	struct nbd_handle *h = atomic_exchange(&k->fresh, NULL);
	unsigned done = 0;

	if (h && !k->h) {
		k->h = h;
		k->events = 0;
		return 1;
	}
	if (h)
		nbd_close(h);
	if (k->h || !k->waiting || env_now_ns(&env_system) - k->down_ns < k->nbd->down_timeout_ns)
		return 0;
	log_warn_limited("image", "%s: no connection for %.3g s, requests fail", k->nbd->uri,
		(double)k->nbd->down_timeout_ns / 1e9);
	for (; k->waiting; done++) {
		struct image_io *io = waiting_take(k);

		io->done(io, -EIO);
	}
	return done;
}

static unsigned link_poll(struct image_source *source)
{
	struct nbd_link *k = (struct nbd_link *)source;
	unsigned done = 0;
	uint64_t count;

	if (atomic_load_explicit(&k->told, memory_order_relaxed) &&
		atomic_exchange(&k->told, false) && read(k->wake_fd, &count, sizeof(count)) < 0)
		log_error_limited("image", "an eventfd is empty: %s", strerror(errno));
	if (!k->h || atomic_load_explicit(&k->fresh, memory_order_relaxed))
		done += link_check(k);
	done += requests_start(k);
	for (unsigned i = 0; k->h && i < ROUNDS; i++) {
		unsigned dir = nbd_aio_get_direction(k->h);
		struct pollfd p = {.fd = nbd_aio_get_fd(k->h),
			.events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
					  (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0))};

		if (!k->under_way || poll(&p, 1, 0) <= 0)
			break;
		if (p.revents & POLLOUT)
			nbd_aio_notify_write(k->h);
		else
			nbd_aio_notify_read(k->h);
		done++;
	}
	/* Dead ones are looked at first: the answers of their requests are no answers. */
	if (k->h && (nbd_aio_is_dead(k->h) > 0 || nbd_aio_is_closed(k->h) > 0))
		link_drop(k);
	done += answers_end(k);
	done += requests_start(k);
	if (k->h)
		epoll_set(k);
	return done;
}

static void nbd_attach(struct nbd_link *k, struct image_lane *l)
{
	struct epoll_event ev = {.events = EPOLLIN};

	k->lane = l;
	k->source.poll = link_poll;
	image_lane_source_add(l, &k->source);
	if (epoll_ctl(image_lane_epoll_fd(l), EPOLL_CTL_ADD, k->wake_fd, &ev) < 0)
		log_error("image", "cannot wait for %s: %s", k->nbd->uri, strerror(errno));
	k->down_ns = env_now_ns(&env_system);
	if (!atomic_load(&k->fresh))
		link_want(k);
}

static void nbd_submit(struct image *i, struct image_lane *l, struct image_io *io)
{
	struct nbd_link *k = &nbd_of(i)->link[image_lane_number(l)];

	if (!k->lane)
		nbd_attach(k, l);
	io->moved = 0;
	waiting_put(k, io);
}

static void nbd_detach(struct image *i, struct image_lane *l)
{
	struct nbd_link *k = &nbd_of(i)->link[image_lane_number(l)];

	if (!k->lane)
		return;
	image_lane_source_remove(l, &k->source);
	epoll_ctl(image_lane_epoll_fd(l), EPOLL_CTL_DEL, k->wake_fd, NULL);
	if (k->h)
		nbd_close(k->h);
	k->h = NULL;
	k->lane = NULL;
}

/* ---- life ---- */

static int nbd_identify(const struct image *i, struct image_identity *out)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (const char *p = nbd_of(i)->uri; *p; p++)
		h = (h ^ (uint8_t)*p) * 0x100000001b3ull;
	*out = (struct image_identity){.ino = h, .size_bytes = i->size_bytes};
	return 0;
}

static void nbd_image_close(struct image *i)
{
	struct image_nbd *n = nbd_of(i);

	munmap(n->buffers, buffers_bytes(n));
	atomic_store(&n->stopping, true);
	wake(n->want_fd);
	nbd_unref(n);
}

static const struct image_ops nbd_ops = {.submit = nbd_submit,
	.detach = nbd_detach,
	.identify = nbd_identify,
	.close = nbd_image_close};

static int export_check(const struct image_options *o, struct nbd_handle *h, int64_t bytes,
	char *err, size_t err_bytes)
{
	int64_t block = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (bytes <= 0 || bytes % IMAGE_SECTOR_BYTES)
		snprintf(err, err_bytes, "the size of %.150s, %lld bytes, is no multiple of 512",
			o->where, (long long)bytes);
	else if (block > (int64_t)IMAGE_SECTOR_BYTES)
		snprintf(err, err_bytes, "%.150s takes blocks of %lld bytes, not of 512", o->where,
			(long long)block);
	else if (most > 0 && most < (int64_t)BUFFER_BYTES)
		snprintf(err, err_bytes, "%.150s takes no more than %lld bytes at a time", o->where,
			(long long)most);
	else if (!o->readonly && nbd_is_read_only(h) > 0)
		snprintf(err, err_bytes, "%.150s can only be read: set readonly", o->where);
	else
		return 0;
	return -EINVAL;
}

static int links_init(struct image_nbd *n)
{
	n->want_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool ok = n->want_fd >= 0;

	for (unsigned i = 0; i < n->lanes; i++) {
		struct nbd_link *k = &n->link[i];

		k->nbd = n;
		k->waiting_end = &k->waiting;
		k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		ok = ok && k->wake_fd >= 0;
		for (unsigned s = 0; s < DEPTH; s++) {
			k->slot[s].link = k;
			k->slot[s].data = n->buffers + ((size_t)i * DEPTH + s) * BUFFER_BYTES;
			k->slot[s].next = k->unused;
			k->unused = &k->slot[s];
		}
	}
	return ok ? 0 : -EMFILE;
}

static int connector_start(struct image_nbd *n)
{
	pthread_attr_t attr;
	pthread_t thread;

	int r = pthread_attr_init(&attr);
	if (r)
		return -r;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	atomic_store(&n->refs, 2);
	r = pthread_create(&thread, &attr, connector_main, n);
	pthread_attr_destroy(&attr);
	if (r)
		atomic_store(&n->refs, 1);
	return -r;
}

static int image_make(const struct image_options *o, struct nbd_handle *h, struct image_nbd **out)
{
	struct image_nbd *n = calloc(1, sizeof(*n) + o->lanes * sizeof(struct nbd_link));

	if (!n)
		return -ENOMEM;
	n->lanes = o->lanes;
	n->down_timeout_ns = o->down_timeout_ns;
	n->refs = 1;
	n->head = (struct image){.ops = &nbd_ops,
		.size_bytes = (uint64_t)nbd_get_size(h),
		.readonly = o->readonly,
		.one_lane = nbd_can_multi_conn(h) > 0 ? -1 : 0,
		.notes = ""};
	n->can_flush = nbd_can_flush(h) > 0;
	n->can_trim = nbd_can_trim(h) > 0;
	n->can_zero = nbd_can_zero(h) > 0;
	if (!o->readonly && !n->can_flush)
		n->head.notes = "the server has no flush: what is written is as durable as it "
				"makes it";
	snprintf(n->uri, sizeof(n->uri), "%s", o->where);
	n->buffers = mmap(NULL, buffers_bytes(n), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r = n->buffers == MAP_FAILED ? -ENOMEM : links_init(n);
	if (!r)
		r = connector_start(n);
	if (!r) {
		atomic_store(&n->link[0].fresh, h);
		*out = n;
		return 0;
	}
	if (n->buffers != MAP_FAILED)
		munmap(n->buffers, buffers_bytes(n));
	nbd_unref(n);
	return r;
}

int image_nbd_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes)
{
	char why[256];
	struct image_nbd *n = NULL;
	struct nbd_handle *h =
		link_up(o->where, env_now_ns(&env_system) + OPEN_LIMIT_NS, NULL, why, sizeof(why));

	if (!h) {
		snprintf(err, err_bytes, "cannot connect to %.100s: %.140s", o->where, why);
		return -ECONNREFUSED;
	}
	int r = export_check(o, h, nbd_get_size(h), err, err_bytes);
	if (!r) {
		r = image_make(o, h, &n);
		if (r < 0)
			snprintf(err, err_bytes, "cannot use %.180s: %s", o->where, strerror(-r));
	}
	if (r < 0) {
		nbd_close(h);
		return r;
	}
	*out = &n->head;
	return 0;
}
