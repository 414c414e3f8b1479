/* SPDX-License-Identifier: BSD-2-Clause */
/* Worked examples of the bitsandbytes formats, derived step by step by hand, and their tables. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/nested.h"
#include "codecs/tables.h"
#include "kernels/int8.h"
#include "tests.h"

static float bits(uint32_t u)
{
    return qsae__f32_from_bits(u);
}

struct block {
    const char *name;
    int64_t n;
    int block;
    float x[40];
    /* NULL: not stated */
    const char *nf4_cuda, *nf4_torch, *fp4_cuda, *fp4_torch;
};

static void check_block(qsae_context *ctx, const struct block *b)
{
    const char *want[4] = { b->nf4_cuda, b->nf4_torch, b->fp4_cuda, b->fp4_torch };
    for (int i = 0; i < 4; i++) {
        char spec[80], packed[200] = "";
        if (!want[i])
            continue;
        snprintf(spec, sizeof spec, "%s:block=%d,double=0,rules=%s", i < 2 ? "nf4" : "fp4",
                 b->block, i % 2 ? "torch" : "cuda");
        qsae_qmatrix *q = test_encode(ctx, spec, b->x, QSAE_F32, 1, b->n, 0);
        const qsae_field f = test_field(q, "weight");
        for (uint64_t k = 0; k < f.bytes; k++)
            sprintf(packed + strlen(packed), "%s%02X", k ? " " : "", ((const uint8_t *)f.data)[k]);
        if (strcmp(packed, want[i]) != 0)
            fail_msg("%s, %s: %s, expected %s", b->name, spec, packed, want[i]);
        qsae_qmatrix_close(&q);
    }
}

static void test_tables(void **state)
{
    (void)state;
    assert_int_equal(test_crc32(qsae__nf4_codes, 64), 0xC471F81Au);
    assert_int_equal(test_crc32(qsae__fp4_map, 64), 0x0967DBC3u);
    assert_int_equal(test_crc32(qsae__dynamic_map, 1024), 0x1B137AEBu);
    for (int i = 0; i < 16; i++)
        assert_true(qsae__fp4_codes[i] == qsae__fp4_map[i]);
    assert_int_equal(qsae__f32_bits(qsae__fp4_codes[8]), 0x80000000u);
    for (int i = 0; i < 15; i++)
        assert_true(qsae__nf4_thresholds[i] == (qsae__nf4_codes[i] + qsae__nf4_codes[i + 1]) / 2);
    static const uint32_t fp4[7] = { 0x3B2AAAB9, 0x3DB00000, 0x3E555555, 0x3E955555,
                                     0x3ED55556, 0x3F155550, 0x3F555555 };
    for (int i = 0; i < 7; i++)
        assert_int_equal(qsae__f32_bits(qsae__fp4_thresholds_cuda[i]), fp4[i]);
    assert_true(qsae__dynamic_map[127] == 0 && qsae__dynamic_map[255] == 1);
    for (int j = 0; j < 127; j++)
        assert_true(qsae__dynamic_map[j] == -qsae__dynamic_map[254 - j]);
    assert_int_equal(qsae__f32_bits(qsae__dynamic_map[0]), 0xBF7E3333u);
    assert_int_equal(qsae__f32_bits(qsae__dynamic_map[63]), 0xBDDB3334u);
    assert_int_equal(qsae__f32_bits(qsae__dynamic_map[129]), 0x365A1A94u);
}

