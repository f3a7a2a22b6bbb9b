/* Tests of the cluster logic, one scenario each, against fake donors under virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/cluster/fake_world.h"

static struct world w;
static struct control_msg big;

static void begin(unsigned ndonors)
{
	world_init(&w, 42, ndonors);
	world_cluster_new(&w);
}

static struct lane_region *first_region(unsigned donor)
{
	for (unsigned k = 0; k < WORLD_LEASES; k++)
		if (w.region[donor][k].used)
			return &w.region[donor][k];
	return NULL;
}

static void bad_configurations(void **state)
{
	struct cluster *c;

	world_init(&w, 1, 2);
	struct cluster_config cfg = w.cfg;
	cfg.lanes = 0;
	assert_int_equal(cluster_new(&cfg, w.donor_cfg, 2, &w.env, NULL, NULL, &c), -EINVAL);
	cfg = w.cfg;
	cfg.dead_ns = cfg.suspect_ns - 1;
	assert_int_equal(cluster_new(&cfg, w.donor_cfg, 2, &w.env, NULL, NULL, &c), -EINVAL);
	strcpy(w.donor_cfg[1].name, w.donor_cfg[0].name);
	assert_int_equal(cluster_new(&w.cfg, w.donor_cfg, 2, &w.env, NULL, NULL, &c), -EINVAL);
	world_fini(&w);
}

static void comes_up(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(world_info(&w, i).phase, DONOR_UP);
		assert_true(w.up[i] && !w.suspect[i] && w.data_open[i]);
		assert_int_equal(w.transport[i], CLUSTER_TRANSPORT_TCP);
	}
	world_run(&w, 1000 * MS);
	assert_true(world_info(&w, 0).rtt_ns >= 0);
	assert_string_equal(cluster_donor_reason(w.c, 0), "");
	world_fini(&w);
}

static void leases_are_spread(void **state)
{
	begin(4);
	/* Two domains; the second one has three donors. */
	world_fini(&w);
	world_init(&w, 7, 4);
	strcpy(w.donor_cfg[0].failure_domain, "rack-a");
	for (unsigned i = 1; i < 4; i++)
		strcpy(w.donor_cfg[i].failure_domain, "rack-b");
	for (unsigned i = 0; i < 4; i++)
		w.donor[i].capacity = 20;
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 12, false);
	world_run(&w, 1000 * MS);
	unsigned b =
		world_lane_regions(&w, 1) + world_lane_regions(&w, 2) + world_lane_regions(&w, 3);
	assert_int_equal(world_lane_regions(&w, 0) + b, 12);
	assert_true(world_lane_regions(&w, 0) >= 3 && b >= 4);
	world_check(&w);
	world_fini(&w);
}

/* Copies lie on different donors: what a lane has of one alone is of no use. */
static void leases_of_a_lane_are_even(void **state)
{
	world_init(&w, 3, 2);
	w.donor[0].capacity = 60;
	w.donor[1].capacity = 24;
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	for (unsigned n = 0; n < 20; n++) {
		cluster_want_regions(w.c, 0, 1, false);
		cluster_want_regions(w.c, 1, 1, false);
		world_run(&w, 500 * MS);
	}
	assert_int_equal(world_lane_regions(&w, 0), 20);
	assert_int_equal(world_lane_regions(&w, 1), 20);
	for (unsigned d = 0; d < 2; d++) {
		unsigned first = 0;

		for (unsigned i = 0; i < WORLD_LEASES; i++)
			first += w.region[d][i].used && w.region[d][i].lane == 0;
		assert_int_equal(first, 10);
	}
	/* When one is full the other gives the rest. */
	cluster_want_regions(w.c, 0, 12, false);
	world_run(&w, 5000 * MS);
	assert_int_equal(world_lane_regions(&w, 0) + world_lane_regions(&w, 1), 52);
	world_check(&w);
	world_fini(&w);
}

