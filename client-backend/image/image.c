/* Opening an image, whatever it is kept in. */
#include <string.h>

#include "client-backend/image/image_impl.h"

int image_open(const struct image_options *o, struct image **out, char *err, size_t err_bytes)
{
	if (!strncmp(o->where, "nbd", 3) && strstr(o->where, "://"))
		return image_nbd_open(o, out, err, err_bytes);
	return image_file_open(o, out, err, err_bytes);
}
