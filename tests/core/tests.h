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

#endif