/* The donor is full, but others hold regions for ephemeral copies only. */
static void what_others_spare_is_asked_for(void **state)
{
	world_init(&w, 11, 1);
	w.donor[0].capacity = 1;
	w.donor[0].others = 5;
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	assert_int_equal(world_info(&w, 0).donor_spare_bytes, 5 * REGION);
	/* Nothing is taken from them for the same, and the donor is not even asked. */
	cluster_want_regions(w.c, 0, 3, true);
	world_run(&w, 5000 * MS);
	assert_int_equal(world_lane_regions(&w, 0), 1);
	assert_int_equal(w.donor[0].asked_ephemeral, 1);
	assert_int_equal(w.sent[0][CONTROL_LEASE_REQUEST], 1);
	cluster_want_regions(w.c, 0, 0, false);
	cluster_want_regions(w.c, 1, 3, false);
	world_run(&w, 5000 * MS);
	assert_int_equal(world_lane_regions(&w, 0), 4);
	assert_int_equal(w.donor[0].others, 2);
	assert_int_equal(w.donor[0].asked_ephemeral, 1);
	world_check(&w);
	world_fini(&w);
}

static struct lane_region *a_region(unsigned n)
{
	for (unsigned i = 0; i < WORLD_LEASES; i++)
		if (w.region[0][i].used && n-- == 0)
			return &w.region[0][i];
	fail_msg("too few regions");
	return NULL;
}

static void spare_leases_are_told(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 4, false);
	world_run(&w, 1000 * MS);
	for (unsigned i = 0; i < 3; i++)
		world_lane_spare(&w, 0, a_region(i), true);
	world_run(&w, 1500 * MS);
	assert_int_equal(w.donor[0].spare, 3);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(w.donor[0].spare_id[a_region(i)->id], i < 3);
	/* Changes are told together, once a second. */
	unsigned renewals = w.sent[0][CONTROL_LEASE_RENEW];
	for (unsigned i = 0; i < 100; i++) {
		world_lane_spare(&w, 0, a_region(1), i % 2);
		world_run(&w, 20 * MS);
	}
	world_lane_spare(&w, 0, a_region(1), false);
	world_run(&w, 1500 * MS);
	assert_in_range(w.sent[0][CONTROL_LEASE_RENEW], renewals + 1, renewals + 4);
	assert_int_equal(w.donor[0].spare, 2);
	/* A new session knows of none until it is told. */
	world_session_cut(&w, 0);
	w.donor[0].spare = 0;
	world_run(&w, 3000 * MS);
	assert_int_equal(w.donor[0].spare, 2);
	/* What is being given back is nobody's to spare. */
	world_donor_revoke(&w, 0, (unsigned)a_region(0)->id, 60000);
	world_run(&w, 1500 * MS);
	assert_int_equal(w.donor[0].spare, 1);
	assert_int_equal(world_info(&w, 0).spare_bytes, REGION);
	world_check(&w);
	world_fini(&w);
}

static void a_mute_donor_is_not_waited_for(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	w.donor[0].mute = true;
	cluster_want_regions(w.c, 0, 5, false);
	world_run(&w, 3000 * MS);
	assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
	/* One of the five is its. */
	assert_int_equal(world_lane_regions(&w, 1), 4);
	world_check(&w);
	world_fini(&w);
}

static void one_request_per_donor(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	w.donor[0].hung = true;
	cluster_want_regions(w.c, 0, 5, false);
	cluster_want_regions(w.c, 1, 5, false);
	world_tick(&w);
	assert_int_equal(w.sent[0][CONTROL_LEASE_REQUEST], 1);
	w.donor[0].hung = false;
	world_run(&w, 300 * MS);
	assert_int_equal(world_lane_regions(&w, 0), 8);	    /* all it has */
	assert_true(world_info(&w, 0).refused_leases == 0); /* its STATS said so */
	world_fini(&w);
}

static void limit_on_leases(void **state)
{
	world_init(&w, 5, 2);
	w.cfg.max_lease_bytes = 3 * REGION + REGION / 2;
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 10, false);
	world_run(&w, 1000 * MS);
	assert_int_equal(w.adds, 3);
	world_fini(&w);
}

