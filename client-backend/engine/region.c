/* Leased regions and the disk's slots: which are free, and where the next copy of a segment goes.
 */
#include <errno.h>

#include "client-backend/engine/impl.h"

#define SHED_NS	   1000000000ull
#define YIELD_NS   50000000ull	  /* another lane waits: room that is ephemeral goes to it */
#define SPARE_NS   10000000000ull /* room that ephemeral copies lacked is kept for so long */
#define WANT_AHEAD 8u		  /* regions asked for at a time for what is promised */

static void bit_flip(uint64_t *map, uint32_t i)
{
	map[i / 64] ^= 1ull << (i % 64);
}

/* First free slot below n; NONE when all are used. */
static uint32_t bit_find_free(const uint64_t *map, uint32_t n)
{
	for (uint32_t w = 0; w * 64 < n; w++)
		if (~map[w]) {
			uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(~map[w]);

			return i < n ? i : NONE;
		}
	return NONE;
}

/* ---- the disk ---- */

uint32_t disk_slot_take(struct engine *e)
{
	uint32_t slot = bit_find_free(e->disk_bitmap, e->cfg.disk_segments);

	if (slot != NONE) {
		bit_flip(e->disk_bitmap, slot);
		stat_set(&e->stats.disk_slots_used, ++e->disk_used);
	}
	return slot;
}

void disk_slot_return(struct engine *e, uint32_t slot)
{
	bit_flip(e->disk_bitmap, slot);
	stat_set(&e->stats.disk_slots_used, --e->disk_used);
}

/* ---- slots of a region ---- */

static void donor_count(struct engine *e, uint32_t region, int32_t slots)
{
	e->spare_look = true;
	if (!e->rv[region].revoking)
		region_donor(e, region)->free_slots += (uint32_t)slots;
}

void region_slot_mark(struct engine *e, uint32_t region, uint32_t slot)
{
	bit_flip(e->rv[region].bitmap, slot);
	e->rv[region].used++;
	donor_count(e, region, -1);
	stat_add(&e->stats.remote_slots_used, 1);
}

uint32_t region_slot_take(struct engine *e, uint32_t region)
{
	uint32_t slot = bit_find_free(e->rv[region].bitmap, e->rv[region].slots);

	if (slot != NONE)
		region_slot_mark(e, region, slot);
	return slot;
}

void region_slot_return(struct engine *e, uint32_t region, uint32_t slot)
{
	if (direct_keeps_slot(e, region, slot))
		return;
	bit_flip(e->rv[region].bitmap, slot);
	e->rv[region].used--;
	donor_count(e, region, 1);
	stat_sub(&e->stats.remote_slots_used, 1);
}

/* ---- regions come and go ---- */

/* Everything that is derived from a row; the slots in use are marked by the caller afterwards. */
static void region_derive(struct engine *e, uint32_t region)
{
	const struct engine_region_desc *d = &e->region[region].desc;
	struct region_vol *v = &e->rv[region];

	uint64_t slots = d->len_bytes / e->cfg.segment_bytes;

	/* Bitmaps have room for so many; the rest of a longer lease is not used. */
	v->slots = slots < ENGINE_REGION_MAX_SLOTS ? (uint32_t)slots : ENGINE_REGION_MAX_SLOTS;
	v->used = v->copies = 0;
	v->copy_head = NONE;
	list_init(&v->ephemeral[0]);
	list_init(&v->ephemeral[1]);
	v->ephemeral_copies = 0;
	v->live_bytes = 0;
	v->revoking = v->told_spare = false;
	v->generation++;
	e->spare_look = true;
	e->donor[d->donor].free_slots += v->slots;
	e->donor[d->donor].regions++;
	e->donor[d->donor].domain = d->domain;
	stat_add(&e->stats.regions, 1);
	stat_add(&e->stats.remote_slots, v->slots);
}

