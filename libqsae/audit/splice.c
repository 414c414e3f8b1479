/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Splicing (sae.md A.6 and C.1, methods.md section 4): what an SAE's reconstruction is worth to the
 * model. At the place it reconstructs (of a transcoder its output, of one attention head its
 * columns) the model's rows are replaced by their reconstruction, by zero or by their mean over the
 * logical batch; the layers from there on and the head run again; the predictions are compared with
 * those of the same model left alone. A row that features do not count (a first position, where the
 * profile says so) keeps its value, but for zero ablation, which spares none, as in SAELens; so
 * does one with NaN or infinity, or whose reconstruction has them.
 */
#include <math.h>
#include <string.h>

#include "audit/uncertainty.h"

/* What a variant leaves behind, [rows] each. */
struct outcome {
    float *nll, *kl;
    int32_t *top;
};

struct audit_splice {
    int64_t n_saes, members;
    float *final[QSAE__SPLICES];  /* [rows_max, width] */
    double *mean;                 /* [the widest SAE's width] */
    struct audit_live *live;      /* of layers that belong together, or NULL */
    struct outcome *outcomes;     /* [members, n_saes, QSAE__SPLICES] */
};

static struct outcome *outcome_of(const struct audit_splice *s, int64_t member, int64_t sae)
{
    return s->outcomes + (member * s->n_saes + sae) * QSAE__SPLICES;
}

void qsae__splice_close(qsae_audit *a, struct audit_splice **splice)
{
    struct audit_splice *const s = *splice;
    if (!s)
        return;
    for (int v = 0; v < QSAE__SPLICES; v++)
        qsae__free(a->ctx, s->final[v]);
    for (int64_t i = 0; s->outcomes && i < s->members * s->n_saes * QSAE__SPLICES; i++) {
        qsae__free(a->ctx, s->outcomes[i].nll);
        qsae__free(a->ctx, s->outcomes[i].kl);
        qsae__free(a->ctx, s->outcomes[i].top);
    }
    qsae__live_close(a, &s->live);
    qsae__free(a->ctx, s->outcomes);
    qsae__free(a->ctx, s->mean);
    qsae__free(a->ctx, s);
    *splice = NULL;
}

int32_t qsae__splice_open(qsae_audit *a, int64_t members, int64_t rows, int64_t width,
                          int64_t widest, struct audit_splice **out)
{
    struct audit_splice *const s = qsae__calloc(a->ctx, 1, sizeof *s);
    *out = s;
    if (!s)
        return QSAE_ENOMEM;
    s->n_saes = a->n_saes;
    s->members = members;
    s->mean = qsae__alloc_array(a->ctx, widest, sizeof *s->mean);
    bool ok = s->mean != NULL;
    for (int v = 0; v < QSAE__SPLICES && ok; v++)
        ok = (s->final[v] = qsae__alloc_array(a->ctx, rows * width, sizeof(float))) != NULL;
    const int64_t n = members * a->n_saes * QSAE__SPLICES;
    ok = ok && (s->outcomes = qsae__calloc(a->ctx, n, sizeof *s->outcomes));
    for (int64_t i = 0; i < n && ok; i++) {
        struct outcome *const o = &s->outcomes[i];
        o->nll = qsae__alloc_array(a->ctx, rows, sizeof(float));
        o->kl = qsae__alloc_array(a->ctx, rows, sizeof(float));
        o->top = qsae__alloc_array(a->ctx, rows, sizeof(int32_t));
        ok = o->nll && o->kl && o->top;
    }
    const int32_t st = !ok ? QSAE_ENOMEM
                       : a->n_sets > 0 ? qsae__live_open(a, rows, &s->live) : QSAE_OK;
    if (st != QSAE_OK)
        qsae__splice_close(a, out);
    return st;
}

static bool keeps(const struct audit_batch *b, int64_t row, const struct splice_rows *in)
{
    const float *const x = in->x + row * in->ld, *const y = in->y + row * in->width;
    if (b->mask_features[row] & QSAE_MASK_EXCLUDED)
        return true;
    for (int64_t i = 0; i < in->width; i++)
        if (!isfinite(x[i]) || !isfinite(y[i]))
            return true;
    return false;
}

/* mean [width] of the rows that are replaced. */
static void mean_of(const struct audit_batch *b, const struct splice_rows *in, double *mean)
{
    const int64_t width = in->width;
    int64_t n = 0;
    memset(mean, 0, (size_t)width * sizeof *mean);
    for (int64_t r = 0; r < b->rows; r++) {
        const float *const x = in->x + r * in->ld;
        if (keeps(b, r, in))
            continue;
        n++;
        for (int64_t i = 0; i < width; i++)
            mean[i] += (double)x[i];
    }
    for (int64_t i = 0; i < width && n > 0; i++)
        mean[i] /= (double)n;
}

/* to[rows, width] = x, replaced as the variant says; ld: row stride. in_place: a row that keeps its
 * value keeps the one it has there. */
