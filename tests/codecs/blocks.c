/* SPDX-License-Identifier: BSD-2-Clause */
/* Block coders of every level against their definition, element by element; decoding of any part of
 * a row, also to bf16 values, for every codec. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codecs/tables.h"
#include "kernels/blocks.h"
#include "tests.h"

#define CANARY 0xa55a
#define MARGIN 40

static uint64_t next(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

static float bits(uint32_t u)
{
    return qsae__f32_from_bits(u);
}

/* Magnitudes from subnormal to huge, zeros, and if `wild` also NaN and infinity. */
static float any_value(uint64_t *s, bool wild)
{
    static const uint32_t odd[] = { 0, 0x80000000, 1, 0x807fffff, 0x7f7fffff, 0xff7f8000,
                                    0x3f808000, 0x3f818000, 0x7f800000, 0xff800000, 0x7f800001,
                                    0xffc12345 };
    const uint64_t r = next(s);
    if (r % 8 == 0)
        return bits(odd[r / 8 % (wild ? LENGTH(odd) : 8)]);
    const float v = bits((uint32_t)(next(s) << 1 ^ next(s)));
    return wild || isfinite(v) ? v : 1;
}

/* Element i of the flat matrix by the formats' definitions. */
static float element(const qsae_qmatrix *q, int64_t row, int64_t col)
{
    const int64_t i = row * q->n_in + col;
    const uint8_t *b = q->codes;
    const bool by_row = q->codec.axis == QSAE__AXIS_ROW || q->codec.axis == QSAE__AXIS_TL;
    const int64_t group = by_row && q->codec.group ? q->codec.group : q->n_in;
    float x = 0;
    switch (q->codec.codec) {
    case QSAE__NF4:
    case QSAE__FP4:
        return (q->codec.codec == QSAE__NF4 ? qsae__nf4_codes
                                            : qsae__fp4_codes)[b[i / 2] >> (i % 2 ? 0 : 4) & 15] *
               q->scale[i / q->codec.block];
    case QSAE__INT8:
        return (float)((int8_t)b[i]) * q->scale[row] * (1 / 127.0f);
    case QSAE__RTN: {
        const int64_t at = q->codec.axis == QSAE__AXIS_COLUMN   ? col
                           : q->codec.axis == QSAE__AXIS_TENSOR ? 0
                                                                : row % q->scale_rows *
                                                                          q->scale_cols +
                                                                      col / group;
        const float code = q->zero ? (float)b[i] - q->zero[at] : (float)(int8_t)b[i];
        return q->scale[at] * code;
    }
    default:
        (void)qsae__to_f32(q->dtype, b + i * qsae_dtype_bits(q->dtype) / 8, 1, &x);
        return x;
    }
}

