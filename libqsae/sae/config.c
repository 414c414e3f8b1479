/* SPDX-License-Identifier: BSD-2-Clause */
/* cfg.json of SAELens, old and new. */
#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"

#define MAX_SIZE ((int64_t)1 << 40)

static const struct {
    const char *name;
    enum qsae__activation activation;
    bool transcoder, skip;
} architectures[] = {
    { "standard", QSAE__RELU, false, false },
    { "gated", QSAE__GATED, false, false },
    { "jumprelu", QSAE__JUMPRELU, false, false },
    { "topk", QSAE__TOPK, false, false },
    { "abstopk", QSAE__ABSTOPK, false, false },
    { "groupmax", QSAE__GROUPMAX, false, false },
    { "batchtopk", QSAE__JUMPRELU, false, false },
    { "matryoshka_batchtopk", QSAE__JUMPRELU, false, false },
    { "matching_pursuit", QSAE__PURSUIT, false, false },
    { "transcoder", QSAE__RELU, true, false },
    { "skip_transcoder", QSAE__RELU, true, true },
    { "jumprelu_transcoder", QSAE__JUMPRELU, true, false },
    { "jumprelu_skip_transcoder", QSAE__JUMPRELU, true, true },
};

void qsae__sae_config_free(qsae_context *ctx, qsae__sae_config *c)
{
    qsae__free(ctx, c->architecture);
    qsae__free(ctx, c->format);
    qsae__free(ctx, c->hook);
    qsae__free(ctx, c->widths);
    qsae__free(ctx, c->hook_out);
    qsae__free(ctx, c->model);
    qsae__free(ctx, c->neuronpedia);
    memset(c, 0, sizeof *c);
}

static int32_t set_string(qsae_context *ctx, char **slot, const char *value)
{
    char *s = qsae__strdup(ctx, value);
    if (!s)
        return QSAE_ENOMEM;
    qsae__free(ctx, *slot);
    *slot = s;
    return QSAE_OK;
}

static int32_t set_architecture(qsae_context *ctx, const char *where, const char *name,
                                qsae__sae_config *c)
{
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        if (strcmp(name, architectures[i].name) != 0)
            continue;
        c->activation = architectures[i].activation;
        c->transcoder = architectures[i].transcoder;
        c->skip = architectures[i].skip;
        return set_string(ctx, &c->architecture, name);
    }
    return qsae__fail(QSAE_EUNSUPPORTED,
                      "%s: key \"architecture\": \"%s\" is not supported; supported are standard, "
                      "gated, jumprelu, topk, abstopk, groupmax, batchtopk, matryoshka_batchtopk, "
                      "matching_pursuit and the transcoder forms of standard and jumprelu%s",
                      where, name,
                      strcmp(name, "temporal") == 0 ? "; a temporal SAE predicts its codes from "
                                                      "earlier tokens, not row by row" : "");
}

/* Leading number of a version string, -1 if there is none. */
static long version_major(const char *v)
{
    return isdigit((unsigned char)v[0]) ? strtol(v, NULL, 10) : -1;
}

/* Keys moved from the top level to "metadata" in SAELens 6: looked up in both. */
static const json_t *lookup(const json_t *cfg, const json_t *meta, const char *key)
{
    const json_t *v = meta ? json_object_get(meta, key) : NULL;
    if (qsae__json_absent(v))
        v = json_object_get(cfg, key);
    return qsae__json_absent(v) ? NULL : v;
}

static int32_t read_normalize(const json_t *cfg, const char *where, qsae__sae_config *c)
{
    const json_t *const v = json_object_get(cfg, "normalize_activations");
    c->normalize = QSAE__NORM_NONE;
    if (qsae__json_absent(v) || json_typeof(v) == JSON_FALSE)
        return QSAE_OK;
    const char *const s = json_is_true(v) ? "expected_average_only_in" : json_string_value(v);
    if (!s)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: key \"normalize_activations\": expected a string, found "
                          "%s", where, qsae__json_type_name(v));
    if (strcmp(s, "none") == 0)
        return QSAE_OK;
    if (strcmp(s, "layer_norm") == 0) {
        c->normalize = QSAE__NORM_LAYER;
        return QSAE_OK;
    }
    if (strcmp(s, "constant_norm_rescale") == 0) {
        c->normalize = QSAE__NORM_CONSTANT;
        return QSAE_OK;
    }
    if (strcmp(s, "expected_average_only_in") == 0) {
        c->normalize = QSAE__NORM_UNSCALED;
        return QSAE_OK;
    }
    return qsae__fail(QSAE_EUNSUPPORTED,
                      "%s: key \"normalize_activations\": \"%s\" is not supported%s", where, s,
                      strcmp(s, "covariance_whitening") == 0 ?
                      ": its matrices are not in the file; save the SAE for inference with "
                      "SAELens, which folds them into the weights" :
                      strcmp(s, "constant_scalar_rescale") == 0 ?
                      ": only temporal SAEs have it" : "");
}

