/* The schema of the memory server's settings: names, bounds, defaults and what they mean. */
#include "memserver/config.h"

#include <errno.h>
#include <string.h>

static const struct config_choice verbs_words[] = {
	{"auto", MEMSERVER_VERBS_AUTO},
	{"on", MEMSERVER_VERBS_ON},
	{"off", MEMSERVER_VERBS_OFF},
	{NULL, 0},
};

static const struct config_field listen_fields[] = {
	CONFIG_TEXT(memserver_config, "address", listen.address, CONFIG_STRING, "127.0.0.1",
		CONFIG_NOT_EMPTY,
		"Numeric address to listen on, for control and for data. Leases are open to "
		"whoever "
		"reaches it: use an address of the storage network."),
	CONFIG_VALUE(memserver_config, "port", listen.port, CONFIG_NUMBER, "7400", 0, 65535,
		"Control port; 0 for any free one."),
	CONFIG_VALUE(memserver_config, "max_sessions", listen.max_sessions, CONFIG_NUMBER, "256", 1,
		65536, "Control sessions open at a time; more are refused."),
	CONFIG_VALUE(memserver_config, "max_clients", listen.max_clients, CONFIG_NUMBER, "256", 1,
		65536, "Clients known at a time, connected or holding leases."),
	CONFIG_VALUE(memserver_config, "hello_timeout", listen.hello_timeout_ns, CONFIG_DURATION,
		"5s", 10 * CONFIG_MS, 60 * CONFIG_S,
		"A session that has not said who it is by then is closed."),
	CONFIG_END,
};

static const struct config_field tcp_fields[] = {
	CONFIG_VALUE(memserver_config, "enabled", tcp.enabled, CONFIG_BOOL, "true", 0, 0,
		"Offer the tcp transport."),
	CONFIG_VALUE(memserver_config, "port", tcp.port, CONFIG_NUMBER, "0", 0, 65535,
		"Data port of the tcp transport; 0 for any free one, which clients are told."),
	CONFIG_VALUE(memserver_config, "threads", tcp.threads, CONFIG_NUMBER, "2", 1, 64,
		"Threads that serve the tcp transport."),
	CONFIG_VALUE(memserver_config, "max_connections", tcp.max_connections, CONFIG_NUMBER,
		"4096", 1, 65536, "Data connections open at a time."),
	CONFIG_VALUE(memserver_config, "max_connections_per_client", tcp.max_connections_per_client,
		CONFIG_NUMBER, "256", 1, 65536,
		"Data connections of one client at a time, for each transport."),
	CONFIG_VALUE(memserver_config, "stall_timeout", tcp.stall_ns, CONFIG_DURATION, "10s",
		100 * CONFIG_MS, 600 * CONFIG_S,
		"A transfer that makes no progress for so long closes its connection."),
	CONFIG_END,
};

static const struct config_field verbs_fields[] = {
	CONFIG_WORD(memserver_config, "mode", verbs.mode, verbs_words, "auto",
		"Offer RDMA: auto does when there is a device; on makes a missing device an "
		"error."),
	CONFIG_TEXT(memserver_config, "device", verbs.device, CONFIG_STRING, "",
		CONFIG_MAY_BE_EMPTY, "RDMA device, for example mlx5_0; empty for any."),
	CONFIG_VALUE(memserver_config, "port", verbs.port, CONFIG_NUMBER, "0", 0, 65535,
		"rdma_cm port; 0 for any free one, which clients are told."),
	CONFIG_END,
};

static const struct config_field region_fields[] = {
	CONFIG_VALUE(memserver_config, "size", region.size_bytes, CONFIG_SIZE, "64MiB",
		1 * CONFIG_MIB, 16 * CONFIG_GIB,
		"Length of a leased region; a multiple of 2MiB, or 1MiB."),
	CONFIG_VALUE(memserver_config, "huge_pages", region.huge_pages, CONFIG_BOOL, "false", 0, 0,
		"Back regions with huge pages where the system has them."),
	CONFIG_VALUE(memserver_config, "numa_node", region.numa_node, CONFIG_INTEGER, "-1", -1,
		1023, "NUMA node to take regions from; -1 for any."),
	CONFIG_VALUE(memserver_config, "keep", region.keep, CONFIG_NUMBER, "0", 0, 65536,
		"Wiped regions kept for the next lease instead of going back to the system."),
	CONFIG_END,
};

static const struct config_field memory_fields[] = {
	CONFIG_VALUE(memserver_config, "min", memory.min, CONFIG_AMOUNT, "0", 0, 0,
		"Memory that it gives whatever the pressure is; a size or a percentage of RAM."),
	CONFIG_VALUE(memserver_config, "max", memory.max, CONFIG_AMOUNT, "50%", 0, 0,
		"The most that it gives; a size or a percentage of RAM."),
	CONFIG_VALUE(memserver_config, "per_client", memory.per_client, CONFIG_AMOUNT, "0", 0, 0,
		"The most that one client may lease; 0 for no limit but max."),
	CONFIG_VALUE(memserver_config, "floor", memory.floor, CONFIG_AMOUNT, "10%", 0, 0,
		"MemAvailable that stays for the machine itself; below it regions are taken back."),
	CONFIG_VALUE(memserver_config, "psi_some", memory.psi_some_percent, CONFIG_PERCENT, "20%",
		0, 100,
		"Memory pressure (PSI, some avg10) above which regions are taken back; 0 to "
		"ignore."),
	CONFIG_VALUE(memserver_config, "psi_full", memory.psi_full_percent, CONFIG_PERCENT, "5%", 0,
		100,
		"Memory pressure (PSI, full avg10) above which regions are taken back; 0 to "
		"ignore."),
	CONFIG_VALUE(memserver_config, "interval", memory.interval_ns, CONFIG_DURATION, "1s",
		10 * CONFIG_MS, 60 * CONFIG_S,
		"How often memory and pressure are looked at, give or take a quarter: when a "
		"message wakes the server anyway, if it can be."),
	CONFIG_TEXT(memserver_config, "meminfo", memory.meminfo, CONFIG_PATH, "/proc/meminfo",
		CONFIG_NOT_EMPTY, "Where MemTotal and MemAvailable are read."),
	CONFIG_TEXT(memserver_config, "psi", memory.psi, CONFIG_PATH, "/proc/pressure/memory",
		CONFIG_NOT_EMPTY,
		"Where memory pressure is read; a kernel without it has no such file, which is "
		"fine."),
	CONFIG_END,
};

