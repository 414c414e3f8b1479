/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GPTQ checkpoints (arXiv 2210.17323) as AutoGPTQ and GPTQModel save them; decoding is GPTQModel's
 * TorchLinear.dequantize_weight: f16(scale * (code - zero)), whatever the model's dtype.
 *   qweight [ceil(n_in * bits / 32), n_out]   i32: codes as a stream of bits down each column
 *   qzeros  [groups, ceil(n_out * bits / 32)] i32: zeros as a stream of bits along each row
 *   scales  [groups, n_out], g_idx [n_in] i32: group of each input
 * Format "gptq" holds zeros less 1.
 */
#include <string.h>

#include "codecs/grid.h"
#include "codecs/stored.h"
#include "codecs/store_json.h"

#define OUTS 16 /* columns of qweight that are transposed together */

struct params {
    int64_t bits, group;  /* group -1: all inputs */
    bool desc_act, less_one;
};

static int32_t read_format(const json_t *config, const char *where, struct params *p)
{
    const char *format = "gptq";
    int32_t given = 0, st = qsae__json_str(config, where, "checkpoint_format", false, &format,
                                           &given);
    if (st == QSAE_OK && !given)
        st = qsae__json_str(config, where, "format", false, &format, NULL);
    if (st != QSAE_OK)
        return st;
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"checkpoint_format\": \"%s\"; supported: "
                          "gptq, gptq_v2", where, format);
    p->less_one = strcmp(format, "gptq") == 0;
    return QSAE_OK;
}

static int32_t read_params(const json_t *config, const char *where, struct params *p)
{
    static const char *const refused[] = { "dynamic", "adapter", "rotation", "is_marlin_format" };
    const char *pack = "int32";
    int32_t st = qsae__json_i64(config, where, "bits", true, 1, 32, &p->bits, NULL);
    p->group = 128;
    if (st == QSAE_OK && p->bits != 2 && p->bits != 3 && p->bits != 4 && p->bits != 8)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"bits\": %lld; supported: 2, 3, 4, 8", where,
                          (long long)p->bits);
    if (st == QSAE_OK)
        st = qsae__json_i64(config, where, "group_size", false, -1, INT32_MAX, &p->group, NULL);
    if (st == QSAE_OK && p->group == 0)
        st = qsae__fail(QSAE_EFORMAT, "%s: key \"group_size\": expected -1 or at least 1, found 0",
                        where);
    if (st == QSAE_OK)
        st = qsae__json_bool(config, where, "desc_act", false, &p->desc_act, NULL);
    if (st == QSAE_OK)
        st = read_format(config, where, p);
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "pack_dtype", false, &pack, NULL);
    if (st == QSAE_OK && strcmp(pack, "int32") != 0)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"pack_dtype\": \"%s\"; supported: int32",
                        where, pack);
    for (size_t i = 0; i < sizeof refused / sizeof *refused && st == QSAE_OK; i++)
        st = qsae__store_unused(config, where, refused[i]);
    return st;
}

static int32_t read_config(qsae_context *ctx, const json_t *config, const char *where,
                           void *params)
{
    (void)ctx;
    return read_params(config, where, params);
}

struct transpose {
    const qsae_qmatrix *q;
    const char *words;   /* [.., n_out] i32 */
    int32_t bits;
};

/* Both halves of each byte exchanged. */
static uint32_t swap_halves(uint32_t w)
{
    return (w & 0x0f0f0f0fu) << 4 | (w >> 4 & 0x0f0f0f0fu);
}

/* Columns of qweight to rows of codes. */
static int32_t transpose_task(void *arg, int64_t task, int32_t worker)
{
    const struct transpose *const t = arg;
    const qsae_qmatrix *const q = t->q;
    const qsae__grid *const g = q->state;
    const int64_t o0 = task * OUTS, o1 = qsae__min_i64(q->n_out, o0 + OUTS), stride = q->n_out * 4;
    uint8_t *const codes = q->codes;
    const int64_t step = t->bits == 4 ? 4 : t->bits == 8 ? 4 : 1;
    (void)worker;
    for (int64_t b = 0; b < g->row_bytes; b += step) {
        const int64_t size = qsae__min_i64(step, g->row_bytes - b);
        for (int64_t o = o0; o < o1; o++) {
            uint8_t *const to = codes + o * g->row_bytes + b;
            const char *const column = t->words + o * 4;
            if (step == 4) {
                uint32_t w;
                memcpy(&w, column + b / 4 * stride, sizeof w);
                w = t->bits == 4 ? swap_halves(w) : w;
                memcpy(to, &w, (size_t)size);
            } else {
                const uint32_t first = qsae__grid_code(column, stride, 2 * b, t->bits);
                const uint32_t next = 2 * b + 1 < q->n_in
                                          ? qsae__grid_code(column, stride, 2 * b + 1, t->bits) : 0;
                *to = (uint8_t)(first << 4 | next);
            }
        }
    }
    return QSAE_OK;
}

