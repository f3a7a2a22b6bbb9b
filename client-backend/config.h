/* The backend's settings. */
#ifndef FALLOW_BACKEND_CONFIG_H
#define FALLOW_BACKEND_CONFIG_H

#include "client-backend/cluster/cluster.h"
#include "client-backend/engine/engine.h"
#include "client-backend/pools.h"
#include "lib/core/config.h"
#include "lib/core/program.h"

#define FALLOWD_MAX_LANES   64u
#define FALLOWD_MAX_CLIENTS ENGINE_MAX_ACCOUNTS
#define FALLOWD_MAX_DISKS   64u

enum fallowd_verbs { FALLOWD_VERBS_OFF, FALLOWD_VERBS_ON, FALLOWD_VERBS_AUTO };

/* What a client of the socket may do. */
struct fallowd_client_config {
	char name[ENGINE_NAME_BYTES];	    /* of its account */
	int32_t uid;			    /* -1: matched by the name that the client gives */
	uint64_t quota_bytes;		    /* of client pages; 0: none */
	uint32_t weight;		    /* share of the local tier, relative to the others */
	bool persistent, ephemeral, shared; /* the kinds of pool it may open */
	uint32_t max_pools;
};

enum fallowd_disk_kind { FALLOWD_DISK_SWAP, FALLOWD_DISK_CACHED };
enum fallowd_guest_memory { FALLOWD_GUEST_BOUNCE, FALLOWD_GUEST_PINNED };
enum fallowd_disk_frontend { FALLOWD_FRONTEND_VHOST, FALLOWD_FRONTEND_NBD };
enum fallowd_disk_keep { FALLOWD_KEEP_AUTO, FALLOWD_KEEP_ALWAYS };

/* A disk for a guest. */
struct fallowd_disk_config {
	char name[48];
	int kind;	      /* enum fallowd_disk_kind */
	uint64_t size_bytes;  /* cached: 0, the image's */
	char image[256];      /* cached: path, or an NBD URI */
	char base[256];	      /* cached: path of the raw backing file of the image; "": none */
	bool readonly;	      /* cached */
	bool direct;	      /* cached: bypass the page cache */
	bool cache_writes;    /* cached: what is written is cached */
	int keep;	      /* cached: enum fallowd_disk_keep */
	int frontend;	      /* enum fallowd_disk_frontend */
	char socket[108];     /* "": disk-NAME.sock beside the clients' socket */
	uint32_t mode;	      /* of the socket file */
	uint32_t queues;      /* vhost: offered */
	char listen[80];      /* nbd: numeric address and port; "": none */
	uint32_t connections; /* nbd: at a time */
	uint32_t copies;      /* 0: as pools.copies */
	int codec;	      /* enum pools_codec */
	int disk;	      /* enum pools_disk */
	char account[ENGINE_NAME_BYTES]; /* entry in the list of clients; "": one of its own */
	uint64_t quota_bytes;		 /* of an account of its own; 0: none */
	uint32_t weight;		 /* of an account of its own */
	char serial[21];		 /* "": the name */
	int guest_memory;		 /* swap: enum fallowd_guest_memory */
};

/* Every size in bytes, every duration in ns; fallowd_config_schema holds the defaults and bounds.
 */
struct fallowd_config {
	char name[CONTROL_NAME_BYTES]; /* "": the host's name */
	char runtime_dir[256];	       /* arenas: tmpfs or hugetlbfs */
	char state_dir[256];	       /* identity: a disk */
	struct {
		char path[108];
		uint32_t mode;
		char group[64]; /* "": that of the process */
		uint32_t max_sessions;
		uint64_t session_grace_ns; /* a lost client's session is kept this long */
		uint32_t slots;		   /* requests in flight, for each lane of each session */
	} socket;
	struct {
		uint32_t count;
		uint32_t cpu_count;		  /* 0: not pinned */
		uint32_t cpus[FALLOWD_MAX_LANES]; /* lane i runs on cpus[i % cpu_count] */
		uint64_t idle_poll_ns;		  /* polls this long before it sleeps */
		uint64_t get_poll_ns;		  /* the same while a get is under way */
	} lanes;
	struct {
		struct config_amount size; /* all lanes together */
		uint64_t segment_bytes;
		uint64_t max_pages; /* all lanes together; 0: 64 times what fits the local tier raw
				     */
		uint64_t max_objects; /* all lanes together; 0: from max_pages */
		bool huge_pages;
		bool lock_memory;
		uint32_t spill_percent;
		uint32_t live_percent;
		uint32_t probation_percent;
		uint32_t fetches; /* each lane */
		uint32_t checksum_percent;
		uint32_t moves; /* each lane */
	} store;
	struct {
		uint64_t hedge_ns; /* 0: never */
		uint64_t get_timeout_ns;
		uint64_t cache_timeout_ns;
		uint64_t direct_timeout_ns;
		uint64_t put_wait_ns;
		uint64_t retry_ns;
		uint64_t io_timeout_ns; /* a transfer that takes longer breaks its connection */
	} timing;
	struct { /* what a pool gets whose opener asks for nothing else */
		uint32_t copies;
		int codec; /* enum engine_codec */
		int disk;  /* enum engine_disk_policy */
		uint32_t zstd_level;
	} pools;
	struct {
		struct config_amount
			max_lease;     /* over all donors; percent: of this machine's memory */
		int verbs;	       /* enum fallowd_verbs */
		char verbs_device[64]; /* "": any */
		uint32_t depth;	       /* transfers in flight on a connection */
		uint64_t heartbeat_ns, suspect_ns, dead_ns, connect_timeout_ns;
		uint64_t reconnect_min_ns, reconnect_max_ns;
	} remote;
	struct {
		char path[256];	     /* directory or block device; "": no disk tier */
		uint64_t size_bytes; /* all lanes together */
		bool direct;
		uint32_t depth; /* each lane */
		uint64_t timeout_ns;
	} disk;
	uint64_t image_down_timeout_ns; /* NBD servers gone for longer make requests fail */
	uint64_t image_linger_ns; /* shared caches of images that no disk uses are kept this long */
	struct program_http http;
	struct program_log log;
	bool others_allowed;		     /* clients that no entry of the list matches */
	struct fallowd_client_config others; /* what they may do; name and uid are not used */
	uint32_t client_count;
	struct fallowd_client_config clients[FALLOWD_MAX_CLIENTS];
	uint32_t disk_count;
	struct fallowd_disk_config disks[FALLOWD_MAX_DISKS];
	uint32_t donor_count;
	struct cluster_donor_config donors[ENGINE_MAX_DONORS];
};

extern const struct config_schema fallowd_config_schema;
/* The settings of one disk; its check() holds in every list, too. */
extern const struct config_schema fallowd_disk_schema;

#endif
