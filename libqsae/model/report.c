/* SPDX-License-Identifier: BSD-2-Clause */
/* The error of each matrix of a checkpoint under a condition, one at a time. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "codecs/error.h"
#include "model/internal.h"

/* Matrix i: linear layers (w->linears), the embedding, the head unless both checkpoints tie it. */
struct spot {
    const qsae__matrix *matrix;
    qsae__place place;        /* of a linear layer: its layer alone; the rest is found at */
    int64_t linear;           /* its place, */
    const char *module;       /* within the layer */
    int64_t heads, qkv_runs;
    uint64_t stream;          /* as model.c numbers them */
};

int64_t qsae_weights_matrix_count(const qsae_weights *reference, const qsae_weights *other)
{
    if (!qsae__is_open(reference) || (other && !qsae__is_open(other)))
        return 0;
    const bool tied = reference->config.tied && (!other || other->config.tied);
    return reference->n_linears + (tied ? 1 : 2);
}

static struct spot spot_of(const qsae_weights *w, int64_t i)
{
    const qsae__config *const c = &w->config;
    const uint64_t embed = (uint64_t)qsae__place_embed(c);
    if (i >= w->n_linears) {
        const bool head = i > w->n_linears;
        return (struct spot){
            .matrix = head ? qsae__weights_head(w) : &w->embed,
            .place = { .layer = -1, .group = head ? "head" : "embed" },
            .module = head ? qsae__family_head(c->family) : qsae__family_embed(c->family),
            .stream = embed + (head && !c->tied ? 1 : 0),
        };
    }
    const int64_t at = w->linears[i];
    return (struct spot){
        .matrix = qsae__linear_matrix(w, at),
        .place = { .layer = qsae__linear_layer(w, at) },
        .linear = at,
        .module = qsae__linear_module(w, at),
        .heads = qsae__linear_heads(w, at),
        .qkv_runs = qsae__linear_qkv_runs(w, at),
        .stream = (uint64_t)at,
    };
}

/* Whether the condition has a say on the matrix. A tied one is changed if either use of it is. */
static bool changes(const qsae__condition *c, const qsae_weights *w, const struct spot *s)
{
    char path[512];
    if (!qsae__condition_encodes(c))
        return c->weights != 0;
    if (s->place.group && w->config.tied)
        return c->with_embed || c->with_head;
    const qsae__place place = s->place.group
                                  ? s->place
                                  : qsae__linear_place(w, s->linear, path, sizeof path);
    return qsae__condition_selects(c, &place);
}

/* The part of a mix that changes the matrix, which one does, or the condition itself. */
static const qsae__condition *part_of(const qsae__condition *c, const qsae_weights *w,
                                      const struct spot *s)
{
    const qsae__place embed = { -1, NULL, NULL, "embed" }, head = { -1, NULL, NULL, "head" };
    char path[512];
    if (!c->n_parts)
        return c;
    if (!s->place.group) {
        const qsae__place place = qsae__linear_place(w, s->linear, path, sizeof path);
        return qsae__condition_at(c, &place);
    }
    if (!w->config.tied)
        return qsae__condition_at(c, &s->place);
    const qsae__condition *const at = qsae__condition_at(c, &embed);
    return at ? at : qsae__condition_at(c, &head);
}

static int32_t compare(const qsae__condition *c, const qsae__source *reference,
                       const qsae_weights *w, const struct spot *s, qsae_weight_error *out)
{
    const qsae__tensor *const t = s->matrix->tensor;
    const qsae_qmatrix *q = s->matrix->stored;
    const int32_t round = c->model_compute == QSAE_COMPUTE_BF16  ? QSAE_BF16
                          : c->model_compute == QSAE_COMPUTE_F32 ? QSAE_F32
                                                                 : 0;
    qsae__source other = qsae__matrix_source(w, s->matrix, 0);
    qsae_qmatrix *encoded = NULL;
    int32_t st = QSAE_OK;
    if (changes(c, w, s)) {
        qsae__source src = qsae__matrix_source(w, s->matrix, round);
        src.stream = s->stream;
        src.qkv_runs = s->qkv_runs;
        st = qsae__qmatrix_encode(w->ctx, part_of(c, w, s), &src, s->heads, &encoded);
        if (st != QSAE_OK)
            return st;
        q = encoded;
        other = qsae__stored_source(encoded);
    }
    st = qsae__weight_error(reference, &other, q ? qsae__qmatrix_bytes(q) : t->bytes, out);
    if (st == QSAE_OK && q && q->codec.codec == QSAE__STORED)
        out->format = qsae__scheme_name(w->scheme);
    qsae__qmatrix_unref(&encoded);
    if (!s->matrix->stored)
        qsae__tensor_release(w->tensors, t);
    return st;
}

static int32_t check_other(const qsae_weights *reference, const qsae_weights *w, int64_t i)
{
    if (w->config.layers != reference->config.layers)
        return qsae__fail(QSAE_EMISMATCH, "%s: %" PRId64 " layers, expected %" PRId64 " as in %s",
                          w->path, w->config.layers, reference->config.layers, reference->path);
    if (qsae__projs(&w->config) != qsae__projs(&reference->config) ||
        w->n_linears != reference->n_linears ||
        (i < w->n_linears && w->linears[i] != reference->linears[i]))
        return qsae__fail(QSAE_EMISMATCH, "%s: %s has other linear layers than %s, a %s model",
                          w->path, w->config.family->name, reference->path,
                          reference->config.family->name);
    const qsae__matrix *const a = spot_of(w, i).matrix, *const b = spot_of(reference, i).matrix;
    if (a->rows != b->rows || a->cols != b->cols)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: [%" PRId64 ", %" PRId64 "], expected [%" PRId64
                          ", %" PRId64 "] as in %s", w->path, a->name, a->rows, a->cols, b->rows,
                          b->cols, reference->path);
    return QSAE_OK;
}

int32_t qsae_weights_error(qsae_weights *reference, qsae_weights *other, const char *condition,
                           int64_t i, qsae_weight_error *error)
{
    QSAE__FPENV;
    qsae_weights *const w = other ? other : reference;
    qsae_weight_error out;
    qsae__condition c;
    if (qsae__need(reference, "reference"))
        return QSAE_EINVAL;
    if (other && qsae__need(other, "other"))
        return QSAE_EINVAL;
    if (!error)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_error: error is NULL");
    if (i < 0 || i >= qsae_weights_matrix_count(reference, other))
        return qsae__fail(QSAE_EINVAL, "matrix %" PRId64 ": there are 0 to %" PRId64, i,
                          qsae_weights_matrix_count(reference, other) - 1);
    int32_t st = check_other(reference, w, i);
    if (st == QSAE_OK)
        st = qsae__condition_parse(reference->ctx, condition ? condition : "none", &c);
    if (st != QSAE_OK)
        return st;
    const struct spot s = spot_of(w, i);
    const qsae__source src = qsae__matrix_source(reference, spot_of(reference, i).matrix, 0);
    if (c.prune_match > 0 || c.prune_target)
        st = qsae__fail(QSAE_EINVAL, "condition %s: prune:match= is found by an audit; a weight "
                        "takes prune:sparsity=", c.canonical);
    else
        st = compare(&c, &src, w, &s, &out);
    qsae__condition_free(reference->ctx, &c);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", s.matrix->name);
    out.module = s.module;
    out.layer = s.place.layer;
    return qsae__info_copy(error, &out, sizeof out, "qsae_weight_error");
}
