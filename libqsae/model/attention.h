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
    float cap;           /* of the scaled scores, cap tanh(s / cap); 0 = none */
    int32_t mode;        /* QSAE_ATTN_EAGER, _SDPA, _FP32 */
    int32_t bf16;
    float *worker;       /* [threads, worker_floats] */
    int64_t worker_floats;
    float *panels;       /* qsae__attention_panels per sequence, 64-byte aligned: products of bf16
                            values by the packed kernel; NULL: f32 products */
} qsae__attention;

/* Floats one worker needs; sizes are far from overflow (config.c bounds them). */
int64_t qsae__attention_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t n_tokens,
                               int32_t mode);

/* Floats per sequence for packed keys and values; 0 where the f32 product is to serve: at levels
 * without a bf16 kernel, and where not all factors are bf16. False if that overflows. */
bool qsae__attention_panels(const qsae_context *ctx, int64_t kv_heads, int64_t head_dim,
                            int64_t n_tokens, int32_t mode, int32_t bf16, int64_t *floats);

int32_t qsae__attention_run(qsae_context *ctx, const qsae__attention *a);

#endif
