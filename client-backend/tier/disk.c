/* The disk tier of one lane: a preallocated file of segment slots, read and written over io_uring.
 */
#include "client-backend/tier/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_BLOCK     4096u
#define DISK_DEPTH_MAX 256u

/* One buffer and the transfer in it. io == NULL and held: its io ended, the kernel has the buffer
 * yet. */
struct disk_slot {
	struct engine_io *io;
	bool held; /* the kernel has, or will get, the buffer */
	bool write;
	uint32_t len;
	uint64_t offset;
	uint64_t start_ns;
};

struct tier_disk {
	const struct env *env;
	struct io_uring ring;
	int fd;
	bool direct;
	uint32_t depth, segment_bytes;
	uint64_t base, bytes; /* this lane's part of the file */
	uint64_t timeout_ns;
	uint64_t deadline_ns; /* no io in flight is due before this */
	unsigned held;	      /* slots with held set */
	bool queued;	      /* something in the submission queue has not been submitted */
	uint8_t *buffers;
	struct tier_disk_stats stats;
	struct disk_slot slot[];
};

static int fail(char *err, size_t err_bytes, int status, const char *what, const char *path)
{
	snprintf(err, err_bytes, "disk tier: %s: %s: %s", path, what, strerror(-status));
	return status;
}

static int config_check(const struct tier_disk_config *cfg, char *err, size_t err_bytes)
{
	const char *what = NULL;

	if (!cfg->path || !cfg->path[0])
		what = "path is empty";
	else if (!cfg->segments)
		what = "segments must be at least 1";
	else if (!cfg->segment_bytes || cfg->segment_bytes % DISK_BLOCK)
		what = "segment_bytes must be a multiple of 4096";
	else if (!cfg->depth || cfg->depth > DISK_DEPTH_MAX)
		what = "depth must be 1 to 256";
	else if (cfg->lane >= cfg->lanes)
		what = "lane must be less than lanes";
	if (!what)
		return 0;
	snprintf(err, err_bytes, "disk tier: %s", what);
	return -EINVAL;
}

/* Opens path, with O_DIRECT when it is wanted and the file system has it. */
static int open_direct(int dir, const char *path, int flags, bool want, bool *direct)
{
	int fd = -1;

	*direct = false;
	if (want) {
		fd = openat(dir, path, flags | O_DIRECT, 0600);
		*direct = fd >= 0;
		if (fd < 0 && errno != EINVAL && errno != EOPNOTSUPP)
			return -errno;
	}
	if (fd < 0)
		fd = openat(dir, path, flags, 0600);
	return fd < 0 ? -errno : fd;
}

static int open_device(
	struct tier_disk *d, const struct tier_disk_config *cfg, char *err, size_t err_bytes)
{
	/* O_EXCL refuses a device that is mounted; only one open can hold it, the first lane's. */
	int flags = O_RDWR | O_CLOEXEC | (cfg->lane == 0 ? O_EXCL : 0);
	uint64_t size = 0;

	d->fd = open_direct(AT_FDCWD, cfg->path, flags, cfg->direct, &d->direct);
	if (d->fd < 0)
		return fail(err, err_bytes, d->fd, "open", cfg->path);
	if (ioctl(d->fd, BLKGETSIZE64, &size) < 0)
		return fail(err, err_bytes, -errno, "size of the device", cfg->path);
	if (size / cfg->lanes < d->bytes) {
		snprintf(err, err_bytes,
			"disk tier: %s: %llu bytes are too few for %u lanes of %llu bytes",
			cfg->path, (unsigned long long)size, cfg->lanes,
			(unsigned long long)d->bytes);
		return -EINVAL;
	}
	d->base = cfg->lane * d->bytes;
	return 0;
}

