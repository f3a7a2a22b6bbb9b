/* Preloaded into a memory server: flips a bit in some of the data that it sends. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "tests/model/rng.h"

#define HEADER_BYTES 24u /* what is not larger is an answer's header */
#define PARTS_MAX    64u
#define COPY_MAX     (256u << 10)

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags) __attribute__((visibility("default")));

static _Atomic uint64_t turn;

static uint32_t flip_ppm(void)
{
	static uint32_t ppm = UINT32_MAX;

	if (ppm == UINT32_MAX) {
		const char *s = getenv("FALLOW_FAULT_FLIP_PPM");

		ppm = s ? (uint32_t)strtoul(s, NULL, 10) : 0;
	}
	return ppm;
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static ssize_t (*next)(int, const struct msghdr *, int);
	static __thread uint8_t copy[COPY_MAX];
	struct rng r = {rng_mix(atomic_fetch_add(&turn, 1))};
	struct iovec parts[PARTS_MAX];
	struct msghdr changed = *msg;
	size_t i;

	if (!next)
		next = (ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
	for (i = 0; i < msg->msg_iovlen && msg->msg_iov[i].iov_len <= HEADER_BYTES; i++)
		;
	if (i == msg->msg_iovlen || msg->msg_iovlen > PARTS_MAX || !rng_ppm(&r, flip_ppm()) ||
		msg->msg_iov[i].iov_len > COPY_MAX)
		return next(fd, msg, flags);
	memcpy(parts, msg->msg_iov, msg->msg_iovlen * sizeof(parts[0]));
	memcpy(copy, parts[i].iov_base, parts[i].iov_len);
	copy[rng_below(&r, parts[i].iov_len)] ^= (uint8_t)(1u << rng_below(&r, 8));
	parts[i].iov_base = copy;
	changed.msg_iov = parts;
	return next(fd, &changed, flags);
}
