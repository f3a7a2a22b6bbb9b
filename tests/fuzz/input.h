/* A fuzz target's input, taken piece by piece: zeros once it is used up. */
#ifndef FALLOW_FUZZ_INPUT_H
#define FALLOW_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The rest of the input. */
struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
		v |= (uint64_t)*in->at++ << 8 * i;
	return v;
}

static inline void take_bytes(struct input *in, void *to, size_t bytes)
{
	size_t n = bytes < in->left ? bytes : in->left;
	memset(to, 0, bytes);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

#endif
