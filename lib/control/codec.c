/* Frames of the control protocol: struct control_msg to bytes and back. */
#include "lib/control/codec.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "control.pb-c.h"

#define DECODE_ARENA_BYTES (128u * 1024)
#define LEASE_LEN_MAX	   (1ull << 40)

/* Memory for one decode: taken front to back, never given back before the whole decode ends. */
struct arena {
	size_t used;
	_Alignas(16) uint8_t bytes[DECODE_ARENA_BYTES];
};

static void *arena_alloc(void *data, size_t len)
{
	struct arena *a = data;

	if (len > sizeof(a->bytes) - a->used)
		return NULL;
	void *p = a->bytes + a->used;
	size_t rounded = (len + 15) & ~(size_t)15;
	size_t left = sizeof(a->bytes) - a->used;
	a->used += rounded < left ? rounded : left;
	return p;
}

static void arena_free(void *data, void *p)
{
}

static const char *const msg_names[CONTROL_MSG_TYPES] = {
	[CONTROL_HELLO] = "HELLO",
	[CONTROL_HELLO_ACK] = "HELLO_ACK",
	[CONTROL_LEASES] = "LEASES",
	[CONTROL_LEASE_REQUEST] = "LEASE_REQUEST",
	[CONTROL_LEASE_GRANT] = "LEASE_GRANT",
	[CONTROL_LEASE_RENEW] = "LEASE_RENEW",
	[CONTROL_LEASE_RELEASE] = "LEASE_RELEASE",
	[CONTROL_REVOKE] = "REVOKE",
	[CONTROL_REVOKE_DONE] = "REVOKE_DONE",
	[CONTROL_HEARTBEAT] = "HEARTBEAT",
	[CONTROL_STATS] = "STATS",
	[CONTROL_DRAIN] = "DRAIN",
	[CONTROL_ERROR] = "ERROR",
};

const char *control_msg_name(enum control_msg_type type)
{
	if ((unsigned)type >= CONTROL_MSG_TYPES || !msg_names[type])
		return "?";
	return msg_names[type];
}

/* Length of the UTF-8 sequence at p (end bounds it); 0 when it is none, or a control character. */
static size_t utf8_length(const uint8_t *p, const uint8_t *end)
{
	size_t n = *p < 0x80 ? 1 : *p >= 0xf0 ? 4 : *p >= 0xe0 ? 3 : 2;
	uint32_t c = n == 1 ? *p : *p & (0x7fu >> n);
	static const uint32_t least[5] = {0, 0x20, 0x80, 0x800, 0x10000};

	if ((n > 1 && *p < 0xc2) || *p > 0xf4 || (size_t)(end - p) < n)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[n] || c == 0x7f || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	return n;
}

static bool text_valid(const char *s, size_t cap)
{
	const uint8_t *p = (const uint8_t *)s;
	const uint8_t *end = p + strnlen(s, cap);

	if (end == p + cap)
		return false;
	while (p < end) {
		size_t n = utf8_length(p, end);
		if (!n)
			return false;
		p += n;
	}
	return true;
}

static bool text_copy(char *dst, size_t cap, const char *src)
{
	if (!src || !text_valid(src, cap))
		return false;
	memset(dst, 0, cap);
	memcpy(dst, src, strlen(src));
	return true;
}

static bool id_valid(const uint8_t id[16])
{
	static const uint8_t zero[16];

	return memcmp(id, zero, sizeof(zero)) != 0;
}

static bool status_valid(int32_t status)
{
	return status <= 0 && status >= -4095;
}

static bool length_valid(uint64_t len_bytes)
{
	return len_bytes && len_bytes % 4096 == 0 && len_bytes <= LEASE_LEN_MAX;
}

static const char *lease_wrong(const struct control_lease *l)
{
	if (!l->epoch)
		return "lease.epoch is 0";
	if (!length_valid(l->len_bytes))
		return "lease.len_bytes is not a multiple of 4096 between 4096 and 2^40";
	if (l->verbs_raddr > UINT64_MAX - l->len_bytes)
		return "lease.verbs_raddr overflows";
	if (!l->revoking && l->revoke_ms)
		return "lease.revoke_ms without lease.revoking";
	return NULL;
}

