/* SPDX-License-Identifier: BSD-2-Clause */
/* Gemma Scope 1 (params.npz) and 2 (params.safetensors, one file per layer of cross-layer
 * transcoders and crosscoders): sae.md B.4, B.5. What the files do not say is taken from the
 * published folder names. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

#define MAX_SIZE ((int64_t)1 << 40)
#define CONTEXT 1024 /* tokens of a row in training, of both releases */

/* Number after the last "layer_" of a path; -1 if there is none. */
static int64_t layer_of_path(const char *path)
{
    int64_t layer = -1;
    for (const char *p = path; (p = strstr(p, "layer_")) != NULL; p += 6)
        if (isdigit((unsigned char)p[6]))
            layer = strtol(p + 6, NULL, 10);
    return layer;
}

/* Hook names of a published folder, by the part that comes last in its path. */
typedef struct site {
    const char *part, *in, *out; /* %lld: the layer; out NULL: the same */
} site;

static const site sites1[] = {
    { "-transcoders", "blocks.%lld.ln2.hook_normalized", "blocks.%lld.hook_mlp_out" },
    { "embedding", "hook_embed", NULL },
    { "-res", "blocks.%lld.hook_resid_post", NULL },
    { "-mlp", "blocks.%lld.hook_mlp_out", NULL },
    { "-att", "blocks.%lld.attn.hook_z", NULL },
    { NULL, NULL, NULL },
};
static const site sites2[] = {
    { "resid_post", "model.layers.%lld.output", NULL },
    { "mlp_out", "model.layers.%lld.post_feedforward_layernorm.output", NULL },
    { "attn_out", "model.layers.%lld.self_attn.o_proj.input", NULL },
    { "transcoder", "model.layers.%lld.pre_feedforward_layernorm.output",
      "model.layers.%lld.post_feedforward_layernorm.output" },
    { "clt", "model.layers.%lld.pre_feedforward_layernorm.output",
      "model.layers.%lld.post_feedforward_layernorm.output" },
    { "crosscoder", "model.layers.%lld.output", NULL },
    { NULL, NULL, NULL },
};

static int32_t set_hook(qsae_context *ctx, char **slot, const char *pattern, int64_t layer)
{
    char hook[96];
    const char *const at = strstr(pattern, "%lld");
    if (!at)
        return qsae__sae_set_string(ctx, slot, pattern);
    if (layer < 0)
        return QSAE_OK;
    snprintf(hook, sizeof hook, "%.*s%lld%s", (int)(at - pattern), pattern, (long long)layer,
             at + 4);
    return qsae__sae_set_string(ctx, slot, hook);
}

/* The entry whose part comes last in the path: folders above may have any name. */
static const site *site_of_path(const char *folder, const site *sites)
{
    const char *at = NULL;
    const site *found = NULL;
    for (; sites->part; sites++)
        for (const char *p = folder; (p = strstr(p, sites->part)) != NULL; p++)
            if (!at || p > at) {
                at = p;
                found = sites;
            }
    return found;
}

static bool path_is(const char *folder, const site *sites, const char *part)
{
    const site *const s = site_of_path(folder, sites);
    return s && strcmp(s->part, part) == 0;
}

static int32_t hooks_of_path(qsae_context *ctx, const char *folder, const site *sites,
                             int64_t layer, qsae__sae_config *c)
{
    int32_t st = qsae__sae_set_string(ctx, &c->hook, "");
    if (layer < 0)
        layer = layer_of_path(folder);
    const site *const s = site_of_path(folder, sites);
    if (st == QSAE_OK && s)
        st = set_hook(ctx, &c->hook, s->in, layer);
    return st == QSAE_OK && s && s->out ? set_hook(ctx, &c->hook_out, s->out, layer) : st;
}

