/* The least that an RDMA READ costs: one queue pair, polled, nothing around it. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/samples.h"

#define SERVED_BYTES (64u << 20)
#define MAX_DEPTH    16u /* reads in flight that both ends ask for */
#define STEP_MS	     10000
#define STALL_NS     30000000000ull

/* In the private data of the answer to a connection, big-endian. */
struct grant {
	uint64_t raddr;
	uint32_t rkey, bytes;
};

struct reader {
	struct rdma_cm_id *id;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	struct grant grant;
	uint8_t *area;
	uint64_t start_ns[MAX_DEPTH], random;
	unsigned bytes, depth;
};

static int usage(void)
{
	fputs("usage: bench_read serve PORT\n"
	      "       bench_read run HOST PORT BYTES DEPTH READS [beside]\n"
	      "Prints one JSON line. DEPTH: 1 to 16 reads in flight. beside: meanwhile a second\n"
	      "thread polls, as the client of a daemon does.\n",
		stderr);
	return 2;
}

static int complain(const char *what)
{
	fprintf(stderr, "bench_read: %s: %s\n", what, strerror(errno));
	return -1;
}

static uint8_t *area_map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int qp_make(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.send_cq = cq,
		.recv_cq = cq,
		.cap = {.max_send_wr = MAX_DEPTH,
			.max_recv_wr = 1,
			.max_send_sge = 1,
			.max_recv_sge = 1},
	};

	return rdma_create_qp(id, pd, &attr) ? complain("queue pair") : 0;
}

/* ---- serving ---- */

static int serve_one(struct rdma_cm_id *id, const struct ibv_mr *mr)
{
	struct ibv_cq *cq = ibv_create_cq(id->verbs, MAX_DEPTH, NULL, NULL, 0);
	struct grant grant = {.raddr = htobe64((uintptr_t)mr->addr),
		.rkey = htobe32(mr->rkey),
		.bytes = htobe32(SERVED_BYTES)};
	struct rdma_conn_param param = {.private_data = &grant,
		.private_data_len = sizeof(grant),
		.responder_resources = MAX_DEPTH,
		.initiator_depth = MAX_DEPTH,
		.rnr_retry_count = 7};

	if (!cq)
		return complain("completion queue");
	if (qp_make(id, mr->pd, cq))
		return -1;
	id->context = cq;
	return rdma_accept(id, &param) ? complain("accept") : 0;
}

static void serve_end(struct rdma_cm_id *id)
{
	rdma_destroy_qp(id);
	if (id->context)
		ibv_destroy_cq(id->context);
	rdma_destroy_id(id);
}

static int serve(const char *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_cm_id *listener;
	struct rdma_cm_event *event;
	struct ibv_mr *mr = NULL;
	uint8_t *area = area_map(SERVED_BYTES);

	if (!channel || !area || rdma_create_id(channel, &listener, NULL, RDMA_PS_TCP) ||
		rdma_bind_addr(listener, (struct sockaddr *)&at) || rdma_listen(listener, 4))
		return complain("listen") ? 1 : 0;
	puts("ready");
	fflush(stdout);
	while (!rdma_get_cm_event(channel, &event)) {
		enum rdma_cm_event_type type = event->event;
		struct rdma_cm_id *id = event->id;

		rdma_ack_cm_event(event);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
			if (!mr)
				mr = ibv_reg_mr(ibv_alloc_pd(id->verbs), area, SERVED_BYTES,
					IBV_ACCESS_REMOTE_READ | IBV_ACCESS_LOCAL_WRITE);
			if (!mr)
				return complain("memory region") ? 1 : 0;
			serve_one(id, mr);
		} else if (type == RDMA_CM_EVENT_DISCONNECTED) {
			rdma_disconnect(id);
			serve_end(id);
		}
	}
	return complain("event") ? 1 : 0;
}

/* ---- reading ---- */

static int reader_connect(struct reader *r, const char *host, const char *port)
{
	struct rdma_conn_param param = {.responder_resources = MAX_DEPTH,
		.initiator_depth = MAX_DEPTH,
		.retry_count = 7,
		.rnr_retry_count = 7};
	struct addrinfo hints = {.ai_family = AF_INET}, *to;

	if (getaddrinfo(host, port, &hints, &to))
		return complain(host);
	/* Without an event channel each step waits for its end. */
	if (rdma_create_id(NULL, &r->id, NULL, RDMA_PS_TCP) ||
		rdma_resolve_addr(r->id, NULL, to->ai_addr, STEP_MS) ||
		rdma_resolve_route(r->id, STEP_MS))
		return complain("route");
	freeaddrinfo(to);
	struct ibv_pd *pd = ibv_alloc_pd(r->id->verbs);

	r->area = area_map((size_t)r->bytes * r->depth);
	r->cq = ibv_create_cq(r->id->verbs, MAX_DEPTH, NULL, NULL, 0);
	if (!pd || !r->area || !r->cq)
		return complain("set up");
	r->mr = ibv_reg_mr(pd, r->area, (size_t)r->bytes * r->depth, IBV_ACCESS_LOCAL_WRITE);
	if (!r->mr)
		return complain("memory region");
	if (qp_make(r->id, pd, r->cq))
		return -1;
	if (rdma_connect(r->id, &param))
		return complain("connect");
	errno = EPROTO;
	if (!r->id->event || r->id->event->param.conn.private_data_len < sizeof(r->grant))
		return complain("grant");
	memcpy(&r->grant, r->id->event->param.conn.private_data, sizeof(r->grant));
	return 0;
}

