/* The tcp transport of a lane: what its connecting half and its data half share. */
#ifndef FALLOW_TRANSPORT_TCP_CLIENT_H
#define FALLOW_TRANSPORT_TCP_CLIENT_H

#include <stdatomic.h>

#include "lib/transport/hello.h"
#include "lib/transport/resolve.h"
#include "lib/transport/transport.h"

#define TCP_CLIENT_AREAS    8
#define TCP_CLIENT_DEPTH    4096u
#define TCP_CLIENT_IN_BYTES 768u /* answers read ahead */

struct tcp_slot {
	struct transport_op *op; /* NULL: free */
	uint32_t generation;
	bool sent;
	uint32_t older, newer; /* sent slots in the order they were sent */
	uint8_t head[TCP_REQUEST_BYTES];
};

#define TCP_NO_SLOT UINT32_MAX

enum tcp_conn_state {
	TCP_CONN_RESOLVE,
	TCP_CONN_CONNECT,
	TCP_CONN_HELLO,
	TCP_CONN_READY,
	TCP_CONN_FAILED
};

struct tcp_transport {
	struct hello_book book;
	uint32_t depth;
	/* lane */
	int epoll_fd;
	struct {
		uint8_t *base;
		size_t len;
	} area[TCP_CLIENT_AREAS];
	unsigned areas;
	struct tcp_conn *conns; /* attached */
	unsigned active;	/* connections with ops outstanding */
	unsigned blocked;	/* connections that wait for room in their socket */
	unsigned polls;		/* since the last epoll_wait */
	bool look;		/* epoll_wait at the next poll */
	struct transport_op *done_first, **done_last; /* completed, done() not yet called */
};

struct tcp_conn {
	struct tcp_transport *transport;
	struct hello_ticket ticket;
	int fd;		    /* control until established, then the lane's */
	atomic_bool broken; /* set by the lane, read by both */
	/* control */
	enum tcp_conn_state state;
	int watch_fd; /* an epoll set: what moves establishing on; later the end of the connection
		       */
	int timer_fd, error;
	struct resolve *resolve;
	struct resolve_result addr;
	int next_addr;
	uint8_t hello[TCP_REQUEST_BYTES], answer[TCP_RESPONSE_BYTES];
	uint32_t hello_sent, answer_got;
	/* lane */
	bool attached, want_out;
	struct tcp_conn *prev, *next;
	struct tcp_slot *slot;
	uint32_t *free_slot, free_slots;
	uint32_t *queue, queue_first, queued; /* slots to be sent, a ring of depth */
	size_t head_sent;		      /* bytes of the first queued */
	uint32_t oldest, newest;	      /* sent slots */
	uint32_t outstanding;
	uint32_t cur, cur_got; /* the read whose payload is arriving */
	const uint8_t *stray;  /* answers that were received into the wrong op's buffer */
	uint32_t stray_len;
	uint8_t in[TCP_CLIENT_IN_BYTES];
	uint32_t in_pos, in_len;
};

int tcp_client_connect(
	struct transport *t, const struct transport_peer *peer, struct transport_conn **out);
int tcp_client_conn_fd(struct transport_conn *c);
int tcp_client_conn_progress(struct transport_conn *c);
void tcp_client_destroy(struct transport_conn *c);

#endif
