/* Both ends of the verbs transport on two machines with real devices: rights, errors, ends under
 * load. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/transport/server.h"
#include "lib/transport/transport.h"
#include "lib/transport/verbs_client.h"

#define REGION	 (4u << 20)
#define AREA	 (4u << 20)
#define DEPTH	 32u
#define LIMIT_MS 120000u
#define CLIENT_A 1u
#define CLIENT_B 2u

/*
 * verbs serve PORT                  answers the tests' questions on this tcp port, until "quit"
 * verbs check HOST PORT [READS]     everything, or only so many reads and writes for a faulty link
 */
#define CHECK(x, ...)                                                                              \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s failed: ", __LINE__, #x);                     \
			fprintf(stderr, __VA_ARGS__);                                              \
			fputc('\n', stderr);                                                       \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const uint64_t token_a[2] = {0x1111, 0xa}, token_b[2] = {0x2222, 0xb};

static uint64_t now_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void fill(void *at, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++)
		((uint64_t *)at)[i] = mix(seed + i);
}

static void *map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED, "%zu bytes", len);
	return p;
}

/* ---- serving ---- */

static void progress_for(struct transport_server *s, unsigned ms)
{
	for (uint64_t end = now_us() + ms * 1000u; now_us() < end;) {
		struct pollfd p = {.fd = transport_server_event_fd(s), .events = POLLIN};
		poll(&p, 1, 10);
		transport_server_progress(s);
	}
}

static void answer_export(struct transport_server *s, uint64_t client, void *base, FILE *io,
	struct transport_export *out)
{
	int err = transport_server_export(s, client, base, REGION, out);
	CHECK(!err, "export: %s", strerror(-err));
	fprintf(io, "%" PRIu32 " %" PRIu64 "\n", out->verbs_rkey, out->verbs_raddr);
}

static size_t changed_bytes(const uint8_t *base)
{
	size_t bad = 0;
	for (size_t i = 0; i < REGION; i++)
		bad += base[i] != 0x5a;
	return bad;
}

/* Takes the region back while its holder goes on writing: nothing may change afterwards. */
static void answer_revoke(
	struct transport_server *s, struct transport_export *e, uint8_t *base, FILE *io)
{
	uint64_t begin = now_us(), took;
	transport_server_unexport(s, e->region);
	took = now_us() - begin;
	memset(base, 0x5a, REGION);
	progress_for(s, 500);
	fprintf(io, "%zu %" PRIu64 "\n", changed_bytes(base), took);
}

static bool answer(struct transport_server *s, const char *line, FILE *io, uint8_t *const base[3])
{
	static struct transport_export export[3];
	struct transport_server_stats st;
	if (!strncmp(line, "port", 4)) {
		fprintf(io, "%u 0\n", transport_server_verbs_port(s));
	} else if (!strncmp(line, "export-a", 8)) {
		answer_export(s, CLIENT_A, base[0], io, &export[0]);
	} else if (!strncmp(line, "export-b", 8)) {
		answer_export(s, CLIENT_B, base[1], io, &export[1]);
	} else if (!strncmp(line, "export-c", 8)) {
		answer_export(s, CLIENT_A, base[2], io, &export[2]);
	} else if (!strncmp(line, "revoke-c", 8)) {
		answer_revoke(s, &export[2], base[2], io);
	} else if (!strncmp(line, "next-c", 6)) {
		answer_export(s, CLIENT_B, base[2], io, &export[2]);
	} else if (!strncmp(line, "end-c", 5)) {
		transport_server_unexport(s, export[2].region);
		fprintf(io, "%zu 0\n", changed_bytes(base[2]));
	} else if (!strncmp(line, "log-off", 7)) {
		transport_server_session_remove(s, token_a);
		progress_for(s, 100);
		fprintf(io, "0 0\n");
	} else if (!strncmp(line, "log-on", 6)) {
		fprintf(io, "%d 0\n", transport_server_session_add(s, CLIENT_A, token_a));
	} else if (!strncmp(line, "stats", 5)) {
		transport_server_stats(s, &st);
		fprintf(io, "%" PRIu64 " %" PRIu64 "\n", stat_get(&st.verbs_connections),
			stat_get(&st.refused_token));
	} else {
		fprintf(io, "0 0\n");
		return false;
	}
	return true;
}

static int listen_tcp(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 4), "%s", strerror(errno));
	return fd;
}

