/* SPDX-License-Identifier: BSD-2-Clause */
/* f32 product for AVX2 and FMA: 6 x 16 accumulators in registers, half a panel at a time. */
#include <immintrin.h>
#include <string.h>

#include "kernels/gemm.h"
#include "kernels/gemm_kernels.h"
#include "kernels/x86/transpose.h"

#define MR 6

static inline __attribute__((always_inline)) void micro(const int rows, int64_t kb, const float *a,
                                                        int64_t lda, const float *b, float *c,
                                                        int64_t ldc, int64_t cols, bool add)
{
    __m256 acc[MR][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (int64_t k = 0; k < kb; k++) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
        b += QSAE__PANEL;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m256 v = _mm256_set1_ps(a[r * lda + k]);
            acc[r][0] = _mm256_fmadd_ps(v, b0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(v, b1, acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        float *out = c + r * ldc;
        if (cols >= 16) {
            if (add) {
                acc[r][0] = _mm256_add_ps(_mm256_loadu_ps(out), acc[r][0]);
                acc[r][1] = _mm256_add_ps(_mm256_loadu_ps(out + 8), acc[r][1]);
            }
            _mm256_storeu_ps(out, acc[r][0]);
            _mm256_storeu_ps(out + 8, acc[r][1]);
        } else {
            float part[16];
            _mm256_storeu_ps(part, acc[r][0]);
            _mm256_storeu_ps(part + 8, acc[r][1]);
            for (int64_t j = 0; j < cols; j++)
                out[j] = add ? out[j] + part[j] : part[j];
        }
    }
}

static void rows_of(int rows, int64_t kb, const float *a, int64_t lda, const float *b, float *c,
                    int64_t ldc, int64_t cols, bool add)
{
    switch (rows) {
#define CASE(n) \
    case n: \
        micro(n, kb, a, lda, b, c, ldc, cols, add); \
        break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
    default:
        break;
    }
}

/* As many rows of the left operand as stay near while half a panel, in the first cache, passes. */
#define ROWS 48

static void block(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda, const float *tile,
                  float *c, int64_t ldc, bool add)
{
    for (int64_t i0 = 0; i0 < m; i0 += ROWS) {
        const int64_t i1 = qsae__min_i64(m, i0 + ROWS);
        for (int64_t n0 = 0; n0 < n; n0 += 16) {
            const float *b = tile + n0 / QSAE__PANEL * QSAE__PANEL * kb + n0 % QSAE__PANEL;
            for (int64_t i = i0; i < i1; i += MR)
                rows_of((int)qsae__min_i64(i1 - i, MR), kb, a + i * lda, lda, b,
                        c + i * ldc + n0, ldc, n - n0, add);
        }
    }
}

const qsae__gemm_kernel qsae__gemm_kernel_avx2 = { block, transpose8 };
