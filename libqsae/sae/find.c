/* SPDX-License-Identifier: BSD-2-Clause */
/* Which format a path holds (sae.md B.2). */
#include <string.h>

#include "sae/parts.h"

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

static int32_t fail_unknown(qsae_context *ctx, const char *folder)
{
    static const struct {
        const char *file, *what;
    } others[] = {
        { "sae.safetensors", "a sparsify SAE" },
        { "hyperparams.json", "a Llama Scope SAE" },
        { "config.yaml", "a set of transcoders" },
        { "conf.yaml", "a temporal SAE" },
    };
    char **names = NULL;
    int64_t count = 0;
    int32_t st = qsae__folder_list(ctx, folder, &names, &count);
    if (st != QSAE_OK)
        return st;
    st = qsae__fail(QSAE_ENOENT,
                    "%s: no SAE found: expected cfg.json with sae_weights.safetensors, "
                    "params.safetensors, or params.npz", folder);
    for (int64_t i = 0; i < count && st == QSAE_ENOENT; i++) {
        const char *const n = names[i];
        for (size_t j = 0; j < sizeof others / sizeof others[0]; j++)
            if (strcmp(n, others[j].file) == 0)
                st = qsae__fail(QSAE_EUNSUPPORTED,
                                "%s: %s (it has %s) is not supported; convert it to "
                                "cfg.json + sae_weights.safetensors with SAELens", folder,
                                others[j].what, n);
        if (ends_with(n, ".pt") || ends_with(n, ".pth") || ends_with(n, ".bin"))
            st = qsae__fail(QSAE_EPICKLE,
                            "%s: holds only the pickle %s, which can run code when read; "
                            "convert it to cfg.json + sae_weights.safetensors with SAELens",
                            folder, n);
    }
    qsae__folder_list_free(ctx, names, count);
    return st;
}

static int32_t find_in_folder(qsae_context *ctx, const char *folder, qsae__sae_place *p)
{
    static const struct {
        const char *params, *config;
        enum qsae__sae_format format;
        bool config_needed;
    } forms[] = {
        { "sae_weights.safetensors", "cfg.json", QSAE__SAELENS, true },
        { "params.safetensors", "config.json", QSAE__SCOPE2, false },
        { "params.npz", NULL, QSAE__SCOPE1, false },
    };
    if (!(p->folder = qsae__strdup(ctx, folder)))
        return QSAE_ENOMEM;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        int32_t st = probe(ctx, folder, forms[i].params, &p->params);
        if (st != QSAE_OK)
            return st;
        if (!p->params)
            continue;
        if (forms[i].config)
            st = probe(ctx, folder, forms[i].config, &p->config);
        if (st != QSAE_OK)
            return st;
        if (forms[i].config_needed && !p->config)
            return qsae__fail(QSAE_ENOENT, "%s: expected %s beside %s", folder, forms[i].config,
                              forms[i].params);
        p->format = forms[i].format;
        return QSAE_OK;
    }
    return fail_unknown(ctx, folder);
}

/* A file given by its own name: the configuration is looked for beside it. */
static int32_t find_file(qsae_context *ctx, const char *path, qsae__sae_place *p)
{
    const char *const slash = strrchr(path, '/');
    p->folder = slash ? qsae__strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path))
                      : qsae__strdup(ctx, ".");
    p->params = qsae__strdup(ctx, path);
    if (!p->folder || !p->params)
        return QSAE_ENOMEM;
    if (ends_with(path, ".npz")) {
        p->format = QSAE__SCOPE1;
        return QSAE_OK;
    }
    int32_t st = probe(ctx, p->folder, "cfg.json", &p->config);
    p->format = QSAE__SAELENS;
    if (st != QSAE_OK || p->config)
        return st;
    p->format = QSAE__SCOPE2;
    return probe(ctx, p->folder, "config.json", &p->config);
}

int32_t qsae__sae_find(qsae_context *ctx, const char *path, qsae__sae_place *out)
{
    memset(out, 0, sizeof *out);
    int32_t st;
    if (qsae__folder_exists(path))
        st = find_in_folder(ctx, path, out);
    else if (qsae__file_exists(path))
        st = find_file(ctx, path, out);
    else
        st = qsae__fail(QSAE_ENOENT, "%s: no such file or folder", path);
    if (st != QSAE_OK)
        qsae__sae_place_free(ctx, out);
    return st;
}
