/* SPDX-License-Identifier: BSD-2-Clause */
/* One level's part of the f32 product; see gemm.h for what it computes. */
#ifndef QSAE_KERNELS_GEMM_KERNELS_H
#define QSAE_KERNELS_GEMM_KERNELS_H

#include "core/core.h"

#define QSAE__PANEL 32 /* columns of a panel our kernels read */

typedef struct qsae__gemm_kernel {
    /* c[m, n] (+)= a[m, kb] * tile, tile in panels of QSAE__PANEL columns padded with zeros. One k
     * block: each element is a chain of fma from zero, then stored or added to c. */
    void (*block)(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda, const float *tile,
                  float *c, int64_t ldc, bool add);
    /* dst[k * stride + j] = src[j * ld + k] for j < 8, k < kb: eight weight rows into a panel. */
    void (*transpose8)(const float *src, int64_t ld, int64_t kb, float *dst, int64_t stride);
} qsae__gemm_kernel;

extern const qsae__gemm_kernel qsae__gemm_kernel_c;
#if defined(__x86_64__)
extern const qsae__gemm_kernel qsae__gemm_kernel_avx2, qsae__gemm_kernel_avx512;
#endif

/* Name of the kernel BLIS picked and whether it keeps the defined order on this machine; its lowest
 * level of instructions goes to *level. Never call it at level c. */
bool qsae__blis_probe(char *name, size_t size, int32_t *level);

/* QSAE_EENV if BLIS_ARCH_TYPE would make BLIS abort or use instructions that `best` lacks. */
int32_t qsae__blis_environment(int32_t best);

/* One k block through BLIS; tile is row-stored [kb, n] with row stride ld. */
void qsae__blis_block(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda,
                      const float *tile, int64_t ld, float *c, int64_t ldc, bool add);

#endif
