/* The memory of regions: mapped, placed on a NUMA node, wiped, given back. */
#ifndef FALLOW_MEMSERVER_MEMORY_H
#define FALLOW_MEMSERVER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct memory_config {
	uint64_t region_bytes;
	unsigned regions; /* rows */
	bool huge_pages;  /* from the hugetlb pool; where it has none, transparent ones */
	int numa_node;	  /* -1: any */
};

struct memory;

/* Allocates the table only. -ENOMEM. */
int memory_new(const struct memory_config *cfg, struct memory **out);
void memory_delete(struct memory *m); /* unmaps all; NULL is allowed */
/* Maps a region and takes all its pages from the system, which may take about 0.3 ms for each MiB.
 * -ENOMEM: the system (or the NUMA node) has none; other errnos of mmap(2) and mbind(2). */
int memory_region_alloc(struct memory *m, unsigned region);
void memory_region_free(struct memory *m, unsigned region);
/* All its bytes are zero afterwards. */
void memory_region_wipe(struct memory *m, unsigned region);
void *memory_region_base(const struct memory *m, unsigned region); /* NULL: not mapped */
/* Regions mapped now, and those of them that could not have the huge pages asked for. */
unsigned memory_regions(const struct memory *m);
unsigned memory_regions_small(const struct memory *m);

#endif
