/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding at one level of the types whose codes follow from the block's extremes, as ggml's
 * quantize_row_*_ref define them (ggml-quants.c): f32 arithmetic, each operation rounded once. Each
 * function encodes one block.
 */
#include <float.h>

#include "kernels/ggml_search_impl.h"

#define SIMPLE(name) static void name(const float *restrict x, uint8_t *restrict b)

/* A value that converts to int32 as it is, 0 instead of any other: ggml's conversion (x86) gives
 * the lowest integer then, whose low byte is 0. */
INLINE float convertible(float v)
{
    return v > -2147483904.0f && v < 2147483648.0f ? v : 0.0f;
}

/* Toward zero; the low byte. */
INLINE int8_t whole(float v)
{
    return (int8_t)(uint8_t)(uint32_t)(int32_t)convertible(v);
}

/* To the nearest, half away from zero; the low byte. */
INLINE int8_t rounded(float v)
{
    const float c = convertible(v);
    const int32_t t = (int32_t)c;
    const float rest = c - (float)t;
    return (int8_t)(uint8_t)((uint32_t)t + (rest >= 0.5f) - (rest <= -0.5f));
}

/* 1 / d, or 0. */
INLINE float inverse_of(float d)
{
    return d != 0 ? 1.0f / d : 0.0f;
}

/* The largest magnitude but NaN's, of n values, whole registers. */
INLINE float magnitude_of(const float *restrict x, int n)
{
    vn v, m = { 0 };
    float lanes[GROUPS], all = 0;
    for (int i = 0; i < n; i += GROUPS) {
        memcpy(&v, x + i, sizeof v);
        m = n_max(n_abs(v), m);
    }
    memcpy(lanes, &m, sizeof m);
    for (int i = 0; i < GROUPS; i++)
        all = lanes[i] > all ? lanes[i] : all;
    return all;
}

/* The element of largest magnitude, the first of equals; 0 if all are NaN. */
INLINE float extreme_of(const float *restrict x, int n)
{
    const float m = magnitude_of(x, n);
    vn v;
    in at, first = (in){ 0 } + n;
    int32_t lanes[GROUPS];
    for (int i = 0; i < GROUPS; i++)
        lanes[i] = n - GROUPS + i;
    memcpy(&at, lanes, sizeof at);
    for (int i = n - GROUPS; i >= 0; i -= GROUPS, at -= GROUPS) {
        memcpy(&v, x + i, sizeof v);
        first = n_select_int((in)(n_abs(v) == m), at, first);
    }
    memcpy(lanes, &first, sizeof lanes);
    int least = n;
    for (int i = 0; i < GROUPS; i++)
        least = lanes[i] < least ? lanes[i] : least;
    return m > 0 ? x[least] : 0;
}

/* The largest magnitude; one after NaN forgets those before it (ggml's MAX). */
INLINE float largest_of(const float *restrict x, int n)
{
    float m = 0;
    in nan = { 0 };
    vn v;
    int32_t lanes[GROUPS], any = 0;
    for (int i = 0; i < n; i += GROUPS) {
        memcpy(&v, x + i, sizeof v);
        nan |= v != v;
    }
    memcpy(lanes, &nan, sizeof nan);
    for (int i = 0; i < GROUPS; i++)
        any |= lanes[i];
    if (!any)
        return magnitude_of(x, n);
    for (int i = 0; i < n; i++)
        m = m > fabsf(x[i]) ? m : fabsf(x[i]);
    return m;
}

/* Least and largest of 32 values but NaN, the first of equals: the sign of 0 is kept in m. */
INLINE void range_of(const float *restrict x, float *least, float *most)
{
    vn v, low = (vn){ 0 } + FLT_MAX, high = -low;
    float lows[GROUPS], highs[GROUPS];
    for (int i = 0; i < 32; i += GROUPS) {
        memcpy(&v, x + i, sizeof v);
        low = -n_max(-v, -low);
        high = n_max(v, high);
    }
    memcpy(lows, &low, sizeof low);
    memcpy(highs, &high, sizeof high);
    *least = FLT_MAX;
    *most = -FLT_MAX;
    for (int i = 0; i < GROUPS; i++) {
        *least = lows[i] < *least ? lows[i] : *least;
        *most = highs[i] > *most ? highs[i] : *most;
    }
    for (int i = 0; (*least == 0 || *most == 0) && i < 32; i++)
        if (x[i] == 0) {
            *least = *least == 0 ? x[i] : *least;
            *most = *most == 0 ? x[i] : *most;
            break;
        }
}

