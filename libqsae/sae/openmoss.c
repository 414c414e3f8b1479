/* SPDX-License-Identifier: BSD-2-Clause */
/* SAEs of the OpenMOSS group (sae.md B.6): Llama Scope v1, Llama Scope R1 and the current form. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

#define MAX_SIZE ((int64_t)1 << 40)
#define CONTEXT 1024

static int32_t load_object(qsae_context *ctx, const char *path, json_t **out)
{
    int32_t st = qsae__json_load(ctx, path, out);
    if (st == QSAE_OK && !json_is_object(*out)) {
        st = qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", path,
                        qsae__json_type_name(*out));
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

/* Keys that all of these configurations have. */
static int32_t read_common(qsae_context *ctx, const json_t *cfg, const char *where,
                           qsae__sae_config *c)
{
    const char *in = "", *out = NULL;
    double expansion = 0;
    bool pre = false;
    int32_t found = 0;
    int32_t st = qsae__json_i64(cfg, where, "d_model", true, 1, MAX_SIZE, &c->d_in, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(cfg, where, "d_sae", false, 1, MAX_SIZE, &c->d_sae, NULL);
    if (st == QSAE_OK)
        st = qsae__json_f64(cfg, where, "expansion_factor", false, &expansion, &found);
    if (st == QSAE_OK && found && !(expansion > 0 && expansion < 1e6))
        st = qsae__fail(QSAE_EFORMAT, "%s: key \"expansion_factor\": expected a positive number, "
                        "found %g", where, expansion);
    if (st == QSAE_OK && !c->d_sae)
        c->d_sae = (int64_t)((double)c->d_in * expansion);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "apply_decoder_bias_to_pre_encoder", false, &pre, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "use_glu_encoder", false, &c->skip, NULL);
    if (st == QSAE_OK && c->skip)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"use_glu_encoder\": true is not supported",
                        where);
    c->apply_b_dec = pre;
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "hook_point_in", false, &in, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "hook_point_out", false, &out, NULL);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->hook, in);
    if (st == QSAE_OK && out && strcmp(in, out) != 0) {
        c->transcoder = true;
        st = qsae__sae_set_string(ctx, &c->hook_out, out);
    }
    return st;
}

/* An architecture by the activation; transcoder is told by the hooks already. */
static int32_t set_kind(qsae_context *ctx, const char *where, const char *act,
                        qsae__sae_config *c)
{
    static const char *const names[][3] = {
        { "relu", "standard", "transcoder" },
        { "jumprelu", "jumprelu", "jumprelu_transcoder" },
        { "topk", "topk", "topk" },
    };
    const bool transcoder = c->transcoder;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(act, names[i][0]) != 0)
            continue;
        const int32_t st = qsae__sae_set_architecture(ctx, where, names[i][1], c);
        c->transcoder = transcoder;
        return st == QSAE_OK && transcoder ?
               qsae__sae_set_string(ctx, &c->architecture, names[i][2]) : st;
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"act_fn\": expected relu, jumprelu or topk, "
                      "found \"%s\"", where, act);
}

/* dataset_average_activation_norm of a configuration: {"in": |x|, "out": |y|}. */
static int32_t read_norms(const json_t *cfg, const char *where, bool required,
                          qsae__sae_config *c)
{
    const json_t *norms = NULL;
    int32_t st = qsae__json_get(cfg, where, "dataset_average_activation_norm", required,
                                JSON_OBJECT, &norms);
    if (st == QSAE_OK && norms)
        st = qsae__json_f64(norms, where, "in", true, &c->norm_in, NULL);
    c->norm_out = c->norm_in;
    return st == QSAE_OK && norms ?
           qsae__json_f64(norms, where, "out", false, &c->norm_out, NULL) : st;
}

/* sqrt(d_in) / |x| of one of the norms. */
static int32_t factor_of(const char *where, double norm, int64_t d_in, double *s)
{
    *s = sqrt((double)d_in) / norm;
    return norm > 1e-20 && norm < 1e20 ? QSAE_OK :
           qsae__fail(QSAE_EFORMAT, "%s: key \"dataset_average_activation_norm\": expected a "
                      "positive number, found %g", where, norm);
}

/* encoder.weight [d_sae, d], decoder.weight [d, d_sae] and the biases. */
static int32_t take_linear(qsae__rewrite *r, qsae__sae_config *c)
{
    int32_t st = qsae__rewrite_same(r, "encoder.weight", "W_enc", 2, NULL);
    c->enc_turned = true;
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "encoder.bias", "b_enc", 1, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_turned(r, "decoder.weight", "W_dec");
    return st == QSAE_OK ? qsae__rewrite_same(r, "decoder.bias", "b_dec", 1, NULL) : st;
}

