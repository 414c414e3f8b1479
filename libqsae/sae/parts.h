/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_SAE_PARTS_H
#define QSAE_SAE_PARTS_H

#include "formats/formats.h"
#include "kernels/kernels.h"
#include "sae/sae.h"

enum qsae__activation {
    QSAE__RELU,      /* a = max(h, 0) */
    QSAE__JUMPRELU,  /* a = max(h, 0) where h > t, strictly */
    QSAE__TOPK,      /* a = max(h, 0) on the k largest h; ties keep the lower index */
    QSAE__GATED      /* g = u + b_gate, m = exp(r_mag) u + b_mag; a = max(m, 0) where g > 0 */
};

enum qsae__normalize {
    QSAE__NORM_NONE,
    QSAE__NORM_LAYER,    /* z = x - mean; z / (sd + 1e-5), sd with divisor d - 1; state mean, sd */
    QSAE__NORM_CONSTANT  /* x c, c = sqrt(d) / |x|; state c */
};

/* What the configuration files say; sizes are 0 where they are silent. */
typedef struct qsae__sae_config {
    enum qsae__activation activation;
    enum qsae__normalize normalize;
    char *architecture, *format, *hook;
    int64_t d_in, d_out, d_sae;
    int64_t k;
    int64_t context_size;
    int32_t prepend_bos;       /* 1, 0, -1 unknown */
    bool apply_b_dec;          /* beta of sae.md A.1 */
    bool rescale_by_norm;      /* topk: h_i n_i chooses, a_i / n_i decodes */
    bool transcoder;           /* normalisation is not undone on the way out */
    bool skip;                 /* W_skip or affine_skip_connection is expected */
    bool scaling_allowed;      /* finetuning_scaling_factor */
    bool lower_case;           /* Gemma Scope 2 names */
} qsae__sae_config;

/* Reads cfg.json of SAELens, config.json of Gemma Scope 2 (path NULL: there is none); folder is
 * where hook names are taken from when the files are silent. */
int32_t qsae__sae_config_saelens(qsae_context *ctx, const char *path, qsae__sae_config *out);
int32_t qsae__sae_config_scope2(qsae_context *ctx, const char *path, const char *folder,
                                qsae__sae_config *out);
int32_t qsae__sae_config_scope1(qsae_context *ctx, const char *folder, qsae__sae_config *out);
void qsae__sae_config_free(qsae_context *ctx, qsae__sae_config *c);

/* Where an SAE lies: the parameters, and the configuration if there is one. */
enum qsae__sae_format { QSAE__SAELENS, QSAE__SCOPE1, QSAE__SCOPE2 };
typedef struct qsae__sae_place {
    enum qsae__sae_format format;
    char *folder;
    char *config;  /* or NULL */
    char *params;
} qsae__sae_place;

int32_t qsae__sae_find(qsae_context *ctx, const char *path, qsae__sae_place *out);
void qsae__sae_place_free(qsae_context *ctx, qsae__sae_place *p);

struct qsae_sae {
    qsae_context *ctx;
    qsae__tensors *tensors;     /* keeps the mapped weights */
    qsae__sae_config config;
    const qsae_cancel_token *cancel;
    char *path;
    int32_t round;              /* 0, QSAE_BF16, QSAE_F16: dtype the matrices are rounded to */
    qsae__dense enc;            /* W_enc [d_in, d_sae] in the file, read as (n = feature,
                                                                             k = input) */
    const qsae__tensor *w_enc, *w_dec, *w_skip;
    qsae__dense skip;           /* (n = output, k = input) */
    float *b_enc;               /* [d_sae]: b_enc; gated: b_gate */
    float *b_dec;               /* [d_out] */
    float *threshold;           /* [d_sae] jumprelu */
    float *gain, *b_mag;        /* [d_sae] gated: exp(r_mag), b_mag */
    float *norms;               /* [d_sae] |W_dec[i, :]|, topk with rescale_by_norm */
    float *scale;               /* [d_sae] finetuning_scaling_factor, NULL = ones */
    float min_threshold;
    int32_t state_size;
    struct qsae__screen *screen; /* made by the first call that encodes */
    enum { QSAE__SCREEN_WHERE_FASTER, QSAE__SCREEN_NEVER, QSAE__SCREEN_ALWAYS } screening;
    int64_t screened;           /* rows encoded with it so far */
    char hash[QSAE__HASH_SIZE]; /* empty until asked for */
};

/* Encoded rows of one block of a call, row-major. */
typedef struct qsae__sae_block {
    int64_t row0, rows, nnz;
    int64_t *count;             /* [rows] entries per row */
    int32_t *indices;           /* [nnz] */
    float *values;              /* [nnz] */
} qsae__sae_block;

typedef struct qsae__sae_blocks {
    qsae_context *ctx;
    qsae__sae_block *block;
    int64_t n, nnz;
} qsae__sae_blocks;

/* Encodes x [n, d_in] (f32, f16, bf16); state [n, state_size] or NULL. */
int32_t qsae__sae_encode_blocks(qsae_sae *sae, const qsae_rows *x, float *state,
                                qsae__sae_blocks *out);
void qsae__sae_blocks_free(qsae__sae_blocks *b);

void qsae__screen_close(qsae_sae *sae);

/* y rows [n, d_out] of sparse rows; y->dtype is f32. */
int32_t qsae__sae_decode(qsae_sae *sae, int64_t n, const int64_t *indptr, const int32_t *indices,
                         const float *values, const float *state, float *y, int64_t ldy);

/* Refuses rows x [n, d_in] and y [n, d_out] that do not fit. */
int32_t qsae__sae_check_rows(const qsae_sae *sae, const qsae_rows *x, const qsae_rows *y);

#endif
