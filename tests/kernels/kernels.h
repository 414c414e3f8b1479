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
void test_pack_levels(void **state);
void test_pack_split_exact(void **state);
void test_packed_bf16_order(void **state);
void test_packed_bf16_cuts(void **state);
void test_packed_bf16_accuracy(void **state);
void test_packed_amx_bf16(void **state);
void test_packed_amx_s8(void **state);
void test_packed_amx_cuts(void **state);
void test_packed_amx_error(void **state);
void test_packed_amx_refused(void **state);
void test_packed_amx_product(void **state);
void test_packed_s8(void **state);
void test_packed_s8_start(void **state);
void test_packed_s8_cuts(void **state);
void test_packed_s8_longest(void **state);
void test_softmax(void **state);
void test_int8_rows(void **state);
void test_int8_scale(void **state);

#endif
