/* NBD's fixed newstyle negotiation, the server's end, as bytes in and bytes out. */
#include "client-backend/frontend/nbd_hello.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "client-backend/frontend/nbd_proto.h"

#define EXPORT_NAME_ZEROES 124u

const char *nbd_violation_name(enum nbd_violation v)
{
	static const char *const names[NBD_VIOLATIONS] = {
		"none", "magic", "flags", "length", "export", "late", "resource"};

	return (unsigned)v < NBD_VIOLATIONS ? names[v] : "unknown";
}

/* ---- what is sent ---- */

static void out_put(struct nbd_hello *h, const void *from, size_t bytes)
{
	assert(h->out_bytes + bytes <= sizeof(h->out));
	memcpy(h->out + h->out_bytes, from, bytes);
	h->out_bytes += (uint32_t)bytes;
}

static void out_put16(struct nbd_hello *h, unsigned v)
{
	uint16_t be = htobe16((uint16_t)v);

	out_put(h, &be, sizeof(be));
}

static void out_put32(struct nbd_hello *h, uint32_t v)
{
	v = htobe32(v);
	out_put(h, &v, sizeof(v));
}

static void out_put64(struct nbd_hello *h, uint64_t v)
{
	v = htobe64(v);
	out_put(h, &v, sizeof(v));
}

static void reply(struct nbd_hello *h, uint32_t type, uint32_t bytes)
{
	out_put64(h, NBD_REP_MAGIC);
	out_put32(h, h->option);
	out_put32(h, type);
	out_put32(h, bytes);
}

static unsigned export_flags(const struct nbd_export *e)
{
	/*
	 * A flush on one connection covers what was answered on any: a swap disk has nothing
	 * volatile, and a cached one flushes its whole image.
	 */
	unsigned f = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_CAN_MULTI_CONN;

	if (e->readonly)
		return f | NBD_FLAG_READ_ONLY;
	return f | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
}

static void export_put(struct nbd_hello *h)
{
	out_put64(h, h->export->size_bytes);
	out_put16(h, export_flags(h->export));
}

/* ---- options ---- */

static bool export_is(const struct nbd_hello *h, const uint8_t *name, uint32_t bytes)
{
	return !bytes ||
	       (bytes == strlen(h->export->name) && !memcmp(name, h->export->name, bytes));
}

static void option_list(struct nbd_hello *h, uint32_t bytes)
{
	uint32_t len = (uint32_t)strlen(h->export->name);

	if (bytes) {
		reply(h, NBD_REP_ERR_INVALID, 0);
		return;
	}
	reply(h, NBD_REP_SERVER, sizeof(uint32_t) + len);
	out_put32(h, len);
	out_put(h, h->export->name, len);
	reply(h, NBD_REP_ACK, 0);
}

static uint32_t be32_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

/* The name's length, the name, the number of requests for information, and these. */
static bool info_valid(const uint8_t *in, uint32_t bytes, uint32_t *name_bytes)
{
	uint16_t count;

	if (bytes < sizeof(uint32_t) + sizeof(count))
		return false;
	*name_bytes = be32_at(in);
	bytes -= (uint32_t)(sizeof(uint32_t) + sizeof(count));
	if (*name_bytes > bytes)
		return false;
	memcpy(&count, in + sizeof(uint32_t) + *name_bytes, sizeof(count));
	return bytes - *name_bytes == be16toh(count) * sizeof(uint16_t);
}

static void option_info(struct nbd_hello *h, uint32_t bytes)
{
	const struct nbd_export *e = h->export;
	uint32_t name_bytes;

	if (!info_valid(h->in, bytes, &name_bytes)) {
		reply(h, NBD_REP_ERR_INVALID, 0);
		return;
	}
	if (!export_is(h, h->in + sizeof(uint32_t), name_bytes)) {
		reply(h, NBD_REP_ERR_UNKNOWN, 0);
		return;
	}
	/* Both are always told, whatever was asked for. */
	reply(h, NBD_REP_INFO, 2 + 8 + 2);
	out_put16(h, NBD_INFO_EXPORT);
	export_put(h);
	reply(h, NBD_REP_INFO, 2 + 4 + 4 + 4);
	out_put16(h, NBD_INFO_BLOCK_SIZE);
	out_put32(h, e->min_bytes);
	out_put32(h, e->preferred_bytes);
	out_put32(h, e->max_bytes);
	reply(h, NBD_REP_ACK, 0);
	if (h->option == NBD_OPT_GO)
		h->state = NBD_HELLO_READY;
}

