/* SPDX-License-Identifier: BSD-2-Clause */
/* The handle: opening, results, merging. */
#include <string.h>

#include "metrics/intervals.h"

#define DEFAULT_MEMORY ((uint64_t)256 << 20)
#define DEFAULT_BATCH 2048

int64_t qsae_metric_leaf(void)
{
    return QSAE_METRIC_LEAF;
}

void qsae_metric_settings_init(qsae_metric_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

double qsae__ratio(double a, double b)
{
    return b != 0 ? a / b : NAN;
}

void qsae__state_free(qsae_metric *m, qsae__state *s)
{
    qsae__tree_free(&s->tree);
    qsae__free(m->ctx, s->docs.run);
    qsae__free(m->ctx, s->groups.run);
    qsae__free(m->ctx, s->sample.data);
    qsae__free(m->ctx, s->counts);
    qsae__free(m->ctx, s->maxima);
    qsae__free(m->ctx, s->top);
    qsae__blocks_free(m->ctx, &s->blocks);
    qsae__free(m->ctx, s->worst.record);
    if (m->kind->batches)
        qsae__batches_free(m->ctx, &s->batches);
    memset(s, 0, sizeof *s);
}

/* Below that, quantiles and single tokens are not wanted. */
#define LEAST_KEPT ((uint64_t)64 << 10)

bool qsae__metric_keeps(const qsae_metric *m)
{
    return m->kind->worst && m->memory >= LEAST_KEPT;
}

static int64_t per_kind(const qsae_metric *m, int64_t (*f)(const qsae_metric *))
{
    return f ? f(m) : 0;
}

int32_t qsae__state_init(qsae_metric *m, qsae__state *s)
{
    memset(s, 0, sizeof *s);
    s->tree = (qsae__tree){ .ctx = m->ctx, .metric = m, .combine = m->kind->combine,
                            .leaf = QSAE_METRIC_LEAF, .width = m->kind->width(m),
                            .cut = qsae__metric_cut(m->batch_rows) };
    s->docs.cut = s->groups.cut = s->tree.cut;
    if (m->kind->record_words) {
        s->sample.words = 1 + m->kind->record_words(m);
        s->sample.limit = (int64_t)(m->memory / ((uint64_t)s->sample.words * sizeof(uint64_t)));
        s->sample.limit = qsae__max_i64(s->sample.limit, 1);
    }
    s->sample.stride = 1;
    if (m->kind->batches)
        s->batches.done = (qsae__tree){ .ctx = m->ctx, .metric = m,
                                        .combine = qsae__batches_combine, .leaf = m->batch_rows,
                                        .width = B_MEAN + m->d };
    s->counts = qsae__calloc(m->ctx, per_kind(m, m->kind->n_counts), sizeof *s->counts);
    s->maxima = qsae__calloc(m->ctx, per_kind(m, m->kind->n_maxima), sizeof *s->maxima);
    if (m->top)
        s->top = qsae__calloc(m->ctx, 2 * m->features * m->top, sizeof *s->top);
    int32_t st = qsae__blocks_open(m->ctx, &s->blocks, m->features, m->documents_per_block);
    const bool worst = qsae__metric_keeps(m);
    if (worst)
        s->worst.record = qsae__calloc(m->ctx, QSAE__WORST, sizeof *s->worst.record);
    if (st == QSAE_OK && (!s->counts || !s->maxima || (m->top && !s->top) ||
                          (worst && !s->worst.record)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK && m->n_cuts > 0)
        st = qsae__prefix_open(&s->tree, m->cuts, m->n_cuts);
    if (st == QSAE_OK && m->n_cuts > 0 && m->kind->batches)
        st = qsae__prefix_open(&s->batches.done, m->cuts + m->n_cuts, m->n_cuts);
    if (st != QSAE_OK)
        qsae__state_free(m, s);
    return st;
}

int32_t qsae__metric_open(qsae_context *ctx, const qsae__kind *kind, int64_t d, int64_t features,
                          const qsae_metric_settings *settings, qsae_metric **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&ctx) != QSAE_OK)
        return QSAE_EINVAL;
    qsae_metric_settings s;
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_metric_settings");
    if (st != QSAE_OK)
        return st;
    if (s.top < 0 || s.top > QSAE__TOP_MOST)
        return qsae__fail(QSAE_EINVAL, "opening a %s metric: top: expected 0..%d, found %lld",
                          kind->name, QSAE__TOP_MOST, (long long)s.top);
    if (s.prompt_tokens < 0)
        return qsae__fail(QSAE_EINVAL, "opening a %s metric: prompt_tokens must not be negative, "
                          "found %lld", kind->name, (long long)s.prompt_tokens);
    if (s.overlap_k < 0 || s.overlap_k > QSAE__OVERLAP_K_MOST)
        return qsae__fail(QSAE_EINVAL, "opening a %s metric: overlap_k: expected 0..%d, found "
                          "%lld", kind->name, QSAE__OVERLAP_K_MOST, (long long)s.overlap_k);
    if (s.documents_per_block < 0 || s.documents_per_block > INT32_MAX)
        return qsae__fail(QSAE_EINVAL, "opening a %s metric: documents_per_block: expected "
                          "0..2^31 - 1, found %lld", kind->name, (long long)s.documents_per_block);
    if (s.seed < 0)
        return qsae__fail(QSAE_EINVAL, "opening a %s metric: seed must not be negative, found "
                          "%lld", kind->name, (long long)s.seed);
    if (d < 0 || d > INT32_MAX || features < 0 || features > INT32_MAX || s.batch_rows < 0 ||
        s.batch_rows > INT32_MAX || !(s.active_rate >= 0 && s.active_rate < 1))
        return qsae__fail(QSAE_EINVAL,
                          "opening a %s metric: d %lld, features %lld, batch_rows %lld or "
                          "active_rate %g is out of range", kind->name, (long long)d,
                          (long long)features, (long long)s.batch_rows, s.active_rate);
    qsae_metric *m = qsae__calloc(ctx, 1, sizeof *m);
    if (!m)
        return QSAE_ENOMEM;
    qsae__handle_init(m);
    m->ctx = qsae__context_ref(ctx);
    m->kind = kind;
    m->d = d;
    m->features = features;
    m->batch_rows = s.batch_rows ? s.batch_rows : DEFAULT_BATCH;
    m->top = kind == &qsae__kind_features ? s.top : 0;
    m->prompt_tokens = kind == &qsae__kind_features ? s.prompt_tokens : 0;
    m->seed = (uint64_t)s.seed;
    m->overlap_k = s.overlap_k ? s.overlap_k : QSAE__OVERLAP_K;
    m->documents_per_block = kind == &qsae__kind_features ? s.documents_per_block : 0;
    m->memory = s.memory ? s.memory : DEFAULT_MEMORY;
    m->active_rate = s.active_rate > 0 ? s.active_rate : 0.001;
    m->fingerprint = qsae__strdup(ctx, s.fingerprint ? s.fingerprint : "");
    m->values.value = qsae__alloc_array(ctx, kind->n_results, sizeof(double));
    m->values.low = qsae__alloc_array(ctx, kind->n_results, sizeof(double));
    m->values.high = qsae__alloc_array(ctx, kind->n_results, sizeof(double));
    m->values.se = qsae__alloc_array(ctx, kind->n_results, sizeof(double));
    m->values.interval = qsae__calloc(ctx, kind->n_results, sizeof(bool));
    if (m->prompt_tokens)
        m->last_prompt = qsae__alloc_array(ctx, 2 * features, sizeof *m->last_prompt);
    const bool ok = m->fingerprint && m->values.value && m->values.low && m->values.high &&
                    m->values.se && m->values.interval && (m->last_prompt || !m->prompt_tokens);
    st = ok ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__state_init(m, &m->state);
    if (st != QSAE_OK) {
        qsae__unshare(m);
        qsae_metric_close(&m);
        return st;
    }
    *out = m;
    return QSAE_OK;
}

