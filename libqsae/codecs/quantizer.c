/* SPDX-License-Identifier: BSD-2-Clause */
#include <qsae/quantizer.h>

#include <string.h>

#include "codecs/apply.h"
#include "codecs/int8.h"

#define FLOATS (1u << QSAE_F32 | 1u << QSAE_F16 | 1u << QSAE_BF16)

struct qsae_quantizer {
    qsae__handle base;
    qsae_context *ctx;
    qsae__condition condition;
};

int32_t qsae_quantizer_open(qsae_context *context, const char *spec, qsae_quantizer **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!spec)
        return qsae__fail(QSAE_EINVAL, "qsae_quantizer_open: NULL argument");
    qsae_quantizer *q = qsae__calloc(context, 1, sizeof *q);
    if (!q)
        return QSAE_ENOMEM;
    int32_t status = qsae__condition_parse(context, spec, &q->condition);
    if (status) {
        qsae__free(context, q);
        return status;
    }
    qsae__handle_init(q);
    q->ctx = qsae__context_ref(context);
    if (q->condition.n_parts) {
        qsae__unshare(q);
        qsae_quantizer_close(&q);
        return qsae__fail(QSAE_EINVAL, "quantizer \"%.200s\": a mix is of many codecs; expected "
                          "one", spec);
    }
    if (spec[q->condition.codec_end]) {
        status = qsae__fail(QSAE_EINVAL, "quantizer \"%.200s\", offset %lld: selectors and parts "
                            "belong to a condition; allowed: %s", spec,
                            (long long)q->condition.codec_end, q->condition.codec_canonical);
        qsae__unshare(q);
        qsae_quantizer_close(&q);
        return status;
    }
    *out = q;
    return QSAE_OK;
}

void qsae_quantizer_close(qsae_quantizer **quantizer)
{
    if (!qsae__leave(quantizer, "quantizer"))
        return;
    qsae_context *ctx = (*quantizer)->ctx;
    qsae__condition_free(ctx, &(*quantizer)->condition);
    qsae__retire(ctx, *quantizer);
    qsae__context_unref(ctx);
    *quantizer = NULL;
}

const char *qsae_quantizer_spec(const qsae_quantizer *quantizer)
{
    return qsae__is_open(quantizer) ? quantizer->condition.codec_canonical : "";
}

int32_t qsae_quantizer_encode(const qsae_quantizer *quantizer, const qsae_rows *weight,
                              int64_t heads, int32_t strict, qsae_qmatrix **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__need(quantizer, "quantizer"))
        return QSAE_EINVAL;
    int32_t status = qsae__rows_check(weight, "weight", FLOATS);
    if (status)
        return status;
    if (heads < 0)
        return qsae__fail(QSAE_EINVAL, "heads: %lld, expected 0 or more", (long long)heads);
    const qsae__source src = { .ctx = quantizer->ctx, .data = weight->data,
                               .dtype = weight->dtype, .n_out = weight->n_rows,
                               .n_in = weight->n_cols, .out_stride = weight->row_stride,
                               .in_stride = 1 };
    if (strict)
        status = qsae__source_check_finite(&src);
    if (!status)
        status = qsae__qmatrix_encode(quantizer->ctx, &quantizer->condition, &src, heads, out);
    return qsae__qmatrix_give(status, out);
}

int64_t qsae_qmatrix_rows(const qsae_qmatrix *matrix)
{
    return qsae__is_open(matrix) ? matrix->n_out : 0;
}

int64_t qsae_qmatrix_cols(const qsae_qmatrix *matrix)
{
    return qsae__is_open(matrix) ? matrix->n_in : 0;
}

uint64_t qsae__qmatrix_bytes(const qsae_qmatrix *matrix)
{
    return matrix->ops->bytes(matrix);
}

uint64_t qsae_qmatrix_bytes(const qsae_qmatrix *matrix)
{
    return qsae__is_open(matrix) ? qsae__qmatrix_bytes(matrix) : 0;
}

int32_t qsae__qmatrix_give(int32_t st, qsae_qmatrix *const *matrix)
{
    if (st == QSAE_OK)
        qsae__handle_share(*matrix);
    return st;
}

