/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the SAEs of an audit belong: FOLDER[@LAYER[:SITE[:SITE_OUT]]], else what their files say.
 * An SAE reconstructs the rows it reads; a transcoder reads at one place and reconstructs the rows
 * of another; one of a single attention head works on that head's columns.
 */
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"

static const char expected_sites[] =
    "expected one that this model has: resid_pre, resid_post, attn_out, mlp_out, z, mlp_in, ...";

/* What stands behind the folder's name. */
struct told {
    bool layer;                  /* is told: out->layer_in */
    char *in, *out;              /* sites, or NULL */
};

/* An @ that no number follows belongs to the folder's name. SITE>SITE_OUT is read too. */
static int32_t split_sae(qsae_audit *a, const char *text, struct audit_sae *out, struct told *told)
{
    const char *at = strrchr(text, '@');
    char *end = NULL;
    const long layer = at ? strtol(at + 1, &end, 10) : 0;
    memset(told, 0, sizeof *told);
    told->layer = at && end > at + 1 && (*end == 0 || *end == ':') && layer >= 0;
    out->layer_in = told->layer ? layer > INT32_MAX ? INT32_MAX : (int32_t)layer : -1;
    out->name = told->layer ? qsae__strndup(a->ctx, text, (size_t)(at - text))
                            : qsae__strdup(a->ctx, text);
    if (!out->name || !told->layer || *end == 0)
        return out->name ? QSAE_OK : QSAE_ENOMEM;
    const size_t n = strcspn(end + 1, ":>");
    const char *const second = end[1 + n] ? end + 2 + n : NULL;
    told->in = qsae__strndup(a->ctx, end + 1, n);
    if (second)
        told->out = qsae__strdup(a->ctx, second);
    return told->in && (told->out || !second) ? QSAE_OK : QSAE_ENOMEM;
}

/* What it reads: as told, else as its files say, which may lack the layer or the site. */
static int32_t place_input(const qsae_model *model, const char *text, const struct told *told,
                           struct audit_sae *out)
{
    const char *const hook = out->info.hook;
    int32_t layer = -1;
    const int32_t hooked = *hook ? qsae_model_site(model, hook, &layer) : 0;
    if (told->in) {
        out->site_in = qsae_model_site(model, told->in, NULL);
        if (!out->site_in)
            return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: site %s: %s", text, told->in,
                              expected_sites);
        return QSAE_OK;
    }
    if (told->layer && (hooked || !out->info.transcoder)) {
        out->site_in = hooked ? hooked : QSAE_SITE_RESID_POST;
        return QSAE_OK;
    }
    if (!*hook || told->layer)
        return qsae__fail(QSAE_EINVAL, "SAE %s: its files name no hook%s; give %s@LAYER%s", text,
                          *hook ? " of this model" : "", out->name,
                          out->info.transcoder ? ":SITE:SITE_OUT" : "");
    if (!hooked || layer < 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: hook \"%s\" is not available in this model; "
                          "give %s@LAYER:SITE", text, hook, text);
    out->site_in = hooked;
    out->layer_in = layer;
    return QSAE_OK;
}

/* What it reconstructs. A layer that is told moves both places. */
static int32_t place_output(const qsae_model *model, const char *text, const struct told *told,
                            struct audit_sae *out)
{
    const qsae_sae_info *const info = &out->info;
    int32_t from = -1, to = -1;
    out->layer = out->layer_in;
    out->site = out->site_in;
    const bool crosscoder = out->of && strcmp(out->of->info.kind, "crosscoder") == 0;
    if (crosscoder && !told->out) /* reconstructs what it reads */
        return QSAE_OK;
    if (!info->transcoder)
        return !told->out ? QSAE_OK :
               qsae__fail(QSAE_EINVAL, "SAE %s: site %s: only transcoders have a second one: this "
                          "SAE reconstructs what it reads", text, told->out);
    if (told->out) {
        out->site = qsae_model_site(model, told->out, &out->layer);
        return out->site ? QSAE_OK : qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: site %s: %s", text,
                                                told->out, expected_sites);
    }
    if (strcmp(info->hook, info->hook_out) == 0)
        return qsae__fail(QSAE_EINVAL, "SAE %s: its files do not say where its output belongs; "
                          "give %s@LAYER:SITE:SITE_OUT", text, out->name);
    out->site = qsae_model_site(model, info->hook_out, &to);
    if (!out->site)
        return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: output hook \"%s\" is not available in this "
                          "model; give %s@LAYER:SITE:SITE_OUT", text, info->hook_out, out->name);
    (void)qsae_model_site(model, info->hook, &from);
    if (to >= 0)
        out->layer = told->layer && from >= 0 ? out->layer_in + (to - from)
                     : told->layer           ? out->layer_in
                                             : to;
    return QSAE_OK;
}

