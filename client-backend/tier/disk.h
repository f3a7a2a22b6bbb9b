/* The disk tier of one lane: a preallocated file of segment slots, read and written over io_uring.
 */
#ifndef FALLOW_TIER_DISK_H
#define FALLOW_TIER_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * One disk belongs to one lane (a thread); all functions are for that thread, never block (but for
 * tier_disk_open() and tier_disk_close()) and, after tier_disk_open(), never allocate. Transfers
 * pass through the disk's own buffers: an io that the kernel does not return in time is ended with
 * -EIO and the caller's buffer is the caller's again, while the kernel keeps the disk's buffer for
 * as long as it likes. Until it gives that buffer back, other ios to the same range are refused
 * with -EAGAIN, so that a late write never lands over a newer one.
 */
struct tier_disk;

struct tier_disk_config {
	const char *path; /* a directory (the lane's file is made in it) or a block device that
			   * the lanes share by offset; copied */
	unsigned lane,
		lanes; /* which lane this is; lanes on one device are opened in order, 0 first */
	uint32_t segments;	/* slots; 1.. */
	uint32_t segment_bytes; /* a multiple of 4096; the longest io */
	uint32_t depth; /* ios in flight at a time, 1..256; each has a buffer of segment_bytes */
	bool direct;	/* O_DIRECT; where the file system refuses it, tier_disk_direct() tells */
	uint64_t timeout_ns; /* an io that takes longer ends with -EIO; 0: never */
};

struct tier_disk_stats {
	stat_t reads, writes, bytes_read, bytes_written; /* ended well */
	stat_t errors;					 /* failed or short at the kernel */
	stat_t refused;	  /* malformed, out of the file, queue full, or range still held */
	stat_t timeouts;  /* ended because the kernel did not answer in time */
	stat_t in_flight; /* gauge: ios of the caller's */
	stat_t stalled;	  /* gauge: buffers that the kernel holds past their io's end */
	struct hist io_ns;
};

/*
 * Makes (mode 0600) and preallocates the lane's file, or opens the device, and sets up the ring. A
 * file that is there keeps its content. May block and allocates. *out is the caller's. err gets one
 * sentence on failure: -EINVAL a bad value or a device too small; -EBUSY another process uses it;
 * -ENOSPC no room for the file; -ENOSYS, -EPERM no io_uring here; else the errno of the call that
 * failed.
 */
int tier_disk_open(const struct tier_disk_config *cfg, const struct env *env,
	struct tier_disk **out, char *err, size_t err_bytes);
/* Waits for what the kernel still holds until nothing comes back for timeout_ns (1 s when that is
 * 0), then leaves those buffers behind unfreed. done(-ECANCELED) is called for ios that were still
 * in flight; it must not start others. */
void tier_disk_close(struct tier_disk *d);
/* False: O_DIRECT was asked for and refused by the file system (worth a warning), or not asked for.
 */
bool tier_disk_direct(const struct tier_disk *d);
const struct tier_disk_stats *tier_disk_stats(const struct tier_disk *d);

/*
 * Starts a transfer of an engine_io with region == NULL; offset, len and buf are multiples of 4096
 * and offset counts from this lane's first slot. For a write, buf is copied before the call
 * returns. 0: done() will be called exactly once, from tier_disk_poll() or tier_disk_close(), with
 * 0 or -EIO (failed, short or not in time). -EAGAIN: depth ios in flight, or the range is held by a
 * stalled io; -EINVAL: malformed.
 */
int tier_disk_read(struct tier_disk *d, struct engine_io *io);
int tier_disk_write(struct tier_disk *d, struct engine_io *io);
/* Submits what tier_disk_read() and tier_disk_write() queued. */
void tier_disk_kick(struct tier_disk *d);
/* Completes ios and ends those past their limit; returns how many done() calls were made. */
int tier_disk_poll(struct tier_disk *d);
/* The time at which an io in flight passes its limit (monotonic ns; UINT64_MAX: none): poll by
 * then. */
uint64_t tier_disk_deadline_ns(const struct tier_disk *d);
/* Readable while completions wait since the last tier_disk_poll(); for the lane's sleep. */
int tier_disk_event_fd(const struct tier_disk *d);

#endif
