/* The memory of regions: mapped, placed on a NUMA node, wiped, given back. */
#include "memserver/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/core/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older C libraries do not name it */
#endif

#define MPOL_BIND_POLICY 2 /* MPOL_BIND of linux/mempolicy.h */
#define NODES_MAX	 1024
#define HUGE_BYTES	 (2u << 20)
#define WORD_BITS	 (8 * sizeof(unsigned long))

struct row {
	void *base;
	bool small; /* huge pages were asked for, and there were none */
};

struct memory {
	struct memory_config cfg;
	unsigned mapped, small;
	struct row rows[];
};

int memory_new(const struct memory_config *cfg, struct memory **out)
{
	struct memory *m = calloc(1, sizeof(*m) + cfg->regions * sizeof(m->rows[0]));

	if (!m)
		return -ENOMEM;
	m->cfg = *cfg;
	*out = m;
	return 0;
}

void memory_delete(struct memory *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->cfg.regions; i++)
		memory_region_free(m, i);
	free(m);
}

static int node_bind(const struct memory *m, void *base)
{
	unsigned long mask[NODES_MAX / WORD_BITS] = {0};
	int node = m->cfg.numa_node;

	if (node < 0)
		return 0;
	if (node >= NODES_MAX)
		return -EINVAL;
	mask[(unsigned)node / WORD_BITS] = 1ul << ((unsigned)node % WORD_BITS);
	if (syscall(SYS_mbind, base, m->cfg.region_bytes, MPOL_BIND_POLICY, mask,
		    (unsigned long)NODES_MAX + 1, 0u))
		return -errno;
	return 0;
}

/* Takes the pages now, so that a lease is never a promise that the system cannot keep. */
static int pages_take(void *base, size_t len)
{
	if (!madvise(base, len, MADV_POPULATE_WRITE))
		return 0;
	if (errno != EINVAL)
		return errno == EFAULT || errno == EHWPOISON ? -ENOMEM : -errno;
	/* A kernel before 5.14. */
	for (size_t i = 0; i < len; i += 4096)
		((volatile char *)base)[i] = 0;
	return 0;
}

static int map_with(const struct memory *m, int flags, bool transparent_huge, void **out)
{
	size_t len = m->cfg.region_bytes;
	void *base = mmap(NULL, len, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	if (base == MAP_FAILED)
		return -errno;
	int rc = node_bind(m, base);
	if (!rc && transparent_huge)
		madvise(base, len, MADV_HUGEPAGE);
	if (!rc)
		rc = pages_take(base, len);
	if (rc) {
		munmap(base, len);
		return rc;
	}
	/* A child (there is none in normal work) would otherwise get copies of pages that peers
	 * write. */
	madvise(base, len, MADV_DONTFORK);
	madvise(base, len, MADV_DONTDUMP);
	*out = base;
	return 0;
}

int memory_region_alloc(struct memory *m, unsigned region)
{
	struct row *r = &m->rows[region];
	bool huge = m->cfg.huge_pages && m->cfg.region_bytes % HUGE_BYTES == 0;
	int rc = -ENOMEM;

	if (huge)
		rc = map_with(m, MAP_HUGETLB, false, &r->base);
	r->small = m->cfg.huge_pages && rc;
	if (rc)
		rc = map_with(m, 0, m->cfg.huge_pages, &r->base);
	if (rc) {
		log_warn_limited("memory", "no memory for a region of %llu bytes: %s",
			(unsigned long long)m->cfg.region_bytes, strerror(-rc));
		r->base = NULL;
		r->small = false;
		return rc;
	}
	if (r->small)
		log_warn_limited("memory",
			"the hugetlb pool has no room for a region of %llu bytes: it "
			"has transparent huge pages instead",
			(unsigned long long)m->cfg.region_bytes);
	m->mapped++;
	m->small += r->small;
	return 0;
}

void memory_region_free(struct memory *m, unsigned region)
{
	struct row *r = &m->rows[region];

	if (!r->base)
		return;
	munmap(r->base, m->cfg.region_bytes);
	m->mapped--;
	m->small -= r->small;
	r->base = NULL;
	r->small = false;
}

void memory_region_wipe(struct memory *m, unsigned region)
{
	explicit_bzero(m->rows[region].base, m->cfg.region_bytes);
}

void *memory_region_base(const struct memory *m, unsigned region)
{
	return m->rows[region].base;
}

unsigned memory_regions(const struct memory *m)
{
	return m->mapped;
}

unsigned memory_regions_small(const struct memory *m)
{
	return m->small;
}
