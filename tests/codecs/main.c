/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests.h"

void *test_alloc(int64_t count, size_t size)
{
    void *p = calloc((size_t)(count ? count : 1), size);
    assert_non_null(p);
    return p;
}

void test_release(void *p)
{
    free(p);
}

int64_t test_levels(const char *names[QSAE__LEVEL_COUNT])
{
    int64_t n = 0;
    for (int32_t level = 0; level <= qsae__cpu_level(); level++)
        names[n++] = qsae__level_name(level);
    return n;
}

qsae_context *test_context(const char *cpu, int32_t threads)
{
    qsae_context *ctx = NULL;
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    s.cpu = cpu;
    s.threads = threads;
    if (qsae_context_open(&s, &ctx))
        fail_msg("context %s: %s", cpu ? cpu : "best", qsae_error_message());
    return ctx;
}

int64_t test_contexts(qsae_context *ctx[TEST_CONTEXTS])
{
    static const int32_t threads[] = { 1, 2, 3, 8 };
    const char *names[QSAE__LEVEL_COUNT];
    const int64_t levels = test_levels(names);
    int64_t n = 0;
    for (int64_t i = 0; i < levels; i++)
        ctx[n++] = test_context(names[i], 2);
    for (int64_t i = 0; i < LENGTH(threads); i++)
        ctx[n++] = test_context(NULL, threads[i]);
    return n;
}

void test_contexts_close(qsae_context **ctx, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        qsae_context_close(&ctx[i]);
}

qsae_rows test_rows(const void *data, int32_t dtype, int64_t rows, int64_t cols)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = (void *)(uintptr_t)data,
                        .n_rows = rows, .n_cols = cols, .row_stride = cols, .dtype = dtype };
}

int32_t test_dtype(const char *name)
{
    return strcmp(name, "f32") == 0 ? QSAE_F32 : strcmp(name, "bf16") == 0 ? QSAE_BF16 : QSAE_F16;
}

qsae_qmatrix *test_encode(qsae_context *ctx, const char *spec, const float *x, int32_t dtype,
                          int64_t rows, int64_t cols, int64_t heads)
{
    qsae_quantizer *z = NULL;
    qsae_qmatrix *q = NULL;
    void *stored = test_alloc(rows * cols, sizeof(float));
    assert_true(qsae__from_f32(dtype, x, rows * cols, stored));
    const qsae_rows w = test_rows(stored, dtype, rows, cols);
    if (qsae_quantizer_open(ctx, spec, &z) || qsae_quantizer_encode(z, &w, heads, 0, &q))
        fail_msg("%s: %s", spec, qsae_error_message());
    qsae_quantizer_close(&z);
    test_release(stored);
    return q;
}

qsae_field test_field(const qsae_qmatrix *q, const char *name)
{
    qsae_field f = { .struct_size = sizeof f };
    for (int32_t i = 0; i < qsae_qmatrix_field_count(q); i++) {
        assert_int_equal(qsae_qmatrix_field(q, i, &f), QSAE_OK);
        if (strcmp(f.name, name) == 0)
            return f;
    }
    fail_msg("no field %s", name);
    return f;
}

void *test_decode(const qsae_qmatrix *q, int32_t dtype)
{
    void *data = test_alloc(qsae_qmatrix_rows(q) * qsae_qmatrix_cols(q), sizeof(float));
    qsae_rows out = test_rows(data, dtype, qsae_qmatrix_rows(q), qsae_qmatrix_cols(q));
    assert_int_equal(qsae_qmatrix_decode(q, &out), QSAE_OK);
    return data;
}

void test_same_f32(const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (qsae__f32_bits(got[i]) != qsae__f32_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s: element %lld is %.9g (%08X), expected %.9g (%08X)", what, (long long)i,
                     (double)got[i], qsae__f32_bits(got[i]), (double)want[i],
                     qsae__f32_bits(want[i]));
}

void test_same_bytes(const char *what, const void *got, const void *want, size_t n)
{
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu of %zu is %02X, expected %02X", what, i, n, a[i], b[i]);
}

