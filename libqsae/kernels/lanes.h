/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vectors of QSAE__LANES floats in the compiler's generic vector types: the same operations at
 * every level, lowered to whatever registers the level has. Only for files compiled per level.
 */
#ifndef QSAE_KERNELS_LANES_H
#define QSAE_KERNELS_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FMA__)
#include <immintrin.h>
#endif

#include "kernels/kernels.h"

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef double d16 __attribute__((vector_size(128)));

#define LANES QSAE__LANES
#define INLINE static inline __attribute__((always_inline, unused))

INLINE v16 v_set(float x)
{
    return (v16){ x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x };
}

INLINE v16 v_load(const float *p)
{
    v16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void v_store(float *p, v16 v)
{
    memcpy(p, &v, sizeof v);
}

/* First n lanes from p, the rest pad. */
INLINE v16 v_load_part(const float *p, int64_t n, float pad)
{
    v16 v = v_set(pad);
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}

INLINE void v_store_part(float *p, v16 v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof(float));
}

/* mask lanes are 0 or -1 */
INLINE v16 v_select(i16 mask, v16 a, v16 b)
{
    return (v16)(((i16)a & mask) | ((i16)b & ~mask));
}

/* Comparisons of vectors wider than a register are taken apart lane by lane (gcc 12), so they are
 * made in registers of the level's own width. */
#if defined(__AVX512F__)
#define NATIVE 64
#elif defined(__AVX2__)
#define NATIVE 32
#else
#define NATIVE 16
#endif
typedef float vn __attribute__((vector_size(NATIVE)));
typedef int32_t in __attribute__((vector_size(NATIVE)));

/* -1 where a < b, else 0. */
INLINE i16 v_less(v16 a, v16 b)
{
    vn x[64 / NATIVE], y[64 / NATIVE];
    in r[64 / NATIVE];
    i16 mask;
    memcpy(x, &a, sizeof a);
    memcpy(y, &b, sizeof b);
    for (int i = 0; i < 64 / NATIVE; i++)
        r[i] = x[i] < y[i];
    memcpy(&mask, r, sizeof mask);
    return mask;
}

/* a > b ? a : b per lane: b where either is NaN. */
INLINE vn n_max(vn a, vn b)
{
#if defined(__AVX512F__)
    return (vn)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vn)_mm256_max_ps((__m256)a, (__m256)b);
#else
    const in mask = b < a;
    return (vn)(((in)a & mask) | ((in)b & ~mask));
#endif
}

INLINE v16 v_max(v16 a, v16 b)
{
    vn x[64 / NATIVE], y[64 / NATIVE];
    memcpy(x, &a, sizeof a);
    memcpy(y, &b, sizeof b);
    for (int i = 0; i < 64 / NATIVE; i++)
        x[i] = n_max(x[i], y[i]);
    memcpy(&a, x, sizeof a);
    return a;
}

/* Bit l is set where a[l] == b[l]. */
INLINE uint32_t v_equal_bits(v16 a, v16 b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
#elif defined(__AVX2__)
    __m256 x[2], y[2];
    memcpy(x, &a, sizeof a);
    memcpy(y, &b, sizeof b);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x[0], y[0], _CMP_EQ_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x[1], y[1], _CMP_EQ_OQ)) << 8;
#else
    uint32_t bits = 0;
    for (int l = 0; l < LANES; l++)
        bits |= (uint32_t)(a[l] == b[l]) << l;
    return bits;
#endif
}

/* -1 where x is NaN: its magnitude bits are above infinity's. */
INLINE i16 v_nan(v16 x)
{
    return (0x7f800000 - ((i16)x & 0x7fffffff)) >> 31;
}