/* Which features fire is decided on h_i n_i, n_i the norm of the decoder's row, but the value that
 * is returned is h_i: with a threshold t that is h_i > t / n_i. A row of norm 0 never fires. */
static int32_t gate_by_norm(qsae__rewrite *r)
{
    float *norms, *t;
    int64_t n, count;
    int32_t st = qsae__rewrite_norms(r, &norms, &n);
    if (st != QSAE_OK)
        return st;
    st = qsae__rewrite_f32(r, "threshold", &t, &count);
    for (int64_t i = 0; st == QSAE_OK && i < qsae__min_i64(n, count); i++)
        t[i] = norms[i] > 0 ? fminf(t[i] / norms[i], FLT_MAX) : FLT_MAX;
    qsae__free(r->ctx, norms);
    return st;
}

static int32_t exponentiate(qsae__rewrite *r, const char *source)
{
    float *t;
    int64_t n;
    int32_t st = qsae__rewrite_same(r, source, "threshold", 1, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_f32(r, "threshold", &t, &n);
    for (int64_t i = 0; st == QSAE_OK && i < n; i++)
        t[i] = expf(t[i]);
    return st;
}

/* Llama Scope v1: trained on x s_in and y s_out; the threshold is in the unit of the raw x, which
 * is what the publisher's own loader makes of the rest. */
static int32_t scale_v1(qsae__rewrite *r, const char *where, bool gate, double threshold,
                        const qsae__sae_config *c)
{
    double in, out = 1;
    const qsae__tensor *bias;
    int32_t st = factor_of(where, c->norm_in, c->d_in, &in);
    if (st == QSAE_OK)
        st = factor_of(where, c->norm_out, c->d_in, &out);
    if (st == QSAE_OK)
        st = take_linear(r, &(qsae__sae_config){ .d_in = 0 });
    if (st == QSAE_OK)
        st = qsae__rewrite_divide(r, "b_enc", in);
    if (st == QSAE_OK)
        st = qsae__rewrite_divide(r, "b_dec", out);
    if (st == QSAE_OK && in != out)
        st = qsae__rewrite_multiply(r, "W_dec", in / out);
    if (st == QSAE_OK && gate)
        st = qsae__rewrite_fold_norms(r, true, false);
    if (st == QSAE_OK)
        st = qsae__tensors_need(r->from, "encoder.bias", 1, NULL, &bias);
    /* After the fold: the threshold is compared with what the fold makes of h. */
    return st == QSAE_OK && c->activation == QSAE__JUMPRELU ?
           qsae__rewrite_fill(r, "threshold", bias->shape[0], (float)threshold, NULL) : st;
}

int32_t qsae__sae_read_llama_scope(qsae_context *ctx, const qsae__sae_place *place,
                                   const qsae_sae_settings *s, qsae__sae_config *c,
                                   qsae__tensors **tensors)
{
    const char *const where = place->config, *act = "jumprelu";
    qsae__rewrite r;
    json_t *cfg = NULL;
    double threshold = 0;
    bool gate = false;
    (void)s;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    c->context_size = CONTEXT;
    c->prepend_bos = 1;
    st = load_object(ctx, where, &cfg);
    if (st == QSAE_OK)
        st = read_common(ctx, cfg, where, c);
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "act_fn", false, &act, NULL);
    if (st == QSAE_OK)
        st = set_kind(ctx, where, act, c);
    if (st == QSAE_OK && c->activation == QSAE__JUMPRELU)
        st = qsae__json_f64(cfg, where, "jump_relu_threshold", true, &threshold, NULL);
    if (st == QSAE_OK && c->activation == QSAE__TOPK)
        st = qsae__json_i64(cfg, where, "top_k", true, 1, MAX_SIZE, &c->k, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "sparsity_include_decoder_norm", false, &gate, NULL);
    if (st == QSAE_OK)
        st = read_norms(cfg, where, true, c);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, "llama-scope");
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->model, "meta-llama/Llama-3.1-8B");
    if (st == QSAE_OK)
        st = scale_v1(&r, where, gate, threshold, c);
    c->enc_turned = true;
    c->keeps_negative = c->activation == QSAE__JUMPRELU;
    json_decref(cfg);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}

