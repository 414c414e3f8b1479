/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Round to nearest (arXiv 2606.03002, and the TransformerLens shapes it quantises in). NaN is in no
 * range and gets the code of zero.
 */
#include <math.h>
#include <string.h>

#include "codecs/qmatrix.h"
#include "kernels/blocks.h"
#include "kernels/even.h"

#define COLUMNS 256 /* columns of a tile for axis=column */

struct job {
    qsae_qmatrix *q;
    const qsae__source *src;
    const qsae__even_ops *ops;
    int64_t step;       /* inputs per group */
    int64_t groups;     /* per row */
    int32_t arith;      /* dtype every operation is rounded to; QSAE_F32 = none */
    bool alone;         /* no row shares a scale with another */
    float low, high;    /* codes */
    float *min, *max;   /* [n_out, groups], or [1, n_in] for axis=column; both include 0 */
    float *row;         /* [threads, n_in] */
};

/* Half to even, below 2^22: the sum's low bits are the nearest integer. */
static float nearest(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

static float clamp(float v, float low, float high)
{
    return v < low ? low : v > high ? high : v;
}

/* Ranges of the groups of a row x. */
static void range_groups(const struct job *job, int64_t row, const float *x)
{
    const int64_t k = job->q->n_in;
    for (int64_t g = 0; g < job->groups; g++) {
        const int64_t j = g * job->step, at = row * job->groups + g;
        job->min[at] = job->max[at] = 0;
        job->ops->range(x + j, qsae__min_i64(k - j, job->step), &job->min[at], &job->max[at]);
    }
}

static int32_t range_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    float *x = job->row + worker * job->q->n_in;
    qsae__source_row(job->src, row, 0, job->q->n_in, x);
    range_groups(job, row, x);
    return QSAE_OK;
}

static int32_t range_columns(void *arg, int64_t tile, int32_t worker)
{
    const struct job *job = arg;
    const int64_t c0 = tile * COLUMNS, n = qsae__min_i64(COLUMNS, job->q->n_in - c0);
    float x[COLUMNS], *min = job->min + c0, *max = job->max + c0;
    (void)worker;
    memset(min, 0, (size_t)n * sizeof *min);
    memset(max, 0, (size_t)n * sizeof *max);
    for (int64_t row = 0; row < job->q->n_out; row++) {
        qsae__source_row(job->src, row, c0, n, x);
        job->ops->ranges(x, n, min, max);
    }
    return QSAE_OK;
}

/* Which scales a row has: rows of equal index within the heads of a part share theirs. */
static int64_t scale_row(const qsae_qmatrix *q, int64_t row)
{
    const int64_t part = q->n_out / q->parts, head = q->scale_rows / q->parts;
    return head > 0 ? row / part * head + row % part % head : 0;
}

/* Ranges of rows that share a scale, over those of the first rows. */
static void fold_ranges(struct job *job)
{
    const int64_t part = job->q->n_out / job->q->parts, head = job->q->scale_rows / job->q->parts;
    for (int64_t row = 0; row < job->q->n_out; row++) {
        const int64_t from = row * job->groups, to = scale_row(job->q, row) * job->groups;
        const bool first = row % part < head; /* what is at `to` is done with */
        float *const min = job->min + to, *const max = job->max + to;
        for (int64_t g = 0; g < job->groups; g++) {
            min[g] = first ? job->min[from + g] : fminf(min[g], job->min[from + g]);
            max[g] = first ? job->max[from + g] : fmaxf(max[g], job->max[from + g]);
        }
    }
}

/* Scales first..first+n. */
static void scales(const struct job *job, int64_t first, int64_t n)
{
    const qsae_qmatrix *q = job->q;
    const int32_t a = job->arith;
    for (int64_t i = first; i < first + n; i++) {
        const float min = job->min[i], max = job->max[i];
        const float span = q->codec.symmetric ? fmaxf(-min, max) : qsae__round_to(a, max - min);
        const float scale = qsae__round_to(a, span / (q->codec.symmetric ? job->high
                                                                        : job->high - job->low));
        q->scale[i] = scale == 0 ? 1 : scale;
        if (q->zero) {
            const float zero = nearest(qsae__round_to(a, -min / q->scale[i]));
            q->zero[i] = isnan(zero) ? 0 : clamp(zero, job->low, job->high);
        }
    }
}

