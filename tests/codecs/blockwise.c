/* SPDX-License-Identifier: BSD-2-Clause */
/* NF4 and FP4 against bitsandbytes 0.50.2 (rules=torch) and a model of its GPU kernels (cuda). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/nested.h"
#include "codecs/tables.h"
#include "tests.h"

static const char *const kinds[] = { "nf4", "fp4" }, *const rules[] = { "cuda", "torch" };
static const char *const types[] = { "f32", "bf16", "f16" };

static void compare_field(const qsae_qmatrix *q, const char *field, const qsae__tensor *want)
{
    const qsae_field f = test_field(q, field);
    assert_int_equal(f.bytes, want->bytes);
    assert_int_equal(f.dtype, want->dtype);
    if (want->dtype == QSAE_F32)
        test_same_f32(want->name, f.data, want->data, test_count(want));
    else
        test_same_bytes(want->name, f.data, want->data, (size_t)want->bytes);
}

static void compare_decoded(const qsae_qmatrix *q, const json_t *crc, const char *name)
{
    for (int t = 0; t < 3; t++)
        if (test_crc32_decoded(q, test_dtype(types[t])) !=
            (uint32_t)strtoul(test_json_str(crc, types[t]), NULL, 16))
            fail_msg("%s decoded to %s differs", name, types[t]);
}

static void check_case(qsae_context *ctx, const struct test_file *t, const json_t *c, int k, int r,
                       int nested)
{
    const char *name = test_json_str(c, "name");
    const qsae__tensor *x = test_tensor(t, QSAE_F32, "%s.x", name);
    char spec[100], key[100];
    snprintf(spec, sizeof spec, "%s:block=%d,double=%d,rules=%s", kinds[k],
             (int)test_json_int(c, "block"), nested, rules[r]);
    snprintf(key, sizeof key, "%s.%s.double=%d", kinds[k], rules[r], nested);
    qsae_qmatrix *q = test_encode(ctx, spec, x->data, test_dtype(test_json_str(c, "dtype")),
                                  test_json_int(c, "rows"), test_json_int(c, "cols"), 0);
    compare_field(q, "weight", test_tensor(t, QSAE_U8, "%s.%s.%s.codes", name, kinds[k], rules[r]));
    if (nested) {
        const qsae_field map = test_field(q, "nested_quant_map");
        compare_field(q, "absmax", test_tensor(t, QSAE_U8, "%s.%s.q_absmax", name, rules[r]));
        compare_field(q, "nested_absmax",
                      test_tensor(t, QSAE_F32, "%s.%s.nested_absmax", name, rules[r]));
        compare_field(q, "nested_offset", test_tensor(t, QSAE_F32, "%s.%s.offset", name, rules[r]));
        test_same_f32("nested_quant_map", map.data,
                      test_tensor(t, QSAE_F32, "tables.dynamic_map")->data, 256);
        test_same_f32("decoded block maxima", q->scale,
                      test_tensor(t, QSAE_F32, "%s.%s.absmax_decoded", name, rules[r])->data,
                      q->scale_rows);
    } else {
        compare_field(q, "absmax", test_tensor(t, QSAE_F32, "%s.%s.absmax", name, rules[r]));
    }
    compare_field(q, "quant_map", test_tensor(t, QSAE_F32, "tables.%s", kinds[k]));
    compare_decoded(q, json_object_get(json_object_get(c, "crc32"), key), key);
    if (test_json_int(c, "full")) {
        float *got = test_decode(q, QSAE_F32);
        const qsae__tensor *want =
            test_tensor(t, QSAE_F32, "%s.%s.%s.decoded%d", name, kinds[k], rules[r], nested);
        for (int64_t i = 0; i < test_count(want); i++)
            got[i] = got[i] == 0 ? 0 : got[i]; /* the sign of a zero is free */
        for (int64_t i = 0; i < test_count(want); i++)
            if (got[i] != ((const float *)want->data)[i])
                fail_msg("%s: element %lld", want->name, (long long)i);
        test_release(got);
    }
    qsae_qmatrix_close(&q);
}

