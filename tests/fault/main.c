/* Fault tests: real daemons under load that are killed, stopped, starved and lied to. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault/harness.h"
#include "tests/fault/scenario.h"

static const struct scenario {
	const char *name;
	void (*run)(struct rng *r);
	const char *help;
} scenarios[] = {
	{"donor-killed", scenario_donor_killed,
		"kill -9 of a donor at two copies, then of another"},
	{"donor-lost", scenario_donor_lost, "kill -9 of a donor at one copy, without a disk"},
	{"donor-stopped", scenario_donor_stopped, "SIGSTOP of a donor at two copies"},
	{"donor-lies", scenario_donor_lies, "a donor that answers with flipped bits"},
	{"donor-pressed", scenario_donor_pressed, "a donor that needs its memory, at one copy"},
	{"backend-killed", scenario_backend_killed, "kill -9 of the backend, three times"},
	{"backend-silent", scenario_backend_silent,
		"a revocation that the backend does not answer"},
	{"client-killed", scenario_client_killed, "kill -9 of clients in mid-operation"},
	{"cluster-full", scenario_cluster_full, "donors without room"},
	{"mixed", scenario_mixed, "all kinds of trouble in turn"},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

static int usage(void)
{
	printf("usage: fault_test SCENARIO [--seed N] [--repeat N] [--bin DIR]\n\n"
	       "Repetition i has the seed N + i. FALLOW_FAULT_KEEP=1 keeps the files of a "
	       "failure.\n"
	       "\n");
	for (unsigned i = 0; i < SCENARIOS; i++)
		printf("  %-16s %s\n", scenarios[i].name, scenarios[i].help);
	return 2;
}

int main(int argc, char **argv)
{
	char bin[PATH_MAX] = "";
	uint64_t seed = (uint64_t)time(NULL) * 1000, repeat = 3;
	const struct scenario *s = NULL;

	if (argc == 4 && !strcmp(argv[1], "client")) {
		scenario_client_run(argv[2], strtoull(argv[3], NULL, 0));
		return 0;
	}
	if (readlink("/proc/self/exe", bin, sizeof(bin) - 1) > 0)
		dirname(bin);
	for (int i = 2; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--repeat"))
			repeat = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--bin"))
			snprintf(bin, sizeof(bin), "%s", argv[i + 1]);
		else
			return usage();
	}
	for (unsigned i = 0; argc % 2 == 0 && i < SCENARIOS; i++) {
		if (!strcmp(argv[1], scenarios[i].name))
			s = &scenarios[i];
	}
	if (!s)
		return usage();
	printf("%s: seed %llu, %llu repetitions\n", s->name, (unsigned long long)seed,
		(unsigned long long)repeat);
	for (uint64_t i = 0; i < repeat; i++) {
		struct rng r = {rng_mix(seed + i)};
		uint64_t begin = now_ms();

		harness_start(bin, s->name, seed + i);
		s->run(&r);
		harness_end();
		say("seed %llu passed in %.1f s", (unsigned long long)(seed + i),
			(double)(now_ms() - begin) / 1000);
	}
	return 0;
}
