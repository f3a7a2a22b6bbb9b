/* The registry of guests' disks: which there are, what each needs before it can be served, and what
 * a restart finds. */
#include "client-backend/disks_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/disk_source.h"
#include "lib/core/log.h"

const char *disks_state_name(enum disks_state s)
{
	static const char *const names[] = {
		"opening", "reserving", "waiting", "serving", "failed", "removing"};

	return names[s];
}

int disks_new(const struct disks_config *cfg, struct pools *pools, const struct disks_ops *ops,
	void *ctx, struct disks **out)
{
	struct disks *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	snprintf(d->state_dir, sizeof(d->state_dir), "%s", cfg->state_dir);
	snprintf(d->socket_dir, sizeof(d->socket_dir), "%s", cfg->socket_path);
	char *slash = strrchr(d->socket_dir, '/');
	if (slash)
		*slash = 0;
	d->linger_retries = cfg->linger_retries;
	d->pools = pools;
	d->ops = ops;
	d->ctx = ctx;
	for (unsigned i = 0; i < DISKS_MAX; i++)
		d->disk[i].disks = d;
	*out = d;
	return 0;
}

void disks_delete(struct disks *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < DISKS_MAX; i++)
		assert(!d->disk[i].busy && !d->disk[i].service);
	free(d);
}

struct disk *disks_disk_of(const struct disks *d, const char *name)
{
	for (unsigned i = 0; i < DISKS_MAX; i++)
		if (d->disk[i].used && !strcmp(d->disk[i].cfg.name, name))
			return (struct disk *)&d->disk[i];
	return NULL;
}

/* -ENAMETOOLONG: of the socket that it would have. */
static int defaults_fill(struct disk *k)
{
	struct fallowd_disk_config *s = &k->serve;

	*s = k->cfg;
	if (!s->serial[0])
		snprintf(s->serial, sizeof(s->serial), "%.20s", s->name);
	if (s->socket[0])
		return 0;
	size_t n = (size_t)snprintf(
		s->socket, sizeof(s->socket), "%s/disk-%s.sock", k->disks->socket_dir, s->name);
	return n < sizeof(s->socket) ? 0 : -ENAMETOOLONG;
}

struct disk *disks_disk_take(struct disks *d, const struct fallowd_disk_config *c)
{
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		struct disk *k = &d->disk[i];

		if (k->used)
			continue;
		*k = (struct disk){.disks = d, .used = true, .cfg = *c, .state = DISKS_WAITING};
		defaults_fill(k);
		return k;
	}
	return NULL;
}

/* ---- towards being served ---- */

static void settled(struct disks *d);
static void pool_destroy(struct disk *k);

__attribute__((format(printf, 3, 4))) static void state_set(
	struct disk *k, enum disks_state s, const char *format, ...)
{
	char why[sizeof(k->why)];
	va_list ap;

	va_start(ap, format);
	vsnprintf(why, sizeof(why), format, ap);
	va_end(ap);
	bool news = k->state != s || strcmp(k->why, why);
	k->state = s;
	memcpy(k->why, why, sizeof(why));
	if (!news)
		return;
	if (why[0])
		log_warn("disks", "disk %s is not served: %s", k->cfg.name, why);
	else if (s == DISKS_SERVING)
		log_info_kv("disks", "serving", "disk=%s pool=%u socket=%s", k->cfg.name, k->pool,
			k->serve.socket);
}

/* These do not go away by themselves. */
static bool permanent(int status)
{
	return status == -EEXIST || status == -EINVAL || status == -ENODEV || status == -EPERM ||
	       status == -ENOENT || status == -EFBIG || status == -ENAMETOOLONG;
}

static void source_drop(struct disk *k)
{
	if (k->source)
		k->disks->ops->source_close(k->disks->ctx, k->source);
	k->source = NULL;
}

static void disk_fail(struct disk *k, int status, const char *why)
{
	k->busy = false;
	source_drop(k);
	if (k->disks->stop_call) {
		settled(k->disks);
		return;
	}
	if (!k->command) {
		state_set(k, permanent(status) ? DISKS_FAILED : DISKS_WAITING, "%s", why);
	} else {
		k->command = false;
		state_set(k, DISKS_FAILED, "%s", why);
		if (k->kept) {
			k->kept = false;
			disks_state_store(k->disks);
		}
		/* It never was: nothing of it stays. */
		if (k->pool && !k->shared)
			pool_destroy(k);
	}
	settled(k->disks);
}

