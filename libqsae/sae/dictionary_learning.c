/* SPDX-License-Identifier: BSD-2-Clause */
/* dictionary_learning (sae.md B.7): config.json, and ae.safetensors with the tensors of ae.pt
 * under their own names. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

#define MAX_SIZE ((int64_t)1 << 40)

enum kind { PLAIN, GATED, JUMP, TOPK, BATCH };

static const struct dict {
    const char *name, *architecture;
    enum kind kind;
    bool apply_b_dec;
    bool fold;      /* decoder rows get norm 1: what the loader does, or what is reported */
} dicts[] = {
    { "AutoEncoder", "standard", PLAIN, true, true },
    { "AutoEncoderNew", "standard", PLAIN, false, true },
    { "GatedAutoEncoder", "gated", GATED, true, false },
    { "JumpReluAutoEncoder", "jumprelu", JUMP, false, false },
    { "AutoEncoderTopK", "topk", TOPK, true, false },
    { "BatchTopKSAE", "jumprelu", BATCH, true, false },
    { "MatryoshkaBatchTopKSAE", "matryoshka_batchtopk", BATCH, true, false },
};

static int32_t find_dict(const json_t *trainer, const char *where, const struct dict **out)
{
    const char *name = NULL;
    const int32_t st = qsae__json_str(trainer, where, "dict_class", true, &name, NULL);
    if (st != QSAE_OK)
        return st;
    for (size_t i = 0; i < sizeof dicts / sizeof dicts[0]; i++)
        if (strcmp(name, dicts[i].name) == 0) {
            *out = &dicts[i];
            return QSAE_OK;
        }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"dict_class\": \"%s\" is not supported", where,
                      name);
}

/* The output of decoder layer `layer`, unless the name of the module speaks of a part of it. */
static int32_t set_hook(qsae_context *ctx, const json_t *trainer, const json_t *buffer,
                        const char *where, qsae__sae_config *c)
{
    const char *module = "", *io = "out", *model = NULL;
    int64_t layer = -1;
    char hook[96] = "";
    int32_t st = qsae__json_i64(trainer, where, "layer", false, 0, 1 << 20, &layer, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(trainer, where, "submodule_name", false, &module, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(trainer, where, "lm_name", false, &model, NULL);
    if (st == QSAE_OK && buffer)
        st = qsae__json_str(buffer, where, "io", false, &io, NULL);
    if (st != QSAE_OK)
        return st;
    const bool in = strcmp(io, "in") == 0;
    const char *const part = strstr(module, "mlp") ? in ? "mlp.hook_in" : "hook_mlp_out" :
                             strstr(module, "attn") || strstr(module, "attention") ?
                             in ? "hook_attn_in" : "hook_attn_out" :
                             in ? "hook_resid_pre" : "hook_resid_post";
    if (layer >= 0)
        snprintf(hook, sizeof hook, "blocks.%lld.%s", (long long)layer, part);
    st = qsae__sae_set_string(ctx, &c->hook, hook);
    return st == QSAE_OK && model ? qsae__sae_set_string(ctx, &c->model, model) : st;
}

/* W_enc and W_dec in the spelling of either base class, and the biases of all of them. */
static int32_t take_matrices(qsae__rewrite *r, enum kind kind, qsae__sae_config *c)
{
    const char *bias = "b_dec";
    static const char *const others[] = { "bias", "decoder.bias", "decoder_bias" };
    for (size_t i = 0; i < 3 && !qsae__rewrite_has(r, bias); i++)
        if (qsae__rewrite_has(r, others[i]))
            bias = others[i];
    int32_t st;
    c->enc_turned = !qsae__rewrite_has(r, "W_enc");
    if (c->enc_turned) {
        st = qsae__rewrite_same(r, "encoder.weight", "W_enc", 2, NULL);
        if (st == QSAE_OK)
            st = qsae__rewrite_turned(r, "decoder.weight", "W_dec");
    } else {
        st = qsae__rewrite_same(r, "W_enc", "W_enc", 2, NULL);
        if (st == QSAE_OK)
            st = qsae__rewrite_same(r, "W_dec", "W_dec", 2, NULL);
    }
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, bias, "b_dec", 1, NULL);
    if (st == QSAE_OK && kind != GATED)
        st = qsae__rewrite_same(r, qsae__rewrite_either(r, "b_enc", "encoder.bias"), "b_enc", 1,
                                NULL);
    if (st == QSAE_OK && kind == GATED)
        st = qsae__rewrite_same(r, "gate_bias", "b_gate", 1, NULL);
    if (st == QSAE_OK && kind == GATED)
        st = qsae__rewrite_same(r, "mag_bias", "b_mag", 1, NULL);
    return st == QSAE_OK && kind == GATED ?
           qsae__rewrite_same(r, "r_mag", "r_mag", 1, NULL) : st;
}

/* k of the tensor of that name, else of the trainer. */
static int32_t read_k(const qsae__rewrite *r, const json_t *trainer, const char *where,
                      qsae__sae_config *c)
{
    return qsae__rewrite_has(r, "k")
               ? qsae__rewrite_count(r, "k", &c->k)
               : qsae__json_i64(trainer, where, "k", true, 1, MAX_SIZE, &c->k, NULL);
}

/* A batchtopk is run by its threshold, one number for all features; -1 was never fitted, and then
 * only the caller knows what is wanted. */
static int32_t batch_threshold(qsae__rewrite *r, const json_t *trainer, const char *where,
                               const char *activation, int64_t features, qsae__sae_config *c)
{
    double t = -1;
    int32_t st = QSAE_OK;
    if (qsae__rewrite_has(r, "threshold"))
        st = qsae__rewrite_scalar(r, "threshold", &t);
    if (st != QSAE_OK)
        return st;
    if (t >= 0)
        return qsae__rewrite_fill(r, "threshold", features, (float)t, NULL);
    if (activation && strcmp(activation, "relu") == 0)
        return qsae__sae_set_architecture(r->ctx, where, "standard", c);
    if (activation && strcmp(activation, "topk") == 0) {
        st = qsae__sae_set_architecture(r->ctx, where, "topk", c);
        return st == QSAE_OK ? read_k(r, trainer, where, c) : st;
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"threshold\": expected 0 or more, found %g: "
                      "it was never fitted; tell settings.activation \"relu\" or \"topk\"", where,
                      t);
}

/* group_sizes of a matryoshka SAE as cumulative widths; other SAEs have none. */
static int32_t read_widths(const qsae__rewrite *r, qsae__sae_config *c)
{
    const qsae__tensor *t;
    int64_t sum = 0;
    if (!qsae__rewrite_has(r, "group_sizes"))
        return QSAE_OK;
    const int32_t st = qsae__tensors_need(r->from, "group_sizes", 1, NULL, &t);
    if (st != QSAE_OK)
        return st;
    const size_t size = (size_t)qsae_dtype_bits(t->dtype) / 8;
    if (!(c->widths = qsae__alloc_array(r->ctx, t->shape[0], sizeof *c->widths)))
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < t->shape[0]; i++) {
        float n = 0;
        if (!qsae__to_f32(t->dtype, (const char *)t->data + (size_t)i * size, 1, &n) ||
            !(n >= 1 && n < 1e9f) || n != floorf(n))
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"group_sizes\": element %lld: expected an "
                              "integer from 1", t->file, (long long)i);
        c->widths[i] = sum += (int64_t)n;
    }
    c->n_widths = t->shape[0];
    return QSAE_OK;
}

