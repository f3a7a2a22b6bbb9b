/* Which connections one transport has alive to each donor: what a new connection says of the
 * others. */
#include "lib/transport/hello.h"

#include <errno.h>
#include <sys/random.h>

int hello_book_init(struct hello_book *b)
{
	memset(b, 0, sizeof *b);
	if (getrandom(&b->instance, sizeof b->instance, 0) != (ssize_t)sizeof b->instance)
		return -EIO;
	return -pthread_mutex_init(&b->lock, NULL);
}

void hello_book_fini(struct hello_book *b)
{
	pthread_mutex_destroy(&b->lock);
}

/* Lock held. */
static uint32_t live_mask(const struct hello_book *b, const uint64_t token[2])
{
	uint32_t mask = 0;
	for (const struct hello_ticket *t = b->tickets; t; t = t->next)
		if (t->token[0] == token[0] && t->token[1] == token[1])
			mask |= 1u << t->slot;
	return mask;
}

int hello_ticket_take(struct hello_book *b, struct hello_ticket *t, const uint64_t token[2])
{
	pthread_mutex_lock(&b->lock);
	unsigned slot = (unsigned)__builtin_ctz(~live_mask(b, token));
	int err = slot < TRANSPORT_HELLO_SLOTS ? 0 : -EUSERS;
	if (!err) {
		t->token[0] = token[0];
		t->token[1] = token[1];
		t->slot = (uint8_t)slot;
		t->sequence = ++b->sequence;
		t->held = true;
		t->next = b->tickets;
		b->tickets = t;
	}
	pthread_mutex_unlock(&b->lock);
	return err;
}

void hello_ticket_drop(struct hello_book *b, struct hello_ticket *t)
{
	pthread_mutex_lock(&b->lock);
	if (t->held) {
		struct hello_ticket **p = &b->tickets;
		while (*p != t)
			p = &(*p)->next;
		*p = t->next;
		t->held = false;
	}
	pthread_mutex_unlock(&b->lock);
}

void hello_ticket_fill(
	struct hello_book *b, const struct hello_ticket *t, struct transport_hello *h)
{
	pthread_mutex_lock(&b->lock);
	h->token[0] = t->token[0];
	h->token[1] = t->token[1];
	h->instance = b->instance;
	h->sequence = t->sequence;
	h->slot = t->slot;
	h->live_mask = live_mask(b, t->token) | 1u << t->slot;
	pthread_mutex_unlock(&b->lock);
}
