/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/compressed.h"

#include <stdio.h>
#include <string.h>

#include "codecs/store_json.h"

static int32_t unsupported(const char *where, const char *key, const char *value)
{
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"%s\": \"%s\" is not supported", where, key,
                      value);
}

static int32_t read_strategy(const json_t *o, const char *where, qsae__ct_args *a)
{
    static const char *const names[] = { "tensor", "channel", "group", "block", "token",
                                         "tensor_group" };
    const char *s = NULL;
    int32_t given = 0, st = qsae__json_str(o, where, "strategy", false, &s, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(o, where, "group_size", false, -1, INT32_MAX, &a->group, &given);
    if (st != QSAE_OK)
        return st;
    if (s) {
        size_t i = 0;
        while (i < sizeof names / sizeof *names && strcmp(s, names[i]) != 0)
            i++;
        if (i == sizeof names / sizeof *names)
            return unsupported(where, "strategy", s);
        a->strategy = (enum qsae__ct_strategy)i;
    } else {
        a->strategy = !given ? QSAE__CT_TENSOR : a->group > 0 ? QSAE__CT_GROUP : QSAE__CT_CHANNEL;
    }
    const bool grouped = a->strategy == QSAE__CT_GROUP || a->strategy == QSAE__CT_TENSOR_GROUP;
    if (grouped ? a->group < 1 : given && a->group == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"group_size\": expected %s, found %lld", where,
                          grouped ? "at least 1" : "-1 or at least 1", (long long)a->group);
    return QSAE_OK;
}

static int32_t read_block(const json_t *o, const char *where, qsae__ct_args *a)
{
    const json_t *block;
    if (a->strategy != QSAE__CT_BLOCK)
        return QSAE_OK;
    const int32_t st = qsae__json_get(o, where, "block_structure", true, JSON_ARRAY, &block);
    if (st != QSAE_OK)
        return st;
    a->rows = json_integer_value(json_array_get(block, 0)); /* 0 of other types */
    a->cols = json_integer_value(json_array_get(block, 1));
    if (json_array_size(block) != 2 || a->rows < 1 || a->rows > INT32_MAX || a->cols < 1 ||
        a->cols > INT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"block_structure\": expected two positive "
                          "integers", where);
    return QSAE_OK;
}

static int32_t read_dynamic(const json_t *o, const char *where, qsae__ct_args *a)
{
    const json_t *const v = json_object_get(o, "dynamic");
    const char *const text = json_string_value(v);
    if (text && strcmp(text, "local") == 0)
        a->dynamic = QSAE__CT_LOCAL;
    else if (qsae__json_absent(v) || json_typeof(v) == JSON_FALSE)
        a->dynamic = QSAE__CT_STATIC;
    else if (json_typeof(v) == JSON_TRUE)
        a->dynamic = QSAE__CT_DYNAMIC;
    else
        return qsae__fail(QSAE_EFORMAT, "%s: key \"dynamic\": expected boolean or \"local\"",
                          where);
    return QSAE_OK;
}

static int32_t read_scales(const json_t *o, const char *where, qsae__ct_args *a)
{
    const char *s = NULL;
    const int32_t st = qsae__json_str(o, where, "scale_dtype", false, &s, NULL);
    if (st != QSAE_OK || !s)
        return st;
    if (strcmp(s, "torch.uint8") == 0)
        a->scales = QSAE__CT_U8;
    else if (strcmp(s, "torch.float8_e4m3fn") == 0)
        a->scales = QSAE__CT_E4M3;
    else
        return unsupported(where, "scale_dtype", s);
    return QSAE_OK;
}

static int32_t read_order(const json_t *o, const char *where)
{
    const json_t *const v = json_object_get(o, "actorder");
    const char *const text = json_string_value(v);
    if (qsae__json_absent(v) || json_typeof(v) == JSON_FALSE)
        return QSAE_OK;
    if (text && (strcmp(text, "weight") == 0 || strcmp(text, "static") == 0))
        return QSAE_OK;
    return unsupported(where, "actorder", text ? text : qsae__json_type_name(v));
}

static int32_t read_args(const json_t *o, const char *where, qsae__ct_args *a)
{
    const char *type = "int";
    *a = (qsae__ct_args){ .bits = 8, .symmetric = true };
    int32_t st = qsae__json_i64(o, where, "num_bits", false, 1, 32, &a->bits, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(o, where, "type", false, &type, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(o, where, "symmetric", false, &a->symmetric, NULL);
    if (st == QSAE_OK)
        st = read_strategy(o, where, a);
    if (st == QSAE_OK)
        st = read_block(o, where, a);
    if (st == QSAE_OK)
        st = read_dynamic(o, where, a);
    if (st == QSAE_OK)
        st = read_scales(o, where, a);
    if (st == QSAE_OK)
        st = read_order(o, where);
    if (st != QSAE_OK)
        return st;
    if (strcmp(type, "int") != 0 && strcmp(type, "float") != 0)
        return unsupported(where, "type", type);
    a->is_float = strcmp(type, "float") == 0;
    if (a->is_float && !a->symmetric)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: asymmetric floats are not supported", where);
    if (a->is_float ? a->bits != 4 && a->bits != 8 : a->bits < 2 || a->bits > 8)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"num_bits\": %lld; supported: %s", where,
                          (long long)a->bits, a->is_float ? "4, 8 (float)" : "2 to 8 (int)");
    return QSAE_OK;
}

static int32_t wrong(const char *where, const char *what)
{
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s is not supported", where, what);
}

/* That weights are something a format holds. */
static int32_t check_weights(const qsae__ct_group *g, const char *where)
{
    const qsae__ct_args *const w = &g->weights;
    const enum qsae__ct_strategy s = w->strategy;
    if (w->dynamic != QSAE__CT_STATIC || s == QSAE__CT_TOKEN)
        return wrong(where, "dynamic quantization of weights");
    switch (g->format) {
    case QSAE__CT_PACKED:
        if (w->is_float || s == QSAE__CT_BLOCK || s == QSAE__CT_TENSOR_GROUP)
            return wrong(where, "pack-quantized of this type or strategy");
        break;
    case QSAE__CT_PLAIN:
        if ((w->is_float && w->bits != 8) || s == QSAE__CT_TENSOR_GROUP)
            return wrong(where, "this type or strategy unpacked");
        break;
    case QSAE__CT_NVFP4:
        if (!w->is_float || w->bits != 4 || s != QSAE__CT_TENSOR_GROUP || w->group != 16)
            return wrong(where, "nvfp4-pack-quantized but of groups of 16 4-bit floats");
        break;
    case QSAE__CT_MXFP4:
        if (!w->is_float || w->bits != 4 || s != QSAE__CT_GROUP || w->group != 32)
            return wrong(where, "mxfp4-pack-quantized but of groups of 32 4-bit floats");
        break;
    case QSAE__CT_MXFP8:
        if (!w->is_float || w->bits != 8 || s != QSAE__CT_GROUP || w->group != 32)
            return wrong(where, "mxfp8-quantized but of groups of 32 8-bit floats");
        break;
    }
    if (!w->symmetric && s != QSAE__CT_GROUP && s != QSAE__CT_CHANNEL)
        return wrong(where, "asymmetric quantization but by group or channel");
    return QSAE_OK;
}

/* That the rule for activations is one of act.h, and none that looks at more than a row. */
static int32_t check_input(const qsae__ct_group *g, const char *where)
{
    const qsae__ct_args *const a = &g->input;
    const bool local = a->strategy == QSAE__CT_TENSOR_GROUP;
    if (a->strategy == QSAE__CT_CHANNEL || a->strategy == QSAE__CT_BLOCK)
        return wrong(where, "this strategy for activations");
    if (a->strategy == QSAE__CT_TENSOR && a->dynamic != QSAE__CT_STATIC)
        return wrong(where, "one dynamic scale for a whole batch of activations");
    if (a->strategy != QSAE__CT_TENSOR && a->dynamic == QSAE__CT_STATIC)
        return wrong(where, "a static scale but one for the tensor");
    if (local != (a->dynamic == QSAE__CT_LOCAL) ||
        (local && (!a->is_float || a->bits != 4 || a->scales == QSAE__CT_U8)))
        return wrong(where, "tensor_group but of 4-bit floats, dynamic \"local\"");
    if (!local && a->is_float && a->bits == 4 && a->scales != QSAE__CT_U8)
        return wrong(where, "4-bit floats without microscales");
    if (a->scales == QSAE__CT_U8 &&
        (!a->is_float || a->strategy != QSAE__CT_GROUP || a->group != 32))
        return wrong(where, "scale_dtype torch.uint8 but for groups of 32 floats");
    if (a->scales == QSAE__CT_E4M3 && !local)
        return wrong(where, "scale_dtype torch.float8_e4m3fn but for tensor_group");
    return QSAE_OK;
}

static int32_t read_format(const char *name, const char *where, enum qsae__ct_format *out)
{
    static const struct {
        const char *name;
        enum qsae__ct_format format;
    } formats[] = {
        { "pack-quantized", QSAE__CT_PACKED },   { "int-quantized", QSAE__CT_PLAIN },
        { "float-quantized", QSAE__CT_PLAIN },   { "naive-quantized", QSAE__CT_PLAIN },
        { "nvfp4-pack-quantized", QSAE__CT_NVFP4 }, { "mxfp4-pack-quantized", QSAE__CT_MXFP4 },
        { "mxfp8-quantized", QSAE__CT_MXFP8 },
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(name, formats[i].name) == 0) {
            *out = formats[i].format;
            return QSAE_OK;
        }
    return unsupported(where, "format", name);
}

static int32_t all_strings(const json_t *list, const char *where, const char *key)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *const v = json_array_get(list, i);
        if (!json_is_string(v))
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected strings, found %s", where,
                              key, qsae__json_type_name(v));
    }
    return QSAE_OK;
}