static void disk_serve(struct disk *k)
{
	struct disks *d = k->disks;
	char err[256] = "";

	k->busy = false;
	if (d->stop_call) {
		source_drop(k);
		settled(d);
		return;
	}
	if (!k->kept || k->kept_pool != k->pool) {
		if (k->kept && k->kept_pool && k->cfg.kind == FALLOWD_DISK_SWAP)
			log_warn("disks",
				"the pages of disk %s are gone with the arenas: it is empty now, "
				"and "
				"a guest that used it must be started anew",
				k->cfg.name);
		k->kept = true;
		k->kept_pool = k->pool;
		int r = disks_state_store(d);
		if (r < 0) {
			disk_fail(k, r, "state_dir cannot be written");
			return;
		}
	}
	int r = d->ops->serve(d->ctx, &k->serve, k->pool, k->source, &k->service, err, sizeof(err));
	if (r < 0) {
		disk_fail(k, r, err);
		return;
	}
	k->source = NULL;
	k->command = false;
	state_set(k, DISKS_SERVING, "%s", "");
}

static void on_reserved(struct reserves_call *c, int status)
{
	struct disk *k = (struct disk *)((char *)c - offsetof(struct disk, reserve));

	if (status)
		disk_fail(k, status, c->why[0] ? c->why : strerror(-status));
	else
		disk_serve(k);
}

static void pool_ask(struct disk *k);

/* The pool of what the image was before is gone: another one. */
static void on_stale_destroyed(struct backend_call *call, int status, uint64_t value)
{
	struct disk *k = (struct disk *)((char *)call - offsetof(struct disk, call));
	uint32_t pool = k->pool;

	if (status && status != -ENOENT) {
		disk_fail(k, status, "its stale pages could not be removed");
		return;
	}
	k->pool = 0;
	k->disks->ops->forget(k->disks->ctx, pool);
	if (k->disks->stop_call) {
		k->busy = false;
		source_drop(k);
		settled(k->disks);
		return;
	}
	pool_ask(k);
}

/* Another disk that uses the same pool. */
static bool pool_in_use(const struct disk *k)
{
	if (!k->shared)
		return false;
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		const struct disk *o = &k->disks->disk[i];

		if (o != k && o->used && o->service && o->pool == k->pool)
			return true;
	}
	return false;
}

/* Is what the pool holds still the image's? */
static void cache_check(struct disk *k)
{
	static const uint8_t none[16];
	struct disks *d = k->disks;
	const char *why;

	if (pool_in_use(k) || d->ops->source_valid(d->ctx, &k->serve, k->source, k->pool, &why)) {
		disk_serve(k);
		return;
	}
	if (k->dropped) {
		disk_fail(k, -EIO, why);
		return;
	}
	log_warn("disks", "what was cached of disk %s is dropped: %s", k->cfg.name, why);
	k->dropped = true;
	k->stale_drops++;
	k->call.done = on_stale_destroyed;
	const struct engine_pool_desc *p = pools_find(d->pools, k->pool);
	char owner[ENGINE_NAME_BYTES];
	snprintf(owner, sizeof(owner), "%s", p ? p->owner : "");
	pools_destroy(d->pools, owner, none, k->pool, &k->call);
}

static void on_opened(struct backend_call *call, int status, uint64_t value)
{
	struct disk *k = (struct disk *)((char *)call - offsetof(struct disk, call));
	struct disks *d = k->disks;

	if (status) {
		disk_fail(k, status,
			status == -EEXIST
				? "it was made with other copies, codec or disk policy: set "
				  "them as they were, or remove it with `fallow disk rm`"
			: status == -ENODEV ? "its disk policy needs a disk tier: set disk.path"
			: status == -EPERM  ? "its account may not have persistent pools"
					    : strerror(-status));
		return;
	}
	k->pool = (uint32_t)value;
	if (d->stop_call) {
		k->busy = false;
		source_drop(k);
		settled(d);
		return;
	}
	if (k->source) {
		cache_check(k);
		return;
	}
	state_set(k, DISKS_RESERVING, "%s", "");
	k->reserve.done = on_reserved;
	k->reserve.why[0] = 0;
	d->ops->reserve(d->ctx, k->pool, k->cfg.size_bytes / ENGINE_PAGE_BYTES, &k->reserve);
}

