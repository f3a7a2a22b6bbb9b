/* Puts and gets as a client of libfallow sees them, each time kept, beside the daemon's own account
 * of them. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fallow/fallow.h>

#include "bench/samples.h"

#define PAGE	   FALLOW_PAGE_BYTES
#define MAX_DEPTH  64u
#define HTTP_BYTES (1u << 20)
#define WAIT_MS	   120000u

struct bench {
	const char *socket, *http, *pool_name;
	uint64_t first, pages, count, seed, random;
	unsigned seconds, depth, compressible, copies, mark_percent;
	uint32_t poll_us;
	bool put;
	struct fallow *f;
	struct fallow_pool *pool;
	struct fallow_queue *queue;
	struct samples times;
	uint64_t bad, start_ns[MAX_DEPTH], which[MAX_DEPTH];
	uint8_t page[MAX_DEPTH][PAGE] __attribute__((aligned(64)));
};

/* What the daemon counted, and when it was asked. */
struct account {
	uint64_t at_ns;
	double get_remote_s, gets_remote, written_bytes, read_bytes, missing;
};

static struct bench bench;

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* The first part is random, the rest one word: what a codec can take away. */
static void page_fill(const struct bench *b, uint64_t n, uint8_t *page)
{
	uint64_t *w = (uint64_t *)page, x = mix(b->seed ^ mix(n)), fill = x | 1;
	unsigned words = PAGE / 8, noise = words * (100 - b->compressible) / 100;

	for (unsigned i = 0; i < words; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w[i] = i < noise ? x : fill;
	}
	w[0] = n;
}

static struct fallow_oid oid_of(uint64_t n)
{
	return (struct fallow_oid){{n >> 16, 0xbe4c, 0}};
}

/* ---- the daemon's account ---- */

/* Of all samples of a family that have the label, "" for any. */
static double metric_sum(const char *text, const char *name, const char *label)
{
	size_t len = strlen(name);
	double sum = 0;

	for (const char *line = text, *end; *line; line = end + (*end == '\n')) {
		end = strchrnul(line, '\n');
		const char *at = memmem(line, (size_t)(end - line), label, strlen(label));
		const char *value = memrchr(line, ' ', (size_t)(end - line));

		if (at && value && !strncmp(line, name, len) &&
			(line[len] == ' ' || line[len] == '{'))
			sum += strtod(value, NULL);
	}
	return sum;
}

static int account_take(const struct bench *b, struct account *a)
{
	static const char ask[] = "GET /metrics HTTP/1.0\r\nHost: f\r\n\r\n";
	static char text[HTTP_BYTES];
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 30};
	size_t len = 0;
	ssize_t n = -1;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(b->http) >= sizeof(to.sun_path))
		return -EINVAL;
	memcpy(to.sun_path, b->http, strlen(b->http));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (!connect(fd, (struct sockaddr *)&to, sizeof(to)) &&
		write(fd, ask, sizeof(ask) - 1) == sizeof(ask) - 1)
		while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
			len += (size_t)n;
	close(fd);
	text[len] = 0;
	if (n < 0 || !strstr(text, " 200 "))
		return -EIO;
	a->at_ns = samples_now_ns();
	a->get_remote_s = metric_sum(text, "fallow_get_remote_seconds_sum", "");
	a->gets_remote = metric_sum(text, "fallow_get_remote_seconds_count", "");
	a->written_bytes = metric_sum(text, "fallow_tier_bytes_total", "\"remote_write\"");
	a->read_bytes = metric_sum(text, "fallow_tier_bytes_total", "\"remote_read\"");
	a->missing = metric_sum(text, "fallow_segments_underreplicated", "");
	return 0;
}

/* ---- the load ---- */

static uint64_t page_next(struct bench *b, uint64_t i)
{
	if (b->put)
		return b->first + i;
	b->random = mix(b->random);
	return b->first + b->random % b->pages;
}

static void page_done(struct bench *b, uint64_t n, int status, uint64_t ns, const uint8_t *page)
{
	static uint8_t want[PAGE] __attribute__((aligned(64)));

	samples_add(&b->times, ns);
	if (!b->put && !status) {
		page_fill(b, n, want);
		status = memcmp(want, page, PAGE) ? -EBADMSG : 0;
	}
	if (status && !b->bad++)
		fprintf(stderr, "bench_pages: page %" PRIu64 ": %s\n", n, fallow_strerror(status));
}

static int load_single(struct bench *b, uint64_t n)
{
	struct fallow_oid oid = oid_of(n);
	uint32_t index = (uint32_t)(n & 0xffff);
	uint64_t start;
	int r;

	if (b->put)
		page_fill(b, n, b->page[0]);
	start = samples_now_ns();
	r = b->put ? fallow_put(b->pool, &oid, index, b->page[0])
		   : fallow_get(b->pool, &oid, index, b->page[0]);
	page_done(b, n, r, samples_now_ns() - start, b->page[0]);
	return r == -ESHUTDOWN ? r : 0;
}

