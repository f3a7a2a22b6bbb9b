/* The scenarios: each runs one repetition on a site of its own, and returns only when it passed. */
#ifndef FALLOW_FAULT_SCENARIO_H
#define FALLOW_FAULT_SCENARIO_H

#include "tests/fault/load.h"
#include "tests/fault/site.h"
#include "tests/model/rng.h"

#define SCENARIO_THREADS 3u

void scenario_donor_killed(struct rng *r);
void scenario_donor_lost(struct rng *r);
void scenario_donor_stopped(struct rng *r);
void scenario_donor_lies(struct rng *r);
void scenario_backend_killed(struct rng *r);
void scenario_client_killed(struct rng *r);
void scenario_backend_silent(struct rng *r);
void scenario_cluster_full(struct rng *r);
void scenario_donor_pressed(struct rng *r);
void scenario_mixed(struct rng *r);

/* The client process of scenario_client_killed: puts and gets until it is killed. */
void scenario_client_run(const char *socket, uint64_t seed);

/* A load on the site with keys for several times its local tier, filled and started. */
struct load *scenario_load(const struct site *s, struct load_config cfg, struct rng *r);
/* Lets the load run for a random time from lo to hi. */
void scenario_run(struct rng *r, unsigned lo_ms, unsigned hi_ms);
/* Ends the load and the site after everything was read once more and compared. */
void scenario_end(struct load *l, struct site *s, struct load_tally *tally);

#endif
