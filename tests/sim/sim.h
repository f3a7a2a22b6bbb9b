/* The simulated world: hosts, links, virtual time, and what its parts tell each other. */
#ifndef FALLOW_SIM_H
#define FALLOW_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client-backend/cluster/cluster.h"
#include "client-backend/engine/engine.h"
#include "client-backend/tier/remote.h"
#include "lib/control/msg.h"
#include "lib/transport/transport.h"
#include "memserver/lease.h"
#include "tests/model/reference.h"
#include "tests/model/rng.h"

#define US 1000ull
#define MS 1000000ull
#define S  1000000000ull

#define SIM_BACKENDS 2u
#define SIM_LANES    2u	 /* at most, of each backend */
#define SIM_DONORS   5u	 /* at most */
#define SIM_REGIONS  32u /* at most, of each donor */
#define SIM_REQS     12u /* under way at a time, each backend */
#define SIM_CLIENTS  8u	 /* that a donor may know */
#define SIM_TOKENS   16u
#define SIM_ACCOUNTS 2u

#define SEGMENT_BYTES	65536u
#define REGION_SEGMENTS 4u
#define REGION_BYTES	(SEGMENT_BYTES * REGION_SEGMENTS)

struct sim;

/* Events happen in order of time, those of the same time in the order in which they were planned.
 */
typedef void event_fn(struct sim *sim, void *object, uint64_t a);

struct event {
	uint64_t time_ns, sequence;
	event_fn *fn;
	void *object;
	uint64_t a;
};

enum sim_fault {
	FAULT_BACKEND_CRASH,
	FAULT_DONOR_CRASH,  /* the process ends, the host answers with resets */
	FAULT_DONOR_SILENT, /* the host is gone: nothing is answered */
	FAULT_PARTITION,
	FAULT_FLIP_WIRE, /* a bit of what a read returns */
	FAULT_FLIP_REST, /* a bit of a donor's memory */
	FAULT_MESSAGE_LOST,
	FAULT_MESSAGE_TWICE,
	FAULT_CONN_BROKEN, /* one data connection resets */
	FAULT_SLOW_DONOR,
	FAULT_PRESSURE,	    /* a donor's target changes */
	FAULT_DEAF_BACKEND, /* does not see revocations for a while */
	FAULT_DRAIN,
	FAULT_DISK,	  /* a disk transfer fails */
	FAULT_LATE_WRITE, /* a write lands after its connection broke */
	FAULTS
};

/* A control session between a backend and a donor: two streams of frames. */
struct session {
	unsigned b, d;
	uint64_t donor_life;
	bool backend_open, donor_open;
	struct lease_session *lease;
	struct message *head[2], *tail[2]; /* 0: to the donor, 1: to the backend */
	bool pumping[2];
	uint64_t stuck_since_ns; /* the link has been cut since; 0: not */
	uint64_t give_up_ns;	 /* how long a cut is borne */
	uint64_t connect_by_ns;
	struct session *next; /* all there ever were */
};

struct message {
	struct message *next;
	uint64_t due_ns;
	size_t len;
	uint8_t frame[];
};

struct export
{
	bool active;
	unsigned client;
	uint64_t key;
};

struct donor_token {
	bool active;
	unsigned client;
	uint64_t token[2];
};

struct sdonor {
	struct sim *sim;
	unsigned index;
	bool up, silent; /* silent: down, and its host with it */
	bool draining;
	uint64_t life; /* counts starts */
	uint64_t up_at_ns;
	uint64_t slow_until_ns;
	struct lease_config cfg;
	struct lease_book *book;
	uint8_t *memory[SIM_REGIONS]; /* NULL: none */
	struct export export[SIM_REGIONS];
	struct donor_token token[SIM_TOKENS];
	int client_backend[SIM_CLIENTS]; /* which backend a client is; -1 unknown */
	uint64_t tick_at_ns;
};

/* A region that a backend's arena holds, noted when the backend goes down. */
struct held {
	unsigned donor;
	uint64_t region_id, epoch;
};

