/* Tests of a back end that is killed again and again under load: every request is answered exactly
 * once, and right. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/core/log.h"
#include "tests/unit/vhost/backend.h"
#include "tests/unit/vhost/client.h"

#define RINGS 4u
#define KILLS 25u

static uint64_t seed;
static char path[64];
static struct ramdisk *disk; /* shared with those who serve it */

static pid_t backend_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	static struct backend b;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	ramdisk_restart(disk);
	backend_start(&b, path, disk, 0);
	for (;;)
		pause();
}

static void backend_kill(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* A slot's sectors are its own; what was written last to them is what must be read. */
struct load {
	struct client *c;
	unsigned rng;
	uint8_t value[RINGS][CLIENT_SLOTS]; /* written last */
	uint8_t busy[RINGS][CLIENT_SLOTS];  /* 0, 1 writing, 2 reading */
	unsigned in_flight[RINGS], done;
};

static void load_submit(struct load *l, unsigned r, unsigned s)
{
	bool out = rand_r(&l->rng) % 2;

	if (l->busy[r][s])
		return;
	if (out)
		l->value[r][s] = (uint8_t)rand_r(&l->rng);
	memset(client_data(l->c, r, s), out ? l->value[r][s] : 0xee, CLIENT_BYTES);
	l->busy[r][s] = out ? 1 : 2;
	l->in_flight[r]++;
	client_submit(l->c, r, s, out ? RAMDISK_OUT : RAMDISK_IN,
		(r * CLIENT_SLOTS + s) * (CLIENT_BYTES / RAMDISK_SECTOR), CLIENT_BYTES);
}

static void load_reap(struct load *l, unsigned r)
{
	uint8_t status;
	unsigned s = client_reap(l->c, r, &status);

	assert_int_not_equal(l->busy[r][s], 0); /* once, and only once */
	assert_int_equal(status, RAMDISK_OK);
	assert_int_equal(client_data(l->c, r, s)[0], l->value[r][s]);
	assert_int_equal(client_data(l->c, r, s)[CLIENT_BYTES - 1], l->value[r][s]);
	l->busy[r][s] = 0;
	l->in_flight[r]--;
	l->done++;
}

/* So many requests, with up to ten in flight on each ring and then some. */
static void load_run(struct load *l, unsigned requests)
{
	unsigned end = l->done + requests;

	while (l->done < end) {
		unsigned r = (unsigned)rand_r(&l->rng) % RINGS;

		load_submit(l, r, (unsigned)rand_r(&l->rng) % CLIENT_SLOTS);
		if (l->in_flight[r] > 10)
			load_reap(l, r);
	}
}

/* What the region says that the killed one had taken and not given back. */
static unsigned in_flight_left(struct client *c)
{
	unsigned n = 0;
	uint8_t *base =
		mmap(NULL, c->inflight.size_bytes, PROT_READ, MAP_SHARED, c->inflight_fd, 0);

	assert_true(base != MAP_FAILED);
	for (unsigned r = 0; r < RINGS; r++) {
		const struct vhost_inflight_ring *f =
			(void *)(base + r * vhost_inflight_ring_bytes(CLIENT_NUM));
		for (unsigned i = 0; i < CLIENT_NUM; i++)
			n += f->desc[i].inflight;
	}
	munmap(base, c->inflight.size_bytes);
	return n;
}

static void kills(bool defer, uint64_t features)
{
	struct client c;
	struct load l = {.c = &c, .rng = (unsigned)seed};

	unsigned again = 0;

	ramdisk_init(disk, 2, RINGS);
	disk->defer = defer;
	client_init(&c, RINGS);
	c.features = features;
	pid_t pid = backend_fork();
	client_up(&c, path);
	for (unsigned k = 0; k < KILLS; k++) {
		/* Sometimes at once, in the middle of being set up. */
		load_run(&l, (unsigned)rand_r(&l.rng) % 1000);
		/* Sometimes with much in flight, of which some is given back out of order. */
		atomic_store(&disk->hold, rand_r(&l.rng) % 3 != 0);
		for (unsigned i = (unsigned)rand_r(&l.rng) % 100; i; i--)
			load_submit(&l, (unsigned)rand_r(&l.rng) % RINGS,
				(unsigned)rand_r(&l.rng) % CLIENT_SLOTS);
		if (rand_r(&l.rng) % 2)
			usleep((unsigned)rand_r(&l.rng) % 3000);
		backend_kill(pid);
		atomic_store(&disk->hold, false);
		again += in_flight_left(&c);
		for (unsigned i = 0; i < 30; i++) /* the guest does not know */
			load_submit(&l, (unsigned)rand_r(&l.rng) % RINGS,
				(unsigned)rand_r(&l.rng) % CLIENT_SLOTS);
		pid = backend_fork();
		client_again(&c, path);
	}
	for (unsigned r = 0; r < RINGS; r++)
		while (l.in_flight[r])
			load_reap(&l, r);
	for (unsigned r = 0; r < RINGS; r++)
		assert_int_equal(client_ring_stop(&c, r), c.ring[r].avail_idx);
	assert_true(l.done > KILLS);
	assert_true(again > KILLS);
	printf("%u requests over %u kills, %u of them submitted again\n", l.done, KILLS, again);
	backend_kill(pid);
	unlink(path);
	client_fini(&c);
	ramdisk_fini(disk);
}

static void kills_in_order(void **state)
{
	kills(false, VHOST_F_VERSION_1 | VHOST_F_PROTOCOL | VHOST_F_EVENT_IDX);
}

static void kills_out_of_order(void **state)
{
	kills(true, VHOST_F_VERSION_1 | VHOST_F_PROTOCOL | VHOST_F_EVENT_IDX);
}

static void kills_without_event_idx(void **state)
{
	kills(true, VHOST_F_VERSION_1 | VHOST_F_PROTOCOL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kills_in_order),
		cmocka_unit_test(kills_out_of_order),
		cmocka_unit_test(kills_without_event_idx),
	};
	log_set_level(LOG_LEVEL_ERROR, 0);
	disk = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (disk == MAP_FAILED)
		return 1;
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	snprintf(path, sizeof(path), "/tmp/fallow-vhost-%d.sock", (int)getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
