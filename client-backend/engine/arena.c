/* The arena: one file, mapped shared, that holds everything of a lane that outlives the process. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client-backend/engine/impl.h"

#define ARENA_MAGIC   0x31616e6572414c46ull /* "FLArena1" */
#define ARENA_VERSION 3u
#define ALIGN_BYTES   (2ull << 20)

struct layout {
	size_t accounts, pools, objects, index, segments, regions, slots, staging, fetches, end;
};

static size_t align_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static struct arena_geometry geometry_of(const struct engine_config *c)
{
	return (struct arena_geometry){
		.segment_bytes = c->segment_bytes,
		.local_segments = c->local_segments,
		.max_pages = c->max_pages,
		.max_objects = c->max_objects,
		.max_segments = c->max_segments,
		.max_regions = c->max_regions,
		.disk_segments = c->disk_segments,
		.lane = c->lane,
		.lanes = c->lanes,
	};
}

/* Buffers come last: they hold nothing that outlives, and their number may change between starts.
 */
static struct layout layout_of(const struct engine_config *c)
{
	struct layout l;
	size_t at = 4096;

	l.accounts = at;
	at = align_up(at + sizeof(struct account_row) * ENGINE_MAX_ACCOUNTS, 4096);
	l.pools = at;
	at = align_up(at + sizeof(struct pool_row) * ENGINE_MAX_POOLS, 4096);
	l.objects = at;
	at = align_up(at + sizeof(struct object_row) * ((size_t)c->max_objects + 1), 4096);
	l.index = at;
	at = align_up(at + sizeof(struct index_bucket) * index_buckets(c->max_pages), 4096);
	l.segments = at;
	at = align_up(at + sizeof(struct seg_row) * c->max_segments, 4096);
	l.regions = at;
	at = align_up(at + sizeof(struct region_row) * c->max_regions, ALIGN_BYTES);
	l.slots = at;
	at += (size_t)c->local_segments * c->segment_bytes;
	l.staging = at;
	at += (size_t)c->moves * c->segment_bytes;
	l.fetches = at;
	at += (size_t)c->fetches * 2 * (FETCH_BYTES + FETCH_SLACK_BYTES);
	l.end = align_up(at, ALIGN_BYTES);
	return l;
}

static int fail(char *err, size_t n, int code, const char *path, const char *what)
{
	snprintf(err, n, "arena %s: %s: %s", path ? path : "(anonymous)", what, strerror(-code));
	return code;
}

static int arena_map(
	struct engine *e, const char *path, size_t len, bool *fresh, char *err, size_t n)
{
	int flags = path ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS;
	struct stat st = {0};

	e->fd = -1;
	*fresh = true;
	if (path) {
		e->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (e->fd < 0)
			return fail(err, n, -errno, path, "cannot open");
		if (flock(e->fd, LOCK_EX | LOCK_NB) != 0)
			return fail(err, n, -EBUSY, path, "another process uses it");
		if (fstat(e->fd, &st) != 0)
			return fail(err, n, -errno, path, "cannot stat");
		*fresh = st.st_size == 0;
		if ((size_t)st.st_size < len && ftruncate(e->fd, (off_t)len) != 0)
			return fail(err, n, -errno, path, "cannot grow");
		/* Memory that is not there must show now, not as a SIGBUS on a put. */
		int rc = posix_fallocate(e->fd, 0, (off_t)len);
		if (rc) {
			if (*fresh && ftruncate(e->fd, 0) != 0)
				return fail(err, n, -errno, path, "cannot undo");
			return fail(err, n, -rc, path, "cannot reserve its memory");
		}
	}
	e->base = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, e->fd, 0);
	if (e->base == MAP_FAILED) {
		e->base = NULL;
		return fail(err, n, -errno, path, "cannot map");
	}
	e->len = len;
	if (e->cfg.huge_pages)
		(void)madvise(e->base, len, MADV_HUGEPAGE);
	if (e->cfg.lock_memory && mlock(e->base, len) != 0)
		return fail(err, n, -errno, path, "cannot lock in memory (raise LimitMEMLOCK)");
	return 0;
}

static void arena_format(struct engine *e)
{
	struct arena_header *h = e->header;

	h->version = ARENA_VERSION;
	h->header_bytes = sizeof(*h);
	h->geometry = geometry_of(&e->cfg);
	h->secret = env_random(&e->env);
	h->seed = env_random(&e->env);
	h->next_seq = 1;
	__atomic_store_n(&h->magic, ARENA_MAGIC, __ATOMIC_RELEASE);
}

static int arena_verify(struct engine *e, const char *path, char *err, size_t n)
{
	const struct arena_header *h = e->header;
	struct arena_geometry want = geometry_of(&e->cfg);

	if (h->magic != ARENA_MAGIC || h->version != ARENA_VERSION ||
		h->header_bytes != sizeof(*h)) {
		snprintf(err, n, "arena %s: not a Fallow arena of version %u", path, ARENA_VERSION);
		return -EBADMSG;
	}
#define SAME(field)                                                                                \
	if (h->geometry.field != want.field) {                                                     \
		snprintf(err, n,                                                                   \
			"arena %s: it was made with " #field " %" PRIu64                           \
			", the configuration says %" PRIu64                                        \
			"; put that back or discard the arena",                                    \
			path, (uint64_t)h->geometry.field, (uint64_t)want.field);                  \
		return -EINVAL;                                                                    \
	}
	SAME(segment_bytes)
	SAME(local_segments)
	SAME(max_pages)
	SAME(max_objects)
	SAME(max_segments)
	SAME(max_regions)
	SAME(disk_segments)
	SAME(lane)
	SAME(lanes)
#undef SAME
	return 0;
}

int arena_open(struct engine *e, const char *path, bool *fresh, char *err, size_t err_bytes)
{
	struct layout l = layout_of(&e->cfg);
	int rc = arena_map(e, path, l.end, fresh, err, err_bytes);

	if (rc)
		return rc;
	e->header = (void *)e->base;
	e->account_row = (void *)(e->base + l.accounts);
	e->pool_row = (void *)(e->base + l.pools);
	e->object = (void *)(e->base + l.objects);
	e->seg = (void *)(e->base + l.segments);
	e->region = (void *)(e->base + l.regions);
	e->slot_base = e->base + l.slots;
	/* A crash while formatting leaves a file without the magic and with nothing else in it. */
	if (*fresh || (e->header->magic == 0 && e->header->next_seq <= 1)) {
		*fresh = true;
		arena_format(e);
	}
	rc = arena_verify(e, path ? path : "(anonymous)", err, err_bytes);
	if (rc)
		return rc;
	index_init(&e->index, (void *)(e->base + l.index), index_buckets(e->cfg.max_pages),
		e->header->seed);
	fetch_init(e, e->base + l.fetches);
	move_init(e, e->base + l.staging);
	stat_set(&e->stats.index_bytes, e->index.nbuckets * sizeof(struct index_bucket));
	stat_set(&e->stats.table_bytes, l.index + (l.slots - l.segments) + (l.end - l.staging));
	return 0;
}

void arena_close(struct engine *e)
{
	if (e->base)
		munmap(e->base, e->len);
	if (e->fd >= 0)
		close(e->fd);
}
