/* SPDX-License-Identifier: BSD-2-Clause */
/* quantization_config of compressed-tensors checkpoints, read. */
#ifndef QSAE_CODECS_COMPRESSED_H
#define QSAE_CODECS_COMPRESSED_H

#include "formats/formats.h"

enum qsae__ct_format {
    QSAE__CT_PACKED,  /* pack-quantized: integers as a stream of bits in i32 words */
    QSAE__CT_PLAIN,   /* int-, float-, naive-quantized: i8 or e4m3 elements */
    QSAE__CT_NVFP4,
    QSAE__CT_MXFP4,
    QSAE__CT_MXFP8
};

enum qsae__ct_strategy {
    QSAE__CT_TENSOR,
    QSAE__CT_CHANNEL,
    QSAE__CT_GROUP,
    QSAE__CT_BLOCK,
    QSAE__CT_TOKEN,
    QSAE__CT_TENSOR_GROUP
};

/* QuantizationArgs */
typedef struct qsae__ct_args {
    int64_t bits;
    bool is_float, symmetric;
    enum qsae__ct_strategy strategy;
    int64_t group;             /* GROUP, TENSOR_GROUP */
    int64_t rows, cols;        /* BLOCK */
    enum { QSAE__CT_STATIC, QSAE__CT_DYNAMIC, QSAE__CT_LOCAL } dynamic;
    enum { QSAE__CT_ANY, QSAE__CT_U8, QSAE__CT_E4M3 } scales; /* scale_dtype */
} qsae__ct_args;

/* One of config_groups. */
typedef struct qsae__ct_group {
    const char *name;          /* in `config` */
    const json_t *targets;
    enum qsae__ct_format format;
    qsae__ct_args weights, input;
    bool has_input;
} qsae__ct_group;

typedef struct qsae__ct_expression qsae__ct_expression;

typedef struct qsae__ct {
    json_t *config;
    qsae__ct_expression *expressions; /* [n_expressions] of targets and `ignore` */
    int64_t n_expressions, expressions_capacity;
    const json_t *ignore;      /* array or NULL */
    qsae__ct_group *groups;
    int64_t n_groups;
} qsae__ct;

/* params: a qsae__ct, zeroed. */
int32_t qsae__ct_read(qsae_context *ctx, const json_t *config, const char *where, void *params);
void qsae__ct_close(qsae_context *ctx, void *params);

/* The group that a linear layer or embedding belongs to, *out NULL if none: by name, by regular
 * expression, by class, as apply_quantization_config chooses it. QSAE_ENOMEM,
 * QSAE_EUNSUPPORTED (an expression that takes too many steps). */
int32_t qsae__ct_find(const qsae__ct *ct, const char *module, const qsae__ct_group **out);

#endif
