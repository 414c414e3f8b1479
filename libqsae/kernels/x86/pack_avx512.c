/* SPDX-License-Identifier: BSD-2-Clause */
#include <immintrin.h>
#include <string.h>

#include "kernels/packed_parts.h"

#define AHEAD 512 /* bytes a row of weights is fetched before its use */

static inline __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

static inline __mmask16 is_nan(__m512i bits)
{
    const __m512 x = _mm512_castsi512_ps(bits);
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
}

/* The upper halves of 16 dwords. */
static inline __m256i high(__m512i u)
{
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16));
}

/* VCVTNEPS2BF16 would flush subnormals. */
static void round_step(const float *x, uint8_t *dst)
{
    for (int i = 0; i < 2; i++) {
        const __m512i u = load(x + 16 * i);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
        const __m512i quiet = _mm512_mask_or_epi32(up, is_nan(u), u, _mm512_set1_epi32(0x400000));
        _mm256_storeu_si256((__m256i *)(void *)(dst + 32 * i), high(quiet));
    }
}

/* Truncated to 8 bits of significand, what that leaves, and what that leaves: the differences are
 * exact. NaN and infinity stay whole. */
static void split_step(const float *x, uint8_t *dst, int64_t part)
{
    const __m512i top = _mm512_set1_epi32((int32_t)0xffff0000u);
    for (int i = 0; i < 2; i++) {
        const __m512i u = load(x + 16 * i);
        const __m512i magnitude = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
        const __mmask16 finite = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
        const __m512i p0 = _mm512_and_si512(u, top);
        const __m512 r1 = _mm512_maskz_sub_ps(finite, _mm512_castsi512_ps(u),
                                              _mm512_castsi512_ps(p0));
        const __m512i p1 = _mm512_and_si512(_mm512_castps_si512(r1), top);
        const __m512 r2 = _mm512_sub_ps(r1, _mm512_castsi512_ps(p1));
        const __m512i quiet = _mm512_mask_or_epi32(p0, is_nan(u), p0, _mm512_set1_epi32(0x400000));
        uint8_t *out = dst + 32 * i;
        _mm256_storeu_si256((__m256i *)(void *)out, high(quiet));
        _mm256_storeu_si256((__m256i *)(void *)(out + part), high(p1));
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * part), high(_mm512_castps_si512(r2)));
    }
}

static void transpose_step(const uint8_t *w, int64_t ld, uint8_t *dst)
{
    __m512i r[16], t[16];
    for (int j = 0; j < 16; j++) {
        r[j] = load(w + j * ld);
        _mm_prefetch((const char *)((uintptr_t)w + (uintptr_t)(j * ld + AHEAD)), _MM_HINT_T0);
    }
    for (int j = 0; j < 16; j += 2) { /* pairs of rows, then fours: 4 x 4 blocks in each lane */
        t[j] = _mm512_unpacklo_epi32(r[j], r[j + 1]);
        t[j + 1] = _mm512_unpackhi_epi32(r[j], r[j + 1]);
    }
    for (int j = 0; j < 16; j += 4) {
        r[j] = _mm512_unpacklo_epi64(t[j], t[j + 2]);
        r[j + 1] = _mm512_unpackhi_epi64(t[j], t[j + 2]);
        r[j + 2] = _mm512_unpacklo_epi64(t[j + 1], t[j + 3]);
        r[j + 3] = _mm512_unpackhi_epi64(t[j + 1], t[j + 3]);
    }
    for (int g = 0; g < 4; g++) { /* lane l of r[4 q + g]: group 4 l + g, columns from 4 q */
        const __m512i a = _mm512_shuffle_i32x4(r[g], r[4 + g], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(r[8 + g], r[12 + g], 0x88);
        const __m512i c = _mm512_shuffle_i32x4(r[g], r[4 + g], 0xdd);
        const __m512i d = _mm512_shuffle_i32x4(r[8 + g], r[12 + g], 0xdd);
        uint8_t *out = dst + g * 4 * QSAE__COLUMNS;
        _mm512_storeu_si512(out, _mm512_shuffle_i32x4(a, b, 0x88));
        _mm512_storeu_si512(out + 16 * QSAE__COLUMNS, _mm512_shuffle_i32x4(c, d, 0x88));
        _mm512_storeu_si512(out + 32 * QSAE__COLUMNS, _mm512_shuffle_i32x4(a, b, 0xdd));
        _mm512_storeu_si512(out + 48 * QSAE__COLUMNS, _mm512_shuffle_i32x4(c, d, 0xdd));
    }
}

static int32_t sum_codes(const int8_t *x, int64_t n)
{
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i sums = _mm512_setzero_si512(); /* of codes + 128 */
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_xor_si512(load(x + i), flip),
                                                      _mm512_setzero_si512()));
    int64_t sum = _mm512_reduce_add_epi64(sums) - 128 * i;
    for (; i < n; i++)
        sum += x[i];
    return (int32_t)sum;
}

#define PACK_OPS qsae__pack_avx512
#include "kernels/pack_impl.h"
