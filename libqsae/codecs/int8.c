/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/int8.h"

#include <math.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/int8.h"
#include "kernels/packed.h"

#define TILE_ROWS QSAE__STRIP

struct job {
    const qsae__source *src;
    const qsae__int8_ops *ops;
    qsae__int8_rows *out;
    enum qsae__rules rules;
    float threshold;
    const qsae__packed_kernel *kernel;
    bool half, in_place;   /* rows are bf16; lie as the kernels read them */
    float *row;            /* [threads, k], or NULL */
    int8_t *codes;         /* [threads, TILE_ROWS, k] if strips are wanted */
    uint8_t *outlier;      /* [threads, k], or NULL */
    uint8_t *of_row;       /* [threads, k] if each row is on its own, or NULL */
    bool scan;             /* first of two passes: maxima and outliers only */
};

/* Row i as it lies if the kernels read it so, bf16 or f32; else as f32 in the worker's buffer. */
static const void *source_row(const struct job *job, int64_t i, int32_t worker)
{
    const qsae__source *const s = job->src;
    if (job->in_place)
        return (const char *)s->data + (size_t)(i * s->out_stride) * (job->half ? 2 : 4);
    float *const x = job->row + worker * s->n_in;
    qsae__source_row(s, i, 0, s->n_in, x);
    return x;
}

/* NaN elements are skipped by the GPU and spread to the row's maximum by the CPU build. */
static float scan_row(const struct job *job, const void *x, uint8_t *outlier)
{
    const int64_t k = job->src->n_in;
    bool nan = false;
    const float m = job->half ? job->ops->scan_row16(x, k, job->threshold, outlier, &nan)
                              : job->ops->scan_row(x, k, job->threshold, outlier, &nan);
    return nan && job->rules == QSAE__RULES_TORCH ? NAN : m < 0 ? 0 : m;
}

/* The row's maximum, and its outliers added to those of the worker. */
static float scan_alone(const struct job *job, const void *x, uint8_t *of_row, uint8_t *outlier)
{
    const int64_t k = job->src->n_in;
    memset(of_row, 0, (size_t)k);
    const float m = scan_row(job, x, of_row);
    for (int64_t j = 0; j < k; j++)
        outlier[j] |= of_row[j];
    return m;
}

static int32_t quantize_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->src->n_in, first = tile * TILE_ROWS;
    const int64_t end = qsae__min_i64(job->src->n_out, first + TILE_ROWS);
    uint8_t *const of_row = job->of_row ? job->of_row + worker * k : NULL;
    const uint8_t *const outlier = of_row                    ? of_row
                                   : job->out->n_outliers > 0 ? job->out->outlier
                                                              : NULL;
    int8_t *const codes = job->codes ? job->codes + worker * TILE_ROWS * k
                                     : job->out->codes + first * k;
    for (int64_t i = first; i < end; i++) {
        const void *const x = source_row(job, i, worker);
        if (of_row)
            job->out->scale[i] = scan_alone(job, x, of_row, job->outlier + worker * k);
        else if (job->scan || job->threshold == 0)
            job->out->scale[i] =
                scan_row(job, x, job->scan ? job->outlier + worker * k : NULL);
        if (job->scan)
            continue;
        const float scale = 127.0f * (1.0f / job->out->scale[i]);
        int8_t *const code = codes + (i - first) * k;
        if (job->half)
            job->ops->quantize_row16(x, scale, outlier, code, k);
        else
            job->ops->quantize_row(x, scale, outlier, code, k);
    }
    if (job->codes && !job->scan)
        job->kernel->pack->rows_s8(codes, k, end - first, k, job->kernel->flipped,
                                   job->out->strips + tile * job->out->strip);
    return QSAE_OK;
}

/* Columns that hold an outlier in some worker's rows. */
static void fold_outliers(const struct job *job, int32_t threads)
{
    qsae__int8_rows *const out = job->out;
    const int64_t k = job->src->n_in;
    for (int64_t j = 0; j < k; j++) {
        out->outlier[j] = 0;
        for (int32_t w = 0; w < threads; w++)
            out->outlier[j] |= job->outlier[w * k + j];
        out->n_outliers += out->outlier[j];
    }
}

