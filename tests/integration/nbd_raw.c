/* A raw NBD client for tests: what to send is up to the caller, right or wrong. */
#include "tests/integration/nbd_raw.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

bool raw_send(int fd, const void *from, size_t bytes)
{
	const uint8_t *p = from;

	while (bytes) {
		ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		p += n;
		bytes -= (size_t)n;
	}
	return true;
}

bool raw_recv(int fd, void *to, size_t bytes)
{
	uint8_t *p = to;

	while (bytes) {
		struct pollfd f = {.fd = fd, .events = POLLIN};

		if (poll(&f, 1, RAW_LIMIT_MS) <= 0)
			return false;
		ssize_t n = recv(fd, p, bytes, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		bytes -= (size_t)n;
	}
	return true;
}

bool raw_closed(int fd)
{
	struct pollfd f = {.fd = fd, .events = POLLIN};
	char c;

	return poll(&f, 1, RAW_LIMIT_MS) > 0 && recv(fd, &c, 1, 0) <= 0;
}

int raw_connect(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	uint8_t greeting[18];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(sa.sun_path, path, sizeof(sa.sun_path) - 1);
	if (fd < 0)
		return -1;
	if (!connect(fd, (struct sockaddr *)&sa, sizeof(sa)) &&
		raw_recv(fd, greeting, sizeof(greeting)) &&
		!memcmp(greeting, "NBDMAGICIHAVEOPT", 16))
		return fd;
	close(fd);
	return -1;
}

bool raw_flags(int fd, uint32_t flags)
{
	flags = htobe32(flags);
	return raw_send(fd, &flags, sizeof(flags));
}

bool raw_option(int fd, uint32_t option, const void *data, uint32_t bytes)
{
	struct nbd_wire_option o = {.magic = htobe64(NBD_OPTION_MAGIC),
		.option = htobe32(option),
		.bytes = htobe32(bytes)};

	return raw_send(fd, &o, sizeof(o)) && raw_send(fd, data, bytes);
}

uint32_t raw_option_reply(int fd, uint32_t option)
{
	for (;;) {
		struct nbd_wire_option_reply r;
		uint8_t data[256];

		if (!raw_recv(fd, &r, sizeof(r)) || be64toh(r.magic) != NBD_REP_MAGIC ||
			be32toh(r.option) != option || be32toh(r.bytes) > sizeof(data) ||
			!raw_recv(fd, data, be32toh(r.bytes)))
			return 0;
		uint32_t type = be32toh(r.type);
		if (type != NBD_REP_INFO && type != NBD_REP_SERVER)
			return type;
	}
}

bool raw_go(int fd, uint32_t option, const char *name)
{
	uint8_t data[128] = {0};
	uint32_t bytes = (uint32_t)strlen(name), be = htobe32(bytes);

	memcpy(data, &be, sizeof(be));
	memcpy(data + 4, name, bytes);
	return raw_option(fd, option, data, bytes + 6);
}

int raw_open(const char *path)
{
	int fd = raw_connect(path);

	if (fd < 0)
		return -1;
	if (raw_flags(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) &&
		raw_go(fd, NBD_OPT_GO, "") && raw_option_reply(fd, NBD_OPT_GO) == NBD_REP_ACK)
		return fd;
	close(fd);
	return -1;
}

bool raw_command(
	int fd, unsigned type, unsigned flags, uint64_t cookie, uint64_t offset, uint32_t bytes)
{
	struct nbd_wire_request r = {.magic = htobe32(NBD_REQUEST_MAGIC),
		.flags = htobe16((uint16_t)flags),
		.type = htobe16((uint16_t)type),
		.cookie = cookie,
		.offset = htobe64(offset),
		.bytes = htobe32(bytes)};

	return raw_send(fd, &r, sizeof(r));
}

bool raw_answer(int fd, uint64_t *cookie, uint32_t *error)
{
	struct nbd_wire_reply r;

	if (!raw_recv(fd, &r, sizeof(r)) || be32toh(r.magic) != NBD_REPLY_MAGIC)
		return false;
	*cookie = r.cookie;
	*error = be32toh(r.error);
	return true;
}
