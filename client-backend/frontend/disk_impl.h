/* The inside of a lane's part in the disks, shared by its parts (disk_lane.c) and pages
 * (disk_page.c). */
#ifndef FALLOW_DISK_IMPL_H
#define FALLOW_DISK_IMPL_H

#include <assert.h>

#include "client-backend/frontend/disk_swap.h"
#include "client-backend/image/image.h"
#include "lib/core/ring.h"

#define DISK_HASH 512u /* power of two, more than DISK_LANE_PAGES */

/* What this lane does of a range: the pages of its own. */
struct disk_part {
	struct disk_store *store;
	struct blk_range *g;
	uint64_t page, end; /* the next one to be started; the one after the last */
	uint32_t under_way; /* pages started and not ended; and 1 while parts_run() holds it */
	int status;	    /* the first that went wrong */
	enum blk_tier tier;
	uint8_t from;	      /* the lane that asked */
	struct disk_sub *sub; /* NULL: for a range */
	struct blk_cursor cursor;
	struct disk_part *next; /* of a queue or the unused */
};

/*
 * Pages of a range that another store has, for one that is being worked on: a part of a part. It
 * needs no sub of its own, so with credits of their own they cannot wait for each other in a
 * circle.
 */
struct disk_sub {
	struct disk_store *store;
	struct blk_range *g;
	uint32_t page, pages; /* of one lane */
	/* On the lane that asked. */
	void (*done)(struct disk_sub *s, int status, enum blk_tier tier);
	struct disk_sub *next;
};

struct disk_queue {
	struct disk_part *first, *last;
};

/*
 * Somebody stands still until a read is answered; what is written was put away, and who wrote it
 * goes on. So reads are started first, and some of everything that there is a limited number of is
 * theirs alone: writes that wait for room hold up no read. Requests that are under way at the same
 * time have no order among them.
 */
enum disk_urgency { DISK_READS, DISK_OTHERS, DISK_URGENCIES };
#define DISK_READ_CREDITS (DISK_LANE_CREDITS / 4)
#define DISK_READ_PAGES	  (DISK_LANE_PAGES / 4)

static inline enum disk_urgency disk_urgency(const struct blk_range *g)
{
	return g->op == BLK_READ ? DISK_READS : DISK_OTHERS;
}

static inline void disk_queue_put(struct disk_queue *q, struct disk_part *p)
{
	p->next = NULL;
	if (q->first)
		q->last->next = p;
	else
		q->first = p;
	q->last = p;
}

static inline struct disk_part *disk_queue_take(struct disk_queue *q)
{
	struct disk_part *p = q->first;

	q->first = p->next;
	p->next = NULL;
	return p;
}

#define DISK_CHUNK_PAGES 256u /* neighbours that belong to the same lane */

static inline struct engine_key disk_page_key(uint32_t pool, uint32_t page)
{
	return (struct engine_key){.oid = {DISK_OID0}, .pool = pool, .index = page};
}

static inline unsigned disk_page_lane(const struct disk_store *s, uint64_t page, unsigned lanes)
{
	struct engine_key k = disk_page_key(s->pool, (uint32_t)page);

	return s->one_lane >= 0 ? (unsigned)s->one_lane : engine_key_lane(&k, lanes);
}

/* Something that gathers work of many pages, and is told when it will be no more. */
struct disk_gather {
	struct disk_gather *next;
	bool listed;
	void (*close)(struct disk_gather *g);
};

enum disk_step { DISK_STEP_START, DISK_STEP_GET, DISK_STEP_PUT };

/*
 * What the bounce page of the same number holds while it is being put: the page has no other place
 * then. It is in the file of the bounce pages, so that whoever comes after a kill finds it and puts
 * it again. 0: nothing.
 */
struct disk_note {
	uint64_t page; /* pool << 32 | page; a pool is never 0 */
	uint64_t reserved;
};
#define DISK_NOTES_BYTES (DISK_LANE_PAGES * sizeof(struct disk_note))
static_assert(DISK_NOTES_BYTES % ENGINE_PAGE_BYTES == 0, "bounce pages begin at a page");
#define DISK_BOUNCE_BYTES (DISK_NOTES_BYTES + (size_t)DISK_LANE_PAGES * ENGINE_PAGE_BYTES)