static void refusals_back_off(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	w.donor[0].draining = true; /* refuses, though its STATS say free */
	cluster_want_regions(w.c, 0, 1, false);
	world_run(&w, 10000 * MS);
	assert_in_range(w.sent[0][CONTROL_LEASE_REQUEST], 3, 10);
	assert_int_equal(world_info(&w, 0).refused_leases, w.sent[0][CONTROL_LEASE_REQUEST]);
	world_fini(&w);
}

static void restart_finds_its_regions(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 3, false);
	cluster_want_regions(w.c, 1, 3, false);
	world_run(&w, 500 * MS);
	assert_int_equal(w.adds, 6);
	uint64_t old_key = first_region(0)->rkey;
	world_cluster_restart(&w);
	world_run(&w, 500 * MS);
	assert_int_equal(w.binds, 6);
	assert_int_equal(w.losts, 0);
	assert_int_not_equal(first_region(0)->rkey, old_key); /* fresh keys */
	world_check(&w);
	world_fini(&w);
}

static void listed_but_unknown_is_released(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 3, false);
	world_run(&w, 500 * MS);
	first_region(0)->used = false; /* as if killed between grant and arena */
	world_cluster_restart(&w);
	world_run(&w, 500 * MS);
	assert_int_equal(w.sent[0][CONTROL_LEASE_RELEASE], 1);
	assert_int_equal(world_donor_leases(&w, 0), 2);
	world_check(&w);
	world_fini(&w);
}

static void known_but_not_listed_is_lost(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 3, false);
	world_run(&w, 500 * MS);
	w.donor[0].lease[1].used = false; /* the donor took it */
	world_session_cut(&w, 0);
	world_run(&w, 1000 * MS);
	assert_int_equal(w.losts, 1);
	assert_int_equal(world_info(&w, 0).lost_regions, 1);
	assert_int_equal(world_lane_regions(&w, 0), 2);
	world_fini(&w);
}

static void unknown_donor_name_is_lost(void **state)
{
	world_init(&w, 3, 1);
	w.region[0][0] = (struct lane_region){.used = true, .lane = 1, .id = 1, .epoch = 1};
	world_cluster_new(&w);
	assert_int_equal(w.losts, 0);
	struct engine_region_desc d = {.region_id = 2, .epoch = 1, .donor_name = "gone"};
	w.region[0][1] = (struct lane_region){.used = true, .lane = 1, .id = 2, .epoch = 1};
	cluster_adopt(w.c, 1, &d);
	assert_int_equal(w.losts, 1);
	world_fini(&w);
}

static void new_boot_loses_all(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 3, false);
	world_run(&w, 500 * MS);
	world_donor_crash(&w, 0);
	assert_true(w.up[0] && w.suspect[0]); /* may come back */
	world_donor_start(&w, 0);
	world_run(&w, 1000 * MS);
	assert_int_equal(w.losts, 3);
	assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
	world_check(&w);
	world_fini(&w);
}

static void dead_donor_and_its_return(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 6, false);
	world_run(&w, 500 * MS);
	unsigned held = world_lane_regions(&w, 0);
	assert_true(held > 0);
	w.donor[0].running = false; /* partition: its memory stays */
	world_session_cut(&w, 0);
	world_run(&w, 4000 * MS);
	assert_int_equal(w.losts, 0);
	assert_int_equal(world_info(&w, 0).phase == DONOR_UP, 0);
	world_run(&w, 2000 * MS);
	assert_int_equal(w.losts, held);
	assert_false(w.up[0] || w.data_open[0]);
	w.donor[0].running = true;
	world_run(&w, 3000 * MS);
	assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
	assert_int_equal(world_donor_leases(&w, 0), 0); /* released: nobody uses them */
	world_check(&w);
	world_fini(&w);
}

