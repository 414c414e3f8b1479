/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State files. Little-endian 8-byte words:
 *   "qsaemetr", version, size of the file, XXH3-128 of all that follows (32 hex digits = 4 words),
 *   kind, d, features, batch_rows, memory, active_rate (f64), length of the fingerprint, the
 *   fingerprint padded with zeros to whole words,
 *   tree: n, width, then per node first, tokens, width f64,
 *   document runs: n, then group, first, tokens, QSAE__RUN_SUMS f64 each; batch runs likewise,
 *   sample: n, words, stride, then the records,
 *   counts: n, words; maxima: n, f64 each,
 *   reconstruction only: the tree of finished batches, then the open ones: n, then per batch index,
 *   seen, rows, (1 + 2 d) f64 per row,
 *   features that keep their largest activations, count prompts or keep blocks only: top, then per
 *   feature and side `top` entries: token, value f32, 0; prompt_tokens; with documents_per_block
 *   what qsae__blocks_write writes,
 *   divergence that keeps them only: the worst tokens: n, then 4 words each (tails.h),
 *   divergence with another overlap_k than 10, or with cuts, only: overlap_k,
 *   metrics with cuts only (prefix.c), per tree: per cut 0, or 1 and width f64; the nodes kept: n,
 *   then per node first, tokens, width f64.
 * A file is checked whole before any of it is used; nothing in it is trusted, the hash included.
 */
#include <string.h>

#include "metrics/parts.h"

#define MAGIC "qsaemetr"
#define VERSION 3
#define HEAD_BYTES (3 * 8 + 32)
#define MAX_TOKEN ((int64_t)1 << 53)

/* ---- writing ---- */

static void put(qsae__strbuf *b, uint64_t v)
{
    qsae__strbuf_add(b, &v, sizeof v);
}

static void put_tree(qsae__strbuf *b, const qsae__tree *t)
{
    put(b, (uint64_t)t->n);
    put(b, (uint64_t)t->width);
    for (int64_t i = 0; i < t->n; i++) {
        put(b, (uint64_t)t->node[i].first);
        put(b, (uint64_t)t->node[i].tokens);
        qsae__strbuf_add(b, t->node[i].v, (size_t)t->width * sizeof(double));
    }
}

static void put_runs(qsae__strbuf *b, const qsae__runs *t)
{
    put(b, (uint64_t)t->n);
    if (t->n)
        qsae__strbuf_add(b, t->run, (size_t)t->n * sizeof *t->run);
}

static void put_settings(qsae__strbuf *b, const qsae_metric *m)
{
    static const char zeros[8] = { 0 };
    const size_t length = strlen(m->fingerprint);
    uint64_t rate;
    memcpy(&rate, &m->active_rate, sizeof rate);
    put(b, m->kind->number);
    put(b, (uint64_t)m->d);
    put(b, (uint64_t)m->features);
    put(b, (uint64_t)m->batch_rows);
    put(b, m->memory);
    put(b, rate);
    put(b, length);
    qsae__strbuf_add(b, m->fingerprint, length);
    qsae__strbuf_add(b, zeros, (8 - length % 8) % 8);
}

static void put_batches(qsae__strbuf *b, const qsae_metric *m)
{
    const qsae__batches *const s = &m->state.batches;
    put_tree(b, &s->done);
    put(b, (uint64_t)s->n);
    for (int64_t i = 0; i < s->n; i++) {
        const qsae__open_batch *const o = &s->open[i];
        put(b, (uint64_t)o->index);
        put(b, (uint64_t)o->seen);
        put(b, (uint64_t)o->n);
        if (o->n)
            qsae__strbuf_add(b, o->rows, (size_t)(o->n * (1 + 2 * m->d)) * sizeof *o->rows);
    }
}

