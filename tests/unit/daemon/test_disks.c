/* The registry of disks: what a disk needs before it is served, what is kept, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client-backend/disk_settings.h"
#include "client-backend/disk_source.h"
#include "client-backend/disks.h"

struct disk_service {
	char name[64], socket[108], serial[32];
	uint32_t pool;
};

static char dir[] = "/tmp/fallow-disks-test.XXXXXX";
static struct pools *pools;
static struct disks *disks;
static struct engine_pool_desc rows[64]; /* what the one lane holds, as its arena would */
static unsigned row_count;
/* Answers of the surroundings. */
static int reserve_status, serve_status, account_status;
static bool reserve_later, is_connected;
static struct reserves_call *reserve_call;
static uint64_t reserve_pages;
static struct backend_call *unserve_call;
static bool unserve_later;
static unsigned served, forgotten;
static char err[256];
/* Images of cached disks. */
static struct image image = {.size_bytes = 8192, .notes = ""};
static int source_status;
static bool source_later;
static uint32_t source_stale; /* pools up to this one are */
static struct disks_opening *opening;
static const struct fallowd_disk_config *opening_disk;
static unsigned sources;

static void lanes_add(void *ctx, const struct engine_pool_desc *d, struct backend_call *call)
{
	rows[row_count++] = *d;
	call->done(call, 0, 0);
}

static void lanes_destroy(void *ctx, uint32_t id, struct backend_call *call)
{
	for (unsigned i = 0; i < row_count; i++)
		if (rows[i].id == id)
			rows[i] = rows[--row_count];
	call->done(call, 0, 0);
}

static int reserve_ids(void *ctx, uint32_t next_id)
{
	return 0;
}

static const struct pools_ops pools_ops = {
	.lanes_add = lanes_add, .lanes_destroy = lanes_destroy, .reserve_ids = reserve_ids};

static int op_account(void *ctx, const struct fallowd_disk_config *c, unsigned *account)
{
	*account = 3;
	return account_status;
}

static void op_reserve(void *ctx, uint32_t pool, uint64_t pages, struct reserves_call *call)
{
	reserve_pages = pages;
	reserve_call = call;
	if (reserve_later)
		return;
	if (reserve_status)
		snprintf(call->why, sizeof(call->why), "8 pages asked for, 3 could be had");
	call->done(call, reserve_status);
}

static struct disk_source *source_new(const struct fallowd_disk_config *c)
{
	struct disk_source *s = calloc(1, sizeof(*s));

	s->image = &image;
	s->identity.size_bytes = image.size_bytes;
	s->shared = c->readonly;
	if (s->shared)
		snprintf(s->pool_owner, sizeof(s->pool_owner), "image:%.20s", c->image);
	sources++;
	return s;
}

static void op_source_open(void *ctx, const struct fallowd_disk_config *c, struct disks_opening *o)
{
	opening = o;
	opening_disk = c;
	if (source_later)
		return;
	if (source_status)
		snprintf(o->err, sizeof(o->err), "the image is in use");
	o->done(o, source_status, source_status ? NULL : source_new(c));
}

static void op_source_close(void *ctx, struct disk_source *s)
{
	sources--;
	free(s);
}

static bool op_source_valid(void *ctx, const struct fallowd_disk_config *c,
	const struct disk_source *s, uint32_t pool, const char **why)
{
	*why = "somebody changed it";
	return pool > source_stale;
}

static int op_serve(void *ctx, const struct fallowd_disk_config *c, uint32_t pool,
	struct disk_source *source, struct disk_service **out, char *text, size_t bytes)
{
	if (serve_status) {
		snprintf(text, bytes, "the socket is taken");
		return serve_status;
	}
	if (source)
		op_source_close(ctx, source);
	struct disk_service *s = calloc(1, sizeof(*s));
	strcpy(s->name, c->name);
	strcpy(s->socket, c->socket);
	strcpy(s->serial, c->serial);
	s->pool = pool;
	*out = s;
	served++;
	return 0;
}

static void op_unserve(void *ctx, struct disk_service *s, struct backend_call *call)
{
	free(s);
	served--;
	unserve_call = call;
	if (!unserve_later)
		call->done(call, 0, 0);
}

static bool op_connected(void *ctx, const struct disk_service *s)
{
	return is_connected;
}

static void op_forget(void *ctx, uint32_t pool)
{
	forgotten = pool;
}

static const struct disks_ops ops = {.account = op_account,
	.reserve = op_reserve,
	.source_open = op_source_open,
	.source_close = op_source_close,
	.source_valid = op_source_valid,
	.serve = op_serve,
	.unserve = op_unserve,
	.connected = op_connected,
	.forget = op_forget};

