/* A list of completed ops, as each transport's poll() and disconnect() keep one. */
#ifndef FALLOW_TRANSPORT_DONE_LIST_H
#define FALLOW_TRANSPORT_DONE_LIST_H

#include "lib/transport/transport.h"

/* Takes the ops of one connection (priv[0]) off the list, in their order; *last is where the next
 * is put. */
static inline struct transport_op *transport_ops_extract(
	struct transport_op **first, struct transport_op ***last, const void *conn)
{
	struct transport_op *mine = NULL, **mine_last = &mine, **p = first;

	while (*p) {
		struct transport_op *op = *p;

		if (op->priv[0] != (uintptr_t)conn) {
			p = &op->next;
			continue;
		}
		*p = op->next;
		op->next = NULL;
		*mine_last = op;
		mine_last = &op->next;
	}
	*last = p;
	return mine;
}

#endif