/* Rounded to bf16. No value is NaN. */
INLINE v16 v_round_bf16_number(v16 x)
{
    const u16v u = (u16v)x;
#if defined(__AVX512F__)
    const __m512i half = _mm512_set1_epi32(0x7fff), last = _mm512_set1_epi32(0x10000);
    const __m512i up = _mm512_add_epi32((__m512i)u, half);
    const __mmask16 odd = _mm512_test_epi32_mask((__m512i)u, last);
    const __m512i even = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
    return (v16)_mm512_and_si512(even, _mm512_set1_epi32((int32_t)0xffff0000u));
#else
    return (v16)((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
#endif
}

/* Rounded to bf16; NaN stays NaN, and is made quiet. */
INLINE v16 v_round_bf16(v16 x)
{
    const v16 number = v_round_bf16_number(x);
    const u16v quiet = ((u16v)x | 0x400000u) & 0xffff0000u;
#if defined(__AVX512F__)
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    return (v16)_mm512_mask_mov_ps((__m512)number, nan, (__m512)quiet);
#else
    return v_select(v_nan(x), (v16)quiet, number);
#endif
}

/* 16 bf16 values at any address, widened. */
INLINE v16 v_load_bf16(const void *p)
{
    typedef uint16_t h16 __attribute__((vector_size(32)));
    h16 h;
    memcpy(&h, p, sizeof h);
    return (v16)(__builtin_convertvector(h, u16v) << 16);
}

/* Folds the lanes by the fixed tree: 8 apart, 4 apart, 2 apart, 1 apart. */
INLINE float v_fold(v16 v)
{
    float t[LANES];
    memcpy(t, &v, sizeof t);
    for (int w = LANES / 2; w >= 1; w /= 2)
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    return t[0];
}

INLINE double d_fold(d16 v)
{
    double t[LANES];
    memcpy(t, &v, sizeof t);
    for (int w = LANES / 2; w >= 1; w /= 2)
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    return t[0];
}

/* Largest lane. No lane is NaN. */
INLINE float v_fold_max(v16 v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    typedef float v4 __attribute__((vector_size(16)));
    v4 part[4];
    memcpy(part, &v, sizeof v);
    float t[4];
    for (int l = 0; l < 4; l++) {
        const float a = part[0][l] > part[1][l] ? part[0][l] : part[1][l];
        const float b = part[2][l] > part[3][l] ? part[2][l] : part[3][l];
        t[l] = a > b ? a : b;
    }
    const float a = t[0] > t[1] ? t[0] : t[1], b = t[2] > t[3] ? t[2] : t[3];
    return a > b ? a : b;
#endif
}

/* 16 f64 lanes in registers of the level's width. */
#define D_PARTS (128 / NATIVE)
typedef double dn __attribute__((vector_size(NATIVE)));
typedef struct d_lanes {
    dn part[D_PARTS];
} d_lanes;

INLINE d_lanes d_widen(v16 x)
{
    d_lanes d;
#if defined(__AVX512F__)
    d.part[0] = (dn)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x));
    d.part[1] = (dn)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1));
#else
    typedef float half __attribute__((vector_size(NATIVE / 2)));
    half h[D_PARTS];
    memcpy(h, &x, sizeof x);
    for (int i = 0; i < D_PARTS; i++)
        d.part[i] = __builtin_convertvector(h[i], dn);
#endif
    return d;
}

INLINE void d_add(d_lanes *sum, v16 x)
{
    const d_lanes d = d_widen(x);
    for (int i = 0; i < D_PARTS; i++)
        sum->part[i] += d.part[i];
}

/* sum += x y; a product of two f32 is exact in f64. */
INLINE void d_add_product(d_lanes *sum, v16 x, v16 y)
{
    const d_lanes a = d_widen(x), b = d_widen(y);
    for (int i = 0; i < D_PARTS; i++)
        sum->part[i] += a.part[i] * b.part[i];
}

/* d_fold's tree. */
INLINE double d_fold_lanes(d_lanes s)
{
    for (int w = D_PARTS / 2; w >= 1; w /= 2)
        for (int i = 0; i < w; i++)
            s.part[i] += s.part[i + w];
#if NATIVE == 64
    const __m512d all = (__m512d)s.part[0];
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(all), _mm512_extractf64x4_pd(all, 1));
#elif NATIVE == 32
    const __m256d four = (__m256d)s.part[0];
#endif
#if NATIVE >= 32
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return two[0] + two[1];
#else
    return s.part[0][0] + s.part[0][1];
#endif
}

/* a b + c with one rounding, at every level. */
INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    v16 r;
#if defined(__AVX512F__)
    r = (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    __m256 x[2], y[2], z[2];
    memcpy(x, &a, sizeof a);
    memcpy(y, &b, sizeof b);
    memcpy(z, &c, sizeof c);
    for (int i = 0; i < 2; i++)
        z[i] = _mm256_fmadd_ps(x[i], y[i], z[i]);
    memcpy(&r, z, sizeof r);
#else
    for (int i = 0; i < LANES; i++)
        r[i] = fmaf(a[i], b[i], c[i]);
#endif
    return r;
}