static struct fallowd_disk_config disk(const char *name, uint64_t size)
{
	struct fallowd_disk_config c;

	config_defaults(&fallowd_disk_schema, &c);
	snprintf(c.name, sizeof(c.name), "%s", name);
	c.size_bytes = size;
	return c;
}

static void boot(const struct fallowd_disk_config *list, uint32_t count)
{
	struct pools_config pc = {.lanes = 1,
		.max_pools_per_owner = 8,
		.codec = ENGINE_CODEC_LZ4,
		.copies = 2,
		.next_id = 100 + row_count * 256};
	struct disks_config dc = {
		.state_dir = dir, .socket_path = "/run/fallow/fallowd.sock", .linger_retries = 2};

	assert_int_equal(pools_new(&pc, &pools_ops, NULL, &pools), 0);
	for (unsigned i = 0; i < row_count; i++)
		assert_int_equal(pools_adopt(pools, 0, &rows[i]), 0);
	pools_adopted(pools);
	assert_int_equal(disks_new(&dc, pools, &ops, NULL, &disks), 0);
	int r = disks_load(disks, err, sizeof(err));
	if (r)
		fail_msg("%s", err);
	disks_configure(disks, list, count);
	disks_start(disks);
}

static void on_stopped(struct backend_call *call, int status, uint64_t value)
{
	call->done = NULL;
}

static void halt(void)
{
	struct backend_call call = {.done = on_stopped};

	disks_stop(disks, &call);
	assert_null(call.done);
	assert_int_equal(served, 0);
	disks_delete(disks);
	pools_delete(pools);
}

static void reboot_with(const struct fallowd_disk_config *list, uint32_t count)
{
	halt();
	boot(list, count);
}

static enum disks_state state_of(const char *name)
{
	struct disks_info i;

	return disks_find(disks, name, &i) ? i.state : DISKS_STATES;
}

static const char *why_of(const char *name)
{
	static struct disks_info i;

	return disks_find(disks, name, &i) ? i.why : "";
}

static int add(const char *name, uint64_t size)
{
	struct fallowd_disk_config c = disk(name, size);

	return disks_add(disks, &c, err, sizeof(err));
}

static int add_cached(const char *name, const char *path, bool readonly)
{
	struct fallowd_disk_config c = disk(name, 0);

	c.kind = FALLOWD_DISK_CACHED;
	c.readonly = readonly;
	snprintf(c.image, sizeof(c.image), "%s", path);
	return disks_add(disks, &c, err, sizeof(err));
}

static struct disks_info info_of(const char *name)
{
	struct disks_info i = {0};

	assert_true(disks_find(disks, name, &i));
	return i;
}

static int drop(const char *name, bool force)
{
	return disks_remove(disks, name, force, err, sizeof(err));
}

static int setup(void **state)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/disks", dir);
	unlink(path);
	row_count = 0;
	reserve_status = serve_status = account_status = 0;
	reserve_later = is_connected = unserve_later = false;
	served = forgotten = 0;
	boot(NULL, 0);
	return 0;
}

static int teardown(void **state)
{
	halt();
	return 0;
}

static void test_add_and_remove(void **state)
{
	struct disks_info i;

	assert_int_equal(add("vm1", 1 << 20), 0);
	assert_true(disks_find(disks, "vm1", &i));
	assert_int_equal(i.state, DISKS_SERVING);
	assert_string_equal(i.service->socket, "/run/fallow/disk-vm1.sock");
	assert_string_equal(i.service->serial, "vm1");
	assert_int_equal(reserve_pages, 256);
	assert_int_equal(row_count, 1);
	assert_string_equal(rows[0].owner, "disk:vm1");
	assert_int_equal(rows[0].flags, ENGINE_POOL_PERSISTENT);
	assert_int_equal(rows[0].account, 3);
	uint32_t pool = i.pool;
	assert_int_equal(add("vm1", 1 << 20), -EEXIST);

	/* A restart serves it again, from the same pool. */
	reboot_with(NULL, 0);
	assert_true(disks_find(disks, "vm1", &i));
	assert_int_equal(i.state, DISKS_SERVING);
	assert_int_equal(i.pool, pool);

	is_connected = true;
	assert_int_equal(drop("vm1", false), -EBUSY);
	assert_non_null(strstr(err, "--force"));
	assert_int_equal(drop("vm1", true), 0);
	assert_int_equal(state_of("vm1"), DISKS_STATES);
	assert_int_equal(row_count, 0);
	assert_int_equal(forgotten, pool);
	assert_int_equal(drop("vm1", false), -ENOENT);
	reboot_with(NULL, 0);
	assert_int_equal(state_of("vm1"), DISKS_STATES);
}

