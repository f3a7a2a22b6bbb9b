/* A lane's part in the disks: ranges split over the lanes that own their pages, by bounded rings.
 */
#ifndef FALLOW_DISK_LANE_H
#define FALLOW_DISK_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "client-backend/engine/engine.h"
#include "client-backend/frontend/blk.h"
#include "lib/core/env.h"
#include "lib/core/stats.h"

/*
 * A guest's request arrives on the lane of its queue; the pages that it names belong to lanes by
 * engine_key_lane(). The queue's lane sends one part to each lane that owns any of them; that lane
 * copies between the guest's memory and bounce pages of its own and calls its engine; the queue's
 * lane ends the request when every part has ended.
 *
 * A lane may have DISK_LANE_CREDITS parts at each other lane (and at itself); a ring holds that
 * many from everybody, so that it is never full, and what finds no credit waits at its own lane
 * until a part comes back. Nothing polls for room.
 *
 * The lane's loop, as for socket_lane:
 *	n = disk_lane_poll(l);                   -- as long as something is there
 *	if (disk_lane_prepare_sleep(l)) {        -- false: something came, poll again
 *		epoll_wait(epoll_fd ...);                -- what others send is in it
 *		disk_lane_wake(l);
 *	}
 */
#define DISK_LANE_CREDITS 64u
#define DISK_SUB_CREDITS  32u  /* the same for pages that a store has of another */
#define DISK_LANE_PAGES	  256u /* bounce pages: in the engine at a time, each lane */

/* The keys of a disk's pages: this, 0, 0 and the page's number. */
#define DISK_OID0 0x6b7369642d776c66ull /* "flw-disk" */

struct disk_lane;
struct disk_part;
struct disk_queue;

/* What parts work on: the head of every store whose blocks are pages of a pool. */
struct image_lane;
struct disk_store {
	/*
	 * lane. Starts the next pages of a part, at most about `budget`; returns how many. Where
	 * it stopped for want of room of its own, *full is the queue that the part waits in, one
	 * for each urgency, which disk_lane_resume() empties when there is room again.
	 */
	unsigned (*run)(struct disk_lane *l, struct disk_part *p, unsigned budget,
		struct disk_queue **full);
	uint32_t pool;
	int one_lane; /* that has all pages; -1: engine_key_lane() says */
};

struct disk_lane_stats {
	stat_t parts_local, parts_sent; /* started here; sent to another lane */
	stat_t parts_waited;		/* found no credit at first */
	stat_t pages_waited;		/* for another request of the same page */
	stat_t pages_busy;		/* gauge: bounce pages in use */
	stat_t pages_left;		/* that a kill left in bounce pages, and were put again */
};

/*
 * Control thread. The engine outlives it. bounce_path: the file of the bounce pages, beside the
 * arena and made when missing: a page that is being put when the process is killed is there; NULL:
 * anonymous memory. epoll_fd: the lane's, gets what it is to wait for; outlives it. -EINVAL, also
 * when the file is of another length; -ENOMEM; -EMFILE; errno of the file.
 */
int disk_lane_new(unsigned lane, unsigned lanes, struct engine *engine, const struct env *env,
	const char *bounce_path, int epoll_fd, struct disk_lane **out);
/* Control thread, once all lanes' are there and before any runs: peer[lanes], copied. */
void disk_lane_peers_set(struct disk_lane *l, struct disk_lane *const peer[]);
/* No disk has anything under way. */
void disk_lane_delete(struct disk_lane *l);
const struct disk_lane_stats *disk_lane_stats(const struct disk_lane *l);

/* lane. Takes what other lanes sent and works on it, for a bounded time. Returns how much it did.
 */
unsigned disk_lane_poll(struct disk_lane *l);
/* lane. False: there is work already. */
bool disk_lane_prepare_sleep(struct disk_lane *l);
void disk_lane_wake(struct disk_lane *l);

/* Any thread. */
struct image_lane *disk_lane_images(const struct disk_lane *l);
/* lane. For stores: a range of one of its queues; ends with blk_range_done(). */
void disk_lane_submit(struct disk_lane *l, struct disk_store *store, struct blk_range *g);
void disk_lane_kick(struct disk_lane *l);

#endif
