/* A block device in memory behind the seam of vhost_device.h, whose completions a test can hold. */
#include "tests/unit/vhost/ramdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES ((uint64_t)RAMDISK_SECTOR * RAMDISK_SECTORS)

void ramdisk_init(struct ramdisk *d, unsigned lanes, unsigned queues)
{
	memset(d, 0, sizeof(*d));
	d->data = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->data == MAP_FAILED)
		abort();
	pthread_mutex_init(&d->lock, NULL);
	d->lanes = lanes;
	d->queues = queues;
}

void ramdisk_restart(struct ramdisk *d)
{
	pthread_mutex_init(&d->lock, NULL);
	for (unsigned i = 0; i < RAMDISK_LANES; i++)
		d->lane[i].count = 0;
}

void ramdisk_fini(struct ramdisk *d)
{
	pthread_mutex_destroy(&d->lock);
	munmap(d->data, BYTES);
}

/* Copies between a buffer of ours and the guest's bytes from `offset` on, of one direction. */
static void copy(struct vhost_request *r, bool in, uint64_t offset, uint8_t *own, uint64_t len)
{
	const struct vhost_buffer *b = r->buffer + (in ? r->out_count : 0);

	for (unsigned n = in ? r->in_count : r->out_count; n && len; n--, b++) {
		if (offset >= b->len) {
			offset -= b->len;
			continue;
		}
		uint64_t part = b->len - offset < len ? b->len - offset : len;
		if (in)
			memcpy(b->base + offset, own, part);
		else
			memcpy(own, b->base + offset, part);
		own += part;
		len -= part;
		offset = 0;
	}
}

static uint8_t execute(struct ramdisk *d, struct vhost_request *r, const struct ramdisk_header *h)
{
	uint64_t in = r->in_bytes - 1, out = r->out_bytes - sizeof(*h);
	uint64_t bytes = h->type == RAMDISK_IN ? in : out;
	uint64_t at = h->sector * RAMDISK_SECTOR;
	char id[20] = "ramdisk";

	switch (h->type) {
	case RAMDISK_IN:
	case RAMDISK_OUT:
		if (h->sector > RAMDISK_SECTORS || bytes % RAMDISK_SECTOR || bytes > BYTES - at)
			return RAMDISK_IOERR;
		copy(r, h->type == RAMDISK_IN, h->type == RAMDISK_IN ? 0 : sizeof(*h), d->data + at,
			bytes);
		return RAMDISK_OK;
	case RAMDISK_FLUSH:
		return RAMDISK_OK;
	case RAMDISK_GET_ID:
		copy(r, true, 0, (uint8_t *)id, in < sizeof(id) ? in : sizeof(id));
		return RAMDISK_OK;
	default:
		return RAMDISK_UNSUPP;
	}
}

static void complete(struct ramdisk *d, struct vhost_request *r)
{
	struct ramdisk_header h;

	if (r->in_bytes < 1 || r->out_bytes < sizeof(h)) {
		vhost_request_done(r, 0);
		return;
	}
	copy(r, false, 0, (uint8_t *)&h, sizeof(h));
	pthread_mutex_lock(&d->lock);
	uint8_t status = execute(d, r, &h);
	pthread_mutex_unlock(&d->lock);
	copy(r, true, r->in_bytes - 1, &status, 1);
	atomic_fetch_add(&d->executed, 1);
	vhost_request_done(r, r->in_bytes);
}

unsigned ramdisk_poll(struct ramdisk *d, unsigned lane)
{
	unsigned n = 0, count = d->lane[lane].count;

	if (atomic_load(&d->hold))
		return 0;
	for (; count && n < 3; n++) {
		unsigned i = (unsigned)rand_r(&d->lane[lane].rng) % count;
		struct vhost_request *r = d->lane[lane].pending[i];

		d->lane[lane].pending[i] = d->lane[lane].pending[--count];
		d->lane[lane].count = count;
		complete(d, r);
	}
	return n;
}

static uint64_t features(void *dev)
{
	return 1u << 2 /* seg_max */ | 1u << 6 /* blk_size */ | 1u << 9 /* flush */ |
	       1u << 12 /* mq */;
}

static void put(uint8_t *at, uint64_t value, unsigned bytes)
{
	memcpy(at, &value, bytes);
}

static uint32_t config(void *dev, uint8_t out[VHOST_CONFIG_BYTES])
{
	struct ramdisk *d = dev;

	put(out + 0, RAMDISK_SECTORS, 8);
	put(out + 12, 128, 4);		  /* seg_max */
	put(out + 20, RAMDISK_SECTOR, 4); /* blk_size */
	put(out + 34, d->queues, 2);
	return 60;
}

static int config_set(void *dev, uint32_t offset, const uint8_t *data, uint32_t len)
{
	return -EINVAL;
}

static void features_set(void *dev, uint64_t value)
{
	atomic_store(&((struct ramdisk *)dev)->features, value);
}

static void submit(void *dev, unsigned lane, struct vhost_request *r)
{
	struct ramdisk *d = dev;

	if (d->defer || atomic_load(&d->hold))
		d->lane[lane].pending[d->lane[lane].count++] = r;
	else
		complete(d, r);
}

const struct vhost_device_ops ramdisk_ops = {
	.features = features,
	.config = config,
	.config_set = config_set,
	.features_set = features_set,
	.submit = submit,
};