static void put_prefixes(qsae__strbuf *b, const qsae__tree *t)
{
    for (int64_t k = 0; k < t->n_cuts; k++) {
        put(b, t->whole[k] != NULL);
        if (t->whole[k])
            qsae__strbuf_add(b, t->whole[k], (size_t)t->width * sizeof(double));
    }
    put(b, (uint64_t)t->n_kept);
    for (int64_t i = 0; i < t->n_kept; i++) {
        put(b, (uint64_t)t->kept[i].first);
        put(b, (uint64_t)t->kept[i].tokens);
        qsae__strbuf_add(b, t->kept[i].v, (size_t)t->width * sizeof(double));
    }
}

/* Left out where there is nothing to say and nothing follows. */
static bool overlap_written(const qsae_metric *m)
{
    return m->overlap_k != QSAE__OVERLAP_K || m->n_cuts > 0;
}

void qsae__metric_write(const qsae_metric *m, qsae__strbuf *b)
{
    const qsae__state *const s = &m->state;
    const qsae__kind *const kind = m->kind;
    const int64_t start = b->size;
    char hash[QSAE__HASH_SIZE] = { 0 };
    qsae__strbuf_add(b, MAGIC, 8);
    put(b, VERSION);
    put(b, 0);
    qsae__strbuf_add(b, hash, 32);
    put_settings(b, m);
    put_tree(b, &s->tree);
    put_runs(b, &s->docs);
    put_runs(b, &s->groups);
    put(b, (uint64_t)s->sample.n);
    put(b, (uint64_t)s->sample.words);
    put(b, s->sample.stride);
    if (s->sample.n)
        qsae__strbuf_add(b, s->sample.data, (size_t)(s->sample.n * s->sample.words) * 8);
    const int64_t counts = kind->n_counts ? kind->n_counts(m) : 0;
    put(b, (uint64_t)counts);
    qsae__strbuf_add(b, s->counts, (size_t)counts * sizeof *s->counts);
    const int64_t maxima = kind->n_maxima ? kind->n_maxima(m) : 0;
    put(b, (uint64_t)maxima);
    for (int64_t i = 0; i < maxima; i++) {
        const double v = s->maxima[i];
        qsae__strbuf_add(b, &v, sizeof v);
    }
    if (kind->batches)
        put_batches(b, m);
    if (m->top || m->prompt_tokens || m->documents_per_block) {
        put(b, (uint64_t)m->top);
        if (m->top)
            qsae__strbuf_add(b, s->top, (size_t)(2 * m->features * m->top) * sizeof *s->top);
        put(b, (uint64_t)m->prompt_tokens);
    }
    if (s->worst.record) {
        put(b, (uint64_t)s->worst.n);
        qsae__strbuf_add(b, s->worst.record, (size_t)s->worst.n * sizeof *s->worst.record);
    }
    if (kind == &qsae__kind_divergence && overlap_written(m))
        put(b, (uint64_t)m->overlap_k);
    if (m->documents_per_block)
        qsae__blocks_write(&s->blocks, b);
    if (m->n_cuts > 0) {
        put_prefixes(b, &s->tree);
        if (kind->batches)
            put_prefixes(b, &s->batches.done);
    }
    if (b->status != QSAE_OK)
        return;
    const uint64_t size = (uint64_t)(b->size - start);
    qsae__hash(b->data + start + HEAD_BYTES, (size_t)size - HEAD_BYTES, hash);
    memcpy(b->data + start + 16, &size, sizeof size);
    memcpy(b->data + start + 24, hash, 32);
}

/* ---- reading ---- */

typedef struct reader {
    const uint8_t *at;
    size_t left;
} reader;

static int32_t bad(const char *what)
{
    return qsae__fail(QSAE_EFORMAT, "metric state: %s", what);
}

static bool take(reader *r, void *out, size_t size)
{
    if (r->left < size)
        return false;
    memcpy(out, r->at, size);
    r->at += size;
    r->left -= size;
    return true;
}

static bool take_i64(reader *r, int64_t low, int64_t high, int64_t *out)
{
    return take(r, out, sizeof *out) && *out >= low && *out <= high;
}

/* count elements of `size` bytes lie in what is left; count at least 0, size above. */
static bool fits(const reader *r, int64_t count, int64_t size)
{
    return (uint64_t)count <= r->left / (uint64_t)size;
}

