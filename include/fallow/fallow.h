/* libfallow: put pages of 4096 bytes away into a host's Fallow backend, and get them back. */
#ifndef FALLOW_FALLOW_H
#define FALLOW_FALLOW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FALLOW_API __attribute__((visibility("default")))
#else
#define FALLOW_API
#endif

/*
 * Every function that returns int returns 0 or a negative errno value. Those that all may return:
 *   -ESHUTDOWN  the backend is gone or has closed the session (it restarts, it was killed, a limit
 * of time passed). Nothing hangs: what waits returns this within a fraction of a second. What a
 *               request that ended so has done is unknown: a put may have been stored or not.
 *               fallow_reconnect() revives the handle.
 *   -EINVAL     an argument makes no sense.
 * The library prints nothing, starts no thread, handles no signal, and never exits. All functions
 * may be called from any number of threads on one handle, unless they say otherwise. A handle does
 * not survive fork() in the child.
 */
#define FALLOW_PAGE_BYTES 4096u

struct fallow;	    /* a connection to the backend */
struct fallow_pool; /* an open pool; belongs to its connection */

/* The object that a page belongs to; the backend gives it no meaning. */
struct fallow_oid {
	uint64_t w[3];
};

enum {
	FALLOW_POOL_PERSISTENT =
		1u << 0, /* a page stays until it is flushed; else it may vanish any time */
	FALLOW_POOL_SHARED = 1u << 1, /* found by uuid and secret; else by this user and the name */
};

/* For each choice 0 leaves it to the backend's settings. */
enum { FALLOW_CODEC_DEFAULT, FALLOW_CODEC_NONE, FALLOW_CODEC_LZ4, FALLOW_CODEC_ZSTD };
enum {
	FALLOW_DISK_DEFAULT,
	FALLOW_DISK_NEVER,
	FALLOW_DISK_OVERFLOW, /* on disk when the donors have no room */
	FALLOW_DISK_MIRROR,   /* always a copy on disk too */
};

/*
 * size: sizeof(struct fallow_pool_opts), or the offset of the first field that the caller does not
 * know; fields past size count as zero.
 */
struct fallow_pool_opts {
	uint32_t size;
	uint32_t flags;
	const char *name; /* at most 63 bytes. NULL or "": an unnamed pool, that ends with the
			     connection */
	uint8_t uuid[16]; /* shared pools: not all zero; private ones: zero */
	/* the size of the first version ends here: 32 bytes on 64-bit machines */
	uint8_t secret[16];  /* shared pools: everybody shows the same as who opened it first */
	uint8_t codec;	     /* FALLOW_CODEC_* */
	uint8_t copies;	     /* on donors, 1..3; 0: default */
	uint8_t disk;	     /* FALLOW_DISK_* */
	uint8_t reserved[5]; /* zero */
};

/*
 * Connects to the backend's socket; NULL: the default, /run/fallow/fallowd.sock. *out is ended with
 * fallow_disconnect(). -ENOENT, -ECONNREFUSED: no backend there; -EACCES: this user is not served;
 * -EUSERS: too many sessions; -EPROTONOSUPPORT: versions do not fit; -ETIMEDOUT; -ENOMEM. Waits 10
 * s at most.
 */
FALLOW_API int fallow_connect(const char *socket_path, struct fallow **out);

/*
 * Ends the connection, its queues and its pools' handles; unnamed private pools are destroyed. No
 * other call on this handle may be under way. f may be NULL.
 */
FALLOW_API void fallow_disconnect(struct fallow *f);

/*
 * How long a call that waits for an answer looks for it before it sleeps, in microseconds; at first
 * about ten, at most a second. A page on a donor that is polled for comes sooner by the time that
 * waking takes, at the price of a processor meanwhile. Any thread, any time. -EINVAL.
 */
FALLOW_API int fallow_poll_set(struct fallow *f, uint32_t poll_us);

/*
 * Opens a pool, or makes it. A named private pool and a shared pool are found again with the pages
 * in them. -EACCES: wrong secret; -EPERM: this user may not have such a pool;
 * -EEXIST: it exists with other flags or choices; -EDQUOT: too many
 * pools of this user; -ENODEV: the backend has no disk; -ENOSPC; -E2BIG: opts has fields this
 * library does not know.
 */
FALLOW_API int fallow_pool_open(
	struct fallow *f, const struct fallow_pool_opts *opts, struct fallow_pool **out);

/*
 * Destroys the pool and the handle: no page of it is found again by anyone. No other call with p
 * may be under way. When it fails the handle stays: -EPERM a shared pool of another user (use
 * fallow_pool_close()); but with -ENOENT (destroyed already, by another handle) and -ESHUTDOWN the
 * handle is gone.
 */
FALLOW_API int fallow_pool_destroy(struct fallow_pool *p);

