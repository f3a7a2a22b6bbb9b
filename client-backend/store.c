/* The arenas at start: opening the lanes over them, and taking up accounts, pools and regions found
 * there. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client-backend/daemon.h"
#include "client-backend/donors.h"
#include "lib/core/log.h"

#define REGION_BYTES_LEAST (16ull << 20) /* smaller regions would fill the lanes' region tables */

static uint64_t memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t clamp(uint64_t v, uint64_t lo, uint64_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

void store_engine_config(const struct daemon *d, struct engine_config *e)
{
	const struct fallowd_config *c = &d->cfg;
	uint64_t lanes = c->lanes.count, segment = c->store.segment_bytes;
	uint64_t local = config_amount_bytes(&c->store.size, memory_bytes()) / lanes;
	uint64_t pages =
		c->store.max_pages ? c->store.max_pages / lanes : 64 * local / ENGINE_PAGE_BYTES;
	/* Keys spread over the lanes by a hash, not evenly. */
	if (lanes > 1)
		pages += pages / 8;
	engine_config_default(e, local, pages);
	e->segment_bytes = (uint32_t)segment;
	e->local_segments = (uint32_t)clamp(local / segment, 8, UINT32_MAX);
	e->max_objects = (uint32_t)clamp(
		c->store.max_objects ? c->store.max_objects / lanes : pages / 16, 1024, 1u << 29);
	e->disk_segments =
		c->disk.path[0] ? (uint32_t)clamp(c->disk.size_bytes / lanes / segment, 1, 1u << 24)
				: 0;
	/* Any lane may get twice its share of what is leased. */
	uint64_t leased = d->max_lease_bytes / lanes * (lanes > 1 ? 2 : 1);
	/* More than there are slots, for ephemeral segments leave an eighth of the rows to others.
	 */
	uint64_t slots = e->local_segments + leased / segment + e->disk_segments;
	e->max_segments = (uint32_t)clamp(slots + slots / 4 + 64, 64, (1u << 26) - 1);
	e->max_regions = (uint32_t)clamp(leased / REGION_BYTES_LEAST, 64, 65536);
	e->fetches = c->store.fetches;
	e->sums = (uint32_t)clamp(pages * c->store.checksum_percent / 100, 0, UINT32_MAX);
	e->moves = c->store.moves;
	e->lanes = (uint32_t)lanes;
	e->want_since_ns = ((struct daemon *)d)->want_since_ns;
	e->huge_pages = c->store.huge_pages;
	e->lock_memory = c->store.lock_memory;
	e->hedge_ns = c->timing.hedge_ns;
	e->get_timeout_ns = c->timing.get_timeout_ns;
	e->cache_timeout_ns = c->timing.cache_timeout_ns;
	e->direct_timeout_ns = c->timing.direct_timeout_ns;
	e->put_wait_ns = c->timing.put_wait_ns;
	e->retry_ns = c->timing.retry_ns;
	e->spill_percent = c->store.spill_percent;
	e->live_percent = c->store.live_percent;
	e->probation_percent = c->store.probation_percent;
	e->zstd_level = c->pools.zstd_level;
}

static bool is_arena(const char *name, unsigned *lane)
{
	int end = 0;

	return sscanf(name, "lane-%u.arena%n", lane, &end) == 1 && end && !name[end];
}

/* --discard-arenas removes them all; else one of a lane that is not configured any more is an
 * error. */
static int arenas_look(struct daemon *d)
{
	const char *dir = d->cfg.runtime_dir;
	unsigned lane;
	int r = 0;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		r = -errno;
		log_error("store", "cannot make runtime_dir %s: %s", dir, strerror(-r));
		return r;
	}
	DIR *list = opendir(dir);
	if (!list) {
		r = -errno;
		log_error("store", "cannot read runtime_dir %s: %s", dir, strerror(-r));
		return r;
	}
	for (struct dirent *e; !r && (e = readdir(list));) {
		if (!is_arena(e->d_name, &lane))
			continue;
		if (d->discard_arenas) {
			log_warn("store", "discarding %s/%s", dir, e->d_name);
			if (unlinkat(dirfd(list), e->d_name, 0) < 0)
				r = -errno;
		} else if (lane >= d->cfg.lanes.count) {
			log_error("store",
				"%s/%s was made with more than the configured %u lanes: set "
				"lanes.count "
				"back, or start once with --discard-arenas to throw away every "
				"stored page",
				dir, e->d_name, d->cfg.lanes.count);
			r = -EINVAL;
		}
	}
	closedir(list);
	return r;
}

static int lane_config_open(struct daemon *d, unsigned i)
{
	char path[512], bounce[512], err[512] = "";
	const struct fallowd_config *c = &d->cfg;
	struct lane_config lc = {.lane = i,
		.lanes = c->lanes.count,
		.cpu = c->lanes.cpu_count ? (int)c->lanes.cpus[i % c->lanes.cpu_count] : -1,
		.idle_poll_ns = c->lanes.idle_poll_ns,
		.get_poll_ns = c->lanes.get_poll_ns,
		.arena_path = path,
		.bounce_path = bounce,
		.engine = d->engine,
		.disk_path = c->disk.path[0] ? c->disk.path : NULL,
		.disk_direct = c->disk.direct,
		.disk_depth = c->disk.depth,
		.disk_timeout_ns = c->disk.timeout_ns,
		.io_timeout_ns = c->timing.io_timeout_ns,
		.depth = c->remote.depth,
		.donors = c->donor_count,
		.verbs = c->remote.verbs != FALLOWD_VERBS_OFF,
		.verbs_needed = c->remote.verbs == FALLOWD_VERBS_ON,
		.verbs_device = c->remote.verbs_device,
		.max_sessions = c->socket.max_sessions};

	lc.engine.lane = i;
	snprintf(path, sizeof(path), "%s/lane-%u.arena", c->runtime_dir, i);
	snprintf(bounce, sizeof(bounce), "%s/lane-%u.bounce", c->runtime_dir, i);
	int r = lane_open(&lc, &d->replies, &d->lane[i], err, sizeof(err));
	if (r == -EINVAL)
		log_error("store",
			"%s: %s; set the old values again, or start once with --discard-arenas to "
			"throw "
			"away every stored page",
			path, err);
	else if (r < 0)
		log_error("store", "%s: %s", path, err);
	return r;
}

int store_open(struct daemon *d)
{
	struct disk_lane *peers[FALLOWD_MAX_LANES];
	char err[256];

	d->max_lease_bytes = config_amount_bytes(&d->cfg.remote.max_lease, memory_bytes());
	store_engine_config(d, &d->engine);
	if (engine_config_check(&d->engine, err, sizeof(err)) < 0) {
		log_error("store", "these settings do not fit together: %s", err);
		return -EINVAL;
	}
	int r = arenas_look(d);
	for (unsigned i = 0; !r && i < d->cfg.lanes.count; i++) {
		r = lane_config_open(d, i);
		if (!r)
			d->lanes++;
	}
	if (r < 0) {
		store_close(d);
		return r;
	}
	for (unsigned i = 0; i < d->lanes; i++)
		peers[i] = lane_disks(d->lane[i]);
	for (unsigned i = 0; i < d->lanes; i++)
		disk_lane_peers_set(peers[i], peers);
	if (d->cfg.disk.path[0] && d->cfg.disk.direct && !lane_disk_direct(d->lane[0]))
		log_warn("disk", "%s refuses O_DIRECT: the page cache is used", d->cfg.disk.path);
	return 0;
}

void store_close(struct daemon *d)
{
	while (d->lanes)
		lane_close(d->lane[--d->lanes]);
}
