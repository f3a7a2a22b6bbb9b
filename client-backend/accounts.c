/* Who pays for pages: the accounts of clients, with their quotas and weights, by user id. */
#include "client-backend/accounts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct accounts {
	struct fallowd_config cfg;
	void (*announce)(void *ctx, unsigned account, const struct engine_account *a);
	void *ctx;
	struct engine_account row[ENGINE_MAX_ACCOUNTS];
	struct engine_quota quota[ENGINE_MAX_ACCOUNTS];
	/* Accounts of disks, which no list of clients names: weight 0 for none. */
	struct fallowd_client_config disk[ENGINE_MAX_ACCOUNTS];
};

int accounts_new(const struct fallowd_config *cfg,
	void (*announce)(void *ctx, unsigned account, const struct engine_account *a), void *ctx,
	struct accounts **out)
{
	struct accounts *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->cfg = *cfg;
	a->announce = announce;
	a->ctx = ctx;
	*out = a;
	return 0;
}

void accounts_delete(struct accounts *a)
{
	free(a);
}

int accounts_adopt(struct accounts *a, unsigned account, const char *name)
{
	struct engine_account *row = &a->row[account];

	if (row->name[0])
		return strcmp(row->name, name) ? -EEXIST : 0;
	snprintf(row->name, sizeof(row->name), "%s", name);
	return 0;
}

static int row_of(struct accounts *a, const char *name)
{
	int unused = -ENOSPC;

	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++) {
		if (!strcmp(a->row[i].name, name))
			return (int)i;
		if (unused < 0 && !a->row[i].name[0])
			unused = (int)i;
	}
	return unused;
}

const struct fallowd_client_config *accounts_rights(const struct accounts *a, unsigned account)
{
	if (a->disk[account].weight)
		return &a->disk[account];
	for (uint32_t i = 0; i < a->cfg.client_count; i++)
		if (!strcmp(a->cfg.clients[i].name, a->row[account].name))
			return &a->cfg.clients[i];
	return &a->cfg.others;
}

static void row_announce(struct accounts *a, unsigned account)
{
	const struct fallowd_client_config *c = accounts_rights(a, account);
	struct engine_account *row = &a->row[account];

	row->weight = c->weight;
	row->quota = &a->quota[account];
	atomic_store(&row->quota->limit_pages,
		c->quota_bytes ? c->quota_bytes / ENGINE_PAGE_BYTES : UINT64_MAX);
	a->announce(a->ctx, account, row);
}

static int row_take(struct accounts *a, const char *name)
{
	int i = row_of(a, name);

	if (i >= 0 && !a->row[i].name[0])
		snprintf(a->row[i].name, sizeof(a->row[i].name), "%s", name);
	return i;
}

int accounts_apply(struct accounts *a, const struct fallowd_config *cfg)
{
	a->cfg = *cfg;
	for (uint32_t i = 0; i < cfg->client_count; i++)
		if (row_take(a, cfg->clients[i].name) < 0)
			return -ENOSPC;
	for (unsigned i = 0; i < ENGINE_MAX_ACCOUNTS; i++)
		if (a->row[i].name[0])
			row_announce(a, i);
	return 0;
}

int accounts_of_uid(struct accounts *a, uid_t uid, unsigned *account)
{
	char name[ENGINE_NAME_BYTES];
	const char *of = NULL;

	for (uint32_t i = 0; !of && i < a->cfg.client_count; i++)
		if ((uid_t)a->cfg.clients[i].uid == uid)
			of = a->cfg.clients[i].name;
	if (!of && !a->cfg.others_allowed)
		return -EACCES;
	snprintf(name, sizeof(name), "uid-%u", uid);
	int i = row_of(a, of ? of : name);
	if (i < 0)
		return i;
	if (!a->row[i].name[0]) {
		row_take(a, of ? of : name);
		row_announce(a, (unsigned)i);
	}
	*account = (unsigned)i;
	return 0;
}

int accounts_of_disk(struct accounts *a, const char *client, const char *disk, uint64_t quota_bytes,
	uint32_t weight, unsigned *account)
{
	char name[ENGINE_NAME_BYTES];
	int i;

	if (client[0]) {
		i = row_of(a, client);
		if (i < 0 || !a->row[i].name[0])
			return -ENOENT;
		*account = (unsigned)i;
		return 0;
	}
	/* No client is called so: names in the list have no colon. */
	if ((size_t)snprintf(name, sizeof(name), "disk:%s", disk) >= sizeof(name))
		return -ENAMETOOLONG;
	i = row_take(a, name);
	if (i < 0)
		return i;
	a->disk[i] = (struct fallowd_client_config){.quota_bytes = quota_bytes,
		.weight = weight,
		.persistent = true,
		.ephemeral = true,
		.max_pools = 1};
	row_announce(a, (unsigned)i);
	*account = (unsigned)i;
	return 0;
}

const struct engine_account *accounts_get(const struct accounts *a, unsigned account)
{
	return account < ENGINE_MAX_ACCOUNTS && a->row[account].name[0] ? &a->row[account] : NULL;
}
