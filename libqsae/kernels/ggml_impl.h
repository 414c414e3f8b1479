/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding of ggml.h's types at one level: loops of fixed length that the compiler makes vectors
 * of. Each function decodes one block; layouts are drawn in doc/codec-ggml.md.
 */
#include "kernels/ggml_parts.h"
#include "kernels/lanes.h"

/* Short loops are unrolled before the compiler looks for vectors unless told not to. */
#define ROLLED _Pragma("GCC unroll 1")

#include "kernels/ggml_grid_impl.h"

#define BLOCK(name) static void name(const uint8_t *restrict b, float *restrict y)

BLOCK(q4_0)
{
    const float d = qsae__get_half(b);
    ROLLED
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

BLOCK(q4_1)
{
    const float d = qsae__get_half(b), m = qsae__get_half(b + 2);
    ROLLED
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

BLOCK(q5_0)
{
    const float d = qsae__get_half(b);
    const uint32_t high = qsae__get32(b + 2);
    ROLLED
    for (int j = 0; j < 16; j++) {
        const int32_t low = (int32_t)((b[6 + j] & 15u) | (high >> j & 1) << 4);
        const int32_t last = (int32_t)((uint32_t)b[6 + j] >> 4 | (high >> (j + 16) & 1) << 4);
        y[j] = d * (float)(low - 16);
        y[j + 16] = d * (float)(last - 16);
    }
}

BLOCK(q5_1)
{
    const float d = qsae__get_half(b), m = qsae__get_half(b + 2);
    const uint32_t high = qsae__get32(b + 4);
    ROLLED
    for (int j = 0; j < 16; j++) {
        const int32_t low = (int32_t)((b[8 + j] & 15u) | (high >> j & 1) << 4);
        const int32_t last = (int32_t)((uint32_t)b[8 + j] >> 4 | (high >> (j + 16) & 1) << 4);
        y[j] = d * (float)low + m;
        y[j + 16] = d * (float)last + m;
    }
}

BLOCK(q8_0)
{
    const float d = qsae__get_half(b);
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)(int8_t)b[2 + j];
}

/* Four codes of two bits from each of the bytes b[32]. */
INLINE void pairs(const uint8_t *restrict b, uint8_t *restrict q)
{
    for (int j = 0; j < 32; j++) {
        q[j] = b[j] & 3;
        q[j + 32] = b[j] >> 2 & 3;
        q[j + 64] = b[j] >> 4 & 3;
        q[j + 96] = b[j] >> 6;
    }
}

BLOCK(q2_k)
{
    const float d = qsae__get_half(b + 80), m = qsae__get_half(b + 82);
    uint8_t q[QSAE__SUPER];
    pairs(b + 16, q);
    pairs(b + 48, q + 128);
    for (int g = 0; g < 16; g++) {
        const float dl = d * (float)(b[g] & 15), ml = m * (float)(b[g] >> 4);
        ROLLED
        for (int j = 0; j < 16; j++)
            y[16 * g + j] = dl * (float)q[16 * g + j] - ml;
    }
}

BLOCK(q3_k)
{
    const float d = qsae__get_half(b + 108);
    uint8_t q[QSAE__SUPER];
    pairs(b + 32, q);
    pairs(b + 64, q + 128);
    for (int g = 0; g < 8; g++)
        for (int j = 0; j < 32; j++)
            q[32 * g + j] |= (uint8_t)((b[j] >> g & 1) << 2);
    for (int g = 0; g < 16; g++) {
        const float dl = d * (float)qsae__k3_scale(b + 96, g);
        ROLLED
        for (int j = 0; j < 16; j++)
            y[16 * g + j] = dl * (float)(q[16 * g + j] - 4);
    }
}

BLOCK(q4_k)
{
    const float d = qsae__get_half(b), m = qsae__get_half(b + 2);
    for (int g = 0; g < 8; g += 2) {
        const uint8_t *s = b + 4, *q = b + 16 + 16 * g;
        const float d0 = d * (float)qsae__k4_scale(s, g), m0 = m * (float)qsae__k4_min(s, g);
        const float d1 = d * (float)qsae__k4_scale(s, g + 1);
        const float m1 = m * (float)qsae__k4_min(s, g + 1);
        for (int j = 0; j < 32; j++)
            y[32 * g + j] = d0 * (float)(q[j] & 15) - m0;
        for (int j = 0; j < 32; j++)
            y[32 * g + 32 + j] = d1 * (float)(q[j] >> 4) - m1;
    }
}

BLOCK(q5_k)
{
    const float d = qsae__get_half(b), m = qsae__get_half(b + 2);
    const uint8_t *s = b + 4, *high = b + 16;
    for (int g = 0; g < 8; g += 2) {
        const uint8_t *q = b + 48 + 16 * g;
        const float d0 = d * (float)qsae__k4_scale(s, g), m0 = m * (float)qsae__k4_min(s, g);
        const float d1 = d * (float)qsae__k4_scale(s, g + 1);
        const float m1 = m * (float)qsae__k4_min(s, g + 1);
        for (int j = 0; j < 32; j++)
            y[32 * g + j] = d0 * (float)((q[j] & 15) + (high[j] >> g & 1) * 16) - m0;
        for (int j = 0; j < 32; j++)
            y[32 * g + 32 + j] = d1 * (float)((q[j] >> 4) + (high[j] >> (g + 1) & 1) * 16) - m1;
    }
}

/* Halves of 128 elements, in each of which four runs of 32 share bytes. */
BLOCK(q6_k)
{
    const float d = qsae__get_half(b + 208);
    uint8_t q[QSAE__SUPER];
    for (int h = 0; h < 2; h++) {
        const uint8_t *low = b + 64 * h, *high = b + 128 + 32 * h;
        uint8_t *to = q + 128 * h;
        for (int j = 0; j < 32; j++) {
            to[j] = (uint8_t)((low[j] & 15) | (high[j] & 3) << 4);
            to[j + 32] = (uint8_t)((low[j + 32] & 15) | (high[j] >> 2 & 3) << 4);
            to[j + 64] = (uint8_t)(low[j] >> 4 | (high[j] >> 4 & 3) << 4);
            to[j + 96] = (uint8_t)(low[j + 32] >> 4 | high[j] >> 6 << 4);
        }
    }
    for (int g = 0; g < 16; g++) {
        const float dl = d * (float)(int8_t)b[192 + g];
        ROLLED
        for (int j = 0; j < 16; j++)
            y[16 * g + j] = dl * (float)(q[16 * g + j] - 32);
    }
}

BLOCK(iq4_nl)
{
    const float d = qsae__get_half(b);
    ROLLED
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)qsae__iq4_values[b[2 + j] & 15];
        y[j + 16] = d * (float)qsae__iq4_values[b[2 + j] >> 4];
    }
}

