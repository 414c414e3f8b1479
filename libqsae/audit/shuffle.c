/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * control:shuffle (methods.md 7): the rows of the reference against its own rows at other tokens,
 * of another document. What features have in common there they have in common by chance.
 *
 * Row k of those that feature statistics count in a logical batch is paired with row k + n / 2 + 1
 * of the n (round and round), or with the first row after that one of another document; without
 * any it is left out.
 */
#include <string.h>

#include "audit/pass.h"

struct shuffled {
    int64_t rows, width;
    int64_t *partner;            /* [rows], -1: none */
    int64_t *counted, *other;    /* [n] rows that count; where the document of each ends */
    uint8_t *mask;               /* [rows] */
    float *x, *y;                /* [rows, width] */
    int64_t *indptr;             /* [rows + 1] the activations */
    int32_t *indices;
    float *values;
};

static void close_shuffled(qsae_audit *a, struct shuffled *s)
{
    void *const blocks[] = { s->partner, s->counted, s->other, s->mask, s->x, s->y,
                             s->indptr, s->indices, s->values };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
}

/* Fills partner and mask. */
static void pair_rows(const struct audit_batch *b, struct shuffled *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->rows; i++) {
        s->partner[i] = -1;
        s->mask[i] = b->mask_features[i];
        if (!(s->mask[i] & QSAE_MASK_EXCLUDED))
            s->counted[n++] = i;
    }
    /* The first counted row after k whose document is another, twice round for the end's sake. */
    int64_t other = -1;
    for (int64_t i = 2 * n - 1; i >= 0; i--) {
        const int64_t k = i % n, next = (k + 1) % n;
        if (b->document[s->counted[next]] != b->document[s->counted[k]])
            other = next;
        s->other[k] = other;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t at = (k + n / 2 + 1) % n;
        if (b->document[s->counted[at]] == b->document[s->counted[k]])
            at = s->other[at];
        if (at >= 0)
            s->partner[s->counted[k]] = s->counted[at];
        else
            s->mask[s->counted[k]] |= QSAE_MASK_EXCLUDED;
    }
}

static int32_t open_shuffled(qsae_audit *a, const struct audit_batch *b, int64_t width,
                             struct shuffled *s)
{
    s->rows = b->rows;
    s->width = width;
    s->partner = qsae__alloc_array(a->ctx, b->rows, sizeof *s->partner);
    s->counted = qsae__alloc_array(a->ctx, b->rows, sizeof *s->counted);
    s->other = qsae__alloc_array(a->ctx, b->rows, sizeof *s->other);
    s->mask = qsae__alloc_array(a->ctx, b->rows, 1);
    s->x = qsae__alloc_array(a->ctx, b->rows * width, sizeof(float));
    s->y = qsae__alloc_array(a->ctx, b->rows * width, sizeof(float));
    s->indptr = qsae__alloc_array(a->ctx, b->rows + 1, sizeof *s->indptr);
    return s->partner && s->counted && s->other && s->mask && s->x && s->y && s->indptr
               ? QSAE_OK : QSAE_ENOMEM;
}

/* The partner's rows; a row without one keeps its own, which does not count. */
static void gather(const struct shuffle_rows *in, struct shuffled *s)
{
    const qsae__csr *const csr = in->csr;
    const size_t size = (size_t)s->width * sizeof(float);
    s->indptr[0] = 0;
    for (int64_t i = 0; i < s->rows; i++) {
        const int64_t from = s->partner[i] >= 0 ? s->partner[i] : i;
        const int64_t first = csr->indptr[from], at = s->indptr[i];
        const size_t n = s->partner[i] >= 0 ? (size_t)(csr->indptr[from + 1] - first) : 0;
        memcpy(s->x + i * s->width, in->x + from * in->ld, size);
        memcpy(s->y + i * s->width, in->y + from * s->width, size);
        if (n) {
            memcpy(s->indices + at, csr->indices + first, n * sizeof *csr->indices);
            memcpy(s->values + at, csr->values + first, n * sizeof *csr->values);
        }
        s->indptr[i + 1] = at + (int64_t)n;
    }
}

/* Room for the activations of the partners' rows. */
static int32_t open_entries(qsae_audit *a, const qsae__csr *csr, struct shuffled *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->rows; i++)
        if (s->partner[i] >= 0)
            n += csr->indptr[s->partner[i] + 1] - csr->indptr[s->partner[i]];
    s->indices = qsae__alloc_array(a->ctx, n, sizeof *s->indices);
    s->values = qsae__alloc_array(a->ctx, n, sizeof *s->values);
    return s->indices && s->values ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__shuffle_update(qsae_audit *a, struct participant *who, int64_t sae,
                             const struct audit_batch *b, const struct shuffle_rows *in)
{
    struct audit_features *const f = &who->saes[sae];
    const int64_t d = a->saes[sae].info.width_out;
    struct shuffled s = { 0 };
    int32_t st = open_shuffled(a, b, d, &s);
    if (st == QSAE_OK) {
        pair_rows(b, &s);
        st = open_entries(a, in->csr, &s);
    }
    if (st == QSAE_OK) {
        gather(in, &s);
        const qsae_positions at = qsae__batch_positions(b, s.mask);
        qsae_rows rows = { .struct_size = sizeof rows, .n_rows = b->rows, .n_cols = d,
                           .row_stride = d, .dtype = QSAE_F32 }, xr = rows, yr = rows, xq = rows,
                  yq = rows;
        xr.data = in->x_r;
        xr.row_stride = in->ld;
        yr.data = in->y_r;
        xq.data = s.x;
        yq.data = s.y;
        const qsae_sparse_rows acts_r = { .struct_size = sizeof acts_r, .n = in->csr_r->n,
                                          .indptr = in->csr_r->indptr,
                                          .indices = in->csr_r->indices,
                                          .values = in->csr_r->values },
                               acts = { .struct_size = sizeof acts, .n = b->rows,
                                        .indptr = s.indptr, .indices = s.indices,
                                        .values = s.values };
        st = qsae__batch_added(a, qsae_metric_update_drift(f->drift, &at, &xr, &xq, &yr, &yq));
        if (st == QSAE_OK && f->survival)
            st = qsae__batch_added(a, qsae_metric_update_features(f->survival, &at, &acts_r,
                                                                  &acts));
    }
    close_shuffled(a, &s);
    return st;
}
