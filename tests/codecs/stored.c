/* SPDX-License-Identifier: BSD-2-Clause */
/* Matrices of quantized checkpoints against the packages that define the formats, and files that
 * are none. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codecs/act.h"
#include "codecs/stored.h"
#include "tests.h"

static const char *const names[] = {
    "int4_group", "int4_asym", "int4_channel", "int3_asym", "int5_channel", "int8_asym",
    "w4a8_fp8", "w8a8", "w8a8_asym", "w8a8_static", "naive_int8", "fp8_tensor", "fp8_channel",
    "fp8_block", "nvfp4_a16", "nvfp4", "mxfp4", "mxfp8", "gptq4_gptq", "gptq4_gptq_v2",
    "gptq2_gptq", "gptq3_gptq", "gptq8_gptq", "awq", "awq_rows", "fp8_fine", "fp8_ragged",
    "fp8_ue8m0", "fp8_bytes", "fp8_one",
};

static const struct {
    const char *name;
    int32_t dtype;
} dtypes[] = { { "f32", QSAE_F32 }, { "bf16", QSAE_BF16 }, { "f16", QSAE_F16 } };

struct fixture {
    json_t *json;
    qsae__scheme *scheme;
    qsae__tensors *tensors;
};

#define CHECK(call) \
    do { \
        if ((call) != QSAE_OK) \
            fail_msg("%s: %s", #call, qsae_error_message()); \
    } while (0)

static void fixture_open(qsae_context *ctx, const char *name, struct fixture *f)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/codecs/stored/%s.json", QSAE_TEST_DATA, name);
    CHECK(qsae__json_load(ctx, path, &f->json));
    snprintf(path, sizeof path, "%s/codecs/stored/%s.safetensors", QSAE_TEST_DATA, name);
    CHECK(qsae__tensors_load(ctx, path, &f->tensors));
    CHECK(qsae__scheme_open(ctx, json_object_get(f->json, "config"), name, &f->scheme));
}

static void fixture_close(qsae_context *ctx, struct fixture *f)
{
    qsae__scheme_close(ctx, &f->scheme);
    qsae__tensors_unref(&f->tensors);
    json_decref(f->json);
}

static int64_t cases(const struct fixture *f)
{
    return (int64_t)json_array_size(json_object_get(f->json, "cases"));
}

static const json_t *case_at(const struct fixture *f, int64_t i)
{
    return json_array_get(json_object_get(f->json, "cases"), (size_t)i);
}

static int32_t open_case(qsae_context *ctx, const struct fixture *f, int64_t i, qsae_qmatrix **q)
{
    const json_t *const c = case_at(f, i);
    return qsae__stored_open(ctx, f->scheme, f->tensors, test_json_str(c, "module"),
                             test_json_int(c, "rows"), test_json_int(c, "cols"), q);
}

/* Of values exact in dtype; zeros lose their sign, NaN is the quiet one. */
static uint32_t crc_of(const float *x, int64_t n, int32_t dtype)
{
    const size_t size = dtype == QSAE_F32 ? 4 : 2;
    char *const data = test_alloc(n, size);
    float *const v = test_alloc(n, sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = x[i] == 0 ? 0 : x[i] != x[i] ? qsae__f32_from_bits(0x7fc00000u) : x[i];
    assert_true(qsae__from_f32(dtype, v, n, data));
    const uint32_t crc = test_crc32(data, (size_t)n * size);
    test_release(data);
    test_release(v);
    return crc;
}

static uint32_t wanted(const json_t *o, const char *key)
{
    return (uint32_t)strtoul(test_json_str(o, key), NULL, 16);
}

static bool same_bits(float a, float b)
{
    return qsae__f32_bits(a) == qsae__f32_bits(b) || (a != a && b != b);
}

/* Any part of a row decodes as it does within the whole. */
static void check_parts(const qsae_qmatrix *q, int32_t dtype, const float *whole)
{
    float part[101];
    uint16_t narrow[101];
    for (int64_t r = 0; r < q->n_out; r++)
        for (int64_t c = r % 3, n = 1; c < q->n_in; c += n, n = (n * 7 + r) % 101 + 1) {
            n = qsae__min_i64(n, q->n_in - c);
            q->ops->decode(q, r, c, n, dtype, part);
            for (int64_t i = 0; i < n; i++)
                assert_true(same_bits(part[i], whole[r * q->n_in + c + i]));
            if (dtype != QSAE_BF16)
                continue;
            q->ops->decode16(q, r, c, n, narrow);
            for (int64_t i = 0; i < n; i++)
                assert_true(same_bits(qsae__bf16_to_f32(narrow[i]), whole[r * q->n_in + c + i]));
        }
}

static void check_decoded(const char *name, const qsae_qmatrix *q, const json_t *c)
{
    float *const x = test_alloc(q->n_out * q->n_in, sizeof *x);
    for (int64_t d = 0; d < LENGTH(dtypes); d++) {
        for (int64_t r = 0; r < q->n_out; r++)
            q->ops->decode(q, r, 0, q->n_in, dtypes[d].dtype, x + r * q->n_in);
        const uint32_t crc = crc_of(x, q->n_out * q->n_in, dtypes[d].dtype);
        if (crc != wanted(json_object_get(c, "crc32"), dtypes[d].name))
            fail_msg("%s %s %s: CRC32 %08x", name, test_json_str(c, "module"), dtypes[d].name, crc);
        check_parts(q, dtypes[d].dtype, x);
    }
    test_release(x);
}

static void check_act(const char *name, const struct fixture *f, const qsae_qmatrix *q,
                      const json_t *c)
{
    const json_t *const act = json_object_get(c, "act");
    char key[64];
    assert_int_equal(q->act != NULL, act != NULL);
    if (!act)
        return;
    snprintf(key, sizeof key, "x.%s", test_json_str(c, "module"));
    const qsae__tensor *const t = qsae__tensors_find(f->tensors, key);
    assert_non_null(t);
    const int64_t n = t->shape[0] * t->shape[1];
    float *const x = test_alloc(n, sizeof *x);
    for (int64_t d = 0; d < LENGTH(dtypes); d++) {
        memcpy(x, t->data, (size_t)n * sizeof *x);
        for (int64_t i = 0; i < n; i++)
            x[i] = qsae__round_to(dtypes[d].dtype, x[i]);
        for (int64_t r = 0; r < t->shape[0]; r++)
            qsae__act_row(q->ctx, q->act, dtypes[d].dtype, t->shape[1], x + r * t->shape[1]);
        const uint32_t crc = crc_of(x, n, dtypes[d].dtype);
        if (crc != wanted(act, dtypes[d].name))
            fail_msg("%s %s rows %s: CRC32 %08x", name, key, dtypes[d].name, crc);
    }
    test_release(x);
}

/* The arrays are the file's tensors, byte for byte, and all there is to count. */
static void check_fields(const struct fixture *f, const qsae_qmatrix *q, const char *module)
{
    uint64_t sum = 0;
    const int32_t count = qsae_qmatrix_field_count(q);
    assert_true(count >= 2);
    for (int32_t i = 0; i < count; i++) {
        char key[64];
        qsae_field field = { .struct_size = sizeof field };
        CHECK(qsae_qmatrix_field(q, i, &field));
        snprintf(key, sizeof key, "%s.%s", module, field.name);
        const qsae__tensor *const t = qsae__tensors_find(f->tensors, key);
        assert_non_null(t);
        assert_int_equal(field.dtype, t->dtype);
        assert_int_equal(field.bytes, t->bytes);
        assert_memory_equal(field.data, t->data, t->bytes);
        sum += field.bytes;
    }
    assert_int_equal(sum, qsae_qmatrix_bytes(q));
}

static void test_packages(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < LENGTH(names); i++) {
            struct fixture f;
            fixture_open(ctx[k], names[i], &f);
            for (int64_t j = 0; j < cases(&f); j++) {
                qsae_qmatrix *q = NULL;
                CHECK(open_case(ctx[k], &f, j, &q));
                assert_non_null(q);
                check_decoded(names[i], q, case_at(&f, j));
                check_act(names[i], &f, q, case_at(&f, j));
                check_fields(&f, q, test_json_str(case_at(&f, j), "module"));
                qsae__qmatrix_unref(&q);
            }
            fixture_close(ctx[k], &f);
        }
    test_contexts_close(ctx, n);
}