static void test_no_room(void **state)
{
	reserve_status = -ENOSPC;
	assert_int_equal(add("vm1", 32768), 0);
	assert_int_equal(state_of("vm1"), DISKS_FAILED);
	assert_non_null(strstr(why_of("vm1"), "3 could be had"));
	/* Nothing of it stays, and it may be asked for again. */
	assert_int_equal(row_count, 0);
	assert_int_equal(served, 0);
	reserve_status = 0;
	assert_int_equal(add("vm1", 16384), 0);
	assert_int_equal(state_of("vm1"), DISKS_SERVING);
	/* One that was promised already waits when there is no room after a restart. */
	reserve_status = -ENOSPC;
	reboot_with(NULL, 0);
	assert_int_equal(state_of("vm1"), DISKS_WAITING);
	assert_int_equal(row_count, 1);
	disks_retry(disks);
	assert_int_equal(state_of("vm1"), DISKS_WAITING);
	reserve_status = 0;
	disks_retry(disks);
	assert_int_equal(state_of("vm1"), DISKS_SERVING);
}

static void test_configured(void **state)
{
	struct fallowd_disk_config list[2] = {disk("a", 8192), disk("b", 4096)};

	strcpy(list[1].socket, "/run/b.sock");
	reboot_with(list, 2);
	assert_int_equal(state_of("a"), DISKS_SERVING);
	assert_int_equal(state_of("b"), DISKS_SERVING);
	assert_int_equal(drop("a", true), -EPERM);
	/* Another size: said, and what is there is kept. */
	list[0].size_bytes = 12288;
	reboot_with(list, 2);
	assert_int_equal(state_of("a"), DISKS_FAILED);
	assert_non_null(strstr(why_of("a"), "12KiB"));
	assert_non_null(strstr(why_of("a"), "8KiB"));
	assert_int_equal(row_count, 2);
	assert_int_equal(state_of("b"), DISKS_SERVING);
	/* The size set back, or its contents given up. */
	list[0].size_bytes = 8192;
	disks_configure(disks, list, 2);
	assert_int_equal(state_of("a"), DISKS_SERVING);
	list[0].size_bytes = 12288;
	reboot_with(list, 2);
	assert_int_equal(drop("a", false), 0);
	assert_int_equal(row_count, 1);
	disks_configure(disks, list, 2);
	assert_int_equal(state_of("a"), DISKS_SERVING);
	assert_int_equal(reserve_pages, 3);
	/* Taken out of the list: kept and served until it is removed. */
	disks_configure(disks, list, 1);
	assert_int_equal(state_of("b"), DISKS_SERVING);
	reboot_with(list, 1);
	assert_int_equal(state_of("b"), DISKS_SERVING);
	assert_int_equal(drop("b", false), 0);
	/* New ones come with a reload. */
	list[1] = disk("c", 4096);
	disks_configure(disks, list, 2);
	assert_int_equal(state_of("c"), DISKS_SERVING);
}

static void test_serve_fails(void **state)
{
	struct fallowd_disk_config list[1] = {disk("a", 8192)};

	serve_status = -EADDRINUSE;
	reboot_with(list, 1);
	assert_int_equal(state_of("a"), DISKS_WAITING);
	assert_string_equal(why_of("a"), "the socket is taken");
	serve_status = 0;
	disks_retry(disks);
	assert_int_equal(state_of("a"), DISKS_SERVING);
	serve_status = -EADDRINUSE;
	assert_int_equal(add("b", 4096), 0);
	assert_int_equal(state_of("b"), DISKS_FAILED);
	assert_int_equal(row_count, 1);
	account_status = -ENOENT;
	assert_int_equal(add("c", 4096), 0);
	assert_int_equal(state_of("c"), DISKS_FAILED);
	reboot_with(list, 1);
	assert_int_equal(state_of("b"), DISKS_STATES);
	assert_int_equal(state_of("c"), DISKS_STATES);
	assert_int_equal(state_of("a"), DISKS_FAILED);
}

