/* Tests of the accounts: rows stay with their names, users find theirs, settings reach the lanes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client-backend/accounts.h"

static struct fallowd_config cfg;
static struct accounts *a;
static struct engine_account told[ENGINE_MAX_ACCOUNTS];
static unsigned announced;

static void announce(void *ctx, unsigned account, const struct engine_account *value)
{
	told[account] = *value;
	announced++;
}

static int setup(void **state)
{
	memset(&cfg, 0, sizeof(cfg));
	memset(told, 0, sizeof(told));
	announced = 0;
	cfg.others_allowed = true;
	cfg.others = (struct fallowd_client_config){.weight = 100, .quota_bytes = 1 << 20};
	cfg.client_count = 2;
	cfg.clients[0] = (struct fallowd_client_config){.name = "qemu", .uid = 50, .weight = 200};
	cfg.clients[1] = (struct fallowd_client_config){
		.name = "db", .uid = 60, .weight = 10, .quota_bytes = 8192};
	return accounts_new(&cfg, announce, NULL, &a);
}

static int teardown(void **state)
{
	accounts_delete(a);
	return 0;
}

static void users_find_their_accounts(void **state)
{
	unsigned qemu, db, other, again;

	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(announced, 2);
	assert_int_equal(accounts_of_uid(a, 50, &qemu), 0);
	assert_int_equal(accounts_of_uid(a, 60, &db), 0);
	assert_int_equal(accounts_of_uid(a, 70, &other), 0);
	assert_int_equal(accounts_of_uid(a, 70, &again), 0);
	assert_int_equal(other, again);
	assert_string_equal(told[qemu].name, "qemu");
	assert_int_equal(told[qemu].weight, 200);
	assert_true(atomic_load(&told[qemu].quota->limit_pages) == UINT64_MAX);
	assert_true(atomic_load(&told[db].quota->limit_pages) == 2);
	assert_string_equal(told[other].name, "uid-70");
	assert_true(atomic_load(&told[other].quota->limit_pages) == 256);
	assert_null(accounts_get(a, 200));
}

static void rows_stay_with_their_names(void **state)
{
	unsigned db;

	assert_int_equal(accounts_adopt(a, 9, "db"), 0);
	assert_int_equal(accounts_adopt(a, 9, "db"), 0);
	assert_int_equal(accounts_adopt(a, 9, "qemu"), -EEXIST);
	assert_int_equal(accounts_adopt(a, 0, "uid-70"), 0);
	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(accounts_of_uid(a, 60, &db), 0);
	assert_int_equal(db, 9);
	assert_string_equal(told[0].name, "uid-70");
}

static void settings_change(void **state)
{
	unsigned db;

	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(accounts_of_uid(a, 60, &db), 0);
	struct engine_quota *quota = told[db].quota;
	cfg.clients[1].weight = 77;
	cfg.clients[1].quota_bytes = 0;
	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(told[db].weight, 77);
	assert_ptr_equal(told[db].quota, quota);
	assert_true(atomic_load(&quota->limit_pages) == UINT64_MAX);
}

static void strangers(void **state)
{
	unsigned x;

	cfg.others_allowed = false;
	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(accounts_of_uid(a, 70, &x), -EACCES);
	assert_int_equal(accounts_of_uid(a, 50, &x), 0);
}

static void no_row_left(void **state)
{
	unsigned x;

	assert_int_equal(accounts_apply(a, &cfg), 0);
	for (unsigned uid = 1000; uid < 1000 + ENGINE_MAX_ACCOUNTS - 2; uid++)
		assert_int_equal(accounts_of_uid(a, uid, &x), 0);
	assert_int_equal(accounts_of_uid(a, 5000, &x), -ENOSPC);
	assert_int_equal(accounts_of_uid(a, 1000, &x), 0);
}

static void disks_have_their_own(void **state)
{
	unsigned own, again, qemu, of_client;

	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(accounts_of_disk(a, "", "vm1", 40960, 7, &own), 0);
	assert_string_equal(told[own].name, "disk:vm1");
	assert_int_equal(told[own].weight, 7);
	assert_true(atomic_load(&told[own].quota->limit_pages) == 10);
	assert_true(accounts_rights(a, own)->persistent);
	assert_int_equal(accounts_of_disk(a, "", "vm1", 0, 8, &again), 0);
	assert_int_equal(own, again);
	assert_true(atomic_load(&told[own].quota->limit_pages) == UINT64_MAX);
	/* Another list of clients changes nothing. */
	assert_int_equal(accounts_apply(a, &cfg), 0);
	assert_int_equal(told[own].weight, 8);
	assert_int_equal(accounts_of_uid(a, 50, &qemu), 0);
	assert_int_equal(accounts_of_disk(a, "qemu", "vm2", 0, 100, &of_client), 0);
	assert_int_equal(qemu, of_client);
	assert_int_equal(told[qemu].weight, 200);
	assert_int_equal(accounts_of_disk(a, "nobody", "vm3", 0, 100, &own), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(users_find_their_accounts, setup, teardown),
		cmocka_unit_test_setup_teardown(disks_have_their_own, setup, teardown),
		cmocka_unit_test_setup_teardown(rows_stay_with_their_names, setup, teardown),
		cmocka_unit_test_setup_teardown(settings_change, setup, teardown),
		cmocka_unit_test_setup_teardown(strangers, setup, teardown),
		cmocka_unit_test_setup_teardown(no_row_left, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
