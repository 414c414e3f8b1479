/* SPDX-License-Identifier: BSD-2-Clause */
/* Codes of the key/value cache against gguf, llama.cpp, torch and a binary64 definition
 * (tests/reference/kv.py). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/kv.h"
#include "codecs/kv_turbo.h"
#include "tests.h"

static const struct {
    const char *name;
    int32_t dtype;
} ggml_names[] = { { "q8_0", QSAE_Q8_0 }, { "q4_0", QSAE_Q4_0 }, { "q4_1", QSAE_Q4_1 },
                   { "q5_0", QSAE_Q5_0 }, { "q5_1", QSAE_Q5_1 }, { "iq4_nl", QSAE_IQ4_NL } };

static qsae__kv_code ggml_code(int i)
{
    return (qsae__kv_code){ .kind = QSAE__KV_GGML, .dtype = ggml_names[i].dtype };
}

static qsae__kv_code turbo_code(int32_t bits, bool sketch)
{
    return (qsae__kv_code){ .kind = QSAE__KV_TURBO, .bits = bits, .sketch = sketch };
}

static qsae__kv *open_code(qsae_context *ctx, qsae__kv_code code, int64_t dim)
{
    qsae__kv *kv = NULL;
    if (qsae__kv_open(ctx, &code, dim, &kv) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return kv;
}

/* A coded copy of x[n, dim], `step` vectors a call; test_release() it. */
static float *coded(qsae_context *ctx, qsae__kv_code code, int64_t dim, const float *x, int64_t n,
                    int64_t step, bool bf16)
{
    qsae__kv *kv = open_code(ctx, code, dim);
    float *y = test_alloc(n * dim, sizeof *y);
    float *scratch = test_alloc(qsae__kv_floats(kv) + 1, sizeof *scratch);
    memcpy(y, x, (size_t)(n * dim) * sizeof *y);
    for (int64_t i = 0; i < n; i += step)
        qsae__kv_apply(kv, y + i * dim, qsae__min_i64(step, n - i), bf16, scratch);
    test_release(scratch);
    qsae__kv_close(&kv);
    assert_null(kv);
    return y;
}

static void check_same(const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(got[i] == want[i] || (isnan(got[i]) && isnan(want[i]))))
            fail_msg("%s: value %lld is %.9g, expected %.9g", what, (long long)i, (double)got[i],
                     (double)want[i]);
}

/* ggml blocks and int8: the very values, on every level, whole or one vector at a time. */
static void test_exact(void **state)
{
    static const int64_t ggml_dims[] = { 32, 64, 96, 256 }, int8_dims[] = { 6, 64 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "kv.safetensors");
    (void)state;
    for (int64_t c = 0; c < n; c++) {
        for (int d = 0; d < 4; d++) {
            const int64_t dim = ggml_dims[d];
            const qsae__tensor *x = test_tensor(t, QSAE_F32, "x.%d", (int)dim);
            for (int i = 0; i < LENGTH(ggml_names); i++) {
                const qsae__tensor *want =
                    test_tensor(t, QSAE_F32, "%s.%d", ggml_names[i].name, (int)dim);
                float *y = coded(ctx[c], ggml_code(i), dim, x->data, x->shape[0], 1 + c, false);
                check_same(want->name, y, want->data, test_count(want));
                test_release(y);
            }
        }
        for (int d = 0; d < 2; d++) {
            const int dim = (int)int8_dims[d];
            const qsae__tensor *x = test_tensor(t, QSAE_F32, "int8.x.%d", dim);
            const qsae__tensor *want = test_tensor(t, QSAE_F32, "int8.%d", dim);
            float *y = coded(ctx[c], (qsae__kv_code){ .kind = QSAE__KV_INT8 }, dim, x->data,
                             x->shape[0], 1 + c, false);
            check_same(want->name, y, want->data, test_count(want));
            test_release(y);
        }
    }
    test_unload(t);
    test_contexts_close(ctx, n);
}

