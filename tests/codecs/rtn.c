/* SPDX-License-Identifier: BSD-2-Clause */
/* Round to nearest against torch (tests/reference/codecs.py); bf16 arithmetic step by step. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests.h"

static void check_run(qsae_context *ctx, const struct test_file *t, const json_t *c,
                      const json_t *run)
{
    const char *name = test_json_str(c, "name"), *key = test_json_str(run, "key");
    const int64_t rows = test_json_int(c, "rows"), cols = test_json_int(c, "cols");
    char spec[100], tensor[120];
    snprintf(spec, sizeof spec, "rtn:bits=%d,axis=%s,group=%d,sym=%d,arith=f32",
             (int)test_json_int(run, "bits"), test_json_str(run, "axis"),
             (int)test_json_int(run, "group"), (int)test_json_int(run, "sym"));
    qsae_qmatrix *q = test_encode(ctx, spec, test_tensor(t, QSAE_F32, "%s.w", name)->data, QSAE_F32,
                                  rows, cols, test_json_int(c, "heads"));
    const qsae_field codes = test_field(q, "codes"), scale = test_field(q, "scale");
    const qsae__tensor *want = test_tensor(t, QSAE_F32, "%s.scale", key);
    assert_int_equal(scale.shape[0], want->shape[0]);
    assert_int_equal(scale.shape[1], want->shape[1]);
    test_same_f32(want->name, scale.data, want->data, test_count(want));
    if (test_crc32(codes.data, (size_t)codes.bytes) !=
        (uint32_t)strtoul(test_json_str(run, "codes_crc32"), NULL, 16))
        fail_msg("%s: codes", key);
    snprintf(tensor, sizeof tensor, "%s.codes", key);
    const qsae__tensor *stored = test_find(t, tensor);
    if (stored) {
        assert_int_equal(codes.dtype, stored->dtype);
        test_same_bytes(stored->name, codes.data, stored->data, (size_t)stored->bytes);
    }
    if (test_json_int(run, "sym") == 0) {
        const qsae_field zero = test_field(q, "zero");
        const int32_t *z = test_tensor(t, QSAE_I32, "%s.zero", key)->data;
        for (int64_t i = 0; i < test_count(want); i++)
            assert_true(((const float *)zero.data)[i] == (float)z[i]);
    }
    for (int i = 0; i < 2; i++) {
        const char *crc = test_json_str(run, i ? "decoded_bf16_crc32" : "decoded_crc32");
        if (test_crc32_decoded(q, i ? QSAE_BF16 : QSAE_F32) != (uint32_t)strtoul(crc, NULL, 16))
            fail_msg("%s: decoded", key);
    }
    qsae__qmatrix_unref(&q);
}

static void test_fixtures(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "rtn.safetensors");
    json_t *j = test_json(ctx[0], "rtn.json"), *c, *run;
    size_t at, r;
    (void)state;
    for (int64_t i = 0; i < n; i++)
        json_array_foreach(json_object_get(j, "cases"), at, c)
            json_array_foreach(json_object_get(c, "runs"), r, run)
                check_run(ctx[i], t, c, run);
    json_decref(j);
    test_unload(t);
    test_contexts_close(ctx, n);
}

/*
 * arith=weight on bf16: absmax / qmax, w / scale and code * scale are each rounded to bf16. The
 * scale may come out small enough for -absmax to reach qmin = -2^(b-1).
 */
static void test_bf16(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    int64_t least = 0;
    (void)state;
    for (int bits = 2; bits <= 8; bits++)
        for (int i = 0; i < 128; i++) {
            const float m = 1 + (float)i / 128, qmax = (float)((1 << (bits - 1)) - 1);
            const float w[4] = { -m, m, qsae__round_bf16(m * 0.37f), qsae__round_bf16(-m * 0.5f) };
            const float scale = qsae__round_bf16(m / qmax);
            char spec[60];
            snprintf(spec, sizeof spec, "rtn:bits=%d,arith=weight", bits);
            qsae_qmatrix *q = test_encode(ctx, spec, w, QSAE_BF16, 1, 4, 0);
            const int8_t *code = test_field(q, "codes").data;
            float *back = test_decode(q, QSAE_F32);
            uint16_t *half = test_decode(q, QSAE_BF16);
            assert_true(*(const float *)test_field(q, "scale").data == scale);
            for (int e = 0; e < 4; e++) {
                float v = rintf(qsae__round_bf16(w[e] / scale));
                v = (v > qmax ? qmax : v < -qmax - 1 ? -qmax - 1 : v) + 0.0f; /* an int has no -0 */
                assert_true((float)code[e] == v);
                assert_true(back[e] == v * scale);
                assert_int_equal(half[e], qsae__f32_to_bf16(v * scale));
                least += v == -qmax - 1;
            }
            test_release(half);
            test_release(back);
            qsae__qmatrix_unref(&q);
        }
    assert_true(least > 0);
    qsae_context_close(&ctx);
}

