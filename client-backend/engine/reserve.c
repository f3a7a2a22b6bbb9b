/* Hard grants: what was promised to pools, whether there is room for it, and who must leave it
 * alone.
 */
#include <errno.h>

#include "client-backend/engine/impl.h"

#define PAGES_BITS   34
#define FLOW_SLOTS   2u /* local slots that each promised pool's records pass through */
#define EVICT_BURST  64u
#define RECORD_WORST ((uint64_t)((RECORD_MAX_BYTES + 7u) & ~7u))

/* Segments that wait for a place or may have to be found one, by disk policy and copies. */
struct claims {
	uint64_t credit, disk_credit; /* slots that the cleaner will give back */
	uint64_t spare;		      /* local slots to be left over */
	uint64_t n[ENGINE_DISK_MIRROR + 1][ENGINE_MAX_COPIES + 1];
};

/* ---- counts ---- */

int64_t pool_pages_add(struct engine *e, uint32_t id, unsigned account, int64_t pages)
{
	struct pool_vol *v = pool_vol(e, id);
	uint64_t before = pool_promised(v), change;

	v->pages += (uint64_t)pages;
	change = pool_promised(v) - before;
	e->promised_pages += change;
	e->account[account].promised += change;
	e->account[account].pages += (uint64_t)pages;
	stat_add(&e->stats.pages, (uint64_t)pages);
	return pages + (int64_t)change;
}

static uint64_t objects_promised(const struct pool_vol *v)
{
	return v->reserved.objects > v->objects ? v->reserved.objects - v->objects : 0;
}

void pool_objects_add(struct engine *e, uint32_t id, int32_t objects)
{
	struct pool_vol *v = pool_vol(e, id);

	e->promised_objects -= objects_promised(v);
	v->objects += (uint32_t)objects;
	e->promised_objects += objects_promised(v);
}

/* The change in pages that the account pays for. */
static int64_t reserved_set(
	struct engine *e, struct pool_row *p, const struct engine_reservation *r)
{
	uint32_t row = p->desc.id % ENGINE_MAX_POOLS;
	struct pool_vol *v = &e->pool[row];
	bool had = v->reserved.pages || v->reserved.objects, has = r->pages || r->objects;
	uint64_t before = pool_promised(v), change;

	e->promised_objects -= objects_promised(v);
	v->reserved = *r;
	e->promised_objects += objects_promised(v);
	change = pool_promised(v) - before;
	e->promised_pages += change;
	e->account[p->desc.account].promised += change;
	if (has && !had)
		e->reserved_row[e->reserved_pools++] = (uint16_t)row;
	for (uint32_t i = 0; had && !has && i < e->reserved_pools; i++)
		if (e->reserved_row[i] == row)
			e->reserved_row[i--] = e->reserved_row[--e->reserved_pools];
	return (int64_t)change;
}

static struct engine_reservation reserved_unpack(uint64_t word)
{
	return (struct engine_reservation){
		.pages = word & ((1ull << PAGES_BITS) - 1), .objects = word >> PAGES_BITS};
}

static void reserved_keep(struct engine *e, struct pool_row *p, const struct engine_reservation *r)
{
	pool_vol(e, p->desc.id)->kept = *r;
	__atomic_store_n(&p->reserved, r->objects << PAGES_BITS | r->pages, __ATOMIC_RELEASE);
}

void reserve_recover(struct engine *e)
{
	for (unsigned i = 0; i < ENGINE_MAX_POOLS; i++) {
		struct pool_row *p = &e->pool_row[i];
		struct engine_reservation r = reserved_unpack(p->reserved);

		if (p->state != POOL_LIVE || !p->reserved)
			continue;
		reserved_set(e, p, &r);
		e->pool[i].kept = r;
	}
}

void reserve_end(struct engine *e, struct pool_row *p)
{
	int64_t change = reserved_set(e, p, &(struct engine_reservation){0});

	pool_vol(e, p->desc.id)->kept = (struct engine_reservation){0};
	quota_return(e, p->desc.account, (uint64_t)-change);
	reserve_look(e);
}

/* ---- is there room? ---- */

/*
 * Two ways to count. As things are: each segment that waits is a whole one, and what a pool has may
 * still fall apart to the share alive that the cleaner keeps up. Cleaned: as if the cleaner had
 * been everywhere. The second tells whether a promise can be kept, the first whether somebody else
 * may take a segment without making the cleaner late.
 */