/* The oldest way: no refusal but to hang up. */
static void option_export_name(struct nbd_hello *h, uint32_t bytes)
{
	static const uint8_t zeroes[EXPORT_NAME_ZEROES];

	if (!export_is(h, h->in, bytes)) {
		h->state = NBD_HELLO_BROKEN;
		h->why = NBD_VIOLATION_EXPORT;
		return;
	}
	export_put(h);
	if (!h->no_zeroes)
		out_put(h, zeroes, sizeof(zeroes));
	h->state = NBD_HELLO_READY;
}

static void option_take(struct nbd_hello *h, uint32_t bytes)
{
	switch (h->option) {
	case NBD_OPT_EXPORT_NAME:
		option_export_name(h, bytes);
		break;
	case NBD_OPT_ABORT:
		reply(h, NBD_REP_ACK, 0);
		h->state = NBD_HELLO_CLOSE;
		break;
	case NBD_OPT_LIST:
		option_list(h, bytes);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		option_info(h, bytes);
		break;
	default: /* NBD_OPT_STARTTLS among them */
		reply(h, NBD_REP_ERR_UNSUP, 0);
		break;
	}
}

/* ---- what is read ---- */

static void phase_set(struct nbd_hello *h, int phase, uint32_t want)
{
	h->phase = phase;
	h->want = want;
	h->got = 0;
}

static void broken(struct nbd_hello *h, enum nbd_violation why)
{
	h->state = NBD_HELLO_BROKEN;
	h->why = why;
}

void nbd_hello_start(struct nbd_hello *h, const struct nbd_export *e)
{
	h->export = e;
	h->state = NBD_HELLO_TALK;
	h->why = NBD_VIOLATION_NONE;
	h->no_zeroes = false;
	h->out_bytes = 0;
	phase_set(h, NBD_HELLO_FLAGS, sizeof(uint32_t));
	out_put64(h, NBD_MAGIC);
	out_put64(h, NBD_OPTION_MAGIC);
	out_put16(h, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

uint32_t nbd_hello_room(struct nbd_hello *h, uint8_t **at)
{
	uint32_t left = h->want - h->got;

	h->out_bytes = 0;
	if (h->state != NBD_HELLO_TALK)
		return 0;
	if (h->phase == NBD_HELLO_SKIP) {
		*at = h->in;
		return left < sizeof(h->in) ? left : (uint32_t)sizeof(h->in);
	}
	*at = h->in + h->got;
	return left;
}

static void flags_take(struct nbd_hello *h)
{
	uint32_t flags = be32_at(h->in);

	/* Without FIXED_NEWSTYLE a client knows EXPORT_NAME alone, which it may use here, too. */
	if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
		broken(h, NBD_VIOLATION_FLAGS);
		return;
	}
	h->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	phase_set(h, NBD_HELLO_OPTION, sizeof(struct nbd_wire_option));
}

static void header_take(struct nbd_hello *h)
{
	struct nbd_wire_option o;

	memcpy(&o, h->in, sizeof(o));
	if (be64toh(o.magic) != NBD_OPTION_MAGIC) {
		broken(h, NBD_VIOLATION_MAGIC);
		return;
	}
	h->option = be32toh(o.option);
	uint32_t bytes = be32toh(o.bytes);
	if (bytes > NBD_HELLO_SKIP_BYTES)
		broken(h, NBD_VIOLATION_LENGTH);
	else
		phase_set(h, bytes > sizeof(h->in) ? NBD_HELLO_SKIP : NBD_HELLO_DATA, bytes);
}

enum nbd_hello_state nbd_hello_take(struct nbd_hello *h, uint32_t bytes)
{
	h->got += bytes;
	assert(h->got <= h->want);
	if (h->got < h->want)
		return h->state;
	if (h->phase == NBD_HELLO_FLAGS)
		flags_take(h);
	else if (h->phase == NBD_HELLO_OPTION)
		header_take(h);
	/* An option without data is complete with its header. */
	if (h->state != NBD_HELLO_TALK || h->got < h->want)
		return h->state;
	if (h->phase == NBD_HELLO_DATA)
		option_take(h, h->want);
	else if (h->phase == NBD_HELLO_SKIP && h->option == NBD_OPT_EXPORT_NAME)
		broken(h, NBD_VIOLATION_EXPORT);
	else
		reply(h, NBD_REP_ERR_TOO_BIG, 0);
	if (h->state == NBD_HELLO_TALK)
		phase_set(h, NBD_HELLO_OPTION, sizeof(struct nbd_wire_option));
	return h->state;
}
