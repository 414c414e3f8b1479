/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_TAPS_H
#define QSAE_MODEL_TAPS_H

#include "model/internal.h"

/* Taps of a pass, as registered, and the watch that calls them. */
typedef struct qsae__taps {
    const qsae_model *m;
    qsae_tap *list;     /* [n], layers as qsae__watch names them */
    int32_t *layer;     /* [n] as registered */
    int64_t n;
    int64_t layers;     /* blocks they need */
    int64_t deepest;    /* the tap that needs them */
    bool final;         /* they need the final norm */
    qsae__watch watch;
} qsae__taps;

/* *out must stay where it is. */
int32_t qsae__taps_open(const qsae_model *m, const qsae_pass *pass, qsae__taps *out);
void qsae__taps_close(qsae__taps *taps);

#endif
