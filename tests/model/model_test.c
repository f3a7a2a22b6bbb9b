/* The model-based test of the engine: random operations from a seed against a plain reference
 * model. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/model/crash.h"
#include "tests/model/run.h"

static const char usage[] =
	"usage: model_test [--seed N] [--seeds N] [--ops N] [--kills N] [--dir DIR]\n"
	"  --seed N    the first seed (1); decides everything but the moments of --kills\n"
	"  --seeds N   how many seeds, one after the other (1)\n"
	"  --ops N     operations for each seed (100000)\n"
	"  --kills N   instead: kill a child in the middle of its calls N times, and check\n"
	"  --dir DIR   where the arenas are made (/dev/shm)\n";

static void print_totals(const struct run *r)
{
	printf("seed %" PRIu64 ": puts %" PRIu64 " (refused %" PRIu64 "), gets %" PRIu64
	       " (missed %" PRIu64 ", lost %" PRIu64 ", timed out %" PRIu64 "), flushes %" PRIu64
	       ", pools %" PRIu64 "; crashes %" PRIu64 ", reopens %" PRIu64 ", donors lost %" PRIu64
	       ", regions leased %" PRIu64 " and revoked %" PRIu64 ", flips %" PRIu64
	       ", failed transfers %" PRIu64 "; %" PRIu64 " checks, %" PRIu64
	       " ms of virtual time\n",
		r->opt.seed, r->puts, r->puts_refused, r->gets, r->misses, r->lost, r->timeouts,
		r->flushes, r->pools, r->crashes, r->reopens, r->losses, r->leases, r->revokes,
		r->fake.flips, r->fake.failures, r->checks, r->now_ns / 1000000);
	if (r->grants)
		printf("  grants kept %" PRIu64 ", not at once %" PRIu64 "; puts within %" PRIu64
		       ", refused while room was short %" PRIu64 "\n",
			r->grants_kept, r->grants_waited, r->puts_granted, r->granted_short);
	printf("  gets straight to a guest's memory %" PRIu64 ", found changed there %" PRIu64
	       ", abandoned %" PRIu64 "\n",
		r->gets_direct, r->direct_unlike, r->direct_abandoned);
	printf("  gets from donors %" PRIu64 " and from disk %" PRIu64 "; segments spilled %" PRIu64
	       ", repaired %" PRIu64 ", cleaned %" PRIu64 ", to disk %" PRIu64 ", evicted %" PRIu64
	       "\n  ephemeral pages kept, being read %" PRIu64 ", put to main %" PRIu64
	       "; ephemeral segments copied %" PRIu64 ", copies dropped %" PRIu64 "\n",
		r->gets_remote, r->gets_disk, r->spilled, r->repaired, r->cleaned, r->to_disk,
		r->evicted, r->kept_read, r->known, r->ephemeral_spilled, r->ephemeral_dropped);
}

static int run_seed(const struct run_options *opt, uint64_t *ops)
{
	static struct run r;
	uint64_t i = 0;
	int status = run_init(&r, opt);

	for (; !status && i < opt->ops; i++)
		status = run_step(&r);
	if (!status)
		status = run_finish(&r);
	if (status)
		fprintf(stderr,
			"FAILED: seed %" PRIu64 " at operation %" PRIu64 ": %s\n"
			"replay: model_test --seed %" PRIu64 " --ops %" PRIu64 "\n",
			opt->seed, i, r.error, opt->seed, opt->ops);
	else
		print_totals(&r);
	*ops += r.puts + r.gets + r.flushes;
	run_fini(&r);
	return status;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || *end || !*text) {
		fprintf(stderr, "model_test: not a number: %s\n%s", text, usage);
		exit(2);
	}
	return n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
		{"seeds", required_argument, NULL, 'n'}, {"ops", required_argument, NULL, 'o'},
		{"kills", required_argument, NULL, 'k'}, {"dir", required_argument, NULL, 'd'},
		{NULL, 0, NULL, 0}};
	struct run_options opt = {
		.seed = 1, .ops = 100000, .dir = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm"};
	uint64_t seeds = 1, kills = 0, ops = 0;
	int c;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			opt.seed = number(optarg);
			break;
		case 'n':
			seeds = number(optarg);
			break;
		case 'o':
			opt.ops = number(optarg);
			break;
		case 'k':
			kills = number(optarg);
			break;
		case 'd':
			opt.dir = optarg;
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	for (uint64_t i = 0; i < seeds; i++, opt.seed++)
		if (kills ? crash_test(&opt, kills) : run_seed(&opt, &ops))
			return 1;
	if (!kills)
		printf("%" PRIu64 " seeds, %" PRIu64 " operations: passed\n", seeds, ops);
	return 0;
}
