/* The memory server around its lease book: sockets, timers, pressure, data ports, HTTP. */
#ifndef FALLOW_MEMSERVER_SERVER_H
#define FALLOW_MEMSERVER_SERVER_H

#include <event2/event.h>

#include "memserver/config.h"

/* All functions are for the thread that runs base. */
struct memserver;

/* Listens on everything; one sentence in err on failure. cfg is copied. */
int memserver_new(const struct memserver_config *cfg, struct event_base *base,
	struct memserver **out, char *err, size_t err_bytes);
/* Ends everything at once. NULL is allowed. */
void memserver_delete(struct memserver *s);
/* Asks for every region back; the event loop is ended when none is leased any more, within
 * drain_ns. */
void memserver_leave(struct memserver *s);
/* Takes over what can change at run time; warns of what cannot. -EINVAL with a sentence in err:
 * nothing changed. */
int memserver_reload(
	struct memserver *s, const struct memserver_config *cfg, char *err, size_t err_bytes);

#endif