/* Largest |got - want| of a row over the norm of want. */
static double row_error(const float *got, const void *want, bool f64, int64_t n)
{
    double norm = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double w = f64 ? ((const double *)want)[i] : (double)((const float *)want)[i];
        norm += w * w;
        most = fmax(most, fabs((double)got[i] - w));
    }
    return norm > 0 ? most / sqrt(norm) : most;
}

/* Blocks of the Hadamard transform: one 64 wide, one as wide as the head. */
static void test_rotated(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    struct test_file *t = test_load(ctx, "kv.safetensors");
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int dim = 64; dim <= 256; dim *= 4) {
            qsae__kv_code code = ggml_code(1);
            code.rotate = wide ? QSAE__KV_ROTATE_WIDE : QSAE__KV_ROTATE_64;
            const qsae__tensor *x = test_tensor(t, QSAE_F32, "rotate.x.%d", dim);
            const qsae__tensor *want =
                test_tensor(t, QSAE_F64, "rotate.%s.%d", wide ? "wide" : "64", dim);
            float *y = coded(ctx, code, dim, x->data, x->shape[0], 2, false);
            for (int64_t r = 0; r < x->shape[0]; r++) {
                const double e = row_error(y + r * dim, (const double *)want->data + r * dim, true,
                                           dim);
                if (e > 1e-6)
                    fail_msg("%s: row %d: error %g", want->name, (int)r, e);
            }
            test_release(y);
        }
    /* a head that is no multiple of 64 is not rotated; 192 is, 64 at a time, however wide */
    float x[192];
    test_random(5, x, 192);
    qsae__kv_code plain = ggml_code(1), narrow = plain, wide = plain;
    narrow.rotate = QSAE__KV_ROTATE_64;
    wide.rotate = QSAE__KV_ROTATE_WIDE;
    for (int64_t dim = 96; dim <= 192; dim += 96) {
        float *a = coded(ctx, plain, dim, x, 1, 1, false);
        float *b = coded(ctx, narrow, dim, x, 1, 1, false);
        float *c = coded(ctx, wide, dim, x, 1, 1, false);
        assert_int_equal(memcmp(a, b, (size_t)dim * sizeof *a) == 0, dim == 96);
        assert_memory_equal(b, c, (size_t)dim * sizeof *a);
        test_release(a);
        test_release(b);
        test_release(c);
    }
    test_unload(t);
    qsae_context_close(&ctx);
}

static void test_codebooks(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "kv.safetensors");
    json_t *j = test_json(ctx, "kv.json"), *b;
    size_t at;
    (void)state;
    json_array_foreach(json_object_get(j, "books"), at, b) {
        const int dim = (int)test_json_int(b, "dim"), bits = (int)test_json_int(b, "bits");
        const double *want = test_tensor(t, QSAE_F64, "book.%d.%d", dim, bits)->data;
        double got[256];
        qsae__turbo_codebook(dim, 1 << bits, got);
        for (int i = 0; i < 1 << bits; i++)
            if (!(fabs(got[i] - want[i]) <= 1e-9 * fabs(want[i])))
                fail_msg("d %d, %d bits: value %d is %.17g, expected %.17g", dim, bits, i, got[i],
                         want[i]);
    }
    /* All sizes: in order, symmetric; the uniform law of three dimensions has equal steps. */
    for (int dim = 3; dim <= 1024; dim += dim < 70 ? 1 : 53)
        for (int bits = 1; bits <= 8; bits++) {
            const int n = 1 << bits;
            double v[256];
            qsae__turbo_codebook(dim, n, v);
            for (int i = 0; i < n; i++) {
                assert_true(v[i] == -v[n - 1 - i] && v[i] < 1);
                assert_true(i == 0 || v[i] > v[i - 1]);
                assert_true(dim > 3 || fabs(v[i] - (2 * i + 1 - n) / (double)n) < 1e-12);
            }
        }
    json_decref(j);
    test_unload(t);
    qsae_context_close(&ctx);
}

