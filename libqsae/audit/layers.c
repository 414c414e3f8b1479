/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layers that belong together in an audit: cross-layer transcoders, crosscoders, sets of
 * transcoders (sae.md A.2). Spliced in, all their outputs take their places at once. Transcoders
 * then read what the spliced model gives them, as in circuit-tracer's replacement model; a
 * crosscoder, whose outputs depend on later layers, keeps those of the model left alone.
 */
#include <math.h>
#include <string.h>

#include "audit/audit.h"

struct audit_live {
    qsae_context *ctx;
    int64_t rows, most;          /* members of the largest set */
    qsae__csr *csr;              /* [most] */
    const qsae__csr **acts;      /* [most] csr */
    uint8_t *seen;               /* [most] read in this pass */
    uint8_t *undefined;          /* [most, rows] rows read with NaN or infinity */
    float **skip;                /* [most] of [rows, width_out], NULL where there is none */
    float *y;                    /* [rows, widest] */
};

bool qsae__stands_alone(const qsae_audit *a, int64_t i)
{
    return !a->saes[i].of || a->saes[i].member == 0;
}

bool qsae__live_runs(const struct audit_layers *set)
{
    return set && strcmp(set->info.kind, "crosscoder") != 0;
}

int64_t qsae__layers_first(const qsae_audit *a, int64_t i, bool *embedded)
{
    const struct audit_sae *const own = &a->saes[i];
    const struct audit_sae *const s = own->of ? a->saes + own->of->first : own;
    const int64_t n = own->of ? own->of->info.layers : 1;
    int64_t first = s->layer;
    *embedded = false;
    for (int64_t k = 0; k < n; k++) {
        first = qsae__min_i64(first, s[k].layer);
        *embedded |= s[k].site == QSAE_SITE_EMBED || s[k].site == QSAE_SITE_POS_EMBED;
        if (!qsae__live_runs(own->of))
            continue;
        first = qsae__min_i64(first, s[k].layer_in);
        *embedded |= s[k].site_in == QSAE_SITE_EMBED || s[k].site_in == QSAE_SITE_POS_EMBED;
    }
    return first;
}

static bool finite_row(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

void qsae__undefined_rows(int64_t rows, const float *x, int64_t width, int64_t ldx, float *y,
                          int64_t d)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = finite_row(x + r * ldx, width) ? d : 0; i < d; i++)
            y[r * d + i] = NAN;
}

void qsae__live_close(qsae_audit *a, struct audit_live **live)
{
    struct audit_live *const l = *live;
    if (!l)
        return;
    for (int64_t k = 0; k < l->most; k++) {
        if (l->csr)
            qsae__csr_free(&l->csr[k]);
        if (l->skip)
            qsae__free(a->ctx, l->skip[k]);
    }
    void *const blocks[] = { l->csr, l->acts, l->seen, l->undefined, l->skip, l->y, l };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    *live = NULL;
}

int32_t qsae__live_open(qsae_audit *a, int64_t rows, struct audit_live **out)
{
    struct audit_live *const l = *out = qsae__calloc(a->ctx, 1, sizeof *l);
    int64_t widest = 0;
    if (!l)
        return QSAE_ENOMEM;
    l->ctx = a->ctx;
    l->rows = rows;
    for (int64_t i = 0; i < a->n_sets; i++)
        if (qsae__live_runs(&a->sets[i])) {
            l->most = qsae__max_i64(l->most, a->sets[i].info.layers);
            widest = qsae__max_i64(widest, a->sets[i].info.width_out);
        }
    l->csr = qsae__calloc(a->ctx, l->most, sizeof *l->csr);
    l->acts = qsae__calloc(a->ctx, l->most, sizeof *l->acts);
    l->seen = qsae__calloc(a->ctx, l->most, 1);
    l->undefined = qsae__calloc(a->ctx, l->most * rows, 1);
    l->skip = qsae__calloc(a->ctx, l->most, sizeof *l->skip);
    l->y = qsae__alloc_array(a->ctx, rows * widest, sizeof *l->y);
    bool ok = l->csr && l->acts && l->seen && l->undefined && l->skip && l->y;
    for (int64_t k = 0; k < l->most && ok; k++) {
        qsae__csr_init(&l->csr[k], a->ctx);
        l->acts[k] = &l->csr[k];
    }
    for (int64_t i = 0; i < a->n_saes && ok; i++) {
        const struct audit_sae *const s = &a->saes[i];
        if (qsae__live_runs(s->of) && s->info.skip && !l->skip[s->member])
            ok = (l->skip[s->member] = qsae__alloc_array(a->ctx, rows * widest, sizeof(float)));
    }
    return ok ? QSAE_OK : QSAE_ENOMEM;
}

