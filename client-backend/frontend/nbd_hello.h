/* NBD's fixed newstyle negotiation, the server's end, as bytes in and bytes out. */
#ifndef FALLOW_NBD_HELLO_H
#define FALLOW_NBD_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Pure: no descriptor, no clock, no allocation. The caller sends what is in out, then reads what is
 * asked for, in turns; nothing is read beyond the negotiation. There is no TLS, and no extension:
 * such options are refused by name, and a client that can do without goes on.
 */
#define NBD_HELLO_IN_BYTES   8192u /* of one option's data; longer ones are skipped and refused */
#define NBD_HELLO_SKIP_BYTES (1u << 20) /* longer ones end the connection */
#define NBD_HELLO_OUT_BYTES  256u

/* Why a connection was ended. Part of the metrics' labels, see nbd_violation_name(). */
enum nbd_violation {
	NBD_VIOLATION_NONE,
	NBD_VIOLATION_MAGIC,	/* of an option or a request */
	NBD_VIOLATION_FLAGS,	/* handshake flags that there are not */
	NBD_VIOLATION_LENGTH,	/* an option longer than NBD_HELLO_SKIP_BYTES */
	NBD_VIOLATION_EXPORT,	/* asked for by EXPORT_NAME, and not here */
	NBD_VIOLATION_LATE,	/* the negotiation took too long */
	NBD_VIOLATION_RESOURCE, /* we are out of something */
	NBD_VIOLATIONS
};
const char *nbd_violation_name(enum nbd_violation v);

/* What is served. The default export, of the empty name, is the same. */
struct nbd_export {
	const char *name; /* at most 63 bytes */
	uint64_t size_bytes;
	uint32_t min_bytes, preferred_bytes, max_bytes; /* of requests */
	bool readonly;
};

enum nbd_hello_state {
	NBD_HELLO_TALK,	 /* send, then read */
	NBD_HELLO_READY, /* once all is sent: requests follow */
	NBD_HELLO_CLOSE, /* once all is sent: the client wants to end it */
	NBD_HELLO_BROKEN /* to be closed, see `why` */
};

struct nbd_hello {
	const struct nbd_export *export;
	enum nbd_hello_state state;
	enum nbd_violation why;
	enum { NBD_HELLO_FLAGS, NBD_HELLO_OPTION, NBD_HELLO_DATA, NBD_HELLO_SKIP } phase;
	bool no_zeroes;
	uint32_t option, want, got; /* want: bytes of this phase */
	uint32_t out_bytes;
	uint8_t in[NBD_HELLO_IN_BYTES];
	uint8_t out[NBD_HELLO_OUT_BYTES];
};

/* e outlives it. */
void nbd_hello_start(struct nbd_hello *h, const struct nbd_export *e);
/* Where to read to, and how many bytes at most; 0: none. All of out was sent: it is empty now. */
uint32_t nbd_hello_room(struct nbd_hello *h, uint8_t **at);
/* So many bytes were read there, at least 1. */
enum nbd_hello_state nbd_hello_take(struct nbd_hello *h, uint32_t bytes);

#endif
