/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "codecs/apply.h"
#include "codecs/int8.h"
#include "kernels/int8.h"

#define OUTLIER_ROWS 32   /* rows whose outlier products are made at once */

/* One call: layers that read the same rows. */
struct call {
    qsae_context *ctx;
    const qsae__int8_ops *ops;
    qsae__apply_call *call;
    qsae__int8_rows a;          /* quantised activations, in strips */
    int64_t *columns;           /* [a.n_outliers] outlier columns, ascending */
    float *x_outlier;           /* [rows, a.n_outliers] */
    float *w_outlier[QSAE__APPLY_MOST]; /* [n_out, a.n_outliers] of each layer, in dtype */
    qsae__dense dense[QSAE__APPLY_MOST];
    float *part;                /* [threads, OUTLIER_ROWS, QSAE__GEMM_NB] outlier products */
    float *scratch;             /* [threads, QSAE__GEMM_SCRATCH] */
    bool by_row;                /* outliers are a row's own, not the call's */
    float threshold;            /* rounded to f16 */
};

/* Code (n, k) of a packed weight; packed.h says where it lies. */
static int8_t packed_code(const qsae__packed_weight *w, int64_t n, int64_t k)
{
    const int64_t at = n / QSAE__COLUMNS * w->panel + k / 4 * (4 * QSAE__COLUMNS) +
                       n % QSAE__COLUMNS * 4 + k % 4;
    return (int8_t)w->data[at];
}

struct gather {
    const struct call *c;
    const qsae__operand *o;
    float *w;
};

static int32_t gather_weight(void *arg, int64_t n, int32_t worker)
{
    const struct gather *const g = arg;
    const int64_t count = g->c->a.n_outliers;
    (void)worker;
    for (int64_t j = 0; j < count; j++)
        g->w[n * count + j] = qsae__round_to(
            g->o->dtype, (float)packed_code(g->o->packed, n, g->c->columns[j]) *
                             g->o->q->scale[n] * 0.007874015718698502f);
    return QSAE_OK;
}

static int32_t gather_row(void *arg, int64_t row, int32_t worker)
{
    const struct gather *const g = arg;
    const qsae__linear_rows *const x = &g->c->call->x;
    const int64_t count = g->c->a.n_outliers, size = x->dtype == QSAE_BF16 ? 2 : 4;
    const bool by_row = g->c->by_row;
    (void)worker;
    for (int64_t j = 0; j < count; j++) {
        float *const v = g->c->x_outlier + row * count + j;
        (void)qsae__to_f32(x->dtype,
                           (const char *)x->x + (row * x->ldx + g->c->columns[j]) * size, 1, v);
        if (by_row && !qsae__int8_is_outlier(*v, g->c->threshold))
            *v = 0; /* it went into the integer product */
    }
    return QSAE_OK;
}

/* Outlier columns of the rows and of every layer's weight, the latter decoded from its codes. */
static int32_t gather_outliers(struct call *c)
{
    qsae_context *const ctx = c->ctx;
    const int64_t n = c->a.n_outliers, rows = c->call->x.rows;
    int64_t cells, at = 0;
    if (!qsae__mul_i64(rows, n, &cells))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld outlier columns", (long long)rows,
                          (long long)n);
    c->columns = qsae__alloc_array(ctx, n, sizeof *c->columns);
    c->x_outlier = qsae__alloc_array(ctx, cells, sizeof(float));
    c->part = qsae__alloc_array(ctx, (int64_t)ctx->threads * OUTLIER_ROWS * QSAE__GEMM_NB,
                                sizeof(float));
    c->scratch = qsae__alloc_array(ctx, (int64_t)ctx->threads * QSAE__GEMM_SCRATCH, sizeof(float));
    if (!c->columns || !c->x_outlier || !c->part || !c->scratch)
        return QSAE_ENOMEM;
    for (int64_t j = 0; j < c->call->operand[0]->k; j++)
        if (c->a.outlier[j])
            c->columns[at++] = j;
    struct gather g = { c, NULL, NULL };
    int32_t st = qsae__parallel(ctx, rows, gather_row, &g);
    for (int64_t i = 0; i < c->call->n && st == QSAE_OK; i++) {
        const qsae__operand *const o = c->call->operand[i];
        if (!qsae__mul_i64(o->n, n, &cells) ||
            !(c->w_outlier[i] = qsae__alloc_array(ctx, cells, sizeof(float))))
            return qsae__fail(QSAE_ENOMEM, "out of memory for %lld outlier columns", (long long)n);
        g = (struct gather){ c, o, c->w_outlier[i] };
        c->dense[i] = (qsae__dense){ .data = g.w, .dtype = QSAE_F32, .level = ctx->level,
                                     .n_stride = n, .k_stride = 1 };
        st = qsae__parallel(ctx, o->n, gather_weight, &g);
    }
    return st;
}