enum view {
	AS_IT_IS,
	AS_IT_IS_ASKED, /* with what is only asked for, too */
	CLEANED,
	CLEANED_ASKED,
};

static uint64_t usable_bytes(const struct engine *e)
{
	return e->cfg.segment_bytes / RECORD_WORST * RECORD_WORST;
}

/* Bytes alive in a segment at the share that the cleaner keeps up. */
static uint64_t cleaned_bytes(const struct engine *e)
{
	return usable_bytes(e) * e->cfg.live_percent / 100;
}

/* Bytes that a pool's pages may still come to need: all of them as large as a record can be, less
 * what is there already. */
static uint64_t pool_bytes(const struct engine *e, uint32_t row, enum view view)
{
	const struct pool_vol *v = &e->pool[row];
	uint64_t dead = (v->entries - v->pages) * RECORD_WORST;
	uint64_t live = v->live_bytes > dead ? v->live_bytes - dead : 0;
	bool asked = view == AS_IT_IS_ASKED || view == CLEANED_ASKED;
	uint64_t worst = (asked ? v->reserved.pages : v->kept.pages) * RECORD_WORST;

	if (view < CLEANED)
		worst = (worst * 100 + e->cfg.live_percent - 1) / e->cfg.live_percent;
	return worst > live ? worst - live : 0;
}

static uint64_t segments_for(const struct engine *e, uint64_t bytes, enum view view)
{
	uint64_t whole = view < CLEANED ? usable_bytes(e) : cleaned_bytes(e);

	return (bytes + whole - 1) / whole;
}

static uint64_t slots_given_back(const struct engine *e, uint64_t held, uint64_t live)
{
	uint64_t needed = live / e->cfg.live_percent * 100;

	return held > needed ? (held - needed) / e->cfg.segment_bytes : 0;
}

/* Slots that copies under way have taken for segments that are counted as waiting still. */
static uint64_t slots_under_way(const struct engine *e)
{
	uint64_t slots = 0;

	for (uint32_t i = 0; i < e->cfg.moves && e->moves_active; i++) {
		const struct move *m = &e->move[i];

		if (m->state == MOVE_WRITE && e->seg[m->row].local && e->seg[m->row].persistent)
			slots += e->seg[m->row].copies;
	}
	return slots;
}

static void claims_of(const struct engine *e, enum view view, struct claims *c)
{
	uint64_t bytes[ENGINE_DISK_MIRROR + 1][ENGINE_MAX_COPIES + 1] = {0};

	c->spare = c->credit = c->disk_credit = 0;
	if (view >= CLEANED) {
		c->credit = slots_given_back(e, e->away_held_bytes, e->away_live_bytes) +
			    slots_under_way(e);
		c->disk_credit = slots_given_back(
			e, (uint64_t)e->disk_used * e->cfg.segment_bytes, e->disk_live_bytes);
	}
	for (uint32_t i = 0; i < e->reserved_pools; i++) {
		const struct engine_pool_desc *d = &e->pool_row[e->reserved_row[i]].desc;

		bytes[d->disk][d->copies] += pool_bytes(e, e->reserved_row[i], view);
	}
	/* Ephemeral segments, of no copies, go when they must. */
	for (unsigned i = 0; i <= ENGINE_DISK_MIRROR; i++)
		for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++) {
			const struct pending *p = &e->pending[i][k];
			uint64_t most = p->segments * cleaned_bytes(e);

			if (view < CLEANED)
				c->n[i][k] = p->segments + segments_for(e, bytes[i][k], view);
			else
				c->n[i][k] = segments_for(
					e, bytes[i][k] + (p->live < most ? p->live : most), view);
		}
}

/*
 * Slots on donors that are missing for n[k] segments of k copies, each on another donor. By Gale
 * and Ryser there is a way when, for every m, the m segments with the most copies ask for no more
 * than all donors can give m segments; here it is enough to look where the number of copies
 * changes.
 */
static uint64_t remote_lacking(const struct engine *e, const uint64_t *n, uint64_t credit)
{
	uint64_t segments = 0, slots = e->short_copies, worst = 0;

	for (unsigned k = ENGINE_MAX_COPIES; k > 0; k--) {
		uint64_t have = credit;

		segments += n[k];
		slots += n[k] * k;
		for (unsigned d = 0; n[k] && d < ENGINE_MAX_DONORS; d++)
			have += donor_room(e, d) < segments ? donor_room(e, d) : segments;
		if (n[k] && slots > have && slots - have > worst)
			worst = slots - have;
	}
	return worst;
}

