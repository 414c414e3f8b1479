/* SPDX-License-Identifier: BSD-2-Clause */
#include <immintrin.h>
#include <string.h>

#include "kernels/packed_parts.h"

/* The upper halves of 16 dwords, in order. */
static inline __m256i high(__m256i lo, __m256i hi)
{
    const __m256i both = _mm256_packus_epi32(_mm256_srli_epi32(lo, 16), _mm256_srli_epi32(hi, 16));
    return _mm256_permute4x64_epi64(both, 0xd8);
}

static inline __m256i is_nan(__m256i bits)
{
    const __m256 x = _mm256_castsi256_ps(bits);
    return _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/* bf16 in the upper half: a quiet NaN keeps its upper bits. */
static inline __m256i rounded(const float *x)
{
    const __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(up, quiet, is_nan(u));
}

static void round_step(const float *x, uint8_t *dst)
{
    for (int i = 0; i < 2; i++)
        _mm256_storeu_si256((__m256i *)(void *)(dst + 32 * i),
                            high(rounded(x + 16 * i), rounded(x + 16 * i + 8)));
}

/* part[0..3]: 8 values truncated to 8 bits of significand, what that leaves, and what that leaves;
 * both differences are exact. Not of NaN and infinity, which stay whole. */
static inline void split8(const float *x, __m256i part[3])
{
    const __m256i top = _mm256_set1_epi32((int32_t)0xffff0000u);
    const __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)x);
    const __m256i infinity = _mm256_set1_epi32(0x7f800000);
    const __m256i finite = _mm256_cmpgt_epi32(
        infinity, _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff)));
    const __m256i quiet = _mm256_and_si256(is_nan(u), _mm256_set1_epi32(0x400000));
    part[0] = _mm256_or_si256(_mm256_and_si256(u, top), quiet);
    const __m256 r1 = _mm256_sub_ps(_mm256_castsi256_ps(u), _mm256_castsi256_ps(part[0]));
    const __m256i b1 = _mm256_and_si256(_mm256_castps_si256(r1), finite);
    part[1] = _mm256_and_si256(b1, top);
    part[2] = _mm256_castps_si256(
        _mm256_sub_ps(_mm256_castsi256_ps(b1), _mm256_castsi256_ps(part[1])));
}

static void split_step(const float *x, uint8_t *dst, int64_t part)
{
    for (int i = 0; i < 2; i++) {
        __m256i lo[3], hi[3];
        split8(x + 16 * i, lo);
        split8(x + 16 * i + 8, hi);
        for (int p = 0; p < 3; p++)
            _mm256_storeu_si256((__m256i *)(void *)(dst + p * part + 32 * i), high(lo[p], hi[p]));
    }
}

/* 8 rows of 8 dwords. */
static inline void transpose8x8(const uint8_t *w, int64_t ld, uint8_t *dst)
{
    __m256i r[8], t[8];
    for (int j = 0; j < 8; j++)
        r[j] = _mm256_loadu_si256((const __m256i *)(const void *)(w + j * ld));
    for (int j = 0; j < 4; j++) {
        t[2 * j] = _mm256_unpacklo_epi32(r[2 * j], r[2 * j + 1]);
        t[2 * j + 1] = _mm256_unpackhi_epi32(r[2 * j], r[2 * j + 1]);
    }
    for (int j = 0; j < 2; j++) {
        r[4 * j] = _mm256_unpacklo_epi64(t[4 * j], t[4 * j + 2]);
        r[4 * j + 1] = _mm256_unpackhi_epi64(t[4 * j], t[4 * j + 2]);
        r[4 * j + 2] = _mm256_unpacklo_epi64(t[4 * j + 1], t[4 * j + 3]);
        r[4 * j + 3] = _mm256_unpackhi_epi64(t[4 * j + 1], t[4 * j + 3]);
    }
    for (int j = 0; j < 4; j++) {
        uint8_t *out = dst + j * 4 * QSAE__COLUMNS;
        _mm256_storeu_si256((__m256i *)(void *)out,
                            _mm256_permute2x128_si256(r[j], r[j + 4], 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(out + 16 * QSAE__COLUMNS),
                            _mm256_permute2x128_si256(r[j], r[j + 4], 0x31));
    }
}

static void transpose_step(const uint8_t *w, int64_t ld, uint8_t *dst)
{
    for (int j = 0; j < 2; j++)
        for (int g = 0; g < 2; g++)
            transpose8x8(w + 8 * j * ld + 32 * g, ld, dst + 32 * j + 8 * g * 4 * QSAE__COLUMNS);
}

static int32_t sum_codes(const int8_t *x, int64_t n)
{
    const __m256i flip = _mm256_set1_epi8(-128);
    __m256i sums = _mm256_setzero_si256(); /* of codes + 128 */
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_xor_si256(v, flip),
                                                      _mm256_setzero_si256()));
    }
    int64_t lane[4];
    memcpy(lane, &sums, sizeof lane);
    int64_t sum = lane[0] + lane[1] + lane[2] + lane[3] - 128 * i;
    for (; i < n; i++)
        sum += x[i];
    return (int32_t)sum;
}

#define PACK_OPS qsae__pack_avx2
#include "kernels/pack_impl.h"
