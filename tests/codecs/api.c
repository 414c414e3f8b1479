/* SPDX-License-Identifier: BSD-2-Clause */
/* The public face: arguments, statuses, messages, sizes, memory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "tests.h"

static const char *const specs[] = {
    "none", "none:weights=f16", "nf4", "nf4:double=0,block=4096", "fp4:rules=torch,block=32",
    "llm.int8", "llm.int8:rules=torch", "rtn", "rtn:axis=column,sym=0",
    "rtn:axis=tl,bits=4,group=8", "rtn:axis=tensor,bits=2",
};

static void says(const char *word)
{
    if (!strstr(qsae_error_message(), word))
        fail_msg("message \"%s\" lacks \"%s\"", qsae_error_message(), word);
}

static void test_arguments(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    qsae_quantizer *z = NULL;
    qsae_qmatrix *q = NULL;
    float x[64], y[64];
    int8_t codes[64];
    (void)state;
    test_random(1, x, 64);
    qsae_rows w = test_rows(x, QSAE_F32, 8, 8), out = test_rows(y, QSAE_F32, 8, 8);
    assert_int_equal(qsae_quantizer_open(NULL, "nf4", &z), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_open(ctx, NULL, &z), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_open(ctx, "nf4", NULL), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_open(ctx, "nf4@layers=1", &z), QSAE_EINVAL);
    says("offset 3");
    assert_null(z);
    assert_int_equal(qsae_quantizer_open(ctx, "nf9", &z), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_open(ctx, "gptq", &z), QSAE_EUNSUPPORTED);
    assert_int_equal(qsae_quantizer_open(ctx, "nf4", &z), QSAE_OK);
    assert_string_equal(qsae_quantizer_spec(z), "nf4:block=64,double=1,compute=model,rules=cuda");
    assert_int_equal(qsae_quantizer_encode(NULL, &w, 0, 0, &q), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_encode(z, NULL, 0, 0, &q), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_quantizer_encode(z, &w, -1, 0, &q), QSAE_EINVAL);
    w.dtype = QSAE_I32;
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_EINVAL);
    says("I32");
    w.dtype = QSAE_F32;
    w.n_rows = 0;
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_EINVAL);
    w.n_rows = 8;
    w.row_stride = 7;
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_EINVAL);
    w.row_stride = 8;
    w.n_rows = INT64_MAX / 4;
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_EOVERFLOW);
    w.n_rows = 8;
    assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_OK);
    assert_int_equal(qsae_qmatrix_rows(q), 8);
    assert_int_equal(qsae_qmatrix_cols(q), 8);

    assert_int_equal(qsae_qmatrix_decode(NULL, &out), QSAE_EINVAL);
    out.n_rows = 7;
    assert_int_equal(qsae_qmatrix_decode(q, &out), QSAE_EMISMATCH);
    says("[7, 8]");
    out.n_rows = 8;
    out.dtype = QSAE_F64;
    assert_int_equal(qsae_qmatrix_decode(q, &out), QSAE_EINVAL);
    out.dtype = QSAE_F32;
    qsae_field f = { .struct_size = sizeof f };
    assert_int_equal(qsae_qmatrix_field_count(q), 6);
    assert_int_equal(qsae_qmatrix_field(q, 6, &f), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_field(q, -1, &f), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_field(q, 0, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_linear(q, &w, NULL, QSAE_I8, &out), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_linear(NULL, &w, NULL, QSAE_F32, &out), QSAE_EINVAL);
    w.n_cols = 7;
    assert_int_equal(qsae_qmatrix_linear(q, &w, NULL, QSAE_F32, &out), QSAE_EMISMATCH);
    w.n_cols = 8;
    out.n_cols = 7;
    assert_int_equal(qsae_qmatrix_linear(q, &w, NULL, QSAE_F32, &out), QSAE_EMISMATCH);
    assert_int_equal(qsae_int8_quantize(ctx, &w, -1, codes, y, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_int8_quantize(ctx, &w, NAN, codes, y, NULL), QSAE_EINVAL);
    static const float wrong[] = { 65505, 0x1p-25f };
    for (int i = 0; i < 2; i++) {
        assert_int_equal(qsae_int8_quantize(ctx, &w, wrong[i], codes, y, NULL), QSAE_EINVAL);
        assert_non_null(strstr(qsae_error_message(), "allowed: 0 (no outliers), 6e-8 to 65504"));
    }
    assert_int_equal(qsae_int8_quantize(ctx, &w, 0x1p-24f, codes, y, NULL), QSAE_OK);
    assert_int_equal(qsae_int8_quantize(ctx, &w, 65504, codes, y, NULL), QSAE_OK);
    assert_int_equal(qsae_int8_quantize(NULL, &w, 6, codes, y, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_int8_quantize(ctx, &w, 6, codes, NULL, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_int8_quantize(ctx, &w, 6, NULL, y, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_int8_quantize(ctx, &w, 6, codes, y, NULL), QSAE_OK);
    qsae_qmatrix_close(&q);
    assert_null(q);
    qsae_qmatrix_close(&q);
    qsae_qmatrix_close(NULL);
    qsae_quantizer_close(&z);
    qsae_quantizer_close(&z);
    qsae_quantizer_close(NULL);
    assert_int_equal(qsae_qmatrix_rows(NULL), 0);
    assert_int_equal(qsae_qmatrix_field_count(NULL), 0);
    qsae_context_close(&ctx);
}

/* Strict mode names the first bad element in row order, whatever the threads. */
static void test_strict(void **state)
{
    qsae_context *ctx = test_context(NULL, 8);
    float x[40 * 30];
    (void)state;
    for (int64_t s = 0; s < LENGTH(specs); s++) {
        qsae_quantizer *z = NULL;
        qsae_qmatrix *q = NULL;
        const qsae_rows w = test_rows(x, QSAE_F32, 40, 30);
        test_random(4, x, 1200);
        assert_int_equal(qsae_quantizer_open(ctx, specs[s], &z), QSAE_OK);
        assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_OK);
        qsae_qmatrix_close(&q);
        x[12 * 30 + 7] = -INFINITY;
        x[31 * 30 + 2] = NAN;
        assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_ENONFINITE);
        says("infinity at row 12, column 7");
        assert_null(q);
        x[3 * 30 + 29] = NAN;
        assert_int_equal(qsae_quantizer_encode(z, &w, 0, 1, &q), QSAE_ENONFINITE);
        says("NaN at row 3, column 29");
        assert_int_equal(qsae_quantizer_encode(z, &w, 0, 0, &q), QSAE_OK);
        qsae_qmatrix_close(&q);
        qsae_quantizer_close(&z);
    }
    qsae_context_close(&ctx);
}