/* x W^T of the stored matrix is that of its decoded elements and transformed rows, for any split of
 * the rows. */
static void check_linear(qsae_context *ctx, const qsae_qmatrix *q, int32_t dtype, uint64_t seed)
{
    enum { ROWS = 5 };
    const int64_t n = q->n_out, k = q->n_in;
    float *const w = test_alloc(n * k, sizeof *w), *const x = test_alloc(ROWS * k, sizeof *x);
    float *const y = test_alloc(ROWS * n, sizeof *y), *const z = test_alloc(ROWS * n, sizeof *z);
    for (int64_t r = 0; r < n; r++)
        q->ops->decode(q, r, 0, k, dtype, w + r * k);
    for (int64_t i = 0; i < n * k; i++)
        if (!isfinite(w[i]))
            goto done;
    test_random(seed, x, ROWS * k);
    for (int64_t i = 0; i < ROWS * k; i++)
        x[i] = qsae__round_to(dtype, x[i]);
    qsae_rows in = test_rows(x, QSAE_F32, ROWS, k), out = test_rows(y, QSAE_F32, ROWS, n);
    CHECK(qsae_qmatrix_linear(q, &in, NULL, dtype, &out));
    for (int64_t r = 0; r < ROWS; r += 2) {
        qsae_rows part = test_rows(x + r * k, QSAE_F32, qsae__min_i64(2, ROWS - r), k);
        qsae_rows to = test_rows(z + r * n, QSAE_F32, part.n_rows, n);
        CHECK(qsae_qmatrix_linear(q, &part, NULL, dtype, &to));
    }
    test_same_f32("split rows", z, y, ROWS * n);
    qsae_qmatrix *plain = test_encode(ctx, "none", w, dtype, n, k, 0);
    for (int64_t r = 0; r < ROWS && q->act; r++)
        qsae__act_row(ctx, q->act, dtype, k, x + r * k);
    out = test_rows(z, QSAE_F32, ROWS, n);
    CHECK(qsae_qmatrix_linear(plain, &in, NULL, dtype, &out));
    test_same_f32("plain matrix", y, z, ROWS * n);
    qsae__qmatrix_unref(&plain);
done:
    test_release(w);
    test_release(x);
    test_release(y);
    test_release(z);
}