static void hung_donor_is_suspect_then_dead(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 4, false);
	world_run(&w, 500 * MS);
	w.donor[0].hung = true;
	world_run(&w, 1200 * MS);
	assert_int_equal(world_info(&w, 0).phase, DONOR_SUSPECT);
	assert_true(w.up[0] && w.suspect[0]);
	w.donor[0].hung = false;
	world_run(&w, 300 * MS);
	assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
	assert_false(w.suspect[0]);
	w.donor[0].hung = true;
	world_run(&w, 7000 * MS);
	assert_int_not_equal(world_info(&w, 0).phase, DONOR_UP);
	assert_int_equal(world_lane_regions(&w, 0), 0);
	assert_false(w.up[0]);
	world_fini(&w);
}

static void renewal_keeps_leases(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 7, false);
	world_run(&w, 60000 * MS);
	assert_int_equal(w.losts, 0);
	assert_int_equal(world_lane_regions(&w, 0), 7);
	assert_in_range(w.sent[0][CONTROL_LEASE_RENEW], 18, 21);
	world_fini(&w);
}

static void ttl_runs_out_by_our_clock(void **state)
{
	world_init(&w, 9, 1);
	w.cfg.dead_ns = 60000 * MS;
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	w.donor[0].hung = true;
	world_run(&w, 9500 * MS); /* the ttl is 9 s */
	assert_int_equal(w.losts, 2);
	world_fini(&w);
}

static void revocation_answered(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	cluster_want_regions(w.c, 0, 0, false);
	world_donor_revoke(&w, 0, 0, 2000);
	world_run(&w, 100 * MS);
	assert_int_equal(w.revokes, 1);
	assert_int_equal(world_info(&w, 0).revoking_bytes, REGION);
	struct lane_region *r = first_region(0);
	while (!r->revoking)
		r++;
	world_lane_release(&w, 0, r);
	world_run(&w, 100 * MS);
	assert_int_equal(w.sent[0][CONTROL_REVOKE_DONE], 1);
	assert_int_equal(world_donor_leases(&w, 0), 1);
	assert_int_equal(w.losts, 0);
	world_check(&w);
	world_fini(&w);
}

static void revocation_not_answered(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	cluster_want_regions(w.c, 0, 0, false);
	world_donor_revoke(&w, 0, 0, 2000);
	world_run(&w, 1900 * MS);
	assert_int_equal(w.losts, 0);
	world_run(&w, 200 * MS);
	assert_int_equal(w.losts, 1);
	assert_int_equal(world_lane_regions(&w, 0), 1);
	world_check(&w);
	world_fini(&w);
}

static void revocation_survives_a_restart(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	cluster_want_regions(w.c, 0, 0, false);
	world_donor_revoke(&w, 0, 1, 5000);
	world_run(&w, 50 * MS);
	world_cluster_restart(&w);
	world_run(&w, 500 * MS);
	assert_int_equal(w.revokes, 2);
	assert_int_equal(world_info(&w, 0).revoking_bytes, REGION);
	world_fini(&w);
}

static void release_without_a_session(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	cluster_want_regions(w.c, 0, 0, false);
	world_session_cut(&w, 0);
	world_lane_release(&w, 0, first_region(0));
	world_run(&w, 2000 * MS);
	assert_int_equal(world_donor_leases(&w, 0), 1);
	world_run(&w, 8000 * MS);
	assert_int_equal(w.sent[0][CONTROL_LEASE_RELEASE], 1);
	world_check(&w);
	world_fini(&w);
}

static void bad_data_stops_placement(void **state)
{
	begin(2);
	world_run(&w, 100 * MS);
	for (unsigned i = 0; i < 7; i++)
		cluster_bad_data(w.c, 0);
	assert_false(w.suspect[0]);
	cluster_bad_data(w.c, 0);
	assert_true(w.up[0] && w.suspect[0]);
	assert_int_equal(world_info(&w, 0).phase, DONOR_SUSPECT);
	cluster_want_regions(w.c, 0, 3, false);
	world_run(&w, 1000 * MS);
	assert_int_equal(world_lane_regions(&w, 0), 0);
	assert_int_equal(world_lane_regions(&w, 1), 3);
	world_run(&w, 8 * 60000 * MS);
	assert_false(w.suspect[0]);
	world_fini(&w);
}

