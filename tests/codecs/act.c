/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows that are quantized and decoded again, at the ends of their ranges. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "codecs/act.h"
#include "tests.h"

#define GROUP 32

/* The nearest value of a small float type, of two that are as near the one with an even code. */
static double nearest_of(double v, int mantissa, int bias, int codes)
{
    double best = 0, distance = INFINITY;
    for (int code = 0; code < codes; code++) {
        const int e = code >> mantissa, m = code & ((1 << mantissa) - 1);
        const double x = e ? ldexp((1 << mantissa) + m, e - bias - mantissa)
                           : ldexp(m, 1 - bias - mantissa);
        const double d = fabs(fabs(v) - x);
        if (d < distance || (d == distance && code % 2 == 0)) {
            best = x;
            distance = d;
        }
    }
    return copysign(best, v);
}

/* What a group of microscaled values becomes (OCP MX, and the rounding of the scale that
 * act.c names): of the largest magnitude's exponent, counted up from 1.75 on. */
static void microscale(int32_t dtype, bool eight, const float *x, float *want)
{
    double most = 0;
    for (int i = 0; i < GROUP; i++)
        most = fmax(most, fabs((double)x[i])); /* numbers only */
    int e = -127;
    const double least = dtype == QSAE_F16 ? 0x1p-14 : 0x1p-126; /* normal numbers */
    if (most >= least * 0.75) {
        const int at = (int)floor(log2(most < least ? least : most));
        e = at + (most >= ldexp(1.75, at)) - (eight ? 8 : 2);
    }
    double scale = (double)qsae__round_to(dtype, (float)ldexp(1, e < -127 ? -127 : e));
    scale = scale == 0 ? 1 : scale;
    for (int i = 0; i < GROUP; i++) {
        const double v = (double)qsae__round_to(dtype, (float)((double)x[i] / scale));
        const double c = nearest_of(v, eight ? 3 : 1, eight ? 7 : 1, eight ? 127 : 8);
        want[i] = qsae__round_to(dtype, (float)(c * scale));
    }
}

static void test_powers(void **state)
{
    static const float sizes[] = { 1, 1.7499f, 1.75f, 1e-3f, 3e-5f, 4.7e-5f, 1e-7f, 250, 57312,
                                   1e-30f, 2e-36f, 1.2e-38f, 8e-39f, 1e-39f, 1e-44f, 1e30f,
                                   2.9e38f, 0 };
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    for (int64_t k = 0; k < n * LENGTH(sizes) * LENGTH(dtypes) * 2; k++) {
        const int32_t dtype = dtypes[k / n % LENGTH(dtypes)];
        const float size = sizes[k / n / LENGTH(dtypes) % LENGTH(sizes)];
        const bool eight = k / n / LENGTH(dtypes) / LENGTH(sizes);
        const qsae__act a = { .type = eight ? QSAE__ACT_FP8 : QSAE__ACT_FP4,
                              .scope = QSAE__ACT_GROUP, .scales = QSAE__ACT_POWER,
                              .bits = eight ? 8 : 4, .symmetric = true, .group = GROUP };
        float x[GROUP], want[GROUP];
        if (dtype == QSAE_F16 && size > 65504)
            continue;
        test_random(7, x, GROUP);
        for (int i = 0; i < GROUP; i++)
            x[i] = qsae__round_to(dtype, x[i] / 6 * size);
        x[5] = qsae__round_to(dtype, -size);
        microscale(dtype, eight, x, want);
        qsae__act_row(ctx[k % n], &a, dtype, GROUP, x);
        for (int i = 0; i < GROUP; i++)
            if (x[i] != want[i])
                fail_msg("%s of %s, up to %g: %.9g, expected %.9g", eight ? "FP8" : "FP4",
                         qsae_dtype_name(dtype), (double)size, (double)x[i], (double)want[i]);
    }
    test_contexts_close(ctx, n);
}

/* NaN, infinity, and a magnitude that the scale's rounding takes beyond the dtype: a group's own
 * matter, as in the package, whose scale is then NaN or 2^128. */
