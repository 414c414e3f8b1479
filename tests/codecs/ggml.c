/* SPDX-License-Identifier: BSD-2-Clause */
/* ggml's block types against ggml and the gguf package (tests/reference/ggml.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codecs/stored.h"
#include "kernels/ggml.h"
#include "tests.h"

static const int32_t types[] = {
#define NUMBER(name, number, text, elements, bytes) number,
    QSAE_BLOCK_DTYPE_MAP(NUMBER)
#undef NUMBER
};

static int64_t elements_of(int32_t dtype)
{
    int64_t elements, bytes;
    assert_int_equal(qsae_dtype_block(dtype, &elements, &bytes), 1);
    return elements;
}

static int64_t bytes_of(int32_t dtype, int64_t n)
{
    int64_t elements, bytes;
    assert_int_equal(qsae_dtype_block(dtype, &elements, &bytes), 1);
    return n / elements * bytes;
}

static uint64_t next(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

static void check_bytes(const char *name, int32_t level, const uint8_t *got,
                        const qsae__tensor *want)
{
    char what[160];
    snprintf(what, sizeof what, "%s at level %s", name, qsae__level_name(level));
    test_same_bytes(what, got, want->data, (size_t)want->bytes);
}

/* Every tensor of the file at every level of this CPU. */
static void test_fixtures(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "ggml.safetensors");
    int64_t encoded = 0, rows = 0, decoded = 0;
    (void)state;
    for (int64_t i = 0; i < t->n; i++) {
        const qsae__tensor *want = t->tensors + i;
        char kind[32] = "", name[32] = "";
        if (sscanf(want->name, "q.%31[^.].%31s", kind, name) == 2 ||
            sscanf(want->name, "r.%31[^.]", kind) == 1) {
            const bool row = want->name[0] == 'r';
            const int32_t dtype = row ? QSAE_IQ4_NL : qsae_dtype_from_name(name);
            const qsae__tensor *x = test_tensor(t, QSAE_F32, "x.%s", kind);
            const int64_t n = test_count(x);
            assert_true(qsae__ggml_encodes(dtype));
            assert_int_equal(bytes_of(dtype, n), want->bytes);
            for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
                const qsae__ggml_ops *ops = qsae__ggml_level(level);
                uint8_t *got = test_alloc((int64_t)want->bytes, 1);
                memset(got, 0xa5, (size_t)want->bytes);
                (row ? ops->encode_row : ops->encode)(dtype, x->data, n, got);
                check_bytes(want->name, level, got, want);
                test_release(got);
            }
            encoded += !row;
            rows += row;
        } else if (sscanf(want->name, "d.%31s", name) == 1) {
            const int32_t dtype = qsae_dtype_from_name(name);
            const qsae__tensor *b = test_tensor(t, QSAE_U8, "b.%s", name);
            assert_int_equal(bytes_of(dtype, test_count(want)), b->bytes);
            for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
                float *got = test_alloc(test_count(want), sizeof *got);
                qsae__ggml_level(level)->decode(dtype, b->data, test_count(want), got);
                test_same_f32(want->name, got, want->data, test_count(want));
                test_release(got);
            }
            decoded++;
        }
    }
    assert_int_equal(encoded, 15 * 16);
    assert_true(rows >= 8);
    assert_int_equal(decoded, LENGTH(types));
    test_unload(t);
    qsae_context_close(&ctx);
}

