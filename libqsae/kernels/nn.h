/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_NN_H
#define QSAE_KERNELS_NN_H

#include "core/core.h"

/* Operations of neural networks beyond ops.h, of one level; same rules. */
typedef struct qsae__nn {
    /*
     * y[i] = exp(x[i] - m); returns the sum of y in 16 f32 lanes folded by a fixed tree. The first
     * n_coarse values (a multiple of 16) come from the exponential that PyTorch's attention kernel
     * uses where the result is rounded to bf16: a cubic for the fraction of the base-2 exponent,
     * added to the bit pattern, relative error below 1.5e-4 (Malossi, Ineichen, Bekas, Curioni,
     * "Fast Exponential Computation on SIMD Architectures", 2015); 0 below -87.3, NaN to NaN.
     */
    float (*exp_sum_coarse)(const float *x, float m, float *y, int64_t n, int64_t n_coarse);
    /* The same with the exponential of that kernel's f32 form, good to about 20 ulp. */
    float (*exp_sum_u20)(const float *x, float m, float *y, int64_t n, int64_t n_coarse);
} qsae__nn;

/* Operations at the level of the context. Static storage. */
const qsae__nn *qsae__nn_get(const qsae_context *ctx);

#endif
