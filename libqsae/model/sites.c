/* SPDX-License-Identifier: BSD-2-Clause */
/* Sites by name: short ones, TransformerLens' hooks and transformers' modules (models.md C.1,
 * sae.md B.10). A family's modules are those that its row of the table names. */
#include <string.h>

#include "model/internal.h"

enum place { OF_LAYER, FIRST, LAST };

static const struct site {
    int32_t site;
    enum place place;
    const char *name;
    const char *hook; /* TransformerLens', after "blocks.N." where it is of a layer; or NULL */
} sites[] = {
    { QSAE_SITE_RESID_POST, OF_LAYER, "resid_post", "hook_resid_post" },
    { QSAE_SITE_RESID_PRE, OF_LAYER, "resid_pre", "hook_resid_pre" },
    { QSAE_SITE_RESID_MID, OF_LAYER, "resid_mid", "hook_resid_mid" },
    { QSAE_SITE_ATTN_OUT, OF_LAYER, "attn_out", "hook_attn_out" },
    { QSAE_SITE_MLP_OUT, OF_LAYER, "mlp_out", "hook_mlp_out" },
    { QSAE_SITE_Z, OF_LAYER, "z", "attn.hook_z" },
    { QSAE_SITE_MLP_IN, OF_LAYER, "mlp_in", "mlp.hook_in" },
    { QSAE_SITE_EMBED, FIRST, "embed", "hook_embed" },
    { QSAE_SITE_FINAL_NORM, LAST, "final_norm", NULL },
    { QSAE_SITE_LN2_NORMALIZED, OF_LAYER, "ln2_normalized", "ln2.hook_normalized" },
    { QSAE_SITE_FINAL_NORMALIZED, LAST, "final_normalized", "ln_final.hook_normalized" },
    { QSAE_SITE_LN1_NORMALIZED, OF_LAYER, "ln1_normalized", "ln1.hook_normalized" },
    { QSAE_SITE_MLP_POST, OF_LAYER, "mlp_post", "mlp.hook_post" },
    { QSAE_SITE_POS_EMBED, FIRST, "pos_embed", "hook_pos_embed" },
    /* The stream before ln2, where TransformerLens hands the MLP a copy of its own. */
    { QSAE_SITE_RESID_MID, OF_LAYER, NULL, "hook_mlp_in" },
    /* TransformerLens 3 wraps modules of transformers and hooks their sides. */
    { QSAE_SITE_RESID_PRE, OF_LAYER, NULL, "hook_in" },
    { QSAE_SITE_RESID_POST, OF_LAYER, NULL, "hook_out" },
    { QSAE_SITE_RESID_MID, OF_LAYER, NULL, "ln2.hook_in" },
};
#define N_SITES (sizeof sites / sizeof sites[0])

static const struct site *find(int32_t site)
{
    for (size_t i = 0; i < N_SITES; i++)
        if (sites[i].site == site)
            return &sites[i];
    return NULL;
}

const char *qsae_site_name(int32_t site)
{
    const struct site *const s = find(site);
    return s ? s->name : NULL;
}

bool qsae__site_unrounded(int32_t site)
{
    return site == QSAE_SITE_LN1_NORMALIZED || site == QSAE_SITE_LN2_NORMALIZED ||
           site == QSAE_SITE_FINAL_NORMALIZED;
}

int32_t qsae__model_site_layer(const qsae_model *m, int32_t site, int32_t layer)
{
    const struct site *const s = find(site);
    return !s || s->place == OF_LAYER ? layer
           : s->place == FIRST        ? 0
                                      : (int32_t)(m->config->layers - 1);
}

int64_t qsae_model_site_width(const qsae_model *model, int32_t site)
{
    return qsae_model_site_width_at(model, site, 0);
}

int64_t qsae_model_site_width_at(const qsae_model *model, int32_t site, int32_t layer)
{
    if (!qsae__is_open(model) || !find(site))
        return 0;
    const qsae__config *const c = model->config;
    layer = qsae__model_site_layer(model, site, layer);
    if (layer < 0 || layer >= c->layers)
        return 0;
    const qsae__layer_shape shape = qsae__layer_shape_of(c, layer);
    switch (site) {
    case QSAE_SITE_RESID_MID:
        return c->parallel ? 0 : c->width;
    case QSAE_SITE_POS_EMBED:
        return model->weights->positions ? c->width : 0;
    case QSAE_SITE_Z:
        return c->heads * shape.head_dim;
    case QSAE_SITE_MLP_POST:
        return shape.mlp_width;
    default:
        return c->width;
    }
}

