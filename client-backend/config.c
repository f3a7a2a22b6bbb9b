/* The schema of the backend's settings: names, bounds, defaults and what they mean. */
#include "client-backend/config.h"

#include <errno.h>
#include <string.h>

#include "client-backend/frontend/nbd_server.h"
#include "client-backend/frontend/vhost_device.h"

static const struct config_choice codec_words[] = {
	{"none", ENGINE_CODEC_NONE},
	{"lz4", ENGINE_CODEC_LZ4},
	{"zstd", ENGINE_CODEC_ZSTD},
	{NULL, 0},
};

static const struct config_choice disk_words[] = {
	{"never", ENGINE_DISK_NEVER},
	{"overflow", ENGINE_DISK_OVERFLOW},
	{"mirror", ENGINE_DISK_MIRROR},
	{NULL, 0},
};

static const struct config_choice guest_memory_words[] = {
	{"bounce", FALLOWD_GUEST_BOUNCE},
	{"pinned", FALLOWD_GUEST_PINNED},
	{NULL, 0},
};

static const struct config_choice disk_frontend_words[] = {
	{"vhost-user", FALLOWD_FRONTEND_VHOST},
	{"nbd", FALLOWD_FRONTEND_NBD},
	{NULL, 0},
};

static const struct config_choice disk_kind_words[] = {
	{"swap", FALLOWD_DISK_SWAP},
	{"cached", FALLOWD_DISK_CACHED},
	{NULL, 0},
};

static const struct config_choice keep_words[] = {
	{"auto", FALLOWD_KEEP_AUTO},
	{"always", FALLOWD_KEEP_ALWAYS},
	{NULL, 0},
};

static const struct config_choice pool_codec_words[] = {
	{"default", POOLS_CODEC_DEFAULT},
	{"none", POOLS_CODEC_NONE},
	{"lz4", POOLS_CODEC_LZ4},
	{"zstd", POOLS_CODEC_ZSTD},
	{NULL, 0},
};

static const struct config_choice pool_disk_words[] = {
	{"default", POOLS_DISK_DEFAULT},
	{"never", POOLS_DISK_NEVER},
	{"overflow", POOLS_DISK_OVERFLOW},
	{"mirror", POOLS_DISK_MIRROR},
	{NULL, 0},
};

static const struct config_choice transport_words[] = {
	{"auto", CLUSTER_TRANSPORT_AUTO},
	{"tcp", CLUSTER_TRANSPORT_TCP},
	{"verbs", CLUSTER_TRANSPORT_VERBS},
	{NULL, 0},
};

static const struct config_choice verbs_words[] = {
	{"auto", FALLOWD_VERBS_AUTO},
	{"on", FALLOWD_VERBS_ON},
	{"off", FALLOWD_VERBS_OFF},
	{NULL, 0},
};

static const struct config_field socket_fields[] = {
	CONFIG_TEXT(fallowd_config, "path", socket.path, CONFIG_PATH, "/run/fallow/fallowd.sock",
		CONFIG_NOT_EMPTY, "Unix socket for libfallow's clients."),
	CONFIG_VALUE(fallowd_config, "mode", socket.mode, CONFIG_MODE, "0660", 0, 0777,
		"Permission bits of the socket."),
	CONFIG_TEXT(fallowd_config, "group", socket.group, CONFIG_STRING, "", CONFIG_MAY_BE_EMPTY,
		"Group of the socket; empty for that of the process."),
	CONFIG_VALUE(fallowd_config, "max_sessions", socket.max_sessions, CONFIG_NUMBER, "64", 1,
		4096, "Clients connected at a time; more are refused."),
	CONFIG_VALUE(fallowd_config, "session_grace", socket.session_grace_ns, CONFIG_DURATION,
		"10s", 0, 3600 * CONFIG_S,
		"How long the unnamed private pools of a client that went away are kept."),
	CONFIG_VALUE(fallowd_config, "slots", socket.slots, CONFIG_NUMBER, "64", 1, 64,
		"Requests in flight at a time, for each lane of each client."),
	CONFIG_END,
};

