/* SPDX-License-Identifier: BSD-2-Clause */
/* Sums of f64 rows: every level has the bits of plain loops over 8 lanes, and so has every
 * state. */
#include "metrics_test.h"

#include "kernels/sums.h"

#define MOST 70

static double lanes_fold(const double *t)
{
    return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7]));
}

typedef struct rows_of {
    double x[MOST], y[MOST], z[MOST], mean[MOST], m2[MOST];
} rows_of;

/* What every operation should leave in r, and its sums. */
static void plain(rows_of *r, const float *f, int n, double *sums)
{
    double s[8] = { 0 }, dot[8] = { 0 }, grown[8] = { 0 };
    for (int i = 0; i < n; i++) {
        s[i % 8] += r->x[i];
        dot[i % 8] += r->x[i] * r->y[i];
        const double delta = r->x[i] - r->mean[i];
        r->mean[i] += delta * 0.3;
        grown[i % 8] += delta * (r->x[i] - r->mean[i]);
        const double more = r->y[i] - r->mean[i];
        r->mean[i] += more * 0.2;
        r->m2[i] += more * (r->y[i] - r->mean[i]);
        r->m2[i] += r->x[i] * r->x[i];
        r->z[i] = r->x[i] - r->y[i];
        r->y[i] = f[i];
    }
    sums[0] = lanes_fold(s);
    sums[1] = lanes_fold(dot);
    sums[2] = lanes_fold(grown);
}

static void test_sums(void **state)
{
    static rows_of a, b;
    float f[MOST];
    uint32_t seed = 41;
    (void)state;
    for (int l = 0; level_name(l); l++)
        for (int n = 0; n < MOST; n++) {
            const qsae__sums_ops *const ops = qsae__sums_level(l);
            double want[3], got[3];
            for (int i = 0; i < MOST; i++) {
                a.x[i] = (double)next_float(&seed) / 3;
                a.y[i] = ldexp((double)next_float(&seed) / 3, (int)(next_random(&seed) % 60));
                a.z[i] = a.mean[i] = a.m2[i] = next_float(&seed);
                f[i] = next_float(&seed);
            }
            b = a;
            plain(&a, f, n, want);
            got[0] = ops->sum(b.x, n);
            got[1] = ops->dot(b.x, b.y, n);
            got[2] = ops->welford_sum(b.mean, b.x, 0.3, n);
            ops->welford(b.mean, b.m2, b.y, 0.2, n);
            ops->add_squares(b.x, b.m2, n);
            ops->sub(b.x, b.y, b.z, n);
            ops->widen(f, b.y, n);
            assert_memory_equal(got, want, sizeof got);
            assert_memory_equal(&a, &b, sizeof a);
        }
}

static void test_states(void **state)
{
    (void)state;
    make_rows(77);
    for (int kind = 0; kind < KINDS; kind++) {
        const qsae_metric_settings s = test_settings();
        qsae_context *plain_ctx = open_context("c", 1);
        qsae_metric *first = open_kind(plain_ctx, kind, &s);
        assert_ok(feed(first, 0, N, 0));
        for (int l = 1; level_name(l); l++) {
            qsae_context *ctx = open_context(level_name(l), 2);
            qsae_metric *m = open_kind(ctx, kind, &s);
            assert_ok(feed(m, 0, N, 0));
            assert_same_state(first, m);
            qsae_metric_close(&m);
            qsae_context_close(&ctx);
        }
        qsae_metric_close(&first);
        qsae_context_close(&plain_ctx);
    }
}

const struct CMUnitTest level_tests[] = {
    cmocka_unit_test(test_sums),
    cmocka_unit_test(test_states),
};
const size_t n_level_tests = sizeof level_tests / sizeof level_tests[0];
