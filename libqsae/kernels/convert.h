/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_CONVERT_H
#define QSAE_KERNELS_CONVERT_H

#include "core/core.h"

/* n elements of dtype F32, F16, BF16, F64, I8, U8, I16, U16, I32, U32, I64 or BOOL at src (any
 * alignment) to f32. False for another dtype. */
bool qsae__to_f32(int32_t dtype, const void *src, int64_t n, float *dst);

/* n f32 to dtype F32, F16, BF16 or F64, one rounding. False for another dtype. */
bool qsae__from_f32(int32_t dtype, const float *src, int64_t n, void *dst);

/* Rounds n values in place to dtype (QSAE_F32: nothing; QSAE_BF16, QSAE_F16). */
void qsae__round(qsae_context *ctx, int32_t dtype, float *x, int64_t n);

/* Checks a caller's qsae_rows: struct_size, pointers, counts, stride, dtype in the mask
 * (bit 1 << dtype). QSAE_EINVAL naming `what`. */
int32_t qsae__rows_check(const qsae_rows *rows, const char *what, uint32_t dtypes);

/* Address of row r. */
const void *qsae__rows_at(const qsae_rows *rows, int64_t r);

#endif
