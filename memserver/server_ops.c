/* What the lease book asks of the daemon: memory, data ports, control sessions. */
#include "memserver/server_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/core/log.h"

static int region_alloc(void *ctx, unsigned region)
{
	struct memserver *s = ctx;

	return memory_region_alloc(s->memory, region);
}

static void region_free(void *ctx, unsigned region)
{
	struct memserver *s = ctx;

	memory_region_free(s->memory, region);
}

static void region_wipe(void *ctx, unsigned region)
{
	struct memserver *s = ctx;

	memory_region_wipe(s->memory, region);
}

static int region_export(void *ctx, unsigned region, unsigned client, struct lease_keys *keys)
{
	struct memserver *s = ctx;
	struct transport_export e;

	int rc = transport_server_export(s->data, client, memory_region_base(s->memory, region),
		s->cfg.region.size_bytes, &e);
	if (rc) {
		log_warn_limited("lease", "a region could not be exported: %s", strerror(-rc));
		return rc;
	}
	s->exports[region] = e.region;
	*keys = (struct lease_keys){
		.tcp_key = e.tcp_key,
		.verbs_rkey = e.verbs_rkey,
		.verbs_raddr = e.verbs_raddr,
	};
	return 0;
}

static void region_unexport(void *ctx, unsigned region, unsigned client)
{
	struct memserver *s = ctx;

	transport_server_unexport(s->data, s->exports[region]);
	s->exports[region] = NULL;
}

static void identity_text(const uint8_t identity[16], char text[33])
{
	for (unsigned i = 0; i < 16; i++)
		snprintf(text + 2 * i, 3, "%02x", identity[i]);
}

static bool identity_listed(const struct memserver_config *cfg, const char *identity)
{
	if (!cfg->client_count)
		return true;
	for (uint32_t i = 0; i < cfg->client_count; i++) {
		if (!strcmp(cfg->clients[i].identity, identity))
			return true;
	}
	return false;
}

static int client_add(void *ctx, unsigned client, const uint8_t identity[16])
{
	struct memserver *s = ctx;
	char text[33];

	identity_text(identity, text);
	if (!identity_listed(&s->cfg, text))
		return -EPERM;
	int rc = transport_server_client_add(s->data, client);
	if (!rc)
		log_info_kv("lease", "new client", "client=%s", text);
	return rc;
}

static void client_remove(void *ctx, unsigned client)
{
	struct memserver *s = ctx;

	transport_server_client_remove(s->data, client);
}

static int token_add(void *ctx, unsigned client, uint64_t token[2])
{
	struct memserver *s = ctx;

	if (getrandom(token, 2 * sizeof(token[0]), 0) != 2 * sizeof(token[0]))
		return -EIO;
	return transport_server_session_add(s->data, client, token);
}

static void token_remove(void *ctx, unsigned client, const uint64_t token[2])
{
	struct memserver *s = ctx;

	transport_server_session_remove(s->data, token);
}

static void peer_send(void *ctx, void *peer, const struct control_msg *m)
{
	struct peer *p = peer;
	int rc = control_session_send(p->control, m);

	if (rc == -EINVAL)
		log_error_limited("control", "a message of type %d could not be written", m->type);
}

static void peer_close(void *ctx, void *peer, int status, const char *text)
{
	struct peer *p = peer;

	if (text)
		log_warn_limited_kv("control", "session refused", "peer=%s why=\"%s\"",
			control_session_peer(p->control), text);
	control_session_close(p->control, status, text);
	free(p);
}

const struct lease_ops memserver_lease_ops = {
	.region_alloc = region_alloc,
	.region_free = region_free,
	.region_wipe = region_wipe,
	.region_export = region_export,
	.region_unexport = region_unexport,
	.client_add = client_add,
	.client_remove = client_remove,
	.token_add = token_add,
	.token_remove = token_remove,
	.send = peer_send,
	.close = peer_close,
};
