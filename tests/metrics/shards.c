/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every kind of metric in parts: merged in any order, in a line or as a tree, they have the bytes
 * of the one that saw everything. QSAE_LONG_TESTS=1: every number of parts from 1 to 1,024, or 1 and
 * every QSAE_SHARDS_STEP-th from there.
 */
#include "metrics_test.h"

#include "metrics/llama.h"
#include "metrics/mass.h"

#define SHARDS_MOST 1024
#define ALL_KINDS 7      /* the five public ones, llama_cpp, mass */
#define BATCH_ROWS 65    /* divides no leaf: sums are kept apart at its multiples */

/* Tokens before which the sums can be told: within a part of a leaf, at its end, at a leaf's. */
static const int64_t cuts[] = { 100, 1001, 1024, 1300, 3000, 30001 };

static qsae_metric *open_any(qsae_context *ctx, int kind)
{
    qsae_metric_settings s = test_settings();
    qsae_metric *m = NULL;
    s.batch_rows = BATCH_ROWS;
    s.memory = (uint64_t)80 << 10; /* a sample, which thins out */
    if (kind < KINDS)
        m = open_kind(ctx, kind, &s);
    else if (kind == KINDS)
        assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &m));
    else
        assert_ok(qsae__mass_open(ctx, F, &s, &m));
    assert_ok(qsae__metric_set_cuts(m, cuts, sizeof cuts / sizeof cuts[0]));
    return m;
}

/* Tokens [from, to) of the rows, which repeat. */
static void feed_range(qsae_metric *m, int kind, int64_t from, int64_t to)
{
    for (int64_t at = from; at < to;) {
        const int64_t row = at % N, n = to - at < N - row ? to - at : N - row;
        const qsae_positions where = { .struct_size = sizeof where, .first_token = at, .n_rows = n };
        const qsae_sparse_rows r = { sizeof r, n, rows.ptr_r + row, rows.index_r, rows.value_r };
        qsae__llama_token tokens[N];
        for (int64_t i = 0; i < n && kind == KINDS; i++)
            tokens[i] = (qsae__llama_token){
                .kl = (double)rows.kl[row + i], .nll = rows.nll_q[row + i],
                .nll_base = rows.nll_r[row + i],
                .same = isnan(rows.nll_r[row + i]) ? -1 : (row + i) % 2,
            };
        if (kind < KINDS)
            assert_ok(feed(m, row, n, at - row));
        else if (kind == KINDS)
            assert_ok(qsae__llama_add(m, &where, n, tokens));
        else
            assert_ok(qsae__mass_update(m, &where, &r));
        at += n;
    }
}

/* m[0] becomes the sum of all, m[1..n - 1] are closed. line: one after another into the first;
 * else pairs of pairs. */
static void merge_all(qsae_metric **m, int64_t n, bool line, uint32_t *seed)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = next_random(seed) % (uint32_t)(i + 1);
        qsae_metric *const swap = m[i];
        m[i] = m[k];
        m[k] = swap;
    }
    for (int64_t i = 1; i < n && line; i++) {
        assert_ok(qsae_metric_merge(m[0], m[i]));
        qsae_metric_close(&m[i]);
    }
    for (int64_t left = n; left > 1 && !line; left = (left + 1) / 2)
        for (int64_t i = 0; 2 * i < left; i++) {
            qsae_metric *a = m[2 * i], *b = 2 * i + 1 < left ? m[2 * i + 1] : NULL;
            if (b)
                assert_ok(qsae_metric_merge(a, b));
            qsae_metric_close(&b);
            m[i] = a;
        }
}

/* Parts [0, n) of the text but one, merged; the state goes to b. */
static void write_gapped(qsae_context *ctx, int kind, int64_t units, int64_t n, bool line,
                         uint32_t *seed, qsae__strbuf *b)
{
    static qsae_metric *parts[SHARDS_MOST];
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == n / 3)
            continue;
        parts[k] = open_any(ctx, kind);
        feed_range(parts[k++], kind, i * units / n * BATCH_ROWS, (i + 1) * units / n * BATCH_ROWS);
    }
    merge_all(parts, k, line, seed);
    write_state(parts[0], b);
    qsae_metric_close(&parts[0]);
}

/* Any set of parts has one state, whatever their order. */
static void test_gapped(void **state)
{
    static const int64_t counts[] = { 2, 3, 5, 13, 40 };
    qsae_context *ctx = open_context(NULL, 1);
    uint32_t seed = 7;
    (void)state;
    make_rows(12);
    for (int kind = 0; kind < ALL_KINDS; kind++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            qsae__strbuf a, b;
            qsae__strbuf_init(&a, ctx);
            qsae__strbuf_init(&b, ctx);
            write_gapped(ctx, kind, 60, counts[c], true, &seed, &a);
            for (int again = 0; again < 3; again++) {
                write_gapped(ctx, kind, 60, counts[c], again == 0, &seed, &b);
                if (a.size != b.size || memcmp(a.data, b.data, (size_t)a.size) != 0)
                    fail_msg("kind %d, %lld parts but one: another state", kind,
                             (long long)counts[c]);
            }
            qsae__strbuf_free(&a);
            qsae__strbuf_free(&b);
        }
    qsae_context_close(&ctx);
}

static void test_parts(void **state)
{
    static qsae_metric *parts[SHARDS_MOST];
    qsae_context *ctx = open_context(NULL, 1);
    const int64_t units = full_length() ? SHARDS_MOST : 60, cut = qsae__metric_cut(BATCH_ROWS);
    const char *const every = getenv("QSAE_SHARDS_STEP");
    const int64_t step = every && atoll(every) > 0 ? atoll(every) : 1;
    uint32_t seed = 99;
    int64_t merges = 0;
    (void)state;
    make_rows(12);
    assert_int_equal(cut, BATCH_ROWS);
    for (int kind = 0; kind < ALL_KINDS; kind++) {
        qsae__strbuf want, have;
        qsae__strbuf_init(&want, ctx);
        qsae__strbuf_init(&have, ctx);
        qsae_metric *whole = open_any(ctx, kind);
        feed_range(whole, kind, 0, units * cut);
        write_state(whole, &want);
        qsae_metric_close(&whole);
        for (int64_t n = 1; n <= units; n += full_length() ? step : n < 3 ? 1 : 8) {
            for (int64_t i = 0; i < n; i++) {
                parts[i] = open_any(ctx, kind);
                feed_range(parts[i], kind, i * units / n * cut, (i + 1) * units / n * cut);
            }
            merge_all(parts, n, n % 37 == 11, &seed);
            merges += n - 1;
            write_state(parts[0], &have);
            qsae_metric_close(&parts[0]);
            if (have.size != want.size || memcmp(have.data, want.data, (size_t)want.size) != 0)
                fail_msg("kind %d in %lld parts: another state", kind, (long long)n);
        }
        qsae__strbuf_free(&want);
        qsae__strbuf_free(&have);
        if (full_length())
            print_message("kind %d: 1 to %lld parts\n", kind, (long long)units);
    }
    print_message("%lld tokens in 1 to %lld parts: %lld merges\n", (long long)(units * cut),
                  (long long)units, (long long)merges);
    qsae_context_close(&ctx);
}

const struct CMUnitTest shard_tests[] = { cmocka_unit_test(test_parts),
                                          cmocka_unit_test(test_gapped) };
const size_t n_shard_tests = sizeof shard_tests / sizeof shard_tests[0];