static const struct config_field lease_fields[] = {
	CONFIG_VALUE(memserver_config, "ttl", lease.ttl_ns, CONFIG_DURATION, "60s", 100 * CONFIG_MS,
		3600 * CONFIG_S,
		"A lease that its client does not renew ends after this; clients must restart "
		"within."),
	CONFIG_VALUE(memserver_config, "revoke_grace", lease.grace_ns, CONFIG_DURATION, "5s",
		10 * CONFIG_MS, 600 * CONFIG_S,
		"A client that is asked for a region has this long to move its data; then it is "
		"taken."),
	CONFIG_VALUE(memserver_config, "drain_limit", lease.drain_ns, CONFIG_DURATION, "60s",
		10 * CONFIG_MS, 86400 * CONFIG_S,
		"How long leaving may take in all when the server is drained."),
	CONFIG_END,
};

static const struct config_field client_fields[] = {
	CONFIG_TEXT(memserver_client_config, "identity", identity, CONFIG_STRING, NULL,
		CONFIG_NOT_EMPTY, "32 hexadecimal digits: the identity that a backend shows."),
	CONFIG_TEXT(memserver_client_config, "name", name, CONFIG_NAME, "", CONFIG_MAY_BE_EMPTY,
		"For people: which backend that is."),
	CONFIG_END,
};

PROGRAM_HTTP_TABLE(http_fields, "0");

static const struct config_field fields[] = {
	CONFIG_TEXT(memserver_config, "name", name, CONFIG_NAME, "", CONFIG_MAY_BE_EMPTY,
		"What clients call this donor; empty for the host's name."),
	CONFIG_TEXT(memserver_config, "failure_domain", failure_domain, CONFIG_NAME, "",
		CONFIG_MAY_BE_EMPTY,
		"Donors with the same label may fail together (a rack, a switch); empty for its "
		"name."),
	CONFIG_PART("listen", listen_fields, "Where clients find this server."),
	CONFIG_PART("tcp", tcp_fields, "The transport for machines without an RDMA device."),
	CONFIG_PART("verbs", verbs_fields, "The RDMA transport."),
	CONFIG_PART("region", region_fields, "The unit that is leased."),
	CONFIG_PART("memory", memory_fields, "How much is given, and when it is taken back."),
	CONFIG_PART("lease", lease_fields, "How long things last."),
	CONFIG_GROUP(memserver_config, "http", http, http_fields, "Metrics and status."),
	CONFIG_GROUP(memserver_config, "log", log, program_log_fields, "Log lines on stderr."),
	CONFIG_ARRAY(memserver_config, "clients", clients, client_count, client_fields,
		"The backends that may lease; an empty list lets anyone."),
	CONFIG_END,
};

#define FAIL(where, ...)                                                                           \
	do {                                                                                       \
		snprintf(path, path_bytes, "%s", where);                                           \
		snprintf(err, err_bytes, __VA_ARGS__);                                             \
		return -EINVAL;                                                                    \
	} while (0)

static int check_clients(const struct memserver_config *c, char *path, size_t path_bytes, char *err,
	size_t err_bytes)
{
	for (uint32_t i = 0; i < c->client_count; i++) {
		const char *identity = c->clients[i].identity;

		snprintf(path, path_bytes, "clients[%u].identity", i);
		if (strlen(identity) != 32 || strspn(identity, "0123456789abcdef") != 32) {
			snprintf(err, err_bytes,
				"an identity is 32 hexadecimal digits in lower case, not \"%s\"",
				identity);
			return -EINVAL;
		}
		for (uint32_t k = 0; k < i; k++) {
			if (!strcmp(identity, c->clients[k].identity)) {
				snprintf(err, err_bytes, "the identity of clients[%u] again", k);
				return -EINVAL;
			}
		}
	}
	return 0;
}

static int check(const void *cfg, char *path, size_t path_bytes, char *err, size_t err_bytes)
{
	const struct memserver_config *c = cfg;
	const struct config_amount *min = &c->memory.min, *max = &c->memory.max;

	if (c->region.size_bytes != CONFIG_MIB && c->region.size_bytes % (2 * CONFIG_MIB))
		FAIL("region.size", "must be 1MiB or a multiple of 2MiB");
	if (!c->tcp.enabled && c->verbs.mode == MEMSERVER_VERBS_OFF)
		FAIL("tcp.enabled", "tcp and verbs are both off: clients could not move any data");
	if (!max->percent && max->bytes < c->region.size_bytes)
		FAIL("memory.max", "must be at least one region (region.size)");
	if ((min->percent && max->percent && min->percent > max->percent) ||
		(!min->percent && !max->percent && min->bytes > max->bytes))
		FAIL("memory.min", "must not be above memory.max");
	return check_clients(c, path, path_bytes, err, err_bytes);
}

const struct config_schema memserver_config_schema = {
	.name = "fallow-memserver",
	.fields = fields,
	.size = sizeof(struct memserver_config),
	.check = check,
};