/*
 * exp, below 1 ulp: x = n ln 2 + r with n nearest and ln 2 in two parts, polynomial of degree 7 in
 * r, scaled by 2^n in two halves so that subnormal results are right. Coefficients and steps are
 * those of SLEEF's expf (u10), which PyTorch uses: SiLU then has PyTorch's bits.
 */
INLINE v16 v_exp_between(v16 c) /* -104 <= c <= 89, or NaN */
{
    const v16 magic = v_set(12582912.0f); /* 1.5 * 2^23: the sum's low bits are the integer */
    const v16 t = c * 1.44269504088896341f + magic;
    const v16 n = t - magic;
    v16 r = v_fma(n, v_set(-0.693145751953125f), c);
    r = v_fma(n, v_set(-1.428606765330187045e-06f), r);
    v16 p = v_set(0.000198527617612853646278381f);
    p = v_fma(p, r, v_set(0.00139304355252534151077271f));
    p = v_fma(p, r, v_set(0.00833336077630519866943359f));
    p = v_fma(p, r, v_set(0.0416664853692054748535156f));
    p = v_fma(p, r, v_set(0.166666671633720397949219f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(r * r, p, r) + 1.0f;
#if defined(__AVX512F__)
    return (v16)_mm512_scalef_ps((__m512)p, (__m512)n); /* rounds once, as below; NaN stays */
#else
    const i16 k = (i16)t - (i16)magic;
    const i16 k1 = k >> 1, k2 = k - k1;
    const v16 s1 = (v16)((k1 + 127) << 23), s2 = (v16)((k2 + 127) << 23);
    return v_select(v_nan(c), c, p * s1 * s2);
#endif
}

INLINE v16 v_exp(v16 x)
{
    const v16 c = v_max(v_set(-104.0f), x); /* NaN stays */
    return v_exp_between(-v_max(v_set(-89.0f), -c));
}

/* tanh, below 2 ulp (Cephes tanhf). */
INLINE v16 v_tanh(v16 x)
{
    const v16 a = (v16)((u16v)x & 0x7fffffffu);
    const u16v sign = (u16v)x & 0x80000000u;
    const v16 c = -v_max(v_set(-40.0f), -(a + a)); /* from 18 on the quotient adds nothing to 1 */
    const v16 big = 1.0f - 2.0f / (v_exp_between(c) + 1.0f);
    const v16 z = a * a;
    v16 p = v_set(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const v16 small = p * z * a + a;
    return (v16)((u16v)v_select(v_less(a, v_set(0.625f)), small, big) | sign);
}

/*
 * erf, below 2 ulp: x + x P(x^2) below 1, 1 - exp(-Q(|x|)) from there to 4, where 1 - erf is below
 * half an ulp of 1. P and Q are least-squares fits weighted to equal relative error.
 */
INLINE v16 v_erf(v16 x)
{
    const v16 a = (v16)((u16v)x & 0x7fffffffu);
    const u16v sign = (u16v)x & 0x80000000u;
    const v16 z = a * a;
    v16 p = v_set(7.85383163e-5f);
    p = p * z - 8.01018497e-4f;
    p = p * z + 5.18832682e-3f;
    p = p * z - 2.6853811e-2f;
    p = p * z + 0.112835854f;
    p = p * z - 0.37612626f;
    p = p * z + 0.128379166f;
    const v16 small = a + a * p;
    const v16 c = -v_max(v_set(-4.0f), -a); /* NaN stays */
    v16 q = v_set(7.37326445e-7f);
    q = q * c + 1.13130836e-5f;
    q = q * c - 3.7885952e-4f;
    q = q * c + 3.99413239e-3f;
    q = q * c - 2.47745719e-2f;
    q = q * c + 0.107858285f;
    q = q * c + 0.633663237f;
    q = q * c + 1.12938178f;
    q = q * c - 1.50617605e-4f;
    const v16 big = 1.0f - v_exp(-q);
    return (v16)((u16v)v_select(v_less(a, v_set(1.0f)), small, big) | sign);
}

#endif