/* Takes "HEADn" off a name; false, and *at as it was, if it is not there. */
static bool take_layer(const char **at, const char *head, int32_t *layer)
{
    const size_t n = strlen(head);
    if (strncmp(*at, head, n) != 0)
        return false;
    const size_t digits = strspn(*at + n, "0123456789");
    int32_t value = 0;
    if (digits < 1 || digits > 9)
        return false;
    for (size_t i = 0; i < digits; i++)
        value = value * 10 + ((*at)[n + i] - '0');
    *layer = value;
    *at += n + digits;
    return true;
}

/* "z", "attn.hook_z", "hook_z"; with a layer "blocks.3.attn.hook_z". *has: a layer is named. */
static const struct site *by_hook(const char *name, int32_t *layer, bool *has)
{
    *has = take_layer(&name, "blocks.", layer);
    if (*has && *name++ != '.')
        return NULL;
    for (size_t i = 0; i < N_SITES; i++)
        if (sites[i].hook && !strcmp(name, sites[i].hook))
            return *has && sites[i].place != OF_LAYER ? NULL : &sites[i];
    if (*has)
        return NULL;
    if (!strncmp(name, "hook_", 5))
        name += 5;
    for (size_t i = 0; i < N_SITES; i++)
        if (sites[i].name && !strcmp(name, sites[i].name))
            return &sites[i];
    return NULL;
}

/* A module's name of n characters, and the side of it that is meant. */
struct module {
    const char *name;
    size_t n;
    bool output;
};

static bool is(const struct module *m, const char *name)
{
    return name && strlen(name) == m->n && !strncmp(m->name, name, m->n);
}

/* Whether it is the module that holds a projection: "mlp" of "mlp.up_proj". */
static bool holds(const struct module *m, const char *path)
{
    return m->n > 0 && !strncmp(m->name, path, m->n) && path[m->n] == '.' &&
           !strchr(path + m->n + 1, '.');
}

/* Input and output of a projection or of the attention or MLP around it; 0 = no site. */
static int32_t of_projection(const qsae__family *f, const qsae__proj_slot *p,
                             const struct module *m)
{
    const bool attn = !strcmp(p->group, "attn"), whole = holds(m, p->path);
    const bool post = f->norms[attn ? QSAE__NORM_ATTN_OUT : QSAE__NORM_MLP_OUT] != NULL;
    if (!whole && !is(m, p->path))
        return 0;
    if (m->output)
        return (whole || p->out == QSAE__SIZE_WIDTH) && !post
                   ? (attn ? QSAE_SITE_ATTN_OUT : QSAE_SITE_MLP_OUT)
                   : 0;
    if (attn)
        return !whole && p->in == QSAE__SIZE_Q ? QSAE_SITE_Z : 0;
    return !whole && p->in == QSAE__SIZE_MLP ? QSAE_SITE_MLP_POST : QSAE_SITE_MLP_IN;
}

static int32_t in_layer(const qsae__family *f, bool parallel, const struct module *m)
{
    const qsae__proj_slot *const slots = f->slots ? f->slots : qsae__proj_slots;
    /* Gemma 4's router and per-layer embeddings stand at no site. */
    const int n = f->slots && !f->extras ? f->n_slots : QSAE__GATED_COUNT;
    int32_t site = 0;
    if (m->n == 0)
        return m->output ? QSAE_SITE_RESID_POST : QSAE_SITE_RESID_PRE;
    if (is(m, f->norms[QSAE__NORM_ATTN_IN]))
        return m->output ? 0 : QSAE_SITE_RESID_PRE;
    if (is(m, f->norms[QSAE__NORM_ATTN_OUT]))
        return m->output ? QSAE_SITE_ATTN_OUT : 0;
    if (is(m, f->norms[QSAE__NORM_MLP_IN]))
        return m->output ? QSAE_SITE_MLP_IN
               : parallel ? QSAE_SITE_RESID_PRE
                          : QSAE_SITE_RESID_MID;
    if (is(m, f->norms[QSAE__NORM_MLP_OUT]))
        return m->output ? QSAE_SITE_MLP_OUT : 0;
    if (f->qkv && is(m, "mlp.act")) /* without a gate */
        return m->output ? QSAE_SITE_MLP_POST : 0;
    for (int i = 0; i < n && !site; i++)
        site = of_projection(f, &slots[i], m);
    return site;
}