void qsae_metric_close(qsae_metric **metric)
{
    if (!qsae__leave(metric, "metric"))
        return;
    qsae_metric *const m = *metric;
    qsae_context *const ctx = m->ctx;
    qsae__state_free(m, &m->state);
    qsae__free(ctx, m->fingerprint);
    qsae__free(ctx, m->last_prompt);
    qsae__free(ctx, m->cuts);
    qsae__free(ctx, m->values.value);
    qsae__free(ctx, m->values.low);
    qsae__free(ctx, m->values.high);
    qsae__free(ctx, m->values.se);
    qsae__free(ctx, m->values.interval);
    qsae__retire(ctx, m);
    qsae__context_unref(ctx);
    *metric = NULL;
}

const char *qsae_metric_kind(const qsae_metric *metric)
{
    return qsae__is_open(metric) ? metric->kind->name : "";
}

int32_t qsae__metric_check(const qsae_metric *m, const qsae__kind *kind, const char *call)
{
    if (qsae__need(m, "metric"))
        return QSAE_EINVAL;
    if (m->kind != kind)
        return qsae__fail(QSAE_EINVAL, "%s: expected a metric of kind %s, found %s", call,
                          kind->name, m->kind->name);
    return QSAE_OK;
}

/* ---- results ---- */

static int32_t find_result(const qsae_metric *m, const char *name)
{
    for (int32_t i = 0; i < m->kind->n_results; i++)
        if (strcmp(m->kind->results[i].name, name) == 0)
            return i;
    return -1;
}

