/* A guest's memory is registered beside its life, and let go of when nothing can be read into it.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vhost/world.h"

#define RINGS	2u
#define REGIONS 2u

/* A card that registers when the test lets it. */
struct transport_memory {
	uint8_t *base;
	size_t len;
};

static struct world *now;
static _Atomic bool slow;
static _Atomic int refuse;
static _Atomic unsigned made, registered, registering, refusals, deleted, early;

static int card_new(struct transport *t, void *base, size_t len, struct transport_memory **out)
{
	*out = malloc(sizeof(**out));
	**out = (struct transport_memory){.base = base, .len = len};
	made++;
	return 0;
}

static int card_register(struct transport_memory *m)
{
	registering++;
	while (slow)
		usleep(1000);
	registering--;
	if (refuse) {
		refusals++;
		return -refuse;
	}
	m->base[m->len - 1] ^= 0; /* it is mapped */
	registered++;
	return 0;
}

static void card_delete(struct transport_memory *m)
{
	m->base[0] ^= 0;
	early += BACKEND_LANE_STAT(&now->backend, in_progress) > 0;
	deleted++;
	free(m);
}

static const struct transport_ops card = {.name = "card",
	.memory_new = card_new,
	.memory_register = card_register,
	.memory_delete = card_delete};

static int setup(void **state)
{
	slow = false;
	refuse = 0;
	made = registered = refusals = deleted = early = 0;
	backend_pinner.ops = &card;
	*state = now = world_new(RINGS, 0);
	return 0;
}

static int teardown(void **state)
{
	world_delete(*state);
	/* Whatever the test did. */
	assert_int_equal(deleted, made);
	assert_int_equal(early, 0);
	return 0;
}

static void hold(struct world *w, bool on)
{
	atomic_store(&w->disk.hold, on);
	backend_wake(&w->backend);
}

static void io(struct client *c)
{
	assert_int_equal(client_io(c, 0, RAMDISK_OUT, 8, 4096), RAMDISK_OK);
	assert_int_equal(client_io(c, 1, RAMDISK_IN, 8, 4096), RAMDISK_OK);
}

static void each_region_once(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;

	client_up(c, w->path);
	CLIENT_WAIT(registered == REGIONS);
	io(c);
	/* Another region comes: those that are there stay as they are. */
	client_region(c, VHOST_REM_MEM_REG, 1);
	assert_int_equal(deleted, 1);
	client_region(c, VHOST_ADD_MEM_REG, 1);
	CLIENT_WAIT(registered == REGIONS + 1);
	assert_int_equal(made, REGIONS + 1);
	io(c);
	client_close(c);
	CLIENT_WAIT(deleted == made);
}

/* It goes when what is in flight has ended, and not before. */
static void in_flight(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_one_region one = {.region = guest_region(1)};
	uint8_t status;

	client_up(c, w->path);
	CLIENT_WAIT(registered == REGIONS);
	hold(w, true);
	client_submit(c, 0, 0, RAMDISK_IN, 0, 4096);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 1);
	assert_true(client_send(c, VHOST_REM_MEM_REG, 0, &one, sizeof(one), NULL, 0));
	usleep(20000);
	assert_int_equal(deleted, 0);
	hold(w, false);
	CLIENT_WAIT(deleted == 1);
	client_reap(c, 0, &status);
	assert_int_equal(status, RAMDISK_OK);
	/* The front end dies. */
	hold(w, true);
	client_region(c, VHOST_ADD_MEM_REG, 1);
	client_submit(c, 0, 0, RAMDISK_IN, 0, 4096);
	CLIENT_WAIT(BACKEND_LANE_STAT(&w->backend, in_progress) == 1);
	client_close(c);
	usleep(20000);
	assert_int_equal(deleted, 1);
	hold(w, false);
	CLIENT_WAIT(deleted == made);
}

/* Nobody waits for a card that takes long, until the memory goes away again. */
static void takes_long(void **state)
{
	struct world *w = *state;
	struct client *c = &w->client;
	struct vhost_wire_one_region one = {.region = guest_region(1)};

	slow = true;
	client_up(c, w->path);
	io(c);
	CLIENT_WAIT(registering == REGIONS);
	assert_true(client_send(c, VHOST_REM_MEM_REG, 0, &one, sizeof(one), NULL, 0));
	usleep(20000);
	assert_int_equal(deleted, 0);
	slow = false;
	CLIENT_WAIT(deleted == 1);
	io(c);
}

/* The log says so, and everything goes on. */
static void refused(void **state)
{
	struct world *w = *state;

	refuse = ENOMEM;
	client_up(&w->client, w->path);
	CLIENT_WAIT(refusals == REGIONS);
	io(&w->client);
	assert_int_equal(registered, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_region_once, setup, teardown),
		cmocka_unit_test_setup_teardown(in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(takes_long, setup, teardown),
		cmocka_unit_test_setup_teardown(refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