static const struct config_field cpu_fields[] = {
	{.name = "",
		.type = CONFIG_NUMBER,
		.size = sizeof(uint32_t),
		.max = 1023,
		.help = "A processor's number."},
	CONFIG_END,
};

static const struct config_field lane_fields[] = {
	CONFIG_VALUE(fallowd_config, "count", lanes.count, CONFIG_NUMBER, "1", 1, FALLOWD_MAX_LANES,
		"Data threads. The stored pages belong to lanes: it cannot change while they are "
		"kept."),
	CONFIG_ARRAY(fallowd_config, "cpus", lanes.cpus, lanes.cpu_count, cpu_fields,
		"Processors to pin lanes to, in turn; an empty list pins none."),
	CONFIG_VALUE(fallowd_config, "idle_poll", lanes.idle_poll_ns, CONFIG_DURATION, "50us", 0,
		1 * CONFIG_S, "A lane with nothing to do polls for this long, then sleeps."),
	CONFIG_VALUE(fallowd_config, "get_poll", lanes.get_poll_ns, CONFIG_DURATION, "200us", 0,
		1 * CONFIG_S,
		"The same while a get waits for a donor or the disk: sleeping and waking would "
		"cost "
		"more than a fast network does. The shorter of the two never counts."),
	CONFIG_END,
};

static const struct config_field store_fields[] = {
	CONFIG_VALUE(fallowd_config, "size", store.size, CONFIG_AMOUNT, "256MiB", 0, 0,
		"The local tier, all lanes together; a size or a percentage of RAM."),
	CONFIG_VALUE(fallowd_config, "segment", store.segment_bytes, CONFIG_SIZE, "1MiB",
		64 * CONFIG_KIB, 4 * CONFIG_MIB,
		"Length of a segment, the unit that moves between tiers; a power of two."),
	CONFIG_VALUE(fallowd_config, "max_pages", store.max_pages, CONFIG_COUNT, "0", 0,
		(uint64_t)1 << 40,
		"Pages that the index can hold; 0 for 64 times what fits the local tier "
		"uncompressed."),
	CONFIG_VALUE(fallowd_config, "max_objects", store.max_objects, CONFIG_COUNT, "0", 0,
		(uint64_t)1 << 32, "Objects at a time; 0 for one per 16 pages."),
	CONFIG_VALUE(fallowd_config, "huge_pages", store.huge_pages, CONFIG_BOOL, "true", 0, 0,
		"Ask for transparent huge pages for the arenas."),
	CONFIG_VALUE(fallowd_config, "lock_memory", store.lock_memory, CONFIG_BOOL, "false", 0, 0,
		"Lock the arenas into memory; needs CAP_IPC_LOCK or a large enough limit."),
	CONFIG_VALUE(fallowd_config, "spill_percent", store.spill_percent, CONFIG_PERCENT, "25%", 1,
		90,
		"Spill when a smaller share of the local tier is free or has copies on donors."),
	CONFIG_VALUE(fallowd_config, "live_percent", store.live_percent, CONFIG_PERCENT, "85%", 50,
		95, "Clean segments until live bytes are this share of the bytes held."),
	CONFIG_VALUE(fallowd_config, "probation_percent", store.probation_percent, CONFIG_PERCENT,
		"10%", 1, 90,
		"Of what ephemeral pages hold, the share for those not read yet; what is read "
		"once, "
		"as by a scan, takes no more than this from the others."),
	CONFIG_VALUE(fallowd_config, "fetches", store.fetches, CONFIG_NUMBER, "256", 2, 4096,
		"Reads in flight at a time, each lane."),
	CONFIG_VALUE(fallowd_config, "checksum_percent", store.checksum_percent, CONFIG_NUMBER, "6",
		0, 100,
		"For this share of max_pages the checksums of incompressible pages are kept in "
		"DRAM, 16 bytes each: a get of such a page from a donor is then one packet of 4096 "
		"bytes."),
	CONFIG_VALUE(fallowd_config, "moves", store.moves, CONFIG_NUMBER, "8", 2, 64,
		"Segments on the move at a time, each lane."),
	CONFIG_END,
};

