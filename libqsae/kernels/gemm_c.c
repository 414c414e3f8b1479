/* SPDX-License-Identifier: BSD-2-Clause */
/* The definition of the f32 product. */
#include <math.h>

#include "kernels/gemm_kernels.h"

static void block(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda, const float *tile,
                  float *c, int64_t ldc, bool add)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t n0 = 0; n0 < n; n0 += QSAE__PANEL) {
            const float *panel = tile + n0 * kb;
            const int64_t cols = qsae__min_i64(n - n0, QSAE__PANEL);
            float acc[QSAE__PANEL] = { 0 };
            for (int64_t k = 0; k < kb; k++)
                for (int64_t j = 0; j < cols; j++)
                    acc[j] = fmaf(a[i * lda + k], panel[k * QSAE__PANEL + j], acc[j]);
            float *out = c + i * ldc + n0;
            for (int64_t j = 0; j < cols; j++)
                out[j] = add ? out[j] + acc[j] : acc[j];
        }
}

static void transpose8(const float *src, int64_t ld, int64_t kb, float *dst, int64_t stride)
{
    for (int64_t j = 0; j < 8; j++)
        for (int64_t k = 0; k < kb; k++)
            dst[k * stride + j] = src[j * ld + k];
}

const qsae__gemm_kernel qsae__gemm_kernel_c = { block, transpose8 };
