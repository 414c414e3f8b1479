/* SPDX-License-Identifier: BSD-2-Clause */
/* Cuts, order, shards and threads change no byte of the state and no value. */
#include "metrics_test.h"

static qsae_metric *whole(qsae_context *ctx, int kind, const qsae_metric_settings *s)
{
    qsae_metric *m = open_kind(ctx, kind, s);
    assert_ok(feed(m, 0, N, 0));
    return m;
}

static void check_cuts(qsae_context *ctx, int kind, const qsae_metric_settings *s,
                       qsae_metric *want)
{
    uint32_t seed = 17;
    for (int64_t longest = 1; longest <= 2048; longest *= longest < 8 ? 7 : 4) {
        qsae_metric *m = open_kind(ctx, kind, s);
        for (int64_t at = 0; at < N;) {
            int64_t n = longest == 1 ? 1 : next_random(&seed) % longest;
            n = n < N - at ? n : N - at;
            assert_ok(feed(m, at, n, 0));
            at += n;
        }
        assert_same_state(want, m);
        qsae_metric_close(&m);
    }
}

static void test_cuts(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    make_rows(1);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *m = whole(ctx, kind, &s);
        check_cuts(ctx, kind, &s, m);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

static void test_threads(void **state)
{
    (void)state;
    const qsae_metric_settings s = test_settings();
    make_rows(2);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_context *one = open_context("c", 1), *four = open_context(NULL, 4);
        qsae_metric *a = whole(one, kind, &s), *b = whole(four, kind, &s);
        assert_same_state(a, b);
        qsae_metric_close(&a);
        qsae_metric_close(&b);
        qsae_context_close(&one);
        qsae_context_close(&four);
    }
}

/* Updates in any order, at leaf boundaries. */
static void check_shuffled(qsae_context *ctx, int kind, const qsae_metric_settings *s,
                           qsae_metric *want, uint32_t seed)
{
    int64_t leaf[(N + QSAE_METRIC_LEAF - 1) / QSAE_METRIC_LEAF];
    const int64_t n = sizeof leaf / sizeof leaf[0];
    for (int64_t i = 0; i < n; i++)
        leaf[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = next_random(&seed) % (i + 1), t = leaf[i];
        leaf[i] = leaf[j];
        leaf[j] = t;
    }
    qsae_metric *m = open_kind(ctx, kind, s), *shard[4];
    for (int64_t i = 0; i < 4; i++)
        shard[i] = open_kind(ctx, kind, s);
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = leaf[i] * QSAE_METRIC_LEAF;
        const int64_t count = N - first < QSAE_METRIC_LEAF ? N - first : QSAE_METRIC_LEAF;
        assert_ok(feed(m, first, count, 0));
        assert_ok(feed(shard[next_random(&seed) % 4], first, count, 0));
    }
    assert_same_state(want, m);
    for (int64_t i = 1; i < 4; i++)
        assert_ok(qsae_metric_merge(shard[0], shard[i]));
    assert_same_state(want, shard[0]);
    assert_fails(qsae_metric_merge(shard[0], m), QSAE_EMISMATCH, "overlap");
    assert_same_state(want, shard[0]);
    for (int64_t i = 0; i < 4; i++)
        qsae_metric_close(&shard[i]);
    qsae_metric_close(&m);
}

static void test_shards(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric_settings s = test_settings();
    make_rows(3);
    for (int kind = 0; kind < KINDS; kind++)
        for (uint32_t round = 1; round <= 3; round++) {
            s.memory = round == 3 ? 20000 : 0; /* sampled */
            qsae_metric *m = whole(ctx, kind, &s);
            check_shuffled(ctx, kind, &s, m, round);
            qsae_metric_close(&m);
        }
    qsae_context_close(&ctx);
}

/* Shards cut inside a leaf merge to the same bytes in any order, and to nearly the same values. */
static void test_cut_leaves(void **state)
{
    static const int order[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0,
                                                                                           1 },
                                     { 2, 1, 0 } };
    static const int64_t cut[4] = { 0, 1000, 1100, N };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    make_rows(4);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *first = NULL, *all = whole(ctx, kind, &s);
        for (int o = 0; o < 6; o++) {
            qsae_metric *m = open_kind(ctx, kind, &s);
            for (int i = 0; i < 3; i++) {
                const int p = order[o][i];
                qsae_metric *shard = open_kind(ctx, kind, &s);
                assert_ok(feed(shard, cut[p], cut[p + 1] - cut[p], 0));
                assert_ok(qsae_metric_merge(m, shard));
                qsae_metric_close(&shard);
            }
            if (first) {
                assert_same_state(first, m);
                qsae_metric_close(&m);
            } else {
                first = m;
            }
        }
        for (int32_t i = 0; i < qsae_metric_count(all); i++) {
            qsae_value v = { .struct_size = sizeof v }, w = v;
            assert_ok(qsae_metric_value(all, i, &v));
            assert_ok(qsae_metric_value(first, i, &w));
            assert_true((isnan(v.value) && isnan(w.value)) ||
                        fabs(v.value - w.value) <= 1e-12 * fabs(v.value));
        }
        qsae_metric_close(&first);
        qsae_metric_close(&all);
    }
    qsae_context_close(&ctx);
}

