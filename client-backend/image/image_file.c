/* An image in a file or on a block device: opened for this process alone, read and written by
 * io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client-backend/image/image_impl.h"

#define TRIES	   1000u
#define ZERO_BYTES 65536u

/* Ways to make a range read as zeros. */
enum { WAY_PUNCH, WAY_ZERO_RANGE, WAY_WRITE, WAY_NOTHING };

struct image_file {
	struct image head; /* first */
	int fd;
	_Atomic bool no_punch, no_zero_range; /* the file system has not got them */
};

static _Alignas(4096) const uint8_t zeros[ZERO_BYTES];

static struct image_file *file_of(const struct image *i)
{
	return (struct image_file *)(void *)i;
}

/* ---- ios ---- */

static uint8_t way_next(const struct image_io *io, uint8_t way)
{
	if (way == WAY_PUNCH)
		return io->hint ? WAY_NOTHING : WAY_ZERO_RANGE;
	return WAY_WRITE;
}

static uint8_t way_first(const struct image_file *f, const struct image_io *io)
{
	uint8_t way = io->hole || io->hint ? WAY_PUNCH : WAY_ZERO_RANGE;

	if (way == WAY_PUNCH && atomic_load_explicit(&f->no_punch, memory_order_relaxed))
		way = way_next(io, way);
	if (way == WAY_ZERO_RANGE && atomic_load_explicit(&f->no_zero_range, memory_order_relaxed))
		way = way_next(io, way);
	return way;
}

static void file_submit(struct image *i, struct image_lane *l, struct image_io *io)
{
	struct image_file *f = file_of(i);

	io->image = i;
	io->moved = 0;
	io->iov_first = io->tries = 0;
	io->way = way_first(f, io);
	image_lane_file_start(l, io);
}

void image_file_prepare(struct image_io *io, struct io_uring_sqe *sqe)
{
	struct image_file *f = file_of(io->image);
	uint64_t at = io->offset + io->moved, left = io->bytes - io->moved;
	unsigned iovs = io->iovs - io->iov_first;

	switch ((enum image_op)io->op) {
	case IMAGE_READ:
		io_uring_prep_readv(sqe, f->fd, io->iov + io->iov_first, iovs, at);
		break;
	case IMAGE_WRITE:
		io_uring_prep_writev(sqe, f->fd, io->iov + io->iov_first, iovs, at);
		break;
	case IMAGE_SYNC:
		io_uring_prep_fsync(sqe, f->fd, IORING_FSYNC_DATASYNC);
		break;
	case IMAGE_ZERO:
		if (io->way == WAY_NOTHING)
			io_uring_prep_nop(sqe);
		else if (io->way == WAY_WRITE)
			io_uring_prep_write(sqe, f->fd, zeros,
				(unsigned)(left < ZERO_BYTES ? left : ZERO_BYTES), at);
		else
			io_uring_prep_fallocate(sqe, f->fd,
				FALLOC_FL_KEEP_SIZE | (io->way == WAY_PUNCH ? FALLOC_FL_PUNCH_HOLE
									    : FALLOC_FL_ZERO_RANGE),
				(off_t)at, (off_t)left);
		break;
	}
}

static bool ended(struct image_io *io, int result)
{
	io->result = result;
	return true;
}

/* True: all of it was moved. */
static bool moved(struct image_io *io, uint64_t n)
{
	io->moved += n;
	io->tries = 0;
	if (io->moved >= io->bytes)
		return true;
	while (io->op != IMAGE_ZERO && n) {
		struct iovec *v = &io->iov[io->iov_first];
		size_t part = n < v->iov_len ? n : v->iov_len;

		v->iov_base = (uint8_t *)v->iov_base + part;
		v->iov_len -= part;
		n -= part;
		if (!v->iov_len)
			io->iov_first++;
	}
	return false;
}

static bool zero_ended(struct image_io *io, int result)
{
	struct image_file *f = file_of(io->image);
	if (io->way == WAY_WRITE) {
		if (result <= 0)
			return ended(io, result ? result : -EIO);
		return moved(io, (uint64_t)result) && ended(io, 0);
	}
	if (result != -EOPNOTSUPP && result != -EINVAL && result != -ENOSYS)
		return ended(io, result);
	/* -EINVAL may be of this range alone: a device's blocks are larger. */
	if (result != -EINVAL)
		atomic_store_explicit(io->way == WAY_PUNCH ? &f->no_punch : &f->no_zero_range, true,
			memory_order_relaxed);
	io->way = way_next(io, io->way);
	return false;
}