static uint64_t local_room(const struct engine *e)
{
	uint64_t flow = FLOW_SLOTS * e->reserved_pools, all = e->cfg.local_segments;

	return all - RESERVE_SLOTS - (flow < all / 4 ? flow : all / 4);
}

static uint64_t take(uint64_t *from, uint64_t want)
{
	uint64_t n = want < *from ? want : *from;

	*from -= n;
	return n;
}

/* Leaves in n[] what does not fit into a tier; that goes to the segments of the fewest copies, or
 * of the most. */
static void tier_absorb(uint64_t *n, uint64_t *room)
{
	for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++)
		n[k] -= take(room, n[k]);
}

/* How many of these segments have no place on donors, which many others want, too. */
static uint64_t segments_lacking(const struct engine *e, const uint64_t *n, const uint64_t *others,
	uint64_t credit, struct reserve_need *need)
{
	uint64_t all[ENGINE_MAX_COPIES + 1], count = 0, asked = 0, segments = 0, lacking;
	unsigned least = 0;

	for (unsigned k = ENGINE_MAX_COPIES; k > 0; k--) {
		all[k] = n[k] + others[k];
		count += n[k];
		if (n[k])
			least = k;
	}
	if (count == 0)
		return 0;
	for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++) {
		asked += all[k] * k;
		segments += all[k];
	}
	need->remote_slots = asked > need->remote_slots ? asked : need->remote_slots;
	need->remote_segments = segments > need->remote_segments ? segments : need->remote_segments;
	lacking = (remote_lacking(e, all, credit) + least - 1) / least;
	return lacking < count ? lacking : count;
}

/*
 * Can all of these be placed, whatever the order in which the engine does it? A mirrored segment
 * needs a slot of the disk to leave the local tier, one with the overflow policy takes donors
 * before the disk, and one that may not go to the disk has what those leave.
 */
static struct reserve_need claims_fit(const struct engine *e, const struct claims *c)
{
	uint64_t local = local_room(e), disk;
	uint64_t never[ENGINE_MAX_COPIES + 1], over[ENGINE_MAX_COPIES + 1];
	uint64_t mirror[ENGINE_MAX_COPIES + 1], others[ENGINE_MAX_COPIES + 1];
	struct reserve_need need = {0};

	disk = e->cfg.disk_segments - e->disk_used + c->disk_credit;
	take(&local, c->spare);
	memcpy(never, c->n[ENGINE_DISK_NEVER], sizeof(never));
	memcpy(over, c->n[ENGINE_DISK_OVERFLOW], sizeof(over));
	memcpy(mirror, c->n[ENGINE_DISK_MIRROR], sizeof(mirror));
	for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++)
		others[k] = over[k] + mirror[k];
	tier_absorb(mirror, &disk);
	tier_absorb(mirror, &local);
	for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++)
		need.short_segments += mirror[k];
	tier_absorb(never, &local);
	need.short_segments += segments_lacking(e, never, others, c->credit, &need);
	tier_absorb(over, &local);
	tier_absorb(over, &disk);
	need.short_segments += segments_lacking(e, over, never, c->credit, &need);
	return need;
}

static bool index_fits(const struct engine *e)
{
	return e->index.entries + e->promised_pages <= e->cfg.max_pages;
}

static bool rows_fit(const struct engine *e, enum view view, uint64_t more)
{
	for (uint32_t i = 0; i < e->reserved_pools; i++)
		more += segments_for(e, pool_bytes(e, e->reserved_row[i], view), view);
	return more <= e->free_rows;
}

/* What is on the move takes room in two places, and the last segment of each kind is seldom full:
 * promises are made with this left over, and nobody else gets it. */
static uint64_t spare_slots(const struct engine *e)
{
	return 1 + e->cfg.moves / 2;
}

static bool promises_fit(const struct engine *e)
{
	struct claims c;

	claims_of(e, CLEANED_ASKED, &c);
	c.spare = spare_slots(e);
	return index_fits(e) && e->promised_objects <= e->objects_free &&
	       rows_fit(e, AS_IT_IS_ASKED, 0) && claims_fit(e, &c).short_segments == 0;
}

/* One more segment, outside of every grant. */
static void others_claims(
	const struct engine *e, enum view view, const struct stream *s, struct claims *c)
{
	claims_of(e, view, c);
	c->spare = spare_slots(e);
	c->n[s->disk][s->copies]++;
}