static int read_post(struct reader *r, unsigned place)
{
	struct ibv_sge sge = {.addr = (uintptr_t)r->area + (uint64_t)place * r->bytes,
		.length = r->bytes,
		.lkey = r->mr->lkey};
	struct ibv_send_wr *bad, wr = {.wr_id = place,
					 .sg_list = &sge,
					 .num_sge = 1,
					 .opcode = IBV_WR_RDMA_READ,
					 .send_flags = IBV_SEND_SIGNALED};

	r->random = r->random * 6364136223846793005ull + 1442695040888963407ull;
	wr.wr.rdma.rkey = be32toh(r->grant.rkey);
	wr.wr.rdma.remote_addr =
		be64toh(r->grant.raddr) +
		(r->random >> 33) % (be32toh(r->grant.bytes) / r->bytes) * r->bytes;
	r->start_ns[place] = samples_now_ns();
	return ibv_post_send(r->id->qp, &wr, &bad) ? complain("post") : 0;
}

static int reads_run(struct reader *r, uint64_t reads, struct samples *s)
{
	struct ibv_wc wc[MAX_DEPTH];
	uint64_t posted = 0, done = 0, last_ns = samples_now_ns();

	for (; posted < r->depth && posted < reads; posted++)
		if (read_post(r, (unsigned)posted))
			return -1;
	while (done < reads) {
		int n = ibv_poll_cq(r->cq, MAX_DEPTH, wc);
		uint64_t now = samples_now_ns();

		if (n > 0)
			last_ns = now;
		errno = now - last_ns > STALL_NS ? ETIMEDOUT : EIO;
		if (n < 0 || now - last_ns > STALL_NS)
			return complain("poll");
		for (int i = 0; i < n; i++, done++) {
			if (wc[i].status != IBV_WC_SUCCESS) {
				fprintf(stderr, "bench_read: %s\n",
					ibv_wc_status_str(wc[i].status));
				return -1;
			}
			samples_add(s, now - r->start_ns[wc[i].wr_id]);
			if (posted < reads) {
				if (read_post(r, (unsigned)wc[i].wr_id))
					return -1;
				posted++;
			}
		}
	}
	return 0;
}

/* What a client of libfallow does while it polls; it never finds anything. */
static void *beside_poll(void *arg)
{
	static _Atomic uint32_t word;

	for (unsigned i = 0; !atomic_load_explicit(&word, memory_order_acquire); i++)
		if (i % 32 == 0)
			samples_now_ns();
	return arg;
}

static int run(char **arg, bool beside)
{
	pthread_t poller;
	uint64_t reads = strtoull(arg[4], NULL, 0);
	struct reader r = {.bytes = (unsigned)atoi(arg[2]),
		.depth = (unsigned)atoi(arg[3]),
		.random = 88172645463325252ull};
	struct samples warm, s;

	if (!reads || !r.bytes || r.bytes > SERVED_BYTES || !r.depth || r.depth > MAX_DEPTH)
		return usage();
	if (samples_init(&s, reads) || samples_init(&warm, 1) ||
		reader_connect(&r, arg[0], arg[1]) || reads_run(&r, reads / 10 + 1, &warm))
		return 1;
	errno = EAGAIN;
	if (beside && pthread_create(&poller, NULL, beside_poll, NULL))
		return complain("thread") ? 1 : 0;
	uint64_t start = samples_now_ns();
	if (reads_run(&r, reads, &s))
		return 1;
	double seconds = (double)(samples_now_ns() - start) / 1e9;
	printf("{\"bytes\":%u,\"depth\":%u,\"seconds\":%.3f,\"per_s\":%.1f,\"mib_s\":%.3f,",
		r.bytes, r.depth, seconds, (double)reads / seconds,
		(double)reads * r.bytes / seconds / (1 << 20));
	samples_print(&s);
	puts("}");
	rdma_disconnect(r.id);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 7 && !strcmp(argv[1], "run"))
		return run(argv + 2, false);
	if (argc == 8 && !strcmp(argv[1], "run") && !strcmp(argv[7], "beside"))
		return run(argv + 2, true);
	return usage();
}
