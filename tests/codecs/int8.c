/* SPDX-License-Identifier: BSD-2-Clause */
/* LLM.int8 against bitsandbytes 0.50.2 on a CPU and a model of its GPU kernels. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codecs/int8.h"
#include "kernels/int8.h"
#include "tests.h"

struct layer {
    qsae_context *ctx;
    const struct test_file *t;
    const char *name, *key;   /* case, "t6" or "t0" */
    int32_t dtype;
    int64_t rows, in, out, outliers;
    const float *x, *bias;
    const int32_t *columns;
};

static void check_quantize(const struct layer *l, float threshold)
{
    int8_t *codes = test_alloc(l->rows * l->in, 1);
    float *scales = test_alloc(l->rows, sizeof(float));
    uint8_t *outlier = test_alloc(l->in, 1);
    void *stored = test_alloc(l->rows * l->in, sizeof(float));
    int64_t found = 0;
    assert_true(qsae__from_f32(l->dtype, l->x, l->rows * l->in, stored));
    const qsae_rows x = test_rows(stored, l->dtype, l->rows, l->in);
    assert_int_equal(qsae_int8_quantize(l->ctx, &x, threshold, codes, scales, outlier), QSAE_OK);
    const qsae__tensor *ca = test_tensor(l->t, QSAE_I8, "%s.%s.ca", l->name, l->key);
    test_same_bytes(ca->name, codes, ca->data, (size_t)ca->bytes);
    test_same_f32("sca", scales, test_tensor(l->t, QSAE_F32, "%s.%s.sca", l->name, l->key)->data,
                  l->rows);
    for (int64_t j = 0; j < l->in; j++)
        if (outlier[j]) {
            assert_true(found < l->outliers);
            assert_int_equal(l->columns[found++], j);
        }
    assert_int_equal(found, l->outliers);
    /* The product of these codes. */
    int32_t *acc = test_alloc(l->rows * l->out, sizeof(int32_t));
    const qsae__tensor *cb = test_tensor(l->t, QSAE_I8, "%s.cb", l->name);
    const qsae__tensor *want = test_tensor(l->t, QSAE_I32, "%s.%s.acc", l->name, l->key);
    for (int64_t i = 0; i < l->rows; i++)
        for (int64_t j = 0; j < l->out; j++) {
            const int8_t *w = (const int8_t *)cb->data + j * l->in;
            acc[i * l->out + j] = 0;
            for (int64_t k = 0; k < l->in; k++)
                acc[i * l->out + j] += codes[i * l->in + k] * w[k];
        }
    test_same_bytes(want->name, acc, want->data, (size_t)want->bytes);
    test_release(acc);
    test_release(stored);
    test_release(outlier);
    test_release(scales);
    test_release(codes);
}

/* Distance between numbers of dtype around v. */
static float unit(int32_t dtype, float v)
{
    const int digits = dtype == QSAE_F32 ? 23 : dtype == QSAE_BF16 ? 7 : 10;
    int e;
    frexpf(v, &e);
    return ldexpf(1, e - 1 - digits);
}

/*
 * The sum over outlier columns has no stated order in the reference. Sums of n products in any
 * order are within n * 2^-24 of sum |x||w| + |y| of each other; then both are rounded to dtype,
 * which may add one unit of it.
 */
static void check_near(const struct layer *l, const qsae_qmatrix *q, const float *got,
                       const qsae__tensor *y, const qsae__tensor *out)
{
    const float *w = test_tensor(l->t, QSAE_F32, "%s.%s.w_outlier", l->name, l->key)->data;
    const float *yv = y->data, *want = out->data;
    for (int64_t i = 0; i < l->rows; i++)
        for (int64_t o = 0; o < l->out; o++) {
            double size = fabs((double)yv[i * l->out + o]);
            for (int64_t j = 0; j < l->outliers; j++) {
                float decoded;
                q->ops->decode(q, o, l->columns[j], 1, l->dtype, &decoded);
                assert_true(decoded == w[o * l->outliers + j]);
                size += fabs((double)l->x[i * l->in + l->columns[j]] * w[o * l->outliers + j]);
            }
            const float a = got[i * l->out + o], b = want[i * l->out + o];
            const double bound = size * (double)(l->outliers + 1) * 0x1p-24 +
                                 (l->dtype == QSAE_F32 ? 0 : (double)unit(l->dtype, b));
            if (a != b && !(fabs((double)a - (double)b) <= bound))
                fail_msg("%s: row %lld, output %lld: %.9g, expected %.9g +- %g", out->name,
                         (long long)i, (long long)o, (double)a, (double)b, bound);
        }
}

