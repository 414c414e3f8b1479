/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding of the K-quants, IQ4_NL and IQ4_XS at one level (ggml-quants.c: quantize_row_*_ref): the
 * groups of up to two super-blocks are searched side by side, then each super-block's scales are
 * rounded and its elements encoded by the rounded ones.
 */
#include "kernels/ggml_search_impl.h"
#include "kernels/ggml_simple_impl.h"

#define BATCH 16 /* groups searched at a time */

/* What the search leaves. */
typedef struct found {
    float x[BATCH * 32];      /* NaN made the plain one */
    uint8_t code[BATCH * 32];
    float scale[BATCH], least[BATCH];
} found;

enum search { SEARCH_2, SEARCH_3, SEARCH_4, SEARCH_5, SEARCH_6, SEARCH_IQ4 };

/* As make_qkx2_quants and the others are called: weights and tries of the type. */
INLINE void search(enum search kind, int n, const vn *x, vn *code, vn *scale, vn *least)
{
    vn w[32], sum = n_set(0);
    *least = n_set(0);
    for (int i = 0; i < n; i++) {
        sum += x[i] * x[i];
        w[i] = n_abs(x[i]);
    }
    if (kind == SEARCH_4 || kind == SEARCH_5) {
        const vn mean = n_sqrt(sum / 32.0f);
        for (int i = 0; i < n; i++)
            w[i] = mean + w[i];
    }
    if (kind == SEARCH_2)
        *scale = search_min(n, 3, x, w, -0.5f, 0.1f, 15, false, code, least);
    else if (kind == SEARCH_3)
        *scale = search_codes(n, 4, x, code);
    else if (kind == SEARCH_4)
        *scale = search_min(n, 15, x, w, -1.0f, 0.1f, 20, true, code, least);
    else if (kind == SEARCH_5)
        *scale = search_min(n, 31, x, w, -0.5f, 0.1f, 15, true, code, least);
    else if (kind == SEARCH_6)
        *scale = search_scale(n, 32, x, code);
    else
        *scale = search_iq4(x, 7);
}

/* BATCH groups of n elements from f->x. */
INLINE void search_all(enum search kind, int n, found *f)
{
    for (int g = 0; g < BATCH; g += GROUPS) {
        float lanes[32 * GROUPS];
        vn x[32], code[32], scale, least;
        for (int i = 0; i < n; i++)
            for (int l = 0; l < GROUPS; l++)
                lanes[i * GROUPS + l] = f->x[(g + l) * n + i];
        memcpy(x, lanes, sizeof *x * (size_t)n);
        search(kind, n, x, code, &scale, &least);
        memcpy(f->scale + g, &scale, sizeof scale);
        memcpy(f->least + g, &least, sizeof least);
        if (kind == SEARCH_IQ4)
            continue;
        memcpy(lanes, code, sizeof *code * (size_t)n);
        for (int l = 0; l < GROUPS; l++)
            for (int i = 0; i < n; i++)
                f->code[(g + l) * n + i] = (uint8_t)(int32_t)lanes[i * GROUPS + l];
    }
}

/* The first `count` values of x, with zeros after them. */
INLINE void load_found(found *f, const float *x, int count, int size)
{
    for (int i = 0; i < count; i++)
        f->x[i] = x[i] == x[i] ? x[i] : qsae__f32_from_bits(0x7fc00000);
    for (int i = count; i < size; i++)
        f->x[i] = 0;
}

/* n_nearest of one value. */
INLINE int32_t nearest(float v)
{
    return (int32_t)(qsae__f32_bits(v + 12582912.0f) & 0x7fffff) - 0x400000;
}

INLINE int32_t clamp(int32_t v, int32_t low, int32_t high)
{
    return v < low ? low : v > high ? high : v;
}

INLINE float largest(const float *v, int n)
{
    float m = 0;
    for (int i = 0; i < n; i++)
        m = v[i] > m ? v[i] : m;
    return m;
}

/* The value of largest magnitude, the first of equals. */
INLINE float farthest(const float *v, int n)
{
    float m = 0, value = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(v[i]) > m) {
            m = fabsf(v[i]);
            value = v[i];
        }
    return value;
}

