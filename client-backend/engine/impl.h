/* The engine's inside: what its files share. Nothing outside client-backend/engine includes this.
 */
#ifndef FALLOW_ENGINE_IMPL_H
#define FALLOW_ENGINE_IMPL_H

#include <stddef.h>

#include "client-backend/engine/codec.h"
#include "client-backend/engine/engine.h"
#include "client-backend/engine/index.h"
#include "client-backend/engine/record.h"

#define NONE		  UINT32_MAX
#define FETCH_BYTES	  16384u /* longest merged read */
#define FETCH_SLACK_BYTES 8192u	 /* a disk read is widened to 4096-byte edges */
#define CLEAN_BUCKETS	  16u	 /* segments sorted by how much of them lives */
#define NO_BUCKET	  (2 * CLEAN_BUCKETS)
#define MAX_STREAMS	  64u
#define RESERVE_SLOTS	  2u /* local slots that only the cleaner may take */
#define DISK_HOLDER	  ENGINE_MAX_COPIES
#define HOLDERS		  (ENGINE_MAX_COPIES + 1u)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* ---- what lies in the arena ---- */

struct arena_geometry {
	uint32_t segment_bytes, local_segments;
	uint64_t max_pages;
	uint32_t max_objects, max_segments, max_regions, disk_segments;
	uint32_t lane, lanes;
};

struct arena_header {
	uint64_t magic;
	uint32_t version, header_bytes;
	struct arena_geometry geometry;
	uint64_t secret;   /* seeds record checksums */
	uint64_t seed;	   /* seeds the hashes */
	uint64_t next_seq; /* above every sequence number ever given to a segment */
};

struct account_row {
	char name[ENGINE_NAME_BYTES];
	uint32_t weight;
	uint32_t reserved;
};

enum pool_state { POOL_FREE = 0, POOL_LIVE = 1, POOL_DEAD = 2 };

struct pool_row {
	struct engine_pool_desc desc;
	uint64_t state;	   /* enum pool_state; stored last */
	uint64_t reserved; /* the grant, in one store: pages in bits 0-33, objects in 34-63 */
};

/* pool_state: the pool id and, in its top two bits, enum object_state; one store makes, kills or
 * frees. */
#define OBJECT_STATE_SHIFT 30
#define OBJECT_POOL_MASK   ((1u << OBJECT_STATE_SHIFT) - 1)
enum object_state { OBJECT_FREE = 0, OBJECT_LIVE = 1, OBJECT_DEAD = 2 };

struct object_row {
	uint64_t oid[3];
	uint32_t pool_state;
	uint32_t pages;	    /* entries of this object; derived again at recovery */
	uint32_t next;	    /* in its hash chain, or in the free list; derived */
	uint32_t max_index; /* no entry has a higher one; derived */
};

/*
 * A holder: bit 63 set, region row in bits 32-55, slot in bits 0-31. For the disk (the last one)
 * the region is 0. Stored once the copy there is complete, so it is a holder or it is not.
 */
#define HOLDER_VALID (1ull << 63)

static inline uint64_t holder_make(uint32_t region, uint32_t slot)
{
	return HOLDER_VALID | (uint64_t)region << 32 | slot;
}

static inline uint32_t holder_region(uint64_t h)
{
	return (uint32_t)(h >> 32) & 0xffffffu;
}

static inline uint32_t holder_slot(uint64_t h)
{
	return (uint32_t)h;
}

struct seg_row {
	uint64_t seq; /* 0: the row is free; stored last when made, first when freed */
	uint64_t holder[HOLDERS];
	uint32_t local; /* local slot + 1; 0: none */
	uint32_t used;	/* bytes appended; grows before a record's entry appears */
	uint16_t account;
	uint8_t persistent, copies, disk;
	uint8_t sealed;
	uint8_t cold; /* written by the cleaner */
	uint8_t main; /* ephemeral: of pages that were read, not of new ones */
	uint8_t reserved[8];
};
_Static_assert(sizeof(struct seg_row) == 64, "segment row is a stored layout");

struct region_row {
	struct engine_region_desc desc;
	uint64_t used; /* 1: in use; stored last */
};

/* ---- what is derived, or lives as long as the process ---- */

