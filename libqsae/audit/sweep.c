/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A sweep: each condition becomes one per layer, per linear layer or per kind of linear layer, with
 * everything else as in the reference. They are conditions like others, written as strings; the
 * pass shares the layers below the first one they change.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "codecs/parser.h"

#define MODULES_MOST 64
#define CONDITIONS_MOST 4096

void qsae__place_free(qsae_audit *a, struct audit_place *place)
{
    if (place)
        qsae__free(a->ctx, place->origin);
    qsae__free(a->ctx, place);
}

void qsae__list_free(qsae_audit *a, struct audit_list *list)
{
    for (int64_t i = 0; i < list->n; i++) {
        qsae__free(a->ctx, list->items[i].condition);
        qsae__place_free(a, list->items[i].place);
    }
    qsae__free(a->ctx, list->items);
    memset(list, 0, sizeof *list);
}

int32_t qsae__list_add(qsae_audit *a, const char *condition, struct audit_list *list)
{
    if (list->n == CONDITIONS_MOST)
        return qsae__fail(QSAE_EINVAL, "audit: at most %d conditions, those of a sweep counted "
                          "one by one", CONDITIONS_MOST);
    int32_t st = qsae__grow(a->ctx, &list->items, &list->capacity, list->n + 1,
                            sizeof *list->items);
    if (st != QSAE_OK)
        return st;
    list->items[list->n].place = NULL;
    list->items[list->n].condition = qsae__strdup(a->ctx, condition);
    return list->items[list->n++].condition ? QSAE_OK : QSAE_ENOMEM;
}

/* What is swept: the condition, and the modules of the model. */
struct sweep {
    qsae_audit *a;
    const qsae__condition *c;
    struct audit_list *list;
    char modules[MODULES_MOST][64]; /* kinds of linear layers, in order */
    int64_t n_modules, layers;
};

static int32_t find_modules(struct sweep *s)
{
    const qsae_model *const m = s->a->participants[0].model;
    for (int64_t i = 0; i < qsae__model_linears(m); i++) {
        char path[256];
        int64_t k = 0;
        qsae__model_linear_name(m, i, path, sizeof path);
        const char *const dot = strrchr(path, '.'), *const name = dot ? dot + 1 : path;
        while (k < s->n_modules && strcmp(s->modules[k], name) != 0)
            k++;
        if (k < s->n_modules)
            continue;
        if (k == MODULES_MOST || strlen(name) >= sizeof s->modules[0])
            return qsae__fail(QSAE_EUNSUPPORTED, "sweep: %s: more than %d kinds of layers", path,
                              MODULES_MOST);
        memcpy(s->modules[s->n_modules++], name, strlen(name) + 1);
    }
    return QSAE_OK;
}

/* Where the selectors of the weights stand in the canonical form: no codec has these in its name or
 * options, and those of a control are within its parentheses. */
static const char *selectors_at(const qsae__condition *c)
{
    return c->canonical + strcspn(c->canonical, "@+)");
}

/* What follows them: the canonical form lists layers, only, skip and with in this order. */
static const char *selectors_end(const qsae__condition *c)
{
    const char *s = selectors_at(c);
    if (strncmp(s, "@layers=", 8) == 0)
        s += 8 + strspn(s + 8, "0123456789-");
    if (c->only)
        s += strlen("@only=") + strlen(qsae__names_text(c->only));
    if (c->skip)
        s += strlen("@skip=") + strlen(qsae__names_text(c->skip));
    if (c->with_embed || c->with_head)
        s += strlen("@with=") + strcspn(s + strlen("@with="), "@+)");
    return s;
}

