/* Feeds bytes to a data connection of the memory server, in pieces, over a socket pair. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/transport/tcp_server_conn.h"

#define REGION_BYTES 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server_table table;
static struct server_io io, *ios[1] = {&io};
static struct transport_server_stats stats;
static struct server_client *client;
static struct transport_region *region;
static uint8_t memory[REGION_BYTES], drain[TCP_CONN_TURN];
static const uint64_t token[2] = {0x3131313131313131ull, 0x3232323232323232ull};

static void killed(void *arg)
{
}

static void setup(void)
{
	if (server_table_init(&table, 4) || server_client_add(&table, 1, &client) ||
		server_session_add(&table, client, token) ||
		server_region_add(&table, client, memory, sizeof memory, NULL, &region))
		abort();
	table.io = ios;
	table.ios = 1;
}

/* A well-formed HELLO, and after it what the input says; keys of 8 times 0x33 become the region's.
 */
static size_t prepare(uint8_t *out, const uint8_t *data, size_t size)
{
	static const uint8_t mark[8] = {0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33};
	struct transport_hello h = {.token = {token[0], token[1]}, .live_mask = 1};
	tcp_hello_encode(out, &h);
	memcpy(out + TCP_REQUEST_BYTES, data, size);
	for (size_t i = TCP_REQUEST_BYTES; i + 8 <= TCP_REQUEST_BYTES + size; i++)
		if (!memcmp(out + i, mark, sizeof mark))
			tcp_put64(out + i, region->key);
	return TCP_REQUEST_BYTES + size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t out[8192], in[65536];
	struct tcp_server_ctx ctx = {
		.table = &table, .io = &io, .stats = &stats, .killed = killed, .drain = drain};
	struct tcp_server_conn c;
	int fd[2];
	if (!region)
		setup();
	if (size < 1 || size > sizeof out - TCP_REQUEST_BYTES)
		return 0;
	size_t piece = 1u + data[0] * 4u;
	bool hello = data[0] & 1;
	size_t bytes = prepare(out, data + 1, size - 1), at = hello ? 0 : TCP_REQUEST_BYTES;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd))
		abort();
	tcp_server_conn_init(&c, fd[0], 0);
	bool ok = true;
	while (ok && at < bytes) {
		size_t n = bytes - at < piece ? bytes - at : piece;
		ssize_t sent = send(fd[1], out + at, n, MSG_NOSIGNAL);
		at += sent > 0 ? (size_t)sent : n;
		do
			ok = tcp_server_conn_run(&c, &ctx, 1);
		while (ok && (c.more || recv(fd[1], in, sizeof in, 0) > 0));
	}
	tcp_server_conn_fini(&c, &ctx);
	close(fd[1]);
	if (atomic_load(&region->refs) != 1 || client->conns[SERVER_CONN_TCP])
		abort();
	return 0;
}
