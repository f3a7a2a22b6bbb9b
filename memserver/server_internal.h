/* What the files of the memory server's daemon share; for nobody else. */
#ifndef FALLOW_MEMSERVER_SERVER_INTERNAL_H
#define FALLOW_MEMSERVER_SERVER_INTERNAL_H

#include <sys/queue.h>

#include "lib/control/session.h"
#include "lib/core/env.h"
#include "lib/http/http.h"
#include "lib/transport/server.h"
#include "memserver/lease.h"
#include "memserver/memory.h"
#include "memserver/pressure.h"
#include "memserver/server.h"

/* A control session, here and in the book. */
struct peer {
	struct memserver *server;
	struct control_session *control;
	struct lease_session *lease;
};

struct memserver {
	struct memserver_config cfg;
	struct event_base *base;
	char name[CONTROL_NAME_BYTES];
	uint64_t boot_id;
	uint64_t start_ns;
	uint64_t total_bytes; /* MemTotal at the start; what percentages are of */
	struct memory *memory;
	struct transport_server *data;
	struct transport_region **exports; /* by region; NULL: not exported */
	struct lease_book *book;
	struct control_loop *control;
	struct control_listener *listener;
	struct http_server *http;
	uint16_t http_port; /* 0: none */
	struct event *book_timer;
	struct event *data_event; /* NULL: nothing to watch */
	struct pressure pressure;
	struct pressure_sample sample; /* the last one */
	bool sample_failed;	       /* MemAvailable could not be read */
	struct event *pressure_timer;
	int psi_fd, psi_epoll_fd; /* -1: not watched */
	struct event *psi_event;
	struct event *watchdog;
	bool leaving; /* the loop ends when nothing is leased */
};

/* server.c: after anything that changed the book: the next tick, and the end when leaving. */
void memserver_book_settle(struct memserver *s);

/* server_ops.c: what the book calls; ctx is struct memserver. */
extern const struct lease_ops memserver_lease_ops;

/* server_pressure.c */
int memserver_pressure_start(struct memserver *s, char *err, size_t err_bytes);
void memserver_pressure_stop(struct memserver *s);
/* Limits from the configuration. */
void memserver_pressure_limits(
	const struct memserver *s, const struct memserver_config *cfg, struct pressure_config *out);
void memserver_pressure_look(struct memserver *s);
/* The server is awake anyway: a look that is nearly due needs no wake-up of its own. */
void memserver_pressure_awake(struct memserver *s);
/* Bytes of an amount on this machine, rounded down to whole regions. */
uint64_t memserver_amount_bytes(const struct memserver *s, const struct config_amount *a);

/* server_http.c */
extern const struct http_route memserver_routes[];

#endif
