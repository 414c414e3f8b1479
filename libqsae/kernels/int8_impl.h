/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of int8.h at one level; OPS is the name of the table. */
#include <float.h>
#include <string.h>

#include "kernels/int8.h"
#include "kernels/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))

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

/* f16(x), kept in f32 */
INLINE vf half(vf x)
{
#if defined(__AVX512BW__)
    /* No mode of the unit but DAZ touches these, and what that clears is zero in f16. */
    return (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
    const vi a = magnitude(x), sign = (vi)x & ~0x7fffffff;
    /* of NaN this wraps; it is replaced below */
    const vi normal = (vi)((vu)a + 0xfffu + (((vu)a >> 13) & 1u)) & ~0x1fff;
    const vf small = ((vf)a + 0.5f) - 0.5f; /* leaves a multiple of 2^-24 */
    vi y = pick(a < 0x38800000, (vi)small, normal);
    y = pick(a >= 0x477ff000, (vi){ 0 } + 0x7f800000, y);
    return (vf)(pick(a > 0x7f800000, (a & ~0x1fff) | 0x7fc00000, y) | sign);
#endif
}

INLINE void store(float *y, int64_t i, int64_t n, vf v)
{
    if (i + WIDTH > n)
        memcpy(y + i, &v, (size_t)(n - i) * sizeof *y);
    else
        memcpy(y + i, &v, sizeof v);
}

static void round_f16(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += WIDTH)
        store(x, i, n, half(load(x, i, n, 0.0f)));
}

/* Magnitudes compare like integers; -1 stands for none. */
INLINE int32_t largest(vi m)
{
    int32_t t[WIDTH];
    memcpy(t, &m, sizeof t);
#pragma GCC unroll 4
    for (int w = WIDTH / 2; w > 0; w /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < w; i++)
            t[i] = t[i + w] > t[i] ? t[i + w] : t[i];
    return t[0];
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

#include "kernels/int8_rows_impl.h"

const qsae__int8_ops OPS = {
    .round_f16 = round_f16,
    .absmax = absmax,
    .scan_row = scan_row,
    .scan_row16 = scan_row16,
    .quantize_row = quantize_row,
    .quantize_row16 = quantize_row16,
    .scale_row = scale_row,
};
