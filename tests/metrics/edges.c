/* SPDX-License-Identifier: BSD-2-Clause */
/* Settings out of range, rows that are given wrongly or in an unusual way, and single figures at
 * the ends of what they can be. */
#include "metrics_test.h"

#include "metrics/intervals.h"
#include "metrics/parts.h"
#include "metrics/ranks.h"

#define REFUSES(field, value, part) \
    do { \
        qsae_metric_settings s_ = test_settings(); \
        s_.field = (value); \
        assert_fails(qsae_metric_open_features(ctx, F, &s_, &m), QSAE_EINVAL, part); \
        assert_null(m); \
    } while (0)

static void test_ranges(void **state)
{
    qsae_metric *m = NULL;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    REFUSES(top, -1, "opening a features metric: top: expected 0..1024, found -1");
    REFUSES(top, 1025, "top: expected 0..1024, found 1025");
    REFUSES(prompt_tokens, -1, "prompt_tokens must not be negative, found -1");
    REFUSES(overlap_k, -1, "overlap_k: expected 0..64, found -1");
    REFUSES(overlap_k, 65, "overlap_k: expected 0..64, found 65");
    REFUSES(documents_per_block, -1, "documents_per_block: expected 0..2^31 - 1, found -1");
    REFUSES(documents_per_block, 2147483648, "documents_per_block: expected 0..2^31 - 1");
    REFUSES(seed, -1, "seed must not be negative, found -1");
    REFUSES(batch_rows, -1, "batch_rows -1 or");
    REFUSES(batch_rows, 2147483648, "batch_rows 2147483648 or");
    REFUSES(active_rate, -0.5, "active_rate -0.5 is out of range");
    REFUSES(active_rate, 1, "active_rate 1 is out of range");
    REFUSES(active_rate, NAN, "is out of range");
    const qsae_metric_settings s = test_settings();
    assert_fails(qsae_metric_open_features(ctx, -1, &s, &m), QSAE_EINVAL,
                 "features must be positive, found -1");
    assert_fails(qsae_metric_open_features(ctx, 2147483648, &s, &m), QSAE_EINVAL,
                 "features 2147483648");
    assert_fails(qsae_metric_open_drift(ctx, -1, &s, &m), QSAE_EINVAL, "d -1");
    assert_fails(qsae_metric_open_reconstruction(ctx, 2147483648, F, &s, &m), QSAE_EINVAL,
                 "d 2147483648");
    assert_null(m);
    qsae_context_close(&ctx);
}

/* Every feature of every row, those that are 0 too. */
static void spell_out(const float *dense, int64_t *ptr, int32_t *index, float *value)
{
    for (int64_t i = 0; i < N * F; i++) {
        index[i] = (int32_t)(i % F);
        value[i] = dense[i];
    }
    for (int64_t r = 0; r <= N; r++)
        ptr[r] = r * F;
}

/* An entry of value 0 is no activation: states and results are those without it. */
static void test_zero_entries(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 2);
    for (int kind = 2; kind <= 3; kind++)
        for (int prompts = 0; prompts < 2; prompts++) {
            qsae_metric_settings s = test_settings();
            s.prompt_tokens = prompts && kind == 3 ? 128 : 0;
            qsae_metric *a = open_kind(ctx, kind, &s), *b = open_kind(ctx, kind, &s);
            make_rows(31);
            assert_ok(feed(a, 0, N, 0));
            spell_out(rows.a_r, rows.ptr_r, rows.index_r, rows.value_r);
            spell_out(rows.a_q, rows.ptr_q, rows.index_q, rows.value_q);
            assert_ok(feed(b, 0, N, 0));
            assert_true(result(a, "tokens") > 3000);
            assert_same_state(a, b);
            qsae_metric_close(&a);
            qsae_metric_close(&b);
        }
    qsae_context_close(&ctx);
}

static void test_wrong_entries(void **state)
{
    static const float v[] = { 1, 2 };
    const int64_t begins[] = { -1, 1, 2 }, two[] = { 0, 1, 2 };
    const int32_t below[] = { 0, -1 }, id[] = { 0, 1 };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 3, &s);
    const qsae_sparse_rows good = { sizeof good, 2, two, id, v };
    qsae_sparse_rows bad = good;
    bad.n = -1;
    assert_fails(qsae_metric_update_features(m, NULL, &bad, &good), QSAE_EINVAL,
                 "r: n must not be negative, found -1");
    bad.n = 1;
    assert_fails(qsae_metric_update_features(m, NULL, &good, &bad), QSAE_EINVAL,
                 "q: expected 2 rows, found 1");
    bad = good;
    bad.indptr = NULL;
    assert_fails(qsae_metric_update_features(m, NULL, &good, &bad), QSAE_EINVAL,
                 "q: indptr must not be NULL");
    bad.indptr = begins;
    assert_fails(qsae_metric_update_features(m, NULL, &bad, &good), QSAE_EINVAL,
                 "r: indptr of row 0: expected ascending offsets, found -1, 1");
    bad = good;
    bad.indices = NULL;
    assert_fails(qsae_metric_update_features(m, NULL, &bad, &good), QSAE_EINVAL,
                 "r: indices and values must not be NULL");
    bad.indices = below;
    assert_fails(qsae_metric_update_features(m, NULL, &bad, &good), QSAE_EINVAL,
                 "r: row 1: expected ascending indices below 30, found -1");
    bad = good;
    bad.values = NULL;
    assert_fails(qsae_metric_update_features(m, NULL, &good, &bad), QSAE_EINVAL,
                 "q: indices and values must not be NULL");
    const int64_t document[] = { -1, 0 }, far[] = { 0, INT64_MAX };
    qsae_positions at = { .struct_size = sizeof at, .document = document, .n_rows = 2 };
    assert_fails(qsae_metric_update_features(m, &at, &good, &good), QSAE_EINVAL,
                 "document: expected 0..");
    at.document = far;
    assert_fails(qsae_metric_update_features(m, &at, &good, &good), QSAE_EINVAL,
                 "found 9223372036854775807");
    assert_near(m, "tokens", 0, 0);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