struct lane {
	struct sim *sim;
	struct backend *b;
	unsigned index;
	struct engine *e;
	struct tier_remote *tier;
	struct transport *transport;
	struct sim_io *orphans; /* of engines that crashed */
	struct sim_io *ios;	/* under way */
	uint64_t run_at_ns;	/* the next planned run; UINT64_MAX: none */
	uint64_t next_tick_ns;
	bool taken; /* room was taken away and is not made up for yet */
	bool donor_down[SIM_DONORS];
	uint64_t short_ns; /* when promised room was last short */
	uint8_t *disk;
	char arena[128];
	struct transport_conn
		*conn[SIM_DONORS][TIER_REMOTE_CHANNELS]; /* being established or attached */
	bool attached[SIM_DONORS][TIER_REMOTE_CHANNELS];
};

/* A pool that is promised room for all its keys, each lane its own. */
struct sgrant {
	uint32_t id; /* 0: none */
	struct {
		uint64_t pages, asked; /* asked: what the engine counts */
		bool kept;
	} lane[SIM_LANES];
};

struct sreq {
	struct engine_req req;
	struct backend *b;
	bool active, put;
	uint32_t k, version, pool;
	unsigned handle, lane;
	uint64_t start_ns;
	uint8_t page[ENGINE_PAGE_BYTES];
};

struct data_path {
	bool open;
	uint16_t port;
	uint64_t token[2];
	uint64_t generation; /* of the open; older connections are given up */
	uint64_t backoff_ns;
};

struct backend {
	struct sim *sim;
	unsigned index, lanes;
	bool up;
	uint64_t life;
	uint64_t deaf_until_ns;
	struct cluster *cluster;
	struct session *session[SIM_DONORS];
	struct data_path data[SIM_DONORS];
	uint64_t tick_at_ns;
	struct engine_config cfg;
	_Atomic uint64_t want_since_ns[SIM_LANES];
	struct lane lane[SIM_LANES];
	struct ref ref;
	struct engine_quota quota[SIM_ACCOUNTS];
	struct engine_pool_desc pool[8]; /* as made, by the reference's slots */
	uint32_t next_pool_id;
	bool grants;
	struct sgrant grant;
	struct sreq req[SIM_REQS];
	unsigned reqs;
	struct held *held; /* while down */
	unsigned nheld;
	bool latent; /* bits flipped at rest, perhaps not found yet: no healing is believed */
};

struct link {
	bool cut;
	uint64_t cut_until_ns;
	uint64_t trouble_ns; /* when something last went wrong between the two */
};

struct sim_config {
	unsigned backends, donors, lanes;
	uint64_t duration_ns;  /* of the phase with faults */
	uint64_t op_gap_ns;    /* mean time between client calls of a backend */
	uint32_t rate[FAULTS]; /* per virtual second, in thousandths; or ppm for those on messages
				  and transfers */
	uint64_t delay_ns;
	uint32_t ttl_ms, grace_ms;
	bool trace;
	char dir[64];
};

struct sim {
	uint64_t seed;
	struct sim_config cfg;
	struct rng rng;	     /* workload and faults */
	struct rng rng_code; /* what the code under test draws */
	struct env env;
	uint64_t now_ns, sequence;
	struct event *heap;
	unsigned heap_len, heap_cap;
	struct sdonor donor[SIM_DONORS];
	struct backend backend[SIM_BACKENDS];
	struct link link[SIM_BACKENDS][SIM_DONORS];
	struct session *sessions;
	struct xfer *xfers;
	struct transport_conn *conns; /* all that were not destroyed */
	uint64_t next_key;
	uint64_t next_check_ns, next_heal_ns, next_deep_ns;
	bool tame;	     /* donors are destroyed one at a time */
	bool hammer;	     /* far more is put than there is room for */
	bool cache;	     /* most calls go to an ephemeral pool */
	bool ample;	     /* the donors have room for every copy */
	uint64_t hash;	     /* of everything that happened, to compare replays */
	bool quiet;	     /* no fault any more */
	uint64_t trouble_ns; /* gets may time out until then */
	uint64_t faults[FAULTS];
	uint64_t grants_kept, granted_puts, granted_short;
	uint64_t ephemeral_spilled, ephemeral_dropped, ephemeral_kept;
	uint64_t reclaims; /* regions of ephemeral copies that donors took for other backends */
	uint64_t puts, refused, gets, misses, lost, timeouts, flushes, events, checks;
	char error[1024];
};

