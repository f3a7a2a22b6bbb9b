/* The memory server's settings. */
#ifndef FALLOW_MEMSERVER_CONFIG_H
#define FALLOW_MEMSERVER_CONFIG_H

#include "lib/control/msg.h"
#include "lib/core/config.h"
#include "lib/core/program.h"

#define MEMSERVER_MAX_CLIENTS 256u

enum memserver_verbs { MEMSERVER_VERBS_OFF, MEMSERVER_VERBS_ON, MEMSERVER_VERBS_AUTO };

/* A backend that may lease here. */
struct memserver_client_config {
	char identity[33]; /* 32 hexadecimal digits, lower case */
	char name[CONTROL_NAME_BYTES];
};

/* Every size in bytes, every duration in ns; memserver_config_schema holds the defaults and bounds.
 */
struct memserver_config {
	char name[CONTROL_NAME_BYTES];		 /* "": the host's name */
	char failure_domain[CONTROL_NAME_BYTES]; /* "": the name */
	struct {
		char address[64]; /* numeric; for the control port and the data ports */
		uint32_t port;
		uint32_t max_sessions;
		uint32_t max_clients;
		uint64_t hello_timeout_ns;
	} listen;
	struct {
		bool enabled;
		uint32_t port; /* 0: any free one */
		uint32_t threads;
		uint32_t max_connections;
		uint32_t max_connections_per_client;
		uint64_t stall_ns;
	} tcp;
	struct {
		int mode;	 /* enum memserver_verbs */
		char device[64]; /* "": any */
		uint32_t port;	 /* 0: any free one */
	} verbs;
	struct {
		uint64_t size_bytes;
		bool huge_pages;
		int32_t numa_node; /* -1: any */
		uint32_t keep;	   /* wiped regions kept for the next lease */
	} region;
	struct {
		struct config_amount min,
			max; /* what it gives, whatever the pressure, and at most */
		struct config_amount per_client; /* 0: no limit but max */
		struct config_amount floor; /* MemAvailable that is kept for the machine itself */
		uint32_t psi_some_percent;  /* avg10 above which it gives back; 0: not looked at */
		uint32_t psi_full_percent;
		uint64_t interval_ns;
		char meminfo[256]; /* /proc/meminfo, or a test's file */
		char psi[256];	   /* /proc/pressure/memory */
	} memory;
	struct {
		uint64_t ttl_ns;
		uint64_t grace_ns;
		uint64_t drain_ns; /* the most that leaving takes */
	} lease;
	struct program_http http;
	struct program_log log;
	uint32_t client_count; /* 0: any client may lease */
	struct memserver_client_config clients[MEMSERVER_MAX_CLIENTS];
};

extern const struct config_schema memserver_config_schema;

#endif