/* codes[n] = low..high of (x + m) / d, less low; those of the search stay where d is 0. */
INLINE void encode_group(const float *restrict x, int n, float d, float m, int low, int high,
                         uint8_t *restrict code)
{
    if (d == 0)
        return;
    for (int i = 0; i < n; i++)
        code[i] = (uint8_t)(clamp(nearest((x[i] + m) / d), low, high) - low);
}

/* Bytes of 32 for each 128 codes of two bits: run k of 32 in bits 2k. */
INLINE void put_pairs(const uint8_t *restrict code, uint8_t *restrict q)
{
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 32; j++) {
            const uint8_t *c = code + 128 * h + j;
            q[32 * h + j] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 |
                                      (c[96] & 3) << 6);
        }
}

static void put_q2_k(const float *x, uint8_t *code, const float *scale, const float *least,
                     uint8_t *b)
{
    const float max_scale = largest(scale, 16), max_least = largest(least, 16);
    const float s = max_scale > 0 ? 15.0f / max_scale : 0;
    const float m = max_least > 0 ? 15.0f / max_least : 0;
    qsae__put_half(b + 80, max_scale > 0 ? max_scale / 15.0f : 0);
    qsae__put_half(b + 82, max_least > 0 ? max_least / 15.0f : 0);
    const float d = qsae__get_half(b + 80), dm = qsae__get_half(b + 82);
    for (int g = 0; g < 16; g++) {
        const uint32_t high = max_least > 0 ? (uint32_t)nearest(m * least[g]) : 0;
        b[g] = (uint8_t)((max_scale > 0 ? (uint32_t)nearest(s * scale[g]) : 0) | high << 4);
        encode_group(x + 16 * g, 16, d * (float)(b[g] & 15), dm * (float)(b[g] >> 4), 0, 3,
                     code + 16 * g);
    }
    put_pairs(code, b + 16);
}

static void put_q3_k(const float *x, uint8_t *code, const float *scale, const float *least,
                     uint8_t *b)
{
    const float far = farthest(scale, 16), inverse = -32.0f / far;
    (void)least;
    memset(b, 0, 32);
    memset(b + 96, 0, 12);
    qsae__put_half(b + 108, far != 0 ? 1.0f / inverse : 0);
    const float d = qsae__get_half(b + 108);
    for (int g = 0; g < 16 && far != 0; g++) {
        const int l = clamp((int8_t)nearest(inverse * scale[g]), -32, 31) + 32;
        b[96 + g % 8] |= (uint8_t)((l & 15) << g / 8 * 4);
        b[104 + g % 4] |= (uint8_t)(l >> 4 << 2 * (g / 4));
    }
    for (int g = 0; g < 16; g++)
        encode_group(x + 16 * g, 16, d * (float)qsae__k3_scale(b + 96, g), 0, -4, 3, code + 16 * g);
    for (int i = 0; i < QSAE__SUPER; i++)
        b[i % 32] |= (uint8_t)((code[i] >> 2) << i / 32);
    put_pairs(code, b + 32);
}

/* Scales and minima of Q4_K and Q5_K, and the codes up to top. */
INLINE void put_k4(const float *x, uint8_t *code, const float *scale, const float *least, int top,
                   uint8_t *b)
{
    const float max_scale = largest(scale, 8), max_least = largest(least, 8);
    const float s = max_scale > 0 ? 63.0f / max_scale : 0;
    const float m = max_least > 0 ? 63.0f / max_least : 0;
    qsae__put_half(b, max_scale / 63.0f);
    qsae__put_half(b + 2, max_least / 63.0f);
    const float d = qsae__get_half(b), dm = qsae__get_half(b + 2);
    for (int g = 0; g < 8; g++) {
        const int ls = clamp((uint8_t)nearest(s * scale[g]), 0, 63);
        const int lm = clamp((uint8_t)nearest(m * least[g]), 0, 63);
        if (g < 4) {
            b[4 + g] = (uint8_t)ls;
            b[8 + g] = (uint8_t)lm;
        } else {
            b[8 + g] = (uint8_t)((ls & 15) | (lm & 15) << 4);
            b[g] |= (uint8_t)(ls >> 4 << 6);
            b[4 + g] |= (uint8_t)(lm >> 4 << 6);
        }
    }
    for (int g = 0; g < 8; g++)
        encode_group(x + 32 * g, 32, d * (float)qsae__k4_scale(b + 4, g),
                     dm * (float)qsae__k4_min(b + 4, g), 0, top, code + 32 * g);
}

