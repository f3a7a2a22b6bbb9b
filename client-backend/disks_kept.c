/* What is kept of disks over a restart: the list of them, and pools that nobody has any more. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client-backend/disk_settings.h"
#include "client-backend/disk_source.h"
#include "client-backend/disks_impl.h"
#include "client-backend/state_file.h"
#include "lib/core/log.h"

#define STATE_FILE	 "disks"
#define STATE_FILE_BYTES (256u << 10)

int disks_state_store(struct disks *d)
{
	json_t *root = json_object(), *list = json_array();

	for (unsigned i = 0; i < DISKS_MAX; i++) {
		const struct disk *k = &d->disk[i];

		if (!k->used || !k->kept)
			continue;
		json_t *o = disk_settings_write(&k->cfg);
		json_object_set_new(o, "pool", json_integer(k->pool ? k->pool : k->kept_pool));
		json_object_set_new(o, "configured", json_boolean(k->configured));
		json_object_set_new(o, "removing", json_boolean(k->state == DISKS_REMOVING));
		json_array_append_new(list, o);
	}
	json_object_set_new(root, "disks", list);
	char *text = json_dumps(root, JSON_INDENT(1));
	json_decref(root);
	int r = text ? state_file_replace(d->state_dir, STATE_FILE, text) : -ENOMEM;
	free(text);
	if (r < 0)
		log_error(
			"disks", "cannot write %s/" STATE_FILE ": %s", d->state_dir, strerror(-r));
	return r;
}

static int state_read(struct disks *d, const json_t *root, char *err, size_t err_bytes)
{
	static const char *const other[] = {"pool", "configured", "removing", NULL};
	struct fallowd_disk_config c;
	const json_t *o;
	size_t i;

	json_array_foreach(json_object_get(root, "disks"), i, o)
	{
		int r = disk_settings_read(o, other, &c, err, err_bytes);
		struct disk *k = r < 0 ? NULL : disks_disk_take(d, &c);

		if (!k)
			return -EBADMSG;
		k->kept = true;
		k->kept_pool = (uint32_t)json_integer_value(json_object_get(o, "pool"));
		k->configured = json_is_true(json_object_get(o, "configured"));
		if (json_is_true(json_object_get(o, "removing")))
			k->state = DISKS_REMOVING;
	}
	return 0;
}

int disks_load(struct disks *d, char *err, size_t err_bytes)
{
	char *text = malloc(STATE_FILE_BYTES), what[320] = "it is not what was written";

	if (!text)
		return -ENOMEM;
	ssize_t n = state_file_read(d->state_dir, STATE_FILE, text, STATE_FILE_BYTES);
	json_t *root = n < 0 ? NULL : json_loads(text, 0, NULL);
	int r = n == -ENOENT ? 0 : n < 0 ? (int)n : root ? 0 : -EBADMSG;
	free(text);
	if (n < 0 && r)
		snprintf(err, err_bytes, "cannot read %s/" STATE_FILE ": %s", d->state_dir,
			strerror(-r));
	else if (!r && root)
		r = state_read(d, root, what, sizeof(what));
	if (r == -EBADMSG)
		snprintf(err, err_bytes,
			"%s/" STATE_FILE " is damaged (%s): restore it, or remove it "
			"and add the disks again",
			d->state_dir, what);
	json_decref(root);
	return r;
}

static void orphan_destroyed(struct backend_call *call, int status, uint64_t value)
{
	free(call);
}

void disks_orphans_destroy(struct disks *d)
{
	static const uint8_t none[16];
	const struct engine_pool_desc *p;

	for (uint32_t cursor = 0; (p = pools_next(d->pools, &cursor));) {
		if (strncmp(p->owner, DISKS_OWNER_PREFIX, strlen(DISKS_OWNER_PREFIX)) ||
			disks_disk_of(d, p->owner + strlen(DISKS_OWNER_PREFIX)))
			continue;
		struct backend_call *call = malloc(sizeof(*call));
		uint32_t id = p->id;

		if (!call)
			return;
		log_warn("disks", "nobody knows the disk of pool %u (%s): its pages are removed",
			id, p->owner);
		call->done = orphan_destroyed;
		char owner[ENGINE_NAME_BYTES];
		snprintf(owner, sizeof(owner), "%s", p->owner);
		pools_destroy(d->pools, owner, none, id, call);
		d->ops->forget(d->ctx, id);
	}
}

static bool pool_has_disk(const struct disks *d, uint32_t pool)
{
	for (unsigned i = 0; i < DISKS_MAX; i++)
		if (d->disk[i].used && (d->disk[i].pool == pool || d->disk[i].base_pool == pool))
			return true;
	return false;
}

/* Whether a pool of an image without a disk has had its time. */
static bool unused_for_long(struct disks *d, uint32_t pool)
{
	unsigned at = DISKS_MAX;

	for (unsigned i = 0; i < DISKS_MAX; i++) {
		if (d->unused[i].pool == pool) {
			at = i;
			break;
		}
		if (!d->unused[i].pool)
			at = i;
	}
	if (at == DISKS_MAX)
		return false; /* later */
	if (d->unused[at].pool != pool)
		d->unused[at].retries = 0;
	d->unused[at].pool = pool;
	return d->unused[at].retries++ >= d->linger_retries;
}

void disks_unused_destroy(struct disks *d)
{
	static const uint8_t none[16];
	const struct engine_pool_desc *p;

	/* Those that were taken again, or are gone, are counted anew. */
	for (unsigned i = 0; i < DISKS_MAX; i++)
		if (d->unused[i].pool && (!pools_find(d->pools, d->unused[i].pool) ||
						 pool_has_disk(d, d->unused[i].pool)))
			d->unused[i].pool = 0;
	for (uint32_t cursor = 0; (p = pools_next(d->pools, &cursor));) {
		if (strncmp(p->owner, DISK_SOURCE_SHARED_PREFIX,
			    strlen(DISK_SOURCE_SHARED_PREFIX)) ||
			pool_has_disk(d, p->id) || !unused_for_long(d, p->id))
			continue;
		struct backend_call *call = malloc(sizeof(*call));
		uint32_t id = p->id;

		if (!call)
			return;
		log_info("disks", "no disk has used the cache of pool %u for long: it is removed",
			id);
		call->done = orphan_destroyed;
		char owner[ENGINE_NAME_BYTES];
		snprintf(owner, sizeof(owner), "%s", p->owner);
		pools_destroy(d->pools, owner, none, id, call);
		d->ops->forget(d->ctx, id);
	}
}
