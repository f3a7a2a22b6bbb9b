/* Writes, reads, discards and zeroes a block device at random from a seed, and compares all that it
 * reads. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_BYTES   131072u /* of one request */
#define MAX_WORKERS 64u
#define MAX_MIB	    65536u

enum { OP_WRITE, OP_READ, OP_DISCARD, OP_ZERO, OP_SYNC, OP_COUNT };
static const char *const op_names[OP_COUNT] = {"write", "read", "discard", "zero", "sync"};
static const unsigned op_percents[OP_COUNT] = {45, 40, 7, 7, 1};

/* One process with a part of the device of its own; as many requests are in flight as there are
 * workers. */
struct worker {
	int fd;
	unsigned block_bytes;
	uint64_t seed, random;
	uint64_t first; /* block of the device */
	uint32_t blocks;
	uint32_t *version; /* of each block; 0: zeros */
	uint32_t next_version;
	uint8_t *buffer;
	uint64_t done[OP_COUNT];
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void *pages_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		fprintf(stderr, "blockwalk: no %zu bytes: %s\n", bytes, strerror(errno));
		exit(1);
	}
	return p;
}

static void fail(const char *what, uint64_t block, unsigned count)
{
	fprintf(stderr, "blockwalk: %s of %u blocks from %llu: %s\n", what, count,
		(unsigned long long)block, strerror(errno));
	exit(1);
}

/* The word of a block's version at a place: half of the words repeat. */
static uint64_t word_of(const struct worker *w, uint32_t block, uint32_t version, unsigned at)
{
	uint64_t key = mix(w->seed ^ mix(w->first + block)) ^ version;

	return version == 0 ? 0 : mix(key ^ (uint64_t)(at % 2 ? at : 0) << 32);
}

static void blocks_fill(struct worker *w, uint32_t block, unsigned count)
{
	uint64_t *word = (uint64_t *)w->buffer;

	for (uint32_t b = block; b < block + count; b++) {
		for (unsigned i = 0; i < w->block_bytes / 8; i++)
			*word++ = word_of(w, b, w->next_version, i);
		w->version[b] = w->next_version;
	}
	w->next_version++;
}

static void blocks_compare(const struct worker *w, uint32_t block, unsigned count)
{
	const uint64_t *word = (const uint64_t *)w->buffer;

	for (uint32_t b = block; b < block + count; b++) {
		for (unsigned i = 0; i < w->block_bytes / 8; i++, word++) {
			if (*word == word_of(w, b, w->version[b], i))
				continue;
			fprintf(stderr,
				"blockwalk: block %llu is wrong at byte %u: %016llx, version %u\n",
				(unsigned long long)(w->first + b), i * 8,
				(unsigned long long)*word, w->version[b]);
			for (uint32_t v = 0; v < w->next_version; v++) {
				if (*word == word_of(w, b, v, i))
					fprintf(stderr, "blockwalk: that is its version %u\n", v);
			}
			exit(1);
		}
	}
}

static void blocks_read(struct worker *w, uint32_t block, unsigned count)
{
	size_t bytes = (size_t)count * w->block_bytes;
	off_t at = (off_t)((w->first + block) * w->block_bytes);

	if (pread(w->fd, w->buffer, bytes, at) != (ssize_t)bytes)
		fail("read", w->first + block, count);
	blocks_compare(w, block, count);
}

static void blocks_write(struct worker *w, uint32_t block, unsigned count)
{
	size_t bytes = (size_t)count * w->block_bytes;
	off_t at = (off_t)((w->first + block) * w->block_bytes);

	blocks_fill(w, block, count);
	if (pwrite(w->fd, w->buffer, bytes, at) != (ssize_t)bytes)
		fail("write", w->first + block, count);
}

/* A discarded block of this device reads as zeros, as a zeroed one does. */
static void blocks_clear(struct worker *w, unsigned op, uint32_t block, unsigned count)
{
	uint64_t range[2] = {(w->first + block) * w->block_bytes, (uint64_t)count * w->block_bytes};

	if (ioctl(w->fd, op == OP_DISCARD ? BLKDISCARD : BLKZEROOUT, range) < 0)
		fail(op_names[op], w->first + block, count);
	memset(&w->version[block], 0, count * sizeof(w->version[0]));
}

