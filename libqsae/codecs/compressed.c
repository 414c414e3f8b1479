/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compressed-tensors checkpoints (llm-compressor): tensors of a module by format
 *   pack-quantized        weight_packed [n_out, words] i32, weight_shape; integers moved up by half
 *                         their range, as a stream of bits along each row
 *   int-, float-quantized weight [n_out, n_in] i8 or e4m3
 *   nvfp4-, mxfp4-pack-.. weight_packed [n_out, n_in / 2] u8, e2m1 pairs, the earlier one low
 *   mxfp8-quantized       weight [n_out, n_in] e4m3
 * with weight_scale, weight_zero_point, weight_global_scale, input_scale, input_zero_point,
 * input_global_scale. Decoding is the compressors' decompress of compressed_tensors 0.20; rows of
 * activations become what its quantized forward makes of them (act.h).
 */
#include "codecs/compressed.h"

#include <math.h>
#include <string.h>

#include "codecs/grid.h"
#include "codecs/stored.h"
#include "kernels/requant.h"

#define FLOATS (1u << QSAE_F32 | 1u << QSAE_BF16 | 1u << QSAE_F16)

static int32_t check_shape(qsae_qmatrix *q, const char *module)
{
    const qsae__tensor *t;
    int64_t shape[2];
    int32_t st = qsae__grid_part(q, module, "weight_shape", 1u << QSAE_I64 | 1u << QSAE_I32, 1, 2,
                                 0, &t);
    if (st != QSAE_OK)
        return st;
    for (int i = 0; i < 2; i++) {
        int32_t narrow;
        if (t->dtype == QSAE_I64)
            memcpy(&shape[i], (const char *)t->data + 8 * i, 8);
        else
            memcpy(&narrow, (const char *)t->data + 4 * i, 4), shape[i] = narrow;
    }
    if (shape[0] != q->n_out || shape[1] != q->n_in)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected %lld x %lld, found %lld x %lld",
                          t->file, t->name, (long long)q->n_out, (long long)q->n_in,
                          (long long)shape[0], (long long)shape[1]);
    return QSAE_OK;
}

/* Shape of the scales, and which elements share one. */
static int32_t plan_scales(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    qsae__grid *const g = q->state;
    g->row_step = w->strategy == QSAE__CT_TENSOR ? q->n_out
                  : w->strategy == QSAE__CT_BLOCK ? w->rows : 1;
    g->col_step = w->strategy == QSAE__CT_TENSOR || w->strategy == QSAE__CT_CHANNEL ? q->n_in
                  : w->strategy == QSAE__CT_BLOCK ? w->cols : w->group;
    q->scale_rows = qsae__ceil_div(q->n_out, g->row_step);
    q->scale_cols = qsae__ceil_div(q->n_in, g->col_step);
    if (w->strategy != QSAE__CT_BLOCK && q->n_in % g->col_step)
        return qsae__fail(QSAE_EMISMATCH, "%s: %lld inputs; expected a multiple of the group size "
                          "%lld", module, (long long)q->n_in, (long long)g->col_step);
    return QSAE_OK;
}

static int32_t read_scales(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    const qsae__tensor *t;
    int32_t st = qsae__grid_part(q, module, "weight_scale", FLOATS,
                                 w->strategy == QSAE__CT_TENSOR ? 0 : 2, q->scale_rows,
                                 q->scale_cols, &t);
    if (st != QSAE_OK)
        return st;
    q->dtype = t->dtype;
    return qsae__grid_scales(q, t, false);
}

/* Packed down the columns: a stream of bits over the outputs. */
static int32_t read_packed_zeros(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    const int32_t bits = (int32_t)w->bits;
    const int64_t cols = q->scale_cols;
    const qsae__tensor *t;
    const int32_t st = qsae__grid_part(q, module, "weight_zero_point", 1u << QSAE_I32, 2,
                                       qsae__grid_words(q->n_out, bits), cols, &t);
    if (st != QSAE_OK)
        return st;
    q->zero = qsae__alloc_array(q->ctx, q->n_out * cols, sizeof *q->zero);
    if (!q->zero)
        return QSAE_ENOMEM;
    for (int64_t o = 0; o < q->n_out; o++)
        for (int64_t i = 0; i < cols; i++)
            q->zero[o * cols + i] = (float)((int32_t)qsae__grid_code((const char *)t->data + i * 4,
                                                                     cols * 4, o, bits) -
                                            (1 << (bits - 1)));
    return QSAE_OK;
}

static int32_t read_zeros(qsae_qmatrix *q, const char *module)
{
    const qsae__tensor *t;
    const int32_t st = qsae__grid_part(q, module, "weight_zero_point", 1u << QSAE_I8, 2,
                                       q->scale_rows, q->scale_cols, &t);
    if (st != QSAE_OK)
        return st;
    q->zero = qsae__alloc_array(q->ctx, q->scale_rows * q->scale_cols, sizeof *q->zero);
    if (!q->zero)
        return QSAE_ENOMEM;
    (void)qsae__to_f32(QSAE_I8, t->data, q->scale_rows * q->scale_cols, q->zero);
    return QSAE_OK;
}

