/* SPDX-License-Identifier: BSD-2-Clause */
/* Weights as bitsandbytes stores them in checkpoints (doc/codec-bitsandbytes.md). */
#ifndef QSAE_CODECS_BNB_H
#define QSAE_CODECS_BNB_H

#include "codecs/qmatrix.h"

/* state of a 4-bit matrix from a file: the tables it is decoded by. */
typedef struct qsae__maps4 {
    float values[16];        /* what the codes stand for */
    float map[16];           /* the file's quant_map */
    float nested_map[256];   /* the file's, if nested */
} qsae__maps4;

/* One tensor of an encoded weight, as a checkpoint holds it beside others of its module. */
typedef struct qsae__bnb_part {
    const char *suffix;      /* after the module's path: ".weight", ".weight.absmax", ".SCB", ... */
    qsae_field field;        /* dtype, shape, data; those belong to the matrix and the parts */
} qsae__bnb_part;

#define QSAE__BNB_PARTS 6

typedef struct qsae__bnb_parts {
    qsae__bnb_part part[QSAE__BNB_PARTS];
    int32_t n;
    char state[512];         /* JSON of a 4-bit matrix */
    uint8_t format;          /* of an 8-bit one: 0, rows */
} qsae__bnb_parts;

/*
 * The tensors of a matrix of codec nf4, fp4 or llm.int8, encoded from a weight of q->dtype; names
 * and contents are those bitsandbytes 0.50 writes. QSAE_ENONFINITE: the mean of the block maxima,
 * which the state holds as a number, is none.
 */
int32_t qsae__bnb_describe(const qsae_qmatrix *q, qsae__bnb_parts *out);

#endif
