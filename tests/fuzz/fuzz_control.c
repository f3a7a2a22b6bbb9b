/* Fuzzes control frames: whatever is accepted can be written again and reads as the same message.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/control/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input is a stream of frames, as a session would see it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct control_msg m, back;
	static uint8_t once[CONTROL_FRAME_MAX_BYTES], twice[CONTROL_FRAME_MAX_BYTES];
	const char *why;

	while (size) {
		ssize_t len = control_frame_length(data, size);
		if (len <= 0 || (size_t)len > size)
			return 0;
		int rc = control_decode(data, (size_t)len, &m, &why);
		if (!rc == !!why)
			abort();
		if (!rc) {
			ssize_t a = control_encode(&m, once, sizeof(once));
			if (a <= 0 || control_decode(once, (size_t)a, &back, NULL))
				abort();
			ssize_t b = control_encode(&back, twice, sizeof(twice));
			if (a != b || memcmp(once, twice, (size_t)a))
				abort();
		}
		data += len;
		size -= (size_t)len;
	}
	return 0;
}
