/* The memory server's verbs listener: accepts queue pairs; the network card does the rest. */
#ifndef FALLOW_TRANSPORT_VERBS_SERVER_H
#define FALLOW_TRANSPORT_VERBS_SERVER_H

#include "lib/transport/server.h"
#include "lib/transport/server_table.h"

struct verbs_server;

/* All for the control thread. -ENODEV: no RDMA device here (or the named one is missing). */
int verbs_server_start(const struct transport_server_config *cfg, struct server_table *table,
	struct verbs_server **out);
/* Every client was removed before. NULL is allowed. */
void verbs_server_stop(struct verbs_server *s);
uint16_t verbs_server_port(const struct verbs_server *s);
int verbs_server_event_fd(const struct verbs_server *s);
/* Handles connection events; never blocks. */
void verbs_server_progress(struct verbs_server *s);
/* Destroys the queue pairs of connections that the table has ended. */
void verbs_server_reap(struct verbs_server *s);

int verbs_server_pd_new(struct verbs_server *s, struct ibv_pd **out);
void verbs_server_pd_delete(struct ibv_pd *pd);
int verbs_server_mr_new(
	struct ibv_pd *pd, void *base, size_t len, struct ibv_mr **out, uint32_t *rkey);
/* On return the card no longer reaches the memory; breaks the client's connections if it must. */
void verbs_server_mr_delete(struct verbs_server *s, uint64_t client, struct ibv_mr *mr);
void verbs_server_stats_add(const struct verbs_server *s, struct transport_server_stats *out);

#endif