/* "gemma-scope-2b-pt-res" was trained on gemma-2-2b, "gemma-scope-2-1b-it" on gemma-3-1b-it. */
static int32_t model_of_path(qsae_context *ctx, const char *folder, bool two, qsae__sae_config *c)
{
    static const char one[] = "gemma-scope-", second[] = "gemma-scope-2-";
    char name[64];
    const char *const p = strstr(folder, two ? second : one);
    if (!p)
        return QSAE_OK;
    const char *const size = p + strlen(two ? second : one);
    const size_t n = strspn(size, "0123456789bm");
    const char *const kind = strncmp(size + n, "-it", 3) == 0 ? "-it" :
                             two && strncmp(size + n, "-pt", 3) == 0 ? "-pt" : "";
    if (n < 2 || n > 8)
        return QSAE_OK;
    snprintf(name, sizeof name, "google/gemma-%d-%.*s%s", two ? 3 : 2, (int)n, size, kind);
    return qsae__sae_set_string(ctx, &c->model, name);
}

static int32_t begin(qsae_context *ctx, const char *format, qsae__sae_config *c)
{
    c->context_size = CONTEXT;
    c->prepend_bos = 1;
    int32_t st = qsae__sae_set_architecture(ctx, "", "jumprelu", c);
    return st == QSAE_OK ? qsae__sae_set_string(ctx, &c->format, format) : st;
}

/* The embedding SAEs were trained on embeddings before Gemma's factor sqrt(d), the hook is after
 * it (sae.md A.4). Their loaders in SAELens leave b_dec as it is, which moves every output. */
static int32_t rescale_embedding(qsae_context *ctx, const char *params, qsae__tensors **tensors)
{
    qsae__rewrite r;
    int32_t st = qsae__rewrite_open(ctx, params, &r);
    if (st != QSAE_OK)
        return st;
    static const char *const names[][2] = {
        { "W_enc", "w_enc" }, { "W_dec", "w_dec" }, { "b_enc", "b_enc" }, { "b_dec", "b_dec" },
        { "threshold", "threshold" },
    };
    double root = 1;
    for (size_t i = 0; i < 5 && st == QSAE_OK; i++)
        st = qsae__rewrite_same(&r, qsae__rewrite_either(&r, names[i][0], names[i][1]),
                                names[i][0], i < 2 ? 2 : 1, NULL);
    if (st == QSAE_OK) {
        const char *const enc = qsae__rewrite_either(&r, "W_enc", "w_enc");
        root = sqrt((double)qsae__tensors_find(r.from, enc)->shape[0]);
        st = qsae__rewrite_divide(&r, "W_enc", root);
    }
    if (st == QSAE_OK)
        st = qsae__rewrite_multiply(&r, "W_dec", root);
    if (st == QSAE_OK)
        st = qsae__rewrite_multiply(&r, "b_dec", root);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}

int32_t qsae__sae_read_scope1(qsae_context *ctx, const qsae__sae_place *place,
                              const qsae_sae_settings *s, qsae__sae_config *c,
                              qsae__tensors **tensors)
{
    (void)s;
    const bool embedding = qsae__sae_path_has(place->folder, "embedding");
    int32_t st = embedding ? rescale_embedding(ctx, place->params, tensors)
                           : qsae__tensors_load(ctx, place->params, tensors);
    if (st == QSAE_OK)
        st = begin(ctx, "gemma-scope", c);
    if (st == QSAE_OK && path_is(place->folder, sites1, "-transcoders"))
        st = qsae__sae_set_architecture(ctx, "", "jumprelu_transcoder", c);
    if (st == QSAE_OK)
        st = hooks_of_path(ctx, place->folder, sites1, -1, c);
    return st == QSAE_OK ? model_of_path(ctx, place->folder, false, c) : st;
}