struct link {
	uint32_t next, prev; /* rows; NONE ends */
};

struct list {
	uint32_t head, tail;
};

enum seg_kind {
	SEG_FREE,
	SEG_OPEN,
	SEG_EPHEMERAL, /* sealed, local, to be dropped when room is short, with a copy or without */
	SEG_DIRTY,     /* sealed, local, not yet at its holders */
	SEG_CLEAN,     /* sealed, local, and at its holders */
	SEG_AWAY,      /* sealed, at its holders alone */
	SEG_LOST,      /* nowhere any more, but pages still name it */
};

/* An account's local ephemeral segments: of new pages, of pages that were read, at a donor, too. */
enum ephemeral_list { EPHEMERAL_NEW, EPHEMERAL_MAIN, EPHEMERAL_COPIED, EPHEMERAL_LISTS };

/* What waits to lose its local slot, oldest first. */
enum seg_queue {
	QUEUE_NONE,
	QUEUE_CLEAN,	 /* the local copy can be dropped */
	QUEUE_SPILL,	 /* to be copied to its holders, and not repair's */
	QUEUE_EPHEMERAL, /* its account's, to be dropped: one for each enum ephemeral_list */
};

struct seg_vol {
	uint32_t live;	     /* bytes of records that entries name */
	uint16_t pins;	     /* reads and moves under way */
	uint8_t kind;	     /* enum seg_kind */
	uint8_t bucket;	     /* cleaner's, by live share; NO_BUCKET: in none */
	bool recent;	     /* read since the clock hand came by */
	bool moving;	     /* a move works on it */
	bool short_of;	     /* has too few holders and was spilled before: repair */
	bool noclean;	     /* nothing in it can be moved on any more; leave it alone */
	uint8_t queue;	     /* enum seg_queue */
	struct link by_live; /* list of its bucket; ephemeral: of its region's ephemeral copies */
	struct link by_queue;
};

struct region_vol {
	uint64_t *bitmap; /* slots in use; one bit each */
	uint32_t slots, used;
	uint32_t generation;	    /* tells a row's later use from an earlier one */
	uint32_t copies, copy_head; /* complete copies there: engine.copy_link */
	uint64_t live_bytes;	    /* of the segments they are of */
	struct list ephemeral[2];   /* copies of ephemeral segments, new and main, oldest first */
	uint32_t ephemeral_copies;
	bool revoking;
	bool told_spare; /* what ops.region_spare() said last */
};

struct donor_vol {
	bool up, suspect;
	uint32_t domain;
	uint32_t free_slots;	     /* in its regions that are not revoking */
	uint32_t ephemeral_slots[2]; /* there, of ephemeral copies: new and main; dropped on demand
				      */
	uint32_t regions;
	uint32_t writes; /* of segments, under way */
	uint32_t late;	 /* reads under way that took longer than they should */
};

struct account_vol {
	struct engine_account desc;
	uint64_t pages;
	uint64_t promised; /* of its pools' grants, not used yet: it pays for them, too */
	uint32_t local_slots;
	struct list ephemeral[EPHEMERAL_LISTS]; /* sealed, local; oldest first */
	uint32_t ephemerals[EPHEMERAL_LISTS];	/* how many */
};

struct pool_vol {
	uint64_t pages;			    /* what the client sees */
	uint64_t entries;		    /* in the index, those of dead objects, too */
	uint64_t live_bytes;		    /* of the records they name */
	uint32_t objects;		    /* alive */
	struct engine_reservation reserved; /* kept, or asked for: what nobody else gets */
	struct engine_reservation kept;	    /* as in the arena: what its own puts may count on */
};

/* What the promises lack, once the cleaner has done its work. */
struct reserve_need {
	uint64_t short_segments;  /* that would find no place */
	uint64_t remote_slots;	  /* that must be free on donors */
	uint64_t remote_segments; /* that those are the copies of: no donor gets more than one each
				   */
};

/* Open and dirty segments: what waits to be copied somewhere. */
struct pending {
	uint32_t segments;
	uint64_t live;
};