static void test_blocks(void **state)
{
    static struct block blocks[] = {
        { "basic", 8, 64, { 0, 0.5f, -0.5f, 1, -2, 0.04f, 1.72f, -0.21f },
          "7A 4C 07 E6", "7A 4C 07 E6", "07 F5 B1 3E", "07 F5 B1 3E" },
        { "two blocks", 34, 32, { 0 }, "02 6B E0 37 CF 14 9D F1 5A E0 26 BE 13 8C F1 49 D0",
          "02 6B E0 37 CF 14 9D F1 5A E0 26 BE 13 8C F1 49 D0",
          "BD E4 2B D0 53 AC 65 3A E7 2B D9 42 AC 15 3A F6 2B",
          "BD E4 2B D0 53 AC 65 3A E7 2B D9 42 AC 15 3A F6 2B" },
        { "bf16 grid", 16, 64,
          { 1.5f, 0.625f, -0.625f, 0.3125f, -0.3125f, 0.4375f, -0.4375f, 0.875f, -0.875f, 1.25f,
            -1.25f, 0.12890625f, -0.12890625f, 0.001f, -0.001f, 0 },
          NULL, NULL, "34 C7 F4 C2 A3 B1 90 80", "34 C6 E7 F5 D2 A1 E8 00" },
        { "zeros", 4, 64, { 0 }, "00 00", "77 77", "00 00", "00 00" },
        { "NaN", 3, 64, { NAN, 1, -0.5f }, "0F 27", "FF F7", "03 D0", "33 30" },
        { "infinity", 4, 64, { INFINITY, 1, -1, -INFINITY }, "07 70", "F7 7F", "00 00", "30 03" },
        { "odd", 3, 64, { 0.25f, -1, 0.75f }, "A0 E7", "A0 E7", "7B 20", "7B 20" },
    };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int i = 0; i < 34; i++)
        blocks[1].x[i] = (float)(7 * i % 33 - 16) / 16;
    for (int64_t i = 0; i < LENGTH(blocks); i++)
        check_block(ctx, &blocks[i]);
    qsae_context_close(&ctx);
}

static void test_ties(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct block nf4 = { "nf4 ties", 16, 64, { 1 }, "F0 12 34 56 78 9A BC DE",
                         "F0 12 34 56 78 9A BC DE", NULL, NULL };
    struct block fp4 = { "fp4 ties", 8, 64, { 1 }, NULL, NULL, "30 16 74 52", "31 16 74 52" };
    (void)state;
    for (int i = 0; i < 15; i++)
        nf4.x[i + 1] = qsae__nf4_thresholds[i];
    check_block(ctx, &nf4);
    nf4.nf4_cuda = nf4.nf4_torch = "F1 23 45 67 89 AB CD EF";
    for (int i = 0; i < 15; i++)
        nf4.x[i + 1] = nextafterf(qsae__nf4_thresholds[i], 2);
    check_block(ctx, &nf4);
    for (int i = 0; i < 7; i++)
        fp4.x[i + 1] = qsae__fp4_thresholds_cuda[i];
    check_block(ctx, &fp4);
    fp4.fp4_cuda = "38 9E FC DA";
    fp4.fp4_torch = "39 EE FD DA";
    for (int i = 0; i < 7; i++)
        fp4.x[i + 1] = -fp4.x[i + 1];
    check_block(ctx, &fp4);
    qsae_context_close(&ctx);
}

static void test_decoded(void **state)
{
    static const float x[8] = { 0, 0.5f, -0.5f, 1, -2, 0.04f, 1.72f, -0.21f };
    static const float nf4[8] = { 0, 0.4922246038913727f, -0.5688827633857727f, 0.8814196586608887f,
                                  -2, 0, 1.4459136724472046f, -0.1821000725030899f };
    static const float fp4[8] = { 0, 0.5f, -0.5f, 1, -2, 0.010416666977107525f, 2,
                                  -0.3333333432674408f };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int k = 0; k < 2; k++) {
        const char *spec = k ? "fp4:double=0" : "nf4:double=0";
        qsae_qmatrix *q = test_encode(ctx, spec, x, QSAE_F32, 1, 8, 0);
        float *got = test_decode(q, QSAE_F32);
        test_same_f32("decoded", got, k ? fp4 : nf4, 8);
        assert_true(*(const float *)test_field(q, "absmax").data == 2);
        test_release(got);
        qsae_qmatrix_close(&q);
    }
    qsae_context_close(&ctx);
}