static const struct config_field timing_fields[] = {
	CONFIG_VALUE(fallowd_config, "hedge", timing.hedge_ns, CONFIG_DURATION, "5ms", 0,
		60 * CONFIG_S, "A get asks the next holder too after this; 0 for never."),
	CONFIG_VALUE(fallowd_config, "get_timeout", timing.get_timeout_ns, CONFIG_DURATION, "10s",
		10 * CONFIG_MS, 600 * CONFIG_S, "A get that nobody answers fails after this."),
	CONFIG_VALUE(fallowd_config, "cache_timeout", timing.cache_timeout_ns, CONFIG_DURATION,
		"250ms", 1 * CONFIG_MS, 600 * CONFIG_S,
		"The same for a page of an ephemeral pool, which is a miss then."),
	CONFIG_VALUE(fallowd_config, "direct_timeout", timing.direct_timeout_ns, CONFIG_DURATION,
		"200ms", 1 * CONFIG_MS, 60 * CONFIG_S,
		"A read into a pinned guest's memory that takes longer breaks its connection, once "
		"another holder has answered."),
	CONFIG_VALUE(fallowd_config, "put_wait", timing.put_wait_ns, CONFIG_DURATION, "1s", 0,
		60 * CONFIG_S, "A put waits this long for room that is being made; then refused."),
	CONFIG_VALUE(fallowd_config, "retry", timing.retry_ns, CONFIG_DURATION, "500ms",
		1 * CONFIG_MS, 600 * CONFIG_S,
		"A move of a segment that failed is tried again then."),
	CONFIG_VALUE(fallowd_config, "io_timeout", timing.io_timeout_ns, CONFIG_DURATION, "5s",
		10 * CONFIG_MS, 600 * CONFIG_S,
		"A transfer that takes longer breaks its connection, which is made anew."),
	CONFIG_END,
};

static const struct config_field pool_fields[] = {
	CONFIG_VALUE(fallowd_config, "copies", pools.copies, CONFIG_NUMBER, "2", 1,
		ENGINE_MAX_COPIES,
		"Donors that hold each segment of a persistent pool: one fewer may be lost."),
	CONFIG_WORD(fallowd_config, "codec", pools.codec, codec_words, "lz4", "Compression."),
	CONFIG_WORD(fallowd_config, "disk", pools.disk, disk_words, "overflow",
		"Copies on the disk tier: never; overflow: when the donors have no room; mirror: "
		"always."),
	CONFIG_VALUE(fallowd_config, "zstd_level", pools.zstd_level, CONFIG_NUMBER, "3", 1, 19,
		"Level of zstd in the pools that use it."),
	CONFIG_END,
};

