/* SPDX-License-Identifier: BSD-2-Clause */
/* The keys of a GGUF file as config.json (llama.cpp's llama_model::load_hparams). */
#include "model/gguf_build.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY_SIZE 96
#define SIZE_LIMIT (1 << 30) /* products of two fit in i64 several times over */

/* "llama.attention.head_count" */
static const char *full_key(const qsae__gguf_build *b, const char *key, char text[KEY_SIZE])
{
    snprintf(text, KEY_SIZE, "%s.%s", b->arch->name, key);
    return text;
}

static int32_t get_f64(const qsae__gguf_build *b, const char *key, bool required, double *out,
                       int32_t *present)
{
    char text[KEY_SIZE];
    const int32_t st = qsae__gguf_f64(b->g, full_key(b, key, text), required, out, present);
    if (st == QSAE_OK && !isfinite(*out))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a finite number, found %g", b->path, text,
                          *out);
    return st;
}

/* A size, or an array with the same size for every block. */
static int32_t get_size(const qsae__gguf_build *b, const char *key, bool required, int64_t *out)
{
    char text[KEY_SIZE];
    qsae__gguf_array a = { 0 };
    int32_t found = 0;
    full_key(b, key, text);
    if (qsae__gguf_get_array(b->g, text, false, -1, &a, &found) != QSAE_OK || !found)
        return qsae__gguf_i64(b->g, text, required, 1, SIZE_LIMIT, out, NULL);
    if (a.type == QSAE__GGUF_STRING || a.type == QSAE__GGUF_BOOL || a.count != b->blocks)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected an integer for each of %" PRId64
                          " blocks, found an array of %" PRId64, b->path, text, b->blocks, a.count);
    const double v = qsae__gguf_element(&a, 0);
    for (int64_t i = 1; i < a.count; i++)
        if (!(qsae__gguf_element(&a, i) == v))
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: %g in block 0, %g in block %" PRId64
                              ": blocks of different shapes are not supported", b->path, text, v,
                              qsae__gguf_element(&a, i), i);
    if (!(v >= 1 && v <= SIZE_LIMIT && v == floor(v)))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a positive integer, found %g", b->path,
                          text, v);
    *out = (int64_t)v;
    return QSAE_OK;
}

static int32_t set(qsae__gguf_build *b, const char *key, json_t *value)
{
    if (json_object_set_new(b->config, key, value) != 0)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", b->path);
    return QSAE_OK;
}

/* Keys that ask for what this library does not compute, whichever architecture has them. */
static int32_t refuse_keys(const qsae__gguf_build *b)
{
    static const struct {
        const char *key;
        double neutral; /* the value that changes nothing */
    } keys[] = {
        { "expert_count", 0 }, { "embedding_scale", 1 }, { "residual_scale", 1 },
        { "logit_scale", 1 }, { "attention.clamp_kqv", 0 },
        { "attention.max_alibi_bias", 0 }, { "rope.scaling.attn_factor", 1 },
        { "attention.temperature_scale", 0 }, { "attention.shared_kv_layers", 0 },
        { "nextn_predict_layers", 0 },
    };
    char text[KEY_SIZE];
    bool causal = true;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        double v = keys[i].neutral;
        const int32_t st = get_f64(b, keys[i].key, false, &v, NULL);
        if (st != QSAE_OK)
            return st;
        if (v != keys[i].neutral)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: %g is not supported", b->path,
                              full_key(b, keys[i].key, text), v);
    }
    const int32_t st = qsae__gguf_bool(b->g, full_key(b, "attention.causal", text), false, &causal,
                                       NULL);
    if (st == QSAE_OK && !causal)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: only causal models are supported", b->path,
                          text);
    return st;
}