static void test_linear(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < LENGTH(names); i++) {
            struct fixture f;
            qsae_qmatrix *q = NULL;
            fixture_open(ctx[k], names[i], &f);
            CHECK(open_case(ctx[k], &f, 0, &q));
            check_linear(ctx[k], q, QSAE_F32, (uint64_t)i);
            check_linear(ctx[k], q, QSAE_BF16, (uint64_t)i);
            qsae__qmatrix_unref(&q);
            fixture_close(ctx[k], &f);
        }
    test_contexts_close(ctx, n);
}

/* Layers of one call whose rows differ do not meet. */
static void test_mixed_call(void **state)
{
    static const char *const three[] = { "w8a8", "w8a8_asym", "w8a8_static" };
    qsae_context *ctx = test_context(NULL, 2);
    qsae__linear *l[4] = { NULL };
    float x[3 * 70], y[4][3 * 11], alone[3 * 11], *out[4];
    int64_t ld[4];
    (void)state;
    test_random(9, x, LENGTH(x));
    for (int i = 0; i < 4; i++) {
        struct fixture f;
        qsae_qmatrix *q = NULL;
        fixture_open(ctx, three[i % 3], &f);
        CHECK(open_case(ctx, &f, 0, &q));
        const qsae__linear_weight w = { .stored = q, .n_out = 11, .n_in = 70 };
        CHECK(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l[i]));
        assert_int_equal(qsae__linear_quantized(l[i]), 1);
        qsae__qmatrix_unref(&q);
        fixture_close(ctx, &f);
        out[i] = y[i];
        ld[i] = 11;
    }
    const qsae__linear_rows rows = { x, QSAE_F32, 3, 70 };
    CHECK(qsae__linear_apply((const qsae__linear *const *)l, 4, &rows, out, ld, NULL, NULL));
    for (int i = 0; i < 4; i++) {
        const qsae__linear *const one[1] = { l[i] };
        float *const to[1] = { alone };
        CHECK(qsae__linear_apply(one, 1, &rows, to, ld, NULL, NULL));
        test_same_f32("alone", y[i], alone, LENGTH(alone));
    }
    assert_true(memcmp(y[0], y[1], sizeof y[0]) != 0);
    for (int i = 0; i < 4; i++)
        qsae__linear_close(&l[i]);
    qsae_context_close(&ctx);
}

