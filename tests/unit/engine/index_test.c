/* The index: everything inserted is found, nothing else is, at the load it is built for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client-backend/engine/index.h"

struct fixture {
	struct index ix;
	struct index_bucket *bucket;
	uint64_t max;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->max = 100000;
	uint64_t n = index_buckets(f->max);

	f->bucket = aligned_alloc(64, n * sizeof(*f->bucket));
	memset(f->bucket, 0, n * sizeof(*f->bucket));
	index_init(&f->ix, f->bucket, n, 42);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	free(f->bucket);
	free(f);
	return 0;
}

static uint64_t key_at(uint64_t i)
{
	return (1 + i / 1000) << 32 | (i % 1000);
}

static void fill(struct fixture *f)
{
	for (uint64_t i = 0; i < f->max; i++)
		assert_int_equal(index_insert(&f->ix, key_at(i), loc_make_same((uint32_t)i)), 0);
}

static void holds_what_it_is_sized_for(void **state)
{
	struct fixture *f = *state;

	fill(f);
	assert_int_equal(f->ix.entries, f->max);
	for (uint64_t i = 0; i < f->max; i++) {
		uint64_t *loc = index_find(&f->ix, key_at(i));

		assert_non_null(loc);
		assert_int_equal(*loc, loc_make_same((uint32_t)i));
	}
	assert_null(index_find(&f->ix, key_at(f->max)));
	assert_null(index_find(&f->ix, 0));
}

static void entries_stand_once_in_one_of_their_buckets(void **state)
{
	struct fixture *f = *state;
	uint64_t seen = 0;

	fill(f);
	for (uint64_t b = 0; b < f->ix.nbuckets; b++)
		for (unsigned w = 0; w < INDEX_WAYS; w++)
			if (f->bucket[b].way[w].loc) {
				seen++;
				assert_true(index_is_home(&f->ix, b, w));
				assert_false(index_is_duplicate(&f->ix, b, w));
			}
	assert_int_equal(seen, f->max);
}

static void removal_frees_the_place(void **state)
{
	struct fixture *f = *state;

	fill(f);
	for (uint64_t round = 0; round < 5; round++)
		for (uint64_t i = round; i < f->max; i += 7) {
			index_remove(&f->ix, index_find(&f->ix, key_at(i)));
			assert_null(index_find(&f->ix, key_at(i)));
			assert_int_equal(index_insert(&f->ix, key_at(i), loc_make_same(7)), 0);
		}
	assert_int_equal(f->ix.entries, f->max);
}

static void a_full_table_refuses_and_keeps_all(void **state)
{
	struct fixture *f = *state;
	uint64_t n = 0;

	while (index_insert(&f->ix, key_at(n), loc_make_same((uint32_t)n)) == 0)
		n++;
	assert_true(n >= f->max);
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(*index_find(&f->ix, key_at(i)), loc_make_same((uint32_t)i));
}

static void an_interrupted_displacement_shows_as_duplicate(void **state)
{
	struct fixture *f = *state;
	uint64_t key = key_at(5);
	unsigned copies = 0, duplicates = 0;

	/* As if killed between the two stores of a move: the entry is in both its buckets. */
	assert_int_equal(index_insert(&f->ix, key, loc_make_same(5)), 0);
	for (uint64_t b = 0; b < f->ix.nbuckets && copies < 2; b++) {
		struct index_entry *e = &f->bucket[b].way[3];

		if (e->loc)
			continue;
		e->key = key;
		e->loc = loc_make_same(5);
		if (index_is_home(&f->ix, b, 3))
			copies++;
		else
			e->loc = 0;
	}
	for (uint64_t b = 0; b < f->ix.nbuckets; b++)
		for (unsigned w = 0; w < INDEX_WAYS; w++)
			if (f->bucket[b].way[w].loc && index_is_duplicate(&f->ix, b, w)) {
				duplicates++;
				f->bucket[b].way[w].loc = 0;
			}
	assert_true(duplicates >= 1);
	assert_non_null(index_find(&f->ix, key));
}

static void locations_keep_their_parts(void **state)
{
	(void)state;
	uint64_t loc = loc_make((1u << 26) - 1, (4u << 20) - 8, 4152);

	assert_int_equal(loc_row(loc), (1u << 26) - 1);
	assert_int_equal(loc_off(loc), (4u << 20) - 8);
	assert_int_equal(loc_len(loc), 4152);
	assert_false(loc_is_same(loc));
	assert_true(loc_is_same(loc_make_same(0)));
	assert_true(loc_make(0, 0, 64) != 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(holds_what_it_is_sized_for, setup, teardown),
		cmocka_unit_test_setup_teardown(
			entries_stand_once_in_one_of_their_buckets, setup, teardown),
		cmocka_unit_test_setup_teardown(removal_frees_the_place, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_full_table_refuses_and_keeps_all, setup, teardown),
		cmocka_unit_test_setup_teardown(
			an_interrupted_displacement_shows_as_duplicate, setup, teardown),
		cmocka_unit_test(locations_keep_their_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
