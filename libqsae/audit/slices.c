/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What averages hide: the same figures on each part of the tokens (methods.md section 8). Every
 * slice has accumulators of its own, which see the rows of the others as excluded.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/slices.h"
#include "metrics/tails.h"

#define LEAST_TOKENS 2000
#define LEAST_DOCUMENTS 20

const struct slice_dimension *qsae__slices_dimension(const qsae_audit *a, int64_t slice)
{
    const struct slice_dimension *d = a->slices->dimensions;
    while (slice >= d->first + d->n_values)
        d++;
    return d;
}

int32_t qsae__slices_metrics(qsae_audit *a, struct participant *p, const qsae_metric_settings *s)
{
    qsae_metric_settings small = *s;
    const bool reference = p == a->participants;
    small.memory = 1; /* medians and quantiles are not asked for */
    small.top = 0;
    if (!a->slices)
        return QSAE_OK;
    if (!(p->slices = qsae__calloc(a->ctx, a->slices->n, sizeof *p->slices)))
        return QSAE_ENOMEM;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->slices->n && st == QSAE_OK; i++) {
        struct slice_metrics *const m = &p->slices[i];
        st = reference ? qsae_metric_open_cross_entropy(a->ctx, &small, &m->cross_entropy)
                       : qsae_metric_open_divergence(a->ctx, &small, &m->divergence);
        const struct slice_dimension *const d = qsae__slices_dimension(a, i);
        if (st == QSAE_OK && d->saes && !d->late)
            st = qsae__slices_features_open(a, p, i, &small);
    }
    return st;
}

void qsae__slices_metrics_close(qsae_audit *a, struct participant *p)
{
    for (int64_t i = 0; p->slices && i < a->slices->n; i++) {
        struct slice_metrics *const m = &p->slices[i];
        qsae_metric_close(&m->cross_entropy);
        qsae_metric_close(&m->divergence);
        qsae__slices_features_close(a, m);
    }
    qsae__free(a->ctx, p->slices);
    p->slices = NULL;
}

bool qsae__slices_metric(const qsae_audit *a, const struct participant *p, int64_t i,
                         qsae_metric **out)
{
    const int64_t each = 1 + 3 * a->n_saes;
    *out = NULL;
    if (!p->slices || i >= a->slices->n * each)
        return false;
    const struct slice_metrics *const m = &p->slices[i / each];
    const int64_t part = i % each - 1;
    qsae_metric **const lists[] = { m->reconstruction, m->drift, m->mass };
    if (part >= 0)
        *out = lists[part % 3] ? lists[part % 3][part / 3] : NULL;
    else if (!qsae__slices_dimension(a, i / each)->late)
        *out = m->cross_entropy ? m->cross_entropy : m->divergence;
    return true;
}

qsae_positions qsae__slices_positions(qsae_audit *a, const struct audit_batch *b,
                                      const struct slice_dimension *d, int32_t value, bool label,
                                      const uint8_t *mask)
{
    uint8_t *const out = a->slices->mask;
    for (int64_t r = 0; r < b->rows; r++)
        out[r] = (uint8_t)(mask[r] | (qsae__slice_value(d, b, r, label) == value
                                          ? 0 : QSAE_MASK_EXCLUDED));
    return qsae__batch_positions(b, out);
}

int32_t qsae__slices_update_predictions(qsae_audit *a, struct participant *p,
                                        const struct audit_batch *b,
                                        const qsae_divergence_rows *rows, const float *nll)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; a->slices && i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        for (int32_t v = 0; !d->late && v < d->n_values && st == QSAE_OK; v++) {
            struct slice_metrics *const m = &p->slices[d->first + v];
            const qsae_positions at = qsae__slices_positions(a, b, d, v, true, b->mask);
            st = qsae__batch_added(a, m->divergence
                                    ? qsae_metric_update_divergence(m->divergence, &at, rows)
                                    : qsae_metric_update_cross_entropy(m->cross_entropy, &at,
                                                                       b->rows, nll));
        }
    }
    return st;
}