static void test_matrices(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    struct test_file *t = test_load(ctx, "kv.safetensors");
    const double *rotation = test_tensor(t, QSAE_F64, "rotation.8")->data;
    const double *sketch = test_tensor(t, QSAE_F64, "sketch.8")->data;
    qsae__turbo turbo;
    (void)state;
    assert_int_equal(qsae__turbo_init(ctx, 8, 3, true, &turbo), QSAE_OK);
    for (int i = 0; i < 64; i++) {
        assert_true(turbo.rotation[i] == (float)rotation[i]);
        assert_true(fabsf(turbo.sketch[i] - (float)sketch[i]) <= 0x1p-23f * fabsf(turbo.sketch[i]));
        assert_true(turbo.rotation_t[i % 8 * 8 + i / 8] == turbo.rotation[i]);
        assert_true(turbo.sketch_t[i % 8 * 8 + i / 8] == turbo.sketch[i]);
    }
    qsae__turbo_free(&turbo);
    for (int64_t n = 3; n <= 320; n += n < 30 ? 1 : 97) {
        double *m = test_alloc(n * n, sizeof *m), sum = 0, square = 0;
        qsae__turbo_matrix(7, n, false, m);
        for (int64_t i = 0; i < n * n; i++) {
            sum += m[i];
            square += m[i] * m[i];
        }
        /* 5 standard deviations */
        assert_true(fabs(sum) < 5 * (double)n && fabs(square - (double)(n * n)) < 7.1 * (double)n);
        qsae__turbo_matrix(7, n, true, m);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k <= i; k++) {
                double s = 0;
                for (int64_t e = 0; e < n; e++)
                    s += m[i * n + e] * m[k * n + e];
                assert_true(fabs(s - (i == k)) < 1e-9);
            }
        test_release(m);
    }
    test_unload(t);
    qsae_context_close(&ctx);
}

/* Rotation codes against binary64 on vectors that lie on no edge; the same bits on every level. */
static void test_turbo(void **state)
{
    static const struct {
        int dim, bits, sketch;
    } cases[] = { { 8, 2, 1 }, { 48, 3, 0 }, { 64, 1, 1 }, { 64, 4, 0 }, { 256, 2, 0 },
                  { 256, 8, 1 } };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "kv.safetensors");
    (void)state;
    for (int i = 0; i < LENGTH(cases); i++) {
        const int64_t dim = cases[i].dim;
        char key[40];
        snprintf(key, sizeof key, "turbo%d%s.%d", cases[i].bits, cases[i].sketch ? "s" : "",
                 cases[i].dim);
        const qsae__tensor *x = test_tensor(t, QSAE_F32, "%s.x", key);
        const qsae__tensor *want = test_tensor(t, QSAE_F64, "%s", key);
        const qsae__kv_code code = turbo_code(cases[i].bits, cases[i].sketch);
        const int64_t rows = x->shape[0];
        float *first = coded(ctx[0], code, dim, x->data, rows, rows, false);
        for (int64_t r = 0; r < rows; r++) {
            const double e = row_error(first + r * dim, (const double *)want->data + r * dim, true,
                                       dim);
            if (!(e <= 2e-6))
                fail_msg("%s: row %d: error %g", key, (int)r, e);
        }
        for (int64_t c = 1; c < n; c++) {
            float *y = coded(ctx[c], code, dim, x->data, rows, 1 + c % 3, false);
            assert_memory_equal(y, first, (size_t)(rows * dim) * sizeof *y);
            test_release(y);
        }
        test_release(first);
    }
    test_unload(t);
    test_contexts_close(ctx, n);
}

/*
 * Mean squared error of unit vectors, and the slope of inner products with the coded vector over
 * those with the vector: 1 less that error without a sketch, 1 with it. The errors the paper gives
 * for many dimensions: .363, .1175, .03454, .009497.
 */
