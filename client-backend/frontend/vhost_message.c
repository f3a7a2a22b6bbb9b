/* What each message of a vhost-user front end means: its checks, what it stops, what it changes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client-backend/frontend/vhost_session.h"
#include "lib/core/log.h"

static bool ring_running(const struct vhost_session *ss, uint32_t index)
{
	return index < ss->server->cfg.queues && ss->ring[index].queue;
}

static uint32_t bit(uint32_t index)
{
	return index < 32 ? 1u << index : 0;
}

/* ---- features ---- */

static uint64_t features_offered(const struct vhost_session *ss)
{
	const struct vhost_server *s = ss->server;
	uint64_t own = s->dev_ops->features ? s->dev_ops->features(s->dev) : 0;

	return (own & VHOST_DEVICE_FEATURES) | VHOST_TRANSPORT_FEATURES;
}

static void answer_u64(struct vhost_session *ss, uint64_t value)
{
	ss->out.u64 = value;
	ss->out_bytes = sizeof(value);
}

static enum vhost_violation get_features(struct vhost_session *ss)
{
	answer_u64(ss, features_offered(ss));
	return VHOST_VIOLATION_NONE;
}

/* Logging comes and goes while the rings run; anything else only while they do not. */
static uint32_t set_features_stops(const struct vhost_session *ss)
{
	return (ss->in.u64 ^ ss->features) & ~VHOST_F_LOG_ALL_BIT ? UINT32_MAX : 0;
}

static enum vhost_violation set_features(struct vhost_session *ss)
{
	struct vhost_server *s = ss->server;
	uint64_t wanted = ss->in.u64;

