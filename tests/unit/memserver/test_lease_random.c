/* Random histories of the lease book: after every step it is whole, and no client saw another's
 * bytes.
 *
 * test_lease_random [SEED [STEPS]]: one history; without arguments some, from fixed seeds. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/unit/memserver/rig.h"

#define PEERS	   8
#define IDENTITIES 6 /* more than the book may know */

static struct rig rig;
static uint64_t first_seed = 1, last_seed = 60, steps = 4000;
static uint64_t rnd_state;

static uint64_t rnd(uint64_t n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state % n;
}

static bool ready(unsigned peer)
{
	return rig.peers[peer].open && rig.peers[peer].ack.type == CONTROL_HELLO_ACK;
}

static void step_lease(unsigned peer)
{
	struct control_lease l;

	if (!ready(peer) || (rnd(3) ? rig_lease : rig_lease_ephemeral)(&rig, peer, &l))
		return;
	if (rig.peers[peer].leases < RIG_REGIONS)
		rig.peers[peer].lease[rig.peers[peer].leases++] = l;
}

/* Ends one of the leases that the peer was told of, sometimes twice, or one that it made up. */
static void step_end(unsigned peer)
{
	struct rig_peer *p = &rig.peers[peer];
	enum control_msg_type type = rnd(2) ? CONTROL_LEASE_RELEASE : CONTROL_REVOKE_DONE;

	if (!ready(peer))
		return;
	if (!p->leases || !rnd(10)) {
		uint64_t region = rnd(RIG_REGIONS + 2);
		rig_end(&rig, peer, type, region,
			region < RIG_REGIONS ? rig.epochs[region] | 1 : 1);
		return;
	}
	unsigned i = (unsigned)rnd(p->leases);
	rig_end(&rig, peer, type, p->lease[i].region_id, p->lease[i].epoch);
	if (rnd(5))
		p->lease[i] = p->lease[--p->leases];
}

static void step_session(unsigned peer)
{
	struct control_msg m = {.type = (enum control_msg_type)(1 + rnd(CONTROL_MSG_TYPES - 1))};
	uint8_t identity = (uint8_t)(1 + rnd(IDENTITIES));

	if (!rig.peers[peer].open) {
		if (rnd(5))
			rig_hello(&rig, peer, identity, rnd(20) ? identity : 99);
		else
			rig_connect(&rig, peer);
	} else if (rnd(3)) {
		rig_disconnect(&rig, peer);
	} else {
		rig_send(&rig, peer, &m);
	}
}

/* Everybody who holds a lease in the list really has the memory, and nobody else has. */
static void step_renew(unsigned peer)
{
	struct rig_peer *p = &rig.peers[peer];

	uint64_t spare[RIG_REGIONS + 1];
	unsigned count = (unsigned)rnd(RIG_REGIONS + 1);

	/* Its own regions and others', some twice, one that does not exist. */
	for (unsigned i = 0; i < count; i++)
		spare[i] = rnd(RIG_REGIONS + 1);
	if (!ready(peer))
		return;
	rig_renew_spare(&rig, peer, spare, rnd(2) ? count : 0);
	for (unsigned i = 0; i < p->leases; i++) {
		unsigned region = (unsigned)p->lease[i].region_id;
		assert_true(rig.exported[region] >= 0);
		assert_int_equal(rig.memory[region][0], 0x80 | rig.exported[region]);
		assert_true(p->lease[i].epoch == rig.epochs[region]);
		for (unsigned k = 0; k < PEERS; k++) {
			if (k != peer && ready(k))
				assert_true(rig.tokens[rig.exported[region]] !=
					    rig.peers[k].ack.hello_ack.token[0]);
		}
	}
}

static void step(void)
{
	unsigned peer = (unsigned)rnd(PEERS);

	switch (rnd(12)) {
	case 0:
	case 1:
	case 2:
		step_lease(peer);
		break;
	case 3:
	case 4:
		step_end(peer);
		break;
	case 5:
	case 6:
		step_renew(peer);
		break;
	case 7:
		step_session(peer);
		break;
	case 8:
		if (ready(peer))
			rig_beat(&rig, peer);
		break;
	case 9:
		lease_book_target_set(rig.book, rnd(RIG_REGIONS + 1) * RIG_REGION_BYTES);
		break;
	case 10:
		rig_sleep(&rig, rnd(rnd(4) ? 50 : 1500));
		break;
	default:
		rig.fail_alloc = !rnd(8);
		rig.fail_export = !rnd(8);
		rig.fail_token = !rnd(8);
		rig.now_ns += rnd(400) * 1000000ull; /* ticks that come late */
		break;
	}
	rig_check(&rig);
}

static void history(uint64_t seed)
{
	struct lease_config cfg = rig_config();

	rnd_state = seed * 0x9e3779b97f4a7c15ull | 1;
	cfg.keep_regions = (uint32_t)rnd(4);
	cfg.client_max_bytes = rnd(2) * 5 * RIG_REGION_BYTES;
	cfg.min_bytes = rnd(3) * RIG_REGION_BYTES;
	cfg.stats_interval_ms = (uint32_t)rnd(2) * 50;
	rig_open(&rig, &cfg, seed);
	for (uint64_t i = 0; i < steps; i++)
		step();
	/* In the end everything comes back, whatever the clients do. */
	lease_book_drain(rig.book, 500);
	rig_sleep(&rig, 500);
	assert_true(lease_book_idle(rig.book));
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		assert_null(rig.memory[i]);
	rig_close(&rig);
}

static void test_histories(void **state)
{
	for (uint64_t seed = first_seed; seed <= last_seed; seed++) {
		print_message("seed %llu\n", (unsigned long long)seed);
		history(seed);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_histories)};

	if (argc > 1)
		first_seed = last_seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		steps = strtoull(argv[2], NULL, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
