/* fallow bench: puts, gets and flushes pages through libfallow, and reports rates and latencies. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "lib/core/config.h"
#include "lib/core/env.h"

#define REPORT_NS 500000000l

static const char *const phase_name[] = {"put", "get", "flush"};

static const char usage_text[] =
	"Usage: fallow bench [OPTION...]\n"
	"Puts pages, gets them in random order, compares, flushes them, and says how fast that "
	"was.\n\n"
	"  --size SIZE          data to put, for example 1GiB (256MiB)\n"
	"  --gets N             pages to get (as many as were put)\n"
	"  --threads N          client threads, 1 to 64 (1)\n"
	"  --depth N            requests in flight for each thread, 1 to 128 (16)\n"
	"  --compressible N     percent of each page that compresses away, 0 to 100 (50)\n"
	"  --copies N           copies on donors, 1 to 3 (the backend's setting)\n"
	"  --codec NAME         none, lz4 or zstd (the backend's setting)\n"
	"  --ephemeral          an ephemeral pool: misses are no errors\n"
	"  --seed N             of the content and the order (1)\n"
	"  --no-verify          do not compare what comes back\n"
	"  --poll US            look for an answer this long before sleeping (about 10)\n"
	"  --keep               do not flush at the end: needs --pool\n"
	"  --pool NAME          a named pool (an unnamed one, gone at the end)\n"
	"  --socket PATH        fallowd's client socket (" CLI_SOCKET_DEFAULT ")\n"
	"  --json               results as JSON\n"
	"Exit codes: 0 done, 1 a page was lost, wrong or failed, 2 wrong arguments.\n";

struct bench {
	struct bench_config cfg;
	struct cli_options *cli;
	struct fallow_pool_opts pool_opts;
	bool keep;
	struct fallow *f;
	struct fallow_pool *pool;
	struct bench_worker *worker;
	uint64_t phase_ns[BENCH_PHASES];
};

enum {
	O_SIZE = 256,
	O_GETS,
	O_THREADS,
	O_DEPTH,
	O_COMPRESSIBLE,
	O_COPIES,
	O_CODEC,
	O_EPHEMERAL,
	O_SEED,
	O_NO_VERIFY,
	O_POLL,
	O_KEEP,
	O_POOL,
	O_SOCKET,
	O_JSON,
	O_HELP
};

static const struct option options[] = {{"size", 1, 0, O_SIZE}, {"gets", 1, 0, O_GETS},
	{"threads", 1, 0, O_THREADS}, {"depth", 1, 0, O_DEPTH},
	{"compressible", 1, 0, O_COMPRESSIBLE}, {"copies", 1, 0, O_COPIES},
	{"codec", 1, 0, O_CODEC}, {"ephemeral", 0, 0, O_EPHEMERAL}, {"seed", 1, 0, O_SEED},
	{"no-verify", 0, 0, O_NO_VERIFY}, {"poll", 1, 0, O_POLL}, {"keep", 0, 0, O_KEEP},
	{"pool", 1, 0, O_POOL}, {"socket", 1, 0, O_SOCKET}, {"json", 0, 0, O_JSON},
	{"help", 0, 0, O_HELP}, {0, 0, 0, 0}};

static int number_parse(const char *name, const char *text, uint64_t lo, uint64_t hi, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 0);
	if (!errno && end != text && !*end && *text != '-' && *out >= lo && *out <= hi)
		return 0;
	fprintf(stderr, "fallow bench: --%s %s: must be a number from %" PRIu64 " to %" PRIu64 "\n",
		name, text, lo, hi);
	return -EINVAL;
}

static int codec_parse(const char *text, uint8_t *out)
{
	static const char *const names[] = {"", "none", "lz4", "zstd"};

	for (uint8_t i = 1; i < 4; i++)
		if (!strcmp(text, names[i])) {
			*out = i;
			return 0;
		}
	fprintf(stderr, "fallow bench: --codec %s: must be none, lz4 or zstd\n", text);
	return -EINVAL;
}

static int option_take(struct bench *b, int option, const char *name)
{
	uint64_t n = 0;
	int r = 0;

	switch (option) {
	case O_SIZE:
		r = config_size_parse(optarg, &n);
		if (r < 0 || n < FALLOW_PAGE_BYTES || n > 1ull << 50) {
			fprintf(stderr, "fallow bench: --size %s: must be a size such as 256MiB\n",
				optarg);
			return -EINVAL;
		}
		b->cfg.pages = n / FALLOW_PAGE_BYTES;
		break;
	case O_GETS:
		return number_parse(name, optarg, 1, 1ull << 40, &b->cfg.gets);
	case O_THREADS:
		r = number_parse(name, optarg, 1, BENCH_MAX_THREADS, &n);
		b->cfg.threads = (unsigned)n;
		break;
	case O_DEPTH:
		r = number_parse(name, optarg, 1, BENCH_MAX_DEPTH, &n);
		b->cfg.depth = (unsigned)n;
		break;
	case O_COMPRESSIBLE:
		r = number_parse(name, optarg, 0, 100, &n);
		b->cfg.compressible = (unsigned)n;
		break;
	case O_COPIES:
		r = number_parse(name, optarg, 1, 3, &n);
		b->pool_opts.copies = (uint8_t)n;
		break;
	case O_CODEC:
		return codec_parse(optarg, &b->pool_opts.codec);
	case O_EPHEMERAL:
		b->pool_opts.flags = 0;
		break;
	case O_SEED:
		return number_parse(name, optarg, 0, UINT64_MAX, &b->cfg.seed);
	case O_NO_VERIFY:
		b->cfg.verify = false;
		break;
	case O_POLL:
		r = number_parse(name, optarg, 0, 1000000, &n);
		b->cfg.poll_us = (uint32_t)n;
		break;
	case O_KEEP:
		b->keep = true;
		break;
	case O_POOL:
		b->pool_opts.name = optarg;
		break;
	case O_SOCKET:
		b->cli->socket = optarg;
		break;
	case O_JSON:
		b->cli->json = true;
		break;
	default:
		return -EINVAL;
	}
	return r;
}

/* 0, or the exit code plus one. */
static int arguments_take(struct bench *b, int argc, char **argv)
{
	int option, index = 0;

	optind = 1;
	while ((option = getopt_long(argc, argv, "h", options, &index)) != -1) {
		if (option == O_HELP || option == 'h') {
			fputs(usage_text, stdout);
			return CLI_OK + 1;
		}
		if (option == '?' || option_take(b, option, options[index].name) < 0)
			return CLI_USAGE + 1;
	}
	if (optind < argc) {
		fprintf(stderr, "fallow bench: unexpected argument '%s'\n", argv[optind]);
		return CLI_USAGE + 1;
	}
	if (b->keep && !b->pool_opts.name) {
		fprintf(stderr,
			"fallow bench: --keep needs --pool: an unnamed pool ends with us\n");
		return CLI_USAGE + 1;
	}
	if (!b->cfg.gets)
		b->cfg.gets = b->cfg.pages;
	if (b->cfg.pages < b->cfg.threads)
		b->cfg.threads = (unsigned)b->cfg.pages;
	return 0;
}