struct stream {
	uint32_t row; /* NONE: unused */
	uint16_t account;
	uint8_t persistent, copies, disk, cold;
	uint8_t granted; /* puts within grants: others would fill what was opened for them */
	uint8_t main;	 /* ephemeral pages that were read */
	uint64_t last_use;
};

struct req_list {
	struct engine_req *head, **tail;
};

struct attempt {
	struct engine_io io;
	struct fetch *fetch;
	uint8_t *buf;	 /* FETCH_BYTES + FETCH_SLACK_BYTES, registered */
	uint8_t *data;	 /* where in buf the wanted bytes begin */
	uint64_t holder; /* the row's word when it was started */
	struct engine *engine;
	uint8_t which; /* index of the holder */
	bool active;
	bool bare; /* the payload alone is read */
	bool late; /* counted in its donor's `late` */
	uint16_t donor;
};

/* One read of neighbouring records, from one holder and perhaps, after a while, from a second. */
struct fetch {
	struct req_list reqs;
	struct attempt attempt[2];
	struct attempt *direct;	    /* under way, into the memory of its one request (direct.c) */
	uint32_t generation;	    /* of that one's region */
	bool owes, held, abandoned; /* direct.c */
	uint8_t held_tier;
	struct fetch *next, **pprev; /* active (oldest first) or free list */
	uint64_t posted_ns;
	uint32_t row, off, len;
	uint64_t checksum; /* of the one record that is wanted, when it is bare */
	bool bare;
	uint8_t tried;	/* bit per holder */
	uint8_t errors; /* bit per holder that answered wrongly or with an access error */
	bool hedged;
};

enum move_kind { MOVE_COPY, MOVE_CLEAN };
enum move_state { MOVE_IDLE, MOVE_LOAD, MOVE_WRITE, MOVE_RELOCATE };

struct move_io {
	struct engine_io io;
	struct engine *engine;
	struct move *move;
	uint64_t holder;
	uint32_t generation;
	uint16_t donor;
	uint8_t which;
};

struct move {
	enum move_kind kind;
	enum move_state state;
	uint32_t row;
	uint8_t *staging;    /* segment_bytes, registered */
	const uint8_t *data; /* staging or the local slot */
	struct move_io io[HOLDERS];
	unsigned pending;
	uint32_t cursor; /* bytes relocated so far */
	uint8_t tried;
	uint8_t damaged; /* reads of the only copy that were not intact */
	bool failed;
	bool bad_record;
	bool stalled; /* the cleaner found no slot to write to */
};

/* The ephemeral segment whose pages are looked at before it loses its slot. */
struct sift {
	uint32_t row; /* NONE: none */
	uint32_t cursor;
	uint64_t seq;
	bool busy; /* it must stay for now */
};

struct ghost {
	uint32_t *print;
	uint64_t sets;
};

struct engine {
	struct engine_config cfg;
	struct env env;
	struct engine_ops ops;
	void *ops_ctx;
	struct engine_stats stats;
	struct codec *codec;

	/* arena */
	int fd;
	uint8_t *base;
	size_t len;
	struct arena_header *header;
	struct account_row *account_row;
	struct pool_row *pool_row;
	struct object_row *object;
	struct seg_row *seg;
	struct region_row *region;
	uint8_t *slot_base;

	struct index index;

	/* objects */
	uint32_t *object_head;
	uint32_t object_mask;
	uint32_t object_free;
	uint32_t object_count;
	uint32_t objects_free;
	uint32_t object_last; /* most operations stay with one object */

	/* pools, accounts */
	struct pool_vol *pool;
	struct account_vol account[ENGINE_MAX_ACCOUNTS];
	uint64_t dead_entries; /* in the index, of dead objects and pools */
	uint64_t reap_bucket;

	/* grants: reserve.c */
	uint16_t reserved_row[ENGINE_MAX_POOLS]; /* pools that have one */
	uint32_t reserved_pools;
	uint64_t promised_pages, promised_objects; /* not used yet */
	struct reserve_need reserve_need;	   /* when it was last looked at */
	struct stream refused; /* of the put outside of the grants that last found no room */
	uint64_t refused_ns;   /* when; 0: never, or long ago */

