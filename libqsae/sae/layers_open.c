/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening all layers of a cross-layer transcoder, a crosscoder or a set of transcoders. The
 * encoders are SAEs as "#5" opens them; decoders are read where they lie in the mapped files:
 *   circuit-tracer  W_dec_l [d_sae, L - l, d]: index 0 is what l writes to itself
 *   Gemma Scope 2   w_dec [d_sae, n, d]: index is the layer written to
 *   OpenMOSS        W_D.m [m + 1, d_sae, d] by the layer written to: index is the layer that writes
 */
#include <stdio.h>
#include <string.h>

#include "sae/layers.h"

static qsae__writes *writes_of(const qsae_sae_layers *g, int64_t from, int64_t to)
{
    return g->writes + from * g->n + to;
}

static int32_t check_dtype(const qsae__tensor *t)
{
    if (t->dtype == QSAE_F32 || t->dtype == QSAE_F16 || t->dtype == QSAE_BF16 ||
        t->dtype == QSAE_F64)
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": expected F32, F16, BF16 or F64, found "
                      "%s", t->file, t->name, qsae_dtype_name(t->dtype));
}

/* Decoder [d_sae, count, d] of layer `from`: entry k is what it writes to layer first + k. */
static int32_t take_strided(qsae_sae_layers *g, int64_t from, const char *file, const char *name,
                            int64_t first, int64_t count)
{
    const qsae__sae_config *const c = &g->saes[from]->config;
    const int64_t shape[3] = { c->d_sae, count, c->d_out };
    const qsae__tensor *t = NULL;
    int32_t st = qsae__tensors_load(g->ctx, file, &g->files[from]);
    if (st == QSAE_OK)
        st = qsae__tensors_need(g->files[from], name, 3, shape, &t);
    if (st == QSAE_OK)
        st = check_dtype(t);
    const size_t size = st == QSAE_OK ? (size_t)qsae_dtype_bits(t->dtype) / 8 : 0;
    for (int64_t k = 0; k < count && st == QSAE_OK; k++)
        if (g->kind == QSAE__CROSSCODER || first + k >= from)
            *writes_of(g, from, first + k) = (qsae__writes){
                .data = (const char *)t->data + (size_t)(k * c->d_out) * size,
                .ld = count * c->d_out, .dtype = t->dtype, .divisor = 1 };
    return st;
}

/* W_D.m of every layer m, in one file. */
static int32_t take_stacked(qsae_sae_layers *g, const char *file)
{
    int32_t st = qsae__tensors_load(g->ctx, file, &g->files[0]);
    for (int64_t to = 0; to < g->n && st == QSAE_OK; to++) {
        const qsae__sae_config *const c = &g->saes[to]->config;
        const int64_t shape[3] = { to + 1, c->d_sae, c->d_out };
        const qsae__tensor *t;
        char name[32];
        snprintf(name, sizeof name, "W_D.%lld", (long long)to);
        st = qsae__tensors_need(g->files[0], name, 3, shape, &t);
        if (st == QSAE_OK)
            st = check_dtype(t);
        const size_t size = st == QSAE_OK ? (size_t)qsae_dtype_bits(t->dtype) / 8 : 0;
        for (int64_t from = 0; from <= to && st == QSAE_OK; from++)
            *writes_of(g, from, to) = (qsae__writes){
                .data = (const char *)t->data + (size_t)(from * c->d_sae * c->d_out) * size,
                .ld = c->d_out, .dtype = t->dtype,
                .divisor = c->scale_out != 0 ? c->scale_out : 1 };
    }
    return st;
}

/* One decoder file per layer, named by the pattern. */
static int32_t take_files(qsae_sae_layers *g, bool relative)
{
    int32_t st = QSAE_OK;
    for (int64_t l = 0; l < g->n && st == QSAE_OK; l++) {
        const long long id = (long long)g->ids[l];
        char name[48], tensor[32] = "w_dec";
        snprintf(name, sizeof name, relative ? "W_dec_%lld.safetensors"
                                             : "params_layer_%lld.safetensors", id);
        if (relative)
            snprintf(tensor, sizeof tensor, "W_dec_%lld", id);
        char *const path = qsae__path_join(g->ctx, g->path, name);
        st = path ? take_strided(g, l, path, tensor, relative ? l : 0, relative ? g->n - l : g->n)
                  : QSAE_ENOMEM;
        qsae__free(g->ctx, path);
    }
    return st;
}

/* An output needs what every layer writes to it, so all layers must be there. */
static int32_t check_complete(const qsae_sae_layers *g, bool relative)
{
    if (!relative || (g->ids[0] == 0 && g->ids[g->n - 1] == g->n - 1))
        return QSAE_OK;
    return qsae__fail(QSAE_EMISMATCH, "%s: expected all layers from 0 on, found %lld of them, "
                      "layers %lld to %lld", g->path, (long long)g->n, (long long)g->ids[0],
                      (long long)g->ids[g->n - 1]);
}

static int32_t open_decoders(qsae_sae_layers *g, const qsae__sae_stack *s)
{
    const bool relative = s->form->read == qsae__sae_read_clt;
    if (g->kind == QSAE__TRANSCODERS)
        return QSAE_OK;
    g->files = qsae__calloc(g->ctx, g->n, sizeof *g->files);
    g->writes = qsae__calloc(g->ctx, g->n * g->n, sizeof *g->writes);
    if (!g->files || !g->writes)
        return QSAE_ENOMEM;
    if (s->params)
        return take_stacked(g, s->params);
    const int32_t st = check_complete(g, relative);
    return st == QSAE_OK ? take_files(g, relative) : st;
}