static void replace(const struct audit_splice *s, const struct audit_batch *b, int variant,
                    const struct splice_rows *in, bool in_place, float *to, int64_t ld)
{
    const int64_t width = in->width;
    for (int64_t r = 0; r < b->rows; r++) {
        const float *const x = in->x + r * in->ld;
        float *const row = to + r * ld;
        if (variant == QSAE__SPLICE_ZERO)
            memset(row, 0, (size_t)width * sizeof *row);
        else if (keeps(b, r, in))
            memcpy(row, in_place ? row : x, (size_t)width * sizeof *row);
        else if (variant == QSAE__SPLICE_SAE)
            memcpy(row, in->y + r * width, (size_t)width * sizeof *row);
        else
            for (int64_t i = 0; i < width; i++)
                row[i] = (float)s->mean[i];
    }
}

/* What takes the place of the rows at the SAE's site, or at those of all layers that belong
 * together: a watch of the slab. */
struct replacement {
    const struct audit_splice *s;
    const struct audit_batch *b;
    const struct splice_rows *in; /* [n] */
    const qsae_model *model;
    const struct audit_sae *saes; /* [n] */
    int64_t n;
    int variant;
    struct audit_live *live;      /* or NULL: the outputs are in->y */
};

static bool is_at(const struct audit_sae *s, int64_t layer, int32_t site)
{
    return s->layer == layer && s->site == site;
}

static bool reads_at(const struct replacement *r, int64_t k, int64_t layer, int32_t site)
{
    return r->live && r->saes[k].layer_in == layer && r->saes[k].site_in == site;
}

static bool wants(void *self, int64_t layer, int32_t site)
{
    const struct replacement *const r = self;
    for (int64_t k = 0; k < r->n; k++)
        if (is_at(&r->saes[k], layer, site) || reads_at(r, k, layer, site))
            return true;
    return false;
}

/* Whether what layer k reads at a site goes into what is written there. */
static bool feeds(const struct replacement *r, int64_t k, int64_t layer, int32_t site)
{
    for (int64_t m = 0; m < r->n; m++)
        if (is_at(&r->saes[m], layer, site) && qsae__sae_layers_writes(r->saes->of->layers, k, m))
            return true;
    return false;
}

/* Gives their rows to the layers that read here: those that feed what is written here, before it
 * is; the others after. */
static int32_t read_rows(const struct replacement *r, int64_t layer, int32_t site, bool before,
                         const float *rows, int64_t n, int64_t ld)
{
    int32_t st = QSAE_OK;
    for (int64_t k = 0; k < r->n && st == QSAE_OK; k++)
        if (reads_at(r, k, layer, site) && feeds(r, k, layer, site) == before)
            st = qsae__live_read(r->live, r->saes->of, k, rows, n, ld);
    return st;
}

static int32_t put(void *self, int64_t layer, int32_t site, float *rows, int64_t n, int64_t cols,
                   int64_t ld)
{
    const struct replacement *const r = self;
    bool changed = false;
    int32_t st = read_rows(r, layer, site, true, rows, n, ld);
    for (int64_t k = 0; k < r->n && st == QSAE_OK; k++) {
        struct splice_rows in = r->in[k];
        if (!is_at(&r->saes[k], layer, site))
            continue;
        if (r->live)
            st = qsae__live_write(r->live, r->saes->of, k, n, &in.y);
        if (st != QSAE_OK)
            return st;
        if (r->variant == QSAE__SPLICE_MEAN)
            mean_of(r->b, &in, r->s->mean);
        replace(r->s, r->b, r->variant, &in, r->saes->of != NULL, rows + r->saes[k].column, ld);
        changed = true;
    }
    for (int64_t i = 0; i < n && changed && !qsae__site_unrounded(site); i++)
        qsae__model_round(r->model, rows + i * ld, cols);
    return st == QSAE_OK ? read_rows(r, layer, site, false, rows, n, ld) : st;
}

/* The model from the SAE's place on, to the final norm. */
static int32_t run_above(qsae_audit *a, struct audit_splice *s, struct participant *who, int64_t i,
                         const struct audit_batch *b, int variant, const struct splice_rows *in,
                         qsae__slab *slab)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    const struct audit_sae *const sae = &a->saes[i];
    const bool live = variant == QSAE__SPLICE_SAE && qsae__live_runs(sae->of);
    struct replacement r = { .s = s, .b = b, .in = in, .model = who->model, .saes = sae,
                             .n = sae->of ? sae->of->info.layers : 1, .variant = variant,
                             .live = live ? s->live : NULL };
    const qsae__watch watch = { &r, wants, put };
    bool embedded;
    int64_t first = 0;
    int32_t st = qsae_model_get_info(who->model, &info);
    if (st != QSAE_OK)
        return st;
    if (live)
        qsae__live_begin(s->live);
    slab->watch = &watch;
    const bool resumes = qsae__model_resumes(who->model);
    if (resumes && !sae->of && sae->site == QSAE_SITE_RESID_POST) {
        st = put(&r, sae->layer, sae->site, slab->x, b->rows, in->width, in->width);
        first = sae->layer + 1;
    } else if (resumes && in->entry) {
        memcpy(slab->x, in->entry, (size_t)(b->rows * who->width) * sizeof *slab->x);
        first = qsae__layers_first(a, i, &embedded);
    } else {
        st = qsae__model_embed(who->model, slab);
    }
    for (int64_t n = first; n < info.layers && st == QSAE_OK; n++) {
        st = qsae__canceled(a->cancel);
        if (st == QSAE_OK)
            st = qsae__model_step(who->model, n, slab);
    }
    if (st == QSAE_OK)
        st = qsae__model_final(who->model, slab, s->final[variant]);
    slab->watch = NULL;
    return st;
}

