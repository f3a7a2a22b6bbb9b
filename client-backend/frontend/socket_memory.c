/* What a session shares with its client: the sealed memory, the doorbells, and the lanes' ends of
 * them. */
#include "client-backend/frontend/socket_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static int memory_map(struct socket_memory *m)
{
	m->memfd = memfd_create("fallow-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->memfd < 0)
		return -errno;
	/* fallocate() so that the pages are there before a lane needs them. */
	if (ftruncate(m->memfd, (off_t)m->len_bytes) < 0 ||
		fcntl(m->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	if (fallocate(m->memfd, 0, 0, (off_t)m->len_bytes) < 0)
		return -errno;
	void *base = mmap(
		NULL, m->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, m->memfd, 0);
	if (base == MAP_FAILED)
		return -errno;
	m->base = base;
	return 0;
}

static int lane_init(struct socket_memory *m, unsigned lane, int violation_fd)
{
	m->doorbell[lane] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->doorbell[lane] < 0)
		return -errno;
	struct socket_attachment_config cfg = {
		.memory = (struct socket_lane_memory *)((char *)m->base +
							lane * socket_lane_bytes(m->slots)),
		.slots = m->slots,
		.doorbell_fd = m->doorbell[lane],
		.violation_fd = violation_fd,
		.grants = m->grants,
	};
	return socket_attachment_new(&cfg, &m->attachment[lane]);
}

int socket_memory_init(struct socket_memory *m, unsigned lanes, unsigned slots, int violation_fd)
{
	memset(m, 0, sizeof(*m));
	m->memfd = -1;
	for (unsigned i = 0; i < SOCKET_MAX_LANES; i++)
		m->doorbell[i] = -1;
	m->lanes = lanes;
	m->slots = slots;
	m->len_bytes = lanes * socket_lane_bytes(slots);
	m->grants = calloc(1, sizeof(*m->grants));
	int err = m->grants ? memory_map(m) : -ENOMEM;
	for (unsigned i = 0; !err && i < lanes; i++)
		err = lane_init(m, i, violation_fd);
	if (err)
		socket_memory_fini(m);
	return err;
}

void socket_memory_fini(struct socket_memory *m)
{
	for (unsigned i = 0; i < m->lanes; i++) {
		socket_attachment_delete(m->attachment[i]);
		if (m->doorbell[i] >= 0)
			close(m->doorbell[i]);
	}
	if (m->base)
		munmap(m->base, m->len_bytes);
	if (m->memfd >= 0)
		close(m->memfd);
	free(m->grants);
	memset(m, 0, sizeof(*m));
	m->memfd = -1;
}
