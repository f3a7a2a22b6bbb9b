/* Finding the RDMA device to use, and the protection domain that its transports share. */
#include "lib/transport/verbs_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <rdma/rdma_cma.h>

int verbs_device_find(const char *name, struct ibv_context **out)
{
	int count = 0, err = -ENODEV;
	struct ibv_context **list = rdma_get_devices(&count);
	if (!list)
		return -ENODEV;
	for (int i = 0; i < count && err; i++) {
		if (name && strcmp(ibv_get_device_name(list[i]->device), name) != 0)
			continue;
		*out = list[i];
		err = 0;
	}
	rdma_free_devices(list);
	return err;
}

/* Few devices, opened and closed at the start and the end: a list will do. */
static struct verbs_domain *domains;
static pthread_mutex_t domains_lock = PTHREAD_MUTEX_INITIALIZER;

int verbs_domain_get(struct ibv_context *device, struct verbs_domain **out)
{
	int err = 0;

	pthread_mutex_lock(&domains_lock);
	struct verbs_domain *d = domains;
	while (d && d->pd->context != device)
		d = d->next;
	if (!d) {
		errno = ENOMEM;
		d = calloc(1, sizeof *d);
		if (!d || !(d->pd = ibv_alloc_pd(device))) {
			err = -errno;
			free(d);
		} else {
			d->next = domains;
			domains = d;
		}
	}
	if (!err) {
		d->users++;
		*out = d;
	}
	pthread_mutex_unlock(&domains_lock);
	return err;
}

void verbs_domain_put(struct verbs_domain *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&domains_lock);
	if (--d->users == 0) {
		struct verbs_domain **at = &domains;

		while (*at != d)
			at = &(*at)->next;
		*at = d->next;
		ibv_dealloc_pd(d->pd);
		free(d);
	}
	pthread_mutex_unlock(&domains_lock);
}
