/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/apply.h"

#include <string.h>

#include "codecs/act.h"
#include "kernels/blocks.h"

static void decoded_row(const void *self, int64_t row, int64_t k0, int64_t kb, uint16_t *dst)
{
    const qsae_qmatrix *const q = self;
    q->ops->decode16(q, row, k0, kb, dst);
}

qsae__rows16 qsae__rows16_decoded(const qsae_qmatrix *q)
{
    return (qsae__rows16){ decoded_row, q, q->n_out, q->n_in };
}

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

int32_t qsae__compute_of(const qsae__condition *c, int32_t dtype)
{
    const bool blocks = c && (c->codec == QSAE__NF4 || c->codec == QSAE__FP4);
    return blocks && c->compute ? c->compute : dtype;
}

enum qsae__product_kind qsae__product_kind(const qsae_context *ctx, int32_t compute)
{
    return compute == QSAE_BF16 && qsae__packed_get(ctx)->bf16 ? QSAE__PRODUCT_BF16
                                                               : QSAE__PRODUCT_F32;
}

int32_t qsae__apply_left(const qsae__operand *o, int64_t rows, qsae__left *left, size_t *bytes)
{
    return qsae__left_size(rows, o->k, o->kind == QSAE__PRODUCT_INT8 ? 1 : 2,
                           o->kind == QSAE__PRODUCT_SPLIT ? 3 : 1, left, bytes);
}

void qsae__finish_row(qsae_context *ctx, const qsae__operand *o, int64_t n0, int64_t n,
                      float *acc)
{
    if (o->bias)
        qsae__ops_get(ctx)->add(acc, o->bias + n0, acc, n, 0);
    qsae__round(ctx, o->compute, acc, n);
    if (o->dtype != o->compute)
        qsae__round(ctx, o->dtype, acc, n);
}

void qsae__store_row(const qsae__apply_call *call, int64_t index, int64_t row, int64_t n0,
                     int64_t n, float *a, const float *b)
{
    const qsae__linear_gate *const g = call->gate;
    if (!g) {
        float *const y = call->y[index] + row * call->ldy[index] + n0;
        if (y != a)
            memcpy(y, a, (size_t)n * sizeof *a);
        return;
    }
    g->row(g->self, a, b, n);
    if (g->dtype == QSAE_BF16)
        qsae__blocks_get(call->ctx)->narrow(a, n, (uint16_t *)g->out + row * g->ld + n0);
    else
        memcpy((float *)g->out + row * g->ld + n0, a, (size_t)n * sizeof *a);
}

static int32_t finish_packed(void *self, const qsae__tile *t)
{
    const qsae__apply_call *const call = self;
    const qsae__operand *const *const o = call->operand;
    const int64_t n = t->n1 - t->n0;
    for (int64_t i = 0; i < t->m1 - t->m0; i++) {
        float *const a = (float *)t->c + i * t->ldc;
        float *const b = t->c2 ? (float *)t->c2 + i * t->ldc : NULL;
        qsae__finish_row(call->ctx, o[t->index], t->n0, n, a);
        if (b)
            qsae__finish_row(call->ctx, o[1], t->n0, n, b);
        qsae__store_row(call, t->index, t->m0 + i, t->n0, n, a, b);
    }
    return QSAE_OK;
}

static int32_t apply_packed(const qsae__apply_call *call)
{
    qsae_context *const ctx = call->ctx;
    const qsae__operand *const first = call->operand[0];
    qsae__right right[QSAE__APPLY_MOST];
    qsae__left left;
    size_t bytes;
    int32_t st = qsae__apply_left(first, call->x.rows, &left, &bytes);
    if (st != QSAE_OK)
        return st;
    const qsae__product product = { .left = &left, .right = right, .n_right = call->n,
                                    .pair = call->gate != NULL, .y = call->y,
                                    .ldy = call->ldy, .finish = finish_packed,
                                    .self = (void *)call, .scratch = call->scratch };
    for (int64_t i = 0; i < call->n; i++)
        right[i] = (qsae__right){ call->operand[i]->packed, call->operand[i]->rows };
    st = qsae__left_pack(ctx, &left, call->scratch + qsae__product_scratch(ctx), call->x.dtype,
                         call->x.x, call->x.ldx, first->k);
    return st == QSAE_OK ? qsae__product_run(ctx, &product) : st;
}