#define SUM(b, member)                                                                             \
	({                                                                                         \
		uint64_t sum_ = 0;                                                                 \
		for (unsigned i_ = 0; i_ < (b)->cfg.threads; i_++)                                 \
			sum_ += stat_get(&(b)->worker[i_].member);                                 \
		sum_;                                                                              \
	})

static uint64_t phase_total(const struct bench *b, enum bench_phase phase)
{
	return phase == BENCH_GET ? b->cfg.gets : b->cfg.pages;
}

static void latency_merge(const struct bench *b, enum bench_phase phase, struct hist *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < b->cfg.threads; i++)
		hist_merge(out, &b->worker[i].latency[phase]);
}

static void progress_print(
	const struct bench *b, enum bench_phase phase, uint64_t pages, uint64_t ns, bool terminal)
{
	static struct hist h;
	char p50[24], p99[24];
	uint64_t done = SUM(b, done[phase]), total = phase_total(b, phase);
	double rate = ns ? (double)pages * 1e9 / (double)ns : 0;

	latency_merge(b, phase, &h);
	fprintf(stderr, "%s%-5s %3u%%  %9.0f pages/s  %8.1f MiB/s  p50 %s  p99 %s%s",
		terminal ? "\r\033[K" : "", phase_name[phase],
		total ? (unsigned)(done * 100 / total) : 100, rate, rate / 256,
		time_text(hist_quantile_ns(&h, 0.5), p50),
		time_text(hist_quantile_ns(&h, 0.99), p99), terminal ? "" : "\n");
	fflush(stderr);
}