	/* segments */
	struct seg_vol *sv;
	uint32_t *free_row;
	uint32_t free_rows;
	struct link *copy_link; /* of a region's copies, by row * ENGINE_MAX_COPIES + which */
	uint32_t *free_slot;
	uint32_t free_slots;
	uint32_t *slot_row;	  /* who uses a local slot; NONE: free */
	struct list clean, spill; /* segments by seg_queue */
	uint32_t kinds[SEG_LOST + 1];
	/* by enum engine_disk_policy and copies */
	struct pending pending[ENGINE_DISK_MIRROR + 1][ENGINE_MAX_COPIES + 1];
	struct list by_live[NO_BUCKET]; /* those at holders; from CLEAN_BUCKETS on the dirty ones */
	struct stream stream[MAX_STREAMS];
	uint32_t max_streams;
	uint64_t uses;
	uint64_t live_bytes;
	uint64_t away_live_bytes, away_held_bytes; /* over every valid holder on a donor */
	uint32_t short_rows, repair_cursor;
	uint64_t short_copies; /* at most so many slots are needed to repair them */
	uint64_t repair_at_ns, spill_at_ns, clean_at_ns;

	/* regions, disk */
	struct region_vol *rv;
	struct donor_vol donor[ENGINE_MAX_DONORS];
	uint32_t regions_revoking;
	uint64_t *disk_bitmap;
	uint32_t disk_used;
	uint64_t disk_live_bytes; /* of the segments there */
	uint64_t want_since_ns;
	uint64_t lack_since_ns; /* the same, whether or not there is a row for one more */
	uint32_t wanted;
	bool unplaced;		 /* a copy found no donor since the last region came */
	bool spare_look;	 /* which regions are spare may have changed: spare.c */
	uint32_t unplaced_slots; /* of the last region that came */
	uint64_t shed_at_ns;
	uint32_t regions_tried; /* came while a grant was being tried: given back if not needed */
	uint64_t settle_at_ns;
	uint64_t revoked_ns;  /* when a region was last asked back; 0: never */
	uint64_t spare_at_ns; /* that is not looked at before */

	/* requests */
	struct req_list put_wait, get_wait, plug;
	struct req_list grant_wait; /* puts to pools with a grant */
	uint64_t get_retry_ns;	    /* when get_wait is looked through again */
	bool get_busy;		    /* a read found its queue full: try when another has ended */
	struct fetch *fetch;
	struct fetch *fetch_free, *fetch_active, **fetch_active_tail;
	uint32_t fetch_count_active;
	uint32_t direct_active, direct_owed; /* reads by direct.c; those that owe a slot */
	struct move *move;
	struct sum *sum; /* sums.c */
	uint32_t moves_active;

	/* ephemeral segments: ephemeral.c */
	struct sift sift;
	uint32_t ephemeral_copied;  /* local ones with a copy */
	uint32_t ephemeral_moves;   /* under way; of moves_active */
	uint32_t ephemeral_away[2]; /* copies on donors: new and main */
	uint64_t ephemeral_same;    /* entries of same-filled ephemeral pages */
	uint64_t same_sweep;	    /* buckets to look through for those, so that they go */
	uint64_t lost_live;	    /* bytes of ephemeral segments that are nowhere any more */
	uint64_t ephemeral_at_ns;   /* copies are not tried before */
	uint64_t unplaced_ns;	    /* when a copy first found no spare slot; 0: it did */
	uint64_t unplaced_last_ns;  /* and when it last did */
	struct ghost forgotten;	    /* pages that were, before they were read */
	struct ghost fetched;	    /* pages that were read from donors */
};

/* ---- arena.c ---- */
int arena_open(struct engine *e, const char *path, bool *fresh, char *err, size_t err_bytes);
void arena_close(struct engine *e);

/* ---- recover.c ---- */
int engine_recover(struct engine *e, char *err, size_t err_bytes);

/* ---- object.c ---- */
static inline uint32_t object_pool(const struct object_row *o)
{
	return o->pool_state & OBJECT_POOL_MASK;
}

static inline enum object_state object_state(const struct object_row *o)
{
	return (enum object_state)(o->pool_state >> OBJECT_STATE_SHIFT);
}

