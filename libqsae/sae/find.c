/* SPDX-License-Identifier: BSD-2-Clause */
/* Which format a path holds (sae.md B.2), by the names of its files; where these do not tell, by
 * the names of the tensors. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sae/parts.h"

/* In the order in which a folder is asked for them. */
static const qsae__sae_form forms[] = {
    { "sae_weights.safetensors", "cfg.json", qsae__sae_read_saelens, true, false },
    { "sae.safetensors", "cfg.json", qsae__sae_read_sparsify, true, false },
    { "params.safetensors", "config.json", qsae__sae_read_scope2, false, false },
    { "params.npz", NULL, qsae__sae_read_scope1, false, false },
    { "checkpoints/final.safetensors", "hyperparams.json", qsae__sae_read_llama_scope,
      true, false },
    { "sae_weights.safetensors", "config.json", qsae__sae_read_openmoss, true, true },
    { "ae.safetensors", "config.json", qsae__sae_read_dictionary_learning, true, false },
    { "W_enc_%d.safetensors", "config.yaml", qsae__sae_read_clt, false, false },
    { "layer_%d.safetensors", "config.yaml", qsae__sae_read_transcoder_set, false, false },
    { "params_layer_%d.safetensors", "config.json", qsae__sae_read_scope2_layer, false, false },
    { "latest_ckpt.safetensors", "conf.yaml", qsae__sae_read_temporal, false, false },
};
#define N_FORMS (sizeof forms / sizeof forms[0])

/* Forms of files that may have any name, by a tensor in them. */
static const struct {
    const char *tensor;
    qsae__sae_form form;
} by_tensor[] = {
    { "w_enc", { NULL, "config.json", qsae__sae_read_scope2, false, false } },
    { "pre_bias", { NULL, NULL, qsae__sae_read_linear, false, false } },
    { "encoder_linear.weight", { NULL, NULL, qsae__sae_read_linear, false, false } },
    { "encoder.weight", { NULL, NULL, qsae__sae_read_linear, false, false } },
    { "W_enc", { NULL, "config.json", qsae__sae_read_scope2, false, false } },
};