static bool serve_one(struct transport_server *s, int listener, uint8_t *const base[3])
{
	char line[64];
	bool more = true;
	FILE *io = fdopen(accept(listener, NULL, NULL), "r+");
	CHECK(io, "accept: %s", strerror(errno));
	if (fgets(line, sizeof line, io)) {
		fseek(io, 0, SEEK_CUR);
		more = answer(s, line, io, base);
	}
	fclose(io);
	return more;
}

static int serve(uint16_t port)
{
	struct transport_server_config cfg;
	struct transport_server *s = NULL;
	char why[200] = "";
	uint8_t *base[3] = {map(REGION), map(REGION), map(REGION)};
	int listener = listen_tcp(port);
	transport_server_config_default(&cfg, "0.0.0.0");
	cfg.tcp = false;
	CHECK(!transport_server_start(&cfg, &s, why, sizeof why), "%s", why);
	CHECK(!transport_server_verbs_status(s), "no verbs: %s",
		strerror(-transport_server_verbs_status(s)));
	CHECK(!transport_server_client_add(s, CLIENT_A) &&
			!transport_server_client_add(s, CLIENT_B) &&
			!transport_server_session_add(s, CLIENT_A, token_a) &&
			!transport_server_session_add(s, CLIENT_B, token_b),
		"clients");
	fill(base[1], REGION, 77);
	for (bool more = true; more;) {
		struct pollfd p[2] = {{.fd = transport_server_event_fd(s), .events = POLLIN},
			{.fd = listener, .events = POLLIN}};
		poll(p, 2, 1000);
		transport_server_progress(s);
		if (p[1].revents)
			more = serve_one(s, listener, base);
	}
	transport_server_stop(s);
	return 0;
}

/* ---- checking ---- */

struct end {
	struct transport_op op;
	bool ended;
	int status;
};

struct rig {
	const char *host;
	uint16_t question_port, port;
	struct transport *t;
	uint8_t *area;
	uint32_t key_a, key_b;
	uint64_t addr_a, addr_b;
};

static const struct transport_ops *const ops = &transport_verbs;

static void ask(const struct rig *r, const char *what, uint64_t *a, uint64_t *b)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(r->question_port)};
	uint64_t skip;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(inet_pton(AF_INET, r->host, &to.sin_addr) == 1, "%s", r->host);
	CHECK(!connect(fd, (struct sockaddr *)&to, sizeof to), "%s", strerror(errno));
	CHECK(dprintf(fd, "%s\n", what) > 0, "%s", strerror(errno));
	FILE *in = fdopen(fd, "r");
	CHECK(in && fscanf(in, "%" SCNu64 " %" SCNu64, a ? a : &skip, b ? b : &skip) == 2, "%s",
		what);
	fclose(in);
}

static int first_error; /* in the order of the completions */

static void op_done(struct transport_op *op, int status)
{
	struct end *e = (struct end *)op;
	CHECK(!e->ended, "an op ended twice");
	e->ended = true;
	e->status = status;
	if (status && !first_error)
		first_error = status;
}

static void end_init(struct end *e, enum transport_op_kind kind, void *buf, uint32_t len,
	uint32_t key, uint64_t addr)
{
	*e = (struct end){.op = {.kind = kind,
				  .buf = buf,
				  .len = len,
				  .rkey = key,
				  .raddr = addr,
				  .done = op_done}};
}

/* Sleeps as a lane does. A wakeup that is lost shows as the limit. */
static int wait_end(struct rig *r, const struct end *e)
{
	for (uint64_t limit = now_us() + LIMIT_MS * 1000ull; !e->ended;) {
		CHECK(now_us() < limit, "an op does not end");
		int n = ops->poll(r->t, 64);
		CHECK(n >= 0, "poll: %s", strerror(-n));
		if (n > 0 || ops->arm(r->t))
			continue;
		struct pollfd p = {.fd = ops->event_fd(r->t), .events = POLLIN};
		CHECK(poll(&p, 1, LIMIT_MS) == 1, "no wakeup for a completion");
	}
	return e->status;
}

static int transfer(struct rig *r, struct transport_conn *c, enum transport_op_kind kind, void *buf,
	uint32_t len, uint32_t key, uint64_t addr)
{
	struct end e;
	end_init(&e, kind, buf, len, key, addr);
	int err = ops->post(c, &e.op);
	if (err)
		return err;
	ops->doorbell(c);
	return wait_end(r, &e);
}

