/* Nobody serves a state_dir while the process before still lives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client-backend/predecessor.h"
#include "client-backend/state_file.h"

#define LIMIT_MS 60000u

static char dir[] = "/tmp/fallow-predecessor.XXXXXX";

static int setup(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static void nobody(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/process", dir);
	unlink(path);
}

static int teardown(void **state)
{
	nobody();
	return rmdir(dir);
}

static int take(unsigned limit_ms)
{
	char err[300] = "";
	int r = predecessor_wait(dir, limit_ms, err, sizeof(err));

	assert_int_equal(r < 0, err[0] != 0);
	return r;
}

/* A process that serves dir until it is killed. */
static pid_t server_start(void)
{
	int fd[2];
	char ok = 0;

	nobody();
	assert_int_equal(pipe(fd), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		char err[300];

		ok = predecessor_wait(dir, LIMIT_MS, err, sizeof(err)) == 0;
		if (write(fd[1], &ok, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fd[0], &ok, 1), 1);
	assert_true(ok);
	close(fd[0]);
	close(fd[1]);
	return pid;
}

static void test_first(void **state)
{
	assert_int_equal(take(0), 0);
	assert_int_equal(take(0), 0); /* this process itself is no hindrance */
}

static void test_alive(void **state)
{
	pid_t pid = server_start();

	assert_int_equal(take(1), -EBUSY);
	kill(pid, SIGKILL);
	assert_int_equal(take(LIMIT_MS), 0); /* nobody has waited for it: it is gone all the same */
	waitpid(pid, NULL, 0);
	assert_int_equal(take(0), 0);
}

static void test_another_of_that_number(void **state)
{
	char text[64];
	pid_t pid = server_start();

	snprintf(text, sizeof(text), "%d 1\n", pid);
	assert_int_equal(state_file_replace(dir, "process", text), 0);
	assert_int_equal(take(0), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_garbage(void **state)
{
	const char *const texts[] = {"", "x\n", "1\n", "-5 1\n", "0 1\n", "1 2 3\n", "1 2"};

	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(state_file_replace(dir, "process", texts[i]), 0);
		assert_int_equal(take(0), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first),
		cmocka_unit_test(test_alive),
		cmocka_unit_test(test_another_of_that_number),
		cmocka_unit_test(test_garbage),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
