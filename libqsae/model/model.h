/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * model/: configuration, families, weights, blocks, attention, head, forward pass, taps. Includes
 * codecs/, formats/, kernels/, core/ and itself; never sae/, text/ or metrics/.
 */
#ifndef QSAE_MODEL_MODEL_H
#define QSAE_MODEL_MODEL_H

#include <qsae/model.h>

#include "codecs/codecs.h"

/* Who looks at or changes rows inside the model while a pass runs. Sites of no layer are asked for
 * with layer 0 (EMBED, POS_EMBED) or the last one (FINAL_*). Called on the pass's thread. */
typedef struct qsae__watch {
    void *self;
    bool (*wants)(void *self, int64_t layer, int32_t site);
    /* rows [n, cols] f32, row stride ld, may be changed in place. In bf16 compute the watcher
     * leaves bf16 values, but at the *_NORMALIZED sites. What it returns but 0 ends the pass. */
    int32_t (*rows)(void *self, int64_t layer, int32_t site, float *rows, int64_t n, int64_t cols,
                    int64_t ld);
} qsae__watch;

/*
 * A slab: the rows a pass runs at once, owned by the caller. x is the residual stream
 * [n_seq * n_tokens, width] f32 (holding bf16 values in bf16 compute). Scratch belongs to the slab.
 */
typedef struct qsae__slab {
    qsae_context *ctx;
    int64_t n_seq, n_tokens;
    int64_t width;
    const int32_t *ids;   /* [n_seq, n_tokens], set by the caller before embed */
    float *x;             /* [n_seq * n_tokens, width] */
    void *scratch;        /* sized for one model shape */
    size_t scratch_bytes;
    float *kept;          /* what embed or a layer leaves for later layers beside x, or NULL */
    size_t kept_bytes;
    const qsae__watch *watch; /* or NULL */
    const qsae_cancel_token *cancel; /* looked at between the parts of a block; or NULL */
} qsae__slab;

/* A slab that fits every model of `models` (NULL entries skipped). */
int32_t qsae__slab_open(qsae_context *ctx, qsae_model *const *models, int64_t n_models,
                        int64_t n_seq, int64_t n_tokens, qsae__slab *out);
void qsae__slab_close(qsae__slab *slab);

/*
 * A streamed model holds the weights of the layers that are loaded: encoded or packed by load,
 * given back by drop; qsae__model_step does both itself for a layer that is not. keep loads all for
 * good (the model is resident then); QSAE_ECANCELED, or what progress (unit "tensors") returned,
 * leaves it streamed. All of them do nothing for a resident model. Errors name the tensor.
 */
int32_t qsae__model_load(qsae_model *m, int64_t layer);
void qsae__model_drop(qsae_model *m, int64_t layer);
int32_t qsae__model_keep(qsae_model *m, qsae_progress_callback progress, void *cookie,
                         const qsae_cancel_token *cancel);

/* Bytes that its loaded layers take beside what models of a checkpoint share, about. */
uint64_t qsae__model_held(const qsae_model *m);

/* Whether the two compute layer n with one plain weight each, which streamed models then share
 * while either has it loaded. */
bool qsae__model_shares(const qsae_model *a, const qsae_model *b, int64_t layer);

/* The forward pass as steps: x = embedding; x = block(layer, x); out[rows, width] = final norm of
 * x. */
int32_t qsae__model_embed(qsae_model *m, qsae__slab *slab);
int32_t qsae__model_step(qsae_model *m, int64_t layer, qsae__slab *slab);
int32_t qsae__model_final(qsae_model *m, const qsae__slab *slab, float *out);
/* Rounds rows that are put into a pass to what the model computes in: bf16, or nothing. */
void qsae__model_round(const qsae_model *m, float *x, int64_t n);
/* What a step begins with: shows the rows before a layer. For passes that end there. */
int32_t qsae__model_enter(qsae_model *m, int64_t layer, const qsae__slab *slab);

/* The layer that stands for a site of none: 0, or the last one; else `layer`. */
int32_t qsae__model_site_layer(const qsae_model *m, int32_t site, int32_t layer);
/* Whether rows at a site are f32 in any compute: inside norms. */
bool qsae__site_unrounded(int32_t site);

#define QSAE__OVERLAP_MOST 64 /* as in metrics/parts.h */

/* Head over k participants: vocabulary tiles stream through log-sum-exp, label logit, arg-max and
 * divergence from participant 0. Outputs are [rows] each and may be NULL. */
typedef struct qsae__head_rows {
    qsae_model *model;
    const float *final;   /* [rows, width] from qsae__model_final */
    float *nll;           /* NaN where label < 0 */
    float *kl;            /* KL(p_0 || p_this) in nats; NULL for participant 0 */
    int32_t *top;         /* arg-max, lowest id on ties */
    float *logits;        /* [rows, vocab] or NULL */
    float *entropy;       /* of the distribution, nats */
    float *overlap;       /* share of the overlap_k likeliest tokens that are so in participant 0,
                           * too; of equal logits the lower ids count */
    int64_t overlap_k;    /* 1..QSAE__OVERLAP_MOST where overlap is asked for, the same of all */
} qsae__head_rows;

/* All participants have the same vocabulary size. */
int32_t qsae__head_run(qsae_context *ctx, int64_t rows, const int32_t *labels, int64_t k,
                       const qsae__head_rows *participants, const qsae_cancel_token *cancel);

/* Linear layers of the blocks, by index: module path and what LLM.int8 met there. */
int64_t qsae__model_linears(const qsae_model *m);
void qsae__model_linear_name(const qsae_model *m, int64_t i, char *name, size_t size);
qsae__outliers qsae__model_outliers(const qsae_model *m, int64_t i);
void qsae__model_set_outliers(qsae_model *m, int64_t i, const qsae__outliers *o);

/* Columns of linear layer i. */
int64_t qsae__model_linear_inputs(const qsae_model *m, int64_t i);

/* Calls note for every property in which the other checkpoint differs, but for tensors' values. */
typedef void (*qsae__difference)(void *cookie, const char *field, const char *reference,
                                 const char *other);
void qsae__weights_compare(const qsae_weights *reference, const qsae_weights *other,
                           qsae__difference note, void *cookie);

/* Whether its norms are LayerNorms. */
bool qsae__weights_layer_norm(const qsae_weights *weights);

/* The layer that linear layer i runs in; 0 for what stands before the blocks. */
int64_t qsae__model_linear_layer(const qsae_model *m, int64_t i);

/* Bytes that a slab of that many rows keeps for later layers beside x. */
size_t qsae__model_kept(const qsae_model *m, int64_t rows);

/* Whether a pass can go on at a layer from the rows before it; if not, layers read more than x. */
bool qsae__model_resumes(const qsae_model *m);

/* The first layer whose input differs from what the reference computes there: their layers if only
 * the head differs or nothing. Both are of the same checkpoint, or it is 0. */
int64_t qsae__model_first_changed(const qsae_model *reference, const qsae_model *m);

#endif
