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
    QSAE__GATED,     /* g = u + b_gate, m = exp(r_mag) u + b_mag; a = max(m, 0) where g > 0 */
    QSAE__TANH_RELU, /* a = tanh(max(h, 0)) */
    QSAE__ABSTOPK,   /* a = h on the k largest |h|; ties keep the lower index */
    QSAE__GROUPMAX,  /* a = max(h, 0) on the largest h of each of k contiguous groups of features */
    QSAE__PURSUIT    /* W_enc = W_dec^T; greedy, one feature at a time (pursuit.c) */
};

enum qsae__normalize {
    QSAE__NORM_NONE,
    QSAE__NORM_LAYER,    /* z = x - mean; z / (sd + 1e-5), sd with divisor d - 1; state mean, sd */
    QSAE__NORM_CONSTANT, /* x c, c = sqrt(d) / |x|; state c */
    QSAE__NORM_UNSCALED  /* expected_average_only_in whose scale is not known: x as it comes */
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
    bool rescale_by_norm;      /* h_i n_i chooses, a_i / n_i decodes; n_i = |W_dec,i| */
    bool norm_undone;          /* with it: a_i / n_i is returned, and decodes as it is */
    bool keeps_negative;       /* jumprelu without the max: a = h where h > t */
    bool center_input;         /* the SAE expects x - mean(x) */
    int64_t max_iterations;    /* pursuit; 0 = d_in */
    double residual_threshold; /* pursuit: ends below this |e|; <= 0: never */
    bool stop_on_repeat;       /* pursuit: ends when a feature is chosen again */
    int64_t *widths;           /* matryoshka: [n_widths] ascending, d_sae last; or NULL */
    int64_t n_widths;
    bool transcoder;           /* normalisation is not undone on the way out */
    bool skip;                 /* W_skip or affine_skip_connection is expected */
    bool scaling_allowed;      /* finetuning_scaling_factor */
    bool lower_case;           /* Gemma Scope 2 names */
    bool enc_turned;           /* W_enc lies as [d_sae, d_in] */
    bool one_head;             /* rows are the columns of attention head `head` */
    int64_t head;
    bool encode_only;          /* one layer of a cross-layer transcoder: no reconstruction */
    double scale;              /* the s that is folded into the parameters, 0 = none */
    double scale_out;          /* what W_dec and b_dec were divided by for it, 0 = nothing */
    double norm_in, norm_out;  /* average |x| of the training data as the files have it, or 0 */
    char *hook_out;            /* where the reconstruction belongs: transcoders */
    char *model, *neuronpedia; /* as the files have them */
} qsae__sae_config;

/* Reads cfg.json of SAELens. */
int32_t qsae__sae_config_saelens(qsae_context *ctx, const char *path, qsae__sae_config *out);
void qsae__sae_config_free(qsae_context *ctx, qsae__sae_config *c);

/* For readers of other formats. An architecture by name, its activation and what is implied;
 * QSAE_EUNSUPPORTED with where in the message. */
int32_t qsae__sae_set_architecture(qsae_context *ctx, const char *where, const char *name,
                                   qsae__sae_config *c);
int32_t qsae__sae_set_string(qsae_context *ctx, char **slot, const char *value);

/* Where an SAE lies. layer and write are those of a set of transcoders ("#5", "#5:7"). */
typedef struct qsae__sae_place {
    const struct qsae__sae_form *form;
    char *folder;
    char *config;  /* or NULL */
    char *params;  /* a file of parameters */
    int64_t layer; /* -1 = not told */
    int64_t write; /* the layer whose decoder is wanted; -1 = not told */
} qsae__sae_place;

/*
 * A reader: fills config (zeroed before) and *tensors with the parameters under the names of
 * SAELens, W_enc [d_in, d_sae] or, with config->enc_turned, [d_sae, d_in]. It computes no
 * activations. On failure what config holds is freed by the caller.
 */
typedef int32_t qsae__sae_reader(qsae_context *ctx, const qsae__sae_place *place,
                                 const qsae_sae_settings *s, qsae__sae_config *config,
                                 qsae__tensors **tensors);

/* One file layout (sae.md B.2). %d in params stands for a layer. */
typedef struct qsae__sae_form {
    const char *params;
    const char *config;     /* or NULL */
    qsae__sae_reader *read;
    bool config_needed;
    bool layers;            /* one file may hold several: the reader looks at place->layer */
} qsae__sae_form;