/* As many values as it takes for every try of every search to be the best one somewhere. */
static void test_many(void **state)
{
    enum { N = 1 << 19 };
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "ggml.safetensors");
    float *x = test_alloc(N, sizeof *x);
    uint8_t *want = test_alloc(2 * N, 1), *got = test_alloc(2 * N, 1);
    uint64_t s = 5;
    int64_t encoded = 0;
    (void)state;
    for (int64_t i = 0; i < N; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        const float a = (float)(s >> 40) * 0x1p-24f - 0.5f;
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = a / ((float)(s >> 40) * 0x1p-24f + 0.03125f);
    }
    for (int64_t i = 0; i < LENGTH(types); i++) {
        const int32_t dtype = types[i];
        if (!qsae__ggml_encodes(dtype))
            continue;
        const size_t size = (size_t)bytes_of(dtype, N);
        const int32_t *crc = test_tensor(t, QSAE_I32, "crc.%s", qsae_dtype_name(dtype))->data;
        qsae__ggml_level(QSAE__LEVEL_C)->encode(dtype, x, N, want);
        if (test_crc32(want, size) != (uint32_t)*crc)
            fail_msg("%s differs", qsae_dtype_name(dtype));
        for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
            qsae__ggml_level(level)->encode(dtype, x, N, got);
            test_same_bytes(qsae_dtype_name(dtype), got, want, size);
        }
        encoded++;
    }
    assert_int_equal(encoded, 16);
    test_release(got);
    test_release(want);
    test_release(x);
    test_unload(t);
    qsae_context_close(&ctx);
}

/* Values of every size, zeros and whole runs of them; if `any`, NaN and infinity too. */
static void fill(uint64_t *seed, bool any, float *x, int64_t n)
{
    const int spread = (int)(next(seed) % 3) * 60;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t r = next(seed);
        const int exponent = spread ? (int)(next(seed) % (unsigned)spread) - spread / 2 : 0;
        x[i] = ldexpf((float)(int32_t)(r % 2000001) - 1000000, exponent - 20);
        if (r % 19 == 0)
            x[i] = r % 2 ? 0.0f : -0.0f;
        if (any && next(seed) % 200 == 0)
            x[i] = r % 3 == 0 ? NAN : r % 3 == 1 ? INFINITY : -INFINITY;
    }
    if (next(seed) % 2)
        memset(x + n / 4, 0, (size_t)(n / 4) * sizeof *x);
}

/* The bytes do not depend on the level, nor on what is encoded beside a block. */
static void test_each_level(void **state)
{
    enum { N = 7 * 256 };
    float x[N];
    uint8_t want[2 * N], got[2 * N];
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        uint64_t s = seed;
        for (int64_t i = 0; i < LENGTH(types); i++) {
            const int32_t dtype = types[i];
            const int64_t block = elements_of(dtype), size = bytes_of(dtype, block);
            if (!qsae__ggml_encodes(dtype))
                continue;
            fill(&s, seed % 2, x, N);
            for (int64_t at = 0; at < N / block; at++)
                qsae__ggml_level(QSAE__LEVEL_C)->encode(dtype, x + at * block, block,
                                                        want + at * size);
            for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
                qsae__ggml_level(level)->encode(dtype, x, N, got);
                if (memcmp(want, got, (size_t)bytes_of(dtype, N)))
                    fail_msg("seed %llu: %s differs at level %s", (unsigned long long)seed,
                             qsae_dtype_name(dtype), qsae__level_name(level));
            }
        }
    }
}

/* Any bytes decode, to the same values at every level. */
static void test_any_bytes(void **state)
{
    enum { BLOCKS = 5 };
    float want[BLOCKS * 256], got[BLOCKS * 256];
    uint8_t b[BLOCKS * 256];
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        uint64_t s = seed;
        for (int64_t i = 0; i < LENGTH(types); i++) {
            const int64_t n = BLOCKS * elements_of(types[i]);
            for (int64_t j = 0; j < bytes_of(types[i], n); j++)
                b[j] = seed == 1 ? 0xff : seed == 2 ? 0 : (uint8_t)next(&s);
            qsae__ggml_level(QSAE__LEVEL_C)->decode(types[i], b, n, want);
            for (int32_t level = 0; level <= qsae__cpu_level(); level++) {
                char what[80];
                snprintf(what, sizeof what, "seed %llu: %s at level %s", (unsigned long long)seed,
                         qsae_dtype_name(types[i]), qsae__level_name(level));
                qsae__ggml_level(level)->decode(types[i], b, n, got);
                test_same_f32(what, got, want, n);
            }
        }
    }
}