/* ---- the result ---- */

/* A slice of one condition, for the ranking. */
struct row {
    int64_t slice;
    double dce, p, q;
};

static int by_p(const void *a, const void *b)
{
    const struct row *const x = a, *const y = b;
    if (x->p != y->p)
        return x->p < y->p ? -1 : 1;
    return (x->slice > y->slice) - (x->slice < y->slice);
}

static qsae_value value_of(qsae_metric *m, const char *name)
{
    qsae_value v = { .struct_size = sizeof v };
    for (int32_t i = 0; i < qsae_metric_count(m); i++)
        if (qsae_metric_value(m, i, &v) == QSAE_OK && strcmp(v.name, name) == 0)
            return v;
    return (qsae_value){ .value = NAN, .low = NAN, .high = NAN, .jackknife_se = NAN };
}

/*
 * Two-sided p of a slice's dce being that of all tokens, from its jackknife error, and
 * Benjamini-Hochberg's q over the slices (rows are left sorted by p).
 */
static void test_slices(struct row *rows, int64_t n)
{
    double q = 1;
    qsort(rows, (size_t)n, sizeof *rows, by_p);
    for (int64_t i = n; i-- > 0;) {
        q = fmin(q, rows[i].p * (double)n / (double)(i + 1));
        rows[i].q = q;
    }
}

static bool enough(qsae_metric *m)
{
    return qsae__value(m, "tokens") >= LEAST_TOKENS &&
           qsae__value(m, "documents") >= LEAST_DOCUMENTS;
}

static void set(json_t *o, const char *key, double v, bool shown)
{
    json_object_set_new(o, key, shown ? qsae__number(v) : json_null());
}

static void set_interval(json_t *o, const char *key, const qsae_value *v, bool shown)
{
    if (shown && isfinite(v->low) && isfinite(v->high))
        json_object_set_new(o, key, json_pack("[f,f]", v->low, v->high));
}

static const struct slice_extra *extra_of(const qsae_audit *a, const struct participant *p,
                                          int64_t slice)
{
    return a->slices->extra + (p - a->participants - 1) * a->slices->n + slice;
}

static double fvu_of(qsae_audit *a, const struct participant *p, int64_t slice, int64_t sae)
{
    const struct slice_kept *const kept = qsae__slices_kept(a, p, slice, sae);
    qsae_metric **const m = p->slices[slice].reconstruction;
    return m ? qsae__value(m[sae], "fvu_dim") : kept ? kept->fvu_dim : NAN;
}

static json_t *saes_json(qsae_audit *a, struct participant *p, int64_t slice, bool shown)
{
    json_t *const list = json_array();
    for (int64_t k = 0; k < a->n_saes; k++) {
        json_t *const o = qsae__sae_head(&a->saes[k]);
        const struct slice_kept *const kept = qsae__slices_kept(a, p, slice, k);
        const bool known = shown && qsae__participant_features(p);
        const double fvu = known ? fvu_of(a, p, slice, k) : NAN;
        json_array_append_new(list, o);
        set(o, "fvu_dim", fvu, true);
        set(o, "rows", known && kept ? kept->rows : NAN, true);
        if (p == a->participants)
            continue;
        set(o, "dfvu_dim", known ? fvu - fvu_of(a, a->participants, slice, k) : NAN, true);
        qsae__slices_features_json(a, p, slice, k, extra_of(a, p, slice), shown, o);
    }
    return list;
}

