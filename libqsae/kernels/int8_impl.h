/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Body of int8.h at one level; OPS is the name of the table. The product is exact, so its order is
 * free: MR x NR dot products run side by side over STEP codes at a time.
 */
#include <float.h>
#include <string.h>

#include "kernels/int8.h"
#include "kernels/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))

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
    uint32_t t[16], s = 0; /* with BIAS the sum may wrap on the way */
    memcpy(t, &c, sizeof t);
    for (int i = 0; i < 16; i++)
        s += t[i];
    return (int32_t)s;
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
    uint32_t t[16], s = 0; /* with BIAS the sum may wrap on the way */
    memcpy(t, &c, sizeof t);
    for (int i = 0; i < 16; i++)
        s += t[i];
    return (int32_t)s;
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
        uint32_t off[NR]; /* may wrap, as the sum it is taken from */
        /* Rows beyond the end repeat the last one; their results are dropped. */
        for (int j = 0; j < NR; j++) {
            bp[j] = b + (j0 + j < n ? j0 + j : n - 1) * ldb;
            off[j] = BIAS ? BIAS * (uint32_t)sum_s8(bp[j], k) : 0;
        }
        for (int64_t i0 = 0; i0 < m; i0 += MR) {
            const int8_t *ap[MR];
            int32_t out[MR][NR];
            for (int i = 0; i < MR; i++)
                ap[i] = a + (i0 + i < m ? i0 + i : m - 1) * lda;
            block(ap, bp, k, out);
            for (int i = 0; i < MR && i0 + i < m; i++)
                for (int j = 0; j < NR && j0 + j < n; j++)
                    c[(i0 + i) * ldc + j0 + j] = (int32_t)((uint32_t)out[i][j] - off[j]);
        }
    }
}

/*
 * Vectors of the level's own width: gcc 12 takes comparisons of wider ones apart into elements. No
 * operation here crosses elements but maxima, whose order is free.
 */
#if defined(__AVX512BW__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t vu __attribute__((vector_size(4 * WIDTH)));
typedef int8_t vb __attribute__((vector_size(WIDTH)));

/* x[i..i+WIDTH], padded from n on. */
INLINE vf load(const float *x, int64_t i, int64_t n, float pad)
{
    vf v;
    if (i + WIDTH > n) {
        v = (vf){ 0 } + pad;
        memcpy(&v, x + i, (size_t)(n - i) * sizeof *x);
    } else {
        memcpy(&v, x + i, sizeof v);
    }
    return v;
}

/* Low bytes of v to p[i..], at most up to n. */
INLINE void store_bytes(void *p, int64_t i, int64_t n, vi v)
{
    const vb b = __builtin_convertvector(v, vb);
    if (i + WIDTH > n)
        memcpy((char *)p + i, &b, (size_t)(n - i));
    else
        memcpy((char *)p + i, &b, sizeof b);
}

INLINE vi magnitude(vf x)
{
    return (vi)x & 0x7fffffff;
}

INLINE vi pick(vi mask, vi a, vi b)
{
    return (a & mask) | (b & ~mask);
}

static void round_f16(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += WIDTH) {
        const vf v = load(x, i, n, 0.0f);
        const vi a = magnitude(v), sign = (vi)v & ~0x7fffffff;
        /* of NaN this wraps; it is replaced below */
        const vi normal = (vi)((vu)a + 0xfffu + (((vu)a >> 13) & 1u)) & ~0x1fff;
        const vf small = ((vf)a + 0.5f) - 0.5f; /* leaves a multiple of 2^-24 */
        vi y = pick(a < 0x38800000, (vi)small, normal);
        y = pick(a >= 0x477ff000, (vi){ 0 } + 0x7f800000, y);
        y = pick(a > 0x7f800000, (a & ~0x1fff) | 0x7fc00000, y) | sign;
        if (i + WIDTH > n)
            memcpy(x + i, &y, (size_t)(n - i) * sizeof *x);
        else
            memcpy(x + i, &y, sizeof y);
    }
}

static void quantize(const float *x, float scale, int8_t *q, int64_t n)
{
    for (int64_t i = 0; i < n; i += WIDTH) {
        const vf p = load(x, i, n, 0.0f) * scale;
        /* The sum's low bits are the nearest integer, ties to even. */
        const vi whole = (vi)(p + 12582912.0f) - 0x4b400000;
        store_bytes(q, i, n, whole & (vi)(p == p));
    }
}

/* Magnitudes compare like integers; -1 stands for none. */
INLINE int32_t largest(vi m)
{
    int32_t best = m[0];
    for (int i = 1; i < WIDTH; i++)
        best = m[i] > best ? m[i] : best;
    return best;
}

static float absmax_below(const float *x, float limit, int64_t n)
{
    vi m = { 0 };
    for (int64_t i = 0; i < n; i += WIDTH) {
        const vi a = magnitude(load(x, i, n, 0.0f)), kept = a & (vi)((vf)a < limit);
        m = pick(kept > m, kept, m);
    }
    return qsae__f32_from_bits((uint32_t)largest(m));
}

static float absmax(const float *x, int64_t n)
{
    vi m = (vi){ 0 } - 1;
    for (int64_t i = 0; i < n; i += WIDTH) {
        const vf v = load(x, i, n, __builtin_nanf(""));
        const vi a = magnitude(v) | (vi)(v != v);
        m = pick(a > m, a, m);
    }
    const int32_t best = largest(m);
    return best < 0 ? -FLT_MAX : qsae__f32_from_bits((uint32_t)best);
}

static void count_below(const float *x, float scale, const float *t, int n_t, uint8_t *code,
                        int64_t n)
{
    int64_t i = 0;
    /* Four vectors side by side: a threshold is spread once for all. */
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        vf u[4];
        vi count[4];
        for (int v = 0; v < 4; v++) {
            u[v] = load(x, i + v * WIDTH, n, 0.0f) * scale;
            count[v] = (vi){ 0 };
        }
        for (int k = 0; k < n_t; k++)
            for (int v = 0; v < 4; v++)
                count[v] -= (vi)(u[v] > t[k]);
        for (int v = 0; v < 4; v++)
            store_bytes(code, i + v * WIDTH, n, count[v]);
    }
    for (; i < n; i += WIDTH) {
        const vf u = load(x, i, n, 0.0f) * scale;
        vi count = { 0 };
        for (int k = 0; k < n_t; k++)
            count -= (vi)(u > t[k]);
        store_bytes(code, i, n, count);
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
