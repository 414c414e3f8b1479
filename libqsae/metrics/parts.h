/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_METRICS_PARTS_H
#define QSAE_METRICS_PARTS_H

#include <math.h>

#include "kernels/kernels.h"
#include "kernels/sums.h"
#include "metrics/blocks.h"
#include "metrics/metrics.h"
#include "metrics/tails.h"

/* ---- tree.c: sums over token ranges ---- */

/*
 * A sum over the tokens [first, first + tokens): a part of a leaf, a leaf, or a complete subtree of
 * leaves. v is [width] f64; what it means and how two are combined is the kind's affair.
 */
typedef struct qsae__node {
    int64_t first, tokens;
    double *v;
} qsae__node;

typedef void (*qsae__combine_fn)(const qsae_metric *m, double *a, const double *b);

/*
 * Nodes in token order, none overlapping. Parts of a leaf stay apart until they cover it and are
 * then folded left to right; complete siblings are combined at once. So the nodes depend on what
 * was added (and where leaves were cut), never on the order in which it was added.
 *
 * Parts also end at multiples of `cut`, so that it does not matter which process adds what lies
 * between two of them, and at `cuts`, so that the sums before one can be told by processes, too,
 * that have seen nothing before their part.
 *
 * The sums before each of `cuts` can be told later: once all tokens before it are there, their
 * nodes are folded into `whole`, as the tree of them alone would be. Until then nodes that end before a
 * cut and are joined to one that goes beyond it are kept.
 */
typedef struct qsae__tree {
    qsae_context *ctx;
    const qsae_metric *metric;
    qsae__combine_fn combine;
    int64_t leaf;      /* tokens per leaf */
    int64_t width;
    qsae__node *node;
    int64_t n, capacity;
    int64_t cut;               /* 0 = none */
    const int64_t *cuts;       /* [n_cuts] ascending, the metric's */
    int64_t n_cuts;
    double **whole;            /* [n_cuts] sums before a cut; NULL: tokens are missing. Or NULL */
    qsae__node *kept;          /* [n_kept] by first, then tokens */
    int64_t n_kept, kept_capacity;
} qsae__tree;

void qsae__tree_free(qsae__tree *t);
int64_t qsae__tree_end(const qsae__tree *t);      /* after the last token; 0 if empty */
int64_t qsae__tree_tokens(const qsae__tree *t);
bool qsae__tree_overlaps(const qsae__tree *t, int64_t first, int64_t tokens);
int64_t qsae__tree_part(const qsae__tree *t, int64_t first); /* part ending at first, or -1 */
int64_t qsae__tree_bound(const qsae__tree *t, int64_t token); /* where the part of a token ends */
int32_t qsae__tree_reserve(qsae__tree *t, int64_t more);
void qsae__tree_insert(qsae__tree *t, qsae__node node);      /* after reserve; owns node.v */
void qsae__tree_settle(qsae__tree *t, int64_t i);            /* after node i has grown */
int32_t qsae__tree_fold(const qsae__tree *t, double **out);  /* caller frees */
int32_t qsae__tree_add(qsae__tree *t, const qsae__tree *from);

/* prefix.c. Of an empty tree; cuts are the caller's, and may be equal or 0. */
int32_t qsae__prefix_open(qsae__tree *t, const int64_t *cuts, int64_t n);
void qsae__prefix_free(qsae__tree *t);
void qsae__prefix_clear(qsae__tree *t); /* keeps the cuts */
/* Node i is joined to nodes up to `end`. Where memory lacks the sums before a cut stay unknown. */
void qsae__prefix_keep(qsae__tree *t, int64_t i, int64_t end);
void qsae__prefix_settle(qsae__tree *t);
int32_t qsae__prefix_insert(qsae__tree *t, const qsae__node *node); /* a copy of it */
int32_t qsae__prefix_add(qsae__tree *t, const qsae__tree *from);
/* Makes the empty tree t that of what `from` has before its cut k: one node. */
int32_t qsae__prefix_take(qsae__tree *t, const qsae__tree *from, int64_t k);

/* ---- runs.c: sums of a document or batch within one leaf ---- */

#define QSAE__RUN_SUMS 16
typedef struct qsae__run {
    int64_t group;         /* document, or index of the batch */
    int64_t first, tokens;
    double sum[QSAE__RUN_SUMS];
} qsae__run;

/* In token order. A run ends where its group, its leaf or the tokens end, or at a multiple of
 * `cut`, so that folding the runs of a document left to right does not depend on how the text was
 * sharded. */
typedef struct qsae__runs {
    qsae__run *run;
    int64_t n, capacity;
    int64_t cut;           /* 0 = none */
} qsae__runs;

