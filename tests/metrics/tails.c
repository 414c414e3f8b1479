/* SPDX-License-Identifier: BSD-2-Clause */
/* What is kept of single tokens: quantiles and tail means from the histogram, the worst tokens, a
 * feature's mass; the same bytes however tokens come in. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "metrics/mass.h"
#include "metrics/metrics.h"
#include "metrics/tails.h"

#define TOKENS 20000
#define FEATURES 12

static float nll_r[TOKENS], nll_q[TOKENS], kl[TOKENS];
static int64_t document[TOKENS];
static double sorted[TOKENS];

/* Standard normal, nearly: a sum of twelve. */
static double normal(uint32_t *s)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += (double)(next_random(s) >> 8) / (1 << 24);
    return sum - 6;
}

/* Ties, zeros, tokens without a label, values over many orders of magnitude. */
static void make_tokens(uint32_t seed)
{
    uint32_t s = seed;
    for (int64_t i = 0; i < TOKENS; i++) {
        const bool tie = next_random(&s) % 9 == 0;
        nll_r[i] = i % 512 == 511 ? NAN : (float)exp(normal(&s));
        nll_q[i] = tie ? nll_r[i] + 0.5f : nll_r[i] + (float)(0.05 * normal(&s) *
                                                              exp(2 * normal(&s)));
        kl[i] = i % 50 == 0 ? 0 : (float)exp(3 * normal(&s) - 6);
        document[i] = i / 731;
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void close_to(const char *what, double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want) + 1e-9))
        fail_msg("%s: expected %.9g within %g, found %.9g", what, want, relative, got);
}

static void check_tail(const qsae__tail *got, const qsae__tail *want)
{
    close_to("median", got->median, want->median, 0.0101);
    close_to("q90", got->q90, want->q90, 0.0101);
    close_to("q95", got->q95, want->q95, 0.0101);
    close_to("q99", got->q99, want->q99, 0.0101);
    close_to("q999", got->q999, want->q999, 0.0101);
    close_to("cvar_1pct", got->cvar_1pct, want->cvar_1pct, 0.0203);
    close_to("cvar_0p1pct", got->cvar_0p1pct, want->cvar_0p1pct, 0.0203);
    close_to("share_1pct", got->share_1pct, want->share_1pct, 0.0203);
}

static void test_histogram(void **state)
{
    (void)state;
    uint64_t *const words = calloc(QSAE__HISTOGRAM, sizeof *words);
    assert_non_null(words);
    uint32_t s = 5;
    for (int round = 0; round < 40; round++) {
        const int64_t n = 1 + (round < 5 ? round : (int64_t)(next_random(&s) % TOKENS));
        const double spread = (round % 4) + 0.1, shift = 6 * normal(&s);
        qsae__tail exact, got;
        memset(words, 0, QSAE__HISTOGRAM * sizeof *words);
        for (int64_t i = 0; i < n; i++) {
            const double size = fmin(exp(spread * normal(&s) + shift), 1e6);
            const bool negative = round % 3 == 1 && next_random(&s) % 4 == 0;
            const float v = i % 97 == 3 ? 0.0f : (float)(negative ? -size : size);
            sorted[i] = v;
            qsae__histogram_add(words, v);
        }
        qsort(sorted, (size_t)n, sizeof *sorted, ascending);
        qsae__tail_sorted(sorted, n, &exact);
        qsae__histogram_tail(words, sorted[n - 1], &got);
        if (round % 3 == 1) { /* parts of either sign cancel in the share */
            got.share_1pct = exact.share_1pct;
            got.cvar_1pct = exact.cvar_1pct;
        }
        check_tail(&got, &exact);
    }
    free(words);
}

/* Neither small, nor large, nor odd values leave the array. */
static void test_histogram_edges(void **state)
{
    static const float values[] = { 0, -0.0f, 1e-45f, 9.31322574615478515625e-10f, 1e-9f, 1048576,
                                    1e38f, -1e38f, -1e-9f, 1, -1 };
    (void)state;
    uint64_t *const words = calloc(QSAE__HISTOGRAM, sizeof *words);
    qsae__tail tail;
    assert_non_null(words);
    qsae__histogram_tail(words, NAN, &tail);
    assert_true(isnan(tail.median) && isnan(tail.cvar_1pct) && isnan(tail.share_1pct));
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        qsae__histogram_add(words, values[i]);
    assert_int_equal(words[0], 3);
    for (int64_t i = 1; i < QSAE__HISTOGRAM; i += 2)
        n += words[i];
    assert_int_equal(n + words[0], sizeof values / sizeof values[0]);
    free(words);
}