static int establish(struct rig *r, const uint64_t token[2], struct transport_conn **c)
{
	struct transport_peer peer = {
		.port = r->port, .token = {token[0], token[1]}, .timeout_ms = LIMIT_MS};
	snprintf(peer.host, sizeof peer.host, "%s", r->host);
	int err = ops->connect(r->t, &peer, c);
	CHECK(!err, "connect: %s", strerror(-err));
	while ((err = ops->conn_progress(*c)) == -EINPROGRESS) {
		struct pollfd p = {.fd = ops->conn_fd(*c), .events = POLLIN};
		poll(&p, 1, 1000);
	}
	if (!err)
		CHECK(!ops->attach(*c), "attach");
	else
		ops->destroy(*c);
	return err;
}

static struct transport_conn *must_connect(struct rig *r, const uint64_t token[2])
{
	struct transport_conn *c;
	int err = establish(r, token, &c);
	CHECK(!err, "%s", strerror(-err));
	return c;
}

static void drop(struct transport_conn *c)
{
	ops->disconnect(c);
	ops->destroy(c);
}

/* Writes and reads of all lengths, many in flight, compared. */
static void check_transfers(struct rig *r, struct transport_conn *c, unsigned rounds)
{
	static const uint32_t lens[] = {8, 64, 512, 4096, 4160, 16384, 65536};
	struct end e[DEPTH];
	uint64_t begin = now_us(), longest = 0;
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t round_begin = now_us();
		uint32_t len = lens[round % 7];
		uint8_t *src = r->area, *dst = r->area + AREA / 2;
		fill(src, DEPTH / 2 * len, round);
		memset(dst, 0, DEPTH / 2 * len);
		/* RC keeps the order: the read of what was written just before sees it. */
		for (unsigned i = 0; i < DEPTH; i++) {
			unsigned at = i / 2 * len;
			end_init(&e[i], i % 2 ? TRANSPORT_READ : TRANSPORT_WRITE,
				(i % 2 ? dst : src) + at, len, r->key_a, r->addr_a + at);
			CHECK(!ops->post(c, &e[i].op), "post %u", i);
			if (i % 5 == 4)
				ops->doorbell(c);
		}
		ops->doorbell(c);
		for (unsigned i = 0; i < DEPTH; i++)
			CHECK(!wait_end(r, &e[i]), "op %u: %s", i, strerror(-e[i].status));
		CHECK(!memcmp(src, dst, DEPTH / 2 * len), "what came back differs, length %u", len);
		if (now_us() - round_begin > longest)
			longest = now_us() - round_begin;
	}
	printf("%u transfers in %" PRIu64 " ms, longest round of %u %" PRIu64 " ms\n",
		rounds * DEPTH, (now_us() - begin) / 1000, DEPTH, longest / 1000);
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void print_latency(struct rig *r, struct transport_conn *c, bool sleeping)
{
	enum { READS = 1000 };
	static uint32_t us[READS];
	for (unsigned i = 0; i < READS; i++) {
		struct end e;
		end_init(
			&e, TRANSPORT_READ, r->area, 4096, r->key_a, r->addr_a + i * 4096 % REGION);
		uint64_t begin = now_us();
		CHECK(!ops->post(c, &e.op), "post");
		ops->doorbell(c);
		if (sleeping)
			CHECK(!wait_end(r, &e), "read");
		while (!e.ended)
			CHECK(ops->poll(r->t, 1) >= 0, "poll");
		us[i] = (uint32_t)(now_us() - begin);
	}
	qsort(us, READS, sizeof us[0], compare_u32);
	printf("read of 4 KiB, %s: p50 %u us, p99 %u us\n", sleeping ? "sleeping" : "polling",
		us[READS / 2], us[READS * 99 / 100]);
}

/* A refused access is told as such, stops the connection and nothing else; a new one works. */
static void check_refusal(struct rig *r, const char *what, enum transport_op_kind kind,
	uint32_t key, uint64_t addr, uint32_t len)
{
	struct transport_conn *c = must_connect(r, token_a);
	struct end e[4];
	for (unsigned i = 0; i < 4; i++) {
		end_init(&e[i], i == 1 ? kind : TRANSPORT_READ, r->area + i * 65536,
			i == 1 ? len : 4096, i == 1 ? key : r->key_a, i == 1 ? addr : r->addr_a);
		CHECK(!ops->post(c, &e[i].op), "post");
	}
	memset(r->area + 65536, 0x33, len);
	ops->doorbell(c);
	for (unsigned i = 0; i < 4; i++)
		wait_end(r, &e[i]);
	CHECK(e[0].status == 0, "%s: the one before: %s", what, strerror(-e[0].status));
	CHECK(e[1].status == -EREMOTEIO, "%s: %s", what, strerror(-e[1].status));
	CHECK(e[2].status == -ECONNRESET && e[3].status == -ECONNRESET, "%s: the ones after", what);
	CHECK(ops->conn_broken(c), "%s: the connection is not broken", what);
	CHECK(ops->post(c, &e[0].op) == -ENOTCONN, "%s: a broken connection takes ops", what);
	drop(c);
	c = must_connect(r, token_a);
	CHECK(!transfer(r, c, TRANSPORT_READ, r->area, 4096, r->key_a, r->addr_a), "%s: afterwards",
		what);
	drop(c);
	printf("%s: refused\n", what);
}