bool reserve_is_refusing(const struct engine *e)
{
	return e->refused_ns && now_ns(e) < e->refused_ns + e->cfg.put_wait_ns;
}

bool reserve_spares(struct engine *e, unsigned donor, uint32_t slots)
{
	struct claims c;
	bool fits;

	if (e->reserved_pools == 0)
		return true;
	claims_of(e, CLEANED_ASKED, &c);
	e->donor[donor].free_slots -= slots;
	fits = claims_fit(e, &c).short_segments == 0;
	e->donor[donor].free_slots += slots;
	return fits;
}

void reserve_look(struct engine *e)
{
	uint64_t per_segment = e->cfg.segment_bytes / RECORD_WORST, lacking = 0;
	struct claims c;

	e->reserve_need = (struct reserve_need){0};
	if (e->reserved_pools > 0) {
		claims_of(e, CLEANED, &c);
		lacking = claims_fit(e, &c).short_segments;
		/* What is on the move takes room in two places. */
		lacking -= lacking < e->moves_active ? lacking : e->moves_active;
		claims_of(e, CLEANED_ASKED, &c);
		e->reserve_need = claims_fit(e, &c);
	}
	stat_set(&e->stats.reserved_short_pages, lacking * per_segment * e->cfg.live_percent / 100);
	stat_set(&e->stats.promised_pages, e->promised_pages);
	if (!reserve_is_refusing(e))
		return;
	/* Others need room: regions for them, too. */
	others_claims(e, AS_IT_IS_ASKED, &e->refused, &c);
	e->reserve_need = claims_fit(e, &c);
}

bool reserve_allows(struct engine *e, const struct stream *s)
{
	struct claims c;

	if (!rows_fit(e, AS_IT_IS, 1))
		return false;
	if (!s->persistent)
		return true;
	others_claims(e, AS_IT_IS, s, &c);
	if (claims_fit(e, &c).short_segments == 0)
		return true;
	e->refused = *s;
	e->refused_ns = now_ns(e);
	return false;
}

bool reserve_is_asking(const struct engine *e)
{
	for (uint32_t i = 0; i < e->reserved_pools; i++) {
		const struct pool_vol *v = &e->pool[e->reserved_row[i]];

		if (v->reserved.pages > v->kept.pages || v->reserved.objects > v->kept.objects)
			return true;
	}
	return false;
}

/* Some of the segments that wait cannot be copied anywhere now. */
static bool claims_stuck(const struct engine *e, const struct claims *c)
{
	uint32_t slots;
	unsigned donors = donors_with_room(e, &slots);
	bool disk = e->disk_used < e->cfg.disk_segments, stuck = false;

	for (unsigned k = 1; k <= ENGINE_MAX_COPIES; k++) {
		stuck |= c->n[ENGINE_DISK_NEVER][k] && donors < k;
		stuck |= c->n[ENGINE_DISK_OVERFLOW][k] && donors < k && !disk;
		stuck |= c->n[ENGINE_DISK_MIRROR][k] && !disk;
	}
	return stuck;
}

bool reserve_is_tight(const struct engine *e)
{
	uint32_t ready = e->free_slots + e->kinds[SEG_CLEAN] + e->kinds[SEG_EPHEMERAL];
	struct claims c;

	if (e->reserved_pools == 0 || (!e->grant_wait.head && ready > RESERVE_SLOTS + FLOW_SLOTS))
		return false;
	claims_of(e, AS_IT_IS, &c);
	return claims_stuck(e, &c);
}

/* Entries and objects that others must leave: what is only asked for is not promised yet. */
static struct engine_reservation kept_unused(const struct engine *e)
{
	struct engine_reservation sum = {0};

	for (uint32_t i = 0; i < e->reserved_pools; i++) {
		const struct pool_vol *v = &e->pool[e->reserved_row[i]];

		sum.pages += v->kept.pages > v->pages ? v->kept.pages - v->pages : 0;
		sum.objects += v->kept.objects > v->objects ? v->kept.objects - v->objects : 0;
	}
	return sum;
}

int reserve_admit(
	struct engine *e, const struct pool_row *p, const struct engine_key *k, bool *promised)
{
	const struct pool_vol *v = pool_vol(e, p->desc.id);
	uint32_t object;
	bool there = entry_find(e, k, &object), own_object;

