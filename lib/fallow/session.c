/* The connection to the backend: hello, control frames, noticing its end, connecting again. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

#include "lib/fallow/client.h"

#define SPIN_ROUNDS	200u
#define POLL_MAX_US	1000000u
#define QUIET_WAIT_MS	5000u
#define GOODBYE_WAIT_MS 1000u

/* What a hello brings. */
struct link {
	int fd;
	void *base;
	size_t len_bytes;
	int doorbell[SOCKET_MAX_LANES];
	struct socket_hello_ack ack;
};

uint64_t client_now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

bool client_alive(const struct fallow *f, uint32_t state)
{
	return (state & 1) && client_state(f) == state;
}

void client_kill(struct fallow *f, uint32_t state)
{
	if ((state & 1) && atomic_compare_exchange_strong(&f->state, &state, state & ~1u))
		shutdown(f->fd, SHUT_RDWR);
}

bool client_check(struct fallow *f, uint32_t state)
{
	struct pollfd p = {.fd = f->fd, .events = POLLRDHUP};
	if (!client_alive(f, state))
		return false;
	if (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)))
		client_kill(f, state);
	return client_alive(f, state);
}

/* Frames */

static int fd_wait(int fd, short events, uint64_t until_ms)
{
	for (;;) {
		uint64_t now = client_now_ms();
		struct pollfd p = {.fd = fd, .events = events};
		if (now >= until_ms)
			return -ETIMEDOUT;
		int n = poll(&p, 1, (int)(until_ms - now));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int bytes_send(int fd, const void *buf, size_t len, uint64_t until_ms)
{
	const char *at = buf;
	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0) {
			int err = fd_wait(fd, POLLOUT, until_ms);
			if (err)
				return err;
			continue;
		}
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static void fds_close(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

/* Receives exactly len bytes, and the descriptors that come with them (fds may be NULL). */
static int bytes_receive(int fd, void *buf, size_t len, int *fds, unsigned *nfds, uint64_t until_ms)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * (1 + SOCKET_MAX_LANES))];
	} control;
	char *at = buf;
	while (len) {
		struct iovec iov = {.iov_base = at, .iov_len = len};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		if (fds && *nfds == 0) {
			msg.msg_control = &control;
			msg.msg_controllen = sizeof(control);
		}
		ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0) {
			int err = fd_wait(fd, POLLIN, until_ms);
			if (err)
				return err;
			continue;
		}
		struct cmsghdr *c = msg.msg_controllen ? CMSG_FIRSTHDR(&msg) : NULL;
		if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			*nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), *nfds * sizeof(int));
		}
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int ask_until(
	struct fallow *f, int fd, void *question, struct socket_answer *answer, uint64_t until_ms)
{
	struct socket_frame_header *h = question;
	h->sequence = ++f->sequence;
	int err = bytes_send(fd, question, h->len_bytes, until_ms);
	if (!err)
		err = bytes_receive(fd, answer, sizeof(*answer), NULL, NULL, until_ms);
	if (!err && (answer->h.type != SOCKET_ANSWER || answer->h.len_bytes != sizeof(*answer) ||
			    answer->h.sequence != h->sequence))
		err = -EPROTO;
	return err ? -ESHUTDOWN : answer->h.status;
}

int client_ask(struct fallow *f, int fd, void *question, struct socket_answer *answer)
{
	return ask_until(f, fd, question, answer, client_now_ms() + CLIENT_CONNECT_TIMEOUT_MS);
}

/* Connecting */

static int socket_open(const char *path, uint64_t until_ms)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int err = -errno;
		struct timespec pause = {.tv_nsec = 5000000};
		if (err == -EAGAIN && client_now_ms() >= until_ms)
			err = -ETIMEDOUT;
		if (err != -EAGAIN && err != -EINTR) {
			close(fd);
			return err;
		}
		nanosleep(&pause, NULL); /* the backend's queue of connections is full */
	}
	return fd;
}

static bool ack_ok(const struct socket_hello_ack *a, unsigned nfds)
{
	return a->magic == SOCKET_MAGIC && a->version == SOCKET_VERSION && a->lanes >= 1 &&
	       a->lanes <= SOCKET_MAX_LANES && a->slots >= 1 && a->slots <= SOCKET_MAX_SLOTS &&
	       a->lane_bytes >= socket_lane_bytes(a->slots) && a->lane_bytes <= 1u << 24 &&
	       a->request_timeout_ms >= 1 && nfds == 1 + a->lanes;
}

