/* A swap disk against a plain array: random requests of every size and alignment, many at a time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disks/rig.h"

/* Usage: test_disks_swap_random [SEED [ROUNDS]] */
#define PAGES	4096u
#define SECTORS (PAGES * 8)
#define CALLS	24u

struct job {
	struct call *c;
	bool used, in;
	uint64_t first[BLK_MAX_DISCARD_RANGES];
	uint32_t count[BLK_MAX_DISCARD_RANGES];
	unsigned ranges;
};

static uint8_t disk[SECTORS][512];
static uint16_t readers[SECTORS], writers[SECTORS];
static uint64_t rnd;
static uint64_t seed_used;

static void fail(const char *what, uint64_t sector)
{
	fprintf(stderr, "seed %" PRIu64 ": %s, sector %" PRIu64 "\n", seed_used, what, sector);
	exit(1);
}

static uint64_t below(uint64_t n)
{
	return rig_random(&rnd) % n;
}

/* Requests under way may share a page, but no sector that one of them changes. */
static bool range_free(uint64_t first, uint32_t count, bool in)
{
	for (uint64_t s = first; s < first + count; s++)
		if (writers[s] || (!in && readers[s]))
			return false;
	return true;
}

static void range_mark(struct job *j, int by)
{
	for (unsigned i = 0; i < j->ranges; i++)
		for (uint64_t s = j->first[i]; s < j->first[i] + j->count[i]; s++)
			*(j->in ? &readers[s] : &writers[s]) += (uint16_t)by;
}

static bool range_draw(struct job *j, uint32_t most)
{
	uint32_t count = (uint32_t)(below(3) ? 1 + below(24) : 1 + below(most));
	uint64_t first = below(SECTORS);

	/* Often in a few pages, so that they meet; often whole pages. */
	if (below(2))
		first = below(64 * 8);
	if (below(2)) {
		first &= ~7ull;
		count = (count + 7) & ~7u;
	}
	if (count > SECTORS - first)
		count = (uint32_t)(SECTORS - first);
	if (!range_free(first, count, j->in))
		return false;
	j->first[j->ranges] = first;
	j->count[j->ranges++] = count;
	return true;
}

static void data_fill(uint8_t *data, uint32_t len)
{
	uint64_t kind = below(4);

	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t x = kind == 0 ? 0 : kind == 1 ? 0x1122334411223344ull : rig_random(&rnd);

		memcpy(data + i, &x, 8);
	}
}

static void job_start(struct rig *g, struct job *j)
{
	uint64_t kind = below(10);
	struct call *c = j->c;

	j->ranges = 0;
	j->in = kind < 4;
	if (kind < 8) {
		if (!range_draw(j, 2000))
			return;
		uint32_t len = j->count[0] * 512;
		if (!j->in) {
			data_fill(c->data, len);
			memcpy(disk[j->first[0]], c->data, len);
		}
		call_make(c, j->in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, j->first[0], len, j->in,
			&rnd);
	} else {
		struct virtio_blk_discard_write_zeroes z[BLK_MAX_DISCARD_RANGES];
		uint64_t want = 1 + below(BLK_MAX_DISCARD_RANGES);

		for (uint64_t i = 0; i < want; i++)
			range_draw(j, 8000);
		if (!j->ranges)
			return;
		for (unsigned i = 0; i < j->ranges; i++) {
			z[i] = (struct virtio_blk_discard_write_zeroes){
				.sector = j->first[i], .num_sectors = j->count[i]};
			memset(disk[j->first[i]], 0, (size_t)j->count[i] * 512);
		}
		memcpy(c->data, z, j->ranges * sizeof(z[0]));
		call_make(c, kind == 8 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, 0,
			j->ranges * (uint32_t)sizeof(z[0]), false, &rnd);
	}
	range_mark(j, 1);
	j->used = true;
	unsigned lane = (unsigned)below(g->lanes);
	call_submit(g, lane, c);
	if (below(3))
		blk_device_ops.kick(g->blk, lane);
}

static void job_end(struct job *j)
{
	struct call *c = j->c;

	j->used = false;
	range_mark(j, -1);
	if (c->status)
		fail("an error", j->first[0]);
	if (c->written != c->r.in_bytes)
		fail("wrong length", j->first[0]);
	if (j->in && memcmp(c->data, disk[j->first[0]], c->len)) {
		for (uint32_t i = 0; i < j->count[0]; i++)
			if (memcmp(c->data + i * 512, disk[j->first[0] + i], 512))
				fail("other bytes", j->first[0] + i);
	}
}

int main(int argc, char **argv)
{
	uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 12000;
	struct job jobs[CALLS] = {0};

	seed_used = argc > 1 ? strtoull(argv[1], NULL, 0) : env_random(&env_system);
	printf("seed %" PRIu64 "\n", seed_used);
	fflush(stdout);
	rnd = seed_used * 2 + 1;
	struct rig *g = rig_new(1 + (unsigned)below(RIG_MAX_LANES), PAGES, NULL);

	for (unsigned i = 0; i < CALLS; i++)
		jobs[i].c = call_new();
	for (uint64_t n = 0; n < rounds; n++) {
		struct job *j = &jobs[below(CALLS)];

		if (!j->used)
			job_start(g, j);
		else if (!below(3))
			rig_step(g);
		for (unsigned i = 0; i < CALLS; i++)
			if (jobs[i].used && jobs[i].c->done)
				job_end(&jobs[i]);
		if (!below(rounds / 32)) {
			rig_crash(g);
			/* As a guest does, with what was under way. */
			for (unsigned i = 0; i < CALLS; i++)
				if (jobs[i].used)
					call_submit(g, (unsigned)below(g->lanes), jobs[i].c);
		}
	}
	for (unsigned i = 0; i < CALLS; i++) {
		if (jobs[i].used) {
			call_wait(g, jobs[i].c);
			job_end(&jobs[i]);
		}
		call_free(jobs[i].c);
	}
	struct call *c = call_new();
	for (uint64_t s = 0; s < SECTORS; s += 2048) {
		if (call_run(g, 0, c, VIRTIO_BLK_T_IN, s, 2048 * 512, true) ||
			memcmp(c->data, disk[s], 2048 * 512))
			fail("wrong at the end", s);
	}
	call_free(c);
	for (unsigned i = 0; i < g->lanes; i++)
		if (!world_sane(g->world[i]))
			fail("engine", 0);
	if (disk_swap_lost(g->swap))
		fail("lost pages", 0);
	rig_delete(g);
	return 0;
}