	*promised = v->pages < v->kept.pages || (there && v->pages == v->kept.pages);
	if (there)
		return 0;
	own_object = v->objects < v->kept.objects;
	if (*promised && reap_due(e) &&
		(e->index.entries >= e->cfg.max_pages ||
			(object == NONE && own_object && e->objects_free == 0)))
		return -EAGAIN;
	if (!*promised && e->index.entries + e->promised_pages >= e->cfg.max_pages &&
		e->index.entries + kept_unused(e).pages >= e->cfg.max_pages)
		return -ENOSPC;
	if (object == NONE && !own_object && e->objects_free <= e->promised_objects &&
		e->objects_free <= kept_unused(e).objects)
		return -ENOSPC;
	return 0;
}

/* ---- making promises ---- */

/* The most pages that fit; what else is promised is counted. */
static uint64_t pages_possible(struct engine *e, struct pool_row *p, struct engine_reservation r)
{
	struct engine_reservation was = e->pool[p->desc.id % ENGINE_MAX_POOLS].reserved;
	uint64_t low = 0, high = r.pages;

	while (low < high) {
		r.pages = low + (high - low + 1) / 2;
		reserved_set(e, p, &r);
		if (promises_fit(e))
			low = r.pages;
		else
			high = r.pages - 1;
	}
	reserved_set(e, p, &was);
	return low;
}

static int quota_charge(struct engine *e, unsigned account, int64_t pages)
{
	struct engine_quota *q = e->account[account].desc.quota;
	uint64_t limit;

	if (pages <= 0) {
		quota_return(e, account, (uint64_t)-pages);
		return 0;
	}
	if (!q)
		return 0;
	limit = atomic_load_explicit(&q->limit_pages, memory_order_relaxed);
	if (atomic_fetch_add_explicit(&q->used_pages, (uint64_t)pages, memory_order_relaxed) +
			(uint64_t)pages <=
		limit)
		return 0;
	quota_return(e, account, (uint64_t)pages);
	return -EDQUOT;
}

/* Its puts that wait keep their order with those that will. */
static void waiting_take_over(struct engine *e, uint32_t pool)
{
	struct engine_req *r = e->put_wait.head;

	while (r) {
		struct engine_req *next = r->next;

		if (r->key.pool == pool) {
			req_unlink(&e->put_wait, r);
			req_list_push(&e->grant_wait, r, REQ_GRANT_WAIT);
		}
		r = next;
	}
}

int engine_pool_reserve(struct engine *e, uint32_t id, const struct engine_reservation *r,
	bool keep_asking, uint64_t *possible_pages)
{
	struct pool_row *p = pool_find(e, id);
	struct engine_reservation kept, held, want;
	int err;

	*possible_pages = 0;
	if (!p)
		return -ENOENT;
	e->spare_look = true;
	if (!(p->desc.flags & ENGINE_POOL_PERSISTENT) || r->pages >> PAGES_BITS ||
		r->objects > e->cfg.max_objects)
		return -EINVAL;
	kept = pool_vol(e, id)->kept;
	held = pool_vol(e, id)->reserved;
	/* While it is asked for, what is kept stays promised. */
	want.pages = r->pages > kept.pages ? r->pages : kept.pages;
	want.objects = r->objects > kept.objects ? r->objects : kept.objects;
	err = quota_charge(e, p->desc.account, reserved_set(e, p, &want));
	if (err) {
		reserved_set(e, p, &held);
		quota_charge(e, p->desc.account, reserved_set(e, p, &kept));
		return err;
	}
	/* What was dropped from donors earlier must be reaped first. */
	for (unsigned i = 0;
		i < EVICT_BURST && (i > 0 || e->lost_live == 0) &&
		!(index_fits(e) && rows_fit(e, AS_IT_IS_ASKED, 0)) && ephemeral_forget(e, NONE);
		i++)
		;
	if ((r->pages <= kept.pages && r->objects <= kept.objects) || promises_fit(e)) {
		*possible_pages = r->pages;
		quota_charge(e, p->desc.account, reserved_set(e, p, r));
		reserved_keep(e, p, r);
		waiting_take_over(e, id);
		reserve_look(e);
		return 0;
	}
	*possible_pages = pages_possible(e, p, *r);
	if (!keep_asking)
		quota_charge(e, p->desc.account, reserved_set(e, p, &kept));
	e->settle_at_ns = 0;
	reserve_look(e);
	return -ENOSPC;
}

struct engine_reservation engine_pool_reserved(const struct engine *e, uint32_t id)
{
	const struct pool_row *p = pool_find(e, id);

	return reserved_unpack(p ? p->reserved : 0);
}