/* A set of tensors in memory, written to a file and read again. */
struct edit {
    qsae__tensor t[16];
    int64_t n;
};

static int32_t open_edited(qsae_context *ctx, const struct fixture *f, const struct edit *e,
                           qsae_qmatrix **q)
{
    char path[] = "/tmp/qsae_stored_XXXXXX";
    struct fixture g = *f;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    CHECK(qsae__safetensors_write(ctx, path, e->t, e->n));
    CHECK(qsae__tensors_load(ctx, path, &g.tensors));
    const int32_t st = open_case(ctx, &g, 0, q);
    qsae__tensors_unref(&g.tensors);
    unlink(path);
    return st;
}

static void read_edit(const struct fixture *f, struct edit *e)
{
    e->n = 0;
    for (int64_t i = 0; i < qsae__tensors_len(f->tensors); i++) {
        const qsae__tensor *const t = qsae__tensors_at(f->tensors, i);
        if (strncmp(t->name, "m0.", 3) == 0)
            e->t[e->n++] = *t;
    }
    assert_in_range(e->n, 2, 15);
}

static void refuse(qsae_context *ctx, const struct fixture *f, const struct edit *e,
                   const char *what, const qsae__tensor *t)
{
    qsae_qmatrix *q = NULL;
    const int32_t st = open_edited(ctx, f, e, &q);
    if (st == QSAE_OK)
        fail_msg("%s %s: opened", what, t->name);
    assert_null(q);
    if (st != QSAE_EMISMATCH && st != QSAE_ENOENT && st != QSAE_EFORMAT)
        fail_msg("%s %s: %s", what, t->name, qsae_error_message());
    if (!strstr(qsae_error_message(), "m0."))
        fail_msg("%s %s: message %s names no tensor", what, t->name, qsae_error_message());
}

/* Without a tensor, or with one of another dtype or shape: refused. What only tells that a matrix
 * is stored may be missing: then it is a plain one. */
static void test_wrong_tensors(void **state)
{
    static char zeros[1 << 16];
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int64_t i = 0; i < LENGTH(names); i++) {
        struct fixture f;
        struct edit all, e;
        fixture_open(ctx, names[i], &f);
        read_edit(&f, &all);
        for (int64_t j = 0; j < all.n; j++) {
            qsae_qmatrix *q = NULL;
            e = all;
            memmove(e.t + j, e.t + j + 1, (size_t)(e.n-- - j - 1) * sizeof *e.t);
            const int32_t st = open_edited(ctx, &f, &e, &q);
            if (st == QSAE_OK ? q != NULL : st != QSAE_ENOENT)
                fail_msg("%s without %s: %s", names[i], all.t[j].name, qsae_error_message());
            qsae__qmatrix_unref(&q);
            e = all;
            e.t[j].dtype = QSAE_F64;
            e.t[j].bytes = 8;
            for (int32_t d = 0; d < e.t[j].rank; d++)
                e.t[j].bytes *= (uint64_t)e.t[j].shape[d];
            e.t[j].data = zeros;
            assert_true(e.t[j].bytes <= sizeof zeros);
            refuse(ctx, &f, &e, "F64", &all.t[j]);
            for (int32_t d = 0; d < all.t[j].rank; d++)
                for (int64_t by = -1; by <= 1; by += 2) {
                    e = all;
                    e.t[j].shape[d] += by;
                    e.t[j].data = zeros;
                    e.t[j].bytes = (uint64_t)qsae_dtype_bits(e.t[j].dtype) / 8;
                    for (int32_t k = 0; k < e.t[j].rank; k++)
                        e.t[j].bytes *= (uint64_t)e.t[j].shape[k];
                    refuse(ctx, &f, &e, "shape", &all.t[j]);
                }
            e = all;
            e.t[j].rank = 3;
            e.t[j].shape[0] =
                (int64_t)(e.t[j].bytes / ((uint64_t)qsae_dtype_bits(e.t[j].dtype) / 8));
            e.t[j].shape[1] = e.t[j].shape[2] = 1;
            if (e.t[j].shape[0] > 1)
                refuse(ctx, &f, &e, "rank", &all.t[j]);
        }
        fixture_close(ctx, &f);
    }
    qsae_context_close(&ctx);
}

