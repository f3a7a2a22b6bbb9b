/* The seam between the vhost-user rings and the devices behind them. */
#ifndef FALLOW_VHOST_DEVICE_H
#define FALLOW_VHOST_DEVICE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Rings (vhost_*) know vhost-user, guest memory and virtqueues, and nothing of disks. A device
 * knows its requests and nothing of rings. One queue of one device belongs to one lane thread while
 * it runs; everything below marked "lane" happens there.
 */
#define VHOST_MAX_BUFFERS   264u  /* of one request, after cutting at the guest's memory regions */
#define VHOST_MAX_QUEUES    16u	  /* of one device */
#define VHOST_MAX_QUEUE_LEN 1024u /* descriptors of one queue */
#define VHOST_CONFIG_BYTES  256u

/* Guest memory as this process sees it. The guest may change its bytes at any time: what is
 * validated must have been copied first. */
struct vhost_buffer {
	uint8_t *base;
	uint32_t len; /* bytes, never 0 */
	uint32_t row; /* vhost_mapping.row of pinned memory; 0: the card must not write there */
};

/*
 * One descriptor chain, already checked: every buffer lies in guest memory, and what the device
 * reads comes before what it writes. The queue owns it; the device holds it from submit() until
 * vhost_request_done(). The guest memory under it stays mapped as long.
 */
struct vhost_request {
	uint32_t out_bytes, in_bytes; /* the guest's: to be read by us; to be written by us */
	uint16_t out_count, in_count; /* buffers: first those of out, then those of in */
	struct vhost_buffer buffer[VHOST_MAX_BUFFERS];
	uint64_t dev_priv[11]; /* the device's own, as it likes */
};

/* lane. Gives the chain back to the guest; written: bytes of the in buffers that were set, from
 * their beginning to the last one written. The guest is notified at the end of the lane's round. */
void vhost_request_done(struct vhost_request *r, uint32_t written);

struct vhost_device_ops {
	/* Control thread. Device feature bits (of bits 0..23) offered beside the transport's own.
	 */
	uint64_t (*features)(void *dev);
	/* Control thread. The configuration space as it is now; returns its length in bytes. */
	uint32_t (*config)(void *dev, uint8_t out[VHOST_CONFIG_BYTES]);
	/* Control thread. The driver wrote to it. 0, -EINVAL refused; NULL: nothing may be written.
	 */
	int (*config_set)(void *dev, uint32_t offset, const uint8_t *data, uint32_t len);
	/* Control thread, before the first queue runs: what was agreed on with this front end. */
	void (*features_set)(void *dev, uint64_t features);
	/*
	 * lane. Starts a request. Never blocks, never allocates. Ends with exactly one
	 * vhost_request_done(), from inside this call or later on the same lane, within the limits
	 * of the engine's put_wait and get_timeout. What is wrong in it is the device's to answer,
	 * in the way of its kind.
	 */
	void (*submit)(void *dev, unsigned lane, struct vhost_request *r);
	/* lane. After the requests of one round were submitted: start what they need. */
	void (*kick)(void *dev, unsigned lane);
};

#endif