static void on_base_opened(struct backend_call *call, int status, uint64_t value)
{
	struct disk *k = (struct disk *)((char *)call - offsetof(struct disk, call));

	if (status || k->disks->stop_call) {
		disk_fail(k, status,
			status == -EPERM ? "its account may not have such pools"
					 : strerror(-status));
		return;
	}
	k->base_pool = k->source->base_pool = (uint32_t)value;
	pool_ask(k);
}

/* Whose pool it is: a disk's own, or that of an image that others read, too. */
static void pool_ask(struct disk *k)
{
	static const uint8_t none[16];
	struct disks *d = k->disks;
	char owner[ENGINE_NAME_BYTES];
	unsigned account;
	bool base = k->source && k->source->base && !k->base_pool;

	k->shared = k->source && k->source->shared;
	if (base)
		snprintf(owner, sizeof(owner), "%s", k->source->base->pool_owner);
	else if (k->shared)
		snprintf(owner, sizeof(owner), "%s", k->source->pool_owner);
	else
		snprintf(owner, sizeof(owner), DISKS_OWNER_PREFIX "%s", k->cfg.name);
	int r = d->ops->account(d->ctx, &k->cfg, &account);
	if (r < 0) {
		disk_fail(k, r,
			r == -ENOENT ? "its account is not in the list of clients" : strerror(-r));
		return;
	}
	struct pools_request q = {.owner = owner,
		.account = account,
		.session = none,
		.flags = k->source ? 0 : ENGINE_POOL_PERSISTENT,
		.spill = k->source,
		.name = base || k->shared ? "cache" : k->cfg.name,
		.uuid = none,
		.secret = none,
		.codec = (uint8_t)k->cfg.codec,
		.copies = (uint8_t)(k->source ? 1 : k->cfg.copies),
		.disk = (uint8_t)(k->source ? POOLS_DISK_NEVER : k->cfg.disk)};
	k->state = DISKS_OPENING;
	k->busy = true;
	k->call.done = base ? on_base_opened : on_opened;
	pools_open(d->pools, &q, &k->call);
}

static void on_source(struct disks_opening *o, int status, struct disk_source *source)
{
	struct disk *k = (struct disk *)((char *)o - offsetof(struct disk, opening));

	if (status < 0 || k->disks->stop_call) {
		k->source = source;
		/* An image may come, or be let go. */
		disk_fail(k, status == -EINVAL || status == -EFBIG ? status : -EAGAIN, o->err);
		return;
	}
	if (source->image->notes[0])
		log_warn("disks", "disk %s: %s: %s", k->cfg.name, k->cfg.image,
			source->image->notes);
	k->source = source;
	k->serve.size_bytes = source->identity.size_bytes;
	k->base_pool = 0;
	pool_ask(k);
}

static void disk_start(struct disk *k)
{
	struct disks *d = k->disks;

	int r = defaults_fill(k);
	if (r < 0) {
		disk_fail(k, r, "its socket's path would be too long: set another one");
		return;
	}
	if (k->cfg.kind != FALLOWD_DISK_CACHED) {
		pool_ask(k);
		return;
	}
	if (k->command)
		k->state = DISKS_OPENING;
	k->busy = true;
	k->dropped = false;
	k->opening.done = on_source;
	d->ops->source_open(d->ctx, &k->serve, &k->opening);
}

/* ---- the end of a disk ---- */

static void on_destroyed(struct backend_call *call, int status, uint64_t value)
{
	struct disk *k = (struct disk *)((char *)call - offsetof(struct disk, call));
	struct disks *d = k->disks;
	uint32_t pool = k->pool;

	k->busy = false;
	if (status && status != -ENOENT) {
		state_set(k, DISKS_FAILED, "its pages could not be removed: %s", strerror(-status));
		settled(d);
		return;
	}
	k->pool = 0;
	if (pool)
		d->ops->forget(d->ctx, pool);
	if (k->state == DISKS_REMOVING) {
		log_info("disks", "disk %s was removed", k->cfg.name);
		k->used = k->kept = false;
		disks_state_store(d);
	}
	settled(d);
}