/* @only= and @skip= of the part with this module ("": every one). */
static void add_names(const struct sweep *s, const char *module, qsae__strbuf *b)
{
    const qsae__condition *const c = s->c;
    const char *mark = "@skip=";
    if (c->only)
        qsae__strbuf_addf(b, "@only=%s", qsae__names_text(c->only));
    else if (*module)
        qsae__strbuf_addf(b, "@only=%s", module);
    if (c->skip) {
        qsae__strbuf_addf(b, "%s%s", mark, qsae__names_text(c->skip));
        mark = "|";
    }
    /* A list of its own stays; the other modules are skipped. */
    for (int64_t k = 0; k < s->n_modules && c->only && *module; k++)
        if (strcmp(s->modules[k], module) != 0) {
            qsae__strbuf_addf(b, "%s%s", mark, s->modules[k]);
            mark = "|";
        }
}

/* The condition on one part: a layer or -1, a module or "". */
static int32_t add_part(struct sweep *s, int64_t layer, const char *module)
{
    qsae_context *const ctx = s->a->ctx;
    const qsae__condition *const c = s->c;
    const bool vocabulary = !strcmp(module, "embed") || !strcmp(module, "head");
    struct audit_place *const place = qsae__calloc(ctx, 1, sizeof *place);
    qsae__strbuf b;
    qsae__strbuf_init(&b, ctx);
    qsae__strbuf_add(&b, c->canonical, (size_t)(selectors_at(c) - c->canonical));
    if (layer >= 0)
        qsae__strbuf_addf(&b, "@layers=%" PRId64 "-%" PRId64, layer, layer);
    else if (!vocabulary && (c->layer_first > 0 || c->layer_last < INT64_MAX))
        qsae__strbuf_addf(&b, "@layers=%" PRId64 "-%" PRId64, c->layer_first, c->layer_last);
    if (vocabulary) /* a name that no layer of a block has */
        qsae__strbuf_addf(&b, "@only=%s@with=%s", module, module);
    else
        add_names(s, module, &b);
    qsae__strbuf_addf(&b, "%s", selectors_end(c));
    int32_t st = place ? b.status : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__list_add(s->a, b.data, s->list);
    qsae__strbuf_free(&b);
    if (st != QSAE_OK) {
        qsae__free(ctx, place);
        return st;
    }
    s->list->items[s->list->n - 1].place = place;
    place->layer = layer;
    memcpy(place->module, module, strlen(module) + 1);
    place->origin = qsae__strdup(ctx, c->canonical);
    return place->origin ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t add_parts(struct sweep *s)
{
    const int32_t by = s->a->sweep;
    const int64_t last = qsae__min_i64(s->c->layer_last, s->layers - 1);
    int32_t st = QSAE_OK;
    if (s->c->with_embed)
        st = add_part(s, -1, "embed");
    for (int64_t n = s->c->layer_first; n <= last && st == QSAE_OK && by != QSAE_SWEEP_KINDS; n++) {
        if (by == QSAE_SWEEP_LAYERS)
            st = add_part(s, n, "");
        for (int64_t k = 0; k < s->n_modules && st == QSAE_OK && by == QSAE_SWEEP_MODULES; k++)
            st = add_part(s, n, s->modules[k]);
    }
    for (int64_t k = 0; k < s->n_modules && st == QSAE_OK && by == QSAE_SWEEP_KINDS; k++)
        st = add_part(s, -1, s->modules[k]);
    if (st == QSAE_OK && s->c->with_head)
        st = add_part(s, -1, "head");
    return st;
}

int32_t qsae__list_sweep(qsae_audit *a, const char *condition, struct audit_list *list)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae__condition c;
    int32_t st = qsae__condition_parse(a->ctx, condition, &c);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "condition %s", condition);
    struct sweep s = { .a = a, .c = &c, .list = list };
    if (c.prune_match > 0 || c.prune_target)
        st = qsae__fail(QSAE_EINVAL, "sweep: %s: the sparsity is searched for; give the one that "
                        "is to be swept", c.canonical);
    else if (c.n_parts)
        st = qsae__fail(QSAE_EINVAL, "sweep: %.200s: a mix has no single codec to sweep",
                        c.canonical);
    else if (!qsae__condition_encodes(&c) || c.control == QSAE__CONTROL_NULL)
        st = qsae__fail(QSAE_EINVAL, "sweep: %s changes no weights", c.canonical);
    if (st == QSAE_OK)
        st = qsae_model_get_info(a->participants[0].model, &info);
    s.layers = info.layers;
    if (st == QSAE_OK)
        st = find_modules(&s);
    const int64_t before = list->n;
    if (st == QSAE_OK)
        st = add_parts(&s);
    if (st == QSAE_OK && list->n == before)
        st = qsae__fail(QSAE_EINVAL, "sweep: %s selects no layer of this model", c.canonical);
    qsae__condition_free(a->ctx, &c);
    return st;
}

