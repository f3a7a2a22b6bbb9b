/* The daemon's end of the cluster logic: control sessions and data connections on the event loop.
 */
#ifndef FALLOW_BACKEND_DONORS_H
#define FALLOW_BACKEND_DONORS_H

#include "client-backend/daemon.h"

/* Why a donor's session or data connection failed; labels of a metric. */
struct donors_stats {
	stat_t sessions_failed; /* ended for any reason but ours */
	stat_t protocol_errors; /* messages that the cluster logic refused */
	stat_t links_failed;	/* data connections: could not be made */
	stat_t links_broken;	/* data connections: broke while in use */
};

/* Control thread, all of it. The lanes are open; nothing is sent to them before donors_start(). */
int donors_new(struct daemon *d, struct donors **out);
/* A region that a lane's arena holds; before donors_start(). */
void donors_adopt(struct donors *s, unsigned lane, const struct engine_region_desc *r);
void donors_start(struct donors *s);
/* Ends sessions and takes every data connection back from the lanes; donors_idle() tells when that
 * is done. */
void donors_stop(struct donors *s);
bool donors_idle(const struct donors *s);
void donors_delete(struct donors *s);

const struct cluster *donors_cluster(const struct donors *s);
/* "down", "up", ... */
const char *donors_phase_name(enum cluster_donor_phase phase);
const struct donors_stats *donors_stats(const struct donors *s);
const struct control_stats *donors_control_stats(const struct donors *s);

/* From lanes. */
void donors_link_broken(struct donors *s, unsigned lane, const struct lane_link *link);
void donors_link_detached(struct donors *s, unsigned lane, const struct lane_link *link);
void donors_want_regions(struct donors *s, unsigned lane, unsigned count, bool ephemeral);
void donors_region_spare(
	struct donors *s, unsigned lane, const struct engine_region_desc *r, bool spare);
void donors_region_released(struct donors *s, unsigned lane, const struct engine_region_desc *r);
void donors_bad_data(struct donors *s, unsigned donor);

#endif