/* Inputs from col that share a way to their scale: input col + j has scale at + j * stride. */
struct run {
    int64_t end, at, stride;
};

static struct run run_at(const qsae_qmatrix *q, int64_t row, int64_t col, int64_t end)
{
    if (q->codec.axis == QSAE__AXIS_COLUMN)
        return (struct run){ end, col, 1 };
    if (q->codec.axis == QSAE__AXIS_TENSOR)
        return (struct run){ end, 0, 0 };
    const int64_t step = q->codec.group ? q->codec.group : q->n_in, g = col / step;
    const int64_t at = scale_row(q, row) * q->scale_cols + g;
    return (struct run){ qsae__min_i64(end, (g + 1) * step), at, 0 };
}

/* Codes of a row x. */
static void encode_groups(const struct job *job, int64_t row, const float *x)
{
    const qsae_qmatrix *q = job->q;
    uint8_t *code = (uint8_t *)q->codes + row * q->n_in;
    for (int64_t j = 0; j < q->n_in;) {
        const struct run r = run_at(q, row, j, q->n_in);
        const qsae__even grid = {
            .scale = q->scale + r.at,
            .zero = q->zero ? q->zero + r.at : NULL,
            .stride = r.stride,
            .low = job->low,
            .high = job->high,
            .dtype = job->arith,
        };
        job->ops->codes(&grid, x + j, r.end - j, code + j); /* signed ones as two's complement */
        j = r.end;
    }
}

static int32_t encode_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    float *x = job->row + worker * job->q->n_in;
    qsae__source_row(job->src, row, 0, job->q->n_in, x);
    if (job->alone) {
        range_groups(job, row, x);
        scales(job, row * job->groups, job->groups);
    }
    encode_groups(job, row, x);
    return QSAE_OK;
}

/* Shape of the scales, groups and code range. */
/* Whether ranges are taken along rows; columns that share one. */
static bool by_rows(const qsae_qmatrix *q)
{
    return q->codec.axis == QSAE__AXIS_ROW || q->codec.axis == QSAE__AXIS_TL;
}

static int64_t step_of(const qsae_qmatrix *q)
{
    return by_rows(q) && q->codec.group ? qsae__min_i64(q->codec.group, q->n_in) : q->n_in;
}

static int32_t plan(qsae_qmatrix *q)
{
    q->scale_cols = q->codec.axis == QSAE__AXIS_COLUMN ? q->n_in
                                                       : qsae__ceil_div(q->n_in, step_of(q));
    q->scale_rows = by_rows(q) ? q->n_out : 1;
    /* What packed codes would take: they are kept one per byte. */
    q->code_bytes = ((uint64_t)(q->n_out * q->n_in) * (uint64_t)q->codec.bits + 7) / 8;
    if (q->codec.axis != QSAE__AXIS_TL)
        return QSAE_OK;
    if (q->n_out % (q->parts * q->heads))
        return qsae__fail(QSAE_EINVAL, "rtn:axis=tl: %lld outputs are not a multiple of %lld heads",
                          (long long)q->n_out, (long long)(q->parts * q->heads));
    q->scale_rows = q->n_out / q->heads;
    return QSAE_OK;
}

static void set_up(struct job *job)
{
    const qsae_qmatrix *const q = job->q;
    const float levels = (float)(1 << q->codec.bits);
    job->step = step_of(q);
    job->groups = qsae__ceil_div(q->n_in, job->step);
    job->arith = q->codec.weight_arith ? q->dtype : QSAE_F32;
    job->low = q->codec.symmetric ? -levels / 2 : 0;
    job->high = q->codec.symmetric ? levels / 2 - 1 : levels - 1;
    job->alone = by_rows(q) && (q->codec.axis != QSAE__AXIS_TL || q->heads == 1);
}