void object_table_clear(struct engine *e);
void object_link(struct engine *e, uint32_t id);
void object_give_back(struct engine *e, uint32_t id);
uint32_t object_find(struct engine *e, uint32_t pool, const uint64_t oid[3]);	/* NONE */
uint32_t object_create(struct engine *e, uint32_t pool, const uint64_t oid[3]); /* NONE: full */
void object_kill(struct engine *e, uint32_t id);
void object_release(struct engine *e, uint32_t id); /* frees it when it has no page */

/* ---- entries: index and every count that hangs on it (entry.c) ---- */
static inline uint64_t entry_key(uint32_t object, uint32_t index)
{
	return (uint64_t)object << 32 | index;
}

int entry_insert(
	struct engine *e, const struct pool_row *p, uint32_t object, uint32_t index, uint64_t loc);
void entry_change(struct engine *e, uint64_t *slot, uint32_t object, uint64_t loc);
/* Counts the record that an entry of this pool names. */
void entry_hold(struct engine *e, uint32_t pool, uint64_t loc);
/* slot was found by index_find(); object is its. */
void entry_remove(struct engine *e, uint64_t *slot, uint32_t object);
uint64_t *entry_find(struct engine *e, const struct engine_key *k, uint32_t *object);
/* Brings the key's buckets near while the page is being encoded. */
void entry_prefetch(struct engine *e, const struct engine_key *k);
struct pool_row *pool_find(const struct engine *e, uint32_t id);
static inline struct pool_vol *pool_vol(struct engine *e, uint32_t id)
{
	return &e->pool[id % ENGINE_MAX_POOLS];
}

void pool_free_if_empty(struct engine *e, struct pool_row *p);
/* Entries that are to be reaped: of dead objects, of ephemeral segments that are nowhere, or of
 * ephemeral pages that are nowhere else while entries are scarce. */
static inline bool reap_due(const struct engine *e)
{
	return e->dead_entries > 0 || e->lost_live > 0 || e->same_sweep > 0;
}

bool reap_step(struct engine *e, unsigned buckets);
/* Takes one page off the quota; false: none left. */
bool quota_take(struct engine *e, unsigned account);
void quota_return(struct engine *e, unsigned account, uint64_t pages);

/* ---- sums.c ---- */
int sums_init(struct engine *e); /* -1: no memory */
void sums_fini(struct engine *e);
uint64_t sums_bytes(const struct engine *e);
/* A record that is whole, at this offset of its segment. */
void sums_put(struct engine *e, uint32_t off, const struct record_header *h);
bool sums_find(const struct engine *e, uint64_t seq, uint32_t off, uint64_t *checksum);

/* ---- reserve.c ---- */
static inline uint64_t pool_promised(const struct pool_vol *v)
{
	return v->reserved.pages > v->pages ? v->reserved.pages - v->pages : 0;
}

/* Counts pages that a live pool gains or loses; what its account is charged changes by the result.
 */
int64_t pool_pages_add(struct engine *e, uint32_t id, unsigned account, int64_t pages);
void pool_objects_add(struct engine *e, uint32_t id, int32_t objects);
void reserve_recover(struct engine *e);
/* Ends the grant of a pool that is about to be destroyed. */
void reserve_end(struct engine *e, struct pool_row *p);
/* May this put have an entry and an object? 0; -ENOSPC; -EAGAIN: once the reaper was here. */
int reserve_admit(
	struct engine *e, const struct pool_row *p, const struct engine_key *k, bool *promised);
/* May a put outside of every grant open a segment of this stream? */
bool reserve_allows(struct engine *e, const struct stream *s);
/* Such a put was refused, or began to wait, within the last put_wait: regions are asked for it. */
bool reserve_is_refusing(const struct engine *e);
void reserve_look(struct engine *e);
/* A grant is being tried. */
bool reserve_is_asking(const struct engine *e);
/* Is there room for every promise without so many free slots of a donor? */
bool reserve_spares(struct engine *e, unsigned donor, uint32_t slots);
/* Promised room must be made, and spilling cannot: cleaning comes before everything. */
bool reserve_is_tight(const struct engine *e);

/* ---- segment.c ---- */
static inline uint8_t *slot_data(const struct engine *e, uint32_t slot)
{
	return e->slot_base + (size_t)slot * e->cfg.segment_bytes;
}