static bool all_finite(const double *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return false;
    return true;
}

static int32_t compare_setting(const char *name, int64_t file, int64_t here)
{
    return file == here ? QSAE_OK
                        : qsae__fail(QSAE_EMISMATCH,
                                     "metric state: %s: the file has %lld, the metric "
                                     "%lld", name, (long long)file, (long long)here);
}

static int32_t read_settings(const qsae_metric *m, reader *r)
{
    const struct {
        const char *name;
        int64_t value;
    } fields[] = {
        { "kind", m->kind->number },
        { "d", m->d },
        { "features", m->features },
        { "batch_rows", m->batch_rows },
        { "memory", (int64_t)m->memory },
    };
    int64_t v;
    double rate;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!take_i64(r, INT64_MIN, INT64_MAX, &v))
            return bad("truncated in the settings");
        const int32_t st = compare_setting(fields[i].name, v, fields[i].value);
        if (st != QSAE_OK)
            return st;
    }
    if (!take(r, &rate, sizeof rate) || !take_i64(r, 0, INT64_MAX - 8, &v) ||
        !fits(r, (v + 7) / 8, 8))
        return bad("truncated in the settings");
    if (rate != m->active_rate)
        return qsae__fail(QSAE_EMISMATCH,
                          "metric state: active_rate: the file has %g, the metric %g",
                          rate, m->active_rate);
    const size_t length = strlen(m->fingerprint), padded = (size_t)(v + 7) / 8 * 8;
    if ((size_t)v != length || memcmp(r->at, m->fingerprint, length) != 0)
        return qsae__fail(QSAE_EMISMATCH,
                          "metric state: fingerprint: the file has \"%.*s\", the metric "
                          "\"%s\"", (int)(v < 200 ? v : 200), (const char *)r->at, m->fingerprint);
    for (size_t i = length; i < padded; i++)
        if (r->at[i])
            return bad("padding of the fingerprint is not zero");
    r->at += padded;
    r->left -= padded;
    return QSAE_OK;
}

/* A node is a part of one leaf, or a complete subtree. */
static bool node_range_ok(const qsae__tree *t, int64_t first, int64_t tokens)
{
    const int64_t leaf = t->leaf;
    if (first > MAX_TOKEN - tokens)
        return false;
    if (tokens < leaf)
        return first / leaf == (first + tokens - 1) / leaf;
    int64_t size = leaf;
    while (size < tokens)
        size *= 2;
    return size == tokens && first % tokens == 0;
}

/* finite: sums are; those of batches are not where all rows of one are equal, or it has one row. */
static int32_t read_tree(qsae__tree *t, reader *r, bool finite)
{
    int64_t n, width, end = 0;
    if (!take_i64(r, 0, INT64_MAX, &n) || !take_i64(r, t->width, t->width, &width) ||
        !fits(r, n, (width + 2) * 8))
        return bad("truncated in a tree, or a tree of another width");
    const int32_t st = qsae__tree_reserve(t, n);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < n; i++) {
        qsae__node node = { .v = NULL };
        if (!take_i64(r, end, MAX_TOKEN, &node.first) ||
            !take_i64(r, 1, MAX_TOKEN, &node.tokens) || !node_range_ok(t, node.first, node.tokens))
            return bad("a node of a tree is out of place");
        node.v = qsae__alloc_array(t->ctx, width, sizeof *node.v);
        if (!node.v)
            return QSAE_ENOMEM;
        take(r, node.v, (size_t)width * sizeof *node.v);
        if (finite && !all_finite(node.v, width)) {
            qsae__free(t->ctx, node.v);
            return bad("a sum is not finite");
        }
        end = node.first + node.tokens;
        qsae__tree_insert(t, node);
    }
    return QSAE_OK;
}

