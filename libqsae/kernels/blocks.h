/* SPDX-License-Identifier: BSD-2-Clause */
/* Coding of weights, as pure functions on plain arrays. */
#ifndef QSAE_KERNELS_BLOCKS_H
#define QSAE_KERNELS_BLOCKS_H

#include "core/core.h"

/* A flat array of 4-bit codes, two to a byte, the earlier one in the high half; blocks of it share
 * a scale. */
typedef struct qsae__codes4 {
    const uint8_t *codes;    /* element i in byte i / 2 */
    const float *scale;      /* of element i: scale[i / block] */
    const float *values;     /* [16] what the codes stand for */
    int64_t block;           /* a multiple of 32 */
} qsae__codes4;

/* A run of 8-bit codes: element i is (code[i] - zero[i * stride]) * scale[i * stride] * factor. */
typedef struct qsae__codes8 {
    const void *codes;
    bool is_signed;
    const float *scale;
    const float *zero;       /* NULL: 0 */
    int64_t stride;          /* 0: one scale for all, or 1 */
    float factor;
} qsae__codes8;

/* How values become 4-bit codes. */
typedef struct qsae__coder4 {
    float thresholds[16];    /* 15, ascending */
    uint8_t codes[16];       /* by how many of them are below the value */
    uint8_t nan;
    /* Where no two thresholds are near each other, and codes are counts: parts of [-1, 1], 2 / 31
     * wide from -1 on, with the threshold in or at the edge of each (infinity if there is none) and
     * the count below it. */
    bool spaced;
    float part_threshold[32];
    int32_t part_count[32];
} qsae__coder4;

/* Fills the parts from thresholds, codes and nan. */
void qsae__coder4_space(qsae__coder4 *c);

/* Operations of one level; results do not depend on it. Every product is rounded to f32, bf16
 * results once more; NaN is kept, as by qsae__f32_to_bf16. */
typedef struct qsae__block_ops {
    /* dst[n] = elements first..first+n: values[code] * scale */
    void (*bf16_4)(const qsae__codes4 *c, int64_t first, int64_t n, uint16_t *dst);
    void (*f32_4)(const qsae__codes4 *c, int64_t first, int64_t n, bool bf16, float *dst);
    /* dst[n] = the first n elements */
    void (*bf16_8)(const qsae__codes8 *c, int64_t n, uint16_t *dst);
    void (*f32_8)(const qsae__codes8 *c, int64_t n, bool bf16, float *dst);
    /* packed[ceil(n / 2)] = codes of x[i] * scale; the half after an odd n is 0 */
    void (*encode4)(const qsae__coder4 *c, const float *x, float scale, int64_t n,
                    uint8_t *packed);
    /* A block of bf16 values at any address: m is the largest |x[i]|, NaN skipped (-FLT_MAX if
     * there is nothing else), packed the codes of x[i] * (1 / m) as by encode4; returns m. */
    float (*encode4_16)(const qsae__coder4 *c, const void *x, int64_t n, uint8_t *packed);
    /* dst[i] = bf16(src[i]); src has any alignment */
    void (*narrow)(const void *src, int64_t n, uint16_t *dst);
} qsae__block_ops;

/* Operations at the level of the context, or at a level. Static storage. */
const qsae__block_ops *qsae__blocks_get(const qsae_context *ctx);
const qsae__block_ops *qsae__blocks_level(int32_t level);

#endif