/* Decoding what was encoded loses at most what the number of bits says. */
static void test_error(void **state)
{
    static const struct {
        int32_t dtype;
        double relative; /* root mean square, of normal values */
    } bounds[] = {
        { QSAE_Q8_0, 0.008 }, { QSAE_Q6_K, 0.025 }, { QSAE_Q5_K, 0.045 }, { QSAE_Q5_1, 0.05 },
        { QSAE_Q5_0, 0.06 }, { QSAE_Q4_K, 0.085 }, { QSAE_IQ4_XS, 0.09 }, { QSAE_IQ4_NL, 0.09 },
        { QSAE_Q4_1, 0.10 }, { QSAE_Q4_0, 0.11 }, { QSAE_NVFP4, 0.13 }, { QSAE_MXFP4, 0.15 },
        { QSAE_Q3_K, 0.19 }, { QSAE_Q2_K, 0.38 }, { QSAE_TQ1_0, 0.85 }, { QSAE_TQ2_0, 0.85 },
    };
    enum { N = 4096 };
    float x[N], y[N];
    uint8_t b[2 * N];
    (void)state;
    test_random(7, x, N);
    for (int64_t i = 0; i < LENGTH(bounds); i++) {
        double error = 0, norm = 0;
        qsae__ggml_level(QSAE__LEVEL_C)->encode(bounds[i].dtype, x, N, b);
        qsae__ggml_level(QSAE__LEVEL_C)->decode(bounds[i].dtype, b, N, y);
        for (int k = 0; k < N; k++) {
            error += ((double)y[k] - (double)x[k]) * ((double)y[k] - (double)x[k]);
            norm += (double)x[k] * (double)x[k];
        }
        error = sqrt(error / norm);
        if (!(error < bounds[i].relative && error > 0.3 * bounds[i].relative))
            fail_msg("%s: relative error %g", qsae_dtype_name(bounds[i].dtype), error);
    }
}

static qsae_qmatrix *encode(qsae_context *ctx, int32_t dtype, const qsae__source *src)
{
    const qsae__condition c = { .codec = QSAE__GGML, .ggml = dtype };
    qsae_qmatrix *q = NULL;
    if (qsae__qmatrix_encode(ctx, &c, src, 0, &q))
        fail_msg("%s: %s", qsae_dtype_name(dtype), qsae_error_message());
    return q;
}

/* Bytes, field and ranges of an encoded matrix, whatever the threads and the source's dtype. */
static void check_matrix(qsae_context *ctx, int32_t dtype, int32_t from, const float *x,
                         int64_t rows, int64_t cols)
{
    const int64_t n = rows * cols, size = bytes_of(dtype, n);
    char *stored = test_alloc(n, sizeof *x);
    float *whole = test_alloc(n, sizeof *x), *part = test_alloc(cols, sizeof *x);
    uint16_t *narrow = test_alloc(cols, sizeof *narrow);
    uint8_t *want = test_alloc(size, 1);
    uint64_t s = (uint64_t)(dtype + from);
    assert_true(qsae__from_f32(from, x, n, stored));
    assert_true(qsae__to_f32(from, stored, n, whole));
    qsae__ggml_level(QSAE__LEVEL_C)->encode(dtype, whole, n, want);
    const qsae__source src = { .ctx = ctx, .data = stored, .dtype = from, .n_out = rows,
                               .n_in = cols, .out_stride = cols, .in_stride = 1 };
    qsae_qmatrix *q = encode(ctx, dtype, &src);
    const qsae_field f = test_field(q, "weight");
    assert_int_equal(f.dtype, QSAE_U8);
    assert_int_equal(f.shape[0], rows);
    assert_int_equal(f.shape[1], size / rows);
    assert_int_equal(f.bytes, size);
    assert_int_equal(qsae_qmatrix_bytes(q), size);
    assert_int_equal(qsae_qmatrix_field_count(q), 1);
    test_same_bytes(qsae_dtype_name(dtype), f.data, want, (size_t)size);
    qsae__ggml_level(QSAE__LEVEL_C)->decode(dtype, want, n, whole);
    for (int k = 0; k < 60; k++) {
        const int64_t row = (int64_t)next(&s) % rows, c0 = (int64_t)next(&s) % cols;
        const int64_t len = 1 + (int64_t)next(&s) % (cols - c0);
        const float *at = whole + row * cols + c0;
        q->ops->decode(q, row, c0, len, QSAE_F32, part);
        test_same_f32("range", part, at, len);
        q->ops->decode(q, row, c0, len, QSAE_F16, part);
        for (int64_t i = 0; i < len; i++)
            assert_true(part[i] == qsae__round_f16(at[i]));
        q->ops->decode(q, row, c0, len, QSAE_BF16, part);
        q->ops->decode16(q, row, c0, len, narrow);
        for (int64_t i = 0; i < len; i++) {
            assert_true(part[i] == qsae__round_bf16(at[i]));
            assert_int_equal(narrow[i], qsae__f32_to_bf16(at[i]));
        }
    }
    qsae__qmatrix_unref(&q);
    test_release(want);
    test_release(narrow);
    test_release(part);
    test_release(whole);
    test_release(stored);
}