/* Large matrices, so that every level and thread count cuts them differently: the same bytes. */
static void test_same_everywhere(void **state)
{
    enum { M = 203, N = 1021 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *x = test_alloc(M * N, sizeof(float));
    (void)state;
    test_random(6, x, M * N);
    for (int64_t s = 0; s < LENGTH(specs); s++) {
        qsae_qmatrix *first = test_encode(ctx[0], specs[s], x, QSAE_F16, M, N, 7);
        for (int64_t i = 1; i < n; i++) {
            qsae_qmatrix *q = test_encode(ctx[i], specs[s], x, QSAE_F16, M, N, 7);
            const int32_t fields = qsae_qmatrix_field_count(q);
            assert_int_equal(fields, qsae_qmatrix_field_count(first));
            for (int32_t f = 0; f < fields; f++) {
                qsae_field a = { .struct_size = sizeof a }, b = a;
                assert_int_equal(qsae_qmatrix_field(first, f, &a), QSAE_OK);
                assert_int_equal(qsae_qmatrix_field(q, f, &b), QSAE_OK);
                assert_int_equal(a.bytes, b.bytes);
                test_same_bytes(a.name, b.data, a.data, (size_t)a.bytes);
            }
            qsae_qmatrix_close(&q);
        }
        qsae_qmatrix_close(&first);
    }
    test_release(x);
    test_contexts_close(ctx, n);
}

#if defined(__x86_64__)
/* A caller's rounding mode and flush to zero change nothing, and are found again. */
static void test_environment(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    float x[6 * 70], bias[6], y[36], z[36];
    (void)state;
    test_random(11, x, 420);
    test_random(12, bias, 6);
    for (int64_t i = 0; i < 420; i++)
        x[i] *= i % 3 ? 1 : 1e-30f;
    for (int64_t s = 0; s < LENGTH(specs); s++) {
        const qsae_rows in = test_rows(x, QSAE_F32, 6, 70);
        qsae_rows out = test_rows(y, QSAE_F32, 6, 6);
        qsae_qmatrix *q = test_encode(ctx, specs[s], x, QSAE_F32, 6, 70, 2);
        assert_int_equal(qsae_qmatrix_linear(q, &in, bias, QSAE_F16, &out), QSAE_OK);
        const unsigned before = _mm_getcsr(), odd = 0xffc0; /* upwards, subnormals to zero */
        _mm_setcsr(odd);
        qsae_qmatrix *r = test_encode(ctx, specs[s], x, QSAE_F32, 6, 70, 2);
        out.data = z;
        const int32_t status = qsae_qmatrix_linear(r, &in, bias, QSAE_F16, &out);
        const unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        assert_int_equal(status, QSAE_OK);
        assert_int_equal(after & 0xffc0, odd);
        test_same_f32(specs[s], z, y, 36);
        for (int32_t f = 0; f < qsae_qmatrix_field_count(q); f++) {
            qsae_field a = { .struct_size = sizeof a }, b = a;
            assert_int_equal(qsae_qmatrix_field(q, f, &a), QSAE_OK);
            assert_int_equal(qsae_qmatrix_field(r, f, &b), QSAE_OK);
            test_same_bytes(a.name, b.data, a.data, (size_t)a.bytes);
        }
        qsae_qmatrix_close(&q);
        qsae_qmatrix_close(&r);
    }
    qsae_context_close(&ctx);
}
#endif

static void test_bytes(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    float *x = test_alloc(256 * 1024, sizeof(float));
    const double n = 256 * 1024;
    (void)state;
    test_random(8, x, 256 * 1024);
    qsae_qmatrix *q = test_encode(ctx, "nf4", x, QSAE_BF16, 256, 1024, 0);
    assert_true(fabs((double)qsae_qmatrix_bytes(q) * 8 / n - 4.127) < 0.0005);
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "nf4:double=0", x, QSAE_BF16, 256, 1024, 0);
    assert_true((double)qsae_qmatrix_bytes(q) * 8 / n == 4.5);
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "llm.int8", x, QSAE_BF16, 256, 1024, 0);
    assert_int_equal(qsae_qmatrix_bytes(q), 256 * 1024 + 256 * 4);
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "rtn:bits=3,group=128", x, QSAE_BF16, 256, 1024, 0);
    assert_int_equal(qsae_qmatrix_bytes(q), 256 * 1024 * 3 / 8 + 256 * 8 * 4);
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "none", x, QSAE_BF16, 256, 1024, 0);
    assert_int_equal(qsae_qmatrix_bytes(q), 256 * 1024 * 2);
    qsae_qmatrix_close(&q);
    test_release(x);
    qsae_context_close(&ctx);
}