bool image_file_ended(struct image_io *io, int result)
{
	if (result == -EAGAIN || result == -EINTR)
		return io->tries++ == TRIES && ended(io, -EIO);
	if (io->op == IMAGE_ZERO)
		return zero_ended(io, result);
	if (io->op == IMAGE_SYNC || result < 0)
		return ended(io, result);
	/* The file ends before it should: somebody cut it. */
	if (!result)
		return ended(io, -EIO);
	return moved(io, (uint64_t)result) && ended(io, 0);
}

/* ---- life ---- */

static int file_identify(const struct image *i, struct image_identity *out)
{
	struct stat st;

	if (fstat(file_of(i)->fd, &st) < 0)
		return -errno;
	*out = (struct image_identity){.dev = st.st_dev,
		.ino = st.st_ino,
		.size_bytes = i->size_bytes,
		.trusted = S_ISREG(st.st_mode)};
	if (out->trusted) {
		out->mtime_ns =
			(uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
		out->ctime_ns =
			(uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec;
	}
	return 0;
}

static void file_close(struct image *i)
{
	close(file_of(i)->fd);
	free(i);
}

static const struct image_ops file_ops = {
	.submit = file_submit, .identify = file_identify, .close = file_close};

static int size_get(int fd, const struct stat *st, uint64_t *bytes)
{
	*bytes = (uint64_t)st->st_size;
	if (S_ISBLK(st->st_mode) && ioctl(fd, BLKGETSIZE64, bytes) < 0)
		return -errno;
	return 0;
}

/* Whether sectors can be read past the page cache, and so written: a device with larger blocks
 * cannot, nor can some file systems. Mixing both ways could tear a block. */
static bool direct_works(int fd)
{
	uint8_t *page = aligned_alloc(4096, 4096);
	bool works = page && pread(fd, page + IMAGE_SECTOR_BYTES, IMAGE_SECTOR_BYTES, 0) ==
				     (ssize_t)IMAGE_SECTOR_BYTES;

	free(page);
	return works;
}

static int direct_off(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_DIRECT) < 0 ? -errno : 0;
}

/* What the errors that can be helped mean. */
static const char *reason(int status)
{
	return status == -ETXTBSY || status == -EBUSY ? "it is in use (mounted?)"
						      : strerror(-status);
}

static int fd_open(const struct image_options *o, bool device)
{
	/* O_EXCL refuses a device that is mounted. */
	int flags = (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY |
		    (device && !o->readonly ? O_EXCL : 0);
	int fd = o->direct ? open(o->where, flags | O_DIRECT) : -1;

	if (fd < 0 && (!o->direct || errno == EINVAL || errno == EOPNOTSUPP))
		fd = open(o->where, flags);
	return fd < 0 ? -errno : fd;
}

int image_file_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes)
{
	uint64_t bytes = 0;
	struct stat st;

	int r = stat(o->where, &st) < 0 ? -errno : 0;
	if (!r && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		snprintf(err, err_bytes, "%.180s is neither a file nor a block device", o->where);
		return -EINVAL;
	}
	int fd = r ? r : fd_open(o, S_ISBLK(st.st_mode));
	r = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : size_get(fd, &st, &bytes);
	if (r < 0) {
		snprintf(err, err_bytes, "cannot open %.180s: %s", o->where, reason(r));
		goto err_fd;
	}
	if (!bytes || bytes % IMAGE_SECTOR_BYTES) {
		snprintf(err, err_bytes, "the size of %.150s, %llu bytes, is no multiple of 512",
			o->where, (unsigned long long)bytes);
		r = -EINVAL;
		goto err_fd;
	}
	r = image_lock(fd, o->where, o->readonly, err, err_bytes);
	if (r < 0)
		goto err_fd;
	struct image_file *f = calloc(1, sizeof(*f));
	if (!f) {
		snprintf(err, err_bytes, "not enough memory");
		r = -ENOMEM;
		goto err_fd;
	}
	int flags = fcntl(fd, F_GETFL);
	bool direct = flags >= 0 && flags & O_DIRECT;

	if (direct && !direct_works(fd) && !direct_off(fd))
		direct = false;
	f->head = (struct image){.ops = &file_ops,
		.size_bytes = bytes,
		.readonly = o->readonly,
		.direct = direct,
		.one_lane = -1,
		.notes = ""};
	if (o->direct && !f->head.direct)
		f->head.notes = "512-byte blocks cannot bypass the page cache there: it is read "
				"and written through it";
	f->fd = fd;
	*out = &f->head;
	return 0;
err_fd:
	if (fd >= 0)
		close(fd);
	return r;
}
