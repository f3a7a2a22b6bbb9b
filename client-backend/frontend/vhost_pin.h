/* Registers a guest's memory with the network card, so that pages can be read straight into it. */
#ifndef FALLOW_VHOST_PIN_H
#define FALLOW_VHOST_PIN_H

#include <stddef.h>
#include <stdint.h>

#include "lib/transport/transport.h"

/* Whose card: a transport that has memory_new(). ops NULL: guests' memory is not registered. */
struct vhost_pinner {
	const struct transport_ops *ops;
	struct transport *t;
	const char *name; /* of the device that the memory is registered for, for the log */
};

struct vhost_pin;

/*
 * Control thread. Registering pins every page and takes a while (the kernel allocates what the
 * guest did not touch yet), so a thread of its own does it; what is not registered yet, or cannot
 * be, is read through buffers, and the log says why. base..len stay mapped until
 * vhost_pin_delete(). -ENOMEM, -EAGAIN, -EINVAL.
 */
int vhost_pin_new(const struct vhost_pinner *who, void *base, size_t len, struct vhost_pin **out);
/* Control thread; nothing is being read into it. Waits for the piece that is being registered, and
 * for the kernel to let go. NULL is fine. */
void vhost_pin_delete(struct vhost_pin *p);
/* Any thread. */
const struct transport_memory *vhost_pin_memory(const struct vhost_pin *p);
uint64_t vhost_pin_bytes(const struct vhost_pin *p); /* registered so far */

#endif