void qsae__sae_place_free(qsae_context *ctx, qsae__sae_place *p)
{
    qsae__free(ctx, p->folder);
    qsae__free(ctx, p->config);
    qsae__free(ctx, p->params);
    memset(p, 0, sizeof *p);
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* *out = folder/name if it is there, else NULL. */
static int32_t probe(qsae_context *ctx, const char *folder, const char *name, char **out)
{
    *out = qsae__path_join(ctx, folder, name);
    if (!*out)
        return QSAE_ENOMEM;
    if (!qsae__file_exists(*out)) {
        qsae__free(ctx, *out);
        *out = NULL;
    }
    return QSAE_OK;
}

/* The number that stands for %d of the pattern in name; -1 if it does not fit. */
static int64_t number_in(const char *pattern, const char *name)
{
    const char *const at = strstr(pattern, "%d");
    if (!at || strncmp(name, pattern, (size_t)(at - pattern)) != 0)
        return -1;
    const char *const digits = name + (at - pattern);
    const size_t n = strspn(digits, "0123456789");
    return n >= 1 && n <= 6 && strcmp(digits + n, at + 2) == 0 ? strtol(digits, NULL, 10) : -1;
}

/* The file of the wanted layer, or the only one there is. *params NULL: nothing fits. */
static int32_t probe_layer(qsae_context *ctx, const char *pattern, qsae__sae_place *p,
                           char **params)
{
    char **names = NULL;
    int64_t count = 0, found = 0, first = -1, least = INT64_MAX, most = -1;
    int32_t st = qsae__folder_list(ctx, p->folder, &names, &count);
    for (int64_t i = 0; i < count && st == QSAE_OK; i++) {
        const int64_t n = number_in(pattern, names[i]);
        if (n < 0)
            continue;
        found++;
        least = qsae__min_i64(least, n);
        most = qsae__max_i64(most, n);
        if (first < 0 || n == p->layer)
            first = i;
    }
    if (st == QSAE_OK && found &&
        (p->layer < 0 ? found > 1 : number_in(pattern, names[first]) != p->layer))
        st = p->layer < 0 ?
             qsae__fail(QSAE_EINVAL, "%s: holds %lld layers (%lld to %lld): expected one of them, "
                        "as in %s#%lld", p->folder, (long long)found, (long long)least,
                        (long long)most, p->folder, (long long)least) :
             qsae__fail(QSAE_ENOENT, "%s: expected layer %lld, found layers %lld to %lld",
                        p->folder, (long long)p->layer, (long long)least, (long long)most);
    if (st == QSAE_OK && found) {
        p->layer = number_in(pattern, names[first]);
        *params = qsae__path_join(ctx, p->folder, names[first]);
        st = *params ? QSAE_OK : QSAE_ENOMEM;
    }
    qsae__folder_list_free(ctx, names, count);
    return st;
}

static int by_number(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The numbers of the files that fit a pattern, ascending. */
static int32_t list_layers(qsae_context *ctx, const char *folder, const char *pattern,
                           qsae__sae_stack *out)
{
    char **names = NULL;
    int64_t count = 0;
    int32_t st = qsae__folder_list(ctx, folder, &names, &count);
    if (st == QSAE_OK && !(out->ids = qsae__alloc_array(ctx, count, sizeof *out->ids)))
        st = QSAE_ENOMEM;
    for (int64_t i = 0; i < count && st == QSAE_OK; i++) {
        const int64_t number = number_in(pattern, names[i]);
        if (number >= 0)
            out->ids[out->n++] = number;
    }
    qsae__folder_list_free(ctx, names, count);
    if (st == QSAE_OK && out->n > 0)
        qsort(out->ids, (size_t)out->n, sizeof *out->ids, by_number);
    if (out->n == 0) {
        qsae__free(ctx, out->ids);
        out->ids = NULL;
    }
    return st;
}

/* The layers that one file holds: OpenMOSS' W_E [layers, d, d_sae]; of other files none. */
static int32_t layers_of_file(qsae_context *ctx, const char *path, qsae__sae_stack *out)
{
    qsae__tensors *t = NULL;
    const int32_t st = qsae__tensors_load(ctx, path, &t);
    if (st != QSAE_OK)
        return st;
    const qsae__tensor *const enc = qsae__tensors_find(t, "W_E");
    const int64_t n = enc && enc->rank == 3 ? enc->shape[0] : 0;
    qsae__tensors_unref(&t);
    if (n > QSAE__LAYERS_MOST)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"W_E\": expected at most %d layers, found "
                          "%lld", path, QSAE__LAYERS_MOST, (long long)n);
    if (n > 0 && !(out->ids = qsae__alloc_array(ctx, n, sizeof *out->ids)))
        return QSAE_ENOMEM;
    for (out->n = 0; out->n < n; out->n++)
        out->ids[out->n] = out->n;
    return QSAE_OK;
}

/* *done: the folder is of this form, whether it holds several layers or one SAE. */
static int32_t try_layers(qsae_context *ctx, const char *folder, const qsae__sae_form *f,
                          qsae__sae_stack *out, bool *done)
{
    char *config = NULL;
    if (strstr(f->params, "%d")) {
        const int32_t st = list_layers(ctx, folder, f->params, out);
        *done = out->n > 0;
        return st;
    }
    int32_t st = probe(ctx, folder, f->params, &out->params);
    if (st == QSAE_OK && out->params && f->config_needed)
        st = probe(ctx, folder, f->config, &config);
    *done = out->params && (config || !f->config_needed);
    qsae__free(ctx, config);
    if (st == QSAE_OK && *done && f->layers)
        st = layers_of_file(ctx, out->params, out);
    return st;
}

void qsae__sae_stack_free(qsae_context *ctx, qsae__sae_stack *s)
{
    qsae__free(ctx, s->ids);
    qsae__free(ctx, s->params);
    memset(s, 0, sizeof *s);
}

int32_t qsae__sae_find_layers(qsae_context *ctx, const char *folder, qsae__sae_stack *out)
{
    int32_t st = QSAE_OK;
    bool done = false;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < N_FORMS && st == QSAE_OK && !done; i++) {
        qsae__sae_stack_free(ctx, out);
        st = try_layers(ctx, folder, &forms[i], out, &done);
        out->form = done ? &forms[i] : NULL;
    }
    if (st == QSAE_OK && out->n > QSAE__LAYERS_MOST)
        st = qsae__fail(QSAE_EFORMAT, "%s: expected at most %d layers, found %lld", folder,
                        QSAE__LAYERS_MOST, (long long)out->n);
    if (st != QSAE_OK || out->n == 0)
        qsae__sae_stack_free(ctx, out);
    return st;
}

