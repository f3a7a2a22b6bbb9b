/* Lanes as threads: each has a queue, and all use each other's pages at once; of a swap disk, or of
 * a cached one that is a clone. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/epoll.h>

#include "tests/unit/disks/fake_image.h"
#include "tests/unit/disks/rig.h"

#define PAGES  4096u
#define DEPTH  8u
#define ROUNDS 300u

static struct rig *g;
static _Atomic unsigned finished;

/* This thread's sectors: every third stretch of 5, so that all threads share most pages. */
struct worker {
	pthread_t thread;
	unsigned lane;
	uint64_t rnd;
	uint8_t (*shadow)[5 * 512];
	bool wrong;
};

#define STRETCHES (PAGES * 8 / 5 / 3)

static uint64_t sector_of(const struct worker *w, uint64_t stretch)
{
	return (stretch * 3 + w->lane) * 5;
}

static void job(struct worker *w, struct call *c, uint64_t stretch)
{
	bool in = rig_random(&w->rnd) % 2;

	if (!in) {
		for (unsigned i = 0; i < 5 * 512; i += 8) {
			uint64_t x = rig_random(&w->rnd);
			memcpy(c->data + i, &x, 8);
		}
		memcpy(w->shadow[stretch], c->data, 5 * 512);
	}
	call_make(c, in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, sector_of(w, stretch), 5 * 512, in,
		&w->rnd);
	call_submit(g, w->lane, c);
}

static void round_run(struct worker *w, struct call *c[DEPTH])
{
	/* Neighbours, and different ones: no two of a round are the same. */
	uint64_t first = rig_random(&w->rnd) % (STRETCHES - DEPTH * 16);
	uint64_t apart = 1 + rig_random(&w->rnd) % 15;

	for (unsigned i = 0; i < DEPTH; i++)
		job(w, c[i], first + i * apart);
	blk_device_ops.kick(g->blk, w->lane);
	for (unsigned i = 0; i < DEPTH; i++) {
		while (!c[i]->done)
			rig_lane_step(g, w->lane);
		w->wrong |=
			c[i]->status || memcmp(c[i]->data, w->shadow[first + i * apart], 5 * 512);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct call *c[DEPTH];
	struct epoll_event ev;

	for (unsigned i = 0; i < DEPTH; i++)
		c[i] = call_new();
	for (unsigned i = 0; i < ROUNDS; i++)
		round_run(w, c);
	atomic_fetch_add(&finished, 1);
	/* The others still need this lane; it sleeps when there is nothing for it. */
	while (atomic_load(&finished) < g->lanes) {
		rig_lane_step(g, w->lane);
		if (!disk_lane_prepare_sleep(g->lane[w->lane]))
			continue;
		epoll_wait(g->epoll_fd[w->lane], &ev, 1, 1);
		disk_lane_wake(g->lane[w->lane]);
	}
	for (unsigned i = 0; i < DEPTH; i++)
		call_free(c[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	bool clone = argc > 1 && !strcmp(argv[1], "clone");
	struct worker w[3] = {0};
	int wrong = 0;

	g = clone ? rig_new_clone(3, PAGES * 4096, PAGES / 2 * 4096) : rig_new(3, PAGES, NULL);
	for (unsigned i = 0; i < 3; i++) {
		w[i].lane = i;
		w[i].rnd = 12345 + i;
		w[i].shadow = calloc(STRETCHES, 5 * 512);
		for (unsigned s = 0; clone && s < STRETCHES; s++)
			memcpy(w[i].shadow[s], g->fake->bytes + sector_of(&w[i], s) * 512, 5 * 512);
	}
	for (unsigned i = 0; i < 3; i++) {
		if (pthread_create(&w[i].thread, NULL, worker_main, &w[i]))
			abort();
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(w[i].thread, NULL);
		free(w[i].shadow);
		if (w[i].wrong) {
			fprintf(stderr, "lane %u: wrong data or an error\n", i);
			wrong = 1;
		}
	}
	rig_delete(g);
	return wrong;
}
