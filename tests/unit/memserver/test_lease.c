/* The lease book, rule by rule. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "tests/unit/memserver/rig.h"

static struct rig rig;
#define R (&rig)

static uint64_t refused(enum lease_refusal why)
{
	return stat_get(&lease_book_stats(rig.book)->refused[why]);
}

static void open_default(void)
{
	struct lease_config cfg = rig_config();

	rig_open(R, &cfg, 1);
}

static void test_hello(void **state)
{
	open_default();
	assert_int_equal(rig_hello(R, 0, 1, 1), 0);
	const struct rig_peer *p = &rig.peers[0];
	assert_int_equal(p->got[0].type, CONTROL_HELLO_ACK);
	assert_int_equal(p->got[1].type, CONTROL_LEASES);
	assert_int_equal(p->got[2].type, CONTROL_STATS);
	assert_int_equal(p->count, 3);
	assert_int_equal(p->ack.hello_ack.boot_id, 77);
	assert_string_equal(p->ack.hello_ack.name, "donor");
	assert_string_equal(p->ack.hello_ack.failure_domain, "rack");
	assert_int_equal(p->ack.hello_ack.region_bytes, RIG_REGION_BYTES);
	assert_int_equal(p->ack.hello_ack.lease_ttl_ms, 1000);
	assert_true(p->ack.hello_ack.token[0] != 0);
	assert_int_equal(p->leases, 0);
	assert_int_equal(p->got[2].number, RIG_REGIONS * RIG_REGION_BYTES);
	assert_int_equal(p->got[2].free_bytes, RIG_REGIONS * RIG_REGION_BYTES);
	rig_close(R);
}

static void test_order(void **state)
{
	struct control_msg m = {.type = CONTROL_HEARTBEAT};

	open_default();
	rig_connect(R, 0);
	assert_int_equal(rig_send(R, 0, &m), -EPROTO);
	assert_int_equal(rig_hello(R, 1, 1, 1), 0);
	m.type = CONTROL_HELLO;
	assert_int_equal(rig_send(R, 1, &m), -EPROTO);
	assert_string_equal(rig.peers[1].text, "a second HELLO");
	assert_int_equal(rig_hello(R, 2, 1, 1), 0);
	m.type = CONTROL_LEASE_GRANT;
	assert_int_equal(rig_send(R, 2, &m), -EPROTO);
	assert_int_equal(refused(LEASE_REFUSED_ORDER), 3);
	/* A client that says why it leaves is not refused. */
	assert_int_equal(rig_hello(R, 3, 1, 1), 0);
	m.type = CONTROL_ERROR;
	assert_int_equal(rig_send(R, 3, &m), -ECONNABORTED);
	assert_int_equal(rig.peers[3].status, 0);
	rig_close(R);
}

static void test_version(void **state)
{
	struct control_msg m = {.type = CONTROL_HELLO};

	open_default();
	rig_connect(R, 0);
	m.hello.version_min = 2;
	m.hello.version_max = 3;
	memset(m.hello.identity, 1, 16);
	assert_int_equal(rig_send(R, 0, &m), -EPROTONOSUPPORT);
	rig_connect(R, 1);
	m.hello.version_min = 1;
	m.hello.version_max = 9;
	assert_int_equal(rig_send(R, 1, &m), 0);
	assert_int_equal(rig.peers[1].ack.hello_ack.version, CONTROL_VERSION);
	assert_int_equal(refused(LEASE_REFUSED_VERSION), 1);
	rig_close(R);
}

static void test_secret(void **state)
{
	struct control_lease l;

	open_default();
	assert_int_equal(rig_hello(R, 0, 1, 1), 0);
	assert_int_equal(rig_lease(R, 0, &l), 0);
	/* The thief harms nobody: the session and the lease stay. */
	assert_int_equal(rig_hello(R, 1, 1, 2), -EACCES);
	assert_string_equal(rig.peers[1].text, "wrong secret for this identity");
	assert_true(rig.peers[0].open);
	assert_int_equal(rig_beat(R, 0), 0);
	/* Also while it is away and after its leases are over. */
	rig_disconnect(R, 0);
	rig_sleep(R, 5000);
	assert_int_equal(rig_hello(R, 2, 1, 2), -EACCES);
	assert_int_equal(rig_hello(R, 3, 1, 1), 0);
	assert_int_equal(refused(LEASE_REFUSED_SECRET), 2);
	rig_close(R);
}