static int32_t read_group(const json_t *o, const char *where, const char *format,
                          qsae__ct_group *g)
{
    const json_t *weights, *input;
    char path[512];
    if (!json_is_object(o))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: a preset by name is not supported", where);
    int32_t st = qsae__store_unused(o, where, "output_activations");
    if (st == QSAE_OK)
        st = qsae__json_str(o, where, "format", false, &format, NULL);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "targets", true, JSON_ARRAY, &g->targets);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "weights", true, JSON_OBJECT, &weights);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, "input_activations", false, JSON_OBJECT, &input);
    if (st == QSAE_OK)
        st = read_format(format, where, &g->format);
    if (st != QSAE_OK)
        return st;
    st = all_strings(g->targets, where, "targets");
    if (st != QSAE_OK)
        return st;
    snprintf(path, sizeof path, "%.400s: weights", where);
    st = read_args(weights, path, &g->weights);
    if (st == QSAE_OK)
        st = check_weights(g, path);
    if (st != QSAE_OK || !input)
        return st;
    g->has_input = true;
    snprintf(path, sizeof path, "%.400s: input_activations", where);
    st = read_args(input, path, &g->input);
    return st == QSAE_OK ? check_input(g, path) : st;
}

static int32_t read_groups(qsae_context *ctx, const char *where, const char *format, qsae__ct *ct)
{
    const json_t *groups;
    const char *name;
    json_t *member;
    char path[512];
    int32_t st = qsae__json_get(ct->config, where, "config_groups", true, JSON_OBJECT, &groups);
    if (st != QSAE_OK)
        return st;
    ct->groups = qsae__calloc(ctx, (int64_t)json_object_size(groups), sizeof *ct->groups);
    if (!ct->groups)
        return QSAE_ENOMEM;
    for (void *it = json_object_iter((json_t *)(uintptr_t)groups); it && st == QSAE_OK;
         it = json_object_iter_next((json_t *)(uintptr_t)groups, it)) {
        name = json_object_iter_key(it);
        member = json_object_iter_value(it);
        snprintf(path, sizeof path, "%.300s: %.100s", where, name);
        ct->groups[ct->n_groups].name = name;
        st = read_group(member, path, format, &ct->groups[ct->n_groups++]);
    }
    return st;
}

