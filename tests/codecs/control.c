/* SPDX-License-Identifier: BSD-2-Clause */
/* Noise controls: the numbers, their norm and distribution, the permutation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/control.h"
#include "tests.h"

/* A weight [rows, cols] in f32, rounded to round; spec: the codec whose error is replaced. */
struct trial {
    int64_t rows, cols;
    const float *w;
    int32_t round;            /* 0: not */
    const char *spec;
    uint64_t seed, stream;
};

/* The control's values in f32, and the codec's if decoded is given; test_release() them. */
static float *run_trial(qsae_context *ctx, enum qsae__control control, const struct trial *t,
                        float **decoded)
{
    const qsae__source src = { .ctx = ctx, .data = t->w, .dtype = QSAE_F32, .round = t->round,
                               .n_out = t->rows, .n_in = t->cols, .out_stride = t->cols,
                               .in_stride = 1, .stream = t->stream };
    qsae__condition c;
    qsae_qmatrix *encoded = NULL, *q = NULL;
    if (qsae__condition_parse(ctx, t->spec, &c) ||
        qsae__qmatrix_encode(ctx, &c, &src, 0, &encoded) ||
        qsae__control_encode(control, t->seed, &src, encoded, &q))
        fail_msg("%s: %s", t->spec, qsae_error_message());
    assert_int_equal(q->dtype, t->round ? t->round : QSAE_F32);
    float *values = test_decode(q, QSAE_F32);
    if (decoded) {
        *decoded = test_alloc(t->rows * t->cols, sizeof **decoded);
        for (int64_t row = 0; row < t->rows; row++)
            encoded->ops->decode(encoded, row, 0, t->cols, q->dtype, *decoded + row * t->cols);
    }
    qsae__qmatrix_unref(&encoded);
    qsae__qmatrix_unref(&q);
    qsae__condition_free(ctx, &c);
    return values;
}

/* |x - w|^2, w rounded as the trial rounds it. */
static double distance(const struct trial *t, const float *x)
{
    double sum = 0;
    for (int64_t i = 0; i < t->rows * t->cols; i++) {
        const double e = (double)x[i] - (double)qsae__round_to(t->round, t->w[i]);
        sum += e * e;
    }
    return sum;
}

/* One weight has an error, the others are 0 and so hold the noise exactly. */
static void test_numbers(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    struct test_file *file = test_load(ctx, "prune.safetensors");
    json_t *j = test_json(ctx, "prune.json"), *c;
    float w[96] = { [94] = 0.375f, [95] = 1 };
    size_t at;
    (void)state;
    assert_int_equal(json_array_size(json_object_get(j, "noise")), 4);
    json_array_foreach(json_object_get(j, "noise"), at, c) {
        struct trial t = { .rows = 6, .cols = 16, .w = w, .spec = "rtn:bits=2,axis=tensor" };
        const float *want = test_tensor(file, QSAE_F32, "normal.%d", (int)at)->data;
        double square = 0;
        t.seed = strtoull(test_json_str(c, "seed"), NULL, 16);
        t.stream = strtoull(test_json_str(c, "stream"), NULL, 16);
        float *got = run_trial(ctx, QSAE__CONTROL_GAUSS, &t, NULL);
        for (int i = 0; i < 96; i++)
            square += (double)want[i] * (double)want[i];
        const double factor = 0.375 / sqrt(square); /* 0.375 rounds to 0 */
        for (int i = 0; i < 94; i++)
            if (fabs((double)got[i] - factor * (double)want[i]) > 3e-7)
                fail_msg("case %d: element %d is %.9g, expected %.9g", (int)at, i, (double)got[i],
                         factor * (double)want[i]);
        test_release(got);
    }
    json_decref(j);
    test_unload(file);
    qsae_context_close(&ctx);
}