static void worker_step(struct worker *w)
{
	uint64_t r = mix(w->random++), size = mix(r);
	unsigned op = 0, percent = (unsigned)(r % 100), most = MAX_BYTES / w->block_bytes;
	uint32_t block = (uint32_t)((r >> 32) % w->blocks);
	/* As often one block as a few or many. */
	unsigned count = 1 + (unsigned)((size >> 8) % (size % 3 == 0	      ? 1
							      : size % 3 == 1 ? 8
									      : most));

	for (unsigned sum = op_percents[0]; percent >= sum; sum += op_percents[op])
		op++;
	if (count > w->blocks - block)
		count = w->blocks - block;
	if (op == OP_WRITE)
		blocks_write(w, block, count);
	else if (op == OP_READ)
		blocks_read(w, block, count);
	else if (op == OP_SYNC && fsync(w->fd) < 0)
		fail("sync", 0, 0);
	else if (op == OP_DISCARD || op == OP_ZERO)
		blocks_clear(w, op, block, count);
	w->done[op]++;
}

static void worker_check_all(struct worker *w)
{
	unsigned most = MAX_BYTES / w->block_bytes;

	for (uint32_t block = 0; block < w->blocks; block += most)
		blocks_read(w, block, w->blocks - block < most ? w->blocks - block : most);
}

static void worker_run(struct worker *w, uint64_t steps, const char *until)
{
	w->next_version = 1;
	w->random = mix(w->seed ^ w->first);
	w->version = pages_alloc(w->blocks * sizeof(w->version[0]));
	w->buffer = pages_alloc(MAX_BYTES);
	blocks_clear(w, OP_ZERO, 0, w->blocks);
	for (uint64_t n = 0; n < steps || (until && access(until, F_OK) != 0); n++)
		worker_step(w);
	worker_check_all(w);
}

static uint64_t number(const char *text, uint64_t min, uint64_t max)
{
	char *end;

	errno = 0;
	uint64_t n = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0' || n < min || n > max) {
		fprintf(stderr, "blockwalk: '%s' is no number from %llu to %llu\n", text,
			(unsigned long long)min, (unsigned long long)max);
		exit(2);
	}
	return n;
}

static int device_open(const char *path, unsigned *block_bytes)
{
	int size, fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, BLKSSZGET, &size) < 0) {
		fprintf(stderr, "blockwalk: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	*block_bytes = (unsigned)size;
	return fd;
}

/* The counts of all workers stand in memory they share. */
static bool workers_run(struct worker *w, unsigned workers, uint64_t steps, const char *until)
{
	uint64_t(*done)[OP_COUNT] = mmap(NULL, sizeof(*done) * workers, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t sum[OP_COUNT] = {0};
	bool good = done != MAP_FAILED;
	int status;

	for (unsigned n = 0; good && n < workers; n++) {
		pid_t pid = fork();
		if (pid < 0) {
			perror("blockwalk: fork");
			exit(1);
		}
		if (pid == 0) {
			w->first = (uint64_t)n * w->blocks;
			worker_run(w, steps, until);
			memcpy(done[n], w->done, sizeof(w->done));
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		good = good && status == 0;
	for (unsigned n = 0; good && n < workers; n++)
		for (unsigned op = 0; op < OP_COUNT; op++)
			sum[op] += done[n][op];
	printf("{\"seed\":%llu,\"block_bytes\":%u,\"workers\":%u", (unsigned long long)w->seed,
		w->block_bytes, workers);
	for (unsigned op = 0; op < OP_COUNT; op++)
		printf(",\"%s\":%llu", op_names[op], (unsigned long long)sum[op]);
	printf(",\"good\":%s}\n", good ? "true" : "false");
	return good;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mib", required_argument, NULL, 'm'},
		{"seed", required_argument, NULL, 's'},
		{"steps", required_argument, NULL, 'n'},
		{"workers", required_argument, NULL, 'w'},
		{"until", required_argument, NULL, 'u'},
		{NULL, 0, NULL, 0},
	};
	struct worker w = {.seed = 1};
	uint64_t steps = 1000, mib = 64;
	unsigned workers = 1;
	const char *until = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'm':
			mib = number(optarg, 1, MAX_MIB);
			break;
		case 's':
			w.seed = number(optarg, 0, UINT64_MAX);
			break;
		case 'n':
			steps = number(optarg, 0, UINT64_MAX);
			break;
		case 'w':
			workers = (unsigned)number(optarg, 1, MAX_WORKERS);
			break;
		case 'u':
			until = optarg;
			break;
		default:
			return 2;
		}
	}
	if (optind != argc - 1) {
		fprintf(stderr, "Usage: blockwalk [--mib N] [--seed S] [--steps N] [--workers N] "
				"[--until FILE] DEVICE\n"
				"Uses the device's first N MiB, as many steps in each worker. Exit "
				"code 1: wrong.\n");
		return 2;
	}
	w.fd = device_open(argv[optind], &w.block_bytes);
	w.blocks = (uint32_t)((mib << 20) / w.block_bytes / workers);
	return workers_run(&w, workers, steps, until) ? 0 : 1;
}