int32_t qsae__int8_quantize_rows(const qsae__source *src, enum qsae__rules rules, float threshold,
                                 bool by_row, qsae__int8_rows *out)
{
    qsae_context *ctx = src->ctx;
    const int64_t k = src->n_in, tiles = qsae__ceil_div(src->n_out, TILE_ROWS);
    struct job job = { .src = src, .ops = qsae__int8_get(ctx), .out = out, .rules = rules,
                       .kernel = qsae__packed_get(ctx) };
    int32_t status = QSAE_ENOMEM;
    int64_t work;
    const bool kept = !src->stored && (src->round == 0 || src->round == src->dtype ||
                                       src->round == QSAE_F32);
    job.half = kept && src->dtype == QSAE_BF16 && src->in_stride == 1 &&
               (uintptr_t)src->data % 2 == 0;
    job.in_place = job.half || (kept && src->dtype == QSAE_F32 && src->in_stride == 1 &&
                                (uintptr_t)src->data % 4 == 0);
    const qsae__fpenv env = qsae__fpenv_enter();
    job.threshold = qsae__round_f16(threshold);
    qsae__fpenv_leave(env);
    out->n_outliers = 0;
    if (!qsae__mul_i64((int64_t)ctx->threads * TILE_ROWS, k, &work))
        return qsae__fail(QSAE_EOVERFLOW, "%lld columns on %d threads", (long long)k, ctx->threads);
    if (!out->codes && !(job.codes = qsae__alloc_array(ctx, work, 1)))
        goto fail;
    work /= TILE_ROWS;
    if (!job.in_place && !(job.row = qsae__alloc_array(ctx, work, sizeof(float))))
        goto fail;
    if (job.threshold > 0 && !(job.outlier = qsae__calloc(ctx, work, 1)))
        goto fail;
    if (job.threshold > 0 && by_row && !(job.of_row = qsae__alloc_array(ctx, work, 1)))
        goto fail;
    if (job.threshold > 0 && !by_row) {
        job.scan = true;
        status = qsae__parallel(ctx, tiles, quantize_tile, &job);
        if (status)
            goto fail;
        job.scan = false;
        fold_outliers(&job, ctx->threads);
    }
    status = qsae__parallel(ctx, tiles, quantize_tile, &job);
    if (!status && job.of_row)
        fold_outliers(&job, ctx->threads);
fail:
    qsae__free(ctx, job.row);
    qsae__free(ctx, job.codes);
    qsae__free(ctx, job.outlier);
    qsae__free(ctx, job.of_row);
    return status;
}

static int32_t plan(qsae_qmatrix *q)
{
    if (q->n_in > QSAE__S8_MAX_K)
        return qsae__fail(QSAE_EUNSUPPORTED, "llm.int8: %lld inputs; sums are exact in int32 up to "
                          "%d", (long long)q->n_in, QSAE__S8_MAX_K);
    q->scale_rows = q->n_out;
    q->scale_cols = 1;
    q->code_bytes = (uint64_t)(q->n_out * q->n_in);
    return QSAE_OK;
}

static int32_t encode(qsae_qmatrix *q, const qsae__source *src)
{
    const int32_t status = plan(q);
    if (status)
        return status;
    q->codes = qsae__alloc_array(q->ctx, q->n_out * q->n_in, 1);
    q->scale = qsae__alloc_array(q->ctx, q->n_out, sizeof(float));
    if (!q->codes || !q->scale)
        return QSAE_ENOMEM;
    qsae__int8_rows out = { .codes = q->codes, .scale = q->scale };
    return qsae__int8_quantize_rows(src, q->codec.rules, 0, false, &out);
}

static qsae__codes8 codes_of(const qsae_qmatrix *q, int64_t row, int64_t c0)
{
    return (qsae__codes8){
        .codes = (const int8_t *)q->codes + row * q->n_in + c0,
        .is_signed = true,
        .scale = q->scale + row,
        .factor = 0.007874015718698502f, /* 1 / 127 */
    };
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    const qsae__codes8 c = codes_of(q, row, c0);
    qsae__blocks_get(q->ctx)->f32_8(&c, n, dtype == QSAE_BF16, dst);
    if (dtype == QSAE_F16)
        qsae__round(q->ctx, dtype, dst, n);
}

static void decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const qsae__codes8 c = codes_of(q, row, c0);
    qsae__blocks_get(q->ctx)->bf16_8(&c, n, dst);
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

const qsae__codec_ops qsae__codec_int8 = { encode, decode, decode16, field, bytes,
                                          NULL, plan };
