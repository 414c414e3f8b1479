/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/plain.h"

int32_t qsae__plain_new(const qsae__source *src, qsae_qmatrix **out)
{
    const int32_t dtype = src->round ? src->round : src->dtype;
    size_t bytes = 0;
    int32_t status = qsae__qmatrix_new(src->ctx, &qsae__codec_none, dtype, src->n_out, src->n_in,
                                       out);
    if (status)
        return status;
    (*out)->codec.codec = QSAE__NONE;
    if (!qsae__bytes(src->n_out * src->n_in, (size_t)qsae_dtype_bits(dtype) / 8, &bytes))
        status = qsae__fail(QSAE_EOVERFLOW, "weight: %lld x %lld elements", (long long)src->n_out,
                            (long long)src->n_in);
    else if (!((*out)->codes = qsae__alloc(src->ctx, bytes)))
        status = QSAE_ENOMEM;
    if (status)
        qsae__qmatrix_unref(out);
    else
        (*out)->code_bytes = bytes;
    return status;
}

void qsae__plain_store(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, const float *x)
{
    const size_t size = (size_t)qsae_dtype_bits(q->dtype) / 8;
    (void)qsae__from_f32(q->dtype, x, n, (char *)q->codes + (size_t)(row * q->n_in + c0) * size);
}
