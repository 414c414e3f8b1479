/* SPDX-License-Identifier: BSD-2-Clause */
/* Sets of transcoders and cross-layer transcoders of circuit-tracer (sae.md B.9), one layer at a
 * time; temporal SAEs, which are refused. */
#include <stdio.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

#define MAX_SIZE ((int64_t)1 << 40)

/* The names of a file, with the layer behind them in cross-layer transcoders. */
typedef struct names {
    char text[6][32];
} names;
enum { W_ENC, B_ENC, B_DEC, W_DEC, THRESHOLD, N_NAMES };

static void name_tensors(names *n, int64_t layer)
{
    static const char *const stems[] = { "W_enc", "b_enc", "b_dec", "W_dec", "threshold" };
    for (int i = 0; i < N_NAMES; i++)
        if (layer < 0)
            snprintf(n->text[i], sizeof n->text[i], "%s", stems[i]);
        else
            snprintf(n->text[i], sizeof n->text[i], "%s_%lld", stems[i], (long long)layer);
}

static int32_t set_hook(qsae_context *ctx, const json_t *cfg, const char *where, const char *key,
                        int64_t layer, char **slot)
{
    const char *name = NULL;
    char hook[320];
    const int32_t st = qsae__json_str(cfg, where, key, false, &name, NULL);
    if (st != QSAE_OK || !name)
        return st;
    snprintf(hook, sizeof hook, "blocks.%lld.%.255s", (long long)layer, name);
    return qsae__sae_set_string(ctx, slot, hook);
}

/* config.yaml: model, hooks, and for topk its k. */
static int32_t read_yaml(qsae_context *ctx, const qsae__sae_place *place, int64_t write,
                         const char **activation, json_t **out, qsae__sae_config *c)
{
    const char *const where = place->config, *model = NULL;
    int32_t st = qsae__sae_set_string(ctx, &c->hook, "");
    if (st != QSAE_OK || !where)
        return st;
    st = qsae__yaml_load(ctx, where, out);
    if (st == QSAE_OK)
        st = qsae__json_str(*out, where, "model_name", false, &model, NULL);
    if (st == QSAE_OK && model)
        st = qsae__sae_set_string(ctx, &c->model, model);
    if (st == QSAE_OK)
        st = set_hook(ctx, *out, where, "feature_input_hook", place->layer, &c->hook);
    if (st == QSAE_OK)
        st = set_hook(ctx, *out, where, "feature_output_hook", write, &c->hook_out);
    if (st == QSAE_OK)
        st = qsae__json_str(*out, where, "activation", false, activation, NULL);
    return st == QSAE_OK ? qsae__json_i64(*out, where, "k", false, 1, MAX_SIZE, &c->k, NULL) : st;
}

/* wandb-config.yaml of some releases has sizes, which the tensors must agree with. */
static int32_t read_sizes(qsae_context *ctx, const char *folder, qsae__sae_config *c)
{
    static const char *const files[] = { "wandb-config.yaml", "wanb-config.yaml" };
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < 2 && st == QSAE_OK; i++) {
        char *const path = qsae__path_join(ctx, folder, files[i]);
        json_t *cfg = NULL;
        const json_t *d_model = NULL, *d_feature = NULL;
        st = path ? QSAE_OK : QSAE_ENOMEM;
        if (st == QSAE_OK && qsae__file_exists(path))
            st = qsae__yaml_load(ctx, path, &cfg);
        if (st == QSAE_OK && cfg)
            st = qsae__json_get(cfg, path, "d_model", false, JSON_OBJECT, &d_model);
        if (st == QSAE_OK && d_model)
            st = qsae__json_i64(d_model, path, "value", false, 1, MAX_SIZE, &c->d_in, NULL);
        if (st == QSAE_OK && cfg)
            st = qsae__json_get(cfg, path, "d_feature", false, JSON_OBJECT, &d_feature);
        if (st == QSAE_OK && d_feature)
            st = qsae__json_i64(d_feature, path, "value", false, 1, MAX_SIZE, &c->d_sae, NULL);
        json_decref(cfg);
        qsae__free(ctx, path);
    }
    return st;
}

