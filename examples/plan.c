/* SPDX-License-Identifier: BSD-2-Clause */
#include "plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "program.h"
#include "table.h"

enum { LINES = 40 };

static char *joined(const char *a, const char *b)
{
    char *const text = needed(malloc(strlen(a) + strlen(b) + 1));
    sprintf(text, "%s%s", a, b);
    return text;
}

void plan_sweep(struct plan *p, const qsae_audit_settings *s, qsae_audit_settings *sweep)
{
    *sweep = *s;
    sweep->sweep = s->sweep ? s->sweep : QSAE_SWEEP_LAYERS;
    sweep->splice = 0;
    sweep->controls = 0;
    sweep->top_contexts = 0;
    sweep->n_slices = 0;
    if (s->state)
        sweep->state = p->state = joined(s->state, ".sweep");
}

int32_t plan_choose(qsae_audit *sweep, struct plan *p)
{
    const char *json;
    const int32_t st = qsae_audit_plan(sweep, p->bits, p->by_dce, &json);
    if (st == QSAE_OK)
        p->json = joined(json, "");
    return st;
}

int32_t plan_adopt(struct plan *p, qsae_audit_settings *s)
{
    json_error_t error;
    json_t *const plan = json_read(p->json, strlen(p->json), &error);
    const char *const condition = json_string_value(json_object_get(plan, "condition"));
    p->condition = condition ? joined(condition, "") : NULL;
    p->conditions = needed(calloc((size_t)s->n_conditions + 1, sizeof *p->conditions));
    json_decref(plan);
    if (!p->condition)
        return QSAE_ESTATE;
    for (int64_t i = 0; i < s->n_conditions; i++)
        p->conditions[i] = s->conditions[i];
    p->conditions[s->n_conditions++] = p->condition;
    s->conditions = p->conditions;
    s->sweep = QSAE_SWEEP_NONE;
    s->plan = p->json;
    return QSAE_OK;
}

int32_t plan_make(qsae_context *context, struct plan *p, qsae_audit_settings *s)
{
    qsae_audit_settings sweep;
    qsae_audit *audit = NULL;
    plan_sweep(p, s, &sweep);
    int32_t st = qsae_audit_open(context, &sweep, &audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(audit);
    if (st == QSAE_OK)
        st = plan_choose(audit, p);
    qsae_audit_close(&audit);
    return st == QSAE_OK ? plan_adopt(p, s) : st;
}

void plan_free(struct plan *p)
{
    free(p->json);
    free(p->condition);
    free(p->state);
    free(p->conditions);
}

/* ---- the tables ---- */

/* Figures of the first SAE, where there is one. */
static void features(struct grid *g, const json_t *o)
{
    const json_t *const sae = json_array_get(json_object_get(o, "saes"), 0);
    if (sae) {
        grid_number(g, "%+.5f", number(sae, "dfvu_dim"));
        grid_number(g, "%.1f%%", number(sae, "survived_percent"));
    } else {
        grid_put(g, "%s", "");
        grid_put(g, "%s", "");
    }
}

static void part_name(char *name, size_t size, const json_t *part)
{
    const json_t *const layer = json_object_get(part, "layer");
    if (json_is_integer(layer))
        snprintf(name, size, "%lld %.20s", (long long)json_integer_value(layer),
                 string_at(part, "module"));
    else
        snprintf(name, size, "%.20s", string_at(part, "module"));
}

/* What was tried on a part, if its line is among the first. */
static void option(struct grid *g, const char *name, const char *chosen, const json_t *o)
{
    grid_row(g);
    grid_put(g, "%s", strcmp(chosen, string_at(o, "condition")) == 0 ? "*" : " ");
    grid_put(g, "%s", name);
    grid_number(g, "%.3f", number(o, "bits"));
    grid_number(g, "%.3e", number(o, "kl_mean"));
    grid_number(g, "%+.5f", number(o, "dce"));
    features(g, o);
    grid_put(g, "%s", string_at(o, "condition"));
}

/* A part that keeps its weights. */
static void as_it_is(struct grid *g, const char *name, const json_t *part)
{
    grid_row(g);
    grid_put(g, "*");
    grid_put(g, "%s", name);
    grid_number(g, "%.3f", number(part, "bits"));
    for (int i = 0; i < 4; i++)
        grid_put(g, "%s", "");
    grid_put(g, "as it is");
}

/* A line per part and condition that was tried on it; * marks the plan's. */
static void options(const struct page *p, const json_t *plan)
{
    static const char *const heads[] = { "bits", "KL", "dCE", "dFVU", "survived" };
    size_t i, k, lines = 0;
    const json_t *part, *o;
    struct grid *g = grid_open(2);
    grid_column(g, COLUMN_TEXT, "");
    grid_column(g, COLUMN_TEXT, "part, the costliest first");
    for (i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    grid_column(g, COLUMN_WRAPPED, "condition");
    json_array_foreach(json_object_get(plan, "parts"), i, part) {
        const char *const chosen = string_at(part, "chosen");
        char name[64];
        part_name(name, sizeof name, part);
        if (lines++ < LINES && !*chosen)
            as_it_is(g, name, part);
        json_array_foreach(json_object_get(part, "options"), k, o)
            if (lines++ < LINES)
                option(g, name, chosen, o);
    }
    grid_print(p, 0, &g);
    if (lines > LINES)
        fprintf(p->out, "  and %zu more in the result document\n", lines - LINES);
}

static void outcome(struct grid *g, const char *name, const json_t *o)
{
    double interval[2];
    if (!json_is_object(o))
        return;
    grid_row(g);
    grid_number(g, "%.3f", number(o, "bits"));
    grid_number(g, "%.5f", number(o, "ce"));
    grid_interval(g, 5, number(o, "dce"),
                  interval_of(json_object_get(o, "dce_interval"), interval));
    grid_number(g, "%.3e", number(o, "kl_mean"));
    features(g, o);
    grid_put(g, "%s", name);
}

void plan_print(const struct page *p, const json_t *result)
{
    static const char *const heads[] = { "bits", "CE", "dCE [95% interval]", "KL", "dFVU",
                                         "survived" };
    size_t i;
    const json_t *o, *plan = json_object_get(result, "plan");
    if (!json_is_object(plan))
        return;
    fputc('\n', p->out);
    say(p, 2, "plan for %g bits per weight, by %s, least sum of %s (predicted %.3e):",
        number(plan, "budget_bits"), string_at(plan, "by"), string_at(plan, "figure"),
        number(plan, "predicted"));
    options(p, plan);
    struct grid *g = grid_open(0);
    for (i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    grid_column(g, COLUMN_WRAPPED, "");
    outcome(g, "the plan", json_object_get(plan, "measured"));
    json_array_foreach(json_object_get(plan, "uniform"), i, o)
        outcome(g, string_at(o, "label"), o);
    fprintf(p->out, "measured:\n");
    grid_print(p, 2, &g);
    say(p, 4, "  condition: %s", string_at(plan, "condition"));
}