static const char *hello_wrong(const struct control_msg *m)
{
	if (!m->hello.version_min || m->hello.version_min > m->hello.version_max ||
		m->hello.version_max > UINT16_MAX)
		return "hello: version_min and version_max are no range within 1..65535";
	if (!id_valid(m->hello.identity))
		return "hello.identity is all zero";
	if (!text_valid(m->hello.name, sizeof(m->hello.name)))
		return "hello.name is too long or not printable UTF-8";
	return NULL;
}

static const char *hello_ack_wrong(const struct control_msg *m)
{
	if (!m->hello_ack.version || m->hello_ack.version > UINT16_MAX)
		return "hello_ack.version is not within 1..65535";
	if (!m->hello_ack.boot_id)
		return "hello_ack.boot_id is 0";
	if (!m->hello_ack.lease_ttl_ms)
		return "hello_ack.lease_ttl_ms is 0";
	if (!length_valid(m->hello_ack.region_bytes))
		return "hello_ack.region_bytes is not a multiple of 4096 between 4096 and 2^40";
	if (!text_valid(m->hello_ack.name, sizeof(m->hello_ack.name)))
		return "hello_ack.name is too long or not printable UTF-8";
	if (!text_valid(m->hello_ack.failure_domain, sizeof(m->hello_ack.failure_domain)))
		return "hello_ack.failure_domain is too long or not printable UTF-8";
	return NULL;
}

static const char *leases_wrong(const struct control_msg *m)
{
	if (m->leases.count > CONTROL_LEASES_PER_MSG)
		return "leases: more than 256 in one message";
	for (uint32_t i = 0; i < m->leases.count; i++) {
		const char *why = lease_wrong(&m->leases.lease[i]);
		if (why)
			return why;
	}
	return NULL;
}

/* What is wrong with the fields of a message, or NULL; the one place both directions go through. */
static const char *msg_wrong(const struct control_msg *m)
{
	switch (m->type) {
	case CONTROL_HELLO:
		return hello_wrong(m);
	case CONTROL_HELLO_ACK:
		return hello_ack_wrong(m);
	case CONTROL_LEASES:
		return leases_wrong(m);
	case CONTROL_LEASE_GRANT:
		if (!status_valid(m->lease_grant.status))
			return "lease_grant.status is not within -4095..0";
		return m->lease_grant.status ? NULL : lease_wrong(&m->lease_grant.lease);
	case CONTROL_LEASE_RELEASE:
		return m->lease_release.epoch ? NULL : "lease_release.epoch is 0";
	case CONTROL_REVOKE_DONE:
		return m->revoke_done.epoch ? NULL : "revoke_done.epoch is 0";
	case CONTROL_REVOKE:
		return m->revoke.epoch ? NULL : "revoke.epoch is 0";
	case CONTROL_LEASE_RENEW:
		return m->lease_renew.count > CONTROL_SPARE_PER_MSG
			       ? "lease_renew: more than 1024 spare regions"
			       : NULL;
	case CONTROL_STATS:
		if (m->stats.free_bytes > m->stats.total_bytes)
			return "stats.free_bytes is more than stats.total_bytes";
		return NULL;
	case CONTROL_ERROR:
		if (!status_valid(m->error.status))
			return "error.status is not within -4095..0";
		if (!text_valid(m->error.text, sizeof(m->error.text)))
			return "error.text is too long or not printable UTF-8";
		return NULL;
	case CONTROL_LEASE_REQUEST:
	case CONTROL_HEARTBEAT:
	case CONTROL_DRAIN:
		return NULL;
	default:
		return "type not known";
	}
}

static ssize_t pack(const ProtobufCMessage *body, enum control_msg_type type, void *buf, size_t cap)
{
	size_t len = protobuf_c_message_get_packed_size(body);
	uint8_t *p = buf;

	if (len > CONTROL_FRAME_MAX_BYTES - CONTROL_FRAME_HEADER_BYTES ||
		cap < CONTROL_FRAME_HEADER_BYTES + len)
		return -ENOBUFS;
	uint32_t length = htole32((uint32_t)(len + CONTROL_FRAME_HEADER_BYTES - 4));
	uint16_t version = htole16(CONTROL_VERSION);
	uint16_t type16 = htole16((uint16_t)type);
	memcpy(p, &length, 4);
	memcpy(p + 4, &version, 2);
	memcpy(p + 6, &type16, 2);
	protobuf_c_message_pack(body, p + CONTROL_FRAME_HEADER_BYTES);
	return (ssize_t)(CONTROL_FRAME_HEADER_BYTES + len);
}