static int load_post(struct bench *b, uint64_t n, unsigned place)
{
	struct fallow_oid oid = oid_of(n);

	if (b->put)
		page_fill(b, n, b->page[place]);
	b->which[place] = n;
	b->start_ns[place] = samples_now_ns();
	return fallow_queue_submit(b->queue, b->pool, b->put ? FALLOW_OP_PUT : FALLOW_OP_GET, &oid,
		(uint32_t)(n & 0xffff), b->page[place], place);
}

static bool load_over(const struct bench *b, uint64_t i, uint64_t start)
{
	return b->seconds ? samples_now_ns() - start >= b->seconds * 1000000000ull : i >= b->count;
}

/* Takes what is done and posts as much again. */
static int load_queue(struct bench *b, uint64_t start, uint64_t *posted)
{
	struct fallow_result r[MAX_DEPTH];
	unsigned flying = 0;
	int err = 0;

	for (; flying < b->depth && !load_over(b, *posted, start) && !err; flying++)
		err = load_post(b, page_next(b, (*posted)++), flying);
	while (flying && !err) {
		int got = fallow_queue_wait(b->queue, r, b->depth, WAIT_MS);
		uint64_t now = samples_now_ns();

		err = got < 0 ? got : !got ? -ETIMEDOUT : 0;
		for (int i = 0; i < got && !err; i++) {
			unsigned place = (unsigned)r[i].tag;

			flying--;
			page_done(b, b->which[place], r[i].status, now - b->start_ns[place],
				b->page[place]);
			if (load_over(b, *posted, start))
				continue;
			err = load_post(b, page_next(b, (*posted)++), place);
			flying++;
		}
	}
	return err;
}

static int load_run(struct bench *b, uint64_t *done)
{
	uint64_t start = samples_now_ns();
	int err = 0;

	if (b->depth > 1)
		return load_queue(b, start, done);
	for (; !err && !load_over(b, *done, start); ++*done)
		err = load_single(b, page_next(b, *done));
	return err;
}

static int measure(struct bench *b)
{
	struct account before, after;
	uint64_t done = 0, count = b->count;
	int err;

	/* Up to the mark the load only brings the daemon into its stride. */
	if (b->mark_percent) {
		b->count = count * b->mark_percent / 100;
		err = load_run(b, &done);
		if (err)
			return err;
		b->times.count = 0;
		b->first += done;
		b->count = count - done;
		done = 0;
	}
	err = account_take(b, &before);
	if (err)
		return err;
	uint64_t start = samples_now_ns();
	err = load_run(b, &done);
	double seconds = (double)(samples_now_ns() - start) / 1e9;
	if (!err)
		err = account_take(b, &after);
	if (err)
		return err;
	double gets = after.gets_remote - before.gets_remote;
	double window = (double)(after.at_ns - before.at_ns) / 1e9;

	printf("{\"op\":\"%s\",\"compressible_percent\":%u,\"depth\":%u,\"bad\":%" PRIu64
	       ",\"seconds\":%.3f,\"per_s\":%.1f,\"mib_s\":%.3f,\"gets_remote\":%.0f,"
	       "\"daemon_mean_us\":%.2f,\"wire_read_bytes\":%.0f,\"wire_written_bytes\":%.0f,"
	       "\"window_s\":%.3f,\"wire_written_mib_s\":%.3f,",
		b->put ? "put" : "get", b->compressible, b->depth, b->bad, seconds,
		(double)done / seconds, (double)done * PAGE / seconds / (1 << 20), gets,
		gets > 0 ? (after.get_remote_s - before.get_remote_s) / gets * 1e6 : 0,
		after.read_bytes - before.read_bytes, after.written_bytes - before.written_bytes,
		window, (after.written_bytes - before.written_bytes) / window / (1 << 20));
	samples_print(&b->times);
	puts("}");
	return 0;
}

