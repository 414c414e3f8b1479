/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "codecs/int8.h"
#include "kernels/int8.h"

#define TILE_OUT 64
#define MIN_ROWS 16
#define MAX_ROWS 256
#define CACHED (256 * 1024)  /* codes of a tile's rows that should stay in the second-level cache */

#define CUDA_SCALE 6.200012e-05f   /* 1 / 127^2 */
#define TORCH_SCALE 6.200124e-05f  /* as the CPU build has it, a digit short */

/* One call of the layer. */
struct call {
    const qsae_qmatrix *q;
    const qsae__int8_ops *ops;
    const float *bias;
    float *y;
    int64_t rows, ldy;
    int64_t tile_rows, row_tiles;
    int32_t dtype;
    qsae__int8_rows a;          /* quantised activations */
    int64_t *columns;           /* [a.n_outliers] outlier columns, ascending */
    float *x_outlier;           /* [rows, a.n_outliers] */
    qsae__panels w_outlier;     /* [n_out, a.n_outliers] in dtype */
    int32_t *acc;               /* [threads, tile_rows, TILE_OUT] */
    float *part;                /* the same shape: outlier products */
    float *scratch;             /* [threads, QSAE__GEMM_SCRATCH] */
};

/* Integer sums of one row, outputs n0..n0+n, to y in dtype; bias added. */
static void dequantize(const struct call *c, int64_t row, int64_t n0, int64_t n, const int32_t *acc,
                       float *y)
{
    const float *scb = c->q->scale + n0, *bias = c->bias ? c->bias + n0 : NULL;
    const float sca = c->a.scale[row];
    if (c->q->codec.rules == QSAE__RULES_TORCH) {
        for (int64_t j = 0; j < n; j++)
            y[j] = (float)acc[j] * (sca * scb[j]) * TORCH_SCALE;
        for (int64_t j = 0; bias && j < n; j++)
            y[j] += bias[j];
        qsae__round(c->q->ctx, c->dtype, y, n);
        return;
    }
    /* The GPU kernel writes fp16 and fuses an fp16 bias; another bias is added to that, rounded. */
    const bool fused = bias && c->dtype == QSAE_F16;
    for (int64_t j = 0; j < n; j++) {
        const float v = (float)acc[j] * sca * scb[j];
        y[j] = fused ? fmaf(v, CUDA_SCALE, bias[j]) : v * CUDA_SCALE;
    }
    c->ops->round_f16(y, n);
    if (bias && !fused) {
        for (int64_t j = 0; j < n; j++)
            y[j] += bias[j];
        c->ops->round_f16(y, n);
    }
    if (c->dtype == QSAE_BF16)
        qsae__round(c->q->ctx, QSAE_BF16, y, n);
}

/* Neighbouring tiles share weights. */
static int32_t linear_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct call *c = arg;
    const int64_t k = c->q->n_in, cells = c->tile_rows * TILE_OUT;
    const int64_t n0 = tile / c->row_tiles * TILE_OUT, m0 = tile % c->row_tiles * c->tile_rows;
    const int64_t n = qsae__min_i64(TILE_OUT, c->q->n_out - n0);
    const int64_t m = qsae__min_i64(c->tile_rows, c->rows - m0);
    int32_t *acc = c->acc + worker * cells;
    c->ops->gemm_s8(m, n, k, c->a.codes + m0 * k, k, (const int8_t *)c->q->codes + n0 * k, k, acc,
                    TILE_OUT);
    for (int64_t i = 0; i < m; i++)
        dequantize(c, m0 + i, n0, n, acc + i * TILE_OUT, c->y + (m0 + i) * c->ldy + n0);
    if (c->a.n_outliers == 0)
        return QSAE_OK;
    float *part = c->part + worker * cells;
    qsae__gemm_tile(c->q->ctx, m, c->x_outlier + m0 * c->a.n_outliers, c->a.n_outliers,
                    &c->w_outlier, n0, n0 + n, part, TILE_OUT,
                    c->scratch + worker * QSAE__GEMM_SCRATCH);
    for (int64_t i = 0; i < m; i++) {
        float *y = c->y + (m0 + i) * c->ldy + n0;
        for (int64_t j = 0; j < n; j++)
            y[j] += part[i * TILE_OUT + j];
        qsae__round(c->q->ctx, c->dtype, y, n);
    }
    return QSAE_OK;
}