static void test_gaps(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    make_rows(5);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *m = open_kind(ctx, kind, &s), *other = open_kind(ctx, kind, &s);
        assert_ok(feed(m, 0, 300, 5000));
        assert_near(m, "gap_tokens", 0, 0);
        assert_ok(feed(m, 900, 300, 5000));
        assert_near(m, "gap_tokens", 600, 0);
        assert_fails(feed(m, 299, 2, 5000), QSAE_EMISMATCH, "5299..5300");
        assert_ok(feed(m, 300, 0, 5000));
        assert_ok(feed(m, 300, 600, 5000));
        assert_near(m, "gap_tokens", 0, 0);
        /* A metric that was reset is like a new one. */
        qsae_metric_reset(m);
        assert_same_state(m, other);
        assert_ok(feed(m, 0, N, 0));
        assert_ok(feed(other, 0, N, 0));
        assert_same_state(m, other);
        qsae_metric_close(&m);
        qsae_metric_close(&other);
    }
    qsae_context_close(&ctx);
}

static void test_mismatch(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    const qsae_metric_settings s = test_settings();
    const struct {
        const char *part;
        qsae_metric_settings s;
    } cases[] = {
        { "top", { sizeof s, BATCH, 0, "test", 0, 6, 0, 0, 2, 0 } }, /* of kind features alone, */
        { "prompt_tokens", { sizeof s, BATCH, 0, "test", 0, 7, 16, 0, 2, 0 } }, /* and this */
        { "documents_per_block", { sizeof s, BATCH, 0, "test", 0, 7, 0, 0, 3, 0 } }, /* and this */
        { "batch_rows", { sizeof s, 601, 0, "test", 0, 7, 0, 0, 2, 0 } },
        { "memory", { sizeof s, BATCH, 1000, "test", 0, 7, 0, 0, 2, 0 } },
        { "fingerprint", { sizeof s, BATCH, 0, "Test", 0, 7, 0, 0, 2, 0 } },
        { "active_rate", { sizeof s, BATCH, 0, "test", 0.01, 7, 0, 0, 2, 0 } },
    };
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *m = open_kind(ctx, kind, &s);
        for (size_t i = kind == 3 ? 0 : 3; i < sizeof cases / sizeof cases[0]; i++) {
            qsae_metric *other = open_kind(ctx, kind, &cases[i].s);
            assert_fails(qsae_metric_merge(m, other), QSAE_EMISMATCH, cases[i].part);
            qsae_metric_close(&other);
        }
        qsae_metric *other = open_kind(ctx, (kind + 1) % KINDS, &s);
        assert_fails(qsae_metric_merge(m, other), QSAE_EMISMATCH, "kind");
        assert_fails(qsae_metric_merge(m, NULL), QSAE_EINVAL, "NULL");
        qsae_metric_close(&other);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

/* Sums before a token that lies inside a leaf and inside a shard: as of one process, whatever came
 * first. */
static void test_cut_in_shard(void **state)
{
    enum { ROWS = 192, UNIT = 4 * ROWS, CUT = 7 * ROWS, SHARDS = 4 };
    static const int64_t cuts[] = { CUT };
    static const int order[3][SHARDS] = { { 0, 1, 2, 3 }, { 3, 1, 2, 0 }, { 2, 0, 3, 1 } };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric_settings s = test_settings();
    s.batch_rows = ROWS;
    assert_int_equal(qsae__metric_cut(ROWS), UNIT);
    make_rows(5);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *all = open_kind(ctx, kind, &s), *want;
        assert_ok(qsae__metric_set_cuts(all, cuts, 1));
        for (int64_t at = 0; at < SHARDS * UNIT; at += ROWS)
            assert_ok(feed(all, at, ROWS, 0));
        assert_ok(qsae__metric_before(all, CUT, &want));
        for (int o = 0; o < 3; o++) {
            qsae_metric *m = open_kind(ctx, kind, &s), *have;
            assert_ok(qsae__metric_set_cuts(m, cuts, 1));
            for (int i = 0; i < SHARDS; i++) {
                qsae_metric *shard = open_kind(ctx, kind, &s);
                assert_ok(qsae__metric_set_cuts(shard, cuts, 1));
                for (int64_t at = 0; at < UNIT; at += ROWS)
                    assert_ok(feed(shard, order[o][i] * UNIT + at, ROWS, 0));
                assert_ok(qsae_metric_merge(m, shard));
                qsae_metric_close(&shard);
            }
            assert_same_state(all, m);
            assert_ok(qsae__metric_before(m, CUT, &have));
            assert_same_state(want, have);
            qsae_metric_close(&have);
            qsae_metric_close(&m);
        }
        qsae_metric_close(&want);
        qsae_metric_close(&all);
    }
    qsae_context_close(&ctx);
}

const struct CMUnitTest order_tests[] = {
    cmocka_unit_test(test_cuts),       cmocka_unit_test(test_threads),
        cmocka_unit_test(test_shards),
    cmocka_unit_test(test_cut_leaves), cmocka_unit_test(test_cut_in_shard),
        cmocka_unit_test(test_gaps),
    cmocka_unit_test(test_mismatch),
};
const size_t n_order_tests = sizeof order_tests / sizeof order_tests[0];