/* Whatever a restart interrupts is finished by the next one. */
static void test_cut_short(void **state)
{
	struct backend_call stop = {.done = on_stopped};

	reserve_later = true;
	assert_int_equal(add("vm1", 4096), 0);
	assert_int_equal(state_of("vm1"), DISKS_RESERVING);
	assert_int_equal(drop("vm1", true), -EBUSY);
	disks_stop(disks, &stop);
	assert_non_null(stop.done);
	reserve_call->done(reserve_call, -ECANCELED);
	assert_null(stop.done);
	disks_delete(disks);
	pools_delete(pools);
	assert_int_equal(row_count, 1);
	reserve_later = false;
	boot(NULL, 0);
	/* Nobody was told that it is there: its pool is removed. */
	assert_int_equal(row_count, 0);
	assert_true(forgotten != 0);

	assert_int_equal(add("vm2", 4096), 0);
	unserve_later = true;
	assert_int_equal(drop("vm2", true), 0);
	assert_int_equal(state_of("vm2"), DISKS_REMOVING);
	assert_int_equal(drop("vm2", true), -EBUSY);
	stop.done = on_stopped;
	disks_stop(disks, &stop);
	unserve_call->done(unserve_call, 0, 0);
	assert_null(stop.done);
	disks_delete(disks);
	pools_delete(pools);
	assert_int_equal(row_count, 1);
	unserve_later = false;
	boot(NULL, 0);
	assert_int_equal(row_count, 0);
	assert_int_equal(state_of("vm2"), DISKS_STATES);
}

static void test_lost_arenas(void **state)
{
	struct disks_info i;

	assert_int_equal(add("vm1", 4096), 0);
	halt();
	row_count = 0;
	boot(NULL, 0);
	assert_true(disks_find(disks, "vm1", &i));
	assert_int_equal(i.state, DISKS_SERVING);
	assert_int_not_equal(i.pool, 0);
}

static void test_damaged_file(void **state)
{
	char path[128];
	struct disks *other;
	struct disks_config dc = {.state_dir = dir, .socket_path = "/s"};
	static const char *const bad[] = {"", "{", "{\"disks\": [1]}",
		"{\"disks\": [{\"name\": \"x\"}]}", "{\"disks\": [{\"name\": \"x\", \"size\": 5}]}",
		"{\"disks\": [{\"name\": \"x\", \"size\": 4096, \"what\": 5}]}"};

	snprintf(path, sizeof(path), "%s/disks", dir);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		FILE *f = fopen(path, "w");

		fputs(bad[i], f);
		fclose(f);
		assert_int_equal(disks_new(&dc, pools, &ops, NULL, &other), 0);
		assert_int_equal(disks_load(other, err, sizeof(err)), -EBADMSG);
		assert_non_null(strstr(err, "damaged"));
		disks_delete(other);
	}
	unlink(path);
}

static void test_settings(void **state)
{
	static const char *const none[] = {NULL};
	struct fallowd_disk_config c, again;
	json_t *o = json_pack("{s:s, s:s, s:i, s:s, s:s}", "name", "vm1", "size", "2GiB", "queues",
		4, "disk", "mirror", "codec", "zstd");

	assert_int_equal(disk_settings_read(o, none, &c, err, sizeof(err)), 0);
	assert_int_equal(c.size_bytes, 2ull << 30);
	assert_int_equal(c.queues, 4);
	assert_int_equal(c.disk, POOLS_DISK_MIRROR);
	assert_int_equal(c.weight, 100);
	json_decref(o);
	o = disk_settings_write(&c);
	assert_int_equal(disk_settings_read(o, none, &again, err, sizeof(err)), 0);
	assert_memory_equal(&c, &again, sizeof(c));
	json_decref(o);
	o = json_pack("{s:s}", "name", "vm1");
	assert_int_equal(disk_settings_read(o, none, &c, err, sizeof(err)), -EINVAL);
	json_decref(o);
	o = json_pack("{s:s, s:i}", "name", "vm1", "size", 4097);
	assert_int_equal(disk_settings_read(o, none, &c, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "4KiB"));
	json_decref(o);
	o = json_pack("{s:s, s:s}", "name", "a/b", "size", "4KiB");
	assert_int_equal(disk_settings_read(o, none, &c, err, sizeof(err)), -EINVAL);
	json_decref(o);
}

