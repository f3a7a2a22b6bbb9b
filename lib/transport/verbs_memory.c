/* Memory that is not ours, registered with the card in pieces so that READs can go straight there.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/transport/verbs_client.h"

/*
 * The card may write there on our behalf and nothing else: nobody else gets a key of it. Pieces are
 * registered one after the other, by whoever has the time; lanes look whether theirs is there. A
 * mapping of a file (which guests' memory is) is shared with a child, not copied on write, so a
 * fork() would do no harm.
 */
struct transport_memory {
	struct verbs_domain *domain;
	uint8_t *base;
	size_t len;
	size_t pieces, done; /* done: whoever registers */
	_Atomic(struct ibv_mr *) piece[];
};

int verbs_memory_new(
	struct transport *transport, void *base, size_t len, struct transport_memory **out)
{
	struct verbs_transport *t = (struct verbs_transport *)transport;
	size_t pieces = (len + TRANSPORT_MEMORY_PIECE_BYTES - 1) / TRANSPORT_MEMORY_PIECE_BYTES;

	if (!len || (uintptr_t)base % (size_t)sysconf(_SC_PAGESIZE))
		return -EINVAL;
	struct transport_memory *m = calloc(1, sizeof *m + pieces * sizeof m->piece[0]);
	if (!m)
		return -ENOMEM;
	m->base = base;
	m->len = len;
	m->pieces = pieces;
	int err = verbs_domain_get(t->device, &m->domain);
	if (err) {
		free(m);
		return err;
	}
	*out = m;
	return 0;
}

int verbs_memory_register(struct transport_memory *m)
{
	size_t at = m->done * TRANSPORT_MEMORY_PIECE_BYTES;

	if (m->done == m->pieces)
		return 0;
	size_t len = m->len - at < TRANSPORT_MEMORY_PIECE_BYTES ? m->len - at
								: TRANSPORT_MEMORY_PIECE_BYTES;
	errno = ENOMEM;
	struct ibv_mr *mr = ibv_reg_mr(m->domain->pd, m->base + at, len, IBV_ACCESS_LOCAL_WRITE);
	if (!mr)
		return -errno;
	atomic_store_explicit(&m->piece[m->done++], mr, memory_order_release);
	return m->done < m->pieces;
}

void verbs_memory_delete(struct transport_memory *m)
{
	for (size_t i = 0; i < m->done; i++)
		ibv_dereg_mr(atomic_load_explicit(&m->piece[i], memory_order_relaxed));
	verbs_domain_put(m->domain);
	free(m);
}

bool verbs_memory_key(
	const struct transport_memory *m, const void *buf, uint32_t len, uint32_t *lkey)
{
	size_t at = (size_t)((uintptr_t)buf - (uintptr_t)m->base);
	size_t piece = at / TRANSPORT_MEMORY_PIECE_BYTES;

	if (at >= m->len || len > m->len - at ||
		(at + len - 1) / TRANSPORT_MEMORY_PIECE_BYTES != piece)
		return false;
	struct ibv_mr *mr = atomic_load_explicit(
		(_Atomic(struct ibv_mr *) *)&m->piece[piece], memory_order_acquire);
	if (mr)
		*lkey = mr->lkey;
	return mr;
}