static json_t *condition_json(qsae_audit *a, struct participant *p, int64_t slice, bool shown)
{
    static const char *const keys[] = { "ce_q", "dce_percent", "top1_agreement", "right_to_wrong",
                                        "wrong_to_right", NULL };
    qsae_metric *const m = p->slices[slice].divergence;
    const struct slice_extra *const extra = extra_of(a, p, slice);
    const qsae_value dce = value_of(m, "dce"), kl = value_of(m, "kl_mean");
    json_t *const o = json_object(), *const intervals = json_object();
    json_object_set_new(o, "label", json_string(p->label));
    set(o, "dce", dce.value, shown);
    set(o, "kl_mean", kl.value, shown);
    for (int i = 0; keys[i]; i++)
        set(o, i ? keys[i] : "ce", qsae__value(m, keys[i]), shown);
    set(o, "top1_disagreement", 1 - qsae__value(m, "top1_agreement"), shown);
    set(o, "kl_median", extra->kl_median, shown);
    set(o, "kl_q99", extra->kl_q99, shown);
    set(o, "dnll_q99", extra->dnll_q99, shown);
    set_interval(intervals, "dce", &dce, shown);
    set_interval(intervals, "kl_mean", &kl, shown);
    json_object_set_new(o, "intervals", intervals);
    json_object_set_new(o, "p", json_null());
    json_object_set_new(o, "q", json_null());
    json_object_set_new(o, "saes", saes_json(a, p, slice, shown));
    return o;
}

static json_t *slice_json(qsae_audit *a, const struct slice_dimension *d, int32_t v)
{
    const int64_t slice = d->first + v;
    struct participant *const r = &a->participants[0];
    qsae_metric *const m = r->slices[slice].cross_entropy;
    const bool shown = enough(m);
    json_t *const o = json_object(), *const reference = json_object(), *const list = json_array();
    json_object_set_new(o, "dimension", json_string(d->name));
    json_object_set_new(o, "value", json_string(d->values[v]));
    json_object_set_new(o, "tokens", qsae__named(m, "predicted"));
    json_object_set_new(o, "documents", qsae__named(m, "documents"));
    json_object_set_new(o, "enough", json_boolean(shown));
    json_object_set_new(o, "reference", reference);
    set(reference, "ce", qsae__value(m, "ce"), shown);
    set(reference, "ppl", qsae__value(m, "ppl"), shown);
    json_object_set_new(reference, "saes", saes_json(a, r, slice, shown));
    json_object_set_new(o, "conditions", list);
    for (int64_t p = 1; p < a->n_participants; p++)
        json_array_append_new(list, condition_json(a, &a->participants[p], slice, shown));
    return o;
}

/* The slices of a condition that have an interval, tested against all tokens. */
static int64_t rank_slices(qsae_audit *a, struct participant *p, struct row *rows)
{
    const double all = qsae__value(p->divergence, "dce");
    int64_t n = 0;
    for (int64_t i = 0; i < a->slices->n; i++) {
        const qsae_value dce = value_of(p->slices[i].divergence, "dce");
        const double se = dce.jackknife_se;
        if (!enough(a->participants[0].slices[i].cross_entropy) || !(se >= 0))
            continue;
        const double z = se > 0 ? fabs(dce.value - all) / se : dce.value == all ? 0 : INFINITY;
        rows[n++] = (struct row){ .slice = i, .dce = dce.value, .p = erfc(z / sqrt(2)) };
    }
    test_slices(rows, n);
    return n;
}

/* Equal weight for every slice of a dimension that has enough tokens. */
static json_t *macro_json(qsae_audit *a, struct participant *p)
{
    json_t *const o = json_object();
    for (int64_t i = 0; i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        double dce = 0, kl = 0, top = 0, n = 0;
        for (int32_t v = 0; v < d->n_values; v++) {
            if (!enough(a->participants[0].slices[d->first + v].cross_entropy))
                continue;
            dce += qsae__value(p->slices[d->first + v].divergence, "dce");
            kl += qsae__value(p->slices[d->first + v].divergence, "kl_mean");
            top += qsae__value(p->slices[d->first + v].divergence, "top1_agreement");
            n += 1;
        }
        json_t *const m = json_object();
        json_object_set_new(o, d->name, m);
        set(m, "dce", dce / n, true);
        set(m, "kl_mean", kl / n, true);
        set(m, "top1_agreement", top / n, true);
        set(m, "slices", n, true);
    }
    return o;
}