struct widen {
    qsae_context *ctx;
    const qsae__linear_rows *x;
    float *to;
    int64_t k;
    int32_t dtype;
};

/* A row as f32, rounded to dtype. */
static int32_t widen_row(void *arg, int64_t row, int32_t worker)
{
    const struct widen *const w = arg;
    const char *const x = (const char *)w->x->x +
                          (size_t)(row * w->x->ldx) * (w->x->dtype == QSAE_BF16 ? 2 : 4);
    (void)worker;
    (void)qsae__to_f32(w->x->dtype, x, w->k, w->to + row * w->k);
    qsae__round(w->ctx, w->dtype, w->to + row * w->k, w->k);
    return QSAE_OK;
}

struct finish {
    qsae_context *ctx;
    const qsae__operand *o;
};

static int32_t finish_tile(void *self, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *c,
                           int64_t ldc, int32_t worker)
{
    const struct finish *f = self;
    (void)worker;
    for (int64_t i = 0; i < m1 - m0; i++)
        qsae__finish_row(f->ctx, f->o, n0, n1 - n0, c + i * ldc);
    return QSAE_OK;
}

struct gate_rows {
    const qsae__apply_call *call;
    int64_t n;
};

/* In parts, so that a result may take its operand's place. */
static int32_t gate_row(void *arg, int64_t row, int32_t worker)
{
    const struct gate_rows *const g = arg;
    float part[512];
    (void)worker;
    for (int64_t n0 = 0; n0 < g->n; n0 += 512) {
        const int64_t n = qsae__min_i64(512, g->n - n0);
        memcpy(part, g->call->y[0] + row * g->call->ldy[0] + n0, (size_t)n * sizeof *part);
        qsae__store_row(g->call, 0, row, n0, n, part,
                        g->call->y[1] + row * g->call->ldy[1] + n0);
    }
    return QSAE_OK;
}

int32_t qsae__apply_gate(qsae_context *ctx, int64_t rows, int64_t n, float *const *y,
                         const int64_t *ldy, const qsae__linear_gate *gate)
{
    const qsae__apply_call call = { .ctx = ctx, .y = y, .ldy = ldy, .gate = gate };
    struct gate_rows g = { &call, n };
    return qsae__parallel(ctx, rows, gate_row, &g);
}

static int32_t apply_f32(const qsae__apply_call *call)
{
    qsae_context *const ctx = call->ctx;
    const qsae__operand *const first = call->operand[0];
    struct widen w = { ctx, &call->x, (float *)(void *)call->scratch, first->k, first->compute };
    const float *x = call->x.x;
    int64_t ldx = call->x.ldx;
    int32_t st = QSAE_OK;
    if (call->x.dtype != QSAE_F32 ||
        (first->compute != QSAE_F32 && first->compute != first->dtype)) {
        st = qsae__parallel(ctx, call->x.rows, widen_row, &w);
        x = w.to;
        ldx = w.k;
    }
    for (int64_t i = 0; i < call->n && st == QSAE_OK; i++) {
        struct finish f = { ctx, call->operand[i] };
        const qsae__epilogue epilogue = { finish_tile, &f };
        st = qsae__gemm(ctx, call->x.rows, x, ldx, &call->operand[i]->panels, call->y[i],
                        call->ldy[i], &epilogue);
    }
    return st;
}

const struct qsae__act *qsae__operand_act(const qsae__operand *o)
{
    return o->q ? o->q->act : NULL;
}

