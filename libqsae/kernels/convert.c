/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/convert.h"

#include <string.h>

#include "kernels/half.h"
#include "kernels/int8.h"
#include "kernels/ops.h"

/* Elements may lie at any alignment: read through memcpy. */
#define WIDEN(type, expression) \
    for (int64_t i = 0; i < n; i++) { \
        type v; \
        memcpy(&v, (const char *)src + (size_t)i * sizeof v, sizeof v); \
        dst[i] = (expression); \
    } \
    return true

bool qsae__to_f32(int32_t dtype, const void *src, int64_t n, float *dst)
{
    switch (dtype) {
    case QSAE_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return true;
    case QSAE_BF16:
        WIDEN(uint16_t, qsae__bf16_to_f32(v));
    case QSAE_F16:
        WIDEN(uint16_t, qsae__f16_to_f32(v));
    case QSAE_F64:
        WIDEN(double, (float)v);
    case QSAE_I8:
        WIDEN(int8_t, (float)v);
    case QSAE_U8:
        WIDEN(uint8_t, (float)v);
    case QSAE_I16:
        WIDEN(int16_t, (float)v);
    case QSAE_U16:
        WIDEN(uint16_t, (float)v);
    case QSAE_I32:
        WIDEN(int32_t, (float)v);
    case QSAE_U32:
        WIDEN(uint32_t, (float)v);
    case QSAE_I64:
        WIDEN(int64_t, (float)v);
    case QSAE_BOOL:
        WIDEN(uint8_t, v ? 1.0f : 0.0f);
    default:
        return false;
    }
}

#define NARROW(type, expression) \
    for (int64_t i = 0; i < n; i++) { \
        const type v = (expression); \
        memcpy((char *)dst + (size_t)i * sizeof v, &v, sizeof v); \
    } \
    return true

bool qsae__from_f32(int32_t dtype, const float *src, int64_t n, void *dst)
{
    switch (dtype) {
    case QSAE_F32:
        memmove(dst, src, (size_t)n * sizeof *src);
        return true;
    case QSAE_BF16:
        NARROW(uint16_t, qsae__f32_to_bf16(src[i]));
    case QSAE_F16:
        NARROW(uint16_t, qsae__f32_to_f16(src[i]));
    case QSAE_F64:
        NARROW(double, (double)src[i]);
    default:
        return false;
    }
}

void qsae__round(qsae_context *ctx, int32_t dtype, float *x, int64_t n)
{
    if (dtype == QSAE_BF16)
        qsae__ops_get(ctx)->round_bf16(x, n);
    else if (dtype == QSAE_F16)
        qsae__int8_get(ctx)->round_f16(x, n);
}

int32_t qsae__rows_check(const qsae_rows *rows, const char *what, uint32_t dtypes)
{
    int64_t extent;
    size_t bytes;
    if (!rows)
        return qsae__fail(QSAE_EINVAL, "%s: NULL", what);
    if (qsae__alignment(rows, sizeof(size_t), what))
        return QSAE_EINVAL;
    if (rows->struct_size < sizeof *rows || rows->struct_size > 4096)
        return qsae__fail(QSAE_EINVAL, "%s: struct_size is %zu, expected %zu", what,
                          rows->struct_size, sizeof *rows);
    if (rows->dtype <= 0 || rows->dtype > 31 || !(dtypes >> rows->dtype & 1))
        return qsae__fail(QSAE_EINVAL, "%s: dtype %s is not allowed here", what,
                          qsae_dtype_name(rows->dtype));
    if (rows->n_rows < 0 || rows->n_cols < 0 || rows->row_stride < rows->n_cols)
        return qsae__fail(QSAE_EINVAL, "%s: %lld rows, %lld columns, row stride %lld", what,
                          (long long)rows->n_rows, (long long)rows->n_cols,
                          (long long)rows->row_stride);
    if (!qsae__mul_i64(rows->n_rows, rows->row_stride, &extent) || !qsae__bytes(extent, 8, &bytes))
        return qsae__fail(QSAE_EOVERFLOW, "%s: %lld rows of stride %lld do not fit", what,
                          (long long)rows->n_rows, (long long)rows->row_stride);
    if (!rows->data && rows->n_rows > 0 && rows->n_cols > 0)
        return qsae__fail(QSAE_EINVAL, "%s: data is NULL", what);
    const int32_t element = qsae_dtype_bits(rows->dtype) / 8;
    if (element > 1 && (uintptr_t)rows->data % (uintptr_t)element != 0)
        return qsae__fail(QSAE_EINVAL, "%s: data is not aligned to its elements of %d bytes", what,
                          element);
    return QSAE_OK;
}

const void *qsae__rows_at(const qsae_rows *rows, int64_t r)
{
    const size_t size = (size_t)qsae_dtype_bits(rows->dtype) / 8;
    return (const char *)rows->data + (size_t)(r * rows->row_stride) * size;
}