static void pool_destroy(struct disk *k)
{
	static const uint8_t none[16];
	char owner[ENGINE_NAME_BYTES];

	snprintf(owner, sizeof(owner), DISKS_OWNER_PREFIX "%s", k->cfg.name);
	k->busy = true;
	k->call.done = on_destroyed;
	pools_destroy(k->disks->pools, owner, none, k->pool, &k->call);
}

/* The pool of a disk that is not served yet, by its owner's name. */
static uint32_t pool_find(const struct disks *d, const char *name)
{
	const struct engine_pool_desc *p;

	for (uint32_t cursor = 0; (p = pools_next(d->pools, &cursor));)
		if (!strncmp(p->owner, DISKS_OWNER_PREFIX, strlen(DISKS_OWNER_PREFIX)) &&
			!strcmp(p->owner + strlen(DISKS_OWNER_PREFIX), name))
			return p->id;
	return 0;
}

static void removal_go_on(struct disk *k)
{
	/* The pool of an image stays for a while, for the next disk. */
	if (k->shared)
		k->pool = 0;
	else if (!k->pool)
		k->pool = pool_find(k->disks, k->cfg.name);
	if (k->pool)
		pool_destroy(k);
	else
		on_destroyed(&k->call, 0, 0);
}

static void on_unserved(struct backend_call *call, int status, uint64_t value)
{
	struct disk *k = (struct disk *)((char *)call - offsetof(struct disk, call));

	k->busy = false;
	k->service = NULL;
	if (k->state == DISKS_REMOVING && !k->disks->stop_call)
		removal_go_on(k);
	else
		settled(k->disks);
}

static void disk_unserve(struct disk *k)
{
	k->busy = true;
	k->call.done = on_unserved;
	k->disks->ops->unserve(k->disks->ctx, k->service, &k->call);
}

int disks_remove(struct disks *d, const char *name, bool force, char *err, size_t err_bytes)
{
	struct disk *k = disks_disk_of(d, name);

	if (!k) {
		snprintf(err, err_bytes, "there is no disk %.48s", name);
		return -ENOENT;
	}
	if (k->busy) {
		snprintf(err, err_bytes, "disk %s is %s: try again", name,
			disks_state_name(k->state));
		return -EBUSY;
	}
	/* One that failed may be removed, for that is how its size can be changed. */
	if (k->configured && k->state != DISKS_FAILED) {
		snprintf(err, err_bytes,
			"disk %s is in the configuration: take it out there and reload (SIGHUP) "
			"first",
			name);
		return -EPERM;
	}
	if (k->service && !force && d->ops->connected(d->ctx, k->service)) {
		snprintf(err, err_bytes,
			"a guest is connected to disk %s: end it first, or use --force and it "
			"loses its "
			"disk",
			name);
		return -EBUSY;
	}
	k->state = DISKS_REMOVING;
	k->why[0] = 0;
	/* A restart goes on with it. */
	if (k->kept)
		disks_state_store(d);
	if (k->service)
		disk_unserve(k);
	else
		removal_go_on(k);
	return 0;
}

/* ---- where disks come from ---- */

int disks_add(struct disks *d, const struct fallowd_disk_config *c, char *err, size_t err_bytes)
{
	struct disk *k = disks_disk_of(d, c->name);

	if (k && (k->kept || k->busy || k->configured || k->state != DISKS_FAILED)) {
		snprintf(err, err_bytes, "there is a disk %s already", c->name);
		return -EEXIST;
	}
	if (k)
		k->used = false; /* an earlier attempt, of which nothing is left */
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		struct disk *o = &d->disk[i];

		if (o->used && c->socket[0] && !strcmp(o->serve.socket, c->socket)) {
			snprintf(err, err_bytes, "disk %s has the socket %s", o->cfg.name,
				c->socket);
			return -EEXIST;
		}
	}
	k = d->stop_call ? NULL : disks_disk_take(d, c);
	if (!k) {
		snprintf(err, err_bytes, "there are %u disks already, which is the limit",
			DISKS_MAX);
		return -ENOSPC;
	}
	k->command = true;
	disk_start(k);
	return 0;
}

static void size_mismatch(struct disk *k, const struct fallowd_disk_config *c)
{
	char was[32], is[32];

	config_size_print(k->cfg.size_bytes, was, sizeof(was));
	config_size_print(c->size_bytes, is, sizeof(is));
	state_set(k, DISKS_FAILED,
		"the configuration says %s, but it was made with %s: set its size back, or give up "
		"its contents with `fallow disk rm %s` and reload (SIGHUP)",
		is, was, k->cfg.name);
}

