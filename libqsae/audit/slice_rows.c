/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What SAEs say of parts whose borders are known at the end only (methods.md section 8). Sums over
 * such a part cannot be kept in the pass, but metrics of kind reconstruction keep rows with their
 * errors: all of them while they fit their memory, a sample beyond. FVU and noise of a part are
 * those of its kept rows; where its features live is told by encoding the reference's once more.
 */
#include <math.h>
#include <string.h>

#include "audit/slices.h"
#include "metrics/metrics.h"

#define TILE 256             /* rows encoded at once */
#define LEAST_ROWS 500       /* kept, for figures of a part */

/* Sums over the rows of a part; `both`: of those that the reference has kept, too. */
struct part {
    double rows, sse, m2, both_xr2, both_delta2, both_sse, both_x2;
};

/* Parts of all late dimensions with SAE figures, one after the other. */
static int64_t count_parts(const qsae_audit *a)
{
    int64_t n = 0;
    for (int64_t i = 0; i < a->slices->n_dimensions; i++) {
        const struct slice_dimension *const d = &a->slices->dimensions[i];
        n += d->late && d->saes ? d->n_values : 0;
    }
    return n;
}

/* Scratch of a participant's rows. */
struct reader {
    const struct slice_places *at;
    int64_t d;
    struct part *part;       /* [parts] */
    double *mean;            /* [parts, d] */
};

/* Welford's sum of squares about the mean of x [d]. */
static double welford(double *mean, const float *x, double rows, int64_t d)
{
    double sum = 0;
    for (int64_t k = 0; k < d; k++) {
        const double at = (double)x[k] - mean[k];
        mean[k] += at / rows;
        sum += at * ((double)x[k] - mean[k]);
    }
    return sum;
}

/* What rows x and x_r [d] of one token add to the sums of `both`. */
static struct part compare(const float *x, const float *x_r, int64_t d)
{
    struct part out = { 0 };
    for (int64_t k = 0; k < d; k++) {
        const double a = (double)x[k], b = (double)x_r[k];
        out.both_x2 += a * a;
        out.both_xr2 += b * b;
        out.both_delta2 += (a - b) * (a - b);
    }
    return out;
}

static void add_row(const struct reader *s, int64_t part, const qsae__kept_row *row,
                    const struct part *both)
{
    struct part *const p = &s->part[part];
    p->rows += 1;
    p->sse += row->sse;
    p->m2 += welford(s->mean + part * s->d, row->x, p->rows, s->d);
    p->both_sse += both->both_sse;
    p->both_x2 += both->both_x2;
    p->both_xr2 += both->both_xr2;
    p->both_delta2 += both->both_delta2;
}

/* First kept row from i on that is not before a token. */
static int64_t seek(const qsae_metric *m, int64_t i, int64_t n, int64_t token)
{
    while (i < n && qsae__reconstruction_row(m, i).token < token)
        i++;
    return i;
}

