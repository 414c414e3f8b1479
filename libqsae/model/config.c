/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/config.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/family.h"

bool qsae__config_has(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return !qsae__json_absent(v);
}

int32_t qsae__config_size(const json_t *o, const char *where, const char *key, int64_t low,
                          int64_t high, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_null(v))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected an integer, found null", where, key);
    return qsae__json_i64(o, where, key, false, low, high, out, NULL);
}

int32_t qsae__config_positive(const json_t *o, const char *where, const char *key, double *out)
{
    double v = *out;
    const int32_t st = qsae__json_f64(o, where, key, false, &v, NULL);
    if (st != QSAE_OK)
        return st;
    if (qsae__config_has(o, key) && !(v > 0))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a positive number, found %g", where, key,
                          v);
    *out = v;
    return QSAE_OK;
}

int32_t qsae__config_activation(const json_t *o, const char *where, const char *key,
                                enum qsae__activation *out)
{
    const char *name = NULL;
    const int32_t st = qsae__json_str(o, where, key, false, &name, NULL);
    if (st != QSAE_OK || !name)
        return st;
    if (!strcmp(name, "silu") || !strcmp(name, "swish"))
        *out = QSAE__ACT_SILU;
    else if (!strcmp(name, "gelu_pytorch_tanh"))
        *out = QSAE__ACT_GELU_TANH;
    else if (!strcmp(name, "gelu"))
        *out = QSAE__ACT_GELU;
    else if (!strcmp(name, "gelu_new"))
        *out = QSAE__ACT_GELU_NEW;
    else
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: %s: \"%.64s\" is not supported (silu, gelu, gelu_new, "
                          "gelu_pytorch_tanh are)", where, key, name);
    return QSAE_OK;
}

/* An id, null, or a list of ids of which the first counts. */
static int32_t read_id(const json_t *o, const char *where, const char *key, int32_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!v)
        return QSAE_OK;
    *out = -1;
    if (json_is_array(v))
        v = json_array_get(v, 0);
    if (qsae__json_absent(v))
        return QSAE_OK;
    if (json_typeof(v) != JSON_INTEGER || json_integer_value(v) < -1 ||
        json_integer_value(v) > INT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected a token id, found %s", where, key,
                          qsae__json_type_name(v));
    *out = (int32_t)json_integer_value(v);
    return QSAE_OK;
}

int32_t qsae__config_ids(const json_t *o, const char *where, qsae__config *c)
{
    const int32_t st = read_id(o, where, "bos_token_id", &c->bos);
    return st == QSAE_OK ? read_id(o, where, "eos_token_id", &c->eos) : st;
}

int32_t qsae__config_common(const json_t *o, const char *where, qsae__config *c)
{
    const struct {
        const char *key;
        int64_t high, *out;
    } sizes[] = {
        { "vocab_size", QSAE__MAX_VOCAB, &c->vocab },
        { "hidden_size", QSAE__MAX_WIDTH, &c->width },
        { "intermediate_size", QSAE__MAX_MLP, &c->mlp_width },
        { "num_hidden_layers", QSAE__MAX_LAYERS, &c->layers },
        { "num_attention_heads", QSAE__MAX_HEADS, &c->heads },
        { "max_position_embeddings", INT64_MAX, &c->max_positions },
    };
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && st == QSAE_OK; i++)
        st = qsae__config_size(o, where, sizes[i].key, 1, sizes[i].high, sizes[i].out);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "rms_norm_eps", &c->eps);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "attention_bias", false, &c->attention_bias, NULL);
    return st == QSAE_OK ? qsae__config_ids(o, where, c) : st;
}

int32_t qsae__config_llama(qsae_context *ctx, const json_t *o, const char *where, qsae__config *c)
{
    int32_t st = qsae__json_bool(o, where, "tie_word_embeddings", false, &c->tied, NULL);
    if (st == QSAE_OK)
        st = qsae__config_activation(o, where, "hidden_act", &c->activation);
    if (st == QSAE_OK)
        st = qsae__rope_read_one(o, where, c);
    if (st != QSAE_OK)
        return st;
    c->attn_scale = 1.0 / sqrt((double)c->head_dim);
    c->sliding = qsae__calloc(ctx, c->layers, 1);
    return c->sliding ? QSAE_OK : QSAE_ENOMEM;
}