static void disk_configure(struct disks *d, const struct fallowd_disk_config *c)
{
	struct disk *k = disks_disk_of(d, c->name);

	if (k && !k->kept && !k->busy && k->state == DISKS_FAILED) {
		k->used = false; /* a command's, refused */
		k = NULL;
	}
	if (!k) {
		k = disks_disk_take(d, c);
		if (!k) {
			log_error(
				"disks", "disk %s: there are %u disks already", c->name, DISKS_MAX);
			return;
		}
		k->configured = true;
		if (d->started)
			disk_start(k);
		return;
	}
	k->configured = true;
	if (k->state == DISKS_REMOVING)
		return; /* made anew at the next reload */
	if (k->cfg.size_bytes != c->size_bytes) {
		if (k->state == DISKS_SERVING || k->busy)
			log_warn("disks", "the size of disk %s cannot change: it stays as it is",
				c->name);
		else
			size_mismatch(k, c);
		return;
	}
	if (k->state == DISKS_SERVING || k->busy) {
		if (memcmp(&k->cfg, c, sizeof(*c)))
			log_warn("disks", "settings of disk %s changed: that takes a restart",
				c->name);
		return;
	}
	k->cfg = *c;
	if (d->started)
		disk_start(k);
	else
		k->state = DISKS_WAITING;
}

void disks_configure(struct disks *d, const struct fallowd_disk_config *list, uint32_t count)
{
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		struct disk *k = &d->disk[i];
		bool named = false;

		for (uint32_t n = 0; n < count; n++)
			named |= k->used && !strcmp(list[n].name, k->cfg.name);
		if (k->used && k->configured && !named) {
			k->configured = false;
			log_warn("disks",
				"disk %s is not in the configuration any more: it is kept until "
				"`fallow disk rm %s`",
				k->cfg.name, k->cfg.name);
			disks_state_store(d);
		}
	}
	for (uint32_t i = 0; i < count; i++)
		disk_configure(d, &list[i]);
}

void disks_start(struct disks *d)
{
	d->started = true;
	disks_orphans_destroy(d);
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		struct disk *k = &d->disk[i];

		if (k->used && k->state == DISKS_REMOVING)
			removal_go_on(k);
		else if (k->used && k->state == DISKS_WAITING)
			disk_start(k);
	}
}

void disks_retry(struct disks *d)
{
	if (!d->stop_call)
		disks_unused_destroy(d);
	for (unsigned i = 0; i < DISKS_MAX && !d->stop_call; i++) {
		struct disk *k = &d->disk[i];

		if (k->used && !k->busy && k->state == DISKS_WAITING)
			disk_start(k);
	}
}

/* ---- stopping ---- */

static void settled(struct disks *d)
{
	if (!d->stop_call || d->stopped)
		return;
	for (unsigned i = 0; i < DISKS_MAX; i++)
		if (d->disk[i].busy || d->disk[i].service)
			return;
	d->stopped = true;
	d->stop_call->done(d->stop_call, 0, 0);
}

void disks_stop(struct disks *d, struct backend_call *call)
{
	d->stop_call = call;
	for (unsigned i = 0; i < DISKS_MAX; i++)
		if (d->disk[i].service && !d->disk[i].busy)
			disk_unserve(&d->disk[i]);
	settled(d);
}

/* ---- for status ---- */

static void info_fill(const struct disk *k, struct disks_info *out)
{
	*out = (struct disks_info){.config = &k->serve,
		.state = k->state,
		.why = k->why,
		.configured = k->configured,
		.pool = k->pool,
		.shared = k->shared,
		.stale_drops = k->stale_drops,
		.service = k->busy && k->state != DISKS_SERVING ? NULL : k->service};
}

bool disks_next(const struct disks *d, unsigned *cursor, struct disks_info *out)
{
	while (*cursor < DISKS_MAX) {
		const struct disk *k = &d->disk[(*cursor)++];

		if (k->used) {
			info_fill(k, out);
			return true;
		}
	}
	return false;
}

bool disks_find(const struct disks *d, const char *name, struct disks_info *out)
{
	const struct disk *k = disks_disk_of(d, name);

	if (k)
		info_fill(k, out);
	return k;
}