static void test_no_numbers(void **state)
{
    static const struct {
        int32_t dtype;
        float v;
    } bad[] = { { QSAE_F32, NAN }, { QSAE_F32, -INFINITY }, { QSAE_F32, FLT_MAX },
                { QSAE_BF16, NAN }, { QSAE_F16, NAN }, { QSAE_F16, INFINITY },
                { QSAE_F16, -57344 } };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int64_t k = 0; k < 3 * LENGTH(bad); k++) {
        const qsae__act a = { .type = k % 3 == 1 ? QSAE__ACT_FP8 : QSAE__ACT_FP4,
                              .scope = QSAE__ACT_GROUP,
                              .scales = k % 3 == 2 ? QSAE__ACT_E4M3 : QSAE__ACT_POWER,
                              .bits = k % 3 == 1 ? 8 : 4, .symmetric = true, .group = GROUP,
                              .global = 4 };
        const float v = bad[k / 3].v;
        /* of a group of ones: 1, or six times the E4M3 value next to 4 / 6, of which global is 4 */
        const double one = k % 3 == 2 ? 6 * nearest_of(4.0 / 6, 3, 7, 127) / 4 : 1;
        float x[2 * GROUP];
        if (k % 3 == 2 && !isnan(v))
            continue; /* that scale is a value of E4M3, 448 at most */
        for (int i = 0; i < 2 * GROUP; i++)
            x[i] = i % 2 ? -1 : 1;
        x[3] = v;
        qsae__act_row(ctx, &a, bad[k / 3].dtype, 2 * GROUP, x);
        for (int i = 0; i < 2 * GROUP; i++)
            if (i < GROUP ? !isnan(x[i]) : (double)x[i] != (i % 2 ? -one : one))
                fail_msg("%g: element %d is %g", (double)v, i, (double)x[i]);
    }
    qsae_context_close(&ctx);
}

/* A scale beyond E4M3's largest stays there; one below its smallest is 1/8. Both are divided by
 * the global scale again. */
static void test_e4m3_ends(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int large = 0; large < 2; large++) {
        const qsae__act a = { .type = QSAE__ACT_FP4, .scope = QSAE__ACT_GROUP,
                              .scales = QSAE__ACT_E4M3, .bits = 4, .symmetric = true, .group = 16,
                              .global = large ? 1024 : 1 };
        const double scale = large ? 448.0 / 1024 : 0.125;
        float x[16];
        for (int i = 0; i < 16; i++)
            x[i] = (float)(i - 8) * (large ? 2 : 0x1p-13f);
        float want[16];
        for (int i = 0; i < 16; i++)
            want[i] = (float)(nearest_of((double)x[i] / scale, 1, 1, 8) * scale);
        qsae__act_row(ctx, &a, QSAE_F32, 16, x);
        test_same_f32(large ? "large" : "small", x, want, 16);
        assert_true(!large || x[0] == (float)(-6 * scale));
    }
    qsae_context_close(&ctx);
}

/* Layers share rows only if all of what is done to them is the same. */
static void test_same(void **state)
{
    const qsae__act a = { .type = QSAE__ACT_INT, .scope = QSAE__ACT_TENSOR,
                          .scales = QSAE__ACT_PLAIN, .bits = 8, .symmetric = true, .group = 4,
                          .scale = 0.5f, .zero = 3, .global = 1 };
    qsae__act other[9];
    (void)state;
    for (int i = 0; i < LENGTH(other); i++)
        other[i] = a;
    assert_true(qsae__act_same(&a, &other[0]) && qsae__act_same(NULL, NULL));
    assert_false(qsae__act_same(&a, NULL) || qsae__act_same(NULL, &a));
    other[0].type = QSAE__ACT_FP8;
    other[1].scope = QSAE__ACT_TOKEN;
    other[2].scales = QSAE__ACT_POWER;
    other[3].bits = 4;
    other[4].symmetric = false;
    other[5].group = 8;
    other[6].scale = 0.25f;
    other[7].zero = 2;
    other[8].global = 2;
    for (int i = 0; i < LENGTH(other); i++)
        assert_false(qsae__act_same(&a, &other[i]) || qsae__act_same(&other[i], &a));
}

int run_act(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_powers),    cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_e4m3_ends), cmocka_unit_test(test_same),
    };
    return cmocka_run_group_tests_name("codecs/act", tests, NULL, NULL);
}