/* Mean error on normal numbers, as published with bitsandbytes' own tests. */
static void test_quality(void **state)
{
    static const struct {
        const char *spec;
        double error;
    } known[] = {
        { "nf4:double=0,block=32", 0.0677 }, { "nf4:double=0,block=64", 0.0728 },
        { "nf4:double=0,block=128", 0.0768 }, { "nf4:double=0,block=4096", 0.0925 },
        { "fp4:double=0,block=32", 0.0889 }, { "fp4:double=0,block=64", 0.0965 },
        { "fp4:double=0,block=128", 0.1030 }, { "fp4:double=0,block=4096", 0.1295 },
    };
    enum { COUNT = 512 * 1024 };
    qsae_context *ctx = test_context(NULL, 2);
    float *x = test_alloc(COUNT, sizeof(float));
    uint64_t s = 1;
    (void)state;
    for (int64_t i = 0; i < COUNT; i += 2) { /* Box-Muller: the tails matter */
        double u[2];
        for (int k = 0; k < 2; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            u[k] = ((double)(s >> 11) + 0.5) * 0x1p-53;
        }
        const double r = sqrt(-2 * log(u[0]));
        x[i] = (float)(r * cos(6.283185307179586 * u[1]));
        x[i + 1] = (float)(r * sin(6.283185307179586 * u[1]));
    }
    for (int64_t k = 0; k < LENGTH(known); k++) {
        qsae_qmatrix *q = test_encode(ctx, known[k].spec, x, QSAE_F32, 512, 1024, 0);
        float *back = test_decode(q, QSAE_F32);
        double error = 0;
        for (int64_t i = 0; i < COUNT; i++)
            error += fabs((double)back[i] - (double)x[i]);
        if (fabs(error / COUNT / known[k].error - 1) > 0.01)
            fail_msg("%s: mean error %g, expected %g", known[k].spec, error / COUNT,
                     known[k].error);
        test_release(back);
        qsae_qmatrix_close(&q);
    }
    test_release(x);
    qsae_context_close(&ctx);
}