void region_recount(struct engine *e)
{
	for (uint32_t r = 0; r < e->cfg.max_regions; r++)
		if (e->region[r].used)
			region_derive(e, r);
}

static bool region_desc_valid(const struct engine *e, const struct engine_region_desc *d)
{
	return d->donor < ENGINE_MAX_DONORS && d->len_bytes >= e->cfg.segment_bytes &&
	       memchr(d->donor_name, 0, sizeof(d->donor_name));
}

int engine_region_add(struct engine *e, const struct engine_region_desc *d)
{
	if (!region_desc_valid(e, d))
		return -EINVAL;
	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		if (e->region[r].used)
			continue;
		e->region[r].desc = *d;
		memset(e->rv[r].bitmap, 0, ENGINE_REGION_MAX_SLOTS / 8);
		__atomic_store_n(&e->region[r].used, 1, __ATOMIC_RELEASE);
		region_derive(e, r);
		e->want_since_ns = 0;
		e->spill_at_ns = e->repair_at_ns = 0;
		e->unplaced = false;
		e->unplaced_ns = 0;
		e->unplaced_slots = e->rv[r].slots;
		e->regions_tried += reserve_is_asking(e);
		return (int)r;
	}
	return -ENOSPC;
}

const struct engine_region_desc *engine_region(const struct engine *e, unsigned region)
{
	return region_used(e, region) ? &e->region[region].desc : NULL;
}

int engine_region_find(
	const struct engine *e, const char *donor_name, uint64_t region_id, uint64_t epoch)
{
	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		const struct engine_region_desc *d = &e->region[r].desc;

		if (e->region[r].used && d->region_id == region_id && d->epoch == epoch &&
			strcmp(d->donor_name, donor_name) == 0)
			return (int)r;
	}
	return -ENOENT;
}

static void region_drop(struct engine *e, uint32_t region)
{
	struct region_vol *v = &e->rv[region];

	if (v->revoking) {
		e->regions_revoking--;
		stat_set(&e->stats.regions_revoking, e->regions_revoking);
	} else {
		region_donor(e, region)->free_slots -= v->slots - v->used;
	}
	stat_sub(&e->stats.remote_slots_used, v->used);
	region_donor(e, region)->regions--;
	v->revoking = false;
	v->generation++;
	e->spare_look = true;
	stat_sub(&e->stats.regions, 1);
	stat_sub(&e->stats.remote_slots, v->slots);
	__atomic_store_n(&e->region[region].used, 0, __ATOMIC_RELEASE);
}

/* Counts a region's slots for its donor, or no longer: those that are free or of ephemeral copies.
 */
static void donor_slots_add(struct engine *e, uint32_t region, int sign)
{
	const struct region_vol *v = &e->rv[region];
	struct donor_vol *d = region_donor(e, region);

	if (v->revoking)
		return;
	d->free_slots += (uint32_t)sign * (v->slots - v->used);
	for (unsigned i = 0; i < 2; i++) {
		uint32_t n = 0;

		for (uint32_t row = v->ephemeral[i].head; row != NONE;
			row = e->sv[row].by_live.next)
			n++;
		d->ephemeral_slots[i] += (uint32_t)sign * n;
	}
}

void engine_region_bind(struct engine *e, unsigned region, unsigned donor, uint32_t domain,
	uint64_t rkey, uint64_t raddr)
{
	if (!region_used(e, region) || donor >= ENGINE_MAX_DONORS)
		return;
	struct engine_region_desc *d = &e->region[region].desc;

	donor_slots_add(e, region, -1);
	e->donor[d->donor].regions--;
	d->donor = (uint16_t)donor;
	d->domain = domain;
	d->rkey = rkey;
	d->raddr = raddr;
	donor_slots_add(e, region, 1);
	e->donor[donor].regions++;
	e->donor[donor].domain = domain;
}

