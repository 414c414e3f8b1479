/* SPDX-License-Identifier: BSD-2-Clause */
/* What the SAEs of a pass read and reconstruct. */
#include "audit/pass.h"

/* A participant's rows at a tap: the reference's own below where it begins. */
float *qsae__pass_rows(const struct pass *p, const struct participant *who,
                       const struct rows_of *own, int64_t tap)
{
    return p->taps[tap].layer < who->start ? p->rows[0].taps[tap] : own->taps[tap];
}

/* Whether a participant's rows of an SAE are the reference's. */
bool qsae__pass_same(const qsae_audit *a, const struct participant *who, int64_t sae)
{
    return who == a->participants || a->saes[sae].last < who->start;
}

/* A participant's rows that an SAE reconstructs; of one attention head, its columns of them. */
float *qsae__pass_target(const qsae_audit *a, const struct pass *p, const struct participant *who,
                         const struct rows_of *own, int64_t sae)
{
    return qsae__pass_rows(p, who, own, p->sae_tap[sae]) + a->saes[sae].column;
}

/* Rows that SAE i reads. */
static const float *input_rows(const qsae_audit *a, const struct pass *p,
                               const struct participant *who, const struct rows_of *own, int64_t i)
{
    return qsae__pass_rows(p, who, own, p->sae_in[i]) + a->saes[i].column;
}

/* Where a participant's encoded rows of SAE i are; of equal rows the reference's. */
qsae__csr *qsae__pass_acts(const qsae_audit *a, struct pass *p, const struct participant *who,
                           int64_t i)
{
    return who == a->participants || a->saes[i].layer_in < who->start ? &p->csr_r[i]
           : a->saes[i].of                                           ? &p->csr_set[i]
                                                                      : &p->csr_q;
}

static int32_t encode(const qsae_audit *a, struct pass *p, const struct participant *who,
                      const struct rows_of *own, int64_t i)
{
    qsae__csr *const csr = qsae__pass_acts(a, p, who, i);
    if (csr == &p->csr_r[i] && who != a->participants)
        return QSAE_OK;
    return qsae__sae_encode_rows(a->saes[i].sae, input_rows(a, p, who, own, i), p->batch.rows,
                                 a->saes[i].columns_in, csr);
}

/* Encoded rows of all layers that belong together, before any of them is decoded. */
int32_t qsae__pass_encode_sets(const qsae_audit *a, struct pass *p, const struct participant *who,
                               const struct rows_of *own)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++)
        if (a->saes[i].of)
            st = encode(a, p, who, own, i);
    return st;
}

/* What all layers of a set write to the place of SAE i. */
static int32_t decode_member(const qsae_audit *a, struct pass *p, const struct participant *who,
                             const struct rows_of *own, int64_t i, float *y)
{
    const struct audit_sae *const s = &a->saes[i];
    const struct audit_layers *const set = s->of;
    const int64_t d = s->info.width_out;
    for (int64_t k = 0; k < set->info.layers; k++)
        p->acts[k] = qsae__pass_acts(a, p, who, set->first + k);
    const int32_t st =
        qsae__sae_layers_decode(set->layers, p->acts, s->member, p->batch.rows, y, d);
    for (int64_t k = 0; k < set->info.layers && st == QSAE_OK; k++)
        if (qsae__sae_layers_writes(set->layers, k, s->member))
            qsae__undefined_rows(p->batch.rows, input_rows(a, p, who, own, set->first + k),
                                 set->info.width, a->saes[set->first + k].columns_in, y, d);
    return st;
}

/* y [rows, width_out] of SAE i on a participant's rows; layers of a set are encoded. */
int32_t qsae__pass_reconstruct(const qsae_audit *a, struct pass *p, const struct participant *who,
                               const struct rows_of *own, int64_t i, float *y)
{
    const struct audit_sae *const s = &a->saes[i];
    const int64_t rows = p->batch.rows, d = s->info.width_out, ld = s->columns_in;
    const float *const x = input_rows(a, p, who, own, i);
    int32_t st = s->of ? decode_member(a, p, who, own, i, y) : encode(a, p, who, own, i);
    if (st == QSAE_OK && !s->of)
        st = qsae__sae_decode_rows(s->sae, qsae__pass_acts(a, p, who, i), y, d);
    if (st == QSAE_OK)
        st = qsae__sae_add_skip(s->sae, x, rows, ld, y, d);
    if (st == QSAE_OK && s->info.transcoder)
        qsae__undefined_rows(rows, x, s->info.width, ld, y, d);
    return st;
}
