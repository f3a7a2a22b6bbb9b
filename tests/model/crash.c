/* The crash test: children killed in the middle of engine calls, and what must survive that. */
#include "tests/model/crash.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define US	   1000ull
#define LOG_EVENTS 65536u

enum event_type { EVENT_BEGIN, EVENT_PENDING, EVENT_END };

struct event {
	enum event_type type;
	enum run_event kind;
	uint32_t entry; /* the BEGIN event that this belongs to */
	uint32_t k, version;
	int status;
	uint64_t pages;
};

struct run_log {
	_Atomic uint32_t count; /* stored after the event is complete */
	char error[768];	/* what the child found itself */
	struct event event[LOG_EVENTS];
};

static uint32_t log_event(struct run_log *log, const struct event *ev)
{
	uint32_t n = atomic_load_explicit(&log->count, memory_order_relaxed);

	log->event[n] = *ev;
	atomic_store_explicit(&log->count, n + 1, memory_order_release);
	return n;
}

uint32_t run_log_begin(struct run *r, enum run_event kind, uint32_t k, uint32_t version)
{
	if (!r->log)
		return 0;
	return log_event(r->log,
		&(struct event){.type = EVENT_BEGIN, .kind = kind, .k = k, .version = version});
}

void run_log_pending(struct run *r, uint32_t entry)
{
	if (r->log)
		log_event(r->log, &(struct event){.type = EVENT_PENDING, .entry = entry});
}

void run_log_end(struct run *r, uint32_t entry, int status, uint64_t pages)
{
	if (r->log)
		log_event(r->log, &(struct event){.type = EVENT_END,
					  .entry = entry,
					  .status = status,
					  .pages = pages});
}

/* The child: goes on until it is killed. It must not return. */
static void child_run(struct run *r, struct run_log *log)
{
	int status;

	r->log = log;
	status = run_open(r);
	while (!status && atomic_load(&log->count) < LOG_EVENTS - 4 * RUN_REQS - 16) {
		if (r->fake.wanted && !rng_below(&r->rng, 8))
			fake_region_lease(&r->fake, r->e);
		if (!rng_below(&r->rng, 500))
			r->taken |= fake_region_revoke(&r->fake, r->e);
		status = run_client_step(r);
		run_advance(r, rng_below(&r->rng, 50 * US));
		if (r->error[0])
			status = -EBADMSG;
	}
	if (status) {
		memcpy(log->error, r->error, sizeof(log->error));
		_exit(1);
	}
	for (;;)
		pause();
}

static int replay_end(
	struct run *r, const struct event *begin, const struct event *end, bool was_pending)
{
	unsigned slot = ref_key_pool(&r->ref, begin->k);
	int status = 0;

	switch (begin->kind) {
	case RUN_PUT:
		status = ref_put_end(&r->ref, begin->k, begin->version, was_pending, end->status);
		break;
	case RUN_FLUSH_PAGE:
		status = ref_flush_page(&r->ref, begin->k, end->status);
		break;
	case RUN_FLUSH_OBJECT:
		status = ref_flush_object(&r->ref, slot,
			begin->k / r->ref.cfg.indices % r->ref.cfg.objects, end->status,
			end->pages);
		break;
	}
	return status ? run_fail(r, "replaying the log: %s", r->ref.error) : 0;
}

static void replay_unknown(struct run *r, const struct event *begin, bool was_pending)
{
	if (begin->kind == RUN_PUT)
		ref_put_unknown(&r->ref, begin->k, begin->version, was_pending);
	else if (begin->kind == RUN_FLUSH_PAGE)
		ref_flush_unknown(&r->ref, begin->k);
	for (uint32_t i = 0; begin->kind == RUN_FLUSH_OBJECT && i < r->ref.cfg.indices; i++)
		ref_flush_unknown(&r->ref, begin->k + i);
}

