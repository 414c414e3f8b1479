/* SPDX-License-Identifier: BSD-2-Clause */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/save.h"

static const char *torch_name(int32_t dtype)
{
    return dtype == QSAE_BF16 ? "bfloat16" : dtype == QSAE_F16 ? "float16" : "float32";
}

static bool has_ending(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

/* Adds a string to an array that lacks it. */
static void add_once(json_t *list, const char *text)
{
    size_t i;
    json_t *x;
    json_array_foreach(list, i, x)
        if (!strcmp(json_string_value(x), text))
            return;
    json_array_append_new(list, json_string(text));
}

/* "vision_tower", "model.vision_tower" for a tensor outside the text model: transformers has had
 * modules under either path. */
static void add_tower(json_t *list, const char *name)
{
    char part[256], path[264];
    size_t n = 0;
    if (!strncmp(name, "model.", 6))
        name += 6;
    while (n < sizeof part - 1 && (isalnum((unsigned char)name[n]) || name[n] == '_'))
        n++;
    if (n == 0 || name[n] != '.')
        return;
    memcpy(part, name, n);
    part[n] = '\0';
    snprintf(path, sizeof path, "model.%s", part);
    add_once(list, part);
    add_once(list, path);
}

/*
 * llm_int8_skip_modules: null where transformers' own choice, every linear layer but the head, is
 * the condition's. A list replaces that choice: an entry keeps a module whose path it begins or
 * ends. Paths of a text model inside another are given from "layers." on, as they end in every
 * release.
 */
static json_t *skip_modules(const qsae__save *v)
{
    const qsae_weights *const w = v->w;
    const qsae__family *const family = w->config.family;
    const char *const own = family->embed ? w->prefix : "model."; /* of a text model alone */
    json_t *const list = json_array();
    const bool inside = strcmp(w->prefix, own) != 0;
    const bool head = qsae__save_selects_vocabulary(v, true);
    for (int64_t i = 0; i < qsae__tensors_len(w->tensors); i++) {
        const qsae__tensor *const t = qsae__tensors_at(w->tensors, i);
        if (inside && strncmp(t->name, w->prefix, strlen(w->prefix)) != 0 && t->rank >= 2 &&
            !has_ending(t->name, "lm_head.weight"))
            add_tower(list, t->name);
    }
    for (int64_t i = 0; i < w->n_linears; i++) {
        const int64_t at = w->linears[i], layer = qsae__linear_layer(w, at);
        char path[128];
        if (qsae__save_selects(v, at))
            continue;
        if (layer < 0)
            snprintf(path, sizeof path, "%s%s", inside ? "" : own, qsae__linear_module(w, at));
        else
            snprintf(path, sizeof path, "%s%s.%" PRId64 ".%s", inside ? "" : own,
                     qsae__family_layers(family), layer, qsae__linear_module(w, at));
        add_once(list, path);
    }
    if (json_array_size(list) == 0 && !head) {
        json_decref(list);
        return json_null();
    }
    if (!head) {
        add_once(list, qsae__family_head(family)); /* as files name it, */
        add_once(list, "lm_head");                 /* and as transformers does */
    }
    return list;
}

/* What transformers writes: every option, by name. */
static json_t *quantization_config(const qsae__save *v, int32_t dtype)
{
    const qsae__condition *const c = &v->c;
    const bool four = c->codec != QSAE__INT8;
    return json_pack(
        "{s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:o, s:f, s:b, s:b, s:s}", "_load_in_4bit", four,
        "_load_in_8bit", !four, "bnb_4bit_compute_dtype",
        four ? torch_name(c->compute ? c->compute : dtype) : "float32", "bnb_4bit_quant_storage",
        "uint8", "bnb_4bit_quant_type", c->codec == QSAE__NF4 ? "nf4" : "fp4",
        "bnb_4bit_use_double_quant", four && c->nested, "llm_int8_enable_fp32_cpu_offload", 0,
        "llm_int8_has_fp16_weight", 0, "llm_int8_skip_modules", skip_modules(v),
        "llm_int8_threshold", four ? 6.0 : (double)c->threshold, "load_in_4bit", four,
        "load_in_8bit", !four, "quant_method", "bitsandbytes");
}

/* The dtype under the name it has, "torch_dtype" in older files; added if asked for. */
static bool set_dtype(json_t *object, const char *name, bool add)
{
    bool done = true;
    static const char *const keys[] = { "dtype", "torch_dtype" };
    bool there = false;
    for (int i = 0; i < 2; i++)
        if (json_object_get(object, keys[i])) {
            done &= json_object_set_new(object, keys[i], json_string(name)) == 0;
            there = true;
        }
    if (!there && add)
        done &= json_object_set_new(object, keys[0], json_string(name)) == 0;
    return done;
}

static int32_t change_config(const qsae__save *v, json_t *config, const char *path)
{
    const int32_t dtype = qsae__save_dtype(v, v->w->embed.tensor->dtype);
    json_t *part;
    const char *key;
    bool done = true;
    json_object_foreach(config, key, part)
        if (json_is_object(part) && has_ending(key, "_config"))
            done &= set_dtype(part, torch_name(dtype), false);
    done &= set_dtype(config, torch_name(dtype), true);
    if (v->bnb) {
        json_t *const q = quantization_config(v, dtype);
        done &= q && json_object_set_new(config, "quantization_config", q) == 0;
    }
    if (v->encodes || v->c.weights)
        done &= json_object_set_new(config, "qsae_condition", json_string(v->c.canonical)) == 0;
    return done ? QSAE_OK : qsae__fail(QSAE_ENOMEM, "%s: out of memory", path);
}

int32_t qsae__save_config(const qsae__save *v)
{
    char *const from = qsae__path_join(v->ctx, v->w->path, "config.json");
    char *const to = qsae__path_join(v->ctx, v->temp, "config.json");
    json_t *config = NULL;
    qsae__strbuf text;
    qsae__strbuf_init(&text, v->ctx);
    int32_t st = from && to ? qsae__json_load(v->ctx, from, &config) : QSAE_ENOMEM;
    if (st == QSAE_OK && !json_is_object(config))
        st = qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", from,
                        qsae__json_type_name(config));
    if (st == QSAE_OK)
        st = change_config(v, config, to);
    if (st == QSAE_OK)
        st = qsae__json_write(&text, config, 2);
    if (st == QSAE_OK) {
        qsae__strbuf_add(&text, "\n", 1);
        st = text.status;
    }
    if (st == QSAE_OK)
        st = qsae__file_write(v->ctx, to, text.data, (size_t)text.size);
    qsae__strbuf_free(&text);
    json_decref(config);
    qsae__free(v->ctx, from);
    qsae__free(v->ctx, to);
    return st;
}

