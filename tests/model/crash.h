/* The crash test: children killed in the middle of engine calls, and what must survive that. */
#ifndef FALLOW_TEST_CRASH_H
#define FALLOW_TEST_CRASH_H

#include <stdint.h>

#include "tests/model/run.h"

/*
 * Runs a seed's world; `kills` times a child continues it over the same arena and the same (shared)
 * donors and is ended by SIGKILL at a random instant of real time. A log in shared memory says
 * which calls were acknowledged; the parent then reopens the arena: those must be visible, the
 * others may be either way. Prints a line; 0, or negative after a message.
 */
int crash_test(const struct run_options *opt, uint64_t kills);

#endif