void qsae__live_begin(struct audit_live *l)
{
    memset(l->seen, 0, (size_t)l->most);
}

int32_t qsae__live_read(struct audit_live *l, const struct audit_layers *set, int64_t k,
                        const float *x, int64_t rows, int64_t ld)
{
    qsae_sae *sae;
    qsae_sae_info info = { .struct_size = sizeof info };
    int32_t st = qsae_sae_layers_get(set->layers, k, NULL, &sae);
    if (st == QSAE_OK)
        st = qsae_sae_get_info(sae, &info);
    if (st == QSAE_OK)
        st = qsae__sae_encode_rows(sae, x, rows, ld, &l->csr[k]);
    for (int64_t r = 0; r < rows; r++)
        l->undefined[k * l->rows + r] = !finite_row(x + r * ld, set->info.width);
    if (st == QSAE_OK && info.skip) {
        memset(l->skip[k], 0, (size_t)(rows * set->info.width_out) * sizeof *l->skip[k]);
        st = qsae__sae_add_skip(sae, x, rows, ld, l->skip[k], set->info.width_out);
    }
    l->seen[k] = 1;
    return st;
}

int32_t qsae__live_write(struct audit_live *l, const struct audit_layers *set, int64_t k,
                         int64_t rows, const float **y)
{
    const int64_t d = set->info.width_out;
    qsae_sae *sae;
    qsae_sae_info info = { .struct_size = sizeof info };
    for (int64_t from = 0; from < set->info.layers; from++)
        if (qsae__sae_layers_writes(set->layers, from, k) && !l->seen[from])
            return qsae__fail(QSAE_EUNSUPPORTED, "splice: SAE %s: what it writes at its layer %lld "
                              "depends on rows that the model has only later", set->name,
                              (long long)k);
    int32_t st = qsae_sae_layers_get(set->layers, k, NULL, &sae);
    if (st == QSAE_OK)
        st = qsae_sae_get_info(sae, &info);
    if (st == QSAE_OK)
        st = qsae__sae_layers_decode(set->layers, l->acts, k, rows, l->y, d);
    for (int64_t i = 0; st == QSAE_OK && info.skip && i < rows * d; i++)
        l->y[i] += l->skip[k][i];
    for (int64_t from = 0; from < set->info.layers && st == QSAE_OK; from++)
        for (int64_t r = 0; r < rows && qsae__sae_layers_writes(set->layers, from, k); r++)
            for (int64_t i = l->undefined[from * l->rows + r] ? 0 : d; i < d; i++)
                l->y[r * d + i] = NAN;
    *y = l->y;
    return st;
}

/* Sum over the layers of a result. */
static double total(const struct participant *p, const struct audit_layers *set, const char *name)
{
    double sum = 0;
    for (int64_t k = 0; k < set->info.layers; k++)
        sum += qsae__value(p->saes[set->first + k].reconstruction, name);
    return sum;
}

int32_t qsae__layers_json(const qsae_audit *a, const struct participant *p,
                          const struct audit_layers *set, json_t **out)
{
    const bool defined = qsae__participant_features(p);
    const char *const slash = strrchr(set->name, '/');
    json_t *const o = *out = json_object(), *const list = json_array();
    json_object_set_new(o, "name", json_string(slash && slash[1] ? slash + 1 : set->name));
    json_object_set_new(o, "kind", json_string(set->info.kind));
    json_object_set_new(o, "format", json_string(set->info.format));
    json_object_set_new(o, "hash", json_string(set->info.hash));
    json_object_set_new(o, "features", json_integer(set->info.features));
    for (int64_t k = 0; k < set->info.layers; k++)
        json_array_append_new(list, json_integer(a->saes[set->first + k].layer));
    json_object_set_new(o, "layers", list);
    json_object_set_new(o, "first", json_integer(set->first));
    const double sse = defined ? total(p, set, "sse") : NAN;
    json_object_set_new(o, "fvu_dim", qsae__number(sse / total(p, set, "m2")));
    json_object_set_new(o, "fvu_raw", qsae__number(sse / total(p, set, "sum_x2")));
    json_object_set_new(o, "l0", qsae__number(defined ? total(p, set, "l0") : NAN));
    json_t *splice = json_null();
    const int32_t st = defined ? qsae__splice_json(&p->saes[set->first], &splice) : QSAE_OK;
    json_object_set_new(o, "splice", splice);
    return st;
}