static void test_matrix(void **state)
{
    static const int32_t from[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    enum { ROWS = 23, COLS = 1280 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *x = test_alloc(ROWS * COLS, sizeof *x);
    (void)state;
    test_random(3, x, ROWS * COLS);
    for (int64_t c = 0; c < n; c++)
        for (int64_t i = 0; i < LENGTH(types); i++)
            if (qsae__ggml_encodes(types[i]))
                check_matrix(ctx[c], types[i], from[(c + i) % 3], x, ROWS, COLS);
    test_release(x);
    test_contexts_close(ctx, n);
}

/* A transposed source is read by its strides. */
static void test_strides(void **state)
{
    enum { ROWS = 3, COLS = 512 };
    qsae_context *ctx = test_context(NULL, 2);
    float *x = test_alloc(ROWS * COLS, sizeof *x), *turned = test_alloc(ROWS * COLS, sizeof *x);
    (void)state;
    test_random(4, x, ROWS * COLS);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            turned[c * ROWS + r] = x[r * COLS + c];
    const qsae__source a = { .ctx = ctx, .data = x, .dtype = QSAE_F32, .n_out = ROWS,
                             .n_in = COLS, .out_stride = COLS, .in_stride = 1 };
    const qsae__source b = { .ctx = ctx, .data = turned, .dtype = QSAE_F32, .n_out = ROWS,
                             .n_in = COLS, .out_stride = 1, .in_stride = ROWS };
    qsae_qmatrix *p = encode(ctx, QSAE_Q5_K, &a), *q = encode(ctx, QSAE_Q5_K, &b);
    test_same_bytes("transposed", test_field(q, "weight").data, test_field(p, "weight").data,
                    (size_t)qsae_qmatrix_bytes(p));
    qsae__qmatrix_unref(&p);
    qsae__qmatrix_unref(&q);
    test_release(x);
    test_release(turned);
    qsae_context_close(&ctx);
}

/* The condition string, and what does not fit. */
static void test_strings(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    float x[2 * 288] = { 1 };
    qsae_quantizer *z = NULL;
    qsae_qmatrix *q = NULL;
    qsae_rows w = test_rows(x, QSAE_F32, 2, 288);
    (void)state;
    assert_int_equal(qsae_quantizer_open(ctx, "ggml:q4_k", &z), QSAE_OK);
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_EINVAL);
    assert_null(q);
    assert_non_null(strstr(qsae_error_message(), "288"));
    assert_non_null(strstr(qsae_error_message(), "256"));
    assert_non_null(strstr(qsae_error_message(), "q8_0"));
    assert_null(strstr(qsae_error_message(), "q6_k"));
    w = test_rows(x, QSAE_F32, 2, 256);
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_OK);
    assert_int_equal(qsae_qmatrix_bytes(q), 2 * 144);
    qsae__qmatrix_unref(&q);
    qsae_quantizer_close(&z);
    assert_int_equal(qsae_quantizer_open(ctx, "ggml:q8_0", &z), QSAE_OK);
    w = test_rows(x, QSAE_F32, 2, 33);
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "no ggml type fits"));
    qsae_quantizer_close(&z);
    const qsae__condition c = { .codec = QSAE__GGML, .ggml = QSAE_IQ2_XS };
    const qsae__source src = { .ctx = ctx, .data = x, .dtype = QSAE_F32, .n_out = 2, .n_in = 256,
                               .out_stride = 256, .in_stride = 1 };
    assert_int_equal(qsae__qmatrix_encode(ctx, &c, &src, 0, &q), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "IQ2_XS"));
    qsae_context_close(&ctx);
}

