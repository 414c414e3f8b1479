/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/int8.h"

#include <math.h>

#include "kernels/int8.h"

#define TILE_ROWS 16

struct job {
    const qsae__source *src;
    const qsae__int8_ops *ops;
    qsae__int8_rows *out;
    enum qsae__rules rules;
    float threshold;
    float *row;            /* [threads, k] */
    uint8_t *outlier;      /* [threads, k], or NULL */
    bool scan;             /* first of two passes: maxima and outliers only */
};

/* NaN elements are skipped by the GPU and spread to the row's maximum by the CPU build. */
static float row_max(const struct job *job, const float *x, int64_t k)
{
    const float m = job->threshold > 0 ? job->ops->absmax_below(x, job->threshold, k)
                                       : job->ops->absmax(x, k);
    if (job->rules == QSAE__RULES_TORCH)
        for (int64_t j = 0; j < k; j++)
            if (isnan(x[j]))
                return NAN;
    return m < 0 ? 0 : m;
}

static void mark_outliers(const struct job *job, const float *x, int64_t k, uint8_t *outlier)
{
    if (job->ops->absmax(x, k) < job->threshold)
        return;
    for (int64_t j = 0; j < k; j++)
        if (fabsf(x[j]) >= job->threshold)
            outlier[j] = 1;
}

static int32_t quantize_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->src->n_in, end = qsae__min_i64(job->src->n_out, (tile + 1) * TILE_ROWS);
    float *x = job->row + worker * k;
    for (int64_t i = tile * TILE_ROWS; i < end; i++) {
        qsae__source_row(job->src, i, 0, k, x);
        job->ops->round_f16(x, k);
        if (job->scan || job->threshold == 0)
            job->out->scale[i] = row_max(job, x, k);
        if (job->scan) {
            mark_outliers(job, x, k, job->outlier + worker * k);
            continue;
        }
        int8_t *code = job->out->codes + i * k;
        job->ops->quantize(x, 127.0f * (1.0f / job->out->scale[i]), code, k);
        if (job->out->n_outliers > 0)
            for (int64_t j = 0; j < k; j++)
                code[j] = job->out->outlier[j] ? 0 : code[j];
    }
    return QSAE_OK;
}

int32_t qsae__int8_quantize_rows(const qsae__source *src, enum qsae__rules rules, float threshold,
                                 qsae__int8_rows *out)
{
    qsae_context *ctx = src->ctx;
    const int64_t k = src->n_in, tiles = qsae__ceil_div(src->n_out, TILE_ROWS);
    struct job job = { .src = src, .ops = qsae__int8_get(ctx), .out = out, .rules = rules };
    int32_t status = QSAE_ENOMEM;
    int64_t work;
    const qsae__fpenv env = qsae__fpenv_enter();
    job.threshold = qsae__round_f16(threshold);
    qsae__fpenv_leave(env);
    out->n_outliers = 0;
    if (!qsae__mul_i64(ctx->threads, k, &work))
        return qsae__fail(QSAE_EOVERFLOW, "%lld columns on %d threads", (long long)k, ctx->threads);
    job.row = qsae__alloc_array(ctx, work, sizeof(float));
    if (!job.row)
        goto fail;
    if (job.threshold > 0) {
        job.outlier = qsae__calloc(ctx, work, 1);
        if (!job.outlier)
            goto fail;
        job.scan = true;
        status = qsae__parallel(ctx, tiles, quantize_tile, &job);
        if (status)
            goto fail;
        job.scan = false;
        for (int64_t j = 0; j < k; j++) {
            out->outlier[j] = 0;
            for (int32_t w = 0; w < ctx->threads; w++)
                out->outlier[j] |= job.outlier[w * k + j];
            out->n_outliers += out->outlier[j];
        }
    }
    status = qsae__parallel(ctx, tiles, quantize_tile, &job);
fail:
    qsae__free(ctx, job.row);
    qsae__free(ctx, job.outlier);
    return status;
}

static int32_t encode(qsae_qmatrix *q, const qsae__source *src)
{
    if (q->n_in > QSAE__GEMM_S8_MAX_K)
        return qsae__fail(QSAE_EUNSUPPORTED, "llm.int8: %lld inputs; sums are exact in int32 up to "
                          "%d", (long long)q->n_in, QSAE__GEMM_S8_MAX_K);
    q->scale_rows = q->n_out;
    q->scale_cols = 1;
    q->code_bytes = (uint64_t)(q->n_out * q->n_in);
    q->codes = qsae__alloc_array(q->ctx, q->n_out * q->n_in, 1);
    q->scale = qsae__alloc_array(q->ctx, q->n_out, sizeof(float));
    if (!q->codes || !q->scale)
        return QSAE_ENOMEM;
    qsae__int8_rows out = { .codes = q->codes, .scale = q->scale };
    return qsae__int8_quantize_rows(src, q->codec.rules, 0, &out);
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    const int8_t *code = (const int8_t *)q->codes + row * q->n_in + c0;
    const float scale = q->scale[row];
    for (int64_t i = 0; i < n; i++)
        dst[i] = qsae__round_to(dtype, (float)code[i] * scale * 0.007874015718698502f);
}

static bool field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    if (i == 0)
        qsae__field_set(f, "weight", q->codes, QSAE_I8, 2, q->n_out, q->n_in);
    else if (i == 1)
        qsae__field_set(f, "SCB", q->scale, QSAE_F32, 1, q->n_out, 1);
    return i < 2;
}

static uint64_t bytes(const qsae_qmatrix *q)
{
    return q->code_bytes + 4 * (uint64_t)q->n_out;
}

const qsae__codec_ops qsae__codec_int8 = { encode, decode, field, bytes };
