/* Finding the RDMA device to use, and the private data of a connection request. */
#include "lib/transport/verbs_device.h"

#include <errno.h>
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
