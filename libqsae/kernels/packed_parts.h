/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tables of packed.c are made of; each level's files give their part. */
#ifndef QSAE_KERNELS_PACKED_PARTS_H
#define QSAE_KERNELS_PACKED_PARTS_H

#include "kernels/packed.h"

extern const qsae__pack_ops qsae__pack_c;
void qsae__packed_s8_c(const qsae__packed_product *p);
#if defined(__x86_64__)
extern const qsae__pack_ops qsae__pack_avx2, qsae__pack_avx512;
void qsae__packed_s8_avx2(const qsae__packed_product *p);
void qsae__packed_s8_avx512(const qsae__packed_product *p);
void qsae__packed_s8_vnni(const qsae__packed_product *p);  /* left codes flipped */
void qsae__packed_s8_amx(const qsae__packed_product *p);
void qsae__packed_bf16_dp(const qsae__packed_product *p);  /* AVX-512 BF16 */
void qsae__packed_bf16_amx(const qsae__packed_product *p);
#endif

#endif
