/* Registers a guest's memory with the network card, so that pages can be read straight into it. */
#include "client-backend/frontend/vhost_pin.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/core/log.h"

struct vhost_pin {
	const struct transport_ops *ops;
	struct transport_memory *memory;
	size_t len;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t bytes;
	char name[64];
};

static void failed(const struct vhost_pin *p, int err)
{
	log_warn("vhost",
		"device %s: %llu of %llu MiB of guest memory could be registered for RDMA, the "
		"rest is "
		"read through buffers: %s%s",
		p->name, (unsigned long long)(atomic_load(&p->bytes) >> 20),
		(unsigned long long)(p->len >> 20), strerror(-err),
		err == -ENOMEM ? "; raise the limit on locked memory (LimitMEMLOCK=, ulimit -l) "
				 "above the memory of all pinned guests and this program's"
			       : "");
}

static void *pin_run(void *arg)
{
	struct vhost_pin *p = arg;
	int r = 1;

	while (r > 0 && !atomic_load(&p->stop)) {
		uint64_t next = atomic_load(&p->bytes) + TRANSPORT_MEMORY_PIECE_BYTES;

		r = p->ops->memory_register(p->memory);
		if (r >= 0)
			atomic_store(&p->bytes, r ? next : p->len);
	}
	if (r < 0)
		failed(p, r);
	return NULL;
}

int vhost_pin_new(const struct vhost_pinner *who, void *base, size_t len, struct vhost_pin **out)
{
	struct vhost_pin *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->ops = who->ops;
	p->len = len;
	snprintf(p->name, sizeof(p->name), "%s", who->name);
	int r = p->ops->memory_new(who->t, base, len, &p->memory);
	if (r < 0) {
		free(p);
		return r;
	}
	r = pthread_create(&p->thread, NULL, pin_run, p);
	if (r) {
		p->ops->memory_delete(p->memory);
		free(p);
		return -r;
	}
	pthread_setname_np(p->thread, "guest-pin");
	*out = p;
	return 0;
}

void vhost_pin_delete(struct vhost_pin *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	p->ops->memory_delete(p->memory);
	free(p);
}

const struct transport_memory *vhost_pin_memory(const struct vhost_pin *p)
{
	return p->memory;
}

uint64_t vhost_pin_bytes(const struct vhost_pin *p)
{
	return atomic_load((_Atomic uint64_t *)&p->bytes);
}