BLOCK(iq4_xs)
{
    const float d = qsae__get_half(b);
    const int high = qsae__get16(b + 2);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = b + 8 + 16 * g;
        const int scale = (b[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4;
        const float dl = d * (float)(scale - 32);
        ROLLED
        for (int j = 0; j < 16; j++) {
            y[32 * g + j] = dl * (float)qsae__iq4_values[q[j] & 15];
            y[32 * g + j + 16] = dl * (float)qsae__iq4_values[q[j] >> 4];
        }
    }
}

/* Five trits of a byte are the digits of byte / 256 in base 3. */
BLOCK(tq1_0)
{
    static const uint8_t power[5] = { 1, 3, 9, 27, 81 };
    const float d = qsae__get_half(b + 52);
    for (int k = 0; k < 5; k++)
        for (int j = 0; j < 32; j++)
            y[32 * k + j] = d * (float)(((uint8_t)(b[j] * power[k]) * 3 >> 8) - 1);
    for (int k = 0; k < 5; k++)
        ROLLED
        for (int j = 0; j < 16; j++)
            y[160 + 16 * k + j] = d * (float)(((uint8_t)(b[32 + j] * power[k]) * 3 >> 8) - 1);
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 4; j++)
            y[240 + 4 * k + j] = d * (float)(((uint8_t)(b[48 + j] * power[k]) * 3 >> 8) - 1);
}

BLOCK(tq2_0)
{
    const float d = qsae__get_half(b + 64);
    uint8_t q[QSAE__SUPER];
    pairs(b, q);
    pairs(b + 32, q + 128);
    for (int j = 0; j < QSAE__SUPER; j++)
        y[j] = d * (float)(q[j] - 1);
}

BLOCK(mxfp4)
{
    const float d = qsae__e8m0_half(b[0]);
    ROLLED
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)qsae__e2m1_values[b[1 + j] & 15];
        y[j + 16] = d * (float)qsae__e2m1_values[b[1 + j] >> 4];
    }
}

BLOCK(nvfp4)
{
    for (int g = 0; g < 4; g++) {
        const uint8_t *q = b + 4 + 8 * g;
        const float d = qsae__ue4m3_half(b[g]);
        for (int j = 0; j < 8; j++) {
            y[16 * g + j] = d * (float)qsae__e2m1_values[q[j] & 15];
            y[16 * g + j + 8] = d * (float)qsae__e2m1_values[q[j] >> 4];
        }
    }
}

static void decode(int32_t dtype, const uint8_t *b, int64_t n, float *y)
{
    switch (dtype) {
#define CASE(name, block, elements, bytes) \
    case QSAE_##name: \
        for (int64_t i = 0; i < n / (elements); i++) \
            block(b + i * (bytes), y + i * (elements)); \
        break;
        CASE(Q4_0, q4_0, 32, 18)
        CASE(Q4_1, q4_1, 32, 20)
        CASE(Q5_0, q5_0, 32, 22)
        CASE(Q5_1, q5_1, 32, 24)
        CASE(Q8_0, q8_0, 32, 34)
        CASE(Q2_K, q2_k, 256, 84)
        CASE(Q3_K, q3_k, 256, 110)
        CASE(Q4_K, q4_k, 256, 144)
        CASE(Q5_K, q5_k, 256, 176)
        CASE(Q6_K, q6_k, 256, 210)
        CASE(IQ4_NL, iq4_nl, 32, 18)
        CASE(IQ4_XS, iq4_xs, 256, 136)
        CASE(TQ1_0, tq1_0, 256, 54)
        CASE(TQ2_0, tq2_0, 256, 66)
        CASE(MXFP4, mxfp4, 32, 17)
        CASE(NVFP4, nvfp4, 64, 36)
        CASE(IQ1_S, iq1_s, 256, 50)
        CASE(IQ1_M, iq1_m, 256, 56)
        CASE(IQ2_XXS, iq2_xxs, 256, 66)
        CASE(IQ2_XS, iq2_xs, 256, 74)
        CASE(IQ2_S, iq2_s, 256, 82)
        CASE(IQ3_XXS, iq3_xxs, 256, 98)
        CASE(IQ3_S, iq3_s, 256, 110)
#undef CASE
    default:
        break;
    }
}