int32_t qsae__splice_run(qsae_audit *a, struct audit_splice *s, struct participant *who,
                         int64_t member, int64_t sae, const struct audit_batch *b,
                         const struct splice_rows *in, const float *final, qsae__slab *slab)
{
    struct outcome *const outcomes = outcome_of(s, member, sae);
    qsae__head_rows heads[1 + QSAE__SPLICES] = { { .model = who->model, .final = final } };
    const double start = qsae__now();
    int32_t st = QSAE_OK;
    for (int v = 0; v < QSAE__SPLICES && st == QSAE_OK; v++) {
        st = run_above(a, s, who, sae, b, v, in, slab);
        heads[1 + v] = (qsae__head_rows){ .model = who->model, .final = s->final[v],
                                          .nll = outcomes[v].nll, .kl = outcomes[v].kl,
                                          .top = outcomes[v].top };
    }
    if (st == QSAE_OK)
        st = qsae__head_run(a->ctx, b->rows, b->labels, 1 + QSAE__SPLICES, heads, a->cancel);
    who->splice_seconds += qsae__now() - start;
    return st;
}

int32_t qsae__splice_update(qsae_audit *a, const struct audit_splice *s, struct participant *who,
                            int64_t member, int64_t sae, const struct audit_batch *b,
                            const float *nll, const int32_t *top)
{
    const struct outcome *const outcomes = outcome_of(s, member, sae);
    const qsae_positions at = qsae__batch_positions(b, b->mask_features);
    int32_t st = QSAE_OK;
    for (int v = 0; v < QSAE__SPLICES && st == QSAE_OK; v++) {
        const qsae_divergence_rows d = { .struct_size = sizeof d, .n = b->rows, .nll_r = nll,
                                         .nll_q = outcomes[v].nll, .kl = outcomes[v].kl,
                                         .top_r = top, .top_q = outcomes[v].top,
                                         .label = b->labels };
        st = qsae__batch_added(a, qsae_metric_update_divergence(who->saes[sae].splice[v], &at, &d));
    }
    return st;
}

static void set(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, qsae__number(v));
}

/* Interval of a result. */
static void set_interval(json_t *o, const char *key, qsae_metric *m, const char *name)
{
    qsae__bounds b = { NAN, NAN, NAN };
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        if (qsae_metric_value(m, i, &v) == QSAE_OK && strcmp(v.name, name) == 0)
            b = (qsae__bounds){ v.low, v.high, v.jackknife_se };
    }
    qsae__set_bounds_json(o, key, &b);
}

int32_t qsae__splice_json(const struct audit_features *f, json_t **out)
{
    static const char *const names[QSAE__SPLICES] = { "sae", "zero", "mean" };
    double ce[QSAE__SPLICES], kl[QSAE__SPLICES];
    *out = json_null();
    if (!f->splice[0])
        return QSAE_OK;
    json_t *const o = *out = json_object();
    const double alone = qsae__value(f->splice[0], "ce_r");
    json_object_set_new(o, "tokens", qsae__named(f->splice[0], "tokens"));
    set(o, "ce", alone);
    for (int v = 0; v < QSAE__SPLICES; v++) {
        char key[32];
        snprintf(key, sizeof key, "ce_%s", names[v]);
        set(o, key, ce[v] = qsae__value(f->splice[v], "ce_q"));
        set_interval(o, key, f->splice[v], "ce_q");
        snprintf(key, sizeof key, "dce_%s", names[v]);
        set(o, key, qsae__value(f->splice[v], "dce"));
        set_interval(o, key, f->splice[v], "dce");
        snprintf(key, sizeof key, "kl_%s", names[v]);
        set(o, key, kl[v] = qsae__value(f->splice[v], "kl_mean"));
        set_interval(o, key, f->splice[v], "kl_mean");
        snprintf(key, sizeof key, "top1_agreement_%s", names[v]);
        set(o, key, qsae__value(f->splice[v], "same_top"));
        set_interval(o, key, f->splice[v], "same_top");
    }
    set(o, "ce_recovered", (ce[QSAE__SPLICE_ZERO] - ce[QSAE__SPLICE_SAE]) /
                               (ce[QSAE__SPLICE_ZERO] - alone));
    set(o, "ce_recovered_mean", (ce[QSAE__SPLICE_MEAN] - ce[QSAE__SPLICE_SAE]) /
                                    (ce[QSAE__SPLICE_MEAN] - alone));
    set(o, "kl_recovered", (kl[QSAE__SPLICE_ZERO] - kl[QSAE__SPLICE_SAE]) / kl[QSAE__SPLICE_ZERO]);
    qsae__set_reason_json(o, f->splice[0]);
    return qsae__recovered_json(o, f);
}
