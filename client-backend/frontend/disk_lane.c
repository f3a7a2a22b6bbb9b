/* A lane's part in the disks: ranges split over the lanes that own their pages, by bounded rings.
 */
#include "client-backend/frontend/disk_lane.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "client-backend/frontend/disk_impl.h"

#define READS_PER_RUN	 256u /* pages started before the lane looks at something else */
#define OTHERS_PER_RUN	 16u  /* a read that comes meanwhile waits for so many at most */
#define PAGES_PER_TURN	 16u  /* of one part before it is the next one's turn */
#define MESSAGES_PER_RUN 64u
#define GATHER_ROUNDS	 4u

/* The words of blk_range.store. */
enum { WORD_STORE, WORD_UNSENT, WORD_NEXT, WORD_STATE };

/* What the queue's lane keeps of a range, packed into one word. */
struct range_state {
	uint16_t missing; /* parts that have not ended, sent or not */
	uint8_t tier;
	uint8_t reserved;
	int32_t status;
};
static_assert(sizeof(struct range_state) == sizeof(uint64_t), "a word");

static struct range_state *state_of(struct blk_range *g)
{
	return (struct range_state *)(void *)&g->store[WORD_STATE];
}

static struct blk_range **next_of(struct blk_range *g)
{
	return (struct blk_range **)(void *)&g->store[WORD_NEXT];
}

/* ---- life ---- */

static int rings_init(struct disk_lane *l, int epoll_fd)
{
	uint32_t n = l->lanes * (DISK_LANE_CREDITS + DISK_SUB_CREDITS);
	struct epoll_event ev = {.events = EPOLLIN};

	int r = ring_init(&l->parts, n, sizeof(struct disk_part_msg));
	if (!r)
		r = ring_init(&l->dones, n, sizeof(struct disk_done_msg));
	if (!r)
		r = image_lane_new(l->lane, epoll_fd, &l->images);
	if (!r && (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ring_fd(&l->parts), &ev) < 0 ||
			  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ring_fd(&l->dones), &ev) < 0))
		r = -errno;
	return r;
}

static void slot_init(struct disk_lane *l, unsigned i)
{
	struct disk_slot *s = &l->slot[i], **list = &l->slot_unused;

	s->lane = l;
	s->note = (struct disk_note *)l->bounce + i;
	s->bounce = (uint8_t *)l->bounce + DISK_NOTES_BYTES + (size_t)i * ENGINE_PAGE_BYTES;
	if (s->note->page >> 32) {
		s->pool = (uint32_t)(s->note->page >> 32);
		s->page = (uint32_t)s->note->page;
		list = &l->left;
	}
	s->next = *list;
	*list = s;
	l->slots_unused += list == &l->slot_unused;
}

int disk_lane_new(unsigned lane, unsigned lanes, struct engine *engine, const struct env *env,
	const char *bounce_path, int epoll_fd, struct disk_lane **out)
{
	if (lanes < 1 || lanes > BLK_MAX_LANES || lane >= lanes)
		return -EINVAL;
	struct disk_lane *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	uint32_t parts = lanes * (DISK_LANE_CREDITS + DISK_SUB_CREDITS);
	l->lane = lane;
	l->lanes = lanes;
	l->engine = engine;
	l->env = env;
	l->parts.event_fd = l->dones.event_fd = -1;
	for (unsigned u = 0; u < DISK_URGENCIES; u++)
		l->pending_end[u] = &l->pending[u];
	l->part = calloc(parts, sizeof(*l->part));
	int r = l->part ? rings_init(l, epoll_fd) : -ENOMEM;
	if (!r)
		r = disk_file_map(bounce_path, DISK_BOUNCE_BYTES, &l->bounce);
	if (r < 0) {
		disk_lane_delete(l);
		return r;
	}
	for (uint32_t i = 0; i < parts; i++) {
		l->part[i].next = l->part_unused;
		l->part_unused = &l->part[i];
	}
	for (unsigned i = 0; i < DISK_LANE_PAGES; i++)
		slot_init(l, i);
	for (unsigned i = 0; i < lanes; i++) {
		l->credit[i] = DISK_LANE_CREDITS;
		l->sub_credit[i] = DISK_SUB_CREDITS;
	}
	l->peer[lane] = l;
	*out = l;
	return 0;
}