/* The head of a node counts its rows: no more than it has tokens. */
static int32_t check_rows(const qsae__tree *t)
{
    for (int64_t i = 0; i < t->n; i++) {
        const double *const v = t->node[i].v;
        double sum = 0;
        for (int64_t k = 0; k < S_HEAD; k++) {
            if (v[k] < 0 || v[k] != floor(v[k]))
                return bad("a count of rows is not a whole number");
            sum += v[k];
        }
        if (sum > (double)t->node[i].tokens)
            return bad("more rows than tokens");
    }
    return QSAE_OK;
}

/* Rows counted: at most 2^53, as there are tokens. */
static uint64_t rows_of(const qsae__tree *t)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < t->n; i++)
        sum += (uint64_t)t->node[i].v[S_ROWS];
    return sum;
}

static int32_t read_runs(qsae_context *ctx, qsae__runs *t, reader *r, bool wanted)
{
    int64_t n, end = 0;
    if (!take_i64(r, 0, wanted ? INT64_MAX : 0, &n) || !fits(r, n, sizeof *t->run))
        return bad("truncated in the runs, or runs where there are none");
    const int32_t st = qsae__grow(ctx, &t->run, &t->capacity, n, sizeof *t->run);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < n; i++) {
        qsae__run *const run = &t->run[i];
        take(r, run, sizeof *run);
        if (run->first < end || run->first > MAX_TOKEN || run->tokens < 1 ||
            run->tokens > QSAE_METRIC_LEAF ||
            run->first / QSAE_METRIC_LEAF != (run->first + run->tokens - 1) / QSAE_METRIC_LEAF ||
            !all_finite(run->sum, QSAE__RUN_SUMS) || run->sum[0] < 0)
            return bad("a run is out of place");
        end = run->first + run->tokens;
    }
    t->n = n;
    return QSAE_OK;
}

static int32_t read_sample(qsae_context *ctx, qsae__sample *s, reader *r)
{
    int64_t n, words, last = -1;
    uint64_t stride;
    if (!take_i64(r, 0, s->limit, &n) || !take_i64(r, s->words, s->words, &words) ||
        !take(r, &stride, sizeof stride))
        return bad("truncated in the sample, or a sample of another shape");
    if (stride == 0 || (stride & (stride - 1)) || stride > (uint64_t)1 << 62 ||
        (n > 0 && !fits(r, n, words * 8)))
        return bad("the sample does not fit the file");
    s->stride = stride;
    if (n == 0)
        return QSAE_OK;
    const int32_t st = qsae__sample_reserve(ctx, s, n);
    if (st != QSAE_OK)
        return st;
    take(r, s->data, (size_t)(n * words) * 8);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t token = s->data[i * words];
        if (token > (uint64_t)MAX_TOKEN || (int64_t)token <= last ||
            !qsae__sample_wants(s, (int64_t)token))
            return bad("a record of the sample is out of place");
        last = (int64_t)token;
    }
    s->n = n;
    return QSAE_OK;
}

static bool counts_valid(const qsae_metric *m, const uint64_t *counts, int64_t n, uint64_t rows)
{
    bool ok = true;
    if (m->kind->counts_valid)
        return m->kind->counts_valid(m, counts, rows);
    for (int64_t i = 0; i < n; i++)
        ok = ok && counts[i] <= rows;
    return ok;
}

static int32_t read_totals(const qsae_metric *m, qsae__state *s, reader *r)
{
    const int64_t counts = m->kind->n_counts ? m->kind->n_counts(m) : 0;
    const int64_t maxima = m->kind->n_maxima ? m->kind->n_maxima(m) : 0;
    int64_t n;
    double v;
    if (!take_i64(r, 0, INT64_MAX, &n))
        return bad("truncated in the counts");
    if (n != counts)
        return qsae__fail(QSAE_EMISMATCH, "metric state: counts: expected %lld, found %lld%s",
                          (long long)counts, (long long)n, m->kind == &qsae__kind_features
                              ? " (one side was opened with prompt_tokens)" : "");
    if (!take(r, s->counts, (size_t)counts * 8) || !take_i64(r, maxima, maxima, &n))
        return bad("truncated in the counts");
    if (!counts_valid(m, s->counts, counts, rows_of(&s->tree)))
        return bad("a count is larger than the rows allow");
    for (int64_t i = 0; i < maxima; i++) {
        if (!take(r, &v, sizeof v) || !isfinite(v) || (double)(float)v != v)
            return bad("a maximum is not a finite f32");
        s->maxima[i] = (float)v;
    }
    return QSAE_OK;
}

