/* SPDX-License-Identifier: BSD-2-Clause */
/* Which layers slide, and how far those of a Gemma model see (models.md A.0). */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/config.h"

int32_t qsae__config_layer_types(const json_t *o, const char *where, qsae__config *c)
{
    const json_t *types = NULL;
    const int32_t st = qsae__json_get(o, where, "layer_types", false, JSON_ARRAY, &types);
    if (st != QSAE_OK || !types)
        return st;
    if ((int64_t)json_array_size(types) != c->layers)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: layer_types: expected %" PRId64
                          " entries (num_hidden_layers), found %zu",
                          where, c->layers, json_array_size(types));
    for (int64_t n = 0; n < c->layers; n++) {
        const char *const type = json_string_value(json_array_get(types, (size_t)n));
        if (!type)
            return qsae__fail(QSAE_EFORMAT, "%s: layer_types[%" PRId64 "]: expected a string",
                              where, n);
        c->sliding[n] = !strcmp(type, "sliding_attention");
        if (!c->sliding[n] && strcmp(type, "full_attention") != 0)
            return qsae__fail(QSAE_EUNSUPPORTED,
                              "%s: layer_types[%" PRId64 "]: \"%.64s\" is not supported "
                              "(full_attention, sliding_attention are)",
                              where, n, type);
    }
    return QSAE_OK;
}

static int32_t read_pattern(const json_t *o, const char *where, int64_t *pattern)
{
    const char *keys[] = { "_sliding_window_pattern", "sliding_window_pattern" };
    int32_t st = QSAE_OK;
    for (int i = 0; i < 2 && st == QSAE_OK; i++)
        st = qsae__json_i64(o, where, keys[i], false, 1, INT32_MAX, pattern, NULL);
    return st;
}

static int32_t read_layers(const json_t *o, const char *where, int64_t pattern, qsae__config *c)
{
    const int32_t st = read_pattern(o, where, &pattern);
    if (st != QSAE_OK)
        return st;
    for (int64_t n = 0; n < c->layers; n++)
        c->sliding[n] = (n + 1) % pattern != 0;
    return qsae__config_layer_types(o, where, c);
}

static int32_t read_window(const json_t *o, const char *where, qsae__config *c)
{
    bool any = false;
    for (int64_t n = 0; n < c->layers; n++)
        any = any || c->sliding[n];
    c->window = 4096;
    if (any && qsae__json_is(json_object_get(o, "sliding_window"), JSON_NULL))
        return qsae__fail(QSAE_EFORMAT,
                          "%s: sliding_window: expected an integer, found null, but there are "
                          "sliding layers",
                          where);
    const int32_t st =
        qsae__json_i64(o, where, "sliding_window", false, 1, INT32_MAX, &c->window, NULL);
    if (!any)
        c->window = 0;
    return st;
}

int32_t qsae__config_layers(qsae_context *ctx, const json_t *o, const char *where, int64_t pattern,
                            qsae__config *c)
{
    c->sliding = qsae__calloc(ctx, c->layers, 1);
    if (!c->sliding)
        return QSAE_ENOMEM;
    const int32_t st = read_layers(o, where, pattern, c);
    return st == QSAE_OK ? read_window(o, where, c) : st;
}

int32_t qsae__config_gemma(const json_t *o, const char *where, qsae__config *c)
{
    double scalar = 256;
    int32_t st = qsae__config_common(o, where, c);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "num_key_value_heads", 1, c->heads, &c->kv_heads);
    if (st == QSAE_OK)
        st = qsae__config_size(o, where, "head_dim", 1, INT32_MAX, &c->head_dim);
    if (st == QSAE_OK)
        st = qsae__config_activation(o, where, "hidden_activation", &c->activation);
    if (st == QSAE_OK)
        st = qsae__config_positive(o, where, "query_pre_attn_scalar", &scalar);
    c->attn_scale = 1.0 / sqrt(scalar);
    return st;
}

int32_t qsae__config_causal(const json_t *o, const char *where)
{
    const json_t *v = json_object_get(o, "use_bidirectional_attention");
    const char *const text = json_string_value(v);
    if (qsae__json_absent(v) || json_typeof(v) == JSON_FALSE || (text && !strcmp(text, "vision")))
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED,
                      "%s: use_bidirectional_attention: only causal models are supported", where);
}