static void check_rights(struct rig *r)
{
	check_refusal(
		r, "read with a wrong rkey", TRANSPORT_READ, r->key_a + 0x100, r->addr_a, 4096);
	check_refusal(r, "write with a wrong rkey", TRANSPORT_WRITE, r->key_a ^ 1, r->addr_a, 4096);
	check_refusal(
		r, "read with another client's rkey", TRANSPORT_READ, r->key_b, r->addr_b, 4096);
	check_refusal(
		r, "write with another client's rkey", TRANSPORT_WRITE, r->key_b, r->addr_b, 4096);
	check_refusal(
		r, "read over the end", TRANSPORT_READ, r->key_a, r->addr_a + REGION - 2048, 4096);
	check_refusal(
		r, "write before the start", TRANSPORT_WRITE, r->key_a, r->addr_a - 4096, 4096);

	struct transport_conn *c;
	uint64_t wrong[2] = {token_a[0], token_a[1] + 1};
	int err = establish(r, wrong, &c);
	CHECK(err == -EACCES, "a wrong token: %s", strerror(-err));
	/* What the others tried has not changed client b's memory. */
	c = must_connect(r, token_b);
	CHECK(!transfer(r, c, TRANSPORT_READ, r->area, 65536, r->key_b, r->addr_b), "client b");
	fill(r->area + 65536, 65536, 77);
	CHECK(!memcmp(r->area, r->area + 65536, 65536), "client b's memory changed");
	drop(c);
}

struct load {
	struct end e[DEPTH];
	uint64_t ended;
	int status;
};

/* Keeps ops in flight until one fails or the time is over. */
static void load_run(struct rig *r, struct transport_conn *c, struct load *l,
	enum transport_op_kind kind, uint32_t key, uint64_t addr, uint64_t limit_ms, bool watch)
{
	first_error = 0;
	for (uint64_t end = now_us() + limit_ms * 1000; now_us() < end && !l->status;) {
		for (unsigned i = 0; i < DEPTH; i++) {
			if (l->e[i].op.done && !l->e[i].ended)
				continue;
			l->ended += l->e[i].ended;
			end_init(&l->e[i], kind, r->area + i * 65536, 65536, key, addr + i * 65536);
			if (ops->post(c, &l->e[i].op))
				l->e[i].op.done = NULL;
		}
		ops->doorbell(c);
		CHECK(ops->poll(r->t, 64) >= 0, "poll");
		l->status = first_error;
		if (watch && !l->status && ops->conn_progress(c))
			l->status = -ECONNRESET;
	}
}

/* Forks off the question, so that it is asked while the load runs. */
static pid_t ask_later(const struct rig *r, const char *what, FILE *answer_to)
{
	fflush(NULL);
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	if (pid)
		return pid;
	uint64_t a, b;
	usleep(300000);
	ask(r, what, &a, &b);
	rewind(answer_to);
	fprintf(answer_to, "%" PRIu64 " %" PRIu64 "\n", a, b);
	fflush(answer_to);
	_exit(0);
}

static void check_revocation(struct rig *r, enum transport_op_kind kind)
{
	uint64_t key, addr, bad, took_us;
	struct load l = {0};
	FILE *file = tmpfile();
	struct transport_conn *c = must_connect(r, token_a);
	ask(r, "export-c", &key, &addr);
	pid_t pid = ask_later(r, "revoke-c", file);
	load_run(r, c, &l, kind, (uint32_t)key, addr, LIMIT_MS, false);
	CHECK(l.status == -EREMOTEIO, "region taken under load: %s", strerror(-l.status));
	for (unsigned i = 0; i < DEPTH; i++)
		if (l.e[i].op.done)
			wait_end(r, &l.e[i]);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	rewind(file);
	CHECK(fscanf(file, "%" SCNu64 " %" SCNu64, &bad, &took_us) == 2, "no answer");
	fclose(file);
	CHECK(!bad, "%" PRIu64 " bytes changed after the region was taken back", bad);
	drop(c);
	printf("region taken back under %s after %" PRIu64 " of them: refused, taking took %" PRIu64
	       " us\n",
		kind == TRANSPORT_READ ? "reads" : "writes", l.ended, took_us);
}