/* y[m1 - m0, n1 - n0] += outlier products, rounded to dtype. */
static void add_outliers(const struct call *c, int64_t index, const qsae__tile *t, float *y)
{
    const qsae__operand *const o = c->call->operand[index];
    const int64_t count = c->a.n_outliers;
    const qsae__panels w = qsae__panels_dense(&c->dense[index], o->n, count);
    float *const part = c->part + (int64_t)t->worker * OUTLIER_ROWS * QSAE__GEMM_NB;
    for (int64_t n0 = t->n0; n0 < t->n1; n0 += QSAE__GEMM_NB) {
        const int64_t n1 = qsae__min_i64(t->n1, n0 + QSAE__GEMM_NB);
        for (int64_t m0 = t->m0; m0 < t->m1; m0 += OUTLIER_ROWS) {
            const int64_t m = qsae__min_i64(OUTLIER_ROWS, t->m1 - m0);
            qsae__gemm_tile(c->ctx, m, c->x_outlier + m0 * count, count, &w, n0, n1, part,
                            QSAE__GEMM_NB, c->scratch + (int64_t)t->worker * QSAE__GEMM_SCRATCH);
            for (int64_t i = 0; i < m; i++) {
                float *const row = y + (m0 - t->m0 + i) * t->ldc + n0 - t->n0;
                qsae__ops_get(c->ctx)->add(row, part + i * QSAE__GEMM_NB, row, n1 - n0,
                                           o->dtype == QSAE_BF16);
                if (o->dtype == QSAE_F16)
                    qsae__round(c->ctx, QSAE_F16, row, n1 - n0);
            }
        }
    }
}

/* Integer sums to results in dtype, in place; bias added. */
static void dequantize(const struct call *c, int64_t index, const qsae__tile *t, void *tile)
{
    const qsae__operand *const o = c->call->operand[index];
    const int32_t rules = o->q->codec.rules == QSAE__RULES_TORCH ? QSAE__SCALE_TORCH
                                                                 : QSAE__SCALE_CUDA;
    const float *const bias = o->bias ? o->bias + t->n0 : NULL;
    const int64_t n = t->n1 - t->n0;
    int32_t acc[512];
    for (int64_t i = 0; i < t->m1 - t->m0; i++) {
        char *const row = (char *)tile + (size_t)(i * t->ldc) * 4;
        for (int64_t j = 0; j < n; j += 512) {
            const int64_t part = qsae__min_i64(512, n - j);
            memcpy(acc, row + j * 4, (size_t)part * 4);
            c->ops->scale_row(acc, c->a.scale[t->m0 + i], o->q->scale + t->n0 + j,
                              bias ? bias + j : NULL, part, rules, o->dtype,
                              (float *)(void *)(row + j * 4));
        }
    }
    if (c->a.n_outliers > 0)
        add_outliers(c, index, t, tile);
}

static int32_t finish(void *self, const qsae__tile *t)
{
    const struct call *const c = self;
    dequantize(c, t->index, t, t->c);
    if (t->c2)
        dequantize(c, 1, t, t->c2);
    for (int64_t i = 0; i < t->m1 - t->m0; i++)
        qsae__store_row(c->call, t->index, t->m0 + i, t->n0, t->n1 - t->n0,
                        (float *)t->c + i * t->ldc,
                        t->c2 ? (const float *)t->c2 + i * t->ldc : NULL);
    return QSAE_OK;
}

static int32_t multiply(struct call *c, const qsae__left *left)
{
    qsae__right right[QSAE__APPLY_MOST];
    for (int64_t i = 0; i < c->call->n; i++)
        right[i] = (qsae__right){ c->call->operand[i]->packed, NULL };
    const qsae__product p = { .left = left, .right = right, .n_right = c->call->n, .s8 = true,
                              .pair = c->call->gate != NULL, .y = c->call->y,
                              .ldy = c->call->ldy, .finish = finish, .self = c,
                              .scratch = c->call->scratch };
    return qsae__product_run(c->ctx, &p);
}

int32_t qsae__apply_int8(qsae__apply_call *call)
{
    qsae_context *const ctx = call->ctx;
    const qsae__operand *const first = call->operand[0];
    const float threshold = first->q->codec.threshold;
    const qsae__source src = { .ctx = ctx, .data = call->x.x, .dtype = call->x.dtype,
                               .n_out = call->x.rows, .n_in = first->k, .out_stride = call->x.ldx,
                               .in_stride = 1 };
    struct call c = { .ctx = ctx, .ops = qsae__int8_get(ctx), .call = call,
                      .by_row = first->q->codec.outliers_by_row,
                      .threshold = qsae__round_f16(threshold) };
    qsae__left left;
    size_t bytes;
    int32_t st = qsae__apply_left(first, call->x.rows, &left, &bytes);
    if (st != QSAE_OK)
        return st;
    left.data = c.a.strips = call->scratch + qsae__product_scratch(ctx);
    c.a.strip = left.strip;
    c.a.scale = qsae__alloc_array(ctx, call->x.rows, sizeof(float));
    if (threshold > 0)
        c.a.outlier = qsae__alloc_array(ctx, first->k, 1);
    st = c.a.scale && (threshold == 0 || c.a.outlier) ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__int8_quantize_rows(&src, first->q->codec.rules, threshold, c.by_row, &c.a);
    if (st == QSAE_OK && c.a.n_outliers > 0)
        st = gather_outliers(&c);
    if (st == QSAE_OK)
        st = multiply(&c, &left);
    call->outliers = c.a.n_outliers;
    void *const blocks[] = { c.a.scale, c.a.outlier, c.columns, c.x_outlier, c.part, c.scratch,
                             c.w_outlier[0], c.w_outlier[1], c.w_outlier[2], c.w_outlier[3] };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(ctx, blocks[i]);
    return st;
}