static void lease_to_wire(const struct control_lease *l, Fallow__Control__Lease *w)
{
	fallow__control__lease__init(w);
	w->region_id = l->region_id;
	w->epoch = l->epoch;
	w->len_bytes = l->len_bytes;
	w->ttl_ms = l->ttl_ms;
	w->tcp_key = l->tcp_key;
	w->verbs_rkey = l->verbs_rkey;
	w->verbs_raddr = l->verbs_raddr;
	w->revoking = l->revoking;
	w->revoke_ms = l->revoke_ms;
}

static void lease_from_wire(const Fallow__Control__Lease *w, struct control_lease *l)
{
	l->region_id = w->region_id;
	l->epoch = w->epoch;
	l->len_bytes = w->len_bytes;
	l->ttl_ms = w->ttl_ms;
	l->tcp_key = w->tcp_key;
	l->verbs_rkey = w->verbs_rkey;
	l->verbs_raddr = w->verbs_raddr;
	l->revoking = w->revoking;
	l->revoke_ms = w->revoke_ms;
}

static ssize_t encode_hello(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__Hello w = FALLOW__CONTROL__HELLO__INIT;

	w.version_min = m->hello.version_min;
	w.version_max = m->hello.version_max;
	w.identity = (ProtobufCBinaryData){16, (uint8_t *)m->hello.identity};
	w.secret = (ProtobufCBinaryData){16, (uint8_t *)m->hello.secret};
	w.name = (char *)m->hello.name;
	return pack(&w.base, m->type, buf, cap);
}

static ssize_t encode_hello_ack(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__HelloAck w = FALLOW__CONTROL__HELLO_ACK__INIT;

	w.version = m->hello_ack.version;
	w.token0 = m->hello_ack.token[0];
	w.token1 = m->hello_ack.token[1];
	w.boot_id = m->hello_ack.boot_id;
	w.tcp_port = m->hello_ack.tcp_port;
	w.verbs_port = m->hello_ack.verbs_port;
	w.lease_ttl_ms = m->hello_ack.lease_ttl_ms;
	w.region_bytes = m->hello_ack.region_bytes;
	w.name = (char *)m->hello_ack.name;
	w.failure_domain = (char *)m->hello_ack.failure_domain;
	return pack(&w.base, m->type, buf, cap);
}

static ssize_t encode_leases(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__Leases w = FALLOW__CONTROL__LEASES__INIT;
	Fallow__Control__Lease lease[CONTROL_LEASES_PER_MSG];
	Fallow__Control__Lease *list[CONTROL_LEASES_PER_MSG];

	for (uint32_t i = 0; i < m->leases.count; i++) {
		lease_to_wire(&m->leases.lease[i], &lease[i]);
		list[i] = &lease[i];
	}
	w.n_lease = m->leases.count;
	w.lease = list;
	w.more = m->leases.more;
	return pack(&w.base, m->type, buf, cap);
}

static ssize_t encode_lease_grant(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__LeaseGrant w = FALLOW__CONTROL__LEASE_GRANT__INIT;
	Fallow__Control__Lease lease;

	w.request_id = m->lease_grant.request_id;
	w.status = m->lease_grant.status;
	if (!w.status) {
		lease_to_wire(&m->lease_grant.lease, &lease);
		w.lease = &lease;
	}
	return pack(&w.base, m->type, buf, cap);
}