/* A cached disk needs no grant; its image is opened first, and closed when it is not served. */
static void test_cached(void **state)
{
	reserve_pages = 0;
	source_status = -EBUSY;
	assert_int_equal(add_cached("c", "/images/c", false), 0);
	assert_int_equal(state_of("c"), DISKS_FAILED);
	assert_string_equal(why_of("c"), "the image is in use");
	source_status = 0;
	serve_status = -EADDRINUSE;
	assert_int_equal(add_cached("c", "/images/c", false), 0);
	assert_int_equal(state_of("c"), DISKS_FAILED);
	assert_int_equal(row_count, 0);
	assert_int_equal(sources, 0);
	serve_status = 0;
	assert_int_equal(add_cached("c", "/images/c", false), 0);
	assert_int_equal(state_of("c"), DISKS_SERVING);
	assert_int_equal(info_of("c").config->size_bytes, image.size_bytes);
	assert_int_equal(reserve_pages, 0);
	assert_false(rows[0].flags & ENGINE_POOL_PERSISTENT);
	uint32_t pool = info_of("c").pool;
	/* What is cached is believed or not. */
	reboot_with(NULL, 0);
	assert_int_equal(info_of("c").pool, pool);
	assert_int_equal(info_of("c").stale_drops, 0);
	source_stale = pool;
	reboot_with(NULL, 0);
	source_stale = 0;
	assert_int_equal(state_of("c"), DISKS_SERVING);
	assert_int_not_equal(info_of("c").pool, pool);
	assert_int_equal(forgotten, pool);
	assert_int_equal(info_of("c").stale_drops, 1);
	assert_int_equal(row_count, 1);
	/* Not even an empty pool is right: no circle. */
	source_stale = UINT32_MAX;
	reboot_with(NULL, 0);
	source_stale = 0;
	assert_int_equal(state_of("c"), DISKS_WAITING);
	assert_string_equal(why_of("c"), "somebody changed it");
	disks_retry(disks);
	assert_int_equal(state_of("c"), DISKS_SERVING);
	/* One of the list waits for its image. */
	source_status = -EBUSY;
	reboot_with(NULL, 0);
	assert_int_equal(state_of("c"), DISKS_WAITING);
	source_status = 0;
	disks_retry(disks);
	assert_int_equal(state_of("c"), DISKS_SERVING);
	assert_int_equal(drop("c", false), 0);
	assert_int_equal(row_count, 0);
	assert_int_equal(sources, 0);
	halt();
	boot(NULL, 0);
}

/* Stopped while an image is being opened: nothing stays open. */
static void test_cached_stop(void **state)
{
	struct backend_call call = {.done = on_stopped};

	source_later = true;
	assert_int_equal(add_cached("c", "/images/c", false), 0);
	assert_int_equal(state_of("c"), DISKS_OPENING);
	assert_int_equal(drop("c", false), -EBUSY);
	disks_stop(disks, &call);
	assert_non_null(call.done);
	source_later = false;
	opening->done(opening, 0, source_new(opening_disk));
	assert_null(call.done);
	assert_int_equal(sources, 0);
	disks_delete(disks);
	pools_delete(pools);
	boot(NULL, 0);
}

/* Readers of an image share its pool, which outlives the last of them for a while. */
static void test_cached_shared(void **state)
{
	assert_int_equal(add_cached("a", "/images/base", true), 0);
	assert_int_equal(add_cached("b", "/images/base", true), 0);
	assert_int_equal(state_of("b"), DISKS_SERVING);
	assert_int_equal(info_of("a").pool, info_of("b").pool);
	assert_true(info_of("a").shared);
	assert_int_equal(row_count, 1);
	/* Not dropped under another disk that has it. */
	source_stale = info_of("a").pool;
	assert_int_equal(add_cached("c", "/images/base", true), 0);
	source_stale = 0;
	assert_int_equal(info_of("c").pool, info_of("a").pool);
	assert_int_equal(drop("a", false), 0);
	assert_int_equal(drop("b", false), 0);
	for (unsigned i = 0; i < 5; i++)
		disks_retry(disks);
	assert_int_equal(row_count, 1);
	reboot_with(NULL, 0);
	assert_int_equal(state_of("c"), DISKS_SERVING);
	assert_int_equal(row_count, 1);
	assert_int_equal(drop("c", false), 0);
	disks_retry(disks);
	disks_retry(disks);
	assert_int_equal(row_count, 1);
	/* Taken again in time: it starts anew. */
	assert_int_equal(add_cached("d", "/images/base", true), 0);
	disks_retry(disks);
	assert_int_equal(row_count, 1);
	assert_int_equal(drop("d", false), 0);
	disks_retry(disks);
	disks_retry(disks);
	assert_int_equal(row_count, 1);
	disks_retry(disks);
	assert_int_equal(row_count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_add_and_remove, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_configured, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serve_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_short, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost_arenas, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cached_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cached_shared, setup, teardown),
		cmocka_unit_test(test_settings),
	};

	if (!mkdtemp(dir))
		return 1;
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	char path[128];
	snprintf(path, sizeof(path), "%s/disks", dir);
	unlink(path);
	rmdir(dir);
	return r;
}