/* Whether the rows become others before they are multiplied. */
static bool changes_rows(const qsae__operand *o)
{
    return qsae__operand_act(o) || o->reverse;
}

/* Bytes of the transformed rows, which lie before the rest of the scratch. */
static bool act_bytes(int64_t rows, int64_t k, size_t *bytes)
{
    int64_t cells;
    if (!qsae__mul_i64(rows, k, &cells) || !qsae__bytes(cells, sizeof(float), bytes) ||
        !qsae__add_size(*bytes, 63, bytes))
        return false;
    *bytes &= ~(size_t)63;
    return true;
}

struct act_rows {
    const qsae__apply_call *call;
    const qsae__operand *o;
    float *to;           /* [rows, k] */
};

static int32_t act_row(void *arg, int64_t row, int32_t worker)
{
    const struct act_rows *const a = arg;
    const qsae__linear_rows *const x = &a->call->x;
    const int64_t k = a->o->k;
    float *const to = a->to + row * k;
    (void)worker;
    (void)qsae__to_f32(x->dtype, (const char *)x->x + (size_t)(row * x->ldx) *
                                                          (x->dtype == QSAE_BF16 ? 2 : 4), k, to);
    qsae__round(a->call->ctx, a->o->dtype, to, k);
    if (qsae__operand_act(a->o))
        qsae__act_row(a->call->ctx, qsae__operand_act(a->o), a->o->dtype, k, to);
    for (int64_t i = 0, j = k - 1; i < j && a->o->reverse; i++, j--) {
        const float v = to[i];
        to[i] = to[j];
        to[j] = v;
    }
    return QSAE_OK;
}

int32_t qsae__apply_scratch(const qsae_context *ctx, const qsae__operand *o, int64_t rows,
                            size_t *bytes)
{
    qsae__left left;
    size_t act = 0;
    bool fits = !changes_rows(o) || act_bytes(rows, o->k, &act);
    if (o->kind == QSAE__PRODUCT_F32) {
        int64_t cells;
        fits = fits && qsae__mul_i64(rows, o->k, &cells) &&
               qsae__bytes(cells, sizeof(float), bytes);
    } else {
        const int32_t st = qsae__apply_left(o, rows, &left, bytes);
        if (st != QSAE_OK)
            return st;
        fits = fits && qsae__add_size(*bytes, qsae__product_scratch(ctx), bytes);
    }
    if (!fits || !qsae__add_size(*bytes, act, bytes))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld columns", (long long)rows,
                          (long long)o->k);
    return QSAE_OK;
}

/* The rows become what the layers make of them first. */
static int32_t apply_act(qsae__apply_call *call)
{
    const qsae__operand *const o = call->operand[0];
    struct act_rows a = { call, o, (float *)(void *)call->scratch };
    size_t bytes;
    if (!act_bytes(call->x.rows, o->k, &bytes))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld columns", (long long)call->x.rows,
                          (long long)o->k);
    const int32_t st = qsae__parallel(call->ctx, call->x.rows, act_row, &a);
    call->x = (qsae__linear_rows){ a.to, QSAE_F32, call->x.rows, o->k };
    call->scratch += bytes;
    return st;
}

int32_t qsae__apply(qsae__apply_call *call)
{
    qsae_context *const ctx = call->ctx;
    call->outliers = 0;
    if (call->x.rows == 0)
        return QSAE_OK;
    int32_t st = changes_rows(call->operand[0]) ? apply_act(call) : QSAE_OK;
    if (st != QSAE_OK)
        return st;
    if (call->operand[0]->kind == QSAE__PRODUCT_INT8)
        return qsae__apply_int8(call);
    if (call->operand[0]->kind != QSAE__PRODUCT_F32)
        return apply_packed(call);
    st = apply_f32(call);
    if (st == QSAE_OK && call->gate)
        st = qsae__apply_gate(ctx, call->x.rows, call->operand[0]->n, call->y, call->ldy,
                              call->gate);
    return st;
}
