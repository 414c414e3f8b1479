/* SPDX-License-Identifier: BSD-2-Clause */
/* Whole products of packed operands (packed.h) over the context's threads, and weights packed once.
 */
#ifndef QSAE_KERNELS_PRODUCT_H
#define QSAE_KERNELS_PRODUCT_H

#include <stdatomic.h>

#include "kernels/gemm.h"
#include "kernels/packed.h"

/* A weight that can be read as bf16 rows: dst[kb] = W[row, k0..k0+kb]. Called from workers. */
typedef struct qsae__rows16 {
    void (*row)(const void *self, int64_t row, int64_t k0, int64_t kb, uint16_t *dst);
    const void *self;
    int64_t n, k;
} qsae__rows16;

/* A weight in panels, made once and never changed; shared by reference count. */
typedef struct qsae__packed_weight {
    qsae_context *ctx;
    atomic_int refs;
    uint8_t *data;           /* panel p at p * panel */
    int64_t panel;           /* bytes of a panel: steps * QSAE__PANEL_STEP */
    int64_t steps, n, k;
    int32_t *sum;            /* int8: [n] sums of the columns' codes; else NULL */
    uint64_t bytes;
} qsae__packed_weight;

/* Over the context's threads. dense: any dtype and strides, rounded to bf16. s8: codes [n, k]. */
int32_t qsae__packed_dense(qsae_context *ctx, const qsae__dense *d, int64_t n, int64_t k,
                           qsae__packed_weight **out);
int32_t qsae__packed_rows16(qsae_context *ctx, const qsae__rows16 *src, qsae__packed_weight **out);
int32_t qsae__packed_s8(qsae_context *ctx, const int8_t *codes, int64_t n, int64_t k,
                        qsae__packed_weight **out);
/* Columns n0.. (at most 32) of src, steps step0..step0+steps, to a panel that begins at step0. */
void qsae__pack_block(const qsae__pack_ops *pack, const qsae__rows16 *src, int64_t n0,
                      int64_t columns, int64_t step0, int64_t steps, uint8_t *panel);
qsae__packed_weight *qsae__packed_ref(qsae__packed_weight *w);
/* qsae__share of what it holds, while nobody else reads it: no more than `owners` references may
 * there be, else it stays as it is. NULL: nothing. */
int32_t qsae__packed_share(qsae__packed_weight *w, int owners);
void qsae__packed_close(qsae__packed_weight **w);

/* Left operand: rows in strips. */
typedef struct qsae__left {
    const uint8_t *data;     /* 64-byte aligned; strip s at s * strip, its part i at + i * part */
    int64_t rows, steps;
    int64_t strip, part;
    int32_t parts;
} qsae__left;

/* Bytes that `rows` rows take packed, k values of `size` bytes in `parts` parts; fills the sizes of
 * *left. QSAE_EOVERFLOW. */
int32_t qsae__left_size(int64_t rows, int64_t k, int64_t size, int32_t parts, qsae__left *left,
                        size_t *bytes);
/* Rows to the strips of *left at `data` over the context's threads: x of dtype QSAE_F32 or
 * QSAE_BF16, rounded to bf16, or F32 split if left->parts is 3. */
int32_t qsae__left_pack(qsae_context *ctx, qsae__left *left, uint8_t *data, int32_t dtype,
                        const void *x, int64_t ldx, int64_t k);

/* Right operand: packed, or bf16 rows that are packed block by block on the way. */
typedef struct qsae__right {
    const qsae__packed_weight *packed;
    const qsae__rows16 *rows;  /* if packed is NULL */
} qsae__right;

/* A finished tile: rows m0..m1 and columns n0..n1 of the product with right[index]; with pair also
 * of right[1]. f32 or int32 [m1 - m0, ldc], in the worker's scratch or in place (see below). */
typedef struct qsae__tile {
    int64_t index, m0, m1, n0, n1;
    void *c, *c2;
    int64_t ldc;
    int32_t worker;
} qsae__tile;

typedef struct qsae__product {
    const qsae__left *left;
    const qsae__right *right;  /* [n_right], all of left's k */
    int64_t n_right;
    bool s8;                   /* int8 codes, else bf16 */
    bool pair;                 /* two right operands of equal shape, finished side by side */
    /* [n_right] of [rows, ldy] f32 or int32 where results go as they are, or NULL: a tile that
     * needs no second visit is made there; any other lies in scratch. Not with pair. */
    float *const *y;
    const int64_t *ldy;
    /* Called from workers, tiles in any order, each once. Non-zero ends the product. */
    int32_t (*finish)(void *self, const qsae__tile *tile);
    void *self;
    uint8_t *scratch;          /* qsae__product_scratch bytes, 64-byte aligned */
} qsae__product;

size_t qsae__product_scratch(const qsae_context *ctx);
/* Every element is one sum in the order of packed.h, however tiles are cut. */
int32_t qsae__product_run(qsae_context *ctx, const qsae__product *p);

#endif
