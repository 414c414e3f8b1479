/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * audit/: a comparison of conditions on one corpus: plan, paired pass, snapshots, resume, result
 * document. Wires model/, sae/, text/ and metrics/ together; knows no file format and no kernel. It
 * may include every other folder of libqsae/ but kernels/.
 *
 * What a run gathers may be stopped at any batch, measured in parts by many processes and merged in
 * any order, always to the same bytes. So a new accumulator
 * - depends on the tokens it has seen, never on the order or the process in which it saw them: sums
 *   per document or batch or in metrics/tree.c, whole numbers, maxima, sets with ties broken by the
 *   token; and never on two parts of the text at once, but when the result is made;
 * - is shown by parts.c, in a fixed order, with a name and one of the kinds of state.h, each of
 *   which says how it is saved, read as hostile input and merged; a new kind is one more case in
 *   state.c (put, get) and merge.c. What changes its meaning or its size goes into the fingerprint
 *   (plan.c), into identity.c under a name, and, of a metric, into qsae__metric_describe;
 * - is updated after everything that can fail has succeeded (pass.c).
 */
#ifndef QSAE_AUDIT_AUDIT_H
#define QSAE_AUDIT_AUDIT_H

#include <qsae/audit.h>
#include <qsae/metrics.h>
#include <qsae/text.h>

#include "audit/json.h"
#include "codecs/condition.h"
#include "core/core.h"
#include "model/model.h"
#include "sae/sae.h"
#include "text/corpus.h"

#define QSAE__BUDGETS_MAX 8

/* What a profile fixes; settings of the caller win. */
struct qsae__profile {
    const char *name;
    int32_t id;
    int32_t compute, bos_policy;
    int64_t context, batch;
    bool exclude_first;          /* first position of a chunk is in no feature statistic */
    const char *fvu;             /* the variant its stability rule looks at */
    int64_t budgets[QSAE__BUDGETS_MAX + 1]; /* snapshot targets in tokens, ascending, 0 ends */
    int64_t headline;            /* the budget its figures are quoted at */
    int64_t max_tokens;          /* 0 = all */
    const char *const *conditions; /* when the caller names none; NULL-terminated, or NULL */
    const char *process;         /* of the weights of models with LayerNorm, or NULL */
};

const struct qsae__profile *qsae__profile_get(int32_t id);

/* An SAE at its place in the model. */
struct audit_sae {
    qsae_sae *sae;
    char *name;                  /* as given, without @LAYER */
    int32_t layer, site;         /* of the rows it reconstructs */
    qsae_sae_info info;
    int32_t layer_in, site_in;   /* of the rows it reads: other ones of a transcoder */
    int64_t columns, columns_in; /* of these two sites */
    int64_t column;              /* its first there: of one attention head */
    int64_t last;                /* the highest layer that its rows depend on */
    double *decoder_norm;        /* [features] |W_dec,j|, NULL until it is asked for */
    struct audit_layers *of;     /* whose layer it is, which owns sae; or NULL */
    int64_t member;              /* index there */
};

/* All layers of a cross-layer transcoder, a crosscoder or a set of transcoders: consecutive SAEs,
 * each with what all of them write to its place. */
struct audit_layers {
    qsae_sae_layers *layers;
    qsae_sae_layers_info info;
    char *name;
    int64_t first;               /* index of its SAE of layer 0 */
};

/* What takes the place of an SAE's input while the rest of the model runs on. */
enum {
    QSAE__SPLICE_SAE,            /* its reconstruction */
    QSAE__SPLICE_ZERO,
    QSAE__SPLICE_MEAN,           /* of the logical batch */
    QSAE__SPLICES
};

/* Metrics of one (participant, SAE). */
struct audit_features {
    qsae_metric *reconstruction;
    qsae_metric *drift;          /* NULL for the reference */
    qsae_metric *survival;       /* NULL for the reference, unless contexts are kept: then it is
                                  * compared with itself */
    qsae_metric *splice[QSAE__SPLICES]; /* divergences from the same model left alone, or NULL */
};

#define QSAE__MATCH_STEPS 6

/* prune:match=: a sparsity searched for, methods.md 3.3. */
struct audit_match {
    qsae__condition request;
    bool done;
    double target;               /* perplexity */
    int64_t tokens;              /* the search looked at */
    int64_t n_visited;
    struct {
        double sparsity, ppl;
    } visited[QSAE__MATCH_STEPS];
    int64_t chosen;              /* index into visited */
};

