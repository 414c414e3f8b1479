/* SPDX-License-Identifier: BSD-2-Clause */
/* Features at risk: a fit of an earlier result applied to statistics of the model alone. */
#ifndef EXAMPLES_PREDICT_H
#define EXAMPLES_PREDICT_H

#include <stdint.h>

#include <qsae/qsae.h>

#include "layout.h"

struct predict {
    const char *result;     /* document with the fit, or NULL */
    const char *condition;  /* it was fitted on, or NULL */
    const char *from;       /* lines of features instead of a run, or NULL */
    const char *out;        /* file for all of them, or NULL */
};

/*
 * Ranks the features of an audit's SAEs, or of the file `from` (audit is NULL then), writes them to
 * `out` and prints those most at risk. 0, or -1 after a message on standard error.
 */
int predict_run(const struct page *page, const struct predict *p, qsae_context *context,
                qsae_audit *audit, int64_t n_saes);

#endif
