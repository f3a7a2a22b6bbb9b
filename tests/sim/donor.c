/* A memory server: the real lease book over plain memory, with what it promises checked at each
 * call. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static event_fn tick_event;

void donor_arm(struct sdonor *d)
{
	uint64_t next;

	if (!d->up)
		return;
	next = lease_book_next_ns(d->book);
	if (next == UINT64_MAX || (d->tick_at_ns > d->sim->now_ns && d->tick_at_ns <= next))
		return;
	d->tick_at_ns = next > d->sim->now_ns ? next : d->sim->now_ns + 1;
	sim_at(d->sim, d->tick_at_ns, tick_event, d, d->life);
}

static void tick_event(struct sim *sim, void *object, uint64_t life)
{
	struct sdonor *d = object;

	if (!d->up || d->life != life || sim->now_ns < d->tick_at_ns)
		return;
	d->tick_at_ns = 0;
	lease_book_tick(d->book);
	donor_arm(d);
}

/* ---- what the book calls ---- */

static int op_alloc(void *ctx, unsigned region)
{
	struct sdonor *d = ctx;

	if (d->memory[region])
		return sim_fail(d->sim, "donor %u: region %u is allocated twice", d->index, region);
	d->memory[region] = calloc(1, REGION_BYTES);
	return d->memory[region] ? 0 : -ENOMEM;
}

static void op_free(void *ctx, unsigned region)
{
	struct sdonor *d = ctx;

	if (d->export[region].active)
		sim_fail(d->sim, "donor %u: region %u is freed while exported", d->index, region);
	free(d->memory[region]);
	d->memory[region] = NULL;
}

static void op_wipe(void *ctx, unsigned region)
{
	struct sdonor *d = ctx;

	if (d->export[region].active)
		sim_fail(d->sim, "donor %u: region %u is wiped while exported", d->index, region);
	memset(d->memory[region], 0, REGION_BYTES);
}

static int op_export(void *ctx, unsigned region, unsigned client, struct lease_keys *keys)
{
	struct sdonor *d = ctx;
	const uint64_t *w = (const uint64_t *)d->memory[region];

	if (d->export[region].active)
		return sim_fail(d->sim, "donor %u: region %u is leased twice", d->index, region);
	if (!w)
		return sim_fail(d->sim, "donor %u: region %u has no memory", d->index, region);
	for (uint32_t i = 0; i < REGION_BYTES / 8; i++)
		if (w[i])
			return sim_fail(
				d->sim, "donor %u: region %u is leased unwiped", d->index, region);
	d->export[region] = (struct export){true, client, ++d->sim->next_key};
	*keys = (struct lease_keys){.tcp_key = d->export[region].key};
	return 0;
}

static void op_unexport(void *ctx, unsigned region, unsigned client)
{
	struct sdonor *d = ctx;
	struct lease_region_info info;

	if (!d->export[region].active || d->export[region].client != client)
		sim_fail(d->sim, "donor %u: region %u is withdrawn from who does not have it",
			d->index, region);
	d->export[region].active = false;
	lease_book_region_info(d->book, region, &info);
	if (d->client_backend[client] >= 0)
		backend_region_gone(&d->sim->backend[d->client_backend[client]], d->index,
			info.region_id, info.epoch);
}

static int op_client_add(void *ctx, unsigned client, const uint8_t identity[16])
{
	struct sdonor *d = ctx;

	d->client_backend[client] = identity[0] - 1;
	return 0;
}

static void op_client_remove(void *ctx, unsigned client)
{
	((struct sdonor *)ctx)->client_backend[client] = -1;
}

static int op_token_add(void *ctx, unsigned client, uint64_t token[2])
{
	struct sdonor *d = ctx;

	for (unsigned i = 0; i < SIM_TOKENS; i++)
		if (!d->token[i].active) {
			token[0] = rng_next(&d->sim->rng_code);
			token[1] = ++d->sim->next_key;
			d->token[i] = (struct donor_token){true, client, {token[0], token[1]}};
			return 0;
		}
	return -ENOMEM;
}

static void op_token_remove(void *ctx, unsigned client, const uint64_t token[2])
{
	struct sdonor *d = ctx;

	for (unsigned i = 0; i < SIM_TOKENS; i++)
		if (d->token[i].active && !memcmp(d->token[i].token, token, 16))
			d->token[i].active = false;
	wire_break(d->sim, d->index, token);
}