/* Panel source: outlier columns of the weight, decoded from its codes. */
static void fill_outliers(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                          float *tile, int64_t panel)
{
    const struct call *c = self;
    const int64_t kb = k1 - k0;
    memset(tile, 0, (size_t)(qsae__ceil_div(n1 - n0, panel) * panel * kb) * sizeof *tile);
    for (int64_t n = n0; n < n1; n++) {
        float *dst = tile + (n - n0) / panel * panel * kb + (n - n0) % panel;
        for (int64_t k = 0; k < kb; k++)
            c->q->ops->decode(c->q, n, c->columns[k0 + k], 1, c->dtype, dst + k * panel);
    }
}

static int32_t gather_outliers(struct call *c, const float *x, int64_t ldx)
{
    qsae_context *ctx = c->q->ctx;
    const int64_t n = c->a.n_outliers;
    int64_t cells, at = 0;
    if (!qsae__mul_i64(c->rows, n, &cells))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld outlier columns", (long long)c->rows,
                          (long long)n);
    c->columns = qsae__alloc_array(ctx, n, sizeof *c->columns);
    c->x_outlier = qsae__alloc_array(ctx, cells, sizeof(float));
    if (!c->columns || !c->x_outlier)
        return QSAE_ENOMEM;
    for (int64_t j = 0; j < c->q->n_in; j++)
        if (c->a.outlier[j])
            c->columns[at++] = j;
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t j = 0; j < n; j++)
            c->x_outlier[i * n + j] = x[i * ldx + c->columns[j]];
    c->w_outlier = (qsae__panels){ fill_outliers, c, c->q->n_out, n };
    return QSAE_OK;
}

/* Everything but the product itself: activations, outliers, scratch of the workers. */
static int32_t prepare(struct call *c, const float *x, int64_t ldx)
{
    qsae_context *ctx = c->q->ctx;
    const int64_t k = c->q->n_in, threads = ctx->threads;
    const qsae__source src = { .ctx = ctx, .data = x, .dtype = QSAE_F32, .n_out = c->rows,
                               .n_in = k, .out_stride = ldx, .in_stride = 1 };
    const float threshold = c->q->codec.threshold;
    int64_t codes;
    if (!qsae__mul_i64(c->rows, k, &codes))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld columns", (long long)c->rows,
                          (long long)k);
    c->a.codes = qsae__alloc_array(ctx, codes, 1);
    c->a.scale = qsae__alloc_array(ctx, c->rows, sizeof(float));
    c->acc = qsae__alloc_array(ctx, threads * c->tile_rows * TILE_OUT, sizeof(int32_t));
    if (!c->a.codes || !c->a.scale || !c->acc)
        return QSAE_ENOMEM;
    if (threshold > 0 && !(c->a.outlier = qsae__alloc_array(ctx, k, 1)))
        return QSAE_ENOMEM;
    const int32_t status = qsae__int8_quantize_rows(&src, c->q->codec.rules, threshold, &c->a);
    if (status || c->a.n_outliers == 0)
        return status;
    c->part = qsae__alloc_array(ctx, threads * c->tile_rows * TILE_OUT, sizeof(float));
    c->scratch = qsae__alloc_array(ctx, threads * QSAE__GEMM_SCRATCH, sizeof(float));
    if (!c->part || !c->scratch)
        return QSAE_ENOMEM;
    return gather_outliers(c, x, ldx);
}

int32_t qsae__int8_linear(const qsae_qmatrix *q, int64_t rows, const float *x, int64_t ldx,
                          const float *bias, int32_t dtype, float *y, int64_t ldy,
                          int64_t *n_outliers)
{
    qsae_context *ctx = q->ctx;
    struct call c = { .q = q, .ops = qsae__int8_get(ctx), .bias = bias, .y = y, .rows = rows,
                      .ldy = ldy, .dtype = dtype };
    if (rows == 0)
        return QSAE_OK;
    c.tile_rows = qsae__min_i64(MAX_ROWS, CACHED / q->n_in / MIN_ROWS * MIN_ROWS);
    c.tile_rows = qsae__max_i64(MIN_ROWS, c.tile_rows);
    c.row_tiles = qsae__ceil_div(rows, c.tile_rows);
    int32_t status = prepare(&c, x, ldx);
    if (!status)
        status = qsae__parallel(ctx, c.row_tiles * qsae__ceil_div(q->n_out, TILE_OUT), linear_tile,
                                &c);
    if (n_outliers)
        *n_outliers = c.a.n_outliers;
    qsae__free(ctx, c.a.codes);
    qsae__free(ctx, c.a.scale);
    qsae__free(ctx, c.a.outlier);
    qsae__free(ctx, c.acc);
    qsae__free(ctx, c.part);
    qsae__free(ctx, c.scratch);
    qsae__free(ctx, c.columns);
    qsae__free(ctx, c.x_outlier);
    return status;
}
