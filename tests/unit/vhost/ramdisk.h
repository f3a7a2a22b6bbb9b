/* A block device in memory behind the seam of vhost_device.h, whose completions a test can hold. */
#ifndef FALLOW_TEST_VHOST_RAMDISK_H
#define FALLOW_TEST_VHOST_RAMDISK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "client-backend/frontend/vhost_device.h"

#define RAMDISK_SECTOR	512u
#define RAMDISK_SECTORS 131072u
#define RAMDISK_LANES	4u
#define RAMDISK_IN	0u /* virtio-blk's numbers */
#define RAMDISK_OUT	1u
#define RAMDISK_FLUSH	4u
#define RAMDISK_GET_ID	8u
#define RAMDISK_OK	0u
#define RAMDISK_IOERR	1u
#define RAMDISK_UNSUPP	2u

/* What every request begins with. */
struct ramdisk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct ramdisk {
	uint8_t *data;	      /* shared: survives the process that serves it */
	pthread_mutex_t lock; /* of data: rings of several lanes write to the same sectors */
	unsigned lanes, queues;
	_Atomic bool defer; /* complete later, from ramdisk_poll(), in another order */
	_Atomic bool hold;  /* complete nothing */
	_Atomic uint64_t executed;
	_Atomic uint64_t features; /* as agreed on */
	struct {
		unsigned count, rng;
		struct vhost_request *pending[VHOST_MAX_QUEUES * VHOST_MAX_QUEUE_LEN];
	} lane[RAMDISK_LANES];
};

void ramdisk_init(struct ramdisk *d, unsigned lanes, unsigned queues);
/* In a process that takes over from one that was killed: nothing is pending here yet. */
void ramdisk_restart(struct ramdisk *d);
void ramdisk_fini(struct ramdisk *d);
extern const struct vhost_device_ops ramdisk_ops;
/* On the lane's thread: completes some of what waits. How many. */
unsigned ramdisk_poll(struct ramdisk *d, unsigned lane);

#endif