static ssize_t encode_named(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__LeaseRelease release = FALLOW__CONTROL__LEASE_RELEASE__INIT;
	Fallow__Control__RevokeDone done = FALLOW__CONTROL__REVOKE_DONE__INIT;
	Fallow__Control__Revoke revoke = FALLOW__CONTROL__REVOKE__INIT;

	switch (m->type) {
	case CONTROL_LEASE_RELEASE:
		release.region_id = m->lease_release.region_id;
		release.epoch = m->lease_release.epoch;
		return pack(&release.base, m->type, buf, cap);
	case CONTROL_REVOKE_DONE:
		done.region_id = m->revoke_done.region_id;
		done.epoch = m->revoke_done.epoch;
		return pack(&done.base, m->type, buf, cap);
	default:
		revoke.region_id = m->revoke.region_id;
		revoke.epoch = m->revoke.epoch;
		revoke.deadline_ms = m->revoke.deadline_ms;
		return pack(&revoke.base, m->type, buf, cap);
	}
}

static ssize_t encode_error(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__Error w = FALLOW__CONTROL__ERROR__INIT;

	w.status = m->error.status;
	w.text = (char *)m->error.text;
	return pack(&w.base, m->type, buf, cap);
}

static ssize_t encode_small(const struct control_msg *m, void *buf, size_t cap)
{
	Fallow__Control__LeaseRequest request = FALLOW__CONTROL__LEASE_REQUEST__INIT;
	Fallow__Control__LeaseRenew renew = FALLOW__CONTROL__LEASE_RENEW__INIT;
	Fallow__Control__Heartbeat beat = FALLOW__CONTROL__HEARTBEAT__INIT;
	Fallow__Control__Stats stats = FALLOW__CONTROL__STATS__INIT;
	Fallow__Control__Drain drain = FALLOW__CONTROL__DRAIN__INIT;

	switch (m->type) {
	case CONTROL_LEASE_REQUEST:
		request.request_id = m->lease_request.request_id;
		request.ephemeral = m->lease_request.ephemeral;
		return pack(&request.base, m->type, buf, cap);
	case CONTROL_LEASE_RENEW:
		renew.n_spare = m->lease_renew.count;
		renew.spare = (uint64_t *)m->lease_renew.spare;
		return pack(&renew.base, m->type, buf, cap);
	case CONTROL_HEARTBEAT:
		beat.sequence = m->heartbeat.sequence;
		return pack(&beat.base, m->type, buf, cap);
	case CONTROL_STATS:
		stats.total_bytes = m->stats.total_bytes;
		stats.leased_bytes = m->stats.leased_bytes;
		stats.free_bytes = m->stats.free_bytes;
		stats.spare_bytes = m->stats.spare_bytes;
		return pack(&stats.base, m->type, buf, cap);
	default:
		drain.deadline_ms = m->drain.deadline_ms;
		return pack(&drain.base, m->type, buf, cap);
	}
}

ssize_t control_encode(const struct control_msg *m, void *buf, size_t cap)
{
	if (msg_wrong(m))
		return -EINVAL;
	switch (m->type) {
	case CONTROL_HELLO:
		return encode_hello(m, buf, cap);
	case CONTROL_HELLO_ACK:
		return encode_hello_ack(m, buf, cap);
	case CONTROL_LEASES:
		return encode_leases(m, buf, cap);
	case CONTROL_LEASE_GRANT:
		return encode_lease_grant(m, buf, cap);
	case CONTROL_LEASE_RELEASE:
	case CONTROL_REVOKE_DONE:
	case CONTROL_REVOKE:
		return encode_named(m, buf, cap);
	case CONTROL_ERROR:
		return encode_error(m, buf, cap);
	default:
		return encode_small(m, buf, cap);
	}
}

static const char *decode_hello(const Fallow__Control__Hello *w, struct control_msg *m)
{
	if (w->identity.len != 16 || w->secret.len != 16)
		return "hello: identity or secret is not 16 bytes";
	m->hello.version_min = w->version_min;
	m->hello.version_max = w->version_max;
	memcpy(m->hello.identity, w->identity.data, 16);
	memcpy(m->hello.secret, w->secret.data, 16);
	if (!text_copy(m->hello.name, sizeof(m->hello.name), w->name))
		return "hello.name is too long or not printable UTF-8";
	return NULL;
}

