/* Page contents: same-filled detection, compression, and when not to bother. */
#include "client-backend/engine/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <lz4.h>
#include <zstd.h>

#include "client-backend/engine/engine.h"

/* Compressed pages that save less than an eighth are kept raw: the get is then a copy. */
#define CODEC_WORTH_BYTES (ENGINE_PAGE_BYTES - ENGINE_PAGE_BYTES / 8)

struct codec {
	LZ4_stream_t lz4;
	ZSTD_CCtx *zstd_in;
	ZSTD_DCtx *zstd_out;
	int level;
};

int codec_new(uint32_t zstd_level, struct codec **out)
{
	struct codec *c = calloc(1, sizeof(*c));
	char page[ENGINE_PAGE_BYTES] = {0}, room[ENGINE_PAGE_BYTES];
	uint8_t codec = ENGINE_CODEC_ZSTD;

	if (!c)
		return -ENOMEM;
	LZ4_initStream(&c->lz4, sizeof(c->lz4));
	c->zstd_in = ZSTD_createCCtx();
	c->zstd_out = ZSTD_createDCtx();
	c->level = (int)zstd_level;
	if (!c->zstd_in || !c->zstd_out) {
		codec_delete(c);
		return -ENOMEM;
	}
	/* The first use allocates zstd's work space; later ones find it. */
	uint32_t len = codec_encode(c, page, room, &codec);
	if (codec == ENGINE_CODEC_ZSTD && codec_decode(c, codec, room, len, page) != 0) {
		codec_delete(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}

void codec_delete(struct codec *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->zstd_in);
	ZSTD_freeDCtx(c->zstd_out);
	free(c);
}

void codec_set_level(struct codec *c, uint32_t zstd_level)
{
	c->level = (int)zstd_level;
}

bool codec_same_filled(const void *page, uint32_t *word)
{
	const uint8_t *p = page;
	uint32_t w, middle, last;

	memcpy(&w, p, sizeof(w));
	memcpy(&middle, p + ENGINE_PAGE_BYTES / 2, sizeof(middle));
	memcpy(&last, p + ENGINE_PAGE_BYTES - sizeof(last), sizeof(last));
	if (w != middle || w != last) /* most pages differ there at once */
		return false;
	if (memcmp(p, p + 4, ENGINE_PAGE_BYTES - 4) != 0)
		return false;
	*word = w;
	return true;
}

void codec_fill(void *page, uint32_t word)
{
	uint64_t w = (uint64_t)word << 32 | word;

	for (unsigned i = 0; i < ENGINE_PAGE_BYTES; i += sizeof(w))
		memcpy((uint8_t *)page + i, &w, sizeof(w));
}

/*
 * A guess at incompressible contents from 256 bytes, 8 at each of 32 places: how many different
 * byte values they show. Random bytes show 162 on average (256 (1 - 1/e)) with a standard deviation
 * of about 5; text shows fewer than 80, code and data structures fewer than 130. A wrong guess
 * costs space or time, never data.
 */
static bool looks_random(const uint8_t *page)
{
	uint8_t seen[256] = {0};
	unsigned distinct = 0;

	for (unsigned i = 0; i < 32; i++) {
		uint64_t v;

		memcpy(&v, page + i * (ENGINE_PAGE_BYTES / 32) + (i & 7) * 8, sizeof(v));
		for (unsigned b = 0; b < 8; b++, v >>= 8)
			seen[v & 0xff] = 1;
	}
	for (unsigned i = 0; i < sizeof(seen); i++)
		distinct += seen[i];
	return distinct >= 145;
}

/* The raw form is written first: the copy streams the page into the cache for the guess and the
 * compressor, and it stands when they find nothing to gain. */
uint32_t codec_encode(struct codec *c, const void *page, void *out, uint8_t *codec)
{
	uint8_t want = *codec;
	size_t n = 0;

	memcpy(out, page, ENGINE_PAGE_BYTES);
	*codec = ENGINE_CODEC_NONE;
	if (want == ENGINE_CODEC_NONE || looks_random(page))
		return ENGINE_PAGE_BYTES;
	/* For inputs this short extState uses 16-bit table entries: a third faster than the
	 * streaming form. */
	if (want == ENGINE_CODEC_LZ4)
		n = (size_t)LZ4_compress_fast_extState(
			&c->lz4, page, out, ENGINE_PAGE_BYTES, CODEC_WORTH_BYTES, 1);
	else
		n = ZSTD_compressCCtx(
			c->zstd_in, out, CODEC_WORTH_BYTES, page, ENGINE_PAGE_BYTES, c->level);
	if (n == 0 || ZSTD_isError(n)) {
		memcpy(out, page, ENGINE_PAGE_BYTES); /* the compressor left its attempt there */
		return ENGINE_PAGE_BYTES;
	}
	*codec = want;
	return (uint32_t)n;
}

int codec_decode(struct codec *c, uint8_t codec, const void *payload, uint32_t len, void *page)
{
	switch (codec) {
	case ENGINE_CODEC_NONE:
		if (len != ENGINE_PAGE_BYTES)
			return -EBADMSG;
		memcpy(page, payload, ENGINE_PAGE_BYTES);
		return 0;
	case ENGINE_CODEC_LZ4:
		if (LZ4_decompress_safe(payload, page, (int)len, ENGINE_PAGE_BYTES) !=
			(int)ENGINE_PAGE_BYTES)
			return -EBADMSG;
		return 0;
	case ENGINE_CODEC_ZSTD:
		if (ZSTD_decompressDCtx(c->zstd_out, page, ENGINE_PAGE_BYTES, payload, len) !=
			ENGINE_PAGE_BYTES)
			return -EBADMSG;
		return 0;
	default:
		return -EBADMSG;
	}
}