struct unpack {
    const qsae_qmatrix *q;
    const qsae__tensor *t;
    int32_t bits;
};

/* A row of codes that do not divide a word evenly. */
static int32_t unpack_row(void *arg, int64_t row, int32_t worker)
{
    const struct unpack *const u = arg;
    const qsae__grid *const g = u->q->state;
    const char *const words = (const char *)u->t->data + row * u->t->shape[1] * 4;
    uint8_t *const to = (uint8_t *)u->q->codes + row * g->row_bytes;
    (void)worker;
    for (int64_t i = 0; i < u->q->n_in; i++) {
        const uint32_t c = qsae__grid_code(words, 4, i, u->bits);
        if (g->bits == 8)
            to[i] = (uint8_t)c;
        else
            to[i / 2] = (uint8_t)(i % 2 ? to[i / 2] | c : c << 4);
    }
    return QSAE_OK;
}

static int32_t fill_packed(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    qsae__grid *const g = q->state;
    const int32_t bits = (int32_t)w->bits, half = 1 << (bits - 1);
    const int64_t words = qsae__grid_words(q->n_in, bits);
    const qsae__tensor *t;
    int32_t st = qsae__grid_part(q, module, "weight_packed", 1u << QSAE_I32, 2, q->n_out, words,
                                 &t);
    if (st == QSAE_OK)
        st = check_shape(q, module);
    if (st == QSAE_OK)
        st = read_scales(q, w, module);
    if (st == QSAE_OK && !w->symmetric)
        st = read_packed_zeros(q, w, module);
    if (st != QSAE_OK)
        return st;
    g->bits = bits <= 4 ? 4 : 8;
    g->integers = g->bits == 8;
    g->bias = g->integers ? (float)half : 0;
    if (bits == 4 || bits == 8) {
        qsae__grid_borrow(q, t, words * 4);
        qsae__grid_integers4(g, half);
        return QSAE_OK;
    }
    st = qsae__grid_alloc(q);
    qsae__grid_integers4(g, half);
    struct unpack u = { q, t, bits };
    return st == QSAE_OK ? qsae__parallel(q->ctx, q->n_out, unpack_row, &u) : st;
}

static int32_t fill_plain(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    qsae__grid *const g = q->state;
    const qsae__tensor *t;
    int32_t st = qsae__grid_part(q, module, "weight",
                                 1u << (w->is_float ? QSAE_F8_E4M3 : QSAE_I8), 2, q->n_out,
                                 q->n_in, &t);
    if (st == QSAE_OK)
        st = read_scales(q, w, module);
    if (st == QSAE_OK && !w->symmetric)
        st = read_zeros(q, module);
    if (st != QSAE_OK)
        return st;
    g->bits = 8;
    g->integers = g->is_signed = !w->is_float;
    qsae__grid_borrow(q, t, q->n_in);
    return QSAE_OK;
}

/* The scales are e4m3 / global in f32; the products are rounded to bf16. */
static int32_t fill_nvfp4(qsae_qmatrix *q, const char *module)
{
    qsae__grid *const g = q->state;
    const qsae__tensor *t, *scale, *global;
    float divisor;
    int32_t st = qsae__grid_part(q, module, "weight_packed", 1u << QSAE_U8, 2, q->n_out,
                                 q->n_in / 2, &t);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "weight_scale", 1u << QSAE_F8_E4M3, 2, q->n_out,
                             q->scale_cols, &scale);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "weight_global_scale", 1u << QSAE_F32, 0, 1, 1, &global);
    if (st != QSAE_OK)
        return st;
    memcpy(&divisor, global->data, sizeof divisor);
    q->scale = qsae__alloc_array(q->ctx, q->n_out * q->scale_cols, sizeof *q->scale);
    if (!q->scale)
        return QSAE_ENOMEM;
    qsae__requant_get(q->ctx)->e4m3(scale->data, q->n_out * q->scale_cols, q->scale);
    for (int64_t i = 0; i < q->n_out * q->scale_cols; i++)
        q->scale[i] /= divisor;
    g->bits = 4;
    g->scale_dtype = QSAE_F32;
    g->product_dtype = q->dtype = QSAE_BF16;
    qsae__grid_e2m1(g);
    qsae__grid_borrow(q, t, q->n_in / 2);
    return QSAE_OK;
}