static void op_send(void *ctx, void *peer, const struct control_msg *m)
{
	struct sdonor *d = ctx;

	session_send(d->sim, peer, 1, m);
}

static void op_close(void *ctx, void *peer, int status, const char *text)
{
	struct sdonor *d = ctx;
	struct control_msg m = {.type = CONTROL_ERROR, .error = {.status = status}};

	sim_note(d->sim, "d%u closes a session: %s", d->index, text);
	strncpy(m.error.text, text, sizeof(m.error.text) - 1);
	session_send(d->sim, peer, 1, &m);
	session_close(d->sim, peer, false);
}

static const struct lease_ops ops = {
	.region_alloc = op_alloc,
	.region_free = op_free,
	.region_wipe = op_wipe,
	.region_export = op_export,
	.region_unexport = op_unexport,
	.client_add = op_client_add,
	.client_remove = op_client_remove,
	.token_add = op_token_add,
	.token_remove = op_token_remove,
	.send = op_send,
	.close = op_close,
};

/* ---- its life ---- */

static void memory_drop(struct sdonor *d)
{
	for (unsigned i = 0; i < SIM_REGIONS; i++) {
		free(d->memory[i]);
		d->memory[i] = NULL;
	}
}

static void book_abandon(struct sdonor *d)
{
	d->sim->reclaims += stat_get(&lease_book_stats(d->book)->reclaims);
	lease_book_abandon(d->book);
	d->book = NULL;
}

void donor_start(struct sdonor *d)
{
	d->life++;
	d->up = true;
	d->silent = d->draining = false;
	d->tick_at_ns = 0;
	memset(d->export, 0, sizeof(d->export));
	memset(d->token, 0, sizeof(d->token));
	for (unsigned i = 0; i < SIM_CLIENTS; i++)
		d->client_backend[i] = -1;
	if (lease_book_new(
		    &d->cfg, rng_next(&d->sim->rng_code) | 1, &d->sim->env, &ops, d, &d->book)) {
		sim_fail(d->sim, "lease_book_new");
		d->up = false;
		return;
	}
	lease_book_target_set(d->book, d->cfg.max_bytes);
	sim_note(d->sim, "d%u starts", d->index);
	donor_arm(d);
}

void donor_crash(struct sdonor *d, bool silent)
{
	struct sim *sim = d->sim;

	sim_note(sim, "d%u crashes%s", d->index, silent ? " silently" : "");
	for (unsigned i = 0; i < lease_book_regions(d->book); i++) {
		struct lease_region_info info;

		lease_book_region_info(d->book, i, &info);
		if (d->export[i].active && d->client_backend[d->export[i].client] >= 0)
			backend_region_gone(&sim->backend[d->client_backend[d->export[i].client]],
				d->index, info.region_id, info.epoch);
	}
	book_abandon(d);
	d->silent = silent;
	if (!silent)
		wire_break(sim, d->index, NULL);
	d->up = false;
	memory_drop(d);
	sessions_of_donor_end(sim, d->index);
}

void donor_stop(struct sdonor *d)
{
	if (d->up)
		book_abandon(d);
	d->up = false;
	memory_drop(d);
}

uint8_t *donor_reach(struct sdonor *d, unsigned client, uint64_t key, uint64_t offset, uint32_t len)
{
	for (unsigned i = 0; i < SIM_REGIONS; i++)
		if (d->export[i].active && d->export[i].key == key)
			return d->export[i].client == client && len <= REGION_BYTES &&
					       offset <= REGION_BYTES - len
				       ? d->memory[i] + offset
				       : NULL;
	return NULL;
}

int donor_token_client(const struct sdonor *d, const uint64_t token[2])
{
	for (unsigned i = 0; i < SIM_TOKENS; i++)
		if (d->token[i].active && !memcmp(d->token[i].token, token, 16))
			return (int)d->token[i].client;
	return -1;
}

bool donor_has_lease(const struct sdonor *d, uint64_t region_id, uint64_t epoch, unsigned backend)
{
	for (unsigned i = 0; d->up && i < lease_book_regions(d->book); i++) {
		struct lease_region_info info;

		lease_book_region_info(d->book, i, &info);
		if (info.region_id == region_id && info.epoch == epoch && d->export[i].active)
			return d->client_backend[d->export[i].client] == (int)backend;
	}
	return false;
}