/* A threshold per feature or one for all. */
static int32_t take_threshold(qsae__rewrite *r, const qsae__tensor *t, int64_t features)
{
    double one;
    if (t->rank != 0)
        return qsae__rewrite_same(r, t->name, "threshold", 1, NULL);
    const int32_t st = qsae__rewrite_scalar(r, t->name, &one);
    return st == QSAE_OK ? qsae__rewrite_fill(r, "threshold", features, (float)one, NULL) : st;
}

/* jumprelu by a threshold, else topk by a k, else relu; a configuration that says other is an
 * error. */
static int32_t set_kind(qsae__rewrite *r, const char *where, const qsae__tensor *threshold,
                        const char *told, int64_t features, qsae__sae_config *c)
{
    const int64_t k = c->k;
    const bool jump = threshold != NULL;
    const char *const name = jump ? "jumprelu" : k ? "topk" : "relu";
    if (told && strcmp(told, name) != 0 && !(jump && strcmp(told, "jump_relu") == 0))
        return qsae__fail(QSAE_EMISMATCH, "%s: key \"activation\": \"%s\", but the files have %s",
                          where, told, jump ? "thresholds" : k ? "k" : "neither thresholds nor k");
    int32_t st = qsae__sae_set_architecture(r->ctx, where, jump ? "jumprelu_transcoder" :
                                            k ? "topk" : "transcoder", c);
    c->transcoder = true;
    c->keeps_negative = jump; /* the publisher's activation is h where h > t, without a maximum */
    c->k = jump ? 0 : k;
    return st == QSAE_OK && jump ? take_threshold(r, threshold, features) : st;
}

static int32_t name_kind(qsae_context *ctx, bool skip, qsae__sae_config *c)
{
    char text[48];
    c->skip = skip;
    if (c->activation == QSAE__TOPK)
        return QSAE_OK;
    snprintf(text, sizeof text, "%s%stranscoder",
             c->activation == QSAE__JUMPRELU ? "jumprelu_" : "", skip ? "skip_" : "");
    return qsae__sae_set_string(ctx, &c->architecture, text);
}

/* W_dec of a transcoder: a row per feature, or turned where the shape says so. */
static int32_t take_decoder(qsae__rewrite *r, int64_t features)
{
    const int64_t any[2] = { -1, -1 };
    const qsae__tensor *t;
    const int32_t st = qsae__tensors_need(r->from, "W_dec", 2, any, &t);
    if (st != QSAE_OK)
        return st;
    return t->shape[0] != features && t->shape[1] == features ?
           qsae__rewrite_turned(r, "W_dec", "W_dec") :
           qsae__rewrite_same(r, "W_dec", "W_dec", 2, any);
}

/* Encoder and its bias; how many features there are. */
static int32_t take_encoder(qsae__rewrite *r, const names *n, int64_t *features)
{
    const qsae__tensor *t;
    int32_t st = qsae__tensors_need(r->from, n->text[W_ENC], 2, NULL, &t);
    if (st != QSAE_OK)
        return st;
    *features = t->shape[0];
    st = qsae__rewrite_same(r, n->text[W_ENC], "W_enc", 2, NULL);
    return st == QSAE_OK ? qsae__rewrite_same(r, n->text[B_ENC], "b_enc", 1, NULL) : st;
}

static int32_t read_transcoder(qsae__rewrite *r, const qsae__sae_place *place,
                               qsae__sae_config *c)
{
    const char *told = NULL;
    json_t *cfg = NULL;
    names n;
    int64_t features = 0;
    name_tensors(&n, -1);
    int32_t st = read_yaml(r->ctx, place, place->layer, &told, &cfg, c);
    if (st == QSAE_OK)
        st = read_sizes(r->ctx, place->folder, c);
    if (st == QSAE_OK)
        st = take_encoder(r, &n, &features);
    if (st == QSAE_OK && qsae__rewrite_has(r, "k"))
        st = qsae__rewrite_count(r, "k", &c->k);
    if (st == QSAE_OK && qsae__rewrite_has(r, "log_thresholds"))
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"log_thresholds\" is not supported",
                        place->params);
    const qsae__tensor *const threshold = qsae__tensors_find(
        r->from, qsae__rewrite_either(r, "activation_function.threshold", "threshold"));
    if (st == QSAE_OK)
        st = set_kind(r, place->params, threshold, told, features, c);
    json_decref(cfg);
    if (st == QSAE_OK)
        st = take_decoder(r, features);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "b_dec", "b_dec", 1, NULL);
    const bool skip = qsae__rewrite_has(r, "W_skip");
    if (st == QSAE_OK && skip)
        st = qsae__rewrite_same(r, "W_skip", "W_skip", 2, NULL);
    return st == QSAE_OK ? name_kind(r->ctx, skip, c) : st;
}