/* ---- the result ---- */

/* A figure of a condition, its index among them, for sorting: the worst first. */
struct cost {
    double worth;
    int64_t index;
};

static int by_worth(const void *a, const void *b)
{
    const struct cost *const x = a, *const y = b;
    const bool nx = isnan(x->worth), ny = isnan(y->worth);
    if (nx != ny)
        return nx - ny;
    if (!nx && x->worth != y->worth)
        return x->worth < y->worth ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

/* How much a condition costs by a figure; SAE -1: of the predictions. */
static double cost_of(const struct participant *p, int64_t sae, const char *figure)
{
    if (sae < 0)
        return qsae__value(p->divergence, figure);
    const struct audit_features *const f = &p->saes[sae];
    if (strcmp(figure, "survived_percent") == 0)
        return -qsae__value(f->survival, figure);
    return qsae__value(strcmp(figure, "ratio") == 0 ? f->drift : f->reconstruction, figure);
}

/* Indices of the swept conditions, the costliest first; those not defined come last. */
static json_t *ranking(const qsae_audit *a, int64_t sae, const char *figure)
{
    struct cost *const list = qsae__calloc(a->ctx, a->n_participants, sizeof *list);
    json_t *out = json_array();
    int64_t n = 0;
    for (int64_t i = 1; list && i < a->n_participants; i++)
        if (a->participants[i].place)
            list[n++] = (struct cost){ cost_of(&a->participants[i], sae, figure), i - 1 };
    if (list)
        qsort(list, (size_t)n, sizeof *list, by_worth);
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(out, json_integer(list[i].index));
    qsae__free(a->ctx, list);
    return out;
}

static json_t *rankings(const qsae_audit *a)
{
    json_t *o = json_object(), *saes = json_array();
    for (const char *const *k = (const char *const[]){ "dce", "kl_mean", NULL }; *k; k++)
        json_object_set_new(o, *k, ranking(a, -1, *k));
    json_object_set_new(o, "saes", saes);
    for (int64_t i = 0; i < a->n_saes; i++) {
        json_t *s = qsae__sae_head(&a->saes[i]);
        json_array_append_new(saes, s);
        for (const char *const *k = (const char *const[]){ "fvu_dim", "ratio", "survived_percent",
                                                           NULL }; *k; k++)
            json_object_set_new(s, *k, ranking(a, i, *k));
    }
    return o;
}

json_t *qsae__sweep_json(qsae_audit *a)
{
    static const char *const names[] = { NULL, "layers", "modules", "kinds" };
    if (!a->sweep)
        return json_null();
    json_t *o = json_object(), *parts = json_array();
    json_object_set_new(o, "by", json_string(names[a->sweep]));
    json_object_set_new(o, "parts", parts);
    for (int64_t i = 1; i < a->n_participants; i++) {
        const struct audit_place *const place = a->participants[i].place;
        if (!place)
            continue;
        json_t *part = json_object();
        json_object_set_new(part, "condition", json_integer(i - 1));
        json_object_set_new(part, "of", json_string(place->origin));
        json_object_set_new(part, "layer",
                            place->layer >= 0 ? json_integer(place->layer) : json_null());
        json_object_set_new(part, "module",
                            *place->module ? json_string(place->module) : json_null());
        json_array_append_new(parts, part);
    }
    json_object_set_new(o, "ranking", rankings(a));
    return o;
}