static void test_identity_not_listed(void **state)
{
	open_default();
	rig.forbid = true;
	assert_int_equal(rig_hello(R, 0, 1, 1), -EPERM);
	assert_int_equal(refused(LEASE_REFUSED_IDENTITY), 1);
	rig_close(R);
}

static void test_superseded(void **state)
{
	struct control_lease l;

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_lease(R, 0, &l);
	uint64_t token = rig.tokens[0];
	assert_int_equal(rig_hello(R, 1, 1, 1), 0);
	assert_false(rig.peers[0].open);
	assert_int_equal(rig.peers[0].status, -ECONNABORTED);
	assert_true(rig.tokens[0] != token && rig.tokens[0] != 0);
	assert_int_equal(rig.peers[1].leases, 1);
	assert_true(rig.peers[1].lease[0].epoch == l.epoch);
	assert_true(rig.peers[1].lease[0].tcp_key == l.tcp_key);
	assert_int_equal(refused(LEASE_REFUSED_SUPERSEDED), 1);
	rig_close(R);
}

static void test_lease_and_release(void **state)
{
	struct control_lease l, other;

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_hello(R, 1, 2, 2);
	assert_int_equal(rig_lease(R, 0, &l), 0);
	assert_int_equal(l.len_bytes, RIG_REGION_BYTES);
	assert_int_equal(l.ttl_ms, 1000);
	assert_int_equal(rig_last(R, 1, CONTROL_STATS)->leased_bytes, RIG_REGION_BYTES);
	/* Not somebody else's to end, nor with another epoch. */
	assert_int_equal(rig_end(R, 1, CONTROL_LEASE_RELEASE, l.region_id, l.epoch), 0);
	assert_int_equal(rig_end(R, 0, CONTROL_LEASE_RELEASE, l.region_id, l.epoch + 1), 0);
	assert_int_equal(rig_end(R, 0, CONTROL_LEASE_RELEASE, UINT64_MAX, l.epoch), 0);
	assert_int_equal(refused(LEASE_REFUSED_STALE), 3);
	rig_renew(R, 0);
	assert_int_equal(rig.peers[0].leases, 1);
	assert_int_equal(rig_end(R, 0, CONTROL_LEASE_RELEASE, l.region_id, l.epoch), 0);
	rig_renew(R, 0);
	assert_int_equal(rig.peers[0].leases, 0);
	assert_int_equal(rig.frees, 1); /* nothing is kept */
	/* The same region again has another epoch and another key. */
	assert_int_equal(rig_lease(R, 1, &other), 0);
	assert_int_equal(other.region_id, l.region_id);
	assert_true(other.epoch != l.epoch && other.tcp_key != l.tcp_key);
	rig_close(R);
}

static void test_wipe_before_reuse(void **state)
{
	struct lease_config cfg = rig_config();
	struct control_lease l;

	cfg.keep_regions = 2;
	rig_open(R, &cfg, 1);
	rig_hello(R, 0, 1, 1);
	rig_hello(R, 1, 2, 2);
	/* op_export() fails the test when it is given bytes that are not zero. */
	rig_lease(R, 0, &l);
	rig_end(R, 0, CONTROL_LEASE_RELEASE, l.region_id, l.epoch);
	assert_int_equal(rig.wipes, 0);
	assert_int_equal(rig_lease(R, 1, &l), 0); /* before the tick that would wipe */
	assert_int_equal(rig.wipes, 1);
	rig_end(R, 1, CONTROL_LEASE_RELEASE, l.region_id, l.epoch);
	rig_sleep(R, 1);
	assert_int_equal(rig.wipes, 2);
	assert_int_equal(rig_lease(R, 0, &l), 0);
	assert_int_equal(rig.allocs, 1);
	/* Only two are kept. */
	struct control_lease more[4];
	for (unsigned i = 0; i < 4; i++)
		rig_lease(R, 1, &more[i]);
	for (unsigned i = 0; i < 4; i++)
		rig_end(R, 1, CONTROL_LEASE_RELEASE, more[i].region_id, more[i].epoch);
	rig_sleep(R, 1);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->regions_kept), 2);
	/* And none when the machine needs its memory. */
	lease_book_target_set(rig.book, RIG_REGION_BYTES);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->regions_kept), 0);
	rig_close(R);
}

