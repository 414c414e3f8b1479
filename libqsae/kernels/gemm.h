/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one GEMM of the library: C[m, n] = A[m, k] W[n, k]^T in f32, defined as follows. k is cut
 * into blocks of QSAE__GEMM_KB; inside a block an element is a chain of fused multiply-adds from
 * zero in ascending k; block sums are added in ascending order. Plain C, our AVX2 and AVX-512
 * kernels and BLIS (where its self-test shows this order) give the same bits.
 */
#ifndef QSAE_KERNELS_GEMM_H
#define QSAE_KERNELS_GEMM_H

#include "core/core.h"

#define QSAE__GEMM_KB 256 /* k block of the definition */
#define QSAE__GEMM_NB 512 /* most columns of a tile */

/* The weight side: a matrix of n outputs and k inputs that is produced in f32 tiles. */
typedef struct qsae__panels {
    /*
     * Writes W[n0..n1, k0..k1] to tile in panels of `panel` columns: element (n, k) goes to
     * (n - n0) / panel * panel * (k1 - k0) + (k - k0) * panel + (n - n0) % panel.
     * The columns missing in the last panel are filled with zero. Called from worker threads.
     * n1 - n0 <= QSAE__GEMM_NB, k1 - k0 <= QSAE__GEMM_KB, k0 a multiple of QSAE__GEMM_KB.
     */
    void (*fill)(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1, float *tile,
                 int64_t panel);
    const void *self;
    int64_t n, k;
} qsae__panels;

/* A weight that lies in memory: element (n, k) at n * n_stride + k * k_stride of data. */
typedef struct qsae__dense {
    const void *data;      /* any alignment */
    int32_t dtype;         /* QSAE_F32, _BF16, _F16, _F64 */
    int32_t round;         /* 0, or QSAE_BF16/QSAE_F16: values are rounded to it first */
    int32_t level;         /* of the context: how to move the data; changes no value */
    int64_t n_stride, k_stride;
} qsae__dense;

/* Panel source over a dense weight; *d must outlive it. Takes any k0. */
qsae__panels qsae__panels_dense(const qsae__dense *d, int64_t n, int64_t k);

/* Called for each finished tile C[m0..m1, n0..n1] (c points at its first element), from workers;
 * tiles come in any order and do not overlap. Non-zero ends the product with that status. */
typedef struct qsae__epilogue {
    int32_t (*tile)(void *self, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *c,
                    int64_t ldc, int32_t worker);
    void *self;
} qsae__epilogue;

/* c[m, w->n] with row stride ldc, over the context's threads (serial inside a tile of
 * qsae__parallel). epilogue may be NULL. QSAE_ENOMEM or the epilogue's status. */
int32_t qsae__gemm(qsae_context *ctx, int64_t m, const float *a, int64_t lda, const qsae__panels *w,
                   float *c, int64_t ldc, const qsae__epilogue *epilogue);

/* One thread's share, for callers that tile themselves: c[m, n1 - n0] = a[m, k] W[n0..n1]^T.
 * scratch: QSAE__GEMM_SCRATCH floats, 64-byte aligned. n1 - n0 <= QSAE__GEMM_NB. */
#define QSAE__GEMM_SCRATCH (QSAE__GEMM_NB * QSAE__GEMM_KB)
void qsae__gemm_tile(const qsae_context *ctx, int64_t m, const float *a, int64_t lda,
                     const qsae__panels *w, int64_t n0, int64_t n1, float *c, int64_t ldc,
                     float *scratch);

/* One dot product with the bits of the product above; element (n) of the dense weight. */
float qsae__gemm_dot(int64_t k, const float *a, const float *w, int64_t w_stride);

/* Chooses what computes f32 products for the context and validates BLIS' environment. */
int32_t qsae__gemm_select(qsae_context *ctx);

#endif
