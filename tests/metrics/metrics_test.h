/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_METRICS_TEST_H
#define TESTS_METRICS_TEST_H

#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "metrics/metrics.h"

/* One set of random rows that every kind is fed from. */
#define N 3333
#define D 11
#define F 30
#define BATCH 600

typedef struct data {
    float x_r[N * D], x_q[N * D], y_r[N * D], y_q[N * D];
    float a_r[N * F], a_q[N * F];        /* dense; indptr and the rest are the same, sparse */
    int64_t ptr_r[N + 1], ptr_q[N + 1];
    int32_t index_r[N * F], index_q[N * F];
    float value_r[N * F], value_q[N * F];
    float nll_r[N], nll_q[N], kl[N];
    int32_t top_r[N], top_q[N], label[N];
    int64_t document[N];
    uint8_t mask[N];
} data;
extern data rows;
void make_rows(uint32_t seed);
/* Rows [N, F] in sparse form. */
void make_sparse(const float *dense, int64_t *ptr, int32_t *index, float *value);

/* Kinds 0..4 as in the list; settings with batches of BATCH rows. */
#define KINDS 5
extern const char *const kind_names[KINDS];
qsae_metric_settings test_settings(void);
qsae_metric *open_kind(qsae_context *ctx, int kind, const qsae_metric_settings *s);
/* Adds the tokens [first, first + n) of `rows`, shifted by `shift` in the token index. */
int32_t feed(qsae_metric *m, int64_t first, int64_t n, int64_t shift);
/* The state as bytes. */
void write_state(const qsae_metric *m, qsae__strbuf *b);
void assert_same_state(qsae_metric *a, qsae_metric *b);
double result(qsae_metric *m, const char *name);
void assert_near(qsae_metric *m, const char *name, double want, double relative);

extern const struct CMUnitTest value_tests[], order_tests[], state_tests[], input_tests[],
    level_tests[], rank_tests[], overlap_tests[], accumulator_tests[], counter_tests[],
    shard_tests[], forged_tests[], written_tests[], edge_tests[];
extern const size_t n_value_tests, n_order_tests, n_state_tests, n_input_tests, n_level_tests,
    n_rank_tests, n_overlap_tests, n_accumulator_tests, n_counter_tests,
    n_shard_tests, n_forged_tests, n_written_tests, n_edge_tests;

#endif