/* code[32] = (x - m) * scale + half toward zero, at most top. */
INLINE void codes_of(const float *restrict x, float m, float scale, float half, int top,
                     uint8_t *restrict code)
{
    for (int j = 0; j < 32; j++) {
        const int c = whole((x[j] - m) * scale + half);
        code[j] = (uint8_t)(c < top ? c : top);
    }
}

/* The low halves of 32 codes, two to a byte. */
INLINE void put4(const uint8_t *restrict code, uint8_t *restrict b)
{
    for (int j = 0; j < 16; j++)
        b[j] = (uint8_t)((code[j] & 15) | code[j + 16] << 4);
}

/* Codes of five bits: the fifth ones in 32 bits before the others. */
INLINE void put5(const uint8_t *restrict code, uint8_t *restrict b)
{
    for (int i = 0; i < 4; i++) {
        int high = 0;
        for (int j = 0; j < 8; j++)
            high |= (code[8 * i + j] >> 4 & 1) << j;
        b[i] = (uint8_t)high;
    }
    put4(code, b + 4);
}

SIMPLE(to_q4_0)
{
    const float d = extreme_of(x, 32) / -8;
    uint8_t code[32];
    codes_of(x, 0, inverse_of(d), 8.5f, 15, code);
    qsae__put_half(b, d);
    put4(code, b + 2);
}

SIMPLE(to_q4_1)
{
    float least, most;
    uint8_t code[32];
    range_of(x, &least, &most);
    const float d = (most - least) / 15;
    codes_of(x, least, inverse_of(d), 0.5f, 15, code);
    qsae__put_half(b, d);
    qsae__put_half(b + 2, least);
    put4(code, b + 4);
}

SIMPLE(to_q5_0)
{
    const float d = extreme_of(x, 32) / -16;
    uint8_t code[32];
    codes_of(x, 0, inverse_of(d), 16.5f, 31, code);
    qsae__put_half(b, d);
    put5(code, b + 2);
}

SIMPLE(to_q5_1)
{
    float least, most;
    uint8_t code[32];
    range_of(x, &least, &most);
    const float d = (most - least) / 31;
    codes_of(x, least, inverse_of(d), 0.5f, 127, code);
    qsae__put_half(b, d);
    qsae__put_half(b + 2, least);
    put5(code, b + 4);
}

SIMPLE(to_q8_0)
{
    const float d = largest_of(x, 32) / 127, scale = inverse_of(d);
    qsae__put_half(b, d);
    for (int j = 0; j < 32; j++)
        b[2 + j] = (uint8_t)rounded(x[j] * scale);
}

/* -1, 0 or 1, plus 1, for each element. */
INLINE float trits_of(const float *restrict x, uint8_t *restrict code)
{
    const float d = largest_of(x, QSAE__SUPER), scale = inverse_of(d);
    for (int j = 0; j < QSAE__SUPER; j++)
        code[j] = (uint8_t)(rounded(x[j] * scale) + 1);
    return d;
}

/* Digits in base 3 as a fraction in 1/256, rounded up. */
INLINE uint8_t fraction(int q)
{
    return (uint8_t)(((unsigned)(q & 255) * 256 + 242) / 243);
}

SIMPLE(to_tq1_0)
{
    uint8_t c[QSAE__SUPER];
    qsae__put_half(b + 52, trits_of(x, c));
    for (int j = 0; j < 32; j++)
        b[j] = fraction((((c[j] * 3 + c[j + 32]) * 3 + c[j + 64]) * 3 + c[j + 96]) * 3 +
                        c[j + 128]);
    for (int j = 160; j < 176; j++)
        b[j - 128] = fraction((((c[j] * 3 + c[j + 16]) * 3 + c[j + 32]) * 3 + c[j + 48]) * 3 +
                              c[j + 64]);
    for (int j = 240; j < 244; j++)
        b[j - 192] = fraction((((c[j] * 3 + c[j + 4]) * 3 + c[j + 8]) * 3 + c[j + 12]) * 3);
}