/* W_E [d, d_sae], W_D [d_sae, d], b_E, b_D. */
static int32_t take_current(qsae__rewrite *r, const json_t *cfg, const char *where)
{
    const qsae__tensor *dec;
    bool bias = true;
    int32_t st = qsae__json_bool(cfg, where, "use_decoder_bias", false, &bias, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "W_E", "W_enc", 2, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "b_E", "b_enc", 1, NULL);
    if (st == QSAE_OK)
        st = qsae__rewrite_same(r, "W_D", "W_dec", 2, NULL);
    if (st == QSAE_OK)
        st = qsae__tensors_need(r->from, "W_D", 2, NULL, &dec);
    if (st == QSAE_OK)
        st = bias ? qsae__rewrite_same(r, "b_D", "b_dec", 1, NULL)
                  : qsae__rewrite_fill(r, "b_dec", dec->shape[1], 0, NULL);
    return st;
}

/* Norm of one hook: a tensor dataset_average_activation_norm.HOOK; *norm stays without one. */
static int32_t norm_of_hook(const qsae__rewrite *r, const char *hook, double *norm)
{
    char name[320];
    snprintf(name, sizeof name, "dataset_average_activation_norm.%s", hook);
    return qsae__rewrite_has(r, name) ? qsae__rewrite_scalar(r, name, norm) : QSAE_OK;
}

/* dataset-wise: W_enc *= s_in, W_dec /= s_out, b_dec /= s_out; biases and thresholds of the encoder
 * are in the normalised unit and stay. */
static int32_t scale_current(qsae__rewrite *r, const qsae__sae_place *place,
                             const qsae_sae_settings *s, qsae__sae_config *c)
{
    double in = s->scale, out = s->scale;
    qsae__sae_release known;
    int32_t st = norm_of_hook(r, c->hook, &c->norm_in);
    if (st == QSAE_OK)
        st = norm_of_hook(r, c->hook_out ? c->hook_out : c->hook, &c->norm_out);
    qsae__sae_release_of(place->folder, &known);
    if (st == QSAE_OK && s->scale == 0 && c->norm_in != 0 && c->norm_out != 0) {
        st = factor_of(place->config, c->norm_in, c->d_in, &in);
        if (st == QSAE_OK)
            st = factor_of(place->config, c->norm_out, c->d_in, &out);
    } else if (s->scale == 0) {
        in = out = known.scale;
    }
    if (st == QSAE_OK && in == 0) { /* not known: opening warns of it */
        c->normalize = QSAE__NORM_UNSCALED;
        return QSAE_OK;
    }
    if (st == QSAE_OK && (!(in > 1e-30) || !(in < 1e30)))
        st = qsae__fail(QSAE_EINVAL, "%s: scale: expected a positive number, found %g",
                        place->folder, in);
    if (st == QSAE_OK)
        st = qsae__rewrite_multiply(r, "W_enc", in);
    if (st == QSAE_OK)
        st = qsae__rewrite_divide(r, "W_dec", out);
    if (st == QSAE_OK)
        st = qsae__rewrite_divide(r, "b_dec", out);
    c->scale = in;
    c->scale_out = out;
    return st;
}

/* norm_activation; Llama Scope R1 and the default are dataset-wise. */
static int32_t read_mode(const json_t *cfg, const char *where, bool *scaled, qsae__sae_config *c)
{
    const char *mode = "dataset-wise";
    const int32_t st = qsae__json_str(cfg, where, "norm_activation", false, &mode, NULL);
    if (st != QSAE_OK)
        return st;
    *scaled = strcmp(mode, "dataset-wise") == 0;
    if (strcmp(mode, "token-wise") == 0)
        c->normalize = QSAE__NORM_CONSTANT;
    else if (!*scaled && strcmp(mode, "inference") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"norm_activation\": \"%s\": expected "
                          "token-wise, dataset-wise or inference", where, mode);
    if (c->normalize != QSAE__NORM_NONE && c->transcoder)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"norm_activation\": \"token-wise\" is not "
                          "supported where hook_point_out differs", where);
    return QSAE_OK;
}

static int32_t take_parameters(qsae__rewrite *r, const json_t *cfg, const char *where, bool old,
                               qsae__sae_config *c)
{
    bool gate = !old; /* sparsity_include_decoder_norm is on by default in the current form */
    int32_t st = old ? take_linear(r, c) : take_current(r, cfg, where);
    if (st == QSAE_OK && c->activation == QSAE__JUMPRELU)
        st = exponentiate(r, old ? "log_jumprelu_threshold"
                                 : "activation_function.log_jumprelu_threshold");
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "sparsity_include_decoder_norm", false, &gate, NULL);
    if (st == QSAE_OK && gate && c->activation == QSAE__JUMPRELU)
        st = gate_by_norm(r);
    c->rescale_by_norm = c->norm_undone = gate && c->activation == QSAE__TOPK;
    return st;
}

