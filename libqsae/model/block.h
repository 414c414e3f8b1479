/* SPDX-License-Identifier: BSD-2-Clause */
/* Parts that the blocks of the families are made of. Buffers are f32 [rows, columns]; in bf16
 * compute they hold bf16 values and every result is rounded where PyTorch rounds it (models.md
 * B.2). */
#ifndef QSAE_MODEL_BLOCK_H
#define QSAE_MODEL_BLOCK_H

#include "model/attention.h"
#include "model/internal.h"

/* Scratch of a pass; everything lies in the slab. */
typedef struct qsae__buffers {
    float *normed;        /* [rows, width] input of attention or MLP */
    float *out;           /* [rows, width] output of attention or MLP */
    float *second;        /* [rows, width] a second one, where both run before they are added */
    float *q;             /* [rows, heads * head_dim] */
    float *k, *v;         /* [rows, kv_heads * head_dim] */
    float *z;             /* [rows, heads * head_dim] output of the heads; before that, of a layer
                           * that is q, k and v together, its rows [rows, 3 * heads * head_dim] */
    float *gate, *up;     /* [rows, mlp_width]; share memory with q, k, v, z; gate is also
                           * [rows, ple_width] */
    float *extra;         /* scratch of the experts */
    float *worker;        /* [threads, worker_floats] for attention and codes of its cache */
    int64_t worker_floats;
    float *panels;        /* packed keys and values for attention, or NULL */
    void *linear;         /* scratch of the linear layers */
} qsae__buffers;

/* One step of one model on one slab. */
typedef struct qsae__run {
    qsae_model *m;
    const qsae__slab *slab;
    const qsae__ops *ops;
    int64_t rows;
    int32_t bf16;
    qsae__buffers b;
} qsae__run;

/* Lays the buffers into the slab's scratch; QSAE_EINVAL if the slab was opened for other models. */
int32_t qsae__run_init(qsae_model *m, const qsae__slab *slab, qsae__run *run);
/* Floats of scratch that a pass of the model needs; QSAE_EOVERFLOW. */
int32_t qsae__run_floats(const qsae_model *m, int64_t n_seq, int64_t n_tokens, int64_t *floats);

/* Calls fn for rows 0..rows-1 from the workers. */
typedef void (*qsae__row_fn)(const void *arg, int64_t row);
int32_t qsae__each_row(const qsae__run *run, int64_t rows, qsae__row_fn fn, const void *arg);

/* gate = act(gate) * up; two roundings. run: a qsae__run. */
void qsae__gate_part(const void *run, float *gate, const float *up, int64_t n);

/* n values at x by the family's norm; y may be x. w NULL: without a weight (QSAE__NORM_PLAIN). */
void qsae__norm_vector(const qsae__run *run, const float *w, const float *x, float *y, int64_t n);
/* y[rows, width] = norm of x by the family's rule. */
int32_t qsae__norm_rows(const qsae__run *run, const float *w, const float *x, float *y);
/* x += a, or x += norm(a) with a post-norm w. */
int32_t qsae__add_rows(const qsae__run *run, const float *w, float *a, float *x);
/* Whether somebody looks at a site; shows rows [run->rows, cols] there if so. QSAE_ECANCELED if the
 * slab's token is set. */
bool qsae__watched(const qsae__run *run, int64_t layer, int32_t site);
int32_t qsae__watch_rows(const qsae__run *run, int64_t layer, int32_t site, float *rows,
                         int64_t cols);
/* qsae__norm_rows with its values before gain and bias at a *_NORMALIZED site; y is not x. */
int32_t qsae__norm_rows_at(const qsae__run *run, int64_t layer, int32_t site, const float *w,
                           const float *x, float *y);
/* qsae__add_rows with what is added (norm(a) with a post-norm) at a site. */
int32_t qsae__add_rows_at(const qsae__run *run, int64_t layer, int32_t site, const float *w,
                          float *a, float *x);
/* run->b.k and .v as the condition's cache codes return them (kv.c). */
int32_t qsae__code_kv(const qsae__run *run, int64_t layer);
/* run->b.out = attention(run->b.normed), mlp(run->b.normed) */
int32_t qsae__attention_part(const qsae__run *run, int64_t layer);
int32_t qsae__mlp_part(const qsae__run *run, int64_t layer);

/* x += attention(norm x); x += mlp(norm x); with the family's post-norms and QK-norms where it has
 * them (Llama, Gemma 3). */
int32_t qsae__block_sequential(const qsae__run *run, int64_t layer);
/* x = (mlp(norm x) + attention(norm x)) + x (GPT-NeoX) */
int32_t qsae__block_parallel(const qsae__run *run, int64_t layer);

#endif