/* Calls for every valid copy in the region; fn may forget that copy. */
static void region_each_copy(struct engine *e, uint32_t region,
	void (*fn)(struct engine *e, uint32_t row, unsigned which))
{
	uint32_t next;

	for (uint32_t at = e->rv[region].copy_head; at != NONE; at = next) {
		next = e->copy_link[at].next;
		fn(e, at / ENGINE_MAX_COPIES, at % ENGINE_MAX_COPIES);
	}
}

/* With a local copy nothing needs to be moved away; the segment is spilled again when it is time.
 * What is ephemeral is not worth moving. */
static void copy_doomed(struct engine *e, uint32_t row, unsigned which)
{
	stat_add(&e->stats.ephemeral_dropped, !e->seg[row].persistent);
	if (e->seg[row].local || !e->seg[row].persistent) {
		seg_holder_clear(e, row, which);
	} else {
		seg_short_set(e, row, true);
		seg_classify(e, row);
	}
}

void engine_region_revoke(struct engine *e, unsigned region)
{
	if (!region_used(e, region) || e->rv[region].revoking)
		return;
	donor_slots_add(e, region, -1);
	e->rv[region].revoking = true;
	e->spare_look = true;
	e->revoked_ns = now_ns(e);
	e->regions_revoking++;
	stat_set(&e->stats.regions_revoking, e->regions_revoking);
	region_each_copy(e, region, copy_doomed);
	e->repair_at_ns = 0;
	reserve_look(e);
}

static void copy_lost(struct engine *e, uint32_t row, unsigned which)
{
	stat_add(&e->stats.ephemeral_dropped, !e->seg[row].persistent);
	seg_holder_clear(e, row, which);
	if (e->seg[row].persistent && (e->seg[row].local || seg_has_holder(e, row)))
		seg_short_set(e, row, true);
	else
		seg_short_set(e, row, false);
}

void engine_region_lost(struct engine *e, unsigned region)
{
	if (!region_used(e, region))
		return;
	region_each_copy(e, region, copy_lost);
	region_drop(e, region);
	e->repair_at_ns = 0;
	e->get_retry_ns = 0;
	reserve_look(e);
}

unsigned donors_with_room(const struct engine *e, uint32_t *free_slots)
{
	unsigned donors = 0;

	*free_slots = 0;
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		if (donor_room(e, d) > 0) {
			*free_slots += donor_room(e, d);
			donors++;
		}
	return donors;
}

/* Free slots beyond which more of the same donors would not help a copy that found none. */
static uint32_t unplaced_limit(const struct engine *e)
{
	return 2 * (region_low_water(e) + e->unplaced_slots);
}

/* Promises want regions of other donors: of this one there are more than their copies can use. */
static bool region_is_in_the_way(const struct engine *e, const struct donor_vol *d, uint32_t slots)
{
	return donor_slots(d) >= e->reserve_need.remote_segments + region_low_water(e) + slots;
}

unsigned region_copies_wanted(const struct engine *e)
{
	unsigned copies = ENGINE_MAX_COPIES;

	while (copies > 0 && !e->pending[ENGINE_DISK_NEVER][copies].segments &&
		!e->pending[ENGINE_DISK_OVERFLOW][copies].segments &&
		!e->pending[ENGINE_DISK_MIRROR][copies].segments)
		copies--;
	return copies;
}

bool region_others_want(const struct engine *e, uint64_t now)
{
	for (uint32_t i = 0; e->cfg.want_since_ns && i < e->cfg.lanes; i++) {
		uint64_t since =
			atomic_load_explicit(&e->cfg.want_since_ns[i], memory_order_relaxed);

		if (i != e->cfg.lane && since && now >= since + YIELD_NS)
			return true;
	}
	return false;
}

/* Other donors are wanted for copies, but for some time none has come: perhaps nothing more can be
 * leased while what is ephemeral fills what there is. */
static bool region_is_waited_for(const struct engine *e, unsigned donors, uint64_t now)
{
	return e->lack_since_ns && now >= e->lack_since_ns + SHED_NS &&
	       (e->unplaced || donors < region_copies_wanted(e));
}