/* Sums of a participant's kept rows, in token order. */
static void read_rows(const qsae_audit *a, const struct reader *s, const qsae_metric *m,
                      const qsae_metric *m_r)
{
    bool all;
    const int64_t n = qsae__reconstruction_kept(m, &all),
                  n_r = qsae__reconstruction_kept(m_r, &all);
    for (int64_t i = 0, k = 0, j = 0; i < n; i++) {
        const qsae__kept_row row = qsae__reconstruction_row(m, i);
        while (k < s->at->n && s->at->token[k] < row.token)
            k++;
        if (k == s->at->n || s->at->token[k] != row.token)
            continue;
        j = seek(m_r, j, n_r, row.token);
        const qsae__kept_row ref = j < n_r ? qsae__reconstruction_row(m_r, j) : row;
        struct part both = { 0 };
        if (j < n_r && ref.token == row.token) {
            both = compare(row.x, ref.x, s->d);
            both.both_sse = row.sse;
        }
        int64_t first = 0;
        for (int64_t t = 0; t < a->slices->n_dimensions; t++) {
            const struct slice_dimension *const d = &a->slices->dimensions[t];
            const int16_t value = s->at->value[t * s->at->stride + k];
            if (!d->late || !d->saes)
                continue;
            if (value >= 0)
                add_row(s, first + value, &row, &both);
            first += d->n_values;
        }
    }
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static void store(qsae_audit *a, int64_t participant, int64_t sae, const struct part *part)
{
    struct audit_slices *const s = a->slices;
    for (int64_t t = 0, next = 0; t < s->n_dimensions; t++) {
        const struct slice_dimension *const d = &s->dimensions[t];
        for (int32_t v = 0; d->late && d->saes && v < d->n_values; v++) {
            const struct part *const p = &part[next++];
            s->kept[(participant * s->n + d->first + v) * a->n_saes + sae] = (struct slice_kept){
                .rows = p->rows, .fvu_dim = ratio(p->sse, p->m2),
                .p = sqrt(ratio(p->both_delta2, p->both_xr2)),
                .r = sqrt(ratio(p->both_sse, p->both_x2)),
            };
        }
    }
}

static int32_t read_sae(qsae_audit *a, const struct slice_places *at, int64_t sae)
{
    const int64_t parts = count_parts(a), d = a->saes[sae].info.width_out;
    struct reader s = { .at = at, .d = d };
    int64_t doubles;
    if (!qsae__mul_i64(parts, d, &doubles))
        return qsae__fail(QSAE_EOVERFLOW, "slices: too many parts");
    s.mean = qsae__alloc_array(a->ctx, doubles, sizeof *s.mean);
    s.part = qsae__alloc_array(a->ctx, parts, sizeof *s.part);
    const int32_t st = s.mean && s.part ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *const p = &a->participants[i];
        if (!qsae__participant_features(p))
            continue;
        memset(s.mean, 0, (size_t)(parts * d) * sizeof *s.mean);
        memset(s.part, 0, (size_t)parts * sizeof *s.part);
        read_rows(a, &s, p->saes[sae].reconstruction,
                  a->participants[0].saes[sae].reconstruction);
        store(a, i, sae, s.part);
    }
    qsae__free(a->ctx, s.mean);
    qsae__free(a->ctx, s.part);
    return st;
}

/* ---- where features live ---- */

/* Whether the rows that are kept are those it reads. */
static bool reads_target(const struct audit_sae *s)
{
    return !s->of && s->layer_in == s->layer && s->site_in == s->site && !s->info.transcoder;
}

/* Encoded rows [n] to the masses of their parts; place [n] is the index of their token. */
static void add_masses(const qsae_audit *a, const struct slice_places *at, const qsae__csr *acts,
                       const int64_t *place, int64_t features, double *mass)
{
    for (int64_t r = 0; r < acts->n; r++) {
        int64_t first = 0;
        for (int64_t t = 0; t < a->slices->n_dimensions; t++) {
            const struct slice_dimension *const d = &a->slices->dimensions[t];
            const int16_t value = at->value[t * at->stride + place[r]];
            if (!d->late || !d->saes)
                continue;
            double *const to = mass + (first + value) * features;
            for (int64_t e = acts->indptr[r]; value >= 0 && e < acts->indptr[r + 1]; e++)
                to[acts->indices[e]] += fabs((double)acts->values[e]);
            first += d->n_values;
        }
    }
}

/* The reference's kept rows of an SAE, tile by tile; x [TILE, d] and place [TILE] are scratch. */
static int32_t encode_rows(qsae_audit *a, const struct slice_places *at, int64_t sae, float *x,
                           int64_t *place, double *mass)
{
    const qsae_metric *const m = a->participants[0].saes[sae].reconstruction;
    const int64_t d = a->saes[sae].info.width_out;
    bool all;
    const int64_t n = qsae__reconstruction_kept(m, &all);
    int32_t st = QSAE_OK;
    qsae__csr acts;
    qsae__csr_init(&acts, a->ctx);
    for (int64_t i = 0, k = 0, filled = 0; i <= n && st == QSAE_OK; i++) {
        if (i < n) {
            const qsae__kept_row row = qsae__reconstruction_row(m, i);
            while (k < at->n && at->token[k] < row.token)
                k++;
            if (k < at->n && at->token[k] == row.token) {
                memcpy(x + filled * d, row.x, (size_t)d * sizeof *x);
                place[filled++] = k;
            }
        }
        if (filled == TILE || (i == n && filled > 0)) {
            st = qsae__sae_encode_rows(a->saes[sae].sae, x, filled, d, &acts);
            if (st == QSAE_OK)
                add_masses(a, at, &acts, place, a->saes[sae].info.features, mass);
            filled = 0;
        }
    }
    qsae__csr_free(&acts);
    return st;
}

