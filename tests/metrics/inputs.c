/* SPDX-License-Identifier: BSD-2-Clause */
/* Arguments, non-finite values, logits, sampling. */
#include "metrics_test.h"

/* A row that is not finite counts for nothing else: as if it were excluded. */
static void test_nonfinite(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *a = open_kind(ctx, kind, &s), *b = open_kind(ctx, kind, &s);
        make_rows(9);
        for (int i = 0; i < 3; i++)
            rows.mask[40 + 700 * i] |= QSAE_MASK_EXCLUDED;
        assert_ok(feed(a, 0, N, 0));
        make_rows(9);
        for (int i = 0; i < 3; i++) {
            const float bad = i == 0 ? NAN : i == 1 ? INFINITY : -INFINITY;
            const int64_t r = 40 + 700 * i;
            rows.x_r[r * D + (i == 0 ? 0 : D - 1)] = bad;
            rows.nll_r[r] = INFINITY;
            rows.kl[r] = bad;
            rows.value_r[rows.ptr_r[r]] = bad;
            assert_true(rows.ptr_r[r] < rows.ptr_r[r + 1]);
        }
        assert_ok(feed(b, 0, N, 0));
        assert_near(b, "nonfinite_rows", 3, 0);
        assert_near(a, "nonfinite_rows", 0, 0);
        for (int32_t i = 0; i < qsae_metric_count(a); i++) {
            qsae_value v = { .struct_size = sizeof v }, w = v;
            assert_ok(qsae_metric_value(a, i, &v));
            assert_ok(qsae_metric_value(b, i, &w));
            if (strcmp(v.name, "nonfinite_rows") == 0 || strcmp(v.name, "excluded_tokens") == 0)
                continue;
            assert_memory_equal(&v, &w, sizeof v);
        }
        qsae_metric_close(&a);
        qsae_metric_close(&b);
    }
    qsae_context_close(&ctx);
}

static void test_arguments(void **state)
{
    static const int64_t down[] = { 0, 2, 1 }, up[] = { 0, 1, 2 };
    static const int32_t high[] = { 0, F }, twice[] = { 4, 4 };
    static const float v[] = { 1, 2 };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    const qsae_metric_settings s = test_settings();
    qsae_metric_settings bad = s;
    qsae_metric *m = open_kind(ctx, 3, &s), *x = NULL;
    const qsae_sparse_rows good = { sizeof good, 2, up, (const int32_t[]){ 0, 1 }, v };
    const qsae_sparse_rows falling = { sizeof good, 2, down, (const int32_t[]){ 0, 1 }, v };
    const qsae_sparse_rows outside = { sizeof good, 2, up, high, v };
    const qsae_sparse_rows repeated = { sizeof good, 1, (const int64_t[]){ 0, 2 }, twice, v };
    const qsae_positions early = { .struct_size = sizeof early, .first_token = -1, .n_rows = 2 };
    const qsae_positions few = { .struct_size = sizeof few, .n_rows = 1 };

    assert_fails(qsae_metric_update_features(m, NULL, &falling, &good), QSAE_EINVAL, "r: indptr");
    assert_fails(qsae_metric_update_features(m, NULL, &good, &outside), QSAE_EINVAL, "q: row 1");
    assert_fails(qsae_metric_update_features(m, NULL, &repeated, &repeated), QSAE_EINVAL,
                 "ascending");
    assert_fails(qsae_metric_update_features(m, &early, &good, &good), QSAE_EINVAL, "first_token");
    assert_fails(qsae_metric_update_features(m, &few, &good, &good), QSAE_EINVAL, "positions");
    assert_fails(qsae_metric_update_features(m, NULL, NULL, &good), QSAE_EINVAL, "NULL");
    assert_fails(qsae_metric_update_cross_entropy(m, NULL, 2, v), QSAE_EINVAL, "features");
    assert_near(m, "tokens", 0, 0);
    assert_true(isnan(result(m, "mean_r")));
    assert_ok(qsae_metric_update_features(m, NULL, &good, &good));
    assert_ok(qsae_metric_update_features(m, NULL, &good, &good));
    assert_near(m, "tokens", 4, 0);
    double values[F];
    assert_fails(qsae_metric_features(m, "r", values, F - 1), QSAE_ESPACE, "30");
    assert_fails(qsae_metric_features(m, "fire", values, F), QSAE_ENOENT, "fire");
    assert_fails(qsae_metric_get(m, "ce", values), QSAE_ENOENT, "ce");
    assert_fails(qsae_metric_get(m, NULL, values), QSAE_EINVAL, "NULL");
    qsae_metric_close(&m);
    qsae_metric_close(&m);
    bad.batch_rows = -1;
    assert_fails(qsae_metric_open_drift(ctx, D, &bad, &x), QSAE_EINVAL, "batch_rows");
    assert_fails(qsae_metric_open_drift(ctx, 0, &s, &x), QSAE_EINVAL, "d must");
    assert_fails(qsae_metric_open_drift(NULL, D, &s, &x), QSAE_EINVAL, "context");
    assert_null(x);
    qsae_context_close(&ctx);
}

