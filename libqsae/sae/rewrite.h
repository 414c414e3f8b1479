/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_SAE_REWRITE_H
#define QSAE_SAE_REWRITE_H

#include "formats/formats.h"

/*
 * Tensors under the names and in the layout of SAELens (W_enc, W_dec [d_sae, d_out], b_enc, ...),
 * made from those of another format: views where the bytes can stay where they are, copies in
 * memory where rows must be turned or factors are folded in.
 */
typedef struct qsae__rewrite {
    qsae_context *ctx;
    qsae__tensors *from;   /* as the files have them */
    qsae__tensors *to;
} qsae__rewrite;

/* The tensors of one file, or of several plain file names in one folder. On failure nothing is
 * left open; else qsae__rewrite_close. */
int32_t qsae__rewrite_open(qsae_context *ctx, const char *path, qsae__rewrite *r);
int32_t qsae__rewrite_open_files(qsae_context *ctx, const char *folder, const char *const *names,
                                 int64_t count, qsae__rewrite *r);
void qsae__rewrite_close(qsae__rewrite *r);

/* The finished set; r is closed whatever is returned. */
int32_t qsae__rewrite_finish(qsae__rewrite *r, qsae__tensors **out);

bool qsae__rewrite_has(const qsae__rewrite *r, const char *source);

/* One of the names, the first that is there; the first if none is. */
const char *qsae__rewrite_either(const qsae__rewrite *r, const char *a, const char *b);

/* A tensor of floats of the file: as qsae__tensors_need, and QSAE_EUNSUPPORTED for other types. */
int32_t qsae__rewrite_need(const qsae__rewrite *r, const char *source, int32_t rank,
                           const int64_t *shape, const qsae__tensor **out);

/* `name` is `source` as it lies. shape as of qsae__tensors_need. */
int32_t qsae__rewrite_same(qsae__rewrite *r, const char *source, const char *name, int32_t rank,
                           const int64_t *shape);

/* `name` [k, n] is `source` [n, k] with rows and columns exchanged, element type kept. */
int32_t qsae__rewrite_turned(qsae__rewrite *r, const char *source, const char *name);

/* `name` is `source` with one axis (0 or 1) reduced to its element `at`; element type kept. */
int32_t qsae__rewrite_slice(qsae__rewrite *r, const char *source, const char *name, int axis,
                            int64_t at);

/* The f32 values of a tensor of `to`, to be changed in place: a copy in memory replaces the view.
 * Element types other than floats are QSAE_EUNSUPPORTED. count may be NULL. */
int32_t qsae__rewrite_f32(qsae__rewrite *r, const char *name, float **values, int64_t *count);

/* A new f32 tensor, all elements `value`. values may be NULL. */
int32_t qsae__rewrite_fill(qsae__rewrite *r, const char *name, int64_t n, float value,
                           float **values);

/* A number held as a tensor of one element: rank 0, or [1]. */
int32_t qsae__rewrite_scalar(const qsae__rewrite *r, const char *source, double *value);

/* An integer from 1 to below 10^9. */
bool qsae__rewrite_is_count(double value);
/* A count held in the same way, in any type, else QSAE_EFORMAT. */
int32_t qsae__rewrite_count(const qsae__rewrite *r, const char *source, int64_t *count);

/* The values of `name`, each times factor, or divided by it, in f32. */
int32_t qsae__rewrite_multiply(qsae__rewrite *r, const char *name, double factor);
int32_t qsae__rewrite_divide(qsae__rewrite *r, const char *name, double factor);

/* sae.md A.4 "fold scale": W_enc *= s, W_dec /= s, b_dec /= s; what an SAE trained on x s computes
 * on x. QSAE_EINVAL unless s is positive and finite. */
int32_t qsae__rewrite_fold_scale(qsae__rewrite *r, double s);

/* |W_dec[i, :]| in f32, [d_sae]; the caller frees. */
int32_t qsae__rewrite_norms(qsae__rewrite *r, float **norms, int64_t *count);

/* sae.md A.4 "fold decoder norm": rows of W_dec get norm 1, W_enc[:, i], b_enc, b_gate, b_mag and
 * threshold are multiplied by it. turned: W_enc lies as [d_sae, d_in]. Nothing where every norm is
 * 1 within 1e-5 and if_needed is set. */
int32_t qsae__rewrite_fold_norms(qsae__rewrite *r, bool turned, bool if_needed);

#endif
