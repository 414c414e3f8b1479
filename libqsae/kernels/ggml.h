/* SPDX-License-Identifier: BSD-2-Clause */
/* ggml's block types (QSAE_BLOCK_DTYPE_MAP of tensor.h): values to blocks and back, as pure
 * functions on bytes. */
#ifndef QSAE_KERNELS_GGML_H
#define QSAE_KERNELS_GGML_H

#include "core/core.h"

/* Operations of one level; results do not depend on it. */
typedef struct qsae__ggml_ops {
    /* dst[n] = what the blocks stand for; dtype is known, n whole blocks */
    void (*decode)(int32_t dtype, const uint8_t *blocks, int64_t n, float *dst);
    /* blocks = x[n] encoded as ggml_quantize_chunk without importance matrix does; dtype encodes */
    void (*encode)(int32_t dtype, const float *x, int64_t n, uint8_t *blocks);
    /* The same as quantize_row_*_ref does, by which caches are written: IQ4_NL is not searched */
    void (*encode_row)(int32_t dtype, const float *x, int64_t n, uint8_t *blocks);
} qsae__ggml_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__ggml_ops *qsae__ggml_get(const qsae_context *ctx);
const qsae__ggml_ops *qsae__ggml_level(int32_t level);

/* Whether decode takes the type: every block dtype. */
bool qsae__ggml_known(int32_t dtype);

/* Whether encode does. */
bool qsae__ggml_encodes(int32_t dtype);

#endif
