/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/stored.h"

#include <stdio.h>
#include <string.h>

static const qsae__store *const stores[] = {
    &qsae__store_bitsandbytes, &qsae__store_gptq, &qsae__store_awq, &qsae__store_compressed_tensors,
    &qsae__store_fp8,
};
#define N_STORES (sizeof stores / sizeof stores[0])
#define STORE_NAMES "bitsandbytes, gptq, awq, compressed-tensors, fp8"

struct qsae__scheme {
    const qsae__store *store;
    void *params;
};

/* Old bitsandbytes configurations name no method (bitsandbytes.md D). */
static int32_t method_of(const json_t *config, const char *where, const char **method)
{
    int32_t present = 0;
    const int32_t st = qsae__json_str(config, where, "quant_method", false, method, &present);
    if (st != QSAE_OK || present)
        return st;
    if (json_object_get(config, "load_in_4bit") || json_object_get(config, "load_in_8bit")) {
        *method = "bitsandbytes";
        return QSAE_OK;
    }
    return qsae__fail(QSAE_EFORMAT, "%s: quant_method: expected one of " STORE_NAMES
                      ", found nothing", where);
}

int32_t qsae__scheme_open(qsae_context *ctx, const json_t *config, const char *where,
                          qsae__scheme **out)
{
    const char *method = NULL;
    const qsae__store *store = NULL;
    *out = NULL;
    int32_t st = method_of(config, where, &method);
    if (st != QSAE_OK)
        return st;
    for (size_t i = 0; i < N_STORES && !store; i++)
        if (!strcmp(method, stores[i]->method))
            store = stores[i];
    if (!store)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: quant_method \"%.64s\" is not supported "
                          "(supported: " STORE_NAMES ")", where, method);
    qsae__scheme *s = qsae__calloc(ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    s->store = store;
    s->params = qsae__calloc(ctx, 1, store->size);
    st = s->params ? store->read(ctx, config, where, s->params) : QSAE_ENOMEM;
    if (st != QSAE_OK)
        qsae__scheme_close(ctx, &s);
    *out = s;
    return st;
}

void qsae__scheme_close(qsae_context *ctx, qsae__scheme **scheme)
{
    if (!scheme || !*scheme)
        return;
    if ((*scheme)->params && (*scheme)->store->close)
        (*scheme)->store->close(ctx, (*scheme)->params);
    qsae__free(ctx, (*scheme)->params);
    qsae__free(ctx, *scheme);
    *scheme = NULL;
}

const char *qsae__scheme_name(const qsae__scheme *scheme)
{
    return scheme ? scheme->store->method : "";
}

int32_t qsae__stored_open(qsae_context *ctx, const qsae__scheme *scheme, qsae__tensors *tensors,
                          const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    const qsae__store *const store = scheme ? scheme->store : &qsae__store_bitsandbytes;
    *out = NULL;
    return store->open(ctx, scheme ? scheme->params : NULL, tensors, module, n_out, n_in, out);
}

const qsae__tensor *qsae__stored_key(const qsae__tensors *tensors, const char *module)
{
    static const char *const keys[] = { "weight", "qweight", "weight_packed" };
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        char name[256];
        snprintf(name, sizeof name, "%s.%s", module, keys[k]);
        const qsae__tensor *const t = qsae__tensors_find(tensors, name);
        if (t)
            return t;
    }
    return NULL;
}

int32_t qsae_tensors_matrix(const qsae_tensors *tensors, const char *name, qsae_qmatrix **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__need(tensors, "tensors"))
        return QSAE_EINVAL;
    if (!name)
        return qsae__fail(QSAE_EINVAL, "qsae_tensors_matrix: NULL argument");
    qsae__tensors *const set = qsae__tensors_of(tensors);
    const qsae__tensor *const t = qsae__tensors_find(set, name);
    if (!t)
        return qsae__fail(QSAE_ENOENT, "no tensor named %.200s", name);
    return qsae__qmatrix_give(qsae__ggml_open(qsae__tensors_context(set), set, t, out), out);
}