/* A size that must be the head's, if the key is there. */
static int32_t same_as_head(const qsae__gguf_build *b, const char *key)
{
    char text[KEY_SIZE];
    int64_t v = b->head_dim;
    const int32_t st = get_size(b, key, false, &v);
    if (st == QSAE_OK && v != b->head_dim)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: %" PRId64 " is not supported, heads have "
                          "%" PRId64 " entries", b->path, full_key(b, key, text), v, b->head_dim);
    return st;
}

/* Architectures with q, k and v in one matrix have as many heads of each, as wide as the model. */
static int32_t plain_heads(const qsae__gguf_build *b)
{
    if (b->kv_heads == b->heads && b->head_dim * b->heads == b->width)
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: %" PRId64 " heads of %" PRId64 " and %" PRId64 " for "
                      "k and v in a width of %" PRId64 " are not supported in architecture "
                      "\"%s\"", b->path, b->heads, b->head_dim, b->kv_heads, b->width,
                      b->arch->name);
}

static int32_t set_id(qsae__gguf_build *b, const char *key, const char *hf)
{
    int32_t present = 0;
    int64_t id = 0;
    const int32_t st = qsae__gguf_i64(b->g, key, false, -1, UINT32_MAX, &id, &present);
    if (st != QSAE_OK)
        return st;
    return set(b, hf, present && id >= 0 && id <= INT32_MAX ? json_integer(id) : json_null());
}

int32_t qsae__gguf_sizes(qsae__gguf_build *b)
{
    int64_t mlp = 0, context = 0, vocab;
    char text[KEY_SIZE];
    const qsae__tensor *const embed = qsae__tensors_find(b->raw, "token_embd.weight");
    int32_t st = qsae__gguf_i64(b->g, full_key(b, "block_count", text), true, 1, QSAE__GGUF_BLOCKS,
                                &b->blocks, NULL);
    if (st == QSAE_OK)
        st = get_size(b, "embedding_length", true, &b->width);
    if (st == QSAE_OK)
        st = get_size(b, "feed_forward_length", true, &mlp);
    if (st == QSAE_OK)
        st = get_size(b, "context_length", true, &context);
    if (st == QSAE_OK)
        st = get_size(b, "attention.head_count", true, &b->heads);
    b->kv_heads = b->heads;
    if (st == QSAE_OK)
        st = get_size(b, "attention.head_count_kv", false, &b->kv_heads);
    if (st != QSAE_OK)
        return st;
    b->head_dim = b->width / b->heads;
    st = get_size(b, "attention.key_length", false, &b->head_dim);
    if (st == QSAE_OK)
        st = same_as_head(b, "attention.value_length");
    if (st == QSAE_OK && !b->arch->layer_norm) /* a part of a head in GPT-NeoX, no key of GPT-2 */
        st = same_as_head(b, "rope.dimension_count");
    if (st == QSAE_OK && b->arch->layer_norm)
        st = plain_heads(b);
    if (st != QSAE_OK)
        return st;
    if (!embed || embed->rank != 2)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"token_embd.weight\": expected a matrix, "
                          "found %s", b->path, embed ? "another shape" : "none");
    vocab = embed->shape[0];
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {
        { "num_hidden_layers", b->blocks }, { "hidden_size", b->width },
        { "intermediate_size", mlp }, { "max_position_embeddings", context },
        { "num_attention_heads", b->heads }, { "num_key_value_heads", b->kv_heads },
        { "head_dim", b->head_dim }, { "vocab_size", vocab },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && st == QSAE_OK; i++)
        st = set(b, sizes[i].key, json_integer(sizes[i].value));
    return st;
}

