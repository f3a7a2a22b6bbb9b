/* A listening socket of a front end, unix or TCP: opened, accepted from, closed. */
#include "client-backend/frontend/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/core/log.h"
#include "lib/core/unix_socket.h"

#define ACCEPT_PAUSE_MS 100 /* after accept() failed for want of descriptors */
#define BACKLOG		64

/* ---- opening ---- */

static int unix_open(const char *path, mode_t mode)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (!path[0] || strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path));
	int err = unix_socket_stale_remove(&sa);
	if (err)
		return err;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Nobody can connect between bind and chmod: it does not listen yet. */
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	if (chmod(path, mode) < 0 || listen(fd, BACKLOG) < 0) {
		err = -errno;
		unlink(path);
		close(fd);
		return err;
	}
	return fd;
}

static int address_parse(const char *where, struct sockaddr_storage *sa, socklen_t *len)
{
	struct sockaddr_in *in = (struct sockaddr_in *)(void *)sa;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)sa;
	const char *colon = strrchr(where, ':');
	char host[INET6_ADDRSTRLEN], *end;

	memset(sa, 0, sizeof(*sa));
	if (!colon || colon[1] < '0' || colon[1] > '9')
		return -EINVAL;
	unsigned long port = strtoul(colon + 1, &end, 10);
	bool six = where[0] == '[' && colon > where + 1 && colon[-1] == ']';
	int n = (int)(colon - where) - (six ? 2 : 0);
	if (*end || port > 65535 || n >= (int)sizeof(host))
		return -EINVAL;
	snprintf(host, sizeof(host), "%.*s", n, where + six);
	if (six) {
		*len = sizeof(*in6);
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1 ? 0 : -EINVAL;
	}
	*len = sizeof(*in);
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)port);
	return inet_pton(AF_INET, host, &in->sin_addr) == 1 ? 0 : -EINVAL;
}

static int tcp_open(const char *where)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int one = 1;

	if (address_parse(where, &sa, &len) < 0)
		return -EINVAL;
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, BACKLOG) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

const char *listener_error(int status)
{
	return status == -EADDRINUSE ? "another process answers there"
	       : status == -EEXIST   ? "there is a file that is no socket"
				     : strerror(-status);
}

/* ---- accepting ---- */

static void on_ready(evutil_socket_t listen_fd, short what, void *arg)
{
	struct listener *l = arg;

	if (l->may_accept && !l->may_accept(l)) {
		event_del(l->event);
		return;
	}
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		l->accepted(l, fd);
		return;
	}
	if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
		return;
	stat_add(l->errors, 1);
	log_warn_limited(l->area, "cannot accept a connection: %s", strerror(errno));
	event_del(l->event);
	event_add(l->again_event, &(struct timeval){.tv_usec = ACCEPT_PAUSE_MS * 1000});
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
	listener_resume(arg);
}

void listener_resume(struct listener *l)
{
	if (l->event)
		event_add(l->event, NULL);
}

/* ---- life ---- */

static int listener_start(struct listener *l, int fd, const char *path)
{
	if (fd < 0)
		return fd;
	l->listening = true;
	l->fd = fd;
	snprintf(l->path, sizeof(l->path), "%s", path);
	l->event = event_new(l->base, fd, EV_READ | EV_PERSIST, on_ready, l);
	l->again_event = evtimer_new(l->base, on_again, l);
	if (l->event && l->again_event && !event_add(l->event, NULL))
		return 0;
	listener_close(l);
	return -ENOMEM;
}

int listener_unix_start(struct listener *l, const char *path, mode_t mode)
{
	return listener_start(l, unix_open(path, mode), path);
}

int listener_tcp_start(struct listener *l, const char *address)
{
	return listener_start(l, tcp_open(address), "");
}

void listener_close(struct listener *l)
{
	if (!l->listening)
		return;
	if (l->event)
		event_free(l->event);
	if (l->again_event)
		event_free(l->again_event);
	if (l->path[0])
		unlink(l->path);
	close(l->fd);
	l->event = l->again_event = NULL;
	l->listening = false;
}

uint16_t listener_port(const struct listener *l)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	if (!l->listening || l->path[0] || getsockname(l->fd, (struct sockaddr *)&sa, &len) < 0)
		return 0;
	return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&sa)->sin6_port
					      : ((struct sockaddr_in *)(void *)&sa)->sin_port);
}
