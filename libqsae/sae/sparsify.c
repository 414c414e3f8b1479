/* SPDX-License-Identifier: BSD-2-Clause */
/* sparsify of EleutherAI (sae.md B.8): cfg.json and sae.safetensors in a folder named after the
 * module. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

#define MAX_SIZE ((int64_t)1 << 40)

/* "layers.10", "gpt_neox.layers.3.mlp", "h.3", "embed_tokens": the hooks of TransformerLens. A name
 * of another kind stays as it is. */
static int32_t set_hooks(qsae_context *ctx, const char *folder, qsae__sae_config *c)
{
    static const char *const stems[] = { "layers.", "h." };
    const char *const slash = strrchr(folder, '/'), *const name = slash ? slash + 1 : folder;
    char in[96] = "", out[96] = "";
    for (size_t i = 0; i < 2 && !in[0]; i++) {
        const char *const at = strstr(name, stems[i]);
        if (!at || !isdigit((unsigned char)at[strlen(stems[i])]) || (at > name && at[-1] != '.'))
            continue;
        char *end;
        const long layer = strtol(at + strlen(stems[i]), &end, 10);
        const bool mlp = strcmp(end, ".mlp") == 0;
        if (*end && !mlp)
            continue;
        snprintf(in, sizeof in, mlp ? c->transcoder ? "blocks.%ld.mlp.hook_in" :
                 "blocks.%ld.hook_mlp_out" : c->transcoder ? "blocks.%ld.hook_resid_pre" :
                 "blocks.%ld.hook_resid_post", layer);
        snprintf(out, sizeof out, mlp ? "blocks.%ld.hook_mlp_out" : "blocks.%ld.hook_resid_post",
                 layer);
    }
    if (!in[0] && (strcmp(name, "embed_tokens") == 0 || strcmp(name, "wte") == 0))
        snprintf(in, sizeof in, "hook_embed");
    const int32_t st = qsae__sae_set_string(ctx, &c->hook, in[0] ? in : name);
    return st == QSAE_OK && c->transcoder && out[0] ?
           qsae__sae_set_string(ctx, &c->hook_out, out) : st;
}

/* The configuration of the training run one folder up, if it is there: model and context. */
static int32_t read_run(qsae_context *ctx, const char *folder, qsae__sae_config *c)
{
    json_t *run = NULL;
    char *const path = qsae__path_join(ctx, folder, "../config.json");
    int32_t st = path ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && qsae__file_exists(path))
        st = qsae__json_load(ctx, path, &run);
    const char *const model = json_string_value(json_object_get(run, "model"));
    const json_t *const length = json_object_get(run, "ctx_len");
    if (st == QSAE_OK && model)
        st = qsae__sae_set_string(ctx, &c->model, model);
    if (json_integer_value(length) > 0) /* 0 of other types */
        c->context_size = json_integer_value(length);
    json_decref(run);
    qsae__free(ctx, path);
    return st;
}

static int32_t set_kind(qsae_context *ctx, const json_t *cfg, const char *where,
                        qsae__sae_config *c)
{
    const char *name = "topk";
    bool is_signed = false, transcode = false, skip = false;
    int32_t st = qsae__json_str(cfg, where, "activation", false, &name, NULL);
    if (st == QSAE_OK && strcmp(name, "topk") != 0 && strcmp(name, "groupmax") != 0)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"activation\": expected topk or groupmax, "
                        "found \"%s\"", where, name);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "signed", false, &is_signed, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "transcode", false, &transcode, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "skip_connection", false, &skip, NULL);
    if (st == QSAE_OK && is_signed)
        name = "abstopk";
    if (st == QSAE_OK)
        st = qsae__sae_set_architecture(ctx, where, name, c);
    c->transcoder = transcode;
    c->skip = skip;
    c->apply_b_dec = !transcode; /* whatever normalize_decoder says */
    return st;
}

static int32_t parse(qsae_context *ctx, const json_t *cfg, const char *where, qsae__sae_config *c)
{
    int64_t expansion = 32;
    if (!json_is_object(cfg))
        return qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                          qsae__json_type_name(cfg));
    int32_t st = qsae__json_i64(cfg, where, "d_in", true, 1, MAX_SIZE, &c->d_in, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "num_latents", false, 0, MAX_SIZE, &c->d_sae, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "expansion_factor", false, 1, 1 << 20, &expansion, NULL);
    if (st == QSAE_OK && !c->d_sae)
        c->d_sae = c->d_in * expansion; /* at most 2^40 times 2^20 */
    if (st == QSAE_OK)
        st = set_kind(ctx, cfg, where, c);
    c->k = 32;
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "k", false, 1, MAX_SIZE, &c->k, NULL);
    return st;
}

int32_t qsae__sae_read_sparsify(qsae_context *ctx, const qsae__sae_place *place,
                                const qsae_sae_settings *s, qsae__sae_config *c,
                                qsae__tensors **tensors)
{
    qsae__rewrite r;
    json_t *cfg = NULL;
    (void)s;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    c->prepend_bos = -1;
    c->enc_turned = true;
    if (qsae__rewrite_has(&r, "W_decs.0") || qsae__rewrite_has(&r, "post_encs.0"))
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"W_decs.0\": SAEs of several targets are "
                        "not supported", place->params);
    if (st == QSAE_OK)
        st = qsae__json_load(ctx, place->config, &cfg);
    if (st == QSAE_OK)
        st = parse(ctx, cfg, place->config, c);
    json_decref(cfg);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, "sparsify");
    if (st == QSAE_OK)
        st = set_hooks(ctx, place->folder, c);
    if (st == QSAE_OK)
        st = read_run(ctx, place->folder, c);
    static const char *const names[][2] = {
        { "encoder.weight", "W_enc" }, { "encoder.bias", "b_enc" }, { "W_dec", "W_dec" },
        { "b_dec", "b_dec" }, { "W_skip", "W_skip" },
    };
    for (size_t i = 0; i < 5 && st == QSAE_OK; i++)
        if (i < 4 || qsae__rewrite_has(&r, names[i][0]))
            st = qsae__rewrite_same(&r, names[i][0], names[i][1], i % 2 ? 1 : 2, NULL);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}
