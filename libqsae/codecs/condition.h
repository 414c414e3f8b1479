/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CODECS_CONDITION_H
#define QSAE_CODECS_CONDITION_H

#include "core/core.h"

enum qsae__codec { QSAE__NONE, QSAE__INT8, QSAE__NF4, QSAE__FP4, QSAE__RTN };
enum qsae__rules { QSAE__RULES_CUDA, QSAE__RULES_TORCH };
enum qsae__axis { QSAE__AXIS_ROW, QSAE__AXIS_COLUMN, QSAE__AXIS_TENSOR, QSAE__AXIS_TL };

/* A parsed condition string (quantizer.h has the grammar). */
typedef struct qsae__condition {
    enum qsae__codec codec;
    enum qsae__rules rules;
    int32_t block;            /* nf4, fp4 */
    int32_t nested;           /* double=1 */
    int32_t compute;          /* nf4, fp4: 0 = the model's, else QSAE_F32, QSAE_BF16, QSAE_F16 */
    float threshold;          /* llm.int8 */
    int32_t bits;             /* rtn */
    enum qsae__axis axis;
    int64_t group;            /* rtn, 0 = none */
    int32_t symmetric;
    int32_t weight_arith;     /* rtn: arithmetic in the weight dtype instead of f32 */
    int32_t weights;          /* none: 0, or QSAE_BF16/QSAE_F16: round every tensor of the model */
    int32_t model_compute;    /* @compute: 0, QSAE_COMPUTE_F32, QSAE_COMPUTE_BF16 */
    int64_t layer_first, layer_last; /* @layers, inclusive; 0 and INT64_MAX = all */
    char *only, *skip;        /* "a|b|c" or NULL */
    char *canonical;          /* full canonical form */
    char *codec_canonical;    /* without selectors */
} qsae__condition;

int32_t qsae__condition_parse(qsae_context *ctx, const char *text, qsae__condition *out);
void qsae__condition_free(qsae_context *ctx, qsae__condition *c);

/* Whether the codec applies to a linear layer: module is the last path part ("q_proj"), group
 * "attn" or "mlp". */
bool qsae__condition_selects(const qsae__condition *c, int64_t layer, const char *module,
                             const char *group);

#endif