static const struct config_field remote_fields[] = {
	CONFIG_VALUE(fallowd_config, "max_lease", remote.max_lease, CONFIG_AMOUNT, "16GiB", 0, 0,
		"The most to lease from all donors together; a size, or a percentage of this "
		"machine's RAM."),
	CONFIG_WORD(fallowd_config, "verbs", remote.verbs, verbs_words, "auto",
		"Use RDMA: auto does when there is a device; on makes a missing device an error."),
	CONFIG_TEXT(fallowd_config, "verbs_device", remote.verbs_device, CONFIG_STRING, "",
		CONFIG_MAY_BE_EMPTY, "RDMA device, for example mlx5_0; empty for any."),
	CONFIG_VALUE(fallowd_config, "depth", remote.depth, CONFIG_NUMBER, "128", 1, 4096,
		"Transfers in flight on one connection."),
	CONFIG_VALUE(fallowd_config, "heartbeat", remote.heartbeat_ns, CONFIG_DURATION, "1s",
		10 * CONFIG_MS, 60 * CONFIG_S,
		"How often donors are asked whether they are there."),
	CONFIG_VALUE(fallowd_config, "suspect", remote.suspect_ns, CONFIG_DURATION, "3s",
		10 * CONFIG_MS, 600 * CONFIG_S,
		"A donor silent for this long gets no new segments and is read last."),
	CONFIG_VALUE(fallowd_config, "dead", remote.dead_ns, CONFIG_DURATION, "5s", 10 * CONFIG_MS,
		3600 * CONFIG_S,
		"A donor silent for this long counts as lost; its segments are repaired."),
	CONFIG_VALUE(fallowd_config, "connect_timeout", remote.connect_timeout_ns, CONFIG_DURATION,
		"3s", 10 * CONFIG_MS, 60 * CONFIG_S, "The most that connecting may take."),
	CONFIG_VALUE(fallowd_config, "reconnect_min", remote.reconnect_min_ns, CONFIG_DURATION,
		"100ms", 1 * CONFIG_MS, 60 * CONFIG_S, "First pause before connecting again."),
	CONFIG_VALUE(fallowd_config, "reconnect_max", remote.reconnect_max_ns, CONFIG_DURATION,
		"5s", 1 * CONFIG_MS, 600 * CONFIG_S,
		"Longest pause before connecting again; each is twice the last."),
	CONFIG_END,
};

static const struct config_field disk_fields[] = {
	CONFIG_TEXT(fallowd_config, "path", disk.path, CONFIG_PATH, "", CONFIG_MAY_BE_EMPTY,
		"Directory or block device of the disk tier; empty for none."),
	CONFIG_VALUE(fallowd_config, "size", disk.size_bytes, CONFIG_SIZE, "0", 0,
		1024 * CONFIG_TIB, "Its size, all lanes together."),
	CONFIG_VALUE(fallowd_config, "direct", disk.direct, CONFIG_BOOL, "true", 0, 0,
		"Bypass the page cache (O_DIRECT)."),
	CONFIG_VALUE(fallowd_config, "depth", disk.depth, CONFIG_NUMBER, "16", 1, 256,
		"Transfers in flight, each lane."),
	CONFIG_VALUE(fallowd_config, "timeout", disk.timeout_ns, CONFIG_DURATION, "30s",
		100 * CONFIG_MS, 600 * CONFIG_S, "A transfer that takes longer has failed."),
	CONFIG_END,
};

/* What a client may do, and the same for those without an entry of their own. */
#define CLIENT_RIGHTS                                                                              \
	CONFIG_VALUE(fallowd_client_config, "quota", quota_bytes, CONFIG_SIZE, "0", 0,             \
		1024 * CONFIG_TIB, "The most it may store, counted before compression; 0: any."),  \
		CONFIG_VALUE(fallowd_client_config, "weight", weight, CONFIG_NUMBER, "100", 1,     \
			10000, "Its share of the local tier, relative to the other clients."),     \
		CONFIG_VALUE(fallowd_client_config, "persistent", persistent, CONFIG_BOOL, "true", \
			0, 0, "It may open persistent pools."),                                    \
		CONFIG_VALUE(fallowd_client_config, "ephemeral", ephemeral, CONFIG_BOOL, "true",   \
			0, 0, "It may open ephemeral pools."),                                     \
		CONFIG_VALUE(fallowd_client_config, "shared", shared, CONFIG_BOOL, "true", 0, 0,   \
			"It may open shared pools."),                                              \
		CONFIG_VALUE(fallowd_client_config, "max_pools", max_pools, CONFIG_NUMBER, "64",   \
			1, ENGINE_MAX_POOLS, "Pools that it may have at a time.")

static const struct config_field client_fields[] = {
	CONFIG_TEXT(fallowd_client_config, "name", name, CONFIG_NAME, NULL, CONFIG_NOT_EMPTY,
		"Name of its account."),
	CONFIG_VALUE(fallowd_client_config, "uid", uid, CONFIG_INTEGER, NULL, 0, INT32_MAX,
		"User whose processes are this client."),
	CLIENT_RIGHTS,
	CONFIG_END,
};

