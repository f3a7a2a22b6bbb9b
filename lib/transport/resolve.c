/* Turning a host name into addresses without blocking the caller. */
#include "lib/transport/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* result and error: the thread's until done is set. Freed by the last of the two that let go. */
struct resolve {
	_Atomic int refs;
	atomic_bool done;
	int fd;
	int error;
	struct resolve_result result;
	char host[256], service[8];
};

static int lookup(struct resolve *r, int flags)
{
	struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
	if (getaddrinfo(r->host, r->service, &hints, &list))
		return -EHOSTUNREACH;
	r->result.count = 0;
	for (struct addrinfo *ai = list; ai && r->result.count < RESOLVE_MAX; ai = ai->ai_next) {
		if (ai->ai_addrlen > sizeof r->result.addr[0])
			continue;
		memcpy(&r->result.addr[r->result.count], ai->ai_addr, ai->ai_addrlen);
		r->result.len[r->result.count++] = ai->ai_addrlen;
	}
	freeaddrinfo(list);
	return r->result.count ? 0 : -EHOSTUNREACH;
}

static void let_go(struct resolve *r)
{
	if (atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	close(r->fd);
	free(r);
}

static void finish(struct resolve *r, int error)
{
	uint64_t one = 1;
	r->error = error;
	atomic_store(&r->done, true);
	while (write(r->fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static void *lookup_main(void *arg)
{
	struct resolve *r = arg;
	finish(r, lookup(r, AI_NUMERICSERV | AI_ADDRCONFIG));
	let_go(r);
	return NULL;
}

static int lookup_start(struct resolve *r)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256u << 10);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	atomic_fetch_add(&r->refs, 1);
	int err = pthread_create(&thread, &attr, lookup_main, r);
	if (err)
		atomic_fetch_sub(&r->refs, 1);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

int resolve_start(const char *host, uint16_t port, struct resolve **out)
{
	size_t n = strnlen(host, sizeof((struct resolve *)0)->host);
	if (n == 0 || n == sizeof((struct resolve *)0)->host || !port)
		return -EINVAL;
	struct resolve *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	memcpy(r->host, host, n);
	snprintf(r->service, sizeof r->service, "%u", port);
	atomic_init(&r->refs, 1);
	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int err = r->fd < 0 ? -errno : 0;
	if (!err && !lookup(r, AI_NUMERICHOST | AI_NUMERICSERV))
		finish(r, 0);
	else if (!err)
		err = lookup_start(r);
	if (err) {
		if (r->fd >= 0)
			close(r->fd);
		free(r);
		return err;
	}
	*out = r;
	return 0;
}

int resolve_fd(const struct resolve *r)
{
	return r->fd;
}

int resolve_progress(struct resolve *r, struct resolve_result *out)
{
	if (!atomic_load(&r->done))
		return -EINPROGRESS;
	if (!r->error)
		*out = r->result;
	return r->error;
}

void resolve_end(struct resolve *r)
{
	if (r)
		let_go(r);
}
