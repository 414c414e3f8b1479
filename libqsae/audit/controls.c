/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Noise controls beside the conditions (methods.md 7): how much of a change is nothing? A figure is
 * beyond the numeric floor where it is larger than the floor's interval, or the floor itself where
 * that has none.
 */
#include <math.h>
#include <string.h>

#include "audit/audit.h"

static int32_t add_once(qsae_audit *a, const char *condition, struct audit_list *list)
{
    for (int64_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i].condition, condition) == 0)
            return QSAE_OK;
    return qsae__list_add(a, condition, list);
}

/* The controls of what one condition does to weights; none of a path, of a control, of a condition
 * that leaves them alone or whose sparsity is to be found. */
static int32_t add_matched(qsae_audit *a, const char *condition, struct audit_list *list)
{
    static const enum qsae__control kinds[] = { QSAE__CONTROL_GAUSS, QSAE__CONTROL_PERMUTE };
    qsae__condition c;
    bool path = false;
    int32_t st = qsae__path_look(condition, &path);
    if (st != QSAE_OK || path)
        return st;
    st = qsae__condition_parse(a->ctx, condition, &c);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "condition %s", condition);
    const bool has = c.control == QSAE__CONTROL_NONE && qsae__condition_encodes(&c) &&
                     !c.n_parts && !c.prune_target && !(c.prune_match > 0);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0] && st == QSAE_OK && has; k++) {
        char *control = NULL;
        st = qsae__condition_with_control(a->ctx, &c, kinds[k], &control);
        if (st == QSAE_OK)
            st = add_once(a, control, list);
        qsae__free(a->ctx, control);
    }
    qsae__condition_free(a->ctx, &c);
    return st;
}

int32_t qsae__controls_add(qsae_audit *a, struct audit_list *list)
{
    static const char *const own[] = { "control:null", "control:floor", "control:shuffle" };
    const int64_t n = list->n;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        st = add_matched(a, list->items[i].condition, list);
    for (size_t i = 0; i < sizeof own / sizeof own[0] && st == QSAE_OK; i++)
        st = add_once(a, own[i], list);
    return st;
}

/* ---- the result ---- */

