/* Which connections one transport has alive to each donor: what a new connection says of the others. */
#ifndef FALLOW_TRANSPORT_HELLO_H
#define FALLOW_TRANSPORT_HELLO_H

#include <pthread.h>

#include "lib/transport/tcp_wire.h"

struct hello_ticket {
	uint64_t token[2];
	uint32_t sequence;
	uint8_t slot;
	bool held;
	struct hello_ticket *next;
};

/* Used by the control thread (connect) and the lane (disconnect), never on the data path. */
struct hello_book {
	pthread_mutex_t lock;
	uint32_t instance, sequence;
	struct hello_ticket *tickets;
};

int hello_book_init(struct hello_book *b);
void hello_book_fini(struct hello_book *b);
/* -EUSERS: TRANSPORT_HELLO_SLOTS connections with this token are alive. The ticket is the caller's. */
int hello_ticket_take(struct hello_book *b, struct hello_ticket *t, const uint64_t token[2]);
/* More than once does no harm. */
void hello_ticket_drop(struct hello_book *b, struct hello_ticket *t);
/* What to say now. */
void hello_ticket_fill(struct hello_book *b, const struct hello_ticket *t, struct transport_hello *h);

#endif