static int32_t check_shape(const qsae_rows *rows, const char *what, int64_t n_rows, int64_t n_cols)
{
    if (rows->n_rows != n_rows || rows->n_cols != n_cols)
        return qsae__fail(QSAE_EMISMATCH, "%s: [%lld, %lld], expected [%lld, %lld]", what,
                          (long long)rows->n_rows, (long long)rows->n_cols, (long long)n_rows,
                          (long long)n_cols);
    return QSAE_OK;
}

#define PART 1024
#define TILE (1 << 16)       /* elements that a worker decodes at a time */

static void decode_row(const qsae_qmatrix *q, int64_t row, const qsae_rows *out)
{
    const size_t size = (size_t)qsae_dtype_bits(out->dtype) / 8;
    float x[PART];
    if (out->dtype == QSAE_BF16) {
        q->ops->decode16(q, row, 0, q->n_in, (uint16_t *)out->data + row * out->row_stride);
        return;
    }
    if (out->dtype == QSAE_F32) {
        q->ops->decode(q, row, 0, q->n_in, QSAE_F32, (float *)out->data + row * out->row_stride);
        return;
    }
    for (int64_t c0 = 0; c0 < q->n_in; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, q->n_in - c0);
        q->ops->decode(q, row, c0, n, QSAE_F32, x);
        (void)qsae__from_f32(out->dtype, x, n,
                             (char *)out->data + (size_t)(row * out->row_stride + c0) * size);
    }
}

struct decoding {
    const qsae_qmatrix *q;
    const qsae_rows *out;
    int64_t rows;            /* of a tile */
};

static int32_t decode_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct decoding *const d = arg;
    const int64_t end = qsae__min_i64(d->q->n_out, (tile + 1) * d->rows);
    (void)worker;
    for (int64_t row = tile * d->rows; row < end; row++)
        decode_row(d->q, row, d->out);
    return QSAE_OK;
}

int32_t qsae_qmatrix_decode(const qsae_qmatrix *matrix, qsae_rows *out)
{
    QSAE__FPENV;
    if (qsae__need(matrix, "matrix"))
        return QSAE_EINVAL;
    int32_t status = qsae__rows_check(out, "out", FLOATS);
    if (!status)
        status = check_shape(out, "out", matrix->n_out, matrix->n_in);
    if (status)
        return status;
    struct decoding d = { matrix, out, TILE / matrix->n_in + 1 };
    return qsae__parallel(matrix->ctx, qsae__ceil_div(matrix->n_out, d.rows), decode_tile, &d);
}

int32_t qsae_qmatrix_field_count(const qsae_qmatrix *matrix)
{
    qsae_field f;
    int32_t n = 0;
    while (qsae__is_open(matrix) && matrix->ops->field(matrix, n, &f))
        n++;
    return n;
}

int32_t qsae_qmatrix_field(const qsae_qmatrix *matrix, int32_t i, qsae_field *field)
{
    qsae_field f = { .struct_size = sizeof f };
    if (qsae__need(matrix, "matrix"))
        return QSAE_EINVAL;
    if (!field)
        return qsae__fail(QSAE_EINVAL, "qsae_qmatrix_field: NULL argument");
    if (i < 0 || !matrix->ops->field(matrix, i, &f))
        return qsae__fail(QSAE_EINVAL, "field %d: the matrix has fields 0 to %d", i,
                          qsae_qmatrix_field_count(matrix) - 1);
    return qsae__info_copy(field, &f, sizeof f, "qsae_field");
}

/* bias in dtype and compute, as the layer holds it; *out NULL without one. */
static int32_t round_bias(const qsae_qmatrix *q, const float *bias, int32_t dtype, int32_t compute,
                          float **out)
{
    *out = NULL;
    if (!bias)
        return QSAE_OK;
    float *b = qsae__alloc_array(q->ctx, q->n_out, sizeof *b);
    if (!b)
        return QSAE_ENOMEM;
    const qsae__fpenv env = qsae__fpenv_enter();
    memcpy(b, bias, (size_t)q->n_out * sizeof *b);
    qsae__round(q->ctx, dtype, b, q->n_out);
    if (compute != dtype)
        qsae__round(q->ctx, compute, b, q->n_out);
    qsae__fpenv_leave(env);
    *out = b;
    return QSAE_OK;
}

