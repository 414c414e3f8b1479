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
    static char long_text[65538];
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
        { "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
          "\"shape\": [24, 95]}", QSAE_EMISMATCH, "[24, 96], found [24, 95]" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 16, \"dtype\": \"bfloat16\"}", QSAE_EFORMAT,
          "found 16" },
        { "{\"quant_type\": \"nf4\", \"blocksize\": 8192, \"dtype\": \"bfloat16\"}",
          QSAE_EFORMAT, "found 8192" },
        { long_text, QSAE_EFORMAT, "at most 65536 bytes, found 65537" },
    };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    memset(long_text, ' ', sizeof long_text - 1);
    for (int64_t i = 0; i < LENGTH(bad); i++) {
        set_text(&c, NF4, bad[i].text);
        const int32_t st = try_module(&c, NULL, "nf4_double", 24, 96, &q);
        if (st != bad[i].status || !strstr(qsae_error_message(), bad[i].part))
            fail_msg("%s: %s: %s", bad[i].text, qsae_status_name(st), qsae_error_message());
        assert_null(q);
    }
    /* an offset of block maxima that are no codes */
    set_text(&c, "nf4.weight.quant_state.bitsandbytes__nf4", STATE(NESTED));
    assert_int_equal(try_module(&c, NULL, "nf4", 24, 96, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "nested_offset: there, but weight.nested_absmax "
                                                 "is missing"));
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
    /* one key of a matrix that is there, or is not, is not taken for a plain matrix */
    static const char *const alone[] = { "quant_map", "nested_absmax", "nested_quant_map" };
    for (int64_t i = 0; i < 2 * LENGTH(alone); i++) {
        char key[64];
        copy_reset(&c);
        c.items[0] = *item(&c, i < LENGTH(alone) ? "int8.SCB" : "nf4_double.weight.absmax");
        c.items[1] = *item(&c, "nf4_double.weight");
        c.n = i < LENGTH(alone) ? 2 : 1;
        snprintf(key, sizeof key, "nf4_double.weight.%s", alone[i % LENGTH(alone)]);
        c.items[0].name = key;
        assert_int_equal(try_module(&c, NULL, "nf4_double", 24, 96, &q), QSAE_ENOENT);
        assert_non_null(strstr(qsae_error_message(), c.n == 1 ? "nf4_double.weight: missing; "
                               : "quant_state.bitsandbytes__nf4 (or __fp4): missing; "));
        assert_non_null(strstr(strchr(qsae_error_message(), ';'), key));
    }
    copy_reset(&c);
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
        { "nf4_double", 24, 96, "nf4_double.weight.absmax", 0, 6, 6, "found U8 [6, 6]" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_I8, 1152, 2, "I8 [1152, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_F16, 575, 1, "F16 [576, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_F32, 287, 1, "F32 [288, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight", QSAE_F64, 143, 1, "F64 [144, 1]" },
        { "nf4_double", 24, 96, "nf4_double.weight.nested_absmax", 0, 2, 0, "F32 [1]" },
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
        { "int8", 20, 48, "int8.weight_format", 0, 2, 0, "U8 [1]" },
        { "int8", 20, 48, "int8.weight_format", QSAE_F16, 1, 0, "found F16 [1]" },
    };
    static const char zeros[4096];
    static const char *const orders[] = { "0", "1 (col32)", "2 (col_turing)", "3 (col_ampere)",
                                          "4 (unknown)" };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    (void)state;
    copy_open(ctx, &c);
    for (int64_t i = 0; i < LENGTH(bad); i++) {
        copy_reset(&c);
        qsae__tensor *const x = item(&c, bad[i].key);
        const uint64_t had = x->bytes;
        x->dtype = bad[i].dtype ? bad[i].dtype : x->dtype;
        x->rank = bad[i].cols ? 2 : 1;
        x->shape[0] = bad[i].rows;
        x->shape[1] = bad[i].cols;
        x->bytes = (uint64_t)(bad[i].rows * (bad[i].cols ? bad[i].cols : 1) *
                              qsae_dtype_bits(x->dtype) / 8);
        x->data = x->bytes > had ? zeros : x->data;
        assert_true(x->bytes <= sizeof zeros || x->bytes <= had);
        const int32_t st = try_module(&c, NULL, bad[i].module, bad[i].n_out, bad[i].n_in, &q);
        if (st != QSAE_EMISMATCH || !strstr(qsae_error_message(), bad[i].part))
            fail_msg("%s, %lld: %s: %s", bad[i].key, (long long)i, qsae_status_name(st),
                     qsae_error_message());
    }
    for (uint8_t i = 0; i < 5; i++) {
        copy_reset(&c);
        qsae__tensor *const x = item(&c, "int8.weight_format");
        x->data = &i;
        x->rank = i % 2; /* as releases differ in */
        x->shape[0] = 1;
        const int32_t st = try_module(&c, NULL, "int8", 20, 48, &q);
        assert_int_equal(st, i ? QSAE_EUNSUPPORTED : QSAE_OK);
        assert_true(i == 0 || strstr(qsae_error_message(), orders[i]));
        qsae__qmatrix_unref(&q);
    }
    copy_reset(&c);
    item(&c, "int8.weight_format")->dtype = QSAE_I8;
    assert_int_equal(try_module(&c, NULL, "int8", 20, 48, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected U8, found I8"));
    /* maxima as bf16 where blocks do not end with rows are none that any release wrote */
    copy_reset(&c);
    set_text(&c, "nf4_repacked.weight.quant_state.bitsandbytes__nf4", "{\"quant_type\": \"nf4\", "
             "\"blocksize\": 256, \"dtype\": \"bfloat16\"}");
    assert_int_equal(try_module(&c, NULL, "nf4_repacked", 32, 128, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected F32 [16], found BF16 [2, 32]"));
    /* five bytes are no whole elements of two */
    set_text(&c, "fp4.weight.quant_state.bitsandbytes__fp4",
             "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"float16\"}");
    item(&c, "fp4.weight")->dtype = QSAE_F16;
    item(&c, "fp4.weight")->shape[0] = 16;
    assert_int_equal(try_module(&c, NULL, "fp4", 2, 5, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected U8 [5, 1], found F16 [16, 1]"));
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
        { "{\"_load_in_4bit\": true, \"_load_in_8bit\": true}", QSAE_EFORMAT, "both", 0, 0 },
        { "{\"bnb_4bit_compute_dtype\": \"float16\", \"bnb_4bit_quant_type\": \"fp4\", "
          "\"llm_int8_has_fp16_weight\": true, \"llm_int8_threshold\": 65504}", QSAE_OK, NULL,
          65504, QSAE_F16 },
        { "{\"llm_int8_threshold\": 65505}", QSAE_EFORMAT, "0..65504, found 65505", 0, 0 },
        { "{\"_load_in_8bit\": true, \"llm_int8_has_fp16_weight\": true}", QSAE_EUNSUPPORTED,
          "llm_int8_has_fp16_weight", 0, 0 },
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

/* More inputs than a sum in int32 has room for. */
static void test_wide_int8(void **state)
{
    enum { MOST_INPUTS = INT32_MAX / (127 * 127) };
    qsae_context *ctx = test_context(NULL, 1);
    struct copy c;
    qsae_qmatrix *q = NULL;
    char text[32];
    (void)state;
    copy_open(ctx, &c);
    int8_t *const codes = test_alloc(MOST_INPUTS + 1, 1);
    memset(codes, 127, MOST_INPUTS + 1);
    qsae__tensor *const x = item(&c, "int8.weight");
    x->data = codes;
    x->shape[0] = item(&c, "int8.SCB")->shape[0] = 1;
    item(&c, "int8.SCB")->bytes = 4;
    for (int64_t n = MOST_INPUTS; n <= MOST_INPUTS + 1; n++) {
        x->shape[1] = n;
        x->bytes = (uint64_t)n;
        const int32_t st = try_module(&c, NULL, "int8", 1, n, &q);
        snprintf(text, sizeof text, "%lld inputs", (long long)n);
        assert_int_equal(st, n > MOST_INPUTS ? QSAE_EUNSUPPORTED : QSAE_OK);
        assert_true(st == QSAE_OK || strstr(qsae_error_message(), text));
        qsae__qmatrix_unref(&q);
    }
    test_release(codes);
    copy_close(&c);
    qsae_context_close(&ctx);
}

/* The mean of block maxima that are infinite has no place in a JSON text; without double=1 there is
 * none. */
static void test_no_offset(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    qsae__bnb_parts parts;
    float x[128];
    (void)state;
    test_random(3, x, 128);
    x[70] = INFINITY;
    for (int nested = 0; nested < 2; nested++) {
        qsae_qmatrix *q = test_encode(ctx, nested ? "nf4" : "nf4:double=0", x, QSAE_F32, 2, 64, 0);
        assert_int_equal(qsae__bnb_describe(q, &parts), nested ? QSAE_ENONFINITE : QSAE_OK);
        assert_true(!nested || strstr(qsae_error_message(), "the weight holds NaN or infinity"));
        qsae__qmatrix_unref(&q);
    }
    qsae_context_close(&ctx);
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
        cmocka_unit_test(test_configuration), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_wide_int8),  cmocka_unit_test(test_no_offset),
    };
    return cmocka_run_group_tests_name("codecs/bnb", tests, NULL, NULL);
}
