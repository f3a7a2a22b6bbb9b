/* An answer to come: how parts of fallowd's control thread wait for each other and for the lanes.
 */
#ifndef FALLOW_BACKEND_CALL_H
#define FALLOW_BACKEND_CALL_H

#include <stdint.h>

/*
 * Owned by whoever asks, embedded in its own struct, untouched until done() was called. Whoever was
 * asked calls done() exactly once, on the control thread, from within the call that asked or later,
 * and within a bounded time. status: 0 or a negative errno; value: what the asked operation says.
 */
struct backend_call {
	void (*done)(struct backend_call *call, int status, uint64_t value);
};

#endif