static void test_matrices(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "blockwise.safetensors");
    json_t *j = test_json(ctx[0], "blockwise.json"), *c;
    size_t at;
    (void)state;
    assert_true(json_array_size(json_object_get(j, "cases")) >= 40);
    for (int64_t i = 0; i < n; i++)
        json_array_foreach(json_object_get(j, "cases"), at, c)
            for (int k = 0; k < 8; k++)
                check_case(ctx[i], t, c, k & 1, k >> 1 & 1, k >> 2);
    json_decref(j);
    test_unload(t);
    test_contexts_close(ctx, n);
}

static void test_special(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    struct test_file *t = test_load(ctx, "special.safetensors");
    json_t *j = test_json(ctx, "special.json"), *c;
    size_t at;
    (void)state;
    json_array_foreach(json_object_get(j, "cases"), at, c)
        for (int i = 0; i < 4; i++) {
            const char *name = test_json_str(c, "name");
            const char *kind = kinds[i & 1], *rule = rules[i >> 1];
            const qsae__tensor *x = test_tensor(t, QSAE_F32, "%s.x", name);
            char spec[100];
            snprintf(spec, sizeof spec, "%s:double=0,rules=%s", kind, rule);
            qsae_qmatrix *q = test_encode(ctx, spec, x->data, QSAE_F32, 1, test_count(x), 0);
            compare_field(q, "weight", test_tensor(t, QSAE_U8, "%s.%s.%s.codes", name, kind, rule));
            compare_field(q, "absmax", test_tensor(t, QSAE_F32, "%s.%s.absmax", name, rule));
            float *got = test_decode(q, QSAE_F32);
            const qsae__tensor *want =
                test_tensor(t, QSAE_F32, "%s.%s.%s.decoded0", name, kind, rule);
            test_same_f32(want->name, got, want->data, test_count(want));
            test_release(got);
            qsae_qmatrix_close(&q);
        }
    json_decref(j);
    test_unload(t);
    qsae_context_close(&ctx);
}

static void test_search(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "search8.safetensors");
    const qsae__tensor *u = test_tensor(t, QSAE_F32, "u");
    (void)state;
    test_same_f32("map", qsae__dynamic_map, test_tensor(t, QSAE_F32, "map")->data, 256);
    for (int r = 0; r < 2; r++) {
        const uint8_t *want = test_tensor(t, QSAE_U8, "%s", rules[r])->data;
        for (int64_t i = 0; i < test_count(u); i++) {
            const float v = ((const float *)u->data)[i];
            if (qsae__nested_code((enum qsae__rules)r, v) != want[i])
                fail_msg("%s: code of %.9g", rules[r], (double)v);
        }
    }
    test_unload(t);
    qsae_context_close(&ctx);
}

struct layer {
    const char *prefix, *spec;
    int32_t dtype;
};

/* Layers as the package saved them: encoding their source again gives the stored arrays. */
static void test_checkpoint(void **state)
{
    static const struct layer layers[] = {
        { "nf4_double", "nf4:rules=torch", QSAE_BF16 },
        { "nf4", "nf4:double=0,rules=torch", QSAE_F16 },
        { "fp4", "fp4:double=0,rules=torch", QSAE_F32 },
        { "fp4_double", "fp4:rules=torch", QSAE_BF16 },
        { "nf4_storage", "nf4:rules=torch", QSAE_BF16 },
        { "nf4_repacked", "nf4:double=0,rules=torch", QSAE_BF16 },
        { "int8", "llm.int8:rules=torch", QSAE_BF16 },
    };
    qsae_context *ctx = test_context(NULL, 2);
    struct test_file *t = test_load(ctx, "checkpoint.safetensors");
    struct test_file *d = test_load(ctx, "checkpoint_decoded.safetensors");
    (void)state;
    for (int64_t i = 0; i < LENGTH(layers); i++) {
        const char *p = layers[i].prefix;
        const qsae__tensor *x = test_tensor(d, QSAE_F32, "%s.source", p);
        const qsae__tensor *w = test_tensor(t, 0, "%s.weight", p);
        const int64_t out = x->shape[0], in = x->shape[1];
        qsae_qmatrix *q = test_encode(ctx, layers[i].spec, x->data, layers[i].dtype, out, in, 0);
        const qsae_field f = test_field(q, "weight");
        assert_int_equal(f.bytes, w->bytes);
        test_same_bytes(w->name, f.data, w->data, (size_t)w->bytes);
        if (q->codec.codec == QSAE__INT8) {
            compare_field(q, "SCB", test_tensor(t, QSAE_F32, "%s.SCB", p));
            float *got = test_decode(q, QSAE_F32);
            test_same_f32("int8 decoded", got, test_tensor(d, QSAE_F32, "%s.weight", p)->data,
                          out * in);
            test_release(got);
        } else if (strcmp(p, "nf4_repacked") == 0) {
            const qsae__tensor *a = test_tensor(t, QSAE_BF16, "%s.weight.absmax", p);
            for (int64_t b = 0; b < q->scale_rows; b++) {
                const int64_t at = b % (in / 64) * out + b / (in / 64);
                assert_int_equal(((const uint16_t *)a->data)[at], qsae__f32_to_bf16(q->scale[b]));
            }
        } else {
            compare_field(q, "absmax", test_tensor(t, 0, "%s.weight.absmax", p));
            compare_field(q, "quant_map", test_tensor(t, QSAE_F32, "%s.weight.quant_map", p));
            if (q->codec.nested)
                compare_field(q, "nested_absmax",
                              test_tensor(t, QSAE_F32, "%s.weight.nested_absmax", p));
            void *got = test_decode(q, layers[i].dtype);
            float *wide = test_alloc(out * in, sizeof(float));
            assert_true(qsae__to_f32(layers[i].dtype, got, out * in, wide));
            const float *want = test_tensor(d, QSAE_F32, "%s.weight", p)->data;
            for (int64_t e = 0; e < out * in; e++)
                assert_true(wide[e] == want[e]);
            test_release(wide);
            test_release(got);
        }
        qsae_qmatrix_close(&q);
    }
    test_unload(t);
    test_unload(d);
    qsae_context_close(&ctx);
}