/* Old files name the activation function apart from the architecture (sae.md B.3). */
static int32_t read_activation(qsae_context *ctx, const json_t *cfg, const char *where,
                               qsae__sae_config *c)
{
    const json_t *v = json_object_get(cfg, "activation_fn_str");
    if (qsae__json_absent(v))
        v = json_object_get(cfg, "activation_fn");
    if (qsae__json_absent(v))
        return QSAE_OK;
    const char *const s = json_string_value(v);
    if (!s)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"activation_fn\": expected a string, found %s",
                          where, qsae__json_type_name(v));
    if (strcmp(s, "relu") == 0)
        return QSAE_OK;
    if (strcmp(s, "tanh-relu") == 0 && c->activation == QSAE__RELU) {
        c->activation = QSAE__TANH_RELU;
        return QSAE_OK;
    }
    if (strcmp(s, "topk") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"activation_fn\": \"%s\" is not supported",
                          where, s);
    int32_t st = set_architecture(ctx, where, "topk", c);
    const json_t *kwargs = NULL;
    if (st == QSAE_OK)
        st = qsae__json_get(cfg, where, "activation_fn_kwargs", true, JSON_OBJECT, &kwargs);
    if (st == QSAE_OK)
        st = qsae__json_i64(kwargs, where, "k", true, 1, MAX_SIZE, &c->k, NULL);
    return st;
}

/* The attention head whose slice of the hook the SAE reads (sae.md A.6). */
static int32_t read_head(const json_t *cfg, const json_t *meta, const char *where,
                         qsae__sae_config *c)
{
    static const char *const keys[] = { "hook_head_index", "hook_point_head_index" };
    for (size_t i = 0; i < 2; i++) {
        const json_t *const v = lookup(cfg, meta, keys[i]);
        if (!v)
            continue;
        if (json_typeof(v) != JSON_INTEGER || json_integer_value(v) < 0 ||
            json_integer_value(v) > INT32_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected the number of a head", where,
                              keys[i]);
        c->one_head = true;
        c->head = json_integer_value(v);
    }
    return QSAE_OK;
}

/* Options about the rows; those that do not apply to plain rows are refused. */
static int32_t read_options(const json_t *cfg, const json_t *meta, const char *where,
                            qsae__sae_config *c)
{
    const int32_t st0 = read_head(cfg, meta, where, c);
    if (st0 != QSAE_OK)
        return st0;
    const json_t *const kwargs = lookup(cfg, meta, "model_from_pretrained_kwargs");
    /* Of a LayerNorm model with centred writing weights a row is that of the model itself less its
     * mean (sae.md A.4). */
    c->center_input = json_is_true(json_object_get(kwargs, "center_writing_weights"));
    const char *reshape = NULL;
    const int32_t st = qsae__json_str(cfg, where, "reshape_activations", false, &reshape, NULL);
    if (st != QSAE_OK)
        return st;
    if (reshape && strcmp(reshape, "none") != 0 && strcmp(reshape, "hook_z") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: key \"reshape_activations\": \"%s\" is not supported",
                          where, reshape);
    const char *dtype = NULL;
    const int32_t st2 = qsae__json_str(cfg, where, "dtype", false, &dtype, NULL);
    if (st2 != QSAE_OK || !dtype)
        return st2;
    const char *const d = strncmp(dtype, "torch.", 6) == 0 ? dtype + 6 : dtype;
    static const char *const known[] = { "float32", "float64", "float16", "bfloat16" };
    for (size_t i = 0; i < 4; i++)
        if (strcmp(d, known[i]) == 0)
            return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"dtype\": \"%s\" is not supported", where,
                      dtype);
}