/* A page under way, with its bounce page. */
struct disk_slot {
	struct engine_req req;
	struct disk_lane *lane;
	struct disk_part *part; /* NULL: a page that a kill left here */
	uint32_t pool, page;
	uint16_t from, len; /* bytes of the page that are meant */
	enum disk_step step;
	struct blk_cursor cursor; /* the page's place in the request's data */
	struct disk_slot
		*next; /* of the unused, of its hash bucket, or waiting for the same page */
	struct disk_slot *waiting; /* first of those who wait for this one's page */
	uint8_t *bounce;	   /* ENGINE_PAGE_BYTES */
	struct disk_note *note;
};

struct disk_part_msg {
	struct disk_store *store;
	struct blk_range *g;
	struct disk_sub *sub; /* NULL: all of the range that is the lane's */
	uint32_t from;
};

struct disk_done_msg {
	struct blk_range *g;
	struct disk_sub *sub;
	int status;
	uint16_t tier;
	uint16_t by; /* the lane whose credit comes back */
};

struct disk_lane {
	unsigned lane, lanes;
	struct engine *engine;
	const struct env *env;
	struct disk_lane *peer[BLK_MAX_LANES];
	struct ring parts, dones;
	struct image_lane *images;
	struct disk_lane_stats stats;

	/* lane thread only */
	unsigned credit[BLK_MAX_LANES]; /* parts that may still be sent to it */
	unsigned sub_credit[BLK_MAX_LANES];
	struct disk_sub *sub_pending;		   /* without a credit yet */
	struct blk_range *pending[DISK_URGENCIES], /* with lanes to which no part was sent yet */
		**pending_end[DISK_URGENCIES];
	bool pending_retry;
	struct disk_queue run[DISK_URGENCIES];	/* with pages to start */
	struct disk_queue full[DISK_URGENCIES]; /* of swap disks, waiting for bounce pages */
	struct disk_gather *gathers;
	struct disk_part *part_unused;
	struct disk_slot *slot_unused;
	unsigned slots_unused;
	struct disk_slot *hash[DISK_HASH];
	struct disk_part *part;
	struct disk_slot slot[DISK_LANE_PAGES];
	struct disk_slot *left; /* pages that a kill left here and that could not be put yet */
	uint64_t left_retry_ns;
	uint8_t scratch[ENGINE_PAGE_BYTES];
	void *bounce; /* DISK_BOUNCE_BYTES: notes, then pages */
};

/* disk_swap.c: a file that lives as long as the arenas, mapped whole; made when missing, NULL:
 * anonymous memory. -EINVAL: it is of another length. */
int disk_file_map(const char *path, size_t bytes, void **out);
/* disk_page.c: disk_store.run of a swap disk. */
unsigned disk_swap_run(
	struct disk_lane *l, struct disk_part *p, unsigned budget, struct disk_queue **full);
/* disk_page.c: puts what a kill left in bounce pages, as far as there is room. */
void disk_left_run(struct disk_lane *l);
/* disk_lane.c: there is room for the parts of this queue: before the others, in order. All are of
 * one urgency. */
void disk_lane_resume(struct disk_lane *l, struct disk_queue *q);
/* disk_lane.c: starts it at the lane that has its pages; it ends later, or before this returns. */
void disk_lane_sub(struct disk_lane *l, struct disk_sub *s);
/* disk_lane.c: closes it at the end of the round. */
void disk_lane_gather(struct disk_lane *l, struct disk_gather *g);
/* disk_lane.c: the next page of this part that this lane owns; p->end: none. */
void disk_part_find(const struct disk_lane *l, struct disk_part *p);
/* disk_lane.c: a page ended, or the hold of parts_run(). */
void disk_part_release(struct disk_lane *l, struct disk_part *p);

#endif
