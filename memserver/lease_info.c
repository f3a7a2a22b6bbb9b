/* Looking into the lease book: status, counters and the check of what is stored twice. */
#include "memserver/lease_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct lease_stats *lease_book_stats(const struct lease_book *b)
{
	return &b->stats;
}

unsigned lease_book_regions(const struct lease_book *b)
{
	return b->nregions;
}

void lease_book_region_info(
	const struct lease_book *b, unsigned region, struct lease_region_info *out)
{
	const struct lease_region *r = &b->regions[region];

	*out = (struct lease_region_info){
		.state = r->state,
		.has_memory = r->memory,
		.client = r->client,
		.region_id = region,
		.epoch = r->epoch,
		.deadline_ns = r->deadline_ns,
		.spare = r->spare_ns != 0,
	};
}

unsigned lease_book_clients(const struct lease_book *b)
{
	return b->cfg.max_clients;
}

bool lease_book_client_info(
	const struct lease_book *b, unsigned client, struct lease_client_info *out)
{
	const struct lease_client *c = &b->clients[client];

	if (!c->used)
		return false;
	*out = (struct lease_client_info){
		.connected = c->session != NULL,
		.regions = c->regions,
		.revoking = c->revoking,
		.spare = c->spare,
		.expires_ns = c->expires_ns,
	};
	memcpy(out->identity, c->identity, sizeof(out->identity));
	memcpy(out->name, c->name, sizeof(out->name));
	return true;
}

static int wrong(char *err, size_t err_bytes, const char *what, unsigned row)
{
	snprintf(err, err_bytes, "%s (row %u)", what, row);
	return -EBADMSG;
}

static int client_check(const struct lease_book *b, unsigned row, char *err, size_t err_bytes)
{
	const struct lease_client *c = &b->clients[row];
	unsigned regions = 0, revoking = 0, spare = 0;

	for (unsigned i = 0; i < b->nregions; i++) {
		const struct lease_region *r = &b->regions[i];
		bool leased = r->state == LEASE_REGION_LEASED || r->state == LEASE_REGION_REVOKING;
		if (leased && r->client == row) {
			regions++;
			revoking += r->state == LEASE_REGION_REVOKING;
			spare += r->spare_ns != 0;
		}
	}
	if (regions != c->regions || revoking != c->revoking || spare != c->spare)
		return wrong(err, err_bytes, "a client's count of regions", row);
	if (!c->used && (regions || c->session || c->has_token))
		return wrong(err, err_bytes, "an unknown client holds something", row);
	if (c->spare && !c->session)
		return wrong(err, err_bytes, "a client without a session spares a region", row);
	if (c->session && (!c->session->used || c->session->client != (int)row))
		return wrong(err, err_bytes, "a client's session is not its own", row);
	if (c->has_token && !c->session && !regions)
		return wrong(err, err_bytes, "a token of a client with nothing left", row);
	if (c->session && !c->has_token)
		return wrong(err, err_bytes, "a session without a token", row);
	return 0;
}

int lease_book_check(const struct lease_book *b, char *err, size_t err_bytes)
{
	unsigned leased = 0, revoking = 0, kept = 0, wiping = 0, spare = 0, reclaiming = 0;

	for (unsigned i = 0; i < b->nregions; i++) {
		const struct lease_region *r = &b->regions[i];
		if (r->state != LEASE_REGION_FREE && !r->memory)
			return wrong(err, err_bytes, "a region in use has no memory", i);
		if (r->state == LEASE_REGION_REVOKING && r->deadline_ns < b->revoke_next_ns)
			return wrong(err, err_bytes, "a deadline is before the next one", i);
		leased += r->state == LEASE_REGION_LEASED || r->state == LEASE_REGION_REVOKING;
		revoking += r->state == LEASE_REGION_REVOKING;
		kept += r->state == LEASE_REGION_FREE && r->memory;
		wiping += r->state == LEASE_REGION_WIPING;
		spare += r->spare_ns != 0;
		reclaiming += r->reclaimed;
		if (r->spare_ns && r->state != LEASE_REGION_LEASED)
			return wrong(
				err, err_bytes, "a region can be spared that is not leased", i);
		if (r->reclaimed && r->state != LEASE_REGION_REVOKING)
			return wrong(err, err_bytes, "a region is reclaimed but not revoked", i);
	}
	if (leased != b->leased || revoking != b->revoking || kept != b->kept ||
		wiping != b->wiping || spare != b->spare || reclaiming != b->reclaiming)
		return wrong(err, err_bytes, "the counts of regions", 0);
	if (kept + wiping > b->cfg.keep_regions)
		return wrong(err, err_bytes, "too many regions are kept", kept + wiping);
	for (unsigned i = 0; i < b->cfg.max_clients; i++) {
		int rc = client_check(b, i, err, err_bytes);
		if (rc)
			return rc;
	}
	for (unsigned i = 0; i < b->cfg.max_sessions; i++) {
		const struct lease_session *s = &b->sessions[i];
		if (s->used && s->client >= 0 && b->clients[s->client].session != s)
			return wrong(err, err_bytes, "a session's client has another session", i);
	}
	return 0;
}