/* A figure's number in an entry, NaN if it has none. */
static double number_at(const json_t *o, const char *key)
{
    const json_t *const v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The largest size that a figure of the floor may have by its interval, or its own. about: what it
 * is measured from. */
static double reach(const json_t *o, const char *key, double about)
{
    const json_t *const interval = json_object_get(json_object_get(o, "intervals"), key);
    const json_t *const low = json_array_get(interval, 0),
                 *const high = json_array_get(interval, 1);
    if (!json_is_number(low) || !json_is_number(high))
        return fabs(number_at(o, key) - about);
    return fmax(fabs(json_number_value(low) - about), fabs(json_number_value(high) - about));
}

static json_t *beyond(const json_t *o, const json_t *floor, const char *key, double about)
{
    const double size = fabs(number_at(o, key) - about), most = reach(floor, key, about);
    return isfinite(size) && isfinite(most) ? json_boolean(size > most) : json_null();
}

static const json_t *sae_at(const json_t *entry, size_t i)
{
    return json_array_get(json_object_get(entry, "saes"), i);
}

static void copy(json_t *to, const char *key, const json_t *from)
{
    json_t *const v = json_object_get(from, key);
    json_object_set_new(to, key, v ? json_incref(v) : json_null());
}

/* The figures of a control side by side with a condition's. */
static json_t *figures(qsae_audit *a, const json_t *entry)
{
    json_t *const o = json_object(), *const list = json_array();
    copy(o, "label", entry);
    copy(o, "dce", entry);
    copy(o, "kl_mean", entry);
    json_object_set_new(o, "saes", list);
    for (int64_t i = 0; i < a->n_saes; i++) {
        const json_t *const sae = sae_at(entry, (size_t)i),
                     *const survival = json_object_get(sae, "survival");
        json_t *const s = qsae__sae_head(&a->saes[i]);
        copy(s, "dfvu_dim", sae);
        copy(s, "survived_percent", survival);
        copy(s, "median_r", survival);
        json_array_append_new(list, s);
    }
    return o;
}

static json_t *beyond_floor(qsae_audit *a, const json_t *entry, const json_t *floor)
{
    json_t *const o = json_object(), *const list = json_array();
    json_object_set_new(o, "dce", beyond(entry, floor, "dce", 0));
    json_object_set_new(o, "kl_mean", beyond(entry, floor, "kl_mean", 0));
    json_object_set_new(o, "saes", list);
    for (int64_t i = 0; i < a->n_saes; i++) {
        const json_t *const x = sae_at(entry, (size_t)i), *const y = sae_at(floor, (size_t)i);
        json_t *const s = qsae__sae_head(&a->saes[i]);
        json_object_set_new(s, "dfvu_dim", beyond(x, y, "dfvu_dim", 0));
        json_object_set_new(s, "survived_percent",
                            beyond(json_object_get(x, "survival"), json_object_get(y, "survival"),
                                   "survived_percent", 100));
        json_array_append_new(list, s);
    }
    return o;
}

/* The entry of the first participant that is this control; of one that goes with a condition: of
 * this canonical form. */
static const json_t *find(const qsae_audit *a, const json_t *list, enum qsae__control kind,
                          const char *canonical)
{
    for (int64_t i = 1; i < a->n_participants; i++) {
        const struct participant *const p = &a->participants[i];
        if (p->control == kind && (!canonical || strcmp(p->cost.condition, canonical) == 0))
            return json_array_get(list, (size_t)i - 1);
    }
    return NULL;
}

/* gauss or permute of a participant's condition, if it is in the run. */
static int32_t find_matched(qsae_audit *a, const json_t *list, const struct participant *p,
                            enum qsae__control kind, const json_t **out)
{
    qsae__condition c;
    char *canonical = NULL;
    *out = NULL;
    if (p->checkpoint || !p->cost.condition)
        return QSAE_OK;
    int32_t st = qsae__condition_parse(a->ctx, p->cost.condition, &c);
    if (st != QSAE_OK)
        return st;
    if (qsae__condition_encodes(&c) && !c.n_parts)
        st = qsae__condition_with_control(a->ctx, &c, kind, &canonical);
    if (st == QSAE_OK && canonical)
        *out = find(a, list, kind, canonical);
    qsae__free(a->ctx, canonical);
    qsae__condition_free(a->ctx, &c);
    return st;
}

static json_t *figures_or_null(qsae_audit *a, const json_t *entry)
{
    return entry ? figures(a, entry) : json_null();
}

int32_t qsae__controls_json(qsae_audit *a, json_t *list)
{
    const json_t *const null = find(a, list, QSAE__CONTROL_NULL, NULL),
                 *const floor = find(a, list, QSAE__CONTROL_FLOOR, NULL),
                 *const shuffle = find(a, list, QSAE__CONTROL_SHUFFLE, NULL);
    int32_t st = QSAE_OK;
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *const p = &a->participants[i];
        json_t *const entry = json_array_get(list, (size_t)i - 1), *controls = json_null();
        const json_t *gauss = NULL, *permute = NULL;
        if (p->control == QSAE__CONTROL_NONE) {
            st = find_matched(a, list, p, QSAE__CONTROL_GAUSS, &gauss);
            if (st == QSAE_OK)
                st = find_matched(a, list, p, QSAE__CONTROL_PERMUTE, &permute);
        }
        const bool any = null || floor || shuffle || gauss || permute;
        if (st == QSAE_OK && p->control == QSAE__CONTROL_NONE && any) {
            controls = json_object();
            json_object_set_new(controls, "null", figures_or_null(a, null));
            json_object_set_new(controls, "floor", figures_or_null(a, floor));
            json_object_set_new(controls, "gauss", figures_or_null(a, gauss));
            json_object_set_new(controls, "permute", figures_or_null(a, permute));
            json_object_set_new(controls, "shuffle", figures_or_null(a, shuffle));
            json_object_set_new(controls, "beyond_floor",
                                floor ? beyond_floor(a, entry, floor) : json_null());
        }
        json_object_set_new(entry, "controls", controls);
    }
    return st;
}