static int32_t read_sizes(const json_t *cfg, const char *where, qsae__sae_config *c)
{
    int32_t found = 0;
    int32_t st = qsae__json_i64(cfg, where, "d_in", true, 1, MAX_SIZE, &c->d_in, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "d_sae", false, 1, MAX_SIZE, &c->d_sae, &found);
    if (st == QSAE_OK && !found) {
        double expansion = 0;
        st = qsae__json_f64(cfg, where, "expansion_factor", false, &expansion, &found);
        const double features = expansion * (double)c->d_in;
        if (st == QSAE_OK && found && !(expansion > 0 && features < (double)MAX_SIZE))
            return qsae__fail(QSAE_EFORMAT, "%s: key \"expansion_factor\": expected a positive "
                              "number, found %g", where, expansion);
        c->d_sae = (int64_t)features;
    }
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "d_out", false, 1, MAX_SIZE, &c->d_out, NULL);
    return st;
}

static int32_t read_origin(qsae_context *ctx, const json_t *cfg, const json_t *meta,
                           const char *where, bool old, qsae__sae_config *c)
{
    static const char *const hooks[] = { "hook_name", "hook_point", "hf_hook_name" };
    /* SAELens says hook_mlp_in of Gemma Scope 2's transcoders, which is another tensor in
     * TransformerLens; where there is the Hugging Face name too, that is right (sae.md B.5). */
    const char *const named = json_string_value(lookup(cfg, meta, hooks[0])),
               *const at = named ? strstr(named, ".hook_mlp_in") : NULL;
    const bool misnamed = at && qsae__json_is(lookup(cfg, meta, hooks[2]), JSON_STRING);
    for (size_t i = misnamed ? 2 : 0; i < 3; i++) {
        const json_t *const v = lookup(cfg, meta, hooks[i]);
        if (!v)
            continue;
        if (!json_is_string(v))
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected a string, found %s", where,
                              hooks[i], qsae__json_type_name(v));
        const int32_t st = set_string(ctx, &c->hook, json_string_value(v));
        if (st != QSAE_OK)
            return st;
        break;
    }
    static const struct {
        const char *key;
        size_t slot;
    } texts[] = {
        { "hf_hook_name_out", offsetof(qsae__sae_config, hook_out) },
        { "hook_name_out", offsetof(qsae__sae_config, hook_out) },
        { "model_name", offsetof(qsae__sae_config, model) },
        { "neuronpedia_id", offsetof(qsae__sae_config, neuronpedia) },
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *const text = json_string_value(lookup(cfg, meta, texts[i].key));
        char **const slot = (char **)(void *)((char *)c + texts[i].slot);
        if (text && set_string(ctx, slot, text) != QSAE_OK)
            return QSAE_ENOMEM;
    }
    const json_t *v = lookup(cfg, meta, "context_size");
    if (json_integer_value(v) > 0) /* 0 of other types */
        c->context_size = json_integer_value(v);
    v = lookup(cfg, meta, "prepend_bos");
    c->prepend_bos = qsae__json_is(v, JSON_TRUE) ? 1 :
                     qsae__json_is(v, JSON_FALSE) ? 0 : old ? 1 : -1;
    return QSAE_OK;
}

/* Cumulative widths of a matryoshka SAE; the last is d_sae whether the list says so or not. */
static int32_t read_widths(qsae_context *ctx, const json_t *cfg, const char *where,
                           qsae__sae_config *c)
{
    static const char key[] = "matryoshka_widths";
    const json_t *list = NULL;
    int32_t st = qsae__json_get(cfg, where, key, false, JSON_ARRAY, &list);
    const size_t n = json_array_size(list);
    if (st != QSAE_OK || n == 0)
        return st;
    c->widths = qsae__alloc_array(ctx, (int64_t)n + 1, sizeof *c->widths);
    if (!c->widths)
        return QSAE_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *const v = json_array_get(list, i);
        const int64_t w = json_integer_value(v); /* 0 of other types */
        if (w < 1 || w > MAX_SIZE || (i && w <= c->widths[i - 1]) || (c->d_sae && w > c->d_sae))
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected ascending integers from 1 to "
                              "d_sae, found another value at place %d", where, key, (int)i);
        c->widths[i] = w;
    }
    c->n_widths = (int64_t)n;
    if (c->d_sae && c->widths[n - 1] < c->d_sae)
        c->widths[c->n_widths++] = c->d_sae;
    return QSAE_OK;
}

