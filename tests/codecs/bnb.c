/* SPDX-License-Identifier: BSD-2-Clause */
/* Weights as bitsandbytes stores them: decoding, and files that are wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codecs/bnb.h"
#include "codecs/stored.h"
#include "tests.h"

#define MOST 64

/* A file's tensors that a test may change before they are written again. */
struct copy {
    qsae_context *ctx;
    struct test_file *from;
    qsae__tensor items[MOST];
    int64_t n;
    char path[64];
};

static void copy_open(qsae_context *ctx, struct copy *c)
{
    *c = (struct copy){ .ctx = ctx, .from = test_load(ctx, "checkpoint.safetensors") };
    snprintf(c->path, sizeof c->path, "/tmp/qsae-bnb-XXXXXX");
    const int fd = mkstemp(c->path);
    assert_true(fd >= 0 && c->from->n <= MOST);
    close(fd);
    c->n = c->from->n;
    memcpy(c->items, c->from->tensors, (size_t)c->n * sizeof *c->items);
}

static void copy_reset(struct copy *c)
{
    c->n = c->from->n;
    memcpy(c->items, c->from->tensors, (size_t)c->n * sizeof *c->items);
}

static void copy_close(struct copy *c)
{
    unlink(c->path);
    test_unload(c->from);
}

static qsae__tensor *item(struct copy *c, const char *name)
{
    for (int64_t i = 0; i < c->n; i++)
        if (!strcmp(c->items[i].name, name))
            return &c->items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(struct copy *c, const char *name)
{
    qsae__tensor *const x = item(c, name);
    *x = c->items[--c->n];
}

static void set_text(struct copy *c, const char *name, const char *text)
{
    qsae__tensor *const x = item(c, name);
    x->data = text;
    x->bytes = strlen(text);
    x->shape[0] = (int64_t)x->bytes;
}

/* Opens a module of the changed file. */
static int32_t try_module(struct copy *c, const qsae__scheme *scheme, const char *module,
                          int64_t n_out, int64_t n_in, qsae_qmatrix **q)
{
    qsae__tensors *t = NULL;
    assert_int_equal(qsae__safetensors_write(c->ctx, c->path, c->items, c->n), QSAE_OK);
    if (qsae__tensors_load(c->ctx, c->path, &t))
        fail_msg("%s", qsae_error_message());
    const int32_t st = qsae__stored_open(c->ctx, scheme, t, module, n_out, n_in, q);
    qsae__tensors_unref(&t); /* a matrix keeps what it borrows */
    return st;
}

struct layer {
    const char *module;
    int64_t n_out, n_in;
    int32_t dtype;
};

static const struct layer layers[] = {
    { "nf4_double", 24, 96, QSAE_BF16 },   { "nf4", 24, 96, QSAE_F16 },
    { "fp4", 7, 9, QSAE_F32 },             { "fp4_double", 300, 64, QSAE_BF16 },
    { "nf4_storage", 16, 64, QSAE_BF16 },  { "nf4_repacked", 32, 128, QSAE_BF16 },
    { "int8", 20, 48, QSAE_F32 },
};

/* Every stored layer decodes to what the package decodes it to. */
static void test_decoded(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *d = test_load(ctx[0], "checkpoint_decoded.safetensors");
    (void)state;
    for (int64_t k = 0; k < n; k++) {
        struct copy c;
        copy_open(ctx[k], &c);
        for (int64_t i = 0; i < LENGTH(layers); i++) {
            const struct layer *const l = &layers[i];
            const float *const want = test_tensor(d, QSAE_F32, "%s.weight", l->module)->data;
            qsae_qmatrix *q = NULL;
            if (try_module(&c, NULL, l->module, l->n_out, l->n_in, &q) || !q)
                fail_msg("%s: %s", l->module, qsae_error_message());
            assert_int_equal(q->dtype, l->dtype);
            void *const got = test_decode(q, l->dtype);
            float *const wide = test_alloc(l->n_out * l->n_in, sizeof(float));
            assert_true(qsae__to_f32(l->dtype, got, l->n_out * l->n_in, wide));
            for (int64_t e = 0; e < l->n_out * l->n_in; e++)
                if (wide[e] != want[e])
                    fail_msg("%s: element %lld is %.9g, expected %.9g", l->module, (long long)e,
                             (double)wide[e], (double)want[e]);
            test_release(wide);
            test_release(got);
            qsae__qmatrix_unref(&q);
        }
        copy_close(&c);
    }
    test_unload(d);
    test_contexts_close(ctx, n);
}

/* The arrays a stored matrix shows, and is written with again, are those of the file. */
static void test_described(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    struct copy c;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(layers); i++) {
        qsae_qmatrix *q = NULL;
        qsae__bnb_parts parts;
        if (!strcmp(layers[i].module, "nf4_repacked") || !strcmp(layers[i].module, "nf4_storage"))
            continue; /* their arrays have another form in the file */
        if (try_module(&c, NULL, layers[i].module, layers[i].n_out, layers[i].n_in, &q))
            fail_msg("%s: %s", layers[i].module, qsae_error_message());
        assert_int_equal(qsae__bnb_describe(q, &parts), QSAE_OK);
        for (int32_t p = 0; p < parts.n; p++) {
            const qsae_field *const f = &parts.part[p].field;
            const qsae__tensor *const t = test_tensor(c.from, f->dtype, "%s%s", layers[i].module,
                                                      parts.part[p].suffix);
            assert_int_equal(t->rank, f->rank);
            assert_int_equal(t->bytes, f->bytes);
            test_same_bytes(t->name, f->data, t->data, (size_t)t->bytes);
        }
        qsae__qmatrix_unref(&q);
    }
    copy_close(&c);
    qsae_context_close(&ctx);
}