/* A lease that is over, of memory that is another client's by now. */
static void check_late_key(struct rig *r)
{
	uint64_t key, addr, next_key, next_addr, bad;
	ask(r, "export-c", &key, &addr);
	ask(r, "revoke-c", &bad, NULL);
	ask(r, "next-c", &next_key, &next_addr);
	check_refusal(r, "read with a late rkey", TRANSPORT_READ, (uint32_t)key, addr, 4096);
	check_refusal(r, "write with a late rkey", TRANSPORT_WRITE, (uint32_t)key, addr, 4096);
	check_refusal(r, "write with the next holder's rkey", TRANSPORT_WRITE, (uint32_t)next_key,
		next_addr, 4096);
	ask(r, "end-c", &bad, NULL);
	CHECK(!bad, "%" PRIu64 " bytes of the next holder changed", bad);
}

/*
 * The queue pair goes into its error state with writes in flight. Each op ends once, with success
 * or -ECONNRESET; those that succeeded are there, the others are done again over a new queue pair.
 */
static void check_qp_error(struct rig *r, unsigned after)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	struct end e[DEPTH];
	unsigned again = 0, len = AREA / 2 / DEPTH;
	uint8_t *back = r->area + AREA / 2;
	struct transport_conn *c = must_connect(r, token_a);
	fill(r->area, AREA / 2, 1000 + after);
	for (unsigned i = 0; i < DEPTH; i++) {
		end_init(&e[i], TRANSPORT_WRITE, r->area + i * len, len, r->key_a,
			r->addr_a + i * len);
		CHECK(!ops->post(c, &e[i].op), "post");
		ops->doorbell(c);
	}
	for (unsigned i = 0; i < after; i++)
		CHECK(!wait_end(r, &e[i]), "op %u: %s", i, strerror(-e[i].status));
	CHECK(!ibv_modify_qp(((struct verbs_conn *)c)->qp, &attr, IBV_QP_STATE), "modify");
	for (unsigned i = 0; i < DEPTH; i++)
		CHECK(!wait_end(r, &e[i]) || ops->conn_broken(c), "the connection is not broken");
	drop(c);
	c = must_connect(r, token_a);
	for (unsigned i = 0; i < DEPTH; i++) {
		CHECK(!e[i].status || e[i].status == -ECONNRESET, "op %u: %s", i,
			strerror(-e[i].status));
		if (e[i].status) {
			again++;
			CHECK(!transfer(r, c, TRANSPORT_WRITE, r->area + i * len, len, r->key_a,
				      r->addr_a + i * len),
				"again");
		}
		CHECK(!transfer(r, c, TRANSPORT_READ, back + i * len, len, r->key_a,
			      r->addr_a + i * len),
			"read");
	}
	CHECK(!memcmp(r->area, back, AREA / 2), "what was written differs");
	drop(c);
	printf("queue pair in error after %u of %u writes: %u done again, all there\n", after,
		DEPTH, again);
}

/*
 * The donor ends the session. Whoever watches the connection is told by the peer; who does not
 * finds out by the requests that nobody answers.
 */
static void check_log_off(struct rig *r, bool watch)
{
	uint64_t err;
	struct load l = {0};
	FILE *file = tmpfile();
	struct transport_conn *c = must_connect(r, token_a);
	pid_t pid = ask_later(r, "log-off", file);
	uint64_t begin = now_us();
	load_run(r, c, &l, TRANSPORT_READ, r->key_a, r->addr_a, LIMIT_MS, watch);
	uint64_t took = now_us() - begin;
	CHECK(l.status == -ECONNRESET, "session ended under load: %s", strerror(-l.status));
	waitpid(pid, NULL, 0);
	fclose(file);
	drop(c);
	for (unsigned i = 0; i < DEPTH; i++)
		CHECK(!l.e[i].op.done || l.e[i].ended, "op %u is still out", i);
	begin = now_us();
	CHECK(establish(r, token_a, &c) == -EACCES, "an ended session's token is taken");
	ask(r, "log-on", &err, NULL);
	CHECK(!err, "log on");
	drop(must_connect(r, token_a));
	printf("session ended under reads, connection %s: reset after %" PRIu64
	       " reads and %" PRIu64 " ms, back after %" PRIu64 " ms\n",
		watch ? "watched" : "not watched", l.ended, took / 1000, (now_us() - begin) / 1000);
}

