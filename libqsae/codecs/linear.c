/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/linear.h"

#include <stdatomic.h>
#include <string.h>

#include "codecs/apply.h"
#include "codecs/int8.h"

struct qsae__linear {
    qsae_context *ctx;
    qsae_qmatrix *q;         /* NULL: the weight is used where it lies */
    qsae__decoded decoded;   /* of q */
    qsae__dense dense;       /* of the weight in place */
    qsae__panels panels;     /* of whichever there is */
    float *bias;             /* [n_out] or NULL */
    uint64_t bytes;
    int32_t dtype, compute;
    bool quantized;
    atomic_llong *seen;      /* [3] of LLM.int8: calls, those with outliers, columns; else NULL */
};

/* Panel source over an encoded matrix: rows are decoded a k block at a time. */
static void fill_decoded(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                         float *tile, int64_t panel)
{
    const qsae__decoded *d = self;
    const int64_t kb = k1 - k0, used = (n1 - n0) % panel;
    float row[QSAE__GEMM_KB];
    for (int64_t n = n0; n < n1; n++) {
        float *dst = tile + (n - n0) / panel * panel * kb + (n - n0) % panel;
        d->q->ops->decode(d->q, n, k0, kb, d->dtype, row);
        for (int64_t k = 0; k < kb; k++)
            dst[k * panel] = row[k];
    }
    if (used) {
        float *last = tile + (n1 - n0) / panel * panel * kb;
        for (int64_t k = 0; k < kb; k++)
            memset(last + k * panel + used, 0, (size_t)(panel - used) * sizeof *last);
    }
}

qsae__panels qsae__panels_decoded(const qsae__decoded *d)
{
    return (qsae__panels){ fill_decoded, d, d->q->n_out, d->q->n_in };
}

struct finish {
    qsae_context *ctx;
    const float *bias;
    int32_t dtype, compute;
};

static int32_t finish_tile(void *self, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *c,
                           int64_t ldc, int32_t worker)
{
    const struct finish *f = self;
    (void)worker;
    for (int64_t i = 0; i < m1 - m0; i++) {
        float *y = c + i * ldc;
        for (int64_t j = 0; f->bias && j < n1 - n0; j++)
            y[j] += f->bias[n0 + j];
        qsae__round(f->ctx, f->compute, y, n1 - n0);
        if (f->dtype != f->compute)
            qsae__round(f->ctx, f->dtype, y, n1 - n0);
    }
    return QSAE_OK;
}

struct cast {
    qsae_context *ctx;
    const float *x;
    float *to;
    int64_t ldx, k;
    int32_t dtype;
};

static int32_t cast_row(void *arg, int64_t row, int32_t worker)
{
    const struct cast *c = arg;
    (void)worker;
    memcpy(c->to + row * c->k, c->x + row * c->ldx, (size_t)c->k * sizeof *c->to);
    qsae__round(c->ctx, c->dtype, c->to + row * c->k, c->k);
    return QSAE_OK;
}

int32_t qsae__panels_apply(qsae_context *ctx, const qsae__panels *w, int64_t rows, const float *x,
                           int64_t ldx, const float *bias, int32_t dtype, int32_t compute, float *y,
                           int64_t ldy)
{
    struct finish finish = { ctx, bias, dtype, compute };
    const qsae__epilogue epilogue = { finish_tile, &finish };
    struct cast cast = { ctx, x, NULL, ldx, w->k, compute };
    int32_t status = QSAE_OK;
    int64_t cells;
    if (compute != QSAE_F32 && compute != dtype) {
        if (!qsae__mul_i64(rows, w->k, &cells))
            return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld columns", (long long)rows,
                              (long long)w->k);
        cast.to = qsae__alloc_array(ctx, cells, sizeof(float));
        if (!cast.to)
            return QSAE_ENOMEM;
        status = qsae__parallel(ctx, rows, cast_row, &cast);
        x = cast.to;
        ldx = w->k;
    }
    if (!status)
        status = qsae__gemm(ctx, rows, x, ldx, w, y, ldy, &epilogue);
    qsae__free(ctx, cast.to);
    return status;
}

