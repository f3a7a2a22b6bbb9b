/* Tests of guest memory tables: what is refused, look-ups, and files cut short under us. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vhost/guest.h"

static int setup(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	guest_init(g);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_fini(*state);
	free(*state);
	return 0;
}

static void lookups(void **state)
{
	struct guest *g = *state;
	struct vhost_memory *m = guest_memory(g);
	uint64_t len = 100, gpa;

	memset(g->base + GUEST_SPLIT - 10, 0x5a, 20);
	uint8_t *p = vhost_memory_guest(m, guest_gpa(GUEST_SPLIT - 10), &len);
	assert_non_null(p);
	assert_int_equal(len, 10); /* cut at the border */
	assert_int_equal(p[9], 0x5a);
	assert_true(vhost_memory_guest_addr(m, p + 3, &gpa));
	assert_int_equal(gpa, guest_gpa(GUEST_SPLIT - 7));
	len = 100;
	p = vhost_memory_guest(m, guest_gpa(GUEST_SPLIT), &len);
	assert_non_null(p);
	assert_int_equal(len, 100);
	assert_int_equal(p[9], 0x5a);
	len = 1;
	assert_null(vhost_memory_guest(m, GUEST_GPA - 1, &len));
	assert_null(vhost_memory_guest(m, guest_gpa(GUEST_BYTES), &len));
	assert_null(vhost_memory_guest(m, UINT64_MAX, &len));
	assert_null(vhost_memory_guest(m, 0, &len));
	len = 100;
	assert_non_null(vhost_memory_guest(m, guest_gpa(GUEST_BYTES - 1), &len));
	assert_int_equal(len, 1);
	assert_non_null(vhost_memory_user(m, guest_uva(0), GUEST_SPLIT));
	assert_null(vhost_memory_user(m, guest_uva(0), GUEST_SPLIT + 1));
	assert_null(vhost_memory_user(m, guest_uva(GUEST_SPLIT - 1), UINT64_MAX));
	assert_null(vhost_memory_user(m, guest_uva(0) - 1, 1));
	assert_null(vhost_memory_user(m, guest_uva(GUEST_BYTES), 1));
	uint8_t own;
	assert_false(vhost_memory_guest_addr(m, &own, &gpa));
	vhost_memory_delete(m);
}

static void bad_regions(void **state)
{
	struct guest *g = *state;
	const struct vhost_wire_region good = guest_region(0);
	struct vhost_memory *m, *other;
	struct vhost_wire_region r;

#define REFUSED(err, ...)                                                                          \
	do {                                                                                       \
		r = good;                                                                          \
		__VA_ARGS__;                                                                       \
		assert_int_equal(vhost_memory_add(NULL, &r, g->fd, &m), err);                      \
	} while (0)
	REFUSED(-EINVAL, r.size_bytes = 0);
	REFUSED(-EINVAL, r.size_bytes = 4095);
	REFUSED(-EINVAL, r.size_bytes = UINT64_MAX - 4095);
	REFUSED(-EINVAL, r.size_bytes = GUEST_BYTES + 4096); /* the file is shorter */
	REFUSED(-EINVAL, r.mmap_offset = GUEST_BYTES);
	REFUSED(-EINVAL, r.mmap_offset = 1);
	REFUSED(-EINVAL, r.mmap_offset = UINT64_MAX - 4095);
	REFUSED(-EINVAL, r.mmap_offset = (uint64_t)INT64_MAX + 1 - GUEST_SPLIT);
	REFUSED(-EINVAL, r.guest_addr++);
	REFUSED(-EINVAL, r.user_addr++);
	REFUSED(-EINVAL, r.guest_addr = UINT64_MAX - 4095);
	REFUSED(-EINVAL, r.user_addr = UINT64_MAX - 4095);

	assert_int_equal(vhost_memory_add(NULL, &good, g->fd, &m), 0);
	for (int which = 0; which < 2; which++) {
		r = guest_region(1); /* overlaps in one kind of address only */
		if (which)
			r.guest_addr -= 4096;
		else
			r.user_addr -= 4096;
		assert_int_equal(vhost_memory_add(m, &r, g->fd, &other), -EINVAL);
	}
	r = good;
	assert_int_equal(vhost_memory_add(m, &r, g->fd, &other), -EINVAL);
	vhost_memory_delete(m);
}

