/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "sae/parts.h"

void qsae__csr_init(qsae__csr *csr, qsae_context *ctx)
{
    memset(csr, 0, sizeof *csr);
    csr->ctx = ctx;
}

void qsae__csr_free(qsae__csr *csr)
{
    qsae_context *const ctx = csr->ctx;
    if (!ctx)
        return;
    qsae__free(ctx, csr->indptr);
    qsae__free(ctx, csr->indices);
    qsae__free(ctx, csr->values);
    qsae__free(ctx, csr->state);
    qsae__csr_init(csr, ctx);
}

int32_t qsae__sae_encode_rows(qsae_sae *sae, const float *x, int64_t n, int64_t ldx, qsae__csr *out)
{
    const int64_t states = n * sae->state_size;
    out->n = out->nnz = 0;
    int32_t st = qsae__grow(out->ctx, &out->indptr, &out->rows_capacity, n + 1,
                            sizeof *out->indptr);
    if (st == QSAE_OK && states)
        st = qsae__grow(out->ctx, &out->state, &out->state_capacity, states, sizeof *out->state);
    if (st != QSAE_OK)
        return st;
    out->indptr[0] = 0;
    union { const float *in; void *out; } data = { x }; /* qsae_rows has no const form */
    const qsae_rows rows = { .struct_size = sizeof rows, .data = data.out, .n_rows = n,
                             .n_cols = sae->config.d_in, .row_stride = ldx, .dtype = QSAE_F32 };
    qsae__sae_blocks blocks;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = qsae__sae_encode_blocks(sae, &rows, states ? out->state : NULL, &blocks);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK)
        return st;
    st = qsae__grow(out->ctx, &out->indices, &out->index_capacity, blocks.nnz,
                    sizeof *out->indices);
    if (st == QSAE_OK)
        st = qsae__grow(out->ctx, &out->values, &out->value_capacity, blocks.nnz,
                        sizeof *out->values);
    if (st == QSAE_OK) {
        for (int64_t i = 0; i < blocks.n; i++) {
            const qsae__sae_block *const b = &blocks.block[i];
            if (b->nnz > 0) { /* else there may be no array at all */
                memcpy(out->indices + out->nnz, b->indices, (size_t)b->nnz * sizeof *b->indices);
                memcpy(out->values + out->nnz, b->values, (size_t)b->nnz * sizeof *b->values);
            }
            for (int64_t r = 0; r < b->rows; r++)
                out->indptr[b->row0 + r + 1] = out->indptr[b->row0 + r] + b->count[r];
            out->nnz += b->nnz;
        }
        out->n = n;
    }
    qsae__sae_blocks_free(&blocks);
    return st;
}

int32_t qsae__sae_decode_rows(qsae_sae *sae, const qsae__csr *acts, float *y, int64_t ldy)
{
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = qsae__sae_decode(sae, acts->n, acts->indptr, acts->indices, acts->values,
                                        sae->state_size ? acts->state : NULL, y, ldy);
    qsae__fpenv_leave(env);
    return st;
}
