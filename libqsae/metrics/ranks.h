/* SPDX-License-Identifier: BSD-2-Clause */
/* Statistics of arrays that are read once a measurement is done: ranks, areas under curves, and the
 * survival predictor of methods.md 3.6. */
#ifndef QSAE_METRICS_RANKS_H
#define QSAE_METRICS_RANKS_H

#include "core/core.h"

/* ranks [n] of v, 1 for the smallest; equal values share the mean of theirs. QSAE_ENOMEM. */
int32_t qsae__midranks(qsae_context *ctx, const double *v, int64_t n, double *ranks);

/* order [n]: indices of v from the smallest on, equal values by index. QSAE_ENOMEM. */
int32_t qsae__order(qsae_context *ctx, const double *v, int64_t n, int64_t *order);

/* Pearson's correlation; NaN where either is constant or n < 2. */
double qsae__correlation(const double *a, const double *b, int64_t n);

/* Spearman's: Pearson's of the midranks. */
int32_t qsae__spearman(qsae_context *ctx, const double *a, const double *b, int64_t n, double *out);

/* Area under the ROC curve of scores for positive [n]: (R1 - n1 (n1 + 1) / 2) / (n1 n0), R1 the sum
 * of the positives' midranks. NaN without both classes. */
int32_t qsae__auc(qsae_context *ctx, const double *scores, const uint8_t *positive, int64_t n,
                  double *out);

#define QSAE__FOLDS 5
/* fold [n] of each row, 0..4: scikit-learn's StratifiedKFold(5, shuffle=True, random_state=seed) on
 * labels 0 and 1. */
int32_t qsae__stratified_folds(qsae_context *ctx, const uint8_t *positive, int64_t n, uint32_t seed,
                               uint8_t *fold);

#define QSAE__INPUTS_MOST 4
/* Logistic regression with intercept, L2 penalty w'w / 2 on the weights, loss times c:
 * scikit-learn's LogisticRegression(C=c) at its optimum. x [n, k] row-major; rows with use 0 are
 * left out (use NULL: none); w [k + 1], the intercept last. */
void qsae__logistic(const double *x, const uint8_t *positive, const uint8_t *use, int64_t n,
                    int64_t k, double c, double *w);

#endif