static int32_t open_encoders(qsae_sae_layers *g, const qsae_sae_settings *settings)
{
    int32_t st = QSAE_OK;
    g->saes = qsae__calloc(g->ctx, g->n, sizeof *g->saes);
    if (!g->saes)
        return QSAE_ENOMEM;
    for (int64_t l = 0; l < g->n && st == QSAE_OK; l++) {
        qsae_sae_settings s = *settings;
        char layer[32];
        snprintf(layer, sizeof layer, "%lld", (long long)g->ids[l]);
        s.layer = layer;
        if ((st = qsae_sae_open(g->ctx, g->path, &s, &g->saes[l])) != QSAE_OK)
            break;
        qsae__handle_set(&g->saes[l]->base, QSAE__A_SAE, 0); /* the set closes it */
        const qsae__sae_config *const first = &g->saes[0]->config, *const c = &g->saes[l]->config;
        if (c->d_in != first->d_in || c->d_out != first->d_out)
            st = qsae__fail(QSAE_EMISMATCH, "%s: layer %lld: width %lld to %lld, but layer %lld "
                            "has %lld to %lld", g->path, (long long)g->ids[l], (long long)c->d_in,
                            (long long)c->d_out, (long long)g->ids[0], (long long)first->d_in,
                            (long long)first->d_out);
    }
    return st;
}

static int32_t set_kind(qsae_sae_layers *g, const qsae__sae_stack *s)
{
    if (!s->form)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: holds no layers that belong together: expected "
                          "a cross-layer transcoder, a crosscoder or a set of transcoders",
                          g->path);
    g->kind = s->form->read == qsae__sae_read_transcoder_set ? QSAE__TRANSCODERS : QSAE__CLT;
    return QSAE_OK;
}

static int32_t check_settings(const char *path, const qsae_sae_settings *s)
{
    if (s->layer || s->prefix || (s->dtype && s->dtype != QSAE_F32))
        return qsae__fail(QSAE_EINVAL, "%s: layer, prefix and dtype are of single SAEs: expected "
                          "NULL, 0 and 0", path);
    return QSAE_OK;
}

int32_t qsae__sae_layers_there(qsae_context *ctx, const char *path, bool *there)
{
    qsae__sae_stack s = { 0 };
    *there = false;
    if (!qsae__folder_exists(path))
        return QSAE_OK;
    const int32_t st = qsae__sae_find_layers(ctx, path, &s);
    /* A transcoder alone is an SAE like others. */
    *there = st == QSAE_OK && s.form &&
             !(s.n == 1 && s.form->read == qsae__sae_read_transcoder_set);
    qsae__sae_stack_free(ctx, &s);
    return st;
}

int32_t qsae_sae_layers_open(qsae_context *context, const char *path,
                             const qsae_sae_settings *settings, qsae_sae_layers **out)
{
    QSAE__FPENV;
    qsae__sae_stack stack = { 0 };
    qsae_sae_settings s;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_layers_open: path must not be NULL");
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_sae_settings");
    if (st == QSAE_OK)
        st = check_settings(path, &s);
    if (st == QSAE_OK && !qsae__folder_exists(path))
        st = qsae__fail(QSAE_ENOENT, "%s: no such folder", path);
    if (st != QSAE_OK)
        return st;
    qsae_sae_layers *g = qsae__calloc(context, 1, sizeof *g);
    if (!g)
        return QSAE_ENOMEM;
    qsae__handle_init(g);
    g->ctx = qsae__context_ref(context);
    g->cancel = s.cancel;
    g->path = qsae__strdup(context, path);
    st = g->path ? qsae__sae_find_layers(context, path, &stack) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = set_kind(g, &stack);
    if (st == QSAE_OK) {
        g->n = stack.n;
        g->ids = stack.ids;
        stack.ids = NULL;
        st = open_encoders(g, &s);
    }
    if (st == QSAE_OK && strcmp(g->saes[0]->config.format, "gemma-scope-2-crosscoder") == 0)
        g->kind = QSAE__CROSSCODER;
    if (st == QSAE_OK)
        st = open_decoders(g, &stack);
    qsae__sae_stack_free(context, &stack);
    if (st != QSAE_OK) {
        qsae__unshare(g);
        qsae_sae_layers_close(&g);
    }
    *out = g;
    return st;
}

void qsae_sae_layers_close(qsae_sae_layers **layers)
{
    if (!qsae__leave(layers, "layers"))
        return;
    qsae_sae_layers *const g = *layers;
    qsae_context *const ctx = g->ctx;
    for (int64_t l = 0; l < g->n; l++) {
        if (g->saes)
            qsae__sae_free(g->saes[l]);
        if (g->files)
            qsae__tensors_unref(&g->files[l]);
    }
    qsae__free(ctx, g->saes);
    qsae__free(ctx, g->files);
    qsae__free(ctx, g->writes);
    qsae__free(ctx, g->ids);
    qsae__free(ctx, g->path);
    qsae__retire(ctx, g);
    qsae__context_unref(ctx);
    *layers = NULL;
}