static void test_expiry(void **state)
{
	struct control_lease l;

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_lease(R, 0, &l);
	for (unsigned i = 0; i < 5; i++) {
		rig_sleep(R, 900);
		assert_int_equal(rig_beat(R, 0), 0);
	}
	rig_renew(R, 0);
	assert_int_equal(rig.peers[0].leases, 1);
	/* It outlives the session, and comes back with a new one. */
	rig_disconnect(R, 0);
	assert_true(rig.tokens[0] != 0);
	rig_sleep(R, 900);
	rig_hello(R, 1, 1, 1);
	assert_int_equal(rig.peers[1].leases, 1);
	assert_int_equal(rig.peers[1].lease[0].ttl_ms, 1000);
	rig_disconnect(R, 1);
	rig_sleep(R, 1000);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->expiries), 1);
	assert_int_equal(rig.tokens[0], 0); /* the data connections end, too */
	rig_hello(R, 2, 1, 1);
	assert_int_equal(rig.peers[2].leases, 0);
	/* A client that is silent loses them, session or not. */
	rig_lease(R, 2, &l);
	rig_sleep(R, 1000);
	assert_true(rig.peers[2].open);
	assert_int_equal(rig.exported[l.region_id], -1);
	/* The tick may be late: what is over is over. */
	rig_lease(R, 2, &l);
	rig.now_ns += 1500 * 1000000ull;
	rig_renew(R, 2);
	assert_int_equal(rig.peers[2].leases, 0);
	rig_close(R);
}

static void test_revoke(void **state)
{
	struct control_lease l[4], m[2];

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_hello(R, 1, 2, 2);
	for (unsigned i = 0; i < 4; i++)
		rig_lease(R, 0, &l[i]);
	for (unsigned i = 0; i < 2; i++)
		rig_lease(R, 1, &m[i]);
	/* 6 leased, 3 may stay: two of the first client's, the newest ones, then one more of
	 * whoever has most. */
	lease_book_target_set(rig.book, 3 * RIG_REGION_BYTES);
	assert_int_equal(
		rig_count(R, 0, CONTROL_REVOKE, 0) + rig_count(R, 1, CONTROL_REVOKE, 0), 3);
	assert_true(rig_count(R, 0, CONTROL_REVOKE, 0) >= 2);
	for (unsigned i = 0; i < 2; i++) {
		struct lease_region_info info;
		lease_book_region_info(rig.book, (unsigned)l[3 - i].region_id, &info);
		assert_int_equal(info.state, LEASE_REGION_REVOKING);
	}
	assert_int_equal(rig_last(R, 0, CONTROL_REVOKE)->number, 300);
	assert_int_equal(rig_lease(R, 1, NULL), -ENOSPC);
	/* It says so in the list, too. */
	rig_sleep(R, 100);
	rig_renew(R, 0);
	unsigned revoking = 0;
	for (unsigned i = 0; i < rig.peers[0].leases; i++) {
		revoking += rig.peers[0].lease[i].revoking;
		if (rig.peers[0].lease[i].revoking)
			assert_int_equal(rig.peers[0].lease[i].revoke_ms, 200);
	}
	assert_int_equal(revoking, rig_count(R, 0, CONTROL_REVOKE, 0));
	/* One is given back; the others are taken when the grace is over, and nobody else's. */
	rig_end(R, 0, CONTROL_REVOKE_DONE, l[3].region_id, l[3].epoch);
	assert_int_equal(rig.exported[l[3].region_id], -1);
	rig_sleep(R, 199);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->forced), 0);
	rig_sleep(R, 1);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->forced), 2);
	assert_int_equal(rig.exported[l[2].region_id], -1);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->leased_bytes), 3 * RIG_REGION_BYTES);
	/* A late answer is not an error. */
	assert_int_equal(rig_end(R, 0, CONTROL_REVOKE_DONE, l[2].region_id, l[2].epoch), 0);
	rig_close(R);
}