static void drain_stops_placement(void **state)
{
	struct control_msg m = {.type = CONTROL_DRAIN, .drain = {.deadline_ms = 1000}};

	begin(2);
	world_run(&w, 100 * MS);
	world_donor_send(&w, 0, &m);
	world_run(&w, 100 * MS);
	assert_true(world_info(&w, 0).draining && w.suspect[0]);
	cluster_want_regions(w.c, 0, 3, false);
	world_run(&w, 500 * MS);
	assert_int_equal(world_lane_regions(&w, 0), 0);
	world_fini(&w);
}

static void back_off_grows(void **state)
{
	world_init(&w, 11, 1);
	w.donor[0].running = false;
	world_cluster_new(&w);
	world_run(&w, 20000 * MS);
	/* 50, 100, ... 1000 ms, with jitter: neither in a loop nor given up. */
	assert_in_range(w.connects, 18, 50);
	world_fini(&w);
}

static void pause_of_our_own_is_forgiven(void **state)
{
	begin(1);
	world_run(&w, 100 * MS);
	cluster_want_regions(w.c, 0, 2, false);
	world_run(&w, 500 * MS);
	w.now_ns += 6000 * MS; /* stopped for longer than dead_ns, shorter than the ttl */
	world_tick(&w);
	world_run(&w, 1000 * MS);
	assert_int_equal(w.losts, 0);
	assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
	world_fini(&w);
}

/* Each of these from a donor that is up is refused, and the session starts over. */
static void senseless_messages(void **state)
{
	static const struct control_msg wrong[] = {
		{.type = CONTROL_HELLO},
		{.type = CONTROL_HELLO_ACK},
		{.type = CONTROL_LEASES}, /* nothing was asked */
		{.type = CONTROL_LEASE_REQUEST},
		{.type = CONTROL_LEASE_GRANT, .lease_grant = {.request_id = 1}},
		{.type = CONTROL_LEASE_RENEW},
		{.type = CONTROL_LEASE_RELEASE},
		{.type = CONTROL_REVOKE, .revoke = {.region_id = 99, .epoch = 99}},
		{.type = CONTROL_REVOKE_DONE},
		{.type = CONTROL_HEARTBEAT, .heartbeat = {.sequence = 12345}},
		{.type = CONTROL_STATS, .stats = {.total_bytes = 1, .free_bytes = 2}},
		{.type = (enum control_msg_type)77},
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		begin(1);
		world_run(&w, 100 * MS);
		world_donor_send(&w, 0, &wrong[i]);
		world_run(&w, 1 * MS);
		assert_int_equal(w.protos, 1);
		world_run(&w, 2000 * MS);
		assert_int_equal(world_info(&w, 0).phase, DONOR_UP);
		world_fini(&w);
	}
}

static void donor_refuse_first(struct control_msg *m)
{
	world_init(&w, 1, 1);
	w.automatic = false;
	world_cluster_new(&w);
	world_run(&w, 10 * MS);
	world_donor_send(&w, 0, m);
	world_run(&w, 1 * MS);
	assert_int_equal(w.protos, 1);
	world_fini(&w);
}

static void senseless_hello(void **state)
{
	const struct control_msg good = {.type = CONTROL_HELLO_ACK,
		.hello_ack = {.version = 1,
			.boot_id = 1,
			.tcp_port = 1,
			.lease_ttl_ms = 1000,
			.region_bytes = REGION}};

	big = good;
	big.hello_ack.version = 2;
	donor_refuse_first(&big);
	big = good;
	big.hello_ack.boot_id = 0;
	donor_refuse_first(&big);
	big = good;
	big.hello_ack.tcp_port = 0;
	donor_refuse_first(&big);
	big = good;
	big.hello_ack.lease_ttl_ms = 0;
	donor_refuse_first(&big);
	big = good;
	big.hello_ack.region_bytes = 4097;
	donor_refuse_first(&big);
	big = good;
	memset(big.hello_ack.failure_domain, 'x', sizeof(big.hello_ack.failure_domain));
	donor_refuse_first(&big);
	big = (struct control_msg){.type = CONTROL_LEASES};
	donor_refuse_first(&big);
}