/* Says when segments begin to lack copies, and when none does any more. */
static int watch(const struct bench *b)
{
	struct timespec pause = {.tv_nsec = 200000000}, now;
	uint64_t start = samples_now_ns();
	struct account a;
	double last = -1;

	while (samples_now_ns() - start < b->seconds * 1000000000ull) {
		int err = account_take(b, &a);

		if (err)
			return err;
		if ((a.missing > 0) != (last > 0) || last < 0) {
			clock_gettime(CLOCK_REALTIME, &now);
			printf("{\"at_ms\":%" PRId64 ",\"missing\":%.0f,\"written_bytes\":%.0f}\n",
				(int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, a.missing,
				a.written_bytes);
			fflush(stdout);
		}
		last = a.missing;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int bench_open(struct bench *b)
{
	struct fallow_pool_opts opts = {.size = sizeof(opts),
		.flags = FALLOW_POOL_PERSISTENT,
		.name = b->pool_name,
		.copies = (uint8_t)b->copies};
	int err = fallow_connect(b->socket, &b->f);

	if (!err)
		err = fallow_poll_set(b->f, b->poll_us);
	if (!err)
		err = fallow_pool_open(b->f, &opts, &b->pool);
	if (!err)
		err = fallow_queue_new(b->f, b->depth, &b->queue);
	if (!err && samples_init(&b->times, b->seconds ? b->seconds * 20000u : b->count))
		err = -ENOMEM;
	return err;
}

static int usage(void)
{
	fputs("usage: bench_pages put|get|watch OPTION...\n"
	      "  --socket PATH --http PATH   the daemon's sockets\n"
	      "  --pool NAME                 (an unnamed one, gone at the end)\n"
	      "  --first N --pages N         the pages; a put goes through them, a get draws\n"
	      "  --count N, --seconds N      how many; a put: as many as there are pages\n"
	      "  --depth N                   in flight (1)\n"
	      "  --compressible PERCENT --copies N --seed N\n"
	      "  --mark PERCENT              measure only after that share\n"
	      "  --poll US                   look for an answer this long before sleeping\n"
	      "watch needs --http and --seconds: a line when segments lack copies, and when none "
	      "does.\n"
	      "Prints one JSON line; 1 when a page was wrong, refused or missing.\n",
		stderr);
	return 2;
}

static int options_take(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {{"socket", 1, 0, 's'}, {"http", 1, 0, 'h'},
		{"pool", 1, 0, 'p'}, {"first", 1, 0, 'f'}, {"pages", 1, 0, 'n'},
		{"count", 1, 0, 'c'}, {"seconds", 1, 0, 't'}, {"depth", 1, 0, 'd'},
		{"compressible", 1, 0, 'z'}, {"copies", 1, 0, 'r'}, {"seed", 1, 0, 'e'},
		{"mark", 1, 0, 'm'}, {"poll", 1, 0, 'o'}, {0, 0, 0, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t n = c == '?' ? 0 : strtoull(optarg, NULL, 0);

		switch (c) {
		case 's':
			b->socket = optarg;
			break;
		case 'h':
			b->http = optarg;
			break;
		case 'p':
			b->pool_name = optarg;
			break;
		case 'f':
			b->first = n;
			break;
		case 'n':
			b->pages = n;
			break;
		case 'c':
			b->count = n;
			break;
		case 't':
			b->seconds = (unsigned)n;
			break;
		case 'd':
			b->depth = (unsigned)n;
			break;
		case 'z':
			b->compressible = (unsigned)n;
			break;
		case 'r':
			b->copies = (unsigned)n;
			break;
		case 'e':
			b->seed = n;
			break;
		case 'o':
			b->poll_us = (uint32_t)n;
			break;
		case 'm':
			b->mark_percent = (unsigned)n;
			break;
		default:
			return -EINVAL;
		}
	}
	if (b->put || !b->count)
		b->count = b->pages;
	return optind + 1 == argc && b->socket && b->http && b->pages && b->depth >= 1 &&
			       b->depth <= MAX_DEPTH && b->compressible <= 100 &&
			       b->mark_percent < 100 && b->seconds <= 3600 &&
			       !(b->put && b->seconds)
		       ? 0
		       : -EINVAL;
}

int main(int argc, char **argv)
{
	struct bench *b = &bench;
	int err;

	b->depth = 1;
	b->seed = 1;
	b->put = argc > 1 && !strcmp(argv[1], "put");
	if (argc > 1 && !strcmp(argv[1], "watch")) {
		b->socket = "";
		b->pages = 1;
		if (options_take(b, argc, argv))
			return usage();
		err = watch(b);
		if (err)
			fprintf(stderr, "bench_pages: %s\n", fallow_strerror(err));
		return err ? 1 : 0;
	}
	if (argc < 2 || (!b->put && strcmp(argv[1], "get")) || options_take(b, argc, argv))
		return usage();
	b->random = mix(b->seed ^ samples_now_ns());
	err = bench_open(b);
	if (!err)
		err = measure(b);
	if (err)
		fprintf(stderr, "bench_pages: %s\n", fallow_strerror(err));
	fallow_queue_delete(b->queue);
	if (b->pool)
		fallow_pool_close(b->pool);
	fallow_disconnect(b->f);
	return err || b->bad ? 1 : 0;
}
