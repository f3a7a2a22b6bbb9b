/* Hostile NBD clients: each wrong thing is refused in its own way, and nobody else notices. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/integration/nbd_raw.h"

#define MIB    (1u << 20)
#define CONNS  16u /* what the disk allows at a time */
#define ROUNDS 300u

#define MUST(what)                                                                                 \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                 \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *path;
static uint64_t size_bytes;
static uint8_t block[4 * MIB], back[4 * MIB];

static uint64_t draw(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return *x >> 24;
}

static int ready(void)
{
	int fd = raw_connect(path);

	MUST(fd >= 0);
	MUST(raw_flags(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
	return fd;
}

/* ---- negotiation ---- */

static void negotiation_closed(void)
{
	int fd = raw_connect(path);

	MUST(fd >= 0 && raw_flags(fd, 0x80) && raw_closed(fd));
	close(fd);
	fd = ready();
	MUST(raw_send(fd, "IHAVENOT\0\0\0\7\0\0\0\0", 16) && raw_closed(fd));
	close(fd);
	struct nbd_wire_option o = {.magic = htobe64(NBD_OPTION_MAGIC),
		.option = htobe32(NBD_OPT_GO),
		.bytes = htobe32(UINT32_MAX)};
	fd = ready();
	MUST(raw_send(fd, &o, sizeof(o)) && raw_closed(fd));
	close(fd);
	fd = ready();
	MUST(raw_option(fd, NBD_OPT_EXPORT_NAME, "nobody", 6) && raw_closed(fd));
	close(fd);
	fd = ready();
	MUST(raw_option(fd, NBD_OPT_EXPORT_NAME, block, 100000) && raw_closed(fd));
	close(fd);
}

static void refused(int fd, uint32_t option, const void *data, uint32_t bytes, uint32_t with)
{
	MUST(raw_option(fd, option, data, bytes));
	MUST(raw_option_reply(fd, option) == with);
}

static void negotiation_refused(void)
{
	uint8_t info[64] = {0};
	int fd = ready();

	refused(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_UNSUP);
	refused(fd, 8, NULL, 0, NBD_REP_ERR_UNSUP); /* structured replies */
	refused(fd, 12345, block, 5000, NBD_REP_ERR_UNSUP);
	refused(fd, NBD_OPT_GO, block, 100000, NBD_REP_ERR_TOO_BIG);
	refused(fd, NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID);
	refused(fd, NBD_OPT_GO, info, 5, NBD_REP_ERR_INVALID);
	refused(fd, NBD_OPT_GO, "\377\377\377\377\0\0", 6, NBD_REP_ERR_INVALID);
	refused(fd, NBD_OPT_INFO, "\0\0\0\0\377\377", 6, NBD_REP_ERR_INVALID);
	refused(fd, NBD_OPT_INFO, "\0\0\0\0\0\1", 6, NBD_REP_ERR_INVALID);
	refused(fd, NBD_OPT_INFO, "\0\0\0\3abc\0\0", 9, NBD_REP_ERR_UNKNOWN);
	refused(fd, NBD_OPT_INFO, info, 6, NBD_REP_ACK);
	refused(fd, NBD_OPT_LIST, NULL, 0, NBD_REP_ACK);
	refused(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	MUST(raw_closed(fd));
	close(fd);
	/* The oldest way still works, with its zeroes. */
	fd = raw_connect(path);
	MUST(fd >= 0 && raw_flags(fd, NBD_FLAG_FIXED_NEWSTYLE));
	MUST(raw_option(fd, NBD_OPT_EXPORT_NAME, NULL, 0) && raw_recv(fd, back, 8 + 2 + 124));
	uint64_t size;
	memcpy(&size, back, sizeof(size));
	MUST(be64toh(size) == size_bytes);
	MUST(raw_command(fd, NBD_CMD_DISC, 0, 0, 0, 0) && raw_closed(fd));
	close(fd);
}

/* ---- commands ---- */

static uint32_t error_of(int fd, uint64_t cookie)
{
	uint64_t got;
	uint32_t error;

	MUST(raw_answer(fd, &got, &error) && got == cookie);
	return error;
}

static void command_refused(
	int fd, unsigned type, unsigned flags, uint64_t offset, uint32_t bytes, uint32_t error)
{
	static uint64_t cookie;

	cookie++;
	MUST(raw_command(fd, type, flags, cookie, offset, bytes));
	if (type == NBD_CMD_WRITE)
		MUST(raw_send(fd, block, bytes));
	MUST(error_of(fd, cookie) == error);
}

static void commands_refused(void)
{
	int fd = raw_open(path);

	MUST(fd >= 0);
	command_refused(fd, 77, 0, 0, 0, NBD_EINVAL);
	command_refused(fd, 5, 0, 0, 4096, NBD_EINVAL); /* CACHE */
	command_refused(fd, NBD_CMD_READ, 0x100, 0, 4096, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 4096, NBD_EINVAL);
	command_refused(fd, NBD_CMD_WRITE, 0x100, 0, 4096, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, 0, 0, NBD_EINVAL);
	command_refused(fd, NBD_CMD_WRITE, 0, 0, 0, NBD_EINVAL);
	command_refused(fd, NBD_CMD_TRIM, 0, 0, 0, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, 1, 512, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, 0, 513, NBD_EINVAL);
	command_refused(fd, NBD_CMD_WRITE, 0, 7, 512, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, 0, MIB + 512, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, 0, UINT32_MAX & ~511u, NBD_EINVAL);
	command_refused(fd, NBD_CMD_WRITE, 0, 0, 3 * MIB, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, size_bytes, 512, NBD_EINVAL);
	command_refused(fd, NBD_CMD_READ, 0, size_bytes - 512, 1024, NBD_EINVAL);
	command_refused(fd, NBD_CMD_WRITE, 0, size_bytes - 512, 1024, NBD_ENOSPC);
	command_refused(fd, NBD_CMD_WRITE, 0, UINT64_MAX & ~511ull, 512, NBD_ENOSPC);
	command_refused(fd, NBD_CMD_TRIM, 0, 0, UINT32_MAX & ~511u, NBD_ENOSPC);
	command_refused(fd, NBD_CMD_WRITE_ZEROES, 0, UINT64_MAX & ~4095ull, 8192, NBD_ENOSPC);
	command_refused(fd, NBD_CMD_FLUSH, 0, 512, 0, NBD_EINVAL);
	command_refused(fd, NBD_CMD_FLUSH, 0, 0, 512, NBD_EINVAL);
	/* It goes on as if nothing had been. */
	command_refused(fd, NBD_CMD_FLUSH, 0, 0, 0, 0);
	command_refused(fd, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, (uint32_t)size_bytes, 0);
	MUST(raw_command(fd, NBD_CMD_READ, 0, 9, 0, 65536) && !error_of(fd, 9));
	MUST(raw_recv(fd, back, 65536));
	for (unsigned i = 0; i < 65536; i++)
		MUST(!back[i]);
	/* Half of a write: nothing of it is done. */
	memset(block, 0x5a, sizeof(block));
	MUST(raw_command(fd, NBD_CMD_WRITE, 0, 1, 0, 65536) && raw_send(fd, block, 32768));
	close(fd);
	fd = raw_open(path);
	MUST(fd >= 0 && raw_command(fd, NBD_CMD_READ, 0, 9, 0, 65536) && !error_of(fd, 9));
	MUST(raw_recv(fd, back, 65536));
	for (unsigned i = 0; i < 65536; i++)
		MUST(!back[i]);
	MUST(raw_send(fd, "\x25\x60\x95\x14 a request of another kind", 28) && raw_closed(fd));
	close(fd);
}

/* One asks for more than it takes; another one's commands are done all the same. */
static void stalled(void)
{
	int idle = raw_open(path), fd = raw_open(path);
	unsigned sent = 0;

	MUST(idle >= 0 && fd >= 0);
	fcntl(idle, F_SETFL, fcntl(idle, F_GETFL) | O_NONBLOCK);
	struct nbd_wire_request r = {
		.magic = htobe32(NBD_REQUEST_MAGIC), .bytes = htobe32(MIB), .cookie = 1};
	while (send(idle, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r))
		sent++;
	MUST(errno == EAGAIN && sent > 2);
	for (unsigned i = 0; i < ROUNDS; i++) {
		memset(block, (int)i, 65536);
		command_refused(fd, NBD_CMD_WRITE, 0, 4096 * (i % 64), 65536, 0);
		MUST(raw_command(fd, NBD_CMD_READ, 0, 5, 4096 * (i % 64), 65536));
		MUST(!error_of(fd, 5) && raw_recv(fd, back, 65536));
		MUST(!memcmp(block, back, 65536));
	}
	/* It takes its answers after all: they are whole. */
	fcntl(idle, F_SETFL, fcntl(idle, F_GETFL) & ~O_NONBLOCK);
	for (unsigned i = 0; i < 8; i++)
		MUST(!error_of(idle, 1) && raw_recv(idle, back, MIB));
	close(idle);
	close(fd);
}

static void too_many(void)
{
	int fd[CONNS];

	/* Those before may still be ending. */
	for (unsigned i = 0; i < CONNS; i++)
		for (unsigned tries = 0; (fd[i] = raw_open(path)) < 0 && tries < 1000; tries++)
			usleep(10000);
	int more = raw_connect(path);
	MUST(more < 0);
	for (unsigned i = 0; i < CONNS; i++) {
		MUST(fd[i] >= 0);
		close(fd[i]);
	}
}

/* Noise, before and after the negotiation; and right commands whose bytes are changed. */
static void noise(uint64_t seed)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint32_t bytes = 1 + (uint32_t)(draw(&seed) % 4096);
		int fd = -1;

		for (unsigned tries = 0; fd < 0 && tries < 1000; tries++) {
			fd = round % 3 ? raw_open(path) : raw_connect(path);
			if (fd < 0)
				usleep(10000);
		}
		MUST(fd >= 0);
		for (uint32_t i = 0; i < bytes; i++)
			block[i] = (uint8_t)draw(&seed);
		for (uint32_t at = 0; round % 3 == 1 && at + 28 < bytes; at += 28) {
			struct nbd_wire_request r = {.magic = htobe32(NBD_REQUEST_MAGIC),
				.type = htobe16((uint16_t)(draw(&seed) % 8)),
				.offset = htobe64(draw(&seed) % (2 * size_bytes) & ~511ull),
				.bytes = htobe32((uint32_t)(draw(&seed) % (1u << 14)) & ~511u)};

			memcpy(block + at, &r, sizeof(r));
		}
		(void)raw_send(fd, block, bytes);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "Usage: test-nbd-hostile SOCKET MIB SEED\n");
		return 2;
	}
	path = argv[1];
	size_bytes = (uint64_t)atoi(argv[2]) * MIB;
	int silent = raw_connect(path), talker = ready();
	negotiation_closed();
	negotiation_refused();
	commands_refused();
	stalled();
	noise(strtoull(argv[3], NULL, 0));
	/* Who never says what he wants is not waited for. */
	MUST(raw_closed(silent) && raw_closed(talker));
	close(silent);
	close(talker);
	too_many();
	printf("ok\n");
	return 0;
}