static const struct config_field other_fields[] = {CLIENT_RIGHTS, CONFIG_END};

static const struct config_field guest_disk_fields[] = {
	CONFIG_TEXT(fallowd_disk_config, "name", name, CONFIG_NAME, NULL, CONFIG_NOT_EMPTY,
		"Its name; the stored pages remember it."),
	CONFIG_WORD(fallowd_disk_config, "kind", kind, disk_kind_words, "swap",
		"swap: its blocks are kept here alone, for swap space and what may be lost with "
		"this host. cached: its blocks are those of an image, and the memory is a cache."),
	CONFIG_VALUE(fallowd_disk_config, "size", size_bytes, CONFIG_SIZE, "0", 0, 16 * CONFIG_TIB,
		"Of a swap disk, a multiple of 4KiB. Room for all of it is reserved; it cannot "
		"change."),
	CONFIG_TEXT(fallowd_disk_config, "image", image, CONFIG_STRING, "", CONFIG_MAY_BE_EMPTY,
		"Of a cached disk: the path of a raw file or a block device, or an NBD URI."),
	CONFIG_TEXT(fallowd_disk_config, "base", base, CONFIG_PATH, "", CONFIG_MAY_BE_EMPTY,
		"Of a cached disk whose image is the NBD URI of `qemu-nbd --allocation-depth`: "
		"path "
		"of the raw file that the image has as its backing file. Clones share its cache."),
	CONFIG_VALUE(fallowd_disk_config, "readonly", readonly, CONFIG_BOOL, "false", 0, 0,
		"Of a cached disk: it is only read. Such disks of the same image share one cache."),
	CONFIG_VALUE(fallowd_disk_config, "direct", direct, CONFIG_BOOL, "true", 0, 0,
		"Of a cached disk: bypass the page cache (O_DIRECT)."),
	CONFIG_VALUE(fallowd_disk_config, "cache_writes", cache_writes, CONFIG_BOOL, "true", 0, 0,
		"Of a cached disk: what is written is cached, not only what is read."),
	CONFIG_WORD(fallowd_disk_config, "keep", keep, keep_words, "auto",
		"Of a cached disk: whether a restart believes what is cached. auto: if the image's "
		"times say that nobody changed it; block devices and NBD have none. always: nobody "
		"else ever writes to it."),
	CONFIG_WORD(fallowd_disk_config, "frontend", frontend, disk_frontend_words, "vhost-user",
		"How the disk is served: vhost-user, to a guest's QEMU; or nbd, to NBD clients "
		"such "
		"as this host's kernel."),
	CONFIG_TEXT(fallowd_disk_config, "socket", socket, CONFIG_PATH, "", CONFIG_MAY_BE_EMPTY,
		"Unix socket that it is served on; empty for disk-NAME.sock beside socket.path."),
	CONFIG_VALUE(fallowd_disk_config, "mode", mode, CONFIG_MODE, "0660", 0, 0777,
		"Permission bits of the socket; its group is socket.group."),
	CONFIG_VALUE(fallowd_disk_config, "queues", queues, CONFIG_NUMBER, "16", 1,
		VHOST_MAX_QUEUES, "By vhost-user: the most queues that a guest may have."),
	CONFIG_WORD(fallowd_disk_config, "guest_memory", guest_memory, guest_memory_words, "bounce",
		"Of a swap disk: whether pages may be read by RDMA straight into the guest's "
		"memory. "
		"bounce: they pass through buffers. pinned: all of the guest's memory is "
		"registered "
		"with the card, and so locked; not for a guest with a balloon, free page reporting "
		"or virtio-mem."),
	CONFIG_TEXT(fallowd_disk_config, "listen", listen, CONFIG_STRING, "", CONFIG_MAY_BE_EMPTY,
		"By nbd: a numeric address and a port to serve it on, too, as 192.0.2.1:10809 or "
		"[2001:db8::1]:10809; empty for none. There is neither access control nor "
		"encryption: whoever reaches it has the disk."),
	CONFIG_VALUE(fallowd_disk_config, "connections", connections, CONFIG_NUMBER, "16", 1,
		NBD_MAX_CONNS,
		"By nbd: the most connections at a time; each takes about 2 MiB of memory."),
	CONFIG_VALUE(fallowd_disk_config, "copies", copies, CONFIG_NUMBER, "0", 0,
		ENGINE_MAX_COPIES, "Donors that hold each segment; 0 for pools.copies."),
	CONFIG_WORD(fallowd_disk_config, "codec", codec, pool_codec_words, "default",
		"Compression; default for pools.codec."),
	CONFIG_WORD(fallowd_disk_config, "disk", disk, pool_disk_words, "default",
		"Copies on the disk tier; default for pools.disk."),
	CONFIG_TEXT(fallowd_disk_config, "account", account, CONFIG_NAME, "", CONFIG_MAY_BE_EMPTY,
		"Entry of the list of clients that pays for it; empty for an account of its own."),
	CONFIG_VALUE(fallowd_disk_config, "quota", quota_bytes, CONFIG_SIZE, "0", 0,
		1024 * CONFIG_TIB, "Quota of an account of its own; 0 for none beside its size."),
	CONFIG_VALUE(fallowd_disk_config, "weight", weight, CONFIG_NUMBER, "100", 1, 10000,
		"Weight of an account of its own, relative to the other clients."),
	CONFIG_TEXT(fallowd_disk_config, "serial", serial, CONFIG_STRING, "", CONFIG_MAY_BE_EMPTY,
		"Serial number that the guest sees; empty for the name."),
	CONFIG_END,
};

