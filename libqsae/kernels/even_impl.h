/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of even.h at one level; OPS is the name of the table. */
#include "kernels/lanes.h"

typedef uint8_t b16 __attribute__((vector_size(16)));

/* Low bytes of integers in [-128, 255]. */
INLINE b16 narrow8(v16 v)
{
#if defined(__AVX512BW__)
    return (b16)_mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)v));
#elif defined(__AVX2__)
    __m256 part[2];
    memcpy(part, &v, sizeof part);
    const __m256i words = _mm256_and_si256(
        _mm256_packs_epi32(_mm256_cvttps_epi32(part[0]), _mm256_cvttps_epi32(part[1])),
        _mm256_set1_epi16(255));
    const __m256i order = _mm256_permute4x64_epi64(words, 0xd8);
    return (b16)_mm_packus_epi16(_mm256_castsi256_si128(order),
                                 _mm256_extracti128_si256(order, 1));
#else
    b16 b;
    for (int i = 0; i < LANES; i++)
        b[i] = (uint8_t)(int32_t)v[i];
    return b;
#endif
}

INLINE v16 v_rounded(int32_t dtype, v16 v)
{
    if (dtype == QSAE_BF16)
        return v_round_bf16(v);
    if (dtype == QSAE_F16)
        for (int i = 0; i < LANES; i++)
            v[i] = qsae__round_f16(v[i]);
    return v;
}

/* Adding 1.5 * 2^23 leaves the nearest integer in the low bits; what is too large for that is
 * clamped anyway. */
INLINE b16 code16(const qsae__even *g, int32_t dtype, v16 x, v16 scale, v16 zero)
{
    const v16 magic = v_set(12582912.0f);
    const v16 n = v_rounded(dtype, x / scale) + magic - magic;
    v16 v = v_max(v_rounded(dtype, n + zero), v_set(g->low));
    v = -v_max(-v, v_set(-g->high));
    return narrow8(v_select(v_nan(n), zero, v));
}

/* dtype and vary are constants in each copy. */
INLINE void run(const qsae__even *g, const float *x, int64_t n, int32_t dtype, bool vary,
                uint8_t *codes)
{
    v16 scale = v_set(vary ? 1 : g->scale[0]), zero = v_set(vary || !g->zero ? 0 : g->zero[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        if (vary) {
            scale = v_load(g->scale + i);
            zero = g->zero ? v_load(g->zero + i) : zero;
        }
        const b16 b = code16(g, dtype, v_load(x + i), scale, zero);
        memcpy(codes + i, &b, sizeof b);
    }
    if (i < n) {
        if (vary) {
            scale = v_load_part(g->scale + i, n - i, 1);
            zero = g->zero ? v_load_part(g->zero + i, n - i, 0) : zero;
        }
        const b16 b = code16(g, dtype, v_load_part(x + i, n - i, 0), scale, zero);
        memcpy(codes + i, &b, (size_t)(n - i));
    }
}

static void codes(const qsae__even *g, const float *x, int64_t n, uint8_t *out)
{
    if (g->dtype == QSAE_F16)
        run(g, x, n, QSAE_F16, g->stride != 0, out);
    else if (g->dtype == QSAE_BF16 && g->stride)
        run(g, x, n, QSAE_BF16, true, out);
    else if (g->dtype == QSAE_BF16)
        run(g, x, n, QSAE_BF16, false, out);
    else if (g->stride)
        run(g, x, n, QSAE_F32, true, out);
    else
        run(g, x, n, QSAE_F32, false, out);
}

/* v_max takes its second operand where either is NaN, or where both are zeros. */
static void range(const float *x, int64_t n, float *min, float *max)
{
    v16 high = v_set(*max), low = v_set(-*min);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = v_load(x + i);
        high = v_max(v, high);
        low = v_max(-v, low);
    }
    if (i < n) {
        high = v_max(v_load_part(x + i, n - i, *max), high);
        low = v_max(-v_load_part(x + i, n - i, *min), low);
    }
    *max = v_fold_max(high);
    *min = 0 - v_fold_max(low); /* no -0 */
}

static void ranges(const float *x, int64_t n, float *min, float *max)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = v_load(x + i);
        v_store(max + i, v_max(v, v_load(max + i)));
        v_store(min + i, v_set(0) - v_max(-v, -v_load(min + i)));
    }
    for (; i < n; i++) {
        max[i] = x[i] > max[i] ? x[i] : max[i];
        min[i] = x[i] < min[i] ? x[i] : min[i];
    }
}

const qsae__even_ops OPS = { .range = range, .ranges = ranges, .codes = codes };
