/* Who pays for pages: the accounts of clients, with their quotas and weights, by user id. */
#ifndef FALLOW_BACKEND_ACCOUNTS_H
#define FALLOW_BACKEND_ACCOUNTS_H

#include <sys/types.h>

#include "client-backend/config.h"
#include "client-backend/engine/engine.h"

/*
 * Control thread. An account is a row in every lane's arena, named after its entry in the list of
 * clients, or "uid-N" for a client without one. A row stays with its name for the life of the
 * arenas.
 */
struct accounts;

/* announce: engine_account_set() with these on every lane, in order with what else they are sent.
 */
int accounts_new(const struct fallowd_config *cfg,
	void (*announce)(void *ctx, unsigned account, const struct engine_account *a), void *ctx,
	struct accounts **out);
void accounts_delete(struct accounts *a); /* after the engines: they use the quotas */
/* A row that an arena holds. -EEXIST: another lane's arena has another name there. */
int accounts_adopt(struct accounts *a, unsigned account, const char *name);
/* Gives the configured clients their rows and announces every row; later again, when cfg has
 * changed. */
int accounts_apply(struct accounts *a, const struct fallowd_config *cfg);
/* The account of a user's processes. -EACCES: not allowed; -ENOSPC: no row left. */
int accounts_of_uid(struct accounts *a, uid_t uid, unsigned *account);
/*
 * The account of a guest's disk: the client called `client`, or with "" one of its own, named
 * "disk:NAME", with this quota (0: none) and weight. -ENOENT: no such client; -ENOSPC: no row left.
 */
int accounts_of_disk(struct accounts *a, const char *client, const char *disk, uint64_t quota_bytes,
	uint32_t weight, unsigned *account);
/* NULL: unused. */
const struct engine_account *accounts_get(const struct accounts *a, unsigned account);
const struct fallowd_client_config *accounts_rights(const struct accounts *a, unsigned account);

#endif