static void test_revoke_of_a_client_that_is_away(void **state)
{
	struct control_lease l;

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_lease(R, 0, &l);
	rig_disconnect(R, 0);
	lease_book_target_set(rig.book, 0);
	rig_sleep(R, 299);
	assert_true(rig.exported[l.region_id] >= 0);
	rig_sleep(R, 1);
	assert_int_equal(rig.exported[l.region_id], -1);
	assert_null(rig.memory[l.region_id]);
	assert_int_equal(rig.tokens[0], 0);
	rig_close(R);
}

/* Peer 0, client 1, has leased everything; peers 1 and 2 are clients 2 and 3. */
static void open_full(struct control_lease l[RIG_REGIONS])
{
	open_default();
	for (uint8_t i = 0; i < 3; i++)
		rig_hello(R, i, i + 1, i + 1);
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		assert_int_equal(rig_lease(R, 0, &l[i]), 0);
}

static void test_spare_makes_way(void **state)
{
	const struct lease_stats *st;
	struct control_lease l[RIG_REGIONS], got;
	uint64_t spare[2];

	open_full(l);
	st = lease_book_stats(rig.book);
	assert_int_equal(rig_lease(R, 1, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 0);
	spare[0] = l[3].region_id;
	spare[1] = l[5].region_id;
	rig_renew_spare(R, 0, spare, 2);
	assert_int_equal(stat_get(&st->regions_spare), 2);
	assert_int_equal(rig_last(R, 1, CONTROL_STATS)->spare_bytes, 2 * RIG_REGION_BYTES);
	assert_int_equal(rig_last(R, 0, CONTROL_STATS)->spare_bytes, 0);
	/* Not for the same purpose, and not for who has it. */
	assert_int_equal(rig_lease_ephemeral(R, 1, NULL), -ENOSPC);
	assert_int_equal(rig_lease(R, 0, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 0);
	/* One for each client that asks, however often it asks. */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_lease(R, 1, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 1);
	const struct rig_msg *revoke = rig_last(R, 0, CONTROL_REVOKE);
	assert_int_equal(revoke->region_id, l[3].region_id);
	assert_int_equal(revoke->number, 300);
	assert_int_equal(rig_last(R, 1, CONTROL_STATS)->spare_bytes, RIG_REGION_BYTES);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	assert_int_equal(rig_last(R, 0, CONTROL_REVOKE)->region_id, l[5].region_id);
	/* Nothing is left that could be spared. */
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_lease(R, 1 + i, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 2);
	rig_end(R, 0, CONTROL_REVOKE_DONE, l[3].region_id, l[3].epoch);
	assert_int_equal(rig_last(R, 1, CONTROL_STATS)->free_bytes, RIG_REGION_BYTES);
	/* It is not for who could do without it, for a while. */
	assert_int_equal(rig_lease_ephemeral(R, 0, NULL), -ENOSPC);
	assert_int_equal(refused(LEASE_REFUSED_WANTED), 1);
	assert_int_equal(rig_lease(R, 1, &got), 0);
	assert_int_equal(got.region_id, l[3].region_id);
	rig_end(R, 0, CONTROL_REVOKE_DONE, l[5].region_id, l[5].epoch);
	rig_sleep(R, 900);
	rig_beat(R, 0);
	assert_int_equal(rig_lease_ephemeral(R, 0, NULL), -ENOSPC);
	rig_sleep(R, 100);
	assert_int_equal(rig_lease_ephemeral(R, 0, NULL), 0);
	assert_int_equal(stat_get(&st->reclaims), 2);
	assert_int_equal(stat_get(&st->revoke_dones), 2);
	rig_close(R);
}

static void test_spare_order(void **state)
{
	struct control_lease l[RIG_REGIONS];
	uint64_t spare[RIG_REGIONS];

	/* Of the client that can spare most, what it could spare for longest. */
	open_default();
	for (uint8_t i = 0; i < 3; i++)
		rig_hello(R, i, i + 1, i + 1);
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		assert_int_equal(rig_lease(R, i < 5, &l[i]), 0); /* 0-4: peer 1; 5-7: peer 0 */
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		spare[i] = l[i].region_id;
	rig_renew_spare(R, 0, spare + 5, 3);
	rig_renew_spare(R, 1, spare + 4, 1);
	rig_sleep(R, 10);
	rig_renew_spare(R, 1, spare + 2, 3);
	rig_sleep(R, 10);
	rig_renew_spare(R, 1, spare + 1, 4);
	/* What stops being spare for a moment begins anew. */
	rig_sleep(R, 10);
	rig_renew_spare(R, 1, spare + 1, 3);
	rig_sleep(R, 10);
	rig_renew_spare(R, 1, spare + 1, 4);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 0);
	assert_true(rig_last(R, 1, CONTROL_REVOKE)->region_id == spare[2] ||
		    rig_last(R, 1, CONTROL_REVOKE)->region_id == spare[3]);
	rig_close(R);
}

/* A target that shrinks takes what costs nobody a page before anything else. */
static void test_spare_goes_first(void **state)
{
	struct control_lease l[RIG_REGIONS];
	uint64_t spare[2];

	open_default();
	for (uint8_t i = 0; i < 2; i++)
		rig_hello(R, i, i + 1, i + 1);
	for (unsigned i = 0; i < RIG_REGIONS; i++)
		assert_int_equal(
			rig_lease(R, i < 2, &l[i]), 0); /* 0, 1: peer 1; the rest: peer 0 */
	spare[0] = l[1].region_id;
	rig_renew_spare(R, 1, spare, 1);
	lease_book_target_set(rig.book, (RIG_REGIONS - 1) * RIG_REGION_BYTES);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 0);
	assert_int_equal(rig_last(R, 1, CONTROL_REVOKE)->region_id, spare[0]);
	lease_book_target_set(rig.book, (RIG_REGIONS - 2) * RIG_REGION_BYTES);
	assert_int_equal(rig_count(R, 1, CONTROL_REVOKE, 0), 1);
	assert_int_equal(rig_last(R, 0, CONTROL_REVOKE)->region_id, l[RIG_REGIONS - 1].region_id);
	rig_close(R);
}