uint32_t test_crc32(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

uint32_t test_crc32_decoded(const qsae_qmatrix *q, int32_t dtype)
{
    const int64_t n = qsae_qmatrix_rows(q) * qsae_qmatrix_cols(q);
    const size_t size = dtype == QSAE_F32 ? 4 : 2;
    float *exact = test_decode(q, QSAE_F32);
    char *data = test_decode(q, dtype);
    for (int64_t i = 0; i < n; i++)
        if (exact[i] == 0)
            memset(data + (size_t)i * size, 0, size);
    const uint32_t crc = test_crc32(data, (size_t)n * size);
    test_release(data);
    test_release(exact);
    return crc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const qsae__tensor *)a)->name, ((const qsae__tensor *)b)->name);
}

struct test_file *test_load(qsae_context *ctx, const char *file)
{
    char path[1024];
    struct test_file *f = test_alloc(1, sizeof *f);
    snprintf(path, sizeof path, "%s/codecs/%s", QSAE_TEST_DATA, file);
    if (qsae__tensors_load(ctx, path, &f->file))
        fail_msg("%s", qsae_error_message());
    f->n = qsae__tensors_len(f->file);
    f->tensors = test_alloc(f->n, sizeof *f->tensors);
    for (int64_t i = 0; i < f->n; i++) {
        f->tensors[i] = *qsae__tensors_at(f->file, i);
        void *copy = test_alloc((int64_t)f->tensors[i].bytes, 1);
        memcpy(copy, f->tensors[i].data, (size_t)f->tensors[i].bytes);
        f->tensors[i].data = copy;
    }
    qsort(f->tensors, (size_t)f->n, sizeof *f->tensors, by_name);
    return f;
}

void test_unload(struct test_file *f)
{
    for (int64_t i = 0; i < f->n; i++)
        test_release((void *)(uintptr_t)f->tensors[i].data);
    test_release(f->tensors);
    qsae__tensors_unref(&f->file);
    test_release(f);
}

const qsae__tensor *test_find(const struct test_file *f, const char *name)
{
    const qsae__tensor key = { .name = name };
    return bsearch(&key, f->tensors, (size_t)f->n, sizeof key, by_name);
}

json_t *test_json(qsae_context *ctx, const char *file)
{
    char path[1024];
    json_t *j = NULL;
    snprintf(path, sizeof path, "%s/codecs/%s", QSAE_TEST_DATA, file);
    if (qsae__json_load(ctx, path, &j))
        fail_msg("%s", qsae_error_message());
    return j;
}

const qsae__tensor *test_tensor(const struct test_file *f, int32_t dtype, const char *format, ...)
{
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const qsae__tensor *x = test_find(f, name);
    if (!x)
        fail_msg("no tensor %s", name);
    if (dtype && x->dtype != dtype)
        fail_msg("tensor %s: dtype %s", name, qsae_dtype_name(x->dtype));
    return x;
}

int64_t test_count(const qsae__tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->rank; i++)
        n *= t->shape[i];
    return n;
}

int64_t test_json_int(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

const char *test_json_str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    assert_non_null(s);
    return s;
}

void test_random(uint64_t seed, float *x, int64_t n)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 12; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(s >> 40) * 0x1p-24f;
        }
        x[i] = sum - 6;
    }
}

int main(int argc, char **argv)
{
    int failures = 0;
    if (argc > 1 && strcmp(argv[1], "keys") == 0)
        return run_keys() != 0;
    failures += run_keys();
    failures += run_condition();
    failures += run_examples();
    failures += run_blocks();
    failures += run_blockwise();
    failures += run_bnb();
    failures += run_int8();
    failures += run_rtn();
    failures += run_ggml();
    failures += run_control();
    failures += run_prune();
    failures += run_error();
    failures += run_kv();
    failures += run_stored();
    failures += run_stored_config();
    failures += run_act();
    failures += run_sources();
    failures += run_linear();
    failures += run_api();
    return failures != 0;
}