void disk_lane_peers_set(struct disk_lane *l, struct disk_lane *const peer[])
{
	memcpy(l->peer, peer, l->lanes * sizeof(peer[0]));
}

void disk_lane_delete(struct disk_lane *l)
{
	if (!l)
		return;
	image_lane_delete(l->images);
	ring_fini(&l->parts);
	ring_fini(&l->dones);
	free(l->part);
	if (l->bounce)
		munmap(l->bounce, DISK_BOUNCE_BYTES);
	free(l);
}

const struct disk_lane_stats *disk_lane_stats(const struct disk_lane *l)
{
	return &l->stats;
}

struct image_lane *disk_lane_images(const struct disk_lane *l)
{
	return l->images;
}

/* ---- the queue's lane ---- */

/* A part of a range has ended, somewhere. */
static void range_part_done(
	struct disk_lane *l, struct blk_range *g, int status, unsigned tier, unsigned by)
{
	struct range_state *s = state_of(g);

	l->credit[by]++;
	if (l->pending[DISK_READS] || l->pending[DISK_OTHERS])
		l->pending_retry = true;
	if (status && !s->status)
		s->status = status;
	if (tier > s->tier)
		s->tier = (uint8_t)tier;
	if (--s->missing)
		return;
	blk_range_done(g, s->status, (enum blk_tier)s->tier);
}

static void sub_done(struct disk_lane *l, const struct disk_done_msg *m)
{
	l->sub_credit[m->by]++;
	if (l->sub_pending)
		l->pending_retry = true;
	m->sub->done(m->sub, m->status, (enum blk_tier)m->tier);
}

static void done_take(struct disk_lane *l, const struct disk_done_msg *m)
{
	if (m->sub)
		sub_done(l, m);
	else
		range_part_done(l, m->g, m->status, m->tier, m->by);
}

/* ---- the lane that owns the pages ---- */

static void part_start(struct disk_lane *l, const struct disk_part_msg *m)
{
	struct blk_range *g = m->g;
	/* There is one for every credit that anybody has. */
	struct disk_part *p = l->part_unused;

	assert(p);
	l->part_unused = p->next;
	*p = (struct disk_part){
		.store = m->store, .g = g, .sub = m->sub, .end = 1, .from = (uint8_t)m->from};
	if (m->sub) {
		p->page = m->sub->page;
		p->end = p->page + m->sub->pages;
	} else if (g->op != BLK_FLUSH) {
		p->page = g->offset / ENGINE_PAGE_BYTES;
		p->end = (g->offset + g->bytes + ENGINE_PAGE_BYTES - 1) / ENGINE_PAGE_BYTES;
	}
	if (g->op == BLK_READ || g->op == BLK_WRITE)
		blk_cursor_start(g, &p->cursor);
	disk_queue_put(&l->run[disk_urgency(p->g)], p);
}

void disk_part_release(struct disk_lane *l, struct disk_part *p)
{
	if (--p->under_way || p->page < p->end)
		return;
	struct disk_done_msg m = {.g = p->g,
		.sub = p->sub,
		.status = p->status,
		.tier = (uint16_t)p->tier,
		.by = (uint16_t)l->lane};
	unsigned from = p->from;

	p->next = l->part_unused;
	l->part_unused = p;
	if (from == l->lane) {
		done_take(l, &m);
		return;
	}
	int r = ring_push(&l->peer[from]->dones, &m);
	/* It holds as many as that lane has credits. */
	assert(!r);
	(void)r;
}

void disk_part_find(const struct disk_lane *l, struct disk_part *p)
{
	while (p->page < p->end) {
		if (disk_page_lane(p->store, p->page, l->lanes) == l->lane)
			return;
		p->page = (p->page / DISK_CHUNK_PAGES + 1) * DISK_CHUNK_PAGES;
	}
	p->page = p->end;
}

