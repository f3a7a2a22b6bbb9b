/* SIGHUP: reads the configuration again and takes over what may change while running. */
#include <stdlib.h>
#include <string.h>

#include "client-backend/daemon.h"
#include "lib/core/log.h"

static void needs_restart(const char *what)
{
	log_warn("reload", "%s changed: that takes a restart", what);
}

#define CHANGED(member) memcmp(&old->member, &new->member, sizeof(old->member))

static void restarts_tell(const struct fallowd_config *old, const struct fallowd_config *new)
{
	if (CHANGED(name) || CHANGED(runtime_dir) || CHANGED(state_dir))
		needs_restart("name, runtime_dir or state_dir");
	if (CHANGED(socket))
		needs_restart("socket");
	if (CHANGED(lanes.count) || CHANGED(lanes.cpu_count) || CHANGED(lanes.cpus))
		needs_restart("lanes");
	if (CHANGED(store.size) || CHANGED(store.segment_bytes) || CHANGED(store.max_pages) ||
		CHANGED(store.max_objects) || CHANGED(store.fetches) ||
		CHANGED(store.checksum_percent) || CHANGED(store.moves))
		needs_restart("the geometry of the store");
	if (CHANGED(pools.copies) || CHANGED(pools.codec) || CHANGED(pools.disk))
		needs_restart("the defaults of pools");
	if (CHANGED(remote) || CHANGED(timing.io_timeout_ns))
		needs_restart("remote or timing.io_timeout");
	if (CHANGED(donor_count) || CHANGED(donors))
		needs_restart("the list of donors");
	if (CHANGED(disk))
		needs_restart("disk");
	if (CHANGED(http))
		needs_restart("http");
}

static void take_over(struct daemon *d, const struct fallowd_config *new)
{
	struct lane_msg m = {.type = LANE_TUNE};

	d->cfg.timing.hedge_ns = new->timing.hedge_ns;
	d->cfg.timing.get_timeout_ns = new->timing.get_timeout_ns;
	d->cfg.timing.cache_timeout_ns = new->timing.cache_timeout_ns;
	d->cfg.timing.direct_timeout_ns = new->timing.direct_timeout_ns;
	d->cfg.timing.put_wait_ns = new->timing.put_wait_ns;
	d->cfg.timing.retry_ns = new->timing.retry_ns;
	d->cfg.store.spill_percent = new->store.spill_percent;
	d->cfg.store.live_percent = new->store.live_percent;
	d->cfg.store.probation_percent = new->store.probation_percent;
	d->cfg.pools.zstd_level = new->pools.zstd_level;
	d->cfg.lanes.idle_poll_ns = new->lanes.idle_poll_ns;
	d->cfg.lanes.get_poll_ns = new->lanes.get_poll_ns;
	d->cfg.log = new->log;
	d->cfg.others_allowed = new->others_allowed;
	d->cfg.others = new->others;
	d->cfg.client_count = new->client_count;
	memcpy(d->cfg.clients, new->clients, sizeof(d->cfg.clients));

	program_log_start(&d->cfg.log);
	if (accounts_apply(d->accounts, &d->cfg) < 0)
		log_warn("reload", "more clients than accounts: some have none");
	d->cfg.disk_count = new->disk_count;
	memcpy(d->cfg.disks, new->disks, sizeof(d->cfg.disks));
	disks_configure(d->disks, d->cfg.disks, d->cfg.disk_count);
	store_engine_config(d, &m.tune.engine);
	m.tune.idle_poll_ns = d->cfg.lanes.idle_poll_ns;
	m.tune.get_poll_ns = d->cfg.lanes.get_poll_ns;
	lanes_post(d, &m);
}

void daemon_reload(struct daemon *d)
{
	char err[1024];
	struct fallowd_config *new;

	if (!d->config_file) {
		log_warn("reload", "there is no configuration file to read again");
		return;
	}
	new = malloc(sizeof(*new));
	if (!new || config_load_file(
			    &fallowd_config_schema, d->config_file, new, err, sizeof(err)) < 0) {
		d->reloads_failed++;
		log_error("reload", "nothing was changed: %s", new ? err : "out of memory");
		free(new);
		return;
	}
	restarts_tell(&d->cfg, new);
	take_over(d, new);
	d->reloads++;
	log_info("reload", "%s was read again", d->config_file);
	free(new);
}