int32_t qsae__gguf_common(qsae__gguf_build *b)
{
    const bool layer = b->arch->layer_norm;
    double eps = 0;
    int32_t st = refuse_keys(b);
    if (st == QSAE_OK)
        st = get_f64(b, layer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
                     true, &eps, NULL);
    if (st == QSAE_OK) /* GPT-2 calls it otherwise: see there */
        st = set(b, layer ? "layer_norm_eps" : "rms_norm_eps", json_real(eps));
    if (st == QSAE_OK)
        st = set(b, "model_type", json_string(b->arch->model_type));
    if (st == QSAE_OK)
        st = set_id(b, "tokenizer.ggml.bos_token_id", "bos_token_id");
    if (st == QSAE_OK)
        st = set_id(b, "tokenizer.ggml.eos_token_id", "eos_token_id");
    if (st == QSAE_OK)
        st = set(b, "tie_word_embeddings",
                 json_boolean(!qsae__tensors_find(b->raw, "output.weight")));
    if (st == QSAE_OK)
        st = set(b, "attention_bias", json_boolean(b->attention_bias));
    if (st == QSAE_OK)
        st = set(b, "mlp_bias", json_boolean(b->mlp_bias));
    return st;
}

/* rope.scaling.*, or rope.scale_linear of files from before it. */
static int32_t set_scaling(qsae__gguf_build *b)
{
    const char *type = "linear";
    uint64_t n = strlen(type);
    double factor = 0;
    char text[KEY_SIZE];
    int32_t present = 0;
    int32_t st = qsae__gguf_str(b->g, full_key(b, "rope.scaling.type", text), false, &type, &n,
                                NULL);
    if (st == QSAE_OK)
        st = get_f64(b, "rope.scaling.factor", false, &factor, &present);
    if (st == QSAE_OK && !present)
        st = get_f64(b, "rope.scale_linear", false, &factor, NULL);
    if (st != QSAE_OK || (n == 4 && !memcmp(type, "none", 4)))
        return st;
    if (n != 6 || memcmp(type, "linear", 6) != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: \"%.*s\" is not supported (none, linear are)",
                          b->path, text, (int)(n < 64 ? n : 64), type);
    if (factor < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a positive factor, found %g", b->path,
                          full_key(b, "rope.scaling.factor", text), factor);
    if (factor == 0 || factor == 1) /* 0: none, as llama.cpp reads it */
        return QSAE_OK;
    return set(b, "rope_scaling",
               json_pack("{s:s, s:f}", "rope_type", "linear", "factor", factor));
}

/* rope_freqs.weight [head_dim / 2]: the llama3 scaling, as divisors of the frequencies. */
static int32_t set_factors(qsae__gguf_build *b)
{
    const qsae__tensor *const t = qsae__tensors_find(b->raw, "rope_freqs.weight");
    if (!t)
        return QSAE_OK;
    if (t->dtype != QSAE_F32 || t->rank != 1 || t->shape[0] != b->head_dim / 2)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"rope_freqs.weight\": expected F32 [%" PRId64
                          "], found %s of rank %d and %" PRIu64 " bytes", b->path, b->head_dim / 2,
                          qsae_dtype_name(t->dtype), t->rank, t->bytes);
    json_t *const list = json_array();
    int32_t st = set(b, "rope_factors", list);
    for (int64_t i = 0; i < t->shape[0] && st == QSAE_OK; i++) {
        float v;
        memcpy(&v, (const uint8_t *)t->data + i * 4, sizeof v);
        if (!(isfinite(v) && v > 0))
            st = qsae__fail(QSAE_EFORMAT, "%s: tensor \"rope_freqs.weight\"[%" PRId64 "]: expected "
                            "a positive number, found %g", b->path, i, (double)v);
        else if (json_array_append_new(list, json_real((double)v)) != 0)
            st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", b->path);
    }
    return st;
}

/* Neither architecture's readers look at attention.scale: one that says something else than they
 * assume is refused. usual: the square of its inverse. */
static int32_t check_scale(const qsae__gguf_build *b, double usual)
{
    char text[KEY_SIZE];
    double scale = 0;
    const int32_t st = get_f64(b, "attention.scale", false, &scale, NULL);
    if (st == QSAE_OK && scale != 0 && fabs(scale * sqrt(usual) - 1) > 1e-6)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: %g is not supported", b->path,
                          full_key(b, "attention.scale", text), scale);
    return st;
}

