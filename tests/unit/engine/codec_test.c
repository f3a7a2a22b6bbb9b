/* Page contents: every codec gives back what it took; damaged payloads are refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client-backend/engine/codec.h"
#include "client-backend/engine/engine.h"

static struct codec *codec;

static int setup(void **state)
{
	(void)state;
	return codec_new(1, &codec);
}

static int teardown(void **state)
{
	(void)state;
	codec_delete(codec);
	return 0;
}

static void fill_text(uint8_t *page)
{
	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i++)
		page[i] = (uint8_t) "the quick brown fox "[(i * i / 7) % 20];
}

static void fill_random(uint8_t *page)
{
	uint32_t x = 2463534242u;

	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		page[i] = (uint8_t)x;
	}
}

static void round_trip(uint8_t want, void (*fill)(uint8_t *), uint8_t expect)
{
	uint8_t page[ENGINE_PAGE_BYTES], out[ENGINE_PAGE_BYTES], back[ENGINE_PAGE_BYTES];
	uint8_t used = want;

	fill(page);
	uint32_t len = codec_encode(codec, page, out, &used);

	assert_int_equal(used, expect);
	assert_true(len >= 1 && len <= ENGINE_PAGE_BYTES);
	assert_true(used != ENGINE_CODEC_NONE || len == ENGINE_PAGE_BYTES);
	assert_int_equal(codec_decode(codec, used, out, len, back), 0);
	assert_memory_equal(page, back, sizeof(page));
	if (used != ENGINE_CODEC_NONE)
		assert_int_equal(codec_decode(codec, used, out, len - 1, back), -EBADMSG);
}

static void compressible_pages_are_compressed(void **state)
{
	(void)state;
	round_trip(ENGINE_CODEC_LZ4, fill_text, ENGINE_CODEC_LZ4);
	round_trip(ENGINE_CODEC_ZSTD, fill_text, ENGINE_CODEC_ZSTD);
	round_trip(ENGINE_CODEC_NONE, fill_text, ENGINE_CODEC_NONE);
}

static void incompressible_pages_stay_raw(void **state)
{
	(void)state;
	round_trip(ENGINE_CODEC_LZ4, fill_random, ENGINE_CODEC_NONE);
	round_trip(ENGINE_CODEC_ZSTD, fill_random, ENGINE_CODEC_NONE);
}

/* Few byte values, so the guess says text; but no repetition, so the compressor gives up. */
static void fill_hard(uint8_t *page)
{
	fill_random(page);
	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i++)
		page[i] &= 0x7f;
}

static void a_compressor_that_gives_up_leaves_the_page_raw(void **state)
{
	(void)state;
	round_trip(ENGINE_CODEC_LZ4, fill_hard, ENGINE_CODEC_NONE);
}

static void same_filled_pages_are_one_word(void **state)
{
	(void)state;
	uint8_t page[ENGINE_PAGE_BYTES], back[ENGINE_PAGE_BYTES];
	uint32_t word;

	for (uint32_t w = 0; w < 4; w++) {
		codec_fill(page, w * 0x12345679u);
		assert_true(codec_same_filled(page, &word));
		assert_int_equal(word, w * 0x12345679u);
		codec_fill(back, word);
		assert_memory_equal(page, back, sizeof(page));
	}
	for (unsigned at = 0; at < ENGINE_PAGE_BYTES; at += 97) {
		codec_fill(page, 7);
		page[at] ^= 1;
		assert_false(codec_same_filled(page, &word));
	}
}

static void unknown_codecs_are_refused(void **state)
{
	(void)state;
	uint8_t page[ENGINE_PAGE_BYTES] = {0};

	assert_int_equal(codec_decode(codec, 3, page, 100, page), -EBADMSG);
	assert_int_equal(codec_decode(codec, ENGINE_CODEC_NONE, page, 100, page), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(compressible_pages_are_compressed),
		cmocka_unit_test(incompressible_pages_stay_raw),
		cmocka_unit_test(a_compressor_that_gives_up_leaves_the_page_raw),
		cmocka_unit_test(same_filled_pages_are_one_word),
		cmocka_unit_test(unknown_codecs_are_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
