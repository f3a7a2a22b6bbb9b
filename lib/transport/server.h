/* The memory server's end of the transports: which memory a client may reach, and who is a client.
 */
#ifndef FALLOW_TRANSPORT_SERVER_H
#define FALLOW_TRANSPORT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/core/stats.h"

/*
 * One object serves both transports. All functions are for one thread (the daemon's control thread)
 * unless stated, and never wait for a peer. Data moves in the object's own threads (tcp) or in the
 * network card alone (verbs).
 */
struct transport_server;
struct transport_region; /* an exported region; owned by the server until unexported */

struct transport_server_config {
	const char *host;	  /* numeric address to listen on, for example "0.0.0.0" or "::" */
	bool tcp;		  /* offer tcp */
	uint16_t tcp_port;	  /* 0: any free one */
	uint32_t tcp_threads;	  /* data threads, 1..64 */
	bool verbs;		  /* offer verbs when there is a device; none is not an error */
	uint16_t verbs_port;	  /* 0: any free one */
	const char *verbs_device; /* NULL: any */
	uint32_t max_conns;	  /* tcp connections at a time, those not yet authenticated too */
	uint32_t
		max_conns_per_client; /* data connections of one client at a time, each transport */
	uint32_t handshake_ms; /* a connection that has not shown a token by then is closed */
	uint32_t stall_ms;     /* a request or an answer that makes no progress for so long
				* closes its connection */
};

/* Both transports on any port of host, 2 threads, 4096 and 256 connections, 5 s, 10 s. */
void transport_server_config_default(struct transport_server_config *cfg, const char *host);

/*
 * Listens and starts the threads. *out is the caller's, to be ended by transport_server_stop().
 * -EINVAL, -EADDRINUSE, -EADDRNOTAVAIL, -ENOMEM and others from the socket calls, with one sentence
 * in err. verbs without a device: starts without it (transport_server_verbs_status tells).
 */
int transport_server_start(const struct transport_server_config *cfg, struct transport_server **out,
	char *err, size_t err_bytes);
/* Breaks every connection, unexports what is left, joins the threads and frees. Memory of regions
 * is the caller's and is not touched after the return. NULL is allowed. */
void transport_server_stop(struct transport_server *s);

/* The ports for HelloAck; 0: not offered. */
uint16_t transport_server_tcp_port(const struct transport_server *s);
uint16_t transport_server_verbs_port(const struct transport_server *s);
/* 0 verbs is offered; -ENODEV no RDMA device here; -EOPNOTSUPP not asked for; other: why it failed.
 */
int transport_server_verbs_status(const struct transport_server *s);

/* For the control loop: when event_fd is readable call progress(), which never blocks. event_fd is
 * -1 when there is nothing to watch (no verbs); progress() may be called at any time. */
int transport_server_event_fd(const struct transport_server *s);
void transport_server_progress(struct transport_server *s);

/*
 * A client is whoever leases; the id is the caller's choice and only compared. Its protection
 * domain lives from client_add to client_remove, across all its sessions. add: -EEXIST, -ENOMEM.
 * remove: its sessions end, its regions are unexported.
 */
int transport_server_client_add(struct transport_server *s, uint64_t client);
void transport_server_client_remove(struct transport_server *s, uint64_t client);

/*
 * A session's token lets its holder open data connections as this client. The token must be random.
 * add: -ENOENT no such client, -EEXIST the token is taken, -EINVAL an all-zero token, -ENOMEM.
 * remove: on return nothing that arrived over a connection of the token is written any more, and
 * its connections are being closed. An unknown token is ignored.
 */
int transport_server_session_add(
	struct transport_server *s, uint64_t client, const uint64_t token[2]);
void transport_server_session_remove(struct transport_server *s, const uint64_t token[2]);

/* What a lease tells its holder. */
struct transport_export {
	struct transport_region *region;
	uint64_t tcp_key;     /* random; addresses start at 0; 0 when tcp is not offered */
	uint32_t verbs_rkey;  /* 0 when verbs is not offered */
	uint64_t verbs_raddr; /* the address of the region's first byte for verbs */
};

/*
 * Lets client read and write len bytes (a multiple of the page size, more than 0) from base (page
 * aligned), which must stay mapped until unexport returned. verbs pins the memory and may take
 * long. -ENOENT no such client, -EINVAL, -ENOMEM, or what registration with the device failed with.
 */
int transport_server_export(struct transport_server *s, uint64_t client, void *base, size_t len,
	struct transport_export *out);
/*
 * On return no thread and no network card reads or writes this memory for a peer, and none will.
 * Waits for copies that are under way in the data threads (each one system call that does not
 * wait), never for a peer. A read whose answer is half sent breaks its connection; a half received
 * write is refused.
 */
void transport_server_unexport(struct transport_server *s, struct transport_region *region);

/* Counters since the start; gauges are marked. */
struct transport_server_stats {
	stat_t accepted;		  /* connections that came in, all transports */
	stat_t connections;		  /* gauge: open now, tcp */
	stat_t verbs_connections;	  /* gauge: open now, verbs */
	stat_t reads, writes;		  /* tcp requests done */
	stat_t bytes_read, bytes_written; /* tcp payload */
	stat_t refused_key;		  /* unknown, revoked or expired region */
	stat_t refused_client;		  /* the region of another client */
	stat_t refused_bounds;		  /* beyond the end of the region */
	stat_t refused_length;	 /* zero, or longer than a refused write is drained for: closed */
	stat_t refused_token;	 /* handshake with an unknown token: closed */
	stat_t refused_limit;	 /* too many connections: closed */
	stat_t closed_garbage;	 /* not our protocol: closed */
	stat_t closed_handshake; /* no token in time */
	stat_t closed_stalled;	 /* no progress in time */
	stat_t closed_revoked;	 /* a region ended in the middle of an answer */
	stat_t closed_session; /* token removed, or a newer connection of the same lane took over */
	stat_t closed_error;   /* socket or device errors */
	stat_t verbs_setup_failed; /* a connection request that the device or its limits refused */
};

/* Adds up the threads' counters into *out. Any thread. */
void transport_server_stats(const struct transport_server *s, struct transport_server_stats *out);

#endif
