/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_NESTED_H
#define QSAE_CODECS_NESTED_H

#include "codecs/condition.h"

#define QSAE__NESTED_BLOCK 256

/* Mean that is taken off block maxima before they are encoded: cuda: the f64 mean rounded once;
 * torch: what torch.mean gives on one thread. */
float qsae__nested_offset(enum qsae__rules rules, const float *m, int64_t n);

/* 8-bit codes by the dynamic map of values u, already scaled to [-1, 1]. */
uint8_t qsae__nested_code(enum qsae__rules rules, float u);

/* q[n] and absmax[ceil(n / 256)] of m[n] - offset. */
void qsae__nested_encode(enum qsae__rules rules, const float *m, int64_t n, float offset,
                         uint8_t *q, float *absmax);

/* m[n] back: two roundings, no fused multiply-add. */
void qsae__nested_decode(const uint8_t *q, int64_t n, const float *absmax, float offset, float *m);

#endif