static int32_t multiply(const qsae_qmatrix *q, const qsae_rows *x, const float *bias, int32_t dtype,
                        int32_t compute, qsae_rows *y)
{
    const qsae__decoded decoded = { q, compute };
    const qsae__rows16 rows = qsae__rows16_decoded(q);
    qsae__packed_weight *packed = NULL;
    uint8_t *scratch = NULL;
    size_t bytes = 0;
    int32_t status = QSAE_OK;
    qsae__operand o = { .kind = qsae__product_kind(q->ctx, compute), .n = q->n_out, .k = q->n_in,
                        .dtype = dtype, .compute = compute, .bias = bias,
                        .panels = qsae__panels_decoded(&decoded), .rows = &rows, .q = q };
    if (q->codec.codec == QSAE__INT8) {
        o.kind = QSAE__PRODUCT_INT8;
        status = qsae__packed_s8(q->ctx, q->codes, q->n_out, q->n_in, &packed);
        o.packed = packed;
    }
    if (!status)
        status = qsae__apply_scratch(q->ctx, &o, x->n_rows, &bytes);
    if (!status && !(scratch = qsae__alloc(q->ctx, bytes)))
        status = QSAE_ENOMEM;
    if (!status) {
        const qsae__operand *const operand[1] = { &o };
        float *const out[1] = { y->data };
        const int64_t ldy[1] = { y->row_stride };
        qsae__apply_call call = { .ctx = q->ctx, .operand = operand, .n = 1, .y = out, .ldy = ldy,
                                  .x = { x->data, QSAE_F32, x->n_rows, x->row_stride },
                                  .scratch = scratch };
        status = qsae__apply(&call);
    }
    qsae__free(q->ctx, scratch);
    qsae__packed_close(&packed);
    return status;
}

int32_t qsae_qmatrix_linear(const qsae_qmatrix *matrix, const qsae_rows *x, const float *bias,
                            int32_t dtype, qsae_rows *y)
{
    QSAE__FPENV;
    if (qsae__need(matrix, "matrix"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(bias, "bias"))
        return QSAE_EINVAL;
    int32_t status = qsae__rows_check(x, "x", 1u << QSAE_F32);
    if (!status)
        status = qsae__rows_check(y, "y", 1u << QSAE_F32);
    if (!status)
        status = check_shape(x, "x", x->n_rows, matrix->n_in);
    if (!status)
        status = check_shape(y, "y", x->n_rows, matrix->n_out);
    if (status)
        return status;
    if (dtype != QSAE_F32 && dtype != QSAE_BF16 && dtype != QSAE_F16)
        return qsae__fail(QSAE_EINVAL, "dtype %s; allowed: F32, BF16, F16", qsae_dtype_name(dtype));
    const int32_t compute = qsae__compute_of(&matrix->codec, dtype);
    float *b;
    status = round_bias(matrix, bias, dtype, compute, &b);
    if (!status)
        status = multiply(matrix, x, b, dtype, compute, y);
    qsae__free(matrix->ctx, b);
    return status;
}

int32_t qsae_int8_quantize(qsae_context *context, const qsae_rows *x, float threshold,
                           int8_t *codes, float *scales, uint8_t *outlier)
{
    QSAE__FPENV;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need_aligned(scales, "scales"))
        return QSAE_EINVAL;
    if (!codes || !scales)
        return qsae__fail(QSAE_EINVAL, "qsae_int8_quantize: NULL argument");
    int32_t status = qsae__rows_check(x, "x", FLOATS);
    if (status)
        return status;
    /* It is rounded to fp16: what would vanish there is no threshold. */
    if (!(threshold >= 0 && threshold <= 65504) || (threshold > 0 && threshold < 0x1p-24f))
        return qsae__fail(QSAE_EINVAL, "threshold %g; allowed: 0 (no outliers), 6e-8 to 65504",
                          (double)threshold);
    const qsae__source src = { .ctx = context, .data = x->data, .dtype = x->dtype,
                               .n_out = x->n_rows, .n_in = x->n_cols,
                               .out_stride = x->row_stride, .in_stride = 1 };
    qsae__int8_rows rows = { .codes = codes, .scale = scales, .outlier = outlier };
    uint8_t *own = NULL;
    if (!outlier && threshold > 0) {
        own = rows.outlier = qsae__alloc_array(context, x->n_cols, 1);
        if (!own)
            return QSAE_ENOMEM;
    }
    if (outlier)
        memset(outlier, 0, (size_t)x->n_cols);
    status = qsae__int8_quantize_rows(&src, QSAE__RULES_CUDA, threshold, false, &rows);
    qsae__free(context, own);
    return status;
}
