/* SPDX-License-Identifier: BSD-2-Clause */
/* Interventions on features: ablation, clamping, steering, with the SAE's error kept or not (sae.md
 * A.6). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"

/* Edits in the order of their features; those of one feature in the caller's. */
struct edits {
    qsae_feature_edit *list;
    int64_t n;
};

static int by_feature(const void *a, const void *b)
{
    const qsae_feature_edit *const x = a, *const y = b;
    if (x->feature != y->feature)
        return x->feature < y->feature ? -1 : 1;
    return (x->struct_size > y->struct_size) - (x->struct_size < y->struct_size);
}

static int32_t check_edit(const qsae_sae *sae, const qsae_feature_edit *e, int64_t i)
{
    if (e->feature < 0 || e->feature >= sae->config.d_sae)
        return qsae__fail(QSAE_EINVAL, "edit %" PRId64 ": feature %" PRId64 ": expected 0..%"
                          PRId64, i, e->feature, sae->config.d_sae - 1);
    if (e->operation < QSAE_FEATURE_SET || e->operation > QSAE_FEATURE_SCALE)
        return qsae__fail(QSAE_EINVAL, "edit %" PRId64 ": operation %d is not a QSAE_FEATURE_*", i,
                          (int)e->operation);
    if (!isfinite(e->value))
        return qsae__fail(QSAE_EINVAL, "edit %" PRId64 ": value: expected a finite number", i);
    return QSAE_OK;
}

static int32_t edits_open(const qsae_sae *sae, const qsae_feature_edit *edits, int64_t n,
                          struct edits *out)
{
    size_t stride;
    *out = (struct edits){ NULL, n };
    if (n < 0 || (n > 0 && !edits))
        return qsae__fail(QSAE_EINVAL, "qsae_sae_intervene: %" PRId64 " edits with edits %s", n,
                          edits ? "set" : "NULL");
    if (n == 0)
        return QSAE_OK;
    memcpy(&stride, edits, sizeof stride);
    if (!(out->list = qsae__calloc(sae->ctx, n, sizeof *out->list)))
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        const char *const at = (const char *)edits + (size_t)i * stride;
        size_t size;
        memcpy(&size, at, sizeof size);
        int32_t st = size == stride && stride % sizeof(int64_t) == 0
                         ? qsae__settings_copy(&out->list[i], sizeof out->list[i], at,
                                               "qsae_feature_edit")
                         : qsae__fail(QSAE_EINVAL, "edit %" PRId64 ": struct_size is %zu; set it "
                                      "to sizeof(qsae_feature_edit)", i, size);
        if (st == QSAE_OK)
            st = check_edit(sae, &out->list[i], i);
        if (st != QSAE_OK) {
            qsae__free(sae->ctx, out->list);
            out->list = NULL;
            return st;
        }
        out->list[i].struct_size = (size_t)i; /* its rank among those of its feature */
    }
    qsort(out->list, (size_t)n, sizeof *out->list, by_feature);
    return QSAE_OK;
}

static float apply(const qsae_feature_edit *e, float a)
{
    return e->operation == QSAE_FEATURE_SET   ? e->value
           : e->operation == QSAE_FEATURE_ADD ? a + e->value
                                              : a * e->value;
}

/* Row r of `from` with the edits, appended to `to`, which has room. Whether it changed. */
static bool edit_row(const struct edits *edits, const qsae__csr *from, int64_t r, qsae__csr *to)
{
    int64_t e = from->indptr[r], k = 0;
    const int64_t end = from->indptr[r + 1];
    bool changed = false;
    while (e < end || k < edits->n) {
        const bool edited =
            k < edits->n && (e == end || edits->list[k].feature <= from->indices[e]);
        const int32_t feature = edited ? (int32_t)edits->list[k].feature : from->indices[e];
        const float was = e < end && from->indices[e] == feature ? from->values[e++] : 0;
        float a = was;
        for (; k < edits->n && edits->list[k].feature == feature; k++)
            a = apply(&edits->list[k], a);
        changed = changed || a != was;
        if (a != 0) {
            to->indices[to->nnz] = feature;
            to->values[to->nnz++] = a;
        }
    }
    to->indptr[r + 1] = to->nnz;
    return changed;
}