/* config.json: type and sizes; what the path told stays where the file is silent. */
static int32_t parse_config(qsae_context *ctx, const json_t *cfg, const char *where, bool layers,
                            qsae__sae_config *c)
{
    static const struct {
        const char *key;
        size_t slot;
    } texts[] = {
        { "hf_hook_point_in", offsetof(qsae__sae_config, hook) },
        { "hf_hook_point_out", offsetof(qsae__sae_config, hook_out) },
        { "model_name", offsetof(qsae__sae_config, model) },
    };
    if (!json_is_object(cfg))
        return qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                          qsae__json_type_name(cfg));
    const char *name = "jump_relu", *type = c->transcoder ? "transcoder" : "sae";
    bool affine = false;
    int32_t st = qsae__json_str(cfg, where, "architecture", false, &name, NULL);
    if (st == QSAE_OK && strcmp(name, "jump_relu") != 0)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"architecture\": expected \"jump_relu\", "
                        "found \"%s\"", where, name);
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "type", false, &type, NULL);
    const bool multi = strcmp(type, "crosscoder") == 0 || strcmp(type, "clt") == 0 ||
                       strcmp(type, "cross_layer_transcoder") == 0;
    if (st == QSAE_OK && !(layers && multi) && strcmp(type, "sae") != 0 &&
        strcmp(type, "transcoder") != 0)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"type\": \"%s\" is not supported here; "
                        "supported are sae and transcoder, and of clt and crosscoder the files "
                        "params_layer_N.safetensors", where, type);
    if (st == QSAE_OK && !layers)
        st = qsae__json_i64(cfg, where, "width", false, 1, MAX_SIZE, &c->d_sae, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "affine_connection", false, &affine, NULL);
    for (size_t i = 0; i < (layers ? 0 : sizeof texts / sizeof texts[0]) && st == QSAE_OK; i++) {
        const char *text = NULL;
        st = qsae__json_str(cfg, where, texts[i].key, false, &text, NULL);
        if (st == QSAE_OK && text)
            st = qsae__sae_set_string(ctx, (char **)(void *)((char *)c + texts[i].slot), text);
    }
    if (st == QSAE_OK && (strcmp(type, "sae") != 0 || layers))
        st = qsae__sae_set_architecture(ctx, where, "jumprelu_transcoder", c);
    c->skip = affine;
    return st;
}

static int32_t read_config(qsae_context *ctx, const qsae__sae_place *place, bool layers,
                           qsae__sae_config *c)
{
    json_t *cfg = NULL;
    int32_t st = begin(ctx, "gemma-scope-2", c);
    c->lower_case = true;
    if (st == QSAE_OK &&
        (layers || (!place->config && path_is(place->folder, sites2, "transcoder"))))
        st = qsae__sae_set_architecture(ctx, "", "jumprelu_transcoder", c);
    if (st == QSAE_OK)
        st = hooks_of_path(ctx, place->folder, sites2, place->layer, c);
    if (st == QSAE_OK)
        st = model_of_path(ctx, place->folder, true, c);
    if (st == QSAE_OK && place->config)
        st = qsae__json_load(ctx, place->config, &cfg);
    if (st == QSAE_OK && place->config)
        st = parse_config(ctx, cfg, place->config, layers, c);
    json_decref(cfg);
    return st;
}

/* Which transcoders have a skip connection is told by the tensors where no file tells it. */
static int32_t name_skip(qsae_context *ctx, bool there, qsae__sae_config *c)
{
    return c->transcoder && (c->skip || there) ?
           qsae__sae_set_string(ctx, &c->architecture, "jumprelu_skip_transcoder") : QSAE_OK;
}

int32_t qsae__sae_read_scope2(qsae_context *ctx, const qsae__sae_place *place,
                              const qsae_sae_settings *s, qsae__sae_config *c,
                              qsae__tensors **tensors)
{
    (void)s;
    int32_t st = qsae__tensors_load(ctx, place->params, tensors);
    if (st == QSAE_OK)
        st = read_config(ctx, place, false, c);
    return st == QSAE_OK ?
           name_skip(ctx, qsae__tensors_find(*tensors, "affine_skip_connection"), c) : st;
}

