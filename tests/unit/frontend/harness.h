/* A backend in this process: control thread, lanes and fake engines behind a real socket. */
#ifndef FALLOW_TEST_FRONTEND_HARNESS_H
#define FALLOW_TEST_FRONTEND_HARNESS_H

#include "client-backend/frontend/socket_server.h"

#define HARNESS_MAX_LANES 4u

struct harness;

struct harness_options {
	unsigned lanes, slots, max_sessions;
	unsigned max_sessions_per_client, max_pools; /* 0: as many as there may be */
	unsigned late_one_in;
	uint64_t max_pages;					 /* per lane; 0: no limit */
	uint32_t grace_ms, hello_timeout_ms, request_timeout_ms; /* 0: 60 s, 10 s, 30 s */
	uint64_t seed;
	bool always_poll; /* lanes never sleep */
};

/* Makes the engines and a directory for the socket. */
struct harness *harness_new(const struct harness_options *o);
/* Runs the backend; what the engines hold is adopted. Returns what socket_server_new() said. */
int harness_start(struct harness *h);
/* Ends the threads; clients lose their sessions, the engines keep their pages. */
void harness_stop(struct harness *h);
void harness_delete(struct harness *h);
const char *harness_path(const struct harness *h);
struct engine *harness_engine(struct harness *h, unsigned lane);
/* While running: copies, made on the control thread. */
void harness_stats(
	struct harness *h, struct socket_server_stats *server, struct pools_stats *pools);
/* A counter of all lanes: one of struct socket_lane_stats by offset. Any time. */
uint64_t harness_lane_sum(struct harness *h, size_t offset);
/* Changes whom client_identity() sees: added to the uid. */
void harness_set_uid_offset(struct harness *h, unsigned offset);
/* From now on the lanes do nothing (as if stopped), or go on. */
void harness_freeze(struct harness *h, bool frozen);

#endif
