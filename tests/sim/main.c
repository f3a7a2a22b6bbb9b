/* fallow-sim: runs seeds of the simulated world, several processes at a time, and prints the
 * totals. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define JOBS_MAX 64u

static const char usage[] =
	"usage: fallow-sim [--seeds N] [--start S] [--jobs J] [--trace] [--verbose]\n"
	"  --seeds N   how many seeds (20)\n"
	"  --start S   the first seed (1)\n"
	"  --jobs J    processes at a time (1)\n"
	"  --verbose   a line for each seed, with a hash of all that happened: equal for equal "
	"seeds\n"
	"  --trace     print what happens\n"
	"A failing seed is printed and replays exactly: fallow-sim --start SEED --seeds 1\n";

struct options {
	uint64_t seeds, start;
	unsigned jobs;
	bool trace, verbose;
};

/* Of one job, in memory shared with the parent. */
struct totals {
	uint64_t grants_kept, granted_puts, granted_short, seeds, failed, puts, refused, gets,
		misses, lost, timeouts, flushes, events, checks, virtual_ns, faults[FAULTS];
	uint64_t ephemeral_spilled, ephemeral_dropped, ephemeral_kept, reclaims;
};

static void add(struct totals *t, const struct sim *sim)
{
	t->seeds++;
	t->grants_kept += sim->grants_kept;
	t->granted_puts += sim->granted_puts;
	t->granted_short += sim->granted_short;
	t->ephemeral_spilled += sim->ephemeral_spilled;
	t->ephemeral_dropped += sim->ephemeral_dropped;
	t->ephemeral_kept += sim->ephemeral_kept;
	t->reclaims += sim->reclaims;
	t->puts += sim->puts;
	t->refused += sim->refused;
	t->gets += sim->gets;
	t->misses += sim->misses;
	t->lost += sim->lost;
	t->timeouts += sim->timeouts;
	t->flushes += sim->flushes;
	t->events += sim->events;
	t->checks += sim->checks;
	t->virtual_ns += sim->now_ns;
	for (unsigned f = 0; f < FAULTS; f++)
		t->faults[f] += sim->faults[f];
}

static int run_job(const struct options *opt, unsigned job, struct totals *t)
{
	static struct sim sim;
	char dir[64];
	int status = 0;

	snprintf(dir, sizeof(dir), "%s/fallow-sim-XXXXXX",
		access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	if (!mkdtemp(dir)) {
		perror("fallow-sim: mkdtemp");
		return 1;
	}
	for (uint64_t i = job; i < opt->seeds; i += opt->jobs) {
		uint64_t seed = opt->start + i;

		if (sim_seed(&sim, seed, dir, opt->trace)) {
			status = 1;
			t->failed++;
			fprintf(stderr,
				"FAILED: seed %" PRIu64 " at %.6f s of virtual time: %s\n"
				"replay: fallow-sim --start %" PRIu64 " --seeds 1\n",
				seed, (double)sim.now_ns / 1e9, sim.error, seed);
		}
		if (opt->verbose)
			printf("seed %" PRIu64 ": hash %016" PRIx64 ", %" PRIu64 " events, %" PRIu64
			       " calls, %.1f s\n",
				seed, sim.hash, sim.events, sim.puts + sim.gets + sim.flushes,
				(double)sim.now_ns / 1e9);
		sim_fini(&sim);
		add(t, &sim);
	}
	rmdir(dir);
	fflush(stdout);
	return status;
}

static int print_totals(const struct options *opt, const struct totals *all)
{
	struct totals t = {0};

	for (unsigned j = 0; j < opt->jobs; j++)
		for (unsigned i = 0; i < sizeof(t) / sizeof(uint64_t); i++)
			((uint64_t *)&t)[i] += ((const uint64_t *)&all[j])[i];
	printf("%" PRIu64 " seeds (%" PRIu64 " to %" PRIu64 "), %" PRIu64 " failed; %" PRIu64
	       " operations in %.0f s of virtual time, %" PRIu64 " events, %" PRIu64 " checks\n",
		t.seeds, opt->start, opt->start + opt->seeds - 1, t.failed,
		t.puts + t.gets + t.flushes, (double)t.virtual_ns / 1e9, t.events, t.checks);
	printf("  puts %" PRIu64 " (refused %" PRIu64 "), gets %" PRIu64 " (missed %" PRIu64
	       ", lost %" PRIu64 ", timed out %" PRIu64 "), flushes %" PRIu64 "\n ",
		t.puts, t.refused, t.gets, t.misses, t.lost, t.timeouts, t.flushes);
	printf(" grants kept %" PRIu64 ", puts to such pools %" PRIu64
	       ", refused while room was short %" PRIu64 "\n  ephemeral segments copied %" PRIu64
	       ", copies dropped %" PRIu64 ", pages kept, being read %" PRIu64
	       ", regions that made way %" PRIu64 "\n  faults:",
		t.grants_kept, t.granted_puts, t.granted_short, t.ephemeral_spilled,
		t.ephemeral_dropped, t.ephemeral_kept, t.reclaims);
	for (unsigned f = 0; f < FAULTS; f++)
		printf("%s %s %" PRIu64, f ? "," : "", sim_fault_names[f], t.faults[f]);
	putchar('\n');
	return t.failed || t.seeds < opt->seeds ? 1 : 0;
}

static int run_jobs(const struct options *opt)
{
	struct totals *t = mmap(NULL, opt->jobs * sizeof(*t), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0, child;

	if (t == MAP_FAILED) {
		perror("fallow-sim: mmap");
		return 1;
	}
	if (opt->jobs == 1)
		run_job(opt, 0, &t[0]);
	for (unsigned j = 0; opt->jobs > 1 && j < opt->jobs; j++) {
		fflush(NULL);
		pid_t pid = fork();

		if (pid == 0)
			exit(run_job(opt, j, &t[j]));
		if (pid < 0) {
			perror("fallow-sim: fork");
			status = 1;
			break;
		}
	}
	while (opt->jobs > 1 && wait(&child) > 0)
		status |= !WIFEXITED(child) || WEXITSTATUS(child) ? 1 : 0;
	return print_totals(opt, t) | status;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || *end || !*text) {
		fprintf(stderr, "fallow-sim: not a number: %s\n%s", text, usage);
		exit(2);
	}
	return n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seeds", required_argument, NULL, 'n'},
		{"start", required_argument, NULL, 's'}, {"jobs", required_argument, NULL, 'j'},
		{"trace", no_argument, NULL, 't'}, {"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	struct options opt = {.seeds = 20, .start = 1, .jobs = 1};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			opt.seeds = number(optarg);
			break;
		case 's':
			opt.start = number(optarg);
			break;
		case 'j':
			opt.jobs = (unsigned)number(optarg);
			break;
		case 't':
			opt.trace = true;
			break;
		case 'v':
			opt.verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (!opt.jobs || opt.jobs > JOBS_MAX) {
		fprintf(stderr, "fallow-sim: --jobs must be 1 to %u\n", JOBS_MAX);
		return 2;
	}
	return run_jobs(&opt);
}