/* Relations between sizes that the architecture needs. */
static int32_t check(const char *where, const qsae__config *c)
{
    if (c->heads % c->kv_heads != 0)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: num_attention_heads %" PRId64
                          " is not a multiple of num_key_value_heads %" PRId64,
                          where, c->heads, c->kv_heads);
    if (!c->family->any_width && c->width % c->heads != 0)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: hidden_size %" PRId64
                          " is not a multiple of num_attention_heads %" PRId64,
                          where, c->width, c->heads);
    if (c->head_dim < 1 || c->head_dim > QSAE__MAX_HEAD_DIM ||
        (!c->rotary_dim && c->head_dim % 2 != 0))
        return qsae__fail(QSAE_EFORMAT,
                          "%s: head_dim: expected an even number in 2..%d, found %" PRId64, where,
                          QSAE__MAX_HEAD_DIM, c->head_dim);
    return QSAE_OK;
}

/* Families outside the table are refused by name, and so is what would change the mathematics. */
static int32_t find_family(const json_t *top, const char *path, const qsae__family **family,
                           const json_t **text)
{
    const char *type = NULL;
    int32_t st = qsae__json_str(top, path, "model_type", true, &type, NULL);
    if (st != QSAE_OK)
        return st;
    *family = qsae__family_find(type);
    if (!*family)
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: model_type \"%.64s\" is not supported (supported: %s)", path, type,
                          qsae__family_names());
    *text = top;
    if (!(*family)->text_key)
        return QSAE_OK;
    st = qsae__json_get(top, path, (*family)->text_key, true, JSON_OBJECT, text);
    if (st != QSAE_OK)
        return st;
    type = (*family)->text_type;
    st = qsae__json_str(*text, path, "model_type", false, &type, NULL);
    if (st == QSAE_OK && strcmp(type, (*family)->text_type) != 0)
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: %s.model_type \"%.64s\" is not supported (expected \"%s\")", path,
                          (*family)->text_key, type, (*family)->text_type);
    return st;
}

/* Divisors of the rotary frequencies, as GGUF files store the llama3 scaling. */
static int32_t read_factors(qsae_context *ctx, const json_t *o, const char *where, qsae__config *c)
{
    const json_t *list = NULL;
    const int64_t n = qsae__rotary_pairs(c);
    const int32_t st = qsae__json_get(o, where, "rope_factors", false, JSON_ARRAY, &list);
    if (st != QSAE_OK || !list)
        return st;
    if ((int64_t)json_array_size(list) != n)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: rope_factors: expected %" PRId64
                          " numbers (head_dim / 2), found %zu",
                          where, n, json_array_size(list));
    c->rope_factors = qsae__calloc(ctx, n, sizeof *c->rope_factors);
    if (!c->rope_factors)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        const double v = json_number_value(json_array_get(list, (size_t)i));
        if (!(v > 0 && v <= (double)FLT_MAX))
            return qsae__fail(QSAE_EFORMAT,
                              "%s: rope_factors[%" PRId64 "]: expected a positive number", where,
                              i);
        c->rope_factors[i] = (float)v;
    }
    c->rope[QSAE__FULL].factors = c->rope_factors;
    return QSAE_OK;
}

int32_t qsae__config_read(qsae_context *ctx, const json_t *config, const char *where,
                          qsae__config *out)
{
    const json_t *text = NULL;
    const qsae__family *family = NULL;
    int32_t st = QSAE_OK;
    memset(out, 0, sizeof *out);
    if (!json_is_object(config))
        st = qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                        qsae__json_type_name(config));
    if (st == QSAE_OK)
        st = find_family(config, where, &family, &text);
    if (st == QSAE_OK) {
        out->family = family;
        st = family->read(ctx, config, text, where, out);
    }
    if (st == QSAE_OK)
        st = check(where, out);
    if (st == QSAE_OK)
        st = read_factors(ctx, text, where, out);
    if (st != QSAE_OK)
        qsae__config_free(ctx, out);
    return st;
}

void qsae__config_free(qsae_context *ctx, qsae__config *c)
{
    qsae__free(ctx, c->sliding);
    qsae__free(ctx, c->rope_factors);
    qsae__free(ctx, c->shapes);
    memset(c, 0, sizeof *c);
}
