/* SPDX-License-Identifier: BSD-2-Clause */
/* What SAEs say of a part of the tokens beside their FVU: drift against their own error, and
 * whether the features that live there survive (methods.md section 8). */
#include <math.h>
#include <string.h>

#include "audit/slices.h"
#include "metrics/mass.h"

int32_t qsae__slices_features_open(qsae_audit *a, struct participant *p, int64_t slice,
                                   const qsae_metric_settings *s)
{
    struct slice_metrics *const m = &p->slices[slice];
    const bool reference = p == a->participants;
    qsae_metric ***const list = reference ? &m->mass : &m->drift;
    int32_t st = QSAE_OK;
    m->reconstruction = qsae__calloc(a->ctx, a->n_saes, sizeof *m->reconstruction);
    *list = qsae__calloc(a->ctx, a->n_saes, sizeof **list);
    if (!m->reconstruction || !*list)
        return QSAE_ENOMEM;
    for (int64_t k = 0; k < a->n_saes && st == QSAE_OK; k++) {
        const qsae_sae_info *const info = &a->saes[k].info;
        st = qsae_metric_open_reconstruction(a->ctx, info->width_out, 0, s,
                                             &m->reconstruction[k]);
        if (st == QSAE_OK)
            st = reference ? qsae__mass_open(a->ctx, info->features, s, &m->mass[k])
                           : qsae_metric_open_drift(a->ctx, info->width_out, s, &m->drift[k]);
    }
    return st;
}

void qsae__slices_features_close(qsae_audit *a, struct slice_metrics *m)
{
    qsae_metric ***const lists[] = { &m->reconstruction, &m->drift, &m->mass };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (int64_t k = 0; *lists[i] && k < a->n_saes; k++)
            qsae_metric_close(&(*lists[i])[k]);
        qsae__free(a->ctx, *lists[i]);
        *lists[i] = NULL;
    }
}

static int32_t update_slice(const qsae_audit *a, const struct slice_metrics *m, int64_t sae,
                            const qsae_positions *at, const struct slice_rows *rows)
{
    int32_t st = qsae__batch_added(a, qsae_metric_update_reconstruction(m->reconstruction[sae], at,
                                                                  rows->x, rows->y, NULL));
    if (st == QSAE_OK && m->drift)
        st = qsae__batch_added(a, qsae_metric_update_drift(m->drift[sae], at, rows->x_r, rows->x,
                                                     rows->y_r, rows->y));
    if (st == QSAE_OK && m->mass)
        st = qsae__batch_added(a, qsae__mass_update(m->mass[sae], at, rows->acts_r));
    return st;
}

int32_t qsae__slices_update_features(qsae_audit *a, struct participant *p, int64_t sae,
                                     const struct audit_batch *b, const struct slice_rows *rows)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; a->slices && i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        for (int32_t v = 0; d->saes && !d->late && v < d->n_values && st == QSAE_OK; v++) {
            const qsae_positions at = qsae__slices_positions(a, b, d, v, false, b->mask_features);
            st = update_slice(a, &p->slices[d->first + v], sae, &at, rows);
        }
    }
    return st;
}

/* ---- survival ---- */

/* [features] each; of a division of the tokens: each feature's mass in one part, and in all. */
struct masses {
    double *r, *rate, *part, *all;
};

/* Whether it is known where features live; mass [features] of a value. */
static bool has_mass(const qsae_audit *a, const struct slice_dimension *d, int64_t sae)
{
    return d->saes && (!d->late || qsae__slices_rows_mass(a, d, sae));
}

static void read_mass(const qsae_audit *a, const struct slice_dimension *d, int64_t sae, int32_t v,
                      double *mass)
{
    const int64_t n = a->saes[sae].info.features;
    if (d->late)
        memcpy(mass, qsae__slices_rows_mass(a, d, sae) + v * n, (size_t)n * sizeof *mass);
    else
        qsae__mass_get(a->participants[0].slices[d->first + v].mass[sae], mass);
}