static int32_t alloc_all(struct job *job)
{
    qsae_qmatrix *q = job->q;
    const int64_t ranges = q->codec.axis == QSAE__AXIS_COLUMN ? q->n_in : q->n_out * job->groups;
    const int64_t n_scales = q->scale_rows * q->scale_cols;
    int64_t work;
    if (!qsae__mul_i64(q->ctx->threads, q->n_in, &work))
        return qsae__fail(QSAE_EOVERFLOW, "%lld columns on %d threads", (long long)q->n_in,
                          q->ctx->threads);
    q->codes = qsae__alloc_array(q->ctx, q->n_out * q->n_in, 1);
    q->scale = qsae__alloc_array(q->ctx, n_scales, sizeof(float));
    if (!q->codec.symmetric)
        q->zero = qsae__alloc_array(q->ctx, n_scales, sizeof(float));
    job->min = qsae__alloc_array(q->ctx, ranges, sizeof(float));
    job->max = qsae__alloc_array(q->ctx, ranges, sizeof(float));
    job->row = qsae__alloc_array(q->ctx, work, sizeof(float));
    if (!q->codes || !q->scale || (!q->codec.symmetric && !q->zero) || !job->min || !job->max ||
        !job->row)
        return QSAE_ENOMEM;
    return QSAE_OK;
}

static int32_t encode(qsae_qmatrix *q, const qsae__source *src)
{
    struct job job = { .q = q, .src = src, .ops = qsae__even_get(q->ctx) };
    int32_t status = plan(q);
    if (status)
        return status;
    set_up(&job);
    status = alloc_all(&job);
    if (status)
        goto fail;
    if (q->codec.axis == QSAE__AXIS_COLUMN)
        status = qsae__parallel(q->ctx, qsae__ceil_div(q->n_in, COLUMNS), range_columns, &job);
    else if (!job.alone)
        status = qsae__parallel(q->ctx, q->n_out, range_row, &job);
    if (status)
        goto fail;
    if (!job.alone && q->codec.axis != QSAE__AXIS_COLUMN)
        fold_ranges(&job);
    if (!job.alone)
        scales(&job, 0, q->scale_rows * q->scale_cols);
    status = qsae__parallel(q->ctx, q->n_out, encode_row, &job);
fail:
    qsae__free(q->ctx, job.min);
    qsae__free(q->ctx, job.max);
    qsae__free(q->ctx, job.row);
    return status;
}

/* The codes from (row, col) to the end of their run. */
static qsae__codes8 codes_of(const qsae_qmatrix *q, int64_t row, int64_t col, const struct run *r)
{
    return (qsae__codes8){
        .codes = (const uint8_t *)q->codes + row * q->n_in + col,
        .is_signed = !q->zero,
        .scale = q->scale + r->at,
        .zero = q->zero ? q->zero + r->at : NULL,
        .stride = r->stride,
        .factor = 1,
    };
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    const qsae__block_ops *ops = qsae__blocks_get(q->ctx);
    for (int64_t j = c0; j < c0 + n;) {
        const struct run r = run_at(q, row, j, c0 + n);
        const qsae__codes8 c = codes_of(q, row, j, &r);
        ops->f32_8(&c, r.end - j, dtype == QSAE_BF16, dst + (j - c0));
        j = r.end;
    }
    if (dtype == QSAE_F16)
        qsae__round(q->ctx, dtype, dst, n);
}

static void decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const qsae__block_ops *ops = qsae__blocks_get(q->ctx);
    for (int64_t j = c0; j < c0 + n;) {
        const struct run r = run_at(q, row, j, c0 + n);
        const qsae__codes8 c = codes_of(q, row, j, &r);
        ops->bf16_8(&c, r.end - j, dst + (j - c0));
        j = r.end;
    }
}

static bool field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    if (i == 0)
        qsae__field_set(f, "codes", q->codes, q->zero ? QSAE_U8 : QSAE_I8, 2, q->n_out, q->n_in);
    else if (i == 1)
        qsae__field_set(f, "scale", q->scale, QSAE_F32, 2, q->scale_rows, q->scale_cols);
    else if (i == 2 && q->zero)
        qsae__field_set(f, "zero", q->zero, QSAE_F32, 2, q->scale_rows, q->scale_cols);
    else
        return false;
    return true;
}

/* As a file would hold them: packed codes, f32 scales, zero points of one byte. */
static uint64_t bytes(const qsae_qmatrix *q)
{
    return q->code_bytes + (uint64_t)(q->scale_rows * q->scale_cols) * (q->codec.symmetric ? 4 : 5);
}

const qsae__codec_ops qsae__codec_rtn = { encode, decode, decode16, field, bytes,
                                          NULL, plan };
