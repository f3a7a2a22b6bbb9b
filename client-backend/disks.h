/* The registry of guests' disks: which there are, what each needs before it can be served, and what
 * a restart finds. */
#ifndef FALLOW_BACKEND_DISKS_H
#define FALLOW_BACKEND_DISKS_H

#include "client-backend/call.h"
#include "client-backend/config.h"
#include "client-backend/pools.h"
#include "client-backend/reserves.h"

/*
 * Control thread. A disk comes from the configuration or from a command; either is kept in
 * STATE_DIR/disks with its size, so that a restart serves it again from the same pool, and a
 * changed size is noticed. To be served it goes through these states; what a disk of the
 * configuration or a kept one cannot have now is tried again (disks_retry()), a command's is
 * refused.
 */
enum disks_state {
	DISKS_OPENING,	 /* its pool is being made */
	DISKS_RESERVING, /* room for all of it is being asked for */
	DISKS_WAITING,	 /* something is missing, see `why`; tried again */
	DISKS_SERVING,
	DISKS_FAILED, /* see `why`; stays so until it is removed or changed */
	DISKS_REMOVING,
	DISKS_STATES
};
const char *disks_state_name(enum disks_state s);

#define DISKS_MAX FALLOWD_MAX_DISKS

struct disks;
struct disk_service; /* what serves one disk */
struct disk_source;  /* what a cached disk is a cache of */

/* An image that is being opened; the caller's until done(). source: the caller's then. err: one
 * sentence when status is negative. */
struct disks_opening {
	void (*done)(struct disks_opening *o, int status, struct disk_source *source);
	char err[256];
};

struct disks_ops {
	/* Whose account pays: as accounts_of_disk(). */
	int (*account)(void *ctx, const struct fallowd_disk_config *c, unsigned *account);
	/* As reserves_set(). */
	void (*reserve)(void *ctx, uint32_t pool, uint64_t pages, struct reserves_call *call);
	/* Of a cached disk: opens its image, as disk_source_open(), within some seconds; then
	 * o->done(), maybe from inside. c is valid only during the call. */
	void (*source_open)(
		void *ctx, const struct fallowd_disk_config *c, struct disks_opening *o);
	void (*source_close)(void *ctx, struct disk_source *s);
	/* As disk_source_valid(). */
	bool (*source_valid)(void *ctx, const struct fallowd_disk_config *c,
		const struct disk_source *s, uint32_t pool, const char **why);
	/* Listens for the guest. c: socket, serial and size are filled in. source: NULL for a swap
	 * disk; the service's from now on, if it is made. A negative errno with one sentence in
	 * err. */
	int (*serve)(void *ctx, const struct fallowd_disk_config *c, uint32_t pool,
		struct disk_source *source, struct disk_service **out, char *err, size_t err_bytes);
	/* Ends it, finishing what is in flight, and frees it; then call->done(0). */
	void (*unserve)(void *ctx, struct disk_service *s, struct backend_call *call);
	bool (*connected)(void *ctx, const struct disk_service *s);
	/* Removes what was kept of a pool beside the arenas; the pool is gone. */
	void (*forget)(void *ctx, uint32_t pool);
};

struct disks_config {
	const char *state_dir;
	const char *socket_path; /* of the clients' socket: disks' sockets are beside it */
	unsigned linger_retries; /* disks_retry() calls that a shared pool survives unused */
};

struct disks_info {
	const struct fallowd_disk_config *config;
	enum disks_state state;
	const char *why;		    /* "": nothing is wrong */
	bool configured;		    /* the configuration names it */
	uint32_t pool;			    /* 0: none yet */
	const struct disk_service *service; /* NULL: not served */
	bool shared;			    /* its pool is that of an image, with others */
	uint64_t stale_drops;		    /* times that its cache was not the image's any more */
};

/* Strings are copied. -ENOMEM. */
int disks_new(const struct disks_config *cfg, struct pools *pools, const struct disks_ops *ops,
	void *ctx, struct disks **out);
/* Nothing is under way: after disks_stop(). */
void disks_delete(struct disks *d);

/* What was kept. May block. -EBADMSG the file is damaged, with one sentence in err. */
int disks_load(struct disks *d, char *err, size_t err_bytes);
/* The list of the configuration, at start and again when it has changed. */
void disks_configure(struct disks *d, const struct fallowd_disk_config *list, uint32_t count);
/* Starts what is kept and configured; pools of disks that nobody knows are destroyed. */
void disks_start(struct disks *d);
/* Those that wait. Every few seconds. */
void disks_retry(struct disks *d);
/*
 * A command's disk; 0: it is on its way to DISKS_SERVING or DISKS_FAILED, to be seen in
 * disks_find(). -EEXIST; -EINVAL; -ENOSPC too many. err gets one sentence.
 */
int disks_add(struct disks *d, const struct fallowd_disk_config *c, char *err, size_t err_bytes);
/*
 * Removes a disk and every page of it; it is gone when disks_find() does not find it. -ENOENT;
 * -EBUSY a guest is connected (force: it is cut off), or it is being made; -EPERM it is in the
 * configuration. err gets one sentence.
 */
int disks_remove(struct disks *d, const char *name, bool force, char *err, size_t err_bytes);
/* Serves none any more; call->done() when the lanes have let go of them all. */
void disks_stop(struct disks *d, struct backend_call *call);

/* For status; *cursor starts at 0. False: no more. */
bool disks_next(const struct disks *d, unsigned *cursor, struct disks_info *out);
bool disks_find(const struct disks *d, const char *name, struct disks_info *out);

#endif