static const struct config_field image_fields[] = {
	CONFIG_VALUE(fallowd_config, "down_timeout", image_down_timeout_ns, CONFIG_DURATION, "30s",
		100 * CONFIG_MS, 365 * 24 * 3600 * CONFIG_S,
		"How long requests wait for an NBD server that is gone before they fail; an "
		"attempt "
		"to connect that is under way then, up to 5s, is waited for."),
	CONFIG_VALUE(fallowd_config, "linger", image_linger_ns, CONFIG_DURATION, "10min", 0,
		365 * 24 * 3600 * CONFIG_S,
		"How long the cache that disks of a read-only image share is kept without them."),
	CONFIG_END,
};

static const struct config_field donor_fields[] = {
	CONFIG_TEXT(cluster_donor_config, "name", name, CONFIG_NAME, NULL, CONFIG_NOT_EMPTY,
		"What this donor is called here; stored pages remember it."),
	CONFIG_TEXT(cluster_donor_config, "host", host, CONFIG_STRING, NULL, CONFIG_NOT_EMPTY,
		"Host name or address."),
	{.name = "port",
		.type = CONFIG_PORT,
		.offset = offsetof(struct cluster_donor_config, port),
		.size = sizeof(uint16_t),
		.standard = "7400",
		.min = 1,
		.max = 65535,
		.help = "Control port."},
	CONFIG_TEXT(cluster_donor_config, "failure_domain", failure_domain, CONFIG_NAME, "",
		CONFIG_MAY_BE_EMPTY,
		"Copies of a segment go to different domains; empty for what the donor says."),
	CONFIG_WORD(cluster_donor_config, "transport", transport, transport_words, "auto",
		"How its memory is reached; auto takes verbs when both sides have it."),
	CONFIG_END,
};

PROGRAM_HTTP_TABLE(http_fields, "7480");