static void test_norms(void **state)
{
    static const char *const specs[] = { "nf4", "fp4:double=0", "llm.int8", "rtn:bits=8",
                                         "rtn:bits=3,group=32", "rtn:bits=2,axis=tensor" };
    static const int32_t rounds[] = { 0, QSAE_BF16, QSAE_F16 };
    enum { ROWS = 120, COLS = 257 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *w = test_alloc(ROWS * COLS, sizeof *w);
    const uint64_t seed = 5;
    (void)state;
    test_random(seed, w, ROWS * COLS);
    for (int64_t s = 0; s < LENGTH(specs); s++)
        for (int64_t r = 0; r < LENGTH(rounds); r++) {
            const struct trial t = { ROWS, COLS, w, rounds[r], specs[s], seed, 9 };
            float *decoded, *gauss, *permute;
            gauss = run_trial(ctx[0], QSAE__CONTROL_GAUSS, &t, &decoded);
            permute = run_trial(ctx[0], QSAE__CONTROL_PERMUTE, &t, NULL);
            const double want = sqrt(distance(&t, decoded));
            const double got = sqrt(distance(&t, gauss)) / want;
            /* In bf16 an error moved to another weight is rounded there. */
            const double moved = sqrt(distance(&t, permute)) / want;
            if (fabs(got - 1) > 1e-4 || fabs(moved - 1) > (rounds[r] ? 0.05 : 1e-6))
                fail_msg("%s, dtype %s, seed %llu: norms %.9g and %.9g of the codec's", t.spec,
                         qsae_dtype_name(rounds[r]), (unsigned long long)seed, got, moved);
            for (int64_t i = 1; i < n; i++) {
                float *same = run_trial(ctx[i], QSAE__CONTROL_GAUSS, &t, NULL);
                test_same_f32("gauss", same, gauss, ROWS * COLS);
                test_release(same);
                same = run_trial(ctx[i], QSAE__CONTROL_PERMUTE, &t, NULL);
                test_same_f32("permute", same, permute, ROWS * COLS);
                test_release(same);
            }
            test_release(decoded);
            test_release(gauss);
            test_release(permute);
        }
    test_release(w);
    test_contexts_close(ctx, n);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Correlation of a[i] and b[i], of variance 1 and mean 0, times sqrt(n): about normal if there is
 * none. */
static double related(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum / sqrt((double)n);
}

/* Kolmogorov's distance to the normal distribution, neighbours, other streams and seeds. Fixed
 * numbers: a bound is passed or not for good. */
static void test_normal(void **state)
{
    enum { ROWS = 256, COLS = 512, N = ROWS * COLS };
    qsae_context *ctx = test_context(NULL, 2);
    float *w = test_alloc(N, sizeof *w);
    double *x[3], *sorted = test_alloc(N, sizeof *sorted), worst = 0, mean = 0;
    (void)state;
    test_random(3, w, N);
    for (int v = 0; v < 3; v++) {
        const struct trial t = { ROWS, COLS, w, 0, "rtn:bits=2,axis=tensor", v == 1, v == 2 };
        float *got = run_trial(ctx, QSAE__CONTROL_GAUSS, &t, NULL);
        const double scale = sqrt(distance(&t, got) / N);
        x[v] = test_alloc(N, sizeof **x);
        for (int64_t i = 0; i < N; i++)
            x[v][i] = ((double)got[i] - (double)w[i]) / scale;
        test_release(got);
    }
    memcpy(sorted, x[0], N * sizeof *sorted);
    qsort(sorted, N, sizeof *sorted, ascending);
    for (int64_t i = 0; i < N; i++) {
        const double p = 0.5 * erfc(-sorted[i] / sqrt(2));
        worst = fmax(worst, fmax(p - (double)i / N, (double)(i + 1) / N - p));
        mean += sorted[i] / N;
    }
    if (worst * sqrt(N) > 1.63 || fabs(mean) * sqrt(N) > 3.3) /* 1 %, 0.1 % */
        fail_msg("distance %g, mean %g", worst * sqrt(N), mean * sqrt(N));
    for (int lag = 1; lag <= 5; lag++)
        assert_true(fabs(related(x[0], x[0] + lag, N - lag)) < 4);
    assert_true(fabs(related(x[0], x[0] + COLS, N - COLS)) < 4);
    assert_true(fabs(related(x[0], x[1], N)) < 4);
    assert_true(fabs(related(x[0], x[2], N)) < 4);
    for (int v = 0; v < 3; v++)
        test_release(x[v]);
    test_release(sorted);
    test_release(w);
    qsae_context_close(&ctx);
}

/* Integer weights and a scale that is a power of two: every sum is exact, so the errors come back
 * as a multiset, and few stay where they were. */
static void test_permutation(void **state)
{
    static const int64_t shapes[][2] = { { 1, 1 },   { 1, 2 },    { 3, 1 },    { 5, 7 },
                                         { 64, 64 }, { 123, 457 }, { 1, 10007 } };
    qsae_context *ctx = test_context(NULL, 2);
    (void)state;
    for (int64_t s = 0; s < LENGTH(shapes); s++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            const int64_t n = shapes[s][0] * shapes[s][1];
            float *w = test_alloc(n, sizeof *w), *decoded;
            double *before = test_alloc(n, sizeof *before), *after = test_alloc(n, sizeof *after);
            int64_t stay = 0;
            test_random(seed + 1, w, n);
            for (int64_t i = 0; i < n; i++) /* distinct errors, but for rare ties */
                w[i] = rintf(w[i] * 16384);
            w[n / 2] = 7 * 16384; /* the scale is 16384 */
            const struct trial t = { shapes[s][0], shapes[s][1], w, 0, "rtn:bits=4,axis=tensor",
                                     seed, 4 };
            float *got = run_trial(ctx, QSAE__CONTROL_PERMUTE, &t, &decoded);
            for (int64_t i = 0; i < n; i++) {
                before[i] = (double)decoded[i] - (double)w[i];
                after[i] = (double)got[i] - (double)w[i];
                stay += before[i] == after[i];
            }
            if (n > 1000 && stay > n / 100)
                fail_msg("seed %llu: %lld of %lld errors stay", (unsigned long long)seed,
                         (long long)stay, (long long)n);
            qsort(before, (size_t)n, sizeof *before, ascending);
            qsort(after, (size_t)n, sizeof *after, ascending);
            for (int64_t i = 0; i < n; i++)
                if (before[i] != after[i])
                    fail_msg("%lld x %lld, seed %llu: error %lld is %g, expected %g",
                             (long long)t.rows, (long long)t.cols, (unsigned long long)seed,
                             (long long)i, after[i], before[i]);
            test_release(w);
            test_release(decoded);
            test_release(got);
            test_release(before);
            test_release(after);
        }
    qsae_context_close(&ctx);
}

/* Without an error the weight comes back, -0 and all. */
static void test_exact(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    const float w[6] = { 1, -0.0f, -1, 0, 0.5f, -0.5f };
    (void)state;
    for (int control = QSAE__CONTROL_GAUSS; control <= QSAE__CONTROL_PERMUTE; control++) {
        const struct trial t = { 2, 3, w, 0, "none", 1, 2 };
        float *got = run_trial(ctx, (enum qsae__control)control, &t, NULL);
        test_same_f32("weight", got, w, 6);
        test_release(got);
    }
    qsae_context_close(&ctx);
}

static void test_nonfinite(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[8] = { NAN, 1, -2, 0.3f, INFINITY, 0.1f, 0.2f, -0.7f };
    const struct trial t = { 2, 4, w, 0, "rtn:bits=2", 1, 2 };
    (void)state;
    float *got = run_trial(ctx, QSAE__CONTROL_GAUSS, &t, NULL);
    assert_true(isnan(got[0]) && isinf(got[4])); /* they are left alone, the others get noise */
    for (int i = 1; i < 8; i++)
        assert_true(i == 4 || (isfinite(got[i]) && got[i] != w[i]));
    test_release(got);
    qsae_context_close(&ctx);
}

int run_control(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_norms),
        cmocka_unit_test(test_normal),      cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_exact),       cmocka_unit_test(test_nonfinite),
    };
    return cmocka_run_group_tests_name("codecs/control", tests, NULL, NULL);
}