/* Every op ends before disconnect() returns, and the card is done with the memory. */
static void check_disconnect(struct rig *r)
{
	struct transport_conn *c = must_connect(r, token_a);
	struct end e[DEPTH];
	unsigned cancelled = 0;
	for (unsigned i = 0; i < DEPTH; i++) {
		end_init(&e[i], TRANSPORT_READ, r->area + i * 65536, 65536, r->key_a,
			r->addr_a + i * 65536);
		CHECK(!ops->post(c, &e[i].op), "post");
	}
	ops->doorbell(c);
	uint64_t begin = now_us();
	ops->disconnect(c);
	uint64_t took = now_us() - begin;
	for (unsigned i = 0; i < DEPTH; i++) {
		CHECK(e[i].ended, "op %u is still out", i);
		cancelled += e[i].status == -ECANCELED;
	}
	fill(r->area, DEPTH * 65536, 5);
	usleep(300000);
	fill(r->area + DEPTH * 65536, DEPTH * 65536, 5);
	CHECK(!memcmp(r->area, r->area + DEPTH * 65536, DEPTH * 65536), "written to after the end");
	ops->destroy(c);
	printf("disconnected with %u reads in flight: %u cancelled, took %" PRIu64 " us\n", DEPTH,
		cancelled, took);
}

/* Connections come and go, and the donor forgets them. */
static void check_reconnects(struct rig *r)
{
	uint64_t begin = now_us(), open = 1;
	for (unsigned i = 0; i < 20; i++) {
		struct transport_conn *c = must_connect(r, token_a);
		CHECK(!transfer(r, c, TRANSPORT_READ, r->area, 4096, r->key_a, r->addr_a), "read");
		drop(c);
	}
	uint64_t took = now_us() - begin;
	for (uint64_t limit = now_us() + LIMIT_MS * 1000ull; open;) {
		ask(r, "stats", &open, NULL);
		CHECK(now_us() < limit, "%" PRIu64 " connections stay at the donor", open);
		usleep(20000);
	}
	printf("20 connections, one read each: %" PRIu64 " ms\n", took / 1000);
}

static int check(struct rig *r, unsigned rounds)
{
	uint64_t key, port;
	setvbuf(stdout, NULL, _IOLBF, 0);
	ask(r, "port", &port, NULL);
	r->port = (uint16_t)port;
	ask(r, "export-a", &key, &r->addr_a);
	r->key_a = (uint32_t)key;
	ask(r, "export-b", &key, &r->addr_b);
	r->key_b = (uint32_t)key;
	r->area = map(AREA);
	int err = ops->open(NULL, DEPTH, &r->t);
	CHECK(!err, "open: %s", strerror(-err));
	err = ops->mem_register(r->t, r->area, AREA);
	CHECK(!err, "mem_register: %s", strerror(-err));
	struct transport_conn *c = must_connect(r, token_a);
	check_transfers(r, c, rounds ? rounds : 140);
	if (!rounds) {
		print_latency(r, c, false);
		print_latency(r, c, true);
	}
	drop(c);
	if (!rounds) {
		check_rights(r);
		check_revocation(r, TRANSPORT_READ);
		check_revocation(r, TRANSPORT_WRITE);
		check_late_key(r);
		check_qp_error(r, 0);
		check_qp_error(r, 1);
		check_qp_error(r, DEPTH / 2);
		check_log_off(r, true);
		check_log_off(r, false);
		check_disconnect(r);
		check_reconnects(r);
	}
	ops->close(r->t);
	ask(r, "quit", NULL, NULL);
	printf("passed\n");
	return 0;
}

int main(int argc, char **argv)
{
	struct rig r = {0};
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve((uint16_t)atoi(argv[2]));
	if (argc >= 4 && !strcmp(argv[1], "check")) {
		r.host = argv[2];
		r.question_port = (uint16_t)atoi(argv[3]);
		return check(&r, argc > 4 ? (unsigned)atoi(argv[4]) : 0);
	}
	fprintf(stderr, "usage: test-verbs serve PORT | test-verbs check HOST PORT [ROUNDS]\n");
	return 2;
}