/* What a condition of a sweep was made of. */
struct audit_place {
    char *origin;                /* the condition that is swept, canonical */
    int64_t layer;               /* -1: all, or none */
    char module[64];             /* "q_proj", ..., "embed", "head"; "": all of the layer */
};

/* Another checkpoint as a condition. */
struct audit_checkpoint {
    const char *tokenizer;       /* "equal" or "not compared" */
    char note[256];              /* where tokenizers that give the same ids differ, or "" */
    json_t *differences;         /* array of {field, reference, condition} */
    char *reason;                /* why it has no SAE figures, or NULL */
    char *no_kl;                 /* why it has no divergence, or NULL */
};

struct audit_slices;
struct slice_metrics;
struct audit_llama;

/* The reference (index 0) or a condition. */
struct participant {
    char *label;                 /* canonical condition, or the path of a checkpoint */
    qsae_weights *weights;       /* NULL: the reference's */
    qsae_model *model;           /* NULL: its sparsity is yet to be found */
    qsae_model_cost cost;
    struct audit_checkpoint *checkpoint; /* or NULL */
    struct audit_match *match;   /* or NULL */
    struct audit_place *place;   /* in a sweep, or NULL */
    qsae_metric *cross_entropy;
    qsae_metric *divergence;     /* NULL for the reference */
    qsae_metric *llama;          /* llama.cpp's comparison, or NULL */
    struct audit_features *saes; /* [n_saes] */
    struct slice_metrics *slices; /* [slices], or NULL */
    int64_t width;               /* of its residual stream */
    int64_t start;               /* first layer it computes itself: below, the reference's rows */
    int64_t next_chunk;          /* first chunk its metrics have not seen */
    qsae__outliers *outliers;    /* [linears] up to next_chunk */
    int64_t n_outliers;
    double seconds;              /* of its forward passes, SAEs and its share of the head */
    double splice_seconds;       /* of its passes with SAEs spliced in */
    uint64_t peak_rss;
    enum qsae__control control;  /* what its condition is; NONE: no control */
};

/* Chunks from..to - 1. */
struct audit_range {
    int64_t from, to;
};

struct qsae_audit {
    qsae__handle base;
    qsae_context *ctx;
    const struct qsae__profile *profile;
    qsae_tokenizer *tokenizer;
    json_t *selection;            /* what of the text is read, as the result says it */
    qsae_corpus *corpus;
    qsae_corpus_info corpus_info;
    struct participant *participants; /* [n_participants] */
    int64_t n_participants;
    struct audit_sae *saes;      /* [n_saes] */
    int64_t n_saes;
    struct audit_layers *sets;   /* [n_sets] */
    int64_t n_sets;
    int64_t batch;               /* chunks per logical batch */
    int32_t compute, attention, sweep;
    int64_t top;                 /* contexts kept of each feature; 0 = none */
    struct audit_slices *slices; /* parts of the tokens with figures of their own, or NULL */
    struct audit_llama *llama;   /* llama.cpp's files and comparison, or NULL */
    char *exclude_tokens;        /* as given, or NULL */
    int32_t *excluded;           /* [n_excluded] ids ascending */
    int64_t n_excluded;
    int64_t overlap_k;           /* of topk_overlap */
    int64_t seed;                /* of intervals */
    bool exclude_special;
    bool splice;                 /* models run with each SAE spliced in, too */
    const char *process;         /* settings'; NULL once opened */
    int32_t memory;              /* QSAE_MEMORY_*; DEFAULT until it is decided */
    int64_t stream_bytes;        /* 0 = stream.c's */
    char *state_path;
    char fingerprint[QSAE__HASH_SIZE];
    qsae_progress_callback progress;
    void *progress_cookie;
    qsae_cancel_token *cancel;
    /* progress of the run */
    int64_t next_chunk;
    int64_t tokens_done;
    bool half;                   /* an update failed (memory): some metrics of a participant have
                                    the batch of next_chunk, others not; the next run gives it to
                                    those. Until then there is no state and no result */
    json_t *snapshots;           /* array, made for the result */
    double seconds;
    struct pass *pass;           /* buffers, opened on the first run */
    char *json;                  /* last result document */
    struct audit_probes *probes; /* asked after the text, or NULL */
    char *plan_json;             /* last plan made of a sweep */
    json_t *plan;                /* of the settings: goes into the result, or NULL */
    struct audit_contexts *contexts; /* lengths at which the same tokens are measured, or NULL */
    struct audit_length *length; /* this audit is one of another's lengths: which; else NULL */
    json_t *identity;            /* what the fingerprint is of, by name */
    struct audit_range *covered; /* [n_covered] chunks measured, ascending, apart */
    int64_t n_covered, covered_capacity;
    int64_t from_chunk, to_chunk; /* of this run: a shard's, or all */
    int64_t end_chunk;           /* of the gap that next_chunk is in; equal: nothing is left */
    char *measured_with;         /* lines: the arithmetic of all processes */
    char *cache;                 /* folder for large temporary files, or NULL */
};

