/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_FAMILY_H
#define QSAE_MODEL_FAMILY_H

#include "model/config.h"

struct qsae__run;

/* Norms a block may have, in the order of the block. */
enum {
    QSAE__NORM_ATTN_IN,
    QSAE__NORM_Q,
    QSAE__NORM_K,
    QSAE__NORM_ATTN_OUT,
    QSAE__NORM_MLP_IN,
    QSAE__NORM_MLP_OUT,
    QSAE__NORM_COUNT
};

enum qsae__norm_kind {
    QSAE__NORM_LLAMA, /* w * rb(x r) */
    QSAE__NORM_GEMMA  /* (x r) (1 + w), one rounding */
};

/* An architecture: what a new one must say. One row per model_type in family.c. */
typedef struct qsae__family {
    const char *model_type; /* in config.json */
    const char *text_key;   /* object of config.json with the text model's keys; NULL = top level */
    const char *text_type;  /* model_type inside that object */
    const char *name;       /* of the architecture: what the fingerprint of the weights says */
    const char *norms[QSAE__NORM_COUNT]; /* tensor names within a layer, NULL = no such norm */
    enum qsae__norm_kind norm;
    bool scale_embedding;   /* x_0 = E sqrt(width) */
    bool eager;             /* attention where none is asked for; else sdpa */
    bool any_width;         /* hidden_size need not be a multiple of the number of heads */
    /* Fills *c from defaults and keys; text: object with the model's keys, top: whole file. */
    int32_t (*read)(qsae_context *ctx, const json_t *top, const json_t *text, const char *where,
                    qsae__config *c);
    /* x of the slab = block(x) */
    int32_t (*block)(const struct qsae__run *run, int64_t layer);
} qsae__family;

extern const qsae__family qsae__family_llama, qsae__family_gemma3_text, qsae__family_gemma3;
extern const qsae__family qsae__family_gemma2;
extern const qsae__family qsae__family_qwen3, qsae__family_mistral;

/* Family of a model_type, or NULL. */
const qsae__family *qsae__family_find(const char *model_type);
/* Supported names for messages, "llama, ..." */
const char *qsae__family_names(void);

#endif
