/* Tests of what the backend keeps on disk: made once, found again, and never half read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client-backend/identity.h"

static char dir[64], err[512];

static void path_of(const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", dir, name);
}

static void file_write(const char *name, const char *text)
{
	char path[128];

	path_of(name, path);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/fallow-identity.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[128];

	path_of("identity", path);
	unlink(path);
	path_of("pool-ids", path);
	unlink(path);
	return rmdir(dir);
}

static void made_once(void **state)
{
	struct identity a, b;
	struct stat st;
	char path[128];

	assert_int_equal(identity_load(dir, &a, err, sizeof(err)), 0);
	assert_int_equal(identity_load(dir, &b, err, sizeof(err)), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_memory_not_equal(a.id, a.secret, sizeof(a.id));
	path_of("identity", path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void damage_is_told(void **state)
{
	static const char *const wrong[] = {"", "garbage\n",
		"00112233445566778899aabbccddeeff 00112233445566778899aabbccddeef\n",
		"00112233445566778899aabbccddeeff 00112233445566778899aabbccddeefg\n",
		"00112233445566778899aabbccddeeff 00112233445566778899aabbccddeeff",
		"00112233445566778899aabbccddeeff 00112233445566778899aabbccddeeff\n\n"};
	struct identity a;

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		file_write("identity", wrong[i]);
		assert_int_equal(identity_load(dir, &a, err, sizeof(err)), -EBADMSG);
		assert_non_null(strstr(err, "identity is damaged"));
	}
	file_write(
		"identity", "00112233445566778899aabbccddeeff ffeeddccbbaa99887766554433221100\n");
	assert_int_equal(identity_load(dir, &a, err, sizeof(err)), 0);
	assert_int_equal(a.id[1], 0x11);
	assert_int_equal(a.secret[0], 0xff);
}

static void pool_ids(void **state)
{
	uint32_t next;

	assert_int_equal(identity_pool_ids_load(dir, &next, err, sizeof(err)), 0);
	assert_int_equal(next, 1);
	assert_int_equal(identity_pool_ids_store(dir, 513), 0);
	assert_int_equal(identity_pool_ids_load(dir, &next, err, sizeof(err)), 0);
	assert_int_equal(next, 513);
	file_write("pool-ids", "many\n");
	assert_int_equal(identity_pool_ids_load(dir, &next, err, sizeof(err)), -EBADMSG);
	file_write("pool-ids", "99999999999\n");
	assert_int_equal(identity_pool_ids_load(dir, &next, err, sizeof(err)), -EBADMSG);
}

static void no_directory(void **state)
{
	struct identity a;

	assert_true(identity_load("/proc/nothing/here", &a, err, sizeof(err)) < 0);
	assert_non_null(strstr(err, "/proc/nothing/here"));
	assert_true(identity_pool_ids_store("/proc/nothing", 1) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(made_once, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(pool_ids, setup, teardown),
		cmocka_unit_test(no_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