static void test_drift_without_sae(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    const qsae_metric_settings s = test_settings();
    qsae_metric *a = open_kind(ctx, 4, &s), *b = open_kind(ctx, 4, &s);
    make_rows(10);
    qsae_rows x_r = { sizeof x_r, rows.x_r, N, D, D, QSAE_F32, 0 }, x_q = x_r, narrow = x_r;
    x_q.data = rows.x_q;
    narrow.n_cols = D - 1;
    assert_ok(qsae_metric_update_drift(a, NULL, &x_r, &x_q, NULL, NULL));
    assert_ok(qsae_metric_update_drift(b, NULL, &x_r, &x_q, &x_r, &x_q));
    assert_near(a, "P", result(b, "P"), 0);
    assert_true(isnan(result(a, "R_q")));
    assert_near(b, "R_q", 0, 0);
    assert_true(isnan(result(b, "ratio")));
    assert_fails(qsae_metric_update_drift(a, NULL, &x_r, &x_q, &x_r, &x_q), QSAE_EINVAL,
                 "every update");
    assert_fails(qsae_metric_update_drift(a, NULL, &x_r, &x_q, &x_r, NULL), QSAE_EINVAL, "both");
    assert_fails(qsae_metric_update_drift(a, NULL, &x_r, &narrow, NULL, NULL), QSAE_EMISMATCH,
                 "x_q: expected rows of width 11");
    qsae_metric_close(&a);
    qsae_metric_close(&b);
    qsae_context_close(&ctx);
}

/* nll and KL from logits against direct f64 sums. */
static void test_logits(void **state)
{
    enum { ROWS = 50, VOCAB = 77 };
    static float r[ROWS * VOCAB], q[ROWS * VOCAB];
    int32_t label[ROWS];
    double kl = 0, nll = 0, n = 0;
    uint32_t seed = 5;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (int i = 0; i < ROWS * VOCAB; i++) {
        r[i] = 6 * next_float(&seed);
        q[i] = r[i] + next_float(&seed);
    }
    r[3] = -INFINITY; /* a token that cannot follow */
    q[3] = -INFINITY;
    for (int t = 0; t < ROWS; t++) {
        double sr = 0, sq = 0, sum = 0;
        label[t] = t % 10 == 9 ? -100 : (int32_t)(4 + next_random(&seed) % (VOCAB - 4));
        for (int i = 0; i < VOCAB; i++) {
            sr += exp(r[t * VOCAB + i]);
            sq += exp(q[t * VOCAB + i]);
        }
        for (int i = 0; i < VOCAB; i++) {
            const double p = exp(r[t * VOCAB + i]) / sr;
            const double d = (double)r[t * VOCAB + i] - q[t * VOCAB + i];
            sum += p > 0 ? p * (d - log(sr) + log(sq)) : 0;
        }
        if (label[t] < 0)
            continue;
        kl += sum;
        nll += log(sr) - r[t * VOCAB + label[t]];
        n++;
    }
    qsae_rows lr = { sizeof lr, r, ROWS, VOCAB, VOCAB, QSAE_F32, 0 }, lq = lr, less = lr;
    lq.data = q;
    less.n_cols--;
    qsae_metric *d = open_kind(ctx, 1, NULL), *c = open_kind(ctx, 0, NULL);
    assert_ok(qsae_metric_update_divergence_logits(d, NULL, &lr, &lq, label));
    assert_ok(qsae_metric_update_cross_entropy_logits(c, NULL, &lr, label));
    assert_near(d, "tokens", n, 0);
    assert_near(d, "kl_mean", kl / n, 1e-6);
    assert_near(d, "ce_r", nll / n, 1e-6);
    assert_near(c, "ce", result(d, "ce_r"), 1e-14);
    assert_near(c, "predicted", n, 0);
    /* Against itself: exactly nothing. */
    qsae_metric_reset(d);
    assert_ok(qsae_metric_update_divergence_logits(d, NULL, &lr, &lr, label));
    assert_near(d, "kl_max", 0, 0);
    assert_near(d, "dce", 0, 0);
    assert_near(d, "same_top", 1, 0);
    r[VOCAB + 2] = NAN;
    qsae_metric_reset(c);
    assert_ok(qsae_metric_update_cross_entropy_logits(c, NULL, &lr, label));
    assert_near(c, "nonfinite_rows", 1, 0);
    label[0] = VOCAB;
    assert_fails(qsae_metric_update_cross_entropy_logits(c, NULL, &lr, label), QSAE_EINVAL,
                 "label");
    label[0] = 5;
    assert_fails(qsae_metric_update_divergence_logits(d, NULL, &lr, &less, label), QSAE_EMISMATCH,
                 "logits_q");
    qsae_metric_close(&c);
    qsae_metric_close(&d);
    qsae_context_close(&ctx);
}

