/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * llama.cpp's comparison of predictions (methods.md section 5): what llama-perplexity's
 * --kl-divergence makes of a row of logits and of the reference's row as its base-logit files keep
 * it. Every operation has the type it has there, f32 mostly, so that files have the same bytes and
 * reports the same digits.
 */
#ifndef QSAE_METRICS_LLAMA_H
#define QSAE_METRICS_LLAMA_H

#include "formats/logits.h"
#include "metrics/metrics.h"

/* Encodes logits[vocab] to row[words] as files keep it (formats/logits.h): log p = scale code +
 * smallest. False if one of them is NaN or +inf, or all are -inf. */
bool qsae__llama_encode(const float *logits, int64_t vocab, uint16_t *row);

/* log p [vocab] of an encoded row. */
void qsae__llama_decode(const uint16_t *row, int64_t vocab, float *log_p);

/* One scored token. */
typedef struct qsae__llama_token {
    double kl;               /* nats, without tokens whose log p is -16 or less in the reference */
    float nll, nll_base;     /* of the label */
    float dp;                /* p - p_base of the label */
    int32_t same;            /* whether the arg-max is; -1: a position without label, skipped */
} qsae__llama_token;

/* Logits [vocab] against an encoded row. Values that are not finite come out as they come. */
qsae__llama_token qsae__llama_compare(const uint16_t *base, const float *logits, int64_t vocab,
                                      int32_t label);

/* Adds tokens to a metric of kind llama_cpp; those that are not finite are counted as such. */
int32_t qsae__llama_add(qsae_metric *metric, const qsae_positions *at, int64_t n,
                           const qsae__llama_token *tokens);

#endif