static qsae_metric *open_divergence(qsae_context *ctx, uint64_t memory)
{
    qsae_metric_settings s;
    qsae_metric *m;
    qsae_metric_settings_init(&s, sizeof s);
    s.memory = memory;
    assert_ok(qsae_metric_open_divergence(ctx, &s, &m));
    return m;
}

static void feed(qsae_metric *m, int64_t first, int64_t n)
{
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first,
                                .document = document + first, .n_rows = n };
    const qsae_divergence_rows d = { .struct_size = sizeof d, .n = n, .nll_r = nll_r + first,
                                     .nll_q = nll_q + first, .kl = kl + first };
    assert_ok(qsae_metric_update_divergence(m, &at, &d));
}

static double result(qsae_metric *m, const char *name)
{
    double v;
    assert_ok(qsae_metric_get(m, name, &v));
    return v;
}

static void assert_same(qsae_context *ctx, const qsae_metric *a, const qsae_metric *b)
{
    qsae__strbuf s[2];
    for (int i = 0; i < 2; i++) {
        qsae__strbuf_init(&s[i], ctx);
        qsae__metric_write(i ? b : a, &s[i]);
        assert_int_equal(s[i].status, QSAE_OK);
    }
    assert_int_equal(s[0].size, s[1].size);
    assert_memory_equal(s[0].data, s[1].data, (size_t)s[0].size);
    qsae__strbuf_free(&s[0]);
    qsae__strbuf_free(&s[1]);
}