int64_t qsae__runs_count(const qsae__runs *t, int64_t first, int64_t n, const int64_t *group,
                         int64_t batch_rows);
void qsae__runs_token(qsae__runs *t, int64_t token, int64_t group, const double *sum, int64_t k);
void qsae__runs_sort(qsae__runs *t);
/* Sums per group, groups ascending; *groups is [*n, QSAE__RUN_SUMS], the caller frees it. Groups
 * whose sum[0], the number of rows, is 0 are left out. ids (may be NULL) receives the groups. */
int32_t qsae__runs_fold(qsae_context *ctx, const qsae__runs *t, double **groups, int64_t **ids,
                        int64_t *n);

/* A statistic of folded sums. */
typedef double (*qsae__statistic)(const qsae_metric *m, const double *sum);

/* ---- sample.c: values kept per token ---- */

/*
 * Records of `words` 8-byte words, the first being the token index. A token is kept if the low bits
 * of a hash of its index are zero; when the budget is full one more bit is asked for. The kept set
 * depends on the tokens seen alone. (A plain stride of tokens would meet the same chunk positions
 * again and again.)
 */
typedef struct qsae__sample {
    uint64_t *data;
    int64_t words, n, capacity;
    int64_t limit;        /* records the budget holds */
    uint64_t stride;      /* power of two; 1 = every token is kept */
} qsae__sample;

bool qsae__sample_wants(const qsae__sample *s, int64_t token);
int32_t qsae__sample_reserve(qsae_context *ctx, qsae__sample *s, int64_t more);
uint64_t *qsae__sample_push(qsae__sample *s, int64_t token);
void qsae__sample_settle(qsae__sample *s); /* sorts by token, thins to the budget */

/* ---- batches.c: variants defined over batches ---- */

/* A batch that is not complete yet: rows of token, x [d], y [d] in f64, in token order. (Tokens lie
 * below 2^53.) */
typedef struct qsae__open_batch {
    int64_t index, seen;   /* tokens seen, uncounted ones too */
    int64_t n, capacity;
    double *rows;          /* [n, 1 + 2 d] */
} qsae__open_batch;

typedef struct qsae__batches {
    qsae__tree done;       /* leaf = batch_rows; sums of the finished batches */
    qsae__open_batch *open;
    int64_t n, capacity;
} qsae__batches;

enum { B_BATCHES, B_ROWS, B_V5, B_V3, B_V4, B_R, B_S, B_MEAN }; /* B_MEAN: [d] */
void qsae__batches_free(qsae_context *ctx, qsae__batches *b);
int32_t qsae__batches_add(qsae_metric *m, qsae__batches *to, const qsae__batches *from);
void qsae__batches_combine(const qsae_metric *m, double *a, const double *b);
/* Room for an open batch with its rows; NULL when out of memory. `rows` may be 0. */
qsae__open_batch *qsae__batches_open(qsae_metric *m, qsae__batches *b, int64_t index, int64_t rows);
/* Folded sums of all batches, the open ones as they are; the caller frees. */
int32_t qsae__batches_fold(qsae_metric *m, double **out);

/* ---- top.c: the largest activations of each feature ---- */

#define QSAE__TOP_MOST 1024
#define QSAE__OVERLAP_K 10
#define QSAE__OVERLAP_K_MOST 64

typedef struct qsae__top {
    int64_t token;
    float value;          /* 0: none */
    int32_t zero;
} qsae__top;

/* top: [features, 2 sides, m->top] */
void qsae__top_add(const qsae_metric *m, qsae__top *top, int64_t feature, int64_t side, float value,
                   int64_t token);
void qsae__top_merge(const qsae_metric *m, qsae__top *to, const qsae__top *from);
bool qsae__top_valid(const qsae_metric *m, const qsae__top *top, int64_t max_token);

/* ---- agreement.c: two models' sparse rows side by side ---- */

/* Sums per feature over all tokens: x is the reference, y the compressed model. */
enum { QSAE__F_X, QSAE__F_Y, QSAE__F_XX, QSAE__F_YY, QSAE__F_XY, QSAE__F_DD, QSAE__F_SUMS };
/* Sums over tokens: something fires on either side, Jaccard index of the firing sets and common
 * share of the ten largest there; both rows have a norm, cosine of the rows there. */
enum { QSAE__T_EITHER, QSAE__T_JACCARD, QSAE__T_TOP, QSAE__T_BOTH, QSAE__T_COSINE, QSAE__T_SUMS };

/* Adds row t to features [features, QSAE__F_SUMS] and tokens [QSAE__T_SUMS]. */
void qsae__agreement_row(const qsae_sparse_rows *r, const qsae_sparse_rows *q, int64_t t,
                         double *features, double *tokens);