/* One rounding of the f32 product; the code itself is never rounded. */
static void test_decode_rounding(void **state)
{
    static const struct {
        int code;
        uint32_t m;
        int32_t dtype;
        uint32_t want;
    } cases[] = {
        { 5, 0x3DFCB924, QSAE_F32, 0xBCBAC940 }, { 5, 0x3DFCB924, QSAE_BF16, 0xBCBB },
        { 5, 0x3DFCB924, QSAE_F16, 0xA5D6 },     { 3, 0x3D2A7000, QSAE_F32, 0xBC869E14 },
        { 3, 0x3D2A7000, QSAE_BF16, 0xBC87 },    { 15, 0x3F808000, QSAE_BF16, 0x3F80 },
        { 15, 0x3F818000, QSAE_BF16, 0x3F82 },   { 15, 0x3F801000, QSAE_F16, 0x3C00 },
        { 15, 0x3F803000, QSAE_F16, 0x3C02 },
    };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        const float m = bits(cases[i].m), x[2] = { m, qsae__nf4_codes[cases[i].code] * m };
        qsae_qmatrix *q = test_encode(ctx, "nf4:double=0", x, QSAE_F32, 1, 2, 0);
        assert_int_equal(*(const uint8_t *)test_field(q, "weight").data, 0xF0 | cases[i].code);
        void *got = test_decode(q, cases[i].dtype);
        assert_int_equal(cases[i].dtype == QSAE_F32 ? ((uint32_t *)got)[1] : ((uint16_t *)got)[1],
                         cases[i].want);
        test_release(got);
        qsae_qmatrix_close(&q);
    }
    qsae_context_close(&ctx);
}

static void test_search(void **state)
{
    (void)state;
    assert_int_equal(qsae__nested_code(QSAE__RULES_CUDA, bits(0xB493A3B7)), 126);
    assert_int_equal(qsae__nested_code(QSAE__RULES_CUDA, bits(0x3493A3B7)), 128);
    assert_int_equal(qsae__nested_code(QSAE__RULES_CUDA, 0.25468748807907104f), 202);
    assert_int_equal(qsae__nested_code(QSAE__RULES_CUDA, 0), 127);
    assert_int_equal(qsae__nested_code(QSAE__RULES_CUDA, NAN), 0);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, 0), 131);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, 1e-6f), 131);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, -1e-6f), 123);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, 0.5f), 219);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, 1), 255);
    assert_int_equal(qsae__nested_code(QSAE__RULES_TORCH, -1), 0);
    uint8_t q[3];
    float absmax;
    const float same[3] = { 2, 2, 2 };
    for (int r = 0; r < 2; r++) { /* maxima that equal their mean */
        qsae__nested_encode((enum qsae__rules)r, same, 3, 2, q, &absmax);
        assert_true(absmax == 0 && q[0] == 0 && q[1] == 0 && q[2] == 0);
    }
}

static void test_nested(void **state)
{
    static const float a[5] = { 1, 2, 3, 4, 10 };
    static const float a_decoded[5] = { 0.9953126907348633f, 2.0078125f, 3.020312547683716f, 4,
                                        10 };
    static const uint8_t a_codes[5] = { 35, 47, 59, 127, 255 };
    static const float b[4] = { 0.0312f, 0.0275f, 0.0298f, 0.0331f };
    static const uint8_t b_codes[4] = { 203, 0, 56, 250 };
    static const uint32_t b_decoded[4] = { 0x3CFF96A7, 0x3CE17271, 0x3CF427D0, 0x3D07A527 };
    uint8_t q[5];
    float absmax, m[5];
    (void)state;
    float offset = qsae__nested_offset(QSAE__RULES_CUDA, a, 5);
    assert_true(offset == 4);
    qsae__nested_encode(QSAE__RULES_CUDA, a, 5, offset, q, &absmax);
    assert_true(absmax == 6);
    assert_memory_equal(q, a_codes, 5);
    qsae__nested_decode(q, 5, &absmax, offset, m);
    test_same_f32("nested", m, a_decoded, 5);
    qsae__nested_encode(QSAE__RULES_TORCH, a, 5, offset, q, &absmax);
    assert_int_equal(q[3], 131);

    offset = qsae__nested_offset(QSAE__RULES_CUDA, b, 4);
    assert_int_equal(qsae__f32_bits(offset), 0x3CF9096C);
    qsae__nested_encode(QSAE__RULES_CUDA, b, 4, offset, q, &absmax);
    assert_int_equal(qsae__f32_bits(absmax), 0x3B3E0DF0);
    assert_memory_equal(q, b_codes, 4);
    qsae__nested_decode(q, 4, &absmax, offset, m);
    for (int i = 0; i < 4; i++)
        assert_int_equal(qsae__f32_bits(m[i]), b_decoded[i]);
    /* Two roundings: fused, the last bit would be 7. */
    q[0] = 33;
    absmax = 0.0121612548828125f;
    qsae__nested_decode(q, 1, &absmax, 0.033538818359375f, m);
    assert_int_equal(qsae__f32_bits(m[0]), 0x3CDE0EC6);
}