/* Every index of a group beyond the last, and below 0. */
static void test_wrong_index(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct fixture f;
    struct edit e;
    (void)state;
    fixture_open(ctx, "gptq4_gptq", &f);
    read_edit(&f, &e);
    for (int64_t j = 0; j < e.n; j++) {
        static const int32_t bad[] = { 2, -1, INT32_MAX, INT32_MIN };
        int32_t index[64];
        if (strcmp(e.t[j].name, "m0.g_idx") != 0)
            continue;
        assert_int_equal(e.t[j].shape[0], 50);
        memcpy(index, e.t[j].data, 50 * sizeof *index);
        e.t[j].data = index;
        for (int64_t at = 0; at < 50; at += 7)
            for (int64_t b = 0; b < LENGTH(bad); b++) {
                const int32_t old = index[at];
                index[at] = bad[b];
                refuse(ctx, &f, &e, "index", &e.t[j]);
                index[at] = old;
            }
    }
    fixture_close(ctx, &f);
    qsae_context_close(&ctx);
}

/* Without act-order the index may be missing: inputs are in groups as they come. */
static void test_no_index(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct fixture f;
    struct edit all, e = { .n = 0 };
    qsae_qmatrix *q = NULL;
    (void)state;
    fixture_open(ctx, "gptq4_gptq", &f);
    read_edit(&f, &all);
    for (int64_t i = 0; i < all.n; i++)
        if (strcmp(all.t[i].name, "m0.g_idx") != 0)
            e.t[e.n++] = all.t[i];
    assert_int_equal(e.n, all.n - 1);
    assert_int_equal(open_edited(ctx, &f, &e, &q), QSAE_ENOENT);
    assert_int_equal(json_object_set_new(json_object_get(f.json, "config"), "desc_act",
                                         json_false()), 0);
    qsae__scheme_close(ctx, &f.scheme);
    CHECK(qsae__scheme_open(ctx, json_object_get(f.json, "config"), "c", &f.scheme));
    /* The set is closed by then, the matrix keeps it. */
    CHECK(open_edited(ctx, &f, &e, &q));
    check_decoded("gptq4_gptq without g_idx", q, case_at(&f, 0));
    qsae__qmatrix_unref(&q);
    fixture_close(ctx, &f);
    qsae_context_close(&ctx);
}

#define CT(rest) "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"," rest "}"
#define INT4 "\"num_bits\":4,\"group_size\":32,\"strategy\":\"group\""

/* Which group a module belongs to, seen by the bits of its codes. */
static void test_targets(void **state)
{
    static const char text[] = CT(
        "\"ignore\":[\"lm_head\",\"re:.*skip.*\",\"Embedding\"],\"config_groups\":{"
        "\"a\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":2,\"strategy\":\"channel\"}},"
        "\"b\":{\"targets\":[\"re:.*q_proj\",\"re:a\"],\"weights\":{\"num_bits\":4,"
        "\"strategy\":\"channel\"}},"
        "\"c\":{\"targets\":[\"a.q_proj\"],\"weights\":{\"num_bits\":8,"
        "\"strategy\":\"channel\"}}}");
    static const struct {
        const char *module;
        int32_t words; /* of 16 codes; 0: not stored */
    } places[] = { { "b.k_proj", 1 },  { "b.q_proj", 2 },  { "a.q_proj", 4 }, { "a.k_proj", 2 },
                   { "ba.k_proj", 1 }, { "lm_head", 0 },   { "b.skip.k", 0 },
                   { "m.embed_tokens", 0 } };
    qsae_context *ctx = test_context(NULL, 1);
    json_t *json = NULL;
    qsae__scheme *scheme = NULL;
    (void)state;
    CHECK(qsae__json_parse(text, strlen(text), "c", &json));
    CHECK(qsae__scheme_open(ctx, json, "c", &scheme));
    for (int64_t i = 0; i < LENGTH(places); i++) {
        static const int32_t codes[4];
        static const int64_t shape[2] = { 1, 16 };
        static const float scale = 1;
        char n[3][64], path[] = "/tmp/qsae_stored_XXXXXX";
        const int words = places[i].words ? places[i].words : 1;
        qsae__tensors *t = NULL;
        qsae_qmatrix *q = NULL;
        snprintf(n[0], sizeof n[0], "%s.weight_packed", places[i].module);
        snprintf(n[1], sizeof n[1], "%s.weight_scale", places[i].module);
        snprintf(n[2], sizeof n[2], "%s.weight_shape", places[i].module);
        const qsae__tensor list[3] = {
            { .name = n[0], .data = codes, .bytes = (uint64_t)words * 4, .shape = { 1, words },
              .rank = 2, .dtype = QSAE_I32 },
            { .name = n[1], .data = &scale, .bytes = 4, .shape = { 1, 1 }, .rank = 2,
              .dtype = QSAE_F32 },
            { .name = n[2], .data = shape, .bytes = 16, .shape = { 2 }, .rank = 1,
              .dtype = QSAE_I64 },
        };
        const int fd = mkstemp(path);
        assert_true(fd >= 0);
        close(fd);
        CHECK(qsae__safetensors_write(ctx, path, list, 3));
        CHECK(qsae__tensors_load(ctx, path, &t));
        if (qsae__stored_open(ctx, scheme, t, places[i].module, 1, 16, &q) != QSAE_OK)
            fail_msg("%s: %s", places[i].module, qsae_error_message());
        assert_int_equal(q != NULL, places[i].words > 0);
        qsae__qmatrix_unref(&q);
        qsae__tensors_unref(&t);
        unlink(path);
    }
    qsae__scheme_close(ctx, &scheme);
    json_decref(json);
    qsae_context_close(&ctx);
}