/* Pearson's r of a feature's sums over the n tokens where either side is not 0; NaN where one of
 * them does not vary. */
double qsae__agreement_r_on(const double *sums, double n);
#define QSAE__OVERLAP_TOP 20
/* Share of the 20 largest activations whose tokens both sides have in common; m->top >= 20. */
double qsae__agreement_top(const qsae_metric *m, int64_t feature);

/* ---- metric.c ---- */

typedef struct qsae__state {
    qsae__tree tree;
    qsae__runs docs, groups;   /* groups: runs of batches, cross-entropy only */
    qsae__sample sample;
    uint64_t *counts;          /* [n_counts]: added */
    float *maxima;             /* [n_maxima]: the larger one, 0 at first */
    qsae__batches batches;     /* reconstruction only */
    qsae__top *top;            /* [features, 2, top]: features only, NULL = none */
    qsae__blocks blocks;       /* features only */
    qsae__worst worst;         /* divergence only */
} qsae__state;

typedef struct qsae__result {
    const char *name, *unit, *description;
} qsae__result;

typedef struct qsae__values {
    double *value, *low, *high;
    double *se;                /* by the jackknife over documents */
    bool *interval;            /* it has one, with enough documents */
} qsae__values;

typedef struct qsae__kind {
    const char *name;
    uint32_t number;           /* in state files */
    const qsae__result *results;
    int32_t n_results;
    int32_t doc_sums;          /* of a row; 0 = no documents */
    int32_t row_words;         /* doubles a row hands on: document sums, then for its record */
    bool batch_runs, batches;
    bool worst;                /* keeps the worst tokens */
    int64_t (*width)(const qsae_metric *m);
    int64_t (*record_words)(const qsae_metric *m); /* without the token; NULL = no record */
    int64_t (*n_counts)(const qsae_metric *m);
    int64_t (*n_maxima)(const qsae_metric *m);
    qsae__combine_fn combine;
    int32_t (*compute)(qsae_metric *m, const double *sum, qsae__values *v);
    /* NULL: word by word, none above the rows counted. Else to += from, in any order the same; and
     * whether counts out of a file can be those of so many rows. */
    void (*add_counts)(const qsae_metric *m, uint64_t *to, const uint64_t *from);
    bool (*counts_valid)(const qsae_metric *m, const uint64_t *counts, uint64_t rows);
} qsae__kind;

extern const qsae__kind qsae__kind_cross_entropy, qsae__kind_divergence, qsae__kind_reconstruction,
    qsae__kind_features, qsae__kind_drift, qsae__kind_llama_cpp;
extern const qsae__kind qsae__kind_mass; /* mass.h */

struct qsae_metric {
    qsae__handle base;
    qsae_context *ctx;
    const qsae__kind *kind;
    int64_t d, features, batch_rows;
    int64_t top;               /* largest activations kept of each feature; 0 = none */
    int64_t prompt_tokens;     /* features: 0 = prompts are not counted */
    int64_t documents_per_block; /* features: 0 = no intervals of r */
    int64_t *last_prompt;      /* [features, 2] of the running update, NULL = not counted */
    int64_t overlap_k;         /* divergence */
    uint64_t seed;             /* of intervals */
    uint64_t memory;
    double active_rate;
    char *fingerprint;
    qsae__state state;
    qsae__values values;       /* [n_results] */
    bool fresh;                /* values belong to the state */
    int64_t *cuts;             /* [2, n_cuts] of the tree, of the batches; or NULL */
    int64_t n_cuts;
};

/* What every node begins with. */
enum { S_ROWS, S_NONFINITE, S_EXCLUDED, S_HEAD };

/* What every kind reports. */
#define QSAE__COMMON_RESULTS \
    { "tokens", "tokens", "rows counted" }, \
    { "nonfinite_rows", "tokens", "rows with NaN or infinity, kept out of everything else" }, \
    { "excluded_tokens", "tokens", "rows whose mask says excluded" }, \
    { "gap_tokens", "tokens", "tokens missing between the first and the last one seen" }, \
    { "documents", "documents", "documents with at least one counted row" }

int32_t qsae__metric_open(qsae_context *ctx, const qsae__kind *kind, int64_t d, int64_t features,
                          const qsae_metric_settings *s, qsae_metric **out);
int32_t qsae__metric_check(const qsae_metric *m, const qsae__kind *kind, const char *call);
/* Whether the worst tokens and histograms are kept: not where memory says that nobody asks. */
bool qsae__metric_keeps(const qsae_metric *m);
void qsae__state_free(qsae_metric *m, qsae__state *s);
int32_t qsae__state_init(qsae_metric *m, qsae__state *s);
int32_t qsae__compute(qsae_metric *m);
void qsae__set(const qsae_metric *m, qsae__values *v, const char *name, double value);
double qsae__get(const qsae_metric *m, const qsae__values *v, const char *name);
/* A result has this interval and standard error, NaN with too few documents. */
void qsae__set_bounds(const qsae_metric *m, qsae__values *v, const char *name, double low,
                      double high, double se);
