/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Metrics of parts of a text: sums kept apart where a process may begin or a prefix may end,
 * prefixes, and metrics made from their written states alone.
 */
#include <string.h>

#include "metrics/parts.h"

#define LEAST_CUT 64  /* tokens: parts of a leaf that wait for the others are few */
#define MOST_BATCHES 16
#define CUTS_MOST 64

int64_t qsae__metric_cut(int64_t batch_rows)
{
    int64_t n = 1; /* batches that fill whole leaves: nothing needs to be kept apart */
    while (n <= MOST_BATCHES && batch_rows * n % QSAE_METRIC_LEAF != 0)
        n++;
    return n <= MOST_BATCHES ? batch_rows * n : batch_rows * qsae__ceil_div(LEAST_CUT, batch_rows);
}

static bool ascending(const int64_t *cuts, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (cuts[i] <= (i ? cuts[i - 1] : 0))
            return false;
    return true;
}

int32_t qsae__metric_set_cuts(qsae_metric *m, const int64_t *cuts, int64_t n)
{
    if (n < 0 || n > CUTS_MOST || !ascending(cuts, n) || m->state.tree.n > 0)
        return qsae__fail(QSAE_EINVAL, "cuts: expected at most %d tokens, ascending and positive, "
                          "of an empty metric", CUTS_MOST);
    int64_t *const copy = qsae__alloc_array(m->ctx, 2 * n, sizeof *copy);
    if (!copy)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        copy[i] = cuts[i];
        copy[n + i] = cuts[i] / m->batch_rows * m->batch_rows; /* the rest is an open batch */
    }
    int32_t st = qsae__prefix_open(&m->state.tree, copy, n);
    if (st == QSAE_OK && m->kind->batches)
        st = qsae__prefix_open(&m->state.batches.done, copy + n, n);
    qsae__free(m->ctx, m->cuts);
    m->cuts = copy;
    m->n_cuts = n;
    return st;
}

/* A new, empty metric like m. */
static int32_t open_like(const qsae_metric *m, qsae_metric **out)
{
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = m->batch_rows;
    s.memory = m->memory;
    s.fingerprint = m->fingerprint;
    s.active_rate = m->active_rate;
    s.top = m->top;
    s.prompt_tokens = m->prompt_tokens;
    s.overlap_k = m->overlap_k;
    s.documents_per_block = m->documents_per_block;
    return qsae__metric_open(m->ctx, m->kind, m->d, m->features, &s, out);
}

/* Rows of open batches before a token. */
static int32_t open_batches_before(qsae_metric *m, const qsae__batches *from, int64_t token)
{
    const int64_t words = 1 + 2 * m->d;
    for (int64_t i = 0; i < from->n; i++) {
        const qsae__open_batch *const f = &from->open[i];
        const int64_t first = f->index * m->batch_rows;
        int64_t n = 0;
        while (n < f->n && f->rows[n * words] < (double)token)
            n++;
        if (first >= token)
            break;
        qsae__open_batch *const o = qsae__batches_open(m, &m->state.batches, f->index, n);
        if (!o)
            return QSAE_ENOMEM;
        if (n)
            memcpy(o->rows, f->rows, (size_t)(n * words) * sizeof *o->rows);
        o->n = n;
        o->seen = qsae__min_i64(f->seen, token - first);
    }
    return QSAE_OK;
}

int32_t qsae__metric_before(const qsae_metric *m, int64_t token, qsae_metric **out)
{
    int64_t k = 0;
    *out = NULL;
    while (k < m->n_cuts && m->cuts[k] != token)
        k++;
    if (k == m->n_cuts)
        return qsae__fail(QSAE_EINVAL, "metric: token %lld is no cut", (long long)token);
    int32_t st = open_like(m, out);
    if (st == QSAE_OK)
        st = qsae__prefix_take(&(*out)->state.tree, &m->state.tree, k);
    if (st == QSAE_OK && m->kind->batches)
        st = qsae__prefix_take(&(*out)->state.batches.done, &m->state.batches.done, k);
    if (st == QSAE_OK && m->kind->batches)
        st = open_batches_before(*out, &m->state.batches, token);
    if (st != QSAE_OK)
        qsae_metric_close(out);
    return st;
}

/* ---- written states ---- */

enum { D_TOP, D_PROMPT, D_OVERLAP, D_BLOCK, D_CUTS, D_HEAD }; /* then the cuts */

void qsae__metric_describe(const qsae_metric *m, qsae__strbuf *b)
{
    const int64_t head[D_HEAD] = { m->top, m->prompt_tokens, m->overlap_k,
                                   m->documents_per_block, m->n_cuts };
    qsae__strbuf_add(b, head, sizeof head);
    if (m->n_cuts > 0)
        qsae__strbuf_add(b, m->cuts, (size_t)m->n_cuts * sizeof *m->cuts);
}

