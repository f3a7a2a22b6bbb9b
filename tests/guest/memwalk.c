/* Writes to a few pages round after round and says when one is older than it was left. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * So few that their translations stay where they are, in a processor or its emulation, and with
 * them whatever these say about a page being clean; and no page is left for long, so that one that
 * arrives late in a migration is noticed.
 */
#define PAGES	    32u
#define PAGE_WORDS  512u
#define ROUNDS	    65536u /* between two looks at the file */
#define MAX_TELLING 10u

static volatile uint64_t *pages_get(void)
{
	void *at = mmap(NULL, PAGES * PAGE_WORDS * 8, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

int main(int argc, char **argv)
{
	volatile uint64_t *word = pages_get();
	uint64_t round, stale = 0;

	if (argc != 2 || !word) {
		fprintf(stderr, "usage: memwalk FILE (goes on until there is such a file)\n");
		return 2;
	}
	for (round = 1; round % ROUNDS || access(argv[1], F_OK) < 0; round++) {
		for (unsigned page = 0; page < PAGES; page++) {
			uint64_t found = word[page * PAGE_WORDS];

			word[page * PAGE_WORDS] = round;
			if (found == round - 1 || stale++ >= MAX_TELLING)
				continue;
			printf("page %u is of round %llu in round %llu\n", page,
				(unsigned long long)found, (unsigned long long)round);
			fflush(stdout);
		}
	}
	printf("{\"rounds\":%llu,\"pages\":%u,\"stale\":%llu}\n", (unsigned long long)round, PAGES,
		(unsigned long long)stale);
	return stale != 0;
}
