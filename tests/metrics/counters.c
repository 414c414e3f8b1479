/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counters of every kind of metric that begin at 2^32 - 1 and 2^53 - 1 tokens: a text of so many
 * copies of one leaf, made by doubling its sums as the tree would, written, read and continued.
 */
#include "metrics_test.h"

#include "metrics/llama.h"
#include "metrics/mass.h"
#include "metrics/parts.h"

#define LEAF QSAE_METRIC_LEAF
#define ALL_KINDS 7 /* the five public ones, llama_cpp, mass */
#define HEAD 56     /* of a state: what its checksum does not cover */

static qsae_metric *open_any(qsae_context *ctx, int kind)
{
    qsae_metric_settings s = test_settings();
    qsae_metric *m = NULL;
    s.batch_rows = LEAF;
    s.prompt_tokens = 1;
    if (kind < KINDS)
        return open_kind(ctx, kind, &s);
    if (kind == KINDS)
        assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &m));
    else
        assert_ok(qsae__mass_open(ctx, F, &s, &m));
    return m;
}

/* Rows 0..n - 1 as tokens from `first` on; all of them count. */
static int32_t feed_any(qsae_metric *m, int kind, int64_t first, int64_t n)
{
    static const int64_t document[LEAF];
    qsae__llama_token tokens[LEAF];
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first, .n_rows = n,
                                .document = document };
    const qsae_sparse_rows r = { sizeof r, n, rows.ptr_r, rows.index_r, rows.value_r };
    if (kind < KINDS)
        return feed(m, 0, n, first);
    if (kind > KINDS)
        return qsae__mass_update(m, &at, &r);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (qsae__llama_token){ .kl = (double)rows.kl[i], .nll = rows.nll_q[i],
                                         .nll_base = rows.nll_r[i], .same = i % 2 == 0 };
    return qsae__llama_add(m, &at, n, tokens);
}

static void add_counts(const qsae_metric *m, uint64_t *to, const uint64_t *from)
{
    const int64_t n = m->kind->n_counts ? m->kind->n_counts(m) : 0;
    if (m->kind->add_counts)
        m->kind->add_counts(m, to, from);
    for (int64_t i = 0; !m->kind->add_counts && i < n; i++)
        to[i] += from[i];
}

/* Nodes of 2^k copies of `leaf`, from the largest down to one copy; v and counts are left at the
 * sum of all. */
static void put_copies(qsae__tree *t, const double *leaf, int bits, qsae__combine_fn combine)
{
    double *sums[64];
    int64_t at = 0;
    for (int k = 0; k < bits; k++) {
        sums[k] = qsae__alloc_array(t->ctx, t->width, sizeof(double));
        assert_non_null(sums[k]);
        memcpy(sums[k], k ? sums[k - 1] : leaf, (size_t)t->width * sizeof(double));
        if (k > 0)
            combine(t->metric, sums[k], sums[k - 1]);
    }
    assert_ok(qsae__tree_reserve(t, bits + 1));
    for (int k = bits - 1; k >= 0; k--) {
        const int64_t tokens = (int64_t)LEAF << k;
        qsae__tree_insert(t, (qsae__node){ at, tokens, sums[k] });
        at += tokens;
    }
}

/*
 * A metric that has seen (2^bits - 1) copies of the leaf and its first LEAF - 1 rows once more:
 * LEAF 2^bits - 1 tokens. Documents and single tokens are gone, as where memory was short.
 */
static qsae_metric *long_run(qsae_context *ctx, int kind, int bits)
{
    const int64_t copies = ((int64_t)1 << bits) - 1;
    qsae_metric *m = open_any(ctx, kind), *leaf = open_any(ctx, kind), *part = open_any(ctx, kind);
    qsae__state *const s = &m->state;
    assert_ok(feed_any(leaf, kind, 0, LEAF));
    assert_ok(feed_any(part, kind, 0, LEAF - 1));
    put_copies(&s->tree, leaf->state.tree.node[0].v, bits, m->kind->combine);
    const int64_t n = m->kind->n_counts ? m->kind->n_counts(m) : 0;
    uint64_t *const doubled = calloc((size_t)n + 1, sizeof *doubled),
                   *const twice = calloc((size_t)n + 1, sizeof *twice);
    assert_true(doubled && twice);
    if (n)
        memcpy(doubled, leaf->state.counts, (size_t)n * sizeof *doubled);
    for (int k = 0; k < bits; k++) {
        add_counts(m, s->counts, doubled);
        if (n)
            memcpy(twice, doubled, (size_t)n * sizeof *twice);
        add_counts(m, doubled, twice);
    }
    free(doubled);
    free(twice);
    add_counts(m, s->counts, part->state.counts);
    if (m->kind->batches) {
        const qsae__open_batch *const from = &part->state.batches.open[0];
        const int64_t words = 1 + 2 * m->d;
        put_copies(&s->batches.done, leaf->state.batches.done.node[0].v, bits,
                   qsae__batches_combine);
        qsae__open_batch *const o = qsae__batches_open(m, &s->batches, copies, from->n);
        assert_non_null(o);
        memcpy(o->rows, from->rows, (size_t)(from->n * words) * sizeof *o->rows);
        for (int64_t i = 0; i < from->n; i++)
            o->rows[i * words] += (double)(copies * LEAF);
        o->n = from->n;
        o->seen = from->seen;
    }
    double *const v = qsae__alloc_array(ctx, s->tree.width, sizeof *v);
    assert_non_null(v);
    memcpy(v, part->state.tree.node[0].v, (size_t)s->tree.width * sizeof *v);
    assert_ok(qsae__tree_reserve(&s->tree, 1));
    qsae__tree_insert(&s->tree, (qsae__node){ copies * LEAF, LEAF - 1, v });
    s->sample.stride = (uint64_t)1 << 62;
    qsae_metric_close(&leaf);
    qsae_metric_close(&part);
    return m;
}

