/* The memory server's tcp listener and data threads. */
#ifndef FALLOW_TRANSPORT_TCP_SERVER_H
#define FALLOW_TRANSPORT_TCP_SERVER_H

#include "lib/transport/server.h"
#include "lib/transport/server_table.h"

struct tcp_server;

/* Listens and starts the threads; they enter themselves into table->io. Control thread, as all
 * here. */
int tcp_server_start(const struct transport_server_config *cfg, struct server_table *table,
	struct tcp_server **out, char *err, size_t err_bytes);
void tcp_server_stop(struct tcp_server *s);
uint16_t tcp_server_port(const struct tcp_server *s);
/* The threads look for connections that the table ended. Any thread. */
void tcp_server_wake(struct tcp_server *s);
/* Adds the threads' counters to *out. Any thread. */
void tcp_server_stats_add(const struct tcp_server *s, struct transport_server_stats *out);

#endif