/* All tokens: every one has the same weight. */
static json_t *micro_json(const struct participant *p)
{
    json_t *const o = json_object();
    for (const char *const *k = (const char *const[]){ "dce", "kl_mean", "top1_agreement", NULL };
         *k; k++)
        set(o, *k, qsae__value(p->divergence, *k), true);
    return o;
}

/* A division: its name and the borders between its parts, where they are found. */
static void add_edges(const struct slice_dimension *d, json_t *list)
{
    for (int32_t f = 0; f < d->n_factors; f++)
        add_edges(&d->factors[f], list);
    if (d->kind != QSAE__SLICE_ENTROPY)
        return;
    for (int32_t i = 0; i < d->n_values - 1; i++)
        json_array_append_new(list, qsae__number(d->edges[i]));
}

static json_t *dimensions_json(const qsae_audit *a)
{
    json_t *const list = json_array();
    bool all = true;
    for (int64_t i = 1; i < a->n_participants && all; i++)
        qsae__divergence_kept(a->participants[i].divergence, &all);
    for (int64_t i = 0; i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        json_t *const edges = json_array();
        add_edges(d, edges);
        const bool any = json_array_size(edges) > 0;
        json_array_append_new(list, json_pack("{s:s,s:i,s:o,s:b}", "dimension", d->name, "parts",
                                              (int)d->n_values, "entropy_edges",
                                              any ? edges : json_null(), "sampled",
                                              d->late && !all));
        if (!any)
            json_decref(edges);
    }
    return list;
}

static int32_t summary_json(qsae_audit *a, int64_t i, json_t *list, json_t *to)
{
    struct participant *const p = &a->participants[i];
    struct row *const rows = qsae__calloc(a->ctx, a->slices->n, sizeof *rows);
    if (!rows)
        return QSAE_ENOMEM;
    const int64_t n = rank_slices(a, p, rows);
    const struct row *worst = NULL;
    for (int64_t k = 0; k < n; k++) {
        json_t *const c = json_array_get(
            json_object_get(json_array_get(list, (size_t)rows[k].slice), "conditions"),
            (size_t)i - 1);
        set(c, "p", rows[k].p, true);
        set(c, "q", rows[k].q, true);
        if (!worst || rows[k].dce > worst->dce)
            worst = &rows[k];
    }
    json_t *const o = json_object(), *w = json_null();
    if (worst) {
        const struct slice_dimension *const d = qsae__slices_dimension(a, worst->slice);
        w = json_object();
        json_object_set_new(w, "dimension", json_string(d->name));
        json_object_set_new(w, "value", json_string(d->values[worst->slice - d->first]));
        set(w, "dce", worst->dce, true);
        set(w, "q", worst->q, true);
    }
    json_object_set_new(o, "label", json_string(p->label));
    json_object_set_new(o, "dce", qsae__number(qsae__value(p->divergence, "dce")));
    json_object_set_new(o, "worst", w);
    json_object_set_new(o, "macro", macro_json(a, p));
    json_object_set_new(o, "micro", micro_json(p));
    json_array_append_new(to, o);
    qsae__free(a->ctx, rows);
    return QSAE_OK;
}

int32_t qsae__slices_json(qsae_audit *a, json_t **out)
{
    *out = json_null();
    if (!a->slices)
        return QSAE_OK;
    int32_t st = qsae__slices_late(a);
    if (st != QSAE_OK) {
        qsae__slices_late_close(a);
        return st;
    }
    json_t *const list = json_array(), *const summaries = json_array();
    for (int64_t i = 0; i < a->slices->n_dimensions; i++)
        for (int32_t v = 0; v < a->slices->dimensions[i].n_values; v++)
            json_array_append_new(list, slice_json(a, &a->slices->dimensions[i], v));
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++)
        st = summary_json(a, i, list, summaries);
    qsae__slices_late_close(a);
    *out = json_pack("{s:o,s:o,s:o}", "list", list, "summary", summaries, "dimensions",
                     dimensions_json(a));
    return st;
}