/* The metric as its state says: through write and read. */
static qsae_metric *reread(qsae_context *ctx, int kind, qsae_metric *m)
{
    qsae_metric *out = open_any(ctx, kind);
    qsae__strbuf b, again;
    qsae__strbuf_init(&b, ctx);
    qsae__strbuf_init(&again, ctx);
    write_state(m, &b);
    assert_ok(qsae__metric_read(out, b.data, (size_t)b.size));
    write_state(out, &again);
    assert_int_equal(b.size, again.size);
    assert_memory_equal(b.data, again.data, (size_t)b.size);
    qsae__strbuf_free(&b);
    qsae__strbuf_free(&again);
    return out;
}

/* Tokens of the first n rows whose entry for feature f is above 0, in r, in q, in both. */
static void firing(int64_t n, int64_t f, int64_t out[3])
{
    out[0] = out[1] = out[2] = 0;
    for (int64_t i = 0; i < n; i++) {
        const bool r = rows.a_r[i * F + f] > 0, q = rows.a_q[i * F + f] > 0;
        out[0] += r;
        out[1] += q;
        out[2] += r && q;
    }
}

/* Of copies + 1 leaves: every count is that many times the leaf's. */
static void check_features(qsae_metric *m, int kind, double leaves)
{
    static const char *const names[] = { "fire_r", "fire_q", "cofire", "prompts_r", "prompts_q" };
    double values[F];
    int64_t each[3];
    for (size_t k = 0; k < (kind == 3 ? sizeof names / sizeof names[0] : 1); k++) {
        assert_ok(qsae_metric_features(m, kind == 3 ? names[k] : "fire", values, F));
        for (int64_t f = 0; f < F; f++) {
            firing(LEAF, f, each);
            assert_true(values[f] == leaves * (double)each[k % 3]);
        }
    }
}

static void check_divergence(qsae_metric *m, double leaves)
{
    qsae_metric *one = open_any(m->ctx, 1);
    const double small = 1 / leaves;
    assert_ok(feed_any(one, 1, 0, LEAF));
    assert_true(result(m, "right_to_wrong") == leaves * result(one, "right_to_wrong"));
    assert_true(result(m, "wrong_to_right") == leaves * result(one, "wrong_to_right"));
    assert_near(m, "same_top", result(one, "same_top"), 1e-12);
    assert_near(m, "ce_r", result(one, "ce_r"), 1e-12);
    assert_near(m, "kl_mean", result(one, "kl_mean"), 1e-12);
    assert_near(m, "kl_median", result(one, "kl_median"), 0.05); /* buckets of 1%, and between */
    assert_near(m, "dp_rms", result(one, "dp_rms"), 1e-10 + small);
    uint64_t counted = 0;
    for (int64_t i = 0; i < 2 * QSAE__HISTOGRAM; i += QSAE__HISTOGRAM) {
        counted += m->state.counts[i];
        for (int64_t b = 1; b < QSAE__HISTOGRAM; b += 2)
            counted += m->state.counts[i + b];
    }
    assert_true((double)counted == 2 * leaves * LEAF);
    /* Sums of a bucket, up to 2^26 of each value, end at 2^64: what needs them is then not known. */
    const double tail = result(m, "kl_cvar_1pct");
    if (leaves < 0x1p32)
        assert_near(m, "kl_cvar_1pct", result(one, "kl_cvar_1pct"), 0.02);
    else
        assert_true(isnan(tail) && isnan(result(m, "kl_share_worst_1pct")));
    qsae_metric_close(&one);
}