static void check_average(qsae_context *ctx, int64_t dim, int32_t bits, bool sketch)
{
    static const double paper[] = { 0, 0.36338, 0.11748, 0.034548, 0.0095008 };
    const int64_t rows = 8 * QSAE__KV_ROWS;
    const uint64_t seed = 1000 + (uint64_t)bits;
    float *x = test_alloc(rows * dim, sizeof *x), *y = test_alloc(rows * dim, sizeof *y);
    test_random(seed, x, rows * dim);
    test_random(seed + 1, y, rows * dim);
    float *z = coded(ctx, turbo_code(bits, sketch), dim, x, rows, QSAE__KV_ROWS, false);
    double error = 0, both = 0, square = 0;
    for (int64_t r = 0; r < rows; r++) {
        double norm = 0, miss = 0, xy = 0, zy = 0;
        for (int64_t i = r * dim; i < (r + 1) * dim; i++) {
            const double q = (double)y[i] + x[i]; /* some correlation */
            norm += (double)x[i] * x[i];
            miss += ((double)z[i] - x[i]) * ((double)z[i] - x[i]);
            xy += q * x[i];
            zy += q * z[i];
        }
        error += miss / norm / (double)rows;
        both += xy * zy / norm;
        square += xy * xy / norm;
    }
    const double slope = both / square;
    if (!sketch && !(fabs(error / paper[bits] - 1) < 0.02))
        fail_msg("%d bits, seed %d: error %g", (int)bits, (int)seed, error);
    if (!(fabs(slope - (sketch ? 1 : 1 - error)) < 0.006))
        fail_msg("%d bits, seed %d: slope %g, error %g", (int)bits, (int)seed, slope, error);
    test_release(x);
    test_release(y);
    test_release(z);
}

static void test_averages(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int32_t bits = 1; bits <= 4; bits++)
        for (int sketch = 0; sketch < 2; sketch++)
            check_average(ctx, 256, bits, sketch);
    qsae_context_close(&ctx);
}

/* Every code on rows with NaN and infinity between ordinary ones, and on zeros. */
static void test_special(void **state)
{
    enum { DIM = 64, ROWS = 7 };
    qsae__kv_code codes[LENGTH(ggml_names) + 3] = { { .kind = QSAE__KV_INT8 }, turbo_code(3, false),
                                                    turbo_code(2, true) };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    for (int i = 0; i < LENGTH(ggml_names); i++)
        codes[3 + i] = ggml_code(i);
    float x[ROWS * DIM], clean[ROWS * DIM];
    test_random(77, clean, ROWS * DIM);
    memset(clean + 5 * DIM, 0, DIM * sizeof *clean);
    memcpy(x, clean, sizeof x);
    x[0 * DIM + 3] = NAN;
    x[2 * DIM + 63] = INFINITY;
    x[3 * DIM] = -INFINITY;
    x[6 * DIM + 31] = -NAN;
    for (int64_t c = 0; c < n; c++)
        for (int i = 0; i < LENGTH(codes); i++) {
            float *y = coded(ctx[c], codes[i], DIM, x, ROWS, ROWS, c & 1);
            float *z = coded(ctx[c], codes[i], DIM, clean, ROWS, ROWS, c & 1);
            for (int64_t e = 0; e < ROWS * DIM; e++) {
                const int64_t row = e / DIM;
                if (row == 0 || row == 2 || row == 3 || row == 6)
                    assert_true(isnan(y[e]));
                else
                    assert_true(y[e] == z[e] && (row == 5) == (z[e] == 0 && row == 5));
            }
            test_release(y);
            test_release(z);
        }
    /* f16 and bf16 go value by value. */
    float v[4] = { NAN, 70000, 1 + 0x1p-9f, 1 + 0x1p-11f };
    float *half = coded(ctx[0], (qsae__kv_code){ .kind = QSAE__KV_F16 }, 4, v, 1, 1, false);
    float *brain = coded(ctx[0], (qsae__kv_code){ .kind = QSAE__KV_BF16 }, 4, v, 1, 1, false);
    assert_true(isnan(half[0]) && half[1] == INFINITY && half[2] == v[2] && half[3] == 1);
    assert_true(isnan(brain[0]) && brain[1] == 70144 && brain[2] == 1 && brain[3] == 1);
    test_release(half);
    test_release(brain);
    /* A norm beyond f16 is NaN, one below is zero. */
    for (int i = 0; i < 4; i++) {
        const float scale[] = { 1e5f, 1e25f, 1e-10f, 1e-41f };
        for (int e = 0; e < DIM; e++)
            x[e] = clean[e] * scale[i];
        float *y = coded(ctx[0], turbo_code(4, i & 1), DIM, x, 1, 1, false);
        for (int e = 0; e < DIM; e++)
            assert_true(i < 2 ? isnan(y[e]) : y[e] == 0);
        test_release(y);
    }
    test_contexts_close(ctx, n);
}

