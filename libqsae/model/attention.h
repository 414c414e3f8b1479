/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_ATTENTION_H
#define QSAE_MODEL_ATTENTION_H

#include "kernels/kernels.h"

/* Causal attention of n_seq sequences, each with positions 0..n_tokens-1. */
typedef struct qsae__attention {
    const float *q;      /* [n_seq * n_tokens, heads * head_dim], rotated */
    const float *k, *v;  /* [n_seq * n_tokens, kv_heads * head_dim] */
    float *z;            /* [n_seq * n_tokens, heads * head_dim] */
    int64_t n_seq, n_tokens;
    int64_t heads, kv_heads, head_dim;
    int64_t window;      /* keys seen, the token itself included; 0 = all */
    float scale;
    int32_t mode;        /* QSAE_ATTN_EAGER, _SDPA, _FP32 */
    int32_t bf16;
    float *worker;       /* [threads, worker_floats] */
    int64_t worker_floats;
} qsae__attention;

/* Floats one worker needs; sizes are far from overflow (config.c bounds them). */
int64_t qsae__attention_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t n_tokens,
                               int32_t mode);

int32_t qsae__attention_run(qsae_context *ctx, const qsae__attention *a);

#endif
