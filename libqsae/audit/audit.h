/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * audit/: a comparison of conditions on one corpus: plan, paired pass, snapshots, resume, result
 * document. Wires model/, sae/, text/ and metrics/ together; knows no file format and no kernel. It
 * may include every other folder of libqsae/ but kernels/.
 */
#ifndef QSAE_AUDIT_AUDIT_H
#define QSAE_AUDIT_AUDIT_H

#include <jansson.h>

#include <qsae/audit.h>
#include <qsae/metrics.h>
#include <qsae/text.h>

#include "core/core.h"
#include "model/model.h"
#include "sae/sae.h"

#define QSAE__BUDGETS_MAX 8

/* What a profile fixes; settings of the caller win. */
struct qsae__profile {
    const char *name;
    int32_t id;
    int32_t compute, bos_policy;
    int64_t context, batch;
    bool exclude_first;          /* first position of a chunk is in no feature statistic */
    const char *fvu;             /* the variant its stability rule looks at */
    int64_t budgets[QSAE__BUDGETS_MAX]; /* snapshot targets in tokens, ascending, 0 ends */
    int64_t headline;            /* the budget its figures are quoted at */
    int64_t max_tokens;          /* 0 = all */
    const char *const *conditions; /* when the caller names none; NULL-terminated, or NULL */
};

const struct qsae__profile *qsae__profile_get(int32_t id);

/* An SAE at its place in the model. */
struct audit_sae {
    qsae_sae *sae;
    char *name;                  /* as given, without @LAYER */
    int32_t layer, site;
    qsae_sae_info info;
};

/* Metrics of one (participant, SAE). */
struct audit_features {
    qsae_metric *reconstruction;
    qsae_metric *drift;          /* NULL for the reference */
    qsae_metric *survival;       /* NULL for the reference */
};

/* The reference (index 0) or a condition. */
struct participant {
    char *label;                 /* canonical condition, or the folder */
    qsae_weights *weights;
    qsae_model *model;
    qsae_model_cost cost;
    qsae_metric *cross_entropy;
    qsae_metric *divergence;     /* NULL for the reference */
    struct audit_features *saes; /* [n_saes] */
    int64_t width;               /* of its residual stream */
    int64_t next_chunk;          /* first chunk its metrics have not seen */
    qsae__outliers *outliers;    /* [linears] up to next_chunk */
    int64_t n_outliers;
    double seconds;              /* of its forward passes, SAEs and its share of the head */
    uint64_t peak_rss;
};

struct qsae_audit {
    qsae_context *ctx;
    const struct qsae__profile *profile;
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_info corpus_info;
    struct participant *participants; /* [n_participants] */
    int64_t n_participants;
    struct audit_sae *saes;      /* [n_saes] */
    int64_t n_saes;
    int64_t batch;               /* chunks per logical batch */
    int32_t compute, attention;
    char *state_path;
    char fingerprint[QSAE__HASH_SIZE];
    qsae_progress_callback progress;
    void *progress_cookie;
    qsae_cancel_token *cancel;
    /* progress of the run */
    int64_t next_chunk;
    int64_t tokens_done;
    int64_t next_budget;         /* index into the profile's */
    json_t *snapshots;           /* array */
    double seconds;
    struct pass *pass;           /* buffers, opened on the first run */
    char *json;                  /* last result document */
};

/* plan.c: fills an audit from settings. */
int32_t qsae__plan_open(qsae_audit *a, const qsae_audit_settings *s);

/* pass.c: measures the next logical batch of all participants. */
int32_t qsae__pass_open(qsae_audit *a);
void qsae__pass_close(qsae_audit *a);
int32_t qsae__pass_batch(qsae_audit *a);

/* result.c: a new reference to the document, or to one snapshot of it. */
int32_t qsae__result_document(qsae_audit *a, json_t **out);
int32_t qsae__result_snapshot(qsae_audit *a, int64_t budget, json_t **out);

/* state.c */
int32_t qsae__state_save(qsae_audit *a);
int32_t qsae__state_load(qsae_audit *a);

double qsae__now(void);
uint64_t qsae__resident_bytes(void);

#endif