static int open_file(
	struct tier_disk *d, const struct tier_disk_config *cfg, char *err, size_t err_bytes)
{
	char name[32];
	int dir = open(cfg->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return fail(err, err_bytes, -errno, "open", cfg->path);
	snprintf(name, sizeof(name), "lane-%u.segments", cfg->lane);
	d->fd = open_direct(
		dir, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, cfg->direct, &d->direct);
	close(dir);
	if (d->fd < 0)
		return fail(err, err_bytes, d->fd, name, cfg->path);
	if (flock(d->fd, LOCK_EX | LOCK_NB) < 0)
		return fail(
			err, err_bytes, errno == EWOULDBLOCK ? -EBUSY : -errno, name, cfg->path);
	/* Without fallocate() the file stays sparse: a write may then fail with -EIO, nothing
	 * worse. */
	if (fallocate(d->fd, 0, 0, (off_t)d->bytes) < 0) {
		if (errno != EOPNOTSUPP)
			return fail(err, err_bytes, -errno, "preallocating", cfg->path);
		if (ftruncate(d->fd, (off_t)d->bytes) < 0)
			return fail(err, err_bytes, -errno, "growing the file", cfg->path);
	}
	return 0;
}

/* Some file systems take O_DIRECT at open and refuse it at the first read. */
static int probe_direct(struct tier_disk *d)
{
	int flags;

	if (!d->direct || pread(d->fd, d->buffers, DISK_BLOCK, (off_t)d->base) >= 0)
		return 0;
	if (errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	flags = fcntl(d->fd, F_GETFL);
	if (flags < 0 || fcntl(d->fd, F_SETFL, flags & ~O_DIRECT) < 0)
		return -errno;
	d->direct = false;
	return 0;
}

int tier_disk_open(const struct tier_disk_config *cfg, const struct env *env,
	struct tier_disk **out, char *err, size_t err_bytes)
{
	struct tier_disk *d;
	struct stat st;
	int r = config_check(cfg, err, err_bytes);

	if (r)
		return r;
	if (stat(cfg->path, &st) < 0)
		return fail(err, err_bytes, -errno, "stat", cfg->path);
	d = calloc(1, sizeof(*d) + cfg->depth * sizeof(d->slot[0]));
	if (!d)
		return fail(err, err_bytes, -ENOMEM, "memory", cfg->path);
	d->env = env;
	d->fd = -1;
	d->depth = cfg->depth;
	d->segment_bytes = cfg->segment_bytes;
	d->bytes = (uint64_t)cfg->segments * cfg->segment_bytes;
	d->timeout_ns = cfg->timeout_ns;
	d->deadline_ns = UINT64_MAX;

	r = S_ISBLK(st.st_mode) ? open_device(d, cfg, err, err_bytes)
				: open_file(d, cfg, err, err_bytes);
	if (r < 0)
		goto err_fd;
	d->buffers = mmap(NULL, (size_t)d->depth * d->segment_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (d->buffers == MAP_FAILED) {
		r = fail(err, err_bytes, -errno, "buffers", cfg->path);
		goto err_fd;
	}
	r = probe_direct(d);
	if (r < 0) {
		fail(err, err_bytes, r, "reading", cfg->path);
		goto err_buffers;
	}
	r = io_uring_queue_init(d->depth, &d->ring, IORING_SETUP_CLAMP);
	if (r < 0) {
		fail(err, err_bytes, r, "io_uring_setup", cfg->path);
		goto err_buffers;
	}
	*out = d;
	return 0;

err_buffers:
	munmap(d->buffers, (size_t)d->depth * d->segment_bytes);
err_fd:
	if (d->fd >= 0)
		close(d->fd);
	free(d);
	return r;
}

bool tier_disk_direct(const struct tier_disk *d)
{
	return d->direct;
}

const struct tier_disk_stats *tier_disk_stats(const struct tier_disk *d)
{
	return &d->stats;
}

/* Ends the io of a slot; the slot is free for another already, unless the kernel still holds it. */
static void slot_done(struct tier_disk *d, struct disk_slot *s, int status)
{
	struct engine_io *io = s->io;

	s->io = NULL;
	stat_sub(&d->stats.in_flight, 1);
	if (status == 0) {
		stat_add(s->write ? &d->stats.writes : &d->stats.reads, 1);
		stat_add(s->write ? &d->stats.bytes_written : &d->stats.bytes_read, s->len);
		hist_record(&d->stats.io_ns, env_now_ns(d->env) - s->start_ns);
	}
	io->done(io, status);
}

static int refuse(struct tier_disk *d, int status)
{
	stat_add(&d->stats.refused, 1);
	return status;
}

static int start(struct tier_disk *d, struct engine_io *io, bool write)
{
	struct disk_slot *free_slot = NULL;
	struct io_uring_sqe *sqe;
	uint8_t *buf;

	if (!io->len || io->len > d->segment_bytes || io->len % DISK_BLOCK ||
		io->offset % DISK_BLOCK || (uintptr_t)io->buf % DISK_BLOCK ||
		io->offset > d->bytes || io->len > d->bytes - io->offset)
		return refuse(d, -EINVAL);
	for (unsigned i = 0; i < d->depth; i++) {
		struct disk_slot *s = &d->slot[i];

		if (!s->held)
			free_slot = free_slot ? free_slot : s;
		else if (!s->io && io->offset < s->offset + s->len &&
			 s->offset < io->offset + io->len)
			return refuse(d, -EAGAIN);
	}
	sqe = free_slot ? io_uring_get_sqe(&d->ring) : NULL;
	if (!sqe)
		return refuse(d, -EAGAIN);
	*free_slot = (struct disk_slot){.io = io,
		.held = true,
		.write = write,
		.len = io->len,
		.offset = io->offset,
		.start_ns = env_now_ns(d->env)};
	buf = d->buffers + (size_t)(free_slot - d->slot) * d->segment_bytes;
	if (write) {
		memcpy(buf, io->buf, io->len);
		io_uring_prep_write(sqe, d->fd, buf, io->len, d->base + io->offset);
	} else {
		io_uring_prep_read(sqe, d->fd, buf, io->len, d->base + io->offset);
	}
	io_uring_sqe_set_data(sqe, free_slot);
	d->held++;
	d->queued = true;
	stat_add(&d->stats.in_flight, 1);
	if (d->timeout_ns && free_slot->start_ns + d->timeout_ns < d->deadline_ns)
		d->deadline_ns = free_slot->start_ns + d->timeout_ns;
	return 0;
}

int tier_disk_read(struct tier_disk *d, struct engine_io *io)
{
	return start(d, io, false);
}

int tier_disk_write(struct tier_disk *d, struct engine_io *io)
{
	return start(d, io, true);
}

void tier_disk_kick(struct tier_disk *d)
{
	/* What the kernel does not take now (-EAGAIN, -EBUSY) stays queued; tier_disk_poll() tries
	 * again. */
	if (d->queued && io_uring_submit(&d->ring) >= 0)
		d->queued = io_uring_sq_ready(&d->ring) > 0;
}

/* Takes one completion from the ring; returns how many done() calls it made. */
static int complete(struct tier_disk *d, struct disk_slot *s, int result)
{
	struct engine_io *io = s->io;
	bool good = result == (int)s->len;

	s->held = false;
	d->held--;
	if (!good)
		stat_add(&d->stats.errors, 1);
	if (!io) {
		stat_sub(&d->stats.stalled, 1);
		return 0;
	}
	if (good && !s->write)
		memcpy(io->buf, d->buffers + (size_t)(s - d->slot) * d->segment_bytes, s->len);
	slot_done(d, s, good ? 0 : -EIO);
	return 1;
}

/* Ends what is past its limit; the kernel keeps those buffers. */
static int expire(struct tier_disk *d, uint64_t now)
{
	uint64_t next = UINT64_MAX;
	int done = 0;

	d->deadline_ns = UINT64_MAX;
	for (unsigned i = 0; i < d->depth; i++) {
		struct disk_slot *s = &d->slot[i];

		if (!s->io)
			continue;
		if (now >= s->start_ns + d->timeout_ns) {
			stat_add(&d->stats.timeouts, 1);
			stat_add(&d->stats.stalled, 1);
			slot_done(d, s, -EIO);
			done++;
		} else if (s->start_ns + d->timeout_ns < next) {
			next = s->start_ns + d->timeout_ns;
		}
	}
	/* done() may have started new ios, which lowered deadline_ns themselves. */
	if (next < d->deadline_ns)
		d->deadline_ns = next;
	return done;
}

int tier_disk_poll(struct tier_disk *d)
{
	struct io_uring_cqe *cqe;
	int done = 0;

	if (!d->held)
		return 0;
	tier_disk_kick(d);
	while (io_uring_peek_cqe(&d->ring, &cqe) == 0) {
		struct disk_slot *s = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&d->ring, cqe);
		done += complete(d, s, result);
	}
	if (d->deadline_ns != UINT64_MAX) {
		uint64_t now = env_now_ns(d->env);

		if (now >= d->deadline_ns)
			done += expire(d, now);
	}
	return done;
}

uint64_t tier_disk_deadline_ns(const struct tier_disk *d)
{
	return d->deadline_ns;
}

int tier_disk_event_fd(const struct tier_disk *d)
{
	/* The ring's own descriptor is readable exactly while completions wait: nothing to drain.
	 */
	return d->ring.ring_fd;
}

void tier_disk_close(struct tier_disk *d)
{
	uint64_t wait_ns = d->timeout_ns ? d->timeout_ns : 1000000000ull;
	struct __kernel_timespec ts = {.tv_sec = (long long)(wait_ns / 1000000000ull),
		.tv_nsec = (long long)(wait_ns % 1000000000ull)};
	struct io_uring_cqe *cqe;

	tier_disk_kick(d);
	while (d->held && io_uring_wait_cqe_timeout(&d->ring, &cqe, &ts) == 0) {
		struct disk_slot *s = io_uring_cqe_get_data(cqe);

		s->held = false;
		d->held--;
		io_uring_cqe_seen(&d->ring, cqe);
	}
	for (unsigned i = 0; i < d->depth; i++)
		if (d->slot[i].io)
			slot_done(d, &d->slot[i], -ECANCELED);
	io_uring_queue_exit(&d->ring);
	close(d->fd);
	/* A buffer that the kernel holds must not become someone else's memory. */
	if (!d->held)
		munmap(d->buffers, (size_t)d->depth * d->segment_bytes);
	free(d);
}
