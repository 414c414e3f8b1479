/* SPDX-License-Identifier: BSD-2-Clause */
/* f32 product for AVX-512: 14 x 32 accumulators in registers, two per row of a 32-column panel. */
#include <immintrin.h>
#include <string.h>

#include "kernels/gemm.h"
#include "kernels/gemm_kernels.h"
#include "kernels/x86/transpose.h"

#define MR 14

/* rows <= MR is a constant at every call, so that acc lives in registers. */
static inline __attribute__((always_inline)) void micro(const int rows, int64_t kb, const float *a,
                                                        int64_t lda, const float *b, float *c,
                                                        int64_t ldc, int64_t cols, bool add)
{
    __m512 acc[MR][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < kb; k++) {
        const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
        b += QSAE__PANEL;
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            const __m512 v = _mm512_set1_ps(a[r * lda + k]);
            acc[r][0] = _mm512_fmadd_ps(v, b0, acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(v, b1, acc[r][1]);
        }
    }
    const uint32_t mask = cols >= 32 ? 0xffffffffu : (1u << cols) - 1;
    const __mmask16 m0 = (__mmask16)mask, m1 = (__mmask16)(mask >> 16);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        float *out = c + r * ldc;
        if (add) {
            acc[r][0] = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, out), acc[r][0]);
            acc[r][1] = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, out + 16), acc[r][1]);
        }
        _mm512_mask_storeu_ps(out, m0, acc[r][0]);
        _mm512_mask_storeu_ps(out + 16, m1, acc[r][1]);
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
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
        CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
#undef CASE
    default:
        break;
    }
}

static void block(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda, const float *tile,
                  float *c, int64_t ldc, bool add)
{
    /* Rows a multiple of 4 KiB apart fall into one cache set: copy such rows together. */
    float near[MR * (QSAE__GEMM_KB + 16)];
    const bool copy = lda % 1024 == 0 && n > QSAE__PANEL;
    for (int64_t i = 0; i < m; i += MR) {
        const int rows = (int)qsae__min_i64(m - i, MR);
        const float *ai = a + i * lda;
        int64_t ld = lda;
        if (copy) {
            ld = QSAE__GEMM_KB + 16;
            for (int r = 0; r < rows; r++)
                memcpy(near + r * ld, ai + r * lda, (size_t)kb * sizeof(float));
            ai = near;
        }
        for (int64_t n0 = 0; n0 < n; n0 += QSAE__PANEL)
            rows_of(rows, kb, ai, ld, tile + n0 * kb, c + i * ldc + n0, ldc, n - n0, add);
    }
}

const qsae__gemm_kernel qsae__gemm_kernel_avx512 = { block, transpose8 };