static inline uint8_t *seg_data(const struct engine *e, uint32_t row)
{
	return slot_data(e, e->seg[row].local - 1);
}

void list_init(struct list *l);
uint32_t seg_new(
	struct engine *e, const struct stream *s, bool cleaner); /* NONE: no slot or no row */
void seg_seal(struct engine *e, uint32_t row);
void seg_live_add(struct engine *e, uint32_t row, uint32_t bytes);
void seg_live_sub(struct engine *e, uint32_t row, uint32_t bytes);
void seg_holder_set(struct engine *e, uint32_t row, unsigned which, uint64_t holder);
void seg_holder_replace(struct engine *e, uint32_t row, unsigned which, uint64_t holder);
void seg_holder_clear(struct engine *e, uint32_t row, unsigned which);
/* Enters a copy that the row names already into its region's books. */
void seg_copy_link(struct engine *e, uint32_t row, unsigned which);
void seg_local_set(struct engine *e, uint32_t row, uint32_t slot);
void seg_local_drop(struct engine *e, uint32_t row);
void seg_short_set(struct engine *e, uint32_t row, bool is_short);
void seg_pin(struct engine *e, uint32_t row);
void seg_unpin(struct engine *e, uint32_t row);
void seg_kind_set(struct engine *e, uint32_t row, enum seg_kind kind);
void seg_classify(struct engine *e, uint32_t row);
void seg_free_if_dead(struct engine *e, uint32_t row);
/* Holders on donors that may be counted on. */
unsigned seg_good_copies(const struct engine *e, uint32_t row);
bool seg_safe(const struct engine *e, uint32_t row); /* may lose its local copy */
bool seg_complete(
	const struct engine *e, uint32_t row); /* has all the copies its policy asks for */
bool seg_has_holder(const struct engine *e, uint32_t row);
uint32_t slot_take(struct engine *e, bool cleaner); /* NONE */
void slot_return(struct engine *e, uint32_t slot);
/* The next of a queue to go; what was read since it was looked at last gets a second chance. */
uint32_t seg_queue_victim(struct engine *e, struct list *queue);
void seg_queue_last(struct engine *e, uint32_t row); /* to the end of its queue */
/* Drops an ephemeral segment or a clean copy; false: nothing can be dropped. */
bool local_make_room(struct engine *e);

/* ---- ephemeral.c ---- */
/* Frees a local slot at once, at the cost of ephemeral pages if need be; false: there is none. */
bool ephemeral_evict(struct engine *e);
/* Looks at the pages that are next to go, `records` of them: those read since are kept. True: there
 * are more to look at. */
bool ephemeral_sift(struct engine *e, unsigned records);
/* A put of this key belongs to the pages that were read before. */
bool ephemeral_is_known(struct engine *e, const struct engine_key *k);
/* Drops the coldest ephemeral copy on a donor; false: there is none. */
bool ephemeral_drop_on(struct engine *e, unsigned donor);
/* Forgets pages of an account (NONE: of any), local ones at once; false: there are none. */
bool ephemeral_forget(struct engine *e, uint32_t account);
/* A page was read from a donor; again after a short while: it becomes local. */
void ephemeral_was_read(
	struct engine *e, const struct engine_req *r, const struct record_header *h);
/* A page's segment was dropped from its donor: its entry is about to go. */
void ephemeral_reaped(struct engine *e, const struct engine_key *k, uint32_t row);
/* The page cannot be had: it is gone, so that it does not come back later. */
void ephemeral_miss(struct engine *e, const struct engine_req *r);
/* May a copy of an ephemeral segment be the reason to ask for a region? */
bool ephemeral_wants_region(const struct engine *e, uint64_t now);
int ephemeral_init(struct engine *e); /* -1: no memory */
void ephemeral_fini(struct engine *e);
uint64_t ephemeral_bytes(const struct engine *e);
/* Index entries are getting scarce: others might need them. */
bool ephemeral_crowds_index(const struct engine *e);
void ephemeral_tick(struct engine *e, uint64_t now, uint64_t *wake);