/* Tokenizer, chat template, generation settings, licence: what goes with a model and is no
 * weight. */
static bool goes_along(const char *name)
{
    static const char *const endings[] = { ".json", ".jinja", ".model", ".txt", ".tiktoken" };
    static const char *const others[] = { "LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY" };
    if (!strcmp(name, "config.json") || has_ending(name, ".index.json"))
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (has_ending(name, endings[i]))
            return true;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strncmp(name, others[i], strlen(others[i])))
            return true;
    return false;
}

static int32_t copy_file(const qsae__save *v, const char *name)
{
    char *const from = qsae__path_join(v->ctx, v->w->path, name);
    char *const to = qsae__path_join(v->ctx, v->temp, name);
    qsae__file *file = NULL;
    int32_t st = from && to ? qsae__file_open(v->ctx, from, &file) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__file_write(v->ctx, to, file->data, (size_t)file->size);
    qsae__file_close(&file);
    qsae__free(v->ctx, from);
    qsae__free(v->ctx, to);
    return st;
}

int32_t qsae__save_files(const qsae__save *v)
{
    char **names = NULL;
    int64_t n = 0;
    int32_t st = qsae__folder_list(v->ctx, v->w->path, &names, &n);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        if (goes_along(names[i]))
            st = copy_file(v, names[i]);
    qsae__folder_list_free(v->ctx, names, n);
    return st;
}