static void test_spare_is_a_hint(void **state)
{
	struct control_lease l[RIG_REGIONS], got;
	uint64_t spare[3];

	open_full(l);
	/* What is not its own, or nothing at all, is counted and has no effect. */
	spare[0] = l[0].region_id;
	spare[1] = RIG_REGIONS;
	spare[2] = UINT64_MAX;
	rig_renew_spare(R, 1, spare, 3);
	assert_int_equal(refused(LEASE_REFUSED_STALE), 3);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 0);
	/* It is over with the next renewal that does not say so, and with the session. */
	rig_renew_spare(R, 0, spare, 1);
	rig_renew(R, 0);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	rig_renew_spare(R, 0, spare, 1);
	rig_disconnect(R, 0);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->revocations), 0);
	assert_int_equal(rig_last(R, 2, CONTROL_STATS)->spare_bytes, 0);
	/* Who has asked and gone leaves nothing behind; who does not answer has the usual grace. */
	rig_hello(R, 0, 1, 1);
	rig_renew_spare(R, 0, spare, 1);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	rig_disconnect(R, 2);
	rig_hello(R, 3, 4, 4);
	rig_hello(R, 4, 5, 5); /* in the place of the client that is gone */
	rig_sleep(R, 299);
	assert_int_equal(rig_lease(R, 4, NULL), -ENOSPC);
	rig_sleep(R, 1);
	assert_int_equal(rig_lease(R, 4, &got), 0);
	assert_int_equal(got.region_id, spare[0]);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->forced), 1);
	rig_close(R);
}