/* bf16 bits of every kind: NaN, infinity, zeros and subnormal numbers in some blocks. */
static void random_bf16(uint64_t seed, uint16_t *x, int64_t n)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        const uint16_t bits = (uint16_t)(s >> 40);
        switch (i / 61 % 6) { /* no multiple of a block */
        case 0: x[i] = bits; break;
        case 1: x[i] = bits & 0x80ff; break;
        case 2: x[i] = bits & 0x8000; break;
        case 3: x[i] = (uint16_t)(bits | 0x7f80); break;
        default: x[i] = (uint16_t)((bits & 0x81ff) | 0x3e00); break;
        }
    }
}

/* bf16 weights are encoded as they lie, f32 ones through a buffer: the same codes. */
static void test_bf16_source(void **state)
{
    static const char *const specs[] = { "nf4:double=0", "fp4:double=0", "nf4:double=0,block=32",
                                         "fp4:double=0,block=4096", "nf4:double=0,rules=torch" };
    enum { N = 3 * 4099 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    static uint16_t x[N];
    static float wide[N];
    (void)state;
    for (uint64_t seed = 1; seed < 9; seed++) {
        random_bf16(seed, x, N);
        assert_true(qsae__to_f32(QSAE_BF16, x, N, wide));
        for (int64_t k = 0; k < n * LENGTH(specs); k++) {
            qsae_context *const c = ctx[k % n];
            qsae_quantizer *z = NULL;
            qsae_qmatrix *a = NULL, *b = NULL;
            const int64_t cols = seed % 2 ? 4099 : N;
            const qsae_rows half = test_rows(x, QSAE_BF16, N / cols, cols);
            const qsae_rows full = test_rows(wide, QSAE_F32, N / cols, cols);
            assert_int_equal(qsae_quantizer_open(c, specs[k / n], &z), QSAE_OK);
            assert_int_equal(qsae_quantizer_encode(z, &half, 0, 0, &a), QSAE_OK);
            assert_int_equal(qsae_quantizer_encode(z, &full, 0, 0, &b), QSAE_OK);
            if (memcmp(a->codes, b->codes, (size_t)a->code_bytes) != 0)
                fail_msg("seed %d, %s: codes differ", (int)seed, specs[k / n]);
            test_same_f32(specs[k / n], a->scale, b->scale, a->scale_rows);
            qsae__qmatrix_unref(&a);
            qsae__qmatrix_unref(&b);
            qsae_quantizer_close(&z);
        }
    }
    test_contexts_close(ctx, n);
}

int run_blockwise(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices), cmocka_unit_test(test_special),
        cmocka_unit_test(test_search), cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_bf16_source),
    };
    return cmocka_run_group_tests_name("codecs/blockwise", tests, NULL, NULL);
}