/* Part c0..c0+n of a row in every form. */
static void check_part(const qsae_qmatrix *q, const char *what, int64_t row, int64_t c0, int64_t n)
{
    static const int32_t types[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    uint16_t *half = test_alloc(n + 2 * MARGIN, sizeof *half);
    float *x = test_alloc(n + 2 * MARGIN, sizeof *x);
    const float mark = bits(CANARY);
    for (int64_t i = 0; i < n + 2 * MARGIN; i++)
        half[i] = CANARY;
    q->ops->decode16(q, row, c0, n, half + MARGIN);
    for (int64_t i = -MARGIN; i < n + MARGIN; i++) {
        const bool in = i >= 0 && i < n;
        const uint16_t want = in ? qsae__f32_to_bf16(element(q, row, c0 + i)) : CANARY;
        if (half[MARGIN + i] != want)
            fail_msg("%s, level %s: decode16 of row %lld, %lld + %lld of %lld: %04X, expected %04X",
                     what, qsae_context_cpu(q->ctx), (long long)row, (long long)c0, (long long)i,
                     (long long)n, half[MARGIN + i], want);
    }
    for (int t = 0; t < 3; t++) {
        for (int64_t i = 0; i < n + 2 * MARGIN; i++)
            x[i] = mark;
        q->ops->decode(q, row, c0, n, types[t], x + MARGIN);
        for (int64_t i = -MARGIN; i < n + MARGIN; i++) {
            const bool in = i >= 0 && i < n;
            const float want = in ? qsae__round_to(types[t], element(q, row, c0 + i)) : mark;
            if (qsae__f32_bits(x[MARGIN + i]) != qsae__f32_bits(want))
                fail_msg("%s, level %s: %s of row %lld, %lld + %lld of %lld: %08X, expected %08X",
                         what, qsae_context_cpu(q->ctx), qsae_dtype_name(types[t]), (long long)row,
                         (long long)c0, (long long)i, (long long)n,
                         qsae__f32_bits(x[MARGIN + i]), qsae__f32_bits(want));
        }
    }
    test_release(half);
    test_release(x);
}

static void check_matrix(qsae_context *ctx, const char *spec, int32_t dtype, int64_t rows,
                         int64_t cols, bool wild, uint64_t seed)
{
    char what[160];
    uint64_t s = seed;
    float *x = test_alloc(rows * cols, sizeof *x);
    snprintf(what, sizeof what, "%s, %lld x %lld, seed %llu", spec, (long long)rows,
             (long long)cols, (unsigned long long)seed);
    test_random(seed, x, rows * cols);
    for (int64_t i = 0; wild && i < rows * cols; i++)
        if (next(&s) % 50 == 0)
            x[i] = any_value(&s, true);
    qsae_qmatrix *q = test_encode(ctx, spec, x, dtype, rows, cols, 0);
    for (int64_t row = 0; row < rows; row++) {
        check_part(q, what, row, 0, cols);
        for (int i = 0; i < 12; i++) {
            const int64_t c0 = (int64_t)(next(&s) % (uint64_t)cols);
            const int64_t most = i < 6 ? qsae__min_i64(cols - c0, 40) : cols - c0;
            check_part(q, what, row, c0, (int64_t)(next(&s) % (uint64_t)(most + 1)));
        }
    }
    qsae_qmatrix_close(&q);
    test_release(x);
}

static void test_parts(void **state)
{
    static const char *const specs[] = {
        "rtn:bits=4,group=64", "rtn:bits=8", "rtn:bits=3,group=7,sym=0", "rtn:axis=column,sym=0",
        "rtn:axis=column", "rtn:axis=tensor,bits=5,sym=0", "rtn:axis=tl,bits=6", "llm.int8",
    };
    static const int32_t types[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    const char *names[QSAE__LEVEL_COUNT];
    const int64_t levels = test_levels(names);
    (void)state;
    for (int64_t l = 0; l < levels; l++) {
        qsae_context *ctx = test_context(names[l], 1);
        uint64_t seed = 1000;
        for (int64_t i = 0; i < LENGTH(specs); i++)
            for (int64_t cols = 1; cols < 240; cols = cols * 2 + 7)
                check_matrix(ctx, specs[i], QSAE_BF16, 5, cols, cols % 4 == 1, seed++);
        for (int t = 0; t < 3; t++)
            check_matrix(ctx, "none", types[t], 3, 1100 + t, true, seed++);
        for (int block = 32; block <= 4096; block *= 2)
            for (int k = 0; k < 4; k++) {
                char spec[60];
                snprintf(spec, sizeof spec, "%s:block=%d,double=%d", k & 1 ? "fp4" : "nf4", block,
                         k >> 1);
                check_matrix(ctx, spec, types[k % 3], 3, block + 33 + k, false, seed++);
                check_matrix(ctx, spec, types[k % 3], 6, block / 2 + 3, k < 2, seed++);
            }
        qsae_context_close(&ctx);
    }
}

/* Scales of any kind: the products may be subnormal, infinite or NaN. */
static void test_scales(void **state)
{
    (void)state;
    for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
        const qsae__block_ops *ops = qsae__blocks_level(level);
        uint64_t s = 77;
        for (int round = 0; round < 300; round++) {
            uint8_t codes[256];
            float scale[16], zero[16], x[512];
            uint16_t half[512];
            for (int i = 0; i < 256; i++)
                codes[i] = (uint8_t)next(&s);
            for (int i = 0; i < 16; i++) {
                scale[i] = any_value(&s, true);
                zero[i] = (float)(next(&s) % 256);
            }
            const qsae__codes4 c = { codes, scale, round % 2 ? qsae__nf4_codes : qsae__fp4_codes,
                                     32 };
            const int64_t first = (int64_t)(next(&s) % 100);
            ops->bf16_4(&c, first, 512 - first, half);
            ops->f32_4(&c, first, 512 - first, round % 3 == 0, x);
            for (int64_t i = first; i < 512; i++) {
                const float v = c.values[codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale[i / 32];
                const float want = round % 3 == 0 ? qsae__round_bf16(v) : v;
                if (half[i - first] != qsae__f32_to_bf16(v) ||
                    qsae__f32_bits(x[i - first]) != qsae__f32_bits(want))
                    fail_msg("level %s, round %d, element %d", qsae__level_name(level), round,
                             (int)i);
            }
            const qsae__codes8 b = { codes, round % 4 < 2, scale, round % 2 ? zero : NULL, 0, 1 };
            ops->bf16_8(&b, 256, half);
            for (int i = 0; i < 256; i++) {
                const float code = b.is_signed ? (float)(int8_t)codes[i] : (float)codes[i];
                const float v = (code - (b.zero ? zero[0] : 0)) * scale[0];
                if (half[i] != qsae__f32_to_bf16(v))
                    fail_msg("level %s, round %d, byte %d", qsae__level_name(level), round, i);
            }
        }
    }
}

static void test_narrow(void **state)
{
    char raw[1 + 4 * 600];
    uint16_t half[600];
    uint64_t s = 5;
    (void)state;
    for (int32_t level = 0; level <= qsae__cpu_level(); level++)
        for (int64_t n = 0; n < 600; n += 1 + n / 16) {
            float x[600];
            for (int64_t i = 0; i < 600; i++)
                x[i] = any_value(&s, true);
            memcpy(raw + 1, x, sizeof x);
            memset(half, 0x5a, sizeof half);
            qsae__blocks_level(level)->narrow(raw + 1, n, half);
            for (int64_t i = 0; i < 600; i++)
                if (half[i] != (i < n ? qsae__f32_to_bf16(x[i]) : 0x5a5a))
                    fail_msg("level %s, element %d of %d", qsae__level_name(level), (int)i, (int)n);
        }
}

/* Values at, below and above each threshold, scaled by an inexact factor, and special ones. */
static void test_coder(void **state)
{
    enum { N = 15 * 6 + 20 };
    qsae__coder4 c = { .nan = 9 };
    float x[N];
    uint8_t packed[N / 2 + 8];
    uint64_t s = 9;
    (void)state;
    for (int i = 0; i < 16; i++) {
        c.thresholds[i] = i < 15 ? qsae__nf4_thresholds[i] : INFINITY;
        c.codes[i] = (uint8_t)(i * 7 % 16);
    }
    for (int i = 0; i < N; i++) {
        const float t = c.thresholds[i % 15] / 0.7f;
        x[i] = i < 30 ? t : i < 60 ? nextafterf(t, 2) : i < 90 ? nextafterf(t, -2)
                                                               : any_value(&s, true);
    }
    for (int32_t level = 0; level <= qsae__cpu_level(); level++)
        for (int k = 0; k < 2 * N; k++) {
            const int n = k / 2;
            const float scale = k % 2 ? 0.7f : 1;
            memset(packed, 0x77, sizeof packed);
            qsae__blocks_level(level)->encode4(&c, x + (N - n) / 2, scale, n, packed);
            for (int i = 0; i < 2 * (int)sizeof packed; i++) {
                int want = i < (n + 1) / 2 * 2 ? 0 : 7, below = 0;
                if (i < n) {
                    const float u = x[(N - n) / 2 + i] * scale;
                    for (int j = 0; j < 15; j++)
                        below += c.thresholds[j] < u;
                    want = isnan(u) ? c.nan : c.codes[below];
                }
                if ((packed[i / 2] >> (i % 2 ? 0 : 4) & 15) != want)
                    fail_msg("level %s: code %d of %d, expected %d", qsae__level_name(level), i, n,
                             want);
            }
        }
}

/* The GPU's fp4 compares magnitudes: ties on both sides of zero, signed zeros, subnormals. */
static void test_fp4_ties(void **state)
{
    float x[64] = { 1, 0.0f, -0.0f, 1e-45f, -1e-45f, -1 };
    (void)state;
    for (int i = 0; i < 58; i++) {
        const float t = qsae__fp4_thresholds_cuda[i % 7];
        const float v = i < 20 ? t : i < 40 ? nextafterf(t, 2) : nextafterf(t, 0);
        x[6 + i] = i % 2 ? v : -v;
    }
    const char *names[QSAE__LEVEL_COUNT];
    const int64_t levels = test_levels(names);
    for (int64_t l = 0; l < levels; l++) {
        qsae_context *ctx = test_context(names[l], 1);
        qsae_qmatrix *q = test_encode(ctx, "fp4:double=0,rules=cuda", x, QSAE_F32, 1, 64, 0);
        const uint8_t *packed = test_field(q, "weight").data;
        for (int i = 0; i < 64; i++) {
            int above = 0;
            for (int j = 0; j < 7; j++)
                above += fabsf(x[i]) > qsae__fp4_thresholds_cuda[j];
            const int want = qsae__fp4_magnitudes[above] | (x[i] < 0 ? 8 : 0);
            if ((packed[i / 2] >> (i % 2 ? 0 : 4) & 15) != want)
                fail_msg("level %s: %.9g, expected code %d", names[l], (double)x[i], want);
        }
        qsae_qmatrix_close(&q);
        qsae_context_close(&ctx);
    }
}

int run_blocks(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),  cmocka_unit_test(test_scales),
        cmocka_unit_test(test_narrow), cmocka_unit_test(test_coder),
        cmocka_unit_test(test_fp4_ties),
    };
    return cmocka_run_group_tests_name("codecs/blocks", tests, NULL, NULL);
}