SIMPLE(to_tq2_0)
{
    uint8_t c[QSAE__SUPER];
    qsae__put_half(b + 64, trits_of(x, c));
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 32; j++) {
            const uint8_t *q = c + 128 * h + j;
            b[32 * h + j] = (uint8_t)((q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 |
                                      (q[96] & 3) << 6);
        }
}

/* b[n / 2] = for each of n values the first code of the nearest value; 0 for NaN. */
INLINE void put_e2m1(const float *restrict x, int n, float d, uint8_t *restrict b)
{
    int32_t code[32];
    for (int j = 0; j < n; j += GROUPS) {
        in best = { 0 };
        vn v, least;
        memcpy(&v, x + j, sizeof v);
        least = n_abs((float)qsae__e2m1_values[0] * d - v);
#pragma GCC unroll 15
        for (int k = 1; k < 16; k++) {
            const vn e = n_abs((float)qsae__e2m1_values[k] * d - v);
            const in less = e < least;
            best = n_select_int(less, (in){ 0 } + k, best);
            least = n_select(less, e, least);
        }
        memcpy(code + j, &best, sizeof best);
    }
    for (int j = 0; j < n / 2; j++)
        b[j] = (uint8_t)(code[j] | code[j + n / 2] << 4);
}

/* The logarithm is rounded to f32 before it is rounded down: just below a power of two it is
 * already the next whole number. f64 is far from any tie of that rounding. */
SIMPLE(to_mxfp4)
{
    const float m = magnitude_of(x, 32);
    b[0] = m > 0 ? (uint8_t)whole(floorf((float)log2((double)m)) - 2 + 127) : 0;
    put_e2m1(x, 32, qsae__e8m0_half(b[0]), b + 1);
}

/* f32 to e4m3 without sign, halves up; 126 is the largest. */
INLINE uint8_t to_ue4m3(float v)
{
    const float x = v > 448 ? 448 : v;
    const uint32_t u = qsae__f32_bits(x);
    const int exponent = (int)(u >> 23) - 127 + 7;
    if (!(x > 0))
        return 0;
    if (exponent <= 0) {
        const int m = (int)(x * 512.0f + 0.5f);
        return (uint8_t)(m > 7 ? 7 : m);
    }
    const uint32_t code = ((uint32_t)exponent << 3 | (u >> 20 & 7)) + (u >> 19 & 1);
    return (uint8_t)(exponent >= 15 || code >> 3 >= 15 ? 126 : code);
}

SIMPLE(to_nvfp4)
{
    for (int g = 0; g < 4; g++) {
        b[g] = to_ue4m3(magnitude_of(x + 16 * g, 16) / 6.0f);
        put_e2m1(x + 16 * g, 16, qsae__ue4m3_half(b[g]), b + 4 + 8 * g);
    }
}

static void encode_simple(int32_t dtype, const float *x, int64_t n, uint8_t *b)
{
    switch (dtype) {
#define CASE(name, block, elements, bytes) \
    case QSAE_##name: \
        for (int64_t i = 0; i < n / (elements); i++) \
            block(x + i * (elements), b + i * (bytes)); \
        break;
        CASE(Q4_0, to_q4_0, 32, 18)
        CASE(Q4_1, to_q4_1, 32, 20)
        CASE(Q5_0, to_q5_0, 32, 22)
        CASE(Q5_1, to_q5_1, 32, 24)
        CASE(Q8_0, to_q8_0, 32, 34)
        CASE(TQ1_0, to_tq1_0, 256, 54)
        CASE(TQ2_0, to_tq2_0, 256, 66)
        CASE(MXFP4, to_mxfp4, 32, 17)
        CASE(NVFP4, to_nvfp4, 64, 36)
#undef CASE
    default:
        break;
    }
}
