/* What tells after a restart whether the cached pages of an image are still those of the image. */
#include "client-backend/disk_stamp.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC	  0x31706d6174736c66ull /* "flstamp1" */
#define FILE_SIZE 4096
/* A beat comes once a second; the rest is for a machine that is busy. */
#define SLACK_NS 4000000000ull

struct disk_stamp {
	uint64_t magic; /* set last */
	uint64_t dev, ino, size_bytes;
	uint64_t mtime_ns, ctime_ns;
	uint64_t beat_ns;
	int64_t one_lane;
	uint64_t trusted;
	uint64_t clean; /* mtime_ns and ctime_ns are of the time when it was let go */
	_Atomic uint8_t writeback;
};

uint64_t disk_stamp_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int disk_stamp_open(const char *path, struct disk_stamp **out, bool *fresh)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), r = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (st.st_size && st.st_size != FILE_SIZE)
		r = -EINVAL;
	else
		r = -posix_fallocate(fd, 0, FILE_SIZE);
	void *at =
		r ? MAP_FAILED
		  : mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (!r && at == MAP_FAILED)
		r = -errno;
	close(fd);
	if (r)
		return r;
	*out = at;
	*fresh = (*out)->magic != MAGIC;
	if (*fresh)
		(*out)->writeback = 1;
	return 0;
}

bool disk_stamp_valid(const struct disk_stamp *s, const struct image_identity *is, int one_lane,
	bool keep, const char **why)
{
	if (s->magic != MAGIC)
		*why = "it was never served";
	else if (s->dev != is->dev || s->ino != is->ino)
		*why = "it is another image";
	else if (s->size_bytes != is->size_bytes)
		*why = "the image has another size";
	else if (s->one_lane != one_lane)
		*why = "the server takes another number of connections";
	else if (!is->trusted)
		*why = keep ? NULL : "there is no telling whether somebody changed the image";
	else if (s->clean)
		*why = s->mtime_ns == is->mtime_ns && s->ctime_ns == is->ctime_ns
			       ? NULL
			       : "somebody changed the image";
	else
		*why = is->mtime_ns <= s->beat_ns + SLACK_NS &&
				       is->ctime_ns <= s->beat_ns + SLACK_NS
			       ? NULL
			       : "somebody changed the image after it was last served";
	return !*why;
}

void disk_stamp_begin(
	struct disk_stamp *s, const struct image_identity *is, int one_lane, uint64_t now_ns)
{
	s->beat_ns = now_ns;
	s->dev = is->dev;
	s->ino = is->ino;
	s->size_bytes = is->size_bytes;
	s->trusted = is->trusted;
	s->one_lane = one_lane;
	/* A kill comes between two instructions, and keeps what was stored before it. */
	atomic_signal_fence(memory_order_seq_cst);
	s->clean = 0;
	s->magic = MAGIC;
	atomic_signal_fence(memory_order_seq_cst);
}

void disk_stamp_beat(struct disk_stamp *s, uint64_t now_ns)
{
	s->beat_ns = now_ns;
}

void disk_stamp_end(struct disk_stamp *s, const struct image_identity *is)
{
	s->mtime_ns = is->mtime_ns;
	s->ctime_ns = is->ctime_ns;
	atomic_signal_fence(memory_order_seq_cst);
	s->clean = 1;
}

_Atomic uint8_t *disk_stamp_writeback(struct disk_stamp *s)
{
	return &s->writeback;
}

void disk_stamp_close(struct disk_stamp *s)
{
	if (s)
		munmap(s, FILE_SIZE);
}
