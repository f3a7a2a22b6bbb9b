/* Frames: golden bytes, round trips, every refusal, and random damage.
 *
 * test_codec GOLDEN_DIR [SEED]; FALLOW_GOLDEN_WRITE=1 writes the golden frames anew instead of
 * comparing. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/control/codec.h"
#include "tests/unit/control/samples.h"

static const char *golden_dir;
static uint64_t seed = 1;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void golden_path(enum control_msg_type type, char *path, size_t cap)
{
	int n = snprintf(path, cap, "%s/control-%s.hex", golden_dir, control_msg_name(type));

	for (char *p = path + n; p > path && *p != '/'; p--)
		*p = *p == '_' ? '-' : (char)tolower(*p);
}

static void golden_write(const char *path, const uint8_t *frame, ssize_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	for (ssize_t i = 0; i < len; i++)
		fprintf(f, "%02x%s", frame[i], i % 32 == 31 || i == len - 1 ? "\n" : " ");
	fclose(f);
}

static ssize_t golden_read(const char *path, uint8_t *frame, size_t cap)
{
	FILE *f = fopen(path, "r");
	size_t n = 0;
	unsigned byte;

	if (!f)
		fail_msg("%s is missing", path);
	while (n < cap && fscanf(f, "%2x", &byte) == 1)
		frame[n++] = (uint8_t)byte;
	fclose(f);
	return (ssize_t)n;
}

static void test_golden(void **state)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES], want[CONTROL_FRAME_MAX_BYTES];
	struct control_msg m, back;
	char path[512];

	for (int t = CONTROL_HELLO; t < CONTROL_MSG_TYPES; t++) {
		sample_msg(t, &m);
		ssize_t len = control_encode(&m, frame, sizeof(frame));
		assert_true(len >= (ssize_t)CONTROL_FRAME_HEADER_BYTES);
		golden_path(t, path, sizeof(path));
		if (getenv("FALLOW_GOLDEN_WRITE"))
			golden_write(path, frame, len);
		assert_int_equal(golden_read(path, want, sizeof(want)), len);
		assert_memory_equal(frame, want, len);
		memset(&back, 0, sizeof(back));
		assert_int_equal(control_decode(want, (size_t)len, &back, NULL), 0);
		/* Equal when it makes the same bytes again. */
		assert_int_equal(back.type, t);
		assert_int_equal(control_encode(&back, want, sizeof(want)), len);
		assert_memory_equal(frame, want, len);
	}
}

static void test_fields(void **state)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	struct control_msg m, back;

	sample_msg(CONTROL_LEASES, &m);
	ssize_t len = control_encode(&m, frame, sizeof(frame));
	memset(&back, 0xff, sizeof(back));
	assert_int_equal(control_decode(frame, (size_t)len, &back, NULL), 0);
	assert_int_equal(back.leases.count, 2);
	assert_true(back.leases.more);
	for (int i = 0; i < 2; i++) {
		const struct control_lease *a = &m.leases.lease[i], *b = &back.leases.lease[i];
		assert_true(a->region_id == b->region_id && a->epoch == b->epoch &&
			    a->len_bytes == b->len_bytes && a->ttl_ms == b->ttl_ms &&
			    a->tcp_key == b->tcp_key && a->verbs_rkey == b->verbs_rkey &&
			    a->verbs_raddr == b->verbs_raddr && a->revoking == b->revoking &&
			    a->revoke_ms == b->revoke_ms);
	}
	sample_msg(CONTROL_HELLO, &m);
	len = control_encode(&m, frame, sizeof(frame));
	assert_int_equal(control_decode(frame, (size_t)len, &back, NULL), 0);
	assert_string_equal(back.hello.name, "host-1");
	assert_memory_equal(back.hello.identity, m.hello.identity, 16);
	assert_memory_equal(back.hello.secret, m.hello.secret, 16);
}