/* Where layer `layer` stands among the n layers of w_dec: they are those of the folder's files, or,
 * where some files are not there, all layers of the model. */
static int32_t place_of_layer(qsae_context *ctx, const char *folder, int64_t n, int64_t layer,
                              int64_t *out)
{
    static const char stem[] = "params_layer_", end[] = ".safetensors";
    char **names = NULL, *tail;
    int64_t count = 0, files = 0, below = 0;
    bool there = false;
    int32_t st = qsae__folder_list(ctx, folder, &names, &count);
    for (int64_t i = 0; i < count; i++) { /* 0 where the folder cannot be read */
        const char *const digits = names[i] + strlen(stem);
        if (strncmp(names[i], stem, strlen(stem)) != 0 || !isdigit((unsigned char)*digits))
            continue;
        const long id = strtol(digits, &tail, 10);
        if (strcmp(tail, end) != 0)
            continue;
        files++;
        below += id < layer;
        there |= id == layer;
    }
    qsae__folder_list_free(ctx, names, count);
    *out = files == n ? below : layer;
    if (st == QSAE_OK && (*out >= n || (files == n && !there)))
        st = qsae__fail(QSAE_EMISMATCH, "%s: tensor \"w_dec\" has %lld layers, of the folder's "
                        "%lld files; expected layer %lld among them", folder, (long long)n,
                        (long long)files, (long long)layer);
    return st;
}

/* The decoder of one layer to layer `to` of n, [d_sae, n, d]: the own one where nothing is asked
 * for. The biases of a layer and its skip connection are added where it writes to itself. */
static int32_t read_layer(qsae__rewrite *r, const qsae__sae_place *place, bool crosscoder,
                          qsae__sae_config *c)
{
    static const char skip[] = "affine_skip_connection";
    const int64_t any[3] = { -1, -1, -1 };
    const int64_t to = place->write < 0 ? place->layer : place->write;
    const qsae__tensor *dec;
    int32_t st = qsae__rewrite_same(r, "w_enc", "w_enc", 2, any);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "b_enc", "b_enc", 1, any);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "threshold", "threshold", 1, any);
    if (st == QSAE_OK)
        st = qsae__tensors_need(r->from, "w_dec", 3, any, &dec);
    if (st != QSAE_OK)
        return st;
    int64_t at;
    if ((st = place_of_layer(r->ctx, place->folder, dec->shape[1], to, &at)) != QSAE_OK)
        return st;
    if (to < place->layer && !crosscoder)
        return qsae__fail(QSAE_EINVAL, "%s: layer %lld writes to itself and later layers, not to "
                          "%lld", dec->file, (long long)place->layer, (long long)to);
    st = qsae__rewrite_slice(r, "w_dec", "w_dec", 1, at);
    if (st == QSAE_OK)
        st = to == place->layer ? qsae__rewrite_same(r, "b_dec", "b_dec", 1, any)
                                : qsae__rewrite_fill(r, "b_dec", dec->shape[2], 0, NULL);
    c->skip = false;
    if (st == QSAE_OK && qsae__rewrite_has(r, skip) && to == place->layer) {
        c->skip = true;
        st = qsae__rewrite_same(r, skip, skip, 2, any);
    }
    return st;
}

int32_t qsae__sae_read_scope2_layer(qsae_context *ctx, const qsae__sae_place *place,
                                    const qsae_sae_settings *s, qsae__sae_config *c,
                                    qsae__tensors **tensors)
{
    qsae__rewrite r;
    (void)s;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    const bool crosscoder = path_is(place->folder, sites2, "crosscoder");
    st = read_config(ctx, place, true, c);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, crosscoder ? "gemma-scope-2-crosscoder"
                                                              : "gemma-scope-2-clt");
    if (st == QSAE_OK)
        st = read_layer(&r, place, crosscoder, c);
    c->encode_only = place->write < 0;
    if (st == QSAE_OK)
        st = name_skip(ctx, c->skip, c);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}
