/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Body of int8.h at one level; OPS is the name of the table. The product is exact, so its order is
 * free: MR x NR dot products run side by side over STEP codes at a time.
 */
#include <float.h>

#include "kernels/int8.h"
#include "kernels/lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512VNNI__)
/* vpdpbusd takes unsigned times signed: a is moved up by 128, which BIAS takes off again. */
#define MR 4
#define NR 4
#define STEP 64
#define BIAS 128
typedef __m512i acc_t, row_t;
INLINE row_t load_a(const int8_t *p)
{
    return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80));
}
INLINE row_t load_b(const int8_t *p)
{
    return _mm512_loadu_si512(p);
}
INLINE acc_t multiply_add(acc_t c, row_t a, row_t b)
{
    return _mm512_dpbusd_epi32(c, a, b);
}
INLINE acc_t zero(void)
{
    return _mm512_setzero_si512();
}
INLINE int32_t fold(acc_t c)
{
    return _mm512_reduce_add_epi32(c);
}
#elif defined(__AVX512BW__)
#define MR 4
#define NR 4
#define STEP 32
typedef __m512i acc_t, row_t;
INLINE row_t load_a(const int8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE row_t load_b(const int8_t *p)
{
    return load_a(p);
}
INLINE acc_t multiply_add(acc_t c, row_t a, row_t b)
{
    return _mm512_add_epi32(c, _mm512_madd_epi16(a, b));
}
INLINE acc_t zero(void)
{
    return _mm512_setzero_si512();
}
INLINE int32_t fold(acc_t c)
{
    return _mm512_reduce_add_epi32(c);
}
#elif defined(__AVX2__)
#define MR 2
#define NR 4
#define STEP 16
typedef __m256i acc_t, row_t;
INLINE row_t load_a(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE row_t load_b(const int8_t *p)
{
    return load_a(p);
}
INLINE acc_t multiply_add(acc_t c, row_t a, row_t b)
{
    return _mm256_add_epi32(c, _mm256_madd_epi16(a, b));
}
INLINE acc_t zero(void)
{
    return _mm256_setzero_si256();
}
INLINE int32_t fold(acc_t c)
{
    int32_t t[8], s = 0;
    memcpy(t, &c, sizeof t);
    for (int i = 0; i < 8; i++)
        s += t[i];
    return s;
}
#else
#define MR 2
#define NR 2
#define STEP 16
typedef int16_t row_t __attribute__((vector_size(32)));
typedef int32_t acc_t __attribute__((vector_size(64)));
INLINE row_t load_a(const int8_t *p)
{
    typedef int8_t s8 __attribute__((vector_size(16)));
    s8 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, row_t);
}
INLINE row_t load_b(const int8_t *p)
{
    return load_a(p);
}
INLINE acc_t multiply_add(acc_t c, row_t a, row_t b)
{
    return c + __builtin_convertvector(a * b, acc_t); /* 127 * 127 fits int16 */
}
INLINE acc_t zero(void)
{
    return (acc_t){ 0 };
}
INLINE int32_t fold(acc_t c)
{
    int32_t s = 0;
    for (int i = 0; i < STEP; i++)
        s += c[i];
    return s;
}
#endif
#ifndef BIAS
#define BIAS 0
#endif

/* Sum of a row's codes. */
INLINE int32_t sum_s8(const int8_t *b, int64_t k)
{
    int32_t s = 0;
    for (int64_t i = 0; i < k; i++)
        s += b[i];
    return s;
}

/* out[i][j] = a[i] . b[j] + BIAS sum(b[j]) */
INLINE void block(const int8_t *const *a, const int8_t *const *b, int64_t k, int32_t out[MR][NR])
{
    acc_t acc[MR][NR];
    row_t av[MR];
    int8_t part[MR + NR][STEP];
    int64_t kk = 0;
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++)
            acc[i][j] = zero();
    for (; kk + STEP <= k; kk += STEP) {
        for (int i = 0; i < MR; i++)
            av[i] = load_a(a[i] + kk);
        for (int j = 0; j < NR; j++) {
            const row_t bv = load_b(b[j] + kk);
            for (int i = 0; i < MR; i++)
                acc[i][j] = multiply_add(acc[i][j], av[i], bv);
        }
    }
    if (kk < k) {
        memset(part, 0, sizeof part);
        for (int i = 0; i < MR; i++) {
            memcpy(part[i], a[i] + kk, (size_t)(k - kk));
            av[i] = load_a(part[i]);
        }
        for (int j = 0; j < NR; j++) {
            memcpy(part[MR + j], b[j] + kk, (size_t)(k - kk));
            const row_t bv = load_b(part[MR + j]);
            for (int i = 0; i < MR; i++)
                acc[i][j] = multiply_add(acc[i][j], av[i], bv);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++)
            out[i][j] = fold(acc[i][j]);
}

static void gemm_s8(int64_t m, int64_t n, int64_t k, const int8_t *a, int64_t lda, const int8_t *b,
                    int64_t ldb, int32_t *c, int64_t ldc)
{
    for (int64_t j0 = 0; j0 < n; j0 += NR) {
        const int8_t *bp[NR];
        int32_t off[NR];
        /* Rows beyond the end repeat the last one; their results are dropped. */
        for (int j = 0; j < NR; j++) {
            bp[j] = b + (j0 + j < n ? j0 + j : n - 1) * ldb;
            off[j] = BIAS ? BIAS * sum_s8(bp[j], k) : 0;
        }
        for (int64_t i0 = 0; i0 < m; i0 += MR) {
            const int8_t *ap[MR];
            int32_t out[MR][NR];
            for (int i = 0; i < MR; i++)
                ap[i] = a + (i0 + i < m ? i0 + i : m - 1) * lda;
            block(ap, bp, k, out);
            for (int i = 0; i < MR && i0 + i < m; i++)
                for (int j = 0; j < NR && j0 + j < n; j++)
                    c[(i0 + i) * ldc + j0 + j] = (int32_t)((uint32_t)out[i][j] - (uint32_t)off[j]);
        }
    }
}

INLINE v16 v_abs(v16 x)
{
    return (v16)((u16v)x & 0x7fffffffu);
}

INLINE v16 v_round_f16(v16 x)
{
    const u16v u = (u16v)x, sign = u & 0x80000000u, a = u & 0x7fffffffu;
    const u16v normal = (a + 0xfffu + ((a >> 13) & 1u)) & 0xffffe000u;
    const v16 small = ((v16)a + 0.5f) - 0.5f; /* leaves a multiple of 2^-24 */
    const u16v inf = (u16v){ 0 } + 0x7f800000u;
    v16 y = v_select((i16)(a < 0x38800000u), small, (v16)normal);
    y = v_select((i16)(a >= 0x477ff000u), (v16)inf, y);
    y = v_select((i16)(a > 0x7f800000u), (v16)((a & 0xffffe000u) | 0x7fc00000u), y);
    return (v16)((u16v)y | sign);
}

static void round_f16(float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(x + i, v_round_f16(v_load(x + i)));
    if (i < n)
        v_store_part(x + i, v_round_f16(v_load_part(x + i, n - i, 0.0f)), n - i);
}

typedef int8_t b16 __attribute__((vector_size(16)));
typedef uint8_t ub16 __attribute__((vector_size(16)));

static void quantize(const float *x, float scale, int8_t *q, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t part = n - i < LANES ? n - i : LANES;
        const v16 p = (part == LANES ? v_load(x + i) : v_load_part(x + i, part, 0.0f)) * scale;
        /* The sum's low bits are the nearest integer, ties to even. */
        const i16 whole = (i16)(p + 12582912.0f) - 0x4b400000;
        const b16 code = __builtin_convertvector(whole & (p == p), b16);
        memcpy(q + i, &code, (size_t)part);
    }
}