/* Tables, nested blocks and offsets are the file's, whatever they are. */
static void test_own_tables(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    struct copy c;
    float map[16], nested[256], groups[60];
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    test_random(31, map, 16);
    test_random(32, nested, 256);
    test_random(33, groups, 60);
    item(&c, "fp4_double.weight.quant_map")->data = map;
    item(&c, "fp4_double.weight.nested_quant_map")->data = nested;
    qsae__tensor *const a = item(&c, "fp4_double.weight.nested_absmax");
    a->data = groups;
    a->shape[0] = 60;
    a->bytes = sizeof groups;
    set_text(&c, "fp4_double.weight.quant_state.bitsandbytes__fp4",
             "{ \"nested_offset\": 2, \"shape\": null, \"blocksize\": 64,\n\"quant_type\":\"fp4\", "
             "\"dtype\": \"float32\", \"nested_blocksize\": 5, \"more\": [1] }");
    if (try_module(&c, NULL, "fp4_double", 300, 64, &q))
        fail_msg("%s", qsae_error_message());
    const uint8_t *const codes = test_tensor(c.from, QSAE_U8, "fp4_double.weight")->data;
    const uint8_t *const scales = test_tensor(c.from, QSAE_U8, "fp4_double.weight.absmax")->data;
    float *const got = test_decode(q, QSAE_F32);
    for (int64_t i = 0; i < 300 * 64; i++) {
        const float part = nested[scales[i / 64]] * groups[i / 64 / 5];
        const float scale = part + 2;
        const float want = map[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
        assert_true(got[i] == want);
    }
    test_release(got);
    qsae__qmatrix_unref(&q);
    copy_close(&c);
    qsae_context_close(&ctx);
}

#define NF4 "nf4_double.weight.quant_state.bitsandbytes__nf4"
#define STATE(more) "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", " \
                    "\"shape\": [24, 96], " more "\"nested_dtype\": \"float32\"}"
#define NESTED "\"nested_blocksize\": 256, \"nested_offset\": 0.1, "

/* Texts of the state that are refused. */
static void test_bad_states(void **state)
{
    static const struct {
        const char *text;
        int32_t status;
        const char *part;
    } bad[] = {
        { "", QSAE_EFORMAT, NF4 },
        { "[]", QSAE_EFORMAT, "object" },
        { STATE(NESTED "\"quant_type\": \"nf4\", "), QSAE_EFORMAT, "duplicate" },
        { STATE(""), QSAE_EMISMATCH, "nested_offset" },
        { STATE("\"nested_offset\": 0.1, "), QSAE_EFORMAT, "nested_blocksize" },
        { STATE("\"nested_blocksize\": 0, \"nested_offset\": 0.1, "), QSAE_EFORMAT,
          "nested_blocksize" },
        { STATE("\"nested_blocksize\": 256, \"nested_offset\": \"0\", "), QSAE_EFORMAT,
          "nested_offset" },
        { STATE("\"nested_blocksize\": 1e3, \"nested_offset\": 1, "), QSAE_EFORMAT, "integer" },
        { "{\"quant_type\": \"nf5\", \"blocksize\": 64, \"dtype\": \"bfloat16\"}", QSAE_EMISMATCH,
          "nf5" },
        { "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"bfloat16\"}", QSAE_EMISMATCH,
          "expected nf4" },
        { "{\"blocksize\": 64, \"dtype\": \"bfloat16\"}", QSAE_EFORMAT, "quant_type" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 0, \"dtype\": \"bfloat16\"}", QSAE_EFORMAT,
          "blocksize" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 96, \"dtype\": \"bfloat16\"}", QSAE_EFORMAT,
          "found 96" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 9007199254740993, \"dtype\": \"bfloat16\"}",
          QSAE_EFORMAT, "blocksize" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float64\"}", QSAE_EUNSUPPORTED,
          "float64" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64}", QSAE_EFORMAT, "dtype" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", " NESTED
          "\"nested_dtype\": \"int8\"}", QSAE_EUNSUPPORTED, "nested_dtype" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
          "\"shape\": [96, 24]}", QSAE_EMISMATCH, "[24, 96], found [96, 24]" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
          "\"shape\": [24, 96, 1]}", QSAE_EMISMATCH, "3 entries" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
          "\"shape\": 7}", QSAE_EFORMAT, "shape" },
    };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(bad); i++) {
        set_text(&c, NF4, bad[i].text);
        const int32_t st = try_module(&c, NULL, "nf4_double", 24, 96, &q);
        if (st != bad[i].status || !strstr(qsae_error_message(), bad[i].part))
            fail_msg("%s: %s: %s", bad[i].text, qsae_status_name(st), qsae_error_message());
        assert_null(q);
    }
    set_text(&c, NF4, STATE(NESTED));
    assert_int_equal(try_module(&c, NULL, "nf4_double", 24, 96, &q), QSAE_OK);
    qsae__qmatrix_unref(&q);
    /* cut anywhere it is no text of a state */
    char text[512];
    const size_t n = strlen(STATE(NESTED));
    for (size_t i = 0; i < n; i++) {
        memcpy(text, STATE(NESTED), i);
        text[i] = '\0';
        set_text(&c, NF4, text);
        if (try_module(&c, NULL, "nf4_double", 24, 96, &q) != QSAE_EFORMAT)
            fail_msg("cut at %zu: %s", i, qsae_error_message());
    }
    copy_close(&c);
    qsae_context_close(&ctx);
}