static void test_divergence_rows(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae_metric *m = open_kind(ctx, 1, NULL), *all = open_kind(ctx, 1, NULL);
    make_rows(8);
    for (int64_t i = 0; i < N; i++)
        if (isnan(rows.nll_r[i]))
            rows.nll_r[i] = rows.nll_q[i] = 1;
    qsae_divergence_rows d = { .struct_size = sizeof d, .n = -1, .kl = rows.kl };
    assert_fails(qsae_metric_update_divergence(m, NULL, &d), QSAE_EINVAL, "n must not be negative");
    assert_fails(qsae_metric_update_divergence(m, NULL, NULL), QSAE_EINVAL,
                 "rows must not be NULL");
    d.n = N;
    d.kl = (const float *)(const void *)((const char *)rows.kl + 1);
    assert_fails(qsae_metric_update_divergence(m, NULL, &d), QSAE_EINVAL, "rows: an array");
    /* KL and arg-max alone: figures of those, none of what is not known. */
    d.kl = rows.kl;
    d.top_r = rows.top_r;
    d.top_q = rows.top_q;
    assert_ok(qsae_metric_update_divergence(m, NULL, &d));
    d.nll_r = rows.nll_r;
    d.nll_q = rows.nll_q;
    d.label = rows.label;
    assert_ok(qsae_metric_update_divergence(all, NULL, &d));
    assert_near(m, "tokens", N, 0);
    assert_near(m, "kl_mean", result(all, "kl_mean"), 0);
    assert_near(m, "kl_median", result(all, "kl_median"), 0);
    assert_near(m, "same_top", result(all, "same_top"), 0);
    assert_true(isfinite(result(all, "dce")) && isnan(result(m, "dce")));
    assert_true(isfinite(result(all, "dnll_q99")) && isnan(result(m, "dnll_q99")));
    qsae_metric_close(&m);
    qsae_metric_close(&all);
    qsae_context_close(&ctx);
}

/* Rows of logits that have no distribution count as such and are in no figure. */
static void test_no_distribution(void **state)
{
    enum { ROWS = 20, VOCAB = 300, BAD = 6 };
    static float r[ROWS * VOCAB], q[ROWS * VOCAB];
    int32_t label[ROWS];
    double n = 0;
    uint32_t seed = 9;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    for (int i = 0; i < ROWS * VOCAB; i++) {
        r[i] = 6 * next_float(&seed);
        q[i] = r[i] + next_float(&seed);
    }
    for (int t = 0; t < ROWS; t++)
        label[t] = t < BAD ? -100 : t;
    qsae_rows lr = { sizeof lr, r, ROWS, VOCAB, VOCAB, QSAE_F32, 0 }, lq = lr;
    lq.data = q;
    qsae_metric *want = open_kind(ctx, 1, NULL), *got = open_kind(ctx, 1, NULL);
    assert_ok(qsae_metric_update_divergence_logits(want, NULL, &lr, &lq, label));
    assert_near(want, "tokens", ROWS - BAD, 0);
    for (int i = 0; i < VOCAB; i++)
        r[i] = -INFINITY;               /* nothing can follow */
    r[VOCAB + 5] = NAN;
    r[2 * VOCAB + 299] = INFINITY;
    q[3 * VOCAB + 299] = NAN;
    q[4 * VOCAB + 7] = -INFINITY;       /* what can follow cannot, compressed */
    r[5 * VOCAB + 17] = -INFINITY;      /* the label cannot follow */
    for (int t = 0; t < BAD; t++)
        label[t] = 17;
    assert_ok(qsae_metric_update_divergence_logits(got, NULL, &lr, &lq, label));
    assert_near(got, "nonfinite_rows", BAD, 0);
    for (int32_t i = 0; i < qsae_metric_count(want); i++) {
        qsae_value v = { .struct_size = sizeof v }, w = v;
        assert_ok(qsae_metric_value(want, i, &v));
        assert_ok(qsae_metric_value(got, i, &w));
        if (strcmp(v.name, "nonfinite_rows") == 0)
            continue;
        if (memcmp(&v, &w, sizeof v) != 0)
            fail_msg("%s: %.17g, expected %.17g", v.name, w.value, v.value);
        n++;
    }
    assert_true(n > 20);
    static const int32_t wrong[] = { -1, -99, -101, VOCAB, INT32_MIN };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char part[64];
        label[3] = wrong[i];
        snprintf(part, sizeof part, "label of row 3: expected -100 or 0..299, found %d",
                 (int)wrong[i]);
        assert_fails(qsae_metric_update_divergence_logits(got, NULL, &lr, &lq, label), QSAE_EINVAL,
                     part);
    }
    assert_fails(qsae_metric_update_divergence_logits(got, NULL, &lr, &lq, NULL), QSAE_EINVAL,
                 "label must not be NULL");
    qsae_metric_close(&want);
    qsae_metric_close(&got);
    qsae_context_close(&ctx);
}

