/* Memory servers and a backend on this machine, with the settings of a fault test, and what they
 * say about themselves. */
#ifndef FALLOW_FAULT_SITE_H
#define FALLOW_FAULT_SITE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "tests/model/rng.h"

#define SITE_DONORS_MAX	  4
#define SITE_REGION_BYTES (1 << 20)

struct site_config {
	unsigned donors;
	unsigned copies;
	unsigned donor_mib;	/* what each donor gives at most */
	unsigned donor_min_mib; /* what it gives under pressure too */
	unsigned store_mib;	/* the local tier */
	unsigned ttl_ms, grace_ms;
	unsigned suspect_ms, dead_ms;
	unsigned hedge_ms;
	unsigned put_wait_ms;
	unsigned session_grace_ms;
	unsigned flip_ppm; /* of donor 0's answers with data, how many are wrong */
};

struct site_donor {
	pid_t pid; /* 0: not running */
	bool stopped;
	unsigned port, tcp_port;
};

/* Belongs to the main thread. */
struct site {
	struct site_config cfg;
	struct site_donor donor[SITE_DONORS_MAX];
	pid_t backend; /* 0: not running */
	char socket[108], backend_http[108];
};

/* What most scenarios use; change it before site_start(). */
struct site_config site_config_default(void);
/* Starts the donors and the backend, and waits until all of them serve. */
void site_start(struct site *s, const struct site_config *cfg);
/* Ends all with SIGTERM, which also shows that they can still end in order. */
void site_end(struct site *s);

void site_donor_start(struct site *s, unsigned i);
void site_donor_kill(struct site *s, unsigned i);
void site_donor_stop(struct site *s, unsigned i);
void site_donor_continue(struct site *s, unsigned i);
/* What the donor reads as its machine's free memory: plenty or nothing. */
void site_donor_pressure(struct site *s, unsigned i, bool pressed);
void site_backend_start(struct site *s);
void site_backend_kill(struct site *s);

/* JSON of a daemon's HTTP, to be freed with json_decref(). NULL: no answer within two seconds. */
json_t *http_json(const char *socket, const char *path);
/* A sample of /metrics by its full name with labels; all samples that start so are added. -1: no
 * answer. */
double http_metric(const char *socket, const char *sample);

/* A number of /v1/status, -1: no answer. lanes: summed over the lanes. */
int64_t site_status(const struct site *s, const char *key);
int64_t site_lanes(const struct site *s, const char *key);
/* A number of one donor's row of /v1/donors. -1: no answer. */
int64_t site_donor_row(const struct site *s, unsigned i, const char *key);
bool site_donor_phase_is(const struct site *s, unsigned i, const char *phase);
/* A number of the memory part of the donor's own status, and of its metrics. */
int64_t site_donor_memory(const struct site *s, unsigned i, const char *key);
double site_donor_metric(const struct site *s, unsigned i, const char *sample);

/* All of count donors are up and every lane is connected to them. */
bool site_donors_up(const struct site *s, unsigned count);
/* No segment lacks a copy, and the lanes know of every region that was lost. */
bool site_repaired(const struct site *s);
/* Waits until every donor is up and nothing lacks a copy. */
void site_settle(const struct site *s);

#endif