static void check_mass(qsae_metric *m, double leaves)
{
    double mass[F];
    qsae__mass_get(m, mass);
    for (int64_t f = 0; f < F; f++) {
        long double one = 0;
        for (int64_t i = 0; i < LEAF; i++)
            one += floorl(fabsl((long double)rows.a_r[i * F + f]) * 0x1p32L + 0.5L);
        const double want = (double)(one * 0x1p-32L * (long double)leaves);
        assert_true(fabs(mass[f] - want) <= 1e-15 * want);
    }
}

static void check_results(qsae_metric *m, int kind, double leaves)
{
    assert_true(result(m, "tokens") == leaves * LEAF);
    assert_true(result(m, "nonfinite_rows") == 0 && result(m, "gap_tokens") == 0);
    switch (kind) {
    case 0: assert_true(result(m, "predicted") == leaves * LEAF); break;
    case 1: check_divergence(m, leaves); break;
    case 2: /* fall through */
    case 3: check_features(m, kind, leaves); break;
    case 5: assert_true(result(m, "same_top") == 0.5); break;
    case 6: check_mass(m, leaves); break;
    default: break;
    }
}

/* The row that completes the last leaf. */
static int32_t feed_last(qsae_metric *m, int kind, int64_t first)
{
    static const qsae_positions none;
    const int64_t row = LEAF - 1;
    qsae_positions at = none;
    at.struct_size = sizeof at;
    at.first_token = first;
    at.n_rows = 1;
    const qsae_sparse_rows r = { sizeof r, 1, rows.ptr_r + row, rows.index_r, rows.value_r };
    const qsae__llama_token token = { .kl = (double)rows.kl[row], .nll = rows.nll_q[row],
                                      .nll_base = rows.nll_r[row], .same = 0 };
    if (kind < KINDS)
        return feed(m, row, 1, first - row);
    return kind > KINDS ? qsae__mass_update(m, &at, &r) : qsae__llama_add(m, &at, 1, &token);
}

/* bits: 2^32 or 2^53 tokens are LEAF 2^bits. */
static void run_counters(int bits, bool full)
{
    qsae_context *ctx = open_context(NULL, 1);
    const int64_t tokens = (int64_t)LEAF << bits;
    make_rows(9);
    memset(rows.mask, 0, sizeof rows.mask);
    rows.nll_r[127] = rows.nll_r[255] = 1.5f; /* every row has a label */
    rows.nll_q[127] = rows.nll_q[255] = 1.75f;
    for (int kind = 0; kind < ALL_KINDS; kind++) {
        qsae_metric *start = long_run(ctx, kind, bits), *m = reread(ctx, kind, start),
                    *other = open_any(ctx, kind);
        assert_true(result(m, "tokens") == (double)(tokens - 1));
        assert_ok(feed_last(m, kind, tokens - 1));
        check_results(m, kind, (double)tokens / LEAF);
        /* The same by merging; either way round the same bytes. */
        other->state.sample.stride = (uint64_t)1 << 62;
        assert_ok(feed_last(other, kind, tokens - 1));
        qsae_metric *turned = reread(ctx, kind, other);
        assert_ok(qsae_metric_merge(turned, start));
        assert_ok(qsae_metric_merge(start, other));
        assert_same_state(start, turned);
        check_results(start, kind, (double)tokens / LEAF);
        assert_fails(qsae_metric_merge(start, other), QSAE_EMISMATCH, "overlap tokens");
        qsae_metric *back = reread(ctx, kind, m);
        if (full) {
            assert_fails(feed_any(m, kind, tokens, 1), QSAE_EINVAL, "is out of range");
            assert_same_state(back, m);
        } else {
            assert_ok(feed_any(m, kind, tokens, LEAF));
            check_results(m, kind, (double)tokens / LEAF + 1);
        }
        qsae_metric_close(&start);
        qsae_metric_close(&m);
        qsae_metric_close(&other);
        qsae_metric_close(&turned);
        qsae_metric_close(&back);
    }
    qsae_context_close(&ctx);
}

static void test_2_32(void **state)
{
    (void)state;
    run_counters(24, false);
}

static void test_2_53(void **state)
{
    (void)state;
    run_counters(45, true);
}

/* ---- words that end ---- */

