/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_CORE_TESTS_H
#define TESTS_CORE_TESTS_H

void test_large_blocks(void **state);
void test_own_allocator(void **state);
void test_release(void **state);
void test_paths(void **state);
void test_places(void **state);
void test_long_file(void **state);
void test_size_limits(void **state);
void test_write_all(void **state);
void test_share_once(void **state);
void test_share_nothing(void **state);
void test_share_many(void **state);
void test_share_folders(void **state);
void test_share_hostile(void **state);
void test_share_gone(void **state);
void test_share_read_only(void **state);
void test_share_too_large(void **state);
void test_share_full(void **state);
void test_share_race(void **state);
void test_share_threads(void **state);
void test_seed(void **state);
void test_infos(void **state);
void test_ranges(void **state);
void test_share_owner(void **state);
void test_failed_string(void **state);
void test_rounding(void **state);
void test_x87(void **state);

#endif