static int32_t read_open_batch(qsae_metric *m, qsae__batches *b, int64_t above, reader *r)
{
    const int64_t words = 1 + 2 * m->d;
    int64_t index, seen, n;
    if (!take_i64(r, above, MAX_TOKEN / m->batch_rows, &index) ||
        !take_i64(r, 1, m->batch_rows - 1, &seen) || !take_i64(r, 0, seen, &n) ||
        !fits(r, n, words * 8))
        return bad("an open batch does not fit the file");
    qsae__open_batch *const o = qsae__batches_open(m, b, index, n);
    if (!o)
        return QSAE_ENOMEM;
    o->seen = seen;
    o->n = n;
    if (n)
        take(r, o->rows, (size_t)(n * words) * 8);
    double last = (double)(index * m->batch_rows) - 1;
    const double end = (double)((index + 1) * m->batch_rows);
    for (int64_t i = 0; i < n; i++) {
        const double token = o->rows[i * words];
        if (!all_finite(o->rows + i * words, words) || token <= last || token >= end ||
            token != floor(token))
            return bad("a row of an open batch is out of place");
        last = token;
    }
    return QSAE_OK;
}

static int32_t read_batches(qsae_metric *m, qsae__batches *b, reader *r)
{
    int64_t n;
    int32_t st = read_tree(&b->done, r, false);
    if (st != QSAE_OK)
        return st;
    if (!take_i64(r, 0, INT64_MAX, &n) || !fits(r, n, 3 * 8))
        return bad("truncated in the open batches");
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        st = read_open_batch(m, b, i ? b->open[i - 1].index + 1 : 0, r);
    for (int64_t i = 0; i < b->n && st == QSAE_OK; i++)
        if (qsae__tree_overlaps(&b->done, b->open[i].index * m->batch_rows, m->batch_rows))
            st = bad("an open batch is already finished");
    return st;
}

static int32_t read_top(const qsae_metric *m, qsae__state *s, reader *r)
{
    uint64_t top = 0;
    const bool given = r->left > 0;
    if (r->left && !take(r, &top, sizeof top))
        return bad("truncated in the largest activations");
    if (top != (uint64_t)m->top)
        return qsae__fail(QSAE_EMISMATCH, "metric state: top: expected %lld, found %llu",
                          (long long)m->top, (unsigned long long)top);
    if (m->top && (!take(r, s->top, (size_t)(2 * m->features * m->top) * sizeof *s->top) ||
                   !qsae__top_valid(m, s->top, MAX_TOKEN)))
        return bad("the largest activations are out of place");
    uint64_t prompt = 0;
    if ((m->top || r->left) && !take(r, &prompt, sizeof prompt))
        return bad("truncated in prompt_tokens");
    if (prompt != (uint64_t)m->prompt_tokens)
        return qsae__fail(QSAE_EMISMATCH, "metric state: prompt_tokens: expected %lld, found %llu",
                          (long long)m->prompt_tokens, (unsigned long long)prompt);
    /* All of them 0: nothing of it is written, unless blocks follow. */
    if (given && !r->left && !m->top && !m->prompt_tokens && !m->documents_per_block)
        return bad("more data than expected");
    return QSAE_OK;
}

static int32_t read_worst(qsae__worst *w, reader *r)
{
    int64_t n;
    if (!take_i64(r, 0, QSAE__WORST, &n) || !take(r, w->record, (size_t)n * sizeof *w->record))
        return bad("truncated in the worst tokens");
    w->n = n;
    return qsae__worst_valid(w, MAX_TOKEN) ? QSAE_OK : bad("the worst tokens are out of place");
}