/* Beyond the budget a sample is kept, its size is told, and it is no bad one. */
static void test_sample(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae_metric_settings s = test_settings();
    make_rows(11);
    s.memory = 1000 * 32; /* records of divergence are 32 bytes */
    qsae_metric *few = open_kind(ctx, 1, &s), *all = open_kind(ctx, 1, NULL);
    assert_ok(feed(few, 0, N, 0));
    assert_ok(feed(all, 0, N, 0));
    assert_near(all, "quantile_sample", result(all, "tokens"), 0);
    assert_in_range((int64_t)result(few, "quantile_sample"), 500, 1000);
    assert_near(few, "kl_median", result(all, "kl_median"), 0.1);
    assert_near(few, "kl_max", result(all, "kl_max"), 0);
    qsae_metric_close(&few);
    qsae_metric_close(&all);
    qsae_context_close(&ctx);
}

/* Out of memory at every point of an update, a merge and a load in turn: nothing is changed. */
static void test_memory(void **state)
{
    int64_t calls_left = INT64_MAX;
    qsae_context_settings c;
    qsae_context *ctx = NULL, *plain = open_context("c", 1);
    const qsae_metric_settings s = test_settings();
    (void)state;
    qsae_context_settings_init(&c, sizeof c);
    c.threads = 1;
    c.alloc = failing_alloc;
    c.free = plain_free;
    c.alloc_cookie = &calls_left;
    assert_ok(qsae_context_open(&c, &ctx));
    make_rows(12);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *want = open_kind(plain, kind, &s), *other = open_kind(plain, kind, &s);
        qsae_metric *m = open_kind(ctx, kind, &s);
        qsae__strbuf saved;
        qsae__strbuf_init(&saved, plain);
        assert_ok(feed(want, 0, 700, 0));
        assert_ok(feed(other, 1900, 777, 0));
        assert_ok(feed(m, 0, 700, 0));
        for (int call = 0; call < 3; call++) {
            int32_t st = QSAE_ENOMEM;
            write_state(want, &saved);
            for (int64_t n = 0; st != QSAE_OK; n++) {
                calls_left = n;
                st = call == 0   ? feed(m, 700, 1100, 0)
                     : call == 1 ? qsae_metric_merge(m, other)
                                 : qsae__metric_read(m, saved.data, (size_t)saved.size);
                calls_left = INT64_MAX;
                assert_true(st == QSAE_OK || st == QSAE_ENOMEM);
                if (st != QSAE_OK)
                    assert_same_state(want, m);
            }
            if (call == 0)
                assert_ok(feed(want, 700, 1100, 0));
            else if (call == 1)
                assert_ok(qsae_metric_merge(want, other));
            assert_same_state(want, m);
        }
        qsae__strbuf_free(&saved);
        qsae_metric_close(&want);
        qsae_metric_close(&other);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
    qsae_context_close(&plain);
}

const struct CMUnitTest input_tests[] = {
    cmocka_unit_test(test_nonfinite), cmocka_unit_test(test_arguments),
    cmocka_unit_test(test_drift_without_sae), cmocka_unit_test(test_logits),
    cmocka_unit_test(test_sample),    cmocka_unit_test(test_memory),
};
const size_t n_input_tests = sizeof input_tests / sizeof input_tests[0];
