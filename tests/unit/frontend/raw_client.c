/* A client that speaks the socket protocol by hand, so that it can break it. */
#include "tests/unit/frontend/raw_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int raw_connect(struct raw_client *c, const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	memset(c, 0, sizeof(*c));
	strncpy(sa.sun_path, path, sizeof(sa.sun_path) - 1);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
}

void raw_send(struct raw_client *c, const void *buf, size_t len)
{
	ssize_t n = send(c->fd, buf, len, MSG_NOSIGNAL);
	(void)n;
}

static int receive(struct raw_client *c, void *buf, size_t len)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * (1 + SOCKET_MAX_LANES))];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	if (recvmsg(c->fd, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC) != (ssize_t)len)
		return -ECONNRESET;
	struct cmsghdr *h = msg.msg_controllen ? CMSG_FIRSTHDR(&msg) : NULL;
	if (h) {
		c->nfds = (unsigned)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(c->fds, CMSG_DATA(h), c->nfds * sizeof(int));
	}
	return 0;
}

int raw_hello(struct raw_client *c)
{
	struct socket_hello hello = {.h = {.len_bytes = sizeof(hello), .type = SOCKET_HELLO},
		.magic = SOCKET_MAGIC,
		.version_min = 1,
		.version_max = 1,
		.name = "raw"};
	raw_send(c, &hello, sizeof(hello));
	int err = receive(c, &c->ack, sizeof(c->ack));
	if (err || c->ack.h.status)
		return err ? err : c->ack.h.status;
	c->base = mmap(NULL, c->ack.lanes * c->ack.lane_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		c->fds[0], 0);
	return c->base == MAP_FAILED ? -errno : 0;
}

int raw_answer(struct raw_client *c, struct socket_answer *a)
{
	int err = receive(c, a, sizeof(*a));
	return err ? err : a->h.status;
}

bool raw_closed(struct raw_client *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
	return poll(&p, 1, 20000) > 0;
}

struct socket_lane_memory *raw_lane(struct raw_client *c, unsigned lane)
{
	return (struct socket_lane_memory *)((char *)c->base + lane * c->ack.lane_bytes);
}

void raw_ring(struct raw_client *c, unsigned lane)
{
	uint64_t one = 1;
	ssize_t n = write(c->fds[1 + lane], &one, sizeof(one));
	(void)n;
}

void raw_push(struct raw_client *c, unsigned lane, uint32_t slot)
{
	uint32_t at = c->tail[lane]++;
	atomic_store(
		&raw_lane(c, lane)->ring[at % SOCKET_MAX_SLOTS], (uint64_t)(at + 1) << 32 | slot);
	raw_ring(c, lane);
}

int raw_wait(struct raw_client *c, unsigned lane, uint32_t slot)
{
	struct socket_slot *s = &raw_lane(c, lane)->slot[slot];
	for (unsigned i = 0; i < 20000; i++) {
		struct timespec ts = {.tv_nsec = 1000000};
		if (atomic_load(&s->state) == SOCKET_SLOT_DONE)
			return s->status;
		nanosleep(&ts, NULL);
	}
	return -ETIMEDOUT;
}

void raw_close(struct raw_client *c)
{
	if (c->base)
		munmap(c->base, c->ack.lanes * c->ack.lane_bytes);
	for (unsigned i = 0; i < c->nfds; i++)
		close(c->fds[i]);
	close(c->fd);
}