void qsae__set(const qsae_metric *m, qsae__values *v, const char *name, double value)
{
    const int32_t i = find_result(m, name);
    if (i >= 0)
        v->value[i] = value;
}

double qsae__get(const qsae_metric *m, const qsae__values *v, const char *name)
{
    return v->value[find_result(m, name)];
}

void qsae__set_bounds(const qsae_metric *m, qsae__values *v, const char *name, double low,
                      double high, double se)
{
    const int32_t i = find_result(m, name);
    v->low[i] = low;
    v->high[i] = high;
    v->se[i] = se;
    v->interval[i] = true;
}

int32_t qsae__set_intervals(qsae_metric *m, qsae__values *v, const qsae__interval *list, size_t n,
                            const int64_t *ids, const double *groups, int64_t documents, int64_t k)
{
    const qsae__documents d = { documents, k, QSAE__RUN_SUMS, ids, groups };
    qsae__bounds bounds[QSAE__INTERVALS_MOST];
    double value[QSAE__INTERVALS_MOST] = { 0 };
    for (size_t i = 0; i < n; i++) {
        const double scale = list[i].scale != 0 ? list[i].scale : 1;
        const double x = v->value[find_result(m, list[i].name)] / scale;
        value[i] = list[i].log ? log(x) : x;
    }
    const int32_t st = qsae__bootstrap(m, &d, list, value, n, bounds);
    for (size_t i = 0; i < n && st == QSAE_OK; i++)
        qsae__set_bounds(m, v, list[i].name, bounds[i].low, bounds[i].high, bounds[i].se);
    return st;
}

int32_t qsae__document_intervals(qsae_metric *m, qsae__values *v, const qsae__interval *list,
                                 size_t n)
{
    double *groups = NULL;
    int64_t *ids = NULL, documents = 0;
    int32_t st = qsae__runs_fold(m->ctx, &m->state.docs, &groups, &ids, &documents);
    if (st == QSAE_OK)
        st = qsae__set_intervals(m, v, list, n, ids, groups, documents, m->kind->doc_sums);
    qsae__free(m->ctx, groups);
    qsae__free(m->ctx, ids);
    return st;
}

static int32_t compute_common(qsae_metric *m, const double *sum)
{
    const qsae__tree *const tree = &m->state.tree;
    qsae__values *const v = &m->values;
    const int64_t span = tree->n ? qsae__tree_end(tree) - tree->node[0].first : 0;
    qsae__set(m, v, "tokens", sum[S_ROWS]);
    qsae__set(m, v, "nonfinite_rows", sum[S_NONFINITE]);
    qsae__set(m, v, "excluded_tokens", sum[S_EXCLUDED]);
    qsae__set(m, v, "gap_tokens", (double)(span - qsae__tree_tokens(tree)));
    if (!m->kind->doc_sums)
        return QSAE_OK;
    double *groups = NULL;
    int64_t n = 0;
    const int32_t st = qsae__runs_fold(m->ctx, &m->state.docs, &groups, NULL, &n);
    qsae__set(m, v, "documents", (double)n);
    qsae__free(m->ctx, groups);
    return st;
}

int32_t qsae__compute(qsae_metric *m)
{
    if (m->fresh)
        return QSAE_OK;
    double *sum = NULL;
    const qsae__fpenv env = qsae__fpenv_enter();
    int32_t st = qsae__tree_fold(&m->state.tree, &sum);
    for (int32_t i = 0; i < m->kind->n_results; i++)
        m->values.value[i] = m->values.low[i] = m->values.high[i] = m->values.se[i] = NAN;
    if (st == QSAE_OK)
        st = compute_common(m, sum);
    if (st == QSAE_OK)
        st = m->kind->compute(m, sum, &m->values);
    qsae__free(m->ctx, sum);
    qsae__fpenv_leave(env);
    m->fresh = st == QSAE_OK;
    return st;
}

int32_t qsae_metric_count(const qsae_metric *metric)
{
    return qsae__is_open(metric) ? metric->kind->n_results : 0;
}