/* Magnitudes compare like integers: no NaN in between, and the maximum does not depend on order. */
INLINE float v_max(i16 m)
{
    int32_t best = m[0];
    float f;
    for (int i = 1; i < LANES; i++)
        best = m[i] > best ? m[i] : best;
    memcpy(&f, &best, sizeof f);
    return f;
}

static float absmax_below(const float *x, float limit, int64_t n)
{
    i16 m = { 0 };
    for (int64_t i = 0; i < n; i += LANES) {
        const v16 v = v_abs(n - i < LANES ? v_load_part(x + i, n - i, 0.0f) : v_load(x + i));
        const i16 a = (i16)v & (v < limit);
        m = (a & (a > m)) | (m & ~(a > m));
    }
    return v_max(m);
}

static float absmax(const float *x, int64_t n)
{
    i16 m = (i16){ 0 } - 1;
    for (int64_t i = 0; i < n; i += LANES) {
        const v16 v = v_abs(n - i < LANES ? v_load_part(x + i, n - i, __builtin_nanf("")) : v_load(x + i));
        const i16 a = (i16)v | (v != v);
        m = (a & (a > m)) | (m & ~(a > m));
    }
    int32_t best = m[0];
    for (int i = 1; i < LANES; i++)
        best = m[i] > best ? m[i] : best;
    return best < 0 ? -FLT_MAX : v_max(m);
}

static void count_below(const float *x, float scale, const float *t, int n_t, uint8_t *code, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t part = n - i < LANES ? n - i : LANES;
        const v16 u = (part == LANES ? v_load(x + i) : v_load_part(x + i, part, 0.0f)) * scale;
        i16 count = { 0 };
        for (int k = 0; k < n_t; k++)
            count -= u > v_set(t[k]);
        const ub16 c = __builtin_convertvector(count, ub16);
        memcpy(code + i, &c, (size_t)part);
    }
}

const qsae__int8_ops OPS = {
    .gemm_s8 = gemm_s8,
    .round_f16 = round_f16,
    .quantize = quantize,
    .absmax_below = absmax_below,
    .absmax = absmax,
    .count_below = count_below,
};
