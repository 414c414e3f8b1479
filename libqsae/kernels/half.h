/* SPDX-License-Identifier: BSD-2-Clause */
/* Scalar conversions of 16-bit floats, round to nearest even. Quiet NaN stays quiet NaN. */
#ifndef QSAE_KERNELS_HALF_H
#define QSAE_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t qsae__f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float qsae__f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float qsae__bf16_to_f32(uint16_t h)
{
    return qsae__f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t qsae__f32_to_bf16(float f)
{
    const uint32_t u = qsae__f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* rb(x): f32 rounded to bf16, kept in f32. */
static inline float qsae__round_bf16(float f)
{
    return qsae__bf16_to_f32(qsae__f32_to_bf16(f));
}

static inline float qsae__f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31)
        return qsae__f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) /* zero or subnormal: mantissa * 2^-24, exact */
        return sign ? -((float)mantissa * 0x1p-24f) : (float)mantissa * 0x1p-24f;
    return qsae__f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t qsae__f32_to_f16(float f)
{
    const uint32_t u = qsae__f32_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 */
        const uint32_t m = qsae__f32_bits(qsae__f32_from_bits(a) + 0.5f) - 0x3f000000u;
        return (uint16_t)(sign | m);
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

/* h(x): f32 rounded to f16, kept in f32. */
static inline float qsae__round_f16(float f)
{
    return qsae__f16_to_f32(qsae__f32_to_f16(f));
}

#endif
