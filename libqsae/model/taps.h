/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_TAPS_H
#define QSAE_MODEL_TAPS_H

#include "model/internal.h"

/* Taps of a pass in calling order: (layer, site, registration). */
typedef struct qsae__taps {
    qsae_context *ctx;
    qsae_tap *list;     /* [n] */
    int64_t n, next;    /* next one to call */
    int64_t layers;     /* blocks the taps need */
} qsae__taps;

int32_t qsae__taps_open(const qsae_model *m, const qsae_pass *pass, qsae__taps *out);
void qsae__taps_close(qsae__taps *taps);

/* Calls the taps after block `layer` with the slab's rows. */
int32_t qsae__taps_call(qsae__taps *taps, const qsae_model *m, int64_t layer,
                        const qsae__slab *slab);

#endif