/* An SAE, or a transcoder of one layer. */
static int32_t read_single(qsae__rewrite *r, const qsae__sae_place *place, const json_t *cfg,
                           const qsae_sae_settings *s, bool old, qsae__sae_config *c)
{
    const char *const where = place->config, *act = old ? "jumprelu" : "relu";
    bool scaled = false;
    if (place->layer >= 0)
        return qsae__fail(QSAE_EINVAL, "%s: holds one SAE, so there is no layer %lld to choose",
                          place->folder, (long long)place->layer);
    int32_t st = qsae__json_str(cfg, where, "act_fn", false, &act, NULL);
    if (st == QSAE_OK)
        st = set_kind(r->ctx, where, act, c);
    if (st == QSAE_OK && c->activation == QSAE__TOPK)
        st = qsae__json_i64(cfg, where, "top_k", true, 1, MAX_SIZE, &c->k, NULL);
    if (st == QSAE_OK)
        st = read_mode(cfg, where, &scaled, c);
    if (st == QSAE_OK)
        st = read_norms(cfg, where, false, c);
    if (st == QSAE_OK)
        st = take_parameters(r, cfg, where, old, c);
    return st == QSAE_OK && scaled ? scale_current(r, place, s, c) : st;
}

/* ---- cross-layer transcoders: W_E [L, d, d_sae], W_D.m [m + 1, d_sae, d] ---- */

/* Norm of everything that a feature of the layer writes, over all layers: [d_sae], the caller
 * frees. */
static int32_t norms_of_writes(qsae__rewrite *r, int64_t layer, int64_t layers, int64_t features,
                               int64_t d, float **norms)
{
    float *const row = qsae__alloc_array(r->ctx, d, sizeof *row);
    double *const sum = qsae__calloc(r->ctx, features, sizeof *sum);
    int32_t st = row && sum ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t m = layer; m < layers && st == QSAE_OK; m++) {
        const int64_t shape[3] = { m + 1, features, d };
        const qsae__tensor *t;
        char name[32];
        snprintf(name, sizeof name, "W_D.%lld", (long long)m);
        if ((st = qsae__rewrite_need(r, name, 3, shape, &t)) != QSAE_OK)
            break;
        const size_t size = (size_t)qsae_dtype_bits(t->dtype) / 8;
        for (int64_t i = 0; i < features; i++) {
            const int64_t at = (layer * features + i) * d;
            qsae__to_f32(t->dtype, (const char *)t->data + (size_t)at * size, d, row);
            for (int64_t j = 0; j < d; j++)
                sum[i] += (double)row[j] * row[j];
        }
    }
    if (st == QSAE_OK && !(*norms = qsae__alloc_array(r->ctx, features, sizeof **norms)))
        st = QSAE_ENOMEM;
    for (int64_t i = 0; st == QSAE_OK && i < features; i++)
        (*norms)[i] = (float)sqrt(sum[i]);
    qsae__free(r->ctx, row);
    qsae__free(r->ctx, sum);
    return st;
}

/* Encoder of the layer, its decoder to layer `to`; b_D belongs to the layer written to and is added
 * with what that layer writes to itself. */
static int32_t take_layer(qsae__rewrite *r, int64_t layer, int64_t to, int64_t d)
{
    char dec[32], bias[32];
    snprintf(dec, sizeof dec, "W_D.%lld", (long long)to);
    snprintf(bias, sizeof bias, "b_D.%lld", (long long)to);
    int32_t st = qsae__rewrite_slice(r, "W_E", "W_enc", 0, layer);
    if (st == QSAE_OK)
        st = qsae__rewrite_slice(r, "b_E", "b_enc", 0, layer);
    if (st == QSAE_OK)
        st = qsae__rewrite_slice(r, dec, "W_dec", 0, layer);
    if (st == QSAE_OK)
        st = to == layer && qsae__rewrite_has(r, bias) ?
             qsae__rewrite_same(r, bias, "b_dec", 1, NULL) :
             qsae__rewrite_fill(r, "b_dec", d, 0, NULL);
    return st;
}

static int32_t layer_threshold(qsae__rewrite *r, int64_t layer, const float *norms)
{
    static const char source[] = "activation_function.log_jumprelu_threshold";
    float *t;
    int64_t n;
    int32_t st = qsae__rewrite_slice(r, source, "threshold", 0, layer);
    if (st == QSAE_OK)
        st = qsae__rewrite_f32(r, "threshold", &t, &n);
    for (int64_t i = 0; st == QSAE_OK && i < n; i++) {
        t[i] = expf(t[i]);
        if (norms)
            t[i] = norms[i] > 0 ? fminf(t[i] / norms[i], FLT_MAX) : FLT_MAX;
    }
    return st;
}