/* A result with an interval over documents, from their sums. */
typedef struct qsae__interval {
    const char *name;
    qsae__statistic of;
    int32_t weight;            /* column that says how much each document counts */
    bool log;                  /* the statistic is the logarithm of the result */
    double scale;              /* the result is this times the statistic; 0 = 1 */
} qsae__interval;
#define QSAE__INTERVALS_MOST 16
/* Intervals of n results over the documents of the state. */
int32_t qsae__document_intervals(qsae_metric *m, qsae__values *v, const qsae__interval *list,
                                 size_t n);
/* The same over given documents: ids ascending, groups [documents, QSAE__RUN_SUMS] of which k
 * columns are used. */
int32_t qsae__set_intervals(qsae_metric *m, qsae__values *v, const qsae__interval *list, size_t n,
                            const int64_t *ids, const double *groups, int64_t documents, int64_t k);
double qsae__ratio(double a, double b); /* a / b; NaN if b is 0 */

/* state.c: of a written state kind, d, features, batch_rows, memory, active_rate (f64), and its
 * fingerprint [print_size], which lies in data. */
int32_t qsae__state_settings(const void *data, size_t size, uint64_t words[6], const char **print,
                             size_t *print_size);

/* ---- update.c: the one way rows come in ---- */

enum qsae__row_state { QSAE__ROW_COUNTED, QSAE__ROW_NONFINITE, QSAE__ROW_UNLABELED,
                       QSAE__ROW_EXCLUDED };

typedef struct qsae__update {
    qsae_metric *m;
    int64_t n, first;
    const int64_t *document;
    const uint8_t *mask;
    const void *rows;          /* the kind's input */
    /* Adds row r to v, unless it is not finite or has no label; fills out[row_words]. */
    enum qsae__row_state (*row)(const struct qsae__update *u, int64_t r, double *v, double *out,
                                double *scratch);
    /* Record of row r, out as row() filled it. */
    void (*record)(const struct qsae__update *u, int64_t r, const double *out, uint64_t *words);
    /* Before anything is changed: reserve; may fail. After: add, cannot fail. */
    int32_t (*prepare)(struct qsae__update *u);
    void (*finish)(struct qsae__update *u);
    void (*cleanup)(struct qsae__update *u);
    void *extra;               /* of prepare, finish, cleanup */
    int64_t scratch_words;     /* f64 per worker */
    uint8_t *state;            /* [n] enum qsae__row_state, after row() */
} qsae__update;

int32_t qsae__update_run(qsae__update *u, const qsae_positions *at);
static inline int32_t qsae__row_class(const qsae__update *u, int64_t r)
{
    return u->mask ? (u->mask[r] / QSAE_MASK_SPECIAL) & 3 : 0; /* bit 0 special, bit 1 first */
}

int32_t qsae__sparse_check(const qsae_sparse_rows *s, qsae_sparse_rows *copy, int64_t n,
                           int64_t features, const char *what);

/* The rows of an update of kind reconstruction, for its batches (prepare, finish, cleanup). */
typedef struct qsae__reconstruction_rows {
    qsae_rows x, y;
    qsae_sparse_rows acts;     /* n = 0 if there are none */
    bool has_acts;
} qsae__reconstruction_rows;
int32_t qsae__batches_prepare(qsae__update *u);
void qsae__batches_finish(qsae__update *u);
void qsae__batches_cleanup(qsae__update *u);

/* ---- rows.c: rows in f64, sums in 8 lanes folded by a fixed tree ---- */

/* Row r in f64; scratch [n_cols] f32 is used for 16-bit types. */
void qsae__row_f64(const qsae__sums_ops *ops, const qsae_rows *rows, int64_t r, double *out,
                   float *scratch);
/* kernels/sums.h in plain C, where there is little to sum. */
double qsae__dot(const double *x, const double *y, int64_t n);
double qsae__sum(const double *x, int64_t n);
double qsae__welford_sum(double *mean, const double *x, double inv_n, int64_t d);
/* Chan: mean (of na rows) becomes that of na + nb rows; returns what the sum of the M2 grows by
 * beyond their sum; m2 (may be NULL) takes in m2b and the growth by dimension. */
double qsae__chan(double na, double *mean, double *m2, double nb, const double *mean_b,
                  const double *m2_b, int64_t d);

#endif