static bool is_training_batchtopk(const qsae__sae_config *c)
{
    return strstr(c->architecture, "batchtopk") != NULL;
}

/* Keys that belong to one activation. */
static int32_t read_activation_keys(qsae_context *ctx, const json_t *cfg, const char *where,
                                    qsae__sae_config *c)
{
    const bool topk = c->activation == QSAE__TOPK || c->activation == QSAE__ABSTOPK;
    int32_t st = QSAE_OK;
    if ((topk || c->activation == QSAE__GROUPMAX) && !c->k) {
        c->k = 100;
        st = qsae__json_i64(cfg, where, "k", false, 1, MAX_SIZE, &c->k, NULL);
    }
    if (st == QSAE_OK && (topk || is_training_batchtopk(c))) {
        c->rescale_by_norm = !topk; /* the defaults of TopKSAEConfig and TopKTrainingSAEConfig */
        st = qsae__json_bool(cfg, where, "rescale_acts_by_decoder_norm", false, &c->rescale_by_norm,
                             NULL);
    }
    if (st == QSAE_OK && is_training_batchtopk(c))
        st = read_widths(ctx, cfg, where, c);
    if (st != QSAE_OK || c->activation != QSAE__PURSUIT)
        return st;
    c->residual_threshold = 1e-2;
    c->stop_on_repeat = true;
    st = qsae__json_f64(cfg, where, "residual_threshold", false, &c->residual_threshold, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "max_iterations", false, 1, MAX_SIZE, &c->max_iterations,
                            NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "stop_on_duplicate_support", false, &c->stop_on_repeat,
                             NULL);
    return st;
}

static int32_t parse_saelens(qsae_context *ctx, const json_t *cfg, const char *where,
                             qsae__sae_config *c)
{
    if (!json_is_object(cfg))
        return qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                          qsae__json_type_name(cfg));
    const json_t *meta = NULL;
    const char *name = "standard", *version = NULL;
    bool b_dec = true, flag = false;
    int32_t st = qsae__json_get(cfg, where, "metadata", false, JSON_OBJECT, &meta);
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "sae_lens_version", false, &version, NULL);
    if (st == QSAE_OK && !version && meta)
        st = qsae__json_str(meta, where, "sae_lens_version", false, &version, NULL);
    const bool old = !version || version_major(version) < 6;
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "architecture", false, &name, NULL);
    if (st == QSAE_OK)
        st = set_architecture(ctx, where, name, c);
    if (st == QSAE_OK && old)
        st = read_activation(ctx, cfg, where, c);
    if (st == QSAE_OK)
        st = read_options(cfg, meta, where, c);
    if (st == QSAE_OK)
        st = read_sizes(cfg, where, c);
    b_dec = !c->transcoder;
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "apply_b_dec_to_input", false, &b_dec, NULL);
    if (st == QSAE_OK && b_dec && c->transcoder)
        st = qsae__fail(QSAE_EFORMAT, "%s: key \"apply_b_dec_to_input\": expected false for "
                        "architecture \"%s\", found true", where, name);
    c->apply_b_dec = b_dec;
    if (st == QSAE_OK)
        st = read_normalize(cfg, where, c);
    if (st == QSAE_OK)
        st = read_activation_keys(ctx, cfg, where, c);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "finetuning_scaling_factor", false, &flag, NULL);
    c->scaling_allowed = flag;
    return st == QSAE_OK ? read_origin(ctx, cfg, meta, where, old, c) : st;
}

int32_t qsae__sae_config_saelens(qsae_context *ctx, const char *path, qsae__sae_config *out)
{
    memset(out, 0, sizeof *out);
    json_t *cfg = NULL;
    int32_t st = qsae__json_load(ctx, path, &cfg);
    if (st == QSAE_OK)
        st = set_string(ctx, &out->format, "saelens");
    if (st == QSAE_OK)
        st = set_string(ctx, &out->hook, "");
    if (st == QSAE_OK)
        st = parse_saelens(ctx, cfg, path, out);
    json_decref(cfg);
    if (st != QSAE_OK)
        qsae__sae_config_free(ctx, out);
    return st;
}

int32_t qsae__sae_set_architecture(qsae_context *ctx, const char *where, const char *name,
                                   qsae__sae_config *c)
{
    return set_architecture(ctx, where, name, c);
}

int32_t qsae__sae_set_string(qsae_context *ctx, char **slot, const char *value)
{
    return set_string(ctx, slot, value);
}