/* What comes back is rounded to bf16 in the end, and not before. */
static void test_bf16(void **state)
{
    enum { DIM = 128, ROWS = 5 };
    const qsae__kv_code codes[] = { { .kind = QSAE__KV_INT8 }, { .kind = QSAE__KV_F16 },
                                    ggml_code(0), ggml_code(4), turbo_code(4, true) };
    qsae_context *ctx = test_context(NULL, 2);
    float x[ROWS * DIM];
    (void)state;
    test_random(9, x, ROWS * DIM);
    for (int i = 0; i < LENGTH(codes); i++) {
        float *y = coded(ctx, codes[i], DIM, x, ROWS, ROWS, false);
        float *z = coded(ctx, codes[i], DIM, x, ROWS, ROWS, true);
        for (int e = 0; e < ROWS * DIM; e++)
            assert_true(z[e] == qsae__round_bf16(y[e]));
        test_release(y);
        test_release(z);
    }
    qsae_context_close(&ctx);
}

static void test_bits(void **state)
{
    static const double ggml_bits[] = { 8.5, 4.5, 5, 5.5, 6, 4.5 };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int i = 0; i < LENGTH(ggml_names) + 5; i++) {
        const qsae__kv_code others[] = { { .kind = QSAE__KV_F16 }, { .kind = QSAE__KV_BF16 },
                                         { .kind = QSAE__KV_INT8 }, turbo_code(3, false),
                                         turbo_code(3, true) };
        static const double other_bits[] = { 16, 16, 8.25, 3.125, 4.25 };
        const bool g = i < LENGTH(ggml_names);
        qsae__kv *kv = open_code(ctx, g ? ggml_code(i) : others[i - LENGTH(ggml_names)], 128);
        assert_true(qsae__kv_bits(kv) == (g ? ggml_bits[i] : other_bits[i - LENGTH(ggml_names)]));
        qsae__kv_close(&kv);
    }
    assert_true(qsae__kv_bits(NULL) == 16);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    const struct {
        qsae__kv_code code;
        int64_t dim;
        const char *says;
    } cases[] = {
        { { .kind = QSAE__KV_NONE }, 64, "no code" },
        { { .kind = QSAE__KV_INT8 }, 0, "head dimension 0" },
        { ggml_code(0), 48, "multiple of 32, found 48" },
        { ggml_code(5), 16, "multiple of 32, found 16" },
        { { .kind = QSAE__KV_GGML, .dtype = QSAE_F32 }, 64, "is not a code" },
        { { .kind = QSAE__KV_GGML, .dtype = 9999 }, 64, "is not a code" },
        { turbo_code(0, false), 64, "1 to 8 bits" },
        { turbo_code(9, true), 64, "1 to 8 bits" },
        { turbo_code(3, false), 2, "found 2" },
        { turbo_code(3, false), 1026, "3 to 1024, found 1026" },
    };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int i = 0; i < LENGTH(cases); i++) {
        qsae__kv *kv = (qsae__kv *)ctx;
        assert_int_equal(qsae__kv_open(ctx, &cases[i].code, cases[i].dim, &kv), QSAE_EINVAL);
        assert_null(kv);
        if (!strstr(qsae_error_message(), cases[i].says))
            fail_msg("case %d: \"%s\" lacks \"%s\"", i, qsae_error_message(), cases[i].says);
    }
    qsae__kv_close(NULL);
    qsae_context_close(&ctx);
}

int run_kv(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),     cmocka_unit_test(test_rotated),
        cmocka_unit_test(test_codebooks), cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_turbo),     cmocka_unit_test(test_averages),
        cmocka_unit_test(test_special),   cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bits),      cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("codecs/kv", tests, NULL, NULL);
}