static void test_limits(void **state)
{
	struct lease_config cfg = rig_config();

	cfg.client_max_bytes = 3 * RIG_REGION_BYTES;
	cfg.min_bytes = RIG_REGION_BYTES;
	rig_open(R, &cfg, 1);
	rig_hello(R, 0, 1, 1);
	rig_hello(R, 1, 2, 2);
	rig_hello(R, 2, 3, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_lease(R, 0, NULL), 0);
	assert_int_equal(rig_lease(R, 0, NULL), -EDQUOT);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_lease(R, 1, NULL), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_lease(R, 2, NULL), 0);
	assert_int_equal(rig_lease(R, 2, NULL), -ENOSPC);
	/* The target stays within its bounds. */
	lease_book_target_set(rig.book, UINT64_MAX);
	assert_int_equal(rig_last(R, 0, CONTROL_STATS)->number, RIG_REGIONS * RIG_REGION_BYTES);
	lease_book_target_set(rig.book, 0);
	assert_int_equal(rig_last(R, 0, CONTROL_STATS)->number, RIG_REGION_BYTES);
	rig_sleep(R, 300);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->leased_bytes), RIG_REGION_BYTES);
	rig_close(R);
}

static void test_no_memory(void **state)
{
	open_default();
	rig_hello(R, 0, 1, 1);
	rig.fail_alloc = true;
	assert_int_equal(rig_lease(R, 0, NULL), -ENOSPC);
	rig.fail_alloc = false;
	rig.fail_export = true;
	assert_int_equal(rig_lease(R, 0, NULL), -ENOSPC);
	rig.fail_export = false;
	assert_int_equal(rig_lease(R, 0, NULL), 0);
	assert_int_equal(refused(LEASE_REFUSED_MEMORY), 2);
	rig.fail_token = true;
	assert_int_equal(rig_hello(R, 1, 2, 2), -ENOMEM);
	rig.fail_token = false;
	assert_int_equal(rig_hello(R, 2, 2, 2), 0);
	rig_close(R);
}

static void test_sessions_limited(void **state)
{
	open_default();
	for (unsigned i = 0; i < RIG_SESSIONS; i++)
		assert_int_equal(rig_connect(R, i), 0);
	assert_int_equal(rig_connect(R, RIG_SESSIONS), -EBUSY);
	rig_sleep(R, 199);
	assert_true(rig.peers[0].open);
	rig_sleep(R, 1);
	for (unsigned i = 0; i < RIG_SESSIONS; i++) {
		assert_false(rig.peers[i].open);
		assert_int_equal(rig.peers[i].status, -ETIMEDOUT);
	}
	assert_int_equal(refused(LEASE_REFUSED_SESSIONS), 1);
	assert_int_equal(refused(LEASE_REFUSED_HELLO_TIMEOUT), RIG_SESSIONS);
	rig_close(R);
}

static void test_clients_limited(void **state)
{
	open_default();
	for (unsigned i = 0; i < RIG_CLIENTS; i++)
		assert_int_equal(rig_hello(R, i, (uint8_t)(1 + i), 1), 0);
	assert_int_equal(rig_hello(R, 5, 99, 1), -EUSERS);
	/* A client with a lease keeps its place when it is away; one without anything does not. */
	rig_lease(R, 0, NULL);
	rig_disconnect(R, 0);
	assert_int_equal(rig_hello(R, 6, 99, 1), -EUSERS);
	rig_disconnect(R, 1);
	assert_int_equal(rig_hello(R, 7, 99, 1), 0);
	assert_int_equal(rig_hello(R, 8, 1, 1), 0);
	assert_int_equal(rig.peers[8].leases, 1);
	assert_int_equal(refused(LEASE_REFUSED_CLIENTS), 2);
	rig_close(R);
}

