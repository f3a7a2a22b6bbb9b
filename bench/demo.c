/* fallow-demo: stores real files' pages through libfallow, reads every one back, and compares
 * SHA-256. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <fallow/fallow.h>

#define PAGE  FALLOW_PAGE_BYTES
#define BATCH 64u

struct file {
	uint32_t pages;
};

/* The pages of every file read, in order; what was put is known again by file number and page
 * number. */
struct demo {
	struct fallow_pool *pool;
	struct file *file;
	uint32_t files, room;
	uint64_t pages, want_pages;
	EVP_MD_CTX *sha;
	uint8_t page[BATCH][PAGE];
	struct fallow_key key[BATCH];
	unsigned filled;
	uint64_t busy_ns; /* in calls of libfallow */
	int err;
};

static struct demo demo; /* nftw() passes no context */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct fallow_key key_of(uint32_t file, uint32_t page)
{
	return (struct fallow_key){.oid = {{0x64656d6f, file, 0}}, .index = page};
}

static int put_batch(struct demo *d)
{
	const void *pages[BATCH];
	int status[BATCH], err;
	uint64_t start = now_ns();

	for (unsigned i = 0; i < d->filled; i++)
		pages[i] = d->page[i];
	err = fallow_put_batch(d->pool, d->filled, d->key, pages, status);
	/* A refusal is the backend's right; a demo's cluster has room, so it is asked again for a
	 * while. */
	for (unsigned tries = 0; err == -ENOSPC && tries < 600; tries++) {
		struct timespec pause = {.tv_nsec = 100000000};

		nanosleep(&pause, NULL);
		err = fallow_put_batch(d->pool, d->filled, d->key, pages, status);
	}
	d->busy_ns += now_ns() - start;
	if (err)
		fprintf(stderr, "fallow-demo: put: %s\n", fallow_strerror(err));
	d->filled = 0;
	return err;
}

static int store_fd(struct demo *d, int fd)
{
	uint32_t page = 0;
	ssize_t n;

	while (d->pages < d->want_pages) {
		uint8_t *to = d->page[d->filled];

		n = read(fd, to, PAGE);
		if (n <= 0)
			break;
		memset(to + n, 0, PAGE - (size_t)n);
		EVP_DigestUpdate(d->sha, to, PAGE);
		d->key[d->filled++] = key_of(d->files, page++);
		d->pages++;
		if (d->filled == BATCH && put_batch(d))
			return -EIO;
	}
	if (page == 0)
		return 0;
	if (d->files == d->room) {
		d->room = d->room ? d->room * 2 : 1024;
		d->file = realloc(d->file, d->room * sizeof(*d->file));
		if (!d->file)
			return -ENOMEM;
	}
	d->file[d->files++].pages = page;
	return 0;
}

static int store_file(const char *path, const struct stat *st, int type, struct FTW *f)
{
	int fd;

	(void)f;
	if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size == 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	demo.err = store_fd(&demo, fd);
	close(fd);
	return demo.err || demo.pages == demo.want_pages;
}

static int get_batch(struct demo *d)
{
	void *pages[BATCH];
	int status[BATCH], err;
	uint64_t start = now_ns();

	for (unsigned i = 0; i < d->filled; i++)
		pages[i] = d->page[i];
	err = fallow_get_batch(d->pool, d->filled, d->key, pages, status);
	d->busy_ns += now_ns() - start;
	for (unsigned i = 0; i < d->filled; i++) {
		if (status[i])
			fprintf(stderr,
				"fallow-demo: get of file %" PRIu64 " page %" PRIu32 ": %s\n",
				d->key[i].oid.w[1], d->key[i].index, fallow_strerror(status[i]));
		EVP_DigestUpdate(d->sha, d->page[i], PAGE);
	}
	d->filled = 0;
	return err;
}

static int read_back(struct demo *d)
{
	for (uint32_t f = 0; f < d->files; f++)
		for (uint32_t p = 0; p < d->file[f].pages; p++) {
			d->key[d->filled++] = key_of(f, p);
			if (d->filled == BATCH && get_batch(d))
				return -EIO;
		}
	return d->filled ? get_batch(d) : 0;
}