/* Name `at` of a list of hooks. */
static int32_t hook_of_layer(qsae_context *ctx, const json_t *cfg, const char *where,
                             const char *key, int64_t at, char **slot)
{
    const json_t *list = NULL;
    const int32_t st = qsae__json_get(cfg, where, key, true, JSON_ARRAY, &list);
    if (st != QSAE_OK)
        return st;
    const char *const name = json_string_value(json_array_get(list, (size_t)at));
    return name ? qsae__sae_set_string(ctx, slot, name) :
           qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected a name for layer %lld, found none",
                      where, key, (long long)at);
}

static int32_t read_clt(qsae__rewrite *r, const qsae__sae_place *place, const json_t *cfg,
                        const qsae__tensor *enc, const qsae_sae_settings *s, qsae__sae_config *c)
{
    const char *const where = place->config, *act = "relu";
    float *norms = NULL;
    bool gate = true, scaled = false;
    const int64_t layer = place->layer, to = place->write < 0 ? layer : place->write;
    const int64_t layers = enc->shape[0], d = enc->shape[1], features = enc->shape[2];
    if (layer < 0 || layer >= layers || to < layer || to >= layers)
        return qsae__fail(QSAE_EINVAL, "%s: holds %lld layers, each of which writes to itself and "
                          "later ones: expected one of them, as in %s#0 or %s#0:1", place->folder,
                          (long long)layers, place->folder, place->folder);
    int32_t st = hook_of_layer(r->ctx, cfg, where, "hook_points_in", layer, &c->hook);
    if (st == QSAE_OK)
        st = hook_of_layer(r->ctx, cfg, where, "hook_points_out", to, &c->hook_out);
    c->transcoder = true;
    c->encode_only = place->write < 0;
    if (st == QSAE_OK)
        st = qsae__json_str(cfg, where, "act_fn", false, &act, NULL);
    if (st == QSAE_OK)
        st = set_kind(r->ctx, where, act, c);
    if (st == QSAE_OK && c->activation == QSAE__TOPK)
        st = qsae__json_i64(cfg, where, "top_k", true, 1, MAX_SIZE, &c->k, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(cfg, where, "sparsity_include_decoder_norm", false, &gate, NULL);
    if (st == QSAE_OK && gate && c->activation == QSAE__TOPK)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"sparsity_include_decoder_norm\": true is not "
                        "supported for topk over layers", where);
    if (st == QSAE_OK)
        st = read_mode(cfg, where, &scaled, c);
    if (st == QSAE_OK)
        st = take_layer(r, layer, to, d);
    if (st == QSAE_OK && gate && c->activation == QSAE__JUMPRELU)
        st = norms_of_writes(r, layer, layers, features, d, &norms);
    if (st == QSAE_OK && c->activation == QSAE__JUMPRELU)
        st = layer_threshold(r, layer, norms);
    qsae__free(r->ctx, norms);
    return st == QSAE_OK && scaled ? scale_current(r, place, s, c) : st;
}

int32_t qsae__sae_read_openmoss(qsae_context *ctx, const qsae__sae_place *place,
                                const qsae_sae_settings *s, qsae__sae_config *c,
                                qsae__tensors **tensors)
{
    const char *const where = place->config;
    qsae__rewrite r;
    json_t *cfg = NULL;
    int32_t st = qsae__rewrite_open(ctx, place->params, &r);
    if (st != QSAE_OK)
        return st;
    const qsae__tensor *const enc = qsae__tensors_find(r.from, "W_E");
    const bool old = qsae__rewrite_has(&r, "encoder.weight"), clt = enc && enc->rank == 3;
    c->context_size = old ? CONTEXT : 0;
    c->prepend_bos = old ? 1 : -1;
    st = load_object(ctx, where, &cfg);
    if (st == QSAE_OK)
        st = read_common(ctx, cfg, where, c);
    if (st == QSAE_OK)
        st = qsae__sae_set_string(ctx, &c->format, clt ? "openmoss-clt" : old ? "llama-scope-r1"
                                                                              : "openmoss");
    if (st == QSAE_OK && clt)
        st = read_clt(&r, place, cfg, enc, s, c);
    else if (st == QSAE_OK)
        st = read_single(&r, place, cfg, s, old, c);
    json_decref(cfg);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, tensors);
    qsae__rewrite_close(&r);
    return st;
}