static const char *decode_hello_ack(const Fallow__Control__HelloAck *w, struct control_msg *m)
{
	if (w->tcp_port > UINT16_MAX || w->verbs_port > UINT16_MAX)
		return "hello_ack: a port is above 65535";
	m->hello_ack.version = w->version;
	m->hello_ack.token[0] = w->token0;
	m->hello_ack.token[1] = w->token1;
	m->hello_ack.boot_id = w->boot_id;
	m->hello_ack.tcp_port = (uint16_t)w->tcp_port;
	m->hello_ack.verbs_port = (uint16_t)w->verbs_port;
	m->hello_ack.lease_ttl_ms = w->lease_ttl_ms;
	m->hello_ack.region_bytes = w->region_bytes;
	if (!text_copy(m->hello_ack.name, sizeof(m->hello_ack.name), w->name))
		return "hello_ack.name is too long or not printable UTF-8";
	if (!text_copy(m->hello_ack.failure_domain, sizeof(m->hello_ack.failure_domain),
		    w->failure_domain))
		return "hello_ack.failure_domain is too long or not printable UTF-8";
	return NULL;
}

static const char *decode_leases(const Fallow__Control__Leases *w, struct control_msg *m)
{
	if (w->n_lease > CONTROL_LEASES_PER_MSG)
		return "leases: more than 256 in one message";
	m->leases.count = (uint32_t)w->n_lease;
	m->leases.more = w->more;
	for (size_t i = 0; i < w->n_lease; i++)
		lease_from_wire(w->lease[i], &m->leases.lease[i]);
	return NULL;
}

static const char *decode_lease_grant(const Fallow__Control__LeaseGrant *w, struct control_msg *m)
{
	if (!w->status != !!w->lease)
		return "lease_grant: a lease goes with status 0, and only with it";
	m->lease_grant.request_id = w->request_id;
	m->lease_grant.status = w->status;
	memset(&m->lease_grant.lease, 0, sizeof(m->lease_grant.lease));
	if (w->lease)
		lease_from_wire(w->lease, &m->lease_grant.lease);
	return NULL;
}

static const char *decode_lease_renew(const Fallow__Control__LeaseRenew *w, struct control_msg *m)
{
	if (w->n_spare > CONTROL_SPARE_PER_MSG)
		return "lease_renew: more than 1024 spare regions";
	m->lease_renew.count = (uint32_t)w->n_spare;
	if (w->n_spare)
		memcpy(m->lease_renew.spare, w->spare, w->n_spare * sizeof(w->spare[0]));
	return NULL;
}

static const char *decode_small(const ProtobufCMessage *body, struct control_msg *m)
{
	const Fallow__Control__LeaseRequest *request = (const void *)body;
	const Fallow__Control__Revoke *revoke = (const void *)body;
	const Fallow__Control__LeaseRelease *release = (const void *)body;
	const Fallow__Control__RevokeDone *done = (const void *)body;
	const Fallow__Control__Stats *stats = (const void *)body;
	const Fallow__Control__Error *error = (const void *)body;

	switch (m->type) {
	case CONTROL_LEASE_REQUEST:
		m->lease_request.request_id = request->request_id;
		m->lease_request.ephemeral = request->ephemeral;
		return NULL;
	case CONTROL_LEASE_RELEASE:
		m->lease_release.region_id = release->region_id;
		m->lease_release.epoch = release->epoch;
		return NULL;
	case CONTROL_REVOKE_DONE:
		m->revoke_done.region_id = done->region_id;
		m->revoke_done.epoch = done->epoch;
		return NULL;
	case CONTROL_REVOKE:
		m->revoke.region_id = revoke->region_id;
		m->revoke.epoch = revoke->epoch;
		m->revoke.deadline_ms = revoke->deadline_ms;
		return NULL;
	case CONTROL_HEARTBEAT:
		m->heartbeat.sequence = ((const Fallow__Control__Heartbeat *)body)->sequence;
		return NULL;
	case CONTROL_STATS:
		m->stats.total_bytes = stats->total_bytes;
		m->stats.leased_bytes = stats->leased_bytes;
		m->stats.free_bytes = stats->free_bytes;
		m->stats.spare_bytes = stats->spare_bytes;
		return NULL;
	case CONTROL_DRAIN:
		m->drain.deadline_ms = ((const Fallow__Control__Drain *)body)->deadline_ms;
		return NULL;
	case CONTROL_ERROR:
		m->error.status = error->status;
		return text_copy(m->error.text, sizeof(m->error.text), error->text)
			       ? NULL
			       : "error.text is too long or not printable UTF-8";
	default:
		return NULL;
	}
}