/* One at a time, all over the data: what a page fault would see. */
static int random_gets(struct demo *d, unsigned count)
{
	uint64_t x = 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < count; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		uint32_t f = (uint32_t)(x % d->files);
		struct fallow_key k = key_of(f, (uint32_t)(x >> 32) % d->file[f].pages);
		int err = fallow_get(d->pool, &k.oid, k.index, d->page[0]);

		if (err) {
			fprintf(stderr, "fallow-demo: get: %s\n", fallow_strerror(err));
			return err;
		}
	}
	return 0;
}

static void hex(EVP_MD_CTX *sha, char out[65])
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	EVP_DigestFinal_ex(sha, sum, &n);
	for (unsigned i = 0; i < n && i < 32; i++)
		snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

static void rate(const char *what, const struct demo *d)
{
	double s = (double)d->busy_ns / 1e9, mib = (double)d->pages * PAGE / (1 << 20);

	printf("%-8s %9.0f pages/s %8.1f MiB/s  (%" PRIu64 " pages in %.1f s)\n", what,
		(double)d->pages / s, mib / s, d->pages, s);
}

static int demo_run(struct demo *d, const char *source, unsigned singles)
{
	char before[65] = "", after[65] = "";

	EVP_DigestInit_ex(d->sha, EVP_sha256(), NULL);
	nftw(source, store_file, 32, FTW_PHYS);
	if (d->filled && !d->err)
		d->err = put_batch(d);
	if (d->err)
		return d->err;
	if (d->pages < d->want_pages)
		fprintf(stderr, "fallow-demo: %s has only %" PRIu64 " MiB of readable files\n",
			source, d->pages * PAGE >> 20);
	if (d->pages == 0)
		return -ENODATA;
	hex(d->sha, before);
	rate("put", d);
	EVP_DigestInit_ex(d->sha, EVP_sha256(), NULL);
	d->busy_ns = 0;
	if (read_back(d))
		return -EIO;
	hex(d->sha, after);
	rate("get", d);
	printf("SHA-256 stored    %s\nSHA-256 read back %s\n", before, after);
	if (strcmp(before, after) != 0) {
		fprintf(stderr, "fallow-demo: what came back is not what was stored\n");
		return -EBADMSG;
	}
	return random_gets(d, singles);
}

static int usage(FILE *to)
{
	fputs("usage: fallow-demo --socket PATH [--source DIR] [--mib N] [--singles N]\n"
	      "  --socket PATH   fallowd's client socket\n"
	      "  --source DIR    whose files are stored (default /usr)\n"
	      "  --mib N         how much of them, in MiB (default 1024)\n"
	      "  --singles N     random gets, one at a time, after that (default 20000)\n",
		to);
	return to == stderr ? 2 : 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"source", required_argument, NULL, 'd'},
		{"mib", required_argument, NULL, 'm'},
		{"singles", required_argument, NULL, 'n'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *socket_path = NULL, *source = "/usr";
	struct fallow_pool_opts opts = {
		.size = sizeof(opts), .flags = FALLOW_POOL_PERSISTENT, .name = "demo"};
	unsigned long singles = 20000, mib = 1024;
	struct fallow *f;
	int c, err;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			socket_path = optarg;
			break;
		case 'd':
			source = optarg;
			break;
		case 'm':
			mib = strtoul(optarg, NULL, 10);
			break;
		case 'n':
			singles = strtoul(optarg, NULL, 10);
			break;
		case 'h':
			return usage(stdout);
		default:
			return usage(stderr);
		}
	}
	if (!socket_path || mib == 0 || optind < argc)
		return usage(stderr);
	demo.want_pages = (uint64_t)mib << 8;
	demo.sha = EVP_MD_CTX_new();
	err = fallow_connect(socket_path, &f);
	if (!err)
		err = fallow_pool_open(f, &opts, &demo.pool);
	if (err) {
		fprintf(stderr, "fallow-demo: %s: %s\n", socket_path, fallow_strerror(err));
		return 1;
	}
	err = demo_run(&demo, source, (unsigned)singles);
	fallow_disconnect(f);
	EVP_MD_CTX_free(demo.sha);
	free(demo.file);
	return err ? 1 : 0;
}