/* Sums of masses carry from word to word, in any order, and stop at the largest. */
static void test_mass_carries(void **state)
{
    enum { ROWS = 40 };
    static int64_t indptr[ROWS + 1];
    static int32_t indices[ROWS];
    static float values[ROWS];
    const qsae_metric_settings s = test_settings();
    qsae_context *ctx = open_context(NULL, 1);
    qsae_metric *m = NULL;
    double mass;
    (void)state;
    for (int i = 0; i < ROWS; i++) {
        indptr[i + 1] = i + 1;
        values[i] = i % 2 ? 0x1.fffffep-1f : -0x1.8p-32f;
    }
    const qsae_sparse_rows acts = { sizeof acts, ROWS, indptr, indices, values };
    assert_ok(qsae__mass_open(ctx, 1, &s, &m));
    assert_ok(qsae__mass_update(m, NULL, &acts));
    /* 20 (1 - 2^-24) and 20 times 1.5 units, rounded up */
    const uint64_t sum = 20 * (((uint64_t)1 << 32) - 256) + 20 * 2;
    assert_int_equal(m->state.counts[0], sum & UINT32_MAX);
    assert_int_equal(m->state.counts[1], sum >> 32);
    m->state.counts[0] = UINT32_MAX - 1;
    m->state.counts[1] = UINT64_MAX - 19;
    assert_ok(qsae__mass_update(m, NULL, &acts)); /* 19 whole ones fit, one carry more does not */
    assert_true(m->state.counts[0] == UINT32_MAX && m->state.counts[1] == UINT64_MAX);
    assert_ok(qsae__mass_update(m, NULL, &acts));
    qsae__mass_get(m, &mass);
    assert_true(mass == 0x1p64 && m->state.counts[0] == UINT32_MAX);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

static void test_histogram_ends(void **state)
{
    static uint64_t a[QSAE__HISTOGRAM], b[QSAE__HISTOGRAM];
    qsae__tail tail;
    (void)state;
    qsae__histogram_add(a, 3);
    qsae__histogram_add(b, 3);
    for (int64_t i = 2; i < QSAE__HISTOGRAM; i += 2)
        if (a[i])
            a[i] = UINT64_MAX - b[i];
    qsae__histogram_merge(a, b);
    qsae__histogram_tail(a, 3, &tail); /* 2^64 - 1: it may have been more */
    assert_true(isnan(tail.cvar_1pct) && isnan(tail.share_1pct) && fabs(tail.median - 3) <= 0.03);
    qsae__histogram_merge(a, b);
    for (int64_t i = 2; i < QSAE__HISTOGRAM; i += 2)
        assert_true(a[i] == 0 || a[i] == UINT64_MAX);
    assert_true(qsae__histogram_valid(a, 3) && !qsae__histogram_valid(a, 2));
    memset(b, 0, sizeof b);
    b[0] = 4;
    assert_true(qsae__histogram_valid(b, 4) && !qsae__histogram_valid(b, 3));
}

/* ---- counts that no run can have ---- */

static void refuses(qsae_context *ctx, int kind, qsae_metric *m, const char *message)
{
    qsae_metric *fresh = open_any(ctx, kind);
    qsae__strbuf b;
    qsae__strbuf_init(&b, ctx);
    write_state(m, &b);
    assert_fails(qsae__metric_read(fresh, b.data, (size_t)b.size), QSAE_EFORMAT, message);
    assert_true(result(fresh, "tokens") == 0);
    qsae__strbuf_free(&b);
    qsae_metric_close(&fresh);
}

static void test_forged_counts(void **state)
{
    static const char *const message = "a count is larger than the rows allow";
    static const struct {
        int kind;
        int64_t word; /* of the counts */
        uint64_t value;
    } list[] = {
        { 1, 0, LEAF + 1 },  { 1, 1, LEAF + 1 },      { 1, 1, UINT64_MAX },
        { 1, QSAE__HISTOGRAM, (uint64_t)LEAF + 1 },   { 2, 3, LEAF + 1 },
        { 2, F - 1, UINT64_MAX }, { 3, 0, LEAF + 1 }, { 3, 4 * F - 1, LEAF + 1 },
        { 3, 4 * F, LEAF + 1 }, { 3, 6 * F - 1, UINT64_MAX },
        { 6, 0, (uint64_t)1 << 32 }, { 6, 2 * F - 2, UINT64_MAX },
    };
    qsae_context *ctx = open_context(NULL, 1);
    (void)state;
    make_rows(4);
    memset(rows.mask, 0, sizeof rows.mask);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        qsae_metric *m = open_any(ctx, list[i].kind);
        assert_ok(feed_any(m, list[i].kind, 0, LEAF));
        m->state.counts[list[i].word] = list[i].value;
        refuses(ctx, list[i].kind, m, message);
        qsae_metric_close(&m);
    }
    qsae_metric *m = open_any(ctx, 3);
    assert_ok(feed_any(m, 3, 0, LEAF));
    m->state.blocks.rows[31]++;
    refuses(ctx, 3, m, "more rows in blocks of documents than there are");
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

const struct CMUnitTest counter_tests[] = {
    cmocka_unit_test(test_2_32), cmocka_unit_test(test_2_53), cmocka_unit_test(test_mass_carries),
    cmocka_unit_test(test_histogram_ends), cmocka_unit_test(test_forged_counts),
};
const size_t n_counter_tests = sizeof counter_tests / sizeof counter_tests[0];