/* Keys that are missing or in excess. */
static void test_bad_keys(void **state)
{
    static const struct {
        const char *module, *key, *part;
        int64_t n_out, n_in;
    } missing[] = {
        { "nf4_double", "nf4_double.weight", "nf4_double.weight: missing", 24, 96 },
        { "nf4_double", "nf4_double.weight.absmax", "absmax: missing", 24, 96 },
        { "nf4_double", "nf4_double.weight.quant_map", "quant_map: missing", 24, 96 },
        { "nf4_double", "nf4_double.weight.nested_absmax", "nested_absmax: missing", 24, 96 },
        { "nf4_double", "nf4_double.weight.nested_quant_map", "nested_quant_map: missing", 24, 96 },
        { "nf4_double", NF4, "quant_state.bitsandbytes__nf4", 24, 96 },
        { "int8", "int8.weight", "int8.weight: missing", 20, 48 },
        { "int8", "int8.SCB", "int8.SCB: missing", 20, 48 },
    };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(missing); i++) {
        copy_reset(&c);
        drop(&c, missing[i].key);
        const int32_t st = try_module(&c, NULL, missing[i].module, missing[i].n_out,
                                      missing[i].n_in, &q);
        if (st != QSAE_ENOENT || !strstr(qsae_error_message(), missing[i].part))
            fail_msg("%s: %s: %s", missing[i].key, qsae_status_name(st), qsae_error_message());
    }
    copy_reset(&c);
    drop(&c, "int8.weight_format"); /* of older releases */
    assert_int_equal(try_module(&c, NULL, "int8", 20, 48, &q), QSAE_OK);
    qsae__qmatrix_unref(&q);
    /* both states, both formats */
    copy_reset(&c);
    c.items[c.n] = *item(&c, NF4);
    c.items[c.n++].name = "nf4_double.weight.quant_state.bitsandbytes__fp4";
    assert_int_equal(try_module(&c, NULL, "nf4_double", 24, 96, &q), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "both nf4 and fp4"));
    copy_reset(&c);
    c.items[c.n] = *item(&c, "int8.SCB");
    c.items[c.n++].name = "nf4_double.SCB";
    assert_int_equal(try_module(&c, NULL, "nf4_double", 24, 96, &q), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "SCB"));
    /* a module that is not there at all, or plain, is not this format's business */
    assert_int_equal(try_module(&c, NULL, "absent", 24, 96, &q), QSAE_OK);
    assert_null(q);
    copy_close(&c);
    qsae_context_close(&ctx);
}