static void senseless_lists(void **state)
{
	const struct control_lease good = {
		.region_id = 1, .epoch = 1, .len_bytes = REGION, .ttl_ms = 1000, .tcp_key = 1};

	for (unsigned i = 0; i < 5; i++) {
		world_init(&w, 1, 1);
		w.automatic = false;
		world_cluster_new(&w);
		world_run(&w, 10 * MS);
		big = (struct control_msg){.type = CONTROL_HELLO_ACK,
			.hello_ack = {.version = 1,
				.boot_id = 1,
				.tcp_port = 1,
				.lease_ttl_ms = 1000,
				.region_bytes = REGION}};
		world_donor_send(&w, 0, &big);
		memset(&big, 0, sizeof(big));
		big.type = CONTROL_LEASES;
		big.leases.count = 2;
		big.leases.lease[0] = big.leases.lease[1] = good;
		if (i > 0)
			big.leases.lease[1].region_id = 2;
		if (i == 1)
			big.leases.lease[1].len_bytes = 0;
		if (i == 2)
			big.leases.lease[1].ttl_ms = 0;
		if (i == 3)
			big.leases.lease[1].tcp_key = 0;
		if (i == 4)
			big.leases.count = CONTROL_LEASES_PER_MSG + 1;
		world_donor_send(&w, 0, &big);
		world_run(&w, 1 * MS);
		assert_int_equal(w.protos, 1);
		world_fini(&w);
	}
}

static void hello_must_come_in_time(void **state)
{
	world_init(&w, 1, 1);
	w.automatic = false;
	world_cluster_new(&w);
	world_run(&w, 1100 * MS);
	assert_int_equal(w.disconnects, 1);
	assert_string_equal(cluster_donor_reason(w.c, 0), "no hello in time");
	world_fini(&w);
}

static void verbs_where_both_have_it(void **state)
{
	world_init(&w, 1, 1);
	w.donor_cfg[0].transport = CLUSTER_TRANSPORT_VERBS; /* but this machine has no device */
	world_cluster_new(&w);
	world_run(&w, 100 * MS);
	assert_true(w.protos > 0);
	assert_int_not_equal(world_info(&w, 0).phase, DONOR_UP);
	world_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_configurations),
		cmocka_unit_test(comes_up),
		cmocka_unit_test(leases_are_spread),
		cmocka_unit_test(leases_of_a_lane_are_even),
		cmocka_unit_test(what_others_spare_is_asked_for),
		cmocka_unit_test(spare_leases_are_told),
		cmocka_unit_test(a_mute_donor_is_not_waited_for),
		cmocka_unit_test(one_request_per_donor),
		cmocka_unit_test(limit_on_leases),
		cmocka_unit_test(refusals_back_off),
		cmocka_unit_test(restart_finds_its_regions),
		cmocka_unit_test(listed_but_unknown_is_released),
		cmocka_unit_test(known_but_not_listed_is_lost),
		cmocka_unit_test(unknown_donor_name_is_lost),
		cmocka_unit_test(new_boot_loses_all),
		cmocka_unit_test(dead_donor_and_its_return),
		cmocka_unit_test(hung_donor_is_suspect_then_dead),
		cmocka_unit_test(renewal_keeps_leases),
		cmocka_unit_test(ttl_runs_out_by_our_clock),
		cmocka_unit_test(revocation_answered),
		cmocka_unit_test(revocation_not_answered),
		cmocka_unit_test(revocation_survives_a_restart),
		cmocka_unit_test(release_without_a_session),
		cmocka_unit_test(bad_data_stops_placement),
		cmocka_unit_test(drain_stops_placement),
		cmocka_unit_test(back_off_grows),
		cmocka_unit_test(pause_of_our_own_is_forgiven),
		cmocka_unit_test(senseless_messages),
		cmocka_unit_test(senseless_hello),
		cmocka_unit_test(senseless_lists),
		cmocka_unit_test(hello_must_come_in_time),
		cmocka_unit_test(verbs_where_both_have_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
