/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_KERNELS_KERNELS_H
#define TESTS_KERNELS_KERNELS_H

void test_gemm_levels(void **state);
void test_gemm_sources(void **state);
void test_gemm_threads(void **state);
void test_gemm_blis(void **state);
void test_ops_accuracy(void **state);
void test_ops_levels(void **state);
void test_ops_special(void **state);
void test_half(void **state);
void test_convert(void **state);

#endif