void disk_lane_resume(struct disk_lane *l, struct disk_queue *q)
{
	if (!q->first)
		return;
	struct disk_queue *run = &l->run[disk_urgency(q->first->g)];

	if (run->first)
		q->last->next = run->first;
	else
		run->last = q->last;
	run->first = q->first;
	q->first = NULL;
}

/* Starts pages of a queue, all its parts in turn; returns how many. */
static unsigned queue_run(struct disk_lane *l, struct disk_queue *run, unsigned budget)
{
	unsigned done = 0;

	while (run->first && done < budget) {
		/* Off the queue first: it may be over, and used for another, when run returns. */
		struct disk_part *p = disk_queue_take(run);
		struct disk_queue *full = NULL;

		p->under_way++;
		done += p->store->run(l, p, PAGES_PER_TURN, &full);
		if (p->page < p->end)
			disk_queue_put(full ? full : run, p);
		disk_part_release(l, p);
	}
	return done;
}

/* The reads are on their way to the donors before anything else takes time. */
static unsigned parts_run(struct disk_lane *l)
{
	unsigned reads = queue_run(l, &l->run[DISK_READS], READS_PER_RUN);

	if (reads)
		engine_kick(l->engine);
	return reads + queue_run(l, &l->run[DISK_OTHERS], OTHERS_PER_RUN);
}

/* ---- between them ---- */

static void message_send(struct disk_lane *l, const struct disk_part_msg *m, unsigned to)
{
	if (to == l->lane) {
		stat_add(&l->stats.parts_local, 1);
		part_start(l, m);
		return;
	}
	stat_add(&l->stats.parts_sent, 1);
	int r = ring_push(&l->peer[to]->parts, m);
	/* It holds as many as all lanes have credits there. */
	assert(!r);
	(void)r;
}

static void part_send(struct disk_lane *l, struct blk_range *g, unsigned to)
{
	struct disk_part_msg m = {.store = (struct disk_store *)(uintptr_t)g->store[WORD_STORE],
		.g = g,
		.from = l->lane};

	l->credit[to]--;
	message_send(l, &m, to);
}

void disk_lane_sub(struct disk_lane *l, struct disk_sub *s)
{
	unsigned to = disk_page_lane(s->store, s->page, l->lanes);
	struct disk_part_msg m = {.store = s->store, .g = s->g, .sub = s, .from = l->lane};

	if (!l->sub_credit[to]) {
		s->next = l->sub_pending;
		l->sub_pending = s;
		return;
	}
	l->sub_credit[to]--;
	message_send(l, &m, to);
}

/* One part to each lane that has pages of it, as far as there is credit. True: all were sent. */
static bool range_send(struct disk_lane *l, struct blk_range *g)
{
	uint64_t unsent = g->store[WORD_UNSENT], left = unsent;
	unsigned kept = disk_urgency(g) == DISK_READS ? 0 : DISK_READ_CREDITS;

	while (left) {
		unsigned to = (unsigned)__builtin_ctzll(left);

		left &= left - 1;
		if (l->credit[to] > kept) {
			unsent &= ~(1ull << to);
			/* Before the part is sent: nothing of it is ours to change afterwards but
			 * by range_part_done(), which comes later than this. */
			g->store[WORD_UNSENT] = unsent;
			part_send(l, g, to);
		}
	}
	return !unsent;
}

static void pending_put(struct disk_lane *l, struct blk_range *g)
{
	struct blk_range ***end = &l->pending_end[disk_urgency(g)];

	*next_of(g) = NULL;
	**end = g;
	*end = next_of(g);
}

static void ranges_run(struct disk_lane *l, enum disk_urgency u)
{
	struct blk_range *g = l->pending[u];

	l->pending[u] = NULL;
	l->pending_end[u] = &l->pending[u];
	while (g) {
		struct blk_range *next = *next_of(g);

		if (!range_send(l, g))
			pending_put(l, g);
		g = next;
	}
}