static int link_map(struct link *k, int memfd)
{
	struct stat st;
	k->len_bytes = (size_t)k->ack.lanes * k->ack.lane_bytes;
	if (fstat(memfd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size < k->len_bytes)
		return -EPROTO;
	k->base = mmap(
		NULL, k->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memfd, 0);
	return k->base == MAP_FAILED ? -errno : 0;
}

static int link_hello(struct fallow *f, struct link *k, int *fds, unsigned *nfds, uint64_t until_ms)
{
	struct socket_hello hello = {
		.h = {.len_bytes = sizeof(hello), .type = SOCKET_HELLO, .sequence = ++f->sequence},
		.magic = SOCKET_MAGIC,
		.version_min = SOCKET_VERSION,
		.version_max = SOCKET_VERSION,
	};
	memcpy(hello.token, f->token, sizeof(hello.token));
	snprintf(hello.name, sizeof(hello.name), "%s", program_invocation_short_name);
	for (char *c = hello.name; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	/* A backend that refuses says why and closes without reading: what it said counts. */
	bytes_send(k->fd, &hello, sizeof(hello), until_ms);
	int err = bytes_receive(k->fd, &k->ack, sizeof(k->ack), fds, nfds, until_ms);
	if (!err && (k->ack.h.type != SOCKET_HELLO_ACK || k->ack.h.len_bytes != sizeof(k->ack)))
		err = -EPROTO;
	if (!err && k->ack.h.status)
		err = k->ack.h.status < 0 ? k->ack.h.status : -EPROTO;
	if (!err && !ack_ok(&k->ack, *nfds))
		err = -EPROTO;
	return err;
}

static int link_open(struct fallow *f, struct link *k)
{
	uint64_t until_ms = client_now_ms() + CLIENT_CONNECT_TIMEOUT_MS;
	int fds[1 + SOCKET_MAX_LANES];
	unsigned nfds = 0;
	memset(k, 0, sizeof(*k));
	k->fd = socket_open(f->path, until_ms);
	if (k->fd < 0)
		return k->fd;
	int err = link_hello(f, k, fds, &nfds, until_ms);
	if (!err)
		err = link_map(k, fds[0]);
	if (err) {
		fds_close(fds, nfds);
		close(k->fd);
		return err;
	}
	close(fds[0]);
	memcpy(k->doorbell, fds + 1, k->ack.lanes * sizeof(int));
	return 0;
}

/* Puts a new session in place of none or of a closed one; the lanes stay closed. */
static int link_install(struct fallow *f, struct link *k)
{
	if (f->fd < 0) {
		f->fd = k->fd;
	} else {
		if (dup3(k->fd, f->fd, O_CLOEXEC) < 0) {
			int err = -errno;
			fds_close(k->doorbell, k->ack.lanes);
			munmap(k->base, k->len_bytes);
			close(k->fd);
			return err;
		}
		close(k->fd);
		for (unsigned i = 0; i < f->lanes; i++)
			close(f->lane[i].doorbell_fd);
		munmap(f->base, f->len_bytes);
	}
	f->base = k->base;
	f->len_bytes = k->len_bytes;
	f->lanes = k->ack.lanes;
	f->slots = k->ack.slots;
	f->request_timeout_ms = k->ack.request_timeout_ms;
	memcpy(f->token, k->ack.token, sizeof(f->token));
	for (unsigned i = 0; i < k->ack.lanes; i++) {
		f->lane[i].memory =
			(struct socket_lane_memory *)((char *)k->base + i * k->ack.lane_bytes);
		f->lane[i].doorbell_fd = k->doorbell[i];
		f->lane[i].tail = 0;
	}
	return 0;
}

static uint64_t slots_mask(unsigned slots)
{
	return slots == 64 ? UINT64_MAX : (1ull << slots) - 1;
}

/* The session is complete: requests may come. */
static void lanes_open(struct fallow *f)
{
	for (unsigned i = 0; i < f->lanes; i++)
		atomic_store(&f->lane[i].free, slots_mask(f->slots));
	f->closed = false;
	atomic_store(&f->state, (f->state | 1) + 2);
}

/* Takes every slot out of use, once no thread holds one. */
static int lanes_close(struct fallow *f)
{
	uint64_t until_ms = client_now_ms() + QUIET_WAIT_MS;
	uint64_t all = slots_mask(f->slots);
	for (unsigned i = 0; i < f->lanes && !f->closed; i++) {
		uint64_t expect = all;
		while (!atomic_compare_exchange_strong(&f->lane[i].free, &expect, 0)) {
			struct timespec pause = {.tv_nsec = 1000000};
			expect = all;
			if (client_now_ms() >= until_ms) {
				/* Undo, so that the next attempt finds all of them alike. */
				while (i-- > 0)
					atomic_store(&f->lane[i].free, all);
				return -EBUSY;
			}
			nanosleep(&pause, NULL);
		}
	}
	f->closed = true;
	return 0;
}

int fallow_connect(const char *socket_path, struct fallow **out)
{
	const char *path = socket_path ? socket_path : SOCKET_DEFAULT_PATH;
	struct link k;
	if (!out || !path[0])
		return -EINVAL;
	if (strlen(path) >= sizeof(((struct fallow *)0)->path))
		return -ENAMETOOLONG;
	struct fallow *f = aligned_alloc(64, sizeof(*f));
	if (!f)
		return -ENOMEM;
	memset(f, 0, sizeof(*f));
	f->fd = -1;
	f->closed = true;
	f->spin = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_ROUNDS : 0;
	strcpy(f->path, path);
	pthread_mutex_init(&f->control_lock, NULL);
	int err = link_open(f, &k);
	if (!err)
		err = link_install(f, &k);
	if (err) {
		pthread_mutex_destroy(&f->control_lock);
		free(f);
		return err;
	}
	lanes_open(f);
	*out = f;
	return 0;
}

int fallow_poll_set(struct fallow *f, uint32_t poll_us)
{
	if (!f || poll_us > POLL_MAX_US)
		return -EINVAL;
	atomic_store_explicit(&f->poll_us, poll_us, memory_order_relaxed);
	return 0;
}

void fallow_disconnect(struct fallow *f)
{
	if (!f)
		return;
	while (f->queues)
		fallow_queue_delete(f->queues);
	if (client_state(f) & 1) {
		struct socket_plain bye = {.h = {.len_bytes = sizeof(bye), .type = SOCKET_BYE}};
		struct socket_answer a;
		ask_until(f, f->fd, &bye, &a, client_now_ms() + GOODBYE_WAIT_MS);
	}
	while (f->pools) {
		struct fallow_pool *p = f->pools;
		f->pools = p->next;
		free(p);
	}
	for (unsigned i = 0; i < f->lanes; i++)
		close(f->lane[i].doorbell_fd);
	munmap(f->base, f->len_bytes);
	close(f->fd);
	pthread_mutex_destroy(&f->control_lock);
	free(f);
}

/* Opens all pools, or those that could not be opened before. -ESHUTDOWN, or the first pool's error.
 */
static int pools_reopen(struct fallow *f, bool all)
{
	int result = 0;
	for (struct fallow_pool *p = f->pools; p; p = p->next) {
		struct socket_pool_open q = p->open;
		struct socket_answer a;
		if (!all && p->id)
			continue;
		q.id = q.name[0] || (q.flags & SOCKET_POOL_SHARED) ? 0 : p->id;
		int err = client_ask(f, f->fd, &q, &a);
		if (err == -ESHUTDOWN)
			return err;
		if (err && !result)
			result = err;
		if (!err && p->id != (uint32_t)a.value)
			f->pages_lost = true;
		p->id = err ? 0 : (uint32_t)a.value;
	}
	return result;
}

static int reconnect_locked(struct fallow *f)
{
	struct link k;
	bool alive = client_check(f, client_state(f));
	if (!alive) {
		int err = client_queues_busy(f) ? -EBUSY : lanes_close(f);
		if (!err)
			err = link_open(f, &k);
		if (!err)
			err = link_install(f, &k);
		if (err)
			return err;
	}
	int err = pools_reopen(f, !alive);
	if (err == -ESHUTDOWN)
		return err;
	if (!alive)
		lanes_open(f);
	if (!err && f->pages_lost) {
		f->pages_lost = false;
		err = -ENODATA;
	}
	return err;
}

int fallow_reconnect(struct fallow *f)
{
	if (!f)
		return -EINVAL;
	pthread_mutex_lock(&f->control_lock);
	int err = reconnect_locked(f);
	pthread_mutex_unlock(&f->control_lock);
	return err;
}