/* Zeros [n_out, groups]. Those of "gptq" are moved up as GPTQModel does it: in whole words, so that
 * a field of ones carries into the next, but with 3 bits field by field. */
static int32_t read_zeros(qsae_qmatrix *q, const qsae__tensor *t, const struct params *p,
                          int64_t groups)
{
    const int32_t bits = (int32_t)p->bits;
    const int64_t words = t->shape[1];
    const uint32_t ones = bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
    q->zero = qsae__alloc_array(q->ctx, q->n_out * groups, sizeof *q->zero);
    if (!q->zero)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < groups; i++) {
        const char *const row = (const char *)t->data + i * words * 4;
        for (int64_t o = 0; o < q->n_out; o++) {
            uint32_t v, w;
            if (bits == 3) {
                v = (qsae__grid_code(row, 4, o, 3) + (p->less_one ? 1 : 0)) & 7;
            } else {
                memcpy(&w, row + o * bits / 32 * 4, sizeof w);
                w += p->less_one ? ones : 0;
                v = w >> o * bits % 32 & ((1u << bits) - 1);
            }
            q->zero[o * groups + i] = (float)v;
        }
    }
    return QSAE_OK;
}

/* Groups of the inputs: in order, or by index. */
static int32_t read_groups(qsae_qmatrix *q, const struct params *p, const char *module,
                           int64_t groups)
{
    qsae__grid *const g = q->state;
    const qsae__tensor *t;
    bool in_order = true;
    if (!p->desc_act && !qsae__grid_find(q->file, module, "g_idx"))
        return QSAE_OK;
    const int32_t st = qsae__grid_part(q, module, "g_idx", 1u << QSAE_I32, 1, q->n_in, 0, &t);
    if (st != QSAE_OK)
        return st;
    g->group = qsae__alloc_array(q->ctx, q->n_in, sizeof *g->group);
    if (!g->group)
        return QSAE_ENOMEM;
    memcpy(g->group, t->data, (size_t)q->n_in * sizeof *g->group);
    for (int64_t i = 0; i < q->n_in; i++) {
        if (g->group[i] < 0 || g->group[i] >= groups)
            return qsae__fail(QSAE_EFORMAT, "%s: %s: element %lld: expected 0 to %lld, found %d",
                              t->file, t->name, (long long)i, (long long)groups - 1, g->group[i]);
        in_order = in_order && g->group[i] == i / g->col_step;
    }
    if (in_order) {
        qsae__free(q->ctx, g->group);
        g->group = NULL;
    }
    return QSAE_OK;
}

static int32_t fill(qsae_qmatrix *q, const void *params, const char *module)
{
    const struct params *const p = params;
    qsae__grid *const g = q->state;
    const int32_t bits = (int32_t)p->bits;
    const int64_t step = p->group < 0 ? q->n_in : p->group, groups = qsae__ceil_div(q->n_in, step);
    const qsae__tensor *weight, *zeros, *scales;
    if (bits == 3 && (q->n_in % 32 || q->n_out % 32))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: 3-bit GPTQ of %lld x %lld; supported: multiples "
                          "of 32", module, (long long)q->n_out, (long long)q->n_in);
    int32_t st = qsae__grid_part(q, module, "qweight", 1u << QSAE_I32, 2,
                                 qsae__grid_words(q->n_in, bits), q->n_out, &weight);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "qzeros", 1u << QSAE_I32, 2, groups,
                             qsae__grid_words(q->n_out, bits), &zeros);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "scales", 1u << QSAE_F16, 2, groups, q->n_out, &scales);
    g->col_step = step;
    if (st == QSAE_OK)
        st = read_groups(q, p, module, groups);
    if (st != QSAE_OK)
        return st;
    g->bits = bits == 8 ? 8 : 4;
    g->integers = bits == 8;
    g->scale_dtype = g->product_dtype = QSAE_F16;
    q->dtype = QSAE_F16;
    st = qsae__grid_alloc(q);
    if (st == QSAE_OK)
        st = qsae__grid_scales(q, scales, true);
    if (st == QSAE_OK)
        st = read_zeros(q, zeros, p, groups);
    if (st != QSAE_OK)
        return st;
    if (g->bits == 4)
        qsae__grid_integers4(g, 0);
    struct transpose t = { q, weight->data, bits };
    st = qsae__parallel(q->ctx, qsae__ceil_div(q->n_out, OUTS), transpose_task, &t);
    qsae__tensor_release(q->file, weight);
    return st;
}

static int32_t open_module(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                           const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    return qsae__grid_open(ctx, tensors, module, "qweight", n_out, n_in, fill, params, out);
}

const qsae__store qsae__store_gptq = { "gptq", sizeof(struct params), read_config, NULL,
                                      open_module };