/* A broken expression, and one that would match for ages. */
static void test_expressions(void **state)
{
    static const char *const bad[] = { "re:(", "re:(a+)+(a+)+(a+)+$" };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int64_t i = 0; i < LENGTH(bad); i++) {
        char text[512];
        json_t *json = NULL;
        struct fixture f;
        qsae_qmatrix *q = NULL;
        qsae__scheme *scheme = NULL;
        fixture_open(ctx, "int4_group", &f);
        snprintf(text, sizeof text,
                 CT("\"config_groups\":{\"g\":{\"targets\":[\"%s\"],\"weights\":{" INT4 "}}}"),
                 bad[i]);
        CHECK(qsae__json_parse(text, strlen(text), "c", &json));
        assert_int_equal(qsae__scheme_open(ctx, json, "c", &scheme),
                         i == 0 ? QSAE_EFORMAT : QSAE_OK);
        if (i > 0)
            assert_int_equal(qsae__stored_open(ctx, scheme, f.tensors,
                                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 9,
                                               96, &q), QSAE_EUNSUPPORTED);
        qsae__scheme_close(ctx, &scheme);
        json_decref(json);
        fixture_close(ctx, &f);
    }
    qsae_context_close(&ctx);
}

static void *failing_alloc(void *cookie, size_t size, size_t alignment)
{
    int64_t *const left = cookie;
    return (*left)-- > 0 ? aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)
                         : NULL;
}

static void counted_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

/* Each allocation in turn fails: QSAE_ENOMEM, nothing lost. */
static void test_memory(void **state)
{
    int64_t left = INT64_MAX;
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = failing_alloc;
    s.free = counted_free;
    s.alloc_cookie = &left;
    CHECK(qsae_context_open(&s, &ctx));
    for (int64_t i = 0; i < LENGTH(names); i++) {
        struct fixture f;
        int32_t st = QSAE_ENOMEM;
        left = INT64_MAX;
        fixture_open(ctx, names[i], &f);
        for (int64_t calls = 0; st != QSAE_OK; calls++) {
            qsae__scheme *scheme = NULL;
            struct fixture g = f;
            qsae_qmatrix *q = NULL;
            left = calls;
            st = qsae__scheme_open(ctx, json_object_get(f.json, "config"), "c", &scheme);
            g.scheme = scheme;
            if (st == QSAE_OK)
                st = open_case(ctx, &g, 0, &q);
            if (st != QSAE_OK)
                assert_int_equal(st, QSAE_ENOMEM);
            left = INT64_MAX;
            qsae__qmatrix_unref(&q);
            qsae__scheme_close(ctx, &scheme);
        }
        fixture_close(ctx, &f);
    }
    qsae_context_close(&ctx);
}

int run_stored(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packages),      cmocka_unit_test(test_linear),
        cmocka_unit_test(test_mixed_call),    cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_wrong_index),   cmocka_unit_test(test_no_index),
        cmocka_unit_test(test_targets),       cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("stored", tests, NULL, NULL);
}