struct memory {
    int64_t left, live; /* allocations until one fails; not yet freed */
};

static void *allocate(void *cookie, size_t size, size_t alignment)
{
    struct memory *m = cookie;
    void *p = NULL;
    if (m->left-- == 0 || posix_memalign(&p, alignment, size ? size : 1))
        return NULL;
    m->live++;
    return p;
}

static void release(void *cookie, void *p)
{
    struct memory *m = cookie;
    if (p)
        m->live--;
    free(p);
}

/* One thread: the callbacks are not synchronised. */
static int32_t whole_life(qsae_context *ctx, const char *spec)
{
    qsae_quantizer *z = NULL;
    qsae_qmatrix *q = NULL;
    float x[8 * 40], y[8 * 8], b[8];
    test_random(2, x, 320);
    test_random(3, b, 8);
    x[5] = 9;
    const qsae_rows w = test_rows(x, QSAE_F32, 8, 40);
    qsae_rows out = test_rows(y, QSAE_F32, 8, 8);
    int32_t status = qsae_quantizer_open(ctx, spec, &z);
    if (!status)
        status = qsae_quantizer_encode(z, &w, 2, 1, &q);
    if (!status)
        status = qsae_qmatrix_linear(q, &w, b, QSAE_F16, &out);
    qsae_qmatrix_close(&q);
    qsae_quantizer_close(&z);
    return status;
}

static void test_memory(void **state)
{
    struct memory m = { .left = -1 };
    qsae_context *ctx = NULL;
    qsae_context_settings s;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = allocate;
    s.free = release;
    s.alloc_cookie = &m;
    for (int64_t i = 0; i < LENGTH(specs); i++) {
        int64_t fails = 0;
        for (;; fails++) {
            m.left = -1;
            assert_int_equal(qsae_context_open(&s, &ctx), QSAE_OK);
            m.left = fails;
            const int32_t status = whole_life(ctx, specs[i]);
            qsae_context_close(&ctx); /* which keeps the structs of closed handles */
            assert_int_equal(m.live, 0);
            if (status == QSAE_OK)
                break;
            assert_int_equal(status, QSAE_ENOMEM);
            assert_true(fails < 100);
        }
        assert_true(fails > 4);
    }
}

int run_api(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_strict),
        cmocka_unit_test(test_same_everywhere), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_quality), cmocka_unit_test(test_memory),
#if defined(__x86_64__)
        cmocka_unit_test(test_environment),
#endif
    };
    return cmocka_run_group_tests_name("codecs/api", tests, NULL, NULL);
}