int32_t qsae__compute_of(const qsae__condition *c, int32_t dtype)
{
    const bool blocks = c && (c->codec == QSAE__NF4 || c->codec == QSAE__FP4);
    return blocks && c->compute ? c->compute : dtype;
}

static int32_t check_weight(const qsae__linear_weight *w, int32_t dtype)
{
    if (w->dtype != QSAE_F32 && w->dtype != QSAE_BF16 && w->dtype != QSAE_F16)
        return qsae__fail(QSAE_EUNSUPPORTED, "weight of dtype %s; supported: F32, BF16, F16",
                          qsae_dtype_name(w->dtype));
    if (w->bias && w->bias_dtype != QSAE_F32 && w->bias_dtype != QSAE_BF16 &&
        w->bias_dtype != QSAE_F16)
        return qsae__fail(QSAE_EUNSUPPORTED, "bias of dtype %s; supported: F32, BF16, F16",
                          qsae_dtype_name(w->bias_dtype));
    if (dtype != QSAE_F32 && dtype != QSAE_BF16)
        return qsae__fail(QSAE_EINVAL, "activations of dtype %s; allowed: F32, BF16",
                          qsae_dtype_name(dtype));
    if (w->n_out < 1 || w->n_in < 1)
        return qsae__fail(QSAE_EINVAL, "weight: %lld x %lld, expected at least 1 x 1",
                          (long long)w->n_out, (long long)w->n_in);
    return QSAE_OK;
}

static int32_t copy_bias(qsae__linear *l, const qsae__linear_weight *w)
{
    l->bias = qsae__alloc_array(l->ctx, w->n_out, sizeof(float));
    if (!l->bias)
        return QSAE_ENOMEM;
    const qsae__fpenv env = qsae__fpenv_enter();
    (void)qsae__to_f32(w->bias_dtype, w->bias, w->n_out, l->bias);
    qsae__round(l->ctx, l->dtype, l->bias, w->n_out);
    if (l->compute != l->dtype)
        qsae__round(l->ctx, l->compute, l->bias, w->n_out);
    qsae__fpenv_leave(env);
    return QSAE_OK;
}

/* Codec none. Its weights= is a rounding of its own, before the one to the activations' dtype. */
static int32_t use_in_place(qsae__linear *l, const qsae__condition *c, const qsae__linear_weight *w)
{
    const int32_t dtype = l->dtype == QSAE_BF16 ? QSAE_BF16 : 0, weights = c ? c->weights : 0;
    if (weights && dtype && weights != dtype) {
        const qsae__source src = { l->ctx, w->data, w->dtype, 0, w->n_out, w->n_in, w->out_stride,
                                   w->in_stride };
        const int32_t status = qsae__qmatrix_encode(l->ctx, c, &src, 0, &l->q);
        if (status)
            return status;
        l->dense = (qsae__dense){ .data = l->q->codes, .dtype = l->q->dtype, .round = dtype,
                                  .level = l->ctx->level, .n_stride = w->n_in, .k_stride = 1 };
    } else {
        l->dense = (qsae__dense){ .data = w->data, .dtype = w->dtype,
                                  .round = dtype ? dtype : weights, .level = l->ctx->level,
                                  .n_stride = w->out_stride, .k_stride = w->in_stride };
        if (l->dense.round == w->dtype)
            l->dense.round = 0;
    }
    l->panels = qsae__panels_dense(&l->dense, w->n_out, w->n_in);
    l->bytes = (uint64_t)w->n_out * (uint64_t)w->n_in *
               (uint64_t)(qsae_dtype_bits(weights ? weights : w->dtype) / 8);
    return QSAE_OK;
}