/* Beyond the memory: figures of all tokens within the stated error, those of the worst exact. */
static void test_beyond_memory(void **state)
{
    static const char *const names[] = { "kl_median", "kl_q90", "kl_q95", "kl_q99", "kl_q999",
                                         "dnll_q90", "dnll_q95", "dnll_q99", "dnll_q999",
                                         "kl_cvar_1pct", "kl_cvar_0p1pct", "kl_share_worst_1pct",
                                         "dnll_cvar_1pct", "dnll_cvar_0p1pct" };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    make_tokens(1);
    qsae_metric *few = open_divergence(ctx, 65536), *all = open_divergence(ctx, 0);
    feed(few, 0, TOKENS);
    feed(all, 0, TOKENS);
    close_to("error", result(all, "quantile_error"), 0, 0);
    close_to("error", result(few, "quantile_error"), 0.01, 0);
    assert_true(result(few, "quantile_sample") <= 2048);
    assert_true(result(all, "quantile_sample") == result(all, "tokens"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        close_to(names[i], result(few, names[i]), result(all, names[i]), 0.0101);
    assert_int_equal(qsae__divergence_worst(few), QSAE__WORST);
    for (int64_t i = 0; i < QSAE__WORST; i++) {
        const qsae__token a = qsae__divergence_worst_token(few, i),
                          b = qsae__divergence_worst_token(all, i);
        assert_int_equal(a.token, b.token);
        assert_true(a.nll_q == nll_q[a.token] && a.nll_r == nll_r[a.token] &&
                    a.kl == kl[a.token] && a.top_r == -1 && isnan(a.entropy_r));
    }
    qsae_metric_close(&few);
    qsae_metric_close(&all);
    qsae_context_close(&ctx);
}

/* Larger rises first, of equal ones the earlier token; against all of them. */
static void test_worst(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    for (uint32_t seed = 2; seed < 6; seed++) {
        make_tokens(seed);
        for (int64_t i = 0; seed == 5 && i < TOKENS; i++)
            nll_q[i] = nll_r[i] + (float)(i % 3); /* nothing but ties */
        qsae_metric *m = open_divergence(ctx, 0);
        feed(m, 0, TOKENS);
        double last = INFINITY;
        int64_t before = -1;
        for (int64_t i = 0; i < qsae__divergence_worst(m); i++) {
            int64_t want = -1;
            double most = -INFINITY;
            for (int64_t t = 0; t < TOKENS; t++) {
                const double d = (double)nll_q[t] - (double)nll_r[t];
                const bool left = d < last || (d == last && t > before);
                if (left && d > most) {
                    most = d;
                    want = t;
                }
            }
            assert_int_equal(qsae__divergence_worst_token(m, i).token, want);
            last = most;
            before = want;
        }
        assert_int_equal(qsae__divergence_worst(m), QSAE__WORST);
        close_to("dnll_max", result(m, "dnll_max"),
                 (double)nll_q[qsae__divergence_worst_token(m, 0).token] -
                     (double)nll_r[qsae__divergence_worst_token(m, 0).token], 0);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

/* Shards in random order, saved and loaded in between: the bytes of one run. */
static void test_order(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    uint32_t s = 77;
    make_tokens(9);
    for (int round = 0; round < 12; round++) {
        const uint64_t memory = round % 2 ? 65536 : 200000;
        const int64_t shards = 1 + next_random(&s) % 16, leaves = TOKENS / 256;
        qsae_metric *all = open_divergence(ctx, memory), *m = open_divergence(ctx, memory);
        feed(all, 0, TOKENS);
        int64_t order[16];
        for (int64_t i = 0; i < shards; i++) {
            const int64_t j = next_random(&s) % (uint32_t)(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        for (int64_t i = 0; i < shards; i++) {
            const int64_t a = leaves * order[i] / shards * 256,
                          b = order[i] + 1 == shards ? TOKENS
                                                     : leaves * (order[i] + 1) / shards * 256;
            qsae_metric *shard = open_divergence(ctx, memory);
            qsae_metric *loaded = open_divergence(ctx, memory);
            qsae__strbuf bytes;
            feed(shard, a, (b - a) / 2);
            feed(shard, a + (b - a) / 2, b - a - (b - a) / 2);
            qsae__strbuf_init(&bytes, ctx);
            qsae__metric_write(shard, &bytes);
            assert_int_equal(bytes.status, QSAE_OK);
            assert_ok(qsae__metric_read(loaded, bytes.data, (size_t)bytes.size));
            assert_ok(qsae_metric_merge(m, loaded));
            qsae__strbuf_free(&bytes);
            qsae_metric_close(&shard);
            qsae_metric_close(&loaded);
        }
        assert_same(ctx, all, m);
        qsae_metric_reset(m);
        feed(m, 0, TOKENS);
        assert_same(ctx, all, m);
        qsae_metric_close(&all);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

static void test_documents(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae__document_sums *list;
    int64_t n;
    double tokens = 0, rise = 0;
    make_tokens(3);
    qsae_metric *m = open_divergence(ctx, 0);
    feed(m, 0, TOKENS);
    assert_ok(qsae__divergence_documents(m, &list, &n));
    assert_int_equal(n, (TOKENS + 730) / 731);
    for (int64_t i = 0; i < n; i++) {
        double want = 0;
        for (int64_t t = i * 731; t < (i + 1) * 731 && t < TOKENS; t++)
            want += isnan(nll_r[t]) ? 0 : kl[t];
        assert_int_equal(list[i].document, i);
        close_to("kl", list[i].kl, want, 1e-12);
        tokens += list[i].tokens;
        rise += list[i].nll_q - list[i].nll_r;
    }
    close_to("tokens", tokens, result(m, "tokens"), 0);
    close_to("dce", rise / tokens, result(m, "dce"), 1e-9);
    qsae__free(ctx, list);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

/* Sums of sizes to the last bit of their unit, whatever the order. */
static void test_mass(void **state)
{
    enum { ROWS = 600 };
    static int64_t indptr[ROWS + 1];
    static int32_t indices[ROWS * FEATURES];
    static float values[ROWS * FEATURES];
    (void)state;
    double want[FEATURES] = { 0 }, got[FEATURES];
    uint32_t s = 4;
    int64_t n = 0;
    for (int64_t t = 0; t < ROWS; t++) {
        for (int32_t f = 0; f < FEATURES; f++) {
            if (next_random(&s) % 3)
                continue;
            indices[n] = f;
            values[n] = (float)((f % 5 ? 1 : -1) * exp(4 * normal(&s)));
            want[f] += fabs((double)values[n++]);
        }
        indptr[t + 1] = n;
    }
    qsae_context *ctx = open_context("c", 1);
    qsae_metric *a, *b;
    assert_ok(qsae__mass_open(ctx, FEATURES, NULL, &a));
    assert_ok(qsae__mass_open(ctx, FEATURES, NULL, &b));
    for (int64_t i = 0; i < 3; i++) {
        const int64_t at = (i * 2 + 1) % 3 * 200;
        const qsae_positions p = { .struct_size = sizeof p, .first_token = at, .n_rows = 200 };
        const qsae_sparse_rows part = { sizeof part, 200, indptr + at, indices, values };
        assert_ok(qsae__mass_update(b, &p, &part));
    }
    const qsae_sparse_rows all = { sizeof all, ROWS, indptr, indices, values };
    assert_ok(qsae__mass_update(a, NULL, &all));
    qsae__mass_get(a, got);
    for (int64_t f = 0; f < FEATURES; f++)
        close_to("mass", got[f], want[f], 1e-9);
    qsae__mass_get(b, want);
    assert_memory_equal(got, want, sizeof got);
    indices[0] = FEATURES;
    assert_fails(qsae__mass_update(a, NULL, &all), QSAE_EINVAL, "acts");
    qsae_metric_close(&a);
    qsae_metric_close(&b);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histogram), cmocka_unit_test(test_histogram_edges),
        cmocka_unit_test(test_beyond_memory), cmocka_unit_test(test_worst),
        cmocka_unit_test(test_order), cmocka_unit_test(test_documents),
        cmocka_unit_test(test_mass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