static void bad_files(void **state)
{
	struct vhost_wire_region r = guest_region(0);
	struct vhost_memory *m;
	int p[2], fd = open("/dev/zero", O_RDWR | O_CLOEXEC);

	assert_int_equal(pipe(p), 0);
	assert_int_equal(vhost_memory_add(NULL, &r, p[0], &m), -EMEDIUMTYPE);
	assert_int_equal(vhost_memory_add(NULL, &r, fd, &m), -EMEDIUMTYPE);
	assert_int_equal(vhost_memory_add(NULL, &r, -1, &m), -EBADF);
	close(p[0]);
	close(p[1]);
	close(fd);
	fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	assert_int_equal(vhost_memory_add(NULL, &r, fd, &m), -EMEDIUMTYPE);
	close(fd);
	/* Writable here, or not at all. */
	fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, GUEST_BYTES), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(vhost_memory_add(NULL, &r, fd, &m), -EPERM);
	close(fd);
}

static void tables_share(void **state)
{
	struct guest *g = *state;
	struct vhost_wire_region a = guest_region(0), b = guest_region(1), no = a;
	struct vhost_memory *one, *two, *three;
	uint64_t len = 8;

	assert_int_equal(vhost_memory_add(NULL, &a, g->fd, &one), 0);
	assert_int_equal(vhost_memory_add(one, &b, g->fd, &two), 0);
	assert_ptr_equal(one->region[0].base, two->region[0].base); /* it stays where it is */
	no.size_bytes -= 4096;
	assert_int_equal(vhost_memory_remove(two, &no, &three), -ENOENT);
	assert_int_equal(vhost_memory_remove(two, &a, &three), 0);
	assert_int_equal(three->count, 1);
	vhost_memory_delete(one);
	assert_non_null(vhost_memory_guest(two, guest_gpa(0), &len));
	*(volatile uint8_t *)two->region[0].base = 1;
	vhost_memory_delete(two);
	*(volatile uint8_t *)three->region[0].base = 1;
	assert_int_equal(g->base[GUEST_SPLIT], 1);
	assert_null(vhost_memory_guest(three, guest_gpa(0), &len));
	vhost_memory_delete(three);
}

static void too_many(void **state)
{
	struct guest *g = *state;
	struct vhost_memory *m = NULL, *next;

	for (unsigned i = 0; i <= VHOST_MAX_REGIONS; i++) {
		/* From the highest down, so that the order is ours to keep. */
		uint64_t at = (uint64_t)(VHOST_MAX_REGIONS - i) << 20;
		struct vhost_wire_region r = {.guest_addr = GUEST_GPA + at,
			.size_bytes = 8192,
			.user_addr = GUEST_UVA + at,
			.mmap_offset = 4096};
		int err = vhost_memory_add(m, &r, g->fd, &next);
		if (i == VHOST_MAX_REGIONS) {
			assert_int_equal(err, -ENOSPC);
			break;
		}
		assert_int_equal(err, 0);
		vhost_memory_delete(m);
		m = next;
	}
	for (unsigned i = 1; i < m->count; i++)
		assert_true(m->region[i - 1].guest_addr < m->region[i].guest_addr);
	vhost_memory_delete(m);
}

static void truncated(void **state)
{
	struct guest *g = *state;
	struct vhost_memory *m = guest_memory(g);
	uint64_t len = 1;

	uint8_t *p = vhost_memory_guest(m, guest_gpa(GUEST_BYTES - 1), &len);
	uint8_t *low = vhost_memory_guest(m, guest_gpa(0), &len);
	*low = 77;
	assert_int_equal(ftruncate(g->fd, GUEST_SPLIT), 0);
	assert_false(vhost_memory_broken(m));
	assert_int_equal(*(volatile uint8_t *)p, 0); /* no SIGBUS comes through */
	assert_true(vhost_memory_broken(m));
	*(volatile uint8_t *)p = 3;
	assert_int_equal(*(volatile uint8_t *)low, 77); /* the other region is as it was */
	assert_int_equal(ftruncate(g->fd, GUEST_BYTES), 0);
	vhost_memory_delete(m);
}

/* A SIGBUS that is not ours still ends the process. */
static void foreign_sigbus(void **state)
{
	struct guest *g = *state;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGBUS, SIG_DFL);
		guest_memory(g); /* the handler is there */
		if (ftruncate(g->fd, 0) == 0)
			*(volatile uint8_t *)g->base = 1;
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	assert_int_equal(ftruncate(g->fd, GUEST_BYTES), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lookups, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_files, setup, teardown),
		cmocka_unit_test_setup_teardown(tables_share, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many, setup, teardown),
		cmocka_unit_test_setup_teardown(truncated, setup, teardown),
		cmocka_unit_test_setup_teardown(foreign_sigbus, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