int32_t qsae__linear_open(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out)
{
    *out = NULL;
    int32_t status = check_weight(w, dtype);
    if (status)
        return status;
    qsae__linear *l = qsae__calloc(ctx, 1, sizeof *l);
    if (!l)
        return QSAE_ENOMEM;
    l->ctx = qsae__context_ref(ctx);
    l->dtype = dtype;
    l->compute = qsae__compute_of(c, dtype);
    l->quantized = c && c->codec != QSAE__NONE;
    if (l->quantized) {
        const qsae__source src = { ctx, w->data, w->dtype, dtype, w->n_out, w->n_in, w->out_stride,
                                   w->in_stride };
        status = qsae__qmatrix_encode(ctx, c, &src, w->heads, &l->q);
        if (!status) {
            l->decoded = (qsae__decoded){ l->q, l->compute };
            l->panels = qsae__panels_decoded(&l->decoded);
            l->bytes = qsae_qmatrix_bytes(l->q);
        }
    } else {
        status = use_in_place(l, c, w);
    }
    if (!status && w->bias)
        status = copy_bias(l, w);
    if (!status && l->q && l->q->codec.codec == QSAE__INT8 &&
        !(l->seen = qsae__calloc(ctx, 3, sizeof *l->seen)))
        status = QSAE_ENOMEM;
    if (status) {
        qsae__linear_close(&l);
        return status;
    }
    *out = l;
    return QSAE_OK;
}

void qsae__linear_close(qsae__linear **linear)
{
    if (!linear || !*linear)
        return;
    qsae_context *ctx = (*linear)->ctx;
    qsae_qmatrix_close(&(*linear)->q);
    qsae__free(ctx, (*linear)->bias);
    qsae__free(ctx, (*linear)->seen);
    qsae__free(ctx, *linear);
    qsae__context_unref(ctx);
    *linear = NULL;
}

int32_t qsae__linear_apply(const qsae__linear *l, int64_t rows, const float *x, int64_t ldx,
                           float *y, int64_t ldy)
{
    if (l->q && l->q->codec.codec == QSAE__INT8) {
        int64_t columns = 0;
        const int32_t status =
            qsae__int8_linear(l->q, rows, x, ldx, l->bias, l->dtype, y, ldy, &columns);
        atomic_fetch_add(&l->seen[0], 1);
        atomic_fetch_add(&l->seen[1], columns > 0);
        atomic_fetch_add(&l->seen[2], columns);
        return status;
    }
    return qsae__panels_apply(l->ctx, &l->panels, rows, x, ldx, l->bias, l->dtype, l->compute, y,
                              ldy);
}

const qsae__panels *qsae__linear_panels(const qsae__linear *l)
{
    return l->q && l->q->codec.codec == QSAE__INT8 ? NULL : &l->panels;
}

int64_t qsae__linear_out(const qsae__linear *l)
{
    return l->panels.n;
}

int64_t qsae__linear_in(const qsae__linear *l)
{
    return l->panels.k;
}

uint64_t qsae__linear_bytes(const qsae__linear *l)
{
    return l->bytes;
}

int32_t qsae__linear_quantized(const qsae__linear *l)
{
    return l->quantized;
}

int32_t qsae__linear_batch_dependent(const qsae__linear *l)
{
    return l->q && l->q->codec.codec == QSAE__INT8 && l->q->codec.threshold > 0;
}

qsae__outliers qsae__linear_outliers(const qsae__linear *l)
{
    if (!l->seen)
        return (qsae__outliers){ 0 };
    return (qsae__outliers){ atomic_load(&l->seen[0]), atomic_load(&l->seen[1]),
                             atomic_load(&l->seen[2]) };
}

void qsae__linear_set_outliers(qsae__linear *l, const qsae__outliers *o)
{
    if (!l->seen)
        return;
    atomic_store(&l->seen[0], o->calls);
    atomic_store(&l->seen[1], o->with_outliers);
    atomic_store(&l->seen[2], o->columns);
}