int32_t qsae__gguf_llama(qsae__gguf_build *b)
{
    char text[KEY_SIZE];
    double theta = 10000;
    int64_t window = 0;
    int32_t st = get_f64(b, "rope.freq_base", false, &theta, NULL);
    if (st == QSAE_OK)
        st = check_scale(b, (double)b->head_dim);
    if (st == QSAE_OK)
        st = qsae__gguf_i64(b->g, full_key(b, "attention.sliding_window", text), false, 0,
                            UINT32_MAX, &window, NULL);
    if (st == QSAE_OK && window != 0)
        qsae__log(b->ctx, QSAE_LOG_WARNING,
                  "%s: %s: %" PRId64 " is ignored, as llama.cpp does in this architecture", b->path,
                  text, window);
    if (st == QSAE_OK)
        st = set(b, "rope_theta", json_real(theta));
    if (st == QSAE_OK)
        st = set_scaling(b);
    return st == QSAE_OK ? set_factors(b) : st;
}

/* Which layers slide: the key's list or period; without it the last of every `period` is full, as
 * llama.cpp and the published models have it. */
static int32_t set_layers(qsae__gguf_build *b, int64_t window, int64_t period)
{
    char text[KEY_SIZE];
    qsae__gguf_array a = { 0 };
    int32_t found = 0, st = QSAE_OK;
    full_key(b, "attention.sliding_window_pattern", text);
    if (qsae__gguf_get_array(b->g, text, false, QSAE__GGUF_BOOL, &a, &found) != QSAE_OK)
        st = qsae__gguf_i64(b->g, text, false, 0, INT32_MAX, &period, NULL);
    if (st == QSAE_OK && found && a.count != b->blocks)
        st = qsae__fail(QSAE_EFORMAT, "%s: %s: expected %" PRId64 " entries, found %" PRId64,
                        b->path, text, b->blocks, a.count);
    if (st != QSAE_OK)
        return st;
    json_t *const list = json_array();
    st = set(b, "layer_types", list);
    for (int64_t n = 0; n < b->blocks && st == QSAE_OK; n++) {
        const bool slides = found ? qsae__gguf_element(&a, n) != 0
                                  : period == 0 || n % period < period - 1;
        const char *const type = window > 0 && slides ? "sliding_attention" : "full_attention";
        if (json_array_append_new(list, json_string(type)) != 0)
            st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", b->path);
    }
    return st;
}

/* What Gemma 2 and 3 have in common; window, period: where the file says nothing. */
static int32_t set_gemma(qsae__gguf_build *b, double scalar, int64_t window, int64_t period,
                         double theta)
{
    char text[KEY_SIZE];
    int32_t st = check_scale(b, scalar);
    if (st == QSAE_OK)
        st = qsae__gguf_i64(b->g, full_key(b, "attention.sliding_window", text), false, 0,
                            INT32_MAX, &window, NULL);
    if (st == QSAE_OK)
        st = set_layers(b, window, period);
    if (st == QSAE_OK && window > 0)
        st = set(b, "sliding_window", json_integer(window));
    if (st == QSAE_OK)
        st = set(b, "query_pre_attn_scalar", json_real(scalar));
    if (st == QSAE_OK)
        st = set(b, "rope_theta", json_real(theta));
    return st;
}

int32_t qsae__gguf_gemma3(qsae__gguf_build *b)
{
    double theta = 0, local = 10000, cap = 0;
    /* The 27B model alone scales by the width per head; llama.cpp knows it by its 62 blocks. */
    const double scalar = (double)(b->blocks == 62 ? b->width / b->heads : b->head_dim);
    int32_t st = get_f64(b, "rope.freq_base", true, &theta, NULL);
    if (st == QSAE_OK)
        st = get_f64(b, "rope.freq_base_swa", false, &local, NULL);
    if (st == QSAE_OK)
        st = get_f64(b, "final_logit_softcapping", false, &cap, NULL);
    if (st == QSAE_OK)
        st = set_gemma(b, scalar, 0, 6, theta);
    if (st == QSAE_OK)
        st = set(b, "rope_local_base_freq", json_real(local));
    if (st == QSAE_OK && cap != 0)
        st = set(b, "final_logit_softcapping", json_real(cap));
    return st == QSAE_OK ? set_scaling(b) : st;
}

