/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder of SAELens (sae.md B.3): cfg.json and sae_weights.safetensors, with what may lie beside
 * a training checkpoint. */
#include <string.h>

#include "sae/parts.h"
#include "sae/rewrite.h"

/* {"scaling_factor": s} of activation_scaler.json beside a checkpoint; *s stays without one. */
static int32_t read_scaler(qsae_context *ctx, const char *folder, double *s)
{
    char *const path = qsae__path_join(ctx, folder, "activation_scaler.json");
    json_t *json = NULL;
    int32_t st = path ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && qsae__file_exists(path)) {
        st = qsae__json_load(ctx, path, &json);
        if (st == QSAE_OK && !json_is_object(json))
            st = qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", path,
                            qsae__json_type_name(json));
        if (st == QSAE_OK)
            st = qsae__json_f64(json, path, "scaling_factor", false, s, NULL);
        json_decref(json);
    }
    qsae__free(ctx, path);
    return st;
}

/* The parameters with s folded in; other tensors as they are. */
static int32_t fold_scale(qsae_context *ctx, const char *params, double s, qsae__tensors **out)
{
    qsae__rewrite r;
    int32_t st = qsae__rewrite_open(ctx, params, &r);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < qsae__tensors_len(r.from) && st == QSAE_OK; i++) {
        const char *const name = qsae__tensors_at(r.from, i)->name;
        st = qsae__rewrite_same(&r, name, name, -1, NULL);
    }
    static const char *const needed[] = { "W_enc", "W_dec", "b_dec" };
    for (size_t i = 0; i < 3 && st == QSAE_OK; i++) {
        const qsae__tensor *t;
        st = qsae__tensors_need(r.from, needed[i], i < 2 ? 2 : 1, NULL, &t);
    }
    if (st == QSAE_OK)
        st = qsae__rewrite_fold_scale(&r, s);
    if (st == QSAE_OK)
        return qsae__rewrite_finish(&r, out);
    qsae__rewrite_close(&r);
    return st;
}

/* expected_average_only_in: s of the settings, the checkpoint, or the table of releases. */
static int32_t apply_scale(qsae_context *ctx, const qsae__sae_place *place,
                           const qsae_sae_settings *s, const qsae__sae_release *known,
                           qsae__sae_config *c, qsae__tensors **tensors)
{
    double scale = 0;
    int32_t st = read_scaler(ctx, place->folder, &scale);
    if (s->scale != 0)
        scale = s->scale;
    else if (scale == 0)
        scale = known->scale;
    if (st != QSAE_OK || scale == 0) /* stays unscaled, which opening warns of */
        return st;
    qsae__tensors_unref(tensors);
    c->normalize = QSAE__NORM_NONE;
    c->scale = scale;
    return fold_scale(ctx, place->params, scale, tensors);
}

int32_t qsae__sae_read_saelens(qsae_context *ctx, const qsae__sae_place *place,
                               const qsae_sae_settings *s, qsae__sae_config *c,
                               qsae__tensors **tensors)
{
    qsae__sae_release known;
    /* Parameters first: a pickle is told by its content, whatever lies beside it. */
    int32_t st = qsae__tensors_load(ctx, place->params, tensors);
    if (st == QSAE_OK)
        st = qsae__sae_config_saelens(ctx, place->config, c);
    if (st != QSAE_OK)
        return st;
    qsae__sae_release_of(place->folder, &known);
    if (known.constant_norm && c->normalize == QSAE__NORM_NONE)
        c->normalize = QSAE__NORM_CONSTANT;
    /* The residual SAEs of gpt2-small that Neuronpedia calls N-res-jb read centred rows. */
    const char *const id = c->neuronpedia ? c->neuronpedia : "";
    const size_t n = strlen(id);
    c->center_input |= known.center_input ||
                       (strncmp(id, "gpt2-small/", 11) == 0 && strcmp(id + n - 7, "-res-jb") == 0);
    return c->normalize == QSAE__NORM_UNSCALED ?
           apply_scale(ctx, place, s, &known, c, tensors) : QSAE_OK;
}