/* Dtypes and lengths that do not belong together. */
static void test_bad_arrays(void **state)
{
    static const struct {
        const char *module;
        int64_t n_out, n_in;
        const char *key;
        int32_t dtype;          /* 0: as it is */
        int64_t rows, cols;     /* new shape; cols 0: rank 1 */
        const char *part;
    } bad[] = {
        { "nf4_double", 24, 96, "nf4_double.weight", 0, 1151, 1, "[1152, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight", 0, 1, 1152, "found U8 [1, 1152]" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_I64, 144, 1, "found I64" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_BF16, 288, 2, "BF16 [576, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight.absmax", 0, 35, 0, "U8 [36]" },
        { "nf4_double", 24, 96, "nf4_double.weight.absmax", QSAE_F32, 9, 0, "U8 [36]" },
        { "nf4_double", 24, 96, "nf4_double.weight.quant_map", 0, 15, 0, "F32 [16]" },
        { "nf4_double", 24, 96, "nf4_double.weight.quant_map", QSAE_I32, 16, 0, "F32 [16]" },
        { "nf4_double", 24, 96, "nf4_double.weight.nested_quant_map", 0, 255, 0, "F32 [256]" },
        { "nf4_double", 24, 96, NF4, QSAE_I8, 167, 0, "U8 [167]" },
        { "nf4", 24, 96, "nf4.weight.absmax", 0, 35, 0, "F32 [36]" },
        { "nf4", 24, 96, "nf4.weight.absmax", QSAE_F16, 72, 0, "found F16" },
        { "nf4_repacked", 32, 128, "nf4_repacked.weight.absmax", 0, 32, 2, "BF16 [2, 32]" },
        { "nf4_repacked", 32, 128, "nf4_repacked.weight.absmax", 0, 64, 0, "F32 [64]" },
        { "int8", 20, 48, "int8.weight", 0, 48, 20, "I8 [20, 48]" },
        { "int8", 20, 48, "int8.weight", QSAE_U8, 20, 48, "found U8" },
        { "int8", 20, 48, "int8.SCB", 0, 19, 0, "F32 [20]" },
        { "int8", 20, 48, "int8.SCB", QSAE_I32, 20, 0, "found I32" },
        { "int8", 20, 49, "int8.SCB", 0, 20, 0, "I8 [20, 49]" },
    };
    static const uint8_t turing[1] = { 2 };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(bad); i++) {
        copy_reset(&c);
        qsae__tensor *const x = item(&c, bad[i].key);
        x->dtype = bad[i].dtype ? bad[i].dtype : x->dtype;
        x->rank = bad[i].cols ? 2 : 1;
        x->shape[0] = bad[i].rows;
        x->shape[1] = bad[i].cols;
        x->bytes = (uint64_t)(bad[i].rows * (bad[i].cols ? bad[i].cols : 1) *
                              qsae_dtype_bits(x->dtype) / 8);
        const int32_t st = try_module(&c, NULL, bad[i].module, bad[i].n_out, bad[i].n_in, &q);
        if (st != QSAE_EMISMATCH || !strstr(qsae_error_message(), bad[i].part))
            fail_msg("%s, %lld: %s: %s", bad[i].key, (long long)i, qsae_status_name(st),
                     qsae_error_message());
    }
    copy_reset(&c);
    item(&c, "int8.weight_format")->data = turing;
    assert_int_equal(try_module(&c, NULL, "int8", 20, 48, &q), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "col_turing"));
    copy_close(&c);
    qsae_context_close(&ctx);
}