static int32_t read_overlap(const qsae_metric *m, reader *r)
{
    uint64_t k = QSAE__OVERLAP_K;
    if (r->left && (!take(r, &k, sizeof k) || k < 1 || k > QSAE__OVERLAP_K_MOST ||
                    (k == QSAE__OVERLAP_K && m->n_cuts == 0)))
        return bad("overlap_k out of place, or more data than expected");
    if (k != (uint64_t)m->overlap_k)
        return qsae__fail(QSAE_EMISMATCH, "metric state: overlap_k: expected %lld, found %llu",
                          (long long)m->overlap_k, (unsigned long long)k);
    return QSAE_OK;
}

static int32_t read_blocks(const qsae_metric *m, qsae__state *s, reader *r)
{
    size_t used;
    if (!m->documents_per_block)
        return r->left ? qsae__fail(QSAE_EMISMATCH, "metric state: documents_per_block: the metric "
                                    "has none, the file goes on") : QSAE_OK;
    if (!r->left)
        return qsae__fail(QSAE_EMISMATCH, "metric state: documents_per_block: the file has none, "
                          "the metric %lld", (long long)m->documents_per_block);
    const int32_t st = qsae__blocks_read(m->ctx, &s->blocks, r->at, r->left, &used);
    r->at += used;
    r->left -= used;
    uint64_t rows = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++)
        rows += (uint64_t)s->blocks.rows[g];
    return st == QSAE_OK && rows > rows_of(&s->tree)
               ? bad("more rows in blocks of documents than there are") : st;
}