/* torch.mean of torch 2.13 on one thread: where its order of sums matters and where not. */
static void test_torch_mean(void **state)
{
    static const struct {
        int64_t n;
        uint32_t mean;
    } known[] = {
        { 1, 0 },              { 3, 0x3E91C448 },   { 7, 0x3ED9DF22 },    { 8, 0x3ED38453 },
        { 9, 0x3EF1BBCB },     { 31, 0x3EFE1D28 },  { 32, 0x3EF8B7BC },   { 33, 0x3EFD3CCA },
        { 255, 0x3EFF0EC1 },   { 1000, 0x3EFFFCE6 }, { 4096, 0x3F0001CB }, { 16385, 0x3EFFF7B7 },
        { 70001, 0x3EFFFEA6 },
    };
    const int64_t most = known[LENGTH(known) - 1].n;
    float *x = test_alloc(most, sizeof(float));
    int64_t differ = 0;
    (void)state;
    for (int64_t i = 0; i < most; i++)
        x[i] = (float)((uint32_t)i * 2654435761u >> 8) * 0x1p-24f;
    for (int64_t i = 0; i < LENGTH(known); i++) {
        const float mean = qsae__nested_offset(QSAE__RULES_TORCH, x, known[i].n);
        assert_int_equal(qsae__f32_bits(mean), known[i].mean);
        differ += mean != qsae__nested_offset(QSAE__RULES_CUDA, x, known[i].n);
    }
    assert_true(differ > 3); /* from the f64 mean, which rules=cuda takes */
    test_release(x);
}

static void test_int8_scale(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float x[4] = { 1.01171875f, 0.505859375f, 1, 0.5f };
    int8_t codes[4];
    float scales[2];
    const qsae_rows rows = test_rows(x, QSAE_F32, 2, 2);
    (void)state;
    assert_int_equal(qsae_int8_quantize(ctx, &rows, 0, codes, scales, NULL), QSAE_OK);
    assert_true(scales[0] == x[0] && scales[1] == 1);
    assert_true(codes[0] == 127 && codes[1] == 63 && codes[2] == 127 && codes[3] == 64);
    qsae_context_close(&ctx);
}

static void expect_linear(const qsae_qmatrix *q, const float *x, int64_t rows, const float *bias,
                          const uint16_t *want)
{
    float y[9];
    const qsae_rows in = test_rows(x, QSAE_F32, rows, 4);
    qsae_rows out = test_rows(y, QSAE_F32, rows, 3);
    assert_int_equal(qsae_qmatrix_linear(q, &in, bias, QSAE_F16, &out), QSAE_OK);
    for (int64_t i = 0; i < 3 * rows; i++)
        if (qsae__f32_to_f16(y[i]) != want[i])
            fail_msg("output %lld: %04X, expected %04X", (long long)i, qsae__f32_to_f16(y[i]),
                     want[i]);
}

