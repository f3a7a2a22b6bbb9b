/* Frames of the tcp transport: fixed little-endian headers, as proto/PROTOCOL.md describes them. */
#ifndef FALLOW_TRANSPORT_TCP_WIRE_H
#define FALLOW_TRANSPORT_TCP_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define TCP_WIRE_MAGIC	   0x4146u /* "FA" */
#define TCP_WIRE_VERSION   1u
#define TCP_REQUEST_BYTES  32u
#define TCP_RESPONSE_BYTES 24u
#define TCP_DRAIN_LIMIT_BYTES                                                                      \
	(4u << 20) /* a refused WRITE up to this long is read and thrown away */

enum tcp_opcode { TCP_HELLO = 1, TCP_READ = 2, TCP_WRITE = 3 };

enum tcp_status {
	TCP_STATUS_OK = 0,
	TCP_STATUS_NO_REGION =
		1, /* unknown, another client's, revoked or expired: not told apart */
	TCP_STATUS_BOUNDS = 2,
	TCP_STATUS_LENGTH = 3,
	TCP_STATUS_TOKEN = 4, /* HELLO only */
	TCP_STATUS_LIMIT = 5, /* HELLO only */
	TCP_STATUSES
};

/* A READ or WRITE; HELLO has its own view of the same 32 bytes. */
struct tcp_request {
	uint8_t opcode;
	uint32_t len;	 /* bytes of payload, after the header for WRITE, in the answer for READ */
	uint64_t cookie; /* the requester's own, echoed */
	uint64_t key;
	uint64_t offset; /* bytes in the region */
};

struct tcp_response {
	uint8_t opcode; /* of the request */
	uint32_t len;	/* bytes of payload that follow: READ with TCP_STATUS_OK; else 0 */
	uint64_t cookie;
	uint32_t status;
};

/*
 * Who opens a connection. A requester (one transport of one lane) numbers its live connections to a
 * donor by slot; the donor ends older ones (by sequence) of the same instance that the newer one
 * does not name as live, before it accepts, so that nothing late comes out of them.
 */
struct transport_hello {
	uint64_t token[2];
	uint32_t instance; /* random, of the transport */
	uint32_t sequence; /* grows with each connection of the instance */
	uint8_t slot;	   /* 0..TRANSPORT_HELLO_SLOTS-1 */
	uint32_t
		live_mask; /* slots of the instance's live connections to this donor, its own too */
};

#define TRANSPORT_HELLO_SLOTS 24u

static inline void tcp_put16(uint8_t *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof v);
}

static inline void tcp_put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof v);
}

static inline void tcp_put64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof v);
}

static inline uint16_t tcp_get16(const uint8_t *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof v);
	return le16toh(v);
}

static inline uint32_t tcp_get32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return le32toh(v);
}

static inline uint64_t tcp_get64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return le64toh(v);
}

static inline void tcp_prefix_encode(uint8_t *p, uint8_t opcode)
{
	tcp_put16(p, TCP_WIRE_MAGIC);
	p[2] = TCP_WIRE_VERSION;
	p[3] = opcode;
}

static inline bool tcp_prefix_ok(const uint8_t *p)
{
	return tcp_get16(p) == TCP_WIRE_MAGIC && p[2] == TCP_WIRE_VERSION;
}

static inline void tcp_request_encode(uint8_t p[TCP_REQUEST_BYTES], const struct tcp_request *r)
{
	tcp_prefix_encode(p, r->opcode);
	tcp_put32(p + 4, r->len);
	tcp_put64(p + 8, r->cookie);
	tcp_put64(p + 16, r->key);
	tcp_put64(p + 24, r->offset);
}

/* False: not a READ or WRITE of this version. */
static inline bool tcp_request_decode(const uint8_t p[TCP_REQUEST_BYTES], struct tcp_request *r)
{
	r->opcode = p[3];
	r->len = tcp_get32(p + 4);
	r->cookie = tcp_get64(p + 8);
	r->key = tcp_get64(p + 16);
	r->offset = tcp_get64(p + 24);
	return tcp_prefix_ok(p) && (r->opcode == TCP_READ || r->opcode == TCP_WRITE);
}

static inline void tcp_response_encode(uint8_t p[TCP_RESPONSE_BYTES], const struct tcp_response *r)
{
	tcp_prefix_encode(p, r->opcode);
	tcp_put32(p + 4, r->len);
	tcp_put64(p + 8, r->cookie);
	tcp_put32(p + 16, r->status);
	tcp_put32(p + 20, 0);
}

/* False: not an answer of this version. */
static inline bool tcp_response_decode(const uint8_t p[TCP_RESPONSE_BYTES], struct tcp_response *r)
{
	r->opcode = p[3];
	r->len = tcp_get32(p + 4);
	r->cookie = tcp_get64(p + 8);
	r->status = tcp_get32(p + 16);
	return tcp_prefix_ok(p) && r->opcode >= TCP_HELLO && r->opcode <= TCP_WRITE &&
	       r->status < TCP_STATUSES && tcp_get32(p + 20) == 0;
}

static inline void tcp_hello_encode(uint8_t p[TCP_REQUEST_BYTES], const struct transport_hello *h)
{
	tcp_prefix_encode(p, TCP_HELLO);
	tcp_put32(p + 4, (uint32_t)h->slot << 24 | h->live_mask);
	tcp_put32(p + 8, h->sequence);
	tcp_put32(p + 12, h->instance);
	tcp_put64(p + 16, h->token[0]);
	tcp_put64(p + 24, h->token[1]);
}

/* False: not a HELLO of this version. */
static inline bool tcp_hello_decode(const uint8_t p[TCP_REQUEST_BYTES], struct transport_hello *h)
{
	uint32_t slots = tcp_get32(p + 4);
	h->slot = (uint8_t)(slots >> 24);
	h->live_mask = slots & 0xffffffu;
	h->sequence = tcp_get32(p + 8);
	h->instance = tcp_get32(p + 12);
	h->token[0] = tcp_get64(p + 16);
	h->token[1] = tcp_get64(p + 24);
	return tcp_prefix_ok(p) && p[3] == TCP_HELLO && h->slot < TRANSPORT_HELLO_SLOTS &&
	       (h->live_mask >> h->slot & 1);
}

#endif
