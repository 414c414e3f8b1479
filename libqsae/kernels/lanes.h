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

/* -1 where x is NaN: its magnitude bits are above infinity's. */
INLINE i16 v_nan(v16 x)
{
    return (0x7f800000 - ((i16)x & 0x7fffffff)) >> 31;
}

INLINE v16 v_round_bf16(v16 x)
{
    const u16v u = (u16v)x;
    const u16v even = u + 0x7fffu + ((u >> 16) & 1u);
    return v_select(v_nan(x), (v16)((u | 0x400000u) & 0xffff0000u), (v16)(even & 0xffff0000u));
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
 * exp, below 1 ulp: x = n ln 2 + r with n nearest and ln 2 in two parts, polynomial of degree 7 in r,
 * scaled by 2^n in two halves so that subnormal results are right. Coefficients and steps are those
 * of SLEEF's expf (u10), which PyTorch uses: SiLU then has PyTorch's bits.
 */
INLINE v16 v_exp(v16 x)
{
    const v16 low = v_set(-104.0f), high = v_set(89.0f);
    v16 c = v_select(v_less(x, low), low, x); /* NaN stays */
    c = v_select(v_less(high, c), high, c);
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
    const i16 k = (i16)t - (i16)magic;
    const i16 k1 = k >> 1, k2 = k - k1;
    const v16 s1 = (v16)((k1 + 127) << 23), s2 = (v16)((k2 + 127) << 23);
    const v16 y = p * s1 * s2;
    return v_select(v_nan(x), x, y);
}

/* tanh, below 2 ulp (Cephes tanhf). */
INLINE v16 v_tanh(v16 x)
{
    const v16 a = (v16)((u16v)x & 0x7fffffffu);
    const u16v sign = (u16v)x & 0x80000000u;
    const v16 big = 1.0f - 2.0f / (v_exp(a + a) + 1.0f);
    const v16 z = a * a;
    v16 p = v_set(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const v16 small = p * z * a + a;
    return (v16)((u16v)v_select(v_less(a, v_set(0.625f)), small, big) | sign);
}

#endif
