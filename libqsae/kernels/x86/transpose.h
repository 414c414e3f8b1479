/* SPDX-License-Identifier: BSD-2-Clause */
/* 8 x 8 transposition of floats with AVX, shared by the levels that have it. */
#ifndef QSAE_KERNELS_X86_TRANSPOSE_H
#define QSAE_KERNELS_X86_TRANSPOSE_H

#include <immintrin.h>
#include <stdint.h>

static void transpose8(const float *src, int64_t ld, int64_t kb, float *dst, int64_t stride)
{
    int64_t k = 0;
    for (; k + 8 <= kb; k += 8) {
        __m256 r[8], t[8];
        for (int j = 0; j < 8; j++)
            r[j] = _mm256_loadu_ps(src + j * ld + k);
        for (int j = 0; j < 4; j++) {
            t[2 * j] = _mm256_unpacklo_ps(r[2 * j], r[2 * j + 1]);
            t[2 * j + 1] = _mm256_unpackhi_ps(r[2 * j], r[2 * j + 1]);
        }
        for (int j = 0; j < 2; j++) {
            r[4 * j] = _mm256_shuffle_ps(t[4 * j], t[4 * j + 2], 0x44);
            r[4 * j + 1] = _mm256_shuffle_ps(t[4 * j], t[4 * j + 2], 0xee);
            r[4 * j + 2] = _mm256_shuffle_ps(t[4 * j + 1], t[4 * j + 3], 0x44);
            r[4 * j + 3] = _mm256_shuffle_ps(t[4 * j + 1], t[4 * j + 3], 0xee);
        }
        for (int j = 0; j < 4; j++) {
            float *out = dst + (k + j) * stride;
            _mm256_storeu_ps(out, _mm256_permute2f128_ps(r[j], r[j + 4], 0x20));
            _mm256_storeu_ps(out + 4 * stride, _mm256_permute2f128_ps(r[j], r[j + 4], 0x31));
        }
    }
    for (; k < kb; k++)
        for (int j = 0; j < 8; j++)
            dst[k * stride + j] = src[j * ld + k];
}

#endif
