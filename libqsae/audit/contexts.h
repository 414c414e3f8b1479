/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same tokens after contexts of several lengths (methods.md section 8): each length is an audit
 * of its own on the ends of the longest windows, with the models, SAEs and settings of the run.
 */
#ifndef QSAE_AUDIT_CONTEXTS_H
#define QSAE_AUDIT_CONTEXTS_H

#include "audit/audit.h"
#include "audit/bytes.h"

#define QSAE__LENGTHS_MOST 16

/* Changes against the shortest length, paired by document. */
enum {
    QSAE__SINCE_CE,             /* of the model's own cross-entropy */
    QSAE__SINCE_DCE,            /* of a condition's dce */
    QSAE__SINCE_KL,             /* of its KL */
    QSAE__SINCE_COUNT
};

/* What a pass leaves of each scored token, for one participant: [windows of a batch, scored]. */
struct length_rows {
    float *nll, *kl;
};

struct audit_length {
    qsae_audit *audit;           /* its models, SAEs and tokenizer are those of the run */
    struct length_rows *rows;    /* [n_participants] of the present batch */
    qsae_metric *(*changes)[QSAE__SINCE_COUNT]; /* [n_participants]; NULL in the shortest */
};

struct audit_contexts {
    struct audit_length lengths[QSAE__LENGTHS_MOST]; /* ascending */
    int64_t n;
    int64_t scored;              /* tokens of each window */
    int64_t stride;              /* between the longest windows */
    int64_t batch;               /* windows per logical batch */
    int64_t windows;
    int64_t next;                /* first window that not all lengths and changes have seen */
    int64_t within[QSAE__LENGTHS_MOST]; /* scored tokens whose window is all of their document */
    int64_t *document;           /* [batch, scored] */
    int32_t *position;           /* likewise: in the longest window */
    float *left, *right;         /* likewise: scratch */
};

/* Reads the text again, cut into the longest windows. No contexts in the settings: nothing. */
int32_t qsae__contexts_open(qsae_audit *a, const qsae_audit_settings *s,
                            const qsae_corpus_settings *text);
void qsae__contexts_close(qsae_audit *a);
void qsae__contexts_fingerprint(const qsae_audit *a, qsae__hasher *h);
/* After the fingerprint is known. */
int32_t qsae__contexts_metrics(qsae_audit *a);
/* Measures the windows, once all chunks of the text have been (as qsae__probed_run). */
int32_t qsae__contexts_run(qsae_audit *a);
/* Called by the pass of a length: keeps what a participant's update was given. */
void qsae__contexts_keep(qsae_audit *length, int64_t participant, const float *nll,
                         const float *kl);

/* contexts_result.c. All metrics one by one; false after the last. */
bool qsae__contexts_metric(const qsae_audit *a, int64_t i, qsae_metric **out);
void qsae__contexts_write(const qsae_audit *a, qsae__strbuf *b);
int32_t qsae__contexts_read(qsae_audit *a, struct qsae__taken *from);
/* The result's list; null without contexts. */
int32_t qsae__contexts_json(qsae_audit *a, json_t **out);

#endif
