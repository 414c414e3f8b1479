/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/error.h"

#include <math.h>

#define PART 1024

struct sums {
    double weight, error;     /* squares */
    double abs, max;          /* of the error */
    int64_t zeros, finite;
};

struct job {
    const qsae__source *weight, *other;
    struct sums *rows;        /* [n_out] */
};

static void add(struct sums *s, const float *x, const float *y, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        const double w = (double)x[j], e = (double)y[j] - w;
        if (!isfinite(e)) /* both are f32: so if one of them is not */
            continue;
        s->finite++;
        s->zeros += y[j] == 0;
        s->weight += w * w;
        s->error += e * e;
        s->abs += fabs(e);
        s->max = fabs(e) > s->max ? fabs(e) : s->max;
    }
}

static void load(const qsae__source *s, int64_t row, int64_t c0, int64_t n, float *dst)
{
    if (s->stored)
        s->stored->ops->decode(s->stored, row, c0, n, QSAE_F32, dst);
    else
        qsae__source_row(s, row, c0, n, dst);
}

static int32_t sum_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->weight->n_in;
    float x[PART], y[PART];
    struct sums s = { 0 };
    (void)worker;
    for (int64_t c0 = 0; c0 < k; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, k - c0);
        load(job->weight, row, c0, n, x);
        load(job->other, row, c0, n, y);
        add(&s, x, y, n);
    }
    job->rows[row] = s;
    return QSAE_OK;
}

static const char *format_of(const qsae_qmatrix *q)
{
    switch (q->codec.codec) {
    case QSAE__NONE:
        return qsae_dtype_name(q->dtype);
    case QSAE__INT8:
        return "llm.int8";
    case QSAE__NF4:
        return "nf4";
    case QSAE__FP4:
        return "fp4";
    case QSAE__RTN:
        return "rtn";
    case QSAE__GGML:
        return qsae_dtype_name(q->codec.ggml);
    default:
        return "stored";
    }
}

int32_t qsae__weight_error(const qsae__source *weight, const qsae__source *other, uint64_t bytes,
                           qsae_weight_error *out)
{
    const int64_t rows = weight->n_out, n = rows * weight->n_in;
    struct job job = { weight, other, NULL };
    struct sums s = { 0 };
    job.rows = qsae__alloc_array(weight->ctx, rows, sizeof *job.rows);
    if (!job.rows)
        return QSAE_ENOMEM;
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t status = qsae__parallel(weight->ctx, rows, sum_row, &job);
    qsae__fpenv_leave(env);
    for (int64_t row = 0; row < rows && !status; row++) {
        const struct sums *const r = &job.rows[row];
        s.weight += r->weight;
        s.error += r->error;
        s.abs += r->abs;
        s.max = r->max > s.max ? r->max : s.max;
        s.zeros += r->zeros;
        s.finite += r->finite;
    }
    qsae__free(weight->ctx, job.rows);
    if (status)
        return status;
    *out = (qsae_weight_error){
        .struct_size = sizeof *out,
        .module = "",
        .format = other->stored ? format_of(other->stored) : qsae_dtype_name(other->dtype),
        .layer = -1,
        .rows = rows,
        .cols = weight->n_in,
        .nonfinite = n - s.finite,
        .bytes = bytes,
        .bits_per_weight = 8 * (double)bytes / (double)n,
        .frobenius_relative = s.error == 0 ? 0 : sqrt(s.error / s.weight),
        .sqnr_db = s.error == 0 ? INFINITY : 10 * log10(s.weight / s.error),
        .weight_norm = sqrt(s.weight),
        .max_abs = s.max,
        .mean_abs = s.finite ? s.abs / (double)s.finite : 0,
        .zeros = s.finite ? (double)s.zeros / (double)s.finite : 0,
    };
    return QSAE_OK;
}

int32_t qsae_qmatrix_error(const qsae_qmatrix *matrix, const qsae_rows *weight,
                           qsae_weight_error *error)
{
    QSAE__FPENV;
    qsae_weight_error out;
    if (qsae__need(matrix, "matrix"))
        return QSAE_EINVAL;
    if (!error)
        return qsae__fail(QSAE_EINVAL, "qsae_qmatrix_error: NULL argument");
    int32_t status = qsae__rows_check(weight, "weight",
                                      1u << QSAE_F32 | 1u << QSAE_F16 | 1u << QSAE_BF16);
    if (status)
        return status;
    if (weight->n_rows != matrix->n_out || weight->n_cols != matrix->n_in)
        return qsae__fail(QSAE_EMISMATCH, "weight: [%lld, %lld], expected [%lld, %lld]",
                          (long long)weight->n_rows, (long long)weight->n_cols,
                          (long long)matrix->n_out, (long long)matrix->n_in);
    const qsae__source src = { .ctx = matrix->ctx, .data = weight->data, .dtype = weight->dtype,
                               .n_out = weight->n_rows, .n_in = weight->n_cols,
                               .out_stride = weight->row_stride, .in_stride = 1 };
    const qsae__source encoded = qsae__stored_source(matrix);
    status = qsae__weight_error(&src, &encoded, qsae__qmatrix_bytes(matrix), &out);
    return status ? status : qsae__info_copy(error, &out, sizeof out, "qsae_weight_error");
}