/* Status of an update of a metric: one that has the tokens since a failure half-way is fine. */
static inline int32_t qsae__batch_added(const qsae_audit *a, int32_t status)
{
    return a->half && status == QSAE_EMISMATCH ? QSAE_OK : status;
}

/* QSAE_ESTATE while a batch is half measured. */
int32_t qsae__whole(const qsae_audit *a);

/* plan.c: fills an audit from settings. */
int32_t qsae__plan_open(qsae_audit *a, const qsae_audit_settings *s);

/* places.c: opens the SAEs where they belong. */
int32_t qsae__places_open(qsae_audit *a, const char *const *saes, int64_t n);
void qsae__places_close(qsae_audit *a);
/* What a place has beside layer and site of what it reconstructs, into the fingerprint. */
void qsae__places_hash(const struct audit_sae *s, qsae__hasher *h);
/* The same into an entry of the result. */
void qsae__places_json(const struct audit_sae *s, json_t *o);

/* Warns of SAEs that explain nothing of the first batch: a wrong place, or another model. */
void qsae__plan_check_saes(qsae_audit *a);

/* participants.c: opens the reference and the conditions, a sweep's one by one. */
int32_t qsae__participants_open(qsae_audit *a, const qsae_audit_settings *s);
void qsae__participants_close(qsae_audit *a);
/* Makes the model of a condition on the reference's checkpoint, its cost and label. */
int32_t qsae__participant_model(qsae_audit *a, struct participant *p, const char *condition);
/* Whether the models there are go resident, which loads them, or stay streamed. */
int32_t qsae__participants_settle(qsae_audit *a, int32_t memory);
/* Whether it has SAE figures. */
bool qsae__participant_features(const struct participant *p);

/* checkpoint.c: what makes two checkpoints comparable, and where they differ. */
int32_t qsae__checkpoint_open(qsae_audit *a, struct participant *p);
/* Drops its SAE figures where a site of an SAE is not as wide as in the reference. */
int32_t qsae__checkpoint_sites(qsae_audit *a, struct participant *p);
void qsae__checkpoint_close(qsae_audit *a, struct audit_checkpoint **checkpoint);

/* sweep.c: conditions to open, those of a sweep with their place. */
struct audit_list {
    struct {
        char *condition;
        struct audit_place *place;
    } *items;
    int64_t n, capacity;
};

/* Appends a condition as it is, or all that it becomes in a sweep. */
int32_t qsae__list_add(qsae_audit *a, const char *condition, struct audit_list *list);
int32_t qsae__list_sweep(qsae_audit *a, const char *condition, struct audit_list *list);
void qsae__list_free(qsae_audit *a, struct audit_list *list);
void qsae__place_free(qsae_audit *a, struct audit_place *place);
/* The result's block; null without a sweep. */
json_t *qsae__sweep_json(qsae_audit *a);

/* match.c: finds the sparsities that are yet to be found and opens their models. */
int32_t qsae__match_run(qsae_audit *a);
int32_t qsae__match_open(qsae_audit *a, struct participant *p);
json_t *qsae__match_json(const struct participant *p);

/* batch.c: a logical batch of chunks. */
struct audit_batch {
    int64_t rows_max;            /* rows the arrays hold */
    int32_t *ids, *labels, *position;
    int64_t *document;
    uint8_t *mask, *mask_features;
    int64_t rows, n_seq, n_tokens, first_token;
    const float *entropy;        /* [rows] of the reference's predictions; NULL: not known yet */
};

