/* A connection's commands and the room for their data, shared by who reads and answers them
 * (nbd_lane.c) and who has them done (nbd_conn.c). */
#ifndef FALLOW_NBD_CONN_H
#define FALLOW_NBD_CONN_H

#include "client-backend/frontend/nbd_lane.h"
#include "client-backend/frontend/nbd_proto.h"

#define NBD_ROOM_PAGE_BYTES 4096u
#define NBD_ROOM_PAGES	    (NBD_CONN_DATA_BYTES / NBD_ROOM_PAGE_BYTES)
#define NBD_IN_BYTES	    (64u << 10) /* read from the socket at once */

/* A command as it came, in our byte order. */
struct nbd_command_in {
	uint16_t flags, type;
	uint32_t bytes;
	uint64_t cookie, offset;
};

/* A command from its header to its answer. */
struct nbd_request {
	struct blk_range range;
	struct nbd_conn *conn;
	struct nbd_request *next; /* of the unused, or of those to be answered */
	struct vhost_buffer data; /* base NULL: none, what comes is thrown away */
	uint16_t page, pages;	  /* of the room */
	uint32_t missing;	  /* bytes of a write that have not come */
	uint32_t zero_left;	  /* bytes of a trim or write-zeroes after the range */
	uint32_t error;		  /* NBD's, of one that is refused */
	uint32_t answer_bytes;	  /* of data, after the reply */
	struct nbd_wire_reply reply;
};

struct nbd_conn {
	struct blk *blk;
	int fd, over_fd;
	struct nbd_lane *lane;	/* lane: while attached */
	enum nbd_violation why; /* written before `over` */
	_Atomic bool over;	/* lane writes, any reads */
	stat_t requests;	/* lane writes, any reads */

	/* lane */
	void *token;	    /* of the detach */
	bool stopping;	    /* detached, as soon as nothing is under way */
	bool closed;	    /* takes no more commands */
	bool dead;	    /* takes no more answers, either */
	bool readable;	    /* the socket may have something */
	bool unwritable;    /* the socket took no more */
	bool full;	    /* the next command waits for a request or for room */
	bool more;	    /* there may be whole commands in `in` */
	bool submitted;	    /* since the disk was last kicked */
	uint32_t interest;  /* as epoll knows it */
	unsigned in_flight; /* at the disk */
	uint32_t in_at, in_end;
	uint32_t out_sent;	       /* of the first answer */
	struct nbd_request *receiving; /* a write whose data is coming */
	struct nbd_request *unused;
	struct nbd_request *out_first, *out_last; /* to be answered */
	uint8_t *data;				  /* NBD_CONN_DATA_BYTES */
	uint64_t room[NBD_ROOM_PAGES / 64];	  /* a bit for each page that is free */
	struct nbd_request request[NBD_CONN_REQUESTS];
	uint8_t in[NBD_IN_BYTES];
};

/* lane. Takes a request for a command, with room for its data if it has any and is right; NULL:
 * there is none now, and nothing was taken. */
struct nbd_request *nbd_request_take(struct nbd_conn *c, const struct nbd_command_in *in);
/* lane. Has it done, or refuses it; its data is there. May be over when this returns. */
void nbd_request_run(struct nbd_request *r);
/* lane. Its answer was sent, or nobody takes it. */
void nbd_request_free(struct nbd_request *r);

/* nbd_lane.c, lane. */
unsigned nbd_lane_number(const struct nbd_lane *l);
void nbd_lane_progress(struct nbd_lane *l, int change);

#endif