static int32_t begin(qsae_context *ctx, const char *format, qsae__sae_config *c)
{
    c->prepend_bos = -1;
    c->enc_turned = true;
    return qsae__sae_set_string(ctx, &c->format, format);
}

int32_t qsae__sae_read_transcoder_set(qsae_context *ctx, const qsae__sae_place *place,
                                      const qsae_sae_settings *s, qsae__sae_config *c,
                                      qsae__tensors **tensors)
{
    qsae__rewrite r;
    (void)s;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    st = place->write >= 0 && place->write != place->layer ?
         qsae__fail(QSAE_EINVAL, "%s: a transcoder of layer %lld writes to itself only",
                    place->params, (long long)place->layer) :
         begin(ctx, "circuit-tracer", c);
    if (st == QSAE_OK)
        st = read_transcoder(&r, place, c);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}

/* W_dec_l [d_sae, L - l, d]: what layer l writes to layer l + i. b_dec is that of the layer written
 * to and is added once: with what a layer writes to itself. */
static int32_t take_writes(qsae__rewrite *r, const names *n, const qsae__sae_place *place,
                           int64_t write)
{
    const qsae__tensor *dec;
    int32_t st = qsae__tensors_need(r->from, n->text[W_DEC], 3, NULL, &dec);
    if (st != QSAE_OK)
        return st;
    if (write < place->layer || write - place->layer >= dec->shape[1])
        return qsae__fail(QSAE_EINVAL, "%s: layer %lld writes to layers %lld to %lld, not to %lld",
                          dec->file, (long long)place->layer, (long long)place->layer,
                          (long long)(place->layer + dec->shape[1] - 1), (long long)write);
    st = qsae__rewrite_slice(r, n->text[W_DEC], "W_dec", 1, write - place->layer);
    if (st != QSAE_OK)
        return st;
    return write == place->layer ? qsae__rewrite_same(r, n->text[B_DEC], "b_dec", 1, NULL)
                                 : qsae__rewrite_fill(r, "b_dec", dec->shape[2], 0, NULL);
}

int32_t qsae__sae_read_clt(qsae_context *ctx, const qsae__sae_place *place,
                           const qsae_sae_settings *s, qsae__sae_config *c,
                           qsae__tensors **tensors)
{
    const int64_t write = place->write < 0 ? place->layer : place->write;
    const char *told = NULL;
    char files[2][48];
    const char *const paths[2] = { files[0], files[1] };
    qsae__rewrite r;
    json_t *cfg = NULL;
    names n;
    int64_t features = 0;
    (void)s;
    for (int i = 0; i < 2; i++)
        snprintf(files[i], sizeof files[i], "W_%s_%lld.safetensors", i ? "dec" : "enc",
                 (long long)place->layer);
    name_tensors(&n, place->layer);
    int32_t st = qsae__rewrite_open_files(ctx, place->folder, paths, 2, &r);
    if (st != QSAE_OK)
        return st;
    st = begin(ctx, "circuit-tracer-clt", c);
    if (st == QSAE_OK)
        st = read_yaml(ctx, place, write, &told, &cfg, c);
    if (st == QSAE_OK)
        st = take_encoder(&r, &n, &features);
    if (st == QSAE_OK)
        st = set_kind(&r, place->params, qsae__tensors_find(r.from, n.text[THRESHOLD]), told,
                      features, c);
    json_decref(cfg);
    c->encode_only = place->write < 0;
    if (st == QSAE_OK)
        st = take_writes(&r, &n, place, write);
    if (st == QSAE_OK)
        st = name_kind(ctx, false, c);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}

int32_t qsae__sae_read_temporal(qsae_context *ctx, const qsae__sae_place *place,
                                const qsae_sae_settings *s, qsae__sae_config *c,
                                qsae__tensors **tensors)
{
    (void)ctx;
    (void)s;
    (void)c;
    (void)tensors;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: a temporal SAE: it reads a whole sequence, rows are "
                      "not encoded one by one; this architecture is not supported", place->folder);
}