static void put_q4_k(const float *x, uint8_t *code, const float *scale, const float *least,
                     uint8_t *b)
{
    put_k4(x, code, scale, least, 15, b);
    for (int i = 0; i < 128; i++) {
        const uint8_t *c = code + i / 32 * 64 + i % 32;
        b[16 + i] = (uint8_t)(c[0] | c[32] << 4);
    }
}

static void put_q5_k(const float *x, uint8_t *code, const float *scale, const float *least,
                     uint8_t *b)
{
    put_k4(x, code, scale, least, 31, b);
    memset(b + 16, 0, 32);
    for (int i = 0; i < QSAE__SUPER; i++)
        b[16 + i % 32] |= (uint8_t)((code[i] >> 4) << i / 32);
    for (int i = 0; i < 128; i++) {
        const uint8_t *c = code + i / 32 * 64 + i % 32;
        b[48 + i] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
    }
}

static void put_q6_k(const float *x, uint8_t *code, const float *scale, const float *least,
                     uint8_t *b)
{
    const float far = farthest(scale, 16), inverse = -128.0f / far;
    (void)least;
    if (fabsf(far) < TINY) {
        memset(b, 0, 210);
        return;
    }
    qsae__put_half(b + 208, 1.0f / inverse);
    const float d = qsae__get_half(b + 208);
    for (int g = 0; g < 16; g++) {
        const int32_t l = nearest(inverse * scale[g]);
        b[192 + g] = (uint8_t)(uint32_t)(l < 127 ? l : 127);
        encode_group(x + 16 * g, 16, d * (float)(int8_t)b[192 + g], 0, -32, 31, code + 16 * g);
    }
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 32; j++) {
            const uint8_t *c = code + 128 * h + j;
            b[64 * h + j] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            b[64 * h + 32 + j] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            b[128 + 32 * h + j] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 |
                                            c[96] >> 4 << 6);
        }
}

/* Codes of 32 values times `inverse`, two to a byte: the nearest, the upper of equally near ones,
 * the last for NaN. */
INLINE void put_iq4(const float *x, float inverse, uint8_t *q)
{
    uint8_t code[32] = { 0 };
    for (int k = 1; k < 16; k++) {
        const float between = (float)(qsae__iq4_values[k - 1] + qsae__iq4_values[k]);
        for (int i = 0; i < 32; i++) {
            const float v = inverse * x[i];
            code[i] = (uint8_t)(v + v < between ? code[i] : k);
        }
    }
    for (int j = 0; j < 16; j++)
        q[j] = (uint8_t)(code[j] | code[j + 16] << 4);
}

static void put_iq4_xs(const float *x, uint8_t *code, const float *scale, const float *least,
                       uint8_t *b)
{
    const float d = -farthest(scale, 8) / 32, inverse = d != 0 ? 1.0f / d : 0;
    uint32_t high = 0;
    (void)code;
    (void)least;
    qsae__put_half(b, d);
    memset(b + 4, 0, 4);
    for (int g = 0; g < 8; g++) {
        const int32_t l = clamp(nearest(inverse * scale[g]), -32, 31);
        const float dl = d * (float)l;
        b[4 + g / 2] |= (uint8_t)(((l + 32) & 15) << g % 2 * 4);
        high |= (uint32_t)((l + 32) >> 4) << 2 * g;
        put_iq4(x + 32 * g, dl != 0 ? 1.0f / dl : 0, b + 8 + 16 * g);
    }
    qsae__put16(b + 2, (uint16_t)high);
}