/* One of the two places: layer and site are there and as wide as the SAE is; columns: of it. */
static int32_t check_place(const qsae_model *model, const char *text, const struct audit_sae *s,
                           int32_t layer, int32_t site, int64_t width, int64_t *columns)
{
    qsae_model_info m = { .struct_size = offsetof(qsae_model_info, hash) };
    const int32_t st = qsae_model_get_info(model, &m);
    if (st != QSAE_OK)
        return st;
    const char *const name = qsae_site_name(site);
    if (layer < 0 || layer >= m.layers)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: layer %d, the model has layers 0..%lld", text,
                          (int)layer, (long long)m.layers - 1);
    const int32_t own = qsae__model_site_layer(model, site, layer);
    if (own != layer)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: layer %d: %s is at layer %d alone", text,
                          (int)layer, name, (int)own);
    *columns = qsae_model_site_width_at(model, site, layer);
    if (*columns == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: the model has no %s", text, name);
    if (s->info.head >= 0 && site != QSAE_SITE_Z)
        return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: it is of attention head %d; expected site z, "
                          "where heads lie side by side, found %s", text, (int)s->info.head, name);
    const int64_t wanted = s->info.head >= 0 ? *columns / m.heads : *columns;
    if (width != wanted)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: width %lld to %lld, the model has %lld at %s",
                          text, (long long)s->info.width, (long long)s->info.width_out,
                          (long long)wanted, name);
    if (s->info.head >= m.heads)
        return qsae__fail(QSAE_EMISMATCH, "SAE %s: attention head %d, the model has %lld", text,
                          (int)s->info.head, (long long)m.heads);
    return QSAE_OK;
}

static int32_t check_places(const qsae_model *model, const char *text, struct audit_sae *s)
{
    int32_t st = check_place(model, text, s, s->layer_in, s->site_in, s->info.width,
                             &s->columns_in);
    if (st == QSAE_OK)
        st = check_place(model, text, s, s->layer, s->site, s->info.width_out, &s->columns);
    s->column = s->info.head > 0 ? s->info.head * s->info.width : 0;
    s->last = s->layer > s->layer_in ? s->layer : s->layer_in;
    return st;
}

/* Refuses what has no reconstruction to compare, or one of other rows than the model's. */
static int32_t check_kind(const qsae_audit *a, const char *text, const struct audit_sae *s)
{
    const char *const done = qsae_weights_processing(a->participants[0].weights);
    if (s->info.encode_only && !s->of)
        return qsae__fail(QSAE_EUNSUPPORTED, "SAE %s: one layer of a cross-layer transcoder "
                          "reconstructs nothing by itself", text);
    if (s->info.center_input && !strstr(done, "center_writing_weights"))
        return qsae__fail(QSAE_EINVAL, "SAE %s: it was trained on a model with centred weights; "
                          "process: expected center_writing_weights, found \"%s\"", text, done);
    return QSAE_OK;
}

/* An SAE that is open, at its place. */
static int32_t place_sae(const qsae_audit *a, const char *text, const struct told *told,
                         struct audit_sae *out)
{
    const qsae_model *const model = a->participants[0].model;
    out->info.struct_size = sizeof out->info;
    int32_t st = qsae_sae_get_info(out->sae, &out->info);
    if (st == QSAE_OK)
        st = check_kind(a, text, out);
    if (st == QSAE_OK)
        st = place_input(model, text, told, out);
    if (st == QSAE_OK)
        st = place_output(model, text, told, out);
    return st == QSAE_OK ? check_places(model, text, out) : st;
}

#define SAES_MOST 4096

/* Room for one more. */
static int32_t next_sae(qsae_audit *a, int64_t *capacity, struct audit_sae **out)
{
    if (a->n_saes >= SAES_MOST)
        return qsae__fail(QSAE_EINVAL, "audit: at most %d SAEs, layers of sets counted one by one",
                          SAES_MOST);
    const int32_t st = qsae__grow(a->ctx, &a->saes, capacity, a->n_saes + 1, sizeof *a->saes);
    if (st != QSAE_OK)
        return st;
    *out = &a->saes[a->n_saes++];
    memset(*out, 0, sizeof **out);
    return QSAE_OK;
}