/*
 * An empty region that nobody would miss; one that holds nothing but what is ephemeral counts as
 * empty where persistent segments need the room. It must leave more behind than region_want() asks
 * for, or else the two would give and take for ever; and enough donors to choose from. While a copy
 * finds no donor, one goes now and then, so that another can be asked for in its place.
 */
static bool region_surplus(
	struct engine *e, uint32_t r, unsigned donors, uint32_t free_slots, uint64_t now)
{
	const struct region_vol *v = &e->rv[r];
	uint64_t used = stat_get(&e->stats.remote_slots_used);
	const struct donor_vol *d = region_donor(e, r);
	/* As region_want() counts: what lies on a donor that is not to be written to is no room. */
	uint64_t left = d->up && !d->suspect ? free_slots - v->slots : free_slots;
	uint64_t low = region_low_water(e), promised = e->reserve_need.remote_slots;
	/* For ephemeral copies. */
	bool spare = e->unplaced_last_ns && now < e->unplaced_last_ns + SPARE_NS;

	if (v->revoking || v->used > v->ephemeral_copies)
		return false;
	if ((v->used > 0 || spare) &&
		(region_is_waited_for(e, donors, now) || region_others_want(e, now)))
		return now >= e->shed_at_ns && left >= low + promised &&
		       reserve_spares(e, e->region[r].desc.donor, v->slots);
	if (donors <= ENGINE_MAX_COPIES && donor_slots(d) <= v->slots)
		return false;
	if (e->reserve_need.short_segments > 0)
		return now >= e->shed_at_ns && region_is_in_the_way(e, d, v->slots);
	if (e->unplaced)
		return now >= e->shed_at_ns && left + v->slots >= unplaced_limit(e) + promised;
	if (v->used > 0 || spare)
		return false;
	if (e->regions_tried > 0 && !reserve_is_asking(e) && left >= low + promised &&
		reserve_spares(e, e->region[r].desc.donor, v->slots))
		return true;
	return left >= 4 * low && left > used / 2 + 3 * (uint64_t)v->slots + low + promised &&
	       reserve_spares(e, e->region[r].desc.donor, v->slots);
}

static void copy_dropped(struct engine *e, uint32_t row, unsigned which)
{
	stat_add(&e->stats.ephemeral_dropped, 1);
	seg_holder_clear(e, row, which);
}

/* Gives back revoked regions that are empty, and one empty region when there are far too many free
 * slots. */
void region_release_drained(struct engine *e)
{
	uint32_t free_slots;
	unsigned donors = donors_with_room(e, &free_slots);
	uint64_t now = env_now_ns(&e->env);

	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		struct region_vol *v = &e->rv[r];
		bool surplus = e->region[r].used && region_surplus(e, r, donors, free_slots, now);

		if (!e->region[r].used || !(surplus || (v->revoking && v->used == 0)))
			continue;
		region_each_copy(e, r, copy_dropped);
		struct engine_region_desc d = e->region[r].desc;

		region_drop(e, r);
		e->ops.region_released(e->ops_ctx, &d);
		if (surplus) {
			e->regions_tried -= e->regions_tried > 0 && !reserve_is_asking(e);
			e->shed_at_ns = now + (region_others_want(e, now) ? YIELD_NS : SHED_NS);
			return;
		}
	}
}

void engine_donor_state(struct engine *e, unsigned donor, bool up, bool suspect)
{
	if (donor >= ENGINE_MAX_DONORS)
		return;
	if (up && !e->donor[donor].up) {
		e->get_retry_ns = 0;
		e->repair_at_ns = e->spill_at_ns = 0;
	}
	e->donor[donor].up = up;
	e->donor[donor].suspect = suspect;
	e->spare_look = true;
	reserve_look(e);
}