qsae__sae_reader qsae__sae_read_saelens, qsae__sae_read_scope1, qsae__sae_read_scope2,
    qsae__sae_read_scope2_layer, qsae__sae_read_llama_scope, qsae__sae_read_openmoss,
    qsae__sae_read_sparsify, qsae__sae_read_dictionary_learning, qsae__sae_read_linear,
    qsae__sae_read_transcoder_set, qsae__sae_read_clt, qsae__sae_read_temporal;

#define QSAE__LAYERS_MOST 1024 /* of one folder */

/* layer: of the settings, or NULL. */
int32_t qsae__sae_find(qsae_context *ctx, const char *path, const char *layer,
                       qsae__sae_place *out);
void qsae__sae_place_free(qsae_context *ctx, qsae__sae_place *p);
/* The layers of a folder that holds several. */
typedef struct qsae__sae_stack {
    const qsae__sae_form *form; /* NULL: it holds none, or one SAE */
    int64_t *ids;               /* [n] their numbers, ascending */
    int64_t n;
    char *params;               /* the file of all of them, or NULL: each has its own */
} qsae__sae_stack;

int32_t qsae__sae_find_layers(qsae_context *ctx, const char *folder, qsae__sae_stack *out);
void qsae__sae_stack_free(qsae_context *ctx, qsae__sae_stack *s);

/* Facts of published releases that their files lack (sae.md B.3), by the names in the path. */
typedef struct qsae__sae_release {
    double scale;           /* 0 = not known */
    bool center_input;
    bool constant_norm;     /* constant_norm_rescale */
} qsae__sae_release;
void qsae__sae_release_of(const char *path, qsae__sae_release *out);

/* name occurs in path as whole components, whatever lies before or behind. */
bool qsae__sae_path_has(const char *path, const char *name);

struct qsae_sae {
    qsae__handle base;
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
    float *norms;               /* [d_sae] |W_dec[i, :]|, with rescale_by_norm */
    const float *gate;          /* norms where encoding multiplies h by them, else NULL */
    float *folded;              /* batchtopk: W_enc times norms, as SAELens saves it; or NULL */
    float *scale;               /* [d_sae] finetuning_scaling_factor, NULL = ones */
    float min_threshold;
    int32_t state_size;
    const void *dec;            /* W_dec [d_sae, d_out] as it is read: of the file or stored */
    int32_t dec_dtype;
    struct qsae__stored *stored; /* matrices kept in memory in fewer bits, or NULL (store.c) */
    struct qsae__screen *screen; /* made by the first call that encodes */
    enum { QSAE__SCREEN_WHERE_FASTER, QSAE__SCREEN_NEVER, QSAE__SCREEN_ALWAYS } screening;
    int64_t screened;           /* rows encoded with it so far */
    enum { QSAE__ORDER_BY_SIZE, QSAE__ORDER_ROWS, QSAE__ORDER_FEATURES } order; /* of encoding */
    int64_t prefix;             /* decode adds features below it only; 0 = all */
    int64_t zero_rows;          /* rows of norm 0 that constant_norm_rescale has met */
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

/* Sets dec, and with QSAE_BF16, QSAE_F16 or QSAE_I8 brings the matrices into memory in it. */
int32_t qsae__sae_store(qsae_sae *sae, int32_t dtype);
/* What qsae_sae_close does with an open one; NULL: nothing. */
void qsae__sae_free(qsae_sae *sae);
void qsae__sae_store_close(qsae_sae *sae);
bool qsae__sae_has_codes(const qsae_sae *sae);
/* W_enc as the encoder multiplies with it. */
qsae__panels qsae__sae_panels(const qsae_sae *sae);
/* Columns j0.. of decoder row f in f32. */
void qsae__sae_decoder_row(const qsae_sae *sae, int64_t f, int64_t j0, int64_t cols, float *row);

/* The same for QSAE__PURSUIT. */
int32_t qsae__pursuit_blocks(qsae_sae *sae, const qsae_rows *x, float *state,
                             qsae__sae_blocks *out);

void qsae__screen_close(qsae_sae *sae);

/* y rows [n, d_out] of sparse rows; y->dtype is f32. */
int32_t qsae__sae_decode(qsae_sae *sae, int64_t n, const int64_t *indptr, const int32_t *indices,
                         const float *values, const float *state, float *y, int64_t ldy);

/* Refuses rows x [n, d_in] and y [n, d_out] that do not fit. */
int32_t qsae__sae_check_rows(const qsae_sae *sae, const qsae_rows *x, const qsae_rows *y);

#endif