static const struct config_field fields[] = {
	CONFIG_TEXT(fallowd_config, "name", name, CONFIG_NAME, "", CONFIG_MAY_BE_EMPTY,
		"What donors call this backend; empty for the host's name."),
	CONFIG_TEXT(fallowd_config, "runtime_dir", runtime_dir, CONFIG_PATH, "/dev/shm/fallow",
		CONFIG_NOT_EMPTY, "Where the arenas are kept: on tmpfs or hugetlbfs."),
	CONFIG_TEXT(fallowd_config, "state_dir", state_dir, CONFIG_PATH, "/var/lib/fallow",
		CONFIG_NOT_EMPTY, "Where this backend's identity is kept: on a disk."),
	CONFIG_PART("socket", socket_fields, "Where local clients connect."),
	CONFIG_PART("lanes", lane_fields, "The data threads."),
	CONFIG_PART("store", store_fields, "The local tier and the index."),
	CONFIG_PART("timing", timing_fields, "How long a request may wait for what."),
	CONFIG_PART("pools", pool_fields, "What a pool gets unless its opener says otherwise."),
	CONFIG_PART("remote", remote_fields, "Memory leased from donors."),
	CONFIG_ARRAY(fallowd_config, "donors", donors, donor_count, donor_fields,
		"The memory servers to lease from."),
	CONFIG_PART("disk", disk_fields, "The disk tier."),
	CONFIG_ARRAY(fallowd_config, "clients", clients, client_count, client_fields,
		"Clients with a quota, weight or rights of their own; the first match counts."),
	CONFIG_ARRAY(fallowd_config, "disks", disks, disk_count, guest_disk_fields,
		"Disks for guests, served by vhost-user or NBD; see also `fallow disk`."),
	CONFIG_PART("images", image_fields, "Images of cached disks."),
	CONFIG_VALUE(fallowd_config, "others_allowed", others_allowed, CONFIG_BOOL, "true", 0, 0,
		"Let clients in that no entry of the list matches."),
	CONFIG_GROUP(fallowd_config, "others", others, other_fields,
		"What each client may do that no entry of the list matches."),
	CONFIG_GROUP(fallowd_config, "http", http, http_fields, "Metrics, status, dashboard."),
	CONFIG_GROUP(fallowd_config, "log", log, program_log_fields, "Log lines on stderr."),
	CONFIG_END,
};

#define FAIL(where, ...)                                                                           \
	do {                                                                                       \
		snprintf(path, path_bytes, "%s", where);                                           \
		snprintf(err, err_bytes, __VA_ARGS__);                                             \
		return -EINVAL;                                                                    \
	} while (0)

static int check_disk(const void *cfg, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	const struct fallowd_disk_config *d = cfg;

	if (!d->name[0])
		FAIL("name", "must be given");
	if (d->kind == FALLOWD_DISK_SWAP && d->image[0])
		FAIL("image", "is for cached disks only: set kind to cached");
	if (d->kind == FALLOWD_DISK_SWAP && (!d->size_bytes || d->size_bytes % ENGINE_PAGE_BYTES))
		FAIL("size", "must be a multiple of 4KiB, and not 0");
	if (d->kind == FALLOWD_DISK_CACHED && !d->image[0])
		FAIL("image", "must be given for a cached disk");
	if (d->base[0] && (d->kind != FALLOWD_DISK_CACHED || strncmp(d->image, "nbd", 3)))
		FAIL("base", "is for images behind an NBD server only");
	if (d->base[0] && d->readonly)
		FAIL("base", "is for disks that are written, too: leave out readonly");
	if (d->kind == FALLOWD_DISK_CACHED && d->guest_memory == FALLOWD_GUEST_PINNED)
		FAIL("guest_memory", "pinned is for swap disks only");
	if (d->frontend == FALLOWD_FRONTEND_NBD && d->guest_memory == FALLOWD_GUEST_PINNED)
		FAIL("guest_memory", "pinned is for disks served by vhost-user only");
	if (d->kind == FALLOWD_DISK_CACHED && d->size_bytes)
		FAIL("size", "is that of the image: leave it out");
	if (d->listen[0] && d->frontend != FALLOWD_FRONTEND_NBD)
		FAIL("listen", "is for disks served by nbd only: set frontend to nbd");
	return 0;
}

