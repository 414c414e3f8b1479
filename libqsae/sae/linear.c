/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files of tensors without a configuration, told by the names of the tensors (sae.md B.9): OpenAI
 * (pre_bias, latent_bias), Goodfire (encoder_linear, decoder_linear) and two plain linear maps
 * (encoder, decoder). The published files are pickles; these are the same tensors in safetensors.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

static const struct layout {
    const char *format, *enc, *b_enc, *dec, *b_dec;
    bool openai;
} layouts[] = {
    { "openai", "encoder.weight", "latent_bias", "decoder.weight", "pre_bias", true },
    { "goodfire", "encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight",
      "decoder_linear.bias", false },
    { "linear", "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", false },
};

/* "...SAE-l19.safetensors": the residual stream after block 19. */
static int32_t set_hook(qsae_context *ctx, const char *path, qsae__sae_config *c)
{
    const char *const slash = strrchr(path, '/');
    const char *const at = strstr(slash ? slash : path, "-l");
    char hook[64] = "";
    if (at && isdigit((unsigned char)at[2]))
        snprintf(hook, sizeof hook, "blocks.%ld.hook_resid_post", strtol(at + 2, NULL, 10));
    return qsae__sae_set_string(ctx, &c->hook, hook);
}

/* k of a topk as text; 0 if there is none. */
static int32_t read_k(const char *path, const char *text, int64_t *k)
{
    char *end;
    const double number = *text ? strtod(text, &end) : 0;
    if (*text && (*end || !qsae__rewrite_is_count(number)))
        return qsae__fail(QSAE_EFORMAT, "%s: k of the topk: expected a positive integer, found "
                          "\"%s\"", path, text);
    *k = (int64_t)number;
    return QSAE_OK;
}

/* "relu" or "topk:32" (of settings.activation), or what the file's metadata say: activation
 * "ReLU" or "TopK", k. A TopK SAE of OpenAI normalises its input, a ReLU one does not. */
static int32_t openai_activation(qsae__rewrite *r, const char *path, const char *told,
                                 qsae__sae_config *c)
{
    static const char *const tensors[] = { "activation_state_dict.k", "activation.k", "k" };
    const char *const name = told ? told : qsae__tensors_metadata(r->from, "activation");
    const char *k = qsae__tensors_metadata(r->from, "k");
    int64_t count = 0;
    int32_t st = QSAE_OK;
    c->apply_b_dec = true;
    if (name && (strcmp(name, "ReLU") == 0 || strcmp(name, "relu") == 0))
        return qsae__sae_set_architecture(r->ctx, path, "standard", c);
    if (!name || (strncmp(name, "TopK", 4) != 0 && strncmp(name, "topk", 4) != 0) ||
        (name[4] && name[4] != ':'))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: the activation is %s%s; tell settings.activation "
                          "\"relu\" or \"topk:K\"", path, name ? "" : "not in the file",
                          name ? name : "");
    if (name[4] == ':')
        k = name + 5;
    if (k && (st = read_k(path, k, &count)) != QSAE_OK)
        return st;
    for (size_t i = 0; i < 3 && count == 0; i++)
        if (qsae__rewrite_has(r, tensors[i]) &&
            (st = qsae__rewrite_count(r, tensors[i], &count)) != QSAE_OK)
            return st;
    if (count == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: k of the topk is not in the file; tell "
                          "settings.activation \"topk:K\"", path);
    c->normalize = QSAE__NORM_LAYER;
    st = qsae__sae_set_architecture(r->ctx, path, "topk", c);
    c->k = count;
    return st;
}

/* A tensor that no plain ReLU SAE has: it would be silently left out. */
static int32_t refuse_more(const qsae__rewrite *r, const struct layout *l, const char *path)
{
    if (l->openai)
        return QSAE_OK;
    for (int64_t i = 0; i < qsae__tensors_len(r->from); i++) {
        const char *const name = qsae__tensors_at(r->from, i)->name;
        if (strcmp(name, l->enc) != 0 && strcmp(name, l->b_enc) != 0 &&
            strcmp(name, l->dec) != 0 && strcmp(name, l->b_dec) != 0)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": without a configuration only "
                              "%s, %s, %s and %s are read", path, name, l->enc, l->b_enc, l->dec,
                              l->b_dec);
    }
    return QSAE_OK;
}

int32_t qsae__sae_read_linear(qsae_context *ctx, const qsae__sae_place *place,
                              const qsae_sae_settings *s, qsae__sae_config *c,
                              qsae__tensors **tensors)
{
    qsae__rewrite r;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    const struct layout *const l = qsae__rewrite_has(&r, "pre_bias") ? &layouts[0] :
        qsae__rewrite_has(&r, "encoder_linear.weight") ? &layouts[1] : &layouts[2];
    c->prepend_bos = -1;
    c->enc_turned = true;
    st = refuse_more(&r, l, place->params);
    if (st == QSAE_OK)
        st = l->openai ? openai_activation(&r, place->params, s->activation, c)
                       : qsae__sae_set_architecture(ctx, place->params, "standard", c);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, l->format);
    if (st == QSAE_OK)
        st = set_hook(ctx, place->params, c);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(&r, l->enc, "W_enc", 2, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(&r, l->b_enc, "b_enc", 1, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_turned(&r, l->dec, "W_dec");
    if (st == QSAE_OK)
        st = qsae__rewrite_same(&r, l->b_dec, "b_dec", 1, NULL);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}
