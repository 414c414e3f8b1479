/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Products of packed operands: bf16 x bf16 -> f32 and int8 x int8 -> int32. Both have one geometry,
 * counted in bytes: a step is 64 bytes of k (32 bf16 or 64 int8), a group 4 bytes of k (2 or 4).
 *
 *   left    rows in strips of 16: step t of strip s is 16 rows of 64 bytes, row r at
 *           s * a_strip + t * QSAE__STRIP_STEP + r * 64
 *   right   columns in panels of 32: group g (16 to a step) of panel p is 32 columns of 4 bytes,
 *           column j at p * w_panel + g * 128 + j * 4
 *
 * Rows, columns and k beyond the matrix are zero. A strip is a register or tile block of every
 * kernel, a panel two cache lines or two tiles, so all levels read the same bytes.
 *
 * What bf16 sums are, by level (subnormal factors and sums count as zero in both):
 *   avx512bf16   one chain per element over ascending k, by VDPBF16PS: of each pair the odd product
 *                is added first, then the even one, each with one rounding. Of parts: blocks of
 *                QSAE__PARTS_BLOCK steps, each a chain from zero over the block's steps of part 2,
 *                then 1, then 0, in ascending order added to the element
 *   amx          per step the even and the odd products are chained apart from zero with one
 *                rounding each, the two sums added, and that added to the element (TDPBF16PS). Of
 *                parts: blocks as above
 * Both continue from c, so neither blocks of k (of parts: at multiples of QSAE__PARTS_BLOCK) nor
 * blocks of rows and columns change a bit. NaN where any factor is NaN, of any sign. Below
 * avx512bf16 there is no bf16 product: gemm.h does bf16 values in f32. int8 sums are exact.
 */
#ifndef QSAE_KERNELS_PACKED_H
#define QSAE_KERNELS_PACKED_H

#include "core/core.h"

#define QSAE__STRIP 16
#define QSAE__STEP 64                               /* bytes of k */
#define QSAE__STRIP_STEP (QSAE__STRIP * QSAE__STEP) /* bytes of a step of a strip */
#define QSAE__COLUMNS 32                            /* of a panel */
#define QSAE__PANEL_STEP (QSAE__COLUMNS * QSAE__STEP)

#define QSAE__PARTS_BLOCK 8 /* steps; with parts only the last call of a product may have others */

/* Sums of this many products of codes in [-127, 127] fit int32. */
#define QSAE__S8_MAX_K 133144

/* One call of a kernel, one thread. */
typedef struct qsae__packed_product {
    int64_t m, n;            /* rows and columns of c; the operands are padded beyond */
    int64_t steps;           /* at least 1 */
    const uint8_t *a;        /* first step of the first strip, 64-byte aligned */
    int64_t a_strip;         /* bytes from strip to strip, a multiple of 64 */
    int32_t parts;           /* bf16: 1, or 3 left operands that are summed (qsae__split_rows) */
    int64_t a_part;          /* bytes from part to part */
    const uint8_t *w;        /* first step of the first panel, 64-byte aligned */
    int64_t w_panel;         /* bytes from panel to panel */
    void *c;                 /* f32 or int32 [m, ldc], 4-byte aligned */
    int64_t ldc;
    bool add;                /* continue from c; else from zero, or from start */
    const int32_t *start;    /* int8: [n] what the sums start from, or NULL */
    bool more;               /* the next call multiplies the following steps of the same rows and
                                columns: they may be fetched. Changes no result */
} qsae__packed_product;

/* Bringing operands into that geometry, one strip or panel at a time; no result depends on the
 * level. */
typedef struct qsae__pack_ops {
    /* rows <= 16 rows of k values to a strip of qsae__steps(k, 2) steps; the rest is zeroed. dtype
     * of x: QSAE_F32 (rounded to nearest even) or QSAE_BF16 (copied, any alignment). ldx in
     * elements. */
    void (*rows)(int32_t dtype, const void *x, int64_t ldx, int64_t rows, int64_t k,
                 uint8_t *strip);
    /* The same of f32 as three parts, `part` bytes apart, whose sum is the value (but for bits
     * below 2^-126): the top 8 bits of the significand, the next 8, the rest. NaN and infinity are
     * in the first alone. */
    void (*split)(const float *x, int64_t ldx, int64_t rows, int64_t k, uint8_t *strip,
                  int64_t part);
    /* columns <= 32 columns (rows of the weight) of k bf16 values, any alignment, to one panel of
     * qsae__steps(k, 2) steps; the rest is zeroed. ldw in elements. */
    void (*panel)(const uint16_t *w, int64_t ldw, int64_t columns, int64_t k, uint8_t *panel);
    /* int8: rows to a strip, flipped or not (see qsae__packed_kernel); columns to a panel, and the
     * sum of each column's codes to sum[columns] (may be NULL). Padding is code 0 before any flip.
     */
    void (*rows_s8)(const int8_t *x, int64_t ldx, int64_t rows, int64_t k, bool flip,
                    uint8_t *strip);
    void (*panel_s8)(const int8_t *w, int64_t ldw, int64_t columns, int64_t k, uint8_t *panel,
                     int32_t *sum);
} qsae__pack_ops;

/* The kernels of one level and how much they like to be given at once. */
typedef struct qsae__packed_kernel {
    void (*bf16)(const qsae__packed_product *p); /* NULL below avx512bf16 */
    void (*s8)(const qsae__packed_product *p);
    const qsae__pack_ops *pack;
    /* Left int8 codes are stored with their top bit flipped (code + 128): start must then hold
     * -128 times the sum of each column's codes. */
    bool flipped;
    /* Of bf16 and of int8: steps of k that a call should have at most; bytes of W that should serve
     * all rows before other columns do. */
    int64_t slab, block;
    int64_t slab_s8, block_s8;
    int64_t tile;            /* rows and columns of c that should be made at once */
} qsae__packed_kernel;

/* Kernels at the level of the context, or at a level. Static storage. */
const qsae__packed_kernel *qsae__packed_get(const qsae_context *ctx);
const qsae__packed_kernel *qsae__packed_level(int32_t level);

/* Steps that k values of `size` bytes (2 or 1) take. */
static inline int64_t qsae__steps(int64_t k, int64_t size)
{
    return k / (QSAE__STEP / size) + (k % (QSAE__STEP / size) != 0);
}

#endif