static void check_linear(const struct layer *l, const qsae_qmatrix *q, const char *rules, int bias)
{
    float *y = test_alloc(l->rows * (l->out + 3), sizeof(float));
    const qsae_rows x = test_rows(l->x, QSAE_F32, l->rows, l->in);
    qsae_rows out = test_rows(y, QSAE_F32, l->rows, l->out);
    assert_int_equal(qsae_qmatrix_linear(q, &x, bias ? l->bias : NULL, l->dtype, &out), QSAE_OK);
    const qsae__tensor *want =
        test_tensor(l->t, QSAE_F32, "%s.%s.bias%d.%s.y", l->name, l->key, bias, rules);
    if (l->outliers == 0)
        test_same_f32(want->name, y, want->data, l->rows * l->out);
    else
        check_near(l, q, y, want,
                   test_tensor(l->t, QSAE_F32, "%s.%s.bias%d.%s.out", l->name, l->key, bias,
                               rules));
    /* With a row stride, and a call per tensor: the same bits. */
    float *strided = test_alloc(l->rows * (l->out + 3), sizeof(float));
    out = test_rows(strided, QSAE_F32, l->rows, l->out);
    out.row_stride = l->out + 3;
    assert_int_equal(qsae_qmatrix_linear(q, &x, bias ? l->bias : NULL, l->dtype, &out), QSAE_OK);
    for (int64_t i = 0; i < l->rows; i++)
        test_same_f32("strided", strided + i * (l->out + 3), y + i * l->out, l->out);
    test_release(strided);
    test_release(y);
}

static void check_case(struct layer l, const json_t *c)
{
    static const char *const rules[] = { "cuda", "torch" };
    json_t *run;
    size_t at;
    l.name = test_json_str(c, "name");
    l.rows = test_json_int(c, "rows");
    l.in = test_json_int(c, "in");
    l.out = test_json_int(c, "out");
    l.dtype = test_dtype(test_json_str(c, "dtype"));
    l.x = test_tensor(l.t, QSAE_F32, "%s.x", l.name)->data;
    l.bias = test_tensor(l.t, QSAE_F32, "%s.bias", l.name)->data;
    const qsae__tensor *cb = test_tensor(l.t, QSAE_I8, "%s.cb", l.name);
    json_array_foreach(json_object_get(c, "runs"), at, run) {
        const double threshold = json_number_value(json_object_get(run, "threshold"));
        l.key = test_json_str(run, "key");
        l.outliers = test_json_int(run, "outliers");
        l.columns = test_tensor(l.t, QSAE_I32, "%s.%s.columns", l.name, l.key)->data;
        check_quantize(&l, (float)threshold);
        for (int r = 0; r < 2; r++) {
            char spec[100];
            snprintf(spec, sizeof spec, "llm.int8:threshold=%d,rules=%s", (int)threshold, rules[r]);
            qsae_qmatrix *q =
                test_encode(l.ctx, spec, test_tensor(l.t, QSAE_F32, "%s.w", l.name)->data,
                            test_dtype(test_json_str(c, "weight_dtype")), l.out, l.in, 0);
            test_same_bytes(cb->name, test_field(q, "weight").data, cb->data, (size_t)cb->bytes);
            test_same_f32("scb", test_field(q, "SCB").data,
                          test_tensor(l.t, QSAE_F32, "%s.scb", l.name)->data, l.out);
            check_linear(&l, q, rules[r], 0);
            check_linear(&l, q, rules[r], 1);
            qsae_qmatrix_close(&q);
        }
    }
}

