/* Tests of a listening socket: whose place it takes, when it rests, and what it leaves behind. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "client-backend/frontend/listener.h"
#include "lib/core/log.h"

#define LONG_MS 20000u

struct world {
	char dir[64], path[100];
	struct event_base *base;
	struct listener listener;
	stat_t errors;
	unsigned accepted, asked;
	bool closed; /* may_accept() says no */
};

static void on_accepted(struct listener *l, int fd)
{
	struct world *w = l->ctx;

	w->accepted++;
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
}

static bool may_accept(struct listener *l)
{
	struct world *w = l->ctx;

	w->asked++;
	return !w->closed;
}

static struct listener fresh(struct world *w)
{
	return (struct listener){.base = w->base,
		.area = "test",
		.accepted = on_accepted,
		.may_accept = may_accept,
		.ctx = w,
		.errors = &w->errors};
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	strcpy(w->dir, "/tmp/fallow-listener-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->path, sizeof(w->path), "%s/sock", w->dir);
	w->base = event_base_new();
	w->listener = fresh(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	listener_close(&w->listener);
	listener_close(&w->listener); /* nothing more */
	assert_int_equal(rmdir(w->dir), 0);
	event_base_free(w->base);
	free(w);
	return 0;
}

static int dial(const struct world *w)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(sa.sun_path, w->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* Until *what is n. */
static void wait_for(struct world *w, const unsigned *what, unsigned n)
{
	for (unsigned i = 0; i < LONG_MS && *what < n; i++) {
		event_base_loop(w->base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	assert_int_equal(*what, n);
}

static void takes_the_place_of_the_dead(void **state)
{
	struct world *w = *state;
	struct listener other = fresh(w);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	int dead = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(sa.sun_path, w->path);
	assert_int_equal(bind(dead, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(dead);
	assert_int_equal(listener_unix_start(&w->listener, w->path, 0620), 0);
	assert_int_equal(lstat(w->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0620);
	assert_int_equal(listener_port(&w->listener), 0);
	/* Not of the living, and the living one's file stays. */
	assert_int_equal(listener_unix_start(&other, w->path, 0600), -EADDRINUSE);
	listener_close(&other);
	assert_int_equal(access(w->path, F_OK), 0);
	listener_close(&w->listener);
	assert_int_equal(access(w->path, F_OK), -1);
}

static void spares_what_is_no_socket(void **state)
{
	struct world *w = *state;
	char path[200];
	int fd = open(w->path, O_CREAT | O_WRONLY, 0600);

	close(fd);
	assert_int_equal(listener_unix_start(&w->listener, w->path, 0600), -EEXIST);
	listener_close(&w->listener);
	assert_int_equal(unlink(w->path), 0);
	memset(path, 'x', sizeof(path));
	path[108] = 0;
	assert_int_equal(listener_unix_start(&w->listener, path, 0600), -ENAMETOOLONG);
	assert_int_equal(listener_unix_start(&w->listener, "", 0600), -ENAMETOOLONG);
}

/* Nobody is accepted until it is told to go on. */
static void rests_while_its_owner_wants(void **state)
{
	struct world *w = *state;

	assert_int_equal(listener_unix_start(&w->listener, w->path, 0600), 0);
	w->closed = true;
	int fd = dial(w);
	wait_for(w, &w->asked, 1);
	assert_false(event_pending(w->listener.event, EV_READ, NULL));
	assert_false(event_pending(w->listener.again_event, EV_TIMEOUT, NULL));
	assert_int_equal(w->accepted, 0);
	w->closed = false;
	listener_resume(&w->listener);
	wait_for(w, &w->accepted, 1);
	close(fd);
}

/* It does not spin, and goes on by itself. */
static void rests_for_want_of_descriptors(void **state)
{
	struct world *w = *state;
	struct rlimit was, none;

	assert_int_equal(listener_unix_start(&w->listener, w->path, 0600), 0);
	int fd = dial(w);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = was;
	none.rlim_cur = (rlim_t)fd;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	wait_for(w, &w->asked, 1);
	assert_int_equal(stat_get(&w->errors), 1);
	assert_false(event_pending(w->listener.event, EV_READ, NULL));
	assert_true(event_pending(w->listener.again_event, EV_TIMEOUT, NULL));
	assert_int_equal(w->accepted, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	wait_for(w, &w->accepted, 1);
	close(fd);
}

static void listens_on_numeric_addresses(void **state)
{
	static const char *const wrong[] = {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
		"127.0.0.1:1x", "127.0.0.1:-1", "::1:0", "[127.0.0.1]:0", "[::1:0", "localhost:0",
		"[]:0", ":0"};
	struct world *w = *state;

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(listener_tcp_start(&w->listener, wrong[i]), -EINVAL);
	assert_int_equal(listener_tcp_start(&w->listener, "127.0.0.1:0"), 0);
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons(listener_port(&w->listener)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_not_equal(in.sin_port, 0);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	wait_for(w, &w->accepted, 1);
	close(fd);
	listener_close(&w->listener);
	assert_int_equal(listener_port(&w->listener), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(takes_the_place_of_the_dead, setup, teardown),
		cmocka_unit_test_setup_teardown(spares_what_is_no_socket, setup, teardown),
		cmocka_unit_test_setup_teardown(rests_while_its_owner_wants, setup, teardown),
		cmocka_unit_test_setup_teardown(rests_for_want_of_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(listens_on_numeric_addresses, setup, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