/* ---- ghost.c ---- */
int ghost_init(struct ghost *g, uint64_t pages); /* -1: no memory */
void ghost_fini(struct ghost *g);
uint64_t ghost_bytes(const struct ghost *g);
/* Remembers a name, in place of the oldest of its set. */
void ghost_add(struct ghost *g, const struct engine_key *k);
bool ghost_has(const struct ghost *g, const struct engine_key *k);

/* ---- log.c ---- */
/* Room for a record of up to RECORD_MAX_BYTES in the open segment of a stream; NULL: no slot. The
 * caller writes it and calls log_commit() with its real size. */
struct record_header *log_reserve(
	struct engine *e, const struct stream *want, uint32_t *row, uint32_t *off);
void log_commit(struct engine *e, uint32_t row, uint32_t bytes);
/* Appends a live record once more, to another stream; false: no room. */
bool log_relocate(struct engine *e, const struct stream *to, const struct record_header *h,
	uint64_t *slot, uint32_t object);
/* The open segment of a stream; NONE. */
uint32_t log_open_row(const struct engine *e, const struct stream *want);
/* The next record of a stream goes to a new segment. */
bool log_needs_segment(const struct engine *e, const struct stream *want);
void log_seal_all(struct engine *e);
bool log_seal_coldest(struct engine *e, bool ephemeral_only);
struct stream stream_for_pool(const struct engine_pool_desc *d, bool granted);

/* ---- region.c ---- */
uint32_t region_slot_take(struct engine *e, uint32_t region);
void region_slot_mark(struct engine *e, uint32_t region, uint32_t slot);
void region_slot_return(struct engine *e, uint32_t region, uint32_t slot);
void region_release_drained(struct engine *e);
void region_recount(struct engine *e);
/* A donor for one more copy of a segment, and a slot there; 0: none. (holder word) */
uint64_t region_place(struct engine *e, uint32_t row, const uint64_t *also, unsigned n_also);
/* The same for an ephemeral segment: what no persistent one could be waiting for. */
uint64_t region_place_spare(struct engine *e);
/* True when region_place() would find one. */
bool region_can_place(const struct engine *e, uint32_t row);
void region_want(struct engine *e, uint64_t now);
/* Another lane has wanted regions for persistent segments for some time. */
bool region_others_want(const struct engine *e, uint64_t now);
/* Donors with a free slot for new copies, and how many such slots there are. */
unsigned donors_with_room(const struct engine *e, uint32_t *free_slots);
/* Slots that persistent segments can have: what is ephemeral makes way at once. */
static inline uint32_t donor_slots(const struct donor_vol *d)
{
	return d->free_slots + d->ephemeral_slots[0] + d->ephemeral_slots[1];
}

/* New segments may go there. */
static inline uint32_t donor_room(const struct engine *e, unsigned donor)
{
	const struct donor_vol *d = &e->donor[donor];

	return d->up && !d->suspect ? donor_slots(d) : 0;
}

/* The most copies that a segment which waits for them asks for. */
unsigned region_copies_wanted(const struct engine *e);
uint32_t region_low_water(const struct engine *e); /* free slots on donors to keep at hand */
uint32_t disk_slot_take(struct engine *e);	   /* NONE */
void disk_slot_return(struct engine *e, uint32_t slot);
/* Region rows in use. */
static inline bool region_used(const struct engine *e, uint32_t region)
{
	return region < e->cfg.max_regions && e->region[region].used;
}

static inline struct donor_vol *region_donor(struct engine *e, uint32_t region)
{
	return &e->donor[e->region[region].desc.donor];
}

/* ---- fetch.c ---- */
void fetch_init(struct engine *e, uint8_t *buffers);
/* Looks the key up and delivers what is in memory; -EINPROGRESS: *loc is at a holder. */
int fetch_lookup(struct engine *e, const struct engine_key *k, void *page, uint64_t *loc);
void fetch_kick(struct engine *e);
void fetch_tick(struct engine *e, uint64_t now, uint64_t *wake);
void fetch_req_done(struct engine *e, struct engine_req *r, int status);
/* A copy turned out wrong: drop it if there is another. holder: the word when it was read. */
void holder_bad(struct engine *e, uint32_t row, unsigned which, uint64_t holder);
/* Fills in io for a read or write of a holder's copy; bytes [off, off+len) of the segment. */
void holder_io(struct engine *e, struct engine_io *io, uint64_t holder, unsigned which,
	uint32_t off, uint32_t len);