/* Rows in f64 whose squares, or those of whose error, are too large to be summed. */
static void test_large_rows(void **state)
{
    static double x[3 * D], y[3 * D];
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 2, &s), *one = open_kind(ctx, 2, &s);
    for (int i = 0; i < 3 * D; i++) {
        x[i] = i;
        y[i] = i + 1;
    }
    x[0] = 1e200;
    x[D] = 1e154;
    y[D] = -1e154;
    qsae_rows rx = { sizeof rx, x, 3, D, D, QSAE_F64, 0 }, ry = rx;
    ry.data = y;
    assert_ok(qsae_metric_update_reconstruction(m, NULL, &rx, &ry, NULL));
    assert_near(m, "nonfinite_rows", 2, 0);
    assert_near(m, "tokens", 1, 0);
    rx.n_rows = ry.n_rows = 1;
    rx.data = x + 2 * D;
    ry.data = y + 2 * D;
    assert_ok(qsae_metric_update_reconstruction(one, NULL, &rx, &ry, NULL));
    assert_near(m, "sse", result(one, "sse"), 0);
    assert_near(m, "sse", D, 0);
    qsae_metric_close(&m);
    qsae_metric_close(&one);
    qsae_context_close(&ctx);
}

static void test_ends(void **state)
{
    const double up[] = { 1, 2, 3 }, down[] = { 3, 2, 1 };
    const uint8_t none[3] = { 0, 0, 0 };
    double auc, sums[QSAE__F_SUMS] = { 0 };
    uint8_t fold[3] = { 9, 9, 9 };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    assert_true(fabs(qsae__correlation(up, down, 3) + 1) < 1e-15);
    assert_true(isnan(qsae__correlation(up, down, 1)));
    assert_ok(qsae__auc(ctx, up, none, 3, &auc));
    assert_true(isnan(auc));
    assert_ok(qsae__stratified_folds(ctx, none, 0, 1, fold));
    assert_int_equal(fold[0], 9);
    assert_ok(qsae__stratified_folds(ctx, none, 3, 1, fold)); /* one class, each in a fold */
    assert_true(fold[0] < QSAE__FOLDS && fold[1] < QSAE__FOLDS && fold[2] < QSAE__FOLDS);
    assert_true(fold[0] != fold[1] && fold[1] != fold[2] && fold[0] != fold[2]);
    /* r of rounded sums stays within -1 and 1. */
    sums[QSAE__F_XX] = sums[QSAE__F_YY] = 2;
    for (int sign = -1; sign <= 1; sign += 2) {
        sums[QSAE__F_XY] = sign * (2 + 1e-12);
        assert_true(qsae__agreement_r_on(sums, 4) == sign);
        sums[QSAE__F_XY] = sign * 1.5;
        assert_true(qsae__agreement_r_on(sums, 4) == sign * 0.75);
    }
    assert_true(isnan(qsae__agreement_r_on(sums, 0)));
    /* Student's t of 1, 2 and 30 degrees of freedom, as in any table, and across the two ways. */
    assert_true(fabs(qsae__t975(1) - 12.7062047361747) < 1e-9);
    assert_true(fabs(qsae__t975(2) - 4.30265272974946) < 1e-9);
    assert_true(fabs(qsae__t975(30) - 2.04227245630124) < 1e-9);
    assert_true(fabs(qsae__t975(200) - qsae__t975(200.0000001)) < 1e-8);
    qsae_context_close(&ctx);
}

const struct CMUnitTest edge_tests[] = {
    cmocka_unit_test(test_ranges),          cmocka_unit_test(test_zero_entries),
    cmocka_unit_test(test_wrong_entries),   cmocka_unit_test(test_divergence_rows),
    cmocka_unit_test(test_no_distribution), cmocka_unit_test(test_large_rows),
    cmocka_unit_test(test_ends),
};
const size_t n_edge_tests = sizeof edge_tests / sizeof edge_tests[0];
