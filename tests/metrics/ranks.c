/* SPDX-License-Identifier: BSD-2-Clause */
/* Ranks, folds and logistic regression against scikit-learn and SciPy
 * (tests/reference/predictor.py). */
#include "metrics_test.h"

#include "metrics/ranks.h"

#define MOST 256
#define PATH QSAE_TEST_DATA "/metrics/predictor.txt"

static double x[MOST * QSAE__INPUTS_MOST], column[QSAE__INPUTS_MOST][MOST];
static uint8_t label[MOST], want_fold[MOST], fold[MOST];

static double number(FILE *f)
{
    char text[64];
    char *end;
    assert_int_equal(fscanf(f, "%63s", text), 1);
    const double v = strtod(text, &end);
    assert_true(*end == 0);
    return v;
}

static void read_case(FILE *f, int64_t n, int64_t k)
{
    assert_true(n <= MOST && k <= QSAE__INPUTS_MOST);
    for (int64_t i = 0; i < n; i++) {
        label[i] = (uint8_t)number(f);
        want_fold[i] = (uint8_t)number(f);
        for (int64_t j = 0; j < k; j++)
            column[j][i] = x[i * k + j] = number(f);
    }
}

static void check_case(qsae_context *ctx, FILE *f, int64_t n, int64_t k, uint32_t seed)
{
    double w[QSAE__INPUTS_MOST + 1], auc, spearman;
    assert_ok(qsae__stratified_folds(ctx, label, n, seed, fold));
    assert_memory_equal(fold, want_fold, (size_t)n);
    for (int64_t j = 0; j < k; j++) {
        assert_ok(qsae__auc(ctx, column[j], label, n, &auc));
        assert_true(fabs(auc - number(f)) < 1e-15);
    }
    qsae__logistic(x, label, NULL, n, k, 1, w);
    for (int64_t j = 0; j <= k; j++) {
        const double want = number(f);
        if (!(fabs(w[j] - want) <= 1e-8 * (1 + fabs(want))))
            fail_msg("weight %d: expected %.17g, found %.17g", (int)j, want, w[j]);
    }
    assert_true(fabs(qsae__correlation(column[0], column[1], n) - number(f)) < 1e-14);
    assert_ok(qsae__spearman(ctx, column[0], column[1], n, &spearman));
    assert_true(fabs(spearman - number(f)) < 1e-14);
}

static void test_scikit_learn(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    FILE *const f = fopen(PATH, "r");
    int n, k, cases = 0;
    unsigned seed;
    assert_non_null(f);
    for (; fscanf(f, "%d %d %u", &n, &k, &seed) == 3; cases++) {
        read_case(f, n, k);
        check_case(ctx, f, n, k, seed);
    }
    assert_int_equal(cases, 12);
    fclose(f);
    qsae_context_close(&ctx);
}

/* Rows left out change nothing; separable data have finite weights; constants no correlation. */
static void test_edges(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    const double line[] = { -2, -1, 1, 2, 50 }, flat[] = { 3, 3, 3, 3, 3 };
    const uint8_t right[] = { 0, 0, 1, 1, 0 }, use[] = { 1, 1, 1, 1, 0 }, one[] = { 1, 1, 1 };
    double w[2], v[2], ranks[5], auc;
    int64_t order[5];
    qsae__logistic(line, right, use, 5, 1, 1, w);
    qsae__logistic(line, right, NULL, 4, 1, 1, v);
    assert_memory_equal(w, v, sizeof w);
    assert_true(w[0] > 0.5 && w[0] < 2 && fabs(w[1]) < 1e-9);
    qsae__logistic(line, right, NULL, 4, 1, 1e9, w);
    assert_true(isfinite(w[0]) && isfinite(w[1]) && w[0] > 5);
    assert_ok(qsae__midranks(ctx, flat, 5, ranks));
    assert_true(ranks[0] == 3 && ranks[4] == 3);
    assert_ok(qsae__order(ctx, flat, 5, order));
    for (int64_t i = 0; i < 5; i++)
        assert_int_equal(order[i], i);
    assert_true(isnan(qsae__correlation(line, flat, 5)));
    assert_ok(qsae__auc(ctx, flat, right, 5, &auc));
    assert_true(auc == 0.5);
    assert_ok(qsae__auc(ctx, line, one, 3, &auc));
    assert_true(isnan(auc));
    qsae_context_close(&ctx);
}

const struct CMUnitTest rank_tests[] = {
    cmocka_unit_test(test_scikit_learn),
    cmocka_unit_test(test_edges),
};
const size_t n_rank_tests = sizeof rank_tests / sizeof rank_tests[0];