/* Fills p where the folder has the files of this form. */
static int32_t try_form(qsae_context *ctx, const qsae__sae_form *f, qsae__sae_place *p)
{
    const bool set = strstr(f->params, "%d") != NULL;
    char *params = NULL, *config = NULL;
    int32_t st = set ? probe_layer(ctx, f->params, p, &params)
                     : probe(ctx, p->folder, f->params, &params);
    if (st == QSAE_OK && params && f->config)
        st = probe(ctx, p->folder, f->config, &config);
    if (st != QSAE_OK || !params || (f->config_needed && !config)) {
        qsae__free(ctx, params);
        qsae__free(ctx, config);
        return st;
    }
    p->form = f;
    p->params = params;
    p->config = config;
    if (!set && !f->layers && p->layer >= 0)
        return qsae__fail(QSAE_EINVAL, "%s: holds one SAE, so there is no layer %lld to choose",
                          p->folder, (long long)p->layer);
    return QSAE_OK;
}

/* A file of any name, told by its tensors. */
static int32_t find_by_tensors(qsae_context *ctx, const char *path, qsae__sae_place *p)
{
    qsae__tensors *t = NULL;
    int32_t st = qsae__tensors_load(ctx, path, &t);
    if (st != QSAE_OK)
        return st;
    for (size_t i = 0; i < sizeof by_tensor / sizeof by_tensor[0] && !p->form; i++)
        if (qsae__tensors_find(t, by_tensor[i].tensor))
            p->form = &by_tensor[i].form;
    qsae__tensors_unref(&t);
    if (!p->form)
        return qsae__fail(QSAE_EFORMAT, "%s: none of its tensors is one of an SAE (expected W_enc, "
                          "w_enc, encoder.weight or encoder_linear.weight)", path);
    if (p->form->config)
        st = probe(ctx, p->folder, p->form->config, &p->config);
    if (st == QSAE_OK && !(p->params = qsae__strdup(ctx, path)))
        st = QSAE_ENOMEM;
    return st;
}

/* Why nothing of the folder will do; or p, where its one file of tensors tells. */
static int32_t find_other(qsae_context *ctx, qsae__sae_place *p)
{
    static const struct {
        const char *file, *needs;
    } others[] = {
        { "hyperparams.json", "checkpoints/final.safetensors (a Llama Scope SAE)" },
        { "config.yaml", "layer_N.safetensors or W_enc_N.safetensors (transcoders)" },
        { "conf.yaml", "latest_ckpt.safetensors (a temporal SAE)" },
    };
    char **names = NULL;
    const char *pickle = NULL, *single = NULL;
    int64_t count = 0, tensors = 0;
    int32_t st = qsae__folder_list(ctx, p->folder, &names, &count);
    if (st != QSAE_OK)
        return st;
    st = qsae__fail(QSAE_ENOENT, "%s: no SAE found: expected cfg.json with "
                    "sae_weights.safetensors, params.safetensors, or params.npz", p->folder);
    for (int64_t i = 0; i < count; i++) {
        for (size_t j = 0; j < sizeof others / sizeof others[0]; j++)
            if (strcmp(names[i], others[j].file) == 0)
                st = qsae__fail(QSAE_ENOENT, "%s: has %s, expected %s beside it", p->folder,
                                names[i], others[j].needs);
        if (ends_with(names[i], ".pt") || ends_with(names[i], ".pth") ||
            ends_with(names[i], ".bin"))
            pickle = names[i];
        if (ends_with(names[i], ".safetensors")) {
            tensors++;
            single = names[i];
        }
    }
    for (size_t i = 0; i < N_FORMS && tensors; i++) {
        char *params = NULL;
        const int32_t probed = probe(ctx, p->folder, forms[i].params, &params);
        if (probed == QSAE_OK && params && st == QSAE_ENOENT) {
            st = qsae__fail(QSAE_EFORMAT, "%s: expected %s beside %s", p->folder, forms[i].config,
                            forms[i].params);
            tensors = 0; /* a name of its own: not to be told by its tensors */
        }
        qsae__free(ctx, params);
    }
    if (st == QSAE_EFORMAT)
        st = QSAE_ENOENT;
    if (pickle && !single)
        st = qsae__fail(QSAE_EPICKLE, "%s: holds only the pickle %s, which can run code when read; "
                        "convert it to cfg.json + sae_weights.safetensors with SAELens, or write "
                        "what torch.load(..., weights_only=True) gives with "
                        "safetensors.torch.save_file (dictionary_learning: ae.safetensors beside "
                        "config.json)", p->folder, pickle);
    if (tensors == 1 && p->layer < 0) {
        char *const path = qsae__path_join(ctx, p->folder, single);
        st = path ? find_by_tensors(ctx, path, p) : QSAE_ENOMEM;
        qsae__free(ctx, path);
    }
    qsae__folder_list_free(ctx, names, count);
    return st;
}