/* Ends the handle and leaves a named or shared pool as it is; an unnamed one is destroyed. Always
 * frees p. */
FALLOW_API int fallow_pool_close(struct fallow_pool *p);

/*
 * Pages. A call may wait for memory servers or a disk, for a bounded time.
 * put: copies FALLOW_PAGE_BYTES from page. -ENOSPC: refused, and what the key held before is gone.
 * get: fills page. -ENOENT: a miss; -EIO: a persistent page is lost; -ETIMEDOUT: those who hold it
 * do not answer now. page is written only when 0 is returned. flush: forgets a page, or all pages
 * of an object. -ENOENT: there was none.
 */
FALLOW_API int fallow_put(
	struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index, const void *page);
FALLOW_API int fallow_get(
	struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index, void *page);
FALLOW_API int fallow_flush_page(
	struct fallow_pool *p, const struct fallow_oid *oid, uint32_t index);
FALLOW_API int fallow_flush_object(struct fallow_pool *p, const struct fallow_oid *oid);

/*
 * Batches: count keys at once, in no particular order among themselves; faster than one by one,
 * above all when pages are far away. status, when not NULL, has count entries and gets each key's
 * result. Returns 0 when all are 0, else the first that is not. The same key twice in a batch of
 * puts: either may win.
 */
struct fallow_key {
	struct fallow_oid oid;
	uint32_t index;
	uint32_t reserved; /* zero */
};
FALLOW_API int fallow_put_batch(struct fallow_pool *p, size_t count, const struct fallow_key *keys,
	const void *const *pages, int *status);
FALLOW_API int fallow_get_batch(struct fallow_pool *p, size_t count, const struct fallow_key *keys,
	void *const *pages, int *status);
FALLOW_API int fallow_flush_batch(
	struct fallow_pool *p, size_t count, const struct fallow_key *keys, int *status);

/*
 * Asynchronous requests. A queue is used by one thread at a time; a connection may have many.
 * Requests complete in any order; two for the same key that are under way together may be executed
 * in any order.
 */
struct fallow_queue;
struct fallow_result {
	uint64_t tag; /* as given with the request */
	int status;   /* as the synchronous call would have returned */
};
enum { FALLOW_OP_PUT = 1, FALLOW_OP_GET = 2, FALLOW_OP_FLUSH_PAGE = 3 };

/* depth: requests under way at a time, 1..128. */
FALLOW_API int fallow_queue_new(struct fallow *f, unsigned depth, struct fallow_queue **out);
/* Waits, bounded, for what is under way and forgets its results. q may be NULL. */
FALLOW_API void fallow_queue_delete(struct fallow_queue *q);
/*
 * Starts a request, never waits. put: page is copied before the return. get: page must stay until
 * the result was taken with poll or wait. -EAGAIN: depth requests are under way, or the connection
 * has no room now; take results first.
 */
FALLOW_API int fallow_queue_submit(struct fallow_queue *q, struct fallow_pool *p, int op,
	const struct fallow_oid *oid, uint32_t index, void *page, uint64_t tag);
/* Takes at most max results that are there. Returns how many, 0..max. */
FALLOW_API int fallow_queue_poll(
	struct fallow_queue *q, struct fallow_result *results, unsigned max);
/*
 * The same, but waits for the first result, at most timeout_ms. 0: none came in time, or nothing is
 * under way. When the backend is gone, every request under way has the result -ESHUTDOWN.
 */
FALLOW_API int fallow_queue_wait(
	struct fallow_queue *q, struct fallow_result *results, unsigned max, unsigned timeout_ms);

struct fallow_pool_stats {
	uint32_t size;	/* sizeof(struct fallow_pool_stats), set by the caller */
	uint32_t lanes; /* of the backend */
	uint64_t pages; /* in the pool */
	uint64_t client_used_pages,
		client_limit_pages; /* of this user in all pools; UINT64_MAX: no limit */
};
FALLOW_API int fallow_pool_stats(struct fallow_pool *p, struct fallow_pool_stats *out);

/*
 * After -ESHUTDOWN: connects again, once; pools and queues of the handle go on. Calls of other
 * threads fail with -ESHUTDOWN until it is done. 0: all is there as before (or the connection was
 * not broken at all). -ENODATA: connected, but at least one pool had to be made anew and is empty.
 * -EBUSY: a queue has results that were not taken yet, or calls of other threads do not end.
 * Otherwise as fallow_connect() and fallow_pool_open(); the handle stays as it was, try again
 * later. A pool that could not be opened again answers -ENOENT.
 */
FALLOW_API int fallow_reconnect(struct fallow *f);

/* A sentence for a result of this library; static, never NULL. */
FALLOW_API const char *fallow_strerror(int error);
/* The version of the library, "0.1.0". */
FALLOW_API const char *fallow_version(void);

#ifdef __cplusplus
}
#endif

#endif
