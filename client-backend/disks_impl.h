/* The inside of the registry of disks, shared by its states (disks.c) and what is kept
 * (disks_kept.c).
 */
#ifndef FALLOW_BACKEND_DISKS_IMPL_H
#define FALLOW_BACKEND_DISKS_IMPL_H

#include "client-backend/disks.h"

/* Of a pool: what follows is the disk's name. */
#define DISKS_OWNER_PREFIX "disk:"

struct disk {
	struct disks *disks;
	bool used, kept, configured;
	bool command; /* of a command that is still waited for: it fails at the first trouble */
	bool busy;    /* something asked for it is unanswered */
	enum disks_state state;
	struct fallowd_disk_config cfg;	  /* as it was given */
	struct fallowd_disk_config serve; /* with defaults filled in */
	uint32_t pool, kept_pool;
	uint32_t base_pool;	    /* of a clone, as long as it needs it; 0: none */
	bool shared;		    /* the pool is that of an image, see disk_source.h */
	struct disk_source *source; /* opened, and no service has it yet */
	uint64_t stale_drops;
	bool dropped; /* since it was started: an empty pool must do */
	struct disk_service *service;
	struct backend_call call;
	struct reserves_call reserve;
	struct disks_opening opening;
	char why[256];
};

struct disks {
	char state_dir[256];
	char socket_dir[108];
	struct pools *pools;
	const struct disks_ops *ops;
	void *ctx;
	bool started;
	struct backend_call *stop_call; /* stopping */
	bool stopped;			/* it was answered */
	unsigned linger_retries;
	struct {
		uint32_t pool;
		unsigned retries;
	} unused[DISKS_MAX]; /* shared pools without a disk */
	struct disk disk[DISKS_MAX];
};

/* disks.c */
struct disk *disks_disk_of(const struct disks *d, const char *name);
struct disk *disks_disk_take(struct disks *d, const struct fallowd_disk_config *c);
/* disks_kept.c: writes down which disks there are. */
int disks_state_store(struct disks *d);
/* disks_kept.c: pools that were made for a disk that was not kept: its making was cut short. */
void disks_orphans_destroy(struct disks *d);
/* disks_kept.c: pools of images that no disk has used for long. */
void disks_unused_destroy(struct disks *d);

#endif
