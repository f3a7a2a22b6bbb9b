/* Page contents: same-filled detection, compression, and when not to bother. */
#ifndef FALLOW_ENGINE_CODEC_H
#define FALLOW_ENGINE_CODEC_H

#include <stdbool.h>
#include <stdint.h>

struct codec;

/* zstd_level 1..19. Allocates all that it will ever need. */
int codec_new(uint32_t zstd_level, struct codec **out);
void codec_delete(struct codec *c);
void codec_set_level(struct codec *c, uint32_t zstd_level);
/* True when the page is one 32-bit word repeated. */
bool codec_same_filled(const void *page, uint32_t *word);
void codec_fill(void *page, uint32_t word);
/*
 * Writes the page's stored form to out (ENGINE_PAGE_BYTES of room) and returns its length in bytes;
 * *codec is the wanted codec on entry and the one used on return (ENGINE_CODEC_NONE when it was not
 * worth it).
 */
uint32_t codec_encode(struct codec *c, const void *page, void *out, uint8_t *codec);
/* 0, or -EBADMSG when the payload is not a page in this codec. page gets ENGINE_PAGE_BYTES. */
int codec_decode(struct codec *c, uint8_t codec, const void *payload, uint32_t len, void *page);

#endif