static void test_layers(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "llm_int8.safetensors");
    json_t *j = test_json(ctx[0], "llm_int8.json"), *c;
    size_t at;
    (void)state;
    assert_true(json_array_size(json_object_get(j, "cases")) >= 20);
    for (int64_t i = 0; i < n; i++)
        json_array_foreach(json_object_get(j, "cases"), at, c)
            check_case((struct layer){ .ctx = ctx[i], .t = t }, c);
    json_decref(j);
    test_unload(t);
    test_contexts_close(ctx, n);
}

static void quantize_special(qsae_context *ctx, const struct test_file *t, const float *x,
                             int64_t rows, int rules, float threshold, const char *prefix,
                             const char *columns)
{
    int8_t codes[64];
    float scales[8];
    uint8_t outlier[4] = { 0 };
    const qsae__source src = { .ctx = ctx, .data = x, .dtype = QSAE_F32, .n_out = rows, .n_in = 4,
                               .out_stride = 4, .in_stride = 1 };
    qsae__int8_rows out = { .codes = codes, .scale = scales, .outlier = outlier };
    const qsae__tensor *ca = test_tensor(t, QSAE_I8, "%s.ca", prefix);
    const qsae__tensor *j = test_tensor(t, QSAE_I32, "%s.columns", columns);
    assert_int_equal(
        qsae__int8_quantize_rows(&src, (enum qsae__rules)rules, threshold, false, &out), QSAE_OK);
    test_same_bytes(ca->name, codes, ca->data, (size_t)ca->bytes);
    test_same_f32(prefix, scales, test_tensor(t, QSAE_F32, "%s.sca", prefix)->data, rows);
    assert_int_equal(out.n_outliers, test_count(j));
    for (int64_t i = 0; i < test_count(j); i++)
        assert_int_equal(outlier[((const int32_t *)j->data)[i]], 1);
}

static void test_special(void **state)
{
    static const char *const rules[] = { "cuda", "torch" };
    const char *levels[QSAE__LEVEL_COUNT];
    const int64_t n = test_levels(levels);
    (void)state;
    for (int64_t level = 0; level < n; level++) {
        qsae_context *ctx = test_context(levels[level], 2);
        struct test_file *t = test_load(ctx, "llm_int8_special.safetensors");
        const float *x = test_tensor(t, QSAE_F32, "x")->data;
        char prefix[40];
        for (int r = 0; r < 2; r++) {
            snprintf(prefix, sizeof prefix, "t6.%s", rules[r]);
            quantize_special(ctx, t, x, 8, r, 6, prefix, "t6");
            snprintf(prefix, sizeof prefix, "t0.%s", rules[r]);
            quantize_special(ctx, t, x, 8, r, 0, prefix, "t0");
        }
        for (int i = 0; i < 8; i++) {
            snprintf(prefix, sizeof prefix, "row%d", i);
            quantize_special(ctx, t, x + 4 * i, 1, QSAE__RULES_CUDA, 6, prefix, prefix);
        }
        qsae_qmatrix *q =
            test_encode(ctx, "llm.int8", test_tensor(t, QSAE_F32, "w")->data, QSAE_F32, 2, 4, 0);
        const qsae__tensor *cb = test_tensor(t, QSAE_I8, "cb");
        test_same_bytes("cb", test_field(q, "weight").data, cb->data, (size_t)cb->bytes);
        test_same_f32("scb", test_field(q, "SCB").data, test_tensor(t, QSAE_F32, "scb")->data, 2);
        qsae_qmatrix_close(&q);
        test_unload(t);
        qsae_context_close(&ctx);
    }
}

/* fp16 rounding of the level kernels against the scalar one, over many bit patterns. */
static void test_round_f16(void **state)
{
    const char *levels[QSAE__LEVEL_COUNT];
    const int64_t n_levels = test_levels(levels);
    float x[256], want[256];
    (void)state;
    for (int64_t level = 0; level < n_levels; level++) {
        qsae_context *ctx = test_context(levels[level], 1);
        uint32_t bits = 0;
        for (int64_t r = 0; r < 4096; r++) {
            for (int64_t i = 0; i < 256; i++, bits += 4099)
                x[i] = qsae__f32_from_bits(r & 1 ? bits : bits & 0xfffff000u);
            for (int64_t i = 0; i < 256; i++)
                want[i] = qsae__round_f16(x[i]);
            qsae__int8_get(ctx)->round_f16(x, 253);
            test_same_f32("round_f16", x, want, 253);
        }
        qsae_context_close(&ctx);
    }
}