/* The scales are powers of two, all in bf16: 2^128 is infinity. */
static int32_t fill_microscaled(qsae_qmatrix *q, const qsae__ct_args *w, const char *module)
{
    qsae__grid *const g = q->state;
    const bool four = w->bits == 4;
    const qsae__tensor *t, *scale;
    int32_t st = qsae__grid_part(q, module, four ? "weight_packed" : "weight",
                                 1u << (four ? QSAE_U8 : QSAE_F8_E4M3), 2, q->n_out,
                                 four ? q->n_in / 2 : q->n_in, &t);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "weight_scale", 1u << QSAE_U8, 2, q->n_out, q->scale_cols,
                             &scale);
    if (st != QSAE_OK)
        return st;
    q->scale = qsae__alloc_array(q->ctx, q->n_out * q->scale_cols, sizeof *q->scale);
    if (!q->scale)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < q->n_out * q->scale_cols; i++)
        q->scale[i] = ldexpf(1, ((const uint8_t *)scale->data)[i] - 127);
    g->bits = four ? 4 : 8;
    g->scale_dtype = QSAE_F32;
    g->product_dtype = q->dtype = QSAE_BF16;
    if (four)
        qsae__grid_e2m1(g);
    qsae__grid_borrow(q, t, four ? q->n_in / 2 : q->n_in);
    return QSAE_OK;
}

static int32_t read_float(qsae_qmatrix *q, const char *module, const char *name, uint32_t dtypes,
                          float *out)
{
    const qsae__tensor *t;
    const int32_t st = qsae__grid_part(q, module, name, dtypes, 0, 1, 1, &t);
    if (st == QSAE_OK)
        (void)qsae__to_f32(t->dtype, t->data, 1, out);
    return st;
}

static int32_t fill_act(qsae_qmatrix *q, const qsae__ct_args *a, const char *module)
{
    qsae__act *const act = &((qsae__grid *)q->state)->act;
    const bool local = a->strategy == QSAE__CT_TENSOR_GROUP;
    int32_t st = QSAE_OK;
    act->type = !a->is_float ? QSAE__ACT_INT : a->bits == 8 ? QSAE__ACT_FP8 : QSAE__ACT_FP4;
    act->scope = a->strategy == QSAE__CT_TENSOR  ? QSAE__ACT_TENSOR
                 : a->strategy == QSAE__CT_TOKEN ? QSAE__ACT_TOKEN : QSAE__ACT_GROUP;
    act->scales = local ? QSAE__ACT_E4M3
                        : a->scales == QSAE__CT_U8 ? QSAE__ACT_POWER : QSAE__ACT_PLAIN;
    act->bits = (int32_t)a->bits;
    act->symmetric = a->symmetric;
    act->group = a->group;
    if (act->scope == QSAE__ACT_GROUP && q->n_in % act->group)
        return qsae__fail(QSAE_EMISMATCH, "%s: %lld inputs; expected a multiple of the "
                          "activations' group size %lld", module, (long long)q->n_in,
                          (long long)act->group);
    if (act->scope == QSAE__ACT_TENSOR)
        st = read_float(q, module, "input_scale", FLOATS, &act->scale);
    if (st == QSAE_OK && act->scope == QSAE__ACT_TENSOR && !act->symmetric)
        st = read_float(q, module, "input_zero_point", 1u << QSAE_I8, &act->zero);
    if (st == QSAE_OK && local)
        st = read_float(q, module, "input_global_scale", 1u << QSAE_F32, &act->global);
    q->act = act;
    return st;
}

static int32_t fill(qsae_qmatrix *q, const qsae__ct_group *group, const char *module)
{
    const qsae__ct_args *const w = &group->weights;
    int32_t st = plan_scales(q, w, module);
    if (st != QSAE_OK)
        return st;
    switch (group->format) {
    case QSAE__CT_PACKED:
        st = fill_packed(q, w, module);
        break;
    case QSAE__CT_PLAIN:
        st = fill_plain(q, w, module);
        break;
    case QSAE__CT_NVFP4:
        st = fill_nvfp4(q, module);
        break;
    default:
        st = fill_microscaled(q, w, module);
    }
    return st == QSAE_OK && group->has_input ? fill_act(q, &group->input, module) : st;
}

static int32_t open_module(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                           const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    const qsae__ct_group *group;
    *out = NULL;
    int32_t st = qsae__ct_find(params, module, &group);
    if (st != QSAE_OK || !group)
        return st;
    if (!qsae__grid_find(tensors, module, "weight_scale") &&
        !qsae__grid_find(tensors, module, "weight_packed"))
        return QSAE_OK;
    if (qsae__grid_find(tensors, module, "weight_g_idx"))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s.weight_g_idx: actorder \"group\" is not supported",
                          module);
    st = qsae__grid_new(ctx, tensors, n_out, n_in, out);
    if (st == QSAE_OK)
        st = fill(*out, group, module);
    if (st != QSAE_OK)
        qsae__qmatrix_unref(out);
    return st;
}

const qsae__store qsae__store_compressed_tensors = { "compressed-tensors", sizeof(qsae__ct),
                                                     qsae__ct_read, qsae__ct_close, open_module };