static qsae__tensor tensor_of(const void *data, int32_t dtype, int64_t rows, int64_t cols,
                              uint64_t bytes)
{
    return (qsae__tensor){ .name = "blk.0.ffn_up.weight", .file = "file.gguf", .data = data,
                           .bytes = bytes, .shape = { rows, cols }, .rank = 2, .dtype = dtype };
}

/* Stored blocks are used where they lie, also at odd addresses. */
static void test_open(void **state)
{
    static const int32_t plain[] = { QSAE_F32, QSAE_F16, QSAE_BF16 };
    enum { ROWS = 3 };
    qsae_context *ctx = test_context(NULL, 2);
    struct test_file *t = test_load(ctx, "ggml.safetensors");
    (void)state;
    for (int64_t i = 0; i < LENGTH(types) + 3; i++) {
        const int32_t dtype = i < 3 ? plain[i] : types[i - 3];
        const int64_t cols = i < 3 ? 5 : 2 * elements_of(dtype);
        const int64_t size = bytes_of(dtype, ROWS * cols);
        char *data = test_alloc(size + 1, 1);
        float *want = test_alloc(ROWS * cols, sizeof *want), *got;
        uint64_t s = 1;
        for (int64_t k = 0; k <= size; k++)
            data[k] = (char)(next(&s) & 0x3f); /* no NaN */
        const qsae__tensor x = tensor_of(data + 1, dtype, ROWS, cols, (uint64_t)size);
        qsae_qmatrix *q = NULL;
        if (qsae__ggml_open(ctx, t->file, &x, &q))
            fail_msg("%s: %s", qsae_dtype_name(dtype), qsae_error_message());
        assert_int_equal(q->dtype, i < 3 ? dtype : QSAE_F32);
        assert_int_equal(qsae_qmatrix_bytes(q), size);
        assert_ptr_equal(test_field(q, "weight").data, data + 1);
        if (i < 3)
            assert_true(qsae__to_f32(dtype, data + 1, ROWS * cols, want));
        else
            qsae__ggml_level(QSAE__LEVEL_C)->decode(dtype, (const uint8_t *)data + 1, ROWS * cols,
                                                    want);
        got = test_decode(q, QSAE_F32);
        test_same_f32(qsae_dtype_name(dtype), got, want, ROWS * cols);
        qsae__qmatrix_unref(&q);
        test_release(got);
        test_release(want);
        test_release(data);
    }
    test_unload(t);
    qsae_context_close(&ctx);
}

static void refuse(qsae_context *ctx, qsae__tensors *file, qsae__tensor t, int32_t status,
                   const char *text)
{
    qsae_qmatrix *q = (qsae_qmatrix *)(uintptr_t)1;
    assert_int_equal(qsae__ggml_open(ctx, file, &t, &q), status);
    assert_null(q);
    if (!strstr(qsae_error_message(), text) || !strstr(qsae_error_message(), t.name))
        fail_msg("message \"%s\" lacks \"%s\" or the tensor", qsae_error_message(), text);
}