bool holder_reachable(struct engine *e, uint64_t holder, unsigned which);

/* ---- direct.c: reads into memory that the requests' owners share with others ---- */
/* May this request be read so, as far as can be told now? Its record is read by itself then. */
bool direct_is_meant(const struct engine *e, const struct engine_req *r, uint64_t *checksum);
/* Starts such a read, from the holder of `a`; -EOPNOTSUPP: not this time, for another way. */
int direct_read(struct engine *e, struct fetch *f, struct attempt *a);
/* It has ended. The request is done, or is with the fetch again, for another way. */
void direct_end(struct engine *e, struct fetch *f, int status);
/* The fetch's request was answered by another read, into a buffer. */
void direct_hold(struct fetch *f, struct engine_req *r, const struct attempt *a);
/* Abandons a read that takes too long. */
void direct_tick(struct engine *e, struct fetch *f, uint64_t now, uint64_t *wake);
/* A slot that is not used any more but read from: it is returned when that has ended. */
bool direct_keeps_slot(struct engine *e, uint32_t region, uint32_t slot);

/* ---- spare.c ---- */
void spare_tick(struct engine *e, uint64_t now, uint64_t *wake);

/* ---- move.c ---- */
void move_init(struct engine *e, uint8_t *staging);
/* False: no move is idle. */
bool move_start(struct engine *e, enum move_kind kind, uint32_t row);
/* Copies an ephemeral segment to this slot, which was taken for it; false: no move is idle. */
bool move_ephemeral(struct engine *e, uint32_t row, uint64_t holder);
/* Writes on up to `records` records of each segment that is being cleaned; true: there are more. */
bool move_work(struct engine *e, unsigned records);
/* The cleaner's stream that a segment's live records belong to. */
struct stream move_cold_stream(const struct seg_row *s);

/* ---- move_choose.c ---- */
void move_tick(struct engine *e, uint64_t now, uint64_t *wake);
/* Persistent segments wait to be copied. */
bool move_spill_waits(const struct engine *e);
/* Local slots that should be free or have copies. */
uint32_t move_ready_target(const struct engine *e);
/* A move under way, or one that could start soon, will free local slots; copies: what a segment
 * needs. */
bool move_may_free(struct engine *e, uint64_t now, unsigned copies);

/* ---- request lists ---- */
enum req_kind { REQ_PUT_WAIT = 1, REQ_GRANT_WAIT, REQ_PLUG, REQ_GET_WAIT, REQ_FETCH };

static inline void req_list_init(struct req_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static inline void req_list_push(struct req_list *l, struct engine_req *r, enum req_kind kind)
{
	r->kind = kind;
	r->next = NULL;
	r->pprev = l->tail;
	*l->tail = r;
	l->tail = &r->next;
}

static inline void req_list_push_front(struct req_list *l, struct engine_req *r, enum req_kind kind)
{
	r->kind = kind;
	r->next = l->head;
	r->pprev = &l->head;
	if (r->next)
		r->next->pprev = &r->next;
	else
		l->tail = &r->next;
	l->head = r;
}

static inline void req_unlink(struct req_list *l, struct engine_req *r)
{
	*r->pprev = r->next;
	if (r->next)
		r->next->pprev = r->pprev;
	else
		l->tail = r->pprev;
	r->kind = 0;
}

static inline struct engine_req *req_list_pop(struct req_list *l)
{
	struct engine_req *r = l->head;

	if (r)
		req_unlink(l, r);
	return r;
}

/* Everything on `from` goes to the end of `to`, which has a place of its own in memory. */
static inline void req_list_take(struct req_list *to, struct req_list *from)
{
	req_list_init(to);
	if (!from->head)
		return;
	to->head = from->head;
	to->tail = from->tail;
	to->head->pprev = &to->head;
	req_list_init(from);
}

static inline uint64_t now_ns(const struct engine *e)
{
	return env_now_ns(&e->env);
}

#endif