static void pending_run(struct disk_lane *l)
{
	struct disk_sub *s = l->sub_pending;

	l->sub_pending = NULL;
	while (s) {
		struct disk_sub *next = s->next;

		disk_lane_sub(l, s);
		s = next;
	}
	l->pending_retry = false;
	ranges_run(l, DISK_READS);
	ranges_run(l, DISK_OTHERS);
}

static uint64_t range_lanes(const struct disk_lane *l, const struct disk_store *store,
	const struct blk_range *g, unsigned *count)
{
	if (g->op == BLK_FLUSH || store->one_lane >= 0) {
		*count = 1;
		return 1ull << (store->one_lane >= 0 ? (unsigned)store->one_lane : l->lane);
	}
	uint64_t chunk = g->offset / ENGINE_PAGE_BYTES / DISK_CHUNK_PAGES;
	uint64_t last = (g->offset + g->bytes - 1) / ENGINE_PAGE_BYTES / DISK_CHUNK_PAGES;
	uint64_t mask = 0;

	*count = 0;
	for (; chunk <= last && *count < l->lanes; chunk++) {
		uint64_t bit = 1ull << disk_page_lane(store, chunk * DISK_CHUNK_PAGES, l->lanes);

		*count += !(mask & bit);
		mask |= bit;
	}
	return mask;
}

void disk_lane_submit(struct disk_lane *l, struct disk_store *store, struct blk_range *g)
{
	unsigned count;

	g->store[WORD_STORE] = (uint64_t)(uintptr_t)store;
	g->store[WORD_UNSENT] = range_lanes(l, store, g, &count);
	g->store[WORD_STATE] = 0;
	state_of(g)->missing = (uint16_t)count;
	/* Those that wait go first, where they can. */
	if (!l->pending[disk_urgency(g)] && range_send(l, g))
		return;
	stat_add(&l->stats.parts_waited, 1);
	pending_put(l, g);
	l->pending_retry = true;
}

/* ---- the loop ---- */

void disk_lane_gather(struct disk_lane *l, struct disk_gather *g)
{
	if (g->listed)
		return;
	g->listed = true;
	g->next = l->gathers;
	l->gathers = g;
}

static void gathers_close(struct disk_lane *l)
{
	for (unsigned i = 0; l->gathers && i < GATHER_ROUNDS; i++) {
		while (l->gathers) {
			struct disk_gather *g = l->gathers;

			l->gathers = g->next;
			g->listed = false;
			g->close(g);
		}
		image_lane_kick(l->images);
	}
}

void disk_lane_kick(struct disk_lane *l)
{
	if (l->pending_retry)
		pending_run(l);
	parts_run(l);
	gathers_close(l);
	engine_kick(l->engine);
}

unsigned disk_lane_poll(struct disk_lane *l)
{
	struct disk_part_msg part;
	struct disk_done_msg end;
	unsigned done = 0;

	for (unsigned i = 0; i < MESSAGES_PER_RUN && ring_pop(&l->dones, &end); i++, done++)
		done_take(l, &end);
	for (unsigned i = 0; i < MESSAGES_PER_RUN && ring_pop(&l->parts, &part); i++, done++)
		part_start(l, &part);
	if (l->pending_retry) {
		pending_run(l);
		done++;
	}
	if (l->left)
		disk_left_run(l);
	done += image_lane_poll(l->images);
	done += parts_run(l);
	gathers_close(l);
	if (done)
		engine_kick(l->engine);
	return done;
}

bool disk_lane_prepare_sleep(struct disk_lane *l)
{
	if (l->pending_retry || l->run[DISK_READS].first || l->run[DISK_OTHERS].first || l->gathers)
		return false;
	if (l->lanes == 1)
		return true;
	if (!ring_sleep(&l->parts))
		return false;
	if (ring_sleep(&l->dones))
		return true;
	ring_awake(&l->parts);
	return false;
}

void disk_lane_wake(struct disk_lane *l)
{
	if (l->lanes == 1)
		return;
	ring_awake(&l->parts);
	ring_awake(&l->dones);
}
