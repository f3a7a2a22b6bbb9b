/* Waits until the process that served a state_dir before is gone, with all that it held. */
#ifndef FALLOW_BACKEND_PREDECESSOR_H
#define FALLOW_BACKEND_PREDECESSOR_H

#include <stddef.h>

/*
 * A killed process lives on while the kernel closes its files one by one, in an order that it does
 * not promise: a lock may be free while a queue pair still writes to a guest's memory. Reads
 * DIR/process, waits until that process has ended (its parent need not have taken notice), then
 * writes this one there. Called after the locks were had and before any guest is served. Blocks,
 * limit_ms at most; at start only.
 *
 * 0; -EBUSY it has not ended; other negative errnos; each with one sentence in err.
 */
int predecessor_wait(const char *dir, unsigned limit_ms, char *err, size_t err_bytes);

#endif