/* Rows share their outlier columns with the batch they are in (bitsandbytes issue 28). */
static void test_batch(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    float x[3 * 32], w[8 * 32], whole[3 * 8], alone[8];
    (void)state;
    test_random(9, x, 96);
    test_random(10, w, 256);
    x[32 + 4] = 30; /* only row 1 has an outlier */
    qsae_qmatrix *q = test_encode(ctx, "llm.int8", w, QSAE_F32, 8, 32, 0);
    const qsae_rows all = test_rows(x, QSAE_F32, 3, 32), one = test_rows(x, QSAE_F32, 1, 32);
    qsae_rows y = test_rows(whole, QSAE_F32, 3, 8), y1 = test_rows(alone, QSAE_F32, 1, 8);
    assert_int_equal(qsae_qmatrix_linear(q, &all, NULL, QSAE_F32, &y), QSAE_OK);
    assert_int_equal(qsae_qmatrix_linear(q, &one, NULL, QSAE_F32, &y1), QSAE_OK);
    assert_memory_not_equal(whole, alone, sizeof alone);
    qsae_qmatrix_close(&q);
    qsae_context_close(&ctx);
}

/* With outliers=row each row of a batch is what it would be in a call of its own. */
static void test_by_row(void **state)
{
    enum { ROWS = 37, K = 100, OUT = 33 };
    static const char *const rules[] = { "cuda", "torch" };
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *const x = test_alloc(ROWS * K, sizeof *x), *const w = test_alloc(OUT * K, sizeof *w);
    float *const y = test_alloc(ROWS * OUT, sizeof *y), alone[OUT], bias[OUT];
    (void)state;
    test_random(21, x, ROWS * K);
    test_random(22, w, OUT * K);
    test_random(23, bias, OUT);
    for (int64_t i = 0; i < ROWS * K; i += 61) /* some rows with several, some with none */
        x[i] *= 9;
    for (int64_t c = 0; c < n; c++)
        for (int i = 0; i < 6; i++) {
            char spec[2][80];
            const int32_t dtype = dtypes[i / 2];
            for (int64_t j = 0; j < ROWS * K; j++)
                x[j] = qsae__round_to(dtype, x[j]);
            snprintf(spec[0], sizeof spec[0], "llm.int8:threshold=3.5,rules=%s,outliers=row",
                     rules[i % 2]);
            snprintf(spec[1], sizeof spec[1], "llm.int8:threshold=3.5,rules=%s", rules[i % 2]);
            qsae_qmatrix *q = test_encode(ctx[c], spec[0], w, QSAE_F32, OUT, K, 0);
            qsae_qmatrix *p = test_encode(ctx[c], spec[1], w, QSAE_F32, OUT, K, 0);
            const qsae_rows all = test_rows(x, QSAE_F32, ROWS, K);
            qsae_rows out = test_rows(y, QSAE_F32, ROWS, OUT);
            assert_int_equal(qsae_qmatrix_linear(q, &all, bias, dtype, &out), QSAE_OK);
            for (int64_t r = 0; r < ROWS; r++) {
                const qsae_rows one = test_rows(x + r * K, QSAE_F32, 1, K);
                qsae_rows y1 = test_rows(alone, QSAE_F32, 1, OUT);
                assert_int_equal(qsae_qmatrix_linear(p, &one, bias, dtype, &y1), QSAE_OK);
                test_same_f32(spec[0], y + r * OUT, alone, OUT);
            }
            qsae_qmatrix_close(&q);
            qsae_qmatrix_close(&p);
        }
    test_release(x);
    test_release(w);
    test_release(y);
    test_contexts_close(ctx, n);
}

int run_int8(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),    cmocka_unit_test(test_special),
        cmocka_unit_test(test_round_f16), cmocka_unit_test(test_batch),
        cmocka_unit_test(test_by_row),
    };
    return cmocka_run_group_tests_name("codecs/int8", tests, NULL, NULL);
}
