/* The settings of one disk as JSON, by the schema of the configuration. */
#ifndef FALLOW_BACKEND_DISK_SETTINGS_H
#define FALLOW_BACKEND_DISK_SETTINGS_H

#include <jansson.h>

#include "client-backend/config.h"

/* Keys and values as in the configuration: strings ("2GiB"), numbers or booleans; what is missing
 * has its default. other: keys that are no settings, NULL-terminated. 0, or -EINVAL with one
 * sentence in err. */
int disk_settings_read(const json_t *from, const char *const other[],
	struct fallowd_disk_config *out, char *err, size_t err_bytes);
/* A new object; NULL: no memory. */
json_t *disk_settings_write(const struct fallowd_disk_config *c);

#endif