static int32_t find_masses(qsae_audit *a, const struct slice_places *at, int64_t sae)
{
    const int64_t parts = count_parts(a), d = a->saes[sae].info.width_out;
    int64_t each;
    if (!reads_target(&a->saes[sae]))
        return QSAE_OK;
    if (!qsae__mul_i64(a->saes[sae].info.features, (int64_t)sizeof(double), &each))
        return qsae__fail(QSAE_EOVERFLOW, "slices: too many features");
    double *const mass = qsae__calloc(a->ctx, parts, (size_t)each);
    float *const x = qsae__alloc_array(a->ctx, TILE * d, sizeof *x);
    int64_t *const place = qsae__alloc_array(a->ctx, TILE, sizeof *place);
    const int32_t st = mass && x && place ? encode_rows(a, at, sae, x, place, mass) : QSAE_ENOMEM;
    qsae__free(a->ctx, x);
    qsae__free(a->ctx, place);
    a->slices->kept_mass[sae] = mass;
    return st;
}

/* ---- */

void qsae__slices_rows_close(qsae_audit *a)
{
    struct audit_slices *const s = a->slices;
    for (int64_t k = 0; s->kept_mass && k < a->n_saes; k++)
        qsae__free(a->ctx, s->kept_mass[k]);
    qsae__free(a->ctx, s->kept_mass);
    qsae__free(a->ctx, s->kept);
    s->kept_mass = NULL;
    s->kept = NULL;
}

int32_t qsae__slices_rows(qsae_audit *a, const struct slice_places *at)
{
    struct audit_slices *const s = a->slices;
    int64_t n;
    qsae__slices_rows_close(a);
    if (count_parts(a) == 0 || a->n_saes == 0)
        return QSAE_OK;
    if (!qsae__mul_i64(a->n_participants * a->n_saes, s->n, &n))
        return qsae__fail(QSAE_EOVERFLOW, "slices: too many parts");
    s->kept = qsae__calloc(a->ctx, n, sizeof *s->kept);
    s->kept_mass = qsae__calloc(a->ctx, a->n_saes, sizeof *s->kept_mass);
    int32_t st = s->kept && s->kept_mass ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t k = 0; k < a->n_saes && st == QSAE_OK; k++) {
        st = read_sae(a, at, k);
        if (st == QSAE_OK)
            st = find_masses(a, at, k);
    }
    return st;
}

const double *qsae__slices_rows_mass(const qsae_audit *a, const struct slice_dimension *of,
                                     int64_t sae)
{
    int64_t first = 0;
    if (!a->slices->kept_mass || !a->slices->kept_mass[sae])
        return NULL;
    for (int64_t t = 0; t < a->slices->n_dimensions; t++) {
        const struct slice_dimension *const d = &a->slices->dimensions[t];
        if (d == of)
            break;
        first += d->late && d->saes ? d->n_values : 0;
    }
    return a->slices->kept_mass[sae] + first * a->saes[sae].info.features;
}

const struct slice_kept *qsae__slices_kept(const qsae_audit *a, const struct participant *p,
                                           int64_t slice, int64_t sae)
{
    const struct audit_slices *const s = a->slices;
    const struct slice_dimension *const d = qsae__slices_dimension(a, slice);
    if (!s->kept || !d->late || !d->saes)
        return NULL;
    const struct slice_kept *const out =
        &s->kept[((p - a->participants) * s->n + slice) * a->n_saes + sae];
    return out->rows >= LEAST_ROWS ? out : NULL;
}