/* A threshold per feature, or one for all. */
static int32_t own_threshold(qsae__rewrite *r, int64_t features)
{
    const qsae__tensor *t;
    double value;
    int32_t st = qsae__tensors_need(r->from, "threshold", -1, NULL, &t);
    if (st == QSAE_OK && t->rank != 0)
        return qsae__rewrite_same(r, "threshold", "threshold", 1, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_scalar(r, "threshold", &value);
    return st == QSAE_OK ? qsae__rewrite_fill(r, "threshold", features, (float)value, NULL) : st;
}

static int32_t read(qsae__rewrite *r, const json_t *cfg, const qsae__sae_place *place,
                    const qsae_sae_settings *s, qsae__sae_config *c)
{
    const char *const where = place->config;
    const json_t *trainer = NULL, *buffer = NULL;
    const struct dict *d = NULL;
    const qsae__tensor *enc;
    if (!json_is_object(cfg))
        return qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                          qsae__json_type_name(cfg));
    int32_t st = qsae__json_get(cfg, where, "trainer", true, JSON_OBJECT, &trainer);
    if (st == QSAE_OK)
        st = qsae__json_get(cfg, where, "buffer", false, JSON_OBJECT, &buffer);
    if (st == QSAE_OK)
        st = find_dict(trainer, where, &d);
    if (st == QSAE_OK)
        st = qsae__json_i64(trainer, where, "activation_dim", false, 1, MAX_SIZE, &c->d_in, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(trainer, where, "dict_size", false, 1, MAX_SIZE, &c->d_sae, NULL);
    if (st == QSAE_OK && buffer)
        st = qsae__json_i64(buffer, where, "ctx_len", false, 1, MAX_SIZE, &c->context_size, NULL);
    if (st == QSAE_OK)
        st = set_hook(r->ctx, trainer, buffer, where, c);
    if (st == QSAE_OK)
        st = qsae__sae_set_architecture(r->ctx, where, d->architecture, c);
    if (st == QSAE_OK)
        st = take_matrices(r, d->kind, c);
    if (st != QSAE_OK)
        return st;
    c->apply_b_dec = d->apply_b_dec;
    enc = qsae__tensors_find(r->from, c->enc_turned ? "encoder.weight" : "W_enc");
    const int64_t features = enc->shape[c->enc_turned ? 0 : 1];
    if (d->kind == TOPK)
        st = read_k(r, trainer, where, c);
    else if (d->kind == BATCH)
        st = batch_threshold(r, trainer, where, s->activation, features, c);
    if (st == QSAE_OK && d->kind == BATCH)
        st = read_widths(r, c);
    if (st != QSAE_OK)
        return st;
    if (d->kind == JUMP)
        st = own_threshold(r, features);
    return st == QSAE_OK && d->fold ? qsae__rewrite_fold_norms(r, c->enc_turned, true) : st;
}

int32_t qsae__sae_read_dictionary_learning(qsae_context *ctx, const qsae__sae_place *place,
                                           const qsae_sae_settings *s, qsae__sae_config *c,
                                           qsae__tensors **tensors)
{
    qsae__rewrite r;
    json_t *cfg = NULL;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    c->prepend_bos = -1;
    st = qsae__json_load(ctx, place->config, &cfg);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, "dictionary-learning");
    if (st == QSAE_OK)
        st = read(&r, cfg, place, s, c);
    json_decref(cfg);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}