static void test_drain(void **state)
{
	struct control_lease l[3];

	open_default();
	rig_hello(R, 0, 1, 1);
	rig_hello(R, 1, 2, 2);
	for (unsigned i = 0; i < 3; i++)
		rig_lease(R, i % 2, &l[i]);
	lease_book_drain(rig.book, 2000);
	assert_true(lease_book_draining(rig.book));
	assert_int_equal(rig_last(R, 0, CONTROL_DRAIN)->number, 2000);
	assert_int_equal(rig_count(R, 0, CONTROL_REVOKE, 0), 2);
	assert_int_equal(rig_count(R, 1, CONTROL_REVOKE, 0), 1);
	assert_int_equal(rig_last(R, 0, CONTROL_REVOKE)->number, 2000);
	assert_int_equal(rig_lease(R, 0, NULL), -ESHUTDOWN);
	assert_int_equal(rig_last(R, 0, CONTROL_STATS)->free_bytes, 0);
	rig_hello(R, 2, 3, 3);
	assert_int_equal(rig_count(R, 2, CONTROL_DRAIN, 0), 1);
	for (unsigned i = 0; i < 2; i++)
		rig_end(R, i % 2, CONTROL_REVOKE_DONE, l[i].region_id, l[i].epoch);
	assert_false(lease_book_idle(rig.book));
	for (unsigned i = 0; i < 4; i++) {
		rig_sleep(R, 400);
		rig_beat(R, 0);
	}
	assert_false(lease_book_idle(rig.book));
	lease_book_drain(rig.book, 10000); /* not longer than it was */
	rig_sleep(R, 400);
	assert_true(lease_book_idle(rig.book));
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->forced), 1);
	rig_close(R);
}

static void test_stats_rate(void **state)
{
	struct lease_config cfg = rig_config();

	cfg.stats_interval_ms = 100;
	rig_open(R, &cfg, 1);
	rig_hello(R, 0, 1, 1);
	rig_sleep(R, 1000 - 1);
	unsigned before = rig.peers[0].count;
	for (unsigned i = 0; i < 5; i++)
		rig_lease(R, 0, NULL);
	assert_int_equal(rig_count(R, 0, CONTROL_STATS, before), 1);
	rig_sleep(R, 100);
	assert_int_equal(rig_count(R, 0, CONTROL_STATS, before), 2);
	assert_int_equal(rig_last(R, 0, CONTROL_STATS)->leased_bytes, 5 * RIG_REGION_BYTES);
	rig_close(R);
}

static void test_tune(void **state)
{
	struct lease_config cfg = rig_config();
	char err[128] = "";

	open_default();
	rig_hello(R, 0, 1, 1);
	for (unsigned i = 0; i < 4; i++)
		rig_lease(R, 0, NULL);
	cfg.max_bytes = 2 * RIG_REGION_BYTES;
	assert_int_equal(lease_book_tune(rig.book, &cfg, err, sizeof(err)), 0);
	rig_sleep(R, 300);
	assert_int_equal(stat_get(&lease_book_stats(rig.book)->leased_bytes), 2 * RIG_REGION_BYTES);
	cfg.max_bytes = (RIG_REGIONS + 1) * RIG_REGION_BYTES;
	assert_int_equal(lease_book_tune(rig.book, &cfg, err, sizeof(err)), -EINVAL);
	assert_true(err[0]);
	cfg.min_bytes = cfg.max_bytes + 1;
	assert_int_equal(lease_config_check(&cfg, err, sizeof(err)), -EINVAL);
	rig_close(R);
}

static void test_close_all(void **state)
{
	open_default();
	rig_hello(R, 0, 1, 1);
	rig_connect(R, 1);
	lease_book_close_all(rig.book, -ESHUTDOWN, "bye");
	assert_false(rig.peers[0].open || rig.peers[1].open);
	rig_close(R);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_secret),
		cmocka_unit_test(test_identity_not_listed),
		cmocka_unit_test(test_superseded),
		cmocka_unit_test(test_lease_and_release),
		cmocka_unit_test(test_wipe_before_reuse),
		cmocka_unit_test(test_expiry),
		cmocka_unit_test(test_revoke),
		cmocka_unit_test(test_revoke_of_a_client_that_is_away),
		cmocka_unit_test(test_spare_makes_way),
		cmocka_unit_test(test_spare_order),
		cmocka_unit_test(test_spare_goes_first),
		cmocka_unit_test(test_spare_is_a_hint),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_sessions_limited),
		cmocka_unit_test(test_clients_limited),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_stats_rate),
		cmocka_unit_test(test_tune),
		cmocka_unit_test(test_close_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