static void test_full_lists_fit(void **state)
{
	static uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	static struct control_msg m, back;

	m.type = CONTROL_LEASES;
	m.leases.count = CONTROL_LEASES_PER_MSG;
	for (unsigned i = 0; i < CONTROL_LEASES_PER_MSG; i++)
		m.leases.lease[i] = (struct control_lease){UINT64_MAX - i, UINT64_MAX, 1ull << 40,
			UINT32_MAX, UINT64_MAX, UINT32_MAX, UINT64_MAX - (1ull << 40), true,
			UINT32_MAX};
	ssize_t len = control_encode(&m, frame, sizeof(frame));
	assert_true(len > 0);
	assert_int_equal(control_decode(frame, (size_t)len, &back, NULL), 0);
	assert_int_equal(back.leases.count, CONTROL_LEASES_PER_MSG);
	assert_true(back.leases.lease[255].region_id == UINT64_MAX - 255);
	assert_int_equal(control_encode(&m, frame, (size_t)len - 1), -ENOBUFS);
	m.leases.count++;
	assert_int_equal(control_encode(&m, frame, sizeof(frame)), -EINVAL);
	memset(&m, 0, sizeof(m));
	m.type = CONTROL_LEASE_RENEW;
	m.lease_renew.count = CONTROL_SPARE_PER_MSG;
	for (unsigned i = 0; i < CONTROL_SPARE_PER_MSG; i++)
		m.lease_renew.spare[i] = UINT64_MAX - i;
	len = control_encode(&m, frame, sizeof(frame));
	assert_true(len > 0);
	assert_int_equal(control_decode(frame, (size_t)len, &back, NULL), 0);
	assert_int_equal(back.lease_renew.count, CONTROL_SPARE_PER_MSG);
	assert_memory_equal(
		back.lease_renew.spare, m.lease_renew.spare, sizeof(m.lease_renew.spare));
	m.lease_renew.count++;
	assert_int_equal(control_encode(&m, frame, sizeof(frame)), -EINVAL);
}

static void refuse_msg(const struct control_msg *m)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];

	assert_int_equal(control_encode(m, frame, sizeof(frame)), -EINVAL);
}

static void test_encode_refuses(void **state)
{
	struct control_msg m;

	sample_msg(CONTROL_HELLO, &m);
	m.hello.version_min = 2;
	refuse_msg(&m);
	sample_msg(CONTROL_HELLO, &m);
	memset(m.hello.name, 'x', sizeof(m.hello.name));
	refuse_msg(&m);
	sample_msg(CONTROL_HELLO, &m);
	strcpy(m.hello.name, "a\nb");
	refuse_msg(&m);
	sample_msg(CONTROL_HELLO, &m);
	strcpy(m.hello.name, "\xc0\xaf");
	refuse_msg(&m);
	sample_msg(CONTROL_HELLO, &m);
	memset(m.hello.identity, 0, 16);
	refuse_msg(&m);
	sample_msg(CONTROL_LEASE_GRANT, &m);
	m.lease_grant.lease.len_bytes = 4097;
	refuse_msg(&m);
	sample_msg(CONTROL_LEASE_GRANT, &m);
	m.lease_grant.status = 1;
	refuse_msg(&m);
	sample_msg(CONTROL_REVOKE, &m);
	m.revoke.epoch = 0;
	refuse_msg(&m);
	sample_msg(CONTROL_STATS, &m);
	m.stats.free_bytes = m.stats.total_bytes + 1;
	refuse_msg(&m);
	m.type = CONTROL_MSG_TYPES;
	refuse_msg(&m);
	sample_msg(CONTROL_HELLO, &m);
	strcpy(m.hello.name, "Bücherei-\xe6\x9c\xac");
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	assert_true(control_encode(&m, frame, sizeof(frame)) > 0);
}

/* A frame around a body given byte by byte. */
static int decode_raw(
	uint16_t version, uint16_t type, const void *body, size_t len, const char **why)
{
	static struct control_msg m;
	uint8_t frame[CONTROL_FRAME_MAX_BYTES] = {(uint8_t)(len + 4), (uint8_t)((len + 4) >> 8), 0,
		0, (uint8_t)version, (uint8_t)(version >> 8), (uint8_t)type, (uint8_t)(type >> 8)};

	memcpy(frame + 8, body, len);
	return control_decode(frame, len + 8, &m, why);
}

static void test_decode_refuses(void **state)
{
	const char *why = NULL;

	assert_int_equal(decode_raw(2, CONTROL_LEASE_RENEW, "", 0, &why), -EPROTONOSUPPORT);
	assert_non_null(why);
	assert_int_equal(decode_raw(0, CONTROL_LEASE_RENEW, "", 0, &why), -EPROTONOSUPPORT);
	assert_int_equal(decode_raw(1, 0, "", 0, &why), -EOPNOTSUPP);
	assert_int_equal(decode_raw(1, CONTROL_MSG_TYPES, "", 0, &why), -EOPNOTSUPP);
	assert_int_equal(decode_raw(1, CONTROL_HEARTBEAT, "\x08", 1, &why), -EBADMSG);
	assert_int_equal(decode_raw(1, CONTROL_HEARTBEAT, "\xff\xff\xff", 3, &why), -EBADMSG);
	/* HELLO with an identity of 2 bytes */
	assert_int_equal(
		decode_raw(1, CONTROL_HELLO, "\x08\x01\x10\x01\x1a\x02zz", 8, &why), -EBADMSG);
	assert_string_equal(why, "hello: identity or secret is not 16 bytes");
	/* LEASE_GRANT of status 0 without a lease */
	assert_int_equal(decode_raw(1, CONTROL_LEASE_GRANT, "\x08\x01", 2, &why), -EBADMSG);
	assert_int_equal(decode_raw(1, CONTROL_LEASE_RELEASE, "", 0, &why), -EBADMSG);
	assert_string_equal(why, "lease_release.epoch is 0");
	/* unknown fields (number 15, varint 1) are skipped */
	assert_int_equal(decode_raw(1, CONTROL_HEARTBEAT, "\x08\x05\x78\x01", 4, &why), 0);
	assert_null(why);
	assert_int_equal(decode_raw(1, CONTROL_LEASE_RENEW, "\x78\x01", 2, &why), 0);
}