static int32_t read_prefixes(qsae__tree *t, reader *r, bool finite)
{
    int64_t n, wanted;
    for (int64_t k = 0; k < t->n_cuts; k++) {
        if (!take_i64(r, 0, t->cuts[k] > 0, &wanted) || (wanted && !fits(r, t->width, 8)))
            return bad("truncated in the sums before a token");
        if (!wanted)
            continue;
        qsae__free(t->ctx, t->whole[k]); /* as it was made of the nodes */
        if (!(t->whole[k] = qsae__alloc_array(t->ctx, t->width, sizeof **t->whole)))
            return QSAE_ENOMEM;
        take(r, t->whole[k], (size_t)t->width * sizeof **t->whole);
        if (finite && !all_finite(t->whole[k], t->width))
            return bad("a sum before a token is not finite");
    }
    if (!take_i64(r, 0, INT64_MAX, &n) || !fits(r, n, (t->width + 2) * 8))
        return bad("truncated in the nodes kept");
    for (int64_t i = 0; i < n; i++) {
        qsae__node node;
        if (!take_i64(r, 0, MAX_TOKEN, &node.first) || !take_i64(r, 1, MAX_TOKEN, &node.tokens) ||
            !node_range_ok(t, node.first, node.tokens))
            return bad("a node that is kept is out of place");
        if (!(node.v = qsae__alloc_array(t->ctx, t->width, sizeof *node.v)))
            return QSAE_ENOMEM;
        take(r, node.v, (size_t)t->width * sizeof *node.v);
        int32_t st = finite && !all_finite(node.v, t->width) ? bad("a sum is not finite") : QSAE_OK;
        if (st == QSAE_OK)
            st = qsae__prefix_insert(t, &node);
        qsae__free(t->ctx, node.v);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

static int32_t read_state(qsae_metric *m, qsae__state *s, reader *r)
{
    int32_t st = read_settings(m, r);
    if (st == QSAE_OK)
        st = read_tree(&s->tree, r, true);
    if (st == QSAE_OK)
        st = check_rows(&s->tree);
    if (st == QSAE_OK)
        st = read_runs(m->ctx, &s->docs, r, m->kind->doc_sums > 0);
    if (st == QSAE_OK)
        st = read_runs(m->ctx, &s->groups, r, m->kind->batch_runs);
    if (st == QSAE_OK)
        st = read_sample(m->ctx, &s->sample, r);
    if (st == QSAE_OK)
        st = read_totals(m, s, r);
    if (st == QSAE_OK && m->kind->batches)
        st = read_batches(m, &s->batches, r);
    if (st == QSAE_OK && m->kind == &qsae__kind_features)
        st = read_top(m, s, r);
    if (st == QSAE_OK && s->worst.record)
        st = read_worst(&s->worst, r);
    if (st == QSAE_OK && m->kind == &qsae__kind_divergence)
        st = read_overlap(m, r);
    if (st == QSAE_OK && m->kind == &qsae__kind_features)
        st = read_blocks(m, s, r);
    if (st == QSAE_OK && m->n_cuts > 0)
        st = read_prefixes(&s->tree, r, true);
    if (st == QSAE_OK && m->n_cuts > 0 && m->kind->batches)
        st = read_prefixes(&s->batches.done, r, false);
    return st == QSAE_OK && r->left ? bad("more data than expected") : st;
}

static int32_t check_head(const uint8_t *data, size_t size)
{
    uint64_t version, stored;
    char hash[QSAE__HASH_SIZE];
    if (size < 8 || memcmp(data, MAGIC, 8) != 0)
        return bad("expected a state file of a metric (magic \"" MAGIC "\")");
    if (size < HEAD_BYTES)
        return bad("truncated in the header");
    memcpy(&version, data + 8, sizeof version);
    memcpy(&stored, data + 16, sizeof stored);
    if (version != VERSION)
        return qsae__fail(QSAE_EUNSUPPORTED, "metric state: version: expected %d, found %llu",
                          VERSION, (unsigned long long)version);
    if (stored != size)
        return qsae__fail(QSAE_EFORMAT, "metric state: size: expected %llu bytes, found %zu",
                          (unsigned long long)stored, size);
    qsae__hash(data + HEAD_BYTES, size - HEAD_BYTES, hash);
    return memcmp(hash, data + 24, 32) == 0 ? QSAE_OK : bad("checksum does not match: damaged");
}

int32_t qsae__state_settings(const void *data, size_t size, uint64_t words[6], const char **print,
                             size_t *print_size)
{
    const int32_t st = check_head(data, size);
    int64_t length;
    if (st != QSAE_OK)
        return st;
    reader r = { (const uint8_t *)data + HEAD_BYTES, size - HEAD_BYTES };
    if (!take(&r, words, 6 * sizeof *words) || !take_i64(&r, 0, INT64_MAX - 8, &length) ||
        !fits(&r, (length + 7) / 8, 8))
        return bad("truncated in the settings");
    *print = (const char *)r.at;
    *print_size = (size_t)length;
    return QSAE_OK;
}

int32_t qsae__metric_read(qsae_metric *m, const void *data, size_t size)
{
    int32_t st = check_head(data, size);
    if (st != QSAE_OK)
        return st;
    reader r = { (const uint8_t *)data + HEAD_BYTES, size - HEAD_BYTES };
    qsae__state s;
    st = qsae__state_init(m, &s);
    if (st != QSAE_OK)
        return st;
    st = read_state(m, &s, &r);
    if (st != QSAE_OK) {
        qsae__state_free(m, &s);
        return st;
    }
    qsae__state_free(m, &m->state);
    m->state = s;
    m->fresh = false;
    return QSAE_OK;
}

int32_t qsae_metric_save(const qsae_metric *metric, const char *path)
{
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_save: path must not be NULL");
    qsae__strbuf b;
    qsae__strbuf_init(&b, metric->ctx);
    qsae__metric_write(metric, &b);
    int32_t st = b.status;
    if (st == QSAE_OK)
        st = qsae__file_write(metric->ctx, path, b.data, (size_t)b.size);
    qsae__strbuf_free(&b);
    return st;
}

int32_t qsae_metric_load(qsae_metric *metric, const char *path)
{
    QSAE__FPENV;
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_load: path must not be NULL");
    qsae__file *f = NULL;
    int32_t st = qsae__file_open(metric->ctx, path, &f);
    if (st != QSAE_OK)
        return st;
    st = qsae__metric_read(metric, f->data, (size_t)f->size);
    if (st != QSAE_OK)
        st = qsae__fail_in(st, "%s", path);
    qsae__file_close(&f);
    return st;
}
