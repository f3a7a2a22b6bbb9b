/* One data connection of the memory server over tcp: requests in, answers out, never waiting. */
#ifndef FALLOW_TRANSPORT_TCP_SERVER_CONN_H
#define FALLOW_TRANSPORT_TCP_SERVER_CONN_H

#include "lib/transport/server.h"
#include "lib/transport/server_table.h"

#define TCP_CONN_ANSWERS  16u	       /* answers collected for one send */
#define TCP_CONN_IN_BYTES 1024u	       /* requests read ahead */
#define TCP_CONN_TURN	  (256u << 10) /* bytes a connection may move before others have their turn */

struct tcp_answer {
	uint8_t head[TCP_RESPONSE_BYTES];
	struct transport_region *region; /* of a READ with a reference; NULL: no payload */
	uint8_t *data;
	uint32_t len;
};

/* Everything belongs to the connection's data thread but `base`, see there. */
struct tcp_server_conn {
	struct server_conn base;
	int fd;
	bool authenticated, closing; /* closing: after the answers went out */
	bool want_out;		     /* answers wait for room in the socket; nothing is read */
	bool busy;		     /* in the middle of something: the stall limit runs */
	bool more;		     /* had its turn, has more to do */
	uint64_t progress_ns;	     /* when it last moved a byte, or was accepted */
	uint8_t in[TCP_CONN_IN_BYTES];
	uint32_t in_pos, in_len;
	struct {
		bool active;
		struct transport_region *region; /* NULL: payload is thrown away */
		uint8_t *data;
		uint64_t cookie;
		uint32_t len, got, status;
	} write;
	struct tcp_answer answer[TCP_CONN_ANSWERS];
	uint32_t first, answers;
	size_t sent;			     /* bytes of the first answer */
	struct tcp_server_conn *prev, *next; /* the thread's list */
	uint32_t events;		     /* as registered with epoll */
};

/* What a connection needs from its thread. */
struct tcp_server_ctx {
	struct server_table *table;
	struct server_io *io;
	struct transport_server_stats *stats; /* written by this thread only */
	void (*killed)(void *arg); /* a login ended other connections: their threads must look */
	void *arg;
	uint8_t *drain; /* TCP_CONN_TURN bytes to throw away into */
};

void tcp_server_conn_init(struct tcp_server_conn *c, int fd, uint64_t now_ns);
/* Lets go of regions and the session and closes the socket. */
void tcp_server_conn_fini(struct tcp_server_conn *c, struct tcp_server_ctx *ctx);
/*
 * One turn: reads, carries out, answers, until nothing is left or the turn is over (c->more).
 * False: close it (counted already).
 */
bool tcp_server_conn_run(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, uint64_t now_ns);
/* False: it is over the limit for a handshake or a stall, or was ended by someone else (counted).
 */
bool tcp_server_conn_check(struct tcp_server_conn *c, struct tcp_server_ctx *ctx, uint64_t now_ns,
	uint64_t handshake_ns, uint64_t stall_ns);

#endif
