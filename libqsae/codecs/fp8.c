/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fine-grained FP8 checkpoints (DeepSeek-V3, arXiv 2412.19437 3.3; transformers' method "fp8"):
 * weight [n_out, n_in] e4m3, one scale per block of rows and columns in weight_scale_inv
 * [ceil(n_out / rows), ceil(n_in / columns)], f32 or powers of two (ue8m0), or one for the matrix.
 * Decoding is transformers' Fp8Dequantize: the f32 product, rounded once. Activations are left as
 * they are, as where transformers finds no GPU; doc/codec-checkpoints.md says what that means.
 */
#include <math.h>
#include <string.h>

#include "codecs/grid.h"
#include "codecs/store_json.h"
#include "codecs/stored.h"

struct params {
    int64_t rows, cols; /* of a block; 0: one scale */
};

static int32_t one_of(const json_t *config, const char *where, const char *key, const char *a,
                      const char *b)
{
    const char *v = a;
    const int32_t st = qsae__json_str(config, where, key, false, &v, NULL);
    if (st == QSAE_OK && strcmp(v, a) != 0 && strcmp(v, b) != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"%s\": \"%s\"; supported: %s, %s", where,
                          key, v, a, b);
    return st;
}

static int32_t read_block(const json_t *config, const char *where, struct params *p)
{
    const json_t *const given = json_object_get(config, "weight_block_size");
    const json_t *block;
    p->rows = p->cols = 128;
    if (json_is_null(given)) {
        p->rows = p->cols = 0;
        return QSAE_OK;
    }
    const int32_t st = qsae__json_get(config, where, "weight_block_size", false, JSON_ARRAY,
                                      &block);
    if (st != QSAE_OK || !block)
        return st;
    const json_t *const rows = json_array_get(block, 0), *const cols = json_array_get(block, 1);
    if (json_array_size(block) != 2 || !json_is_integer(rows) || !json_is_integer(cols) ||
        json_integer_value(rows) < 1 || json_integer_value(rows) > INT32_MAX ||
        json_integer_value(cols) < 1 || json_integer_value(cols) > INT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"weight_block_size\": expected two positive "
                          "integers", where);
    p->rows = json_integer_value(rows);
    p->cols = json_integer_value(cols);
    return QSAE_OK;
}

static int32_t read_config(qsae_context *ctx, const json_t *config, const char *where,
                           void *params)
{
    int32_t st = read_block(config, where, params);
    (void)ctx;
    if (st == QSAE_OK)
        st = one_of(config, where, "activation_scheme", "dynamic", "static");
    if (st == QSAE_OK)
        st = one_of(config, where, "fmt", "e4m3", "float8_e4m3fn");
    if (st == QSAE_OK)
        st = one_of(config, where, "scale_fmt", "float", "ue8m0");
    return st;
}

/* Powers of two, as bytes: exponents with bias 127. The E8M0 type has a NaN, bytes do not. */
static int32_t read_powers(qsae_qmatrix *q, const qsae__tensor *t)
{
    const uint8_t *const e = t->data;
    const int64_t n = (int64_t)t->bytes;
    q->scale = qsae__alloc_array(q->ctx, n, sizeof *q->scale);
    if (!q->scale)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        q->scale[i] = t->dtype == QSAE_F8_E8M0 && e[i] == 255 ? NAN : ldexpf(1, e[i] - 127);
    return QSAE_OK;
}

static int32_t fill(qsae_qmatrix *q, const void *params, const char *module)
{
    const struct params *const p = params;
    const uint32_t dtypes = 1u << QSAE_F32 | 1u << QSAE_BF16 | 1u << QSAE_F16 | 1u << QSAE_U8 |
                            1u << QSAE_F8_E8M0;
    qsae__grid *const g = q->state;
    const qsae__tensor *weight, *scale;
    g->row_step = p->rows ? p->rows : q->n_out;
    g->col_step = p->cols ? p->cols : q->n_in;
    q->scale_rows = qsae__ceil_div(q->n_out, g->row_step);
    q->scale_cols = qsae__ceil_div(q->n_in, g->col_step);
    int32_t st = qsae__grid_part(q, module, "weight", 1u << QSAE_F8_E4M3, 2, q->n_out, q->n_in,
                                 &weight);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "weight_scale_inv", dtypes, p->rows ? 2 : 0, q->scale_rows,
                             q->scale_cols, &scale);
    if (st != QSAE_OK)
        return st;
    g->bits = 8;
    g->scale_dtype = g->product_dtype = QSAE_F32;
    qsae__grid_borrow(q, weight, q->n_in);
    if (scale->dtype == QSAE_U8 || scale->dtype == QSAE_F8_E8M0)
        return read_powers(q, scale);
    return qsae__grid_scales(q, scale, false);
}

static int32_t open_module(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                           const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    return qsae__grid_open(ctx, tensors, module, "weight_scale_inv", n_out, n_in, fill, params,
                           out);
}

const qsae__store qsae__store_fp8 = { "fp8", sizeof(struct params), read_config, NULL,
                                      open_module };