/* quantization_config. */
static void test_configuration(void **state)
{
    static const struct {
        const char *text;
        int32_t status;
        const char *part;       /* of the message, or NULL */
        float threshold;
        int32_t compute;
    } cases[] = {
        { "{}", QSAE_OK, NULL, 6, 0 },
        { "{\"llm_int8_threshold\": 0}", QSAE_OK, NULL, 0, 0 },
        { "{\"load_in_8bit\": true, \"llm_int8_threshold\": 4.5, \"extra\": {}}", QSAE_OK, NULL,
          4.5f, 0 },
        { "{\"_load_in_4bit\": true, \"bnb_4bit_compute_dtype\": \"bfloat16\"}", QSAE_OK, NULL, 6,
          QSAE_BF16 },
        { "{\"bnb_4bit_compute_dtype\": \"float32\"}", QSAE_OK, NULL, 6, QSAE_F32 },
        { "{\"bnb_4bit_compute_dtype\": \"float64\"}", QSAE_EUNSUPPORTED, "float64", 0, 0 },
        { "{\"load_in_4bit\": true, \"load_in_8bit\": true}", QSAE_EFORMAT, "both", 0, 0 },
        { "{\"load_in_4bit\": 1}", QSAE_EFORMAT, "load_in_4bit", 0, 0 },
        { "{\"llm_int8_threshold\": -1}", QSAE_EFORMAT, "llm_int8_threshold", 0, 0 },
        { "{\"llm_int8_threshold\": \"6\"}", QSAE_EFORMAT, "llm_int8_threshold", 0, 0 },
        { "{\"bnb_4bit_quant_type\": \"nf3\"}", QSAE_EUNSUPPORTED, "nf3", 0, 0 },
        { "{\"load_in_8bit\": true, \"llm_int8_has_fp16_weight\": true}", QSAE_EUNSUPPORTED,
          "llm_int8_has_fp16_weight", 0, 0 },
    };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        json_t *json = NULL;
        qsae__scheme *scheme = NULL;
        assert_int_equal(qsae__json_parse(cases[i].text, strlen(cases[i].text), "t", &json),
                         QSAE_OK);
        assert_int_equal(json_object_set_new(json, "quant_method", json_string("bitsandbytes")), 0);
        const int32_t st = qsae__scheme_open(ctx, json, "here", &scheme);
        json_decref(json);
        if (st != cases[i].status || (st != QSAE_OK) != (scheme == NULL))
            fail_msg("%s: %s", cases[i].text, qsae_status_name(st));
        if (st != QSAE_OK) {
            assert_non_null(strstr(qsae_error_message(), cases[i].part));
            continue;
        }
        qsae_qmatrix *q = NULL;
        assert_int_equal(try_module(&c, scheme, "int8", 20, 48, &q), QSAE_OK);
        assert_true(q->codec.threshold == cases[i].threshold);
        qsae__qmatrix_unref(&q);
        assert_int_equal(try_module(&c, scheme, "nf4", 24, 96, &q), QSAE_OK);
        assert_int_equal(q->codec.compute, cases[i].compute);
        qsae__qmatrix_unref(&q);
        qsae__scheme_close(ctx, &scheme);
    }
    copy_close(&c);
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

/* Numbers as Python prints them. */
static void test_numbers(void **state)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {
        { 0.030400000512599945, "0.030400000512599945" }, { 0, "0.0" }, { -0.0, "-0.0" },
        { 1, "1.0" }, { 100, "100.0" }, { 6.5, "6.5" }, { 1e-4, "0.0001" },
        { 1e-5, "1e-05" }, { 1.5e-7, "1.5e-07" }, { 1e15, "1000000000000000.0" },
        { 1e16, "1e+16" }, { 123456789012345680.0, "1.2345678901234568e+17" },
        { -2.5e-310, "-2.5e-310" }, { 5e-324, "5e-324" }, { 1.7976931348623157e308,
                                                            "1.7976931348623157e+308" },
        { 0.1, "0.1" }, { 2.0 / 3, "0.6666666666666666" }, { 1234.5, "1234.5" },
    };
    (void)state;
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        char text[32];
        qsae__json_number(cases[i].v, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

int run_bnb(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoded),    cmocka_unit_test(test_described),
        cmocka_unit_test(test_own_tables), cmocka_unit_test(test_bad_states),
        cmocka_unit_test(test_bad_keys),   cmocka_unit_test(test_bad_arrays),
        cmocka_unit_test(test_configuration), cmocka_unit_test(test_bf16_source),
        cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests_name("codecs/bnb", tests, NULL, NULL);
}
