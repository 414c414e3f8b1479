/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_AUDIT_SLICES_H
#define QSAE_AUDIT_SLICES_H

#include "audit/audit.h"

#define QSAE__SLICE_VALUES 64 /* most values of a dimension */
#define QSAE__SLICE_PAIRS 512 /* of a product */
#define QSAE__SLICE_FACTORS 3
#define QSAE__QUINTILES 5
#define QSAE__SLICE_EDGES 15

enum qsae__slice_kind {
    QSAE__SLICE_DOCUMENT,  /* a property of the document: its metadata or its length */
    QSAE__SLICE_POSITION,  /* in the chunk */
    QSAE__SLICE_TOKEN,     /* a property of the token */
    QSAE__SLICE_ENTROPY,   /* of the reference's prediction */
    QSAE__SLICE_PRODUCT    /* of other dimensions */
};

/* A way to divide the tokens. */
struct slice_dimension {
    char *name;                  /* as given */
    enum qsae__slice_kind kind;
    int32_t n_values;
    char *values[QSAE__SLICE_PAIRS];
    int32_t *of;                 /* [documents] or [vocab]: index of the value */
    int64_t n_of;
    int64_t first;               /* slice of its first value */
    struct slice_dimension *factors; /* [n_factors] of a product, else NULL */
    int32_t n_factors;
    bool late;                   /* its values are known at the end, from what is kept of tokens */
    double edges[QSAE__SLICE_EDGES]; /* [n_values - 1] of entropy, ascending; NaN: not known
                                      * yet */
    bool saes;                   /* SAEs have figures in its parts; of a late one from the rows that
                                  * are kept */
    int64_t *counts;             /* [n_of] a supplied table of frequencies, or NULL */
};

struct audit_slices {
    struct slice_dimension *dimensions; /* [n_dimensions] */
    int64_t n_dimensions, n;     /* n: slices of all dimensions */
    uint8_t *mask;               /* [rows] scratch of an update */
    struct slice_extra *extra;   /* [conditions, slices] while a result is made, else NULL */
    struct slice_kept *kept;     /* [participants, slices, n_saes] likewise, of late dimensions */
    double **kept_mass;          /* [n_saes] likewise, [parts of late dimensions, features]; of an SAE
                                  * NULL: not known */
};

/* Metrics of one (participant, slice). */
struct slice_metrics {
    qsae_metric *cross_entropy;  /* of the reference */
    qsae_metric *divergence;     /* of a condition */
    qsae_metric **reconstruction; /* [n_saes]; of a late dimension NULL, as the next */
    qsae_metric **drift;         /* [n_saes] of a condition */
    qsae_metric **mass;          /* [n_saes] of the reference */
};

/* slice_values.c: reads dimensions, finds their values in the corpus. */
int32_t qsae__slices_open(qsae_audit *a, const char *const *names, int64_t n);
void qsae__slices_close(qsae_audit *a);
/* Value of row r in a dimension: -1 if it has none. label: of the token it predicts, for a property
 * of tokens. */
int32_t qsae__slice_value(const struct slice_dimension *d, const struct audit_batch *b, int64_t r,
                          bool label);

/* Figures of a condition in a slice that are computed when a result is made. */
struct slice_extra {
    double kl_median, kl_q99, dnll_q99;
    struct slice_survival {
        double features, survived;
    } *saes;                     /* [n_saes] or NULL */
};

/* Figures of a participant's SAE in a part of a late dimension, from `rows` kept rows. */
struct slice_kept {
    double rows, fvu_dim;
    double p, r;                 /* of a condition: noise */
};

/* slice_rows.c: fills a->slices->kept and kept_mass; close frees them. */
struct slice_places {
    int64_t n;
    const int64_t *token;        /* [n] ascending */
    const int16_t *value;        /* [dimensions, stride] of a token's own row; -1: none */
    int64_t stride;
};
int32_t qsae__slices_rows(qsae_audit *a, const struct slice_places *at);
void qsae__slices_rows_close(qsae_audit *a);
/* [values, features] activation mass of the reference in the parts of a late dimension; NULL: not
 * known. */
const double *qsae__slices_rows_mass(const qsae_audit *a, const struct slice_dimension *d,
                                     int64_t sae);
/* Figures of a part of a late dimension; NULL: none, or too few rows are kept. */
const struct slice_kept *qsae__slices_kept(const qsae_audit *a, const struct participant *p,
                                           int64_t slice, int64_t sae);

/* slice_tables.c: values that tables give: scripts, frequencies (file NULL: in the chunks). */
int32_t qsae__slices_by_script(qsae_audit *a, struct slice_dimension *d);
int32_t qsae__slices_by_frequency(qsae_audit *a, struct slice_dimension *d, const char *file);
/* Adds what the names do not say of the dimensions to a fingerprint. */
void qsae__slices_fingerprint(const qsae_audit *a, qsae__hasher *h);
/* slice_values.c, for the above: makes room for a value per token; adds a value by name. */
int32_t qsae__slices_vocabulary(qsae_audit *a, struct slice_dimension *d);
int32_t qsae__slices_add_value(qsae_audit *a, struct slice_dimension *d, const char *value,
                               int32_t *out);

/* slice_features.c: what SAEs say of a slice. */
struct slice_rows {
    const qsae_rows *x_r, *x, *y_r, *y; /* of the reference and of the participant */
    const qsae_sparse_rows *acts_r;
};
int32_t qsae__slices_features_open(qsae_audit *a, struct participant *p, int64_t slice,
                                   const qsae_metric_settings *s);
void qsae__slices_features_close(qsae_audit *a, struct slice_metrics *m);
int32_t qsae__slices_update_features(qsae_audit *a, struct participant *p, int64_t sae,
                                     const struct audit_batch *b, const struct slice_rows *rows);
/* Fills extra[..].saes of condition p. */
int32_t qsae__slices_survival(qsae_audit *a, struct participant *p, struct slice_extra *extra);
/* Adds noise and survival to the object of an SAE; shown: there are enough tokens. */
void qsae__slices_features_json(qsae_audit *a, struct participant *p, int64_t slice, int64_t sae,
                                const struct slice_extra *extra, bool shown, json_t *to);

/* slice_late.c: fills the metrics of late dimensions and a->slices->extra, which the caller
 * closes. */
int32_t qsae__slices_late(qsae_audit *a);
void qsae__slices_late_close(qsae_audit *a);

/* slices.c: the batch's mask with the rows outside a slice excluded; metrics, their updates, the
 * result. */
qsae_positions qsae__slices_positions(qsae_audit *a, const struct audit_batch *b,
                                      const struct slice_dimension *d, int32_t value, bool label,
                                      const uint8_t *mask);
int32_t qsae__slices_metrics(qsae_audit *a, struct participant *p, const qsae_metric_settings *s);
void qsae__slices_metrics_close(qsae_audit *a, struct participant *p);
int32_t qsae__slices_update_predictions(qsae_audit *a, struct participant *p,
                                        const struct audit_batch *b,
                                        const qsae_divergence_rows *rows, const float *nll);
/* null without slices. */
int32_t qsae__slices_json(qsae_audit *a, json_t **out);
/* Dimension of a slice. */
const struct slice_dimension *qsae__slices_dimension(const qsae_audit *a, int64_t slice);
/* Metrics of a participant's slices one by one, NULL where there is none or none to save; false
 * after the last. For state files. */
bool qsae__slices_metric(const qsae_audit *a, const struct participant *p, int64_t i,
                         qsae_metric **out);

#endif