/* Modules of the model itself. layers: of the model, or 0 if it is not known. */
static int32_t in_model(const qsae__family *f, int64_t layers, const struct module *m,
                        int32_t *layer)
{
    const int32_t last = (int32_t)layers - 1;
    *layer = layers ? 0 : -1;
    if (is(m, qsae__family_embed(f)))
        return m->output ? QSAE_SITE_EMBED : 0;
    if (is(m, f->positions))
        return m->output ? QSAE_SITE_POS_EMBED : 0;
    *layer = last;
    if (is(m, qsae__family_final_norm(f)))
        return m->output ? QSAE_SITE_FINAL_NORM : layers ? QSAE_SITE_RESID_POST : 0;
    if (is(m, qsae__family_head(f)))
        return m->output ? 0 : QSAE_SITE_FINAL_NORM;
    return 0;
}

/* A module's name in one family. c: the model's configuration, or NULL. */
static int32_t by_module(const qsae__family *f, const qsae__config *c, const char *name,
                         int32_t *layer)
{
    static const char *const prefixes[] = { "model.language_model.", "language_model.model.",
                                            "language_model.", "model.", "gpt_neox.",
                                            "transformer." };
    static const char *const lists[] = { "layers.", "h." };
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (!strncmp(name, prefixes[i], strlen(prefixes[i]))) {
            name += strlen(prefixes[i]);
            break;
        }
    bool inside = false;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0] && !inside; i++)
        inside = take_layer(&name, lists[i], layer);
    if (inside && *name && (*name++ != '.' || !*name))
        return 0;
    struct module m = { name, strlen(name), true };
    static const char *const sides[] = { "input", "output" };
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(sides[i]);
        const size_t dot = m.n > n ? 1 : 0;
        if (m.n < n || strcmp(name + m.n - n, sides[i]) != 0 ||
            (dot ? m.n == n + 1 || name[m.n - n - 1] != '.' : !inside))
            continue;
        m.n -= n + dot;
        m.output = i;
        break;
    }
    if (inside)
        return in_layer(f, c && c->parallel, &m);
    return in_model(f, c ? c->layers : 0, &m, layer);
}

int32_t qsae_site_from_name(const char *name, int32_t *layer)
{
    int32_t number = -1, found = -1, site = 0;
    bool has;
    if (!name || qsae__need_aligned(layer, "layer"))
        return 0;
    const struct site *const s = by_hook(name, &number, &has);
    if (s) {
        if (layer && (has || s->place != OF_LAYER))
            *layer = number;
        return s->site;
    }
    const qsae__family *f;
    for (size_t i = 0; (f = qsae__family_at(i)) != NULL; i++) {
        const int32_t its = by_module(f, NULL, name, &number);
        if (its && site && its != site)
            return 0;
        found = its ? number : found;
        site = its ? its : site;
    }
    if (site && layer)
        *layer = found;
    return site;
}

/* "blocks.3.mlp.hook_out" of TransformerLens and circuit-tracer: the MLP's own output, which is no
 * site where a norm follows it. */
static int32_t by_mlp_hook(const qsae__config *c, const char *name, int32_t *layer)
{
    const struct module mlp = { "mlp", 3, true };
    if (!take_layer(&name, "blocks.", layer) || strcmp(name, ".mlp.hook_out") != 0)
        return 0;
    return in_layer(c->family, c->parallel, &mlp);
}

int32_t qsae_model_site(const qsae_model *model, const char *name, int32_t *layer)
{
    int32_t number = -1;
    bool has;
    if (!qsae__is_open(model) || !name || qsae__need_aligned(layer, "layer"))
        return 0;
    const struct site *const s = by_hook(name, &number, &has);
    const int32_t hook = s ? s->site : by_mlp_hook(model->config, name, &number);
    const int32_t site =
        hook ? hook : by_module(model->config->family, model->config, name, &number);
    const bool named = site && (!s || has || s->place != OF_LAYER);
    if (named && layer)
        *layer = s ? qsae__model_site_layer(model, site, number) : number;
    return site;
}