static int32_t find_in_folder(qsae_context *ctx, const char *folder, qsae__sae_place *p)
{
    int32_t st = QSAE_OK;
    if (!(p->folder = qsae__strdup(ctx, folder)))
        return QSAE_ENOMEM;
    for (size_t i = 0; i < N_FORMS && st == QSAE_OK && !p->form; i++)
        st = try_form(ctx, &forms[i], p);
    return st == QSAE_OK && !p->form ? find_other(ctx, p) : st;
}

/* A file given by its own name: the configuration is looked for beside it. */
static int32_t find_file(qsae_context *ctx, const char *path, qsae__sae_place *p)
{
    const char *const slash = strrchr(path, '/');
    const char *const name = slash ? slash + 1 : path;
    p->folder = slash ? qsae__strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path))
                      : qsae__strdup(ctx, ".");
    if (!p->folder)
        return QSAE_ENOMEM;
    for (size_t i = 0; i < N_FORMS; i++) {
        const char *const dir = strchr(forms[i].params, '/');
        const char *const own = dir ? dir + 1 : forms[i].params;
        const int64_t layer = number_in(own, name);
        char *up = NULL;
        if (strcmp(own, name) != 0 && layer < 0)
            continue;
        if (layer >= 0 && p->layer >= 0 && layer != p->layer)
            return qsae__fail(QSAE_EINVAL, "%s: is layer %lld, not %lld", path, (long long)layer,
                              (long long)p->layer);
        if (layer >= 0)
            p->layer = layer;
        if (dir && !(up = qsae__path_join(ctx, p->folder, "..")))
            return QSAE_ENOMEM;
        if (up) {
            qsae__free(ctx, p->folder);
            p->folder = up;
        }
        const int32_t st = try_form(ctx, &forms[i], p);
        if (st != QSAE_OK || p->form)
            return st;
    }
    if (p->layer >= 0)
        return qsae__fail(QSAE_EINVAL, "%s: holds one SAE, so there is no layer %lld to choose",
                          path, (long long)p->layer);
    int32_t st = probe(ctx, p->folder, "cfg.json", &p->config);
    if (st == QSAE_OK && p->config) {
        p->form = &forms[0];
        p->params = qsae__strdup(ctx, path);
        return p->params ? QSAE_OK : QSAE_ENOMEM;
    }
    if (st == QSAE_OK && ends_with(path, ".npz")) {
        p->form = &forms[3];
        p->params = qsae__strdup(ctx, path);
        return p->params ? QSAE_OK : QSAE_ENOMEM;
    }
    return st == QSAE_OK ? find_by_tensors(ctx, path, p) : st;
}

/* "5" or "5:7" as layer and write. */
static bool read_layer(const char *s, qsae__sae_place *p)
{
    const size_t n = strspn(s, "0123456789");
    if (n < 1 || n > 6)
        return false;
    p->layer = strtol(s, NULL, 10);
    if (!s[n])
        return true;
    const size_t m = s[n] == ':' ? strspn(s + n + 1, "0123456789") : 0;
    if (m < 1 || m > 6 || s[n + 1 + m])
        return false;
    p->write = strtol(s + n + 1, NULL, 10);
    return true;
}

int32_t qsae__sae_find(qsae_context *ctx, const char *path, const char *layer,
                       qsae__sae_place *out)
{
    const char *const hash = strrchr(path, '#');
    char *copy = NULL;
    int32_t st = QSAE_OK;
    *out = (qsae__sae_place){ .layer = -1, .write = -1 };
    const bool whole = qsae__folder_exists(path) || qsae__file_exists(path);
    if (!whole && hash && read_layer(hash + 1, out)) {
        if (!(copy = qsae__strndup(ctx, path, (size_t)(hash - path))))
            return QSAE_ENOMEM;
        path = copy;
    }
    if (layer && !read_layer(layer, out))
        st = qsae__fail(QSAE_EINVAL, "%s: layer: expected a number such as \"5\", or \"5:7\", "
                        "found \"%s\"", path, layer);
    else if (qsae__folder_exists(path))
        st = find_in_folder(ctx, path, out);
    else if (qsae__file_exists(path))
        st = find_file(ctx, path, out);
    else
        st = qsae__fail(QSAE_ENOENT, "%s: no such file or folder", path);
    qsae__free(ctx, copy);
    if (st != QSAE_OK)
        qsae__sae_place_free(ctx, out);
    return st;
}
