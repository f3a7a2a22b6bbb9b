/* A swap disk: a disk whose blocks are the pages of a private persistent pool. */
#include "client-backend/frontend/disk_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct disk_swap {
	struct disk_store head; /* first */
	struct disk_swap_config cfg;
	struct disk_lane *lane[BLK_MAX_LANES];
	/*
	 * A bit for each page. 256 neighbouring pages belong to one lane, so each word has one
	 * writer.
	 */
	uint64_t *lost;
	size_t lost_bytes;
	uint64_t lost_at_start;
	struct disk_swap_stats stats[]; /* by lane */
};

#define MAP_ALIGN ((uint64_t)65536)

int disk_file_map(const char *path, size_t bytes, void **out)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1, r = 0;
	struct stat st;

	if (path) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return -errno;
		r = fstat(fd, &st) < 0 ? -errno : 0;
		if (!r && st.st_size && (size_t)st.st_size != bytes)
			r = -EINVAL;
		/* All of it is taken now: a store that finds no memory later would end the daemon.
		 */
		if (!r)
			r = -posix_fallocate(fd, 0, (off_t)bytes);
		flags = MAP_SHARED;
	}
	if (!r) {
		void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_POPULATE, fd, 0);
		if (at == MAP_FAILED)
			r = -errno;
		else
			*out = at;
	}
	if (fd >= 0)
		close(fd);
	return r;
}

int disk_swap_new(const struct disk_swap_config *cfg, struct disk_swap **out)
{
	if (cfg->pages > (uint64_t)1 << 32)
		return -EFBIG;
	if (!cfg->pages || !cfg->pool || cfg->lanes < 1 || cfg->lanes > BLK_MAX_LANES)
		return -EINVAL;
	struct disk_swap *d = calloc(1, sizeof(*d) + cfg->lanes * sizeof(struct disk_swap_stats));
	if (!d)
		return -ENOMEM;
	d->cfg = *cfg;
	d->head = (struct disk_store){.run = disk_swap_run, .pool = cfg->pool, .one_lane = -1};
	memcpy(d->lane, cfg->lane, cfg->lanes * sizeof(d->lane[0]));
	d->lost_bytes = (size_t)((cfg->pages / 8 + MAP_ALIGN) & ~(MAP_ALIGN - 1));
	void *map;
	int r = disk_file_map(cfg->lost_path, d->lost_bytes, &map);
	if (r < 0) {
		free(d);
		return r;
	}
	d->cfg.lost_path = NULL;
	d->lost = map;
	for (size_t i = 0; i < d->lost_bytes / 8; i++)
		d->lost_at_start += (uint64_t)__builtin_popcountll(d->lost[i]);
	*out = d;
	return 0;
}

void disk_swap_delete(struct disk_swap *d)
{
	if (!d)
		return;
	munmap(d->lost, d->lost_bytes);
	free(d);
}

const struct disk_swap_stats *disk_swap_stats(const struct disk_swap *d, unsigned lane)
{
	return &d->stats[lane];
}

struct disk_swap_stats *disk_swap_lane_stats(struct disk_swap *d, unsigned lane)
{
	return &d->stats[lane];
}

uint64_t disk_swap_lost(const struct disk_swap *d)
{
	uint64_t n = d->lost_at_start;

	/* A lane may have written pages again that were lost before: its count is below zero then,
	 * and the sum is right. */
	for (unsigned i = 0; i < d->cfg.lanes; i++)
		n += stat_get(&d->stats[i].lost);
	return n;
}

bool disk_swap_is_lost(const struct disk_swap *d, uint32_t page)
{
	return d->lost[page / 64] >> page % 64 & 1;
}

void disk_swap_lost_set(struct disk_swap *d, unsigned lane, uint32_t page, bool lost)
{
	uint64_t bit = 1ull << page % 64;

	if (disk_swap_is_lost(d, page) == lost)
		return;
	d->lost[page / 64] ^= bit;
	if (lost)
		stat_add(&d->stats[lane].lost, 1);
	else
		stat_sub(&d->stats[lane].lost, 1);
}

static void swap_submit(void *store, unsigned lane, struct blk_range *g)
{
	struct disk_swap *d = store;

	disk_lane_submit(d->lane[lane], &d->head, g);
}

static void swap_kick(void *store, unsigned lane)
{
	struct disk_swap *d = store;

	disk_lane_kick(d->lane[lane]);
}

const struct blk_store_ops disk_swap_ops = {.submit = swap_submit, .kick = swap_kick};
