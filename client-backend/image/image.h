/* Images of cached disks: reading and writing them from a lane, whatever they are kept in. */
#ifndef FALLOW_IMAGE_H
#define FALLOW_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * An image is opened and closed by the control thread; its ios belong to lanes. An io ends with
 * exactly one done(), from image_lane_poll() or _kick() of its lane and never from inside submit.
 * There is no limit of time, but for an NBD server that is gone (image_options.down_timeout_ns): a
 * write that the kernel still has must not be taken for ended, or it could land over a newer one.
 */
#define IMAGE_SECTOR_BYTES 512u
#define IMAGE_IO_PAGES	   64u /* buffers of one io */

struct image;
struct image_lane;

enum image_op {
	IMAGE_READ,
	IMAGE_WRITE,
	IMAGE_SYNC, /* what ended before is on stable storage when this has ended; of all lanes */
	IMAGE_ZERO, /* the range reads as zeros afterwards */
};

struct image_io {
	uint64_t offset; /* a multiple of IMAGE_SECTOR_BYTES */
	uint32_t bytes;	 /* of all buffers; offset + bytes may not exceed the image's size */
	uint8_t op;	 /* enum image_op */
	bool hole;	 /* IMAGE_ZERO: the room may be given back */
	bool hint;	 /* IMAGE_ZERO: where it cannot be given back nothing needs to be done */
	uint16_t iovs;
	struct iovec iov[IMAGE_IO_PAGES]; /* each a multiple of a sector, at a sector of a page */
	void (*done)(struct image_io *io, int status); /* 0 or a negative errno */
	/* the image's own */
	struct image *image;
	struct image_io *next;
	uint64_t moved, start_ns;
	uint16_t iov_first, tries;
	uint8_t way;
	int result;
};

/* What tells whether an image was changed while nobody looked. */
struct image_identity {
	uint64_t dev, ino, size_bytes;
	uint64_t mtime_ns, ctime_ns; /* 0: there is no such thing, or none to be trusted */
	bool trusted;
};

struct image_ops {
	/* lane. Takes the io. */
	void (*submit)(struct image *i, struct image_lane *l, struct image_io *io);
	/* Control thread; as it is now. 0 or a negative errno. */
	int (*identify)(const struct image *i, struct image_identity *out);
	/* Control thread; may block. No io is under way. Frees it. */
	void (*close)(struct image *i);
	/* lane. After its last io; NULL: nothing is to be done. */
	void (*detach)(struct image *i, struct image_lane *l);
};

struct image {
	const struct image_ops *ops;
	uint64_t size_bytes; /* a multiple of IMAGE_SECTOR_BYTES, not 0 */
	bool readonly;
	bool direct;	   /* bypasses the page cache */
	int one_lane;	   /* the only one that may submit; -1: any */
	const char *notes; /* worth a warning; "": nothing */
};

struct image_options {
	const char *where; /* path of a file or a block device; or an NBD URI */
	bool readonly;
	bool direct; /* bypass the page cache where the file system can */
	unsigned lanes;
	uint64_t down_timeout_ns; /* NBD: without a connection for this long its ios fail, -EIO */
};

/*
 * Any thread; blocks for a second at most while another process ends that had it open, and five
 * for an NBD server. err
 * gets one sentence on failure. -EBUSY somebody else uses it; -EINVAL its size or kind; -ENOSYS
 * no support for it in this build; else the errno of what failed.
 */
int image_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes);

/*
 * Which pages of a clone are its own, as QEMU's NBD server tells it (qemu-nbd --allocation-depth):
 * *own gets a bit for each, set where the page is not wholly the base's; to be freed with free().
 * Some pages are compared with the base, a file. Any thread; blocks for ten seconds at most.
 * err gets one sentence on failure. -EINVAL the server does not tell, or the base is another one;
 * -ECONNREFUSED, -ETIMEDOUT, -EIO, -ENOMEM.
 */
int image_depth_read(const char *uri, uint64_t bytes, const char *base, uint64_t base_bytes,
	uint64_t **own, char *err, size_t err_bytes);

static inline void image_close(struct image *i)
{
	if (i)
		i->ops->close(i);
}

/* ---- a lane's part ---- */

/* Something besides files that a lane looks after; in the lane's list while attached. */
struct image_source {
	unsigned (*poll)(struct image_source *s); /* returns how much it did */
	struct image_source *next;
};

/* Control thread. epoll_fd: of the lane, gets what it is to wait for; outlives it. -ENOMEM;
 * -EMFILE. Without io_uring it is made all the same, and files cannot be used
 * (image_lane_status()). */
int image_lane_new(unsigned lane, int epoll_fd, struct image_lane **out);
/* No io is under way. */
void image_lane_delete(struct image_lane *l);
/* 0, or why there is no io_uring. */
int image_lane_status(const struct image_lane *l);
/* lane */
unsigned image_lane_number(const struct image_lane *l);
int image_lane_epoll_fd(const struct image_lane *l);
unsigned image_lane_poll(struct image_lane *l);
/* lane. Starts what was submitted; some may end by that. */
void image_lane_kick(struct image_lane *l);
void image_lane_source_add(struct image_lane *l, struct image_source *s);
void image_lane_source_remove(struct image_lane *l, struct image_source *s);

/* ---- between image_lane.c and image_file.c ---- */

struct io_uring_sqe;
/* lane. Starts it, or keeps it until the ring has room. */
void image_lane_file_start(struct image_lane *l, struct image_io *io);
void image_file_prepare(struct image_io *io, struct io_uring_sqe *sqe);
/* result: of the kernel. True: the io has ended, with io->result; false: start it once more. */
bool image_file_ended(struct image_io *io, int result);

#endif