static void test_open_errors(void **state)
{
    static const uint8_t data[4 * 144];
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "ggml.safetensors");
    qsae__tensors *file = t->file;
    (void)state;
    refuse(ctx, file, tensor_of(data, QSAE_Q4_K, 2, 512, 575), QSAE_EFORMAT, "576");
    refuse(ctx, file, tensor_of(data, QSAE_Q4_K, 2, 512, 577), QSAE_EFORMAT, "577");
    refuse(ctx, file, tensor_of(NULL, QSAE_Q4_K, 2, 512, 576), QSAE_EFORMAT, "576");
    refuse(ctx, file, tensor_of(data, QSAE_Q4_K, 2, 500, 576), QSAE_EFORMAT, "256");
    refuse(ctx, file, tensor_of(data, QSAE_Q4_K, 0, 512, 0), QSAE_EMISMATCH, "matrix");
    refuse(ctx, file, tensor_of(data, QSAE_Q4_K, 2, -512, 0), QSAE_EMISMATCH, "matrix");
    refuse(ctx, file, tensor_of(data, QSAE_I32, 2, 512, 4096), QSAE_EUNSUPPORTED, "I32");
    refuse(ctx, file, tensor_of(data, 131, 2, 512, 4096), QSAE_EUNSUPPORTED, "type");
    refuse(ctx, file, tensor_of(data, QSAE_BF16, 2, 3, 13), QSAE_EFORMAT, "12");
    qsae__tensor flat = tensor_of(data, QSAE_Q4_K, 512, 0, 288);
    flat.rank = 1;
    refuse(ctx, file, flat, QSAE_EMISMATCH, "matrix");
    qsae__tensor huge = tensor_of(data, QSAE_Q8_0, INT64_MAX, INT64_MAX / 32 * 32, 34);
    qsae_qmatrix *q = NULL;
    assert_int_equal(qsae__ggml_open(ctx, file, &huge, &q), QSAE_EOVERFLOW);
    test_unload(t);
    qsae_context_close(&ctx);
}

/* Rows that are no whole blocks: what llama.cpp's quantizer says that it falls back to. */
static void test_fallback(void **state)
{
    static const struct {
        const char *type;
        int64_t cols;
        const char *takes; /* NULL: f16 */
    } cases[] = {
        { "q2_k", 96, "q4_0" }, { "q3_k", 96, "q4_0" },    { "q4_k", 96, "q5_0" },
        { "q5_k", 96, "q5_1" }, { "q6_k", 96, "q8_0" },    { "iq4_xs", 96, "iq4_nl" },
        { "q4_k", 48, NULL },   { "q8_0", 48, NULL },      { "q4_k", 256, "q4_k" },
        { "tq1_0", 96, "q4_0" }, { "tq2_0", 96, "q4_0" },  { "q4_0", 96, "q4_0" },
    };
    qsae_context *ctx = test_context(NULL, 1);
    float x[3 * 256];
    (void)state;
    test_random(77, x, 3 * 256);
    for (int64_t i = 0; i < (int64_t)(sizeof cases / sizeof cases[0]); i++) {
        char spec[64];
        snprintf(spec, sizeof spec, "ggml:%s,fallback=1", cases[i].type);
        qsae_qmatrix *q = test_encode(ctx, spec, x, QSAE_F32, 3, cases[i].cols, 0);
        const qsae_field a = test_field(q, "weight");
        if (cases[i].takes) {
            snprintf(spec, sizeof spec, "ggml:%s", cases[i].takes);
            qsae_qmatrix *p = test_encode(ctx, spec, x, QSAE_F32, 3, cases[i].cols, 0);
            const qsae_field b = test_field(p, "weight");
            assert_int_equal(a.bytes, b.bytes);
            assert_memory_equal(a.data, b.data, (size_t)a.bytes);
            qsae__qmatrix_unref(&p);
        } else {
            assert_int_equal(a.dtype, QSAE_F16);
            for (int64_t j = 0; j < 3 * cases[i].cols; j++)
                assert_int_equal(((const uint16_t *)a.data)[j], qsae__f32_to_f16(x[j]));
        }
        qsae__qmatrix_unref(&q);
    }
    qsae_context_close(&ctx);
}

int run_ggml(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_each_level),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_strides),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_fallback),
    };
    return cmocka_run_group_tests_name("ggml", tests, NULL, NULL);
}