void engine_donor_usage(
	const struct engine *e, unsigned donor, uint64_t *segments, uint64_t *live_bytes)
{
	*segments = *live_bytes = 0;
	for (uint32_t r = 0; r < e->cfg.max_regions; r++)
		if (e->region[r].used && e->region[r].desc.donor == donor) {
			*segments += e->rv[r].copies;
			*live_bytes += e->rv[r].live_bytes;
		}
}

/* ---- placement ---- */

struct place {
	uint16_t donor[HOLDERS * 2];
	unsigned n;
};

/* The donors that a segment uses already, those it is being copied to now included. */
static void place_used(const struct engine *e, uint32_t row, const uint64_t *also, unsigned n_also,
	struct place *used)
{
	used->n = 0;
	for (unsigned i = 0; i < DISK_HOLDER; i++)
		if (e->seg[row].holder[i] & HOLDER_VALID)
			used->donor[used->n++] =
				e->region[holder_region(e->seg[row].holder[i])].desc.donor;
	for (unsigned i = 0; i < n_also; i++)
		used->donor[used->n++] = e->region[holder_region(also[i])].desc.donor;
}

static bool place_allows(
	const struct engine *e, const struct place *used, unsigned donor, bool same_domain)
{
	const struct donor_vol *d = &e->donor[donor];

	if (donor_room(e, donor) == 0)
		return false;
	for (unsigned i = 0; i < used->n; i++) {
		if (used->donor[i] == donor)
			return false;
		if (!same_domain && e->donor[used->donor[i]].domain == d->domain)
			return false;
	}
	return true;
}

/* A donor that does not answer would hold every move: others are taken before one gets more than
 * half. */
static bool place_is_busy(const struct engine *e, unsigned donor)
{
	return e->donor[donor].writes >= (e->cfg.moves + 1) / 2;
}

/* Two candidates at random, the one with more free slots (Mitzenmacher's power of two choices). */
static uint32_t place_draw(struct engine *e, const struct place *used, bool same_domain, bool busy)
{
	uint16_t fit[ENGINE_MAX_DONORS];
	unsigned n = 0;

	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		if (place_allows(e, used, d, same_domain) && (busy || !place_is_busy(e, d)))
			fit[n++] = (uint16_t)d;
	if (n == 0)
		return NONE;
	uint64_t rnd = env_random(&e->env);
	unsigned a = fit[(rnd & 0xffffffff) % n], b = fit[(rnd >> 32) % n];

	if (e->donor[a].free_slots == e->donor[b].free_slots)
		return donor_room(e, a) >= donor_room(e, b) ? a : b;
	return e->donor[a].free_slots > e->donor[b].free_slots ? a : b;
}

/* The fullest region of a donor that has room, so that others empty and can be given back. */
static uint32_t place_region(const struct engine *e, uint32_t donor)
{
	uint32_t best = NONE;

	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		if (!e->region[r].used || e->region[r].desc.donor != donor || e->rv[r].revoking ||
			e->rv[r].used == e->rv[r].slots)
			continue;
		if (best == NONE ||
			e->rv[r].slots - e->rv[r].used < e->rv[best].slots - e->rv[best].used)
			best = r;
	}
	return best;
}

bool region_can_place(const struct engine *e, uint32_t row)
{
	struct place used;

	place_used(e, row, NULL, 0, &used);
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		if (place_allows(e, &used, d, true))
			return true;
	return false;
}

uint64_t region_place(struct engine *e, uint32_t row, const uint64_t *also, unsigned n_also)
{
	struct place used;
	uint32_t donor, region;

	place_used(e, row, also, n_also, &used);
	donor = place_draw(e, &used, false, false);
	for (unsigned n = 1; donor == NONE && n < 4; n++)
		donor = place_draw(e, &used, n & 2, n & 1);
	if (donor == NONE)
		return 0;
	region = place_region(e, donor);
	if (region == NONE && ephemeral_drop_on(e, donor))
		region = place_region(e, donor);
	return region == NONE ? 0 : holder_make(region, region_slot_take(e, region));
}