int32_t qsae_metric_value(qsae_metric *metric, int32_t i, qsae_value *value)
{
    QSAE__FPENV;
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (!value || i < 0 || i >= metric->kind->n_results)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_value: NULL argument, or no result %d", (int)i);
    const int32_t st = qsae__compute(metric);
    if (st != QSAE_OK)
        return st;
    const qsae__result *const r = &metric->kind->results[i];
    const qsae_value all = { .struct_size = sizeof all, .name = r->name, .unit = r->unit,
                             .description = r->description, .value = metric->values.value[i],
                             .low = metric->values.low[i], .high = metric->values.high[i],
                             .jackknife_se = metric->values.se[i] };
    return qsae__info_copy(value, &all, sizeof all, "qsae_value");
}

bool qsae__metric_has_interval(const qsae_metric *metric, int32_t i)
{
    return metric && i >= 0 && i < metric->kind->n_results && metric->values.interval[i];
}

int32_t qsae_metric_get(qsae_metric *metric, const char *name, double *value)
{
    QSAE__FPENV;
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(value, "value"))
        return QSAE_EINVAL;
    if (!name || !value)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_get: NULL argument");
    const int32_t i = find_result(metric, name);
    if (i < 0)
        return qsae__fail(QSAE_ENOENT, "a metric of kind %s has no result \"%s\"",
                          metric->kind->name, name);
    const int32_t st = qsae__compute(metric);
    if (st == QSAE_OK)
        *value = metric->values.value[i];
    return st;
}

/* ---- merging ---- */

static int32_t check_same(const qsae_metric *a, const qsae_metric *b)
{
    if (a->kind != b->kind)
        return qsae__fail(QSAE_EMISMATCH, "kind: %s and %s", a->kind->name, b->kind->name);
    const struct {
        const char *name;
        int64_t a, b;
    } fields[] = {
        { "d", a->d, b->d },
        { "features", a->features, b->features },
        { "batch_rows", a->batch_rows, b->batch_rows },
        { "top", a->top, b->top },
        { "prompt_tokens", a->prompt_tokens, b->prompt_tokens },
        { "overlap_k", a->overlap_k, b->overlap_k },
        { "documents_per_block", a->documents_per_block, b->documents_per_block },
        { "memory", (int64_t)a->memory, (int64_t)b->memory },
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].a != fields[i].b)
            return qsae__fail(QSAE_EMISMATCH, "%s: %lld and %lld", fields[i].name,
                              (long long)fields[i].a, (long long)fields[i].b);
    if (a->active_rate != b->active_rate)
        return qsae__fail(QSAE_EMISMATCH, "active_rate: %g and %g", a->active_rate, b->active_rate);
    if (strcmp(a->fingerprint, b->fingerprint) != 0)
        return qsae__fail(QSAE_EMISMATCH, "fingerprint: \"%s\" and \"%s\"", a->fingerprint,
                          b->fingerprint);
    if (a->n_cuts != b->n_cuts ||
        (a->n_cuts && memcmp(a->cuts, b->cuts, (size_t)a->n_cuts * sizeof *a->cuts) != 0))
        return qsae__fail(QSAE_EMISMATCH, "cuts: the sums are kept apart at other tokens");
    for (int64_t i = 0; i < b->state.tree.n; i++) {
        const qsae__node *const node = &b->state.tree.node[i];
        if (qsae__tree_overlaps(&a->state.tree, node->first, node->tokens))
            return qsae__fail(QSAE_EMISMATCH,
                              "tokens %lld..%lld overlap tokens that were already added",
                              (long long)node->first, (long long)(node->first + node->tokens - 1));
    }
    return QSAE_OK;
}

static int32_t add_runs(qsae_context *ctx, qsae__runs *to, const qsae__runs *from)
{
    const int32_t st = qsae__grow(ctx, &to->run, &to->capacity, to->n + from->n, sizeof *to->run);
    if (st != QSAE_OK || from->n == 0)
        return st;
    memcpy(to->run + to->n, from->run, (size_t)from->n * sizeof *to->run);
    to->n += from->n;
    qsae__runs_sort(to);
    return QSAE_OK;
}

