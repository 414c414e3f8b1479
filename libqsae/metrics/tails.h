/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a divergence metric keeps of single tokens and documents beside its sums (methods.md
 * sections 8 and 9): a histogram that merges by addition, the worst tokens, and what all or a
 * sample of the tokens gave.
 */
#ifndef QSAE_METRICS_TAILS_H
#define QSAE_METRICS_TAILS_H

#include <qsae/metrics.h>

#include "core/core.h"

/* Orders f64 values. */
int qsae__by_value(const void *a, const void *b);
/* Linear interpolation at f (n - 1) of ascending values; NaN if n is 0. */
double qsae__quantile(const double *sorted, int64_t n, double f);

/* Quantiles and tail means of one figure of tokens; NaN where there are none. */
typedef struct qsae__tail {
    double median, q90, q95, q99, q999;
    double cvar_1pct, cvar_0p1pct; /* mean of the largest ceil(n / 100), ceil(n / 1000) values */
    double share_1pct;             /* of the sum of all in the largest ceil(n / 100) */
} qsae__tail;

/* From ascending values [n]. */
void qsae__tail_sorted(const double *sorted, int64_t n, qsae__tail *out);

/*
 * Histogram of QSAE__HISTOGRAM words, zero at first: log buckets of relative error 1% for either
 * sign from 2^-30 to 2^20 (smaller counts as zero, larger as the largest), per bucket the number of
 * values and their exact sum in units of its own; a sum that no word holds stays UINT64_MAX, and
 * figures that need it are NaN.
 */
#define QSAE__HISTOGRAM_BUCKETS 1736
#define QSAE__HISTOGRAM (1 + 4 * QSAE__HISTOGRAM_BUCKETS)
#define QSAE__HISTOGRAM_ERROR 0.01
void qsae__histogram_add(uint64_t *words, float v);
void qsae__histogram_merge(uint64_t *words, const uint64_t *from);
/* Whether the words can be those of so many values or fewer. */
bool qsae__histogram_valid(const uint64_t *words, uint64_t values);
void qsae__histogram_tail(const uint64_t *words, double max, qsae__tail *out);

/* The words of a token in a sample and in the list of the worst: the token, then three of them. */
#define QSAE__TOKEN_WORDS 3
typedef struct qsae__token {
    int64_t token;
    float nll_r, nll_q, kl, entropy_r; /* NaN = not known */
    int32_t top_r, top_q;              /* -1 = not known */
} qsae__token;

/* words [1 + QSAE__TOKEN_WORDS] of a record and back. */
void qsae__token_write(const qsae__token *t, uint64_t *words);
qsae__token qsae__token_read(const uint64_t *words);

/*
 * The worst QSAE__WORST tokens by nll_q - nll_r, largest first, of equal ones the earlier token.
 * Which are kept depends on what was added, not on its order.
 */
#define QSAE__WORST 50
typedef struct qsae__worst {
    uint64_t (*record)[1 + QSAE__TOKEN_WORDS]; /* [QSAE__WORST], or NULL: none are kept */
    int64_t n;
} qsae__worst;
void qsae__worst_add(qsae__worst *w, const uint64_t *record);
void qsae__worst_merge(qsae__worst *w, const qsae__worst *from);
/* Whether the order and every record are as they can be; tokens up to max_token. */
bool qsae__worst_valid(const qsae__worst *w, int64_t max_token);

/* Tokens that a divergence metric has kept, in token order; *all: these are all it has counted. */
int64_t qsae__divergence_kept(const qsae_metric *m, bool *all);
qsae__token qsae__divergence_token(const qsae_metric *m, int64_t i);
/* The worst tokens; i in 0..count-1. */
int64_t qsae__divergence_worst(const qsae_metric *m);
qsae__token qsae__divergence_worst_token(const qsae_metric *m, int64_t i);

/* Sums of a document, over all its counted tokens. */
typedef struct qsae__document_sums {
    int64_t document;
    double tokens, nll_r, nll_q; /* tokens with both nll */
    double kl_tokens, kl;
} qsae__document_sums;
/* Documents ascending; *out is [*n], the caller frees it. */
int32_t qsae__divergence_documents(const qsae_metric *m, qsae__document_sums **out, int64_t *n);

#endif