static void test_lengths(void **state)
{
	uint8_t frame[CONTROL_FRAME_MAX_BYTES];
	struct control_msg m;

	sample_msg(CONTROL_HEARTBEAT, &m);
	ssize_t len = control_encode(&m, frame, sizeof(frame));
	for (ssize_t i = 0; i < 4; i++)
		assert_int_equal(control_frame_length(frame, (size_t)i), 0);
	assert_int_equal(control_frame_length(frame, 4), len);
	for (ssize_t i = 0; i < len; i++)
		assert_int_equal(control_decode(frame, (size_t)i, &m, NULL), -EMSGSIZE);
	assert_int_equal(control_frame_length("\x03\0\0\0", 4), -EMSGSIZE);
	assert_int_equal(control_frame_length("\xff\xff\xff\xff", 4), -EMSGSIZE);
	assert_int_equal(control_frame_length("\xfd\x7f\0\0", 4), -EMSGSIZE);
	assert_int_equal(control_frame_length("\xfc\x7f\0\0", 4), CONTROL_FRAME_MAX_BYTES);
}

/* More than the decoder's memory can hold is refused, not allocated. */
static void test_memory_bounded(void **state)
{
	static uint8_t body[CONTROL_FRAME_MAX_BYTES - 8];
	const char *why;

	for (size_t i = 0; i + 1 < sizeof(body); i += 2)
		memcpy(body + i, "\x78\x01", 2); /* 16380 unknown fields */
	assert_int_equal(decode_raw(1, CONTROL_HEARTBEAT, body, sizeof(body), &why), -EBADMSG);
	for (size_t i = 0; i + 1 < sizeof(body); i += 2)
		memcpy(body + i, "\x0a\x00", 2); /* 16380 empty leases */
	assert_int_equal(decode_raw(1, CONTROL_LEASES, body, sizeof(body), &why), -EBADMSG);
	for (size_t i = 0; i < 2 * 257; i += 2)
		memcpy(body + i, "\x0a\x00", 2);
	assert_int_equal(decode_raw(1, CONTROL_LEASES, body, 2 * 257, &why), -EBADMSG);
	assert_string_equal(why, "leases: more than 256 in one message");
	for (size_t i = 0; i < 2 * 1025; i += 2)
		memcpy(body + i, "\x08\x01", 2);
	assert_int_equal(decode_raw(1, CONTROL_LEASE_RENEW, body, 2 * 1025, &why), -EBADMSG);
	assert_string_equal(why, "lease_renew: more than 1024 spare regions");
	assert_int_equal(decode_raw(1, CONTROL_LEASE_RENEW, body, 2 * 1024, &why), 0);
}

/* Whatever a frame holds: it is refused, or what was read can be written again. */
static void test_random_damage(void **state)
{
	static uint8_t frame[CONTROL_FRAME_MAX_BYTES], again[CONTROL_FRAME_MAX_BYTES];
	static struct control_msg m, back;

	print_message("seed %llu\n", (unsigned long long)seed);
	for (unsigned i = 0; i < 200000; i++) {
		sample_msg(CONTROL_HELLO + rnd() % (CONTROL_MSG_TYPES - 1), &m);
		ssize_t len = control_encode(&m, frame, sizeof(frame));
		for (unsigned k = rnd() % 4; k; k--)
			frame[4 + rnd() % (uint64_t)(len - 4)] = (uint8_t)rnd();
		if (control_decode(frame, (size_t)len, &back, NULL))
			continue;
		assert_true(control_encode(&back, again, sizeof(again)) > 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_fields),
		cmocka_unit_test(test_full_lists_fit),
		cmocka_unit_test(test_encode_refuses),
		cmocka_unit_test(test_decode_refuses),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_memory_bounded),
		cmocka_unit_test(test_random_damage),
	};

	if (argc < 2) {
		fprintf(stderr, "usage: %s GOLDEN_DIR [SEED]\n", argv[0]);
		return 2;
	}
	golden_dir = argv[1];
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 0) | 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