/* *to = *from with the edits; changed [n]. */
static int32_t edit_rows(const struct edits *edits, const qsae__csr *from, qsae__csr *to,
                         uint8_t *changed)
{
    int64_t room;
    if (!qsae__mul_i64(from->n, edits->n, &room) || !qsae__add_i64(room, from->nnz, &room))
        return qsae__fail(QSAE_EOVERFLOW, "qsae_sae_intervene: too many rows and edits");
    int32_t st = qsae__grow(to->ctx, &to->indptr, &to->rows_capacity, from->n + 1,
                            sizeof *to->indptr);
    if (st == QSAE_OK)
        st = qsae__grow(to->ctx, &to->indices, &to->index_capacity, room, sizeof *to->indices);
    if (st == QSAE_OK)
        st = qsae__grow(to->ctx, &to->values, &to->value_capacity, room, sizeof *to->values);
    if (st != QSAE_OK)
        return st;
    to->n = from->n;
    to->indptr[0] = 0;
    for (int64_t r = 0; r < from->n; r++)
        changed[r] = edit_row(edits, from, r, to);
    return QSAE_OK;
}

/* y = x + (edited - plain), x itself where the edits changed nothing. */
static void keep_error(const qsae_rows *x, const float *plain, const float *edited,
                       const uint8_t *changed, qsae_rows *y)
{
    const int64_t d = y->n_cols;
    for (int64_t r = 0; r < x->n_rows; r++) {
        float *const to = (float *)y->data + r * y->row_stride;
        const float *const a = plain + r * d, *const b = edited + r * d;
        if (to != qsae__rows_at(x, r))
            qsae__to_f32(x->dtype, qsae__rows_at(x, r), d, to);
        for (int64_t i = 0; i < d && changed[r]; i++)
            to[i] += b[i] - a[i];
    }
}

static void copy_rows(const float *from, qsae_rows *y)
{
    for (int64_t r = 0; r < y->n_rows; r++)
        memcpy((float *)y->data + r * y->row_stride, from + r * y->n_cols,
               (size_t)y->n_cols * sizeof *from);
}

static int32_t run(qsae_sae *sae, const qsae_rows *x, const struct edits *edits, bool keep,
                   qsae_rows *y)
{
    const int64_t n = x->n_rows, d_in = sae->config.d_in, d_out = sae->config.d_out;
    qsae__csr plain, edited;
    int64_t in_size, out_size;
    qsae__csr_init(&plain, sae->ctx);
    qsae__csr_init(&edited, sae->ctx);
    if (!qsae__mul_i64(n, d_in, &in_size) || !qsae__mul_i64(n, d_out, &out_size))
        return qsae__fail(QSAE_EOVERFLOW, "x: too many elements");
    float *const rows = qsae__alloc_array(sae->ctx, in_size, sizeof *rows);
    float *const a = qsae__alloc_array(sae->ctx, out_size, sizeof *a);
    float *const b = qsae__alloc_array(sae->ctx, out_size, sizeof *b);
    uint8_t *const changed = qsae__alloc_array(sae->ctx, n, 1);
    int32_t st = rows && a && b && changed ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t r = 0; r < n && st == QSAE_OK; r++)
        qsae__to_f32(x->dtype, qsae__rows_at(x, r), d_in, rows + r * d_in);
    if (st == QSAE_OK)
        st = qsae__sae_encode_rows(sae, rows, n, d_in, &plain);
    if (st == QSAE_OK)
        st = edit_rows(edits, &plain, &edited, changed);
    if (st == QSAE_OK) { /* what a row's normalisation took off belongs to the row */
        edited.state = plain.state;
        st = qsae__sae_decode_rows(sae, &edited, b, d_out);
        edited.state = NULL;
    }
    if (st == QSAE_OK && keep)
        st = qsae__sae_decode_rows(sae, &plain, a, d_out);
    else if (st == QSAE_OK)
        st = qsae__sae_add_skip(sae, rows, n, d_in, b, d_out);
    if (st == QSAE_OK && keep)
        keep_error(sae->config.transcoder ? y : x, a, b, changed, y);
    else if (st == QSAE_OK)
        copy_rows(b, y);
    qsae__csr_free(&plain);
    qsae__csr_free(&edited);
    void *const blocks[] = { rows, a, b, changed };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(sae->ctx, blocks[i]);
    return st;
}

int32_t qsae_sae_intervene(qsae_sae *sae, const qsae_rows *x, const qsae_feature_edit *edits,
                           int64_t n_edits, int32_t with_error, qsae_rows *y)
{
    struct edits list;
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (!x || !y)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_intervene: x and y must not be NULL");
    int32_t st = qsae__sae_check_rows(sae, x, y);
    if (st == QSAE_OK && with_error && with_error != 2 && sae->config.transcoder)
        st = qsae__fail(QSAE_EINVAL, "%s: a transcoder's error is that of another site's rows: "
                        "expected keep_error 2, and these rows in y, or 0", sae->path);
    if (st != QSAE_OK || x->n_rows == 0)
        return st;
    st = edits_open(sae, edits, n_edits, &list);
    if (st != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = run(sae, x, &list, with_error != 0, y);
    qsae__fpenv_leave(env);
    qsae__free(sae->ctx, list.list);
    return st;
}