/* arith=weight against torch's own bf16 and f16 operations (tests/reference/prune.py). */
static void test_weight_arith(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "prune.safetensors");
    json_t *j = test_json(ctx[0], "prune.json"), *c;
    size_t at;
    (void)state;
    assert_true(json_array_size(json_object_get(j, "rtn")) > 50);
    for (int64_t i = 0; i < n; i++)
        json_array_foreach(json_object_get(j, "rtn"), at, c) {
            const char *key = test_json_str(c, "key"), *spec = test_json_str(c, "spec");
            const qsae__tensor *w = test_tensor(t, 0, "%s.w", test_json_str(c, "matrix"));
            const qsae__tensor *value = test_tensor(t, w->dtype, "%s.value", key);
            const int64_t count = test_count(w);
            float *x = test_alloc(2 * count, sizeof *x), *want = x + count;
            assert_true(qsae__to_f32(w->dtype, w->data, count, x));
            assert_true(qsae__to_f32(w->dtype, value->data, count, want));
            qsae_qmatrix *q = test_encode(ctx[i], spec, x, w->dtype, w->shape[0], w->shape[1],
                                          strstr(spec, "axis=tl") ? test_json_int(c, "heads") : 0);
            test_same_bytes(key, test_field(q, "codes").data,
                            test_tensor(t, QSAE_I8, "%s.codes", key)->data, (size_t)count);
            void *got = test_decode(q, w->dtype);
            assert_true(qsae__to_f32(w->dtype, got, count, x));
            for (int64_t e = 0; e < count; e++)
                assert_true(x[e] == want[e]);
            test_release(got);
            qsae__qmatrix_unref(&q);
            test_release(x);
        }
    json_decref(j);
    test_unload(t);
    test_contexts_close(ctx, n);
}

/* Half to even of a value that is no larger than a code or clamped. */
static float defined_code(int32_t dtype, float x, float scale, float zero, float low, float high)
{
    const float u = qsae__round_to(dtype, x / scale);
    if (isnan(u))
        return zero;
    const float v = qsae__round_to(dtype, rintf(u) + zero);
    return v < low ? low : v > high ? high : v;
}

/* Every level against the definition, element by element, also on NaN, infinities, denormals and
 * lengths that are no multiple of a vector. */
static void test_levels_agree(void **state)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    const char *names[QSAE__LEVEL_COUNT];
    const int64_t n = test_levels(names);
    (void)state;
    for (int64_t i = 0; i < n; i++) {
        qsae_context *ctx = test_context(names[i], 1);
        for (int trial = 0; trial < 60; trial++) {
            const int32_t dtype = dtypes[trial % 3];
            const int bits = 2 + trial % 7, sym = trial / 3 % 2;
            const int64_t cols = 1 + trial * 3 % 71, group = 1 + trial * 5 % 40;
            const int64_t groups = qsae__ceil_div(cols, group);
            float w[5 * 72];
            char spec[80];
            test_random((uint64_t)trial, w, 5 * cols);
            for (int64_t e = 0; e < 5 * cols; e++)
                w[e] = qsae__round_to(dtype, e / cols == 3 ? w[e] * 0x1p-22f : w[e]);
            w[0] = trial % 4 == 0 ? NAN : w[0];
            w[cols] = trial % 5 == 0 ? -INFINITY : w[cols];
            snprintf(spec, sizeof spec, "rtn:bits=%d,group=%d,sym=%d,arith=weight", bits,
                     (int)group, sym);
            qsae_qmatrix *q = test_encode(ctx, spec, w, dtype, 5, cols, 0);
            const uint8_t *code = test_field(q, "codes").data;
            const float *scale = test_field(q, "scale").data;
            const float *zero = sym ? NULL : test_field(q, "zero").data;
            const float low = sym ? -(float)(1 << (bits - 1)) : 0;
            const float high = (float)(1 << bits) - 1 + low;
            for (int64_t e = 0; e < 5 * cols; e++) {
                const int64_t s = e / cols * groups + e % cols / group;
                const float want =
                    defined_code(dtype, w[e], scale[s], zero ? zero[s] : 0, low, high);
                if (code[e] != (uint8_t)(int32_t)want)
                    fail_msg("%s, %s, trial %d: code %lld is %d, expected %g", names[i], spec,
                             trial, (long long)e, code[e], (double)want);
            }
            qsae__qmatrix_unref(&q);
        }
        qsae_context_close(&ctx);
    }
}

