/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sae/: configuration, architectures, encode to sparse rows, decode. Includes formats/, kernels/,
 * core/ and itself; never model/, text/ or metrics/.
 */
#ifndef QSAE_SAE_SAE_H
#define QSAE_SAE_SAE_H

#include <qsae/sae.h>

#include "core/core.h"

/* Sparse rows that grow, reused from call to call. Start from all zero but ctx. */
typedef struct qsae__csr {
    qsae_context *ctx;
    int64_t n;             /* rows */
    int64_t nnz;
    int64_t *indptr;       /* [n + 1], starts at 0 */
    int32_t *indices;      /* [nnz], ascending in a row */
    float *values;         /* [nnz], non-zero */
    float *state;          /* [n, state_size], NULL if the SAE has none */
    int64_t rows_capacity, index_capacity, value_capacity, state_capacity;
} qsae__csr;

void qsae__csr_init(qsae__csr *csr, qsae_context *ctx);
void qsae__csr_free(qsae__csr *csr);

/* Replaces out by the encoded rows of x [n, width], row stride ldx. On error out is empty. */
int32_t qsae__sae_encode_rows(qsae_sae *sae, const float *x, int64_t n, int64_t ldx,
                              qsae__csr *out);

/* y[n, width_out] = decoded rows, without the skip connection. */
int32_t qsae__sae_decode_rows(qsae_sae *sae, const qsae__csr *acts, float *y, int64_t ldy);

/* y += x W_skip^T where the SAE has a skip connection; else nothing. */
int32_t qsae__sae_add_skip(qsae_sae *sae, const float *x, int64_t n, int64_t ldx, float *y,
                           int64_t ldy);

/* Whether the path is a folder of several layers that belong together (no "#5" behind it). */
int32_t qsae__sae_layers_there(qsae_context *ctx, const char *path, bool *there);
/* Whether features of layer `from` write to layer `to` (indices). */
bool qsae__sae_layers_writes(const qsae_sae_layers *g, int64_t from, int64_t to);
/* y[n, width_out] = the output at layer `to` of the layers' rows acts[from], without the skip
 * connection; those that do not write there are not read. */
int32_t qsae__sae_layers_decode(qsae_sae_layers *g, const qsae__csr *const *acts, int64_t to,
                                int64_t n, float *y, int64_t ldy);

#endif