	if (wanted & ~features_offered(ss))
		return VHOST_VIOLATION_FEATURES;
	for (unsigned i = 0; i < s->cfg.queues; i++)
		ss->ring[i].changed = true;
	ss->features = wanted;
	/* QEMU does not agree on them again when we are started anew before its device has begun.
	 */
	if (!ss->protocol_told)
		ss->protocol = wanted & VHOST_F_PROTOCOL ? VHOST_PROTOCOL_FEATURES : 0;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation get_protocol_features(struct vhost_session *ss)
{
	answer_u64(ss, VHOST_PROTOCOL_FEATURES);
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation set_protocol_features(struct vhost_session *ss)
{
	if (ss->in.u64 & ~VHOST_PROTOCOL_FEATURES)
		return VHOST_VIOLATION_FEATURES;
	ss->protocol = ss->in.u64;
	ss->protocol_told = true;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation get_queue_num(struct vhost_session *ss)
{
	answer_u64(ss, ss->server->cfg.queues);
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation get_max_mem_slots(struct vhost_session *ss)
{
	answer_u64(ss, VHOST_MAX_REGIONS);
	return VHOST_VIOLATION_NONE;
}

/* SET_OWNER says nothing new; RESET_OWNER is to be ignored, says the specification. */
static enum vhost_violation no_effect(struct vhost_session *ss)
{
	return VHOST_VIOLATION_NONE;
}

/* ---- memory ---- */

static uint32_t all_stop(const struct vhost_session *ss)
{
	return UINT32_MAX;
}

static enum vhost_violation memory_error(int err)
{
	if (err == -EMEDIUMTYPE)
		log_warn_limited("vhost",
			"guest memory must be on tmpfs or hugetlbfs, such as QEMU's "
			"memory-backend-memfd with share=on");
	else
		log_warn_limited(
			"vhost", "a region of guest memory is refused: %s", strerror(-err));
	return err == -EINVAL || err == -ENOENT || err == -EMEDIUMTYPE ? VHOST_VIOLATION_MEMORY
								       : VHOST_VIOLATION_RESOURCE;
}

static void memory_replace(struct vhost_session *ss, struct vhost_memory *m)
{
	if (m && ss->server->cfg.pinner.ops)
		vhost_memory_pin(m, &ss->server->cfg.pinner);
	ss->old_memory = ss->memory;
	ss->memory = m;
	for (unsigned i = 0; i < ss->server->cfg.queues; i++)
		ss->ring[i].changed = true;
}

static enum vhost_violation set_mem_table(struct vhost_session *ss)
{
	const struct vhost_wire_table *t = &ss->in.table;
	struct vhost_memory *m = NULL;

	if (t->count > VHOST_TABLE_REGIONS ||
		ss->h.payload_bytes < offsetof(struct vhost_wire_table, region[t->count]))
		return VHOST_VIOLATION_LENGTH;
	if (ss->in_fds != t->count)
		return VHOST_VIOLATION_FDS;
	for (unsigned i = 0; i < t->count; i++) {
		struct vhost_memory *next;
		int err = vhost_memory_add(m, &t->region[i], ss->in_fd[i], &next);

		vhost_memory_delete(m);
		if (err)
			return memory_error(err);
		m = next;
	}
	memory_replace(ss, m);
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation add_mem_reg(struct vhost_session *ss)
{
	struct vhost_memory *m;
	int err = vhost_memory_add(ss->memory, &ss->in.one.region, ss->in_fd[0], &m);

	if (err)
		return memory_error(err);
	memory_replace(ss, m);
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation rem_mem_reg(struct vhost_session *ss)
{
	struct vhost_memory *m;
	int err = vhost_memory_remove(ss->memory, &ss->in.one.region, &m);

	if (err)
		return memory_error(err);
	memory_replace(ss, m);
	return VHOST_VIOLATION_NONE;
}

/* ---- dirty log ---- */

static enum vhost_violation set_log_base(struct vhost_session *ss)
{
	const struct vhost_wire_log *w = &ss->in.log;
	struct vhost_log *log = calloc(1, sizeof(*log));

	if (!log)
		return VHOST_VIOLATION_RESOURCE;
	int err = vhost_mapping_new(ss->in_fd[0], w->offset, w->size_bytes, &log->mapping);
	if (err) {
		free(log);
		return err == -EINVAL || err == -EMEDIUMTYPE ? VHOST_VIOLATION_LOG
							     : VHOST_VIOLATION_RESOURCE;
	}
	log->bits = log->mapping->base;
	log->len_bytes = log->mapping->len_bytes;
	ss->old_log = ss->log;
	ss->log = log;
	for (unsigned i = 0; i < ss->server->cfg.queues; i++)
		ss->ring[i].changed = true;
	answer_u64(ss, 0);
	return VHOST_VIOLATION_NONE;
}

/* ---- rings ---- */

static struct vhost_session_ring *ring_of(struct vhost_session *ss, uint64_t index)
{
	return index < ss->server->cfg.queues ? &ss->ring[index] : NULL;
}

static uint32_t state_stops(const struct vhost_session *ss)
{
	return bit(ss->in.state.index);
}

static enum vhost_violation set_vring_num(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of(ss, ss->in.state.index);
	uint32_t num = ss->in.state.num;

	if (!r || !num || num > VHOST_MAX_QUEUE_LEN || (num & (num - 1)))
		return VHOST_VIOLATION_RING;
	r->num = (uint16_t)num;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation set_vring_base(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of(ss, ss->in.state.index);

	if (!r || ss->in.state.num > UINT16_MAX)
		return VHOST_VIOLATION_RING;
	r->base = (uint16_t)ss->in.state.num;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation get_vring_base(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of(ss, ss->in.state.index);

	if (!r)
		return VHOST_VIOLATION_RING;
	/* Stopped, until a new kick descriptor comes. */
	if (r->kick_fd >= 0)
		close(r->kick_fd);
	r->kick_fd = -1;
	ss->out.state = (struct vhost_wire_ring_state){.index = r->index, .num = r->base};
	ss->out_bytes = sizeof(ss->out.state);
	return VHOST_VIOLATION_NONE;
}

/* The flag for the log may change while the ring runs. */
static uint32_t set_vring_addr_stops(const struct vhost_session *ss)
{
	const struct vhost_wire_ring_addr *a = &ss->in.addr;

	if (!ring_running(ss, a->index))
		return 0;
	const struct vhost_wire_ring_addr *o = &ss->ring[a->index].addr;
	return a->desc != o->desc || a->used != o->used || a->avail != o->avail ? bit(a->index) : 0;
}

static enum vhost_violation set_vring_addr(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of(ss, ss->in.addr.index);

	if (!r)
		return VHOST_VIOLATION_RING;
	r->addr = ss->in.addr;
	r->have_addr = true;
	r->changed = true;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation set_vring_enable(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of(ss, ss->in.state.index);

	if (!r || ss->in.state.num > 1)
		return VHOST_VIOLATION_RING;
	r->enabled = ss->in.state.num;
	return VHOST_VIOLATION_NONE;
}

static uint32_t set_vring_enable_stops(const struct vhost_session *ss)
{
	return ss->in.state.num ? 0 : bit(ss->in.state.index);
}

/* Anything else could make a lane wait: a pipe, a file of somebody's own making. */
static bool fd_is_eventfd(int fd)
{
	char path[64], name[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, name, sizeof(name) - 1);

	if (n < 0)
		return false;
	name[n] = 0;
	return strcmp(name, "anon_inode:[eventfd]") == 0;
}

/* The event descriptor of a message in place of *old, which lanes may use until they are told. */
static enum vhost_violation ring_fd_take(
	struct vhost_session *ss, struct vhost_session_ring *r, int *old)
{
	bool none = ss->in.u64 & VHOST_RING_NO_FD;
	int flags, fd = -1;

	if (ss->in_fds != (none ? 0 : 1))
		return VHOST_VIOLATION_FDS;
	if (!none) {
		fd = ss->in_fd[0];
		/* Ours is written to by threads that must not wait. */
		flags = fd_is_eventfd(fd) ? fcntl(fd, F_GETFL) : -1;
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
			return VHOST_VIOLATION_FDS;
		ss->in_fds = 0;
	}
	ss->old_fd = *old;
	*old = fd;
	r->changed = true;
	return VHOST_VIOLATION_NONE;
}

static struct vhost_session_ring *ring_of_fd(struct vhost_session *ss)
{
	if (ss->in.u64 & ~(VHOST_RING_INDEX_MASK | VHOST_RING_NO_FD))
		return NULL;
	return ring_of(ss, ss->in.u64 & VHOST_RING_INDEX_MASK);
}

static enum vhost_violation set_vring_kick(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of_fd(ss);

	if (!r)
		return VHOST_VIOLATION_RING;
	if (ss->in.u64 & VHOST_RING_NO_FD)
		return VHOST_VIOLATION_FDS; /* it would have to be polled for ever */
	return ring_fd_take(ss, r, &r->kick_fd);
}

static enum vhost_violation set_vring_call(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of_fd(ss);

	return r ? ring_fd_take(ss, r, &r->call_fd) : VHOST_VIOLATION_RING;
}

static enum vhost_violation set_vring_err(struct vhost_session *ss)
{
	struct vhost_session_ring *r = ring_of_fd(ss);

	return r ? ring_fd_take(ss, r, &r->err_fd) : VHOST_VIOLATION_RING;
}

bool vhost_ring_ready(const struct vhost_session *ss, const struct vhost_session_ring *r)
{
	bool enabled = r->enabled || !(ss->features & VHOST_F_PROTOCOL);

	return ss->memory && r->num && r->have_addr && r->kick_fd >= 0 && enabled;
}

bool vhost_ring_place(
	const struct vhost_session *ss, const struct vhost_session_ring *r, struct vring_place *out)
{
	const struct vhost_memory *m = ss->memory;
	uint64_t num = r->num;

	*out = (struct vring_place){.memory = m,
		.desc = vhost_memory_user(m, r->addr.desc, num * sizeof(struct virtq_desc)),
		.avail = vhost_memory_user(
			m, r->addr.avail, sizeof(struct virtq_avail) + (num + 1) * 2),
		.used = vhost_memory_user(m, r->addr.used,
			sizeof(struct virtq_used) + num * sizeof(struct virtq_used_elem) + 2),
		.log = ss->log,
		.log_data = ss->features & VHOST_F_LOG_ALL_BIT,
		.log_used = r->addr.flags & VHOST_RING_LOG,
		.log_used_addr = r->addr.log};
	return out->desc && out->avail && out->used && (uintptr_t)out->desc % 16 == 0 &&
	       (uintptr_t)out->avail % 2 == 0 && (uintptr_t)out->used % 4 == 0;
}

static enum vhost_violation reset_device(struct vhost_session *ss)
{
	for (unsigned i = 0; i < ss->server->cfg.queues; i++) {
		struct vhost_session_ring *r = &ss->ring[i];
		int fds[] = {r->kick_fd, r->call_fd, r->err_fd};

		for (unsigned j = 0; j < sizeof(fds) / sizeof(fds[0]); j++)
			if (fds[j] >= 0)
				close(fds[j]);
		*r = (struct vhost_session_ring){
			.session = ss, .index = i, .kick_fd = -1, .call_fd = -1, .err_fd = -1};
	}
	ss->features = 0;
	return VHOST_VIOLATION_NONE;
}

/* ---- what is in flight ---- */

static bool inflight_size(const struct vhost_session *ss, uint64_t *bytes)
{
	const struct vhost_wire_inflight *w = &ss->in.inflight;

	*bytes = w->queues * vhost_inflight_ring_bytes(w->queue_len);
	return w->queues && w->queues <= VHOST_MAX_QUEUES && w->queue_len &&
	       w->queue_len <= VHOST_MAX_QUEUE_LEN;
}

static enum vhost_violation get_inflight_fd(struct vhost_session *ss)
{
	uint64_t bytes;

	if (!inflight_size(ss, &bytes))
		return VHOST_VIOLATION_INFLIGHT;
	int fd = memfd_create("fallow-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return VHOST_VIOLATION_RESOURCE;
	ss->out_fd = fd;
	if (ftruncate(fd, (off_t)bytes) < 0 || fallocate(fd, 0, 0, (off_t)bytes) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return VHOST_VIOLATION_RESOURCE;
	ss->out.inflight = ss->in.inflight;
	ss->out.inflight.size_bytes = bytes;
	ss->out.inflight.offset = 0;
	ss->out_bytes = ss->h.payload_bytes;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation set_inflight_fd(struct vhost_session *ss)
{
	const struct vhost_wire_inflight *w = &ss->in.inflight;
	struct vhost_mapping *m;
	uint64_t bytes;

	if (!inflight_size(ss, &bytes) || w->size_bytes < bytes || w->offset % VHOST_INFLIGHT_ALIGN)
		return VHOST_VIOLATION_INFLIGHT;
	int err = vhost_mapping_new(ss->in_fd[0], w->offset, bytes, &m);
	if (err)
		return err == -EINVAL || err == -EMEDIUMTYPE ? VHOST_VIOLATION_INFLIGHT
							     : VHOST_VIOLATION_RESOURCE;
	vhost_mapping_put(ss->inflight);
	ss->inflight = m;
	ss->inflight_queues = w->queues;
	ss->inflight_len = w->queue_len;
	return VHOST_VIOLATION_NONE;
}

/* ---- configuration space ---- */

static bool config_range(const struct vhost_session *ss)
{
	const struct vhost_wire_config *w = &ss->in.config;

	return w->offset <= VHOST_CONFIG_BYTES && w->size_bytes <= VHOST_CONFIG_BYTES - w->offset &&
	       ss->h.payload_bytes == VHOST_WIRE_CONFIG_HEAD_BYTES + w->size_bytes;
}

static enum vhost_violation get_config(struct vhost_session *ss)
{
	struct vhost_server *s = ss->server;
	uint8_t space[VHOST_CONFIG_BYTES] = {0};

	if (!config_range(ss))
		return VHOST_VIOLATION_LENGTH;
	if (s->dev_ops->config)
		s->dev_ops->config(s->dev, space);
	ss->out.config = ss->in.config;
	memcpy(ss->out.config.data, space + ss->in.config.offset, ss->in.config.size_bytes);
	ss->out_bytes = ss->h.payload_bytes;
	return VHOST_VIOLATION_NONE;
}

static enum vhost_violation set_config(struct vhost_session *ss)
{
	struct vhost_server *s = ss->server;
	const struct vhost_wire_config *w = &ss->in.config;

	if (!config_range(ss))
		return VHOST_VIOLATION_LENGTH;
	if (w->flags & VHOST_CONFIG_MIGRATION)
		return VHOST_VIOLATION_NONE; /* where the guest came from it was the same */
	if (!s->dev_ops->config_set ||
		s->dev_ops->config_set(s->dev, w->offset, w->data, w->size_bytes) < 0) {
		/* The guest may write there as it likes: no reason to end its session. */
		stat_add(&s->stats.config_refused, 1);
		ss->refused = true;
	}
	return VHOST_VIOLATION_NONE;
}

/* ---- the table ---- */

struct message {
	enum vhost_violation (*apply)(struct vhost_session *ss);
	uint32_t (*stops)(const struct vhost_session *ss); /* NULL: none */
	uint64_t protocol;				   /* must have been agreed on */
	uint16_t min_bytes, max_bytes;			   /* of the payload */
	uint8_t min_fds, max_fds;
};

#define STATE sizeof(struct vhost_wire_ring_state), sizeof(struct vhost_wire_ring_state), 0, 0
#define U64   8, 8, 0, 0

static const struct message messages[VHOST_MESSAGES] = {
	[VHOST_GET_FEATURES] = {get_features, NULL, 0, 0, 0, 0, 0},
	[VHOST_SET_FEATURES] = {set_features, set_features_stops, 0, U64},
	[VHOST_SET_OWNER] = {no_effect, NULL, 0, 0, 0, 0, 0},
	[VHOST_RESET_OWNER] = {no_effect, NULL, 0, 0, 0, 0, 0},
	[VHOST_SET_MEM_TABLE] = {set_mem_table, all_stop, 0, 8, sizeof(struct vhost_wire_table), 0,
		VHOST_TABLE_REGIONS},
	[VHOST_SET_LOG_BASE] = {set_log_base, NULL, VHOST_PF_LOG_SHMFD,
		sizeof(struct vhost_wire_log), sizeof(struct vhost_wire_log), 1, 1},
	/* It asks to be told that the log has changed; nobody need, and we do not. */
	[VHOST_SET_LOG_FD] = {no_effect, NULL, 0, 0, 8, 0, 1},
	[VHOST_SET_VRING_NUM] = {set_vring_num, state_stops, 0, STATE},
	[VHOST_SET_VRING_ADDR] = {set_vring_addr, set_vring_addr_stops, 0,
		sizeof(struct vhost_wire_ring_addr), sizeof(struct vhost_wire_ring_addr), 0, 0},
	[VHOST_SET_VRING_BASE] = {set_vring_base, state_stops, 0, STATE},
	[VHOST_GET_VRING_BASE] = {get_vring_base, state_stops, 0, STATE},
	[VHOST_SET_VRING_KICK] = {set_vring_kick, NULL, 0, 8, 8, 0, 1},
	[VHOST_SET_VRING_CALL] = {set_vring_call, NULL, 0, 8, 8, 0, 1},
	[VHOST_SET_VRING_ERR] = {set_vring_err, NULL, 0, 8, 8, 0, 1},
	[VHOST_GET_PROTOCOL_FEATURES] = {get_protocol_features, NULL, 0, 0, 0, 0, 0},
	[VHOST_SET_PROTOCOL_FEATURES] = {set_protocol_features, NULL, 0, U64},
	[VHOST_GET_QUEUE_NUM] = {get_queue_num, NULL, VHOST_PF_MQ, 0, 0, 0, 0},
	[VHOST_SET_VRING_ENABLE] = {set_vring_enable, set_vring_enable_stops, 0, STATE},
	[VHOST_GET_CONFIG] = {get_config, NULL, VHOST_PF_CONFIG, VHOST_WIRE_CONFIG_HEAD_BYTES,
		sizeof(struct vhost_wire_config), 0, 0},
	[VHOST_SET_CONFIG] = {set_config, NULL, VHOST_PF_CONFIG, VHOST_WIRE_CONFIG_HEAD_BYTES,
		sizeof(struct vhost_wire_config), 0, 0},
	[VHOST_GET_INFLIGHT_FD] = {get_inflight_fd, NULL, VHOST_PF_INFLIGHT_SHMFD,
		VHOST_WIRE_INFLIGHT_MIN_BYTES, sizeof(struct vhost_wire_inflight), 0, 0},
	[VHOST_SET_INFLIGHT_FD] = {set_inflight_fd, all_stop, VHOST_PF_INFLIGHT_SHMFD,
		VHOST_WIRE_INFLIGHT_MIN_BYTES, sizeof(struct vhost_wire_inflight), 1, 1},
	[VHOST_RESET_DEVICE] = {reset_device, all_stop, VHOST_PF_RESET_DEVICE, 0, 0, 0, 0},
	[VHOST_GET_MAX_MEM_SLOTS] = {get_max_mem_slots, NULL, VHOST_PF_CONFIGURE_MEM_SLOTS, 0, 0, 0,
		0},
	[VHOST_ADD_MEM_REG] = {add_mem_reg, NULL, VHOST_PF_CONFIGURE_MEM_SLOTS,
		sizeof(struct vhost_wire_one_region), sizeof(struct vhost_wire_one_region), 1, 1},
	/* A descriptor may come along, for the sake of some front ends; it is closed. */
	[VHOST_REM_MEM_REG] = {rem_mem_reg, all_stop, VHOST_PF_CONFIGURE_MEM_SLOTS,
		sizeof(struct vhost_wire_one_region), sizeof(struct vhost_wire_one_region), 0, 1},
};

enum vhost_violation vhost_message_check_header(const struct vhost_session *ss)
{
	const struct vhost_header *h = &ss->h;

	if (h->type >= VHOST_MESSAGES || !messages[h->type].apply)
		return VHOST_VIOLATION_TYPE;
	if ((h->flags & VHOST_FLAG_VERSION_MASK) != VHOST_FLAG_VERSION ||
		(h->flags & VHOST_FLAG_REPLY))
		return VHOST_VIOLATION_FLAGS;
	if (h->payload_bytes < messages[h->type].min_bytes ||
		h->payload_bytes > messages[h->type].max_bytes)
		return VHOST_VIOLATION_LENGTH;
	return VHOST_VIOLATION_NONE;
}

enum vhost_violation vhost_message_check(const struct vhost_session *ss)
{
	const struct message *m = &messages[ss->h.type];

	if (m->protocol & ~ss->protocol)
		return VHOST_VIOLATION_TYPE;
	if (ss->in_fds < m->min_fds || ss->in_fds > m->max_fds)
		return VHOST_VIOLATION_FDS;
	return VHOST_VIOLATION_NONE;
}

uint32_t vhost_message_stops(const struct vhost_session *ss)
{
	const struct message *m = &messages[ss->h.type];

	return m->stops ? m->stops(ss) : 0;
}

enum vhost_violation vhost_message_apply(struct vhost_session *ss)
{
	return messages[ss->h.type].apply(ss);
}