static int32_t read_sparsity(const json_t *config, const char *where)
{
    const json_t *sparsity;
    const char *format = "dense";
    int32_t st = qsae__json_get(config, where, "sparsity_config", false, JSON_OBJECT, &sparsity);
    if (st == QSAE_OK && sparsity)
        st = qsae__json_str(sparsity, where, "format", false, &format, NULL);
    if (st == QSAE_OK && strcmp(format, "dense") != 0)
        return unsupported(where, "sparsity_config", format);
    return st;
}

/* "re:..." in a list, compiled once. */
struct qsae__ct_expression {
    const char *text;      /* in the configuration: who it belongs to */
    qsae__regex *regex;
};

/* Python's re.match: from the start of a name, not to its end. */
static int32_t add_expressions(qsae_context *ctx, const json_t *list, const char *where,
                               qsae__ct *ct)
{
    char reason[QSAE__REGEX_REASON];
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < json_array_size(list) && st == QSAE_OK; i++) {
        const char *const text = json_string_value(json_array_get(list, i));
        if (strncmp(text, "re:", 3) != 0)
            continue;
        st = qsae__grow(ctx, &ct->expressions, &ct->expressions_capacity, ct->n_expressions + 1,
                        sizeof *ct->expressions);
        if (st != QSAE_OK)
            return st;
        qsae__ct_expression *const e = &ct->expressions[ct->n_expressions++];
        *e = (qsae__ct_expression){ .text = text };
        st = qsae__regex_new(ctx, text + 3, strlen(text + 3),
                             QSAE__REGEX_ANCHORED | QSAE__REGEX_SHORT, reason, &e->regex);
        if (st == QSAE_EFORMAT)
            st = qsae__fail(st, "%s: regular expression \"%s\": %s", where, text + 3, reason);
    }
    return st;
}

