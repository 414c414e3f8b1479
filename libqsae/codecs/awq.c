/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AWQ checkpoints (arXiv 2306.00978) in AutoAWQ's "gemm" layout; decoding is dequantize_gemm of
 * AutoAWQ and GPTQModel's AwqTorchLinear: (code - zero) * scale in bf16 for a bf16 model (the scale
 * rounded to it), else in f16.
 *   qweight [n_in, n_out / 8] i32, qzeros [groups, n_out / 8] i32: output 8j + i is 4-bit field
 *   order[i] of word j; scales [groups, n_out] f16
 */
#include <ctype.h>
#include <string.h>

#include "codecs/grid.h"
#include "codecs/store_json.h"
#include "codecs/stored.h"

#define WORDS 16 /* of a row of qweight that are transposed together */

static const uint8_t order[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

struct params {
    int64_t group; /* -1: all inputs */
};

static bool equal_case(const char *a, const char *b)
{
    for (; *a && tolower((unsigned char)*a) == *b; a++, b++)
        ;
    return *a == *b;
}

static int32_t read_params(const json_t *config, const char *where, struct params *p)
{
    const char *version = "gemm";
    int64_t bits = 4;
    bool zero = true;
    int32_t given = 0;
    p->group = 128;
    int32_t st = qsae__json_i64(config, where, "bits", false, 1, 32, &bits, &given);
    if (st == QSAE_OK && !given)
        st = qsae__json_i64(config, where, "w_bit", false, 1, 32, &bits, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(config, where, "group_size", false, -1, INT32_MAX, &p->group, &given);
    if (st == QSAE_OK && !given)
        st = qsae__json_i64(config, where, "q_group_size", false, -1, INT32_MAX, &p->group, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(config, where, "zero_point", false, &zero, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "version", false, &version, &given);
    if (st == QSAE_OK && !given)
        st = qsae__json_str(config, where, "format", false, &version, NULL);
    if (st != QSAE_OK)
        return st;
    if (p->group == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"group_size\": expected -1 or at least 1, "
                          "found 0", where);
    if (bits != 4)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"bits\": %lld; supported: 4", where,
                          (long long)bits);
    if (!zero)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"zero_point\": false; supported: true",
                          where);
    if (!equal_case(version, "gemm"))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"version\": \"%s\"; supported: gemm", where,
                          version);
    return QSAE_OK;
}

static int32_t read_config(qsae_context *ctx, const json_t *config, const char *where,
                           void *params)
{
    const char *backend = "auto";
    int32_t st = read_params(config, where, params);
    (void)ctx;
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "backend", false, &backend, NULL);
    if (st == QSAE_OK && equal_case(backend, "llm-awq"))
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"backend\": \"%s\" is not supported", where,
                        backend);
    return st;
}

static uint32_t word_at(const char *words, int64_t i)
{
    uint32_t w;
    memcpy(&w, words + i * 4, sizeof w);
    return w;
}

/* Words w0..w1 of every row of qweight to rows of codes. */
static int32_t transpose_task(void *arg, int64_t task, int32_t worker)
{
    const qsae_qmatrix *const q = ((void **)arg)[0];
    const qsae__tensor *const t = ((void **)arg)[1];
    const qsae__grid *const g = q->state;
    const int64_t words = q->n_out / 8, w0 = task * WORDS, w1 = qsae__min_i64(words, w0 + WORDS);
    uint8_t *const codes = q->codes;
    (void)worker;
    for (int64_t k = 0; k < q->n_in; k += 2) {
        const char *const row = (const char *)t->data + k * words * 4;
        for (int64_t w = w0; w < w1; w++) {
            const uint32_t a = word_at(row, w), b = k + 1 < q->n_in ? word_at(row, w + words) : 0;
            for (int i = 0; i < 8; i++)
                codes[(8 * w + i) * g->row_bytes + k / 2] =
                    (uint8_t)((a >> 4 * order[i] & 15) << 4 | (b >> 4 * order[i] & 15));
        }
    }
    return QSAE_OK;
}

static int32_t read_zeros(qsae_qmatrix *q, const qsae__tensor *t, int64_t groups)
{
    q->zero = qsae__alloc_array(q->ctx, q->n_out * groups, sizeof *q->zero);
    if (!q->zero)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < groups; i++)
        for (int64_t o = 0; o < q->n_out; o++) {
            const uint32_t w = word_at(t->data, i * (q->n_out / 8) + o / 8);
            q->zero[o * groups + i] = (float)(w >> 4 * order[o % 8] & 15);
        }
    return QSAE_OK;
}

static int32_t fill(qsae_qmatrix *q, const void *params, const char *module)
{
    const struct params *const p = params;
    qsae__grid *const g = q->state;
    const int64_t step = p->group < 0 ? q->n_in : p->group, groups = q->n_in / step;
    const qsae__tensor *weight, *zeros, *scales;
    if (q->n_out % 8 || q->n_in % step)
        return qsae__fail(QSAE_EMISMATCH, "%s: %lld x %lld; expected a multiple of 8 x a multiple "
                          "of the group size %lld", module, (long long)q->n_out,
                          (long long)q->n_in, (long long)step);
    int32_t st = qsae__grid_part(q, module, "qweight", 1u << QSAE_I32, 2, q->n_in, q->n_out / 8,
                                 &weight);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "qzeros", 1u << QSAE_I32, 2, groups, q->n_out / 8, &zeros);
    if (st == QSAE_OK)
        st = qsae__grid_part(q, module, "scales", 1u << QSAE_F16, 2, groups, q->n_out, &scales);
    if (st != QSAE_OK)
        return st;
    g->bits = 4;
    g->col_step = step;
    g->scale_dtype = g->product_dtype = QSAE__GRID_HALF;
    q->dtype = QSAE_F16;
    st = qsae__grid_alloc(q);
    if (st == QSAE_OK)
        st = qsae__grid_scales(q, scales, true);
    if (st == QSAE_OK)
        st = read_zeros(q, zeros, groups);
    if (st != QSAE_OK)
        return st;
    qsae__grid_integers4(g, 0);
    union {
        const qsae__tensor *in;
        void *out;
    } source = { weight };
    void *arg[2] = { q, source.out };
    st = qsae__parallel(q->ctx, qsae__ceil_div(q->n_out / 8, WORDS), transpose_task, arg);
    qsae__tensor_release(q->file, weight);
    return st;
}

static int32_t open_module(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                           const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    return qsae__grid_open(ctx, tensors, module, "qweight", n_out, n_in, fill, params, out);
}

const qsae__store qsae__store_awq = { "awq", sizeof(struct params), read_config, NULL,
                                      open_module };