/* event.c */
void sim_at(struct sim *sim, uint64_t time_ns, event_fn *fn, void *object, uint64_t a);
static inline void sim_after(struct sim *sim, uint64_t ns, event_fn *fn, void *object, uint64_t a)
{
	sim_at(sim, sim->now_ns + ns, fn, object, a);
}
/* Runs events until time_ns or an error. */
int sim_run(struct sim *sim, uint64_t time_ns);
int sim_fail(struct sim *sim, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_note(struct sim *sim, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_fault_count(struct sim *sim, enum sim_fault f);
uint64_t sim_delay(struct sim *sim, unsigned donor);
/* Counts a fault and is true, at the rate in ppm of this kind, while faults are on. */
bool sim_chance(struct sim *sim, enum sim_fault f);
/* Something is wrong between a donor and a backend, or all of them (-1), now. */
void sim_trouble(struct sim *sim, int b, unsigned d);

/* session.c: control sessions */
struct session *session_connect(struct sim *sim, unsigned b, unsigned d);
void session_send(struct sim *sim, struct session *s, unsigned dir, const struct control_msg *m);
/* One end closes; the other learns of it, later. */
void session_close(struct sim *sim, struct session *s, bool by_backend);
void sessions_of_backend_end(struct sim *sim, unsigned b);
void sessions_of_donor_end(struct sim *sim, unsigned d);
void sessions_free(struct sim *sim);

/* wire.c: the sim transport and the donors' end of it */
extern const struct transport_ops transport_sim;
/* transport_ops has no place for these: they are for the next open(), or connect(). */
void wire_context(struct sim *sim, unsigned b, unsigned lane);
void wire_channel(enum tier_remote_channel channel);
/* Breaks the donor's connections of a token (NULL: all). */
void wire_break(struct sim *sim, unsigned donor, const uint64_t token[2]);
/* One random established connection resets; false: there is none. */
bool wire_break_random(struct sim *sim);
void wire_free(struct sim *sim);

/* donor.c */
void donor_start(struct sdonor *d);
void donor_crash(struct sdonor *d, bool silent);
void donor_arm(struct sdonor *d);
void donor_stop(struct sdonor *d);
/* Memory that a key opens for a client, or NULL. */
uint8_t *donor_reach(
	struct sdonor *d, unsigned client, uint64_t key, uint64_t offset, uint32_t len);
int donor_token_client(const struct sdonor *d, const uint64_t token[2]); /* -1: not valid */
bool donor_has_lease(const struct sdonor *d, uint64_t region_id, uint64_t epoch, unsigned backend);

/* backend.c: a fallowd */
int backend_init(struct sim *sim, unsigned index);
int backend_start(struct backend *b);
void backend_crash(struct backend *b);
void backend_fini(struct backend *b);
/* Messages still on their way between threads. */
void backend_messages_free(struct sim *sim);
void backend_connected(struct backend *b, unsigned donor, bool ok);
void backend_message(struct backend *b, unsigned donor, const struct control_msg *m);
void lane_wake(struct lane *l, uint64_t at_ns);
/* A region's memory is gone; counts as a destroyed copy if a lane still has it. */
void backend_region_gone(struct backend *b, unsigned donor, uint64_t region_id, uint64_t epoch);

/* io.c: engine_ops of a lane (ctx: struct lane) */
int lane_io_read(void *ctx, struct engine_io *io);
int lane_io_write(void *ctx, struct engine_io *io);
void lane_io_kick(void *ctx);
/* A crash: from now on the engine hears of nothing; what remains of its transfers then waits aside.
 */
void lane_io_forget(struct lane *l);
void lane_io_orphan(struct lane *l);
void lane_io_free(struct lane *l);

/* client.c: the guests' calls */
int client_start(struct backend *b);
int client_pool_make(struct backend *b, unsigned slot);
/* What the lanes' accounts are charged beyond their pages. */
uint64_t client_grant_unused(const struct backend *b, unsigned account);
int client_get(struct backend *b, uint32_t k);
void client_forget(struct backend *b);
int client_overdue(struct backend *b);
int client_flush_all(struct backend *b);

/* fault.c */
void faults_start(struct sim *sim);
void faults_stop(struct sim *sim);

/* check.c */
int check_step(struct sim *sim);
int check_deep(struct sim *sim);
int sim_converge(struct sim *sim);

/* world.c: one seed from beginning to end. 0, or negative with sim->error set. */
int sim_seed(struct sim *sim, uint64_t seed, const char *dir, bool trace);
void sim_fini(struct sim *sim);
extern const char *const sim_fault_names[FAULTS];

#endif
