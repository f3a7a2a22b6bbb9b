/* The memory server's end of the transports: one object over tcp, verbs and what they may reach. */
#include "lib/transport/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/transport/server_stats.h"
#include "lib/transport/server_table.h"
#include "lib/transport/tcp_server.h"
#include "lib/transport/verbs_server.h"

struct transport_server {
	struct server_table table;
	struct tcp_server *tcp;	    /* NULL: not offered */
	struct verbs_server *verbs; /* NULL: not offered */
	int verbs_status;
};

void transport_server_config_default(struct transport_server_config *cfg, const char *host)
{
	*cfg = (struct transport_server_config){.host = host,
		.tcp = true,
		.tcp_threads = 2,
		.verbs = true,
		.max_conns = 4096,
		.max_conns_per_client = 256,
		.handshake_ms = 5000,
		.stall_ms = 10000};
}

static int config_check(const struct transport_server_config *cfg, char *err, size_t err_bytes)
{
	const char *what = NULL;
	if (!cfg->host)
		what = "no address to listen on";
	else if (cfg->tcp && (cfg->tcp_threads < 1 || cfg->tcp_threads > 64))
		what = "tcp_threads must be 1 to 64";
	else if (!cfg->max_conns || !cfg->max_conns_per_client)
		what = "connection limits must be at least 1";
	else if (!cfg->handshake_ms || !cfg->stall_ms)
		what = "handshake_ms and stall_ms must be at least 1";
	if (what)
		snprintf(err, err_bytes, "data port: %s", what);
	return what ? -EINVAL : 0;
}

int transport_server_start(const struct transport_server_config *cfg, struct transport_server **out,
	char *err, size_t err_bytes)
{
	int ret = config_check(cfg, err, err_bytes);
	if (ret)
		return ret;
	struct transport_server *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	ret = server_table_init(&s->table, cfg->max_conns_per_client);
	if (ret) {
		free(s);
		return ret;
	}
	s->verbs_status = cfg->verbs ? verbs_server_start(cfg, &s->table, &s->verbs) : -EOPNOTSUPP;
	if (cfg->tcp)
		ret = tcp_server_start(cfg, &s->table, &s->tcp, err, err_bytes);
	if (ret) {
		transport_server_stop(s);
		return ret;
	}
	*out = s;
	return 0;
}

void transport_server_stop(struct transport_server *s)
{
	if (!s)
		return;
	tcp_server_stop(s->tcp);
	s->tcp = NULL;
	while (s->table.clients)
		transport_server_client_remove(s, s->table.clients->id);
	verbs_server_stop(s->verbs);
	server_table_fini(&s->table);
	free(s);
}

uint16_t transport_server_tcp_port(const struct transport_server *s)
{
	return s->tcp ? tcp_server_port(s->tcp) : 0;
}

uint16_t transport_server_verbs_port(const struct transport_server *s)
{
	return s->verbs ? verbs_server_port(s->verbs) : 0;
}

int transport_server_verbs_status(const struct transport_server *s)
{
	return s->verbs_status;
}

int transport_server_event_fd(const struct transport_server *s)
{
	return s->verbs ? verbs_server_event_fd(s->verbs) : -1;
}

void transport_server_progress(struct transport_server *s)
{
	if (s->verbs)
		verbs_server_progress(s->verbs);
}

int transport_server_client_add(struct transport_server *s, uint64_t client)
{
	struct server_client *c;
	int err = server_client_add(&s->table, client, &c);
	if (err || !s->verbs)
		return err;
	err = verbs_server_pd_new(s->verbs, &c->pd);
	if (err)
		server_client_delete(&s->table, c);
	return err;
}

static void connections_ended(struct transport_server *s)
{
	if (s->tcp)
		tcp_server_wake(s->tcp);
	if (s->verbs)
		verbs_server_reap(s->verbs);
}

void transport_server_client_remove(struct transport_server *s, uint64_t client)
{
	struct server_client *c = server_client_find(&s->table, client);
	if (!c)
		return;
	while (c->sessions)
		transport_server_session_remove(s, c->sessions->token);
	while (c->regions)
		transport_server_unexport(s, c->regions);
	if (c->pd)
		verbs_server_pd_delete(c->pd);
	server_client_delete(&s->table, c);
}

int transport_server_session_add(
	struct transport_server *s, uint64_t client, const uint64_t token[2])
{
	struct server_client *c = server_client_find(&s->table, client);
	return c ? server_session_add(&s->table, c, token) : -ENOENT;
}

void transport_server_session_remove(struct transport_server *s, const uint64_t token[2])
{
	/* the token may lie in what is freed */
	uint64_t copy[2] = {token[0], token[1]};
	if (server_session_remove(&s->table, copy))
		connections_ended(s);
}

int transport_server_export(struct transport_server *s, uint64_t client, void *base, size_t len,
	struct transport_export *out)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct server_client *c = server_client_find(&s->table, client);
	struct ibv_mr *mr = NULL;
	if (!c)
		return -ENOENT;
	if (!base || !len || len % page || (uintptr_t)base % page)
		return -EINVAL;
	*out = (struct transport_export){.region = NULL};
	int err = c->pd ? verbs_server_mr_new(c->pd, base, len, &mr, &out->verbs_rkey) : 0;
	if (err)
		return err;
	err = server_region_add(&s->table, c, base, len, mr, &out->region);
	if (err) {
		if (mr)
			verbs_server_mr_delete(s->verbs, client, mr);
		return err;
	}
	out->tcp_key = s->tcp ? out->region->key : 0;
	out->verbs_raddr = mr ? (uintptr_t)base : 0;
	return 0;
}

void transport_server_unexport(struct transport_server *s, struct transport_region *region)
{
	struct ibv_mr *mr = region->mr;
	server_region_revoke(&s->table, region);
	if (mr)
		verbs_server_mr_delete(s->verbs, region->client_id, mr);
	server_region_put(region);
}

void transport_server_stats(const struct transport_server *s, struct transport_server_stats *out)
{
	memset((void *)out, 0, sizeof *out);
	if (s->tcp)
		tcp_server_stats_add(s->tcp, out);
	if (s->verbs)
		verbs_server_stats_add(s->verbs, out);
}