/* A slot that is being written to cannot make way, so each donor keeps some that are free. */
uint64_t region_place_spare(struct engine *e)
{
	uint32_t best = NONE, region;

	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++) {
		const struct donor_vol *v = &e->donor[d];

		if (!v->up || v->suspect || v->free_slots <= e->cfg.moves ||
			v->writes >= (e->cfg.moves + 3) / 4)
			continue;
		if (best == NONE || v->free_slots > e->donor[best].free_slots)
			best = d;
	}
	region = best == NONE ? NONE : place_region(e, best);
	return region == NONE ? 0 : holder_make(region, region_slot_take(e, region));
}

/* ---- asking for more ---- */

uint32_t region_low_water(const struct engine *e)
{
	uint32_t low = e->cfg.moves * 2 * ENGINE_MAX_COPIES;

	return low > 16 ? low : 16;
}

/* Regions that promised pages need, asked for ahead of their use; some donors too few are not made
 * up for by any number of regions of the others, so there is a limit. */
static uint32_t reserve_want(struct engine *e, uint32_t free_slots)
{
	uint64_t slots = e->unplaced_slots ? e->unplaced_slots : region_low_water(e), need;

	reserve_look(e);
	need = e->reserve_need.remote_slots;
	if (need > 0 && free_slots < need + region_low_water(e)) {
		uint64_t n = (need + region_low_water(e) - free_slots + slots - 1) / slots;

		return n < WANT_AHEAD ? (uint32_t)n : WANT_AHEAD;
	}
	/* Enough in all, but unevenly spread: the next one may come from a donor that has little.
	 */
	return need > 0 && e->reserve_need.short_segments > 0 &&
	       free_slots < 2 * need + unplaced_limit(e);
}

/*
 * More regions are wanted while there is something to spill and too few free slots, or fewer donors
 * with a free slot than a segment needs copies, or a copy found no donor that it may go to. In that
 * last case each new region is tried before another is asked for, and there is a limit: perhaps
 * there are not enough donors.
 */
void region_want(struct engine *e, uint64_t now)
{
	uint32_t free_slots, want = 0;
	bool ephemeral = false;
	uint32_t low = region_low_water(e);
	unsigned donors = donors_with_room(e, &free_slots);

	if (e->short_rows == 0 && e->kinds[SEG_DIRTY] == 0)
		e->unplaced = false;
	if (region_copies_wanted(e) > 0 || e->short_rows > 0) {
		if (free_slots < low)
			want = 1;
		else if (donors < region_copies_wanted(e) && free_slots < 4 * low)
			want = 1;
		else if (e->unplaced && free_slots < unplaced_limit(e))
			want = 1;
		if (want && e->kinds[SEG_DIRTY] > low)
			want = 2;
	}
	if (e->reserved_pools > 0) {
		uint32_t ahead = reserve_want(e, free_slots);

		want = ahead > want ? ahead : want;
	}
	if (!want)
		e->lack_since_ns = 0;
	else if (!e->lack_since_ns)
		e->lack_since_ns = now;
	/* What could not be kept would be asked for, given back and asked for again. */
	uint64_t rows_free = e->cfg.max_regions - stat_get(&e->stats.regions);
	if (want > rows_free)
		want = (uint32_t)rows_free;
	if (!want != !e->want_since_ns) {
		e->want_since_ns = want ? now : 0;
		e->spare_look = true;
	}
	if (e->cfg.want_since_ns)
		atomic_store_explicit(
			&e->cfg.want_since_ns[e->cfg.lane], e->want_since_ns, memory_order_relaxed);
	if (!want && rows_free > 0 && ephemeral_wants_region(e, now)) {
		want = 1;
		ephemeral = true;
	}
	if (want || e->wanted)
		e->ops.want_regions(e->ops_ctx, want, ephemeral);
	e->wanted = want;
}