/* What outputs depend on: the places of all layers that write to them. */
static void settle_last(qsae_audit *a, const struct audit_layers *set)
{
    struct audit_sae *const saes = a->saes + set->first;
    for (int64_t m = 0; m < set->info.layers; m++)
        for (int64_t l = 0; l < set->info.layers; l++)
            if (qsae__sae_layers_writes(set->layers, l, m) && saes[l].layer_in > saes[m].last)
                saes[m].last = saes[l].layer_in;
}

/* Opens a folder of layers that belong together: one SAE each. A layer that is told is that of the
 * files' layer 0. */
static int32_t open_layers(qsae_audit *a, const char *text, const char *name,
                           const struct told *told, int32_t base, int64_t *capacity)
{
    struct audit_layers *const set = &a->sets[a->n_sets++];
    set->first = a->n_saes;
    if (!(set->name = qsae__strdup(a->ctx, name)))
        return QSAE_ENOMEM;
    int32_t st = qsae_sae_layers_open(a->ctx, name, NULL, &set->layers);
    set->info.struct_size = sizeof set->info;
    if (st == QSAE_OK)
        st = qsae_sae_layers_get_info(set->layers, &set->info);
    for (int64_t k = 0; st == QSAE_OK && k < set->info.layers; k++) {
        struct audit_sae *sae = NULL;
        int64_t layer = 0;
        if ((st = next_sae(a, capacity, &sae)) != QSAE_OK)
            break;
        sae->of = set;
        sae->member = k;
        if (!(sae->name = qsae__strdup(a->ctx, name)))
            return QSAE_ENOMEM;
        st = qsae_sae_layers_get(set->layers, k, &layer, &sae->sae);
        sae->layer_in =
            told->layer ? (int32_t)qsae__min_i64(INT32_MAX, base + layer) : -1;
        if (st == QSAE_OK)
            st = place_sae(a, text, told, sae);
    }
    if (st == QSAE_OK)
        settle_last(a, set);
    return st;
}

static int32_t open_given(qsae_audit *a, const char *text, int64_t *capacity)
{
    struct audit_sae one = { .layer_in = -1 }, *out = NULL;
    struct told told;
    bool layers = false;
    int32_t st = split_sae(a, text, &one, &told);
    if (st == QSAE_OK)
        st = qsae__sae_layers_there(a->ctx, one.name, &layers);
    if (st == QSAE_OK && layers) {
        st = open_layers(a, text, one.name, &told, one.layer_in, capacity);
    } else if (st == QSAE_OK && (st = next_sae(a, capacity, &out)) == QSAE_OK) {
        *out = one;
        one.name = NULL;
        st = qsae_sae_open(a->ctx, out->name, NULL, &out->sae);
        if (st == QSAE_OK)
            st = place_sae(a, text, &told, out);
    }
    qsae__free(a->ctx, one.name);
    qsae__free(a->ctx, told.in);
    qsae__free(a->ctx, told.out);
    return st;
}

int32_t qsae__places_open(qsae_audit *a, const char *const *saes, int64_t n)
{
    int64_t capacity = 0;
    int32_t st = QSAE_OK;
    if (!(a->sets = qsae__calloc(a->ctx, n, sizeof *a->sets)))
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        st = open_given(a, saes[i], &capacity);
    return st;
}

void qsae__places_close(qsae_audit *a)
{
    for (int64_t i = 0; i < a->n_saes; i++) {
        if (!a->saes[i].of)
            qsae_sae_close(&a->saes[i].sae);
        qsae__free(a->ctx, a->saes[i].name);
        qsae__free(a->ctx, a->saes[i].decoder_norm);
    }
    for (int64_t i = 0; i < a->n_sets; i++) {
        qsae_sae_layers_close(&a->sets[i].layers);
        qsae__free(a->ctx, a->sets[i].name);
    }
    qsae__free(a->ctx, a->saes);
    qsae__free(a->ctx, a->sets);
}

void qsae__places_hash(const struct audit_sae *s, qsae__hasher *h)
{
    if (s->of && s->member == 0)
        qsae__hasher_string(h, s->of->info.hash);
    if (s->layer_in != s->layer || s->site_in != s->site) {
        qsae__hasher_string(h, "reads");
        qsae__hasher_i64(h, s->layer_in);
        qsae__hasher_i64(h, s->site_in);
    }
    if (s->info.head >= 0) {
        qsae__hasher_string(h, "head");
        qsae__hasher_i64(h, s->info.head);
    }
}

void qsae__places_json(const struct audit_sae *s, json_t *o)
{
    json_object_set_new(o, "input_layer", json_integer(s->layer_in));
    json_object_set_new(o, "input_site", json_string(qsae_site_name(s->site_in)));
    json_object_set_new(o, "head",
                        s->info.head >= 0 ? json_integer(s->info.head) : json_null());
}
