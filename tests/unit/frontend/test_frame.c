/* The control frames byte by byte: the golden files, and what is refused for which reason. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "client-backend/frontend/socket_frame.h"

static const char *golden_dir;

/* Reads "00 11 # comment" into bytes. */
static size_t golden_read(const char *name, uint8_t *buf, size_t size)
{
	char path[512];
	int c;
	size_t n = 0;
	snprintf(path, sizeof(path), "%s/socket-%s.hex", golden_dir, name);
	FILE *f = fopen(path, "r");
	if (!f)
		fail_msg("cannot open %s", path);
	while ((c = fgetc(f)) != EOF) {
		unsigned byte;
		if (c == '#') {
			while (c != '\n' && c != EOF)
				c = fgetc(f);
			continue;
		}
		if (c == ' ' || c == '\n')
			continue;
		ungetc(c, f);
		assert_int_equal(fscanf(f, "%2x", &byte), 1);
		assert_true(n < size);
		buf[n++] = (uint8_t)byte;
	}
	fclose(f);
	return n;
}

static void golden_check(const char *name, const void *frame, size_t len)
{
	uint8_t want[512];
	size_t n = golden_read(name, want, sizeof(want));
	if (n != len || memcmp(want, frame, len) != 0) {
		printf("# %s is now:\n", name);
		for (size_t i = 0; i < len; i++)
			printf("%02x%s", ((const uint8_t *)frame)[i], i % 16 == 15 ? "\n" : " ");
		printf("\n");
	}
	assert_int_equal(n, len);
	assert_memory_equal(want, frame, len);
}

static struct socket_hello hello(void)
{
	struct socket_hello q = {.h = {.len_bytes = sizeof(q), .type = SOCKET_HELLO, .sequence = 1},
		.magic = SOCKET_MAGIC,
		.version_min = 1,
		.version_max = 1,
		.name = "program"};
	for (unsigned i = 0; i < 16; i++)
		q.token[i] = (uint8_t)(0xa0 + i);
	return q;
}

static struct socket_pool_open pool_open(void)
{
	struct socket_pool_open q = {
		.h = {.len_bytes = sizeof(q), .type = SOCKET_POOL_OPEN, .sequence = 2},
		.flags = SOCKET_POOL_PERSISTENT | SOCKET_POOL_SHARED,
		.id = 0x01020304,
		.codec = SOCKET_CODEC_ZSTD,
		.copies = 2,
		.disk = SOCKET_DISK_MIRROR,
		.name = "pool"};
	for (unsigned i = 0; i < 16; i++) {
		q.uuid[i] = (uint8_t)(0x10 + i);
		q.secret[i] = (uint8_t)(0x20 + i);
	}
	return q;
}

static void test_golden(void **state)
{
	union socket_question out;
	enum socket_violation why;
	struct socket_hello h = hello();
	golden_check("hello", &h, sizeof(h));
	assert_int_equal(socket_frame_parse(&h, sizeof(h), &out, &why), sizeof(h));
	struct socket_pool_open o = pool_open();
	golden_check("pool-open", &o, sizeof(o));
	assert_int_equal(socket_frame_parse(&o, sizeof(o), &out, &why), sizeof(o));
	assert_memory_equal(&out, &o, sizeof(o));
	struct socket_pool_ref r = {
		.h = {.len_bytes = sizeof(r), .type = SOCKET_POOL_DESTROY, .sequence = 3},
		.id = 0x11223344};
	golden_check("pool-destroy", &r, sizeof(r));
	assert_int_equal(socket_frame_parse(&r, sizeof(r), &out, &why), sizeof(r));
	r.h.type = SOCKET_POOL_CLOSE;
	golden_check("pool-close", &r, sizeof(r));
	r.h.type = SOCKET_POOL_STATS;
	golden_check("pool-stats", &r, sizeof(r));
	struct socket_plain b = {.h = {.len_bytes = sizeof(b), .type = SOCKET_BYE, .sequence = 5}};
	golden_check("bye", &b, sizeof(b));
	assert_int_equal(socket_frame_parse(&b, sizeof(b), &out, &why), sizeof(b));
	b.h.type = SOCKET_LIMITS;
	golden_check("limits", &b, sizeof(b));
	struct socket_hello_ack k = {
		.h = {.len_bytes = sizeof(k), .type = SOCKET_HELLO_ACK, .sequence = 1},
		.magic = SOCKET_MAGIC,
		.version = 1,
		.lanes = 4,
		.slots = 64,
		.resumed = 1,
		.lane_bytes = socket_lane_bytes(64),
		.request_timeout_ms = 30000};
	memcpy(k.token, h.token, sizeof(k.token));
	golden_check("hello-ack", &k, sizeof(k));
	struct socket_answer a = {.h = {.len_bytes = sizeof(a),
					  .type = SOCKET_ANSWER,
					  .sequence = 9,
					  .status = -ENOENT},
		.value = 0x1122334455667788,
		.limit_pages = UINT64_MAX,
		.max_pools = 64};
	golden_check("answer", &a, sizeof(a));
}

static void refused(const void *frame, size_t len, enum socket_violation want)
{
	union socket_question out;
	enum socket_violation why = SOCKET_VIOLATION_NONE;
	assert_int_equal(socket_frame_parse(frame, len, &out, &why), -EPROTO);
	assert_int_equal(why, want);
	assert_string_not_equal(socket_violation_name(why), "unknown");
}

static void test_refused(void **state)
{
	union socket_question out;
	enum socket_violation why;
	struct socket_hello h = hello();
	for (size_t n = 0; n < sizeof(h); n++)
		assert_int_equal(socket_frame_parse(&h, n, &out, &why), 0);
	h.h.len_bytes--;
	refused(&h, sizeof(h.h), SOCKET_VIOLATION_FRAME_LENGTH);
	h = hello();
	h.h.len_bytes = UINT32_MAX;
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_LENGTH);
	for (unsigned type = 0; type < 0x10000; type += 7) {
		h = hello();
		h.h.type = (uint16_t)type;
		if (type == 0 || type == SOCKET_HELLO_ACK || type >= SOCKET_ANSWER)
			refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_TYPE);
	}
	h = hello();
	h.h.reserved = 1;
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	h.h.status = -1;
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	h.magic++;
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	h.version_min = 2;
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	memset(h.name, 'x', sizeof(h.name));
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	h.name[20] = 'x'; /* after the end */
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	h = hello();
	h.name[2] = '\n';
	refused(&h, sizeof(h), SOCKET_VIOLATION_FRAME_FIELD);
	for (unsigned i = 0; i < sizeof(((struct socket_pool_open *)0)->reserved); i++) {
		struct socket_pool_open o = pool_open();
		o.reserved[i] = 1;
		refused(&o, sizeof(o), SOCKET_VIOLATION_FRAME_FIELD);
	}
	struct socket_pool_ref r = {
		.h = {.len_bytes = sizeof(r), .type = SOCKET_POOL_STATS}, .reserved = 1};
	refused(&r, sizeof(r), SOCKET_VIOLATION_FRAME_FIELD);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_refused),
	};
	if (argc < 2) {
		fprintf(stderr, "usage: %s DIRECTORY-OF-GOLDEN-FRAMES\n", argv[0]);
		return 2;
	}
	golden_dir = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
