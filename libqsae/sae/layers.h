/* SPDX-License-Identifier: BSD-2-Clause */
/* What layers.c and layers_open.c share. */
#ifndef QSAE_SAE_LAYERS_H
#define QSAE_SAE_LAYERS_H

#include "sae/parts.h"

enum qsae__layers_kind {
    QSAE__CLT,         /* layer l writes to layers m >= l */
    QSAE__CROSSCODER,  /* to all of them */
    QSAE__TRANSCODERS  /* to its own */
};

/* What features of one layer write to one output: row i at data + i * ld. */
typedef struct qsae__writes {
    const void *data;
    int64_t ld;        /* elements */
    int32_t dtype;
    double divisor;    /* of the output's scale; 1 = none */
} qsae__writes;

struct qsae_sae_layers {
    qsae__handle base;
    qsae_context *ctx;
    enum qsae__layers_kind kind;
    char *path;
    int64_t n;
    int64_t *ids;      /* [n] ascending */
    qsae_sae **saes;   /* [n] encoders, with the bias and skip connection of their output */
    qsae__tensors **files; /* [n] of the decoders; or one; NULL of transcoders */
    qsae__writes *writes;  /* [n, n] from, to; NULL of transcoders */
    const qsae_cancel_token *cancel;
    char hash[QSAE__HASH_SIZE]; /* empty until asked for */
};

#endif
