/* Clients, sessions and regions of the memory server, shared by its control thread and data
 * threads. */
#ifndef FALLOW_TRANSPORT_SERVER_TABLE_H
#define FALLOW_TRANSPORT_SERVER_TABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/transport/tcp_wire.h"

#define SERVER_REGION_BUCKETS 4096u

struct ibv_pd;
struct ibv_mr;
struct server_session;

/*
 * region: everything but refs and dead is fixed before it is put into the table. A data thread may
 * touch the memory only between server_io_begin() and server_io_end() and after it has seen dead
 * false there.
 */
struct transport_region {
	_Atomic uint32_t refs; /* the table's one, and one for each request that names it */
	atomic_bool dead;
	struct server_client *client; /* valid while in the table */
	uint64_t client_id;
	uint64_t key;
	uint8_t *base;
	size_t len;
	struct ibv_mr *mr;		      /* control thread */
	struct transport_region *hash_next;   /* table lock */
	struct transport_region *client_next; /* control thread */
};

/* A connection as the table sees it, embedded in the transports' own. */
struct server_conn {
	atomic_bool dead;		/* set by anyone: nothing more may be done for this peer */
	_Atomic int32_t why;		/* enum server_conn_end, written before dead */
	struct server_session *session; /* table lock; NULL: not authenticated or session is gone */
	uint64_t client_id;		/* fixed once authenticated */
	uint32_t instance, sequence;
	uint8_t slot;
	uint8_t kind;			  /* enum server_conn_kind */
	struct server_conn *session_next; /* table lock */
};

enum server_conn_kind { SERVER_CONN_TCP, SERVER_CONN_VERBS, SERVER_CONN_KINDS };
enum server_conn_end { SERVER_END_NONE, SERVER_END_SESSION };

struct server_session {
	uint64_t token[2];
	struct server_client *client;
	struct server_conn *conns;
	struct server_session *next;
};

struct server_client {
	uint64_t id;
	struct ibv_pd *pd; /* control thread; NULL without verbs */
	uint32_t conns[SERVER_CONN_KINDS];
	struct server_session
		*sessions; /* table lock for writing, control thread may read without */
	struct transport_region *regions; /* control thread */
	struct server_client *next;
};

/* A data thread announces each system call that may touch a region's memory or act for a
 * connection. */
struct server_io {
	_Atomic uint64_t sequence; /* odd: in such a call */
};

struct server_table {
	pthread_rwlock_t lock;
	struct server_client *clients;
	struct transport_region *bucket[SERVER_REGION_BUCKETS];
	uint32_t max_conns_per_client;
	struct server_io **io; /* one for each data thread, fixed after the start */
	unsigned ios;
};

int server_table_init(struct server_table *t, uint32_t max_conns_per_client);
void server_table_fini(struct server_table *t);

/* Data threads. begin is followed by looking at dead of the connection and the regions concerned.
 */
static inline void server_io_begin(struct server_io *io)
{
	atomic_fetch_add(&io->sequence, 1);
}

static inline void server_io_end(struct server_io *io)
{
	atomic_fetch_add_explicit(&io->sequence, 1, memory_order_release);
}

/* Waits until every call that was under way in the data threads has ended. Never called inside one.
 */
void server_table_wait_io(struct server_table *t);

/* Control thread. */
struct server_client *server_client_find(struct server_table *t, uint64_t id);
int server_client_add(struct server_table *t, uint64_t id, struct server_client **out);
void server_client_delete(
	struct server_table *t, struct server_client *c); /* has no session or region */
int server_session_add(struct server_table *t, struct server_client *c, const uint64_t token[2]);
/* Returns false when there is no such token. Its connections are dead on return. */
bool server_session_remove(struct server_table *t, const uint64_t token[2]);
int server_region_add(struct server_table *t, struct server_client *c, void *base, size_t len,
	struct ibv_mr *mr, struct transport_region **out);
/* From the return no data thread touches the memory. The table's reference stays with the caller.
 */
void server_region_revoke(struct server_table *t, struct transport_region *r);

/* Data threads. A region of the key with a reference taken, or NULL. *other: it is another
 * client's. */
struct transport_region *server_region_get(
	struct server_table *t, uint64_t key, uint64_t client_id, bool *other);
void server_region_put(struct transport_region *r);

/* Any thread. 0; -EACCES unknown token; -EUSERS too many connections. Ends what the new one
 * replaces. */
int server_conn_login(struct server_table *t, struct server_conn *c, enum server_conn_kind kind,
	const struct transport_hello *h, struct server_client **client);
/* Before c is freed; whether it logged in or not. */
void server_conn_logout(struct server_table *t, struct server_conn *c);

#endif