static int32_t read_description(const void *data, size_t size, int64_t head[D_HEAD],
                                int64_t cuts[CUTS_MOST])
{
    if (size < D_HEAD * sizeof *head)
        return qsae__fail(QSAE_EFORMAT, "metric: its description is truncated");
    memcpy(head, data, D_HEAD * sizeof *head);
    const int64_t n = head[D_CUTS];
    if (n < 0 || n > CUTS_MOST || size != (size_t)(D_HEAD + n) * sizeof *head)
        return qsae__fail(QSAE_EFORMAT, "metric: its description has another length");
    memcpy(cuts, (const uint8_t *)data + D_HEAD * sizeof *head, (size_t)n * sizeof *cuts);
    return ascending(cuts, n) ? QSAE_OK
                              : qsae__fail(QSAE_EFORMAT, "metric: cuts are not ascending");
}

int32_t qsae__metric_check_described(const qsae_metric *m, const void *data, size_t size)
{
    int64_t head[D_HEAD], cuts[CUTS_MOST];
    const int32_t st = read_description(data, size, head, cuts);
    if (st != QSAE_OK)
        return st;
    const struct {
        const char *name;
        int64_t file, here;
    } fields[] = { { "top", head[D_TOP], m->top },
                   { "prompt_tokens", head[D_PROMPT], m->prompt_tokens },
                   { "overlap_k", head[D_OVERLAP], m->overlap_k },
                   { "documents_per_block", head[D_BLOCK], m->documents_per_block },
                   { "cuts", head[D_CUTS], m->n_cuts } };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].file != fields[i].here)
            return qsae__fail(QSAE_EMISMATCH, "metric: %s: the file has %lld, the metric %lld",
                              fields[i].name, (long long)fields[i].file, (long long)fields[i].here);
    for (int64_t i = 0; i < m->n_cuts; i++)
        if (cuts[i] != m->cuts[i])
            return qsae__fail(QSAE_EMISMATCH, "metric: cuts: the file has token %lld, the metric "
                              "%lld", (long long)cuts[i], (long long)m->cuts[i]);
    return QSAE_OK;
}

static const qsae__kind *kind_of(uint64_t number)
{
    static const qsae__kind *const kinds[] = {
        &qsae__kind_cross_entropy, &qsae__kind_divergence, &qsae__kind_reconstruction,
        &qsae__kind_features, &qsae__kind_drift, &qsae__kind_llama_cpp, &qsae__kind_mass,
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i]->number == number)
            return kinds[i];
    return NULL;
}

int32_t qsae__metric_open_written(qsae_context *ctx, const void *description, size_t size,
                                  const void *state, size_t state_size, qsae_metric **out)
{
    enum { W_KIND, W_D, W_FEATURES, W_BATCH, W_MEMORY, W_RATE };
    int64_t head[D_HEAD], cuts[CUTS_MOST];
    uint64_t words[6];
    const char *print;
    size_t print_size;
    *out = NULL;
    int32_t st = read_description(description, size, head, cuts);
    if (st == QSAE_OK)
        st = qsae__state_settings(state, state_size, words, &print, &print_size);
    if (st != QSAE_OK)
        return st;
    const qsae__kind *const kind = kind_of(words[W_KIND]);
    if (!kind)
        return qsae__fail(QSAE_EUNSUPPORTED, "metric: kind %llu is unknown",
                          (unsigned long long)words[W_KIND]);
    /* What is kept per feature is written, always: so much is not allocated for nothing. */
    const uint64_t most = state_size / sizeof(uint64_t);
    if (words[W_D] > INT32_MAX || words[W_FEATURES] > most || words[W_BATCH] < 1 ||
        words[W_BATCH] > INT32_MAX || head[D_TOP] < 0 || head[D_TOP] > QSAE__TOP_MOST ||
        words[W_FEATURES] * 4 * (uint64_t)head[D_TOP] > most)
        return qsae__fail(QSAE_EFORMAT, "metric: its settings do not fit the state");
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = (int64_t)words[W_BATCH];
    s.memory = words[W_MEMORY];
    s.top = head[D_TOP];
    s.prompt_tokens = head[D_PROMPT];
    s.overlap_k = head[D_OVERLAP];
    s.documents_per_block = head[D_BLOCK];
    memcpy(&s.active_rate, &words[W_RATE], sizeof s.active_rate);
    char *const text = qsae__strndup(ctx, print, print_size);
    if (!text)
        return QSAE_ENOMEM;
    s.fingerprint = text;
    st = qsae__metric_open(ctx, kind, (int64_t)words[W_D], (int64_t)words[W_FEATURES], &s, out);
    qsae__free(ctx, text);
    if (st == QSAE_OK)
        st = qsae__metric_set_cuts(*out, cuts, head[D_CUTS]);
    if (st == QSAE_OK)
        st = qsae__metric_read(*out, state, state_size);
    if (st != QSAE_OK)
        qsae_metric_close(out);
    return st;
}
