/* The kinds of images, for image_open(). */
#ifndef FALLOW_IMAGE_IMPL_H
#define FALLOW_IMAGE_IMPL_H

#include "client-backend/image/image.h"

/* As image_open(). */
int image_nbd_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes);
int image_file_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes);

/*
 * Any thread; blocks for a second at most. Takes an open file for this process alone, or, read
 * only, for readers alone, until its last descriptor is closed and the kernel has ended what was
 * started through it: so a write of a killed process never comes after one of the next. In the way
 * of QEMU, which respects it and is respected. -EBUSY, with whoever has it open in err.
 */
int image_lock(int fd, const char *path, bool readonly, char *err, size_t err_bytes);

#endif
