/* Reads what the pressure policy looks at: /proc/meminfo and /proc/pressure/memory. */
#ifndef FALLOW_MEMSERVER_PRESSURE_LINUX_H
#define FALLOW_MEMSERVER_PRESSURE_LINUX_H

#include "memserver/pressure.h"

/*
 * Paths are settings, so that a test can hand in its own files. Each call opens, reads at most 16
 * KiB and closes; files of /proc do not block.
 */
/* MemTotal and MemAvailable in bytes. -EBADMSG: a line is missing; or the errno of reading. */
int pressure_meminfo_read(const char *path, uint64_t *total_bytes, uint64_t *available_bytes);
/* Fills in has_psi, some_avg10, full_avg10. A kernel without PSI: has_psi is false, 0 is returned.
 * -EBADMSG: the file is not understood (has_psi is false then, too). */
int pressure_psi_read(const char *path, struct pressure_sample *out);
/*
 * A descriptor that polls with POLLPRI when tasks stalled on memory for stall_us within window_us
 * (500000 to 10000000). -EACCES, -EOPNOTSUPP and others where that is not permitted: look at
 * intervals only.
 */
int pressure_psi_watch(const char *path, uint32_t stall_us, uint32_t window_us);

#endif