static const char *decode_body(const ProtobufCMessage *body, struct control_msg *m)
{
	switch (m->type) {
	case CONTROL_HELLO:
		return decode_hello((const Fallow__Control__Hello *)body, m);
	case CONTROL_HELLO_ACK:
		return decode_hello_ack((const Fallow__Control__HelloAck *)body, m);
	case CONTROL_LEASES:
		return decode_leases((const Fallow__Control__Leases *)body, m);
	case CONTROL_LEASE_GRANT:
		return decode_lease_grant((const Fallow__Control__LeaseGrant *)body, m);
	case CONTROL_LEASE_RENEW:
		return decode_lease_renew((const Fallow__Control__LeaseRenew *)body, m);
	default:
		return decode_small(body, m);
	}
}

static const ProtobufCMessageDescriptor *const msg_bodies[CONTROL_MSG_TYPES] = {
	[CONTROL_HELLO] = &fallow__control__hello__descriptor,
	[CONTROL_HELLO_ACK] = &fallow__control__hello_ack__descriptor,
	[CONTROL_LEASES] = &fallow__control__leases__descriptor,
	[CONTROL_LEASE_REQUEST] = &fallow__control__lease_request__descriptor,
	[CONTROL_LEASE_GRANT] = &fallow__control__lease_grant__descriptor,
	[CONTROL_LEASE_RENEW] = &fallow__control__lease_renew__descriptor,
	[CONTROL_LEASE_RELEASE] = &fallow__control__lease_release__descriptor,
	[CONTROL_REVOKE] = &fallow__control__revoke__descriptor,
	[CONTROL_REVOKE_DONE] = &fallow__control__revoke_done__descriptor,
	[CONTROL_HEARTBEAT] = &fallow__control__heartbeat__descriptor,
	[CONTROL_STATS] = &fallow__control__stats__descriptor,
	[CONTROL_DRAIN] = &fallow__control__drain__descriptor,
	[CONTROL_ERROR] = &fallow__control__error__descriptor,
};

ssize_t control_frame_length(const void *buf, size_t len)
{
	uint32_t length;

	if (len < sizeof(length))
		return 0;
	memcpy(&length, buf, sizeof(length));
	length = le32toh(length);
	if (length < CONTROL_FRAME_HEADER_BYTES - 4 || length > CONTROL_FRAME_MAX_BYTES - 4)
		return -EMSGSIZE;
	return (ssize_t)length + 4;
}

static int decode(const uint8_t *p, size_t len, struct control_msg *m, const char **why)
{
	struct arena arena;
	ProtobufCAllocator alloc = {arena_alloc, arena_free, &arena};
	uint16_t version, type;

	if (len < CONTROL_FRAME_HEADER_BYTES || control_frame_length(p, len) != (ssize_t)len) {
		*why = "frame length is wrong";
		return -EMSGSIZE;
	}
	memcpy(&version, p + 4, 2);
	memcpy(&type, p + 6, 2);
	version = le16toh(version);
	type = le16toh(type);
	if (version < 1 || version > CONTROL_VERSION) {
		*why = "frame version is not known";
		return -EPROTONOSUPPORT;
	}
	if (type >= CONTROL_MSG_TYPES || !msg_bodies[type]) {
		*why = "message type is not known";
		return -EOPNOTSUPP;
	}
	m->type = type;
	arena.used = 0;
	ProtobufCMessage *body = protobuf_c_message_unpack(msg_bodies[type], &alloc,
		len - CONTROL_FRAME_HEADER_BYTES, p + CONTROL_FRAME_HEADER_BYTES);
	if (!body) {
		*why = "message body is malformed";
		return -EBADMSG;
	}
	*why = decode_body(body, m);
	if (!*why)
		*why = msg_wrong(m);
	return *why ? -EBADMSG : 0;
}

int control_decode(const void *buf, size_t len, struct control_msg *m, const char **why)
{
	const char *reason = NULL;
	int rc = decode(buf, len, m, &reason);

	if (why)
		*why = reason;
	return rc;
}
