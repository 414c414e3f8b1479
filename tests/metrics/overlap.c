/* SPDX-License-Identifier: BSD-2-Clause */
/* Entropies and overlaps of whole logit rows, and their means. */
#include "metrics_test.h"

#define V 700
#define R 9

static int64_t rank_of(const float *z, int64_t c)
{
    int64_t rank = 0;
    for (int64_t i = 0; i < V; i++)
        rank += z[i] > z[c] || (z[i] == z[c] && i < c);
    return rank;
}

static double entropy_of(const float *z)
{
    double sum = 0, h = 0;
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)z[i]);
    for (int64_t i = 0; i < V; i++)
        h -= z[i] > -INFINITY ? exp((double)z[i]) / sum * ((double)z[i] - log(sum)) : 0;
    return h;
}

/* k equal to the default, other, and so large that lists are not filled. */
static void test_logits(void **state)
{
    static float x[R * V], y[R * V];
    static const int64_t ks[] = { 0, 1, 5, 64 };
    int32_t label[R];
    uint32_t s = 5;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (int i = 0; i < R * V; i++) {
        x[i] = roundf(8 * next_float(&s)) / 2; /* many are equal */
        y[i] = x[i] + roundf(next_float(&s));
        label[i / V] = i / V;
    }
    for (int i = 10; i < V; i++)
        x[i] = -INFINITY; /* row 0 has 10 finite logits, all labels' among them */
    for (size_t n = 0; n < sizeof ks / sizeof ks[0]; n++) {
        const int64_t k = ks[n] ? ks[n] : 10;
        const qsae_rows rx = { sizeof rx, x, R, V, V, QSAE_F32, 0 };
        const qsae_rows ry = { sizeof ry, y, R, V, V, QSAE_F32, 0 };
        double h_r = 0, h_q = 0, share = 0;
        qsae_metric_settings set = test_settings();
        qsae_metric *m = NULL, *other = NULL;
        set.overlap_k = ks[n];
        for (int r = 0; r < R; r++) {
            h_r += entropy_of(x + r * V) / R;
            h_q += entropy_of(y + r * V) / R;
            for (int c = 0; c < V; c++)
                share += rank_of(x + r * V, c) < k && x[r * V + c] > -INFINITY &&
                         rank_of(y + r * V, c) < k ? 1.0 / (double)k / R : 0;
        }
        assert_ok(qsae_metric_open_divergence(ctx, &set, &m));
        assert_ok(qsae_metric_update_divergence_logits(m, NULL, &rx, &ry, label));
        assert_near(m, "entropy_r", h_r, 1e-6);
        assert_near(m, "entropy_q", h_q, 1e-6);
        assert_near(m, "topk_overlap", share, 1e-7);
        /* the state knows k */
        qsae__strbuf b;
        qsae__strbuf_init(&b, ctx);
        write_state(m, &b);
        set.overlap_k = 7;
        assert_ok(qsae_metric_open_divergence(ctx, &set, &other));
        assert_fails(qsae__metric_read(other, b.data, (size_t)b.size), QSAE_EMISMATCH,
                     "overlap_k");
        assert_fails(qsae_metric_merge(other, m), QSAE_EMISMATCH, "overlap_k");
        qsae_metric_close(&other);
        set.overlap_k = ks[n];
        assert_ok(qsae_metric_open_divergence(ctx, &set, &other));
        assert_ok(qsae__metric_read(other, b.data, (size_t)b.size));
        assert_same_state(m, other);
        qsae__strbuf_free(&b);
        qsae_metric_close(&m);
        qsae_metric_close(&other);
    }
    qsae_metric *bad = NULL;
    qsae_metric_settings set = test_settings();
    set.overlap_k = 65;
    assert_fails(qsae_metric_open_divergence(ctx, &set, &bad), QSAE_EINVAL, "overlap_k");
    qsae_context_close(&ctx);
}

/* Means over the rows that count; a value that is not finite leaves its row out. */
static void test_means(void **state)
{
    static float h[N], share[N];
    double sum[3] = { 0 }, n = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric *m = NULL;
    make_rows(3);
    for (int i = 0; i < N; i++) {
        h[i] = i == 50 ? NAN : (float)(i % 13);
        share[i] = (float)(i % 11) / 10;
        if (i == 50 || isnan(rows.nll_r[i]))
            continue;
        n++;
        sum[0] += (double)h[i];
        sum[1] += 2 * (double)h[i];
        sum[2] += (double)share[i];
    }
    static float twice[N];
    for (int i = 0; i < N; i++)
        twice[i] = 2 * h[i];
    const qsae_divergence_rows d = { .struct_size = sizeof d, .n = N, .nll_r = rows.nll_r,
                                     .nll_q = rows.nll_q, .entropy_r = h, .entropy_q = twice,
                                     .topk_overlap = share };
    assert_ok(qsae_metric_open_divergence(ctx, NULL, &m));
    assert_ok(qsae_metric_update_divergence(m, NULL, &d));
    assert_near(m, "nonfinite_rows", 1, 0);
    assert_near(m, "entropy_r", sum[0] / n, 1e-12);
    assert_near(m, "entropy_q", sum[1] / n, 1e-12);
    assert_near(m, "topk_overlap", sum[2] / n, 1e-12);
    assert_true(isnan(result(m, "kl_mean")));
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

const struct CMUnitTest overlap_tests[] = {
    cmocka_unit_test(test_logits),
    cmocka_unit_test(test_means),
};
const size_t n_overlap_tests = sizeof overlap_tests / sizeof overlap_tests[0];