/* Brings the parent's reference to what the child was told. */
static int replay(struct run *r, const struct run_log *log, uint64_t *unknown)
{
	static uint8_t state[LOG_EVENTS]; /* of BEGIN events: 1 begun, 2 pending, 0 ended */
	uint32_t n = atomic_load(&log->count);

	memset(state, 0, sizeof(state));
	for (uint32_t i = 0; i < n; i++) {
		const struct event *ev = &log->event[i], *begin = &log->event[ev->entry];

		switch (ev->type) {
		case EVENT_BEGIN:
			state[i] = 1;
			if (ev->kind == RUN_PUT && ref_put_begin(&r->ref, ev->k) != ev->version)
				return run_fail(r, "the log's versions do not follow the parent's");
			break;
		case EVENT_PENDING:
			state[ev->entry] = 2;
			ref_put_pending(&r->ref, begin->k, begin->version);
			break;
		case EVENT_END:
			if (replay_end(r, begin, ev, state[ev->entry] == 2))
				return -EBADMSG;
			state[ev->entry] = 0;
			break;
		}
	}
	for (uint32_t i = 0; i < n; i++)
		if (state[i]) {
			replay_unknown(r, &log->event[i], state[i] == 2);
			(*unknown)++;
		}
	return 0;
}

static int kill_one(
	struct run *r, struct run_log *log, uint64_t number, uint64_t *events, uint64_t *unknown)
{
	struct timespec ts = {0};
	pid_t pid;
	int status;

	atomic_store(&log->count, 0);
	log->error[0] = '\0';
	run_count(r);
	fake_crash(&r->fake);
	engine_abandon(r->e);
	r->e = NULL;
	run_forget_requests(r);
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return run_fail(r, "fork: %s", strerror(errno));
	r->rng.state = rng_mix(r->opt.seed * 1000003 + number);
	if (pid == 0)
		child_run(r, log);
	/* Once in eight times already while it recovers. */
	ts.tv_nsec = (long)(rng_below(&r->rng, 8) ? rng_below(&r->rng, 30000 * US)
						  : rng_below(&r->rng, 2000 * US));
	nanosleep(&ts, NULL);
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid)
		return run_fail(r, "waitpid: %s", strerror(errno));
	if (log->error[0] || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		return run_fail(
			r, "the child failed (status 0x%x): %s", (unsigned)status, log->error);
	*events += atomic_load(&log->count);
	r->now_ns += 1000000 * US;
	r->taken = true; /* the child may have lost regions */
	r->disrupted_ns = r->now_ns + 2 * r->cfg.get_timeout_ns;
	if (replay(r, log, unknown))
		return -EBADMSG;
	return run_open(r);
}

static int crash_run(
	struct run *r, struct run_log *log, uint64_t kills, uint64_t *events, uint64_t *unknown)
{
	if (run_init(r, &r->opt))
		return -EBADMSG;
	for (uint64_t i = 0; i < kills; i++) {
		unsigned steps = (unsigned)rng_below(&r->rng, 300);

		if (kill_one(r, log, i, events, unknown))
			return -EBADMSG;
		while (steps--)
			if (run_step(r))
				return -EBADMSG;
	}
	return run_finish(r);
}

int crash_test(const struct run_options *opt, uint64_t kills)
{
	static struct run r;
	struct run_log *log =
		mmap(NULL, sizeof(*log), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t events = 0, unknown = 0;
	int status;

	if (log == MAP_FAILED)
		return -errno;
	r.opt = *opt;
	status = crash_run(&r, log, kills, &events, &unknown);
	if (status)
		fprintf(stderr,
			"FAILED: seed %" PRIu64 ": %s\n"
			"the kills are at random moments: repeat with model_test --seed %" PRIu64
			" --kills %" PRIu64 "\n",
			opt->seed, r.error, opt->seed, kills);
	else
		printf("seed %" PRIu64 ": %" PRIu64 " kills, %" PRIu64
		       " events in the children, %" PRIu64 " calls cut short: passed\n",
			opt->seed, kills, events, unknown);
	run_fini(&r);
	munmap(log, sizeof(*log));
	return status;
}