static bool phase_over(const struct bench *b)
{
	return SUM(b, finished) == b->cfg.threads;
}

static int phase_run(struct bench *b, enum bench_phase phase)
{
	bool terminal = isatty(2);
	uint64_t start = env_now_ns(&env_system), last_ns = start, last_done = 0;

	for (unsigned i = 0; i < b->cfg.threads; i++) {
		int r = bench_worker_start(&b->worker[i], phase);

		if (r < 0) {
			fprintf(stderr, "fallow bench: cannot start a thread: %s\n", strerror(-r));
			for (unsigned k = 0; k < i; k++)
				bench_worker_join(&b->worker[k]);
			return r;
		}
	}
	while (!phase_over(b)) {
		uint64_t now = env_now_ns(&env_system);

		if (now - last_ns >= REPORT_NS) {
			uint64_t done = SUM(b, done[phase]);

			if (terminal)
				progress_print(b, phase, done - last_done, now - last_ns, true);
			last_ns = now;
			last_done = done;
		}
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	for (unsigned i = 0; i < b->cfg.threads; i++)
		bench_worker_join(&b->worker[i]);
	b->phase_ns[phase] = env_now_ns(&env_system) - start;
	progress_print(b, phase, SUM(b, done[phase]), b->phase_ns[phase], terminal);
	if (terminal)
		fprintf(stderr, "\n");
	if (SUM(b, gone)) {
		fprintf(stderr, "fallow bench: the backend is gone\n");
		return -ESHUTDOWN;
	}
	return 0;
}

static void json_report(const struct bench *b)
{
	static struct hist h;
	json_t *o = json_object(), *phases = json_object();

	for (unsigned i = 0; i < BENCH_PHASES; i++) {
		uint64_t done = SUM(b, done[i]);
		double s = (double)b->phase_ns[i] / 1e9;
		json_t *p = json_object();

		if (!done)
			continue;
		latency_merge(b, (enum bench_phase)i, &h);
		json_object_set_new(p, "pages", json_integer((json_int_t)done));
		json_object_set_new(p, "seconds", json_real(s));
		json_object_set_new(p, "pages_per_s", json_real((double)done / s));
		json_object_set_new(p, "mib_per_s", json_real((double)done / s / 256));
		json_object_set_new(
			p, "p50_ns", json_integer((json_int_t)hist_quantile_ns(&h, 0.5)));
		json_object_set_new(
			p, "p90_ns", json_integer((json_int_t)hist_quantile_ns(&h, 0.9)));
		json_object_set_new(
			p, "p99_ns", json_integer((json_int_t)hist_quantile_ns(&h, 0.99)));
		json_object_set_new(
			p, "p999_ns", json_integer((json_int_t)hist_quantile_ns(&h, 0.999)));
		json_object_set_new(p, "max_ns", json_integer((json_int_t)stat_get(&h.max_ns)));
		json_object_set_new(phases, phase_name[i], p);
	}
	json_object_set_new(o, "pages", json_integer((json_int_t)b->cfg.pages));
	json_object_set_new(o, "threads", json_integer(b->cfg.threads));
	json_object_set_new(o, "depth", json_integer(b->cfg.depth));
	json_object_set_new(o, "seed", json_integer((json_int_t)b->cfg.seed));
	json_object_set_new(o, "compressible_percent", json_integer(b->cfg.compressible));
	json_object_set_new(o, "verified", json_boolean(b->cfg.verify));
	json_object_set_new(o, "poll_us", json_integer(b->cfg.poll_us));
	json_object_set_new(o, "phases", phases);
	json_object_set_new(o, "refused", json_integer((json_int_t)SUM(b, refused)));
	json_object_set_new(o, "missed", json_integer((json_int_t)SUM(b, missed)));
	json_object_set_new(o, "lost", json_integer((json_int_t)SUM(b, lost)));
	json_object_set_new(o, "wrong", json_integer((json_int_t)SUM(b, wrong)));
	json_object_set_new(o, "failed", json_integer((json_int_t)SUM(b, failed)));
	json_dumpf(o, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(o);
}

static void table_report(const struct bench *b)
{
	static const char *const headings[] = {"", ">pages", ">seconds", ">pages/s", ">MiB/s",
		">p50", ">p90", ">p99", ">p99.9", ">max", NULL};
	static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};
	static struct hist h;
	char text[24];
	struct table *t = table_new(headings);

	for (unsigned i = 0; i < BENCH_PHASES; i++) {
		uint64_t done = SUM(b, done[i]);
		double s = (double)b->phase_ns[i] / 1e9;

		if (!done)
			continue;
		latency_merge(b, (enum bench_phase)i, &h);
		table_cell(t, "%s", phase_name[i]);
		table_cell(t, "%" PRIu64, done);
		table_cell(t, "%.2f", s);
		table_cell(t, "%.0f", (double)done / s);
		table_cell(t, "%.1f", (double)done / s / 256);
		for (unsigned q = 0; q < 4; q++)
			table_cell(t, "%s", time_text(hist_quantile_ns(&h, quantiles[q]), text));
		table_cell(t, "%s", time_text(stat_get(&h.max_ns), text));
	}
	table_print(t);
	printf("refused %" PRIu64 "  missed %" PRIu64 "  lost %" PRIu64 "  wrong %" PRIu64
	       "  failed %" PRIu64 "%s\n",
		SUM(b, refused), SUM(b, missed), SUM(b, lost), SUM(b, wrong), SUM(b, failed),
		b->cfg.verify ? "  (every page compared)" : "");
}

static int bench_run(struct bench *b)
{
	int r = fallow_connect(b->cli->socket, &b->f);

	if (r < 0) {
		fprintf(stderr, "fallow bench: cannot connect to %s: %s\n", b->cli->socket,
			fallow_strerror(r));
		return r;
	}
	fallow_poll_set(b->f, b->cfg.poll_us);
	r = fallow_pool_open(b->f, &b->pool_opts, &b->pool);
	if (r < 0)
		fprintf(stderr, "fallow bench: cannot open a pool: %s\n", fallow_strerror(r));
	for (unsigned i = 0; !r && i < b->cfg.threads; i++) {
		r = bench_worker_init(&b->worker[i], &b->cfg, b->f, b->pool, i);
		if (r < 0)
			fprintf(stderr, "fallow bench: cannot set up a thread: %s\n",
				fallow_strerror(r));
	}
	for (unsigned p = 0; !r && p < (b->keep ? BENCH_FLUSH : BENCH_PHASES); p++)
		r = phase_run(b, (enum bench_phase)p);
	if (!r && b->cli->json)
		json_report(b);
	else if (!r)
		table_report(b);
	bool persistent = b->pool_opts.flags & FALLOW_POOL_PERSISTENT;
	if (!r &&
		(SUM(b, wrong) || SUM(b, failed) || SUM(b, lost) || (persistent && SUM(b, missed))))
		r = -EIO;
	for (unsigned i = 0; i < b->cfg.threads; i++)
		bench_worker_fini(&b->worker[i]);
	if (b->pool)
		fallow_pool_close(b->pool);
	fallow_disconnect(b->f);
	return r;
}

int bench_main(struct cli_options *o, int argc, char **argv)
{
	struct bench b = {
		.cfg = {.pages = (256u << 20) / FALLOW_PAGE_BYTES,
			.threads = 1,
			.depth = 16,
			.compressible = 50,
			.seed = 1,
			.verify = true},
		.cli = o,
		.pool_opts = {.size = sizeof(b.pool_opts), .flags = FALLOW_POOL_PERSISTENT},
	};
	int code = arguments_take(&b, argc, argv);

	if (code)
		return code - 1;
	b.worker = calloc(b.cfg.threads, sizeof(*b.worker));
	if (!b.worker) {
		fprintf(stderr, "fallow bench: not enough memory\n");
		return CLI_FAILED;
	}
	int r = bench_run(&b);
	free(b.worker);
	return r < 0 ? CLI_FAILED : CLI_OK;
}
