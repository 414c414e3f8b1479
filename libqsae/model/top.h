/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_TOP_H
#define QSAE_MODEL_TOP_H

#include <stdbool.h>
#include <stdint.h>

/* at[n] becomes a permutation of 0..n-1 whose first k index the largest of p[n], largest first;
 * 1 <= k <= n < 2^31. Among equal values torch.topk's choice on a CPU. NaN counts as largest. */
void qsae__top(const float *p, int64_t n, int64_t k, int32_t *at);

#endif
