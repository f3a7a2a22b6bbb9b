/* Which leased regions hold nothing but ephemeral copies and could go to others: told as it
 * changes. */
#include "client-backend/engine/impl.h"

#define LOOK_NS	 500000000ull
#define TELL_MAX 32u /* regions told of at a time */

/* Copies that are being written hold slots, too. */
static uint32_t copies_under_way(const struct engine *e, uint32_t region)
{
	uint32_t n = 0;

	for (uint32_t i = 0; e->ephemeral_moves > 0 && i < e->cfg.moves; i++) {
		const struct move *m = &e->move[i];

		n += m->state == MOVE_WRITE && !e->seg[m->row].persistent && m->pending > 0 &&
		     holder_region(m->io[0].holder) == region;
	}
	return n;
}

/* Persistent segments are on donors, or are about to be. */
static bool donors_are_needed(const struct engine *e)
{
	return e->reserved_pools > 0 || e->away_held_bytes > 0 || e->short_rows > 0 ||
	       region_copies_wanted(e) > 0;
}

/* left: slots that persistent segments can have, without those of regions that were found before.
 * An empty region was leased for something, unless nothing here needs donors. */
static bool region_is_spare(struct engine *e, uint32_t region, bool needed, uint32_t left)
{
	const struct region_vol *v = &e->rv[region];
	const struct donor_vol *d = region_donor(e, region);
	uint64_t keep = e->reserve_need.remote_slots + region_low_water(e);
	uint32_t writing = copies_under_way(e, region);

	if (v->revoking || !d->up || d->suspect || v->used != v->ephemeral_copies + writing)
		return false;
	if (!needed)
		return true;
	return v->used > 0 && writing == 0 && left >= keep + v->slots &&
	       reserve_spares(e, e->region[region].desc.donor, v->slots);
}

/* What is told are regions that could go all together. */
static void regions_look(struct engine *e)
{
	bool needed = donors_are_needed(e), wanting = e->want_since_ns != 0;
	uint32_t gone[ENGINE_MAX_DONORS] = {0}, left, told = 0;

	donors_with_room(e, &left);
	for (uint32_t r = 0; r < e->cfg.max_regions; r++) {
		struct region_vol *v = &e->rv[r];
		bool spare;

		if (!e->region[r].used)
			continue;
		spare = !wanting && region_is_spare(e, r, needed, left);
		if (spare) {
			left -= v->slots;
			gone[e->region[r].desc.donor] += v->slots;
			region_donor(e, r)->free_slots -= v->slots;
		}
		if (spare == v->told_spare)
			continue;
		if (told++ == TELL_MAX) {
			e->spare_look = true;
			break;
		}
		v->told_spare = spare;
		e->ops.region_spare(e->ops_ctx, &e->region[r].desc, spare);
	}
	for (unsigned d = 0; d < ENGINE_MAX_DONORS; d++)
		e->donor[d].free_slots += gone[d];
}

void spare_tick(struct engine *e, uint64_t now, uint64_t *wake)
{
	if (!e->ops.region_spare || !e->spare_look)
		return;
	if (now < e->spare_at_ns) {
		*wake = e->spare_at_ns < *wake ? e->spare_at_ns : *wake;
		return;
	}
	e->spare_look = false;
	e->spare_at_ns = now + LOOK_NS;
	regions_look(e);
	if (e->spare_look && e->spare_at_ns < *wake)
		*wake = e->spare_at_ns;
}
