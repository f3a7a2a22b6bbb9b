/* What a backend keeps on disk across restarts and reboots: who it is to donors, and used pool ids.
 */
#ifndef FALLOW_BACKEND_IDENTITY_H
#define FALLOW_BACKEND_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

struct identity {
	uint8_t id[16], secret[16];
};

/*
 * Loads DIR/identity, or makes it (mode 0600, directory too) by getrandom(2). May block; at start
 * only. 0 or a negative errno with one sentence in err; -EBADMSG the file is damaged.
 */
int identity_load(const char *dir, struct identity *out, char *err, size_t err_bytes);

/* DIR/pool-ids: the first pool id that was never used; 1 when there is no such file. */
int identity_pool_ids_load(const char *dir, uint32_t *next_id, char *err, size_t err_bytes);
/* Durable on return (fsync). */
int identity_pool_ids_store(const char *dir, uint32_t next_id);

#endif