/* Reads which tokens features do not count. */
int32_t qsae__batch_exclude(qsae_audit *a, const char *tokens);
int32_t qsae__batch_open(qsae_audit *a, struct audit_batch *b);
void qsae__batch_close(qsae_audit *a, struct audit_batch *b);
/* Gathers the batch that begins at a chunk. */
int32_t qsae__batch_gather(qsae_audit *a, int64_t chunk, struct audit_batch *b);
qsae_positions qsae__batch_positions(const struct audit_batch *b, const uint8_t *mask);

/* pass.c: measures the next logical batch of all participants. */
int32_t qsae__pass_open(qsae_audit *a);
void qsae__pass_close(qsae_audit *a);
int32_t qsae__pass_batch(qsae_audit *a);
/* stream.c: batches that a slab of the run holds, `floats` each; at most all there are. */
int64_t qsae__stream_fit(const qsae_audit *a, int64_t floats);

/* survival.c: adds what survival depends on; what conditions damage in common, null where they are
 * too many. */
int32_t qsae__survival_json(qsae_audit *a, struct participant *p, int64_t sae, json_t *to);
int32_t qsae__overlaps_json(qsae_audit *a, json_t **out);
/* Features that two conditions, with r of a [features] and of b, have in common below a limit. */
json_t *qsae__overlap_json(const double *a, const double *b, int64_t features, double limit,
                           bool inclusive);
/* x [QSAE__INPUTS_MOST] of the survival predictor: -ln rate, ln mean, ln max, ln (max / mean);
 * arguments floored at 1e-8, the ratio at 1. Index of an input by its name, -1: there is none. */
void qsae__survival_inputs(double rate, double mean, double max, double *x);
int qsae__survival_input(const char *name);

/* feature_metrics.c: what a condition did to features beyond r; null where there are no figures. */
int32_t qsae__feature_metrics_json(qsae_audit *a, struct participant *p, int64_t sae, json_t **out);
/* qsae_sae_features of the features that an SAE of an audit has; NaN where they have none: no
 * decoder row of their own in a layer of a cross-layer transcoder, no cosine in a transcoder of two
 * widths. */
int32_t qsae__sae_figures(const struct audit_sae *s, const char *name, double *values);
/* |W_dec,j| of an SAE's features, which the audit keeps. */
int32_t qsae__decoder_norms(qsae_audit *a, int64_t sae, const double **out);

/* controls.c: appends the controls of the conditions in a list, null, floor and shuffle. */
int32_t qsae__controls_add(qsae_audit *a, struct audit_list *list);
/* Adds to the entries of the conditions what the controls say; list: [n_participants - 1]. */
int32_t qsae__controls_json(qsae_audit *a, json_t *list);

/* mixed_json.c: reads a plan of the settings (NULL: none); the result's block with what was
 * measured of it, null without one. list: the entries of the conditions. */
int32_t qsae__plan_read(qsae_audit *a, const char *text);
int32_t qsae__mixed_json(qsae_audit *a, const json_t *list, json_t **out);

/* splice.c: predictions with an SAE spliced in, or its input ablated. */
struct audit_splice;

/* Rows at the place that an SAE reconstructs, x [rows, width] with row stride ld, and their
 * reconstructions y [rows, width]. Of layers that belong together an array, one of each. */
struct splice_rows {
    const float *x, *y;
    const float *entry;          /* the residual stream before its layer, of the first; NULL: not
                                  * needed, or the place is in the embedding */
    int64_t width;               /* of what the SAE reconstructs */
    int64_t ld;
};

/* Room for `members` participants at once, batches of `rows`; width: of the residual stream,
 * widest: of the SAEs. */
int32_t qsae__splice_open(qsae_audit *a, int64_t members, int64_t rows, int64_t width,
                          int64_t widest, struct audit_splice **out);
void qsae__splice_close(qsae_audit *a, struct audit_splice **splice);
/* Runs participant `member` of a group on from SAE `sae`, with all layers it belongs to (in: one of
 * each); final: its own final rows. Changes the slab's rows, and no metric. */