/* axis=tl: heads share a scale per head dimension; without heads it is one scale per output. */
static void test_heads(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    float w[12 * 5], swapped[12 * 5];
    qsae_quantizer *z = NULL;
    qsae_qmatrix *bad = NULL;
    (void)state;
    test_random(3, w, 60);
    memcpy(swapped, w + 20, 40 * sizeof(float));
    memcpy(swapped + 40, w, 20 * sizeof(float));
    qsae_qmatrix *q = test_encode(ctx, "rtn:axis=tl,bits=6", w, QSAE_F32, 12, 5, 3);
    qsae_qmatrix *r = test_encode(ctx, "rtn:axis=tl,bits=6", swapped, QSAE_F32, 12, 5, 3);
    qsae_qmatrix *row = test_encode(ctx, "rtn:axis=tl,bits=6", w, QSAE_F32, 12, 5, 0);
    qsae_qmatrix *plain = test_encode(ctx, "rtn:axis=row,bits=6", w, QSAE_F32, 12, 5, 0);
    assert_int_equal(test_field(q, "scale").shape[0], 4);
    /* Changing the order of the heads changes nothing but the order of the codes. */
    test_same_f32("scale", test_field(q, "scale").data, test_field(r, "scale").data, 4);
    test_same_bytes("codes", test_field(r, "codes").data,
                    (const char *)test_field(q, "codes").data + 20, 40);
    test_same_f32("scale", test_field(row, "scale").data, test_field(plain, "scale").data, 12);
    qsae__qmatrix_unref(&q);
    qsae__qmatrix_unref(&r);
    qsae__qmatrix_unref(&row);
    qsae__qmatrix_unref(&plain);
    const qsae_rows rows = test_rows(w, QSAE_F32, 12, 5);
    assert_int_equal(qsae_quantizer_open(ctx, "rtn:axis=tl", &z), QSAE_OK);
    assert_int_equal(qsae_quantizer_encode(z, &rows, 5, 0, &bad), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "12 outputs"));
    assert_null(bad);
    qsae_quantizer_close(&z);
    qsae_context_close(&ctx);
}

/* Q, K and V of two heads one after the other: as each of them alone. */
static void test_parts(void **state)
{
    static const char *const specs[] = { "rtn:axis=tl,bits=5", "rtn:axis=tl,bits=3,sym=0,group=4" };
    qsae_context *ctx = test_context(NULL, 2);
    float w[18 * 5];
    (void)state;
    test_random(4, w, 90);
    w[7] = 9; /* the parts' ranges differ */
    w[71] = -20;
    for (int s = 0; s < 2; s++) {
        const qsae__source src = { .ctx = ctx, .data = w, .dtype = QSAE_F32, .n_out = 18,
                                   .n_in = 5, .out_stride = 5, .in_stride = 1 };
        qsae__condition c;
        qsae_qmatrix *q = NULL;
        assert_int_equal(qsae__condition_parse(ctx, specs[s], &c), QSAE_OK);
        assert_int_equal(qsae__qmatrix_encode(ctx, &c, &src, -2, &q), QSAE_OK);
        float *back = test_decode(q, QSAE_F32);
        const qsae_field scale = test_field(q, "scale");
        const int64_t groups = s ? 2 : 1;
        assert_true(scale.shape[0] == 9 && scale.shape[1] == groups);
        for (int p = 0; p < 3; p++) {
            qsae_qmatrix *one = test_encode(ctx, specs[s], w + 30 * p, QSAE_F32, 6, 5, 2);
            float *alone = test_decode(one, QSAE_F32);
            test_same_f32("values", back + 30 * p, alone, 30);
            test_same_bytes("codes", (const char *)test_field(q, "codes").data + 30 * p,
                            test_field(one, "codes").data, 30);
            test_same_f32("scale", (const float *)scale.data + 3 * p * groups,
                          test_field(one, "scale").data, 3 * groups);
            test_release(alone);
            qsae__qmatrix_unref(&one);
        }
        test_release(back);
        qsae__qmatrix_unref(&q);
        qsae__condition_free(ctx, &c);
    }
    qsae_context_close(&ctx);
}

static void test_nonfinite(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[2 * 3] = { NAN, 1, -1, INFINITY, 2, -3 };
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        qsae_qmatrix *q =
            test_encode(ctx, sym ? "rtn:bits=4" : "rtn:bits=4,sym=0", w, QSAE_F32, 2, 3, 0);
        float *back = test_decode(q, QSAE_F32);
        assert_true(back[0] == 0); /* NaN becomes zero and leaves the range alone */
        assert_true(fabsf(back[1] - 1) < 0.2f && fabsf(back[2] + 1) < 0.2f);
        for (int i = 3; i < 6; i++)
            assert_true(isnan(back[i])); /* an infinite scale spoils its row */
        test_release(back);
        qsae__qmatrix_unref(&q);
    }
    qsae_context_close(&ctx);
}

int run_rtn(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures), cmocka_unit_test(test_bf16), cmocka_unit_test(test_heads),
        cmocka_unit_test(test_parts), cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_weight_arith), cmocka_unit_test(test_levels_agree),
    };
    return cmocka_run_group_tests_name("codecs/rtn", tests, NULL, NULL);
}