/* Blocks of BATCH / per groups each of n elements. */
INLINE void encode_super(enum search kind, int n, int bytes,
                         void (*put)(const float *x, uint8_t *code, const float *scale,
                                     const float *least, uint8_t *b),
                         const float *x, int64_t count, uint8_t *b)
{
    const int groups = QSAE__SUPER / n, side = BATCH / groups;
    for (int64_t i = 0; i < count; i += side) {
        const int here = (int)qsae__min_i64(side, count - i);
        found f;
        load_found(&f, x + i * QSAE__SUPER, here * QSAE__SUPER, side * QSAE__SUPER);
        search_all(kind, n, &f);
        for (int s = 0; s < here; s++)
            put(f.x + s * QSAE__SUPER, f.code + s * QSAE__SUPER, f.scale + s * groups,
                f.least + s * groups, b + (i + s) * bytes);
    }
}

static void encode_iq4_nl(const float *x, int64_t count, uint8_t *b)
{
    for (int64_t i = 0; i < count; i += BATCH) {
        const int here = (int)qsae__min_i64(BATCH, count - i);
        found f;
        load_found(&f, x + i * 32, here * 32, BATCH * 32);
        search_all(SEARCH_IQ4, 32, &f);
        for (int g = 0; g < here; g++) {
            uint8_t *to = b + (i + g) * 18;
            qsae__put_half(to, f.scale[g]);
            put_iq4(f.x + 32 * g, f.scale[g] != 0 ? 1.0f / f.scale[g] : 0, to + 2);
        }
    }
}

/* The codes are those of the block's extreme; only the scale is fitted to them. */
static void row_iq4_nl(const float *x, int64_t count, uint8_t *b)
{
    const float low = qsae__iq4_values[0];
    for (int64_t i = 0; i < count; i++, b += 18) {
        found f;
        float sum_xq = 0, sum_q2 = 0;
        load_found(&f, x + 32 * i, 32, 32);
        const float max = farthest(f.x, 32), inverse = 1.0f / (max / low);
        const bool zero = fabsf(max) < TINY;
        put_iq4(f.x, inverse, b + 2);
        for (int j = 0; j < 32; j++) {
            const uint8_t code = j < 16 ? b[2 + j] & 15 : b[2 + j - 16] >> 4;
            const float q = qsae__iq4_values[code], wq = f.x[j] * f.x[j] * q;
            sum_xq += wq * f.x[j];
            sum_q2 += wq * q;
        }
        qsae__put_half(b, !zero && sum_q2 > 0 ? sum_xq / sum_q2 : 0);
        if (zero)
            memset(b + 2, 0, 16);
    }
}

static void encode(int32_t dtype, const float *x, int64_t n, uint8_t *b)
{
    const int64_t count = n / QSAE__SUPER;
    switch (dtype) {
    case QSAE_Q2_K:
        encode_super(SEARCH_2, 16, 84, put_q2_k, x, count, b);
        break;
    case QSAE_Q3_K:
        encode_super(SEARCH_3, 16, 110, put_q3_k, x, count, b);
        break;
    case QSAE_Q4_K:
        encode_super(SEARCH_4, 32, 144, put_q4_k, x, count, b);
        break;
    case QSAE_Q5_K:
        encode_super(SEARCH_5, 32, 176, put_q5_k, x, count, b);
        break;
    case QSAE_Q6_K:
        encode_super(SEARCH_6, 16, 210, put_q6_k, x, count, b);
        break;
    case QSAE_IQ4_XS:
        encode_super(SEARCH_IQ4, 32, 136, put_iq4_xs, x, count, b);
        break;
    case QSAE_IQ4_NL:
        encode_iq4_nl(x, n / 32, b);
        break;
    default:
        encode_simple(dtype, x, n, b);
    }
}

static void encode_row(int32_t dtype, const float *x, int64_t n, uint8_t *b)
{
    if (dtype == QSAE_IQ4_NL)
        row_iq4_nl(x, n / 32, b);
    else
        encode(dtype, x, n, b);
}

const qsae__ggml_ops OPS = { decode, encode, encode_row };