static void count_dimension(const qsae_audit *a, const struct slice_dimension *d, int64_t sae,
                            const struct masses *m, struct slice_extra *extra)
{
    const int64_t n = a->saes[sae].info.features;
    for (int64_t f = 0; f < n; f++)
        m->all[f] = 0;
    for (int32_t v = 0; v < d->n_values; v++) {
        read_mass(a, d, sae, v, m->part);
        for (int64_t f = 0; f < n; f++)
            m->all[f] += m->part[f];
    }
    for (int32_t v = 0; v < d->n_values; v++) {
        struct slice_survival *const out = &extra[d->first + v].saes[sae];
        read_mass(a, d, sae, v, m->part);
        for (int64_t f = 0; f < n; f++) {
            /* active as in survival: methods.md 3.4 */
            const bool here = m->rate[f] > 0.001 && m->all[f] > 0 && 2 * m->part[f] >= m->all[f];
            out->features += here;
            out->survived += here && m->r[f] > 0.9;
        }
    }
}

static int32_t count_sae(qsae_audit *a, struct participant *p, int64_t sae,
                         struct slice_extra *extra)
{
    const int64_t n = a->saes[sae].info.features;
    qsae_metric *const survival = p->saes[sae].survival;
    double *const buffer = qsae__calloc(a->ctx, n, 4 * sizeof *buffer);
    if (!buffer)
        return QSAE_ENOMEM;
    const struct masses m = { buffer, buffer + n, buffer + 2 * n, buffer + 3 * n };
    int32_t st = qsae_metric_features(survival, "r", m.r, n);
    if (st == QSAE_OK)
        st = qsae_metric_features(survival, "rate_r", m.rate, n);
    for (int64_t i = 0; i < a->slices->n_dimensions && st == QSAE_OK; i++)
        if (has_mass(a, &a->slices->dimensions[i], sae))
            count_dimension(a, &a->slices->dimensions[i], sae, &m, extra);
    qsae__free(a->ctx, buffer);
    return st;
}

int32_t qsae__slices_survival(qsae_audit *a, struct participant *p, struct slice_extra *extra)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->slices->n && st == QSAE_OK; i++)
        if (!(extra[i].saes = qsae__calloc(a->ctx, a->n_saes, sizeof *extra[i].saes)))
            st = QSAE_ENOMEM;
    for (int64_t k = 0; k < a->n_saes && st == QSAE_OK && qsae__participant_features(p); k++)
        st = count_sae(a, p, k, extra);
    return st;
}

void qsae__slices_features_json(qsae_audit *a, struct participant *p, int64_t slice, int64_t sae,
                                const struct slice_extra *extra, bool shown, json_t *to)
{
    const struct slice_metrics *const m = &p->slices[slice];
    const struct slice_kept *const kept = qsae__slices_kept(a, p, slice, sae);
    const bool defined = shown && (m->drift || kept) && qsae__participant_features(p);
    const bool lives = defined && has_mass(a, qsae__slices_dimension(a, slice), sae);
    json_t *const noise = json_object(), *const survival = json_object();
    const struct slice_survival *const s = &extra->saes[sae];
    static const char *const keys[][2] = { { "p", "P" }, { "r", "R_q" }, { "ratio", "ratio" } };
    const double from_kept[] = { kept ? kept->p : NAN, kept ? kept->r : NAN,
                                 kept ? kept->p / kept->r : NAN };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        json_object_set_new(noise, keys[i][0],
                            qsae__number(!defined    ? NAN
                                         : !m->drift ? from_kept[i]
                                                     : qsae__value(m->drift[sae], keys[i][1])));
    json_object_set_new(survival, "features", lives ? qsae__number(s->features) : json_null());
    json_object_set_new(survival, "survived", lives ? qsae__number(s->survived) : json_null());
    json_object_set_new(survival, "survived_percent",
                        lives && s->features > 0
                            ? qsae__number(100 * s->survived / s->features) : json_null());
    json_object_set_new(to, "noise", noise);
    json_object_set_new(to, "survival", survival);
}