int32_t qsae__ct_read(qsae_context *ctx, const json_t *config, const char *where, void *params)
{
    qsae__ct *const ct = params;
    static const char *const refused[] = { "kv_cache_scheme", "transform_config",
                                           "moe_sparsity_config" };
    const char *format = "dense", *status = "compressed";
    if (!json_is_object(config))
        return qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", where,
                          qsae__json_type_name(config));
    ct->config = json_deep_copy(config);
    if (!ct->config)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", where);
    int32_t st = qsae__json_str(ct->config, where, "format", false, &format, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(ct->config, where, "quantization_status", false, &status, NULL);
    if (st == QSAE_OK && strcmp(status, "compressed") != 0 && strcmp(status, "frozen") != 0)
        st = unsupported(where, "quantization_status", status);
    for (size_t i = 0; i < sizeof refused / sizeof *refused && st == QSAE_OK; i++)
        st = qsae__store_unused(ct->config, where, refused[i]);
    if (st == QSAE_OK)
        st = read_sparsity(ct->config, where);
    if (st == QSAE_OK)
        st = qsae__json_get(ct->config, where, "ignore", false, JSON_ARRAY, &ct->ignore);
    if (st == QSAE_OK)
        st = all_strings(ct->ignore, where, "ignore");
    if (st == QSAE_OK)
        st = read_groups(ctx, where, format, ct);
    if (st == QSAE_OK)
        st = add_expressions(ctx, ct->ignore, where, ct);
    for (int64_t g = 0; g < ct->n_groups && st == QSAE_OK; g++)
        st = add_expressions(ctx, ct->groups[g].targets, where, ct);
    return st;
}

void qsae__ct_close(qsae_context *ctx, void *params)
{
    qsae__ct *const ct = params;
    for (int64_t i = 0; i < ct->n_expressions; i++)
        qsae__regex_free(&ct->expressions[i].regex);
    qsae__free(ctx, ct->expressions);
    json_decref(ct->config);
    qsae__free(ctx, ct->groups);
}

static int32_t match_expression(const qsae__ct *ct, const char *target, const char *module,
                                bool *out)
{
    for (int64_t i = 0; i < ct->n_expressions; i++)
        if (ct->expressions[i].text == target)
            return qsae__regex_matches(ct->expressions[i].regex, module, out);
    return QSAE_OK;
}

enum kind { BY_NAME, BY_EXPRESSION, BY_CLASS, KINDS };

static int32_t match(const qsae__ct *ct, const char *target, const char *module, enum kind kind,
                     bool *out)
{
    const bool expression = strncmp(target, "re:", 3) == 0;
    const size_t n = strlen(module), e = strlen("embed_tokens");
    *out = false;
    switch (kind) {
    case BY_NAME:
        *out = !expression && strcmp(target, module) == 0;
        return QSAE_OK;
    case BY_EXPRESSION:
        return expression ? match_expression(ct, target, module, out) : QSAE_OK;
    default:
        *out = strcmp(target, "Module") == 0 ||
               strcmp(target, n >= e && strcmp(module + n - e, "embed_tokens") == 0
                                  ? "Embedding" : "Linear") == 0;
        return QSAE_OK;
    }
}

static int32_t ignored(const qsae__ct *ct, const char *module, bool *out)
{
    *out = false;
    for (size_t i = 0; i < json_array_size(ct->ignore); i++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int32_t st = match(ct, json_string_value(json_array_get(ct->ignore, i)), module,
                                     (enum kind)kind, out);
            if (st != QSAE_OK || *out)
                return st;
        }
    return QSAE_OK;
}

int32_t qsae__ct_find(const qsae__ct *ct, const char *module, const qsae__ct_group **out)
{
    const char *best = NULL;
    bool yes;
    *out = NULL;
    int32_t st = ignored(ct, module, &yes);
    if (st != QSAE_OK || yes)
        return st;
    /* Of several targets of one kind the first in order; of groups with one target the last. */
    for (int kind = 0; kind < KINDS && !best; kind++)
        for (int64_t g = 0; g < ct->n_groups; g++) {
            const json_t *const targets = ct->groups[g].targets;
            for (size_t i = 0; i < json_array_size(targets); i++) {
                const char *const target = json_string_value(json_array_get(targets, i));
                st = match(ct, target, module, (enum kind)kind, &yes);
                if (st != QSAE_OK)
                    return st;
                if (yes && (!best || strcmp(target, best) <= 0)) {
                    best = target;
                    *out = &ct->groups[g];
                }
            }
        }
    return QSAE_OK;
}