static int check_disks(
	const struct fallowd_config *c, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	for (uint32_t i = 0; i < c->disk_count; i++) {
		char key[64];

		if (check_disk(&c->disks[i], key, sizeof(key), err, err_bytes) < 0) {
			snprintf(path, path_bytes, "disks[%u].%s", i, key);
			return -EINVAL;
		}
		for (uint32_t k = 0; k < i; k++) {
			if (strcmp(c->disks[i].name, c->disks[k].name))
				continue;
			snprintf(path, path_bytes, "disks[%u].name", i);
			snprintf(err, err_bytes, "disks[%u] is called \"%s\" too", k,
				c->disks[i].name);
			return -EINVAL;
		}
	}
	return 0;
}

static int check_lists(
	const struct fallowd_config *c, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	for (uint32_t i = 0; i < c->donor_count; i++) {
		for (uint32_t k = 0; k < i; k++) {
			if (strcmp(c->donors[i].name, c->donors[k].name))
				continue;
			snprintf(path, path_bytes, "donors[%u].name", i);
			snprintf(err, err_bytes, "donors[%u] is called \"%s\" too", k,
				c->donors[i].name);
			return -EINVAL;
		}
		if (c->donors[i].transport == CLUSTER_TRANSPORT_VERBS &&
			c->remote.verbs == FALLOWD_VERBS_OFF) {
			snprintf(path, path_bytes, "donors[%u].transport", i);
			snprintf(err, err_bytes, "verbs, but remote.verbs is off");
			return -EINVAL;
		}
	}
	for (uint32_t i = 0; i < c->client_count; i++) {
		for (uint32_t k = 0; k < i; k++) {
			if (strcmp(c->clients[i].name, c->clients[k].name))
				continue;
			snprintf(path, path_bytes, "clients[%u].name", i);
			snprintf(err, err_bytes, "clients[%u] is called \"%s\" too", k,
				c->clients[i].name);
			return -EINVAL;
		}
	}
	return 0;
}

static int check(const void *cfg, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	const struct fallowd_config *c = cfg;
	uint64_t segment = c->store.segment_bytes;
	uint64_t least = 8 * segment * c->lanes.count;

	if (segment & (segment - 1))
		FAIL("store.segment", "must be a power of two");
	if (!c->store.size.percent && c->store.size.bytes < least)
		FAIL("store.size", "must be at least 8 segments for each lane, here %llu bytes",
			(unsigned long long)least);
	if (c->timing.hedge_ns >= c->timing.get_timeout_ns)
		FAIL("timing.hedge", "must be shorter than timing.get_timeout");
	if (c->remote.suspect_ns < c->remote.heartbeat_ns)
		FAIL("remote.suspect", "must not be shorter than remote.heartbeat");
	if (c->remote.dead_ns < c->remote.suspect_ns)
		FAIL("remote.dead", "must not be shorter than remote.suspect");
	if (c->remote.reconnect_max_ns < c->remote.reconnect_min_ns)
		FAIL("remote.reconnect_max", "must not be shorter than remote.reconnect_min");
	if (c->disk.path[0] && c->disk.size_bytes < segment * c->lanes.count)
		FAIL("disk.size",
			"must be at least one segment for each lane, as disk.path is set");
	if (!c->disk.path[0] && c->disk.size_bytes)
		FAIL("disk.path", "is empty, but disk.size is not 0");
	if (c->pools.disk == ENGINE_DISK_MIRROR && !c->disk.path[0])
		FAIL("pools.disk", "mirror needs a disk tier: set disk.path and disk.size");
	int r = check_lists(c, path, path_bytes, err, err_bytes);
	return r ? r : check_disks(c, path, path_bytes, err, err_bytes);
}

const struct config_schema fallowd_config_schema = {
	.name = "fallowd",
	.fields = fields,
	.size = sizeof(struct fallowd_config),
	.check = check,
};

const struct config_schema fallowd_disk_schema = {
	.name = "disk",
	.fields = guest_disk_fields,
	.size = sizeof(struct fallowd_disk_config),
	.check = check_disk,
};