static int32_t add_sample(qsae_context *ctx, qsae__sample *to, const qsae__sample *from)
{
    if (to->words == 0)
        return QSAE_OK;
    const int32_t st = qsae__sample_reserve(ctx, to, from->n);
    if (st != QSAE_OK)
        return st;
    to->stride = to->stride > from->stride ? to->stride : from->stride;
    int64_t kept = 0;
    for (int64_t i = 0; i < to->n; i++)
        if (qsae__sample_wants(to, (int64_t)to->data[i * to->words]))
            memmove(to->data + kept++ * to->words, to->data + i * to->words,
                    (size_t)to->words * sizeof *to->data);
    to->n = kept;
    for (int64_t i = 0; i < from->n; i++) {
        const uint64_t *const record = from->data + i * from->words;
        if (qsae__sample_wants(to, (int64_t)record[0]))
            memcpy(qsae__sample_push(to, (int64_t)record[0]), record + 1,
                   (size_t)(to->words - 1) * sizeof *record);
    }
    qsae__sample_settle(to);
    return QSAE_OK;
}

/* s += the state of `from`. */
static int32_t add_state(qsae_metric *m, qsae__state *s, const qsae__state *from)
{
    int32_t st = qsae__tree_add(&s->tree, &from->tree);
    if (st == QSAE_OK)
        st = add_runs(m->ctx, &s->docs, &from->docs);
    if (st == QSAE_OK)
        st = add_runs(m->ctx, &s->groups, &from->groups);
    if (st == QSAE_OK)
        st = add_sample(m->ctx, &s->sample, &from->sample);
    if (st == QSAE_OK && m->kind->batches)
        st = qsae__batches_add(m, &s->batches, &from->batches);
    if (m->kind->add_counts)
        m->kind->add_counts(m, s->counts, from->counts);
    for (int64_t i = 0; !m->kind->add_counts && i < per_kind(m, m->kind->n_counts); i++)
        s->counts[i] += from->counts[i];
    for (int64_t i = 0; i < per_kind(m, m->kind->n_maxima); i++)
        s->maxima[i] = s->maxima[i] > from->maxima[i] ? s->maxima[i] : from->maxima[i];
    if (m->top)
        qsae__top_merge(m, s->top, from->top);
    if (st == QSAE_OK)
        st = qsae__blocks_merge(m->ctx, &s->blocks, &from->blocks);
    qsae__worst_merge(&s->worst, &from->worst);
    return st;
}

int32_t qsae_metric_merge(qsae_metric *metric, const qsae_metric *from)
{
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (qsae__need(from, "from"))
        return QSAE_EINVAL;
    int32_t st = check_same(metric, from);
    if (st != QSAE_OK)
        return st;
    qsae__state s;
    st = qsae__state_init(metric, &s);
    if (st != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = add_state(metric, &s, &metric->state);
    if (st == QSAE_OK)
        st = add_state(metric, &s, &from->state);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK) {
        qsae__state_free(metric, &s);
        return st;
    }
    qsae__state_free(metric, &metric->state);
    metric->state = s;
    metric->fresh = false;
    return QSAE_OK;
}

void qsae_metric_reset(qsae_metric *metric)
{
    if (!qsae__is_open(metric))
        return;
    qsae__state *const s = &metric->state;
    qsae__state kept = { .counts = s->counts, .maxima = s->maxima, .top = s->top };
    kept.worst.record = s->worst.record;
    qsae__prefix_clear(&s->tree);
    qsae__prefix_clear(&s->batches.done);
    kept.tree = s->tree;
    kept.docs.cut = kept.groups.cut = s->tree.cut;
    qsae__blocks_reset(&s->blocks);
    kept.blocks = s->blocks;
    memset(&s->blocks, 0, sizeof s->blocks);
    kept.sample = s->sample;
    kept.sample.n = 0;
    kept.sample.stride = 1;
    kept.batches.done = s->batches.done;
    for (int64_t i = 0; i < per_kind(metric, metric->kind->n_counts); i++)
        s->counts[i] = 0;
    for (int64_t i = 0; i < per_kind(metric, metric->kind->n_maxima); i++)
        s->maxima[i] = 0;
    if (metric->top)
        memset(s->top, 0, (size_t)(2 * metric->features * metric->top) * sizeof *s->top);
    s->top = NULL;
    s->worst.record = NULL;
    s->tree.whole = s->batches.done.whole = NULL;
    s->tree.kept = s->batches.done.kept = NULL;
    s->counts = NULL;
    s->maxima = NULL;
    s->sample.data = NULL;
    qsae__state_free(metric, s);
    kept.tree.node = kept.batches.done.node = NULL;
    kept.tree.n = kept.tree.capacity = kept.batches.done.n = kept.batches.done.capacity = 0;
    *s = kept;
    metric->fresh = false;
}