int32_t qsae__splice_run(qsae_audit *a, struct audit_splice *s, struct participant *who,
                         int64_t member, int64_t sae, const struct audit_batch *b,
                         const struct splice_rows *in, const float *final, qsae__slab *slab);
/* Adds that to its metrics; nll, top: of the model left alone. */
int32_t qsae__splice_update(qsae_audit *a, const struct audit_splice *s, struct participant *who,
                            int64_t member, int64_t sae, const struct audit_batch *b,
                            const float *nll, const int32_t *top);
/* The result's object; null without splices. */
int32_t qsae__splice_json(const struct audit_features *f, json_t **out);

/* layers.c: layers that belong together. Whether SAE i is of none, or stands for its set. */
bool qsae__stands_alone(const qsae_audit *a, int64_t i);
/* First layer of the places of SAE i's set; embedded: one of them is in the embedding. */
int64_t qsae__layers_first(const qsae_audit *a, int64_t i, bool *embedded);
/* NaN in rows y [rows, d] where x [rows, width], row stride ldx, has NaN or infinity. */
void qsae__undefined_rows(int64_t rows, const float *x, int64_t width, int64_t ldx, float *y,
                          int64_t d);
/* Layers at work inside a pass, whose rows are changed by what they write (NULL: their outputs are
 * given). */
struct audit_live;
int32_t qsae__live_open(qsae_audit *a, int64_t rows, struct audit_live **out);
void qsae__live_close(qsae_audit *a, struct audit_live **live);
bool qsae__live_runs(const struct audit_layers *set); /* false for NULL */
void qsae__live_begin(struct audit_live *l); /* of a pass */
/* Takes the rows that member k of a set reads; [rows] with row stride ld. */
int32_t qsae__live_read(struct audit_live *l, const struct audit_layers *set, int64_t k,
                        const float *x, int64_t rows, int64_t ld);
/* What the set gives at member k's output: y [rows, width_out], the live's own. */
int32_t qsae__live_write(struct audit_live *l, const struct audit_layers *set, int64_t k,
                         int64_t rows, const float **y);
/* The result's object of a set on a participant. */
int32_t qsae__layers_json(const qsae_audit *a, const struct participant *p,
                          const struct audit_layers *set, json_t **out);

/* result.c: a new reference to the document, or to one snapshot of it. */
int32_t qsae__result_document(qsae_audit *a, json_t **out);
int32_t qsae__result_snapshot(qsae_audit *a, int64_t budget, int64_t chunks, int64_t tokens,
                              json_t **out);

/* entry.c: the object of the reference or a condition; its SAEs' name, layer and site. */
int32_t qsae__entry_json(qsae_audit *a, struct participant *p, json_t **out);
json_t *qsae__sae_head(const struct audit_sae *s);
json_t *qsae__noise_head(qsae_metric *drift);
void qsae__set_verdict(json_t *object, double low, double high);
/* A number, null for NaN and infinity. */
json_t *qsae__number(double v);
json_t *qsae__interval_json(double low, double high); /* [low, high] */
/* A result by name, NaN if there is none; as it stands in the document, null if there is none. */
double qsae__value(qsae_metric *m, const char *name);
json_t *qsae__named(qsae_metric *m, const char *name);

/* state.c */
int32_t qsae__state_save(qsae_audit *a);
int32_t qsae__state_load(qsae_audit *a);

/* coverage.c: chunks from next_chunk to `to` are measured; goes on to the next gap if that was the
 * last of this one. */
int32_t qsae__cover(qsae_audit *a, int64_t to);
/* Tokens measured in chunks from..to - 1. */
int64_t qsae__covered_tokens(const qsae_audit *a, int64_t from, int64_t to);
/* Labels measured, by a participant if it is not NULL, and the bytes and words of their text;
 * false: not known. */
bool qsae__covered_scored(const qsae_audit *a, const struct participant *p, int64_t *tokens,
                          int64_t *bytes, int64_t *words);
/* [[from, to], ...]: chunks not measured. */
json_t *qsae__gaps_json(const qsae_audit *a);
/* Lets a metric tell its sums at the budgets; NULL is fine. Makes the snapshots reached so far. */
int32_t qsae__snapshots_cut(const qsae_audit *a, qsae_metric *m);
int32_t qsae__snapshots_take(qsae_audit *a);

double qsae__now(void);
uint64_t qsae__resident_bytes(void);

#endif
