/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_AUDIT_SLICES_H
#define QSAE_AUDIT_SLICES_H

#include "audit/audit.h"

#define QSAE__SLICE_VALUES 64 /* most values of a dimension */

enum qsae__slice_kind {
    QSAE__SLICE_DOCUMENT,  /* a property of the document: its metadata or its length */
    QSAE__SLICE_POSITION,  /* in the chunk */
    QSAE__SLICE_TOKEN      /* a property of the token */
};

/* A way to divide the tokens. */
struct slice_dimension {
    char *name;                  /* as given */
    enum qsae__slice_kind kind;
    int32_t n_values;
    char *values[QSAE__SLICE_VALUES];
    int32_t *of;                 /* [documents] or [vocab]: index of the value */
    int64_t n_of;
    int64_t first;               /* slice of its first value */
};

struct audit_slices {
    struct slice_dimension *dimensions; /* [n_dimensions] */
    int64_t n_dimensions, n;     /* n: slices of all dimensions */
    uint8_t *mask;               /* [rows] scratch of an update */
};

/* Metrics of one (participant, slice). */
struct slice_metrics {
    qsae_metric *cross_entropy;  /* of the reference */
    qsae_metric *divergence;     /* of a condition */
    qsae_metric **reconstruction; /* [n_saes] */
};

/* slice_values.c: reads dimensions, finds their values in the corpus. */
int32_t qsae__slices_open(qsae_audit *a, const char *const *names, int64_t n);
void qsae__slices_close(qsae_audit *a);
/* Value of row r in a dimension: -1 if it has none. label: of the token it predicts, for a property
 * of tokens. */
int32_t qsae__slice_value(const struct slice_dimension *d, const struct audit_batch *b, int64_t r,
                          bool label);

/* slices.c: metrics, their updates, the result. */
int32_t qsae__slices_metrics(qsae_audit *a, struct participant *p, const qsae_metric_settings *s);
void qsae__slices_metrics_close(qsae_audit *a, struct participant *p);
/* Rows of a participant at an SAE's place, and their reconstructions. */
int32_t qsae__slices_update_predictions(qsae_audit *a, struct participant *p,
                                        const struct audit_batch *b,
                                        const qsae_divergence_rows *rows, const float *nll);
int32_t qsae__slices_update_sae(qsae_audit *a, struct participant *p, int64_t sae,
                                const struct audit_batch *b, const qsae_rows *x,
                                const qsae_rows *y);
/* null without slices. */
int32_t qsae__slices_json(qsae_audit *a, json_t **out);
/* Metrics of a participant's slices one by one; false after the last. For state files. */
bool qsae__slices_metric(const qsae_audit *a, const struct participant *p, int64_t i,
                         qsae_metric **out);

#endif