static void test_int8(void **state)
{
    float w[12] = { 0.5f, -1, 0.25f, 0.125f, 2, 0.75f, -0.3f, -1.5f, 0.1f, 0.2f, -0.05f, 0 };
    float x[12] = { 1, -2, 8, 0.5f, 0.3f, 3, -1, 6, -0.25f, 0.5f, 5.5f, 2 };
    float bias[3] = { 0.1f, -0.2f, 0.3f };
    static const int8_t cb[12] = { 64, -127, 32, 16, 127, 48, -19, -95, 64, 127, -32, 0 };
    static const int8_t ca[12] = { 64, -127, 0, 0, 13, 127, 0, 0, -6, 12, 0, 0 };
    static const int8_t ca0[12] = { 16, -32, 127, 8, 6, 64, -21, 127, -6, 12, 127, 46 };
    static const int32_t acc[9] = { 20225, 2032, -12033, -15297, 7747, 16961, -1908, -186, 1140 };
    static const uint16_t out[9] = { 0x44B0, 0xC1AD, 0xB66C, 0xC07C, 0xC5FF, 0x3BD9,
                                     0x3C59, 0xC4F7, 0x2E70 };
    static const uint16_t out0[9] = { 0x449A, 0xC150, 0xB9A3, 0xC0C0, 0xC5D4, 0x3977,
                                      0x3BE4, 0xC4C1, 0xB261 };
    static const uint16_t w_outlier[6] = { 0x3408, 0x3008, 0xB4CA, 0xBDFC, 0xAA73, 0x0000 };
    int8_t codes[12];
    float scales[3];
    uint8_t outlier[4];
    int32_t product[9];
    const char *levels[QSAE__LEVEL_COUNT];
    const int64_t n = test_levels(levels);
    (void)state;
    for (int i = 0; i < 12; i++) {
        w[i] = qsae__round_f16(w[i]);
        x[i] = qsae__round_f16(x[i]);
    }
    for (int i = 0; i < 3; i++)
        bias[i] = qsae__round_f16(bias[i]);
    for (int64_t level = 0; level < n; level++) {
        qsae_context *ctx = test_context(levels[level], 1);
        const qsae_rows rows = test_rows(x, QSAE_F32, 3, 4);
        const qsae_rows last = test_rows(x + 8, QSAE_F32, 1, 4);
        qsae_qmatrix *q = test_encode(ctx, "llm.int8", w, QSAE_F16, 3, 4, 0);
        qsae_qmatrix *t = test_encode(ctx, "llm.int8:rules=torch", w, QSAE_F16, 3, 4, 0);
        qsae_qmatrix *q0 = test_encode(ctx, "llm.int8:threshold=0", w, QSAE_F16, 3, 4, 0);
        const float *scb = test_field(q, "SCB").data;
        assert_memory_equal(test_field(q, "weight").data, cb, 12);
        assert_true(scb[0] == 1 && scb[1] == 2 && scb[2] == 0.199951171875f);
        assert_int_equal(qsae_int8_quantize(ctx, &rows, 6, codes, scales, outlier), QSAE_OK);
        assert_memory_equal(codes, ca, 12);
        assert_true(scales[0] == 2 && scales[1] == 3 && scales[2] == 5.5f);
        assert_true(!outlier[0] && !outlier[1] && outlier[2] && outlier[3]);
        for (int i = 0; i < 9; i++) {
            product[i] = 0;
            for (int k = 0; k < 4; k++)
                product[i] += codes[i / 3 * 4 + k] * cb[i % 3 * 4 + k];
        }
        assert_memory_equal(product, acc, sizeof acc);
        for (int i = 0; i < 6; i++) {
            float v;
            q->ops->decode(q, i / 2, 2 + i % 2, 1, QSAE_F16, &v);
            assert_int_equal(qsae__f32_to_f16(v), w_outlier[i]);
        }
        expect_linear(q, x, 3, bias, out);
        expect_linear(t, x, 3, bias, out);
        expect_linear(q0, x, 3, NULL, out0);
        /* The last row alone has no outlier. */
        assert_int_equal(qsae_int8_quantize(ctx, &last, 6, codes, scales, outlier), QSAE_OK);
        assert_memory_equal(codes, ca0 + 8, 4);
        assert_int_equal(qsae_int8_quantize(ctx, &rows, 0, codes, scales, NULL), QSAE_OK);
        assert_memory_equal(codes, ca0, 12);
        qsae_qmatrix_close(&q);
        qsae_qmatrix_close(&t);
        qsae_qmatrix_close(&q0);
        qsae_context_close(&ctx);
    }
}

int run_examples(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),     cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_ties),       cmocka_unit_test(test_decoded),
        cmocka_unit_test(test_decode_rounding), cmocka_unit_test(test_search),
        cmocka_unit_test(test_nested),     cmocka_unit_test(test_torch_mean),
        cmocka_unit_test(test_int8_scale), cmocka_unit_test(test_int8),
    };
    return cmocka_run_group_tests_name("codecs/examples", tests, NULL, NULL);
}