/* A soft cap under its key; without the key the published models' counts, which is config.json's
 * default and llama.cpp's. */
static int32_t set_cap(qsae__gguf_build *b, const char *key)
{
    char text[KEY_SIZE];
    double cap = 0;
    int32_t present = 0;
    const int32_t st = get_f64(b, key, false, &cap, &present);
    if (st != QSAE_OK || !present)
        return st;
    if (cap <= 0)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a positive number, found %g", b->path,
                          full_key(b, key, text), cap);
    return set(b, key, json_real(cap));
}

int32_t qsae__gguf_gemma2(qsae__gguf_build *b)
{
    double theta = 10000;
    /* The 27B model alone scales by the width per head; llama.cpp knows it by its 46 blocks. */
    const double scalar = (double)(b->blocks == 46 ? b->width / b->heads : b->head_dim);
    int32_t st = get_f64(b, "rope.freq_base", false, &theta, NULL);
    if (st == QSAE_OK)
        st = set_gemma(b, scalar, 4096, 2, theta);
    if (st == QSAE_OK)
        st = set_cap(b, "attn_logit_softcapping");
    if (st == QSAE_OK)
        st = set_cap(b, "final_logit_softcapping");
    return st == QSAE_OK ? set_scaling(b) : st;
}

/* The activation is in no key: GELU, which every published checkpoint has (llama.cpp takes its
 * approximation by tanh). */
int32_t qsae__gguf_gpt_neox(qsae__gguf_build *b)
{
    char text[KEY_SIZE];
    double theta = 10000;
    int64_t rotary = b->head_dim;
    bool parallel = true;
    int32_t st = get_f64(b, "rope.freq_base", false, &theta, NULL);
    if (st == QSAE_OK)
        st = check_scale(b, (double)b->head_dim);
    if (st == QSAE_OK)
        st = get_size(b, "rope.dimension_count", false, &rotary);
    if (st == QSAE_OK && rotary > b->head_dim)
        st = qsae__fail(QSAE_EFORMAT, "%s: %s: expected at most the %" PRId64 " entries of a head, "
                        "found %" PRId64, b->path, full_key(b, "rope.dimension_count", text),
                        b->head_dim, rotary);
    if (st == QSAE_OK)
        st = qsae__gguf_bool(b->g, full_key(b, "use_parallel_residual", text), true, &parallel,
                             NULL);
    if (st == QSAE_OK)
        st = set(b, "use_parallel_residual", json_boolean(parallel));
    if (st == QSAE_OK)
        st = set(b, "rope_theta", json_real(theta));
    if (st == QSAE_OK) /* times the size of a head it is cut off: half an entry more is none */
        st = set(b, "rotary_pct", json_real(((double)rotary + (rotary < b->head_dim ? 0.5 : 0)) /
                                            (double)b->head_dim));
    return st == QSAE_OK ? set_scaling(b) : st;
}

int32_t qsae__gguf_gpt2(qsae__gguf_build *b)
{
    json_t *const eps = json_object_get(b->config, "layer_norm_eps");
    json_t *const mlp = json_object_get(b->config, "intermediate_size");
    int32_t st = check_scale(b, (double)b->head_dim);
    if (st == QSAE_OK && (json_object_set(b->config, "layer_norm_epsilon", eps) != 0 ||
                          json_object_set(b->config, "n_inner", mlp) != 0))
        st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", b->path);
    return st;
}
